//! The table itself: which event is legal in which state, and what bounds the journal.

use std::collections::BTreeMap;

use super::{
    record::{OUTPUT_BYTES, OUTPUT_KEYS},
    *,
};
use crate::{
    api::{
        common::{HANDLED_REQUESTS_KEPT, HandledRequest, RequestAction, RequestOutcome},
        operation::{HistoryEntry, Plan, Receipt, StepSpec},
    },
    service::opslifecycle::audit::is_event,
};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// Two steps, the second of which undoes the first.
fn journal() -> Journal {
    let step = |name: &str, compensate: Option<&str>| StepSpec {
        name: name.into(),
        action: "x".into(),
        compensate: compensate.map(str::to_owned),
        ..StepSpec::default()
    };
    let plan = Plan { steps: vec![step("a", Some("u")), step("u", None)], ..Plan::default() };
    let mut journal = Journal::default();
    journal.apply(&Event::Frozen { plan, inputs: BTreeMap::new(), hash: "h".into() }, now()).unwrap();
    journal
}

fn in_state(state: StepState) -> Journal {
    let mut journal = journal();
    journal.status.steps[0].state = state;
    journal.status.steps[0].receipt = Some(Receipt::default());
    journal.status.phase = OperationPhase::Running;
    if matches!(state, StepState::Compensating) {
        journal.status.steps[1].state = StepState::Running;
    }
    journal
}

fn unwinding(state: StepState) -> Journal {
    let mut journal = in_state(state);
    journal.status.direction = Direction::Unwinding;
    journal.status.phase = OperationPhase::Recovering;
    journal.status.ending = Some(OperationPhase::RolledBack);
    journal
}

#[test]
fn each_step_event_is_legal_in_its_own_states_and_leads_where_its_row_says() {
    use StepState::*;
    let soon = Some(now());
    let text = String::new;
    type Row = (Event, fn(StepState) -> Journal, Vec<(StepState, StepState)>);
    let rows: Vec<Row> = vec![
        (Event::StepDone { step: 0, output: BTreeMap::new() }, in_state, vec![(Running, Completed)]),
        (
            Event::StepFailed { step: 0, reason: text(), message: text(), retry_at: soon },
            in_state,
            vec![(Running, Pending)],
        ),
        (
            Event::StepFailed { step: 0, reason: text(), message: text(), retry_at: None },
            in_state,
            vec![(Running, Failed)],
        ),
        (Event::StepNotApplied { step: 0, message: text(), retry_at: soon }, in_state, vec![(Running, Pending)]),
        (Event::StepNotApplied { step: 0, message: text(), retry_at: None }, in_state, vec![(Running, Failed)]),
        (Event::StepUnknown { step: 0, message: text() }, in_state, vec![(Running, Running)]),
        (Event::StepSkipped { step: 0, by: text(), why: text() }, in_state, vec![(Pending, Skipped)]),
        (Event::UndoDone { step: 0, undo: 1, output: BTreeMap::new() }, unwinding, vec![(Compensating, Compensated)]),
        (
            Event::UndoFailed { step: 0, undo: 1, message: text(), retry_at: soon },
            unwinding,
            vec![(Compensating, Compensating)],
        ),
        (
            Event::UndoFailed { step: 0, undo: 1, message: text(), retry_at: None },
            unwinding,
            vec![(Compensating, CompensationFailed)],
        ),
        (Event::UndoStarted { step: 0, undo: 1 }, unwinding, vec![(Completed, Compensating)]),
        (Event::ClockWentBack { step: 0 }, in_state, vec![(Running, Running)]),
    ];
    for (event, at, legal) in rows {
        for state in [Pending, Running, Completed, Failed, Skipped, Compensating, Compensated, CompensationFailed] {
            let mut journal = at(state);
            let before = journal.clone();
            let applied = journal.apply(&event, now());
            if let Some((_, to)) = legal.iter().find(|(from, _)| *from == state) {
                assert_eq!(applied, Ok(()), "{event:?} in {state:?}");
                assert_eq!(journal.status.steps[0].state, *to, "{event:?} in {state:?}");
            } else {
                assert!(applied.is_err(), "{event:?} in {state:?}");
                assert_eq!(journal, before, "a refused event changes nothing");
            }
        }
    }
}

#[test]
fn a_step_that_runs_is_left_out_only_without_a_receipt() {
    let skip = Event::StepSkipped { step: 0, by: "ann".into(), why: String::new() };
    let mut running = in_state(StepState::Running);
    assert!(running.apply(&skip, now()).is_err(), "its effect may have happened");
    running.status.steps[0].receipt = None;
    running.status.steps[0].parked_at = Some(now());
    running.apply(&skip, now()).unwrap();
    let step = &running.status.steps[0];
    assert_eq!((step.state, step.parked_at), (StepState::Skipped, None));
}

