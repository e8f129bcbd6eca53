//! Day two, decided: which pod is restarted next, and who joins or leaves. Pure.
//!
//! One disruption at a time, and only while everybody else serves. A restart is due where a pod was started with other
//! settings, another certificate or another image of the same version than the template says. Changing versions is not
//! upkeep: that is the upgrade manager's.

use super::{
    build::statefulset::{CERTIFICATE_HASH, CONFIG_HASH, CONTAINER, IMAGE},
    facts::Facts,
    names,
    observe::{self, Member},
};
use crate::service::upgrade::versions;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::ResourceExt;
use std::collections::BTreeSet;

/// Annotation of a claim whose member was removed from raft, or is about to be: its data never rejoins and must go before the
/// claim is used again. Written before raft is asked, so that a member outside of raft without it was removed by others.
pub const REMOVED: &str = "openbao.org/removed-from-raft";

/// What upkeep looks at.
#[derive(Debug)]
pub struct Situation<'a> {
    /// What the watches know.
    pub facts: &'a Facts,
    /// The servers' own words.
    pub members: &'a [Member],
    /// Raft's voters, if they are known.
    pub voters: Option<&'a BTreeSet<String>>,
    /// Everybody raft knows, voting or not; known together with the voters.
    pub peers: Option<&'a BTreeSet<String>>,
    /// Pods that serve though raft has not known them for a while, by UID.
    pub outside: &'a BTreeSet<String>,
    /// The template that pods should have been made from.
    pub template: &'a PodTemplateSpec,
    /// The version that the template's image is to be.
    pub version: &'a str,
    /// Members the spec asks for.
    pub wanted: u32,
    /// Members the StatefulSet has.
    pub current: u32,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything is as it should be.
    Nothing,
    /// Something is due and must wait.
    Wait(String),
    /// Replace this pod; it returns with the same volume.
    Restart {
        /// The pod.
        pod: String,
        /// Guards the deletion.
        uid: String,
        /// In words.
        why: String,
    },
    /// Let the StatefulSet have more members at once: they only join.
    Grow,
    /// We took this member out and it is to stay after all: its data never rejoins, so it starts with an empty volume.
    Rejoin {
        /// The pod.
        pod: String,
        /// Guards the deletion.
        uid: String,
        /// Whose claim goes with it.
        ordinal: u32,
    },
    /// Raft does not know this member, and it was not we who took it out: its volume is for a person to judge.
    Stranger {
        /// The pod.
        pod: String,
    },
    /// Take the last member out: step-down if it leads, remove it from raft, then one replica less.
    Shrink {
        /// The member that goes.
        pod: String,
        /// It leads and must step down first.
        leads: bool,
        /// Raft does not know it any more: the StatefulSet may drop it.
        removed: bool,
    },
}

