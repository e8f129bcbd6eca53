//! A thousand clusters: what the operator costs, and what it takes, when there is nothing behind them but objects.
//!
//! The Kubernetes is real; its nodes and pods are simulated by kwok, and one program answers for every OpenBao server
//! (unsealed, of one cluster, led by ordinal 0). So this measures the operator and the API server, and nothing of
//! OpenBao. It has a devcluster of its own, because simulated nodes would take other tests' pods.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use openbao_operator::api::{ClusterPhase, OpenBaoCluster, OpenBaoOperation};
use serde_json::{Value, json};
use xtask::devcluster::parts;

use crate::harness::{Audit, Namespace, Operator, Own, eventually};

/// Simulated nodes; each holds about a hundred pods.
const NODES: usize = 20;
/// Namespaces that the clusters are spread over.
const NAMESPACES: usize = 20;
/// Clusters whose servers fall silent.
const SILENT: usize = 10;
/// Operations that have ended, beside each cluster at the end: as many as are kept of a cluster after some years.
const RECORDS: usize = 50;
/// One of them: the record of a real backup, with other names.
const RECORD: &str = include_str!("record.json");
/// Requests that the test itself has under way at a time.
const AT_ONCE: usize = 16;
const LONG: Duration = Duration::from_secs(1800);

/// Ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: the program that answers for every server, started by the benchmark in the node's network.
#[tokio::test]
#[ignore = "a part of bench_scale"]
async fn answers_for_every_server() {
    if std::env::var_os("OPENBAO_BENCH_RESPONDER").is_none() {
        return;
    }
    // Once told so, the servers of the first clusters take a connection and never answer.
    let slow = Arc::new(AtomicBool::new(false));
    let told = slow.clone();
    let turn_slow = move || async move { told.store(true, Ordering::Relaxed) };
    let patience = move |cluster: &str| {
        let number = cluster.trim_start_matches('c').parse().unwrap_or(usize::MAX);
        let hangs = number < SILENT && slow.load(Ordering::Relaxed);
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
        }
    };
    // `<cluster>-<ordinal>.<cluster>.<namespace>.svc:8200`
    let split = |headers: &HeaderMap| -> (String, String, String) {
        let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        let mut labels = host.split('.').map(str::to_owned);
        (labels.next().unwrap_or_default(), labels.next().unwrap_or_default(), labels.next().unwrap_or_default())
    };
    let health = move |headers: HeaderMap| async move {
        let (pod, cluster, namespace) = split(&headers);
        patience(&cluster).await;
        let code = if pod.ends_with("-0") { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
        let id = format!("{namespace}-{cluster}");
        (code, json!({"initialized": true, "sealed": false, "version": "2.7.2", "cluster_id": id}).to_string())
    };
    let leader = move |headers: HeaderMap| async move {
        let (pod, cluster, namespace) = split(&headers);
        let address = format!("http://{cluster}-0.{cluster}.{namespace}.svc:8200");
        json!({"is_self": pod.ends_with("-0"), "leader_address": address}).to_string()
    };
    let raft = move |headers: HeaderMap| async move {
        let (_, cluster, _) = split(&headers);
        let server = json!({"node_id": format!("{cluster}-0"), "leader": true, "voter": true});
        json!({"data": {"config": {"servers": [server]}}}).to_string()
    };
    let app = Router::new()
        .route("/slow", post(turn_slow))
        .route("/v1/sys/health", get(health))
        .route("/v1/sys/leader", get(leader))
        .route("/v1/sys/storage/raft/configuration", get(raft))
        .route("/v1/auth/jwt/login", post(async || json!({"auth": {"client_token": "token"}}).to_string()));
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", 8200)).await.expect("the port of OpenBao");
    axum::serve(listener, app).await.expect("it serves until it is killed");
}

/// Dropped in this order: the node goes last.
struct Bench {
    _programs: [Ended; 2],
    namespaces: Vec<Namespace>,
    count: usize,
    user: String,
    own: Own,
}

