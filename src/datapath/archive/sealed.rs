//! `SHA256SUMS.sealed`: the sums, encrypted by the seal. A small protobuf message: 1 ciphertext, 2 nonce, 5 key info
//! (in it 3: the key's id, in the clear). Seen so on real snapshots of 2.6.1 and 2.7.2 with static and shamir seals.

use super::error::ArchiveError;

/// Some two hundred bytes with a local key; key services wrap a data key into it. More is no such thing.
pub(super) const MAX_SEALED: u64 = 64 * 1024;

/// The message taken apart; nothing in it is secret.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SealedSums {
    pub ciphertext: Vec<u8>,
    pub nonce: Vec<u8>,
    /// Absent for shamir, whose key has no name.
    pub key_id: Option<String>,
}

impl SealedSums {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ArchiveError> {
        if bytes.is_empty() {
            return Err(ArchiveError::Sealed("it is empty"));
        }
        let mut sums = Self::default();
        fields(bytes, |number, field| match (number, field) {
            (1, Field::Bytes(value)) => sums.ciphertext = value.to_vec(),
            (2, Field::Bytes(value)) => sums.nonce = value.to_vec(),
            (5, Field::Bytes(info)) => sums.key_id = key_id(info),
            _ => {}
        })
        .ok_or(ArchiveError::Sealed("it is not a well-formed message"))?;
        if sums.ciphertext.is_empty() {
            return Err(ArchiveError::Sealed("it holds no ciphertext"));
        }
        Ok(sums)
    }
}

fn key_id(info: &[u8]) -> Option<String> {
    let mut id = None;
    fields(info, |number, field| {
        if let (3, Field::Bytes(value)) = (number, field) {
            id = std::str::from_utf8(value).ok().map(str::to_owned);
        }
    })?;
    id.filter(|id| !id.is_empty())
}

enum Field<'a> {
    Bytes(&'a [u8]),
    Number,
}

/// Walks the fields of a protobuf message; `None` when it is malformed.
fn fields<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u64, Field<'a>)) -> Option<()> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = tag >> 3;
        if number == 0 {
            return None;
        }
        let field = match tag & 7 {
            0 => {
                varint(&mut bytes)?;
                Field::Number
            }
            1 => {
                take(&mut bytes, 8)?;
                Field::Number
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Field::Bytes(take(&mut bytes, length)?)
            }
            5 => {
                take(&mut bytes, 4)?;
                Field::Number
            }
            _ => return None,
        };
        each(number, field);
    }
    Some(())
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(front)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn key_id_nonce_and_ciphertext_are_found() {
        let bytes = [&[0x0a, 3, 1, 2, 3][..], &[0x12, 2, 9, 9], &[0x2a, 4, 0x1a, 2, b'k', b'1']].concat();
        let sums = SealedSums::parse(&bytes).unwrap();
        assert_eq!(sums, SealedSums { ciphertext: vec![1, 2, 3], nonce: vec![9, 9], key_id: Some("k1".into()) });
    }

    #[test]
    fn a_shamir_seal_names_no_key() {
        assert_eq!(SealedSums::parse(&[0x0a, 1, 7, 0x2a, 0]).unwrap().key_id, None);
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        for bad in [&b""[..], &[0x0a], &[0x0a, 5, 1], &[0x12, 1, 1], &[0x07], &[0xff; 12]] {
            assert!(SealedSums::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SealedSums::parse(&bytes);
        }
    }
}
