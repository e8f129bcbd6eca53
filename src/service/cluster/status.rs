//! The cluster's own status plane, from what was observed. Pure.
//!
//! Nothing in it moves by itself, no time but those of transitions, and indexes only while an operation holds the lock. So an idle
//! cluster's status is equal to the one before, and equal statuses are not written.

use super::{
    bootstrap::Stage,
    cluster_id,
    even::even,
    names,
    observe::{self, Member},
    production,
    validate::{self, Invalid, ValidatedCluster},
};
use crate::{
    adapter::{kubernetes::time::to_kube, openbao::HealthState},
    api::{
        ClusterPhase, HandledRequest, LockOperation, MemberState, MemberStatus, OpenBaoCluster, OpenBaoClusterStatus,
        Request,
        common::forget_old_answers,
        conditions::{cluster as kind, reason},
    },
};
use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use std::collections::{BTreeMap, BTreeSet};

/// How long a new cluster may take to have all its members before it is called available with a majority of them.
const PATIENCE: chrono::Duration = chrono::Duration::minutes(2);

/// How long a new pod may take to join before it is called sealed.
const JOINING: chrono::Duration = chrono::Duration::seconds(60);

/// Something a person should look at: a constant reason and words that say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For machines.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Trouble {
    /// New trouble.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Reasons of troubles, beside those in [`crate::api::conditions::reason`].
pub mod reasons {
    /// The Secret with the static key is gone while data may exist.
    pub const UNSEAL_KEY_MISSING: &str = "UnsealKeyMissing";
    /// The static key is none, or another one than the data is sealed with.
    pub const UNSEAL_KEY_INVALID: &str = "UnsealKeyInvalid";
    /// The Secret that the spec names is not there.
    pub const SEAL_CREDENTIALS_MISSING: &str = "SealCredentialsMissing";
    /// The service account that the spec names is not there.
    pub const SERVICE_ACCOUNT_MISSING: &str = "ServiceAccountMissing";
    /// A name is taken by somebody else's object.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The operator may not watch all that a cluster is made of.
    pub const ACCESS_MISSING: &str = "AccessMissing";
    /// The API server refused what we built.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// Ordinal 0 lost its volume in the middle of the first start.
    pub const BOOTSTRAP_VOLUME_LOST: &str = "BootstrapVolumeLost";
    /// The API server's signing keys cannot be used.
    pub const ISSUER_KEYS_UNUSABLE: &str = "IssuerKeysUnusable";
    /// The first server ends again and again.
    pub const FIRST_START_FAILS: &str = "FirstStartFails";
    /// The first start is under way.
    pub const BOOTSTRAPPING: &str = "Bootstrapping";
    /// Pods are replaced one by one.
    pub const RESTARTING: &str = "Restarting";
    /// A member serves outside of raft, and it was not we who took it out.
    pub const NOT_IN_RAFT: &str = "NotInRaft";
    /// A member serves, and has not followed the one that leads for a while.
    pub const NOT_FOLLOWING: &str = "NotFollowing";
    /// Members join or leave.
    pub const SCALING: &str = "Scaling";
    /// No member holds data, and none may be initialised again.
    pub const ALL_VOLUMES_EMPTY: &str = "AllVolumesEmpty";
    /// Something of a cluster that was deleted does not go.
    pub const DELETION_WAITS: &str = "DeletionWaits";
    /// A volume was asked to grow and did not.
    pub const VOLUME_NOT_GROWN: &str = "VolumeNotGrown";
    /// OpenBao refused the settings of autopilot.
    pub const AUTOPILOT_REFUSED: &str = "AutopilotRefused";
    /// The answer to the first initialisation was lost.
    pub const INIT_ANSWER_LOST: &str = "InitAnswerLost";
}

/// The state of certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsState {
    /// Plain HTTP.
    Off,
    /// Good until then.
    Good(DateTime<Utc>),
    /// Not there, or not good: reason and words.
    Bad(Trouble),
}

