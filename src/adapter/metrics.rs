//! The numbers that the operator keeps about its own work. A leaf: it imports nothing of ours, so every layer may record.
//!
//! Label values come from closed sets (kinds, phases, verbs, variant names), never from object names: a thousand
//! clusters cost as many series as one. What Prometheus can derive from objects in the caches is not kept here but
//! computed at the scrape (`crate::telemetry`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds, from a cached decision to a step that talks to three servers with a timeout each.
const RECONCILE_BUCKETS: [f64; 10] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];
/// Seconds, from a small backup to the longest restore that is sensible.
const WORK_BUCKETS: [f64; 10] = [1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 7200.0];
/// Bytes: 64 KiB to 64 GiB.
const SIZE_BUCKETS: [f64; 8] = [65_536.0, 1e6, 1e7, 1e8, 5.24e8, 2.1e9, 1.07e10, 6.9e10];

/// The process's metrics. One set for the whole process, as there is one `/metrics`.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);
    &METRICS
}

/// How one reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Waiting for something that is expected to change: not an error.
    Waiting,
    Failed,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindOutcome {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ApiRequest {
    verb: &'static str,
    resource: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Operation {
    operation: String,
}

/// All handles. Recording never fails and never blocks for long.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Family<KindOutcome, Counter>,
    reconcile_seconds: Family<Kind, Histogram>,
    reconciles_running: Family<Kind, Gauge<i64, AtomicI64>>,
    reconciles_queued: Family<Kind, Gauge<i64, AtomicI64>>,
    queue: Queue,
    api_requests: Family<ApiRequest, Counter>,
    backups_skipped: Family<Reason, Counter>,
    backups: Family<Phase, Counter>,
    backup_size: Histogram,
    backup_seconds: Histogram,
    restores: Family<Phase, Counter>,
    restore_seconds: Histogram,
    lock_held: Family<Operation, Histogram>,
    leader: Gauge<i64, AtomicI64>,
    started: Gauge<f64, AtomicU64>,
    certificates: Certificates,
}

/// Kind, namespace and name of what waits for a reconcile. Only their number becomes a metric.
type Queue = Arc<Mutex<BTreeSet<(&'static str, String, String)>>>;

/// When each cluster's certificate expires, by namespace and name. Only the earliest becomes a metric.
type Certificates = Arc<Mutex<BTreeMap<(String, String), DateTime<Utc>>>>;

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self::empty();
        // From the start, at zero: a counter that appears with its first failure shows no increase to an alert.
        for phase in ["Succeeded", "Failed"] {
            drop(metrics.backups.get_or_create(&Phase { phase }));
        }
        for phase in ["Completed", "Failed", "Unknown"] {
            drop(metrics.restores.get_or_create(&Phase { phase }));
        }
        metrics
    }
}

impl Metrics {
    fn empty() -> Self {
        Self {
            reconciles: Family::default(),
            reconcile_seconds: Family::new_with_constructor(|| Histogram::new(RECONCILE_BUCKETS)),
            reconciles_running: Family::default(),
            reconciles_queued: Family::default(),
            queue: Queue::default(),
            api_requests: Family::default(),
            backups_skipped: Family::default(),
            backups: Family::default(),
            backup_size: Histogram::new(SIZE_BUCKETS),
            backup_seconds: Histogram::new(WORK_BUCKETS),
            restores: Family::default(),
            restore_seconds: Histogram::new(WORK_BUCKETS),
            lock_held: Family::new_with_constructor(|| Histogram::new(WORK_BUCKETS)),
            leader: Gauge::default(),
            started: Gauge::default(),
            certificates: Certificates::default(),
        }
    }
}

/// Measures one reconcile from its creation to its end, also when it is cancelled.
#[derive(Debug)]
pub struct Reconciling<'a> {
    metrics: &'a Metrics,
    kind: &'static str,
    begun: Instant,
    outcome: Outcome,
}

impl Reconciling<'_> {
    /// What is recorded when this goes out of scope. Without a call it counts as failed.
    pub fn ends(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Reconciling<'_> {
    fn drop(&mut self) {
        let (kind, metrics) = (self.kind, self.metrics);
        metrics.reconciles_running.get_or_create(&Kind { kind }).dec();
        metrics.reconcile_seconds.get_or_create(&Kind { kind }).observe(self.begun.elapsed().as_secs_f64());
        metrics.reconciles.get_or_create(&KindOutcome { kind, outcome: self.outcome.label() }).inc();
    }
}

