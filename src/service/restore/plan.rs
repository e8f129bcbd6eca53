//! The operation that does a restore's work: its name, its frozen inputs, its steps. Pure.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde::{Serialize, de::DeserializeOwned};

use super::reach::{self, ForeignImage};
use crate::adapter::kubernetes::owner::controller_of;
use crate::adapter::settings::Settings;
use crate::api::{
    Actor, ActorSource, Lineage, LockOperation, LockPlan, OPERATION_FINALIZER, OpenBaoCluster, OpenBaoOperation,
    OpenBaoOperationSpec, OpenBaoRestore, OperationKind, Plan, RetryPolicy, StepKind, StepSpec, Waiver,
};
use crate::service::backup::jobs::{self, Login, Source};
use crate::service::backup::store::{Store, StoreError};
use crate::service::cluster::{login, names};

/// The steps, by name. Those before [`SAFETY_BACKUP`] (or [`PLACE_MARKER`]) touch nothing and hold no lock.
pub const PREFLIGHT: &str = "Preflight";
pub const JUDGE: &str = "Judge";
pub const SAFETY_BACKUP: &str = "SafetyBackup";
pub const PLACE_MARKER: &str = "PlaceMarker";
pub const SUBMIT: &str = "Submit";
pub const PROVE_APPLIED: &str = "ProveApplied";
pub const RESTART_VOTERS: &str = "RestartVoters";
pub const AWAIT_HEALTHY: &str = "AwaitHealthy";
pub const VERIFY_ACCESS: &str = "VerifyAccess";

/// How often a snapshot is submitted in all when the server is shown not to have applied it.
pub const SUBMISSIONS: usize = 3;
/// How often the step is tried: some attempts end before anything is submitted.
const SUBMIT_ATTEMPTS: i32 = 8;

/// Name of the policy that exists only in the data from before the restore.
pub fn marker(operation_uid: &str) -> String {
    format!("{}{operation_uid}", names::MARKER_PREFIX)
}

/// The holder of the lock: two restores exclude each other.
pub fn holder(restore: &str) -> String {
    format!("openbaorestore/{restore}")
}

/// Name of the operation of a restore. The UID belongs to it: a restore made again under its old name is another one.
pub fn operation_name(restore: &OpenBaoRestore) -> String {
    let uid: String = restore.uid().unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    jobs::job_name(&restore.name_any(), &format!("restore-{uid}"))
}

/// The operation to create for a restore that was admitted. `None` while the API server has not given it a UID.
pub fn operation(restore: &OpenBaoRestore) -> Option<OpenBaoOperation> {
    let owner = controller_of(restore)?;
    let mut operation = OpenBaoOperation::new(
        &operation_name(restore),
        OpenBaoOperationSpec {
            cluster: restore.spec.cluster.clone(),
            operation: OperationKind::Restore,
            actor: Some(Actor { identity: cut(&asked_by(restore), IDENTITY), source: ActorSource::Api }),
            intent: Some(cut(&intent(restore), INTENT)),
            lineage: Some(Lineage::default()),
            ..OpenBaoOperationSpec::default()
        },
    );
    operation.metadata.namespace = restore.namespace();
    operation.metadata.labels = Some(names::labels(&restore.spec.cluster));
    operation.metadata.finalizers = Some(vec![OPERATION_FINALIZER.to_owned()]);
    operation.metadata.owner_references = Some(vec![owner]);
    Some(operation)
}

/// Characters of an intent: a little less than `spec.intent` takes. A key alone may be as long as the whole field.
const INTENT: usize = 1000;
/// Characters that `spec.actor.identity` takes. A restore's name alone may be as long.
const IDENTITY: usize = 253;

/// What is for people to read is rather cut than refused by the API server.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// The program that made the restore, as far as Kubernetes knows.
fn asked_by(restore: &OpenBaoRestore) -> String {
    let manager = restore.managed_fields().iter().find(|field| field.subresource.is_none());
    manager.and_then(|field| field.manager.clone()).unwrap_or_else(|| format!("openbaorestore/{}", restore.name_any()))
}