#[test]
fn a_step_starts_only_forward_only_once_and_never_over_a_receipt() {
    let start = Event::StepStarted { step: 0, receipt: None };
    let mut fresh = journal();
    fresh.apply(&start, now()).unwrap();
    assert_eq!((fresh.status.phase, fresh.status.steps[0].attempt), (OperationPhase::Running, 1));
    assert!(fresh.apply(&start, now()).is_err(), "it is running");
    assert!(in_state(StepState::Pending).apply(&start, now()).is_err(), "a receipt stands");
    let mut back = unwinding(StepState::Pending);
    back.status.steps[0].receipt = None;
    assert!(back.apply(&start, now()).is_err(), "the way leads back");
}

#[test]
fn the_way_back_never_turns_and_is_closed_past_the_point_of_no_return() {
    let back = |ending| Event::Unwind { ending, reason: "r".into(), message: "m".into() };
    let mut journal = in_state(StepState::Completed);
    assert!(journal.apply(&back(OperationPhase::Succeeded), now()).is_err());
    journal.apply(&back(OperationPhase::RolledBack), now()).unwrap();
    assert_eq!((journal.status.phase, journal.status.direction), (OperationPhase::Recovering, Direction::Unwinding));
    assert!(journal.apply(&back(OperationPhase::Cancelled), now()).is_err(), "once");
    let mut past = in_state(StepState::Completed);
    past.status.point_of_no_return_at = Some(now());
    assert!(past.apply(&back(OperationPhase::Cancelled), now()).is_err());
}

#[test]
fn an_attempt_at_undoing_that_fails_stands_in_the_history_with_its_error_and_so_does_the_next_one() {
    let mut journal = unwinding(StepState::Completed);
    let undone = Event::UndoDone { step: 0, undo: 1, output: BTreeMap::new() };
    let failed = Event::UndoFailed { step: 0, undo: 1, message: "the store is down".into(), retry_at: Some(now()) };
    let begun = Event::UndoStarted { step: 0, undo: 1 };
    for event in [begun.clone(), failed, begun, undone] {
        journal.apply(&event, now()).unwrap();
    }
    let history = &journal.status.history;
    let moves: Vec<_> = history
        .iter()
        .map(|entry| (entry.fields["step"].as_str(), entry.phase_from.as_str(), entry.phase_to.as_str()))
        .collect();
    let expected = [
        ("a", "completed", "compensating"),
        ("u", "running", "pending"),
        ("u", "pending", "running"),
        ("a", "compensating", "compensated"),
    ];
    assert_eq!(moves, expected);
    assert_eq!((&*history[1].fields["error"], &*history[1].fields["undoes"]), ("the store is down", "a"));
    assert_eq!((&*history[2].fields["attempt"], &*history[2].fields["undoes"]), ("2", "a"));
    assert!(is_event(&history[1]), "the failure is told as an event too");
}

#[test]
fn what_waited_for_the_lock_and_has_it_does_not_say_any_more_that_it_waits() {
    let mut journal = in_state(StepState::Running);
    let blocked = Event::LockBlocked { message: "waiting: a restore has it".into(), fields: Fields::new() };
    journal.apply(&blocked, now()).unwrap();
    assert_eq!(journal.status.reason.as_deref(), Some(WAITING_FOR_LOCK));
    journal.apply(&Event::LockTaken { fence: 8, acquired_at: now(), replaced: None }, now()).unwrap();
    assert_eq!(journal.status.reason, None);
    assert!(!journal.status.message.unwrap().contains("waiting"));
}

#[test]
fn nothing_but_requests_and_the_lock_moves_what_has_ended() {
    for phase in [
        OperationPhase::ConstraintFailed,
        OperationPhase::Succeeded,
        OperationPhase::Failed,
        OperationPhase::RolledBack,
        OperationPhase::Cancelled,
    ] {
        let mut journal = in_state(StepState::Running);
        journal.status.phase = phase;
        for event in [
            Event::StepDone { step: 0, output: BTreeMap::new() },
            Event::Ended,
            Event::Resumed { by: "x".into() },
            Event::Unwind { ending: OperationPhase::Cancelled, reason: "r".into(), message: "m".into() },
            Event::Ending { phase: OperationPhase::Failed, reason: "r".into(), message: "m".into() },
            Event::NeedsPerson { reason: "r", message: "m".into() },
        ] {
            assert!(journal.apply(&event, now()).is_err(), "{event:?} in {phase:?}");
        }
    }
}

