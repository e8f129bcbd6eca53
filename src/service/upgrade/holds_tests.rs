use super::super::decide::{
    UpgradeDecision, decide,
    tests::{at, cluster, decided, facts, journal, now, rollback, upgrade},
};
use super::*;
use crate::api::{Actor, ActorSource, OpenBaoOperationStatus, StepState};
use chrono::TimeDelta;

/// An upgrade to this version that ended at this hour.
fn ended(version: &str, hour: i64, phase: OperationPhase) -> Arc<OpenBaoOperation> {
    upgrade(version, |status| {
        status.phase = phase;
        let template = if phase == OperationPhase::Succeeded { StepState::Completed } else { StepState::Compensated };
        status.steps = journal(request::UPDATE_TEMPLATE, template);
        status.ended_at = Some(now() - TimeDelta::hours(24 - hour));
    })
}

fn failed() -> Arc<OpenBaoOperation> {
    ended("2.7.2", 1, OperationPhase::Failed)
}

fn by_rollout(operation: &OpenBaoOperation) -> Arc<OpenBaoOperation> {
    let mut operation = operation.clone();
    operation.metadata.name = Some("kelp-rollout-1".into());
    operation.spec.actor = Some(Actor { identity: "openbaorollout/wave".into(), source: ActorSource::Rollout });
    Arc::new(operation)
}

/// A rollback from 2.7.2 that ended at this hour.
fn back(hour: i64, edit: fn(&mut OpenBaoOperationStatus)) -> Arc<OpenBaoOperation> {
    rollback(|status| {
        status.ended_at = Some(now() - TimeDelta::hours(24 - hour));
        edit(status);
    })
}

fn rolled_back_well() -> Arc<OpenBaoOperation> {
    back(2, |status| {
        status.phase = OperationPhase::Succeeded;
        status.steps = journal(request::STOP_SERVERS, StepState::Completed);
        status.point_of_no_return_at = status.ended_at;
    })
}

fn failed_at_preflight() -> Arc<OpenBaoOperation> {
    back(3, |status| status.phase = OperationPhase::Failed)
}

/// The cluster when a decision has been written down.
fn after(decision: &UpgradeDecision, edit: impl FnOnce(&mut OpenBaoCluster)) -> OpenBaoCluster {
    cluster("2.7.2", |cluster| {
        let status = cluster.status.as_mut().unwrap();
        status.upgrade = Some(decision.status.clone());
        status.current_version = Some(decision.current_version.clone());
        edit(cluster);
    })
}

fn as_it_is(_: &mut OpenBaoCluster) {}

fn retry(cluster: &mut OpenBaoCluster) {
    cluster.spec.requests = vec![Request { nonce: "again".into(), action: RequestAction::Retry, ..Request::default() }];
}

#[track_caller]
fn assert_held(decision: &UpgradeDecision, what: &str) {
    assert!(decision.create.is_none(), "{what}");
    assert_eq!(decision.status.held_target.as_deref(), Some("2.7.2"), "{what}");
    assert!(decision.status.held_reason.as_ref().is_some_and(|reason| !reason.is_empty()), "{what}");
}

#[test]
fn what_is_held_stays_held_whatever_becomes_of_the_records() {
    let went = |version: &str| ended(version, 5, OperationPhase::Succeeded);
    for begun_by in [failed(), rolled_back_well()] {
        let first = decided(&cluster("2.7.2", as_it_is), std::slice::from_ref(&begun_by));
        assert_held(&first, "at its end");
        let cases: [(&str, Vec<Arc<OpenBaoOperation>>); 6] = [
            ("all are deleted", vec![]),
            ("another version was brought since", vec![begun_by.clone(), went("2.6.2")]),
            ("and that is all that is left", vec![went("2.6.2")]),
            ("a rollback failed at its preflight", vec![begun_by.clone(), failed_at_preflight()]),
            (
                "a rollout failed with another version",
                vec![begun_by.clone(), by_rollout(&ended("2.6.2", 5, OperationPhase::Failed))],
            ),
            ("a rollout is at work on another version", vec![by_rollout(&upgrade("2.6.2", |_| {}))]),
        ];
        for (what, records) in cases {
            let second = decided(&after(&first, as_it_is), &records);
            let third = decided(&after(&second, as_it_is), &[]);
            for decision in [&second, &third] {
                assert_held(decision, what);
                assert_eq!(decision.status.released_at, None, "{what}");
            }
        }
    }
    // The status is as new as its cluster: the records alone say it, too, and the last one about the version counts.
    for records in [vec![failed(), failed_at_preflight()], vec![rolled_back_well(), went("2.6.2")]] {
        assert_held(&decided(&cluster("2.7.2", as_it_is), &records), "by record");
    }
}

#[test]
fn an_upgrade_that_is_deleted_at_its_work_does_not_begin_anew() {
    let first = decided(&cluster("2.7.2", as_it_is), &[upgrade("2.7.2", |_| {})]);
    assert_eq!((first.status.held_target.as_deref(), first.status.target.as_deref()), (None, Some("2.7.2")));
    let second = decided(&after(&first, as_it_is), &[]);
    assert_held(&second, "it is gone");
    assert_held(&decided(&after(&second, as_it_is), &[]), "and stays gone");
    assert!(second.condition.2.contains("was deleted"), "{}", second.condition.2);
    assert!(decided(&after(&second, retry), &[]).create.is_some(), "somebody asks");
    let elsewhere = after(&second, |cluster| cluster.spec.version = "2.7.3".into());
    assert!(decided(&elsewhere, &[]).create.is_some(), "another version is another upgrade");
}

