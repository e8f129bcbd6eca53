//! `cargo xtask bench restore`: from the object to the Job, from the object to the proven end, and what it costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use openbao_operator::api::RestorePhase;
use serde_json::{Value, json};

use super::setup::{Bay, end};
use crate::harness::{Audit, Cluster, Namespace, Operator, eventually};

const LONG: Duration = Duration::from_secs(900);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn percentile(sorted: &[i64], percent: usize) -> i64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// When the API server received the creation of this restore, and when that of the Job made for it.
fn created(audit: &Audit, namespace: &Namespace, restore: &str) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let requests = audit.requests("");
    let at = |resource: &str, name: &dyn Fn(&str) -> bool| {
        let mut found = requests.iter().filter(|request| {
            request.verb == "create"
                && request.resource == resource
                && request.namespace == namespace.name()
                && name(&request.name)
        });
        found.next().map(|request| request.at)
    };
    Some((at("openbaorestores", &|name| name == restore)?, at("jobs", &|name| name.starts_with(restore))?))
}

/// The longest time for which no request of a client was answered with success, asked ten times a second.
async fn longest_gap(bay: &Bay<'_>, token: &str, over: Arc<AtomicBool>) -> Duration {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        if bay.answers(token).await {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    longest.max(last.elapsed())
}

/// The most memory that a mover of this namespace has had, in KiB.
async fn peak(namespace: &Namespace, over: Arc<AtomicBool>) -> u64 {
    let script = format!(
        "for p in /proc/[0-9]*; do grep -q bao-backup $p/comm 2>/dev/null && tr '\\0' '\\n' < $p/environ | grep -q '{}' && \
         grep VmHWM $p/status; done; true",
        namespace.name()
    );
    let mut peak = 0;
    while !over.load(Ordering::Relaxed) {
        let output = namespace.cluster().inside(&["sh", "-c", &script]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let sizes = text.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        peak = sizes.fold(peak, u64::max);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    peak
}

/// One restore with everything that is measured of it.
async fn measured(bay: &Bay<'_>, name: &str, key: &str, token: &str, replicas: u32) -> Value {
    let audit = bay.namespace.cluster().audit();
    let over = Arc::new(AtomicBool::new(false));
    let run = async {
        bay.restore(name, json!({"source": {"key": key}, "preRestoreBackup": false})).await;
        let restore = bay.ended(name, LONG).await;
        over.store(true, Ordering::Relaxed);
        restore
    };
    let (restore, gap, peak) =
        futures::join!(run, longest_gap(bay, token, over.clone()), peak(bay.namespace, over.clone()));
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    let user = format!("system:serviceaccount:{}:openbao-operator", bay.namespace.name());
    let requests = audit.requests(&user);
    let status = restore.status.unwrap_or_default();
    bay.whole(replicas).await;
    json!({
        "name": format!("restore {name}"), "durations": status.durations,
        "snapshot_bytes": status.source.and_then(|source| source.size_bytes),
        "requests": requests.len(), "writes": requests.iter().filter(|request| request.writes()).count(),
        "longest_gap_for_clients_seconds": gap.as_secs_f64(), "mover_peak_rss_mib": peak / 1024,
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: cargo xtask bench restore"]
async fn bench_restore() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("bench-restore").await;
    let _operator = Operator::start_released(&namespace, &[("OPENBAO_LEADER_ELECT", "false")]).await;
    let replicas = 3;
    let bay = Bay::start(&namespace, replicas, "2.7.2").await;
    let token = bay.login().await;
    bay.put(&token, "pearl", "before").await;
    let key = bay.backup("small").await;

    // To the Job and no further: the restore is deleted as soon as it exists.
    let audit = cluster.audit();
    let jobs: Api<Job> = namespace.api();
    let mut took = Vec::new();
    for round in 0..setting("OPENBAO_BENCH_ROUNDS", 100) {
        let name = format!("r{round:03}x");
        bay.restore(&name, json!({"source": {"key": key}, "dryRun": true})).await;
        eventually("the Job", LONG, async || {
            let list = jobs.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let own = |job: &Job| job.metadata.name.as_deref().is_some_and(|job| job.starts_with(&name));
            if list.items.iter().any(own) { Ok(()) } else { Err("none".to_owned()) }
        })
        .await;
        bay.restores().delete(&name, &DeleteParams::default()).await.unwrap();
        eventually("the restore is gone", LONG, async || match bay.restores().get_opt(&name).await {
            Ok(None) => Ok(()),
            _ => Err("there".to_owned()),
        })
        .await;
        let (asked, made) = created(&audit, &namespace, &name).expect("both in the audit log");
        took.push((made - asked).num_milliseconds());
    }
    took.sort_unstable();
    if !took.is_empty() {
        let line = json!({"name": "restore: apply to Job", "rounds": took.len(), "p50_ms": percentile(&took, 50),
            "p99_ms": percentile(&took, 99), "best_ms": took[0]});
        println!("BENCH {line}");
    }
    println!("BENCH {}", measured(&bay, "small", &key, &token, replicas).await);

    let mib = setting("OPENBAO_BENCH_MIB", 0);
    if mib > 0 {
        bay.fill(&token, mib).await;
        let key = bay.backup("large").await;
        println!("BENCH {}", measured(&bay, "large", &key, &token, replicas).await);
    }
}
