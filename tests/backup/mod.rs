//! Backups end to end: three real OpenBao servers, a claim and a real S3 server, our operator as a process that can be
//! killed.

mod key;
mod network;
mod node;
mod pods;
mod restoretest;
mod setup;

use std::time::Duration;

use kube::ResourceExt;
use openbao_operator::api::{OpenBaoOperation, OperationPhase};
use serde_json::json;

use crate::harness::{Cluster, Operator, Store, eventually};
use setup::{Reef, claim, manifest_of, s3};

/// From a request to its end, on two shared cores: images are there, a mover's pod starts in a few seconds.
const LONG: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_backup_on_demand_is_stored_verified_proven_and_told() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-demand").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 3, &claim(), "").await;

    reef.ask("by-hand", json!({"intent": "before the $(HOLIDAYS)"})).await;
    let operation = reef.ended("by-hand", LONG).await;
    let status = operation.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
    let seal = status.steps.iter().find(|step| step.name == "VerifySeal").unwrap();
    assert!(seal.output["seal"].starts_with("proven"), "{:?}", seal.output);
    let data = status.steps.iter().find_map(|step| step.output.get("openbaoClusterID")).cloned();
    let artifacts = status.artifacts.unwrap();
    let key = artifacts.key.unwrap();
    let uid = operation.uid().unwrap();
    assert!(key.starts_with(&format!("{}/kelp/", namespace.name())) && key.ends_with(&format!("-{}.snap", &uid[..8])));

    // The store holds one object and its manifest, and the manifest tells the truth.
    let files = reef.files().await;
    assert_eq!(files, [key.clone(), format!("{key}.manifest.json")]);
    let manifest = manifest_of(&reef.read(&format!("{key}.manifest.json")).await);
    assert_eq!(manifest["sha256"], json!(artifacts.sha256.unwrap()));
    assert_eq!(manifest["operation"]["intent"], json!("before the $(HOLIDAYS)"), "as it was written");
    assert_eq!(manifest["seal"]["type"], json!("static"));
    assert!(manifest["seal"]["keyFingerprint"].is_string() && data.is_some());
    assert_eq!(manifest["cluster"]["openbaoClusterID"], json!(data), "its record says whose data it is, too");

    // The cluster tells of it, and nothing is left running or locked.
    let told = eventually("the cluster tells of the backup", Duration::from_secs(20), async || {
        let backup = reef.backup_status().await;
        if backup.last_key.as_ref() == Some(&key) { Ok(backup) } else { Err(format!("{backup:?}")) }
    })
    .await;
    assert_eq!((told.consecutive_failures, told.last_size_bytes), (0, artifacts.size_bytes));
    assert!(told.last_success.is_some() && told.last_duration.is_some());
    assert!(reef.cluster().await.status.unwrap().operation_lock.is_none());
    eventually("the Jobs of a good backup are gone", Duration::from_secs(20), async || {
        let jobs = namespace.kubectl(&["get", "jobs", "-o", "name"]).await;
        if jobs.is_empty() { Ok(()) } else { Err(jobs) }
    })
    .await;

    // Reading it back finds it good and says so on its record.
    reef.ask("read-back", json!({"parameters": {"mode": "Verify"}})).await;
    let verified = reef.ended("read-back", LONG).await.status.unwrap();
    assert_eq!(verified.phase, OperationPhase::Succeeded, "{:?}", verified.message);
    assert_eq!(verified.artifacts.unwrap().key, Some(key));
    let stamped = namespace.api::<OpenBaoOperation>().get("by-hand").await.unwrap();
    assert!(stamped.annotations().contains_key("openbao.org/backup-verified-at"));

    // What nobody would do is refused, and nothing else is done instead.
    reef.ask("mistyped", json!({"parameters": {"mode": "verify"}})).await;
    reef.ask("narrowed", json!({"targets": [{"kind": "Volume", "name": "data-kelp-1"}]})).await;
    let refused = async |name: &str| {
        let status = reef.ended(name, LONG).await.status.unwrap();
        assert!(status.plan.is_none(), "{name}: {:?}", status.plan);
        (status.phase, status.message.unwrap_or_default())
    };
    let (phase, message) = refused("mistyped").await;
    assert!(phase == OperationPhase::Failed && message.contains("parameters.mode"), "{phase:?}: {message}");
    let (phase, message) = refused("narrowed").await;
    assert!(phase == OperationPhase::ConstraintFailed && message.contains("data-kelp-1"), "{phase:?}: {message}");
    assert_eq!(reef.files().await.len(), 2);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn schedule_annotation_and_retention_work_together_on_a_bucket() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-bucket").await;
    let store = Store::start(&namespace).await;
    namespace.apply(&store.secret("pearl")).await;
    let _operator = Operator::start(&namespace, &[]).await;
    let extra = "schedule: '* * * * *'\n    verify: {schedule: '* * * * *'}\n    retention: {maxCount: 2}";
    let reef = Reef::start(&namespace, 3, &s3(&store, "pearl"), extra).await;

    let first = eventually("a minute's backup", Duration::from_secs(150), async || {
        reef.succeeded().await.into_iter().next().ok_or_else(|| "none yet".to_owned())
    })
    .await;
    assert!(first.name_any().starts_with("kelp-backup-"));
    let actor = first.spec.actor.clone().unwrap();
    assert_eq!((actor.source.as_str(), actor.identity.as_str()), ("schedule", "openbaocluster/kelp"));

    // The same value again asks for nothing; the annotation stays where GitOps put it.
    reef.annotate("one").await;
    let triggered = async || -> usize {
        let all = reef.operations().await;
        all.iter()
            .filter(|op| op.spec.intent.as_deref().is_some_and(|intent| intent.contains("trigger-backup")))
            .count()
    };
    eventually("the annotation's backup", Duration::from_secs(30), async || {
        if triggered().await == 1 { Ok(()) } else { Err("no operation yet".to_owned()) }
    })
    .await;
    reef.annotate("one").await;

    eventually("retention leaves two", Duration::from_secs(240), async || {
        let done = reef.succeeded().await;
        let pruned = done.iter().any(|op| {
            let steps = &op.status.as_ref().unwrap().steps;
            steps.iter().any(|step| step.output.get("removed").is_some_and(|count| count != "0"))
        });
        if done.len() >= 3 && pruned { Ok(()) } else { Err(format!("{} backups", done.len())) }
    })
    .await;
    assert_eq!(triggered().await, 1);
    reef.suspend().await;
    reef.idle().await;
    let backup = reef.backup_status().await;
    assert_eq!(backup.next_run, None, "nothing is planned while the schedule is suspended");
    assert!(backup.last_verified.is_some(), "read back on its own schedule: {backup:?}");
    let bucket = pods::Bucket::open(&store, &namespace).await;
    let left = bucket.backups().await;
    assert_eq!((left.len(), left.last()), (2, backup.last_key.as_ref()));

    // The newest two are there: the prune Job says so, and a restore's verification finds the newest.
    reef.ask("read-back", json!({"parameters": {"mode": "Verify"}})).await;
    let verified = reef.ended("read-back", LONG).await.status.unwrap();
    assert_eq!(verified.artifacts.unwrap().key, backup.last_key);
}

