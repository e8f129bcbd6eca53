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
        (Marker::Present, _, _) | (Marker::NoAccess, Witness::Valid, _) => still_there(claim, leader, ended, now),
        (Marker::NoAccess, Witness::Denied, Identity::Old) => {
            unproven("the leader does not know our token any more, but the cluster id is not that of the snapshot")
        }
        // The id of the old data, where it would have to be another.
        (Marker::NoAccess, Witness::Lost | Witness::Silent, Identity::Old) => still_there(claim, leader, ended, now),
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
fn still_there(claim: &Claim, leader: &LeaderSeen, ended: DateTime<Utc>, now: DateTime<Utc>) -> Outcome {
    let pod = &leader.pod;
    if leader.pod_uid != claim.leader_pod_uid {
        return Outcome::NotApplied(format!(
            "the leader that took the snapshot is gone, and {pod}, which leads now, serves the old data"
        ));
    }
    if leader.process_since.is_some_and(|since| since > claim.at) {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + seconds, 0).unwrap()
    }

    fn leader(marker: Marker, token: Witness) -> LeaderSeen {
        LeaderSeen {
            pod: "c-0".into(),
            pod_uid: "u0".into(),
            process_since: Some(at(-1000)),
            marker,
            token,
            cluster_id: Some("old".into()),
        }
    }

    fn claim() -> Claim {
        Claim { pod_uid: "m".into(), fence: 7, leader_pod_uid: "u0".into(), at: at(0) }
    }

    fn submission(outcome: SubmissionOutcome, status: Option<u16>) -> Submission {
        Submission { pod_uid: "m".into(), fence: 7, outcome, status, message: "said so".into(), at: at(1) }
    }

    /// Claimed at 0, answered with 204 at 1, old leader in office.
    fn accepted(marker: Marker, token: Witness) -> Facts {
        Facts {
            permit_until: Some(at(30)),
            claim: Some(claim()),
            submission: Some(submission(SubmissionOutcome::Accepted, Some(204))),
            leader: Some(leader(marker, token)),
            ..Facts::default()
        }
    }

    fn members(states: &[MemberState]) -> Vec<MemberSeen> {
        states.iter().enumerate().map(|(i, state)| MemberSeen { pod: format!("c-{i}"), state: *state }).collect()
    }

    #[test]
    fn a_marker_that_is_gone_on_the_leader_proves_the_restore() {
        let outcome = prove(&accepted(Marker::Gone, Witness::Lost), at(8));
        assert!(matches!(outcome, Outcome::Applied { proof: Proof::Marker, .. }), "{outcome:?}");
    }

    #[test]
    fn a_204_alone_proves_nothing_and_the_marker_may_still_go() {
        assert!(matches!(prove(&accepted(Marker::Present, Witness::Valid), at(2)), Outcome::Wait(_)));
        assert!(matches!(prove(&accepted(Marker::Silent, Witness::Silent), at(500)), Outcome::Wait(_)));
    }

    #[test]
    fn a_marker_seen_by_another_leader_means_that_the_snapshot_was_lost() {
        let mut facts = accepted(Marker::Present, Witness::Valid);
        facts.leader.as_mut().unwrap().pod_uid = "u1".into();
        assert!(matches!(prove(&facts, at(2)), Outcome::NotApplied(_)));
        let mut facts = accepted(Marker::Present, Witness::Lost);
        facts.leader.as_mut().unwrap().process_since = Some(at(3));
        assert!(matches!(prove(&facts, at(4)), Outcome::NotApplied(_)), "the same pod, another process");
    }

    #[test]
    fn a_marker_that_the_same_leader_keeps_showing_is_not_applied_after_a_minute() {
        let facts = accepted(Marker::Present, Witness::Valid);
        assert!(matches!(prove(&facts, at(61)), Outcome::Wait(_)));
        assert!(matches!(prove(&facts, at(62)), Outcome::NotApplied(_)));
        let blind = accepted(Marker::NoAccess, Witness::Valid);
        assert!(matches!(prove(&blind, at(62)), Outcome::NotApplied(_)), "a token that is still known is the old data");
    }

    #[test]
    fn where_nobody_may_log_in_the_forgotten_token_or_the_new_cluster_id_is_the_proof() {
        let outcome = prove(&accepted(Marker::NoAccess, Witness::Denied), at(8));
        assert!(matches!(outcome, Outcome::Applied { proof: Proof::Token, .. }), "{outcome:?}");
        let mut facts = accepted(Marker::NoAccess, Witness::Lost);
        facts.new_cluster_id = Some("new".into());
        assert!(matches!(prove(&facts, at(8)), Outcome::Wait(_)));
        assert!(matches!(prove(&facts, at(62)), Outcome::NotApplied(_)), "the id of the old data, for good");
        facts.leader.as_mut().unwrap().cluster_id = Some("new".into());
        let outcome = prove(&facts, at(8));
        assert!(matches!(outcome, Outcome::Applied { proof: Proof::ClusterId, .. }), "{outcome:?}");
    }

    #[test]
    fn a_cluster_id_that_should_have_changed_and_did_not_is_no_success() {
        for (marker, token) in [(Marker::Gone, Witness::Lost), (Marker::NoAccess, Witness::Denied)] {
            let mut facts = accepted(marker, token);
            facts.new_cluster_id = Some("new".into());
            assert!(matches!(prove(&facts, at(8)), Outcome::Wait(_)));
            assert!(matches!(prove(&facts, at(1801)), Outcome::Unknown(_)));
        }
    }

    #[test]
    fn without_access_and_without_evidence_it_is_unknown_in_the_end() {
        let facts = accepted(Marker::NoAccess, Witness::Lost);
        assert!(matches!(prove(&facts, at(1800)), Outcome::Wait(_)));
        assert!(matches!(prove(&facts, at(1801)), Outcome::Unknown(_)));
    }

    #[test]
    fn without_a_claim_nothing_was_posted_once_the_mover_is_gone_or_its_permit_was_taken_back() {
        let waiting = Facts { permit_until: Some(at(30)), ..Facts::default() };
        assert!(matches!(prove(&waiting, at(45)), Outcome::Wait(_)));
        assert_eq!(prove(&waiting, at(46)), Outcome::Revoke);
        let revoked = Facts { revoked: true, ..waiting.clone() };
        assert!(matches!(prove(&revoked, at(46)), Outcome::NothingPosted(_)));
        let gone = Facts { mover: Mover::Gone { at: at(3) }, ..waiting };
        assert!(matches!(prove(&gone, at(4)), Outcome::NothingPosted(_)));
    }

    #[test]
    fn a_claim_whose_mover_died_is_proven_and_never_posted_again() {
        let mut facts = accepted(Marker::Present, Witness::Valid);
        facts.submission = None;
        assert!(matches!(prove(&facts, at(300)), Outcome::Wait(_)), "the mover still runs: it may be sending");
        let mut elsewhere = facts.clone();
        elsewhere.leader.as_mut().unwrap().pod_uid = "u1".into();
        assert!(matches!(prove(&elsewhere, at(5)), Outcome::NotApplied(_)), "what it sends to leads no more");
        facts.mover = Mover::Gone { at: at(5) };
        assert!(matches!(prove(&facts, at(60)), Outcome::Wait(_)));
        assert!(matches!(prove(&facts, at(66)), Outcome::NotApplied(_)));
        facts.leader = Some(leader(Marker::Gone, Witness::Lost));
        assert!(matches!(prove(&facts, at(6)), Outcome::Applied { .. }));
    }

    #[test]
    fn a_refusal_of_the_bytes_is_final_and_one_of_the_servers_state_is_not() {
        let answers = [400, 500, 403].map(|status| (Some(status), false));
        let silence = [None, Some(503), Some(429), Some(307)].map(|status| (status, true));
        for (status, again) in answers.into_iter().chain(silence) {
            let mut facts = accepted(Marker::Present, Witness::Valid);
            facts.submission = Some(submission(SubmissionOutcome::Refused, status));
            let outcome = prove(&facts, at(2));
            assert_eq!(matches!(outcome, Outcome::NotApplied(_)), again, "{status:?}: {outcome:?}");
            assert_eq!(matches!(outcome, Outcome::Rejected(_)), !again, "{status:?}: {outcome:?}");
        }
    }

    #[test]
    fn a_dropped_connection_is_an_unknown_outcome_and_is_looked_into_like_a_204() {
        let mut facts = accepted(Marker::Present, Witness::Valid);
        facts.submission = Some(submission(SubmissionOutcome::Unknown, None));
        assert!(matches!(prove(&facts, at(2)), Outcome::Wait(_)));
        assert!(matches!(prove(&facts, at(62)), Outcome::NotApplied(_)));
        facts.leader = Some(leader(Marker::Gone, Witness::Denied));
        assert!(matches!(prove(&facts, at(2)), Outcome::Applied { .. }));
    }

    #[test]
    fn sealed_servers_are_restarted_once_and_then_named() {
        let mut facts = accepted(Marker::Present, Witness::Lost);
        facts.leader = None;
        facts.members = members(&[MemberState::Sealed, MemberState::Sealed, MemberState::Silent]);
        assert!(matches!(prove(&facts, at(31)), Outcome::Wait(_)));
        let Outcome::Restart { pods, .. } = prove(&facts, at(32)) else { panic!("no restart") };
        assert_eq!(pods, ["c-0", "c-1"]);
        facts.restarted_at = Some(at(40));
        assert!(matches!(prove(&facts, at(130)), Outcome::Wait(_)));
        assert!(matches!(prove(&facts, at(131)), Outcome::Sealed { .. }));
    }

    #[test]
    fn servers_without_a_leader_are_restarted_once_and_then_unknown() {
        let mut facts = accepted(Marker::Present, Witness::Lost);
        facts.leader = None;
        facts.members = members(&[MemberState::Standby, MemberState::Standby]);
        assert!(matches!(prove(&facts, at(100)), Outcome::Wait(_)));
        assert!(matches!(prove(&facts, at(182)), Outcome::Restart { .. }));
        facts.restarted_at = Some(at(190));
        assert!(matches!(prove(&facts, at(300)), Outcome::Wait(_)));
        assert!(matches!(prove(&facts, at(371)), Outcome::Unknown(_)));
    }

    fn any_facts() -> impl Strategy<Value = Facts> {
        let marker =
            prop_oneof![Just(Marker::Present), Just(Marker::Gone), Just(Marker::NoAccess), Just(Marker::Silent)];
        let token =
            prop_oneof![Just(Witness::Valid), Just(Witness::Denied), Just(Witness::Lost), Just(Witness::Silent)];
        let state = prop_oneof![
            Just(MemberState::Active),
            Just(MemberState::Standby),
            Just(MemberState::Sealed),
            Just(MemberState::Silent)
        ];
        let outcome = prop_oneof![
            Just(SubmissionOutcome::Accepted),
            Just(SubmissionOutcome::Refused),
            Just(SubmissionOutcome::Unknown)
        ];
        let who = proptest::option::of((marker, token, any::<bool>(), any::<bool>(), any::<bool>()));
        let posted = (any::<bool>(), proptest::option::of((outcome, proptest::option::of(200u16..599))));
        (
            who,
            posted,
            any::<bool>(),
            any::<bool>(),
            proptest::collection::vec(state, 1..4),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(|(who, (claimed, posted), gone, revoked, states, must_change, restarted)| Facts {
                permit_until: Some(at(30)),
                revoked,
                claim: claimed.then(claim),
                submission: posted.filter(|_| claimed).map(|(outcome, status)| submission(outcome, status)),
                mover: if gone { Mover::Gone { at: at(4) } } else { Mover::Running },
                leader: who.map(|(marker, token, same, new_process, new_id)| LeaderSeen {
                    pod: "c-0".into(),
                    pod_uid: if same { "u0" } else { "u1" }.into(),
                    process_since: Some(at(if new_process { 2 } else { -1000 })),
                    marker,
                    token,
                    cluster_id: Some(if new_id { "new" } else { "old" }.into()),
                }),
                members: members(&states),
                new_cluster_id: must_change.then(|| "new".to_owned()),
                restarted_at: restarted.then(|| at(50)),
            })
    }

    proptest! {
        #[test]
        fn success_is_never_claimed_while_the_old_data_is_seen(facts in any_facts(), seconds in 0i64..10_000) {
            if let Outcome::Applied { .. } = prove(&facts, at(seconds)) {
                let leader = facts.leader.expect("proven without looking at a leader");
                prop_assert!(facts.claim.is_some());
                prop_assert!(leader.marker != Marker::Present);
                prop_assert!(leader.marker == Marker::Gone || leader.token != Witness::Valid);
                prop_assert!(facts.new_cluster_id.is_none() || leader.cluster_id.as_deref() == Some("new"));
            }
        }

        #[test]
        fn another_attempt_is_never_allowed_while_the_first_may_still_be_sending(facts in any_facts(), seconds in 0i64..10_000) {
            let again = matches!(prove(&facts, at(seconds)), Outcome::NotApplied(_) | Outcome::NothingPosted(_));
            if let (true, Some(claim)) = (again, &facts.claim) {
                let ended = facts.submission.is_some() || facts.mover != Mover::Running;
                let elsewhere = facts.leader.as_ref().is_some_and(|leader| {
                    leader.pod_uid != claim.leader_pod_uid || leader.process_since.is_some_and(|since| since > claim.at)
                });
                prop_assert!(ended || elsewhere);
            }
            if again && facts.claim.is_none() {
                prop_assert!(facts.revoked || facts.mover != Mover::Running);
            }
        }

        #[test]
        fn it_never_waits_for_ever_once_the_mover_is_gone(facts in any_facts()) {
            let facts = Facts { mover: Mover::Gone { at: at(4) }, ..facts };
            let outcome = prove(&facts, at(100_000));
            prop_assert!(!matches!(outcome, Outcome::Wait(_)), "{outcome:?}");
        }

        #[test]
        fn servers_are_restarted_for_harm_at_most_once(facts in any_facts(), seconds in 0i64..10_000) {
            let facts = Facts { restarted_at: Some(at(5)), ..facts };
            let restarts = matches!(prove(&facts, at(seconds)), Outcome::Restart { .. });
            prop_assert!(!restarts);
        }
    }
}
