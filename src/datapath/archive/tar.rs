//! The tar layer, strict: 512-byte headers with a right checksum, plain files only, zero padding, two zero blocks at the
//! end. The `tar` crate follows what archives in the wild do; a snapshot is read the way its writer writes, and every
//! leniency is a way to show the verifier other bytes than the server will restore.

use super::error::ArchiveError;

pub(super) const BLOCK: usize = 512;

/// What one header block announces.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// A plain file.
    File { name: Vec<u8>, size: u64 },
    /// Any other type of entry (link, folder, pipe …).
    Other { name: Vec<u8> },
    /// Records that hold for the next entry: the writer needs them for states above 8 GiB.
    Extended { size: u64 },
    /// A block of zeros: the end, when two follow each other.
    Zeros,
}

pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Header, ArchiveError> {
    if block.iter().all(|&byte| byte == 0) {
        return Ok(Header::Zeros);
    }
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, &byte)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(byte) })
        .sum();
    if octal(&block[148..156]) != Some(sum) {
        return Err(ArchiveError::Tar("a header's checksum is wrong"));
    }
    if &block[257..262] != b"ustar" {
        return Err(ArchiveError::Tar("a header is not in the ustar format"));
    }
    let size = octal(&block[124..136]).ok_or(ArchiveError::Tar("an entry's size is not a number"))?;
    let name = text(&block[..100]);
    let (prefix, link) = (text(&block[345..500]), text(&block[157..257]));
    match block[156] {
        b'x' => Ok(Header::Extended { size }),
        b'0' | 0 if prefix.is_empty() && link.is_empty() => Ok(Header::File { name: name.to_vec(), size }),
        _ => Ok(Header::Other { name: name.to_vec() }),
    }
}

/// The size in a PAX record block, which is all that one may say.
pub(super) fn extended_size(mut records: &[u8]) -> Result<Option<u64>, ArchiveError> {
    let bad = || ArchiveError::Tar("an extended header is malformed");
    let mut size = None;
    while !records.is_empty() {
        let Some(space) = records.iter().position(|&byte| byte == b' ') else { return Err(bad()) };
        let Some(length) = decimal(&records[..space]).and_then(|n| usize::try_from(n).ok()) else { return Err(bad()) };
        if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &records[space + 1..length - 1];
        let Some(equals) = record.iter().position(|&byte| byte == b'=') else { return Err(bad()) };
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"size" if size.is_none() => size = Some(decimal(value).ok_or_else(bad)?),
            b"mtime" | b"atime" | b"ctime" => {}
            _ => return Err(ArchiveError::Tar("an extended header changes more than the size")),
        }
        records = &records[length..];
    }
    Ok(size)
}

/// Bytes of padding after an entry of this size.
pub(super) fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over == 0 { 0 } else { BLOCK - over }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

fn octal(field: &[u8]) -> Option<u64> {
    let field = field.trim_ascii_start();
    let end = field.iter().position(|&byte| byte == 0 || byte == b' ').unwrap_or(field.len());
    let (digits, rest) = field.split_at(end);
    let clean = rest.iter().all(|&byte| byte == 0 || byte == b' ');
    (clean && !digits.is_empty()).then_some(())?;
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(u64::from(digit))
    })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: ::tar::EntryType, name: &str, size: u64) -> [u8; BLOCK] {
        let mut header = ::tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_cksum();
        *header.as_bytes()
    }

    #[test]
    fn a_plain_file_has_a_name_and_a_size() {
        let header = parse(&block(::tar::EntryType::Regular, "meta.json", 187)).unwrap();
        assert_eq!(header, Header::File { name: b"meta.json".to_vec(), size: 187 });
    }

    #[test]
    fn links_and_folders_are_not_files() {
        for kind in
            [::tar::EntryType::Symlink, ::tar::EntryType::Link, ::tar::EntryType::Directory, ::tar::EntryType::Fifo]
        {
            assert_eq!(parse(&block(kind, "state.bin", 0)).unwrap(), Header::Other { name: b"state.bin".to_vec() });
        }
    }

    #[test]
    fn no_flipped_bit_in_a_header_goes_unnoticed() {
        let good = block(::tar::EntryType::Regular, "meta.json", 187);
        for at in 0..BLOCK * 8 {
            let mut bad = good;
            bad[at / 8] ^= 1 << (at % 8);
            match parse(&bad) {
                Err(_) => {}
                // Within the checksum field itself a space may become a zero byte: the same number.
                Ok(header) => assert_eq!(header, parse(&good).unwrap(), "bit {at}"),
            }
        }
    }

    #[test]
    fn an_extended_header_may_give_the_size_and_nothing_else() {
        assert_eq!(extended_size(b"20 size=12345678901\n").unwrap(), Some(12_345_678_901));
        assert_eq!(extended_size(b"").unwrap(), None);
        for bad in [
            &b"14 path=../x\n\n"[..],
            b"99 size=1\n",
            b"0 size=1\n",
            b"size=1\n",
            b"10 size=1\n10 size=2\n",
            b"11 size=-1\n",
        ] {
            assert!(extended_size(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
