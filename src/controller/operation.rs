//! `OpenBaoOperation`: whatever is to be done with one is decided and done by the saga engine; here is what wakes it.
//!
//! An operation is looked at when it changes, when a Job or pod of it changes, when its cluster changes (so a lock that
//! is given back wakes whoever waits for it), and when the engine asked to be called again.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::ready, stream};
use kube::{
    ResourceExt,
    runtime::{
        controller::{Action, Config, Controller},
        reflector::{ObjectRef, Store},
    },
};
use tokio_util::sync::CancellationToken;

use super::Queue;
use crate::{
    adapter::{
        Adapters,
        caches::Caches,
        kubernetes::feed::Touched,
        metrics::{Outcome, metrics},
    },
    api::operation::OpenBaoOperation,
    causes::chain,
    service::opslifecycle::{
        Manager,
        drive::{Again, DriveError, Driver, is_over},
        retry::ErrorClass,
        saga::faults::Faults,
    },
};

const KIND: &str = "OpenBaoOperation";

/// So many operations are looked at together. A look may last as long as one call of a manager.
const CONCURRENCY: u16 = 16;

struct Context {
    driver: Driver,
    turns: Queue<OpenBaoOperation>,
}

/// Runs operations until `shutdown`: those of the managers' kinds, and workflows. An operation of any other kind ends as
/// not supported.
pub async fn run(ad: Arc<Adapters>, managers: Vec<Arc<dyn Manager>>, shutdown: CancellationToken) {
    let faults = match Faults::from_environment() {
        Ok(faults) => faults,
        Err(error) => {
            tracing::error!(error = %error, "faults asked for that do not exist");
            Faults::default()
        }
    };
    run_with(ad, managers, faults, shutdown).await;
}

/// The same with faults as data, for tests that kill the process at a chosen write.
pub async fn run_with(ad: Arc<Adapters>, managers: Vec<Arc<dyn Manager>>, faults: Faults, shutdown: CancellationToken) {
    let store = ad.caches.operations.clone();
    let (all, caches) = (store.clone(), ad.caches.clone());
    let wakes = ad.caches.notes.wakes(move |touched| woken(touched, &caches), move || everything(&all));
    // Those listed before we began to listen.
    let listed = everything(&store);
    let turns = Queue::new(KIND, CONCURRENCY, store.clone(), shutdown.clone());
    let driver = Driver::new(ad, managers, faults, turns.turns.clone());
    let context = Arc::new(Context { driver, turns });
    let known = context.clone();
    Controller::for_stream(stream::pending(), store)
        .reconcile_on(stream::iter(listed).chain(wakes))
        // Whoever is due waits for its turn.
        .with_config(Config::default().concurrency(0))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(in_turn, retry, context)
        .for_each(|outcome| {
            if let Err(error) = outcome {
                known.turns.told(&error);
                tracing::debug!(error = %error, "operation");
            }
            ready(())
        })
        .await;
}

/// All of which anything is left to do: of those that are over there may be fifty times as many as there are clusters.
fn everything(store: &Store<OpenBaoOperation>) -> Vec<ObjectRef<OpenBaoOperation>> {
    let left = store.state_filter(|op| !is_over(op));
    left.iter().map(|op| ObjectRef::from_obj(op.as_ref())).collect()
}

/// The operations that a change concerns.
fn woken(touched: &Touched, caches: &Caches) -> Vec<ObjectRef<OpenBaoOperation>> {
    match touched.kind {
        KIND if touched.deleted => waiting(touched, caches),
        KIND => {
            let seen = caches.operation(&touched.namespace, &touched.name);
            let own = is_worth_a_turn(seen.as_deref());
            let own = own.then(|| ObjectRef::new(&touched.name).within(&touched.namespace));
            // And its end, for those that wait for it.
            let others = seen.filter(|op| op.has_ended()).map(|_| waiting(touched, caches));
            own.into_iter().chain(others.into_iter().flatten()).collect()
        }
        "OpenBaoCluster" => waiting(touched, caches),
        "Job" | "Pod" | "ConfigMap" => match &touched.operation {
            Some(operation) => vec![ObjectRef::new(operation).within(&touched.namespace)],
            // A server's pod: steps that wait for the cluster's members look again.
            None if touched.kind == "Pod" => waiting(touched, caches),
            None => vec![],
        },
        _ => vec![],
    }
}

