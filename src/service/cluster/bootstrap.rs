//! The very first start, and why there is never a second one.
//!
//! OpenBao initialises itself on any empty volume whose pod sees an `initialize` stanza, also when its peers hold data. A
//! pod that lost its volume would thus start a second, empty cluster. So the stanza is never simply there:
//!
//! 1. A cluster is *bootstrapping* only if no volume of it existed when its StatefulSet was made.
//! 2. While it is, new pods are gated: Kubernetes does not schedule them before the operator says so.
//! 3. The stanza lies in an object of its own that is created, never updated, and names the one volume it is granted to.
//!    Ordinal 0's pod is let go only while its volume is that one, or while the object is gone.
//! 4. Once a member is initialised the StatefulSet says so for ever (annotation and status), the gate leaves the template
//!    and the object is deleted. Later pods find no stanza, whatever happens to their volumes, and join.

use super::{
    build::{config_maps::GRANTED_VOLUME, statefulset},
    facts::Facts,
    members::Member,
    names,
    trouble::{Trouble, reasons},
};
use crate::adapter::{kubernetes::owner::is_controlled_by, openbao::HealthState};
use crate::service::upgrade::trouble::end_of;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// One end may be an accident of its surroundings.
const RESTARTS: i32 = 2;

/// Where a cluster stands between nothing and its first data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No volume of it ever existed: the stanza may be granted.
    Bootstrapping,
    /// It holds data, or may: nothing will ever be initialised again.
    Bootstrapped,
}

/// Decides the stage. `claims_exist` is a fresh answer of the API server, needed only where no StatefulSet exists.
pub fn stage(facts: &Facts, cluster_uid: &str, initialized: bool, claims_exist: bool) -> Stage {
    let own = facts.own_set(cluster_uid);
    let marked = own.is_some_and(|set| set.annotations().contains_key(statefulset::BOOTSTRAPPED));
    let retained = own.is_none() && claims_exist;
    if initialized || marked || retained { Stage::Bootstrapped } else { Stage::Bootstrapping }
}

/// What is still there of an earlier object of this name, and is about to go: it says nothing about this one, and while it
/// is there nobody knows whether its volumes stay. `None` lets the stage be decided.
pub fn remnant(facts: &Facts, cluster_uid: &str) -> Option<String> {
    if let Some(set) = facts.stateful_set.as_deref().filter(|set| is_left_behind(*set, cluster_uid)) {
        return Some(left_behind("StatefulSet", &set.name_any()));
    }
    let own = facts.own_set(cluster_uid).and_then(ResourceExt::uid);
    // One without a controller is adopted by our StatefulSet, and its claim is retained.
    let others = |pod: &Pod| controller(pod).is_some_and(|uid| Some(uid) != own.as_deref());
    let pod = facts.pods.values().find(|pod| others(pod))?;
    Some(left_behind("pod", &pod.name_any()))
}

/// Whether an object that should be ours goes with another owner. One that nobody owns does not go by itself.
pub fn is_left_behind(object: &impl ResourceExt, cluster_uid: &str) -> bool {
    let going = object.meta().deletion_timestamp.is_some();
    !is_controlled_by(object, cluster_uid) && (going || controller(object).is_some())
}

fn controller(object: &impl ResourceExt) -> Option<&str> {
    let owners = object.owner_references().iter();
    owners.filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str()).next()
}

/// In words, with what to do if it does not go.
pub fn left_behind(kind: &str, name: &str) -> String {
    format!(
        "{kind} {name} is left of an earlier object of this name and on its way out: nothing is started before it is gone. If it \
         stays, see who owns it and what finalizers it has, and delete it"
    )
}

/// Whether some member says that it holds data: the end of the bootstrap.
pub fn is_done(members: &[Member]) -> bool {
    members.iter().any(|member| {
        member.health.as_ref().is_some_and(|health| health.initialized)
            && matches!(member.state(), Some(HealthState::Active | HealthState::Standby))
    })
}

/// What to do next for pods that wait at the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nobody waits, or what they wait for has not happened yet.
    Nothing,
    /// Grant the stanza to this volume, then let the pods go.
    Grant {
        /// UID of ordinal 0's claim.
        volume_uid: String,
    },
    /// Let these pods go.
    LetGo(Vec<String>),
    /// The stanza was granted to another volume that is still wanted elsewhere: see [`Lost`].
    Lost(Lost),
    /// The stanza on record belongs to another cluster object, or to a volume that never came to hold anything, or it is spent:
    /// delete it.
    Discard {
        /// UID of the object to delete.
        uid: String,
    },
}

