//! Kubernetes: server-side apply, tolerant watches, owner proofs, events, time conversion.
//!
//! Every request made here ends: the client is built with a read timeout and without automatic retries, because the work
//! queue retries with better knowledge ([`client`]).

pub mod apply;
pub mod classify;
pub mod client;
pub mod events;
pub mod feed;
pub mod finalizer;
pub mod index;
pub mod owner;
pub mod pods;
pub mod readable;
pub mod shorten;
pub mod time;
pub mod token;
