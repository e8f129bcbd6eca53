//! `OpenBaoRestore`: one request to put a snapshot back into a cluster, and its record.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster::backup::is_helper_of_the_go_operator;
use super::common::{HandledRequest, Request, SecretRef};
use super::rules;
use super::target::BackupTarget;

/// The finalizer of every restore that has not ended: its operation is stopped, and its lock given back, before the object goes.
pub const RESTORE_FINALIZER: &str = "openbao.org/openbaorestore-finalizer";

/// The optional fields that may not change, appear or go.
const MUST_STAY: [&str; 8] =
    ["jwtAuthRole", "tokenSecretRef", "image", "force", "overrideOperationLock", "waive", "preRestoreBackup", "dryRun"];

/// Puts one snapshot back into one cluster. Everything that can be refused is refused before anything is touched; the
/// result is proven on the server, not assumed. An object is one attempt: to try again, create another.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "openbao.org",
    version = "v1alpha1",
    kind = "OpenBaoRestore",
    plural = "openbaorestores",
    shortname = "baor",
    shortname = "obrestore",
    category = "openbao",
    namespaced,
    status = "OpenBaoRestoreStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Puts one snapshot back into one cluster, once.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[x_kube(validation = rules::immutable_but_requests("restore", &["cluster", "source"], &MUST_STAY))]
#[x_kube(validation = ("!has(self.overrideOperationLock) || !self.overrideOperationLock || (has(self.force) && self.force)", "overrideOperationLock needs force: true"))]
#[serde(rename_all = "camelCase")]
pub struct OpenBaoRestoreSpec {
    /// Name of the `OpenBaoCluster`, in the same namespace, whose data is replaced.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name("cluster"))]
    pub cluster: String,
    /// Which snapshot.
    pub source: RestoreSource,
    /// The OpenBao role (mount `jwt`) that the Job logs in with; it has to exist. Default: the cluster's `spec.restore.jwtAuthRole`,
    /// else `openbao-operator-restore`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub jwt_auth_role: Option<String>,
    /// Secret whose key `token` holds an OpenBao token to use instead of a JWT login, wherever the servers know it. When the
    /// snapshot comes from a cluster that does not know this operator, a token that is valid in the snapshot lets the operator
    /// restore its own access; until the snapshot is applied, the JWT login is used. A Secret that is a cluster's own, such as
    /// `<name>-root-token`, is refused unless the cluster's `spec.backup.tokenSecretRef` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretRef>,
    /// Image of the Job; default is that of the cluster's backups, else the operator's own. Only these two can be named: the Job
    /// mounts what not everybody may read. A helper image of the Go operator (its name ends in `backup`) knows nothing of this
    /// operator's Job and is not used; the status says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Restore although the cluster is degraded, upgrading or counts as uninitialised. It never stands in for a
    /// reachable, unsealed leader. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Take the cluster's operation lock from a backup or upgrade that holds it. Needs `force: true`. Never takes it
    /// from another restore, nor past an upgrade's point of no return.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub override_operation_lock: bool,
    /// Checks you take upon yourself; nothing else can be waived. `MissingManifest`: nothing says which size, digest and cluster the
    /// snapshot should have. `OtherSeal`: it was sealed with another static key of the same id, which the cluster needs afterwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub waive: Vec<Waiver>,
    /// Take a backup of the present state first, to the cluster's own target, and don't restore if that fails. Default:
    /// true where the cluster has a target, false where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_restore_backup: Option<bool>,
    /// Download, verify and judge, then stop: nothing is locked and nothing is changed. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What a person asks of the running restore; the only part of the spec that may change. Understood: `Cancel`,
    /// `Skip` (the safety backup), `Resume` and `Abandon` (when the result is unknown).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nonce".into()]))]
    #[x_kube(validation = rules::only_actions("restore", &["Cancel", "Skip", "Resume", "Abandon"]))]
    pub requests: Vec<Request>,
}

impl OpenBaoRestoreSpec {
    /// The image of the Job, where the spec names one that can run it.
    pub fn job_image(&self) -> Option<&str> {
        self.image.as_deref().filter(|image| !is_helper_of_the_go_operator(image))
    }

    /// Whether `image` is set to what cannot run our Job.
    pub fn names_a_foreign_helper(&self) -> bool {
        self.image.as_deref().is_some_and(is_helper_of_the_go_operator)
    }
}

