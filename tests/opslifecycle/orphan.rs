//! A lock whose holder is gone: whoever waits takes it over, but only with the proof that nothing irreversible was done.

use chrono::Utc;
use kube::api::PostParams;
use openbao_operator::{
    adapter::operationlock::{self, Claim, Force},
    api::{
        cluster::{OpenBaoCluster, status::LockOperation},
        operation::{OpenBaoOperation, OperationPhase},
    },
};
use serde_json::json;

use super::{PATIENCE, bare_cluster, child, lock::claim_of};
use crate::harness::{Cluster, Operator, eventually};

fn of_nobody(name: &str) -> Claim {
    Claim { operation: LockOperation::Upgrade, holder: "openbaocluster/upgrade".into(), ..claim_of(name) }
}

#[tokio::test]
async fn a_waiter_takes_over_what_nobody_stands_behind_and_only_with_proof() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("ops-orphan").await;
    let bare = bare_cluster(&namespace, "orphaned").await;
    let client = namespace.client();
    let lock = operationlock::of(&client, &bare).expect("a lock");
    // Its holder announced something irreversible and vanished: that cannot be judged.
    let unknown = of_nobody("vanished");
    let taken = lock.acquire(&unknown, Force::Never, Utc::now()).await.expect("the lock").lock;
    lock.renew(&unknown, taken.fence, true, Utc::now()).await.expect("a write").expect("the same tenure");

    let api = namespace.api::<OpenBaoOperation>();
    let waiter = json!({
        "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "waiter"},
        "spec": {"cluster": "orphaned", "operation": "Workflow", "plan": {"steps": [
            {"name": "moment", "action": "Wait", "config": {"duration": "1s"}},
        ]}},
    });
    api.create(&PostParams::default(), &serde_json::from_value(waiter).expect("a workflow")).await.expect("created");
    let log = namespace.folder().join("driver.log");
    let mut driver = child::command(&namespace, "driver", "", &log).spawn().expect("a driver");
    eventually("the waiter says what a person can do", PATIENCE, async || {
        let status = api.get("waiter").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let message = status.message.unwrap_or_default();
        let told = message.contains("Release") && message.contains("uid-vanished");
        if told { Ok(()) } else { Err(message) }
    })
    .await;

    // One that had announced nothing, and vanished too.
    lock.acquire(&of_nobody("harmless"), Force::Always, Utc::now()).await.expect("the lock");
    eventually("the waiter takes over and ends", PATIENCE, async || {
        let status = api.get("waiter").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if status.phase.is_terminal() { Ok(()) } else { Err(format!("{:?}", status.message)) }
    })
    .await;
    let _ = driver.kill();
    let _ = driver.wait();
    let status = api.get("waiter").await.expect("the waiter").status.expect("a status");
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
    let record = status.lock.expect("its lock");
    assert!(record.replaced.is_some_and(|replaced| replaced.contains("uid-harmless")));
    assert!(status.conditions.iter().any(|one| one.type_ == "LockOverridden" && one.status == "True"));
    let after = namespace.api::<OpenBaoCluster>().get("orphaned").await.expect("the cluster").status.expect("a status");
    assert_eq!((after.operation_fence, after.operation_lock), (Some(3), None));
}

#[tokio::test]
async fn a_holder_that_cannot_be_looked_up_keeps_neither_the_status_nor_other_requests_waiting() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("ops-unseen").await;
    // Paused, so that no server is needed for it.
    let object = json!({
        "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster", "metadata": {"name": "unseen"},
        "spec": {"version": "2.7.2", "replicas": 1, "profile": "Development", "tls": {"enabled": false},
            "storage": {"size": "1Gi"}, "paused": true, "requests": [
            {"nonce": "free", "action": "Release", "holderUID": "uid-vanished", "fence": 1},
            {"nonce": "late", "action": "Release", "holderUID": "uid-of-somebody-before", "fence": 0},
        ]},
    });
    let clusters = namespace.api::<OpenBaoCluster>();
    let object = serde_json::from_value(object).expect("a cluster");
    let made = clusters.create(&PostParams::default(), &object).await.expect("the cluster is created");
    let lock = operationlock::of(&namespace.client(), &made).expect("a lock");
    lock.acquire(&of_nobody("vanished"), Force::Never, Utc::now()).await.expect("the lock");
    let refused = json!({"rules": [
        {"match": {"verb": "get", "resource": "openbaooperations"}, "do": {"fault": "answer", "status": 403}},
    ]});
    let rules = refused.to_string();
    let _operator = Operator::start(&namespace, &[("OPENBAO_FAULT_RULES", &rules)]).await;
    eventually("the status tells of it, and the other request is answered", PATIENCE, async || {
        let status = clusters.get("unseen").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let degraded = status.conditions.iter().find(|one| one.type_ == "Degraded" && one.status == "True");
        let told = degraded.is_some_and(|one| one.message.contains("failed to look up"));
        let answered: Vec<&str> = status.handled_requests.iter().map(|one| one.nonce.as_str()).collect();
        if told && answered == ["late"] { Ok(()) } else { Err(format!("{answered:?} {:?}", status.conditions)) }
    })
    .await;
}
