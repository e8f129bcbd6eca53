//! The part of a restore that talks to the API server: report, leave, claim, POST, result. Needs the devcluster.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use openbao_operator::adapter::openbao::Token;
use openbao_operator::datapath::environment as env;
use openbao_operator::datapath::protocol::{
    BackupDone, CLAIM, Claim, Endpoint, GRANT, Grant, Permit, REPORT, RESULT, Report, ReportKind, RestoreDone,
    Submission, SubmissionOutcome,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::bao::Bao;
use super::faults::port;
use super::mover::{Mover, Started};
use super::slow::Slow;
use super::stores::{self, Running};
use crate::harness::{Cluster, Namespace, eventually};

const MAP: &str = "restore-mover";

struct Desk {
    namespace: Namespace,
    maps: Api<ConfigMap>,
}

impl Desk {
    async fn new(name: &str) -> Self {
        let namespace = Cluster::get().await.namespace(name).await;
        namespace.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {MAP}}}\n")).await;
        let maps = namespace.api();
        Self { namespace, maps }
    }

    async fn read<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let map = self.maps.get(MAP).await.unwrap();
        map.data.unwrap_or_default().get(key).map(|text| serde_json::from_str(text).unwrap())
    }

    async fn write(&self, key: &str, value: &impl serde::Serialize) {
        let patch = json!({"data": {key: serde_json::to_string(value).unwrap()}});
        self.maps.patch(MAP, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn report(&self) -> Report {
        eventually("the mover reports", Duration::from_secs(60), async || {
            self.read(REPORT).await.ok_or_else(|| "no report yet".to_owned())
        })
        .await
    }

    fn mover(&self, bao: &Bao, store: &Running, pod_uid: &str) -> Mover {
        let mut mover = Mover::new("restore", store);
        mover.log_in(bao);
        mover.set(env::LATEST, "true");
        mover.set(env::SCRATCH, &mover.scratch().display().to_string());
        mover.set(env::CONFIG_MAP, MAP);
        mover.set(env::NAMESPACE, "test");
        mover.set(env::POD_UID, pod_uid);
        mover.set("KUBECONFIG", &self.namespace.cluster().devcluster().kubeconfig().display().to_string());
        mover.set(env::REPORT_NAMESPACE, self.namespace.name());
        mover
    }
}

async fn permit(bao: &Bao, pod_uid: &str) -> Permit {
    let leader = bao.wait_for_leader().await;
    Permit {
        pod_uid: pod_uid.to_owned(),
        fence: 7,
        leader: bao.peers()[leader].clone(),
        endpoint: Endpoint::Snapshot,
        // By a clock that has nothing to do with the mover's.
        expires_at: Utc::now() - TimeDelta::days(1),
    }
}

async fn write_policy(bao: &Bao, name: &str) -> Token {
    let admin = bao.admin().await;
    let leader = bao.wait_for_leader().await;
    bao.client(leader).put_policy(&admin, name, "path \"x\" { capabilities = [\"read\"] }").await.unwrap();
    admin
}

async fn started_and_reported(desk: &Desk, bao: &Bao, store: &Running, pod: &str) -> Started {
    let started = desk.mover(bao, store, pod).start();
    let report = desk.report().await;
    assert_eq!((report.kind, report.pod_uid.as_str()), (ReportKind::Verified, pod));
    assert!(report.manifest.is_some() && report.inspection.is_some() && !report.sealed_sums.is_empty());
    started
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_sent_once_under_a_claim_and_the_data_comes_back() {
    let desk = Desk::new("submit").await;
    let bao = Bao::start("2.7.2", 1).await;
    let store = stores::file();
    Mover::backup(&bao, &store).run().await.done::<BackupDone>();
    // Written after the backup: gone once it is restored.
    write_policy(&bao, "marker").await;

    let started = started_and_reported(&desk, &bao, &store, "pod-1").await;
    assert_eq!(desk.read::<Claim>(CLAIM).await, None, "no claim without leave");
    desk.write(GRANT, &Grant::Granted(permit(&bao, "pod-1").await)).await;
    let done: RestoreDone = started.wait().await.done();
    assert_eq!(done.submission.unwrap().outcome, SubmissionOutcome::Accepted);
    let claim: Claim = desk.read(CLAIM).await.unwrap();
    assert_eq!((claim.pod_uid.as_str(), claim.fence), ("pod-1", 7));
    assert_eq!(desk.read::<Submission>(RESULT).await.unwrap().status, Some(204));
    eventually("the marker is gone", Duration::from_secs(60), async || {
        let leader = bao.leader().await.ok_or("no leader")?;
        let login = tokio::time::timeout(Duration::from_secs(5), bao.admin()).await.map_err(|_| "no login")?;
        match bao.client(leader).policy_exists(&login, "marker").await {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    // A second pod finds the claim and goes away, whatever leave it has.
    let second = started_and_reported_again(&desk, &bao, &store).await;
    desk.write(GRANT, &Grant::Granted(permit(&bao, "pod-2").await)).await;
    let ended = second.wait().await;
    assert_eq!((ended.code, ended.reason()), (11, ("Claimed", "AlreadyClaimed")), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_store_that_goes_away_during_the_download_is_no_verdict_on_the_snapshot() {
    let desk = Desk::new("download").await;
    let bao = Bao::start("2.7.2", 1).await;
    bao.fill(24).await;
    let mut store = stores::seaweed(false).await;
    Mover::backup(&bao, &store).run().await.done::<BackupDone>();
    let line = Slow::to(port(store.target.endpoint.as_deref().unwrap()), 2 << 20).await;
    store.target.endpoint = Some(format!("http://{}", line.address));
    let mut started = desk.mover(&bao, &store, "pod-1").start();
    started.spools(4 << 20).await;
    store.kill();
    let ended = started.wait().await;
    assert_eq!(ended.result["cause"], "Store", "{}", ended.result);
    let report = desk.read::<Report>(REPORT).await;
    assert!(report.is_none_or(|report| report.kind == ReportKind::Failed), "the snapshot itself was not judged");
}

async fn started_and_reported_again(desk: &Desk, bao: &Bao, store: &Running) -> Started {
    desk.write(GRANT, &"").await;
    let patch = json!({"data": {GRANT: null, REPORT: null}});
    desk.maps.patch(MAP, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    started_and_reported(desk, bao, store, "pod-2").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_refused_leave_ends_the_mover_without_a_claim() {
    let desk = Desk::new("refused").await;
    let bao = Bao::start("2.7.2", 1).await;
    let store = stores::file();
    Mover::backup(&bao, &store).run().await.done::<BackupDone>();
    let started = started_and_reported(&desk, &bao, &store, "pod-1").await;
    desk.write(GRANT, &Grant::Refused { refused: "its version is newer".into() }).await;
    let done: RestoreDone = started.wait().await.done();
    assert_eq!((done.submission, desk.read::<Claim>(CLAIM).await), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn leave_for_another_pod_or_a_follower_sends_nothing() {
    let desk = Desk::new("wrong-leave").await;
    let bao = Bao::start("2.7.2", 3).await;
    let store = stores::file();
    Mover::backup(&bao, &store).run().await.done::<BackupDone>();
    let good = permit(&bao, "pod-1").await;
    let follower = bao.peers().into_iter().find(|peer| *peer != good.leader).unwrap();
    let wrong = [
        (Permit { pod_uid: "pod-9".into(), ..good.clone() }, "GrantUnusable"),
        (Permit { leader: follower, ..good }, "LeaderChanged"),
    ];
    for (permit, reason) in wrong {
        let started = started_and_reported(&desk, &bao, &store, "pod-1").await;
        desk.write(GRANT, &Grant::Granted(permit)).await;
        let ended = started.wait().await;
        assert_eq!(ended.result["reason"], reason, "{}", ended.stderr);
        assert_eq!(desk.read::<Claim>(CLAIM).await, None);
        let patch = json!({"data": {GRANT: null, REPORT: null}});
        desk.maps.patch(MAP, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn the_server_s_refusal_is_reported_word_for_word() {
    let desk = Desk::new("other-key").await;
    let source = Bao::start("2.7.2", 1).await;
    let target = Bao::start("2.7.2", 1).await;
    let store = stores::file();
    Mover::backup(&source, &store).run().await.done::<BackupDone>();
    let started = started_and_reported(&desk, &target, &store, "pod-1").await;
    desk.write(GRANT, &Grant::Granted(permit(&target, "pod-1").await)).await;
    let ended = started.wait().await;
    assert_eq!((ended.code, ended.reason()), (13, ("Refused", "SubmissionRefused")), "{}", ended.stderr);
    let told: Submission = desk.read(RESULT).await.unwrap();
    assert_eq!((told.outcome, told.status), (SubmissionOutcome::Refused, Some(400)));
    assert!(told.message.contains("different autoseal key"), "{}", told.message);
}
