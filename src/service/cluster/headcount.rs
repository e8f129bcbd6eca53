//! How many members there are: for whoever waits for all of them, and for whoever must not lose too many. Pure.
//!
//! The number in the StatefulSet is what anybody's `kubectl scale` makes of it. Beside it stands the one that the operator gave it
//! last: where there are fewer, those that are missing never left raft, and come back whoever holds the lock.

use super::{
    facts::{Facts, MAX_MEMBERS},
    upkeep::members_left,
    validate::ValidatedCluster,
};
use k8s_openapi::api::apps::v1::StatefulSet;
use std::collections::BTreeSet;

/// Annotation of the StatefulSet: how many members the operator gave it last.
pub const GIVEN: &str = "openbao.org/members";

/// How many members the StatefulSet has, those included that somebody took away by scaling it.
pub fn of(set: &StatefulSet) -> Option<u32> {
    let says = set.spec.as_ref().and_then(|spec| u32::try_from(spec.replicas?).ok());
    let given: Option<u32> = set.metadata.annotations.as_ref().and_then(|all| all.get(GIVEN)?.parse().ok());
    says.max(given.filter(|given| *given <= MAX_MEMBERS))
}

/// How many members there are until upkeep lets one join or leave. `peers` are those that raft had when it was last asked.
pub fn current(facts: &Facts, peers: Option<&BTreeSet<String>>, spec: &ValidatedCluster) -> u32 {
    let there = facts.stateful_set.as_deref().and_then(of);
    there.or_else(|| members_left(facts, peers, &spec.name)).unwrap_or(spec.replicas)
}

/// How many members vote, as far as is known: one that joins is counted by Kubernetes before it is by raft.
pub fn voting(facts: &Facts, voters: Option<&BTreeSet<String>>, spec: &ValidatedCluster) -> u32 {
    let there = facts.stateful_set.as_deref().and_then(of).unwrap_or(spec.replicas);
    let voters = voters.and_then(|voters| u32::try_from(voters.len()).ok());
    voters.map_or(there, |voters| voters.min(there))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::{
        build::{
            kept,
            statefulset::{self, Inputs, tests::inputs},
        },
        names,
        validate::tests::valid,
    };
    use serde_json::json;
    use std::sync::Arc;

    fn asked(replicas: u32) -> ValidatedCluster {
        valid(|s| s["replicas"] = json!(replicas))
    }

    /// A StatefulSet to which the operator gave so many members, and of which somebody made so many.
    fn scaled(given: u32, replicas: i32) -> StatefulSet {
        let mut set = statefulset::build(&valid(|_| {}), &Inputs { replicas: given, ..inputs() });
        set.spec.as_mut().unwrap().replicas = Some(replicas);
        set
    }

    fn facts(set: StatefulSet) -> Facts {
        Facts { stateful_set: Some(Arc::new(set)), ..Facts::default() }
    }

    fn voters(count: u32) -> BTreeSet<String> {
        (0..count).map(|ordinal| names::pod("kelp", ordinal)).collect()
    }

    #[test]
    fn a_statefulset_that_was_scaled_by_hand_has_everybody_back_who_is_in_raft_whoever_holds_the_lock() {
        let current = |set, spec: u32| current(&facts(set), None, &asked(spec));
        for by_hand in [0, 1, 2] {
            assert_eq!(current(scaled(3, by_hand), 3), 3, "{by_hand}");
            assert_eq!(current(scaled(3, by_hand), 1), 3, "they leave raft before they go");
            assert_eq!(current(scaled(3, by_hand), 5), 3, "nobody joins by the way");
        }
        assert_eq!(current(scaled(3, 5), 3), 5, "whoever came in may be in raft already, and leaves by way of it");
        assert_eq!(current(scaled(2, 2), 3), 2, "one left because upkeep let it go");
        assert_eq!(current(scaled(0, 0), 3), 0, "a rollback has stopped them");
        let mut older = scaled(3, 1);
        older.metadata.annotations = None;
        assert_eq!(current(older.clone(), 3), 1, "nobody knows better");
        older.metadata.annotations = Some([(GIVEN.to_owned(), "4000000000".to_owned())].into());
        assert_eq!(current(older, 3), 1, "no operator wrote that");
    }

    #[test]
    fn what_was_given_stands_in_the_statefulset_that_keeps_its_settings_too() {
        let shrunk = Inputs { replicas: 2, ..inputs() };
        let kept = kept::build(Some(&scaled(3, 1)), &valid(|_| {}), &shrunk);
        assert_eq!(of(&kept), Some(2), "one has left");
        assert_eq!(of(&statefulset::build(&valid(|_| {}), &shrunk)), Some(2));
    }

    #[test]
    fn a_member_that_joins_counts_as_one_that_can_be_lost_only_when_it_votes() {
        let voting = |set, votes: Option<u32>| voting(&facts(set), votes.map(voters).as_ref(), &asked(5));
        assert_eq!(voting(scaled(3, 3), None), 3, "two are asked for, and wait for the lock");
        assert_eq!(voting(scaled(5, 5), Some(3)), 3);
        assert_eq!(voting(scaled(5, 5), Some(5)), 5);
        assert_eq!(voting(scaled(3, 3), Some(5)), 3, "what is known of raft is older");
        assert_eq!(super::voting(&Facts::default(), None, &asked(5)), 5, "nobody is there yet");
    }
}
