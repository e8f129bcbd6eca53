//! What a person may ask for, and in which words: by time, with a token, under long names, paused, again, as a stranger.

use std::time::Duration;

use chrono::Timelike;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use openbao_operator::api::{OpenBaoOperation, OpenBaoRestore, RestorePhase};
use serde_json::json;

use super::setup::{Bay, end, operator, reason};
use crate::harness::{Cluster, eventually};

const LONG: Duration = Duration::from_secs(420);

/// The restore completes, and its secret has the word.
async fn brings_back(bay: &Bay<'_>, name: &str, word: &str) -> OpenBaoRestore {
    let restore = bay.ended(name, LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    bay.free().await;
    bay.whole(1).await;
    assert_eq!(bay.word(&bay.login().await, "pearl").await.as_deref(), Some(word), "{name}");
    restore
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn by_time_with_a_token_and_under_the_longest_names() {
    let cluster = Cluster::get().await;
    // As long as a namespace may be, and with a digit in front.
    let namespace = cluster.namespace(&format!("0-restore-{}", "x".repeat(36))).await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let token = bay.login().await;
    bay.put(&token, "pearl", "first").await;
    let first = bay.backup("first").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let between = chrono::Utc::now();
    bay.put(&token, "pearl", "second").await;
    let second = bay.backup("second").await;
    bay.put(&token, "pearl", "third").await;

    // The newest one before a moment; the name is as long as Kubernetes allows.
    let longest = format!("{}.{}", "a".repeat(126), "b".repeat(126));
    bay.restore(&longest, json!({"source": {"before": between}, "preRestoreBackup": false})).await;
    let restore = brings_back(&bay, &longest, "first").await;
    assert_eq!(restore.status.unwrap().source.unwrap().key, first);

    // Another one of nearly that name is another restore. A token that a person keeps instead of a role.
    bay.secret("mine", "token", &token).await;
    let other = format!("{}.{}c", "a".repeat(126), "b".repeat(125));
    bay.restore(
        &other,
        json!({"source": {"key": second}, "preRestoreBackup": false, "tokenSecretRef": {"name": "mine"}}),
    )
    .await;
    brings_back(&bay, &other, "second").await;

    // The same again is no news; a change is refused; so is what contradicts itself.
    let again = bay.restores().get(&other).await.unwrap();
    bay.restores().patch(&other, &PatchParams::default(), &Patch::Merge(json!({"spec": again.spec}))).await.unwrap();
    let change = json!({"spec": {"source": {"key": "else.snap"}}});
    let refusal = bay.restores().patch(&other, &PatchParams::default(), &Patch::Merge(change)).await.unwrap_err();
    assert!(refusal.to_string().contains("create another"), "{refusal}");
    for spec in [
        json!({"source": {"key": "a.snap", "latest": true}}),
        json!({"source": {}}),
        json!({"source": {"key": "../a.snap"}}),
        json!({"source": {"key": "/a.snap"}}),
        json!({"source": {"latest": true}, "overrideOperationLock": true}),
        json!({"source": {"latest": true}, "waive": ["NewerVersion"]}),
    ] {
        let refused = bay.try_restore("contradiction", spec.clone()).await;
        assert!(refused.is_err(), "{spec} was taken");
    }

    // A paused cluster is waited for as long as it takes, and the restore can be taken back meanwhile.
    let pause = |paused: bool| json!({"spec": {"paused": paused}});
    bay.patch(pause(true)).await;
    bay.restore("patient", json!({"source": {"key": first}, "preRestoreBackup": false})).await;
    bay.restore("recalled", json!({"source": {"key": first}, "preRestoreBackup": false})).await;
    for name in ["patient", "recalled"] {
        bay.says(name, "is paused", LONG).await;
    }
    bay.request("recalled", "1", "Cancel").await;
    let restore = bay.ended("recalled", LONG).await;
    assert_eq!((end(&restore).0, reason(&restore).as_str()), (RestorePhase::Failed, "Cancelled"));
    bay.patch(pause(false)).await;
    brings_back(&bay, "patient", "first").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn scheduled_backups_stand_back_while_a_restore_is_on_its_way() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-ticks").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    bay.put(&token, "pearl", "after").await;
    bay.patch(json!({"spec": {"backup": {"schedule": "* * * * *"}}})).await;
    // In the middle of a backup: it is waited for. Then minute after minute restores, with ticks among them.
    let operations = || async {
        let all: kube::Api<OpenBaoOperation> = namespace.api();
        all.list(&kube::api::ListParams::default()).await.unwrap().items
    };
    eventually("a scheduled backup runs", Duration::from_secs(150), async || {
        let held = bay.cluster().await.status.unwrap().operation_lock;
        if held.is_some_and(|lock| lock.holder == "openbaocluster/backup") { Ok(()) } else { Err("none yet".into()) }
    })
    .await;
    for round in 0..3 {
        if round > 0 {
            // A restore may be shorter than a minute: these are on their way when the next tick comes.
            let past = u64::from(chrono::Utc::now().second());
            tokio::time::sleep(Duration::from_secs((110 - past) % 60)).await;
        }
        let name = format!("amid-{round}");
        bay.restore(&name, json!({"source": {"key": key}})).await;
        brings_back(&bay, &name, "before").await;
    }
    for operation in operations().await {
        let status = operation.status.clone().unwrap_or_default();
        let phase = status.phase;
        assert!(!phase.is_terminal() || format!("{phase:?}") == "Succeeded", "{}: {status:?}", operation.name_any());
    }
    let skip = bay.cluster().await.status.unwrap().backup.unwrap_or_default().last_skip;
    assert!(
        skip.is_some_and(|skip| skip.reason.to_lowercase().contains("restore")),
        "no tick was skipped for a restore"
    );
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_sealed_cluster_and_one_that_is_not_there_are_waited_for_and_named() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-sealed").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    let posts = bay.posts(1).await;
    bay.seal(&token).await;
    let ghost = Bay { namespace: &namespace, name: "ghost".to_owned() };
    ghost.restore("nowhere", json!({"source": {"key": key}})).await;
    bay.restore("shut", json!({"source": {"key": key}, "force": true, "preRestoreBackup": false})).await;
    bay.says("shut", "sealed", Duration::from_secs(50)).await;
    let nowhere = ghost.ended("nowhere", LONG).await;
    assert_eq!((end(&nowhere).0, reason(&nowhere).as_str()), (RestorePhase::Failed, "ClusterNotFound"));
    let shut = bay.ended("shut", LONG).await;
    assert_eq!(end(&shut).0, RestorePhase::Failed, "{:?}", shut.status);
    assert!(matches!(reason(&shut).as_str(), "ClusterSealed" | "NoLeader"), "{:?}", shut.status);
    let status = bay.cluster().await.status.unwrap();
    assert_eq!((status.operation_lock, status.pending_restore), (None, None));
    // It unseals itself when it is restarted, and holds what it held.
    bay.kill("kelp-0").await;
    bay.whole(1).await;
    assert_eq!(bay.word(&bay.login().await, "pearl").await.as_deref(), Some("before"));
    assert_eq!(bay.posts(1).await, posts);
}
