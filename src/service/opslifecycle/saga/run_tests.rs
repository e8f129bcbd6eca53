//! Single journals whose next move matters most: what is deleted, and what is told to go on while it ends.

use std::collections::BTreeMap;

use super::*;
use crate::{
    adapter::operationlock::HeldError,
    api::{
        cluster::status::{LockMode, LockOperation, OperationLock},
        common::{RequestAction, RequestOutcome},
        operation::{LockPlan, Plan, Receipt, StepKind, StepSpec, StepState},
    },
    service::opslifecycle::{
        manager::{Refusal, StepOutcome},
        saga::machine::Subject,
    },
};

const FENCE: i64 = 7;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// A look, and behind it the point of no return, whose step is of this kind.
fn plan(kind: StepKind) -> Plan {
    let step = |name: &str, kind| StepSpec { name: name.into(), action: "x".into(), kind, ..StepSpec::default() };
    let mut send = step("send", kind);
    send.depends_on = vec!["look".into()];
    let lock = LockPlan {
        operation: LockOperation::Restore,
        holder: "openbaorestore/r".into(),
        holder_uid: "u".into(),
        before: None,
        force: false,
        message: None,
    };
    Plan {
        steps: vec![step("look", StepKind::Idempotent), send],
        lock: Some(lock),
        point_of_no_return: Some("send".into()),
        ..Plan::default()
    }
}

/// The journal of `plan` under its lock, after these events.
fn journal(plan: Plan, events: Vec<Event>) -> Journal {
    let subject = Subject { operation_uid: "u".into(), kind: OperationKind::Restore, ..Subject::default() };
    let mut journal = Journal { subject, ..Journal::default() };
    let hash = plan::hash(&plan, &BTreeMap::new());
    let begun = [
        Event::Frozen { plan, inputs: BTreeMap::new(), hash },
        Event::LockTaken { fence: FENCE, acquired_at: now(), replaced: None },
        Event::StepStarted { step: 0, receipt: None },
        Event::StepDone { step: 0, output: BTreeMap::new() },
    ];
    for event in begun.into_iter().chain(events) {
        journal.apply(&event, now()).unwrap();
    }
    journal
}

fn started(kind: StepKind) -> Event {
    let receipt = (kind == StepKind::OnceOnly).then(|| Receipt { pod_uid: None, fence: Some(FENCE), at: now() });
    Event::StepStarted { step: 1, receipt }
}

fn failed_for_now() -> Event {
    let retry_at = Some(now() + TimeDelta::seconds(5));
    Event::StepFailed { step: 1, reason: "NotSubmitted".into(), message: "not yet".into(), retry_at }
}

fn facts() -> Facts {
    Facts {
        now: now(),
        deleting: false,
        cluster_gone: false,
        lock: LockSeen::Ours { fence: FENCE, shows: Shows { parked: false, committed: true } },
        overridden_by: None,
        supported: true,
        message_written_at: None,
    }
}

/// The lock in the hands of a restore.
fn held() -> HeldError {
    HeldError {
        operation: LockOperation::Restore,
        holder: "openbaorestore/r".into(),
        holder_uid: "u".into(),
        operation_ref: None,
        message: String::new(),
        fence: 6,
        committed: None,
    }
}

/// Does what is asked for until it calls the manager, waits or is over: what was asked, and the journal then.
fn carried_out(journal: Journal, requests: Vec<Request>, facts: Facts) -> (Vec<Ask>, Journal) {
    goes_on(Run::new(journal, requests, Faults::default()), facts)
}

/// The same for a run that has begun.
fn goes_on(mut run: Run, mut facts: Facts) -> (Vec<Ask>, Journal) {
    let mut asked = vec![];
    for _ in 0..100 {
        let ask = run.next(&facts).unwrap();
        asked.push(ask.clone());
        match ask {
            Ask::Commit => run.committed(),
            Ask::Look => run.looked(),
            Ask::Finish { .. } => run.finished(StepOutcome::done(), Duration::ZERO, &facts),
            Ask::Release => run.released(&mut facts).unwrap(),
            _ => return (asked, run.journal().clone()),
        }
    }
    panic!("it comes to no end: {asked:?}");
}

fn deleting() -> Facts {
    // Long after the next attempt was due.
    Facts { deleting: true, now: now() + TimeDelta::minutes(5), ..facts() }
}

