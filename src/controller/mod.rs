//! One file per kind: its watches, its reconcile (a table of contents), its error policy and what it reports.

pub mod cluster;
pub mod operation;
pub mod restore;
pub mod rollout;

use std::error::Error;

use kube::{
    Resource,
    runtime::{controller, reflector::ObjectRef},
};

/// The object that was to be reconciled and is gone: what is remembered of its failures goes too.
fn vanished<K, E, Q>(error: &controller::Error<E, Q>) -> Option<ObjectRef<K>>
where
    K: Resource<DynamicType = ()>,
    E: Error + 'static,
    Q: Error + 'static,
{
    let controller::Error::ObjectNotFound(object) = error else { return None };
    let reference = ObjectRef::new(&object.name);
    Some(match &object.namespace {
        Some(namespace) => reference.within(namespace),
        None => reference,
    })
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