#[test]
fn a_retry_of_the_saga_resets_failed_steps_and_no_others() {
    let mut journal = in_state(StepState::Failed);
    journal.status.phase = OperationPhase::Failed;
    journal.status.steps[1].state = StepState::Completed;
    journal.apply(&Event::Reopened { by: "ops".into() }, now()).unwrap();
    assert_eq!(journal.status.steps[0].state, StepState::Pending);
    assert_eq!(journal.status.steps[1].state, StepState::Completed);
    assert_eq!((journal.status.phase, journal.status.retry_count), (OperationPhase::Running, Some(1)));
    let mut undone = in_state(StepState::Failed);
    undone.status.phase = OperationPhase::Failed;
    undone.status.direction = Direction::Unwinding;
    assert!(undone.apply(&Event::Reopened { by: "ops".into() }, now()).is_err(), "what was undone stays undone");
}

#[test]
fn only_an_unknown_outcome_is_resumed_and_its_deadline_starts_anew() {
    let mut journal = in_state(StepState::Running);
    let resume = Event::Resumed { by: "ops".into() };
    assert!(journal.apply(&resume, now()).is_err());
    journal.apply(&Event::StepUnknown { step: 0, message: "m".into() }, now()).unwrap();
    assert_eq!(journal.status.phase, OperationPhase::Unknown);
    let later = now() + chrono::TimeDelta::hours(5);
    journal.apply(&resume, later).unwrap();
    assert_eq!((journal.status.phase, journal.status.steps[0].started_at), (OperationPhase::Running, Some(later)));
    assert!(journal.status.steps[0].receipt.is_some(), "and it is still not run again");
}

#[test]
fn a_resume_of_an_unknown_outcome_is_remembered_by_the_once_only_step_that_it_is_about_and_by_no_other() {
    for kind in [StepKind::Idempotent, StepKind::ReadVerify, StepKind::OnceOnly] {
        let mut journal = in_state(StepState::Running);
        journal.status.plan.as_mut().unwrap().steps[0].kind = kind;
        journal.apply(&Event::StepUnknown { step: 0, message: "m".into() }, now()).unwrap();
        journal.apply(&Event::Resumed { by: "ops".into() }, now()).unwrap();
        let remembered = journal.status.steps[0].resumed_by.as_deref();
        assert_eq!(remembered, (kind == StepKind::OnceOnly).then_some("ops"), "{kind:?}");
        assert_eq!(journal.status.steps[1].resumed_by, None, "it did not run");
    }
}

#[test]
fn a_history_of_any_length_keeps_its_beginning_its_end_and_its_numbers() {
    let mut journal = journal();
    journal.status.history = (1..=10_000).map(|seq| HistoryEntry { seq, ..HistoryEntry::default() }).collect();
    journal.apply(&Event::StepStarted { step: 0, receipt: None }, now()).unwrap();
    let history = &journal.status.history;
    assert_eq!(history.len(), HISTORY_KEPT);
    assert_eq!((history[0].seq, history[HISTORY_HEAD - 1].seq), (1, i64::try_from(HISTORY_HEAD).unwrap()));
    assert!(history.last().unwrap().seq > 10_000);
}

#[test]
fn outputs_and_errors_are_bounded() {
    let mut journal = in_state(StepState::Running);
    let output = (0..100).map(|n| (format!("k{n:03}"), "é".repeat(5_000))).collect();
    journal.apply(&Event::StepDone { step: 0, output }, now()).unwrap();
    let output = &journal.status.steps[0].output;
    assert_eq!(output.len(), OUTPUT_KEYS);
    assert!(output.values().all(|value| value.len() <= OUTPUT_BYTES));
}

#[test]
fn a_handled_request_is_not_forgotten_while_it_stands_in_the_spec() {
    let mut journal = journal();
    let present: Vec<String> = (0..64).map(|n| format!("n{n}")).collect();
    let mut handle = |nonce: String, present: &[String]| {
        let request = HandledRequest {
            nonce,
            action: RequestAction::Cancel,
            outcome: RequestOutcome::Refused,
            message: String::new(),
            at: None,
        };
        let event = Event::RequestHandled { request, by: "x".into(), present: present.to_vec() };
        journal.apply(&event, now()).unwrap();
        journal.status.handled_requests.len()
    };
    for nonce in &present {
        handle(nonce.clone(), &present);
    }
    let and_one: Vec<String> = present.iter().cloned().chain(["last".to_owned()]).collect();
    assert_eq!(handle("last".into(), &and_one), 65, "all of them still stand in the spec");
    assert_eq!(handle("later".into(), &[]), HANDLED_REQUESTS_KEPT);
}

#[test]
fn artifacts_are_picked_from_outputs_whichever_step_knows_them() {
    let mut journal = in_state(StepState::Running);
    let output = BTreeMap::from([("key".to_owned(), "p/x.snap".to_owned()), ("sizeBytes".to_owned(), "7".to_owned())]);
    journal.apply(&Event::StepDone { step: 0, output }, now()).unwrap();
    let artifacts = journal.status.artifacts.unwrap();
    assert_eq!((artifacts.key.as_deref(), artifacts.size_bytes), (Some("p/x.snap"), Some(7)));
}
