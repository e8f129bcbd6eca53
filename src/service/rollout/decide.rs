//! What a rollout does next. Pure.

use super::{
    cutover,
    member::{self, Entry, Kept, MemberFacts, Work},
    policy::{Cutover, OnFailure, Policy, has_failed, is_active},
    requests,
};
use crate::{
    adapter::kubernetes::time::to_kube,
    api::{
        OpenBaoOperation, OpenBaoRollout, OpenBaoRolloutStatus, RolloutMemberState, RolloutMemberStatus, RolloutPhase,
        RolloutStop,
        conditions::{reason, rollout as conditions},
    },
    service::upgrade::Park,
};
use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Attempts after which a member whose image changes while it waits begins anew at a `Retry` only.
const ATTEMPTS: i32 = 5;

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The rollout as last seen.
    pub rollout: &'a OpenBaoRollout,
    /// One entry per member, in the order of the spec.
    pub members: &'a [MemberFacts],
}

/// Something to do once the status that calls for it is stored. Each may be repeated freely.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Create the operation of a member; its name makes that happen once.
    Create(Box<OpenBaoOperation>),
    /// Let the leadership of a parked member move.
    Resume {
        /// The member's operation.
        operation: String,
    },
    /// Undo a member that has not moved its leadership.
    Cancel {
        /// The member's operation.
        operation: String,
    },
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The whole status.
    pub status: OpenBaoRolloutStatus,
    /// To be done only when `status` is what the API server has.
    pub effects: Vec<Effect>,
}

impl Decision {
    /// Nothing more will happen by itself or by request, and nothing is left to undo.
    pub fn is_over(&self) -> bool {
        self.status.members.iter().all(has_ended)
    }

    /// What moves its leadership goes on by itself. Once the rollout is deleted that is only what is past its point of no return.
    pub fn leaves_nothing_to_undo(&self) -> bool {
        use RolloutMemberState::{Preparing, WaitingForCutover};
        !self.status.members.iter().any(|member| matches!(member.state, Preparing | WaitingForCutover))
    }
}

fn has_ended(member: &RolloutMemberStatus) -> bool {
    has_failed(member.state) || matches!(member.state, RolloutMemberState::Completed | RolloutMemberState::Cancelled)
}

/// Decides from what is stored and what is seen: requests first, then what the operations did, then who may go on.
pub fn decide(facts: &Facts<'_>, now: DateTime<Utc>) -> Decision {
    let rollout = facts.rollout;
    let policy = Policy::of(&rollout.spec);
    let mut status = rollout.status.clone().unwrap_or_default();
    enrol(rollout, &mut status);
    let kept: Vec<Option<Kept>> = facts.members.iter().map(MemberFacts::kept).collect();
    let leaving = rollout.metadata.deletion_timestamp.is_some();
    if leaving {
        status.stop = Some(RolloutStop::Cancel);
    } else {
        requests::answer(&rollout.spec.requests, policy, &kept, &mut status, now);
    }
    for (member, seen) in status.members.iter_mut().zip(facts.members) {
        follow(member, seen, status.stop, &rollout.spec.version);
        if leaving {
            turn_back(member, seen);
        }
    }
    for (index, kept) in kept.iter().enumerate().take(status.members.len()) {
        claim(index, &mut status, facts, kept.as_ref(), policy);
    }
    if stands(rollout, &status) {
        status.observed_generation = rollout.metadata.generation;
        for condition in &mut status.conditions {
            condition.observed_generation = rollout.metadata.generation;
        }
    } else {
        conclude(rollout, &mut status, policy, now);
    }
    let effects = effects(facts, &status, policy);
    Decision { status, effects }
}

