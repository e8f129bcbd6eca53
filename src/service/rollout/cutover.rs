//! Whose leadership moves next, who may be asked for, and what keeps a prepared member where it is. Pure.
//!
//! Where a person moves leadership, nothing is remembered that would move it when nobody is there any more: asked for is only what
//! moves now, or right after one that does, and what only a person can let move when its turn has come has to be asked for again. A
//! member that is away may be back at the next look, so that is waited for.

use super::{
    member::Kept,
    policy::{Cutover, Policy, has_failed},
};
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
    kept: Option<&Kept>,
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
            let is_missed = its_turn && kept.is_some_and(Kept::waits_for_a_person);
            if is_missed || earlier.iter().any(|before| holds_up(before, policy)) {
                member.cutover_asked = false;
            }
            if let Some(kept) = kept {
                let fate = if member.cutover_asked { "does not move yet" } else { "stays where it is" };
                member.message = format!("standbys run the new version; leadership {fate}, as {}", kept.why());
            }
        }
    }
}

/// Asks for the leadership of the member that `step` names, else of all that are prepared, and says what comes of it. `kept`: of each
/// member, in the same order, why its cluster cannot do that now. One that was asked for before is, unless that is taken back.
pub fn ask(
    step: &str,
    policy: Policy,
    kept: &[Option<Kept>],
    members: &mut [RolloutMemberStatus],
) -> Result<String, String> {
    let busy = members.iter().find(|member| moves(member)).map(|member| member.cluster.clone());
    let (mut asked, mut yet, mut left) = (vec![], vec![], vec![]);
    // The first that is in the way of those after it, and what is to be done about it; and whether one holds them up for good.
    let (mut first, mut held): (Option<String>, bool) = (None, false);
    for (member, kept) in members.iter_mut().zip(kept) {
        let name = member.cluster.clone();
        let is_meant = step.is_empty() || name == step;
        if is_meant && member.state == RolloutMemberState::WaitingForCutover {
            // Who names one means now, not after another one.
            let now = busy.as_deref().filter(|_| !step.is_empty());
            let missed = kept.as_ref().filter(|kept| kept.waits_for_a_person());
            let stays = if member.cutover_asked && !held && missed.is_none() {
                None
            } else if let Some(first) = &first {
                Some(format!("{name} stays parked: {first}"))
            } else if let Some(kept) = missed {
                Some(format!("{name} stays parked, as {}", kept.why()))
            } else {
                now.map(|busy| {
                    format!("{name} stays parked while {busy} moves its leadership: ask again when it is done")
                })
            };
            member.cutover_asked = stays.is_none();
            if let Some(why) = stays {
                left.push(why);
            } else {
                yet.extend(kept.as_ref().map(|kept| format!("{name} does not yet, as {}", kept.why())));
                asked.push(name);
            }
        }
        held |= holds_up(member, policy);
        let in_the_way = if step.is_empty() { holds_up(member, policy) } else { !is_over(member, policy) };
        if in_the_way && first.is_none() {
            first = Some(in_front(member));
        }
    }
    match (asked.is_empty(), left.is_empty()) {
        (true, true) => Err("nothing waits for a Resume".to_owned()),
        (true, false) => Err(left.join("; ")),
        (false, _) => Ok(moving(&asked, &yet, &left, busy.as_deref())),
    }
}

/// What is in the way, and what to do about it.
fn in_front(member: &RolloutMemberStatus) -> String {
    let (name, state) = (&member.cluster, member.state.as_str());
    let remedy = match member.state {
        RolloutMemberState::WaitingForCutover if member.cutover_asked => "it was asked for, ask again when it is done",
        RolloutMemberState::WaitingForCutover => "ask for that one first, or leave step out for all of them in order",
        state if has_failed(state) => "Retry, Skip or Release that one first",
        _ => "ask again when that one is done",
    };
    format!("{name} comes before it and is {state}: {remedy}")
}

/// `yet`: of those that were asked for, what keeps them now and passes without anybody.
fn moving(asked: &[String], yet: &[String], left: &[String], busy: Option<&str>) -> String {
    let when = match (busy, asked.len()) {
        (Some(busy), _) => format!(" when {busy} is done"),
        (None, 1) if yet.is_empty() => String::new(),
        (None, 1) => " as soon as it can".to_owned(),
        (None, _) => ", one after the other".to_owned(),
    };
    let later = if busy.is_some() || asked.len() > 1 || !yet.is_empty() {
        "; one that is paused, or has to be mended first, when its turn comes stays parked and has to be asked for again"
    } else {
        ""
    };
    let more: String = yet.iter().chain(left).map(|why| format!("; {why}")).collect();
    format!("leadership moves{when}: {}{later}{more}", asked.join(", "))
}

/// What is told of a rollout whose prepared members wait: for a person, and for what keeps the first of them.
pub fn waits(rollout: &str, policy: Policy, members: &[RolloutMemberStatus]) -> String {
    let parked = || members.iter().filter(|member| member.state == RolloutMemberState::WaitingForCutover);
    let unasked: Vec<&str> =
        parked().filter(|member| !member.cutover_asked).map(|member| member.cluster.as_str()).collect();
    let resume = format!("{}: add a Resume to spec.requests of {rollout} to move leadership", unasked.join(", "));
    match parked().next().filter(|first| first.message != PREPARED) {
        Some(first) if policy.cutover == Cutover::Ordered || unasked.is_empty() => {
            format!("{}: {}", first.cluster, first.message)
        }
        Some(first) => format!("{resume}. {}: {}", first.cluster, first.message),
        None => resume,
    }
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
