//! One version for two clusters: nobody's leadership moves before both are prepared, and then one after the other.

use std::time::Duration;

use kube::{ResourceExt, api::ListParams};
use openbao_operator::api::{
    OpenBaoOperation, OpenBaoRollout, OperationKind, OperationPhase, RolloutMemberState, RolloutPhase,
};
use serde_json::json;

use super::wish;
use crate::harness::{Cluster, Namespace, Operator, eventually};
use crate::restore::setup::Bay;

/// Two upgrades with their backups, on two shared cores.
const LONG: Duration = Duration::from_secs(600);

const ROLLOUT: &str = "
apiVersion: openbao.org/v1alpha1
kind: OpenBaoRollout
metadata: {name: wave}
spec: {version: 2.7.2, members: [{cluster: kelp}, {cluster: coral}], policy: barrier, deferCutover: DEFER}
";

async fn rollout(namespace: &Namespace) -> OpenBaoRollout {
    namespace.api().get("wave").await.unwrap()
}

async fn comes_to(namespace: &Namespace, phase: RolloutPhase) -> OpenBaoRollout {
    eventually(&format!("the rollout is {phase:?}"), LONG, async || {
        let rollout = rollout(namespace).await;
        match &rollout.status {
            Some(status) if status.phase == phase => Ok(rollout),
            status => Err(format!("{status:?}")),
        }
    })
    .await
}

