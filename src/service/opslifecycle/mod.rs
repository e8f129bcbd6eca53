//! What backup, restore, upgrade, rollback and rollout share: the lock, the retry classes, the audit trail, the saga
//! engine and the operation records.
//!
//! It coordinates and does not orchestrate: it never decides whether an upgrade may roll, whether a restore is valid or
//! whether a store can be reached. A [`Manager`] says what its operations consist of; the engine runs the plan under
//! the cluster's lock, writes intent before effect and result after it, and leaves a record of every transition.

pub mod audit;
pub mod manager;
pub mod retry;

pub use audit::{AuditEvent, Fields};
pub use manager::{FinishCall, Manager, PlanCall, Planned, Refusal, RefusalPhase, StepCall, StepMode, StepOutcome};
pub use retry::RetryClass;
