//! What an operation says of its end.

use super::*;
use crate::service::opslifecycle::saga::COMPENSATION_FAILED;

#[test]
fn what_waited_for_its_clean_up_says_in_the_end_why_it_ended_and_not_what_it_waited_for() {
    let ending = OperationPhase::Failed;
    let closing = Event::Ending { phase: ending, reason: "Broken".into(), message: "no use".into() };
    let mut run = Run::new(journal(plan(StepKind::Idempotent), vec![closing]), vec![], Faults::default());
    let next = |run: &mut Run| loop {
        match run.next(&facts()).unwrap() {
            Ask::Commit => run.committed(),
            other => return other,
        }
    };
    for what in ["one backup", "another backup"] {
        assert_eq!(next(&mut run), Ask::Finish { ending });
        run.finished(StepOutcome::in_progress(what), Duration::ZERO, &facts());
        assert!(matches!(next(&mut run), Ask::Rest { .. }), "{what}");
        assert_eq!(run.status().message, Some(format!("no use; cleaning up: {what}")));
        run = Run::new(run.journal().clone(), vec![], Faults::default());
    }
    let (asked, over) = goes_on(run, facts());
    assert_eq!((over.status.phase, over.status.message.as_deref()), (ending, Some("no use")), "{asked:?}");
}

#[test]
fn what_could_not_be_undone_says_that_the_lock_stays_only_as_long_as_it_does() {
    let given_up = || {
        let failed = Event::UndoFailed { step: 1, undo: 3, message: "no way".into(), retry_at: None };
        vec![Event::UndoStarted { step: 1, undo: 3 }, failed]
    };
    let free = || Facts { lock: LockSeen::Free, ..facts() };
    let says = |journal: &Journal| {
        assert_eq!(journal.status.phase, OperationPhase::Failed);
        assert_eq!(journal.status.reason.as_deref(), Some(COMPENSATION_FAILED));
        let message = journal.status.message.clone().unwrap_or_default();
        assert!(message.contains("could not undo send;"), "{message}");
        let attention = journal.status.conditions.iter().find(|one| one.type_ == record::NEEDS_ATTENTION);
        let stays = message.contains("lock stays") && message.contains("Abandon");
        assert_eq!(
            attention.is_some_and(|one| one.status == "True"),
            stays,
            "it is a person's while it keeps the lock"
        );
        assert_ne!(message.contains("other hands"), stays, "{message}");
        stays
    };
    let (asked, kept) = carried_out(going_back(given_up()), vec![], facts());
    assert!(says(&kept) && kept.lock().is_some() && !asked.contains(&Ask::Release), "{asked:?}");

    let (asked, lost) = carried_out(kept, vec![], free());
    assert!(!says(&lost) && lost.lock().is_none(), "lost after the end: {asked:?}");
    let (asked, _) = carried_out(lost, vec![], free());
    assert_eq!(asked, [Ask::Closed], "said once");

    let lost = Event::LockLost { committed: true };
    let before_the_end = going_back(given_up().into_iter().chain([lost]).collect());
    let (asked, over) = carried_out(before_the_end, vec![], free());
    assert!(!says(&over), "lost before it: {asked:?}");
}
