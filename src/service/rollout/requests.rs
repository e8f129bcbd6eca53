//! What people ask of a rollout, answered once each by nonce. Pure.

use super::{
    cutover,
    member::{self, Kept},
    policy::{Cutover, OnFailure, Policy, has_failed},
};
use crate::api::{
    HandledRequest, OpenBaoRolloutStatus, Request, RequestAction, RequestOutcome, RolloutMemberState,
    RolloutMemberStatus, RolloutStop, common::forget_old_answers,
};
use chrono::{DateTime, Utc};

/// Acts on the requests that `status` has no answer for, in their order, and adds the answers. `kept`: of each member, in the order of
/// `status`, why its leadership cannot move now.
pub fn answer(
    requests: &[Request],
    policy: Policy,
    kept: &[Option<Kept>],
    status: &mut OpenBaoRolloutStatus,
    now: DateTime<Utc>,
) {
    for request in requests {
        if status.handled_requests.iter().any(|old| old.nonce == request.nonce) {
            continue;
        }
        let (outcome, message) = match apply(request, policy, kept, status) {
            Ok(message) => (RequestOutcome::Applied, message),
            Err(why) => (RequestOutcome::Refused, why),
        };
        let nonce = request.nonce.clone();
        status.handled_requests.push(HandledRequest { nonce, action: request.action, outcome, message, at: Some(now) });
    }
    forget_old_answers(&mut status.handled_requests, |nonce| requests.iter().any(|request| request.nonce == nonce));
}

/// What it did, or why it is refused.
fn apply(
    request: &Request,
    policy: Policy,
    kept: &[Option<Kept>],
    status: &mut OpenBaoRolloutStatus,
) -> Result<String, String> {
    let step = request.step.as_str();
    if !step.is_empty() && !status.members.iter().any(|member| member.cluster == step) {
        return Err(format!("{step} is no member of this rollout"));
    }
    if status.stop == Some(RolloutStop::Cancel) {
        return Err("the rollout was cancelled, which is final: create another OpenBaoRollout".to_owned());
    }
    match request.action {
        RequestAction::Stop => stop(policy, status),
        RequestAction::Cancel => cancel(step, status),
        RequestAction::Resume => resume(step, policy, kept, status),
        RequestAction::Release => release(step, policy, status),
        RequestAction::Retry => retry(step, status),
        RequestAction::Skip => skip(step, status),
        RequestAction::Abandon => Err("a rollout has no unknown outcome; ask the member's OpenBaoOperation".to_owned()),
    }
}

/// A stop takes hold where a member has a safe point before it. One that runs through has none left, and turning that stop
/// into an undo is not what was asked for.
fn stop(policy: Policy, status: &mut OpenBaoRolloutStatus) -> Result<String, String> {
    use RolloutMemberState::{Pending, Preparing, WaitingForCutover};
    if status.stop.is_some() {
        return Ok("the rollout is stopped already".to_owned());
    }
    let runs_through = |state| state == Preparing && policy.cutover == Cutover::Inline;
    let can_stop = |state| matches!(state, Pending | Preparing | WaitingForCutover) && !runs_through(state);
    if !status.members.iter().any(|member| can_stop(member.state)) {
        return Err("nothing is left to stop: every member has ended, or runs through to its end".to_owned());
    }
    status.stop = Some(RolloutStop::Stop);
    cutover::forget(&mut status.members);
    let through = status.members.iter().find(|member| runs_through(member.state));
    let through = through.map(|member| format!("; {} runs through to its end", member.cluster)).unwrap_or_default();
    Ok(format!("no further member begins or moves its leadership{through}; Resume goes on, Cancel undoes"))
}

fn cancel(step: &str, status: &mut OpenBaoRolloutStatus) -> Result<String, String> {
    if !step.is_empty() {
        return Err(format!("Cancel means the whole rollout; Skip leaves out {step} alone"));
    }
    if let Some(moving) = status.members.iter().find(|member| member.state == RolloutMemberState::CuttingOver) {
        return Err(format!(
            "{} is moving its leadership and accepts no control: ask again when it has, or cancel its OpenBaoOperation {}, which \
             turns back as long as it only waits to move it",
            moving.cluster,
            moving.operation.as_deref().unwrap_or_default()
        ));
    }
    status.stop = Some(RolloutStop::Cancel);
    cutover::forget(&mut status.members);
    Ok("no further member begins, and what has not moved its leadership is undone".to_owned())
}

fn resume(
    step: &str,
    policy: Policy,
    kept: &[Option<Kept>],
    status: &mut OpenBaoRolloutStatus,
) -> Result<String, String> {
    if status.stop.take().is_some() {
        return Ok(cutover::goes_on(policy, &status.members));
    }
    if policy.cutover == Cutover::Ordered {
        return Err(
            "nothing waits for a Resume: leadership moves by itself, in order, once all are prepared".to_owned()
        );
    }
    cutover::ask(step, policy, kept, &mut status.members)
}

fn release(step: &str, policy: Policy, status: &mut OpenBaoRolloutStatus) -> Result<String, String> {
    if policy.on_failure != OnFailure::Pause {
        return Err("Release is for onFailure: pause; Retry or Skip the failed member instead".to_owned());
    }
    let changed = failed(step, status, |member| {
        let new = !member.released;
        member.released = true;
        new
    });
    if changed.is_empty() {
        return Err("no failed member waits for a Release".to_owned());
    }
    Ok(format!("those after {} go on", changed.join(", ")))
}

fn retry(step: &str, status: &mut OpenBaoRolloutStatus) -> Result<String, String> {
    let changed = failed(step, status, |member| {
        // Past the point of no return, or without a cluster, another attempt has nothing to begin with.
        let can = member.state != RolloutMemberState::Failed;
        if can {
            *member = member::anew(member);
        }
        can
    });
    if changed.is_empty() {
        return Err("no member can be tried again: see the members' states and messages".to_owned());
    }
    Ok(format!("begins again: {}", changed.join(", ")))
}

fn skip(step: &str, status: &mut OpenBaoRolloutStatus) -> Result<String, String> {
    let Some(member) = status.members.iter_mut().find(|member| member.cluster == step) else {
        return Err("name the member to leave out in step".to_owned());
    };
    if member.state != RolloutMemberState::Pending && !has_failed(member.state) {
        let operation = member.operation.as_deref().unwrap_or_default();
        return Err(match member.state {
            RolloutMemberState::CuttingOver | RolloutMemberState::Soaking => format!(
                "{step} moves its leadership, or has: wait for the end of its OpenBaoOperation {operation}, whose step Soak can be \
                 left out with a Skip"
            ),
            _ => format!("{step} is under way: cancel its OpenBaoOperation {operation} first"),
        });
    }
    member.state = RolloutMemberState::Cancelled;
    "left out by request".clone_into(&mut member.message);
    Ok(format!("{step} is left out"))
}

/// The failed members that `change` changed.
fn failed(
    step: &str,
    status: &mut OpenBaoRolloutStatus,
    mut change: impl FnMut(&mut RolloutMemberStatus) -> bool,
) -> Vec<String> {
    let mut changed = vec![];
    for member in status.members.iter_mut().filter(|member| step.is_empty() || member.cluster == step) {
        if has_failed(member.state) && change(member) {
            changed.push(member.cluster.clone());
        }
    }
    changed
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
