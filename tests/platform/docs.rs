//! What the guides tell people to type and to apply.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use openbao_operator::adapter::metrics::{Metrics, encode};
use openbao_operator::kubectl::args::Cli;
use openbao_operator::service::cluster::config::initialize;
use openbao_operator::telemetry::fleet::Fleet;
use prometheus_client::registry::Registry;

use super::chart::{chart, helm};
use crate::harness::Cluster;

/// A flag of `helm upgrade`.
const KEEPS_VALUES: &str = "--reset-then-reuse-values";

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
        // Of a release; there is none here.
        let rest = rest
            .iter()
            .filter(|word| *word != KEEPS_VALUES)
            .map(|word| if word == "charts/openbao-operator" { chart().display().to_string() } else { word.clone() });
        let line: Vec<String> = std::iter::once("template".to_owned()).chain(rest).collect();
        let output = helm(&line.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{page}: {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Else Helm forgets what the first install was given, or keeps the old image.
#[test]
fn every_upgrade_of_the_operator_in_the_guides_keeps_what_was_set_before() {
    let mut count = 0;
    for (page, words) in commands() {
        if words.first().is_some_and(|program| program == "helm") && words.get(1).is_some_and(|verb| verb == "upgrade")
        {
            count += 1;
            let keeps = |word: &String| [KEEPS_VALUES, "-f", "--values"].contains(&word.as_str());
            assert!(words.iter().any(keeps), "{page}: {words:?}");
        }
    }
    assert!(count > 0, "none is found");
}

#[test]
fn whoever_makes_a_role_of_his_own_finds_every_path_that_it_needs() {
    let page = fs::read_to_string(root().join("docs/backup.md")).unwrap();
    for policy in [initialize::BACKUP_POLICY, initialize::RESTORE_POLICY] {
        for path in policy.lines().filter(|line| line.starts_with("path ")) {
            let path = path.trim_end_matches(" {");
            assert!(page.contains(path), "{path}");
        }
    }
}

/// The shell of OpenBao's image knows no here-strings.
#[test]
fn what_the_guides_type_any_shell_understands() {
    for (path, text) in pages() {
        assert!(!text.contains("<<<"), "{}: pipe it in instead", path.display());
    }
}

#[test]
fn somebody_is_told_when_a_cluster_is_degraded() {
    let rules = fs::read_to_string(chart().join("files/rules.yaml")).unwrap();
    assert!(rules.contains(r#"cluster_conditions{condition="Degraded",status="True"}"#));
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    for (path, text) in pages() {
        let folder = path.parent().unwrap();
        for (_, after) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
            let target = after.split(')').next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { folder.join(file) };
            assert!(file.exists(), "{}: {target} leads nowhere", path.display());
            if !place.is_empty() {
                let page = fs::read_to_string(&file).unwrap();
                assert!(places(&page).contains(place), "{}: {target} leads to the top of the page", path.display());
            }
        }
    }
}

/// Where one can land on a page: its headings, as they are shown, in small letters, without punctuation, and with dashes for blanks.
fn places(page: &str) -> BTreeSet<String> {
    let (mut found, mut in_code) = (BTreeSet::new(), false);
    for line in page.lines() {
        in_code ^= line.starts_with("```");
        let heading = line.trim_start_matches('#').strip_prefix(' ').filter(|_| !in_code && line.starts_with('#'));
        let letters = heading.unwrap_or_default().to_lowercase();
        let kept = |c: char| c.is_alphanumeric() || "-_ ".contains(c);
        found.insert(letters.chars().filter(|c| kept(*c)).map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    found
}

#[test]
fn a_heading_is_found_by_the_name_that_a_link_has_for_it() {
    let page = "# Top\n\n## What lies outside: seals, `stores`\n```sh\n# no heading\n```\nplain\n";
    let found = places(page);
    assert!(found.contains("top") && found.contains("what-lies-outside-seals-stores"), "{found:?}");
    assert!(!found.contains("no-heading") && !found.contains("plain"), "{found:?}");
}

/// Nobody gets into a new cluster that sets itself up without a request that lets somebody in.
#[test]
fn a_manifest_of_the_guides_that_sets_itself_up_lets_somebody_in_or_says_what_does() {
    let mut count = 0;
    for (page, yaml) in blocks("yaml").into_iter().filter(|(_, yaml)| yaml.contains("selfInit:")) {
        assert!(yaml.contains("path: auth/") || yaml.contains("cluster-first.yaml"), "{page}: {yaml}");
        count += 1;
    }
    assert!(count >= 2, "only {count} were found");
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

/// Every test in `code`, and whether it is left to the long series. What only is called like one is none.
fn tests(code: &str) -> BTreeMap<&str, bool> {
    let mut found = BTreeMap::new();
    let (mut test, mut long) = (false, false);
    for line in code.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            test |= line.contains("test]") || line.contains("test(");
            long |= line.starts_with("#[ignore");
        } else if !line.starts_with("//") {
            let name = line.split_once("fn ").and_then(|(_, rest)| rest.split(['(', '<']).next());
            if let Some(name) = name.filter(|_| test) {
                found.entry(name).and_modify(|known| *known &= long).or_insert(long);
            }
            (test, long) = (false, false);
        }
    }
    found
}

#[test]
fn a_helper_or_a_test_that_is_left_out_is_told_from_one_that_runs() {
    let code = "#[test]\nfn runs() {}\n  #[tokio::test(x)]\n  #[ignore = \"long\"]\n  /// Why.\n  async fn waits() {}\n\
                #[cfg(test)]\nfn helps() {}\n#[test]\n#[ignore]\nfn runs() {}\n// #[test]\nfn is_none() {}\n";
    assert_eq!(tests(code), BTreeMap::from([("runs", false), ("waits", true)]));
}

#[test]
fn every_place_that_the_invariants_name_exists_and_every_test_runs() {
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    sources(&root().join("tests"), &mut code);
    let tests = tests(&code);
    let page = fs::read_to_string(root().join("docs/invariants.md")).unwrap();
    // Each name, and what follows it.
    let named: Vec<&str> = page.split('`').skip(1).collect();
    assert!(named.len() > 120);
    let wrong = |name: &str, after: &str| {
        if name.contains('/') {
            return (!root().join(name).exists()).then(|| format!("{name} is not there"));
        }
        match (tests.get(name), after.starts_with(" (long)")) {
            (None, _) => Some(format!("there is no test {name}")),
            (Some(true), false) => {
                Some(format!("{name} runs with the long series only, and nothing says (long) behind it"))
            }
            (Some(false), true) => Some(format!("{name} runs always, and (long) stands behind it")),
            (Some(_), _) => None,
        }
    };
    let wrong: Vec<String> = named.chunks_exact(2).filter_map(|pair| wrong(pair[0], pair[1])).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for line in page.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())) {
        assert!(line.contains("**"), "a rule states itself first: {line}");
    }
}
