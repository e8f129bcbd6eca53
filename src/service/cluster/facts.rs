//! What Kubernetes knows of one cluster, from the watches. Cheap and possibly a moment old: decisions start here, and every
//! effect that must not rest on an old view carries a precondition or looks again.

use super::{build::secrets::seal_credentials_name, names};
use crate::{
    adapter::{
        Adapters,
        bulk::{Bulky, Unread, Whole},
        caches::is_filled,
        kubernetes::owner::is_controlled_by,
    },
    api::{OpenBaoOperation, OperationKind},
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
    networking::v1::{Ingress, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Client, Resource,
    runtime::reflector::{ObjectRef, Store},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
    sync::Arc,
};

/// No more members than this exist, so looking each one up by name is cheaper than filtering a store.
pub const MAX_MEMBERS: u32 = 9;

/// Everything of one cluster that carries our label.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// By name.
    pub services: BTreeMap<String, Arc<Service>>,
    /// By name.
    pub service_accounts: BTreeMap<String, Arc<ServiceAccount>>,
    /// By name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// By name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// By ordinal.
    pub claims: BTreeMap<u32, Arc<PersistentVolumeClaim>>,
    /// By ordinal.
    pub pods: BTreeMap<u32, Arc<Pod>>,
    /// What servers may do.
    pub role: Option<Arc<Role>>,
    /// Who may.
    pub role_binding: Option<Arc<RoleBinding>>,
    /// The disruption budget.
    pub budget: Option<Arc<PodDisruptionBudget>>,
    /// What leads in from outside.
    pub ingress: Option<Arc<Ingress>>,
    /// The list of Ingresses is refused: there may be one all the same.
    pub unseen_ingresses: bool,
    /// By name.
    pub network_policies: BTreeMap<String, Arc<NetworkPolicy>>,
    /// The same of network policies.
    pub unseen_network_policies: bool,
    /// The StatefulSet.
    pub stateful_set: Option<Arc<StatefulSet>>,
    /// The accounts that Jobs of operations under way run as, or are to.
    pub job_accounts: BTreeSet<String>,
    /// What was done to it, and is being done, in no order.
    pub operations: Vec<Arc<OpenBaoOperation>>,
}

impl Facts {
    /// Looks everything up by its name.
    pub fn gather(ad: &Adapters, namespace: &str, cluster: &str, service_account: &str) -> Self {
        let caches = &ad.caches;
        let service_accounts = [
            service_account.to_owned(),
            // The one that the operator made, also where the spec names another by now.
            names::statefulset(cluster),
            names::backup_service_account(cluster),
            names::restore_service_account(cluster),
        ];
        let services =
            [names::headless_service(cluster), names::public_service(cluster), names::active_service(cluster)];
        let config_maps =
            [names::config_map(cluster), names::ca_config_map(cluster), names::bootstrap_config_map(cluster)];
        let secrets = [
            names::ca_secret(cluster),
            names::server_secret(cluster),
            names::older_secret(cluster),
            names::unseal_secret(cluster),
            names::root_token_secret(cluster),
            seal_credentials_name(cluster),
        ];
        let network_policies = [names::server_policy(cluster), names::mover_policy(cluster)];
        let operations = caches.operations_of(namespace, cluster);
        Self {
            services: all(&caches.services, namespace, services),
            service_accounts: all(&caches.service_accounts, namespace, service_accounts),
            config_maps: all(&caches.config_maps, namespace, config_maps),
            secrets: all(&caches.secrets, namespace, secrets),
            claims: (0..MAX_MEMBERS)
                .filter_map(|n| Some((n, one(&caches.claims, namespace, &names::data_claim(cluster, n))?)))
                .collect(),
            pods: (0..MAX_MEMBERS)
                .filter_map(|n| Some((n, one(&caches.pods, namespace, &names::pod(cluster, n))?)))
                .collect(),
            role: one(&caches.roles, namespace, &names::server_role(cluster)),
            role_binding: one(&caches.role_bindings, namespace, &names::server_role(cluster)),
            budget: one(&caches.budgets, namespace, &names::statefulset(cluster)),
            ingress: one(&caches.ingresses, namespace, &names::exposure(cluster)),
            unseen_ingresses: !is_filled(&caches.ingresses),
            network_policies: all(&caches.network_policies, namespace, network_policies),
            unseen_network_policies: !is_filled(&caches.network_policies),
            stateful_set: one(&caches.stateful_sets, namespace, &names::statefulset(cluster)),
            job_accounts: job_accounts(cluster, &operations),
            operations,
        }
    }

