//! The way back when its lock goes into other hands half-way: it stops for a person, and goes on with the lock only.

use chrono::Utc;
use kube::api::{Patch, PatchParams, PostParams};
use openbao_operator::{
    adapter::operationlock::{self, Force},
    api::{
        cluster::OpenBaoCluster,
        operation::{OpenBaoOperation, OpenBaoOperationStatus, OperationPhase, StepState},
    },
};
use serde_json::{Value, json};

use super::{PATIENCE, bare_cluster, child, lock::claim_of};
use crate::harness::{Cluster, Namespace, eventually};

fn workflow(name: &str, steps: &Value) -> OpenBaoOperation {
    serde_json::from_value(json!({
        "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": name},
        "spec": {"cluster": "prod", "operation": "Workflow", "plan": {"steps": steps}},
    }))
    .expect("a workflow")
}

async fn until(
    namespace: &Namespace,
    name: &str,
    what: &str,
    is_so: impl Fn(&OpenBaoOperationStatus) -> bool,
) -> OpenBaoOperationStatus {
    let api = namespace.api::<OpenBaoOperation>();
    eventually(what, PATIENCE, async || {
        let status = api.get(name).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if is_so(&status) { Ok(status) } else { Err(format!("{:?} {:?}", status.phase, status.message)) }
    })
    .await
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn undoing_whose_lock_is_lost_waits_for_a_person_and_goes_on_with_the_lock() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("ops-undo").await;
    let bare = bare_cluster(&namespace, "prod").await;
    let client = namespace.client();
    let lock = operationlock::of(&client, &bare).expect("a lock");
    let job = |command: &str| json!({"image": "docker.io/library/busybox:1.36", "command": command});
    let steps = json!([
        {"name": "send", "action": "KubernetesJob", "kind": "OnceOnly", "config": job("true"), "compensate": "unsend"},
        {"name": "check", "action": "KubernetesJob", "config": job("false"), "dependsOn": ["send"],
            "retryPolicy": {"maxAttempts": 1}},
        {"name": "unsend", "action": "KubernetesJob", "config": job("sleep 20")},
    ]);
    let api = namespace.api::<OpenBaoOperation>();
    api.create(&PostParams::default(), &workflow("there-and-back", &steps)).await.expect("created");
    let log = namespace.folder().join("driver.log");
    let mut driver = child::command(&namespace, "driver", "", &log).spawn().expect("a driver");
    let undoing = |status: &OpenBaoOperationStatus| {
        status.steps.iter().any(|step| step.name == "unsend" && step.state == StepState::Running)
    };
    until(&namespace, "there-and-back", "it undoes", undoing).await;
    let thief = claim_of("thief");
    let taken = lock.acquire(&thief, Force::Always, Utc::now()).await.expect("the lock").lock;
    let stopped =
        until(&namespace, "there-and-back", "it stops for a person", |status| status.phase == OperationPhase::Unknown)
            .await;
    assert_eq!(stopped.reason.as_deref(), Some("LockLost"), "{:?}", stopped.message);
    assert!(undoing(&stopped), "nothing is said to be undone meanwhile");

    lock.release(&thief, Some(taken.fence)).await.expect("it is given back");
    let resume = json!({"spec": {"requests": [{"nonce": "go", "action": "Resume", "by": "ann"}]}});
    api.patch("there-and-back", &PatchParams::default(), &Patch::Merge(&resume)).await.expect("a Resume");
    let over = until(&namespace, "there-and-back", "it ends", |status| status.phase.is_terminal()).await;
    assert_eq!(over.phase, OperationPhase::RolledBack, "{:?}", over.message);
    assert_eq!(over.reason.as_deref(), Some("JobFailed"), "what it went back for");
    assert!(over.lock.is_some_and(|lock| lock.fence > taken.fence && lock.released_at.is_some()));
    let after = namespace.api::<OpenBaoCluster>().get("prod").await.expect("the cluster").status.expect("a status");
    assert_eq!(after.operation_lock, None);

    // What nobody could prove afterwards does not even begin.
    let annotate = json!({"key": "workflow.openbao.org/sent", "value": "yes"});
    let steps = json!([{"name": "mark", "action": "Annotate", "kind": "OnceOnly", "config": annotate}]);
    api.create(&PostParams::default(), &workflow("once", &steps)).await.expect("created");
    let refused = until(&namespace, "once", "it is refused", |status| status.phase.is_terminal()).await;
    let _ = driver.kill();
    let _ = driver.wait();
    assert_eq!((refused.phase, refused.reason.as_deref()), (OperationPhase::Failed, Some("InvalidPlan")));
    assert!(refused.message.is_some_and(|message| message.contains("OnceOnly")));
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn what_could_not_be_undone_keeps_the_lock_and_says_so_when_it_is_taken_from_it() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("ops-undone").await;
    let bare = bare_cluster(&namespace, "prod").await;
    let client = namespace.client();
    let lock = operationlock::of(&client, &bare).expect("a lock");
    let job = |command: &str| json!({"image": "docker.io/library/busybox:1.36", "command": command});
    let once = json!({"maxAttempts": 1});
    let steps = json!([
        {"name": "send", "action": "KubernetesJob", "kind": "OnceOnly", "config": job("true"), "compensate": "unsend"},
        {"name": "check", "action": "KubernetesJob", "config": job("false"), "dependsOn": ["send"], "retryPolicy": once},
        {"name": "unsend", "action": "KubernetesJob", "config": job("false"), "retryPolicy": once},
    ]);
    let api = namespace.api::<OpenBaoOperation>();
    api.create(&PostParams::default(), &workflow("there", &steps)).await.expect("created");
    let log = namespace.folder().join("driver.log");
    let mut driver = child::command(&namespace, "driver", "", &log).spawn().expect("a driver");
    let needs_attention = |status: &OpenBaoOperationStatus| {
        status.conditions.iter().any(|condition| condition.type_ == "NeedsAttention" && condition.status == "True")
    };
    let kept = until(&namespace, "there", "it ends", |status| status.phase.is_terminal()).await;
    assert_eq!(kept.reason.as_deref(), Some("CompensationFailed"), "{:?}", kept.message);
    assert!(needs_attention(&kept) && kept.message.as_ref().is_some_and(|message| message.contains("lock stays")));

    lock.acquire(&claim_of("thief"), Force::Always, Utc::now()).await.expect("the lock");
    let lost = until(&namespace, "there", "it says that the lock is gone", |status| {
        status.message.as_ref().is_some_and(|message| message.contains("other hands"))
    })
    .await;
    let _ = driver.kill();
    let _ = driver.wait();
    assert!(!needs_attention(&lost) && lost.lock.is_some_and(|lock| lock.lost_at.is_some()));
    assert_eq!((lost.phase, lost.reason.as_deref()), (OperationPhase::Failed, Some("CompensationFailed")));
}
