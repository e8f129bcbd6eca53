//! The static key of the seal, when somebody puts another into the Secret while a server goes on with the one that it has read:
//! what backups make of it, and what the cluster says before anybody restarts a server.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::ResourceExt;
use openbao_operator::api::{OpenBaoOperationStatus, OperationPhase};
use serde_json::{Value, json};

use super::pods::{Bucket, OTHER_KEY};
use super::setup::{Reef, s3};
use crate::harness::{Cluster, Namespace, Operator, Store, eventually};

/// A backup with its retention, or a server that restarts, on a busy machine.
const LONG: Duration = Duration::from_secs(300);

/// The Secret that the operator made, as a manifest.
async fn made(namespace: &Namespace) -> Value {
    let found = namespace.kubectl(&["get", "secret", "kelp-unseal-key", "-o", "json"]).await;
    let mut secret: Value = serde_json::from_str(&found).unwrap();
    let labels = secret["metadata"]["labels"].take();
    secret["metadata"] = json!({"name": "kelp-unseal-key", "labels": labels});
    secret
}

/// The Secret is immutable: whoever wants something else in it has to make another Secret.
async fn replace(namespace: &Namespace, secret: &Value) {
    namespace.kubectl(&["delete", "secret", "kelp-unseal-key"]).await;
    namespace.apply(&secret.to_string()).await;
}

async fn change(namespace: &Namespace, spec: Value) {
    let patch = json!({ "spec": spec }).to_string();
    namespace.kubectl(&["patch", "openbaocluster", "kelp", "--type=merge", "-p", &patch]).await;
}

/// What the cluster says against the key.
async fn alarm(reef: &Reef<'_>) -> Option<String> {
    let conditions = reef.cluster().await.status.unwrap_or_default().conditions;
    conditions.into_iter().find(|told| told.reason == "UnsealKeyInvalid").map(|told| told.message)
}

async fn server(reef: &Reef<'_>) -> Option<String> {
    reef.pod("kelp-0").await.and_then(|pod| pod.uid())
}

/// Waits for another server than `before`, and until the cluster serves with it.
async fn restarted(reef: &Reef<'_>, before: Option<&str>) {
    eventually("another server serves", LONG, async || {
        let now = server(reef).await;
        let status = reef.cluster().await.status.unwrap_or_default();
        let available = status.conditions.iter().any(|told| told.type_ == "Available" && told.status == "True");
        let another = now.is_some() && now.as_deref() != before;
        if another && available && status.ready_replicas == Some(1) {
            Ok(())
        } else {
            Err(format!("{now:?}: {:?}", status.conditions))
        }
    })
    .await;
}

async fn ended(reef: &Reef<'_>, name: &str, spec: Value) -> OpenBaoOperationStatus {
    reef.ask(name, spec).await;
    reef.ended(name, LONG).await.status.unwrap()
}

/// Asks for a backup that is to be good, and returns its key.
async fn good(reef: &Reef<'_>, name: &str) -> String {
    let status = ended(reef, name, json!({})).await;
    assert_eq!(status.phase, OperationPhase::Succeeded, "{name}: {:?}", status.message);
    let proof = status.steps.iter().find_map(|step| step.output.get("seal")).unwrap();
    assert!(proof.starts_with("proven"), "{name}: {proof}");
    status.artifacts.unwrap().key.unwrap()
}

/// Asks for a backup that is to fail for this reason, and returns the key that it had.
async fn refused(reef: &Reef<'_>, name: &str, reason: &str) -> String {
    let status = ended(reef, name, json!({})).await;
    assert_eq!(
        (status.phase, status.reason.as_deref()),
        (OperationPhase::Failed, Some(reason)),
        "{:?}",
        status.message
    );
    status.inputs["key"].clone()
}

/// Waits until so many failures are counted, and `last` still is the last backup.
async fn counted(reef: &Reef<'_>, failures: i32, last: &str) {
    eventually("the failures are counted", Duration::from_secs(20), async || {
        let backup = reef.backup_status().await;
        let kept = backup.last_key.as_deref() == Some(last);
        if kept && backup.consecutive_failures == failures { Ok(()) } else { Err(format!("{backup:?}")) }
    })
    .await;
}

