//! The integration tests, as one program: what runs against real servers in the devcluster, and what needs none.
//!
//! A folder per subsystem, each a module here. A test that needs the devcluster asks for it with
//! [`harness::Cluster::get`], which starts it if nobody has; all other tests run anywhere.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod api;
mod backup;
mod chaos;
mod cluster;
mod datapath;
mod devcluster;
mod fuzz;
mod harness;
mod matrix;
mod opslifecycle;
mod platform;
mod restore;
mod upgrade;
