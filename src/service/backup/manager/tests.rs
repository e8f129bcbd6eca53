use serde_json::{Value, json};

use super::*;
use crate::service::opslifecycle::{RefusalPhase, asked};

const IMAGE: &str = "registry.example/openbao-operator:1";

fn cluster(change: impl FnOnce(&mut Value)) -> OpenBaoCluster {
    let mut whole = json!({
        "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster",
        "metadata": {"name": "kelp", "namespace": "reef", "uid": "c1"},
        "spec": {"version": "2.7.2", "storage": {"size": "1Gi"}, "selfInit": {"enabled": true, "oidc": {"enabled": true}},
            "backup": {
            "target": {"provider": "file", "file": {"claimName": "sand"}}, "retention": {"keepLast": 3}}},
        "status": {"initialized": true},
    });
    change(&mut whole);
    serde_json::from_value(whole).unwrap()
}

fn lock(operation: &str, uid: &str, mode: &str) -> Value {
    json!({"operation": operation, "holder": "openbaorestore/pearl", "holderUID": uid, "mode": mode, "message": "applying",
        "acquiredAt": "2026-11-21T03:00:00Z", "renewedAt": "2026-11-21T03:00:00Z"})
}

fn operation(spec: Value) -> OpenBaoOperation {
    let mut whole = json!({
        "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
        "metadata": {"name": "ask", "namespace": "reef", "uid": "o1"},
        "spec": {"cluster": "kelp", "operation": "Backup"},
    });
    for (key, value) in spec.as_object().unwrap() {
        whole["spec"][key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn restore(phase: &str) -> OpenBaoRestore {
    serde_json::from_value(json!({
        "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoRestore",
        "metadata": {"name": "pearl", "namespace": "reef", "uid": "r1"},
        "spec": {"cluster": "kelp", "source": {"latest": true}},
        "status": {"phase": phase, "operation": "pearl-restore-r1", "clusterUID": "c1"},
    }))
    .unwrap()
}

fn planned(
    cluster: &OpenBaoCluster,
    op: &OpenBaoOperation,
    parent: Option<&OpenBaoOperation>,
) -> Result<Planned, Refusal> {
    let now = "2026-11-21T03:00:00Z".parse().unwrap();
    decide(&Known { cluster, op, restores: &[], operations: &[], parent, operator_image: IMAGE, now })
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.name.as_str()).collect()
}

#[test]
fn a_backup_takes_the_lock_only_when_it_reads_the_servers() {
    let plan = planned(&cluster(|_| ()), &operation(json!({})), None).unwrap().plan;
    assert_eq!(names(&plan), [GATE, SNAPSHOT, VERIFY_SEAL, RETENTION]);
    let lock = plan.lock.unwrap();
    assert_eq!((lock.operation, lock.before.as_deref()), (LockOperation::Backup, Some(SNAPSHOT)));
    assert_eq!((lock.holder.as_str(), lock.holder_uid.as_str()), (HOLDER, "o1"), "two on demand exclude each other");
    let bare = cluster(|whole| whole["spec"]["backup"]["retention"] = Value::Null);
    assert_eq!(names(&planned(&bare, &operation(json!({})), None).unwrap().plan), [GATE, SNAPSHOT, VERIFY_SEAL]);
}

#[test]
fn a_backup_that_a_person_asked_for_waits_and_says_for_whom() {
    let op = operation(json!({}));
    let waits = |change: fn(&mut Value)| {
        let refusal = planned(&cluster(change), &op, None).unwrap_err();
        assert_eq!(refusal.phase, RefusalPhase::Wait(RetryClass::Standard), "{refusal:?}");
        (refusal.reason, refusal.message)
    };
    assert_eq!(waits(|whole| whole["spec"]["paused"] = json!(true)).0, "Paused");
    assert_eq!(waits(|whole| whole["status"]["initialized"] = json!(false)).0, "NotInitialized");
    let (reason, message) = waits(|whole| {
        whole["status"]["operationLock"] = lock("Restore", "r1", "Held");
        whole["status"]["pendingRestore"] = json!("pearl");
    });
    assert!(
        reason == "WaitingForLock" && message.contains("openbaorestore/pearl") && message.contains("Restore"),
        "{message}"
    );
}

#[test]
fn a_backup_waits_for_the_restores_that_there_are_and_for_none_that_only_the_status_remembers() {
    let (cluster, op) = (cluster(|whole| whole["status"]["pendingRestore"] = json!("gone")), operation(json!({})));
    assert!(planned(&cluster, &op, None).is_ok());
    let restores = [Arc::new(restore("Validating"))];
    let now = "2026-11-21T03:00:00Z".parse().unwrap();
    let known = Known {
        cluster: &cluster,
        op: &op,
        restores: &restores,
        operations: &[],
        parent: None,
        operator_image: IMAGE,
        now,
    };
    let refusal = decide(&known).unwrap_err();
    assert!(refusal.reason == "RestorePending" && refusal.message.contains("pearl"), "{refusal:?}");
}

#[test]
fn under_a_parked_upgrade_a_backup_runs_without_a_lock_of_its_own() {
    let parked = cluster(|whole| whole["status"]["operationLock"] = lock("Upgrade", "u1", "Parked"));
    let Planned { plan, inputs } = planned(&parked, &operation(json!({})), None).unwrap();
    assert_eq!((plan.lock, plan.steps.len()), (None, 4));
    assert_eq!(inputs.get(HOST).map(String::as_str), Some("u1"), "it knows whose lock that is");
    let held = cluster(|whole| whole["status"]["operationLock"] = lock("Upgrade", "u1", "Held"));
    assert!(planned(&held, &operation(json!({})), None).is_err());
    let own = planned(&cluster(|_| ()), &operation(json!({})), None).unwrap();
    assert!(own.plan.lock.is_some() && !own.inputs.contains_key(HOST));
}

#[test]
fn a_backup_under_a_parked_upgrade_is_not_ended_by_its_resume_and_none_enters_after_it() {
    let seen = |lock: Value, committed: Option<bool>| -> OperationLock {
        let lock: OperationLock = serde_json::from_value(lock).unwrap();
        OperationLock { committed, ..lock }
    };
    let parked = || seen(lock("Upgrade", "u1", "Parked"), Some(false));
    let held = |committed| seen(lock("Upgrade", "u1", "Held"), committed);
    let goes_on = |lock: Option<OperationLock>, host, enters| unawaited(lock.as_ref(), host, enters).is_none();
    for (case, lock, stays) in [
        ("parked", Some(parked()), true),
        ("resumed: the upgrade waits for whoever entered", Some(held(Some(false))), true),
        ("the same under the lock of an older operator", Some(held(None)), true),
        ("leadership moves: it waits no more", Some(held(Some(true))), false),
        ("given back", None, false),
        ("another upgrade's", Some(seen(lock("Upgrade", "u2", "Parked"), None)), false),
        ("a restore's", Some(seen(lock("Restore", "u1", "Held"), None)), false),
    ] {
        assert_eq!(goes_on(lock.clone(), Some("u1"), false), stays, "{case}");
        let is_parked = lock.as_ref().is_some_and(|lock| lock.mode == LockMode::Parked);
        assert_eq!(goes_on(lock, Some("u1"), true), stays && is_parked, "{case}, entering");
    }
    // Planned by an operator that did not ask when it entered.
    assert!(goes_on(Some(parked()), None, false));
    assert!(!goes_on(Some(held(Some(false))), None, false));
}

#[test]
fn a_backup_that_waits_for_the_lock_does_not_start_once_the_cluster_is_paused_or_a_restore_announced() {
    let waits = |cluster: &OpenBaoCluster, restores: &[Arc<OpenBaoRestore>]| match may_still_start(cluster, restores) {
        StepOutcome::Waiting { reason, .. } => Some(reason),
        other => {
            assert_eq!(other, StepOutcome::done());
            None
        }
    };
    let calm = cluster(|_| ());
    let announced = [Arc::new(restore("Validating"))];
    assert_eq!(waits(&calm, &[]), None);
    assert!(waits(&calm, &announced).is_some_and(|why| why.contains("pearl")));
    assert_eq!(waits(&calm, &[Arc::new(restore("Failed"))]), None, "it is over");
    let paused = cluster(|whole| whole["spec"]["paused"] = json!(true));
    assert!(waits(&paused, &[]).is_some_and(|why| why.contains("spec.paused")));
    // The lock may still be the one that it waits for: whoever asks has found it free.
    let locked = cluster(|whole| whole["status"]["operationLock"] = lock("Backup", "o0", "Held"));
    assert_eq!(waits(&locked, &[]), None);
}

#[test]
fn what_can_never_work_is_refused_for_good() {
    let op = operation(json!({}));
    let none = cluster(|whole| whole["spec"]["backup"] = Value::Null);
    let refusal = planned(&none, &op, None).unwrap_err();
    assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::Failed, "NoBackupTarget"));
    let climbing = cluster(|whole| whole["spec"]["backup"]["target"]["pathPrefix"] = json!("a/../b"));
    assert_eq!(planned(&climbing, &op, None).unwrap_err().reason, "BackupTargetInvalid");
}

