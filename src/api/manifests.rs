//! The CRDs as files: what `cargo xtask crds` writes and checks.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::{OpenBaoCluster, OpenBaoRestore, OpenBaoRollout};

/// The definitions of all kinds, in the order people meet them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![OpenBaoCluster::crd(), OpenBaoRestore::crd(), OpenBaoRollout::crd()]
}

/// File name and content of each definition. The same types always give the same bytes.
pub fn crd_files() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    crds()
        .into_iter()
        .map(|crd| {
            let file = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
            Ok((file, serde_saphyr::to_string(&crd)?))
        })
        .collect()
}
