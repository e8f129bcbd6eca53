//! The mover of one restore: its Jobs, their pods, and the config map through which operator and mover talk.
//!
//! Reads are fresh, never from a cache: what is decided on them cannot be taken back. Writes into the config map carry
//! the resourceVersion of what was read, so a permit can be taken back by a write that conflicts with any claim.

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
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::plan::Inputs;
use crate::adapter::kubernetes::{
    client::{RequestError, timed},
    owner::{controller_of, is_controlled_by},
    time::from_kube,
};
use crate::api::{OpenBaoOperation, Waiver};
use crate::datapath::protocol::{self, Claim, Failure, Grant, JobResult, Progress, Report, RestoreDone, Submission};
use crate::service::backup::jobs::{self, Mover, Operation, Task};
use crate::service::cluster::names;

/// What Jobs of a restore are named by.
const WHAT: &str = "restore";
/// How often a snapshot is downloaded in all, whatever the reasons.
const DOWNLOADS: i32 = 8;
/// How long one mover may live: download, wait for the lock and for the safety backup, submission.
const LIFE: TimeDelta = TimeDelta::hours(4);
/// Tries of a conflict-checked write.
const TRIES: usize = 5;
/// Data key of the attempts that are over, a JSON list of [`Past`].
const PAST: &str = "attempts";

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
            Self::Request { .. } | Self::Contended(_) | Self::Claimed | Self::NoUid => false,
        }
    }
}

/// One attempt at a submission that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// The step's attempt that it belonged to.
    pub attempt: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Submission>,
    /// How it was known not to have been applied.
    pub verdict: String,
    pub at: DateTime<Utc>,
}

/// What stands in the config map.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    pub resource_version: Option<String>,
    pub report: Option<Report>,
    pub progress: Option<Progress>,
    pub grant: Option<Grant>,
    pub claim: Option<Claim>,
    pub result: Option<Submission>,
    pub past: Vec<Past>,
}

impl Exchange {
    fn read(map: &ConfigMap) -> Result<Self, MoverError> {
        fn one<T: DeserializeOwned>(map: &ConfigMap, key: &'static str) -> Result<Option<T>, MoverError> {
            let Some(text) = map.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
            let unreadable = |source| MoverError::Unreadable { name: map.name_any(), key, source };
            serde_json::from_str(text).map(Some).map_err(unreadable)
        }
        Ok(Self {
            resource_version: map.resource_version(),
            report: one(map, protocol::REPORT)?,
            // Nothing hangs on progress.
            progress: one(map, protocol::PROGRESS).unwrap_or_default(),
            grant: one(map, protocol::GRANT)?,
            claim: one(map, protocol::CLAIM)?,
            result: one(map, protocol::RESULT)?,
            past: one(map, PAST)?.unwrap_or_default(),
        })
    }

    /// How often a submission was claimed in the attempts that are over.
    pub fn submitted(&self) -> usize {
        self.past.iter().filter(|past| past.claim.is_some()).count()
    }

    /// The attempt of that number, if it is over.
    pub fn past(&self, attempt: i32) -> Option<&Past> {
        self.past.iter().find(|past| past.attempt == attempt)
    }
}

/// The newest Job and what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Current {
    /// 1 for the first download.
    pub number: i32,
    pub job: String,
    pub job_uid: String,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// No pod of it runs yet, and why.
    Starting(String),
    Running {
        pod_uid: String,
    },
    /// No pod of it runs any more, or ever will.
    Ended {
        at: Option<DateTime<Utc>>,
        failure: Option<Failure>,
        why: String,
    },
}

/// Whether a mover stands ready to submit.
#[derive(Clone, Debug)]
pub enum Readiness {
    /// It waits for a permit, with a verified snapshot.
    Ready { pod_uid: String, report: Box<Report> },
    /// It is on its way; the sentence says where.
    Working(String),
    /// It has reported something else than a verified snapshot.
    Reported(Box<Report>),
    /// It ended without a report that counts.
    Ended { at: Option<DateTime<Utc>>, failure: Option<Failure>, why: String },
    /// There is none.
    Absent,
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
                Err(MoverError::NotOurs { kind: "ConfigMap", name: self.map.clone() })
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

    /// Whether every pod of every Job of this operation has ended: nobody can claim or send any more.
    pub async fn all_ended(&self) -> Result<bool, MoverError> {
        Ok(self.pods().await?.iter().all(has_ended))
    }

