use super::*;
use HealthState::{Active, Sealed, Standby};
use proptest::prelude::*;

fn goal() -> UpgradeDirective {
    UpgradeDirective { version: "2.7.2".into(), image: "bao:2.7.2".into() }
}

fn pod(ordinal: usize, version: &str, state: HealthState) -> PodFacts {
    PodFacts {
        name: format!("kelp-{ordinal}"),
        uid: format!("uid-{ordinal}"),
        ready: true,
        terminating: false,
        image: format!("bao:{version}"),
        state: Some(state),
        version: Some(version.into()),
        applied: Some(100),
        trouble: None,
        restarts: 0,
        up_since: None,
        outdated: false,
    }
}

/// Three members of the old version, `kelp-0` leading, the template already at the goal.
fn old_cluster() -> Facts {
    Facts {
        pods: vec![pod(0, "2.6.1", Active), pod(1, "2.6.1", Standby), pod(2, "2.6.1", Standby)],
        replicas: 3,
        leader: Some("kelp-0".into()),
        committed: Some(100),
        template: Some("bao:2.7.2".into()),
        tolerance: Some(1),
        votes: Votes::NotAsked,
        obstacle: None,
    }
}

/// The standbys of [`old_cluster`], which had their turn before its leader goes.
fn standbys() -> Vec<String> {
    ["kelp-1", "kelp-2"].map(str::to_owned).to_vec()
}

fn deletes(turn: &Turn) -> Option<&str> {
    match turn {
        Turn::Delete { pod, .. } => Some(pod),
        _ => None,
    }
}

#[test]
fn nothing_begins_while_a_member_is_missing_sealed_or_silent_or_nobody_leads() {
    assert!(matches!(gate(&old_cluster()), Turn::Done(_)));
    let mut missing = old_cluster();
    missing.pods.pop();
    assert!(matches!(gate(&missing), Turn::Wait(_)));
    let mut sealed = old_cluster();
    sealed.pods[1].state = Some(Sealed);
    assert!(matches!(gate(&sealed), Turn::Wait(_)));
    let mut silent = old_cluster();
    silent.pods[2].state = None;
    assert!(matches!(gate(&silent), Turn::Wait(_)));
    let leaderless = Facts { leader: None, ..old_cluster() };
    assert!(matches!(gate(&leaderless), Turn::Wait(_)));
}

#[test]
fn nothing_begins_before_the_cluster_can_bear_a_failure_unless_it_never_could() {
    let joining = Facts { tolerance: Some(0), ..old_cluster() };
    assert!(matches!(gate(&joining), Turn::Wait(why) if why.contains("vote")));
    assert!(matches!(gate(&Facts { tolerance: None, ..old_cluster() }), Turn::Done(_)), "nobody may ask raft");
    let mut pair = Facts { replicas: 2, tolerance: Some(0), ..old_cluster() };
    pair.pods.pop();
    assert!(matches!(gate(&pair), Turn::Done(_)));
    assert_eq!(deletes(&standby(&pair, &goal(), "kelp-1", &[])), Some("kelp-1"), "two can only take turns");
    pair.pods[0].state = Some(Sealed);
    assert!(matches!(standby(&pair, &goal(), "kelp-1", &[]), Turn::Wait(_)), "never both");
}

#[test]
fn a_standby_is_deleted_with_its_uid_once_the_template_shows_the_goal() {
    let facts = old_cluster();
    assert_eq!(standby(&facts, &goal(), "kelp-1", &[]), Turn::Delete { pod: "kelp-1".into(), uid: "uid-1".into() });
    let early = Facts { template: Some("bao:2.6.1".into()), ..facts };
    assert!(matches!(standby(&early, &goal(), "kelp-1", &[]), Turn::Wait(_)), "it would come back as it was");
}

#[test]
fn a_standby_is_not_deleted_when_that_would_cost_the_quorum() {
    let mut facts = old_cluster();
    facts.pods[2].state = Some(Sealed);
    assert!(matches!(standby(&facts, &goal(), "kelp-1", &[]), Turn::Wait(_)));
    let leaderless = Facts { leader: None, ..old_cluster() };
    assert!(matches!(standby(&leaderless, &goal(), "kelp-1", &[]), Turn::Wait(_)));
}

