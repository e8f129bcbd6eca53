//! What the operator does. Each folder is one subject: its decisions are pure, its steps act through the adapters.

pub mod backup;
pub mod cluster;
pub mod opslifecycle;
pub mod restore;
pub mod rollout;
pub mod upgrade;
