use super::*;
use crate::{
    adapter::openbao::HealthState::{self, Active, Sealed, Standby},
    service::cluster::{
        build::statefulset,
        members::tests::member,
        obstacle::{Obstacles, next_step},
        trouble::Trouble,
        validate::tests::valid,
    },
};
use k8s_openapi::api::apps::v1::StatefulSetSpec;

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
        unled: false,
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
fn those_that_are_there_do_not_wait_for_those_that_cannot_be_let_in() {
    let (members, all, template) = (members(&[Active, Standby, Standby], 0), voters(3), template());
    let next = |facts: &Facts, obstacles: &Obstacles| {
        let mut seen = Situation {
            facts,
            members: &members,
            voters: Some(&all),
            peers: Some(&all),
            outside: &BTreeSet::new(),
            template: &template,
            version: "2.7.2",
            wanted: 5,
            current: 3,
            unled: false,
        };
        next_step(&mut seen, obstacles)
    };
    let (stale, settled) = (facts(&[1], 3), facts(&[], 3));
    let lacks = Trouble::new("TLSSecretInvalid", "it does not verify for kelp-3.kelp.reef.svc");
    let lacks = Obstacles { returning: None, joining: Some(lacks) };
    let (step, held) = next(&stale, &lacks);
    assert_eq!(restarted(step), "kelp-1");
    assert!(held.is_some_and(|why| why.contains("kelp-3")), "the way to grow is told");
    let (step, held) = next(&settled, &lacks);
    assert!(step == Step::Nothing && held.is_some(), "{step:?}");
    assert_eq!(next(&stale, &Obstacles::default()), (Step::Grow, None), "they join first where they can");
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

#[test]
fn while_nobody_has_ever_led_a_corrected_setting_reaches_the_servers_that_only_follow() {
    let (template, nobody) = (template(), BTreeSet::new());
    let step = |facts: &Facts, members: &[Member], unled| {
        decide(&Situation {
            facts,
            members,
            voters: None,
            peers: None,
            outside: &nobody,
            template: &template,
            version: "2.7.2",
            wanted: 3,
            current: 3,
            unled,
        })
    };
    let mut follow = members(&[Standby, Standby, Standby], 7);
    assert_eq!(restarted(step(&facts(&[0, 1, 2], 3), &follow, true)), "kelp-0");
    assert!(matches!(step(&facts(&[0, 1, 2], 3), &follow, false), Step::Wait(_)), "an election, as they happen");
    assert_eq!(step(&facts(&[], 3), &follow, true), Step::Nothing);
    follow[0].terminating = true;
    follow[1].health = None;
    assert_eq!(restarted(step(&facts(&[0, 1, 2], 3), &follow, true)), "kelp-2", "kelp-1 may be what is wanted");
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
            unled: false,
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
fn growing_again_gives_up_the_retained_claims_of_the_places_it_takes_and_no_others() {
    let facts = Facts { claims: claims(&[2, 3, 4], 5), ..facts(&[], 1) };
    let gone = |current, wanted| -> Vec<String> {
        forgotten(&facts, current, wanted).map(kube::ResourceExt::name_any).collect()
    };
    assert_eq!(gone(1, 3), ["data-kelp-2"], "the other two are retained for whoever wants to look at them");
    assert_eq!(gone(2, 5), ["data-kelp-2", "data-kelp-3", "data-kelp-4"]);
    assert_eq!(gone(5, 3), [""; 0], "it does not grow");
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
fn a_statefulset_that_was_deleted_comes_back_with_everybody_who_is_still_in_raft() {
    let left = |marked: &[u32], count, peers: Option<u32>| {
        let facts = Facts { claims: claims(marked, count), ..Facts::default() };
        members_left(&facts, peers.map(voters).as_ref(), "kelp")
    };
    assert_eq!(left(&[], 5, None), Some(5), "whatever the spec asks for by now");
    assert_eq!(left(&[3, 4], 5, None), Some(3), "two have left, and their volumes are retained");
    assert_eq!(left(&[2], 5, None), Some(5), "members are the first ones without a gap");
    assert_eq!(left(&[4], 5, Some(5)), Some(5), "it was about to leave and had not");
    assert_eq!(left(&[], 5, Some(3)), Some(3), "volumes of members that somebody took out by hand");
    assert_eq!(left(&[], 3, Some(5)), Some(5), "a voter whose volume is gone joins anew, and then leaves");
    assert_eq!(left(&[], 0, Some(5)), None, "nothing is left of any");
    assert_eq!(left(&[0], 1, None), None);
}

#[test]
fn nobody_leaves_before_the_statefulset_is_back() {
    let mut facts = facts(&[], 5);
    facts.stateful_set = None;
    let members = members(&[Active, Standby, Standby, Standby, Standby], 0);
    assert!(matches!(next(&facts, &members, Some(&voters(5)), 3, 5), Step::Wait(_)));
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
fn a_member_that_raft_dropped_leaves_although_it_names_a_leader_of_the_past() {
    let mut five = members(&[Standby, Active, Standby, Standby, Standby], 1);
    five[4] = member(4, Standby, Some(0));
    let step = next(&facts(&[], 5), &five, Some(&voters(4)), 3, 5);
    assert_eq!(step, Step::Shrink { pod: "kelp-4".into(), leads: false, removed: true });
}

#[test]
fn a_member_that_is_down_and_is_to_leave_leaves_first_and_waits_for_nobody() {
    let five = |down: &[usize]| {
        let mut five = members(&[Active, Standby, Standby, Standby, Standby], 0);
        for place in down {
            (five[*place].health, five[*place].ready) = (None, false);
        }
        five
    };
    let leaves = |removed| Step::Shrink { pod: "kelp-4".into(), leads: false, removed };
    let step = |members: &[Member], stale: &[u32], voters: &BTreeSet<String>, wanted| {
        next(&facts(stale, 5), members, Some(voters), wanted, 5)
    };
    let (all, four) = (voters(5), voters(4));
    assert_eq!(step(&five(&[4]), &[], &all, 3), leaves(false));
    assert_eq!(step(&five(&[4]), &[], &all, 4), leaves(false));
    assert_eq!(step(&five(&[4]), &[], &four, 3), leaves(true));
    assert_eq!(step(&five(&[3, 4]), &[], &all, 3), leaves(false), "the other one is next");
    assert_eq!(step(&five(&[4])[..4], &[], &all, 3), leaves(false), "its pod has no room anywhere");
    let sealed = members(&[Active, Standby, Standby, Standby, Sealed], 0);
    assert_eq!(step(&sealed, &[], &all, 3), leaves(false));
    assert_eq!(step(&five(&[4]), &[1], &all, 3), leaves(false), "before another one goes down");
    for (down, why) in [(&[1][..], "it is to stay"), (&[1, 4], "another one is down"), (&[3], "it is not the last")] {
        let waits = step(&five(down), &[], &all, 3);
        assert!(
            matches!(&waits, Step::Wait(words) if words.contains("only the last ones can leave")),
            "{why}: {waits:?}"
        );
    }
    assert!(matches!(step(&five(&[4]), &[1], &all, 5), Step::Wait(_)), "nobody is to leave");
    let without_vote = BTreeSet::from([0, 1, 2, 4].map(|ordinal| names::pod("kelp", ordinal)));
    assert!(matches!(step(&five(&[4]), &[], &without_vote, 3), Step::Wait(_)), "kelp-3 does not vote yet");
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
        unled: false,
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
fn a_pod_is_outdated_once_the_statefulset_carries_other_settings_than_it_was_made_from() {
    let facts = facts(&[1], 3);
    let pods: Vec<Arc<Pod>> = facts.pods.values().cloned().map(identified).collect();
    let found = |set: Option<&StatefulSet>| outdated(set, &pods);
    assert_eq!(found(facts.stateful_set.as_deref()), BTreeSet::from(["uid-of-kelp-1".to_owned()]));
    let mut corrected = template();
    corrected.metadata.as_mut().unwrap().annotations.as_mut().unwrap().insert(CONFIG_HASH.into(), "corrected".into());
    assert_eq!(found(set(corrected).as_deref()).len(), 3);
    assert_eq!(found(None), BTreeSet::new(), "nobody would make them again");
}

fn identified(mut pod: Arc<Pod>) -> Arc<Pod> {
    let uid = format!("uid-of-{}", pod.name_any());
    Arc::make_mut(&mut pod).metadata.uid = Some(uid);
    pod
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

#[path = "upkeep_silence_tests.rs"]
mod silence;