#[test]
fn a_replaced_standby_is_done_only_when_it_serves_the_goal_is_ready_and_has_caught_up() {
    let mut facts = old_cluster();
    facts.pods[1] = pod(1, "2.7.2", Standby);
    assert!(matches!(standby(&facts, &goal(), "kelp-1", &[]), Turn::Done(_)));
    let cases: [fn(&mut PodFacts); 5] = [
        |pod| pod.ready = false,
        |pod| pod.applied = Some(1),
        |pod| pod.applied = None,
        |pod| pod.state = Some(Sealed),
        |pod| pod.version = None,
    ];
    for (index, spoil) in cases.into_iter().enumerate() {
        let mut worse = facts.clone();
        worse.committed = Some(1_000);
        worse.pods[1].applied = Some(1_000);
        spoil(&mut worse.pods[1]);
        assert!(matches!(standby(&worse, &goal(), "kelp-1", &[]), Turn::Wait(_)), "case {index}");
    }
}

#[test]
fn an_image_that_is_another_version_stops_the_upgrade_at_the_first_pod_that_runs_it() {
    let mut facts = old_cluster();
    facts.pods[1] = pod(1, "2.7.2", Standby);
    facts.pods[1].version = Some("2.7.1".into());
    let Turn::Fail { reason, message } = standby(&facts, &goal(), "kelp-1", &[]) else { panic!("must fail") };
    assert_eq!(reason, "WrongVersion");
    assert!(message.contains("kelp-1") && message.contains("2.7.1") && message.contains("spec.image"), "{message}");
}

#[test]
fn a_pod_that_cannot_start_stops_the_upgrade_and_says_what_the_kubelet_says() {
    let mut facts = old_cluster();
    facts.pods[1] = pod(1, "2.7.2", Standby);
    facts.pods[1].state = None;
    facts.pods[1].trouble = Some(("ImagePullBackOff".into(), "no such image".into()));
    let Turn::Fail { reason, message } = standby(&facts, &goal(), "kelp-1", &[]) else { panic!("must fail") };
    assert_eq!(reason, "PodNotStarting");
    assert!(message.contains("kelp-1") && message.contains("ImagePullBackOff") && message.contains("no such image"));
}

#[test]
fn a_replaced_server_that_does_not_come_up_is_made_again_once_its_settings_were_corrected() {
    let pending = PodFacts { state: None, version: None, ready: false, outdated: true, ..pod(1, "2.7.2", Standby) };
    let mut facts = old_cluster();
    facts.pods[1] = pending.clone();
    let again = Turn::Delete { pod: "kelp-1".into(), uid: "uid-1".into() };
    assert_eq!(standby(&facts, &goal(), "kelp-1", &[]), again);
    assert_eq!(standby(&facts, &goal(), "kelp-2", &[]), again, "kelp-2 cannot be spared without it");
    facts.pods[1].trouble = Some(("ImagePullBackOff".into(), "no credentials".into()));
    assert_eq!(standby(&facts, &goal(), "kelp-1", &[]), again, "with others it may come up");
    // Past the point of no return, nobody turns back any more.
    facts.pods[2] = pod(2, "2.7.2", Active);
    facts.leader = Some("kelp-2".into());
    assert_eq!(replace_old(&facts, &goal(), &standbys()), again);
    facts.pods[0] = pod(0, "2.7.2", Standby);
    assert_eq!(replace_old(&facts, &goal(), &standbys()), again);
    // On the way back it is the old version that does not come up.
    let mut back = Facts { template: Some("bao:2.6.1".into()), ..old_cluster() };
    back.pods[1] = PodFacts { image: "bao:2.6.1".into(), ..pending.clone() };
    assert_eq!(standby_reverted(&back, &origin(), "kelp-1"), again);
    assert_eq!(reverted(&back, &origin()), again, "whoever else has turned back");
    let spared: [fn(&mut Facts); 5] = [
        |facts| facts.pods[1].outdated = false,
        |facts| facts.pods[1].terminating = true,
        |facts| facts.pods[1].ready = true,
        |facts| facts.pods[1].state = Some(Standby),
        |facts| facts.template = None,
    ];
    for (index, spare) in spared.into_iter().enumerate() {
        let mut facts = old_cluster();
        facts.pods[1] = pending.clone();
        spare(&mut facts);
        assert!(matches!(standby(&facts, &goal(), "kelp-1", &[]), Turn::Wait(_)), "case {index}");
    }
}