/// One entry per member, in the order of the spec.
fn enrol(rollout: &OpenBaoRollout, status: &mut OpenBaoRolloutStatus) {
    let known = std::mem::take(&mut status.members);
    status.members = rollout
        .spec
        .members
        .iter()
        .map(|member| {
            let new = || RolloutMemberStatus { cluster: member.cluster.clone(), ..RolloutMemberStatus::default() };
            known.iter().find(|old| old.cluster == member.cluster).cloned().unwrap_or_else(new)
        })
        .collect();
}

/// Shows what the member's operation has come to. A claimed cutover is not taken back because the operation still shows
/// its park point.
fn follow(member: &mut RolloutMemberStatus, seen: &MemberFacts, stop: Option<RolloutStop>, version: &str) {
    use RolloutMemberState::{Completed, CuttingOver, Failed, FailedRetryable, Preparing, Soaking, WaitingForCutover};
    if !is_active(member.state) && member.state != WaitingForCutover {
        return;
    }
    if seen.cluster.is_none() {
        member.state = Failed;
        member.message = format!("{}: its OpenBaoCluster is gone", reason::MEMBER_MISSING);
        return;
    }
    let work = seen.work(member.operation.as_deref().unwrap_or_default());
    member.begun |= work != Work::Absent;
    match work {
        // Somebody deleted it, which stopped it, or it ended and its record went while nobody looked. The cluster says which.
        Work::Absent if member.begun => {
            let name = member.operation.as_deref().unwrap_or_default();
            if seen.runs(version) {
                member.state = Completed;
                member.message = format!("runs {version}; the record of {name} is gone");
            } else {
                member.state = FailedRetryable;
                member.message = format!("its operation {name} is gone and the cluster does not run {version}");
            }
        }
        // Claimed, and called off before anything was created.
        Work::Absent if stop == Some(RolloutStop::Cancel) => {
            member.state = RolloutMemberState::Cancelled;
            "never begun".clone_into(&mut member.message);
        }
        Work::Absent => {}
        Work::Preparing(_) if member.state == CuttingOver => {}
        Work::Unknown(words) if member.state == CuttingOver => member.message = words,
        Work::Preparing(words) | Work::Unknown(words) => {
            member.state = Preparing;
            member.message = words;
        }
        Work::Parked if member.state == CuttingOver => {}
        Work::Parked => {
            member.state = WaitingForCutover;
            cutover::PREPARED.clone_into(&mut member.message);
        }
        Work::CuttingOver(words) => {
            let unasked = member.state == WaitingForCutover;
            member.state = CuttingOver;
            member.message = if unasked {
                "leadership moves without being asked by this rollout; the member is finished at once".to_owned()
            } else {
                words
            };
        }
        Work::Soaking => {
            member.state = Soaking;
            "leads with the new version, being watched".clone_into(&mut member.message);
        }
        // With an operator that has another repository of images, it was refused before it began: nothing has to be undone.
        Work::Ended { .. }
            if member.attempt < ATTEMPTS
                && seen.is_overtaken(member.operation.as_deref().unwrap_or_default(), version) =>
        {
            *member = member::anew(member);
        }
        Work::Ended { state, message } => {
            member.state = state;
            member.message = message;
        }
    }
}

/// What was told to move its leadership and has a way back yet turns back with its rollout: it may wait for days, and nobody would be
/// there any more when it moves.
fn turn_back(member: &mut RolloutMemberStatus, seen: &MemberFacts) {
    let operation = member.operation.as_deref().unwrap_or_default();
    if member.state != RolloutMemberState::CuttingOver || !seen.can_turn_back(operation) {
        return;
    }
    member.state = RolloutMemberState::Preparing;
    // That one waits for a person before it does.
    if !matches!(seen.work(operation), Work::Unknown(_)) {
        "turns back instead of moving its leadership, as the rollout is deleted".clone_into(&mut member.message);
    }
}

