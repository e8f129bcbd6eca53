//! The only writer of `status.operationLock` and `status.operationFence`.
//!
//! A lock changes hands in one JSON patch that the API server judges: its `test` operations name the fence that the
//! decision was taken on (or the resourceVersion, as long as the cluster has no fence: a `test` on an absent path always
//! fails). The first try starts from what the caller knows, usually a watch's copy; if that was stale the server refuses,
//! and the decision is taken again over a fresh read. So an uncontended acquire is one request, and a stale copy can
//! delay but never mislead.
//!
//! Why the fence suffices: it is raised in the very write that puts a lock in, and never falls. Whoever decided on
//! "fence 7, no lock" can only succeed while that is still so, because 7 was used up by the lock released before.
//!
//! Locks do not expire. What releases a lock is its holder, or a proof that the holder is gone (`service::opslifecycle`).

use std::{error::Error as StdError, time::Duration};

use chrono::{DateTime, Utc};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use thiserror::Error;

use super::kubernetes::client::{RequestError, timed};
use crate::api::cluster::{
    OpenBaoCluster,
    status::{LockMode, LockOperation, OperationLock},
};

/// The field manager of the lock plane.
pub const FIELD_MANAGER: &str = "openbao-operator-lock";

/// How often a decision is taken again before the caller has to come back later. Each round but the first costs a read
/// and a write, and only happens when somebody else's write came between.
const ROUNDS: u32 = 16;

/// Who wants the lock, and what for. Holder, UID and operation are the identity; the rest is news for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What for.
    pub operation: LockOperation,
    /// A name that survives restarts: `openbaocluster/backup`, `openbaorestore/<name>`, …
    pub holder: String,
    /// The UID of the object that does the work.
    pub holder_uid: String,
    /// The name of the operation.
    pub operation_ref: Option<String>,
    /// What it is doing.
    pub message: String,
    /// Held, or parked.
    pub mode: LockMode,
}

impl Claim {
    /// Whether `lock` is this claimant's. A namesake made later has another UID.
    pub fn owns(&self, lock: &OperationLock) -> bool {
        lock.holder == self.holder && lock.holder_uid == self.holder_uid && lock.operation == self.operation
    }
}

/// Whether another's lock may be replaced.
#[derive(Clone, Copy)]
pub enum Force<'a> {
    /// No.
    Never,
    /// Whatever it is.
    Always,
    /// If this says so about the lock as it is at the moment of the decision.
    If(&'a (dyn Fn(&OperationLock) -> bool + Send + Sync)),
}

impl Force<'_> {
    fn permits(&self, lock: &OperationLock) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::If(judge) => judge(lock),
        }
    }
}

impl std::fmt::Debug for Force<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::Always => "Always",
            Self::If(_) => "If",
        })
    }
}

/// The lock is in other hands.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the operation lock is held by {holder} for {operation}{}", suffix(message))]
pub struct HeldError {
    /// What the holder does.
    pub operation: LockOperation,
    /// Who holds it.
    pub holder: String,
    /// The holder's UID.
    pub holder_uid: String,
    /// The holder's operation, by name.
    pub operation_ref: Option<String>,
    /// What the holder says about it.
    pub message: String,
    /// The fence of the holder's lock.
    pub fence: i64,
    /// Whether something that must not happen twice, or has no way back, may have been done under it; `None` if nobody knows.
    pub committed: Option<bool>,
}

fn suffix(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl From<&OperationLock> for HeldError {
    fn from(lock: &OperationLock) -> Self {
        Self {
            operation: lock.operation,
            holder: lock.holder.clone(),
            holder_uid: lock.holder_uid.clone(),
            operation_ref: lock.operation_ref.clone(),
            message: lock.message.clone(),
            fence: lock.fence,
            committed: lock.committed,
        }
    }
}

/// The held lock that `error`, or anything it wraps, speaks of.
pub fn held<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a HeldError> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(held) = error.downcast_ref::<HeldError>() {
            return Some(held);
        }
        if let Some(held) = error.downcast_ref::<Box<HeldError>>() {
            return Some(held);
        }
        link = error.source();
    }
    None
}

