//! Deleting backups so that a crash at any point leaves nothing half listed: mark, manifest, object, pin, mark. The mark
//! comes first and goes last; whoever finds one finishes the work. Foreign objects are never touched.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::error::MoverError;
use super::protocol::{BackupState, KeptKey, PruneDone};
use super::stored::{Pieces, survey};
use crate::adapter::objectstore::{Store, StoreError, keys};

/// What to do, decided by somebody else.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// Complete backups to delete.
    pub remove: Vec<String>,
    /// Keys of operations that died: removed if, and only if, they have no manifest.
    pub clean: Vec<String>,
    /// Keys that must stay, with the reason.
    pub protected: BTreeMap<String, String>,
    pub dry_run: bool,
}

/// A complete backup as retention sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub key: String,
    pub taken_at: DateTime<Utc>,
    pub pinned: bool,
    /// Why it must stay, if the operator says so.
    pub protected: Option<String>,
    /// Whether it uses up counts; a safety backup does not.
    pub counts: bool,
}

/// What becomes of a candidate, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub key: String,
    pub keep: bool,
    pub reason: String,
}

/// A retention policy that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the retention policy is not usable: {0}")]
pub struct BadPolicy(pub String);

/// Applies a policy (`spec.backup.retention` as JSON). The rules belong to a layer above this one, so whoever makes a
/// program of this hands them in.
pub type Rules = fn(&str, &[Candidate], DateTime<Utc>) -> Result<Vec<Ruling>, BadPolicy>;

/// Manifests that are read at the same time: a few KiB each, so that a year of backups costs seconds.
const READ_AT_ONCE: usize = 8;

/// Adds what `rules` remove to `orders`, and says of each backup why it stays or goes.
///
/// The rules of a cluster are for its own backups. A key tells namespace and name only, and another cluster may have had
/// them before (or has them now, in another Kubernetes): those backups neither go by these rules nor use up their counts.
/// An empty `cluster_uid` (a person's own call) takes all for the cluster's.
pub(super) async fn judge(
    store: &Store,
    cluster_prefix: &str,
    cluster_uid: &str,
    orders: &mut Orders,
    policy: &str,
    uncounted: &[String],
    rules: Rules,
) -> Result<Vec<Ruling>, MoverError> {
    let all = survey(store, cluster_prefix).await?;
    let mut candidates: Vec<Candidate> = all
        .iter()
        .filter(|(_, pieces)| pieces.state() == BackupState::Complete)
        .map(|(key, pieces)| Candidate {
            key: key.clone(),
            taken_at: pieces.taken_at,
            pinned: pieces.pin,
            protected: orders.protected.get(key).cloned(),
            counts: !uncounted.contains(key),
        })
        .collect();
    let now = Utc::now();
    let apply = |candidates: &[Candidate]| {
        rules(policy, candidates, now).map_err(|error| MoverError::Config(error.to_string()))
    };
    let mut rulings = apply(&candidates)?;
    // Manifests are read only when something would go; then all of them, for one that stays may stand in another's place.
    if !cluster_uid.is_empty() && rulings.iter().any(|ruling| !ruling.keep) {
        let told = told(store, &candidates, cluster_uid).await?;
        let strangers: BTreeMap<String, &'static str> =
            told.iter().filter_map(|(key, told)| Some((key.clone(), told.stranger?))).collect();
        candidates.retain(|candidate| !strangers.contains_key(&candidate.key));
        for candidate in &mut candidates {
            candidate.counts &= !told.get(&candidate.key).is_some_and(|told| told.safety);
        }
        rulings = apply(&candidates)?;
        rulings.extend(strangers.into_iter().map(|(key, reason)| Ruling {
            key,
            keep: true,
            reason: reason.to_owned(),
        }));
    }
    for ruling in &rulings {
        eprintln!("{} {}: {}", if ruling.keep { "keep" } else { "remove" }, ruling.key, ruling.reason);
    }
    orders.remove.extend(rulings.iter().filter(|ruling| !ruling.keep).map(|ruling| ruling.key.clone()));
    Ok(rulings)
}

/// What a manifest tells the rules. The records of the operations may be gone by then.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// Why the backup cannot be taken for one of the cluster with this UID.
    stranger: Option<&'static str>,
    /// Taken before a restore: it stands in no other one's place.
    safety: bool,
}

