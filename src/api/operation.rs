//! `OpenBaoOperation`: one thing that happened, or is happening, to a cluster.
//!
//! The spec says who asked for what and why, and never changes but for `requests`. The status is the journal of the
//! saga engine (`service::opslifecycle`), its only writer: the frozen plan, the state of each step, the history, the
//! lineage. A finished operation is the audit record.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    cluster::status::LockOperation,
    common::{HandledRequest, Request, is_default},
    duration,
};

/// The finalizer of every operation that has not ended: its clean-up stops Jobs and gives the lock back, and creates nothing.
pub const OPERATION_FINALIZER: &str = "openbao.org/operation";

/// Set by the engine on an operation whose lock a forced restore takes over; the value is the restore's UID.
/// The operation stops its Jobs and ends as `LockLost` before the lock changes hands.
pub const OVERRIDDEN_BY_ANNOTATION: &str = "openbao.org/lock-overridden-by";

/// Any value but `false` keeps a record from being pruned.
pub const PINNED_ANNOTATION: &str = "openbao.org/pinned";

/// The newest journal format this operator writes. A journal with a higher number is left alone.
pub const JOURNAL_VERSION: i32 = 1;

/// One operation on one cluster: who asked for it and why, what must hold before it starts, and what it did.
///
/// Immutable after creation but for `requests`, the one way to cancel, skip, retry, resume or abandon it.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "openbao.org",
    version = "v1alpha1",
    kind = "OpenBaoOperation",
    plural = "openbaooperations",
    shortname = "baoop",
    category = "openbao",
    namespaced,
    status = "OpenBaoOperationStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Operation", type_ = "string", json_path = ".spec.operation"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Actor", type_ = "string", json_path = ".spec.actor.identity"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Intent", type_ = "string", json_path = ".spec.intent", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[cfg_attr(test, kube(cel))]
#[x_kube(validation = Rule::new(IMMUTABLE).message("an operation is immutable after creation; only spec.requests may change"))]
#[x_kube(validation = Rule::new("self.operation == 'Workflow' ? has(self.plan) : !has(self.plan)")
    .message("plan.steps belongs to operation: Workflow, and is required there"))]
pub struct OpenBaoOperationSpec {
    /// The `OpenBaoCluster` in this namespace that the operation is about.
    #[schemars(length(min = 1, max = 63))]
    pub cluster: String,
    /// What is done.
    pub operation: OperationKind,
    /// Who asked for it. Told by whoever creates the object; what could be verified is in `status.actor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// Why, in words, for the people who read the record later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub intent: Option<String>,
    /// What the operation touches, where that is less than the whole cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub targets: Vec<Target>,
    /// What must hold before anything is done, and what is done on failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Constraints>,
    /// Which operations this one follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
    /// The harm that is accepted, by name, for example `DataOlderThanRollback`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub consent: Vec<String>,
    /// What the kind of operation needs to know, for example an upgrade's `version`. Frozen like the rest of the spec.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32), inner(length(max = 1024)))]
    pub parameters: BTreeMap<String, String>,
    /// The steps of a `Workflow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<WorkflowPlan>,
    /// Requests to the running operation, each acted on once by its nonce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nonce".into()]))]
    pub requests: Vec<Request>,
}

/// Everything but `requests` stays as it was. Written at spec level, since transition rules on optional fields
/// do not fire when a field appears or goes.
const IMMUTABLE: &str = "self.cluster == oldSelf.cluster && self.operation == oldSelf.operation \
&& has(self.actor) == has(oldSelf.actor) && (!has(self.actor) || self.actor == oldSelf.actor) \
&& has(self.intent) == has(oldSelf.intent) && (!has(self.intent) || self.intent == oldSelf.intent) \
&& has(self.targets) == has(oldSelf.targets) && (!has(self.targets) || self.targets == oldSelf.targets) \
&& has(self.constraints) == has(oldSelf.constraints) && (!has(self.constraints) || self.constraints == oldSelf.constraints) \
&& has(self.lineage) == has(oldSelf.lineage) && (!has(self.lineage) || self.lineage == oldSelf.lineage) \
&& has(self.consent) == has(oldSelf.consent) && (!has(self.consent) || self.consent == oldSelf.consent) \
&& has(self.parameters) == has(oldSelf.parameters) && (!has(self.parameters) || self.parameters == oldSelf.parameters) \
&& has(self.plan) == has(oldSelf.plan) && (!has(self.plan) || self.plan == oldSelf.plan)";

