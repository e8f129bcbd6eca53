//! What the status is made from, and what is counted in it.

use crate::{
    api::{HandledRequest, OpenBaoCluster},
    service::cluster::{
        bootstrap::Stage,
        invalid::Invalid,
        members::Member,
        trouble::{TlsState, Trouble},
        validate::ValidatedCluster,
    },
};
use std::collections::BTreeSet;

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
    /// The pods, by their UIDs, that serve and do not follow.
    pub behind: &'a BTreeSet<String>,
    /// Somebody leads, and of each that serves it is known whether it follows.
    pub settled: bool,
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
    /// The first start is under way, and will let nobody in.
    pub lets_nobody_in: bool,
    /// Fields without effect because the kind that they need is not served; `None` when nobody looked.
    pub missing: Option<Vec<String>>,
}

pub(super) fn any_initialized(seen: &Observed<'_>) -> bool {
    seen.members.iter().any(|member| member.health.as_ref().is_some_and(|health| health.initialized))
}

/// How many members' votes make the majority, if raft was asked. Members that are to join do not vote yet, and what is known may
/// speak of some that have left.
pub(super) fn voting(seen: &Observed<'_>) -> Option<usize> {
    let wanted = usize::try_from(seen.cluster.spec.replicas).unwrap_or(1);
    seen.voters.map(|voters| voters.len().min(wanted))
}

pub(super) fn ready_count(seen: &Observed<'_>) -> usize {
    seen.members.iter().filter(|member| member.ready && !member.terminating).count()
}
