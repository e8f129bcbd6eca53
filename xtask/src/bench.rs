//! `cargo xtask bench`: JSON on stdout, a table on stderr.
//!
//! The devcluster is measured here. Every other benchmark is an ignored test named `bench_…` in the integration tests,
//! because it needs the same harness; it prints `BENCH {"name": …, …}` lines, which are collected.

mod page;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::devcluster::Devcluster;
use crate::{report::say, repository};

/// How long the idle node is watched.
const IDLE: Duration = Duration::from_secs(30);

/// Runs those whose name contains `name`, or all. Each result is kept; `page` writes docs/benchmarks.md from what is kept,
/// and so does a run of all.
pub fn run(cluster: &Devcluster, name: Option<&str>, page: bool) -> Result<()> {
    let mut results = Vec::new();
    if name.is_none_or(|name| name == "devcluster") {
        let result = devcluster(cluster)?;
        page::keep(&result)?;
        results.push(result);
    }
    if name != Some("devcluster") {
        results.extend(tests(name.unwrap_or_default())?);
    }
    if results.is_empty() {
        bail!("no benchmark is called {}", name.unwrap_or_default());
    }
    for result in &results {
        table(result);
    }
    if page || name.is_none() {
        say(format!("wrote {}", page::write()?.display()));
    }
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&results)?)?;
    Ok(())
}

fn table(result: &Value) {
    for (key, value) in result.as_object().into_iter().flatten() {
        say(format!("  {key:34} {value}"));
    }
}

/// Times, sizes, memory and idle CPU of a devcluster whose parts are built. Takes a running one down: it starts anew.
///
/// The cold time is read from the builds' own logs of time, so that a benchmark need not compile for ten minutes; with
/// an empty folder in `OPENBAO_DEVCLUSTER_DIR` the first `up` is the cold one.
fn devcluster(cluster: &Devcluster) -> Result<Value> {
    let cold = !cluster.root().join("parts").exists();
    let start = Instant::now();
    cluster.down()?;
    cluster.up()?;
    let first = start.elapsed();
    cluster.down()?;
    let mut warm = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        cluster.up()?;
        let up = start.elapsed();
        let start = Instant::now();
        if warm.len() < 2 {
            cluster.down()?;
        }
        warm.push((up, start.elapsed()));
    }
    // The larger images are still being imported: not idle yet.
    let timeline = cluster.logs().join("timeline");
    let limit = Instant::now() + Duration::from_mins(3);
    while !fs::read_to_string(&timeline).is_ok_and(|text| text.contains("all images")) && Instant::now() < limit {
        sleep(Duration::from_millis(200));
    }
    sleep(Duration::from_secs(10));
    let before = cluster.usage()?;
    sleep(IDLE);
    let after = cluster.usage()?;
    let idle = after.cpu.saturating_sub(before.cpu).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    warm.sort();
    Ok(json!({
        "name": "devcluster",
        "cold_up_seconds": cold.then(|| seconds(first)),
        "warm_up_seconds": warm.iter().map(|(up, _)| seconds(*up)).collect::<Vec<_>>(),
        "down_seconds": warm.iter().take(2).map(|(_, down)| seconds(*down)).collect::<Vec<_>>(),
        "programs_bytes": size(&cluster.root().join("parts"))?,
        "images_bytes": size(&cluster.root().join("images"))?,
        "node_bytes": size(&cluster.root().join("node"))?,
        "resident_bytes": after.memory,
        "processes": after.processes,
        "idle_cpu_percent_of_one_core": (idle * 10.0).round() / 10.0,
    }))
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100.0).round() / 100.0
}

fn size(path: &Path) -> Result<u64> {
    // Files of a running node come and go.
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(0) };
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut total = 0;
    for entry in fs::read_dir(path).into_iter().flatten() {
        total += size(&entry?.path())?;
    }
    Ok(total)
}

/// The result on a line of a benchmark. The test runner writes its dots before it.
fn measured(line: &str) -> Result<Option<Value>> {
    let Some((_, result)) = line.split_once("BENCH {") else { return Ok(None) };
    let result: Value = serde_json::from_str(&format!("{{{result}")).with_context(|| format!("not JSON: {line}"))?;
    if result["name"].is_string() { Ok(Some(result)) } else { bail!("a benchmark without a name: {line}") }
}

/// The benchmarks among the tests whose name contains `name`.
fn tests(name: &str) -> Result<Vec<Value>> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository());
    // The whole workspace, as everywhere: another choice would be other features and so another build of everything.
    cargo.args(["test", "--quiet", "--workspace", "--test", "cluster", "--"]);
    cargo.arg(format!("bench_{name}")).args(["--ignored", "--nocapture", "--test-threads=1"]);
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("could not start cargo")?;
    let mut results = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            match measured(&line)? {
                Some(result) => {
                    // At once: the next one may take an hour, or fail.
                    page::keep(&result)?;
                    results.push(result);
                }
                None => say(line),
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("a benchmark failed: cargo test ended with {status}");
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_behind_the_dots_of_the_test_runner_and_has_a_name() {
        let named = json!({"name": "idle", "requests": 0});
        assert_eq!(measured(&format!("BENCH {named}")).unwrap(), Some(named.clone()));
        assert_eq!(measured(&format!("..BENCH {named}")).unwrap(), Some(named));
        assert_eq!(measured("first start: 9 to go after 3 s").unwrap(), None);
        assert!(measured("BENCH {\"requests\": 0}").is_err() && measured("BENCH {").is_err());
    }
}
