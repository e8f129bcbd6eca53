//! The one step that cannot be taken back: leave for one mover to post the snapshot once. What became of it is found out by
//! [`super::proof`]. Nothing here posts anything, and no permit is given twice under one claim.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};

use super::{Step, chain, judge, marker, preflight, servers};
use crate::api::OpenBaoCluster;
use crate::datapath::protocol::{Endpoint, Grant, Peer, Permit};
use crate::service::cluster::members::{self, Member};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::mover::{Exchange, MoverError};
use crate::service::restore::plan;

/// What a permit says of its end; it is taken back [`crate::service::restore::decide::prove::PERMIT`] after it was first seen.
const PERMIT: TimeDelta = TimeDelta::seconds(60);

/// How long an election is waited for when everything else is ready; a killed leader is followed after some 14 s.
const ELECTION: Duration = Duration::from_secs(60);
/// How soon servers that say nothing useful are asked again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Tries of the one conflict-checked write.
const WRITES: usize = 5;

/// Output keys of this step.
pub const OUTCOME: &str = "outcome";
pub const PROOF: &str = "proof";
pub const PROOF_TEXT: &str = "proofText";
pub const PROOF_AT: &str = "proofAt";
pub const INDEX: &str = "raftIndex";
pub const MESSAGE: &str = "message";
pub const SUBMITTED_AT: &str = "submittedAt";
pub const ANSWERED_AT: &str = "answeredAt";

/// Values of [`OUTCOME`].
pub const APPLIED: &str = "Applied";
pub const SEALED: &str = "Sealed";

/// Gives the permit, once per receipt. Whatever stands in the way here leaves everything as it was.
pub async fn grant(step: &Step<'_>) -> StepOutcome {
    let cluster = match step.cluster() {
        Ok(cluster) => cluster,
        Err(outcome) => return outcome,
    };
    let not_yet = |why: String| StepOutcome::retryable("NotSubmitted", format!("{why}; nothing was submitted"));
    let Some(fence) = step.call.fence else {
        return StepOutcome::fatal("LockLost", "the restore has no lock: nothing was submitted");
    };
    // Before anything is said to have failed: another operator may have handed out the permit of this attempt.
    match step.movers.exchange().await {
        Ok(Some(read)) if is_taken(&read, step.call.state.attempt) => return elsewhere(),
        Ok(_) => {}
        Err(error) => return not_yet(chain(&error)),
    }
    if step.inputs.onto.is_none() && step.call.op.metadata.deletion_timestamp.is_some() {
        // Nobody's wish any more. A rollback goes on: its servers are empty, and this is how they get their data back.
        return StepOutcome::fatal("Deleted", "the restore was deleted; nothing was submitted");
    }
    let (pod_uid, report) = match preflight::ready(step).await {
        Ok(preflight::Prepared::Ready { pod_uid, report }) => (pod_uid, report),
        Ok(preflight::Prepared::Working(what)) => {
            return not_yet(format!("the mover is not ready (waiting for {what})"));
        }
        Ok(preflight::Prepared::Refused(report)) => {
            return StepOutcome::fatal("SourceChanged", format!("{}; nothing was submitted", report.message));
        }
        Err(failed @ StepOutcome::Failed { .. }) => return failed,
        Err(_) => return not_yet("the mover cannot be seen".to_owned()),
    };
    if report.inspection.as_ref().map(|i| i.sha256.as_str()) != step.call.output(plan::JUDGE, judge::SHA256) {
        return StepOutcome::fatal(
            "SourceChanged",
            "the snapshot is not the one that was judged; nothing was submitted",
        );
    }
    let Some((members, peer)) = leading_peer(step, cluster).await else {
        return not_yet("the servers do not agree on a leader".to_owned());
    };
    if let Err(why) = witnessed(step, cluster, &members).await {
        return not_yet(why);
    }
    let permit = Permit { pod_uid, fence, leader: peer, endpoint: endpoint(step), expires_at: Utc::now() + PERMIT };
    hand_over(step, &Grant::Granted(permit), &servers(&members), not_yet).await
}

/// Where the snapshot is sent, as it was judged under the lock.
pub(super) fn endpoint(step: &Step<'_>) -> Endpoint {
    match step.call.output(plan::PLACE_MARKER, marker::ENDPOINT) {
        Some("snapshot-force") => Endpoint::SnapshotForce,
        Some(_) | None => Endpoint::Snapshot,
    }
}

