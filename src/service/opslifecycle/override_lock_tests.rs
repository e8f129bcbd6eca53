//! Whose lock may be taken or freed, and whose stays.

use super::*;
use crate::api::operation::{OpenBaoOperationStatus, OperationKind, OperationPhase};
use kube::Resource;

fn held(operation: LockOperation) -> HeldError {
    HeldError {
        operation,
        holder: "openbaocluster/upgrade".into(),
        holder_uid: "u1".into(),
        operation_ref: Some("op".into()),
        message: String::new(),
        fence: 4,
        committed: None,
    }
}

fn gone(committed: Option<bool>) -> HolderFacts {
    HolderFacts { operation: LockOperation::Upgrade, holder: Holder::Gone, jobs: 0, committed }
}

#[test]
fn an_orphan_needs_all_three_proofs() {
    let held = held(LockOperation::Upgrade);
    let take = Permission::Take { uid: "u1".into(), fence: 4 };
    let judge = |facts| judge_orphan(facts, &held);
    assert_eq!(judge(gone(Some(false))), take);
    assert_ne!(judge(HolderFacts { holder: Holder::Live, ..gone(Some(false)) }), take);
    assert_ne!(judge(HolderFacts { jobs: 1, ..gone(Some(false)) }), take);
    assert_ne!(judge(gone(Some(true))), take);
    assert_ne!(judge(gone(None)), take);
}

#[test]
fn an_operation_that_ended_has_no_claim_to_its_lock_unless_it_keeps_it_on_purpose() {
    let held = held(LockOperation::Restore);
    let take = Permission::Take { uid: "u1".into(), fence: 4 };
    let judge = |keeps, jobs, committed| {
        judge_orphan(HolderFacts { holder: Holder::Ended { keeps }, jobs, ..gone(committed) }, &held)
    };
    for committed in [None, Some(false), Some(true)] {
        assert_eq!(judge(false, 0, committed), take, "how it ended is known");
        assert_ne!(judge(false, 1, committed), take);
        assert_ne!(judge(true, 0, committed), take);
    }
}

#[test]
fn a_lock_that_cannot_be_judged_names_the_way_out() {
    let Permission::Wait { why } = judge_orphan(gone(None), &held(LockOperation::Restore)) else { panic!("taken") };
    assert!(why.contains("Release") && why.contains("u1") && why.contains('4'), "{why}");
}

#[test]
fn a_holder_that_cannot_be_read_is_neither_gone_nor_unknown_and_the_message_says_what_to_do() {
    let facts = HolderFacts { holder: Holder::Unreadable, ..gone(Some(false)) };
    let Permission::Wait { why } = judge_orphan(facts, &held(LockOperation::Backup)) else { panic!("taken") };
    for part in ["openbaocluster/upgrade", "operation op", "cannot be read", "delete it"] {
        assert!(why.contains(part), "{part} in {why}");
    }
    let mut op = OpenBaoOperation::new("op", crate::api::OpenBaoOperationSpec::default()).metadata;
    op.uid = Some("u2".into());
    assert!(is_holders(&op, "u2") && !is_holders(&op, "u1"));
    let mut restore = OpenBaoRestore::new("r", crate::api::OpenBaoRestoreSpec::default());
    restore.metadata.uid = Some("u1".into());
    op.owner_references = Some(vec![restore.controller_owner_ref(&()).unwrap()]);
    assert!(is_holders(&op, "u1"), "a restore's operation works for the restore");
}

