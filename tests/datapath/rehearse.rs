//! A restore test as its two containers run it: fetched from a real store, restored into a real server that reaches nobody.

use std::path::{Path, PathBuf};

use openbao_operator::datapath::environment as env;
use openbao_operator::datapath::protocol::{BackupDone, FetchDone, RehearsalDone};
use serde_json::json;
use tempfile::TempDir;

use super::bao::{Bao, KEY_ID};
use super::mover::{Ended, Mover};
use super::stores::{self, Running};
use super::tools;

const SECRETS: u64 = 7;

/// A cluster with secrets in it, one of them a canary that backup Jobs may read, and its backup.
struct Sample {
    bao: Bao,
    store: Running,
    backup: BackupDone,
    cluster_id: String,
}

impl Sample {
    async fn of(version: &str) -> Self {
        let bao = Bao::start(version, 1).await;
        let admin = bao.admin().await;
        let client = bao.client(0);
        client.put(&admin, "sys/mounts/secret", &json!({"type": "kv"})).await.unwrap();
        for n in 0..SECRETS {
            client.put(&admin, &format!("secret/{n}"), &json!({"v": n})).await.unwrap();
        }
        let policy = "path \"sys/storage/raft/snapshot\" { capabilities = [\"read\"] }\n\
                      path \"secret/*\" { capabilities = [\"read\"] }";
        client.put_policy(&admin, "snapshot", policy).await.unwrap();
        // What is wrapped goes when its token has run out, and is no loss.
        client.put(&admin, "cubbyhole/note", &json!({"v": "for a while"})).await.unwrap();
        let store = stores::file();
        let backup = Mover::backup(&bao, &store).run().await.done();
        let cluster_id = client.health().await.unwrap().cluster_id.unwrap();
        Self { bao, store, backup, cluster_id }
    }

    /// A folder with the fetched backup.
    async fn fetched(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut fetch = Mover::new("fetch", &self.store);
        fetch.set(env::LATEST, "true");
        fetch.set(env::REHEARSAL, &folder.path().display().to_string());
        let done: FetchDone = fetch.run().await.done();
        assert_eq!((&done.key, &done.sha256), (&self.backup.key, &self.backup.sha256));
        folder
    }

    async fn rehearsed(&self, folder: &Path, server: &Server<'_>) -> Ended {
        let mut rehearse = Mover::new("rehearse", &self.store);
        rehearse.log_in(&self.bao);
        rehearse.unset(env::CA_FILE);
        rehearse.set(env::REHEARSAL, &folder.display().to_string());
        let bao = tools::bao(server.version);
        rehearse.set(env::SERVER, &json!([server.program.unwrap_or(&bao)]).to_string());
        let port = tools::ports(1)[0];
        rehearse.set(env::SERVER_ADDRESS, &format!("127.0.0.1:{port}"));
        rehearse.set(env::SERVER_CONFIG, &config(folder, port, server.seal_key));
        rehearse.set(env::CANARIES, &json!(server.canaries).to_string());
        rehearse.run().await
    }
}

/// The server of a test.
#[derive(Default)]
struct Server<'a> {
    version: &'a str,
    /// Instead of that version's own.
    program: Option<&'a Path>,
    seal_key: &'a [u8],
    canaries: &'a [&'a str],
}

fn config(folder: &Path, port: u16, seal_key: &[u8]) -> String {
    let key: PathBuf = folder.join("seal.key");
    std::fs::write(&key, seal_key).unwrap();
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    format!(
        "api_addr = \"http://127.0.0.1:{port}\"\ncluster_addr = \"http://127.0.0.1:{}\"\n\
         listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  cluster_address = \"127.0.0.1:{}\"\n  tls_disable = true\n}}\n\
         storage \"raft\" {{\n  path = \"{}\"\n  node_id = \"test\"\n  performance_multiplier = 1\n}}\n\
         seal \"static\" {{\n  current_key_id = \"{KEY_ID}\"\n  current_key = \"file://{}\"\n}}\n",
        port + 10_000,
        port + 10_000,
        data.display(),
        key.display(),
    )
}

async fn comes_back(version: &str) {
    let sample = Sample::of(version).await;
    let folder = sample.fetched().await;
    let server =
        Server { version, seal_key: sample.bao.seal_key(), canaries: &["secret/0", "secret/6"], ..Server::default() };
    let ended = sample.rehearsed(folder.path(), &server).await;
    let done: RehearsalDone = ended.done();
    assert_eq!((&done.key, &done.openbao_cluster_id), (&sample.backup.key, &sample.cluster_id));
    assert_eq!((done.version.as_str(), done.canaries, done.isolated), (version, 2, true));
    assert!(done.keys >= sample.backup.inspection.keys_total, "{done:?} {:?}", sample.backup.inspection);
    assert!(done.restore_ms > 0 && done.mounts >= 3, "{done:?}");
    assert_eq!(ended.message["ok"], json!(true), "the termination message says the same");
    assert!(!ended.stderr.contains("for a while"), "no secret is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back_in_a_server_of_its_own_that_reaches_nobody() {
    comes_back("2.7.2").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_backup_of_every_older_version_comes_back_too() {
    for version in ["2.6.1", "2.7.0"] {
        comes_back(version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_not_there_fails_the_test_and_is_named() {
    let sample = Sample::of("2.7.2").await;
    let folder = sample.fetched().await;
    let server = Server {
        version: "2.7.2",
        seal_key: sample.bao.seal_key(),
        canaries: &["secret/0", "secret/nowhere"],
        ..Server::default()
    };
    let ended = sample.rehearsed(folder.path(), &server).await;
    assert_eq!(ended.reason(), ("Rehearsal", "CanaryMissing"), "{}", ended.stderr);
    assert!(ended.message["message"].as_str().unwrap().contains("secret/nowhere"), "{}", ended.message);
}

/// The worst that a backup can be: complete, undamaged, and closed for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_this_key_does_not_open_fails_the_test() {
    let sample = Sample::of("2.7.2").await;
    let folder = sample.fetched().await;
    let server = Server { version: "2.7.2", seal_key: &[7; 32], canaries: &[], ..Server::default() };
    let ended = sample.rehearsed(folder.path(), &server).await;
    assert_eq!(ended.reason(), ("Rehearsal", "ServerNotReady"), "{}", ended.stderr);
    let message = ended.message["message"].as_str().unwrap();
    assert!(message.contains("Sealed") && message.contains("authentication failed"), "{message}");
}

/// Nothing was sent to it: that says nothing of the backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_got_going_is_no_backup_that_does_not_come_back() {
    let sample = Sample::of("2.7.2").await;
    let folder = sample.fetched().await;
    let program = Some(Path::new("/bin/false"));
    let server = Server { version: "2.7.2", program, seal_key: sample.bao.seal_key(), ..Server::default() };
    let ended = sample.rehearsed(folder.path(), &server).await;
    assert_eq!(ended.reason(), ("Rehearsal", "ServerNotStarted"), "{}", ended.stderr);
}
