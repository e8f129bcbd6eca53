//! The ways back: a version that is taken back, and a rollback with consent.

use std::time::Duration;

use openbao_operator::api::{OpenBaoOperation, OperationPhase, StepState};
use serde_json::json;

use super::{LONG, ended, states, took, wish};
use crate::harness::{Cluster, Operator, eventually};
use crate::restore::setup::Bay;

/// The operation of that name, once it has ended.
pub(super) async fn operation(bay: &Bay<'_>, name: &str) -> OpenBaoOperation {
    eventually(&format!("{name} ends"), LONG, async || {
        let operation = bay.namespace.api::<OpenBaoOperation>().get(name).await.map_err(|error| error.to_string())?;
        let status = operation.status.clone().unwrap_or_default();
        let busy = status.steps.iter().find(|step| step.state == StepState::Running).map(|step| step.name.clone());
        if status.phase.is_terminal() { Ok(operation) } else { Err(format!("{busy:?} {:?}", status.message)) }
    })
    .await
}

/// Asks for a rollback of the upgrade `of`.
pub(super) async fn ask(bay: &Bay<'_>, name: &str, of: &str, consent: serde_json::Value) {
    let object = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
        "metadata": {"name": name}, "spec": {"cluster": bay.name, "operation": "Rollback",
            "lineage": {"rollbackOf": of}, "consent": consent, "intent": "2.7.2 does not suit us"}});
    bay.namespace.apply(&object.to_string()).await;
}

