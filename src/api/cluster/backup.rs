//! Scheduled backups: when, where to, and how long they are kept.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OpenBaoClusterSpec;
use crate::api::common::SecretRef;
use crate::api::rules;
use crate::api::target::BackupTarget;

/// Backups of a cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupSpec {
    /// Five-field cron, for example `0 3 * * *`. Without it backups are only taken on demand. Missed ticks count as one;
    /// a changed schedule counts from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 128))]
    #[x_kube(validation = rules::cron("backup.schedule"))]
    pub schedule: Option<String>,
    /// Time zone of the schedule, for example `Europe/Amsterdam`. Default `UTC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::time_zone())]
    pub time_zone: Option<String>,
    /// Each run starts up to this much later, by a fixed amount per cluster, so that many clusters don't start at once.
    /// Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::duration("backup.jitter"))]
    pub jitter: Option<String>,
    /// Stop the schedule. Backups on demand still work. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Where backups go.
    pub target: BackupTarget,
    /// Which backups are kept. Empty removes none, and a rule of 0 is no rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Reading backups back and checking them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifySpec>,
    /// The OpenBao role (mount `jwt`) that backup Jobs log in with. Default `openbao-operator-backup`. A cluster that initialises
    /// itself with `selfInit.oidc` makes the role that is named here by then; one that is named later has to exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub jwt_auth_role: Option<String>,
    /// Secret whose key `token` holds an OpenBao token to use instead of a JWT login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretRef>,
    /// Image of the Jobs; default is the operator's own. A helper image of the Go operator (its name ends in `backup`) knows
    /// nothing of this operator's Jobs and is not used; the condition `Supported` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
}

impl BackupSpec {
    /// The image of the Jobs, where the spec names one that can run them.
    pub fn job_image(&self) -> Option<&str> {
        self.image.as_deref().filter(|image| !is_helper_of_the_go_operator(image))
    }

    /// Whether `image` is set to what cannot run our Jobs.
    pub fn names_a_foreign_helper(&self) -> bool {
        self.image.as_deref().is_some_and(is_helper_of_the_go_operator)
    }
}

/// Manifests of the Go operator name its helper program: `…/openbao-operator-backup:<version>` and the like.
pub(crate) fn is_helper_of_the_go_operator(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    let name = name.split(['@', ':']).next().unwrap_or_default();
    name.ends_with("backup")
}

/// Which backups are kept. A backup stays if any `keep…` rule wants it (one of 0 is no rule); then `maxAge` and `maxCount`
/// cut. The newest, the last verified, pinned ones, sources of live restores and the backup of a still revertible upgrade
/// always stay.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// At most so many. 0 or nothing means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_count: Option<i32>,
    /// None older than this, for example `720h`. `0s` or nothing means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::duration("retention.maxAge"))]
    pub max_age: Option<String>,
    /// The newest so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keep_last: Option<i32>,
    /// The newest of each of so many hours that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keep_hourly: Option<i32>,
    /// The newest of each of so many days that have one. Days, like all of these, are UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keep_daily: Option<i32>,
    /// The newest of each of so many ISO weeks that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keep_weekly: Option<i32>,
    /// The newest of each of so many months that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keep_monthly: Option<i32>,
    /// The newest of each of so many years that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keep_yearly: Option<i32>,
    /// All that are younger than this, for example `72h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::duration("retention.keepWithin"))]
    pub keep_within: Option<String>,
}

/// Reading backups back and checking them.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifySpec {
    /// When the newest backup is read back and checked, five-field cron in the backup's time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 128))]
    #[x_kube(validation = rules::cron("backup.verify.schedule"))]
    pub schedule: Option<String>,
}

/// Access for restores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreAccess {
    /// The OpenBao role (mount `jwt`) that restore Jobs log in with. Default `openbao-operator-restore`. A cluster that initialises
    /// itself with `selfInit.oidc` makes the role that is named here by then; one that is named later has to exist. The same role as
    /// for backups lets both kinds of Job do what the other may: better give each its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub jwt_auth_role: Option<String>,
}

impl OpenBaoClusterSpec {
    /// The role that backup Jobs log in with, where the spec names one.
    pub fn named_backup_role(&self) -> Option<&str> {
        self.backup.as_ref()?.jwt_auth_role.as_deref()
    }

    /// The role that restore Jobs log in with, where the spec names one.
    pub fn named_restore_role(&self) -> Option<&str> {
        self.restore.as_ref()?.jwt_auth_role.as_deref()
    }

    /// The role of both kinds of Job, where the spec names one for both. OpenBao reads the name of a role in lower case.
    pub fn shared_role(&self) -> Option<&str> {
        let restore = self.named_restore_role()?;
        self.named_backup_role().filter(|backup| backup.eq_ignore_ascii_case(restore))
    }
}

#[cfg(test)]
mod tests {
    use super::BackupSpec;

    #[test]
    fn helper_images_of_the_go_operator_are_told_from_images_that_can_run_our_jobs() {
        let of = |image: &str| BackupSpec { image: Some(image.into()), ..BackupSpec::default() };
        for helper in ["ghcr.io/a/openbao-operator-backup:v0.1.0", "openbao-backup", "host:5000/x/backup@sha256:00"] {
            assert!(of(helper).names_a_foreign_helper() && of(helper).job_image().is_none(), "{helper}");
        }
        for ours in ["host:5000/backup/openbao-operator:1.0.0", "openbao-operator@sha256:00"] {
            assert_eq!(of(ours).job_image(), Some(ours));
        }
        assert!(!BackupSpec::default().names_a_foreign_helper());
    }
}
