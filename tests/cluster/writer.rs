//! A client that writes all the time and remembers what was acknowledged.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::harness::{Cluster, Namespace, eventually};

/// Writes ten times a second until it is stopped.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Written>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Written {
    /// Numbers of the writes that OpenBao acknowledged.
    pub acknowledged: Vec<u32>,
    /// Spans without an acknowledged write in which at least one failed: how many writes failed, and how long it took.
    pub outages: Vec<(u32, Duration)>,
}

impl Writer {
    /// Starts writing to `secret/n-<number>` through the public Service.
    pub fn start(namespace: &Namespace, cluster: &str, token: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, kube) = (stop.clone(), namespace.cluster().clone());
        let url = format!("https://{cluster}-public.{}.svc:8200/v1/secret", namespace.name());
        let header = format!("X-Vault-Token: {token}");
        let task = tokio::spawn(async move {
            let mut written = Written::default();
            let (mut failed, mut since) = (0, Instant::now());
            for number in 0.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let begun = Instant::now();
                if post(&kube, &format!("{url}/n-{number}"), &header).await {
                    if failed > 0 {
                        written.outages.push((failed, since.elapsed()));
                    }
                    (failed, since) = (0, Instant::now());
                    written.acknowledged.push(number);
                } else {
                    failed += 1;
                }
                tokio::time::sleep(Duration::from_millis(100).saturating_sub(begun.elapsed())).await;
            }
            written
        });
        Self { stop, task }
    }

    /// Stops, and reads every acknowledged write back.
    pub async fn stop(self, namespace: &Namespace, cluster: &str, token: &str) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let written = self.task.await.expect("the writer");
        // From the leader: a standby that was restarted answers from what it has, and the leader may send it the rest only
        // some ten seconds later.
        let url = format!("https://{cluster}-active.{}.svc:8200/v1/secret", namespace.name());
        let header = format!("X-Vault-Token: {token}");
        let words = ["curl", "-sSk", "--fail", "--max-time", "5", "-X", "LIST", "-H", &header, &url];
        let list = eventually("what was written can be listed", Duration::from_secs(60), async || {
            let output = namespace.cluster().inside(&words).await;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() && said.contains("keys") { Ok(said) } else { Err(said) }
        })
        .await;
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let keys: std::collections::BTreeSet<&str> =
            list["data"]["keys"].as_array().expect("keys").iter().filter_map(|key| key.as_str()).collect();
        for number in &written.acknowledged {
            assert!(keys.contains(format!("n-{number}").as_str()), "write {number} was acknowledged and is gone");
        }
        written
    }
}

async fn post(cluster: &Cluster, url: &str, header: &str) -> bool {
    let words = ["curl", "-sk", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "-H", header];
    let words: Vec<&str> = words.into_iter().chain(["-d", r#"{"word":"x"}"#, url]).collect();
    let output = cluster.inside(&words).await;
    // A standby that knows no leader to pass the request to answers 307: nothing was written.
    output.status.success() && output.stdout.starts_with(b"20")
}
