//! Leader election against the real API server: one at a time, quick hand-over, fail-stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use openbao_operator::adapter::leadership::{self, Leadership};
use openbao_operator::leader::{Candidate, LEASE_DURATION, Lost, RENEW_DEADLINE};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, filter::FilterLayer};

use crate::harness::{Cluster, Namespace, eventually};

const LEASE: &str = "contested";

/// A replica: it competes, leads when it wins, and hands over when stopped.
struct Replica {
    leadership: Leadership,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), Lost>>,
}

impl Replica {
    fn start(client: Client, namespace: &str, name: &str) -> Self {
        let (term, leadership) = leadership::channel();
        let stop = CancellationToken::new();
        let candidate = Candidate::new(client, namespace, LEASE, name.to_owned());
        let task = tokio::spawn({
            let stop = stop.clone();
            async move {
                let Some(held) = candidate.acquire(&stop, |_| {}).await else { return Ok(()) };
                let held = candidate.keep(held, &term, &stop).await?;
                term.end();
                candidate.release(held).await;
                Ok(())
            }
        });
        Self { leadership, stop, task }
    }

    /// As SIGKILL would: nothing is released.
    fn kill(&self) {
        self.task.abort();
    }
}

async fn leads(replica: &Replica, limit: Duration) -> Duration {
    let start = Instant::now();
    while !replica.leadership.still_leader() {
        assert!(start.elapsed() < limit, "nobody took over within {} s", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

async fn lease(namespace: &Namespace) -> Lease {
    namespace.api::<Lease>().get(LEASE).await.expect("the lease")
}

/// A client whose requests can be cut off, counted before they leave.
async fn cuttable(cluster: &Cluster, cut: Arc<AtomicBool>, writes: Arc<AtomicUsize>) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.devcluster().kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await.unwrap();
    let gate = FilterLayer::new(move |request: Request<Body>| {
        if request.method() == http::Method::PUT {
            writes.fetch_add(1, Ordering::SeqCst);
        }
        if cut.load(Ordering::SeqCst) { Err(BoxError::from("cut off by the test")) } else { Ok(request) }
    });
    ClientBuilder::try_from(config).unwrap().with_layer(&gate).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_candidates_exactly_one_leads() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("leader-one").await;
    let replicas: Vec<Replica> = (0..5)
        .map(|number| Replica::start(cluster.client(), namespace.name(), &format!("candidate-{number}")))
        .collect();
    eventually("somebody leads", Duration::from_secs(10), async || {
        let leaders = replicas.iter().filter(|replica| replica.leadership.still_leader()).count();
        if leaders == 1 { Ok(()) } else { Err(format!("{leaders} leaders")) }
    })
    .await;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let leaders = replicas.iter().filter(|replica| replica.leadership.still_leader()).count();
        assert_eq!(leaders, 1);
    }
    replicas.iter().for_each(Replica::kill);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_within_a_second() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("leader-stop").await;
    let first = Replica::start(cluster.client(), namespace.name(), "first");
    leads(&first, Duration::from_secs(10)).await;
    let second = Replica::start(cluster.client(), namespace.name(), "second");
    // The standby must have seen the lease: a hand-over is measured, not a start.
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.stop.cancel();
    let took = leads(&second, Duration::from_secs(20)).await;
    assert!(took <= Duration::from_secs(1), "hand-over took {took:?}");
    assert!(!first.leadership.still_leader());
    first.task.await.unwrap().unwrap();
    second.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_within_twenty_seconds_and_not_before_it_had_to_stop() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("leader-kill").await;
    let first = Replica::start(cluster.client(), namespace.name(), "first");
    leads(&first, Duration::from_secs(10)).await;
    let second = Replica::start(cluster.client(), namespace.name(), "second");
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.kill();
    let took = leads(&second, Duration::from_secs(25)).await;
    assert!(took <= Duration::from_secs(20), "take-over took {took:?}");
    assert!(!first.leadership.still_leader(), "the first one's term had run out by then");
    assert_eq!(lease(&namespace).await.spec.unwrap().lease_transitions, Some(1));
    second.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_from_the_api_server_stops_by_itself_before_anyone_takes_over() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("leader-cut").await;
    let cut = Arc::new(AtomicBool::new(false));
    let client = cuttable(&cluster, cut.clone(), Arc::default()).await;
    let first = Replica::start(client, namespace.name(), "first");
    leads(&first, Duration::from_secs(10)).await;
    let second = Replica::start(cluster.client(), namespace.name(), "second");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    cut.store(true, Ordering::SeqCst);
    while first.leadership.still_leader() {
        assert!(!second.leadership.still_leader(), "two at once");
        assert!(start.elapsed() <= RENEW_DEADLINE + Duration::from_secs(1), "it acts past its deadline");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(first.task.await.unwrap(), Err(Lost::NotRenewed)));
    leads(&second, LEASE_DURATION + Duration::from_secs(5)).await;
    second.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_was_given_to_another_stops() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("leader-taken").await;
    let first = Replica::start(cluster.client(), namespace.name(), "first");
    leads(&first, Duration::from_secs(10)).await;
    let patch = serde_json::json!({"spec": {"holderIdentity": "somebody-else"}});
    namespace.api::<Lease>().patch(LEASE, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let lost = first.task.await.unwrap();
    assert!(matches!(&lost, Err(Lost::Taken { holder }) if holder == "somebody-else"), "{lost:?}");
    assert!(!first.leadership.still_leader());
}

#[tokio::test(flavor = "multi_thread")]
async fn leading_costs_at_most_twelve_writes_a_minute() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("leader-writes").await;
    let writes = Arc::new(AtomicUsize::new(0));
    let client = cuttable(&cluster, Arc::default(), writes.clone()).await;
    let only = Replica::start(client, namespace.name(), "only");
    leads(&only, Duration::from_secs(10)).await;
    // A quarter of a minute: three renewals.
    tokio::time::sleep(Duration::from_millis(15_500)).await;
    assert_eq!(writes.load(Ordering::SeqCst), 3);
    only.kill();
}
