//! Old operation records go. Which ones is decided by the function that also decides about backups.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};

use super::declared;
use super::lineage;
use super::retention::{Item, Policy, Verdict, judge};
use crate::{
    adapter::{Adapters, kubernetes::client::timed, kubernetes::time::from_kube},
    api::operation::{OpenBaoOperation, OperationKind, OperationPhase},
};

/// No more than this many records are removed at a time; the next operation that ends goes on.
const MOST_AT_ONCE: usize = 20;

/// A verdict on each record of one cluster. `upgrade` is the record that the cluster's `status.upgrade.operation` names.
pub fn decide(records: &[&OpenBaoOperation], upgrade: Option<&str>, now: DateTime<Utc>) -> Vec<Verdict> {
    type Ended = (Option<DateTime<Utc>>, String);
    // Taking a backup and reading one again are the same kind, and the newest of each counts.
    let mut newest: BTreeMap<(OperationKind, Option<&String>), Ended> = BTreeMap::new();
    for record in records {
        let Some(status) = record.status.as_ref().filter(|status| status.phase == OperationPhase::Succeeded) else {
            continue;
        };
        let this = (status.ended_at, record.name_any());
        let best =
            newest.entry((record.spec.operation, record.spec.parameters.get("mode"))).or_insert_with(|| this.clone());
        if this > *best {
            *best = this;
        }
    }
    // A rollback reads the upgrade's journal, and in the record of its backup where that was stored.
    let revertible = lineage::revertible(records.iter().copied());
    let way_back: BTreeSet<String> = revertible
        .into_iter()
        .flat_map(|upgrade| [Some(upgrade.name_any()), lineage::output(upgrade, lineage::BACKUP).map(str::to_owned)])
        .flatten()
        .collect();
    // A later one that failed before it wiped anything says nothing of the servers.
    let unfinished = lineage::unfinished_rollback(records.iter().copied()).map(ResourceExt::name_any);
    // A record that was turned back, or may be, is what the later one refers to.
    let turned_back: BTreeSet<&str> =
        records.iter().filter_map(|record| record.spec.lineage.as_ref()?.rollback_of.as_deref()).collect();
    // With a record its children go, and with a child its pin.
    let with_live_child = owners_of(records, |child| !child.has_ended());
    let with_pinned_child = owners_of(records, OpenBaoOperation::is_pinned);
    let items: Vec<Item> = records
        .iter()
        .map(|record| {
            let name = record.name_any();
            let mut protected = vec![];
            if !record.has_ended() || !record.finalizers().is_empty() {
                protected.push("not over".to_owned());
            }
            if newest.values().any(|(_, newest)| *newest == name) {
                protected.push(format!("newest successful {}", record.spec.operation.as_str()));
            }
            if record.is_pinned() {
                protected.push("pinned".to_owned());
            }
            // Removed, it would come back and run once more.
            if declared::is_declared(record) {
                protected.push("applied from a manifest".to_owned());
            }
            if way_back.contains(&name) {
                protected.push("an upgrade can be turned back by it".to_owned());
            }
            if unfinished.as_ref() == Some(&name) {
                protected.push("it wiped the servers, and no rollback has ended well since".to_owned());
            }
            if upgrade == Some(name.as_str()) {
                protected.push("named by the cluster's status.upgrade".to_owned());
            }
            if turned_back.contains(name.as_str()) {
                protected.push("named by rollbackOf".to_owned());
            }
            let uid = record.metadata.uid.as_deref().unwrap_or_default();
            if with_live_child.contains(uid) {
                protected.push("a child has not ended".to_owned());
            }
            if with_pinned_child.contains(uid) {
                protected.push("a child is pinned".to_owned());
            }
            let created = record.metadata.creation_timestamp.as_ref().map_or(now, from_kube);
            let ended_at = record.status.as_ref().and_then(|status| status.ended_at);
            Item { id: name, at: ended_at.unwrap_or(created), protected, counts: true }
        })
        .collect();
    judge(&items, &Policy::RECORDS, now)
}

/// The UIDs of those that own such a record. Gathered once: records that were applied from manifests may be many.
fn owners_of<'a>(records: &[&'a OpenBaoOperation], such: impl Fn(&OpenBaoOperation) -> bool) -> BTreeSet<&'a str> {
    let children = records.iter().copied().filter(|record| such(record));
    children.flat_map(ResourceExt::owner_references).map(|owner| owner.uid.as_str()).collect()
}

