use super::*;
use crate::adapter::remembered::testing::shared;
use crate::api::{
    Direction, OpenBaoClusterStatus, OpenBaoOperationStatus, OperationPhase, Request, RequestAction, RequestOutcome,
    StepStatus,
};
use serde_json::json;

pub fn cluster(version: &str, edit: impl FnOnce(&mut OpenBaoCluster)) -> OpenBaoCluster {
    let mut cluster: OpenBaoCluster = serde_json::from_value(json!({
        "apiVersion": "openbao.org/v1alpha1",
        "kind": "OpenBaoCluster",
        "metadata": {"name": "kelp", "namespace": "reef", "uid": "cluster-uid"},
        "spec": {
            "version": version,
            "replicas": 3,
            "storage": {"size": "1Gi"},
            "tls": {"enabled": true, "mode": "OperatorManaged", "rotationPeriod": "720h"},
            "backup": {"target": {"provider": "file", "file": {"claimName": "backups"}}}
        }
    }))
    .unwrap();
    cluster.status = Some(OpenBaoClusterStatus {
        initialized: Some(true),
        current_version: Some("2.6.1".into()),
        upgrade: Some(UpgradeStatus { directive: Some(at("2.6.1")), ..UpgradeStatus::default() }),
        ..OpenBaoClusterStatus::default()
    });
    edit(&mut cluster);
    cluster
}

pub fn at(version: &str) -> UpgradeDirective {
    UpgradeDirective { version: version.into(), image: format!("bao:{version}") }
}

pub fn now() -> DateTime<Utc> {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

/// Decides, by whole records as by what is remembered of them.
pub fn decided(cluster: &OpenBaoCluster, operations: &[Arc<OpenBaoOperation>]) -> UpgradeDecision {
    let (wanted, kept) = (format!("bao:{}", cluster.spec.version), at("2.6.1"));
    let by = |operations: &[Arc<OpenBaoOperation>]| decide(&facts(cluster, operations, &wanted, &kept), now());
    let [whole, remembered] = shared(operations).map(|operations| by(&operations));
    assert_eq!(whole, remembered);
    by(operations)
}

pub fn facts<'a>(
    cluster: &'a OpenBaoCluster,
    operations: &'a [Arc<OpenBaoOperation>],
    wanted_image: &'a str,
    kept: &'a UpgradeDirective,
) -> UpgradeFacts<'a> {
    UpgradeFacts {
        cluster,
        operations,
        all: operations,
        pending_restore: None,
        wanted_image,
        running_image: "bao:2.6.1",
        kept,
        obstacle: None,
        seal: "static",
    }
}

pub fn upgrade(to: &str, edit: impl FnOnce(&mut OpenBaoOperationStatus)) -> Arc<OpenBaoOperation> {
    let cluster = cluster(to, |_| {});
    let mut operation =
        request::upgrade(&cluster, request::name("kelp", to, &[] as &[Arc<OpenBaoOperation>]), &at("2.6.1"), &at(to))
            .unwrap();
    let mut status = OpenBaoOperationStatus { phase: OperationPhase::Running, ..OpenBaoOperationStatus::default() };
    edit(&mut status);
    operation.status = Some(status);
    Arc::new(operation)
}

pub fn journal(step: &str, state: StepState) -> Vec<StepStatus> {
    vec![StepStatus { name: step.into(), state, ..StepStatus::default() }]
}

pub fn directive(decision: &UpgradeDecision) -> &str {
    &decision.status.directive.as_ref().unwrap().version
}

#[test]
fn a_changed_version_becomes_an_operation_and_the_template_waits_for_its_step() {
    let decision = decided(&cluster("2.7.2", |_| {}), &[]);
    let operation = decision.create.as_ref().expect("an operation is due");
    assert_eq!(operation.name_any(), "kelp-upgrade-2-7-2-1");
    assert_eq!(request::target(operation), Some(at("2.7.2")));
    assert_eq!(request::origin(operation), Some(at("2.6.1")));
    assert_eq!(directive(&decision), "2.6.1");
    assert_eq!(decision.current_version, "2.6.1");
}

