//! Restores: a snapshot put back into a cluster, and proven to be there.
//!
//! `controller::restore` admits a request and creates its operation; the saga engine runs the operation's steps, which
//! live here. What is decided is decided in [`decide`], without a client and without a clock.

pub mod admission;
pub mod asked;
pub mod decide;
mod half;
pub mod hold;
mod manager;
pub mod mover;
pub mod plan;
pub mod reach;
pub mod status;
pub mod steps;
pub mod unmade;

pub use manager::Restores;