#[test]
fn a_child_runs_under_its_parents_lock_and_only_if_the_parent_has_it() {
    let parent = |phase: &str| -> OpenBaoOperation {
        serde_json::from_value(json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": "up", "namespace": "reef", "uid": "p1"},
            "spec": {"cluster": "kelp", "operation": "Upgrade"},
            "status": {"phase": phase, "plan": {"steps": [], "lock": {"operation": "Upgrade", "holder": "h",
                "holderUid": "p1"}}},
        }))
        .unwrap()
    };
    let holds = cluster(|whole| whole["status"]["operationLock"] = lock("Upgrade", "p1", "Held"));
    let child = request::child(&parent("Running"), request::PRE_UPGRADE, "before 2.7.2").unwrap();
    let plan = planned(&holds, &child, Some(&parent("Running"))).unwrap().plan;
    assert_eq!((names(&plan), plan.lock.clone()), (vec![GATE, SNAPSHOT, VERIFY_SEAL], None));
    for (case, cluster, op, parent) in [
        ("no parent", &holds, &child, None),
        ("an ended parent", &holds, &child, Some(parent("Failed"))),
        ("the lock is not the parent's", &cluster(|_| ()), &child, Some(parent("Running"))),
        (
            "not owned by the parent",
            &holds,
            &operation(json!({"parameters": {"role": "PreUpgrade"}, "lineage": {"parentOperation": "up"}})),
            Some(parent("Running")),
        ),
    ] {
        let refusal = planned(cluster, op, parent.as_ref()).unwrap_err();
        assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::Failed, "NotAChild"), "{case}");
    }
    let unknown = operation(json!({"parameters": {"role": "Boss"}}));
    assert_eq!(planned(&holds, &unknown, None).unwrap_err().reason, "UnknownRole");
}

