//! `cargo xtask bench backup`: our backup of a large database against its own lower bounds and against common tools.
//!
//! A mover that was built for debugging is measured unless `OPENBAO_BENCH_MOVER` names another
//! (`cargo build --profile image --bin bao-backup`).

use std::process::Command;
use std::time::Instant;

use openbao_operator::datapath::environment as env;
use openbao_operator::datapath::protocol::BackupDone;
use serde_json::json;

use super::bao::Bao;
use super::mover::{Ended, Mover};
use super::stores::{self, Running};

/// Megabytes in the database; `OPENBAO_BENCH_MIB` for another size.
fn mib() -> usize {
    std::env::var("OPENBAO_BENCH_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

fn curl(bao: &Bao, token: &str, to: &str) -> f64 {
    let begun = Instant::now();
    let peer = &bao.peers()[0];
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "-o", to, "--cacert"]).arg(bao.ca_file()).args(["-H", &format!("X-Vault-Token: {token}")]);
    curl.arg(format!("https://{}/v1/sys/storage/raft/snapshot", peer.address));
    assert!(curl.status().unwrap().success());
    begun.elapsed().as_secs_f64()
}

/// By curl, which signs as S3 wants it: one PUT of the whole file, the least that any client could do.
fn upload(store: &Running, file: &str, object: &str) -> f64 {
    let begun = Instant::now();
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "test-access:test-secret", "-T", file]);
    curl.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
    curl.arg(format!("{}/{}/{object}", store.target.endpoint.as_deref().unwrap(), stores::BUCKET));
    assert!(curl.status().unwrap().success());
    begun.elapsed().as_secs_f64()
}

fn line(name: &str, ended: &Ended, size: u64) -> serde_json::Value {
    let seconds = ended.took.as_secs_f64();
    json!({
        "name": name, "bytes": size, "seconds": round(seconds), "mb_per_second": round(size as f64 / 1e6 / seconds),
        "peak_rss_mib": ended.peak_kib / 1024, "cpu_seconds": round(ended.cpu),
    })
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// How often each is measured: what else runs on the machine only ever makes it slower, so the best counts.
fn rounds() -> usize {
    std::env::var("OPENBAO_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

fn best(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: cargo xtask bench backup"]
async fn bench_backup() {
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(mib()).await;
    let login = bao.post(0, "auth/userpass/login/admin", None, json!({"password": "admin"})).await;
    let token = login["auth"]["client_token"].as_str().unwrap();
    let store = stores::seaweed(false).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("snapshot").display().to_string();

    // Taken in turn, so that a quiet or a busy minute meets all of them.
    let (mut alone, mut saved, mut summed, mut sent, mut ours) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds() {
        alone.push(curl(&bao, token, "/dev/null"));
        saved.push(curl(&bao, token, &file));
        let begun = Instant::now();
        assert!(Command::new("sha256sum").arg(&file).stdout(std::process::Stdio::null()).status().unwrap().success());
        summed.push(begun.elapsed().as_secs_f64());
        sent.push(upload(&store, &file, &format!("by-curl-{round}")));
        ours.push(Mover::backup(&bao, &store).run().await);
    }
    let ended = ours.iter().min_by(|a, b| a.took.cmp(&b.took)).unwrap();
    let done: BackupDone = ended.done();
    let (alone, sent, saved, summed) = (best(&alone), best(&sent), best(&saved), best(&summed));
    let mut result = line("backup to an S3 server", ended, done.size_bytes);
    result["peak_rss_mib_of_all_rounds"] = json!(ours.iter().map(|ended| ended.peak_kib).max().unwrap_or(0) / 1024);
    result["snapshot_alone_seconds"] = json!(round(alone));
    result["upload_alone_seconds"] = json!(round(sent));
    result["curl_sha256sum_curl_seconds"] = json!(round(saved + summed + sent));
    result["against_the_larger_of_the_two"] = json!(round(ended.took.as_secs_f64() / alone.max(sent)));
    println!("BENCH {result}");

    let folder_store = stores::file();
    let ended = Mover::backup(&bao, &folder_store).run().await;
    println!("BENCH {}", line("backup to a folder", &ended, done.size_bytes));
    let mut direct = Mover::backup(&bao, &folder_store);
    direct.unset(env::SCRATCH);
    println!("BENCH {}", line("backup to a folder without a spool", &direct.run().await, done.size_bytes));
    let ended = Mover::new("verify", &folder_store).arg("--latest").run().await;
    println!("BENCH {}", line("verification alone, from a folder", &ended, done.size_bytes));
}