/// What an operation does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum OperationKind {
    /// A snapshot is taken, verified and stored.
    Backup,
    /// A snapshot is put back into the cluster.
    Restore,
    /// A backup is restored into a disposable cluster and checked.
    RestoreTest,
    /// The cluster moves to another version.
    Upgrade,
    /// An earlier operation is turned back, as a new forward operation.
    Rollback,
    /// Everything is checked and nothing is done.
    DryRun,
    /// The steps a person wrote.
    #[default]
    Workflow,
}

impl OperationKind {
    /// The word as it stands in YAML, events and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "Backup",
            Self::Restore => "Restore",
            Self::RestoreTest => "RestoreTest",
            Self::Upgrade => "Upgrade",
            Self::Rollback => "Rollback",
            Self::DryRun => "DryRun",
            Self::Workflow => "Workflow",
        }
    }
}

/// Who asked for an operation.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    /// A person or a machine, for example `ops@example.org` or `openbaocluster/prod`.
    #[schemars(length(max = 253))]
    pub identity: String,
    /// By which way the request came.
    #[serde(default)]
    pub source: ActorSource,
}

/// By which way a request came.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ActorSource {
    /// The kubectl plugin.
    Kubectl,
    /// A `GitOps` controller applied it.
    Gitops,
    /// Anyone else through the API server.
    #[default]
    Api,
    /// A schedule came due.
    Schedule,
    /// One of our controllers, on behalf of another object.
    Controller,
    /// A rollout, for one of its members.
    Rollout,
}

impl ActorSource {
    /// The word as it stands in YAML, events and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kubectl => "kubectl",
            Self::Gitops => "gitops",
            Self::Api => "api",
            Self::Schedule => "schedule",
            Self::Controller => "controller",
            Self::Rollout => "rollout",
        }
    }
}

/// One thing that an operation touches.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Target {
    /// What kind of thing.
    pub kind: TargetKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What an operation can touch.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TargetKind {
    /// A pod of the cluster.
    Pod,
    /// A volume of the cluster.
    Volume,
    /// An object in a backup store.
    Object,
    /// The whole cluster.
    Cluster,
}

/// What must hold before an operation starts, and what is done when it fails.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Constraints {
    /// Gates, checked before anything else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub pre: Vec<Gate>,
    /// What is done on failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub on_failure: Vec<FailureAction>,
}

/// One gate before an operation.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// What must hold.
    pub kind: GateKind,
    /// The object it is about, where it is not the cluster itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub resource: Option<String>,
    /// Whether it is about the target or what the target depends on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<GateScope>,
    /// `maxAge` (a duration such as `24h`) for `Backup` and `Restore`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8), inner(length(max = 256)))]
    pub params: BTreeMap<String, String>,
}

/// What a gate asks for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum GateKind {
    /// A verified backup newer than `maxAge`.
    Backup,
    /// A restore test passed within `maxAge`.
    Restore,
    /// The cluster is available.
    #[default]
    HealthCheck,
    /// A dry run of the same plan succeeded.
    DryRunCheck,
    /// The cluster's lock can be taken.
    ConcurrentLock,
}

impl GateKind {
    /// The word as it stands in YAML, events and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "Backup",
            Self::Restore => "Restore",
            Self::HealthCheck => "HealthCheck",
            Self::DryRunCheck => "DryRunCheck",
            Self::ConcurrentLock => "ConcurrentLock",
        }
    }
}

/// How far a gate looks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GateScope {
    /// The target itself.
    #[default]
    Direct,
    /// What the target depends on, such as the cluster that provides its transit seal.
    Indirect,
}

