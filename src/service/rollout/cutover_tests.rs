use super::*;
use crate::api::{OpenBaoRolloutSpec, RolloutMember, RolloutMemberState as State};

const NAMES: [&str; 3] = ["staging", "prod-eu", "prod-us"];

fn policy(word: &str, on_failure: &str, defer_cutover: bool) -> Policy {
    Policy::of(&OpenBaoRolloutSpec {
        members: NAMES.map(|cluster| RolloutMember { cluster: cluster.into() }).to_vec(),
        policy: word.into(),
        on_failure: on_failure.into(),
        defer_cutover,
        ..OpenBaoRolloutSpec::default()
    })
}

fn members(states: [State; 3]) -> Vec<RolloutMemberStatus> {
    let member = |(cluster, state): (&str, State)| RolloutMemberStatus {
        cluster: cluster.into(),
        state,
        ..RolloutMemberStatus::default()
    };
    NAMES.into_iter().zip(states).map(member).collect()
}

const FREE: [Option<Kept>; 3] = [None, None, None];

fn paused() -> Kept {
    Kept::UntilMended("OpenBaoCluster is paused".into())
}

fn away() -> Kept {
    Kept::ForNow("member prod-eu-2 is Down".into())
}

fn asked(members: &[RolloutMemberStatus]) -> Vec<bool> {
    members.iter().map(|member| member.cutover_asked).collect()
}

/// What one claim makes of the member of that index.
fn claimed(members: &mut [RolloutMemberStatus], index: usize, kept: Option<&Kept>, policy: Policy) -> State {
    let (earlier, rest) = members.split_at_mut(index);
    let (member, later) = rest.split_first_mut().unwrap();
    claim(earlier, member, later, kept, policy);
    member.state
}

#[test]
fn a_resume_that_names_a_member_moves_it_now_or_is_refused_with_what_is_in_the_way() {
    use State::{Completed, CuttingOver, FailedRetryable, Pending, Preparing, Soaking, WaitingForCutover as Parked};
    for (step, states, words) in [
        ("staging", [Parked, Parked, Parked], None),
        ("prod-eu", [Completed, Parked, Parked], None),
        ("prod-us", [Completed, Completed, Parked], None),
        ("prod-us", [Parked, Parked, Parked], Some("staging comes before it and is WaitingForCutover")),
        ("prod-eu", [Preparing, Parked, Pending], Some("staging comes before it and is Preparing")),
        ("prod-eu", [Soaking, Parked, Parked], Some("staging comes before it and is Soaking")),
        ("prod-eu", [FailedRetryable, Parked, Parked], Some("Retry")),
        ("staging", [Parked, CuttingOver, Parked], Some("while prod-eu moves its leadership")),
        ("staging", [Completed, Parked, Parked], Some("nothing waits")),
        ("prod-eu", [Completed, Preparing, Pending], Some("nothing waits")),
    ] {
        let mut members = members(states);
        let answer = ask(step, policy("barrier", "halt", true), &FREE, &mut members);
        match (words, answer) {
            (None, Ok(told)) => {
                assert_eq!(told, format!("leadership moves: {step}"));
                let index = NAMES.iter().position(|name| *name == step).unwrap();
                let state = claimed(&mut members, index, None, policy("barrier", "halt", true));
                assert_eq!(state, CuttingOver, "{step} {states:?}: it does what was answered");
            }
            (Some(words), Err(why)) => {
                assert!(why.contains(words), "{step} {states:?}: {why}");
                assert_eq!(asked(&members), [false; 3], "{step} {states:?}: nothing is left for later");
            }
            (_, answer) => panic!("{step} {states:?}: {answer:?}"),
        }
    }
}

#[test]
fn a_resume_of_all_asks_for_those_that_come_next_and_names_the_others() {
    use State::{Completed, FailedRetryable, Pending, Preparing, Soaking, WaitingForCutover as Parked};
    for (states, on_failure, expected, words) in [
        ([Parked, Parked, Parked], "halt", [true, true, true], "one after the other: staging, prod-eu, prod-us"),
        ([Completed, Parked, Parked], "halt", [false, true, true], "one after the other: prod-eu, prod-us"),
        ([Soaking, Parked, Parked], "halt", [false, true, true], "when staging is done: prod-eu, prod-us"),
        ([Parked, Preparing, Parked], "halt", [true, false, false], "prod-us stays parked: prod-eu comes before it"),
        ([Parked, Pending, Pending], "halt", [true, false, false], "leadership moves: staging"),
        ([FailedRetryable, Parked, Parked], "halt", [false, false, false], "staging comes before it"),
        ([FailedRetryable, Parked, Parked], "continue", [false, true, true], "prod-eu, prod-us"),
    ] {
        let mut members = members(states);
        let answer = ask("", policy("parallel", on_failure, true), &FREE, &mut members);
        assert_eq!(answer.is_ok(), expected.contains(&true), "{states:?}: {answer:?}");
        let told = answer.unwrap_or_else(|why| why);
        assert!(told.contains(words), "{states:?}: {told}");
        assert_eq!(asked(&members), expected, "{states:?}");
    }
}

