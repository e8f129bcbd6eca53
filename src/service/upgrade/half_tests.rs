use super::super::decide::{
    UpgradeDecision,
    tests::{cluster, decided, directive, journal, now, rollback, steps, upgrade},
};
use super::*;
use crate::api::{Lineage, OpenBaoCluster, OpenBaoOperationStatus};
use chrono::TimeDelta;

type Edit = fn(&mut OpenBaoOperationStatus);

/// A rollback of the upgrade to 2.7.2, by name.
fn named(name: &str, edit: impl FnOnce(&mut OpenBaoOperationStatus)) -> Arc<OpenBaoOperation> {
    let mut rollback = rollback(edit).as_ref().clone();
    rollback.metadata.name = Some(name.into());
    let rollback_of = Some("kelp-upgrade-2-7-2-1".to_owned());
    rollback.spec.lineage = Some(Lineage { rollback_of, ..Lineage::default() });
    Arc::new(rollback)
}

/// The one after a half done one: what runs is the old version already.
fn again(edit: Edit) -> Arc<OpenBaoOperation> {
    named("again", |status| {
        for (key, value) in [(request::FROM_VERSION, "2.6.1"), (request::FROM_IMAGE, "bao:2.6.1")] {
            status.inputs.insert(key.to_owned(), value.to_owned());
        }
        edit(status);
    })
}

/// One that began to wipe at this hour and ended half an hour later.
fn ended(name: &str, hour: i64, phase: OperationPhase, first: StepState) -> Arc<OpenBaoOperation> {
    named(name, |status| {
        status.phase = phase;
        status.steps = steps(&[(request::STOP_SERVERS, StepState::Completed), (request::START_FIRST, first)]);
        status.point_of_no_return_at = Some(now() + TimeDelta::hours(hour));
        status.ended_at = Some(now() + TimeDelta::hours(hour) + TimeDelta::minutes(30));
    })
}

fn half() -> Arc<OpenBaoOperation> {
    ended("back", 1, OperationPhase::Failed, StepState::Failed)
}

fn good(name: &str, hour: i64) -> Arc<OpenBaoOperation> {
    ended(name, hour, OperationPhase::Succeeded, StepState::Completed)
}

fn done_upgrade(edit: Edit) -> Arc<OpenBaoOperation> {
    upgrade("2.7.2", |status| {
        status.phase = OperationPhase::Succeeded;
        status.steps = journal(request::UPDATE_TEMPLATE, StepState::Completed);
        status.point_of_no_return_at = Some(now() - TimeDelta::hours(1));
        status.ended_at = Some(now() - TimeDelta::hours(1));
        edit(status);
    })
}

/// The cluster when a decision has been written down.
fn after(decision: &UpgradeDecision, version: &str) -> OpenBaoCluster {
    cluster(version, |cluster| {
        let status = cluster.status.as_mut().unwrap();
        status.upgrade = Some(decision.status.clone());
        status.current_version = Some(decision.current_version.clone());
    })
}

fn shown(decision: &UpgradeDecision) -> Option<(i32, bool, bool)> {
    decision.status.servers.as_ref().map(|servers| (servers.count, servers.initialize, servers.closed))
}

#[test]
fn without_its_record_a_half_done_rollback_still_shuts_its_servers_to_clients_members_and_upgrades() {
    let first = decided(&cluster("2.7.2", |_| {}), &[half()]);
    let mut unseen = again(|_| {}).as_ref().clone();
    unseen.status = None;
    let cases: [(&str, Vec<Arc<OpenBaoOperation>>); 7] = [
        ("no record at all", vec![]),
        ("that of the upgrade", vec![done_upgrade(|_| {})]),
        ("one that nobody has looked at", vec![done_upgrade(|_| {}), Arc::new(unseen)]),
        ("one that waits for its turn", vec![again(|status| status.phase = OperationPhase::Pending)]),
        (
            "one that failed before its first wipe",
            vec![again(|status| {
                status.phase = OperationPhase::Failed;
                status.steps = journal(request::STOP_SERVERS, StepState::Compensated);
                status.ended_at = Some(now() + TimeDelta::hours(3));
            })],
        ),
        (
            "one that turns back before its first wipe",
            vec![again(|status| {
                status.steps = journal(request::STOP_SERVERS, StepState::Compensating);
                status.direction = Direction::Unwinding;
            })],
        ),
        ("a good one of before", vec![good("earlier", 0)]),
    ];
    for (what, records) in cases {
        for version in ["2.7.2", "2.7.3", "2.6.1"] {
            let second = decided(&after(&first, version), &records);
            let third = decided(&after(&second, version), &records);
            for decision in [second, third] {
                assert!(decision.create.is_none(), "{what}, {version}");
                assert_eq!(shown(&decision), Some((1, false, true)), "{what}, {version}");
                assert_eq!(decision.current_version, "2.6.1", "{what}, {version}");
            }
        }
    }
    let alone = decided(&after(&first, "2.6.1"), &[]);
    assert_eq!(directive(&alone), "2.6.1");
    let words = &alone.condition.2;
    assert!(words.contains("its record is gone") && words.contains("rollbackOf: kelp-upgrade-2-7-2-1"), "{words}");
}

