//! Going back after an upgrade, forward: OpenBao knows no way back for its data, so the servers are stopped, their volumes
//! wiped, one server of the old version started, the backup from before the upgrade restored into it, and the others join.
//!
//! Everything up to the first wipe can be undone; the snapshot is downloaded, verified and judged before, and stands ready
//! on the mover's disk when the first volume goes. The steps around the submission are those of a restore, by name.

pub mod judge;
pub mod manager;
pub mod plan;
pub mod ready;
pub mod steps;

pub use manager::RollbackManager;
