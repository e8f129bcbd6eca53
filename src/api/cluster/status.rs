//! What a cluster is. Each part has one writer with a field manager of its own; none of them writes another's fields.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::HandledRequest;

/// What a cluster is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenBaoClusterStatus {
    /// One word for the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<ClusterPhase>,
    /// The spec generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The version all members run; during an upgrade still the old one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_version: Option<String>,
    /// The pod that leads, by its own word and uncontradicted by the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_leader: Option<String>,
    /// Pods that are Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Ready and wanted members, for example `3/3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// How many more voters may fail before the cluster stops. One that serves and has not followed the leader for a minute counts as
    /// failed. It rises only when it is known of each that serves whether it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_tolerance: Option<i32>,
    /// OpenBao has been initialised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialized: Option<bool>,
    /// It initialised itself; no root token exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_initialized: Option<bool>,
    /// OpenBao's own id of the cluster, on which all members must agree.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// One entry per member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberStatus>,
    /// Raised whenever the lock changes hands. It never goes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_fence: Option<i64>,
    /// Who may change the cluster right now. Absent means nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = StructMerge::Atomic)]
    pub operation_lock: Option<OperationLock>,
    /// A restore that waits or runs, by name. Backups and upgrades start nothing new while it is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_restore: Option<String>,
    /// Backups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,
    /// The upgrade under way, or the target that is held back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeStatus>,
    /// What the data volumes have: the largest size that one of their claims asks for, or has where it is not given that.
    /// `spec.storage.size` can go back to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub volume_size: Option<String>,
    /// The last value of `spec.maintenance.restartAt` that was carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_restart_at: Option<String>,
    /// The last 20 answers to `spec.requests`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nonce".into()]))]
    pub handled_requests: Vec<HandledRequest>,
    /// Available, Degraded, Progressing and more; each says in words what it knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One word for the whole. `Initializing`: not served yet for the first time. `Running`: serves. `Upgrading`, `BackingUp`,
/// `Restoring`, `Maintenance`: such an operation holds the lock; it may serve meanwhile. `Failed`: cannot serve without help,
/// and the conditions say which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ClusterPhase {
    /// Not serving yet for the first time.
    #[default]
    Initializing,
    /// Serving.
    Running,
    /// An upgrade holds the lock.
    Upgrading,
    /// A backup holds the lock.
    BackingUp,
    /// A restore holds the lock.
    Restoring,
    /// A restart or other maintenance holds the lock.
    Maintenance,
    /// Cannot serve without help; the conditions say which.
    Failed,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// The pod.
    pub name: String,
    /// The version its server says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it does: `Active` leads, `Standby` follows and forwards, `Sealed` cannot read its data, `Joining` is not part of the
    /// cluster yet, `Down` does not answer.
    #[serde(default)]
    pub state: MemberState,
    /// Whether it votes, as far as the leader tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voter: Option<bool>,
    /// How far it has applied the log. Only while an operation holds the lock, and told along with other news: by itself it is told
    /// while members are apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_index: Option<i64>,
}

/// What a member does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MemberState {
    /// Leads.
    Active,
    /// Follows and forwards.
    Standby,
    /// Runs, but cannot read its data.
    Sealed,
    /// Runs, not part of the cluster yet.
    Joining,
    /// Does not answer.
    #[default]
    Down,
}

/// Who may change the cluster right now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationLock {
    /// What for.
    pub operation: LockOperation,
    /// Who, for example `openbaocluster/backup` or `openbaorestore/nightly`.
    pub holder: String,
    /// UID of the operation or restore that does the work; a namesake made later is another holder.
    #[serde(rename = "holderUID")]
    pub holder_uid: String,
    /// Name of the `OpenBaoOperation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_ref: Option<String>,
    /// What it is doing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `Held`: nothing else may run. `Parked`: an upgrade waits before its cutover, and scheduled backups may run.
    #[serde(default)]
    pub mode: LockMode,
    /// Whether something that must not happen twice, or from which no way leads back, may have been done under it. Written before
    /// the deed, so `false` proves that there was none; absent in the lock of an older operator, which proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<bool>,
    /// The lock that was taken over, in words, where it was not free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
    /// The value of `status.operationFence` when it was taken.
    #[serde(default)]
    pub fence: i64,
    /// When it was taken.
    pub acquired_at: DateTime<Utc>,
    /// When its holder last confirmed it. A lock is never released by age.
    pub renewed_at: DateTime<Utc>,
}

/// What a lock is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum LockOperation {
    /// A backup.
    Backup,
    /// An upgrade.
    Upgrade,
    /// A restore.
    Restore,
    /// Anything else: restarts, certificate rotation, workflows.
    Maintenance,
}

impl LockOperation {
    /// The word in status, events and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "Backup",
            Self::Upgrade => "Upgrade",
            Self::Restore => "Restore",
            Self::Maintenance => "Maintenance",
        }
    }
}

impl std::fmt::Display for LockOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Held, or parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LockMode {
    /// Nothing else may run.
    #[default]
    Held,
    /// An upgrade waits before its cutover: scheduled backups may run.
    Parked,
}

