//! What the operator was told at its start.

use std::{collections::BTreeMap, time::Duration};

/// Which namespaces one set of controllers looks at. A list of namespaces is several sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole cluster.
    All,
    /// One namespace: roles instead of cluster roles suffice.
    Namespace(String),
}

impl Scope {
    /// An API handle for a namespaced kind in this scope.
    pub fn api<K>(&self, client: kube::Client) -> kube::Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match self {
            Self::All => kube::Api::all(client),
            Self::Namespace(namespace) => kube::Api::namespaced(client, namespace),
        }
    }
}

/// Settings that do not change while the process lives.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the operator itself runs.
    pub operator_namespace: String,
    /// What its pods are known by, beside their namespace: network policies let them in to the servers.
    pub operator_pod_labels: BTreeMap<String, String>,
    /// The service account it runs as: the only one it mints tokens for.
    pub operator_service_account: String,
    /// This replica, for events and the lease: its pod name.
    pub instance: String,
    /// The image of Jobs: the operator's own, unless the spec names another.
    pub operator_image: String,
    /// Where OpenBao images come from when the spec names none: `<repository>:<version>`.
    pub openbao_image_repository: String,
    /// What is watched.
    pub scope: Scope,
    /// The delay of the `standard` retry class.
    pub requeue_standard: Duration,
}
