//! The cluster's own status plane, from what was observed. Pure.
//!
//! Nothing in it moves by itself, no time but those of transitions, and indexes only while an operation holds the lock. So an idle
//! cluster's status is equal to the one before, and equal statuses are not written.

mod conditions;
mod judgement;
pub mod observed;
mod told;

use self::{
    conditions::Conditions,
    judgement::Judgement,
    observed::{Observed, any_initialized},
};
use super::{
    bootstrap::Stage,
    cluster_id,
    members::{self, Member},
    trouble::Trouble,
};
use crate::{
    adapter::openbao::HealthState,
    api::{
        HandledRequest, MemberState, MemberStatus, OpenBaoCluster, OpenBaoClusterStatus, Request,
        common::forget_old_answers,
        conditions::{cluster as kind, reason},
    },
};
use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use std::collections::{BTreeMap, BTreeSet};

/// Computes the plane. Fields of other planes are left out.
pub fn build(seen: &Observed<'_>, now: DateTime<Utc>) -> OpenBaoClusterStatus {
    let before = seen.cluster.status.clone().unwrap_or_default();
    let wanted = seen.cluster.spec.replicas;
    let leader = members::leader(seen.members);
    let ready = seen.members.iter().filter(|member| member.ready && !member.terminating).count();
    let ready = i32::try_from(ready).unwrap_or(i32::MAX);
    let initialized = before.initialized.unwrap_or(false) || seen.stage == Stage::Bootstrapped && any_initialized(seen);
    let cluster_id = cluster_id::next(seen.members, usize::try_from(wanted).unwrap_or(1), &before);
    let judgement = Judgement::of(seen, &before, leader, now);
    let mut conditions = Conditions {
        before: &before.conditions,
        generation: seen.cluster.metadata.generation,
        now,
        all: BTreeMap::new(),
    };
    judgement.report(seen, &before, leader, &mut conditions);
    OpenBaoClusterStatus {
        phase: Some(judgement.phase),
        observed_generation: seen.cluster.metadata.generation,
        current_version: seen.current_version.map(str::to_owned).or_else(|| undecided_version(seen, &before)),
        active_leader: leader.map(|leader| leader.name.clone()),
        ready_replicas: Some(ready),
        ready: Some(format!("{ready}/{wanted}")),
        failure_tolerance: bears(seen, before.failure_tolerance),
        initialized: Some(initialized),
        self_initialized: Some(initialized && seen.cluster.spec.self_init.as_ref().is_some_and(|init| init.enabled)),
        cluster_id,
        members: seen.members.iter().map(|member| member_status(member, seen.voters, &before)).collect(),
        last_restart_at: seen.last_restart_at.clone(),
        volume_size: seen.volume_size.clone(),
        handled_requests: remembered(&before.handled_requests, seen.handled, &seen.cluster.spec.requests),
        conditions: conditions.all.into_values().collect(),
        ..OpenBaoClusterStatus::default()
    }
}

/// The status as it was, but for one trouble that keeps everything else from being looked at.
pub fn degraded(cluster: &OpenBaoCluster, trouble: &Trouble, now: DateTime<Utc>) -> OpenBaoClusterStatus {
    with(cluster, kind::DEGRADED, trouble, now)
}

/// The same of what is being done, where nothing else is looked at any more.
pub fn progressing(cluster: &OpenBaoCluster, progress: &Trouble, now: DateTime<Utc>) -> OpenBaoClusterStatus {
    with(cluster, kind::PROGRESSING, progress, now)
}

fn with(cluster: &OpenBaoCluster, type_: &str, told: &Trouble, now: DateTime<Utc>) -> OpenBaoClusterStatus {
    let before = cluster.status.clone().unwrap_or_default();
    let mut conditions = Conditions {
        before: &before.conditions,
        generation: cluster.metadata.generation,
        now,
        all: before.conditions.iter().map(|one| (one.type_.clone(), one.clone())).collect(),
    };
    conditions.set(type_, "True", told.reason, &told.message);
    let conditions = conditions.all.into_values().collect();
    OpenBaoClusterStatus { conditions, ..before }
}

/// The part of a status that this plane owns, for comparing and for writing.
pub fn plane(status: &OpenBaoClusterStatus) -> OpenBaoClusterStatus {
    let mut conditions: Vec<Condition> =
        status.conditions.iter().filter(|condition| OWNED.contains(&condition.type_.as_str())).cloned().collect();
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    OpenBaoClusterStatus {
        phase: status.phase,
        observed_generation: status.observed_generation,
        current_version: status.current_version.clone(),
        active_leader: status.active_leader.clone(),
        ready_replicas: status.ready_replicas,
        ready: status.ready.clone(),
        failure_tolerance: status.failure_tolerance,
        initialized: status.initialized,
        self_initialized: status.self_initialized,
        cluster_id: status.cluster_id.clone(),
        members: status.members.clone(),
        last_restart_at: status.last_restart_at.clone(),
        volume_size: status.volume_size.clone(),
        handled_requests: status.handled_requests.clone(),
        conditions,
        ..OpenBaoClusterStatus::default()
    }
}

