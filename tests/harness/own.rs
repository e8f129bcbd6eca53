//! A devcluster of one test's own, for what would disturb others on the shared one: an operator that watches every
//! namespace, definitions that are missing, an API server that goes away.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use xtask::devcluster::{Devcluster, parts};
use xtask::image;
use xtask::install::NAMESPACE;

use super::Cluster;

/// Taken down, and its folder removed, when dropped.
pub struct Own {
    cluster: Cluster,
}

impl Own {
    /// Starts beside the shared one, with its programs and images.
    pub async fn start(name: &str) -> Self {
        Self::with(name, &["helm"]).await
    }

    /// The same with more of the devcluster's parts than its node.
    pub async fn with(name: &str, more: &'static [&'static str]) -> Self {
        let name = name.to_owned();
        let devcluster = tokio::task::spawn_blocking(move || {
            let shared = Devcluster::from_environment().expect("the devcluster's settings");
            parts::build(&shared, parts::NODE).expect("the node's programs");
            parts::build(&shared, more).expect("the programs beside it");
            let root = shared.root().with_file_name(format!("openbao-devcluster-of-{name}"));
            let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
            let own = shared.beside(&root, port).expect("a devcluster beside");
            // What a killed run left.
            own.down().expect("no node of an earlier run");
            own.up().unwrap_or_else(|error| panic!("the devcluster did not come up: {error:#}"));
            own
        })
        .await
        .expect("the devcluster comes up");
        Self { cluster: Cluster::of(devcluster).await }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn devcluster(&self) -> &Devcluster {
        self.cluster.devcluster()
    }

    /// The values that name our two programs, as this test run compiled them, as the chart's image.
    pub async fn image(&self) -> Vec<String> {
        let devcluster = self.devcluster().clone();
        let tag = tokio::task::spawn_blocking(move || {
            let operator = Path::new(env!("CARGO_BIN_EXE_openbao-operator"));
            let mover = Path::new(env!("CARGO_BIN_EXE_bao-backup"));
            image::load_programs(&devcluster, operator, mover).expect("the operator's image").tag
        });
        vec![format!("image.repository={}", image::REPOSITORY), format!("image.tag={}", tag.await.expect("a tag"))]
    }

    /// Helm as a person runs it.
    pub fn helm(&self, words: &[&str]) -> Output {
        let mut helm = Command::new("helm");
        helm.env("PATH", self.devcluster().path().expect("a path")).stdin(Stdio::null());
        helm.arg("--kubeconfig").arg(self.devcluster().kubeconfig()).args(words);
        helm.args(["--namespace", NAMESPACE]).output().expect("helm starts")
    }

    /// The same for what must succeed; returns what it says.
    pub fn expect_helm(&self, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.helm(words);
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "helm {words:?}: {status}\n{said}\n{}", self.last_words());
        said
    }

    /// The plugin as a person runs it: its exit code, and what it says on both outputs.
    pub fn plugin(&self, words: &[&str]) -> (Option<i32>, String) {
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_kubectl-openbao"));
        plugin.env("KUBECONFIG", self.devcluster().kubeconfig()).args(words).stdin(Stdio::null());
        let Output { status, stdout, stderr } = plugin.output().expect("the plugin starts");
        (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
    }

    /// The same for what must succeed.
    pub fn expect_plugin(&self, words: &[&str]) -> String {
        let (code, said) = self.plugin(words);
        assert_eq!(code, Some(0), "kubectl openbao {words:?}: {said}\n{}", self.last_words());
        said
    }

    pub async fn kubectl(&self, words: &[&str]) -> String {
        self.cluster.kubectl(words).await
    }

    /// As kubectl prints it with `-o json`.
    pub async fn get(&self, words: &[&str]) -> Value {
        let words = [&["get", "-o", "json"], words].concat();
        serde_json::from_str(&self.kubectl(&words).await).expect("JSON")
    }

    /// Sends a signal to one of the node's programs. Stopped, it answers nobody; killed, it is started again at once.
    pub fn signal(&self, program: &str, signal: Signal) {
        let begins = format!("{program}\0");
        // Of this devcluster only: its paths say so.
        let of_node = format!("{}/", self.devcluster().root().display());
        let mut found = 0;
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if command.starts_with(&begins) && command.contains(&of_node) {
                let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw).expect("a process");
                kill_process(pid, signal).expect("a signal");
                found += 1;
            }
        }
        assert_eq!(found, 1, "one {program} of {of_node}");
    }

    /// What the operator said last, for failures.
    fn last_words(&self) -> String {
        let mut kubectl = Command::new("kubectl");
        kubectl.env("PATH", self.devcluster().path().unwrap_or_default());
        kubectl.arg("--kubeconfig").arg(self.devcluster().kubeconfig());
        kubectl.args(["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=openbao-operator", "--tail=15"]);
        let said = kubectl.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        format!("the operator's last words:\n{}", said.unwrap_or_default())
    }

    fn root(&self) -> PathBuf {
        self.devcluster().root().to_path_buf()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if std::env::var_os("OPENBAO_TEST_KEEP").is_some() {
            eprintln!("kept: OPENBAO_DEVCLUSTER_DIR={}", self.root().display());
            return;
        }
        if let Err(error) = self.devcluster().down() {
            eprintln!("the test's own devcluster could not be taken down: {error:#}");
            return;
        }
        let _ = fs::remove_dir_all(self.root());
    }
}
