//! The table of legal transitions over the journal.
//!
//! Every change of an operation's status is one [`Event`] applied here, live and in replay alike. An event that is not
//! legal where the journal stands is a typed refusal and changes nothing: a bug or a damaged journal stops the operation
//! instead of doing harm.

mod event;
mod reading;
mod record;

use chrono::{DateTime, Utc};

use super::{
    super::audit::{AuditEvent, Fields},
    ABANDONED, COMPENSATION_FAILED, LOCK_LOST, OUTCOME_UNKNOWN, PARKED, WAITING_FOR_LOCK,
};
use crate::api::{
    common::forget_old_answers,
    operation::{
        Direction, JOURNAL_VERSION, LockRecord, OpenBaoOperationStatus, OperationKind, OperationPhase, StepKind,
        StepState, StepStatus,
    },
};
pub use event::{Event, Illegal};
pub use record::{HISTORY_HEAD, HISTORY_KEPT, bound_history};
use record::{bounded, cut};

/// Whose journal it is: stands in every entry of the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The operation's name.
    pub operation: String,
    /// The operation's UID.
    pub operation_uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its cluster.
    pub cluster: String,
    /// What it does.
    pub kind: OperationKind,
    /// Who asked for it.
    pub actor: String,
}

/// The journal of one operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Journal {
    /// What is written to the API server.
    pub status: OpenBaoOperationStatus,
    /// Whose it is.
    pub subject: Subject,
}

impl Journal {
    /// Changes the journal as `event` says, or refuses and changes nothing.
    pub fn apply(&mut self, event: &Event, now: DateTime<Utc>) -> Result<(), Illegal> {
        let mut next = self.clone();
        next.change(event, now)?;
        *self = next;
        Ok(())
    }

