//! The desired cluster: observe, validate, build, apply, status.

pub mod hcl;
pub mod jwks;
pub mod names;
pub mod tls;
