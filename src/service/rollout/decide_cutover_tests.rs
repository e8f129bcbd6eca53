//! Whose leadership a rollout moves, and whose it leaves where it is.

use super::{
    Effect,
    tests::{create, ended, journal, parked, rollout, states, step, turn},
};
use crate::{
    api::{
        OperationPhase, Request, RequestAction, RequestOutcome, RolloutMemberState as State, RolloutPhase, StepStatus,
    },
    service::{
        rollout::{fixtures::member, member::MemberFacts},
        upgrade,
    },
};
use std::sync::Arc;

/// The member's cluster, as somebody or something changed it.
fn cluster(member: &mut MemberFacts) -> &mut crate::api::OpenBaoCluster {
    Arc::make_mut(member.cluster.as_mut().unwrap())
}

#[test]
fn a_barrier_does_not_move_the_leadership_of_a_cluster_that_was_paused_while_it_was_parked_and_says_so() {
    let mut rollout = rollout("parallel", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    members.iter_mut().for_each(parked);
    cluster(&mut members[0]).spec.paused = true;
    let paused = turn(&mut rollout, &members);
    assert_eq!((states(&paused), paused.effects), (vec![State::WaitingForCutover; 2], vec![]));
    assert_eq!(paused.status.phase, RolloutPhase::WaitingForCutover);
    for told in [&paused.status.message, &paused.status.members[0].message] {
        assert!(told.contains("OpenBaoCluster kelp is paused") && !told.contains("Resume"), "{told}");
    }
    assert_eq!(turn(&mut rollout, &members).status, paused.status, "it says what it said before");
    cluster(&mut members[0]).spec.paused = false;
    let going = turn(&mut rollout, &members);
    assert_eq!(states(&going), [State::CuttingOver, State::WaitingForCutover]);
    assert_eq!(going.effects, [Effect::Resume { operation: "kelp-rollout-01234567-1".into() }]);
}

#[test]
fn a_rollout_claims_no_cutover_of_a_cluster_that_would_not_bear_it() {
    use crate::api::{MemberState, MemberStatus, OpenBaoClusterStatus, UpgradeStatus};
    type Spoil = fn(&mut OpenBaoClusterStatus);
    let cases: [(&str, Spoil); 3] = [
        ("bear no failure", |status| status.failure_tolerance = Some(0)),
        ("member kelp-2 of OpenBaoCluster kelp is Down", |status| {
            let member = |name: &str, state| MemberStatus { name: name.into(), state, ..MemberStatus::default() };
            status.members = vec![
                member("kelp-0", MemberState::Active),
                member("kelp-1", MemberState::Standby),
                member("kelp-2", MemberState::Down),
            ];
        }),
        ("Secret mine is gone", |status| {
            let obstacle = Some("Secret mine is gone".into());
            status.upgrade = Some(UpgradeStatus { obstacle, ..UpgradeStatus::default() });
        }),
    ];
    for (words, spoil) in cases {
        let mut rollout = rollout("parallel", |_| {});
        let mut members = [member("kelp"), member("coral")];
        create(&turn(&mut rollout, &members), &mut members);
        members.iter_mut().for_each(parked);
        spoil(cluster(&mut members[0]).status.as_mut().unwrap());
        let kept = turn(&mut rollout, &members);
        assert_eq!((states(&kept), kept.effects), (vec![State::WaitingForCutover; 2], vec![]), "{words}");
        assert!(kept.status.message.contains(words), "{words}: {}", kept.status.message);
    }
}

#[test]
fn a_named_resume_that_is_refused_moves_nothing_now_and_nothing_later() {
    let mut rollout = rollout("parallel", |spec| spec.defer_cutover = true);
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    members.iter_mut().for_each(parked);
    turn(&mut rollout, &members);
    let request = |nonce: &str, step: &str| Request {
        nonce: nonce.into(),
        action: RequestAction::Resume,
        step: step.into(),
        ..Request::default()
    };
    rollout.spec.requests = vec![request("tonight", "coral")];
    let refused = turn(&mut rollout, &members);
    assert_eq!(states(&refused), [State::WaitingForCutover; 2]);
    assert_eq!(refused.status.handled_requests[0].outcome, RequestOutcome::Refused);
    assert!(refused.status.handled_requests[0].message.contains("kelp"), "{:?}", refused.status.handled_requests);
    // Days later the first one moves, and is done.
    rollout.spec.requests.push(request("friday", "kelp"));
    assert_eq!(states(&turn(&mut rollout, &members))[0], State::CuttingOver);
    ended(&mut members[0], OperationPhase::Succeeded);
    let done = turn(&mut rollout, &members);
    assert_eq!((states(&done), done.effects), (vec![State::Completed, State::WaitingForCutover], vec![]));
    assert!(done.status.message.contains("coral: add a Resume"), "{}", done.status.message);
    // On a paused cluster it is refused, and the end of the pause moves nothing either.
    cluster(&mut members[1]).spec.paused = true;
    rollout.spec.requests.push(request("sunday", "coral"));
    let paused = turn(&mut rollout, &members);
    assert_eq!(paused.status.handled_requests[2].outcome, RequestOutcome::Refused);
    assert!(paused.status.message.contains("spec.paused"), "{}", paused.status.message);
    cluster(&mut members[1]).spec.paused = false;
    assert_eq!(states(&turn(&mut rollout, &members))[1], State::WaitingForCutover);
}

#[test]
fn a_member_that_was_told_to_go_on_and_waits_says_for_what() {
    let mut rollout = rollout("parallel", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    members.iter_mut().for_each(parked);
    turn(&mut rollout, &members);
    let waiting = Some("waiting for backup kelp-backup-1 to end".to_owned());
    journal(&mut members[0], |status| {
        status.steps = vec![StepStatus { resumed_by: Some("wave".into()), waiting, ..step(upgrade::PARK) }];
    });
    let told = turn(&mut rollout, &members);
    assert_eq!(states(&told)[0], State::CuttingOver);
    assert!(told.status.message.contains("kelp-backup-1"), "{}", told.status.message);
}
