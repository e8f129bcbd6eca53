//! What became of a submission.
//!
//! A 204 proves nothing: the server applies the snapshot after it has answered, and a leader that dies in between loses
//! it silently. So the outcome is read from the data itself, on the leader: a marker policy written before the POST, and
//! a token minted right before it, exist only in the old data. Each attempt has one claim; whoever finds one must assume
//! that the POST happened, and nothing here ever leads to a second POST under the same claim.
//!
//! The mover, the servers and the API server run on other machines with clocks of their own, so no time that one of them
//! wrote down is compared with anything. Every moment here is one at which this process first saw something, by its own
//! steady clock. What it saw had happened by then: it may wait longer than it must, and never shorter. After a restart it
//! sees everything for the first time again.

use std::time::{Duration, Instant};

use crate::datapath::protocol::{Submission, SubmissionOutcome};

/// A permit that nobody has used this long after it was first seen is taken back. The mover claims within seconds, or hangs;
/// the write that takes it back conflicts with a claim, so that nothing depends on this being right.
pub const PERMIT: Duration = Duration::from_secs(60);
/// The marker still readable this long after the POST was seen to be over: nothing is going on. While a server applies a snapshot,
/// calls with a token hang, however large the snapshot is.
pub const SETTLE: Duration = Duration::from_secs(60);
/// A server that is sealed this long after the POST is not passing through.
pub const SEALED_AFTER: Duration = Duration::from_secs(30);
/// No leader for this long, and nobody was restarted yet: waiting alone does not help.
pub const LEADERLESS_AFTER: Duration = Duration::from_mins(3);
/// How long a restarted server gets before it is judged again.
pub const RESTART_GRACE: Duration = Duration::from_secs(90);
/// Past this nobody can say any more what happened. Counted from the first sight of the claim.
pub const PROOF_DEADLINE: Duration = Duration::from_mins(30);

/// Everything that is known about one attempt.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Since when the permit is seen to stand, while one does.
    pub permit: Option<Instant>,
    /// The permit was taken back by a write that a claim would have conflicted with.
    pub revoked: bool,
    pub claim: Option<Claimed>,
    pub submission: Option<Answer>,
    pub mover: Mover,
    pub leader: Option<LeaderSeen>,
    pub members: Vec<MemberSeen>,
    /// The cluster id that must be seen afterwards, when it has to change.
    pub new_cluster_id: Option<String>,
    /// Since when the servers are seen to have been restarted after harm, if they were: it happens once.
    pub restarted: Option<Instant>,
}

/// The submission was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The pod that it was claimed for.
    pub leader_pod_uid: String,
    /// When that was first seen.
    pub since: Instant,
    /// When the POST was first seen to be over: its mover had an answer, gave up, or was gone.
    pub over: Option<Instant>,
}

/// What the mover says of the POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub outcome: SubmissionOutcome,
    pub status: Option<u16>,
    pub message: String,
}

impl From<&Submission> for Answer {
    fn from(said: &Submission) -> Self {
        Self { outcome: said.outcome, status: said.status, message: said.message.clone() }
    }
}

/// The Job's pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mover {
    #[default]
    Running,
    /// It is seen gone, or its containers have ended.
    Gone,
}

/// The one server that leads, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderSeen {
    pub pod: String,
    pub pod_uid: String,
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
pub fn prove(facts: &Facts, now: Instant) -> Outcome {
    let Some(claim) = &facts.claim else { return unclaimed(facts, now) };
    let Some(over) = claim.over else { return still_sending(facts, claim, now) };
    if let Some(submission) = &facts.submission
        && submission.outcome == SubmissionOutcome::Refused
        && !contradicted(facts)
    {
        return refused(submission);
    }
    let late = now.saturating_duration_since(claim.since) > PROOF_DEADLINE;
    match &facts.leader {
        Some(leader) => with_leader(facts, claim, leader, over, late, now),
        None => without_leader(facts, over, late, now),
    }
}

