//! The operator as a process in the node's network, which can be stopped politely, killed, and started again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use xtask::devcluster::parts;

use super::Namespace;

/// The name of the operator's service account in the test's namespace, and of its lease.
pub const ACCOUNT: &str = "openbao-operator";

/// An operator that watches one test's namespace only, and is ended with SIGKILL when dropped.
pub struct Operator {
    child: Child,
    log: PathBuf,
    port: u16,
    cluster: super::Cluster,
}

impl Operator {
    /// Starts it with a service account of its own in the test's namespace, and returns once it says that it is alive.
    /// `env` adds to or replaces the variables it is given.
    pub async fn start(namespace: &Namespace, env: &[(&str, &str)]) -> Self {
        let operator = Self::launch(namespace, env).await;
        operator.await_alive().await;
        operator
    }

    /// The program of the image, optimised as people get it: for benchmarks.
    pub async fn start_released(namespace: &Namespace, env: &[(&str, &str)]) -> Self {
        let program = tokio::task::spawn_blocking(|| xtask::image::programs(&[]));
        let program = program.await.unwrap().expect("the image's program");
        let operator = Self::launch_program(namespace, &program, env).await;
        operator.await_alive().await;
        operator
    }

    /// As [`Self::start`], without waiting for anything.
    pub async fn launch(namespace: &Namespace, env: &[(&str, &str)]) -> Self {
        Self::launch_program(namespace, Path::new(env!("CARGO_BIN_EXE_openbao-operator")), env).await
    }

    /// Another build of it.
    pub async fn launch_program(namespace: &Namespace, program: &Path, env: &[(&str, &str)]) -> Self {
        let watched = env.iter().find(|(key, _)| *key == "OPENBAO_WATCH_NAMESPACES").map(|(_, list)| *list);
        let kubeconfig = identity(namespace, watched.unwrap_or(namespace.name())).await;
        let image = namespace.cluster().operator_image().await;
        let number = (1..1000).find(|n| !namespace.folder().join(format!("operator-{n}.log")).exists()).unwrap_or(1);
        let log = namespace.folder().join(format!("operator-{number}.log"));
        let out = File::create(&log).expect("the operator's log");
        let port = port();
        let devcluster = namespace.cluster().devcluster();
        let mut command = devcluster.inside_network().expect("a running node");
        command.arg(program);
        command.env("KUBECONFIG", &kubeconfig);
        command.env("OPENBAO_WATCH_NAMESPACES", namespace.name());
        command.env("POD_NAMESPACE", namespace.name());
        command.env("POD_NAME", format!("operator-{number}"));
        command.env("OPENBAO_OPERATOR_SERVICE_ACCOUNT", ACCOUNT);
        command.env("OPENBAO_OPERATOR_IMAGE", &image);
        command.env("OPENBAO_LISTEN", format!("127.0.0.1:{port}"));
        command.env(
            "RUST_LOG",
            std::env::var("OPENBAO_TEST_LOG").unwrap_or_else(|_| "info,openbao_operator=debug".into()),
        );
        command.env("RUST_BACKTRACE", "1");
        command.envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("its log")).stderr(out);
        let child = command.spawn().expect("nsenter starts");
        Self { child, log, port, cluster: namespace.cluster().clone() }
    }

    async fn await_alive(&self) {
        super::eventually("the operator is alive", Duration::from_secs(30), async || self.http("/healthz").await).await;
    }

    /// What its own HTTP server answers: `/healthz`, `/readyz`, `/metrics`.
    pub async fn http(&self, path: &str) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let output = self.cluster.inside(&["curl", "-sS", "--fail-with-body", "--max-time", "5", &url]).await;
        let body = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(body)
        } else {
            Err(format!("{body}{}{}", String::from_utf8_lossy(&output.stderr), self.last_words()))
        }
    }

    /// Its process on this machine.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process number")
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL: it gets no chance to tidy up. Returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, as Kubernetes ends a pod. Fails the test if it is not gone within `limit`.
    pub async fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(limit).await
    }

    /// Waits for its end, whoever asked for it. A second SIGTERM would be an order to leave at once.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(
                start.elapsed() < limit,
                "the operator ignored SIGTERM for {} s{}",
                limit.as_secs(),
                self.last_words()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Any other signal: STOP and CONT make it deaf for a while.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Everything it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its JSON lines, oldest first.
    pub fn lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.told("VmRSS:")
    }

    /// The most that was resident so far, in bytes: what a limit has to allow.
    pub fn peak(&self) -> u64 {
        self.told("VmHWM:")
    }

    fn told(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("\nits last words ({}):\n{}", self.log.display(), lines[lines.len().saturating_sub(12)..].join("\n"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A kubeconfig with a token of the operator's own service account, so that the audit log tells its requests from the
/// test's and it asks for tokens of itself only. Its rights are the chart's, for this namespace: with more, a right that
/// is missing would be found by the first user.
async fn identity(namespace: &Namespace, watched: &str) -> PathBuf {
    let path = namespace.folder().join("operator.kubeconfig");
    if path.exists() {
        return path;
    }
    // They name their namespaces: some lie in the watched ones.
    let file = namespace.folder().join("rights.yaml");
    fs::write(&file, rights(namespace, watched)).expect("the manifest is written");
    let file = file.display().to_string();
    namespace.cluster().kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]).await;
    fs::write(&path, token_kubeconfig(namespace).await).expect("the operator's kubeconfig");
    path
}

/// The chart's service account and rights, as it renders them for a list of namespaces; for an empty one, for all.
pub fn rights(namespace: &Namespace, watched: &str) -> String {
    let devcluster = namespace.cluster().devcluster();
    parts::build(devcluster, &["helm"]).expect("helm");
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/openbao-operator");
    let mut helm = Command::new("helm");
    helm.env("PATH", devcluster.path().expect("a path")).args(["template", ACCOUNT]).arg(chart);
    helm.args(["--namespace", namespace.name()]);
    let watch =
        if watched.is_empty() { "watchNamespaces=null".to_owned() } else { format!("watchNamespaces={{{watched}}}") };
    let none =
        ["crds.install=false", "rbac.aggregate=false", "rbac.issuerDiscovery=false", "rbac.apiServerDiscovery=false"];
    for set in [watch.as_str()].into_iter().chain(none) {
        helm.args(["--set", set]);
    }
    for template in ["rbac", "serviceaccount"] {
        helm.args(["--show-only", &format!("templates/{template}.yaml")]);
    }
    let output = helm.output().expect("helm starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("YAML")
}

/// A kubeconfig with a new token each time: the audit log tells the tokens of one account apart.
pub async fn token_kubeconfig(namespace: &Namespace) -> String {
    let request = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(6 * 3600), ..TokenRequestSpec::default() },
        ..TokenRequest::default()
    };
    let token = namespace
        .api::<ServiceAccount>()
        .create_token_request(ACCOUNT, &PostParams::default(), &request)
        .await
        .expect("a token for the operator")
        .status
        .expect("a token in the answer")
        .token;
    let admin = namespace.cluster().devcluster().inner_kubeconfig();
    let admin = fs::read_to_string(admin).expect("the administrator's kubeconfig");
    let mut config: Value = serde_saphyr::from_str(&admin).expect("YAML");
    config["users"] = serde_json::json!([{"name": "admin", "user": {"token": token}}]);
    config.to_string()
}

/// A port that no other operator of this machine's tests takes.
fn port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    20_000 + u16::try_from(number % 12_000).unwrap_or_default()
}
