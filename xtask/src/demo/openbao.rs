//! What an application does with OpenBao: log in with its service account's token, write and read. Through
//! `kubectl port-forward`, so that it works wherever kubectl does; TLS is checked against the cluster's own CA.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::stage::{NAMESPACE, Stage};
use super::{SECRETS, Secrets, name};

/// How long servers may be without a leader before we call it a failure.
const ELECTION: Duration = Duration::from_mins(1);

enum Answer {
    Found(Value),
    Missing,
    NotNow(String),
}

/// A logged-in application. The way to the servers closes with it.
pub struct Client {
    forward: Child,
    port: u16,
    folder: tempfile::TempDir,
    token: String,
}

impl Client {
    pub fn log_in(stage: &Stage) -> Result<Self> {
        let start = Instant::now();
        loop {
            // Right after a restart the pod that was chosen may be the one that goes.
            match Self::try_log_in(stage) {
                Err(error) if start.elapsed() > Duration::from_mins(1) => return Err(error),
                Err(_) => sleep(Duration::from_secs(1)),
                client => return client,
            }
        }
    }

    fn try_log_in(stage: &Stage) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ca = stage.kubectl(&["get", "configmap", "demo-ca", "-o", "jsonpath={.data.ca\\.crt}"])?;
        fs::write(folder.path().join("ca.crt"), ca)?;
        let (forward, port) = forward(stage, folder.path())?;
        let mut client = Self { forward, port, folder, token: String::new() };
        let audience = format!("--audience=openbao:{NAMESPACE}/demo");
        let jwt = stage.kubectl(&["create", "token", "app", &audience, "--duration=10m"])?;
        let login = json!({"role": "app", "jwt": jwt.trim()});
        let answer = client.request("POST", "auth/jwt/login", Some(&login))?.context("no answer to the login")?;
        client.token = answer["auth"]["client_token"].as_str().context("the login gave no token")?.into();
        Ok(client)
    }

    pub fn write(&self, name: &str, value: &str) -> Result<()> {
        self.request("POST", &format!("secret/{name}"), Some(&json!({"value": value}))).map(drop)
    }

    /// Every secret of the demo that can be read.
    pub fn read_all(&self) -> Result<Secrets> {
        let mut found = Secrets::new();
        for number in 0..SECRETS {
            let name = name(number);
            if let Some(answer) = self.request("GET", &format!("secret/{name}"), None)? {
                let value = answer["data"]["value"].as_str().context("a secret without a value")?;
                found.insert(name, value.to_owned());
            }
        }
        Ok(found)
    }

    pub fn remove_engine(&self) -> Result<()> {
        self.request("DELETE", "sys/mounts/secret", None).map(drop)
    }

    /// `None` for what is not there. Everything we ask may be asked twice, so an election is waited out.
    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        let start = Instant::now();
        loop {
            match self.ask(method, path, body)? {
                Answer::Found(value) => return Ok(Some(value)),
                Answer::Missing => return Ok(None),
                Answer::NotNow(_) if start.elapsed() < ELECTION => sleep(Duration::from_millis(500)),
                Answer::NotNow(reason) => bail!("{method} {path}: {reason}"),
            }
        }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let host = format!("demo-public.{NAMESPACE}.svc");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30", "--request", method, "--config", "-"]);
        curl.arg("--cacert").arg(self.folder.path().join("ca.crt"));
        curl.args(["--resolve", &format!("{host}:{}:127.0.0.1", self.port)]);
        curl.args(["--write-out", "\n%{http_code}", &format!("https://{host}:{}/v1/{path}", self.port)]);
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Not on the command line, where every user of the machine reads it.
            if !self.token.is_empty() {
                writeln!(stdin, "header = \"X-Vault-Token: {}\"", self.token)?;
            }
            if let Some(body) = body {
                writeln!(stdin, "data = {}", serde_json::to_string(&body.to_string())?)?;
            }
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{method} {path}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", text.as_ref()));
        match status {
            "200" | "204" => Ok(Answer::Found(serde_json::from_str(body).unwrap_or_default())),
            "404" => Ok(Answer::Missing),
            "500" | "502" | "503" => Ok(Answer::NotNow(format!("{status} {body}"))),
            _ => bail!("{method} {path}: {status} {body}"),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.forward.kill();
        let _ = self.forward.wait();
    }
}

/// kubectl chooses a free port and says which. It goes on to say each connection, so its output needs a place that stays.
fn forward(stage: &Stage, folder: &Path) -> Result<(Child, u16)> {
    let said = folder.join("port-forward");
    let out = File::create(&said)?;
    let mut command = stage.command();
    command.args(["port-forward", "--address", "127.0.0.1", "service/demo-public", ":8200"]);
    let mut child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(&said)?;
        // Forwarding from 127.0.0.1:41233 -> 8200
        let port = text.split("127.0.0.1:").nth(1).and_then(|rest| rest.split_once(' ')).map(|(port, _)| port.parse());
        if let Some(Ok(port)) = port {
            return Ok((child, port));
        }
        if start.elapsed() > Duration::from_secs(20) || child.try_wait()?.is_some() {
            let _ = child.kill();
            let _ = child.wait();
            bail!("kubectl port-forward to the OpenBao servers said `{}`", text.trim())
        }
        sleep(Duration::from_millis(50));
    }
}
