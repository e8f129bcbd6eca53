//! The mover as a process of its own, as a Job runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use openbao_operator::datapath::environment as env;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use super::bao::Bao;
use super::stores::Running;

/// One run to be.
pub struct Mover {
    program: String,
    command: &'static str,
    variables: BTreeMap<String, String>,
    arguments: Vec<String>,
    /// A command that runs the mover's as its own arguments.
    around: Vec<String>,
    folder: TempDir,
}

/// How it went.
pub struct Ended {
    pub code: i32,
    /// The last line of its output.
    pub result: Value,
    /// What stood in the termination message.
    pub message: Value,
    pub stderr: String,
    /// The most memory it had resident, in KiB.
    pub peak_kib: u64,
    /// Seconds of processor time, user and system.
    pub cpu: f64,
    pub took: Duration,
}

impl Ended {
    pub fn done<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.code, 0, "{}\n{}", self.result, self.stderr);
        serde_json::from_value(self.result.clone()).unwrap()
    }

    pub fn reason(&self) -> (&str, &str) {
        (self.result["cause"].as_str().unwrap_or_default(), self.result["reason"].as_str().unwrap_or_default())
    }
}

impl Mover {
    pub fn new(command: &'static str, store: &Running) -> Self {
        let mut mover = Self {
            program: env!("CARGO_BIN_EXE_bao-backup").to_owned(),
            command,
            variables: BTreeMap::new(),
            arguments: Vec::new(),
            around: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        mover.set(env::TARGET, &store.target_json());
        mover.set(env::CREDENTIALS_DIR, &store.credentials().display().to_string());
        mover.set(env::NAMESPACE, "test");
        mover.set(env::CLUSTER, "c");
        mover.set(env::TERMINATION_LOG, &mover.folder.path().join("termination").display().to_string());
        mover
    }

    /// A backup of `bao` with a spool.
    pub fn backup(bao: &Bao, store: &Running) -> Self {
        let mut mover = Self::new("backup", store);
        mover.set(env::PEERS, &serde_json::to_string(&bao.peers()).unwrap());
        mover.log_in(bao);
        mover.set(env::SCRATCH, &mover.scratch().display().to_string());
        mover.set(env::OPERATION_UID, &format!("{:08x}-test", rand::random::<u32>()));
        mover
    }

    pub fn log_in(&mut self, bao: &Bao) {
        self.set(env::CA_FILE, &bao.ca_file().display().to_string());
        self.set(env::JWT_FILE, &bao.jwt_file().display().to_string());
        self.set(env::JWT_ROLE, "backup");
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    pub fn unset(&mut self, name: &str) {
        self.variables.remove(name);
    }

    /// Another build of it.
    pub fn program(mut self, program: &str) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Runs it by a command that ends by running what follows it.
    pub fn within(&mut self, around: &[&str]) {
        self.around = around.iter().map(ToString::to_string).collect();
        self.set("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    }

    pub fn scratch(&self) -> PathBuf {
        let path = self.folder.path().join("scratch");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn start(self) -> Started {
        let words: Vec<&str> = self.around.iter().map(String::as_str).chain([self.program.as_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(self.command).args(&self.arguments).env_clear().envs(&self.variables);
        // Files instead of pipes: nobody has to read while it runs.
        let (out, err) = (self.folder.path().join("out"), self.folder.path().join("err"));
        command.stdin(Stdio::null());
        command.stdout(std::fs::File::create(&out).unwrap()).stderr(std::fs::File::create(&err).unwrap());
        Started { child: command.spawn().unwrap(), folder: self.folder, began: Instant::now() }
    }

    pub async fn run(self) -> Ended {
        self.start().wait().await
    }
}

/// One that runs.
pub struct Started {
    child: Child,
    folder: TempDir,
    began: Instant,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Started {
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// As a kubelet tells a pod to end.
    pub fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Bytes in its spool.
    pub fn spooled(&self) -> u64 {
        let files = std::fs::read_dir(self.folder.path().join("scratch")).into_iter().flatten();
        files.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
    }

    /// Waits until its spool holds at least so many bytes.
    pub async fn spools(&mut self, bytes: u64) {
        let limit = Instant::now() + Duration::from_secs(60);
        while self.spooled() < bytes {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended before: {}", self.stderr());
            assert!(Instant::now() < limit, "only {} bytes spooled: {}", self.spooled(), self.stderr());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("err")).unwrap_or_default()
    }

    pub async fn wait(mut self) -> Ended {
        let (mut peak_kib, mut cpu) = (0, 0.0);
        let limit = Instant::now() + Duration::from_mins(5);
        let status = loop {
            peak_kib = peak(self.child.id()).unwrap_or(0).max(peak_kib);
            cpu = cpu_seconds(self.child.id()).unwrap_or(cpu);
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > limit {
                self.kill();
                panic!("the mover did not end: {}", self.stderr());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let took = self.began.elapsed();
        let out = std::fs::read_to_string(self.folder.path().join("out")).unwrap();
        let result = out.lines().last().map(|line| serde_json::from_str(line).unwrap()).unwrap_or_default();
        let message = read_json(&self.folder.path().join("termination"));
        Ended { code: status.code().unwrap_or(-1), result, message, stderr: self.stderr(), peak_kib, cpu, took }
    }
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// The kernel's own high-water mark, while the process lives.
fn peak(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// User and system time so far, from clock ticks of which Linux shows a hundred a second.
fn cpu_seconds(id: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}
