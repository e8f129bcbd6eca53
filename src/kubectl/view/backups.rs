//! Backups as the operation records know them.

use chrono::{DateTime, Utc};

use super::operation::{begun, phase_of};
use crate::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationKind, OperationPhase};
use crate::datapath::prune::{Candidate, OTHER_CLUSTER, Ruling};
use crate::kubectl::table::{Cell, Paint, Table, Tone, ago, bytes};
use crate::service::backup::frozen::CLUSTER_UID;
use crate::service::backup::request::is_verification;
use crate::service::backup::{protect, rules, status};

/// The records of finished backups, newest first. One that only read a backup again took none.
pub fn records(operations: Vec<OpenBaoOperation>) -> Vec<OpenBaoOperation> {
    let mut backups: Vec<_> = operations
        .into_iter()
        .filter(|operation| {
            operation.spec.operation == OperationKind::Backup
                && phase_of(operation) == OperationPhase::Succeeded
                && !is_verification(operation)
        })
        .collect();
    backups.sort_by_key(|backup| std::cmp::Reverse(taken(backup)));
    backups
}

/// What a backup is as of: when its snapshot was taken, which may be long after the operation began.
pub fn taken(backup: &OpenBaoOperation) -> Option<DateTime<Utc>> {
    status::taken_at(backup).or_else(|| begun(backup))
}

pub fn key(backup: &OpenBaoOperation) -> Option<&str> {
    backup.status.as_ref()?.artifacts.as_ref()?.key.as_deref()
}

/// The list, with the reason why each of them stays or goes when retention runs next, by the very rules that the mover
/// applies. What is in the store without a record here, records cannot tell.
pub fn list(
    cluster: &OpenBaoCluster,
    operations: &[OpenBaoOperation],
    restores: &[OpenBaoRestore],
    now: DateTime<Utc>,
    paint: Paint,
) -> String {
    let backups = records(operations.to_vec());
    let rulings = rulings(cluster, operations, restores, &backups, now);
    let mut table = Table::new(["TAKEN", "SIZE", "KEY", "KEPT"]).whole(&["KEY"]);
    for backup in &backups {
        let artifacts = backup.status.as_ref().and_then(|status| status.artifacts.clone()).unwrap_or_default();
        let kept = rulings.iter().find(|ruling| Some(&ruling.key) == artifacts.key.as_ref());
        table.row([
            taken(backup).map(|at| ago(at, now)).unwrap_or_default().into(),
            artifacts.size_bytes.map(bytes).unwrap_or_default().into(),
            artifacts.key.clone().unwrap_or_default().into(),
            kept.map_or_else(Cell::default, |ruling| {
                if ruling.keep {
                    Cell::toned(ruling.reason.clone(), Tone::Good)
                } else {
                    Cell::toned(format!("goes: {}", ruling.reason), Tone::Warn)
                }
            }),
        ]);
    }
    table.render(paint)
}

fn rulings(
    cluster: &OpenBaoCluster,
    operations: &[OpenBaoOperation],
    restores: &[OpenBaoRestore],
    backups: &[OpenBaoOperation],
    now: DateTime<Utc>,
) -> Vec<Ruling> {
    let protected = protect::protected(cluster, operations.iter(), restores.iter());
    let uncounted = protect::uncounted(operations.iter());
    let (ours, others): (Vec<_>, Vec<_>) = backups.iter().partition(|backup| is_of(cluster, backup));
    let candidates: Vec<Candidate> = ours
        .iter()
        .filter_map(|backup| {
            let key = key(backup)?.to_owned();
            Some(Candidate {
                taken_at: taken(backup)?,
                pinned: backup.is_pinned(),
                protected: protected.get(&key).cloned(),
                counts: !uncounted.contains(&key),
                key,
            })
        })
        .collect();
    let retention = cluster.spec.backup.as_ref().and_then(|backup| backup.retention.clone()).unwrap_or_default();
    let policy = serde_json::to_string(&retention).unwrap_or_default();
    // A policy that cannot be read is the operator's to refuse: here it only leaves the column empty.
    let mut rulings = rules::apply(&policy, &candidates, now).unwrap_or_default();
    let kept = |key: &str| Ruling { key: key.to_owned(), keep: true, reason: OTHER_CLUSTER.to_owned() };
    rulings.extend(others.into_iter().filter_map(key).map(kept));
    rulings
}

