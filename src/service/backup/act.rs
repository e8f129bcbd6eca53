//! What a decision about backups does to the world. The status is not among it: the cluster's reconcile writes that, after
//! this, so that whatever a crash leaves between the two is found again.

use kube::{Api, ResourceExt, api::PostParams};

use super::decide::{BackupDecision, Skip};
use crate::adapter::{
    Adapters,
    kubernetes::{
        client::{RequestError, timed},
        events::{News, Severity},
    },
    metrics::metrics,
};
use crate::api::{OpenBaoCluster, OpenBaoOperation};
use crate::service::opslifecycle::{
    AuditEvent, Fields,
    audit::{flat, log_phase_transition},
};

/// Why an operation could not be created: the status must not be written then, or a tick would be lost.
#[derive(Debug, thiserror::Error)]
#[error("failed to create OpenBaoOperation {namespace}/{name}")]
pub struct ActError {
    namespace: String,
    name: String,
    #[source]
    source: RequestError,
}

/// Creates the operation that is due and tells of the run that is left out.
pub async fn act(ad: &Adapters, cluster: &OpenBaoCluster, decision: &BackupDecision) -> Result<(), ActError> {
    if let Some(skip) = &decision.skipped {
        tell(ad, cluster, skip).await;
    }
    let Some(operation) = &decision.create else { return Ok(()) };
    let (namespace, name) = (operation.namespace().unwrap_or_default(), operation.name_any());
    let api: Api<OpenBaoOperation> = Api::namespaced(ad.client.clone(), &namespace);
    match timed(api.create(&PostParams::default(), operation)).await {
        Ok(_) => Ok(()),
        // Made before a crash: the name says for which tick or request.
        Err(error) if error.is_already_exists() => Ok(()),
        Err(source) => Err(ActError { namespace, name, source }),
    }
}

async fn tell(ad: &Adapters, cluster: &OpenBaoCluster, skip: &Skip) {
    metrics().backup_skipped(skip.reason);
    let fields = Fields::from([
        ("namespace", cluster.namespace().unwrap_or_default()),
        ("cluster", cluster.name_any()),
        ("tick", skip.at.to_rfc3339()),
        ("reason", skip.reason.to_owned()),
        ("message", skip.message.clone()),
    ]);
    let Some(entry) = log_phase_transition(AuditEvent::BackupSkipped, "Due", "Skipped", &fields) else { return };
    let news = News {
        // Deliberate, and the backup before is still there: what is missing in the end, the age of the newest one shows.
        severity: Severity::Normal,
        reason: AuditEvent::BackupSkipped.as_str().to_owned(),
        action: "Backup".to_owned(),
        note: format!("the backup scheduled for {} was left out: {}", skip.at.format("%H:%M:%S UTC"), skip.message),
        annotations: flat(&entry),
    };
    ad.events.publish(cluster, news).await;
}
