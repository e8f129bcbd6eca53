//! The verdicts: whether clients are served, and the worst of what is wrong. Pure.

use super::{
    conditions::condition_is,
    observed::{Observed, ready_count, voting},
};
use crate::{
    adapter::openbao::HealthState,
    api::{
        ClusterPhase, LockOperation, MemberState, MemberStatus, OpenBaoClusterStatus,
        conditions::{cluster as kind, reason},
    },
    service::cluster::{
        bootstrap::Stage,
        cluster_id::{ids, serving_id},
        members::{self, Member},
        names,
        trouble::{TlsState, Trouble},
    },
};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;

/// How long a new cluster may take to have all its members before it is called available with a majority of them.
const PATIENCE: chrono::Duration = chrono::Duration::minutes(2);

/// How long a new pod may take to join before it is called sealed.
const JOINING: chrono::Duration = chrono::Duration::seconds(60);

/// The verdicts that several conditions share.
pub(super) struct Judgement {
    pub(super) phase: ClusterPhase,
    pub(super) available: Result<Trouble, Trouble>,
    pub(super) degraded: Option<Trouble>,
}

impl Judgement {
    pub(super) fn of(
        seen: &Observed<'_>,
        before: &OpenBaoClusterStatus,
        leader: Option<&Member>,
        now: DateTime<Utc>,
    ) -> Self {
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
        let details: Vec<String> = members::disagreement(seen.members).into_iter().chain(silent).collect();
        let (why, message) = if serving == 0 && ready_count(seen) == 0 {
            (reason::NO_REPLICAS_READY, "no member serves yet")
        } else if serving > 0 && serving <= voting(seen).unwrap_or(wanted) / 2 {
            (
                reason::QUORUM_LOST,
                "a majority of members is down, so nobody can lead: bring their pods and volumes back; the operator starts nothing drastic by itself. Keep the volumes of those that are left. Where a majority of volumes is lost for good, docs/troubleshooting.md says how they go on without it",
            )
        } else if members::disagreement(seen.members).is_some() {
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

/// What is wrong with the spec, if anything is.
pub(super) fn refused(seen: &Observed<'_>) -> Option<Trouble> {
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
                "the root token lies in Secret {}. Let the operator in without it first, or members cannot leave and nobody learns who votes: enable JWT login at mount {}, make the policy {}, type `{way_in}`, and set spec.selfInit: {{enabled: true, oidc: {{enabled: true}}}}, which changes nothing else any more. Then set up your own access, copy the recovery keys out of that Secret (data key recovery-keys), as nobody else has them, revoke the token and delete the Secret",
                names::root_token_secret(&seen.cluster.metadata.name.clone().unwrap_or_default()),
                names::JWT_MOUNT,
                names::OPERATOR_ROLE,
            ),
        )
    })
}
