//! Reading kinds of ours where one object may not match its kind: written by another version of the operator, or before a rule
//! existed. Read as a whole, a list with one such object is an error, and whoever needs the others waits for ever.

use super::client::{RequestError, timed};
use kube::{
    Api, Resource,
    api::ListParams,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// So many objects are in memory at a time, wanted or not: one namespace may hold thousands of records.
const PAGE: u32 = 250;

/// What a list holds.
#[derive(Debug)]
pub struct Readable<K> {
    /// Those that are wanted.
    pub items: Vec<K>,
    /// Those that do not match their kind: nothing but their metadata is known.
    pub unreadable: Vec<InvalidObject>,
}

impl<K> Default for Readable<K> {
    fn default() -> Self {
        Self { items: vec![], unreadable: vec![] }
    }
}

impl<K> Readable<K> {
    /// Takes up what was listed; of what can be read only what is `wanted`.
    pub fn add(&mut self, listed: Vec<DeserializeGuard<K>>, wanted: impl Fn(&K) -> bool) {
        for DeserializeGuard(object) in listed {
            match object {
                Ok(object) if wanted(&object) => self.items.push(object),
                Ok(_) => {}
                Err(object) => self.unreadable.push(object),
            }
        }
    }
}

/// Lists the objects that are `wanted`, and all that cannot be read.
pub async fn list<K>(
    api: &Api<DeserializeGuard<K>>,
    wanted: impl Fn(&K) -> bool + Send,
) -> Result<Readable<K>, RequestError>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut found = Readable::default();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = timed(api.list(&page)).await?;
        found.add(listed.items, &wanted);
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Names an object that cannot be read, and says what to do about it. Rules keep most of its fields from being corrected, and
/// nobody takes its finalizers off.
pub fn named<K: Resource<DynamicType = ()>>(object: &InvalidObject) -> String {
    let metadata = &object.metadata;
    format!(
        "{} {}/{} cannot be read ({}): run the version of the operator that wrote it, or delete it and take its finalizers off",
        K::kind(&()),
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
        object.error
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::OpenBaoOperation;
    use serde_json::json;

    #[test]
    fn of_a_list_with_one_unreadable_object_the_others_are_read_and_that_one_is_named() {
        let operation = |name: &str, kind: &str| {
            json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
                "metadata": {"name": name, "namespace": "reef"}, "spec": {"cluster": "kelp", "operation": kind},
            })
        };
        let listed = json!([operation("nightly", "Backup"), operation("odd", "Teleport"), operation("up", "Upgrade")]);
        let mut found = Readable::<OpenBaoOperation>::default();
        found.add(serde_json::from_value(listed).unwrap(), |op| op.metadata.name.as_deref() != Some("nightly"));
        let names: Vec<_> = found.items.iter().filter_map(|op| op.metadata.name.as_deref()).collect();
        assert_eq!(names, ["up"]);
        let told = named::<OpenBaoOperation>(&found.unreadable[0]);
        assert!(told.contains("OpenBaoOperation reef/odd") && told.contains("Teleport"), "{told}");
    }
}
