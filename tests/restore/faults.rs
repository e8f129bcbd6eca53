//! What breaks while a restore runs: leader, mover, operator. Never a false success, never a second submission under one
//! claim, the data old or new and never a mixture.

use std::time::Duration;

use openbao_operator::api::RestorePhase;
use serde_json::json;

use super::setup::{Bay, end, operator};
use crate::harness::Cluster;

const LONG: Duration = Duration::from_secs(600);

/// After whatever happened: what the restore says is what the servers hold, on each of them, they were sent the snapshot at
/// most once for each claim, and the lock is free. `posts`: how often before this restore.
async fn truthful(bay: &Bay<'_>, name: &str, replicas: u32, posts: usize) -> RestorePhase {
    let restore = bay.ended(name, LONG).await;
    let (phase, message) = end(&restore);
    bay.whole(replicas).await;
    // Only now: a token of the time before would have gone with the data.
    let token = &bay.login().await;
    let word = bay.word(token, "pearl").await;
    match phase {
        RestorePhase::Completed => assert_eq!(word.as_deref(), Some("before"), "a false success: {message}"),
        RestorePhase::Failed => assert_eq!(word.as_deref(), Some("after"), "a false failure: {message}"),
        other => panic!("{other:?}: {message}"),
    }
    for ordinal in 0..replicas {
        assert_eq!(bay.word_at(&bay.pod(ordinal), token, "pearl").await, word, "server {ordinal} differs ({message})");
    }
    bay.free().await;
    let (posts, claims) = (bay.posts(replicas).await - posts, bay.claims(name).await);
    assert!(posts <= claims, "{name}: sent {posts} times under {claims} claims ({message})");
    assert!(phase != RestorePhase::Completed || posts > 0, "{name} is proven and was never sent ({message})");
    phase
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn the_latest_stays_the_backup_that_was_judged_when_its_mover_dies_after_the_safety_backup() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-latest").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    bay.put(&token, "pearl", "after").await;
    bay.restore("rescue", json!({"source": {"latest": true}})).await;
    // Its backup becomes the newest; the mover that stood ready with the one that was judged is gone by then.
    bay.stage("rescue", "SafetyBackup", LONG).await;
    bay.kill_movers("rescue").await;
    assert_eq!(truthful(&bay, "rescue", 1, 0).await, RestorePhase::Completed);
    let source = bay.restores().get("rescue").await.unwrap().status.unwrap().source.unwrap();
    assert_eq!(source.key, key);
}

/// How often, so that a long series can be asked for by hand.
fn rounds(few: u32) -> u32 {
    std::env::var("OPENBAO_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_leader_killed_after_it_accepted_never_makes_a_false_success() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-leader").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 3, "2.7.2").await;
    let (_, key) = bay.backed_up().await;
    // From right at the answer to the middle of the others' taking it over.
    let delays = [20_u64, 20, 700, 3000, 5500, 7000];
    for round in 0..rounds(2) {
        let token = bay.login().await;
        bay.put(&token, "pearl", "after").await;
        let name = format!("storm-{round}");
        let posts = bay.posts(3).await;
        let leader = bay.leader().await;
        bay.restore(&name, json!({"source": {"key": key}, "preRestoreBackup": false})).await;
        bay.answered(&name, LONG).await;
        tokio::time::sleep(Duration::from_millis(delays[round as usize % delays.len()])).await;
        bay.kill(&leader).await;
        let phase = truthful(&bay, &name, 3, posts).await;
        eprintln!("round {round}: {phase:?} under {} claims", bay.claims(&name).await);
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_mover_killed_at_any_stage_is_replaced_before_its_claim_and_proven_after_it() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-mover").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (_, key) = bay.backed_up().await;
    for (round, stage) in ["Preflight", "SafetyBackup", "claim", "answer"].into_iter().enumerate() {
        let token = bay.login().await;
        bay.put(&token, "pearl", "after").await;
        let name = format!("storm-{round}");
        let posts = bay.posts(1).await;
        bay.restore(&name, json!({"source": {"key": key}})).await;
        match stage {
            "claim" => drop(bay.claimed(&name, LONG).await),
            "answer" => bay.answered(&name, LONG).await,
            stage => bay.stage(&name, stage, LONG).await,
        }
        bay.kill_movers(&name).await;
        let phase = truthful(&bay, &name, 1, posts).await;
        assert_eq!(phase, RestorePhase::Completed, "killed at {stage}");
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_operator_killed_after_any_write_goes_on_where_it_was() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-operator").await;
    let mut running = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (_, key) = bay.backed_up().await;
    for round in 0..rounds(2) {
        let token = bay.login().await;
        bay.put(&token, "pearl", "after").await;
        let name = format!("storm-{round}");
        let posts = bay.posts(1).await;
        bay.restore(&name, json!({"source": {"key": key}, "preRestoreBackup": false})).await;
        // Killed again and again, at moments that no step knows of.
        for kill in 0..4_u64 {
            tokio::time::sleep(Duration::from_millis(1500 + 1700 * ((u64::from(round) * 7 + kill * 3) % 5))).await;
            running.kill();
            running = operator(&namespace).await;
        }
        let phase = truthful(&bay, &name, 1, posts).await;
        assert_eq!(phase, RestorePhase::Completed, "round {round}");
        let exchange = bay.exchange(&name).await.unwrap_or_default();
        assert!(exchange["attempts"].is_null(), "an attempt was thought lost that was not: {exchange}");
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn two_restores_at_once_go_one_after_the_other_and_a_foreign_lock_is_waited_for() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-two").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    bay.put(&token, "pearl", "after").await;
    let spec = json!({"source": {"key": key}, "preRestoreBackup": false});
    bay.restore("one", spec.clone()).await;
    bay.restore("two", spec).await;
    for name in ["one", "two"] {
        let restore = bay.ended(name, LONG).await;
        assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    }
    assert_eq!(bay.posts(1).await, 2);
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
    bay.free().await;
}
