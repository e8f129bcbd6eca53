//! `OpenBaoCluster`: what a cluster should be, one file per part of its spec, and what it is.

pub mod audit;
pub mod backup;
pub mod configuration;
pub mod network;
pub mod observability;
pub mod plugins;
pub mod selfinit;
pub mod status;
pub mod storage;
pub mod tls;
pub mod unseal;
pub mod upgrade;
pub mod workload;

use k8s_openapi::api::core::v1::{LocalObjectReference, PodSecurityContext};
use kube::core::Rule;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::audit::AuditDevice;
use self::backup::{BackupSpec, RestoreAccess};
use self::configuration::Configuration;
use self::network::{GatewaySpec, IngressSpec, NetworkSpec, ServiceSpec};
use self::observability::{Observability, Telemetry};
use self::plugins::Plugin;
use self::selfinit::SelfInit;
use self::status::OpenBaoClusterStatus;
use self::storage::Storage;
use self::tls::Tls;
use self::unseal::{DEFAULT_STATIC_KEY_ID, Unseal};
use self::upgrade::UpgradeSpec;
use self::workload::{
    ImageVerification, InitContainer, Maintenance, PodSettings, ServiceAccountSettings, WorkloadHardening,
};
use super::common::{Request, is_default};
use super::rules;

/// A cluster of OpenBao servers with integrated (Raft) storage. The shortest legal one names a version and a volume size.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "openbao.org",
    version = "v1alpha1",
    kind = "OpenBaoCluster",
    plural = "openbaoclusters",
    shortname = "bao",
    shortname = "baoc",
    category = "openbao",
    namespaced,
    status = "OpenBaoClusterStatus",
    // Safe, because it is the same edit: bounds, rules and the orderly way out of raft hold for it too.
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.readyReplicas"),
    derive = "PartialEq",
    derive = "Default",
    doc = "A cluster of OpenBao servers with integrated (Raft) storage.",
    validation = usable_name(),
    validation = storage::only_grows(),
    validation = same_audience(),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.currentVersion"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.activeLeader"),
    printcolumn(name = "Operation", type_ = "string", json_path = ".status.operationLock.operation"),
    printcolumn(name = "Last Backup", type_ = "date", json_path = ".status.backup.lastSuccess"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = same_seal_type())]