    /// Makes the next Job and what it needs. Harmless when they exist already and are ours.
    pub async fn start(
        &self,
        operation: &OpenBaoOperation,
        inputs: &Inputs,
        number: i32,
        now: DateTime<Utc>,
    ) -> Result<(), MoverError> {
        let described = Operation {
            name: self.operation.clone(),
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            cluster: operation.spec.cluster.clone(),
            cluster_uid: inputs.cluster_uid.clone(),
            intent: operation.spec.intent.clone().unwrap_or_default(),
            actor: operation.spec.actor.as_ref().map(|actor| actor.identity.clone()).unwrap_or_default(),
            owner: controller_of(operation).ok_or(MoverError::NoUid)?,
        };
        let waive: Vec<String> = inputs.waive.iter().map(|waiver| waiver_word(*waiver).to_owned()).collect();
        let pull_secrets: Vec<LocalObjectReference> =
            inputs.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
        let job = jobs::job(&Mover {
            operation: &described,
            name: &jobs::attempt_name(&self.operation, WHAT, number),
            task: Task::Restore {
                source: &inputs.source,
                login: &inputs.login,
                waive: &waive,
                submit: !inputs.dry_run,
            },
            store: &inputs.store,
            image: &inputs.image,
            image_pull_secrets: &pull_secrets,
            service_account: &inputs.service_account,
            deadline: now + LIFE,
            now,
        })
        .map_err(MoverError::Build)?;
        try_join!(
            self.create("ConfigMap", jobs::mover_config_map(&described)),
            self.create("Role", jobs::mover_role(&described)),
            self.create("RoleBinding", jobs::mover_binding(&described, &inputs.service_account)),
        )?;
        self.create("Job", job).await
    }

    /// Gives leave to submit, against exactly what was read: a claim written meanwhile, or any other change, refuses it.
    pub async fn grant(&self, read: &Exchange, grant: &Grant) -> Result<(), MoverError> {
        let text = serde_json::to_string(grant).map_err(MoverError::Build)?;
        self.write(read, json!({ protocol::GRANT: text })).await
    }

