//! Which objects of a kind belong to a cluster. Of a kind whose records are kept a cluster has dozens, and a thousand clusters have
//! tens of thousands: whoever asks for those of one must not look through all.

use super::feed::Ties;
use kube::{
    Resource,
    runtime::{reflector::Store, watcher::Event},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// A namespace, and a cluster in it.
type Place = (String, String);

/// The names of a kind's objects, by cluster. It never knows less than the store of that kind: what is new it learns first, what is
/// gone it forgets last.
#[derive(Clone, Debug, Default)]
pub struct Index(Arc<RwLock<HashMap<Place, BTreeSet<String>>>>);

impl Index {
    /// The names of a cluster's objects. The store may not know one of them yet, or not any more.
    pub fn names(&self, namespace: &str, cluster: &str) -> Vec<String> {
        let place = (namespace.to_owned(), cluster.to_owned());
        self.read().get(&place).into_iter().flatten().cloned().collect()
    }

    /// To be told before the store is.
    pub fn before<K: Resource>(&self, event: &Event<K>, ties: fn(&K) -> Ties) {
        if let Event::Apply(object) | Event::InitApply(object) = event
            && let Some((place, name)) = place(object, ties)
        {
            self.write().entry(place).or_default().insert(name);
        }
    }

    /// To be told after the store was. What a fresh list does not hold any more was deleted while nobody watched.
    pub fn after<K>(&self, event: &Event<K>, ties: fn(&K) -> Ties, store: &Store<K>)
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        match event {
            Event::Delete(object) => {
                let Some((place, name)) = place(object, ties) else { return };
                let mut all = self.write();
                if let Some(names) = all.get_mut(&place) {
                    names.remove(&name);
                    if names.is_empty() {
                        all.remove(&place);
                    }
                }
            }
            Event::InitDone => {
                let mut listed: HashMap<Place, BTreeSet<String>> = HashMap::new();
                for (place, name) in store.state().iter().filter_map(|object| place(&**object, ties)) {
                    listed.entry(place).or_default().insert(name);
                }
                *self.write() = listed;
            }
            Event::Apply(_) | Event::Init | Event::InitApply(_) => {}
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Place, BTreeSet<String>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Place, BTreeSet<String>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an object belongs, and its name.
fn place<K: Resource>(object: &K, ties: fn(&K) -> Ties) -> Option<(Place, String)> {
    let meta = object.meta();
    Some(((meta.namespace.clone()?, ties(object).cluster?), meta.name.clone()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{OpenBaoOperation, OpenBaoOperationSpec};
    use kube::runtime::reflector::store;

    fn operation(name: &str, cluster: &str) -> OpenBaoOperation {
        let spec = OpenBaoOperationSpec { cluster: cluster.into(), ..OpenBaoOperationSpec::default() };
        let mut operation = OpenBaoOperation::new(name, spec);
        operation.metadata.namespace = Some("reef".into());
        operation
    }

    fn ties(operation: &OpenBaoOperation) -> Ties {
        Ties { cluster: Some(operation.spec.cluster.clone()), operation: None }
    }

    #[test]
    fn what_the_store_knows_of_a_cluster_is_found_by_its_name_at_every_moment() {
        let (reader, mut writer) = store::<OpenBaoOperation>();
        let index = Index::default();
        let mut tell = |event: Event<OpenBaoOperation>| {
            index.before(&event, ties);
            let of_kelp = |operation: &OpenBaoOperation| operation.spec.cluster == "kelp";
            let knows = |when: &str| {
                let names = index.names("reef", "kelp");
                for known in reader.state_filter(of_kelp) {
                    assert!(known.metadata.name.as_ref().is_some_and(|name| names.contains(name)), "{when}: {event:?}");
                }
            };
            knows("before");
            writer.apply_watcher_event(&event);
            knows("after");
            index.after(&event, ties, &reader);
            knows("at the end");
            index.names("reef", "kelp")
        };
        tell(Event::Init);
        tell(Event::InitApply(operation("a", "kelp")));
        tell(Event::InitApply(operation("x", "coral")));
        assert_eq!(tell(Event::InitDone), ["a"]);
        assert_eq!(tell(Event::Apply(operation("b", "kelp"))), ["a", "b"]);
        assert_eq!(tell(Event::Delete(operation("a", "kelp"))), ["b"]);
        // Listed again: one went and one came while nobody watched.
        tell(Event::Init);
        tell(Event::InitApply(operation("c", "kelp")));
        assert_eq!(tell(Event::InitDone), ["c"]);
        assert!(index.names("lagoon", "kelp").is_empty() && index.names("reef", "coral").is_empty());
    }
}