#[x_kube(validation = same_static_key_id())]
#[x_kube(validation = ("!has(self.profile) || self.profile != 'Hardened' || self.replicas >= 3", "profile Hardened needs replicas of 3 or more"))]
#[x_kube(validation = ("!has(self.profile) || self.profile != 'Hardened' || (has(self.tls) && self.tls.enabled && self.tls.mode != 'OperatorManaged')", "profile Hardened needs tls.mode External or ACME"))]
#[x_kube(validation = ("!has(self.profile) || self.profile != 'Hardened' || (has(self.unseal) && self.unseal.type != 'static')", "profile Hardened needs an unseal.type other than static"))]
#[x_kube(validation = ("!has(self.profile) || self.profile != 'Hardened' || (has(self.selfInit) && self.selfInit.enabled)", "profile Hardened needs selfInit.enabled: true, so that no root token is ever stored"))]
#[x_kube(validation = ("!has(self.profile) || self.profile != 'Hardened' || !has(self.unseal) || ((!has(self.unseal.transit) || !has(self.unseal.transit.tlsSkipVerify) || !self.unseal.transit.tlsSkipVerify) && (!has(self.unseal.kmip) || !has(self.unseal.kmip.tlsSkipVerify) || !self.unseal.kmip.tlsSkipVerify))", "profile Hardened does not allow unseal tlsSkipVerify"))]
#[x_kube(validation = ("!has(self.profile) || self.profile != 'Hardened' || !has(self.backup) || !has(self.backup.target.insecureSkipVerify) || !self.backup.target.insecureSkipVerify", "profile Hardened does not allow backup.target.insecureSkipVerify"))]
#[serde(rename_all = "camelCase")]
pub struct OpenBaoClusterSpec {
    /// The OpenBao version to run, for example `2.7.2`. A higher one is an upgrade; a lower one is refused by condition.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::version())]
    pub version: String,
    /// Full image of the servers, for example `registry.example.org/openbao:2.7.2`. Its tag must hold `version`. Default: the
    /// operator's repository with `version` as tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Number of servers, all of them voters. 3 bear the loss of one, 5 of two. An even number is allowed, bears no more
    /// losses than one less, and is warned about. Default 3.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,
    /// Start nothing new: no changes, no scheduled backups. A running operation goes on to its next safe point, and
    /// deletion works. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// How strict to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// What goes when this object is deleted. `Retain` (default): volumes stay, and the Secrets of the unseal key and of the root
    /// token, so the same manifest applied again finds its data; its certificates and their CA are made anew. `DeletePVCs`: volumes
    /// and the root token go; the unseal key stays, because backups cannot be opened without it. `DeleteAll`: everything of the
    /// cluster in the namespace goes. Backups in object stores always stay.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The volume of each server: `{size: 10Gi}`.
    pub storage: Storage,
    /// Certificates of the servers. Default: on, made and renewed by the operator from a CA of this cluster's own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: Tls,
    /// The Service for clients, `<name>-public`. It reaches any ready member; standbys forward to the leader. Beside it there is
    /// always `<name>-active`, which reaches the leader only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSpec>,
    /// An Ingress in front of the client Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressSpec>,
    /// A Gateway API route to the client Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewaySpec>,
    /// NetworkPolicies around servers and Jobs; without it none are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,
    /// OpenBao's own settings. A change restarts the servers one by one, the leader last.
    #[serde(default, skip_serializing_if = "is_default")]
    pub configuration: Configuration,
    /// Audit devices written into the configuration, for example `[{type: file, path: log/, fileOptions: {filePath: stdout}}]`.
    /// While there are some and none of them works, OpenBao answers no request: have two, and at least one of type `file`. A change
    /// restarts the servers one by one, the leader last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    #[x_kube(validation = audit::one_device_a_path())]
    pub audit: Vec<AuditDevice>,
    /// Plugins written into the configuration: all of them with `image`, or all with `command`. A change restarts the servers one by
    /// one, the leader last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into(), "name".into(), "version".into()]))]
    pub plugins: Vec<Plugin>,
    /// OpenBao's telemetry block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// How the cluster is monitored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observability: Option<Observability>,
    /// How the servers unseal. Default: a static key made by the operator and kept in a Secret.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unseal: Unseal,
    /// What OpenBao sets up by itself at its first start. With it no root token is ever stored; without it the root token lies in
    /// the Secret `<name>-root-token`. On a cluster that is initialised already its requests have no effect any more; `enabled` and
    /// `oidc` go on to say how the operator and its Jobs log in, so leave them as they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_init: Option<SelfInit>,
    /// Scheduled backups, and where backups and restores go, for example
    /// `{schedule: "0 3 * * *", target: {bucket: backups}, retention: {keepDaily: 7}}`. Without it nothing is backed up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSpec>,
    /// Access for restores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreAccess>,
    /// How upgrades are done.
    #[serde(default, skip_serializing_if = "is_default")]
    pub upgrade: UpgradeSpec,
    /// Resources, placement and metadata of the server pods. A change restarts the servers one by one, the leader last.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pod: PodSettings,
    /// Pod-level security settings that replace the operator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// The service account of the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountSettings>,
    /// Secrets to pull images with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Signature check of the OpenBao image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_verification: Option<ImageVerification>,
    /// Signature check of the operator's own helper images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_image_verification: Option<ImageVerification>,
    /// Accepted for manifests of the Go operator; this operator needs no init container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_container: Option<InitContainer>,
    /// Extra restrictions on the server pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_hardening: Option<WorkloadHardening>,
    /// Maintenance, and restarts on request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub maintenance: Maintenance,
    /// Accepted for manifests of the Go operator. This operator has no break-glass mode; see `requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub break_glass_ack: Option<String>,
    /// What a person asks of the cluster: `Release` (a lock whose holder is gone) or `Retry` (of `status.upgrade.heldTarget`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nonce".into()]))]
    #[x_kube(validation = rules::only_actions("cluster", &["Release", "Retry"]))]
    #[x_kube(validation = ("self.all(r, r.action != 'Release' || (has(r.holderUID) && has(r.fence)))", "a Release must name holderUID and fence as status.operationLock shows them"))]
    pub requests: Vec<Request>,
}