    /// Adds the data that the watches leave out of very large objects: what looks empty without it would be made anew.
    pub async fn complete(&mut self, ad: &Adapters) -> Result<(), Unread> {
        fill(&mut self.config_maps, &ad.caches.whole_config_maps, &ad.client).await?;
        fill(&mut self.secrets, &ad.caches.whole_secrets, &ad.client).await
    }

    /// One field of one of our Secrets, as text.
    pub fn secret_text(&self, secret: &str, field: &str) -> Option<String> {
        let data = self.secrets.get(secret)?.data.as_ref()?;
        String::from_utf8(data.get(field)?.0.clone()).ok().filter(|text| !text.is_empty())
    }

    /// The StatefulSet, if it is that of the cluster object with this UID: an earlier one of the same name leaves its own behind
    /// for a moment.
    pub fn own_set(&self, cluster_uid: &str) -> Option<&StatefulSet> {
        self.stateful_set.as_deref().filter(|set| is_controlled_by(*set, cluster_uid))
    }

    /// An annotation of the StatefulSet.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.stateful_set.as_ref()?.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// What a backup works with was frozen when it began: it needs its account to the end, whatever becomes of `spec.backup`. A restore
/// test has the same account. That of a restore stays as long as the restore.
fn job_accounts(cluster: &str, operations: &[Arc<OpenBaoOperation>]) -> BTreeSet<String> {
    let backs_up = |op: &Arc<OpenBaoOperation>| {
        matches!(op.spec.operation, OperationKind::Backup | OperationKind::RestoreTest) && !op.has_ended()
    };
    operations.iter().any(backs_up).then(|| names::backup_service_account(cluster)).into_iter().collect()
}

fn all<K, const N: usize>(store: &Store<K>, namespace: &str, names: [String; N]) -> BTreeMap<String, Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    names.into_iter().filter_map(|name| one(store, namespace, &name).map(|object| (name, object))).collect()
}

async fn fill<K: Bulky>(
    objects: &mut BTreeMap<String, Arc<K>>,
    whole: &Whole<K>,
    client: &Client,
) -> Result<(), Unread> {
    for object in objects.values_mut() {
        *object = whole.of(client, object.clone()).await?;
    }
    Ok(())
}

fn one<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    K::DynamicType: Hash + Eq + Clone,
{
    store.get(&ObjectRef::new(name).within(namespace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{OpenBaoOperationSpec, OpenBaoOperationStatus, OperationPhase};

    #[test]
    fn the_account_of_backups_is_in_use_until_the_last_of_them_has_ended() {
        let operation = |operation, phase| {
            let mut one =
                OpenBaoOperation::new("one", OpenBaoOperationSpec { operation, ..OpenBaoOperationSpec::default() });
            one.status = Some(OpenBaoOperationStatus { phase, ..OpenBaoOperationStatus::default() });
            Arc::new(one)
        };
        let accounts = |operations: &[Arc<OpenBaoOperation>]| job_accounts("kelp", operations);
        let ended = operation(OperationKind::Backup, OperationPhase::Failed);
        let upgrade = operation(OperationKind::Upgrade, OperationPhase::Running);
        assert_eq!(accounts(&[ended.clone(), upgrade]), BTreeSet::new());
        for phase in [OperationPhase::Pending, OperationPhase::Running, OperationPhase::Recovering] {
            for kind in [OperationKind::Backup, OperationKind::RestoreTest] {
                let live = operation(kind, phase);
                assert_eq!(accounts(&[ended.clone(), live]), BTreeSet::from(["kelp-backup".to_owned()]), "{phase:?}");
            }
        }
    }
}