#[test]
fn a_standby_that_became_the_leader_is_left_alone_and_the_old_leader_is_replaced_in_its_place() {
    let mut facts = old_cluster();
    facts.leader = Some("kelp-1".into());
    facts.pods[0].state = Some(Standby);
    facts.pods[1].state = Some(Active);
    facts.pods[2] = pod(2, "2.7.2", Standby);
    let others = ["kelp-0".to_owned(), "kelp-2".to_owned()];
    assert_eq!(deletes(&standby(&facts, &goal(), "kelp-1", &others)), Some("kelp-0"));
    facts.pods[0] = pod(0, "2.7.2", Standby);
    assert!(matches!(standby(&facts, &goal(), "kelp-1", &others), Turn::Done(_)), "only the leader is left");
}

#[test]
fn a_new_server_that_leads_unasked_ends_the_work_on_standbys_for_there_is_no_way_back() {
    let mut facts = old_cluster();
    facts.leader = Some("kelp-2".into());
    facts.pods[0].state = None;
    facts.pods[2] = pod(2, "2.7.2", Active);
    let turn = standby(&facts, &goal(), "kelp-1", &["kelp-0".to_owned(), "kelp-2".to_owned()]);
    assert!(
        matches!(&turn, Turn::Overtaken(leads) if leads.contains("kelp-2")),
        "not a wait for the lost one: {turn:?}"
    );
    assert!(matches!(step_down(&facts, &goal()), Turn::Done(_)));
    assert_eq!(deletes(&replace_old(&facts, &goal(), &[])), Some("kelp-0"));
    let Turn::Fail { message, .. } = standby_reverted(&facts, &origin(), "kelp-2") else { panic!("no way back") };
    assert!(message.contains(LEADS_ALREADY), "{message}");
}

#[test]
fn leadership_moves_only_when_a_caught_up_standby_on_the_goal_can_take_it() {
    let mut facts = old_cluster();
    assert!(matches!(step_down(&facts, &goal()), Turn::Wait(_)));
    facts.pods[1] = pod(1, "2.7.2", Standby);
    facts.pods[2] = pod(2, "2.7.2", Standby);
    assert_eq!(step_down(&facts, &goal()), Turn::StepDown { pod: "kelp-0".into() });
    facts.pods[1].applied = Some(1);
    facts.pods[2].applied = Some(1);
    facts.committed = Some(1_000);
    assert!(matches!(step_down(&facts, &goal()), Turn::Wait(why) if why.contains("caught-up")));
    facts.pods[1].applied = Some(1_000);
    facts.leader = Some("kelp-1".into());
    assert!(matches!(step_down(&facts, &goal()), Turn::Done(_)), "an unplanned fail-over did the work");
    facts.leader = None;
    assert!(matches!(step_down(&facts, &goal()), Turn::Wait(_)));
}

#[test]
fn leadership_does_not_move_while_the_old_leader_is_all_that_keeps_the_quorum() {
    let mut facts = old_cluster();
    facts.pods[1] = pod(1, "2.7.2", Standby);
    facts.pods[2] = pod(2, "2.7.2", Standby);
    let asks = Turn::StepDown { pod: "kelp-0".into() };
    assert_eq!(step_down(&facts, &goal()), asks);
    let lost: [fn(&mut Facts); 4] = [
        |facts| facts.pods[2].state = None,
        |facts| facts.pods[2].terminating = true,
        |facts| facts.pods[2] = pod(2, "2.6.1", Standby),
        |facts| facts.pods.truncate(2),
    ];
    for (index, lose) in lost.into_iter().enumerate() {
        let mut facts = facts.clone();
        lose(&mut facts);
        let turn = step_down(&facts, &goal());
        assert!(matches!(&turn, Turn::Wait(why) if why.contains("quorum")), "case {index}: {turn:?}");
    }
    // Of five two may be lost, of two the other one has to be there.
    let mut five = Facts { replicas: 5, ..facts.clone() };
    five.pods.extend([pod(3, "2.7.2", Standby), pod(4, "2.7.2", Standby)]);
    five.pods[4].state = None;
    assert_eq!(step_down(&five, &goal()), asks);
    five.pods[3].state = None;
    assert!(matches!(step_down(&five, &goal()), Turn::Wait(_)));
    let mut pair = Facts { replicas: 2, ..facts };
    pair.pods.truncate(2);
    assert_eq!(step_down(&pair, &goal()), asks);
    pair.pods[1].state = Some(Sealed);
    assert!(matches!(step_down(&pair, &goal()), Turn::Wait(_)));
}