impl Metrics {
    /// An object was handed to its controller's queue; one that waits there already counts once, as in the queue.
    pub fn queued(&self, kind: &'static str, namespace: &str, name: &str) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.insert((kind, namespace.to_owned(), name.to_owned())) {
            self.reconciles_queued.get_or_create(&Kind { kind }).inc();
        }
    }

    /// It left the queue: its reconcile begins, or it is gone.
    pub fn left_queue(&self, kind: &'static str, namespace: &str, name: &str) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.remove(&(kind, namespace.to_owned(), name.to_owned())) {
            self.reconciles_queued.get_or_create(&Kind { kind }).dec();
        }
    }

    /// Begin a reconcile of an object of `kind` (a kind's name, nothing else).
    pub fn reconciling(&self, kind: &'static str, namespace: &str, name: &str) -> Reconciling<'_> {
        self.left_queue(kind, namespace, name);
        self.reconciles_running.get_or_create(&Kind { kind }).inc();
        Reconciling { metrics: self, kind, begun: Instant::now(), outcome: Outcome::Failed }
    }

    /// One request to the API server. `code` is the status class or `error` where no answer came.
    pub fn api_request(&self, verb: &'static str, resource: String, code: &'static str) {
        self.api_requests.get_or_create(&ApiRequest { verb, resource, code }).inc();
    }

    /// A scheduled backup that was not taken. `reason` is a CamelCase reason of the closed set in the backup manager.
    pub fn backup_skipped(&self, reason: &str) {
        self.backups_skipped.get_or_create(&Reason { reason: reason.to_owned() }).inc();
    }

    /// A backup reached its end. `size` is the stored object's, in bytes.
    pub fn backup_succeeded(&self, size: u64, took: Duration) {
        self.backups.get_or_create(&Phase { phase: "Succeeded" }).inc();
        // Exact up to 2^53 bytes.
        #[allow(clippy::cast_precision_loss)]
        self.backup_size.observe(size as f64);
        self.backup_seconds.observe(took.as_secs_f64());
    }

    /// A backup ended without an object.
    pub fn backup_failed(&self) {
        self.backups.get_or_create(&Phase { phase: "Failed" }).inc();
    }

    /// A restore was proven. `took` is from its request to its proof: the recovery time.
    pub fn restore_completed(&self, took: Duration) {
        self.restores.get_or_create(&Phase { phase: "Completed" }).inc();
        self.restore_seconds.observe(took.as_secs_f64());
    }

    /// A restore ended without a proof: `Failed`, or `Unknown` when a person must decide.
    pub fn restore_not_completed(&self, unknown: bool) {
        self.restores.get_or_create(&Phase { phase: if unknown { "Unknown" } else { "Failed" } }).inc();
    }

    /// A lock was released after it was held for `held` by an `operation` (the enum's name).
    pub fn lock_released(&self, operation: &str, held: Duration) {
        self.lock_held.get_or_create(&Operation { operation: operation.to_owned() }).observe(held.as_secs_f64());
    }

    /// Whether this process leads.
    pub fn leading(&self, leading: bool) {
        self.leader.set(i64::from(leading));
    }

    /// The server certificate of a cluster was read, and expires `at`.
    pub fn certificate_expires(&self, namespace: &str, cluster: &str, at: DateTime<Utc>) {
        let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((namespace.to_owned(), cluster.to_owned()), at);
    }

    /// All that were told; those of clusters that are gone are for the caller to leave out.
    pub fn certificates(&self) -> BTreeMap<(String, String), DateTime<Utc>> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Seconds since the Unix epoch at which this process began.
    pub fn started(&self, at: f64) {
        self.started.set(at);
    }

    /// Puts every handle into `registry`, under the prefix that it was made with.
    pub fn register(&self, registry: &mut Registry) {
        // A new handle that is not registered would be invisible: without `..` it does not compile.
        let Self {
            reconciles,
            reconcile_seconds,
            reconciles_running,
            reconciles_queued,
            queue: _,
            api_requests,
            backups_skipped,
            backups,
            backup_size,
            backup_seconds,
            restores,
            restore_seconds,
            lock_held,
            leader,
            started,
            // Becomes a metric at the scrape: see `crate::telemetry::fleet`.
            certificates: _,
        } = self.clone();
        registry.register("reconciles", "Reconciles by kind and how they ended", reconciles);
        registry.register_with_unit(
            "reconcile_duration",
            "How long one reconcile took",
            Unit::Seconds,
            reconcile_seconds,
        );
        registry.register("reconciles_running", "Reconciles under way right now", reconciles_running);
        registry.register("reconciles_queued", "Objects that wait for their reconcile to begin", reconciles_queued);
        registry.register(
            "api_requests",
            "Requests to the API server by verb, resource and status class",
            api_requests,
        );
        registry.register("backups_skipped", "Scheduled backups that were not taken, by reason", backups_skipped);
        registry.register("backups_finished", "Backups that ended, by phase", backups);
        registry.register_with_unit("backup_size", "Stored size of a finished backup", Unit::Bytes, backup_size);
        registry.register_with_unit(
            "backup_duration",
            "From a backup's start to its end",
            Unit::Seconds,
            backup_seconds,
        );
        registry.register("restores_finished", "Restores that ended or stopped for a person, by phase", restores);
        registry.register_with_unit(
            "restore_duration",
            "From a restore's request to its proof",
            Unit::Seconds,
            restore_seconds,
        );
        registry.register_with_unit(
            "operation_lock_held",
            "How long a released operation lock had been held, by operation",
            Unit::Seconds,
            lock_held,
        );
        registry.register("leader", "1 while this replica leads", leader);
        registry.register_with_unit("start_time", "When this process began, Unix time", Unit::Seconds, started);
    }
}

