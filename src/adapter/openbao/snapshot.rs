//! Snapshots as streams: the two calls whose bodies are as large as the database.

use super::{Client, Endpoint, Error, Result, Token, client::POLL_TIMEOUT};
use reqwest::{Body, StatusCode, header};
use secrecy::ExposeSecret;
use std::time::Duration;

/// Until the first byte of a snapshot. It took 0.3 s at half a gigabyte; a busy disk may need longer.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_mins(1);
/// Errors are short; more of one is not read.
const ERROR_LIMIT: usize = 64 * 1024;

impl Client {
    /// A client for large bodies: HTTP/1.1, whose stream has no window that a slow reader could fill for other requests.
    pub fn for_transfer(endpoint: &Endpoint) -> Result<Self> {
        Self::build(endpoint, reqwest::Client::builder().http1_only().connect_timeout(POLL_TIMEOUT))
    }

    /// Asks for a snapshot and returns once the server begins to send it. A standby would send one too, of what it knows:
    /// ask the leader. The status says nothing about the rest of the stream, which must be verified to its end.
    pub async fn snapshot(&self, token: &Token) -> Result<reqwest::Response> {
        let request = "GET sys/storage/raft/snapshot";
        let sent = self.http.get(format!("{}/v1/sys/storage/raft/snapshot", self.base));
        let sent = sent.header("X-Vault-Token", token.0.expose_secret()).send();
        let Ok(answer) = tokio::time::timeout(FIRST_BYTE_TIMEOUT, sent).await else {
            return Err(Error::TimedOut {
                pod: self.pod.clone(),
                request: request.to_owned(),
                timeout: FIRST_BYTE_TIMEOUT,
            });
        };
        let answer = answer.map_err(|source| self.silent(request, source))?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let status = answer.status();
        Err(self.refused(status, request, &bounded(answer).await))
    }

    /// Sends a snapshot of `length` bytes to `endpoint` (`snapshot` or `snapshot-force`). `Ok` means accepted, not
    /// applied. Only [`Error::is_answer`] tells that the server refused; silence tells nothing.
    pub async fn restore(
        &self,
        token: &Token,
        endpoint: &str,
        body: Body,
        length: u64,
        timeout: Duration,
    ) -> Result<u16> {
        let request = format!("POST sys/storage/raft/{endpoint}");
        let sent = self.http.post(format!("{}/v1/sys/storage/raft/{endpoint}", self.base)).timeout(timeout);
        let sent = sent.header("X-Vault-Token", token.0.expose_secret()).header(header::CONTENT_LENGTH, length);
        let answer = sent.body(body).send().await.map_err(|source| {
            if source.is_timeout() {
                Error::TimedOut { pod: self.pod.clone(), request: request.clone(), timeout }
            } else {
                self.silent(&request, source)
            }
        })?;
        let status = answer.status();
        if status.is_success() {
            Ok(status.as_u16())
        } else {
            Err(self.refused(status, &request, &bounded(answer).await))
        }
    }

    /// Gives a token back before it expires. Best effort: after a restore the server may not know it any more.
    pub async fn revoke_self(&self, token: &Token) -> Result<()> {
        self.put(token, "auth/token/revoke-self", &serde_json::json!({})).await
    }

    fn silent(&self, request: &str, source: reqwest::Error) -> Error {
        Error::Unreachable { pod: self.pod.clone(), request: request.to_owned(), source: source.without_url() }
    }
}

async fn bounded(mut answer: reqwest::Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > ERROR_LIMIT {
            break;
        }
    }
    body
}
