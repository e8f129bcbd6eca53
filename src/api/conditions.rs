//! The words of `status.conditions`: the types of a cluster, a restore and a rollout, and the reasons that more than one
//! subject says or reads. What only one subject says stands beside it.

/// Condition types of an `OpenBaoCluster`.
pub mod cluster {
    /// Clients are served: one active member, unsealed, all members agreed on one cluster id.
    pub const AVAILABLE: &str = "Available";
    /// Something needs a look although it may still serve; the message says what to do.
    pub const DEGRADED: &str = "Degraded";
    /// The operator is changing something.
    pub const PROGRESSING: &str = "Progressing";
    /// Certificates are present and valid.
    pub const TLS_READY: &str = "TLSReady";
    /// OpenBao itself is initialised.
    pub const INITIALIZED: &str = "OpenBaoInitialized";
    /// At least one member is sealed.
    pub const SEALED: &str = "OpenBaoSealed";
    /// Exactly one member leads.
    pub const LEADER: &str = "OpenBaoLeader";
    /// A backup runs.
    pub const BACKING_UP: &str = "BackingUp";
    /// An upgrade runs, waits, or failed.
    pub const UPGRADING: &str = "Upgrading";
    /// A restore waits or runs.
    pub const RESTORING: &str = "Restoring";
    /// Whether the set-up is fit for production, and if not, what is missing.
    pub const PRODUCTION_READY: &str = "ProductionReady";
    /// Whether every field of the spec has an effect; if not, the message names those that have none.
    pub const SUPPORTED: &str = "Supported";
    /// Whether the operator can log in to OpenBao with its own identity.
    pub const OPERATOR_ACCESS: &str = "OperatorAccess";
    /// The spec passes the checks that admission cannot make.
    pub const VALID: &str = "Valid";
    /// The operation lock: who holds it, and whether it needs a person.
    pub const OPERATION_LOCK: &str = "OperationLock";
}

/// Condition types of an `OpenBaoRestore`.
pub mod restore {
    /// Succeeded, failed, or not yet known.
    pub const COMPLETE: &str = "RestoreComplete";
    /// A foreign lock was replaced.
    pub const LOCK_OVERRIDE: &str = "OperationLockOverride";
    /// Whether the operator's own identity works in the restored data.
    pub const OPERATOR_ACCESS: &str = "OperatorAccess";
    /// The spec passes the checks that admission cannot make.
    pub const VALID: &str = "Valid";
}

/// Condition types of an `OpenBaoRollout`.
pub mod rollout {
    /// Succeeded, failed, or under way.
    pub const COMPLETE: &str = "RolloutComplete";
    /// Reason: a member failed and none goes on.
    pub const MEMBER_FAILED: &str = "MemberFailed";
    /// Reason: a person stopped it.
    pub const STOPPED: &str = "Stopped";
}

/// Reasons of `Upgrading` that only upgrades have.
pub mod upgrade {
    /// The target was aborted or rolled back and waits for a person.
    pub const HELD: &str = "TargetHeld";
    /// The last upgrade ended past its point of no return, and some member does not run its version.
    pub const UNFINISHED: &str = "Unfinished";
}

/// Reasons, in the spelling that the Go operator's users know where it has the same one.
pub mod reason {
    pub const ALL_REPLICAS_READY: &str = "AllReplicasReady";
    pub const NO_REPLICAS_READY: &str = "NoReplicasReady";
    pub const NOT_READY: &str = "NotReady";
    pub const READY: &str = "Ready";
    pub const DISABLED: &str = "Disabled";
    pub const TLS_SECRET_MISSING: &str = "TLSSecretMissing";
    pub const TLS_SECRET_INVALID: &str = "TLSSecretInvalid";
    pub const INITIALIZED: &str = "Initialized";
    pub const NOT_INITIALIZED: &str = "NotInitialized";
    pub const SEALED: &str = "Sealed";
    pub const UNSEALED: &str = "Unsealed";
    pub const LEADER_FOUND: &str = "LeaderFound";
    pub const LEADER_UNKNOWN: &str = "LeaderUnknown";
    pub const MULTIPLE_LEADERS: &str = "MultipleLeaders";
    pub const CLUSTER_ID_MISMATCH: &str = "ClusterIDMismatch";
    pub const RECONCILING: &str = "Reconciling";
    pub const RECONCILED: &str = "Reconciled";
    pub const PAUSED: &str = "Paused";
    pub const IN_PROGRESS: &str = "InProgress";
    pub const IDLE: &str = "Idle";
    pub const WAITING: &str = "Waiting";
    pub const ROOT_TOKEN_STORED: &str = "RootTokenStored";
    pub const PRODUCTION_READY: &str = "ProductionReady";
    pub const PROFILE_NOT_SET: &str = "ProfileNotSet";
    pub const DEVELOPMENT_PROFILE: &str = "DevelopmentProfile";
    pub const OPERATOR_MANAGED_TLS: &str = "OperatorManagedTLS";
    pub const STATIC_UNSEAL_IN_USE: &str = "StaticUnsealInUse";
    pub const NO_BACKUP: &str = "NoBackup";
    pub const NETWORK_EGRESS_RULES_REQUIRED: &str = "NetworkEgressRulesRequired";
    pub const AUDIT_FILE_MISSING: &str = "AuditFileMissing";
    pub const EVEN_REPLICAS: &str = "EvenReplicas";
    pub const ALL_FIELDS_SUPPORTED: &str = "AllFieldsSupported";
    pub const FIELDS_IGNORED: &str = "FieldsIgnored";
    pub const UNSAFE_TO_IGNORE: &str = "UnsafeToIgnore";
    pub const VALID: &str = "Valid";
    pub const INVALID: &str = "Invalid";
    pub const INVALID_VERSION: &str = "InvalidVersion";
    pub const DOWNGRADE_BLOCKED: &str = "DowngradeBlocked";
    pub const QUORUM_LOST: &str = "QuorumLost";
    pub const PRE_UPGRADE_BACKUP_FAILED: &str = "PreUpgradeBackupFailed";
    pub const NOT_SUPPORTED: &str = "NotSupported";
    pub const PREREQUISITES_MISSING: &str = "PrerequisitesMissing";
    pub const STORAGE_SHRINK_NOT_SUPPORTED: &str = "StorageShrinkNotSupported";
    pub const STORAGE_RESIZE_NOT_SUPPORTED: &str = "StorageResizeNotSupported";
    pub const LOGIN_WORKS: &str = "LoginWorks";
    pub const LOGIN_FAILED: &str = "LoginFailed";
    pub const LOCK_FREE: &str = "LockFree";
    pub const LOCK_HELD: &str = "LockHeld";
    pub const LOCK_ORPHANED: &str = "LockOrphaned";
    pub const OPERATION_LOCK_OVERRIDDEN: &str = "OperationLockOverridden";
    pub const RESTORE_SUCCEEDED: &str = "RestoreSucceeded";
    pub const RESTORE_FAILED: &str = "RestoreFailed";
    pub const RESTORE_UNKNOWN: &str = "RestoreUnknown";
    pub const MEMBER_MISSING: &str = "MemberMissing";
    pub const NO_WORK: &str = "NoWork";
}