impl Bench {
    async fn start() -> Self {
        let count = std::env::var("OPENBAO_BENCH_CLUSTERS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
        let own = Own::with("scale", &["helm", "kwok"]).await;
        let cluster = own.cluster();
        cluster.apply_kinds().await;
        let kwok =
            parts::folder(cluster.devcluster(), "kwok").expect("kwok's folder").join("kwok").display().to_string();
        let mut namespaces = Vec::new();
        for _ in 0..NAMESPACES {
            namespaces.push(cluster.namespace("bench-scale").await);
        }
        let inside = |program: &str| {
            let mut command = cluster.devcluster().inside_network().expect("a running node");
            command.arg(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut command = inside(&kwok);
        command.arg(format!("--kubeconfig={}", cluster.devcluster().inner_kubeconfig().display()));
        command.args(["--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake"]);
        command.args(["--cidr=10.199.0.1/16", "--node-ip=127.0.0.1", "--node-lease-duration-seconds=40"]);
        command.arg(concat!("--config=", env!("CARGO_MANIFEST_DIR"), "/tests/cluster/stages.yaml"));
        let log = namespaces[0].folder().join("kwok.log");
        let out = std::fs::File::create(&log).expect("kwok's log");
        eprintln!("kwok's log: {}", log.display());
        command.stdout(out.try_clone().expect("its log")).stderr(out);
        let nodes = Ended(command.spawn().expect("kwok starts"));
        let me = std::env::current_exe().expect("this program");
        let mut command = inside(&me.display().to_string());
        command.args(["cluster::scale::answers_for_every_server", "--exact", "--ignored"]);
        command.env("OPENBAO_BENCH_RESPONDER", "1");
        let responder = Ended(command.spawn().expect("the responder starts"));
        let user = format!("system:serviceaccount:{}:openbao-operator", namespaces[0].name());
        let bench = Self { _programs: [nodes, responder], namespaces, count, user, own };
        bench.make_nodes().await;
        bench
    }

    async fn make_nodes(&self) {
        let mut yaml = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: bench}\nprovisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: Immediate\n".to_owned();
        for number in 0..NODES {
            let _ = write!(
                yaml,
                "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: bench-{number}\n  annotations: {{kwok.x-k8s.io/node: fake}}\n  \
                 labels: {{bench: \"yes\"}}\nspec: {{taints: [{{key: bench, value: \"yes\", effect: NoSchedule}}]}}\n\
                 status:\n  allocatable: {{cpu: \"999\", memory: 9Ti, pods: \"999\"}}\n  capacity: {{cpu: \"999\", memory: 9Ti, pods: \"999\"}}\n"
            );
        }
        self.namespaces[0].apply(&yaml).await;
        let nodes: Api<Node> = Api::all(self.own.cluster().client());
        let mut networks = eventually("the simulated nodes are ready", Duration::from_secs(120), async || {
            let all =
                nodes.list(&ListParams::default().labels("bench=yes")).await.map_err(|error| error.to_string())?;
            let ready = |node: &&Node| {
                let status = node.status.as_ref().and_then(|status| status.conditions.as_ref());
                status.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
            };
            let ready: Vec<&Node> = all.items.iter().filter(ready).collect();
            let networks = ready.iter().filter_map(|node| node.spec.as_ref()?.pod_cidr.clone());
            if ready.len() == NODES { Ok(networks.collect::<Vec<String>>()) } else { Err(format!("{}", ready.len())) }
        })
        .await;
        networks.push("10.199.0.0/16".to_owned());
        for network in networks {
            // Every simulated pod's address is this machine's.
            self.own.cluster().inside(&["ip", "route", "replace", "local", &network, "dev", "lo"]).await;
        }
    }

    async fn each<F: Future<Output = ()>>(&self, act: impl Fn(&Namespace, String) -> F) {
        use futures::StreamExt;
        let all = (0..self.count).map(|number| act(&self.namespaces[number % NAMESPACES], format!("c{number}")));
        futures::stream::iter(all).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    }

    async fn make_volumes(&self) {
        self.each(|namespace, name| {
            let (volumes, namespace) = (Api::<PersistentVolume>::all(self.own.cluster().client()), namespace.name().to_owned());
            async move {
                let volume = json!({
                    "metadata": {"name": format!("{namespace}-{name}"), "labels": {"bench": "yes"}},
                    "spec": {
                        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "bench",
                        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp"},
                        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": format!("data-{name}-0")}
                    }
                });
                volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
            }
        })
        .await;
    }

    async fn make_clusters(&self) {
        self.each(|namespace, name| {
            let api = namespace.api::<OpenBaoCluster>();
            async move {
                let cluster = json!({
                    "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster", "metadata": {"name": name},
                    "spec": {
                        "version": "2.7.2", "replicas": 1, "profile": "Development", "tls": {"enabled": false},
                        "storage": {"size": "1Gi", "storageClassName": "bench"},
                        "selfInit": {"enabled": true, "oidc": {"enabled": true}},
                        "pod": {"nodeSelector": {"bench": "yes"}, "tolerations": [{"key": "bench", "operator": "Exists"}]}
                    }
                });
                api.create(&PostParams::default(), &serde_json::from_value(cluster).unwrap()).await.unwrap();
            }
        })
        .await;
    }

    /// Puts records of ended backups beside every cluster, as many as it says.
    async fn make_records(&self, each: usize) {
        self.each(|namespace, name| {
            let (clusters, records) = (namespace.api::<OpenBaoCluster>(), namespace.api::<OpenBaoOperation>());
            let namespace = namespace.name().to_owned();
            async move {
                let uid = clusters.get(&name).await.unwrap().metadata.uid.unwrap();
                for number in 0..each {
                    let record = RECORD
                        .replace("NAMESPACE", &namespace)
                        .replace("CLUSTER-UID", &uid)
                        .replace("CLUSTER", &name)
                        .replace("RECORD", &format!("{name}-backup-{number}"))
                        .replace("EARLIER", &format!("{name}-backup-{}", number.saturating_sub(1)));
                    let mut record: Value = serde_json::from_str(&record).unwrap();
                    record["metadata"] = json!({"name": format!("{name}-backup-{number}")});
                    let status = json!({"status": record["status"].take()});
                    let object: OpenBaoOperation = serde_json::from_value(record).unwrap();
                    let made = records.create(&PostParams::default(), &object).await.unwrap();
                    let made = made.metadata.name.unwrap();
                    records.patch_status(&made, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
                }
            }
        })
        .await;
    }

    /// Waits until this holds for every cluster; returns the seconds it took.
    async fn all(&self, what: &str, holds: impl Fn(&OpenBaoCluster) -> bool) -> f64 {
        let start = Instant::now();
        loop {
            let mut missing = 0;
            for namespace in &self.namespaces {
                let found = namespace.api::<OpenBaoCluster>().list(&ListParams::default()).await.expect("the clusters");
                missing += found.items.iter().filter(|cluster| !holds(cluster)).count();
            }
            if missing == 0 {
                return start.elapsed().as_secs_f64();
            }
            assert!(start.elapsed() < LONG, "{what}: {missing} clusters are not there yet");
            eprintln!("{what}: {missing} to go after {:.0} s", start.elapsed().as_secs_f64());
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    /// Changes every cluster, and waits until it is done for those that `counts` tells.
    async fn change_all(&self, word: &str, operator: &Operator, counts: impl Fn(&OpenBaoCluster) -> bool) -> Value {
        let audit = self.own.cluster().audit();
        let start = Instant::now();
        self.each(|namespace, name| {
            let api = namespace.api::<OpenBaoCluster>();
            let patch = json!({"spec": {"service": {"annotations": {"changed": word}}}});
            async move {
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
            }
        })
        .await;
        let asked = start.elapsed().as_secs_f64();
        self.all("a change of all", |cluster| {
            let seen = cluster.status.as_ref().and_then(|status| status.observed_generation);
            !counts(cluster) || seen == cluster.metadata.generation
        })
        .await;
        json!({
            "seconds_to_ask": asked, "seconds_to_all_done": start.elapsed().as_secs_f64(), "costs": self.costs(&audit),
            "resident_mib": operator.memory() >> 20
        })
    }

    /// Changes the one that was made last, and waits until that is done while all the others are looked at.
    async fn change_one(&self, word: &str) {
        let last = self.count - 1;
        let (namespace, name) = (&self.namespaces[last % NAMESPACES], format!("c{last}"));
        super::change(namespace, &name, json!({"service": {"annotations": {"again": word}}})).await;
        eventually("one change is done among the others", LONG, async || {
            let cluster = super::get(namespace, &name).await?;
            let seen = cluster.status.as_ref().and_then(|status| status.observed_generation);
            if seen == cluster.metadata.generation { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }

    fn costs(&self, audit: &Audit) -> Value {
        let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
        let (mut requests, mut writes) = (0, 0);
        for request in audit.requests(&self.user) {
            if request.resource.starts_with("leases") || request.verb == "watch" {
                continue;
            }
            requests += 1;
            writes += u32::from(request.writes() && !request.resource.ends_with("/token"));
            *kinds.entry(format!("{} {}", request.verb, request.resource)).or_default() += 1;
        }
        json!({"requests": requests, "writes": writes, "kinds": kinds})
    }
}

/// The number in its name.
fn number(cluster: &OpenBaoCluster) -> usize {
    kube::ResourceExt::name_any(cluster).trim_start_matches('c').parse().unwrap_or_default()
}

#[tokio::test]
#[ignore = "a benchmark"]
async fn bench_scale() {
    let bench = Bench::start().await;
    // As the chart has it: every namespace, by one watch for each kind.
    let env = [("OPENBAO_WATCH_NAMESPACES", ""), ("OPENBAO_LEADER_ELECT", "false"), ("RUST_LOG", "warn")];
    bench.make_volumes().await;
    let mut operator = Operator::start_released(&bench.namespaces[0], &env).await;
    let empty = operator.memory() >> 20;

    let audit = bench.own.cluster().audit();
    let start = Instant::now();
    bench.make_clusters().await;
    let made = start.elapsed().as_secs_f64();
    let running = |cluster: &OpenBaoCluster| {
        let status = cluster.status.as_ref();
        status.is_some_and(|status| status.phase == Some(ClusterPhase::Running) && status.failure_tolerance.is_some())
    };
    bench.all("first start", running).await;
    let first = json!({
        "seconds_to_create": made, "seconds_to_all_available": start.elapsed().as_secs_f64(), "costs": bench.costs(&audit),
        "resident_mib": operator.memory() >> 20
    });
    eprintln!("first: {first}");

    tokio::time::sleep(Duration::from_secs(30)).await;
    let audit = bench.own.cluster().audit();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let steady = json!({"minutes": 2, "costs": bench.costs(&audit), "resident_mib": operator.memory() >> 20});
    eprintln!("steady: {steady}");

    let change = bench.change_all("once", &operator, |_| true).await;
    eprintln!("change: {change}");

    // Some servers take connections and say nothing, and everybody is asked for something again.
    let told = bench.own.cluster().inside(&["curl", "-sSf", "-X", "POST", "http://127.0.0.1:8200/slow"]).await;
    assert!(told.status.success(), "{told:?}");
    let speaks = |cluster: &OpenBaoCluster| number(cluster) >= SILENT;
    let beside_silence = bench.change_all("twice", &operator, speaks).await;
    eprintln!("beside_silence: {beside_silence}");

    tokio::time::sleep(Duration::from_secs(30)).await;
    operator.kill();
    let audit = bench.own.cluster().audit();
    let start = Instant::now();
    let mut operator = Operator::start_released(&bench.namespaces[0], &env).await;
    bench.change_one("restart").await;
    let answered = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(90)).await;
    let restart = json!({
        "seconds_to_answer_one": answered, "costs_in_90_s": bench.costs(&audit), "resident_mib": operator.memory() >> 20
    });
    eprintln!("restart: {restart}");

    // Two replicas, as the chart has it: the leader is told to go, and the standby has seen nothing yet but objects.
    operator.kill();
    let env = [("OPENBAO_WATCH_NAMESPACES", ""), ("RUST_LOG", "warn")];
    let mut leader = Operator::start_released(&bench.namespaces[0], &env).await;
    bench.change_one("leader").await;
    let mut standby = Operator::start_released(&bench.namespaces[0], &env).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let waiting = standby.memory() >> 20;
    let audit = bench.own.cluster().audit();
    let start = Instant::now();
    leader.stop(Duration::from_secs(30)).await;
    bench.change_one("handover").await;
    let answered = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let handover = json!({
        "seconds_to_answer_one": answered, "costs_in_60_s": bench.costs(&audit), "resident_mib_standby": waiting,
        "resident_mib": standby.memory() >> 20
    });
    eprintln!("handover: {handover}");

    // Years later: a start that has to read all that is kept. The lease is given back before: of one whose holder died the next one
    // sits out the term, a quarter of a minute in which nothing is read yet.
    standby.stop(Duration::from_secs(30)).await;
    let each = std::env::var("OPENBAO_BENCH_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(RECORDS);
    bench.make_records(each).await;
    let audit = bench.own.cluster().audit();
    let start = Instant::now();
    let operator = Operator::start_released(&bench.namespaces[0], &env).await;
    bench.change_one("records").await;
    let answered = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(90)).await;
    let records = json!({
        "of_each_cluster": each, "seconds_to_answer_one": answered, "costs_in_90_s": bench.costs(&audit),
        "resident_mib": operator.memory() >> 20, "resident_mib_at_most": operator.peak() >> 20
    });
    println!(
        "BENCH {}",
        json!({
            "name": "scale", "clusters": bench.count, "responder": "one program answers for every OpenBao; pods by kwok",
            "resident_mib_empty": empty, "first_start": first, "steady": steady, "change_of_all": change,
            "change_beside_ten_silent": beside_silence, "restart": restart, "handover": handover,
            "records": records
        })
    );
    assert_eq!(steady["costs"]["writes"], 0, "nothing is written when nothing changes");
}