#[test]
fn a_verification_reads_the_newest_or_the_named_backup_whoever_holds_the_lock() {
    let held = cluster(|whole| whole["status"]["operationLock"] = lock("Restore", "r1", "Held"));
    let newest = planned(&held, &operation(json!({"parameters": {"mode": "Verify"}})), None).unwrap();
    assert_eq!((names(&newest.plan), newest.plan.lock.clone()), (vec![READ_BACK, VERIFY_SEAL], None));
    assert_eq!(Frozen::read(&newest.inputs).unwrap().source, Some(Source::Latest));
    let named = operation(json!({"parameters": {"mode": "Verify", "key": "reef/kelp/a.snap"}}));
    let named = Frozen::read(&planned(&held, &named, None).unwrap().inputs).unwrap();
    assert_eq!(named.source, Some(Source::Key("reef/kelp/a.snap".into())));
}

#[test]
fn a_verification_is_not_nailed_to_what_is_the_newest_when_it_is_planned() {
    let known = cluster(|whole| whole["status"]["backup"] = json!({"lastKey": "reef/kelp/b.snap"}));
    let source = |parameters: Value| {
        let op = operation(json!({"parameters": parameters}));
        Frozen::read(&planned(&known, &op, None).unwrap().inputs).unwrap().source
    };
    assert_eq!(source(json!({"mode": "Verify"})), Some(Source::Latest));
    let named = json!({"mode": "Verify", "key": "reef/kelp/a.snap"});
    assert_eq!(source(named), Some(Source::Key("reef/kelp/a.snap".into())));
}

#[test]
fn a_backup_that_is_asked_for_by_mistyped_parameters_is_refused_instead_of_taken() {
    for parameters in [
        json!({"mode": "verify"}),
        json!({"mod": "Verify"}),
        json!({"key": "reef/kelp/a.snap"}),
        json!({"mode": "Verify", "role": "Safety"}),
    ] {
        let op = operation(json!({"parameters": parameters}));
        let refusal = asked::check(&op, BackupManager.parameters())
            .and_then(|()| planned(&cluster(|_| ()), &op, None))
            .expect_err("nobody would do that");
        assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::Failed, "InvalidParameters"), "{parameters}");
    }
    for parameters in [json!({"mode": "Verify", "key": "reef/kelp/a.snap"}), json!({"role": "PreUpgrade"})] {
        let op = operation(json!({"parameters": parameters}));
        assert_eq!(asked::check(&op, BackupManager.parameters()), Ok(()), "{parameters}");
    }
}

#[test]
fn later_changes_of_the_spec_belong_to_the_next_backup() {
    let frozen = Frozen::read(&planned(&cluster(|_| ()), &operation(json!({})), None).unwrap().inputs).unwrap();
    assert_eq!((frozen.image.as_str(), frozen.store.claim.as_deref()), (IMAGE, Some("sand")));
    assert_eq!(frozen.key, "reef/kelp/2026-11-21T03-00-00Z-o1.snap");
    assert_eq!(frozen.retention.unwrap().keep_last, Some(3));
}
