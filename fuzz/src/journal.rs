//! The journal reader: any status that parses, with any requests, in a world that answers anything.
//!
//! Checked: it comes to rest (no endless loop); it never asks to act on a `OnceOnly` step whose receipt was already stored;
//! it acts only on what is stored as running, and only while it holds the lock; what it writes can be read again; the
//! history stays bounded.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use openbao_operator::{
    adapter::operationlock::HeldError,
    api::{
        LockOperation, Request,
        operation::{OpenBaoOperationStatus, OperationKind, Plan, StepKind, StepState},
    },
    service::opslifecycle::{
        Planned, Refusal, RetryClass, StepMode, StepOutcome,
        saga::{
            faults::Faults,
            machine::{HISTORY_KEPT, Journal, Subject},
            run::{Ask, Facts, LockSeen, Run, Shows},
        },
    },
};
use serde::Deserialize;

use super::document;

#[derive(Deserialize)]
struct Input {
    #[serde(default)]
    status: OpenBaoOperationStatus,
    #[serde(default)]
    requests: Vec<Request>,
    plan: Option<Plan>,
    kind: Option<OperationKind>,
}

/// One byte of the input at a time; zeros at its end.
struct Dice<'a>(&'a [u8]);

impl Dice<'_> {
    fn roll(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }
}

const STANDARD: Duration = Duration::from_secs(60);

pub fn check(input: &[u8]) {
    let Some((Input { status, requests, plan, kind }, rest)) = document::<Input>(input) else { return };
    // What the API server's schema keeps out.
    if requests.len() > 64 || status.steps.len() > 200 || status.history.len() > 20_000 {
        return;
    }
    let before = status.history.len();
    let mut dice = Dice(rest);
    let mut stored = status;
    let mut now: DateTime<Utc> = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let mut lock = None::<(i64, Shows)>;
    let mut fence = 7;
    for _ in 0..8 {
        let subject = Subject { kind: kind.unwrap_or_default(), ..Subject::default() };
        let journal = Journal { status: stored.clone(), subject };
        let mut run = Run::new(journal, requests.clone(), Faults::default());
        let seen = |lock: Option<(i64, Shows)>, dice: u8| match lock {
            Some((fence, shows)) => LockSeen::Ours { fence, shows },
            None if dice % 4 == 3 => LockSeen::Foreign { holder: "other".into() },
            None => LockSeen::Free,
        };
        let mut facts = Facts {
            now,
            deleting: dice.roll() % 8 == 7,
            cluster_gone: dice.roll() % 16 == 15,
            lock: seen(lock, dice.roll()),
            overridden_by: (dice.roll() % 16 == 15).then(|| "operation forced".into()),
            supported: dice.roll() % 16 != 15,
            message_written_at: None,
        };
        let mut fresh = None;
        let mut rested = false;
        for _ in 0..3_000 {
            let Ok(ask) = run.next(&facts) else { return };
            let answered = match ask {
                Ask::Commit => {
                    let text = serde_json::to_string(run.status()).expect("a status can be written");
                    let read: OpenBaoOperationStatus = serde_json::from_str(&text).expect("and read again");
                    assert_eq!(read, *run.status(), "something is lost on the way");
                    fresh = (0..run.status().steps.len()).find(|&step| {
                        run.status().steps[step].receipt.is_some()
                            && stored.steps.get(step).is_none_or(|before| before.receipt.is_none())
                    });
                    stored = read;
                    run.committed();
                    Ok(())
                }
                Ask::Plan => {
                    let planned = match (&plan, dice.roll() % 4) {
                        (_, 1) => Err(Refusal::failed("No", "no")),
                        (_, 2) => Err(Refusal::wait(RetryClass::Standard, "Later", "later")),
                        (Some(plan), _) => Ok(Planned { plan: plan.clone(), inputs: BTreeMap::new() }),
                        (None, _) => Ok(Planned::default()),
                    };
                    run.planned(planned, None, STANDARD, &facts)
                }
                Ask::Look => {
                    facts.lock = seen(lock, dice.roll());
                    run.looked();
                    Ok(())
                }
                Ask::Acquire => match dice.roll() % 4 {
                    2 => {
                        // The manager is not ready for the lock.
                        let outcome = match dice.roll() % 4 {
                            1 => StepOutcome::fatal("Changed", "no longer so"),
                            2 => StepOutcome::Unknown { message: "who knows".into() },
                            _ => StepOutcome::in_progress("not yet"),
                        };
                        run.ready(outcome, STANDARD, &facts).map(|ready| assert!(!ready, "it takes the lock unready"))
                    }
                    3 => {
                        let held = HeldError {
                            operation: LockOperation::Backup,
                            holder: "other".into(),
                            holder_uid: "u".into(),
                            operation_ref: None,
                            message: String::new(),
                            fence: 1,
                            committed: None,
                        };
                        run.blocked(&held, "", STANDARD, &facts)
                    }
                    _ => {
                        fence += 1;
                        lock = Some((fence, Shows::default()));
                        run.acquired(fence, Shows::default(), now, None, &mut facts)
                    }
                },
                Ask::Renew { fence, shows } => {
                    if lock.is_some_and(|(held, _)| held == fence) {
                        lock = Some((fence, shows));
                    }
                    facts.lock = seen(lock, dice.roll());
                    run.looked();
                    Ok(())
                }
                Ask::Call(call) => {
                    let status = run.status().clone();
                    let plan = status.plan.as_ref().expect("a call needs a plan");
                    assert_eq!(stored.steps[call.step].state, StepState::Running, "acts on what is not stored");
                    if plan.steps[call.step].kind == StepKind::OnceOnly
                        && call.mode == StepMode::Run
                        && call.undoes.is_none()
                    {
                        assert_eq!(fresh, Some(call.step), "a receipt that was there already forbids acting");
                    }
                    fresh = None;
                    let outcome = match dice.roll() % 8 {
                        1 => StepOutcome::in_progress("working"),
                        2 => StepOutcome::retryable("Broken", "broken"),
                        3 => StepOutcome::fatal("Broken", "broken"),
                        4 => StepOutcome::Unknown { message: "who knows".into() },
                        5 => StepOutcome::NotApplied { message: "not applied".into() },
                        6 => StepOutcome::Parked { reason: "parked".into(), unlimited: dice.roll().is_multiple_of(2) },
                        _ => StepOutcome::done_with([("key", "value")]),
                    };
                    run.answered(call, outcome, STANDARD, &facts)
                }
                Ask::Finish { .. } => {
                    let outcome =
                        if dice.roll() % 8 == 7 { StepOutcome::in_progress("busy") } else { StepOutcome::done() };
                    run.finished(outcome, STANDARD, &facts);
                    Ok(())
                }
                Ask::Release => {
                    lock = None;
                    run.released(&mut facts)
                }
                Ask::Rest { .. } | Ask::Idle | Ask::Closed => {
                    rested = true;
                    break;
                }
            };
            if answered.is_err() {
                return;
            }
        }
        assert!(rested, "it does not come to rest");
        // Forwards, and now and then back.
        let step = TimeDelta::seconds(i64::from(dice.roll()) * 60);
        now = if dice.roll() % 8 == 7 { now - step } else { now + step };
    }
    assert!(stored.history.len() <= before.max(HISTORY_KEPT), "the history grows without bound");
}
