//! What the watches know: one store per kind for everybody.
//!
//! Decisions may start from here. Effects never trust it: a store lags behind, so whatever must not happen twice carries a
//! precondition that the API server checks.

use super::{
    bulk::{Whole, slim_config_map, slim_secret},
    kubernetes::{
        Namespaced,
        client::timed,
        feed::{self, Notes, Ties},
        index::Index,
        shorten::operation_label,
    },
    remembered,
    settings::Scope,
};
use crate::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OpenBaoRollout};
use futures::FutureExt;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::Job,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
    networking::v1::{Ingress, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::error_boundary::InvalidObject,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use std::{borrow::Cow, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The label that every object of ours carries.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const MANAGER: &str = "openbao-operator";
/// The label that names the cluster an object belongs to.
pub const CLUSTER_LABEL: &str = "openbao.org/cluster";
/// The label that names the operation a Job, its pods and its mover objects belong to, shortened to what a label may hold.
pub const OPERATION_LABEL: &str = "openbao.org/operation";
/// The annotation with that operation's whole name.
pub const OPERATION_NAME: &str = "openbao.org/operation-name";

/// So many operations are read at a time. Whole, a record is several times as large as what is remembered of it.
const RECORDS: u32 = 250;

/// How long a list that only some clusters need may take before it is asked whether it is refused.
const SOON: Duration = Duration::from_secs(2);

/// The stores, kept up to date by one watch each.
#[derive(Clone)]
pub struct Caches {
    /// Every cluster in scope.
    pub clusters: Store<OpenBaoCluster>,
    /// Every restore in scope. One that has ended is without its managers.
    pub restores: Store<OpenBaoRestore>,
    /// Every operation in scope. Of one that has ended only what is read of a record: see [`remembered`].
    pub operations: Store<OpenBaoOperation>,
    /// Every rollout in scope.
    pub rollouts: Store<OpenBaoRollout>,
    /// Jobs that carry our label.
    pub jobs: Store<Job>,
    /// Pods that carry our label: OpenBao's and our Jobs'.
    pub pods: Store<Pod>,
    /// `StatefulSets` that carry our label. This and the kinds below are what a cluster is made of.
    pub stateful_sets: Store<StatefulSet>,
    /// Services that carry our label.
    pub services: Store<Service>,
    /// `ConfigMaps` that carry our label. A very large one is without its data: see `whole_config_maps`.
    pub config_maps: Store<ConfigMap>,
    /// Secrets that carry our label: those the operator made, never a user's. A very large one is without its data: see
    /// `whole_secrets`.
    pub secrets: Store<Secret>,
    /// Volume claims that carry our label.
    pub claims: Store<PersistentVolumeClaim>,
    /// Service accounts that carry our label.
    pub service_accounts: Store<ServiceAccount>,
    /// Roles that carry our label.
    pub roles: Store<Role>,
    /// Role bindings that carry our label.
    pub role_bindings: Store<RoleBinding>,
    /// Disruption budgets that carry our label.
    pub budgets: Store<PodDisruptionBudget>,
    /// Ingresses that carry our label. Only some clusters have one: see [`is_filled`].
    pub ingresses: Store<Ingress>,
    /// Network policies that carry our label, of those clusters that ask for them: see [`is_filled`].
    pub network_policies: Store<NetworkPolicy>,
    /// `ConfigMaps` with all of their data.
    pub whole_config_maps: Whole<ConfigMap>,
    /// Secrets with all of their data.
    pub whole_secrets: Whole<Secret>,
    /// What changed, as it changes.
    pub notes: Notes,
    operations_by_cluster: Index,
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caches").field("clusters", &self.clusters.len()).finish_non_exhaustive()
    }
}

/// A store did not fill in time.
#[derive(Debug, thiserror::Error)]
pub enum NotFilled {
    /// The API server refuses the list: a right is missing, or the kind.
    #[error("the operator may not list {kind}: {refusal}")]
    Refused {
        /// The kind.
        kind: Cow<'static, str>,
        /// In the API server's words.
        refusal: String,
    },
    /// It is slow, or away.
    #[error("no list of {kind} within {waited:?}")]
    Late {
        /// The kind.
        kind: Cow<'static, str>,
        /// For so long.
        waited: Duration,
    },
}

impl Caches {
    /// Starts the watches. `malformed` hears of each object that cannot be read as its kind.
    pub fn start(
        client: &Client,
        scope: &Scope,
        malformed: impl Fn(&'static str, &InvalidObject) + Clone + Send + Sync + 'static,
        stop: &CancellationToken,
    ) -> Self {
        let (notes, operations_by_cluster) = (Notes::default(), Index::default());
        let everything = watcher::Config::default;
        let ours = || watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
        macro_rules! feed {
            ($config:expr, $ties:expr) => {
                feed!($config, $ties, feed::forget_managers)
            };
            ($config:expr, $ties:expr, $slim:expr) => {
                feed!($config, $ties, $slim, None)
            };
            ($config:expr, $ties:expr, $slim:expr, $index:expr) => {
                feed::start(
                    scope.api(client.clone()),
                    $config,
                    notes.clone(),
                    feed::Look { ties: $ties, slim: $slim, index: $index },
                    malformed.clone(),
                    stop.clone(),
                )
            };
        }
        Self {
            clusters: feed!(everything(), |cluster: &OpenBaoCluster| Ties {
                cluster: cluster.metadata.name.clone(),
                operation: None
            }),
            restores: feed!(
                everything(),
                |restore: &OpenBaoRestore| Ties { cluster: Some(restore.spec.cluster.clone()), operation: None },
                slim_restore
            ),
            operations: feed!(
                everything().page_size(RECORDS),
                |operation: &OpenBaoOperation| Ties {
                    cluster: Some(operation.spec.cluster.clone()),
                    operation: operation.metadata.name.clone()
                },
                remembered::slim,
                Some(operations_by_cluster.clone())
            ),
            rollouts: feed!(everything(), |_: &OpenBaoRollout| Ties::default()),
            jobs: feed!(ours(), labelled::<Job>),
            pods: feed!(ours(), labelled::<Pod>),
            stateful_sets: feed!(ours(), labelled::<StatefulSet>),
            services: feed!(ours(), labelled::<Service>),
            config_maps: feed!(ours(), labelled::<ConfigMap>, slim_config_map),
            secrets: feed!(ours(), labelled::<Secret>, slim_secret),
            claims: feed!(ours(), labelled::<PersistentVolumeClaim>),
            service_accounts: feed!(ours(), labelled::<ServiceAccount>),
            roles: feed!(ours(), labelled::<Role>),
            role_bindings: feed!(ours(), labelled::<RoleBinding>),
            budgets: feed!(ours(), labelled::<PodDisruptionBudget>),
            ingresses: feed!(ours(), labelled::<Ingress>),
            network_policies: feed!(ours(), labelled::<NetworkPolicy>),
            whole_config_maps: Whole::default(),
            whole_secrets: Whole::default(),
            notes,
            operations_by_cluster,
        }
    }

    /// Waits until every store has been filled once, which it never is if a list is refused: `client` asks then what is
    /// said to it. Where that is of a kind that only some clusters ask for, the others do not wait.
    pub async fn filled(&self, client: &Client, scope: &Scope, limit: Duration) -> Result<(), NotFilled> {
        let how = (client, scope, limit);
        one(&self.clusters, how).await?;
        one(&self.restores, how).await?;
        one(&self.operations, how).await?;
        one(&self.rollouts, how).await?;
        one(&self.jobs, how).await?;
        one(&self.pods, how).await?;
        one(&self.stateful_sets, how).await?;
        one(&self.services, how).await?;
        one(&self.config_maps, how).await?;
        one(&self.secrets, how).await?;
        one(&self.claims, how).await?;
        one(&self.service_accounts, how).await?;
        one(&self.roles, how).await?;
        one(&self.role_bindings, how).await?;
        one(&self.budgets, how).await?;
        let (ingresses, policies) =
            futures::join!(one_unless_refused(&self.ingresses, how), one_unless_refused(&self.network_policies, how));
        ingresses.and(policies)
    }

    /// The cluster of that name, as last seen.
    pub fn cluster(&self, namespace: &str, name: &str) -> Option<Arc<OpenBaoCluster>> {
        self.clusters.get(&ObjectRef::new(name).within(namespace))
    }

    /// The operation of that name, as last seen.
    pub fn operation(&self, namespace: &str, name: &str) -> Option<Arc<OpenBaoOperation>> {
        self.operations.get(&ObjectRef::new(name).within(namespace))
    }

    /// The restore of that name, as last seen.
    pub fn restore(&self, namespace: &str, name: &str) -> Option<Arc<OpenBaoRestore>> {
        self.restores.get(&ObjectRef::new(name).within(namespace))
    }

    /// All operations of a cluster, in no order.
    pub fn operations_of(&self, namespace: &str, cluster: &str) -> Vec<Arc<OpenBaoOperation>> {
        let names = self.operations_by_cluster.names(namespace, cluster);
        let known = names.iter().filter_map(|name| self.operation(namespace, name));
        known.filter(|operation| operation.spec.cluster == cluster).collect()
    }

    /// All restores into a cluster, in no order.
    pub fn restores_of(&self, namespace: &str, cluster: &str) -> Vec<Arc<OpenBaoRestore>> {
        self.restores.state_filter(|restore| {
            restore.spec.cluster == cluster && restore.metadata.namespace.as_deref() == Some(namespace)
        })
    }

    /// The pods with our label that belong to a cluster: its servers and its Jobs' pods.
    pub fn pods_of(&self, namespace: &str, cluster: &str) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| belongs(pod, namespace, CLUSTER_LABEL, cluster))
    }

    /// The volume claims of a cluster's servers, in no order.
    pub fn claims_of(&self, namespace: &str, cluster: &str) -> Vec<Arc<PersistentVolumeClaim>> {
        self.claims.state_filter(|claim| belongs(claim, namespace, CLUSTER_LABEL, cluster))
    }

    /// The Jobs of a cluster's operations, in no order.
    pub fn jobs_of_cluster(&self, namespace: &str, cluster: &str) -> Vec<Arc<Job>> {
        self.jobs.state_filter(|job| belongs(job, namespace, CLUSTER_LABEL, cluster))
    }

    /// The Jobs of an operation, by its whole name.
    pub fn jobs_of(&self, namespace: &str, operation: &str) -> Vec<Arc<Job>> {
        let label = operation_label(operation);
        self.jobs.state_filter(|job| belongs(job, namespace, OPERATION_LABEL, &label))
    }
}

