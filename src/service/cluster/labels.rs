//! Corrects the label by which `<name>-active` finds the leader.
//!
//! OpenBao writes it on its own pod and is known to leave it behind: a node that won an election and failed to activate keeps
//! it for ever, and the Service then sends writes to a standby. The server's own word wins, once the contradiction has
//! lasted longer than a change of leadership takes.

use super::{
    facts::Facts,
    members::{self, Member},
    memory::Notes,
    names,
};
use crate::adapter::{Adapters, kubernetes::client::timed};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// How long a contradiction must last.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pods whose label contradicts their server, with what it should say. Empty without an undisputed leader.
pub fn wrong(facts: &Facts, members: &[Member]) -> Vec<(String, bool)> {
    let Some(leader) = members::leader(members) else { return Vec::new() };
    members
        .iter()
        .filter(|member| member.serves())
        .filter_map(|member| {
            let pod = facts.pods.get(&member.ordinal)?;
            let says = pod.labels().get(names::ACTIVE_LABEL).map(String::as_str);
            let leads = member.name == leader.name;
            // A pod without the label (no service registration yet) misleads nobody unless it is the leader.
            let misleads = if leads { says != Some("true") } else { says == Some("true") };
            misleads.then(|| (member.name.clone(), leads))
        })
        .collect()
}

/// Whether the leader is found by its label.
pub fn tell_who_leads(facts: &Facts, members: &[Member]) -> bool {
    let pod = members::leader(members).and_then(|leader| facts.pods.get(&leader.ordinal));
    pod.and_then(|pod| pod.labels().get(names::ACTIVE_LABEL)).is_some_and(|says| says == "true")
}

/// Repairs what has been wrong for long enough. Returns when to look again if something is wrong.
pub async fn repair(
    ad: &Adapters,
    notes: &mut Notes,
    namespace: &str,
    facts: &Facts,
    members: &[Member],
) -> Option<Duration> {
    let wrong = wrong(facts, members);
    notes.mislabelled.retain(|pod, _| wrong.iter().any(|(name, _)| name == pod));
    if wrong.is_empty() {
        return None;
    }
    for (pod, leads) in wrong {
        let since = *notes.mislabelled.entry(pod.clone()).or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE {
            continue;
        }
        let Some(uid) = members.iter().find(|member| member.name == pod).map(|member| member.uid.clone()) else {
            continue;
        };
        let api: Api<Pod> = Api::namespaced(ad.client.clone(), namespace);
        let value = if leads { "true" } else { "false" };
        let patch = json!({"metadata": {"uid": uid, "labels": {(names::ACTIVE_LABEL): value}}});
        match timed(api.patch(&pod, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(_) => {
                tracing::info!(pod, value, "corrected the label {}: the server says otherwise", names::ACTIVE_LABEL);
            }
            Err(error) => tracing::warn!(pod, error = %error, "failed to correct the label {}", names::ACTIVE_LABEL),
        }
        notes.mislabelled.remove(&pod);
    }
    Some(PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{adapter::openbao::HealthState, service::cluster::members::tests::member};
    use std::sync::Arc;

    fn facts(labels: [Option<&str>; 3]) -> Facts {
        let pods = (0..).zip(labels).map(|(ordinal, label)| {
            let mut pod = Pod::default();
            pod.metadata.name = Some(names::pod("kelp", ordinal));
            pod.metadata.labels = label.map(|label| [(names::ACTIVE_LABEL.to_owned(), label.to_owned())].into());
            (ordinal, Arc::new(pod))
        });
        Facts { pods: pods.collect(), ..Facts::default() }
    }

    fn three() -> Vec<Member> {
        use HealthState::{Active, Standby};
        vec![member(0, Standby, Some(1)), member(1, Active, Some(1)), member(2, Standby, Some(1))]
    }

    #[test]
    fn a_label_left_behind_and_a_leader_without_one_are_wrong() {
        let found = wrong(&facts([Some("true"), Some("false"), Some("false")]), &three());
        assert_eq!(found, [("kelp-0".into(), false), ("kelp-1".into(), true)]);
    }

    #[test]
    fn right_labels_are_left_alone_and_without_a_leader_nothing_is_right_or_wrong() {
        assert_eq!(wrong(&facts([Some("false"), Some("true"), None]), &three()), []);
        assert_eq!(wrong(&facts([Some("true"), None, None]), &three()[..1]), []);
    }

    #[test]
    fn the_leader_is_found_by_its_own_label_and_by_no_other() {
        for (labels, found) in [
            ([Some("false"), Some("true"), Some("false")], true),
            ([Some("true"), Some("true"), None], true),
            ([Some("true"), Some("false"), None], false),
            ([None, None, None], false),
        ] {
            assert_eq!(tell_who_leads(&facts(labels), &three()), found, "{labels:?}");
            assert!(!tell_who_leads(&facts(labels), &three()[..1]), "nobody leads");
        }
    }
}
