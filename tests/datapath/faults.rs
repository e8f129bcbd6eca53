//! What goes wrong on the way, and what must be left after it: no object without a manifest, no manifest without a good
//! object, and the next backup works.

use std::time::{Duration, Instant};

use openbao_operator::adapter::objectstore::{Provider, keys};
use openbao_operator::datapath::environment as env;
use openbao_operator::datapath::protocol::{BackupDone, Peer, PruneDone, VerifyDone};

use super::bao::Bao;
use super::mover::Mover;
use super::slow::Slow;
use super::stores::{self, Running};
use crate::harness::{eventually, oracle};

pub fn port(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// The same servers, each behind a slow line.
async fn slowly(bao: &Bao, bytes_per_second: usize) -> (Vec<Slow>, Vec<Peer>) {
    let (mut lines, mut peers) = (Vec::new(), bao.peers());
    for peer in &mut peers {
        let line = Slow::to(port(&peer.address), bytes_per_second).await;
        peer.address = line.address.to_string();
        lines.push(line);
    }
    (lines, peers)
}

/// The backups in the store, all of them good, and nothing else there.
async fn backups(store: &Running) -> Vec<String> {
    oracle::sound(&store.open(), &keys::cluster_prefix("prod", "test", "c")).await
}

async fn next_backup_works(bao: &Bao, store: &Running) {
    let done: BackupDone = Mover::backup(bao, store).run().await.done();
    let verified: VerifyDone = Mover::new("verify", store).arg("--latest").run().await.done();
    assert_eq!(verified.sha256, done.sha256);
    assert_eq!(backups(store).await, [done.key]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_leader_that_dies_at_any_point_of_the_stream_costs_a_new_start_and_nothing_else() {
    let mut bao = Bao::start("2.7.2", 3).await;
    bao.fill(24).await;
    bao.wait_for_voters().await;
    let store = stores::file();
    let whole = Mover::backup(&bao, &store).run().await.done::<BackupDone>().size_bytes;
    for percent in [10, 50, 90] {
        let (lines, peers) = slowly(&bao, 12 << 20).await;
        let mut mover = Mover::backup(&bao, &store);
        mover.set(env::PEERS, &serde_json::to_string(&peers).unwrap());
        let leader = bao.wait_for_leader().await;
        let mut started = mover.start();
        started.spools(whole * percent / 100).await;
        bao.kill(leader);
        lines[leader].cut();
        let done: BackupDone = started.wait().await.done();
        assert!(done.retries >= 1, "killed at {percent} %");
        let verified: VerifyDone = Mover::new("verify", &store).arg("--latest").run().await.done();
        assert_eq!((verified.key, verified.sha256), (done.key, done.sha256), "killed at {percent} %");
        backups(&store).await;
        bao.start_again(leader);
        bao.wait_for_voters().await;
    }
    assert_eq!(backups(&store).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_slow_store_does_not_keep_the_leader_from_stepping_down() {
    let bao = Bao::start("2.7.2", 3).await;
    bao.fill(16).await;
    bao.wait_for_voters().await;
    let mut store = stores::seaweed(false).await;
    let line = Slow::to(port(store.target.endpoint.as_deref().unwrap()), 1 << 20).await;
    store.target.endpoint = Some(format!("http://{}", line.address));
    let mut started = Mover::backup(&bao, &store).start();
    started.spools(16 << 20).await;
    let admin = bao.admin().await;
    let (before, asked) = (bao.wait_for_leader().await, Instant::now());
    bao.client(before).step_down(&admin).await.unwrap();
    eventually("another server leads", Duration::from_secs(20), async || match bao.leader().await {
        Some(now) if now != before => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(asked.elapsed() < Duration::from_secs(8), "leadership changed after {:?}", asked.elapsed());
    let done: BackupDone = started.wait().await.done();
    assert_eq!(done.retries, 0, "the spool had it all");
    assert_eq!(backups(&store).await, [done.key]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_store_that_dies_during_the_upload_leaves_no_object_and_the_next_backup_works() {
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(24).await;
    let mut store = stores::seaweed(false).await;
    let direct = store.target.clone();
    let line = Slow::to(port(direct.endpoint.as_deref().unwrap()), 2 << 20).await;
    store.target.endpoint = Some(format!("http://{}", line.address));
    let mut started = Mover::backup(&bao, &store).start();
    started.spools(24 << 20).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    store.kill();
    let ended = started.wait().await;
    assert_eq!(ended.result["cause"], "Store", "{}", ended.result);
    assert_eq!(ended.code, 5);
    store.target = direct;
    store.start_again().await;
    assert_eq!(backups(&store).await, [""; 0]);
    next_backup_works(&bao, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_mover_that_is_stopped_or_killed_leaves_nothing_that_counts() {
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(24).await;
    let store = stores::file();
    for killed in [false, true] {
        let (_lines, peers) = slowly(&bao, 8 << 20).await;
        let mut mover = Mover::backup(&bao, &store);
        mover.set(env::PEERS, &serde_json::to_string(&peers).unwrap());
        let key =
            keys::snapshot_key("prod", "test", "c", chrono::Utc::now(), if killed { "killed00" } else { "stopped0" });
        mover.set(env::KEY, &key);
        let mut started = mover.start();
        started.spools(18 << 20).await;
        if killed {
            started.kill();
            started.wait().await;
            // What a folder store stages is a file that no list shows; the cleaning run knows the key.
            let mut prune = Mover::new("prune", &store);
            prune.set(env::CLEAN, &serde_json::to_string(&[&key]).unwrap());
            assert_eq!(prune.run().await.done::<PruneDone>().cleaned, [key]);
        } else {
            started.terminate();
            let ended = started.wait().await;
            assert_eq!((ended.code, ended.result["cause"].as_str()), (10, Some("Cancelled")), "{}", ended.stderr);
            assert_eq!(ended.message["cause"], "Cancelled");
        }
        assert_eq!(backups(&store).await, [""; 0]);
    }
    next_backup_works(&bao, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_spool_that_may_not_grow_ends_the_backup_and_no_object_appears() {
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(12).await;
    let store = stores::file();
    let mut mover = Mover::backup(&bao, &store);
    mover.set(env::SPOOL_LIMIT, "3000000");
    let ended = mover.run().await;
    assert_eq!((ended.code, ended.reason()), (7, ("Space", "SpoolLimit")), "{}", ended.stderr);
    let mut mover = Mover::backup(&bao, &store);
    mover.set(env::EXPECTED_SIZE, "1000000000000000");
    assert_eq!(mover.run().await.reason(), ("Space", "ScratchFull"));
    assert_eq!(backups(&store).await, [""; 0]);
    next_backup_works(&bao, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_deadline_ends_a_backup_and_no_object_appears() {
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(12).await;
    let store = stores::file();
    let (_lines, peers) = slowly(&bao, 2 << 20).await;
    let mut mover = Mover::backup(&bao, &store);
    mover.set(env::PEERS, &serde_json::to_string(&peers).unwrap());
    mover.set(env::DEADLINE, &(chrono::Utc::now() + chrono::TimeDelta::seconds(3)).to_rfc3339());
    let ended = mover.run().await;
    assert_eq!((ended.code, ended.reason()), (8, ("Deadline", "DeadlineExceeded")), "{}", ended.stderr);
    assert_eq!(backups(&store).await, [""; 0]);
    next_backup_works(&bao, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_wrong_identity_is_told_apart_from_a_missing_leader() {
    let mut bao = Bao::start("2.7.2", 1).await;
    let store = stores::file();
    let mut wrong_role = Mover::backup(&bao, &store);
    wrong_role.set(env::JWT_ROLE, "nobody");
    assert_eq!(wrong_role.run().await.reason(), ("Auth", "LoginRefused"));

    let mut no_right = Mover::backup(&bao, &store);
    let token = no_right.scratch().join("token");
    std::fs::write(&token, "s.unknown").unwrap();
    no_right.set(env::TOKEN_FILE, &token.display().to_string());
    // With a login beside it a token that is refused is no more than a first try.
    no_right.unset(env::JWT_FILE);
    no_right.unset(env::JWT_ROLE);
    let ended = no_right.run().await;
    assert_eq!((ended.code, ended.reason()), (3, ("Auth", "SnapshotDenied")));
    assert!(!ended.stderr.contains("s.unknown"), "a token is never printed");

    let mut too_late = Mover::backup(&bao, &store);
    too_late.set(env::JWT_FILE, &bao.expired_jwt_file().display().to_string());
    assert_eq!(too_late.run().await.reason(), ("Auth", "LoginRefused"));

    // A rehearsal logs in before it looks for the backup, and there is none.
    let rehearsal = |role: &str| {
        let mut mover = Mover::new("restore", &store);
        mover.log_in(&bao);
        mover.set(env::JWT_ROLE, role);
        mover.set(env::PEERS, &serde_json::to_string(&bao.peers()).unwrap());
        mover.set(env::LATEST, "true");
        mover.set(env::SUBMIT, "false");
        mover.set(env::SCRATCH, &mover.scratch().display().to_string());
        mover
    };
    assert_eq!(rehearsal("nobody").run().await.reason(), ("Auth", "LoginRefused"));
    assert_eq!(rehearsal("backup").run().await.reason(), ("Config", "NoBackupFound"));
    let mut alone = rehearsal("backup");
    alone.set(env::DEADLINE, &(chrono::Utc::now() + chrono::TimeDelta::seconds(3)).to_rfc3339());

    bao.kill(0);
    assert_eq!(alone.run().await.reason(), ("Leader", "NoLeader"));
    let mut nobody = Mover::backup(&bao, &store);
    nobody.set(env::DEADLINE, &(chrono::Utc::now() + chrono::TimeDelta::seconds(3)).to_rfc3339());
    assert_eq!(nobody.run().await.reason(), ("Leader", "NoLeader"));
    assert_eq!(backups(&store).await, [""; 0]);
}

async fn preflight(store: &Running) -> (String, String) {
    let ended = Mover::new("preflight", store).run().await;
    let told = format!("{} {} {}", ended.result, ended.message, ended.stderr);
    for entry in std::fs::read_dir(store.credentials()).unwrap().flatten() {
        let secret = std::fs::read_to_string(entry.path()).unwrap();
        let looked_for = secret.rsplit("sig=").next().unwrap_or_default();
        assert!(looked_for.is_empty() || !told.contains(looked_for), "{} is printed: {told}", entry.path().display());
    }
    let (cause, reason) = ended.reason();
    (cause.to_owned(), reason.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn what_is_wrong_with_a_store_is_told_apart() {
    let mut store = stores::seaweed(true).await;
    let good = store.target.clone();
    let store_says = |reason: &str| ("Store".to_owned(), reason.to_owned());

    store.set_secret("secretAccessKey", "not-the-one");
    assert_eq!(preflight(&store).await, store_says("StoreCredentialsRefused"));
    store.set_secret("accessKeyId", "read-access");
    store.set_secret("secretAccessKey", "read-secret");
    assert_eq!(preflight(&store).await, store_says("StorePermissionDenied"));
    store.set_secret("accessKeyId", "");
    store.set_secret("secretAccessKey", "");
    assert_eq!(preflight(&store).await, store_says("CredentialsMissing"), "never the metadata address");
    store.set_secret("accessKeyId", "test-access");
    store.set_secret("secretAccessKey", "test-secret");

    let ca = std::fs::read_to_string(store.credentials().join("caCert")).unwrap();
    store.set_secret("caCert", "");
    assert_eq!(preflight(&store).await, store_says("StoreCertificateUntrusted"));
    store.set_secret("caCert", &ca);

    let port = port(good.endpoint.as_deref().unwrap());
    store.target.endpoint = Some(format!("http://127.0.0.1:{port}"));
    assert_eq!(preflight(&store).await, store_says("StoreSchemeMismatch"));
    store.target.endpoint = Some("https://127.0.0.1:1".into());
    assert_eq!(preflight(&store).await, store_says("StoreUnreachable"));
    store.target.endpoint = Some("127.0.0.1:9000".into());
    assert_eq!(preflight(&store).await, store_says("InvalidTarget"));
    store.target = good;
    assert_eq!(Mover::new("preflight", &store).run().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_missing_container_and_a_wrong_key_are_seen_before_a_snapshot_is_taken() {
    let mut store = stores::azurite().await;
    store.target.azure.as_mut().unwrap().container = Some("elsewhere".into());
    assert_eq!(preflight(&store).await.1, "StoreBucketMissing");
    store.target.azure.as_mut().unwrap().container = Some(stores::BUCKET.into());
    store.set_secret("accountKey", "d3Jvbmc=");
    assert_eq!(store.target.provider, Provider::Azure);
    assert_eq!(preflight(&store).await.1, "StoreCredentialsRefused");
    // A signature travels in every URL; no message repeats it, whether the server answers or nobody does.
    store.set_secret("accountKey", "");
    store.set_secret(
        "sasToken",
        "sv=2022-11-02&ss=b&srt=sco&sp=rwdl&se=2030-01-01T00:00:00Z&sig=bm90aGluZ0lzU2lnbmVkQnlUaGlz",
    );
    assert_eq!(preflight(&store).await.1, "StoreCredentialsRefused");
    store.kill();
    assert_eq!(preflight(&store).await.1, "StoreUnreachable");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_stored_backup_that_changed_is_refused_when_it_is_read_again() {
    let bao = Bao::start("2.7.2", 1).await;
    let store = stores::file();
    let done: BackupDone = Mover::backup(&bao, &store).run().await.done();
    let path = format!("{}/{}", store.target.file.as_ref().unwrap().root, done.key);
    let good = std::fs::read(&path).unwrap();
    let verify = async |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let ended = Mover::new("verify", &store).arg("--latest").run().await;
        assert_eq!(ended.result["cause"], "Integrity", "{}", ended.result);
        ended.result["reason"].as_str().unwrap().to_owned()
    };
    let mut flipped = good.clone();
    flipped[5000] ^= 1;
    assert!(verify(&flipped).await.starts_with("Archive"));
    assert_eq!(verify(&good[..good.len() - 1]).await, "SizeMismatch");
    // Another whole snapshot of the same cluster is still not the one that was verified: the time in the gzip header.
    let mut other = good.clone();
    other[4] ^= 1;
    assert_eq!(verify(&other).await, "DigestMismatch");
    std::fs::write(&path, &good).unwrap();
    std::fs::remove_file(format!("{path}.manifest.json")).unwrap();
    let mut by_key = Mover::new("verify", &store);
    by_key.set(env::KEY, &done.key);
    assert_eq!(by_key.run().await.reason(), ("Integrity", "ManifestMissing"));
    let latest = Mover::new("verify", &store).arg("--latest").run().await;
    assert_eq!(latest.reason(), ("Config", "NoBackupFound"));
}

/// On a disk of its own of so many MiB, which goes with the process.
fn on_a_small_disk(mut mover: Mover, mib: u64) -> Mover {
    let scratch = mover.scratch().display().to_string();
    let script = format!("mount -t tmpfs -o size={mib}m none {scratch} && exec \"$0\" \"$@\"");
    mover.within(&["unshare", "--mount", "sh", "-c", &script]);
    mover
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_disk_that_runs_full_while_the_snapshot_comes_in_ends_the_backup_before_it_is_quite_full() {
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(48).await;
    let store = stores::file();
    // Room for the beginning: how long the snapshot is, nobody can say before.
    let ended = on_a_small_disk(Mover::backup(&bao, &store), 90).run().await;
    assert_eq!((ended.code, ended.reason()), (7, ("Space", "ScratchFull")), "{}", ended.stderr);
    assert_eq!(backups(&store).await, [""; 0]);
    let done: BackupDone = on_a_small_disk(Mover::backup(&bao, &store), 200).run().await.done();
    assert_eq!(backups(&store).await, [done.key]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_key_is_used_once_and_what_an_earlier_attempt_left_is_replaced() {
    let bao = Bao::start("2.7.2", 1).await;
    let store = stores::file();
    let done: BackupDone = Mover::backup(&bao, &store).run().await.done();
    let again = async || {
        let mut again = Mover::backup(&bao, &store);
        again.set(env::KEY, &done.key);
        again.run().await
    };
    assert_eq!(again().await.reason(), ("Config", "KeyTaken"));
    let kept = store.open().manifest(&done.key).await.unwrap().unwrap();
    assert_eq!((kept.sha256.as_str(), backups(&store).await), (done.sha256.as_str(), vec![done.key.clone()]));
    // Without its manifest the object is what a dead attempt left.
    store.open().delete(&keys::manifest_key(&done.key)).await.unwrap();
    let second: BackupDone = again().await.done();
    assert_ne!(second.sha256, done.sha256);
    assert_eq!(backups(&store).await, [second.key]);
}