#[test]
fn nothing_is_due_when_the_version_runs_and_another_image_of_it_is_simply_rendered() {
    let same = cluster("2.6.1", |cluster| {
        cluster.status.as_mut().unwrap().upgrade.as_mut().unwrap().directive =
            Some(UpgradeDirective { version: "2.6.1".into(), image: "mirror/bao:2.6.1".into() });
    });
    let decision = decided(&same, &[]);
    assert!(decision.create.is_none());
    assert_eq!(decision.status.directive, Some(at("2.6.1")));
}

#[test]
fn before_there_is_data_the_version_may_be_corrected_freely() {
    let fresh = cluster("2.7.2", |cluster| cluster.status = None);
    let decision = decided(&fresh, &[]);
    assert!(decision.create.is_none());
    assert_eq!(directive(&decision), "2.7.2");
}

#[test]
fn a_lower_or_unreadable_version_is_refused_by_condition_and_never_rendered() {
    for (version, reason) in [("2.5.0", "DowngradeBlocked"), ("latest", "InvalidVersion")] {
        let decision = decided(&cluster(version, |_| {}), &[]);
        assert!(decision.create.is_none());
        assert_eq!(decision.condition.1, reason);
        assert_eq!(directive(&decision), "2.6.1");
    }
}

#[test]
fn each_obstacle_is_named_and_nothing_is_created() {
    let paused = cluster("2.7.2", |cluster| cluster.spec.paused = true);
    let bare = cluster("2.7.2", |cluster| cluster.spec.backup = None);
    let blue_green = cluster("2.7.2", |cluster| cluster.spec.upgrade.strategy = UpgradeStrategy::BlueGreen);
    let wiped = cluster("2.7.2", |cluster| {
        let servers = crate::api::ServersDirective { count: 1, initialize: false, closed: true };
        cluster.status.as_mut().unwrap().upgrade.as_mut().unwrap().servers = Some(servers);
    });
    assert_eq!(obstacle(&wiped, None).map(|(reason, _)| reason), Some("Waiting"), "a rollout asks this too");
    for (cluster, reason) in [(paused, "Paused"), (bare, "PrerequisitesMissing"), (blue_green, "NotSupported")] {
        let decision = decided(&cluster, &[]);
        assert!(decision.create.is_none());
        assert_eq!(decision.condition.1, reason, "{}", decision.condition.2);
    }
    let without = cluster("2.7.2", |cluster| {
        cluster.spec.backup = None;
        cluster.spec.upgrade.pre_upgrade_snapshot = false;
    });
    assert!(decided(&without, &[]).create.is_some(), "one of the two ways out that the message names");
}

#[test]
fn the_template_follows_the_journal_forward_and_back() {
    let wanted = cluster("2.7.2", |_| {});
    let cases: [(&str, Arc<OpenBaoOperation>, &str); 6] = [
        ("not yet at the template's step", upgrade("2.7.2", |_| {}), "2.6.1"),
        (
            "the step is pending",
            upgrade("2.7.2", |s| s.steps = journal(request::UPDATE_TEMPLATE, StepState::Pending)),
            "2.6.1",
        ),
        (
            "the step began",
            upgrade("2.7.2", |s| s.steps = journal(request::UPDATE_TEMPLATE, StepState::Running)),
            "2.7.2",
        ),
        (
            "it turns back",
            upgrade("2.7.2", |s| {
                s.steps = journal(request::UPDATE_TEMPLATE, StepState::Completed);
                s.direction = Direction::Unwinding;
            }),
            "2.6.1",
        ),
        (
            "it failed and turned back",
            upgrade("2.7.2", |s| {
                s.steps = journal(request::UPDATE_TEMPLATE, StepState::Compensated);
                s.phase = OperationPhase::Failed;
                s.ended_at = Some(now());
            }),
            "2.6.1",
        ),
        (
            "it failed past the point of no return",
            upgrade("2.7.2", |s| {
                s.steps = journal(request::UPDATE_TEMPLATE, StepState::Completed);
                s.phase = OperationPhase::Failed;
                s.ended_at = Some(now());
                s.point_of_no_return_at = Some(now());
            }),
            "2.7.2",
        ),
    ];
    for (what, operation, expected) in cases {
        assert_eq!(directive(&decided(&wanted, &[operation])), expected, "{what}");
    }
}

