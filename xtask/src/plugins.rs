//! A plugin of OpenBao for the tests, in the two ways in which servers come by one: in their own image, and from a registry that has it.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::devcluster::{Devcluster, images, parts, wheels};
use crate::oci::{self, Entry, Image};
use crate::report;

/// The file, in both images.
pub const FILE: &str = "word";
/// What it says of itself, and its tag. `devcluster/plugin` says the same.
pub const VERSION: &str = "v1.0.0";
/// Where the registry listens, without TLS.
pub const PORT: u16 = 5000;
/// Its files, as the registry's own storage has them.
const STORAGE: &str = "var/lib/registry/docker/registry/v2";
const SETTINGS: &str =
    "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\nhttp: {addr: ':5000'}\n";

/// Images in the devcluster.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The plugin's SHA-256.
    pub sum: String,
    /// OpenBao with the plugin in it.
    pub server: String,
    /// A registry that has the image [`FILE`] with the plugin in its root.
    pub registry: String,
}

/// Builds what is missing and makes both images known to the devcluster.
pub fn load(cluster: &Devcluster) -> Result<Loaded> {
    parts::build(cluster, &["plugin", "registry"])?;
    let plugin = parts::folder(cluster, "plugin")?.join("plugin");
    let sum = oci::hex(&Sha256::digest(fs::read(&plugin)?));
    let newest = wheels::OPENBAO.first().context("no OpenBao is pinned")?;
    let tag = sum.get(..12).unwrap_or_default();
    let server = format!("example.org/openbao-{tag}:{}", newest.version);
    let registry = format!("example.org/registry:{tag}");
    let known = images::known(cluster)?;
    let folder = tempfile::tempdir_in(images::folder(cluster))?;
    let archive = folder.path().join("image.tar");
    if !known.contains(&server) {
        report::step("image of OpenBao with a plugin", || {
            let file = Entry::program(&format!("openbao/plugins/{FILE}"), &plugin);
            wheels::openbao_with(newest, server.clone(), vec![file], &archive)?;
            images::import(cluster, &archive)
        })?;
    }
    if !known.contains(&registry) {
        report::step("image of a registry with a plugin", || {
            let program = parts::folder(cluster, "registry")?.join("registry");
            oci::write(&with_plugin(&registry, &program, &plugin, folder.path())?, &archive)?;
            images::import(cluster, &archive)
        })?;
    }
    Ok(Loaded { sum, server, registry })
}

/// The registry, with the plugin's image in its storage: nobody has to push it.
fn with_plugin(reference: &str, program: &Path, plugin: &Path, folder: &Path) -> Result<Image> {
    let image = Image {
        reference: format!("example.org/{FILE}:{VERSION}"),
        entrypoint: vec![format!("/{FILE}")],
        entries: vec![Entry::program(FILE, plugin)],
        ..Image::default()
    };
    let packed = folder.join("plugin.tar");
    let manifest = oci::write(&image, &packed)?;
    let repository = format!("{STORAGE}/repositories/{FILE}");
    let mut entries = vec![Entry::folder("bin"), Entry::program("bin/registry", program)];
    let mut archive = tar::Archive::new(File::open(&packed)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let Some(sum) = name.strip_prefix("blobs/sha256/").map(str::to_owned) else { continue };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        let start = sum.get(..2).unwrap_or_default();
        place(&format!("{STORAGE}/blobs/sha256/{start}/{sum}/data"), bytes, &mut entries);
        let digest = format!("sha256:{sum}");
        if digest == manifest {
            let tag = format!("{repository}/_manifests/tags/{VERSION}");
            for path in [
                format!("{repository}/_manifests/revisions/sha256/{sum}/link"),
                format!("{tag}/current/link"),
                format!("{tag}/index/sha256/{sum}/link"),
            ] {
                place(&path, digest.clone(), &mut entries);
            }
        } else {
            place(&format!("{repository}/_layers/sha256/{sum}/link"), digest, &mut entries);
        }
    }
    place("etc/registry.yml", SETTINGS, &mut entries);
    Ok(Image {
        reference: reference.to_owned(),
        entrypoint: vec!["/bin/registry".into(), "serve".into(), "/etc/registry.yml".into()],
        user: "1000:1000".into(),
        // Nobody here takes traces.
        env: vec!["OTEL_TRACES_EXPORTER=none".into()],
        entries,
        ..Image::default()
    })
}

/// A file, after the folders that it needs and that are not there yet.
fn place(path: &str, content: impl Into<Vec<u8>>, entries: &mut Vec<Entry>) {
    for (at, _) in path.match_indices('/') {
        let folder = path.get(..at).unwrap_or_default();
        if !entries.iter().any(|entry| entry.path == format!("{folder}/")) {
            entries.push(Entry::folder(folder));
        }
    }
    entries.push(Entry::text(path, content));
}

/// The registry as objects for Kubernetes.
pub fn manifest(loaded: &Loaded) -> String {
    let image = &loaded.registry;
    format!(
        r"apiVersion: v1
kind: Service
metadata: {{name: registry}}
spec: {{selector: {{app: registry}}, ports: [{{port: {PORT}}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: registry}}
spec:
  selector: {{matchLabels: {{app: registry}}}}
  template:
    metadata: {{labels: {{app: registry}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: registry
        image: {image}
        readinessProbe: {{tcpSocket: {{port: {PORT}}}, periodSeconds: 1}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{oci::Content, repository};

    #[test]
    fn the_plugin_says_the_version_that_it_is_declared_with() {
        let text = fs::read_to_string(repository().join("devcluster/plugin/main.go")).unwrap();
        assert!(text.contains(&format!("const version = \"{VERSION}\"")));
    }

    #[test]
    fn the_registry_has_three_blobs_a_link_to_each_and_every_folder_before_what_lies_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "a program").unwrap();
        let image = with_plugin("example.org/registry:1", &program, &program, folder.path()).unwrap();
        let files = |part: &str, end: &str| {
            let is_it = |entry: &&Entry| entry.path.contains(part) && entry.path.ends_with(end);
            image.entries.iter().filter(is_it).count()
        };
        assert_eq!((files("/blobs/", "/data"), files("/_layers/", "/link"), files("/_manifests/", "/link")), (3, 2, 3));
        let mut folders = std::collections::BTreeSet::new();
        for entry in &image.entries {
            let path = entry.path.trim_end_matches('/');
            if let Some((parent, _)) = path.rsplit_once('/') {
                assert!(folders.contains(parent), "{path}");
            }
            if matches!(entry.content, Content::Folder) {
                assert!(folders.insert(path.to_owned()), "{path} twice");
            }
        }
    }
}
