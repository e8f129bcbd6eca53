//! Proof of the seal: with a static key the sealed sums of an archive can be opened and compared, offline. For the
//! operator, which may read the key; the mover never sees it. Pure functions on bytes.

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hmac::{Hmac, KeyInit as _, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;

use super::archive::meta::to_hex;
use super::archive::sealed::SealedSums;

/// Length of a static seal key.
pub const KEY_LENGTH: usize = 32;
const NONCE_LENGTH: usize = 12;
/// What is hashed under a key to name it. Changing it changes every fingerprint that stands in a manifest.
const FINGERPRINT_OF: &[u8] = b"openbao-operator/static-seal-key/v1";
/// Sixteen bytes tell any two keys apart.
const FINGERPRINT_BYTES: usize = 16;

/// Why a static key does not prove an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("a static seal key has {KEY_LENGTH} bytes, this one has {0}")]
    KeyLength(usize),
    #[error("the sealed sums are not readable")]
    Malformed,
    #[error(
        "the snapshot was sealed with the key \"{found}\", this cluster's key is \"{expected}\": the server would refuse it"
    )]
    OtherKeyId { expected: String, found: String },
    #[error("the sealed sums do not open with this cluster's key: it is another key, or the snapshot is forged")]
    DoesNotOpen,
    #[error("the sealed sums open, but to other sums than the archive's: the snapshot is forged")]
    OtherSums,
}

impl SealError {
    /// A constant for conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::KeyLength(_) => "SealKeyLength",
            Self::Malformed => "SealedSumsMalformed",
            Self::OtherKeyId { .. } => "SealOtherKeyID",
            Self::DoesNotOpen => "SealDoesNotOpen",
            Self::OtherSums => "SealOtherSums",
        }
    }
}

/// Opens `sealed_sums` (the archive's `SHA256SUMS.sealed`) with a static key and compares the result with `sums` (its
/// `SHA256SUMS`). The key's id counts as well: the same bytes under another id are refused by the server.
///
/// # Errors
/// What does not fit. `Ok` means: the holder of this key wrote these sums.
pub fn prove(key: &SecretSlice<u8>, key_id: &str, sealed_sums: &[u8], sums: &[u8]) -> Result<(), SealError> {
    let key = key.expose_secret();
    if key.len() != KEY_LENGTH {
        return Err(SealError::KeyLength(key.len()));
    }
    let sealed = SealedSums::parse(sealed_sums).map_err(|_| SealError::Malformed)?;
    let found = sealed.key_id.unwrap_or_default();
    if found != key_id {
        return Err(SealError::OtherKeyId { expected: key_id.to_owned(), found });
    }
    if sealed.nonce.len() != NONCE_LENGTH {
        return Err(SealError::Malformed);
    }
    let cipher = Aes256Gcm::new_from_slice(key).map_err(|_| SealError::KeyLength(key.len()))?;
    let opened = cipher
        .decrypt(Nonce::from_slice(&sealed.nonce), sealed.ciphertext.as_slice())
        .map_err(|_| SealError::DoesNotOpen)?;
    if same_lines(&opened, sums) { Ok(()) } else { Err(SealError::OtherSums) }
}

/// The server writes the sums twice, each time out of a map: the same lines in any order.
fn same_lines(a: &[u8], b: &[u8]) -> bool {
    fn lines(text: &[u8]) -> Vec<&[u8]> {
        let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        lines.sort_unstable();
        lines
    }
    lines(a) == lines(b)
}

