//! What is settled about an operation before its manager plans it: who asked, what it follows, whether its gates hold.

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;

use super::{
    declared,
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
        let last = newest_backup(all.iter().map(|other| &**other), cluster);
        gates::judge(constraints, &gate_facts(op, cluster, last), now)?;
    }
    Ok(Ready { parent })
}

/// Whether it takes a backup, which is the mode without a name, and does not only read one again.
pub(super) fn takes_backup(op: &OpenBaoOperation) -> bool {
    op.spec.operation == OperationKind::Backup && !op.spec.parameters.contains_key("mode")
}

/// When the newest backup of this very cluster was taken, by its record: what was written while it was proven and old ones were
/// removed is not in it. One that was only read again is no newer for it, and what an earlier cluster of the name left behind is no
/// backup of this one.
fn newest_backup<'a>(
    records: impl Iterator<Item = &'a OpenBaoOperation>,
    cluster: &OpenBaoCluster,
) -> Option<DateTime<Utc>> {
    let uid = cluster.uid()?;
    records
        .filter(|record| takes_backup(record) && record.phase() == OperationPhase::Succeeded)
        .filter(|record| record.status.as_ref().is_some_and(|status| status.cluster_uid.as_ref() == Some(&uid)))
        .filter_map(|record| lineage::moment(record, "takenAt").or(record.status.as_ref()?.ended_at))
        .max()
}

fn gate_facts(op: &OpenBaoOperation, cluster: &OpenBaoCluster, last_backup: Option<DateTime<Utc>>) -> GateFacts {
    let status = cluster.status.clone().unwrap_or_default();
    let backup = status.backup.unwrap_or_default();
    let available = status.conditions.iter().find(|condition| condition.type_ == conditions::cluster::AVAILABLE);
    let ours = op.uid().unwrap_or_default();
    GateFacts {
        cluster: op.spec.cluster.clone(),
        available: available.is_some_and(|condition| condition.status == "True"),
        unavailable_because: available
            .map_or_else(|| "it has not said so".into(), |condition| condition.message.clone()),
        last_backup: last_backup.max(backup.last_success),
        last_restore_test: backup.restore_test.and_then(|test| test.last_success),
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
    let applied = owner.is_none() && declared::is_applied(op);
    (manager.is_some() || owner.is_some()).then_some(VerifiedActor { manager, owner, applied })
}

/// Who asked for it: as told, or else as far as its metadata show.
pub fn actor_of(op: &OpenBaoOperation) -> String {
    match &op.spec.actor {
        Some(actor) => actor.identity.clone(),
        None => verified_actor(op).map(|actor| actor.describe()).unwrap_or_default(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::remembered::testing::whole_and_remembered,
        api::{
            cluster::{
                OpenBaoClusterSpec,
                status::{BackupStatus, OpenBaoClusterStatus, RestoreTestStatus},
            },
            operation::{OpenBaoOperationSpec, OpenBaoOperationStatus, StepStatus},
        },
    };

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + hour * 3600, 0).unwrap()
    }

    fn backup(cluster_uid: &str, hour: i64) -> OpenBaoOperation {
        let spec = OpenBaoOperationSpec {
            cluster: "prod".into(),
            operation: OperationKind::Backup,
            ..OpenBaoOperationSpec::default()
        };
        let mut record = OpenBaoOperation::new(&format!("b{hour}"), spec);
        record.status = Some(OpenBaoOperationStatus {
            phase: OperationPhase::Succeeded,
            cluster_uid: Some(cluster_uid.into()),
            ended_at: Some(at(hour)),
            ..OpenBaoOperationStatus::default()
        });
        record
    }

    #[test]
    fn a_backup_that_was_only_read_again_or_was_another_clusters_is_not_fresh() {
        let mut cluster = OpenBaoCluster::new("prod", OpenBaoClusterSpec::default());
        cluster.metadata.uid = Some("now".into());
        let mut read_again = backup("now", 239);
        read_again.spec.parameters.insert("mode".into(), "Verify".into());
        let earlier = backup("the-one-before", 238);
        let mut failed = backup("now", 237);
        failed.status.as_mut().unwrap().phase = OperationPhase::Failed;
        let mut unknown = backup("now", 236);
        unknown.status.as_mut().unwrap().cluster_uid = None;
        let mut records = vec![read_again, earlier, failed, unknown];
        assert_eq!(newest_backup(records.iter(), &cluster), None);
        records.extend([backup("now", 0), backup("now", -5)]);
        assert_eq!(newest_backup(records.iter(), &cluster), Some(at(0)), "ten days old, whatever came after it");
        let [whole, remembered] = whole_and_remembered(&records);
        assert_eq!(newest_backup(whole.iter(), &cluster), Some(at(0)));
        assert_eq!(newest_backup(remembered.iter(), &cluster), Some(at(0)), "also by what is remembered of records");
        let nodes = [whole, remembered].map(|records| records.iter().map(Node::from).collect::<Vec<_>>());
        assert_eq!(nodes[0], nodes[1], "their lineage too");
    }

    #[test]
    fn a_gate_for_restore_tests_goes_by_the_last_one_that_passed() {
        let mut cluster = OpenBaoCluster::new("prod", OpenBaoClusterSpec::default());
        let last = |cluster: &OpenBaoCluster| gate_facts(&backup("now", 0), cluster, None).last_restore_test;
        assert_eq!(last(&cluster), None);
        let test =
            RestoreTestStatus { last_success: Some(at(3)), last_failure: Some(at(4)), ..RestoreTestStatus::default() };
        let known = BackupStatus { restore_test: Some(test), ..BackupStatus::default() };
        cluster.status = Some(OpenBaoClusterStatus { backup: Some(known), ..OpenBaoClusterStatus::default() });
        assert_eq!(last(&cluster), Some(at(3)));
    }

    #[test]
    fn a_backup_is_as_old_as_what_is_in_it_however_long_it_was_proven_and_old_ones_were_removed() {
        let mut cluster = OpenBaoCluster::new("prod", OpenBaoClusterSpec::default());
        cluster.metadata.uid = Some("now".into());
        let mut slow = backup("now", 3);
        let output = [("takenAt".to_owned(), at(2).to_rfc3339())].into();
        slow.status.as_mut().unwrap().steps =
            vec![StepStatus { name: "Snapshot".into(), output, ..StepStatus::default() }];
        assert_eq!(newest_backup([slow].iter(), &cluster), Some(at(2)));
    }

    #[test]
    fn one_backup_that_is_dated_ahead_does_not_hide_those_that_come_after_it() {
        let mut cluster = OpenBaoCluster::new("prod", OpenBaoClusterSpec::default());
        cluster.metadata.uid = Some("now".into());
        let taken = |hour: i64, told: i64| {
            let mut record = backup("now", hour);
            let output = [("takenAt".to_owned(), at(told).to_rfc3339())].into();
            let completed_at = Some(at(hour));
            record.status.as_mut().unwrap().steps =
                vec![StepStatus { name: "Snapshot".into(), output, completed_at, ..StepStatus::default() }];
            record
        };
        let (ahead, after) = (taken(1, 30 * 24), taken(9, 9));
        assert_eq!(newest_backup([&ahead].into_iter(), &cluster), Some(at(1)), "by our own clock");
        assert_eq!(newest_backup([&ahead, &after].into_iter(), &cluster), Some(at(9)));
    }
}
