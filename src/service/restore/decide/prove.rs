//! What became of a submission.
//!
//! A 204 proves nothing: the server applies the snapshot after it has answered, and a leader that dies in between loses
//! it silently. So the outcome is read from the data itself, on the leader: a marker policy written before the POST, and
//! a token minted right before it, exist only in the old data. Each attempt has one claim; whoever finds one must assume
//! that the POST happened, and nothing here ever leads to a second POST under the same claim.

use crate::datapath::protocol::{Claim, Submission, SubmissionOutcome};
use chrono::{DateTime, Duration, Utc};

/// The marker still readable this long after the POST ended: nothing is going on. While a server applies a snapshot,
/// calls with a token hang, however large the snapshot is.
pub const SETTLE: Duration = Duration::seconds(60);
/// A server that is sealed this long after the POST is not passing through.
pub const SEALED_AFTER: Duration = Duration::seconds(30);
/// No leader for this long: waiting alone does not help.
pub const LEADERLESS_AFTER: Duration = Duration::minutes(3);
/// How long a restarted server gets before it is judged again.
pub const RESTART_GRACE: Duration = Duration::seconds(90);
/// Past this nobody can say any more what happened. Counted from the claim.
pub const PROOF_DEADLINE: Duration = Duration::minutes(30);
/// A connection for the POST is made this long after the claim or never: a process that began later took nothing under it.
/// Covers [`POST_WITHIN`](crate::datapath::protocol::POST_WITHIN), the time to connect, and clocks that differ.
pub const TAKEN_WITHIN: Duration = Duration::seconds(30);
/// Clocks differ: a process that began this long after the server's answer is not the one that gave it.
pub const PROCESS_MARGIN: Duration = Duration::seconds(5);
/// Clocks differ: a permit is surely over only this long after its end.
pub const PERMIT_MARGIN: Duration = Duration::seconds(15);

/// Everything that is known about one attempt.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// When the permit ends, while one stands.
    pub permit_until: Option<DateTime<Utc>>,
    /// The permit was taken back by a write that a claim would have conflicted with.
    pub revoked: bool,
    pub claim: Option<Claim>,
    pub submission: Option<Submission>,
    pub mover: Mover,
    pub leader: Option<LeaderSeen>,
    pub members: Vec<MemberSeen>,
    /// The cluster id that must be seen afterwards, when it has to change.
    pub new_cluster_id: Option<String>,
    /// When the servers were restarted after harm was seen, if they were: it happens once.
    pub restarted_at: Option<DateTime<Utc>>,
}

/// The Job's pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mover {
    #[default]
    Running,
    /// It is seen gone, or its containers have ended, at this time.
    Gone { at: DateTime<Utc> },
}

/// The one server that leads, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderSeen {
    pub pod: String,
    pub pod_uid: String,
    /// When the server process in that pod began.
    pub process_since: Option<DateTime<Utc>>,
    pub marker: Marker,
    pub token: Witness,
    pub cluster_id: Option<String>,
}

/// The marker policy, as the leader shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    Present,
    Gone,
    /// We may not look: the login or the reading was refused.
    NoAccess,
    /// No answer within the time allowed.
    Silent,
}

/// The token minted before the POST, as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    Valid,
    /// 403, well within its life time.
    Denied,
    /// We don't have it (any more), or it may have expired by itself.
    Lost,
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSeen {
    pub pod: String,
    pub state: MemberState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    Active,
    Standby,
    Sealed,
    Silent,
}

/// How it was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Marker,
    Token,
    ClusterId,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing can be said yet; the sentence says what is awaited, and from whom.
    Wait(String),
    /// Take the permit back, by a write that conflicts with any claim.
    Revoke,
    /// No POST happened: another attempt may follow.
    NothingPosted(String),
    /// The server said no, or the old data is what is served: another attempt may follow.
    NotApplied(String),
    /// The server read the whole request and refused it: another attempt would end the same.
    Rejected(String),
    /// The restored data is what the leader serves.
    Applied { proof: Proof, text: String },
    /// Restart these servers, once, and look again.
    Restart { pods: Vec<String>, why: String },
    /// The servers stay sealed after their restart: they need the snapshot's key.
    Sealed { pods: Vec<String> },
    /// Nobody can tell. A person decides.
    Unknown(String),
}

