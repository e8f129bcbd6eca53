//! One object on its way into a store: parts in order, a bounded number in flight, nothing visible before
//! [`Upload::complete`]. An upload that is not completed must be [aborted](Upload::abort): its parts cost money otherwise.

use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, PutPayload};
use tokio::task::JoinSet;

use super::error::MoverError;
use crate::adapter::objectstore::{Store, StoreError, keys};

/// S3 takes no more parts than this in one upload.
const MAX_PARTS: u64 = 10_000;
/// A pod that is told to stop has 30 s by default.
const ABORT_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Upload {
    store: Store,
    key: String,
    parts: Option<Box<dyn MultipartUpload>>,
    flights: JoinSet<Result<(), object_store::Error>>,
    at_once: usize,
    /// An object of one part is held back and put whole, create-only, at the end.
    held: Option<Bytes>,
    sent: u64,
    completing: bool,
}

impl Upload {
    pub(super) fn new(store: &Store, key: &str, at_once: usize) -> Self {
        Self {
            store: store.clone(),
            key: key.to_owned(),
            parts: None,
            flights: JoinSet::new(),
            at_once,
            held: None,
            sent: 0,
            completing: false,
        }
    }

    /// Takes the next part; waits while too many are in flight. All but the last must have the same size.
    pub(super) async fn part(&mut self, bytes: Bytes) -> Result<(), MoverError> {
        self.sent += bytes.len() as u64;
        if self.parts.is_none() {
            let Some(first) = self.held.take() else {
                self.held = Some(bytes);
                return Ok(());
            };
            self.parts = Some(self.store.begin_upload(&self.key).await?);
            self.send(first).await?;
        }
        self.send(bytes).await
    }

