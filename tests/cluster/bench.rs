//! What a cluster costs the API server, and how long people wait: numbers for `cargo xtask bench cluster`.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{available, get, manifest};
use crate::harness::{Cluster, Operator, eventually};

/// How long the idle cluster is watched; the goal speaks of minutes.
const IDLE: Duration = Duration::from_secs(180);

#[tokio::test]
#[ignore = "a benchmark"]
async fn bench_cluster_to_available() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("bench-cluster").await;
    let operator = Operator::start_released(&namespace, &[]).await;
    let user = format!("system:serviceaccount:{}:openbao-operator", namespace.name());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let audit = cluster.audit();
    let start = Instant::now();
    namespace.apply(&manifest("kelp", "")).await;
    available(&namespace, "kelp").await;
    let seconds = start.elapsed().as_secs_f64();
    let requests = audit.requests(&user);
    let lease = |resource: &str| resource.starts_with("leases");
    let writes = requests.iter().filter(|request| request.writes() && !lease(&request.resource)).count();
    let all = requests.iter().filter(|request| !lease(&request.resource)).count();

    // Until every member votes the operator still looks.
    eventually("all members vote", Duration::from_secs(120), async || {
        let status = get(&namespace, "kelp").await?.status.unwrap_or_default();
        if status.failure_tolerance == Some(1) { Ok(()) } else { Err(format!("{:?}", status.failure_tolerance)) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let audit = cluster.audit();
    tokio::time::sleep(IDLE).await;
    let idle: Vec<_> = audit.requests(&user).into_iter().filter(|request| request.verb != "watch").collect();
    let minutes = IDLE.as_secs_f64() / 60.0;
    let (leases, others): (Vec<_>, Vec<_>) = idle.iter().partition(|request| lease(&request.resource));

    let mut back = Vec::new();
    for (kind, name) in
        [("service", "kelp-public"), ("configmap", "kelp-config"), ("secret", "kelp-tls-server"), ("pdb", "kelp")]
    {
        namespace.kubectl(&["delete", kind, name]).await;
        let deleted = Instant::now();
        eventually("it is back", Duration::from_secs(20), async || {
            let output = cluster.inside(&["kubectl", "-n", namespace.name(), "get", kind, name]).await;
            if output.status.success() { Ok(()) } else { Err(String::new()) }
        })
        .await;
        back.push(deleted.elapsed().as_secs_f64());
    }
    let round = |value: f64| (value * 100.0).round() / 100.0;
    println!(
        "BENCH {}",
        json!({
            "name": "cluster",
            "seconds_to_available": round(seconds),
            "operator_writes_to_available": writes,
            "operator_requests_to_available": all,
            "requests_per_idle_minute": round(others.len() as f64 / minutes),
            "lease_requests_per_minute": round(leases.len() as f64 / minutes),
            "slowest_child_back_seconds": round(back.iter().copied().fold(0.0, f64::max)),
            "resident_mib_one_cluster": operator.memory() / 1024 / 1024,
        })
    );
}
