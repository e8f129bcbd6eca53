//! A backup that runs under a parked upgrade's lock: the upgrade goes on when the backup has ended.

use std::time::Duration;

use openbao_operator::api::{OpenBaoOperation, OpenBaoOperationStatus, OperationKind, OperationPhase, StepState};
use serde_json::json;

use super::{LONG, back::operation, wish};
use crate::harness::{Cluster, Operator, eventually};
use crate::restore::setup::Bay;

/// Whether the step of this name is under way.
fn runs(status: &OpenBaoOperationStatus, name: &str) -> bool {
    status.steps.iter().any(|step| step.name == name && step.state == StepState::Running)
}

async fn status(bay: &Bay<'_>, name: &str) -> Result<OpenBaoOperationStatus, String> {
    let operation = bay.namespace.api::<OpenBaoOperation>().get(name).await.map_err(|error| error.to_string())?;
    Ok(operation.status.unwrap_or_default())
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_backup_that_runs_while_somebody_resumes_the_upgrade_ends_well_before_leadership_moves() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-guest").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 1, "2.6.1", "upgrade: {soak: 1s, deferCutover: true}").await;
    wish(&bay, json!({ "version": "2.7.2" })).await;
    let upgrade = eventually("the upgrade parks", LONG, async || {
        let all = bay.namespace.api::<OpenBaoOperation>().list(&kube::api::ListParams::default()).await;
        let parked = all.map_err(|error| error.to_string())?.items.into_iter().find(|op| {
            let steps = op.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
            op.spec.operation == OperationKind::Upgrade && steps.iter().any(|step| step.parked_at.is_some())
        });
        parked.and_then(|op| op.metadata.name).ok_or_else(|| "not yet".to_owned())
    })
    .await;

    // The mover gets no pod for now, so there is time.
    namespace.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: few}\nspec: {hard: {pods: \"1\"}}").await;
    bay.ask_for_backup("nightly").await;
    eventually("the backup's Job is made", Duration::from_secs(60), async || {
        let status = status(&bay, "nightly").await?;
        let message = status.message.clone().unwrap_or_default();
        if runs(&status, "Snapshot") && message.contains("nightly-snapshot") { Ok(()) } else { Err(message) }
    })
    .await;
    let resume = json!({"spec": {"requests": [{"nonce": "go", "action": "Resume", "by": "ann"}]}}).to_string();
    namespace.kubectl(&["patch", "openbaooperation", &upgrade, "--type=merge", "-p", &resume]).await;
    eventually("the upgrade waits for it", Duration::from_secs(60), async || {
        let message = status(&bay, &upgrade).await?.message.unwrap_or_default();
        if message.contains("waiting for backup nightly") { Ok(()) } else { Err(message) }
    })
    .await;
    // Long enough for the backup to look at the lock more than once.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let waits = status(&bay, "nightly").await.unwrap();
    assert!(runs(&waits, "Snapshot"), "{:?} {:?}", waits.phase, waits.message);
    assert!(runs(&status(&bay, &upgrade).await.unwrap(), "Park"), "leadership does not move under it");

    namespace.kubectl(&["delete", "resourcequota", "few"]).await;
    let stored = operation(&bay, "nightly").await.status.unwrap();
    assert_eq!(stored.phase, OperationPhase::Succeeded, "{:?}", stored.message);
    let done = operation(&bay, &upgrade).await.status.unwrap();
    assert_eq!(done.phase, OperationPhase::Succeeded, "{:?}", done.message);
    let moved = done.steps.iter().find(|step| step.name == "StepDown").and_then(|step| step.started_at);
    assert!(moved > stored.ended_at, "leadership moved at {moved:?}, the backup ended at {:?}", stored.ended_at);
}
