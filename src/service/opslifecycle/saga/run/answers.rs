//! What the driver comes back with, and what follows from it for the journal.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    super::{
        super::{
            audit::{Fields, add_held_audit_fields},
            manager::{Planned, Refusal, RefusalPhase, StepMode, StepOutcome},
            retry::RetryClass,
        },
        DEADLINE_EXCEEDED, PLAN_MISMATCH,
        machine::{Event, Illegal},
        plan,
    },
    Ask, Call, Facts, LockSeen, Run, Shows,
};
use crate::{
    adapter::operationlock::HeldError,
    api::{
        cluster::status::LockOperation,
        duration,
        operation::{Direction, OperationPhase, StepKind},
    },
};

/// A waiting message that changed is not written more often than this: it is news, not journal.
const MESSAGE_EVERY: TimeDelta = TimeDelta::seconds(10);

impl Run {
    /// The status was written.
    pub fn committed(&mut self) {
        self.stored = self.journal.status.clone();
        self.fresh = self.begun.take();
        if self.journal.plan().is_some_and(|plan| plan.lock.is_none()) {
            self.looked = false;
        }
    }

    /// Gates, lineage and the manager have spoken. The plan is judged here; a plan that is not sound never starts.
    pub fn planned(
        &mut self,
        planned: Result<Planned, Refusal>,
        known: Option<&[&str]>,
        standard: Duration,
        facts: &Facts,
    ) -> Result<(), Illegal> {
        let refusal = match planned {
            Ok(Planned { plan, inputs }) => match plan::validate(&plan, known) {
                Ok(()) => {
                    let hash = plan::hash(&plan, &inputs);
                    return self.apply(&Event::Frozen { plan, inputs, hash }, facts.now);
                }
                Err(error) => Refusal::failed("InvalidPlan", error.to_string()),
            },
            Err(refusal) => refusal,
        };
        let phase = match refusal.phase {
            RefusalPhase::ConstraintFailed => OperationPhase::ConstraintFailed,
            RefusalPhase::Failed => OperationPhase::Failed,
            RefusalPhase::Wait(retry) => {
                let after = retry.delay(standard);
                if let Some(held) = &refusal.held {
                    return self.kept_out(held, &refusal.message, after, facts);
                }
                self.journal.status.reason = Some(refusal.reason.to_owned());
                self.wait(&refusal.message, after, facts);
                return Ok(());
            }
        };
        self.apply(&Event::Refused { phase, reason: refusal.reason.to_owned(), message: refusal.message }, facts.now)
    }

    /// The lock was read again.
    pub fn looked(&mut self) {
        self.looked = true;
    }

    /// The manager was asked whether it is ready for the lock. False: the lock is not to be taken now.
    pub fn ready(&mut self, outcome: StepOutcome, standard: Duration, facts: &Facts) -> Result<bool, Illegal> {
        match outcome {
            StepOutcome::Done { .. } => return Ok(true),
            StepOutcome::Waiting { reason, retry } => self.wait(&reason, retry.delay(standard), facts),
            StepOutcome::Failed { reason, message, .. } => {
                let reason = reason.to_owned();
                self.apply(&Event::Ending { phase: OperationPhase::Failed, reason, message }, facts.now)?;
            }
            StepOutcome::Parked { reason: message, .. }
            | StepOutcome::NotApplied { message }
            | StepOutcome::Unknown { message } => {
                self.wait(&message, RetryClass::ProgressPoll.delay(standard), facts);
            }
        }
        Ok(false)
    }

    /// The lock is ours.
    pub fn acquired(
        &mut self,
        fence: i64,
        shows: Shows,
        acquired_at: DateTime<Utc>,
        replaced: Option<String>,
        facts: &mut Facts,
    ) -> Result<(), Illegal> {
        facts.lock = LockSeen::Ours { fence, shows };
        self.looked = true;
        self.apply(&Event::LockTaken { fence, acquired_at, replaced }, facts.now)
    }

    /// The lock is in other hands. A backup looks again less often than the others: it may be behind a restore of hours, and the
    /// lock's release wakes it anyway.
    /// `why`: what else is to be said about it.
    pub fn blocked(&mut self, held: &HeldError, why: &str, standard: Duration, facts: &Facts) -> Result<(), Illegal> {
        let more = if why.is_empty() { String::new() } else { format!(". {why}") };
        let planned = self.journal.plan().and_then(|plan| plan.lock.as_ref());
        let class = match planned.map(|lock| lock.operation) {
            Some(LockOperation::Backup) => RetryClass::Standard,
            _ => RetryClass::LockContention,
        };
        self.kept_out(held, &format!("waiting: {held}{more}"), class.delay(standard), facts)
    }

