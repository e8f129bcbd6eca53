//! What a restore shows of the operation that does its work.

use crate::api::operation::{OpenBaoOperationStatus, OperationPhase};
use crate::api::restore::RestorePhase;

/// The phase that an operation's journal stands for. The lock divides: before it nothing is touched.
pub fn phase_of(operation: &OpenBaoOperationStatus) -> RestorePhase {
    match operation.phase {
        OperationPhase::Pending => RestorePhase::Validating,
        OperationPhase::Running | OperationPhase::Recovering => match operation.lock {
            None => RestorePhase::Validating,
            Some(_) => RestorePhase::Running,
        },
        OperationPhase::Unknown => RestorePhase::Unknown,
        OperationPhase::Succeeded => RestorePhase::Completed,
        OperationPhase::ConstraintFailed
        | OperationPhase::Failed
        | OperationPhase::RolledBack
        | OperationPhase::Cancelled => RestorePhase::Failed,
    }
}

/// Phases only move forward: one that looks back (a stale journal, a resumed operation) changes nothing. Nothing follows
/// a terminal one.
pub fn forward(current: RestorePhase, next: RestorePhase) -> RestorePhase {
    if rank(next) > rank(current) { next } else { current }
}

const fn rank(phase: RestorePhase) -> u8 {
    match phase {
        RestorePhase::Pending => 0,
        RestorePhase::Validating => 1,
        RestorePhase::Running => 2,
        RestorePhase::Unknown => 3,
        RestorePhase::Completed | RestorePhase::Failed => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operation::LockRecord;

    const ALL: [RestorePhase; 6] = [
        RestorePhase::Pending,
        RestorePhase::Validating,
        RestorePhase::Running,
        RestorePhase::Unknown,
        RestorePhase::Completed,
        RestorePhase::Failed,
    ];

    #[test]
    fn a_restore_is_validating_until_its_operation_has_the_lock() {
        let mut status = OpenBaoOperationStatus { phase: OperationPhase::Running, ..Default::default() };
        assert_eq!(phase_of(&status), RestorePhase::Validating);
        status.lock = Some(LockRecord::default());
        assert_eq!(phase_of(&status), RestorePhase::Running);
    }

    #[test]
    fn every_end_of_an_operation_is_an_end_of_the_restore_and_unknown_is_none() {
        for (operation, restore) in [
            (OperationPhase::Succeeded, RestorePhase::Completed),
            (OperationPhase::Failed, RestorePhase::Failed),
            (OperationPhase::ConstraintFailed, RestorePhase::Failed),
            (OperationPhase::Cancelled, RestorePhase::Failed),
            (OperationPhase::RolledBack, RestorePhase::Failed),
            (OperationPhase::Unknown, RestorePhase::Unknown),
        ] {
            let status = OpenBaoOperationStatus { phase: operation, ..Default::default() };
            let phase = phase_of(&status);
            assert_eq!(phase, restore);
            assert_eq!(phase.is_terminal(), operation.is_terminal());
        }
    }

    #[test]
    fn phases_never_move_back_and_nothing_follows_the_end() {
        for from in ALL {
            for to in ALL {
                let reached = forward(from, to);
                assert!(rank(reached) >= rank(from));
                if from.is_terminal() {
                    assert_eq!(reached, from);
                }
            }
        }
        assert_eq!(forward(RestorePhase::Unknown, RestorePhase::Running), RestorePhase::Unknown);
        assert_eq!(forward(RestorePhase::Unknown, RestorePhase::Completed), RestorePhase::Completed);
    }
}