/// Lets a member begin, or its leadership move, if it is its turn.
fn claim(index: usize, status: &mut OpenBaoRolloutStatus, facts: &Facts<'_>, kept: Option<&Kept>, policy: Policy) {
    let (earlier, rest) = status.members.split_at_mut(index);
    let Some((member, later)) = rest.split_first_mut() else { return };
    match member.state {
        RolloutMemberState::Pending => {
            if let Some(stop) = status.stop {
                if stop == RolloutStop::Cancel {
                    member.state = RolloutMemberState::Cancelled;
                    "never begun".clone_into(&mut member.message);
                }
                return;
            }
            let turn = earlier.iter().all(|before| policy.lets_prepare(before.state, before.released));
            // One that is tried again may find a later one at work.
            if !turn || earlier.iter().chain(later.iter()).any(|other| policy.occupies(other.state)) {
                member.message.clear();
                return;
            }
            match facts.members[index].entry(&facts.rollout.spec.version) {
                Entry::Open => {
                    member.attempt += 1;
                    member.operation = Some(member::operation_name(facts.rollout, &member.cluster, member.attempt));
                    member.state = RolloutMemberState::Preparing;
                    member.message.clear();
                }
                Entry::Done => {
                    member.state = RolloutMemberState::Completed;
                    member.message = format!("{}: runs {} already", reason::NO_WORK, facts.rollout.spec.version);
                }
                Entry::Wait(why) => member.message = why,
                Entry::Never(why) => {
                    member.state = RolloutMemberState::Failed;
                    member.message = why;
                }
            }
        }
        RolloutMemberState::WaitingForCutover if status.stop.is_none() => {
            cutover::claim(earlier, member, later, kept, policy);
        }
        _ => {}
    }
}

/// Whether the stored verdict is the last one: the rollout was completed, and nothing has changed about its members since. An older
/// operator may have judged by other rules, and what is long over is not judged anew.
fn stands(rollout: &OpenBaoRollout, status: &OpenBaoRolloutStatus) -> bool {
    rollout.status.as_ref().is_some_and(|stored| {
        stored.phase == RolloutPhase::Completed
            && stored.stop == status.stop
            && stored.members == status.members
            && status.members.iter().all(has_ended)
    })
}

