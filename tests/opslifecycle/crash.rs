//! A workflow of ten steps whose driver dies after each of its writes.

use std::collections::BTreeMap;

use k8s_openapi::api::{batch::v1::Job, events::v1::Event};
use kube::{ResourceExt, api::PostParams};
use openbao_operator::{
    api::{
        cluster::OpenBaoCluster,
        operation::{OpenBaoOperation, OpenBaoOperationStatus, OperationPhase},
    },
    service::opslifecycle::audit,
};
use serde_json::{Value, json};

use super::{PATIENCE, bare_cluster, child};
use crate::harness::{Cluster, Namespace, eventually};

pub const STEPS: usize = 10;

/// Ten steps in a row: two Jobs, the rest annotations and short waits.
fn workflow(name: &str, cluster: &str) -> OpenBaoOperation {
    let steps: Vec<Value> = (0..STEPS)
        .map(|index| {
            let (action, config) = match index {
                3 | 7 => ("KubernetesJob", json!({"image": "docker.io/library/busybox:1.36", "command": "true"})),
                1 | 5 => ("Wait", json!({"duration": "100ms"})),
                _ => ("Annotate", json!({"key": format!("workflow.openbao.org/s{index}"), "value": "done"})),
            };
            let depends_on: Vec<String> = (index > 0).then(|| format!("s{}", index - 1)).into_iter().collect();
            json!({"name": format!("s{index}"), "action": action, "config": config, "dependsOn": depends_on})
        })
        .collect();
    serde_json::from_value(json!({
        "apiVersion": "openbao.org/v1alpha1",
        "kind": "OpenBaoOperation",
        "metadata": {"name": name},
        "spec": {
            "cluster": cluster,
            "operation": "Workflow",
            "intent": "to see what a crash does",
            "actor": {"identity": "tests", "source": "api"},
            "plan": {"steps": steps},
        },
    }))
    .expect("a workflow")
}

async fn status(namespace: &Namespace, name: &str) -> OpenBaoOperationStatus {
    namespace.api::<OpenBaoOperation>().get(name).await.expect("the operation").status.unwrap_or_default()
}

/// Starts one driver after the other, each of which dies after its first write, until the operation has ended.
async fn run_through_crashes(namespace: &Namespace, name: &str, log: &std::path::Path) -> usize {
    let mut deaths = 0;
    eventually("the workflow ends", PATIENCE * 2, async || {
        let op = namespace.api::<OpenBaoOperation>().get(name).await.map_err(|error| error.to_string())?;
        let ended = op.status.as_ref().is_some_and(|status| status.phase.is_terminal());
        let faults = if ended { "" } else { "crash-after-write=1" };
        let mut driver = child::command(namespace, "driver", faults, log).spawn().map_err(|error| error.to_string())?;
        if ended {
            // A last one, unharmed, tells what the one before it could not and lets go of the object.
            let settled = eventually("the finalizer goes", PATIENCE, async || {
                let op = namespace.api::<OpenBaoOperation>().get(name).await.map_err(|error| error.to_string())?;
                if op.finalizers().is_empty() { Ok(()) } else { Err("it is still there".into()) }
            });
            settled.await;
            let _ = driver.kill();
            let _ = driver.wait();
            return Ok(());
        }
        let _ = driver.wait();
        deaths += 1;
        Err(format!("died {deaths} times, {:?}", op.status.map(|status| status.message)))
    })
    .await;
    deaths
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_workflow_survives_the_death_of_its_driver_after_every_write() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("ops-crash").await;
    bare_cluster(&namespace, "prod").await;
    let name = "ten-steps";
    let api = namespace.api::<OpenBaoOperation>();
    let created = api.create(&PostParams::default(), &workflow(name, "prod")).await.expect("the operation");
    let audit_log = cluster.audit();
    let log = namespace.folder().join("driver.log");
    let deaths = run_through_crashes(&namespace, name, &log).await;
    assert!(deaths >= STEPS, "a driver died after each of the writes, {deaths} in all");

    let after = status(&namespace, name).await;
    assert_eq!(after.phase, OperationPhase::Succeeded, "{:?}", after.message);
    assert!(after.steps.iter().all(|step| step.attempt == 1), "no step was tried twice");

    // Effects: each annotation is there, each Job was created once and is gone, the lock is free after one tenure.
    let object = namespace.api::<OpenBaoCluster>().get("prod").await.expect("the cluster");
    let done = object.annotations().keys().filter(|key| key.starts_with("workflow.openbao.org/")).count();
    assert_eq!(done, STEPS - 4);
    let lock = object.status.expect("a status");
    assert_eq!((lock.operation_fence, lock.operation_lock), (Some(1), None));
    assert!(namespace.api::<Job>().list(&kube::api::ListParams::default()).await.expect("the Jobs").items.is_empty());
    let created_jobs: Vec<String> = audit_log
        .requests("")
        .into_iter()
        .filter(|request| request.namespace == namespace.name() && request.verb == "create" && request.code == 201)
        .filter(|request| request.resource == "jobs")
        .map(|request| request.name)
        .collect();
    assert_eq!(created_jobs.len(), 2, "{created_jobs:?}");

    // Every transition stands in the history and the log, and all that are events at all are events too, with the same keys and
    // values.
    assert!(after.history.len() > 2 * STEPS);
    let lines: Vec<Value> = std::fs::read_to_string(&log)
        .expect("the drivers' log")
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let uid = created.uid().expect("a UID");
    let events: Vec<BTreeMap<String, String>> = namespace
        .api::<Event>()
        .list(&kube::api::ListParams::default())
        .await
        .expect("the events")
        .items
        .iter()
        .filter(|event| event.regarding.as_ref().and_then(|about| about.uid.as_ref()) == Some(&uid))
        .map(|event| event.annotations().clone())
        .collect();
    for entry in &after.history {
        let told = audit::flat(entry);
        let in_log = lines.iter().any(|line| told.iter().all(|(key, value)| key == "message" || line[key] == **value));
        assert!(in_log, "not in the log: {told:?}");
        assert!(!audit::is_event(entry) || events.contains(&told), "no event: {told:?}");
    }
}

/// How often the status of a workflow is written that nothing disturbs.
pub async fn writes_of_a_calm_workflow(cluster: &Cluster, name: &str) -> usize {
    let namespace = cluster.namespace(name).await;
    bare_cluster(&namespace, "prod").await;
    let audit_log = cluster.audit();
    let api = namespace.api::<OpenBaoOperation>();
    api.create(&PostParams::default(), &workflow("calm", "prod")).await.expect("the operation");
    let log = namespace.folder().join("driver.log");
    let mut driver = child::command(&namespace, "driver", "", &log).spawn().expect("a driver");
    eventually("the workflow ends", PATIENCE, async || {
        let status = status(&namespace, "calm").await;
        if status.phase.is_terminal() { Ok(()) } else { Err(format!("{:?}", status.message)) }
    })
    .await;
    let _ = driver.kill();
    let _ = driver.wait();
    let is_status = |request: &crate::harness::Request| {
        request.namespace == namespace.name() && request.resource == "openbaooperations/status"
    };
    audit_log.requests("").iter().filter(|request| is_status(request) && request.writes()).count()
}

#[tokio::test]
async fn a_workflow_of_ten_steps_writes_at_most_twice_for_each() {
    let writes = writes_of_a_calm_workflow(&Cluster::get().await, "ops-writes").await;
    assert!(writes <= 2 * STEPS, "{writes} status writes for {STEPS} steps");
}
