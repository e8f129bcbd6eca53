//! What a cluster once could not get out of: a member that is down and is to leave, a view of the past, an older manifest, a
//! certificate that has expired, a lock that nobody gives back, servers that were scaled away under a lock.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use kube::ResourceExt;
use openbao_operator::api::OpenBaoCluster;
use openbao_operator::service::cluster::tls::{DEFAULT_ROTATION, issue, new_authority, serving_names};
use serde_json::json;

use super::certificates::{all_restarted, put as bring, secret, uids};
use super::trouble::{directly, leader, no_pods, standby};
use super::{
    PATIENCE, available, bao, change, condition, get, keeping, manifest, must_hold, put, says, settled, told, uid,
};
use crate::harness::{Cluster, Namespace, Operator, eventually};

async fn raft(namespace: &Namespace, token: &str) -> String {
    bao(namespace, "kelp", token, &["GET", "sys/storage/raft/configuration"]).await.unwrap_or_default()
}

#[tokio::test]
async fn a_lock_of_upkeep_is_given_back_although_the_spec_cannot_be_carried_out() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-lock-back").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "  replicas: 1\n  audit: [{type: syslog, path: s}]\n")).await;
    says(&namespace, "kelp", "Valid", "False", "spec.audit").await;
    let holder = get(&namespace, "kelp").await.unwrap().uid();
    let now = Utc::now();
    let lock = json!({"status": {"operationFence": 1, "operationLock": {
        "operation": "Maintenance", "holder": "openbaocluster/maintenance", "holderUID": holder, "message": "kelp-0 restarts",
        "mode": "Held", "fence": 1, "acquiredAt": now, "renewedAt": now,
    }}});
    let lock = lock.to_string();
    namespace.kubectl(&["patch", "openbaocluster", "kelp", "--subresource=status", "--type=merge", "-p", &lock]).await;
    eventually("the lock is free", Duration::from_secs(30), async || {
        let lock = get(&namespace, "kelp").await?.status.and_then(|status| status.operation_lock);
        lock.map_or(Ok(()), |lock| Err(format!("{lock:?}")))
    })
    .await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_restart_that_is_refused_keeps_its_lock_and_is_tried_again() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-lock-kept").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "  replicas: 1\n")).await;
    settled(&namespace, 0).await;
    let before = uid(&namespace, "kelp-0").await;
    let policy = no_pods(namespace.name()).replace("operations: [CREATE]", "operations: [DELETE]");
    namespace.apply(&policy).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    change(&namespace, "kelp", json!({"maintenance": {"restartAt": "once"}})).await;
    says(&namespace, "kelp", "Degraded", "True", "no room").await;
    let lock = async || {
        let lock = get(&namespace, "kelp").await?.status.and_then(|status| status.operation_lock);
        lock.map(|lock| lock.fence).ok_or_else(|| "nobody holds it".to_owned())
    };
    let fence = lock().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(fence.is_ok(), "{fence:?}");
    assert_eq!(lock().await, fence, "it is not given back and taken again");
    assert_eq!(uid(&namespace, "kelp-0").await, before);
    let name = namespace.name();
    namespace.kubectl(&["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name]).await;
    eventually("it restarts, and the lock is free", PATIENCE, async || {
        let now = uid(&namespace, "kelp-0").await;
        let held = lock().await;
        if now != before && !now.is_empty() && held.is_err() { Ok(()) } else { Err(format!("{now}, {held:?}")) }
    })
    .await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_paused_cluster_leaves_its_scheduled_backups_out_and_says_so() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-paused").await;
    let _operator = Operator::start(&namespace, &[]).await;
    keeping(&namespace, "  replicas: 1\n", 0).await;
    change(&namespace, "kelp", json!({"paused": true})).await;
    says(&namespace, "kelp", "Progressing", "True", "Paused").await;
    let target = json!({"provider": "file", "file": {"claimName": "sand"}});
    change(&namespace, "kelp", json!({"backup": {"schedule": "* * * * *", "target": target}})).await;
    eventually("the one that was due is left out", Duration::from_secs(150), async || {
        let status = get(&namespace, "kelp").await?.status.and_then(|status| status.backup).unwrap_or_default();
        let skipped = status.last_skip.as_ref().is_some_and(|skip| skip.reason == "Paused");
        if skipped && status.next_run.is_some_and(|next| next > Utc::now()) {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    told(&namespace, "BackupSkipped").await;
    let all = namespace.kubectl(&["get", "openbaooperations", "-o", "name"]).await;
    assert_eq!(all.trim(), "", "nothing starts");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn deleted_without_its_servers_it_leaves_them_their_volumes_and_keys() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-orphan").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "  replicas: 1\n  deletionPolicy: DeleteAll\n", 0).await;
    let pod = uid(&namespace, "kelp-0").await;
    namespace.kubectl(&["delete", "openbaocluster", "kelp", "--cascade=orphan"]).await;
    eventually("the object is gone", PATIENCE, async || {
        let found = namespace.api::<OpenBaoCluster>().get_opt("kelp").await.map_err(|error| error.to_string())?;
        found.map_or(Ok(()), |found| Err(format!("{:?}", found.metadata.finalizers)))
    })
    .await;
    told(&namespace, "Orphaned").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(uid(&namespace, "kelp-0").await, pod);
    let claim = namespace.api::<PersistentVolumeClaim>().get("data-kelp-0").await.unwrap();
    assert!(claim.metadata.deletion_timestamp.is_none());
    assert!(namespace.api::<Secret>().get_opt("kelp-unseal-key").await.unwrap().is_some());
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_older_manifest_applied_again_starts_the_version_that_has_led_over_the_volumes() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-older").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "  replicas: 1\n", 0).await;
    namespace.kubectl(&["delete", "openbaocluster", "kelp"]).await;
    eventually("the pod is gone", PATIENCE, async || {
        let now = uid(&namespace, "kelp-0").await;
        if now.is_empty() { Ok(()) } else { Err(now) }
    })
    .await;
    namespace.apply(&manifest("kelp", "  replicas: 1\n").replace("2.7.2", "2.6.1")).await;
    let found = available(&namespace, "kelp").await;
    assert_eq!(found.status.unwrap().current_version.as_deref(), Some("2.7.2"));
    says(&namespace, "kelp", "Upgrading", "False", "DowngradeBlocked").await;
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_member_that_is_down_for_good_can_leave() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-dead-leaves").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    let name = namespace.name();
    namespace.apply(&no_pods(name)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    namespace.kubectl(&["delete", "pod", "kelp-2", "--grace-period=0", "--force"]).await;
    namespace.kubectl(&["scale", "openbaocluster", "kelp", "--replicas=2"]).await;
    eventually("raft knows two members", PATIENCE, async || {
        let found = raft(&namespace, &token).await;
        if found.matches("node_id").count() == 2 { Ok(()) } else { Err(found) }
    })
    .await;
    namespace.kubectl(&["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name]).await;
    settled(&namespace, 0).await;
    let lock = get(&namespace, "kelp").await.unwrap().status.unwrap().operation_lock;
    assert_eq!(lock, None);
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_member_that_was_removed_and_tells_of_the_past_hides_no_leader() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-past").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    let (first, removed) = (leader(&namespace).await, standby(&namespace).await);
    let body = json!({ "server_id": removed }).to_string();
    bao(&namespace, "kelp", &token, &["POST", "sys/storage/raft/remove-peer", &body]).await.unwrap();
    directly(&namespace, &first, &token, "PUT", "sys/step-down").await;
    eventually("another leads, and that is known", PATIENCE, async || {
        let status = get(&namespace, "kelp").await?.status.unwrap_or_default();
        match status.active_leader {
            Some(now) if now != first && now != removed => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    says(&namespace, "kelp", "Degraded", "True", "NotInRaft").await;
    let now = get(&namespace, "kelp").await.unwrap();
    assert_eq!(condition(&now, "Available").0, "True", "{:?}", condition(&now, "Available"));
    namespace.kubectl(&["delete", "pvc", &format!("data-{removed}"), "--wait=false"]).await;
    namespace.kubectl(&["delete", "pod", &removed]).await;
    settled(&namespace, 1).await;
    must_hold(&namespace, "kelp", &token, "kept").await;
}

/// Waits until the Service for clients leads to the leader alone, or to all again.
async fn leads(namespace: &Namespace, to_leader: bool) {
    // An idle cluster is looked at once a minute: the second look sees that it lacks what the first one knew of, and a minute after that it is
    // kept from clients.
    eventually("the Service leads where it should", 2 * PATIENCE, async || {
        let service = namespace.api::<Service>().get("kelp-public").await.map_err(|error| error.to_string())?;
        let selector = service.spec.and_then(|spec| spec.selector).unwrap_or_default();
        if selector.contains_key("openbao-active") == to_leader { Ok(()) } else { Err(format!("{selector:?}")) }
    })
    .await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn clients_are_kept_from_a_member_that_does_not_follow_and_find_the_next_leader_while_no_operator_runs() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-stray").await;
    let mut operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    let stray = standby(&namespace).await;
    let body = json!({ "server_id": stray }).to_string();
    bao(&namespace, "kelp", &token, &["POST", "sys/storage/raft/remove-peer", &body]).await.unwrap();
    // What it does not get any more.
    put(&namespace, "kelp", &token, "newer").await;
    leads(&namespace, true).await;
    eventually("it bears no failure", PATIENCE, async || {
        let status = get(&namespace, "kelp").await?.status.unwrap_or_default();
        if status.failure_tolerance == Some(0) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..30 {
        let answer = bao(&namespace, "kelp", &token, &["GET", "secret/word"]).await.unwrap();
        assert!(answer.contains("newer"), "{answer}");
    }

    // The servers tell by themselves who leads.
    let first = leader(&namespace).await;
    operator.stop(Duration::from_secs(10)).await;
    directly(&namespace, &first, &token, "PUT", "sys/step-down").await;
    must_hold(&namespace, "kelp", &token, "newer").await;
    let _operator = Operator::start(&namespace, &[]).await;
    must_hold(&namespace, "kelp", &token, "newer").await;

    namespace.kubectl(&["delete", "pvc", &format!("data-{stray}"), "--wait=false"]).await;
    namespace.kubectl(&["delete", "pod", &stray]).await;
    settled(&namespace, 1).await;
    leads(&namespace, false).await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn while_a_lock_is_held_nobody_is_scaled_away_and_a_drain_meets_a_budget_of_those_who_vote() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-held").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    let now = Utc::now();
    // What its holder did is not known any more, so it stays.
    let lock = json!({"status": {"operationFence": 99, "operationLock": {
        "operation": "Upgrade", "holder": "openbaorollout/gone", "holderUID": "gone", "message": "upgrades",
        "mode": "Held", "fence": 99, "acquiredAt": now, "renewedAt": now,
    }}});
    let lock = lock.to_string();
    namespace.kubectl(&["patch", "openbaocluster", "kelp", "--subresource=status", "--type=merge", "-p", &lock]).await;
    namespace.kubectl(&["scale", "openbaocluster", "kelp", "--replicas=5"]).await;
    says(&namespace, "kelp", "Progressing", "True", "new members join: waits for Upgrade").await;
    let budget = ["get", "poddisruptionbudget", "kelp", "-o", "jsonpath={.spec.maxUnavailable}"];
    assert_eq!(namespace.kubectl(&budget).await.trim(), "1", "three vote");
    let before = uids(&namespace).await;
    namespace.kubectl(&["scale", "statefulset", "kelp", "--replicas=1"]).await;
    let count = ["get", "statefulset", "kelp", "-o", "jsonpath={.spec.replicas}"];
    eventually("they are three again", PATIENCE, async || {
        let count = namespace.kubectl(&count).await;
        if count.trim() == "3" { Ok(()) } else { Err(count) }
    })
    .await;
    namespace.kubectl(&["scale", "openbaocluster", "kelp", "--replicas=3"]).await;
    settled(&namespace, 1).await;
    assert_eq!(uids(&namespace).await[0], before[0]);
    must_hold(&namespace, "kelp", &token, "kept").await;
    let held = get(&namespace, "kelp").await.unwrap().status.unwrap().operation_lock;
    assert!(held.is_some_and(|lock| lock.holder_uid == "gone"), "nobody had to give it back");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn tls_is_switched_on_and_off_member_by_member() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-tls-switch").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "  profile: Development\n", 1).await;
    for enabled in [false, true] {
        let before = uids(&namespace).await;
        change(&namespace, "kelp", json!({"tls": {"enabled": enabled}})).await;
        all_restarted(&namespace, &before).await;
        says(&namespace, "kelp", "TLSReady", if enabled { "True" } else { "False" }, "").await;
    }
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn members_whose_certificates_have_expired_are_given_the_newer_ones() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-expired").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let now = Utc::now();
    let authority = new_authority("mine", namespace.name(), now - TimeDelta::days(400)).unwrap();
    let names = serving_names("kelp", namespace.name(), &[]);
    // One year, of which this much is left: enough to start with, and it ends a look or two before the patience below does.
    let issued = now - TimeDelta::days(365) + TimeDelta::seconds(120);
    let short = issue(&authority, &names, DEFAULT_ROTATION, issued).unwrap();
    bring(&namespace, &secret(&short.cert, &short, &authority.cert)).await;
    let text = manifest("kelp", "").replace("tls: {enabled: true}", "tls: {enabled: true, mode: External}");
    namespace.apply(&text).await;
    settled(&namespace, 1).await;
    says(&namespace, "kelp", "Available", "False", "has expired").await;
    let before = uids(&namespace).await;
    let long = issue(&authority, &names, DEFAULT_ROTATION, Utc::now()).unwrap();
    bring(&namespace, &secret(&long.cert, &long, &authority.cert)).await;
    // A user's Secret is looked at again at once when the spec changes.
    change(&namespace, "kelp", json!({"tls": {"rotationPeriod": "100h"}})).await;
    all_restarted(&namespace, &before).await;
}
