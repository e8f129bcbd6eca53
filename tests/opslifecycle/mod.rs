//! The lock and the saga engine against a real API server, in several processes, killed where it hurts.

mod bench;
mod child;
mod crash;
mod lock;
mod orphan;
mod undo;

use std::time::Duration;

use kube::api::PostParams;
use openbao_operator::api::cluster::OpenBaoCluster;

use crate::harness::Namespace;

/// A cluster's object without a cluster: the lock lives in its status, and no pod is needed for it.
async fn bare_cluster(namespace: &Namespace, name: &str) -> OpenBaoCluster {
    let object = serde_json::json!({
        "apiVersion": "openbao.org/v1alpha1",
        "kind": "OpenBaoCluster",
        "metadata": {"name": name},
        "spec": {"version": "2.7.2", "replicas": 1, "storage": {"size": "1Gi"}},
    });
    let object = serde_json::from_value(object).expect("a cluster");
    namespace.api::<OpenBaoCluster>().create(&PostParams::default(), &object).await.expect("the cluster is created")
}

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
