//! Upgrades end to end: real servers of two versions, a secret that has to survive, an image that cannot be pulled.

mod back;
mod bench;
mod chain;
mod guest;
mod half;
mod parked;
mod rollout;
mod soak;
mod traffic;

use std::collections::BTreeSet;
use std::time::Duration;

use kube::ResourceExt;
use openbao_operator::adapter::kubernetes::time::from_kube;
use openbao_operator::api::{OpenBaoOperation, OperationKind, OperationPhase, StepState};
use serde_json::json;

use crate::harness::{Cluster, Operator, eventually};
use crate::restore::setup::Bay;
use traffic::{Counted, Traffic};

/// Three pods one after the other and a backup before them, on two shared cores.
const LONG: Duration = Duration::from_secs(420);

async fn wish(bay: &Bay<'_>, spec: serde_json::Value) {
    let patch = json!({ "spec": spec }).to_string();
    bay.namespace.kubectl(&["patch", "bao", &bay.name, "--type=merge", "-p", &patch]).await;
}

/// The newest upgrade on record, once it has ended.
async fn ended(bay: &Bay<'_>, count: usize) -> OpenBaoOperation {
    eventually("the upgrade ends", LONG, async || {
        let all = bay.namespace.api::<OpenBaoOperation>().list(&kube::api::ListParams::default()).await;
        let mut upgrades: Vec<_> = all
            .map_err(|error| error.to_string())?
            .items
            .into_iter()
            .filter(|op| op.spec.operation == OperationKind::Upgrade)
            .collect();
        upgrades.sort_by_key(|op| op.metadata.creation_timestamp.as_ref().map(|at| at.0));
        let told: Vec<_> = upgrades
            .iter()
            .map(|op| {
                let status = op.status.clone().unwrap_or_default();
                format!("{} {:?} {:?}", op.name_any(), status.phase, status.message)
            })
            .collect();
        match upgrades.pop() {
            Some(last) if told.len() == count && last.status.as_ref().is_some_and(|s| s.phase.is_terminal()) => {
                Ok(last)
            }
            _ => Err(told.join("; ")),
        }
    })
    .await
}

/// Every write that was acknowledged is there, and what failed is what leadership on its way cost.
async fn nothing_lost(bay: &Bay<'_>, token: &str, counted: &Counted) {
    let found: BTreeSet<usize> =
        bay.names(token, traffic::PATH).await.iter().filter_map(|name| name.parse().ok()).collect();
    let lost: Vec<_> = counted.acknowledged.iter().filter(|number| !found.contains(number)).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    assert!(counted.writes > 20 && counted.reads > 100, "the traffic ran: {counted:?}");
}

/// The servers' pods by UID: another UID is another server.
async fn pods(bay: &Bay<'_>) -> Vec<String> {
    let mut uids = Vec::new();
    for ordinal in 0..3 {
        let pod = format!("{}-{ordinal}", bay.name);
        let path = ["get", "pod", &pod, "-o", "jsonpath={.metadata.uid}"];
        uids.push(bay.namespace.kubectl(&path).await);
    }
    uids
}

/// Which step took how long, for people who look at a run.
fn took(op: &OpenBaoOperation) -> String {
    let status = op.status.clone().unwrap_or_default();
    let steps = status.steps.iter().filter_map(|step| {
        let took = step.completed_at? - step.started_at?;
        Some(format!("{} {:.1} s", step.name, took.num_milliseconds() as f64 / 1000.0))
    });
    let made = op.metadata.creation_timestamp.as_ref().map(from_kube);
    let all = status.ended_at.zip(made).map(|(end, from)| end - from);
    format!("{} s: {}", all.unwrap_or_default().num_seconds(), steps.collect::<Vec<_>>().join(", "))
}

fn states<'a>(op: &'a OpenBaoOperation, prefix: &str) -> Vec<(&'a str, StepState)> {
    let steps = &op.status.as_ref().unwrap().steps;
    steps.iter().filter(|step| step.name.starts_with(prefix)).map(|step| (step.name.as_str(), step.state)).collect()
}