    #[allow(clippy::too_many_lines)] // a table is read in one piece
    fn change(&mut self, event: &Event, now: DateTime<Utc>) -> Result<(), Illegal> {
        use OperationPhase as P;
        use StepState as S;
        let phase = self.status.phase;
        let illegal = |event, why: &str| Err(Illegal { event, why: why.to_owned() });
        let after_the_end = matches!(
            event,
            Event::LockReleased
                | Event::LockGivenUp
                | Event::LockLost { .. }
                | Event::Reopened { .. }
                | Event::TurnedBack { .. }
                | Event::RequestHandled { .. }
        );
        if phase.is_terminal() && !after_the_end {
            return illegal(event.name(), &format!("the operation ended as {}", phase.as_str()));
        }
        match event {
            Event::Frozen { plan, inputs, hash } => {
                if self.status.plan.is_some() || phase != P::Pending {
                    return illegal(event.name(), "a plan is frozen once, before anything else");
                }
                self.status.journal_version = Some(JOURNAL_VERSION);
                self.status.steps = plan
                    .steps
                    .iter()
                    .map(|step| StepStatus { name: step.name.clone(), ..StepStatus::default() })
                    .collect();
                self.status.plan = Some(plan.clone());
                self.status.inputs = inputs.clone();
                self.status.plan_hash = Some(hash.clone());
                self.status.started_at = Some(now);
            }
            Event::Refused { phase: ending, reason, message } => {
                if phase != P::Pending || !matches!(ending, P::ConstraintFailed | P::Failed) {
                    return illegal(event.name(), "only an operation that has not begun can be refused");
                }
                self.status.journal_version = Some(JOURNAL_VERSION);
                self.say(reason, message);
                self.status.ending = Some(*ending);
                self.status.closing = Some(true);
            }
            Event::LockTaken { fence, acquired_at, replaced } => {
                let how = if replaced.is_some() {
                    AuditEvent::OperationLockForceAcquired
                } else {
                    AuditEvent::OperationLockAcquired
                };
                self.status.lock = Some(LockRecord {
                    fence: *fence,
                    acquired_at: *acquired_at,
                    released_at: None,
                    lost_at: None,
                    replaced: replaced.clone(),
                });
                let mut fields = Fields::from([("fence", fence.to_string())]);
                if let Some(replaced) = replaced {
                    fields.insert("replaced", replaced.clone());
                }
                // A step that runs already goes on without another word: it must not say for ever that it waits.
                if self.status.reason.as_deref() == Some(WAITING_FOR_LOCK) {
                    self.status.reason = None;
                    self.status.message = Some("has the cluster's lock and goes on".to_owned());
                }
                self.record(how, if replaced.is_some() { "foreign" } else { "free" }, "held", fields, now);
            }
            Event::LockLost { committed } => {
                let Some(lock) =
                    self.status.lock.as_mut().filter(|lock| lock.lost_at.is_none() && lock.released_at.is_none())
                else {
                    return illegal(event.name(), "it holds no lock");
                };
                lock.lost_at = Some(now);
                // It may have said that the lock stays.
                if self.status.reason.as_deref() == Some(COMPENSATION_FAILED)
                    && let Some(message) = self.not_undone()
                {
                    self.status.message = Some(cut(&message));
                }
                if self.subject.kind == OperationKind::Restore {
                    let fields = Fields::from([("reason", LOCK_LOST.to_owned()), ("committed", committed.to_string())]);
                    self.record(AuditEvent::RestoreLockLost, "held", "lost", fields, now);
                } else {
                    let fields = Fields::from([("reason", LOCK_LOST.to_owned())]);
                    self.record(AuditEvent::OperationPhaseTransition, "held", "lost", fields, now);
                }
            }
            Event::LockReleased => {
                let Some(lock) = self.status.lock.as_mut().filter(|lock| lock.released_at.is_none()) else {
                    return illegal(event.name(), "it holds no lock");
                };
                let fence = lock.fence;
                lock.released_at = Some(now);
                let fields = Fields::from([("fence", fence.to_string())]);
                self.record(AuditEvent::OperationLockReleased, "held", "free", fields, now);
            }
            Event::LockGivenUp => {
                if self.status.reason.as_deref() != Some(COMPENSATION_FAILED) || self.lock().is_none() {
                    return illegal(event.name(), "it keeps no lock");
                }
                self.status.reason = Some(ABANDONED.to_owned());
            }
            Event::StepStarted { step, receipt } => {
                if !matches!(phase, P::Pending | P::Running) || self.status.direction != Direction::Forward {
                    return illegal(event.name(), "steps only start while the operation goes forward");
                }
                if self.status.ending.is_some() {
                    return illegal(event.name(), "the operation is about to end");
                }
                let started = self.take(event, *step, &[S::Pending])?;
                if started.receipt.is_some() {
                    return illegal(event.name(), "its effect may have happened already");
                }
                started.state = S::Running;
                started.attempt += 1;
                started.started_at = Some(now);
                started.next_attempt_at = None;
                started.waiting = None;
                started.resumed_by = None;
                started.receipt.clone_from(receipt);
                let name = started.name.clone();
                let fields = Fields::from([("attempt", started.attempt.to_string())]);
                self.step_moved(*step, S::Pending, S::Running, fields, now);
                if self.plan().is_some_and(|plan| plan.point_of_no_return.as_ref() == Some(&name))
                    && self.status.point_of_no_return_at.is_none()
                {
                    self.status.point_of_no_return_at = Some(now);
                }
                self.move_to(P::Running, now);
                self.status.reason = None;
                self.status.message = Some(format!("running step {name}"));
            }
            Event::StepDone { step, output } => {
                let done = self.take(event, *step, &[S::Running])?;
                done.state = S::Completed;
                done.completed_at = Some(now);
                done.output = bounded(output);
                done.error = None;
                done.waiting = None;
                done.parked_at = None;
                self.note_artifacts(output);
                self.step_moved(*step, S::Running, S::Completed, Fields::new(), now);
            }
            Event::StepFailed { step, reason, message, retry_at } => {
                let failed = self.take(event, *step, &[S::Running])?;
                let to = if retry_at.is_some() { S::Pending } else { S::Failed };
                failed.state = to;
                failed.next_attempt_at = *retry_at;
                failed.completed_at = retry_at.is_none().then_some(now);
                failed.error = Some(cut(message));
                failed.waiting = None;
                failed.parked_at = None;
                failed.receipt = None;
                let fields = Fields::from([("reason", reason.clone()), ("error", message.clone())]);
                self.step_moved(*step, S::Running, to, fields, now);
                self.say(reason, message);
            }
            Event::StepNotApplied { step, message, retry_at } => {
                let proven = self.take(event, *step, &[S::Running])?;
                if proven.receipt.take().is_none() {
                    return illegal(event.name(), "no receipt was written");
                }
                let to = if retry_at.is_some() { S::Pending } else { S::Failed };
                proven.state = to;
                proven.next_attempt_at = *retry_at;
                proven.completed_at = retry_at.is_none().then_some(now);
                proven.error = Some(cut(message));
                proven.waiting = None;
                let fields = Fields::from([("reason", "NotApplied".to_owned()), ("error", message.clone())]);
                self.step_moved(*step, S::Running, to, fields, now);
                self.say("NotApplied", message);
            }
            Event::StepUnknown { step, message } => {
                self.take(event, *step, &[S::Running])?.error = Some(cut(message));
                self.say(OUTCOME_UNKNOWN, message);
                self.move_to(P::Unknown, now);
            }
            Event::StepParked { step, message } => {
                if phase != P::Running || self.status.direction != Direction::Forward {
                    return illegal(event.name(), "only an operation that goes forward is parked");
                }
                let parked = self.take(event, *step, &[S::Running])?;
                if parked.parked_at.is_some() || parked.resumed_by.is_some() {
                    return illegal(event.name(), "it is parked already, or was told to go on");
                }
                parked.parked_at = Some(now);
                parked.waiting = Some(cut(message));
                let fields = Fields::from([("step", parked.name.clone()), ("message", cut(message))]);
                self.say(PARKED, message);
                self.record(AuditEvent::SagaStepTransition, S::Running.as_str(), "parked", fields, now);
            }
            Event::StepResumed { step, by } => {
                let resumed = self.take(event, *step, &[S::Running])?;
                if resumed.parked_at.take().is_none() {
                    return illegal(event.name(), "it is not parked");
                }
                resumed.resumed_by = Some(by.clone());
                resumed.waiting = None;
                // However long it was parked: what it waits for from here on has a deadline of its own.
                resumed.started_at = Some(now);
                let fields = Fields::from([("step", resumed.name.clone()), ("requested_by", by.clone())]);
                self.record(AuditEvent::SagaStepTransition, "parked", S::Running.as_str(), fields, now);
                self.status.reason = None;
                self.status.message = Some(format!("resumed by {by}"));
            }
            Event::StepSkipped { step, by, why } => {
                if self.status.direction != Direction::Forward || self.status.ending.is_some() {
                    return illegal(event.name(), "the operation does not go forward");
                }
                let skipped = self.take(event, *step, &[S::Pending, S::Running])?;
                let from = skipped.state;
                if from == S::Running && skipped.receipt.is_some() {
                    return illegal(event.name(), "its effect may have happened already");
                }
                skipped.state = S::Skipped;
                skipped.completed_at = Some(now);
                skipped.skipped_by = Some(by.clone());
                skipped.next_attempt_at = None;
                skipped.waiting = None;
                skipped.parked_at = None;
                let fields = Fields::from([("requested_by", by.clone()), ("reason", why.clone())]);
                self.step_moved(*step, from, S::Skipped, fields, now);
            }
            Event::UndoStarted { step, undo } => {
                if self.status.direction != Direction::Unwinding
                    || self.status.ending.is_none()
                    || phase != P::Recovering
                {
                    return illegal(event.name(), "nothing is undone while the operation goes forward");
                }
                let from = self.take(event, *step, &[S::Completed, S::Compensating])?.state;
                let undoing = self.take(event, *undo, &[S::Pending])?;
                undoing.state = S::Running;
                undoing.attempt += 1;
                undoing.started_at = Some(now);
                undoing.next_attempt_at = None;
                undoing.waiting = None;
                let (name, attempt) = (undoing.name.clone(), undoing.attempt);
                self.take(event, *step, &[S::Completed, S::Compensating])?.state = S::Compensating;
                let undone = self.status.steps[*step].name.clone();
                if from == S::Compensating {
                    // Another attempt: what is undone stays where it was, and what undoes it begins once more.
                    let fields = Fields::from([("undoes", undone.clone()), ("attempt", attempt.to_string())]);
                    self.step_moved(*undo, S::Pending, S::Running, fields, now);
                } else {
                    let fields = Fields::from([("undo", name.clone()), ("attempt", attempt.to_string())]);
                    self.step_moved(*step, from, S::Compensating, fields, now);
                }
                self.status.message = Some(format!("undoing step {undone} by {name}"));
            }
            Event::UndoDone { step, undo, output } => {
                self.take(event, *step, &[S::Compensating])?;
                let undoing = self.take(event, *undo, &[S::Running])?;
                undoing.state = S::Completed;
                undoing.completed_at = Some(now);
                undoing.output = bounded(output);
                undoing.error = None;
                undoing.waiting = None;
                self.take(event, *step, &[S::Compensating])?.state = S::Compensated;
                self.step_moved(*step, S::Compensating, S::Compensated, Fields::new(), now);
            }
            Event::UndoFailed { step, undo, message, retry_at } => {
                let undone = self.take(event, *step, &[S::Compensating])?.name.clone();
                let undoing = self.take(event, *undo, &[S::Running])?;
                undoing.state = if retry_at.is_some() { S::Pending } else { S::Failed };
                undoing.next_attempt_at = *retry_at;
                undoing.error = Some(cut(message));
                undoing.waiting = None;
                if retry_at.is_some() {
                    let fields = Fields::from([("undoes", undone), ("error", message.clone())]);
                    self.step_moved(*undo, S::Running, S::Pending, fields, now);
                } else {
                    let failed = self.take(event, *step, &[S::Compensating])?;
                    failed.state = S::CompensationFailed;
                    failed.error = Some(cut(message));
                    let fields = Fields::from([("error", message.clone())]);
                    self.step_moved(*step, S::Compensating, S::CompensationFailed, fields, now);
                }
            }
            Event::Unwind { ending, reason, message } => {
                if self.status.direction == Direction::Unwinding || self.status.ending.is_some() {
                    return illegal(event.name(), "it is already on its way back or about to end");
                }
                if self.status.point_of_no_return_at.is_some() {
                    return illegal(event.name(), "it is past its point of no return");
                }
                if !matches!(ending, P::RolledBack | P::Cancelled | P::Failed) {
                    return illegal(event.name(), "the way back does not lead there");
                }
                self.status.direction = Direction::Unwinding;
                self.status.cause = Some(cut(message));
                self.status.ending = Some(*ending);
                self.say(reason, message);
                self.move_to(P::Recovering, now);
            }
            Event::Ending { phase: ending, reason, message } => {
                if !ending.is_terminal() {
                    return illegal(event.name(), "that is no end");
                }
                self.status.ending = Some(*ending);
                self.say(reason, message);
                if phase == P::Unknown && reason == ABANDONED {
                    self.move_to(P::Recovering, now);
                }
                self.status.closing = Some(true);
            }
            Event::Ended => {
                let (Some(ending), Some(true)) = (self.status.ending, self.status.closing) else {
                    return illegal(event.name(), "nothing said that it ends");
                };
                self.status.closing = None;
                self.status.ending = None;
                self.status.ended_at = Some(now);
                self.cleaned_up();
                self.move_to(ending, now);
            }
            Event::NeedsPerson { reason, message } => {
                self.say(reason, message);
                self.move_to(P::Unknown, now);
            }
            Event::LockBlocked { message, fields } => {
                // One entry per holder, not one per look.
                if self.status.reason.as_deref() != Some(WAITING_FOR_LOCK)
                    || self.status.message.as_ref() != Some(message)
                {
                    self.say(WAITING_FOR_LOCK, message);
                    self.record(AuditEvent::OperationLockBlocked, "wanted", "blocked", fields.clone(), now);
                }
            }
            Event::Resumed { by } => {
                if phase != P::Unknown {
                    return illegal(event.name(), "only an operation in Unknown is resumed");
                }
                if self.status.closing == Some(true) {
                    return illegal(event.name(), "it is about to end");
                }
                let back = match self.status.direction {
                    Direction::Forward => P::Running,
                    Direction::Unwinding => P::Recovering,
                };
                let plan = self.status.plan.as_ref();
                let planned = |index: usize| plan.and_then(|plan| plan.steps.get(index));
                let steps = self.status.steps.iter_mut().enumerate();
                for (index, step) in steps.filter(|(_, step)| step.state == S::Running) {
                    step.started_at = Some(now);
                    // Its effect is looked for and not brought about again: whoever decides on another attempt must know.
                    if planned(index).is_some_and(|planned| planned.kind == StepKind::OnceOnly) {
                        step.resumed_by = Some(by.clone());
                    }
                }
                // A lock that was lost is taken again before anything is touched.
                if self.status.lock.as_ref().is_some_and(|lock| lock.lost_at.is_some()) {
                    self.status.lock = None;
                }
                self.move_to(back, now);
                self.status.reason = None;
                self.status.message = Some(format!("resumed by {by}"));
            }
            Event::Reopened { by } => {
                if phase != P::Failed || self.status.direction != Direction::Forward || self.status.plan.is_none() {
                    return illegal(event.name(), "only an operation that failed and undid nothing is tried again");
                }
                if self.lock().is_some() || !self.status.steps.iter().any(|step| step.state == S::Failed) {
                    return illegal(event.name(), "no step of it failed, or it still holds its lock");
                }
                for index in 0..self.status.steps.len() {
                    if self.status.steps[index].state == S::Failed {
                        let step = &mut self.status.steps[index];
                        *step = StepStatus { name: step.name.clone(), ..StepStatus::default() };
                        let fields = Fields::from([("requested_by", by.clone())]);
                        self.step_moved(index, S::Failed, S::Pending, fields, now);
                    }
                }
                self.status.retry_count = Some(self.status.retry_count.unwrap_or(0) + 1);
                self.status.lock = None;
                self.status.ended_at = None;
                self.move_to(P::Running, now);
                self.status.reason = None;
                self.status.message = Some(format!("failed steps are tried again, as {by} asked"));
            }
            Event::RequestHandled { request, by, present } => {
                let outcome = format!("{:?}", request.outcome);
                let fields = Fields::from([
                    ("nonce", request.nonce.clone()),
                    ("action", format!("{:?}", request.action)),
                    ("requested_by", by.clone()),
                    ("message", request.message.clone()),
                ]);
                self.record(AuditEvent::OperationRequestHandled, "requested", &outcome, fields, now);
                self.status.handled_requests.push(request.clone());
                forget_old_answers(&mut self.status.handled_requests, |nonce| present.iter().any(|one| one == nonce));
            }
            Event::TurnedBack { by } => {
                if !matches!(phase, P::Succeeded | P::Failed | P::Cancelled) || self.status.rolled_back_by.is_some() {
                    return illegal(event.name(), &format!("it is {}", phase.as_str()));
                }
                self.status.rolled_back_by = Some(by.clone());
                self.say("RolledBack", &format!("operation {by} turned it back"));
                self.move_to(P::RolledBack, now);
            }
            Event::ClockWentBack { step } => {
                self.take(event, *step, &[S::Running])?.started_at = Some(now);
            }
        }
        Ok(())
    }

    /// The step `index` if it is in one of these states.
    fn take(&mut self, event: &Event, index: usize, allowed: &[StepState]) -> Result<&mut StepStatus, Illegal> {
        match self.status.steps.get_mut(index) {
            None => Err(Illegal { event: event.name(), why: format!("the plan has no step {index}") }),
            Some(step) if allowed.contains(&step.state) => Ok(step),
            Some(step) => {
                Err(Illegal { event: event.name(), why: format!("step {} is {}", step.name, step.state.as_str()) })
            }
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
