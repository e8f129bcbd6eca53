//! What the operator itself costs: numbers for `cargo xtask bench platform`.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Cluster, Namespace, Operator};

/// How long after its start the requests of a replica are counted.
const START: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: cargo xtask bench platform"]
async fn bench_platform() {
    let program =
        tokio::task::spawn_blocking(|| xtask::image::programs(&[]).expect("the image's program")).await.unwrap();
    let weight = xtask::image::weight(&program).expect("the image's weight");
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("bench-platform").await;
    let user = format!("system:serviceaccount:{}:openbao-operator", namespace.name());

    let (mut first, empty) = start(&namespace, &program).await;
    namespace
        .apply(
            "apiVersion: openbao.org/v1alpha1\nkind: OpenBaoCluster\nmetadata: {name: kelp}\n\
             spec: {version: 2.7.2, replicas: 3, storage: {size: 1Gi}, deletionPolicy: DeletePVCs, tls: {enabled: true},\n  \
             configuration: {raft: {performanceMultiplier: 5}}}\n",
        )
        .await;
    namespace.kubectl(&["wait", "openbaocluster/kelp", "--for=condition=Available", "--timeout=300s"]).await;
    // Every member votes by then, and the operator has nothing left to write.
    tokio::time::sleep(Duration::from_secs(40)).await;
    first.kill();
    // The lease of a killed one runs out first: what is measured is a start, not a wait.
    namespace.kubectl(&["delete", "lease", "openbao-operator"]).await;
    let audit = cluster.audit();
    let (mut second, with_one) = start(&namespace, &program).await;
    tokio::time::sleep(START).await;
    let lease = |resource: &str| resource.starts_with("leases");
    let requests: Vec<_> = audit.requests(&user).into_iter().filter(|request| !lease(&request.resource)).collect();
    let writes = requests.iter().filter(|request| request.writes()).count();
    let resident = second.memory();

    let standby = Operator::launch_program(&namespace, &program, &[]).await;
    says(&standby, "standby").await;
    let resident_standby = standby.memory();
    let told = Instant::now();
    second.stop(Duration::from_secs(15)).await;
    says(&standby, "leading").await;
    let handed_over = told.elapsed();
    let third = Operator::launch_program(&namespace, &program, &[]).await;
    says(&third, "standby").await;
    let killed = Instant::now();
    drop(standby);
    says(&third, "leading").await;
    println!(
        "BENCH {}",
        json!({
            "name": "operator",
            "image_compressed_bytes": weight,
            "start_to_leading_seconds": seconds(empty),
            "start_to_leading_with_one_cluster_seconds": seconds(with_one),
            "requests_at_start_with_one_cluster": requests.len(),
            "writes_at_start_with_one_cluster": writes,
            "resident_bytes_with_one_cluster": resident,
            "resident_bytes_as_standby": resident_standby,
            "take_over_after_sigterm_seconds": seconds(handed_over),
            "take_over_after_kill_seconds": seconds(killed.elapsed()),
        })
    );
}

/// From the start of the process until it leads with full caches.
async fn start(namespace: &Namespace, program: &Path) -> (Operator, Duration) {
    let begun = Instant::now();
    let operator = Operator::launch_program(namespace, program, &[]).await;
    says(&operator, "leading").await;
    (operator, begun.elapsed())
}

async fn says(operator: &Operator, what: &str) {
    let begun = Instant::now();
    loop {
        match operator.http("/readyz").await {
            Ok(said) if said.trim().starts_with(what) => return,
            said => assert!(begun.elapsed() < Duration::from_secs(60), "not {what}: {said:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100.0).round() / 100.0
}
