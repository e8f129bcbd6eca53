//! A rollback that is interrupted for good after its first wipe, and the one after it: nobody is let in to servers that are half
//! restored, whatever becomes of the record, and the data of the backup comes back in the end.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::ListParams;
use openbao_operator::api::{OpenBaoOperation, OperationPhase, RestorePhase, StepState};
use serde_json::json;

use super::back::{ask, operation};
use super::{LONG, ended, states, took, wish};
use crate::harness::{Cluster, Namespace, Operator, eventually};
use crate::restore::setup::{Bay, end, reason};

/// An operator that makes `step` of every operation fail for good. Alone by arrangement: the lease of a killed one would keep the
/// next one waiting.
async fn failing(namespace: &Namespace, step: &str) -> Operator {
    let faults = format!("fail={step}");
    Operator::start(namespace, &[("OPENBAO_FAULTS", faults.as_str()), ("OPENBAO_LEADER_ELECT", "false")]).await
}

async fn sound(namespace: &Namespace) -> Operator {
    Operator::start(namespace, &[("OPENBAO_LEADER_ELECT", "false")]).await
}

/// Upgrades the cluster with one word from before and two from after it. The upgrade's name, and the key of its backup.
async fn upgraded(bay: &Bay<'_>) -> (String, String) {
    let token = bay.login().await;
    bay.put(&token, "pearl", "before").await;
    wish(bay, json!({ "version": "2.7.2" })).await;
    let upgrade = ended(bay, 1).await;
    let status = upgrade.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
    let token = bay.login().await;
    bay.put(&token, "pearl", "after").await;
    bay.put(&token, "shell", "after").await;
    let key = status.steps.iter().find_map(|step| step.output.get("backupKey")).expect("the upgrade's backup");
    (upgrade.name_any(), key.clone())
}

/// Asks for a rollback that is to fail past its point of no return, and sees that it says so.
async fn half_done(bay: &Bay<'_>, name: &str) -> OpenBaoOperation {
    let rollback = operation(bay, name).await;
    let status = rollback.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Failed, "{name}: {:?} {:?}", status.reason, status.message);
    assert!(status.point_of_no_return_at.is_some(), "{name}: {:?}", status.steps);
    let message = status.message.unwrap_or_default();
    assert!(message.contains("operation: Rollback"), "{name} tells no way on: {message}");
    shut(bay, name).await;
    rollback
}

/// The cluster says who left it half restored, its lock is free for the next one, and no client is let in.
async fn shut(bay: &Bay<'_>, by: &str) {
    eventually(&format!("{by} is told of"), Duration::from_secs(60), async || {
        let status = bay.cluster().await.status.unwrap_or_default();
        let upgrade = status.upgrade.unwrap_or_default();
        let left = upgrade.half_restored.as_ref().is_some_and(|half| half.rollback == by && half.servers.closed);
        let told = status.conditions.iter().any(|one| {
            one.type_ == "Upgrading" && one.status == "False" && one.message.contains("Create another Rollback first")
        });
        if left && told { Ok(()) } else { Err(format!("{:?} {:?}", upgrade.half_restored, status.conditions)) }
    })
    .await;
    bay.free().await;
    // A wiped server sets itself up with the same administrator: whoever reached it could log in.
    assert_eq!(bay.try_login().await, None, "a client was let in to what {by} left");
}

/// The data from before the upgrade is on every server, what came after it on none, and all is open again.
async fn back(bay: &Bay<'_>, name: &str, of: &str, replicas: u32) {
    let rollback = operation(bay, name).await;
    println!("{}", took(&rollback));
    let status = rollback.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?} {:?}", status.reason, status.message);
    assert!(
        states(&rollback, "SafetyBackup").is_empty(),
        "what was half restored is nobody's data: {:?}",
        status.steps
    );
    bay.whole(replicas).await;
    let token = bay.login().await;
    for ordinal in 0..replicas {
        let server = bay.pod(ordinal);
        assert_eq!(bay.word_at(&server, &token, "pearl").await.as_deref(), Some("before"), "{server}");
        assert_eq!(bay.word_at(&server, &token, "shell").await, None, "{server} has what came after the backup");
    }
    eventually("nothing is half restored any more", Duration::from_secs(60), async || {
        let status = bay.cluster().await.status.unwrap_or_default();
        let upgrade = status.upgrade.unwrap_or_default();
        let versions: Vec<_> = status.members.iter().filter_map(|member| member.version.as_deref()).collect();
        let old = versions.len() == replicas as usize && versions.iter().all(|version| *version == "2.6.1");
        let open = upgrade.half_restored.is_none() && upgrade.servers.is_none();
        if open && old && upgrade.held_target.as_deref() == Some("2.7.2") {
            Ok(())
        } else {
            Err(format!("{upgrade:?} {versions:?}"))
        }
    })
    .await;
    bay.free().await;
    let turned = operation(bay, of).await.status.unwrap();
    assert_eq!((turned.phase, turned.rolled_back_by.as_deref()), (OperationPhase::RolledBack, Some(name)));
}

