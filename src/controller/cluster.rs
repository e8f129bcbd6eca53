//! `OpenBaoCluster`: which events wake it, how often it is looked at, and what is told about it.

use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            events::{News, Severity},
            feed::{Touched, gone},
        },
        metrics::{Outcome, metrics},
    },
    api::OpenBaoCluster,
    causes::chain,
    service::cluster::{
        memory::Memory,
        reconcile::{self, Error},
    },
};
use futures::{StreamExt, stream};
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
/// The first and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// After losing a race with another writer, or with our own watch.
const CONFLICT: Duration = Duration::from_millis(200);

struct Context {
    ad: Arc<Adapters>,
    memory: Memory,
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
    let context = Arc::new(Context { ad, memory: Memory::default() });
    Controller::for_stream(stream::pending(), store)
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(wakes)
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(look, failed, context)
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                gone("OpenBaoCluster", &error);
                if let controller::Error::QueueError(error) = error {
                    tracing::warn!(error = %error, "the queue of clusters failed");
                }
            }
        })
        .await;
}

/// Every object that belongs to a cluster wakes it; the operator's own writes come back too and find nothing to do.
fn woken(touched: &Touched) -> Vec<ObjectRef<OpenBaoCluster>> {
    let cluster = touched.cluster.as_deref().into_iter();
    cluster.map(|cluster| ObjectRef::new(cluster).within(&touched.namespace)).collect()
}

async fn look(cluster: Arc<OpenBaoCluster>, context: Arc<Context>) -> Result<Action, Error> {
    let mut measured =
        metrics().reconciling("OpenBaoCluster", &cluster.namespace().unwrap_or_default(), &cluster.name_any());
    let notes = context.memory.of(&cluster.uid().unwrap_or_default());
    let wait = reconcile::reconcile(&context.ad, &context.memory, &cluster).await?;
    notes.lock().await.failures = 0;
    if context.memory.len() > context.ad.caches.clusters.len() + 16 {
        let existing: BTreeSet<String> =
            context.ad.caches.clusters.state().iter().filter_map(|cluster| cluster.uid()).collect();
        context.memory.forget_all_but(&existing);
    }
    measured.ends(Outcome::Done);
    Ok(Action::requeue(wait))
}

#[allow(clippy::needless_pass_by_value)] // the signature is kube's
fn failed(cluster: Arc<OpenBaoCluster>, error: &Error, context: Arc<Context>) -> Action {
    if error.is_conflict() {
        tracing::debug!(error = chain(error), "another writer was faster");
        return Action::requeue(CONFLICT);
    }
    let text = chain(error);
    tracing::warn!(reason = error.name(), error = text, "reconcile failed");
    let failures = match context.memory.of(&cluster.uid().unwrap_or_default()).try_lock() {
        Ok(mut notes) => {
            notes.failures = notes.failures.saturating_add(1);
            notes.failures
        }
        Err(_) => 1,
    };
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
    Action::requeue(backoff(failures))
}

/// Doubles with every failure in a row, up to five minutes.
fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(u32::MAX)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_after_failures_grows_and_ends_at_five_minutes() {
        let waits: Vec<u64> = [1, 2, 3, 9, 10, u32::MAX].map(|n| backoff(n).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 256, 300, 300]);
    }

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
