//! The node's life: start, find, stop. A node is known by a mark in the environment of its processes, not by a file that a
//! crash could leave wrong.

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Devcluster, images, pki, remove};
use crate::{report, report::say, repository};

/// Environment variable that every process of a node carries; its value names the devcluster.
const MARK: &str = "OPENBAO_DEVCLUSTER_NODE";
/// From namespaces to Ready; measured 4 to 5 s on an idle machine.
const READY: Duration = Duration::from_mins(3);
/// For killed processes to be gone.
const GONE: Duration = Duration::from_secs(20);
/// Files of `devcluster/conf` and where they go under the node's `conf`.
const CONFIGURATION: &[(&str, &str)] = &[
    ("conf/containerd.toml.in", "containerd.toml"),
    ("conf/kubelet.yaml.in", "kubelet.yaml"),
    ("conf/proxy.yaml.in", "proxy.yaml"),
    ("conf/Corefile.in", "Corefile"),
    ("conf/resolv.conf", "resolv.conf"),
    ("conf/host-resolv.conf", "host-resolv.conf"),
    ("conf/addons.yaml", "addons.yaml"),
    ("conf/audit.yaml", "audit.yaml"),
    ("conf/10-bridge.conflist", "cni/10-bridge.conflist"),
    ("conf/local-path.json.in", "local-path/config.json"),
    ("conf/local-path/helperPod.yaml", "local-path/helperPod.yaml"),
    ("conf/local-path/setup", "local-path/setup"),
    ("conf/local-path/teardown", "local-path/teardown"),
    ("node-init", "node-init"),
];

/// The node's first process, as this machine numbers it.
pub fn init(cluster: &Devcluster) -> Result<Option<i32>> {
    // A container's first process is one too for a moment before its own program starts, but lies one level deeper.
    Ok(marked(cluster)?.into_iter().filter_map(|pid| Some((first_of_a_namespace(pid)?, pid))).min().map(|(_, pid)| pid))
}

/// Whether the node that runs was once Ready.
pub fn was_ready(cluster: &Devcluster) -> bool {
    cluster.node_folder().join("run/ready").exists()
}

/// Whether the API server answers, through the relay that everybody uses.
pub fn answers(cluster: &Devcluster) -> Result<bool> {
    let mut kubectl = Command::new("kubectl");
    kubectl.env("PATH", cluster.path()?).arg("--kubeconfig").arg(cluster.kubeconfig());
    kubectl.args(["get", "--raw", "/readyz", "--request-timeout=10s"]);
    Ok(report::output(&mut kubectl).is_ok_and(|answer| answer == "ok"))
}

/// Removes whatever a node left, running or not.
pub fn clear(cluster: &Devcluster) -> Result<()> {
    if !marked(cluster)?.is_empty() && !was_ready(cluster) {
        say("  clearing a node whose start was interrupted");
    }
    stop(cluster)?;
    remove(&cluster.node_folder())?;
    remove(&cluster.kubeconfig())
}

/// Ends every process of the node and removes what it left in the kernel. Its files stay, to be read.
pub fn stop(cluster: &Devcluster) -> Result<()> {
    let first = init(cluster)?;
    let namespace = first.and_then(|pid| fs::read_link(format!("/proc/{pid}/ns/pid")).ok());
    let deadline = Instant::now() + GONE;
    loop {
        let ours = marked(cluster)?;
        for pid in &ours {
            if let Some(pid) = Pid::from_raw(*pid) {
                // It may be gone already.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        // With its first process the whole process namespace dies, pods included, but not at once.
        let members = namespace.as_deref().map_or(Ok(0), members)?;
        if ours.is_empty() && members == 0 {
            break;
        }
        if Instant::now() > deadline {
            bail!("{} processes of the node survived SIGKILL for {} s", ours.len() + members, GONE.as_secs());
        }
        sleep(Duration::from_millis(50));
    }
    cgroups(cluster)?;
    // Mount points that the node needed on the machine itself. Removed only if empty, so only if they were ours.
    for folder in ["/var/lib/kubelet", "/var/lib/cni"] {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// What the running node takes of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Of all its processes, pods included, since they started.
    pub cpu: Duration,
    /// Resident bytes, shared pages counted once (PSS).
    pub memory: u64,
    pub processes: usize,
}

pub fn usage(cluster: &Devcluster) -> Result<Usage> {
    let Some(first) = init(cluster)? else { bail!("no devcluster is up") };
    let mut usage = Usage { cpu: Duration::ZERO, memory: 0, processes: 0 };
    for pid in processes()?.filter(|pid| is_below(*pid, first)) {
        usage.processes += 1;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the command, which may contain spaces: state, parent, …, user and system time as fields 12 and 13.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: u64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum();
        usage.cpu += Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1));
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kib =
            rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok());
        usage.memory += kib.unwrap_or_default() * 1024;
    }
    Ok(usage)
}

