//! Backups that are in a store already: found, listed, read again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;

use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::archive::{Limits, Verified};
use super::backup::verify_spool;
use super::error::MoverError;
use super::feed;
use super::progress::Meter;
use super::protocol::{BackupState, ListedBackup, Stage};
use super::prune::SAFETY;
use super::spool::{self, Spool, SpoolWriter};
use crate::adapter::objectstore::{Manifest, ObjectKind, Store, StoreError, error::detail, keys};

/// Which backup is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A whole key, never joined with the prefix.
    Key(String),
    /// The complete backup under the cluster's prefix whose snapshot was taken last, and that no restore took before itself.
    Latest,
    /// The last of those taken before this time.
    Before(DateTime<Utc>),
}

/// How far one of the clocks (of the operator that names a backup, of the mover, of the store) may be ahead of another.
pub const AHEAD: TimeDelta = TimeDelta::minutes(15);

/// Manifests that are read at the same time: a few KiB each, so that a year of backups costs seconds.
pub(super) const READ_AT_ONCE: usize = 8;

/// What the objects under a cluster's prefix say about each backup; the manifests themselves are not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    /// When the backup was planned. Its snapshot was taken later, and sometimes hours later: a lock that was held, a store
    /// that was away.
    pub planned_at: DateTime<Utc>,
    pub object: Option<u64>,
    pub manifest: bool,
    /// When the manifest was written, by the store's clock.
    pub written: Option<DateTime<Utc>>,
    pub pin: bool,
    pub deleting: bool,
}

impl Pieces {
    pub(super) fn state(&self) -> BackupState {
        match (self.deleting, self.manifest, self.object) {
            (true, _, _) => BackupState::Deleting,
            (false, true, Some(_)) => BackupState::Complete,
            (false, true, None) => BackupState::NoObject,
            (false, false, _) => BackupState::NoManifest,
        }
    }

    /// The snapshot was not taken after this: its manifest is written last. A manifest that is older than the plan tells of
    /// clocks that are too far apart to go by.
    fn taken_by(&self) -> DateTime<Utc> {
        let by = self.written.map(|written| written + AHEAD).filter(|by| *by >= self.planned_at);
        by.unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// What a line for people, among those that a program reads, begins with.
pub const NOTE: &str = "note: ";
/// So many odd keys are named.
const NAMED: usize = 5;

/// Every backup of one cluster by key. Foreign objects are passed over, and never touched.
pub(super) async fn survey(store: &Store, cluster_prefix: &str) -> Result<BTreeMap<String, Pieces>, MoverError> {
    let mut found: BTreeMap<String, Pieces> = BTreeMap::new();
    let listed = store.list(cluster_prefix).await?;
    if let Some(note) = oddities(&listed.odd) {
        eprintln!("{NOTE}{note}");
    }
    for object in listed.objects {
        let Some((name, kind)) = keys::parse(cluster_prefix, &object.key) else { continue };
        let pieces = found.entry(name.key).or_default();
        pieces.planned_at = name.taken_at;
        match kind {
            ObjectKind::Snapshot => pieces.object = Some(object.size),
            ObjectKind::Manifest => (pieces.manifest, pieces.written) = (true, object.written),
            ObjectKind::Pin => pieces.pin = true,
            ObjectKind::Deleting => pieces.deleting = true,
        }
    }
    Ok(found)
}

/// Says which keys are no paths: somebody may look for what is under them.
fn oddities(odd: &[String]) -> Option<String> {
    let named: Vec<String> = odd.iter().take(NAMED).map(|key| format!("{key:?}")).collect();
    let others = odd.len().saturating_sub(NAMED);
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    (!odd.is_empty()).then(|| {
        let keys = if odd.len() == 1 { "key is" } else { "keys are" };
        format!("{} {keys} no backup's and no path, and passed over: {}{others}", odd.len(), named.join(", "))
    })
}

/// The key that a source comes to. What a backup is as of is when its snapshot was taken, and that only the manifest tells.
pub(super) async fn resolve(store: &Store, cluster_prefix: &str, source: &Source) -> Result<String, MoverError> {
    if let Source::Key(key) = source {
        return Ok(key.clone());
    }
    let all = survey(store, cluster_prefix).await?;
    let found = match source {
        Source::Before(time) => newest(store, &all, *time, ANY).await?,
        Source::Key(_) | Source::Latest => latest(store, &all, Utc::now()).await?,
    };
    found.map(str::to_owned).ok_or_else(|| {
        let when = if let Source::Before(time) = source { format!(" taken before {time}") } else { String::new() };
        MoverError::NothingFound(format!("under {cluster_prefix}{when} in {}", store.name()))
    })
}

/// Which backups count, by their manifests.
type Which = fn(&Manifest) -> bool;
const ANY: Which = |_| true;
const NO_SAFETY: Which = |manifest| manifest.operation.role != SAFETY;

/// The newest complete backup. Two kinds stand for the latest only while there is no other. A safety backup is the state that a
/// restore was to replace: whoever asks again after one that failed does not mean that. And one of the future was dated by a
/// clock that ran ahead.
async fn latest<'a>(
    store: &Store,
    all: &'a BTreeMap<String, Pieces>,
    now: DateTime<Utc>,
) -> Result<Option<&'a str>, MoverError> {
    let (past, ever) = (now + AHEAD, DateTime::<Utc>::MAX_UTC);
    for (end, which) in [(past, NO_SAFETY), (ever, NO_SAFETY), (past, ANY), (ever, ANY)] {
        if let Some(found) = newest(store, all, end, which).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The complete backup whose snapshot was taken last, of those that count and were taken before `end`. Read as far as one may
/// still be newer than the best so far, which mostly means one.
async fn newest<'a>(
    store: &Store,
    all: &'a BTreeMap<String, Pieces>,
    end: DateTime<Utc>,
    which: Which,
) -> Result<Option<&'a str>, MoverError> {
    let order = last_written_first(all, end);
    let looks = order.iter().map(|&(key, pieces)| async move {
        match store.manifest(key).await {
            Ok(manifest) => Ok(manifest.filter(which).map(|manifest| manifest.taken_at)),
            // Nothing better is known of it, and whoever gets it is told.
            Err(error) if is_of_one(&error) => Ok(Some(pieces.planned_at)),
            Err(error) => Err(MoverError::from(error)),
        }
    });
    let looks: Vec<_> = looks.collect();
    let mut looks = pin!(stream::iter(looks).buffered(READ_AT_ONCE));
    let mut best: Option<(DateTime<Utc>, &str)> = None;
    for &(key, pieces) in &order {
        // Before its answer is waited for: where that could change nothing any more, it may be whatever it is.
        if best.is_some_and(|(best, _)| best >= pieces.taken_by()) {
            break;
        }
        let Some(taken_at) = looks.try_next().await? else { break };
        let taken = taken_at.filter(|taken| *taken < end).map(|taken| (taken, key));
        best = best.max(taken);
    }
    Ok(best.map(|(_, key)| key))
}