/// Decides what came of one attempt.
pub fn prove(facts: &Facts, now: DateTime<Utc>) -> Outcome {
    let Some(claim) = &facts.claim else { return unclaimed(facts, now) };
    let Some(ended) = ended(facts) else { return still_sending(facts, claim, now) };
    if let Some(submission) = &facts.submission
        && submission.outcome == SubmissionOutcome::Refused
        && !contradicted(facts)
    {
        return refused(submission);
    }
    let late = now - claim.at > PROOF_DEADLINE;
    match &facts.leader {
        Some(leader) => with_leader(facts, claim, leader, ended, late, now),
        None => without_leader(facts, ended, late, now),
    }
}

/// When the POST was over: the server's answer, or the end of the process that was sending.
fn ended(facts: &Facts) -> Option<DateTime<Utc>> {
    match (&facts.submission, facts.mover) {
        (Some(submission), _) => Some(submission.at),
        (None, Mover::Gone { at }) => Some(at),
        (None, Mover::Running) => None,
    }
}

/// A mover that has not ended may hang on a server that is gone. What the leader shows decides without it: the restored
/// data, or the old data under another process than the one that it is sending to. (Whoever acts on the latter stops the
/// mover first.)
fn still_sending(facts: &Facts, claim: &Claim, now: DateTime<Utc>) -> Outcome {
    let sending = Outcome::Wait("the mover to hand the snapshot to the leader".into());
    let Some(leader) = &facts.leader else { return sending };
    match with_leader(facts, claim, leader, now, false, now) {
        decided @ (Outcome::Applied { .. } | Outcome::NotApplied(_)) => decided,
        _ => sending,
    }
}

/// A server that said no and yet does not show the old data: what it shows counts.
fn contradicted(facts: &Facts) -> bool {
    facts
        .leader
        .as_ref()
        .is_some_and(|leader| matches!(leader.marker, Marker::Gone | Marker::Silent) && leader.token != Witness::Valid)
}

fn unclaimed(facts: &Facts, now: DateTime<Utc>) -> Outcome {
    if let Mover::Gone { .. } = facts.mover {
        return Outcome::NothingPosted("the mover ended before it claimed the submission".into());
    }
    if facts.revoked {
        return Outcome::NothingPosted(
            "the mover did not claim the submission in time; its permit was taken back".into(),
        );
    }
    match facts.permit_until {
        Some(until) if now > until + PERMIT_MARGIN => Outcome::Revoke,
        Some(_) => Outcome::Wait("the mover is about to claim the submission".into()),
        None => Outcome::Wait("no permit stands".into()),
    }
}

/// The server's refusals of a snapshot come back for the same bytes; those of its state may not.
fn refused(submission: &Submission) -> Outcome {
    let text = submission.message.clone();
    match submission.status {
        // Without a status no connection was made.
        None | Some(307 | 429 | 472 | 473 | 502 | 503 | 504) => {
            Outcome::NotApplied(format!("the server did not take the request: {text}"))
        }
        _ => Outcome::Rejected(text),
    }
}

