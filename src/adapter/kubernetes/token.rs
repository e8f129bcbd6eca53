//! Short-lived tokens of the operator's own service account.

use super::client::{RequestError, timed};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams};
use secrecy::SecretString;

/// How long such a token lives: the shortest that the API server grants.
const LIFETIME_SECONDS: i64 = 600;

/// Why no token came.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The API server refused or did not answer.
    #[error("failed to request a token for service account {namespace}/{name} with audience {audience}")]
    Request {
        /// Namespace of the service account.
        namespace: String,
        /// Its name.
        name: String,
        /// The audience asked for.
        audience: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// The answer carried no token.
    #[error("the API server granted service account {namespace}/{name} a token without content")]
    Empty {
        /// Namespace of the service account.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Asks for a token of service account `namespace/name` that only `audience` accepts. The operator's role allows this for
/// its own name alone.
pub async fn request(client: &Client, namespace: &str, name: &str, audience: &str) -> Result<SecretString, TokenError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let body = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(LIFETIME_SECONDS),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let answer = timed(accounts.create_token_request(name, &PostParams::default(), &body)).await.map_err(|source| {
        TokenError::Request { namespace: namespace.into(), name: name.into(), audience: audience.into(), source }
    })?;
    match answer.status {
        Some(status) if !status.token.is_empty() => Ok(SecretString::from(status.token)),
        _ => Err(TokenError::Empty { namespace: namespace.into(), name: name.into() }),
    }
}
