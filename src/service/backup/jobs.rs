//! The mover's Jobs, and the objects beside them. Pure: values in, manifests out; backup, retention, verification and
//! restore all build their Jobs here, so that there is one place to look for what a Job of ours may do.
//!
//! Every Job has a deterministic name, is controlled by its operation, never retries by itself (`backoffLimit: 0`: the
//! saga engine counts attempts), runs restricted, and holds one token per audience and one credential mount.

mod channel;
mod volumes;

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Capabilities, Container, EnvVar, EnvVarSource, LocalObjectReference, ObjectFieldSelector,
            PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecurityContext,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use serde::{Deserialize, Serialize};

pub use channel::{mover_binding, mover_config_map, mover_role};
use volumes::Pieces;

use super::store::Store;
use crate::adapter::caches::OPERATION_NAME;
use crate::adapter::kubernetes::shorten;
use crate::api::{OpenBaoCluster, Retention};
use crate::datapath::archive::Limits;
use crate::datapath::environment::{self as env, path};
use crate::datapath::protocol::Peer;
use crate::service::cluster::{names, validate};

/// Annotation: the UID of the operation that a Job, or an object beside it, was made for. With the owner reference it is
/// the proof that the Job is ours: a name may have been used before.
pub const OPERATION_UID: &str = "openbao.org/operation-uid";

/// Subcommand and component label of a Job that reads a backup again.
const VERIFY: &str = "verify";
/// The container of a restore test that fetches the backup for the other one.
pub const FETCH: &str = "fetch";
/// Component label of the Job of a restore test.
const RESTORE_TEST: &str = "restore-test";

/// The user that the images run as; also the group of files in mounted volumes.
const USER: i64 = 65532;
/// The mover ends this long before Kubernetes would kill it, so that it can abort its upload and say why.
const MARGIN: TimeDelta = TimeDelta::seconds(20);
/// A Job that has ended and that nobody removed goes after this long: a day to read its logs in. Far longer than any step
/// waits for one, so that a Job which is gone was never awaited.
const KEPT_SECONDS: i32 = 24 * 3600;
/// The same for the Job of a restore test, whose pod has a volume of the size of a member's.
const TEST_KEPT_SECONDS: i32 = 3600;
/// How long a mover that is told to stop may take to abort its upload.
const GRACE_SECONDS: i64 = 30;

/// Most bytes of one variable. The kernel starts no program that is given 128 KiB in one of them.
const VARIABLE: usize = 120 << 10;

/// The operation that a Job works for.
#[derive(Clone, Debug)]
pub struct Operation {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub cluster: String,
    pub cluster_uid: String,
    /// For the manifest: why, and who asked.
    pub intent: String,
    /// `Safety` or `PreUpgrade`; empty for a backup of its own.
    pub role: String,
    pub actor: String,
    /// Controller reference to the operation.
    pub owner: OwnerReference,
}

/// How the mover logs in to OpenBao. Frozen with the operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    pub mount: String,
    pub role: String,
    pub audience: String,
    /// Config map with `ca.crt`; `None`: the cluster serves without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map: Option<String>,
    /// A user's Secret with the key `token`, used instead of the JWT; in a restore, where the servers know that token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret: Option<String>,
}

/// Which stored backup is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A whole key, never joined with the prefix.
    Key(String),
    /// The newest complete backup of this cluster that is no safety backup, while there is one.
    Latest,
    /// The newest complete one taken before this time.
    Before(DateTime<Utc>),
}