/// Whether a backup is of this very cluster, not of an earlier one of its name. What says nothing about it is.
fn is_of(cluster: &OpenBaoCluster, backup: &OpenBaoOperation) -> bool {
    let taken_from = backup.status.as_ref().and_then(|status| status.inputs.get(CLUSTER_UID));
    taken_from.is_none_or(|uid| cluster.metadata.uid.as_ref().is_none_or(|ours| ours == uid))
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;

    fn backup(name: &str, phase: &str, day: u8, extra: &str) -> OpenBaoOperation {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: {name}{extra}}}\nspec: {{cluster: fern, operation: Backup}}\n\
             status: {{phase: {phase}, startedAt: '2026-11-{day}T03:00:00Z', artifacts: {{key: {name}.snap, sizeBytes: 1024}}}}"
        ))
        .unwrap()
    }

    fn cluster(retention: &str) -> OpenBaoCluster {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: fern}}\nspec: {{version: 2.7.2, replicas: 1, storage: {{size: 1Gi}}, tls: {{enabled: true}}, \
             backup: {{target: {{provider: file, file: {{claimName: sand}}}}, retention: {retention}}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn only_finished_backups_are_listed_newest_first() {
        let all = vec![
            backup("first", "Succeeded", 18, ""),
            backup("broken", "Failed", 19, ""),
            backup("second", "Succeeded", 20, ""),
        ];
        assert_eq!(records(all).iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["second", "first"]);
    }

    #[test]
    fn each_backup_says_why_it_stays_or_goes() {
        let all = vec![
            backup("pin", "Succeeded", 17, ", annotations: {openbao.org/pinned: 'true'}"),
            backup("old", "Succeeded", 18, ""),
            backup("new", "Succeeded", 20, ""),
        ];
        let now = "2026-11-21T03:00:00Z".parse().unwrap();
        let text = list(&cluster("{keepLast: 1}"), &all, &[], now, Paint::Off);
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default();
        assert!(line("new.snap").contains("newest"), "{text}");
        assert!(line("old.snap").contains("goes"), "{text}");
        assert!(line("pin.snap").contains("pinned"), "{text}");
    }

    #[test]
    fn a_verification_is_no_backup_and_a_backup_is_as_old_as_its_snapshot() {
        let mut read = backup("again", "Succeeded", 20, "");
        read.spec.parameters = [("mode".to_owned(), "Verify".to_owned())].into();
        let mut late = backup("late", "Succeeded", 18, "");
        let step = "{name: Snapshot, output: {takenAt: '2026-11-19T09:00:00Z'}}";
        late.status.as_mut().unwrap().steps = vec![serde_saphyr::from_str(step).unwrap()];
        let other = backup("other", "Succeeded", 19, "");
        let records = records(vec![read, other, late]);
        assert_eq!(records.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["late", "other"]);
        assert_eq!(taken(&records[0]), Some("2026-11-19T09:00:00Z".parse().unwrap()));
    }

    #[test]
    fn a_pin_that_says_false_is_none() {
        let all = [
            backup("pin", "Succeeded", 17, ", annotations: {openbao.org/pinned: 'false'}"),
            backup("new", "Succeeded", 20, ""),
        ];
        let text = list(&cluster("{keepLast: 1}"), &all, &[], "2026-11-21T03:00:00Z".parse().unwrap(), Paint::Off);
        assert!(text.lines().any(|line| line.contains("pin.snap") && line.contains("goes")), "{text}");
    }

    #[test]
    fn the_backup_of_an_earlier_cluster_of_the_name_stays_and_is_not_counted() {
        let mut old = backup("old", "Succeeded", 20, "");
        old.status.as_mut().unwrap().inputs = [(CLUSTER_UID.to_owned(), "gone".to_owned())].into();
        let mut cluster = cluster("{keepLast: 1}");
        cluster.metadata.uid = Some("u1".into());
        let all = [old, backup("new", "Succeeded", 19, "")];
        let text = list(&cluster, &all, &[], "2026-11-21T03:00:00Z".parse().unwrap(), Paint::Off);
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default();
        assert!(line("old.snap").contains(OTHER_CLUSTER), "{text}");
        assert!(line("new.snap").contains("newest"), "{text}");
    }
}
