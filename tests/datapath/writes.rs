//! The crash matrix of the mover: at every write to a store it dies before it, or after it, or never gets the answer. What
//! the operator does next must end with exactly the backups that count, whatever the store kept of the first run.

use openbao_operator::adapter::objectstore::keys;
use openbao_operator::datapath::environment as env;
use openbao_operator::datapath::protocol::{BackupDone, PruneDone, VerifyDone};
use serde_json::{Value, json};

use super::bao::Bao;
use super::mover::{Ended, Mover};
use super::stores::{self, Running};
use crate::harness::oracle;

const FAULTS: [&str; 3] = ["abort-before", "drop-answer", "abort-after"];

/// Runs it with a fault at its nth write to the store, or with none. Tells how it ended, and its writes.
async fn run(mut mover: Mover, fault: Option<(&str, usize)>) -> (Ended, Vec<String>) {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let rule = |(fault, at)| json!({"match": {"server": "store", "write": true}, "at": at, "do": {"fault": fault}});
    let rules: Vec<Value> = fault.into_iter().map(rule).collect();
    mover.set("OPENBAO_FAULT_RULES", &json!({"trace": trace.path(), "rules": rules}).to_string());
    let ended = mover.run().await;
    let told = std::fs::read_to_string(trace.path()).unwrap_or_default();
    let writes = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let writes = writes.filter(|line| line["what"] == "write" && line["server"] == "store");
    let word = |line: &Value, of: &str| line[of].as_str().unwrap_or_default().to_owned();
    (ended, writes.map(|line| format!("{} {}", word(&line, "verb"), word(&line, "resource"))).collect())
}

async fn backups(store: &Running) -> Vec<String> {
    oracle::sound(&store.open(), &keys::cluster_prefix("prod", "test", "c")).await
}

fn key(operation: &str) -> String {
    keys::snapshot_key("prod", "test", "c", chrono::Utc::now(), operation)
}

/// What the operator has done after a mover that ended badly: its key is cleaned; what has a manifest was complete.
async fn after_loss(store: &Running, key: &str) -> PruneDone {
    let mut prune = Mover::new("prune", store);
    prune.set(env::CLEAN, &json!([key]).to_string());
    prune.run().await.done()
}

async fn backups_of_movers_that_die(store: &Running) {
    let bao = Bao::start("2.7.2", 1).await;
    // Three parts.
    bao.fill(12).await;
    let backup = |key: &str| {
        let mut mover = Mover::backup(&bao, store);
        mover.set(env::KEY, key);
        mover
    };
    let first = key("clean000");
    let (ended, writes) = run(backup(&first), None).await;
    ended.done::<BackupDone>();
    eprintln!("{} writes: {writes:#?}", writes.len());
    assert!(writes.len() > 5 && writes.iter().any(|write| write.contains(".manifest.json")), "{writes:?}");
    let mut good = vec![first];
    let (mut succeeded, mut adopted, mut again) = (0, 0, 0);
    for at in 1..=writes.len() {
        for fault in FAULTS {
            let key = key(&format!("w{at:02}{}", &fault[fault.len() - 5..]));
            let (ended, _) = run(backup(&key), Some((fault, at))).await;
            if ended.code == 0 {
                succeeded += 1;
            } else if after_loss(store, &key).await.kept.is_empty() {
                again += 1;
                // As after the loss: nothing of it is there, and the next attempt has the same key.
                assert_eq!(backups(store).await, good, "{fault} at {at} ({})", writes[at - 1]);
                backup(&key).run().await.done::<BackupDone>();
            } else {
                adopted += 1;
                let mut verify = Mover::new("verify", store);
                verify.set(env::KEY, &key);
                verify.run().await.done::<VerifyDone>();
            }
            good.push(key);
            good.sort();
            assert_eq!(backups(store).await, good, "{fault} at {at} ({})", writes[at - 1]);
        }
    }
    eprintln!("{succeeded} succeeded, {again} were cleaned and taken again, {adopted} had been completed");
    // Deaths before the manifest and after it were both among them.
    assert!(adopted > 0 && again > writes.len(), "{adopted} {again}");
    retentions_of_movers_that_die(store, &good).await;
}

/// Removes all but the last of them, each with a fault.
async fn retentions_of_movers_that_die(store: &Running, backups_there: &[String]) {
    let prune = |key: &str| {
        let mut mover = Mover::new("prune", store);
        mover.set(env::REMOVE, &json!([key]).to_string());
        mover
    };
    let (ended, writes) = run(prune(&backups_there[0]), None).await;
    assert_eq!(ended.done::<PruneDone>().removed, [backups_there[0].clone()]);
    assert!(writes.len() >= 4, "{writes:?}");
    let mut left = backups_there[1..].to_vec();
    for at in 1..=writes.len() {
        for fault in FAULTS {
            let key = left.remove(0);
            let (ended, _) = run(prune(&key), Some((fault, at))).await;
            if ended.code != 0 {
                // Whatever is ordered next: what was begun is finished, and what was not is ordered again.
                let done: PruneDone = prune(&key).run().await.done();
                assert!(done.kept.is_empty(), "{fault} at {at}: {done:?}");
            }
            assert_eq!(backups(store).await, left, "{fault} at {at} ({})", writes[at - 1]);
        }
    }
    eprintln!("retention: {} writes, {} cells", writes.len(), writes.len() * FAULTS.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_mover_that_dies_at_any_write_to_an_s3_server_ends_with_what_counts() {
    backups_of_movers_that_die(&stores::seaweed(false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_mover_that_dies_at_any_write_to_azure_ends_with_what_counts() {
    backups_of_movers_that_die(&stores::azurite().await).await;
}