#[test]
fn a_holder_that_became_unreadable_while_the_watch_takes_it_for_live_is_not_overridden_as_if_it_were_gone() {
    let held = held(LockOperation::Backup);
    let found = |uid: &str| -> Option<DeserializeGuard<OpenBaoOperation>> {
        let object = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": "op", "uid": uid}, "spec": {"cluster": "kelp", "operation": "Backup"}, "status": "none"});
        Some(serde_json::from_value(object).unwrap())
    };
    assert!(found("u1").is_some_and(|op| op.0.is_err()));
    let why = at_work(found("u1"), &held).unwrap_err();
    assert!(why.contains("operation op") && why.contains("cannot be read"), "{why}");
    assert_eq!(at_work(found("u2"), &held), Ok(None), "a namesake");
    assert_eq!(at_work(None, &held), Ok(None), "its object is gone");
}

fn journal(change: impl FnOnce(&mut OpenBaoOperationStatus)) -> Journal {
    let mut status = OpenBaoOperationStatus { phase: OperationPhase::Running, ..OpenBaoOperationStatus::default() };
    change(&mut status);
    Journal { status, subject: Subject { kind: OperationKind::Upgrade, ..Subject::default() } }
}

#[test]
fn force_never_takes_a_restores_lock_and_never_one_past_its_point_of_no_return() {
    let running = journal(|_| ());
    let past = journal(|status| status.point_of_no_return_at = Some(chrono::Utc::now()));
    for committed in [None, Some(false), Some(true)] {
        for (operation, foreign) in [
            (LockOperation::Restore, Some(&running)),
            (LockOperation::Restore, None),
            (LockOperation::Upgrade, Some(&past)),
        ] {
            assert!(matches!(judge_override(&held(operation), foreign, committed), Override::Refused(_)));
        }
    }
}

#[test]
fn a_running_holder_is_stopped_first_and_an_ended_or_vanished_one_is_replaced() {
    let held = held(LockOperation::Backup);
    let judge = |foreign: Option<&Journal>| judge_override(&held, foreign, Some(false));
    assert_eq!(judge(Some(&journal(|_| ()))), Override::StopFirst);
    let ended = journal(|status| status.phase = OperationPhase::Failed);
    assert_eq!(judge(Some(&ended)), Override::Take);
    assert_eq!(judge(None), Override::Take);
}

#[test]
fn force_never_takes_what_a_vanished_holder_may_have_committed() {
    let deleted = journal(|status| {
        status.phase = OperationPhase::Failed;
        status.reason = Some(DELETED_UNKNOWN.into());
    });
    for operation in [LockOperation::Upgrade, LockOperation::Maintenance] {
        let held = held(operation);
        for foreign in [None, Some(&deleted)] {
            for committed in [None, Some(true)] {
                let Override::Refused(why) = judge_override(&held, foreign, committed) else {
                    panic!("{operation} {committed:?}: taken")
                };
                assert!(why.contains("Release") && why.contains("u1") && why.contains('4'), "{why}");
            }
            assert_eq!(judge_override(&held, foreign, Some(false)), Override::Take, "{operation}");
        }
    }
    let upkeep = HeldError { operation_ref: None, ..held(LockOperation::Maintenance) };
    assert_eq!(judge_override(&upkeep, None, None), Override::Take, "the operator's own gives way");
}

#[test]
fn a_namesake_of_the_holder_does_not_work_under_its_lock() {
    let held = held(LockOperation::Upgrade);
    let mut op = OpenBaoOperation::new("op", crate::api::OpenBaoOperationSpec::default());
    op.metadata.uid = Some("u2".into());
    assert!(!op.works_under(&held.holder_uid));
    let lock = crate::api::LockPlan {
        operation: LockOperation::Restore,
        holder: "openbaorestore/r".into(),
        holder_uid: "u1".into(),
        before: None,
        force: false,
        message: None,
    };
    let plan = crate::api::Plan { lock: Some(lock), ..crate::api::Plan::default() };
    op.status = Some(OpenBaoOperationStatus { plan: Some(plan), ..OpenBaoOperationStatus::default() });
    assert!(op.works_under(&held.holder_uid), "a restore's operation works for the restore");
    op.status = None;
    op.metadata.uid = Some("u1".into());
    assert!(op.works_under(&held.holder_uid));
}
