//! A restore that is deleted while it runs: its Job ends first, then the lock is given back; past the claim the outcome is
//! awaited.

use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::json;

use super::setup::{Bay, operator};
use crate::harness::{Cluster, eventually};

const LONG: Duration = Duration::from_secs(420);

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_deleted_restore_leaves_no_job_no_lock_and_whole_data_at_every_stage() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-deleted").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (_, key) = bay.backed_up().await;
    for stage in ["Preflight", "SafetyBackup", "PlaceMarker", "claim", "RestartVoters"] {
        let token = bay.login().await;
        bay.put(&token, "pearl", "after").await;
        let name = format!("gone-{}", stage.to_lowercase());
        bay.restore(&name, json!({"source": {"key": key}})).await;
        match stage {
            "claim" => drop(bay.claimed(&name, LONG).await),
            stage => bay.stage(&name, stage, LONG).await,
        }
        bay.restores().delete(&name, &DeleteParams::default()).await.unwrap();
        eventually("the restore is gone", LONG, async || match bay.restores().get_opt(&name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{:?}", other.map(|restore| restore.map(|restore| restore.status)))),
        })
        .await;
        bay.free().await;
        eventually("no mover is left", Duration::from_secs(60), async || {
            let pods =
                namespace.kubectl(&["get", "pods", "-l", "app.kubernetes.io/component=restore", "-o", "name"]).await;
            if pods.trim().is_empty() { Ok(()) } else { Err(pods) }
        })
        .await;
        bay.whole(1).await;
        let word = bay.word(&bay.login().await, "pearl").await;
        let past_claim = stage == "claim" || stage == "RestartVoters";
        let wanted = if past_claim { "before" } else { "after" };
        assert_eq!(word.as_deref(), Some(wanted), "deleted at {stage}");
    }
}
