//! What the guides tell people to type and to apply.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use openbao_operator::adapter::metrics::{Metrics, encode};
use openbao_operator::kubectl::args::Cli;
use openbao_operator::telemetry::fleet::Fleet;
use prometheus_client::registry::Registry;

use super::chart::{chart, helm};
use crate::harness::Cluster;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<(PathBuf, String)> {
    let mut pages: Vec<_> = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain([root().join("README.md")])
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    pages.sort();
    pages
}

/// The code blocks of one language, each with the page it stands on.
pub fn blocks(language: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, text) in pages() {
        let mut rest = text.as_str();
        while let Some(start) = rest.find(&format!("```{language}\n")) {
            let body = &rest[start + language.len() + 4..];
            let end = body.find("\n```").expect("a closed block");
            found.push((path.file_name().unwrap().to_string_lossy().into_owned(), body[..=end].to_owned()));
            rest = &body[end + 4..];
        }
    }
    found
}

/// Every command line of the guides, continued lines joined, comments left out.
fn commands() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (page, block) in blocks("sh") {
        for line in block.replace("\\\n", " ").lines() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if !line.is_empty() && !line.starts_with('#') {
                found.push((page.clone(), words(line)));
            }
        }
    }
    assert!(found.len() > 40, "the guides' commands are found: {}", found.len());
    found
}

/// As a shell splits them, as far as the guides need it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for letter in line.chars() {
        match (quote, letter) {
            (None, '"' | '\'') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None, ' ') => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(letter),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

#[test]
fn every_plugin_command_in_the_guides_is_one_that_the_plugin_understands() {
    let mut count = 0;
    for (page, words) in commands() {
        let [kubectl, openbao, rest @ ..] = words.as_slice() else { continue };
        if kubectl != "kubectl" || openbao != "openbao" {
            continue;
        }
        count += 1;
        let line = std::iter::once("kubectl-openbao").chain(rest.iter().map(String::as_str));
        if let Err(error) = Cli::try_parse_from(line) {
            panic!("{page}: {words:?}: {error}");
        }
    }
    assert!(count >= 15, "only {count} were found");
}

#[test]
fn every_helm_command_in_the_guides_renders() {
    for (page, words) in commands() {
        let [program, verb, rest @ ..] = words.as_slice() else { continue };
        if program != "helm" || verb == "uninstall" {
            continue;
        }
        let rest = rest
            .iter()
            .map(|word| if word == "charts/openbao-operator" { chart().display().to_string() } else { word.clone() });
        let line: Vec<String> = std::iter::once("template".to_owned()).chain(rest).collect();
        let output = helm(&line.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{page}: {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    for (path, text) in pages() {
        let folder = path.parent().unwrap();
        for (_, after) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
            let target = after.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !target.contains("://") {
                assert!(folder.join(file).exists(), "{}: {target} leads nowhere", path.display());
            }
        }
    }
}

/// Every metric that `/metrics` can show, as Prometheus names it, without the operator's prefix.
fn metrics() -> BTreeSet<String> {
    let mut registry = Registry::with_prefix("openbao_operator");
    // A family without a label set has nothing to show yet.
    let metrics = Metrics::default();
    metrics.queued("OpenBaoCluster", "reef", "kelp");
    drop(metrics.reconciling("OpenBaoCluster", "reef", "kelp"));
    metrics.api_request("get", "pods".to_owned(), "2xx");
    metrics.backup_skipped("LockHeld");
    metrics.backup_failed();
    metrics.restore_not_completed(false);
    metrics.lock_released("Backup", std::time::Duration::from_secs(1));
    metrics.register(&mut registry);
    registry.register_collector(Box::new(Fleet::default()));
    let text = encode(&registry).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE openbao_operator_"))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        .collect()
}

#[test]
fn every_metric_has_a_line_and_every_line_a_metric() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let told: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter(|line| !line.contains("`OpenBao"))
        .flat_map(|line| line.split('|').nth(1).unwrap_or_default().split(',').map(str::trim).collect::<Vec<_>>())
        .map(|name| name.trim_matches('`').to_owned())
        .collect();
    assert_eq!(metrics(), told);
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_exist() {
    let known = metrics();
    for file in ["files/rules.yaml", "files/dashboard.json"] {
        let text = fs::read_to_string(chart().join(file)).unwrap();
        let mut asked = 0;
        for (at, prefix) in text.match_indices("openbao_operator_") {
            let name: String =
                text[at + prefix.len()..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            asked += 1;
            assert!(known.contains(name.trim_end_matches("_bucket")), "{file} asks for {name}");
        }
        assert!(asked >= 9, "{file}: {asked}");
    }
}

#[test]
fn every_alert_has_a_line_on_the_page() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rules = fs::read_to_string(chart().join("files/rules.yaml")).unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 7);
    for alert in alerts {
        assert!(page.contains(&format!("`{alert}`")), "{alert} is not on the page");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_in_the_guides_is_accepted_by_the_api_server() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("guides").await;
    let manifests = blocks("yaml");
    assert!(!manifests.is_empty());
    for (number, (page, yaml)) in manifests.into_iter().enumerate() {
        let file = namespace.folder().join(format!("{page}-{number}.yaml"));
        fs::write(&file, yaml).unwrap();
        namespace
            .kubectl(&["create", "--dry-run=server", "--validate=strict", "-f", &file.display().to_string()])
            .await;
    }
}

/// Every file of ours that may define a test.
fn sources(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_place_and_test_that_the_invariants_name_exists() {
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    sources(&root().join("tests"), &mut code);
    let page = fs::read_to_string(root().join("docs/invariants.md")).unwrap();
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).collect();
    assert!(named.len() > 60);
    let missing: Vec<&&str> =
        named
            .iter()
            .filter(|name| {
                if name.contains('/') { !root().join(name).exists() } else { !code.contains(&format!("fn {name}(")) }
            })
            .collect();
    assert!(missing.is_empty(), "not there: {missing:#?}");
    for line in page.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())) {
        assert!(line.contains("**"), "a rule states itself first: {line}");
    }
}
