//! Kubernetes: server-side apply, tolerant watches, owner proofs, events, time conversion.
//!
//! Every request made here ends: the client is built with a read timeout and without automatic retries, because the work
//! queue retries with better knowledge ([`client`]).

pub mod apply;
pub mod claim;
pub mod classify;
pub mod client;
pub mod events;
pub mod feed;
pub mod finalizer;
pub mod foreign;
pub mod index;
pub mod owner;
pub mod pods;
pub mod readable;
pub mod shorten;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;
pub mod token;

use kube::{Resource, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A kind whose objects lie in namespaces, as whoever reads or watches any such kind needs it.
pub trait Namespaced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}
