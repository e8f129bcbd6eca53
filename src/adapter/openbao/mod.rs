//! The OpenBao HTTP client: health, leader, raft, login, policies.
//!
//! Pods are dialled by address with their TLS name, never through a Service: a request that moves data or leadership has
//! to reach the very pod that was looked at. Redirects are never followed, because a standby's redirect would carry a body
//! to a pod nobody checked. No connection outlives its call's client, so an idle cluster keeps no socket open.

mod client;
mod error;
#[cfg(test)]
pub(crate) mod fixtures;
mod snapshot;
mod types;

pub use client::{Client, Endpoint, POLL_TIMEOUT};
pub use error::{Error, Result};
pub use types::{
    AutopilotServer, AutopilotState, Health, HealthState, InitRequest, InitResponse, LeaderView, RaftConfiguration,
    RaftServer, Token,
};
