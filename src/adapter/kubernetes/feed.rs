//! One watch per kind, shared by whoever needs it.
//!
//! A feed keeps a store up to date and says on a broadcast channel which object was touched or deleted. Controllers wake on
//! these notes instead of opening watches of their own, so a kind is watched, decoded and held in memory once. A feed that
//! fails (a missing kind, a forbidden list) retries by itself and disturbs nobody: in kube's controller an error of any
//! watched kind pauses every trigger.

use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt, controller,
        reflector::{ObjectRef, Store, store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use std::{borrow::Cow, fmt::Debug, hash::Hash, sync::Arc, time::Duration};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::index::Index;
use crate::adapter::metrics::metrics;

/// How many notes a slow listener may fall behind before it is told to look at everything.
const NOTES: usize = 4096;

/// Something happened to an object of a watched kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// `OpenBaoCluster`, `Pod`, …
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The cluster it belongs to: its own name for a cluster, `spec.cluster` or the label otherwise.
    pub cluster: Option<String>,
    /// The operation it belongs to, by label.
    pub operation: Option<String>,
    /// It is gone.
    pub deleted: bool,
}

/// The channel that all feeds of one scope share.
#[derive(Clone, Debug)]
pub struct Notes(broadcast::Sender<Touched>);

impl Default for Notes {
    fn default() -> Self {
        Self(broadcast::channel(NOTES).0)
    }
}

impl Notes {
    /// Tells everybody. Nobody listening is fine.
    pub fn tell(&self, touched: Touched) {
        drop(self.0.send(touched));
    }

    /// The objects of kind `K` to reconcile: `pick` translates a note, `all` answers when notes were missed.
    pub fn wakes<K>(
        &self,
        pick: impl Fn(&Touched) -> Vec<ObjectRef<K>> + Send + 'static,
        all: impl Fn() -> Vec<ObjectRef<K>> + Send + 'static,
    ) -> impl Stream<Item = ObjectRef<K>> + Send + 'static
    where
        K: Resource<DynamicType = ()> + 'static,
    {
        stream::unfold(self.0.subscribe(), |mut notes| async move {
            let received = match notes.recv().await {
                Ok(touched) => Ok(touched),
                Err(broadcast::error::RecvError::Lagged(missed)) => Err(missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((received, notes))
        })
        .flat_map(move |received| {
            stream::iter(match received {
                Ok(touched) => pick(&touched),
                Err(missed) => {
                    tracing::warn!(missed, "fell behind on watch events: looking at every object");
                    all()
                }
            })
        })
        .inspect(queued)
    }
}

/// Counts an object that goes into its controller's queue.
pub fn queued<K>(object: &ObjectRef<K>)
where
    K: Resource<DynamicType = ()>,
{
    if let Cow::Borrowed(kind) = K::kind(&()) {
        metrics().queued(kind, object.namespace.as_deref().unwrap_or_default(), &object.name);
    }
}

/// Takes an object out of the count that its controller did not find any more.
pub fn gone<Q, E: std::error::Error + 'static>(kind: &'static str, error: &controller::Error<E, Q>)
where
    Q: std::error::Error + 'static,
{
    if let controller::Error::ObjectNotFound(object) = error {
        metrics().left_queue(kind, object.namespace.as_deref().unwrap_or_default(), &object.name);
    }
}

/// What a feed reports of an object beside its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ties {
    /// See [`Touched::cluster`].
    pub cluster: Option<String>,
    /// See [`Touched::operation`].
    pub operation: Option<String>,
}

/// What a feed makes of an object of its kind.
#[derive(Debug)]
pub struct Look<K> {
    /// What it belongs to.
    pub ties: fn(&K) -> Ties,
    /// Takes off what nobody reads, before it is remembered.
    pub slim: fn(&mut K),
    /// Where its objects are found by their cluster, if they are looked for like that.
    pub index: Option<Index>,
}

