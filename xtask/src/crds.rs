//! `cargo xtask crds`: the CRDs that people apply and the chart carries, written from the Rust types.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{report, report::say, repository};

/// Writes the files, or with `check` fails when what lies there differs.
pub fn run(check: bool) -> Result<()> {
    let files = files()?;
    let mut wrong = Vec::new();
    for folder in folders() {
        let expected: BTreeSet<PathBuf> = files.iter().map(|(name, _)| folder.join(name)).collect();
        for (name, content) in &files {
            let path = folder.join(name);
            if fs::read_to_string(&path).is_ok_and(|found| found == *content) {
                continue;
            }
            if check {
                wrong.push(format!("{} differs from the Rust types", path.display()));
            } else {
                fs::create_dir_all(&folder)?;
                fs::write(&path, content).with_context(|| format!("could not write {}", path.display()))?;
                say(format!("wrote {}", path.display()));
            }
        }
        // A kind that is gone must not live on as a file.
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry?.path();
            let ours =
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("openbao.org_"));
            if ours && !expected.contains(&path) {
                if check {
                    wrong.push(format!("{} belongs to no kind", path.display()));
                } else {
                    fs::remove_file(&path)?;
                    say(format!("removed {}", path.display()));
                }
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}\nRun `cargo xtask crds` and commit what it writes", wrong.join("\n"));
    }
    Ok(())
}

/// For people with kubectl, and for the chart.
fn folders() -> [PathBuf; 2] {
    [repository().join("crds"), repository().join("charts/openbao-operator/files/crds")]
}

fn files() -> Result<Vec<(String, String)>> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).args(["run", "--quiet", "--package", "openbao-operator", "--example", "crds"]);
    let text = report::output(&mut cargo).context("could not make the CRDs from the Rust types")?;
    Ok(serde_json::from_str(&text)?)
}