/// As if what the server had sent for this backup had been sealed with a key that nobody has: no real server does that.
async fn damage(namespace: &Namespace, reef: &Reef<'_>, name: &str) {
    let steps = reef.operation(name).await.status.unwrap().steps;
    let at = steps.iter().position(|step| step.name == "Snapshot").unwrap();
    let mut sealed = STANDARD.decode(&steps[at].output["sealedSums"]).unwrap();
    sealed[10] ^= 1;
    let path = format!("/status/steps/{at}/output/sealedSums");
    let patch = json!([{"op": "replace", "path": path, "value": STANDARD.encode(sealed)}]).to_string();
    namespace.kubectl(&["patch", "openbaooperation", name, "--subresource=status", "--type=json", "-p", &patch]).await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_key_that_opened_no_backup_before_condemns_none_and_no_server_restarts_until_the_right_one_is_back() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-seal").await;
    let store = Store::start(&namespace).await;
    namespace.apply(&store.secret("pearl")).await;
    let _operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 1, &s3(&store, "pearl"), "retention: {maxCount: 5}").await;
    let bucket = Bucket::open(&store, &namespace).await;
    // A name that is longer than a label may be: its Job's end must wake it all the same.
    let long = format!("before-{}", "the-holidays-".repeat(6).trim_end_matches('-'));
    let before = good(&reef, &long).await;
    assert_eq!(alarm(&reef).await, None);

    // The server goes on with the key that it has read. The cluster says what its restart would do, and does not restart it.
    let right = made(&namespace).await;
    let mut wrong = right.clone();
    wrong["data"]["key"] = OTHER_KEY.into();
    let running = server(&reef).await;
    replace(&namespace, &wrong).await;
    let told = eventually("the cluster tells of the key", Duration::from_secs(60), async || {
        alarm(&reef).await.ok_or_else(|| "it says nothing".to_owned())
    })
    .await;
    assert!(told.contains(&long) && told.contains("stays sealed"), "{told}");
    let doubted = refused(&reef, "doubted", "SealNotSettled").await;
    let damaged = refused(&reef, "damaged", "SealNotSettled").await;
    damage(&namespace, &reef, "damaged").await;
    assert_eq!(bucket.backups().await, [before.clone(), doubted.clone(), damaged], "all of them stay");
    counted(&reef, 2, &before).await;
    change(&namespace, json!({"maintenance": {"restartAt": "now"}})).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(server(&reef).await, running, "it would not come back");

    // With the right key back the restart is made up for, and what does not open with it goes, and nothing else.
    replace(&namespace, &right).await;
    restarted(&reef, running.as_deref()).await;
    eventually("the alarm ends", Duration::from_secs(60), async || alarm(&reef).await.map_or(Ok(()), Err)).await;
    let read = ended(&reef, "read", json!({"parameters": {"mode": "Verify", "key": doubted}})).await;
    assert_eq!(read.phase, OperationPhase::Succeeded, "{:?}", read.message);
    let after = good(&reef, "after").await;
    assert_eq!(bucket.backups().await, [before, doubted, after.clone()]);
    counted(&reef, 0, &after).await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_backup_that_is_sealed_with_another_key_is_removed_where_the_key_of_the_cluster_opened_the_one_before() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-resealed").await;
    let store = Store::start(&namespace).await;
    namespace.apply(&store.secret("pearl")).await;
    let _operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 1, &s3(&store, "pearl"), "retention: {maxCount: 1}").await;
    let bucket = Bucket::open(&store, &namespace).await;
    let before = good(&reef, "before").await;

    // While the operator looks away somebody has the server seal its data with another key, as OpenBao itself rotates one.
    change(&namespace, json!({"paused": true})).await;
    let mut secret = made(&namespace).await;
    secret["data"]["next"] = OTHER_KEY.into();
    replace(&namespace, &secret).await;
    let found = namespace.kubectl(&["get", "configmap", "kelp-config", "-o", "json"]).await;
    let found: Value = serde_json::from_str(&found).unwrap();
    let settings = found["data"]["config.hcl"].as_str().unwrap();
    let rotated = settings
        .replace(
            "current_key_id = \"operator-generated-v1\"",
            "previous_key_id = \"operator-generated-v1\"\n  current_key_id = \"by-hand\"",
        )
        .replace(
            "current_key = \"file:///openbao/unseal/key\"",
            "previous_key = \"file:///openbao/unseal/key\"\n  current_key = \"file:///openbao/unseal/next\"",
        );
    assert_eq!(rotated.lines().count(), settings.lines().count() + 2, "{settings}");
    let patch = json!({"data": {"config.hcl": rotated}}).to_string();
    namespace.kubectl(&["patch", "configmap", "kelp-config", "--type=merge", "-p", &patch]).await;
    let running = server(&reef).await;
    namespace.kubectl(&["delete", "pod", "kelp-0"]).await;
    restarted(&reef, running.as_deref()).await;
    change(&namespace, json!({"paused": false})).await;

    // The key of the cluster opens what was taken before of the same data: it is known to be the right one, and condemns.
    let resealed = refused(&reef, "resealed", "SealOtherKeyID").await;
    let message = reef.operation("resealed").await.status.unwrap().message.unwrap_or_default();
    assert!(message.contains(&format!("{resealed} was removed")), "{message}");
    assert_eq!(bucket.backups().await, std::slice::from_ref(&before), "and no good one goes for it");
    counted(&reef, 1, &before).await;
}
