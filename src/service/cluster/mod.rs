//! The desired cluster: observe, validate, build, apply, status.

pub mod apply;
pub mod bootstrap;
pub mod build;
pub mod config;
pub mod deletion;
pub mod facts;
pub mod hcl;
pub mod identity;
pub mod init;
pub mod jwks;
pub mod keys;
pub mod labels;
pub mod maintain;
pub mod memory;
pub mod names;
pub mod observe;
pub mod planes;
pub mod reconcile;
pub mod requests;
pub mod status;
pub mod supported;
pub mod tls;
pub mod upkeep;
pub mod validate;
pub mod version;
pub mod voters;
