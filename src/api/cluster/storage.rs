//! The volume of each server.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The volume of each server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = ("!isQuantity(self.size) || !isQuantity(oldSelf.size) || quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0", "storage.size can only grow: volumes do not shrink. Set it back to the old value or a larger one"))]
#[x_kube(validation = ("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)", "storage.storageClassName cannot be changed: make a new cluster and restore a backup into it"))]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of each volume, for example `10Gi`. It can grow later, never shrink.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = ("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))", "storage.size must be a positive quantity, for example 10Gi"))]
    pub size: String,
    /// Storage class; default is the Kubernetes cluster's default class. Fixed once set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}
