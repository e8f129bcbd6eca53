//! Certificates and kubeconfigs of one node's life. Made anew at every start: nothing outside ever trusts them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::{Devcluster, NODE_ADDRESS};
use crate::report;

/// The first address of the service range: `kubernetes.default`.
const API_SERVICE: &str = "10.43.0.1";
const NODE: &str = "node1";

struct Subject<'a> {
    name: &'a str,
    common_name: &'a str,
    organization: Option<&'a str>,
}

const CLIENTS: &[Subject<'_>] = &[
    Subject { name: "admin", common_name: "admin", organization: Some("system:masters") },
    Subject { name: "kcm", common_name: "system:kube-controller-manager", organization: None },
    Subject { name: "scheduler", common_name: "system:kube-scheduler", organization: None },
    Subject { name: "proxy", common_name: "system:kube-proxy", organization: None },
    Subject { name: "kubelet", common_name: "system:node:node1", organization: Some("system:nodes") },
    Subject { name: "dns", common_name: "system:kube-dns", organization: None },
];

/// Writes everything into `folder`, and the kubeconfig for outside.
pub fn write(cluster: &Devcluster, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "devcluster-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    private(&folder.join("ca.key"), &ca.key().serialize_pem())?;
    fs::write(folder.join("ca.crt"), ca.pem())?;

    let api_names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let api_server = Subject { name: "apiserver", common_name: "kube-apiserver", organization: None };
    let mut sans = vec![ip("127.0.0.1")?, ip(NODE_ADDRESS)?, ip(API_SERVICE)?];
    for name in api_names {
        sans.push(SanType::DnsName(name.try_into()?));
    }
    leaf(&ca, folder, &api_server, sans, ExtendedKeyUsagePurpose::ServerAuth)?;
    let kubelet = Subject { name: "kubelet-server", common_name: NODE, organization: None };
    let sans = vec![SanType::DnsName(NODE.try_into()?), ip("127.0.0.1")?, ip(NODE_ADDRESS)?];
    leaf(&ca, folder, &kubelet, sans, ExtendedKeyUsagePurpose::ServerAuth)?;
    let to_kubelet = Subject {
        name: "apiserver-kubelet-client",
        common_name: "kube-apiserver-kubelet-client",
        organization: Some("system:masters"),
    };
    leaf(&ca, folder, &to_kubelet, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)?;

    for client in CLIENTS {
        let (certificate, key) = leaf(&ca, folder, client, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)?;
        let inner = format!("https://{NODE_ADDRESS}:6443");
        private(
            &folder.join(format!("{}.kubeconfig", client.name)),
            &kubeconfig(&inner, &ca.pem(), &certificate, &key),
        )?;
        if client.name == "admin" {
            let outer = format!("https://127.0.0.1:{}", cluster.port);
            private(&cluster.kubeconfig(), &kubeconfig(&outer, &ca.pem(), &certificate, &key))?;
        }
    }
    // Service-account tokens are signed with RSA, as on most real clusters, and our TLS provider makes no RSA keys.
    private(&folder.join("sa.key"), "")?;
    report::output(Command::new("openssl").args(["genrsa", "-out"]).arg(folder.join("sa.key")).arg("2048"))?;
    report::output(
        Command::new("openssl")
            .args(["rsa", "-pubout", "-in"])
            .arg(folder.join("sa.key"))
            .arg("-out")
            .arg(folder.join("sa.pub")),
    )?;
    Ok(())
}

fn ip(text: &str) -> Result<SanType> {
    Ok(SanType::IpAddress(text.parse().with_context(|| format!("{text} is no address"))?))
}

fn leaf(
    ca: &CertifiedIssuer<'_, KeyPair>,
    folder: &Path,
    subject: &Subject<'_>,
    sans: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(String, String)> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, subject.common_name);
    if let Some(organization) = subject.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.subject_alt_names = sans;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?.pem();
    let key = key.serialize_pem();
    fs::write(folder.join(format!("{}.crt", subject.name)), &certificate)?;
    private(&folder.join(format!("{}.key", subject.name)), &key)?;
    Ok((certificate, key))
}

/// Everything in one file, so that it can be copied and mounted elsewhere.
fn kubeconfig(server: &str, ca: &str, certificate: &str, key: &str) -> String {
    let (ca, certificate, key) = (STANDARD.encode(ca), STANDARD.encode(certificate), STANDARD.encode(key));
    format!(
        r#"apiVersion: v1
kind: Config
clusters:
- name: devcluster
  cluster: {{server: "{server}", certificate-authority-data: {ca}}}
users:
- name: admin
  user: {{client-certificate-data: {certificate}, client-key-data: {key}}}
contexts:
- name: devcluster
  context: {{cluster: devcluster, user: admin}}
current-context: devcluster
"#
    )
}

/// A file that only its owner reads.
fn private(path: &Path, text: &str) -> Result<()> {
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("could not write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