#[test]
fn an_old_leader_that_wins_again_is_asked_again() {
    let mut facts = old_cluster();
    facts.pods[1] = pod(1, "2.7.2", Standby);
    facts.pods[2] = pod(2, "2.7.2", Standby);
    assert_eq!(step_down(&facts, &goal()), Turn::StepDown { pod: "kelp-0".into() });
}

#[test]
fn the_old_leader_is_deleted_the_moment_it_is_past_whether_it_leads_again_or_not() {
    let mut facts = old_cluster();
    facts.pods[1] = pod(1, "2.7.2", Active);
    facts.pods[2] = pod(2, "2.7.2", Standby);
    for (leader, state) in [(Some("kelp-1"), Standby), (Some("kelp-0"), Active), (None, Standby)] {
        facts.leader = leader.map(str::to_owned);
        facts.pods[0].state = Some(state);
        assert_eq!(deletes(&replace_old(&facts, &goal(), &standbys())), Some("kelp-0"), "leader {leader:?}");
    }
    facts.pods[2].state = None;
    assert_eq!(deletes(&replace_old(&facts, &goal(), &standbys())), Some("kelp-0"), "nothing stands between");
}

/// Five members of which only `kelp-4` had its turn, and it leads: nobody asked the old leader to give up.
fn overtaken() -> (Facts, Vec<String>) {
    let mut pods: Vec<_> = (0..4).map(|ordinal| pod(ordinal, "2.6.1", Standby)).collect();
    pods.push(pod(4, "2.7.2", Active));
    (Facts { pods, replicas: 5, leader: Some("kelp-4".into()), ..old_cluster() }, vec!["kelp-4".into()])
}

#[test]
fn when_a_new_server_leads_unasked_the_old_ones_go_one_after_the_other_as_far_as_the_quorum_allows() {
    let (mut facts, in_turn) = overtaken();
    let next = |facts: &Facts| replace_old(facts, &goal(), &in_turn);
    facts.pods[0].state = None;
    facts.pods[0].ready = false;
    assert_eq!(deletes(&next(&facts)), Some("kelp-0"), "the one that is lost goes first");
    facts.pods[0].terminating = true;
    assert_eq!(deletes(&next(&facts)), Some("kelp-1"), "three others serve");
    facts.pods[1].terminating = true;
    let Turn::Wait(why) = next(&facts) else { panic!("two would be left of five: {:?}", next(&facts)) };
    assert!(why.contains("kelp-2") && why.contains("quorum") && why.contains("kelp-0 is stopping"), "{why}");
    // One that does not come back keeps the others from going, and the reason is told.
    facts.pods[0] = PodFacts { state: None, ready: false, ..pod(0, "2.7.2", Standby) };
    facts.pods[0].trouble = Some(("ImagePullBackOff".into(), "no such image".into()));
    assert!(matches!(next(&facts), Turn::Wait(why) if why.contains("no such image")));
    facts.pods[0] = pod(0, "2.7.2", Standby);
    assert_eq!(deletes(&next(&facts)), Some("kelp-2"));
}