/// Whether an operation that changed has to be looked at. When records are listed anew there are thousands about which nothing is
/// left to do; what the watches do not know yet is looked at in any case.
fn is_worth_a_turn(seen: Option<&OpenBaoOperation>) -> bool {
    seen.is_none_or(|op| !is_over(op))
}

/// The operations of the touched object's cluster that have not ended.
fn waiting(touched: &Touched, caches: &Caches) -> Vec<ObjectRef<OpenBaoOperation>> {
    let Some(cluster) = &touched.cluster else { return vec![] };
    let known = caches.operations_of(&touched.namespace, cluster);
    let unfinished = known.iter().filter(|op| !op.has_ended() || !op.finalizers().is_empty());
    unfinished.map(|op| ObjectRef::from_obj(op.as_ref())).collect()
}

async fn in_turn(op: Arc<OpenBaoOperation>, context: Arc<Context>) -> Result<Action, DriveError> {
    let Some((_turn, op)) = context.turns.take(op.as_ref()).await else {
        return Ok(Action::await_change());
    };
    // Boxed, so that whoever waits for its turn does not hold the room for it yet.
    Box::pin(reconcile(&op, &context)).await
}

async fn reconcile(op: &OpenBaoOperation, context: &Context) -> Result<Action, DriveError> {
    let mut measured = metrics().reconciling(KIND, &op.namespace().unwrap_or_default(), &op.name_any());
    let again = context.driver.reconcile(op).await?;
    context.turns.succeeded(op);
    match again {
        Again::After(delay) => {
            measured.ends(Outcome::Waiting);
            Ok(Action::requeue(delay))
        }
        Again::OnChange => {
            measured.ends(Outcome::Done);
            Ok(Action::await_change())
        }
    }
}

/// An error backs off per object and by its class. A lost race is no news.
fn retry(op: Arc<OpenBaoOperation>, error: &DriveError, context: Arc<Context>) -> Action {
    let class = error.class();
    let delay: Duration = context.turns.failed(&op, class);
    if class == ErrorClass::Conflict {
        tracing::debug!(error = %chain(error), "operation changed meanwhile");
    } else {
        tracing::warn!(reason = error.name(), error = %chain(error), again = ?delay, "operation");
    }
    Action::requeue(delay)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::adapter::remembered::testing::whole_and_remembered;

    #[test]
    fn a_record_about_which_nothing_is_left_to_do_takes_no_turn_and_any_other_operation_does() {
        let operation = |finalizers: Value, requests: Value, status: Value| -> OpenBaoOperation {
            let whole = json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
                "metadata": {"name": "nightly", "namespace": "reef", "finalizers": finalizers},
                "spec": {"cluster": "kelp", "operation": "Backup", "requests": requests},
                "status": status,
            });
            serde_json::from_value(whole).unwrap()
        };
        let asked = json!([{"nonce": "one", "action": "Cancel"}]);
        let answered = json!([{"nonce": "one", "action": "Cancel", "outcome": "Refused"}]);
        let ended = json!({"phase": "Succeeded"});
        for (case, operation, worth) in [
            ("it is new", operation(json!([]), json!([]), Value::Null), true),
            ("it runs", operation(json!([]), json!([]), json!({"phase": "Running"})), true),
            ("it cleans up", operation(json!(["openbao.org/operation"]), json!([]), ended.clone()), true),
            ("it was asked", operation(json!([]), asked.clone(), ended.clone()), true),
            ("it is over", operation(json!([]), json!([]), ended), false),
            (
                "it has answered",
                operation(json!([]), asked, json!({"phase": "Failed", "handledRequests": answered})),
                false,
            ),
        ] {
            for seen in whole_and_remembered([&operation]) {
                assert_eq!(is_worth_a_turn(seen.first()), worth, "{case}");
            }
        }
        assert!(is_worth_a_turn(None), "the watches may be behind");
    }
}
