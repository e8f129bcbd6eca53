//! Audit devices, declared in the configuration or created at the first start.

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::rules;

/// An audit device written into the configuration.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = ("self.type != 'file' || has(self.fileOptions) || has(self.options)", "an audit device of type file needs fileOptions"))]
#[x_kube(validation = ("self.type != 'http' || has(self.httpOptions) || has(self.options)", "an audit device of type http needs httpOptions"))]
#[x_kube(validation = ("self.type != 'socket' || has(self.socketOptions) || has(self.options)", "an audit device of type socket needs socketOptions"))]
#[serde(rename_all = "camelCase")]
pub struct AuditDevice {
    /// `file` or `socket` (since OpenBao 2.4), or `http` (since 2.5); its block stands beside it. `syslog` is refused: no syslog
    /// daemon listens in a server's container.
    #[serde(rename = "type")]
    pub type_: AuditType,
    /// What it is called, for example `file/`. OpenBao never lets a device be another than it was, so its path there is this, with a
    /// dash for each / inside, and a digest of its settings, for example `file-3f9c2a1b/`: with other settings it is a new device, and
    /// the one of before goes.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = device_path())]
    pub path: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub description: Option<String>,
    /// `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_options: Option<FileAuditOptions>,
    /// `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_options: Option<HttpAuditOptions>,
    /// `syslog`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syslog_options: Option<SyslogAuditOptions>,
    /// `socket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_options: Option<SocketAuditOptions>,
    /// Any further options, by OpenBao's names: `log_raw`, `hmac_accessor`, `elide_list_responses`, `prefix`, `skip_test`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub options: Option<serde_json::Value>,
}

/// Devices are listed, and told apart, by it.
fn device_path() -> Rule {
    Rule::new("self.matches(r'^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*/?$')").message(
        "the path of an audit device must be of letters, digits, dashes, dots and underscores, with a / between parts, for example file/",
    )
}

/// One device for each path; OpenBao adds the / that is left out at its end.
pub(crate) fn one_device_a_path() -> Rule {
    Rule::new("self.all(a, self.exists_one(b, a.path == b.path || a.path == b.path + '/' || a.path + '/' == b.path))")
        .message("two audit devices have the same path: a / at its end makes no difference")
}

/// The schema of parts whose shape belongs to OpenBao.
pub(crate) fn free_form(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// The kinds of audit device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditType {
    /// A file, or standard output.
    File,
    /// The system log.
    Syslog,
    /// A TCP, UDP or unix socket.
    Socket,
    /// An HTTP endpoint.
    Http,
}

/// A file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileAuditOptions {
    /// `stdout`, which is the log of each server's pod, `discard`, or a file directly in `/tmp` or in `/openbao/data`, of each
    /// server's own. Nobody rotates it: one in `/openbao/data` fills the volume in the end and goes with it, for example at a rollback,
    /// and one in `/tmp` goes with the pod.
    #[schemars(length(min = 1, max = 1024))]
    pub file_path: String,
    /// Permissions as an octal number, default `0600`. The owner must be allowed to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub mode: Option<String>,
}

/// An HTTP endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpAuditOptions {
    /// Where to post.
    #[schemars(length(min = 1, max = 2048))]
    pub uri: String,
    /// Headers to send, each with its value or a list of values. They lie in a `ConfigMap`, so one that is named like a credential is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub headers: Option<serde_json::Value>,
}

/// The system log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyslogAuditOptions {
    /// Facility, for example `AUTH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub facility: Option<String>,
    /// Tag of the lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tag: Option<String>,
}

/// A socket.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketAuditOptions {
    /// `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub address: Option<String>,
    /// `tcp` or `udp`. Default `tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub socket_type: Option<String>,
    /// How long a write may take, for example `2s`. In `spec.audit` it is `500ms` if nothing is said; every request waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::openbao_duration("writeTimeout"))]
    pub write_timeout: Option<String>,
}
