//! What can go wrong between us and an OpenBao server, by meaning.

use std::time::Duration;

/// The result of one call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call. `pod` names the server that was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CA bundle, the name or the address cannot be used at all; trying again does not help.
    #[error("cannot build a client for OpenBao pod {pod}: check the CA bundle and the pod's address")]
    Configure {
        /// The pod that was to be asked.
        pod: String,
        /// Why the client refused.
        #[source]
        source: reqwest::Error,
    },
    /// It would have changed something, and this operator leads no more: nothing was sent.
    #[error("this operator no longer leads: {request} was not sent to OpenBao pod {pod}")]
    NotLeader {
        /// The pod that was to be asked.
        pod: String,
        /// Method and path.
        request: String,
    },
    /// Nothing answered: no connection, TLS did not complete (also while self-init runs), or the connection broke.
    #[error("OpenBao pod {pod} did not answer {request}")]
    Unreachable {
        /// The pod that was asked.
        pod: String,
        /// Method and path.
        request: String,
        /// Transport error.
        #[source]
        source: reqwest::Error,
    },
    /// No answer within the call's timeout. Whether the server acted is unknown.
    #[error("OpenBao pod {pod} did not answer {request} within {timeout:?}")]
    TimedOut {
        /// The pod that was asked.
        pod: String,
        /// Method and path.
        request: String,
        /// The call's own limit.
        timeout: Duration,
    },
    /// 403: the token is unknown or its policies do not allow the path.
    #[error("OpenBao pod {pod} denied {request}: {detail}")]
    Denied {
        /// The pod that was asked.
        pod: String,
        /// Method and path.
        request: String,
        /// The server's own words.
        detail: String,
    },
    /// 503: the server is sealed (or has no leader to forward to).
    #[error("OpenBao pod {pod} is sealed or has no leader, it refused {request}: {detail}")]
    Sealed {
        /// The pod that was asked.
        pod: String,
        /// Method and path.
        request: String,
        /// The server's own words.
        detail: String,
    },
    /// Any other status: the server read the request and refused it.
    #[error("OpenBao pod {pod} answered {status} to {request}: {detail}")]
    Refused {
        /// The pod that was asked.
        pod: String,
        /// Method and path.
        request: String,
        /// HTTP status.
        status: u16,
        /// The server's own words.
        detail: String,
    },
    /// The answer could not be read as what the API documents.
    #[error("OpenBao pod {pod} answered {request} with something unexpected")]
    Decode {
        /// The pod that was asked.
        pod: String,
        /// Method and path.
        request: String,
        /// Parser error.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is longer than any that the API documents; the rest was not read.
    #[error("OpenBao pod {pod} answered {request} with more than {limit} bytes: look at the image that it runs")]
    TooLong {
        /// The pod that was asked.
        pod: String,
        /// Method and path.
        request: String,
        /// How much was read at most.
        limit: usize,
    },
}

impl Error {
    /// The server itself said no (as opposed to silence or a broken connection, whose effect is unknown).
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Denied { .. }
            | Self::Sealed { .. }
            | Self::Refused { .. }
            | Self::Decode { .. }
            | Self::TooLong { .. } => true,
            Self::Configure { .. } | Self::NotLeader { .. } | Self::Unreachable { .. } | Self::TimedOut { .. } => false,
        }
    }

    /// It read the request, as a working server, and said no to it. A server in trouble (5xx) may think otherwise later.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Denied { .. } => true,
            // 408 and 429 are about the moment, not about the request.
            Self::Refused { status, .. } => (400..500).contains(status) && !matches!(status, 408 | 429),
            _ => false,
        }
    }

    /// 403, and 400 at a login: this identity has no access here (`facts`: every login error is a 400).
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// 404: no such policy, path or mount.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The status the server answered with, if it answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Denied { .. } => Some(403),
            Self::Sealed { .. } => Some(503),
            Self::Refused { status, .. } => Some(*status),
            Self::Configure { .. }
            | Self::NotLeader { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Decode { .. }
            | Self::TooLong { .. } => None,
        }
    }
}
