//! The last things before the submission: a mover that stands ready with the judged snapshot, and something in the old
//! data whose absence will prove the new one.

use super::{Step, chain, evidence, judge, preflight};
use crate::api::OpenBaoCluster;
use crate::service::cluster::members::{self, Member};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::plan;

/// Output key: `true` when the marker stands, `false` when the proof rests on the cluster id alone.
pub const MARKER: &str = "marker";
/// Output key: the endpoint that takes the snapshot.
pub const ENDPOINT: &str = "endpoint";
/// Output key: the cluster id that must be seen afterwards. Only when it is not the one that is seen now.
pub const NEW_CLUSTER_ID: &str = "newClusterID";

/// What the marker says to whoever finds one: it grants nothing.
fn policy(restore: &str) -> String {
    format!(
        "# Written by openbao-operator right before OpenBaoRestore {restore} submitted its snapshot.\n\
         # It grants nothing. Once the snapshot is applied it is gone. Safe to delete when no restore runs.\n\
         path \"openbao-operator/restore-marker\" {{\n  capabilities = [\"deny\"]\n}}\n"
    )
}

pub async fn run(step: &Step<'_>) -> StepOutcome {
    match prepare(step).await {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

async fn prepare(step: &Step<'_>) -> Result<StepOutcome, StepOutcome> {
    let cluster = step.cluster()?;
    let report = match preflight::ready(step).await? {
        preflight::Prepared::Ready { report, .. } => report,
        preflight::Prepared::Working(what) => return Err(StepOutcome::in_progress(format!("waiting for {what}"))),
        preflight::Prepared::Refused(report) => {
            return Err(StepOutcome::fatal("SourceChanged", step.unchanged(&report.message)));
        }
    };
    let judged = step.call.output(plan::JUDGE, judge::SHA256);
    if judged != report.inspection.as_ref().map(|inspection| inspection.sha256.as_str()) {
        let why = "the snapshot in the store is not the one that was judged any more: it was replaced meanwhile";
        return Err(StepOutcome::fatal("SourceChanged", step.unchanged(why)));
    }
    let members = step.members(cluster).await;
    // Once more, now that nobody else can change the cluster: whoever had the lock before may have restored another
    // cluster's data, turned the servers' version back or given them another key.
    let accepted = judge::verdict(step, cluster, &members, &report).await?;
    let leader = members::leader(&members).ok_or_else(no_leader)?;
    let placed = place(step, cluster, leader).await?;
    if let Placed::NoAccess(why) = &placed
        && accepted.new_cluster_id.is_none()
    {
        return Err(StepOutcome::fatal("NoProofPossible", no_proof(why, step.inputs.login.token_secret.as_deref())));
    }
    let mut output =
        vec![(MARKER, matches!(placed, Placed::Stands).to_string()), (ENDPOINT, accepted.endpoint.as_str().to_owned())];
    output.extend(accepted.new_cluster_id.map(|id| (NEW_CLUSTER_ID, id)));
    Ok(StepOutcome::done_with(output))
}

/// `named` is the Secret in `spec.tokenSecretRef`.
fn no_proof(why: &str, named: Option<&str>) -> String {
    let way = named.map_or_else(
        || "Name a Secret with a working token in spec.tokenSecretRef".to_owned(),
        |name| {
            format!(
                "Secret {name}, which spec.tokenSecretRef names, has no token that helps: put one into its key token that may \
                 write and read policies there, and create the restore again"
            )
        },
    );
    format!(
        "the operator has no access to the cluster ({why}), so it could never prove that the restore was applied. Nothing was \
         changed. {way}"
    )
}

fn no_leader() -> StepOutcome {
    StepOutcome::in_progress("waiting for the servers to agree on a leader")
}

/// What became of the marker.
#[derive(Debug)]
pub enum Placed {
    /// The leader shows it, and a token minted for it is kept as a second witness where that means anything.
    Stands,
    /// Nobody of ours may log in or write policies, and why.
    NoAccess(String),
}

/// Writes the marker, and reads it back from the leader. Harmless to do again. `Err`: not yet.
pub async fn place(step: &Step<'_>, cluster: &OpenBaoCluster, leader: &Member) -> Result<Placed, StepOutcome> {
    let again =
        |error: &(dyn std::error::Error + 'static)| StepOutcome::in_progress(format!("trying again: {}", chain(error)));
    let token = match evidence::token(step, cluster, leader).await {
        Ok(token) => token,
        Err(error) if error.is_refused() => return Ok(Placed::NoAccess(chain(&error))),
        Err(error) => return Err(again(&error)),
    };
    let client = match leader.client() {
        Some(client) => client.map_err(|error| again(&error))?,
        None => return Err(StepOutcome::in_progress(format!("waiting for pod {} to have an address", leader.name))),
    };
    if !step.call.ad.leadership.still_leader() {
        return Err(StepOutcome::in_progress("waiting for the operator that leads now"));
    }
    let name = plan::marker(&step.uid);
    let placed = match client.put_policy(&token, &name, &policy(&step.inputs.restore)).await {
        Ok(()) => client.policy_exists(&token, &name).await,
        Err(error) => Err(error),
    };
    match placed {
        Ok(true) => {
            // Only a token of our own minting dies with the data: one that a person keeps may be in the snapshot too.
            if evidence::mints(cluster) && step.inputs.login.token_secret.is_none() && token.is_stored() {
                step.witnesses.keep(&step.uid, token, step.call.now);
            }
            Ok(Placed::Stands)
        }
        Ok(false) => {
            Err(StepOutcome::in_progress(format!("trying again: leader {} does not show the marker", leader.name)))
        }
        Err(error) if error.is_denied() => Ok(Placed::NoAccess(chain(&error))),
        Err(error) => Err(again(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_named_a_token_is_not_told_to_name_one() {
        let named = no_proof("permission denied", Some("mine"));
        assert!(named.contains("Secret mine") && !named.contains("Name a Secret"), "{named}");
        assert!(no_proof("permission denied", None).ends_with("spec.tokenSecretRef"));
    }
}