    /// It waits for the lock, planned or not: the trail says once for whom.
    fn kept_out(&mut self, held: &HeldError, message: &str, after: Duration, facts: &Facts) -> Result<(), Illegal> {
        let mut fields = Fields::new();
        add_held_audit_fields(&mut fields, held);
        self.apply(&Event::LockBlocked { message: message.to_owned(), fields }, facts.now)?;
        self.rest = Some(Ask::Rest { after });
        Ok(())
    }

    /// The manager has answered a call.
    pub fn answered(
        &mut self,
        call: Call,
        outcome: StepOutcome,
        standard: Duration,
        facts: &Facts,
    ) -> Result<(), Illegal> {
        self.looked = false;
        self.fresh = None;
        let Some(plan) = self.journal.plan().cloned() else { return Ok(()) };
        let spec = &plan.steps[call.step];
        let once = spec.kind == StepKind::OnceOnly && call.undoes.is_none();
        let attempt = self.journal.step(call.step).map_or(1, |step| step.attempt);
        let draining = self.journal.status.direction == Direction::Unwinding && call.undoes.is_none();
        let again = attempt < plan::max_attempts(spec.retry_policy.as_ref()) && !draining;
        let retry_at = again.then(|| facts.now + delta(plan::retry_delay(spec.retry_policy.as_ref(), attempt)));
        let step = call.step;
        let event = match (outcome, call.undoes) {
            (StepOutcome::Done { .. }, _)
                if !once && !self.repeated && self.faults.repeat.as_deref() == Some(spec.name.as_str()) =>
            {
                self.repeated = true;
                return Ok(());
            }
            (StepOutcome::Done { output }, None) => Event::StepDone { step, output },
            (StepOutcome::Done { output }, Some(undone)) => Event::UndoDone { step: undone, undo: step, output },
            (StepOutcome::Waiting { reason, retry }, undoes) => {
                let started = self.journal.step(step).and_then(|step| step.started_at).unwrap_or(facts.now);
                let deadline = started + delta(plan::timeout(spec));
                if facts.now < deadline {
                    let left = (deadline - facts.now).to_std().unwrap_or_default();
                    self.wait_in(step, &reason, retry.delay(standard).min(left), facts);
                    return Ok(());
                }
                let took = duration::format(plan::timeout(spec));
                let message = format!("not done within {took}: {reason}");
                match undoes {
                    Some(undone) => Event::UndoFailed { step: undone, undo: step, message, retry_at },
                    None if once => Event::StepUnknown { step, message },
                    None => Event::StepFailed { step, reason: DEADLINE_EXCEEDED.into(), message, retry_at },
                }
            }
            // Nobody will say Resume any more. What it did up to here counts as done, so that it is undone.
            (StepOutcome::Parked { .. }, None) if draining => Event::StepDone { step, output: BTreeMap::new() },
            (StepOutcome::Parked { reason, unlimited }, None) => {
                let started = self.journal.step(step).and_then(|step| step.started_at).unwrap_or(facts.now);
                let left =
                    (started + delta(plan::timeout(spec)) - facts.now).to_std().ok().filter(|left| !left.is_zero());
                match left {
                    None if !unlimited => {
                        let took = duration::format(plan::timeout(spec));
                        let message = format!("nobody said Resume within {took}: {reason}");
                        Event::StepFailed { step, reason: DEADLINE_EXCEEDED.into(), message, retry_at: None }
                    }
                    left => {
                        let left = left.filter(|_| !unlimited).unwrap_or(Duration::MAX);
                        return self.parked(step, &reason, standard.min(left), facts);
                    }
                }
            }
            (StepOutcome::Parked { reason, .. }, Some(undone)) => {
                let message = format!("an undoing step cannot wait for a person: {reason}");
                Event::UndoFailed { step: undone, undo: step, message, retry_at: None }
            }
            (StepOutcome::Failed { reason: PLAN_MISMATCH, message, .. }, None) => {
                Event::NeedsPerson { reason: PLAN_MISMATCH, message }
            }
            (StepOutcome::Failed { message, retryable, .. }, Some(undone)) => {
                let retry_at = retry_at.filter(|_| retryable);
                Event::UndoFailed { step: undone, undo: step, message, retry_at }
            }
            (StepOutcome::Failed { message, retryable, .. }, None) if call.mode == StepMode::Prove => {
                Event::StepNotApplied { step, message, retry_at: retry_at.filter(|_| retryable) }
            }
            (StepOutcome::Failed { reason, message, retryable }, None) => {
                Event::StepFailed { step, reason: reason.into(), message, retry_at: retry_at.filter(|_| retryable) }
            }
            (StepOutcome::NotApplied { message }, None) if call.mode == StepMode::Prove => {
                Event::StepNotApplied { step, message, retry_at }
            }
            (StepOutcome::NotApplied { message }, None) => {
                Event::StepFailed { step, reason: "NotApplied".into(), message, retry_at }
            }
            (StepOutcome::NotApplied { message }, Some(undone)) => {
                Event::UndoFailed { step: undone, undo: step, message, retry_at }
            }
            (StepOutcome::Unknown { message }, None) => Event::StepUnknown { step, message },
            (StepOutcome::Unknown { message }, Some(undone)) => {
                Event::UndoFailed { step: undone, undo: step, message, retry_at: None }
            }
        };
        self.repeated = false;
        self.apply(&event, facts.now)
    }