#[test]
fn another_rollback_that_ends_well_opens_the_servers_and_so_does_its_mark_on_the_upgrade() {
    let first = decided(&cluster("2.7.2", |_| {}), &[half()]);
    let marked = done_upgrade(|status| {
        status.phase = OperationPhase::RolledBack;
        status.rolled_back_by = Some("back".into());
    });
    for records in [vec![good("again", 3)], vec![half(), good("again", 3)], vec![good("back", 1)], vec![marked]] {
        let second = decided(&after(&first, "2.7.2"), &records);
        let third = decided(&after(&second, "2.7.2"), &[]);
        for decision in [second, third] {
            assert_eq!((shown(&decision), decision.status.half_restored.clone()), (None, None));
            assert!(decision.create.is_none(), "what was rolled back is held, with and without a record");
            assert_eq!(decision.status.held_target.as_deref(), Some("2.7.2"));
        }
    }
}

#[test]
fn a_half_done_record_takes_no_members_away_when_that_of_the_good_rollback_after_it_is_deleted() {
    let first = decided(&cluster("2.7.2", |_| {}), &[half()]);
    let whole = decided(&after(&first, "2.7.2"), &[half(), good("again", 3)]);
    assert_eq!(shown(&decided(&after(&whole, "2.7.2"), &[half()])), None);

    // A later one that stops the servers, and starts them again, does not bring it back either.
    let later = |edit: Edit| named("later", edit);
    let stopping = later(|status| status.steps = journal(request::STOP_SERVERS, StepState::Running));
    let stopped = decided(&after(&whole, "2.7.2"), &[half(), stopping]);
    assert_eq!(shown(&stopped), Some((0, false, true)));
    let turned = later(|status| {
        status.phase = OperationPhase::Cancelled;
        status.steps = journal(request::STOP_SERVERS, StepState::Compensated);
        status.ended_at = Some(now() + TimeDelta::hours(9));
    });
    assert_eq!(shown(&decided(&after(&stopped, "2.7.2"), &[half(), turned])), None);
}

#[test]
fn a_rollback_that_ended_before_its_first_wipe_leaves_the_servers_as_they_were() {
    let stopping = named("back", |status| status.steps = journal(request::STOP_SERVERS, StepState::Running));
    let first = decided(&cluster("2.7.2", |_| {}), &[stopping]);
    assert_eq!(shown(&first), Some((0, false, true)));
    let lost = named("back", |status| {
        status.phase = OperationPhase::Failed;
        status.steps = journal(request::STOP_SERVERS, StepState::Failed);
        status.ended_at = Some(now());
    });
    for records in [vec![lost], vec![]] {
        assert_eq!(shown(&decided(&after(&first, "2.7.2"), &records)), None);
    }
}

