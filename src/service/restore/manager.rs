//! The saga engine's view of a restore: its plan, its steps, its clean-up.

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::{Api, ResourceExt};

use super::half;
use super::mover::{Left, MoverError, Movers};
use super::plan::{self, Inputs};
use super::steps::{self, Step, Witnesses};
use crate::adapter::kubernetes::{client::timed, owner::is_controlled_by};
use crate::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationKind, OperationPhase, StepState};
use crate::causes::chain;
use crate::service::cluster::{login, members, observe};
use crate::service::opslifecycle::manager::{
    FinishCall, Manager, PlanCall, Planned, Refusal, StepCall, StepMode, StepOutcome,
};
use crate::service::opslifecycle::{RetryClass, paused, stop_children};

/// Runs operations of kind `Restore`.
#[derive(Debug, Default)]
pub struct Restores {
    witnesses: Witnesses,
}

impl Manager for Restores {
    fn kinds(&self) -> &'static [OperationKind] {
        &[OperationKind::Restore]
    }

    fn plan<'a>(&'a self, call: PlanCall<'a>) -> BoxFuture<'a, Result<Planned, Refusal>> {
        plan_of(call).boxed()
    }

    fn ready<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        self.stands_ready(call).boxed()
    }

    fn run<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        self.step(call).boxed()
    }

    fn finish<'a>(&'a self, call: FinishCall<'a>) -> BoxFuture<'a, StepOutcome> {
        self.clean_up(call).boxed()
    }
}

/// The plan follows from the restore that owns the operation; a bare operation names no snapshot.
async fn plan_of(call: PlanCall<'_>) -> Result<Planned, Refusal> {
    let unowned = || {
        Refusal::failed(
            "NoRestore",
            "a Restore operation belongs to an OpenBaoRestore, which says what to restore: create one of those",
        )
    };
    let owner = call.op.owner_references().iter().find(|owner| owner.kind == "OpenBaoRestore").ok_or_else(unowned)?;
    let restores: Api<OpenBaoRestore> =
        Api::namespaced(call.ad.client.clone(), &call.op.namespace().unwrap_or_default());
    let restore = match timed(restores.get_opt(&owner.name)).await {
        Ok(restore) => restore.filter(|restore| restore.uid().as_deref() == Some(&owner.uid)).ok_or_else(unowned)?,
        Err(error) => {
            return Err(Refusal::wait(
                RetryClass::ProgressPoll,
                "RestoreUnread",
                format!("trying again: cannot read OpenBaoRestore {}: {error}", owner.name),
            ));
        }
    };
    if !is_controlled_by(call.op, &owner.uid) || restore.spec.cluster != call.op.spec.cluster {
        return Err(unowned());
    }
    still_asked_for(call.op, &restore)?;
    let pinned = restore.status.as_ref().and_then(|status| status.cluster_uid.clone());
    if pinned.is_some_and(|pinned| call.cluster.uid() != Some(pinned)) {
        let name = call.cluster.name_any();
        return Err(Refusal::failed(
            "ClusterReplaced",
            format!("OpenBaoCluster {name} is not the one that was asked for"),
        ));
    }
    let refused = |error: &plan::InputError| Refusal::failed("InputsInvalid", error.to_string());
    let inputs = Inputs::freeze(&restore, call.cluster, &call.ad.settings).map_err(|error| refused(&error))?;
    let map = inputs.to_map().map_err(|error| refused(&error))?;
    Ok(Planned { plan: plan::plan(&inputs), inputs: map })
}

/// A restore has one operation in its life, and what is over is not begun again: a record that somebody puts back, from a backup
/// of the cluster's objects or by hand, would restore once more over everything written since. Nor is one begun that somebody made
/// before the restore was looked at: what is refused there would have run.
fn still_asked_for(op: &OpenBaoOperation, restore: &OpenBaoRestore) -> Result<(), Refusal> {
    let (name, own) = (restore.name_any(), plan::operation_name(restore));
    if op.name_any() != own {
        let message = format!("the operation of OpenBaoRestore {name} is {own}, not this one");
        return Err(Refusal::failed("NoRestore", message));
    }
    let over = if restore.metadata.deletion_timestamp.is_some() {
        "is being deleted"
    } else if restore.status.as_ref().is_some_and(|status| status.phase.is_terminal()) {
        "has ended"
    } else if restore.status.as_ref().is_none_or(|status| status.operation.is_none()) {
        let message = format!("waiting for OpenBaoRestore {name} to be admitted: its message says what is in the way");
        return Err(Refusal::wait(RetryClass::ProgressPoll, "NotAdmitted", message));
    } else {
        return Ok(());
    };
    let message = format!("OpenBaoRestore {name} {over}; to restore again, create another OpenBaoRestore");
    Err(Refusal::failed("RestoreOver", message))
}

