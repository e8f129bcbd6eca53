//! What can be told about a snapshot without any key.

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};

/// The result of reading a whole archive that passed every check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// SHA-256 of the archive file, lower-case hex.
    pub sha256: String,
    /// Bytes of the archive file.
    pub size_bytes: u64,
    /// Bytes of the tar stream within it.
    pub expanded_bytes: u64,
    /// Bytes of the state entry: what a server holds after a restore.
    pub state_bytes: u64,
    pub raft_index: u64,
    pub raft_term: u64,
    pub members: Vec<RaftMember>,
    pub seal: SealInfo,
    /// Every version that was ever active on this data, lowest first; the last one decides where it may be restored.
    pub versions_ever_active: Vec<String>,
    pub keys_total: u64,
    /// Number of keys by where they live: `core/`, `sys/`, `logical/<mount uuid>/`, `auth/<mount uuid>/`, and the same
    /// under `namespaces/<uuid>/`. Mount paths are encrypted; the UUIDs are not. Keys beyond the first 2,048
    /// places are counted under `(other)`.
    pub keys_per_mount: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftMember {
    pub id: String,
    pub address: String,
    pub voter: bool,
}

/// The seal under which the data is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealInfo {
    /// As `core/seal-config` names it: `shamir`, `static`, `transit`, `awskms` …
    #[serde(rename = "type")]
    pub kind: String,
    /// The key's id, in the clear in the sealed sums. Absent for shamir.
    #[serde(rename = "keyID", default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Shamir only: how many shares there are, and how many open it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u64>,
}

impl Inspection {
    /// The highest version that was ever active: a server below it would accept the snapshot and never come up.
    pub fn highest_version(&self) -> Option<Version> {
        self.versions_ever_active.iter().filter_map(|version| Version::parse(version).ok()).max()
    }
}
