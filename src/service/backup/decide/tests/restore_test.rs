//! Restore tests: when one is asked for, and what the status tells of those that have ended.

use super::*;
use crate::api::OperationKind;

const PLANNED: &str = "2026-11-22T06:00:00Z";
const NOW: &str = "2026-11-22T06:00:02Z";

/// A cluster with a backup to restore and no schedule but that of its tests, on Sundays.
fn tested(spec: Value, status: Value) -> OpenBaoCluster {
    let mut wanted = json!({"backup": {"schedule": null, "restoreTest": {"schedule": "0 6 * * 0"}}});
    let mut known = json!({"lastKey": "reef/kelp/a.snap", "restoreTest": {"next": PLANNED}});
    merge(&mut wanted, spec);
    merge(&mut known, status);
    from(wanted, known)
}

fn record(name: &str, phase: &str, ended: &str, extra: Value) -> Arc<OpenBaoOperation> {
    let begun = json!([{"name": "Test", "state": "failed"}]);
    let mut whole = json!({"spec": {"operation": "RestoreTest"}, "status": {"steps": begun}});
    merge(&mut whole, extra);
    operation(name, phase, Some(ended), whole)
}

fn next(decision: &BackupDecision) -> Option<DateTime<Utc>> {
    decision.status.as_ref()?.restore_test.as_ref()?.next
}

#[test]
fn nothing_is_restored_before_the_planned_time() {
    let cluster = tested(json!({}), json!({}));
    let decision = look(&cluster, &[], "2026-11-22T05:59:59Z");
    assert_eq!((created(&decision), decision.wake_at), (None, Some(at(PLANNED))));
    assert_eq!(decision.status, cluster.status.unwrap().backup, "an idle look must change nothing");
}

#[test]
fn a_tick_asks_for_one_restore_test_named_after_it_however_many_were_missed() {
    let name = format!("kelp-restoretest-{}", at(PLANNED).timestamp());
    for (now, following) in [(NOW, "2026-11-29T06:00:00Z"), ("2026-12-14T00:00:00Z", "2026-12-20T06:00:00Z")] {
        let decision = look(&tested(json!({}), json!({})), &[], now);
        assert_eq!((created(&decision), next(&decision)), (Some(name.clone()), Some(at(following))));
        let operation = decision.create.unwrap();
        assert_eq!((operation.spec.operation, operation.spec.cluster.as_str()), (OperationKind::RestoreTest, "kelp"));
        assert!(operation.spec.parameters.is_empty(), "the newest is chosen when it is read");
        assert_eq!(operation.spec.actor.as_ref().unwrap().source, ActorSource::Schedule);
        assert_eq!(operation.owner_references()[0].uid, UID);
    }
}

#[test]
fn a_crash_between_the_operation_and_the_status_makes_no_second_restore_test() {
    let cluster = tested(json!({}), json!({}));
    let made = Arc::new(look(&cluster, &[], NOW).create.unwrap());
    let again = look(&cluster, &[made], "2026-11-22T06:00:09Z");
    assert_eq!((created(&again), next(&again)), (None, Some(at("2026-11-29T06:00:00Z"))));
}

#[test]
fn what_stands_in_the_way_of_a_scheduled_restore_test_and_what_does_not() {
    let free = || tested(json!({}), json!({}));
    let of = |phase: &str, spec: Value| vec![operation("x", phase, None, json!({"spec": spec}))];
    let test = || json!({"operation": "RestoreTest"});
    for (case, cluster, operations, starts) in [
        ("free", free(), vec![], true),
        ("paused", tested(json!({"paused": true}), json!({})), vec![], false),
        ("nothing was ever backed up", tested(json!({}), json!({"lastKey": null})), vec![], false),
        ("the last one runs", free(), of("Running", test()), false),
        ("one waits for a person", free(), of("Unknown", test()), false),
        ("the last one has failed", free(), vec![record("x", "Failed", "2026-11-21T06:00:00Z", json!({}))], true),
        ("a backup runs", free(), of("Running", json!({})), true),
        ("a verification reads", free(), of("Running", json!({"parameters": {"mode": "Verify"}})), true),
        ("another cluster's", free(), of("Running", json!({"operation": "RestoreTest", "cluster": "kelp-2"})), true),
    ] {
        for pending_restore in [None, Some("pearl")] {
            let facts = BackupFacts { cluster: &cluster, operations: &operations, pending_restore };
            let decision = decide(&facts, at(NOW));
            assert_eq!(decision.create.is_some(), starts, "{case}");
            assert_eq!(next(&decision), Some(at("2026-11-29T06:00:00Z")), "{case}: the tick is used up either way");
        }
    }
}

