//! Audit devices, declared in the configuration or created at the first start.

use kube::KubeSchema;
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
    /// `file`, `syslog`, `socket` or `http`; its block stands beside it.
    #[serde(rename = "type")]
    pub type_: AuditType,
    /// Where it is mounted, for example `file/`.
    #[schemars(length(min = 1, max = 256))]
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
    /// Any further options, by OpenBao's names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub options: Option<serde_json::Value>,
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
    /// Path, or `stdout`.
    #[schemars(length(min = 1, max = 1024))]
    pub file_path: String,
    /// Permissions as an octal number.
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
    /// Headers to send.
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
    /// `host:port`, or a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub address: Option<String>,
    /// `tcp`, `udp` or `unix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub socket_type: Option<String>,
    /// How long a write may take, for example `2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::openbao_duration("writeTimeout"))]
    pub write_timeout: Option<String>,
}
