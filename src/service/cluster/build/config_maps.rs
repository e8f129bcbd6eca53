//! The configuration, the CA bundle, and the stanza of the first start.

use super::{meta, names};
use crate::service::cluster::{
    config::{SHARED_FILE, server},
    validate::ValidatedCluster,
};
use k8s_openapi::api::core::v1::ConfigMap;
use std::collections::BTreeMap;

/// Annotation of the bootstrap object: the UID of the one volume that may be initialised.
pub const GRANTED_VOLUME: &str = "openbao.org/granted-volume";

/// More members than anybody may ask for; every pod needs a file of its own name to exist, and the content must not
/// depend on the number of members.
const POD_FILES: u32 = 9;

/// The configuration, and the CA bundle where there is one.
pub fn build(cluster: &ValidatedCluster, bundle: Option<&str>) -> Vec<ConfigMap> {
    let mut all = vec![config(cluster)];
    all.extend(bundle.map(|pem| ConfigMap {
        metadata: meta(cluster, names::ca_config_map(&cluster.name)),
        data: Some(BTreeMap::from([("ca.crt".into(), pem.to_owned())])),
        ..ConfigMap::default()
    }));
    all
}

fn config(cluster: &ValidatedCluster) -> ConfigMap {
    let mut data = BTreeMap::from([(SHARED_FILE.to_owned(), server::render(cluster))]);
    for ordinal in 0..POD_FILES {
        let text = "# This member needs no settings of its own.\n";
        data.insert(pod_file(&cluster.name, ordinal), text.to_owned());
    }
    ConfigMap { metadata: meta(cluster, names::config_map(&cluster.name)), data: Some(data), ..ConfigMap::default() }
}

/// The file that only this pod reads.
pub fn pod_file(cluster: &str, ordinal: u32) -> String {
    format!("{}.hcl", names::pod(cluster, ordinal))
}

/// The stanza of the first start, in the place of ordinal 0's empty file, granted to one volume.
pub fn bootstrap(cluster: &ValidatedCluster, stanza: String, volume_uid: &str) -> ConfigMap {
    let mut metadata = meta(cluster, names::bootstrap_config_map(&cluster.name));
    metadata.annotations = Some(BTreeMap::from([(GRANTED_VOLUME.into(), volume_uid.to_owned())]));
    ConfigMap { metadata, data: Some(BTreeMap::from([(pod_file(&cluster.name, 0), stanza)])), ..ConfigMap::default() }
}