/// A name for a static key that reveals nothing of it: tells two keys of the same id apart. Stands in manifests.
pub fn fingerprint(key: &SecretSlice<u8>) -> Result<String, SealError> {
    let key = key.expose_secret();
    if key.len() != KEY_LENGTH {
        return Err(SealError::KeyLength(key.len()));
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| SealError::KeyLength(key.len()))?;
    mac.update(FINGERPRINT_OF);
    Ok(to_hex(&mac.finalize().into_bytes()[..FINGERPRINT_BYTES]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::archive::{Limits, Verified, read};

    const SNAPSHOT: &[u8] = include_bytes!("../../tests/datapath/data/static-2.7.2.snap");
    const SHAMIR: &[u8] = include_bytes!("../../tests/datapath/data/shamir-2.7.2.snap");
    const KEY: &[u8] = include_bytes!("../../tests/datapath/data/static-2.7.2.key");

    fn key(bytes: &[u8]) -> SecretSlice<u8> {
        SecretSlice::from(bytes.to_vec())
    }

    fn archive(bytes: &[u8]) -> Verified {
        read(bytes, Limits::default()).unwrap()
    }

    #[test]
    fn the_cluster_s_own_key_opens_a_snapshot_of_a_real_server() {
        let archive = archive(SNAPSHOT);
        assert_eq!(prove(&key(KEY), "k1", &archive.sealed_sums, &archive.sums), Ok(()));
    }

    #[test]
    fn the_sums_may_stand_in_another_order_than_the_sealed_ones_and_in_no_other_words() {
        let Verified { sums, sealed_sums, .. } = archive(SNAPSHOT);
        let text = String::from_utf8(sums).unwrap();
        let reversed: String = text.lines().rev().map(|line| format!("{line}\n")).collect();
        assert_ne!(reversed, text);
        assert_eq!(prove(&key(KEY), "k1", &sealed_sums, reversed.as_bytes()), Ok(()));
        let one = text.lines().next().unwrap().as_bytes();
        assert_eq!(prove(&key(KEY), "k1", &sealed_sums, one), Err(SealError::OtherSums));
        let thrice = format!("{text}{}\n", text.lines().next().unwrap());
        assert_eq!(prove(&key(KEY), "k1", &sealed_sums, thrice.as_bytes()), Err(SealError::OtherSums));
    }

    #[test]
    fn another_key_another_id_or_other_sums_do_not() {
        let Verified { sums, sealed_sums, .. } = archive(SNAPSHOT);
        assert_eq!(prove(&key(&[7; 32]), "k1", &sealed_sums, &sums), Err(SealError::DoesNotOpen));
        assert_eq!(prove(&key(&KEY[1..]), "k1", &sealed_sums, &sums), Err(SealError::KeyLength(31)));
        assert!(matches!(prove(&key(KEY), "k2", &sealed_sums, &sums), Err(SealError::OtherKeyId { .. })));
        let mut forged = sums.clone();
        forged[0] ^= 1;
        assert_eq!(prove(&key(KEY), "k1", &sealed_sums, &forged), Err(SealError::OtherSums));
        assert_eq!(prove(&key(KEY), "k1", b"", &sums), Err(SealError::Malformed));
    }

    #[test]
    fn no_flipped_bit_in_the_sealed_sums_is_accepted() {
        let Verified { sums, sealed_sums, .. } = archive(SNAPSHOT);
        for bit in 0..sealed_sums.len() * 8 {
            let mut flipped = sealed_sums.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(prove(&key(KEY), "k1", &flipped, &sums).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_shamir_snapshot_is_not_of_any_static_key() {
        let Verified { sums, sealed_sums, .. } = archive(SHAMIR);
        assert!(matches!(prove(&key(KEY), "k1", &sealed_sums, &sums), Err(SealError::OtherKeyId { .. })));
    }

    #[test]
    fn a_fingerprint_tells_keys_apart_and_is_not_the_key() {
        let (one, other) = (fingerprint(&key(KEY)).unwrap(), fingerprint(&key(&[7; 32])).unwrap());
        assert_ne!(one, other);
        assert_eq!((one.len(), &one), (32, &fingerprint(&key(KEY)).unwrap()));
        assert!(!to_hex(KEY).contains(&one));
        assert!(fingerprint(&key(&[])).is_err());
    }
}