#[test]
fn a_hold_outlives_a_time_in_which_the_target_is_refused() {
    let first = decided(&cluster("2.7.2", as_it_is), &[failed()]);
    let sealed = after(&first, as_it_is);
    let kept = at("2.6.1");
    let facts = UpgradeFacts { seal: "awskms", ..facts(&sealed, &[], "bao:2.7.2", &kept) };
    let refused = decide(&facts, now());
    assert_eq!(refused.condition.1, "SealNotSupported");
    assert_held(&decided(&after(&refused, as_it_is), &[]), "with a seal that it knows");
}

#[test]
fn a_corrected_image_lets_the_target_go_and_a_repository_that_moved_does_not() {
    let with = |image: &'static str| move |cluster: &mut OpenBaoCluster| cluster.spec.image = Some(image.into());
    let first = decided(&cluster("2.7.2", with("bao:2.7.2")), &[failed()]);
    assert_held(&first, "at its end");
    for records in [vec![failed()], vec![]] {
        assert_held(&decided(&after(&first, with("bao:2.7.2")), &records), "the same image");
        let corrected = decided(&after(&first, with("mirror/bao:2.7.2")), &records);
        assert!(corrected.create.is_some(), "{}", corrected.condition.2);
        assert!(decided(&after(&first, as_it_is), &records).create.is_some(), "the image was taken out");
    }
    // It was corrected while the upgrade still turned back.
    let early = decided(&cluster("2.7.2", with("mirror/bao:2.7.2")), &[failed()]);
    assert!(early.create.is_some(), "{}", early.condition.2);
    let rollout = by_rollout(&failed());
    assert_held(&decided(&cluster("2.7.2", with("mirror/bao:2.7.2")), &[rollout]), "a rollout has its own image");

    let plain = decided(&cluster("2.7.2", as_it_is), &[failed()]);
    let cluster = after(&plain, as_it_is);
    let (records, kept) = ([failed()], at("2.6.1"));
    let moved = UpgradeFacts {
        running_image: "elsewhere/bao:2.6.1",
        ..facts(&cluster, &records, "elsewhere/bao:2.7.2", &kept)
    };
    assert_held(&decide(&moved, now()), "only the operator's setting changed");
    let mut older = plain.clone();
    older.status.held_image = None;
    assert_held(&decided(&after(&older, with("mirror/bao:2.7.2")), &[]), "an older operator's status tells no image");
}

#[test]
fn what_nobody_asked_for_holds_nothing_and_holds_up_nobody() {
    let forged = |edit: fn(&mut OpenBaoOperationStatus)| {
        let mut operation = upgrade("2.7.2", edit).as_ref().clone();
        operation.metadata.name = Some("of-mine".into());
        operation.spec.parameters.insert(request::IMAGE.into(), "evil".into());
        Arc::new(operation)
    };
    let waits = forged(|status| status.phase = OperationPhase::Pending);
    let refused = forged(|status| {
        status.phase = OperationPhase::Failed;
        status.reason = Some(asked::NOT_ASKED.into());
        status.ended_at = Some(now());
    });
    for record in [waits, refused] {
        let decision = decided(&cluster("2.7.2", as_it_is), &[record]);
        assert_eq!(decision.status.held_target, None);
        let begun = decision.create.expect("the upgrade that the spec asks for");
        assert_eq!(request::target(&begun), Some(at("2.7.2")));
    }
}

#[test]
fn a_retry_is_answered_by_what_it_finds() {
    let answer = |decision: &UpgradeDecision| decision.handled.first().map(|handled| handled.outcome);
    let forward = decided(&cluster("2.7.2", retry), &[upgrade("2.7.2", |_| {})]);
    assert_eq!(answer(&forward), Some(RequestOutcome::Superseded), "it must not count once this one has failed");

    let turning = upgrade("2.7.2", |status| status.direction = Direction::Unwinding);
    let early = decided(&cluster("2.7.2", retry), &[turning]);
    assert_eq!(answer(&early), None, "what it leaves held is known at its end");
    let ended = decided(&after(&early, retry), &[failed()]);
    assert_eq!(answer(&ended), Some(RequestOutcome::Applied));
    assert!(ended.create.is_some());

    let held = decided(&cluster("2.7.2", as_it_is), &[failed()]);
    let meanwhile = decided(&after(&held, retry), &[by_rollout(&upgrade("2.6.2", |_| {}))]);
    assert_eq!(answer(&meanwhile), Some(RequestOutcome::Applied));
    assert_eq!((meanwhile.status.held_target.clone(), meanwhile.status.released_at), (None, Some(now())));

    let half = back(2, |status| {
        status.phase = OperationPhase::Failed;
        status.steps = journal(request::STOP_SERVERS, StepState::Completed);
        status.point_of_no_return_at = status.ended_at;
    });
    let refused = decided(&cluster("2.7.2", retry), &[half]);
    assert_eq!(answer(&refused), Some(RequestOutcome::Refused));
    assert!(refused.create.is_none());
}

#[test]
fn a_rollout_to_a_held_target_is_somebody_who_asks_and_holds_it_again_if_it_fails() {
    let first = decided(&cluster("2.7.2", as_it_is), &[failed()]);
    let tried = decided(&after(&first, as_it_is), &[failed(), by_rollout(&upgrade("2.7.2", |_| {}))]);
    assert_eq!(tried.status.held_target, None);
    let again = by_rollout(&ended("2.7.2", 9, OperationPhase::Failed));
    assert_held(&decided(&after(&tried, as_it_is), &[failed(), again]), "it failed as well");
    let well = by_rollout(&ended("2.7.2", 9, OperationPhase::Succeeded));
    let done = decided(&after(&tried, as_it_is), &[failed(), well]);
    assert_eq!((done.status.held_target.clone(), done.current_version.as_str()), (None, "2.7.2"));
}
