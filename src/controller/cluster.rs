//! `OpenBaoCluster`: which events wake it, how often it is looked at, and what is told about it.

use super::Queue;
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            events::{News, Severity},
            feed::Touched,
        },
        metrics::{Outcome, metrics},
    },
    api::OpenBaoCluster,
    causes::chain,
    service::{
        cluster::{error::Error, memory::Memory, reconcile},
        opslifecycle::retry::{ErrorClass, jitter},
    },
};
use futures::{StreamExt, future::ready, stream};
use kube::{
    ResourceExt,
    runtime::{
        controller::{self, Action, Controller},
        reflector::ObjectRef,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Reconciles at the same time. Each waits mostly for OpenBao, at most two seconds.
const CONCURRENCY: u16 = 32;
/// After losing a race with another writer, or with our own watch: no failure, and not ever longer.
const CONFLICT: Duration = Duration::from_millis(200);

struct Context {
    ad: Arc<Adapters>,
    memory: Memory,
    turns: Queue<OpenBaoCluster>,
}

/// Reconciles clusters until `shutdown`.
pub async fn run(ad: Arc<Adapters>, shutdown: CancellationToken) {
    let store = ad.caches.clusters.clone();
    let everything = {
        let store = store.clone();
        move || store.state().iter().map(|cluster| ObjectRef::from_obj(cluster.as_ref())).collect::<Vec<_>>()
    };
    // Listening begins before the first look at the store, so that nothing falls between the two.
    let wakes = ad.caches.notes.wakes(woken, everything.clone());
    let wakes = stream::iter(everything()).chain(wakes);
    let turns = Queue::new("OpenBaoCluster", CONCURRENCY, store.clone(), shutdown.clone());
    let context = Arc::new(Context { ad, memory: Memory::default(), turns });
    let known = context.clone();
    Controller::for_stream(stream::pending(), store)
        // Whoever is due waits for its turn.
        .with_config(controller::Config::default().concurrency(0))
        .reconcile_on(wakes)
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(in_turn, failed, context)
        .for_each(|outcome| {
            if let Err(error) = outcome {
                known.turns.told(&error);
                if let controller::Error::QueueError(error) = error {
                    tracing::warn!(error = %error, "the queue of clusters failed");
                }
            }
            ready(())
        })
        .await;
}

/// Every object that belongs to a cluster wakes it; the operator's own writes come back too and find nothing to do.
fn woken(touched: &Touched) -> Vec<ObjectRef<OpenBaoCluster>> {
    let cluster = touched.cluster.as_deref().into_iter();
    cluster.map(|cluster| ObjectRef::new(cluster).within(&touched.namespace)).collect()
}

async fn in_turn(cluster: Arc<OpenBaoCluster>, context: Arc<Context>) -> Result<Action, Error> {
    let Some((_turn, cluster)) = context.turns.take(cluster.as_ref()).await else {
        return Ok(Action::await_change());
    };
    // Boxed, so that whoever waits for its turn does not hold the room for it yet.
    Box::pin(look(&cluster, &context)).await
}

async fn look(cluster: &OpenBaoCluster, context: &Context) -> Result<Action, Error> {
    let mut measured =
        metrics().reconciling("OpenBaoCluster", &cluster.namespace().unwrap_or_default(), &cluster.name_any());
    let wait = reconcile::reconcile(&context.ad, &context.memory, cluster).await?;
    context.turns.succeeded(cluster);
    if context.memory.len() > context.ad.caches.clusters.len() + 16 {
        let existing: BTreeSet<String> =
            context.ad.caches.clusters.state().iter().filter_map(|cluster| cluster.uid()).collect();
        context.memory.forget_all_but(&existing);
    }
    measured.ends(Outcome::Done);
    Ok(Action::requeue(jitter(wait, rand::random())))
}

#[allow(clippy::needless_pass_by_value)] // the signature is kube's
fn failed(cluster: Arc<OpenBaoCluster>, error: &Error, context: Arc<Context>) -> Action {
    if error.is_conflict() {
        tracing::debug!(error = chain(error), "another writer was faster");
        return Action::requeue(CONFLICT);
    }
    let text = chain(error);
    tracing::warn!(reason = error.name(), error = text, "reconcile failed");
    let again = context.turns.failed(&cluster, ErrorClass::Transient);
    let ad = context.ad.clone();
    let reason = format!("{}Failed", error.name());
    tokio::spawn(async move {
        let news = News {
            severity: Severity::Warning,
            reason,
            action: "Reconcile".to_owned(),
            note: text,
            annotations: BTreeMap::new(),
        };
        ad.events.publish(cluster.as_ref(), news).await;
    });
    Action::requeue(again)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_belongs_to_a_cluster_wakes_it_and_nothing_else_does() {
        let touched = |cluster: Option<&str>| Touched {
            kind: "Pod",
            namespace: "reef".into(),
            name: "x".into(),
            cluster: cluster.map(str::to_owned),
            operation: None,
            deleted: false,
        };
        assert_eq!(woken(&touched(Some("kelp"))), [ObjectRef::new("kelp").within("reef")]);
        assert_eq!(woken(&touched(None)), []);
    }
}
