//! Who the pods are in Kubernetes, and what they may do there: servers read and label pods, Jobs nothing at all.

use super::{meta, names};
use crate::service::cluster::validate::ValidatedCluster;
use k8s_openapi::{
    api::{
        core::v1::ServiceAccount,
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// The accounts that are ours to make.
pub fn service_accounts(cluster: &ValidatedCluster, restores: bool) -> Vec<ServiceAccount> {
    let mut all = Vec::new();
    if cluster.owns_service_account {
        let mut account =
            ServiceAccount { metadata: meta(cluster, cluster.service_account.clone()), ..ServiceAccount::default() };
        account.metadata.annotations = cluster
            .spec
            .service_account
            .as_ref()
            .map(|settings| settings.annotations.clone())
            .filter(|all| !all.is_empty());
        all.push(account);
    }
    let backups = cluster.spec.backup.is_some();
    if backups {
        all.push(for_jobs(cluster, names::backup_service_account(&cluster.name)));
    }
    if backups || restores || cluster.spec.restore.is_some() {
        all.push(for_jobs(cluster, names::restore_service_account(&cluster.name)));
    }
    all
}

/// Jobs mount projected tokens for named audiences; the general token is never theirs. By the annotations of the backup target
/// a cloud knows them.
fn for_jobs(cluster: &ValidatedCluster, name: String) -> ServiceAccount {
    let target = cluster.spec.backup.as_ref().map(|backup| &backup.target);
    let identity = target.and_then(|target| target.workload_identity.as_ref());
    let annotations = identity.map(|identity| identity.service_account_annotations.clone());
    ServiceAccount {
        metadata: ObjectMeta { annotations: annotations.filter(|all| !all.is_empty()), ..meta(cluster, name) },
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Servers find their peers (list) and write their state on their own pod (get, update, patch). Kubernetes cannot limit
/// that to a pod's own name.
pub fn role(cluster: &ValidatedCluster) -> Role {
    Role {
        metadata: meta(cluster, names::server_role(&cluster.name)),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["pods".into()]),
            verbs: ["get", "list", "update", "patch"].map(str::to_owned).to_vec(),
            ..PolicyRule::default()
        }]),
    }
}

/// Binds it to the servers' account.
pub fn role_binding(cluster: &ValidatedCluster) -> RoleBinding {
    let name = names::server_role(&cluster.name);
    RoleBinding {
        metadata: meta(cluster, name.clone()),
        role_ref: RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: "Role".into(), name },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: cluster.service_account.clone(),
            namespace: Some(cluster.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