/// What is done when an operation fails.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct FailureAction {
    /// What is done.
    pub action: FailureActionKind,
    /// Where a restore comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<FailureSource>,
}

/// What can be done when an operation fails.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum FailureActionKind {
    /// A snapshot is put back.
    RestoreFrom,
    /// The steps that were done are undone.
    Compensate,
}

/// The snapshot that a failure is recovered from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureSource {
    /// The backup taken before the operation.
    PreBackup,
    /// The newest verified backup.
    LastKnownGood,
}

/// The operations that one follows from.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    /// The operation it continues; by default the newest successful one of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub parent_operation: Option<String>,
    /// The operation it turns back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub rollback_of: Option<String>,
}

/// The steps that a person wrote.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.steps.all(s, !has(s.dependsOn) || (!(s.name in s.dependsOn) && s.dependsOn.all(d, d in self.steps.map(t, t.name))))")
    .message("dependsOn must name other steps of the plan"))]
#[x_kube(validation = Rule::new("self.steps.all(s, !has(s.compensate) || (s.compensate != s.name && self.steps.exists(t, t.name == s.compensate)))")
    .message("compensate must name another step of the plan"))]
#[x_kube(validation = Rule::new("!has(self.pointOfNoReturn) || self.steps.exists(t, t.name == self.pointOfNoReturn)")
    .message("pointOfNoReturn must name a step of the plan"))]
#[x_kube(validation = step_durations())]
pub struct WorkflowPlan {
    /// The steps, in any order; `dependsOn` orders them.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub steps: Vec<StepSpec>,
    /// The step before which cancelling means undoing, and from which on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub point_of_no_return: Option<String>,
    /// How often a `Retry` request may reset the failed steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_retries: Option<i32>,
}

/// What a workflow says about time can be read.
fn step_durations() -> Rule {
    let fits = |value: &str| format!("(!has({value}) || {value}.matches(r'{}'))", duration::PATTERN);
    let policy = format!("{} && {}", fits("s.retryPolicy.initialDelay"), fits("s.retryPolicy.maxDelay"));
    let steps = format!("self.steps.all(s, {} && (!has(s.retryPolicy) || ({policy})))", fits("s.timeout"));
    Rule::new(steps).message("timeout, initialDelay and maxDelay must be durations, for example 90s or 1h30m")
}

/// One named step of a plan.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepSpec {
    /// Its name, unique in the plan.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// What it does: `Wait`, `HTTPGet`, `Annotate`, `KubernetesJob` in a workflow; a manager's own word elsewhere.
    #[schemars(length(min = 1, max = 63))]
    pub action: String,
    /// How often its effect may happen.
    #[serde(default)]
    pub kind: StepKind,
    /// The steps that must be completed or skipped before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub depends_on: Vec<String>,
    /// Those of `dependsOn` whose output it reads: they cannot be skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub needs_output: Vec<String>,
    /// What happens when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,
    /// How long it may take, from its own start (`90s`, `10m`); an hour when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub timeout: Option<String>,
    /// The step that undoes it. That step is never run forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub compensate: Option<String>,
    /// Whether a `Skip` request is honoured.
    #[serde(default, skip_serializing_if = "is_default")]
    pub skippable: bool,
    /// It only looks and may therefore go on after the lock was lost.
    #[serde(default, skip_serializing_if = "is_default")]
    pub observe_only: bool,
    /// What the action needs to know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32), inner(length(max = 4096)))]
    pub config: BTreeMap<String, String>,
}

/// How often the effect of a step may happen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum StepKind {
    /// It may run again freely.
    #[default]
    Idempotent,
    /// It looks first and acts only where needed.
    ReadVerify,
    /// Its effect happens at most once: a receipt is written before it, and after it the outcome is proven, never repeated.
    OnceOnly,
}

/// What happens when a step fails.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// How often it runs in all, counting the first time; 3 when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<i32>,
    /// How the delays grow; `exponential` when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// The first delay; `5s` when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub initial_delay: Option<String>,
    /// The longest delay; `60s` when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub max_delay: Option<String>,
}

