//! The audit trail: one set of keys and values in the log line, on the event and in the history.

use std::collections::BTreeMap;

/// The audit events, by the names that people filter on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AuditEvent {
    OperationLockAcquired,
    OperationLockBlocked,
    OperationLockForceAcquired,
    OperationLockReleased,
    BackupStarted,
    BackupCompleted,
    BackupFailed,
    BackupSkipped,
    RestorePhaseTransition,
    RestoreCompleted,
    RestoreFailed,
    RestoreLockLost,
    UpgradePhaseTransition,
    UpgradeCompleted,
    UpgradeFailed,
    StepDown,
    SagaStepTransition,
    RollbackStarted,
    RollbackCompleted,
    RolloutMemberTransition,
    /// Phases of operations that have no name of their own: workflows, dry runs, restore tests.
    OperationPhaseTransition,
    /// A request was acted on or refused.
    OperationRequestHandled,
    /// A record was removed by retention.
    OperationRecordPruned,
}

/// What is said beside the transition itself. Keys are fixed words; values never hold a secret.
pub type Fields = BTreeMap<&'static str, String>;
