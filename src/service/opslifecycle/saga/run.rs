//! What is to be done next with an operation.
//!
//! [`Run::next`] applies whatever follows from the journal alone and stops at the first thing that needs the world: a
//! write, a call of the manager, the lock, a wait. The driver does that one thing and answers. The order is the
//! guarantee: nothing that acts is asked for while the journal differs from what is stored.

mod answers;
mod backward;
mod ending;
mod forward;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    super::{manager::StepMode, record},
    CANCELLED, CLUSTER_GONE, DELETED_UNKNOWN, LOCK_LOST, NOT_SUPPORTED, PLAN_MISMATCH,
    faults::Faults,
    machine::{Event, Illegal, Journal},
    plan, requests,
};
use crate::api::{
    common::Request,
    operation::{Direction, OpenBaoOperationStatus, OperationKind, OperationPhase},
};

/// A clock that shows less than a step's own start by more than this was set back.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(60);

/// More transitions than any journal asks for without a look at the world in between: requests, skips, the end.
const MOST_MOVES: usize = 1_000;

/// The lock as the API server showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockSeen {
    /// Nobody has it.
    Free,
    /// This operation has it.
    Ours {
        /// Its fence.
        fence: i64,
        /// What it shows.
        shows: Shows,
    },
    /// Somebody else has it.
    Foreign {
        /// Who.
        holder: String,
    },
}

/// What the lock tells others about its holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shows {
    /// Its holder waits for a person, and backups may run.
    pub parked: bool,
    /// Something that must not happen twice, or from which no way leads back, may have been done under it.
    pub committed: bool,
}

impl LockSeen {
    fn is_tenure(&self, of: i64) -> bool {
        matches!(self, Self::Ours { fence, .. } if *fence == of)
    }
}

/// What the engine knows of the world when it is asked.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The present time.
    pub now: DateTime<Utc>,
    /// The operation's object is being deleted.
    pub deleting: bool,
    /// The cluster does not exist (any more).
    pub cluster_gone: bool,
    /// The lock, freshly read.
    pub lock: LockSeen,
    /// A live, forced operation takes the lock over as soon as this one has stopped.
    pub overridden_by: Option<String>,
    /// Somebody runs operations of this kind.
    pub supported: bool,
    /// When a waiting message was last written.
    pub message_written_at: Option<DateTime<Utc>>,
}

/// What the driver is asked to do. It answers with the method named.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Write the status against the resourceVersion it was read with. [`Run::committed`].
    Commit,
    /// Gates, lineage and [`Manager::plan`](super::super::Manager::plan). [`Run::planned`].
    Plan,
    /// Read the lock again. Update the facts and [`Run::looked`].
    Look,
    /// Take the lock of the plan. [`Run::acquired`] or [`Run::blocked`].
    Acquire,
    /// Let the lock of this tenure show this. Update the facts; if the lock is not there any more, look. [`Run::looked`].
    Renew {
        /// The tenure.
        fence: i64,
        /// What it is to show.
        shows: Shows,
    },
    /// Call the manager. [`Run::answered`].
    Call(Call),
    /// Let the manager clean up. [`Run::finished`].
    Finish {
        /// The phase in which it will end.
        ending: OperationPhase,
    },
    /// Give the lock back. [`Run::released`].
    Release,
    /// Look again then, or when woken.
    Rest {
        /// How soon.
        after: Duration,
    },
    /// Wait for a person, or for a change.
    Idle,
    /// It ended, and nothing is left to do.
    Closed,
}

/// A call of the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The step that is called, by its place in the plan.
    pub step: usize,
    /// For what.
    pub mode: StepMode,
    /// The step that is undone by it.
    pub undoes: Option<usize>,
}

enum Move {
    Events(Vec<Event>),
    Ask(Ask),
}

/// One look at one operation: from reading its journal to the next wait.
#[derive(Clone, Debug)]
pub struct Run {
    journal: Journal,
    stored: OpenBaoOperationStatus,
    requests: Vec<Request>,
    faults: Faults,
    /// The `OnceOnly` attempt whose receipt was written by this very run: the only one that may act.
    fresh: Option<(usize, i32)>,
    begun: Option<(usize, i32)>,
    looked: bool,
    cleaned: bool,
    repeated: bool,
    /// The pass is to end before it begins anything that happens once.
    gives_way: bool,
    rest: Option<Ask>,
}