/// Ordinal 0's volume was replaced after it had been granted the stanza, and other members may hold data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The volume that was granted.
    pub granted: String,
}

/// Decides the step. Ordinal 0 waits for its grant; the others may start at any time, since they only ever join.
pub fn step(facts: &Facts, cluster: &str, cluster_uid: &str, members: &[Member]) -> Step {
    let waiting: Vec<&Pod> = facts.pods.values().map(AsRef::as_ref).filter(|pod| is_gated(pod)).collect();
    if waiting.is_empty() {
        return Step::Nothing;
    }
    let Some(volume) = facts.claims.get(&0).filter(|claim| claim.metadata.deletion_timestamp.is_none()) else {
        return Step::Nothing;
    };
    let volume_uid = volume.uid().unwrap_or_default();
    let names: Vec<String> = waiting.iter().map(|pod| pod.name_any()).collect();
    let Some(object) = facts.config_maps.get(&names::bootstrap_config_map(cluster)) else {
        return Step::Grant { volume_uid };
    };
    // What took the stanza's place once this cluster, or an earlier one, had started: it grants nothing.
    let Some(granted) = object.annotations().get(GRANTED_VOLUME).cloned() else {
        return Step::Discard { uid: object.uid().unwrap_or_default() };
    };
    let ours = is_controlled_by(object.as_ref(), cluster_uid);
    if ours && granted == volume_uid {
        return Step::LetGo(names);
    }
    // Another volume now. Nothing is lost if nobody else ever joined: every other member says that it is empty, or waits
    // at the gate with a volume that no pod ever mounted (an earlier pod of it may have joined before it was replaced).
    let unused = |ordinal: &u32| {
        let phase = facts.claims.get(ordinal).and_then(|claim| claim.status.as_ref()?.phase.as_deref());
        phase != Some("Bound")
    };
    let says_empty = |ordinal: &u32| {
        members.iter().any(|member| member.ordinal == *ordinal && member.state() == Some(HealthState::Uninitialized))
    };
    let empty = facts
        .pods
        .iter()
        .filter(|(ordinal, _)| **ordinal != 0)
        .all(|(ordinal, pod)| if is_gated(pod) { unused(ordinal) } else { says_empty(ordinal) });
    if !ours || empty {
        return Step::Discard { uid: object.uid().unwrap_or_default() };
    }
    Step::Lost(Lost { granted })
}

/// Why the first start does not get anywhere: ordinal 0's server was let go and ends again and again. In its own last words.
pub fn failing(facts: &Facts, cluster: &str) -> Option<Trouble> {
    let pod = facts.pods.get(&0).filter(|pod| pod.metadata.deletion_timestamp.is_none())?;
    let mut containers = pod.status.as_ref()?.container_statuses.iter().flatten();
    let server = containers.find(|container| container.name == statefulset::CONTAINER)?;
    // A gated pod has no container, so all of these came after the grant.
    if server.ready || server.restart_count < RESTARTS {
        return None;
    }
    let mut states = [server.state.as_ref(), server.last_state.as_ref()].into_iter().flatten();
    let ended = states.find_map(|state| state.terminated.as_ref());
    let said = ended.and_then(|ended| ended.message.as_deref()).map(end_of).filter(|words| !words.is_empty());
    let words = said.unwrap_or_else(|| "none; see the log of its previous container".to_owned());
    let code = ended.map_or_else(String::new, |ended| format!(" with code {}", ended.exit_code));
    Some(Trouble::new(
        reasons::FIRST_START_FAILS,
        format!(
            "the server of pod {} ended{code} and was restarted {} times in the first start; its last words: {words}. What lies in \
             spec.configuration or the seal can be corrected here; what spec.selfInit asks for was handed out once: delete \
             OpenBaoCluster {cluster} and its volume claims, which hold nothing yet, correct it and apply it again",
            pod.name_any(),
            server.restart_count
        ),
    ))
}

