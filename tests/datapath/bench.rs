//! `cargo xtask bench backup`: our backup of a large database against its own lower bounds and against common tools.
//!
//! The mover is the one of the image, optimised as people get it; `OPENBAO_BENCH_MOVER` names another.
//!
//! OpenBao, the store and the mover share one machine here, so its processor time is measured too: what the snapshot
//! alone and the upload alone keep busy, divided by the processors, is a bound that no mover can get below.

use std::path::Path;
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

fn curl(bao: &Bao, token: &str, to: &str) {
    let peer = &bao.peers()[0];
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "-o", to, "--cacert"]).arg(bao.ca_file()).args(["-H", &format!("X-Vault-Token: {token}")]);
    curl.arg(format!("https://{}/v1/sys/storage/raft/snapshot", peer.address));
    assert!(curl.status().unwrap().success());
}

/// By curl, which signs as S3 wants it: one PUT of the whole file, the least that any client could do.
fn upload(store: &Running, file: &str, object: &str) {
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "test-access:test-secret", "-T", file]);
    curl.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
    curl.arg(format!("{}/{}/{object}", store.target.endpoint.as_deref().unwrap(), stores::BUCKET));
    assert!(curl.status().unwrap().success());
}

/// Hundredths of a second that all processors of this machine were busy since it started.
fn busy() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").expect("Linux says how busy its processors were");
    let ticks = |text: &str| text.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect::<Vec<u64>>();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let all = text.lines().next().map(ticks).unwrap_or_default();
    [0, 1, 2, 5, 6].iter().filter_map(|&at| all.get(at)).sum()
}

/// What something took, by the clock and of this machine's processors (seconds).
#[derive(Clone, Copy)]
struct Took {
    clock: f64,
    busy: f64,
}

async fn took(work: impl Future<Output = ()>) -> Took {
    let (begun, before) = (Instant::now(), busy());
    work.await;
    Took { clock: begun.elapsed().as_secs_f64(), busy: (busy() - before) as f64 / 100.0 }
}

/// The mover of the image under the name that makes it one.
async fn mover(folder: &Path) -> String {
    if let Ok(named) = std::env::var("OPENBAO_BENCH_MOVER") {
        return named;
    }
    let program =
        tokio::task::spawn_blocking(|| xtask::image::programs(&[])).await.unwrap().expect("the image's program");
    let mover = folder.join("bao-backup");
    std::fs::copy(program, &mover).unwrap();
    mover.display().to_string()
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

fn best(times: &[Took]) -> Took {
    *times.iter().min_by(|a, b| a.clock.total_cmp(&b.clock)).unwrap()
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

    let program = mover(folder.path()).await;

    // Taken in turn, so that a quiet or a busy minute meets all of them.
    let (mut alone, mut saved, mut summed, mut sent, mut ours) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds() {
        alone.push(took(async { curl(&bao, token, "/dev/null") }).await);
        saved.push(took(async { curl(&bao, token, &file) }).await);
        let mut sum = Command::new("sha256sum");
        sum.arg(&file).stdout(std::process::Stdio::null());
        summed.push(took(async { assert!(sum.status().unwrap().success()) }).await);
        sent.push(took(async { upload(&store, &file, &format!("by-curl-{round}")) }).await);
        ours.push(Mover::backup(&bao, &store).program(&program).run().await);
    }
    let ended = ours.iter().min_by(|a, b| a.took.cmp(&b.took)).unwrap();
    let done: BackupDone = ended.done();
    let (alone, sent, saved, summed) = (best(&alone), best(&sent), best(&saved), best(&summed));
    let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    let larger = alone.clock.max(sent.clock);
    let bound = larger.max((alone.busy + sent.busy) / processors);
    let seconds = ended.took.as_secs_f64();
    let mut result = line("backup to an S3 server", ended, done.size_bytes);
    result["peak_rss_mib_of_all_rounds"] = json!(ours.iter().map(|ended| ended.peak_kib).max().unwrap_or(0) / 1024);
    result["snapshot_alone_seconds"] = json!(round(alone.clock));
    result["snapshot_alone_processor_seconds"] = json!(round(alone.busy));
    result["upload_alone_seconds"] = json!(round(sent.clock));
    result["upload_alone_processor_seconds"] = json!(round(sent.busy));
    result["curl_sha256sum_curl_seconds"] = json!(round(saved.clock + summed.clock + sent.clock));
    result["against_the_larger_of_the_two"] = json!(round(seconds / larger));
    result["against_what_these_processors_allow"] = json!(round(seconds / bound));
    println!("BENCH {result}");

    let folder_store = stores::file();
    let ended = Mover::backup(&bao, &folder_store).program(&program).run().await;
    println!("BENCH {}", line("backup to a folder", &ended, done.size_bytes));
    let mut direct = Mover::backup(&bao, &folder_store).program(&program);
    direct.unset(env::SCRATCH);
    println!("BENCH {}", line("backup to a folder without a spool", &direct.run().await, done.size_bytes));
    let ended = Mover::new("verify", &folder_store).program(&program).arg("--latest").run().await;
    println!("BENCH {}", line("verification alone, from a folder", &ended, done.size_bytes));
}
