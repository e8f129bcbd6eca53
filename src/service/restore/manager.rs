//! The saga engine's view of a restore: its plan, its steps, its clean-up.

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::{Api, ResourceExt};

use super::mover::Movers;
use super::plan::{self, Inputs};
use super::steps::{self, Step, Witnesses};
use crate::adapter::kubernetes::{client::timed, owner::is_controlled_by};
use crate::api::{OpenBaoCluster, OpenBaoRestore, OperationKind, OperationPhase, StepState};
use crate::causes::chain;
use crate::service::cluster::observe;
use crate::service::opslifecycle::manager::{
    FinishCall, Manager, PlanCall, Planned, Refusal, StepCall, StepMode, StepOutcome,
};
use crate::service::opslifecycle::{RetryClass, stop_children};

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
            (plan::SUBMIT, StepMode::Prove) => steps::submit::prove(&step).await,
            (plan::PROVE_APPLIED, StepMode::Run) => steps::restart::prove_applied(&step).await,
            (plan::RESTART_VOTERS, StepMode::Run) => steps::restart::restart_voters(&step).await,
            (plan::AWAIT_HEALTHY, StepMode::Run) => steps::restart::await_healthy(&step).await,
            (plan::VERIFY_ACCESS, StepMode::Run) => steps::access::run(&step).await,
            (name, mode) => {
                StepOutcome::fatal("PlanMismatch", format!("this operator has no step \"{name}\" for {mode:?}"))
            }
        }
    }

    /// A mover with a verified snapshot: one that was given up while the lock was long in coming is replaced before it is taken.
    async fn stands_ready(&self, call: StepCall<'_>) -> StepOutcome {
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

    /// Stops a safety backup and the movers and sees them gone; takes the marker away where the old data stayed. Creates nothing.
    async fn clean_up(&self, call: FinishCall<'_>) -> StepOutcome {
        // It runs under this operation's lock, which goes next.
        match stop_children(&call).await {
            StepOutcome::Done { .. } => {}
            waiting => return waiting,
        }
        let uid = call.op.uid().unwrap_or_default();
        // Without a UID nothing was ever made in its name.
        let Ok(movers) = Movers::of(&call.ad.client, call.op) else { return StepOutcome::done() };
        match movers.stop().await {
            Ok(true) => {}
            Ok(false) => return StepOutcome::in_progress("waiting for the mover to end"),
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

fn marker_was_placed(call: &FinishCall<'_>) -> bool {
    let steps = call.op.status.iter().flat_map(|status| &status.steps);
    steps.filter(|step| step.name == plan::PLACE_MARKER).any(|step| step.state == StepState::Completed)
}

/// Once, as well as it goes: a marker that stays grants nothing and harms nobody.
async fn remove_marker(call: &FinishCall<'_>, cluster: &OpenBaoCluster, uid: &str) {
    let members = observe::members(call.ad, cluster).await;
    let Some(leader) = observe::leader(&members) else { return };
    let Ok(token) = observe::operator_token(call.ad, cluster, leader).await else { return };
    if let Some(Ok(client)) = leader.client()
        && call.ad.leadership.still_leader()
        && let Err(error) = client.delete_policy(&token, &plan::marker(uid)).await
    {
        tracing::warn!(cluster = cluster.name_any(), error = chain(&error), "the restore's marker policy stays behind");
    }
}