impl Restores {
    async fn step(&self, call: StepCall<'_>) -> StepOutcome {
        let step = match Step::new(call, &self.witnesses) {
            Ok(step) => step,
            Err(outcome) => return outcome,
        };
        match (call.step.name.as_str(), call.mode) {
            (plan::PREFLIGHT, StepMode::Run) => steps::preflight::run(&step).await,
            (plan::JUDGE, StepMode::Run) => steps::judge::run(&step).await,
            (plan::SAFETY_BACKUP, StepMode::Run) => steps::safety::run(&step).await,
            (plan::PLACE_MARKER, StepMode::Run) => steps::marker::run(&step).await,
            (plan::SUBMIT, StepMode::Run) => steps::submit::grant(&step).await,
            (plan::SUBMIT, StepMode::Prove) => steps::proof::prove(&step).await,
            (plan::PROVE_APPLIED, StepMode::Run) => steps::spread::prove_applied(&step).await,
            (plan::RESTART_VOTERS, StepMode::Run) => steps::restart::restart_voters(&step).await,
            (plan::AWAIT_HEALTHY, StepMode::Run) => steps::healthy::await_healthy(&step).await,
            (plan::VERIFY_ACCESS, StepMode::Run) => steps::access::run(&step).await,
            (name, mode) => {
                StepOutcome::fatal("PlanMismatch", format!("this operator has no step \"{name}\" for {mode:?}"))
            }
        }
    }

    /// A mover with a verified snapshot: one that was given up while the lock was long in coming is replaced before it is taken.
    async fn stands_ready(&self, call: StepCall<'_>) -> StepOutcome {
        // Nothing new is downloaded for it either.
        if let Some(waits) = paused(call.cluster).or_else(|| half_restored(&call)) {
            return waits;
        }
        let step = match Step::new(call, &self.witnesses) {
            Ok(step) => step,
            Err(outcome) => return outcome,
        };
        match steps::preflight::ready(&step).await {
            Ok(steps::preflight::Prepared::Ready { .. }) => StepOutcome::done(),
            Ok(steps::preflight::Prepared::Working(what)) => {
                StepOutcome::in_progress(format!("before the lock is taken, waiting for {what}"))
            }
            Ok(steps::preflight::Prepared::Refused(report)) => {
                StepOutcome::fatal("SourceChanged", format!("{}. Nothing was changed", report.message))
            }
            Err(outcome) => outcome,
        }
    }

    /// Stops a safety backup and the movers and sees them gone, or unable to do harm; takes the marker away where the old data
    /// stayed. Creates nothing.
    async fn clean_up(&self, call: FinishCall<'_>) -> StepOutcome {
        // It runs under this operation's lock, which goes next.
        match stop_children(&call).await {
            StepOutcome::Done { .. } => {}
            waiting => return waiting,
        }
        let uid = call.op.uid().unwrap_or_default();
        // Without a UID nothing was ever made in its name.
        let Ok(movers) = Movers::of(&call.ad.client, call.op) else { return StepOutcome::done() };
        match movers.stop(call.now).await {
            Ok(None) => {}
            Ok(Some(left)) => match is_harmless(&movers, &left, call.ending).await {
                Ok(true) => tracing::warn!(left = left.what, "not waited for any more: it can send nothing"),
                Ok(false) => return StepOutcome::in_progress(format!("waiting for {}", left.what)),
                Err(error) => return StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
            },
            Err(error) => return StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
        }
        if let Some(cluster) = call.cluster
            && call.ending != OperationPhase::Succeeded
            && !call.deleting
            && marker_was_placed(&call)
        {
            remove_marker(&call, cluster, &uid).await;
        }
        self.witnesses.forget(&uid);
        StepOutcome::done()
    }
}

