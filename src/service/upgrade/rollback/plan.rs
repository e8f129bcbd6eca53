//! The steps of a rollback, and what is frozen for them. Pure.

use super::super::request;
use super::judge::Way;
use crate::{
    adapter::settings::Settings,
    api::{
        LockOperation, LockPlan, OpenBaoCluster, OpenBaoOperation, Plan, RetryPolicy, StepKind, StepSpec,
        UpgradeDirective,
    },
    service::{
        backup::jobs::{Login, Source},
        backup::store::Store,
        cluster::{login, names},
        opslifecycle::asked::Parameter,
        restore::plan::{self as restore, InputError, Inputs},
    },
};
use kube::ResourceExt;
use std::collections::BTreeMap;

pub const START_AGAIN: &str = "StartServersAgain";
pub const CONFIRM_SNAPSHOT: &str = "ConfirmSnapshot";
pub const WIPE: &str = "Wipe";
pub const FINISH: &str = "Finish";

/// Config of a wipe: the claim and its UID.
pub const CLAIM: &str = "claim";
pub const CLAIM_UID: &str = "uid";

/// Parameter of the operation: `false` leaves out the backup of the present state.
pub const SAFETY_BACKUP: &str = "safetyBackup";

/// All that `spec.parameters` of a rollback may say.
pub const PARAMETERS: [Parameter; 1] = [Parameter::one_of(SAFETY_BACKUP, &["true", "false"])];

/// How often what needs the mover to stand ready with the snapshot is tried past the point of no return. Should it be lost with its
/// node, or the store be away, another one downloads it again, and by then there is no way back: nothing is better than to wait for
/// it. The pauses come to half an hour; an attempt makes one mover, and more of them may be made than that. How often it is sent in
/// all has a bound of its own.
const PATIENT_ATTEMPTS: i32 = 32;

/// What the plan depends on.
#[derive(Clone, Debug)]
pub struct Frozen<'a> {
    pub cluster: &'a OpenBaoCluster,
    pub operation: &'a OpenBaoOperation,
    pub way: &'a Way,
    /// What runs now.
    pub from: UpgradeDirective,
    /// Name and UID of every data claim there is, and stays.
    pub claims: Vec<(String, String)>,
    /// Where the backup lies.
    pub store: Store,
    /// Somebody leads, so a backup of the present state can be taken.
    pub leads: bool,
    /// How many members the StatefulSet has.
    pub members: Option<i32>,
}

impl Frozen<'_> {
    /// How many servers there are to be, whether it comes to its end or turns back. With a smaller `spec.replicas` that is not
    /// carried out yet raft still counts those that are there, and their votes would be missed on the way back; they leave it one
    /// by one when this is over. A larger one is carried out on the way.
    fn replicas(&self) -> i32 {
        self.members.unwrap_or_default().max(self.cluster.spec.replicas)
    }
}

/// The frozen inputs: those of a restore, and the versions.
pub fn inputs(frozen: &Frozen<'_>, settings: &Settings) -> Result<BTreeMap<String, String>, InputError> {
    let Frozen { cluster, operation, way, from, .. } = frozen;
    let name = cluster.name_any();
    let image = cluster.spec.backup.as_ref().and_then(|backup| backup.job_image());
    let mut map = Inputs {
        restore: operation.name_any(),
        restore_uid: operation.uid().unwrap_or_default(),
        cluster_uid: cluster.uid().unwrap_or_default(),
        store: frozen.store.clone(),
        source: Source::Key(way.key.clone()),
        login: Login {
            mount: names::JWT_MOUNT.to_owned(),
            role: cluster.spec.named_restore_role().unwrap_or(names::RESTORE_ROLE).to_owned(),
            audience: login::jobs_audience(cluster),
            ca_config_map: cluster.spec.tls.enabled.then(|| names::ca_config_map(&name)),
            token_secret: None,
        },
        waive: vec![],
        dry_run: false,
        safety_backup: takes_safety_backup(frozen),
        force: false,
        override_lock: false,
        image: image.unwrap_or(&settings.operator_image).to_owned(),
        service_account: names::restore_service_account(&name),
        pull_secrets: cluster.spec.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        onto: Some(way.to.version.clone()),
    }
    .to_map()?;
    let more = [
        (request::TO_VERSION, way.to.version.clone()),
        (request::TO_IMAGE, way.to.image.clone()),
        (request::FROM_VERSION, from.version.clone()),
        (request::FROM_IMAGE, from.image.clone()),
        (request::ROLLED_BACK, way.rolled_back.clone()),
        (request::REPLICAS, frozen.replicas().to_string()),
    ];
    map.extend(more.map(|(key, value)| (key.to_owned(), value)));
    Ok(map)
}

/// What an earlier rollback wiped and did not restore is nobody's data: whoever leads there has none to save, and no backup is taken
/// of it.
fn takes_safety_backup(frozen: &Frozen<'_>) -> bool {
    let refused = frozen.operation.spec.parameters.get(SAFETY_BACKUP).is_some_and(|value| value == "false");
    let nobodys = frozen.cluster.left_half_restored().is_some();
    frozen.leads && frozen.cluster.spec.backup.is_some() && !refused && !nobodys
}