    /// Answers the mover that it will get no permit. A claim that stands is left alone.
    pub async fn refuse(&self, why: &str) -> Result<(), MoverError> {
        let grant = Grant::Refused { refused: why.to_owned() };
        for _ in 0..TRIES {
            let Some(read) = self.exchange().await? else { return Ok(()) };
            if read.claim.is_some() {
                return Err(MoverError::Claimed);
            }
            match self.grant(&read, &grant).await {
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

    /// Stops every Job. True once none is left, nor any pod of one.
    pub async fn stop(&self) -> Result<bool, MoverError> {
        let jobs = self.jobs().await?;
        for job in jobs.iter().filter(|job| job.metadata.deletion_timestamp.is_none()) {
            self.delete(&job.name_any(), job.uid()).await?;
        }
        // A pod that has ended does nothing any more; Kubernetes collects it.
        let pods = self.pods().await?;
        Ok(jobs.is_empty() && pods.iter().all(has_ended))
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

    async fn create<K>(&self, kind: &'static str, object: K) -> Result<(), MoverError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + Sync,
    {
        let (api, name): (Api<K>, String) = (self.api(), object.name_any());
        match timed(api.create(&PostParams::default(), &object)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => {
                let found = timed(api.get_opt(&name)).await.map_err(self.request("read", kind, &name))?;
                match found {
                    Some(found) if !is_controlled_by(&found, &self.uid) => Err(MoverError::NotOurs { kind, name }),
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
        let label = jobs::operation_label(&self.operation);
        ListParams::default().labels(&format!("{}={label},{}={WHAT}", names::OPERATION_LABEL, names::COMPONENT_LABEL))
    }

    /// Which download a Job is, by its name.
    fn number(&self, job: &Job) -> Option<i32> {
        let name = job.name_any();
        (1..=DOWNLOADS).find(|number| jobs::attempt_name(&self.operation, WHAT, *number) == name)
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

/// Whether another download may be made after this one.
pub fn may_follow(number: i32) -> bool {
    number < DOWNLOADS
}

/// Whether a mover stands ready, from what it said and what its Job does. A report counts only from the pod that runs
/// now: an earlier pod's snapshot went with its scratch.
pub fn readiness(exchange: Option<&Exchange>, current: Option<&Current>) -> Readiness {
    let Some(current) = current else { return Readiness::Absent };
    let report = exchange.and_then(|exchange| exchange.report.as_ref());
    match &current.state {
        State::Starting(why) => Readiness::Working(why.clone()),
        State::Running { pod_uid } => match report.filter(|report| report.pod_uid == *pod_uid) {
            Some(report) if report.kind == protocol::ReportKind::Verified => {
                Readiness::Ready { pod_uid: pod_uid.clone(), report: Box::new(report.clone()) }
            }
            Some(report) => Readiness::Reported(Box::new(report.clone())),
            None => Readiness::Working(progress_text(exchange.and_then(|exchange| exchange.progress.as_ref()))),
        },
        State::Ended { at, failure, why } => match report {
            // What a mover reported before it ended is still true of the source, unless it was about to submit.
            Some(report) if report.kind != protocol::ReportKind::Verified => {
                Readiness::Reported(Box::new(report.clone()))
            }
            _ => Readiness::Ended { at: *at, failure: failure.clone(), why: why.clone() },
        },
    }
}

fn progress_text(progress: Option<&Progress>) -> String {
    use super::decide::judge::bytes;
    use crate::datapath::protocol::Stage;
    match progress {
        None => "the mover to look at the source".to_owned(),
        Some(progress) => {
            let verb = match progress.stage {
                Stage::Download => "download",
                Stage::Verify => "verify",
                Stage::WaitForGrant | Stage::Submit | Stage::Snapshot | Stage::Upload => "report",
            };
            let total =
                if progress.total_bytes > 0 { format!(" of {}", bytes(progress.total_bytes)) } else { String::new() };
            format!("the mover to {verb} the snapshot ({}{total})", bytes(progress.bytes))
        }
    }
}

/// The word that the mover is told.
pub fn waiver_word(waiver: Waiver) -> &'static str {
    match waiver {
        Waiver::MissingManifest => "MissingManifest",
        Waiver::OtherSeal => "OtherSeal",
    }
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Terminal means the Job's own condition and no pod that could still act; never a counter.
fn state(job: &Job, pods: &[&Pod]) -> State {
    if let Some(pod) = pods.iter().find(|pod| !has_ended(pod)) {
        let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        return match (running, pod.uid()) {
            (true, Some(pod_uid)) => State::Running { pod_uid },
            (true, None) | (false, _) => State::Starting(waiting_for(pod)),
        };
    }
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let over = conditions.filter(|condition| condition.status == "True").find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed" | "SuccessCriteriaMet" | "FailureTarget")
    });
    let deleting = job.metadata.deletion_timestamp.as_ref();
    if over.is_none() && deleting.is_none() && pods.is_empty() {
        return State::Starting("Kubernetes to make the mover's pod".to_owned());
    }
    let terminated = pods.iter().flat_map(|pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        statuses.filter_map(|container| container.state.as_ref()?.terminated.as_ref())
    });
    let last = terminated.max_by_key(|end| end.finished_at.as_ref().map(|time| time.0));
    let failure = last.and_then(|end| match serde_json::from_str::<JobResult<RestoreDone>>(end.message.as_deref()?) {
        Ok(JobResult::Failed(failure)) => Some(failure),
        Ok(JobResult::Done(_)) | Err(_) => None,
    });
    let why = match (&failure, last, over) {
        (Some(failure), _, _) => failure.message.clone(),
        (None, Some(end), _) => {
            format!("it ended with {} (exit status {})", end.reason.as_deref().unwrap_or("no reason"), end.exit_code)
        }
        (None, None, Some(condition)) => condition.message.clone().unwrap_or_else(|| "its Job failed".to_owned()),
        (None, None, None) => "its Job was deleted".to_owned(),
    };
    let at = last.and_then(|end| end.finished_at.as_ref()).map(from_kube);
    let at = at.or_else(|| over.and_then(|condition| condition.last_transition_time.as_ref()).map(from_kube));
    State::Ended { at: at.or_else(|| deleting.map(from_kube)), failure, why }
}

/// Why the mover's pod does not run yet, in Kubernetes' own words.
fn waiting_for(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let containers = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref()).find_map(|waiting| {
        let reason = waiting.reason.clone().filter(|reason| reason != "ContainerCreating")?;
        Some(format!("{reason}: {}", waiting.message.clone().unwrap_or_default()))
    });
    let unscheduled = || {
        let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        conditions
            .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
            .find_map(|condition| condition.message.clone())
    };
    let why = waiting.or_else(unscheduled).unwrap_or_else(|| "it is being started".to_owned());
    format!("the mover's pod {} ({why})", pod.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn job(value: Value) -> Job {
        serde_json::from_value(value).unwrap()
    }

    fn pod(phase: &str, terminated: Option<Value>) -> Pod {
        let state = terminated.map_or(json!({"running": {}}), |end| json!({"terminated": end}));
        serde_json::from_value(json!({
            "metadata": {"name": "m", "uid": "p1"},
            "status": {"phase": phase, "containerStatuses": [
                {"name": "mover", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}
        }))
        .unwrap()
    }

    fn failed() -> Job {
        job(json!({"status": {"conditions": [{"type": "Failed", "status": "True", "message": "no more tries"}]}}))
    }

    fn running(pod_uid: &str) -> Current {
        Current {
            number: 1,
            job: "j".into(),
            job_uid: "u".into(),
            state: State::Running { pod_uid: pod_uid.to_owned() },
        }
    }

    fn report(pod_uid: &str, kind: &str) -> Report {
        serde_json::from_value(json!({"podUID": pod_uid, "kind": kind, "reason": "R", "message": "m",
            "at": "2026-11-21T03:00:00Z"}))
        .unwrap()
    }

    #[test]
    fn a_job_with_a_pod_that_still_runs_has_not_ended_whatever_its_conditions_say() {
        assert_eq!(state(&failed(), &[&pod("Running", None)]), State::Running { pod_uid: "p1".into() });
        assert!(matches!(state(&job(json!({})), &[]), State::Starting(_)));
        assert!(matches!(state(&failed(), &[]), State::Ended { .. }));
    }

    #[test]
    fn the_end_of_a_mover_tells_its_cause_and_its_time() {
        let message = r#"{"ok":false,"cause":"Store","reason":"NoObject","message":"there is no such key"}"#;
        let end = json!({"exitCode": 5, "message": message, "finishedAt": "2026-11-21T03:00:09Z"});
        let State::Ended { at, failure, why } = state(&failed(), &[&pod("Failed", Some(end))]) else { panic!() };
        assert_eq!(at.unwrap().to_rfc3339(), "2026-11-21T03:00:09+00:00");
        assert_eq!((failure.unwrap().cause, why.as_str()), (protocol::Cause::Store, "there is no such key"));
        let end = json!({"exitCode": 137, "reason": "OOMKilled"});
        let State::Ended { failure, why, .. } = state(&failed(), &[&pod("Failed", Some(end))]) else { panic!() };
        assert!(failure.is_none() && why.contains("OOMKilled"), "{why}");
    }

    #[test]
    fn only_the_pod_that_runs_now_can_be_ready() {
        let exchange = Exchange { report: Some(report("p1", "Verified")), ..Exchange::default() };
        assert!(matches!(readiness(Some(&exchange), Some(&running("p1"))), Readiness::Ready { .. }));
        assert!(matches!(readiness(Some(&exchange), Some(&running("p2"))), Readiness::Working(_)));
        let ended = State::Ended { at: None, failure: None, why: String::new() };
        let current = Current { state: ended, ..running("p1") };
        assert!(matches!(readiness(Some(&exchange), Some(&current)), Readiness::Ended { .. }));
        let refused = Exchange { report: Some(report("p1", "Refused")), ..Exchange::default() };
        assert!(matches!(readiness(Some(&refused), Some(&current)), Readiness::Reported(_)));
        assert!(matches!(readiness(None, None), Readiness::Absent));
    }

    #[test]
    fn a_config_map_that_somebody_else_wrote_into_is_told_and_not_guessed_at() {
        let map = |key: &str, text: &str| -> ConfigMap {
            serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {key: text}})).unwrap()
        };
        assert!(matches!(Exchange::read(&map(protocol::CLAIM, "gibberish")), Err(MoverError::Unreadable { .. })));
        assert!(Exchange::read(&map(protocol::PROGRESS, "gibberish")).unwrap().progress.is_none());
        assert!(Exchange::read(&map("other", "x")).unwrap().claim.is_none());
    }
}
