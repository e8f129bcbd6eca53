//! Backups that are provably good: when one is due, what runs it, and what is kept.
//!
//! | file | what |
//! |---|---|
//! | [`schedule`] | when something is due: cron, zone, jitter (pure) |
//! | [`store`] | a target as an operation freezes it (pure) |
//! | [`jobs`] | the mover's Jobs and the objects beside them, also a restore's (pure) |

pub mod jobs;
pub mod schedule;
pub mod store;
