//! The edges: every request to a server leaves from here, with a timeout.

pub mod kubernetes;
pub mod leadership;
pub mod metrics;
pub mod objectstore;
pub mod openbao;
pub mod operationlock;
pub mod settings;
