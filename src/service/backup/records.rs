//! The operations of a cluster and the restores as they are now, for whoever decides by them what is removed.
//!
//! Of years of records hardly one has changed since the watches last heard, and whole they are large: their metadata is listed, and
//! only what is not known in its present version is read.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, ResourceExt, api::ListParams, core::DeserializeGuard};
use serde::de::DeserializeOwned;

use super::jobs::Operation;
use super::mover::{MoverError, request};
use crate::adapter::{
    Adapters,
    caches::CLUSTER_LABEL,
    kubernetes::{
        client::{RequestError, timed},
        readable::Readable,
    },
};
use crate::api::{OpenBaoOperation, OpenBaoRestore};

/// So many are in memory at a time.
const PAGE: u32 = 500;

/// The operations of an operation's cluster, and those that cannot be read and may be of it.
pub(super) async fn now(ad: &Adapters, operation: &Operation) -> Result<Readable<Arc<OpenBaoOperation>>, MoverError> {
    let (namespace, cluster) = (&operation.namespace, &operation.cluster);
    let mut listed = Vec::new();
    // What a person made may name its cluster in its spec alone.
    for labels in [format!("{CLUSTER_LABEL}={cluster}"), format!("!{CLUSTER_LABEL}")] {
        let api: Api<OpenBaoOperation> = Api::namespaced(ad.client.clone(), namespace);
        let some = list(&api, ListParams::default().labels(&labels)).await;
        listed.extend(some.map_err(|source| request::<OpenBaoOperation>("list", namespace, cluster, source))?);
    }
    let caches = &ad.caches;
    let Sorted { known, unknown } =
        sort(cluster, &listed, |name| caches.operation(namespace, name), &caches.operations_of(namespace, cluster));
    let mut found = Readable { items: known, unreadable: Vec::new() };
    let api: Api<DeserializeGuard<OpenBaoOperation>> = Api::namespaced(ad.client.clone(), namespace);
    for name in unknown {
        let read = timed(api.get_opt(&name)).await;
        match read.map_err(|source| request::<OpenBaoOperation>("read", namespace, &name, source))? {
            Some(DeserializeGuard(Ok(one))) if one.spec.cluster == *cluster => found.items.push(Arc::new(one)),
            Some(DeserializeGuard(Err(one))) => found.unreadable.push(one),
            // Of another cluster, or gone.
            Some(DeserializeGuard(Ok(_))) | None => {}
        }
    }
    Ok(found)
}

/// The restores that have not ended, as they are now: also one of another cluster may read what an operation's cluster has stored.
pub(super) async fn restores(ad: &Adapters, operation: &Operation) -> Result<Readable<OpenBaoRestore>, MoverError> {
    let api: Api<OpenBaoRestore> = ad.settings.scope.api(ad.client.clone());
    let failed = |source| request::<OpenBaoRestore>("list", &operation.namespace, &operation.cluster, source);
    let listed = list(&api, ListParams::default()).await.map_err(failed)?;
    let (known, unknown) = by_version(&listed, |namespace, name| ad.caches.restore(namespace, name));
    let live = |restore: &OpenBaoRestore| !restore.status.as_ref().is_some_and(|status| status.phase.is_terminal());
    let known = known.into_iter().filter(|restore| live(restore)).map(Arc::unwrap_or_clone);
    let mut found = Readable { items: known.collect(), unreadable: Vec::new() };
    for (namespace, name) in unknown {
        let api: Api<DeserializeGuard<OpenBaoRestore>> = Api::namespaced(ad.client.clone(), &namespace);
        let read = timed(api.get_opt(&name)).await;
        let read = read.map_err(|source| request::<OpenBaoRestore>("read", &namespace, &name, source))?;
        found.add(read.into_iter().collect(), live);
    }
    Ok(found)
}

/// What tells one version of an object from another, and nothing else of it: there may be thousands.
async fn list<K>(api: &Api<K>, which: ListParams) -> Result<Vec<ObjectMeta>, RequestError>
where
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut found = Vec::new();
    let mut page = which.limit(PAGE);
    loop {
        let listed = timed(api.list_metadata(&page)).await?;
        found.extend(listed.items.into_iter().map(|object| {
            let ObjectMeta { name, namespace, uid, resource_version, .. } = object.metadata;
            ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() }
        }));
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// What is known as it is now, and the names of those that have to be read.
#[derive(Debug, Default)]
struct Sorted {
    known: Vec<Arc<OpenBaoOperation>>,
    unknown: BTreeSet<String>,
}

