//! Server-side apply that stays silent when there is nothing to say.
//!
//! Every object we own carries a digest of what we last applied. A write is skipped when the live object has that digest
//! *and* still says everything we want: the digest catches a field that we dropped, the comparison one that somebody
//! else changed. So an unchanged cluster costs no request, also right after a restart of the operator.

use super::client::{RequestError, timed};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Debug;

/// The annotation that holds the digest.
pub const APPLIED: &str = "openbao.org/applied";

/// Why an object could not be brought into its wanted state.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Our own object could not be written as JSON: a bug.
    #[error("failed to serialise {kind} {name}")]
    Serialize {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Serializer error.
        #[source]
        source: serde_json::Error,
    },
    /// The API server refused or did not answer.
    #[error("failed to {verb} {kind} {namespace}/{name}")]
    Write {
        /// `apply`, `create` or `delete`.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
}

impl ApplyError {
    /// The API server's refusal, if there was one.
    pub fn request(&self) -> Option<&RequestError> {
        match self {
            Self::Serialize { .. } => None,
            Self::Write { source, .. } => Some(source),
        }
    }
}

/// An object with its digest annotation, ready to be compared and applied.
#[derive(Debug, Clone)]
pub struct Prepared<K> {
    /// The typed object, digest included.
    pub object: K,
    wanted: Value,
}

/// Adds the digest of everything that `object` says.
pub fn prepare<K>(mut object: K) -> Result<Prepared<K>, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let json = |object: &K| {
        serde_json::to_value(object).map_err(|source| ApplyError::Serialize {
            kind: K::kind(&()).into_owned(),
            name: object.name_any(),
            source,
        })
    };
    object.annotations_mut().remove(APPLIED);
    let digest = digest(&json(&object)?);
    object.annotations_mut().insert(APPLIED.to_owned(), digest);
    let wanted = json(&object)?;
    Ok(Prepared { object, wanted })
}

/// Tells one's own versions of one object apart: 64 bits do, as nobody attacks their own annotation.
pub(super) fn digest(object: &Value) -> String {
    // serde_json's maps are sorted, so equal objects have equal bytes.
    let digest = Sha256::digest(object.to_string().as_bytes());
    let short = digest.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    format!("{short:016x}")
}

impl<K> Prepared<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
{
    /// Whether the live object must be written. `live` may be metadata only: then its content is taken on trust of the digest.
    pub fn differs_from(&self, live: Option<&Value>) -> bool {
        live.is_none_or(|live| !says(live, &self.wanted))
    }

    /// Applies it. Fields that others own are taken back: these objects are ours.
    pub async fn apply(&self, client: &Client, manager: &str) -> Result<K, ApplyError> {
        let (namespace, name) = (self.object.namespace().unwrap_or_default(), self.object.name_any());
        let api: Api<K> = Api::namespaced(client.clone(), &namespace);
        let mut body = self.wanted.clone();
        if let Value::Object(map) = &mut body {
            map.insert("apiVersion".into(), Value::from(K::api_version(&()).into_owned()));
            map.insert("kind".into(), Value::from(K::kind(&()).into_owned()));
        }
        timed(api.patch(&name, &PatchParams::apply(manager).force(), &Patch::Apply(&body)))
            .await
            .map_err(|source| failed::<K>("apply", &namespace, &name, source))
    }
}

/// Deletes the object with exactly this UID; a namesake made since is left alone, and an object already gone is fine.
pub async fn delete<K>(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    delete_with::<K>(client, namespace, name, uid, DeleteParams::background()).await
}

/// [`delete`], giving a pod only this long to stop by itself (its own grace period may be longer).
pub async fn delete_within<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
    seconds: u32,
) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let params = DeleteParams { grace_period_seconds: Some(seconds), ..DeleteParams::background() };
    delete_with::<K>(client, namespace, name, uid, params).await
}

async fn delete_with<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
    params: DeleteParams,
) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    let params = DeleteParams { preconditions, ..params };
    match timed(api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        // 409 here means that the UID differs: the object we meant is gone.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(source) => Err(failed::<K>("delete", namespace, name, source)),
    }
}

fn failed<K: Resource<DynamicType = ()>>(
    verb: &'static str,
    namespace: &str,
    name: &str,
    source: RequestError,
) -> ApplyError {
    ApplyError::Write { verb, kind: K::kind(&()).into_owned(), namespace: namespace.into(), name: name.into(), source }
}

/// Whether `live` says everything that `wanted` says. Maps may say more (defaults, other managers' fields); lists must
/// have the same length, because an added element is a change of ours undone.
pub fn says(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, value)| match live.get(key) {
            Some(found) => says(found, value),
            None => is_empty(value),
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| says(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

/// The API server drops empty maps, lists and nulls.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn map(value: &str) -> ConfigMap {
        let mut map = ConfigMap { data: Some(BTreeMap::from([("a".into(), value.into())])), ..ConfigMap::default() };
        map.metadata.name = Some("kelp".into());
        map
    }

    #[test]
    fn a_live_object_that_says_all_we_want_and_more_is_left_alone() {
        let wanted = prepare(map("1")).unwrap();
        let mut live = serde_json::to_value(&wanted.object).unwrap();
        live["metadata"]["uid"] = json!("u");
        live["data"]["other"] = json!("theirs");
        assert!(!wanted.differs_from(Some(&live)));
    }

    #[test]
    fn a_changed_value_a_dropped_field_and_a_missing_object_are_written() {
        let wanted = prepare(map("2")).unwrap();
        let live = serde_json::to_value(prepare(map("1")).unwrap().object).unwrap();
        assert!(wanted.differs_from(Some(&live)), "another value");
        assert!(wanted.differs_from(None), "deleted by someone");
        let mut less = map("1");
        less.data = None;
        assert!(prepare(less).unwrap().differs_from(Some(&live)), "a field that we no longer want");
    }

    #[test]
    fn the_digest_does_not_depend_on_an_earlier_digest() {
        let once = prepare(map("1")).unwrap();
        let twice = prepare(once.object.clone()).unwrap();
        assert_eq!(once.object, twice.object);
    }

    #[test]
    fn an_element_that_somebody_added_to_our_list_is_a_difference() {
        assert!(!says(&json!({"l": [1, 2]}), &json!({"l": [1]})));
        assert!(says(&json!({}), &json!({"l": [], "m": {}, "n": null})));
    }
}
