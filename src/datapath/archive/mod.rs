//! Snapshot archives: a strict reader in constant memory.

pub mod inspection;

pub use inspection::{Inspection, RaftMember, SealInfo};