#[test]
fn once_the_data_is_proven_upkeep_brings_the_other_members_although_the_rollback_failed() {
    let joining = |hour: i64, join: StepState, phase: OperationPhase| {
        named("back", |status| {
            status.phase = phase;
            status.steps = steps(&[
                (request::STOP_SERVERS, StepState::Completed),
                (request::START_FIRST, StepState::Completed),
                (request::JOIN_OTHERS, join),
            ]);
            status.point_of_no_return_at = Some(now() + TimeDelta::hours(hour));
            status.ended_at = phase.is_terminal().then(|| now() + TimeDelta::hours(hour + 1));
        })
    };
    let at_work = decided(&cluster("2.7.2", |_| {}), &[joining(1, StepState::Running, OperationPhase::Running)]);
    assert_eq!(shown(&at_work), Some((3, false, false)));
    let failed = joining(1, StepState::Failed, OperationPhase::Failed);
    for version in ["2.7.2", "2.6.1"] {
        let first = decided(&after(&at_work, version), std::slice::from_ref(&failed));
        let without = decided(&after(&first, version), &[]);
        for decision in [&first, &without] {
            assert_eq!((shown(decision), decision.status.half_restored.clone()), (None, None), "{version}");
            assert_eq!(directive(decision), "2.6.1", "{version}");
            assert!(decision.create.is_none(), "it is what was rolled back");
            assert!(!decision.condition.2.contains("another Rollback"), "{}", decision.condition.2);
        }
        if version == "2.7.2" {
            assert_eq!(first.status.held_target.as_deref(), Some("2.7.2"));
            assert!(first.condition.2.contains("back"), "{}", first.condition.2);
        }
    }
    // It also lifts what one before it had left half restored, though nobody saw it at its work.
    let halved = decided(&cluster("2.7.2", |_| {}), &[half()]);
    let later = joining(3, StepState::Failed, OperationPhase::Failed);
    assert_eq!(shown(&decided(&after(&halved, "2.7.2"), &[later])), None);
}

#[test]
fn a_rollback_that_waits_for_its_turn_hides_nothing_of_the_one_at_work() {
    let waiting = named("again", |status| status.phase = OperationPhase::Pending);
    let stopping = named("back", |status| status.steps = journal(request::STOP_SERVERS, StepState::Running));
    let starting = named("back", |status| {
        status.steps =
            steps(&[(request::STOP_SERVERS, StepState::Completed), (request::START_FIRST, StepState::Running)]);
        status.point_of_no_return_at = Some(now());
    });
    for (at_work, expected) in [(stopping, (0, false, true)), (starting, (1, true, true))] {
        for records in [[waiting.clone(), at_work.clone()], [at_work, waiting.clone()]] {
            assert_eq!(shown(&decided(&cluster("2.7.2", |_| {}), &records)), Some(expected));
        }
    }
}

#[test]
fn no_server_starts_from_nothing_for_a_rollback_that_has_ended() {
    let lost = ended("back", 1, OperationPhase::Failed, StepState::Running);
    let decision = decided(&cluster("2.7.2", |_| {}), &[lost]);
    assert_eq!(shown(&decision), Some((1, false, true)));
}

#[test]
fn the_status_of_an_older_operator_that_knew_of_half_restored_servers_is_understood() {
    let mut first = decided(&cluster("2.7.2", |_| {}), &[half()]);
    first.status.half_restored = None;
    let decision = decided(&after(&first, "2.7.2"), &[half()]);
    assert_eq!(shown(&decision), Some((1, false, true)));
}

#[test]
fn an_older_operators_status_is_understood_also_when_a_rollback_that_wiped_nothing_was_the_last_to_end() {
    let failed = again(|status| {
        status.phase = OperationPhase::Failed;
        status.steps = journal(request::STOP_SERVERS, StepState::Compensated);
        status.ended_at = Some(now() + TimeDelta::hours(3));
    });
    let mut first = decided(&cluster("2.7.2", |_| {}), &[half()]);
    first.status.half_restored = None;
    first.status.accounted_for = failed.status.as_ref().unwrap().ended_at;
    let third = |edit: Edit| {
        let mut third = again(edit).as_ref().clone();
        third.metadata.name = Some("third".into());
        Arc::new(third)
    };
    let waiting = third(|status| status.phase = OperationPhase::Pending);
    for records in [vec![half(), failed.clone()], vec![half(), failed.clone(), waiting]] {
        let second = decided(&after(&first, "2.7.2"), &records);
        assert_eq!(shown(&second), Some((1, false, true)));
        assert_eq!(shown(&decided(&after(&second, "2.7.2"), &[])), Some((1, false, true)), "from now on it is kept");
    }

    // It had begun to look around, and wants no servers yet: those that the status tells of are not its own.
    first.status.target = Some("2.6.1".into());
    first.status.operation = Some("third".into());
    let looks_around = third(|_| {});
    assert_eq!(shown(&decided(&after(&first, "2.7.2"), &[half(), failed, looks_around])), Some((1, false, true)));
}