/// The steps, in a straight line.
pub fn plan(frozen: &Frozen<'_>) -> Plan {
    let step = |name: &str, kind, timeout: &str, attempts: i32| StepSpec {
        name: name.to_owned(),
        action: name.split('/').next().unwrap_or(name).to_owned(),
        kind,
        timeout: Some(timeout.to_owned()),
        retry_policy: Some(RetryPolicy { max_attempts: Some(attempts), ..RetryPolicy::default() }),
        ..StepSpec::default()
    };
    let mut steps = vec![
        step(restore::PREFLIGHT, StepKind::Idempotent, "60m", 3),
        step(restore::JUDGE, StepKind::ReadVerify, "10m", 5),
    ];
    let safe = takes_safety_backup(frozen);
    if safe {
        steps.push(StepSpec { skippable: true, ..step(restore::SAFETY_BACKUP, StepKind::Idempotent, "120m", 1) });
    }
    steps.push(StepSpec {
        compensate: Some(START_AGAIN.to_owned()),
        ..step(request::STOP_SERVERS, StepKind::ReadVerify, "15m", 1)
    });
    steps.push(step(CONFIRM_SNAPSHOT, StepKind::ReadVerify, "60m", 3));
    let wipes = frozen.claims.iter().map(|(claim, uid)| StepSpec {
        config: BTreeMap::from([(CLAIM.to_owned(), claim.clone()), (CLAIM_UID.to_owned(), uid.clone())]),
        ..step(&format!("{WIPE}/{claim}"), StepKind::OnceOnly, "30m", PATIENT_ATTEMPTS)
    });
    let first_wipe = steps.len();
    steps.extend(wipes);
    steps.extend([
        step(request::START_FIRST, StepKind::ReadVerify, "30m", 1),
        step(restore::PLACE_MARKER, StepKind::Idempotent, "60m", PATIENT_ATTEMPTS),
        step(restore::SUBMIT, StepKind::OnceOnly, "120m", PATIENT_ATTEMPTS),
        StepSpec { observe_only: true, ..step(restore::PROVE_APPLIED, StepKind::ReadVerify, "60m", 1) },
        step(restore::RESTART_VOTERS, StepKind::ReadVerify, "45m", 1),
        step(request::JOIN_OTHERS, StepKind::ReadVerify, "30m", 1),
        StepSpec { observe_only: true, ..step(restore::AWAIT_HEALTHY, StepKind::ReadVerify, "30m", 1) },
        step(restore::VERIFY_ACCESS, StepKind::ReadVerify, "10m", 3),
        step(FINISH, StepKind::Idempotent, "30m", 1),
    ]);
    for index in 1..steps.len() {
        steps[index].depends_on = vec![steps[index - 1].name.clone()];
    }
    // Without a volume left to wipe (a rollback that failed before was here) the empty server is the first harm.
    let point_of_no_return = steps[first_wipe].name.clone();
    steps.push(step(START_AGAIN, StepKind::ReadVerify, "30m", 1));
    Plan {
        steps,
        lock: Some(LockPlan {
            operation: LockOperation::Upgrade,
            holder: "openbaocluster/rollback".to_owned(),
            holder_uid: frozen.operation.uid().unwrap_or_default(),
            before: Some(if safe { restore::SAFETY_BACKUP } else { request::STOP_SERVERS }.to_owned()),
            force: false,
            message: Some(format!("rollback from {} to {}", frozen.way.rolled_back, frozen.way.to.version)),
        }),
        point_of_no_return: Some(point_of_no_return),
        forward_recovery: Some(
            "another OpenBaoOperation with operation: Rollback and the same lineage.rollbackOf. But once JoinOthers has begun the \
             data is back and proven, and the upgrade is rolled back: then mend what keeps a member away, and it joins by itself"
                .to_owned(),
        ),
        max_retries: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::settings::Scope;
    use crate::service::cluster::facts::MAX_MEMBERS;
    use crate::service::opslifecycle::{asked, saga::plan as saga};
    use crate::service::restore::mover;
    use serde_json::json;

    #[test]
    fn a_safety_backup_is_declined_by_one_word_and_no_other() {
        let asked = |key: &str, value: &str| {
            let spec = json!({"cluster": "kelp", "operation": "Rollback", "parameters": {key: value}});
            asked::check(&OpenBaoOperation::new("back", serde_json::from_value(spec).unwrap()), &PARAMETERS)
        };
        assert_eq!((asked(SAFETY_BACKUP, "false"), asked(SAFETY_BACKUP, "true")), (Ok(()), Ok(())));
        for (key, value) in [(SAFETY_BACKUP, "no"), (SAFETY_BACKUP, "False"), ("safetybackup", "false")] {
            assert_eq!(asked(key, value).unwrap_err().reason, "InvalidParameters", "{key}: {value}");
        }
    }

    /// The inputs and the plan of a rollback of a cluster of three with one volume, which somebody leads, with so many members and
    /// this status.
    fn planned(members: Option<i32>, status: serde_json::Value) -> (BTreeMap<String, String>, Plan) {
        let backup = json!({"image": "ghcr.io/a/openbao-operator-backup:v1", "target": {"provider": "file", "file": {"claimName": "tide"}}});
        let spec = json!({"version": "2.7.2", "replicas": 3, "storage": {"size": "1Gi"}, "backup": backup});
        let mut cluster = OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap());
        cluster.status = Some(serde_json::from_value(status).unwrap());
        let operation = OpenBaoOperation::new("back", crate::api::OpenBaoOperationSpec::default());
        let at = |version: &str| UpgradeDirective { version: version.into(), image: format!("bao:{version}") };
        let way =
            Way { to: at("2.6.1"), rolled_back: "2.7.2".into(), key: "pre.snap".into(), backup: "up-backup".into() };
        let target = &cluster.spec.backup.as_ref().unwrap().target;
        let store = Store::freeze(target).unwrap();
        let (cluster, operation, way) = (&cluster, &operation, &way);
        let claims = vec![("data-kelp-0".to_owned(), "u0".to_owned())];
        let frozen = Frozen { cluster, operation, way, from: at("2.7.2"), claims, store, leads: true, members };
        let settings = Settings {
            operator_namespace: "ops".into(),
            operator_pod_labels: BTreeMap::new(),
            operator_service_account: "operator".into(),
            instance: "o-0".into(),
            operator_image: "operator:1".into(),
            openbao_image_repository: "openbao".into(),
            scope: Scope::All,
            requeue_standard: std::time::Duration::from_secs(60),
        };
        (inputs(&frozen, &settings).unwrap(), plan(&frozen))
    }

    fn frozen_inputs(members: Option<i32>) -> BTreeMap<String, String> {
        planned(members, json!({})).0
    }

    #[test]
    fn servers_that_a_rollback_left_half_restored_are_rolled_back_without_a_backup_although_one_leads() {
        let left = |closed: bool| {
            let half = json!({"rollback": "back", "wipedAt": "2026-11-21T11:00:00Z",
                "servers": {"count": 1, "initialize": false, "closed": closed}});
            json!({"upgrade": {"halfRestored": half, "servers": half["servers"]}})
        };
        for (status, safe) in [(json!({}), true), (left(false), true), (left(true), false)] {
            let (inputs, plan) = planned(Some(1), status.clone());
            assert_eq!(inputs["safetyBackup"], safe.to_string(), "{status}");
            assert_eq!(plan.steps.iter().any(|step| step.name == restore::SAFETY_BACKUP), safe, "{status}");
            let before = if safe { restore::SAFETY_BACKUP } else { request::STOP_SERVERS };
            assert_eq!(plan.lock.unwrap().before.as_deref(), Some(before), "{status}");
        }
    }

    #[test]
    fn once_a_volume_may_be_gone_a_snapshot_that_has_to_be_downloaded_again_is_waited_for_half_an_hour() {
        let (_, plan) = planned(Some(1), json!({}));
        let past = plan.steps.iter().skip_while(|step| Some(&step.name) != plan.point_of_no_return.as_ref());
        let needs_it = [WIPE, restore::PLACE_MARKER, restore::SUBMIT];
        let waits: Vec<&StepSpec> = past.filter(|step| needs_it.contains(&step.action.as_str())).collect();
        let names: Vec<&str> = waits.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["Wipe/data-kelp-0", restore::PLACE_MARKER, restore::SUBMIT]);
        // However many there have been before.
        let most = (0..1000).filter(|number| mover::may_follow(*number, false)).count();
        let mut left = (0..1000).filter(|number| mover::may_follow(*number, true)).count() - most;
        for step in waits {
            let policy = step.retry_policy.as_ref();
            let attempts = usize::try_from(saga::max_attempts(policy)).unwrap();
            // As often as there may be volumes.
            let steps = if step.action == WIPE { usize::try_from(MAX_MEMBERS).unwrap() } else { 1 };
            assert!(left >= steps * attempts, "{}: {left} downloads are left for {attempts} attempts", step.name);
            left -= steps * attempts;
            let pauses = (1..saga::max_attempts(policy)).map(|retries| saga::retry_delay(policy, retries));
            let pauses: std::time::Duration = pauses.sum();
            assert!((25..=35).contains(&(pauses.as_secs() / 60)), "{}: {pauses:?}", step.name);
        }
    }

    #[test]
    fn a_helper_image_of_the_go_operator_runs_no_rollback() {
        assert_eq!(frozen_inputs(None)["image"], "operator:1");
    }

    #[test]
    fn members_that_have_not_left_yet_are_started_again_on_the_way_back() {
        for (members, replicas) in [(Some(5), "5"), (Some(3), "3"), (Some(1), "3"), (None, "3")] {
            assert_eq!(frozen_inputs(members)[request::REPLICAS], replicas, "{members:?}");
        }
    }
}