/// What a restore that was admitted before a rollback wiped the servers waits for. It is shown by the cluster's status, which follows
/// a moment after the end of that one.
fn half_restored(call: &StepCall<'_>) -> Option<StepOutcome> {
    let why = call.cluster.filter(|_| call.op.spec.operation == OperationKind::Restore).and_then(half::obstacle)?;
    Some(StepOutcome::Waiting { reason: format!("waiting, as {why}"), retry: RetryClass::Standard })
}

/// Whether what is left of the movers need not be waited for: a pod on a node that is gone would hold the lock for ever. One that
/// could still send the snapshot is waited for; once that is proven to have arrived, it was sent.
async fn is_harmless(movers: &Movers, left: &Left, ending: OperationPhase) -> Result<bool, MoverError> {
    Ok(left.overdue && (ending == OperationPhase::Succeeded || movers.disarm().await?))
}

fn marker_was_placed(call: &FinishCall<'_>) -> bool {
    let steps = call.op.status.iter().flat_map(|status| &status.steps);
    steps.filter(|step| step.name == plan::PLACE_MARKER).any(|step| step.state == StepState::Completed)
}

/// Once, as well as it goes: a marker that stays grants nothing and harms nobody.
async fn remove_marker(call: &FinishCall<'_>, cluster: &OpenBaoCluster, uid: &str) {
    let members = observe::members(call.ad, cluster).await;
    let Some(leader) = members::leader(&members) else { return };
    let Ok(token) = login::operator_token(call.ad, cluster, leader).await else { return };
    if let Some(Ok(client)) = leader.client()
        && call.ad.leadership.still_leader()
        && let Err(error) = client.delete_policy(&token, &plan::marker(uid)).await
    {
        tracing::warn!(cluster = cluster.name_any(), error = chain(&error), "the restore's marker policy stays behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{OpenBaoRestoreSpec, OpenBaoRestoreStatus, RestorePhase};

    fn restore(phase: RestorePhase) -> OpenBaoRestore {
        let mut restore = OpenBaoRestore::new("back", OpenBaoRestoreSpec::default());
        restore.metadata.uid = Some("3f9c1a2b-7777".into());
        let operation = Some(plan::operation_name(&restore));
        restore.status = Some(OpenBaoRestoreStatus { phase, operation, ..OpenBaoRestoreStatus::default() });
        restore
    }

    #[test]
    fn an_operation_that_somebody_made_before_the_restore_was_admitted_does_nothing_until_it_is() {
        let mut early = restore(RestorePhase::Pending);
        let operation = plan::operation(&early).unwrap();
        early.status.as_mut().unwrap().operation = None;
        let refusal = still_asked_for(&operation, &early).unwrap_err();
        assert!(refusal.message.contains("waiting for OpenBaoRestore back to be admitted"), "{refusal}");
        early.status = None;
        assert!(still_asked_for(&operation, &early).is_err(), "nobody has looked at it");
    }

    #[test]
    fn a_record_that_is_put_back_does_not_run_a_finished_restore_again() {
        let live = restore(RestorePhase::Validating);
        let operation = plan::operation(&live).unwrap();
        assert_eq!(still_asked_for(&operation, &live), Ok(()));
        for phase in [RestorePhase::Completed, RestorePhase::Failed] {
            let refusal = still_asked_for(&operation, &restore(phase)).unwrap_err();
            assert!(refusal.message.contains("create another OpenBaoRestore"), "{phase:?}: {refusal}");
        }
        let mut going = live.clone();
        going.metadata.deletion_timestamp = Some(crate::adapter::kubernetes::time::to_kube(
            chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap(),
        ));
        assert!(still_asked_for(&operation, &going).unwrap_err().message.contains("is being deleted"));
        let mut second = operation.clone();
        second.metadata.name = Some("back-once-more".into());
        let refusal = still_asked_for(&second, &live).unwrap_err();
        assert!(refusal.message.contains("back-restore-3f9c1a2b"), "{refusal}");
    }
}
