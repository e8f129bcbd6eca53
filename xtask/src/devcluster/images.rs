//! Images of the devcluster: the two that a node cannot do without, and importing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Devcluster, parts};
use crate::oci::{self, Entry, Image};
use crate::report;

/// Holds a pod's namespaces open.
const PAUSE: &str = "registry.k8s.io/pause:3.10.1";
/// The shell of volume helpers and small test pods.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";
const BUSYBOX_COMMANDS: &[&str] = &[
    "sh",
    "mkdir",
    "rm",
    "cat",
    "ls",
    "sleep",
    "nslookup",
    "nc",
    "wget",
    "true",
    "false",
    "chown",
    "chmod",
    "cp",
    "mv",
    "sha256sum",
    "dd",
    "sync",
    "echo",
    "test",
    "seq",
];

/// Where archives wait to be imported.
pub fn folder(cluster: &Devcluster) -> PathBuf {
    cluster.root().join("images")
}

/// Writes the images that every node starts with. Cheap, so done every time: they follow their programs.
pub(super) fn base(cluster: &Devcluster) -> Result<()> {
    let folder = folder(cluster);
    fs::create_dir_all(&folder)?;
    let pause = Image {
        reference: PAUSE.into(),
        entrypoint: vec!["/pause".into()],
        user: "65535:65535".into(),
        entries: vec![Entry::program("pause", parts::folder(cluster, "pause")?.join("pause"))],
        ..Image::default()
    };
    oci::write(&pause, &folder.join("base-pause.tar"))?;
    let busybox =
        Image { reference: BUSYBOX.into(), cmd: vec!["/bin/sh".into()], entries: shell(), ..Image::default() };
    oci::write(&busybox, &folder.join("base-busybox.tar"))?;
    Ok(())
}

/// A shell and its commands, as the first entries of an image.
pub(super) fn shell() -> Vec<Entry> {
    let mut entries =
        vec![Entry::folder("bin"), Entry::folder("tmp").mode(0o1777), Entry::program("bin/busybox", "/bin/busybox")];
    entries.extend(BUSYBOX_COMMANDS.iter().map(|name| Entry::symlink(&format!("bin/{name}"), "busybox")));
    entries
}

/// Makes an archive's image known to the node. A pod started afterwards gets it, also under a tag that existed before.
pub fn import(cluster: &Devcluster, archive: &Path) -> Result<()> {
    let mut command = cluster.inside()?;
    command.args(["ctr", "-n", "k8s.io", "images", "import", "--local"]).arg(archive);
    report::output(&mut command).with_context(|| format!("could not import {}", archive.display()))?;
    Ok(())
}

/// Names of all images the node knows.
pub fn known(cluster: &Devcluster) -> Result<Vec<String>> {
    let mut command = cluster.inside()?;
    command.args(["ctr", "-n", "k8s.io", "images", "ls", "-q"]);
    Ok(report::output(&mut command)?.lines().map(str::to_owned).collect())
}

/// What the dynamic linker would load for a program, at the paths where it looks.
pub(crate) fn libraries(program: &Path) -> Result<Vec<Entry>> {
    let listing = report::output(Command::new("ldd").arg(program))?;
    let mut entries = Vec::new();
    for path in listing.split_whitespace().filter(|word| word.starts_with('/')) {
        let mut folder = String::new();
        for part in Path::new(path.trim_start_matches('/')).parent().into_iter().flat_map(Path::iter) {
            folder = format!("{folder}{}{}", if folder.is_empty() { "" } else { "/" }, part.display());
            if !entries.iter().any(|entry: &Entry| entry.path == format!("{folder}/")) {
                entries.push(Entry::folder(&folder));
            }
        }
        entries.push(Entry::program(path.trim_start_matches('/'), path));
    }
    Ok(entries)
}
