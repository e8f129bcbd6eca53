//! The volume of each server.

use kube::KubeSchema;
use kube::core::Rule;
use serde::{Deserialize, Serialize};

/// The volume of each server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = ("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)", "storage.storageClassName cannot be changed: make a new cluster and restore a backup into it"))]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of each volume, for example `10Gi`. It can grow later, never shrink; a size that the volumes were not given can go
    /// back to the one that they have, `status.volumeSize`.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = ("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))", "storage.size must be a positive quantity, for example 10Gi"))]
    pub size: String,
    /// Storage class; default is the Kubernetes cluster's default class. Fixed once set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// Volumes do not shrink, so neither does what is asked of them, with one way back: to what they have, where they could not be
/// given more. It stands at the root of the object, because only there are the spec and the status both in sight. A write of the
/// status alone changes no spec, and passes.
pub(super) fn only_grows() -> Rule {
    let (now, before, volumes) = ("self.spec.storage.size", "oldSelf.spec.storage.size", "oldSelf.status.volumeSize");
    let reaches = |least: &str| format!("quantity({now}).compareTo(quantity({least})) >= 0");
    Rule::new(format!(
        "!isQuantity({now}) || !isQuantity({before}) || {} || (has(oldSelf.status) && has({volumes}) && isQuantity({volumes}) && {})",
        reaches(before),
        reaches(volumes),
    ))
    .message(
        "storage.size can only grow: volumes do not shrink. Set it back to the old value or a larger one, or to no less than \
         status.volumeSize, which is what the volumes have",
    )
    .field_path(".spec.storage.size")
}
