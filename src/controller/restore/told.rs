//! A restore's status as it is written, and what is told of a change of its phase.

use kube::{
    Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Error, phase, restores};
use crate::adapter::Adapters;
use crate::adapter::kubernetes::client::{RequestError, timed};
use crate::adapter::kubernetes::events::{News, Severity};
use crate::adapter::kubernetes::time::from_kube;
use crate::adapter::metrics::metrics;
use crate::api::{OpenBaoRestore, OpenBaoRestoreStatus, RestorePhase};
use crate::service::opslifecycle::audit::{self, AuditEvent, Fields};
use crate::service::restore::status;

/// The field manager of a restore's status.
const MANAGER: &str = "openbao-operator-restore";

/// Writes the status if it says anything new, and tells a change of phase three times: status, log line, event. What the API server
/// takes for no valid status, because of what somebody has written into a store, still gets its phase and message through.
pub(super) async fn write(ad: &Adapters, restore: &OpenBaoRestore, next: OpenBaoRestoreStatus) -> Result<(), Error> {
    if restore.status.as_ref() == Some(&next) {
        return Ok(());
    }
    let name = restore.name_any();
    let written = match put(ad, restore, &next).await {
        Err(error) if error.is_invalid() => {
            tracing::warn!(
                namespace = restore.namespace(),
                name = name.as_str(),
                error = crate::causes::chain(&error),
                "a restore's status is not valid; only the main part of it is written"
            );
            put(ad, restore, &status::bare(next.clone())).await
        }
        written => written,
    };
    match written {
        Ok(()) => {}
        Err(error) if error.is_not_found() => return Ok(()),
        Err(source) => {
            return Err(Error::Request { verb: "write the status of", kind: "OpenBaoRestore", name, source });
        }
    }
    tell(ad, restore, &next).await;
    Ok(())
}

async fn put(ad: &Adapters, restore: &OpenBaoRestore, next: &OpenBaoRestoreStatus) -> Result<(), RequestError> {
    let (api, name) = (restores(ad, restore), restore.name_any());
    let body = json!({
        "apiVersion": OpenBaoRestore::api_version(&()),
        "kind": OpenBaoRestore::kind(&()),
        "metadata": { "name": name, "uid": restore.uid() },
        "status": next,
    });
    timed(api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body))).await.map(drop)
}

async fn tell(ad: &Adapters, restore: &OpenBaoRestore, next: &OpenBaoRestoreStatus) {
    let event = match next.phase {
        RestorePhase::Completed => AuditEvent::RestoreCompleted,
        RestorePhase::Failed => AuditEvent::RestoreFailed,
        RestorePhase::Pending | RestorePhase::Validating | RestorePhase::Running | RestorePhase::Unknown => {
            AuditEvent::RestorePhaseTransition
        }
    };
    let fields = Fields::from([
        ("cluster", restore.spec.cluster.clone()),
        ("namespace", restore.namespace().unwrap_or_default()),
        ("restore", restore.name_any()),
        ("restore_uid", restore.uid().unwrap_or_default()),
        ("operation", next.operation.clone().unwrap_or_default()),
        ("message", next.message.clone()),
    ]);
    let (from, to) = (phase(restore).as_str(), next.phase.as_str());
    let Some(entry) = audit::log_phase_transition(event, from, to, &fields) else { return };
    count(restore, next);
    let troubled = event.is_warning() || next.phase == RestorePhase::Unknown;
    ad.events
        .publish(
            restore,
            News {
                severity: if troubled { Severity::Warning } else { Severity::Normal },
                reason: event.as_str().to_owned(),
                action: "Restore".to_owned(),
                note: format!("{to}: {}", next.message),
                annotations: audit::flat(&entry),
            },
        )
        .await;
}

/// Each phase is counted as it is entered.
fn count(restore: &OpenBaoRestore, next: &OpenBaoRestoreStatus) {
    match next.phase {
        RestorePhase::Completed => {
            let created = restore.metadata.creation_timestamp.as_ref().map(from_kube);
            let took = created.zip(next.completion_time).and_then(|(from, to)| (to - from).to_std().ok());
            metrics().restore_completed(took.unwrap_or_default());
        }
        RestorePhase::Failed => metrics().restore_not_completed(false),
        RestorePhase::Unknown => metrics().restore_not_completed(true),
        RestorePhase::Pending | RestorePhase::Validating | RestorePhase::Running => {}
    }
}