#[test]
fn an_old_server_that_misses_one_question_does_not_count_as_lost() {
    let (mut facts, in_turn) = overtaken();
    facts.pods[0].terminating = true;
    facts.pods[1].terminating = true;
    facts.pods[2].state = None;
    assert!(matches!(replace_old(&facts, &goal(), &in_turn), Turn::Wait(_)), "Kubernetes calls it ready");
    facts.pods[2].ready = false;
    assert_eq!(deletes(&replace_old(&facts, &goal(), &in_turn)), Some("kelp-2"));
}

#[test]
fn a_member_without_a_turn_of_its_own_does_not_go_together_with_the_old_leader() {
    let mut facts = old_cluster();
    facts.pods[1] = pod(1, "2.7.2", Active);
    facts.pods[0].state = Some(Standby);
    facts.leader = Some("kelp-1".into());
    let in_turn = ["kelp-1".to_owned()];
    assert_eq!(deletes(&replace_old(&facts, &goal(), &in_turn)), Some("kelp-0"));
    facts.pods[0].terminating = true;
    assert!(matches!(replace_old(&facts, &goal(), &in_turn), Turn::Wait(_)), "one of three would be left");
    facts.pods[0] = pod(0, "2.7.2", Standby);
    assert_eq!(deletes(&replace_old(&facts, &goal(), &in_turn)), Some("kelp-2"));
}

#[test]
fn the_replacement_is_done_when_all_serve_the_goal_and_one_leads() {
    let mut facts = old_cluster();
    facts.pods = vec![pod(0, "2.7.2", Standby), pod(1, "2.7.2", Active), pod(2, "2.7.2", Standby)];
    facts.leader = Some("kelp-1".into());
    assert!(matches!(replace_old(&facts, &goal(), &standbys()), Turn::Done(_)));
    assert!(matches!(finished(&facts, &goal()), Turn::Done(_)));
    facts.pods.remove(0);
    assert!(matches!(replace_old(&facts, &goal(), &standbys()), Turn::Wait(_)), "its pod is not back yet");
}

fn origin() -> UpgradeDirective {
    UpgradeDirective { version: "2.6.1".into(), image: "bao:2.6.1".into() }
}

#[test]
fn turning_back_waits_for_the_template_and_replaces_whatever_shows_the_goal_also_a_pod_that_never_started() {
    let mut facts = old_cluster();
    facts.pods[2] = PodFacts { state: None, version: None, ..pod(2, "2.7.2", Standby) };
    assert!(matches!(reverted(&facts, &origin()), Turn::Wait(_)), "it would come back as it is");
    facts.template = Some("bao:2.6.1".into());
    assert_eq!(deletes(&reverted(&facts, &origin())), Some("kelp-2"));
    facts.pods[2] = pod(2, "2.6.1", Standby);
    assert!(matches!(reverted(&facts, &origin()), Turn::Done(_)));
}

#[test]
fn turning_back_waits_until_the_pod_that_failed_serves_the_old_version_again() {
    let mut facts = Facts { template: Some("bao:2.6.1".into()), ..old_cluster() };
    let back = facts.pods.remove(2);
    assert!(matches!(reverted(&facts, &origin()), Turn::Wait(_)), "it is deleted and not made again");
    facts.pods.push(PodFacts { state: None, ready: false, ..back.clone() });
    facts.pods[2].trouble = Some(("CrashLoopBackOff".into(), "its setting is wrong".into()));
    assert!(matches!(reverted(&facts, &origin()), Turn::Wait(why) if why.contains("its setting is wrong")));
    facts.pods[2] = PodFacts { state: Some(Sealed), ..back.clone() };
    assert!(matches!(reverted(&facts, &origin()), Turn::Wait(_)));
    facts.pods[2] = back;
    assert!(matches!(reverted(&facts, &origin()), Turn::Done(_)));
}