async fn ask_again(bay: &Bay<'_>, name: &str, of: &str) {
    ask(bay, name, of, json!(["DataOlderThanRollback"])).await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_rollback_whose_backup_went_away_after_the_wipe_lets_nobody_in_until_another_one_has_brought_it_back() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("half-store").await;
    let _operator = sound(&namespace).await;
    let bay = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 1s}").await;
    let (of, key) = upgraded(&bay).await;
    // Its pod stands ready, so that it takes no time later.
    bay.on_claim("mkdir -p /store/aside").await;

    ask_again(&bay, "back", &of).await;
    eventually("all volumes are wiped", LONG, async || {
        let back = namespace.api::<OpenBaoOperation>().get("back").await.map_err(|error| error.to_string())?;
        let status = back.status.unwrap_or_default();
        let first = status.steps.iter().find(|step| step.name == "StartFirst");
        match first.filter(|step| step.state != StepState::Pending) {
            Some(_) => Ok(()),
            None => Err(format!("{:?} {:?}", status.phase, status.message)),
        }
    })
    .await;
    bay.on_claim(&format!("mv /store/{key} /store/{key}.manifest.json /store/aside/")).await;
    bay.kill_movers_of("back").await;
    let first = half_done(&bay, "back").await;
    assert_eq!(states(&first, "Submit"), [("Submit", StepState::Pending)]);

    // A restore would be proven and serve nobody.
    bay.restore("rescue", json!({"source": {"key": key}, "force": true, "preRestoreBackup": false})).await;
    let rescue = bay.ended("rescue", LONG).await;
    assert_eq!((end(&rescue).0, reason(&rescue).as_str()), (RestorePhase::Failed, "RollbackUnfinished"));

    // Another one before the backup is there again touches nothing, and opens nothing.
    ask_again(&bay, "early", &of).await;
    let early = operation(&bay, "early").await;
    let status = early.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Failed, "{:?}", status.message);
    assert_eq!(status.point_of_no_return_at, None, "{:?}", status.message);
    assert_eq!(states(&early, "StopServers"), [("StopServers", StepState::Pending)]);
    shut(&bay, "back").await;

    // Nor does deleting the record.
    namespace.kubectl(&["delete", "openbaooperation", "back"]).await;
    eventually("the status says that the record is gone", Duration::from_secs(60), async || {
        let conditions = bay.cluster().await.status.unwrap_or_default().conditions;
        let told = conditions.iter().any(|one| one.type_ == "Upgrading" && one.message.contains("its record is gone"));
        if told { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
    shut(&bay, "back").await;
    let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
    bay.on_claim(&format!("mv /store/aside/* /store/{folder}/")).await;
    // The same file applied again, while Kubernetes has not yet removed what the record before it left, goes on.
    namespace.kubectl(&["delete", "openbaooperation", "early"]).await;
    ask_again(&bay, "early", &of).await;
    back(&bay, "early", &of, 3).await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_rollback_past_its_wipes_downloads_again_as_often_as_it_takes_and_ends_well_when_the_backup_can_be_read() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("half-patient").await;
    let _operator = sound(&namespace).await;
    let bay = Bay::named(&namespace, "kelp", 1, "2.6.1", "upgrade: {soak: 1s}").await;
    let (of, key) = upgraded(&bay).await;
    // Its pod stands ready, so that it takes no time later.
    bay.on_claim("mkdir -p /store/aside").await;

    ask_again(&bay, "back", &of).await;
    let now = async || {
        let back = namespace.api::<OpenBaoOperation>().get("back").await.map_err(|error| error.to_string())?;
        Ok::<_, String>(back.status.unwrap_or_default())
    };
    eventually("the volume is wiped", LONG, async || {
        let status = now().await?;
        let first = status.steps.iter().find(|step| step.name == "StartFirst");
        match first.filter(|step| step.state != StepState::Pending) {
            Some(_) => Ok(()),
            None => Err(format!("{:?} {:?}", status.phase, status.message)),
        }
    })
    .await;
    // Its manifest says that it is there: what a store in trouble looks like.
    bay.on_claim(&format!("mv /store/{key} /store/aside/")).await;
    bay.kill_movers_of("back").await;
    // One more than a restore makes, which loses nothing by giving up.
    eventually("a ninth download", Duration::from_secs(900), async || {
        let jobs =
            namespace.api::<Job>().list_metadata(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let status = now().await?;
        assert!(!status.phase.is_terminal(), "{:?} {:?}", status.reason, status.message);
        let mut words = status.steps.iter().filter_map(|step| step.error.as_deref());
        assert!(!words.any(|words| words.contains("othing was changed")), "{:?}", status.steps);
        let movers: Vec<String> = jobs.items.iter().map(ResourceExt::name_any).collect();
        if movers.iter().any(|name| name == "back-restore-9") { Ok(()) } else { Err(format!("{movers:?}")) }
    })
    .await;
    let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
    bay.on_claim(&format!("mv /store/aside/* /store/{folder}/")).await;
    let back = operation(&bay, "back").await;
    let status = back.status.unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?} {:?}", status.reason, status.message);
    bay.whole(1).await;
    let token = bay.login().await;
    assert_eq!(bay.word_at(&bay.pod(0), &token, "pearl").await.as_deref(), Some("before"));
    assert_eq!(bay.word_at(&bay.pod(0), &token, "shell").await, None, "what came after the backup");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_rollback_that_has_wiped_one_volume_of_three_starts_no_server_over_the_others_and_the_next_one_wipes_them() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("half-wiped").await;
    let mut operator = failing(&namespace, "Wipe/data-kelp-1").await;
    let bay = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 1s}").await;
    let (of, _) = upgraded(&bay).await;

    ask_again(&bay, "torn", &of).await;
    let torn = half_done(&bay, "torn").await;
    let wipes: Vec<_> = states(&torn, "Wipe/").into_iter().map(|(_, state)| state).collect();
    assert_eq!(wipes, [StepState::Completed, StepState::Failed, StepState::Pending]);
    let left = async || {
        let claims = namespace.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items;
        let mut data: Vec<_> =
            claims.iter().map(ResourceExt::name_any).filter(|name| name.starts_with("data-")).collect();
        data.sort();
        data
    };
    let servers = async || {
        let set = namespace.api::<StatefulSet>().get("kelp").await.unwrap();
        let pods = set.status.map(|status| status.replicas).unwrap_or_default();
        (set.spec.and_then(|spec| spec.replicas), pods)
    };
    assert_eq!(left().await, ["data-kelp-1", "data-kelp-2"]);

    // Neither an operator that was started anew, nor the record's end, starts an old binary over what a newer one has led.
    operator.kill();
    let _operator = sound(&namespace).await;
    namespace.kubectl(&["delete", "openbaooperation", "torn"]).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(servers().await, (Some(0), 0));
    }
    assert_eq!(left().await, ["data-kelp-1", "data-kelp-2"]);
    shut(&bay, "torn").await;

    ask_again(&bay, "again", &of).await;
    back(&bay, "again", &of, 3).await;
    let again = operation(&bay, "again").await;
    let wipes: Vec<_> = states(&again, "Wipe/").into_iter().map(|(name, _)| name).collect();
    assert_eq!(wipes, ["Wipe/data-kelp-1", "Wipe/data-kelp-2"], "the one that is gone is not missed");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn each_rollback_after_a_half_done_one_goes_on_wherever_that_one_failed() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("half-chain").await;
    let mut operator = sound(&namespace).await;
    let bay = Bay::named(&namespace, "kelp", 1, "2.6.1", "upgrade: {soak: 1s}").await;
    let (of, _) = upgraded(&bay).await;

    // From no server at all to one that holds the restored data, and has not been restarted.
    let steps = ["Wipe/data-kelp-0", "StartFirst", "PlaceMarker", "Submit", "ProveApplied", "RestartVoters"];
    for (number, step) in steps.into_iter().enumerate() {
        operator.kill();
        operator = failing(&namespace, step).await;
        let name = format!("back-{number}");
        ask_again(&bay, &name, &of).await;
        let rollback = half_done(&bay, &name).await;
        assert_eq!(states(&rollback, step), [(step, StepState::Failed)]);
        let safe = states(&rollback, "SafetyBackup").len();
        assert_eq!(safe, usize::from(number == 0), "{name}: only what clients have written is worth a backup");
    }
    operator.kill();
    let _operator = sound(&namespace).await;
    ask_again(&bay, "back", &of).await;
    back(&bay, "back", &of, 1).await;
}
