//! Each sample of `docs/samples`, applied the way a person does, read back through our types, and applied again without effect.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::harness::Cluster;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/samples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// The parts that a person wrote, without what the server adds.
fn spec(object: &Value) -> &Value {
    &object["spec"]
}

#[tokio::test]
async fn every_sample_applies_and_reads_back_as_written() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("api-samples").await;
    let inside = |words: &[&'static str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    for file in files() {
        let path = file.display().to_string();
        let mut words = inside(&["-n", "", "apply", "--validate=strict", "-o", "json", "-f"]);
        words[1] = namespace.name().to_owned();
        words.push(path.clone());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let first: Value = serde_json::from_str(&cluster.kubectl(&words).await).unwrap();
        let again: Value = serde_json::from_str(&cluster.kubectl(&words).await).unwrap();
        let objects = |value: &Value| value["items"].as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        for (first, again) in objects(&first).iter().zip(&objects(&again)) {
            assert_eq!(
                first["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"],
                "{path}: applying it again changed it"
            );
            let typed = match first["kind"].as_str().unwrap() {
                "OpenBaoCluster" => there_and_back::<openbao_operator::api::OpenBaoCluster>(first),
                "OpenBaoRestore" => there_and_back::<openbao_operator::api::OpenBaoRestore>(first),
                "OpenBaoOperation" => there_and_back::<openbao_operator::api::OpenBaoOperation>(first),
                "OpenBaoRollout" => there_and_back::<openbao_operator::api::OpenBaoRollout>(first),
                _ => continue,
            };
            assert!(typed.is_object(), "{path}");
        }
        let mut words = vec!["-n", namespace.name(), "delete", "--wait=false", "-f"];
        words.push(&path);
        cluster.kubectl(&words).await;
    }
}

/// Reads the object through our type and back; the type must not lose what the server stored.
fn there_and_back<K: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    stored: &Value,
) -> Value {
    let typed: K = serde_json::from_value(stored.clone()).unwrap();
    let written = serde_json::to_value(&typed).unwrap();
    assert_eq!(typed, serde_json::from_value::<K>(written.clone()).unwrap());
    spec(&written).clone()
}

/// Not a limit that users feel, but one that a rule of quadratic cost would break.
#[tokio::test]
async fn the_largest_sample_is_admitted_quickly() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("api-latency").await;
    let largest = files().into_iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap();
    let object: kube::api::DynamicObject = serde_saphyr::from_str(&std::fs::read_to_string(&largest).unwrap()).unwrap();
    let api = super::objects(&namespace, "OpenBaoCluster");
    let mut times = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let dry = kube::api::PostParams { dry_run: true, ..kube::api::PostParams::default() };
        api.create(&dry, &object).await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort();
    println!("{}: median {:?}, slowest {:?}", largest.display(), times[10], times[19]);
    assert!(times[10].as_millis() < 500, "median {:?}", times[10]);
}
