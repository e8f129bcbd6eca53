//! One file per kind: its watches, its reconcile (a table of contents), its error policy and what it reports.

pub mod cluster;
pub mod operation;
pub mod restore;
pub mod rollout;

use std::{
    error::Error,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{
    Resource,
    runtime::{
        controller,
        reflector::{ObjectRef, Store},
    },
};
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{
    adapter::{kubernetes::feed::gone, turns::Turns},
    service::opslifecycle::retry::{ErrorBackoff, ErrorClass},
};

/// What is due at one controller: whose turn it is, and how often in a row each object has failed.
struct Queue<K: Resource<DynamicType = ()> + Clone + Debug + 'static> {
    kind: &'static str,
    store: Store<K>,
    turns: Arc<Turns>,
    failures: Mutex<ErrorBackoff<ObjectRef<K>>>,
}

impl<K: Resource<DynamicType = ()> + Clone + Debug + 'static> Queue<K>
where
    ObjectRef<K>: Hash + Eq,
{
    /// See [`Turns::new`].
    fn new(kind: &'static str, at_once: u16, store: Store<K>, stop: CancellationToken) -> Self {
        Self { kind, store, turns: Arc::new(Turns::new(kind, at_once, stop)), failures: Mutex::default() }
    }

    /// See [`Turns::take`].
    async fn take(&self, known: &K) -> Option<(SemaphorePermit<'_>, Arc<K>)> {
        let turn = self.turns.take(known, &self.store).await;
        if turn.is_none() {
            self.succeeded(known);
        }
        turn
    }

    /// It was reconciled, or it is gone.
    fn succeeded(&self, object: &K) {
        self.forget(&ObjectRef::from_obj(object));
    }

    fn forget(&self, object: &ObjectRef<K>) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).succeeded(object);
    }

    /// How long it waits after a failure.
    fn failed(&self, object: &K, class: ErrorClass) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.failed(ObjectRef::from_obj(object), class, rand::random())
    }

    /// What the controller says of an object that was to be reconciled: of one that is gone nothing is remembered.
    fn told<E: Error + 'static, Q: Error + 'static>(&self, error: &controller::Error<E, Q>) {
        gone(self.kind, error);
        if let controller::Error::ObjectNotFound(object) = error {
            let reference = ObjectRef::new(&object.name);
            self.forget(&match &object.namespace {
                Some(namespace) => reference.within(namespace),
                None => reference,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_controller_leaves_the_order_of_what_is_due_to_a_hash_table() {
        for (kind, code) in [
            ("cluster", include_str!("cluster.rs")),
            ("operation", include_str!("operation.rs")),
            ("restore", include_str!("restore.rs")),
            ("rollout", include_str!("rollout.rs")),
        ] {
            assert!(code.contains(".concurrency(0)") && code.contains("turns.take("), "{kind}");
        }
    }
}
