//! Real OpenBao servers on loopback: TLS, static seal, raft, self-init, a JWT role that may read snapshots.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openbao_operator::adapter::openbao::{Client, Endpoint, HealthState, Token};
use openbao_operator::datapath::protocol::Peer;
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::tools::{self, Pki, Process};
use crate::harness::eventually;

pub const KEY_ID: &str = "k1";
const AUDIENCE: &str = "openbao:test/c";
const SUBJECT: &str = "system:serviceaccount:test:c-backup";

/// A cluster of so many servers.
pub struct Bao {
    folder: TempDir,
    version: String,
    pki: Pki,
    nodes: Vec<Node>,
    seal_key: Vec<u8>,
}

struct Node {
    port: u16,
    process: Process,
}

impl Bao {
    pub async fn start(version: &str, count: usize) -> Self {
        Self::with_key(version, count, &rand::random::<[u8; 32]>()).await
    }

    /// With a given static seal key: two clusters of one key can read each other's snapshots.
    pub async fn with_key(version: &str, count: usize, seal_key: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new();
        std::fs::write(folder.path().join("ca.crt"), &pki.ca_pem).unwrap();
        std::fs::write(folder.path().join("seal.key"), seal_key).unwrap();
        let ports: Vec<u16> = tools::ports(count);
        let names: Vec<String> = (0..count).map(tls_name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain(["127.0.0.1"]).collect();
        pki.issue(folder.path(), "server", &names);
        let signer = KeyPair::generate().unwrap();
        write_jwt(&folder.path().join("jwt"), &signer, 3600);
        write_jwt(&folder.path().join("expired"), &signer, -600);
        let mut cluster =
            Self { folder, version: version.to_owned(), pki, nodes: Vec::new(), seal_key: seal_key.to_vec() };
        for (index, port) in ports.iter().enumerate() {
            cluster.write_config(index, &ports, &signer);
            let process = cluster.process(index);
            cluster.nodes.push(Node { port: *port, process });
        }
        cluster.wait_for_leader().await;
        cluster.wait_until_unsealed().await;
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn process(&self, index: usize) -> Process {
        let mut command = Command::new(tools::bao(&self.version));
        command.arg("server").arg(format!("-config={}", self.path(&format!("{index}.hcl")).display()));
        Process::start(command, &self.path(&format!("{index}.log")))
    }

    fn write_config(&self, index: usize, ports: &[u16], signer: &KeyPair) {
        let at = self.folder.path().display();
        let (port, cluster_port) = (ports[index], ports[index] + 10_000);
        let joins: String = (0..ports.len())
            .filter(|other| *other != index)
            .map(|other| {
                format!(
                    "  retry_join {{\n    leader_api_addr = \"https://127.0.0.1:{}\"\n    leader_ca_cert_file = \"{at}/ca.crt\"\n  }}\n",
                    ports[other]
                )
            })
            .collect();
        std::fs::create_dir_all(self.path(&format!("{index}"))).unwrap();
        let mut config = format!(
            r#"
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file = "{at}/server.crt"
  tls_key_file = "{at}/server.key"
}}
storage "raft" {{
  path = "{at}/{index}"
  node_id = "c-{index}"
  performance_multiplier = 1
{joins}}}
seal "static" {{
  current_key_id = "{KEY_ID}"
  current_key = "file://{at}/seal.key"
}}
"#
        );
        if index == 0 {
            config += &initialize(signer);
        }
        std::fs::write(self.path(&format!("{index}.hcl")), config).unwrap();
    }

    pub fn seal_key(&self) -> &[u8] {
        &self.seal_key
    }

