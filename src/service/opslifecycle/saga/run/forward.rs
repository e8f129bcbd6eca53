//! The way there: which step is next, and what must hold before it may act.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{
    super::{super::manager::StepMode, LOCK_LOST, STUCK, machine::Event, plan},
    Ask, CLOCK_SLACK, Call, Facts, LockSeen, Move, Run, Shows,
};
use crate::api::operation::{OperationPhase, Plan, Receipt, StepKind, StepState};

impl Run {
    pub(super) fn forward(&self, plan: &Plan, facts: &Facts) -> Move {
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
    pub(super) fn wait_left(&self, plan: &Plan, step: usize, now: DateTime<Utc>) -> Option<Duration> {
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
        if let Some(ask) = self.lock_first(plan, step, step) {
            return ask;
        }
        let once = plan.steps[step].kind == StepKind::OnceOnly;
        if once && self.gives_way {
            return Move::Ask(Ask::Rest { after: Duration::ZERO });
        }
        let no_way_back = plan.point_of_no_return.as_ref() == Some(&plan.steps[step].name);
        if let Some(ask) = self.lock_shows(false, once || no_way_back, facts) {
            return ask;
        }
        if once && plan.lock.is_some() && !self.looked {
            return Move::Ask(Ask::Look);
        }
        let receipt =
            once.then(|| Receipt { pod_uid: None, fence: self.journal.lock().map(|lock| lock.fence), at: facts.now });
        Move::Events(vec![Event::StepStarted { step, receipt }])
    }

    /// Whether something else comes before `step` may be done or undone: taking the lock, or a person. `acts` is the step that
    /// does it: on the way back the one that undoes it, else itself.
    pub(super) fn lock_first(&self, plan: &Plan, step: usize, acts: usize) -> Option<Move> {
        let lock = plan.lock.as_ref()?;
        let order = plan::order(plan).unwrap_or_default();
        let place = |index: usize| order.iter().position(|&at| at == index).unwrap_or(0);
        let first = lock.before.as_ref().and_then(|name| plan.steps.iter().position(|step| step.name == *name));
        if place(step) < first.map_or(0, place) {
            return None;
        }
        if self.journal.status.lock.as_ref().is_some_and(|lock| lock.lost_at.is_some()) {
            if plan.steps[acts].observe_only {
                return None;
            }
            let message = format!(
                "the cluster's lock went into other hands after the point at which the effect may have happened; \
                 step {} would touch the cluster: say Resume once the lock is free, or Abandon",
                plan.steps[acts].name
            );
            return Some(Move::Events(vec![Event::NeedsPerson { reason: LOCK_LOST, message }]));
        }
        self.journal.lock().is_none().then_some(Move::Ask(Ask::Acquire))
    }

    /// What the lock must tell others before this operation acts: parked or not, and before anything irreversible that it may
    /// follow: an effect that happens once, or the point of no return. (A proof that a vanished holder did nothing irreversible
    /// rests on this.)
    pub(super) fn lock_shows(&self, parked: bool, committed: bool, facts: &Facts) -> Option<Move> {
        let LockSeen::Ours { fence, shows } = facts.lock else { return None };
        let tenure = self.journal.lock()?;
        // A lock that was lost and taken again does not know of what was done under it before.
        let done = self.journal.committed() || self.journal.status.point_of_no_return_at.is_some();
        let wanted = Shows { parked, committed: committed || done || shows.committed };
        (tenure.fence == fence && shows != wanted).then_some(Move::Ask(Ask::Renew { fence, shows: wanted }))
    }

    /// The next call of a step that has begun.
    pub(super) fn go_on(&self, plan: &Plan, step: usize, facts: &Facts) -> Move {
        let Some(journal) = self.journal.step(step) else { return Move::Ask(Ask::Idle) };
        if journal.started_at.is_some_and(|started| started > facts.now + CLOCK_SLACK) {
            return Move::Events(vec![Event::ClockWentBack { step }]);
        }
        let once = plan.steps[step].kind == StepKind::OnceOnly;
        let mode = if once && self.fresh != Some((step, journal.attempt)) { StepMode::Prove } else { StepMode::Run };
        if mode == StepMode::Run {
            if let Some(other) = self.lock_first(plan, step, step) {
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
}
