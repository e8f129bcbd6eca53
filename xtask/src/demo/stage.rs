//! The cluster that the demo plays on, by kubectl: the same on the devcluster and on somebody's own.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::devcluster::Devcluster;
use crate::report::{self, say};
use crate::stores;

/// Everything of the demo is in it.
pub const NAMESPACE: &str = "openbao-demo";
/// On the namespaces that a demo made, and so may remove.
const OURS: &str = "openbao.org/demo";

/// How much of a reason is told (characters).
const REASON: usize = 150;

#[derive(Debug, Clone)]
pub struct Stage {
    path: String,
    /// kubectl's words that name the cluster.
    cluster: Vec<String>,
    devcluster: bool,
}

impl Stage {
    pub fn devcluster(cluster: &Devcluster) -> Result<Self> {
        let words = vec!["--kubeconfig".into(), cluster.kubeconfig().display().to_string()];
        Ok(Self { path: cluster.path()?, cluster: words, devcluster: true })
    }

    pub fn context(cluster: &Devcluster, name: &str) -> Result<Self> {
        Ok(Self { path: cluster.path()?, cluster: vec!["--context".into(), name.into()], devcluster: false })
    }

    pub fn on_devcluster(&self) -> bool {
        self.devcluster
    }

    /// How a person calls kubectl for this namespace.
    pub fn kubectl_words(&self) -> String {
        if self.devcluster {
            format!("cargo xtask in kubectl -n {NAMESPACE}")
        } else {
            format!("kubectl {} -n {NAMESPACE}", self.cluster.join(" "))
        }
    }

    pub fn command(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl.env("PATH", &self.path).args(&self.cluster).args(["--namespace", NAMESPACE]);
        kubectl
    }

    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        report::output(self.command().args(words))
    }

    pub fn make_namespace(&self) -> Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{{OURS}: \"true\"}}}}\n"
        ))
    }

    pub fn apply(&self, yaml: &str) -> Result<()> {
        let mut command = self.command();
        command
            .args(["apply", "--server-side", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("could not start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(yaml.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl apply failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Waits until `ready` says so, and says each new reason why it is not.
    pub fn watch(
        &self,
        object: &str,
        limit: Duration,
        ready: impl Fn(&Value) -> Result<Result<(), String>>,
    ) -> Result<Value> {
        let start = Instant::now();
        let mut last = String::new();
        loop {
            let found: Value = serde_json::from_str(&self.kubectl(&["get", object, "-o", "json"])?)?;
            let reason = match ready(&found)? {
                Ok(()) => {
                    say(format!("   {object} is there ({})", report::human(start.elapsed())));
                    return Ok(found);
                }
                Err(reason) => reason,
            };
            if reason != last {
                // One line each; the whole of it is in the object's status.
                let line: String = reason.chars().take(REASON).collect();
                say(format!("   {:>6}  {line}", report::human(start.elapsed())));
                last = reason;
            }
            if start.elapsed() > limit {
                let events = self.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).unwrap_or_default();
                bail!("{object} is not there after {}: {last}\n{events}", report::human(limit));
            }
            sleep(Duration::from_millis(500));
        }
    }

    pub fn make_bucket(&self, name: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", "deployment/s3", "--timeout=300s"])?;
        let script = stores::make_bucket(name);
        let start = Instant::now();
        loop {
            let said = self.kubectl(&["exec", "deployment/s3", "--", "sh", "-c", &script]).unwrap_or_default();
            if said.matches(name).count() > 1 {
                return Ok(());
            }
            if start.elapsed() > Duration::from_mins(2) {
                bail!("the S3 server makes no bucket: {said}");
            }
            sleep(Duration::from_secs(1));
        }
    }

    /// Removes what this or an earlier demo made, and waits until it is gone. A namespace of somebody else's stays; on the
    /// devcluster there is nobody else.
    pub fn clear(&self) -> Result<()> {
        let found = self.kubectl(&["get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "json"])?;
        if found.trim().is_empty() {
            return Ok(());
        }
        let found: Value = serde_json::from_str(&found)?;
        if !self.devcluster && found["metadata"]["labels"][OURS].as_str() != Some("true") {
            bail!(
                "there is a namespace {NAMESPACE} that no demo made (it lacks the label {OURS}=true): remove it, or give it \
                 the label if the demo may"
            );
        }
        self.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s"])
            .map(drop)
            .with_context(|| format!("could not delete the namespace {NAMESPACE}"))
    }
}

/// Different on every run.
pub fn nonce() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", now.as_nanos(), std::process::id())
}
