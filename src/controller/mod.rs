//! One file per kind: its watches, its reconcile (a table of contents), its error policy and what it reports.

pub mod cluster;
pub mod operation;
pub mod restore;
pub mod rollout;
