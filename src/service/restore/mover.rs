//! The mover of one restore: its Jobs, their pods, and the config map through which operator and mover talk.
//!
//! Reads are fresh, never from a cache: what is decided on them cannot be taken back. Writes into the config map carry
//! the resourceVersion of what was read, so a permit can be taken back by a write that conflicts with any claim.

mod exchange;
mod state;
#[cfg(test)]
mod tests;

pub use exchange::{Exchange, Past};
pub use state::{Current, Left, Readiness, State, readiness};

use std::collections::BTreeMap;
use std::fmt::Debug;

use chrono::{DateTime, TimeDelta, Utc};
use futures::try_join;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, LocalObjectReference, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::Serialize;
use serde_json::json;

use exchange::{PAST, PODS};
use state::{left, state};

use super::plan::Inputs;
use crate::adapter::kubernetes::{
    Namespaced,
    client::{RequestError, timed},
    owner::is_controlled_by,
    shorten::operation_label,
};
use crate::api::{OpenBaoOperation, Waiver};
use crate::datapath::protocol::{self, Grant, Peer};
use crate::service::backup::found::is_going;
use crate::service::backup::jobs::{self, Mover, Operation, Task};
use crate::service::cluster::names;

/// What Jobs of a restore are named by.
const WHAT: &str = "restore";
/// How often a snapshot is downloaded in all while nothing is lost by giving up, whatever the reasons.
const DOWNLOADS: i32 = 8;
/// The same once volumes are wiped: nothing works without it any more, and the attempts of the steps that need it are what bounds it.
/// What one step has used up with a store that was away is there for the next one too, each with 32: nine wipes, the marker, the submission.
const DOWNLOADS_PAST_RETURN: i32 = DOWNLOADS + 32 * 11;
/// How long one mover may live: download, wait for the lock and for the safety backup, submission.
const LIFE: TimeDelta = TimeDelta::hours(4);
/// Tries of a conflict-checked write.
const TRIES: usize = 5;

/// Why the mover could not be reached, read or made.
#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    #[error("failed to {verb} {kind} {name}")]
    Request {
        verb: &'static str,
        kind: &'static str,
        name: String,
        #[source]
        source: RequestError,
    },
    #[error("{kind} {name} exists and is not this operation's: delete or rename it")]
    NotOurs { kind: &'static str, name: String },
    #[error("{kind} {name} is left of an earlier operation of this name: waiting for Kubernetes to remove it")]
    Going { kind: &'static str, name: String },
    #[error("key \"{key}\" of ConfigMap {name} is not readable: somebody else wrote it")]
    Unreadable {
        name: String,
        key: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("failed to write the mover's Job as JSON")]
    Build(#[source] serde_json::Error),
    #[error("ConfigMap {0} is gone: somebody deleted it while the restore was running")]
    Gone(String),
    #[error("ConfigMap {0} kept changing while it was written")]
    Contended(String),
    #[error("the submission was claimed meanwhile")]
    Claimed,
    #[error("the operation has no UID yet")]
    NoUid,
}

impl MoverError {
    /// The state itself is wrong; trying again reads the same.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NotOurs { .. } | Self::Unreadable { .. } | Self::Build(_) | Self::Gone(_) => true,
            Self::Request { .. } | Self::Going { .. } | Self::Contended(_) | Self::Claimed | Self::NoUid => false,
        }
    }
}

/// The movers of one operation.
#[derive(Clone)]
pub struct Movers {
    client: Client,
    namespace: String,
    operation: String,
    uid: String,
    map: String,
}

impl Debug for Movers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Movers").field("operation", &self.operation).finish_non_exhaustive()
    }
}

impl Movers {
    pub fn of(client: &Client, operation: &OpenBaoOperation) -> Result<Self, MoverError> {
        let name = operation.name_any();
        Ok(Self {
            client: client.clone(),
            namespace: operation.namespace().unwrap_or_default(),
            uid: operation.uid().ok_or(MoverError::NoUid)?,
            map: jobs::mover_name(&name),
            operation: name,
        })
    }

    /// What mover and operator have said so far. `None` before the first Job.
    pub async fn exchange(&self) -> Result<Option<Exchange>, MoverError> {
        let maps: Api<ConfigMap> = self.api();
        let map = timed(maps.get_opt(&self.map)).await.map_err(self.request("read", "ConfigMap", &self.map))?;
        match map {
            None => Ok(None),
            Some(map) if !is_controlled_by(&map, &self.uid) => {
                Err(taken("ConfigMap", &map, &self.operation, &self.uid))
            }
            Some(map) => Exchange::read(&map).map(Some),
        }
    }