#[test]
fn no_server_that_serves_is_taken_down_while_none_would_come_back() {
    let why = "a server that starts would not come back (SealCredentialsMissing): Secret mine does not exist";
    let mut facts = Facts { obstacle: Some(why.into()), ..old_cluster() };
    let waits = |turn: &Turn| matches!(turn, Turn::Wait(told) if told.contains("Secret mine"));
    assert!(waits(&standby(&facts, &goal(), "kelp-1", &[])));
    // Nor does the upgrade come any nearer to the leader.
    facts.pods[2] = pod(2, "2.7.2", Standby);
    assert!(waits(&unhindered(&facts, standby(&facts, &goal(), "kelp-2", &[]))));
    let mended = Facts { obstacle: None, ..facts.clone() };
    assert!(matches!(unhindered(&mended, standby(&mended, &goal(), "kelp-2", &[])), Turn::Done(_)));
    // On the way back neither, but for one that serves nobody.
    facts.template = Some("bao:2.6.1".into());
    assert!(waits(&standby_reverted(&facts, &origin(), "kelp-2")) && waits(&reverted(&facts, &origin())));
    facts.pods[2].state = None;
    assert_eq!(deletes(&standby_reverted(&facts, &origin(), "kelp-2")), Some("kelp-2"));

    let alone = Facts { pods: vec![pod(0, "2.6.1", Active)], replicas: 1, obstacle: Some(why.into()), ..old_cluster() };
    assert!(waits(&replace_old(&alone, &goal(), &[])), "the only server");
    // Past the point of no return an old server among new ones must not win an election.
    let mut moved = Facts { obstacle: Some(why.into()), leader: Some("kelp-1".into()), ..old_cluster() };
    (moved.pods[1], moved.pods[2]) = (pod(1, "2.7.2", Active), pod(2, "2.7.2", Standby));
    assert_eq!(deletes(&replace_old(&moved, &goal(), &standbys())), Some("kelp-0"));
}

#[test]
fn of_three_a_second_standby_that_does_not_start_is_put_back_before_the_first_which_cannot_be_spared_without_it() {
    let mut facts = Facts { template: Some("bao:2.6.1".into()), ..old_cluster() };
    facts.pods[1] = pod(1, "2.7.2", Standby);
    facts.pods[2] = PodFacts { state: None, ready: false, version: None, ..pod(2, "2.7.2", Standby) };
    facts.pods[2].trouble = Some(("ImagePullBackOff".into(), "no such image".into()));
    assert_eq!(deletes(&standby_reverted(&facts, &origin(), "kelp-1")), Some("kelp-2"));
    assert_eq!(deletes(&reverted(&facts, &origin())), Some("kelp-2"));
    facts.pods[2] = PodFacts { state: Some(Sealed), ..pod(2, "2.6.1", Standby) };
    assert!(matches!(standby_reverted(&facts, &origin(), "kelp-1"), Turn::Wait(_)), "it is on its way");
    facts.pods[2] = pod(2, "2.6.1", Standby);
    assert_eq!(deletes(&standby_reverted(&facts, &origin(), "kelp-1")), Some("kelp-1"));
    facts.pods[1] = pod(1, "2.6.1", Standby);
    assert!(matches!(standby_reverted(&facts, &origin(), "kelp-1"), Turn::Done(_)));
}

#[test]
fn a_replaced_standby_is_done_only_when_it_votes_unless_nobody_may_ask() {
    let mut facts = old_cluster();
    facts.pods[1] = pod(1, "2.7.2", Standby);
    let voting = |names: &[&str]| Votes::Known(names.iter().map(|name| (*name).to_owned()).collect());
    let turn = |facts: &Facts, votes| standby(&Facts { votes, ..facts.clone() }, &goal(), "kelp-1", &[]);
    assert!(matches!(turn(&facts, voting(&["kelp-0", "kelp-1", "kelp-2"])), Turn::Done(_)));
    assert!(matches!(turn(&facts, Votes::NotAsked), Turn::Done(_)));
    assert!(matches!(turn(&facts, voting(&["kelp-0", "kelp-2"])), Turn::Wait(why) if why.contains("kelp-1")));
    let silent = turn(&facts, Votes::Unknown("the leader is busy".into()));
    assert!(matches!(&silent, Turn::Wait(why) if why.contains("the leader is busy")), "{silent:?}");
}

