//! Backups as the operation records know them.

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::operation::{begun, phase_of};
use crate::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationKind, OperationPhase, PINNED_ANNOTATION};
use crate::datapath::prune::{Candidate, Ruling};
use crate::kubectl::table::{Cell, Paint, Table, Tone, ago, bytes};
use crate::service::backup::{protect, rules};

/// The records of finished backups, newest first.
pub fn records(operations: Vec<OpenBaoOperation>) -> Vec<OpenBaoOperation> {
    let mut backups: Vec<_> = operations
        .into_iter()
        .filter(|operation| {
            operation.spec.operation == OperationKind::Backup && phase_of(operation) == OperationPhase::Succeeded
        })
        .collect();
    backups.sort_by_key(|backup| std::cmp::Reverse(begun(backup)));
    backups
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
            begun(backup).map(|at| ago(at, now)).unwrap_or_default().into(),
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
    let candidates: Vec<Candidate> = backups
        .iter()
        .filter_map(|backup| {
            let key = key(backup)?.to_owned();
            Some(Candidate {
                taken_at: begun(backup)?,
                pinned: backup.annotations().contains_key(PINNED_ANNOTATION),
                protected: protected.get(&key).cloned(),
                counts: !uncounted.contains(&key),
                key,
            })
        })
        .collect();
    let retention = cluster.spec.backup.as_ref().and_then(|backup| backup.retention.clone()).unwrap_or_default();
    let policy = serde_json::to_string(&retention).unwrap_or_default();
    // A policy that cannot be read is the operator's to refuse: here it only leaves the column empty.
    rules::apply(&policy, &candidates, now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
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
}
