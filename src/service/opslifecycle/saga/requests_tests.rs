//! What single journals answer.

use super::*;
use crate::api::operation::{Plan, Receipt};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// Leadership has moved, or is about to, and the new version is watched.
fn watched(past: bool) -> Journal {
    let step =
        |name: &str, skippable| StepSpec { name: name.into(), action: name.into(), skippable, ..StepSpec::default() };
    let state = |name: &str, state| StepStatus { name: name.into(), state, ..StepStatus::default() };
    let mut journal = Journal::default();
    let status = &mut journal.status;
    status.phase = OperationPhase::Running;
    status.plan = Some(Plan {
        steps: vec![step("StepDown", false), step("Soak", true), step("Finish", false)],
        point_of_no_return: Some("StepDown".into()),
        ..Plan::default()
    });
    status.steps = vec![
        state("StepDown", StepState::Completed),
        state("Soak", StepState::Running),
        state("Finish", StepState::Pending),
    ];
    status.point_of_no_return_at = past.then(now);
    journal
}

/// The answer, and the journal after it.
fn asked(journal: &Journal, action: RequestAction, step: &str) -> (HandledRequest, Journal) {
    let request = Request { nonce: "n".into(), action, step: step.into(), by: "ann".into(), ..Request::default() };
    let mut after = journal.clone();
    for event in judge(journal, std::slice::from_ref(&request), &request, now()) {
        after.apply(&event, now()).unwrap();
    }
    (after.status.handled_requests.last().cloned().expect("every request is answered"), after)
}

#[test]
fn a_step_that_only_watches_is_left_out_half_way_once_nobody_can_cancel_any_more() {
    let (answer, after) = asked(&watched(true), RequestAction::Skip, "Soak");
    assert_eq!(answer.outcome, RequestOutcome::Applied, "{}", answer.message);
    let soak = &after.status.steps[1];
    assert_eq!((soak.state, soak.skipped_by.as_deref()), (StepState::Skipped, Some("ann")));

    let (answer, after) = asked(&watched(false), RequestAction::Skip, "Soak");
    assert_eq!((answer.outcome, after.status.steps[1].state), (RequestOutcome::Refused, StepState::Running));
    assert!(answer.message.contains("Cancel"), "{}", answer.message);
}

#[test]
fn a_running_step_is_not_left_out_where_something_would_have_to_be_proven_or_undone() {
    let cases: [fn(&mut StepSpec, &mut StepStatus); 3] = [
        |planned, _| planned.kind = StepKind::OnceOnly,
        |planned, _| planned.compensate = Some("Finish".into()),
        |_, known| known.receipt = Some(Receipt::default()),
    ];
    for (index, spoil) in cases.into_iter().enumerate() {
        let mut journal = watched(true);
        let status = &mut journal.status;
        spoil(&mut status.plan.as_mut().unwrap().steps[1], &mut status.steps[1]);
        let (answer, _) = asked(&journal, RequestAction::Skip, "Soak");
        assert_eq!(answer.outcome, RequestOutcome::Refused, "case {index}");
        assert!(!answer.message.contains("Cancel"), "it would be refused too: {}", answer.message);
    }
}

/// It waits for a person, and leadership moves after it.
fn parks(edit: fn(&mut StepStatus)) -> Journal {
    let mut journal = watched(false);
    let status = &mut journal.status;
    let plan = status.plan.as_mut().unwrap();
    plan.steps.swap(0, 1);
    (plan.steps[0].name, status.steps[0].name) = ("Park".into(), "Park".into());
    (plan.steps[1].name, status.steps[1].name) = ("StepDown".into(), "StepDown".into());
    (status.steps[0].state, status.steps[1].state) = (StepState::Running, StepState::Pending);
    edit(&mut status.steps[0]);
    journal
}

#[test]
fn a_park_is_left_out_only_before_it_has_begun_so_that_whoever_runs_under_its_lock_is_waited_for() {
    type Edit = fn(&mut StepStatus);
    let cases: [(&str, Edit, Option<&str>); 4] = [
        ("it has not begun", |park| park.state = StepState::Pending, None),
        ("it has just begun", |_| {}, Some("Cancel")),
        ("it is parked", |park| park.parked_at = Some(now()), Some("Resume")),
        ("it waits for a backup", |park| park.resumed_by = Some("ann".into()), Some("Cancel")),
    ];
    for (case, edit, refused) in cases {
        let before = parks(edit);
        let (answer, after) = asked(&before, RequestAction::Skip, "Park");
        let Some(way_on) = refused else {
            assert_eq!(after.status.steps[0].state, StepState::Skipped, "{case}: {}", answer.message);
            continue;
        };
        assert_eq!(answer.outcome, RequestOutcome::Refused, "{case}");
        assert!(answer.message.contains(way_on), "{case}: {}", answer.message);
        assert_eq!(after.status.steps, before.status.steps, "{case}");
        let cancelled = asked(&before, RequestAction::Cancel, "").0;
        assert_eq!(cancelled.outcome, RequestOutcome::Applied, "{case}: {}", cancelled.message);
    }
}

#[test]
fn nobody_is_sent_to_a_request_that_is_refused_as_well() {
    for (past, word) in [(true, "Skip"), (false, "Cancel")] {
        let (answer, _) = asked(&watched(past), RequestAction::Abandon, "");
        assert_eq!(answer.outcome, RequestOutcome::Refused);
        assert!(answer.message.contains(word), "{}", answer.message);
        let (cancel, _) = asked(&watched(past), RequestAction::Cancel, "");
        assert_eq!(cancel.outcome == RequestOutcome::Applied, !past, "{}", cancel.message);
    }
}

#[test]
fn a_retry_of_what_is_never_tried_again_is_sent_to_where_it_works() {
    let mut journal = watched(false);
    journal.status.steps[1].state = StepState::Failed;
    for phase in [OperationPhase::Failed, OperationPhase::Cancelled, OperationPhase::RolledBack] {
        journal.status.phase = phase;
        let (answer, _) = asked(&journal, RequestAction::Retry, "");
        assert_eq!(answer.outcome, RequestOutcome::Refused);
        assert!(answer.message.contains("OpenBaoCluster") && !answer.message.contains("create a new"), "{answer:?}");
    }
}