#[test]
fn a_restore_test_that_runs_keeps_no_backup_from_being_taken_or_read_back() {
    let spec = json!({"backup": {"schedule": "0 * * * *", "restoreTest": null, "verify": {"schedule": "0 6 * * 0"}}});
    let running = operation("x", "Running", None, json!({"spec": {"operation": "RestoreTest"}}));
    let backup = tested(spec.clone(), json!({"nextRun": PLANNED, "schedule": "0 * * * * UTC"}));
    let decision = look(&backup, std::slice::from_ref(&running), NOW);
    assert!(created(&decision).unwrap().starts_with("kelp-backup-"), "{decision:?}");
    let verification = tested(spec, json!({"nextVerify": PLANNED}));
    let decision = look(&verification, &[running], NOW);
    assert!(created(&decision).unwrap().starts_with("kelp-verify-"), "{decision:?}");
}

#[test]
fn a_verification_and_a_restore_test_at_once_are_asked_for_one_after_the_other() {
    let spec = json!({"backup": {"verify": {"schedule": "0 6 * * 0"}}});
    let mut cluster = tested(spec, json!({"nextVerify": PLANNED}));
    let first = look(&cluster, &[], NOW);
    assert!(created(&first).unwrap().starts_with("kelp-verify-"));
    assert_eq!((next(&first), first.wake_at), (Some(at(PLANNED)), Some(at(NOW))), "the other one is still due");
    cluster.status.as_mut().unwrap().backup = first.status;
    let second = look(&cluster, &[Arc::new(first.create.unwrap())], NOW);
    assert!(created(&second).unwrap().starts_with("kelp-restoretest-"));
    assert_eq!(second.wake_at, Some(at("2026-11-29T06:00:00Z")));
}

#[test]
fn a_changed_schedule_of_restore_tests_counts_from_now_and_one_that_cannot_work_is_named() {
    let moved = tested(json!({"backup": {"restoreTest": {"schedule": "0 7 * * 0"}}}), json!({}));
    let decision = look(&moved, &[], NOW);
    assert_eq!((created(&decision), next(&decision)), (None, Some(at("2026-11-22T07:00:00Z"))));
    let never = json!({"backup": {"schedule": "0 * * * *", "restoreTest": {"schedule": "0 0 30 2 *"}}});
    let decision = look(&tested(never, json!({})), &[], NOW);
    let refused = decision.refused.as_ref().unwrap();
    assert_eq!(refused.reason(), "RestoreTestScheduleInvalid");
    assert!(refused.to_string().starts_with("spec.backup.restoreTest: schedule"), "{refused}");
    assert_eq!(next(&decision), None);
    assert!(decision.status.unwrap().next_run.is_some(), "backups themselves go on");
}

#[test]
fn where_no_restore_test_is_planned_the_past_of_them_stays() {
    let past = json!({"restoreTest": {"lastSuccess": "2026-11-15T06:00:41Z", "lastKey": "reef/kelp/a.snap"}});
    let gone = {
        let mut cluster = tested(json!({}), past.clone());
        cluster.spec.backup = None;
        cluster
    };
    let nobody = json!({"selfInit": {"oidc": {"enabled": false}}});
    for (case, cluster) in [
        ("no backups any more", gone),
        ("nobody to take them", tested(nobody, past.clone())),
        ("suspended", tested(json!({"backup": {"suspend": true}}), past.clone())),
        ("on demand only", tested(json!({"backup": {"restoreTest": {"schedule": null}}}), past.clone())),
        ("no such spec", tested(json!({"backup": {"restoreTest": null}}), past)),
    ] {
        let decision = look(&cluster, &[], NOW);
        assert_eq!((created(&decision), decision.wake_at), (None, None), "{case}");
        let test = decision.status.unwrap().restore_test.unwrap();
        assert_eq!((test.next, test.last_success), (None, Some(at("2026-11-15T06:00:41Z"))), "{case}");
    }
    let planned_only = tested(json!({"backup": {"suspend": true}}), json!({}));
    assert_eq!(look(&planned_only, &[], NOW).status.unwrap().restore_test, None, "nothing is left to say");
}