/// How the delays between attempts grow.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// No delay.
    None,
    /// `initialDelay` × retries.
    Linear,
    /// `initialDelay` × 2^(retries - 1).
    #[default]
    Exponential,
}

/// The journal of one operation. Written by the saga engine only, each time against the resourceVersion it read.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenBaoOperationStatus {
    /// The format of this journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_version: Option<i32>,
    /// Where the operation stands.
    #[serde(default)]
    pub phase: OperationPhase,
    /// One word for why it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is awaited and from whom, or how it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether steps are being done or undone.
    #[serde(default)]
    pub direction: Direction,
    /// The phase that is written once everything is undone and cleaned up and the lock is given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<OperationPhase>,
    /// Why it turned back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Nothing is left to do or to undo; the clean-up runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<bool>,
    /// The frozen plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The frozen inputs; never a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 over plan and inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
    /// The lock under which it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockRecord>,
    /// From here on there is no way back but a new operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_of_no_return_at: Option<DateTime<Utc>>,
    /// Each step of the plan, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepStatus>,
    /// How often a `Retry` request has reset failed steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_count: Option<i32>,
    /// Who could be shown to have created the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<VerifiedActor>,
    /// The operation that this one follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_operation: Option<String>,
    /// The later operation that turned this one back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_by: Option<String>,
    /// The cluster before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Snapshots>,
    /// What the operation produced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Artifacts>,
    /// The cluster it began with. One made later under the same name is another one, and not touched.
    #[serde(default, rename = "clusterUID", skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,
    /// When the plan was frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When a terminal phase was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Every transition, oldest first; of a very long history the first and the last entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// The `seq` up to which the history has been told to the log and to events. What lies beyond is told again after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<i64>,
    /// The last 20 requests that were seen, and what became of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handled_requests: Vec<HandledRequest>,
    /// `Complete`, `Failed`, `WaitingForLock`, `NeedsAttention`; `LockOverridden` if it took its lock from somebody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum OperationPhase {
    /// Not started.
    #[default]
    Pending,
    /// A gate refused it; nothing was done. Terminal.
    ConstraintFailed,
    /// Its steps are being done.
    Running,
    /// All steps are done. Terminal.
    Succeeded,
    /// It ended without its goal. Terminal.
    Failed,
    /// Its steps are being undone.
    Recovering,
    /// Its steps were undone, or a later operation turned it back. Terminal.
    RolledBack,
    /// It was cancelled before it did anything, or undone on request. Terminal.
    Cancelled,
    /// Its outcome cannot be proven; a person says `Resume` or `Abandon`.
    Unknown,
}

impl OperationPhase {
    /// The word as it stands in YAML, events and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::ConstraintFailed => "ConstraintFailed",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Recovering => "Recovering",
            Self::RolledBack => "RolledBack",
            Self::Cancelled => "Cancelled",
            Self::Unknown => "Unknown",
        }
    }

    /// Nothing more will be done. `Unknown` is not terminal: it keeps the lock and waits for a person.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Recovering | Self::Unknown => false,
            Self::ConstraintFailed | Self::Succeeded | Self::Failed | Self::RolledBack | Self::Cancelled => true,
        }
    }
}

/// Whether steps are being done or undone. `Unwinding` never turns back.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Direction {
    /// Steps are being done.
    #[default]
    Forward,
    /// Completed steps are being undone in reverse order.
    Unwinding,
}

/// A plan as it was frozen when the operation started.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Its steps.
    pub steps: Vec<StepSpec>,
    /// The lock it needs; none for a child operation, which runs under its parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockPlan>,
    /// The step with which the way back closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_of_no_return: Option<String>,
    /// What a person does when it fails past that point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_recovery: Option<String>,
    /// How often a `Retry` request may reset the failed steps; never when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i32>,
}

