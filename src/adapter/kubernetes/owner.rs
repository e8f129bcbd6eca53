//! Owner references, and the proof that an object is ours.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

/// A controller reference to `owner`. `None` while the API server has not given it a UID.
pub fn controller_of<K: Resource<DynamicType = ()>>(owner: &K) -> Option<OwnerReference> {
    owner.controller_owner_ref(&())
}

/// Whether `object` is controlled by the owner with this UID: a name proves nothing, it may have been used before.
pub fn is_controlled_by(object: &impl ResourceExt, owner_uid: &str) -> bool {
    has_controller(object.meta(), owner_uid)
}

/// The same, of an object whose metadata is all that is known.
pub fn has_controller(metadata: &ObjectMeta, owner_uid: &str) -> bool {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == owner_uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn owned_by(uid: &str, controller: Option<bool>) -> ConfigMap {
        let owner = OwnerReference {
            api_version: "openbao.org/v1alpha1".into(),
            kind: "OpenBaoCluster".into(),
            name: "prod".into(),
            uid: uid.into(),
            controller,
            ..OwnerReference::default()
        };
        let mut map = ConfigMap::default();
        map.metadata.owner_references = Some(vec![owner]);
        map
    }

    #[test]
    fn only_the_controller_with_that_very_uid_owns_an_object() {
        assert!(is_controlled_by(&owned_by("u1", Some(true)), "u1"));
        assert!(!is_controlled_by(&owned_by("u1", Some(true)), "u2"), "an earlier object of the same name");
        assert!(!is_controlled_by(&owned_by("u1", None), "u1"), "an owner that is not the controller");
        assert!(!is_controlled_by(&ConfigMap::default(), "u1"));
    }
}
