//! Each turn of the servers during a rollback, decided from what the pods say. Pure.

use super::super::steps::{self, Facts, Turn};
use crate::{adapter::openbao::HealthState, api::UpgradeDirective};

/// No server is left.
pub fn stopped(facts: &Facts) -> Turn {
    match facts.pods.first() {
        None => Turn::Done("no server runs".to_owned()),
        Some(pod) => Turn::Wait(format!("pod {} is stopping", pod.name)),
    }
}

/// The new first server leads, alone.
pub fn first(facts: &Facts, goal: &UpgradeDirective) -> Turn {
    let [pod] = facts.pods.as_slice() else {
        return Turn::Wait(format!("{} pods exist, one is awaited", facts.pods.len()));
    };
    if let Some((reason, message)) = &pod.trouble {
        return Turn::Wait(format!("pod {} does not start: {reason}: {message}", pod.name));
    }
    let leads = pod.state == Some(HealthState::Active) && facts.leader.as_deref() == Some(pod.name.as_str());
    if pod.is_at(goal) && leads && pod.ready {
        return Turn::Done(format!("{} leads an empty {}", pod.name, goal.version));
    }
    Turn::Wait(format!("pod {} sets itself up with {}", pod.name, goal.version))
}

/// All `count` servers serve the old version again.
pub fn joined(facts: &Facts, goal: &UpgradeDirective, count: usize) -> Turn {
    steps::finished(&Facts { replicas: count, ..facts.clone() }, goal)
}

/// Undoing the stop: all are back with what they ran. Of servers that a rollback before this one half restored only so many are
/// let start as it `left`, and they serve no more than they did then.
pub fn started_again(facts: &Facts, from: &UpgradeDirective, count: usize, left: Option<usize>) -> Turn {
    let Some(left) = left else { return joined(facts, from, count) };
    let there = facts.pods.iter().filter(|pod| !pod.terminating).count();
    if there >= left {
        Turn::Done(format!("{there} servers are there, half restored as before"))
    } else {
        Turn::Wait(format!("{there} of the {left} pods that were there before exist"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::upgrade::steps::PodFacts;

    fn goal() -> UpgradeDirective {
        UpgradeDirective { version: "2.6.1".into(), image: "bao:2.6.1".into() }
    }

    fn pod(ordinal: usize, state: HealthState) -> PodFacts {
        PodFacts {
            name: format!("kelp-{ordinal}"),
            ready: true,
            image: "bao:2.6.1".into(),
            version: Some("2.6.1".into()),
            state: Some(state),
            ..PodFacts::default()
        }
    }

    fn one() -> Facts {
        Facts { pods: vec![pod(0, HealthState::Active)], leader: Some("kelp-0".into()), ..Facts::default() }
    }

    #[test]
    fn nothing_is_wiped_while_a_single_pod_is_left() {
        assert!(matches!(stopped(&one()), Turn::Wait(_)));
        assert!(matches!(stopped(&Facts::default()), Turn::Done(_)));
    }

    #[test]
    fn the_first_server_is_there_when_it_leads_alone_with_the_old_version() {
        assert!(matches!(first(&one(), &goal()), Turn::Done(_)));
        let cases: [fn(&mut Facts); 6] = [
            |facts| facts.pods.push(pod(1, HealthState::Standby)),
            |facts| facts.pods.clear(),
            |facts| facts.pods[0].version = Some("2.7.2".into()),
            |facts| facts.pods[0].state = Some(HealthState::Uninitialized),
            |facts| facts.leader = None,
            |facts| facts.pods[0].trouble = Some(("CrashLoopBackOff".into(), String::new())),
        ];
        for (index, spoil) in cases.into_iter().enumerate() {
            let mut facts = one();
            spoil(&mut facts);
            assert!(matches!(first(&facts, &goal()), Turn::Wait(_)), "case {index}");
        }
    }

    #[test]
    fn servers_that_were_half_restored_before_are_started_again_when_as_many_are_there_and_need_not_serve() {
        let silent = PodFacts { state: None, ready: false, version: None, ..pod(0, HealthState::Active) };
        let one = Facts { pods: vec![silent], ..Facts::default() };
        let mut stopping = one.clone();
        stopping.pods[0].terminating = true;
        let done = |facts: &Facts, left| matches!(started_again(facts, &goal(), 3, left), Turn::Done(_));
        assert!(done(&one, Some(1)));
        assert!(done(&Facts::default(), Some(0)), "the one before failed at a wipe and left none");
        assert!(!done(&Facts::default(), Some(1)));
        assert!(!done(&stopping, Some(1)));
        assert!(!done(&one, None), "whole servers are all to serve again");
    }

    #[test]
    fn all_have_joined_when_each_of_them_serves() {
        let mut facts = one();
        assert!(matches!(joined(&facts, &goal(), 1), Turn::Done(_)));
        assert!(matches!(joined(&facts, &goal(), 3), Turn::Wait(_)));
        facts.pods.extend([pod(1, HealthState::Standby), pod(2, HealthState::Sealed)]);
        assert!(matches!(joined(&facts, &goal(), 3), Turn::Wait(_)));
        facts.pods[2].state = Some(HealthState::Standby);
        assert!(matches!(joined(&facts, &goal(), 3), Turn::Done(_)));
    }
}