/// Everything the status speaks of.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The object as last read: its generation, and the status before.
    pub cluster: &'a OpenBaoCluster,
    /// The spec, or what is wrong with it.
    pub spec: Result<&'a ValidatedCluster, &'a Invalid>,
    /// The servers' own words.
    pub members: &'a [Member],
    /// Before or after the first start.
    pub stage: Stage,
    /// Certificates.
    pub tls: TlsState,
    /// In order of importance; the first one speaks for the condition.
    pub troubles: Vec<Trouble>,
    /// What the operator is about, if anything.
    pub progress: Option<Trouble>,
    /// What keeps the spec from being carried out, if anything does.
    pub stopped: Option<Trouble>,
    /// Raft's voters by node id, if they were asked.
    pub voters: Option<&'a BTreeSet<String>>,
    /// The version finished last, as the upgrade manager knows it.
    pub current_version: Option<&'a str>,
    /// The condition `Upgrading`, in the upgrade manager's words.
    pub upgrading: Option<&'a (bool, &'static str, String)>,
    /// Requests answered now.
    pub handled: &'a [HandledRequest],
    /// The lock's holder is nowhere to be seen.
    pub lock_orphaned: bool,
    /// A live restore that waits or runs. The status before only remembers one.
    pub pending_restore: Option<String>,
    /// Whether the operator's own login works; `None` when it was not tried.
    pub access: Option<Result<(), String>>,
    /// The last `restartAt` that is carried out.
    pub last_restart_at: Option<String>,
    /// The largest size of a data volume.
    pub volume_size: Option<String>,
    /// A root token lies in its Secret, and this command would let the operator in without it.
    pub root_token: Option<&'a str>,
}