#[test]
fn a_running_upgrade_is_left_alone_and_a_newer_target_waits_for_its_end() {
    let wanted = cluster("2.7.3", |_| {});
    let decision = decided(&wanted, &[upgrade("2.7.2", |_| {})]);
    assert!(decision.create.is_none());
    assert!(decision.condition.0 && decision.condition.2.contains("2.7.3 comes next"), "{}", decision.condition.2);
    let ended = upgrade("2.7.2", |s| {
        s.phase = OperationPhase::Succeeded;
        s.steps = journal(request::UPDATE_TEMPLATE, StepState::Completed);
        s.ended_at = Some(now());
    });
    let decision = decided(&wanted, &[ended]);
    assert_eq!(decision.current_version, "2.7.2");
    assert_eq!(request::origin(decision.create.as_ref().unwrap()), Some(at("2.7.2")));
}

#[test]
fn a_version_that_is_taken_back_during_its_upgrade_turns_it_back_while_that_is_possible() {
    let running = [upgrade("2.7.2", |_| {})];
    for back in ["2.6.1", "2.5.0"] {
        let decision = decided(&cluster(back, |_| {}), &running);
        let turn_back = decision.turn_back.expect("the upgrade is told to turn back");
        assert_eq!(turn_back.operation, running[0].name_any());
        assert!(turn_back.reason.contains(back), "{}", turn_back.reason);
        assert!(decision.condition.2.contains("turns back"), "{}", decision.condition.2);
    }
    // From 2.7.2 there would be no way to it.
    let between = decided(&cluster("2.7.0", |_| {}), &running);
    assert!(between.turn_back.is_some());
    assert!(between.condition.2.contains("2.7.0 now, which comes next"), "{}", between.condition.2);
    let undone = upgrade("2.7.2", |status| {
        status.phase = OperationPhase::Cancelled;
        status.steps = journal(request::UPDATE_TEMPLATE, StepState::Compensated);
        status.ended_at = Some(now());
    });
    let next = decided(&cluster("2.7.0", |_| {}), &[undone]).create.expect("the one in between");
    assert_eq!((request::origin(&next), request::target(&next)), (Some(at("2.6.1")), Some(at("2.7.0"))));
    assert_eq!(decided(&cluster("2.7.2", |_| {}), &running).turn_back, None);

    let mut by_rollout = running[0].as_ref().clone();
    by_rollout.spec.actor =
        Some(crate::api::Actor { identity: "openbaorollout/wave".into(), source: crate::api::ActorSource::Rollout });
    let by_rollout = [Arc::new(by_rollout)];
    for (version, next) in [("2.6.1", false), ("2.7.0", false), ("2.7.3", true)] {
        let decision = decided(&cluster(version, |_| {}), &by_rollout);
        assert_eq!(decision.turn_back, None, "a rollout brings its version whatever the spec says");
        assert_eq!(decision.condition.2.contains("comes next"), next, "{}", decision.condition.2);
    }
    let past = [upgrade("2.7.2", |status| status.point_of_no_return_at = Some(now()))];
    let decision = decided(&cluster("2.7.0", |_| {}), &past);
    assert!(decision.turn_back.is_none() && decision.condition.2.contains("no longer possible"));

    let past = [upgrade("2.7.2", |status| status.point_of_no_return_at = Some(now()))];
    let decision = decided(&cluster("2.6.1", |_| {}), &past);
    assert_eq!(decision.turn_back, None);
    assert!(decision.condition.2.contains("Rollback"), "the way forward is named: {}", decision.condition.2);
}

