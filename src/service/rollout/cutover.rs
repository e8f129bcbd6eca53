//! Whose leadership moves next, who may be asked for, and what keeps a prepared member where it is. Pure.
//!
//! Where a person moves leadership, nothing is remembered that would move it when nobody is there any more: asked for is only what
//! moves now, or right after one that does, and what cannot move when its turn has come has to be asked for again.

use super::policy::{Cutover, Policy, has_failed};
use crate::api::{RolloutMemberState, RolloutMemberStatus};

/// What is said of a prepared member that nothing keeps.
pub const PREPARED: &str = "standbys run the new version; leadership has not moved";

/// Whether its leadership moves, or has and is being watched: those after it come next by themselves.
fn moves(member: &RolloutMemberStatus) -> bool {
    matches!(member.state, RolloutMemberState::CuttingOver | RolloutMemberState::Soaking)
}

fn is_over(member: &RolloutMemberStatus, policy: Policy) -> bool {
    policy.is_behind_us(member.state, member.released)
}

/// Whether those after it wait until somebody does something about it.
fn holds_up(member: &RolloutMemberStatus, policy: Policy) -> bool {
    let is_asked = member.state == RolloutMemberState::WaitingForCutover && member.cutover_asked;
    !(is_over(member, policy) || moves(member) || is_asked)
}

/// Lets the leadership of a prepared member move, if it is its turn. `kept`: why its cluster cannot do that now.
pub fn claim(
    earlier: &[RolloutMemberStatus],
    member: &mut RolloutMemberStatus,
    later: &[RolloutMemberStatus],
    kept: Option<&str>,
    policy: Policy,
) {
    let by_itself = policy.cutover == Cutover::Ordered;
    let alone = !earlier.iter().chain(later).any(moves);
    let in_order = earlier.iter().all(|before| is_over(before, policy));
    // The barrier: nobody moves before everybody is there. A person who asks has seen who is.
    let is_there =
        |after: &RolloutMemberStatus| after.state == RolloutMemberState::WaitingForCutover || is_over(after, policy);
    let barrier = !by_itself || later.iter().all(is_there);
    let its_turn = alone && in_order && barrier && (by_itself || member.cutover_asked);
    match kept {
        None if its_turn => {
            member.state = RolloutMemberState::CuttingOver;
            "leadership moves".clone_into(&mut member.message);
        }
        kept => {
            if its_turn || earlier.iter().any(|before| holds_up(before, policy)) {
                member.cutover_asked = false;
            }
            if let Some(why) = kept {
                member.message = format!("standbys run the new version; leadership stays where it is, as {why}");
            }
        }
    }
}

/// Asks for the leadership of the member that `step` names, else of all that are prepared, and says what comes of it. `kept`: of each
/// member, in the same order, why its cluster cannot do that now.
pub fn ask(
    step: &str,
    policy: Policy,
    kept: &[Option<String>],
    members: &mut [RolloutMemberStatus],
) -> Result<String, String> {
    let busy = members.iter().find(|member| moves(member)).map(|member| member.cluster.clone());
    let (mut asked, mut left) = (vec![], vec![]);
    // The first that is in the way of those after it, and what is to be done about it.
    let mut first: Option<String> = None;
    for (member, kept) in members.iter_mut().zip(kept) {
        let name = member.cluster.clone();
        let is_meant = step.is_empty() || name == step;
        if is_meant && member.state == RolloutMemberState::WaitingForCutover && !member.cutover_asked {
            // Who names one means now, not after another one.
            let now = busy.as_deref().filter(|_| !step.is_empty());
            if let Some(first) = &first {
                left.push(format!("{name} stays parked: {first}"));
            } else if let Some(why) = kept {
                left.push(format!("{name} stays parked, as {why}"));
            } else if let Some(busy) = now {
                left.push(format!("{name} stays parked while {busy} moves its leadership: ask again when it is done"));
            } else {
                member.cutover_asked = true;
                asked.push(name);
            }
        }
        let in_the_way = if step.is_empty() { holds_up(member, policy) } else { !is_over(member, policy) };
        if in_the_way && first.is_none() {
            first = Some(in_front(member));
        }
    }
    match (asked.is_empty(), left.is_empty()) {
        (true, true) => Err("nothing waits for a Resume".to_owned()),
        (true, false) => Err(left.join("; ")),
        (false, _) => Ok(moving(&asked, &left, busy.as_deref())),
    }
}

/// What is in the way, and what to do about it.
fn in_front(member: &RolloutMemberStatus) -> String {
    let (name, state) = (&member.cluster, member.state.as_str());
    let remedy = match member.state {
        RolloutMemberState::WaitingForCutover => "ask for that one first, or leave step out for all of them in order",
        state if has_failed(state) => "Retry, Skip or Release that one first",
        _ => "ask again when that one is done",
    };
    format!("{name} comes before it and is {state}: {remedy}")
}

fn moving(asked: &[String], left: &[String], busy: Option<&str>) -> String {
    let when = match (busy, asked.len()) {
        (Some(busy), _) => format!(" when {busy} is done"),
        (None, 1) => String::new(),
        (None, _) => ", one after the other".to_owned(),
    };
    let later = if busy.is_some() || asked.len() > 1 {
        "; one that cannot when its turn comes stays parked and has to be asked for again"
    } else {
        ""
    };
    let left: String = left.iter().map(|why| format!("; {why}")).collect();
    format!("leadership moves{when}: {}{later}{left}", asked.join(", "))
}

/// What a `Resume` that takes a `Stop` back says.
pub fn goes_on(policy: Policy, members: &[RolloutMemberStatus]) -> String {
    let is_parked = |member: &&RolloutMemberStatus| member.state == RolloutMemberState::WaitingForCutover;
    let parked: Vec<&str> = members.iter().filter(is_parked).map(|member| member.cluster.as_str()).collect();
    if parked.is_empty() || policy.cutover == Cutover::Ordered {
        return "goes on".to_owned();
    }
    format!("goes on; another Resume moves the leadership of what stays parked: {}", parked.join(", "))
}

/// Forgets what was asked for and has not moved.
pub fn forget(members: &mut [RolloutMemberStatus]) {
    for member in members.iter_mut().filter(|member| member.state == RolloutMemberState::WaitingForCutover) {
        member.cutover_asked = false;
    }
}

#[cfg(test)]
#[path = "cutover_tests.rs"]
mod tests;
