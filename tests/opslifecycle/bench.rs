//! What the lock and the engine cost, counted by the API server itself.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::api::PostParams;
use openbao_operator::{
    adapter::operationlock::{self, Force},
    api::operation::OpenBaoOperation,
};
use serde_json::json;

use super::{PATIENCE, bare_cluster, child, crash, lock::claim_of};
use crate::harness::{Audit, Cluster, Namespace, eventually};

/// So often the lock changes hands.
const ROUNDS: usize = 30;

/// A workflow that does nothing but hold the lock for a moment.
fn moment(name: &str) -> OpenBaoOperation {
    serde_json::from_value(json!({
        "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": name},
        "spec": {"cluster": "bench", "operation": "Workflow", "plan": {"steps": [
            {"name": "hold", "action": "Wait", "config": {"duration": "2s"}},
        ]}},
    }))
    .expect("a workflow")
}

/// When the lock's writes arrived at the API server.
fn lock_writes(audit: &Audit, namespace: &Namespace) -> Vec<DateTime<Utc>> {
    let mut at: Vec<_> = audit
        .requests("")
        .into_iter()
        .filter(|request| request.namespace == namespace.name() && request.resource == "openbaoclusters/status")
        .filter(|request| request.writes() && request.code == 200)
        .map(|request| request.at)
        .collect();
    at.sort();
    at
}

/// Milliseconds from each release to the next acquire: one operation always waits while another one holds the lock.
async fn hand_overs(cluster: &Cluster) -> Vec<f64> {
    let namespace = cluster.namespace("bench-ops-wake").await;
    bare_cluster(&namespace, "bench").await;
    let log = namespace.folder().join("driver.log");
    let mut driver = child::command(&namespace, "driver", "", &log).spawn().expect("a driver");
    let api = namespace.api::<OpenBaoOperation>();
    let audit = cluster.audit();
    for round in 0..=ROUNDS {
        let name = format!("moment-{round}");
        api.create(&PostParams::default(), &moment(&name)).await.expect("a workflow");
        if round == 0 {
            continue;
        }
        // Until it waits, or had no need to.
        eventually("the next one waits", PATIENCE, async || {
            let op = api.get(&name).await.map_err(|error| error.to_string())?;
            let status = op.status.unwrap_or_default();
            let waits = status.reason.as_deref() == Some("WaitingForLock");
            if waits || status.lock.is_some() { Ok(()) } else { Err(format!("{:?}", status.message)) }
        })
        .await;
        let before = format!("moment-{}", round - 1);
        eventually("the one before it ends", PATIENCE, async || {
            let status = api.get(&before).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            if status.phase.is_terminal() { Ok(()) } else { Err(format!("{:?}", status.message)) }
        })
        .await;
    }
    let last = format!("moment-{ROUNDS}");
    eventually("the last one ends", PATIENCE, async || {
        let status = api.get(&last).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if status.phase.is_terminal() { Ok(()) } else { Err(format!("{:?}", status.message)) }
    })
    .await;
    let _ = driver.kill();
    let _ = driver.wait();
    let writes = lock_writes(&audit, &namespace);
    assert_eq!(writes.len(), 2 * (ROUNDS + 1), "each of them takes the lock once and gives it back once");
    // Take, give back, take, give back, …
    let mut waits: Vec<f64> = writes[1..]
        .chunks_exact(2)
        .map(|pair| (pair[1] - pair[0]).to_std().unwrap_or_default().as_secs_f64() * 1000.0)
        .collect();
    waits.sort_by(f64::total_cmp);
    waits
}

/// All requests about a cluster's object for one acquire and one release, without contention.
async fn requests_per_tenure(cluster: &Cluster) -> usize {
    let namespace = cluster.namespace("bench-ops-lock").await;
    bare_cluster(&namespace, "bench").await;
    let (client, mine) = (namespace.client(), claim_of("mine"));
    let api = namespace.api();
    // The first tenure makes the status; what a watch knows is fresh from here on.
    let known = api.get("bench").await.expect("the cluster");
    let handle = operationlock::of(&client, &known).expect("a lock");
    handle.acquire(&mine, Force::Never, Utc::now()).await.expect("the lock");
    handle.release(&mine, None).await.expect("its release");
    let free = api.get("bench").await.expect("the cluster");
    let audit = cluster.audit();
    let taken = operationlock::of(&client, &free)
        .expect("a lock")
        .acquire(&mine, Force::Never, Utc::now())
        .await
        .expect("the lock");
    let mut held = free.clone();
    let status = held.status.as_mut().expect("a status");
    status.operation_fence = Some(taken.lock.fence);
    status.operation_lock = Some(taken.lock.clone());
    operationlock::of(&client, &held)
        .expect("a lock")
        .release(&mine, Some(taken.lock.fence))
        .await
        .expect("its release");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let about_it = |request: &crate::harness::Request| {
        request.namespace == namespace.name() && request.resource.starts_with("openbaoclusters")
    };
    audit.requests("").iter().filter(|request| about_it(request)).count()
}

#[tokio::test]
#[ignore = "a benchmark: cargo xtask bench opslifecycle"]
async fn bench_opslifecycle() {
    let cluster = Cluster::get().await;
    let waits = hand_overs(&cluster).await;
    let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    let requests = requests_per_tenure(&cluster).await;
    let writes = crash::writes_of_a_calm_workflow(&cluster, "bench-ops-writes").await;
    let per_step =
        f64::from(u32::try_from(writes).expect("few")) / f64::from(u32::try_from(crash::STEPS).expect("few"));
    println!(
        "BENCH {}",
        json!({
            "name": "opslifecycle",
            "lock_release_to_next_acquire_median_ms": median,
            "lock_release_to_next_acquire_worst_ms": worst,
            "hand_overs": waits.len(),
            "requests_per_acquire_and_release": requests,
            "writes_per_workflow_step": per_step,
            "workflow_steps": crash::STEPS,
        })
    );
    assert!(median <= 100.0, "a waiter is woken within 100 ms: {waits:?}");
    assert_eq!(requests, 2, "one request to take the lock, one to give it back");
    assert!(per_step <= 2.0, "{writes} writes");
}
