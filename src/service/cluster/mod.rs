//! The desired cluster: observe, validate, build, apply, status.

pub mod config;
pub mod hcl;
pub mod jwks;
pub mod names;
pub mod observe;
pub mod supported;
pub mod tls;
pub mod validate;
