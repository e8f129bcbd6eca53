//! The reader of snapshot archives: bytes that anyone may have put under a key.
//!
//! The first byte of an input says how the rest is meant: as a file, as a tar stream to be packed, or as changes to a
//! snapshot of a real server whose checksums are made to fit again, which is what a forger can do without a key.
//!
//! Checked: no panic; what is accepted is accepted whatever the pieces in which it arrives, tells its true size, and is
//! refused with a byte more or a byte less.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use openbao_operator::datapath::archive::{self, Limits};
use sha2::{Digest, Sha256};

const REAL: &[u8] = include_bytes!("../../tests/datapath/data/static-2.7.2.snap");
const BLOCK: usize = 512;
/// Small, so that a bomb costs the fuzzer nothing.
const LIMITS: Limits = Limits { expanded: 8 << 20 };

/// Gives away so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.len().min(buffer.len()).min(self.1);
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

fn pack(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

fn unpack(bytes: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut tar).unwrap();
    tar
}

/// Where an entry's content lies in the tar stream of [`REAL`].
fn entry(tar: &[u8], name: &str) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    while at + BLOCK <= tar.len() {
        let header = &tar[at..at + BLOCK];
        let size = std::str::from_utf8(&header[124..135]).ok()?.trim_end_matches('\0').trim();
        let size = usize::from_str_radix(size, 8).ok()?;
        let content = at + BLOCK..at + BLOCK + size;
        if header.starts_with(name.as_bytes()) && header[name.len()] == 0 {
            return Some(content);
        }
        at = content.start + size.div_ceil(BLOCK) * BLOCK;
    }
    None
}

/// Each five bytes: a place in the state or in its description, and what stands there instead.
fn forge(changes: &[u8]) -> Option<Vec<u8>> {
    let mut tar = unpack(REAL);
    let (meta, state) = (entry(&tar, "meta.json")?, entry(&tar, "state.bin")?);
    for change in changes.chunks_exact(5) {
        let place = u32::from_le_bytes(change[..4].try_into().ok()?) as usize % (meta.len() + state.len());
        let at = if place < meta.len() { meta.start + place } else { state.start + place - meta.len() };
        tar[at] = change[4];
    }
    let hex = |range: std::ops::Range<usize>, tar: &[u8]| -> String {
        Sha256::digest(&tar[range]).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let sums = entry(&tar, "SHA256SUMS")?;
    for (name, range) in [("meta.json", meta), ("state.bin", state)] {
        let digest = hex(range, &tar);
        let text = std::str::from_utf8(&tar[sums.clone()]).ok()?;
        let line = text.lines().find(|line| line.ends_with(name))?;
        let at = sums.start + (line.as_ptr() as usize - text.as_ptr() as usize);
        tar[at..at + 64].copy_from_slice(digest.as_bytes());
    }
    Some(pack(&tar))
}

pub fn check(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else { return };
    let bytes = match mode % 3 {
        0 => rest.to_vec(),
        1 => pack(rest),
        _ => forge(rest).expect("the real snapshot has its four entries"),
    };
    let whole = archive::read(bytes.as_slice(), LIMITS);
    let pieces = archive::read(Pieces(&bytes, 1 + usize::from(*mode)), LIMITS);
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        (Err(_), Err(_)) => return,
        _ => panic!("whole: {whole:?}, in pieces: {pieces:?}"),
    }
    let Ok(found) = whole else { return };
    assert_eq!(found.inspection.size_bytes, bytes.len() as u64);
    assert!(found.inspection.expanded_bytes <= LIMITS.expanded);
    assert!(archive::read(&bytes[..bytes.len() - 1], LIMITS).is_err(), "a byte less");
    let longer = [bytes.as_slice(), &[*mode]].concat();
    assert!(archive::read(longer.as_slice(), LIMITS).is_err(), "a byte more");
}
