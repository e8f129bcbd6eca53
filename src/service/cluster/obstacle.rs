//! What is known beforehand to keep a server from coming back: a seal without its key or credentials, a certificate that is not
//! there, or with which nobody would know it. What runs is left as it is, settings and all, until that is mended. Pure.

use super::{
    bootstrap::Stage,
    build::{
        Plain,
        statefulset::{CONFIG_HASH, CONTAINER},
    },
    facts::Facts,
    names,
    observe::Member,
    status::Trouble,
    upkeep::Step,
};
use crate::adapter::{kubernetes::time::from_kube, openbao::HealthState};
use chrono::{DateTime, Duration, Utc};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, Secret};
use kube::ResourceExt;

/// A server that starts is sealed for a moment. One that is sealed for longer has the wrong key.
const UNSEALS_WITHIN: Duration = Duration::minutes(1);

/// Whether the servers keep the settings that they have, although the spec asks for others: whoever started with those would not
/// come back. `live` and `wanted` are digests of what a server reads at its start.
pub fn keeps_settings(obstacle: Option<&Trouble>, live: Option<&str>, wanted: &str) -> bool {
    obstacle.is_some() && live.is_some_and(|live| live != wanted)
}

/// Everything that follows from the spec but the settings: a pod that is moved to another node reads them too.
pub fn without_settings(mut plain: Plain, cluster: &str) -> Plain {
    let settings = names::config_map(cluster);
    plain.config_maps.retain(|object| object.metadata.name.as_ref() != Some(&settings));
    plain
}

/// What holds a step back that is due: the server that it takes down would not come back.
pub fn holds_back<'a>(step: &Step, obstacle: Option<&'a Trouble>) -> Option<&'a Trouble> {
    obstacle.filter(|_| matches!(step, Step::Restart { .. } | Step::Rejoin { .. }))
}

/// The Secret with the key that the operator made, where the servers are started with it and nothing shows that it is the wrong
/// one: their data is sealed with it, and another key in its place opens nothing. A first start that has sealed nothing yet takes
/// whichever it is given.
pub fn made_key_in_use<'a>(
    facts: &'a Facts,
    members: &[Member],
    cluster: &str,
    stage: Stage,
    now: DateTime<Utc>,
) -> Option<&'a Secret> {
    let initialized = |member: &Member| member.health.as_ref().is_some_and(|health| health.initialized);
    if stage == Stage::Bootstrapping && !members.iter().any(initialized) {
        return None;
    }
    let name = names::unseal_secret(cluster);
    let template = &facts.stateful_set.as_ref()?.spec.as_ref()?.template;
    let volumes = template.spec.as_ref()?.volumes.iter().flatten();
    let mut mounted = volumes.filter_map(|volume| volume.secret.as_ref()?.secret_name.as_ref());
    if !mounted.any(|mounted| *mounted == name) {
        return None;
    }
    let has_it = |member: &&Member| facts.pods.get(&member.ordinal).is_some_and(|pod| is_of(pod, template));
    let stays_sealed = |member: &Member| {
        let since = facts.pods.get(&member.ordinal).and_then(|pod| runs_since(pod));
        let long = since.is_some_and(|since| now - since > UNSEALS_WITHIN);
        long && member.state() == Some(HealthState::Sealed) && initialized(member)
    };
    let serves = members.iter().filter(has_it).any(Member::serves);
    let wrong = !serves && members.iter().filter(has_it).any(stays_sealed);
    facts.secrets.get(&name).filter(|_| !wrong).map(AsRef::as_ref)
}

/// When the server of a pod started: a pod stays while its server is started anew.
fn runs_since(pod: &Pod) -> Option<DateTime<Utc>> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let server = containers.iter().find(|container| container.name == CONTAINER)?;
    server.state.as_ref()?.running.as_ref()?.started_at.as_ref().map(from_kube)
}

