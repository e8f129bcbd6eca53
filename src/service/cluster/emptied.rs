//! Whether nobody has the data any more. Pure.

use super::{
    facts::Facts,
    headcount,
    members::Member,
    trouble::{Trouble, reasons},
};
use crate::adapter::openbao::HealthState;

/// Every member runs and says that it is empty: whoever held the data is gone, or it never came to be. One whose pod is away may be
/// the last that holds it, also when the spec wants fewer by now.
pub fn look(members: &[Member], facts: &Facts, wanted: u32) -> Option<Trouble> {
    let there = facts.stateful_set.as_deref().and_then(headcount::of).unwrap_or_default().max(wanted);
    let empty = members.iter().filter(|member| member.state() == Some(HealthState::Uninitialized)).count();
    let all_there = u32::try_from(members.len()).is_ok_and(|seen| seen >= there);
    (all_there && empty == members.len()).then(|| {
        Trouble::new(
            reasons::ALL_VOLUMES_EMPTY,
            "every member runs on an empty volume, and a cluster that was started once is never started anew by itself: bring the \
             old volumes back; or delete this object and its volume claims, apply it again, and restore a backup into it",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::{
        build::statefulset::{self, Inputs, tests::inputs},
        members::tests::member,
        validate::tests::valid,
    };
    use std::sync::Arc;

    #[test]
    fn a_member_whose_pod_is_away_may_hold_the_data_also_when_fewer_are_wanted_by_now() {
        let set = statefulset::build(&valid(|_| {}), &Inputs { replicas: 3, ..inputs() });
        let facts = Facts { stateful_set: Some(Arc::new(set)), ..Facts::default() };
        let empty = |count: u32| -> Vec<Member> {
            (0..count).map(|ordinal| member(ordinal, HealthState::Uninitialized, None)).collect()
        };
        let told = |members: Vec<Member>, wanted| look(&members, &facts, wanted).is_some();
        assert!(told(empty(3), 3));
        assert!(told(empty(3), 1), "all of them have said so");
        assert!(!told(empty(2), 1), "the third is left out of the spec, and not of the cluster");
        assert!(!told(empty(2), 3));
        let mut one_holds = empty(2);
        one_holds.push(member(2, HealthState::Sealed, None));
        assert!(!told(one_holds, 3));
        assert!(look(&empty(2), &Facts::default(), 3).is_none(), "nobody knows of a StatefulSet");
    }
}
