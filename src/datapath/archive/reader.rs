//! One pass over an archive: gzip → tar → sums → state records, in constant memory, as fast as SHA-256 goes.

use std::io::{BufReader, Read};

use sha2::{Digest, Sha256};

use super::error::{ArchiveError, MetaError};
use super::gzip::Expand;
use super::inspection::Inspection;
use super::meta;
use super::records::Records;
use super::sealed::{MAX_SEALED, SealedSums};
use super::tar::{self, BLOCK, Header};

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";
const SEALED: &str = "SHA256SUMS.sealed";
const ENTRIES: [&str; 4] = [META, STATE, SUMS, SEALED];

/// A few hundred members fit many times.
const MAX_META: u64 = 1024 * 1024;
const MAX_SUMS: u64 = 4096;
const MAX_PAX: u64 = 64 * 1024;
/// Archivers round the end up to a record of 10 KiB; more zeros than this are not a habit but an attempt.
const MAX_END_PADDING: u64 = 1024 * 1024;
const BUFFER: usize = 128 * 1024;

/// Bounds on what is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most that the archive may expand to, in bytes: checked against announced sizes before and against real ones
    /// while expanding. A 5 MB bomb fills a server's disk with 5 GiB otherwise.
    pub expanded: u64,
}

/// 64 GiB: above any snapshot that a server can restore within its own limits.
impl Default for Limits {
    fn default() -> Self {
        Self { expanded: 64 << 30 }
    }
}

/// An archive that passed every check that needs no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub inspection: Inspection,
    /// `SHA256SUMS`, as it is in the archive.
    pub sums: Vec<u8>,
    /// `SHA256SUMS.sealed`, as it is in the archive: with the seal's key it must open to [`Verified::sums`].
    pub sealed_sums: Vec<u8>,
}

/// Reads a whole archive from `source` to its end.
///
/// # Errors
/// The first thing that is wrong. A failing `source` is [`ArchiveError::Read`].
pub fn read(source: impl Read, limits: Limits) -> Result<Verified, ArchiveError> {
    let raw = BufReader::with_capacity(BUFFER, Hashed { source, digest: Sha256::new(), bytes: 0 });
    let mut archive = Archive { expand: Expand::new(raw, limits.expanded), buffer: vec![0; BUFFER], start: 0, end: 0 };
    let mut found = Found::default();
    let mut extended = None;
    loop {
        let mut block = [0; BLOCK];
        archive.exact(&mut block, "a tar header")?;
        match tar::parse(&block)? {
            Header::Zeros => {
                archive.exact(&mut block, "the end of the tar stream")?;
                if tar::parse(&block)? != Header::Zeros {
                    return Err(ArchiveError::Tar("a single zero block within the stream"));
                }
                break;
            }
            Header::Extended { size } => {
                if extended.is_some() || size > MAX_PAX {
                    return Err(ArchiveError::Tar("an extended header is out of place or too long"));
                }
                let records = archive.small(size, "an extended header")?;
                extended = Some(tar::extended_size(&records)?);
            }
            Header::Other { name } => return Err(not_plain(&name)),
            Header::File { name, size } => {
                let size = extended.take().flatten().unwrap_or(size);
                let entry = ENTRIES.iter().find(|entry| entry.as_bytes() == name);
                let entry =
                    entry.ok_or_else(|| ArchiveError::UnknownEntry(String::from_utf8_lossy(&name).into_owned()))?;
                found.take_entry(entry, size, &mut archive, limits)?;
            }
        }
    }
    if extended.is_some() {
        return Err(ArchiveError::Tar("an extended header without its entry"));
    }
    archive.only_zeros_follow()?;
    let expanded_bytes = archive.expand.expanded();
    let Hashed { digest, bytes, .. } = archive.expand.into_source().into_inner();
    let mut verified = found.check()?;
    verified.inspection.sha256 = meta::to_hex(&digest.finalize());
    verified.inspection.size_bytes = bytes;
    verified.inspection.expanded_bytes = expanded_bytes;
    Ok(verified)
}

fn not_plain(name: &[u8]) -> ArchiveError {
    match ENTRIES.iter().find(|entry| entry.as_bytes() == name) {
        Some(entry) => ArchiveError::NotPlain { entry },
        None => ArchiveError::UnknownEntry(String::from_utf8_lossy(name).into_owned()),
    }
}

/// What the entries held, until all of them are there to be compared.
#[derive(Default)]
struct Found {
    meta: Option<Vec<u8>>,
    state: Option<State>,
    sums: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
}

struct State {
    records: Records,
    digest: [u8; 32],
    size: u64,
}