/// A mover that has not ended may hang on a server that is gone. What the leader shows decides without it: the restored
/// data, or the old data in another pod than the one that it is sending to. (Whoever acts on the latter stops the mover
/// first. A server that went away in its own pod closes the connection, or leaves it to keep-alives that find nobody: then
/// the mover itself says that it is over.)
fn still_sending(facts: &Facts, claim: &Claimed, now: Instant) -> Outcome {
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

fn unclaimed(facts: &Facts, now: Instant) -> Outcome {
    if facts.mover == Mover::Gone {
        return Outcome::NothingPosted("the mover ended before it claimed the submission".into());
    }
    if facts.revoked {
        return Outcome::NothingPosted(
            "the mover did not claim the submission in time; its permit was taken back".into(),
        );
    }
    match facts.permit {
        Some(since) if now.saturating_duration_since(since) > PERMIT => Outcome::Revoke,
        Some(_) => Outcome::Wait("the mover is about to claim the submission".into()),
        None => Outcome::Wait("no permit stands".into()),
    }
}

/// The server's refusals of a snapshot come back for the same bytes; those of its state may not.
fn refused(submission: &Answer) -> Outcome {
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
    claim: &Claimed,
    leader: &LeaderSeen,
    over: Instant,
    late: bool,
    now: Instant,
) -> Outcome {
    let pod = &leader.pod;
    let identity = Identity::of(facts.new_cluster_id.as_deref(), leader.cluster_id.as_deref());
    let unproven = |what: &str| {
        if late {
            Outcome::Unknown(format!("{what}, {} minutes after the submission", PROOF_DEADLINE.as_secs() / 60))
        } else {
            Outcome::Wait(what.to_owned())
        }
    };
    match (leader.marker, leader.token, identity) {
        // Looked at in the very moment, or somebody deleted the marker: the token cannot be in the snapshot.
        (Marker::Gone, Witness::Valid, _) => {
            unproven("the marker is gone on the leader, but it still knows the token minted before the submission")
        }
        // The token is at hand, and is asked again: a marker that somebody deleted proves nothing.
        (Marker::Gone, Witness::Silent, _) => unproven(
            "the marker is gone on the leader, which does not say whether it knows the token minted before the submission",
        ),
        (Marker::Gone, Witness::Denied | Witness::Lost, Identity::NotAsked | Identity::New) => Outcome::Applied {
            proof: Proof::Marker,
            text: format!("the marker written before the submission is gone on leader {pod}"),
        },
        (Marker::Gone, Witness::Denied | Witness::Lost, Identity::Old | Identity::NotSeen) => {
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
        (Marker::Present, _, _) | (Marker::NoAccess, Witness::Valid, _) => still_there(claim, leader, over, now),
        (Marker::NoAccess, Witness::Denied, Identity::Old) => {
            unproven("the leader does not know our token any more, but the cluster id is not that of the snapshot")
        }
        // The id of the old data, where it would have to be another.
        (Marker::NoAccess, Witness::Lost | Witness::Silent, Identity::Old) => still_there(claim, leader, over, now),
        (Marker::NoAccess, Witness::Lost | Witness::Silent, Identity::NotAsked | Identity::NotSeen) => {
            unproven("nobody of ours can log in at the leader, so whose data it serves cannot be seen")
        }
        (Marker::Silent, _, _) => unproven(&format!("leader {pod} is applying the snapshot (calls with a token hang)")),
    }
}

/// Whose data it is, by the cluster id that the leader shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The snapshot is of this very cluster, or does not say.
    NotAsked,
    /// The snapshot's.
    New,
    /// Another one's.
    Old,
    NotSeen,
}

impl Identity {
    /// `wanted`: the id that must be seen, when it has to change.
    pub fn of(wanted: Option<&str>, seen: Option<&str>) -> Self {
        match (wanted, seen) {
            (None, _) => Self::NotAsked,
            (Some(wanted), Some(seen)) if wanted == seen => Self::New,
            (Some(_), Some(_)) => Self::Old,
            (Some(_), None) => Self::NotSeen,
        }
    }
}

/// The old data is served. In another pod than the one that took the request, that is final; in the same one it is final
/// once nothing can be under way any more. (Which process in a pod took the request nobody can tell: it may have been
/// restarted right before it did.)
fn still_there(claim: &Claimed, leader: &LeaderSeen, over: Instant, now: Instant) -> Outcome {
    let pod = &leader.pod;
    if leader.pod_uid != claim.leader_pod_uid {
        return Outcome::NotApplied(format!(
            "the leader that took the snapshot is gone, and {pod}, which leads now, serves the old data"
        ));
    }
    if now.saturating_duration_since(over) > SETTLE {
        let waited = SETTLE.as_secs();
        return Outcome::NotApplied(format!("leader {pod} still serves the old data {waited} s after the submission"));
    }
    Outcome::Wait(format!("leader {pod} to begin applying the snapshot"))
}

fn without_leader(facts: &Facts, over: Instant, late: bool, now: Instant) -> Outcome {
    let sealed: Vec<String> = names(&facts.members, |state| state == MemberState::Sealed);
    let elapsed = now.saturating_duration_since(facts.restarted.unwrap_or(over));
    match (sealed.is_empty(), facts.restarted) {
        (false, None) if elapsed > SEALED_AFTER => {
            Outcome::Restart { pods: sealed, why: "sealed themselves after the submission".into() }
        }
        (false, Some(_)) if elapsed > RESTART_GRACE => Outcome::Sealed { pods: sealed },
        (true, None) if elapsed > LEADERLESS_AFTER => Outcome::Restart {
            pods: names(&facts.members, |_| true),
            why: "have no leader after the submission".into(),
        },
        // Servers that have just unsealed have no leader either, however long that took.
        (true, Some(_)) if late => Outcome::Unknown(format!(
            "no server leads, {} minutes after the submission, and a restart did not change that: whose data is there cannot \
             be seen",
            PROOF_DEADLINE.as_secs() / 60
        )),
        (false, _) => Outcome::Wait(format!("{} to unseal", sealed.join(", "))),
        (true, _) => Outcome::Wait("the servers to elect a leader".into()),
    }
}

fn names(members: &[MemberSeen], wanted: impl Fn(MemberState) -> bool) -> Vec<String> {
    members.iter().filter(|member| wanted(member.state)).map(|member| member.pod.clone()).collect()
}

#[cfg(test)]
mod tests;