/// Backups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// When the last good backup was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<DateTime<Utc>>,
    /// Its object key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_key: Option<String>,
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_size_bytes: Option<i64>,
    /// How long it took, for example `3.2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_duration: Option<String>,
    /// The last operation, good or bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_operation: Option<String>,
    /// When the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<DateTime<Utc>>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure_message: Option<String>,
    /// Failures since the last success.
    #[serde(default)]
    pub consecutive_failures: i32,
    /// When the next scheduled run starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<DateTime<Utc>>,
    /// The schedule and time zone that `nextRun` was computed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The last tick that was run or skipped; each is used once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scheduled: Option<DateTime<Utc>>,
    /// When a backup was last read back and found good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<DateTime<Utc>>,
    /// The key that was found good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verified_key: Option<String>,
    /// Why a backup could last not be read back. Gone when one has been, and not before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verify_failure: Option<String>,
    /// Why retention could last not remove what was to go. Gone when it has, or has nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_retention_failure: Option<String>,
    /// When the next read-back starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_verify: Option<DateTime<Utc>>,
    /// Restore tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_test: Option<RestoreTestStatus>,
    /// The last scheduled run that was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_skip: Option<BackupSkip>,
    /// The last value of the annotation `openbao.org/trigger-backup` that was acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_trigger: Option<String>,
}

/// Restore tests: whether backups of this cluster come back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreTestStatus {
    /// When a test last passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<DateTime<Utc>>,
    /// Key of the backup that came back then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_key: Option<String>,
    /// How long that test took, for example `41s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_duration: Option<String>,
    /// The last test, passed or failed, by the name of its operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_operation: Option<String>,
    /// When a test last failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<DateTime<Utc>>,
    /// Why. Gone when one has passed since, and not before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure_message: Option<String>,
    /// When the next scheduled test starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<DateTime<Utc>>,
}

/// A scheduled run that was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupSkip {
    /// The tick.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Why.
    pub reason: String,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The upgrade under way, or the target that is held back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStatus {
    /// The version it goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The version it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The step under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The `OpenBaoOperation` that does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What the pods' template must show now. The cluster's own reconcile renders it; nobody else writes the template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directive: Option<UpgradeDirective>,
    /// How many servers there are to be while a rollback wipes and restores them, or has left them half restored; absent at
    /// any other time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers: Option<ServersDirective>,
    /// A rollback that wiped the servers and has neither ended well nor proven what it restored. It stays until another one has,
    /// also when its record is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_restored: Option<HalfRestored>,
    /// Why no server that is started anew would come back, as last seen. While it stands no upgrade begins, and one at work takes
    /// down no server that serves until leadership has moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
    /// A target that was aborted or rolled back. It is not tried again until the spec changes or a `Retry` is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_target: Option<String>,
    /// Why it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_reason: Option<String>,
    /// What `spec.image` said when it was held; empty if it said nothing. Another one lets the target go, like another version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_image: Option<String>,
    /// When a held target was last let go: by a changed version, or by a `Retry`. What failed before that no longer counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released_at: Option<DateTime<Utc>>,
    /// When the last upgrade or rollback ended that is accounted for in `directive`. Older records say nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounted_for: Option<DateTime<Utc>>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When leadership began to move. From then on there is no way back but a restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point_of_no_return_at: Option<DateTime<Utc>>,
}

impl super::OpenBaoCluster {
    /// Whether a rollback has wiped the servers and not restored them (yet): what they hold must neither be backed up nor
    /// upgraded, for it is nobody's data.
    pub fn is_half_restored(&self) -> bool {
        let upgrade = self.status.as_ref().and_then(|status| status.upgrade.as_ref());
        upgrade.and_then(|upgrade| upgrade.servers.as_ref()).is_some_and(|servers| servers.closed)
    }

    /// The rollback that has wiped the servers and not proven what it restored, at work or left half done.
    pub fn left_half_restored(&self) -> Option<&HalfRestored> {
        let upgrade = self.status.as_ref().and_then(|status| status.upgrade.as_ref());
        upgrade.and_then(|upgrade| upgrade.half_restored.as_ref()).filter(|half| half.servers.closed)
    }

    /// Why no server that is started anew would come back, as last seen.
    pub fn obstacle(&self) -> Option<&str> {
        self.status.as_ref()?.upgrade.as_ref()?.obstacle.as_deref()
    }
}

/// The servers of a cluster whose upgrade is being rolled back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServersDirective {
    /// How many members the `StatefulSet` is to have.
    pub count: i32,
    /// Their volumes were wiped under a claim of the rollback: the first server may start from nothing, this once.
    pub initialize: bool,
    /// What they hold is not the restored data yet, or not proven to be: clients are sent to nobody.
    #[serde(default)]
    pub closed: bool,
}

/// A rollback that wiped the servers and has not ended well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HalfRestored {
    /// Its `OpenBaoOperation`.
    pub rollback: String,
    /// The upgrade that it was to turn back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<String>,
    /// The version that it turned its back on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<String>,
    /// When it began to wipe.
    pub wiped_at: DateTime<Utc>,
    /// The servers as it left them.
    pub servers: ServersDirective,
}

/// What the pods' template must show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeDirective {
    /// The version.
    pub version: String,
    /// The image.
    pub image: String,
}
