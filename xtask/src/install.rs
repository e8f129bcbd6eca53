//! `cargo xtask install`: the operator in the devcluster, by its Helm chart.

use std::process::Command;

use anyhow::{Result, bail};

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
    let mut helm = Command::new("helm");
    helm.env("PATH", cluster.path()?).arg("--kubeconfig").arg(cluster.kubeconfig());
    helm.args(["upgrade", "--install", RELEASE]).arg(&chart);
    helm.args(["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "3m"]);
    // The kinds may be there already, applied by hand or by a test.
    helm.args(["--take-ownership", "--force-conflicts"]);
    helm.args([
        "--set",
        &format!("image.repository={}", image::REPOSITORY),
        "--set",
        &format!("image.tag={}", image.tag),
    ]);
    let log = cluster.logs().join("helm.log");
    report::logged("helm upgrade --install", &helm, &log)
}
