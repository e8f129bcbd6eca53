//! The table of legal transitions over the journal.
//!
//! Every change of an operation's status is one [`Event`] applied here, live and in replay alike. An event that is not
//! legal where the journal stands is a typed refusal and changes nothing: a bug or a damaged journal stops the operation
//! instead of doing harm.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use thiserror::Error;

use super::{
    super::audit::{AuditEvent, Fields, transition},
    ABANDONED, COMPENSATION_FAILED, LOCK_LOST, OUTCOME_UNKNOWN, PARKED, WAITING_FOR_LOCK,
};
use crate::api::{
    common::{HANDLED_REQUESTS_KEPT, HandledRequest},
    operation::{
        Direction, HistoryEntry, JOURNAL_VERSION, LockRecord, OpenBaoOperationStatus, OperationKind, OperationPhase,
        Plan, Receipt, StepState, StepStatus,
    },
};

/// Of a longer history the first [`HISTORY_HEAD`] and the last entries are kept.
pub const HISTORY_KEPT: usize = 160;
/// How the beginning of a long history is remembered.
pub const HISTORY_HEAD: usize = 24;
/// How many keys of an output are kept, and how many bytes of each value.
const OUTPUT_KEYS: usize = 32;
const OUTPUT_BYTES: usize = 2048;

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

/// What happened to an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The plan and its inputs are fixed.
    Frozen { plan: Plan, inputs: BTreeMap<String, String>, hash: String },
    /// It does not start at all.
    Refused { phase: OperationPhase, reason: String, message: String },
    /// Its lock was taken (or found to be still its own).
    LockTaken { fence: i64, acquired_at: DateTime<Utc>, replaced: Option<String> },
    /// Its lock is in other hands.
    LockLost { committed: bool },
    /// Its lock was given back.
    LockReleased,
    /// A person no longer wants the lock to be kept for the sake of what could not be undone.
    LockGivenUp,
    /// A step begins an attempt. For a `OnceOnly` step with the receipt that precedes the effect.
    StepStarted { step: usize, receipt: Option<Receipt> },
    /// A step is done.
    StepDone { step: usize, output: BTreeMap<String, String> },
    /// An attempt failed; without `retry_at` the step is given up.
    StepFailed { step: usize, reason: String, message: String, retry_at: Option<DateTime<Utc>> },
    /// The effect of a `OnceOnly` step is proven not to have happened; without `retry_at` the step is given up.
    StepNotApplied { step: usize, message: String, retry_at: Option<DateTime<Utc>> },
    /// Whether the effect of a step happened cannot be known.
    StepUnknown { step: usize, message: String },
    /// A running step waits for a person's `Resume`.
    StepParked { step: usize, message: String },
    /// Somebody said `Resume` to a parked step.
    StepResumed { step: usize, by: String },
    /// A step is left out.
    StepSkipped { step: usize, by: String, why: String },
    /// The undoing of a step begins an attempt.
    UndoStarted { step: usize, undo: usize },
    /// A step is undone.
    UndoDone { step: usize, undo: usize, output: BTreeMap<String, String> },
    /// The undoing failed; without `retry_at` it is given up.
    UndoFailed { step: usize, undo: usize, message: String, retry_at: Option<DateTime<Utc>> },
    /// From here on the way leads back. `ending` is the phase it leads to.
    Unwind { ending: OperationPhase, reason: String, message: String },
    /// Nothing is left but to clean up and to give the lock back (unless it is to be kept).
    Ending { phase: OperationPhase, reason: String, message: String },
    /// Everything is cleaned up.
    Ended,
    /// Only a person can say how it goes on: a changed plan, nothing that can run, a lock lost after a commit.
    NeedsPerson { reason: &'static str, message: String },
    /// The lock is in other hands and waited for.
    LockBlocked { message: String, fields: Fields },
    /// A person says: prove it again and go on.
    Resumed { by: String },
    /// A person says: try the failed steps again.
    Reopened { by: String },
    /// A request was judged. `present`: the nonces that still stand in the spec and must not be forgotten.
    RequestHandled { request: HandledRequest, by: String, present: Vec<String> },
    /// A later operation turned this one back.
    TurnedBack { by: String },
    /// A running step's clock starts anew, because this machine's clock was set back.
    ClockWentBack { step: usize },
}