#[test]
fn there_is_no_turning_back_once_a_new_version_leads() {
    let mut facts = old_cluster();
    facts.template = Some("bao:2.6.1".into());
    facts.pods[1] = pod(1, "2.7.2", Active);
    facts.pods[0].state = Some(Standby);
    facts.leader = Some("kelp-1".into());
    for turn in [reverted(&facts, &origin()), standby_reverted(&facts, &origin(), "kelp-1")] {
        assert!(matches!(turn, Turn::Fail { reason: "LeadsAlready", .. }), "{turn:?}");
    }
}

#[test]
fn a_single_node_is_never_asked_to_step_down_and_replaced_without_a_successor() {
    let mut facts =
        Facts { pods: vec![pod(0, "2.6.1", Active)], replicas: 1, leader: Some("kelp-0".into()), ..old_cluster() };
    assert!(matches!(step_down(&facts, &goal()), Turn::Done(_)), "nobody else could lead");
    assert_eq!(leads_on(&facts, &goal()), None, "parked, it waits for its Resume");
    assert_eq!(deletes(&replace_old(&facts, &goal(), &[])), Some("kelp-0"));
    facts.pods = vec![pod(0, "2.7.2", Active)];
    assert!(matches!(replace_old(&facts, &goal(), &[]), Turn::Done(_)));
}

/// Pods that say anything, and who leads.
fn any_facts() -> impl Strategy<Value = Facts> {
    let pods = prop::collection::vec((0_u8..4, any::<bool>(), any::<bool>()), 3..6);
    (pods, prop::option::of(0_usize..6)).prop_map(|(states, leader)| {
        let pods: Vec<_> = states
            .iter()
            .enumerate()
            .map(|(ordinal, (state, new, terminating))| {
                let state = [Active, Standby, Sealed, HealthState::Troubled][usize::from(*state)];
                let version = if *new { "2.7.2" } else { "2.6.1" };
                PodFacts { terminating: *terminating, ..pod(ordinal, version, state) }
            })
            .collect();
        Facts {
            replicas: pods.len(),
            leader: leader.filter(|leader| *leader < pods.len()).map(|leader| format!("kelp-{leader}")),
            pods,
            ..old_cluster()
        }
    })
}

proptest! {
    /// Whatever the pods say, a standby's turn never deletes the leader, never one that already runs the goal, and never
    /// leaves fewer than a quorum of others.
    #[test]
    fn a_standbys_turn_never_costs_leadership_or_quorum(facts in any_facts(), subject in 0_usize..6) {
        let others: Vec<_> = facts.pods.iter().map(|pod| pod.name.clone()).collect();
        if let Turn::Delete { pod, uid } = standby(&facts, &goal(), &format!("kelp-{subject}"), &others) {
            let found = facts.pod(&pod).unwrap();
            prop_assert_eq!(&found.uid, &uid);
            prop_assert_ne!(facts.leader.as_deref(), Some(pod.as_str()));
            prop_assert_ne!(&found.image, "bao:2.7.2");
            prop_assert!(facts.others_serving(&pod) > facts.replicas / 2);
        }
    }

    /// Whatever they say, and wherever leadership went by itself: no server that serves is taken away from a quorum.
    #[test]
    fn an_unplanned_cutover_never_costs_quorum(facts in any_facts()) {
        if let Turn::Delete { pod, .. } = replace_old(&facts, &goal(), &[]) {
            let found = facts.pod(&pod).unwrap();
            prop_assert!(found.image != "bao:2.7.2" && !found.terminating);
            prop_assert!(facts.others_serving(&pod) > facts.replicas / 2, "{:?}", facts);
        }
    }

    /// Nor does the way back.
    #[test]
    fn turning_back_never_costs_leadership_or_quorum(facts in any_facts(), subject in 0_usize..6) {
        let facts = Facts { template: Some("bao:2.6.1".into()), ..facts };
        let subject = format!("kelp-{subject}");
        for turn in [standby_reverted(&facts, &origin(), &subject), reverted(&facts, &origin())] {
            if let Turn::Delete { pod, .. } = turn {
                prop_assert_ne!(facts.leader.as_deref(), Some(pod.as_str()));
                prop_assert_ne!(&facts.pod(&pod).unwrap().image, "bao:2.6.1");
                prop_assert!(facts.others_serving(&pod) > facts.replicas / 2, "{:?}", facts);
            }
        }
    }
}
