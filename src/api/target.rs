//! Where backups live: the object store or volume, and how to reach it.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{SecretRef, string_map};
use super::rules;

/// Where backups are written to and restores read from.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = ("self.provider == 'file' ? has(self.file) : !has(self.file)", "provider file needs the block file with a claimName, and no other provider may have it"))]
#[x_kube(validation = ("self.provider == 'file' || has(self.bucket) || (self.provider == 'azure' && has(self.azure) && has(self.azure.container))", "bucket is required for the providers s3, gcs and azure"))]
#[x_kube(validation = ("!has(self.gcs) || self.provider == 'gcs'", "the block gcs needs provider: gcs"))]
#[x_kube(validation = ("!has(self.azure) || self.provider == 'azure'", "the block azure needs provider: azure"))]
#[x_kube(validation = ("!has(self.roleArn) || self.provider == 's3'", "roleArn needs provider: s3; other clouds use workloadIdentity"))]
#[x_kube(validation = ("!has(self.insecureSkipVerify) || !self.insecureSkipVerify || !(has(self.roleArn) || has(self.workloadIdentity))", "insecureSkipVerify with roleArn or workloadIdentity would hand the identity's token to whoever answers: put the store's CA into caCert of the credentials Secret"))]
#[serde(rename_all = "camelCase")]
pub struct BackupTarget {
    /// The kind of store: `s3` (and everything that speaks its protocol), `gcs`, `azure`, or `file` (a volume).
    #[serde(default)]
    pub provider: Provider,
    /// URL of the store, for example `https://minio.storage.svc:9000`. Leave it out for the cloud's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = rules::http_url("endpoint"))]
    pub endpoint: Option<String>,
    /// Bucket (or Azure container) name. Required for every provider but `file`. It must exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub bucket: Option<String>,
    /// Put in front of every object key, without leading or trailing slash: `<pathPrefix>/<namespace>/<cluster>/…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = rules::no_climbing("pathPrefix"))]
    pub path_prefix: Option<String>,
    /// Secret with static credentials. s3: `accessKeyId`, `secretAccessKey`, optional `sessionToken`, `region`, `caCert`;
    /// gcs: `credentials.json`; azure: `accountKey` or `connectionString`. Leave it out for workload identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// s3 only: the region that requests are signed for. Many compatible stores accept any. The Secret's `region` is used
    /// where this is the default.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// s3 only: an AWS role that the Job's service account assumes by web identity. No Secret is needed then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub role_arn: Option<String>,
    /// s3 only: put the bucket into the path instead of the host name. Most self-hosted stores need it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_path_style: bool,
    /// Bytes per part of a multipart upload; at least 5 MiB. The mover keeps `partSize` × `concurrency` bytes in memory, up to
    /// 30 MiB: a larger part is cut to that, and no more are in flight than fit.
    #[serde(default = "default_part_size")]
    #[schemars(range(min = 5_242_880, max = 5_368_709_120_i64))]
    pub part_size: i64,
    /// Parts in flight at once, as far as 30 MiB reach.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 10))]
    pub concurrency: i32,
    /// gcs only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsTarget>,
    /// azure only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureTarget>,
    /// file only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTarget>,
    /// Do not check the store's certificate. For tests; anyone on the path can then read and replace backups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
    /// What the clouds need on the Job to recognise it without a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
}

impl BackupTarget {
    /// Whether the parts in flight would take more bytes together. A volume gets no parts.
    pub fn is_beyond(&self, most: u64) -> bool {
        let (size, n) = (u64::try_from(self.part_size).unwrap_or(0), u64::try_from(self.concurrency).unwrap_or(0));
        self.provider != Provider::File && size.saturating_mul(n) > most
    }
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

fn default_part_size() -> i64 {
    10 * 1024 * 1024
}

fn default_concurrency() -> i32 {
    3
}

/// The kinds of store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Amazon S3 and compatible stores.
    #[default]
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// A directory of a PersistentVolumeClaim.
    File,
}

/// Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcsTarget {
    /// The project that owns the bucket. Nothing needs it: the bucket's name says where backups go.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub project: Option<String>,
}

/// Azure Blob Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureTarget {
    /// Name of the storage account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub storage_account: Option<String>,
    /// The container; wins over `bucket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
}

/// A directory of a volume.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileTarget {
    /// A PersistentVolumeClaim in the same namespace; it must exist. Backup Jobs mount it read-write.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// Directory inside the volume that stands for the bucket. Empty means its root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = rules::no_climbing("file.path"))]
    pub path: String,
}

/// How a cloud recognises the Jobs without a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// Put on the service accounts of backup and restore Jobs, for example `iam.gke.io/gcp-service-account`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<32, 1024>")]
    pub service_account_annotations: BTreeMap<String, String>,
    /// Put on the Jobs' pods, for example `azure.workload.identity/use: "true"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<32, 1024>")]
    pub pod_labels: BTreeMap<String, String>,
}
