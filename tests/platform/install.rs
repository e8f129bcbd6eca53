//! As a new user: the chart is installed, upgraded and removed for real, on a devcluster of its own, while a cluster of the
//! samples lives through it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::chart::chart;
use crate::harness::{Own, eventually};

const SYSTEM: &str = "openbao-operator-system";
const RELEASE: &str = "openbao-operator";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_cluster_lives_through_install_upgrade_uninstall_and_installation_again() {
    let own = Own::start("install").await;
    let image = own.image().await;
    let folder = tempfile::tempdir().unwrap();
    let before = previous_chart(folder.path());
    let now = chart().display().to_string();

    // Before the kinds exist: the operator waits and says so, without a restart.
    let sets = with(&image, &["crds.install=false"]);
    own.expect_helm(&words(&["install", RELEASE, &before.display().to_string(), "--create-namespace"], &sets));
    eventually("both replicas say what they wait for", Duration::from_secs(120), async || {
        let logs = logs(&own).await;
        let says = |line: &&str| line.contains("the custom resource definitions openbaoclusters");
        let pods: BTreeSet<_> = logs.lines().filter(says).filter_map(|line| line.split(' ').next()).collect();
        if pods.len() == 2 { Ok(()) } else { Err(logs) }
    })
    .await;
    let pods = operators(&own).await;
    assert!(pods.iter().all(|pod| restarts(pod) == 0 && !is_ready(pod)), "{pods:#?}");
    let sets = with(&image, &[]);
    own.expect_helm(&words(&["upgrade", RELEASE, &before.display().to_string(), "--wait", "--timeout=3m"], &sets));
    let pods = operators(&own).await;
    assert!(pods.iter().all(|pod| restarts(pod) == 0 && is_ready(pod)), "{pods:#?}");

    // A cluster of the samples, a backup, a restore, as a person asks for them.
    own.kubectl(&["create", "namespace", "openbao"]).await;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/samples/cluster-backup-file.yaml");
    own.kubectl(&["apply", "-n", "openbao", "-f", &sample.display().to_string()]).await;
    available(&own).await;
    let servers = servers(&own).await;
    assert_eq!(servers.len(), 3);
    let said = own.expect_plugin(&["-n", "openbao", "backup", "main", "--wait", "--timeout=5m"]);
    assert!(said.contains("Succeeded"), "{said}");

    // The next version of the chart: its definitions come with it, the operator is another, OpenBao is the same.
    assert!(!knows_jitter(&own).await, "the previous chart's definition lacks a field");
    let old: BTreeSet<String> = uids(&operators(&own).await);
    own.expect_helm(&words(&["upgrade", RELEASE, &now, "--wait", "--timeout=3m"], &sets));
    assert!(knows_jitter(&own).await, "the definitions are upgraded with the release");
    eventually("the old replicas are gone", Duration::from_secs(60), async || {
        let now = uids(&operators(&own).await);
        if now.len() == 2 && now.is_disjoint(&old) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    assert_eq!(self::servers(&own).await, servers, "an operator's upgrade restarts no server");
    let said = own.expect_plugin(&["-n", "openbao", "backup", "main", "--wait", "--timeout=5m"]);
    assert!(said.contains("Succeeded"), "{said}");
    let said = own.expect_plugin(&["-n", "openbao", "restore", "main", "--latest", "--yes", "--wait", "--timeout=8m"]);
    assert!(said.contains("Completed") && said.contains("Proof"), "{said}");

    // Away with the operator. What it made stays and serves.
    let servers = self::servers(&own).await;
    own.expect_helm(&["uninstall", RELEASE, "--wait", "--timeout=2m"]);
    assert!(operators(&own).await.is_empty());
    let roles = own.kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"]).await;
    assert!(!roles.contains(RELEASE), "rights stay behind: {roles}");
    let definitions = own.kubectl(&["get", "crd", "-o", "name"]).await;
    assert_eq!(definitions.matches("openbao.org").count(), 4, "{definitions}");
    assert_eq!(self::servers(&own).await, servers, "the servers run on");
    let records = own.get(&["-n", "openbao", "openbaooperations,openbaorestores"]).await;
    assert!(records["items"].as_array().unwrap().len() >= 4, "the records stay");
    let health = own.kubectl(&["exec", "-n", "openbao", "main-0", "--", "bao", "status", "-tls-skip-verify"]).await;
    assert!(health.contains("Sealed") && health.contains("false"), "{health}");

    // And again, in one namespace only. The definitions that stayed are taken over without a word.
    let sets = with(&image, &["watchNamespaces={openbao}"]);
    own.expect_helm(&words(&["install", RELEASE, &now, "--wait", "--timeout=3m"], &sets));
    let roles = own.kubectl(&["get", "clusterroles", "-o", "name"]).await;
    assert!(!roles.lines().any(|role| role.ends_with("/openbao-operator")), "no right everywhere: {roles}");
    let said = own.expect_plugin(&["-n", "openbao", "backup", "main", "--wait", "--timeout=5m"]);
    assert!(said.contains("Succeeded"), "{said}");
    assert_eq!(self::servers(&own).await, servers, "nor does an installation");

    // A namespace that it may not look into is named, and disturbs neither the process nor the other namespace.
    own.kubectl(&["create", "namespace", "closed"]).await;
    let sets = with(&image, &["watchNamespaces={openbao,closed}"]);
    own.expect_helm(&words(&["upgrade", RELEASE, &now, "--wait", "--timeout=3m"], &sets));
    own.kubectl(&["delete", "rolebinding", "-n", "closed", RELEASE]).await;
    own.kubectl(&["delete", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/name=openbao-operator", "--wait=true"]).await;
    eventually("the log names the namespace and what is refused", Duration::from_secs(120), async || {
        let logs = logs(&own).await;
        let told = |words: [&str; 2]| logs.lines().any(|line| words.iter().all(|word| line.contains(word)));
        let named = told(["cannot start here yet", "closed"]) && told(["watch failed", "forbidden"]);
        if named { Ok(()) } else { Err(logs) }
    })
    .await;
    let said = own.expect_plugin(&["-n", "openbao", "backup", "main", "--wait", "--timeout=5m"]);
    assert!(said.contains("Succeeded"), "{said}");
    let pods = operators(&own).await;
    assert!(pods.iter().all(|pod| restarts(pod) == 0), "{pods:#?}");
}

/// This chart as an earlier release would have been: another version, and a definition that lacks a field.
fn previous_chart(folder: &Path) -> PathBuf {
    let target = folder.join("openbao-operator");
    let copied = Command::new("cp").arg("-a").arg(chart()).arg(&target).status().unwrap();
    assert!(copied.success());
    let file = target.join("Chart.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("version: 0.1.0\n", "version: 0.0.9\n")).unwrap();
    let file = target.join("files/crds/openbao.org_openbaoclusters.yaml");
    let mut definition: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let backup = definition.pointer_mut(&format!("{BACKUP}/properties")).unwrap().as_object_mut().unwrap();
    assert!(backup.remove("jitter").is_some());
    fs::write(&file, definition.to_string()).unwrap();
    target
}

/// Where the definition describes `spec.backup`.
const BACKUP: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/backup";

async fn knows_jitter(own: &Own) -> bool {
    let definition = own.get(&["crd", "openbaoclusters.openbao.org"]).await;
    definition.pointer(&format!("{BACKUP}/properties/jitter")).is_some()
}

fn with(image: &[String], more: &[&str]) -> Vec<String> {
    image.iter().cloned().chain(more.iter().map(|set| (*set).to_owned())).collect()
}

fn words<'a>(words: &[&'a str], sets: &'a [String]) -> Vec<&'a str> {
    let sets = sets.iter().flat_map(|set| ["--set", set.as_str()]);
    words.iter().copied().chain(sets).collect()
}

async fn available(own: &Own) {
    let wait = ["wait", "-n", "openbao", "openbaocluster/main", "--for=condition=Available", "--timeout=300s"];
    own.kubectl(&wait).await;
}

/// The operator's pods that are not about to go.
async fn operators(own: &Own) -> Vec<Value> {
    let pods = own.get(&["-n", SYSTEM, "pods", "-l", "app.kubernetes.io/name=openbao-operator"]).await;
    let pods = pods["items"].as_array().unwrap().iter();
    pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect()
}

/// Everything that both replicas wrote, each line after its pod's name. While a container is being made there is nothing to read.
async fn logs(own: &Own) -> String {
    let words =
        ["kubectl", "logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=openbao-operator", "--tail=-1", "--prefix"];
    String::from_utf8_lossy(&own.cluster().inside(&words).await.stdout).into_owned()
}

fn restarts(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(0)
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["ready"].as_bool().unwrap_or(false)
}

fn uids(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

/// The OpenBao servers' pods by UID: another UID is another server.
async fn servers(own: &Own) -> BTreeSet<String> {
    let pods = own.get(&["-n", "openbao", "pods", "-l", "app.kubernetes.io/instance=main"]).await;
    let pods = pods["items"].as_array().unwrap().clone();
    uids(&pods.into_iter().filter(|pod| pod["metadata"]["name"].as_str().unwrap().len() == 6).collect::<Vec<_>>())
}
