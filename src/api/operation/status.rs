//! The journal of an operation, written by the saga engine only.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Artifacts, Plan, Snapshots};
use crate::api::common::HandledRequest;

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
    // Boxed: of a record that is only remembered it is left out, and takes no room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Box<Snapshots>>,
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
    /// Who said `Resume`: while it was parked, or while the outcome of this attempt at a `OnceOnly` step was unknown.
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
    /// It was applied rather than created: whoever did so makes it again when it is gone. Such a record is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub applied: bool,
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