/// The text that `/metrics` answers with.
pub fn encode(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    // The encoder ends with the marker; make sure a reader never takes a cut answer for a whole one.
    if !text.ends_with("# EOF\n") {
        text.write_str("# EOF\n")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        let mut registry = Registry::with_prefix("openbao_operator");
        metrics.register(&mut registry);
        encode(&registry).unwrap()
    }

    #[test]
    fn a_reconcile_that_is_cancelled_counts_as_failed() {
        let metrics = Metrics::default();
        drop(metrics.reconciling("OpenBaoCluster", "reef", "kelp"));
        let text = text(&metrics);
        let line = r#"openbao_operator_reconciles_total{kind="OpenBaoCluster",outcome="failed"} 1"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains(r#"openbao_operator_reconciles_running{kind="OpenBaoCluster"} 0"#), "{text}");
    }

    #[test]
    fn what_waits_for_its_reconcile_is_counted_once_until_it_begins_or_is_gone() {
        let metrics = Metrics::default();
        let depth = |wanted: i64| {
            let text = text(&metrics);
            assert!(
                text.contains(&format!(r#"reconciles_queued{{kind="OpenBaoCluster"}} {wanted}"#)),
                "{wanted}: {text}"
            );
        };
        for name in ["kelp", "kelp", "fern", "moss"] {
            metrics.queued("OpenBaoCluster", "reef", name);
        }
        depth(3);
        let running = metrics.reconciling("OpenBaoCluster", "reef", "kelp");
        metrics.left_queue("OpenBaoCluster", "reef", "fern");
        depth(1);
        metrics.queued("OpenBaoCluster", "reef", "kelp");
        depth(2);
        drop(running);
        depth(2);
    }

    #[test]
    fn a_finished_reconcile_counts_with_its_outcome_and_duration() {
        let metrics = Metrics::default();
        let mut one = metrics.reconciling("OpenBaoRestore", "reef", "back");
        one.ends(Outcome::Waiting);
        drop(one);
        let text = text(&metrics);
        assert!(text.contains(r#"reconciles_total{kind="OpenBaoRestore",outcome="waiting"} 1"#), "{text}");
        assert!(text.contains(r#"reconcile_duration_seconds_count{kind="OpenBaoRestore"} 1"#), "{text}");
    }

    #[test]
    fn failures_are_counted_from_zero_so_that_the_first_one_is_an_increase() {
        let text = text(&Metrics::default());
        for line in [r#"backups_finished_total{phase="Failed"} 0"#, r#"restores_finished_total{phase="Failed"} 0"#] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn a_restores_recovery_time_is_recorded_only_when_it_was_proven() {
        let metrics = Metrics::default();
        metrics.restore_not_completed(true);
        assert!(text(&metrics).contains("restore_duration_seconds_count 0"));
        metrics.restore_completed(Duration::from_secs(42));
        let text = text(&metrics);
        assert!(text.contains("restore_duration_seconds_sum 42"), "{text}");
        assert!(text.contains(r#"restores_finished_total{phase="Unknown"} 1"#), "{text}");
    }
}
