//! A lock in other hands: whether its holder is provably gone, and whether it may be taken by force.
//!
//! A lock is never released by time. The judgements here are pure ([`judge_orphan`], [`judge_override`]); around them is
//! what it takes to learn the facts.

use k8s_openapi::{api::batch::v1::Job, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::DeserializeGuard,
};
use serde_json::json;
use thiserror::Error;

use super::saga::{
    COMPENSATION_FAILED, DELETED_UNKNOWN, LOCK_LOST,
    machine::{Journal, Subject},
    run::may_be_overridden,
};
use crate::{
    adapter::{
        Adapters,
        caches::OPERATION_LABEL,
        kubernetes::{
            Namespaced,
            client::{RequestError, timed},
            owner::has_controller,
            readable,
            shorten::operation_label,
        },
        operationlock::{self, HeldError, LockError},
    },
    api::{
        OpenBaoRestore,
        cluster::{OpenBaoCluster, status::LockOperation},
        operation::{OVERRIDDEN_BY_ANNOTATION, OpenBaoOperation},
    },
};

/// What may be done about a lock in other hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Take it, if it is still this one.
    Take {
        /// The holder's UID.
        uid: String,
        /// The lock's fence.
        fence: i64,
    },
    /// Wait; `why` is added to the message, and may be empty.
    Wait {
        /// What a person should know.
        why: String,
    },
}

/// What could be learnt about the holder of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderFacts {
    /// What the lock is for.
    pub operation: LockOperation,
    /// What became of its object.
    pub holder: Holder,
    /// Jobs of its operation that exist.
    pub jobs: usize,
    /// Whether something was committed that must not happen twice or has no way back; `None` if that cannot be known any more.
    pub committed: Option<bool>,
}

/// What became of a lock's holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// It is at work, or may be.
    Live,
    /// Its operation has ended. `keeps`: with the lock kept on purpose, for a person or for whoever takes it by force.
    Ended {
        /// See above.
        keeps: bool,
    },
    /// Its object exists and does not match its kind: whether it has ended cannot be told.
    Unreadable,
    /// Neither its object nor its operation exists.
    Gone,
}

/// Why a lock could not be judged.
#[derive(Debug, Error)]
pub enum OverrideError {
    /// The holder could not be looked up.
    #[error("failed to look up {what} that holds the lock")]
    Look {
        /// What was looked up.
        what: String,
        /// What happened.
        source: RequestError,
    },
    /// The holder could not be told to stop.
    #[error("failed to tell operation {name} to stop")]
    Tell {
        /// The operation.
        name: String,
        /// What happened.
        source: RequestError,
    },
}

/// Whether nobody stands behind the lock any more, for sure: its holder ended without giving it back, or is gone and had done
/// nothing that must not happen twice; and no Job of it is left. Pure.
pub fn judge_orphan(facts: HolderFacts, held: &HeldError) -> Permission {
    let wait = |why: String| Permission::Wait { why };
    let what = match facts.holder {
        Holder::Live => return wait(String::new()),
        Holder::Unreadable => return wait(unreadable(held)),
        Holder::Ended { keeps: true } => {
            return wait("its operation has ended and keeps the lock: see its conditions for what to do".to_owned());
        }
        Holder::Ended { keeps: false } => "its operation has ended",
        Holder::Gone => "its object is gone",
    };
    if facts.jobs > 0 {
        return wait(format!("{what}, but {} of its Jobs still exist: delete them", facts.jobs));
    }
    match (facts.holder, facts.committed) {
        (Holder::Ended { .. }, _) | (_, Some(false)) => {
            Permission::Take { uid: held.holder_uid.clone(), fence: held.fence }
        }
        (_, Some(true) | None) => wait(only_a_person_may(held)),
    }
}

/// What is said of a lock whose holder is gone and may have done what must not happen twice.
fn only_a_person_may(held: &HeldError) -> String {
    format!(
        "its object is gone, and what it did to the cluster cannot be known: check the cluster, then put \
         {{action: Release, holderUID: {}, fence: {}}} into spec.requests of the cluster",
        held.holder_uid, held.fence
    )
}

/// What is said of a lock whose holder exists and cannot be read: it is neither told to stop nor taken for gone.
fn unreadable(held: &HeldError) -> String {
    let operation = held.operation_ref.as_ref().map(|name| format!(", operation {name},")).unwrap_or_default();
    format!(
        "{}{operation} exists and cannot be read as its kind: run the version of the operator that wrote it, or delete it and \
         take its finalizers off",
        held.holder
    )
}

