//! docs/benchmarks.md: every figure with the machine, the versions, the date and the command that gave it.
//!
//! Results are kept as JSON in the target folder, one file each, so that the page can be written again without hours of
//! measuring, and so that figures of different days say so.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::devcluster::KUBERNETES;
use crate::{image, report, repository};

/// Keeps one result, over the last one of the same name.
pub fn keep(result: &Value) -> Result<()> {
    let name = result["name"].as_str().context("a benchmark without a name")?;
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    let file = folder.join(format!("{}.json", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")));
    let text = serde_json::to_string_pretty(&json!({ "circumstances": circumstances()?, "result": result }))?;
    fs::write(&file, text).with_context(|| format!("could not write {}", file.display()))
}

/// Writes the page from all that is kept, and returns where it is.
pub fn write() -> Result<PathBuf> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder()).context("nothing was measured yet")? {
        let text = fs::read_to_string(entry?.path())?;
        kept.push(serde_json::from_str::<Value>(&text)?);
    }
    let path = repository().join("docs/benchmarks.md");
    fs::write(&path, render(kept)).with_context(|| format!("could not write {}", path.display()))?;
    Ok(path)
}

fn folder() -> PathBuf {
    image::target_folder().join("bench")
}

/// Where and when a figure was measured.
fn circumstances() -> Result<Value> {
    let date = report::output(Command::new("date").args(["-u", "+%F"]))?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Ok(json!({
        "date": date.trim(),
        "machine": machine(),
        "load": load.split(' ').next().unwrap_or_default(),
        "kubernetes": KUBERNETES,
        "commit": report::output(Command::new("git").current_dir(repository()).args(["rev-parse", "--short", "HEAD"]))
            .map(|commit| commit.trim().to_owned()).unwrap_or_default(),
    }))
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    format!("{cores} cores of {}, {} GiB", model.unwrap_or("an unknown processor"), kib.unwrap_or(0) >> 20)
}

/// One section a benchmark, by name.
fn render(mut kept: Vec<Value>) -> String {
    kept.sort_by_key(|one| one["result"]["name"].as_str().unwrap_or_default().to_owned());
    let mut page = "# Benchmarks\n\nWritten by `cargo xtask bench` from what it measured; `cargo xtask bench NAME` runs one. \
                    The load average tells how\nbusy the machine was with other work at the end: figures of a quiet machine are better.\n"
        .to_owned();
    for one in kept {
        let (result, at) = (&one["result"], &one["circumstances"]);
        let word = |key: &str| at[key].as_str().unwrap_or("?").to_owned();
        let _ = write!(page, "\n## {}\n\n", result["name"].as_str().unwrap_or_default());
        let _ = writeln!(
            page,
            "{}, on {}, Kubernetes {}, commit {}, load {}.\n",
            word("date"),
            word("machine"),
            word("kubernetes"),
            word("commit"),
            word("load")
        );
        page.push_str("| figure | value |\n|---|---|\n");
        for (key, value) in result.as_object().into_iter().flatten().filter(|(key, _)| *key != "name") {
            let _ = writeln!(page, "| {} | {} |", key.replace('_', " "), figure(key, value));
        }
    }
    page
}

/// A number as people read it: bytes as MiB, the unit that the name tells.
fn figure(key: &str, value: &Value) -> String {
    match value {
        Value::Array(all) => all.iter().map(|one| figure(key, one)).collect::<Vec<_>>().join(", "),
        Value::Number(number) if key.contains("bytes") && number.as_f64().is_some_and(|bytes| bytes >= 1_048_576.0) => {
            format!("{:.1} MiB", number.as_f64().unwrap_or_default() / 1_048_576.0)
        }
        Value::Number(number) if key.contains("seconds") && !key.contains("per_second") => format!("{number} s"),
        Value::Null => "not measured".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_with_its_machine_its_date_and_its_unit() {
        let circumstances = json!({"date": "2026-11-21", "machine": "2 cores of x, 23 GiB", "load": "0.3", "kubernetes": "1.36.3", "commit": "abc"});
        let result = json!({"name": "operator", "image_compressed_bytes": 10_485_760, "start_to_leading_seconds": 0.4, "requests": 12});
        let page = render(vec![json!({"circumstances": circumstances, "result": result})]);
        for wanted in [
            "## operator",
            "2026-11-21, on 2 cores of x, 23 GiB, Kubernetes 1.36.3, commit abc, load 0.3.",
            "| image compressed bytes | 10.0 MiB |",
            "| start to leading seconds | 0.4 s |",
            "| requests | 12 |",
        ] {
            assert!(page.contains(wanted), "{wanted}:\n{page}");
        }
    }
}
