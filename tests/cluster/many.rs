//! Many clusters at once, and what clusters cost that nobody touches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{get, manifest};
use crate::harness::{Cluster, Namespace, Operator, eventually};

/// Five elections for every core.
const LONG: Duration = Duration::from_secs(900);

/// With so many servers on two cores every heartbeat is late: the vendor's setting for slow machines.
fn small(name: &str) -> String {
    manifest(name, "  replicas: 1\n  configuration: {raft: {performanceMultiplier: 5}}\n")
}

async fn all_available(namespaces: &[&Namespace], names: &[&str]) {
    eventually("every cluster is available", LONG, async || {
        let mut missing = Vec::new();
        for namespace in namespaces {
            for name in names {
                let cluster = get(namespace, name).await?;
                let found = super::condition(&cluster, "Available");
                let voter = cluster.status.is_some_and(|status| status.members.iter().all(|m| m.voter == Some(true)));
                if found.0 != "True" || !voter {
                    missing.push(format!("{}/{name}: {}", namespace.name(), found.1));
                }
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
    })
    .await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn twenty_clusters_in_twenty_namespaces_start_at_once() {
    let cluster = Cluster::get().await;
    let mut namespaces = Vec::new();
    for _ in 0..20 {
        namespaces.push(cluster.namespace("cluster-many").await);
    }
    let watched: Vec<&str> = namespaces.iter().map(Namespace::name).collect();
    let operator = Operator::start(&namespaces[0], &[("OPENBAO_WATCH_NAMESPACES", &watched.join(","))]).await;
    let start = Instant::now();
    for namespace in &namespaces {
        namespace.apply(&small("kelp")).await;
    }
    all_available(&namespaces.iter().collect::<Vec<_>>(), &["kelp"]).await;
    println!(
        "20 clusters available after {:.0} s, operator {} MiB",
        start.elapsed().as_secs_f64(),
        operator.memory() >> 20
    );
    let mut ids = std::collections::BTreeSet::new();
    for namespace in &namespaces {
        ids.insert(get(namespace, "kelp").await.unwrap().status.unwrap().cluster_id.unwrap());
    }
    assert_eq!(ids.len(), 20, "each is its own");
}

/// Ten minutes of five clusters that nobody touches, and what a restart of the operator costs then.
#[tokio::test]
#[ignore = "a benchmark"]
async fn bench_idle() {
    const MINUTES: u32 = 10;
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("bench-idle").await;
    let mut operator = Operator::start_released(&namespace, &[]).await;
    let user = format!("system:serviceaccount:{}:openbao-operator", namespace.name());
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        namespace.apply(&small(name)).await;
    }
    all_available(&[&namespace], &names).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let count = |audit: &crate::harness::Audit| {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let (mut requests, mut writes, mut leases) = (0, 0, 0);
        for request in audit.requests(&user) {
            if request.resource.starts_with("leases") {
                leases += 1;
            } else if request.verb != "watch" {
                requests += 1;
                // Asking for a token of one's own, or for leave, changes nothing.
                let changes =
                    request.writes() && !request.resource.ends_with("/token") && !request.resource.ends_with("reviews");
                writes += u32::from(changes);
                *counts.entry(format!("{} {}", request.verb, request.resource)).or_default() += 1;
            }
        }
        (requests, writes, leases, counts)
    };
    let audit = cluster.audit();
    tokio::time::sleep(Duration::from_secs(u64::from(MINUTES) * 60)).await;
    let idle = count(&audit);
    let audit = cluster.audit();
    operator.kill();
    let operator = Operator::start_released(&namespace, &[("OPENBAO_LEADER_ELECT", "false")]).await;
    tokio::time::sleep(Duration::from_secs(75)).await;
    let again = count(&audit);
    println!(
        "BENCH {}",
        json!({
            "name": "idle", "clusters": names.len(), "minutes": MINUTES,
            "requests_beside_lease": idle.0, "writes_beside_lease": idle.1,
            "lease_requests_per_minute": f64::from(idle.2) / f64::from(MINUTES), "idle_requests": idle.3,
            "requests_after_restart": again.0, "writes_after_restart": again.1, "restart_requests": again.3,
            "resident_mib": operator.memory() >> 20,
        })
    );
    assert_eq!(idle.1, 0, "an idle cluster writes nothing: {:?}", idle.3);
    assert_eq!(again.1, 0, "a restart writes nothing: {:?}", again.3);
}
