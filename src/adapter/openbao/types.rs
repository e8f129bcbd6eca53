//! What OpenBao answers, as far as we read it. Unknown fields are ignored: newer servers add some.

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// A client token. Never printed.
#[derive(Clone)]
pub struct Token(pub(super) SecretString);

impl Token {
    /// Takes a token that came from a Secret or a login.
    pub fn new(token: impl Into<String>) -> Self {
        Self(SecretString::from(token.into()))
    }

    /// Whether it is this very token.
    pub fn is(&self, other: &Self) -> bool {
        use secrecy::ExposeSecret;
        self.0.expose_secret() == other.0.expose_secret()
    }

    /// Whether the server keeps it among its data. A batch token is not stored and outlives the data.
    pub fn is_stored(&self) -> bool {
        use secrecy::ExposeSecret;
        let text = self.0.expose_secret();
        text.starts_with("s.") || text.starts_with("hvs.")
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// What `sys/health` said, by status code: 200 active, 429 standby, 501 uninitialised, 503 sealed or joining. OpenBao has
/// none of Vault's 472 and 473; a leader in the middle of a restore still says 200, and 500 for a moment afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Unsealed and holding the HA lock.
    Active,
    /// Unsealed, following.
    Standby,
    /// Sealed, or initialised elsewhere and still joining.
    Sealed,
    /// Storage is empty: no data, not joined.
    Uninitialized,
    /// Any other answer.
    Troubled,
}

/// One server's word about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// By status code.
    pub state: HealthState,
    /// Whether its storage holds a cluster.
    pub initialized: bool,
    /// Whether it is sealed.
    pub sealed: bool,
    /// The running binary, `2.7.2`.
    pub version: String,
    /// The id of the OpenBao cluster in its storage; absent while sealed.
    pub cluster_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct HealthBody {
    #[serde(default)]
    pub initialized: bool,
    #[serde(default)]
    pub sealed: bool,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub cluster_id: Option<String>,
}

/// `sys/leader`: whom this server follows. 2.6 leaves `is_self` out when it is false.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct LeaderView {
    /// This server holds the lock.
    #[serde(default)]
    pub is_self: bool,
    /// The leader's API address; empty when none is known.
    #[serde(default)]
    pub leader_address: String,
    /// Raft index committed as this server knows it.
    #[serde(default)]
    pub raft_committed_index: u64,
    /// Raft index applied to this server's storage.
    #[serde(default)]
    pub raft_applied_index: u64,
}

/// `sys/storage/raft/configuration`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RaftConfiguration {
    /// Members, voters and others.
    pub servers: Vec<RaftServer>,
}

/// One raft member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RaftServer {
    /// The configured node id: the pod's name.
    pub node_id: String,
    /// Cluster address.
    #[serde(default)]
    pub address: String,
    /// Whether raft regards it as the leader.
    #[serde(default)]
    pub leader: bool,
    /// Whether its vote counts. Joiners vote only after autopilot's stabilisation (10 to 20 s).
    #[serde(default)]
    pub voter: bool,
}

/// `sys/storage/raft/autopilot/state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AutopilotState {
    /// Every member is healthy.
    #[serde(default)]
    pub healthy: bool,
    /// How many voters may fail before the cluster stops.
    #[serde(default)]
    pub failure_tolerance: i64,
    /// The leader's node id.
    #[serde(default)]
    pub leader: String,
    /// Node ids of the voters.
    #[serde(default, deserialize_with = "null_as_default")]
    pub voters: Vec<String>,
    /// By node id. `version` in here lags behind a restarted pod: ask the pod itself.
    #[serde(default, deserialize_with = "null_as_default")]
    pub servers: BTreeMap<String, AutopilotServer>,
}

/// Autopilot's view of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AutopilotServer {
    /// Within the contact and lag thresholds.
    #[serde(default)]
    pub healthy: bool,
    /// `leader`, `voter`, `non-voter`.
    #[serde(default)]
    pub status: String,
    /// Last log index it acknowledged.
    #[serde(default)]
    pub last_index: u64,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// `sys/init` for a server whose seal is automatic: recovery shares instead of unseal shares.
#[derive(Clone, Debug, Serialize)]
pub struct InitRequest {
    /// How many recovery keys to make.
    pub recovery_shares: u8,
    /// How many of them a recovery needs.
    pub recovery_threshold: u8,
}

/// The answer to `sys/init`. Given once; whoever loses it has lost it.
#[derive(Deserialize)]
pub struct InitResponse {
    /// The first token.
    pub root_token: String,
    /// Recovery keys, base64.
    #[serde(default, deserialize_with = "null_as_default")]
    pub recovery_keys_base64: Vec<String>,
}

impl std::fmt::Debug for InitResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InitResponse(redacted)")
    }
}