    /// Waits until another part may be in flight: for whoever fills a buffer only then.
    pub(super) async fn room(&mut self) -> Result<(), MoverError> {
        while self.flights.len() + usize::from(self.held.is_some()) >= self.at_once && !self.flights.is_empty() {
            self.land().await?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), MoverError> {
        while self.flights.len() >= self.at_once {
            self.land().await?;
        }
        if let Some(parts) = &mut self.parts {
            self.flights.spawn(parts.put_part(PutPayload::from_bytes(bytes)));
        }
        Ok(())
    }

    async fn land(&mut self) -> Result<(), MoverError> {
        match self.flights.join_next().await {
            Some(Ok(Err(error))) => Err(self.store.upload_error(&self.key, &error).into()),
            Some(Err(error)) => Err(MoverError::Task(error)),
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    }

    /// Waits until every part has arrived. The object does not exist yet.
    pub(super) async fn settle(&mut self) -> Result<(), MoverError> {
        while !self.flights.is_empty() {
            self.land().await?;
        }
        Ok(())
    }

    /// Makes the object appear and looks at it.
    pub(super) async fn complete(&mut self) -> Result<(), MoverError> {
        self.completing = true;
        match (&mut self.parts, self.held.take()) {
            (Some(parts), _) => {
                parts.complete().await.map_err(|error| self.store.upload_error(&self.key, &error))?;
            }
            (None, Some(whole)) => {
                let created = self.store.create(&self.key, whole).await;
                // What was there before is not ours to remove.
                self.completing = !matches!(created, Err(StoreError::AlreadyExists { .. }));
                created?;
            }
            (None, None) => return Err(MoverError::Config("an object without bytes".to_owned())),
        }
        let found = self.store.head(&self.key).await?.unwrap_or(0);
        if found != self.sent {
            let (target, key) = (self.store.name().to_owned(), self.key.clone());
            return Err(StoreError::Size { target, key, expected: self.sent, found }.into());
        }
        Ok(())
    }

    /// Leaves nothing behind, as far as the store can be reached within a pod's time to end. Returns what could not be done.
    pub(super) async fn abort(self) -> Option<StoreError> {
        let (target, key) = (self.store.name().to_owned(), self.key.clone());
        match tokio::time::timeout(ABORT_TIMEOUT, self.undo()).await {
            Ok(left) => left,
            Err(_) => Some(StoreError::Timeout { target, key, detail: format!("given up after {ABORT_TIMEOUT:?}") }),
        }
    }

    async fn undo(mut self) -> Option<StoreError> {
        self.flights.shutdown().await;
        let aborted = match &mut self.parts {
            Some(parts) => parts.abort().await.err().map(|error| self.store.upload_error(&self.key, &error)),
            None => None,
        };
        if !self.completing {
            return aborted;
        }
        // A completion whose answer was lost may have happened. What has a manifest is whole, and another mover's: ours comes later.
        match self.store.head(&keys::manifest_key(&self.key)).await {
            Ok(None) => self.store.delete(&self.key).await.err(),
            Ok(Some(_)) => None,
            Err(error) => Some(error),
        }
    }
}

/// The part size for an object expected to have so many bytes: the one asked for, unless that takes too many parts.
pub(super) fn part_size(asked: u64, most: u64, expected: u64) -> u64 {
    // Half as large again as the last one must still fit.
    let needed = expected.saturating_add(expected / 2).div_ceil(MAX_PARTS);
    asked.max(needed).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::objectstore::target::{FileTarget, Provider, UPLOAD_MEMORY};
    use crate::adapter::objectstore::{Credentials, Target};

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_string_lossy().into_owned();
        let target = Target { provider: Provider::File, file: Some(FileTarget { root }), ..Target::default() };
        let store = Store::open(&target, &Credentials::default()).unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn parts_become_one_object_only_when_completed() {
        let (_keep, store) = store();
        let mut upload = Upload::new(&store, "a/b", 2);
        for part in ["one ", "two ", "three"] {
            upload.part(Bytes::from(part)).await.unwrap();
        }
        upload.settle().await.unwrap();
        assert_eq!(store.head("a/b").await.unwrap(), None);
        upload.complete().await.unwrap();
        assert_eq!(store.small("a/b", 100).await.unwrap(), "one two three");
    }

    #[tokio::test]
    async fn an_aborted_upload_leaves_nothing() {
        let (keep, store) = store();
        for parts in [1, 3] {
            let mut upload = Upload::new(&store, "a/b", 2);
            for _ in 0..parts {
                upload.part(Bytes::from_static(b"x")).await.unwrap();
            }
            assert!(upload.abort().await.is_none());
        }
        assert_eq!(store.head("a/b").await.unwrap(), None);
        let folder = keep.path().join("a");
        assert!(std::fs::read_dir(folder).map_or(0, Iterator::count) == 0);
    }

    #[tokio::test]
    async fn a_completion_is_taken_back_but_not_once_somebody_has_made_a_backup_of_it() {
        let (_keep, store) = store();
        let completed = async || {
            let mut upload = Upload::new(&store, "a/b", 2);
            for part in ["one ", "two"] {
                upload.part(Bytes::from(part)).await.unwrap();
            }
            upload.settle().await.unwrap();
            upload.complete().await.unwrap();
            upload
        };
        assert!(completed().await.abort().await.is_none());
        assert_eq!(store.head("a/b").await.unwrap(), None);
        let late = completed().await;
        store.create(&keys::manifest_key("a/b"), Bytes::from_static(b"{}")).await.unwrap();
        assert!(late.abort().await.is_none());
        assert_eq!(store.head("a/b").await.unwrap(), Some(7));
    }

    #[tokio::test]
    async fn a_small_object_is_not_written_over_another() {
        let (_keep, store) = store();
        store.create("k", Bytes::from_static(b"old")).await.unwrap();
        let mut upload = Upload::new(&store, "k", 2);
        upload.part(Bytes::from_static(b"new")).await.unwrap();
        assert!(upload.complete().await.is_err());
        assert_eq!(store.small("k", 9).await.unwrap(), "old");
    }

    #[test]
    fn large_objects_get_larger_parts_within_memory() {
        let mib = 1 << 20;
        assert_eq!(part_size(10 * mib, UPLOAD_MEMORY, 500 * mib), 10 * mib);
        assert!(part_size(10 * mib, UPLOAD_MEMORY, 100 << 30) > 10 * mib);
        assert_eq!(part_size(10 * mib, UPLOAD_MEMORY, 1 << 50), UPLOAD_MEMORY);
    }
}
