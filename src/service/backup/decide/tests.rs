use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::adapter::remembered::testing::shared;
use crate::api::{ActorSource, OperationPhase, ServersDirective, UpgradeStatus};

mod restore_test;

const UID: &str = "c1c1c1c1";

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// An initialised cluster with an hourly schedule that is planned for 04:00.
fn cluster() -> OpenBaoCluster {
    from(json!({}), json!({"nextRun": "2026-11-21T04:00:00Z", "schedule": "0 * * * * UTC"}))
}

fn from(spec: Value, status: Value) -> OpenBaoCluster {
    let mut whole = json!({
        "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster",
        "metadata": {"name": "kelp", "namespace": "reef", "uid": UID, "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": {"version": "2.7.2", "storage": {"size": "1Gi"}, "selfInit": {"enabled": true, "oidc": {"enabled": true}},
            "backup": {
            "schedule": "0 * * * *", "target": {"provider": "file", "file": {"claimName": "sand"}}}},
        "status": {"initialized": true, "backup": status},
    });
    merge(&mut whole["spec"], spec);
    serde_json::from_value(whole).unwrap()
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

fn operation(name: &str, phase: &str, ended: Option<&str>, extra: Value) -> Arc<OpenBaoOperation> {
    let mut whole = json!({
        "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
        "metadata": {"name": name, "namespace": "reef", "creationTimestamp": "2026-11-20T00:00:00Z"},
        "spec": {"cluster": "kelp", "operation": "Backup"},
        "status": {"phase": phase, "endedAt": ended, "startedAt": ended},
    });
    merge(&mut whole, extra);
    Arc::new(serde_json::from_value(whole).unwrap())
}

fn good(name: &str, ended: &str) -> Arc<OpenBaoOperation> {
    let artifacts = json!({"status": {"artifacts": {"key": format!("reef/kelp/{name}.snap"), "sizeBytes": 7}}});
    operation(name, "Succeeded", Some(ended), artifacts)
}

/// Decides, by whole records as by what is remembered of them.
fn look(cluster: &OpenBaoCluster, operations: &[Arc<OpenBaoOperation>], now: &str) -> BackupDecision {
    let by = |operations: &[Arc<OpenBaoOperation>]| {
        decide(&BackupFacts { cluster, operations, pending_restore: None }, at(now))
    };
    let [whole, remembered] = shared(operations).map(|operations| by(&operations));
    assert_eq!(whole, remembered);
    by(operations)
}

fn created(decision: &BackupDecision) -> Option<String> {
    decision.create.as_ref().map(ResourceExt::name_any)
}

#[test]
fn nothing_moves_before_the_planned_time() {
    let cluster = cluster();
    let decision = look(&cluster, &[], "2026-11-21T03:59:59Z");
    assert_eq!((created(&decision), &decision.skipped), (None, &None));
    assert_eq!(decision.status, cluster.status.unwrap().backup, "an idle look must change nothing");
    assert_eq!(decision.wake_at, Some(at("2026-11-21T04:00:00Z")));
}

#[test]
fn a_tick_asks_for_one_backup_named_after_it() {
    let decision = look(&cluster(), &[], "2026-11-21T04:00:01Z");
    let operation = decision.create.unwrap();
    assert_eq!(operation.name_any(), format!("kelp-backup-{}", at("2026-11-21T04:00:00Z").timestamp()));
    assert_eq!(operation.spec.actor.as_ref().unwrap().source, ActorSource::Schedule);
    assert_eq!(operation.owner_references()[0].uid, UID);
    let status = decision.status.unwrap();
    assert_eq!(status.next_run, Some(at("2026-11-21T05:00:00Z")));
    assert_eq!(status.last_scheduled, Some(at("2026-11-21T04:00:00Z")));
}

#[test]
fn a_crash_between_the_operation_and_the_status_makes_no_second_backup_and_no_skip() {
    let first = look(&cluster(), &[], "2026-11-21T04:00:01Z");
    let made = Arc::new(first.create.unwrap());
    let again = look(&cluster(), &[made], "2026-11-21T04:00:07Z");
    assert_eq!((created(&again), again.skipped), (None, None));
    assert_eq!(again.status.unwrap().next_run, Some(at("2026-11-21T05:00:00Z")));
}

#[test]
fn ticks_missed_while_nobody_looked_are_one() {
    let decision = look(&cluster(), &[], "2026-11-21T09:30:00Z");
    assert_eq!(created(&decision), Some(format!("kelp-backup-{}", at("2026-11-21T04:00:00Z").timestamp())));
    assert_eq!(decision.wake_at, Some(at("2026-11-21T10:00:00Z")));
}

#[test]
fn a_new_or_changed_schedule_counts_from_now() {
    let fresh = look(&from(json!({}), Value::Null), &[], "2026-11-21T04:00:01Z");
    assert_eq!((created(&fresh), fresh.wake_at), (None, Some(at("2026-11-21T05:00:00Z"))));
    let changed = from(
        json!({"backup": {"schedule": "30 3 * * *"}}),
        json!({"nextRun": "2026-11-21T04:00:00Z", "schedule": "0 * * * * UTC"}),
    );
    let decision = look(&changed, &[], "2026-11-21T04:00:01Z");
    assert_eq!((created(&decision), decision.wake_at), (None, Some(at("2026-11-22T03:30:00Z"))));
}

#[test]
fn what_stands_in_the_way_of_a_scheduled_backup_is_named() {
    let lock = |operation: &str, mode: &str| {
        let mut cluster = cluster();
        let lock = json!({"operation": operation, "holder": "openbaorestore/pearl", "holderUID": "u", "mode": mode,
            "acquiredAt": "2026-11-21T03:00:00Z", "renewedAt": "2026-11-21T03:00:00Z"});
        cluster.status.as_mut().unwrap().operation_lock = serde_json::from_value(lock).unwrap();
        cluster
    };
    let paused = {
        let mut cluster = cluster();
        cluster.spec.paused = true;
        cluster
    };
    let young = {
        let mut cluster = cluster();
        cluster.status.as_mut().unwrap().initialized = None;
        cluster
    };
    let mut wiped = cluster();
    let servers = ServersDirective { count: 1, initialize: false, closed: true };
    wiped.status.as_mut().unwrap().upgrade = Some(UpgradeStatus { servers: Some(servers), ..UpgradeStatus::default() });
    let running = vec![operation("kelp-backup-1", "Running", None, json!({}))];
    let child = vec![operation("x", "Running", None, json!({"spec": {"parameters": {"role": "Safety"}}}))];
    let verifying = vec![operation("x", "Running", None, json!({"spec": {"parameters": {"mode": "Verify"}}}))];
    let elsewhere = vec![operation("x", "Running", None, json!({"spec": {"cluster": "kelp-2"}}))];
    let unknown = vec![operation("x", "Unknown", None, json!({}))];
    let now = "2026-11-21T04:00:01Z";
    for (case, cluster, operations, pending, reason) in [
        ("free", cluster(), vec![], None, None),
        ("paused", paused, vec![], None, Some("Paused")),
        ("a restore waits", cluster(), vec![], Some("pearl"), Some("RestorePending")),
        ("a restore holds the lock", lock("Restore", "Held"), vec![], None, Some("RestoreHoldsLock")),
        ("an upgrade holds the lock", lock("Upgrade", "Held"), vec![], None, Some("UpgradeHoldsLock")),
        ("an upgrade is parked", lock("Upgrade", "Parked"), vec![], None, None),
        ("maintenance is short", lock("Maintenance", "Held"), vec![], None, None),
        ("the last backup runs", cluster(), running, None, Some("BackupRunning")),
        ("one waits for a person", cluster(), unknown, None, Some("BackupRunning")),
        ("a child works for its parent", cluster(), child, None, None),
        ("a verification disturbs nobody", cluster(), verifying, None, None),
        ("another cluster's", cluster(), elsewhere, None, None),
        ("what a rollback wiped", wiped, vec![], None, Some("RollbackUnfinished")),
        ("nothing to back up", young, vec![], None, Some("NotInitialized")),
    ] {
        let facts = BackupFacts { cluster: &cluster, operations: &operations, pending_restore: pending };
        let decision = decide(&facts, at(now));
        assert_eq!(decision.skipped.as_ref().map(|skip| skip.reason), reason, "{case}");
        assert_eq!(decision.create.is_some(), reason.is_none(), "{case}");
        let status = decision.status.unwrap();
        assert_eq!(status.last_skip.map(|skip| skip.reason), reason.map(str::to_owned), "{case}");
        assert_eq!(status.next_run, Some(at("2026-11-21T05:00:00Z")), "{case}: the tick is used up either way");
    }
}

#[test]
fn the_annotation_asks_once_per_value_and_again_when_a_value_comes_back() {
    let with = |value: &str, trigger: Option<&str>, operation: Option<&str>| {
        let mut cluster = cluster();
        cluster.annotations_mut().insert(TRIGGER_ANNOTATION.into(), value.into());
        let backup = cluster.status.as_mut().unwrap().backup.as_mut().unwrap();
        backup.last_trigger = trigger.map(str::to_owned);
        backup.last_operation = operation.map(str::to_owned);
        cluster
    };
    let now = "2026-11-21T03:00:00Z";
    let first = look(&with("a", None, None), &[], now);
    assert!(created(&first).is_some());
    assert_eq!(first.status.unwrap().last_trigger.as_deref(), Some("a"));
    assert_eq!(created(&look(&with("a", Some("a"), None), &[], now)), None, "applied again by GitOps");
    assert_eq!(created(&look(&with("", None, None), &[], now)), None);
    let again = look(&with("a", None, None), &[], now);
    assert_eq!(created(&again), created(&look(&with("a", None, None), &[], now)), "a crash repeats the same name");
    let back = look(&with("a", Some("b"), Some("kelp-backup-x")), &[], now);
    assert!(created(&back).is_some() && created(&back) != created(&again), "a, then b, then a is a third request");
}

#[test]
fn a_request_by_a_person_waits_while_the_cluster_is_paused_and_ignores_a_suspended_schedule() {
    let mut cluster = cluster();
    cluster.annotations_mut().insert(TRIGGER_ANNOTATION.into(), "now".into());
    cluster.spec.paused = true;
    let decision = look(&cluster, &[], "2026-11-21T03:00:00Z");
    assert_eq!((created(&decision), decision.status.unwrap().last_trigger), (None, None));
    cluster.spec.paused = false;
    cluster.spec.backup.as_mut().unwrap().suspend = true;
    let decision = look(&cluster, &[], "2026-11-21T04:00:01Z");
    assert!(created(&decision).is_some());
    assert_eq!(decision.status.unwrap().next_run, None, "nothing is planned while the schedule is suspended");
}

#[test]
fn a_trigger_and_a_tick_at_once_are_handled_one_after_the_other() {
    let mut cluster = cluster();
    cluster.annotations_mut().insert(TRIGGER_ANNOTATION.into(), "now".into());
    let decision = look(&cluster, &[], "2026-11-21T04:00:01Z");
    assert!(created(&decision).unwrap() != format!("kelp-backup-{}", at("2026-11-21T04:00:00Z").timestamp()));
    assert_eq!(decision.wake_at, Some(at("2026-11-21T04:00:01Z")), "the tick is still due");
    assert_eq!(decision.status.unwrap().next_run, Some(at("2026-11-21T04:00:00Z")));
}

#[test]
fn bad_input_starts_nothing_and_says_why() {
    let refused = |backup: Value| {
        let cluster = from(json!({"backup": backup}), json!({"nextRun": "2026-11-21T04:00:00Z"}));
        let decision = look(&cluster, &[], "2026-11-21T04:00:01Z");
        assert_eq!((created(&decision), decision.status.unwrap().next_run), (None, None));
        let refused = decision.refused.unwrap();
        (refused.reason(), refused.to_string())
    };
    assert_eq!(refused(json!({"schedule": "0 0 31 2 *"})).0, "BackupScheduleInvalid");
    assert_eq!(refused(json!({"timeZone": "Mars/Olympus"})).0, "BackupScheduleInvalid");
    let (reason, text) = refused(json!({"target": {"provider": "s3", "bucket": "with space",
        "credentialsSecretRef": {"name": "pearl"}}}));
    assert_eq!(reason, "BackupTargetInvalid");
    assert!(text.contains("with space"), "{text}");
    assert_eq!(refused(json!({"target": {"provider": "s3", "bucket": "tide"}})).0, "BackupTargetInvalid");
    let nobody = from(json!({"selfInit": {"oidc": {"enabled": false}}}), Value::Null);
    let decision = look(&nobody, &[], "2026-11-21T04:00:01Z");
    assert_eq!(decision.refused.unwrap().reason(), "BackupIdentityMissing");
    let named = from(json!({"selfInit": null, "backup": {"jwtAuthRole": "mine"}}), Value::Null);
    assert_eq!(look(&named, &[], "2026-11-21T04:00:01Z").refused, None);
    let cluster = from(json!({"backup": {"verify": {"schedule": "0 0 30 2 *"}}}), Value::Null);
    let decision = look(&cluster, &[], "2026-11-21T04:00:01Z");
    assert_eq!(decision.refused.unwrap().reason(), "BackupVerifyScheduleInvalid");
    assert!(decision.status.unwrap().next_run.is_some(), "backups themselves go on");
}

#[test]
fn the_newest_backup_is_read_again_on_its_own_schedule() {
    let spec = json!({"backup": {"verify": {"schedule": "0 5 * * 0"}}});
    let plan = json!({"nextVerify": "2026-11-22T05:00:00Z", "lastKey": "reef/kelp/a.snap",
        "nextRun": "2026-11-22T06:00:00Z", "schedule": "0 * * * * UTC"});
    let now = "2026-11-22T05:00:02Z";
    let decision = look(&from(spec.clone(), plan.clone()), &[], now);
    let operation = decision.create.unwrap();
    assert!(is_verification(&operation) && operation.name_any().starts_with("kelp-verify-"));
    assert_eq!(decision.status.unwrap().next_verify, Some(at("2026-11-29T05:00:00Z")));
    let empty = json!({"nextVerify": "2026-11-22T05:00:00Z"});
    assert_eq!(created(&look(&from(spec, empty), &[], now)), None, "nothing was ever backed up");
    let moved = from(json!({"backup": {"verify": {"schedule": "0 7 * * 0"}}}), plan);
    let decision = look(&moved, &[], now);
    assert_eq!(created(&decision), None, "a changed schedule counts from now");
    assert_eq!(decision.status.unwrap().next_verify, Some(at("2026-11-22T07:00:00Z")));
}

#[test]
fn the_status_tells_the_last_success_and_counts_failures_since() {
    let operations = vec![
        operation("e", "Failed", Some("2026-11-21T02:30:00Z"), json!({"status": {"message": "store unreachable"}})),
        good("b", "2026-11-21T01:00:00Z"),
        operation("c", "Cancelled", Some("2026-11-21T01:30:00Z"), json!({})),
        operation("d", "ConstraintFailed", Some("2026-11-21T02:00:00Z"), json!({"status": {"message": "sealed"}})),
        operation("a", "Failed", Some("2026-11-21T00:30:00Z"), json!({})),
        operation("v", "Failed", Some("2026-11-21T02:45:00Z"), json!({"spec": {"parameters": {"mode": "Verify"}}})),
    ];
    let status = look(&cluster(), &operations, "2026-11-21T03:00:00Z").status.unwrap();
    assert_eq!(status.last_success, Some(at("2026-11-21T01:00:00Z")));
    assert_eq!((status.last_key.as_deref(), status.last_size_bytes), (Some("reef/kelp/b.snap"), Some(7)));
    assert_eq!((status.consecutive_failures, status.last_operation.as_deref()), (2, Some("e")));
    let told = status.last_failure_message.as_deref().unwrap();
    assert!(told.starts_with("v could not read a backup back"), "a verification's failure is told too: {told}");
    let without = look(&cluster(), &operations[..5], "2026-11-21T03:00:00Z").status.unwrap();
    assert_eq!(without.last_failure_message.as_deref(), Some("store unreachable"));
    let verified = operation(
        "w",
        "Succeeded",
        Some("2026-11-21T02:50:00Z"),
        json!({"spec": {"parameters": {"mode": "Verify"}}, "status": {"artifacts": {"key": "reef/kelp/b.snap"}}}),
    );
    let mut after = operations.clone();
    after.push(verified.clone());
    let mended = look(&cluster(), &after, "2026-11-21T03:00:00Z").status.unwrap();
    assert_eq!(mended.last_failure_message.as_deref(), Some("store unreachable"), "it can be read again");
    let status = look(&cluster(), &[verified], "2026-11-21T03:00:00Z").status.unwrap();
    assert_eq!(status.last_verified, Some(at("2026-11-21T02:50:00Z")));
    assert_eq!((status.last_verified_key.as_deref(), status.last_success), (Some("reef/kelp/b.snap"), None));
}

#[test]
fn a_backup_dated_ahead_does_not_hide_what_came_after_it() {
    let taken = |name: &str, taken: &str, ended: &str| {
        let step =
            json!({"name": "Snapshot", "state": "completed", "completedAt": ended, "output": {"takenAt": taken}});
        let mut whole = (*good(name, ended)).clone();
        whole.status.as_mut().unwrap().steps = vec![serde_json::from_value(step).unwrap()];
        Arc::new(whole)
    };
    let ahead = taken("a", "2026-12-21T01:00:00Z", "2026-11-21T01:00:09Z");
    let status = look(&cluster(), std::slice::from_ref(&ahead), "2026-11-21T03:00:00Z").status.unwrap();
    assert_eq!(status.last_success, Some(at("2026-11-21T01:00:09Z")), "it was taken before it was told");

    let next = taken("b", "2026-11-21T02:00:00Z", "2026-11-21T02:00:09Z");
    // As an earlier release told it.
    let frozen = from(
        json!({}),
        json!({"nextRun": "2026-11-21T04:00:00Z", "schedule": "0 * * * * UTC",
        "lastSuccess": "2026-12-21T01:00:00Z", "lastKey": "reef/kelp/a.snap"}),
    );
    for cluster in [cluster(), frozen] {
        let status = look(&cluster, &[ahead.clone(), next.clone()], "2026-11-21T03:00:00Z").status.unwrap();
        assert_eq!(status.last_success, Some(at("2026-11-21T02:00:00Z")));
        assert_eq!(status.last_key.as_deref(), Some("reef/kelp/b.snap"));
        let failure =
            operation("c", "Failed", Some("2026-11-21T02:30:00Z"), json!({"status": {"message": "store unreachable"}}));
        let status = look(&cluster, &[ahead.clone(), next.clone(), failure], "2026-11-21T03:00:00Z").status.unwrap();
        assert_eq!(status.last_failure_message.as_deref(), Some("store unreachable"));
        assert_eq!(status.last_operation.as_deref(), Some("c"));
    }
}

#[test]
fn a_backup_that_could_not_be_read_back_is_told_until_one_was_whatever_is_taken_meanwhile() {
    let read = |name: &str, phase: &str, ended: &str| {
        operation(
            name,
            phase,
            Some(ended),
            json!({"spec": {"parameters": {"mode": "Verify"}}, "status": {"message": "bits"}}),
        )
    };
    let (first, bad) = (read("r", "Succeeded", "2026-11-20T05:00:00Z"), read("v", "Failed", "2026-11-21T00:30:00Z"));
    let taken = good("b", "2026-11-21T01:00:00Z");
    let mut cluster = cluster();
    let mut status =
        look(&cluster, &[first.clone(), bad.clone(), taken.clone()], "2026-11-21T03:00:00Z").status.unwrap();
    let told = "v could not read a backup back: bits";
    assert_eq!(status.last_failure_message.as_deref(), Some(told), "a new backup does not mend the old one");
    assert_eq!(status.consecutive_failures, 0);
    // Its record goes, another backup fails and one succeeds: it still stands.
    let failed =
        operation("f", "Failed", Some("2026-11-21T02:00:00Z"), json!({"status": {"message": "store unreachable"}}));
    for (records, message) in [
        (vec![first.clone(), taken.clone(), failed.clone()], "store unreachable"),
        (vec![first.clone(), taken.clone(), failed, good("c", "2026-11-21T02:30:00Z")], told),
        (vec![first, good("c", "2026-11-21T02:30:00Z")], told),
    ] {
        cluster.status.as_mut().unwrap().backup = Some(status);
        status = look(&cluster, &records, "2026-11-21T03:00:00Z").status.unwrap();
        assert_eq!(status.last_failure_message.as_deref(), Some(message));
        assert_eq!(status.last_verify_failure.as_deref(), Some(told));
    }
    cluster.status.as_mut().unwrap().backup = Some(status);
    let mended = [bad, read("w", "Succeeded", "2026-11-21T02:50:00Z")];
    let status = look(&cluster, &mended, "2026-11-21T03:00:00Z").status.unwrap();
    assert_eq!((status.last_failure_message, status.last_verify_failure), (None, None));
}

#[test]
fn a_retention_that_left_something_is_told_until_one_did_not() {
    let retained = |name: &str, ended: &str, output: Value, role: Option<&str>| {
        let parameters = role.map_or_else(|| json!({}), |role| json!({"role": role}));
        let steps = json!([{"name": "Retention", "state": "completed", "output": output}]);
        operation(
            name,
            "Succeeded",
            Some(ended),
            json!({"spec": {"parameters": parameters}, "status": {"steps": steps}}),
        )
    };
    let stuck = json!({"removed": "0", "warning": "1 of the backups that are to go could not be removed"});
    let told = |operations: &[Arc<OpenBaoOperation>]| {
        look(&cluster(), operations, "2026-11-21T03:00:00Z").status.unwrap().last_retention_failure
    };
    let bad = retained("bad", "2026-11-21T01:00:00Z", stuck.clone(), None);
    let words = told(std::slice::from_ref(&bad)).unwrap();
    assert!(words.starts_with("bad: 1 of the backups"), "{words}");
    let child = retained("child", "2026-11-21T01:30:00Z", json!({}), Some("PreUpgrade"));
    assert_eq!(told(&[bad.clone(), child]), Some(words), "it ran none");
    let held = retained("held", "2026-11-21T02:00:00Z", json!({"heldBack": "restore pearl"}), None);
    assert_eq!(told(&[bad, held]), None, "nothing went wrong since");
}

#[test]
fn reading_back_a_strangers_backup_says_nothing_of_this_clusters_own() {
    let read = |phase: &str, key: &str, uid: &str| {
        let steps = json!([{"name": "ReadBack", "state": "completed", "output": {"clusterUID": uid}}]);
        let status = json!({"artifacts": {"key": key}, "steps": steps, "inputs": {"clusterUID": UID}, "message": "m"});
        let whole = json!({"spec": {"parameters": {"mode": "Verify"}}, "status": status});
        let verification = operation("v", phase, Some("2026-11-21T02:00:00Z"), whole);
        let status = look(&cluster(), &[verification], "2026-11-21T03:00:00Z").status.unwrap();
        (status.last_verified_key, status.last_verify_failure.is_some())
    };
    let ours = "deep/reef/kelp/a.snap";
    assert_eq!(read("Succeeded", ours, UID), (Some(ours.into()), false));
    assert_eq!(read("Failed", ours, UID), (None, true));
    for (key, uid) in [(ours, "another"), ("deep/reef/coral/a.snap", UID), ("deep/greef/kelp/a.snap", UID)] {
        assert_eq!(read("Succeeded", key, uid), (None, false), "{key} of {uid}");
        assert_eq!(read("Failed", key, uid), (None, false), "{key} of {uid}");
    }
}

#[test]
fn pruned_records_take_nothing_away_and_a_namesakes_records_give_nothing() {
    let mut cluster = cluster();
    let known = look(&cluster, &[good("b", "2026-11-21T01:00:00Z")], "2026-11-21T03:00:00Z").status;
    cluster.status.as_mut().unwrap().backup.clone_from(&known);
    assert_eq!(look(&cluster, &[], "2026-11-21T03:00:00Z").status, known);
    let older = operation(
        "old",
        "Succeeded",
        Some("2026-10-01T00:00:00Z"),
        json!({"metadata": {"creationTimestamp": "2026-10-01T00:00:00Z"}}),
    );
    let mut young = from(json!({}), Value::Null);
    young.status = None;
    assert_eq!(look(&young, &[older], "2026-11-21T03:00:00Z").status.unwrap().last_success, None);
}

#[test]
fn without_a_backup_spec_nothing_is_planned_and_the_past_stays() {
    let mut cluster = cluster();
    cluster.spec.backup = None;
    let decision = look(&cluster, &[good("b", "2026-11-21T01:00:00Z")], "2026-11-21T04:00:01Z");
    assert_eq!((created(&decision), decision.wake_at), (None, None));
    let status = decision.status.unwrap();
    assert!(status.next_run.is_none() && status.last_success.is_some());
    cluster.status = None;
    assert_eq!(look(&cluster, &[], "2026-11-21T04:00:01Z").status, None);
}

fn any_operation() -> impl Strategy<Value = Arc<OpenBaoOperation>> {
    let phases =
        prop::sample::select(vec!["Succeeded", "Failed", "Running", "Pending", "Cancelled", "ConstraintFailed"]);
    let kinds = prop::sample::select(vec![
        json!({}),
        json!({"parameters": {"mode": "Verify"}}),
        json!({"operation": "RestoreTest"}),
    ]);
    (0u32..40, phases, 0i64..86_400, kinds).prop_map(|(name, phase, second, spec)| {
        let ended = (at("2026-11-20T00:00:00Z") + chrono::TimeDelta::seconds(second)).to_rfc3339();
        operation(&format!("op-{name}"), phase, Some(&ended), json!({"spec": spec}))
    })
}

proptest! {
    #[test]
    fn looking_again_at_what_was_just_decided_decides_nothing_new(
        operations in prop::collection::vec(any_operation(), 0..12), second in 0i64..10_000,
    ) {
        let mut cluster = cluster();
        let now = at("2026-11-21T03:00:00Z") + chrono::TimeDelta::seconds(second);
        let facts = |cluster: &OpenBaoCluster| {
            decide(&BackupFacts { cluster, operations: &operations, pending_restore: None }, now)
        };
        let first = facts(&cluster);
        cluster.status.as_mut().unwrap().backup.clone_from(&first.status);
        let second = facts(&cluster);
        prop_assert_eq!((&second.create, &second.skipped), (&None, &None));
        prop_assert_eq!(second.status, first.status, "the status settles in one step");
    }

    #[test]
    fn the_order_of_the_operations_means_nothing(operations in prop::collection::vec(any_operation(), 0..12)) {
        let mut turned = operations.clone();
        turned.reverse();
        // Records have unique names; two of one name cannot exist.
        let mut seen = std::collections::BTreeSet::new();
        prop_assume!(operations.iter().all(|operation| seen.insert(operation.name_any())));
        let of = |list: &[Arc<OpenBaoOperation>]| look(&cluster(), list, "2026-11-21T03:00:00Z").status;
        prop_assert_eq!(of(&operations), of(&turned));
    }
}

#[test]
fn a_verification_that_never_ended_blocks_the_next_one_but_no_backup() {
    let spec = json!({"backup": {"verify": {"schedule": "0 5 * * 0"}}});
    let plan = json!({"nextVerify": "2026-11-22T05:00:00Z", "lastKey": "k", "nextRun": "2026-11-22T05:00:00Z",
        "schedule": "0 * * * * UTC"});
    let stuck = operation("v", "Unknown", None, json!({"spec": {"parameters": {"mode": "Verify"}}}));
    assert_eq!(stuck.status.as_ref().unwrap().phase, OperationPhase::Unknown);
    let decision = look(&from(spec, plan), &[stuck], "2026-11-22T05:00:02Z");
    assert!(created(&decision).unwrap().starts_with("kelp-backup-"));
    assert_eq!(decision.status.unwrap().next_verify, Some(at("2026-11-29T05:00:00Z")));
}

#[test]
fn every_sample_with_a_backup_can_be_backed_up() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/samples");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for object in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
            // What was written for the Go operator is a manifest to start from, not to copy.
            if object["spec"]["backup"].is_null() || path.ends_with("cluster-from-the-go-operator.yaml") {
                continue;
            }
            let cluster: OpenBaoCluster = serde_json::from_value(object).unwrap();
            let decision = look(&cluster, &[], "2026-11-21T04:00:01Z");
            assert_eq!(decision.refused, None, "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 5, "only {count} were found");
}
