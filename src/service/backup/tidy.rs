//! What backups that failed leave behind: Jobs, kept for their logs but not without a bound, and in the worst case objects.
//! Pure.
//!
//! A store that is down for a weekend must not leave hundreds of dead pods behind; whoever looks for the reason looks at
//! the newest failures. Those go by themselves, a day after their end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use super::frozen::KEY;
use super::jobs::OPERATION_UID;
use super::manager::RETENTION;
use super::request::{is_verification, role};
use super::status::ended_at;
use super::steps::output::WARNING;
use crate::adapter::kubernetes::time::from_kube;
use crate::api::{OpenBaoOperation, OpenBaoOperationStatus, OperationKind, OperationPhase, StepState};
use crate::service::cluster::names::COMPONENT_LABEL;

/// So many failed operations of a cluster keep their Jobs.
pub const KEPT: usize = 3;
/// What the Jobs of a backup are for, as their component label says.
const OURS: [&str; 4] = ["backup", "verify", "prune", "restore-test"];

/// The Jobs, of those of one cluster, that can go: all but those of the newest [`KEPT`] operations and of the ones in
/// `live`, by UID.
pub fn outdated<J: AsRef<Job>>(jobs: &[J], live: &BTreeSet<String>) -> Vec<Job> {
    let mut operations: BTreeMap<&str, (Option<DateTime<Utc>>, Vec<&Job>)> = BTreeMap::new();
    for job in jobs.iter().map(AsRef::as_ref) {
        let ours = job.labels().get(COMPONENT_LABEL).is_some_and(|component| OURS.contains(&component.as_str()));
        let Some(uid) = job.annotations().get(OPERATION_UID).filter(|uid| ours && !live.contains(*uid)) else {
            continue;
        };
        let (newest, list) = operations.entry(uid).or_default();
        *newest = (*newest).max(job.metadata.creation_timestamp.as_ref().map(from_kube));
        list.push(job);
    }
    let mut by_age: Vec<_> = operations.into_values().collect();
    by_age.sort_by_key(|(newest, _)| Reverse(*newest));
    by_age.into_iter().skip(KEPT).flat_map(|(_, jobs)| jobs.into_iter().cloned()).collect()
}

/// No more keys than this are looked after at once: a Job is told them in one variable. Of a cluster fifty records are kept, so
/// that there are more only where somebody applies them from manifests.
const LOOKED_AFTER: usize = 200;

/// The keys under which failed backups may have left something since the last one that cleaned up: a mover that died, while the store
/// could not be reached for cleaning up either; or a whole backup that was not found good.
pub fn uncleaned<'a>(operations: impl Iterator<Item = &'a OpenBaoOperation>) -> Vec<String> {
    let mut ended: Vec<_> = operations
        .filter(|op| op.spec.operation == OperationKind::Backup && !is_verification(op))
        .filter_map(|op| Some((ended_at(op)?, op, op.status.as_ref()?)))
        .collect();
    ended.sort_by_key(|(at, ..)| Reverse(*at));
    let failed =
        ended.into_iter().take_while(|(_, op, status)| !cleaned_up(op, status)).filter_map(|(_, _, status)| {
            status.inputs.get(KEY).filter(|key| !key.is_empty() && status.phase != OperationPhase::Succeeded)
        });
    failed.take(LOOKED_AFTER).cloned().collect()
}

