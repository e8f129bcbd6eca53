use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

/// Seconds after the claim was first seen.
fn at(seconds: u64) -> Instant {
    static CLAIMED: LazyLock<Instant> = LazyLock::new(Instant::now);
    *CLAIMED + Duration::from_secs(seconds)
}

fn leader(marker: Marker, token: Witness) -> LeaderSeen {
    LeaderSeen { pod: "c-0".into(), pod_uid: "u0".into(), marker, token, cluster_id: Some("old".into()) }
}

fn claim(over: Option<u64>) -> Claimed {
    Claimed { leader_pod_uid: "u0".into(), since: at(0), over: over.map(at) }
}

fn submission(outcome: SubmissionOutcome, status: Option<u16>) -> Answer {
    Answer { outcome, status, message: "said so".into() }
}

/// Claimed at 0, answered with 204 at 1, old leader in office.
fn accepted(marker: Marker, token: Witness) -> Facts {
    Facts {
        permit: Some(at(0)),
        claim: Some(claim(Some(1))),
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
fn a_marker_that_somebody_deleted_proves_nothing_while_the_old_token_is_known() {
    let facts = accepted(Marker::Gone, Witness::Valid);
    assert!(matches!(prove(&facts, at(8)), Outcome::Wait(_)));
    assert!(matches!(prove(&facts, at(1801)), Outcome::Unknown(_)));
}

#[test]
fn a_marker_that_is_gone_proves_nothing_while_the_old_token_is_at_hand_and_cannot_be_asked() {
    let facts = accepted(Marker::Gone, Witness::Silent);
    assert!(matches!(prove(&facts, at(8)), Outcome::Wait(_)));
    assert!(matches!(prove(&facts, at(1801)), Outcome::Unknown(_)));
    let mut renamed = facts;
    renamed.new_cluster_id = Some("old".into());
    assert!(
        matches!(prove(&renamed, at(8)), Outcome::Wait(_)),
        "the snapshot's own cluster id changes nothing about it"
    );
}

#[test]
fn a_marker_seen_by_another_leader_means_that_the_snapshot_was_lost() {
    let mut facts = accepted(Marker::Present, Witness::Valid);
    facts.leader.as_mut().unwrap().pod_uid = "u1".into();
    assert!(matches!(prove(&facts, at(2)), Outcome::NotApplied(_)));
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
    let waiting = Facts { permit: Some(at(0)), ..Facts::default() };
    assert!(matches!(prove(&waiting, at(60)), Outcome::Wait(_)));
    assert_eq!(prove(&waiting, at(61)), Outcome::Revoke);
    let revoked = Facts { revoked: true, ..waiting.clone() };
    assert!(matches!(prove(&revoked, at(61)), Outcome::NothingPosted(_)));
    let gone = Facts { mover: Mover::Gone, ..waiting };
    assert!(matches!(prove(&gone, at(4)), Outcome::NothingPosted(_)));
}

#[test]
fn a_claim_whose_mover_died_is_proven_and_never_posted_again() {
    let mut facts = accepted(Marker::Present, Witness::Valid);
    facts.submission = None;
    facts.claim = Some(claim(None));
    assert!(matches!(prove(&facts, at(300)), Outcome::Wait(_)), "the mover still runs: it may be sending");
    let mut elsewhere = facts.clone();
    elsewhere.leader.as_mut().unwrap().pod_uid = "u1".into();
    assert!(matches!(prove(&elsewhere, at(5)), Outcome::NotApplied(_)), "what it sends to leads no more");
    (facts.mover, facts.claim) = (Mover::Gone, Some(claim(Some(5))));
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
fn what_the_leader_shows_counts_more_than_its_refusal() {
    let mut facts = accepted(Marker::Gone, Witness::Denied);
    facts.submission = Some(submission(SubmissionOutcome::Refused, Some(500)));
    assert!(matches!(prove(&facts, at(2)), Outcome::Applied { .. }));
    facts.leader = Some(leader(Marker::Silent, Witness::Silent));
    assert!(matches!(prove(&facts, at(2)), Outcome::Wait(_)));
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
    facts.restarted = Some(at(40));
    assert!(matches!(prove(&facts, at(130)), Outcome::Wait(_)));
    assert!(matches!(prove(&facts, at(131)), Outcome::Sealed { .. }));
}

#[test]
fn servers_without_a_leader_are_restarted_once_and_unknown_after_half_an_hour() {
    let mut facts = accepted(Marker::Present, Witness::Lost);
    facts.leader = None;
    facts.members = members(&[MemberState::Standby, MemberState::Standby]);
    assert!(matches!(prove(&facts, at(100)), Outcome::Wait(_)));
    assert!(matches!(prove(&facts, at(182)), Outcome::Restart { .. }));
    facts.restarted = Some(at(190));
    for second in [300, 371, 1800] {
        assert!(matches!(prove(&facts, at(second)), Outcome::Wait(_)), "{second}: they may have unsealed just now");
    }
    assert!(matches!(prove(&facts, at(1801)), Outcome::Unknown(_)));
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let marker = prop_oneof![Just(Marker::Present), Just(Marker::Gone), Just(Marker::NoAccess), Just(Marker::Silent)];
    let token = prop_oneof![Just(Witness::Valid), Just(Witness::Denied), Just(Witness::Lost), Just(Witness::Silent)];
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
    let who = proptest::option::of((marker, token, any::<bool>(), any::<bool>()));
    let posted = (any::<bool>(), proptest::option::of((outcome, proptest::option::of(200u16..599))));
    (who, posted, any::<bool>(), any::<bool>(), proptest::collection::vec(state, 1..4), any::<bool>(), any::<bool>())
        .prop_map(|(who, (claimed, posted), gone, revoked, states, must_change, restarted)| Facts {
            permit: Some(at(0)),
            revoked,
            claim: claimed.then(|| claim((gone || posted.is_some()).then_some(4))),
            submission: posted.filter(|_| claimed).map(|(outcome, status)| submission(outcome, status)),
            mover: if gone { Mover::Gone } else { Mover::Running },
            leader: who.map(|(marker, token, same, new_id)| LeaderSeen {
                pod: "c-0".into(),
                pod_uid: if same { "u0" } else { "u1" }.into(),
                marker,
                token,
                cluster_id: Some(if new_id { "new" } else { "old" }.into()),
            }),
            members: members(&states),
            new_cluster_id: must_change.then(|| "new".to_owned()),
            restarted: restarted.then(|| at(50)),
        })
}

proptest! {
    #[test]
    fn what_is_seen_later_than_it_happened_is_never_decided_earlier(
        facts in any_facts(), late in 0u64..100, seconds in 0u64..400,
    ) {
        // The same world, looked at by an operator that saw each thing `late` seconds after another one did.
        let mut slow = facts.clone();
        let later = |at: Instant| at + Duration::from_secs(late);
        slow.permit = slow.permit.map(later);
        slow.restarted = slow.restarted.map(later);
        if let Some(claim) = &mut slow.claim {
            (claim.since, claim.over) = (later(claim.since), claim.over.map(later));
        }
        let (early, slow) = (prove(&facts, at(seconds)), prove(&slow, at(seconds)));
        let irrevocable = |outcome: &Outcome| !matches!(outcome, Outcome::Wait(_));
        prop_assert!(!irrevocable(&slow) || slow == early, "{early:?}, and seen later {slow:?}");
    }

    #[test]
    fn success_is_never_claimed_while_the_old_data_is_seen(facts in any_facts(), seconds in 0u64..10_000) {
        if let Outcome::Applied { .. } = prove(&facts, at(seconds)) {
            let leader = facts.leader.expect("proven without looking at a leader");
            prop_assert!(facts.claim.is_some());
            prop_assert!(leader.marker != Marker::Present);
            prop_assert!(leader.token != Witness::Valid);
            prop_assert!(facts.new_cluster_id.is_none() || leader.cluster_id.as_deref() == Some("new"));
        }
    }

    #[test]
    fn another_attempt_is_never_allowed_while_the_first_may_still_be_sending(facts in any_facts(), seconds in 0u64..10_000) {
        let again = matches!(prove(&facts, at(seconds)), Outcome::NotApplied(_) | Outcome::NothingPosted(_));
        if let (true, Some(claim)) = (again, &facts.claim) {
            let elsewhere = facts.leader.as_ref().is_some_and(|leader| leader.pod_uid != claim.leader_pod_uid);
            let refused = facts.submission.as_ref().is_some_and(|said| said.outcome == SubmissionOutcome::Refused);
            let settled = claim.over.is_some_and(|over| at(seconds).saturating_duration_since(over) > SETTLE);
            prop_assert!(elsewhere || refused || settled);
        }
        if again && facts.claim.is_none() {
            prop_assert!(facts.revoked || facts.mover != Mover::Running);
        }
    }

    #[test]
    fn it_never_waits_for_ever_once_the_mover_is_gone(facts in any_facts()) {
        let claim = facts.claim.as_ref().map(|_| claim(Some(4)));
        let facts = Facts { mover: Mover::Gone, claim, ..facts };
        let outcome = prove(&facts, at(100_000));
        prop_assert!(!matches!(outcome, Outcome::Wait(_)), "{outcome:?}");
    }

    #[test]
    fn servers_are_restarted_for_harm_at_most_once(facts in any_facts(), seconds in 0u64..10_000) {
        let facts = Facts { restarted: Some(at(5)), ..facts };
        let restarts = matches!(prove(&facts, at(seconds)), Outcome::Restart { .. });
        prop_assert!(!restarts);
    }
}