/// Pure. `listed`: all that may be of the cluster, by their labels. `cached`: what the watches know under a name, and `ours` all that
/// they know of the cluster.
fn sort(
    cluster: &str,
    listed: &[ObjectMeta],
    cached: impl Fn(&str) -> Option<Arc<OpenBaoOperation>>,
    ours: &[Arc<OpenBaoOperation>],
) -> Sorted {
    let mut sorted = Sorted::default();
    for live in listed {
        let name = live.name.clone().unwrap_or_default();
        match cached(&name).filter(|known| known.metadata.uid == live.uid) {
            // Which cluster it is of never changes.
            Some(known) if known.spec.cluster != cluster => {}
            Some(known) if known.metadata.resource_version == live.resource_version => sorted.known.push(known),
            Some(_) | None => {
                sorted.unknown.insert(name);
            }
        }
    }
    // Those that are gone by now, and those that somebody gave the label of another cluster.
    let names: BTreeSet<&str> = listed.iter().filter_map(|live| live.name.as_deref()).collect();
    let others = ours.iter().map(|known| known.name_any()).filter(|name| !names.contains(name.as_str()));
    sorted.unknown.extend(others);
    sorted
}

/// Pure. The restores that are `cached` as they were listed, and the namespace and name of each of the others.
fn by_version(
    listed: &[ObjectMeta],
    cached: impl Fn(&str, &str) -> Option<Arc<OpenBaoRestore>>,
) -> (Vec<Arc<OpenBaoRestore>>, Vec<(String, String)>) {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for live in listed {
        let (namespace, name) = (live.namespace.clone().unwrap_or_default(), live.name.clone().unwrap_or_default());
        let is_as_listed = |seen: &Arc<OpenBaoRestore>| {
            seen.metadata.uid == live.uid && seen.metadata.resource_version == live.resource_version
        };
        match cached(&namespace, &name).filter(is_as_listed) {
            Some(restore) => known.push(restore),
            None => unknown.push((namespace, name)),
        }
    }
    (known, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{OpenBaoOperationSpec, OpenBaoRestoreSpec};

    fn record(name: &str, cluster: &str, version: &str) -> Arc<OpenBaoOperation> {
        let spec = OpenBaoOperationSpec { cluster: cluster.to_owned(), ..OpenBaoOperationSpec::default() };
        let mut record = OpenBaoOperation::new(name, spec);
        record.metadata.uid = Some(format!("uid-of-{name}"));
        record.metadata.resource_version = Some(version.to_owned());
        Arc::new(record)
    }

    #[test]
    fn only_records_that_changed_since_the_watches_heard_or_that_they_do_not_know_are_read() {
        let cached = [
            record("same", "kelp", "1"),
            record("pinned", "kelp", "1"),
            record("again", "kelp", "1"),
            record("strange", "kelp", "1"),
            record("theirs", "coral", "1"),
        ];
        let live = |name: &str, version: &str| record(name, "", version).metadata.clone();
        let mut again = live("again", "1");
        again.uid = Some("another".to_owned());
        let listed = [live("same", "1"), live("pinned", "2"), again, live("theirs", "9"), live("new", "3")];
        let under = |name: &str| cached.iter().find(|known| known.name_any() == name).cloned();
        let ours: Vec<_> = cached.iter().filter(|known| known.spec.cluster == "kelp").cloned().collect();
        let Sorted { known, unknown } = sort("kelp", &listed, under, &ours);
        assert_eq!(known.iter().map(|known| known.name_any()).collect::<Vec<_>>(), ["same"]);
        // `strange` has somebody's label, or is gone: a look tells.
        assert_eq!(unknown.into_iter().collect::<Vec<_>>(), ["again", "new", "pinned", "strange"]);
    }

    #[test]
    fn of_a_thousand_restores_only_those_that_changed_since_the_watches_heard_are_read() {
        let restore = |namespace: &str, name: &str, version: &str| {
            let mut restore = OpenBaoRestore::new(name, OpenBaoRestoreSpec::default());
            restore.metadata.namespace = Some(namespace.to_owned());
            restore.metadata.uid = Some(format!("uid-of-{namespace}-{name}"));
            restore.metadata.resource_version = Some(version.to_owned());
            Arc::new(restore)
        };
        let mut cached: Vec<_> = (0..1000).map(|number| restore("reef", &format!("drill-{number}"), "1")).collect();
        cached.extend([restore("reef", "goes-on", "1"), restore("reef", "again", "1"), restore("bay", "gone", "1")]);
        let mut listed: Vec<ObjectMeta> = cached[..1000].iter().map(|restore| restore.metadata.clone()).collect();
        let mut again = restore("reef", "again", "1").metadata.clone();
        again.uid = Some("another".to_owned());
        // One of the name of a drill, in another namespace.
        let others = [restore("reef", "goes-on", "2"), restore("bay", "drill-7", "1")];
        listed.extend(others.iter().map(|restore| restore.metadata.clone()).chain([again]));
        let under = |namespace: &str, name: &str| {
            let is_it = |known: &&Arc<OpenBaoRestore>| {
                known.metadata.namespace.as_deref() == Some(namespace) && known.metadata.name.as_deref() == Some(name)
            };
            cached.iter().find(is_it).cloned()
        };
        let (known, unknown) = by_version(&listed, under);
        assert_eq!(known.len(), 1000);
        let read: Vec<String> = unknown.into_iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        assert_eq!(read, ["reef/goes-on", "bay/drill-7", "reef/again"]);
    }
}
