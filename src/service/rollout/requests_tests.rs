use super::*;
use crate::api::common::HANDLED_REQUESTS_KEPT;
use crate::api::{OpenBaoRolloutSpec, RolloutMember, RolloutMemberState as State};

fn policy(policy: &str, on_failure: &str, defer_cutover: bool) -> Policy {
    Policy::of(&OpenBaoRolloutSpec {
        members: ["kelp", "coral"].map(|cluster| RolloutMember { cluster: cluster.into() }).to_vec(),
        policy: policy.into(),
        on_failure: on_failure.into(),
        defer_cutover,
        ..OpenBaoRolloutSpec::default()
    })
}

fn status(states: [State; 2]) -> OpenBaoRolloutStatus {
    let member = |cluster: &str, state| RolloutMemberStatus {
        cluster: cluster.into(),
        state,
        operation: Some(format!("{cluster}-rollout-1")),
        attempt: 1,
        ..RolloutMemberStatus::default()
    };
    OpenBaoRolloutStatus {
        members: vec![member("kelp", states[0]), member("coral", states[1])],
        ..OpenBaoRolloutStatus::default()
    }
}

fn request(nonce: &str, action: RequestAction, step: &str) -> Request {
    Request { nonce: nonce.into(), action, step: step.into(), ..Request::default() }
}

/// No cluster is paused, nor anything else that keeps leadership where it is.
const FREE: [Option<Kept>; 2] = [None, None];

/// The outcome of one request, and the status after it.
fn asked(
    status: &OpenBaoRolloutStatus,
    policy: Policy,
    action: RequestAction,
    step: &str,
) -> (RequestOutcome, OpenBaoRolloutStatus) {
    let mut status = status.clone();
    answer(&[request("n", action, step)], policy, &FREE, &mut status, Utc::now());
    (status.handled_requests[0].outcome, status)
}

#[test]
fn a_request_that_is_applied_again_by_gitops_has_no_second_effect() {
    let policy = policy("rolling", "halt", false);
    let mut status = status([State::Reverted, State::Pending]);
    let requests = [request("tuesday", RequestAction::Retry, "kelp")];
    answer(&requests, policy, &FREE, &mut status, Utc::now());
    assert_eq!(status.members[0].state, State::Pending);
    status.members[0].state = State::Reverted;
    answer(&requests, policy, &FREE, &mut status, Utc::now());
    assert_eq!(status.members[0].state, State::Reverted, "the nonce was answered before");
    assert_eq!(status.handled_requests.len(), 1);
}

#[test]
fn a_stop_is_refused_when_nothing_is_left_to_stop_and_resumed_by_name() {
    let policy = policy("rolling", "halt", false);
    let (outcome, _) = asked(&status([State::Completed, State::Soaking]), policy, RequestAction::Stop, "");
    assert_eq!(outcome, RequestOutcome::Refused);
    let (outcome, _) = asked(&status([State::Completed, State::Preparing]), policy, RequestAction::Stop, "");
    assert_eq!(
        outcome,
        RequestOutcome::Refused,
        "it runs through: leadership would move after a stop that was applied"
    );
    let (_, stopped) = asked(&status([State::Preparing, State::Pending]), policy, RequestAction::Stop, "");
    assert!(stopped.handled_requests[0].message.contains("kelp runs through"), "{:?}", stopped.handled_requests);
    let deferred = self::policy("rolling", "halt", true);
    let (outcome, _) = asked(&status([State::Completed, State::Preparing]), deferred, RequestAction::Stop, "");
    assert_eq!(outcome, RequestOutcome::Applied, "it parks, and does not go on");
    let (outcome, stopped) = asked(&status([State::CuttingOver, State::Pending]), policy, RequestAction::Stop, "");
    assert_eq!((outcome, stopped.stop), (RequestOutcome::Applied, Some(RolloutStop::Stop)));
    let mut again = stopped;
    again.handled_requests.clear();
    let (outcome, resumed) = asked(&again, policy, RequestAction::Resume, "");
    assert_eq!((outcome, resumed.stop), (RequestOutcome::Applied, None));
}

#[test]
fn a_member_that_moves_its_leadership_accepts_no_cancel() {
    let policy = policy("barrier", "halt", false);
    let (outcome, after) =
        asked(&status([State::CuttingOver, State::WaitingForCutover]), policy, RequestAction::Cancel, "");
    assert_eq!((outcome, after.stop), (RequestOutcome::Refused, None));
}

#[test]
fn a_cancelled_rollout_stays_cancelled() {
    let policy = policy("rolling", "halt", false);
    let (_, mut after) = asked(&status([State::Preparing, State::Pending]), policy, RequestAction::Cancel, "");
    after.handled_requests.clear();
    for action in [RequestAction::Resume, RequestAction::Retry, RequestAction::Stop] {
        let (outcome, still) = asked(&after, policy, action, "");
        assert_eq!((outcome, still.stop), (RequestOutcome::Refused, Some(RolloutStop::Cancel)), "{action:?}");
    }
}