#[test]
fn an_undone_upgrade_leaves_nothing_held_once_the_spec_names_what_runs() {
    let undone = [upgrade("2.7.2", |status| {
        status.phase = OperationPhase::Cancelled;
        status.steps = journal(request::UPDATE_TEMPLATE, StepState::Compensated);
        status.ended_at = Some(now());
    })];
    let decision = decided(&cluster("2.6.1", |_| {}), &undone);
    assert_eq!((directive(&decision), decision.status.held_target.clone()), ("2.6.1", None));
    assert!(decision.create.is_none());
    // The spec went away from it, if only for a moment, and comes back.
    let back = cluster("2.7.2", |cluster| cluster.status.as_mut().unwrap().upgrade = Some(decision.status.clone()));
    assert!(decided(&back, &undone).create.is_some());
    let stayed = decided(&cluster("2.7.2", |_| {}), &undone);
    assert_eq!(stayed.status.held_target.as_deref(), Some("2.7.2"), "it was cancelled, and the spec never moved");
}

/// A rollback of 2.7.2 to 2.6.1 whose journal says so.
pub fn rollback(edit: impl FnOnce(&mut OpenBaoOperationStatus)) -> Arc<OpenBaoOperation> {
    let mut operation = upgrade("2.7.2", |_| {}).as_ref().clone();
    operation.metadata.name = Some("back".into());
    operation.spec.operation = OperationKind::Rollback;
    operation.spec.parameters.clear();
    let inputs = [
        (request::TO_VERSION, "2.6.1"),
        (request::TO_IMAGE, "bao:2.6.1"),
        (request::FROM_VERSION, "2.7.2"),
        (request::FROM_IMAGE, "bao:2.7.2"),
        (request::ROLLED_BACK, "2.7.2"),
        (request::REPLICAS, "3"),
    ];
    let mut status = OpenBaoOperationStatus {
        phase: OperationPhase::Running,
        inputs: inputs.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..OpenBaoOperationStatus::default()
    };
    edit(&mut status);
    operation.status = Some(status);
    Arc::new(operation)
}

pub fn steps(states: &[(&str, StepState)]) -> Vec<StepStatus> {
    states.iter().flat_map(|(name, state)| journal(name, *state)).collect()
}

#[test]
fn a_rollback_asks_for_servers_as_its_journal_goes_and_for_an_empty_start_only_during_that_step() {
    use StepState::{Completed, Pending, Running};
    let servers = |past: bool, states: &[(&str, StepState)]| {
        let operation = rollback(|status| {
            status.steps = steps(states);
            status.point_of_no_return_at = past.then(now);
        });
        let decision = decided(&cluster("2.7.2", |_| {}), &[operation]);
        let shown = directive(&decision).to_owned();
        (decision.status.servers.map(|servers| (servers.count, servers.initialize)), shown)
    };
    let (stop, first, join) = (request::STOP_SERVERS, request::START_FIRST, request::JOIN_OTHERS);
    let new = || "2.7.2".to_owned();
    let old = || "2.6.1".to_owned();
    assert_eq!(servers(false, &[(stop, Pending), (first, Pending)]), (None, old()), "as the status says, untouched");
    assert_eq!(servers(false, &[(stop, Running), (first, Pending)]), (Some((0, false)), new()));
    assert_eq!(servers(true, &[(stop, Completed), (first, Pending)]), (Some((0, false)), old()));
    assert_eq!(servers(true, &[(stop, Completed), (first, Running)]), (Some((1, true)), old()));
    assert_eq!(servers(true, &[(stop, Completed), (first, Completed), (join, Pending)]), (Some((1, false)), old()));
    assert_eq!(servers(true, &[(stop, Completed), (first, Completed), (join, Running)]), (Some((3, false)), old()));
}

