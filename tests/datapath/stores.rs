//! Real stores on loopback: SeaweedFS (plain and with TLS of a private authority), Azurite, a folder; and a double for GCS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use openbao_operator::adapter::objectstore::target::{AzureTarget, FileTarget, Provider};
use openbao_operator::adapter::objectstore::{Credentials, Store, Target};
use serde_json::json;
use tempfile::TempDir;

use super::doubles;
use super::tools::{self, Pki, Process};
use crate::harness::eventually;

pub const BUCKET: &str = "backups";

/// A store that runs, what a target for it says, and the Secret's folder.
pub struct Running {
    folder: TempDir,
    pub target: Target,
    process: Option<Process>,
    command: Option<Box<dyn Fn() -> Command + Send + Sync>>,
    double: Option<doubles::Double>,
}

impl Running {
    pub fn credentials(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    pub fn open(&self) -> Store {
        Store::open(&self.target, &Credentials::read(Some(&self.credentials())).unwrap()).unwrap()
    }

    pub fn target_json(&self) -> String {
        serde_json::to_string(&self.target).unwrap()
    }

    pub fn set_secret(&self, key: &str, value: &str) {
        std::fs::write(self.credentials().join(key), value).unwrap();
    }

    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// On its old data, and ready when this returns.
    pub async fn start_again(&mut self) {
        let command = self.command.as_ref().unwrap()();
        self.process = Some(Process::start(command, &self.folder.path().join("log-again")));
        self.wait().await;
    }

    async fn wait(&self) {
        // A probe that also makes the store settle: the first write of a fresh volume server may fail.
        let store = self.open();
        eventually("the store takes writes", Duration::from_mins(2), async || {
            let probe = tokio::time::timeout(Duration::from_secs(20), store.preflight("probe"));
            match probe.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => {
                    Err(format!("{error}\n{}", self.process.as_ref().map_or(String::new(), Process::last_words)))
                }
                Err(_) => Err("no answer".to_owned()),
            }
        })
        .await;
    }
}

fn new(target: Target) -> Running {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("secret")).unwrap();
    Running { folder, target, process: None, command: None, double: None }
}

pub fn file() -> Running {
    let mut running = new(Target { provider: Provider::File, path_prefix: Some("prod".into()), ..Target::default() });
    let root = running.folder.path().join("store").display().to_string();
    running.target.file = Some(FileTarget { root });
    running
}

/// An S3 server; with TLS of an authority that nobody knows unless told.
pub async fn seaweed(tls: bool) -> Running {
    let ports = tools::ports(5);
    let (s3, secure) = (ports[0], ports[1]);
    let endpoint = if tls { format!("https://127.0.0.1:{secure}") } else { format!("http://127.0.0.1:{s3}") };
    let mut running = new(Target {
        endpoint: Some(endpoint),
        bucket: Some(BUCKET.into()),
        path_prefix: Some("prod".into()),
        part_size: Some(5 << 20),
        ..Target::default()
    });
    running.set_secret("accessKeyId", "test-access");
    running.set_secret("secretAccessKey", "test-secret");
    let root = running.folder.path().to_owned();
    let pki = Pki::new();
    pki.issue(&root, "s3", &["127.0.0.1", "localhost"]);
    if tls {
        running.set_secret("caCert", &pki.ca_pem);
    }
    let identities = json!({"identities": [{
        "name": "test",
        "credentials": [{"accessKey": "test-access", "secretKey": "test-secret"}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }, {
        "name": "reader",
        "credentials": [{"accessKey": "read-access", "secretKey": "read-secret"}],
        "actions": [format!("Read:{BUCKET}"), format!("List:{BUCKET}")],
    }]});
    std::fs::write(root.join("s3.json"), identities.to_string()).unwrap();
    std::fs::create_dir_all(root.join("data")).unwrap();
    let command = move || weed(&root, &ports, tls);
    running.process = Some(Process::start(command(), &running.folder.path().join("log")));
    running.command = Some(Box::new(command));
    let filer = format!("http://127.0.0.1:{}/buckets/{BUCKET}/", tools_filer(&running));
    eventually("the bucket exists", Duration::from_mins(1), async || {
        let made = reqwest::Client::new().post(&filer).timeout(Duration::from_secs(5)).send().await;
        match made {
            Ok(answer) if answer.status().is_success() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    running.wait().await;
    running
}

/// The filer's port is kept in a file, so that a restart finds it.
fn tools_filer(running: &Running) -> String {
    std::fs::read_to_string(running.folder.path().join("filer-port")).unwrap()
}

fn weed(root: &Path, ports: &[u16], tls: bool) -> Command {
    let [s3, secure, master, volume, filer] = ports else { panic!("five ports") };
    std::fs::write(root.join("filer-port"), filer.to_string()).unwrap();
    let mut command = Command::new(tools::weed());
    command.current_dir(root).args([
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        "-master.volumeSizeLimitMB=256",
    ]);
    command
        .args(["-volume.max=50", "-volume.minFreeSpace=1", "-s3.config=s3.json"])
        .arg(format!("-dir={}/data", root.display()));
    command
        .arg(format!("-master.port={master}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-filer.port={filer}"));
    command.arg(format!("-s3.port={s3}"));
    if tls {
        command.arg(format!("-s3.port.https={secure}")).args(["-s3.cert.file=s3.crt", "-s3.key.file=s3.key"]);
    }
    command
}

/// The account and key that Azurite has built in.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

pub async fn azurite() -> Running {
    let port = tools::ports(1)[0];
    let endpoint = format!("http://127.0.0.1:{port}/{AZURE_ACCOUNT}");
    let mut running = new(Target {
        provider: Provider::Azure,
        endpoint: Some(endpoint.clone()),
        path_prefix: Some("prod".into()),
        azure: Some(AzureTarget { storage_account: Some(AZURE_ACCOUNT.into()), container: Some(BUCKET.into()) }),
        part_size: Some(5 << 20),
        ..Target::default()
    });
    running.set_secret("accountKey", AZURE_KEY);
    let mut command = Command::new(tools::azurite());
    command.args([
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        &port.to_string(),
        "--skipApiVersionCheck",
        "--silent",
        "--location",
    ]);
    command.arg(running.folder.path().join("data"));
    running.process = Some(Process::start(command, &running.folder.path().join("log")));
    eventually("the container exists", Duration::from_mins(1), async || {
        doubles::create_azure_container(&endpoint, AZURE_ACCOUNT, AZURE_KEY, BUCKET).await
    })
    .await;
    running.wait().await;
    running
}

/// A double of our own: no installable server takes this client's GCS writes.
pub async fn gcs_double() -> Running {
    tools::ports(0);
    let double = doubles::Double::start().await;
    let mut running = new(Target {
        provider: Provider::Gcs,
        endpoint: Some(double.url.clone()),
        bucket: Some(BUCKET.into()),
        path_prefix: Some("prod".into()),
        part_size: Some(5 << 20),
        ..Target::default()
    });
    running.set_secret("credentials.json", &doubles::service_account());
    running.double = Some(double);
    running
}
