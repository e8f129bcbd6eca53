//! What is to be done next with an operation.
//!
//! [`Run::next`] applies whatever follows from the journal alone and stops at the first thing that needs the world: a
//! write, a call of the manager, the lock, a wait. The driver does that one thing and answers. The order is the
//! guarantee: nothing that acts is asked for while the journal differs from what is stored.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    super::{
        audit::{Fields, add_held_audit_fields},
        manager::{Planned, Refusal, RefusalPhase, StepMode, StepOutcome},
        record,
        retry::RetryClass,
    },
    CANCELLED, CLUSTER_GONE, COMPENSATION_FAILED, DEADLINE_EXCEEDED, DELETED_UNKNOWN, LOCK_LOST, NOT_SUPPORTED,
    PLAN_MISMATCH, STUCK,
    faults::Faults,
    machine::{Event, Illegal, Journal},
    plan, requests,
};
use crate::{
    adapter::operationlock::HeldError,
    api::{
        common::Request,
        operation::{
            Direction, OpenBaoOperationStatus, OperationKind, OperationPhase, Plan, Receipt, StepKind, StepState,
        },
    },
};

/// A waiting message that changed is not written more often than this: it is news, not journal.
const MESSAGE_EVERY: TimeDelta = TimeDelta::seconds(10);
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
    /// Something that must not happen twice may have been done under it.
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
        let own = (self.fresh, self.begun, self.looked, self.cleaned, self.repeated, &self.rest);
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
        if lost && !self.journal.committed() {
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
        if facts.deleting
            && status.ending.is_none()
            && !self.journal.committed()
            && let Some(event) = requests::turn_back(&self.journal, "the operation's object was deleted")
        {
            return Some(vec![event]);
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

    fn forward(&self, plan: &Plan, facts: &Facts) -> Move {
        let status = &self.journal.status;
        let undoing = plan::compensations(plan);
        let order = plan::order(plan).unwrap_or_default();
        if let Some(&step) = order.iter().find(|&&step| status.steps[step].state == StepState::Running) {
            return self.go_on(plan, step, facts);
        }
        if let Some(&step) = order.iter().find(|&&step| status.steps[step].state == StepState::Failed) {
            return Move::Events(vec![self.fail(plan, step)]);
        }
        let over = |name: &String| {
            let state = status.steps.iter().find(|step| step.name == *name).map(|step| step.state);
            matches!(state, Some(StepState::Completed | StepState::Skipped))
        };
        let pending: Vec<usize> =
            order.iter().copied().filter(|&step| status.steps[step].state == StepState::Pending).collect();
        if pending.is_empty() {
            let unforeseen = order
                .iter()
                .find(|&&step| !matches!(status.steps[step].state, StepState::Completed | StepState::Skipped));
            if let Some(&step) = unforeseen {
                let message = format!(
                    "step {} is {} although the operation goes forward: say Abandon",
                    plan.steps[step].name,
                    status.steps[step].state.as_str()
                );
                return Move::Events(vec![Event::NeedsPerson { reason: STUCK, message }]);
            }
            let steps =
                order.len() - order.iter().filter(|&&step| status.steps[step].state == StepState::Skipped).count();
            let message = format!("{steps} of {} steps done", plan.steps.len() - undoing.len());
            let phase = OperationPhase::Succeeded;
            return Move::Events(vec![Event::Ending { phase, reason: "Succeeded".into(), message }]);
        }
        let runnable: Vec<usize> =
            pending.iter().copied().filter(|&step| plan.steps[step].depends_on.iter().all(over)).collect();
        if runnable.is_empty() {
            let names: Vec<&str> = pending.iter().map(|&step| plan.steps[step].name.as_str()).collect();
            let message = format!("nothing can run although these steps are left: {}: say Abandon", names.join(", "));
            return Move::Events(vec![Event::NeedsPerson { reason: STUCK, message }]);
        }
        // One at a time, in order: a step that waits for its next attempt is not overtaken, so that undoing in reverse
        // order is also undoing in the reverse of what happened.
        let step = runnable[0];
        match self.wait_left(plan, step, facts.now) {
            None => self.start(plan, step, facts),
            Some(after) => Move::Ask(Ask::Rest { after }),
        }
    }

    /// How long until the next attempt of `step` is due. A clock that was set back does not prolong it: what is
    /// longer than the policy can ask for is not believed.
    fn wait_left(&self, plan: &Plan, step: usize, now: DateTime<Utc>) -> Option<Duration> {
        let left = (self.journal.step(step)?.next_attempt_at? - now).to_std().ok()?;
        let longest = plan::longest_delay(plan.steps[step].retry_policy.as_ref());
        (!left.is_zero() && left <= longest).then_some(left)
    }

    /// The end of a saga whose `step` was given up.
    fn fail(&self, plan: &Plan, step: usize) -> Event {
        let status = &self.journal.status;
        let why = status.steps[step].error.clone().unwrap_or_default();
        let reason = status.reason.clone().unwrap_or_else(|| "StepFailed".into());
        let message = format!("step {} failed: {why}", plan.steps[step].name);
        let phase = OperationPhase::Failed;
        if status.point_of_no_return_at.is_some() {
            let way_out = plan
                .forward_recovery
                .clone()
                .unwrap_or_else(|| "recover by a new operation with lineage.rollbackOf naming this one".into());
            return Event::Ending {
                phase,
                reason,
                message: format!("{message}. It is past its point of no return: {way_out}"),
            };
        }
        let undoable =
            |index: usize| plan.steps[index].compensate.is_some() && status.steps[index].state == StepState::Completed;
        if (0..plan.steps.len()).any(undoable) {
            Event::Unwind { ending: OperationPhase::RolledBack, reason, message }
        } else {
            Event::Ending { phase, reason, message }
        }
    }

    fn start(&self, plan: &Plan, step: usize, facts: &Facts) -> Move {
        if let Some(ask) = self.lock_first(plan, step) {
            return ask;
        }
        let once = plan.steps[step].kind == StepKind::OnceOnly;
        if let Some(ask) = self.lock_shows(false, once, facts) {
            return ask;
        }
        if once && plan.lock.is_some() && !self.looked {
            return Move::Ask(Ask::Look);
        }
        let receipt =
            once.then(|| Receipt { pod_uid: None, fence: self.journal.lock().map(|lock| lock.fence), at: facts.now });
        Move::Events(vec![Event::StepStarted { step, receipt }])
    }

    /// Whether something else comes before `step` may be touched: taking the lock, or a person.
    fn lock_first(&self, plan: &Plan, step: usize) -> Option<Move> {
        let lock = plan.lock.as_ref()?;
        let order = plan::order(plan).unwrap_or_default();
        let place = |index: usize| order.iter().position(|&at| at == index).unwrap_or(0);
        let first = lock.before.as_ref().and_then(|name| plan.steps.iter().position(|step| step.name == *name));
        if place(step) < first.map_or(0, place) {
            return None;
        }
        if self.journal.status.lock.as_ref().is_some_and(|lock| lock.lost_at.is_some()) {
            if plan.steps[step].observe_only {
                return None;
            }
            let message = format!(
                "the cluster's lock went into other hands after the point at which the effect may have happened; \
                 step {} would touch the cluster: say Resume once the lock is free, or Abandon",
                plan.steps[step].name
            );
            return Some(Move::Events(vec![Event::NeedsPerson { reason: LOCK_LOST, message }]));
        }
        self.journal.lock().is_none().then_some(Move::Ask(Ask::Acquire))
    }

    /// What the lock must tell others before this operation acts: parked or not, and before anything irreversible that it may
    /// follow. (A proof that a vanished holder did nothing irreversible rests on this.)
    fn lock_shows(&self, parked: bool, committed: bool, facts: &Facts) -> Option<Move> {
        let LockSeen::Ours { fence, shows } = facts.lock else { return None };
        let tenure = self.journal.lock()?;
        let wanted = Shows { parked, committed: committed || shows.committed };
        (tenure.fence == fence && shows != wanted).then_some(Move::Ask(Ask::Renew { fence, shows: wanted }))
    }

    /// The next call of a step that has begun.
    fn go_on(&self, plan: &Plan, step: usize, facts: &Facts) -> Move {
        let Some(journal) = self.journal.step(step) else { return Move::Ask(Ask::Idle) };
        if journal.started_at.is_some_and(|started| started > facts.now + CLOCK_SLACK) {
            return Move::Events(vec![Event::ClockWentBack { step }]);
        }
        let once = plan.steps[step].kind == StepKind::OnceOnly;
        let mode = if once && self.fresh != Some((step, journal.attempt)) { StepMode::Prove } else { StepMode::Run };
        if mode == StepMode::Run {
            if let Some(other) = self.lock_first(plan, step) {
                return other;
            }
            if let Some(other) = self.lock_shows(journal.parked_at.is_some(), false, facts) {
                return other;
            }
            // Without a lock of its own it runs under another's. Whoever that is counts on seeing this step in the journal
            // before it acts, so it acts on a look at the lock that came later.
            if plan.lock.is_none() && !self.looked {
                return Move::Ask(Ask::Look);
            }
        }
        Move::Ask(Ask::Call(Call { step, mode, undoes: None }))
    }

    fn backward(&self, plan: &Plan, facts: &Facts) -> Move {
        let status = &self.journal.status;
        let order = plan::order(plan).unwrap_or_default();
        if let Some(&step) = order.iter().find(|&&step| status.steps[step].state == StepState::Running) {
            // What has nothing to undo is stopped (the clean-up ends its Job); anything else first comes to its end.
            if plan.steps[step].compensate.is_none() && status.steps[step].receipt.is_none() {
                let message = "stopped, since the operation goes back".to_owned();
                let reason = status.reason.clone().unwrap_or_default();
                return Move::Events(vec![Event::StepFailed { step, reason, message, retry_at: None }]);
            }
            return self.go_on(plan, step, facts);
        }
        if let Some(ask) = self.lock_shows(false, false, facts) {
            return ask;
        }
        let place = |name: &str| plan.steps.iter().position(|step| step.name == name);
        for &step in order.iter().rev() {
            let Some(undo) = plan.steps[step].compensate.as_deref().and_then(place) else { continue };
            match status.steps[step].state {
                StepState::Compensating if status.steps[undo].state == StepState::Running => {
                    if status.steps[undo].started_at.is_some_and(|started| started > facts.now + CLOCK_SLACK) {
                        return Move::Events(vec![Event::ClockWentBack { step: undo }]);
                    }
                    return Move::Ask(Ask::Call(Call { step: undo, mode: StepMode::Undo, undoes: Some(step) }));
                }
                StepState::Compensating => {
                    return match self.wait_left(plan, undo, facts.now) {
                        Some(after) => Move::Ask(Ask::Rest { after }),
                        None => Move::Events(vec![Event::UndoStarted { step, undo }]),
                    };
                }
                StepState::Completed if !self.blocked_by_failed_undo(plan, step) => {
                    return Move::Events(vec![Event::UndoStarted { step, undo }]);
                }
                _ => {}
            }
        }
        Move::Events(vec![self.unwound(plan)])
    }

    /// Whether something that was built on `step` could not be undone: then `step` must stay too.
    fn blocked_by_failed_undo(&self, plan: &Plan, step: usize) -> bool {
        let mut above = vec![step];
        let mut seen = vec![false; plan.steps.len()];
        while let Some(base) = above.pop() {
            for (index, other) in plan.steps.iter().enumerate() {
                if !seen[index] && other.depends_on.contains(&plan.steps[base].name) {
                    if self.journal.status.steps[index].state == StepState::CompensationFailed {
                        return true;
                    }
                    seen[index] = true;
                    above.push(index);
                }
            }
        }
        false
    }

    fn unwound(&self, plan: &Plan) -> Event {
        let status = &self.journal.status;
        let failed: Vec<&str> = (0..plan.steps.len())
            .filter(|&step| status.steps[step].state == StepState::CompensationFailed)
            .map(|step| plan.steps[step].name.as_str())
            .collect();
        let cause = status.message.clone().unwrap_or_default();
        if failed.is_empty() {
            let undone = status.steps.iter().filter(|step| step.state == StepState::Compensated).count();
            let phase = status.ending.unwrap_or(OperationPhase::Failed);
            let cancelled = phase == OperationPhase::Cancelled;
            let reason = if cancelled { CANCELLED.to_owned() } else { status.reason.clone().unwrap_or_default() };
            let message = self.journal.status.cause.clone().unwrap_or(cause);
            return Event::Ending { phase, reason, message: format!("{message} ({undone} steps undone)") };
        }
        let message = format!(
            "could not undo {}; the cluster's lock stays. See status.steps, put it right by hand, then say Abandon to release the lock",
            failed.join(", ")
        );
        Event::Ending { phase: OperationPhase::Failed, reason: COMPENSATION_FAILED.to_owned(), message }
    }

    fn close(&self, ending: OperationPhase, facts: &Facts) -> Move {
        if let Some(rest) = &self.rest {
            return Move::Ask(rest.clone());
        }
        if !self.cleaned {
            return Move::Ask(Ask::Finish { ending });
        }
        if self.holds(facts) && !self.keeps_lock(facts) {
            return Move::Ask(Ask::Release);
        }
        Move::Events(vec![Event::Ended])
    }

    /// By the journal, or by what the cluster shows: a process that died between taking the lock and writing so leaves a lock
    /// that no journal knows of.
    fn holds(&self, facts: &Facts) -> bool {
        self.journal.lock().is_some() || matches!(facts.lock, LockSeen::Ours { .. })
    }

    /// Whether the lock stays with an operation that has ended: for a person, or for the one who takes it by force.
    fn keeps_lock(&self, facts: &Facts) -> bool {
        let reason = self.journal.status.reason.as_deref();
        match reason {
            Some(COMPENSATION_FAILED) => !facts.deleting,
            Some(DELETED_UNKNOWN) => true,
            Some(LOCK_LOST) => facts.overridden_by.is_some(),
            _ => false,
        }
    }

    fn after_the_end(&self, facts: &Facts) -> Move {
        if let Some(lock) = self.journal.lock()
            && !facts.lock.is_tenure(lock.fence)
        {
            return Move::Events(vec![Event::LockLost { committed: self.journal.committed() }]);
        }
        if self.holds(facts) && !self.keeps_lock(facts) {
            return Move::Ask(Ask::Release);
        }
        Move::Ask(Ask::Closed)
    }

    // === answers ===

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
                self.journal.status.reason = Some(refusal.reason.to_owned());
                self.wait(&refusal.message, retry.delay(standard), facts);
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

    /// The lock is in other hands.
    /// `why`: what else is to be said about it.
    pub fn blocked(&mut self, held: &HeldError, why: &str, facts: &Facts) -> Result<(), Illegal> {
        let mut fields = Fields::new();
        add_held_audit_fields(&mut fields, held);
        let more = if why.is_empty() { String::new() } else { format!(". {why}") };
        let message = format!("waiting: {held}{more}");
        self.apply(&Event::LockBlocked { message, fields }, facts.now)?;
        self.rest = Some(Ask::Rest { after: RetryClass::LockContention.delay(Duration::ZERO) });
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
                let took = crate::api::duration::format(plan::timeout(spec));
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
                        let took = crate::api::duration::format(plan::timeout(spec));
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
                self.rest = Some(Ask::Rest { after: retry.delay(standard) });
                self.tell(&format!("cleaning up: {reason}"), facts);
            }
            StepOutcome::Parked { reason: message, .. }
            | StepOutcome::Failed { message, .. }
            | StepOutcome::NotApplied { message }
            | StepOutcome::Unknown { message } => {
                self.rest = Some(Ask::Rest { after: RetryClass::ProgressPoll.delay(standard) });
                self.tell(&format!("cleaning up: {message}"), facts);
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

    fn tell(&mut self, message: &str, facts: &Facts) {
        if self.may_tell(facts) || self.journal.status.message.is_none() {
            self.journal.status.message = Some(message.chars().take(512).collect());
        }
    }

    fn may_tell(&self, facts: &Facts) -> bool {
        facts.message_written_at.is_none_or(|at| facts.now - at >= MESSAGE_EVERY || facts.now < at)
    }
}

/// What of a journal decides how it goes on: no texts, no times, no history.
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
    let past = (status.plan.is_some(), status.point_of_no_return_at.is_some(), status.announced);
    format!("{way:?} {past:?} {steps:?} {lock:?} {handled:?}")
}

/// Whether a forced operation may take the lock from this one: never from a restore, never once something irreversible
/// may have happened.
pub fn may_be_overridden(journal: &Journal) -> bool {
    journal.subject.kind != OperationKind::Restore
        && journal.status.point_of_no_return_at.is_none()
        && !journal.committed()
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