/// Whom to ask, where, and how long to wait.
type How<'a> = (&'a Client, &'a Scope, Duration);

/// Waits until a store has been filled once.
async fn one<K: Namespaced>(store: &Store<K>, (client, scope, limit): How<'_>) -> Result<(), NotFilled> {
    if let Ok(Ok(())) = tokio::time::timeout(limit, store.wait_until_ready()).await {
        return Ok(());
    }
    let kind = K::kind(&());
    let api: Api<K> = scope.api(client.clone());
    match timed(api.list_metadata(&ListParams::default().limit(1))).await {
        Err(error) if error.is_forbidden() || error.is_not_found() => {
            Err(NotFilled::Refused { kind, refusal: error.to_string() })
        }
        _ => Err(NotFilled::Late { kind, waited: limit }),
    }
}

/// The same of a kind that only some clusters ask for. While its list is refused those are told, and nobody else waits.
async fn one_unless_refused<K: Namespaced>(store: &Store<K>, how: How<'_>) -> Result<(), NotFilled> {
    let (client, scope, limit) = how;
    let filled = match one(store, (client, scope, SOON.min(limit))).await {
        Err(NotFilled::Late { .. }) => one(store, how).await,
        known => known,
    };
    match filled {
        Err(refused @ NotFilled::Refused { .. }) => {
            tracing::warn!(?scope, error = %refused, "goes on without it: clusters that ask for one are told");
            Ok(())
        }
        other => other,
    }
}