/// Service names must be DNS labels that start with a letter, and labels and Job names are built from it with a suffix.
fn usable_name() -> Rule {
    Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40").message(
        "the name of a cluster must start with a letter, have letters, digits and dashes only, and at most 40 of them",
    )
}

/// Another seal needs a migration, which OpenBao does not do by a changed configuration.
fn same_seal_type() -> Rule {
    let seal = |of: &str| format!("(has({of}.unseal) ? {of}.unseal.type : 'static')");
    Rule::new(format!("{} == {}", seal("self"), seal("oldSelf"))).message(
        "unseal.type cannot be changed: data sealed one way does not open another way. Make a new cluster instead",
    )
}

/// OpenBao stores the id of a static key beside what the key sealed, and refuses the data under any other id. Beside another seal
/// it has no effect, and can be taken out.
fn same_static_key_id() -> Rule {
    let id = |of: &str| {
        format!(
            "(has({of}.unseal) && {of}.unseal.type == 'static' && has({of}.unseal.static) && has({of}.unseal.static.currentKeyID) ? {of}.unseal.static.currentKeyID : '{DEFAULT_STATIC_KEY_ID}')"
        )
    };
    Rule::new(format!("{} == {}", id("self"), id("oldSelf"))).message(
        "unseal.static.currentKeyID cannot be changed: data sealed under one id does not open under another. Set it back",
    )
}

/// Roles are made once, at the first start: with another audience no Job could log in any more. Until then it can be corrected, and
/// where no roles are asked for, before or now, it has no effect. It stands at the root of the object for the sake of the status.
fn same_audience() -> Rule {
    let counts = |of: &str| {
        let init = format!("{of}.spec.selfInit");
        format!("has({init}) && {init}.enabled && has({init}.oidc) && {init}.oidc.enabled")
    };
    let audience = |of: &str| {
        let oidc = format!("{of}.spec.selfInit.oidc");
        format!("(has({oidc}.audience) ? {oidc}.audience : '')")
    };
    let initialized = "has(oldSelf.status) && has(oldSelf.status.initialized) && oldSelf.status.initialized";
    let (before, now) = ("oldSelf", "self");
    Rule::new(format!(
        "!({initialized} && {} && {}) || {} == {}",
        counts(before),
        counts(now),
        audience(before),
        audience(now)
    ))
    .message(
        "selfInit.oidc.audience cannot be changed: the roles that OpenBao made at its first start demand it. Set it back",
    )
    .field_path(".spec.selfInit.oidc.audience")
}

fn default_replicas() -> i32 {
    3
}

/// How strict to be. `Hardened` demands what production needs: three servers, certificates from outside, a seal that is not
/// static, no stored root token. `Development` allows everything and says that it is not for production. Without a profile
/// nothing extra is demanded, and the condition `ProductionReady` tells what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Profile {
    /// Demands what production needs.
    Hardened,
    /// Allows everything, and says that it is not for production.
    Development,
}

/// What goes with a deleted cluster. Backups in object stores always stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Volumes stay, and the Secrets without which they are worthless: unseal key and root token.
    #[default]
    Retain,
    /// Volumes go, and the root token with them. The unseal key stays: backups cannot be opened without it.
    DeletePVCs,
    /// Everything in the namespace that belongs to the cluster goes, the unseal key too: who has no copy of it cannot open the
    /// backups that stay.
    DeleteAll,
}
