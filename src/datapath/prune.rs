//! Deleting backups so that a crash at any point leaves nothing half listed: mark, manifest, object, pin, mark. The mark
//! comes first and goes last; whoever finds one finishes the work. Foreign objects are never touched. What the store does not
//! let go (a legal hold, a file of somebody else) stands in the way of nothing else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::error::MoverError;
use super::protocol::{BackupState, KeptKey, PruneDone};
use super::stored::{self, Pieces, READ_AT_ONCE, survey};
use crate::adapter::objectstore::{Provider, Store, StoreError, error::detail, keys};

/// What to do, decided by somebody else.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// Complete backups to delete, the oldest first: a store that keeps things for a time lets those go, and a run that is cut
    /// off has done what is most overdue.
    pub remove: Vec<String>,
    /// Keys of operations that died: removed unless there is both a manifest and an object.
    pub clean: Vec<String>,
    /// Keys that must stay, with the reason.
    pub protected: BTreeMap<String, String>,
    /// UID of the cluster whose backups these are. Empty (a person's own call): all are taken for its own.
    pub cluster_uid: String,
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

/// Adds what `rules` remove to `orders`, and says of each backup why it stays or goes.
///
/// The rules of a cluster are for its own backups. A key tells namespace and name only, and another cluster may have had
/// them before (or has them now, in another Kubernetes): those backups neither go by these rules nor use up their counts.
/// Nor do those that are ordered to go anyway, or were left by an operation that failed: no good one goes in their stead.
pub(super) async fn judge(
    store: &Store,
    cluster_prefix: &str,
    orders: &mut Orders,
    policy: &str,
    uncounted: &[String],
    rules: Rules,
) -> Result<Vec<Ruling>, MoverError> {
    let all = survey(store, cluster_prefix).await?;
    let mut candidates: Vec<Candidate> = all
        .iter()
        .filter(|(key, pieces)| {
            let ordered = orders.remove.contains(*key) || orders.clean.contains(*key);
            !ordered && pieces.state() == BackupState::Complete
        })
        .map(|(key, pieces)| Candidate {
            key: key.clone(),
            taken_at: pieces.planned_at,
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
    if rulings.iter().any(|ruling| !ruling.keep) {
        let told = told(store, &candidates, &orders.cluster_uid).await?;
        let strangers: BTreeMap<String, &'static str> =
            told.iter().filter_map(|(key, told)| Some((key.clone(), told.stranger?))).collect();
        candidates.retain(|candidate| !strangers.contains_key(&candidate.key));
        for candidate in &mut candidates {
            let Some(told) = told.get(&candidate.key) else { continue };
            candidate.counts &= !told.safety;
            // A restore of the latest goes by this time too: the newest is the same one for both.
            candidate.taken_at = told.taken_at.unwrap_or(candidate.taken_at);
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
    let going: BTreeSet<&str> =
        rulings.iter().filter(|ruling| !ruling.keep).map(|ruling| ruling.key.as_str()).collect();
    candidates.sort_by(|a, b| (a.taken_at, &a.key).cmp(&(b.taken_at, &b.key)));
    let going = candidates.into_iter().map(|candidate| candidate.key).filter(|key| going.contains(key.as_str()));
    orders.remove.extend(going);
    Ok(rulings)
}

/// What a manifest tells the rules. The records of the operations may be gone by then.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// When the snapshot was taken: what the backup is as of, whenever it was planned.
    taken_at: Option<DateTime<Utc>>,
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
        let told = told_of(store, &candidate.key, cluster_uid).await;
        told.map(|told| (candidate.key.clone(), told)).map_err(MoverError::from)
    });
    let looks: Vec<_> = looks.collect();
    stream::iter(looks).buffer_unordered(READ_AT_ONCE).try_collect().await
}

async fn told_of(store: &Store, key: &str, cluster_uid: &str) -> Result<Told, StoreError> {
    let asks = !cluster_uid.is_empty();
    match store.manifest(key).await {
        Ok(Some(manifest)) => {
            let ours = !asks || ["", cluster_uid].contains(&manifest.cluster.uid.as_str());
            let stranger = (!ours).then_some(OTHER_CLUSTER);
            Ok(Told { taken_at: Some(manifest.taken_at), stranger, safety: manifest.operation.role == SAFETY })
        }
        // Removed since the list was made.
        Ok(None) => Ok(Told { taken_at: None, stranger: asks.then_some(NO_OWNER), safety: false }),
        // Nothing here can tell whose it is.
        Err(error) if stored::is_of_one(&error) => {
            eprintln!("the manifest of {key} cannot be read: {}", detail(&error));
            Ok(Told { taken_at: None, stranger: asks.then_some(NO_OWNER), safety: false })
        }
        Err(error) => Err(error),
    }
}

pub(super) async fn run(store: &Store, cluster_prefix: &str, orders: &Orders) -> Result<PruneDone, MoverError> {
    let started = Instant::now();
    let mut done = PruneDone::default();
    let all = survey(store, cluster_prefix).await?;
    // Whether the store keeps both a backup and the mark of its deletion.
    let mut keeps_marks = false;
    for (key, pieces) in all.iter().filter(|(_, pieces)| pieces.state() == BackupState::Deleting) {
        match go_on(store, key, pieces, orders).await {
            Ok(Went::MarkStays) if !pieces.manifest && pieces.object.is_none() => {}
            Ok(Went::Gone | Went::MarkStays) => done.finished.push(key.clone()),
            Ok(Went::Kept(reason)) => done.kept.push(kept(key, &reason)),
            Err(refused) => {
                keeps_marks |= refused.keeps_mark;
                done.failed.push(refused.about(key)?);
            }
        }
    }
    for key in &orders.remove {
        if let Some(reason) = orders.protected.get(key) {
            done.kept.push(kept(key, reason));
            continue;
        }
        match standing(&all, cluster_prefix, key) {
            Standing::Removable(pieces) => match remove(store, key, pieces, keeps_marks, orders.dry_run).await {
                Ok(Went::Gone | Went::MarkStays) => done.removed.push(key.clone()),
                Ok(Went::Kept(reason)) => done.kept.push(kept(key, &reason)),
                Err(refused) => {
                    keeps_marks |= refused.keeps_mark;
                    done.failed.push(refused.about(key)?);
                }
            },
            Standing::Gone => {}
            Standing::Kept(reason) => done.kept.push(kept(key, reason)),
        }
    }
    for key in &orders.clean {
        match all.get(key).map(Pieces::state) {
            Some(BackupState::Complete) => done.kept.push(kept(key, COMPLETED)),
            _ if keys::parse(cluster_prefix, key).is_none() => done.kept.push(kept(key, NOT_OURS)),
            _ => match clean(store, key, orders.dry_run).await.map_err(Refused::by(store)) {
                Ok(Went::Gone | Went::MarkStays) => done.cleaned.push(key.clone()),
                Ok(Went::Kept(reason)) => done.kept.push(kept(key, &reason)),
                Err(refused) => done.failed.push(refused.about(key)?),
            },
        }
    }
    done.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(done)
}

fn kept(key: &str, reason: &str) -> KeptKey {
    KeptKey { key: key.to_owned(), reason: reason.to_owned() }
}

/// Something that could not be removed.
struct Refused {
    error: StoreError,
    /// The store is not there: whatever comes next would fare the same.
    ends: bool,
    /// Its mark stays as well, and hides a backup that is whole.
    keeps_mark: bool,
}

impl Refused {
    fn by(store: &Store) -> impl Fn(StoreError) -> Self {
        let folder = store.target().provider == Provider::File;
        move |error| {
            let of_one = match &error {
                // What is held or kept by a rule is told as either, by the cloud.
                StoreError::Permission { .. } | StoreError::AlreadyExists { .. } | StoreError::Full { .. } => true,
                StoreError::Server { .. } => folder,
                _ => false,
            };
            Self { error, ends: !of_one, keeps_mark: false }
        }
    }

    /// For the list of what stays; or the end of the whole run.
    fn about(self, key: &str) -> Result<KeptKey, MoverError> {
        if self.ends {
            return Err(self.error.into());
        }
        let reason: String = self.error.to_string().chars().take(REASON).collect();
        eprintln!("{key} could not be removed: {reason}");
        Ok(KeptKey { key: key.to_owned(), reason })
    }
}

/// Most characters of a store's refusal: several of them have to fit a termination message.
const REASON: usize = 300;

const PINNED: &str = "it is pinned";
const COMPLETED: &str = "it has a manifest: the backup was completed";
const NOT_OURS: &str = "it is not the key of a backup of this cluster";
/// Why the rules leave a backup alone: a cluster's rules are for its own backups.
pub const OTHER_CLUSTER: &str = "of another cluster that had this name";
/// [`ManifestOperation::role`](crate::adapter::objectstore::manifest::ManifestOperation::role) of a backup that a restore
/// takes first.
pub const SAFETY: &str = "Safety";
const NO_OWNER: &str = "its manifest cannot be read, and nothing else tells which cluster it is of";

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

/// What became of a backup that is to go.
enum Went {
    Gone,
    /// It is gone, and the store keeps the mark that said so: that is the youngest of its objects, and stays the longest where
    /// things are kept for a time.
    MarkStays,
    Kept(String),
}

/// A deletion that an earlier run began. Where somebody relies on that backup by now it is not finished; while it is whole it
/// is made one again, for nobody finds a marked one. Another cluster's is left to that one, which alone knows who relies on it,
/// as long as its manifest is there: without that nobody can restore it any more.
async fn go_on(store: &Store, key: &str, pieces: &Pieces, orders: &Orders) -> Result<Went, Refused> {
    let (whole, protected) = (pieces.manifest && pieces.object.is_some(), orders.protected.get(key));
    let wanted = protected.cloned().or_else(|| (pieces.pin && whole).then(|| PINNED.to_owned()));
    let Some(reason) = wanted else {
        let asks = pieces.manifest && !orders.cluster_uid.is_empty();
        if asks
            && let Some(stranger) = told_of(store, key, &orders.cluster_uid).await.map_err(Refused::by(store))?.stranger
        {
            return Ok(Went::Kept(stranger.to_owned()));
        }
        return finish(store, key, pieces, orders.dry_run).await;
    };
    if whole && !orders.dry_run {
        store.delete(&keys::deleting_key(key)).await.map_err(Refused::by(store))?;
    }
    Ok(Went::Kept(reason))
}

/// What was pinned since the list was made stays: whoever pins something and sees the pin may rely on it.
async fn remove(store: &Store, key: &str, pieces: &Pieces, keeps_marks: bool, dry_run: bool) -> Result<Went, Refused> {
    if store.head(&keys::pin_key(key)).await.map_err(Refused::by(store))?.is_some() {
        return Ok(Went::Kept(PINNED.to_owned()));
    }
    if dry_run {
        return Ok(Went::Gone);
    }
    if !may_be_marked(store, key, keeps_marks).await? {
        // Without its manifest it is no backup any more either, and a store without room has some then.
        store.delete(&keys::manifest_key(key)).await.map_err(Refused::by(store))?;
        if let Err(error) = mark(store, key).await {
            eprintln!("{key} is removed without a mark: {error}");
        }
    }
    finish(store, key, pieces, dry_run).await
}

/// Marks a backup before anything of it goes. False: the store has no room for a mark, or would keep it together with the
/// backup, which nobody would find then.
async fn may_be_marked(store: &Store, key: &str, keeps_marks: bool) -> Result<bool, Refused> {
    if keeps_marks {
        return Ok(false);
    }
    match mark(store, key).await {
        Ok(()) => Ok(true),
        Err(StoreError::Full { .. }) => Ok(false),
        Err(error) => Err(Refused::by(store)(error)),
    }
}

async fn mark(store: &Store, key: &str) -> Result<(), StoreError> {
    match store.create(&keys::deleting_key(key), Bytes::from_static(b"being deleted\n")).await {
        Err(StoreError::AlreadyExists { .. }) => Ok(()),
        other => other,
    }
}

/// After the mark: the manifest first, so that no list shows a backup whose object is gone.
async fn finish(store: &Store, key: &str, pieces: &Pieces, dry_run: bool) -> Result<Went, Refused> {
    if dry_run {
        return Ok(Went::Gone);
    }
    if let Err(error) = store.delete(&keys::manifest_key(key)).await {
        return Err(unmarked(store, key, pieces, error).await);
    }
    store.delete(key).await.map_err(Refused::by(store))?;
    store.clear_staged(key).await.map_err(Refused::by(store))?;
    let beside = async {
        if pieces.pin {
            store.delete(&keys::pin_key(key)).await?;
        }
        store.delete(&keys::deleting_key(key)).await
    };
    match beside.await.map_err(Refused::by(store)) {
        Ok(()) => Ok(Went::Gone),
        Err(refused) if refused.ends => Err(refused),
        Err(refused) => {
            eprintln!("{key} is removed, its mark stays until a later run: {}", refused.error);
            Ok(Went::MarkStays)
        }
    }
}

/// A backup whose manifest the store does not let go is whole, and is one again without its mark. A store that keeps that too,
/// as one does that keeps everything for a time, gets a mark of another one only when that one's manifest has gone.
async fn unmarked(store: &Store, key: &str, pieces: &Pieces, error: StoreError) -> Refused {
    let refused = Refused::by(store)(error);
    if refused.ends || pieces.object.is_none() || !matches!(store.head(&keys::manifest_key(key)).await, Ok(Some(_))) {
        return refused;
    }
    let keeps_mark = store.delete(&keys::deleting_key(key)).await.is_err();
    Refused { keeps_mark, ..refused }
}

/// What a mover left that died. Its manifest is asked for once more: a list may lag behind it, or it was on its way when the mover
/// was killed. With its object it makes a backup; without one it is nothing to restore, and in the way of every next attempt.
async fn clean(store: &Store, key: &str, dry_run: bool) -> Result<Went, StoreError> {
    let manifest = keys::manifest_key(key);
    let has_manifest = store.head(&manifest).await?.is_some();
    if has_manifest && store.head(key).await?.is_some() {
        return Ok(Went::Kept(COMPLETED.to_owned()));
    }
    if dry_run {
        return Ok(Went::Gone);
    }
    store.delete(&keys::preflight_key(key)).await?;
    if has_manifest {
        store.delete(&manifest).await?;
    }
    store.delete(key).await?;
    store.clear_staged(key).await?;
    Ok(Went::Gone)
}

#[cfg(test)]
mod tests;