#[test]
fn the_lock_says_so_before_anything_from_which_no_way_leads_back() {
    let lock = LockSeen::Ours { fence: FENCE, shows: Shows::default() };
    let unmarked = || Facts { lock: lock.clone(), ..facts() };
    let mark = Ask::Renew { fence: FENCE, shows: Shows { parked: false, committed: true } };
    for kind in [StepKind::Idempotent, StepKind::ReadVerify, StepKind::OnceOnly] {
        let (asked, after) = carried_out(journal(plan(kind), vec![]), vec![], unmarked());
        assert_eq!((asked.last(), after.status.point_of_no_return_at), (Some(&mark), None), "{kind:?}");
        let (asked, _) = carried_out(journal(plan(kind), vec![]), vec![], facts());
        assert!(matches!(asked.last(), Some(Ask::Call(_))), "{kind:?}: {asked:?}");
    }
    // Lost since and taken again: the new tenure begins without the mark.
    let kind = StepKind::ReadVerify;
    let (asked, _) = carried_out(journal(plan(kind), vec![started(kind)]), vec![], unmarked());
    assert_eq!(asked.last(), Some(&mark));
}

#[test]
fn a_pass_that_gives_way_begins_nothing_that_happens_once_and_the_next_one_does() {
    let rest = Ask::Rest { after: Duration::ZERO };
    let is_called = |asked: &[Ask]| {
        let acts = |ask: &Ask| matches!(ask, Ask::Call(call) if call.step == 1 && call.mode == StepMode::Run);
        asked.last().is_some_and(acts)
    };
    for kind in [StepKind::OnceOnly, StepKind::Idempotent, StepKind::ReadVerify] {
        let mut run = Run::new(journal(plan(kind), vec![]), vec![], Faults::default());
        run.give_way();
        let (asked, after) = goes_on(run, facts());
        let once = kind == StepKind::OnceOnly;
        assert_eq!((asked.last() == Some(&rest), is_called(&asked)), (once, !once), "{kind:?}: {asked:?}");
        if once {
            assert_eq!(after.status.steps[1].state, StepState::Pending, "no receipt without its call");
            let (asked, after) = carried_out(after, vec![], facts());
            assert!(is_called(&asked) && after.status.steps[1].receipt.is_some(), "{asked:?}");
        }
    }
}

#[test]
fn what_has_its_receipt_is_called_by_the_pass_that_wrote_it_whoever_waits() {
    let mut run = Run::new(journal(plan(StepKind::OnceOnly), vec![]), vec![], Faults::default());
    assert_eq!(run.next(&facts()).unwrap(), Ask::Commit);
    assert!(run.status().steps[1].receipt.is_some());
    run.committed();
    run.give_way();
    let (asked, _) = goes_on(run, facts());
    assert!(matches!(asked.last(), Some(Ask::Call(call)) if call.mode == StepMode::Run), "{asked:?}");
}

#[test]
fn a_pass_that_gives_way_stores_what_came_back_and_costs_no_write_more_than_one_that_goes_on() {
    let both_once = || {
        let mut plan = plan(StepKind::OnceOnly);
        plan.steps[0].kind = StepKind::OnceOnly;
        let hash = plan::hash(&plan, &BTreeMap::new());
        let subject = Subject { operation_uid: "u".into(), kind: OperationKind::Workflow, ..Subject::default() };
        let mut journal = Journal { subject, ..Journal::default() };
        let frozen = Event::Frozen { plan, inputs: BTreeMap::new(), hash };
        for event in [frozen, Event::LockTaken { fence: FENCE, acquired_at: now(), replaced: None }] {
            journal.apply(&event, now()).unwrap();
        }
        journal
    };
    let writes = |asked: &[Ask]| asked.iter().filter(|ask| **ask == Ask::Commit).count();
    for gives_way in [false, true] {
        let mut run = Run::new(both_once(), vec![], Faults::default());
        let call = loop {
            match run.next(&facts()).unwrap() {
                Ask::Commit => run.committed(),
                Ask::Look => run.looked(),
                Ask::Call(call) => break call,
                other => panic!("{other:?}"),
            }
        };
        if gives_way {
            run.give_way();
        }
        run.answered(call, StepOutcome::done(), Duration::ZERO, &facts()).unwrap();
        let (asked, after) = goes_on(run, facts());
        let steps = &after.status.steps;
        assert_eq!((steps[0].state, steps[1].receipt.is_none()), (StepState::Completed, gives_way), "{asked:?}");
        let (rest, after) = if gives_way { carried_out(after, vec![], facts()) } else { (vec![], after) };
        assert!(after.status.steps[1].receipt.is_some(), "{rest:?}");
        assert_eq!(writes(&asked) + writes(&rest), 2, "{asked:?} {rest:?}");
    }
}

