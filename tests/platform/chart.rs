//! The chart as Helm renders it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use xtask::devcluster::{Devcluster, parts};

pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/openbao-operator")
}

pub fn helm(words: &[&str]) -> Output {
    let devcluster = Devcluster::from_environment().unwrap();
    parts::build(&devcluster, &["helm"]).unwrap();
    Command::new("helm").env("PATH", devcluster.path().unwrap()).args(words).output().unwrap()
}

fn render(sets: &[&str]) -> Result<Vec<Value>, String> {
    render_in("system", sets)
}

fn render_in(namespace: &str, sets: &[&str]) -> Result<Vec<Value>, String> {
    let chart = chart().display().to_string();
    let mut words = vec!["template", "rel", &chart, "--namespace", namespace];
    for set in sets {
        words.extend(["--set", set]);
    }
    let output = helm(&words);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    Ok(text
        .split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).unwrap())
        .filter(|document| !document.is_null())
        .collect())
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn the_chart_passes_helms_own_lint() {
    let output = helm(&["lint", "--strict", &chart().display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_kinds_are_upgraded_with_the_release_and_survive_its_uninstall() {
    let objects = render(&[]).unwrap();
    let kinds = of_kind(&objects, "CustomResourceDefinition");
    assert_eq!(kinds.len(), openbao_operator::api::crds().unwrap().len());
    for kind in kinds {
        assert_eq!(kind["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    assert!(of_kind(&render(&["crds.install=false"]).unwrap(), "CustomResourceDefinition").is_empty());
}

/// What a rule may call beside CEL's own, and the minor version of Kubernetes 1 whose API server knows it first.
const CEL_LIBRARIES: &[(&str, u32)] = &[
    ("isQuantity", 29),
    ("quantity", 29),
    ("sets.contains", 30),
    ("sets.equivalent", 30),
    ("sets.intersects", 30),
    ("isIP", 31),
    ("ip", 31),
    ("ip.isCanonical", 31),
    ("isCIDR", 31),
    ("cidr", 31),
    ("containsIP", 31),
    ("containsCIDR", 31),
    ("format.named", 32),
    ("transformMap", 33),
    ("transformList", 33),
    ("isSemver", 34),
    ("semver", 34),
];

fn rules(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(own)) = fields.get("x-kubernetes-validations") {
                found.extend(own.iter().filter_map(|rule| rule["rule"].as_str()).map(str::to_owned));
            }
            fields.values().for_each(|inner| rules(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| rules(inner, found)),
        _ => {}
    }
}

/// Whether the rule calls a function of exactly that name, on its own or on a value.
fn calls(rule: &str, function: &str) -> bool {
    rule.match_indices(&format!("{function}("))
        .any(|(at, _)| !rule[..at].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_'))
}

#[test]
fn no_api_server_that_the_chart_accepts_lacks_what_the_kinds_rules_call() {
    let mut all = Vec::new();
    for kind in openbao_operator::api::crds().unwrap() {
        rules(&serde_json::to_value(kind).unwrap(), &mut all);
    }
    let needed: Vec<_> = all
        .iter()
        .flat_map(|rule| CEL_LIBRARIES.iter().filter(|(function, _)| calls(rule, function)).map(move |one| (one, rule)))
        .collect();
    assert!(!needed.is_empty(), "rules are found in {} of them", all.len());
    let text = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    let minor = text.lines().find_map(|line| line.strip_prefix("kubeVersion: \">=1.")?.split('.').next()).unwrap();
    let accepted: u32 = minor.parse().unwrap();
    for ((function, since), rule) in needed {
        assert!(accepted >= *since, "{function} needs Kubernetes 1.{since}, the chart accepts 1.{accepted}: {rule}");
    }
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md")).unwrap();
    assert!(page.contains(&format!("Needs Kubernetes 1.{accepted} or newer")), "the page says what the chart accepts");
}

#[test]
fn pods_meet_the_restricted_standard() {
    let objects = render(&[]).unwrap();
    let pod = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"]["drop"], serde_json::json!(["ALL"]));
}

#[test]
fn watching_named_namespaces_gives_rights_there_and_nowhere_else() {
    let objects = render(&["watchNamespaces={team-a,team-b}"]).unwrap();
    let namespaces: BTreeSet<_> =
        of_kind(&objects, "Role").iter().map(|role| role["metadata"]["namespace"].as_str().unwrap()).collect();
    // In default the address of the API server is read, and nothing else.
    assert_eq!(namespaces, BTreeSet::from(["default", "system", "team-a", "team-b"]));
    for role in of_kind(&objects, "Role").into_iter().filter(|role| role["metadata"]["namespace"] == "default") {
        for rule in role["rules"].as_array().unwrap() {
            assert_eq!(
                (&rule["verbs"], &rule["resourceNames"]),
                (&serde_json::json!(["get"]), &serde_json::json!(["kubernetes"])),
                "{rule}"
            );
        }
    }
    for role in of_kind(&objects, "ClusterRole") {
        let name = role["metadata"]["name"].as_str().unwrap();
        assert!(["-issuer", "-view", "-edit"].iter().any(|end| name.ends_with(end)), "{name} reaches everywhere");
    }
    let deployment = of_kind(&objects, "Deployment")[0].to_string();
    assert!(deployment.contains("--watch-namespaces=team-a,team-b"), "{deployment}");
}

#[test]
fn two_installations_that_watch_named_namespaces_share_nothing_cluster_wide() {
    let wide = |release: &str, sets: &[&str]| -> BTreeSet<String> {
        let objects = render_in(release, sets).unwrap();
        let kinds = ["ClusterRole", "ClusterRoleBinding"];
        let all = kinds.iter().flat_map(|kind| of_kind(&objects, kind));
        all.map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"])).collect()
    };
    let one = wide("blue", &["watchNamespaces={team-a}"]);
    let other = wide("green", &["watchNamespaces={team-b}", "crds.install=false"]);
    assert_eq!((one.len(), other.len()), (4, 4), "{one:?}");
    assert!(one.is_disjoint(&other), "{one:?} {other:?}");
    // What is bound is what is there.
    for object in of_kind(&render_in("blue", &["watchNamespaces={team-a}"]).unwrap(), "ClusterRoleBinding") {
        let role = format!("\"ClusterRole\"/{}", object["roleRef"]["name"]);
        assert!(one.contains(&role), "{role}");
    }
}

#[test]
fn the_operator_listens_on_every_address_of_either_family_and_extra_arguments_come_last() {
    let objects = render(&["extraArgs={--requeue-standard=2m,--listen=127.0.0.1:9}"]).unwrap();
    let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let args: Vec<_> = container["args"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert!(args.contains(&"--listen=[::]:8080"), "{args:?}");
    assert_eq!(args[args.len() - 2..], ["--requeue-standard=2m", "--listen=127.0.0.1:9"]);
    let mut operator = Command::new(env!("CARGO_BIN_EXE_openbao-operator"));
    let output = operator.args(&args).arg("--version").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_labels_that_policies_let_in_are_those_of_the_operators_own_pods() {
    let objects = render(&["nameOverride=bao"]).unwrap();
    let template = &of_kind(&objects, "Deployment")[0]["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    // An older image ends at an argument that it does not know, and takes no notice of a variable.
    assert!(!container["args"].to_string().contains("pod-labels"), "{container}");
    let told = container["env"].as_array().unwrap().iter().find(|one| one["name"] == "OPENBAO_OPERATOR_POD_LABELS");
    let told = told.unwrap()["value"].as_str().unwrap();
    let labels: Vec<_> = told.split(',').map(|label| label.split_once('=').unwrap()).collect();
    assert!(labels.len() == 3 && labels.contains(&("app.kubernetes.io/component", "operator")), "{told}");
    for (key, value) in labels {
        assert_eq!(template["metadata"]["labels"][key], value, "{told}");
    }
}

#[test]
fn no_right_is_a_wildcard_and_tokens_are_for_its_own_account_only() {
    let objects = render(&[]).unwrap();
    let mut token_rules = 0;
    for role in of_kind(&objects, "ClusterRole").into_iter().chain(of_kind(&objects, "Role")) {
        for rule in role["rules"].as_array().unwrap() {
            let has =
                |field: &str, word: &str| rule[field].as_array().is_some_and(|list| list.iter().any(|one| one == word));
            assert!(!has("verbs", "*") && !has("resources", "*") && !has("apiGroups", "*"), "{rule}");
            if has("resources", "serviceaccounts/token") {
                token_rules += 1;
                assert_eq!(role["kind"], "Role", "in its own namespace only");
                assert_eq!(rule["resourceNames"], serde_json::json!(["rel-openbao-operator"]));
            }
        }
    }
    assert_eq!(token_rules, 1);
}

#[test]
fn a_digest_wins_over_the_tag_for_the_operator_and_for_its_jobs() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let objects = render(&[&format!("image.digest={digest}"), "image.tag=ignored"]).unwrap();
    let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let image = format!("ghcr.io/openbao-operator/openbao-operator@{digest}");
    assert_eq!(container["image"], image);
    assert!(container["args"].as_array().unwrap().contains(&format!("--operator-image={image}").into()));
}

#[test]
fn values_that_do_not_exist_or_do_not_fit_are_refused() {
    for bad in [
        "replicas=2",
        "image.digest=sha256:short",
        "requeueStandard=soon",
        "metrics.port=80",
        "watchNamespaces={Bad_Name}",
    ] {
        let error = render(&[bad]).unwrap_err();
        assert!(error.contains("values don't meet the specifications"), "{bad}: {error}");
    }
}

#[test]
fn a_scrape_without_the_service_that_it_goes_by_is_refused() {
    let error = render(&["metrics.serviceMonitor.enabled=true,metrics.service.enabled=false"]).unwrap_err();
    assert!(error.contains("needs metrics.service.enabled"), "{error}");
    let both = render(&["metrics.serviceMonitor.enabled=true"]).unwrap();
    assert_eq!(of_kind(&both, "ServiceMonitor").len(), 1);
}

/// The API server serves it as a resource of its own: a right on the cluster is none on its scale.
#[test]
fn whoever_may_edit_a_namespace_may_scale_the_clusters_there() {
    let objects = render(&[]).unwrap();
    let may = |end: &str, verb: &str| {
        let roles = of_kind(&objects, "ClusterRole");
        let role = roles.iter().find(|role| role["metadata"]["name"].as_str().unwrap().ends_with(end)).unwrap();
        role["rules"].as_array().unwrap().iter().any(|rule| {
            let lists =
                |field: &str, word: &str| rule[field].as_array().is_some_and(|list| list.iter().any(|one| one == word));
            lists("resources", "openbaoclusters/scale") && lists("verbs", verb)
        })
    };
    assert!(may("-view", "get") && !may("-view", "patch"));
    assert!(may("-edit", "patch") && may("-edit", "update"));
}

#[test]
fn one_replica_has_no_disruption_budget_that_would_block_a_drain() {
    assert_eq!(of_kind(&render(&[]).unwrap(), "PodDisruptionBudget").len(), 1);
    assert!(of_kind(&render(&["replicaCount=1"]).unwrap(), "PodDisruptionBudget").is_empty());
}

#[test]
fn every_flag_that_the_chart_passes_is_one_that_the_operator_knows() {
    let objects = render(&["watchNamespaces={team-a}"]).unwrap();
    let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let mut operator = Command::new(env!("CARGO_BIN_EXE_openbao-operator"));
    for argument in container["args"].as_array().unwrap() {
        operator.arg(argument.as_str().unwrap());
    }
    // clap reads everything before it answers: an unknown flag or a bad value is an error, not a version.
    let output = operator.arg("--version").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