/// What a Job does.
#[derive(Clone, Debug)]
pub enum Task<'a> {
    /// Takes a snapshot, verifies it, stores it under `key`.
    Backup {
        key: &'a str,
        login: &'a Login,
        peers: &'a [Peer],
        expected_size: Option<u64>,
        /// Most bytes that the spool may take on the node's disk.
        spool_limit: Option<u64>,
        key_fingerprint: Option<&'a str>,
    },
    /// Reads a stored backup again from end to end.
    Verify { source: &'a Source },
    /// Finishes what an earlier run began and does what its orders say.
    Prune(Orders<'a>),
    /// Prints what is in the store.
    List,
    /// Reads a stored backup, checks it, and prints what is in it.
    Inspect { source: &'a Source },
    /// Lays a stored backup down for the server of a restore test, which is logged in to.
    RestoreTest { source: &'a Source, login: &'a Login },
    /// Tries its login at `peers`, downloads, verifies, reports, waits for leave, and submits once.
    Restore {
        source: &'a Source,
        login: &'a Login,
        /// None: its login cannot be tried yet.
        peers: &'a [Peer],
        waive: &'a [String],
        submit: bool,
    },
}

/// What a prune is to do. Empty: only what an earlier run left undone.
#[derive(Clone, Debug, Default)]
pub struct Orders<'a> {
    /// Rules that the mover applies to what it finds.
    pub retention: Option<&'a Retention>,
    /// Keys that stay, each with the reason: against the rules, and against a deletion that an earlier run began.
    pub protected: BTreeMap<String, String>,
    /// Keys that the keep rules do not count.
    pub uncounted: Vec<String>,
    /// Keys that go whatever the rules say.
    pub remove: Vec<String>,
    /// Keys of movers that died: they go unless they have both a manifest and an object.
    pub clean: Vec<String>,
    pub dry_run: bool,
}

/// One Job.
#[derive(Clone, Debug)]
pub struct Mover<'a> {
    pub operation: &'a Operation,
    /// See [`job_name`].
    pub name: &'a str,
    pub task: Task<'a>,
    pub store: &'a Store,
    pub image: &'a str,
    pub image_pull_secrets: &'a [LocalObjectReference],
    pub service_account: &'a str,
    /// See [`max_expanded`].
    pub max_expanded: Option<u64>,
    /// When everything is over. The mover is told a little less.
    pub deadline: DateTime<Utc>,
    pub now: DateTime<Utc>,
}

/// Most bytes that an archive of this cluster may expand to: four times a data volume (some provisioners enforce no size,
/// and a snapshot from a larger cluster may have come first). `None`: the mover's own bound of 64 GiB is above that.
pub fn max_expanded(cluster: &OpenBaoCluster) -> Option<u64> {
    let most = validate::bytes(&cluster.spec.storage.size)?.saturating_mul(4);
    (most > Limits::default().expanded).then_some(most)
}

/// `<operation>-<what>`, deterministic, at most 63 characters.
pub fn job_name(operation: &str, what: &str) -> String {
    shorten::joined(operation, what)
}

/// Name of the Job of one attempt at a step: attempts after the first carry their number.
pub fn attempt_name(operation: &str, what: &str, attempt: i32) -> String {
    if attempt <= 1 { job_name(operation, what) } else { job_name(operation, &format!("{what}-{attempt}")) }
}

/// Name of the config map, role and binding through which mover and operator talk.
pub fn mover_name(operation: &str) -> String {
    job_name(operation, "mover")
}

/// The labels of everything that belongs to an operation.
pub fn labels(operation: &Operation, component: &str) -> BTreeMap<String, String> {
    let mut labels = names::labels(&operation.cluster);
    labels.insert(names::COMPONENT_LABEL.to_owned(), component.to_owned());
    labels.insert(names::OPERATION_LABEL.to_owned(), shorten::operation_label(&operation.name));
    labels
}

/// The key that a Job reads from end to end, where it is the Job of a [`Task::Verify`] or [`Task::RestoreTest`] that was given
/// one.
pub fn key_read(job: &Job) -> Option<String> {
    let component = job.metadata.labels.as_ref()?.get(names::COMPONENT_LABEL)?;
    let pod = job.spec.as_ref()?.template.spec.as_ref()?;
    let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
    let mut variables = containers.flat_map(|container| container.env.iter().flatten());
    let key = variables.find(|variable| variable.name == env::KEY)?.value.as_deref()?;
    [VERIFY, RESTORE_TEST].contains(&component.as_str()).then(|| key.replace("$$", "$"))
}

