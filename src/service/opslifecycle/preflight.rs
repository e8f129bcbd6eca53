//! What is settled about an operation before its manager plans it: who asked, what it follows, whether its gates hold.

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;

use super::{
    gates::{self, GateFacts},
    lineage::{self, Node},
    manager::Refusal,
    retry::RetryClass,
};
use crate::{
    adapter::{Adapters, kubernetes::time::from_kube},
    api::{
        cluster::OpenBaoCluster,
        conditions,
        operation::{OpenBaoOperation, OperationKind, OperationPhase, VerifiedActor},
    },
};

/// What is applied together may arrive in any order: a missing cluster is waited for this long.
const PATIENCE: TimeDelta = TimeDelta::seconds(60);

/// What is known about an operation that may start.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// Who could be shown to have created it.
    pub actor: Option<VerifiedActor>,
    /// The operation it follows.
    pub parent: Option<String>,
}

/// Judges lineage and gates by what the watches know: a gate is a judgement about a moment, the lock is what excludes.
pub fn check(
    ad: &Adapters,
    op: &OpenBaoOperation,
    cluster: &OpenBaoCluster,
    now: DateTime<Utc>,
) -> Result<Ready, Refusal> {
    let namespace = op.namespace().unwrap_or_default();
    let all = ad.caches.operations.state_filter(|other| other.namespace().as_deref() == Some(&namespace));
    let others: Vec<Node> =
        all.iter().filter(|other| other.uid() != op.uid()).map(|other| Node::from(&**other)).collect();
    let parent = lineage::judge(&Node::from(op), &others)?;
    if let Some(constraints) = &op.spec.constraints {
        let last = all
            .iter()
            .filter(|other| other.spec.cluster == op.spec.cluster && other.spec.operation == OperationKind::Backup)
            .filter_map(|other| other.status.as_ref())
            .filter(|status| status.phase == OperationPhase::Succeeded)
            .filter_map(|status| status.ended_at)
            .max();
        gates::judge(constraints, &gate_facts(op, cluster, last), now)?;
    }
    Ok(Ready { actor: verified_actor(op), parent })
}

fn gate_facts(op: &OpenBaoOperation, cluster: &OpenBaoCluster, last_backup: Option<DateTime<Utc>>) -> GateFacts {
    let status = cluster.status.clone().unwrap_or_default();
    let available = status.conditions.iter().find(|condition| condition.type_ == conditions::cluster::AVAILABLE);
    let ours = op.uid().unwrap_or_default();
    GateFacts {
        cluster: op.spec.cluster.clone(),
        available: available.is_some_and(|condition| condition.status == "True"),
        unavailable_because: available
            .map_or_else(|| "it has not said so".into(), |condition| condition.message.clone()),
        last_backup: last_backup.max(status.backup.and_then(|backup| backup.last_success)),
        foreign_lock: status.operation_lock.filter(|lock| lock.holder_uid != ours),
    }
}

/// A cluster that is not there yet is waited for; one that does not come is a mistake in the spec.
pub fn missing_cluster(op: &OpenBaoOperation, now: DateTime<Utc>) -> Refusal {
    let created = op.metadata.creation_timestamp.as_ref().map_or(now, from_kube);
    let message = format!("cluster {} does not exist in this namespace", op.spec.cluster);
    if now - created < PATIENCE {
        Refusal::wait(RetryClass::ProgressPoll, "ClusterMissing", message)
    } else {
        Refusal::failed("ClusterMissing", message)
    }
}

/// The manager did not answer.
pub fn no_answer() -> Refusal {
    Refusal::wait(RetryClass::Standard, "Planning", "the plan could not be made in time; trying again")
}

/// Who created the object, as far as its metadata show: field managers name programs, not people.
pub fn verified_actor(op: &OpenBaoOperation) -> Option<VerifiedActor> {
    let manager =
        op.managed_fields().iter().filter(|entry| entry.subresource.is_none()).find_map(|entry| entry.manager.clone());
    let owner = op
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| format!("{}/{}", owner.kind.to_lowercase(), owner.name));
    (manager.is_some() || owner.is_some()).then_some(VerifiedActor { manager, owner })
}

impl VerifiedActor {
    /// In a few words, for the audit trail.
    pub fn describe(&self) -> String {
        match (&self.owner, &self.manager) {
            (Some(owner), _) => owner.clone(),
            (None, Some(manager)) => format!("via {manager}"),
            (None, None) => String::new(),
        }
    }
}
