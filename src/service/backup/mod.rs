//! Backups that are provably good: when one is due, what runs it, and what is kept.
//!
//! | file | what |
//! |---|---|
//! | [`decide`] | what is to be done right now: an operation, a skip, a status (pure) |
//! | [`request`] | the operations that backups are (pure) |
//! | [`schedule`] | when something is due: cron, zone, jitter (pure) |
//! | [`status`] | `status.backup`, derived from the operations (pure) |
//! | [`store`] | a target as an operation freezes it (pure) |
//! | [`jobs`] | the mover's Jobs and the objects beside them, also a restore's (pure) |
//! | [`found`] | what a Job that was found tells (pure) |

pub mod decide;
pub mod found;
pub mod jobs;
pub mod request;
pub mod schedule;
pub mod status;
pub mod store;

pub use decide::{BackupDecision, BackupFacts, Refused, Skip, TRIGGER_ANNOTATION, decide};
