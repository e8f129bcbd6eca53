//! The demo on a cluster that somebody brings along: it is reached by a context of a kubeconfig, and pulls the operator's
//! image from a registry.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use xtask::image;

use crate::harness::{Own, eventually};

/// On the node's loopback, where containerd speaks plain HTTP to it.
const REGISTRY: &str = "127.0.0.1:5000";
const CONTEXT: &str = "harbour";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn the_demo_plays_on_a_cluster_of_ones_own_that_pulls_from_a_registry() {
    let own = Own::with("context", &["helm", "registry"]).await;
    let folder = tempfile::tempdir().unwrap();
    let _registry = Registry::start(&own, folder.path()).await;
    let published = published(&own).await;
    let kubeconfig = own_context(&own, folder.path());

    let demo = |words: &[&str]| {
        let mut demo = Command::new(env!("CARGO"));
        demo.current_dir(env!("CARGO_MANIFEST_DIR")).args([
            "xtask",
            "demo",
            "--context",
            CONTEXT,
            "--registry",
            REGISTRY,
        ]);
        demo.args(words)
            .env("KUBECONFIG", &kubeconfig)
            .env("OPENBAO_DEVCLUSTER_DIR", own.cluster().devcluster().root());
        let output = demo.stdin(Stdio::null()).output().expect("cargo starts");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        eprintln!("{said}");
        (output.status.success(), said)
    };

    // What a demo did not make it does not remove.
    own.kubectl(&["create", "namespace", "openbao-demo"]).await;
    let (done, said) = demo(&[]);
    assert!(!done && said.contains("a namespace openbao-demo that no demo made"), "{said}");
    own.kubectl(&["delete", "namespace", "openbao-demo"]).await;

    let (done, said) = demo(&["--keep"]);
    assert!(done && said.contains("PROVEN"), "{said}");
    let pods = own.get(&["pods", "-n", xtask::install::NAMESPACE]).await;
    let images: Vec<&str> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|pod| pod["spec"]["containers"][0]["image"].as_str())
        .collect();
    assert!(!images.is_empty() && images.iter().all(|image| *image == published), "{images:?}");
    let pulled = own.get(&["events", "-n", xtask::install::NAMESPACE, "--field-selector=reason=Pulled"]).await;
    assert!(pulled.to_string().contains("Successfully pulled image"), "from the registry, not from the node: {pulled}");

    // The operator is there now, and is somebody's: a second demo takes it as it is, and leaves only that behind.
    let before = own.kubectl(&["get", "pods", "-n", xtask::install::NAMESPACE, "-o", "name"]).await;
    let (done, said) = demo(&[]);
    assert!(done && said.contains("PROVEN") && said.contains("used as it is"), "{said}");
    assert_eq!(own.kubectl(&["get", "pods", "-n", xtask::install::NAMESPACE, "-o", "name"]).await, before);
    assert!(!own.kubectl(&["get", "namespaces", "-o", "name"]).await.contains("openbao-demo"));
}

/// A real registry in the node's network, until it is dropped.
struct Registry {
    process: std::process::Child,
}

impl Registry {
    async fn start(own: &Own, folder: &Path) -> Self {
        let settings = folder.join("registry.yml");
        let root = folder.join("registry").display().to_string();
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: {REGISTRY}}}\nlog: {{level: warn}}\n"
        );
        fs::write(&settings, text).unwrap();
        let mut program = own.cluster().devcluster().inside_network().expect("a running node");
        program.args(["registry", "serve"]).arg(settings).env("OTEL_TRACES_EXPORTER", "none").stdin(Stdio::null());
        let log = fs::File::create(folder.join("registry.log")).unwrap();
        program.stdout(log.try_clone().unwrap()).stderr(log);
        let registry = Self { process: program.spawn().expect("the registry starts") };
        eventually("the registry answers", Duration::from_secs(30), async || {
            let output = own.cluster().inside(&["curl", "-sSf", &format!("http://{REGISTRY}/v2/")]).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let log = || fs::read_to_string(folder.join("registry.log")).unwrap_or_default();
            if output.status.success() { Ok(()) } else { Err(format!("{said}{}", log())) }
        })
        .await;
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Pushes the image, and makes the node forget it. Returns the name that a pod finds it by.
async fn published(own: &Own) -> String {
    let tag = own.image().await.iter().find_map(|set| set.strip_prefix("image.tag=").map(str::to_owned)).unwrap();
    let local = format!("{}:{tag}", image::REPOSITORY);
    let published = format!("{REGISTRY}/openbao-operator:{}", env!("CARGO_PKG_VERSION"));
    let ctr = async |words: &[&str]| {
        own.cluster().expect_inside(&[&["ctr", "-n", "k8s.io", "images"], words].concat()).await;
    };
    ctr(&["tag", &local, &published]).await;
    ctr(&["push", "--plain-http", &published]).await;
    ctr(&["rm", "--sync", &local, &published]).await;
    published
}

/// A kubeconfig as a person has it: several contexts, none of which is chosen.
fn own_context(own: &Own, folder: &Path) -> std::path::PathBuf {
    let file = folder.join("kubeconfig");
    fs::copy(own.cluster().devcluster().kubeconfig(), &file).unwrap();
    let kubectl = |words: &[&str]| {
        let path = own.cluster().devcluster().path().expect("a path");
        let output = Command::new("kubectl").env("PATH", path).arg("--kubeconfig").arg(&file).args(words).output();
        let output = output.expect("kubectl starts");
        assert!(output.status.success(), "kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let context = kubectl(&["config", "current-context"]);
    kubectl(&["config", "rename-context", &context, CONTEXT]);
    kubectl(&["config", "set-context", "elsewhere", "--cluster=nowhere", "--user=nobody"]);
    kubectl(&["config", "unset", "current-context"]);
    file
}