impl Task<'_> {
    /// The mover's subcommand.
    pub fn command(&self) -> &'static str {
        match self {
            Self::RestoreTest { .. } => FETCH,
            other => other.word(),
        }
    }

    /// The component label of the Job.
    pub fn word(&self) -> &'static str {
        match self {
            Self::RestoreTest { .. } => RESTORE_TEST,
            Self::Backup { .. } => "backup",
            Self::Verify { .. } => VERIFY,
            Self::Prune(_) => "prune",
            Self::Restore { .. } => "restore",
            Self::List => "list",
            Self::Inspect { .. } => "inspect",
        }
    }

    fn login(&self) -> Option<&Login> {
        match self {
            Self::Backup { login, .. } | Self::Restore { login, .. } | Self::RestoreTest { login, .. } => Some(login),
            Self::Verify { .. } | Self::Prune(_) | Self::List | Self::Inspect { .. } => None,
        }
    }

    /// Whether it reads an archive from end to end.
    fn judges(&self) -> bool {
        !matches!(self, Self::Prune(_) | Self::List)
    }

    /// Whether the pod gets a token for the JWT login. A restore does even where a Secret is named: what is in it may be valid in
    /// the snapshot only, and the servers that take the snapshot do not know it yet.
    fn uses_jwt(&self, login: &Login) -> bool {
        login.token_secret.is_none() || matches!(self, Self::Restore { .. })
    }

    /// Only what has to hold a whole archive gets a disk.
    fn needs_scratch(&self) -> bool {
        matches!(self, Self::Backup { .. } | Self::Restore { .. })
    }

    /// Whether it tells the operator how far it is, and so may ask the API server.
    fn reports(&self) -> bool {
        !matches!(self, Self::RestoreTest { .. })
    }

    /// What that disk may hold; `None`: what the mover itself finds free.
    fn scratch_limit(&self) -> Option<u64> {
        match self {
            Self::Backup { spool_limit, .. } => *spool_limit,
            Self::Verify { .. }
            | Self::Inspect { .. }
            | Self::List
            | Self::Prune(_)
            | Self::Restore { .. }
            | Self::RestoreTest { .. } => None,
        }
    }

    /// How long its Job stays after its end. A restore may wait for a person for days, and its Job is part of what that person looks at.
    fn kept_seconds(&self) -> Option<i32> {
        match self {
            Self::Restore { .. } => None,
            Self::RestoreTest { .. } => Some(TEST_KEPT_SECONDS),
            _ => Some(KEPT_SECONDS),
        }
    }

    fn variables(&self) -> Result<Vec<(&'static str, String)>, serde_json::Error> {
        let mut list: Vec<(&'static str, String)> = Vec::new();
        match self {
            Self::Backup { key, peers, expected_size, spool_limit, key_fingerprint, .. } => {
                list.push((env::KEY, (*key).to_owned()));
                list.push((env::PEERS, serde_json::to_string(peers)?));
                list.extend(expected_size.map(|size| (env::EXPECTED_SIZE, size.to_string())));
                list.extend(spool_limit.map(|limit| (env::SPOOL_LIMIT, limit.to_string())));
                list.extend(key_fingerprint.map(|print| (env::KEY_FINGERPRINT, print.to_owned())));
            }
            Self::Verify { source } | Self::Inspect { source } | Self::RestoreTest { source, .. } => {
                list.push(source.variable());
            }
            Self::List => {}
            Self::Prune(orders) => orders.variables(&mut list)?,
            Self::Restore { source, peers, waive, submit, .. } => {
                list.push(source.variable());
                if !peers.is_empty() {
                    list.push((env::PEERS, serde_json::to_string(peers)?));
                }
                if !waive.is_empty() {
                    list.push((env::WAIVE, serde_json::to_string(waive)?));
                }
                list.push((env::SUBMIT, submit.to_string()));
            }
        }
        if let Some(login) = self.login() {
            list.push((env::JWT_MOUNT, login.mount.clone()));
            list.push((env::JWT_ROLE, login.role.clone()));
            list.push((env::AUDIENCE, login.audience.clone()));
            list.extend(login.token_secret.as_ref().map(|_| (env::TOKEN_FILE, format!("{}/token", path::TOKEN))));
            list.extend(self.uses_jwt(login).then(|| (env::JWT_FILE, format!("{}/token", path::JWT))));
            list.extend(login.ca_config_map.as_ref().map(|_| (env::CA_FILE, format!("{}/ca.crt", path::CA))));
        }
        Ok(list)
    }
}

