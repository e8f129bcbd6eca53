use super::super::decide::{
    UpgradeDecision, obstacle,
    tests::{cluster, decided, directive, journal, now, upgrade},
};
use super::*;
use crate::api::{MemberStatus, StepState};
use std::sync::Arc;

/// It moved leadership, or was about to, and came no further.
fn failed() -> Arc<OpenBaoOperation> {
    upgrade("2.7.2", |status| {
        status.phase = OperationPhase::Failed;
        status.message = Some("kelp-0 is not replaced".into());
        status.steps = journal(request::UPDATE_TEMPLATE, StepState::Completed);
        status.point_of_no_return_at = Some(now());
        status.ended_at = Some(now());
    })
}

/// The cluster when a decision has been written down, and its members say this.
fn after(decision: &UpgradeDecision, members: [(&str, MemberState); 3]) -> OpenBaoCluster {
    cluster("2.7.2", |cluster| {
        let status = cluster.status.as_mut().unwrap();
        status.upgrade = Some(decision.status.clone());
        status.current_version = Some(decision.current_version.clone());
        let say = |(ordinal, (version, state)): (usize, (&str, MemberState))| MemberStatus {
            name: format!("kelp-{ordinal}"),
            version: Some(version.to_owned()),
            state,
            ..MemberStatus::default()
        };
        status.members = members.into_iter().enumerate().map(say).collect();
    })
}

const OLD_LEADS: [(&str, MemberState); 3] =
    [("2.6.1", MemberState::Active), ("2.7.2", MemberState::Standby), ("2.7.2", MemberState::Standby)];
const ONE_DOWN: [(&str, MemberState); 3] =
    [("2.7.2", MemberState::Active), ("2.7.2", MemberState::Down), ("2.7.2", MemberState::Standby)];
const ALL_NEW: [(&str, MemberState); 3] =
    [("2.7.2", MemberState::Active), ("2.7.2", MemberState::Standby), ("2.7.2", MemberState::Standby)];

#[test]
fn an_upgrade_that_failed_past_its_point_of_no_return_is_done_only_when_every_member_says_so() {
    let first = decided(&cluster("2.7.2", |_| {}), &[failed()]);
    assert_eq!(directive(&first), "2.7.2", "an old server must not start any more");
    assert_eq!((first.current_version.as_str(), first.condition.1), ("2.6.1", "Unfinished"));
    let words = &first.condition.2;
    assert!(words.contains("kelp-upgrade-2-7-2-1 ended Failed: kelp-0 is not replaced"), "{words}");

    // With its record or without.
    for records in [vec![failed()], vec![]] {
        for members in [OLD_LEADS, ONE_DOWN] {
            let cluster = after(&first, members);
            let decision = decided(&cluster, &records);
            assert_eq!((decision.current_version.as_str(), decision.condition.1), ("2.6.1", "Unfinished"));
            let waits = obstacle(&cluster, None).expect("no rollout begins there");
            assert!(waits.1.contains("2.7.2"), "{}", waits.1);
        }
        let mut two = after(&first, ALL_NEW);
        two.status.as_mut().unwrap().members.pop();
        assert_eq!(decided(&two, &records).current_version, "2.6.1", "a member that is not there says nothing");

        let done = decided(&after(&first, ALL_NEW), &records);
        assert_eq!((done.current_version.as_str(), done.condition.1), ("2.7.2", "Idle"));
        let later = after(&done, ONE_DOWN);
        assert_eq!(decided(&later, &records).current_version, "2.7.2", "it was there once");
        assert_eq!(obstacle(&later, None), None);
    }
}

#[test]
fn a_cluster_that_was_never_upgraded_is_not_unfinished_because_its_image_calls_itself_otherwise() {
    let own_build = cluster("2.6.1", |cluster| {
        cluster.status.as_mut().unwrap().current_version = Some("2.6.1-acme.1".into());
    });
    assert_eq!(obstacle(&own_build, None), None, "a rollout to a good image brings it away from there");
    let decision = decided(&own_build, &[]);
    assert_eq!((decision.current_version.as_str(), decision.condition.1), ("2.6.1", "Idle"));
}

#[test]
fn the_clusters_own_next_version_may_begin_where_the_template_is() {
    let mut wanted = after(&decided(&cluster("2.7.2", |_| {}), &[failed()]), OLD_LEADS);
    wanted.spec.version = "2.7.3".into();
    let next = decided(&wanted, &[failed()]).create.expect("the next upgrade");
    assert_eq!(request::origin(&next).unwrap().version, "2.7.2");
}

#[test]
fn an_upgrade_that_ended_well_is_believed_before_the_members_are_asked() {
    let mut operation = failed().as_ref().clone();
    operation.status.as_mut().unwrap().phase = OperationPhase::Succeeded;
    let done = decided(&cluster("2.7.2", |_| {}), &[Arc::new(operation)]);
    assert_eq!((done.current_version.as_str(), done.condition.1), ("2.7.2", "Idle"));
}

#[test]
fn a_spec_is_read_by_what_the_last_operation_came_to_and_not_by_where_it_led() {
    let at_work = upgrade("2.7.2", |status| {
        status.steps = journal(request::UPDATE_TEMPLATE, StepState::Completed);
        status.point_of_no_return_at = Some(now());
    });
    let told = decided(&cluster("2.7.2", |_| {}), &[at_work]);
    assert_eq!((told.current_version.as_str(), told.status.target.as_deref()), ("2.6.1", Some("2.7.2")));
    let read = |members, records: &[Arc<OpenBaoOperation>]| {
        let stored = after(&told, members);
        let status = concluded(&stored, records).status.unwrap();
        assert_eq!(status.upgrade.unwrap().target, None, "it leads nowhere any more");
        (status.current_version.unwrap(), decided(&stored, records).current_version)
    };
    let mut done = failed().as_ref().clone();
    done.status.as_mut().unwrap().phase = OperationPhase::Succeeded;
    let mut of_before = done.clone();
    of_before.status.as_mut().unwrap().cluster_uid = Some("another-uid".into());
    for (members, records, reached) in [
        (ONE_DOWN, vec![Arc::new(done)], "2.7.2"),
        (ONE_DOWN, vec![failed()], "2.6.1"),
        (OLD_LEADS, vec![failed()], "2.6.1"),
        (ALL_NEW, vec![failed()], "2.7.2"),
        (ALL_NEW, vec![], "2.7.2"),
    ] {
        let (version, next) = read(members, &records);
        assert_eq!(version, reached, "{members:?}");
        assert_eq!(next, reached, "as a look at a good spec then decides");
    }
    assert_eq!(read(ONE_DOWN, &[Arc::new(of_before)]).0, "2.6.1", "it was done to an earlier object of the name");
    assert_eq!(read(ONE_DOWN, &[]).0, "2.6.1", "nobody says that it ended well");
    let fresh = OpenBaoCluster { status: None, ..cluster("2.7.2", |_| {}) };
    assert_eq!(concluded(&fresh, &[failed()]).status, None);
}
