//! A backup target as an operation freezes it: what the mover needs to know, and what its pod needs to have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::adapter::objectstore::target::{AzureTarget, FileTarget, GcsTarget, InvalidTarget, Provider, Target};
use crate::api::{BackupTarget, Provider as ApiProvider};
use crate::datapath::environment::path;

/// A target, and how a pod gets at it. Frozen into an operation's inputs as JSON; nothing in it is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// What the mover is told.
    pub target: Target,
    /// Secret mounted for the mover; the operator itself never reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<String>,
    /// Claim mounted for a `file` target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// What a cloud wants to see on the pod before it gives it an identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
}

/// Why a target in a spec cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    #[error("target.file is missing: provider file needs the claim that holds the backups (target.file.claimName)")]
    NoClaim,
    #[error("target.file.path \"{0}\" is not a plain path: no empty, \".\" or \"..\" parts")]
    FilePath(String),
    #[error(
        "target.credentialsSecretRef is missing: name a Secret with the {0} credentials, or say by roleArn or \
         workloadIdentity that the Job's own identity is to be used"
    )]
    NoCredentials(Provider),
    #[error("target.partSize {0} is not a size")]
    PartSize(i64),
}

impl Store {
    /// Freezes a target out of a spec, refusing what can be refused without asking anyone.
    pub fn freeze(spec: &BackupTarget) -> Result<Self, StoreError> {
        let provider = match spec.provider {
            ApiProvider::S3 => Provider::S3,
            ApiProvider::Gcs => Provider::Gcs,
            ApiProvider::Azure => Provider::Azure,
            ApiProvider::File => Provider::File,
        };
        let (claim, file) = match (provider, &spec.file) {
            (Provider::File, None) => return Err(StoreError::NoClaim),
            (Provider::File, Some(file)) => {
                let folder = file.path.trim_matches('/');
                if folder.split('/').any(|part| part == "." || part == "..") || folder.contains("//") {
                    return Err(StoreError::FilePath(file.path.clone()));
                }
                let root = if folder.is_empty() { path::STORE.to_owned() } else { format!("{}/{folder}", path::STORE) };
                (Some(file.claim_name.clone()), Some(FileTarget { root }))
            }
            (Provider::S3 | Provider::Gcs | Provider::Azure, _) => (None, None),
        };
        let credentials_secret = spec.credentials_secret_ref.as_ref().map(|reference| reference.name.clone());
        let workload_identity = spec.workload_identity.is_some();
        let needs_secret = provider != Provider::File && !workload_identity && spec.role_arn.is_none();
        if needs_secret && credentials_secret.is_none() {
            return Err(StoreError::NoCredentials(provider));
        }
        let is_file = provider == Provider::File;
        let target = Target {
            provider,
            endpoint: spec.endpoint.clone(),
            bucket: spec.bucket.clone().filter(|_| !is_file),
            path_prefix: spec.path_prefix.clone(),
            region: (provider == Provider::S3).then(|| spec.region.clone()),
            role_arn: spec.role_arn.clone(),
            use_path_style: spec.use_path_style,
            part_size: (!is_file)
                .then(|| u64::try_from(spec.part_size).map_err(|_| StoreError::PartSize(spec.part_size)))
                .transpose()?,
            concurrency: u32::try_from(spec.concurrency).ok().filter(|_| !is_file),
            insecure_skip_verify: spec.insecure_skip_verify,
            ca_bundle: None,
            workload_identity,
            azure: spec.azure.as_ref().filter(|_| provider == Provider::Azure).map(|azure| AzureTarget {
                storage_account: azure.storage_account.clone(),
                container: azure.container.clone(),
            }),
            gcs: spec
                .gcs
                .as_ref()
                .filter(|_| provider == Provider::Gcs)
                .map(|gcs| GcsTarget { project: gcs.project.clone() }),
            file,
        };
        target.validate()?;
        let pod_labels =
            spec.workload_identity.as_ref().map(|identity| identity.pod_labels.clone()).unwrap_or_default();
        Ok(Self { target, credentials_secret: credentials_secret.filter(|_| !is_file), claim, pod_labels })
    }

    /// Whether a cluster's backups lie in the same folder of both, however that is reached.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let place = |store: &Self| {
            let target = &store.target;
            (target.describe(), target.prefix().to_owned(), target.azure.clone(), store.claim.clone())
        };
        place(self) == place(other)
    }

    /// Whether an object of one may be an object of the other, whatever endpoint and prefix they have. Claims of two namespaces may
    /// lie on one share.
    pub fn may_share(&self, other: &Self) -> bool {
        self.target.bucket_or_container() == other.target.bucket_or_container()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(json: serde_json::Value) -> BackupTarget {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_bucket_with_a_secret_keeps_everything_that_the_mover_needs() {
        let store =
            Store::freeze(&spec(json!({"endpoint": "https://kelp.store:9000", "bucket": "tide", "pathPrefix": "deep",
            "usePathStyle": true, "credentialsSecretRef": {"name": "shell"}})))
            .unwrap();
        assert_eq!(store.credentials_secret.as_deref(), Some("shell"));
        assert_eq!((store.target.bucket.as_deref(), store.target.prefix()), (Some("tide"), "deep"));
        assert!(store.target.use_path_style && store.claim.is_none());
        let text = serde_json::to_string(&store).unwrap();
        assert_eq!(serde_json::from_str::<Store>(&text).unwrap(), store);
    }

    #[test]
    fn a_claim_is_mounted_and_its_folder_cannot_leave_it() {
        let file =
            |path: &str| Store::freeze(&spec(json!({"provider": "file", "file": {"claimName": "kelp", "path": path}})));
        let store = file("/prod/").unwrap();
        assert_eq!(store.claim.as_deref(), Some("kelp"));
        assert_eq!(store.target.file.unwrap().root, "/store/prod");
        assert_eq!(file("").unwrap().target.file.unwrap().root, "/store");
        for path in ["../etc", "a/../../b", ".", "a//b"] {
            assert!(matches!(file(path), Err(StoreError::FilePath(_))), "{path}");
        }
        assert_eq!(Store::freeze(&spec(json!({"provider": "file"}))), Err(StoreError::NoClaim));
    }

    #[test]
    fn credentials_are_named_or_an_identity_is_asked_for_and_nothing_is_assumed() {
        let none = Store::freeze(&spec(json!({"provider": "gcs", "bucket": "tide"})));
        assert_eq!(none, Err(StoreError::NoCredentials(Provider::Gcs)));
        let role = Store::freeze(&spec(json!({"bucket": "tide", "roleArn": "arn:aws:iam::1:role/x"})));
        assert!(role.unwrap().target.wants_workload_identity());
        let identity = spec(json!({"provider": "azure", "bucket": "tide",
            "workloadIdentity": {"podLabels": {"azure.workload.identity/use": "true"}}}));
        assert_eq!(Store::freeze(&identity).unwrap().pod_labels["azure.workload.identity/use"], "true");
    }

    #[test]
    fn bad_input_is_refused_before_anything_starts() {
        let with = |mut json: serde_json::Value| {
            json["credentialsSecretRef"] = json!({"name": "shell"});
            Store::freeze(&spec(json)).unwrap_err().to_string()
        };
        assert!(with(json!({"bucket": "with space"})).contains("with space"));
        assert!(with(json!({"bucket": "tide", "endpoint": "minio:9000"})).contains("https://minio:9000"));
        assert!(with(json!({"bucket": "tide", "pathPrefix": "a/../b"})).contains("a/../b"));
        assert!(with(json!({})).contains("bucket"));
    }
}