/// Whether a manifest could not be read for a reason that is its own: written by another program, moved to an archive, held
/// back by a rule. It must not hide the other backups.
pub(super) const fn is_of_one(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Manifest { .. }
            | StoreError::Size { .. }
            | StoreError::Permission { .. }
            // What Azure says of an object in an archive.
            | StoreError::AlreadyExists { .. }
    )
}

/// The complete backups that may have been taken before `end` (nothing is taken before it was planned), the one first whose
/// snapshot may be the latest.
fn last_written_first(all: &BTreeMap<String, Pieces>, end: DateTime<Utc>) -> Vec<(&str, &Pieces)> {
    let complete = all.iter().filter(|(_, pieces)| pieces.state() == BackupState::Complete && pieces.planned_at < end);
    let mut complete: Vec<(&str, &Pieces)> = complete.map(|(key, pieces)| (key.as_str(), pieces)).collect();
    complete.sort_by_key(|(key, pieces)| Reverse((pieces.taken_by(), *key)));
    complete
}

/// All backups of a cluster, oldest first, with their manifests.
pub(super) async fn list(store: &Store, cluster_prefix: &str) -> Result<Vec<ListedBackup>, MoverError> {
    let mut listed = Vec::new();
    for (key, pieces) in survey(store, cluster_prefix).await? {
        let manifest = if pieces.manifest {
            match store.manifest(&key).await {
                Err(error) if is_of_one(&error) => {
                    eprintln!("the manifest of {key} cannot be read: {}", detail(&error));
                    None
                }
                other => other?,
            }
        } else {
            None
        };
        listed.push(ListedBackup {
            taken_at: manifest.as_ref().map_or(pieces.planned_at, |manifest| manifest.taken_at),
            size_bytes: pieces.object.unwrap_or(0),
            state: pieces.state(),
            pinned: pieces.pin,
            manifest,
            key,
        });
    }
    listed.sort_by(|a, b| (a.taken_at, &a.key).cmp(&(b.taken_at, &b.key)));
    Ok(listed)
}