/// The lock that a plan needs.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockPlan {
    /// What the lock is for.
    pub operation: LockOperation,
    /// A name that survives restarts: `openbaocluster/backup`, `openbaorestore/<name>`, …
    pub holder: String,
    /// The UID of the object that does the work.
    pub holder_uid: String,
    /// The step before which the lock is taken; before the first one when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Take the lock over from a backup or an upgrade that has not passed its point of no return.
    #[serde(default, skip_serializing_if = "is_default")]
    pub force: bool,
    /// What the lock's message says while it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The lock under which an operation runs, as its journal remembers it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockRecord {
    /// The counter that was raised when it was taken.
    pub fence: i64,
    /// When it was taken.
    pub acquired_at: DateTime<Utc>,
    /// When it was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<DateTime<Utc>>,
    /// When it was found in other hands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<DateTime<Utc>>,
    /// The lock that was taken over, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

/// The journal of one step.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Its name in the plan.
    pub name: String,
    /// Where it stands.
    #[serde(default)]
    pub state: StepState,
    /// How often it was started, counting this time.
    #[serde(default)]
    pub attempt: i32,
    /// Not before this moment is it tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When the present attempt began; its deadline counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it was completed, skipped or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<DateTime<Utc>>,
    /// What it found out; small, never a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub output: BTreeMap<String, String>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Since when it is parked: everything up to it is done, and a person or a rollout says `Resume`. The cluster's lock
    /// shows `mode: Parked` meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_at: Option<DateTime<Utc>>,
    /// Who said `Resume` while it was parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_by: Option<String>,
    /// Written before the effect of a `OnceOnly` step. Its presence forbids running the step again unless it is proven
    /// not to have been applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// Who asked for it to be skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_by: Option<String>,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StepState {
    /// Not started.
    #[default]
    Pending,
    /// Started.
    Running,
    /// Done.
    Completed,
    /// Given up.
    Failed,
    /// Left out on request.
    Skipped,
    /// Being undone.
    Compensating,
    /// Undone.
    Compensated,
    /// Its undoing was given up.
    CompensationFailed,
}

impl StepState {
    /// The word as it stands in YAML, events and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Compensating => "compensating",
            Self::Compensated => "compensated",
            Self::CompensationFailed => "compensationFailed",
        }
    }
}

/// Written right before the effect of a `OnceOnly` step.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The pod that was told to act, where one is known.
    #[serde(default, rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The lock's counter at that moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<i64>,
    /// When it was written.
    pub at: DateTime<Utc>,
}

/// Who could be shown to have created an operation.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedActor {
    /// The field manager that created the object. It names a program, not a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// The object that owns it, as `kind/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// The cluster before and after an operation. State, never secrets; bounded.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Snapshots {
    /// As it was before the first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre: Option<ClusterSnapshot>,
    /// As it was after the last one; absent when the operation failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post: Option<ClusterSnapshot>,
}

/// The state of a cluster at one moment.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSnapshot {
    /// When it was taken.
    pub at: DateTime<Utc>,
    /// `metadata.generation` of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// SHA-256 of the cluster's spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
    /// The cluster's own phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The version it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The pod that leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// How it is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal_type: Option<String>,
    /// The key that it is sealed with, by name, where the spec names one.
    #[serde(default, rename = "sealKeyID", skip_serializing_if = "Option::is_none")]
    pub seal_key_id: Option<String>,
    /// Its pods, at most 16 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodSnapshot>,
    /// The key of its newest backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<String>,
}

/// One pod at one moment.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSnapshot {
    /// Its name.
    pub name: String,
    /// Its image, by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Whether it was ready.
    pub ready: bool,
    /// What the cluster's status said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The version that its server said it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it voted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voter: Option<bool>,
}

/// What an operation produced.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifacts {
    /// The snapshot's key in its store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_key: Option<String>,
    /// SHA-256 of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
}

/// One transition. The same keys and values stand in the log line and the event's annotations.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct HistoryEntry {
    /// Counts the transitions of this operation from 1.
    #[serde(default)]
    pub seq: i64,
    /// The audit event, for example `SagaStepTransition`.
    pub event: String,
    /// Where it came from.
    pub phase_from: String,
    /// Where it went.
    pub phase_to: String,
    /// When.
    pub at: DateTime<Utc>,
    /// The rest: `step`, `reason`, `message`, `actor`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}