#[test]
fn a_backup_that_waits_for_the_lock_looks_again_by_the_standard_class() {
    let held = held();
    let foreign = Facts { lock: LockSeen::Foreign { holder: held.holder.clone() }, ..facts() };
    for (operation, seconds) in [
        (LockOperation::Backup, 90),
        (LockOperation::Restore, 5),
        (LockOperation::Upgrade, 5),
        (LockOperation::Maintenance, 5),
    ] {
        let mut plan = plan(StepKind::Idempotent);
        plan.lock.as_mut().unwrap().operation = operation;
        let hash = plan::hash(&plan, &BTreeMap::new());
        let mut journal = Journal::default();
        journal.apply(&Event::Frozen { plan, inputs: BTreeMap::new(), hash }, now()).unwrap();
        let mut run = Run::new(journal, vec![], Faults::default());
        run.blocked(&held, "", Duration::from_secs(90), &foreign).unwrap();
        assert_eq!(run.next(&foreign).unwrap(), Ask::Commit);
        run.committed();
        let after = Duration::from_secs(seconds);
        assert_eq!(run.next(&foreign).unwrap(), Ask::Rest { after }, "{operation}");
    }
}

#[test]
fn what_waits_for_the_lock_before_it_has_a_plan_says_so_like_any_other_and_once_per_holder() {
    let lock = |holder: &str| OperationLock {
        operation: LockOperation::Restore,
        holder: holder.into(),
        holder_uid: "u".into(),
        operation_ref: None,
        message: String::new(),
        mode: LockMode::Held,
        committed: None,
        replaced: None,
        fence: 6,
        acquired_at: now(),
        renewed_at: now(),
    };
    let foreign = Facts { lock: LockSeen::Foreign { holder: "openbaorestore/r".into() }, ..facts() };
    let mut run = Run::new(Journal::default(), vec![], Faults::default());
    for (holder, entries) in [("openbaorestore/r", 1), ("openbaorestore/r", 1), ("openbaorestore/next", 2)] {
        let refusal = Refusal::locked(&lock(holder));
        run.planned(Err(refusal), None, Duration::from_secs(90), &foreign).unwrap();
        let mut ask = run.next(&foreign).unwrap();
        if ask == Ask::Commit {
            run.committed();
            ask = run.next(&foreign).unwrap();
        }
        assert_eq!(ask, Ask::Rest { after: Duration::from_secs(90) });
        let status = run.status();
        let waiting = status.conditions.iter().find(|condition| condition.type_ == record::WAITING).unwrap();
        assert_eq!((waiting.status.as_str(), waiting.reason.as_str()), ("True", "WaitingForLock"));
        let told = status.history.last().unwrap();
        assert_eq!((status.history.len(), told.event.as_str()), (entries, "OperationLockBlocked"));
        assert_eq!(told.fields["held_by_holder"], holder);
        assert_eq!((status.phase, status.plan.is_some()), (OperationPhase::Pending, false));
    }
}

#[test]
fn what_is_deleted_between_two_attempts_without_effect_ends_and_is_not_tried_again() {
    let proven = Event::StepNotApplied {
        step: 1,
        message: "the old data is served".into(),
        retry_at: Some(now() + TimeDelta::seconds(5)),
    };
    for end in [failed_for_now(), proven] {
        let before = journal(plan(StepKind::OnceOnly), vec![started(StepKind::OnceOnly), end]);
        assert!(before.status.point_of_no_return_at.is_some() && !before.committed());
        let (asked, after) = carried_out(before, vec![], deleting());
        assert_eq!(after.status.phase, OperationPhase::Failed);
        assert_eq!(after.status.steps[1].attempt, 1, "{asked:?}");
        assert!(asked.contains(&Ask::Finish { ending: OperationPhase::Failed }), "its Job is stopped: {asked:?}");
        assert!(asked.contains(&Ask::Release) && after.lock().is_none());
    }
}

