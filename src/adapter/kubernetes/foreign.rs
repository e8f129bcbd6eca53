//! Objects of kinds that somebody else defines, and that may not be served here.
//!
//! They are not watched: a watch of a kind that is missing never begins, and one of each would be paid for by everybody who
//! uses none. So whoever wants such an object remembers what became of it, and asks again when there is a reason to.

use super::{
    apply::{APPLIED, digest, says},
    client::{RequestError, timed},
    owner::has_controller,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

/// A kind whose objects lie in namespaces.
#[derive(Debug)]
pub struct Kind {
    /// `monitoring.coreos.com`, …
    pub group: &'static str,
    /// `v1`, …
    pub version: &'static str,
    /// `ServiceMonitor`, …
    pub kind: &'static str,
    /// `servicemonitors`, …
    pub plural: &'static str,
}

impl Kind {
    /// As objects name it.
    pub fn api_version(&self) -> String {
        format!("{}/{}", self.group, self.version)
    }

    fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.kind);
        Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, self.plural))
    }
}

/// An object as it should be.
#[derive(Clone, Debug)]
pub struct Wanted {
    kind: &'static Kind,
    namespace: String,
    name: String,
    body: Value,
    digest: String,
}

impl Wanted {
    /// With the digest of everything that it says.
    pub fn new(kind: &'static Kind, metadata: &ObjectMeta, spec: &Value) -> Self {
        let mut body = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": metadata, "spec": spec});
        let digest = digest(&body);
        body["metadata"]["annotations"][APPLIED] = json!(digest);
        Self {
            kind,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            body,
            digest,
        }
    }

    /// Tells it from any other form of the same object.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// What became of an object that was to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is as it should be.
    Done,
    /// Its kind is not served.
    NoKind,
    /// The name belongs to an object that is not the owner's.
    Taken,
}

/// Brings the object into its wanted state. One that is there already and does not belong to `owner_uid` is left alone.
pub async fn apply(client: &Client, wanted: &Wanted, owner_uid: &str, manager: &str) -> Result<Written, RequestError> {
    let api = wanted.kind.api(client, &wanted.namespace);
    let mut body = wanted.body.clone();
    let found = match timed(api.get_opt(&wanted.name)).await {
        Err(error) if error.is_unknown_kind() => return Ok(Written::NoKind),
        found => found?,
    };
    if let Some(found) = found {
        if !has_controller(&found.metadata, owner_uid) {
            return Ok(Written::Taken);
        }
        if serde_json::to_value(&found).is_ok_and(|live| says(&live, &wanted.body)) {
            return Ok(Written::Done);
        }
        // A namesake made since is somebody else's.
        body["metadata"]["uid"] = json!(found.metadata.uid);
    }
    match timed(api.patch(&wanted.name, &PatchParams::apply(manager).force(), &Patch::Apply(&body))).await {
        Ok(_) => Ok(Written::Done),
        // It went while we looked.
        Err(error) if error.is_unknown_kind() => Ok(Written::NoKind),
        Err(error) => Err(error),
    }
}

/// Removes the object of that name if it belongs to `owner_uid`, and exactly the one that was seen to. One that is gone, or
/// whose kind is, is fine.
pub async fn remove(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    name: &str,
    owner_uid: &str,
) -> Result<(), RequestError> {
    let api = kind.api(client, namespace);
    let found = match timed(api.get_opt(name)).await {
        Err(error) if error.is_unknown_kind() => None,
        found => found?,
    };
    let Some(found) = found else { return Ok(()) };
    if !has_controller(&found.metadata, owner_uid) {
        return Ok(());
    }
    let preconditions = Some(Preconditions { uid: found.metadata.uid, resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::background() };
    match timed(api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        // 409 here means that the UID differs: the object that was meant is gone.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}
