//! The programs of the node, compiled from Go modules. A part is built when the hash of what goes into it is new, and
//! appears under its hash in one rename: a killed build leaves nothing that a later run would take for whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{Devcluster, KUBERNETES, remove};
use crate::{machine, oci, report, repository};

/// What a node is made of.
pub const NODE: &[&str] = &["kubernetes", "node", "dns", "storage", "pause"];
/// Everything that can be built.
pub const ALL: &[&str] =
    &["kubernetes", "node", "dns", "storage", "pause", "helm", "kwok", "promtool", "registry", "plugin"];

/// Builds the named parts that are missing or changed.
pub fn build(cluster: &Devcluster, names: &[&str]) -> Result<()> {
    let missing: Vec<&str> =
        names.iter().filter(|name| folder(cluster, name).is_ok_and(|f| !f.is_dir())).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    machine::go()?;
    fs::create_dir_all(cluster.root().join("parts"))?;
    if missing.contains(&"kubernetes") {
        machine::disk(cluster.root(), machine::DISK_COLD)?;
    }
    for name in missing {
        build_one(cluster, name).with_context(|| format!("could not build the devcluster's part `{name}`"))?;
    }
    Ok(())
}

/// Where a part's programs lie once built.
pub fn folder(cluster: &Devcluster, name: &str) -> Result<PathBuf> {
    Ok(cluster.root().join("parts").join(format!("{name}-{}", key(name)?)))
}

/// The hash of everything that goes into a part. The Go release is not in it: it changes the bytes, not what they do.
fn key(name: &str) -> Result<String> {
    let source = repository().join("devcluster").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&source)
        .with_context(|| format!("could not read {}", source.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(fs::read(&file)?);
    }
    hash.update(arguments(name).join("\n"));
    Ok(oci::hex(&hash.finalize()[..6]))
}

fn arguments(name: &str) -> Vec<String> {
    let mut flags = "-s -w".to_owned();
    let mut arguments = vec!["build".to_owned(), "-trimpath".into()];
    match name {
        "kubernetes" => {
            // Without these the programs call themselves v0.0.0-master.
            let version = "k8s.io/component-base/version";
            let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
            flags = format!(
                "-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor} \
                 -X {version}.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=v{KUBERNETES}"
            );
        }
        "node" => arguments.extend(["-tags".into(), "seccomp no_btrfs no_devmapper no_zfs".into()]),
        _ => {}
    }
    arguments.push(format!("-ldflags={flags}"));
    // A module with a main package of its own is that program; the others name theirs as tools.
    arguments.push(if matches!(name, "dns" | "pause" | "plugin") { "." } else { "tool" }.into());
    arguments
}

fn build_one(cluster: &Devcluster, name: &str) -> Result<()> {
    let done = folder(cluster, name)?;
    let parts = cluster.root().join("parts");
    // What killed builds left, and what the last module files gave.
    for entry in fs::read_dir(&parts)? {
        let path = entry?.path();
        let stem = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        if stem.starts_with(&format!("{name}-")) && path != done && path.is_dir() {
            remove(&path)?;
        }
    }
    let fresh = parts.join(format!("{name}-building-{}", std::process::id()));
    fs::create_dir_all(&fresh)?;
    let mut go = Command::new(machine::which("go").context("no Go")?);
    let mut arguments = arguments(name);
    let package = arguments.pop().unwrap_or_default();
    go.args(arguments).arg("-o").arg(output(&fresh, name)).arg(package);
    go.current_dir(repository().join("devcluster").join(name));
    // The Go that is installed, the versions that are committed, whatever the user's settings say.
    go.env("PATH", machine::path()).env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
    if name != "node" {
        go.env("CGO_ENABLED", "0");
    }
    if let Err(error) = report::logged(&format!("building {name}"), &go, &parts.join(format!("{name}.log"))) {
        remove(&fresh)?;
        return Err(report::plainly(error, "the Go module proxy"));
    }
    if name == "node" {
        fs::rename(fresh.join("server"), fresh.join("etcd"))?;
    }
    fs::rename(&fresh, &done).with_context(|| format!("could not move {} into place", fresh.display()))
}

fn output(folder: &Path, name: &str) -> PathBuf {
    match name {
        "dns" => folder.join("coredns"),
        "pause" => folder.join("pause"),
        "plugin" => folder.join("plugin"),
        // A trailing slash tells Go that this is a folder.
        _ => folder.join(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_module_files_and_a_key_of_its_own() {
        let keys: std::collections::BTreeSet<String> = ALL.iter().map(|name| key(name).unwrap()).collect();
        assert_eq!(keys.len(), ALL.len());
        for name in NODE {
            assert!(ALL.contains(name));
        }
    }

    #[test]
    fn the_module_files_ask_for_no_newer_go_than_we_check_for() {
        let (major, minor, patch) = machine::GO;
        for name in ALL {
            let text = fs::read_to_string(repository().join("devcluster").join(name).join("go.mod")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("go ")).unwrap();
            let numbers: Vec<u32> = line.split('.').map(|n| n.parse().unwrap()).collect();
            assert!(numbers <= vec![major, minor, patch], "{name} wants Go {line}");
        }
    }

    #[test]
    fn the_kubernetes_we_name_is_the_one_in_the_module_file() {
        let text = fs::read_to_string(repository().join("devcluster/kubernetes/go.mod")).unwrap();
        assert!(text.contains(&format!("k8s.io/kubernetes v{KUBERNETES}")));
    }
}
