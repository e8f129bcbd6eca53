//! Whether a backup comes back: it is restored into a server of its own, in one pod that goes with everything in it.
//!
//! The living cluster is only asked what it is made of. No lock is taken, no server of it is spoken to.
//!
//! | file | what |
//! |---|---|
//! | [`manager`] | the plan, and whether it may start (pure) |
//! | [`job`] | the Job with its two containers (pure) |
//! | [`step`] | what the one step does |

pub mod job;
pub mod manager;
pub(super) mod step;

pub use manager::RestoreTestManager;
