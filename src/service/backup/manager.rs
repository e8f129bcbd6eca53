//! The manager of backups: the plan of each, and its clean-up. What the steps do is in [`super::steps`].
//!
//! | kind of backup | steps | lock |
//! |---|---|---|
//! | scheduled, or asked for by a person | Gate → Snapshot → VerifySeal → Retention | `Backup`, before Snapshot |
//! | child of a restore or an upgrade | Gate → Snapshot → VerifySeal | its parent's |
//! | while an upgrade is parked | Gate → Snapshot → VerifySeal → Retention | the upgrade's, which waits for it |
//! | verification | ReadBack → VerifySeal | none: it only reads the store |

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::future::{BoxFuture, FutureExt};
use kube::ResourceExt;

use super::frozen::{Frozen, identity};
use super::jobs::{Operation, Source};
use super::mover::{self, Clear};
use super::{request, steps, tidy};
use crate::adapter::metrics::metrics;
use crate::api::{
    LockMode, LockOperation, LockPlan, OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationKind, OperationLock,
    OperationPhase, Plan, RetryPolicy, StepKind, StepSpec,
};
use crate::service::opslifecycle::asked::Parameter;
use crate::service::opslifecycle::{
    FinishCall, Manager, PlanCall, Planned, Refusal, RetryClass, StepCall, StepOutcome, pending,
};

/// The lock's holder: every backup of a cluster, told apart by the UID of its operation.
pub const HOLDER: &str = "openbaocluster/backup";

pub const GATE: &str = "Gate";
pub const SNAPSHOT: &str = "Snapshot";
pub const READ_BACK: &str = "ReadBack";
pub const VERIFY_SEAL: &str = "VerifySeal";
pub const RETENTION: &str = "Retention";

/// Input of a backup that runs under a parked upgrade's lock: the UID of that lock's holder.
pub(super) const HOST: &str = "host";

/// Runs every `operation: Backup`.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackupManager;

impl Manager for BackupManager {
    fn kinds(&self) -> &'static [OperationKind] {
        &[OperationKind::Backup]
    }

    fn parameters(&self) -> &'static [Parameter] {
        &request::PARAMETERS
    }

    fn plan<'a>(&'a self, call: PlanCall<'a>) -> BoxFuture<'a, Result<Planned, Refusal>> {
        async move { plan(&call) }.boxed()
    }

    /// It may have waited for a leader, or for the lock, since it was planned.
    fn ready<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move {
            let Some(cluster) = call.cluster else { return StepOutcome::done() };
            let namespace = cluster.namespace().unwrap_or_default();
            may_still_start(cluster, &call.ad.caches.restores_of(&namespace, &cluster.name_any()))
        }
        .boxed()
    }

    fn run<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        steps::run(call).boxed()
    }

    fn finish<'a>(&'a self, call: FinishCall<'a>) -> BoxFuture<'a, StepOutcome> {
        finish(call).boxed()
    }
}

/// What a plan is made from.
struct Known<'a> {
    cluster: &'a OpenBaoCluster,
    op: &'a OpenBaoOperation,
    restores: &'a [Arc<OpenBaoRestore>],
    /// The operations of the namespace.
    operations: &'a [Arc<OpenBaoOperation>],
    /// The operation that `lineage.parentOperation` names.
    parent: Option<&'a OpenBaoOperation>,
    operator_image: &'a str,
    now: DateTime<Utc>,
}

/// Reads only what the watches and the cluster itself say.
fn plan(call: &PlanCall<'_>) -> Result<Planned, Refusal> {
    let caches = &call.ad.caches;
    let namespace = call.op.namespace().unwrap_or_default();
    let parent = call.op.spec.lineage.as_ref().and_then(|lineage| lineage.parent_operation.as_deref());
    let parent = parent.and_then(|parent| caches.operation(&namespace, parent));
    decide(&Known {
        cluster: call.cluster,
        op: call.op,
        restores: &caches.restores_of(&namespace, &call.cluster.name_any()),
        operations: &caches.operations_of(&namespace, &call.cluster.name_any()),
        parent: parent.as_deref(),
        operator_image: &call.ad.settings.operator_image,
        now: call.now,
    })
}