#[test]
fn what_is_deleted_past_its_point_of_no_return_goes_on() {
    let kind = StepKind::OnceOnly;
    let (asked, _) = carried_out(journal(plan(kind), vec![started(kind)]), vec![], deleting());
    assert_eq!(asked.last(), Some(&Ask::Call(Call { step: 1, mode: StepMode::Prove, undoes: None })));
    let kind = StepKind::ReadVerify;
    let (asked, _) = carried_out(journal(plan(kind), vec![started(kind), failed_for_now()]), vec![], deleting());
    assert_eq!(
        asked.last(),
        Some(&Ask::Call(Call { step: 1, mode: StepMode::Run, undoes: None })),
        "what may have done half of its work is brought to its end"
    );
    let kind = StepKind::OnceOnly;
    let mut undoable = plan(kind);
    undoable.steps[0].compensate = Some("undo".into());
    undoable.steps.push(StepSpec { name: "undo".into(), action: "x".into(), ..StepSpec::default() });
    let (asked, _) = carried_out(journal(undoable, vec![started(kind), failed_for_now()]), vec![], deleting());
    assert!(matches!(asked.last(), Some(Ask::Call(_))), "nobody would undo what the first step did: {asked:?}");
}

#[test]
fn a_lock_that_is_lost_past_the_point_of_no_return_waits_for_a_person() {
    let free = Facts { lock: LockSeen::Free, ..facts() };
    let kind = StepKind::ReadVerify;
    let (asked, lost) = carried_out(journal(plan(kind), vec![started(kind)]), vec![], free.clone());
    assert_eq!((asked.last(), lost.status.phase), (Some(&Ask::Idle), OperationPhase::Unknown));
    assert_eq!(lost.status.reason.as_deref(), Some(LOCK_LOST), "no receipt says that leadership has moved");
    let resume = Request { nonce: "1".into(), action: RequestAction::Resume, ..Request::default() };
    let (asked, _) = carried_out(lost, vec![resume], free.clone());
    assert_eq!(asked.last(), Some(&Ask::Acquire), "it is brought to its end: {asked:?}");
    let once = StepKind::OnceOnly;
    for before in [journal(plan(kind), vec![]), journal(plan(once), vec![started(once), failed_for_now()])] {
        let (asked, over) = carried_out(before, vec![], free.clone());
        assert_eq!(over.status.phase, OperationPhase::Failed, "nothing irreversible was done: {asked:?}");
        assert_eq!(over.status.reason.as_deref(), Some(LOCK_LOST));
    }
}

/// The effect of `send` has happened, the step behind it was given up, and `unsend` is to undo it.
fn going_back(events: Vec<Event>) -> Journal {
    let step = |name: &str, after: Option<&str>| StepSpec {
        name: name.into(),
        action: "x".into(),
        depends_on: after.map(str::to_owned).into_iter().collect(),
        ..StepSpec::default()
    };
    let mut line = plan(StepKind::OnceOnly);
    line.point_of_no_return = None;
    line.steps[1].compensate = Some("unsend".into());
    line.steps.extend([step("check", Some("send")), step("unsend", None)]);
    let turned = [
        started(StepKind::OnceOnly),
        Event::StepDone { step: 1, output: BTreeMap::new() },
        Event::StepStarted { step: 2, receipt: None },
        Event::StepFailed { step: 2, reason: "Broken".into(), message: "no use".into(), retry_at: None },
        Event::Unwind {
            ending: OperationPhase::RolledBack,
            reason: "Broken".into(),
            message: "step check failed: no use".into(),
        },
    ];
    journal(line, turned.into_iter().chain(events).collect())
}

