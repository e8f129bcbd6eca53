//! Why a backup did not come back, or could not be tried.

use crate::adapter::openbao;

/// A backup that does not come back, or a test that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    #[error("the test's own server could not be started: {0}")]
    NotStarted(String),
    #[error("an empty server did not initialise itself with this cluster's seal")]
    Empty(#[source] openbao::Error),
    #[error("the server of the test ended by itself ({status}); its last words: {words}")]
    Ended { status: String, words: String },
    #[error("the server of the test does not lead after {seconds} s ({state}); its last words: {words}")]
    NotLeading { seconds: u64, state: String, words: String },
    #[error("the server refused the snapshot")]
    Refused(#[source] openbao::Error),
    #[error(
        "the restored data is of OpenBao cluster {found}, the backup's manifest says {expected}: the snapshot was not applied"
    )]
    OtherData { found: String, expected: String },
    #[error(
        "the data came back, and nobody of this cluster's backup Jobs can log in to it: check the role, its audience and its bound \
         service account, and that the keys of auth/jwt/config are still those of this Kubernetes"
    )]
    Login(#[source] openbao::Error),
    #[error(
        "the login works, and may not look at what came back: the identity needs read on sys/storage/raft/snapshot"
    )]
    Denied(#[source] openbao::Error),
    #[error("keys are missing in what came back: {0}")]
    KeysMissing(String),
    #[error("canary {path}: {why}")]
    Canary { path: String, why: String },
}

impl RehearsalError {
    /// A constant for the operation's reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotStarted(_) | Self::Empty(_) => reason::NOT_STARTED,
            Self::Ended { .. } | Self::NotLeading { .. } => reason::NOT_READY,
            Self::Refused(_) => reason::REFUSED,
            Self::OtherData { .. } => reason::OTHER_DATA,
            Self::Login(_) | Self::Denied(_) => reason::LOGIN,
            Self::KeysMissing(_) => reason::KEYS,
            Self::Canary { .. } => reason::CANARY,
        }
    }
}

/// Reasons of a test that failed.
pub mod reason {
    /// The test's own server did not get going: nothing is known of the backup.
    pub const NOT_STARTED: &str = "ServerNotStarted";
    /// With the backup in it, the server does not lead.
    pub const NOT_READY: &str = "ServerNotReady";
    pub const REFUSED: &str = "SnapshotRefused";
    pub const OTHER_DATA: &str = "OtherData";
    pub const LOGIN: &str = "LoginFailed";
    pub const KEYS: &str = "KeysMissing";
    pub const CANARY: &str = "CanaryMissing";
    /// All of them.
    pub const ALL: [&str; 7] = [NOT_STARTED, NOT_READY, REFUSED, OTHER_DATA, LOGIN, KEYS, CANARY];
}
