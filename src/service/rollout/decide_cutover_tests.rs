//! Whose leadership a rollout moves, and whose it leaves where it is.

use super::{
    Effect,
    tests::{create, ended, journal, now, parked, rollout, states, step, turn},
};
use crate::{
    adapter::kubernetes::time::to_kube,
    api::{
        MemberState, MemberStatus, OpenBaoRollout, OperationPhase, Request, RequestAction, RequestOutcome,
        RolloutMemberState as State, RolloutPhase, StepStatus,
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

/// One that leads, and as many that follow as there are more states.
fn all(states: impl IntoIterator<Item = MemberState>) -> Vec<MemberStatus> {
    let member = |(ordinal, state)| MemberStatus { name: format!("kelp-{ordinal}"), state, ..MemberStatus::default() };
    std::iter::once(MemberState::Active).chain(states).enumerate().map(member).collect()
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
    use crate::api::{OpenBaoClusterStatus, UpgradeStatus};
    type Spoil = fn(&mut OpenBaoClusterStatus);
    let cases: [(&str, Spoil); 3] = [
        ("bear no failure", |status| {
            status.failure_tolerance = Some(0);
            status.members = all([MemberState::Standby; 2]);
        }),
        ("member kelp-2 of OpenBaoCluster kelp is Down", |status| {
            status.members = all([MemberState::Standby, MemberState::Down]);
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
fn who_is_there_counts_and_not_what_spec_replicas_asks_for_after_the_upgrade() {
    for (there, wanted, moves) in [(1, 1, true), (1, 3, true), (2, 3, true), (2, 5, true), (3, 3, false), (3, 1, false)]
    {
        let mut rollout = rollout("parallel", |_| {});
        let mut members = [member("kelp"), member("coral")];
        create(&turn(&mut rollout, &members), &mut members);
        members.iter_mut().for_each(parked);
        let kelp = cluster(&mut members[0]);
        kelp.spec.replicas = wanted;
        let status = kelp.status.as_mut().unwrap();
        status.members = all(vec![MemberState::Standby; there - 1]);
        status.failure_tolerance = Some(0);
        let next = turn(&mut rollout, &members);
        let expected = if moves { State::CuttingOver } else { State::WaitingForCutover };
        assert_eq!(states(&next)[0], expected, "{there} of {wanted}: {}", next.status.message);
    }
}

#[test]
fn a_resume_at_a_moment_at_which_a_member_does_not_answer_is_applied_and_carried_out_when_it_does() {
    let mut rollout = rollout("parallel", |spec| spec.defer_cutover = true);
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    members.iter_mut().for_each(parked);
    turn(&mut rollout, &members);
    let answers = |member: &mut MemberFacts, state| {
        cluster(member).status.as_mut().unwrap().members = all([MemberState::Standby, state]);
    };
    answers(&mut members[0], MemberState::Down);
    rollout.spec.requests = vec![Request { nonce: "go".into(), action: RequestAction::Resume, ..Request::default() }];
    let asked = turn(&mut rollout, &members);
    let answer = &asked.status.handled_requests[0];
    assert_eq!(answer.outcome, RequestOutcome::Applied);
    assert!(answer.message.contains("kelp does not yet, as member kelp-2"), "{}", answer.message);
    assert_eq!((states(&asked), asked.effects), (vec![State::WaitingForCutover; 2], vec![]));
    assert!(!asked.status.message.contains("Resume"), "it was said: {}", asked.status.message);
    assert_eq!(turn(&mut rollout, &members).status, asked.status, "it says what it said before");
    answers(&mut members[0], MemberState::Standby);
    assert_eq!(states(&turn(&mut rollout, &members)), [State::CuttingOver, State::WaitingForCutover]);
    ended(&mut members[0], OperationPhase::Succeeded);
    // The same of the one whose turn has just come.
    let mut own = all([MemberState::Standby, MemberState::Down]);
    for member in &mut own {
        member.name = member.name.replace("kelp", "coral");
    }
    cluster(&mut members[1]).status.as_mut().unwrap().members = own;
    let blip = turn(&mut rollout, &members);
    assert_eq!(states(&blip), [State::Completed, State::WaitingForCutover]);
    assert!(
        blip.status.message.contains("coral-2") && !blip.status.message.contains("Resume"),
        "{}",
        blip.status.message
    );
    answers(&mut members[1], MemberState::Standby);
    assert_eq!(states(&turn(&mut rollout, &members)), [State::Completed, State::CuttingOver]);
}

/// A barrier whose first member was told to move its leadership.
fn told() -> (OpenBaoRollout, [MemberFacts; 2]) {
    let mut rollout = rollout("parallel", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    members.iter_mut().for_each(parked);
    assert_eq!(states(&turn(&mut rollout, &members))[0], State::CuttingOver);
    (rollout, members)
}

const KELP: &str = "kelp-rollout-01234567-1";

#[test]
fn a_deletion_turns_a_member_back_that_was_told_to_move_its_leadership_and_waits() {
    type Edit = fn(&mut crate::api::OpenBaoOperationStatus);
    let cases: [(&str, Edit); 3] = [
        ("it was not told yet", |status| {
            status.steps = vec![StepStatus { parked_at: Some(now()), ..step(upgrade::PARK) }];
        }),
        ("it waits", |status| {
            status.steps = vec![StepStatus { resumed_by: Some("wave".into()), ..step(upgrade::PARK) }];
        }),
        ("it is about to step down", |status| {
            let done = StepStatus { state: crate::api::StepState::Completed, ..step(upgrade::PARK) };
            status.steps = vec![StepStatus { resumed_by: Some("wave".into()), ..done }];
        }),
    ];
    for (case, edit) in cases {
        let (mut rollout, mut members) = told();
        journal(&mut members[0], edit);
        rollout.metadata.deletion_timestamp = Some(to_kube(now()));
        let leaving = turn(&mut rollout, &members);
        let cancel = |operation: &str| Effect::Cancel { operation: operation.into() };
        assert_eq!(leaving.effects, [cancel(KELP), cancel("coral-rollout-01234567-1")], "{case}");
        assert_eq!(states(&leaving)[0], State::Preparing, "{case}");
        assert!(leaving.status.members[0].message.contains("turns back"), "{case}: {:?}", leaving.status.members[0]);
        assert!(!leaving.leaves_nothing_to_undo(), "{case}");
        // Until it is done, and then no longer.
        ended(&mut members[1], OperationPhase::Cancelled);
        assert!(!turn(&mut rollout, &members).leaves_nothing_to_undo(), "{case}");
        journal(&mut members[0], |status| {
            status.direction = crate::api::Direction::Unwinding;
            status.steps = vec![StepStatus { resumed_by: Some("wave".into()), ..step(upgrade::PARK) }];
        });
        let undoing = turn(&mut rollout, &members);
        assert!(states(&undoing)[0] == State::Preparing && !undoing.leaves_nothing_to_undo(), "{case}");
        ended(&mut members[0], OperationPhase::Cancelled);
        let gone = turn(&mut rollout, &members);
        assert!(gone.leaves_nothing_to_undo() && gone.effects.is_empty(), "{case}: {:?}", gone.status.members);
        assert_eq!(states(&gone), [State::Stopped; 2], "{case}");
    }
}

#[test]
fn a_deletion_never_turns_a_member_back_past_its_point_of_no_return_and_waits_for_none_there() {
    for name in [upgrade::request::STEP_DOWN, upgrade::SOAK] {
        let (mut rollout, mut members) = told();
        journal(&mut members[0], |status| {
            status.point_of_no_return_at = Some(now());
            status.steps = vec![step(name)];
        });
        ended(&mut members[1], OperationPhase::Cancelled);
        rollout.metadata.deletion_timestamp = Some(to_kube(now()));
        let leaving = turn(&mut rollout, &members);
        assert!(leaving.effects.is_empty(), "{name}: {:?}", leaving.effects);
        assert!(leaving.leaves_nothing_to_undo(), "{name}: it goes on by itself");
    }
}

#[test]
fn a_member_of_a_deleted_rollout_whose_operation_is_unknown_is_asked_nothing_and_waited_for() {
    let (mut rollout, mut members) = told();
    ended(&mut members[1], OperationPhase::Cancelled);
    let resumed = || vec![StepStatus { resumed_by: Some("wave".into()), ..step(upgrade::PARK) }];
    journal(&mut members[0], |status| {
        status.phase = OperationPhase::Unknown;
        status.message = Some("its lock is lost".into());
        status.steps = resumed();
    });
    let before = turn(&mut rollout, &members);
    assert_eq!(states(&before)[0], State::CuttingOver, "it keeps its claim");
    assert!(before.status.message.contains("its lock is lost"), "{}", before.status.message);
    rollout.metadata.deletion_timestamp = Some(to_kube(now()));
    let leaving = turn(&mut rollout, &members);
    assert!(leaving.effects.is_empty(), "it would refuse: {:?}", leaving.effects);
    assert!(!leaving.leaves_nothing_to_undo());
    assert!(leaving.status.message.contains("its lock is lost"), "{}", leaving.status.message);
    journal(&mut members[0], |status| status.steps = resumed());
    assert_eq!(turn(&mut rollout, &members).effects, [Effect::Cancel { operation: KELP.into() }]);
}

#[test]
fn a_cancel_by_request_is_refused_still_while_a_member_was_told_to_move_its_leadership() {
    let (mut rollout, mut members) = told();
    let steps = vec![StepStatus { resumed_by: Some("wave".into()), ..step(upgrade::PARK) }];
    journal(&mut members[0], |status| status.steps = steps);
    rollout.spec.requests = vec![Request { nonce: "no".into(), action: RequestAction::Cancel, ..Request::default() }];
    let refused = turn(&mut rollout, &members);
    let answer = &refused.status.handled_requests[0];
    assert_eq!(answer.outcome, RequestOutcome::Refused);
    assert!(answer.message.contains(KELP), "{}", answer.message);
    assert_eq!((states(&refused)[0], refused.effects), (State::CuttingOver, vec![]));
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