/// Which snapshot to restore: exactly one of `key`, `latest` and `before`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = ("(has(self.key) ? 1 : 0) + (has(self.latest) && self.latest ? 1 : 0) + (has(self.before) ? 1 : 0) == 1", "source needs exactly one of key, latest: true and before"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreSource {
    /// Where the snapshot is. Default: the cluster's own `spec.backup.target`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<BackupTarget>,
    /// The whole object key, prefix included, for example `prod/openbao/main/2026-11-21T03-00-00Z-3f9c12ab.snap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::no_climbing("source.key"))]
    #[x_kube(validation = ("!self.startsWith('/')", "source.key must not start with a slash: it is the object's whole key in the bucket"))]
    pub key: Option<String>,
    /// The newest complete backup of this namespace and cluster, but for those that a restore took before itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub latest: bool,
    /// The newest complete backup of this namespace and cluster that was taken before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<DateTime<Utc>>,
}

/// The two checks that a person can take upon themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Waiver {
    /// The snapshot has no manifest beside it: nothing says which size, digest and cluster it should have.
    MissingManifest,
    /// The snapshot was sealed with another static key of the same id. It is posted to `snapshot-force`, and the cluster needs the
    /// source's key afterwards.
    OtherSeal,
}

/// What became of a restore.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenBaoRestoreStatus {
    /// Pending, Validating, Running, then Completed, Failed or Unknown. It only moves forward.
    #[serde(default)]
    pub phase: RestorePhase,
    /// What happens now, what is waited for and from whom, or why it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The step under way, by name; `Waiting` while the operation has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// The spec generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// UID of the cluster, pinned at the first look: a namesake made later is never restored into.
    #[serde(rename = "clusterUID", skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,
    /// The `OpenBaoOperation` that does the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// When the work began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<DateTime<Utc>>,
    /// How far the transfer under way is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<TransferProgress>,
    /// What the source turned out to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ObservedSource>,
    /// How we know that the data is the snapshot's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<RestoreProof>,
    /// How long each part took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durations: Option<RestoreDurations>,
    /// Key of the safety backup, if one was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_restore_backup: Option<String>,
    /// The last 20 answers to `spec.requests`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nonce".into()]))]
    pub handled_requests: Vec<HandledRequest>,
    /// `RestoreComplete`, `OperationLockOverride`, `OperatorAccess`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The stages of a restore that people see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum RestorePhase {
    /// Seen, not begun.
    #[default]
    Pending,
    /// Downloading, verifying, judging, waiting for the lock. The cluster is untouched.
    Validating,
    /// The lock is held; the cluster is being changed.
    Running,
    /// Proven.
    Completed,
    /// Ended without success; the message says whether the cluster was touched.
    Failed,
    /// The snapshot was handed over and its effect can be neither proven nor ruled out. The lock stays until a person
    /// asks for `Resume` (prove again) or `Abandon`.
    Unknown,
}

impl RestorePhase {
    /// The word as it stands in YAML, events and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Validating => "Validating",
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }

    /// Whether nothing will happen any more. `Unknown` is not terminal: it waits for a person and keeps the lock.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// How far a transfer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferProgress {
    /// Bytes done.
    pub bytes: i64,
    /// Bytes in all, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<i64>,
    /// Whole per cent, when the total is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
}

/// How many versions [`ObservedSource::versions`] holds.
pub const VERSIONS_SHOWN: usize = 64;

/// What the source turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedSource {
    /// The object that was chosen.
    pub key: String,
    /// Hex SHA-256 of the whole object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// OpenBao versions that had been active on the data, the newest 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub versions: Vec<String>,
    /// The seal the data is encrypted under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seal_type: Option<String>,
    /// The id of that seal's key, where it has one.
    #[serde(rename = "sealKeyID", skip_serializing_if = "Option::is_none")]
    pub seal_key_id: Option<String>,
    /// When the snapshot was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<DateTime<Utc>>,
    /// The cluster it was taken from, as `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// How we know that the data is the snapshot's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreProof {
    /// The kind of evidence.
    pub kind: ProofKind,
    /// When it was seen.
    pub at: DateTime<Utc>,
    /// The evidence in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// Kinds of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProofKind {
    /// A marker written right before the restore is gone, on the leader.
    Marker,
    /// The cluster id changed to that of the snapshot.
    ClusterID,
    /// A token minted right before the restore is no longer known.
    Login,
}

/// How long each part took, as durations such as `3.2s`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreDurations {
    /// Checks by operator and Job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate: Option<String>,
    /// Reading the snapshot from its store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<String>,
    /// Waiting for the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// Handing the snapshot to the leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submit: Option<String>,
    /// Until the leader served the restored data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply: Option<String>,
    /// Restarting the voters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// From the object's creation to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_told_by_the_word_that_stands_in_yaml() {
        use RestorePhase::{Completed, Failed, Pending, Running, Unknown, Validating};
        for phase in [Pending, Validating, Running, Completed, Failed, Unknown] {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
        }
    }
}
