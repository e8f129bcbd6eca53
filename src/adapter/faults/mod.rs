//! Faults made on purpose, between our code and the servers it talks to. Only in builds with the feature
//! `fault-injection`: the programs that tests start have it, a released image has none of this.
//!
//! A file named by [`VARIABLE`] holds the rules ([`rules`]); it is read again whenever it changes, so that a test steers a
//! running operator. Every request to the API server ([`layer`], [`watch`]), to OpenBao and to a store
//! ([`store`]) asks the one [`engine`] what is to happen to it. Writes are numbered, so that "the seventh write" is a place where a process dies.

mod engine;
mod layer;
mod rules;
mod store;
mod watch;

pub use engine::{Engine, through};
pub use layer::FaultLayer;
pub use rules::{Call, Fault, Match, Rule, RulesFile, Server};
pub use store::FaultyConnector;

/// Names the rules file; or holds the rules themselves where no file can be shared (a pod's environment).
pub const VARIABLE: &str = "OPENBAO_FAULT_RULES";