/// Pure.
fn decide(known: &Known<'_>) -> Result<Planned, Refusal> {
    let (cluster, op) = (known.cluster, known.op);
    let name = cluster.name_any();
    if cluster.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::failed("ClusterDeleting", format!("cluster {name} is being deleted")));
    }
    let Some(spec) = &cluster.spec.backup else {
        return Err(Refusal::failed(
            "NoBackupTarget",
            format!("cluster {name} has no spec.backup.target: say there where backups go, then ask again"),
        ));
    };
    if let Some(why) = request::contradiction(op) {
        return Err(Refusal::failed("InvalidParameters", why));
    }
    if !request::is_verification(op) {
        identity(cluster, spec).map_err(|error| Refusal::failed("BackupIdentityMissing", error.to_string()))?;
    }
    let uid = op.metadata.uid.as_deref().unwrap_or_default();
    let mut frozen = Frozen::of(cluster, spec, known.operator_image, uid, known.now)
        .map_err(|error| Refusal::failed("BackupTargetInvalid", format!("spec.backup.{error}")))?;
    let role = request::role(op);
    let mut host = None;
    let (steps, lock) = if request::is_verification(op) {
        // The newest is chosen when it is read: what is the newest now may be gone by then.
        let named = op.spec.parameters.get(request::KEY);
        frozen.key = String::new();
        frozen.source = Some(named.map_or(Source::Latest, |key| Source::Key(key.clone())));
        (verification_steps(), None)
    } else if let Some(role) = role {
        works_for(op, role, known.parent, cluster)?;
        (backup_steps(false), None)
    } else {
        may_start(known)?;
        let uncleaned = tidy::uncleaned(request::backups_of(cluster, known.operations));
        let prunes = frozen.retention.is_some() || !uncleaned.is_empty();
        host = parked_upgrade(cluster);
        (backup_steps(prunes), host.is_none().then(|| own_lock(uid)))
    };
    let mut inputs = frozen.inputs().map_err(|error| {
        Refusal::failed("InputsUnreadable", format!("the inputs cannot be written as JSON: {error}"))
    })?;
    inputs.extend(host.map(|lock| (HOST.to_owned(), lock.holder_uid.clone())));
    let plan = Plan { steps, lock, ..Plan::default() };
    Ok(Planned { plan, inputs })
}

/// What a person's backup waits for in `Pending`, saying for whom.
fn may_start(known: &Known<'_>) -> Result<(), Refusal> {
    let cluster = known.cluster;
    unpaused(cluster)?;
    let name = cluster.name_any();
    let status = cluster.status.as_ref();
    if status.is_none_or(|status| status.initialized != Some(true)) {
        let message = format!("waiting for cluster {name} to be initialised: there is nothing to back up yet");
        return Err(Refusal::wait(RetryClass::Standard, "NotInitialized", message));
    }
    let lock = status.and_then(|status| status.operation_lock.as_ref());
    if let Some(lock) = lock.filter(|_| parked_upgrade(cluster).is_none()) {
        return Err(Refusal::locked(lock));
    }
    unannounced(known.restores, cluster)
}

/// What of it is asked again right before the free lock is taken. What waits for the lock has not started.
fn may_still_start(cluster: &OpenBaoCluster, restores: &[Arc<OpenBaoRestore>]) -> StepOutcome {
    let may = unpaused(cluster).and_then(|()| unannounced(restores, cluster));
    may.map_or_else(StepOutcome::from, |()| StepOutcome::done())
}

fn unpaused(cluster: &OpenBaoCluster) -> Result<(), Refusal> {
    if cluster.spec.paused {
        let name = cluster.name_any();
        let message = format!("cluster {name} is paused (spec.paused): the backup starts when it is not any more");
        return Err(Refusal::wait(RetryClass::Standard, "Paused", message));
    }
    Ok(())
}