/// Waits until the operator has judged the spec so.
async fn valid(bay: &Bay<'_>, status: &str) {
    eventually(&format!("Valid is {status}"), Duration::from_secs(30), async || {
        let conditions = bay.cluster().await.status.unwrap_or_default().conditions;
        let found = conditions.into_iter().find(|one| one.type_ == "Valid").map(|one| one.status);
        if found.as_deref() == Some(status) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn three_servers_go_back_by_consent_to_the_version_and_the_data_from_before_the_upgrade() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-back").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 1s}").await;
    let token = bay.login().await;
    bay.put(&token, "pearl", "before").await;
    wish(&bay, json!({ "version": "2.7.2" })).await;
    let upgrade = ended(&bay, 1).await;
    let name = upgrade.metadata.name.clone().unwrap();
    assert_eq!(upgrade.status.clone().unwrap().phase, OperationPhase::Succeeded, "{:?}", upgrade.status);
    bay.put(&token, "pearl", "after").await;
    bay.put(&token, "shell", "after").await;

    ask(&bay, "hasty", &name, json!([])).await;
    let refused = operation(&bay, "hasty").await.status.unwrap();
    assert_eq!((refused.phase, refused.reason.as_deref()), (OperationPhase::ConstraintFailed, Some("ConsentMissing")));

    // The wiped server would never lead with it.
    let far = json!({"type": "file", "path": "far", "fileOptions": {"filePath": "/var/log/audit.log"}});
    wish(&bay, json!({ "audit": [far] })).await;
    valid(&bay, "False").await;
    ask(&bay, "mute", &name, json!(["DataOlderThanRollback"])).await;
    let refused = operation(&bay, "mute").await.status.unwrap();
    assert_eq!((refused.phase, refused.reason.as_deref()), (OperationPhase::Failed, Some("AuditNotSupported")));
    wish(&bay, json!({ "audit": [] })).await;
    valid(&bay, "True").await;

    ask(&bay, "back", &name, json!(["DataOlderThanRollback"])).await;
    let back = operation(&bay, "back").await;
    println!("{}", took(&back));
    let status = back.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?} {:?}", status.reason, status.message);
    assert_eq!(states(&back, "Wipe/").len(), 3, "each volume by a claim of its own");
    let wipes = status.steps.iter().filter(|step| step.name.starts_with("Wipe/"));
    assert!(wipes.into_iter().all(|step| step.receipt.is_some()), "{:?}", status.steps);

    bay.whole(3).await;
    let token = bay.login().await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
    assert_eq!(bay.word(&token, "shell").await, None, "written after the backup");
    let told = eventually("the version it turned from is held", Duration::from_secs(30), async || {
        let status = bay.cluster().await.status.unwrap_or_default();
        match status.upgrade.as_ref().and_then(|upgrade| upgrade.held_target.clone()) {
            Some(target) if target == "2.7.2" => Ok(status),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(told.current_version.as_deref(), Some("2.6.1"));
    let versions: Vec<_> = told.members.iter().filter_map(|member| member.version.as_deref()).collect();
    assert_eq!(versions, ["2.6.1"; 3]);
    let turned = operation(&bay, &name).await.status.unwrap();
    assert_eq!((turned.phase, turned.rolled_back_by.as_deref()), (OperationPhase::RolledBack, Some("back")));
    assert_eq!(operation(&bay, "back").await.status.unwrap().phase, OperationPhase::Succeeded);

    // The same version again, when somebody asks: forward once more.
    wish(&bay, json!({"requests": [{"nonce": "again", "action": "Retry"}]})).await;
    let again = ended(&bay, 2).await.status.unwrap();
    assert_eq!(again.phase, OperationPhase::Succeeded, "{:?}", again.message);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_upgrade_that_failed_past_its_point_of_no_return_is_rolled_back() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-half").await;
    let mut operator = Operator::start(&namespace, &[("OPENBAO_FAULTS", "fail=ReplaceOldLeader")]).await;
    let bay = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 1s}").await;
    let token = bay.login().await;
    bay.put(&token, "pearl", "before").await;
    wish(&bay, json!({ "version": "2.7.2" })).await;
    let upgrade = ended(&bay, 1).await;
    let status = upgrade.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Failed, "{:?}", status.message);
    assert!(status.point_of_no_return_at.is_some(), "a new server has led");
    operator.kill();
    let _operator = Operator::start(&namespace, &[]).await;

    ask(&bay, "back", &upgrade.metadata.name.clone().unwrap(), json!(["DataOlderThanRollback"])).await;
    let back = operation(&bay, "back").await;
    let status = back.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?} {:?}", status.reason, status.message);
    bay.whole(3).await;
    let token = bay.login().await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
    let told = bay.cluster().await.status.unwrap();
    let versions: Vec<_> = told.members.iter().filter_map(|member| member.version.as_deref()).collect();
    assert_eq!(versions, ["2.6.1"; 3]);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn one_server_parks_is_turned_back_by_its_spec_and_goes_on_when_resumed() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-park").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 1, "2.6.1", "upgrade: {soak: 1s, deferCutover: true}").await;
    let token = bay.login().await;
    bay.put(&token, "pearl", "before").await;
    let parked = async |count: usize| {
        eventually("the upgrade parks", LONG, async || {
            let all = bay.namespace.api::<OpenBaoOperation>().list(&kube::api::ListParams::default()).await;
            let all = all.map_err(|error| error.to_string())?.items;
            let upgrades: Vec<_> = all
                .into_iter()
                .filter(|op| op.spec.operation == openbao_operator::api::OperationKind::Upgrade)
                .collect();
            // A Resume before the step has parked would be refused.
            let is_parked = |op: &&OpenBaoOperation| {
                let steps = op.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
                steps.iter().any(|step| step.state == StepState::Running && step.parked_at.is_some())
            };
            let waits = upgrades.iter().find(is_parked);
            match waits {
                Some(op) if upgrades.len() == count => Ok(op.metadata.name.clone().unwrap()),
                _ => Err(format!("{} upgrades", upgrades.len())),
            }
        })
        .await
    };

    wish(&bay, json!({ "version": "2.7.2" })).await;
    let first = parked(1).await;
    wish(&bay, json!({ "version": "2.6.1" })).await;
    let undone = operation(&bay, &first).await.status.unwrap();
    assert_eq!(undone.phase, OperationPhase::Cancelled, "{:?}", undone.message);
    assert!(undone.handled_requests.iter().any(|request| request.nonce == format!("reverted-{first}")));
    bay.whole(1).await;
    bay.free().await;
    assert_eq!(bay.cluster().await.status.unwrap().current_version.as_deref(), Some("2.6.1"));

    // Another wish, and more members in the same edit: the version first, the members when it is done.
    wish(&bay, json!({ "version": "2.7.2", "replicas": 3 })).await;
    let second = parked(2).await;
    let resume = json!({"spec": {"requests": [{"nonce": "go", "action": "Resume", "by": "ann"}]}}).to_string();
    namespace.kubectl(&["patch", "openbaooperation", &second, "--type=merge", "-p", &resume]).await;
    let done = operation(&bay, &second).await.status.unwrap();
    assert_eq!(done.phase, OperationPhase::Succeeded, "{:?}", done.message);
    bay.whole(3).await;
    let token = bay.login().await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
}
