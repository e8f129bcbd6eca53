//! What an upgrade costs: time, requests to the API server, and what people at work on the cluster feel of it, beside a bare
//! script that does the same by kubectl with no safety. For `cargo xtask bench upgrade`.

use std::time::{Duration, Instant};

use openbao_operator::api::OperationPhase;
use serde_json::{Value, json};

use super::{Counted, Traffic, ended, nothing_lost, took, wish};
use crate::harness::{Cluster, Operator};
use crate::restore::setup::Bay;

const FROM: &str = "2.6.1";
const TO: &str = "2.7.2";

#[tokio::test]
#[ignore = "a benchmark"]
async fn bench_upgrade() {
    let cluster = Cluster::get().await;
    let ours = by_operator(&cluster).await;
    let script = by_script(&cluster).await;
    println!("BENCH {}", json!({"name": "upgrade", "operator": ours, "script": script}));
}

fn felt(counted: &Counted) -> Value {
    json!({
        "writes": counted.writes,
        "failed_writes": counted.failed_writes(),
        "reads": counted.reads,
        "failed_reads": counted.failed_reads,
        "leaderless_ms": counted.longest_read_gap_ms,
        "longest_write_gap_ms": counted.longest_write_gap_ms,
    })
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100.0).round() / 100.0
}

async fn by_operator(cluster: &Cluster) -> Value {
    let namespace = cluster.namespace("bench-upgrade").await;
    let _operator = Operator::start_released(&namespace, &[]).await;
    let user = format!("system:serviceaccount:{}:openbao-operator", namespace.name());
    let bay = Bay::named(&namespace, "kelp", 3, FROM, "upgrade: {soak: 1s}").await;
    let token = bay.login().await;
    let traffic = Traffic::start(&bay, &token).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let audit = cluster.audit();
    let start = Instant::now();
    wish(&bay, json!({ "version": TO })).await;
    let upgrade = ended(&bay, 1).await;
    let total = start.elapsed();
    let status = upgrade.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let requests: Vec<_> =
        audit.requests(&user).into_iter().filter(|request| !request.resource.starts_with("leases")).collect();
    let writes: Vec<_> = requests.iter().filter(|request| request.writes()).collect();
    let counted = traffic.stop().await;
    nothing_lost(&bay, &token, &counted).await;
    println!("{}", took(&upgrade));
    for ((verb, resource), count) in audit.count(&user) {
        println!("  {count:4} {verb} {resource}");
    }
    let soak = status
        .steps
        .iter()
        .find(|step| step.name == "Soak")
        .and_then(|step| (step.completed_at? - step.started_at?).to_std().ok());
    json!({
        "seconds_without_soak": seconds(total.saturating_sub(soak.unwrap_or_default())),
        "operator_writes": writes.len(),
        "operator_requests": requests.len(),
        "felt": felt(&counted),
    })
}

/// Template, standbys, step-down, old leader: each waited for by kubectl, nothing checked, no backup.
async fn by_script(cluster: &Cluster) -> Value {
    let namespace = cluster.namespace("bench-script").await;
    let operator = Operator::start_released(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 3, FROM, "").await;
    let token = bay.login().await;
    drop(operator);
    let traffic = Traffic::start(&bay, &token).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let leader = bay.leader().await;
    let words = ["get", "statefulset", &bay.name, "-o", "jsonpath={.spec.template.spec.containers[0].image}"];
    let image = namespace.kubectl(&words).await.replace(FROM, TO);
    let start = Instant::now();
    let patch = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image.trim()}]);
    namespace.kubectl(&["patch", "statefulset", &bay.name, "--type=json", "-p", &patch.to_string()]).await;
    let standbys = (0..3).map(|ordinal| format!("{}-{ordinal}", bay.name)).filter(|pod| *pod != leader);
    for pod in standbys {
        replace(&bay, &pod).await;
    }
    bay.step_down(&token).await;
    replace(&bay, &leader).await;
    let total = start.elapsed();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let counted = traffic.stop().await;
    json!({"seconds": seconds(total), "felt": felt(&counted)})
}

async fn replace(bay: &Bay<'_>, pod: &str) {
    bay.namespace.kubectl(&["delete", "pod", pod]).await;
    let made = format!("pod/{pod}");
    crate::harness::eventually("the pod is made again", Duration::from_secs(60), async || {
        let words = ["kubectl", "-n", bay.namespace.name(), "get", &made];
        if bay.namespace.cluster().inside(&words).await.status.success() { Ok(()) } else { Err(String::new()) }
    })
    .await;
    bay.namespace.kubectl(&["wait", "--for=condition=Ready", &made, "--timeout=120s"]).await;
}