#[test]
fn a_rollback_that_turns_back_before_the_first_wipe_starts_what_ran() {
    let operation = rollback(|status| {
        status.steps = steps(&[(request::STOP_SERVERS, StepState::Compensating)]);
        status.direction = Direction::Unwinding;
    });
    let decision = decided(&cluster("2.7.2", |_| {}), &[operation]);
    assert_eq!(directive(&decision), "2.7.2");
    assert_eq!(decision.status.servers.map(|servers| servers.count), Some(3));
}

#[test]
fn after_a_rollback_the_version_it_turned_from_is_held_and_after_half_a_rollback_every_version_is() {
    let done = rollback(|status| {
        status.phase = OperationPhase::Succeeded;
        status.steps = steps(&[(request::STOP_SERVERS, StepState::Completed)]);
        status.point_of_no_return_at = Some(now());
        status.ended_at = Some(now());
    });
    let decision = decided(&cluster("2.7.2", |_| {}), std::slice::from_ref(&done));
    assert!(decision.create.is_none());
    assert_eq!(decision.status.held_target.as_deref(), Some("2.7.2"));
    assert_eq!((directive(&decision), decision.status.servers.clone()), ("2.6.1", None));
    assert!(decided(&cluster("2.7.3", |_| {}), &[done]).create.is_some(), "another version is another upgrade");

    let half = rollback(|status| {
        status.phase = OperationPhase::Failed;
        status.point_of_no_return_at = Some(now());
        status.ended_at = Some(now());
        status.steps =
            steps(&[(request::STOP_SERVERS, StepState::Completed), (request::START_FIRST, StepState::Failed)]);
    });
    for version in ["2.7.2", "2.7.3"] {
        let decision = decided(&cluster(version, |_| {}), std::slice::from_ref(&half));
        assert!(decision.create.is_none());
        assert_eq!(directive(&decision), "2.6.1", "no newer server is started on the way");
        assert_eq!(
            decision.status.servers.clone().map(|servers| (servers.count, servers.initialize)),
            Some((1, false))
        );
        assert!(decision.condition.2.contains("another Rollback"), "{}", decision.condition.2);
    }
}

#[test]
fn a_second_rollback_that_wiped_nothing_leaves_the_half_done_one_guarded() {
    let (stop, first) = (request::STOP_SERVERS, request::START_FIRST);
    let half = rollback(|status| {
        status.phase = OperationPhase::Failed;
        status.point_of_no_return_at = Some(now());
        status.ended_at = Some(now());
        status.steps = steps(&[(stop, StepState::Completed), (first, StepState::Failed)]);
    });
    let another = |edit: fn(&mut OpenBaoOperationStatus)| {
        let mut second = rollback(edit).as_ref().clone();
        second.metadata.name = Some("back-again".into());
        Arc::new(second)
    };
    let failed = another(|status| {
        status.phase = OperationPhase::Failed;
        status.ended_at = Some(now() + chrono::TimeDelta::hours(1));
    });
    let turning = another(|status| {
        status.steps = journal(request::STOP_SERVERS, StepState::Compensating);
        status.direction = Direction::Unwinding;
    });
    for second in [failed, turning] {
        let decision = decided(&cluster("2.7.2", |_| {}), &[half.clone(), second]);
        assert!(decision.create.is_none());
        let servers = decision.status.servers.expect("one server, as the first rollback left it");
        assert_eq!((servers.count, servers.initialize, servers.closed), (1, false, true));
    }
    let done = another(|status| {
        status.phase = OperationPhase::Succeeded;
        status.steps = journal(request::STOP_SERVERS, StepState::Completed);
        status.point_of_no_return_at = Some(now() + chrono::TimeDelta::hours(1));
        status.ended_at = Some(now() + chrono::TimeDelta::hours(2));
    });
    let decision = decided(&cluster("2.7.2", |_| {}), &[half, done]);
    assert_eq!(decision.status.servers, None);
    assert_eq!(decision.status.held_target.as_deref(), Some("2.7.2"));
}

