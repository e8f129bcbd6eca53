//! Restore, the mover's side: find, download, verify, report; wait for leave; claim; send once; say what came of it.
//!
//! Everything up to the claim can be done again freely. The claim is written once, right before the POST, and whoever
//! finds one has to assume that the POST happened.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::Utc;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::archive::{Limits, Verified};
use super::buffers::Buffers;
use super::error::MoverError;
use super::leader::{Identity, Servers, still_leads};
use super::mailbox::Mailbox;
use super::patience::bounded;
use super::progress::Meter;
use super::protocol::{
    Cause, Claim, Grant, POST_WITHIN, Peer, Permit, REPORT, RESULT, Report, ReportKind, RestoreDone, Stage, Submission,
    SubmissionOutcome,
};
use super::spool::Spool;
use super::stored::{self, Found, Source};
use crate::adapter::objectstore::Store;
use crate::adapter::objectstore::error::detail;
use crate::adapter::openbao;

/// Leave mostly comes at once; later it is waited for calmly.
const ASK_FOR_GRANT_FIRST: Duration = Duration::from_millis(200);
const FIRST: Duration = Duration::from_secs(20);
const ASK_FOR_GRANT_EVERY: Duration = Duration::from_secs(1);
/// How long a leader is looked for before the download. It is asked once more before anything is sent.
const LEADER_WITHIN: Duration = Duration::from_secs(10);
/// Read from the disk at once while the snapshot is sent.
const SEND_CHUNK: u64 = 512 * 1024;

/// One restore, as the operation froze it.
#[derive(Debug)]
pub struct Plan {
    pub store: Store,
    pub cluster_prefix: String,
    pub source: Source,
    pub scratch: PathBuf,
    pub limits: Limits,
    /// The requester answers for a backup without a manifest.
    pub without_manifest: bool,
    /// False: verify and report only.
    pub submit: bool,
    pub ca_pem: Option<String>,
    pub identity: Option<Identity>,
    /// The servers at which the login is tried before the download; none: it is not tried.
    pub peers: Vec<Peer>,
    pub pod_uid: String,
    pub until: Instant,
    pub stop: CancellationToken,
}

