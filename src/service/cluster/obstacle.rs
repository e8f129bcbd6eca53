//! What is known beforehand to keep a server from coming back: a seal without its key or credentials, a certificate that is not
//! there, or with which nobody would know it. What runs is left as it is, settings and all, until that is mended, and nobody is let
//! in who would have to start with it. Pure.

use super::{
    bootstrap::Stage,
    build::{
        Plain,
        statefulset::{CONFIG_HASH, CONTAINER},
    },
    facts::Facts,
    keys::Certificates,
    members::Member,
    names, static_key,
    trouble::{TlsState, Trouble},
    upkeep::{Situation, Step, decide},
};
use crate::adapter::{kubernetes::time::from_kube, openbao::HealthState};
use chrono::{DateTime, Duration, Utc};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::ResourceExt;

/// A server that starts is sealed for a moment. One that is sealed for longer has the wrong key.
const UNSEALS_WITHIN: Duration = Duration::minutes(1);

/// What stands in the way of servers that start.
#[derive(Clone, Debug, Default)]
pub struct Obstacles {
    /// Why none that runs would come back.
    pub returning: Option<Trouble>,
    /// Why none that is new would serve and be known. A certificate that names only the members that there are is good enough for
    /// those.
    pub joining: Option<Trouble>,
}

impl Obstacles {
    /// The certificate's own, or else the `seal`'s.
    pub fn of(certificates: &Certificates, seal: Option<&Trouble>) -> Self {
        let refused = match &certificates.state {
            TlsState::Bad(bad) => Some(bad),
            _ => None,
        };
        Self { returning: certificates.obstacle.as_ref().or(seal).cloned(), joining: refused.or(seal).cloned() }
    }

    /// With another one, which those count that nothing else stands in the way of.
    #[must_use]
    pub fn or(self, other: Option<&Trouble>) -> Self {
        let or = |known: Option<Trouble>| known.or_else(|| other.cloned());
        Self { returning: or(self.returning), joining: or(self.joining) }
    }
}

/// For whoever takes servers down without looking at keys and certificates himself: a clause that says why he waits.
pub fn words(obstacle: &Trouble) -> String {
    format!("a server that starts would not come back ({}): {}", obstacle.reason, obstacle.message)
}

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

/// What holds a step back that is due, in words: the server that it takes down would not come back, or those that it lets start
/// would keep for ever what they start with.
pub fn holds_back(step: &Step, obstacles: &Obstacles) -> Option<String> {
    let (what, obstacle) = match step {
        Step::Restart { .. } | Step::Rejoin { .. } => ("it would not come back", &obstacles.returning),
        Step::Grow => ("they would not serve, or not be known", &obstacles.joining),
        _ => return None,
    };
    obstacle.as_ref().map(|obstacle| format!("{what} ({}): {}", obstacle.reason, obstacle.message))
}

/// What is to be done next and, where members are to join that nobody lets in now, why not, in words. Those that are there wait
/// neither for them nor with what they need themselves.
pub fn next_step(seen: &mut Situation<'_>, obstacles: &Obstacles) -> (Step, Option<String>) {
    let step = decide(seen);
    let held = if step == Step::Grow { holds_back(&step, obstacles) } else { None };
    if held.is_none() {
        return (step, None);
    }
    seen.wanted = seen.current;
    (decide(seen), held)
}

