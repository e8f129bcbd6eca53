//! A member that was claimed: which operation is the claim's own, and what is told where the API server lets none in. Pure.

use super::policy;
use crate::{
    api::{OpenBaoOperation, OpenBaoRolloutStatus, OperationKind, RolloutMemberState, RolloutMemberStatus},
    service::upgrade::{request, versions},
};
use kube::ResourceExt;
use std::sync::Arc;

/// Most characters of a refusal that a status repeats.
const WORDS: usize = 1000;

/// Whether an operation brings its cluster to the rollout's version. Its name can be worked out before it is made, so that one of
/// that name may do anything.
pub fn is_upgrade_to(operation: &OpenBaoOperation, version: &str) -> bool {
    let target = request::target(operation).filter(|_| operation.spec.operation == OperationKind::Upgrade);
    target.is_some_and(|target| versions::is_same(&target.version, version))
}

/// The operation of a member under way that is not among those seen.
pub fn unseen<'a>(entry: &'a RolloutMemberStatus, seen: &[Arc<OpenBaoOperation>]) -> Option<&'a str> {
    let under_way = policy::is_active(entry.state) || entry.state == RolloutMemberState::WaitingForCutover;
    let name = entry.operation.as_deref().filter(|_| under_way)?;
    (!seen.iter().any(|operation| operation.name_any() == name)).then_some(name)
}

/// What the creation of an operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmade {
    /// Whoever tries again is told the same: this attempt is over, and a `Retry` makes an operation of another name.
    Never,
    /// It may be let in yet.
    NotYet,
}

/// Tells the member of `cluster` why its operation was not made. Whether that says anything new.
pub fn note(status: &mut OpenBaoRolloutStatus, cluster: &str, unmade: Unmade, why: &str) -> bool {
    let mut members = status.members.iter_mut();
    let Some(member) = members.find(|member| member.cluster == cluster && policy::is_active(member.state)) else {
        return false;
    };
    let before = member.clone();
    member.message = why.chars().take(WORDS).collect();
    if unmade == Unmade::Never {
        member.state = RolloutMemberState::FailedRetryable;
    }
    *member != before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{OpenBaoRollout, OpenBaoRolloutSpec, ROLLOUT_NAME},
        service::rollout::{fixtures, member},
    };

    fn rollout(name: &str) -> OpenBaoRollout {
        let spec = OpenBaoRolloutSpec { version: "2.7.2".into(), ..OpenBaoRolloutSpec::default() };
        let mut rollout = OpenBaoRollout::new(name, spec);
        rollout.metadata.uid = Some("0123456789".into());
        rollout
    }

    fn operation(rollout: &OpenBaoRollout) -> OpenBaoOperation {
        fixtures::member("kelp").operation(rollout, "kelp-rollout-01234567-1", None).unwrap()
    }

    #[test]
    fn the_operation_of_a_rollout_with_a_long_name_can_be_stored() {
        let long = |last: &str| rollout(&format!("{}{last}", "r".repeat(252)));
        let labels = |rollout: &OpenBaoRollout| operation(rollout).labels()[member::ROLLOUT_LABEL].clone();
        assert!(labels(&long("x")).len() <= 63);
        let operation = operation(&long("x"));
        assert!(operation.spec.actor.unwrap().identity.len() <= 253);
        assert_eq!(operation.metadata.annotations.unwrap()[ROLLOUT_NAME], long("x").name_any());
        // Two long names that differ at their end only stay two.
        assert_ne!(labels(&long("x")), labels(&long("y")));
        assert_ne!(member::identity(&long("x")), member::identity(&long("y")));
        assert_eq!(labels(&rollout("wave")), "wave");
        assert_eq!(member::identity(&rollout("wave")), "openbaorollout/wave");
    }

    #[test]
    fn an_operation_of_the_claims_name_that_does_something_else_is_not_the_claims() {
        let rollout = rollout("wave");
        assert!(is_upgrade_to(&operation(&rollout), "2.7.2"));
        assert!(!is_upgrade_to(&operation(&rollout), "2.7.3"));
        let mut forged = operation(&rollout);
        forged.spec.operation = OperationKind::Workflow;
        assert!(!is_upgrade_to(&forged, "2.7.2"), "it succeeds by waiting a second");
    }

    #[test]
    fn the_operation_of_a_claim_is_asked_for_as_long_as_its_member_is_under_way_and_no_watch_shows_it() {
        let made = Arc::new(operation(&rollout("wave")));
        let entry = |state| RolloutMemberStatus { state, operation: Some(made.name_any()), ..Default::default() };
        for state in [RolloutMemberState::Preparing, RolloutMemberState::WaitingForCutover] {
            assert_eq!(unseen(&entry(state), &[]), Some(made.name_any().as_str()), "{state:?}");
            assert_eq!(unseen(&entry(state), std::slice::from_ref(&made)), None, "{state:?}: it is seen");
        }
        assert_eq!(unseen(&entry(RolloutMemberState::Completed), &[]), None, "its record may be gone");
    }

    #[test]
    fn a_member_says_why_its_operation_is_not_let_in_and_only_what_can_never_be_ends_it() {
        let member =
            |cluster: &str, state| RolloutMemberStatus { cluster: cluster.into(), state, ..Default::default() };
        let mut status = OpenBaoRolloutStatus {
            members: vec![
                member("kelp", RolloutMemberState::Preparing),
                member("coral", RolloutMemberState::Completed),
            ],
            ..OpenBaoRolloutStatus::default()
        };
        let quota = "exceeded quota: records";
        assert!(note(&mut status, "kelp", Unmade::NotYet, quota));
        assert_eq!(
            (status.members[0].state, status.members[0].message.as_str()),
            (RolloutMemberState::Preparing, quota)
        );
        assert!(!note(&mut status, "kelp", Unmade::NotYet, quota), "it is told once");
        assert!(note(&mut status, "kelp", Unmade::Never, "metadata.labels: must be no more than 63 characters"));
        assert_eq!(status.members[0].state, RolloutMemberState::FailedRetryable);
        assert!(!note(&mut status, "kelp", Unmade::Never, "again"), "it is over");
        assert!(!note(&mut status, "coral", Unmade::Never, quota));
        assert_eq!(status.members[1], member("coral", RolloutMemberState::Completed));
    }
}