impl Orders<'_> {
    /// Why no Job can be told them.
    pub fn excess(&self) -> Option<String> {
        let mut list = Vec::new();
        self.variables(&mut list).ok()?;
        let (_, value) = list.into_iter().find(|(_, value)| value.len() > VARIABLE)?;
        Some(format!(
            "no Job can be told to spare {} backups in {} bytes, {VARIABLE} at most: end or delete restores that name backups of \
             this cluster",
            self.protected.len(),
            value.len()
        ))
    }

    fn variables(&self, list: &mut Vec<(&'static str, String)>) -> Result<(), serde_json::Error> {
        if let Some(retention) = self.retention {
            list.push((env::RETENTION, serde_json::to_string(retention)?));
            list.push((env::PROTECTED, serde_json::to_string(&self.protected)?));
            list.push((env::UNCOUNTED, serde_json::to_string(&self.uncounted)?));
        } else if !self.protected.is_empty() {
            list.push((env::PROTECTED, serde_json::to_string(&self.protected)?));
        }
        for (name, keys) in [(env::REMOVE, &self.remove), (env::CLEAN, &self.clean)] {
            if !keys.is_empty() {
                list.push((name, serde_json::to_string(keys)?));
            }
        }
        if self.dry_run {
            list.push((env::DRY_RUN, true.to_string()));
        }
        Ok(())
    }
}

impl Source {
    fn variable(&self) -> (&'static str, String) {
        match self {
            Self::Key(key) => (env::KEY, key.clone()),
            Self::Latest => (env::LATEST, true.to_string()),
            Self::Before(time) => (env::BEFORE, time.to_rfc3339_opts(SecondsFormat::Secs, true)),
        }
    }
}

/// The Job. It fails only when plain data cannot be written as JSON, which no input causes.
pub fn job(mover: &Mover<'_>) -> Result<Job, serde_json::Error> {
    let seconds = (mover.deadline - mover.now).num_seconds().max(60);
    let mut pod_labels = mover.store.pod_labels.clone();
    // Ours win: a user's label must not make a Job's pod look like a server.
    pod_labels.extend(labels(mover.operation, mover.task.word()));
    let pieces = Pieces::of(mover);
    Ok(Job {
        metadata: metadata(mover.operation, mover.name, mover.task.word()),
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: Some(seconds),
            ttl_seconds_after_finished: mover.task.kept_seconds(),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels),
                    annotations: Some(annotations(mover.operation)),
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    service_account_name: Some(mover.service_account.to_owned()),
                    automount_service_account_token: Some(false),
                    enable_service_links: Some(false),
                    restart_policy: Some("Never".to_owned()),
                    termination_grace_period_seconds: Some(GRACE_SECONDS),
                    security_context: Some(pod_security()),
                    image_pull_secrets: (!mover.image_pull_secrets.is_empty())
                        .then(|| mover.image_pull_secrets.to_vec()),
                    containers: vec![Container {
                        name: "mover".to_owned(),
                        image: Some(mover.image.to_owned()),
                        image_pull_policy: Some("IfNotPresent".to_owned()),
                        command: Some(vec![path::PROGRAM.to_owned(), mover.task.command().to_owned()]),
                        env: Some(variables(mover)?),
                        resources: Some(resources()),
                        security_context: Some(container_security()),
                        volume_mounts: Some(pieces.mounts),
                        ..Container::default()
                    }],
                    volumes: Some(pieces.volumes),
                    ..PodSpec::default()
                }),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