/// Sees to it that the leader shows the marker now: since it was placed another attempt may have been made, or somebody may
/// have deleted it, and one that is missing already would pass for a proof.
async fn witnessed(step: &Step<'_>, cluster: &OpenBaoCluster, members: &[Member]) -> Result<(), String> {
    if step.call.output(plan::PLACE_MARKER, marker::MARKER) != Some("true") {
        // The proof rests on the cluster id alone.
        return Ok(());
    }
    let leader = members::leader(members).ok_or_else(|| "the servers do not agree on a leader".to_owned())?;
    match marker::place(step, cluster, leader).await {
        Ok(marker::Placed::Stands) => Ok(()),
        Ok(marker::Placed::NoAccess(why)) => Err(format!("the marker cannot be looked at any more ({why})")),
        Err(StepOutcome::Waiting { reason, .. }) => Err(format!("the marker cannot be looked at: {reason}")),
        Err(_) => Err("the marker cannot be looked at".to_owned()),
    }
}

/// Whether this attempt has its permit already, or is over: an operator that still acts for an attempt which another one has
/// closed would hand out a permit that nobody waits for any more.
fn is_taken(read: &Exchange, attempt: i32) -> bool {
    read.claim.is_some() || read.grant.is_some() || read.past(attempt).is_some()
}

/// Not to be judged here: the proof looks into it.
fn elsewhere() -> StepOutcome {
    StepOutcome::in_progress("a permit was handed out already: looking what came of it")
}

/// Writes the permit. The mover tells its progress in the same object, so a conflict is looked into and tried again; what
/// was meant for one pod with one verified snapshot stays meant for it.
async fn hand_over(
    step: &Step<'_>,
    grant: &Grant,
    servers: &BTreeMap<String, String>,
    not_yet: impl Fn(String) -> StepOutcome,
) -> StepOutcome {
    for _ in 0..WRITES {
        if !step.call.ad.leadership.still_leader() {
            return not_yet("another operator leads now".to_owned());
        }
        let read = match step.movers.exchange().await {
            Ok(Some(read)) => read,
            Ok(None) => {
                return StepOutcome::fatal("MoverUnusable", "the mover's ConfigMap is gone; nothing was submitted");
            }
            Err(error) => return not_yet(chain(&error)),
        };
        if is_taken(&read, step.call.state.attempt) {
            return elsewhere();
        }
        match step.movers.grant(&read, grant, servers).await {
            Ok(()) => return StepOutcome::in_progress("waiting for the mover to claim the submission"),
            Err(MoverError::Request { source, .. }) if source.is_conflict() => {}
            // Whether it was written is not known: the proof reads it.
            Err(error) => return StepOutcome::in_progress(format!("waiting for the mover ({})", chain(&error))),
        }
    }
    not_yet("the mover's ConfigMap kept changing while the permit was written".to_owned())
}

/// The leader, waited for through an election: this step runs once per receipt and cannot come back for it.
async fn leading_peer(step: &Step<'_>, cluster: &OpenBaoCluster) -> Option<(Vec<Member>, Peer)> {
    let until = Instant::now() + ELECTION;
    loop {
        let members = step.members(cluster).await;
        if let Some(peer) = members::leader(&members).and_then(peer) {
            return Some((members, peer));
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A server as the mover dials it.
pub(super) fn peer(member: &Member) -> Option<Peer> {
    let endpoint = member.endpoint.as_ref()?;
    Some(Peer {
        pod: member.name.clone(),
        pod_uid: member.uid.clone(),
        address: endpoint.address.to_string(),
        tls_name: if endpoint.ca_pem.is_some() { endpoint.tls_name.clone() } else { String::new() },
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::service::restore::{mover::Past, steps::proof::tests::read};

    #[test]
    fn an_attempt_that_another_operator_closed_gets_no_permit() {
        let past = |attempt| Past {
            attempt,
            grant: None,
            claim: None,
            result: None,
            verdict: "why".into(),
            at: DateTime::from_timestamp(100, 0).unwrap(),
        };
        assert!(!is_taken(&Exchange { past: vec![past(1)], ..Exchange::default() }, 2));
        assert!(is_taken(&Exchange { past: vec![past(1), past(2)], ..Exchange::default() }, 2));
        assert!(is_taken(&read(Some("m1")), 2));
    }
}