/// Decides. Growing comes before restarts, restarts before shrinking: each leaves more healthy members to the next.
pub fn decide(seen: &Situation<'_>) -> Step {
    let stale: Vec<(&Member, &Pod, String)> = seen
        .members
        .iter()
        .filter(|member| member.ordinal < seen.current)
        .filter_map(|member| {
            let pod = seen.facts.pods.get(&member.ordinal)?;
            Some((member, pod.as_ref(), difference(pod, seen.template)?))
        })
        .collect();
    // A pod that goes before the StatefulSet can make a better one comes back as it was, and goes again.
    let applied = carries(seen.facts, seen.template);
    // Whoever does not serve loses nothing by a restart, and a bad setting may be why.
    // Silence alone does not mean that: the operator may be who is cut off, or who does not believe the certificate.
    let useless = |member: &Member| {
        let answers_or_is_down = member.health.is_some() || !member.ready;
        applied && answers_or_is_down && !member.serves() && !member.terminating
    };
    if let Some((member, _, why)) = stale.iter().find(|(member, ..)| useless(member)) {
        return Step::Restart { pod: member.name.clone(), uid: member.uid.clone(), why: why.clone() };
    }
    if seen.wanted > seen.current {
        return Step::Grow;
    }
    let stays = |member: &&Member| member.ordinal < seen.wanted && !member.terminating;
    if let Some(member) = seen.members.iter().filter(stays).find(|member| seen.outside.contains(&member.uid)) {
        let pod = member.name.clone();
        return match seen.facts.claims.get(&member.ordinal) {
            Some(claim) if claim.annotations().contains_key(REMOVED) => {
                Step::Rejoin { pod, uid: member.uid.clone(), ordinal: member.ordinal }
            }
            _ => Step::Stranger { pod },
        };
    }
    if stale.is_empty() && seen.wanted == seen.current {
        return Step::Nothing;
    }
    if !applied {
        return Step::Wait(
            "the StatefulSet does not carry the new settings yet: no pod goes before it does".to_owned(),
        );
    }
    if let Some(why) = unsettled(seen).or_else(|| mistaken(seen)) {
        return Step::Wait(why);
    }
    let Some(leader) = observe::leader(seen.members) else {
        return Step::Wait("no member leads".to_owned());
    };
    // The leader last: each change of leadership is felt by clients, so there is one.
    let next = stale.iter().max_by_key(|(member, ..)| (member.name != leader.name, member.ordinal));
    if let Some((member, _, why)) = next {
        return Step::Restart { pod: member.name.clone(), uid: member.uid.clone(), why: why.clone() };
    }
    shrink(seen, leader)
}

fn shrink(seen: &Situation<'_>, leader: &Member) -> Step {
    // Not the last pod there is: one that was let go a moment ago may still be terminating.
    let last = seen.current.saturating_sub(1);
    let pod = format!("{}-{last}", leader.name.rsplit_once('-').map_or("", |(cluster, _)| cluster));
    let Some(peers) = seen.peers else {
        return Step::Wait(
            "raft's members as they are now are not known yet, or the operator cannot log in (see condition OperatorAccess): a \
             member that is not removed from raft first would count as lost for ever"
                .to_owned(),
        );
    };
    Step::Shrink { leads: last == leader.ordinal, removed: !peers.contains(&pod), pod }
}

/// The pods, by UID, that serve by their own word although raft does not know them.
pub fn outsiders(members: &[Member], peers: &BTreeSet<String>) -> BTreeSet<String> {
    let outside = members.iter().filter(|member| member.serves() && !peers.contains(&member.name));
    outside.map(|member| member.uid.clone()).collect()
}

/// Claims that say their member leaves, while raft knows it and it is to stay: it was asked for again before it had gone.
pub fn unmarked(facts: &Facts, peers: &BTreeSet<String>, cluster: &str, wanted: u32) -> Vec<String> {
    let marked = facts.claims.iter().filter(|(ordinal, claim)| {
        **ordinal < wanted
            && claim.annotations().contains_key(REMOVED)
            && peers.contains(&names::pod(cluster, **ordinal))
    });
    marked.map(|(_, claim)| claim.name_any()).collect()
}

/// Whether a claim may go with its member, where the policy gives volumes up. Not while the StatefulSet counts the member: a
/// voter's pod may be away for a moment, and its mark may be about what did not happen.
pub fn is_given_up(facts: &Facts, ordinal: u32, wanted: u32, current: u32) -> bool {
    let marked = facts.claims.get(&ordinal).is_some_and(|claim| claim.annotations().contains_key(REMOVED));
    marked && ordinal >= wanted && ordinal >= current && !facts.pods.contains_key(&ordinal)
}

