//! The server pods: resources, placement, identity, and the checks around them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{string_map, yes};

/// Resources, placement and metadata of the server pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// Requests and limits of the server container. There is no default memory limit: a restore needs several times the
    /// size of the data for a moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Nodes the pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints the pods bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Placement rules. Default: members prefer different nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How members spread over zones or nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// More labels for the pods. The operator's own win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub labels: BTreeMap<String, String>,
    /// More annotations for the pods. The operator's own win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub annotations: BTreeMap<String, String>,
}

/// The service account of the servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountSettings {
    /// An account that you make yourself; the operator makes none then and leaves yours as it is. Default: it makes one, with the
    /// cluster's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Put on the account that the operator makes, for example for a cloud's workload identity. One that `name` names gets them
    /// from you.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub annotations: BTreeMap<String, String>,
}

/// Signature check of an image.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = ("!self.enabled || has(self.publicKey) || (has(self.issuer) && has(self.subject))", "image verification needs publicKey, or issuer and subject"))]
#[serde(rename_all = "camelCase")]
pub struct ImageVerification {
    /// Whether to check.
    #[serde(default)]
    pub enabled: bool,
    /// What a failed check does: `Warn` or `Block`. Default `Block`.
    #[serde(default)]
    pub failure_policy: VerificationFailurePolicy,
    /// PEM public key that must have signed the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub public_key: Option<String>,
    /// Keyless: issuer of the signer's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,
    /// Keyless: subject of the signer's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub subject: Option<String>,
    /// Do without the transparency log. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_tlog: bool,
    /// Secrets to read the registry with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
}

/// What a failed check does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerificationFailurePolicy {
    /// An event, and on it goes.
    Warn,
    /// Nothing of the new image is started.
    #[default]
    Block,
}

/// Accepted for manifests of the Go operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InitContainer {
    /// No effect.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// No effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
}

impl Default for InitContainer {
    fn default() -> Self {
        Self { enabled: true, image: None }
    }
}

/// Extra restrictions on the server pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadHardening {
    /// Run under the container runtime's `AppArmor` profile. Default false; nodes must support it.
    #[serde(default)]
    pub app_armor_enabled: bool,
}

/// Maintenance, and restarts on request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    /// People are at work on the cluster: restarts that a volume resize needs are allowed. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enabled: bool,
    /// Any new word here, for instance a date, restarts the servers one by one, the leader last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub restart_at: Option<String>,
}