#[test]
fn an_older_record_is_no_truth_again_when_the_newest_one_is_deleted() {
    let ended = |to: &str, hour: i64| {
        upgrade(to, |s| {
            s.phase = OperationPhase::Succeeded;
            s.steps = journal(request::UPDATE_TEMPLATE, StepState::Completed);
            s.point_of_no_return_at = Some(now());
            s.ended_at = Some(now() + chrono::TimeDelta::hours(hour));
        })
    };
    let (older, newer) = (ended("2.7.0", 1), ended("2.7.2", 2));
    let first = decided(&cluster("2.7.2", |_| {}), &[older.clone(), newer]);
    assert_eq!(directive(&first), "2.7.2");
    for wanted in ["2.7.2", "2.7.0"] {
        let left = cluster(wanted, |cluster| cluster.status.as_mut().unwrap().upgrade = Some(first.status.clone()));
        let decision = decided(&left, std::slice::from_ref(&older));
        assert_eq!(directive(&decision), "2.7.2");
        assert!(decision.create.is_none());
    }
    // The operator died between the end of an upgrade and the status that tells of it.
    let behind = cluster("2.7.2", |cluster| {
        let status = UpgradeStatus { directive: Some(at("2.6.1")), ..first.status.clone() };
        cluster.status.as_mut().unwrap().upgrade = Some(UpgradeStatus { accounted_for: Some(now()), ..status });
    });
    assert_eq!(directive(&decided(&behind, &[ended("2.7.2", 1)])), "2.7.2");
}

#[test]
fn an_operation_that_touched_nothing_changes_no_version() {
    let elsewhere = |edit: fn(&mut OpenBaoOperationStatus)| {
        let mut operation = upgrade("2.6.2", edit).as_ref().clone();
        operation.spec.parameters.insert(request::FROM_VERSION.into(), "2.6.0".into());
        operation.spec.parameters.insert(request::FROM_IMAGE.into(), "bao:2.6.0".into());
        Arc::new(operation)
    };
    let refused = |s: &mut OpenBaoOperationStatus| {
        s.phase = OperationPhase::ConstraintFailed;
        s.ended_at = Some(now());
    };
    for record in [elsewhere(|_| {}), elsewhere(|s| s.phase = OperationPhase::Pending), elsewhere(refused)] {
        assert_eq!(directive(&decided(&cluster("2.6.1", |_| {}), &[record])), "2.6.1");
    }
}

#[test]
fn of_two_upgrades_that_live_the_one_at_work_says_what_the_template_shows() {
    let at_work = upgrade("2.7.2", |s| s.steps = journal(request::UPDATE_TEMPLATE, StepState::Completed));
    let mut waiting = upgrade("2.7.0", |_| {}).as_ref().clone();
    waiting.metadata.creation_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-11-21T13:00:00Z".parse().unwrap()));
    assert_eq!(directive(&decided(&cluster("2.7.2", |_| {}), &[at_work, Arc::new(waiting)])), "2.7.2");
}

#[test]
fn once_a_new_server_has_led_the_template_never_shows_the_old_version_again() {
    let led = |edit: fn(&mut StepStatus)| {
        upgrade("2.7.2", |s| {
            s.steps = journal(request::UPDATE_TEMPLATE, StepState::Completed);
            s.steps.extend(journal("UpgradeStandby/kelp-2", StepState::CompensationFailed));
            edit(&mut s.steps[1]);
            s.direction = Direction::Unwinding;
        })
    };
    let noticed = led(|step| {
        step.output.insert(request::UNPLANNED_CUTOVER.into(), "kelp-2 leads on 2.7.2".into());
    });
    let too_late = led(|step| step.error = Some("pod kelp-2 already leads with bao:2.7.2: going back".into()));
    for operation in [noticed, too_late] {
        assert_eq!(directive(&decided(&cluster("2.7.2", |_| {}), &[operation])), "2.7.2");
    }
}

