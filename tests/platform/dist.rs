//! The chart with its default values, for those without Helm: `dist/install.yaml` to install by, and `dist/operator.yaml`,
//! which is the same without the kinds and the namespace, to remove the operator by. Written by this test when
//! `OPENBAO_UPDATE=1` is set, and compared otherwise.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::chart::{chart, helm};
use super::docs::blocks;

const NAMESPACE: &str = "openbao-operator-system";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the chart renders, under these lines.
fn rendered(head: &str, sets: &[&str]) -> String {
    let chart = chart().display().to_string();
    let mut words = vec!["template", "openbao-operator", &chart, "--namespace", NAMESPACE];
    for set in sets {
        words.extend(["--set", set]);
    }
    let output = helm(&words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut text = head.to_owned();
    for line in String::from_utf8(output.stdout).expect("UTF-8").lines() {
        // Nobody but Helm looks after what carries its name.
        let line = line.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl");
        if !line.trim_start().starts_with("helm.sh/chart:") && !line.starts_with("# Source:") {
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

fn install() -> String {
    let head = format!(
        "# The operator with the chart's default values: kubectl apply --server-side -f dist/install.yaml\n\
         # Never remove it by this file: with the kinds every OpenBaoCluster goes, and with those every OpenBao server.\n\
         # The operator alone goes by kubectl delete -f dist/operator.yaml\n\
         # Written by OPENBAO_UPDATE=1 cargo test --test cluster platform::dist\n---\napiVersion: v1\nkind: Namespace\n\
         metadata:\n  name: {NAMESPACE}\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n"
    );
    rendered(&head, &[])
}

fn operator() -> String {
    let head = "# dist/install.yaml without the kinds and the namespace, to remove the operator and nothing else:\n\
                # kubectl delete -f dist/operator.yaml\n\
                # Written by OPENBAO_UPDATE=1 cargo test --test cluster platform::dist\n";
    rendered(head, &["crds.install=false"])
}

#[test]
fn the_files_for_those_without_helm_are_what_the_chart_renders() {
    for (name, wanted) in [("install.yaml", install()), ("operator.yaml", operator())] {
        let path = root().join("dist").join(name);
        if std::env::var_os("OPENBAO_UPDATE").is_some() {
            fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
            fs::write(&path, &wanted).expect("the file");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == wanted,
            "dist/{name} is not what the chart renders: run OPENBAO_UPDATE=1 cargo test --test cluster platform::dist"
        );
    }
}

/// With the kinds every cluster object goes, and the garbage collector takes its servers.
#[test]
fn no_file_that_the_guides_delete_by_holds_a_kind_or_the_namespace() {
    let mut files = Vec::new();
    for (_, block) in blocks("sh") {
        let lines = block.lines().filter_map(|line| line.trim().strip_prefix("kubectl delete -f "));
        files.extend(lines.map(str::to_owned));
    }
    assert!(files.contains(&"dist/operator.yaml".to_owned()), "{files:?}");
    for file in files {
        let text = fs::read_to_string(root().join(&file)).expect("the file");
        for kind in ["CustomResourceDefinition", "Namespace"] {
            assert!(!text.lines().any(|line| line == format!("kind: {kind}")), "{file} holds a {kind}");
        }
    }
}
