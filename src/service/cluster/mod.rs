//! The desired cluster: observe, validate, build, apply, status.

pub mod names;
