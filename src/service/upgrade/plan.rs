//! The steps of an upgrade: their names, their order, how long each may take, and what undoes it. Pure.

use super::{request, soak};
use crate::api::{OpenBaoClusterSpec, OpenBaoOperation, RetryPolicy, StepKind, StepSpec, StepState};
use std::collections::BTreeMap;

/// Every member is there, serves and votes.
pub const GATE: &str = "GateHealth";
/// The new image is pulled and starts.
pub const GATE_IMAGE: &str = "GateImage";
/// The backup before anything is touched.
pub const BACKUP: &str = "PreUpgradeBackup";
/// The volumes are large enough for what may come.
pub const GATE_STORAGE: &str = "GateStorage";
/// One standby is replaced; the pod stands behind a slash.
pub const UPGRADE_STANDBY: &str = "UpgradeStandby";
/// The step in which an upgrade waits before leadership moves.
pub const PARK: &str = "Park";
/// Whatever is left on the old version is replaced.
pub const REPLACE_OLD_LEADER: &str = "ReplaceOldLeader";
/// The step in which a new leader is watched.
pub const SOAK: &str = "Soak";
/// The last step.
pub const FINISH: &str = "Finish";
/// Undoes [`request::UPDATE_TEMPLATE`].
pub const REVERT_TEMPLATE: &str = "RevertTemplate";
/// Undoes [`UPGRADE_STANDBY`].
pub const REVERT_STANDBY: &str = "RevertStandby";

/// How long a step on the way back may take. Where it cannot come to its end by waiting it says so at once. What it waits for is a
/// server that comes up, or what keeps servers from coming back; ended before that, it would leave two versions side by side
/// under a lock that nobody gives back, and nobody would go on when that is mended.
const WAY_BACK: &str = "2h";

/// How long a parked upgrade waits for a person. Then somebody has forgotten it, and it turns back.
pub const PARKED_DAYS: u32 = 14;

/// Config of a standby's step: its pod.
pub const POD: &str = "pod";
/// Config of a standby's step: the others, should this one lead by then.
pub const OTHERS: &str = "others";

/// The steps, in a straight line, and what undoes them.
pub fn planned_steps(spec: &OpenBaoClusterSpec, park: bool, standbys: &[String], leader: &str) -> Vec<StepSpec> {
    let mut steps = vec![
        step(GATE, GATE, StepKind::Idempotent, "10m"),
        StepSpec { skippable: true, ..step(GATE_IMAGE, GATE_IMAGE, StepKind::Idempotent, "10m") },
    ];
    if spec.upgrade.pre_upgrade_snapshot {
        steps.push(step(BACKUP, BACKUP, StepKind::Idempotent, "1h"));
        // Long enough for a volume to be grown.
        steps.push(StepSpec { skippable: true, ..step(GATE_STORAGE, GATE_STORAGE, StepKind::Idempotent, "1h") });
    }
    let mut template = step(request::UPDATE_TEMPLATE, request::UPDATE_TEMPLATE, StepKind::Idempotent, "2m");
    template.compensate = Some(REVERT_TEMPLATE.to_owned());
    steps.push(template);
    let mut undo = vec![step(REVERT_TEMPLATE, REVERT_TEMPLATE, StepKind::ReadVerify, WAY_BACK)];
    for pod in standbys {
        let others = std::iter::once(leader).chain(standbys.iter().map(String::as_str)).filter(|other| other != pod);
        let others = others.collect::<Vec<_>>().join(",");
        let mut forward = step(&format!("{UPGRADE_STANDBY}/{pod}"), UPGRADE_STANDBY, StepKind::ReadVerify, "10m");
        forward.config = BTreeMap::from([(POD.to_owned(), pod.clone()), (OTHERS.to_owned(), others)]);
        forward.compensate = Some(format!("{REVERT_STANDBY}/{pod}"));
        steps.push(forward);
        let mut back = step(&format!("{REVERT_STANDBY}/{pod}"), REVERT_STANDBY, StepKind::ReadVerify, WAY_BACK);
        back.config = BTreeMap::from([(POD.to_owned(), pod.clone())]);
        undo.push(back);
    }
    if park {
        let mut park = step(PARK, PARK, StepKind::Idempotent, &format!("{}h", PARKED_DAYS * 24));
        park.skippable = true;
        steps.push(park);
    }
    steps.push(step(request::STEP_DOWN, request::STEP_DOWN, StepKind::ReadVerify, "10m"));
    steps.push(step(REPLACE_OLD_LEADER, REPLACE_OLD_LEADER, StepKind::ReadVerify, "30m"));
    let mut watch = step(SOAK, SOAK, StepKind::Idempotent, &soak::deadline(&spec.upgrade.soak));
    watch.config = BTreeMap::from([(soak::PERIOD.to_owned(), spec.upgrade.soak.clone())]);
    watch.skippable = true;
    steps.push(watch);
    steps.push(step(FINISH, FINISH, StepKind::Idempotent, "30m"));
    // A straight line: each step rests on the one before it.
    for index in 1..steps.len() {
        let before = steps[index - 1].name.clone();
        steps[index].depends_on = vec![before];
    }
    steps.extend(undo);
    steps
}

fn step(name: &str, action: &str, kind: StepKind, timeout: &str) -> StepSpec {
    StepSpec {
        name: name.to_owned(),
        action: action.to_owned(),
        kind,
        timeout: Some(timeout.to_owned()),
        // Each of these steps waits for as long as its deadline allows; a failure it reports is final.
        retry_policy: Some(RetryPolicy { max_attempts: Some(1), ..RetryPolicy::default() }),
        ..StepSpec::default()
    }
}