fn with_leader(
    facts: &Facts,
    claim: &Claim,
    leader: &LeaderSeen,
    ended: DateTime<Utc>,
    late: bool,
    now: DateTime<Utc>,
) -> Outcome {
    let pod = &leader.pod;
    let identity = match (&facts.new_cluster_id, &leader.cluster_id) {
        (None, _) => Identity::NotAsked,
        (Some(wanted), Some(seen)) if wanted == seen => Identity::New,
        (Some(_), Some(_)) => Identity::Old,
        (Some(_), None) => Identity::NotSeen,
    };
    let unproven = |what: &str| {
        if late {
            Outcome::Unknown(format!("{what}, {} minutes after the submission", PROOF_DEADLINE.num_minutes()))
        } else {
            Outcome::Wait(what.to_owned())
        }
    };
    match (leader.marker, leader.token, identity) {
        // Looked at in the very moment, or somebody deleted the marker: the token cannot be in the snapshot.
        (Marker::Gone, Witness::Valid, _) => {
            unproven("the marker is gone on the leader, but it still knows the token minted before the submission")
        }
        (Marker::Gone, _, Identity::NotAsked | Identity::New) => Outcome::Applied {
            proof: Proof::Marker,
            text: format!("the marker written before the submission is gone on leader {pod}"),
        },
        (Marker::Gone, _, Identity::Old | Identity::NotSeen) => {
            unproven("the marker is gone on the leader, but the cluster id is not that of the snapshot")
        }
        (Marker::NoAccess, Witness::Denied, Identity::NotAsked | Identity::New | Identity::NotSeen) => {
            Outcome::Applied {
                proof: Proof::Token,
                text: format!("the token minted before the submission is unknown to leader {pod}"),
            }
        }
        (Marker::NoAccess, Witness::Lost | Witness::Silent, Identity::New) => Outcome::Applied {
            proof: Proof::ClusterId,
            text: format!("leader {pod} shows the cluster id of the snapshot, which is not that of the data before"),
        },
        (Marker::Present, _, _) | (Marker::NoAccess, Witness::Valid, _) => {
            still_there(facts, claim, leader, ended, now)
        }
        (Marker::NoAccess, Witness::Denied, Identity::Old) => {
            unproven("the leader does not know our token any more, but the cluster id is not that of the snapshot")
        }
        // The id of the old data, where it would have to be another.
        (Marker::NoAccess, Witness::Lost | Witness::Silent, Identity::Old) => {
            still_there(facts, claim, leader, ended, now)
        }
        (Marker::NoAccess, Witness::Lost | Witness::Silent, Identity::NotAsked | Identity::NotSeen) => {
            unproven("nobody of ours can log in at the leader, so whose data it serves cannot be seen")
        }
        (Marker::Silent, _, _) => unproven(&format!("leader {pod} is applying the snapshot (calls with a token hang)")),
    }
}

#[derive(Clone, Copy)]
enum Identity {
    NotAsked,
    New,
    Old,
    NotSeen,
}

/// The old data is served. By another process than the one that took the request, that is final; by the same one it is
/// final once nothing can be under way any more.
fn still_there(facts: &Facts, claim: &Claim, leader: &LeaderSeen, ended: DateTime<Utc>, now: DateTime<Utc>) -> Outcome {
    let pod = &leader.pod;
    if leader.pod_uid != claim.leader_pod_uid {
        return Outcome::NotApplied(format!(
            "the leader that took the snapshot is gone, and {pod}, which leads now, serves the old data"
        ));
    }
    // Between the claim and the POST a server may restart, and take it after all.
    let taken_by = match &facts.submission {
        Some(submission) => submission.at + PROCESS_MARGIN,
        None => claim.at + TAKEN_WITHIN,
    };
    if leader.process_since.is_some_and(|since| since > taken_by) {
        return Outcome::NotApplied(format!(
            "leader {pod} was restarted after it took the snapshot, and serves the old data"
        ));
    }
    if now - ended > SETTLE {
        let waited = SETTLE.num_seconds();
        return Outcome::NotApplied(format!("leader {pod} still serves the old data {waited} s after the submission"));
    }
    Outcome::Wait(format!("leader {pod} to begin applying the snapshot"))
}

fn without_leader(facts: &Facts, ended: DateTime<Utc>, late: bool, now: DateTime<Utc>) -> Outcome {
    let sealed: Vec<String> = names(&facts.members, |state| state == MemberState::Sealed);
    let since = facts.restarted_at.unwrap_or(ended);
    let elapsed = now - since;
    match (sealed.is_empty(), facts.restarted_at) {
        (false, None) if elapsed > SEALED_AFTER => {
            Outcome::Restart { pods: sealed, why: "sealed themselves after the submission".into() }
        }
        (false, Some(_)) if elapsed > RESTART_GRACE => Outcome::Sealed { pods: sealed },
        (true, None) if elapsed > LEADERLESS_AFTER => Outcome::Restart {
            pods: names(&facts.members, |_| true),
            why: "have no leader after the submission".into(),
        },
        (true, Some(_)) if elapsed > LEADERLESS_AFTER || late => Outcome::Unknown(
            "no server leads, and a restart did not change that: whose data is there cannot be seen".into(),
        ),
        (false, _) => Outcome::Wait(format!("{} to unseal", sealed.join(", "))),
        (true, _) => Outcome::Wait("the servers to elect a leader".into()),
    }
}

fn names(members: &[MemberSeen], wanted: impl Fn(MemberState) -> bool) -> Vec<String> {
    members.iter().filter(|member| wanted(member.state)).map(|member| member.pod.clone()).collect()
}

#[cfg(test)]
mod tests;
