//! Restores end to end: real OpenBao servers, our operator as a process that can be killed, faults at every stage.

mod asked;
mod bench;
mod deleted;
mod elsewhere;
mod faults;
mod odds;
mod refused;
pub mod setup;

use std::time::Duration;

use openbao_operator::api::RestorePhase;
use serde_json::json;

use crate::harness::Cluster;
use setup::{Bay, end, operator};

/// From the object to its end: download, safety backup, submission, restart of three servers, on two shared cores.
const LONG: Duration = Duration::from_secs(420);

#[tokio::test]
async fn destroyed_secrets_are_back_with_proof_and_old_tokens_work_again() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-three").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 3, "2.7.2").await;
    let old = bay.login().await;
    bay.put(&old, "pearl", "before").await;
    let key = bay.backup("first").await;

    bay.remove(&old, "pearl").await;
    bay.put(&old, "driftwood", "after").await;
    let newer = bay.login().await;
    bay.restore("rescue", json!({"source": {"key": key}})).await;
    let restore = bay.ended("rescue", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);

    assert_eq!(
        bay.word(&old, "pearl").await.as_deref(),
        Some("before"),
        "a token of the snapshot works, the secret is back"
    );
    assert_eq!(bay.word(&old, "driftwood").await, None);
    assert!(!bay.knows(&newer).await, "a token that is newer than the snapshot is gone");
    bay.login().await;
    let status = restore.status.unwrap();
    eprintln!("{:?}", status.durations);
    assert_eq!(status.source.unwrap().key, key);
    assert!(status.proof.unwrap().text.contains("marker"));
    assert!(status.pre_restore_backup.is_some(), "the state before is kept");
    assert!(status.durations.unwrap().total.is_some());
    bay.free().await;
    bay.whole(3).await;
    assert_eq!((bay.posts(3).await, bay.claims("rescue").await), (1, 1), "sent once, under one claim");
    for ordinal in 0..3 {
        assert_eq!(bay.word_at(&bay.pod(ordinal), &old, "pearl").await.as_deref(), Some("before"), "server {ordinal}");
    }
}

#[tokio::test]
async fn with_a_static_key_that_the_user_brings_backups_are_proven_and_restored() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-own-key").await;
    let _operator = operator(&namespace).await;
    // Beside it lies one that an earlier cluster of the name left behind.
    let secret = |name: &str, key: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"key": key}}).to_string()
    };
    namespace.apply(&secret("mine", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")).await;
    namespace.apply(&secret("kelp-unseal-key", "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=")).await;
    let seal = "unseal: {type: static, credentialsSecretRef: {name: mine}}";
    let bay = Bay::named(&namespace, "kelp", 1, "2.7.2", seal).await;
    let (token, key) = bay.backed_up().await;

    bay.remove(&token, "pearl").await;
    bay.restore("rescue", json!({"source": {"key": key}})).await;
    let restore = bay.ended("rescue", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
}
