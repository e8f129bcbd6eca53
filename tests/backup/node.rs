//! What a node does to pods, done on purpose: their processes are frozen, starved of memory, their disks filled.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::harness::{Namespace, eventually};

const CGROUPS: &str = "/sys/fs/cgroup";

/// The one pod with this label, once it runs.
pub async fn running(namespace: &Namespace, label: &str) -> Pod {
    eventually(&format!("a pod with {label} runs"), Duration::from_secs(90), async || {
        let pods = namespace.api::<Pod>().list(&ListParams::default().labels(label)).await.unwrap().items;
        let runs = |pod: &Pod| {
            {
                pod.status.as_ref().and_then(|status| {
                    let container = status.container_statuses.as_ref()?.first()?;
                    container.state.as_ref()?.running.as_ref()
                })
            }
            .is_some()
        };
        pods.into_iter().find(runs).ok_or_else(|| "none yet".to_owned())
    })
    .await
}

/// The folder of a pod in a hierarchy of control groups; on a unified one `controller` is empty.
fn group(pod: &Pod, controller: &str) -> PathBuf {
    let name = format!("pod{}", pod.uid().unwrap());
    let root = if unified() { PathBuf::from(CGROUPS) } else { Path::new(CGROUPS).join(controller) };
    below(&root, &name, 5).unwrap_or_else(|| panic!("no group {name} of {controller}"))
}

fn unified() -> bool {
    Path::new(CGROUPS).join("cgroup.controllers").exists()
}

fn below(folder: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let found = folder.join(name);
    if found.exists() {
        return Some(found);
    }
    let folders = fs::read_dir(folder).ok()?.flatten().filter(|entry| entry.path().is_dir());
    folders.filter(|_| depth > 0).find_map(|entry| below(&entry.path(), name, depth - 1))
}

/// All processes of a pod stand still until this is dropped; connections to it are taken and never answered.
pub struct Still(PathBuf);

impl Still {
    pub fn hold(pod: &Pod) -> Self {
        let (file, word) = if unified() { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
        let file = group(pod, "freezer").join(file);
        fs::write(&file, word).unwrap();
        Self(file)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, if unified() { "0" } else { "THAWED" });
    }
}

/// Leaves a pod's containers the memory they have, as far as the kernel allows, and no more.
pub fn starve(pod: &Pod) {
    let file = if unified() { "memory.max" } else { "memory.limit_in_bytes" };
    let groups = fs::read_dir(group(pod, "memory")).unwrap().flatten().filter(|entry| entry.path().is_dir());
    for group in groups {
        // The lowest that is accepted: below it lies memory that cannot be taken away.
        let limits = (1..256_u64).map(|quarter| (quarter << 18).to_string());
        let _ = limits.into_iter().find(|limit| fs::write(group.path().join(file), limit).is_ok());
    }
}

/// Takes so many bytes of a pod's empty directory, on the node.
pub async fn fill(namespace: &Namespace, pod: &Pod, volume: &str, bytes: u64) {
    let root = namespace.cluster().devcluster().root().join("node/kubelet/pods");
    let folder = root.join(pod.uid().unwrap()).join("volumes/kubernetes.io~empty-dir").join(volume);
    let file = folder.join("filler").display().to_string();
    let done = namespace.cluster().inside(&["fallocate", "-l", &bytes.to_string(), &file]).await;
    assert!(done.status.success(), "{file}: {}", String::from_utf8_lossy(&done.stderr));
}
