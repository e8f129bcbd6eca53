//! Certificates of the servers.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::yes;
use crate::api::rules;

/// Certificates of the servers.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = ("self.mode == 'ACME' ? has(self.acme) : !has(self.acme)", "tls.mode ACME needs the block tls.acme, and no other mode may have it"))]
#[x_kube(validation = ("self.mode != 'ACME' || self.enabled", "tls.mode ACME needs tls.enabled: true"))]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Serve TLS. Default true; without it everything, tokens included, crosses the network in the clear.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who makes the certificates. `OperatorManaged` (default): the operator, from a CA of this cluster's own. `External`: you,
    /// into the Secret `<name>-tls-server` (`tls.crt`, `tls.key`, `ca.crt`). `ACME`: OpenBao itself, from the server in `acme`.
    #[serde(default)]
    pub mode: TlsMode,
    /// `OperatorManaged` only: a certificate is made anew when less than this of its life remains, or up to half as much again: each
    /// cluster has a time of its own, so that not all of them restart their servers at once. Default `720h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::duration("tls.rotationPeriod"))]
    pub rotation_period: Option<String>,
    /// More DNS names or IP addresses for the certificate, for example `[bao.example.org, 192.0.2.10]`.
    #[serde(rename = "extraSANs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub extra_sans: Vec<String>,
    /// `ACME` only: where OpenBao gets its certificates by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { enabled: true, mode: TlsMode::default(), rotation_period: None, extra_sans: Vec::new(), acme: None }
    }
}

/// Who makes the certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// The operator, from a CA of its own per cluster.
    #[default]
    OperatorManaged,
    /// Someone else, into the Secret `<name>-tls-server`.
    External,
    /// OpenBao itself, from an ACME server.
    #[serde(rename = "ACME")]
    Acme,
}

/// Where OpenBao gets its certificates by itself.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = ("!(has(self.domain) && has(self.domains))", "tls.acme.domain and tls.acme.domains exclude each other: use domains"))]
#[x_kube(validation = ("has(self.domain) || (has(self.domains) && size(self.domains) > 0)", "tls.acme needs at least one entry in domains"))]
#[serde(rename_all = "camelCase")]
pub struct Acme {
    /// The ACME server's directory.
    #[serde(rename = "directoryURL")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = rules::http_url("tls.acme.directoryURL"))]
    pub directory_url: String,
    /// One domain. Use `domains`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub domain: Option<String>,
    /// The domains to ask certificates for. Not together with `domain`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    pub domains: Vec<String>,
    /// Contact for the ACME account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 254))]
    pub email: Option<String>,
}