fn intent(restore: &OpenBaoRestore) -> String {
    let source = &restore.spec.source;
    let what = match (&source.key, source.before) {
        (Some(key), _) => key.clone(),
        (None, Some(before)) => format!("the newest backup before {before}"),
        (None, None) => "the newest backup".to_owned(),
    };
    let dry = if restore.spec.dry_run { " (dry run)" } else { "" };
    format!("OpenBaoRestore {}: restore {what}{dry}", restore.name_any())
}

/// What the steps work with, frozen when the operation starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    pub restore: String,
    pub restore_uid: String,
    pub cluster_uid: String,
    pub store: Store,
    pub source: Source,
    pub login: Login,
    pub waive: Vec<Waiver>,
    pub dry_run: bool,
    pub safety_backup: bool,
    pub force: bool,
    pub override_lock: bool,
    pub image: String,
    pub service_account: String,
    pub pull_secrets: Vec<String>,
    /// Set by a rollback: the snapshot goes into one new server of this version, not into the servers that run.
    pub onto: Option<String>,
}

/// Why frozen inputs cannot be used, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("the operation has no input \"{0}\": it was not planned by this operator")]
    Missing(&'static str),
    #[error("the operation's input \"{name}\" is not readable")]
    Unreadable {
        name: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("spec.source.target cannot be used: {0}")]
    Target(#[source] StoreError),
    #[error(
        "neither spec.source.target nor the cluster's spec.backup.target says where the snapshot is: name the target"
    )]
    NoTarget,
    #[error("spec.source names no snapshot: give key, latest: true or before")]
    NoSource,
    #[error(transparent)]
    Image(#[from] ForeignImage),
}

impl Inputs {
    /// Freezes what the restore and its cluster say now.
    pub fn freeze(restore: &OpenBaoRestore, cluster: &OpenBaoCluster, settings: &Settings) -> Result<Self, InputError> {
        let spec = &restore.spec;
        let name = cluster.name_any();
        let target = spec.source.target.as_ref();
        let target =
            target.or(cluster.spec.backup.as_ref().map(|backup| &backup.target)).ok_or(InputError::NoTarget)?;
        let source = match (&spec.source.key, spec.source.latest, spec.source.before) {
            (Some(key), _, _) => Source::Key(key.clone()),
            (None, _, Some(before)) => Source::Before(before),
            (None, true, None) => Source::Latest,
            (None, false, None) => return Err(InputError::NoSource),
        };
        let image = reach::image(restore, cluster, &settings.operator_image)?;
        Ok(Self {
            restore: restore.name_any(),
            restore_uid: restore.uid().unwrap_or_default(),
            cluster_uid: cluster.uid().unwrap_or_default(),
            store: Store::freeze(target).map_err(InputError::Target)?,
            source,
            login: Login {
                mount: names::JWT_MOUNT.to_owned(),
                role: role(restore, cluster),
                audience: login::jobs_audience(cluster),
                ca_config_map: cluster.spec.tls.enabled.then(|| names::ca_config_map(&name)),
                token_secret: spec.token_secret_ref.as_ref().map(|secret| secret.name.clone()),
            },
            waive: spec.waive.clone(),
            dry_run: spec.dry_run,
            safety_backup: spec.pre_restore_backup.unwrap_or(cluster.spec.backup.is_some()) && !spec.dry_run,
            force: spec.force,
            override_lock: spec.override_operation_lock,
            image: image.to_owned(),
            service_account: names::restore_service_account(&name),
            pull_secrets: cluster.spec.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
            onto: None,
        })
    }

    pub fn waives(&self, waiver: Waiver) -> bool {
        self.waive.contains(&waiver)
    }

