//! Writes the plane of a status that this service owns.

use super::{apply::MANAGER, status};
use crate::{
    adapter::kubernetes::client::{RequestError, timed},
    api::{OpenBaoCluster, OpenBaoClusterStatus},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

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

/// Writes it, and nothing else of the status.
pub(super) async fn write(
    client: &Client,
    cluster: &OpenBaoCluster,
    next: &OpenBaoClusterStatus,
) -> Result<(), Unwritten> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let api: Api<OpenBaoCluster> = Api::namespaced(client.clone(), &namespace);
    let body = json!({
        "apiVersion": "openbao.org/v1alpha1",
        "kind": "OpenBaoCluster",
        // A namesake made since has another UID and must not inherit this status.
        "metadata": {"name": name, "namespace": namespace, "uid": cluster.uid()},
        "status": status::plane(next),
    });
    timed(api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)))
        .await
        .map(drop)
        .map_err(|source| Unwritten { name, source })
}
