//! What happens to a cluster that serves: pods die, volumes vanish, members come and go, the object is deleted.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};

use super::{
    PATIENCE, available, bao, change, condition, get, keeping, login, manifest, must_hold, put, says, settled, uid,
};
use crate::harness::{Cluster, Operator, eventually};

#[tokio::test]
async fn losing_ordinal_0_with_its_volume_never_starts_a_second_cluster() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-ordinal-0").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "")).await;
    settled(&namespace, 1).await;
    let before = get(&namespace, "kelp").await.unwrap().status.unwrap().cluster_id;
    let token = login(&namespace, "kelp").await;
    put(&namespace, "kelp", &token, "kept").await;
    let old = uid(&namespace, "kelp-0").await;
    namespace.kubectl(&["delete", "pvc", "data-kelp-0", "--wait=false"]).await;
    namespace.kubectl(&["delete", "pod", "kelp-0"]).await;
    eventually("another pod in its place", PATIENCE, async || {
        let now = uid(&namespace, "kelp-0").await;
        if now.is_empty() || now == old { Err(now) } else { Ok(()) }
    })
    .await;
    settled(&namespace, 1).await;
    let after = get(&namespace, "kelp").await.unwrap().status.unwrap().cluster_id;
    assert_eq!(after, before, "the same OpenBao cluster");
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn losing_ordinal_0_with_its_volume_before_the_others_vote_starts_no_second_cluster_either() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-ordinal-0-early").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "")).await;
    let before = eventually("the first member leads", PATIENCE, async || {
        let status = get(&namespace, "kelp").await?.status.unwrap_or_default();
        let leads = status.active_leader.is_some();
        status.cluster_id.filter(|_| leads).ok_or_else(|| format!("{:?}", status.phase))
    })
    .await;
    namespace.kubectl(&["delete", "pvc", "data-kelp-0", "--wait=false"]).await;
    namespace.kubectl(&["delete", "pod", "kelp-0", "--grace-period=1"]).await;
    // Whatever becomes of it, two OpenBao clusters must never stand behind one Service: neither at once nor one after the other.
    let end = std::time::Instant::now() + Duration::from_secs(45);
    let mut ids = std::collections::BTreeSet::from([before]);
    while std::time::Instant::now() < end {
        if let Ok(answer) = bao(&namespace, "kelp", "", &["GET", "sys/health?standbyok=true"]).await
            && let Ok(health) = serde_json::from_str::<serde_json::Value>(&answer)
            && let Some(id) = health["cluster_id"].as_str()
        {
            ids.insert(id.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(ids.len(), 1, "clients met several clusters: {ids:?}");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn the_leader_killed_and_a_standby_wiped_come_back_by_themselves() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-pods").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    let leader = get(&namespace, "kelp").await.unwrap().status.unwrap().active_leader.unwrap();
    namespace.kubectl(&["delete", "pod", &leader, "--grace-period=0", "--force"]).await;
    eventually("another leads", PATIENCE, async || {
        let status = get(&namespace, "kelp").await?.status.unwrap_or_default();
        if status.active_leader.as_deref().is_some_and(|now| now != leader) {
            Ok(())
        } else {
            Err(format!("{:?}", status.active_leader))
        }
    })
    .await;
    settled(&namespace, 1).await;
    let status = get(&namespace, "kelp").await.unwrap().status.unwrap();
    let standby = status
        .members
        .iter()
        .map(|member| member.name.clone())
        .find(|name| Some(name) != status.active_leader.as_ref())
        .unwrap();
    namespace.kubectl(&["delete", "pvc", &format!("data-{standby}"), "--wait=false"]).await;
    namespace.kubectl(&["delete", "pod", &standby]).await;
    settled(&namespace, 1).await;
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn members_join_and_leave_and_none_is_left_behind_in_raft() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-scale").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "  replicas: 1\n", 0).await;
    for (replicas, tolerance) in [(3, 1), (5, 2), (3, 1), (1, 0), (3, 1)] {
        namespace.kubectl(&["scale", "openbaocluster", "kelp", &format!("--replicas={replicas}")]).await;
        eventually("the members are as many as asked for", PATIENCE, async || {
            let status = get(&namespace, "kelp").await?.status.unwrap_or_default();
            if status.members.len() == usize::try_from(replicas).unwrap() {
                Ok(())
            } else {
                Err(format!("{:?}", status.members))
            }
        })
        .await;
        settled(&namespace, tolerance).await;
        let raft = bao(&namespace, "kelp", &token, &["GET", "sys/storage/raft/configuration"]).await.unwrap();
        assert_eq!(raft.matches("node_id").count(), usize::try_from(replicas).unwrap(), "{raft}");
        must_hold(&namespace, "kelp", &token, "kept").await;
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn members_leave_by_way_of_raft_although_the_statefulset_was_deleted_with_the_wish() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-set-gone").await;
    let mut operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "  replicas: 3\n", 1).await;
    // Nobody is there to see the one before the other, and nothing is remembered.
    operator.stop(Duration::from_secs(30)).await;
    namespace.kubectl(&["delete", "statefulset", "kelp", "--cascade=foreground"]).await;
    change(&namespace, "kelp", serde_json::json!({"replicas": 1})).await;
    let _operator = Operator::start(&namespace, &[]).await;
    eventually("one member is left in raft", PATIENCE, async || {
        let raft = bao(&namespace, "kelp", &token, &["GET", "sys/storage/raft/configuration"]).await?;
        if raft.matches("node_id").count() == 1 { Ok(()) } else { Err(raft) }
    })
    .await;
    settled(&namespace, 0).await;
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
async fn autopilot_is_set_as_the_spec_says_whenever_it_or_the_leader_changes() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-autopilot").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "  replicas: 1\n", 0).await;
    let path = "sys/storage/raft/autopilot/configuration";
    let shows = async |logs: &str| {
        eventually(&format!("OpenBao shows {logs}"), PATIENCE, async || {
            let found = bao(&namespace, "kelp", &token, &["GET", path]).await?;
            if found.contains(&format!("\"max_trailing_logs\":{logs}")) { Ok(()) } else { Err(found) }
        })
        .await;
    };
    let before = uid(&namespace, "kelp-0").await;
    let raft = |settings: serde_json::Value| serde_json::json!({"configuration": {"raft": {"autopilot": settings}}});
    change(&namespace, "kelp", raft(serde_json::json!({"maxTrailingLogs": 777, "cleanupDeadServers": true}))).await;
    shows("777").await;
    assert_eq!(uid(&namespace, "kelp-0").await, before, "nobody was restarted for it");
    // As after a restore: the next leader knows something else.
    bao(&namespace, "kelp", &token, &["POST", path, r#"{"max_trailing_logs":888}"#]).await.unwrap();
    namespace.kubectl(&["delete", "pod", "kelp-0"]).await;
    shows("777").await;
    // OpenBao removes no server that was away for less than a minute.
    change(&namespace, "kelp", raft(serde_json::json!({"deadServerLastContactThreshold": "5s"}))).await;
    says(&namespace, "kelp", "Degraded", "True", "AutopilotRefused").await;
    change(&namespace, "kelp", raft(serde_json::json!({"deadServerLastContactThreshold": "2m"}))).await;
    says(&namespace, "kelp", "Degraded", "False", "").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_changed_setting_restarts_the_standbys_first_and_the_leader_last() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-config").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "")).await;
    settled(&namespace, 1).await;
    let status = get(&namespace, "kelp").await.unwrap().status.unwrap();
    let leader = status.active_leader.unwrap();
    let names = ["kelp-0", "kelp-1", "kelp-2"];
    let mut before = Vec::new();
    for name in names {
        before.push(uid(&namespace, name).await);
    }
    let patch = r#"{"spec":{"configuration":{"logLevel":"debug"},"maintenance":{"restartAt":"once"}}}"#;
    namespace.kubectl(&["patch", "openbaocluster", "kelp", "--type=merge", "-p", patch]).await;
    let mut order: Vec<String> = Vec::new();
    eventually("all were restarted", PATIENCE, async || {
        for (name, old) in names.iter().zip(&before) {
            if uid(&namespace, name).await != *old && !order.iter().any(|known| known == name) {
                order.push((*name).to_owned());
            }
        }
        let status = get(&namespace, "kelp").await?.status.unwrap_or_default();
        if order.len() == 3 && status.last_restart_at.as_deref() == Some("once") {
            Ok(())
        } else {
            Err(format!("{order:?}"))
        }
    })
    .await;
    assert_eq!(order.last(), Some(&leader), "{order:?}");
    settled(&namespace, 1).await;
    let lock = get(&namespace, "kelp").await.unwrap().status.unwrap().operation_lock;
    assert_eq!(lock, None, "the lock is given back");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn retained_volumes_and_keys_carry_their_data_into_a_cluster_applied_again() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-again").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    let before = get(&namespace, "kelp").await.unwrap().status.unwrap().cluster_id;
    namespace.kubectl(&["delete", "openbaocluster", "kelp"]).await;
    eventually("the pods are gone", PATIENCE, async || {
        let pods = namespace.kubectl(&["get", "pods", "-o", "name", "-l", "openbao.org/cluster=kelp"]).await;
        if pods.trim().is_empty() { Ok(()) } else { Err(pods) }
    })
    .await;
    assert!(namespace.api::<Secret>().get_opt("kelp-unseal-key").await.unwrap().is_some(), "the key stays");
    namespace.apply(&manifest("kelp", "")).await;
    available(&namespace, "kelp").await;
    let after = get(&namespace, "kelp").await.unwrap().status.unwrap().cluster_id;
    assert_eq!(after, before, "the same data, not a new cluster");
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn deletion_takes_what_the_policy_says_and_nothing_else() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-delete").await;
    let _operator = Operator::start(&namespace, &[]).await;
    // Without self-initialisation, so that there is a root token too.
    let whole = manifest("kelp", "");
    let plain = whole.split_once("  selfInit:").unwrap().0;
    // Twice in a row without a hand of anybody's: what the first leaves must not stand in the second one's way.
    for (policy, volumes, key) in
        [("DeletePVCs", false, true), ("DeletePVCs", false, true), ("DeleteAll", false, false)]
    {
        namespace.apply(&format!("{plain}  replicas: 1\n  deletionPolicy: {policy}\n")).await;
        available(&namespace, "kelp").await;
        let token = namespace.api::<Secret>().get_opt("kelp-root-token").await.unwrap();
        assert!(token.is_some(), "{policy}: it was initialised");
        namespace.kubectl(&["delete", "openbaocluster", "kelp"]).await;
        eventually("volumes are as the policy says", PATIENCE, async || {
            let left = namespace
                .api::<PersistentVolumeClaim>()
                .get_opt("data-kelp-0")
                .await
                .map_err(|error| error.to_string())?;
            if left.is_some() == volumes { Ok(()) } else { Err(format!("{policy}: {}", left.is_some())) }
        })
        .await;
        let kept = namespace.api::<Secret>().get_opt("kelp-unseal-key").await.unwrap().is_some();
        assert_eq!(kept, key, "{policy}");
        let token = namespace.api::<Secret>().get_opt("kelp-root-token").await.unwrap();
        assert!(token.is_none(), "{policy}: a root token without its volumes is worth nothing");
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_operator_killed_again_and_again_during_the_first_start_still_makes_one_cluster() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-killed").await;
    let mut operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "")).await;
    for pause in [150, 300, 600, 1_200, 2_400, 3_600] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        operator.kill();
        operator = Operator::start(&namespace, &[("OPENBAO_LEADER_ELECT", "false")]).await;
    }
    let found = available(&namespace, "kelp").await;
    assert_eq!(condition(&found, "Degraded").0, "False", "{:?}", condition(&found, "Degraded"));
    let token = login(&namespace, "kelp").await;
    put(&namespace, "kelp", &token, "one").await;
    must_hold(&namespace, "kelp", &token, "one").await;
}