/// Whether a store was filled once. One whose list is refused says nothing about what there is. Not to be asked while somebody waits
/// for the store: it wakes only whoever has asked last.
pub fn is_filled<K: Namespaced>(store: &Store<K>) -> bool {
    store.wait_until_ready().now_or_never().is_some_and(|filled| filled.is_ok())
}

/// The operation of a restore says who asked for it, which the restore's managers tell. For one that has ended none is made any
/// more, and nothing removes it but a person. Its status stays whole: an answer to a late request is written with all of it.
fn slim_restore(restore: &mut OpenBaoRestore) {
    if restore.status.as_ref().is_some_and(|status| status.phase.is_terminal()) {
        feed::forget_managers(restore);
    }
}

fn belongs(object: &impl ResourceExt, namespace: &str, label: &str, value: &str) -> bool {
    object.meta().namespace.as_deref() == Some(namespace)
        && object.labels().get(label).is_some_and(|found| found == value)
}

fn labelled<K: ResourceExt>(object: &K) -> Ties {
    // The whole name first: a shortened one wakes nobody.
    let operation = object.annotations().get(OPERATION_NAME).or_else(|| object.labels().get(OPERATION_LABEL));
    Ties { cluster: object.labels().get(CLUSTER_LABEL).cloned(), operation: operation.cloned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::kubernetes::testing::refusing;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_only_some_clusters_need_holds_up_nobody_while_it_is_refused_and_everybody_while_it_is_late() {
        let scope = Scope::Namespace("reef".into());
        let (forbidden, slow) = (refusing(403, "Forbidden"), refusing(503, "ServiceUnavailable"));
        let limit = Duration::from_secs(20);
        let (policies, mut writer) = kube::runtime::reflector::store::<NetworkPolicy>();
        let began = tokio::time::Instant::now();
        one_unless_refused(&policies, (&forbidden, &scope, limit)).await.unwrap();
        assert!(began.elapsed() < limit / 2, "{:?}", began.elapsed());
        assert!(!is_filled(&policies), "nobody knows what there is");
        let late = one_unless_refused(&policies, (&slow, &scope, limit)).await.unwrap_err();
        assert!(matches!(late, NotFilled::Late { .. }), "{late}");
        let (pods, _pods) = kube::runtime::reflector::store::<Pod>();
        let refused = one(&pods, (&forbidden, &scope, limit)).await.unwrap_err();
        assert!(matches!(refused, NotFilled::Refused { .. }), "half of the facts are no facts: {refused}");
        // The right came later.
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitDone);
        assert!(is_filled(&policies));
        one_unless_refused(&policies, (&slow, &scope, limit)).await.unwrap();
    }

    #[test]
    fn managers_are_remembered_where_they_tell_who_asked_and_nowhere_else() {
        use crate::api::{
            operation::{OpenBaoOperationStatus, OperationPhase},
            restore::{OpenBaoRestoreStatus, RestorePhase},
        };
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
        fn kept<K: kube::Resource>(mut object: K, slim: fn(&mut K)) -> bool {
            object.meta_mut().managed_fields = Some(vec![ManagedFieldsEntry::default()]);
            slim(&mut object);
            object.meta().managed_fields.is_some()
        }
        let operation = |phase| OpenBaoOperation {
            status: Some(OpenBaoOperationStatus { phase, ..OpenBaoOperationStatus::default() }),
            ..OpenBaoOperation::new("a", crate::api::OpenBaoOperationSpec::default())
        };
        let restore = |phase| OpenBaoRestore {
            status: Some(OpenBaoRestoreStatus { phase, ..OpenBaoRestoreStatus::default() }),
            ..OpenBaoRestore::default()
        };
        assert!(kept(OpenBaoRestore::default(), slim_restore), "its operation is still to be made");
        assert!(kept(restore(RestorePhase::Unknown), slim_restore));
        for ended in [RestorePhase::Completed, RestorePhase::Failed] {
            assert!(!kept(restore(ended), slim_restore), "{ended:?}");
        }
        assert!(kept(operation(OperationPhase::Pending), remembered::slim));
        assert!(kept(operation(OperationPhase::Unknown), remembered::slim));
        assert!(!kept(operation(OperationPhase::Succeeded), remembered::slim));
        assert!(!kept(Pod::default(), feed::forget_managers));
    }

    #[test]
    fn a_job_of_an_operation_with_a_long_name_wakes_that_operation() {
        let name = "n".repeat(80);
        let mut job = Job::default();
        job.labels_mut().insert(OPERATION_LABEL.to_owned(), operation_label(&name));
        job.annotations_mut().insert(OPERATION_NAME.to_owned(), name.clone());
        assert_eq!(labelled(&job).operation, Some(name));
        job.metadata.annotations = None;
        job.labels_mut().insert(OPERATION_LABEL.to_owned(), "short".to_owned());
        assert_eq!(labelled(&job).operation.as_deref(), Some("short"), "a Job that somebody else's code labelled");
    }
}
