//! The API server goes away for minutes: nothing of ours falls, and everything goes on when it is back.

use std::time::Duration;

use rustix::process::Signal;

use super::chart::chart;
use crate::harness::{Own, eventually};

const SYSTEM: &str = "openbao-operator-system";
/// Longer than any of our timeouts; `OPENBAO_AWAY_SECONDS` says otherwise.
const AWAY: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn while_the_api_server_is_away_openbao_serves_and_the_operator_waits_for_it() {
    let away = std::env::var("OPENBAO_AWAY_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(AWAY);
    let own = Own::start("away").await;
    let image = own.image().await;
    let chart = chart().display().to_string();
    let mut words = vec!["install", "openbao-operator", &chart, "--create-namespace", "--wait", "--timeout=3m"];
    words.extend(image.iter().flat_map(|set| ["--set", set.as_str()]));
    own.expect_helm(&words);
    own.kubectl(&["create", "namespace", "openbao"]).await;
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/samples/cluster-backup-file.yaml");
    own.kubectl(&["apply", "-n", "openbao", "-f", sample]).await;
    let wait = ["wait", "-n", "openbao", "openbaocluster/main", "--for=condition=Available", "--timeout=300s"];
    own.kubectl(&wait).await;
    let before = started(&own).await;

    // Once as a network does it (nobody answers), once as a crash does it (nobody listens for a moment).
    own.signal("kube-apiserver", Signal::STOP);
    let ip =
        before.lines().find_map(|line| line.strip_prefix("main-0 ")?.split(' ').next()).expect("an address").to_owned();
    for _ in 0..away / 10 {
        let url = format!("https://{ip}:8200/v1/sys/health?standbyok=true");
        own.cluster().expect_inside(&["curl", "-sSkf", "--max-time", "5", &url]).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    own.signal("kube-apiserver", Signal::CONT);
    own.signal("kube-apiserver", Signal::KILL);

    eventually("both replicas are ready again", Duration::from_secs(120), async || {
        let output = own.cluster().inside(&["kubectl", "get", "pods", "-n", SYSTEM, "-o", READY]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.matches("true").count() == 2 { Ok(()) } else { Err(text) }
    })
    .await;
    let restarts = own.kubectl(&["get", "pods", "-n", SYSTEM, "-o", RESTARTS]).await;
    // The one that led cannot know whether it still does, so it ends itself once. Nobody falls again and again.
    let counts: Vec<u32> = restarts.split_whitespace().map(|count| count.parse().unwrap()).collect();
    assert!(
        counts.len() == 2 && counts.iter().all(|count| *count <= 2) && counts.iter().sum::<u32>() <= 3,
        "{restarts}"
    );
    let said = own.expect_plugin(&["-n", "openbao", "backup", "main", "--wait", "--timeout=5m"]);
    assert!(said.contains("Succeeded"), "{said}");
    assert_eq!(started(&own).await, before, "no server was touched");
}

const READY: &str = "jsonpath={.items[*].status.containerStatuses[0].ready}";
const RESTARTS: &str = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";

/// Each server, its address, and when it was started.
async fn started(own: &Own) -> String {
    let format = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.status.containerStatuses[0].containerID}{\"\\n\"}{end}";
    let all = own.kubectl(&["get", "pods", "-n", "openbao", "-o", format]).await;
    let servers = ["main-0", "main-1", "main-2"];
    let lines = all.lines().filter(|line| servers.contains(&line.split(' ').next().unwrap_or_default()));
    lines.collect::<Vec<_>>().join("\n")
}
