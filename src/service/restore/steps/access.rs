//! The last look: the restored data is still what the leader serves, and whether the operator can log in to it. Both are
//! told apart: data that is there and proven is not undone by a login that does not work.

use super::{Step, chain, evidence};
use crate::api::OpenBaoCluster;
use crate::service::cluster::config::initialize;
use crate::service::cluster::observe::{self, Member};
use crate::service::cluster::{identity, names, validate};
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
        Err(error) if error.is_refused() => match set_up_again(step, cluster, leader).await {
            // The next call logs in.
            Ok(true) => return StepOutcome::in_progress("the operator's roles are set again: logging in"),
            Ok(false) => return no_access(step, cluster, &chain(&error)),
            Err(why) => return no_access(step, cluster, &format!("{}; {why}", chain(&error))),
        },
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
        Err(error) if error.is_denied() => no_access(step, cluster, &chain(&error)),
        Err(error) => StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
    }
}

/// With a token of the restored data, which the spec may name, the operator sets its own roles again. `false`: there is no
/// such token, or the cluster was never set up for such logins; or they have been set already and do not help.
async fn set_up_again(step: &Step<'_>, cluster: &OpenBaoCluster, leader: &Member) -> Result<bool, String> {
    let Some(token) = evidence::named_token(step, cluster).await else { return Ok(false) };
    let (Ok(valid), Some(Ok(client))) = (validate::validate(cluster), leader.client()) else { return Ok(false) };
    let Some(oidc) = valid.oidc.as_ref().filter(|_| step.call.state.attempt <= 1) else { return Ok(false) };
    if step.call.state.waiting.as_deref().is_some_and(|waiting| waiting.contains("set again")) {
        return Ok(false);
    }
    let settings = &step.call.ad.settings;
    let subject = names::subject(&settings.operator_namespace, &settings.operator_service_account);
    let identity = identity::fetch(&step.call.ad.client, subject).await.map_err(|error| chain(&error))?;
    let issuer = oidc.issuer.as_deref().unwrap_or(&identity.issuer);
    if !step.call.ad.leadership.still_leader() {
        return Err("another operator leads now".to_owned());
    }
    for request in initialize::access_requests(&valid, &identity, issuer, &oidc.audience) {
        match client.put(&token, &request.path, &serde_json::Value::from(&request.data)).await {
            Ok(()) => {}
            // The mount is there already.
            Err(error) if request.path.starts_with("sys/auth/") && error.status() == Some(400) => {}
            Err(error) => {
                return Err(format!(
                    "setting {} again with spec.tokenSecretRef failed: {}",
                    request.name,
                    chain(&error)
                ));
            }
        }
    }
    Ok(true)
}

fn no_access(step: &Step<'_>, cluster: &OpenBaoCluster, why: &str) -> StepOutcome {
    let settings = &step.call.ad.settings;
    let operator = names::subject(&settings.operator_namespace, &settings.operator_service_account);
    StepOutcome::done_with([(ACCESS, false.to_string()), (REMEDY, remedy(cluster, &operator, why))])
}

/// What a person types, with a token that is valid in the restored data, so that the operator can log in again. The
/// policies of these names come with the snapshot of any cluster that an operator like this one set up.
fn remedy(cluster: &OpenBaoCluster, operator: &str, why: &str) -> String {
    let (mount, audience) = (names::JWT_MOUNT, observe::audience(cluster));
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let roles = [
        (names::OPERATOR_ROLE, operator.to_owned()),
        (names::BACKUP_ROLE, names::subject(&namespace, &names::backup_service_account(&name))),
        (names::RESTORE_ROLE, names::subject(&namespace, &names::restore_service_account(&name))),
    ];
    let roles = roles.map(|(role, subject)| names::role_command(mount, role, &audience, &subject));
    format!(
        "The data is restored, and the operator cannot log in to it ({why}). With a token that is valid in the restored data \
         in BAO_TOKEN, type: {}. If the snapshot comes from another Kubernetes, first give it this one's keys (kubectl get \
         --raw /openid/v1/jwks, as PEM): bao write auth/{mount}/config jwt_validation_pubkeys=@keys.pem",
        roles.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_what_a_person_types_with_every_name_filled_in() {
        let spec = serde_json::json!({"version": "2.7.2", "storage": {"size": "1Gi"}});
        let mut cluster = OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap());
        cluster.metadata.namespace = Some("reef".into());
        let text = remedy(&cluster, "system:serviceaccount:ops:operator", "it said no");
        for part in [
            "role/openbao-operator role_type=jwt user_claim=sub bound_audiences=openbao:reef/kelp \
             bound_subject=system:serviceaccount:ops:operator",
            "bound_subject=system:serviceaccount:reef:kelp-backup",
            "bound_subject=system:serviceaccount:reef:kelp-restore",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('<'), "nothing is left to fill in: {text}");
    }
}
