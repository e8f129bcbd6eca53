//! The samples in `docs/samples`: each must be admitted, and survive the way through our types unharmed.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::admission::admit;
use super::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OpenBaoRollout};
use crate::service::cluster::config::seal;

/// Every object of ours in the samples, with the file it is from.
pub fn samples() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/samples");
    let mut samples = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let ours = documents.into_iter().filter(|object| object["apiVersion"] == "openbao.org/v1alpha1");
        samples.extend(ours.map(|object| (name.clone(), object)));
    }
    samples.sort_by(|a, b| a.0.cmp(&b.0));
    samples
}

#[test]
fn every_sample_is_admitted() {
    let samples = samples();
    assert!(samples.len() >= 20, "only {} samples found", samples.len());
    for (file, object) in samples {
        if let Err(errors) = admit(&object, None) {
            panic!("{file}: {errors:?}");
        }
    }
}

#[test]
fn every_sample_survives_the_way_through_our_types() {
    fn there_and_back<K: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(file: &str, object: Value) {
        let stored = admit(&object, None).unwrap();
        let typed: K = serde_json::from_value(stored).unwrap_or_else(|error| panic!("{file}: {error}"));
        let written = serde_json::to_value(&typed).unwrap();
        let again: K = serde_json::from_value(admit(&written, None).unwrap()).unwrap();
        assert_eq!(typed, again, "{file}");
        lost(file, &object["spec"], &written["spec"], "spec");
    }
    for (file, object) in samples() {
        match object["kind"].as_str().unwrap() {
            "OpenBaoCluster" => there_and_back::<OpenBaoCluster>(&file, object),
            "OpenBaoRestore" => there_and_back::<OpenBaoRestore>(&file, object),
            "OpenBaoOperation" => there_and_back::<OpenBaoOperation>(&file, object),
            "OpenBaoRollout" => there_and_back::<OpenBaoRollout>(&file, object),
            other => panic!("{file}: no kind {other}"),
        }
    }
}

/// What a person wrote is still there, unless it said no more than the default.
fn lost(file: &str, wrote: &Value, kept: &Value, path: &str) {
    match (wrote, kept) {
        (Value::Object(wrote), Value::Object(kept)) => {
            for (name, value) in wrote {
                let path = format!("{path}.{name}");
                let default = value == false
                    || value.as_array().is_some_and(Vec::is_empty)
                    || ["spec.tls", "spec.unseal", "spec.upgrade", "spec.configuration"].contains(&path.as_str());
                match kept.get(name) {
                    Some(kept) => lost(file, value, kept, &path),
                    None => assert!(default, "{file}: {path} is lost"),
                }
            }
        }
        (Value::Array(wrote), Value::Array(kept)) => {
            assert_eq!(wrote.len(), kept.len(), "{file}: {path}");
            wrote.iter().zip(kept).for_each(|(wrote, kept)| lost(file, wrote, kept, path));
        }
        (Value::String(wrote), Value::String(kept)) if path == "spec.source.before" => {
            assert_eq!(wrote.get(..19), kept.get(..19), "{file}: {path}");
        }
        _ => assert_eq!(wrote, kept, "{file}: {path}"),
    }
}

/// An apply takes out of a cluster what the manifest before said and this one does not.
#[test]
fn a_sample_that_does_something_to_the_first_cluster_takes_nothing_out_of_it() {
    const SETS_UP: &str = "cluster-backup-file.yaml";
    // A first manifest each, for a cluster that is made by it.
    const OTHERS: [&str; 6] = [
        "cluster-backup-azure.yaml",
        "cluster-backup-gcs.yaml",
        "cluster-backup-s3.yaml",
        "cluster-external-key.yaml",
        "cluster-first.yaml",
        "cluster-minimal.yaml",
    ];
    let of_main =
        |(_, object): &(String, Value)| object["kind"] == "OpenBaoCluster" && object["metadata"]["name"] == "main";
    let all: Vec<_> = samples().into_iter().filter(of_main).collect();
    let first = &all.iter().find(|(file, _)| file == SETS_UP).unwrap().1;
    let later: Vec<_> = all.iter().filter(|(file, _)| file != SETS_UP && !OTHERS.contains(&file.as_str())).collect();
    assert!(later.len() >= 3, "only {later:?}");
    for (file, object) in later {
        for (field, value) in first["spec"].as_object().unwrap() {
            assert_eq!(&object["spec"][field], value, "{file}: spec.{field} changes with it");
        }
    }
}

/// A restore into it is refused for another id as for another key, and neither can be changed later.
#[test]
fn the_sample_with_a_key_of_ones_own_opens_what_the_first_clusters_sealed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/samples");
    let text = std::fs::read_to_string(folder.join("cluster-external-key.yaml")).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let secret = documents.iter().find(|object| object["kind"] == "Secret").unwrap();
    let unseal = |file: &str| {
        let object = samples().into_iter().find(|(name, _)| name == file).unwrap().1;
        serde_json::from_value::<OpenBaoCluster>(admit(&object, None).unwrap()).unwrap().spec.unseal
    };
    let own = unseal("cluster-external-key.yaml");
    assert_eq!(seal::static_key_secret(&own, "main").as_deref(), secret["metadata"]["name"].as_str());
    for file in ["cluster-first.yaml", "cluster-minimal.yaml", "cluster-backup-file.yaml"] {
        assert_eq!(seal::static_key_id(&own), seal::static_key_id(&unseal(file)), "{file}");
    }
}

#[test]
fn the_shortest_cluster_has_the_defaults_we_promise() {
    let minimal = samples().into_iter().find(|(file, _)| file == "cluster-minimal.yaml").unwrap().1;
    let cluster: OpenBaoCluster = serde_json::from_value(admit(&minimal, None).unwrap()).unwrap();
    assert_eq!(cluster.spec.replicas, 3);
    assert!(cluster.spec.tls.enabled);
    assert!(cluster.spec.upgrade.pre_upgrade_snapshot);
    assert_eq!(cluster.spec.upgrade.soak, "30s");
    assert_eq!(cluster.spec.unseal.type_.as_str(), "static");
    assert_eq!(cluster.spec.deletion_policy, super::DeletionPolicy::Retain);
    assert!(!cluster.spec.paused);
}
