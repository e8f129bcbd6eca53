//! Writes one plane of a status: what one field manager owns of it.

use super::{apply::MANAGER, status};
use crate::{
    adapter::kubernetes::client::{RequestError, timed},
    api::{OpenBaoCluster, OpenBaoClusterStatus},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use serde_json::{Value, json};

/// The status could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the status of cluster {name}")]
pub struct Unwritten {
    /// The cluster.
    pub name: String,
    /// The refusal.
    #[source]
    pub source: RequestError,
}

/// Writes the plane that this service owns, and nothing else of the status.
pub(super) async fn write(
    client: &Client,
    cluster: &OpenBaoCluster,
    next: &OpenBaoClusterStatus,
) -> Result<(), Unwritten> {
    let params = PatchParams::apply(MANAGER).force();
    let written = send(client, cluster, &params, Patch::Apply, &status::plane(next)).await;
    written.map_err(|source| Unwritten { name: cluster.name_any(), source })
}

/// Writes exactly this of the status.
pub(super) async fn send(
    client: &Client,
    cluster: &OpenBaoCluster,
    params: &PatchParams,
    patch: fn(Value) -> Patch<Value>,
    status: &impl Serialize,
) -> Result<(), RequestError> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let api: Api<OpenBaoCluster> = Api::namespaced(client.clone(), &namespace);
    let body = json!({
        "apiVersion": "openbao.org/v1alpha1",
        "kind": "OpenBaoCluster",
        // A namesake made since has another UID and must not inherit this status.
        "metadata": {"name": name, "namespace": namespace, "uid": cluster.uid()},
        "status": status,
    });
    timed(api.patch_status(&name, params, &patch(body))).await.map(drop)
}
