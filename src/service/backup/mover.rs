//! The mover's Jobs on the API server: made, looked at, stopped. The only file here that writes objects of Kubernetes,
//! and the one that restore uses too.
//!
//! Objects are created, never applied: what exists under a deterministic name is either ours, by UID, or left alone.

use std::{fmt::Debug, sync::Arc};

use chrono::{DateTime, Utc};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        batch::v1::Job,
        core::v1::{ConfigMap, Pod},
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions, PropagationPolicy},
    runtime::reflector::ObjectRef,
};
use serde::{Serialize, de::DeserializeOwned};

use super::found::{Found, is_going, is_ours, judge};
use super::jobs::{self, Operation};
use super::tidy;
use crate::adapter::{
    Adapters,
    kubernetes::{
        apply::{self, ApplyError},
        client::{RequestError, timed},
        owner,
        shorten::operation_label,
    },
};
use crate::api::{OpenBaoCluster, OpenBaoOperation};

/// The label that Kubernetes puts on the pods of a Job.
const JOB_NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// Why a mover could not be made, seen or stopped.
#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    #[error("failed to {verb} {kind} {namespace}/{name}")]
    Request {
        verb: &'static str,
        kind: String,
        namespace: String,
        name: String,
        #[source]
        source: RequestError,
    },
    #[error("{kind} {namespace}/{name} exists and belongs to someone else: delete it or choose another name")]
    Foreign { kind: String, namespace: String, name: String },
    #[error(
        "{kind} {namespace}/{name} is of an earlier operation of this name: waiting until Kubernetes has removed it"
    )]
    Going { kind: String, namespace: String, name: String },
    #[error("this process leads no more: the next leader goes on")]
    NotLeader,
    #[error("operation {0} has no UID yet")]
    NoUid(String),
    #[error("failed to write the Job of {0} as JSON")]
    Json(String, #[source] serde_json::Error),
}

