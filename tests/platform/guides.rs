//! The guides as a person follows them: every command of theirs that speaks to a cluster is typed as it stands, in their
//! order, on a devcluster of the test's own.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use xtask::devcluster::Devcluster;

use super::docs::blocks;
use crate::harness::Own;

/// Pages in the order in which somebody new reads them.
const PAGES: &[&str] =
    &["backup.md", "restore.md", "upgrade.md", "lock.md", "kubectl-openbao.md", "troubleshooting.md"];

/// What answers with an error in this story, by its beginning, with a word of that error.
const REFUSED: &[(&str, &str)] = &[
    // The restore has been proven: there is nothing to resume and nothing to give up.
    ("kubectl openbao --namespace openbao resume restore/", "has ended"),
    ("kubectl openbao --namespace openbao abandon restore/", "has ended"),
    // No upgrade runs: the cluster has that version.
    ("kubectl openbao --namespace openbao resume main-upgrade-2-7-2-1", "does not exist"),
    ("kubectl openbao --namespace openbao cancel main-upgrade-2-7-2-1", "does not exist"),
    ("kubectl openbao --namespace openbao retry main-upgrade-2-7-2-1", "does not exist"),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn every_command_of_the_guides_does_what_they_say() {
    let own = Own::start("guides").await;
    let mut sets = String::new();
    for set in own.image().await {
        sets.extend([" --set ", set.as_str()]);
    }
    let type_in = |line: &str| shell(own.cluster().devcluster(), line);

    // By Helm, with the image that is here.
    for line in commands("install.md").iter().take(2) {
        let line = if line.starts_with("helm") { format!("{line}{sets} --wait --timeout 3m") } else { line.clone() };
        succeeds(&line, &type_in(&line));
    }
    for line in commands("first-cluster.md") {
        let said = succeeds(&line, &type_in(&line));
        if line.ends_with("status main") {
            for word in ["main-0", "Active", "Running", "unsealed"] {
                assert!(said.contains(word), "{line}: {word}: {said}");
            }
        }
    }

    let mut count = 0;
    for page in PAGES {
        for line in commands(page) {
            let line = named_as_here(&own, &line).await;
            let output = type_in(&line);
            match REFUSED.iter().find(|(begin, _)| line.starts_with(begin)) {
                None => drop(succeeds(&line, &output)),
                Some((_, word)) => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert!(!output.status.success() && said.contains(word), "{page}: {line}: {said}");
                }
            }
            count += 1;
        }
    }
    assert!(count >= 20, "only {count} commands were typed");

    // The files for those without Helm are accepted beside what Helm installed; then all goes, in the order of the page.
    let install = commands("install.md");
    for line in &install {
        let dry = match line {
            line if line.contains("kubectl apply") => " --dry-run=server --force-conflicts",
            line if line.starts_with("kubectl delete -f") => " --dry-run=server",
            _ => continue,
        };
        let line = format!("{line}{dry}");
        succeeds(&line, &type_in(&line));
    }
    let end = install.iter().position(|line| line.starts_with("kubectl delete crd")).expect("how to remove everything");
    assert!(install[end..].iter().any(|line| line.starts_with("helm un")), "the operator goes after its kinds");
    for line in &install[end..] {
        succeeds(line, &type_in(line));
    }
}

/// The lines of a page's blocks that are typed into a shell; continued ones joined.
fn commands(page: &str) -> Vec<String> {
    blocks("sh")
        .into_iter()
        .filter(|(on, _)| on == page)
        .flat_map(|(_, block)| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .collect()
}

/// The guides call a backup by a name that it has elsewhere.
async fn named_as_here(own: &Own, line: &str) -> String {
    const GUIDE: &str = "main-backup-20261121-030000";
    if !line.contains(GUIDE) {
        return line.to_owned();
    }
    let all = own.get(&["-n", "openbao", "openbaooperations"]).await;
    let names = all["items"].as_array().unwrap().iter().filter_map(|item| item["metadata"]["name"].as_str());
    let name = names.into_iter().find(|name| name.starts_with("main-backup-")).expect("a backup");
    line.replace(GUIDE, name)
}

/// As at a prompt in the repository, where a question is answered with yes.
fn shell(devcluster: &Devcluster, line: &str) -> Output {
    let plugin = Path::new(env!("CARGO_BIN_EXE_kubectl-openbao")).parent().unwrap().display().to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("yes | {{ {line}; }}")]).current_dir(env!("CARGO_MANIFEST_DIR"));
    shell.env("PATH", format!("{plugin}:{}", devcluster.path().unwrap())).env("KUBECONFIG", devcluster.kubeconfig());
    shell.stdin(Stdio::null()).output().unwrap()
}

fn succeeds(line: &str, output: &Output) -> String {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {}\n{said}", output.status);
    said
}
