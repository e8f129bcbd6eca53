//! The inputs of a backup as they are frozen when it starts. Later changes of the cluster's spec belong to the next one.
//! Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::LocalObjectReference;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::jobs::{Login, Source};
use super::store::{Store, StoreError};
use crate::adapter::objectstore::keys;
use crate::api::{BackupSpec, OpenBaoCluster, Retention, SealType};
use crate::service::cluster::config::seal;
use crate::service::cluster::{login, names, validate};
use chrono::{DateTime, Utc};
use kube::ResourceExt;

const STORE: &str = "store";
const LOGIN: &str = "login";
const SEAL: &str = "seal";
const RETENTION: &str = "retention";
const PULL: &str = "imagePullSecrets";
const IMAGE: &str = "image";
const ACCOUNT: &str = "serviceAccount";
/// Input: UID of the cluster that is backed up.
pub const CLUSTER_UID: &str = "clusterUID";
/// Input: key of the object that is made.
pub const KEY: &str = "key";
const SOURCE: &str = "source";
const EXPECTED: &str = "expectedSize";
const SPOOL: &str = "spoolLimit";

/// What all steps of a backup work with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frozen {
    pub store: Store,
    pub login: Login,
    pub seal: Seal,
    pub retention: Option<Retention>,
    pub image: String,
    pub image_pull_secrets: Vec<LocalObjectReference>,
    pub service_account: String,
    pub cluster_uid: String,
    /// Key of the object that is made; empty for a verification.
    pub key: String,
    /// What a verification was asked to read; the newest is chosen when it is read.
    pub source: Option<Source>,
    /// Bytes of the backup before.
    pub expected_size: Option<u64>,
    /// Most bytes that the spool may take on the node's disk.
    pub spool_limit: Option<u64>,
}

/// How the seal of a backup is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    /// As the spec names it.
    pub kind: String,
    /// A static key's id. Which Secret the key is in, the servers tell when it is asked for: see [`super::key`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
}

/// Inputs of a journal that cannot be read: written by another version, or by hand.
#[derive(Debug, thiserror::Error)]
#[error("the frozen input \"{key}\" of this operation is missing or not readable")]
pub struct Unreadable {
    pub key: &'static str,
    #[source]
    pub source: Option<serde_json::Error>,
}

/// A cluster in which a backup Job could not log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "backup Jobs have no way to log in to OpenBao: enable spec.selfInit with oidc, or name a role in spec.backup.jwtAuthRole \
     or a Secret in spec.backup.tokenSecretRef"
)]
pub struct NoIdentity;

/// Whether a backup Job has an identity in OpenBao: one that self-init sets up, or one that a person named.
pub fn identity(cluster: &OpenBaoCluster, spec: &BackupSpec) -> Result<(), NoIdentity> {
    let named = spec.jwt_auth_role.is_some() || spec.token_secret_ref.is_some();
    let init = cluster.spec.self_init.as_ref().filter(|init| init.enabled);
    let set_up = init.is_some_and(|init| init.oidc.as_ref().is_some_and(|oidc| oidc.enabled));
    (named || set_up).then_some(()).ok_or(NoIdentity)
}

