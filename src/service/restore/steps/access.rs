//! The last look: the restored data is still what the leader serves, and whether the operator can log in to it. Both are
//! told apart: data that is there and proven is not undone by a login that does not work.

use super::{Step, chain};
use crate::api::OpenBaoCluster;
use crate::service::cluster::{names, observe};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::plan;
use kube::ResourceExt;

/// Output key: `true` or `false`.
pub const ACCESS: &str = "operatorAccess";
/// Output key: why not, and the exact commands that give the operator its access again.
pub const REMEDY: &str = "operatorAccessRemedy";

pub async fn run(step: &Step<'_>) -> StepOutcome {
    let cluster = match step.cluster() {
        Ok(cluster) => cluster,
        Err(outcome) => return outcome,
    };
    let members = step.members(cluster).await;
    let Some(leader) = observe::leader(&members) else {
        return StepOutcome::in_progress("waiting for the servers to agree on a leader");
    };
    let token = match observe::operator_token(step.call.ad, cluster, leader).await {
        Ok(token) => token,
        Err(error) if error.is_refused() => return no_access(cluster, &chain(&error)),
        Err(error) => return StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
    };
    let Some(Ok(client)) = leader.client() else {
        return StepOutcome::in_progress(format!("waiting for pod {} to have an address", leader.name));
    };
    match client.policy_exists(&token, &plan::marker(&step.uid)).await {
        Ok(false) => StepOutcome::done_with([(ACCESS, true.to_string())]),
        Ok(true) => StepOutcome::fatal(
            "RestoreLost",
            format!(
                "the restored data was seen, but {} serves the old data again after the restart. Create another \
                 OpenBaoRestore",
                leader.name
            ),
        ),
        Err(error) if error.is_denied() => no_access(cluster, &chain(&error)),
        Err(error) => StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
    }
}

fn no_access(cluster: &OpenBaoCluster, why: &str) -> StepOutcome {
    StepOutcome::done_with([(ACCESS, false.to_string()), (REMEDY, remedy(cluster, why))])
}

/// What a person types, with a token that is valid in the restored data, so that the operator can log in again.
fn remedy(cluster: &OpenBaoCluster, why: &str) -> String {
    let (mount, role, audience) = (names::JWT_MOUNT, names::OPERATOR_ROLE, observe::audience(cluster));
    let name = cluster.name_any();
    format!(
        "The data is restored; the operator cannot log in to it ({why}). With a token that is valid in the restored data \
         (export BAO_TOKEN), let service accounts of this Kubernetes log in again: \
         kubectl get --raw /openid/v1/jwks gives the keys; \
         bao auth enable -path={mount} jwt (if it is not enabled); \
         bao write auth/{mount}/config jwks_url= jwt_validation_pubkeys=@keys.pem; \
         bao write auth/{mount}/role/{role} role_type=jwt user_claim=sub bound_audiences={audience} \
         bound_subject=<the operator's service account> token_policies={role} token_ttl=1h; \
         the same for {backup} and {restore}, whose service accounts are {backup_sa} and {restore_sa}",
        backup = names::BACKUP_ROLE,
        restore = names::RESTORE_ROLE,
        backup_sa = names::backup_service_account(&name),
        restore_sa = names::restore_service_account(&name),
    )
}
