//! Plans: the steps of an operation, as a person writes them and as they are frozen.

use std::collections::BTreeMap;

use kube::{KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{cluster::status::LockOperation, common::is_default, duration};

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
    /// The step that undoes it. That step is never run forward, and cannot be of kind `OnceOnly`: undoing is tried again.
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
    /// Its effect happens at most once: a receipt is written before it, and after it the outcome is proven, never repeated. In a
    /// workflow not for `HTTPGet` and `Annotate`, of which nothing can be proven.
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