    /// What the test hooks want instead of calling the manager.
    pub fn injected(&self, call: Call) -> Option<StepOutcome> {
        let plan = self.journal.plan()?;
        let (name, hook) = match call.undoes {
            None => (&plan.steps[call.step].name, &self.faults.fail),
            Some(undone) => (&plan.steps[undone].name, &self.faults.fail_undo),
        };
        (hook.as_ref() == Some(name)).then(|| StepOutcome::fatal("Injected", format!("a test makes {name} fail here")))
    }

    /// The clean-up has answered. A clean-up that fails is tried again: ending without it would leave something running.
    pub fn finished(&mut self, outcome: StepOutcome, standard: Duration, facts: &Facts) {
        match outcome {
            StepOutcome::Done { .. } => self.cleaned = true,
            StepOutcome::Waiting { reason, retry } => {
                self.cleans_up(&reason, retry.delay(standard), facts);
            }
            StepOutcome::Parked { reason: message, .. }
            | StepOutcome::Failed { message, .. }
            | StepOutcome::NotApplied { message }
            | StepOutcome::Unknown { message } => {
                self.cleans_up(&message, RetryClass::ProgressPoll.delay(standard), facts);
            }
        }
    }

    /// The lock was given back, or is not ours any more.
    pub fn released(&mut self, facts: &mut Facts) -> Result<(), Illegal> {
        facts.lock = LockSeen::Free;
        if self.journal.lock().is_none() {
            return Ok(());
        }
        self.apply(&Event::LockReleased, facts.now)
    }

    /// A step waits for a person. The first time this is written and the lock shows it; then it rests.
    fn parked(&mut self, step: usize, reason: &str, after: Duration, facts: &Facts) -> Result<(), Illegal> {
        let journal = &self.journal.status.steps[step];
        if journal.resumed_by.is_none() && journal.parked_at.is_none() {
            self.apply(&Event::StepParked { step, message: reason.to_owned() }, facts.now)?;
        }
        let shown = matches!(facts.lock, LockSeen::Ours { shows: Shows { parked: true, .. }, .. });
        if self.journal.lock().is_none() || shown || self.journal.parked().is_none() {
            self.wait_in(step, reason, after, facts);
        }
        Ok(())
    }

    fn wait(&mut self, message: &str, after: Duration, facts: &Facts) {
        self.rest = Some(Ask::Rest { after });
        self.tell(message, facts);
    }

    fn wait_in(&mut self, step: usize, message: &str, after: Duration, facts: &Facts) {
        self.rest = Some(Ask::Rest { after });
        let journal = &mut self.journal.status.steps[step];
        // The first thing that a step waits for is always written, later ones at intervals.
        let first = journal.waiting.is_none();
        if first || self.may_tell(facts) {
            let text: String = message.chars().take(512).collect();
            self.journal.status.steps[step].waiting = Some(text.clone());
            self.journal.status.message = Some(text);
        }
    }

    fn cleans_up(&mut self, what: &str, after: Duration, facts: &Facts) {
        self.rest = Some(Ask::Rest { after });
        if self.may_tell(facts) {
            self.journal.cleans_up(what);
        }
    }

    fn tell(&mut self, message: &str, facts: &Facts) {
        if self.may_tell(facts) || self.journal.status.message.is_none() {
            self.journal.status.message = Some(message.chars().take(512).collect());
        }
    }

    fn may_tell(&self, facts: &Facts) -> bool {
        facts.message_written_at.is_none_or(|at| facts.now - at >= MESSAGE_EVERY || facts.now < at)
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