/// A backup's object and manifest, as far as HEAD and the manifest tell.
pub(super) struct Found {
    pub key: String,
    pub size: u64,
    pub manifest: Option<Manifest>,
}

/// Looks at a backup before a byte of it is read. Without a manifest it was never completed, unless the caller takes that
/// upon themselves.
pub(super) async fn find(store: &Store, key: String, manifest_required: bool) -> Result<Found, MoverError> {
    let manifest = store.manifest(&key).await?;
    if manifest.is_none() && manifest_required {
        return Err(MoverError::ManifestMissing { key });
    }
    let Some(size) = store.head(&key).await? else {
        return Err(StoreError::NotFound { target: store.name().to_owned(), key }.into());
    };
    match &manifest {
        Some(manifest) if manifest.size_bytes != size => {
            Err(MoverError::OtherSize { key, expected: manifest.size_bytes, found: size })
        }
        _ => Ok(Found { key, size, manifest }),
    }
}

impl Found {
    /// With a manifest its digest decides, whatever else is in order.
    pub(super) fn compare(&self, verified: &Verified) -> Result<(), MoverError> {
        match &self.manifest {
            Some(manifest) if manifest.sha256 != verified.inspection.sha256 => Err(MoverError::OtherDigest {
                key: self.key.clone(),
                expected: manifest.sha256.clone(),
                found: verified.inspection.sha256.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// Reads an object from end to end and verifies it, without a disk.
pub(super) async fn verify(
    store: &Store,
    found: &Found,
    limits: Limits,
    meter: &Meter,
) -> Result<Verified, MoverError> {
    let verified = feed::verify(store.stream(&found.key, found.size), limits, meter).await?;
    found.compare(&verified)?;
    Ok(verified)
}

/// A backup that is to lie on the local disk.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub store: &'a Store,
    pub cluster_prefix: &'a str,
    pub source: &'a Source,
    /// Folder for the file.
    pub scratch: &'a Path,
    pub limits: Limits,
    /// Whoever asks answers for a backup without a manifest.
    pub without_manifest: bool,
}

/// Brings a backup to the local disk and verifies it while it comes.
pub(super) async fn fetch(wanted: &Wanted<'_>, meter: &Meter) -> Result<(Found, Verified, Spool), MoverError> {
    let store = wanted.store;
    let key = resolve(store, wanted.cluster_prefix, wanted.source).await?;
    let found = find(store, key, !wanted.without_manifest).await?;
    spool::check_space(wanted.scratch, found.size)?;
    let (writer, spool) = spool::create(wanted.scratch, found.size)?;
    meter.stage(Stage::Download, found.size);
    let stream = store.stream(&found.key, found.size);
    let ((), verified) =
        tokio::try_join!(biased; download(stream, writer, meter), verify_spool(&spool, wanted.limits))?;
    found.compare(&verified)?;
    Ok((found, verified, spool))
}

/// Brings an object to the local disk.
async fn download(
    mut stream: BoxStream<'static, Result<bytes::Bytes, StoreError>>,
    writer: SpoolWriter,
    meter: &Meter,
) -> Result<(), MoverError> {
    while let Some(chunk) = stream.try_next().await? {
        meter.add(chunk.len());
        if writer.push(chunk).await.is_err() {
            return Err(writer.failure().await);
        }
    }
    writer.finish().await
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::adapter::objectstore::target::{FileTarget, Provider};
    use crate::adapter::objectstore::{Credentials, Target};

    #[test]
    fn odd_keys_are_counted_and_the_first_are_named() {
        assert_eq!(oddities(&[]), None);
        let one = oddities(&["p//x".to_owned()]).unwrap();
        assert!(one.starts_with("1 key is") && one.ends_with(r#""p//x""#), "{one}");
        let many: Vec<String> = (0..9).map(|n| format!("p/\n{n}")).collect();
        let told = oddities(&many).unwrap();
        assert!(told.starts_with("9 keys are") && told.contains(r#""p/\n4""#) && !told.contains("n5"), "{told}");
        assert!(told.ends_with(" and 4 more"), "{told}");
    }

    fn pieces(hour: u32, manifest: bool, deleting: bool) -> (String, Pieces) {
        let planned_at: DateTime<Utc> = format!("2026-11-21T{hour:02}:00:00Z").parse().unwrap();
        let key = keys::snapshot_key("", "ns", "c", planned_at, "abcdefgh");
        (key, Pieces { planned_at, object: Some(1), manifest, written: None, pin: false, deleting })
    }

    /// A store with a backup planned at each of these hours, and when its snapshot was taken.
    async fn stored(backups: &[(u32, &str)]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_string_lossy().into_owned();
        let target = Target { provider: Provider::File, file: Some(FileTarget { root }), ..Target::default() };
        let store = Store::open(&target, &Credentials::default()).unwrap();
        for (hour, taken) in backups {
            let key = pieces(*hour, true, false).0;
            let taken = format!("2026-11-21T{taken}Z").parse().unwrap();
            store.create(&key, Bytes::from_static(b"x")).await.unwrap();
            let bytes = manifest(&key, taken, "u").to_bytes().unwrap();
            store.create(&keys::manifest_key(&key), bytes.into()).await.unwrap();
        }
        (folder, store)
    }

    /// The manifest of a backup that this cluster (by UID) took at this time.
    pub(in crate::datapath) fn manifest(key: &str, taken_at: DateTime<Utc>, cluster_uid: &str) -> Manifest {
        let sha256 = "0".repeat(64);
        serde_json::from_value(json!({
            "version": 1, "key": key, "sha256": sha256, "sizeBytes": 1, "takenAt": taken_at, "sealedSums": "",
            "cluster": {"uid": cluster_uid}, "openbao": {}, "seal": {}, "contents": {}, "operation": {},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn the_newest_is_the_newest_that_is_complete() {
        let (_keep, store) = stored(&[(1, "01:00:05"), (2, "02:00:05"), (3, "03:00:05"), (4, "04:00:05")]).await;
        let all: BTreeMap<_, _> =
            [pieces(1, true, false), pieces(2, true, false), pieces(3, true, true), pieces(4, false, false)].into();
        let (first, second) = (pieces(1, true, false), pieces(2, true, false));
        let at = async |all: &BTreeMap<String, Pieces>, now: DateTime<Utc>| {
            latest(&store, all, now).await.unwrap().map(str::to_owned)
        };
        assert_eq!(at(&all, pieces(5, true, false).1.planned_at).await.as_ref(), Some(&second.0));
        let ahead = second.1.planned_at - TimeDelta::minutes(10);
        assert_eq!(at(&all, ahead).await.as_ref(), Some(&second.0), "a clock may be a little ahead");
        let then = first.1.planned_at;
        assert_eq!(at(&all, then).await.as_ref(), Some(&first.0), "one from the future is not the latest");
        let only: BTreeMap<_, _> = [pieces(2, true, false)].into();
        assert_eq!(at(&only, then).await.as_ref(), Some(&second.0), "but better than none");
    }

    /// The second was taken by a restore, of the state that it was to replace.
    #[tokio::test]
    async fn the_latest_is_no_safety_backup_while_there_is_another() {
        let (_keep, store) = stored(&[(1, "01:00:05"), (2, "02:00:05")]).await;
        let (good, safety) = (pieces(1, true, false).0, pieces(2, true, false).0);
        let mut told = store.manifest(&safety).await.unwrap().unwrap();
        told.operation.role = SAFETY.to_owned();
        store.delete(&keys::manifest_key(&safety)).await.unwrap();
        store.create(&keys::manifest_key(&safety), told.to_bytes().unwrap().into()).await.unwrap();
        let found = async |source| resolve(&store, "ns/c/", &source).await.unwrap();
        assert_eq!(found(Source::Latest).await, good, "who asks again after a restore that failed means the same one");
        let before = Source::Before("2026-11-21T03:00:00Z".parse().unwrap());
        assert_eq!(found(before).await, safety, "by time it can be named");
        store.delete(&keys::manifest_key(&good)).await.unwrap();
        assert_eq!(found(Source::Latest).await, safety, "but better than none");
    }

    #[test]
    fn only_what_may_be_newer_than_the_best_one_is_read() {
        let written = |hour, at: &str| {
            let (key, pieces) = pieces(hour, true, false);
            (key, Pieces { written: Some(format!("2026-11-21T{at}Z").parse().unwrap()), ..pieces })
        };
        // The first waited for hours, and the clock of the last is nobody's.
        let all: BTreeMap<_, _> = [written(1, "05:00:10"), written(2, "02:00:10"), written(6, "01:00:10")].into();
        let order = last_written_first(&all, DateTime::<Utc>::MAX_UTC);
        let hours: Vec<_> = order.iter().map(|(_, pieces)| pieces.planned_at.format("%H").to_string()).collect();
        assert_eq!(hours, ["06", "01", "02"]);
        let by = |n: usize| order[n].1.taken_by();
        assert_eq!((by(0), by(1)), (DateTime::<Utc>::MAX_UTC, "2026-11-21T05:15:10Z".parse().unwrap()));
        assert!(last_written_first(&all, pieces(1, true, false).1.planned_at).is_empty(), "planned by then");
    }

    #[tokio::test]
    async fn an_older_manifest_that_cannot_be_read_is_in_the_way_of_no_latest() {
        let (folder, store) = stored(&[(1, "01:00:05"), (2, "02:00:05")]).await;
        let written = |hour: u32, at: &str| {
            let (key, pieces) = pieces(hour, true, false);
            (key, Pieces { written: Some(format!("2026-11-21T{at}Z").parse().unwrap()), ..pieces })
        };
        let all: BTreeMap<_, _> = [written(1, "01:00:10"), written(2, "02:00:10")].into();
        let odd = folder.path().join(keys::manifest_key(&pieces(1, true, false).0));
        std::fs::remove_file(&odd).unwrap();
        // A link to itself: the store fails at it.
        std::os::unix::fs::symlink(&odd, &odd).unwrap();
        assert!(store.manifest(&pieces(1, true, false).0).await.is_err_and(|error| !is_of_one(&error)));
        let found = newest(&store, &all, DateTime::<Utc>::MAX_UTC, ANY).await.unwrap();
        assert_eq!(found, Some(pieces(2, true, false).0.as_str()));
    }

    #[test]
    fn what_a_store_says_of_one_object_is_told_from_what_it_says_of_all() {
        let (target, key, detail) = ("s3".to_owned(), "k".to_owned(), "InvalidObjectState".to_owned());
        assert!(is_of_one(&StoreError::AlreadyExists { target: target.clone(), key: key.clone() }));
        assert!(is_of_one(&StoreError::Permission {
            target: target.clone(),
            key: key.clone(),
            detail: detail.clone()
        }));
        assert!(!is_of_one(&StoreError::Unreachable { target, key, detail }));
    }

    /// The first waited for a lock, and the second was taken meanwhile.
    #[tokio::test]
    async fn the_latest_is_the_one_that_was_taken_last_not_the_one_that_was_planned_last() {
        let (_keep, store) = stored(&[(1, "02:45:00"), (2, "02:00:05")]).await;
        let found = async |source| resolve(&store, "ns/c/", &source).await.unwrap();
        assert_eq!(found(Source::Latest).await, pieces(1, true, false).0);
        let before = |time: &str| Source::Before(time.parse().unwrap());
        assert_eq!(found(before("2026-11-21T03:00:00Z")).await, pieces(1, true, false).0);
        assert_eq!(found(before("2026-11-21T02:45:00Z")).await, pieces(2, true, false).0);
        // A manifest that cannot be read counts as of its plan.
        let odd = keys::manifest_key(&pieces(1, true, false).0);
        store.delete(&odd).await.unwrap();
        store.create(&odd, Bytes::from_static(b"{}")).await.unwrap();
        assert_eq!(found(Source::Latest).await, pieces(2, true, false).0);
    }

    /// Planned at one, two and three; the second one waited until half past two before its snapshot was taken.
    #[tokio::test]
    async fn before_a_moment_means_taken_before_it_not_planned_before_it() {
        let (_keep, store) = stored(&[(1, "01:00:05"), (2, "02:30:00"), (3, "03:00:05")]).await;
        let before = async |time: &str| {
            let time = format!("2026-11-21T{time}Z").parse().unwrap();
            resolve(&store, "ns/c/", &Source::Before(time)).await
        };
        assert_eq!(before("02:15:00").await.unwrap(), pieces(1, true, false).0);
        assert_eq!(before("02:30:01").await.unwrap(), pieces(2, true, false).0);
        assert!(matches!(before("01:00:05").await, Err(MoverError::NothingFound(_))));
        assert_eq!(resolve(&store, "ns/c/", &Source::Latest).await.unwrap(), pieces(3, true, false).0);
    }

    #[test]
    fn a_state_follows_from_the_pieces_that_are_there() {
        let complete = Pieces { object: Some(1), manifest: true, ..Pieces::default() };
        assert_eq!(complete.state(), BackupState::Complete);
        assert_eq!(Pieces { manifest: false, ..complete.clone() }.state(), BackupState::NoManifest);
        assert_eq!(Pieces { object: None, ..complete.clone() }.state(), BackupState::NoObject);
        assert_eq!(Pieces { deleting: true, ..complete }.state(), BackupState::Deleting);
    }
}
