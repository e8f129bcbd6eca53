//! Whether leadership may move. Asked at the last moment at which there is a way back: from there on nothing stands between the
//! leader's step-down and its end, whoever else is lost. Pure.

use super::steps::{self, Facts, PodFacts, Turn, Votes};
use crate::api::UpgradeDirective;

/// Why leadership stays where it is, in the words of the first thing that keeps it there.
///
/// As before the first pod was touched every member has to serve, and one of them to lead. All others run the goal and have what the
/// leader has committed. And they are a majority of all votes that raft counts, also of those that nobody casts any more.
pub fn hindrance(facts: &Facts, goal: &UpgradeDirective) -> Option<String> {
    if let Turn::Wait(why) = steps::settled(facts) {
        return Some(why);
    }
    let Some(leader) = facts.leader.as_deref() else {
        return Some("the members agree on no leader".to_owned());
    };
    let others: Vec<&PodFacts> = facts.pods.iter().filter(|pod| pod.name != leader).collect();
    if let Some(old) = others.iter().find(|pod| !pod.is_at(goal)) {
        return Some(format!("pod {} does not run {} yet", old.name, goal.version));
    }
    if let Some(late) = others.iter().find(|pod| !steps::caught_up(facts, pod)) {
        return Some(format!("pod {} catches up with the leader's log", late.name));
    }
    let voters = match &facts.votes {
        Votes::NotAsked => return None,
        Votes::Unknown(why) => return Some(format!("it is not known yet who votes: {why}")),
        Votes::Known(voters) => voters,
    };
    if let Some(mute) = facts.pods.iter().find(|pod| !voters.contains(&pod.name)) {
        return Some(format!("pod {} does not vote", mute.name));
    }
    // Of two members none can be spared: they only take turns, as they did up to here.
    if facts.replicas <= 2 || others.len() * 2 > voters.len() {
        return None;
    }
    let away: Vec<&str> = voters.iter().map(String::as_str).filter(|voter| facts.pod(voter).is_none()).collect();
    Some(format!(
        "without {leader} {} of {} votes would be left, which is no majority: raft counts {}, of which there is no pod",
        others.len(),
        voters.len(),
        away.join(", ")
    ))
}

/// [`hindrance`], after a wait of any length: the cluster has to bear a failure too, as it had to before anything was touched. One
/// that serves and has stopped to follow is found by that alone, after a minute.
pub fn hindrance_after_park(facts: &Facts, goal: &UpgradeDirective) -> Option<String> {
    match steps::gate(facts) {
        Turn::Wait(why) => Some(why),
        _ => hindrance(facts, goal),
    }
}