#[test]
fn a_member_that_a_person_has_to_help_first_is_not_asked_for_and_keeps_those_after_it() {
    let parked = State::WaitingForCutover;
    let one_paused = |index: usize| {
        let mut kept = FREE;
        kept[index] = Some(paused());
        kept
    };
    for (step, index, expected) in [
        ("staging", 0, [false, false, false]),
        ("", 0, [false, false, false]),
        ("", 1, [true, false, false]),
        ("", 2, [true, true, false]),
    ] {
        let mut members = members([parked; 3]);
        let answer = ask(step, policy("barrier", "halt", true), &one_paused(index), &mut members);
        assert_eq!(answer.is_ok(), expected.contains(&true), "{step} {index}");
        let told = answer.unwrap_or_else(|why| why);
        assert!(told.contains(&format!("{} stays parked, as OpenBaoCluster is paused", NAMES[index])), "{told}");
        assert_eq!(asked(&members), expected, "{step} {index}");
    }
}

#[test]
fn what_was_asked_for_and_cannot_move_when_its_turn_comes_is_not_moved_days_later() {
    use State::{Completed, CuttingOver, Failed, WaitingForCutover as Parked};
    let manual = policy("barrier", "halt", true);
    let all_asked = |states| {
        let mut members = members(states);
        for member in &mut members {
            member.cutover_asked = true;
        }
        members
    };
    // The one before it failed.
    let mut failed = all_asked([Failed, Parked, Parked]);
    for index in [1, 2] {
        assert_eq!(claimed(&mut failed, index, None, manual), Parked);
        assert!(!failed[index].cutover_asked, "{index}: a Skip of staging would move it at once");
    }
    // Its turn, and its cluster is paused.
    let mut kept = all_asked([Completed, Parked, Parked]);
    assert_eq!(claimed(&mut kept, 1, Some(&paused()), manual), Parked);
    assert!(!kept[1].cutover_asked && kept[1].message.contains("is paused"), "{:?}", kept[1]);
    assert_eq!(claimed(&mut kept, 2, None, manual), Parked);
    assert!(!kept[2].cutover_asked, "nor the one after it");
    assert_eq!(claimed(&mut kept, 1, None, manual), Parked, "it is paused no more, and nobody is there");
    // One that only waits for another to be done is asked for still.
    let mut going = all_asked([CuttingOver, Parked, Parked]);
    assert_eq!(claimed(&mut going, 1, None, manual), Parked);
    assert_eq!(claimed(&mut going, 2, None, manual), Parked);
    assert_eq!(asked(&going), [true, true, true]);
}

#[test]
fn a_member_that_is_away_for_a_moment_costs_no_resume_and_takes_none_back() {
    use State::{Completed, CuttingOver, Soaking, WaitingForCutover as Parked};
    let manual = policy("barrier", "halt", true);
    for (step, states, index, expected, words) in [
        ("staging", [Parked, Parked, Parked], 0, [true, false, false], "leadership moves as soon as it can: staging;"),
        (
            "prod-eu",
            [Completed, Parked, Parked],
            1,
            [false, true, false],
            "leadership moves as soon as it can: prod-eu;",
        ),
        ("", [Parked, Parked, Parked], 0, [true, true, true], "one after the other: staging, prod-eu, prod-us;"),
        ("", [Soaking, Parked, Parked], 1, [false, true, true], "when staging is done: prod-eu, prod-us;"),
    ] {
        let mut members = members(states);
        let mut kept = FREE;
        kept[index] = Some(away());
        // Also who asks a second time is told what is so, and takes nothing back.
        for _ in 0..2 {
            let told = ask(step, manual, &kept, &mut members).unwrap();
            let name = NAMES[index];
            assert!(told.contains(words), "{told}");
            assert!(told.contains(&format!("{name} does not yet, as member prod-eu-2 is Down")), "{told}");
            assert!(told.contains("has to be asked for again"), "{told}");
            assert_eq!(asked(&members), expected, "{step} {states:?}");
        }
        for (at, kept) in kept.iter().enumerate() {
            claimed(&mut members, at, kept.as_ref(), manual);
        }
        assert_eq!(
            members.iter().map(|member| member.state).collect::<Vec<_>>(),
            states,
            "it stays, as do those after it"
        );
        assert_eq!(asked(&members), expected, "nothing is forgotten");
        let message = &members[index].message;
        assert!(message.contains("leadership does not move yet, as member prod-eu-2 is Down"), "{message}");
        if states[0] != Soaking {
            assert_eq!(claimed(&mut members, index, None, manual), CuttingOver, "it is back");
        }
    }
}