    /// As the journal keeps them.
    pub fn to_map(&self) -> Result<BTreeMap<String, String>, InputError> {
        let Self {
            restore,
            restore_uid,
            cluster_uid,
            store,
            source,
            login,
            waive,
            dry_run,
            safety_backup,
            force,
            override_lock,
            image,
            service_account,
            pull_secrets,
            onto,
        } = self;
        let plain = [
            ("restore", restore),
            ("restoreUID", restore_uid),
            ("clusterUID", cluster_uid),
            ("image", image),
            ("serviceAccount", service_account),
        ];
        let mut map: BTreeMap<String, String> =
            plain.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        let flags = [
            ("dryRun", dry_run),
            ("safetyBackup", safety_backup),
            ("force", force),
            ("overrideOperationLock", override_lock),
        ];
        map.extend(flags.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())));
        map.extend(onto.iter().map(|version| ("onto".to_owned(), version.clone())));
        insert(&mut map, "store", store)?;
        insert(&mut map, "source", source)?;
        insert(&mut map, "login", login)?;
        insert(&mut map, "waive", waive)?;
        insert(&mut map, "pullSecrets", pull_secrets)?;
        Ok(map)
    }

    /// From the journal.
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<Self, InputError> {
        let plain = |name: &'static str| map.get(name).cloned().ok_or(InputError::Missing(name));
        Ok(Self {
            restore: plain("restore")?,
            restore_uid: plain("restoreUID")?,
            cluster_uid: plain("clusterUID")?,
            image: plain("image")?,
            service_account: plain("serviceAccount")?,
            dry_run: read(map, "dryRun")?,
            safety_backup: read(map, "safetyBackup")?,
            force: read(map, "force")?,
            override_lock: read(map, "overrideOperationLock")?,
            store: read(map, "store")?,
            source: read(map, "source")?,
            login: read(map, "login")?,
            waive: read(map, "waive")?,
            pull_secrets: read(map, "pullSecrets")?,
            onto: map.get("onto").cloned(),
        })
    }
}

fn insert(map: &mut BTreeMap<String, String>, name: &'static str, value: &impl Serialize) -> Result<(), InputError> {
    let text = serde_json::to_string(value).map_err(|source| InputError::Unreadable { name, source })?;
    map.insert(name.to_owned(), text);
    Ok(())
}

fn read<T: DeserializeOwned>(map: &BTreeMap<String, String>, name: &'static str) -> Result<T, InputError> {
    let text = map.get(name).ok_or(InputError::Missing(name))?;
    serde_json::from_str(text).map_err(|source| InputError::Unreadable { name, source })
}

/// The role that the mover logs in with.
pub fn role(restore: &OpenBaoRestore, cluster: &OpenBaoCluster) -> String {
    let named = restore.spec.jwt_auth_role.as_deref().or(cluster.spec.named_restore_role());
    named.unwrap_or(names::RESTORE_ROLE).to_owned()
}

