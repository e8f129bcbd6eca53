//! An operator for OpenBao: it runs clusters, backs them up, restores them with proof, and upgrades them.
//!
//! The folders are layers, and imports point downward only:
//! binaries → [`controller`] → [`service`] (whose managers share [`service::opslifecycle`]) → [`datapath`] → [`adapter`] → [`api`].
//! Within `service`, `docs/architecture.md` names the order and its one exception, and a test holds it.
//! What decides is pure (facts and a time in, a value out); what talks to a server lives at the edges.

pub mod adapter;
pub mod api;
pub mod causes;
pub mod controller;
pub mod datapath;
pub mod kubectl;
pub mod leader;
pub mod operator;
pub mod service;
pub mod telemetry;