    /// The newest Job of this operation, freshly read with its pods. `None`: there is none.
    pub async fn current(&self) -> Result<Option<Current>, MoverError> {
        let (jobs, pods) = try_join!(self.jobs(), self.pods())?;
        let newest = jobs.iter().filter_map(|job| Some((self.number(job)?, job))).max_by_key(|(number, _)| *number);
        Ok(newest.map(|(number, job)| {
            let uid = job.uid().unwrap_or_default();
            let own: Vec<&Pod> = pods.iter().filter(|pod| is_controlled_by(*pod, &uid)).collect();
            Current { number, job: job.name_any(), state: state(job, &own), job_uid: uid }
        }))
    }

    /// Makes the next Job and what it needs. Harmless when they exist already and are ours.
    pub async fn start(
        &self,
        operation: &OpenBaoOperation,
        inputs: &Inputs,
        peers: &[Peer],
        max_expanded: Option<u64>,
        number: i32,
        now: DateTime<Utc>,
    ) -> Result<(), MoverError> {
        let described = Operation::of(operation, &inputs.cluster_uid).map_err(|_| MoverError::NoUid)?;
        let waive: Vec<String> = inputs.waive.iter().map(|waiver| waiver_word(*waiver).to_owned()).collect();
        let pull_secrets: Vec<LocalObjectReference> =
            inputs.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
        let job = jobs::job(&Mover {
            operation: &described,
            name: &jobs::attempt_name(&self.operation, WHAT, number),
            task: Task::Restore {
                source: &inputs.source,
                login: &inputs.login,
                peers,
                waive: &waive,
                submit: !inputs.dry_run,
            },
            store: &inputs.store,
            image: &inputs.image,
            image_pull_secrets: &pull_secrets,
            service_account: &inputs.service_account,
            max_expanded,
            deadline: now + LIFE,
            now,
        })
        .map_err(MoverError::Build)?;
        // A binding to a role that is not there yet is refused. The API server takes a tenth of a second to know a new
        // role, a pod longer than that to start: the Job need not wait for the binding.
        let (map, role) = (jobs::mover_config_map(&described), jobs::mover_role(&described));
        try_join!(self.create("ConfigMap", map), self.create("Role", role))?;
        let binding = jobs::mover_binding(&described, &inputs.service_account);
        try_join!(self.create("RoleBinding", binding), self.create("Job", job))?;
        Ok(())
    }

    /// Gives a mover that runs the right to speak, should it lack it: whoever made its Job ended right then, or somebody
    /// deleted the binding.
    pub async fn let_speak(&self, operation: &OpenBaoOperation, inputs: &Inputs) -> Result<(), MoverError> {
        let described = Operation::of(operation, &inputs.cluster_uid).map_err(|_| MoverError::NoUid)?;
        self.create("Role", jobs::mover_role(&described)).await?;
        self.create("RoleBinding", jobs::mover_binding(&described, &inputs.service_account)).await
    }

    /// Gives leave to submit, against exactly what was read: a claim written meanwhile, or any other change, refuses it.
    pub async fn grant(
        &self,
        read: &Exchange,
        grant: &Grant,
        servers: &BTreeMap<String, String>,
    ) -> Result<(), MoverError> {
        let text = serde_json::to_string(grant).map_err(MoverError::Build)?;
        let servers = serde_json::to_string(servers).map_err(MoverError::Build)?;
        self.write(read, json!({ protocol::GRANT: text, PODS: servers })).await
    }

    /// Answers the mover that it will get no permit. A claim that stands is left alone.
    pub async fn refuse(&self, why: &str) -> Result<(), MoverError> {
        let grant = Grant::Refused { refused: why.to_owned() };
        for _ in 0..TRIES {
            let Some(read) = self.exchange().await? else { return Err(MoverError::Gone(self.map.clone())) };
            if read.claim.is_some() {
                return Err(MoverError::Claimed);
            }
            match self.grant(&read, &grant, &read.servers).await {
                Err(MoverError::Request { source, .. }) if source.is_conflict() => {}
                other => return other,
            }
        }
        Err(MoverError::Contended(self.map.clone()))
    }

    /// Puts an attempt that was not applied among the past ones, so that the next can have a claim of its own. The write
    /// conflicts with a permit or a claim that is still on its way. A mover that got no permit stays ready.
    pub async fn close(&self, read: &Exchange, past: Past) -> Result<(), MoverError> {
        let unused = read.grant.is_none() && read.claim.is_none();
        let mut all = read.past.clone();
        all.retain(|other| other.attempt != past.attempt);
        all.push(past);
        let text = serde_json::to_string(&all).map_err(MoverError::Build)?;
        let empty = serde_json::Value::Null;
        let mut data = json!({ PAST: text, protocol::GRANT: empty, protocol::CLAIM: empty, protocol::RESULT: empty });
        if !unused {
            data[protocol::REPORT] = empty.clone();
            data[protocol::PROGRESS] = empty;
        }
        self.write(read, data).await
    }