impl MoverError {
    /// The API server understood and refused: another try of the same changes nothing.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Request { source, .. } => source.is_invalid() || (source.is_forbidden() && !self.is_over_quota()),
            Self::Foreign { .. } | Self::Json(..) => true,
            Self::Going { .. } | Self::NotLeader | Self::NoUid(_) => false,
        }
    }

    /// A quota of the namespace is used up: what is refused now may be let in when something else has gone.
    pub fn is_over_quota(&self) -> bool {
        match self {
            Self::Request { source, .. } => source.is_forbidden() && source.to_string().contains("exceeded quota"),
            Self::Foreign { .. } | Self::Going { .. } | Self::Json(..) | Self::NotLeader | Self::NoUid(_) => false,
        }
    }

    /// The whole chain in one line, for a status.
    pub fn text(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

impl Operation {
    /// What Jobs need to know of an operation.
    pub fn of(operation: &OpenBaoOperation, cluster_uid: &str) -> Result<Self, MoverError> {
        let name = operation.name_any();
        let (Some(uid), Some(owner)) = (operation.uid(), owner::controller_of(operation)) else {
            return Err(MoverError::NoUid(name));
        };
        Ok(Self {
            uid,
            owner,
            namespace: operation.namespace().unwrap_or_default(),
            cluster: operation.spec.cluster.clone(),
            cluster_uid: cluster_uid.to_owned(),
            intent: operation.spec.intent.clone().unwrap_or_default(),
            role: super::request::role(operation).unwrap_or_default().to_owned(),
            actor: operation.spec.actor.as_ref().map(|actor| actor.identity.clone()).unwrap_or_default(),
            name,
        })
    }
}

/// UID of a cluster as the API server gave it.
pub fn uid_of(cluster: Option<&OpenBaoCluster>) -> &str {
    cluster.and_then(|cluster| cluster.metadata.uid.as_deref()).unwrap_or_default()
}

/// The config map through which mover and operator talk, and the right to it. Idempotent.
pub async fn open_channel(ad: &Adapters, operation: &Operation, service_account: &str) -> Result<(), MoverError> {
    // The map last: a mover that finds it may use it.
    create(ad, operation, &jobs::mover_role(operation)).await?;
    create(ad, operation, &jobs::mover_binding(operation, service_account)).await?;
    create(ad, operation, &jobs::mover_config_map(operation)).await
}

/// Creates a Job. That it exists already, and is ours, is as good.
pub async fn start(ad: &Adapters, operation: &Operation, job: &Job) -> Result<(), MoverError> {
    // A Job acts outside Kubernetes: on OpenBao and on the store.
    if !ad.leadership.still_leader() {
        return Err(MoverError::NotLeader);
    }
    create(ad, operation, job).await
}

async fn create<K>(ad: &Adapters, operation: &Operation, object: &K) -> Result<(), MoverError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug + Sync,
{
    let api: Api<K> = Api::namespaced(ad.client.clone(), &operation.namespace);
    match timed(api.create(&kube::api::PostParams::default(), object)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => {
            let name = object.name_any();
            let found = timed(api.get_metadata(&name))
                .await
                .map_err(|source| request::<K>("read", &operation.namespace, &name, source))?;
            if is_ours(&found, &operation.uid) { Ok(()) } else { Err(taken::<K>(&found, operation)) }
        }
        Err(source) => Err(request::<K>("create", &operation.namespace, &object.name_any(), source)),
    }
}

/// Why a name of this operation is not to be had.
fn taken<K: Resource<DynamicType = ()>>(by: &impl ResourceExt, operation: &Operation) -> MoverError {
    let (kind, namespace, name) = (K::kind(&()).into_owned(), operation.namespace.clone(), by.name_any());
    if is_going(by, &operation.name, &operation.uid) {
        MoverError::Going { kind, namespace, name }
    } else {
        MoverError::Foreign { kind, namespace, name }
    }
}

/// What became of the Job of this name. While the watches see it running no request is made; every other answer comes
/// from a fresh read.
pub async fn look<T: DeserializeOwned>(
    ad: &Adapters,
    operation: &Operation,
    name: &str,
    now: DateTime<Utc>,
) -> Result<Found<T>, MoverError> {
    let known = ad.caches.jobs_of(&operation.namespace, &operation.name);
    if let Some(job) = known.iter().find(|job| job.name_any() == name) {
        let pods: Vec<Pod> = known_pods(ad, operation, name).iter().map(|pod| (**pod).clone()).collect();
        let found = judge(Some(job), &pods, &operation.uid, now);
        if matches!(found, Found::Running { .. }) {
            return Ok(found);
        }
    }
    let api: Api<Job> = Api::namespaced(ad.client.clone(), &operation.namespace);
    let read = |source| request::<Job>("read", &operation.namespace, name, source);
    let Some(job) = timed(api.get_opt(name)).await.map_err(read)? else { return Ok(Found::Absent) };
    if !is_ours(&job, &operation.uid) && is_going(&job, &operation.name, &operation.uid) {
        return Err(taken::<Job>(&job, operation));
    }
    let pods = pods_of(ad, &operation.namespace, name).await?;
    Ok(judge(Some(&job), &pods, &operation.uid, now))
}

/// Deletes the Job of this name, if it is the operation's.
pub async fn remove(ad: &Adapters, operation: &Operation, name: &str) -> Result<(), MoverError> {
    let namespace = &operation.namespace;
    let api: Api<Job> = Api::namespaced(ad.client.clone(), namespace);
    match timed(api.get_opt(name)).await.map_err(|source| request::<Job>("read", namespace, name, source))? {
        Some(job) if is_ours(&job, &operation.uid) => {
            delete(&api, &job).await.map_err(|source| request::<Job>("delete", namespace, name, source))
        }
        Some(_) | None => Ok(()),
    }
}

/// The pods of a Job, as last seen.
pub fn known_pods(ad: &Adapters, operation: &Operation, job: &str) -> Vec<Arc<Pod>> {
    let mut pods = ad.caches.pods_of(&operation.namespace, &operation.cluster);
    pods.retain(|pod| pod.labels().get(JOB_NAME_LABEL).is_some_and(|label| label == job));
    pods
}

async fn pods_of(ad: &Adapters, namespace: &str, job: &str) -> Result<Vec<Pod>, MoverError> {
    let api: Api<Pod> = Api::namespaced(ad.client.clone(), namespace);
    let selector = ListParams::default().labels(&format!("{JOB_NAME_LABEL}={job}"));
    let list = timed(api.list(&selector)).await;
    Ok(list.map_err(|source| request::<Pod>("list", namespace, job, source))?.items)
}

/// The mover's config map, as it is now.
pub async fn channel(ad: &Adapters, operation: &Operation) -> Result<Option<ConfigMap>, MoverError> {
    let name = jobs::mover_name(&operation.name);
    let api: Api<ConfigMap> = Api::namespaced(ad.client.clone(), &operation.namespace);
    let map = timed(api.get_opt(&name))
        .await
        .map_err(|source| request::<ConfigMap>("read", &operation.namespace, &name, source))?;
    Ok(map.filter(|map| is_ours(map, &operation.uid)))
}

/// Which Jobs of an operation [`clear`] deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// All of them: their records stand in the journal.
    All,
    /// Those that have not ended; the others keep their logs until the operation's record goes.
    Running,
}

