//! The saga engine: a plan of named steps, run forward one at a time, undone in reverse order when it fails.
//!
//! Pure. [`plan`] judges a plan, [`machine`] is the table of legal transitions over the journal, [`requests`] judges what
//! people ask for, [`run`] says what is to be done next, and [`super::drive`] does it and comes back with the answer.
//! A crash loses nothing but the question: the journal in the operation's status is all that there is to know.

pub mod faults;
pub mod machine;
pub mod plan;
pub mod requests;
pub mod run;

#[cfg(test)]
mod model_tests;

/// The reason of a step whose action is not known, or of a plan that changed: the engine stops and does not guess.
pub const PLAN_MISMATCH: &str = "PlanMismatch";
/// The reason of an operation whose lock went into other hands.
pub const LOCK_LOST: &str = "LockLost";
/// The reason of an operation that could not be undone entirely.
pub const COMPENSATION_FAILED: &str = "CompensationFailed";
/// The reason of a saga in which nothing can run any more although something is left.
pub const STUCK: &str = "Stuck";
/// The reason of a step that took too long.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// The reason of a `OnceOnly` step whose outcome cannot be proven.
pub const OUTCOME_UNKNOWN: &str = "OutcomeUnknown";
/// The reason of an operation that a person gave up.
pub const ABANDONED: &str = "Abandoned";
/// The reason of an operation that was cancelled.
pub const CANCELLED: &str = "Cancelled";
/// The reason of an operation whose kind nobody runs.
pub const NOT_SUPPORTED: &str = "NotSupported";
/// The reason of an operation whose cluster went away.
pub const CLUSTER_GONE: &str = "ClusterGone";
/// The reason of an operation that waits for the cluster's lock.
pub const WAITING_FOR_LOCK: &str = "WaitingForLock";
/// The reason of an operation that is parked until somebody says `Resume`.
pub const PARKED: &str = "Parked";
/// The reason of an operation that was deleted while its outcome was unknown.
pub const DELETED_UNKNOWN: &str = "DeletedWhileUnknown";
