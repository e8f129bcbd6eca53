//! Finalizers: one of ours beside those of others.

use kube::ResourceExt;
use serde_json::{Value, json};

/// Whether `object` carries it.
pub fn is_on(object: &impl ResourceExt, finalizer: &str) -> bool {
    object.finalizers().iter().any(|found| found == finalizer)
}

/// The merge patch that adds or removes it; `None` when nothing changes. The resourceVersion makes it a compare-and-swap:
/// nobody else's finalizer is lost.
pub fn patch(object: &impl ResourceExt, finalizer: &str, wanted: bool) -> Option<Value> {
    if is_on(object, finalizer) == wanted {
        return None;
    }
    let mut finalizers: Vec<&str> = object.finalizers().iter().map(String::as_str).collect();
    finalizers.retain(|found| *found != finalizer);
    if wanted {
        finalizers.push(finalizer);
    }
    Some(json!({ "metadata": { "resourceVersion": object.resource_version(), "finalizers": finalizers } }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn others_stay_and_what_changes_nothing_is_not_written() {
        let mut map = ConfigMap::default();
        map.metadata.resource_version = Some("7".into());
        map.metadata.finalizers = Some(vec!["theirs".into()]);
        assert_eq!(patch(&map, "ours", false), None);
        let added = patch(&map, "ours", true).unwrap();
        assert_eq!(added, json!({"metadata": {"resourceVersion": "7", "finalizers": ["theirs", "ours"]}}));
        map.metadata.finalizers = Some(vec!["ours".into(), "theirs".into()]);
        assert_eq!(patch(&map, "ours", true), None);
        assert_eq!(patch(&map, "ours", false).unwrap()["metadata"]["finalizers"], json!(["theirs"]));
    }
}
