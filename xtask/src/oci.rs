//! Container images without a container engine: one layer, one architecture, in the OCI archive that `ctr images import`
//! reads. The same content gives the same bytes and so the same digest.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// What a container started from the image gets.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Full name with tag: `docker.io/openbao/openbao:2.7.2`.
    pub reference: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `uid` or `uid:gid`; empty is root.
    pub user: String,
    /// In the order they are written: a folder before what lies in it.
    pub entries: Vec<Entry>,
}

/// One file of the layer. Paths have no leading slash.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: String,
    pub mode: u32,
    /// uid and gid.
    pub owner: (u64, u64),
    pub content: Content,
}

#[derive(Debug, Clone)]
pub enum Content {
    Folder,
    File(PathBuf),
    Bytes(Vec<u8>),
    Symlink(String),
    /// To a path of an earlier entry.
    Hardlink(String),
}

impl Entry {
    pub fn folder(path: &str) -> Self {
        Self { path: format!("{path}/"), mode: 0o755, owner: (0, 0), content: Content::Folder }
    }

    pub fn program(path: &str, source: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o755, owner: (0, 0), content: Content::File(source.into()) }
    }

    pub fn text(path: &str, text: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o644, owner: (0, 0), content: Content::Bytes(text.into()) }
    }

    pub fn symlink(path: &str, target: &str) -> Self {
        Self { path: path.into(), mode: 0o777, owner: (0, 0), content: Content::Symlink(target.into()) }
    }

    pub fn hardlink(path: &str, target: &str) -> Self {
        Self { path: path.into(), mode: 0o755, owner: (0, 0), content: Content::Hardlink(target.into()) }
    }

    #[must_use]
    pub fn owned_by(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
}

/// Writes the archive to `out` in one rename, and returns the digest of its manifest.
pub fn write(image: &Image, out: &Path) -> Result<String> {
    let folder = out.parent().unwrap_or(Path::new("."));
    let layer = layer(image, folder).context("could not write the layer")?;
    let command = |words: &[String]| if words.is_empty() { Value::Null } else { json!(words) };
    let mut env = vec!["PATH=/usr/local/bin:/usr/bin:/bin:/sbin:/".to_owned()];
    env.extend(image.env.iter().cloned());
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Env": env, "Entrypoint": command(&image.entrypoint), "Cmd": command(&image.cmd),
            "User": image.user, "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
        "history": [],
    });
    let config = serde_json::to_vec(&config)?;
    let config_digest = digest(&config);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len() as u64),
        // Not compressed: unpacking is what an import spends its time on.
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer.digest, layer.size)],
    }))?;
    let manifest_digest = digest(&manifest);
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest_digest, manifest.len() as u64);
    entry["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference.rsplit(':').next().unwrap_or_default(),
    });
    entry["platform"] = json!({"architecture": "amd64", "os": "linux"});
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry],
    }))?;

    let file = tempfile::NamedTempFile::new_in(folder)?;
    let mut archive = Builder::new(BufWriter::new(file));
    archive_bytes(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive_bytes(&mut archive, "index.json", &index)?;
    archive_bytes(&mut archive, &format!("blobs/sha256/{config_digest}"), &config)?;
    archive_bytes(&mut archive, &format!("blobs/sha256/{manifest_digest}"), &manifest)?;
    let mut header = header(EntryType::Regular, 0o644, layer.size, (0, 0));
    archive.append_data(&mut header, format!("blobs/sha256/{}", layer.digest), layer.file)?;
    let file = archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.persist(out).with_context(|| format!("could not move the image to {}", out.display()))?;
    Ok(format!("sha256:{manifest_digest}"))
}

struct Layer {
    file: File,
    digest: String,
    size: u64,
}

fn layer(image: &Image, folder: &Path) -> Result<Layer> {
    let mut layer = Builder::new(BufWriter::new(tempfile::tempfile_in(folder)?));
    for entry in &image.entries {
        append(&mut layer, entry).with_context(|| format!("could not add /{}", entry.path))?;
    }
    let mut file = layer.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    let size = file.stream_position()?;
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    file.rewind()?;
    Ok(Layer { file, digest: hex(&hash.finalize()), size })
}

fn append(layer: &mut Builder<impl Write>, entry: &Entry) -> Result<()> {
    let header = |kind, size| header(kind, entry.mode, size, entry.owner);
    match &entry.content {
        Content::Folder => layer.append_data(&mut header(EntryType::Directory, 0), &entry.path, io::empty())?,
        Content::File(source) => {
            let file = File::open(source).with_context(|| format!("could not open {}", source.display()))?;
            let size = file.metadata()?.len();
            layer.append_data(&mut header(EntryType::Regular, size), &entry.path, file)?;
        }
        Content::Bytes(bytes) => {
            layer.append_data(&mut header(EntryType::Regular, bytes.len() as u64), &entry.path, bytes.as_slice())?;
        }
        Content::Symlink(target) => layer.append_link(&mut header(EntryType::Symlink, 0), &entry.path, target)?,
        Content::Hardlink(target) => layer.append_link(&mut header(EntryType::Link, 0), &entry.path, target)?,
    }
    Ok(())
}

fn archive_bytes(archive: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64, (0, 0));
    Ok(archive.append_data(&mut header, name, bytes)?)
}

fn header(kind: EntryType, mode: u32, size: u64, (uid, gid): (u64, u64)) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(0);
    header
}

fn descriptor(kind: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size})
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            reference: "example.org/team/tool:1.2".into(),
            user: "65532:65532".into(),
            entrypoint: vec!["/tool".into()],
            entries: vec![
                Entry::folder("etc"),
                Entry::text("etc/hello", "world").owned_by(7, 8),
                Entry::hardlink("etc/again", "etc/hello"),
            ],
            ..Image::default()
        }
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        assert_eq!(write(&image(), &one).unwrap(), write(&image(), &two).unwrap());
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_the_index_names_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("image.tar");
        write(&image(), &out).unwrap();
        let mut archive = tar::Archive::new(File::open(&out).unwrap());
        let mut blobs = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if let Some(expected) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(&bytes), expected);
                blobs += 1;
            }
            if name == "index.json" {
                let index: Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(
                    index["manifests"][0]["annotations"]["io.containerd.image.name"],
                    "example.org/team/tool:1.2"
                );
            }
        }
        assert_eq!(blobs, 3, "configuration, manifest, layer");
    }
}
