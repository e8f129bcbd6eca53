//! Backups that are in a store already: found, listed, read again.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use futures::stream::BoxStream;

use super::archive::{self, Limits, Verified};
use super::error::MoverError;
use super::feed;
use super::progress::Meter;
use super::protocol::{BackupState, ListedBackup};
use super::spool::SpoolWriter;
use crate::adapter::objectstore::{Manifest, ObjectKind, Store, StoreError, keys};

/// Which backup is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A whole key, never joined with the prefix.
    Key(String),
    /// The newest complete backup under the cluster's prefix.
    Latest,
    /// The newest complete one taken before this time.
    Before(DateTime<Utc>),
}

/// How far the clock that named a backup may be ahead of this one.
const AHEAD: TimeDelta = TimeDelta::minutes(15);

/// What the objects under a cluster's prefix say about each backup; the manifests themselves are not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    pub taken_at: DateTime<Utc>,
    pub object: Option<u64>,
    pub manifest: bool,
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
        pieces.taken_at = name.taken_at;
        match kind {
            ObjectKind::Snapshot => pieces.object = Some(object.size),
            ObjectKind::Manifest => pieces.manifest = true,
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

/// The key that a source comes to. A key's own time is when its backup was planned, the manifest's when the snapshot was
/// taken, which may be hours later (a lock that was held, a store that was away): `before` goes by the manifest.
pub(super) async fn resolve(store: &Store, cluster_prefix: &str, source: &Source) -> Result<String, MoverError> {
    if let Source::Key(key) = source {
        return Ok(key.clone());
    }
    let all = survey(store, cluster_prefix).await?;
    let found = match source {
        Source::Before(time) => taken_before(store, &all, *time).await?,
        Source::Key(_) | Source::Latest => latest(&all, Utc::now()),
    };
    found.map(str::to_owned).ok_or_else(|| {
        let when = if let Source::Before(time) = source { format!(" taken before {time}") } else { String::new() };
        MoverError::NothingFound(format!("under {cluster_prefix}{when} in {}", store.name()))
    })
}

/// The newest complete backup. One whose key lies in the future was named by a clock that ran ahead: it stands for the
/// latest only while there is no other.
fn latest(all: &BTreeMap<String, Pieces>, now: DateTime<Utc>) -> Option<&str> {
    let past = newest_first(all, now + AHEAD).first().copied();
    past.or_else(|| newest_first(all, DateTime::<Utc>::MAX_UTC).first().copied())
}

/// The newest complete backup whose snapshot was taken before this time. Nothing is taken before it was planned, so keys
/// of that time and later need no look.
async fn taken_before<'a>(
    store: &Store,
    all: &'a BTreeMap<String, Pieces>,
    time: DateTime<Utc>,
) -> Result<Option<&'a str>, MoverError> {
    for key in newest_first(all, time) {
        if store.manifest(key).await?.is_some_and(|manifest| manifest.taken_at < time) {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// The complete backups that were planned before this time.
fn newest_first(all: &BTreeMap<String, Pieces>, before: DateTime<Utc>) -> Vec<&str> {
    let complete = all.iter().filter(|(_, pieces)| pieces.state() == BackupState::Complete && pieces.taken_at < before);
    let mut complete: Vec<(DateTime<Utc>, &str)> =
        complete.map(|(key, pieces)| (pieces.taken_at, key.as_str())).collect();
    complete.sort_unstable_by(|a, b| b.cmp(a));
    complete.into_iter().map(|(_, key)| key).collect()
}

/// All backups of a cluster, oldest first, with their manifests.
pub(super) async fn list(store: &Store, cluster_prefix: &str) -> Result<Vec<ListedBackup>, MoverError> {
    let mut listed = Vec::new();
    for (key, pieces) in survey(store, cluster_prefix).await? {
        let manifest = if pieces.manifest {
            match store.manifest(&key).await {
                // One unreadable manifest must not hide all other backups.
                Err(StoreError::Manifest { source, .. }) => {
                    eprintln!("the manifest of {key} is not usable: {source}");
                    None
                }
                other => other?,
            }
        } else {
            None
        };
        listed.push(ListedBackup {
            taken_at: manifest.as_ref().map_or(pieces.taken_at, |manifest| manifest.taken_at),
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
    let mut stream = store.stream(&found.key, found.size);
    let (feed, reader) = feed::pipe();
    let verify = async {
        let verified = tokio::task::spawn_blocking(move || archive::read(reader, limits));
        verified.await.map_err(MoverError::Task)?.map_err(MoverError::Archive)
    };
    let fill = async {
        while let Some(chunk) = stream.try_next().await? {
            meter.add(chunk.len());
            if !feed.push(chunk).await {
                // The verifier has found a fault and says so itself.
                return std::future::pending().await;
            }
        }
        feed.finish().await;
        Ok(())
    };
    let ((), verified) = tokio::try_join!(biased; fill, verify)?;
    found.compare(&verified)?;
    Ok(verified)
}

/// Brings an object to the local disk.
pub(super) async fn download(
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
        let taken_at: DateTime<Utc> = format!("2026-11-21T{hour:02}:00:00Z").parse().unwrap();
        let key = keys::snapshot_key("", "ns", "c", taken_at, "abcdefgh");
        (key, Pieces { taken_at, object: Some(1), manifest, pin: false, deleting })
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

    #[test]
    fn the_newest_is_the_newest_that_is_complete() {
        let all: BTreeMap<_, _> =
            [pieces(1, true, false), pieces(2, true, false), pieces(3, true, true), pieces(4, false, false)].into();
        let (first, second) = (pieces(1, true, false), pieces(2, true, false));
        assert_eq!(newest_first(&all, DateTime::<Utc>::MAX_UTC), [second.0.as_str(), first.0.as_str()]);
        assert_eq!(newest_first(&all, second.1.taken_at), [first.0.as_str()]);
        let ahead = second.1.taken_at - TimeDelta::minutes(10);
        assert_eq!(latest(&all, ahead), Some(second.0.as_str()), "a clock may be a little ahead");
        assert_eq!(latest(&all, first.1.taken_at), Some(first.0.as_str()), "one from the future is not the latest");
        let only: BTreeMap<_, _> = [pieces(2, true, false)].into();
        assert_eq!(latest(&only, first.1.taken_at), Some(second.0.as_str()), "but better than none");
        assert_eq!(newest_first(&all, first.1.taken_at), [""; 0]);
    }

    /// Planned at one, two and three; the second one waited until half past two before its snapshot was taken.
    #[tokio::test]
    async fn before_a_moment_means_taken_before_it_not_planned_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_string_lossy().into_owned();
        let target = Target { provider: Provider::File, file: Some(FileTarget { root }), ..Target::default() };
        let store = Store::open(&target, &Credentials::default()).unwrap();
        for (hour, taken) in [(1, "01:00:05"), (2, "02:30:00"), (3, "03:00:05")] {
            let key = pieces(hour, true, false).0;
            let taken = format!("2026-11-21T{taken}Z").parse().unwrap();
            store.create(&key, Bytes::from_static(b"x")).await.unwrap();
            let bytes = manifest(&key, taken, "u").to_bytes().unwrap();
            store.create(&keys::manifest_key(&key), bytes.into()).await.unwrap();
        }
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