/// Managed fields are often the larger half of an object, and hardly anything is decided by them.
pub fn forget_managers<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Starts watching `K` until `stop`. Objects that cannot be read as `K` (written before a rule existed) are reported to
/// `malformed` and left out; the others are not disturbed.
pub fn start<K>(
    api: Api<DeserializeGuard<K>>,
    selector: watcher::Config,
    notes: Notes,
    look: Look<K>,
    malformed: impl Fn(&'static str, &kube::core::error_boundary::InvalidObject) + Send + Sync + 'static,
    stop: CancellationToken,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let Look { ties, slim, index } = look;
    let (reader, mut writer) = store::<K>();
    let kind: &'static str = Box::leak(K::kind(&()).into_owned().into_boxed_str());
    let task = async move {
        let mut events = watcher(api, selector).default_backoff().boxed();
        let mut failures = 0;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    let again = more_patience(failures);
                    failures += 1;
                    tracing::warn!(kind, error = %error, ?again, "watch failed, trying again");
                    tokio::time::sleep(again).await;
                    continue;
                }
            };
            if !matches!(event, watcher::Event::Init) {
                failures = 0;
            }
            let touched = match &event {
                watcher::Event::Apply(object) => note_guarded(kind, object, ties, false),
                watcher::Event::Delete(object) => note_guarded(kind, object, ties, true),
                // The store answers with a fresh list only when all of it is there: those listed are told then.
                watcher::Event::InitApply(_) | watcher::Event::Init | watcher::Event::InitDone => None,
            };
            if let watcher::Event::Apply(DeserializeGuard(Err(invalid)))
            | watcher::Event::InitApply(DeserializeGuard(Err(invalid))) = &event
            {
                malformed(kind, invalid);
            }
            if let Some(mut event) = valid(event, &writer.as_reader()) {
                if let watcher::Event::Apply(object) | watcher::Event::InitApply(object) = &mut event {
                    slim(object);
                }
                let before = matches!(event, watcher::Event::InitDone).then(|| writer.as_reader().state());
                if let Some(index) = &index {
                    index.before(&event, ties);
                }
                writer.apply_watcher_event(&event);
                if let Some(index) = &index {
                    index.after(&event, ties, &writer.as_reader());
                }
                match before {
                    Some(before) => relisted(kind, &before, &writer.as_reader(), ties).for_each(|one| notes.tell(one)),
                    None => touched.into_iter().for_each(|one| notes.tell(one)),
                }
            }
        }
    };
    tokio::spawn(async move {
        let task = std::pin::pin!(task);
        future::select(task, std::pin::pin!(stop.cancelled())).await;
    });
    reader
}

/// What is waited after so many failures in a row, beside kube's own second. Its backoff starts over with each attempt to list
/// (the attempt itself counts as an event), so a watch that we have no right to would ask once a second for ever.
fn more_patience(failures: u32) -> Duration {
    if failures == 0 { Duration::ZERO } else { Duration::from_secs(1 << failures.min(6)) }
}

/// What is told when a fresh list has come: of each object that the store knew `before` and does not know `now` that it was deleted,
/// which it was while nobody watched; and all that there are.
fn relisted<K>(
    kind: &'static str,
    before: &[Arc<K>],
    now: &Store<K>,
    ties: fn(&K) -> Ties,
) -> impl Iterator<Item = Touched>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let gone = before.iter().filter(move |object| now.get(&ObjectRef::from_obj(object.as_ref())).is_none());
    let gone = gone.filter_map(move |object| note(kind, object.meta(), ties(object), true));
    gone.chain(now.state().into_iter().filter_map(move |object| note(kind, object.meta(), ties(&object), false)))
}

fn note_guarded<K>(
    kind: &'static str,
    object: &DeserializeGuard<K>,
    ties: fn(&K) -> Ties,
    deleted: bool,
) -> Option<Touched>
where
    K: Resource<DynamicType = ()>,
{
    match &object.0 {
        Ok(object) => note(kind, object.meta(), ties(object), deleted),
        // Unreadable, but it can still go away.
        Err(invalid) if deleted => note(kind, &invalid.metadata, Ties::default(), deleted),
        Err(_) => None,
    }
}