#[test]
fn undoing_stops_where_the_lock_was_lost_and_goes_on_only_with_the_lock_again() {
    let begun = || Event::UndoStarted { step: 1, undo: 3 };
    let failed = || Event::UndoFailed { step: 1, undo: 3, message: "not yet".into(), retry_at: Some(now()) };
    let undo = Ask::Call(Call { step: 3, mode: StepMode::Undo, undoes: Some(1) });
    let later = || Facts { now: now() + TimeDelta::minutes(5), ..facts() };
    let free = || Facts { lock: LockSeen::Free, ..later() };
    for (case, events) in
        [("not begun", vec![]), ("under way", vec![begun()]), ("between two attempts", vec![begun(), failed()])]
    {
        let (asked, _) = carried_out(going_back(events.clone()), vec![], later());
        assert_eq!(asked.last(), Some(&undo), "{case}, with its lock: {asked:?}");
        let (asked, lost) = carried_out(going_back(events), vec![], free());
        assert_eq!((asked.last(), lost.status.phase), (Some(&Ask::Idle), OperationPhase::Unknown), "{case}");
        assert!(!asked.contains(&undo), "{case}: {asked:?}");
        let told = lost.status.message.clone().unwrap_or_default();
        assert!(lost.status.reason.as_deref() == Some(LOCK_LOST) && told.contains("step unsend"), "{case}: {told}");

        let resume = || vec![Request { nonce: "1".into(), action: RequestAction::Resume, ..Request::default() }];
        let (asked, resumed) = carried_out(lost, resume(), free());
        assert_eq!(asked.last(), Some(&Ask::Acquire), "{case}: {asked:?}");
        let mut run = Run::new(resumed, resume(), Faults::default());
        let foreign = Facts { lock: LockSeen::Foreign { holder: held().holder }, ..later() };
        run.blocked(&held(), "", Duration::from_secs(90), &foreign).unwrap();
        let (asked, waits) = goes_on(run, foreign);
        assert!(matches!(asked.last(), Some(Ask::Rest { .. })), "{case}: {asked:?}");
        assert_eq!(waits.status.reason.as_deref(), Some("WaitingForLock"), "{case}");

        let mut run = Run::new(waits, resume(), Faults::default());
        let mut ours = free();
        assert_eq!(run.next(&ours).unwrap(), Ask::Acquire, "{case}");
        let marked = Shows { parked: false, committed: true };
        run.acquired(FENCE + 1, marked, ours.now, None, &mut ours).unwrap();
        let (asked, again) = goes_on(run, ours.clone());
        assert_eq!((asked.last(), again.status.reason.as_deref()), (Some(&undo), None), "{case}: {asked:?}");
        let mut run = Run::new(again, resume(), Faults::default());
        let Ask::Call(call) = run.next(&ours).unwrap() else { panic!("{case}: it was to be called") };
        run.answered(call, StepOutcome::done(), Duration::ZERO, &ours).unwrap();
        let (asked, over) = goes_on(run, ours);
        assert_eq!(over.status.phase, OperationPhase::RolledBack, "{case}: {asked:?}");
        assert_eq!(over.status.reason.as_deref(), Some("Broken"), "{case}: not what it waited for on the way");
    }
}

#[test]
fn what_had_ended_and_is_tried_again_does_not_begin_on_a_paused_cluster() {
    let kind = StepKind::Idempotent;
    let mut line = plan(kind);
    (line.point_of_no_return, line.max_retries) = (None, Some(1));
    let failed = Event::StepFailed { step: 1, reason: "JobFailed".into(), message: "no".into(), retry_at: None };
    let (_, ended) = carried_out(journal(line, vec![started(kind), failed]), vec![], facts());
    assert_eq!((ended.status.phase, ended.lock()), (OperationPhase::Failed, None));
    assert!(!ended.begins_anew());
    let retry = Request { nonce: "1".into(), action: RequestAction::Retry, ..Request::default() };
    let free = Facts { lock: LockSeen::Free, ..facts() };
    let (asked, reopened) = carried_out(ended, vec![retry.clone()], free.clone());
    assert_eq!(asked.last(), Some(&Ask::Acquire), "{asked:?}");
    assert!(reopened.first_under_lock().is_none(), "its manager is not asked: the first step is done");
    assert!(reopened.begins_anew());
    let mut cluster = crate::api::OpenBaoCluster::new("kelp", crate::api::OpenBaoClusterSpec::default());
    cluster.spec.paused = true;
    let mut run = Run::new(reopened, vec![retry], Faults::default());
    assert_eq!(run.next(&free).unwrap(), Ask::Acquire);
    let waits = crate::service::opslifecycle::paused(Some(&cluster)).unwrap();
    let standard = Duration::from_secs(90);
    assert!(!run.ready(waits, standard, &free).unwrap());
    assert_eq!(run.next(&free).unwrap(), Ask::Commit, "it says what it waits for");
    run.committed();
    assert_eq!(run.next(&free).unwrap(), Ask::Rest { after: standard });
}

