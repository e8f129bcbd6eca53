//! The end: clean up, give the lock back unless somebody is to decide about it first, and write the phase.

use super::{
    super::{COMPENSATION_FAILED, DELETED_UNKNOWN, LOCK_LOST, machine::Event},
    Ask, Facts, LockSeen, Move, Run,
};
use crate::api::operation::OperationPhase;

impl Run {
    pub(super) fn close(&self, ending: OperationPhase, facts: &Facts) -> Move {
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

    pub(super) fn after_the_end(&self, facts: &Facts) -> Move {
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
}
