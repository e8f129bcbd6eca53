//! A backup there and back, at every kind of store.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openbao_operator::adapter::objectstore::keys;
use openbao_operator::datapath::environment as env;
use openbao_operator::datapath::protocol::{BackupDone, BackupState, ListedBackup, PruneDone, VerifyDone};
use openbao_operator::datapath::seal;
use secrecy::SecretSlice;

use super::bao::{Bao, KEY_ID};
use super::mover::Mover;
use super::stores::{self, Running};

/// Backup, list, read again, inspect, prune: at one store.
async fn there_and_back(bao: &Bao, store: &Running) {
    let ended = Mover::backup(bao, store).run().await;
    let done: BackupDone = ended.done();
    assert_eq!(ended.message["sha256"], done.sha256, "the termination message says the same");
    assert!(done.size_bytes > 11 << 20, "several parts of 5 MiB");

    let opened = store.open();
    let manifest = opened.manifest(&done.key).await.unwrap().unwrap();
    assert_eq!((&manifest.sha256, manifest.size_bytes), (&done.sha256, done.size_bytes));
    assert_eq!(manifest.contents.keys_per_mount, done.inspection.keys_per_mount);
    let (sealed, sums) = (STANDARD.decode(&done.sealed_sums).unwrap(), STANDARD.decode(&done.sums).unwrap());
    assert_eq!(seal::prove(&SecretSlice::from(bao.seal_key().to_vec()), KEY_ID, &sealed, &sums), Ok(()));

    let verified: VerifyDone = Mover::new("verify", store).arg("--latest").run().await.done();
    assert_eq!((verified.key, verified.sha256), (done.key.clone(), done.sha256.clone()));
    assert_eq!(verified.taken_at, Some(done.taken_at));

    let listed: ListedBackup = Mover::new("list", store).run().await.done();
    assert_eq!((listed.key, listed.state), (done.key.clone(), BackupState::Complete));

    let mut prune = Mover::new("prune", store);
    prune.set(env::REMOVE, &serde_json::to_string(&[&done.key]).unwrap());
    let pruned: PruneDone = prune.run().await.done();
    assert_eq!(pruned.removed, [done.key.as_str()]);
    let prefix = keys::cluster_prefix("prod", "test", "c");
    assert_eq!(opened.list(&prefix).await.unwrap().objects, [], "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_there_and_back_at_a_folder_an_s3_server_and_a_double_of_gcs() {
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(12).await;
    there_and_back(&bao, &stores::file()).await;
    there_and_back(&bao, &stores::gcs_double().await).await;
    there_and_back(&bao, &stores::seaweed(false).await).await;
}

/// These need more: Azurite comes from npm.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_backup_goes_there_and_back_at_azurite_and_under_a_private_authority() {
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(12).await;
    there_and_back(&bao, &stores::seaweed(true).await).await;
    there_and_back(&bao, &stores::azurite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_backup_without_a_disk_is_the_same_backup() {
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(12).await;
    let store = stores::file();
    let mut mover = Mover::backup(&bao, &store);
    mover.unset(env::SCRATCH);
    let done: BackupDone = mover.run().await.done();
    let verified: VerifyDone = Mover::new("verify", &store).arg("--latest").run().await.done();
    assert_eq!((verified.sha256, verified.inspection.keys_total), (done.sha256, done.inspection.keys_total));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn the_leader_is_found_among_three_and_an_older_version_is_backed_up_too() {
    let bao = Bao::start("2.6.1", 3).await;
    let store = stores::file();
    let done: BackupDone = Mover::backup(&bao, &store).run().await.done();
    assert_eq!(done.inspection.versions_ever_active, ["2.6.1"]);
    let leader = bao.wait_for_leader().await;
    let health = bao.client(leader).health().await.unwrap();
    let manifest = store.open().manifest(&done.key).await.unwrap().unwrap();
    assert_eq!(Some(manifest.cluster.openbao_cluster_id), health.cluster_id);
}