#[test]
fn a_resume_of_what_ends_because_it_was_deleted_neither_wakes_it_nor_gives_its_lock_away() {
    let kind = StepKind::OnceOnly;
    let unknown = Event::StepUnknown { step: 1, message: "nobody can tell".into() };
    let closing = Event::Ending {
        phase: OperationPhase::Failed,
        reason: DELETED_UNKNOWN.into(),
        message: "deleted while its outcome was unknown".into(),
    };
    let before = journal(plan(kind), vec![started(kind), unknown, closing]);
    let mut resumed = before.clone();
    assert!(resumed.apply(&Event::Resumed { by: "ops".into() }, now()).is_err());
    let resume = Request { nonce: "1".into(), action: RequestAction::Resume, ..Request::default() };
    let (asked, after) = carried_out(before, vec![resume], deleting());
    assert_eq!(after.status.handled_requests[0].outcome, RequestOutcome::Superseded);
    assert_eq!(after.status.phase, OperationPhase::Failed);
    assert_eq!(after.status.reason.as_deref(), Some(DELETED_UNKNOWN));
    assert!(!asked.contains(&Ask::Release) && after.lock().is_some(), "{asked:?}");
}

#[test]
fn after_a_resume_a_once_only_step_is_proven_again_and_ends_for_good_when_its_manager_says_so() {
    let kind = StepKind::OnceOnly;
    let unknown = Event::StepUnknown { step: 1, message: "nobody can tell".into() };
    let before = journal(plan(kind), vec![started(kind), unknown]);
    let resume = Request { nonce: "1".into(), action: RequestAction::Resume, by: "ops".into(), ..Request::default() };
    let (asked, resumed) = carried_out(before, vec![resume.clone()], facts());
    let call = Call { step: 1, mode: StepMode::Prove, undoes: None };
    assert_eq!(asked.last(), Some(&Ask::Call(call)), "it is never run: {asked:?}");
    assert_eq!(resumed.status.steps[1].resumed_by.as_deref(), Some("ops"), "the manager is told");
    let mut run = Run::new(resumed, vec![resume.clone()], Faults::default());
    assert_eq!(run.next(&facts()).unwrap(), Ask::Call(call));
    run.answered(call, StepOutcome::fatal("NotApplied", "the old data"), Duration::ZERO, &facts()).unwrap();
    let (asked, over) = carried_out(run.journal().clone(), vec![resume], facts());
    assert_eq!((over.status.phase, over.status.steps[1].attempt), (OperationPhase::Failed, 1), "{asked:?}");
    assert!(over.lock().is_none(), "{asked:?}");
}

#[test]
fn what_was_parked_for_longer_than_its_deadline_may_still_wait_for_others_once_it_is_resumed() {
    let kind = StepKind::Idempotent;
    let mut line = plan(kind);
    line.steps[1].timeout = Some("336h".into());
    line.point_of_no_return = None;
    let parked = Event::StepParked { step: 1, message: "waits for its turn".into() };
    let resume = Request { nonce: "1".into(), action: RequestAction::Resume, ..Request::default() };
    let later = Facts { now: now() + TimeDelta::days(15), ..facts() };
    let (asked, resumed) = carried_out(journal(line, vec![started(kind), parked]), vec![resume], later.clone());
    let call = Call { step: 1, mode: StepMode::Run, undoes: None };
    assert_eq!(asked.last(), Some(&Ask::Call(call)), "{asked:?}");
    let mut run = Run::new(resumed, vec![], Faults::default());
    let waits = || StepOutcome::in_progress("waiting for backup nightly to end");
    run.answered(call, waits(), Duration::ZERO, &later).unwrap();
    let step = &run.journal().status.steps[1];
    assert_eq!((step.state, step.error.as_deref()), (StepState::Running, None), "a backup must not turn it back");
    let much_later = Facts { now: later.now + TimeDelta::days(15), ..later };
    run.answered(call, waits(), Duration::ZERO, &much_later).unwrap();
    assert_ne!(run.journal().status.steps[1].state, StepState::Running, "nor is it waited for without end");
}

#[path = "ending_tests.rs"]
mod ending;