impl Run {
    /// Takes up the journal as it is stored.
    pub fn new(journal: Journal, requests: Vec<Request>, faults: Faults) -> Self {
        let stored = journal.status.clone();
        Self {
            journal,
            stored,
            requests,
            faults,
            fresh: None,
            begun: None,
            looked: true,
            cleaned: false,
            repeated: false,
            gives_way: false,
            rest: None,
        }
    }

    /// The journal as it is now, stored or not.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The status to be written.
    pub fn status(&self) -> &OpenBaoOperationStatus {
        &self.journal.status
    }

    /// Begins nothing any more that happens once: others wait for the turn, and between its receipt and its call nobody may go. What has
    /// come back by now is stored first.
    pub fn give_way(&mut self) {
        self.gives_way = true;
    }

    /// Where the history was told to. Not worth a write of its own.
    pub fn told(&mut self, seq: i64) {
        self.journal.status.announced = Some(seq);
        self.stored.announced = Some(seq);
    }

    /// Changes of the status beside the journal, made while planning: actor, parent, snapshot.
    pub fn status_mut(&mut self) -> &mut OpenBaoOperationStatus {
        &mut self.journal.status
    }

    /// Everything that decides how it goes on, and nothing else: two runs with the same key behave alike. For models that
    /// must tell states apart.
    #[cfg(test)]
    pub(crate) fn key(&self) -> String {
        let (journal, stored) = (key_of(&self.journal.status), key_of(&self.stored));
        let same = self.journal.status == self.stored;
        // What it was asked when it began: a later request is only seen by the next look.
        let asked = self.requests.len();
        let own = (self.fresh, self.begun, self.looked, self.cleaned, self.repeated, &self.rest, asked);
        format!("{journal} {same} {} {own:?}", if same { "" } else { &stored })
    }

    /// What is to be done next.
    pub fn next(&mut self, facts: &Facts) -> Result<Ask, Illegal> {
        for _ in 0..MOST_MOVES {
            let ask = match self.decide(facts) {
                Move::Events(events) => {
                    for event in &events {
                        self.apply(event, facts.now)?;
                    }
                    self.rest = None;
                    continue;
                }
                Move::Ask(ask) => ask,
            };
            self.journal.status.conditions = record::conditions(&self.journal.status, facts.now);
            return Ok(if self.journal.status == self.stored { ask } else { Ask::Commit });
        }
        Err(Illegal { event: "anything", why: "the journal leads in a circle".into() })
    }

    fn apply(&mut self, event: &Event, now: DateTime<Utc>) -> Result<(), Illegal> {
        self.journal.apply(event, now)?;
        if let Event::StepStarted { step, receipt: Some(_) } = event {
            self.begun = self.journal.step(*step).map(|journal| (*step, journal.attempt));
        }
        Ok(())
    }

    fn decide(&self, facts: &Facts) -> Move {
        let status = &self.journal.status;
        if let Some(request) = requests::next(&self.journal, &self.requests) {
            return Move::Events(requests::judge(&self.journal, &self.requests, request, facts.now));
        }
        if status.phase.is_terminal() {
            return self.after_the_end(facts);
        }
        if status.closing == Some(true) {
            return self.close(status.ending.unwrap_or(OperationPhase::Failed), facts);
        }
        if let Some(events) = self.disturbed(facts) {
            return Move::Events(events);
        }
        if let Some(rest) = &self.rest {
            return Move::Ask(rest.clone());
        }
        if status.phase == OperationPhase::Unknown {
            return Move::Ask(Ask::Idle);
        }
        let Some(plan) = self.journal.plan() else {
            return Move::Ask(Ask::Plan);
        };
        match status.direction {
            Direction::Forward => self.forward(plan, facts),
            Direction::Unwinding => self.backward(plan, facts),
        }
    }

