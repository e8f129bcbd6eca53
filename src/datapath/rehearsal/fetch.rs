//! The first container of a restore test: it may reach the store, and lays beside the verified backup what the second one needs,
//! which may reach nobody.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adapter::objectstore::Store;
use crate::datapath::archive::{Inspection, Limits};
use crate::datapath::error::MoverError;
use crate::datapath::patience::bounded;
use crate::datapath::progress::Meter;
use crate::datapath::stored::{self, Source};

/// Name of the snapshot in the folder.
const SNAPSHOT: &str = "snapshot";
/// What is known of it.
const BACKUP: &str = "backup.json";
/// This program, for the container that has an image of its own.
pub const PROGRAM: &str = "bao-backup";

/// What to fetch, and where to.
#[derive(Debug)]
pub struct Plan {
    pub store: Store,
    pub cluster_prefix: String,
    pub source: Source,
    pub folder: PathBuf,
    pub limits: Limits,
    pub until: Instant,
    pub stop: CancellationToken,
}

/// A backup that lies in the folder, as it was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetched {
    pub key: String,
    pub sha256: String,
    pub size_bytes: u64,
    pub taken_at: DateTime<Utc>,
    /// UID of the cluster that took it; empty where its manifest does not say.
    pub cluster_uid: String,
    /// Whose data it is; empty where its manifest does not say.
    pub openbao_cluster_id: String,
    pub inspection: Inspection,
}

impl Fetched {
    /// As the first container left it.
    pub fn read(folder: &Path) -> Result<Self, MoverError> {
        let path = folder.join(BACKUP);
        let read = fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
        read.map_err(|source| MoverError::ReadFile { what: "what is known of the fetched backup", path, source })
    }
}

/// Where the snapshot lies.
pub fn snapshot(folder: &Path) -> PathBuf {
    folder.join(SNAPSHOT)
}

/// Fetches, verifies, and lays everything down. A second run replaces what an earlier one left.
pub(in crate::datapath) async fn run(plan: &Plan, meter: &Meter) -> Result<Fetched, MoverError> {
    bounded(plan.until, &plan.stop, "the backup was fetched and verified", fetch(plan, meter)).await
}

async fn fetch(plan: &Plan, meter: &Meter) -> Result<Fetched, MoverError> {
    let folder = plan.folder.as_path();
    fs::create_dir_all(folder).map_err(|source| scratch("create", folder, source))?;
    let wanted = stored::Wanted {
        store: &plan.store,
        cluster_prefix: &plan.cluster_prefix,
        source: &plan.source,
        scratch: folder,
        limits: plan.limits,
        // What a backup has to come to stands in its manifest.
        without_manifest: false,
    };
    let (found, verified, spool) = stored::fetch(&wanted, meter).await?;
    let path = snapshot(folder);
    remove(&path)?;
    spool.keep(&path)?;
    let manifest = found.manifest.ok_or_else(|| MoverError::ManifestMissing { key: found.key.clone() })?;
    let fetched = Fetched {
        key: found.key,
        sha256: verified.inspection.sha256.clone(),
        size_bytes: verified.inspection.size_bytes,
        taken_at: manifest.taken_at,
        cluster_uid: manifest.cluster.uid,
        openbao_cluster_id: manifest.cluster.openbao_cluster_id,
        inspection: verified.inspection,
    };
    let text = serde_json::to_vec(&fetched).map_err(io::Error::other);
    let path = folder.join(BACKUP);
    text.and_then(|text| fs::write(&path, text)).map_err(|source| scratch("write", &path, source))?;
    lay_program(folder)?;
    Ok(fetched)
}

fn lay_program(folder: &Path) -> Result<(), MoverError> {
    let path = folder.join(PROGRAM);
    remove(&path)?;
    let copied = (|| {
        let program = fs::read(std::env::current_exe()?)?;
        let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path)?;
        copy.write_all(&program)?;
        copy.sync_all()
    })();
    copied.map_err(|source| scratch("copy this program to", &path, source))
}

fn remove(path: &Path) -> Result<(), MoverError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(scratch("remove", path, source)),
        _ => Ok(()),
    }
}

fn scratch(what: &'static str, path: &Path, source: io::Error) -> MoverError {
    MoverError::Scratch { what, path: path.to_owned(), source }
}
