//! The alerts, as Prometheus itself reads them: promtool checks the rules that the chart renders, and plays each alert
//! through a story that must set it off and one that must not.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use xtask::devcluster::{Devcluster, parts};

use super::chart::{chart, helm};

const STORIES: &str = include_str!("alerts.yaml");

fn promtool(folder: &Path, words: &[&str]) -> String {
    let devcluster = Devcluster::from_environment().unwrap();
    parts::build(&devcluster, &["promtool"]).unwrap();
    let output =
        Command::new("promtool").env("PATH", devcluster.path().unwrap()).current_dir(folder).args(words).output();
    let output = output.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {words:?}: {}\n{said}", output.status);
    said
}

/// What the chart hands to the Prometheus operator, as a rule file.
fn rendered() -> Value {
    let chart = chart().display().to_string();
    let output = helm(&[
        "template",
        "rel",
        &chart,
        "--namespace",
        "rel-b",
        "--set",
        "metrics.rules.enabled=true",
        "--show-only",
        "templates/monitoring.yaml",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rule: Value = serde_saphyr::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap();
    assert_eq!(rule["kind"], "PrometheusRule");
    rule["spec"].clone()
}

#[test]
fn promtool_accepts_the_rules_and_every_alert_fires_when_it_should_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let rules = rendered();
    fs::write(folder.path().join("rules.yaml"), rules.to_string()).unwrap();
    fs::write(folder.path().join("alerts.yaml"), STORIES).unwrap();
    promtool(folder.path(), &["check", "rules", "rules.yaml"]);
    promtool(folder.path(), &["test", "rules", "alerts.yaml"]);

    // Nor is one forgotten: each fires in a story, and stays silent in another.
    let stories: Value = serde_saphyr::from_str(STORIES).unwrap();
    let asked: Vec<(&str, bool)> = stories["tests"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|story| story["alert_rule_test"].as_array().unwrap())
        .map(|check| {
            let fires = check["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
            (check["alertname"].as_str().unwrap(), fires)
        })
        .collect();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        for fires in [true, false] {
            assert!(
                asked.contains(&(name, fires)),
                "no story in which {name} {}",
                if fires { "fires" } else { "is silent" }
            );
        }
    }
}