/// Whether a process lives in the node, at whatever depth: its numbers end below the node's first process.
fn is_below(pid: i32, first: i32) -> bool {
    let mut current = pid;
    for _ in 0..64 {
        if current == first {
            return true;
        }
        let Ok(status) = fs::read_to_string(format!("/proc/{current}/status")) else { return false };
        let Some(parent) = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()) else {
            return false;
        };
        if parent <= 1 {
            return false;
        }
        current = parent;
    }
    false
}

fn members(namespace: &Path) -> Result<usize> {
    Ok(processes()?.filter(|pid| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|of| of == namespace)).count())
}

/// Every process that carries this devcluster's mark.
fn marked(cluster: &Devcluster) -> Result<Vec<i32>> {
    let mark = format!("{MARK}={}", cluster.id());
    Ok(processes()?
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            })
        })
        .collect())
}

fn processes() -> Result<impl Iterator<Item = i32>> {
    Ok(fs::read_dir("/proc")
        .context("could not read /proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// How many process namespaces deep a process lies, if it is the first of the innermost.
fn first_of_a_namespace(pid: i32) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids: Vec<&str> = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().collect();
    (pids.len() > 1 && pids.last() == Some(&"1")).then_some(pids.len())
}

/// Removes this devcluster's cgroups in every hierarchy.
fn cgroups(cluster: &Devcluster) -> Result<()> {
    let deadline = Instant::now() + GONE;
    for folder in cgroup_folders(cluster)? {
        // A cgroup is busy until the kernel has buried the last process in it.
        while let Err(error) = remove_cgroup(&folder) {
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("could not remove the cgroup {}", folder.display()));
            }
            sleep(Duration::from_millis(50));
        }
        if let Some(top) = folder.parent() {
            move_back(top, cluster);
        }
    }
    Ok(())
}

fn remove_cgroup(folder: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where this devcluster's cgroup is, or would be: one place with cgroup v2, one per controller with v1.
fn cgroup_folders(cluster: &Devcluster) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("could not read /proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup" || kind == "cgroup2").then(|| Path::new(place).join(cluster.id()))
        })
        .collect())
}

