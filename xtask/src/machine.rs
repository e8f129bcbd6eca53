//! What this machine lacks: said in one sentence each, and installed where we may.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::report::{self, say};

/// The oldest Go that the module files ask for.
pub const GO: (u32, u32, u32) = (1, 26, 6);
/// Free space that a first build needs, and that a built cluster needs (bytes).
pub const DISK_COLD: u64 = 9 << 30;
pub const DISK_WARM: u64 = 3 << 30;

/// What a package brings, so that we know whether it is needed: a program on PATH or a file.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("socat", "socat"),
    ("tini", "tini"),
    ("openssl", "openssl"),
    ("gcc", "gcc"),
    ("pkg-config", "pkg-config"),
    ("curl", "curl"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("sysctl", "procps"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/include/seccomp.h", "libseccomp-dev"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
    ("python3", "python3"),
];

/// Programs live in folders that a plain user's PATH lacks.
pub fn path() -> String {
    let own = env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// Where a program is, or `None`.
pub fn which(program: &str) -> Option<PathBuf> {
    path().split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}

/// Refuses a machine that cannot run a node, whatever is installed.
pub fn can_run_a_node() -> Result<()> {
    if env::consts::OS != "linux" {
        bail!("the devcluster runs on Linux only: it is made of Linux namespaces");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("the devcluster needs root: it makes namespaces, cgroups and network links. Run it again with sudo -E");
    }
    cgroups()
}

fn cgroups() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("could not read /proc/self/mounts")?;
    let usable = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind, options) = (fields.next(), fields.next(), fields.next().unwrap_or_default());
        let writable = options.split(',').any(|option| option == "rw");
        writable
            && place.is_some_and(|place| place.starts_with("/sys/fs/cgroup"))
            && (kind == Some("cgroup2") || (kind == Some("cgroup") && options.split(',').any(|o| o == "memory")))
    });
    if !usable {
        bail!(
            "the devcluster needs cgroups, but none is mounted writable under /sys/fs/cgroup. \
             In a container, start it privileged; elsewhere, mount cgroup2 there"
        );
    }
    Ok(())
}

/// Installs the missing packages where that is ours to do (Debian, root), else names them.
pub fn packages() -> Result<()> {
    let missing = || {
        let mut names: Vec<&str> = PACKAGES
            .iter()
            .filter(
                |(needed, _)| {
                    if needed.starts_with('/') { !Path::new(needed).exists() } else { which(needed).is_none() }
                },
            )
            .map(|(_, package)| *package)
            .collect();
        if Command::new("python3")
            .args(["-m", "pip", "--version"])
            .env("PATH", path())
            .output()
            .is_ok_and(|o| !o.status.success())
        {
            names.push("python3-pip");
        }
        names.dedup();
        names
    };
    let names = missing();
    if names.is_empty() {
        return Ok(());
    }
    let list = names.join(" ");
    if which("apt-get").is_none() || !rustix::process::geteuid().is_root() {
        bail!("this machine lacks: {list} (Debian's names). Install them and run this again");
    }
    say(format!("  installing {list}"));
    let log = env::temp_dir().join("openbao-devcluster-apt.log");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    report::logged("apt-get update", &apt(&["update", "-q"]), &log)?;
    let mut install = apt(&["install", "-q", "-y", "--no-install-recommends"]);
    install.args(&names);
    report::logged("apt-get install", &install, &log)?;
    let still = missing();
    if !still.is_empty() {
        bail!("apt-get installed its packages, but these are still missing: {}", still.join(" "));
    }
    Ok(())
}

/// The version of the Go on this machine, refused when it is too old for the module files.
pub fn go() -> Result<String> {
    let (major, minor, patch) = GO;
    let wanted = format!("Go {major}.{minor}.{patch} or newer (https://go.dev/dl)");
    let Some(go) = which("go") else {
        bail!("the devcluster is compiled from Go modules, and this machine has no Go: install {wanted}");
    };
    let text = report::output(Command::new(&go).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"))?;
    let found = text.trim();
    if version(found).is_none_or(|version| version < GO) {
        bail!("this machine's Go is {found}, too old for the devcluster's modules: install {wanted}");
    }
    Ok(found.to_owned())
}

/// `go1.26.8` and `go1.27rc1`.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    });
    Some((numbers.next()??, numbers.next().flatten()?, numbers.next().flatten().unwrap_or(0)))
}

/// Refuses to begin what would fill the disk.
pub fn disk(folder: &Path, needed: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(folder).with_context(|| format!("could not look at {}", folder.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed {
        bail!(
            "{} has {:.1} GiB free, and {:.0} GiB are needed: free some, or set OPENBAO_DEVCLUSTER_DIR to a larger disk",
            folder.display(),
            gib(free),
            gib(needed)
        );
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for people, to one digit")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_compared_as_numbers() {
        assert_eq!(version("go1.26.8"), Some((1, 26, 8)));
        assert_eq!(version("go1.27rc1"), Some((1, 27, 0)));
        assert!(version("go1.9.1") < Some(GO));
        assert_eq!(version("devel"), None);
    }

    #[test]
    fn a_disk_without_the_space_is_refused_by_name() {
        let error = disk(Path::new("/"), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("OPENBAO_DEVCLUSTER_DIR"), "{error}");
        assert!(disk(Path::new("/"), 1).is_ok());
    }
}