#[tokio::test]
async fn a_foreign_lock_makes_a_schedule_skip_and_a_person_wait() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-lock").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 1, &claim(), "").await;
    reef.lock(Some(json!({"operation": "Restore", "holder": "openbaorestore/pearl", "holderUID": "not-there",
        "message": "applying", "mode": "Held", "fence": 99, "acquiredAt": "2026-11-21T03:00:00Z",
        "renewedAt": "2026-11-21T03:00:00Z"})))
        .await;

    reef.ask("patient", json!({})).await;
    eventually("the request waits and says for whom", Duration::from_secs(30), async || {
        let status = reef.operation("patient").await.status.unwrap_or_default();
        let message = status.message.unwrap_or_default();
        let waits = status.phase == OperationPhase::Pending && message.contains("openbaorestore/pearl");
        if waits { Ok(()) } else { Err(format!("{:?} {message}", status.phase)) }
    })
    .await;

    reef.patch_backup(json!({"schedule": "* * * * *"})).await;
    let skip = eventually("the schedule skips", Duration::from_secs(90), async || {
        reef.backup_status().await.last_skip.ok_or_else(|| "no skip yet".to_owned())
    })
    .await;
    assert_eq!(skip.reason, "RestoreHoldsLock");
    assert!(reef.operations().await.iter().all(|op| op.name_any() == "patient"), "a skip leaves no object");
    eventually("an event tells of it", Duration::from_secs(20), async || {
        let events = namespace.kubectl(&["get", "events.events.k8s.io", "-o", "json"]).await;
        if events.contains("BackupSkipped") { Ok(()) } else { Err("no such event".to_owned()) }
    })
    .await;

    reef.patch_backup(json!({"schedule": null})).await;
    reef.lock(None).await;
    let status = reef.ended("patient", LONG).await.status.unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn what_goes_wrong_is_named_leaves_nothing_and_the_next_backup_works() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-faults").await;
    let store = Store::start(&namespace).await;
    namespace.apply(&store.secret("pearl")).await;
    namespace
        .apply(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: wrong}\nstringData: {accessKeyId: a, secretAccessKey: b}",
        )
        .await;
    let mut operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 3, &s3(&store, "wrong"), "").await;
    let bucket = pods::Bucket::open(&store, &namespace).await;

    reef.ask("wrong-credentials", json!({})).await;
    let status = reef.ended("wrong-credentials", Duration::from_secs(300)).await.status.unwrap();
    assert_eq!(
        (status.phase, status.reason.as_deref()),
        (OperationPhase::Failed, Some("ObjectStore")),
        "{:?}",
        status.message
    );
    assert!(
        status.steps.iter().any(|step| step.name == "Snapshot" && step.attempt == 3),
        "tried again, and not for ever"
    );
    assert!(reef.cluster().await.status.unwrap().operation_lock.is_none());
    let backup = eventually("the failure is counted", Duration::from_secs(20), async || {
        let backup = reef.backup_status().await;
        if backup.consecutive_failures == 1 { Ok(backup) } else { Err(format!("{backup:?}")) }
    })
    .await;
    assert!(backup.last_success.is_none() && backup.last_failure_message.is_some());

    reef.patch_backup(json!({"target": {"credentialsSecretRef": {"name": "nobody"}}})).await;
    reef.ask("no-secret", json!({})).await;
    let status = reef.ended("no-secret", LONG).await.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("Prerequisites"));
    assert!(status.message.unwrap().contains("nobody"), "what is missing is named");
    assert_eq!(bucket.backups().await, [""; 0]);

    // The operator is killed at whatever point, three times; the backup happens once.
    reef.patch_backup(json!({"target": {"credentialsSecretRef": {"name": "pearl"}}})).await;
    reef.ask("survivor", json!({})).await;
    for pause in [300, 1500, 4000] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        operator.kill();
        operator = Operator::start(&namespace, &[]).await;
    }
    let status = reef.ended("survivor", LONG).await.status.unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
    let attempts: i32 = status.steps.iter().map(|step| step.attempt).sum();
    assert_eq!(attempts, i32::try_from(status.steps.len()).unwrap(), "nothing was done twice");

    // The mover's pod is killed as soon as it runs: what it left is removed, another attempt succeeds.
    reef.ask("mover-killed", json!({})).await;
    eventually("the mover runs", Duration::from_secs(60), async || {
        let pods = ["get", "pods", "-l", "openbao.org/operation=mover-killed", "-o", "name"];
        let pods = namespace.kubectl(&pods).await;
        let Some(pod) = pods.lines().next() else { return Err("no pod yet".to_owned()) };
        namespace.kubectl(&["delete", pod, "--grace-period=0", "--force"]).await;
        Ok(())
    })
    .await;
    let status = reef.ended("mover-killed", Duration::from_secs(300)).await.status.unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
    assert_eq!(bucket.backups().await.len(), 2);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_operator_that_is_killed_again_and_again_takes_each_backup_once() {
    const ROUNDS: usize = 12;
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-killed").await;
    let store = Store::start(&namespace).await;
    namespace.apply(&store.secret("pearl")).await;
    let mut operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 1, &s3(&store, "pearl"), "retention: {keepLast: 100}").await;
    let bucket = pods::Bucket::open(&store, &namespace).await;
    for round in 0..ROUNDS {
        let name = format!("round-{round}");
        reef.ask(&name, json!({})).await;
        for _ in 0..3 {
            // A backup takes some five seconds: every write of it is met sooner or later.
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..2000))).await;
            operator.kill();
            operator = Operator::start(&namespace, &[]).await;
        }
        let status = reef.ended(&name, LONG).await.status.unwrap();
        assert_eq!(status.phase, OperationPhase::Succeeded, "{name}: {:?}", status.message);
        assert!(status.steps.iter().all(|step| step.attempt == 1), "{name}: {:?}", status.steps);
        let backups = bucket.backups().await;
        assert_eq!((backups.len(), backups.last()), (round + 1, status.artifacts.unwrap().key.as_ref()), "{name}");
        assert!(reef.cluster().await.status.unwrap().operation_lock.is_none(), "{name}");
    }
}
