//! Why a pass came to no end, and how soon to try again.

use thiserror::Error;

use super::super::{override_lock, retry::ErrorClass, saga::machine::Illegal};
use crate::adapter::{kubernetes::client::RequestError, operationlock::LockError};

/// Why a pass came to no end. The next one starts from what is stored.
#[derive(Debug, Error)]
pub enum DriveError {
    /// The operation could not be read.
    #[error("failed to read the operation")]
    ReadOperation(#[source] RequestError),
    /// The cluster could not be read.
    #[error("failed to read cluster {name}")]
    ReadCluster {
        /// The cluster.
        name: String,
        /// What happened.
        source: RequestError,
    },
    /// The journal could not be written.
    #[error("failed to write the journal")]
    WriteJournal(#[source] RequestError),
    /// The finalizer could not be set or taken away.
    #[error("failed to change the finalizer")]
    Finalizer(#[source] RequestError),
    /// The lock could not be taken or given back.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal does not allow what follows from it.
    #[error("the journal is damaged")]
    Journal(#[from] Illegal),
    /// The operation whose lock is to be taken over could not be told to stop.
    #[error("failed to take over the lock")]
    Override(#[from] override_lock::OverrideError),
    /// This process no longer leads.
    #[error("this process does not lead any more")]
    NotLeader,
    /// Something asks for more and more.
    #[error("the operation makes no headway")]
    Endless,
}

impl DriveError {
    /// How soon to try again.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::WriteJournal(error) | Self::Finalizer(error) if error.is_conflict() => ErrorClass::Conflict,
            Self::ReadOperation(_)
            | Self::ReadCluster { .. }
            | Self::WriteJournal(_)
            | Self::Finalizer(_)
            | Self::Override(_)
            | Self::NotLeader => ErrorClass::Transient,
            Self::Lock(error) => match error {
                LockError::Request { .. }
                | LockError::Contended(_)
                | LockError::Held { .. }
                | LockError::ClusterGone(_) => ErrorClass::Transient,
                LockError::EmptyCluster
                | LockError::EmptyHolder
                | LockError::EmptyHolderUid
                | LockError::Refused { .. } => ErrorClass::Invalid,
            },
            Self::Journal(_) | Self::Endless => ErrorClass::Invalid,
        }
    }

    /// The variant's name, for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ReadOperation(_) => "ReadOperation",
            Self::ReadCluster { .. } => "ReadCluster",
            Self::WriteJournal(_) => "WriteJournal",
            Self::Finalizer(_) => "Finalizer",
            Self::Lock(_) => "Lock",
            Self::Journal(_) => "Journal",
            Self::Override(_) => "Override",
            Self::NotLeader => "NotLeader",
            Self::Endless => "Endless",
        }
    }
}
