//! One server, one client.

use super::{
    AutopilotState, Error, Health, HealthState, InitRequest, InitResponse, LeaderView, RaftConfiguration, Result,
    Token, types::HealthBody,
};
use crate::adapter::leadership::Leadership;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

/// How long an unauthenticated look at a server may take. While self-init runs, TCP connects and TLS hangs.
pub const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long any other call may take: during a restore, authenticated calls hang until it is done.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The most of an error body that we repeat.
const DETAIL_LIMIT: usize = 400;

/// The most of an answer that we read: what is said of raft and autopilot has a few KiB. Servers run images that others choose, and one
/// that answers without end must not take the memory that all clusters share.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// Where one server is and how it proves that it is the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's name, for messages.
    pub pod: String,
    /// Pod IP and API port.
    pub address: SocketAddr,
    /// The name its certificate must carry.
    pub tls_name: String,
    /// PEM bundle it must chain to; `None` is plain HTTP (Development profile only).
    pub ca_pem: Option<String>,
}

/// A client for one server.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) http: reqwest::Client,
    pub(super) base: String,
    pub(super) pod: String,
    /// Whoever must lead to change anything on the server; `None` for the mover, which belongs to a Job.
    leadership: Option<Leadership>,
}

impl Client {
    /// Builds a client that trusts the cluster's CA only, follows no redirect, uses no proxy and keeps no idle connection.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        Self::build(endpoint, reqwest::Client::builder())
    }

    pub(super) fn build(endpoint: &Endpoint, builder: reqwest::ClientBuilder) -> Result<Self> {
        let configure = |source| Error::Configure { pod: endpoint.pod.clone(), source };
        let mut builder = builder
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .connect_timeout(POLL_TIMEOUT)
            .resolve(&endpoint.tls_name, endpoint.address);
        let scheme = match &endpoint.ca_pem {
            Some(pem) => {
                let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(configure)?;
                builder = builder.tls_certs_only(roots).https_only(true);
                "https"
            }
            None => {
                // No authority is needed, and an image may have none.
                builder = builder.tls_certs_only([]);
                "http"
            }
        };
        Ok(Self {
            http: builder.build().map_err(configure)?,
            base: format!("{scheme}://{}:{}", endpoint.tls_name, endpoint.address.port()),
            pod: endpoint.pod.clone(),
            leadership: None,
        })
    }

    /// From the moment that `leadership` is over it sends questions only: a login before may have taken its whole time.
    #[must_use]
    pub fn while_leading(self, leadership: Leadership) -> Self {
        Self { leadership: Some(leadership), ..self }
    }

    /// The pod this client talks to.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// The server's word about itself, without a token.
    pub async fn health(&self) -> Result<Health> {
        let (status, body) = self.exchange(Method::GET, "sys/health", None, None, POLL_TIMEOUT).await?;
        let state = match status.as_u16() {
            200 => HealthState::Active,
            429 => HealthState::Standby,
            501 => HealthState::Uninitialized,
            503 => HealthState::Sealed,
            _ => HealthState::Troubled,
        };
        // In trouble (500 right after a restore) the body is an error list, not a health report: that is an answer too.
        let body: HealthBody = match serde_json::from_slice(&body) {
            Ok(body) => body,
            Err(_) if state == HealthState::Troubled => {
                HealthBody { initialized: false, sealed: false, version: String::new(), cluster_id: None }
            }
            Err(source) => return Err(self.undecodable("GET sys/health", source)),
        };
        Ok(Health {
            state,
            initialized: body.initialized,
            sealed: body.sealed,
            version: body.version,
            cluster_id: body.cluster_id.filter(|id| !id.is_empty()),
        })
    }

    /// Whom the server follows, without a token. Hangs while a restore runs (hence the timeout).
    pub async fn leader(&self) -> Result<LeaderView> {
        self.read("sys/leader", None, POLL_TIMEOUT).await
    }

    /// Initialises an empty server. The answer exists only once: store it before anything else.
    pub async fn init(&self, request: &InitRequest) -> Result<InitResponse> {
        // Initialising creates storage and keys: it took seconds on a slow disk.
        self.call(Method::PUT, "sys/init", None, Some(&json!(request)), Duration::from_mins(1)).await
    }

    /// Logs in with a JWT; the token is as short-lived as the role says.
    pub async fn login_jwt(&self, mount: &str, role: &str, jwt: &SecretString) -> Result<Token> {
        #[derive(Deserialize)]
        struct Login {
            auth: Auth,
        }
        #[derive(Deserialize)]
        struct Auth {
            client_token: String,
        }
        let body = json!({ "role": role, "jwt": jwt.expose_secret() });
        let login: Login =
            self.call(Method::POST, &format!("auth/{mount}/login"), None, Some(&body), CALL_TIMEOUT).await?;
        Ok(Token::new(login.auth.client_token))
    }

    /// Whether the token is known here. `Denied` means it is not: proof that another state was restored.
    pub async fn lookup_self(&self, token: &Token) -> Result<()> {
        self.read::<Value>("auth/token/lookup-self", Some(token), CALL_TIMEOUT).await.map(drop)
    }

    /// Asks the leader to give up. Answered before anything happens: look who leads afterwards.
    pub async fn step_down(&self, token: &Token) -> Result<()> {
        self.write(Method::PUT, "sys/step-down", token, None).await
    }

    /// Raft members.
    pub async fn raft_configuration(&self, token: &Token) -> Result<RaftConfiguration> {
        #[derive(Deserialize)]
        struct Config {
            config: RaftConfiguration,
        }
        let answer: Data<Config> = self.read("sys/storage/raft/configuration", Some(token), CALL_TIMEOUT).await?;
        Ok(answer.data.config)
    }

    /// Autopilot's judgement.
    pub async fn autopilot_state(&self, token: &Token) -> Result<AutopilotState> {
        let answer: Data<AutopilotState> =
            self.read("sys/storage/raft/autopilot/state", Some(token), CALL_TIMEOUT).await?;
        Ok(answer.data)
    }

    /// Removes a raft member; idempotent (an unknown id is answered with 204 too).
    pub async fn remove_peer(&self, token: &Token, node_id: &str) -> Result<()> {
        let body = json!({ "server_id": node_id });
        self.write(Method::POST, "sys/storage/raft/remove-peer", token, Some(&body)).await
    }

    /// Writes an ACL policy.
    pub async fn put_policy(&self, token: &Token, name: &str, policy: &str) -> Result<()> {
        let body = json!({ "policy": policy });
        self.write(Method::PUT, &format!("sys/policies/acl/{name}"), token, Some(&body)).await
    }

    /// Whether an ACL policy exists.
    pub async fn policy_exists(&self, token: &Token, name: &str) -> Result<bool> {
        match self.read::<Value>(&format!("sys/policies/acl/{name}"), Some(token), CALL_TIMEOUT).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes an ACL policy; idempotent.
    pub async fn delete_policy(&self, token: &Token, name: &str) -> Result<()> {
        self.write(Method::DELETE, &format!("sys/policies/acl/{name}"), token, None).await
    }

    /// Reads any path.
    pub async fn get(&self, token: &Token, path: &str) -> Result<Value> {
        self.read(path, Some(token), CALL_TIMEOUT).await
    }

    /// Writes any path whose answer does not matter: mounts, roles and configuration when access is set up.
    pub async fn put(&self, token: &Token, path: &str, body: &impl Serialize) -> Result<()> {
        let body = serde_json::to_value(body).map_err(|source| self.undecodable(&format!("PUT {path}"), source))?;
        self.write(Method::PUT, path, token, Some(&body)).await
    }

    async fn read<T: DeserializeOwned>(&self, path: &str, token: Option<&Token>, timeout: Duration) -> Result<T> {
        self.call(Method::GET, path, token, None, timeout).await
    }

    async fn write(&self, method: Method, path: &str, token: &Token, body: Option<&Value>) -> Result<()> {
        let request = format!("{method} {path}");
        let (status, answer) = self.exchange(method, path, Some(token), body, CALL_TIMEOUT).await?;
        if status.is_success() { Ok(()) } else { Err(self.refused(status, &request, &answer)) }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        token: Option<&Token>,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<T> {
        let request = format!("{method} {path}");
        let (status, answer) = self.exchange(method, path, token, body, timeout).await?;
        if !status.is_success() {
            return Err(self.refused(status, &request, &answer));
        }
        serde_json::from_slice(&answer).map_err(|source| self.undecodable(&request, source))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        token: Option<&Token>,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<(StatusCode, bytes::Bytes)> {
        if method != Method::GET && self.leadership.as_ref().is_some_and(|leadership| !leadership.still_leader()) {
            return Err(Error::NotLeader { pod: self.pod.clone(), request: format!("{method} {path}") });
        }
        #[cfg(feature = "fault-injection")]
        if let Some(engine) = crate::adapter::faults::Engine::global() {
            let call = crate::adapter::faults::Call::openbao(&method, path, &self.pod);
            let described = format!("{method} {path}");
            let silence =
                |_| Error::TimedOut { pod: self.pod.clone(), request: described.clone(), timeout: Duration::ZERO };
            let answer = |status| {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                (status, bytes::Bytes::from_static(br#"{"errors":["refused on purpose"]}"#))
            };
            let send = || self.send(method.clone(), path, token, body, timeout);
            let status = |answer: &(StatusCode, bytes::Bytes)| answer.0.as_u16();
            return crate::adapter::faults::through(engine, &call, send, silence, answer, status).await;
        }
        self.send(method, path, token, body, timeout).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&Token>,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<(StatusCode, bytes::Bytes)> {
        let described = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.base)).timeout(timeout);
        if let Some(token) = token {
            request = request.header("X-Vault-Token", token.0.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let failed = |source: reqwest::Error| {
            // A URL in the error would repeat the path only; the pod is named by us.
            let source = source.without_url();
            if source.is_timeout() {
                Error::TimedOut { pod: self.pod.clone(), request: described.clone(), timeout }
            } else {
                Error::Unreachable { pod: self.pod.clone(), request: described.clone(), source }
            }
        };
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut body = bytes::BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_LIMIT {
                return Err(Error::TooLong { pod: self.pod.clone(), request: described.clone(), limit: ANSWER_LIMIT });
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body.freeze()))
    }

    pub(super) fn refused(&self, status: StatusCode, request: &str, body: &[u8]) -> Error {
        let (pod, request, detail) = (self.pod.clone(), request.to_owned(), detail(body));
        match status.as_u16() {
            403 => Error::Denied { pod, request, detail },
            503 => Error::Sealed { pod, request, detail },
            status => Error::Refused { pod, request, status, detail },
        }
    }

    fn undecodable(&self, request: &str, source: serde_json::Error) -> Error {
        Error::Decode { pod: self.pod.clone(), request: request.to_owned(), source }
    }
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

/// The server's own words on one line: `{"errors": ["1 error occurred:\n\t* permission denied\n\n"]}` reads badly as it is.
fn detail(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<String>,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(answer) => answer.errors.join("; "),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text = text.replace("1 error occurred:", "").split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_start_matches("* ").to_owned();
    if text.is_empty() { "no reason given".to_owned() } else { text.chars().take(DETAIL_LIMIT).collect() }
}

#[cfg(test)]
mod tests {
    use super::{ANSWER_LIMIT, Client, Error, InitRequest, Token, detail};
    use crate::adapter::{leadership, openbao::fixtures};
    use secrecy::SecretString;
    use serde_json::json;
    use tokio::{io::AsyncWriteExt, sync::mpsc::unbounded_channel};

    #[test]
    fn the_servers_error_list_becomes_one_line() {
        let body = br#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
        assert_eq!(detail(body), "permission denied");
    }

    #[test]
    fn an_empty_answer_says_so_and_a_long_one_is_cut() {
        assert_eq!(detail(b"{}"), "no reason given");
        assert_eq!(detail("x".repeat(9000).as_bytes()).len(), super::DETAIL_LIMIT);
    }

    #[tokio::test]
    async fn of_an_answer_without_end_only_the_beginning_is_read() {
        const BLOCK: usize = 64 * 1024;
        const WHOLE: usize = 64 * ANSWER_LIMIT;
        let (tell, mut told) = unbounded_channel();
        let endpoint = fixtures::listening(move |_, mut connection| {
            let tell = tell.clone();
            async move {
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {WHOLE}\r\n\r\n");
                connection.write_all(head.as_bytes()).await.unwrap();
                let (block, mut taken) = (vec![b' '; BLOCK], 0);
                while taken < WHOLE && connection.write_all(&block).await.is_ok() {
                    taken += BLOCK;
                }
                tell.send(taken).unwrap();
            }
        })
        .await;
        let error = Client::new(&endpoint).unwrap().health().await.unwrap_err();
        assert!(matches!(error, Error::TooLong { limit: ANSWER_LIMIT, .. }), "{error}");
        let taken = told.recv().await.unwrap();
        assert!(taken < WHOLE / 2, "what lies between us holds a few MiB, and {taken} went");
    }

    #[tokio::test]
    async fn a_client_whose_operator_no_longer_leads_asks_and_changes_nothing() {
        let (heard, mut requests) = unbounded_channel();
        let endpoint = fixtures::listening(move |request, mut connection| {
            heard.send(request).unwrap();
            async move { connection.write_all(fixtures::answer("200 OK").as_bytes()).await.unwrap() }
        })
        .await;
        let (term, leadership) = leadership::channel();
        let client = Client::new(&endpoint).unwrap().while_leading(leadership);
        let token = Token::new("s.token");
        term.for_ever();
        client.step_down(&token).await.unwrap();
        term.end();
        let init = InitRequest { recovery_shares: 1, recovery_threshold: 1 };
        for refused in [
            client.step_down(&token).await,
            client.remove_peer(&token, "kelp-1").await,
            client.put_policy(&token, "p", "").await,
            client.delete_policy(&token, "p").await,
            client.put(&token, "sys/p", &json!({})).await,
            client.init(&init).await.map(drop),
            client.login_jwt("jwt", "r", &SecretString::from("j.w.t")).await.map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::NotLeader { .. }) && !error.is_answer(), "{error}");
        }
        client.get(&token, "sys/p").await.unwrap();
        let mut told = Vec::new();
        while let Ok(request) = requests.try_recv() {
            told.push(request);
        }
        assert_eq!(told, ["PUT /v1/sys/step-down HTTP/1.1", "GET /v1/sys/p HTTP/1.1"]);
    }

    #[test]
    fn a_token_is_not_printed() {
        assert!(!format!("{:?}", super::Token::new("s.verysecret")).contains("verysecret"));
    }
}
