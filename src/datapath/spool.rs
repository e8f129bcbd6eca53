//! A file that is written at full speed and read while it grows. The leader's snapshot request holds a lock that blocks
//! leadership changes, so it must never wait for a slow store: it waits for the local disk at most.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::buffers::Buffer;
use super::error::MoverError;

/// Chunks on their way to the disk: with chunks of at most some hundred KiB a few MiB.
const QUEUE: usize = 16;
/// How often free space is looked at while writing.
const SPACE_CHECK_EVERY: u64 = 32 << 20;
/// Left free for whoever shares the disk: a node that runs full evicts pods.
const SPACE_RESERVE: u64 = 64 << 20;

/// How far a spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub bytes: u64,
    pub fill: Fill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    Growing,
    Complete,
    /// The writer gave up; nothing more will come.
    Broken,
}

/// A spool for readers. The file is removed when the last handle on it is dropped.
#[derive(Clone)]
pub(super) struct Spool {
    level: watch::Receiver<Level>,
    shared: Arc<Shared>,
}

struct Shared {
    file: File,
    path: PathBuf,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Best effort: the scratch volume goes with the pod anyway.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The writing end. Dropped before [`SpoolWriter::finish`], the spool counts as broken.
pub(super) struct SpoolWriter {
    queue: mpsc::Sender<Bytes>,
    writer: JoinHandle<Result<(), MoverError>>,
}

/// Fails unless `path` has room for `needed` bytes and the reserve.
pub(super) fn check_space(path: &Path, needed: u64) -> Result<(), MoverError> {
    let failed =
        |source: io::Error| MoverError::Scratch { what: "look at the free space of", path: path.to_owned(), source };
    let stat = rustix::fs::statvfs(path).map_err(|errno| failed(errno.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = needed.saturating_add(SPACE_RESERVE);
    if free < needed { Err(MoverError::Space { path: path.to_owned(), free, needed }) } else { Ok(()) }
}

/// Makes a spool in `folder`. `limit` bounds its size.
pub(super) fn create(folder: &Path, limit: u64) -> Result<(SpoolWriter, Spool), MoverError> {
    let path = folder.join(format!("spool-{:016x}", rand::random::<u64>()));
    let failed = |source| MoverError::Scratch { what: "create", path: path.clone(), source };
    // A snapshot holds everything: ciphertext, but still nobody else's to read.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let (level, watch) = watch::channel(Level { bytes: 0, fill: Fill::Growing });
    let shared = Arc::new(Shared { file, path });
    let (queue, chunks) = mpsc::channel(QUEUE);
    let target = Arc::clone(&shared);
    let folder = folder.to_owned();
    let writer = tokio::task::spawn_blocking(move || write_all(&target, &folder, limit, chunks, &level));
    Ok((SpoolWriter { queue, writer }, Spool { level: watch, shared }))
}

fn write_all(
    shared: &Shared,
    folder: &Path,
    limit: u64,
    mut chunks: mpsc::Receiver<Bytes>,
    level: &watch::Sender<Level>,
) -> Result<(), MoverError> {
    let mut bytes = 0u64;
    let mut check_at = 0u64;
    let outcome = loop {
        // The last chunk is empty: an end that was meant, unlike a sender that is gone.
        let Some(chunk) = chunks.blocking_recv() else { break Err(MoverError::Cancelled) };
        if chunk.is_empty() {
            break Ok(());
        }
        if bytes + chunk.len() as u64 > limit {
            break Err(MoverError::SpoolLimit { limit });
        }
        if bytes >= check_at {
            if let Err(full) = check_space(folder, 0) {
                break Err(full);
            }
            check_at = bytes + SPACE_CHECK_EVERY;
        }
        if let Err(source) = (&shared.file).write_all(&chunk) {
            let path = shared.path.clone();
            break Err(match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    MoverError::Space { path, free: 0, needed: chunk.len() as u64 }
                }
                _ => MoverError::Scratch { what: "write to", path, source },
            });
        }
        bytes += chunk.len() as u64;
        level.send_modify(|level| level.bytes = bytes);
    };
    let fill = if outcome.is_ok() { Fill::Complete } else { Fill::Broken };
    level.send_modify(|level| level.fill = fill);
    outcome
}

impl SpoolWriter {
    /// Hands a chunk to the disk; waits while the queue is full.
    pub(super) async fn push(&self, chunk: Bytes) -> Result<(), PushError> {
        if chunk.is_empty() { Ok(()) } else { self.queue.send(chunk).await.map_err(|_| PushError) }
    }