/// The Secret with whose static key the servers are started, where nothing shows that it is the wrong one: their data is sealed
/// with it, and another key in its place opens nothing. A first start that has sealed nothing yet takes whichever it is given.
pub fn key_in_use(
    facts: &Facts,
    members: &[Member],
    cluster: &str,
    stage: Stage,
    now: DateTime<Utc>,
) -> Option<String> {
    let initialized = |member: &Member| member.health.as_ref().is_some_and(|health| health.initialized);
    if stage == Stage::Bootstrapping && !members.iter().any(initialized) {
        return None;
    }
    let template = &facts.stateful_set.as_ref()?.spec.as_ref()?.template;
    let secret = static_key::mounted(template.spec.as_ref()?, cluster)?.to_owned();
    let has_it = |member: &&Member| facts.pods.get(&member.ordinal).is_some_and(|pod| is_of(pod, template));
    let stays_sealed = |member: &Member| {
        let since = facts.pods.get(&member.ordinal).and_then(|pod| runs_since(pod));
        let long = since.is_some_and(|since| now - since > UNSEALS_WITHIN);
        long && member.state() == Some(HealthState::Sealed) && initialized(member)
    };
    let serves = members.iter().filter(has_it).any(Member::serves);
    let wrong = !serves && members.iter().filter(has_it).any(stays_sealed);
    (!wrong).then_some(secret)
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
            build::{self, statefulset},
            members::tests::member,
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
        let plain = build::plain(&valid(|_| {}), Some("PEM"), false, &Traffic::Everybody, 3);
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
        let seal = Obstacles { returning: Some(missing()), joining: Some(missing()) };
        let pod = || "kelp-2".to_owned();
        let restart = Step::Restart { pod: pod(), uid: "u".into(), why: "the settings changed".into() };
        let rejoin = Step::Rejoin { pod: pod(), uid: "u".into(), ordinal: 2 };
        for step in [&restart, &rejoin] {
            let held = holds_back(step, &seal).unwrap_or_default();
            assert!(held.contains("SealCredentialsMissing") && held.contains("Secret mine"), "{step:?}: {held}");
            assert_eq!(holds_back(step, &Obstacles::default()), None, "{step:?}");
        }
        let leaves = Step::Shrink { pod: pod(), leads: false, removed: false };
        assert_eq!(holds_back(&leaves, &seal), None, "it is not to come back");
    }

    #[test]
    fn nobody_grows_into_a_certificate_that_does_not_name_them() {
        let lacks = Trouble::new("TLSSecretInvalid", "it does not verify for kelp-3.kelp.reef.svc");
        let certificates = |state, obstacle| Certificates { state, bundle: None, hash: None, secret: None, obstacle };
        let for_those_that_run = certificates(TlsState::Bad(lacks.clone()), None);
        let found = Obstacles::of(&for_those_that_run, None);
        let held = holds_back(&Step::Grow, &found).unwrap_or_default();
        assert!(held.contains("TLSSecretInvalid") && held.contains("kelp-3"), "{held}");
        let restart = Step::Restart { pod: "kelp-2".into(), uid: "u".into(), why: "the settings changed".into() };
        assert_eq!(holds_back(&restart, &found), None, "it is known with it");
        let for_nobody =
            Obstacles::of(&certificates(TlsState::Bad(lacks.clone()), Some(lacks.clone())), Some(&missing()));
        assert_eq!((for_nobody.returning, for_nobody.joining), (Some(lacks.clone()), Some(lacks)));
        let sealed = Obstacles::of(&certificates(TlsState::Good(DateTime::default()), None), Some(&missing()));
        assert!(holds_back(&Step::Grow, &sealed).is_some() && holds_back(&restart, &sealed).is_some());
        let none = Obstacles::of(&certificates(TlsState::Off, None), None);
        assert_eq!(holds_back(&Step::Grow, &none), None);
    }

    #[test]
    fn an_account_that_is_not_there_keeps_the_settings_that_run() {
        let missing = Trouble::new("ServiceAccountMissing", "ServiceAccount bao does not exist");
        let found = Obstacles::default().or(Some(&missing));
        assert!(keeps_settings(found.returning.as_ref(), Some("now"), "wanted"), "the template names another account");
        let restart = Step::Restart { pod: "kelp-2".into(), uid: "u".into(), why: "the settings changed".into() };
        for step in [restart, Step::Grow] {
            assert!(holds_back(&step, &found).is_some_and(|held| held.contains("ServiceAccount bao")), "{step:?}");
        }
    }

    #[test]
    fn the_key_that_servers_were_started_with_is_in_use_until_one_that_has_it_stays_sealed() {
        let cluster = valid(|_| {});
        let set = statefulset::build(&cluster, &statefulset::tests::inputs());
        let template = set.spec.as_ref().unwrap().template.clone();
        let mut pod = Pod { metadata: template.metadata.unwrap(), ..Pod::default() };
        let mut facts =
            Facts { stateful_set: Some(Arc::new(set)), pods: [(0, Arc::new(pod.clone()))].into(), ..Facts::default() };
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let runs_for = |pod: &mut Pod, minutes| {
            pod.metadata.creation_timestamp = Some(to_kube(now - Duration::hours(9)));
            let started = (now - Duration::minutes(minutes)).to_rfc3339();
            let server = json!({"name": "openbao", "state": {"running": {"startedAt": started}}, "image": "i", "imageID": "i",
                "ready": false, "restartCount": 1});
            pod.status = serde_json::from_value(json!({"containerStatuses": [server]})).unwrap();
        };
        let says = |state| [member(0, state, Some(0))];
        let named = |facts: &Facts, members: &[Member]| key_in_use(facts, members, "kelp", Stage::Bootstrapped, now);
        let in_use = |facts: &Facts, members: &[Member]| named(facts, members).as_deref() == Some("kelp-unseal-key");
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
        let found = named(&facts, &says(HealthState::Active));
        assert_eq!(found.as_deref(), Some("mine"), "the operator's may lie there still");
    }

    #[test]
    fn a_first_start_that_has_sealed_nothing_yet_takes_another_key() {
        let cluster = valid(|_| {});
        let facts = Facts {
            stateful_set: Some(Arc::new(statefulset::build(&cluster, &statefulset::tests::inputs()))),
            ..Facts::default()
        };
        let in_use =
            |stage, members: &[Member]| key_in_use(&facts, members, "kelp", stage, DateTime::default()).is_some();
        let silent = Member { health: None, ..member(0, HealthState::Sealed, None) };
        assert!(!in_use(Stage::Bootstrapping, &[]), "no pod has come up");
        assert!(!in_use(Stage::Bootstrapping, &[silent.clone(), member(1, HealthState::Uninitialized, None)]));
        assert!(in_use(Stage::Bootstrapping, &[silent, member(1, HealthState::Sealed, None)]), "it holds something");
        assert!(in_use(Stage::Bootstrapped, &[]), "there is data, whoever is away");
    }
}
