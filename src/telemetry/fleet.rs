//! What Prometheus can learn from the objects themselves: computed from the caches at each scrape, kept nowhere.
//!
//! Everything is a count or an extreme over all clusters: no object becomes a label, so a thousand clusters cost as many
//! series as one. Which cluster it is, `kubectl openbao status -A` tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::adapter::caches::Caches;
use crate::adapter::kubernetes::time::from_kube;
use crate::adapter::metrics::metrics;
use crate::api::conditions::cluster as condition;
use crate::api::{BackupStatus, LockOperation, MemberState, OpenBaoCluster, OpenBaoOperation, OpenBaoRestore};

/// Conditions whose state is counted; the others only tell what is under way.
const CONDITIONS: [&str; 8] = [
    condition::AVAILABLE,
    condition::DEGRADED,
    condition::TLS_READY,
    condition::SEALED,
    condition::LEADER,
    condition::SUPPORTED,
    condition::VALID,
    condition::OPERATOR_ACCESS,
];

const STATES: [MemberState; 5] =
    [MemberState::Active, MemberState::Standby, MemberState::Sealed, MemberState::Joining, MemberState::Down];

/// The caches of every scope that this process watches.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    scopes: Arc<RwLock<Vec<Caches>>>,
}

impl Fleet {
    /// Counts these from now on.
    pub fn watch(&self, caches: Caches) {
        self.scopes.write().unwrap_or_else(PoisonError::into_inner).push(caches);
    }

    fn summary(&self, now: DateTime<Utc>) -> Summary {
        let mut summary = Summary::default();
        for caches in self.scopes.read().unwrap_or_else(PoisonError::into_inner).iter() {
            caches.clusters.state().iter().for_each(|cluster| summary.cluster(cluster, now));
            caches.operations.state().iter().for_each(|operation| summary.operation(operation));
            caches.restores.state().iter().for_each(|restore| summary.restore(restore));
        }
        summary.certificate = metrics()
            .certificates()
            .into_iter()
            .filter(|(cluster, _)| summary.known.contains(cluster))
            .map(|(_, expires)| expires.timestamp() - now.timestamp())
            .min();
        summary
    }
}

/// Counts and extremes over everything that is watched. Times are in seconds.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    known: BTreeSet<(String, String)>,
    phases: BTreeMap<String, i64>,
    conditions: BTreeMap<(&'static str, &'static str), i64>,
    members: BTreeMap<&'static str, i64>,
    locks: BTreeMap<LockOperation, i64>,
    backup_age: Option<i64>,
    failures: i64,
    unreadable: i64,
    test_age: Option<i64>,
    tests_failing: i64,
    operations: BTreeMap<(&'static str, &'static str), i64>,
    restores: BTreeMap<&'static str, i64>,
    certificate: Option<i64>,
}

impl Summary {
    fn cluster(&mut self, cluster: &OpenBaoCluster, now: DateTime<Utc>) {
        let status = cluster.status.clone().unwrap_or_default();
        self.known.insert((cluster.namespace().unwrap_or_default(), cluster.name_any()));
        *self.phases.entry(format!("{:?}", status.phase.unwrap_or_default())).or_default() += 1;
        for one in &status.conditions {
            let Some(name) = CONDITIONS.into_iter().find(|name| *name == one.type_) else { continue };
            let state = match one.status.as_str() {
                "True" => "True",
                "False" => "False",
                _ => "Unknown",
            };
            *self.conditions.entry((name, state)).or_default() += 1;
        }
        for member in &status.members {
            *self.members.entry(state(member.state)).or_default() += 1;
        }
        if let Some(lock) = &status.operation_lock {
            let age = (now - lock.acquired_at).num_seconds();
            let oldest = self.locks.entry(lock.operation).or_default();
            *oldest = age.max(*oldest);
        }
        let backup = status.backup.unwrap_or_default();
        self.failures = self.failures.max(i64::from(backup.consecutive_failures));
        self.unreadable += i64::from(backup.last_verify_failure.is_some());
        // By the spec, which is the promise: the status forgets a schedule that cannot be followed. A cluster that never had
        // a backup counts from its creation: otherwise the worst case would look like none.
        let promised = cluster.spec.backup.as_ref().is_some_and(|spec| spec.schedule.is_some() && !spec.suspend);
        if promised
            && let Some(since) =
                backup.last_success.or_else(|| cluster.metadata.creation_timestamp.as_ref().map(from_kube))
        {
            let age = (now - since).num_seconds();
            self.backup_age = Some(self.backup_age.map_or(age, |oldest| oldest.max(age)));
        }
        self.restore_test(cluster, &backup, now);
    }