    pub fn ca_file(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// The projected service account token of the mover, as it were.
    pub fn jwt_file(&self) -> PathBuf {
        self.path("jwt")
    }

    /// One that nobody renewed.
    pub fn expired_jwt_file(&self) -> PathBuf {
        self.path("expired")
    }

    pub fn peers(&self) -> Vec<Peer> {
        let peer = |(index, node): (usize, &Node)| Peer {
            pod: format!("c-{index}"),
            pod_uid: format!("uid-{index}"),
            address: format!("127.0.0.1:{}", node.port),
            tls_name: tls_name(index),
        };
        self.nodes.iter().enumerate().map(peer).collect()
    }

    pub fn client(&self, index: usize) -> Client {
        let address = ([127, 0, 0, 1], self.nodes[index].port).into();
        let ca_pem = Some(self.pki.ca_pem.clone());
        Client::new(&Endpoint { pod: format!("c-{index}"), address, tls_name: tls_name(index), ca_pem }).unwrap()
    }

    pub async fn leader(&self) -> Option<usize> {
        for index in 0..self.nodes.len() {
            let health = self.client(index).health().await;
            if matches!(health, Ok(health) if health.state == HealthState::Active) {
                return Some(index);
            }
        }
        None
    }

    pub async fn wait_for_leader(&self) -> usize {
        eventually("a server leads", Duration::from_secs(60), async || {
            self.leader().await.ok_or_else(|| self.nodes[0].process.last_words())
        })
        .await
    }

    async fn wait_until_unsealed(&self) {
        for index in 0..self.nodes.len() {
            eventually("all servers follow", Duration::from_secs(60), async || {
                match self.client(index).health().await {
                    Ok(health) if matches!(health.state, HealthState::Active | HealthState::Standby) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    }

    /// Until the loss of one server leaves a majority: joiners vote only after a while.
    pub async fn wait_for_voters(&self) {
        let token = self.admin().await;
        eventually("all servers vote", Duration::from_secs(90), async || {
            let leader = self.wait_for_leader().await;
            let seen = self.client(leader).raft_configuration(&token).await.map_err(|error| error.to_string())?;
            let voters = seen.servers.iter().filter(|server| server.voter).count();
            if voters == self.nodes.len() { Ok(()) } else { Err(format!("{voters} voters")) }
        })
        .await;
    }

    /// A token that may do everything.
    pub async fn admin(&self) -> Token {
        let leader = self.wait_for_leader().await;
        let login = self.post(leader, "auth/userpass/login/admin", None, json!({"password": "admin"})).await;
        Token::new(login["auth"]["client_token"].as_str().unwrap())
    }

    pub async fn post(&self, index: usize, path: &str, token: Option<&str>, body: Value) -> Value {
        let roots = reqwest::Certificate::from_pem_bundle(self.pki.ca_pem.as_bytes()).unwrap();
        let http = reqwest::Client::builder().tls_certs_only(roots).build().unwrap();
        let mut request = http.post(format!("https://127.0.0.1:{}/v1/{path}", self.nodes[index].port)).json(&body);
        if let Some(token) = token {
            request = request.header("X-Vault-Token", token);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Stores so many MiB that do not compress, under `secret/`.
    pub async fn fill(&self, mib: usize) {
        let token = self.admin().await;
        let leader = self.wait_for_leader().await;
        let client = self.client(leader);
        let _ = client.put(&token, "sys/mounts/secret", &json!({"type": "kv"})).await;
        let chunk: Vec<u8> = (0..384 * 1024).map(|_| rand::random()).collect();
        let text = base64::engine::general_purpose::STANDARD.encode(chunk);
        for index in 0..mib * 2 {
            client.put(&token, &format!("secret/bulk/{index}"), &json!({"v": text})).await.unwrap();
        }
    }

    pub fn kill(&mut self, index: usize) {
        self.nodes[index].process.kill();
    }

    pub fn start_again(&mut self, index: usize) {
        self.nodes[index].process = self.process(index);
    }
}

/// One attribute per line, as HCL1 wants it.
fn initialize(signer: &KeyPair) -> String {
    let public = signer.public_key_pem();
    let public = public.trim().replace('\n', "\\n");
    let request = |name: &str, path: &str, data: Value| {
        let data: String =
            data.as_object().unwrap().iter().map(|(key, value)| format!("      {key} = {value}\n")).collect();
        let data = data.replace(&public.replace("\\n", "\\\\n"), &public);
        format!(
            "  request \"{name}\" {{\n    operation = \"update\"\n    path = \"{path}\"\n    data = {{\n{data}    }}\n  }}\n"
        )
    };
    let everything = r#"path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }"#;
    let snapshot = r#"path "sys/storage/raft/snapshot" { capabilities = ["read", "update"] }
path "sys/storage/raft/snapshot-force" { capabilities = ["update"] }"#;
    let requests = [
        request("userpass", "sys/auth/userpass", json!({"type": "userpass"})),
        request("everything", "sys/policies/acl/everything", json!({"policy": everything})),
        request("admin", "auth/userpass/users/admin", json!({"password": "admin", "token_policies": ["everything"]})),
        request("snapshot", "sys/policies/acl/snapshot", json!({"policy": snapshot})),
        request("jwt", "sys/auth/jwt", json!({"type": "jwt"})),
        request(
            "jwt-config",
            "auth/jwt/config",
            json!({"bound_issuer": "https://kubernetes.test", "jwt_validation_pubkeys": [signer.public_key_pem().trim()]}),
        ),
        request(
            "jwt-role",
            "auth/jwt/role/backup",
            json!({
                "role_type": "jwt", "bound_audiences": [AUDIENCE], "user_claim": "sub", "bound_subject": SUBJECT,
                "token_policies": ["snapshot"], "token_ttl": "1h",
            }),
        ),
    ];
    format!("initialize \"test\" {{\n{}}}\n", requests.concat())
}

fn tls_name(index: usize) -> String {
    format!("c-{index}.c.test.svc")
}

/// A service account token as an API server would issue it (ES256), good for so many seconds from now.
fn write_jwt(path: &Path, signer: &KeyPair, seconds: i64) {
    let now = chrono::Utc::now().timestamp();
    let issued = now.min(now + seconds) - 10;
    let header = json!({"alg": "ES256", "typ": "JWT"});
    let claims = json!({
        "iss": "https://kubernetes.test", "aud": [AUDIENCE], "sub": SUBJECT, "iat": issued, "nbf": issued,
        "exp": now + seconds,
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = raw_signature(&signer.sign(signed.as_bytes()).unwrap());
    let jwt = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    std::fs::write(path, jwt).unwrap();
}

/// Two integers in DER (`30 len 02 len r 02 len s`) as the 64 bytes that a JWT carries.
fn raw_signature(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut raw = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = if number.len() > 32 { &number[number.len() - 32..] } else { number };
        raw.extend(std::iter::repeat_n(0, 32 - number.len()).chain(number.iter().copied()));
        rest = &rest[2 + length..];
    }
    raw
}