fn note(kind: &'static str, meta: &ObjectMeta, ties: Ties, deleted: bool) -> Option<Touched> {
    Some(Touched {
        kind,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone()?,
        cluster: ties.cluster,
        operation: ties.operation,
        deleted,
    })
}

/// The event as the store should see it. An object that became unreadable keeps its last readable form there: it still
/// exists, and whoever asks the store whether it exists must not be told otherwise.
fn valid<K>(event: watcher::Event<DeserializeGuard<K>>, reader: &Store<K>) -> Option<watcher::Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
    K::DynamicType: Hash + Eq,
{
    let last = |meta: &ObjectMeta| {
        let reference = ObjectRef::new(meta.name.as_deref()?);
        let reference = match &meta.namespace {
            Some(namespace) => reference.within(namespace),
            None => reference,
        };
        reader.get(&reference).map(Arc::unwrap_or_clone)
    };
    match event {
        watcher::Event::Apply(DeserializeGuard(Ok(object))) => Some(watcher::Event::Apply(object)),
        watcher::Event::Apply(DeserializeGuard(Err(_))) => None,
        watcher::Event::InitApply(DeserializeGuard(Ok(object))) => Some(watcher::Event::InitApply(object)),
        watcher::Event::InitApply(DeserializeGuard(Err(invalid))) => {
            last(&invalid.metadata).map(watcher::Event::InitApply)
        }
        watcher::Event::Delete(DeserializeGuard(Ok(object))) => Some(watcher::Event::Delete(object)),
        watcher::Event::Delete(DeserializeGuard(Err(invalid))) => last(&invalid.metadata).map(watcher::Event::Delete),
        watcher::Event::Init => Some(watcher::Event::Init),
        watcher::Event::InitDone => Some(watcher::Event::InitDone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn a_watch_that_is_refused_is_tried_ever_less_often_but_never_less_than_about_once_a_minute() {
        let waits: Vec<u64> = [0, 1, 2, 3, 6, 7, u32::MAX].map(|n| more_patience(n).as_secs()).into();
        assert_eq!(waits, [0, 2, 4, 8, 64, 64, 64]);
    }

    #[test]
    fn a_fresh_list_tells_of_all_that_is_there_and_of_what_went_while_nobody_watched() {
        let object = |name: &str| {
            let mut object = ConfigMap::default();
            object.metadata.name = Some(name.to_owned());
            object.metadata.namespace = Some("reef".to_owned());
            object.metadata.labels = Some([("cluster".to_owned(), "kelp".to_owned())].into());
            object
        };
        let ties = |object: &ConfigMap| Ties {
            cluster: object.metadata.labels.as_ref().and_then(|labels| labels.get("cluster").cloned()),
            operation: None,
        };
        let (reader, mut writer) = store::<ConfigMap>();
        let mut list = |names: &[&str]| -> Vec<(String, Option<String>, bool)> {
            let before = reader.state();
            writer.apply_watcher_event(&watcher::Event::Init);
            for name in names {
                writer.apply_watcher_event(&watcher::Event::InitApply(object(name)));
            }
            writer.apply_watcher_event(&watcher::Event::InitDone);
            let told = relisted("ConfigMap", &before, &reader, ties);
            let mut told: Vec<_> = told.map(|one| (one.name, one.cluster, one.deleted)).collect();
            told.sort();
            told
        };
        let told = |name: &str, deleted| (name.to_owned(), Some("kelp".to_owned()), deleted);
        assert_eq!(list(&["a", "b"]), [told("a", false), told("b", false)]);
        assert_eq!(
            list(&["b", "c"]),
            [told("a", true), told("b", false), told("c", false)],
            "whom it belonged to is told"
        );
        assert_eq!(list(&["b", "c"]), [told("b", false), told("c", false)], "once");
    }
}
