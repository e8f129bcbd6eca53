//! `dist/install.yaml`: the chart with its default values, for those without Helm. Written by this test when
//! `OPENBAO_UPDATE=1` is set, and compared otherwise.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::chart::{chart, helm};

const NAMESPACE: &str = "openbao-operator-system";

fn rendered() -> String {
    let chart = chart().display().to_string();
    let output = helm(&["template", "openbao-operator", &chart, "--namespace", NAMESPACE]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut text = format!(
        "# The operator with the chart's default values: kubectl apply --server-side -f dist/install.yaml\n\
         # Written by OPENBAO_UPDATE=1 cargo test --test cluster platform::dist\n---\napiVersion: v1\nkind: Namespace\n\
         metadata:\n  name: {NAMESPACE}\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n"
    );
    for line in String::from_utf8(output.stdout).expect("UTF-8").lines() {
        // Nobody but Helm looks after what carries its name.
        let line = line.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl");
        if !line.trim_start().starts_with("helm.sh/chart:") && !line.starts_with("# Source:") {
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

#[test]
fn the_file_for_those_without_helm_is_what_the_chart_renders() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/install.yaml");
    let wanted = rendered();
    if std::env::var_os("OPENBAO_UPDATE").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
        fs::write(&path, &wanted).expect("the file");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "dist/install.yaml is not what the chart renders: run OPENBAO_UPDATE=1 cargo test --test cluster platform::dist"
    );
}