/// Whether `error`, or anything it wraps, says that the lock is in other hands.
pub fn is_lock_held(error: &(dyn StdError + 'static)) -> bool {
    held(error).is_some()
}

/// Why a lock could not be taken, renewed or released.
#[derive(Debug, Error)]
pub enum LockError {
    /// No cluster named.
    #[error("a lock needs the name of a cluster")]
    EmptyCluster,
    /// No holder named.
    #[error("a lock needs a holder")]
    EmptyHolder,
    /// No holder UID named.
    #[error("a lock needs the UID of the object that does the work")]
    EmptyHolderUid,
    /// Somebody else has it.
    #[error("failed to take or release the lock of cluster {cluster}")]
    Held {
        /// The cluster.
        cluster: String,
        /// Who has it.
        source: HeldError,
    },
    /// The cluster is gone, or another one has its name now.
    #[error("cluster {0} does not exist (any more)")]
    ClusterGone(String),
    /// The API server refuses the write whatever we read before.
    #[error("the API server refuses to write the lock of cluster {cluster}: is its CRD up to date?")]
    Refused {
        /// The cluster.
        cluster: String,
        /// Its words.
        source: RequestError,
    },
    /// Other writes came between again and again.
    #[error("the lock of cluster {0} is under heavy contention, try again later")]
    Contended(String),
    /// The API server did not answer, or answered badly.
    #[error("failed to write the lock of cluster {cluster}")]
    Request {
        /// The cluster.
        cluster: String,
        /// What happened.
        source: RequestError,
    },
}

/// A lock that is ours now.
#[derive(Clone, Debug, PartialEq)]
pub struct Acquired {
    /// The lock as it was written.
    pub lock: OperationLock,
    /// How we came by it.
    pub how: How,
}

/// How a claim came by its lock.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// There was none.
    Taken,
    /// It was ours already.
    Renewed,
    /// It was this one, and force was permitted.
    Replaced(Box<OperationLock>),
}

/// What a decision rests on.
#[derive(Clone, Debug, Default, PartialEq)]
struct View {
    uid: Option<String>,
    resource_version: Option<String>,
    has_status: bool,
    fence: Option<i64>,
    lock: Option<OperationLock>,
}

impl From<&OpenBaoCluster> for View {
    fn from(cluster: &OpenBaoCluster) -> Self {
        Self {
            uid: cluster.uid(),
            resource_version: cluster.resource_version(),
            has_status: cluster.status.is_some(),
            fence: cluster.status.as_ref().and_then(|status| status.operation_fence),
            lock: cluster.status.as_ref().and_then(|status| status.operation_lock.clone()),
        }
    }
}

/// A lock that was replaced, for the record. It stands in the lock that replaced it: whoever took that may die before it can tell.
fn in_words(before: &OperationLock) -> String {
    format!(
        "{} {} (UID {}, fence {}, since {})",
        before.operation, before.holder, before.holder_uid, before.fence, before.acquired_at
    )
}

/// What becomes of the lock when `claim` asks for it. Pure: the table of the lock, row by row.
fn decide(current: &View, claim: &Claim, force: Force<'_>, now: DateTime<Utc>) -> Result<Acquired, HeldError> {
    let fresh = |how: How| {
        let fence = current.fence.unwrap_or(0).max(current.lock.as_ref().map_or(0, |lock| lock.fence)) + 1;
        let lock = OperationLock {
            operation: claim.operation,
            holder: claim.holder.clone(),
            holder_uid: claim.holder_uid.clone(),
            operation_ref: claim.operation_ref.clone(),
            message: claim.message.clone(),
            mode: claim.mode,
            committed: Some(false),
            replaced: match &how {
                How::Replaced(before) => Some(in_words(before)),
                How::Taken | How::Renewed => None,
            },
            fence,
            acquired_at: now,
            renewed_at: now,
        };
        Acquired { lock, how }
    };
    match &current.lock {
        None => Ok(fresh(How::Taken)),
        Some(lock) if claim.owns(lock) => {
            let lock = OperationLock {
                message: claim.message.clone(),
                mode: claim.mode,
                operation_ref: claim.operation_ref.clone(),
                renewed_at: now,
                ..lock.clone()
            };
            Ok(Acquired { lock, how: How::Renewed })
        }
        Some(lock) if force.permits(lock) => Ok(fresh(How::Replaced(Box::new(lock.clone())))),
        Some(lock) => Err(HeldError::from(lock)),
    }
}

/// What becomes of the lock when its holder changes what it shows: parked or not, and whether something irreversible may be
/// done from here on, which never falls back within one tenure.
fn decide_renewal(
    current: &View,
    claim: &Claim,
    fence: i64,
    committed: bool,
    now: DateTime<Utc>,
) -> Option<OperationLock> {
    let lock = current.lock.as_ref().filter(|lock| claim.owns(lock) && lock.fence == fence)?;
    Some(OperationLock {
        message: claim.message.clone(),
        mode: claim.mode,
        operation_ref: claim.operation_ref.clone(),
        committed: if committed { Some(true) } else { lock.committed },
        renewed_at: now,
        ..lock.clone()
    })
}

