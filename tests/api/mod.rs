//! The API as the API server sees it: rules, defaults, samples, `kubectl explain`, who owns which field.

mod explain;
mod planes;
mod rules;
mod samples;
mod table;

use kube::Api;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use openbao_operator::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OpenBaoRollout};

use crate::harness::Namespace;

/// The namespace's objects of a kind that is only known by name.
fn objects(namespace: &Namespace, kind: &str) -> Api<DynamicObject> {
    let resource = match kind {
        "OpenBaoCluster" => ApiResource::erase::<OpenBaoCluster>(&()),
        "OpenBaoRestore" => ApiResource::erase::<OpenBaoRestore>(&()),
        "OpenBaoOperation" => ApiResource::erase::<OpenBaoOperation>(&()),
        "OpenBaoRollout" => ApiResource::erase::<OpenBaoRollout>(&()),
        other => panic!("no kind {other}"),
    };
    Api::namespaced_with(namespace.client(), namespace.name(), &resource)
}
