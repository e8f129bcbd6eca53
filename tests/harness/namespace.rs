//! One test's own place: a namespace in the cluster and a folder on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, ServiceAccount};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};

use super::{Cluster, eventually, evidence};

/// Deleted with everything in it when dropped; if the test failed, its evidence is collected first.
pub struct Namespace {
    cluster: Cluster,
    name: String,
    folder: PathBuf,
    /// Something in it went wrong, though the test goes on.
    spoiled: AtomicBool,
}

impl Namespace {
    /// `name` says what the test is about; the namespace's own adds what makes it unique.
    pub async fn new(cluster: &Cluster, name: &str) -> Self {
        let name = format!("{name}-{}", unique());
        let folder = xtask::image::target_folder().join("test-runs").join(&name);
        fs::create_dir_all(&folder).expect("a folder for the test");
        let object = KubeNamespace {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            ..KubeNamespace::default()
        };
        let api: Api<KubeNamespace> = Api::all(cluster.client());
        api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("namespace {name}: {error}"));
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), &name);
        eventually("the namespace gets its default account", Duration::from_secs(20), async || {
            accounts.get("default").await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { cluster: cluster.clone(), name, folder, spoiled: AtomicBool::new(false) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is in it is kept as evidence, as after a failed test, when the value is dropped.
    pub fn keep_evidence(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }

    /// For logs and files of this test; kept when it fails.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn client(&self) -> Client {
        self.cluster.client()
    }

    /// The namespace's objects of one kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client(), &self.name)
    }

    /// Applies YAML with any number of documents, as a person would.
    pub async fn apply(&self, yaml: &str) {
        let file = self.folder.join(format!("applied-{}.yaml", unique()));
        fs::write(&file, yaml).expect("the manifest is written");
        let file = file.display().to_string();
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]).await;
    }

    /// kubectl as administrator in this namespace.
    pub async fn kubectl(&self, words: &[&str]) -> String {
        let words: Vec<&str> = ["-n", &self.name].into_iter().chain(words.iter().copied()).collect();
        self.cluster.kubectl(&words).await
    }

    /// kubectl where no runtime is at hand any more; its failures are only said.
    pub(super) fn kubectl_now(&self, words: &[&str]) -> String {
        let Ok(path) = self.cluster.devcluster().path() else { return String::new() };
        let output = Command::new("kubectl")
            .env("PATH", path)
            .arg("--kubeconfig")
            .arg(self.cluster.devcluster().kubeconfig())
            .args(["--request-timeout=20s", "-n", &self.name])
            .args(words)
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) => {
                String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
            }
            Err(error) => format!("kubectl: {error}"),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() || self.spoiled.load(Ordering::Relaxed) {
            evidence::collect(self);
        } else {
            // What a passed test wrote is of no use to anyone.
            let _ = fs::remove_dir_all(&self.folder);
        }
        if std::env::var_os("OPENBAO_TEST_KEEP").is_some() {
            return;
        }
        self.kubectl_now(&["delete", "namespace", &self.name, "--wait=false"]);
        // Our finalizers wait for an operator, and the test's is gone.
        for kind in ["openbaooperations", "openbaorestores", "openbaorollouts", "openbaoclusters"] {
            let kind = format!("{kind}.openbao.org");
            // Of a benchmark's ten thousand records none has any.
            let kept = "jsonpath={range .items[?(@.metadata.finalizers)]}kept/{.metadata.name} {end}";
            for object in self.kubectl_now(&["get", &kind, "-o", kept, "--ignore-not-found"]).split_whitespace() {
                if let Some(name) = object.strip_prefix("kept/") {
                    self.kubectl_now(&[
                        "patch",
                        &kind,
                        name,
                        "--type=merge",
                        "-p",
                        r#"{"metadata":{"finalizers":null}}"#,
                    ]);
                }
            }
        }
    }
}

/// Different for every call in every process on this machine.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 100_000;
    format!("{:x}-{:x}-{}", seconds, std::process::id() % 0xffff, COUNT.fetch_add(1, Ordering::Relaxed))
}
