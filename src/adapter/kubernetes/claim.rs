//! The two sizes of a volume claim: what it asks for is a wish, its capacity is what there is.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

/// The size that it asks for, as it stands there.
pub fn asked(claim: &PersistentVolumeClaim) -> Option<&str> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    Some(requests.get("storage")?.0.as_str())
}

/// The size that it has; `None` of one that is not bound yet.
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<&str> {
    Some(claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0.as_str())
}