    /// A cluster that never had a test counts from nothing: a schedule of once a month, set for the first time on a cluster that is
    /// old, would be late at once. The first one that fails shows by itself.
    fn restore_test(&mut self, cluster: &OpenBaoCluster, backup: &BackupStatus, now: DateTime<Utc>) {
        let Some(test) = &backup.restore_test else { return };
        // What is no more backed up has nothing left that a test could find well again.
        let failing = cluster.spec.backup.is_some() && test.last_failure_message.is_some();
        self.tests_failing += i64::from(failing);
        let promised = cluster.spec.backup.as_ref().is_some_and(|spec| {
            !spec.suspend && spec.restore_test.as_ref().is_some_and(|test| test.schedule.is_some())
        });
        if let Some(at) = test.last_success.filter(|_| promised) {
            let age = (now - at).num_seconds();
            self.test_age = Some(self.test_age.map_or(age, |oldest| oldest.max(age)));
        }
    }

    fn operation(&mut self, operation: &OpenBaoOperation) {
        let phase = operation.status.as_ref().map(|status| status.phase).unwrap_or_default();
        *self.operations.entry((operation.spec.operation.as_str(), phase.as_str())).or_default() += 1;
    }

    fn restore(&mut self, restore: &OpenBaoRestore) {
        let phase = restore.status.as_ref().map(|status| status.phase).unwrap_or_default();
        *self.restores.entry(phase.as_str()).or_default() += 1;
    }
}

fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Active => "Active",
        MemberState::Standby => "Standby",
        MemberState::Sealed => "Sealed",
        MemberState::Joining => "Joining",
        MemberState::Down => "Down",
    }
}

impl Collector for Fleet {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        self.summary(Utc::now()).encode(encoder)
    }
}

impl Summary {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Self {
            known: _,
            phases,
            conditions,
            members,
            locks,
            backup_age,
            failures,
            unreadable,
            test_age,
            tests_failing,
            operations,
            restores,
            certificate,
        } = self;
        let phases = phases.iter().map(|(phase, count)| ([("phase", phase.as_str())], *count));
        family(&mut encoder, "clusters", "OpenBao clusters by phase", None, phases)?;
        let conditions =
            conditions.iter().map(|((name, state), count)| ([("condition", *name), ("status", *state)], *count));
        family(&mut encoder, "cluster_conditions", "OpenBao clusters by condition and its state", None, conditions)?;
        // A state that nobody is in is zero, not absent: alerts compare with it.
        let members = STATES.map(|one| ([("state", state(one))], members.get(state(one)).copied().unwrap_or(0)));
        family(&mut encoder, "members", "OpenBao members by state", None, members)?;
        let locks = locks.iter().map(|(operation, age)| ([("operation", operation.as_str())], *age));
        let help = "Age of the oldest operation lock that is held right now, by operation";
        family(&mut encoder, "operation_lock_age", help, Some(&Unit::Seconds), locks)?;
        let operations =
            operations.iter().map(|((kind, phase), count)| ([("operation", *kind), ("phase", *phase)], *count));
        family(&mut encoder, "operations", "Operation records by operation and phase", None, operations)?;
        let restores = restores.iter().map(|(phase, count)| ([("phase", *phase)], *count));
        family(&mut encoder, "restore_requests", "Restores by phase", None, restores)?;
        let help = "Age of the newest verified backup, of the cluster with a schedule where that is oldest";
        one(&mut encoder, "backup_age", help, Some(&Unit::Seconds), *backup_age)?;
        let help = "Most backups that failed in a row in any cluster";
        one(&mut encoder, "backup_consecutive_failures", help, None, Some(*failures))?;
        let help = "OpenBao clusters of which a backup could not be read back, and none since";
        one(&mut encoder, "backup_unreadable", help, None, Some(*unreadable))?;
        let help =
            "Age of the newest restore test that passed, of the cluster with a schedule for them where that is oldest";
        one(&mut encoder, "restore_test_age", help, Some(&Unit::Seconds), *test_age)?;
        let help = "OpenBao clusters whose last restore test failed";
        one(&mut encoder, "restore_test_failing", help, None, Some(*tests_failing))?;
        let help = "Time until the first certificate of any cluster expires";
        one(&mut encoder, "certificate_expiry", help, Some(&Unit::Seconds), *certificate)
    }
}

