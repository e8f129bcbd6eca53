//! What becomes of a cluster while its upgrade is parked or waits for the lock: leadership moves only when that is good, and a restore
//! goes first.

use std::time::Duration;

use openbao_operator::api::{
    OpenBaoOperation, OpenBaoOperationStatus, OperationKind, OperationPhase, RestorePhase, StepState,
};
use serde_json::json;

use super::{LONG, back::operation, wish};
use crate::harness::{Cluster, Operator, eventually};
use crate::restore::setup::{Bay, end};

const SOON: Duration = Duration::from_secs(90);

/// The upgrade on record, once `is_there` says so of it.
async fn upgrade(bay: &Bay<'_>, what: &str, is_there: impl Fn(&OpenBaoOperationStatus) -> bool) -> String {
    eventually(what, LONG, async || {
        let all = bay.namespace.api::<OpenBaoOperation>().list(&kube::api::ListParams::default()).await;
        let mut all = all.map_err(|error| error.to_string())?.items.into_iter();
        let upgrade = all.find(|op| op.spec.operation == OperationKind::Upgrade).ok_or("none")?;
        let status = upgrade.status.unwrap_or_default();
        if is_there(&status) {
            upgrade.metadata.name.ok_or_else(|| "it has no name".to_owned())
        } else {
            Err(format!("{:?} {:?}", status.phase, status.message))
        }
    })
    .await
}

/// Waits until the operation that has not moved leadership says this.
async fn says(bay: &Bay<'_>, name: &str, words: &str) {
    eventually(&format!("{name} says \"{words}\""), SOON, async || {
        let found = bay.namespace.api::<OpenBaoOperation>().get(name).await.map_err(|error| error.to_string())?;
        let status = found.status.unwrap_or_default();
        assert!(status.point_of_no_return_at.is_none(), "leadership moves: {:?}", status.message);
        let message = status.message.unwrap_or_default();
        if message.contains(words) { Ok(()) } else { Err(message) }
    })
    .await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_resumed_upgrade_stays_parked_while_its_cluster_is_paused_or_a_member_is_away_and_goes_on_after_that() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-parked").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 1s, deferCutover: true}").await;
    let token = bay.login().await;
    bay.put(&token, "pearl", "before").await;
    wish(&bay, json!({ "version": "2.7.2" })).await;
    let parked = |status: &OpenBaoOperationStatus| status.steps.iter().any(|step| step.parked_at.is_some());
    let name = upgrade(&bay, "the upgrade parks", parked).await;
    let leader = bay.leader().await;

    wish(&bay, json!({ "paused": true })).await;
    let resume = json!({"spec": {"requests": [{"nonce": "go", "action": "Resume", "by": "ann"}]}}).to_string();
    namespace.kubectl(&["patch", "openbaooperation", &name, "--type=merge", "-p", &resume]).await;
    says(&bay, &name, "spec.paused").await;

    // A standby is lost, and its pod cannot be made again for now.
    namespace.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: few}\nspec: {hard: {pods: \"1\"}}").await;
    eventually("the quota counts", SOON, async || {
        let hard = namespace.kubectl(&["get", "resourcequota", "few", "-o", "jsonpath={.status.hard.pods}"]).await;
        if hard == "1" { Ok(()) } else { Err(hard) }
    })
    .await;
    let lost = (0..3).map(|ordinal| format!("kelp-{ordinal}")).find(|pod| *pod != leader).unwrap();
    bay.kill(&lost).await;
    wish(&bay, json!({ "paused": false })).await;
    says(&bay, &name, "leadership does not move yet").await;
    // Long enough for several looks.
    tokio::time::sleep(Duration::from_secs(20)).await;
    says(&bay, &name, "Cancel").await;
    assert_eq!(bay.leader().await, leader, "the old one leads on");
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"), "and serves");

    namespace.kubectl(&["delete", "resourcequota", "few"]).await;
    let done = operation(&bay, &name).await.status.unwrap();
    assert_eq!(done.phase, OperationPhase::Succeeded, "{:?}", done.message);
    bay.whole(3).await;
    let token = bay.login().await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_upgrade_that_waits_for_the_lock_lets_a_restore_go_first_that_was_asked_for_later() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-restore").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 1, "2.6.1", "upgrade: {soak: 1s}").await;
    let (token, key) = bay.backed_up().await;
    bay.put(&token, "pearl", "wrong").await;
    // Somebody's workflow has the lock for long enough.
    let wait = json!({"name": "wait", "action": "Wait", "timeout": "10m", "config": {"duration": "150s"}});
    let holder = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
        "metadata": {"name": "holder"},
        "spec": {"cluster": "kelp", "operation": "Workflow", "plan": {"steps": [wait]}}});
    namespace.apply(&holder.to_string()).await;
    eventually("the workflow has the lock", SOON, async || {
        let lock = bay.cluster().await.status.unwrap_or_default().operation_lock;
        lock.map(drop).ok_or_else(|| "nobody has it".to_owned())
    })
    .await;
    wish(&bay, json!({ "version": "2.7.2" })).await;
    let waits = |status: &OpenBaoOperationStatus| status.reason.as_deref() == Some("WaitingForLock");
    let name = upgrade(&bay, "the upgrade waits for the lock", waits).await;
    bay.restore("undo", json!({"source": {"key": key}, "preRestoreBackup": false})).await;
    eventually("the restore is announced", SOON, async || {
        let pending = bay.cluster().await.status.unwrap_or_default().pending_restore;
        if pending.as_deref() == Some("undo") { Ok(()) } else { Err(format!("{pending:?}")) }
    })
    .await;
    let restored = bay.ended("undo", LONG).await;
    assert_eq!(end(&restored).0, RestorePhase::Completed, "{:?}", end(&restored));
    let work = operation(&bay, restored.status.unwrap().operation.as_deref().unwrap()).await.status.unwrap();

    let upgraded = operation(&bay, &name).await.status.unwrap();
    assert_eq!(upgraded.phase, OperationPhase::Succeeded, "{:?}", upgraded.message);
    let began = upgraded.steps.iter().find(|step| step.name == "PreUpgradeBackup").and_then(|step| step.started_at);
    assert!(began > work.ended_at, "the upgrade began at {began:?}, the restore ended at {:?}", work.ended_at);
    assert!(upgraded.steps.iter().any(|step| step.name == "StepDown" && step.state == StepState::Completed));
    bay.whole(1).await;
    let token = bay.login().await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
}