/// Why nothing may be disrupted now.
pub fn unsettled(seen: &Situation<'_>) -> Option<String> {
    let serves =
        |member: &&Member| member.ordinal < seen.current && member.serves() && member.ready && !member.terminating;
    let serving = seen.members.iter().filter(serves).count();
    let current = usize::try_from(seen.current).unwrap_or(usize::MAX);
    // A member that was already taken out of raft may say what it likes.
    let leaving = usize::from(seen.wanted < seen.current && seen.peers.is_some_and(|peers| peers.len() + 1 == current));
    if let Some(silent) = silent(seen) {
        return Some(silent);
    }
    if serving + leaving < current {
        return Some(format!("{serving} of {current} members serve; the next one waits for all"));
    }
    if let Some(behind) = behind(seen) {
        return Some(format!("{behind} serves and catches up with the leader's log; the next one waits for it"));
    }
    let voting = seen.voters.is_none_or(|voters| voters.len() + leaving >= current);
    (!voting).then(|| "not all members vote yet; the next one waits for them".to_owned())
}

/// A member that Kubernetes calls Ready and that the operator hears nothing from. Whether it serves is not known.
fn silent(seen: &Situation<'_>) -> Option<String> {
    let silent = |member: &&Member| {
        member.ordinal < seen.current && member.ready && member.health.is_none() && !member.terminating
    };
    let member = seen.members.iter().find(silent)?;
    Some(format!(
        "{} is Ready and does not answer the operator ({}): no member is restarted before it does. Look whether a \
         NetworkPolicy keeps the operator from port {}, whether ca.crt in ConfigMap {} verifies the certificate that it \
         serves, and whether the server is slow",
        member.name,
        member.silence.as_deref().unwrap_or("no reason is known"),
        names::API_PORT,
        names::ca_config_map(member.name.rsplit_once('-').map_or("", |(cluster, _)| cluster)),
    ))
}

/// A member that runs the template's image and is another version by its own word. Two of them may be one too many: an older
/// version never leads over newer data, and a newer one is an upgrade without any of its gates.
fn mistaken(seen: &Situation<'_>) -> Option<String> {
    let member = seen.members.iter().find(|member| {
        let fits = seen.facts.pods.get(&member.ordinal).is_some_and(|pod| difference(pod, seen.template).is_none());
        fits && member.version().is_some_and(|version| !versions::is_same(version, seen.version))
    })?;
    Some(format!(
        "{} runs the image that spec.image names, and that is OpenBao {}, not {}: no other member is restarted until \
         spec.image is that version's image",
        member.name,
        member.version().unwrap_or_default(),
        seen.version
    ))
}

/// A member that follows and does not have yet what the leader committed: without it and the next one there would be no
/// majority that has.
fn behind<'a>(seen: &Situation<'a>) -> Option<&'a str> {
    let leader = observe::leader(seen.members)?;
    let committed = leader.view.as_ref()?.raft_committed_index;
    let is_peer = |member: &Member| seen.peers.is_none_or(|peers| peers.contains(&member.name));
    let follows = |member: &&Member| {
        member.ordinal < seen.current && member.serves() && member.name != leader.name && is_peer(member)
    };
    let lags = |member: &&Member| {
        let applied = member.view.as_ref().map(|view| view.raft_applied_index);
        !observe::is_caught_up(applied, Some(committed))
    };
    seen.members.iter().filter(follows).find(lags).map(|member| member.name.as_str())
}

/// Whether the StatefulSet that exists would make pods as the template wants them, in what needs a restart. The API server,
/// or a policy, may have refused it.
pub fn carries(facts: &Facts, template: &PodTemplateSpec) -> bool {
    let live = facts.stateful_set.as_ref().and_then(|set| Some(&set.spec.as_ref()?.template));
    let of =
        |template: &PodTemplateSpec, key: &str| template.metadata.as_ref()?.annotations.as_ref()?.get(key).cloned();
    live.is_some_and(|live| {
        [CONFIG_HASH, CERTIFICATE_HASH, IMAGE].into_iter().all(|key| of(live, key) == of(template, key))
    })
}