impl Found {
    fn take_entry<R: Read>(
        &mut self,
        entry: &'static str,
        size: u64,
        archive: &mut Archive<R>,
        limits: Limits,
    ) -> Result<(), ArchiveError> {
        let (slot, limit) = match entry {
            META => (&mut self.meta, MAX_META),
            SUMS => (&mut self.sums, MAX_SUMS),
            SEALED => (&mut self.sealed, MAX_SEALED),
            _ => {
                if self.state.is_some() {
                    return Err(ArchiveError::DuplicateEntry(STATE));
                }
                if size > limits.expanded {
                    return Err(ArchiveError::TooLarge { limit: limits.expanded });
                }
                self.state = Some(archive.state(size)?);
                return Ok(());
            }
        };
        if slot.is_some() {
            return Err(ArchiveError::DuplicateEntry(entry));
        }
        if size > limit {
            return Err(ArchiveError::EntryTooLarge { entry, size, limit });
        }
        *slot = Some(archive.small(size, entry)?);
        Ok(())
    }

    fn check(self) -> Result<Verified, ArchiveError> {
        let meta_bytes = self.meta.ok_or(ArchiveError::MissingEntry(META))?;
        let state = self.state.ok_or(ArchiveError::MissingEntry(STATE))?;
        let sums = self.sums.ok_or(ArchiveError::MissingEntry(SUMS))?;
        let sealed_sums = self.sealed.ok_or(ArchiveError::MissingEntry(SEALED))?;
        let (meta_digest, state_digest) = meta::parse_sums(&sums)?;
        if Sha256::digest(&meta_bytes).as_slice() != meta_digest {
            return Err(ArchiveError::Digest { entry: META });
        }
        if state.digest != state_digest {
            return Err(ArchiveError::Digest { entry: STATE });
        }
        let meta = meta::parse(&meta_bytes)?;
        if meta.size != state.size {
            return Err(ArchiveError::Meta(MetaError::Size { said: meta.size, found: state.size }));
        }
        let contents = state.records.finish()?;
        let mut seal = contents.seal;
        seal.key_id = SealedSums::parse(&sealed_sums)?.key_id;
        let inspection = Inspection {
            state_bytes: state.size,
            raft_index: meta.index,
            raft_term: meta.term,
            members: meta.members,
            seal,
            versions_ever_active: contents.versions,
            keys_total: contents.keys_total,
            keys_per_mount: contents.keys_per_mount,
            ..Inspection::default()
        };
        Ok(Verified { inspection, sums, sealed_sums })
    }
}

/// The expanded stream with a window of unread bytes.
struct Archive<R> {
    expand: Expand<BufReader<Hashed<R>>>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Archive<R> {
    /// Some unread bytes, at most `most`; empty only at the end of the file.
    fn chunk(&mut self, most: u64) -> Result<&[u8], ArchiveError> {
        if self.start == self.end {
            self.start = 0;
            self.end = self.expand.read(&mut self.buffer)?;
        }
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.end - self.start);
        let from = self.start;
        self.start += length;
        Ok(&self.buffer[from..from + length])
    }

    fn exact(&mut self, out: &mut [u8], within: &'static str) -> Result<(), ArchiveError> {
        let mut filled = 0;
        while filled < out.len() {
            let chunk = self.chunk((out.len() - filled) as u64)?;
            if chunk.is_empty() {
                return Err(ArchiveError::Truncated { within });
            }
            out[filled..filled + chunk.len()].copy_from_slice(chunk);
            filled += chunk.len();
        }
        Ok(())
    }

    /// An entry whose size was bounded by the caller, with its padding.
    fn small(&mut self, size: u64, entry: &'static str) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.exact(&mut bytes, entry)?;
        self.padding(size)?;
        Ok(bytes)
    }

    fn state(&mut self, size: u64) -> Result<State, ArchiveError> {
        let (mut records, mut digest, mut left) = (Records::default(), Sha256::new(), size);
        while left > 0 {
            let chunk = self.chunk(left)?;
            if chunk.is_empty() {
                return Err(ArchiveError::Truncated { within: STATE });
            }
            digest.update(chunk);
            records.feed(chunk)?;
            left -= chunk.len() as u64;
        }
        self.padding(size)?;
        Ok(State { records, digest: digest.finalize().into(), size })
    }

    fn padding(&mut self, size: u64) -> Result<(), ArchiveError> {
        let mut block = [0; BLOCK];
        let padding = &mut block[..tar::padding(size)];
        self.exact(padding, "the padding of an entry")?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(ArchiveError::Tar("the padding of an entry is not zero"));
        }
        Ok(())
    }

    fn only_zeros_follow(&mut self) -> Result<(), ArchiveError> {
        let mut seen = 0u64;
        loop {
            let chunk = self.chunk(u64::MAX)?;
            if chunk.is_empty() {
                return Ok(());
            }
            seen += chunk.len() as u64;
            if seen > MAX_END_PADDING || chunk.iter().any(|&byte| byte != 0) {
                return Err(ArchiveError::Trailing("more of a tar stream"));
            }
        }
    }
}

/// Hashes and counts the file's own bytes as they pass.
struct Hashed<R> {
    source: R,
    digest: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.digest.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}
