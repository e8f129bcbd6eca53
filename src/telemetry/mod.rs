//! Logs, metrics, health endpoints.
