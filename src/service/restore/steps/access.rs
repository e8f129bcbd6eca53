//! The last look: the restored data is still what the leader serves, and whether the operator can log in to it. Both are
//! told apart: data that is there and proven is not undone by a login that does not work.

use super::{Step, chain, evidence, spread};
use crate::api::OpenBaoCluster;
use crate::service::cluster::config::initialize;
use crate::service::cluster::{identity, names, validate};
use crate::service::cluster::{
    login,
    members::{self, Member},
};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::decide::prove::Identity;
use crate::service::restore::plan;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// Output key: `true` or `false`.
pub const ACCESS: &str = "operatorAccess";
/// What the output keys begin with that say why not, and name the exact commands that give the operator its access again: a
/// journal keeps 2 KiB of each value, and half a command is worse than none.
const REMEDY: &str = "operatorAccessRemedy";

/// The remedy that this step has put out, in one piece.
pub fn remedy_in(output: &BTreeMap<String, String>) -> String {
    let parts = output.iter().filter(|(key, _)| key.starts_with(REMEDY));
    parts.map(|(_, part)| part.as_str()).collect::<Vec<_>>().join(" ")
}

pub async fn run(step: &Step<'_>) -> StepOutcome {
    let cluster = match step.cluster() {
        Ok(cluster) => cluster,
        Err(outcome) => return outcome,
    };
    let members = step.members(cluster).await;
    let Some(leader) = members::leader(&members) else {
        return StepOutcome::in_progress("waiting for the servers to agree on a leader");
    };
    // Known without a login, which may be refused.
    let id = leader.health.as_ref().and_then(|health| health.cluster_id.as_deref());
    match Identity::of(spread::restored_id(step), id) {
        Identity::NotAsked | Identity::New => {}
        Identity::Old => return lost(&leader.name),
        Identity::NotSeen => {
            return StepOutcome::in_progress(format!("waiting for leader {} to show its cluster id", leader.name));
        }
    }
    let token = match login::operator_token(step.call.ad, cluster, leader).await {
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
        Ok(true) => lost(&leader.name),
        Err(error) if error.is_denied() => no_access(step, cluster, &chain(&error)),
        Err(error) => StepOutcome::in_progress(format!("trying again: {}", chain(&error))),
    }
}

fn lost(leader: &str) -> StepOutcome {
    StepOutcome::fatal(
        "RestoreLost",
        format!(
            "the restored data was seen, but {leader} serves the old data again after the restart. Create another \
             OpenBaoRestore"
        ),
    )
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
    StepOutcome::done_with(without_access(&remedy(cluster, &operator, why)))
}

fn without_access(remedy: &[String]) -> Vec<(String, String)> {
    let parts = remedy.iter().zip(1..).map(|(part, n)| (format!("{REMEDY}{n}"), part.clone()));
    std::iter::once((ACCESS.to_owned(), false.to_string())).chain(parts).collect()
}

/// What gives the operator back the token that it keeps for a cluster in which it cannot log in: a role would change nothing.
fn kept_token(cluster: &OpenBaoCluster, why: &str) -> Vec<String> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let secret = names::root_token_secret(&name);
    let begin = format!(
        "The data is restored, and the operator has no access to it: it goes by the token in Secret {secret}, and that has to be one \
         of the restored data. With such a token in BAO_TOKEN, type:"
    );
    let command = format!(
        "`kubectl --namespace {namespace} create secret generic {secret} --from-literal=token=\"$BAO_TOKEN\" --dry-run=client \
         --output yaml | kubectl apply --server-side --force-conflicts --filename -`."
    );
    vec![begin, command, format!("The refusal: {why}")]
}