/// The steps of a restore with these inputs.
pub fn plan(inputs: &Inputs) -> Plan {
    let step = |name: &str, kind, timeout: &str, attempts| StepSpec {
        name: name.to_owned(),
        action: format!("Restore{name}"),
        kind,
        timeout: Some(timeout.to_owned()),
        retry_policy: Some(RetryPolicy { max_attempts: Some(attempts), ..RetryPolicy::default() }),
        ..StepSpec::default()
    };
    let mut steps = vec![step(PREFLIGHT, StepKind::Idempotent, "60m", 3), step(JUDGE, StepKind::ReadVerify, "10m", 5)];
    if !inputs.dry_run {
        if inputs.safety_backup {
            steps.push(StepSpec { skippable: true, ..step(SAFETY_BACKUP, StepKind::Idempotent, "120m", 1) });
        }
        steps.extend([
            step(PLACE_MARKER, StepKind::Idempotent, "60m", 3),
            step(SUBMIT, StepKind::OnceOnly, "120m", SUBMIT_ATTEMPTS),
            StepSpec { observe_only: true, ..step(PROVE_APPLIED, StepKind::ReadVerify, "60m", 1) },
            step(RESTART_VOTERS, StepKind::ReadVerify, "45m", 1),
            // All of them were restarted by then, and a person may not want to wait for one that does not come back.
            StepSpec { observe_only: true, skippable: true, ..step(AWAIT_HEALTHY, StepKind::ReadVerify, "30m", 1) },
            step(VERIFY_ACCESS, StepKind::ReadVerify, "10m", 3),
        ]);
    }
    for i in 1..steps.len() {
        steps[i].depends_on = vec![steps[i - 1].name.clone()];
    }
    let first_harm = if inputs.safety_backup { SAFETY_BACKUP } else { PLACE_MARKER };
    Plan {
        steps,
        lock: (!inputs.dry_run).then(|| LockPlan {
            operation: LockOperation::Restore,
            holder: holder(&inputs.restore),
            holder_uid: inputs.restore_uid.clone(),
            before: Some(first_harm.to_owned()),
            force: inputs.force && inputs.override_lock,
            message: Some(format!("restoring, asked for by OpenBaoRestore {}", inputs.restore)),
        }),
        point_of_no_return: (!inputs.dry_run).then(|| SUBMIT.to_owned()),
        forward_recovery: (!inputs.dry_run).then(|| {
            "create another OpenBaoRestore: of the same snapshot, or of the safety backup that this one took first. But once \
             RestartVoters has begun the data is restored and proven: then mend what keeps a server away, and delete the server pods \
             that were not restarted, one by one, the leader's last"
                .to_owned()
        }),
        max_retries: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::settings::Scope;
    use serde_json::{Value, json};

    fn restore(spec: Value) -> OpenBaoRestore {
        let mut restore = OpenBaoRestore::new("rollback", serde_json::from_value(spec).unwrap());
        restore.metadata.namespace = Some("reef".into());
        restore.metadata.uid = Some("3f9c1a2b-7777-4444".into());
        restore
    }

    fn cluster(backup: Value) -> OpenBaoCluster {
        let spec = json!({"version": "2.7.2", "storage": {"size": "1Gi"}, "tls": {"enabled": true}, "backup": backup});
        let mut cluster = OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap());
        cluster.metadata.uid = Some("c-uid".into());
        cluster.metadata.namespace = Some("reef".into());
        cluster
    }

    fn settings() -> Settings {
        Settings {
            operator_namespace: "ops".into(),
            operator_pod_labels: BTreeMap::new(),
            operator_service_account: "operator".into(),
            instance: "o-0".into(),
            operator_image: "operator:1".into(),
            openbao_image_repository: "openbao".into(),
            scope: Scope::All,
            requeue_standard: std::time::Duration::from_secs(60),
        }
    }

    fn claim() -> Value {
        json!({"target": {"provider": "file", "file": {"claimName": "tide"}}})
    }

    fn frozen(spec: Value, backup: Value) -> Inputs {
        Inputs::freeze(&restore(spec), &cluster(backup), &settings()).unwrap()
    }

    fn steps(inputs: &Inputs) -> Vec<String> {
        plan(inputs).steps.into_iter().map(|step| step.name).collect()
    }

    #[test]
    fn once_every_server_was_restarted_a_person_may_go_on_and_not_before() {
        let plan = plan(&frozen(json!({"cluster": "kelp", "source": {"key": "a.snap"}}), claim()));
        let skippable = plan.steps.iter().filter(|step| step.skippable).map(|step| step.name.as_str());
        assert_eq!(skippable.collect::<Vec<_>>(), [SAFETY_BACKUP, AWAIT_HEALTHY]);
        let way_out = plan.forward_recovery.unwrap();
        assert!(way_out.contains("RestartVoters has begun the data is restored and proven"), "{way_out}");
    }

    #[test]
    fn inputs_read_back_as_they_were_frozen() {
        let inputs = frozen(
            json!({"cluster": "kelp", "source": {"before": "2026-11-20T12:00:00Z"}, "waive": ["OtherSeal"], "force": true}),
            claim(),
        );
        assert_eq!(Inputs::from_map(&inputs.to_map().unwrap()).unwrap(), inputs);
        assert_eq!((inputs.image.as_str(), inputs.login.role.as_str()), ("operator:1", names::RESTORE_ROLE));
        let mut map = inputs.to_map().unwrap();
        map.remove("store");
        assert!(matches!(Inputs::from_map(&map), Err(InputError::Missing("store"))));
    }

    #[test]
    fn a_helper_image_of_the_go_operator_runs_no_restore() {
        let image = |named: &str, backup: Value| {
            let spec =
                json!({"cluster": "kelp", "source": {"key": "a.snap", "target": claim()["target"]}, "image": named});
            Inputs::freeze(&restore(spec), &cluster(backup), &settings()).map(|inputs| inputs.image)
        };
        let helper = "ghcr.io/dc-tec/openbao-operator-backup:0.1.0";
        assert_eq!(image(helper, claim()).unwrap(), "operator:1");
        let mut own = claim();
        own["image"] = json!("mirror/openbao-operator:1");
        assert_eq!(image(helper, own.clone()).unwrap(), "mirror/openbao-operator:1");
        assert_eq!(image("mirror/openbao-operator:1", own).unwrap(), "mirror/openbao-operator:1");
        assert!(matches!(image("evil", claim()), Err(InputError::Image(_))), "no step of it is planned");
    }

    #[test]
    fn the_lock_is_taken_after_the_verdict_and_before_anything_changes() {
        let inputs = frozen(json!({"cluster": "kelp", "source": {"latest": true}}), claim());
        let plan = plan(&inputs);
        let before = plan.lock.unwrap().before.unwrap();
        let names: Vec<_> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names[..3], [PREFLIGHT, JUDGE, SAFETY_BACKUP]);
        assert_eq!(before, SAFETY_BACKUP);
        let once: Vec<_> = plan.steps.iter().filter(|step| step.kind == StepKind::OnceOnly).collect();
        assert_eq!(once.len(), 1);
        assert_eq!(plan.point_of_no_return.as_deref(), Some(once[0].name.as_str()));
    }

    #[test]
    fn every_step_waits_for_the_one_before_it() {
        let plan = plan(&frozen(json!({"cluster": "kelp", "source": {"latest": true}}), claim()));
        for pair in plan.steps.windows(2) {
            assert_eq!(pair[1].depends_on, [pair[0].name.clone()]);
        }
    }

    #[test]
    fn a_safety_backup_is_taken_where_the_cluster_has_a_target_unless_it_is_declined() {
        let own = json!({"cluster": "kelp", "source": {"key": "a.snap", "target": claim()["target"]}});
        assert!(steps(&frozen(own.clone(), claim())).contains(&SAFETY_BACKUP.to_owned()));
        assert!(!steps(&frozen(own.clone(), Value::Null)).contains(&SAFETY_BACKUP.to_owned()));
        let mut declined = own;
        declined["preRestoreBackup"] = json!(false);
        let inputs = frozen(declined, claim());
        assert!(!steps(&inputs).contains(&SAFETY_BACKUP.to_owned()));
        assert_eq!(plan(&inputs).lock.unwrap().before.as_deref(), Some(PLACE_MARKER));
    }

    #[test]
    fn a_dry_run_ends_with_the_verdict_and_takes_no_lock() {
        let inputs = frozen(json!({"cluster": "kelp", "source": {"latest": true}, "dryRun": true}), claim());
        assert_eq!(steps(&inputs), [PREFLIGHT, JUDGE]);
        assert_eq!(plan(&inputs).lock, None);
        assert_eq!(plan(&inputs).point_of_no_return, None);
    }

    #[test]
    fn a_foreign_lock_is_overridden_only_with_force_and_the_word_for_it() {
        let asked = |force: bool, over: bool| {
            let spec =
                json!({"cluster": "kelp", "source": {"latest": true}, "force": force, "overrideOperationLock": over});
            plan(&frozen(spec, claim())).lock.unwrap().force
        };
        assert_eq!([asked(true, true), asked(true, false), asked(false, true)], [true, false, false]);
    }

    #[test]
    fn a_restore_made_again_under_its_old_name_has_another_operation() {
        let first = restore(json!({"cluster": "kelp", "source": {"latest": true}}));
        let mut second = first.clone();
        second.metadata.uid = Some("99999999-7777".into());
        assert_eq!(operation_name(&first), "rollback-restore-3f9c1a2b");
        assert_ne!(operation_name(&first), operation_name(&second));
        let operation = operation(&first).unwrap();
        assert!(crate::adapter::kubernetes::owner::is_controlled_by(&operation, "3f9c1a2b-7777-4444"));
        assert!(operation.spec.intent.unwrap().contains("newest backup"));
    }

    #[test]
    fn however_long_key_and_name_are_the_operation_fits_its_fields() {
        let key = format!("{}.snap", "é".repeat(1019));
        let mut restore = restore(json!({"cluster": "kelp", "source": {"key": key}}));
        restore.metadata.name = Some("r".repeat(253));
        let spec = operation(&restore).unwrap().spec;
        assert_eq!(spec.intent.unwrap().chars().count(), INTENT);
        assert_eq!(spec.actor.unwrap().identity.chars().count(), IDENTITY);
    }

    #[test]
    fn without_a_target_the_message_says_which_field_to_fill() {
        let spec = json!({"cluster": "kelp", "source": {"key": "a.snap"}});
        let error = Inputs::freeze(&restore(spec), &cluster(Value::Null), &settings()).unwrap_err();
        assert!(error.to_string().contains("spec.source.target"), "{error}");
    }
}
