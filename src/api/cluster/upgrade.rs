//! How upgrades are done.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{SecretRef, yes};
use crate::api::rules;

/// How upgrades are done.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeSpec {
    /// `RollingUpdate` (default): standbys one by one, the leader last. `BlueGreen`: a second set of servers joins, takes over,
    /// and the first leaves.
    #[serde(default)]
    pub strategy: UpgradeStrategy,
    /// Bring the standbys to the new version, then wait for a `Resume` request before leadership moves: for fourteen days, then the
    /// upgrade turns back. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub defer_cutover: bool,
    /// Take a verified backup first. Default true; without a backup target an upgrade is refused until there is one or
    /// this is false.
    #[serde(default = "yes")]
    pub pre_upgrade_snapshot: bool,
    /// How long the cluster must stay healthy on the new version before the upgrade counts as done, without a break and at
    /// most `29d`. Default `30s`.
    #[serde(default = "default_soak")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::duration("upgrade.soak"))]
    pub soak: String,
    /// Accepted for manifests of the Go operator; this operator upgrades without helper Jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Accepted for manifests of the Go operator; the operator logs in with its own role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub jwt_auth_role: Option<String>,
    /// Accepted for manifests of the Go operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretRef>,
    /// Settings of `BlueGreen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<BlueGreenSpec>,
}

fn default_soak() -> String {
    "30s".to_owned()
}

impl Default for UpgradeSpec {
    fn default() -> Self {
        Self {
            strategy: UpgradeStrategy::default(),
            defer_cutover: false,
            pre_upgrade_snapshot: true,
            soak: default_soak(),
            image: None,
            jwt_auth_role: None,
            token_secret_ref: None,
            blue_green: None,
        }
    }
}

/// The two ways to upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeStrategy {
    /// Standbys one by one, the leader last.
    #[default]
    RollingUpdate,
    /// A second set of servers joins, takes over, and the first leaves.
    BlueGreen,
}

/// Settings of `BlueGreen`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlueGreenSpec {
    /// Promote the new servers as soon as they are in sync. Default true.
    #[serde(default = "yes")]
    pub auto_promote: bool,
    /// Failed Jobs before it is given up. Default 5.
    #[serde(default = "default_max_job_failures")]
    #[schemars(range(min = 1, max = 100))]
    pub max_job_failures: i32,
    /// Take a verified backup first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_upgrade_snapshot: Option<bool>,
    /// When to go back by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<AutoRollback>,
    /// What must hold before promotion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<BlueGreenVerification>,
}

fn default_max_job_failures() -> i32 {
    5
}

impl Default for BlueGreenSpec {
    fn default() -> Self {
        Self {
            auto_promote: true,
            max_job_failures: default_max_job_failures(),
            pre_upgrade_snapshot: None,
            auto_rollback: None,
            verification: None,
        }
    }
}

/// When to go back by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoRollback {
    /// At all. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// When Jobs fail too often. Default true.
    #[serde(default = "yes")]
    pub on_job_failure: bool,
    /// When the validation hook says no. Default true.
    #[serde(default = "yes")]
    pub on_validation_failure: bool,
}

impl Default for AutoRollback {
    fn default() -> Self {
        Self { enabled: true, on_job_failure: true, on_validation_failure: true }
    }
}

/// What must hold before promotion.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlueGreenVerification {
    /// How long the new servers must have been in sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::duration("minSyncDuration"))]
    pub min_sync_duration: Option<String>,
    /// A container of yours that must end with success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_promotion_hook: Option<PrePromotionHook>,
}

/// A container of yours that must end with success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrePromotionHook {
    /// Its image.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Its command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub args: Vec<String>,
    /// Seconds it may take. Default 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<i32>,
}