/// The last turn of a standby, where the step-down is what comes next: done only when leadership may move.
pub fn last_turn(facts: &Facts, goal: &UpgradeDirective, turn: Turn) -> Turn {
    match turn {
        Turn::Done(record) => match hindrance(facts, goal) {
            Some(why) => Turn::Wait(format!("{record}; leadership does not move yet, as {why}")),
            None => Turn::Done(record),
        },
        turn => turn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::openbao::HealthState::{self, Active, Sealed, Standby};
    use proptest::prelude::*;

    fn goal() -> UpgradeDirective {
        UpgradeDirective { version: "2.7.2".into(), image: "bao:2.7.2".into() }
    }

    fn pod(ordinal: usize, version: &str, state: HealthState) -> PodFacts {
        PodFacts {
            name: format!("kelp-{ordinal}"),
            uid: format!("uid-{ordinal}"),
            ready: true,
            image: format!("bao:{version}"),
            state: Some(state),
            version: Some(version.into()),
            applied: Some(1_000),
            ..PodFacts::default()
        }
    }

    fn votes(ordinals: impl IntoIterator<Item = usize>) -> Votes {
        Votes::Known(ordinals.into_iter().map(|ordinal| format!("kelp-{ordinal}")).collect())
    }

    /// `kelp-0` leads on the old version, all others follow on the new one, and all vote.
    fn prepared(replicas: usize) -> Facts {
        let mut pods = vec![pod(0, "2.6.1", Active)];
        pods.extend((1..replicas).map(|ordinal| pod(ordinal, "2.7.2", Standby)));
        Facts {
            pods,
            replicas,
            leader: Some("kelp-0".into()),
            committed: Some(1_000),
            template: Some("bao:2.7.2".into()),
            tolerance: i32::try_from((replicas - 1) / 2).ok(),
            votes: votes(0..replicas),
            obstacle: None,
        }
    }

    #[test]
    fn leadership_may_move_when_every_member_serves_follows_and_votes() {
        for replicas in [1, 2, 3, 5] {
            let facts = prepared(replicas);
            assert_eq!(hindrance(&facts, &goal()), None, "{replicas}");
            assert_eq!(hindrance_after_park(&facts, &goal()), None, "{replicas}");
            assert_eq!(hindrance(&Facts { votes: Votes::NotAsked, ..facts }, &goal()), None, "nobody may ask");
        }
    }

    #[test]
    fn what_was_lost_while_an_upgrade_was_parked_keeps_leadership_where_it_is_and_is_named() {
        type Spoil = fn(&mut Facts);
        let cases: [(&str, Spoil); 9] = [
            ("2 of 3 pods exist", |facts| drop(facts.pods.pop())),
            ("kelp-2 does not serve", |facts| facts.pods[2].state = None),
            ("kelp-1 does not serve", |facts| facts.pods[1].state = Some(Sealed)),
            ("kelp-2 does not serve", |facts| facts.pods[2].terminating = true),
            ("kelp-0 does not serve", |facts| facts.pods[0].state = None),
            ("no leader", |facts| facts.leader = None),
            ("kelp-1 does not run 2.7.2", |facts| facts.pods[1] = pod(1, "2.6.1", Standby)),
            ("kelp-2 catches up", |facts| facts.pods[2].applied = Some(1)),
            ("bear no failure", |facts| facts.tolerance = Some(0)),
        ];
        for (words, spoil) in cases {
            let mut facts = prepared(3);
            spoil(&mut facts);
            let why = hindrance_after_park(&facts, &goal());
            assert!(why.as_ref().is_some_and(|why| why.contains(words)), "{words}: {why:?}");
        }
    }

    #[test]
    fn a_pair_of_which_one_is_lost_stays_parked_for_the_old_leader_still_leads() {
        let mut facts = Facts { tolerance: Some(0), ..prepared(2) };
        assert_eq!(hindrance_after_park(&facts, &goal()), None, "it never bore a failure");
        facts.pods[1].state = None;
        assert!(hindrance_after_park(&facts, &goal()).is_some_and(|why| why.contains("kelp-1")));
    }

    #[test]
    fn every_vote_that_raft_counts_is_counted_also_of_members_that_are_no_more() {
        for (replicas, voters, words) in [
            (3, votes([0, 1]), Some("kelp-2 does not vote")),
            (3, votes([1, 2]), Some("kelp-0 does not vote")),
            (3, votes(0..4), Some("2 of 4 votes")),
            (5, votes(0..7), None),
            (5, votes(0..8), Some("4 of 8 votes")),
            (3, Votes::Unknown("the leader is busy".into()), Some("the leader is busy")),
        ] {
            let facts = Facts { votes: voters.clone(), ..prepared(replicas) };
            let why = hindrance(&facts, &goal());
            match words {
                Some(words) => assert!(why.as_ref().is_some_and(|why| why.contains(words)), "{voters:?}: {why:?}"),
                None => assert_eq!(why, None, "{voters:?}"),
            }
        }
        let stray = hindrance(&Facts { votes: votes([0, 1, 2, 7]), ..prepared(3) }, &goal()).unwrap();
        assert!(stray.contains("kelp-7"), "{stray}");
    }

    #[test]
    fn the_last_standbys_turn_is_over_only_when_leadership_may_move_and_no_other_outcome_is_changed() {
        let mut facts = prepared(3);
        let done = || Turn::Done("kelp-2 serves 2.7.2 and votes".into());
        assert_eq!(last_turn(&facts, &goal(), done()), done());
        facts.pods[1].state = None;
        let Turn::Wait(why) = last_turn(&facts, &goal(), done()) else { panic!("kelp-1 was lost meanwhile") };
        assert!(why.contains("kelp-2 serves 2.7.2") && why.contains("pod kelp-1 does not serve"), "{why}");
        for turn in
            [Turn::Overtaken("kelp-1 leads".into()), Turn::Fail { reason: "WrongVersion", message: "no".into() }]
        {
            assert_eq!(last_turn(&facts, &goal(), turn.clone()), turn);
        }
    }

    /// Whatever the pods say.
    fn any_facts() -> impl Strategy<Value = Facts> {
        let pods = prop::collection::vec((0_u8..5, any::<bool>(), prop::bool::weighted(0.1), 0_u64..2_000), 1..6);
        let voters = prop::collection::btree_set(0_usize..8, 0..8);
        (pods, prop::option::of(0_usize..6), prop::option::of(voters)).prop_map(|(pods, leader, voters)| {
            let pods: Vec<PodFacts> = pods
                .into_iter()
                .enumerate()
                .map(|(ordinal, (state, new, terminating, applied))| {
                    let state = [Active, Standby, Standby, Standby, Sealed][usize::from(state)];
                    let version = if new { "2.7.2" } else { "2.6.1" };
                    PodFacts { terminating, applied: Some(applied), ..pod(ordinal, version, state) }
                })
                .collect();
            Facts {
                replicas: pods.len(),
                leader: leader.filter(|leader| *leader < pods.len()).map(|leader| format!("kelp-{leader}")),
                votes: voters.map_or(Votes::NotAsked, votes),
                pods,
                ..prepared(1)
            }
        })
    }

    proptest! {
        /// Whatever the pods say: where leadership may move, a majority of all votes serves the new version without the leader.
        #[test]
        fn leadership_never_moves_where_that_costs_quorum(facts in any_facts()) {
            if hindrance(&facts, &goal()).is_none() && facts.replicas > 2 {
                let leader = facts.leader.clone().unwrap();
                let go_on: Vec<_> =
                    facts.pods.iter().filter(|pod| pod.name != leader && pod.is_at(&goal()) && pod.serves()).collect();
                prop_assert!(go_on.len() > facts.replicas / 2, "{facts:?}");
                if let Votes::Known(voters) = &facts.votes {
                    let cast = go_on.iter().filter(|pod| voters.contains(&pod.name)).count();
                    prop_assert!(cast * 2 > voters.len(), "{facts:?}");
                }
            }
            if matches!(steps::step_down(&facts, &goal()), Turn::StepDown { .. }) && facts.replicas > 2 {
                let leader = facts.leader.as_deref();
                let go_on = facts.pods.iter().filter(|pod| Some(pod.name.as_str()) != leader && pod.is_at(&goal()));
                prop_assert!(go_on.filter(|pod| pod.serves()).count() > facts.replicas / 2, "{facts:?}");
            }
        }
    }
}
