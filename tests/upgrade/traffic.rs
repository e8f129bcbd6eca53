//! A writer (4 a second) and a reader (20 a second) that use the Service of the leader while something happens to the cluster.
//!
//! They run as a process of their own in the node's network: this very program, asked for its test [`driver`]. Each
//! request is a connection of its own, as from many clients, and none waits for another.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use openbao_operator::adapter::openbao::{Client, Endpoint, Token};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::restore::setup::Bay;

/// Where the process finds its orders.
const ORDERS: &str = "OPENBAO_TEST_TRAFFIC";
/// The folder of the secrets it writes.
pub const PATH: &str = "traffic";

#[derive(Serialize, Deserialize)]
struct Orders {
    address: SocketAddr,
    tls_name: String,
    ca: Option<String>,
    token: String,
    folder: PathBuf,
}

/// What became of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    pub writes: usize,
    /// Numbers of the writes that were acknowledged: secret `traffic/<n>` must be there.
    pub acknowledged: Vec<usize>,
    pub reads: usize,
    pub failed_reads: usize,
    /// The longest time in which no read succeeded.
    pub longest_read_gap_ms: u128,
    /// The longest time in which no write was acknowledged.
    pub longest_write_gap_ms: u128,
    /// The slowest request that succeeded.
    pub slowest_ms: u128,
    /// Second since the start, and what was said.
    pub failures: Vec<(f64, String)>,
}

impl Counted {
    pub fn failed_writes(&self) -> usize {
        self.writes - self.acknowledged.len()
    }
}

/// Under way until stopped.
pub struct Traffic {
    child: Child,
    folder: PathBuf,
}

impl Traffic {
    pub async fn start(bay: &Bay<'_>, token: &str) -> Self {
        let service = bay.namespace.api::<Service>().get(&format!("{}-active", bay.name)).await.unwrap();
        let ip = service.spec.unwrap().cluster_ip.unwrap();
        let bundle = bay.namespace.api::<ConfigMap>().get(&format!("{}-ca", bay.name)).await.unwrap();
        let orders = Orders {
            address: format!("{ip}:8200").parse().unwrap(),
            tls_name: format!("{}-active.{}.svc", bay.name, bay.namespace.name()),
            ca: bundle.data.and_then(|mut data| data.remove("ca.crt")),
            token: token.to_owned(),
            folder: bay.namespace.folder().to_owned(),
        };
        let folder = orders.folder.clone();
        for file in [stop(&folder), result(&folder)] {
            let _ = fs::remove_file(file);
        }
        let mut command = bay.namespace.cluster().devcluster().inside_network().expect("a running node");
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", "upgrade::traffic::driver", "--ignored", "--nocapture"]);
        command.env(ORDERS, serde_json::to_string(&orders).unwrap());
        let log = fs::File::create(folder.join("traffic.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: command.spawn().expect("the traffic starts"), folder }
    }

    pub async fn stop(mut self) -> Counted {
        fs::write(stop(&self.folder), "").unwrap();
        let limit = Instant::now() + Duration::from_secs(40);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < limit, "the traffic does not stop");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = || fs::read_to_string(self.folder.join("traffic.log")).unwrap_or_default();
        let text = fs::read_to_string(result(&self.folder)).unwrap_or_else(|_| panic!("no result: {}", log()));
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stop(folder: &Path) -> PathBuf {
    folder.join("traffic.stop")
}

fn result(folder: &Path) -> PathBuf {
    folder.join("traffic.json")
}

#[derive(Default)]
struct Seen {
    counted: Counted,
    last_read: Option<Instant>,
    last_write: Option<Instant>,
}

/// The process itself. Asked for without orders it has nothing to do.
#[tokio::test]
#[ignore = "a program that other tests start"]
async fn driver() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let endpoint = Endpoint {
        pod: "traffic".to_owned(),
        address: orders.address,
        tls_name: orders.tls_name.clone(),
        ca_pem: orders.ca.clone(),
    };
    let client = Arc::new(Client::new(&endpoint).unwrap());
    let token = Arc::new(Token::new(orders.token.clone()));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let start = Instant::now();
    let mut requests = tokio::task::JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let (mut turn, mut number) = (0_u32, 0_usize);
    while !stop(&orders.folder).exists() {
        tick.tick().await;
        turn += 1;
        let (client, token, seen) = (client.clone(), token.clone(), seen.clone());
        if turn % 5 == 1 {
            number += 1;
            let (reader, read_token, read_seen, known) = (client.clone(), token.clone(), seen.clone(), number);
            requests.spawn(async move { write(&client, &token, &seen, start, number).await });
            requests.spawn(async move { read(&reader, &read_token, &read_seen, start, known).await });
        } else {
            requests.spawn(async move { read(&client, &token, &seen, start, number).await });
        }
        while requests.try_join_next().is_some() {}
    }
    requests.join_all().await;
    let counted = seen.lock().unwrap().counted.clone();
    fs::write(result(&orders.folder), serde_json::to_string(&counted).unwrap()).unwrap();
}

async fn write(client: &Client, token: &Token, seen: &Mutex<Seen>, start: Instant, number: usize) {
    let began = Instant::now();
    let answer = client.put(token, &format!("secret/{PATH}/{number}"), &json!({"word": number.to_string()})).await;
    let mut seen = seen.lock().unwrap();
    seen.counted.writes += 1;
    match answer {
        Ok(()) => {
            let gap = seen.last_write.map_or(0, |last| last.elapsed().as_millis());
            seen.counted.longest_write_gap_ms = seen.counted.longest_write_gap_ms.max(gap);
            seen.counted.slowest_ms = seen.counted.slowest_ms.max(began.elapsed().as_millis());
            seen.last_write = Some(Instant::now());
            seen.counted.acknowledged.push(number);
        }
        Err(error) => {
            let at = began.duration_since(start).as_secs_f64();
            seen.counted.failures.push((at, format!("write {number}: {error}")));
        }
    }
}

/// Reads what was written a second ago: a standby that is a moment behind is not what is looked for here.
async fn read(client: &Client, token: &Token, seen: &Mutex<Seen>, start: Instant, number: usize) {
    let began = Instant::now();
    let known = {
        let seen = seen.lock().unwrap();
        seen.counted.acknowledged.iter().rev().find(|known| **known + 4 <= number).copied()
    };
    let Some(known) = known else { return };
    let answer = client.get(token, &format!("secret/{PATH}/{known}")).await;
    let mut seen = seen.lock().unwrap();
    seen.counted.reads += 1;
    match answer {
        Ok(body) if body["data"]["word"].as_str() == Some(known.to_string().as_str()) => {
            let gap = seen.last_read.map_or(0, |last| last.elapsed().as_millis());
            seen.counted.longest_read_gap_ms = seen.counted.longest_read_gap_ms.max(gap);
            seen.counted.slowest_ms = seen.counted.slowest_ms.max(began.elapsed().as_millis());
            seen.last_read = Some(Instant::now());
        }
        other => {
            seen.counted.failed_reads += 1;
            let at = began.duration_since(start).as_secs_f64();
            seen.counted.failures.push((at, format!("read {known}: {other:?}")));
        }
    }
}