async fn told(
    store: &Store,
    candidates: &[Candidate],
    cluster_uid: &str,
) -> Result<BTreeMap<String, Told>, MoverError> {
    let looks = candidates.iter().map(|candidate| async move {
        let told = match store.manifest(&candidate.key).await {
            Ok(Some(manifest)) => Told {
                stranger: (!["", cluster_uid].contains(&manifest.cluster.uid.as_str())).then_some(OTHER_CLUSTER),
                safety: manifest.operation.role == SAFETY,
            },
            // Removed since the list was made, or written by a newer program: nothing here can tell whose it is.
            Ok(None) | Err(StoreError::Manifest { .. } | StoreError::Size { .. }) => {
                Told { stranger: Some(NO_OWNER), safety: false }
            }
            Err(error) => return Err(MoverError::from(error)),
        };
        Ok((candidate.key.clone(), told))
    });
    let looks: Vec<_> = looks.collect();
    stream::iter(looks).buffer_unordered(READ_AT_ONCE).try_collect().await
}

pub(super) async fn run(store: &Store, cluster_prefix: &str, orders: &Orders) -> Result<PruneDone, MoverError> {
    let started = Instant::now();
    let mut done = PruneDone::default();
    let all = survey(store, cluster_prefix).await?;
    for (key, pieces) in all.iter().filter(|(_, pieces)| pieces.state() == BackupState::Deleting) {
        finish(store, key, pieces, orders.dry_run).await?;
        done.finished.push(key.clone());
    }
    for key in &orders.remove {
        if let Some(reason) = orders.protected.get(key) {
            done.kept.push(KeptKey { key: key.clone(), reason: reason.clone() });
            continue;
        }
        match standing(&all, cluster_prefix, key) {
            // Pinned since the list was made: whoever pins something and sees the pin may rely on it.
            Standing::Removable(_) if store.head(&keys::pin_key(key)).await?.is_some() => {
                done.kept.push(KeptKey { key: key.clone(), reason: PINNED.to_owned() });
            }
            Standing::Removable(pieces) => {
                mark(store, key, orders.dry_run).await?;
                finish(store, key, pieces, orders.dry_run).await?;
                done.removed.push(key.clone());
            }
            Standing::Gone => {}
            Standing::Kept(reason) => done.kept.push(KeptKey { key: key.clone(), reason: reason.to_owned() }),
        }
    }
    for key in &orders.clean {
        match all.get(key).map(Pieces::state) {
            Some(BackupState::Complete | BackupState::NoObject) => {
                done.kept.push(KeptKey {
                    key: key.clone(),
                    reason: "it has a manifest: the backup was completed".to_owned(),
                });
            }
            _ if keys::parse(cluster_prefix, key).is_none() => {
                done.kept.push(KeptKey { key: key.clone(), reason: NOT_OURS.to_owned() });
            }
            _ => {
                if !orders.dry_run {
                    store.delete(&keys::preflight_key(key)).await?;
                    store.delete(key).await?;
                    store.clear_staged(key).await?;
                }
                done.cleaned.push(key.clone());
            }
        }
    }
    done.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(done)
}

const PINNED: &str = "it is pinned";
const NOT_OURS: &str = "it is not the key of a backup of this cluster";
/// Why the rules leave a backup alone: a cluster's rules are for its own backups.
pub const OTHER_CLUSTER: &str = "of another cluster that had this name";
/// [`ManifestOperation::role`](crate::adapter::objectstore::manifest::ManifestOperation::role) of a backup that a restore
/// takes first.
pub const SAFETY: &str = "Safety";
const NO_OWNER: &str = "its manifest does not tell which cluster it is of";

enum Standing<'a> {
    Removable(&'a Pieces),
    /// Nothing is left of it, or it is being finished already.
    Gone,
    Kept(&'static str),
}

fn standing<'a>(all: &'a BTreeMap<String, Pieces>, cluster_prefix: &str, key: &str) -> Standing<'a> {
    let ours = matches!(keys::parse(cluster_prefix, key), Some((name, keys::ObjectKind::Snapshot)) if name.key == key);
    match all.get(key) {
        _ if !ours => Standing::Kept(NOT_OURS),
        None => Standing::Gone,
        Some(pieces) if pieces.deleting => Standing::Gone,
        Some(pieces) if pieces.pin => Standing::Kept(PINNED),
        Some(pieces) => Standing::Removable(pieces),
    }
}