/// Asks the restores themselves: the status only shows them, a moment later.
fn unannounced(restores: &[Arc<OpenBaoRestore>], cluster: &OpenBaoCluster) -> Result<(), Refusal> {
    match pending(restores, cluster) {
        Some(restore) => {
            let message = format!("waiting for restore {restore} to end: it waits or runs");
            Err(Refusal::wait(RetryClass::Standard, "RestorePending", message))
        }
        None => Ok(()),
    }
}

/// The lock of an upgrade that waits before its cutover: it keeps it and lets backups run under it; the cutover waits for them.
fn parked_upgrade(cluster: &OpenBaoCluster) -> Option<&OperationLock> {
    let lock = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref())?;
    (lock.operation == LockOperation::Upgrade && lock.mode == LockMode::Parked).then_some(lock)
}

/// Why a backup without a lock of its own does not go on under the `lock` that the cluster shows. Pure.
///
/// Before leadership moves, the upgrade shows its lock as held, looks for backups that have a plan and no lock, and waits for
/// those. So a backup that has seen the lock parked after its plan was written is waited for until it has ended, and a Resume does
/// not end it: it has to see that when it `enters`, and from then on only that the lock is still its host's. One that says
/// `committed` belongs to an upgrade that waits for nobody any more: a new server led by itself. Turned back, it waits too, and then
/// gives its lock back.
pub(super) fn unawaited(lock: Option<&OperationLock>, host: Option<&str>, enters: bool) -> Option<&'static str> {
    let is_host = |lock: &&OperationLock| {
        lock.operation == LockOperation::Upgrade && host.is_none_or(|host| host == lock.holder_uid)
    };
    match lock.filter(is_host) {
        None => Some(
            "the upgrade under whose parked lock this backup ran does not hold that lock any more: ask for another backup, \
             or wait for the next one of the schedule",
        ),
        Some(lock) if lock.mode == LockMode::Parked => None,
        // Whoever planned it before hosts were written down did not ask when it entered.
        Some(lock) if enters || host.is_none() || lock.committed == Some(true) => Some(
            "the upgrade under whose parked lock this backup was to run is parked no more, and does not wait for it: ask for \
             another backup once the upgrade has ended",
        ),
        Some(_) => None,
    }
}

fn own_lock(uid: &str) -> LockPlan {
    LockPlan {
        operation: LockOperation::Backup,
        holder: HOLDER.to_owned(),
        holder_uid: uid.to_owned(),
        before: Some(SNAPSHOT.to_owned()),
        force: false,
        message: Some("a snapshot is taken, verified and stored".to_owned()),
    }
}

/// A child runs without a lock of its own, so it has to prove that its parent has one: controlled by the parent's UID, a
/// parent that has not ended, and the cluster's lock in the parent's hands.
fn works_for(
    op: &OpenBaoOperation,
    role: &str,
    parent: Option<&OpenBaoOperation>,
    cluster: &OpenBaoCluster,
) -> Result<(), Refusal> {
    if !matches!(role, request::SAFETY | request::PRE_UPGRADE) {
        let message = format!("parameters.role \"{role}\" is not known: leave it out");
        return Err(Refusal::failed("UnknownRole", message));
    }
    let refused = |why: &str| {
        let message = format!(
            "parameters.role {role} is for backups that a restore or an upgrade takes under its own lock: {why}"
        );
        Err(Refusal::failed("NotAChild", message))
    };
    let Some(parent) = parent else { return refused("its parent operation does not exist") };
    let parent_uid = parent.uid().unwrap_or_default();
    if !crate::adapter::kubernetes::owner::is_controlled_by(op, &parent_uid) {
        return refused("its parent operation does not own it");
    }
    let Some(status) = parent.status.as_ref().filter(|status| !status.phase.is_terminal()) else {
        return refused("its parent operation has ended");
    };
    let planned = status.plan.as_ref().and_then(|plan| plan.lock.as_ref());
    let held = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref());
    match (planned, held) {
        (Some(planned), Some(held)) if planned.holder_uid == held.holder_uid => Ok(()),
        _ => refused("its parent operation does not hold the cluster's lock"),
    }
}

