//! The objects through which a mover and the operator talk: one config map, and the right to it. Pure.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::{Operation, metadata, mover_name};

/// The mover's own config map, empty: the mover reports into it, the operator grants in it.
pub fn mover_config_map(operation: &Operation) -> ConfigMap {
    ConfigMap { metadata: metadata(operation, &mover_name(&operation.name), "mover"), ..ConfigMap::default() }
}

/// The right to that one config map and nothing else.
pub fn mover_role(operation: &Operation) -> Role {
    let name = mover_name(&operation.name);
    Role {
        metadata: metadata(operation, &name, "mover"),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["configmaps".to_owned()]),
            resource_names: Some(vec![name]),
            verbs: ["get", "list", "watch", "update", "patch"].map(str::to_owned).to_vec(),
            ..PolicyRule::default()
        }]),
    }
}

/// Gives that right to the service account of the Job.
pub fn mover_binding(operation: &Operation, service_account: &str) -> RoleBinding {
    let name = mover_name(&operation.name);
    RoleBinding {
        metadata: metadata(operation, &name, "mover"),
        role_ref: RoleRef { api_group: "rbac.authorization.k8s.io".to_owned(), kind: "Role".to_owned(), name },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: service_account.to_owned(),
            namespace: Some(operation.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