/// Phase, message and condition of the whole.
fn conclude(rollout: &OpenBaoRollout, status: &mut OpenBaoRolloutStatus, policy: Policy, now: DateTime<Utc>) {
    use RolloutMemberState::{Cancelled, Completed, Pending, WaitingForCutover};
    let members = &status.members;
    let count = |is: fn(RolloutMemberState) -> bool| members.iter().filter(|member| is(member.state)).count();
    let names = |is: fn(RolloutMemberState) -> bool| {
        let named: Vec<&str> =
            members.iter().filter(|member| is(member.state)).map(|member| member.cluster.as_str()).collect();
        named.join(", ")
    };
    let done = count(|state| state == Completed);
    // One that was left out after it had been begun has failed before that.
    let fell =
        |member: &&RolloutMemberStatus| has_failed(member.state) || member.state == Cancelled && member.attempt > 0;
    let failed = members.iter().filter(fell).count();
    let left_out = members.iter().filter(|member| member.state == Cancelled && member.attempt == 0).count();
    let cancelled = status.stop == Some(RolloutStop::Cancel);
    let blocked =
        members.iter().any(|member| has_failed(member.state) && !policy.is_behind_us(member.state, member.released));
    let parked = count(|state| state == WaitingForCutover);
    let waiting = members.iter().find(|member| member.state == Pending && !member.message.is_empty());
    let name = rollout.metadata.name.as_deref().unwrap_or_default();

    let (phase, message) = if let Some(active) = members.iter().find(|member| is_active(member.state)) {
        (RolloutPhase::Running, format!("{}: {}", active.cluster, active.message))
    } else if done > 0 && (done == members.len() || done + left_out == members.len() && !cancelled) {
        (RolloutPhase::Completed, format!("{done} members run {}", rollout.spec.version))
    } else if left_out == members.len() && !cancelled {
        (RolloutPhase::Stopped, "every member was left out by request".to_owned())
    } else if let Some(stop) = status.stop {
        let way_on = match stop {
            RolloutStop::Stop if parked > 0 => "; parked members keep their locks: Resume or Cancel",
            RolloutStop::Stop => "; Resume goes on",
            RolloutStop::Cancel => "",
        };
        (RolloutPhase::Stopped, format!("stopped by request{way_on}"))
    } else if failed + done + left_out == members.len() {
        let failed: Vec<&str> = members.iter().filter(fell).map(|member| member.cluster.as_str()).collect();
        (RolloutPhase::Failed, format!("failed: {}", failed.join(", ")))
    } else if blocked && policy.on_failure == OnFailure::Pause {
        let failed = names(has_failed);
        (RolloutPhase::Paused, format!("{failed} failed: add a Release, Retry or Skip to spec.requests of {name}"))
    } else if blocked {
        let parked = if parked > 0 { "; parked members keep their locks" } else { "" };
        let failed = names(has_failed);
        (RolloutPhase::Failed, format!("{failed} failed and the others do not go on: Retry, Skip or Cancel{parked}"))
    } else if let Some(member) = waiting {
        (RolloutPhase::Running, format!("{} waits: {}", member.cluster, member.message))
    } else {
        (RolloutPhase::WaitingForCutover, cutover::waits(name, policy, members))
    };
    let (word, why) = match phase {
        RolloutPhase::Completed => ("True", reason::READY),
        RolloutPhase::Failed => ("False", conditions::MEMBER_FAILED),
        RolloutPhase::Stopped => ("False", conditions::STOPPED),
        RolloutPhase::Pending | RolloutPhase::Running => ("False", reason::IN_PROGRESS),
        RolloutPhase::WaitingForCutover | RolloutPhase::Paused => ("False", reason::WAITING),
    };
    let known = status.conditions.iter().find(|known| known.type_ == conditions::COMPLETE && known.status == word);
    let since = known.map_or_else(|| to_kube(now), |known| known.last_transition_time.clone());
    status.conditions = vec![Condition {
        type_: conditions::COMPLETE.to_owned(),
        status: word.to_owned(),
        reason: why.to_owned(),
        message: message.clone(),
        observed_generation: rollout.metadata.generation,
        last_transition_time: since,
    }];
    status.phase = phase;
    status.message = message;
    status.progress = format!("{done}/{}", members.len());
    status.observed_generation = rollout.metadata.generation;
}

/// What the stored states call for.
fn effects(facts: &Facts<'_>, status: &OpenBaoRolloutStatus, policy: Policy) -> Vec<Effect> {
    let park = match policy.cutover {
        Cutover::Inline => None,
        Cutover::Ordered => Some(Park::Ordered),
        Cutover::Manual => Some(Park::Manual),
    };
    let mut effects = vec![];
    for (member, seen) in status.members.iter().zip(facts.members) {
        let Some(operation) = member.operation.clone() else { continue };
        let work = seen.work(&operation);
        let cancelled = status.stop == Some(RolloutStop::Cancel);
        match (member.state, work) {
            (RolloutMemberState::Preparing, Work::Absent) => {
                effects.extend(seen.operation(facts.rollout, &operation, park).map(Box::new).map(Effect::Create));
            }
            (RolloutMemberState::CuttingOver, Work::Parked) => effects.push(Effect::Resume { operation }),
            // While its outcome is unknown it refuses, and each look would ask anew.
            (_, Work::Absent | Work::Ended { .. } | Work::Unknown(_)) => {}
            // Also one that a predecessor of ours created after the member was called off.
            (
                RolloutMemberState::Preparing | RolloutMemberState::WaitingForCutover | RolloutMemberState::Cancelled,
                _,
            ) if cancelled => effects.push(Effect::Cancel { operation }),
            _ => {}
        }
    }
    effects
}

#[cfg(test)]
#[path = "decide_cutover_tests.rs"]
mod cutover_decisions;
#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