    /// Stops every Job. `None` once none is left, nor any pod of one.
    pub async fn stop(&self, now: DateTime<Utc>) -> Result<Option<Left>, MoverError> {
        let jobs = self.jobs().await?;
        for job in jobs.iter().filter(|job| job.metadata.deletion_timestamp.is_none()) {
            self.delete(&job.name_any(), job.uid()).await?;
        }
        Ok(left(&jobs, &self.pods().await?, now))
    }

    /// Sees to it that no mover can claim any more, and says whether none can be sending either.
    pub async fn disarm(&self) -> Result<bool, MoverError> {
        match self.refuse("the operation is over").await {
            Ok(()) | Err(MoverError::Claimed | MoverError::Gone(_)) => Ok(is_disarmed(self.exchange().await?.as_ref())),
            Err(error) => Err(error),
        }
    }

    /// Stops one Job, and its pods with it.
    pub async fn delete(&self, name: &str, uid: Option<String>) -> Result<(), MoverError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::foreground()
        };
        let api: Api<Job> = self.api();
        match timed(api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(source) => Err(self.request("delete", "Job", name)(source)),
        }
    }

    async fn write(&self, read: &Exchange, data: serde_json::Value) -> Result<(), MoverError> {
        let body = json!({ "metadata": { "resourceVersion": read.resource_version }, "data": data });
        let maps: Api<ConfigMap> = self.api();
        match timed(maps.patch(&self.map, &PatchParams::default(), &Patch::Merge(&body))).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Err(MoverError::Gone(self.map.clone())),
            Err(source) => Err(self.request("write", "ConfigMap", &self.map)(source)),
        }
    }

    async fn create<K: Namespaced + Serialize>(&self, kind: &'static str, object: K) -> Result<(), MoverError> {
        let (api, name): (Api<K>, String) = (self.api(), object.name_any());
        match timed(api.create(&PostParams::default(), &object)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => {
                let found = timed(api.get_opt(&name)).await.map_err(self.request("read", kind, &name))?;
                match found {
                    Some(found) if !is_controlled_by(&found, &self.uid) => {
                        Err(taken(kind, &found, &self.operation, &self.uid))
                    }
                    _ => Ok(()),
                }
            }
            Err(source) => Err(self.request("create", kind, &name)(source)),
        }
    }

    async fn jobs(&self) -> Result<Vec<Job>, MoverError> {
        let api: Api<Job> = self.api();
        let list = timed(api.list(&self.selector())).await.map_err(self.request("list", "Job", &self.operation))?;
        Ok(list.items.into_iter().filter(|job| is_controlled_by(job, &self.uid)).collect())
    }

    async fn pods(&self) -> Result<Vec<Pod>, MoverError> {
        let api: Api<Pod> = self.api();
        let list = timed(api.list(&self.selector())).await.map_err(self.request("list", "Pod", &self.operation))?;
        let annotation = |pod: &Pod| pod.annotations().get(jobs::OPERATION_UID).cloned();
        Ok(list.items.into_iter().filter(|pod| annotation(pod).as_deref() == Some(&self.uid)).collect())
    }

    fn selector(&self) -> ListParams {
        let label = operation_label(&self.operation);
        ListParams::default().labels(&format!("{}={label},{}={WHAT}", names::OPERATION_LABEL, names::COMPONENT_LABEL))
    }

    /// Which download a Job is, by its name.
    fn number(&self, job: &Job) -> Option<i32> {
        let name = job.name_any();
        (1..=DOWNLOADS_PAST_RETURN).find(|number| jobs::attempt_name(&self.operation, WHAT, *number) == name)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn request(
        &self,
        verb: &'static str,
        kind: &'static str,
        name: &str,
    ) -> impl FnOnce(RequestError) -> MoverError + use<> {
        let name = format!("{}/{name}", self.namespace);
        move |source| MoverError::Request { verb, kind, name, source }
    }
}

/// Why a name of this operation is not to be had. A record that was deleted, and the same file applied again, meets what Kubernetes
/// has not removed yet.
fn taken(kind: &'static str, by: &impl ResourceExt, operation: &str, uid: &str) -> MoverError {
    let name = by.name_any();
    if is_going(by, operation, uid) { MoverError::Going { kind, name } } else { MoverError::NotOurs { kind, name } }
}

/// Whether no mover can be sending, where none can claim any more. A config map that is gone took with it whether one has claimed;
/// there was one, for it is made before the first Job.
fn is_disarmed(read: Option<&Exchange>) -> bool {
    read.is_some_and(|read| !read.may_be_sending())
}

/// Whether another download may be made after this one. `past_return`: volumes are wiped, or about to be.
pub fn may_follow(number: i32, past_return: bool) -> bool {
    number < if past_return { DOWNLOADS_PAST_RETURN } else { DOWNLOADS }
}

/// The word that the mover is told.
pub fn waiver_word(waiver: Waiver) -> &'static str {
    match waiver {
        Waiver::MissingManifest => "MissingManifest",
        Waiver::OtherSeal => "OtherSeal",
    }
}