/// Whether a forced operation may take the lock from `foreign`, the operation that works under it as far as one exists. Never
/// from a restore, never past a point of no return, and never where nobody can tell any more whether that was passed.
/// `committed` as in [`HolderFacts`].
pub fn judge_override(held: &HeldError, foreign: Option<&Journal>, committed: Option<bool>) -> Override {
    if held.operation == LockOperation::Restore {
        return Override::Refused("another restore's lock is never overridden".into());
    }
    // The operator's own maintenance names no operation, deletes pods one by one, and gives way.
    let is_upkeep = held.operation == LockOperation::Maintenance && held.operation_ref.is_none();
    let harmless = committed == Some(false) || is_upkeep;
    let is_unclear = |journal: &Journal| journal.status.reason.as_deref() == Some(DELETED_UNKNOWN);
    match foreign {
        None if harmless => Override::Take,
        None => Override::Refused(only_a_person_may(held)),
        // Its record is about to go, and it is as unclear what it did as when it is gone.
        Some(journal) if journal.status.phase.is_terminal() && is_unclear(journal) && !harmless => {
            Override::Refused(only_a_person_may(held))
        }
        Some(journal) if journal.status.phase.is_terminal() => Override::Take,
        Some(journal) if may_be_overridden(journal) => Override::StopFirst,
        Some(journal) => Override::Refused(format!(
            "operation {} is past its point of no return: its lock cannot be overridden",
            journal.subject.operation
        )),
    }
}

/// The verdict about an override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// The holder has stopped: take the lock.
    Take,
    /// The holder has to stop first.
    StopFirst,
    /// No.
    Refused(String),
}

/// Whether `held` may be taken because its holder is gone.
pub async fn orphaned(ad: &Adapters, cluster: &OpenBaoCluster, held: &HeldError) -> Result<Permission, OverrideError> {
    Ok(judge_orphan(learn(ad, cluster, held).await?, held))
}

/// Why a forced operation does not get the lock either, as things are; `None`: it may. Only looks.
pub async fn refused(
    ad: &Adapters,
    cluster: &OpenBaoCluster,
    held: &HeldError,
) -> Result<Option<String>, OverrideError> {
    match judged(ad, cluster, held).await? {
        (_, _, Override::Refused(why)) => Ok(Some(why)),
        (_, _, Override::Take | Override::StopFirst) => Ok(None),
    }
}

/// The operation that holds the lock, what is known of it, and whether it may be overridden.
async fn judged(
    ad: &Adapters,
    cluster: &OpenBaoCluster,
    held: &HeldError,
) -> Result<(Option<OpenBaoOperation>, HolderFacts, Override), OverrideError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let facts = learn(ad, cluster, held).await?;
    if facts.holder == Holder::Unreadable {
        return Ok((None, facts, Override::Refused(unreadable(held))));
    }
    let found = match &held.operation_ref {
        Some(name) => read::<OpenBaoOperation>(ad, &namespace, name).await?,
        None => None,
    };
    let foreign = match at_work(found, held) {
        Ok(foreign) => foreign,
        Err(why) => return Ok((None, facts, Override::Refused(why))),
    };
    let journal = foreign.as_ref().map(|foreign| Journal {
        status: foreign.status.clone().unwrap_or_default(),
        subject: Subject { operation: foreign.name_any(), kind: foreign.spec.operation, ..Subject::default() },
    });
    let verdict = judge_override(held, journal.as_ref(), facts.committed);
    Ok((foreign, facts, verdict))
}

/// The operation that works under a lock, as it was read a moment ago; the error is what is said of one that cannot be read. The
/// watch keeps the last readable form of that one, so it may have been taken for live.
fn at_work(
    found: Option<DeserializeGuard<OpenBaoOperation>>,
    held: &HeldError,
) -> Result<Option<OpenBaoOperation>, String> {
    match found.map(|found| found.0) {
        Some(Ok(op)) if op.works_under(&held.holder_uid) => Ok(Some(op)),
        Some(Err(op)) if is_holders(&op.metadata, &held.holder_uid) => Err(unreadable(held)),
        // A namesake that was made since is not judged in the holder's place.
        Some(_) | None => Ok(None),
    }
}

