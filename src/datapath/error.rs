//! Why a command of the mover failed, and what that means for who reads its exit status.

use std::path::PathBuf;
use std::time::Duration;

use super::archive::ArchiveError;
use super::protocol::{Cause, Failure, KEY_TAKEN, MAY_BE_STORED};
use super::rehearsal::error::RehearsalError;
use crate::adapter::kubernetes::client::RequestError;
use crate::adapter::objectstore::StoreError;
use crate::adapter::objectstore::error::detail;
use crate::adapter::openbao;

#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    #[error("{0}")]
    Config(String),
    #[error("could not read {what} from {path}")]
    ReadFile { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the login was refused: check the JWT role, its audience and its bound service account")]
    Login(#[source] openbao::Error),
    #[error("the snapshot was refused: the identity needs read on sys/storage/raft/snapshot")]
    Denied(#[source] openbao::Error),
    #[error("no leader: {0}")]
    NoLeader(String),
    #[error("the leader did not serve the snapshot")]
    Leader(#[source] openbao::Error),
    #[error("the snapshot stream from {pod} broke after {bytes} bytes")]
    Stream { pod: String, bytes: u64, source: reqwest::Error },
    #[error("the snapshot stream from {pod} stood still for {after:?} after {bytes} bytes")]
    Stalled { pod: String, bytes: u64, after: Duration },
    #[error("{pod} stopped leading while it sent the snapshot")]
    LeaderChanged { pod: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the archive failed verification")]
    Archive(#[source] ArchiveError),
    #[error("{path} has {free} bytes free, {needed} are needed: give the scratch volume more room")]
    Space { path: PathBuf, free: u64, needed: u64 },
    #[error("the spool would grow beyond the {limit} bytes it may take (for a Job twice spec.storage.size)")]
    SpoolLimit { limit: u64 },
    #[error("could not {what} {path}")]
    Scratch { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the object {key} has a complete backup already: a key is used once")]
    KeyTaken { key: String },
    #[error("whether {key} was stored is not known, and it could not be removed ({left})")]
    MayBeStored { key: String, left: String, source: Box<MoverError> },
    #[error("there is no manifest for {key}: the backup was never completed. Choose another, or waive MissingManifest")]
    ManifestMissing { key: String },
    #[error("{key} has {found} bytes, its manifest says {expected}: it is not the object that was verified")]
    OtherSize { key: String, expected: u64, found: u64 },
    #[error("{key} has SHA-256 {found}, its manifest says {expected}: it is not the object that was verified")]
    OtherDigest { key: String, expected: String, found: String },
    #[error("there is no complete backup {0}")]
    NothingFound(String),
    #[error("the time allowed was over while {0}")]
    Deadline(&'static str),
    #[error("told to stop")]
    Cancelled,
    #[error("the config map {name} could not be {what}")]
    Kubernetes { name: String, what: &'static str, source: RequestError },
    #[error("the config map {name} holds something unexpected under {key}")]
    Protocol { name: String, key: &'static str, source: serde_json::Error },
    #[error("the submission of this operation was claimed by pod {by} already: it is never taken over")]
    Claimed { by: String },
    #[error("the grant {0}")]
    BadGrant(String),
    #[error("the server refused the snapshot; nothing was changed")]
    Refused(#[source] openbao::Error),
    #[error("whether the server took the snapshot is not known")]
    Unknown(#[source] openbao::Error),
    #[error(transparent)]
    Rehearsal(#[from] RehearsalError),
    #[error("an internal task ended early")]
    Task(#[source] tokio::task::JoinError),
}

impl MoverError {
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Config(_) | Self::ReadFile { .. } | Self::KeyTaken { .. } | Self::NothingFound(_) => Cause::Config,
            Self::Login(_) | Self::Denied(_) => Cause::Auth,
            Self::NoLeader(_)
            | Self::Leader(_)
            | Self::Stream { .. }
            | Self::Stalled { .. }
            | Self::LeaderChanged { .. } => Cause::Leader,
            // The local disk failed, and tells nothing about the archive.
            Self::Archive(ArchiveError::Read(_)) => Cause::Io,
            Self::Store(StoreError::Manifest { .. } | StoreError::Content { .. } | StoreError::Size { .. })
            | Self::ManifestMissing { .. }
            | Self::OtherSize { .. }
            | Self::OtherDigest { .. }
            | Self::Archive(_) => Cause::Integrity,
            Self::Store(_) | Self::MayBeStored { .. } => Cause::Store,
            Self::Space { .. } | Self::SpoolLimit { .. } => Cause::Space,
            Self::Scratch { .. } | Self::Task(_) => Cause::Io,
            Self::Deadline(_) => Cause::Deadline,
            Self::Cancelled => Cause::Cancelled,
            Self::Kubernetes { .. } | Self::Protocol { .. } => Cause::Kubernetes,
            Self::Claimed { .. } => Cause::Claimed,
            Self::BadGrant(_) => Cause::NotGranted,
            Self::Refused(_) => Cause::Refused,
            Self::Unknown(_) => Cause::Unknown,
            Self::Rehearsal(_) => Cause::Rehearsal,
        }
    }

    /// A constant for conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::ReadFile { .. } => "InvalidConfiguration",
            Self::Login(_) => "LoginRefused",
            Self::Denied(_) => "SnapshotDenied",
            Self::NoLeader(_) => "NoLeader",
            Self::Leader(_) => "LeaderFailed",
            Self::Stream { .. } => "StreamBroken",
            Self::Stalled { .. } => "StreamStalled",
            Self::LeaderChanged { .. } => "LeaderChanged",
            Self::Store(error) => error.reason(),
            Self::Archive(ArchiveError::Read(_)) => "ScratchFailed",
            Self::Archive(error) => error.reason(),
            Self::Space { .. } => "ScratchFull",
            Self::SpoolLimit { .. } => "SpoolLimit",
            Self::Scratch { .. } => "ScratchFailed",
            Self::KeyTaken { .. } => KEY_TAKEN,
            Self::MayBeStored { .. } => MAY_BE_STORED,
            Self::ManifestMissing { .. } => "ManifestMissing",
            Self::OtherSize { .. } => "SizeMismatch",
            Self::OtherDigest { .. } => "DigestMismatch",
            Self::NothingFound(_) => "NoBackupFound",
            Self::Deadline(_) => "DeadlineExceeded",
            Self::Cancelled => "Cancelled",
            Self::Kubernetes { .. } => "KubernetesFailed",
            Self::Protocol { .. } => "ProtocolError",
            Self::Claimed { .. } => "AlreadyClaimed",
            Self::BadGrant(_) => "GrantUnusable",
            Self::Refused(_) => "SubmissionRefused",
            Self::Unknown(_) => "SubmissionUnknown",
            Self::Rehearsal(error) => error.reason(),
            Self::Task(_) => "TaskFailed",
        }
    }

    /// Whether taking the snapshot again, from its start and from whoever leads by then, may help.
    pub fn is_worth_another_stream(&self) -> bool {
        match self {
            // Not `NoLeader`: it was waited for, and these addresses may be nobody's any more.
            Self::Leader(_) | Self::Stream { .. } | Self::Stalled { .. } | Self::LeaderChanged { .. } => true,
            // A server that goes away ends the stream it had begun with 200: the archive is just cut.
            Self::Archive(error) => error.is_cut_off(),
            _ => false,
        }
    }

    /// The whole chain, on one line.
    pub fn line(&self) -> String {
        detail(self)
    }

    pub fn failure(&self) -> Failure {
        Failure { cause: self.cause(), reason: self.reason().to_owned(), message: self.line() }
    }
}