async fn mark(store: &Store, key: &str, dry_run: bool) -> Result<(), MoverError> {
    if dry_run {
        return Ok(());
    }
    match store.create(&keys::deleting_key(key), Bytes::from_static(b"being deleted\n")).await {
        Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// After the mark: the manifest first, so that no list shows a backup whose object is gone.
async fn finish(store: &Store, key: &str, pieces: &Pieces, dry_run: bool) -> Result<(), MoverError> {
    if dry_run {
        return Ok(());
    }
    store.delete(&keys::manifest_key(key)).await?;
    store.delete(key).await?;
    store.clear_staged(key).await?;
    if pieces.pin {
        store.delete(&keys::pin_key(key)).await?;
    }
    store.delete(&keys::deleting_key(key)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::objectstore::target::{FileTarget, Provider};
    use crate::adapter::objectstore::{Credentials, Target};
    use crate::datapath::stored::tests::manifest;

    const PREFIX: &str = "p/ns/c/";

    fn key(hour: u32) -> String {
        format!("{PREFIX}2026-11-21T{hour:02}-00-00Z-abcdefgh.snap")
    }

    async fn filled() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_string_lossy().into_owned();
        let target = Target { provider: Provider::File, file: Some(FileTarget { root }), ..Target::default() };
        let store = Store::open(&target, &Credentials::default()).unwrap();
        for hour in 1..5 {
            for object in [key(hour), keys::manifest_key(&key(hour))] {
                store.create(&object, Bytes::from_static(b"x")).await.unwrap();
            }
        }
        store.create(&format!("{PREFIX}foreign.txt"), Bytes::from_static(b"x")).await.unwrap();
        (folder, store)
    }

    async fn left(store: &Store) -> Vec<String> {
        let mut keys: Vec<_> = store.list(PREFIX).await.unwrap().objects.into_iter().map(|object| object.key).collect();
        keys.sort();
        keys
    }

    fn remove(keys: &[String]) -> Orders {
        Orders { remove: keys.to_vec(), ..Orders::default() }
    }

    #[tokio::test]
    async fn what_is_ordered_goes_and_nothing_else() {
        let (_keep, store) = filled().await;
        let foreign = format!("{PREFIX}foreign.txt");
        let done = run(&store, PREFIX, &remove(&[key(1), key(3), key(9), foreign.clone()])).await.unwrap();
        assert_eq!((done.removed, done.kept.len()), (vec![key(1), key(3)], 1));
        let expected = [key(2), keys::manifest_key(&key(2)), key(4), keys::manifest_key(&key(4)), foreign];
        assert_eq!(left(&store).await, expected);
    }

    #[tokio::test]
    async fn a_pinned_backup_stays() {
        let (_keep, store) = filled().await;
        store.create(&keys::pin_key(&key(1)), Bytes::new()).await.unwrap();
        let done = run(&store, PREFIX, &remove(&[key(1)])).await.unwrap();
        assert_eq!((done.removed.len(), done.kept[0].reason.as_str()), (0, "it is pinned"));
        assert_eq!(left(&store).await.len(), 10);
    }

    #[tokio::test]
    async fn a_dry_run_says_the_same_and_changes_nothing() {
        let (_keep, store) = filled().await;
        let dry = Orders { dry_run: true, ..remove(&[key(1)]) };
        assert_eq!(run(&store, PREFIX, &dry).await.unwrap().removed, [key(1)]);
        assert_eq!(left(&store).await.len(), 9);
    }

    /// The five steps of a deletion; a crash after each is finished by the next run, whatever that was ordered to do.
    #[tokio::test]
    async fn a_deletion_cut_off_after_any_step_is_finished_by_the_next_run() {
        for steps in 1..=4 {
            let (_keep, store) = filled().await;
            store.create(&keys::deleting_key(&key(1)), Bytes::new()).await.unwrap();
            let rest = [keys::manifest_key(&key(1)), key(1), keys::pin_key(&key(1))];
            for object in rest.iter().take(steps - 1) {
                store.delete(object).await.unwrap();
            }
            let done = run(&store, PREFIX, &Orders::default()).await.unwrap();
            assert_eq!(done.finished, [key(1)], "after step {steps}");
            assert!(left(&store).await.iter().all(|object| !object.starts_with(&key(1))), "after step {steps}");
        }
    }

    #[tokio::test]
    async fn a_dead_mover_s_object_is_cleaned_and_a_complete_backup_is_not() {
        let (_keep, store) = filled().await;
        store.delete(&keys::manifest_key(&key(2))).await.unwrap();
        let orders = Orders { clean: vec![key(1), key(2), key(8)], ..Orders::default() };
        let done = run(&store, PREFIX, &orders).await.unwrap();
        assert_eq!((done.cleaned, done.kept.len()), (vec![key(2), key(8)], 1));
        assert!(!left(&store).await.contains(&key(2)) && left(&store).await.contains(&key(1)));
    }

    fn keep_one(_: &str, candidates: &[Candidate], _: DateTime<Utc>) -> Result<Vec<Ruling>, BadPolicy> {
        let newest =
            candidates.iter().max_by_key(|candidate| candidate.taken_at).map(|candidate| candidate.key.clone());
        let rule = |candidate: &Candidate| Ruling {
            key: candidate.key.clone(),
            keep: Some(&candidate.key) == newest.as_ref(),
            reason: "the rule".to_owned(),
        };
        Ok(candidates.iter().map(rule).collect())
    }

    /// Four backups whose manifests name these clusters, oldest first.
    async fn owned_by(owners: [Option<&str>; 4]) -> (tempfile::TempDir, Store) {
        let (keep, store) = filled().await;
        for (hour, owner) in (1..5).zip(owners) {
            let at = format!("2026-11-21T{hour:02}:00:00Z").parse().unwrap();
            let Some(owner) = owner else { continue };
            store.delete(&keys::manifest_key(&key(hour))).await.unwrap();
            let manifest = manifest(&key(hour), at, owner).to_bytes().unwrap();
            store.create(&keys::manifest_key(&key(hour)), manifest.into()).await.unwrap();
        }
        (keep, store)
    }

    async fn removed(store: &Store, cluster_uid: &str) -> Vec<String> {
        let mut orders = Orders::default();
        let rulings = judge(store, PREFIX, cluster_uid, &mut orders, "", &[], keep_one).await.unwrap();
        assert_eq!(rulings.len(), 4, "each has its ruling");
        orders.remove
    }

    #[tokio::test]
    async fn a_cluster_made_again_under_its_name_removes_nothing_of_the_one_before_it() {
        let (_keep, store) = owned_by([Some("old"), Some("old"), Some("new"), Some("new")]).await;
        assert_eq!(removed(&store, "new").await, [key(3)]);
        assert_eq!(removed(&store, "third").await, [""; 0]);
        assert_eq!(removed(&store, "").await.len(), 3, "a person's own call speaks of all");
    }

    fn keep_one_that_counts(policy: &str, all: &[Candidate], now: DateTime<Utc>) -> Result<Vec<Ruling>, BadPolicy> {
        let counted: Vec<Candidate> = all.iter().filter(|candidate| candidate.counts).cloned().collect();
        let mut rulings = keep_one(policy, &counted, now)?;
        let others = all.iter().filter(|candidate| !candidate.counts);
        rulings.extend(others.map(|other| Ruling { key: other.key.clone(), keep: true, reason: "beside".to_owned() }));
        Ok(rulings)
    }

    #[tokio::test]
    async fn a_safety_backup_is_known_by_its_manifest_when_its_record_is_gone() {
        let (_keep, store) = owned_by([Some("ours"); 4]).await;
        let at = "2026-11-21T04:00:00Z".parse().unwrap();
        let mut safety = manifest(&key(4), at, "ours");
        safety.operation.role = SAFETY.to_owned();
        store.delete(&keys::manifest_key(&key(4))).await.unwrap();
        store.create(&keys::manifest_key(&key(4)), safety.to_bytes().unwrap().into()).await.unwrap();
        let mut orders = Orders::default();
        judge(&store, PREFIX, "ours", &mut orders, "", &[], keep_one_that_counts).await.unwrap();
        assert_eq!(orders.remove, [key(1), key(2)], "the newest of the others stays beside it");
    }

    #[tokio::test]
    async fn a_namesakes_newer_backup_takes_the_place_of_none_of_ours() {
        let (_keep, store) = owned_by([Some("ours"), Some("ours"), Some("theirs"), Some("theirs")]).await;
        assert_eq!(removed(&store, "ours").await, [key(1)], "the newest of ours stays beside theirs");
    }

    #[tokio::test]
    async fn a_backup_whose_manifest_cannot_be_read_is_left_alone_and_one_without_a_cluster_is_ours() {
        let (_keep, store) = owned_by([Some(""), None, Some("ours"), None]).await;
        assert_eq!(removed(&store, "ours").await, [key(1)]);
    }
}