fn make_cgroups(cluster: &Devcluster) -> Result<()> {
    for folder in cgroup_folders(cluster)? {
        fs::create_dir_all(&folder).with_context(|| format!("could not create the cgroup {}", folder.display()))?;
        let Some(parent) = folder.parent() else { continue };
        // v2: controllers are handed down level by level.
        if folder.join("cgroup.controllers").exists() {
            make_room(parent, cluster)?;
            let all = fs::read_to_string(parent.join("cgroup.controllers"))?;
            for level in [parent, &folder] {
                for controller in all.split_whitespace() {
                    // One at a time: a controller that cannot be handed down must not keep the others from it.
                    let _ = fs::write(level.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
            handed_down(&folder, &all)?;
            continue;
        }
        // v1: a cpuset without processors takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(parent.join(file)) {
                fs::write(folder.join(file), value)
                    .with_context(|| format!("could not write {file} of {}", folder.display()))?;
            }
        }
    }
    Ok(())
}

/// In a container the top of the cgroups that we see is somebody's leaf: it holds processes, and a cgroup with processes hands
/// no controller down. They move one level down, as every Kubernetes in a container does it. The machine's own root is exempt.
fn make_room(top: &Path, cluster: &Devcluster) -> Result<()> {
    if !top.join("cgroup.type").exists() {
        return Ok(());
    }
    let aside = beside(top, cluster);
    // What is started meanwhile is found the next time.
    for _ in 0..10 {
        let processes = fs::read_to_string(top.join("cgroup.procs")).unwrap_or_default();
        if processes.trim().is_empty() {
            break;
        }
        fs::create_dir_all(&aside).with_context(|| format!("could not create the cgroup {}", aside.display()))?;
        for process in processes.split_whitespace() {
            // One that has ended needs no place.
            let _ = fs::write(aside.join("cgroup.procs"), process);
        }
    }
    Ok(())
}

/// Where the processes are that [`make_room`] moved.
fn beside(top: &Path, cluster: &Devcluster) -> PathBuf {
    top.join(format!("{}-beside", cluster.id()))
}

/// Undoes [`make_room`]. Where somebody else hands controllers down by now, all stays as it is.
fn move_back(top: &Path, cluster: &Devcluster) {
    let aside = beside(top, cluster);
    let Ok(processes) = fs::read_to_string(aside.join("cgroup.procs")) else { return };
    for controller in fs::read_to_string(top.join("cgroup.subtree_control")).unwrap_or_default().split_whitespace() {
        let _ = fs::write(top.join("cgroup.subtree_control"), format!("-{controller}"));
    }
    for process in processes.split_whitespace() {
        let _ = fs::write(top.join("cgroup.procs"), process);
    }
    let _ = fs::remove_dir(&aside);
}

/// Fails when pods would run without limits because the machine keeps these controllers for itself. `offered` are those that this
/// hierarchy has: beside one of version 1 it has none of them.
fn handed_down(folder: &Path, offered: &str) -> Result<()> {
    let got = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    let kept: Vec<&str> =
        ["cpu", "memory", "pids"].into_iter().filter(|name| has(offered, name) && !has(&got, name)).collect();
    if kept.is_empty() {
        return Ok(());
    }
    bail!(
        "the cgroup controllers {} cannot be used below {}: they must be in cgroup.subtree_control of every level above it",
        kept.join(", "),
        folder.display()
    )
}

/// Starts a node and waits until it is Ready.
/// `later` are image archives that are imported once it is: a pod that is faster waits for its own.
pub fn start(cluster: &Devcluster, later: &[PathBuf]) -> Result<()> {
    let (node, logs) = (cluster.node_folder(), cluster.logs());
    remove(&logs)?;
    for folder in [&logs, &node, &node.join("run")] {
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    }
    for (source, target) in CONFIGURATION {
        let target = node.join("conf").join(target);
        fs::create_dir_all(target.parent().unwrap_or(&node))?;
        fs::write(&target, cluster.render(source)?).with_context(|| format!("could not write {}", target.display()))?;
    }
    let mut list = fs::File::create(node.join("conf/later-images"))?;
    for archive in later {
        writeln!(list, "{}", archive.display())?;
    }
    report::step("certificates", || pki::write(cluster, &node.join("pki")))?;
    make_cgroups(cluster)?;
    // Usually built in or loaded; where they can't be loaded, the node says what it misses.
    for module in ["overlay", "br_netfilter", "nf_conntrack"] {
        let _ = Command::new("modprobe").args(["-q", module]).env("PATH", crate::machine::path()).output();
    }

    let mut unshare = daemon(cluster, "unshare", &logs.join("node-init.log"))?;
    unshare.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]);
    unshare.args(["tini", "-s", "--", "bash"]).arg(node.join("conf/node-init"));
    unshare
        .env("NODE", &node)
        .env("LOGS", &logs)
        .env("IMAGES", images::folder(cluster))
        .env("REPOSITORY", repository());
    let mut unshare = unshare.spawn().context("could not start the node with unshare")?;

    // The node reaches no network; its API server comes out through a socket in the file system. The names are relative
    // because a socket's path must be short.
    let mut relay = daemon(cluster, "socat", &logs.join("relay.log"))?;
    relay
        .arg(format!("TCP-LISTEN:{},bind=127.0.0.1,fork,reuseaddr,backlog=256", cluster.port))
        .arg("UNIX-CONNECT:api.sock");
    relay.current_dir(node.join("run"));
    let mut relay = relay.spawn().context("could not start the relay to the API server with socat")?;

    let deadline = Instant::now() + READY;
    let mut timeline = Timeline { path: logs.join("timeline"), read: 0 };
    loop {
        timeline.say_new();
        if was_ready(cluster) {
            break;
        }
        if let Some(status) = unshare.try_wait()? {
            let log = logs.join("node-init.log");
            bail!("the node died while starting ({status}). Log: {}\n{}", log.display(), report::tail(&log));
        }
        if let Some(status) = relay.try_wait()? {
            let log = logs.join("relay.log");
            bail!("the relay to the API server ended ({status}). Log: {}\n{}", log.display(), report::tail(&log));
        }
        if Instant::now() > deadline {
            let log = suspect(&logs);
            bail!(
                "the node is not Ready after {} s. Timeline: {}\nThe log that says most: {}\n{}",
                READY.as_secs(),
                logs.join("timeline").display(),
                log.display(),
                report::tail(&log)
            );
        }
        sleep(Duration::from_millis(50));
    }
    if !answers(cluster)? {
        let log = logs.join("relay.log");
        bail!(
            "the node is Ready, but its API server does not answer outside. Log: {}\n{}",
            log.display(),
            report::tail(&log)
        );
    }
    Ok(())
}

/// A command of the node that outlives us: a session of its own, the mark, its output in `log`.
fn daemon(cluster: &Devcluster, program: &str, log: &Path) -> Result<Command> {
    let out = fs::File::create(log).with_context(|| format!("could not write {}", log.display()))?;
    let mut command = Command::new("setsid");
    // setsid stays the same process only where it leads no group yet, which is so for a plain child of ours.
    command.arg(program).env(MARK, cluster.id()).env("PATH", cluster.path()?);
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).current_dir("/");
    Ok(command)
}

/// The log of the component that ended most often, else the kubelet's: it waits for all others.
fn suspect(logs: &Path) -> PathBuf {
    let timeline = fs::read_to_string(logs.join("timeline")).unwrap_or_default();
    timeline
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2).filter(|_| line.contains(" ended with ")))
        .map(|name| logs.join(format!("{name}.log")))
        .next_back()
        .unwrap_or_else(|| logs.join("kubelet.log"))
}

/// The node writes its progress to a file; this says what is new in it.
struct Timeline {
    path: PathBuf,
    read: u64,
}

impl Timeline {
    fn say_new(&mut self) {
        let Ok(mut file) = fs::File::open(&self.path) else { return };
        let mut text = String::new();
        if file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_string(&mut text)).is_err() {
            return;
        }
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines() {
            say(format!("  {line}"));
        }
        self.read += whole as u64;
    }
}
