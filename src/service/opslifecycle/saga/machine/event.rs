//! What can happen to an operation, and the refusal of what cannot happen now.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use thiserror::Error;

use super::super::super::audit::Fields;
use crate::api::{
    common::HandledRequest,
    operation::{OperationPhase, Plan, Receipt},
};

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
    /// A step is left out, also one that runs and has nothing to prove.
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
