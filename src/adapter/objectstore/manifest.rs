//! The manifest: `<key>.manifest.json`, written create-only after the snapshot is complete and verified. It is the commit
//! point of a backup (an object without one does not count) and never changes afterwards.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The version this code writes; a higher one is refused, an equal or lower one is read.
pub const MANIFEST_VERSION: u32 = 1;
/// No manifest of ours comes near this; a larger object is not one.
pub const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub version: u32,
    /// Whole key of the snapshot object.
    pub key: String,
    /// SHA-256 of the snapshot object, lower-case hex.
    pub sha256: String,
    pub size_bytes: u64,
    pub taken_at: DateTime<Utc>,
    pub cluster: ManifestCluster,
    pub openbao: ManifestOpenbao,
    pub seal: ManifestSeal,
    pub contents: ManifestContents,
    pub operation: ManifestOperation,
    /// `SHA256SUMS.sealed` of the archive, base64: whoever may read a static key can prove the seal from it.
    pub sealed_sums: String,
    /// `SHA256SUMS` of the archive, base64: what the sealed sums must open to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sums: String,
    #[serde(default)]
    pub auth: ManifestAuth,
    #[serde(default)]
    pub operator_version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestCluster {
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub uid: String,
    #[serde(default, rename = "openbaoClusterID")]
    pub openbao_cluster_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestOpenbao {
    #[serde(default)]
    pub versions_ever_active: Vec<String>,
    #[serde(default)]
    pub raft_index: u64,
    #[serde(default)]
    pub raft_term: u64,
    /// Raft ids of the members when the snapshot was taken.
    #[serde(default)]
    pub members: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestSeal {
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default, rename = "keyID", skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// HMAC of a constant under a static key: tells two keys of one id apart, and reveals neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fingerprint: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestContents {
    /// Number of stored keys per mount, by the mount's UUID (its path is encrypted): `logical/<uuid>/`, `auth/<uuid>/`.
    #[serde(default)]
    pub keys_per_mount: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestOperation {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub uid: String,
    #[serde(default)]
    pub intent: String,
    #[serde(default)]
    pub actor: String,
    /// What it was taken for, if not for itself: `Safety` or `PreUpgrade`. The record of the operation may be gone when
    /// retention asks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestAuth {
    #[serde(default)]
    pub mount: String,
    #[serde(default)]
    pub audience: String,
}

/// Why bytes under a manifest's key are not a manifest for that backup.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is {0} bytes long: it is not one of ours (at most 4 MiB)")]
    TooLarge(u64),
    #[error("the manifest is not readable")]
    Json(#[source] serde_json::Error),
    #[error("the manifest has version {0}, this program reads up to {MANIFEST_VERSION}: use a newer operator")]
    Version(u32),
    #[error("the manifest belongs to \"{found}\", not to \"{expected}\": it was moved or copied")]
    OtherKey { expected: String, found: String },
    #[error("the manifest's sha256 \"{0}\" is not 64 lower-case hex digits")]
    Digest(String),
    #[error("the manifest says that the snapshot has no bytes")]
    Empty,
}

impl Manifest {
    /// Reads and checks a manifest that was found beside `key`.
    pub fn parse(key: &str, bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(bytes.len() as u64));
        }
        // The version first: a newer one may lack what this one demands.
        let head: Head = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if head.version == 0 || head.version > MANIFEST_VERSION {
            return Err(ManifestError::Version(head.version));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if manifest.key != key {
            return Err(ManifestError::OtherKey { expected: key.to_owned(), found: manifest.key });
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if manifest.sha256.len() != 64 || !manifest.sha256.bytes().all(hex) {
            return Err(ManifestError::Digest(manifest.sha256));
        }
        if manifest.size_bytes == 0 {
            return Err(ManifestError::Empty);
        }
        Ok(manifest)
    }

    /// The bytes that are stored. Indented: people read manifests when everything else is gone.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        serde_json::to_vec_pretty(self).map_err(ManifestError::Json)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Manifest {
        Manifest {
            version: 1,
            key: "p/ns/c/x.snap".into(),
            sha256: "0".repeat(64),
            size_bytes: 7,
            taken_at: "2026-11-21T03:00:00Z".parse().unwrap(),
            cluster: ManifestCluster { openbao_cluster_id: "abc".into(), ..Default::default() },
            openbao: ManifestOpenbao::default(),
            seal: ManifestSeal { kind: "static".into(), key_id: Some("k1".into()), key_fingerprint: None },
            contents: ManifestContents::default(),
            operation: ManifestOperation::default(),
            sealed_sums: "AA==".into(),
            sums: String::new(),
            auth: ManifestAuth::default(),
            operator_version: "0.1.0".into(),
        }
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let bytes = sample().to_bytes().unwrap();
        assert_eq!(Manifest::parse("p/ns/c/x.snap", &bytes).unwrap(), sample());
        let text = String::from_utf8(bytes).unwrap();
        for field in
            ["\"openbaoClusterID\"", "\"keyID\"", "\"sizeBytes\"", "\"versionsEverActive\"", "\"type\": \"static\""]
        {
            assert!(text.contains(field), "{field} in {text}");
        }
    }

    #[test]
    fn a_manifest_of_another_key_or_a_newer_version_is_refused() {
        let bytes = sample().to_bytes().unwrap();
        assert!(matches!(Manifest::parse("p/ns/c/y.snap", &bytes), Err(ManifestError::OtherKey { .. })));
        assert!(matches!(Manifest::parse("x", br#"{"version":2,"new":"shape"}"#), Err(ManifestError::Version(2))));
        let short = Manifest { sha256: "ab".into(), ..sample() }.to_bytes().unwrap();
        assert!(matches!(Manifest::parse("p/ns/c/x.snap", &short), Err(ManifestError::Digest(_))));
        let empty = Manifest { size_bytes: 0, ..sample() }.to_bytes().unwrap();
        assert!(matches!(Manifest::parse("p/ns/c/x.snap", &empty), Err(ManifestError::Empty)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_break_the_manifest_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Manifest::parse("k", &bytes).is_err());
        }

        #[test]
        fn a_cut_manifest_is_never_accepted(cut in 0usize..10_000) {
            let bytes = sample().to_bytes().unwrap();
            let cut = cut % bytes.len();
            prop_assert!(Manifest::parse("p/ns/c/x.snap", &bytes[..cut]).is_err());
        }
    }
}