/// Whether nothing that failed before this backup is left. One that a restore or an upgrade takes cleans nothing; an own
/// one without that step had nothing to clean.
fn cleaned_up(op: &OpenBaoOperation, status: &OpenBaoOperationStatus) -> bool {
    let cleaning = status.steps.iter().find(|step| step.name == RETENTION);
    status.phase == OperationPhase::Succeeded
        && role(op).is_none()
        && cleaning.is_none_or(|step| step.state == StepState::Completed && !step.output.contains_key(WARNING))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(operation: &str, attempt: u32, hour: u32, component: &str) -> std::sync::Arc<Job> {
        let job: Job = serde_json::from_value(json!({"metadata": {
            "name": format!("{operation}-{attempt}"), "labels": {"app.kubernetes.io/component": component},
            "annotations": {"openbao.org/operation-uid": operation},
            "creationTimestamp": format!("2026-11-21T{hour:02}:0{attempt}:00Z"),
        }}))
        .unwrap();
        job.into()
    }

    #[test]
    fn the_newest_failures_keep_all_their_jobs_and_older_ones_none() {
        let jobs: Vec<_> =
            (0..6).flat_map(|hour| (1..3).map(move |n| job(&format!("op-{hour}"), n, hour, "backup"))).collect();
        let names = |live: &[&str]| -> Vec<String> {
            let live = live.iter().map(ToString::to_string).collect();
            outdated(&jobs, &live).iter().map(ResourceExt::name_any).collect()
        };
        assert_eq!(names(&[]), ["op-2-1", "op-2-2", "op-1-1", "op-1-2", "op-0-1", "op-0-2"]);
        assert_eq!(names(&["op-0", "op-5"]), ["op-1-1", "op-1-2"], "what runs is neither counted nor touched");
    }

    #[test]
    fn what_failed_backups_may_have_left_is_looked_after_until_the_next_success() {
        let operation = |phase: &str, hour: u32, key: &str, mode: Option<&str>| -> OpenBaoOperation {
            let parameters = mode.map_or_else(|| json!({}), |mode| json!({"mode": mode}));
            serde_json::from_value(json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": key, "namespace": "reef"},
                "spec": {"cluster": "kelp", "operation": "Backup", "parameters": parameters},
                "status": {"phase": phase, "endedAt": format!("2026-11-21T{hour:02}:00:00Z"), "inputs": {"key": key}},
            }))
            .unwrap()
        };
        let operations = [
            operation("Failed", 1, "a", None),
            operation("Succeeded", 2, "b", None),
            operation("Failed", 3, "c", None),
            operation("Cancelled", 4, "d", None),
            operation("Succeeded", 5, "", Some("Verify")),
            operation("Failed", 6, "", None),
        ];
        assert_eq!(uncleaned(operations.iter()), ["d", "c"]);
        for known in crate::adapter::remembered::testing::whole_and_remembered(&operations) {
            assert_eq!(uncleaned(known.iter()), ["d", "c"], "also by what is remembered of records");
        }
    }

    #[test]
    fn what_a_long_row_of_failures_left_is_looked_after_whole() {
        let failed = |number: u32| -> OpenBaoOperation {
            serde_json::from_value(json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "f", "namespace": "reef"},
                "spec": {"cluster": "kelp", "operation": "Backup"},
                "status": {"phase": "Failed", "endedAt": format!("2026-11-21T01:{number:02}:00Z"),
                    "reason": if number < 25 { "SealNotSettled" } else { "MoverLost" },
                    "inputs": {"key": format!("{number}.snap")}},
            }))
            .unwrap()
        };
        let all: Vec<_> = (0..50).map(failed).collect();
        assert_eq!(uncleaned(all.iter()).len(), 50);
    }

    #[test]
    fn a_success_that_cleaned_nothing_hides_no_earlier_failure() {
        let operation = |phase: &str, hour: u32, key: &str, role: Option<&str>, steps: serde_json::Value| {
            let parameters = role.map_or_else(|| json!({}), |role| json!({"role": role}));
            let operation: OpenBaoOperation = serde_json::from_value(json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": key, "namespace": "reef"},
                "spec": {"cluster": "kelp", "operation": "Backup", "parameters": parameters},
                "status": {"phase": phase, "endedAt": format!("2026-11-21T{hour:02}:00:00Z"), "inputs": {"key": key},
                    "steps": steps},
            }))
            .unwrap();
            operation
        };
        let retention =
            |state: &str, output: serde_json::Value| json!([{"name": "Retention", "state": state, "output": output}]);
        let failed = || operation("Failed", 1, "a", None, json!([]));
        let child = operation("Succeeded", 2, "b", Some("PreUpgrade"), json!([]));
        assert_eq!(uncleaned([failed(), child].iter()), ["a"]);
        let warned =
            operation("Succeeded", 2, "b", None, retention("completed", json!({"warning": "the store is away"})));
        assert_eq!(uncleaned([failed(), warned].iter()), ["a"]);
        let good = operation("Succeeded", 2, "b", None, retention("completed", json!({"removed": "0"})));
        assert_eq!(uncleaned([failed(), good].iter()), [""; 0]);
    }

    #[test]
    fn a_restores_jobs_and_foreign_ones_stay() {
        let mut foreign = (*job("x", 1, 0, "backup")).clone();
        foreign.metadata.annotations = None;
        let mut jobs: Vec<_> = (0..9).map(|hour| job(&format!("op-{hour}"), 1, hour, "restore")).collect();
        jobs.push(foreign.into());
        assert_eq!(outdated(&jobs, &BTreeSet::new()), []);
    }
}
