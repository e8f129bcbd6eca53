//! Backup: leader → spool at full speed → verification and upload behind it → the object appears once verified → its
//! manifest, create-only, makes it a backup.
//!
//! On any error the upload is aborted: no object without a manifest, no manifest without a verified object.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{FutureExt, Stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::archive::{self, ArchiveError, Limits, Verified};
use super::buffers::Buffers;
use super::error::MoverError;
use super::feed;
use super::leader::{Leader, Servers, still_leads};
use super::patience::bounded;
use super::progress::Meter;
use super::protocol::{BackupDone, Stage};
use super::spool::{self, Fill, Spool, SpoolWriter};
use super::upload::{Upload, part_size};
use crate::adapter::objectstore::manifest::{
    MANIFEST_VERSION, ManifestAuth, ManifestCluster, ManifestContents, ManifestOpenbao, ManifestOperation, ManifestSeal,
};
use crate::adapter::objectstore::target::UPLOAD_MEMORY;
use crate::adapter::objectstore::{Manifest, Store, StoreError, keys};
use crate::adapter::openbao::Token;

/// No byte for so long: the leader is gone without closing, or hangs.
const STALL: Duration = Duration::from_mins(1);
/// Before another stream; doubled each time, because each costs the leader a whole snapshot.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so many streams that broke, the operation's own retries and their longer pauses go on.
const STREAMS: u32 = 8;
/// Taking away what must not stay, at most: a pod that is told to stop has 30 s.
const UNDO_TIMEOUT: Duration = Duration::from_secs(20);

/// One backup, as the operation froze it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub store: Store,
    /// The frozen key of the snapshot object.
    pub key: String,
    pub servers: Servers,
    pub spool: SpoolPlan,
    pub limits: Limits,
    /// Bytes of the last backup; `None` for a first one, before which the target is tried out.
    pub expected_size: Option<u64>,
    pub until: Instant,
    /// Set when the pod is told to stop: what is under way is undone, not finished.
    pub stop: CancellationToken,
    pub facts: Facts,
}

/// Where the stream waits for the store.
#[derive(Clone, Debug)]
pub enum SpoolPlan {
    /// A file in this folder, of at most so many bytes.
    Folder { folder: PathBuf, limit: u64 },
    /// Nowhere: a slow store slows the leader down, whose snapshot request blocks leadership changes for as long.
    None,
}

/// What the manifest says besides what the archive shows.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub cluster: ManifestCluster,
    pub operation: ManifestOperation,
    pub auth: ManifestAuth,
    pub key_fingerprint: Option<String>,
}

/// A snapshot that is stored and verified, not yet a backup.
struct Stored {
    verified: Verified,
    taken_at: DateTime<Utc>,
    cluster_id: String,
}