fn family<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl IntoIterator<Item = (L, i64)>,
) -> Result<(), std::fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in values {
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

fn one(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: Option<i64>,
) -> Result<(), std::fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    value.map_or(Ok(()), |value| metric.encode_gauge(&value))
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[derive(Debug)]
    struct Fixed(Summary);

    impl Collector for Fixed {
        fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
            self.0.encode(encoder)
        }
    }

    fn text(summary: Summary) -> String {
        let mut registry = Registry::with_prefix("openbao_operator");
        registry.register_collector(Box::new(Fixed(summary)));
        crate::adapter::metrics::encode(&registry).unwrap()
    }

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn cluster(status: &str) -> OpenBaoCluster {
        backed_up("", status)
    }

    /// A cluster with these fields in its `spec.backup`.
    fn backed_up(backup: &str, status: &str) -> OpenBaoCluster {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: fern, namespace: vault, creationTimestamp: '2026-11-20T12:00:00Z'}}\n\
             spec: {{version: 2.7.2, replicas: 3, storage: {{size: 1Gi}}, tls: {{enabled: true}}, \
             backup: {{target: {{provider: file}}{backup}}}}}\nstatus: {status}"
        ))
        .unwrap()
    }

    #[test]
    fn members_and_conditions_are_counted_and_absent_states_are_zero() {
        let mut summary = Summary::default();
        let status = "{phase: Running, members: [{name: a, state: Active}, {name: b, state: Sealed}], conditions: \
                      [{type: OpenBaoLeader, status: 'False', reason: x, message: '', lastTransitionTime: '2026-11-21T11:00:00Z'}]}";
        summary.cluster(&cluster(status), now());
        let text = text(summary);
        for wanted in [
            r#"openbao_operator_clusters{phase="Running"} 1"#,
            r#"openbao_operator_members{state="Sealed"} 1"#,
            r#"openbao_operator_members{state="Down"} 0"#,
            r#"openbao_operator_cluster_conditions{condition="OpenBaoLeader",status="False"} 1"#,
        ] {
            assert!(text.contains(wanted), "{wanted}:\n{text}");
        }
        assert!(!text.contains("fern") && !text.contains("vault"), "no object becomes a label:\n{text}");
    }

    #[test]
    fn the_oldest_newest_backup_counts_and_a_cluster_that_never_had_one_counts_from_its_creation() {
        let mut summary = Summary::default();
        let scheduled = |status: &str| backed_up(", schedule: 0 3 * * *", status);
        summary.cluster(&scheduled("{backup: {schedule: x, lastSuccess: '2026-11-21T11:00:00Z'}}"), now());
        assert_eq!(summary.backup_age, Some(3600));
        summary.cluster(&scheduled("{backup: {schedule: x}}"), now());
        assert_eq!(summary.backup_age, Some(86_400));
        let mut unscheduled = Summary::default();
        unscheduled.cluster(&cluster("{backup: {lastSuccess: '2026-11-01T00:00:00Z'}}"), now());
        assert_eq!(unscheduled.backup_age, None, "nobody promised a backup there");
        assert!(!text(unscheduled).contains("backup_age_seconds 0"));
    }

    #[test]
    fn a_schedule_that_cannot_be_followed_is_a_promise_still_and_a_suspended_one_is_none() {
        let age = |backup: &str| {
            let mut summary = Summary::default();
            summary.cluster(&backed_up(backup, "{backup: {lastSuccess: '2026-11-21T11:00:00Z'}}"), now());
            summary.backup_age
        };
        assert_eq!(age(", schedule: 0 3 * * *, timeZone: Europe/Amsterdm"), Some(3600), "the status plans nothing");
        assert_eq!(age(", schedule: 0 3 * * *, suspend: true"), None);
        assert_eq!(age(""), None);
    }

    #[test]
    fn a_backup_that_could_not_be_read_back_is_counted() {
        let mut summary = Summary::default();
        summary.cluster(&cluster("{backup: {lastVerifyFailure: 'v could not'}}"), now());
        summary.cluster(&cluster("{backup: {}}"), now());
        assert!(text(summary).contains("openbao_operator_backup_unreadable 1"));
    }

    #[test]
    fn the_oldest_restore_test_of_a_schedule_counts_and_one_that_was_asked_for_once_promises_no_other() {
        let age = |backups: &[(&str, &str)]| {
            let mut summary = Summary::default();
            for (backup, tested) in backups {
                let status = format!("{{backup: {{restoreTest: {{lastSuccess: '{tested}'}}}}}}");
                summary.cluster(&backed_up(backup, &status), now());
            }
            summary.test_age
        };
        let weekly = ", restoreTest: {schedule: 0 6 * * 0}";
        let ages = [(weekly, "2026-11-21T11:00:00Z"), (weekly, "2026-11-20T12:00:00Z"), ("", "2026-11-01T00:00:00Z")];
        assert_eq!(age(&ages), Some(86_400));
        assert_eq!(age(&[(", restoreTest: {}", "2026-11-01T00:00:00Z")]), None);
        assert_eq!(age(&[(", suspend: true, restoreTest: {schedule: 0 6 * * 0}", "2026-11-01T00:00:00Z")]), None);
        let mut never = Summary::default();
        never.cluster(&backed_up(weekly, "{backup: {restoreTest: {next: '2026-11-22T06:00:00Z'}}}"), now());
        assert!(!text(never).contains("restore_test_age_seconds 0"), "not tested yet is not tested just now");
    }

    #[test]
    fn a_cluster_whose_last_restore_test_failed_is_counted_with_or_without_a_schedule() {
        let mut summary = Summary::default();
        let failed =
            "{backup: {restoreTest: {lastFailure: '2026-11-21T11:00:00Z', lastFailureMessage: keys are missing}}}";
        summary.cluster(&cluster(failed), now());
        summary.cluster(&backed_up(", restoreTest: {schedule: 0 6 * * 0}", failed), now());
        let passed =
            "{backup: {restoreTest: {lastSuccess: '2026-11-21T11:30:00Z', lastFailure: '2026-11-21T11:00:00Z'}}}";
        summary.cluster(&cluster(passed), now());
        assert!(text(summary).contains("openbao_operator_restore_test_failing 2"));
    }

    #[test]
    fn the_age_of_a_lock_is_the_oldest_ones() {
        let lock = |at: &str| {
            cluster(&format!(
                "{{operationLock: {{operation: Backup, holder: h, holderUID: u, acquiredAt: '{at}', renewedAt: '{at}'}}}}"
            ))
        };
        let mut summary = Summary::default();
        summary.cluster(&lock("2026-11-21T11:59:00Z"), now());
        summary.cluster(&lock("2026-11-21T11:58:00Z"), now());
        summary.cluster(&lock("2026-11-21T11:59:30Z"), now());
        assert!(text(summary).contains(r#"operation_lock_age_seconds{operation="Backup"} 120"#));
    }
}