/// An event that is not legal where the journal stands.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the journal does not allow {event} now: {why}")]
pub struct Illegal {
    /// The event's name.
    pub event: &'static str,
    /// What stands in its way.
    pub why: String,
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
    /// The plan, once frozen.
    pub fn plan(&self) -> Option<&Plan> {
        self.status.plan.as_ref()
    }

    /// The journal of the `index`-th step of the plan.
    pub fn step(&self, index: usize) -> Option<&StepStatus> {
        self.status.steps.get(index)
    }

    /// The running step that is parked.
    pub fn parked(&self) -> Option<usize> {
        self.status.steps.iter().position(|step| step.state == StepState::Running && step.parked_at.is_some())
    }

    /// Whether the effect of a `OnceOnly` step has happened, or may have.
    pub fn committed(&self) -> bool {
        self.status.steps.iter().any(|step| step.receipt.is_some())
    }

    /// The lock, as long as it is held as far as the journal knows.
    pub fn lock(&self) -> Option<&LockRecord> {
        self.status.lock.as_ref().filter(|lock| lock.released_at.is_none() && lock.lost_at.is_none())
    }

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
                self.record(how, if replaced.is_some() { "foreign" } else { "free" }, "held", fields, now);
            }
            Event::LockLost { committed } => {
                let Some(lock) =
                    self.status.lock.as_mut().filter(|lock| lock.lost_at.is_none() && lock.released_at.is_none())
                else {
                    return illegal(event.name(), "it holds no lock");
                };
                lock.lost_at = Some(now);
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
                let fields = Fields::from([("step", resumed.name.clone()), ("requested_by", by.clone())]);
                self.record(AuditEvent::SagaStepTransition, "parked", S::Running.as_str(), fields, now);
                self.status.reason = None;
                self.status.message = Some(format!("resumed by {by}"));
            }
            Event::StepSkipped { step, by, why } => {
                if self.status.direction != Direction::Forward || self.status.ending.is_some() {
                    return illegal(event.name(), "the operation does not go forward");
                }
                let skipped = self.take(event, *step, &[S::Pending])?;
                skipped.state = S::Skipped;
                skipped.completed_at = Some(now);
                skipped.skipped_by = Some(by.clone());
                skipped.next_attempt_at = None;
                let fields = Fields::from([("requested_by", by.clone()), ("reason", why.clone())]);
                self.step_moved(*step, S::Pending, S::Skipped, fields, now);
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
                let fields = Fields::from([("undo", name.clone()), ("attempt", attempt.to_string())]);
                self.step_moved(*step, from, S::Compensating, fields, now);
                let undone = self.status.steps[*step].name.clone();
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
                self.take(event, *step, &[S::Compensating])?;
                let undoing = self.take(event, *undo, &[S::Running])?;
                undoing.state = if retry_at.is_some() { S::Pending } else { S::Failed };
                undoing.next_attempt_at = *retry_at;
                undoing.error = Some(cut(message));
                undoing.waiting = None;
                if retry_at.is_none() {
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
                let back = match self.status.direction {
                    Direction::Forward => P::Running,
                    Direction::Unwinding => P::Recovering,
                };
                for step in self.status.steps.iter_mut().filter(|step| step.state == S::Running) {
                    step.started_at = Some(now);
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
                let mut surplus = self.status.handled_requests.len().saturating_sub(HANDLED_REQUESTS_KEPT);
                self.status.handled_requests.retain(|handled| {
                    let keep = surplus == 0 || present.contains(&handled.nonce);
                    surplus -= usize::from(!keep);
                    keep
                });
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

    fn say(&mut self, reason: &str, message: &str) {
        self.status.reason = Some(reason.to_owned());
        self.status.message = Some(cut(message));
    }

    fn move_to(&mut self, to: OperationPhase, now: DateTime<Utc>) {
        let from = self.status.phase;
        self.status.phase = to;
        let mut fields = Fields::new();
        if to.is_terminal() {
            fields.insert("reason", self.status.reason.clone().unwrap_or_default());
            fields.insert("message", self.status.message.clone().unwrap_or_default());
        }
        self.record(AuditEvent::of_phase(self.subject.kind, from, to), from.as_str(), to.as_str(), fields, now);
    }

    fn step_moved(&mut self, index: usize, from: StepState, to: StepState, mut fields: Fields, now: DateTime<Utc>) {
        fields.insert("step", self.status.steps[index].name.clone());
        self.record(AuditEvent::SagaStepTransition, from.as_str(), to.as_str(), fields, now);
    }

    fn record(&mut self, event: AuditEvent, from: &str, to: &str, mut fields: Fields, now: DateTime<Utc>) {
        fields.insert("operation", self.subject.operation.clone());
        fields.insert("operation_uid", self.subject.operation_uid.clone());
        fields.insert("kind", self.subject.kind.as_str().to_owned());
        fields.insert("cluster", self.subject.cluster.clone());
        fields.insert("namespace", self.subject.namespace.clone());
        fields.insert("actor", self.subject.actor.clone());
        let Some(mut entry) = transition(event, from, to, &fields, now) else { return };
        entry.seq = self.status.history.last().map_or(0, |entry| entry.seq).saturating_add(1);
        self.status.history.push(entry);
        bound_history(&mut self.status.history);
    }

    fn note_artifacts(&mut self, output: &BTreeMap<String, String>) {
        let artifacts = self.status.artifacts.clone().unwrap_or_default();
        let new = |key: &str, old: Option<String>| output.get(key).map(|value| cut(value)).or(old);
        let noted = crate::api::operation::Artifacts {
            key: new("key", artifacts.key),
            manifest_key: new("manifestKey", artifacts.manifest_key),
            sha256: new("sha256", artifacts.sha256),
            size_bytes: output.get("sizeBytes").and_then(|value| value.parse().ok()).or(artifacts.size_bytes),
        };
        self.status.artifacts = (noted != crate::api::operation::Artifacts::default()).then_some(noted);
    }
}

impl Event {
    /// Its name, for refusals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Frozen { .. } => "Frozen",
            Self::Refused { .. } => "Refused",
            Self::LockTaken { .. } => "LockTaken",
            Self::LockLost { .. } => "LockLost",
            Self::LockReleased => "LockReleased",
            Self::LockGivenUp => "LockGivenUp",
            Self::StepStarted { .. } => "StepStarted",
            Self::StepDone { .. } => "StepDone",
            Self::StepFailed { .. } => "StepFailed",
            Self::StepNotApplied { .. } => "StepNotApplied",
            Self::StepUnknown { .. } => "StepUnknown",
            Self::StepParked { .. } => "StepParked",
            Self::StepResumed { .. } => "StepResumed",
            Self::StepSkipped { .. } => "StepSkipped",
            Self::UndoStarted { .. } => "UndoStarted",
            Self::UndoDone { .. } => "UndoDone",
            Self::UndoFailed { .. } => "UndoFailed",
            Self::Unwind { .. } => "Unwind",
            Self::Ending { .. } => "Ending",
            Self::Ended => "Ended",
            Self::NeedsPerson { .. } => "NeedsPerson",
            Self::LockBlocked { .. } => "LockBlocked",
            Self::Resumed { .. } => "Resumed",
            Self::Reopened { .. } => "Reopened",
            Self::RequestHandled { .. } => "RequestHandled",
            Self::TurnedBack { .. } => "TurnedBack",
            Self::ClockWentBack { .. } => "ClockWentBack",
        }
    }
}

/// Keeps the beginning and the end of a long history. The numbers of the entries show what is missing.
pub fn bound_history(history: &mut Vec<HistoryEntry>) {
    let surplus = history.len().saturating_sub(HISTORY_KEPT);
    if surplus > 0 {
        history.drain(HISTORY_HEAD..HISTORY_HEAD + surplus);
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(OUTPUT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn bounded(output: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    output.iter().take(OUTPUT_KEYS).map(|(key, value)| (key.clone(), cut(value))).collect()
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
