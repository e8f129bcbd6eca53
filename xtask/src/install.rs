//! `cargo xtask install`: the operator in the devcluster, by its Helm chart.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::devcluster::{Devcluster, parts};
use crate::image;
use crate::{report, report::say, repository};

/// Where it is installed.
pub const NAMESPACE: &str = "openbao-operator-system";
const RELEASE: &str = "openbao-operator";

/// Builds, loads, installs, waits until the operator is Ready, and says what to type next.
///
/// `programs` is a folder with `openbao-operator` and `bao-backup` to take instead of building them.
pub fn run(cluster: &Devcluster, programs: Option<&Path>) -> Result<()> {
    cluster.up()?;
    run_quietly(cluster, programs)?;
    say(format!("the operator runs in namespace {NAMESPACE}. Next:"));
    say(format!("  export KUBECONFIG={}", cluster.kubeconfig().display()));
    say(format!("  cargo xtask in kubectl -n {NAMESPACE} get pods"));
    Ok(())
}

/// The same on a devcluster that is up, as a part of something larger.
pub fn run_quietly(cluster: &Devcluster, programs: Option<&Path>) -> Result<()> {
    let image = match programs {
        None => image::load(cluster)?,
        Some(folder) => image::load_programs(cluster, &folder.join("openbao-operator"), &folder.join("bao-backup"))?,
    };
    let kubeconfig = cluster.kubeconfig().display().to_string();
    unlock(cluster)?;
    helm(cluster, &["--kubeconfig", &kubeconfig], image::REPOSITORY, &image.tag)
}

/// A killed Helm leaves its release locked for ever. On the devcluster there is nobody else whom it could belong to.
fn unlock(cluster: &Devcluster) -> Result<()> {
    let kubeconfig = cluster.kubeconfig().display().to_string();
    if release(cluster, &["--kubeconfig", &kubeconfig])?.is_some_and(|status| status.starts_with("pending")) {
        say("  removing what a Helm that was killed left");
        remove(cluster)?;
    }
    Ok(())
}

/// How Helm calls the state of our release: `deployed`, `failed`, `pending-upgrade`. `None`: there is none.
fn release(cluster: &Devcluster, place: &[&str]) -> Result<Option<String>> {
    parts::build(cluster, &["helm"])?;
    let mut helm = Command::new("helm");
    helm.env("PATH", cluster.path()?).args(place);
    helm.args(["status", RELEASE, "--namespace", NAMESPACE, "--output", "json"]);
    let text = match report::output(&mut helm) {
        // No release at all is an error to Helm.
        Err(error) if format!("{error:#}").contains("not found") => return Ok(None),
        text => text?,
    };
    let release: serde_json::Value = serde_json::from_str(&text)?;
    Ok(release["info"]["status"].as_str().map(str::to_owned))
}

/// Into somebody's own cluster, which pulls the image from `registry`, or from where it is published. Only where there is no
/// operator yet: one that runs is used as it is, for it may look after more than a demo, and two would fight.
pub fn into_context(cluster: &Devcluster, context: &str, registry: Option<&str>) -> Result<()> {
    let place = ["--kube-context", context];
    match release(cluster, &place)?.as_deref() {
        Some("deployed") => {
            say(format!("   release {RELEASE} is installed in namespace {NAMESPACE} already, and used as it is"));
            return Ok(());
        }
        Some(status) => bail!(
            "release {RELEASE} in namespace {NAMESPACE} is {status}: wait for the Helm that is at work there, or mend it \
             (`helm --kube-context {context} history {RELEASE} -n {NAMESPACE}`), or remove it with `helm --kube-context \
             {context} uninstall {RELEASE} -n {NAMESPACE}`"
        ),
        None => {}
    }
    if let Some(other) = other_operator(cluster, context)? {
        say(format!("   {other} is an operator that was installed in another way, and is used as it is"));
        return Ok(());
    }
    let repository = registry.map_or_else(
        || image::REPOSITORY.to_owned(),
        |registry| format!("{}/openbao-operator", registry.trim_end_matches('/')),
    );
    helm(cluster, &place, &repository, env!("CARGO_PKG_VERSION"))?;
    say(format!(
        "   the operator stays there: `helm --kube-context {context} uninstall {RELEASE} -n {NAMESPACE}` removes it"
    ));
    Ok(())
}

/// A Deployment of the operator that Helm does not know under our name: from the one file, or another release.
fn other_operator(cluster: &Devcluster, context: &str) -> Result<Option<String>> {
    let mut kubectl = Command::new("kubectl");
    kubectl.env("PATH", cluster.path()?).args(["--context", context, "get", "deployments", "--all-namespaces"]);
    kubectl.args(["--selector", "app.kubernetes.io/name=openbao-operator", "-o"]);
    kubectl
        .arg("jsonpath={range .items[*]}deployment {.metadata.name} in namespace {.metadata.namespace}{\"\\n\"}{end}");
    Ok(report::output(&mut kubectl)?.lines().next().map(str::to_owned))
}

/// Removes what [`run`] installed. Its kinds, and so everybody's objects, stay.
pub fn remove(cluster: &Devcluster) -> Result<()> {
    parts::build(cluster, &["helm"])?;
    let mut helm = Command::new("helm");
    helm.env("PATH", cluster.path()?).arg("--kubeconfig").arg(cluster.kubeconfig());
    helm.args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait", "--timeout", "2m"]);
    report::output(&mut helm).map(drop)
}

fn helm(cluster: &Devcluster, place: &[&str], image: &str, tag: &str) -> Result<()> {
    let chart = repository().join("charts/openbao-operator");
    if !chart.join("Chart.yaml").exists() {
        bail!("there is no chart at {}", chart.display());
    }
    parts::build(cluster, &["helm"])?;
    let mut helm = Command::new("helm");
    helm.env("PATH", cluster.path()?).args(place);
    helm.args(["upgrade", "--install", RELEASE]).arg(&chart);
    helm.args(["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "5m"]);
    // The kinds may be there already, applied by hand or by a test.
    helm.args(["--take-ownership", "--force-conflicts"]);
    helm.args(["--set", &format!("image.repository={image}"), "--set", &format!("image.tag={tag}")]);
    let log = cluster.logs().join("helm.log");
    report::logged("helm upgrade --install", &helm, &log).map_err(|error| {
        // Mostly it waits for an operator that says in its log why it is not Ready.
        let mut kubectl = Command::new("kubectl");
        kubectl.args([
            "logs",
            "--namespace",
            NAMESPACE,
            "--selector",
            "app.kubernetes.io/name=openbao-operator",
            "--tail=5",
        ]);
        kubectl.args(place.iter().map(|word| if *word == "--kube-context" { "--context" } else { word }));
        let said = cluster.path().and_then(|path| report::output(kubectl.env("PATH", path)));
        error.context(format!("the operator's last words:\n{}", said.unwrap_or_else(|error| format!("{error:#}"))))
    })
}