pub(super) async fn run(plan: &Plan, meter: &Meter) -> Result<(BackupDone, Manifest), MoverError> {
    let started = Instant::now();
    if let Some(lowered) = plan.store.target().lowered() {
        eprintln!("{lowered}");
    }
    until(plan, "the target was looked at", prepare(plan)).await?;
    let (mut retries, mut pause) = (0, FIRST_PAUSE);
    let stored = loop {
        match attempt(plan, meter).await {
            Ok(stored) => break stored,
            Err(error)
                if error.is_worth_another_stream() && retries + 1 < STREAMS && Instant::now() + pause < plan.until =>
            {
                retries += 1;
                eprintln!("{}; starting again from the beginning in {pause:?}", error.line());
                let waited = tokio::time::sleep(pause).map(Ok);
                until(plan, "another stream was waited for", waited).await?;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(error),
        }
    };
    let manifest = commit(plan, &stored).await?;
    let done = BackupDone {
        key: plan.key.clone(),
        manifest_key: keys::manifest_key(&plan.key),
        sha256: manifest.sha256.clone(),
        size_bytes: manifest.size_bytes,
        taken_at: stored.taken_at,
        openbao_cluster_id: manifest.cluster.openbao_cluster_id.clone(),
        inspection: stored.verified.inspection,
        sealed_sums: manifest.sealed_sums.clone(),
        sums: manifest.sums.clone(),
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        retries,
        shortened: false,
    };
    Ok((done, manifest))
}

async fn until<T>(
    plan: &Plan,
    what: &'static str,
    work: impl Future<Output = Result<T, MoverError>>,
) -> Result<T, MoverError> {
    bounded(plan.until, &plan.stop, what, work).await
}

/// What can be told before the leader is asked for anything: a wrong target, a key in use, too little disk.
async fn prepare(plan: &Plan) -> Result<(), MoverError> {
    if plan.expected_size.is_none() {
        plan.store.preflight(&keys::preflight_key(&plan.key)).await?;
    }
    is_unused(plan).await?;
    // An object without a manifest under a key that only this operation uses: a mover of it that died in between.
    if plan.store.head(&plan.key).await?.is_some() {
        eprintln!("removing {}, left without a manifest by an earlier attempt", plan.key);
        plan.store.delete(&plan.key).await?;
    }
    plan.store.clear_staged(&plan.key).await?;
    if let SpoolPlan::Folder { folder, .. } = &plan.spool {
        let expected = plan.expected_size.unwrap_or(0);
        spool::check_space(folder, expected.saturating_add(expected / 5))?;
    }
    Ok(())
}

/// A key is used once: whoever has its manifest has a backup, which nothing is written over.
async fn is_unused(plan: &Plan) -> Result<(), MoverError> {
    match plan.store.head(&keys::manifest_key(&plan.key)).await? {
        Some(_) => Err(MoverError::KeyTaken { key: plan.key.clone() }),
        None => Ok(()),
    }
}

/// A snapshot that the leader has begun to send.
struct Opened {
    leader: Leader,
    token: Token,
    taken_at: DateTime<Utc>,
    answer: reqwest::Response,
}

async fn open(plan: &Plan) -> Result<Opened, MoverError> {
    let leader = plan.servers.leader(plan.until).await?;
    let token = plan.servers.login(&leader.client).await?;
    still_leads(&leader.endpoint).await?;
    let taken_at = Utc::now();
    let answer = leader.client.snapshot(&token).await.map_err(|error| match error.status() {
        Some(403) => MoverError::Denied(error),
        _ => MoverError::Leader(error),
    })?;
    Ok(Opened { leader, token, taken_at, answer })
}

/// One stream from one leader into the store.
async fn attempt(plan: &Plan, meter: &Meter) -> Result<Stored, MoverError> {
    meter.stage(Stage::Snapshot, 0);
    let Opened { leader, token, taken_at, answer } =
        until(plan, "the leader was asked for a snapshot", open(plan)).await?;
    let (size, at_once) = plan.store.target().upload_shape();
    let size = part_size(size, UPLOAD_MEMORY, plan.expected_size.unwrap_or(0));
    let at_once = at_once.min(usize::try_from(UPLOAD_MEMORY / size).unwrap_or(1)).max(1);
    let part = usize::try_from(size).unwrap_or(usize::MAX);
    let mut upload = Upload::new(&plan.store, &plan.key, at_once);
    let stream = async {
        let verified = match &plan.spool {
            SpoolPlan::Folder { folder, limit } => {
                let (writer, spool) = spool::create(folder, *limit)?;
                spooled(answer, &leader, (writer, spool), part, &mut upload, plan.limits, meter).await?
            }
            SpoolPlan::None => direct(answer, &leader, part, &mut upload, plan.limits, meter).await?,
        };
        upload.settle().await?;
        // A mover that was given up for lost may be at work still, and may have been first.
        is_unused(plan).await?;
        // The leader may have lost its place with the stream intact: what it sent is still a snapshot of its state.
        upload.complete().await?;
        Ok(verified)
    };
    let outcome = until(plan, "the snapshot was streamed and uploaded", stream).await;
    let logout = plan.servers.logout(&leader.client, &token);
    match outcome {
        Ok(verified) => {
            logout.await;
            Ok(Stored { verified, taken_at, cluster_id: leader.cluster_id })
        }
        Err(error) => {
            // Together: a leader that hangs must not use up the time in which parts can be taken back.
            let (left, ()) = tokio::join!(upload.abort(), logout);
            if let Some(left) = left {
                eprintln!("the upload could not be aborted, parts may stay in the store: {left}");
            }
            Err(error)
        }
    }
}

/// The three ends of the spool: the leader fills it, verification and upload follow, each at its own pace.
async fn spooled(
    answer: reqwest::Response,
    leader: &Leader,
    (writer, spool): (SpoolWriter, Spool),
    part: usize,
    upload: &mut Upload,
    limits: Limits,
    meter: &Meter,
) -> Result<Verified, MoverError> {
    let verify = verify_spool(&spool, limits);
    let fill = fill(answer, leader, writer, meter);
    let follow = follow(&spool, part, upload, meter);
    let ((), verified, ()) = tokio::try_join!(biased; fill, verify, follow)?;
    Ok(verified)
}

/// Verifies a spool while it grows. When it is given up, whoever gave it up says why; this waits to be dropped.
pub(super) async fn verify_spool(spool: &Spool, limits: Limits) -> Result<Verified, MoverError> {
    let reader = spool.reader();
    let verified = tokio::task::spawn_blocking(move || archive::read(reader, limits));
    match verified.await.map_err(MoverError::Task)? {
        Err(ArchiveError::Read(_)) if spool.level().fill == Fill::Broken => std::future::pending().await,
        outcome => outcome.map_err(MoverError::Archive),
    }
}

async fn fill(
    answer: reqwest::Response,
    leader: &Leader,
    writer: SpoolWriter,
    meter: &Meter,
) -> Result<(), MoverError> {
    let mut stream = Chunks::of(answer, &leader.peer.pod);
    while let Some(chunk) = stream.next().await? {
        meter.add(chunk.len());
        if writer.push(chunk).await.is_err() {
            return Err(writer.failure().await);
        }
    }
    writer.finish().await?;
    meter.stage(Stage::Upload, stream.bytes);
    Ok(())
}

async fn follow(spool: &Spool, part: usize, upload: &mut Upload, meter: &Meter) -> Result<(), MoverError> {
    let mut at = 0u64;
    let buffers = Buffers::new(part);
    loop {
        let level = spool.reached(at + part as u64).await;
        upload.room().await?;
        let there = level.bytes - at;
        if there >= part as u64 {
            upload.part(spool.read_at(at, part, buffers.take()).await?).await?;
            at += part as u64;
            if level.fill == Fill::Complete {
                meter.set(at);
            }
            continue;
        }
        return match level.fill {
            Fill::Complete if there > 0 => {
                let last = usize::try_from(there).unwrap_or(part);
                upload.part(spool.read_at(at, last, buffers.take()).await?).await
            }
            Fill::Complete => Ok(()),
            // Whoever broke it says why; this branch only stops.
            Fill::Growing | Fill::Broken => std::future::pending().await,
        };
    }
}

/// Without a disk: each chunk goes to the verifier and into the part being built, and the stream waits for both.
async fn direct(
    answer: reqwest::Response,
    leader: &Leader,
    part: usize,
    upload: &mut Upload,
    limits: Limits,
    meter: &Meter,
) -> Result<Verified, MoverError> {
    let mut stream = Chunks::of(answer, &leader.peer.pod);
    let (feed, reader) = feed::pipe();
    let fill = async {
        let buffers = Buffers::new(part);
        let mut building = buffers.take();
        while let Some(chunk) = stream.next().await? {
            meter.add(chunk.len());
            // The verifier stops listening when it has found a fault, and says so itself.
            if !feed.push(chunk.clone()).await {
                return std::future::pending().await;
            }
            let mut chunk = chunk;
            while building.as_ref().len() + chunk.len() >= part {
                let missing = part - building.as_ref().len();
                building.bytes().extend_from_slice(&chunk.split_to(missing));
                upload.part(building.freeze()).await?;
                upload.room().await?;
                building = buffers.take();
            }
            building.bytes().extend_from_slice(&chunk);
        }
        feed.finish().await;
        if !building.as_ref().is_empty() {
            upload.part(building.freeze()).await?;
        }
        Ok(())
    };
    let ((), verified) = tokio::try_join!(biased; fill, feed::read(reader, limits))?;
    Ok(verified)
}

/// The body of an answer, with the patience and the words of a snapshot stream.
pub(super) struct Chunks {
    answer: reqwest::Response,
    pod: String,
    bytes: u64,
}

impl Chunks {
    pub(super) fn of(answer: reqwest::Response, pod: &str) -> Self {
        Self { answer, pod: pod.to_owned(), bytes: 0 }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, MoverError>> {
        let next = |mut chunks: Self| async { Ok(chunks.next().await?.map(|chunk| (chunk, chunks))) };
        futures::stream::try_unfold(self, next)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, MoverError> {
        let (pod, bytes) = (self.pod.clone(), self.bytes);
        match tokio::time::timeout(STALL, self.answer.chunk()).await {
            Err(_) => Err(MoverError::Stalled { pod, bytes, after: STALL }),
            Ok(Err(source)) => Err(MoverError::Stream { pod, bytes, source: source.without_url() }),
            Ok(Ok(chunk)) => {
                self.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                Ok(chunk)
            }
        }
    }
}

/// Makes a stored snapshot a backup: the manifest is the commit point. Whatever fails here takes the object away again.
async fn commit(plan: &Plan, stored: &Stored) -> Result<Manifest, MoverError> {
    let manifest = manifest(plan, stored);
    let outcome = match tokio::time::timeout_at(plan.until, write_manifest(plan, &manifest)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(MoverError::Deadline("the manifest was written")),
    };
    let Err(error) = outcome else { return Ok(manifest) };
    let left = match tokio::time::timeout(UNDO_TIMEOUT, take_back(plan, &manifest)).await {
        Ok(Ok(())) => return Err(error),
        Ok(Err(taken @ MoverError::KeyTaken { .. })) => return Err(taken),
        Ok(Err(left)) => left.to_string(),
        Err(_) => format!("given up after {UNDO_TIMEOUT:?}"),
    };
    // The store may have taken the manifest and lost only its answer: then this is a backup like any other.
    Err(MoverError::MayBeStored { key: plan.key.clone(), left, source: Box::new(error) })
}

/// Removes what this mover stored. Where the manifest is another mover's (of this operation, which gave one of the two up for
/// lost), the backup is that one's, and nothing of it is touched.
async fn take_back(plan: &Plan, ours: &Manifest) -> Result<(), MoverError> {
    if plan.store.manifest(&plan.key).await?.is_some_and(|found| found != *ours) {
        return Err(MoverError::KeyTaken { key: plan.key.clone() });
    }
    // The manifest first: it must never stand without its object.
    plan.store.delete(&keys::manifest_key(&plan.key)).await?;
    plan.store.delete(&plan.key).await?;
    Ok(())
}

async fn write_manifest(plan: &Plan, manifest: &Manifest) -> Result<(), MoverError> {
    let key = keys::manifest_key(&plan.key);
    let failed = |source| StoreError::Manifest { target: plan.store.name().to_owned(), key: key.clone(), source };
    let bytes = Bytes::from(manifest.to_bytes().map_err(failed)?);
    let written = bytes.len() as u64;
    plan.store.create(&key, bytes).await?;
    // The last act: both are there, as another client would see them.
    for (key, expected) in [(&plan.key, manifest.size_bytes), (&key, written)] {
        let found = plan.store.head(key).await?.unwrap_or(0);
        if found != expected {
            let (target, key) = (plan.store.name().to_owned(), key.clone());
            return Err(StoreError::Size { target, key, expected, found }.into());
        }
    }
    Ok(())
}

fn manifest(plan: &Plan, stored: &Stored) -> Manifest {
    let found = &stored.verified.inspection;
    let facts = plan.facts.clone();
    Manifest {
        version: MANIFEST_VERSION,
        key: plan.key.clone(),
        sha256: found.sha256.clone(),
        size_bytes: found.size_bytes,
        taken_at: stored.taken_at,
        cluster: ManifestCluster { openbao_cluster_id: stored.cluster_id.clone(), ..facts.cluster },
        openbao: ManifestOpenbao {
            versions_ever_active: found.versions_ever_active.clone(),
            raft_index: found.raft_index,
            raft_term: found.raft_term,
            members: found.members.iter().map(|member| member.id.clone()).collect(),
        },
        seal: ManifestSeal {
            kind: found.seal.kind.clone(),
            key_id: found.seal.key_id.clone(),
            key_fingerprint: facts.key_fingerprint,
        },
        contents: ManifestContents { keys_per_mount: found.keys_per_mount.clone() },
        operation: facts.operation,
        sealed_sums: STANDARD.encode(&stored.verified.sealed_sums),
        sums: STANDARD.encode(&stored.verified.sums),
        auth: facts.auth,
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::objectstore::target::{FileTarget, Provider};
    use crate::adapter::objectstore::{Credentials, Target};
    use crate::datapath::leader::Identity;

    const SNAPSHOT: &[u8] = include_bytes!("../../tests/datapath/data/static-2.7.2.snap");
    const KEY: &str = "ns/c/2026-11-21T03-00-00Z-0f0f0f0f.snap";

    fn plan(root: &std::path::Path) -> Plan {
        let file = FileTarget { root: root.to_string_lossy().into_owned() };
        let target = Target { provider: Provider::File, file: Some(file), ..Target::default() };
        let identity = Identity::Token { file: PathBuf::new() };
        Plan {
            store: Store::open(&target, &Credentials::default()).unwrap(),
            key: KEY.to_owned(),
            servers: Servers { peers: Vec::new(), ca_pem: None, identity },
            spool: SpoolPlan::None,
            limits: Limits::default(),
            expected_size: None,
            until: Instant::now() + Duration::from_mins(1),
            stop: CancellationToken::new(),
            facts: Facts::default(),
        }
    }

    fn stored(taken_at: &str) -> Stored {
        let verified = archive::read(SNAPSHOT, Limits::default()).unwrap();
        Stored { verified, taken_at: taken_at.parse().unwrap(), cluster_id: "id".to_owned() }
    }

    #[tokio::test]
    async fn what_another_mover_completed_under_the_key_outlives_the_commit_of_one_that_was_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(folder.path());
        plan.store.create(KEY, Bytes::from_static(SNAPSHOT)).await.unwrap();
        let theirs = commit(&plan, &stored("2026-11-21T04:00:00Z")).await.unwrap();
        let late = commit(&plan, &stored("2026-11-21T03:00:00.123456789Z")).await;
        assert!(matches!(late, Err(MoverError::KeyTaken { .. })), "{late:?}");
        assert_eq!(plan.store.manifest(KEY).await.unwrap(), Some(theirs));
        assert_eq!(plan.store.head(KEY).await.unwrap(), Some(SNAPSHOT.len() as u64));
        assert!(matches!(is_unused(&plan).await, Err(MoverError::KeyTaken { .. })), "nor is it written over");
    }

    #[tokio::test]
    async fn of_a_commit_that_failed_nothing_of_its_own_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(folder.path());
        // What is there is not what was verified.
        plan.store.create(KEY, Bytes::from_static(b"cut")).await.unwrap();
        let failed = commit(&plan, &stored("2026-11-21T03:00:00.123456789Z")).await;
        assert!(matches!(failed, Err(MoverError::Store(StoreError::Size { .. }))), "{failed:?}");
        assert_eq!(plan.store.manifest(KEY).await.unwrap(), None);
        assert_eq!(plan.store.head(KEY).await.unwrap(), None);
    }
}
