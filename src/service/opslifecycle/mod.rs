//! What backup, restore, upgrade, rollback and rollout share: the lock, the retry classes, the audit trail, the saga
//! engine and the operation records.
//!
//! It coordinates and does not orchestrate: it never decides whether an upgrade may roll, whether a restore is valid or
//! whether a store can be reached. A [`Manager`] says what its operations consist of; the engine runs the plan under
//! the cluster's lock, writes intent before effect and result after it, and leaves a record of every transition.

mod ask;
pub mod asked;
pub mod audit;
mod children;
mod declared;
pub mod drive;
pub mod gates;
mod guests;
pub mod lineage;
pub mod manager;
pub mod override_lock;
mod paused;
mod pending;
mod preflight;
pub mod prune;
pub mod record;
pub mod retention;
pub mod retry;
pub mod saga;
mod snapshot;
mod step_down;
pub mod workflow;

pub use ask::{ask, nonce};
pub use audit::{AuditEvent, Fields, add_held_audit_fields, log_phase_transition};
pub use children::stop_children;
pub use guests::guests;
pub use manager::{FinishCall, Manager, PlanCall, Planned, Refusal, RefusalPhase, StepCall, StepMode, StepOutcome};
pub use override_lock::{Released, release_on_request};
pub use paused::paused;
pub use pending::pending;
pub use retry::RetryClass;
pub use step_down::{StepDown, tell_step_down};
