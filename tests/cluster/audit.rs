//! Audit devices of the spec: what clients do is on record, and no change of a device costs the leader.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::certificates::{all_restarted, uids};
use super::{PATIENCE, available, bao, change, keeping, manifest, must_hold, put, says, uid};
use crate::harness::{Cluster, Namespace, Operator, eventually};

/// One device on the log of the pod, one in a file, whose path has a / inside.
const BOTH: &str = "  audit:\n  - {type: file, path: log, fileOptions: {filePath: stdout}}\n  - {type: file, path: on/trail/, fileOptions: {filePath: /tmp/audit.log}}\n";

fn log() -> Value {
    json!({"type": "file", "path": "log", "fileOptions": {"filePath": "stdout"}})
}

/// The one in a file, otherwise than [`BOTH`] has it.
fn changed() -> Value {
    json!({"type": "file", "path": "on/trail/", "description": "for whoever asks", "fileOptions": {"filePath": "/tmp/audit.log"}})
}

/// Nobody listens there.
fn away() -> Value {
    json!({"type": "socket", "path": "away", "socketOptions": {"address": "127.0.0.1:9"}})
}

/// The paths under which OpenBao has devices.
async fn devices(namespace: &Namespace, token: &str) -> Result<BTreeSet<String>, String> {
    let answer = bao(namespace, "kelp", token, &["GET", "sys/audit"]).await?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    Ok(answer["data"].as_object().into_iter().flatten().map(|(path, _)| path.clone()).collect())
}

/// Waits until OpenBao has exactly as many devices as there are names, one of each name, and returns their paths.
async fn declared(namespace: &Namespace, token: &str, names: &[&str]) -> BTreeSet<String> {
    eventually(&format!("OpenBao has the devices {names:?}"), PATIENCE, async || {
        let found = devices(namespace, token).await?;
        let is_there = |name: &&str| found.iter().any(|path| path.starts_with(&format!("{name}-")));
        if found.len() == names.len() && names.iter().all(is_there) { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await
}

/// Waits until kubectl shows the record of a write to `secret/word`, without what was written.
async fn recorded(namespace: &Namespace, words: &[&str]) {
    let line = eventually("the write is on record", PATIENCE, async || {
        let said = namespace.kubectl(words).await;
        let is_it = |line: &&str| line.contains(r#""type":"request""#) && line.contains(r#""path":"secret/word""#);
        said.lines().find(is_it).map(str::to_owned).ok_or_else(|| format!("not in {} lines", said.lines().count()))
    })
    .await;
    assert!(line.contains("hmac-sha256:") && !line.contains("kept"), "{line}");
}

/// Waits for another pod `kelp-0`, and until it serves.
pub(super) async fn restarted(namespace: &Namespace, before: &str) {
    eventually("another pod", PATIENCE, async || {
        let now = uid(namespace, "kelp-0").await;
        if now.is_empty() || now == before { Err(now) } else { Ok(()) }
    })
    .await;
    available(namespace, "kelp").await;
}

#[tokio::test]
async fn what_clients_do_is_on_record_and_a_device_that_changes_or_goes_costs_no_leader() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-audit").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, &format!("  replicas: 1\n{BOTH}"), 0).await;
    let first = declared(&namespace, &token, &["log", "on-trail"]).await;
    let (stdout, file) =
        (["logs", "kelp-0", "-c", "openbao"], ["exec", "kelp-0", "-c", "openbao", "--", "cat", "/tmp/audit.log"]);
    recorded(&namespace, &stdout).await;
    recorded(&namespace, &file).await;

    // Under its own path OpenBao would refuse it, and nobody would lead.
    let pod = uid(&namespace, "kelp-0").await;
    change(&namespace, "kelp", json!({"audit": [log(), changed()]})).await;
    restarted(&namespace, &pod).await;
    let second = declared(&namespace, &token, &["log", "on-trail"]).await;
    assert_eq!(first.intersection(&second).count(), 1, "only one is another: {first:?}, {second:?}");
    put(&namespace, "kelp", &token, "kept").await;
    recorded(&namespace, &file).await;

    let pod = uid(&namespace, "kelp-0").await;
    change(&namespace, "kelp", json!({"audit": [log()]})).await;
    restarted(&namespace, &pod).await;
    let third = declared(&namespace, &token, &["log"]).await;
    assert!(third.is_subset(&second), "the other one stays as it was: {third:?}");
    put(&namespace, "kelp", &token, "kept").await;
    recorded(&namespace, &stdout).await;

    let pod = uid(&namespace, "kelp-0").await;
    let elsewhere = json!({"type": "file", "path": "log", "fileOptions": {"filePath": "/var/log/audit.log"}});
    change(&namespace, "kelp", json!({"audit": [elsewhere]})).await;
    says(&namespace, "kelp", "Valid", "False", "spec.audit[log]").await;
    // With this one alone a server that sets itself up would end for good.
    namespace.apply(&manifest("moss", &format!("  audit: [{}]\n  replicas: 1\n", away()))).await;
    says(&namespace, "moss", "Valid", "False", "add a device of type file").await;
    assert_eq!(uid(&namespace, "kelp-0").await, pod, "it would not lead again");
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn three_servers_take_up_other_devices_one_by_one_and_all_keep_their_record() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-audit-three").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, BOTH, 1).await;
    let first = declared(&namespace, &token, &["log", "on-trail"]).await;
    let before = uids(&namespace).await;
    // The others keep the record.
    change(&namespace, "kelp", json!({"audit": [log(), changed(), away()]})).await;
    all_restarted(&namespace, &before).await;
    let second = declared(&namespace, &token, &["log", "on-trail", "away"]).await;
    assert_eq!(first.intersection(&second).count(), 1, "{first:?}, {second:?}");
    put(&namespace, "kelp", &token, "kept").await;
    must_hold(&namespace, "kelp", &token, "kept").await;
}
