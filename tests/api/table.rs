//! The table of admission rules, read by the unit tests of `src/api` and by the tests against a real API server.

use serde::Deserialize;
use serde_json::{Value, json};

/// Every case of `rules.yaml`.
pub fn cases() -> Vec<Case> {
    serde_saphyr::from_str(include_str!("rules.yaml")).unwrap()
}

/// One rule, one object that passes, one that is refused with `message`.
#[derive(Deserialize)]
pub struct Case {
    pub kind: String,
    pub message: String,
    pub before: Option<Value>,
    pub accepted: Value,
    pub refused: Value,
}

/// The smallest legal object of a kind.
pub fn smallest(kind: &str) -> Value {
    let spec = match kind {
        "OpenBaoCluster" => json!({"version": "2.7.2", "storage": {"size": "10Gi"}}),
        "OpenBaoRestore" => json!({"cluster": "main", "source": {"key": "a.snap"}}),
        "OpenBaoOperation" => json!({"cluster": "main", "operation": "Backup"}),
        "OpenBaoRollout" => json!({"version": "2.7.2", "members": [{"cluster": "main"}]}),
        other => panic!("no kind {other}"),
    };
    json!({"apiVersion": "openbao.org/v1alpha1", "kind": kind, "metadata": {"name": "main"}, "spec": spec})
}

/// RFC 7396.
pub fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}
