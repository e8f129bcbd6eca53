//! The volume of each server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The volume of each server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of each volume, for example `10Gi`. It can grow later, never shrink.
    #[schemars(length(min = 1, max = 32))]
    pub size: String,
    /// Storage class; default is the Kubernetes cluster's default class. Fixed once set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}