    /// Everything was pushed: waits until it is written.
    pub(super) async fn finish(self) -> Result<(), MoverError> {
        let _ = self.queue.send(Bytes::new()).await;
        self.writer.await.map_err(MoverError::Task)?
    }

    /// Why the disk took no more.
    pub(super) async fn failure(self) -> MoverError {
        drop(self.queue);
        match self.writer.await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => MoverError::Cancelled,
            Err(error) => MoverError::Task(error),
        }
    }
}

/// The disk took no more; [`SpoolWriter::failure`] says why.
#[derive(Debug)]
pub(super) struct PushError;

impl Spool {
    /// Waits until at least `bytes` are there or no more will come.
    pub(super) async fn reached(&self, bytes: u64) -> Level {
        let mut level = self.level.clone();
        let there = |level: &Level| level.bytes >= bytes || level.fill != Fill::Growing;
        match level.wait_for(there).await {
            Ok(level) => *level,
            // The writer is gone without a word: its thread died.
            Err(_) => Level { fill: Fill::Broken, ..*self.level.borrow() },
        }
    }

    pub(super) fn level(&self) -> Level {
        *self.level.borrow()
    }

    /// Bytes `from..from + length`, which must be there already.
    pub(super) async fn read_at(&self, from: u64, length: usize, mut buffer: Buffer) -> Result<Bytes, MoverError> {
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || {
            buffer.bytes().resize(length, 0);
            let failed = |source| MoverError::Scratch { what: "read", path: shared.path.clone(), source };
            shared.file.read_exact_at(buffer.bytes(), from).map_err(failed)?;
            Ok(buffer.freeze())
        });
        read.await.map_err(MoverError::Task)?
    }

    /// Gives the file a name under which it stays when this handle is gone.
    pub(super) fn keep(&self, path: &Path) -> Result<(), MoverError> {
        std::fs::hard_link(&self.shared.path, path).map_err(|source| MoverError::Scratch {
            what: "keep the download as",
            path: path.to_owned(),
            source,
        })
    }

    /// A blocking reader from the start that follows the growing file. For a blocking thread only.
    pub(super) fn reader(&self) -> SpoolReader {
        SpoolReader { spool: self.clone(), at: 0, runtime: Handle::current() }
    }
}

pub(super) struct SpoolReader {
    spool: Spool,
    at: u64,
    runtime: Handle,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut level = self.spool.level();
        if level.bytes <= self.at {
            level = self.runtime.block_on(self.spool.reached(self.at + 1));
        }
        let available = level.bytes.saturating_sub(self.at);
        if available == 0 {
            return match level.fill {
                Fill::Complete => Ok(0),
                Fill::Growing | Fill::Broken => Err(io::Error::other("the spool was given up")),
            };
        }
        let length = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.spool.shared.file.read_at(&mut buffer[..length], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::buffers::Buffers;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_follows_a_growing_spool_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, spool) = create(folder.path(), 1 << 20).unwrap();
        let mut reader = spool.reader();
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        for n in 0..100u8 {
            writer.push(Bytes::from(vec![n; 777])).await.unwrap();
            tokio::task::yield_now().await;
        }
        writer.finish().await.unwrap();
        let expected: Vec<u8> = (0..100u8).flat_map(|n| [n; 777]).collect();
        assert!(read.await.unwrap().unwrap() == expected);
        assert_eq!(spool.level(), Level { bytes: 77_700, fill: Fill::Complete });
        assert_eq!(spool.read_at(777, 3, Buffers::new(3).take()).await.unwrap(), [1u8, 1, 1][..]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_writer_that_goes_away_breaks_the_spool_instead_of_ending_it() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, spool) = create(folder.path(), 1 << 20).unwrap();
        writer.push(Bytes::from_static(b"half")).await.unwrap();
        drop(writer);
        let mut reader = spool.reader();
        let read = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
        assert!(read.await.unwrap().is_err());
        assert_eq!(spool.reached(1000).await, Level { bytes: 4, fill: Fill::Broken });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_spool_never_grows_beyond_its_limit_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, spool) = create(folder.path(), 1000).unwrap();
        while writer.push(Bytes::from(vec![0; 300])).await.is_ok() {}
        assert!(matches!(writer.failure().await, MoverError::SpoolLimit { limit: 1000 }));
        assert_eq!(spool.level().bytes, 900);
        drop(spool);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn too_little_space_is_said_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        check_space(folder.path(), 0).unwrap();
        assert!(matches!(check_space(folder.path(), 1 << 60), Err(MoverError::Space { .. })));
    }
}
