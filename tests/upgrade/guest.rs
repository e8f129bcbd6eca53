//! A backup that runs under a parked upgrade's lock: the upgrade goes on when the backup has ended.

use std::time::Duration;

use openbao_operator::api::{OpenBaoOperation, OpenBaoOperationStatus, OperationKind, OperationPhase, StepState};
use serde_json::json;

use super::{LONG, back::operation, wish};
use crate::harness::{Cluster, Operator, eventually};
use crate::restore::setup::Bay;

/// Asks for an upgrade, and answers its name when it is parked.
async fn parked(bay: &Bay<'_>) -> String {
    wish(bay, json!({ "version": "2.7.2" })).await;
    eventually("the upgrade parks", LONG, async || {
        let all = bay.namespace.api::<OpenBaoOperation>().list(&kube::api::ListParams::default()).await;
        let parked = all.map_err(|error| error.to_string())?.items.into_iter().find(|op| {
            let steps = op.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
            op.spec.operation == OperationKind::Upgrade && steps.iter().any(|step| step.parked_at.is_some())
        });
        parked.and_then(|op| op.metadata.name).ok_or_else(|| "not yet".to_owned())
    })
    .await
}

/// Asks for a backup whose mover gets no pod before the quota `few` is gone, and waits for its Job.
async fn held_up(bay: &Bay<'_>, name: &str) {
    let quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: few}\nspec: {hard: {pods: \"1\"}}";
    bay.namespace.apply(quota).await;
    bay.ask_for_backup(name).await;
    eventually("the backup's Job is made", Duration::from_secs(60), async || {
        let status = status(bay, name).await?;
        let message = status.message.clone().unwrap_or_default();
        if runs(&status, "Snapshot") && message.contains(&format!("{name}-snapshot")) { Ok(()) } else { Err(message) }
    })
    .await;
}

/// Says something to an operation, and waits until its message has these words.
async fn say(bay: &Bay<'_>, name: &str, action: &str, words: &str) {
    let request = json!({"spec": {"requests": [{"nonce": "go", "action": action, "by": "ann"}]}}).to_string();
    bay.namespace.kubectl(&["patch", "openbaooperation", name, "--type=merge", "-p", &request]).await;
    eventually(words, Duration::from_secs(90), async || {
        let message = status(bay, name).await?.message.unwrap_or_default();
        if message.contains(words) { Ok(()) } else { Err(message) }
    })
    .await;
}

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
    let upgrade = parked(&bay).await;
    held_up(&bay, "nightly").await;
    say(&bay, &upgrade, "Resume", "waiting for backup nightly").await;
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

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_backup_that_runs_while_somebody_cancels_the_parked_upgrade_ends_well_before_the_lock_is_given_back() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-guest-back").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 1, "2.6.1", "upgrade: {soak: 1s, deferCutover: true}").await;
    let upgrade = parked(&bay).await;
    held_up(&bay, "nightly").await;
    say(&bay, &upgrade, "Cancel", "waiting for backup nightly").await;
    // Long enough for the backup to look at the lock more than once.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let waits = status(&bay, "nightly").await.unwrap();
    assert!(runs(&waits, "Snapshot"), "{:?} {:?}", waits.phase, waits.message);
    let back = status(&bay, &upgrade).await.unwrap();
    assert!(!back.phase.is_terminal(), "{:?} {:?}", back.phase, back.message);

    namespace.kubectl(&["delete", "resourcequota", "few"]).await;
    let stored = operation(&bay, "nightly").await.status.unwrap();
    assert_eq!(stored.phase, OperationPhase::Succeeded, "{:?}", stored.message);
    let over = operation(&bay, &upgrade).await.status.unwrap();
    assert_eq!(over.phase, OperationPhase::Cancelled, "{:?}", over.message);
    assert!(over.message.as_ref().is_some_and(|message| message.contains("cancelled by ann")), "{:?}", over.message);
    let released = over.lock.and_then(|lock| lock.released_at);
    assert!(released >= stored.ended_at, "released at {released:?}, the backup ended at {:?}", stored.ended_at);
}
