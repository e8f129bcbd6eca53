//! A backup that was read back, or restored as a test, says so on its own record.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::request::is_verification;
use super::steps::Work;
use crate::adapter::kubernetes::client::timed;
use crate::api::{OpenBaoOperation, OperationKind, OperationPhase};

/// Annotation on the operation that made a backup: when it was last read back and found good.
pub const VERIFIED_AT: &str = "openbao.org/backup-verified-at";
/// Annotation on the operation that made a backup: when it was last restored as a test, and came back.
pub const RESTORE_TESTED_AT: &str = "openbao.org/restore-tested-at";

/// Stamps the record of the backup that a verification has read.
pub(super) async fn verified(work: &Work<'_>, key: &str) {
    stamp(work, key, VERIFIED_AT).await;
}

/// Stamps the record of the backup that a restore test has brought back.
pub(super) async fn restore_tested(work: &Work<'_>, key: &str) {
    stamp(work, key, RESTORE_TESTED_AT).await;
}

/// Writes the time under `annotation` on the record of the backup with this key, if there still is one. The record of the operation
/// that is at work says the same, so a stamp that fails is only logged.
async fn stamp(work: &Work<'_>, key: &str, annotation: &str) {
    let operations = work.call.ad.caches.operations_of(&work.operation.namespace, &work.operation.cluster);
    let Some(made) = operations.iter().find(|operation| has_made(operation, key)) else { return };
    let api: Api<OpenBaoOperation> = Api::namespaced(work.call.ad.client.clone(), &work.operation.namespace);
    let patch = json!({"metadata": {"uid": made.uid(), "annotations": {annotation: work.call.now.to_rfc3339()}}});
    if let Err(error) =
        timed(api.patch_metadata(&made.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await
    {
        tracing::warn!(operation = %made.name_any(), annotation, error = %error, "failed to stamp a backup's record");
    }
}

/// Whether this is the record of the backup with this key. What only read it has the key on its record too.
fn has_made(operation: &OpenBaoOperation, key: &str) -> bool {
    let status = operation.status.as_ref();
    operation.spec.operation == OperationKind::Backup
        && !is_verification(operation)
        && status.is_some_and(|status| status.phase == OperationPhase::Succeeded)
        && status.and_then(|status| status.artifacts.as_ref()?.key.as_deref()) == Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_record_of_what_made_a_backup_is_stamped_and_none_that_read_it() {
        let record = |kind: &str, parameters: serde_json::Value, phase: &str| -> OpenBaoOperation {
            serde_json::from_value(json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "nightly"},
                "spec": {"cluster": "kelp", "operation": kind, "parameters": parameters},
                "status": {"phase": phase, "artifacts": {"key": "reef/kelp/a.snap"}},
            }))
            .unwrap()
        };
        let key = "reef/kelp/a.snap";
        let made = record("Backup", json!({}), "Succeeded");
        assert!(has_made(&made, key) && !has_made(&made, "reef/kelp/b.snap"));
        for other in [
            record("Backup", json!({}), "Failed"),
            record("Backup", json!({"mode": "Verify"}), "Succeeded"),
            record("RestoreTest", json!({}), "Succeeded"),
        ] {
            assert!(!has_made(&other, key), "{other:?}");
        }
    }
}
