//! Whether a backup comes back: it is restored into an empty server of this pod's own, which reaches nobody and which nobody
//! else reaches, and looked at from all sides. The pod goes with everything in it.
//!
//! | file | what |
//! |---|---|
//! | [`fetch`] | the backup, verified, and this program, laid where the server's container finds them |
//! | [`server`] | the server: started, watched, stopped |
//! | [`judge`] | what a restored server must show (pure) |
//! | [`error`] | why one does not, as a reason |

pub mod error;
pub mod fetch;
pub mod judge;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::archive::{Inspection, Limits};
use super::backup::Chunks;
use super::error::MoverError;
use super::feed;
use super::leader::{Identity, Servers};
use super::patience::bounded;
use super::progress::Meter;
use super::protocol::{Endpoint, RehearsalDone};
use crate::adapter::openbao::{self, Client, InitRequest, Token};
use error::RehearsalError;
use fetch::Fetched;
use server::Server;

/// After its answer the server still applies the snapshot; then its first token is nobody's any more.
const FORGETS_WITHIN: Duration = Duration::from_mins(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// While it takes a snapshot it is sealed for a moment. One that stays so has no key for it.
const STAYS_SEALED: Duration = Duration::from_secs(15);

/// One restore test, as its Job was told it.
#[derive(Debug)]
pub struct Plan {
    /// Where [`fetch`] has laid the backup; the server's configuration is written there too.
    pub folder: PathBuf,
    /// The server's program and what comes before its `server`, by default `bao`.
    pub server: Vec<String>,
    /// The server's configuration.
    pub config: String,
    /// `ip:port` at which that configuration has it listen, without TLS.
    pub address: String,
    /// Whether it is kept off every network.
    pub isolated: bool,
    /// How to log in to the restored server.
    pub identity: Identity,
    /// API paths that must be readable in it.
    pub canaries: Vec<String>,
    pub limits: Limits,
    pub until: Instant,
    pub stop: CancellationToken,
}

pub(super) async fn run(plan: &Plan) -> Result<RehearsalDone, MoverError> {
    bounded(plan.until, &plan.stop, "the backup was tried in a server of its own", rehearse(plan)).await
}

async fn rehearse(plan: &Plan) -> Result<RehearsalDone, MoverError> {
    let begun = Instant::now();
    let fetched = Fetched::read(&plan.folder)?;
    let mut server = Server::start(plan).await.map_err(before_the_backup)?;
    eprintln!("an empty server runs: initialising it");
    let first = server.client().init(&InitRequest { recovery_shares: 1, recovery_threshold: 1 }).await;
    let token = Token::new(first.map_err(RehearsalError::Empty)?.root_token);
    server.until_it_leads().await.map_err(before_the_backup)?;
    eprintln!("restoring {} ({} bytes) into it", fetched.key, fetched.size_bytes);
    let restoring = Instant::now();
    submit(plan, &server, &token).await?;
    until_forgotten(&server, &token).await?;
    // What it holds in memory is of before. And whoever restores wants to know that the data comes up from a disk.
    eprintln!("restored: starting the server again");
    server.restart(plan).await?;
    let health = server.until_it_leads().await?;
    let restored_in = restoring.elapsed();
    let id = health.cluster_id.unwrap_or_default();
    judge::is_of(&fetched, &id)?;
    eprintln!("it leads over the data of cluster {id}: logging in");
    let token = log_in(plan, server.client()).await?;
    let found = contents(plan, server.client(), &token).await?;
    let short_lived = short_lived(server.client(), &token).await;
    judge::has_all(&fetched.inspection, &found, &short_lived)?;
    for path in &plan.canaries {
        let read = server.client().get(&token, path).await;
        judge::is_canary(path, read)?;
    }
    server.stop().await;
    Ok(RehearsalDone {
        key: fetched.key,
        sha256: fetched.sha256,
        size_bytes: fetched.size_bytes,
        taken_at: Some(fetched.taken_at),
        cluster_uid: fetched.cluster_uid,
        openbao_cluster_id: id,
        version: health.version,
        mounts: judge::mounts(&found),
        keys: found.keys_total,
        canaries: plan.canaries.len() as u64,
        isolated: plan.isolated,
        restore_ms: millis(restored_in),
        duration_ms: millis(begun.elapsed()),
    })
}

/// Nothing of the backup was in it yet, and nothing is known of it.
fn before_the_backup(error: MoverError) -> MoverError {
    match error {
        MoverError::Rehearsal(error @ (RehearsalError::Ended { .. } | RehearsalError::NotLeading { .. })) => {
            RehearsalError::NotStarted(error.to_string()).into()
        }
        other => other,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn submit(plan: &Plan, server: &Server, token: &Token) -> Result<(), MoverError> {
    let path = fetch::snapshot(&plan.folder);
    let unreadable = |source| MoverError::ReadFile { what: "the fetched snapshot", path: path.clone(), source };
    let file = tokio::fs::File::open(&path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    let body = reqwest::Body::wrap_stream(ReaderStream::new(file));
    let patience = plan.until.saturating_duration_since(Instant::now());
    // The keys under which this server was initialised a moment ago are not those of the snapshot.
    let endpoint = Endpoint::SnapshotForce.as_str();
    match server.client().restore(token, endpoint, body, length, patience).await {
        Ok(_) => Ok(()),
        // Only an answer says no; silence says nothing.
        Err(error) if error.is_answer() => Err(RehearsalError::Refused(error).into()),
        Err(error) => {
            server.is_alive()?;
            Err(MoverError::Leader(error))
        }
    }
}

/// Until the server knows the token of before no more. One that cannot be asked by then, or that has sealed itself over what it
/// took, is started again all the same: what it is then tells.
async fn until_forgotten(server: &Server, token: &Token) -> Result<(), MoverError> {
    let until = Instant::now() + FORGETS_WITHIN;
    let mut sealed = 0_u32;
    while Instant::now() < until {
        server.is_alive()?;
        match server.client().lookup_self(token).await {
            Err(error) if error.is_denied() => return Ok(()),
            Err(openbao::Error::Sealed { .. }) => sealed += 1,
            Ok(()) | Err(_) => sealed = 0,
        }
        if LOOK_EVERY * sealed > STAYS_SEALED {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn log_in(plan: &Plan, client: &Client) -> Result<Token, MoverError> {
    let servers = Servers { peers: Vec::new(), ca_pem: None, identity: plan.identity.clone() };
    servers.login(client).await.map_err(|error| match error {
        MoverError::Login(error) | MoverError::Leader(error) => RehearsalError::Login(error).into(),
        other => other,
    })
}

/// What is in the restored server, by a snapshot of it that is only looked at.
async fn contents(plan: &Plan, client: &Client, token: &Token) -> Result<Inspection, MoverError> {
    let answer = client.snapshot(token).await.map_err(|error| {
        if error.is_denied() { RehearsalError::Denied(error).into() } else { MoverError::Leader(error) }
    })?;
    let stream = Chunks::of(answer, client.pod()).into_stream();
    let verified = feed::verify(stream, plan.limits, &Meter::default()).await?;
    Ok(verified.inspection)
}

/// The UUID of the mount whose keys go with the tokens that have run out, where this token may see it.
async fn short_lived(client: &Client, token: &Token) -> Option<String> {
    let seen = client.get(token, "sys/internal/ui/mounts/cubbyhole").await.ok()?;
    seen["data"]["uuid"].as_str().map(str::to_owned)
}
