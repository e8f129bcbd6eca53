//! OpenBao's own settings, written into its configuration file or, where noted, through its API.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::rules;

/// OpenBao's own settings. What is left out keeps OpenBao's default, unless its text names another.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Serve the web interface. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ui: Option<bool>,
    /// `trace`, `debug`, `info`, `warn` or `err`. Default `info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// Where and how OpenBao logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// The listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
    /// Integrated storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raft: Option<RaftSettings>,
    /// How plugins are loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginSettings>,
    /// Entries of the storage cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub cache_size: Option<i64>,
    /// Turn the storage cache off. Slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_cache: Option<bool>,
    /// Lease duration where nothing else says one, for example `768h`.
    #[serde(rename = "defaultLeaseTTL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::openbao_duration("configuration.defaultLeaseTTL"))]
    pub default_lease_ttl: Option<String>,
    /// The longest lease.
    #[serde(rename = "maxLeaseTTL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::openbao_duration("configuration.maxLeaseTTL"))]
    pub max_lease_ttl: Option<String>,
    /// Report locks held too long in the log; for hunting bugs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detect_deadlocks: Option<bool>,
    /// Serve `sys/raw`: direct access to the encrypted storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_storage_endpoint: Option<bool>,
    /// Serve `sys/internal/inspect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introspection_endpoint: Option<bool>,
    /// Let audit devices be created through the API, not only by configuration.
    #[serde(rename = "unsafeAllowAPIAuditCreation", skip_serializing_if = "Option::is_none")]
    pub unsafe_allow_api_audit_creation: Option<bool>,
    /// Let audit devices put a prefix before each line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_audit_log_prefixing: Option<bool>,
    /// Tell the host name in a response header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_response_header_hostname: Option<bool>,
    /// Tell the Raft node id in a response header.
    #[serde(rename = "enableResponseHeaderRaftNodeID", skip_serializing_if = "Option::is_none")]
    pub enable_response_header_raft_node_id: Option<bool>,
    /// Count leases per role less exactly, and faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imprecise_lease_role_tracking: Option<bool>,
    /// CA file for the ACME server of `tls.acme`.
    #[serde(rename = "acmeCARoot", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub acme_ca_root: Option<String>,
}

/// How much OpenBao logs. Default `info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// For hunting bugs.
    Debug,
    /// The default.
    #[default]
    Info,
    /// Warnings and errors.
    Warn,
    /// Errors.
    Err,
}

/// Where and how OpenBao logs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logging {
    /// `standard` or `json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    /// File to log to besides standard output, directly in `/tmp` or `/openbao/data`: the servers can write to nothing else. One
    /// elsewhere has no effect, and `Supported` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub file: Option<String>,
    /// File for the process id, directly in `/tmp` or `/openbao/data`, as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub pid_file: Option<String>,
    /// Start a new file after so many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub rotate_bytes: Option<i64>,
    /// Start a new file after so long, for example `24h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::openbao_duration("configuration.logging.rotateDuration"))]
    pub rotate_duration: Option<String>,
    /// Old files to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub rotate_max_files: Option<i32>,
}

/// Shape of log lines: `standard` (default) for people, `json` for machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Standard,
    /// For machines.
    Json,
}

/// The listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Serve without TLS; must agree with `tls.enabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_disable: Option<bool>,
    /// Whether to believe the PROXY protocol: `use_always` or nothing. OpenBao cannot do what the others say: with one of them the
    /// cluster is not reconciled, and `Supported` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol_behavior: Option<ProxyProtocolBehavior>,
}

/// Whose PROXY protocol headers are believed: `use_always`, everyone's. `allow_any` and `deny_unauthorized`, those of allowed
/// addresses, are known and not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocolBehavior {
    /// From everyone.
    UseAlways,
    /// Not supported: OpenBao does not start with it.
    AllowAny,
    /// Not supported: nothing says which addresses are allowed, so OpenBao would refuse all.
    DenyUnauthorized,
}

/// Integrated storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RaftSettings {
    /// Stretches Raft's timeouts: 1 is fastest, busy machines need more. Default 1; OpenBao's own default is 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub performance_multiplier: Option<i32>,
    /// Autopilot. Set at the first start, and through OpenBao's API when this changes or another member leads, which includes
    /// every restore. Without `selfInit.oidc` a cluster that initialised itself has it from the first start only, and
    /// `Supported` says so. What is not set here stays as it is in OpenBao: taking a field out brings no default back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autopilot: Option<Autopilot>,
}

/// Autopilot.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Autopilot {
    /// Remove servers that are gone from raft. Default false. One that was removed never rejoins with its volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleanup_dead_servers: Option<bool>,
    /// How long a server must be gone before it is removed, at least `1m`. Default `24h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::openbao_duration("configuration.raft.autopilot.deadServerLastContactThreshold"))]
    pub dead_server_last_contact_threshold: Option<String>,
    /// A server not heard of for so long is unhealthy. Default `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::openbao_duration("configuration.raft.autopilot.lastContactThreshold"))]
    pub last_contact_threshold: Option<String>,
    /// A server that is so many log entries behind is unhealthy. Default 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_trailing_logs: Option<i64>,
    /// Servers that cleaning never goes below; at least 3. Default where dead servers are removed: `spec.replicas`, at least 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3, max = 9))]
    pub min_quorum: Option<i32>,
    /// How long a new server must be healthy before it votes. Default `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::openbao_duration("configuration.raft.autopilot.serverStabilizationTime"))]
    pub server_stabilization_time: Option<String>,
}

/// How plugins are loaded.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginSettings {
    /// Download plugins with `image` at start. Default true where there are any, and nothing else is accepted with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_download: Option<bool>,
    /// Register declared plugins at start, and take those that are not declared any more out of OpenBao's catalog. Default true where
    /// plugins are declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_register: Option<bool>,
    /// `standard` or `direct`. OpenBao knows neither: it has no effect, and `Supported` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_behavior: Option<PluginDownloadBehavior>,
    /// Permissions that plugin files must have, as an octal number such as `0755`. OpenBao does not start with anything else. It looks
    /// at files only where an environment variable says so, which no server is given: without effect, and `Supported` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(validation = rules::octal("configuration.plugin.filePermissions"))]
    pub file_permissions: Option<String>,
    /// Owner that plugin files must have. Without effect, as above.
    #[serde(rename = "fileUID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub file_uid: Option<i64>,
}

/// How plugins are downloaded: `standard`, through a cache; `direct`, straight into the plugin directory. Without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PluginDownloadBehavior {
    /// Through a cache.
    Standard,
    /// Straight into the plugin directory.
    Direct,
}