/// What becomes of the lock when `claim` gives it back: `true` = it is to be cleared, `false` = there is none.
/// A fence that is not the lock's means that it was taken again since, so it is not this tenure's to give back.
fn decide_release(current: &View, claim: &Claim, fence: Option<i64>) -> Result<bool, HeldError> {
    match &current.lock {
        None => Ok(false),
        Some(lock) if claim.owns(lock) && fence.is_none_or(|fence| fence == lock.fence) => Ok(true),
        Some(lock) => Err(HeldError::from(lock)),
    }
}

/// The `test` operations which make the API server refuse the write unless `view` still holds.
fn preconditions(view: &View) -> Vec<Value> {
    let mut tests = vec![];
    if let Some(uid) = &view.uid {
        tests.push(json!({"op": "test", "path": "/metadata/uid", "value": uid}));
    }
    match (view.fence, &view.resource_version) {
        (Some(fence), _) => tests.push(json!({"op": "test", "path": "/status/operationFence", "value": fence})),
        (None, Some(version)) => {
            tests.push(json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
        }
        // An object from an API server always has a resourceVersion; without either, refuse rather than overwrite.
        (None, None) => tests.push(json!({"op": "test", "path": "/metadata/resourceVersion", "value": ""})),
    }
    if let Some(lock) = &view.lock {
        tests.push(json!({"op": "test", "path": "/status/operationLock/holderUID", "value": lock.holder_uid}));
        tests.push(json!({"op": "test", "path": "/status/operationLock/holder", "value": lock.holder}));
        tests.push(json!({"op": "test", "path": "/status/operationLock/operation", "value": lock.operation}));
        // These change within one tenure, and a stale copy must not turn them back.
        tests.push(json!({"op": "test", "path": "/status/operationLock/mode", "value": lock.mode}));
        match (lock.committed, &view.resource_version) {
            (Some(committed), _) => {
                tests.push(json!({"op": "test", "path": "/status/operationLock/committed", "value": committed}));
            }
            (None, Some(version)) => {
                tests.push(json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
            }
            (None, None) => {}
        }
    }
    tests
}

/// The write that puts `lock` in place of what `view` shows.
fn put(view: &View, lock: &OperationLock) -> Vec<Value> {
    let mut patch = preconditions(view);
    if !view.has_status {
        patch.push(json!({"op": "add", "path": "/status", "value": {}}));
    }
    // "add" sets a member whether it exists or not.
    patch.push(json!({"op": "add", "path": "/status/operationFence", "value": lock.fence}));
    patch.push(json!({"op": "add", "path": "/status/operationLock", "value": lock}));
    patch
}

/// The write that takes away what `view` shows. A lock without a fence beside it leaves its own number behind.
fn clear(view: &View) -> Vec<Value> {
    let mut patch = preconditions(view);
    if let (None, Some(lock)) = (view.fence, &view.lock) {
        patch.push(json!({"op": "add", "path": "/status/operationFence", "value": lock.fence}));
    }
    patch.push(json!({"op": "remove", "path": "/status/operationLock"}));
    patch
}

/// The lock of one cluster.
#[derive(Clone)]
pub struct LockOf<'a> {
    api: Api<OpenBaoCluster>,
    known: &'a OpenBaoCluster,
    name: String,
}

impl std::fmt::Debug for LockOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockOf").field("cluster", &self.name).finish_non_exhaustive()
    }
}

/// The lock of `cluster`, of which `known` may be a stale copy.
pub fn of<'a>(client: &Client, known: &'a OpenBaoCluster) -> Result<LockOf<'a>, LockError> {
    let name = known.metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err(LockError::EmptyCluster);
    }
    let api = match known.metadata.namespace.as_deref() {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::default_namespaced(client.clone()),
    };
    Ok(LockOf { api, known, name })
}