    /// What overrules the plan: a cluster or a lock that is gone, a deletion, a damaged journal.
    fn disturbed(&self, facts: &Facts) -> Option<Vec<Event>> {
        let status = &self.journal.status;
        let failed = |reason: &str, message: String| {
            Some(vec![Event::Ending { phase: OperationPhase::Failed, reason: reason.to_owned(), message }])
        };
        if facts.cluster_gone && (status.plan.is_some() || facts.deleting) {
            return failed(CLUSTER_GONE, format!("cluster {} does not exist any more", self.journal.subject.cluster));
        }
        if let Some(lock) = self.journal.lock()
            && !facts.lock.is_tenure(lock.fence)
        {
            return Some(vec![Event::LockLost { committed: self.journal.committed() }]);
        }
        let lost = status.lock.as_ref().is_some_and(|lock| lock.lost_at.is_some());
        if lost && !self.journal.may_be_past_return() {
            return failed(
                LOCK_LOST,
                "the cluster's lock went into other hands before anything irreversible was done: nothing more is touched"
                    .to_owned(),
            );
        }
        if status.phase == OperationPhase::Unknown {
            return if facts.deleting {
                failed(
                    DELETED_UNKNOWN,
                    "deleted while its outcome was unknown; the cluster's lock stays until spec.requests of the cluster says Release"
                        .to_owned(),
                )
            } else {
                None
            };
        }
        if let Some(by) = &facts.overridden_by
            && self.journal.lock().is_some()
            && self.may_be_overridden()
        {
            return failed(LOCK_LOST, format!("{by} takes over the cluster's lock by force: nothing more is touched"));
        }
        if facts.deleting && status.ending.is_none() && !self.journal.committed() {
            if let Some(event) = requests::turn_back(&self.journal, "the operation's object was deleted") {
                return Some(vec![event]);
            }
            if let Some(step) = self.journal.short_of_no_return() {
                return failed(
                    CANCELLED,
                    format!("the operation's object was deleted, and step {step} is proven to have had no effect"),
                );
            }
        }
        if !facts.supported && status.plan.is_none() {
            let message = format!("operations of kind {} are not supported yet", self.journal.subject.kind.as_str());
            let reason = NOT_SUPPORTED.to_owned();
            return Some(vec![Event::Refused { phase: OperationPhase::Failed, reason, message }]);
        }
        self.mismatch(facts).map(|message| vec![Event::NeedsPerson { reason: PLAN_MISMATCH, message }])
    }

    /// Whether the lock may be taken from this operation by force.
    fn may_be_overridden(&self) -> bool {
        may_be_overridden(&self.journal)
    }

    fn mismatch(&self, facts: &Facts) -> Option<String> {
        let status = &self.journal.status;
        let plan = status.plan.as_ref()?;
        if status.plan_hash.as_deref() != Some(plan::hash(plan, &status.inputs).as_str()) {
            return Some("the frozen plan is not what it was when the operation started: say Abandon, or put it back and say Resume".into());
        }
        let in_step = plan.steps.len() == status.steps.len()
            && plan.steps.iter().zip(&status.steps).all(|(planned, step)| planned.name == step.name);
        if !in_step || plan::order(plan).is_err() {
            return Some("the journal's steps are not those of the frozen plan: say Abandon".into());
        }
        if !facts.supported {
            return Some(format!(
                "this version of the operator does not run operations of kind {}: say Abandon, or Resume with a version that does",
                self.journal.subject.kind.as_str()
            ));
        }
        None
    }
}

/// What of a journal decides how it goes on: no texts, no times, no history. A write may change only those.
#[cfg(test)]
pub(crate) fn key_of(status: &OpenBaoOperationStatus) -> String {
    let steps: Vec<_> = status
        .steps
        .iter()
        .map(|step| {
            (step.state, step.attempt, step.receipt.is_some(), step.parked_at.is_some(), step.resumed_by.is_some())
        })
        .collect();
    let lock = status.lock.as_ref().map(|lock| (lock.fence, lock.released_at.is_some(), lock.lost_at.is_some()));
    let handled: Vec<_> = status.handled_requests.iter().map(|handled| (&handled.nonce, handled.outcome)).collect();
    let way = (status.phase, status.direction, status.ending, status.closing, &status.reason);
    let past = (status.plan.is_some(), status.point_of_no_return_at.is_some());
    format!("{way:?} {past:?} {steps:?} {lock:?} {handled:?}")
}

/// Whether a forced operation may take the lock from this one: never from a restore, never once something irreversible
/// may have happened.
pub fn may_be_overridden(journal: &Journal) -> bool {
    journal.subject.kind != OperationKind::Restore
        && journal.status.point_of_no_return_at.is_none()
        && !journal.committed()
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