impl Frozen {
    /// Takes what a backup needs out of the cluster's spec.
    pub fn of(
        cluster: &OpenBaoCluster,
        spec: &BackupSpec,
        operator_image: &str,
        operation_uid: &str,
        now: DateTime<Utc>,
    ) -> Result<Self, StoreError> {
        let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
        let store = Store::freeze(&spec.target)?;
        let key = keys::snapshot_key(store.target.prefix(), &namespace, &name, now, operation_uid);
        let last = cluster.status.as_ref().and_then(|status| status.backup.as_ref()?.last_size_bytes);
        let last = last.and_then(|size| u64::try_from(size).ok());
        Ok(Self {
            store,
            login: Login {
                mount: names::JWT_MOUNT.to_owned(),
                role: spec.jwt_auth_role.clone().unwrap_or_else(|| names::BACKUP_ROLE.to_owned()),
                audience: login::jobs_audience(cluster),
                ca_config_map: cluster.spec.tls.enabled.then(|| names::ca_config_map(&name)),
                token_secret: spec.token_secret_ref.as_ref().map(|secret| secret.name.clone()),
            },
            seal: Seal::of(cluster),
            retention: spec.retention.clone(),
            image: spec.job_image().unwrap_or(operator_image).to_owned(),
            image_pull_secrets: cluster.spec.image_pull_secrets.clone(),
            service_account: names::backup_service_account(&name),
            cluster_uid: cluster.uid().unwrap_or_default(),
            key,
            source: None,
            expected_size: last,
            spool_limit: spool_limit(cluster, last),
        })
    }

    /// As they stand in the journal.
    pub fn inputs(&self) -> Result<BTreeMap<String, String>, serde_json::Error> {
        let mut inputs = BTreeMap::from([
            (STORE.to_owned(), serde_json::to_string(&self.store)?),
            (LOGIN.to_owned(), serde_json::to_string(&self.login)?),
            (SEAL.to_owned(), serde_json::to_string(&self.seal)?),
            (IMAGE.to_owned(), self.image.clone()),
            (ACCOUNT.to_owned(), self.service_account.clone()),
            (CLUSTER_UID.to_owned(), self.cluster_uid.clone()),
            (KEY.to_owned(), self.key.clone()),
        ]);
        if let Some(retention) = &self.retention {
            inputs.insert(RETENTION.to_owned(), serde_json::to_string(retention)?);
        }
        if !self.image_pull_secrets.is_empty() {
            inputs.insert(PULL.to_owned(), serde_json::to_string(&self.image_pull_secrets)?);
        }
        if let Some(source) = &self.source {
            inputs.insert(SOURCE.to_owned(), serde_json::to_string(source)?);
        }
        if let Some(size) = self.expected_size {
            inputs.insert(EXPECTED.to_owned(), size.to_string());
        }
        if let Some(limit) = self.spool_limit {
            inputs.insert(SPOOL.to_owned(), limit.to_string());
        }
        Ok(inputs)
    }

    /// Reads them back.
    pub fn read(inputs: &BTreeMap<String, String>) -> Result<Self, Unreadable> {
        let text = |key: &'static str| inputs.get(key).cloned().ok_or(Unreadable { key, source: None });
        Ok(Self {
            store: needed(inputs, STORE)?,
            login: needed(inputs, LOGIN)?,
            seal: needed(inputs, SEAL)?,
            retention: optional(inputs, RETENTION)?,
            image: text(IMAGE)?,
            image_pull_secrets: optional(inputs, PULL)?.unwrap_or_default(),
            service_account: text(ACCOUNT)?,
            cluster_uid: text(CLUSTER_UID)?,
            key: text(KEY)?,
            source: optional(inputs, SOURCE)?,
            expected_size: optional(inputs, EXPECTED)?,
            spool_limit: optional(inputs, SPOOL)?,
        })
    }
}

/// A snapshot is what lies in the data volume, so one that is much larger is none, and must not fill the node's disk.
/// Twice, because some provisioners enforce no size; and never less than twice what the last one needed.
fn spool_limit(cluster: &OpenBaoCluster, last: Option<u64>) -> Option<u64> {
    Some(validate::bytes(&cluster.spec.storage.size)?.max(last.unwrap_or(0)).saturating_mul(2))
}

impl Seal {
    fn of(cluster: &OpenBaoCluster) -> Self {
        let unseal = &cluster.spec.unseal;
        let is_static = unseal.type_ == SealType::Static;
        let key_id = is_static.then(|| seal::static_key_id(unseal).to_owned());
        Self { kind: unseal.type_.as_str().to_owned(), key_id }
    }
}