#[test]
fn a_version_with_a_v_before_it_is_the_same_version() {
    let decision = decided(&cluster("v2.7.2", |_| {}), &[]);
    let operation = decision.create.as_ref().expect("an operation is due");
    assert_eq!(request::target(operation).unwrap().version, "2.7.2");
    let mut frozen = operation.as_ref().clone();
    frozen.spec.parameters.insert(request::FROM_VERSION.into(), "v2.6.1".into());
    assert_eq!(request::origin(&frozen).unwrap().version, "2.6.1", "one that was frozen as people wrote it, too");
}

#[test]
fn no_upgrade_starts_while_a_rollback_waits_for_its_start() {
    let mut waiting = rollback(|_| {}).as_ref().clone();
    waiting.status = None;
    let decision = decided(&cluster("2.7.2", |_| {}), &[Arc::new(waiting)]);
    assert!(decision.create.is_none());
    assert!(decision.condition.2.contains("rollback back goes first"), "{}", decision.condition.2);
}

#[test]
fn a_failed_target_is_held_until_somebody_asks_or_the_spec_changes() {
    let failed = upgrade("2.7.2", |s| {
        s.phase = OperationPhase::Failed;
        s.message = Some("pod kelp-1 does not start".into());
        s.ended_at = Some("2026-11-21T11:00:00Z".parse().unwrap());
    });
    let operations = [failed];
    let first = decided(&cluster("2.7.2", |_| {}), &operations);
    assert!(first.create.is_none());
    assert_eq!(first.status.held_target.as_deref(), Some("2.7.2"));
    assert!(first.condition.2.contains("pod kelp-1 does not start"));

    let held = |version: &str, edit: fn(&mut OpenBaoCluster)| {
        let status = first.status.clone();
        cluster(version, move |cluster| {
            cluster.status.as_mut().unwrap().upgrade = Some(status);
            edit(cluster);
        })
    };
    assert!(decided(&held("2.7.2", |_| {}), &operations).create.is_none(), "still held");

    let asked = held("2.7.2", |cluster| {
        cluster.spec.requests =
            vec![Request { nonce: "again".into(), action: RequestAction::Retry, ..Request::default() }];
    });
    let retried = decided(&asked, &operations);
    assert_eq!(retried.create.as_ref().unwrap().name_any(), "kelp-upgrade-2-7-2-2");
    assert_eq!(retried.handled[0].outcome, RequestOutcome::Applied);

    let away = decided(&held("2.6.1", |_| {}), &operations);
    assert_eq!(away.status.released_at, Some(now()));
    let back = cluster("2.7.2", |cluster| cluster.status.as_mut().unwrap().upgrade = Some(away.status.clone()));
    assert!(decided(&back, &operations).create.is_some(), "the spec went away and came back");
}

#[test]
fn the_same_request_is_answered_once() {
    let asked = cluster("2.6.1", |cluster| {
        cluster.spec.requests = vec![Request { nonce: "n".into(), action: RequestAction::Retry, ..Request::default() }];
    });
    let first = decided(&asked, &[]);
    assert_eq!(first.handled[0].outcome, RequestOutcome::Superseded);
    let mut later = asked;
    later.status.as_mut().unwrap().handled_requests = first.handled;
    assert!(decided(&later, &[]).handled.is_empty());
}

#[test]
fn nothing_changes_when_nothing_happened() {
    let first = decided(&cluster("2.6.1", |_| {}), &[]);
    let again = cluster("2.6.1", |cluster| cluster.status.as_mut().unwrap().upgrade = Some(first.status.clone()));
    assert_eq!(decided(&again, &[]), first);
}