/// Whether a pod was started with the settings of the template.
fn is_of(pod: &Pod, template: &PodTemplateSpec) -> bool {
    let wanted = template.metadata.as_ref().and_then(|meta| meta.annotations.as_ref()?.get(CONFIG_HASH));
    pod.annotations().get(CONFIG_HASH) == wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::kubernetes::time::to_kube,
        service::cluster::{
            build::{self, secrets, statefulset},
            observe::tests::member,
            traffic::Traffic,
            validate::tests::valid,
        },
    };
    use serde_json::json;
    use std::sync::Arc;

    fn missing() -> Trouble {
        Trouble::new("SealCredentialsMissing", "Secret mine does not exist")
    }

    #[test]
    fn settings_with_which_no_server_comes_back_are_kept_from_those_that_run() {
        let seal = missing();
        assert!(keeps_settings(Some(&seal), Some("now"), "wanted"));
        assert!(!keeps_settings(Some(&seal), Some("now"), "now"), "nothing else is asked for");
        assert!(!keeps_settings(None, Some("now"), "wanted"), "nothing is in the way");
        assert!(!keeps_settings(Some(&seal), None, "wanted"), "nobody runs");
        let plain = build::plain(&valid(|_| {}), Some("PEM"), false, &Traffic::Everybody);
        let left = without_settings(plain, "kelp");
        assert_eq!(
            build::names_of(&left.config_maps).into_iter().collect::<Vec<_>>(),
            ["kelp-ca"],
            "clients get the authority all the same"
        );
        assert_eq!(left.services.len(), 3, "and are led where they should be");
    }

    #[test]
    fn no_server_is_taken_down_that_is_known_not_to_come_back() {
        let seal = missing();
        let pod = || "kelp-2".to_owned();
        let restart = Step::Restart { pod: pod(), uid: "u".into(), why: "the settings changed".into() };
        let rejoin = Step::Rejoin { pod: pod(), uid: "u".into(), ordinal: 2 };
        for step in [&restart, &rejoin] {
            assert_eq!(holds_back(step, Some(&seal)), Some(&seal), "{step:?}");
            assert_eq!(holds_back(step, None), None, "{step:?}");
        }
        let leaves = Step::Shrink { pod: pod(), leads: false, removed: false };
        assert_eq!(holds_back(&leaves, Some(&seal)), None, "it is not to come back");
    }

    #[test]
    fn the_key_that_the_operator_made_is_in_use_until_a_server_that_has_it_stays_sealed() {
        let cluster = valid(|_| {});
        let set = statefulset::build(&cluster, &statefulset::tests::inputs());
        let template = set.spec.as_ref().unwrap().template.clone();
        let mut pod = Pod { metadata: template.metadata.unwrap(), ..Pod::default() };
        let key = Arc::new(secrets::unseal_key(&cluster, &[7; 32]));
        let mut facts = Facts {
            stateful_set: Some(Arc::new(set)),
            secrets: [("kelp-unseal-key".to_owned(), key)].into(),
            pods: [(0, Arc::new(pod.clone()))].into(),
            ..Facts::default()
        };
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let runs_for = |pod: &mut Pod, minutes| {
            pod.metadata.creation_timestamp = Some(to_kube(now - Duration::hours(9)));
            let started = (now - Duration::minutes(minutes)).to_rfc3339();
            let server = json!({"name": "openbao", "state": {"running": {"startedAt": started}}, "image": "i", "imageID": "i",
                "ready": false, "restartCount": 1});
            pod.status = serde_json::from_value(json!({"containerStatuses": [server]})).unwrap();
        };
        let says = |state| [member(0, state, Some(0))];
        let in_use = |facts: &Facts, members: &[Member]| {
            made_key_in_use(facts, members, "kelp", Stage::Bootstrapped, now).is_some()
        };
        assert!(in_use(&facts, &says(HealthState::Active)));
        assert!(in_use(&facts, &[]), "a pod that is away for a moment refutes nothing");
        assert!(in_use(&facts, &says(HealthState::Sealed)), "nobody knows since when it runs");
        runs_for(&mut pod, 0);
        facts.pods = [(0, Arc::new(pod.clone()))].into();
        assert!(in_use(&facts, &says(HealthState::Sealed)), "it starts, in a pod that is older");
        runs_for(&mut pod, 60);
        facts.pods = [(0, Arc::new(pod.clone()))].into();
        assert!(!in_use(&facts, &says(HealthState::Sealed)), "it does not open the data");
        assert!(in_use(&facts, &says(HealthState::Active)));
        pod.annotations_mut().insert(CONFIG_HASH.into(), "other".into());
        facts.pods = [(0, Arc::new(pod))].into();
        assert!(in_use(&facts, &says(HealthState::Sealed)), "that one was started with something else");

        let theirs = valid(|s| s["unseal"] = json!({"type": "static", "credentialsSecretRef": {"name": "mine"}}));
        facts.stateful_set = Some(Arc::new(statefulset::build(&theirs, &statefulset::tests::inputs())));
        assert!(!in_use(&facts, &says(HealthState::Active)), "it only lies there");
    }

    #[test]
    fn a_first_start_that_has_sealed_nothing_yet_takes_another_key() {
        let cluster = valid(|_| {});
        let facts = Facts {
            stateful_set: Some(Arc::new(statefulset::build(&cluster, &statefulset::tests::inputs()))),
            secrets: [("kelp-unseal-key".to_owned(), Arc::new(secrets::unseal_key(&cluster, &[7; 32])))].into(),
            ..Facts::default()
        };
        let in_use =
            |stage, members: &[Member]| made_key_in_use(&facts, members, "kelp", stage, DateTime::default()).is_some();
        let silent = Member { health: None, ..member(0, HealthState::Sealed, None) };
        assert!(!in_use(Stage::Bootstrapping, &[]), "no pod has come up");
        assert!(!in_use(Stage::Bootstrapping, &[silent.clone(), member(1, HealthState::Uninitialized, None)]));
        assert!(in_use(Stage::Bootstrapping, &[silent, member(1, HealthState::Sealed, None)]), "it holds something");
        assert!(in_use(Stage::Bootstrapped, &[]), "there is data, whoever is away");
    }
}
