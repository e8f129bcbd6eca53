//! `cargo xtask install`: the operator in the devcluster, by its Helm chart.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::devcluster::{Devcluster, parts};
use crate::image::{self, Built};
use crate::{report, report::say, repository};

/// Where it is installed.
pub const NAMESPACE: &str = "openbao-operator-system";
const RELEASE: &str = "openbao-operator";

/// Builds, loads, installs, and waits until the operator is Ready.
pub fn run(cluster: &Devcluster) -> Result<()> {
    cluster.up()?;
    let image = image::load(cluster)?;
    helm(cluster, &image)?;
    say(format!("the operator runs in namespace {NAMESPACE}. Next:"));
    say(format!("  export KUBECONFIG={}", cluster.kubeconfig().display()));
    say(format!("  cargo xtask in kubectl -n {NAMESPACE} get pods"));
    Ok(())
}

fn helm(cluster: &Devcluster, image: &Built) -> Result<()> {
    let chart = repository().join("charts/openbao-operator");
    if !chart.join("Chart.yaml").exists() {
        bail!("there is no chart at {}", chart.display());
    }
    parts::build(cluster, &["helm"])?;
    // Helm installs CRDs once and never changes them; a newer operator needs its newer ones.
    let crds = repository().join("crds");
    report::step("applying the kinds", || {
        let mut kubectl = Command::new("kubectl");
        kubectl.env("PATH", cluster.path()?).arg("--kubeconfig").arg(cluster.kubeconfig());
        kubectl.args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(&crds);
        report::output(&mut kubectl).with_context(|| format!("could not apply {}", crds.display()))
    })?;
    let mut helm = Command::new("helm");
    helm.env("PATH", cluster.path()?).arg("--kubeconfig").arg(cluster.kubeconfig());
    helm.args(["upgrade", "--install", RELEASE]).arg(&chart);
    helm.args(["--namespace", NAMESPACE, "--create-namespace", "--skip-crds", "--wait", "--timeout", "3m"]);
    helm.args([
        "--set",
        &format!("image.repository={}", image::REPOSITORY),
        "--set",
        &format!("image.tag={}", image.tag),
    ]);
    let log = cluster.logs().join("helm.log");
    report::logged("helm upgrade --install", &helm, &log)
}
