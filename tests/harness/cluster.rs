//! The devcluster as tests see it.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Mutex, OnceLock};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config, ResourceExt};
use xtask::devcluster::Devcluster;
use xtask::image;

use super::{Audit, Namespace};

/// A devcluster that is up and knows our kinds. A client belongs to a test's runtime, so every test makes its own.
#[derive(Clone)]
pub struct Cluster {
    devcluster: Devcluster,
    client: Client,
}

/// One devcluster for the whole program; whoever comes first starts it.
static UP: OnceLock<Devcluster> = OnceLock::new();
static KINDS: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
static IMAGE: Mutex<Option<String>> = Mutex::new(None);
static SERVER: Mutex<Option<String>> = Mutex::new(None);

impl Cluster {
    /// The shared devcluster. Fails the test, with the reason, where it cannot run.
    pub async fn get() -> Self {
        let devcluster = tokio::task::spawn_blocking(|| {
            UP.get_or_init(|| {
                let devcluster = Devcluster::from_environment().expect("the devcluster's settings");
                devcluster.up().unwrap_or_else(|error| panic!("the devcluster did not come up: {error:#}"));
                devcluster
            })
        })
        .await
        .expect("the devcluster comes up")
        .clone();
        let client = client(&devcluster.kubeconfig()).await;
        let cluster = Self { devcluster, client };
        KINDS.get_or_init(|| cluster.apply_kinds()).await;
        cluster
    }

    /// Another one that is up, with nothing of ours in it.
    pub async fn of(devcluster: Devcluster) -> Self {
        let client = client(&devcluster.kubeconfig()).await;
        Self { devcluster, client }
    }

    /// As administrator, from outside.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn devcluster(&self) -> &Devcluster {
        &self.devcluster
    }

    /// A namespace of this test's own; gone when the value is dropped.
    pub async fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(self, name).await
    }

    /// What the API server has been asked from now on.
    pub fn audit(&self) -> Audit {
        Audit::from_now(&self.devcluster.logs().join("audit.log"))
    }

    /// Runs a program in the node's network, where pods and services have addresses, and waits for it.
    pub async fn inside(&self, words: &[&str]) -> Output {
        let mut command = tokio::process::Command::from(self.devcluster.inside().expect("a running node"));
        command.args(words).stdin(Stdio::null()).kill_on_drop(true);
        command.output().await.expect("nsenter starts")
    }

    /// Like [`Self::inside`], for what must succeed; returns its stdout.
    pub async fn expect_inside(&self, words: &[&str]) -> String {
        let output = self.inside(words).await;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {}\n{stdout}{stderr}", output.status);
        stdout
    }

    /// kubectl as administrator; returns its stdout.
    pub async fn kubectl(&self, words: &[&str]) -> String {
        let words: Vec<&str> = std::iter::once("kubectl").chain(words.iter().copied()).collect();
        self.expect_inside(&words).await
    }

    /// The image that Jobs run: our two programs as this test run compiled them. Made once, on first use.
    ///
    /// Not the image that people get (that one is built statically and tested by `cargo xtask install`): compiling
    /// everything a second time would double the time of every test run.
    pub async fn operator_image(&self) -> String {
        let devcluster = self.devcluster.clone();
        tokio::task::spawn_blocking(move || {
            let mut image = IMAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            image
                .get_or_insert_with(|| {
                    let operator = Path::new(env!("CARGO_BIN_EXE_openbao-operator"));
                    let mover = Path::new(env!("CARGO_BIN_EXE_bao-backup"));
                    image::load_programs(&devcluster, operator, mover)
                        .unwrap_or_else(|error| panic!("the operator's image: {error:#}"))
                        .reference()
                })
                .clone()
        })
        .await
        .expect("the image is built")
    }

    /// OpenBao's newest image, in which the data mover of this test run runs too.
    pub async fn server_image(&self) -> String {
        let devcluster = self.devcluster.clone();
        tokio::task::spawn_blocking(move || {
            let mut image = SERVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            image
                .get_or_insert_with(|| {
                    let mover = Path::new(env!("CARGO_BIN_EXE_bao-backup"));
                    image::load_server(&devcluster, mover)
                        .unwrap_or_else(|error| panic!("the server's image: {error:#}"))
                })
                .clone()
        })
        .await
        .expect("the image is built")
    }

    pub async fn apply_kinds(&self) {
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        for crd in openbao_operator::api::crds().expect("the kinds") {
            let name = crd.name_any();
            api.patch(&name, &PatchParams::apply("openbao-tests").force(), &Patch::Apply(&crd))
                .await
                .unwrap_or_else(|error| panic!("could not apply {name}: {error}"));
            let established = await_condition(api.clone(), &name, conditions::is_crd_established());
            tokio::time::timeout(std::time::Duration::from_secs(20), established)
                .await
                .unwrap_or_else(|_| panic!("{name} is not established after 20 s"))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

/// A client from a kubeconfig file, with TLS by the one provider we use.
pub async fn client(kubeconfig: &Path) -> Client {
    client_with(kubeconfig, true).await
}

/// The same, but with `retries` false every refusal is told: kube tries a 429 again by itself, up to 15 times.
pub async fn client_with(kubeconfig: &Path, retries: bool) -> Client {
    // Another test may have done it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a configuration");
    config.default_retry = retries;
    Client::try_from(config).expect("a client")
}
