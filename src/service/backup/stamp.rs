//! A backup that was read back says so on its own record.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::steps::Work;
use crate::adapter::kubernetes::client::timed;
use crate::api::{OpenBaoOperation, OperationPhase};

/// Annotation on the operation that made a backup: when it was last read back and found good.
pub const VERIFIED_AT: &str = "openbao.org/backup-verified-at";

/// Stamps the record of the backup with this key, if there still is one. The verification's own record says the same, so a
/// stamp that fails is only logged.
pub(super) async fn verified(work: &Work<'_>, key: &str) {
    let operations = work.call.ad.caches.operations_of(&work.operation.namespace, &work.operation.cluster);
    let made = operations.iter().find(|operation| {
        let status = operation.status.as_ref();
        operation.name_any() != work.operation.name
            && status.is_some_and(|status| status.phase == OperationPhase::Succeeded)
            && !super::request::is_verification(operation)
            && status.and_then(|status| status.artifacts.as_ref()?.key.as_deref()) == Some(key)
    });
    let Some(made) = made else { return };
    let api: Api<OpenBaoOperation> = Api::namespaced(work.call.ad.client.clone(), &work.operation.namespace);
    let patch = json!({"metadata": {"uid": made.uid(), "annotations": {VERIFIED_AT: work.call.now.to_rfc3339()}}});
    if let Err(error) =
        timed(api.patch_metadata(&made.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await
    {
        tracing::warn!(operation = %made.name_any(), error = %error, "failed to stamp a verified backup");
    }
}
