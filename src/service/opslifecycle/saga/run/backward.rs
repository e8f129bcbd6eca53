//! The way back: what was done is undone in reverse order, except what something stands on that could not be undone.

use super::{
    super::{super::manager::StepMode, CANCELLED, COMPENSATION_FAILED, machine::Event, plan},
    Ask, CLOCK_SLACK, Call, Facts, Move, Run,
};
use crate::api::operation::{OperationPhase, Plan, StepState};

impl Run {
    pub(super) fn backward(&self, plan: &Plan, facts: &Facts) -> Move {
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
            let next = match status.steps[step].state {
                StepState::Compensating if status.steps[undo].state == StepState::Running => {
                    if status.steps[undo].started_at.is_some_and(|started| started > facts.now + CLOCK_SLACK) {
                        return Move::Events(vec![Event::ClockWentBack { step: undo }]);
                    }
                    Move::Ask(Ask::Call(Call { step: undo, mode: StepMode::Undo, undoes: Some(step) }))
                }
                StepState::Compensating => {
                    if let Some(after) = self.wait_left(plan, undo, facts.now) {
                        return Move::Ask(Ask::Rest { after });
                    }
                    Move::Events(vec![Event::UndoStarted { step, undo }])
                }
                StepState::Completed if !self.blocked_by_failed_undo(plan, step) => {
                    Move::Events(vec![Event::UndoStarted { step, undo }])
                }
                _ => continue,
            };
            // Undoing touches the cluster like doing: what was done under the lock is undone under it.
            return self.lock_first(plan, step, undo).unwrap_or(next);
        }
        Move::Events(vec![self.unwound()])
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

    fn unwound(&self) -> Event {
        if let Some(message) = self.journal.not_undone() {
            return Event::Ending { phase: OperationPhase::Failed, reason: COMPENSATION_FAILED.to_owned(), message };
        }
        let status = &self.journal.status;
        let cause = status.message.clone().unwrap_or_default();
        let undone = status.steps.iter().filter(|step| step.state == StepState::Compensated).count();
        let phase = status.ending.unwrap_or(OperationPhase::Failed);
        let cancelled = phase == OperationPhase::Cancelled;
        let known = self.journal.reason_of_failure().or(status.reason.as_deref()).unwrap_or("StepFailed");
        let reason = if cancelled { CANCELLED } else { known }.to_owned();
        let message = self.journal.status.cause.clone().unwrap_or(cause);
        Event::Ending { phase, reason, message: format!("{message} ({undone} steps undone)") }
    }
}
