//! Backups that are provably good: when one is due, what runs it, and what is kept.
//!
//! | file | what |
//! |---|---|
//! | [`schedule`] | when something is due: cron, zone, jitter (pure) |

pub mod schedule;