#[tokio::test]
async fn three_servers_go_to_a_newer_version_keep_their_secrets_and_turn_back_from_an_image_that_is_not_there() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-three").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 2s}").await;
    let token = bay.login().await;
    bay.put(&token, "pearl", "before").await;

    // An image that is not what the version says: the first standby runs it, and is put back.
    wish(&bay, json!({ "version": "2.7.9", "image": "docker.io/openbao/openbao:2.7.2" })).await;
    let mistaken = ended(&bay, 1).await;
    let status = mistaken.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::RolledBack, "{:?}", status.message);
    assert!(status.message.clone().unwrap_or_default().contains("2.7.9"), "{:?}", status.message);
    assert!(states(&mistaken, "RevertTemplate").iter().all(|(_, state)| *state == StepState::Completed));
    bay.whole(3).await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
    let traffic = Traffic::start(&bay, &token).await;

    wish(&bay, json!({ "version": "2.7.2", "image": null })).await;
    let upgrade = ended(&bay, 2).await;
    let status = upgrade.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
    assert!(status.point_of_no_return_at.is_some(), "leadership moved");
    assert!(states(&upgrade, "UpgradeStandby/").iter().all(|(_, state)| *state == StepState::Completed));
    let backup = status.steps.iter().find(|step| step.name == "PreUpgradeBackup").unwrap();
    assert!(backup.output["backupKey"].ends_with(".snap"), "{:?}", backup.output);

    println!("{}", took(&upgrade));

    bay.whole(3).await;
    let counted = traffic.stop().await;
    println!("{} writes, {} reads, failed: {:?}", counted.writes, counted.reads, counted.failures);
    println!("no read for {} ms, no write for {} ms", counted.longest_read_gap_ms, counted.longest_write_gap_ms);
    nothing_lost(&bay, &token, &counted).await;
    eventually("the cluster tells of its new version", Duration::from_secs(60), async || {
        let told = bay.cluster().await.status.unwrap_or_default();
        let at = |version: &Option<String>| version.as_deref() == Some("2.7.2");
        let members = told.members.len() == 3 && told.members.iter().all(|member| at(&member.version));
        if at(&told.current_version) && members && told.operation_lock.is_none() {
            Ok(())
        } else {
            Err(format!("{:?} {:?} {:?}", told.current_version, told.members, told.operation_lock))
        }
    })
    .await;
    let token = bay.login().await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));

    // An image that no registry has: no server is touched.
    let before = pods(&bay).await;
    wish(&bay, json!({ "version": "2.7.9" })).await;
    let failed = ended(&bay, 3).await;
    assert_eq!(pods(&bay).await, before, "no pod was replaced");
    assert_eq!(states(&failed, "GateImage"), [("GateImage", StepState::Failed)]);
    let status = failed.status.clone().unwrap();
    assert_ne!(status.phase, OperationPhase::Succeeded);
    assert!(status.message.clone().unwrap_or_default().contains("2.7.9"), "{:?}", status.message);
    assert!(status.point_of_no_return_at.is_none());
    let told = eventually("the target is held", Duration::from_secs(30), async || {
        let status = bay.cluster().await.status.unwrap_or_default();
        match status.upgrade.as_ref().and_then(|upgrade| upgrade.held_target.clone()) {
            Some(target) if target == "2.7.9" => Ok(status),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(told.current_version.as_deref(), Some("2.7.2"));
    bay.whole(3).await;
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));

    // A lower version is refused by condition and rolls nothing.
    wish(&bay, json!({ "version": "2.6.1" })).await;
    eventually("the downgrade is refused", Duration::from_secs(30), async || {
        let status = bay.cluster().await.status.unwrap_or_default();
        let upgrading = status.conditions.into_iter().find(|condition| condition.type_ == "Upgrading");
        match upgrading {
            Some(condition) if condition.reason == "DowngradeBlocked" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(ended(&bay, 3).await.name_any(), failed.name_any(), "no fourth upgrade");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_upgrade_comes_to_its_end_although_the_spec_becomes_one_that_cannot_be_carried_out() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-broken-spec").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 2s}").await;
    // An image that is not what the version says, so that the way goes on, and back again.
    wish(&bay, json!({ "version": "2.7.9", "image": "docker.io/openbao/openbao:2.7.2" })).await;
    soak::at_step(&bay, 1, "UpdateTemplate").await;
    wish(&bay, json!({ "audit": [{"type": "syslog", "path": "s"}] })).await;
    eventually("it is told", Duration::from_secs(60), async || {
        let status = bay.cluster().await.status.unwrap_or_default();
        let says = |kind: &str, word: &str| {
            status.conditions.iter().any(|one| one.type_ == kind && one.message.contains(word))
        };
        let told = says("Progressing", "goes on with the spec from before") && says("Degraded", "spec.audit");
        if told { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await;
    let turned = ended(&bay, 1).await;
    let status = turned.status.clone().unwrap();
    assert_eq!(status.phase, OperationPhase::RolledBack, "{:?}", status.message);
    bay.whole(3).await;
    wish(&bay, json!({ "audit": null, "version": "2.6.1", "image": null })).await;
    bay.whole(3).await;
    bay.free().await;
}
