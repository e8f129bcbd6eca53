//! Decisions on bad days: a status that was lost, servers that would not come back, an answer that was no.

use super::{
    tests::{at, cluster, decided, directive, facts, now, rollback, steps, upgrade},
    *,
};
use crate::api::{ClusterPhase, OpenBaoClusterStatus};

#[test]
fn a_status_that_was_lost_starts_no_older_version_over_what_a_newer_one_has_led() {
    let lost = |version: &str| {
        cluster(version, |cluster| {
            cluster.status = Some(OpenBaoClusterStatus {
                initialized: Some(true),
                phase: Some(ClusterPhase::Failed),
                ..OpenBaoClusterStatus::default()
            });
        })
    };
    let kept = at("2.7.2");
    let old = decide(&facts(&lost("2.6.1"), &[], "bao:2.6.1", &kept), now());
    assert_eq!((directive(&old), old.condition.1), ("2.7.2", "DowngradeBlocked"));
    assert!(old.create.is_none());
    let same = decide(&facts(&lost("2.7.2"), &[], "bao:2.7.2", &kept), now());
    assert_eq!((directive(&same), same.create.is_none()), ("2.7.2", true));
    let next = decide(&facts(&lost("2.8.0"), &[], "bao:2.8.0", &kept), now());
    assert_eq!(directive(&next), "2.7.2");
    assert_eq!(request::origin(next.create.as_ref().expect("an upgrade from what runs")), Some(kept));
}

#[test]
fn a_status_that_was_put_back_and_is_older_than_the_volumes_starts_no_older_version_over_them() {
    let mut again = cluster("2.6.1", |_| {});
    let kept = at("2.7.2");
    for look in 1..=2 {
        let decision = decide(&facts(&again, &[], "bao:2.6.1", &kept), now());
        assert_eq!((directive(&decision), decision.condition.1), ("2.7.2", "DowngradeBlocked"), "look {look}");
        assert!(decision.create.is_none());
        again.status.as_mut().unwrap().upgrade = Some(decision.status);
    }
    let follows = cluster("2.7.2", |_| {});
    let decision = decide(&facts(&follows, &[], "bao:2.7.2", &kept), now());
    assert_eq!((directive(&decision), decision.create.is_none()), ("2.7.2", true), "there is nothing to upgrade");
}

#[test]
fn a_rollback_that_outlived_its_cluster_brings_no_older_version_back_over_what_a_newer_one_has_led_since() {
    let mut again = cluster("2.7.2", |cluster| {
        cluster.status = Some(OpenBaoClusterStatus {
            initialized: Some(true),
            phase: Some(ClusterPhase::Running),
            current_version: Some("2.7.2".into()),
            ..OpenBaoClusterStatus::default()
        });
    });
    let of = |uid: &str| {
        [rollback(|status| {
            status.phase = OperationPhase::Succeeded;
            status.cluster_uid = Some(uid.into());
            status.steps = steps(&[(request::STOP_SERVERS, StepState::Completed)]);
            status.point_of_no_return_at = Some(now());
            status.ended_at = Some(now());
        })]
    };
    let kept = at("2.7.2");
    let own = of("cluster-uid");
    assert_eq!(directive(&decide(&facts(&again, &own, "bao:2.7.2", &kept), now())), "2.6.1", "the status was lost");
    let theirs = of("before");
    for look in 1..=3 {
        let decision = decide(&facts(&again, &theirs, "bao:2.7.2", &kept), now());
        assert_eq!((directive(&decision), decision.condition.1), ("2.7.2", "Idle"), "look {look}");
        assert_eq!((decision.status.held_target.clone(), decision.status.servers.clone()), (None, None), "look {look}");
        again.status.as_mut().unwrap().upgrade = Some(decision.status);
    }
}

#[test]
fn an_upgrade_takes_no_name_that_a_record_of_an_earlier_cluster_has() {
    let (wanted, kept) = (cluster("2.7.2", |_| {}), at("2.6.1"));
    let earlier = [upgrade("2.7.2", |status| status.phase = OperationPhase::Succeeded)];
    let decision = decide(&UpgradeFacts { all: &earlier, ..facts(&wanted, &[], "bao:2.7.2", &kept) }, now());
    assert_eq!(decision.create.expect("an upgrade is due").name_any(), "kelp-upgrade-2-7-2-2");
}

#[test]
fn no_upgrade_begins_while_a_server_that_restarts_would_not_come_back() {
    let why = "a server that starts would not come back (SealCredentialsMissing): Secret mine does not exist";
    let (mut wanted, kept) = (cluster("2.7.2", |_| {}), at("2.6.1"));
    let hindered = UpgradeFacts { obstacle: Some(why), ..facts(&wanted, &[], "bao:2.7.2", &kept) };
    let decision = decide(&hindered, now());
    assert!(decision.create.is_none());
    assert_eq!(decision.condition.1, "Waiting");
    assert!(decision.condition.2.contains("Secret mine"), "{}", decision.condition.2);
    // Told, it keeps a rollout from beginning too, and is taken back when it is mended.
    wanted.status.as_mut().unwrap().upgrade = Some(decision.status);
    assert!(obstacle(&wanted, None).is_some_and(|(_, message)| message.contains("Secret mine")));
    let mended = decided(&wanted, &[]);
    assert_eq!((mended.create.is_some(), mended.status.obstacle), (true, None));
}

#[test]
fn a_version_that_was_taken_back_is_asked_for_again_when_the_first_answer_was_no() {
    let refused = |phase: OperationPhase| {
        upgrade("2.7.2", |status| {
            status.phase = phase;
            status.handled_requests = vec![HandledRequest {
                nonce: "reverted-kelp-upgrade-2-7-2-1".into(),
                outcome: RequestOutcome::Refused,
                ..HandledRequest::default()
            }];
        })
    };
    let back = cluster("2.6.1", |_| {});
    let unknown = decided(&back, &[refused(OperationPhase::Unknown)]);
    assert_eq!(unknown.turn_back, None, "it would refuse that as well");
    assert!(unknown.condition.2.contains("Resume"), "{}", unknown.condition.2);
    let resumed = decided(&back, &[refused(OperationPhase::Running)]);
    let asked = resumed.turn_back.expect("it is asked anew");
    assert_eq!(asked.nonce, "reverted-kelp-upgrade-2-7-2-1-2");
    let first = decided(&back, &[upgrade("2.7.2", |_| {})]).turn_back.expect("it is asked");
    assert_eq!(first.nonce, "reverted-kelp-upgrade-2-7-2-1");
}