/// What a person types, with a token that is valid in the restored data, so that the operator and its Jobs can log in again, under
/// the roles that the cluster's spec names. Our policies come with the snapshot of any cluster that an operator like this one set up.
/// One part of it fits into a journal's output, the reason last: that may be long.
fn remedy(cluster: &OpenBaoCluster, operator: &str, why: &str) -> Vec<String> {
    if !evidence::mints(cluster) {
        return kept_token(cluster, why);
    }
    let (mount, audience) = (names::JWT_MOUNT, login::jobs_audience(cluster));
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    // As at the first start: nobody takes the place of the operator's role.
    let is_free = |role: &&str| !role.eq_ignore_ascii_case(names::OPERATOR_ROLE);
    let command = |named: Option<&str>, policy: &str, subject: &str| {
        let role = named.filter(is_free).unwrap_or(policy);
        names::role_command(mount, role, policy, &audience, subject)
    };
    let backup = names::subject(&namespace, &names::backup_service_account(&name));
    let restore = names::subject(&namespace, &names::restore_service_account(&name));
    let ours = names::OPERATOR_ROLE;
    let mut commands = vec![names::role_command(mount, ours, ours, &login::audience(cluster), operator)];
    if let Some(role) = cluster.spec.shared_role().filter(is_free) {
        let policies = [names::BACKUP_ROLE, names::RESTORE_ROLE];
        commands.push(names::shared_role_command(mount, role, &policies, &audience, &[backup, restore]));
    } else {
        commands.push(command(cluster.spec.named_backup_role(), names::BACKUP_ROLE, &backup));
        commands.push(command(cluster.spec.named_restore_role(), names::RESTORE_ROLE, &restore));
    }
    let ends = commands.iter().skip(1).map(|_| ';').chain(['.']);
    // In backquotes: a full stop right after a command would be typed with it.
    let commands = commands.iter().zip(ends).map(|(command, end)| format!("`{command}`{end}"));
    let begin = "The data is restored, and the operator cannot log in to it. With a token that is valid in the restored data in \
                 BAO_TOKEN, type:";
    let keys = format!(
        "If the snapshot comes from another Kubernetes, first give it this one's issuer and keys (bound_issuer= and one \
         jwt_validation_pubkeys= a key): `{}`.",
        names::issuer_command(mount, &namespace, &name)
    );
    let refusal = format!("The refusal: {why}");
    [begin.to_owned()].into_iter().chain(commands).chain([keys, refusal]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operation::{Plan, StepKind, StepSpec};
    use crate::service::opslifecycle::saga::machine::{Event, Journal};
    use chrono::DateTime;
    use serde_json::json;

    #[test]
    fn the_remedy_is_what_a_person_types_with_every_name_filled_in() {
        let spec = serde_json::json!({"version": "2.7.2", "storage": {"size": "1Gi"}, "restore": {"jwtAuthRole": "team"},
            "selfInit": {"enabled": true, "oidc": {"enabled": true}}});
        let mut cluster = OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap());
        cluster.metadata.namespace = Some("reef".into());
        let text = remedy(&cluster, "system:serviceaccount:ops:operator", "it said no").join(" ");
        for part in [
            "role/openbao-operator role_type=jwt user_claim=sub bound_audiences=openbao:reef/kelp \
             bound_subject=system:serviceaccount:ops:operator",
            "bound_subject=system:serviceaccount:reef:kelp-backup token_policies=openbao-operator-backup ",
            "bao write auth/jwt/role/team role_type=jwt ",
            "bound_subject=system:serviceaccount:reef:kelp-restore token_policies=openbao-operator-restore ",
            "bound_issuer= and one",
            "kubectl openbao -n reef issuer kelp | bao write auth/jwt/config -",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('<'), "nothing is left to fill in: {text}");
        let spec = serde_json::json!({"version": "2.7.2", "storage": {"size": "1Gi"}, "restore": {"jwtAuthRole": "jobs"},
            "selfInit": {"enabled": true, "oidc": {"enabled": true}},
            "backup": {"jwtAuthRole": "jobs", "target": {"provider": "file", "file": {"claimName": "tide"}}}});
        cluster.spec = serde_json::from_value(spec).unwrap();
        let text = remedy(&cluster, "system:serviceaccount:ops:operator", "it said no").join(" ");
        assert_eq!(text.matches("auth/jwt/role/jobs").count(), 1, "one role for both: {text}");
        assert!(text.contains(r#""bound_claims":{"sub":["system:serviceaccount:reef:kelp-backup","#), "{text}");
    }

    #[test]
    fn no_full_stop_becomes_part_of_a_command() {
        for init in [json!({"enabled": false}), json!({"enabled": true, "oidc": {"enabled": true}})] {
            let spec = json!({"version": "2.7.2", "storage": {"size": "1Gi"}, "selfInit": init});
            let mut cluster = OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap());
            cluster.metadata.namespace = Some("reef".into());
            let text = remedy(&cluster, "system:serviceaccount:ops:operator", "no").join(" ");
            // Every second piece is a command.
            let pieces: Vec<&str> = text.split('`').collect();
            assert!(pieces.len() >= 3 && pieces.len() % 2 == 1, "{text}");
            for (n, piece) in pieces.iter().enumerate() {
                let is_typed = piece.contains("bao write ") || piece.contains("kubectl ");
                assert_eq!(is_typed, n % 2 == 1, "{piece} in {text}");
                assert!(!is_typed || !piece.ends_with(['.', ';']), "{piece}");
            }
        }
    }

    #[test]
    fn where_the_operator_keeps_a_token_the_remedy_is_its_secret_and_no_role() {
        let spec = serde_json::json!({"version": "2.7.2", "storage": {"size": "1Gi"}});
        let mut cluster = OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap());
        cluster.metadata.namespace = Some("reef".into());
        let text = remedy(&cluster, "system:serviceaccount:ops:operator", "it said no").join(" ");
        assert!(text.contains("--namespace reef create secret generic kelp-root-token "), "{text}");
        assert!(text.contains("it said no") && !text.contains("auth/jwt"), "{text}");
    }

    #[test]
    fn whatever_the_names_every_command_comes_through_the_journal_whole() {
        let spec = serde_json::json!({"version": "2.7.2", "storage": {"size": "1Gi"},
            "selfInit": {"enabled": true, "oidc": {"enabled": true, "audience": "a".repeat(512)}}});
        let mut cluster = OpenBaoCluster::new(&"k".repeat(40), serde_json::from_value(spec).unwrap());
        cluster.metadata.namespace = Some("n".repeat(63));
        let operator = names::subject(&"o".repeat(63), &"p".repeat(253));
        let remedy = remedy(&cluster, &operator, &"no ".repeat(600));
        let plan = Plan {
            steps: vec![StepSpec {
                name: plan::VERIFY_ACCESS.into(),
                action: "x".into(),
                kind: StepKind::ReadVerify,
                ..StepSpec::default()
            }],
            ..Plan::default()
        };
        let mut journal = Journal::default();
        for event in [
            Event::Frozen { plan, inputs: BTreeMap::new(), hash: "h".into() },
            Event::StepStarted { step: 0, receipt: None },
            Event::StepDone { step: 0, output: without_access(&remedy).into_iter().collect() },
        ] {
            journal.apply(&event, DateTime::from_timestamp(1_800_000_000, 0).unwrap()).unwrap();
        }
        let output = &journal.status.steps[0].output;
        assert_eq!(output[ACCESS], "false");
        assert_eq!(remedy_in(output), remedy.join(" "));
        assert!(remedy_in(output).contains("| bao write auth/jwt/config -`."));
        assert!(remedy[..5].join(" ").len() < 4096, "what a condition shows of it");
    }

    #[test]
    fn what_an_earlier_version_put_out_is_still_told() {
        let output = BTreeMap::from([(ACCESS.to_owned(), "false".into()), (REMEDY.to_owned(), "type this".into())]);
        assert_eq!(remedy_in(&output), "type this");
    }
}
