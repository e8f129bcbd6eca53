//! What keeps a look at a cluster from coming to its end.

use super::{
    apply, deletion, identity, init, keys, maintain,
    plane::Unwritten,
    planes, requests,
    trouble::{Trouble, reasons},
};
use crate::{
    adapter::{
        bulk::Unread,
        kubernetes::{apply::ApplyError, client::RequestError},
    },
    causes::chain,
};

/// Why a look could not be finished. Another one follows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Keys or certificates.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// Objects.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// A very large object.
    #[error(transparent)]
    Unread(#[from] Unread),
    /// The issuer.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The watch does not show yet what was just made.
    #[error("the watch is behind: the StatefulSet exists and is not seen yet")]
    Behind,
    /// The claims of the namespace could not be listed.
    #[error("failed to list the volume claims in namespace {namespace}")]
    Claims {
        /// The namespace.
        namespace: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// A pod could not be let go.
    #[error("failed to let pod {pod} start")]
    LetGo {
        /// The pod.
        pod: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// The status could not be written.
    #[error(transparent)]
    Status(#[from] Unwritten),
    /// What a person asked for.
    #[error(transparent)]
    Requests(#[from] requests::Error),
    /// Restarts, members, volumes.
    #[error(transparent)]
    Maintain(#[from] maintain::Error),
    /// The first initialisation through the API.
    #[error(transparent)]
    Init(#[from] init::Error),
    /// A manager's plane.
    #[error(transparent)]
    Planes(#[from] planes::Error),
    /// Deletion could not be finished.
    #[error(transparent)]
    Deletion(#[from] deletion::Error),
    /// No look has got to its end for a while.
    #[error("no look gets to its end: what it is about to change has always just been changed, or is not there")]
    CutShort(#[source] Box<Error>),
}

impl Error {
    /// The constant word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Keys(_) => "Keys",
            Self::Apply(_) => "Apply",
            Self::Unread(_) => "Unread",
            Self::Identity(_) => "Identity",
            Self::Behind => "Behind",
            Self::Claims { .. } => "Claims",
            Self::LetGo { .. } => "LetGo",
            Self::Status(_) => "Status",
            Self::Planes(_) => "Planes",
            Self::Maintain(_) => "Maintenance",
            Self::Init(_) => "Initialize",
            Self::Requests(_) => "Requests",
            Self::Deletion(_) => "Deletion",
            Self::CutShort(_) => "CutShort",
        }
    }

    /// Another writer was faster, or the watch is a moment behind: try again soon and say nothing.
    pub fn is_conflict(&self) -> bool {
        let request = match self {
            Self::Behind => return true,
            Self::Keys(keys::Error::Apply(error)) | Self::Apply(error) => error.request(),
            Self::LetGo { source, .. } | Self::Status(Unwritten { source, .. }) => Some(source),
            Self::Planes(error) => error.request(),
            _ => None,
        };
        request.is_some_and(|error| error.is_conflict() || error.is_not_found())
    }

    pub(super) fn trouble(&self) -> Trouble {
        let why = match self {
            Self::Apply(apply::Error::NotOurs { .. })
            | Self::Keys(keys::Error::Apply(apply::Error::NotOurs { .. })) => reasons::NAME_TAKEN,
            Self::Identity(_) => reasons::ISSUER_KEYS_UNUSABLE,
            _ => reasons::APPLY_FAILED,
        };
        Trouble::new(why, chain(self))
    }
}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        Self::Apply(error.into())
    }
}
