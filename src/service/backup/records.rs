//! The operations of a cluster as they are now, for whoever decides by them what is removed.
//!
//! Of years of records hardly one has changed since the watches last heard, and whole they are large: their metadata is listed, and
//! only what is not known in its present version is read.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, ResourceExt, api::ListParams, core::DeserializeGuard};

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
use crate::api::OpenBaoOperation;

/// So many are in memory at a time.
const PAGE: u32 = 500;

/// The operations of an operation's cluster, and those that cannot be read and may be of it.
pub(super) async fn now(ad: &Adapters, operation: &Operation) -> Result<Readable<Arc<OpenBaoOperation>>, MoverError> {
    let (namespace, cluster) = (&operation.namespace, &operation.cluster);
    let mut listed = Vec::new();
    // What a person made may name its cluster in its spec alone.
    for labels in [format!("{CLUSTER_LABEL}={cluster}"), format!("!{CLUSTER_LABEL}")] {
        let some = list(&Api::namespaced(ad.client.clone(), namespace), &labels).await;
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

async fn list(api: &Api<OpenBaoOperation>, labels: &str) -> Result<Vec<ObjectMeta>, RequestError> {
    let mut found = Vec::new();
    let mut page = ListParams::default().labels(labels).limit(PAGE);
    loop {
        let listed = timed(api.list_metadata(&page)).await?;
        found.extend(listed.items.into_iter().map(|object| object.metadata));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::OpenBaoOperationSpec;

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
}