fn backup_steps(with_retention: bool) -> Vec<StepSpec> {
    let mut steps = vec![
        step(GATE, "2m", None, retries(3, "5s", "30s")),
        // Three tries with a growing distance: a store that is down for a minute costs no backup, and nothing spins.
        step(SNAPSHOT, "1h", Some(GATE), retries(3, "15s", "5m")),
        reads(step(VERIFY_SEAL, "10m", Some(SNAPSHOT), retries(3, "5s", "60s")), SNAPSHOT),
    ];
    if with_retention {
        let mut retention = step(RETENTION, "30m", Some(VERIFY_SEAL), retries(2, "15s", "60s"));
        retention.skippable = true;
        steps.push(retention);
    }
    steps
}

fn verification_steps() -> Vec<StepSpec> {
    vec![
        step(READ_BACK, "1h", None, retries(3, "15s", "5m")),
        reads(step(VERIFY_SEAL, "2m", Some(READ_BACK), retries(3, "5s", "60s")), READ_BACK),
    ]
}

fn step(name: &str, timeout: &str, after: Option<&str>, retry_policy: RetryPolicy) -> StepSpec {
    StepSpec {
        name: name.to_owned(),
        action: name.to_owned(),
        // Every effect is a Job of a deterministic name, or a read.
        kind: StepKind::Idempotent,
        depends_on: after.map(str::to_owned).into_iter().collect(),
        retry_policy: Some(retry_policy),
        timeout: Some(timeout.to_owned()),
        ..StepSpec::default()
    }
}

fn reads(mut step: StepSpec, from: &str) -> StepSpec {
    step.needs_output = vec![from.to_owned()];
    step
}

fn retries(max_attempts: i32, initial: &str, most: &str) -> RetryPolicy {
    RetryPolicy {
        max_attempts: Some(max_attempts),
        initial_delay: Some(initial.to_owned()),
        max_delay: Some(most.to_owned()),
        ..RetryPolicy::default()
    }
}

/// No Job of the operation runs any more. After a success its Jobs go, since the journal says it all; after a failure
/// they stay for their logs, within the bounds of [`super::tidy`].
pub(super) async fn finish(call: FinishCall<'_>) -> StepOutcome {
    let uid = mover::uid_of(call.cluster);
    let operation = match Operation::of(call.op, uid) {
        Ok(operation) => operation,
        Err(error) => return StepOutcome::retryable("CleanUpFailed", error.text()),
    };
    let succeeded = call.ending == OperationPhase::Succeeded;
    let which = if succeeded { Clear::All } else { Clear::Running };
    match mover::clear(call.ad, &operation, which).await {
        Ok(living) if living.is_empty() => match mover::close_channel(call.ad, &operation, succeeded).await {
            Ok(()) => {
                count(&call, succeeded);
                if !succeeded && let Err(error) = mover::tidy(call.ad, &operation).await {
                    tracing::warn!(operation = %operation.name, error = %error.text(), "failed to remove old Jobs");
                }
                StepOutcome::done()
            }
            Err(error) => StepOutcome::retryable("CleanUpFailed", error.to_string()),
        },
        Ok(living) => StepOutcome::in_progress(format!("waiting for the pods of {} to stop", living.join(", "))),
        Err(error) => StepOutcome::retryable("CleanUpFailed", error.text()),
    }
}

/// Numbers of this process, not of the cluster: a crash right here may count one twice.
fn count(call: &FinishCall<'_>, succeeded: bool) {
    let Some(status) = call.op.status.as_ref().filter(|_| !request::only_reads(call.op)) else { return };
    if succeeded {
        let size = status.artifacts.as_ref().and_then(|artifacts| artifacts.size_bytes);
        let size = size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let took = status.started_at.and_then(|at| (call.now - at).to_std().ok()).unwrap_or_default();
        metrics().backup_succeeded(size, took);
    } else if call.ending == OperationPhase::Failed {
        metrics().backup_failed();
    }
}

#[cfg(test)]
mod tests;