/// Whether a pod waits for the operator.
pub fn is_gated(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .spec
            .as_ref()
            .and_then(|spec| spec.scheduling_gates.as_ref())
            .is_some_and(|gates| gates.iter().any(|gate| gate.name == statefulset::BOOTSTRAP_GATE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::members::tests::member;
    use k8s_openapi::api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, PersistentVolumeClaim},
    };
    use serde_json::json;
    use std::sync::Arc;

    fn pod(ordinal: u32, gated: bool) -> Arc<Pod> {
        let gates = if gated { json!([{"name": statefulset::BOOTSTRAP_GATE}]) } else { json!(null) };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": names::pod("kelp", ordinal)},
                "spec": {"containers": [], "schedulingGates": gates}
            }))
            .unwrap(),
        )
    }

    fn claim(uid: &str) -> Arc<PersistentVolumeClaim> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "data-kelp-0", "uid": uid}})).unwrap())
    }

    fn grant(volume: &str, owner: &str) -> (String, Arc<ConfigMap>) {
        let object = json!({"metadata": {
            "name": "kelp-bootstrap", "uid": "grant-uid", "annotations": {GRANTED_VOLUME: volume},
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "kelp", "uid": owner, "controller": true}]
        }});
        ("kelp-bootstrap".into(), Arc::new(serde_json::from_value(object).unwrap()))
    }

    fn facts(pods: &[(u32, bool)], volume: &str, granted: Option<(&str, &str)>) -> Facts {
        Facts {
            pods: pods.iter().map(|&(ordinal, gated)| (ordinal, pod(ordinal, gated))).collect(),
            claims: [(0, claim(volume))].into(),
            config_maps: granted.into_iter().map(|(volume, owner)| grant(volume, owner)).collect(),
            ..Facts::default()
        }
    }

    fn owned_by(uid: &str) -> serde_json::Value {
        json!([{"apiVersion": "v1", "kind": "K", "name": "kelp", "uid": uid, "controller": true}])
    }

    fn set(annotations: serde_json::Value) -> Option<Arc<StatefulSet>> {
        let metadata =
            json!({"name": "kelp", "uid": "set", "annotations": annotations, "ownerReferences": owned_by("c")});
        Some(Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap()))
    }

    fn pod_of(owner: &str) -> Arc<Pod> {
        let metadata = json!({"name": "kelp-0", "ownerReferences": owned_by(owner)});
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    #[test]
    fn what_an_earlier_object_of_the_name_left_behind_decides_nothing() {
        let mark = || set(json!({statefulset::BOOTSTRAPPED: "true"}));
        let with = |stateful_set, pods: &[&str]| Facts {
            stateful_set,
            pods: pods.iter().map(|owner| (0, pod_of(owner))).collect(),
            ..Facts::default()
        };
        assert_eq!(remnant(&with(mark(), &["set"]), "c"), None, "all of it is ours");
        assert_eq!(remnant(&with(None, &[]), "c"), None);
        let earlier = with(mark(), &["set"]);
        assert!(remnant(&earlier, "new").is_some_and(|why| why.starts_with("StatefulSet kelp ")));
        assert_eq!(stage(&earlier, "new", false, false), Stage::Bootstrapping, "its mark is not about us");
        assert_eq!(stage(&earlier, "new", false, true), Stage::Bootstrapped, "its volumes are");
        for (set, owner) in [(None, "earlier"), (mark(), "earlier")] {
            assert!(remnant(&with(set, &[owner]), "c").is_some_and(|why| why.starts_with("pod kelp-0 ")));
        }
        let mut orphan = with(mark(), &[]);
        Arc::make_mut(orphan.stateful_set.as_mut().unwrap()).metadata.owner_references = None;
        assert_eq!(remnant(&orphan, "c"), None, "it does not go by itself: the name is taken");
    }

    #[test]
    fn a_cluster_is_fresh_only_without_volumes_marks_and_earlier_data() {
        let none = Facts::default();
        assert_eq!(stage(&none, "c", false, false), Stage::Bootstrapping);
        assert_eq!(stage(&none, "c", false, true), Stage::Bootstrapped, "retained volumes of an earlier object");
        assert_eq!(
            stage(&none, "c", true, false),
            Stage::Bootstrapped,
            "it was initialised once: the StatefulSet was deleted"
        );
        let new = Facts { stateful_set: set(json!({})), ..Facts::default() };
        assert_eq!(stage(&new, "c", false, true), Stage::Bootstrapping, "its own volumes, made by its own StatefulSet");
        let marked = Facts { stateful_set: set(json!({statefulset::BOOTSTRAPPED: "true"})), ..Facts::default() };
        assert_eq!(stage(&marked, "c", false, true), Stage::Bootstrapped);
    }

    #[test]
    fn the_first_volume_gets_the_grant_and_then_everybody_may_start() {
        let before = facts(&[(0, true), (1, true)], "v1", None);
        assert_eq!(step(&before, "kelp", "c", &[]), Step::Grant { volume_uid: "v1".into() });
        let after = facts(&[(0, true), (1, true)], "v1", Some(("v1", "c")));
        assert_eq!(step(&after, "kelp", "c", &[]), Step::LetGo(vec!["kelp-0".into(), "kelp-1".into()]));
    }

    #[test]
    fn a_replaced_volume_gets_no_second_grant_while_another_member_may_hold_data() {
        let lost = facts(&[(0, true), (1, false)], "v2", Some(("v1", "c")));
        for state in [HealthState::Standby, HealthState::Sealed] {
            assert!(matches!(step(&lost, "kelp", "c", &[member(1, state, None)]), Step::Lost(_)), "{state:?}");
        }
        assert!(matches!(step(&lost, "kelp", "c", &[]), Step::Lost(_)), "silence proves nothing");
    }

    #[test]
    fn a_replaced_volume_gets_a_new_grant_once_every_other_member_says_that_it_is_empty() {
        let lost = facts(&[(0, true), (1, false), (2, true)], "v2", Some(("v1", "c")));
        let members = [member(1, HealthState::Uninitialized, None)];
        assert_eq!(step(&lost, "kelp", "c", &members), Step::Discard { uid: "grant-uid".into() });
    }

    #[test]
    fn a_gated_member_whose_volume_was_used_before_may_hold_data() {
        let mut lost = facts(&[(0, true), (1, true)], "v2", Some(("v1", "c")));
        assert!(matches!(step(&lost, "kelp", "c", &[]), Step::Discard { .. }), "no volume yet");
        let claim = json!({"metadata": {"name": "data-kelp-1"}, "status": {"phase": "Bound"}});
        lost.claims.insert(1, Arc::new(serde_json::from_value(claim).unwrap()));
        assert!(matches!(step(&lost, "kelp", "c", &[]), Step::Lost(_)));
    }

    #[test]
    fn a_grant_of_an_earlier_cluster_object_is_discarded() {
        let stale = facts(&[(0, true)], "v2", Some(("v1", "earlier")));
        assert_eq!(step(&stale, "kelp", "c", &[]), Step::Discard { uid: "grant-uid".into() });
    }

    #[test]
    fn a_server_that_ends_again_and_again_in_the_first_start_is_quoted() {
        let with = |restarts: i32, ready: bool, state: serde_json::Value| {
            let ended = json!({"terminated": {"exitCode": 1, "message": "starting\nError parsing config\n"}});
            let status = json!({"containerStatuses": [{"name": "openbao", "ready": ready, "image": "", "imageID": "",
                "restartCount": restarts, "state": state, "lastState": ended}]});
            let pod = json!({"metadata": {"name": "kelp-0"}, "status": status});
            Facts { pods: [(0, Arc::new(serde_json::from_value(pod).unwrap()))].into(), ..Facts::default() }
        };
        let back_off = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
        assert_eq!(failing(&with(1, false, back_off()), "kelp"), None, "it may have been an accident");
        assert_eq!(failing(&with(2, true, json!({"running": {}})), "kelp"), None, "it serves");
        let trouble = failing(&with(2, false, back_off()), "kelp").unwrap();
        assert_eq!(trouble.reason, reasons::FIRST_START_FAILS);
        for words in
            ["kelp-0 ended with code 1", "2 times", "starting Error parsing config", "delete OpenBaoCluster kelp"]
        {
            assert!(trouble.message.contains(words), "{words}: {}", trouble.message);
        }
        let runs = failing(&with(3, false, json!({"running": {}})), "kelp").unwrap();
        assert!(runs.message.contains("Error parsing config"), "between two ends: {}", runs.message);
        assert_eq!(failing(&facts(&[(0, true)], "v1", None), "kelp"), None);
    }

    #[test]
    fn what_took_the_stanzas_place_after_a_first_start_gives_way_to_the_grant_of_another_one() {
        let mut again = facts(&[(0, true)], "v2", Some(("v1", "c")));
        Arc::make_mut(again.config_maps.get_mut("kelp-bootstrap").unwrap()).metadata.annotations = None;
        again.pods.insert(1, pod(1, false));
        assert_eq!(step(&again, "kelp", "c", &[]), Step::Discard { uid: "grant-uid".into() }, "a rollback's servers");
    }

    #[test]
    fn nobody_is_let_go_before_the_volume_exists() {
        let mut early = facts(&[(0, true)], "v1", None);
        early.claims.clear();
        assert_eq!(step(&early, "kelp", "c", &[]), Step::Nothing);
    }
}
