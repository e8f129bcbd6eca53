//! What the API server says about the tokens it issues: issuer and signing keys.

use super::jwks::{self, JwksError};
use crate::adapter::kubernetes::client::{RequestError, timed};
use kube::Client;
use serde::Deserialize;

/// What the stanza of the first start needs beside the spec.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The API server's issuer.
    pub issuer: String,
    /// Its signing keys, PEM.
    pub keys: Vec<String>,
    /// `sub` of the operator's own service account.
    pub operator_subject: String,
}

/// Why the issuer is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A document could not be read.
    #[error(
        "failed to read {path} from the API server: ClusterRole system:service-account-issuer-discovery gives the right to"
    )]
    Read {
        /// Which one.
        path: &'static str,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// The discovery document names no issuer.
    #[error("the API server's discovery document (/.well-known/openid-configuration) names no issuer")]
    NoIssuer(#[source] serde_json::Error),
    /// No usable key.
    #[error(transparent)]
    Keys(#[from] JwksError),
}

/// Asks for issuer and keys. `operator_subject` is carried along.
pub async fn fetch(client: &Client, operator_subject: String) -> Result<Identity, Error> {
    #[derive(Deserialize)]
    struct Discovery {
        issuer: String,
    }
    let (discovery, keys) =
        futures::try_join!(read(client, "/.well-known/openid-configuration"), read(client, "/openid/v1/jwks"))?;
    let discovery: Discovery = serde_json::from_str(&discovery).map_err(Error::NoIssuer)?;
    Ok(Identity { issuer: discovery.issuer, keys: jwks::public_keys(&keys)?, operator_subject })
}

async fn read(client: &Client, path: &'static str) -> Result<String, Error> {
    let mut request = http::Request::new(Vec::new());
    *request.uri_mut() = http::Uri::from_static(path);
    timed(client.request_text(request)).await.map_err(|source| Error::Read { path, source })
}
