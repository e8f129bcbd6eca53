//! The last things before the submission: a mover that stands ready with the judged snapshot, and something in the old
//! data whose absence will prove the new one.

use super::{Step, chain, evidence, judge, preflight, record_pods};
use crate::service::cluster::observe;
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::plan;

/// Output key: pods and UIDs at this moment. Each is restarted once, and known to have been by another UID.
pub const PODS: &str = "pods";
/// Output key: `true` when the marker stands, `false` when the proof rests on the cluster id alone.
pub const MARKER: &str = "marker";

/// What the marker says to whoever finds one: it grants nothing.
fn policy(restore: &str) -> String {
    format!(
        "# Written by openbao-operator right before OpenBaoRestore {restore} submitted its snapshot.\n\
         # It grants nothing. Once the snapshot is applied it is gone. Safe to delete when no restore runs.\n\
         path \"openbao-operator/restore-marker\" {{\n  capabilities = [\"deny\"]\n}}\n"
    )
}

pub async fn run(step: &Step<'_>) -> StepOutcome {
    let cluster = match step.cluster() {
        Ok(cluster) => cluster,
        Err(outcome) => return outcome,
    };
    match preflight::ready(step).await {
        Err(outcome) => return outcome,
        Ok(preflight::Prepared::Working(what)) => return StepOutcome::in_progress(format!("waiting for {what}")),
        Ok(preflight::Prepared::Refused(report)) => {
            return StepOutcome::fatal("SourceChanged", format!("{}. Nothing was changed", report.message));
        }
        Ok(preflight::Prepared::Ready { report, .. }) => {
            let judged = step.call.output(plan::JUDGE, judge::SHA256);
            let found = report.inspection.as_ref().map(|inspection| inspection.sha256.as_str());
            if judged != found {
                return StepOutcome::fatal(
                    "SourceChanged",
                    "the snapshot in the store is not the one that was judged any more: it was replaced meanwhile. \
                     Nothing was changed",
                );
            }
        }
    }
    let members = step.members(cluster).await;
    let Some(leader) = observe::leader(&members) else {
        return StepOutcome::in_progress("waiting for the servers to agree on a leader");
    };
    let pods = record_pods(&members);
    let token = match evidence::token(step, cluster, leader).await {
        Ok(token) => token,
        Err(error) if error.is_refused() => return without_marker(step, &chain(&error), pods),
        Err(error) => return StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
    };
    let client = match leader.client() {
        Some(Ok(client)) => client,
        Some(Err(error)) => return StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
        None => return StepOutcome::in_progress(format!("waiting for pod {} to have an address", leader.name)),
    };
    if !step.call.ad.leadership.still_leader() {
        return StepOutcome::in_progress("waiting for the operator that leads now");
    }
    let name = plan::marker(&step.uid);
    let placed = match client.put_policy(&token, &name, &policy(&step.inputs.restore)).await {
        Ok(()) => client.policy_exists(&token, &name).await,
        Err(error) => Err(error),
    };
    match placed {
        Ok(true) => {
            // Only a token of our own minting dies with the data: one that a person keeps may be in the snapshot too.
            if evidence::mints(cluster) && step.inputs.login.token_secret.is_none() {
                step.witnesses.keep(&step.uid, token, step.call.now);
            }
            StepOutcome::done_with([(PODS, pods), (MARKER, true.to_string())])
        }
        Ok(false) => StepOutcome::in_progress(format!("trying again: leader {} does not show the marker", leader.name)),
        Err(error) if error.is_denied() => without_marker(step, &chain(&error), pods),
        Err(error) => StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
    }
}

/// Without access to the old data only a cluster id that has to change can prove the new one.
fn without_marker(step: &Step<'_>, why: &str, pods: String) -> StepOutcome {
    if step.call.output(plan::JUDGE, judge::NEW_CLUSTER_ID).is_some() {
        return StepOutcome::done_with([(PODS, pods), (MARKER, false.to_string())]);
    }
    StepOutcome::fatal(
        "NoProofPossible",
        format!(
            "the operator cannot log in to the cluster ({why}), so it could never prove that the restore was applied. \
             Nothing was changed. Name a Secret with a working token in spec.tokenSecretRef"
        ),
    )
}
