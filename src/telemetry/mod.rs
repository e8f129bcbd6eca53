//! Logs, metrics, health endpoints: how the outside sees this process.

pub mod fleet;
pub mod health;
pub mod logs;
pub mod requests;
pub mod server;
