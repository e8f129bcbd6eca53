//! What a journal says, read without changing it.

use super::{super::super::audit::AuditEvent, super::plan, Journal};
use crate::api::operation::{Direction, LockRecord, Plan, StepKind, StepState, StepStatus};

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

    /// The first step that will run under the lock, as long as none of those has begun. One that was left out did not begin.
    pub fn first_under_lock(&self) -> Option<usize> {
        let plan = self.plan()?;
        let order = plan::order(plan).ok()?;
        let before = plan.lock.as_ref()?.before.as_ref();
        let mut first = None;
        for &index in order.iter().skip_while(|&&index| before.is_some_and(|name| plan.steps[index].name != *name)) {
            let step = self.step(index)?;
            match step.state {
                StepState::Skipped => {}
                StepState::Pending if step.attempt == 0 => first = first.or(Some(index)),
                _ => return None,
            }
        }
        first
    }

    /// The step of the point of no return, when that was reached and yet not passed: every attempt at it is over and proven to
    /// have had no effect. Only of a `OnceOnly` step is that known; any other may have done half of its work. `None` too where
    /// something would have to be undone, for from there no way leads back any more.
    pub fn short_of_no_return(&self) -> Option<&str> {
        let plan = self.plan()?;
        self.status.point_of_no_return_at?;
        let steps = || plan.steps.iter().zip(&self.status.steps);
        if steps().any(|(planned, step)| planned.compensate.is_some() && step.state == StepState::Completed) {
            return None;
        }
        let (planned, step) = steps().find(|(planned, _)| Some(&planned.name) == plan.point_of_no_return.as_ref())?;
        let unused = step.state == StepState::Pending && step.receipt.is_none();
        (planned.kind == StepKind::OnceOnly && unused).then_some(planned.name.as_str())
    }

    /// Whether something irreversible has happened, or may have: the effect of a `OnceOnly` step, or what lies behind the point of
    /// no return, which a step of any other kind passes without a receipt.
    pub fn may_be_past_return(&self) -> bool {
        let passed = self.status.point_of_no_return_at.is_some() && self.short_of_no_return().is_none();
        self.committed() || passed
    }

    /// The reason of the step that was given up last. What the status says by the end of the way back may be what was waited for
    /// on it.
    pub fn reason_of_failure(&self) -> Option<&str> {
        let given_up = self.status.history.iter().rev().find(|entry| {
            entry.event == AuditEvent::SagaStepTransition.as_str() && entry.phase_to == StepState::Failed.as_str()
        })?;
        given_up.fields.get("reason").map(String::as_str)
    }

    /// What is said where something could not be undone. The lock stays with who still has it, and with nobody else.
    pub fn not_undone(&self) -> Option<String> {
        let failed = self.status.steps.iter().filter(|step| step.state == StepState::CompensationFailed);
        let failed: Vec<&str> = failed.map(|step| step.name.as_str()).collect();
        if failed.is_empty() {
            return None;
        }
        let (fate, way_out) = match &self.status.lock {
            Some(lock) if lock.lost_at.is_some() => {
                ("the cluster's lock went into other hands, so others may be at work", "put it right by hand")
            }
            Some(lock) if lock.released_at.is_none() => {
                ("the cluster's lock stays", "put it right by hand, then say Abandon to release the lock")
            }
            Some(_) | None => ("it holds no lock, so others may be at work", "put it right by hand"),
        };
        Some(format!("could not undo {}; {fate}. See status.steps, {way_out}", failed.join(", ")))
    }

    /// Whether it had ended, with its lock given back, and begins anew: nothing of it is under way, and nothing waits for it.
    pub fn begins_anew(&self) -> bool {
        let tried = |step: &StepStatus| step.state == StepState::Pending && step.attempt > 0;
        let under_way =
            |step: &StepStatus| matches!(step.state, StepState::Running | StepState::Compensating) || tried(step);
        self.status.retry_count.is_some()
            && self.status.direction == Direction::Forward
            && self.status.lock.is_none()
            && self.status.point_of_no_return_at.is_none()
            && !self.status.steps.iter().any(under_way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        cluster::status::LockOperation,
        operation::{LockPlan, OpenBaoOperationStatus, StepSpec},
    };

    /// Three steps in a row, the lock before the second one, in these states.
    fn journal(states: [StepState; 3]) -> Journal {
        let mut plan = Plan::default();
        for name in ["look", "save", "send"] {
            let depends_on = plan.steps.last().map(|before: &StepSpec| before.name.clone()).into_iter().collect();
            plan.steps.push(StepSpec { name: name.into(), action: "x".into(), depends_on, ..StepSpec::default() });
        }
        plan.lock = Some(LockPlan {
            operation: LockOperation::Restore,
            holder: "openbaorestore/r".into(),
            holder_uid: "u".into(),
            before: Some("save".into()),
            force: false,
            message: None,
        });
        let steps = plan.steps.iter().zip(states);
        let steps = steps.map(|(step, state)| StepStatus { name: step.name.clone(), state, ..StepStatus::default() });
        let steps = steps.collect();
        Journal {
            status: OpenBaoOperationStatus { plan: Some(plan), steps, ..OpenBaoOperationStatus::default() },
            ..Journal::default()
        }
    }

    #[test]
    fn what_has_begun_under_the_lock_is_not_asked_to_stand_ready_for_it_again() {
        use StepState::{Completed, Pending, Skipped};
        assert_eq!(journal([Completed, Pending, Pending]).first_under_lock(), Some(1));
        assert_eq!(journal([Completed, Skipped, Pending]).first_under_lock(), Some(2), "what is left out never begins");
        assert_eq!(journal([Completed, Completed, Pending]).first_under_lock(), None, "it takes the lock again");
        let mut tried = journal([Completed, Pending, Pending]);
        tried.status.steps[1].attempt = 1;
        assert_eq!(tried.first_under_lock(), None);
    }
}
