//! What must hold before an operation starts, and what is done when it fails.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// `maxAge` (a duration such as `24h`) for `Backup` and `Restore`; anything else is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8), inner(length(max = 256)))]
    pub params: BTreeMap<String, String>,
}

/// What a gate asks for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum GateKind {
    /// A verified backup newer than `maxAge`.
    Backup,
    /// A restore test of the cluster has passed, within `maxAge` where that is said.
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
