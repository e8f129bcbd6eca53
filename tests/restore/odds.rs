//! Against the odds: a lock in other hands, a store that goes away, servers that cannot take a snapshot, an outcome that
//! nobody can tell.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use openbao_operator::api::{OpenBaoOperation, OperationPhase, RestorePhase};
use openbao_operator::service::backup::jobs::mover_name;
use serde_json::json;

use super::elsewhere::same_seal;
use super::setup::{Bay, end, manifest, operator};
use crate::harness::{Cluster, Store, eventually};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_lock_in_other_hands_is_waited_for_and_taken_only_by_force_and_with_a_record() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-force").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    bay.put(&token, "pearl", "after").await;

    // A backup that never ends: nobody answers at that address.
    bay.secret("nobody", "accessKeyId", "a").await;
    namespace.kubectl(&["patch", "secret", "nobody", "-p", r#"{"stringData":{"secretAccessKey":"b"}}"#]).await;
    let nowhere = json!({"provider": "s3", "bucket": "none", "endpoint": "http://10.255.255.1:9", "region": "none",
        "credentialsSecretRef": {"name": "nobody"}});
    let sand = json!({"provider": "file", "file": {"claimName": "sand"}});
    bay.point(nowhere).await;
    bay.ask_for_backup("stuck").await;
    eventually("the backup has the lock", Duration::from_secs(60), async || {
        let lock = bay.cluster().await.status.unwrap().operation_lock;
        if lock.is_some() { Ok(()) } else { Err("free".to_owned()) }
    })
    .await;
    let spec = json!({"source": {"key": key, "target": sand}, "preRestoreBackup": false});
    bay.restore("polite", spec.clone()).await;
    bay.says("polite", "openbaocluster/backup", LONG).await;
    let mut forced = spec;
    forced["force"] = json!(true);
    forced["overrideOperationLock"] = json!(true);
    bay.restore("forced", forced).await;
    let restore = bay.ended("forced", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    let conditions = restore.status.unwrap().conditions;
    assert!(
        conditions.iter().any(|c| c.status == "True" && c.message.contains("openbaocluster/backup")),
        "{conditions:?}"
    );
    let operations: Api<OpenBaoOperation> = namespace.api();
    let stuck = operations.get("stuck").await.unwrap().status.unwrap();
    assert_eq!((stuck.phase, stuck.reason.as_deref()), (OperationPhase::Failed, Some("LockLost")), "{stuck:?}");
    // The polite one had its turn afterwards, or is about to.
    let restore = bay.ended("polite", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    assert_eq!(bay.word(&bay.login().await, "pearl").await.as_deref(), Some("before"));
    assert_eq!(bay.posts(1).await, 2);
    bay.free().await;
}

/// Writes into the mover's config map as nobody should. Returns what stood under `key`.
async fn spoil(bay: &Bay<'_>, restore: &str, key: &str, text: Option<&str>) -> Option<String> {
    let operation = bay.restores().get(restore).await.unwrap().status.unwrap().operation.unwrap();
    let maps: Api<ConfigMap> = bay.namespace.api();
    let name = mover_name(&operation);
    let before = maps.get(&name).await.unwrap().data.and_then(|data| data.get(key).cloned());
    maps.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"data": {key: text}}))).await.unwrap();
    before
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_outcome_that_nobody_can_tell_waits_for_a_person_with_the_lock_held() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-unknown").await;
    let running = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (_, key) = bay.backed_up().await;
    let spec = json!({"source": {"key": key}, "preRestoreBackup": false});

    for (name, action) in [("resumed", "Resume"), ("abandoned", "Abandon")] {
        bay.put(&bay.login().await, "pearl", "after").await;
        bay.restore(name, spec.clone()).await;
        bay.claimed(name, LONG).await;
        // Deaf for a moment, so that it cannot see the end before what tells of the claim is spoiled.
        running.signal(rustix::process::Signal::STOP);
        bay.answered(name, LONG).await;
        let claim = spoil(&bay, name, "claim", Some("somebody's words")).await;
        running.signal(rustix::process::Signal::CONT);
        let restore = bay.ended(name, LONG).await;
        assert_eq!(end(&restore).0, RestorePhase::Unknown, "{:?}", restore.status);
        assert!(end(&restore).1.contains("Resume"), "{:?}", restore.status);
        let status = bay.cluster().await.status.unwrap();
        assert_eq!(status.operation_lock.map(|lock| lock.holder), Some(format!("openbaorestore/{name}")));
        assert_eq!(status.pending_restore.as_deref(), Some(name));
        // Asked too early it finds out no more than before, and never sends anything.
        bay.request(name, "too-early", "Resume").await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(end(&bay.restores().get(name).await.unwrap()).0, RestorePhase::Unknown);
        let patch = |nonces: &[(&str, &str)]| {
            let requests: Vec<_> = nonces.iter().map(|(n, a)| json!({"nonce": n, "action": a})).collect();
            json!({"spec": {"requests": requests}})
        };
        if action == "Resume" {
            spoil(&bay, name, "claim", claim.as_deref()).await;
        }
        let requests = patch(&[("too-early", "Resume"), ("now", action)]);
        bay.restores().patch(name, &PatchParams::default(), &Patch::Merge(requests)).await.unwrap();
        let wanted = if action == "Resume" { RestorePhase::Completed } else { RestorePhase::Failed };
        eventually("a person's word ends it", LONG, async || {
            let restore = bay.restores().get(name).await.unwrap();
            let (phase, message) = end(&restore);
            if phase == wanted { Ok(()) } else { Err(format!("{phase:?} {message}")) }
        })
        .await;
        bay.free().await;
        bay.whole(1).await;
        // Given up or not, the snapshot was taken.
        assert_eq!(bay.word(&bay.login().await, "pearl").await.as_deref(), Some("before"), "{name}");
    }
    assert_eq!(bay.posts(1).await, 2);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_resume_that_finds_the_old_data_ends_the_restore_and_sends_nothing_again() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-resume").await;
    let running = operator(&namespace).await;
    let bay = Bay::start(&namespace, 3, "2.7.2").await;
    let (_, key) = bay.backed_up().await;
    // A leader that has accepted the snapshot and dies at once mostly takes it with it; not always.
    for round in 0..4 {
        bay.put(&bay.login().await, "pearl", "after").await;
        let name = format!("lost-{round}");
        let (posts, leader) = (bay.posts(3).await, bay.leader().await);
        bay.restore(&name, json!({"source": {"key": key}, "preRestoreBackup": false})).await;
        bay.claimed(&name, LONG).await;
        running.signal(rustix::process::Signal::STOP);
        bay.answered(&name, LONG).await;
        bay.kill(&leader).await;
        let claim = spoil(&bay, &name, "claim", Some("somebody's words")).await;
        running.signal(rustix::process::Signal::CONT);
        let restore = bay.ended(&name, LONG).await;
        assert_eq!(end(&restore).0, RestorePhase::Unknown, "{:?}", restore.status);
        bay.whole(3).await;
        let token = bay.login().await;
        let lost = bay.word(&token, "pearl").await.as_deref() == Some("after");
        if lost {
            // Clients work on the old data; whoever asks for Resume now was told that it only looks.
            bay.put(&token, "pearl", "since").await;
        }
        spoil(&bay, &name, "claim", claim.as_deref()).await;
        bay.request(&name, "now", "Resume").await;
        let wanted = if lost { RestorePhase::Failed } else { RestorePhase::Completed };
        eventually("it finds out", LONG, async || {
            let (phase, message) = end(&bay.restores().get(&name).await.unwrap());
            if phase == wanted { Ok(()) } else { Err(format!("{phase:?} {message}")) }
        })
        .await;
        bay.free().await;
        bay.whole(3).await;
        assert_eq!(bay.posts(3).await, posts + 1, "it was sent again");
        if lost {
            let (_, message) = end(&bay.restores().get(&name).await.unwrap());
            assert!(message.contains("Nothing was sent again"), "{message}");
            assert_eq!(bay.word(&bay.login().await, "pearl").await.as_deref(), Some("since"));
            return;
        }
    }
    panic!("no leader died fast enough to lose the snapshot");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn more_servers_that_are_asked_for_meanwhile_are_made_after_the_restore() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-grows").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    bay.put(&token, "pearl", "after").await;
    bay.restore("grows", json!({"source": {"key": key}})).await;
    // Under its lock: from here on nobody makes a pod.
    bay.stage("grows", "SafetyBackup", LONG).await;
    bay.patch(json!({"spec": {"replicas": 3}})).await;
    let restore = bay.ended("grows", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    bay.whole(3).await;
    assert_eq!(bay.word(&bay.login().await, "pearl").await.as_deref(), Some("before"));
    bay.free().await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn servers_without_room_for_the_snapshot_keep_their_data_and_the_restore_says_so() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-tmp").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    bay.put(&token, "pearl", "after").await;
    let pods: Api<Pod> = namespace.api();
    let uid = pods.get("kelp-0").await.unwrap().uid().unwrap();
    let script = format!(
        "chmod 0555 /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/tmp || \
                          chmod 0555 $(find / -xdev -path '*/pods/{uid}/volumes/kubernetes.io~empty-dir/tmp')"
    );
    cluster.expect_inside(&["sh", "-c", &script]).await;
    bay.restore("cramped", json!({"source": {"key": key}, "preRestoreBackup": false})).await;
    let restore = bay.ended("cramped", LONG * 2).await;
    let (phase, message) = end(&restore);
    assert_eq!(phase, RestorePhase::Failed, "{message}");
    bay.whole(1).await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("after"), "{message}");
    assert!(message.contains("old data") || message.contains("Nothing was changed"), "{message}");
    let (posts, claims) = (bay.posts(1).await, bay.claims("cramped").await);
    assert!(posts <= claims, "{posts} posts, {claims} claims");
    bay.free().await;
    eprintln!("{posts} posts, {claims} claims: {message}");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_store_that_goes_away_is_waited_for_and_what_it_lacks_is_named() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-store").await;
    let _operator = operator(&namespace).await;
    let store = Store::start(&namespace).await;
    namespace.apply(&store.secret("s3")).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let token = bay.login().await;
    let target = |bucket: &str, secret: &str| {
        json!({"provider": "s3", "bucket": bucket, "endpoint": store.endpoint(), "region": "us-east-1", "usePathStyle": true,
            "credentialsSecretRef": {"name": secret}})
    };
    bay.point(target(&store.bucket, "s3")).await;
    bay.put(&token, "pearl", "before").await;
    let key = bay.backup("first").await;
    bay.put(&token, "pearl", "after").await;

    let source = |bucket: &str, secret: &str| json!({"source": {"key": key, "target": target(bucket, secret)}, "preRestoreBackup": false});
    bay.secret("wrong", "accessKeyId", "who").await;
    bay.restore("keyless", source(&store.bucket, "wrong")).await;
    bay.restore("bucketless", source("no-such-bucket", "s3")).await;
    bay.restore("secretless", source(&store.bucket, "no-such-secret")).await;
    for (name, words) in
        [("keyless", "secretAccessKey"), ("bucketless", "no-such-bucket"), ("secretless", "no-such-secret")]
    {
        let restore = bay.ended(name, LONG).await;
        let (phase, message) = end(&restore);
        assert_eq!(phase, RestorePhase::Failed, "{message}");
        assert!(message.contains(words), "{name}: {message}");
    }
    assert_eq!(bay.cluster().await.status.unwrap().operation_lock, None);

    // Gone when it is needed, and back a while later.
    let service = |selector: &str| format!(r#"{{"spec":{{"selector":{selector}}}}}"#);
    let selector = namespace.kubectl(&["get", "service", "s3", "-o", "jsonpath={.spec.selector}"]).await;
    let away = service(r#"{"away":"yes"}"#);
    namespace.kubectl(&["patch", "service", "s3", "--type=merge", "-p", &away]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    bay.restore("patient", source(&store.bucket, "s3")).await;
    bay.stage("patient", "Preflight", LONG).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("after"));
    let mut back: serde_json::Value = serde_json::from_str(&service(selector.trim())).unwrap();
    back["spec"]["selector"]["away"] = serde_json::Value::Null;
    namespace.kubectl(&["patch", "service", "s3", "--type=merge", "-p", &back.to_string()]).await;
    let restore = bay.ended("patient", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    assert_eq!(bay.word(&bay.login().await, "pearl").await.as_deref(), Some("before"));
    assert_eq!(bay.posts(1).await, 1);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn five_servers_get_the_data_back_one_after_the_other() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-five").await;
    let _operator = operator(&namespace).await;
    let bay = Bay { namespace: &namespace, name: "kelp".to_owned() };
    namespace.apply(&format!("{}---\n{}", super::setup::CLAIM, manifest("kelp", 5, "2.7.2", ""))).await;
    bay.whole(5).await;
    let (token, key) = bay.backed_up().await;
    bay.put(&token, "pearl", "after").await;
    bay.restore("five", json!({"source": {"key": key}})).await;
    let restore = bay.ended("five", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    eprintln!("{:?}", restore.status.unwrap().durations);
    bay.whole(5).await;
    for ordinal in 0..5 {
        assert_eq!(
            bay.word_at(&bay.pod(ordinal), &token, "pearl").await.as_deref(),
            Some("before"),
            "server {ordinal}"
        );
    }
    assert_eq!(bay.posts(5).await, 1);
    bay.free().await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_server_that_is_down_all_the_while_is_named_at_the_end_and_joins_again_once_its_volume_is_deleted() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-down").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;

    // The snapshot is another cluster's, and so is raft's key in it, as in an older one of this cluster.
    let unseal = same_seal(&namespace).await;
    namespace.apply(&format!("{unseal}\n---\n{}", manifest("coral", 3, "2.7.2", ""))).await;
    let coral = Bay { namespace: &namespace, name: "coral".to_owned() };
    coral.whole(3).await;
    coral.secret("of-the-lost", "token", &token).await;

    // As on a node that was lost: its pod is on its way out and never goes.
    let down = "coral-2";
    namespace.kubectl(&["patch", "pod", down, "-p", r#"{"metadata":{"finalizers":["test.openbao.org/held"]}}"#]).await;
    namespace.kubectl(&["delete", "pod", down, "--grace-period=1", "--wait=false"]).await;
    let spec = json!({"source": {"key": key}, "tokenSecretRef": {"name": "of-the-lost"}, "force": true,
        "preRestoreBackup": false});
    coral.restore("on-two", spec).await;
    let restore = coral.ended("on-two", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    let message = restore.status.unwrap().message;
    assert!(message.contains("Not there at the end: coral-2."), "{message}");
    let typed = format!("kubectl --namespace {} delete pvc/data-coral-2 pod/coral-2", namespace.name());
    assert!(message.contains(&typed), "{message}");
    coral.free().await;

    // It comes back on its old volume, and nobody speaks with it.
    namespace.kubectl(&["patch", "pod", down, "-p", r#"{"metadata":{"finalizers":null}}"#]).await;
    eventually("the cluster says that one is of another cluster", LONG, async || {
        let conditions = coral.cluster().await.status.unwrap_or_default().conditions;
        let said = conditions.iter().any(|one| {
            one.type_ == "Degraded" && one.reason == "ClusterIDMismatch" && one.message.contains("coral-2: ")
        });
        if said { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;

    namespace.kubectl(&["delete", "pvc/data-coral-2", "pod/coral-2"]).await;
    coral.whole(3).await;
    for ordinal in 0..3 {
        assert_eq!(coral.word_at(&coral.pod(ordinal), &token, "pearl").await.as_deref(), Some("before"), "{ordinal}");
    }
}