#[test]
fn the_status_tells_which_backup_came_back_last_and_keeps_it_when_records_go() {
    let passed = |name: &str, ended: &str, began: &str| {
        let artifacts = json!({"key": format!("reef/kelp/{name}.snap")});
        record(name, "Succeeded", ended, json!({"status": {"artifacts": artifacts, "startedAt": began}}))
    };
    let first = passed("t1", "2026-11-21T01:00:00Z", "2026-11-21T00:58:00Z");
    let second = passed("t2", "2026-11-21T02:00:41Z", "2026-11-21T02:00:00Z");
    let mut cluster = cluster();
    let status = look(&cluster, &[second, first.clone()], "2026-11-21T03:00:00Z").status.unwrap();
    let told = RestoreTestStatus {
        last_success: Some(at("2026-11-21T02:00:41Z")),
        last_key: Some("reef/kelp/t2.snap".into()),
        last_duration: Some("41s".into()),
        last_operation: Some("t2".into()),
        ..RestoreTestStatus::default()
    };
    assert_eq!(status.restore_test, Some(told));
    assert_eq!((&status.last_success, &status.last_key, &status.last_verified), (&None, &None, &None), "it took none");
    cluster.status.as_mut().unwrap().backup = Some(status.clone());
    for records in [vec![], vec![first]] {
        assert_eq!(look(&cluster, &records, "2026-11-21T03:00:00Z").status, Some(status.clone()));
    }
}

#[test]
fn a_backup_that_did_not_come_back_is_told_until_one_does_whatever_is_taken_meanwhile() {
    let bad = record("t", "Failed", "2026-11-21T00:30:00Z", json!({"status": {"message": "bits"}}));
    let earlier = record("s", "Succeeded", "2026-11-20T00:30:00Z", json!({}));
    let taken = good("b", "2026-11-21T01:00:00Z");
    let mut cluster = cluster();
    let records = [earlier.clone(), bad.clone(), taken.clone()];
    let mut status = look(&cluster, &records, "2026-11-21T03:00:00Z").status.unwrap();
    let told = "t could not bring a backup back: bits";
    assert_eq!(status.last_failure_message.as_deref(), Some(told), "a new backup does not mend the old one");
    assert_eq!((status.consecutive_failures, status.last_failure), (0, None), "no backup has failed");
    // Its record goes, another backup fails and one succeeds: it still stands.
    let failed =
        operation("f", "Failed", Some("2026-11-21T02:00:00Z"), json!({"status": {"message": "store unreachable"}}));
    let after = good("c", "2026-11-21T02:30:00Z");
    for (records, message) in [
        (vec![earlier.clone(), taken.clone(), failed.clone()], "store unreachable"),
        (vec![earlier.clone(), taken, failed, after.clone()], told),
        (vec![earlier, after], told),
        (vec![], told),
    ] {
        cluster.status.as_mut().unwrap().backup = Some(status);
        status = look(&cluster, &records, "2026-11-21T03:00:00Z").status.unwrap();
        assert_eq!(status.last_failure_message.as_deref(), Some(message));
        let test = status.restore_test.as_ref().unwrap();
        assert_eq!(test.last_failure_message.as_deref(), Some(told));
        assert_eq!((test.last_failure, test.last_operation.as_deref()), (Some(at("2026-11-21T00:30:00Z")), Some("t")));
    }
    cluster.status.as_mut().unwrap().backup = Some(status);
    let mended = [bad, record("w", "Succeeded", "2026-11-21T02:50:00Z", json!({}))];
    let status = look(&cluster, &mended, "2026-11-21T03:00:00Z").status.unwrap();
    let test = status.restore_test.unwrap();
    assert_eq!((status.last_failure_message, test.last_failure_message), (None, None));
    assert_eq!((test.last_operation.as_deref(), test.last_failure), (Some("w"), Some(at("2026-11-21T00:30:00Z"))));
}