#[test]
fn what_waits_for_a_member_that_is_away_is_forgotten_when_its_cluster_is_paused() {
    let manual = policy("barrier", "halt", true);
    let all = || {
        let mut members = members([State::WaitingForCutover; 3]);
        ask("", manual, &[Some(away()), None, None], &mut members).unwrap();
        members
    };
    let mut members = all();
    claimed(&mut members, 0, Some(&paused()), manual);
    claimed(&mut members, 1, None, manual);
    claimed(&mut members, 2, None, manual);
    assert_eq!(asked(&members), [false; 3], "{:?}", members[0].message);
    assert!(members[0].message.contains("stays where it is, as OpenBaoCluster is paused"), "{}", members[0].message);
    // A person who asks at that moment hears the same.
    let mut members = all();
    let why = ask("", manual, &[Some(paused()), None, None], &mut members).unwrap_err();
    assert!(why.contains("staging stays parked, as OpenBaoCluster is paused"), "{why}");
    assert!(why.contains("prod-us stays parked: staging comes before it"), "{why}");
    assert_eq!(asked(&members), [false; 3]);
}

#[test]
fn who_names_a_member_behind_one_that_was_asked_for_and_waits_is_not_told_to_ask_for_that_one() {
    let manual = policy("barrier", "halt", true);
    let mut members = members([State::WaitingForCutover; 3]);
    let kept = [Some(away()), None, None];
    ask("staging", manual, &kept, &mut members).unwrap();
    let why = ask("prod-eu", manual, &kept, &mut members).unwrap_err();
    assert!(why.contains("it was asked for, ask again when it is done"), "{why}");
    assert_eq!(asked(&members), [true, false, false]);
}

#[test]
fn who_waits_for_a_person_is_named_and_who_was_asked_for_is_not() {
    let manual = policy("barrier", "halt", true);
    let told = |asks: &str, kept: Option<Kept>, policy: Policy| {
        let mut members = members([State::Completed, State::WaitingForCutover, State::WaitingForCutover]);
        members[2].message = PREPARED.into();
        if asks == "nobody" {
            members[1].message = PREPARED.into();
        } else {
            ask(asks, policy, &[None, kept.clone(), None], &mut members).unwrap();
        }
        claimed(&mut members, 1, kept.as_ref(), policy);
        waits("wave", policy, &members)
    };
    assert_eq!(
        told("nobody", None, manual),
        "prod-eu, prod-us: add a Resume to spec.requests of wave to move leadership"
    );
    let paused = told("nobody", Some(paused()), manual);
    assert!(paused.starts_with("prod-eu, prod-us: add a Resume") && paused.contains("is paused"), "{paused}");
    let one = told("prod-eu", Some(away()), manual);
    assert!(one.starts_with("prod-us: add a Resume") && one.contains(". prod-eu: ") && one.contains("Down"), "{one}");
    let all = told("", Some(away()), manual);
    assert!(all.starts_with("prod-eu: ") && all.contains("Down") && !all.contains("Resume"), "{all}");
    let ordered = told("nobody", Some(away()), policy("barrier", "halt", false));
    assert!(ordered.starts_with("prod-eu: ") && !ordered.contains("Resume"), "{ordered}");
}

#[test]
fn where_the_rollout_moves_leadership_a_paused_member_stays_parked_says_so_and_goes_on_when_the_pause_ends() {
    use State::{Completed, CuttingOver, WaitingForCutover as Parked};
    let ordered = policy("barrier", "halt", false);
    let mut members = members([Completed, Parked, Parked]);
    assert_eq!(claimed(&mut members, 1, Some(&paused()), ordered), Parked);
    let told = &members[1].message;
    assert!(told.contains("leadership stays where it is, as OpenBaoCluster is paused"), "{told}");
    assert_eq!(claimed(&mut members, 2, None, ordered), Parked, "order is kept");
    assert_eq!(claimed(&mut members, 1, None, ordered), CuttingOver);
}

#[test]
fn a_resume_after_a_stop_names_what_it_leaves_parked() {
    use State::{Pending, Preparing, WaitingForCutover as Parked};
    let manual = policy("barrier", "halt", true);
    let told = goes_on(manual, &members([Parked, Preparing, Parked]));
    assert!(told.contains("another Resume") && told.contains("staging, prod-us"), "{told}");
    assert_eq!(goes_on(manual, &members([Preparing, Pending, Pending])), "goes on");
    assert_eq!(goes_on(policy("barrier", "halt", false), &members([Parked; 3])), "goes on");
    let mut members = members([Parked, Parked, Preparing]);
    for member in &mut members {
        member.cutover_asked = true;
    }
    forget(&mut members);
    assert_eq!(asked(&members), [false, false, true], "only what is parked");
}
