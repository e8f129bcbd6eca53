//! Backups as the operation records know them.

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::operation::{begun, phase_of};
use crate::api::{OpenBaoCluster, OpenBaoOperation, OperationKind, OperationPhase, PINNED_ANNOTATION};
use crate::kubectl::table::{Cell, Paint, Table, Tone, ago, bytes};

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

/// The list, with what protects each of them from retention as far as records can tell.
pub fn list(cluster: &OpenBaoCluster, backups: &[OpenBaoOperation], now: DateTime<Utc>, paint: Paint) -> String {
    let status = cluster.status.as_ref().and_then(|status| status.backup.as_ref());
    let verified = status.and_then(|backup| backup.last_verified_key.as_deref());
    let mut table = Table::new(["TAKEN", "SIZE", "KEPT", "OPERATION", "KEY"]);
    for (index, backup) in backups.iter().enumerate() {
        let artifacts = backup.status.as_ref().and_then(|status| status.artifacts.clone()).unwrap_or_default();
        let mut reasons = Vec::new();
        if index == 0 {
            reasons.push("newest");
        }
        if artifacts.key.is_some() && artifacts.key.as_deref() == verified {
            reasons.push("last read back");
        }
        if backup.annotations().contains_key(PINNED_ANNOTATION) {
            reasons.push("pinned");
        }
        table.row([
            begun(backup).map(|at| ago(at, now)).unwrap_or_default().into(),
            artifacts.size_bytes.map(bytes).unwrap_or_default().into(),
            Cell::toned(reasons.join(", "), Tone::Good),
            backup.name_any().into(),
            artifacts.key.unwrap_or_default().into(),
        ]);
    }
    table.render(paint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_backups_are_listed_and_the_protected_ones_say_why() {
        let read = |name: &str, phase: &str, day: u8, extra: &str| -> OpenBaoOperation {
            serde_saphyr::from_str(&format!(
                "metadata: {{name: {name}{extra}}}\nspec: {{cluster: fern, operation: Backup}}\n\
                 status: {{phase: {phase}, startedAt: '2026-11-{day}T03:00:00Z', artifacts: {{key: {name}.snap, sizeBytes: 1024}}}}"
            ))
            .unwrap()
        };
        let all = vec![
            read("first", "Succeeded", 18, ", annotations: {openbao.org/pinned: 'true'}"),
            read("broken", "Failed", 19, ""),
            read("second", "Succeeded", 20, ""),
        ];
        let backups = records(all);
        assert_eq!(backups.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["second", "first"]);
        let cluster: OpenBaoCluster = serde_saphyr::from_str(
            "metadata: {name: fern}\nspec: {version: 2.7.2, replicas: 1, storage: {size: 1Gi}, tls: {enabled: true}}\n\
             status: {backup: {lastVerifiedKey: first.snap}}",
        )
        .unwrap();
        let text = list(&cluster, &backups, "2026-11-21T03:00:00Z".parse().unwrap(), Paint::Off);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("newest") && lines[1].contains("second.snap"), "{text}");
        assert!(lines[2].contains("last read back, pinned"), "{text}");
    }
}