fn optional<T: DeserializeOwned>(
    inputs: &BTreeMap<String, String>,
    key: &'static str,
) -> Result<Option<T>, Unreadable> {
    let read = |text: &String| serde_json::from_str(text).map_err(|source| Unreadable { key, source: Some(source) });
    inputs.get(key).map(read).transpose()
}

fn needed<T: DeserializeOwned>(inputs: &BTreeMap<String, String>, key: &'static str) -> Result<T, Unreadable> {
    optional(inputs, key)?.ok_or(Unreadable { key, source: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(spec: serde_json::Value) -> OpenBaoCluster {
        let mut whole = json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster",
            "metadata": {"name": "kelp", "namespace": "reef", "uid": "c1"},
            "spec": {"version": "2.7.2", "storage": {"size": "1Gi"}, "backup": {
                "target": {"provider": "file", "file": {"claimName": "sand"}, "pathPrefix": "deep"},
                "retention": {"keepLast": 3}}},
            "status": {"backup": {"lastSizeBytes": 99}},
        });
        for (key, value) in spec.as_object().unwrap() {
            whole["spec"][key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn freeze(spec: serde_json::Value) -> Frozen {
        let cluster = cluster(spec);
        let backup = cluster.spec.backup.clone().unwrap();
        Frozen::of(&cluster, &backup, "own:1", "0f0f0f0f-22", "2026-11-21T03:00:00Z".parse().unwrap()).unwrap()
    }

    #[test]
    fn what_was_frozen_reads_back_the_same() {
        let mut frozen = freeze(json!({"imagePullSecrets": [{"name": "pull"}]}));
        frozen.source = Some(Source::Latest);
        assert_eq!(Frozen::read(&frozen.inputs().unwrap()).unwrap(), frozen);
        assert_eq!(frozen.key, "deep/reef/kelp/2026-11-21T03-00-00Z-0f0f0f0f.snap");
        assert_eq!((frozen.expected_size, frozen.image.as_str()), (Some(99), "own:1"));
        assert_eq!(frozen.spool_limit, Some(2 << 30), "twice the data volume");
    }

    #[test]
    fn a_journal_that_lost_an_input_is_not_guessed_at() {
        let mut inputs = freeze(json!({})).inputs().unwrap();
        inputs.insert("login".into(), "{".into());
        assert_eq!(Frozen::read(&inputs).unwrap_err().key, "login");
        inputs.remove("store");
        assert_eq!(Frozen::read(&inputs).unwrap_err().key, "store");
    }

    #[test]
    fn a_seal_is_frozen_by_its_kind_and_key_id_and_not_by_a_secret_that_may_not_be_the_servers() {
        assert_eq!(freeze(json!({})).seal.key_id.as_deref(), Some("operator-generated-v1"));
        let named = freeze(json!({"unseal": {"static": {"currentKeyID": "k9"}}})).seal;
        assert_eq!(named.key_id.as_deref(), Some("k9"));
        let transit = freeze(json!({"unseal": {"type": "transit"}})).seal;
        assert_eq!((transit.kind.as_str(), transit.key_id), ("transit", None));
        let mut inputs = freeze(json!({})).inputs().unwrap();
        let earlier = json!({"kind": "static", "keyId": "k9", "secret": "kelp-unseal-key"}).to_string();
        inputs.insert("seal".into(), earlier);
        assert_eq!(Frozen::read(&inputs).unwrap().seal, named, "an earlier release froze one");
    }

    #[test]
    fn the_job_logs_in_with_the_clusters_own_audience_and_trusts_its_own_authority() {
        let login = freeze(json!({})).login;
        assert_eq!((login.audience.as_str(), login.ca_config_map.as_deref()), ("openbao:reef/kelp", Some("kelp-ca")));
        assert_eq!(freeze(json!({"tls": {"enabled": false}})).login.ca_config_map, None);
    }
}
