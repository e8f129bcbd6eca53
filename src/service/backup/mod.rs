//! Backups that are provably good: when one is due, what runs it, and what is kept.
//!
//! | file | what |
//! |---|---|
//! | [`decide`] | what is to be done right now: an operation, a skip, a status (pure) |
//! | [`act`] | what that decision does to the world |
//! | [`request`] | the operations that backups are (pure) |
//! | [`schedule`] | when something is due: cron, zone, jitter (pure) |
//! | [`status`] | `status.backup`, derived from the operations (pure) |
//! | [`store`] | a target as an operation freezes it (pure) |
//! | [`jobs`] | the mover's Jobs and the objects beside them, also a restore's (pure) |
//! | [`frozen`] | the inputs of a backup as they are frozen when it starts (pure) |
//! | [`key`] | the Secret from which the servers have their static key |
//! | [`opened`] | what backups know of the key that the data is sealed with (pure) |
//! | `newest` | which backup a verification reads (pure) |
//! | [`protect`] | which backups retention must spare, and why (pure) |
//! | `records` | the cluster's operations, and the restores, as they are now, for the same |
//! | [`manager`] | plan and clean-up of each kind of backup |
//! | [`steps`], `gate`, `seal`, [`stamp`] | what the steps do |
//! | `aftermath` | what follows a mover that ended badly |
//! | [`prune`] | what the mover is ordered to remove, and when |
//! | [`rules`] | retention as the mover applies it (pure) |
//! | [`restoretest`] | whether a backup comes back: restored into a server of its own |
//! | [`mover`] | the mover's Jobs on the API server: made, looked at, stopped |
//! | [`found`] | what a Job that was found tells (pure) |
//! | [`tidy`] | what failed backups leave behind, and how long (pure) |

pub mod act;
mod aftermath;
pub mod decide;
pub mod found;
pub mod frozen;
mod gate;
pub mod jobs;
pub mod key;
pub mod manager;
pub mod mover;
mod newest;
pub mod opened;
pub mod protect;
pub mod prune;
mod records;
pub mod request;
pub mod restoretest;
pub mod rules;
pub mod schedule;
mod seal;
pub mod stamp;
pub mod status;
pub mod steps;
pub mod store;
pub mod tidy;

pub use act::{ActError, act};
pub use decide::{BackupDecision, BackupFacts, Refused, Skip, TRIGGER_ANNOTATION, decide};
pub use manager::BackupManager;
pub use restoretest::RestoreTestManager;