/// Whether the forced operation `op` may take the lock now. Tells its holder to stop if that comes first.
pub async fn may_take(
    ad: &Adapters,
    op: &OpenBaoOperation,
    cluster: &OpenBaoCluster,
    held: &HeldError,
) -> Result<Permission, OverrideError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let (foreign, facts, verdict) = judged(ad, cluster, held).await?;
    match verdict {
        Override::Refused(why) => Ok(Permission::Wait { why }),
        Override::Take if facts.jobs > 0 => {
            Ok(Permission::Wait { why: format!("{} of its Jobs have to end first", facts.jobs) })
        }
        Override::Take => Ok(Permission::Take { uid: held.holder_uid.clone(), fence: held.fence }),
        Override::StopFirst => {
            let by = format!("{}/{}", op.name_any(), op.uid().unwrap_or_default());
            if let Some(foreign) = foreign
                && foreign.annotations().get(OVERRIDDEN_BY_ANNOTATION) != Some(&by)
            {
                let api: Api<OpenBaoOperation> = Api::namespaced(ad.client.clone(), &namespace);
                let patch = json!({"metadata": {"uid": foreign.uid(), "annotations": {OVERRIDDEN_BY_ANNOTATION: by}}});
                timed(api.patch_metadata(&foreign.name_any(), &PatchParams::default(), &Patch::Merge(&patch)))
                    .await
                    .map_err(|source| OverrideError::Tell { name: foreign.name_any(), source })?;
            }
            Ok(Permission::Wait { why: "it was told to stop, since this operation takes over by force".into() })
        }
    }
}

/// What a lock leads to, as it is now.
async fn read<K: Namespaced>(
    ad: &Adapters,
    namespace: &str,
    name: &str,
) -> Result<Option<DeserializeGuard<K>>, OverrideError> {
    let api: Api<DeserializeGuard<K>> = Api::namespaced(ad.client.clone(), namespace);
    let failed = |source| OverrideError::Look { what: format!("{} {name}", K::kind(&())), source };
    timed(api.get_opt(name)).await.map_err(failed)
}

/// Finds out about the holder. Starts from the watches; "gone" is believed only from the API server.
async fn learn(ad: &Adapters, cluster: &OpenBaoCluster, held: &HeldError) -> Result<HolderFacts, OverrideError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let committed = match held.operation {
        LockOperation::Backup => Some(false),
        LockOperation::Upgrade | LockOperation::Restore | LockOperation::Maintenance => held.committed,
    };
    let mut facts = HolderFacts { operation: held.operation, holder: Holder::Live, jobs: 0, committed };
    // The operator's own maintenance, which gives its lock back by itself.
    if cluster.uid().as_deref() == Some(&held.holder_uid) {
        return Ok(facts);
    }
    let known = ad.caches.operations_of(&namespace, &cluster.name_any());
    let live = |op: &OpenBaoOperation| !op.has_ended();
    if known.iter().any(|op| op.uid().as_deref() == Some(&held.holder_uid) && live(op)) {
        return Ok(facts);
    }
    let found = match &held.operation_ref {
        Some(name) => read::<OpenBaoOperation>(ad, &namespace, name).await?,
        None => named_by_nobody(ad, &namespace, &held.holder_uid).await?,
    };
    facts.holder = match found.as_ref().map(|found| &found.0) {
        Some(Ok(op)) if op.works_under(&held.holder_uid) => became(ad, op),
        Some(Err(op)) if is_holders(&op.metadata, &held.holder_uid) => Holder::Unreadable,
        Some(_) | None => Holder::Gone,
    };
    if facts.holder == Holder::Gone
        && let Some(name) = held.holder.strip_prefix("openbaorestore/")
    {
        let restore = read::<OpenBaoRestore>(ad, &namespace, name).await?;
        // One that ended without its operation says nothing about what was done: that is as good as gone.
        let live = |restore: &OpenBaoRestore| !restore.status.as_ref().is_some_and(|status| status.phase.is_terminal());
        facts.holder = match restore.filter(|restore| restore.uid().as_deref() == Some(&held.holder_uid)) {
            Some(DeserializeGuard(Ok(restore))) if live(&restore) => Holder::Live,
            Some(DeserializeGuard(Err(_))) => Holder::Unreadable,
            Some(_) | None => Holder::Gone,
        };
    }
    if matches!(facts.holder, Holder::Live | Holder::Unreadable) {
        return Ok(facts);
    }
    if let Some(name) = &held.operation_ref {
        let jobs: Api<Job> = Api::namespaced(ad.client.clone(), &namespace);
        let selector = ListParams::default().labels(&format!("{OPERATION_LABEL}={}", operation_label(name)));
        facts.jobs = timed(jobs.list_metadata(&selector))
            .await
            .map_err(|source| OverrideError::Look { what: format!("the Jobs of operation {name}"), source })?
            .items
            .len();
    }
    Ok(facts)
}

/// The operation with this UID, for a lock that does not name one.
async fn named_by_nobody(
    ad: &Adapters,
    namespace: &str,
    uid: &str,
) -> Result<Option<DeserializeGuard<OpenBaoOperation>>, OverrideError> {
    let api: Api<DeserializeGuard<OpenBaoOperation>> = Api::namespaced(ad.client.clone(), namespace);
    let found = readable::list(&api, |op: &OpenBaoOperation| op.uid().as_deref() == Some(uid))
        .await
        .map_err(|source| OverrideError::Look { what: format!("the operation with UID {uid}"), source })?;
    let unreadable = found.unreadable.into_iter().find(|op| op.metadata.uid.as_deref() == Some(uid));
    Ok(found.items.into_iter().next().map(Ok).or(unreadable.map(Err)).map(DeserializeGuard))
}