pub(super) async fn run(plan: &Plan, mailbox: Option<&Mailbox>, meter: &Meter) -> Result<RestoreDone, MoverError> {
    let started = Instant::now();
    let work = async {
        try_login(plan).await?;
        fetch(plan, meter).await
    };
    let fetched = until(plan, "the backup was fetched and verified", work).await;
    if let Some(mailbox) = mailbox {
        mailbox.write(REPORT, &report(plan, &fetched)).await?;
    }
    let (found, verified, spool) = fetched?;
    let mut done = RestoreDone {
        key: found.key,
        sha256: verified.inspection.sha256,
        size_bytes: verified.inspection.size_bytes,
        submission: None,
        download_ms: millis(started),
        submit_ms: 0,
    };
    let (Some(mailbox), true) = (mailbox, plan.submit) else { return Ok(done) };
    meter.stage(Stage::WaitForGrant, 0);
    let waited = until(plan, "the operator's leave was awaited", wait_for_grant(mailbox)).await?;
    let Grant::Granted(permit) = waited else { return Ok(done) };
    let sending = Instant::now();
    let (submission, outcome) = submit(plan, mailbox, &permit, &spool, meter).await?;
    mailbox.write(RESULT, &submission).await?;
    outcome?;
    done.submission = Some(submission);
    done.submit_ms = millis(sending);
    Ok(done)
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Everything before the claim ends at the deadline or when the pod is told to stop.
async fn until<T>(
    plan: &Plan,
    what: &'static str,
    work: impl Future<Output = Result<T, MoverError>>,
) -> Result<T, MoverError> {
    bounded(plan.until, &plan.stop, what, work).await
}

/// Logs in as it will be done before the snapshot is sent, and out again. What is refused here would be refused when the
/// cluster's lock is held and the safety backup taken, and a rehearsal would have been none. Any other trouble may be over
/// until then; a rehearsal has no later.
async fn try_login(plan: &Plan) -> Result<(), MoverError> {
    let Some(identity) = plan.identity.clone().filter(|_| !plan.peers.is_empty()) else { return Ok(()) };
    let servers = Servers { peers: plan.peers.clone(), ca_pem: plan.ca_pem.clone(), identity };
    let tried = async {
        let leader = servers.leader(plan.until.min(Instant::now() + LEADER_WITHIN)).await?;
        let token = servers.login(&leader.client).await?;
        servers.logout(&leader.client, &token).await;
        Ok::<(), MoverError>(())
    };
    match tried.await {
        Err(error) if plan.submit && !matches!(error, MoverError::Login(_)) => {
            eprintln!("the login could not be tried: {}", error.line());
            Ok(())
        }
        tried => tried,
    }
}

async fn fetch(plan: &Plan, meter: &Meter) -> Result<(Found, Verified, Spool), MoverError> {
    let wanted = stored::Wanted {
        store: &plan.store,
        cluster_prefix: &plan.cluster_prefix,
        source: &plan.source,
        scratch: &plan.scratch,
        limits: plan.limits,
        without_manifest: plan.without_manifest,
    };
    stored::fetch(&wanted, meter).await
}

fn report(plan: &Plan, fetched: &Result<(Found, Verified, Spool), MoverError>) -> Report {
    let (pod_uid, at) = (plan.pod_uid.clone(), Utc::now());
    match fetched {
        Ok((found, verified, _)) => Report {
            pod_uid,
            kind: ReportKind::Verified,
            reason: "Verified".to_owned(),
            message: format!("{} bytes verified from end to end", verified.inspection.size_bytes),
            inspection: Some(verified.inspection.clone()),
            manifest: found.manifest.clone(),
            key: Some(found.key.clone()),
            sealed_sums: STANDARD.encode(&verified.sealed_sums),
            sums: STANDARD.encode(&verified.sums),
            at,
        },
        Err(error) => Report {
            pod_uid,
            kind: match error.cause() {
                Cause::Integrity | Cause::Config => ReportKind::Refused,
                _ => ReportKind::Failed,
            },
            reason: error.reason().to_owned(),
            message: error.line(),
            inspection: None,
            manifest: None,
            key: None,
            sealed_sums: String::new(),
            sums: String::new(),
            at,
        },
    }
}

async fn wait_for_grant(mailbox: &Mailbox) -> Result<Grant, MoverError> {
    let begun = Instant::now();
    loop {
        let pause = if begun.elapsed() < FIRST { ASK_FOR_GRANT_FIRST } else { ASK_FOR_GRANT_EVERY };
        match mailbox.grant().await {
            Ok(Some(grant)) => return Ok(grant),
            // Silence of the API server is waited out up to the deadline; a refusal is not.
            Err(MoverError::Kubernetes { name, what, source }) if source.is_forbidden() || source.is_not_found() => {
                return Err(MoverError::Kubernetes { name, what, source });
            }
            Ok(None) | Err(MoverError::Kubernetes { .. }) => tokio::time::sleep(pause).await,
            Err(other) => return Err(other),
        }
    }
}

/// From the grant to the answer. `Err` means that nothing was sent.
async fn submit(
    plan: &Plan,
    mailbox: &Mailbox,
    permit: &Permit,
    spool: &Spool,
    meter: &Meter,
) -> Result<(Submission, Result<(), MoverError>), MoverError> {
    if permit.pod_uid != plan.pod_uid {
        return Err(MoverError::BadGrant(format!("is for pod {}, this is {}", permit.pod_uid, plan.pod_uid)));
    }
    let identity = plan.identity.clone().ok_or_else(|| MoverError::Config("no way to log in was named".to_owned()))?;
    let servers = Servers { peers: vec![permit.leader.clone()], ca_pem: plan.ca_pem.clone(), identity };
    let endpoint = servers.endpoint(&permit.leader)?;
    let client = openbao::Client::for_transfer(&endpoint).map_err(MoverError::Leader)?;
    let prepare = async {
        let token = servers.login(&client).await?;
        still_leads(&endpoint).await?;
        Ok(token)
    };
    let token = until(plan, "logging in at the leader", prepare).await?;
    // When a permit ends is the operator's to say: it takes it back, and then it cannot be claimed under. This node's clock
    // may be any other one's past or future.
    let claim = Claim {
        pod_uid: plan.pod_uid.clone(),
        fence: permit.fence,
        leader_pod_uid: permit.leader.pod_uid.clone(),
        at: Utc::now(),
    };
    let claiming = Instant::now();
    mailbox.claim(permit, &claim).await?;
    // Writing the claim may have taken seconds. A standby would take the snapshot, seal itself and change nothing.
    if let Err(error) = still_leads(&endpoint).await {
        return Ok(not_sent(&claim, &format!("the server does not lead any more ({error})")));
    }
    if claiming.elapsed() > POST_WITHIN {
        let (taken, within) = (claiming.elapsed().as_secs(), POST_WITHIN.as_secs());
        let why = format!("writing the claim took {taken} s, and the snapshot is sent within {within} s or not at all");
        return Ok(not_sent(&claim, &why));
    }
    // From here on the pod being told to stop changes nothing: the answer is worth more than a clean end.
    let length = spool.level().bytes;
    meter.stage(Stage::Submit, length);
    let body = reqwest::Body::wrap_stream(contents(spool.clone(), length, meter.clone()));
    let patience = plan.until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let answer = client.restore(&token, permit.endpoint.as_str(), body, length, patience).await;
    let (outcome, status, message) = judge(&answer);
    let submission =
        Submission { pod_uid: plan.pod_uid.clone(), fence: permit.fence, outcome, status, message, at: Utc::now() };
    let result = match (answer, outcome) {
        (Err(error), SubmissionOutcome::Refused) => Err(MoverError::Refused(error)),
        (Err(error), _) => Err(MoverError::Unknown(error)),
        (Ok(_), _) => Ok(()),
    };
    Ok((submission, result))
}

/// The claim stands and nothing was sent under it.
fn not_sent(claim: &Claim, why: &str) -> (Submission, Result<(), MoverError>) {
    let message = format!("nothing was sent: {why}");
    let submission = Submission {
        pod_uid: claim.pod_uid.clone(),
        fence: claim.fence,
        outcome: SubmissionOutcome::Refused,
        status: None,
        message: message.clone(),
        at: Utc::now(),
    };
    (submission, Err(MoverError::BadGrant(format!("was not used: {message}"))))
}

/// What an answer says. A connection that was never made sent nothing; any other silence tells nothing, because the server
/// may have read the whole body. A redirect is a standby's way to say that it did not act.
fn judge(answer: &openbao::Result<u16>) -> (SubmissionOutcome, Option<u16>, String) {
    match answer {
        Ok(status) => (SubmissionOutcome::Accepted, Some(*status), "accepted; not applied yet".to_owned()),
        Err(error) => {
            let never_sent = match error {
                openbao::Error::Unreachable { source, .. } => source.is_connect(),
                _ => false,
            };
            // 502 and 504 come from something between us and the server.
            let said_no = error.is_answer() && !matches!(error.status(), Some(502 | 504));
            let outcome = if said_no || never_sent { SubmissionOutcome::Refused } else { SubmissionOutcome::Unknown };
            (outcome, error.status(), detail(error))
        }
    }
}

fn contents(spool: Spool, length: u64, meter: Meter) -> BoxStream<'static, Result<Bytes, MoverError>> {
    let starts = (0..length.div_ceil(SEND_CHUNK)).map(|n| n * SEND_CHUNK);
    let buffers = Buffers::new(usize::try_from(SEND_CHUNK).unwrap_or(0));
    let chunks = futures::stream::iter(starts.map(Ok)).and_then(move |start| {
        let (spool, meter, buffer) = (spool.clone(), meter.clone(), buffers.take());
        async move {
            let size = usize::try_from(SEND_CHUNK.min(length - start)).unwrap_or(0);
            let chunk = spool.read_at(start, size, buffer).await?;
            meter.add(chunk.len());
            Ok(chunk)
        }
    });
    Box::pin(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> openbao::Result<u16> {
        let (pod, request, detail) = ("c-0".to_owned(), "POST".to_owned(), "why".to_owned());
        Err(match status {
            403 => openbao::Error::Denied { pod, request, detail },
            503 => openbao::Error::Sealed { pod, request, detail },
            status => openbao::Error::Refused { pod, request, status, detail },
        })
    }

    #[test]
    fn a_claim_that_took_too_long_is_on_record_as_one_under_which_nothing_was_sent() {
        let claim = Claim { pod_uid: "m".into(), fence: 3, leader_pod_uid: "l".into(), at: Utc::now() };
        let (submission, result) = not_sent(&claim, "writing the claim took 12 s");
        assert_eq!((submission.outcome, submission.status), (SubmissionOutcome::Refused, None));
        assert!(submission.message.contains("nothing was sent"), "{}", submission.message);
        assert!(result.is_err());
        let told = result.unwrap_err().to_string();
        assert!(told.starts_with("the grant was not used: nothing was sent"), "{told}");
    }

    #[test]
    fn an_answer_of_the_server_decides_and_silence_is_unknown() {
        assert_eq!(judge(&Ok(204)).0, SubmissionOutcome::Accepted);
        for status in [307, 400, 403, 500, 503] {
            let (outcome, said, message) = judge(&refused(status));
            assert_eq!((outcome, said), (SubmissionOutcome::Refused, Some(status)), "{message}");
        }
        for status in [502, 504] {
            assert_eq!(judge(&refused(status)).0, SubmissionOutcome::Unknown);
        }
        let silent =
            openbao::Error::TimedOut { pod: "c-0".into(), request: "POST".into(), timeout: ASK_FOR_GRANT_EVERY };
        assert_eq!(judge(&Err(silent)).0, SubmissionOutcome::Unknown);
    }
}
