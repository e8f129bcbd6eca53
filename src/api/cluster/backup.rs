//! Scheduled backups: when, where to, and how long they are kept.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OpenBaoClusterSpec;
use crate::api::common::{SecretRef, is_default};
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
    /// Proving that backups come back: the newest one is restored into a server of its own, which goes again. The cluster itself is
    /// not touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_test: Option<RestoreTestSpec>,
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

/// Restore tests. The newest backup is restored into an empty OpenBao with the cluster's own seal, in a pod that goes afterwards with
/// its volume. The test passes if that server opens the data and leads, if the data is of the cluster that was backed up, if the test
/// can log in, if no mount has fewer keys than the backup, and if every canary can be read. The cluster itself is neither touched nor
/// locked.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreTestSpec {
    /// When the newest backup is tested, five-field cron in the backup's time zone, for example `0 6 * * 0`. Without it tests run on
    /// demand only, by an `OpenBaoOperation` with `operation: RestoreTest`. Missed ticks count as one, and `backup.suspend` stops this
    /// schedule too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 128))]
    #[x_kube(validation = rules::cron("backup.restoreTest.schedule"))]
    pub schedule: Option<String>,
    /// The OpenBao role (mount `jwt`) that the test logs in with at the restored server. Default: the role of backups. It has to exist
    /// when the backup is taken, bound to the service account `<cluster>-backup`; its policy needs `read` on `sys/storage/raft/snapshot`
    /// and on every canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub jwt_auth_role: Option<String>,
    /// API paths that have to be there and not empty in the restored server, for example `secret/data/canary`. What stands there is
    /// neither logged nor kept. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = api_paths())]
    pub canaries: Vec<String>,
    /// What the restored server may reach: `Isolated` or `Open`. Default `Isolated`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: TestNetwork,
    /// The volume of a test. Default: as large as one of the servers', of the same class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<TestStorage>,
    /// Requests and limits of the restored server. Default: those of the servers, `pod.resources`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How long a test may take, for example `30m`; one that takes longer has failed. Default `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::duration("backup.restoreTest.timeout"))]
    pub timeout: Option<String>,
}

/// What stands behind `/v1/`, and stays there.
fn api_paths() -> Rule {
    Rule::new(r"self.all(c, c.matches(r'^[^/\s?#][^\s?#]*$') && !c.matches(r'(^|/)\.\.(/|$)'))").message(
        "backup.restoreTest.canaries must be API paths, for example secret/data/canary: no / in front, no .. segment, no spaces, \
         ? or #",
    )
}

/// What a restored server may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TestNetwork {
    /// Nothing. A restored server revokes leases that have run out since the backup, for real, in the databases and clouds that the
    /// cluster works with: so it reaches none. Neither does it reach the key of a seal that is not static: such a test fails with
    /// `SealNeedsNetwork`.
    #[default]
    Isolated,
    /// What its pod may reach, as a seal needs whose key is elsewhere. Leases that have run out since the backup are then revoked
    /// where they were made.
    Open,
}

/// The volume of a restore test. It holds the downloaded backup and the restored data, and goes with the pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TestStorage {
    /// Its size, for example `10Gi`: room for the backup and for its data. Default `storage.size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = ("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))", "backup.restoreTest.storage.size must be a positive quantity, for example 10Gi"))]
    pub size: Option<String>,
    /// Its storage class. Default `storage.storageClassName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
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