async fn ask(namespace: &Namespace, nonce: &str, action: &str) {
    let patch = format!(r#"{{"spec": {{"requests": [{{"nonce": "{nonce}", "action": "{action}"}}]}}}}"#);
    namespace.kubectl(&["patch", "openbaorollout", "wave", "--type=merge", "-p", &patch]).await;
}

/// The upgrades on record, oldest first.
async fn upgrades(namespace: &Namespace) -> Vec<OpenBaoOperation> {
    let mut all = namespace.api::<OpenBaoOperation>().list(&ListParams::default()).await.unwrap().items;
    all.retain(|op| op.spec.operation == OperationKind::Upgrade);
    all.sort_by_key(|op| op.status.as_ref().and_then(|status| status.started_at));
    all
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn at_the_barrier_both_clusters_are_prepared_before_either_moves_its_leadership() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("rollout-barrier").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let kelp = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 2s}").await;
    let coral = Bay::named(&namespace, "coral", 1, "2.6.1", "upgrade: {soak: 2s}").await;
    namespace.apply(&ROLLOUT.replace("DEFER", "false")).await;

    let done = comes_to(&namespace, RolloutPhase::Completed).await.status.unwrap();
    assert_eq!(done.progress, "2/2");
    assert!(done.members.iter().all(|member| member.state == RolloutMemberState::Completed), "{:?}", done.members);
    let records = upgrades(&namespace).await;
    let names: Vec<_> = records.iter().map(|op| op.spec.cluster.clone()).collect();
    assert_eq!(names, ["kelp", "coral"], "prepared in the order of the spec, each once");
    let ended = |name: &str, step: &str| {
        let op = records.iter().find(|op| op.spec.cluster == name).unwrap();
        let steps = &op.status.as_ref().unwrap().steps;
        let found = steps.iter().find(|found| found.name == step);
        found.and_then(|found| found.completed_at).unwrap_or_else(|| panic!("{} has no {step}", op.name_any()))
    };
    assert!(ended("kelp", "Park") >= ended("coral", "UpdateTemplate"), "the barrier");
    assert!(ended("coral", "Park") >= ended("kelp", "Finish"), "one after the other");
    for (bay, replicas) in [(&kelp, 3), (&coral, 1)] {
        bay.whole(replicas).await;
        let status = bay.cluster().await.status.unwrap();
        assert_eq!(status.current_version.as_deref(), Some("2.7.2"));
        assert!(status.operation_lock.is_none());
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_parked_rollout_waits_for_a_person_and_a_cancel_brings_the_standbys_back() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("rollout-parked").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let kelp = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 2s}").await;
    namespace.apply(&ROLLOUT.replace("DEFER", "true").replace(", {cluster: coral}", "")).await;

    comes_to(&namespace, RolloutPhase::WaitingForCutover).await;
    let parked = kelp.cluster().await.status.unwrap();
    assert!(parked.operation_lock.is_some(), "a parked member keeps its lock");
    assert_eq!(parked.current_version.as_deref(), Some("2.6.1"));
    ask(&namespace, "no", "Cancel").await;
    comes_to(&namespace, RolloutPhase::Stopped).await;
    eventually("every member runs the old version again", LONG, async || {
        let status = kelp.cluster().await.status.unwrap_or_default();
        let back = status.members.iter().all(|member| member.version.as_deref() == Some("2.6.1"));
        if back && status.members.len() == 3 && status.operation_lock.is_none() {
            Ok(())
        } else {
            Err(format!("{:?} {:?}", status.members, status.operation_lock))
        }
    })
    .await;
    kelp.whole(3).await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_deleted_rollout_turns_a_member_back_that_was_told_to_move_its_leadership_and_waits() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("rollout-deleted").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let kelp = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 2s}").await;
    namespace.apply(&ROLLOUT.replace("DEFER", "true").replace(", {cluster: coral}", "")).await;

    comes_to(&namespace, RolloutPhase::WaitingForCutover).await;
    let leader = kelp.leader().await;
    wish(&kelp, json!({ "paused": true })).await;
    // Past the rollout, which would refuse it for the pause.
    let name = upgrades(&namespace).await[0].name_any();
    let resume = json!({"spec": {"requests": [{"nonce": "go", "action": "Resume"}]}}).to_string();
    namespace.kubectl(&["patch", "openbaooperation", &name, "--type=merge", "-p", &resume]).await;
    eventually("it was told to move its leadership", Duration::from_secs(90), async || {
        let members = rollout(&namespace).await.status.unwrap_or_default().members;
        if members[0].state == RolloutMemberState::CuttingOver { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;

    namespace.kubectl(&["delete", "openbaorollout", "wave", "--wait=false"]).await;
    eventually("the rollout is gone", LONG, async || {
        let left = namespace.api::<OpenBaoRollout>().get_opt("wave").await.map_err(|error| error.to_string())?;
        left.map_or(Ok(()), |left| Err(format!("{:?}", left.status)))
    })
    .await;
    let undone = upgrades(&namespace).await.remove(0).status.unwrap();
    assert_eq!(undone.phase, OperationPhase::Cancelled, "it was there until that was over: {:?}", undone.message);
    assert!(undone.point_of_no_return_at.is_none());
    wish(&kelp, json!({ "paused": false })).await;
    kelp.whole(3).await;
    assert_eq!(kelp.leader().await, leader, "nothing moves it when the pause ends");
    let status = kelp.cluster().await.status.unwrap();
    let versions: Vec<_> = status.members.iter().map(|member| member.version.as_deref()).collect();
    assert_eq!(versions, [Some("2.6.1"); 3]);
    assert!(status.operation_lock.is_none());
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_cluster_of_one_that_is_to_grow_while_it_is_parked_moves_its_leadership_and_grows_after_that() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("rollout-grows").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let kelp = Bay::named(&namespace, "kelp", 1, "2.6.1", "upgrade: {soak: 2s}").await;
    namespace.apply(&ROLLOUT.replace("DEFER", "true").replace(", {cluster: coral}", "")).await;

    comes_to(&namespace, RolloutPhase::WaitingForCutover).await;
    wish(&kelp, json!({ "replicas": 3 })).await;
    ask(&namespace, "go", "Resume").await;
    comes_to(&namespace, RolloutPhase::Completed).await;
    kelp.whole(3).await;
    assert_eq!(kelp.cluster().await.status.unwrap().current_version.as_deref(), Some("2.7.2"));
}
