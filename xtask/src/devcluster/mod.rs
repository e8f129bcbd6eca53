//! A real single-node Kubernetes in namespaces of its own: what `cargo xtask up`, `down`, `in` and `kubeconfig` do.
//!
//! Everything lies in one folder. `down` removes what belongs to a node (`node/`, `logs/`, the kubeconfig) and keeps what
//! is costly to make again (`parts/`, `images/`, `wheels/`).

pub mod images;
mod node;
pub mod parts;
mod pki;
pub mod wheels;

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub use node::Usage;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{machine, oci, report, report::say, repository};

/// The Kubernetes this is. The module files under `devcluster/kubernetes` say the same.
pub const KUBERNETES: &str = "1.36.3";
/// The API server's port on 127.0.0.1, unless `OPENBAO_DEVCLUSTER_PORT` says otherwise.
const PORT: u16 = 16443;
/// The node's address; exists only inside.
pub const NODE_ADDRESS: &str = "10.41.0.1";

/// One devcluster: a folder and a port. Two with different ones do not meet.
#[derive(Debug, Clone)]
pub struct Devcluster {
    root: PathBuf,
    port: u16,
}

impl Devcluster {
    /// The one that the environment names: `OPENBAO_DEVCLUSTER_DIR` and `_PORT`, else a folder in the user's cache.
    pub fn from_environment() -> Result<Self> {
        let root = match env::var_os("OPENBAO_DEVCLUSTER_DIR").filter(|value| !value.is_empty()) {
            Some(root) => std::path::absolute(root)?,
            None => match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
                Some(cache) => PathBuf::from(cache).join("openbao-devcluster"),
                None => env::home_dir()
                    .context("no HOME: set OPENBAO_DEVCLUSTER_DIR to a folder for the devcluster")?
                    .join(".cache/openbao-devcluster"),
            },
        };
        // The path ends up in shell words and configuration files.
        if !root.to_str().is_some_and(|root| root.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@".contains(c))) {
            bail!(
                "{} has characters beyond letters, digits and /._-+@: choose another OPENBAO_DEVCLUSTER_DIR",
                root.display()
            );
        }
        let port = match env::var("OPENBAO_DEVCLUSTER_PORT") {
            Ok(port) => port.parse().with_context(|| format!("OPENBAO_DEVCLUSTER_PORT={port} is not a port"))?,
            Err(_) => PORT,
        };
        Ok(Self { root, port })
    }

    /// Another devcluster in `root`, which starts as quickly as this one does: it gets this one's programs and images as
    /// hard links, so `root` must lie on the same disk. The caller takes it down.
    pub fn beside(&self, root: &Path, port: u16) -> Result<Self> {
        for folder in ["parts", "images", "tools"] {
            let (from, to) = (self.root.join(folder), root.join(folder));
            if from.is_dir() && !to.exists() {
                link_tree(&from, &to)
                    .with_context(|| format!("could not link {} to {}", from.display(), to.display()))?;
            }
        }
        Ok(Self { root: root.to_path_buf(), port })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Logs of every component, `audit.log` among them.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// For clients outside the node.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// For clients inside the node's network.
    pub fn inner_kubeconfig(&self) -> PathBuf {
        self.node_folder().join("pki/admin.kubeconfig")
    }

    fn node_folder(&self) -> PathBuf {
        self.root.join("node")
    }

    /// Names this devcluster among several on one machine: in its cgroup, and in the environment of its processes.
    fn id(&self) -> String {
        let sum = Sha256::digest(self.root.as_os_str().as_encoded_bytes());
        format!("openbao-devcluster-{}", oci::hex(&sum[..4]))
    }

    /// PATH with the built parts first.
    pub fn path(&self) -> Result<String> {
        let mut folders = Vec::new();
        for part in parts::ALL {
            let folder = parts::folder(self, part)?;
            if folder.is_dir() {
                folders.push(folder.display().to_string());
            }
        }
        Ok(format!("{}:{}", folders.join(":"), machine::path()))
    }

    /// Brings it up, whatever state the last run left. Returns at once when it is up and healthy.
    pub fn up(&self) -> Result<()> {
        let start = Instant::now();
        machine::can_run_a_node()?;
        machine::packages()?;
        let _lock = self.lock("up")?;
        if self.is_up()? {
            say(format!("devcluster is up already ({})", self.root.display()));
            return Ok(());
        }
        say(format!("devcluster: Kubernetes {KUBERNETES} in {}", self.root.display()));
        node::clear(self)?;
        self.port_is_free()?;
        machine::disk(&self.root, machine::DISK_WARM)?;
        parts::build(self, parts::NODE)?;
        images::base(self)?;
        let later = wheels::archives(self)?;
        if let Err(error) = node::start(self, &later) {
            // Nothing half-started stays behind; the logs do, to be read.
            node::stop(self).context("and what had started could not be stopped")?;
            return Err(error);
        }
        say(format!("node Ready after {}. Next:", report::human(start.elapsed())));
        say(format!("  export KUBECONFIG={}", self.kubeconfig().display()));
        Ok(())
    }

    /// Takes it down: no process, mount, cgroup or file of the node stays.
    pub fn down(&self) -> Result<()> {
        if !self.root.exists() {
            say("no devcluster to take down");
            return Ok(());
        }
        machine::can_run_a_node()?;
        let _lock = self.lock("down")?;
        node::clear(self)?;
        remove(&self.logs())?;
        say("devcluster is down");
        Ok(())
    }

    /// Whether a node runs that was Ready and whose API server answers.
    pub fn is_up(&self) -> Result<bool> {
        Ok(node::init(self)?.is_some() && node::was_ready(self) && node::answers(self)?)
    }

    /// A command to be run inside the node: its network and processes, this machine's files, the same working directory.
    pub fn inside(&self) -> Result<Command> {
        let Some(init) = node::init(self)? else {
            bail!("no devcluster is up: run `cargo xtask up` first");
        };
        let mut command = Command::new("nsenter");
        command.args(["-t", &init.to_string(), "--mount", "--net", "--pid", "--uts", "--ipc", "--"]);
        // nsenter starts in the node's root directory; people mean theirs.
        command.args(["/bin/sh", "-c", "cd \"$0\" 2>/dev/null; exec \"$@\""]).arg(env::current_dir()?);
        command.env("PATH", self.path()?).env("KUBECONFIG", self.inner_kubeconfig());
        Ok(command)
    }

    /// Like [`Self::inside`], but in this machine's process table and only with the node's network and names: a signal
    /// to the child reaches the program itself, and the program ends with the thread that started it.
    pub fn inside_network(&self) -> Result<Command> {
        let Some(init) = node::init(self)? else {
            bail!("no devcluster is up: run `cargo xtask up` first");
        };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "nsenter", "-t", &init.to_string(), "--net", "--"]);
        // Each of these replaces itself with the next, so the process stays the same one.
        command.args(["unshare", "--mount", "--", "/bin/sh", "-c"]);
        command.arg("mount --bind \"$0\" \"$(readlink -f /etc/resolv.conf)\" && exec \"$@\"");
        command.arg(self.node_folder().join("conf/host-resolv.conf"));
        command.env("PATH", self.path()?).env("KUBECONFIG", self.inner_kubeconfig());
        Ok(command)
    }

    /// What the running node takes of this machine.
    pub fn usage(&self) -> Result<Usage> {
        node::usage(self)
    }

    fn port_is_free(&self) -> Result<()> {
        let address = ("127.0.0.1", self.port);
        std::net::TcpListener::bind(address).map(drop).with_context(|| {
            format!(
                "port {} of 127.0.0.1 is taken by another program: end it, or set OPENBAO_DEVCLUSTER_PORT to a free one",
                self.port
            )
        })
    }

    /// One run at a time changes a devcluster. Waits for the other one, and says whom it waits for.
    fn lock(&self, what: &str) -> Result<File> {
        fs::create_dir_all(&self.root).with_context(|| format!("could not create {}", self.root.display()))?;
        let path = self.root.join("lock");
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("could not open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                say(format!("another run holds this devcluster ({}): waiting until it is done", holder.trim()));
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error).context(format!("could not lock {}", path.display())),
        }
        // Only for the message above: on a full disk the lock is a lock all the same.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "`{what}`, process {}", std::process::id()));
        Ok(file)
    }

    /// A file of `devcluster/` with the places of this devcluster filled in.
    fn render(&self, name: &str) -> Result<String> {
        let path = repository().join("devcluster").join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let node = self.node_folder();
        let bin = parts::folder(self, "node")?;
        Ok(text
            .replace("@NODE@", &node.display().to_string())
            .replace("@LOGS@", &self.logs().display().to_string())
            .replace("@NODE_BIN@", &bin.display().to_string())
            .replace("@ID@", &self.id()))
    }
}

/// A copy of a folder whose files are the same files. What is being written is left out.
fn link_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let hidden = name.to_str().is_some_and(|name| name.starts_with('.') || name.contains("-building-"));
        if kind.is_dir() && !hidden {
            link_tree(&entry.path(), &to.join(&name))?;
        } else if kind.is_file() && !hidden {
            match fs::hard_link(entry.path(), to.join(&name)) {
                // Written and removed by another run meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// Removes a folder or file if it exists.
fn remove(path: &Path) -> Result<()> {
    let done = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
