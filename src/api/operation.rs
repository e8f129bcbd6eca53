//! `OpenBaoOperation`: one thing that happened, or is happening, to a cluster.
//!
//! The spec says who asked for what and why, and never changes but for `requests`. The status is the journal of the
//! saga engine (`service::opslifecycle`), its only writer: the frozen plan, the state of each step, the history, the
//! lineage. A finished operation is the audit record.

mod gates;
mod plan;
mod snapshot;
mod status;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::Request;
pub use gates::*;
pub use plan::*;
pub use snapshot::*;
pub use status::*;

/// The finalizer of every operation that has not ended: its clean-up stops Jobs and gives the lock back, and creates nothing.
pub const OPERATION_FINALIZER: &str = "openbao.org/operation";

/// Set by the engine on an operation whose lock a forced one takes over; the value is `<operation>/<UID>` of that one.
/// The operation stops its Jobs and ends as `LockLost` before the lock changes hands.
pub const OVERRIDDEN_BY_ANNOTATION: &str = "openbao.org/lock-overridden-by";

/// Any value but `false` keeps a record from being pruned, and the backup that it is about from retention.
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
    /// What the operation touches. It can only be left out, or name the cluster itself: less than the whole cluster is refused.
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
    /// What the kind of operation needs to know, for example an upgrade's `version`, or the `key` of the backup that a restore test
    /// restores; what the kind does not know is refused. Frozen like the rest of the spec.
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

impl OpenBaoOperation {
    /// Its phase; one that nobody has looked at yet is pending.
    pub fn phase(&self) -> OperationPhase {
        self.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }

    /// Whether it has come to its end, whatever that is.
    pub fn has_ended(&self) -> bool {
        self.phase().is_terminal()
    }

    /// Whether it asks for the same work as another one. Its creator writes the owner references too, so they prove nothing of what it
    /// does; the spec, which never changes, does. Who asked, and why, is for people to read.
    pub fn does_the_work_of(&self, other: &Self) -> bool {
        let (spec, other) = (&self.spec, &other.spec);
        spec.operation == other.operation
            && spec.cluster == other.cluster
            && spec.parameters == other.parameters
            && spec.lineage.clone().unwrap_or_default() == other.lineage.clone().unwrap_or_default()
    }

    /// Whether it works under a lock that is held for this UID: its own, or that of the restore whose lock its frozen plan takes.
    pub fn works_under(&self, holder_uid: &str) -> bool {
        let planned = self.status.as_ref().and_then(|status| status.plan.as_ref()?.lock.as_ref());
        self.metadata.uid.as_deref() == Some(holder_uid) || planned.is_some_and(|lock| lock.holder_uid == holder_uid)
    }

    /// Whether a person wants this record kept, and the backup that it is about.
    pub fn is_pinned(&self) -> bool {
        let pin = self.metadata.annotations.as_ref().and_then(|annotations| annotations.get(PINNED_ANNOTATION));
        pin.is_some_and(|value| value != "false")
    }
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
    /// A backup is restored into a server of its own, which goes again, and checked. The cluster itself is neither touched nor locked.
    /// `parameters.key` names the backup by its whole key; without it, it is the newest of the cluster.
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

/// What an operation can touch. Only `Cluster` is supported so far.
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

impl TargetKind {
    /// The word as it stands in YAML, events and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Volume => "Volume",
            Self::Object => "Object",
            Self::Cluster => "Cluster",
        }
    }
}

/// The operations that one follows from.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    /// The operation it continues; by default the newest successful one of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub parent_operation: Option<String>,
    /// The operation it turns back: a `Rollback` names an `Upgrade`, a `Workflow` another `Workflow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub rollback_of: Option<String>,
}
