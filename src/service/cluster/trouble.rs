//! What a person should look at, in constant reasons and in words.

use chrono::{DateTime, Utc};

/// Something a person should look at: a constant reason and words that say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For machines.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Trouble {
    /// New trouble.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Reasons of troubles, beside those in [`crate::api::conditions::reason`].
pub mod reasons {
    /// The Secret with the static key is gone while data may exist.
    pub const UNSEAL_KEY_MISSING: &str = "UnsealKeyMissing";
    /// The static key is none, or another one than the data is sealed with.
    pub const UNSEAL_KEY_INVALID: &str = "UnsealKeyInvalid";
    /// The Secret that the spec names is not there.
    pub const SEAL_CREDENTIALS_MISSING: &str = "SealCredentialsMissing";
    /// The service account that the spec names is not there.
    pub const SERVICE_ACCOUNT_MISSING: &str = "ServiceAccountMissing";
    /// A name is taken by somebody else's object.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The operator may not watch all that a cluster is made of.
    pub const ACCESS_MISSING: &str = "AccessMissing";
    /// The API server refused what we built.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// Ordinal 0 lost its volume in the middle of the first start.
    pub const BOOTSTRAP_VOLUME_LOST: &str = "BootstrapVolumeLost";
    /// The API server's signing keys cannot be used.
    pub const ISSUER_KEYS_UNUSABLE: &str = "IssuerKeysUnusable";
    /// The first server ends again and again.
    pub const FIRST_START_FAILS: &str = "FirstStartFails";
    /// The first start is under way, and is the last chance to let somebody in.
    pub const NOBODY_CAN_LOG_IN: &str = "NobodyCanLogIn";
    /// The first start is under way.
    pub const BOOTSTRAPPING: &str = "Bootstrapping";
    /// Pods are replaced one by one.
    pub const RESTARTING: &str = "Restarting";
    /// A member serves outside of raft, and it was not we who took it out.
    pub const NOT_IN_RAFT: &str = "NotInRaft";
    /// A member serves, and has not followed the one that leads for a while.
    pub const NOT_FOLLOWING: &str = "NotFollowing";
    /// Members join or leave.
    pub const SCALING: &str = "Scaling";
    /// No member holds data, and none may be initialised again.
    pub const ALL_VOLUMES_EMPTY: &str = "AllVolumesEmpty";
    /// Something of a cluster that was deleted does not go.
    pub const DELETION_WAITS: &str = "DeletionWaits";
    /// A volume was asked to grow and did not.
    pub const VOLUME_NOT_GROWN: &str = "VolumeNotGrown";
    /// OpenBao refused the settings of autopilot.
    pub const AUTOPILOT_REFUSED: &str = "AutopilotRefused";
    /// Nobody knows where the API server is, so no policy can let servers go there.
    pub const API_SERVER_UNKNOWN: &str = "APIServerUnknown";
    /// A server does not come up, and a network policy may be why.
    pub const NETWORK_SUSPECTED: &str = "NetworkSuspected";
    /// The answer to the first initialisation was lost.
    pub const INIT_ANSWER_LOST: &str = "InitAnswerLost";
}

/// The state of certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsState {
    /// Plain HTTP.
    Off,
    /// Good until then.
    Good(DateTime<Utc>),
    /// Good by what an earlier look found, which the condition says. This one did not judge it.
    StillGood,
    /// Not there, or not good: reason and words.
    Bad(Trouble),
}
