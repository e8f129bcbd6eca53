use super::*;
use crate::{
    adapter::remembered::testing::shared,
    api::{
        OpenBaoOperationStatus, OpenBaoRolloutSpec, OperationPhase, Request, RequestAction, RequestOutcome,
        RolloutMember, RolloutMemberState as State, StepState, StepStatus,
    },
    service::{
        opslifecycle::saga::{machine::Journal, requests as engine},
        rollout::fixtures::member,
        upgrade,
    },
};
use kube::ResourceExt;
use std::sync::Arc;

pub(super) fn now() -> DateTime<Utc> {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

pub(super) fn rollout(policy: &str, edit: impl FnOnce(&mut OpenBaoRolloutSpec)) -> OpenBaoRollout {
    let mut spec = OpenBaoRolloutSpec {
        version: "2.7.2".into(),
        members: ["kelp", "coral"].map(|cluster| RolloutMember { cluster: cluster.into() }).to_vec(),
        policy: policy.into(),
        on_failure: "halt".into(),
        ..OpenBaoRolloutSpec::default()
    };
    edit(&mut spec);
    let mut rollout = OpenBaoRollout::new("wave", spec);
    rollout.metadata.namespace = Some("reef".into());
    rollout.metadata.uid = Some("0123456789".into());
    rollout
}

/// Decides and stores, as the controller does; by whole records as by what is remembered of them.
pub(super) fn turn(rollout: &mut OpenBaoRollout, members: &[MemberFacts]) -> Decision {
    let decision = decide(&Facts { rollout, members }, now());
    let [whole, remembered] = [0, 1].map(|form| {
        let seen = |member: &MemberFacts| MemberFacts {
            operations: shared(&member.operations)[form].clone(),
            ..member.clone()
        };
        let members: Vec<MemberFacts> = members.iter().map(seen).collect();
        decide(&Facts { rollout, members: &members }, now())
    });
    assert_eq!(whole, remembered);
    rollout.status = Some(decision.status.clone());
    decision
}

pub(super) fn states(decision: &Decision) -> Vec<State> {
    decision.status.members.iter().map(|member| member.state).collect()
}

/// Puts the created operations among what is seen.
pub(super) fn create(decision: &Decision, members: &mut [MemberFacts]) {
    for effect in &decision.effects {
        if let Effect::Create(operation) = effect {
            let seen =
                members.iter_mut().find(|seen| seen.cluster.as_ref().unwrap().name_any() == operation.spec.cluster);
            seen.unwrap().operations.push(Arc::new((**operation).clone()));
        }
    }
}

/// Sets the journal of the member's newest operation.
pub(super) fn journal(member: &mut MemberFacts, edit: impl FnOnce(&mut OpenBaoOperationStatus)) {
    let operation = Arc::make_mut(member.operations.last_mut().expect("the member has an operation"));
    let mut status = OpenBaoOperationStatus { phase: OperationPhase::Running, ..OpenBaoOperationStatus::default() };
    edit(&mut status);
    operation.status = Some(status);
}

pub(super) fn parked(member: &mut MemberFacts) {
    journal(member, |status| status.steps = vec![StepStatus { parked_at: Some(now()), ..step(upgrade::PARK) }]);
}

pub(super) fn ended(member: &mut MemberFacts, phase: OperationPhase) {
    journal(member, |status| status.phase = phase);
}

pub(super) fn step(name: &str) -> StepStatus {
    StepStatus { name: name.into(), state: StepState::Running, ..StepStatus::default() }
}

#[test]
fn rolling_begins_the_next_member_when_the_one_before_is_done() {
    let mut rollout = rollout("rolling", |_| {});
    let mut members = [member("kelp"), member("coral")];
    let first = turn(&mut rollout, &members);
    assert_eq!(states(&first), [State::Preparing, State::Pending]);
    let [Effect::Create(operation)] = first.effects.as_slice() else { panic!("{:?}", first.effects) };
    assert_eq!(operation.name_any(), "kelp-rollout-01234567-1");
    assert_eq!(upgrade::request::rollout(operation), Some("openbaorollout/wave"));
    assert!(!operation.spec.parameters.contains_key(upgrade::request::PARK), "nobody waits in a rolling rollout");
    create(&first, &mut members);
    ended(&mut members[0], OperationPhase::Succeeded);
    let second = turn(&mut rollout, &members);
    assert_eq!(states(&second), [State::Completed, State::Preparing]);
    create(&second, &mut members);
    ended(&mut members[1], OperationPhase::Succeeded);
    let last = turn(&mut rollout, &members);
    assert_eq!((last.status.phase, last.status.progress.as_str()), (RolloutPhase::Completed, "2/2"));
    assert!(last.is_over() && last.effects.is_empty());
}

#[test]
fn at_the_barrier_nobody_moves_before_everybody_is_there_and_then_one_after_the_other() {
    let mut rollout = rollout("barrier", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    parked(&mut members[0]);
    let one_there = turn(&mut rollout, &members);
    assert_eq!(states(&one_there), [State::WaitingForCutover, State::Preparing]);
    create(&one_there, &mut members);
    parked(&mut members[1]);
    let both = turn(&mut rollout, &members);
    assert_eq!(states(&both), [State::CuttingOver, State::WaitingForCutover]);
    let resume = |cluster: &str| Effect::Resume { operation: format!("{cluster}-rollout-01234567-1") };
    assert_eq!(both.effects, [resume("kelp")]);
    // Until the first has soaked, the second stays where it is.
    journal(&mut members[0], |status| status.steps = vec![step(upgrade::SOAK)]);
    assert_eq!(states(&turn(&mut rollout, &members)), [State::Soaking, State::WaitingForCutover]);
    ended(&mut members[0], OperationPhase::Succeeded);
    let second = turn(&mut rollout, &members);
    assert_eq!((states(&second), second.effects), (vec![State::Completed, State::CuttingOver], vec![resume("coral")]));
}

#[test]
fn a_member_that_has_its_turn_is_told_to_go_on_when_it_has_parked_and_not_before() {
    let mut rollout = rollout("parallel", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    parked(&mut members[1]);
    // Its step runs, and looks around before it parks.
    journal(&mut members[0], |status| status.steps = vec![step(upgrade::PARK)]);
    let early = turn(&mut rollout, &members);
    assert_eq!((states(&early), early.effects), (vec![State::Preparing, State::WaitingForCutover], vec![]));
    parked(&mut members[0]);
    let there = turn(&mut rollout, &members);
    assert_eq!(states(&there), [State::CuttingOver, State::WaitingForCutover]);
    assert_eq!(there.effects, [Effect::Resume { operation: "kelp-rollout-01234567-1".into() }]);
    // It was told so, and lets a backup come to its end first.
    let told = || StepStatus { resumed_by: Some("openbaorollout/wave".into()), ..step(upgrade::PARK) };
    journal(&mut members[0], |status| status.steps = vec![told()]);
    let going = turn(&mut rollout, &members);
    assert_eq!((states(&going), going.effects), (vec![State::CuttingOver, State::WaitingForCutover], vec![]));
}

#[test]
fn a_resume_that_was_refused_is_asked_again_under_another_nonce() {
    let rollout = rollout("parallel", |_| {});
    let mut operation = member("kelp").operation(&rollout, "kelp-rollout-01234567-1", None).unwrap();
    let steps = vec![step(upgrade::PARK)];
    let status = OpenBaoOperationStatus { phase: OperationPhase::Running, steps, ..OpenBaoOperationStatus::default() };
    let mut journal = Journal { status, ..Journal::default() };
    let ask = |operation: &mut OpenBaoOperation, journal: &mut Journal| {
        operation.status = Some(journal.status.clone());
        let nonce = member::nonce(&rollout, operation, RequestAction::Resume);
        assert_eq!(nonce, member::nonce(&rollout, operation, RequestAction::Resume), "the same until it is answered");
        let request = Request { nonce, action: RequestAction::Resume, ..Request::default() };
        operation.spec.requests.push(request.clone());
        for event in engine::judge(journal, &operation.spec.requests, &request, now()) {
            journal.apply(&event, now()).unwrap();
        }
        journal.status.handled_requests.last().map(|answer| answer.outcome)
    };
    assert_eq!(ask(&mut operation, &mut journal), Some(RequestOutcome::Refused), "it has not parked yet");
    journal.status.steps[0].parked_at = Some(now());
    assert_eq!(ask(&mut operation, &mut journal), Some(RequestOutcome::Applied));
    assert_ne!(operation.spec.requests[0].nonce, operation.spec.requests[1].nonce);
}

#[test]
fn a_member_whose_operation_is_unknown_is_not_told_to_go_on_by_the_rollout() {
    let mut rollout = rollout("rolling", |spec| spec.defer_cutover = true);
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    parked(&mut members[0]);
    turn(&mut rollout, &members);
    rollout.spec.requests = vec![Request { nonce: "go".into(), action: RequestAction::Resume, ..Request::default() }];
    journal(&mut members[0], |status| {
        status.phase = OperationPhase::Unknown;
        status.message = Some("its plan changed".into());
        status.steps = vec![StepStatus { parked_at: Some(now()), ..step(upgrade::PARK) }];
    });
    let unknown = turn(&mut rollout, &members);
    assert!(unknown.effects.is_empty(), "{:?}", unknown.effects);
    assert!(unknown.status.message.contains("its plan changed"), "{}", unknown.status.message);
    parked(&mut members[0]);
    assert_eq!(states(&turn(&mut rollout, &members))[0], State::CuttingOver, "it was asked for");
}

#[test]
fn a_cancelled_member_whose_operation_is_unknown_is_asked_to_turn_back_when_a_person_has_spoken() {
    let mut rollout = rollout("rolling", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    rollout.spec.requests = vec![Request { nonce: "no".into(), action: RequestAction::Cancel, ..Request::default() }];
    let unknown = |status: &mut OpenBaoOperationStatus| {
        status.phase = OperationPhase::Unknown;
        status.steps = vec![step("GateHealth")];
    };
    journal(&mut members[0], unknown);
    let waits = turn(&mut rollout, &members);
    assert_eq!((states(&waits)[0], waits.effects), (State::Preparing, vec![]));

    // One that an older operator sent at that moment was refused, and is not the last word.
    let cancel = |operation: &mut OpenBaoOperation| {
        let nonce = member::nonce(&rollout, operation, RequestAction::Cancel);
        let request = Request { nonce, action: RequestAction::Cancel, ..Request::default() };
        operation.spec.requests.push(request.clone());
        let mut journal = Journal { status: operation.status.clone().unwrap(), ..Journal::default() };
        for event in engine::judge(&journal, &operation.spec.requests, &request, now()) {
            journal.apply(&event, now()).unwrap();
        }
        operation.status = Some(journal.status);
        let answers = &operation.status.as_ref().unwrap().handled_requests;
        answers.last().map(|answer| answer.outcome)
    };
    let operation = Arc::make_mut(&mut members[0].operations[0]);
    assert_eq!(cancel(operation), Some(RequestOutcome::Refused));
    operation.status.as_mut().unwrap().phase = OperationPhase::Running;
    assert_eq!(cancel(operation), Some(RequestOutcome::Applied));
    let asked = &operation.spec.requests[1].nonce;
    assert_eq!(*asked, member::nonce(&rollout, operation, RequestAction::Cancel), "that was the last word");
    operation.status.as_mut().unwrap().handled_requests[1].outcome = RequestOutcome::Refused;
    operation.status.as_mut().unwrap().point_of_no_return_at = Some(now());
    assert_eq!(operation.spec.requests[0].nonce, member::nonce(&rollout, operation, RequestAction::Cancel), "too late");
}

#[test]
fn parallel_prepares_all_at_once() {
    let mut rollout = rollout("parallel", |_| {});
    let decision = turn(&mut rollout, &[member("kelp"), member("coral")]);
    assert_eq!(states(&decision), [State::Preparing, State::Preparing]);
    for effect in &decision.effects {
        let Effect::Create(operation) = effect else { panic!("{effect:?}") };
        assert_eq!(operation.spec.parameters[upgrade::request::PARK], "ordered");
    }
}

#[test]
fn a_deferred_cutover_waits_for_a_person() {
    let mut rollout = rollout("parallel", |spec| spec.defer_cutover = true);
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    members.iter_mut().for_each(parked);
    let waiting = turn(&mut rollout, &members);
    assert_eq!(waiting.status.phase, RolloutPhase::WaitingForCutover);
    assert!(waiting.effects.is_empty());
    rollout.spec.requests = vec![Request { nonce: "go".into(), ..Request::default() }];
    rollout.spec.requests[0].action = RequestAction::Resume;
    assert_eq!(states(&turn(&mut rollout, &members)), [State::CuttingOver, State::WaitingForCutover]);
}

#[test]
fn a_failed_member_halts_those_after_it() {
    let mut rollout = rollout("rolling", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    ended(&mut members[0], OperationPhase::RolledBack);
    let halted = turn(&mut rollout, &members);
    assert_eq!((states(&halted), halted.status.phase), (vec![State::Reverted, State::Pending], RolloutPhase::Failed));
    assert!(!halted.is_over(), "a Retry or a Skip can still move it");
    rollout.spec.requests = vec![Request { nonce: "again".into(), ..Request::default() }];
    rollout.spec.requests[0].action = RequestAction::Retry;
    let again = turn(&mut rollout, &members);
    assert_eq!(states(&again), [State::Preparing, State::Pending]);
    assert_eq!(again.status.members[0].operation.as_deref(), Some("kelp-rollout-01234567-2"));
}

#[test]
fn the_verdict_stays_failed_when_the_others_went_on() {
    let mut rollout = rollout("rolling", |spec| spec.on_failure = "continue".into());
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    ended(&mut members[0], OperationPhase::Failed);
    create(&turn(&mut rollout, &members), &mut members);
    ended(&mut members[1], OperationPhase::Succeeded);
    let last = turn(&mut rollout, &members);
    assert_eq!((last.status.phase, last.status.progress.as_str()), (RolloutPhase::Failed, "1/2"));
}

#[test]
fn a_paused_rollout_says_what_it_waits_for_and_goes_on_when_released() {
    let mut rollout = rollout("rolling", |spec| spec.on_failure = "pause".into());
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    ended(&mut members[0], OperationPhase::Failed);
    let paused = turn(&mut rollout, &members);
    assert_eq!(paused.status.phase, RolloutPhase::Paused);
    assert!(paused.status.message.contains("Release"), "{}", paused.status.message);
    rollout.spec.requests = vec![Request { nonce: "on".into(), ..Request::default() }];
    rollout.spec.requests[0].action = RequestAction::Release;
    assert_eq!(states(&turn(&mut rollout, &members))[1], State::Preparing);
}

#[test]
fn a_cancel_undoes_what_is_parked_and_begins_nothing() {
    let mut rollout = rollout("barrier", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    parked(&mut members[0]);
    rollout.spec.requests = vec![Request { nonce: "no".into(), ..Request::default() }];
    let cancelled = turn(&mut rollout, &members);
    assert_eq!(states(&cancelled), [State::WaitingForCutover, State::Cancelled]);
    assert_eq!(cancelled.effects, [Effect::Cancel { operation: "kelp-rollout-01234567-1".into() }]);
    ended(&mut members[0], OperationPhase::Cancelled);
    let over = turn(&mut rollout, &members);
    assert_eq!((states(&over)[0], over.status.phase), (State::Stopped, RolloutPhase::Stopped));
    assert!(over.is_over());
}

#[test]
fn a_rollout_that_was_cancelled_between_two_members_is_not_completed() {
    let mut rollout = rollout("rolling", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    ended(&mut members[0], OperationPhase::Succeeded);
    members[1].pending_restore = Some("earlier".into());
    turn(&mut rollout, &members);
    rollout.spec.requests = vec![Request { nonce: "no".into(), action: RequestAction::Cancel, ..Request::default() }];
    let cancelled = turn(&mut rollout, &members);
    assert_eq!(states(&cancelled), [State::Completed, State::Cancelled]);
    assert_eq!((cancelled.status.phase, cancelled.is_over()), (RolloutPhase::Stopped, true));
    assert_eq!(cancelled.status.conditions[0].status, "False", "47 of fifty may run the old version");
}

#[test]
fn a_member_that_failed_and_was_left_out_then_keeps_the_verdict_and_one_that_never_began_does_not() {
    let skip = |nonce: &str, step: &str| Request {
        nonce: nonce.into(),
        action: RequestAction::Skip,
        step: step.into(),
        ..Request::default()
    };
    let mut failed = rollout("rolling", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut failed, &members), &mut members);
    journal(&mut members[0], |status| {
        status.phase = OperationPhase::Failed;
        status.point_of_no_return_at = Some(now());
    });
    turn(&mut failed, &members);
    failed.spec.requests = vec![skip("a", "kelp")];
    create(&turn(&mut failed, &members), &mut members);
    ended(&mut members[1], OperationPhase::Succeeded);
    let last = turn(&mut failed, &members);
    assert_eq!((states(&last), last.status.phase), (vec![State::Cancelled, State::Completed], RolloutPhase::Failed));
    assert!(last.status.message.contains("kelp"), "{}", last.status.message);

    let mut whole = rollout("rolling", |spec| spec.requests = vec![skip("b", "kelp")]);
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut whole, &members), &mut members);
    ended(&mut members[1], OperationPhase::Succeeded);
    assert_eq!(turn(&mut whole, &members).status.phase, RolloutPhase::Completed);
}

#[test]
fn a_rollout_whose_members_were_all_left_out_before_they_began_is_stopped_and_says_why() {
    let skip = |step: &str| Request {
        nonce: step.into(),
        action: RequestAction::Skip,
        step: step.into(),
        ..Request::default()
    };
    let mut rollout = rollout("rolling", |spec| spec.requests = vec![skip("kelp"), skip("coral")]);
    let decision = turn(&mut rollout, &[member("kelp"), member("coral")]);
    assert_eq!((states(&decision), decision.status.phase), (vec![State::Cancelled; 2], RolloutPhase::Stopped));
    assert_eq!(decision.status.message, "every member was left out by request");
    assert!(decision.is_over() && decision.effects.is_empty());
}

#[test]
fn a_rollout_that_an_older_operator_called_completed_is_not_judged_anew_until_something_changes_about_it() {
    let skipped = State::Cancelled;
    let entry = |cluster: &str, state| RolloutMemberStatus {
        cluster: cluster.into(),
        state,
        attempt: 1,
        ..RolloutMemberStatus::default()
    };
    let members = [member("kelp"), member("coral")];
    // By the rules of now the first is failed, for a member was left out after it had begun, and the second stopped.
    for (state, stop) in [(skipped, None), (State::Completed, Some(RolloutStop::Cancel))] {
        let last = if stop.is_some() {
            RolloutMemberStatus { attempt: 0, ..entry("coral", skipped) }
        } else {
            entry("coral", State::Completed)
        };
        let mut old = rollout("rolling", |_| {});
        old.metadata.generation = Some(7);
        old.status = Some(OpenBaoRolloutStatus {
            phase: RolloutPhase::Completed,
            message: "as it was told".into(),
            members: vec![entry("kelp", state), last],
            stop,
            ..OpenBaoRolloutStatus::default()
        });
        let again = turn(&mut old, &members);
        assert_eq!((again.status.phase, again.status.message.as_str()), (RolloutPhase::Completed, "as it was told"));
        assert_eq!(again.status.observed_generation, Some(7));
    }
    let mut changed = rollout("rolling", |_| {});
    let members_then = vec![entry("kelp", State::Failed), entry("coral", State::Completed)];
    let phase = RolloutPhase::Completed;
    changed.status = Some(OpenBaoRolloutStatus { phase, members: members_then, ..OpenBaoRolloutStatus::default() });
    changed.spec.requests =
        vec![Request { nonce: "out".into(), action: RequestAction::Skip, step: "kelp".into(), ..Request::default() }];
    assert_eq!(turn(&mut changed, &members).status.phase, RolloutPhase::Failed, "somebody asked, and is told");
}

#[test]
fn a_member_whose_image_changed_while_it_waited_begins_again_with_the_one_of_now_and_not_without_end() {
    let mut rollout = rollout("rolling", |_| {});
    let mut members = [member("kelp"), member("coral")];
    let refuse = |member: &mut MemberFacts| {
        journal(member, |status| {
            status.phase = OperationPhase::Failed;
            status.reason = Some(upgrade::asked::NOT_ASKED.into());
        });
    };
    create(&turn(&mut rollout, &members), &mut members);
    members[0].image = "mirror/bao:2.7.2".into();
    refuse(&mut members[0]);
    let again = turn(&mut rollout, &members);
    assert_eq!(states(&again), [State::Preparing, State::Pending]);
    let [Effect::Create(operation)] = again.effects.as_slice() else { panic!("{:?}", again.effects) };
    assert_eq!(operation.name_any(), "kelp-rollout-01234567-2");
    assert_eq!(upgrade::request::target(operation).unwrap().image, "mirror/bao:2.7.2");
    create(&again, &mut members);
    assert_eq!(states(&turn(&mut rollout, &members))[0], State::Preparing);
    // Asked for as it is, and refused: for that nobody tries again by himself.
    refuse(&mut members[0]);
    assert_eq!(states(&turn(&mut rollout, &members))[0], State::FailedRetryable);

    let mut other = self::rollout("rolling", |_| {});
    let mut members = [member("kelp"), member("coral")];
    for repository in 0..9 {
        members[0].image = format!("mirror-{repository}/bao:2.7.2");
        if !members[0].operations.is_empty() {
            refuse(&mut members[0]);
        }
        create(&turn(&mut other, &members), &mut members);
    }
    let end = &other.status.as_ref().unwrap().members[0];
    assert_eq!((end.state, end.attempt), (State::FailedRetryable, 5));
}

#[test]
fn a_rollback_that_waits_for_its_start_goes_before_an_upgrade_of_a_rollout() {
    let mut rollout = rollout("rolling", |_| {});
    let mut kelp = member("kelp");
    let mut back = kelp.operation(&rollout, "kelp-back", None).unwrap();
    back.spec.operation = crate::api::OperationKind::Rollback;
    kelp.operations.push(Arc::new(back));
    let waits = turn(&mut rollout, &[kelp, member("coral")]);
    assert_eq!(states(&waits)[0], State::Pending);
    assert!(waits.status.members[0].message.contains("kelp-back"), "{:?}", waits.status.members[0]);
}

#[test]
fn a_deleted_rollout_is_a_cancelled_one_and_creates_nothing() {
    let mut rollout = rollout("rolling", |_| {});
    let members = [member("kelp"), member("coral")];
    turn(&mut rollout, &members);
    rollout.metadata.deletion_timestamp = Some(to_kube(now()));
    let leaving = turn(&mut rollout, &members);
    assert_eq!((states(&leaving), leaving.effects), (vec![State::Cancelled, State::Cancelled], vec![]));
}

#[test]
fn leadership_that_moves_without_being_asked_is_finished_at_once_and_said() {
    let mut rollout = rollout("barrier", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    parked(&mut members[0]);
    create(&turn(&mut rollout, &members), &mut members);
    journal(&mut members[0], |status| status.point_of_no_return_at = Some(now()));
    let unplanned = turn(&mut rollout, &members);
    assert_eq!(states(&unplanned)[0], State::CuttingOver);
    assert!(unplanned.status.members[0].message.contains("without being asked"));
}

#[test]
fn a_member_whose_operation_is_gone_is_judged_by_its_cluster_and_never_begun_a_second_time() {
    let begun = || {
        let mut rollout = rollout("barrier", |_| {});
        let mut members = [member("kelp"), member("coral")];
        create(&turn(&mut rollout, &members), &mut members);
        parked(&mut members[0]);
        turn(&mut rollout, &members);
        members[0].operations.clear();
        (rollout, members)
    };
    let (mut rollout, members) = begun();
    let gone = turn(&mut rollout, &members);
    assert_eq!(states(&gone)[0], State::FailedRetryable);
    assert!(gone.status.members[0].message.contains("is gone"), "{}", gone.status.members[0].message);
    let again = turn(&mut rollout, &members);
    assert!(
        !again
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Create(operation) if operation.spec.cluster == "kelp"))
    );

    let (mut rollout, mut members) = begun();
    let cluster = Arc::make_mut(members[0].cluster.as_mut().unwrap());
    cluster.status.as_mut().unwrap().current_version = Some("2.7.2".into());
    assert_eq!(states(&turn(&mut rollout, &members))[0], State::Completed);
}

#[test]
fn a_member_without_a_cluster_or_with_nothing_to_do_needs_no_operation() {
    let mut rollout = rollout("parallel", |_| {});
    let gone = MemberFacts { cluster: None, ..member("kelp") };
    let mut there = member("coral");
    let cluster = Arc::make_mut(there.cluster.as_mut().unwrap());
    cluster.status.as_mut().unwrap().current_version = Some("2.7.2".into());
    let decision = turn(&mut rollout, &[gone, there]);
    assert_eq!(states(&decision), [State::Failed, State::Completed]);
    assert!(decision.status.members[0].message.starts_with("MemberMissing"));
    assert!(decision.status.members[1].message.starts_with("NoWork"));
    assert!(decision.effects.is_empty());
}

#[test]
fn a_rollout_back_waits_for_a_member_whose_upgrade_has_not_come_to_its_end() {
    let mut back = rollout("rolling", |spec| spec.version = "2.6.1".into());
    let mut half_way = member("kelp");
    let status = Arc::make_mut(half_way.cluster.as_mut().unwrap()).status.as_mut().unwrap();
    // What all ran last is the old version; the template, and some of them, show the new one.
    status.upgrade = Some(
        serde_json::from_value(serde_json::json!({
            "directive": {"version": "2.7.2", "image": "bao:2.7.2"}, "accountedFor": "2026-11-28T09:00:00Z"
        }))
        .unwrap(),
    );
    let waits = turn(&mut back, &[half_way, member("coral")]);
    assert_eq!(states(&waits), [State::Pending, State::Pending]);
    assert!(waits.status.members[0].message.contains("2.7.2"), "{:?}", waits.status.members[0]);
    let mut back = rollout("rolling", |spec| spec.version = "2.6.1".into());
    assert_eq!(states(&turn(&mut back, &[member("kelp"), member("coral")]))[0], State::Completed);
}

#[test]
fn a_downgrade_and_an_upgrade_under_way_keep_a_member_from_beginning() {
    let mut downgrade = rollout("rolling", |spec| spec.version = "2.5.0".into());
    let refused = turn(&mut downgrade, &[member("kelp"), member("coral")]);
    assert_eq!(states(&refused), [State::Failed, State::Pending]);
    assert!(refused.status.members[0].message.contains("DowngradeBlocked"));

    let mut rollout = rollout("rolling", |_| {});
    let mut busy = member("kelp");
    let own = busy.operation(&rollout, "kelp-upgrade-2-7-2-1", None).unwrap();
    busy.operations.push(Arc::new(own));
    let waits = turn(&mut rollout, &[busy, member("coral")]);
    assert_eq!(states(&waits), [State::Pending, State::Pending]);
    assert!(waits.status.message.contains("kelp-upgrade-2-7-2-1"), "{}", waits.status.message);
}

#[test]
fn what_is_decided_again_from_the_same_facts_is_the_same() {
    let mut rollout = rollout("barrier", |_| {});
    let mut members = [member("kelp"), member("coral")];
    create(&turn(&mut rollout, &members), &mut members);
    let once = turn(&mut rollout, &members);
    let later = decide(&Facts { rollout: &rollout, members: &members }, now() + chrono::TimeDelta::hours(1));
    assert_eq!(once.status, later.status, "an idle rollout writes nothing");
}