/// Removes what need not be kept of the records of the cluster that `ended` is about. News, not work: what fails is
/// logged and left for the next time.
pub async fn records(ad: &Adapters, ended: &OpenBaoOperation, now: DateTime<Utc>) {
    let namespace = ended.namespace().unwrap_or_default();
    let known = ad.caches.operations_of(&namespace, &ended.spec.cluster);
    let known: Vec<&OpenBaoOperation> = known.iter().map(|record| &**record).collect();
    let api: Api<OpenBaoOperation> = Api::namespaced(ad.client.clone(), &namespace);
    let cluster = ad.caches.cluster(&namespace, &ended.spec.cluster);
    let upgrade = cluster.as_ref().and_then(|cluster| cluster.status.as_ref()?.upgrade.as_ref()?.operation.as_deref());
    for verdict in decide(&known, upgrade, now).into_iter().filter(|verdict| !verdict.keep).take(MOST_AT_ONCE) {
        let Some(record) = known.iter().find(|record| record.name_any() == verdict.id) else { continue };
        let only_this = DeleteParams {
            preconditions: Some(Preconditions { uid: record.uid(), resource_version: record.resource_version() }),
            ..DeleteParams::default()
        };
        match timed(api.delete(&verdict.id, &only_this)).await {
            Ok(_) => tracing::info!(
                record = %verdict.id,
                cluster = %ended.spec.cluster,
                reason = %verdict.reasons.join(", "),
                "removed an operation record"
            ),
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => tracing::warn!(record = %verdict.id, error = %error, "failed to remove an operation record"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::remembered::testing::whole_and_remembered;
    use crate::api::operation::PINNED_ANNOTATION;
    use crate::api::operation::{Lineage, OpenBaoOperationSpec, OpenBaoOperationStatus, StepStatus};

    fn record(name: &str, minutes_ago: i64, phase: OperationPhase) -> OpenBaoOperation {
        let spec =
            OpenBaoOperationSpec { cluster: "prod".into(), operation: OperationKind::Backup, ..Default::default() };
        let mut record = OpenBaoOperation::new(name, spec);
        record.metadata.uid = Some(format!("uid-{name}"));
        record.status = Some(OpenBaoOperationStatus {
            phase,
            ended_at: Some(now() - chrono::TimeDelta::minutes(minutes_ago)),
            ..Default::default()
        });
        record
    }

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    /// The names of those that stay; with reasons that are the same by whole records and by what is remembered of them.
    fn kept(records: &[OpenBaoOperation]) -> Vec<String> {
        let by = |records: &[OpenBaoOperation]| decide(&records.iter().collect::<Vec<_>>(), Some("r53"), now());
        let [whole, remembered] = whole_and_remembered(records).map(|records| by(&records));
        assert_eq!(whole, remembered);
        by(records).into_iter().filter(|verdict| verdict.keep).map(|verdict| verdict.id).collect()
    }

    #[test]
    fn fifty_records_stay_and_what_must_never_go() {
        let mut records: Vec<_> = (1..=60).map(|n| record(&format!("r{n:02}"), n, OperationPhase::Failed)).collect();
        records[55].status.as_mut().unwrap().phase = OperationPhase::Succeeded;
        records[56].status.as_mut().unwrap().phase = OperationPhase::Running;
        records[57].metadata.annotations = Some([(PINNED_ANNOTATION.to_owned(), "yes".to_owned())].into());
        records[0].spec.lineage = Some(Lineage { rollback_of: Some("r59".into()), ..Lineage::default() });
        let kept = kept(&records);
        for name in ["r01", "r50", "r53", "r56", "r57", "r58", "r59"] {
            assert!(kept.contains(&name.to_owned()), "{name}");
        }
        for name in ["r51", "r55"] {
            assert!(!kept.contains(&name.to_owned()), "{name}");
        }
    }

    #[test]
    fn what_a_gitops_tool_applied_is_not_removed_under_it() {
        let mut records: Vec<_> = (1..=60).map(|n| record(&format!("r{n:02}"), n, OperationPhase::Failed)).collect();
        // Of three that git holds, the newest success protects one: the other two would come back and run again.
        for (index, phase) in
            [(54, OperationPhase::Succeeded), (55, OperationPhase::Succeeded), (56, OperationPhase::Failed)]
        {
            let record = &mut records[index];
            record.spec.operation = OperationKind::Workflow;
            record.status.as_mut().unwrap().phase = phase;
            let name = "kustomize.toolkit.fluxcd.io/name".to_owned();
            record.metadata.labels = Some([(name, "apps".to_owned())].into());
        }
        let kept = kept(&records);
        for name in ["r55", "r56", "r57"] {
            assert!(kept.contains(&name.to_owned()), "{name}: {kept:?}");
        }
        assert!(!kept.contains(&"r58".to_owned()), "{kept:?}");
    }

    #[test]
    fn many_records_are_decided_in_time_that_grows_with_their_number_alone() {
        // Each looked at for each other one would be four hundred million looks.
        let count = 20_000;
        let mut records: Vec<_> = (1..=count).map(|n| record(&format!("r{n}"), n, OperationPhase::Failed)).collect();
        let owner = kube::Resource::controller_owner_ref(&records[19_998], &()).unwrap();
        for child in &mut records[..1000] {
            child.metadata.owner_references = Some(vec![owner.clone()]);
        }
        records[0].status.as_mut().unwrap().phase = OperationPhase::Running;
        records[1].spec.lineage = Some(Lineage { rollback_of: Some("r19998".into()), ..Lineage::default() });
        let start = std::time::Instant::now();
        let kept = kept(&records);
        assert!(start.elapsed() < std::time::Duration::from_secs(15), "{:?}", start.elapsed());
        for name in ["r1", "r50", "r19998", "r19999"] {
            assert!(kept.contains(&name.to_owned()), "{name}");
        }
        assert!(!kept.contains(&"r19997".to_owned()));
    }

    #[test]
    fn a_parent_stays_as_long_as_a_child_of_it_runs() {
        let mut records: Vec<_> = (1..=60).map(|n| record(&format!("r{n:02}"), n, OperationPhase::Failed)).collect();
        let mut child = record("child", 0, OperationPhase::Running);
        child.metadata.owner_references = Some(vec![kube::Resource::controller_owner_ref(&records[58], &()).unwrap()]);
        records.push(child);
        assert!(kept(&records).contains(&"r59".to_owned()));
    }

    #[test]
    fn a_parent_stays_as_long_as_a_child_of_it_is_pinned() {
        let mut records: Vec<_> = (1..=60).map(|n| record(&format!("r{n:02}"), n, OperationPhase::Failed)).collect();
        let mut child = record("child", 90, OperationPhase::Failed);
        child.metadata.owner_references = Some(vec![kube::Resource::controller_owner_ref(&records[58], &()).unwrap()]);
        records.push(child.clone());
        assert!(!kept(&records).contains(&"r59".to_owned()));
        child.metadata.annotations = Some([(crate::api::PINNED_ANNOTATION.to_owned(), "true".to_owned())].into());
        records[60] = child;
        assert!(kept(&records).contains(&"r59".to_owned()));
    }

    #[test]
    fn what_a_rollback_would_read_stays_however_many_records_are_newer() {
        let mut records: Vec<_> = (1..=60).map(|n| record(&format!("r{n:02}"), n, OperationPhase::Failed)).collect();
        let upgrade = &mut records[57];
        upgrade.spec.operation = OperationKind::Upgrade;
        let status = upgrade.status.as_mut().unwrap();
        status.point_of_no_return_at = Some(now());
        let output = [(lineage::BACKUP.to_owned(), "r59".to_owned())].into();
        status.steps = vec![StepStatus { name: "PreUpgradeBackup".into(), output, ..StepStatus::default() }];
        let kept = kept(&records);
        assert!(kept.contains(&"r58".to_owned()) && kept.contains(&"r59".to_owned()), "{kept:?}");
        assert!(!kept.contains(&"r57".to_owned()));
    }

    #[test]
    fn a_rollback_that_wiped_the_servers_stays_until_another_one_has_ended_well() {
        let mut records: Vec<_> = (1..=60).map(|n| record(&format!("r{n:02}"), n, OperationPhase::Failed)).collect();
        let wiped = |record: &mut OpenBaoOperation, minutes_ago: i64| {
            record.spec.operation = OperationKind::Rollback;
            let status = record.status.as_mut().unwrap();
            status.point_of_no_return_at = Some(now() - chrono::TimeDelta::minutes(minutes_ago));
        };
        wiped(&mut records[58], 59);
        // A second one that failed before its first wipe is the one that the cluster's status names.
        records[0].spec.operation = OperationKind::Rollback;
        assert!(kept(&records).contains(&"r59".to_owned()));
        wiped(&mut records[1], 3);
        records[1].status.as_mut().unwrap().phase = OperationPhase::Succeeded;
        assert!(!kept(&records).contains(&"r59".to_owned()));
    }
}