#[test]
fn the_newer_of_two_troubles_with_stored_backups_is_told_and_each_ends_by_itself() {
    let read = |ended: &str| {
        let status = json!({"message": "bits"});
        operation("v", "Failed", Some(ended), json!({"spec": {"parameters": {"mode": "Verify"}}, "status": status}))
    };
    let test = |ended: &str| record("t", "Failed", ended, json!({"status": {"message": "keys"}}));
    let (unread, lost) = ("v could not read a backup back: bits", "t could not bring a backup back: keys");
    let (early, late) = ("2026-11-21T01:00:00Z", "2026-11-21T02:00:00Z");
    let passed = record("w", "Succeeded", "2026-11-21T02:30:00Z", json!({}));
    for (records, told) in [
        (vec![read(early), test(late)], lost),
        (vec![test(early), read(late)], unread),
        (vec![read(early), test(late), passed.clone()], unread),
        (vec![test(early), read(late), passed], unread),
    ] {
        let mut cluster = cluster();
        for look_number in 1..=2 {
            let status = look(&cluster, &records, "2026-11-21T03:00:00Z").status;
            let message = status.as_ref().unwrap().last_failure_message.as_deref();
            assert_eq!(message, Some(told), "look {look_number}");
            cluster.status.as_mut().unwrap().backup = status;
        }
    }
}

#[test]
fn a_test_of_a_strangers_backup_or_one_that_was_given_up_says_nothing_of_this_clusters_own() {
    let told = |phase: &str, status: Value, parameters: Value| {
        let whole = json!({"spec": {"parameters": parameters}, "status": status});
        let test = record("t", phase, "2026-11-21T02:00:00Z", whole);
        let test = look(&cluster(), &[test], "2026-11-21T03:00:00Z").status.unwrap().restore_test;
        test.map(|test| (test.last_success.is_some(), test.last_failure_message.is_some()))
    };
    let read = |key: &str| json!({"artifacts": {"key": key}, "inputs": {"clusterUID": UID}});
    let ours = "deep/reef/kelp/a.snap";
    assert_eq!(told("Succeeded", read(ours), json!({})), Some((true, false)));
    assert_eq!(told("Failed", json!({}), json!({"key": ours})), None, "an older one that somebody named");
    assert_eq!(told("Failed", json!({}), json!({})), Some((false, true)), "the newest is its own");
    for strange in ["deep/reef/coral/a.snap", "deep/greef/kelp/a.snap"] {
        assert_eq!(told("Succeeded", read(strange), json!({})), None, "{strange}");
        assert_eq!(told("Failed", json!({}), json!({"key": strange})), None, "{strange}");
    }
    let mut namesakes = read(ours);
    namesakes["steps"] = json!([{"name": "Test", "state": "completed", "output": {"clusterUID": "another"}}]);
    assert_eq!(told("Succeeded", namesakes, json!({})), None, "a namesake of the cluster has stored it");
    for phase in ["Cancelled", "ConstraintFailed"] {
        assert_eq!(told(phase, json!({}), json!({})), None, "{phase}");
    }
}

#[test]
fn a_request_that_was_refused_as_it_was_written_is_no_failed_test_and_a_schedule_that_is_refused_each_time_is_one() {
    let told = |source: &str| {
        let actor = json!({"identity": "i", "source": source});
        let whole = json!({"spec": {"actor": actor}, "status": {"steps": []}});
        let test = record("t", "Failed", "2026-11-21T02:00:00Z", whole);
        look(&cluster(), &[test], "2026-11-21T03:00:00Z").status.unwrap().restore_test
    };
    assert_eq!(told("api"), None);
    assert!(told("schedule").is_some_and(|test| test.last_failure_message.is_some()));
}

#[test]
fn what_becomes_of_an_older_backup_that_is_named_takes_back_nothing_that_was_said_of_the_newest() {
    let failed = record("t", "Failed", "2026-11-21T02:00:00Z", json!({}));
    let named = |key: &str| {
        let whole = json!({"spec": {"parameters": {"key": key}}, "status": {"artifacts": {"key": key}}});
        let passed = record("u", "Succeeded", "2026-11-21T02:30:00Z", whole);
        let cluster = tested(json!({}), json!({"lastKey": "reef/kelp/new.snap"}));
        let told =
            look(&cluster, &[failed.clone(), passed], "2026-11-21T03:00:00Z").status.unwrap().restore_test.unwrap();
        (told.last_success.is_some(), told.last_failure_message.is_some())
    };
    assert_eq!(named("reef/kelp/old.snap"), (false, true), "the newest still does not come back");
    assert_eq!(named("reef/kelp/new.snap"), (true, false), "by its key it is the newest all the same");
}
