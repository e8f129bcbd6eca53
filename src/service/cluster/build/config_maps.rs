//! The configuration, the CA bundle, and the stanza of the first start.

use super::{meta, names};
use crate::service::cluster::{
    config::{SHARED_FILE, server},
    validate::ValidatedCluster,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, KeyToPath, ProjectedVolumeSource, Volume, VolumeProjection,
};
use kube::ResourceExt;
use std::collections::BTreeMap;

/// Annotation of the bootstrap object: the UID of the one volume that may be initialised.
pub const GRANTED_VOLUME: &str = "openbao.org/granted-volume";

/// More members than anybody may ask for; every pod needs a file of its own name to exist, and the content must not
/// depend on the number of members.
const POD_FILES: u32 = 9;

/// What a member reads that has no settings of its own.
const NO_SETTINGS: &str = "# This member needs no settings of its own.\n";

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
        data.insert(pod_file(&cluster.name, ordinal), NO_SETTINGS.to_owned());
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

/// What lies under the stanza's name once the first start is over. It says nothing to a server; it is there so that nothing of
/// somebody else's lies there, which servers would read when they start.
pub fn placeholder(cluster: &ValidatedCluster) -> ConfigMap {
    ConfigMap {
        metadata: meta(cluster, names::bootstrap_config_map(&cluster.name)),
        data: Some(no_settings(&cluster.name)),
        ..ConfigMap::default()
    }
}

/// Whether an object is that one to the letter: what was added to it would be read too.
pub fn is_placeholder(object: &ConfigMap, cluster: &str) -> bool {
    let alone = object.binary_data.as_ref().is_none_or(BTreeMap::is_empty);
    alone && object.data.as_ref() == Some(&no_settings(cluster)) && !object.annotations().contains_key(GRANTED_VOLUME)
}

/// Where servers read all of it: the configuration, overlaid by the stanza of the first start while that is there. The later source
/// wins, and an absent one changes nothing, so the template is the same before and after. Of the stanza's object only the one
/// file is read that it replaces: nothing else in it is of our making.
pub fn volume(cluster: &ValidatedCluster) -> Volume {
    let stanza = pod_file(&cluster.name, 0);
    let sources = [
        ConfigMapProjection { name: names::config_map(&cluster.name), ..ConfigMapProjection::default() },
        ConfigMapProjection {
            name: names::bootstrap_config_map(&cluster.name),
            optional: Some(true),
            items: Some(vec![KeyToPath { key: stanza.clone(), path: stanza, ..KeyToPath::default() }]),
        },
    ];
    let projected = |source| VolumeProjection { config_map: Some(source), ..VolumeProjection::default() };
    Volume {
        name: "config".into(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o444),
            sources: Some(sources.into_iter().map(projected).collect()),
        }),
        ..Volume::default()
    }
}

fn no_settings(cluster: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(pod_file(cluster, 0), NO_SETTINGS.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use k8s_openapi::ByteString;

    #[test]
    fn what_lies_under_the_stanzas_name_after_the_first_start_says_nothing_and_nothing_is_added_to_it() {
        let cluster = valid(|_| {});
        let own = placeholder(&cluster);
        assert!(is_placeholder(&own, "kelp"));
        assert!(!format!("{own:?}").contains("initialize"));
        assert!(!is_placeholder(&bootstrap(&cluster, "initialize".into(), "v1"), "kelp"), "the stanza itself");
        let changed = |change: fn(&mut ConfigMap)| {
            let mut other = own.clone();
            change(&mut other);
            is_placeholder(&other, "kelp")
        };
        assert!(!changed(|object| drop(object.data.as_mut().unwrap().insert(SHARED_FILE.into(), "listener".into()))));
        assert!(!changed(|object| drop(
            object.data.as_mut().unwrap().insert(pod_file("kelp", 0), "initialize".into())
        )));
        assert!(!changed(|object| object.binary_data = Some([(SHARED_FILE.into(), ByteString(vec![1]))].into())));
        assert!(!changed(|object| drop(object.annotations_mut().insert(GRANTED_VOLUME.into(), "v1".into()))));
        assert!(changed(|object| drop(object.annotations_mut().insert("openbao.org/applied".into(), "0".into()))));
    }

    #[test]
    fn servers_read_one_file_of_the_stanzas_object_and_their_settings_from_nowhere_but_the_operators() {
        let sources = volume(&valid(|_| {})).projected.and_then(|projected| projected.sources).unwrap();
        let sources: Vec<_> = sources.into_iter().filter_map(|source| source.config_map).collect();
        let [settings, stanza] = &sources[..] else { panic!("two sources: {sources:?}") };
        assert_eq!((settings.name.as_str(), &settings.items), ("kelp-config", &None));
        assert_eq!((stanza.name.as_str(), stanza.optional), ("kelp-bootstrap", Some(true)));
        let items: Vec<_> = stanza.items.iter().flatten().map(|item| (item.key.as_str(), item.path.as_str())).collect();
        assert_eq!(items, [("kelp-0.hcl", "kelp-0.hcl")]);
    }
}