/// How a pod differs from the template in what needs a restart; `None` if it does not.
pub fn difference(pod: &Pod, template: &PodTemplateSpec) -> Option<String> {
    let wanted = template.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
    let differs = |key: &str| wanted.and_then(|all| all.get(key)) != pod.annotations().get(key);
    if differs(CONFIG_HASH) {
        return Some("the settings changed".to_owned());
    }
    if differs(CERTIFICATE_HASH) {
        return Some("the serving certificate changed".to_owned());
    }
    // What the API server made of it does not matter, only what it was asked for. Older pods do not say.
    if pod.annotations().contains_key(IMAGE) {
        return differs(IMAGE).then(|| "the image changed".to_owned());
    }
    let image = |containers: &[k8s_openapi::api::core::v1::Container]| {
        containers.iter().find(|container| container.name == CONTAINER).and_then(|container| container.image.clone())
    };
    let wanted = template.spec.as_ref().and_then(|spec| image(&spec.containers));
    let found = pod.spec.as_ref().and_then(|spec| image(&spec.containers));
    (wanted != found).then(|| "the image changed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::openbao::HealthState::{self, Active, Sealed, Standby},
        service::cluster::{build::statefulset, observe::tests::member, validate::tests::valid},
    };
    use k8s_openapi::api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::PersistentVolumeClaim,
    };
    use std::sync::Arc;

    fn template() -> PodTemplateSpec {
        statefulset::build(&valid(|_| {}), &statefulset::tests::inputs()).spec.unwrap().template
    }

    fn set(template: PodTemplateSpec) -> Option<Arc<StatefulSet>> {
        let spec = StatefulSetSpec { template, ..StatefulSetSpec::default() };
        Some(Arc::new(StatefulSet { spec: Some(spec), ..StatefulSet::default() }))
    }

    fn facts(stale: &[u32], count: u32) -> Facts {
        let pods = (0..count).map(|ordinal| {
            let template = template();
            let mut pod = Pod { metadata: template.metadata.unwrap(), spec: template.spec, ..Pod::default() };
            pod.metadata.name = Some(names::pod("kelp", ordinal));
            if stale.contains(&ordinal) {
                pod.annotations_mut().insert(CONFIG_HASH.into(), "old".into());
            }
            (ordinal, Arc::new(pod))
        });
        Facts { pods: pods.collect(), stateful_set: set(template()), ..Facts::default() }
    }

    fn members(states: &[HealthState], leader: u32) -> Vec<Member> {
        (0..).zip(states).map(|(ordinal, state)| member(ordinal, *state, Some(leader))).collect()
    }

    fn voters(count: u32) -> BTreeSet<String> {
        (0..count).map(|ordinal| names::pod("kelp", ordinal)).collect()
    }

    fn next(facts: &Facts, members: &[Member], voters: Option<&BTreeSet<String>>, wanted: u32, current: u32) -> Step {
        let template = template();
        decide(&Situation {
            facts,
            members,
            voters,
            peers: voters,
            outside: &BTreeSet::new(),
            template: &template,
            version: "2.7.2",
            wanted,
            current,
        })
    }

    fn restarted(step: Step) -> String {
        match step {
            Step::Restart { pod, .. } => pod,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn standbys_are_restarted_from_the_last_one_down_and_the_leader_at_the_end() {
        let members = members(&[Standby, Standby, Active], 2);
        let all = voters(3);
        for (stale, expected) in [(&[0, 1, 2][..], "kelp-1"), (&[0, 2], "kelp-0"), (&[2], "kelp-2")] {
            assert_eq!(restarted(next(&facts(stale, 3), &members, Some(&all), 3, 3)), expected);
        }
        assert_eq!(next(&facts(&[], 3), &members, Some(&all), 3, 3), Step::Nothing);
    }

    #[test]
    fn nobody_is_restarted_while_another_does_not_serve_or_vote() {
        let one_sealed = members(&[Active, Standby, Sealed], 0);
        assert!(matches!(next(&facts(&[1], 3), &one_sealed, Some(&voters(3)), 3, 3), Step::Wait(_)));
        let all_serve = members(&[Active, Standby, Standby], 0);
        assert!(matches!(next(&facts(&[1], 3), &all_serve, Some(&voters(2)), 3, 3), Step::Wait(_)));
        let mut unready = members(&[Active, Standby, Standby], 0);
        unready[2].ready = false;
        assert!(matches!(next(&facts(&[1], 3), &unready, Some(&voters(3)), 3, 3), Step::Wait(_)));
    }

    #[test]
    fn nobody_is_restarted_while_another_lacks_what_the_leader_committed() {
        let mut lagging = members(&[Active, Standby, Standby], 0);
        let log = |member: &mut Member, committed, applied| {
            let view = member.view.as_mut().unwrap();
            (view.raft_committed_index, view.raft_applied_index) = (committed, applied);
        };
        log(&mut lagging[0], 1000, 1000);
        log(&mut lagging[1], 1000, 990);
        log(&mut lagging[2], 900, 900);
        let waits = next(&facts(&[1], 3), &lagging, Some(&voters(3)), 3, 3);
        assert!(matches!(&waits, Step::Wait(why) if why.contains("kelp-2")), "{waits:?}");
        log(&mut lagging[2], 1000, 940);
        assert_eq!(restarted(next(&facts(&[1], 3), &lagging, Some(&voters(3)), 3, 3)), "kelp-1");
    }

    #[test]
    fn an_image_that_is_another_version_stops_at_the_first_member_that_runs_it() {
        let mut rolled = members(&[Active, Standby, Standby], 0);
        let next = |members: &[Member]| next(&facts(&[0, 1], 3), members, Some(&voters(3)), 3, 3);
        assert_eq!(restarted(next(&rolled)), "kelp-1");
        rolled[2].health.as_mut().unwrap().version = "2.6.1".into();
        let waits = next(&rolled);
        assert!(matches!(&waits, Step::Wait(why) if why.contains("kelp-2") && why.contains("spec.image")), "{waits:?}");
        rolled[2].health.as_mut().unwrap().version = "2.7.2".into();
        rolled[1].health.as_mut().unwrap().version = "2.6.1".into();
        assert_eq!(restarted(next(&rolled)), "kelp-1", "one that is still to be restarted may be what it likes");
    }

    #[test]
    fn a_member_that_left_raft_holds_up_nobody_by_being_behind() {
        let mut leaving = members(&[Active, Standby, Standby], 0);
        leaving[0].view.as_mut().unwrap().raft_committed_index = 1000;
        leaving[1].view.as_mut().unwrap().raft_applied_index = 1000;
        let removed = next(&facts(&[], 3), &leaving, Some(&voters(2)), 2, 3);
        assert!(matches!(removed, Step::Shrink { removed: true, .. }), "{removed:?}");
    }

    #[test]
    fn a_stale_pod_that_does_not_serve_is_restarted_first_whatever_the_others_do() {
        let broken = members(&[Active, Sealed, Sealed], 0);
        assert_eq!(restarted(next(&facts(&[0, 2], 3), &broken, None, 3, 3)), "kelp-2");
    }

    #[test]
    fn no_pod_goes_while_the_statefulset_would_make_it_again_as_it_was() {
        let broken = members(&[Active, Standby, Sealed], 0);
        let mut refused = facts(&[2], 3);
        for key in [CONFIG_HASH, CERTIFICATE_HASH, IMAGE] {
            let mut old = template();
            old.metadata.as_mut().unwrap().annotations.as_mut().unwrap().insert(key.into(), "old".into());
            refused.stateful_set = set(old);
            let step = next(&refused, &broken, Some(&voters(3)), 3, 3);
            assert!(matches!(&step, Step::Wait(why) if why.contains("StatefulSet")), "{key}: {step:?}");
            let leaves = next(&refused, &members(&[Active, Standby, Standby], 0), Some(&voters(3)), 1, 3);
            assert!(matches!(leaves, Step::Wait(_)), "one replica less would be refused too: {leaves:?}");
            assert_eq!(next(&refused, &broken, Some(&voters(3)), 5, 3), Step::Grow, "that is one write with it");
        }
        refused.stateful_set = None;
        assert!(matches!(next(&refused, &broken, Some(&voters(3)), 3, 3), Step::Wait(_)), "nobody would make it again");
        assert_eq!(restarted(next(&facts(&[2], 3), &broken, Some(&voters(3)), 3, 3)), "kelp-2");
    }

    #[test]
    fn a_member_that_is_ready_and_silent_is_not_taken_for_one_that_does_not_serve() {
        let mut silent = members(&[Active, Standby, Standby], 0);
        for member in &mut silent {
            member.health = None;
            member.silence = Some("unknown issuer".into());
        }
        let step = |members: &[Member]| next(&facts(&[0, 1, 2], 3), members, Some(&voters(3)), 3, 3);
        let waits = step(&silent);
        assert!(matches!(&waits, Step::Wait(why) if why.contains("kelp-0 is Ready") && why.contains("unknown issuer")));
        silent[1].ready = false;
        assert_eq!(restarted(step(&silent)), "kelp-1", "Kubernetes says the same");
        silent[1].terminating = true;
        assert!(matches!(step(&silent), Step::Wait(_)));
        let sealed = members(&[Sealed, Standby, Active], 2);
        assert_eq!(restarted(step(&sealed)), "kelp-0", "by its own word");
    }

    fn claims(marked: &[u32], count: u32) -> std::collections::BTreeMap<u32, Arc<PersistentVolumeClaim>> {
        let claim = |ordinal| {
            let mut claim = PersistentVolumeClaim::default();
            claim.metadata.name = Some(names::data_claim("kelp", ordinal));
            if marked.contains(&ordinal) {
                claim.annotations_mut().insert(REMOVED.into(), "true".into());
            }
            (ordinal, Arc::new(claim))
        };
        (0..count).map(claim).collect()
    }

    #[test]
    fn a_member_that_we_took_out_and_that_is_to_stay_after_all_starts_anew_and_nobody_elses_is_wiped() {
        let members = members(&[Active, Standby, Standby, Standby, Standby], 0);
        let (four, template) = (voters(4), template());
        let outside = outsiders(&members, &four);
        assert_eq!(outside, BTreeSet::from(["uid-4".to_owned()]));
        let step = |marked: &[u32], outside: &BTreeSet<String>, wanted| {
            let facts = Facts { claims: claims(marked, 5), ..facts(&[], 5) };
            decide(&Situation {
                facts: &facts,
                members: &members,
                voters: Some(&four),
                peers: Some(&four),
                outside,
                template: &template,
                version: "2.7.2",
                wanted,
                current: 5,
            })
        };
        let rejoin = Step::Rejoin { pod: "kelp-4".into(), uid: "uid-4".into(), ordinal: 4 };
        assert_eq!(step(&[4], &outside, 5), rejoin);
        assert_eq!(step(&[], &outside, 5), Step::Stranger { pod: "kelp-4".into() });
        assert_eq!(step(&[3], &outside, 5), Step::Stranger { pod: "kelp-4".into() }, "another one's mark");
        assert_eq!(step(&[4], &BTreeSet::new(), 5), Step::Nothing, "not for long enough");
        assert!(matches!(step(&[4], &outside, 3), Step::Shrink { removed: true, .. }), "it is to go");
    }

    #[test]
    fn the_mark_of_a_member_that_stays_is_taken_back_while_raft_knows_it() {
        let facts = Facts { claims: claims(&[3, 4], 5), ..facts(&[], 5) };
        assert_eq!(unmarked(&facts, &voters(4), "kelp", 5), ["data-kelp-3"], "kelp-4 has left raft");
        assert_eq!(unmarked(&facts, &voters(5), "kelp", 3), [""; 0], "they are about to go");
    }

    #[test]
    fn a_claim_goes_only_after_the_statefulset_counts_its_member_no_more() {
        let pods = |count| Facts { claims: claims(&[4], 5), ..facts(&[], count) };
        assert!(is_given_up(&pods(4), 4, 3, 4));
        assert!(!is_given_up(&pods(4), 4, 3, 5), "its pod was evicted, and it may vote still");
        assert!(!is_given_up(&pods(5), 4, 3, 4), "its pod is there");
        assert!(!is_given_up(&pods(3), 3, 3, 3), "not marked");
        assert!(!is_given_up(&pods(4), 4, 5, 4), "it is wanted again");
    }

    #[test]
    fn a_member_leaves_after_it_left_raft_and_steps_down_before() {
        let all = voters(5);
        let leading = members(&[Standby, Standby, Standby, Standby, Active], 4);
        let shrink = |leads, removed| Step::Shrink { pod: "kelp-4".into(), leads, removed };
        assert_eq!(next(&facts(&[], 5), &leading, Some(&all), 3, 5), shrink(true, false));
        let following = members(&[Active, Standby, Standby, Standby, Standby], 0);
        assert_eq!(next(&facts(&[], 5), &following, Some(&all), 3, 5), shrink(false, false));
        assert_eq!(next(&facts(&[], 5), &following, Some(&voters(4)), 3, 5), shrink(false, true));
    }

    #[test]
    fn a_member_that_is_still_terminating_is_not_taken_out_twice() {
        let mut five = members(&[Active, Standby, Standby, Standby, Standby], 0);
        five[4].terminating = true;
        let step = next(&facts(&[], 5), &five, Some(&voters(4)), 3, 4);
        assert_eq!(step, Step::Shrink { pod: "kelp-3".into(), leads: false, removed: false });
    }

    #[test]
    fn a_member_that_does_not_vote_yet_is_in_raft_all_the_same() {
        let members = members(&[Active, Standby, Standby], 0);
        let (two, three, template, nobody) = (voters(2), voters(3), template(), BTreeSet::new());
        let facts = facts(&[], 3);
        let seen = |peers| Situation {
            facts: &facts,
            members: &members,
            voters: Some(&two),
            peers: Some(peers),
            outside: &nobody,
            template: &template,
            version: "2.7.2",
            wanted: 1,
            current: 3,
        };
        assert!(matches!(decide(&seen(&three)), Step::Wait(_)), "it may become a voter at any moment");
        assert_eq!(decide(&seen(&two)), Step::Shrink { pod: "kelp-2".into(), leads: false, removed: true });
    }

    #[test]
    fn nobody_leaves_while_raft_cannot_be_asked() {
        let members = members(&[Active, Standby, Standby], 0);
        assert!(matches!(next(&facts(&[], 3), &members, None, 1, 3), Step::Wait(_)));
    }

    #[test]
    fn growing_waits_for_nobody() {
        let members = members(&[Active], 0);
        assert_eq!(next(&facts(&[0], 1), &members, None, 3, 1), Step::Grow);
    }

    #[test]
    fn an_image_rewritten_by_a_webhook_restarts_nothing_and_another_image_does() {
        let mut pod = facts(&[], 1).pods[&0].as_ref().clone();
        pod.spec.as_mut().unwrap().containers[0].image = Some("mirror.example.org/openbao@sha256:0".into());
        assert_eq!(difference(&pod, &template()), None);
        pod.annotations_mut().insert(IMAGE.into(), "earlier".into());
        assert!(difference(&pod, &template()).is_some());
        pod.annotations_mut().remove(IMAGE);
        assert!(difference(&pod, &template()).is_some(), "a pod of an earlier operator: the image itself");
    }

    #[test]
    fn another_version_of_the_operator_restarts_nothing() {
        // Everything but the three things that are compared may differ.
        let mut pod = facts(&[], 1).pods[&0].as_ref().clone();
        pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(99);
        pod.labels_mut().insert("new".into(), "label".into());
        assert_eq!(difference(&pod, &template()), None);
    }
}