impl LockOf<'_> {
    /// Takes or renews the lock. "Held by another" in the known copy is believed without asking (its release wakes the
    /// waiter), unless force might apply.
    pub async fn acquire(&self, claim: &Claim, force: Force<'_>, now: DateTime<Utc>) -> Result<Acquired, LockError> {
        check(claim)?;
        self.settle(
            |view| match decide(view, claim, force, now) {
                Ok(acquired) => Ok(Some((put(view, &acquired.lock), acquired))),
                Err(held) => Err(held),
            },
            !matches!(force, Force::Never),
        )
        .await?
        .ok_or_else(|| LockError::Contended(self.name.clone()))
    }

    /// Shows the claim's mode and message in the lock of this tenure, and with `committed` that something irreversible may
    /// follow. `None`, and nothing is written, when the lock of this tenure is not there any more: unlike
    /// [`Self::acquire`] it never takes a lock.
    pub async fn renew(
        &self,
        claim: &Claim,
        fence: i64,
        committed: bool,
        now: DateTime<Utc>,
    ) -> Result<Option<OperationLock>, LockError> {
        check(claim)?;
        self.settle(
            |view| Ok(decide_renewal(view, claim, fence, committed, now).map(|lock| (put(view, &lock), lock))),
            true,
        )
        .await
    }

    /// Gives the lock back. Fine if there is none; [`LockError::Held`] if it is another's, or this holder's own from a
    /// later tenure than `fence`. Always judged on a fresh state.
    pub async fn release(&self, claim: &Claim, fence: Option<i64>) -> Result<bool, LockError> {
        check(claim)?;
        let cleared =
            self.settle(|view| Ok(decide_release(view, claim, fence)?.then(|| (clear(view), true))), true).await?;
        Ok(cleared.unwrap_or(false))
    }

    /// Takes away the lock with this holder UID and fence, whoever holds it: for a holder that is proven or declared gone.
    pub async fn clear(&self, holder_uid: &str, fence: i64) -> Result<bool, LockError> {
        let cleared = self
            .settle(
                |view| match &view.lock {
                    Some(lock) if lock.holder_uid == holder_uid && lock.fence == fence => Ok(Some((clear(view), true))),
                    Some(lock) => Err(HeldError::from(lock)),
                    None => Ok(None),
                },
                true,
            )
            .await?;
        Ok(cleared.unwrap_or(false))
    }

    /// Decides on the known copy, writes, and on refusal reads and decides again. `doubt`: whether a refusal by the known
    /// copy must be confirmed by a read.
    async fn settle<T>(
        &self,
        decide: impl Fn(&View) -> Result<Option<(Vec<Value>, T)>, HeldError>,
        doubt: bool,
    ) -> Result<Option<T>, LockError> {
        let mut view = View::from(self.known);
        let uid = view.uid.clone();
        let mut fresh = false;
        let mut refused: Option<(View, RequestError)> = None;
        for round in 0..ROUNDS {
            let decision = decide(&view);
            match decision {
                Ok(Some((patch, value))) => {
                    // The same view refused twice: it is not somebody else's write that is in the way.
                    match refused.take() {
                        Some((before, source)) if before == view => {
                            return Err(LockError::Refused { cluster: self.name.clone(), source });
                        }
                        _ => {}
                    }
                    match self.write(patch).await {
                        Ok(()) => return Ok(Some(value)),
                        Err(error) if error.is_invalid() || error.is_conflict() => refused = Some((view, error)),
                        Err(error) => return Err(self.failed(error)),
                    }
                }
                Ok(None) if fresh => return Ok(None),
                Err(source) if fresh || !doubt => return Err(LockError::Held { cluster: self.name.clone(), source }),
                Ok(None) | Err(_) => {}
            }
            if round > 1 {
                // Others are at it as well: step aside for a moment, each for a different one.
                tokio::time::sleep(Duration::from_millis(10 * u64::from(round)).mul_f64(rand::random::<f64>())).await;
            }
            let cluster = timed(self.api.get(&self.name)).await.map_err(|error| self.failed(error))?;
            view = View::from(&cluster);
            fresh = true;
            if uid.is_some() && view.uid != uid {
                return Err(LockError::ClusterGone(self.name.clone()));
            }
        }
        Err(LockError::Contended(self.name.clone()))
    }

    async fn write(&self, patch: Vec<Value>) -> Result<(), RequestError> {
        let patch = serde_json::from_value(Value::Array(patch)).map_err(kube::Error::SerdeError)?;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        timed(self.api.patch_status(&self.name, &params, &Patch::<()>::Json(patch))).await.map(drop)
    }

    fn failed(&self, source: RequestError) -> LockError {
        if source.is_not_found() {
            LockError::ClusterGone(self.name.clone())
        } else {
            LockError::Request { cluster: self.name.clone(), source }
        }
    }
}

fn check(claim: &Claim) -> Result<(), LockError> {
    if claim.holder.is_empty() {
        Err(LockError::EmptyHolder)
    } else if claim.holder_uid.is_empty() {
        Err(LockError::EmptyHolderUid)
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[path = "operationlock_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "operationlock_model.rs"]
mod model;