/// The standbys that were brought to the new version in a turn of their own, before any new server led.
pub fn in_turn(op: &OpenBaoOperation) -> Vec<String> {
    let steps = op.status.iter().flat_map(|status| &status.steps);
    let done = steps
        .filter(|step| step.state == StepState::Completed && !step.output.contains_key(request::UNPLANNED_CUTOVER));
    done.filter_map(|step| step.name.strip_prefix(UPGRADE_STANDBY)?.strip_prefix('/')).map(str::to_owned).collect()
}

/// Whether the step-down is what comes after `step`: nothing in between parks, or what did is left out.
pub fn leads_to_step_down(op: &OpenBaoOperation, step: &str) -> bool {
    let Some(status) = &op.status else { return false };
    let Some(plan) = &status.plan else { return false };
    let is_left_out = |name: &str| {
        name == PARK && status.steps.iter().any(|known| known.name == name && known.state == StepState::Skipped)
    };
    let before =
        |name: &str| plan.steps.iter().find(|known| known.name == name).map(|known| known.depends_on.as_slice());
    before(request::STEP_DOWN).unwrap_or_default().iter().any(|last| {
        last == step || is_left_out(last) && before(last).unwrap_or_default().iter().any(|last| last == step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{OpenBaoOperationSpec, OpenBaoOperationStatus, Plan, StepStatus, duration},
        service::opslifecycle::saga::plan,
    };

    fn steps(soak: &str) -> Vec<StepSpec> {
        let mut spec = OpenBaoClusterSpec::default();
        spec.upgrade.soak = soak.into();
        planned_steps(&spec, true, &["kelp-1".into(), "kelp-2".into()], "kelp-0")
    }

    #[test]
    fn an_upgrade_that_is_watched_for_days_is_not_called_failed_before_they_are_over() {
        for soak in ["30s", "2d", "29d"] {
            let steps = steps(soak);
            let watch = steps.iter().find(|step| step.name == SOAK).unwrap();
            assert!(plan::timeout(watch) > duration::parse(soak).unwrap(), "{soak}: {:?}", watch.timeout);
            assert_eq!(plan::validate(&Plan { steps, ..Plan::default() }, None), Ok(()), "{soak}");
        }
    }

    #[test]
    fn the_way_back_waits_far_longer_than_the_way_there_for_what_keeps_servers_from_coming_back() {
        let steps = steps("30s");
        let limit = |prefix: &str| -> Vec<std::time::Duration> {
            steps.iter().filter(|step| step.name.starts_with(prefix)).map(plan::timeout).collect()
        };
        let hours = duration::parse("2h").unwrap();
        assert_eq!((limit(REVERT_STANDBY), limit(REVERT_TEMPLATE)), (vec![hours; 2], vec![hours]));
        // A new version that never joins is no reason to go without a server for as long.
        assert!(limit(UPGRADE_STANDBY).iter().all(|limit| *limit < hours / 10));
    }

    #[test]
    fn the_last_standbys_turn_is_told_from_the_others_and_from_one_before_a_park() {
        let operation = |park: bool, state: StepState| {
            let standbys = ["kelp-1", "kelp-2"].map(str::to_owned);
            let steps = planned_steps(&OpenBaoClusterSpec::default(), park, &standbys, "kelp-0");
            let parked = StepStatus { name: PARK.into(), state, ..StepStatus::default() };
            let mut operation = OpenBaoOperation::new("kelp-upgrade", OpenBaoOperationSpec::default());
            operation.status = Some(OpenBaoOperationStatus {
                plan: Some(Plan { steps, ..Plan::default() }),
                steps: park.then_some(parked).into_iter().collect(),
                ..OpenBaoOperationStatus::default()
            });
            operation
        };
        let last = |operation: &OpenBaoOperation| {
            ["kelp-1", "kelp-2"].map(|pod| leads_to_step_down(operation, &format!("{UPGRADE_STANDBY}/{pod}")))
        };
        assert_eq!(last(&operation(false, StepState::Pending)), [false, true]);
        assert_eq!(last(&operation(true, StepState::Pending)), [false, false], "it looks when it is resumed");
        assert_eq!(last(&operation(true, StepState::Skipped)), [false, true], "somebody left the park out");
        assert!(!leads_to_step_down(&OpenBaoOperation::new("kelp-upgrade", OpenBaoOperationSpec::default()), PARK));
    }

    #[test]
    fn who_had_a_turn_of_its_own_is_told_from_who_was_left_when_a_new_server_led_unasked() {
        let step = |pod: &str, state, unplanned: bool| StepStatus {
            name: format!("{UPGRADE_STANDBY}/{pod}"),
            state,
            output: unplanned
                .then(|| (request::UNPLANNED_CUTOVER.to_owned(), "it leads".to_owned()))
                .into_iter()
                .collect(),
            ..StepStatus::default()
        };
        let mut operation = OpenBaoOperation::new("kelp-upgrade", OpenBaoOperationSpec::default());
        assert!(in_turn(&operation).is_empty());
        operation.status = Some(OpenBaoOperationStatus {
            steps: vec![
                StepStatus { name: GATE.into(), state: StepState::Completed, ..StepStatus::default() },
                step("kelp-1", StepState::Completed, false),
                step("kelp-2", StepState::Completed, true),
                step("kelp-3", StepState::Pending, false),
            ],
            ..OpenBaoOperationStatus::default()
        });
        assert_eq!(in_turn(&operation), ["kelp-1"]);
    }
}
