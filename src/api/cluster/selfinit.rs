//! What OpenBao sets up by itself at its first start (its `initialize` stanzas).

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::string_map;

use crate::api::rules;

use super::audit::{AuditType, FileAuditOptions, HttpAuditOptions, SocketAuditOptions, SyslogAuditOptions, free_form};

/// What OpenBao sets up by itself at its first start. It runs once, on an empty cluster, and no root token is kept.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfInit {
    /// Whether to do it. Default false: the operator initialises through the API and stores the root token in `<name>-root-token`.
    #[serde(default)]
    pub enabled: bool,
    /// Requests in order, each one an API call that OpenBao makes to itself. What lets people log in has to be among them: nobody
    /// can add it later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub requests: Vec<SelfInitRequest>,
    /// Let service accounts of this Kubernetes cluster log in: what backups, restores and upgrades use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc: Option<SelfInitOidc>,
}

/// Login for service accounts of this Kubernetes cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfInitOidc {
    /// Whether to set it up. Default false.
    #[serde(default)]
    pub enabled: bool,
    /// Audience that tokens of backup and restore Jobs must carry. Default `openbao:<namespace>/<name>`, which the operator's own
    /// tokens carry in any case. Fixed once the cluster is initialised: the roles in OpenBao demand it. So is its absence: the
    /// default cannot be spelled out later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub audience: Option<String>,
    /// Issuer of the tokens. Default: what the API server says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = rules::http_url("selfInit.oidc.issuer"))]
    pub issuer: Option<String>,
}

/// One API call that OpenBao makes to itself. Say the body by `data`, or by one of the four typed blocks.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = ("(has(self.data) ? 1 : 0) + (has(self.auditDevice) ? 1 : 0) + (has(self.authMethod) ? 1 : 0) + (has(self.secretEngine) ? 1 : 0) + (has(self.policy) ? 1 : 0) <= 1", "a selfInit request takes one of data, auditDevice, authMethod, secretEngine and policy"))]
#[x_kube(validation = ("self.operation in ['create', 'read', 'update', 'patch', 'delete', 'list', 'scan']", "operation must be one of create, read, update, patch, delete, list and scan"))]
#[serde(rename_all = "camelCase")]
pub struct SelfInitRequest {
    /// Name of the request, for messages.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_-]*$"))]
    pub name: String,
    /// `create`, `read`, `update`, `delete` or `list`.
    #[schemars(length(min = 1, max = 32))]
    pub operation: String,
    /// API path without `/v1/`, for example `sys/policies/acl/app`.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::no_climbing("path"))]
    #[x_kube(validation = ("!self.startsWith('/') && !self.startsWith('v1/')", "path is an API path without /v1/ in front, for example sys/policies/acl/app"))]
    pub path: String,
    /// Body of the request, any shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub data: Option<serde_json::Value>,
    /// Go on when it fails. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_failure: bool,
    /// Body for `sys/audit/…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_device: Option<SelfInitAuditDevice>,
    /// Body for `sys/auth/…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_method: Option<SelfInitAuthMethod>,
    /// Body for `sys/mounts/…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_engine: Option<SelfInitSecretEngine>,
    /// Body for `sys/policies/acl/…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<SelfInitPolicy>,
}

/// An audit device to enable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelfInitAuditDevice {
    /// `file`, `syslog`, `socket` or `http`; its block stands beside it.
    #[serde(rename = "type")]
    pub type_: AuditType,
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
}

/// A login method to enable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelfInitAuthMethod {
    /// Its type, for example `jwt`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub description: Option<String>,
    /// Tuning of the mount.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub config: BTreeMap<String, String>,
}

/// A secret engine to mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelfInitSecretEngine {
    /// Its type, for example `kv`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub description: Option<String>,
    /// Its options, for example `version: "2"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub options: BTreeMap<String, String>,
}

/// A policy to write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelfInitPolicy {
    /// The policy text.
    #[schemars(length(min = 1, max = 65536))]
    pub policy: String,
}