#[test]
fn a_resume_lets_one_member_or_all_parked_ones_go_on() {
    let policy = policy("barrier", "halt", true);
    let parked = status([State::WaitingForCutover, State::WaitingForCutover]);
    let asked_for = |step| {
        let (outcome, after) = asked(&parked, policy, RequestAction::Resume, step);
        (outcome, after.members.iter().map(|member| member.cutover_asked).collect::<Vec<_>>())
    };
    assert_eq!(asked_for("kelp"), (RequestOutcome::Applied, vec![true, false]));
    assert_eq!(asked_for("coral"), (RequestOutcome::Refused, vec![false, false]), "kelp comes before it");
    assert_eq!(asked_for(""), (RequestOutcome::Applied, vec![true, true]));
    assert_eq!(asked_for("kraken").0, RequestOutcome::Refused, "no such member");
    let (outcome, _) = asked(&status([State::Preparing, State::Pending]), policy, RequestAction::Resume, "");
    assert_eq!(outcome, RequestOutcome::Refused, "nothing is parked");
}

#[test]
fn a_stop_forgets_who_was_to_move_and_a_resume_after_it_says_so() {
    let policy = policy("barrier", "halt", true);
    let parked = status([State::WaitingForCutover, State::WaitingForCutover]);
    let (_, mut going) = asked(&parked, policy, RequestAction::Resume, "");
    going.handled_requests.clear();
    let (_, mut stopped) = asked(&going, policy, RequestAction::Stop, "");
    assert!(stopped.members.iter().all(|member| !member.cutover_asked), "{:?}", stopped.members);
    stopped.handled_requests.clear();
    let (outcome, resumed) = asked(&stopped, policy, RequestAction::Resume, "kelp");
    assert_eq!((outcome, resumed.stop), (RequestOutcome::Applied, None));
    let told = &resumed.handled_requests[0].message;
    assert!(told.contains("another Resume") && told.contains("kelp, coral"), "{told}");
    assert!(resumed.members.iter().all(|member| !member.cutover_asked), "{:?}", resumed.members);
}

#[test]
fn a_resume_of_a_rollout_that_moves_leadership_by_itself_is_refused() {
    let parked = status([State::WaitingForCutover, State::Preparing]);
    let (outcome, after) = asked(&parked, policy("barrier", "halt", false), RequestAction::Resume, "");
    assert_eq!(outcome, RequestOutcome::Refused);
    assert!(after.handled_requests[0].message.contains("by itself"), "{:?}", after.handled_requests);
}

#[test]
fn a_release_is_for_paused_rollouts_only() {
    let failed = status([State::Reverted, State::Pending]);
    let (outcome, _) = asked(&failed, policy("rolling", "halt", false), RequestAction::Release, "");
    assert_eq!(outcome, RequestOutcome::Refused);
    let (outcome, after) = asked(&failed, policy("rolling", "pause", false), RequestAction::Release, "");
    assert_eq!((outcome, after.members[0].released), (RequestOutcome::Applied, true));
}

#[test]
fn a_retry_begins_what_was_undone_again_and_never_what_is_past_the_point_of_no_return() {
    let policy = policy("rolling", "halt", false);
    let (outcome, after) = asked(&status([State::Reverted, State::Pending]), policy, RequestAction::Retry, "");
    assert_eq!(outcome, RequestOutcome::Applied);
    assert_eq!((after.members[0].state, after.members[0].operation.as_deref()), (State::Pending, None));
    assert_eq!(after.members[0].attempt, 1, "the next operation has another name");
    let (outcome, after) = asked(&status([State::Failed, State::Pending]), policy, RequestAction::Retry, "kelp");
    assert_eq!((outcome, after.members[0].state), (RequestOutcome::Refused, State::Failed));
}

#[test]
fn only_a_member_that_is_not_under_way_can_be_left_out() {
    let policy = policy("rolling", "halt", false);
    let (outcome, after) = asked(&status([State::Reverted, State::Pending]), policy, RequestAction::Skip, "coral");
    assert_eq!((outcome, after.members[1].state), (RequestOutcome::Applied, State::Cancelled));
    for (state, step) in [(State::Preparing, "kelp"), (State::Preparing, "")] {
        let (outcome, _) = asked(&status([state, State::Pending]), policy, RequestAction::Skip, step);
        assert_eq!(outcome, RequestOutcome::Refused, "{state:?} {step:?}");
    }
}

#[test]
fn twenty_answers_are_remembered_and_none_is_forgotten_while_its_request_stands() {
    let policy = policy("rolling", "halt", false);
    let mut status = status([State::Preparing, State::Pending]);
    let release = |n: usize| request(&format!("n{n}"), RequestAction::Release, "");
    for n in 0..30 {
        // The first request is never taken out of the manifest, the others come and go.
        answer(&[release(0), release(n)], policy, &FREE, &mut status, Utc::now());
    }
    let nonces: Vec<_> = status.handled_requests.iter().map(|handled| handled.nonce.as_str()).collect();
    assert_eq!(nonces.len(), HANDLED_REQUESTS_KEPT);
    assert_eq!((nonces[0], nonces[1], nonces[19]), ("n0", "n11", "n29"));
}