/// Stops the operation's Jobs and says what still lives. Empty: none of its pods runs any more. Idempotent, creates nothing.
pub async fn clear(ad: &Adapters, operation: &Operation, which: Clear) -> Result<Vec<String>, MoverError> {
    let api: Api<Job> = Api::namespaced(ad.client.clone(), &operation.namespace);
    let label = operation_label(&operation.name);
    let selector = ListParams::default().labels(&format!("{}={label}", crate::adapter::caches::OPERATION_LABEL));
    let list = timed(api.list(&selector))
        .await
        .map_err(|source| request::<Job>("list", &operation.namespace, &operation.name, source))?;
    let mut living = Vec::new();
    for job in list.items.iter().filter(|job| is_ours(*job, &operation.uid)) {
        let name = job.name_any();
        let pods = pods_of(ad, &operation.namespace, &name).await?;
        let found: Found<serde::de::IgnoredAny> = judge(Some(job), &pods, &operation.uid, Utc::now());
        let running = found.is_live();
        if running {
            living.push(name.clone());
        }
        if running || which == Clear::All {
            delete(&api, job).await.map_err(|source| request::<Job>("delete", &operation.namespace, &name, source))?;
        }
    }
    Ok(living)
}

/// Takes the mover's right away once nothing of the operation runs any more, and with `all` its config map too. What the
/// watches don't know of goes with the operation's record.
pub async fn close_channel(ad: &Adapters, operation: &Operation, all: bool) -> Result<(), ApplyError> {
    let (namespace, name) = (operation.namespace.as_str(), jobs::mover_name(&operation.name));
    let caches = &ad.caches;
    forget(ad, operation, caches.role_bindings.get(&ObjectRef::new(&name).within(namespace))).await?;
    forget(ad, operation, caches.roles.get(&ObjectRef::new(&name).within(namespace))).await?;
    if all {
        forget(ad, operation, caches.config_maps.get(&ObjectRef::new(&name).within(namespace))).await?;
    }
    Ok(())
}

async fn forget<K>(ad: &Adapters, operation: &Operation, known: Option<Arc<K>>) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let Some(known) = known.filter(|known| is_ours(&**known, &operation.uid)) else { return Ok(()) };
    apply::delete::<K>(&ad.client, &operation.namespace, &known.name_any(), &known.uid().unwrap_or_default()).await
}

/// Removes the Jobs of failed backups of the operation's cluster beyond the newest few. Best effort, by what the watches
/// know: the next failure goes on.
pub async fn tidy(ad: &Adapters, operation: &Operation) -> Result<(), MoverError> {
    let (namespace, cluster) = (&operation.namespace, &operation.cluster);
    let operations = ad.caches.operations_of(namespace, cluster);
    // The one that calls has not ended yet, and is the newest failure.
    let live =
        operations.iter().filter(|op| !op.has_ended() && op.name_any() != operation.name).filter_map(|op| op.uid());
    let old = tidy::outdated(&ad.caches.jobs_of_cluster(namespace, cluster), &live.collect());
    let api: Api<Job> = Api::namespaced(ad.client.clone(), namespace);
    for job in &old {
        delete(&api, job).await.map_err(|source| request::<Job>("delete", namespace, &job.name_any(), source))?;
    }
    Ok(())
}

async fn delete(api: &Api<Job>, job: &Job) -> Result<(), RequestError> {
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: job.uid(), resource_version: None }),
        // In the foreground the Job stays visible until its pods are gone: "no Job" then means "no pod".
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    match timed(api.delete(&job.name_any(), &params)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn request<K: Resource<DynamicType = ()>>(
    verb: &'static str,
    namespace: &str,
    name: &str,
    source: RequestError,
) -> MoverError {
    MoverError::Request {
        verb,
        kind: K::kind(&()).into_owned(),
        namespace: namespace.into(),
        name: name.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_by_itself_is_waited_for_and_not_taken_for_a_job_that_was_begun() {
        let going = MoverError::Going { kind: "Job".into(), namespace: "reef".into(), name: "now-snapshot".into() };
        assert!(!going.is_final() && !going.is_over_quota());
        let text = going.text();
        assert!(text.contains("now-snapshot") && !text.contains("Job now-snapshot "), "{text}");
        let foreign = MoverError::Foreign { kind: "Job".into(), namespace: "reef".into(), name: "now-snapshot".into() };
        assert!(foreign.is_final());
    }

    #[test]
    fn a_quota_that_is_used_up_may_have_room_again_and_a_missing_right_does_not_come_back() {
        let refused = |words: &str| {
            let status = kube::core::Status::failure(words, "Forbidden").with_code(403);
            request::<Job>("create", "reef", "kelp-prune", kube::Error::Api(Box::new(status)).into())
        };
        let quota =
            refused("jobs.batch \"kelp-prune\" is forbidden: exceeded quota: few, requested: count/jobs.batch=1");
        assert!(quota.is_over_quota() && !quota.is_final(), "{}", quota.text());
        let right = refused("jobs.batch \"kelp-prune\" is forbidden: User \"openbao\" cannot create resource \"jobs\"");
        assert!(right.is_final() && !right.is_over_quota(), "{}", right.text());
    }
}