/// Whether an operation that cannot be read works under a lock that is held for this UID: its own, or that of the restore that
/// it works for.
fn is_holders(operation: &ObjectMeta, holder_uid: &str) -> bool {
    operation.uid.as_deref() == Some(holder_uid) || has_controller(operation, holder_uid)
}

/// Whether an operation that exists still stands behind its lock.
fn became(ad: &Adapters, op: &OpenBaoOperation) -> Holder {
    let Some(status) = op.status.as_ref().filter(|status| status.phase.is_terminal()) else { return Holder::Live };
    let keeps = match status.reason.as_deref() {
        Some(COMPENSATION_FAILED | DELETED_UNKNOWN) => true,
        Some(LOCK_LOST) => overrider(ad, op).is_some(),
        _ => false,
    };
    Holder::Ended { keeps }
}

/// The live, forced operation that waits for `op` to stop, by name.
pub(super) fn overrider(ad: &Adapters, op: &OpenBaoOperation) -> Option<String> {
    let (name, uid) = op.annotations().get(OVERRIDDEN_BY_ANNOTATION)?.rsplit_once('/')?;
    let forcing = ad.caches.operation(&op.namespace()?, name)?;
    let live = forcing.uid().as_deref() == Some(uid) && !forcing.has_ended();
    live.then(|| name.to_owned())
}

/// Gives back the lock of `cluster` if nobody stands behind it any more, so that those who wait without claiming it (a
/// schedule, an upgrade not yet asked for) are not held up for ever. Asks the API server only when the watches know of
/// no live holder. Returns the lock that was cleared.
pub async fn clear_orphan(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<Option<HeldError>, ReleaseError> {
    let Some(lock) = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref()) else {
        return Ok(None);
    };
    let held = HeldError::from(lock);
    let Permission::Take { uid, fence } = judge_orphan(learn(ad, cluster, &held).await?, &held) else {
        return Ok(None);
    };
    match operationlock::of(&ad.client, cluster)?.clear(&uid, fence).await {
        Ok(true) => Ok(Some(held)),
        // Somebody else was faster.
        Ok(false) | Err(LockError::Held { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What became of a `Release` in a cluster's `spec.requests`: the message for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// The lock is free.
    Applied(String),
    /// There was no such lock.
    Superseded(String),
    /// It was not released.
    Refused(String),
}

/// Why a request to release a lock could not be judged.
#[derive(Debug, Error)]
pub enum ReleaseError {
    /// The holder could not be looked up.
    #[error(transparent)]
    Look(#[from] OverrideError),
    /// The lock could not be written.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Carries out a person's `Release` of the lock with this holder UID and fence. Only for a lock whose object is gone: as
/// long as it exists, its own requests are the way.
pub async fn release_on_request(
    ad: &Adapters,
    cluster: &OpenBaoCluster,
    holder_uid: &str,
    fence: i64,
) -> Result<Released, ReleaseError> {
    let Some(lock) = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref()) else {
        return Ok(Released::Superseded("the lock is free".into()));
    };
    if lock.holder_uid != holder_uid || lock.fence != fence {
        return Ok(Released::Refused(format!(
            "the lock is held by {} with holderUID {} and fence {}, which the request does not name",
            lock.holder, lock.holder_uid, lock.fence
        )));
    }
    let held = HeldError::from(lock);
    let facts = learn(ad, cluster, &held).await?;
    if facts.holder == Holder::Unreadable {
        return Ok(Released::Refused(unreadable(&held)));
    }
    if matches!(facts.holder, Holder::Live | Holder::Ended { keeps: true }) {
        return Ok(Released::Refused(format!(
            "{} still exists: say Cancel or Abandon in the requests of operation {}",
            lock.holder,
            lock.operation_ref.as_deref().unwrap_or("-")
        )));
    }
    if facts.jobs > 0 {
        return Ok(Released::Refused(format!("{} Jobs of its operation still exist: delete them first", facts.jobs)));
    }
    match operationlock::of(&ad.client, cluster)?.clear(holder_uid, fence).await {
        Ok(true) => Ok(Released::Applied(format!("the lock of {} (fence {fence}) was released", lock.holder))),
        Ok(false) | Err(LockError::Held { .. }) => Ok(Released::Superseded("the lock was released meanwhile".into())),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "override_lock_tests.rs"]
mod tests;