/// Name, labels, owner and the proof of ownership that every Job of an operation carries.
pub fn metadata(operation: &Operation, name: &str, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(operation.namespace.clone()),
        labels: Some(labels(operation, component)),
        annotations: Some(annotations(operation)),
        owner_references: Some(vec![operation.owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn annotations(operation: &Operation) -> BTreeMap<String, String> {
    BTreeMap::from([
        (OPERATION_UID.to_owned(), operation.uid.clone()),
        (OPERATION_NAME.to_owned(), operation.name.clone()),
    ])
}

fn variables(mover: &Mover<'_>) -> Result<Vec<EnvVar>, serde_json::Error> {
    let operation = mover.operation;
    let by_time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut list = vec![
        (env::TARGET, serde_json::to_string(&mover.store.target)?),
        (env::NAMESPACE, operation.namespace.clone()),
        (env::CLUSTER, operation.cluster.clone()),
        (env::CLUSTER_UID, operation.cluster_uid.clone()),
        (env::OPERATION, operation.name.clone()),
        (env::OPERATION_UID, operation.uid.clone()),
        (env::INTENT, operation.intent.clone()),
        (env::ACTOR, operation.actor.clone()),
    ];
    if mover.task.reports() {
        list.push((env::CONFIG_MAP, mover_name(&operation.name)));
    }
    list.push((env::DEADLINE, by_time(mover.deadline - MARGIN)));
    if !operation.role.is_empty() {
        list.push((env::ROLE, operation.role.clone()));
    }
    list.extend(mover.task.variables()?);
    if mover.store.credentials_secret.is_some() {
        list.push((env::CREDENTIALS_DIR, path::CREDENTIALS.to_owned()));
    }
    if let Some(most) = mover.max_expanded.filter(|_| mover.task.judges()) {
        list.push((env::MAX_EXPANDED, most.to_string()));
    }
    if mover.task.needs_scratch() {
        list.push((env::SCRATCH, path::SCRATCH.to_owned()));
    }
    if let Some(role) = &mover.store.target.role_arn {
        // The names that AWS's own clients look for.
        list.push(("AWS_ROLE_ARN", role.clone()));
        list.push(("AWS_WEB_IDENTITY_TOKEN_FILE", format!("{}/token", path::CLOUD)));
    }
    let mut variables: Vec<EnvVar> = list
        .into_iter()
        .map(|(name, value)| EnvVar { name: name.to_owned(), value: Some(escaped(&value)), value_from: None })
        .collect();
    for (name, field) in [(env::POD_NAME, "metadata.name"), (env::POD_UID, "metadata.uid")] {
        let field_ref = ObjectFieldSelector { field_path: field.to_owned(), api_version: None };
        let value_from = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
        variables.push(EnvVar { name: name.to_owned(), value: None, value_from: Some(value_from) });
    }
    Ok(variables)
}

/// The kubelet expands `$(NAME)` in values and takes `$$` for `$`; what a person wrote must arrive as it was written.
pub(super) fn escaped(value: &str) -> String {
    value.replace('$', "$$")
}

/// `requests` small enough for any node; no processor limit, because a throttled reader holds up OpenBao's leadership.
fn resources() -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect()
    };
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "100m"), ("memory", "64Mi")])),
        limits: Some(quantities(&[("memory", "256Mi")])),
        ..ResourceRequirements::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

#[cfg(test)]
pub(crate) mod tests;