/// What is worth an event: conditions that say from now on what a person should look at, with reason and words. A spec that is
/// good may have something to it that is better known.
pub fn news(before: &OpenBaoClusterStatus, next: &OpenBaoClusterStatus) -> Vec<(String, String)> {
    const TOLD: [(&str, &str); 4] =
        [(kind::DEGRADED, "True"), (kind::OPERATOR_ACCESS, "False"), (kind::SUPPORTED, "False"), (kind::VALID, "True")];
    let found = |status: &OpenBaoClusterStatus, (type_, bad): (&str, &str)| {
        let mut all = status.conditions.iter().filter(|one| one.type_ == type_ && one.status == bad);
        all.next().map(|one| (one.reason.clone(), one.message.clone()))
    };
    let mut news: Vec<(String, String)> = Vec::new();
    for one in TOLD {
        let Some((reason, words)) = found(next, one).filter(|(why, _)| why != reason::VALID) else { continue };
        let known = found(before, one).is_some_and(|(known, _)| known == reason);
        if !known && news.iter().all(|(_, told)| *told != words) {
            news.push((reason, words));
        }
    }
    news
}

/// The last answers, oldest first.
fn remembered(before: &[HandledRequest], now: &[HandledRequest], requests: &[Request]) -> Vec<HandledRequest> {
    let mut all: Vec<HandledRequest> = before.iter().chain(now).cloned().collect();
    forget_old_answers(&mut all, |nonce| requests.iter().any(|request| request.nonce == nonce));
    all
}

/// Conditions that this plane owns.
const OWNED: &[&str] = &[
    kind::AVAILABLE,
    kind::DEGRADED,
    kind::PROGRESSING,
    kind::TLS_READY,
    kind::INITIALIZED,
    kind::SEALED,
    kind::LEADER,
    kind::BACKING_UP,
    kind::UPGRADING,
    kind::RESTORING,
    kind::PRODUCTION_READY,
    kind::SUPPORTED,
    kind::OPERATOR_ACCESS,
    kind::VALID,
    kind::OPERATION_LOCK,
];

/// How many more voters may fail, as far as it is told: it does not rise before it is known of each that serves whether it follows. An
/// upgrade that waits for one that does not would take another one away.
fn bears(seen: &Observed<'_>, before: Option<i32>) -> Option<i32> {
    let Some(voters) = seen.voters else { return before };
    let now = tolerance(voters, seen.members, seen.behind);
    Some(before.filter(|_| !seen.settled).map_or(now, |known| known.min(now)))
}

/// How many more voters may fail: those that serve and follow now, less the majority of all that vote. Raft's configuration counts
/// the vote of a member that nobody speaks with any more, and so do the others; it is never cast.
fn tolerance(voters: &BTreeSet<String>, members: &[Member], behind: &BTreeSet<String>) -> i32 {
    let counts = |member: &&Member| member.serves() && voters.contains(&member.name) && !behind.contains(&member.uid);
    let majority = voters.len() / 2 + 1;
    i32::try_from(members.iter().filter(counts).count().saturating_sub(majority)).unwrap_or(0)
}

/// The version where the upgrade manager had nothing to say in this look. Once it had, those that serve say nothing of those that
/// do not: what they agree on would make an upgrade that failed look done.
fn undecided_version(seen: &Observed<'_>, before: &OpenBaoClusterStatus) -> Option<String> {
    let known = before.current_version.clone();
    let was_decided = before.upgrade.as_ref().is_some_and(|upgrade| upgrade.directive.is_some());
    if was_decided && known.is_some() { known } else { agreed_version(seen).or(known) }
}

fn agreed_version(seen: &Observed<'_>) -> Option<String> {
    let mut versions = seen.members.iter().filter(|member| member.serves()).map(Member::version);
    let first = versions.next()??;
    versions.all(|version| version == Some(first)).then(|| first.to_owned())
}

/// How far a member has applied the log, while somebody may wait for it to catch up. What does not serve applies none.
fn applied_index(member: &Member, before: &OpenBaoClusterStatus) -> Option<i64> {
    before.operation_lock.as_ref()?;
    let view = member.view.as_ref().filter(|_| member.serves())?;
    i64::try_from(view.raft_applied_index).ok()
}

fn member_status(member: &Member, voters: Option<&BTreeSet<String>>, before: &OpenBaoClusterStatus) -> MemberStatus {
    let previous = before.members.iter().find(|previous| previous.name == member.name);
    MemberStatus {
        name: member.name.clone(),
        version: member.version().map(str::to_owned).or_else(|| previous.and_then(|previous| previous.version.clone())),
        state: match member.state() {
            Some(HealthState::Active) => MemberState::Active,
            Some(HealthState::Standby) => MemberState::Standby,
            Some(HealthState::Sealed) if member.health.as_ref().is_some_and(|health| health.initialized) => {
                MemberState::Sealed
            }
            Some(HealthState::Uninitialized | HealthState::Sealed) => MemberState::Joining,
            Some(HealthState::Troubled) | None => MemberState::Down,
        },
        voter: voters
            .map(|voters| voters.contains(&member.name))
            .or_else(|| previous.and_then(|previous| previous.voter)),
        applied_index: applied_index(member, before),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