/// Computes the plane. Fields of other planes are left out.
pub fn build(seen: &Observed<'_>, now: DateTime<Utc>) -> OpenBaoClusterStatus {
    let before = seen.cluster.status.clone().unwrap_or_default();
    let wanted = seen.cluster.spec.replicas;
    let leader = observe::leader(seen.members);
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
        failure_tolerance: seen.voters.map(|voters| tolerance(voters, seen.members)).or(before.failure_tolerance),
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

fn any_initialized(seen: &Observed<'_>) -> bool {
    seen.members.iter().any(|member| member.health.as_ref().is_some_and(|health| health.initialized))
}

/// The id that a serving member names.
fn serving_id(member: &Member) -> Option<&str> {
    member.health.as_ref().filter(|_| member.serves())?.cluster_id.as_deref()
}

/// The one id that all serving members name; `None` if they differ or none serves.
pub fn agreed_id(members: &[Member]) -> Option<&str> {
    let mut ids = members.iter().filter_map(serving_id);
    let first = ids.next()?;
    ids.all(|id| id == first).then_some(first)
}

fn ids(members: &[Member]) -> BTreeSet<&str> {
    members.iter().filter_map(serving_id).collect()
}

/// How many more voters may fail: those that serve now, less the majority of all that vote.
fn tolerance(voters: &BTreeSet<String>, members: &[Member]) -> i32 {
    let serving = members.iter().filter(|member| member.serves() && voters.contains(&member.name)).count();
    let majority = voters.len() / 2 + 1;
    i32::try_from(serving.saturating_sub(majority)).unwrap_or(0)
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

/// The verdicts that several conditions share.
struct Judgement {
    phase: ClusterPhase,
    available: Result<Trouble, Trouble>,
    degraded: Option<Trouble>,
}

impl Judgement {
    fn of(seen: &Observed<'_>, before: &OpenBaoClusterStatus, leader: Option<&Member>, now: DateTime<Utc>) -> Self {
        let available = availability(seen, before, leader, now);
        let degraded = degradation(seen, before, &available, now);
        let lock = before.operation_lock.as_ref().map(|lock| lock.operation);
        let was = condition_is(before, kind::AVAILABLE, "True");
        let phase = match lock {
            Some(LockOperation::Backup) => ClusterPhase::BackingUp,
            Some(LockOperation::Upgrade) => ClusterPhase::Upgrading,
            Some(LockOperation::Restore) => ClusterPhase::Restoring,
            Some(LockOperation::Maintenance) => ClusterPhase::Maintenance,
            None if available.is_ok() => ClusterPhase::Running,
            None if seen.spec.is_err() || !seen.troubles.is_empty() => ClusterPhase::Failed,
            None if !before.initialized.unwrap_or(false)
                || !was && before.phase == Some(ClusterPhase::Initializing) =>
            {
                ClusterPhase::Initializing
            }
            None => ClusterPhase::Failed,
        };
        Self { phase, available, degraded }
    }

    fn report(
        &self,
        seen: &Observed<'_>,
        before: &OpenBaoClusterStatus,
        leader: Option<&Member>,
        out: &mut Conditions<'_>,
    ) {
        match &self.available {
            Ok(good) => out.set(kind::AVAILABLE, "True", good.reason, &good.message),
            Err(bad) => out.set(kind::AVAILABLE, "False", bad.reason, &bad.message),
        }
        match &self.degraded {
            Some(bad) => out.set(kind::DEGRADED, "True", bad.reason, &bad.message),
            None => out.set(kind::DEGRADED, "False", reason::RECONCILED, "nothing needs attention"),
        }
        match (&seen.progress, refused(seen).or_else(|| seen.stopped.clone())) {
            (Some(progress), _) => out.set(kind::PROGRESSING, "True", progress.reason, &progress.message),
            (None, Some(stopped)) => out.set(kind::PROGRESSING, "False", stopped.reason, &stopped.message),
            (None, None) => {
                out.set(kind::PROGRESSING, "False", reason::RECONCILED, "everything is as the spec says");
            }
        }
        match &seen.tls {
            TlsState::Off => {
                out.set(kind::TLS_READY, "False", reason::DISABLED, "spec.tls.enabled is false: plain HTTP");
            }
            TlsState::Good(until) => {
                out.set(
                    kind::TLS_READY,
                    "True",
                    reason::READY,
                    &format!("the serving certificate is good until {}", until.format("%Y-%m-%d")),
                );
            }
            TlsState::Bad(bad) => out.set(kind::TLS_READY, "False", bad.reason, &bad.message),
        }
        report_openbao(seen, before, leader, out);
        report_operations(seen, before, out);
        if let Some((runs, why, message)) = seen.upgrading {
            out.set(kind::UPGRADING, if *runs { "True" } else { "False" }, why, message);
        }
        report_spec(seen, out);
        match &seen.access {
            Some(Ok(())) => out.set(kind::OPERATOR_ACCESS, "True", reason::LOGIN_WORKS, "the operator can log in"),
            Some(Err(why)) => out.set(kind::OPERATOR_ACCESS, "False", reason::LOGIN_FAILED, why),
            None => out.keep(kind::OPERATOR_ACCESS),
        }
    }
}

/// Clients are served: one leader, a majority, and all of one cluster.
fn availability(
    seen: &Observed<'_>,
    before: &OpenBaoClusterStatus,
    leader: Option<&Member>,
    now: DateTime<Utc>,
) -> Result<Trouble, Trouble> {
    let wanted = usize::try_from(seen.cluster.spec.replicas).unwrap_or(1);
    let serving = seen.members.iter().filter(|member| member.serves()).count();
    if seen.stage == Stage::Bootstrapping && serving > 0 {
        return Err(Trouble::new(reason::NOT_READY, "members answer, and the first start is not over"));
    }
    let different = ids(seen.members);
    if different.len() > 1 {
        return Err(several_clusters(seen.members, &different));
    }
    if let (Some(known), Some(found)) = (&before.cluster_id, different.first().copied())
        && known != found
        && !matches!(before.operation_lock.as_ref().map(|lock| lock.operation), Some(LockOperation::Restore))
        && seen.pending_restore.is_none()
        && condition_is(before, kind::AVAILABLE, "False")
        && leader.is_none()
    {
        return Err(Trouble::new(
            reason::CLUSTER_ID_MISMATCH,
            format!("the members belong to OpenBao cluster {found}, this cluster was {known}"),
        ));
    }
    let Some(leader) = leader else {
        let silent = seen
            .members
            .iter()
            .filter_map(|member| member.silence.as_ref().map(|why| format!("{}: {why}", member.name)));
        let details: Vec<String> = observe::disagreement(seen.members).into_iter().chain(silent).collect();
        let (why, message) = if serving == 0 && ready_count(seen) == 0 {
            (reason::NO_REPLICAS_READY, "no member serves yet")
        } else if serving > 0 && serving <= voting(seen).unwrap_or(wanted) / 2 {
            (
                reason::QUORUM_LOST,
                "a majority of members is down, so nobody can lead: bring their pods and volumes back; the operator starts nothing drastic by itself. Keep the volumes of those that are left. Where a majority of volumes is lost for good, docs/troubleshooting.md says how they go on without it",
            )
        } else if observe::disagreement(seen.members).is_some() {
            (reason::LEADER_UNKNOWN, "the members disagree who leads")
        } else if serving == seen.members.len() && before.phase == Some(ClusterPhase::Initializing) {
            (
                reason::LEADER_UNKNOWN,
                "no member has led yet: where a newer version has led over these volumes before, set spec.version to that one, as an older one never leads over them",
            )
        } else {
            (reason::LEADER_UNKNOWN, "no member leads")
        };
        let message =
            if details.is_empty() { message.to_owned() } else { format!("{message} ({})", details.join("; ")) };
        return Err(Trouble::new(why, message));
    };
    // A leader that nobody contradicts has a majority, or will find out in a moment that it has none. Where raft cannot be
    // asked, those that served a look ago tell a loss from members that are to join.
    let served = |member: &&MemberStatus| matches!(member.state, MemberState::Active | MemberState::Standby);
    let voting = voting(seen).unwrap_or_else(|| before.members.iter().filter(served).count().min(wanted));
    if serving <= voting / 2 {
        return Err(Trouble::new(
            reason::NOT_READY,
            format!("{serving} of {voting} members that vote serve, which is no majority"),
        ));
    }
    let all = serving == wanted && ready_count(seen) >= wanted;
    let was = condition_is(before, kind::AVAILABLE, "True")
        || before.initialized == Some(true) && before.phase != Some(ClusterPhase::Initializing);
    let young =
        seen.members.iter().filter_map(|member| member.created).min().is_none_or(|created| now - created < PATIENCE);
    if all {
        Ok(Trouble::new(reason::ALL_REPLICAS_READY, format!("all {wanted} members serve, {} leads", leader.name)))
    } else if was || !young {
        Ok(Trouble::new(reason::READY, format!("{serving} of {wanted} members serve, {} leads", leader.name)))
    } else {
        Err(Trouble::new(reason::NOT_READY, format!("{serving} of {wanted} members serve so far")))
    }
}

/// Members of different ids, each with those that name it: whoever deletes a volume has to know which one.
fn several_clusters(members: &[Member], ids: &BTreeSet<&str>) -> Trouble {
    let of = |id: &&str| {
        let names = members.iter().filter(|member| serving_id(member) == Some(*id)).map(|member| member.name.as_str());
        format!("{}: {id}", names.collect::<Vec<_>>().join(", "))
    };
    Trouble::new(
        reason::CLUSTER_ID_MISMATCH,
        format!(
            "members belong to different OpenBao clusters ({}): one of them started anew, or was down while the others' data was restored, or one has restored data and the others were not restarted since. Keep all volumes, and see which one holds your data before you delete any",
            ids.iter().map(of).collect::<Vec<_>>().join("; ")
        ),
    )
}

/// How many members' votes make the majority, if raft was asked. Members that are to join do not vote yet, and what is known may
/// speak of some that have left.
fn voting(seen: &Observed<'_>) -> Option<usize> {
    let wanted = usize::try_from(seen.cluster.spec.replicas).unwrap_or(1);
    seen.voters.map(|voters| voters.len().min(wanted))
}

fn ready_count(seen: &Observed<'_>) -> usize {
    seen.members.iter().filter(|member| member.ready && !member.terminating).count()
}

fn condition_is(status: &OpenBaoClusterStatus, type_: &str, value: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == value)
}

/// What is wrong with the spec, if anything is.
fn refused(seen: &Observed<'_>) -> Option<Trouble> {
    let invalid = seen.spec.err()?;
    let why = if invalid.is_unsupported() { reason::NOT_SUPPORTED } else { reason::INVALID };
    Some(Trouble::new(why, invalid.to_string()))
}

fn degradation(
    seen: &Observed<'_>,
    before: &OpenBaoClusterStatus,
    available: &Result<Trouble, Trouble>,
    now: DateTime<Utc>,
) -> Option<Trouble> {
    if let Some(refused) = refused(seen) {
        return Some(refused);
    }
    if let Some(first) = seen.troubles.first() {
        return Some(first.clone());
    }
    if let TlsState::Bad(bad) = &seen.tls {
        return Some(bad.clone());
    }
    if let Err(bad) = available
        && before.initialized == Some(true)
        && before.phase != Some(ClusterPhase::Initializing)
    {
        return Some(bad.clone());
    }
    // A member that joins says that it is sealed for a moment.
    let joins = |member: &Member| member.created.is_some_and(|created| now - created < JOINING);
    let sealed: Vec<&str> = seen
        .members
        .iter()
        .filter(|member| !joins(member))
        .filter(|member| {
            member.state() == Some(HealthState::Sealed)
                && member.health.as_ref().is_some_and(|health| health.initialized)
        })
        .map(|member| member.name.as_str())
        .collect();
    if !sealed.is_empty() && before.initialized == Some(true) {
        return Some(Trouble::new(
            reason::SEALED,
            format!(
                "sealed: {}. Look into their logs: the seal's key or provider is not what their data was sealed with, or cannot be reached. Whoever was sealed by hand unseals when its pod is deleted",
                sealed.join(", ")
            ),
        ));
    }
    // One that is to vote and does not yet takes nothing away.
    let is_new = |member: &Member| joins(member) && seen.voters.is_some_and(|voters| !voters.contains(&member.name));
    let down: Vec<String> = seen
        .members
        .iter()
        .filter(|member| !member.serves() && !is_new(member))
        .map(|member| match &member.silence {
            Some(why) => format!("{} ({why})", member.name),
            None => member.name.clone(),
        })
        .collect();
    if before.initialized == Some(true) && !down.is_empty() {
        return Some(Trouble::new(reason::NOT_READY, format!("not serving: {}", down.join(", "))));
    }
    seen.root_token.filter(|_| before.initialized == Some(true)).map(|way_in| {
        Trouble::new(
            reason::ROOT_TOKEN_STORED,
            format!(
                "the root token lies in Secret {}. Let the operator in without it first, or members cannot leave and nobody learns who votes: enable JWT login at mount {}, make the policy {}, type `{way_in}`, and set spec.selfInit: {{enabled: true, oidc: {{enabled: true}}}}, which changes nothing else any more. Then set up your own access, revoke the token and delete the Secret",
                names::root_token_secret(&seen.cluster.metadata.name.clone().unwrap_or_default()),
                names::JWT_MOUNT,
                names::OPERATOR_ROLE,
            ),
        )
    })
}

fn report_openbao(
    seen: &Observed<'_>,
    before: &OpenBaoClusterStatus,
    leader: Option<&Member>,
    out: &mut Conditions<'_>,
) {
    let initialized = before.initialized == Some(true) || any_initialized(seen);
    if initialized {
        out.set(kind::INITIALIZED, "True", reason::INITIALIZED, "OpenBao holds data");
    } else {
        out.set(kind::INITIALIZED, "False", reason::NOT_INITIALIZED, "OpenBao was not initialised yet");
    }
    let sealed: Vec<&str> = seen
        .members
        .iter()
        .filter(|member| member.health.as_ref().is_some_and(|health| health.sealed && health.initialized))
        .map(|member| member.name.as_str())
        .collect();
    let answered = seen.members.iter().any(|member| member.health.is_some());
    if !answered {
        out.set(kind::SEALED, "Unknown", reason::WAITING, "no member answers");
    } else if sealed.is_empty() {
        out.set(kind::SEALED, "False", reason::UNSEALED, "no member that answers is sealed");
    } else {
        out.set(kind::SEALED, "True", reason::SEALED, &format!("sealed: {}", sealed.join(", ")));
    }
    let active = seen.members.iter().filter(|member| member.state() == Some(HealthState::Active)).count();
    match leader {
        Some(leader) => out.set(kind::LEADER, "True", reason::LEADER_FOUND, &format!("{} leads", leader.name)),
        None if active > 1 => {
            out.set(kind::LEADER, "False", reason::MULTIPLE_LEADERS, "several members say that they lead");
        }
        None => out.set(kind::LEADER, "False", reason::LEADER_UNKNOWN, "no member leads"),
    }
}

fn report_operations(seen: &Observed<'_>, before: &OpenBaoClusterStatus, out: &mut Conditions<'_>) {
    let lock = before.operation_lock.as_ref();
    let running =
        |operation: LockOperation| lock.filter(|lock| lock.operation == operation).map(|lock| lock.holder.clone());
    for (type_, operation) in [
        (kind::BACKING_UP, LockOperation::Backup),
        (kind::UPGRADING, LockOperation::Upgrade),
        (kind::RESTORING, LockOperation::Restore),
    ] {
        match running(operation) {
            Some(holder) => out.set(type_, "True", reason::IN_PROGRESS, &format!("{holder} holds the lock")),
            None => out.set(type_, "False", reason::IDLE, "none runs"),
        }
    }
    if let Some(name) = seen.pending_restore.as_ref().filter(|_| running(LockOperation::Restore).is_none()) {
        out.set(kind::RESTORING, "True", reason::WAITING, &format!("restore {name} waits to begin"));
    }
    match lock {
        Some(lock) if seen.lock_orphaned => out.set(
            kind::OPERATION_LOCK,
            "True",
            reason::LOCK_ORPHANED,
            &format!(
                "{} by {}, which has ended or is gone: to free the lock, add to spec.requests {{nonce: <a new word>, action: Release, holderUID: {}, fence: {}}}",
                lock.operation, lock.holder, lock.holder_uid, lock.fence
            ),
        ),
        Some(lock) => {
            out.set(kind::OPERATION_LOCK, "True", reason::LOCK_HELD, &format!("{} by {}", lock.operation, lock.holder));
        }
        None => out.set(kind::OPERATION_LOCK, "False", reason::LOCK_FREE, "nobody holds it"),
    }
}

fn report_spec(seen: &Observed<'_>, out: &mut Conditions<'_>) {
    let spec = &seen.cluster.spec;
    match &seen.spec {
        Ok(_) => {
            let even = even(spec.replicas).map(|even| format!("the spec passed every check. {even}"));
            let why = if even.is_some() { reason::EVEN_REPLICAS } else { reason::VALID };
            out.set(kind::VALID, "True", why, even.as_deref().unwrap_or("the spec passed every check"));
            let ignored = validate::ignored(spec);
            if ignored.is_empty() {
                out.set(kind::SUPPORTED, "True", reason::ALL_FIELDS_SUPPORTED, "every field has an effect");
            } else {
                out.set(
                    kind::SUPPORTED,
                    "False",
                    reason::FIELDS_IGNORED,
                    &format!("no effect yet: {}", ignored.join(", ")),
                );
            }
        }
        Err(invalid) => {
            out.set(kind::VALID, "False", reason::INVALID, &invalid.to_string());
            if invalid.is_unsupported() {
                out.set(kind::SUPPORTED, "False", reason::UNSAFE_TO_IGNORE, &invalid.to_string());
            } else {
                out.keep(kind::SUPPORTED);
            }
        }
    }
    let initialized = seen.cluster.status.as_ref().is_some_and(|status| status.initialized == Some(true));
    let missing = production::missing(spec, initialized, seen.root_token.is_some());
    match missing.first() {
        Some((why, _)) => {
            let all: Vec<&str> = missing.iter().map(|(_, message)| *message).collect();
            out.set(kind::PRODUCTION_READY, "False", why, &all.join("; "));
        }
        None => out.set(kind::PRODUCTION_READY, "True", reason::PRODUCTION_READY, "nothing is missing"),
    }
}

/// Conditions under construction: a transition time changes only with the status.
struct Conditions<'a> {
    before: &'a [Condition],
    generation: Option<i64>,
    now: DateTime<Utc>,
    all: BTreeMap<String, Condition>,
}

impl Conditions<'_> {
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let previous = self.before.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        let condition = Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(1024).collect(),
            observed_generation: self.generation,
            last_transition_time: previous
                .map_or_else(|| to_kube(self.now), |previous| previous.last_transition_time.clone()),
        };
        self.all.insert(type_.to_owned(), condition);
    }

    /// Leaves a condition as it was, if it was.
    fn keep(&mut self, type_: &str) {
        if let Some(previous) = self.before.iter().find(|condition| condition.type_ == type_) {
            self.all.insert(type_.to_owned(), previous.clone());
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
