//! What a Job that was found tells. Pure: a Job and its pods in, a judgement out.
//!
//! A Job is interpreted only with proof that it is ours: its controller is the operation, by UID, and it carries the
//! operation's UID. It has ended when it has a Complete or Failed condition *and* none of its pods runs any more;
//! counters say nothing.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerStateTerminated, ContainerStatus, Pod},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::jobs::{FETCH, OPERATION_UID};
use crate::adapter::kubernetes::{owner::is_controlled_by, pods::unscheduled, time::from_kube};
use crate::api::OpenBaoOperation;
use crate::datapath::protocol::{Cause, Failure, JobResult};

/// A pod is there within a second or two of its Job. One that is not after this long is being refused.
const UNUSUAL: TimeDelta = TimeDelta::seconds(20);

/// What a Job comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// There is no Job of that name.
    Absent,
    /// There is one, and it is not this operation's: it is neither read nor deleted.
    Foreign,
    /// Not ended. `pod` is the UID of the pod that runs, `trouble` what keeps it from running.
    Running { pod: Option<String>, trouble: Option<String> },
    /// Not ended, and never begun: for so long Kubernetes has tried in vain to make a pod for it.
    Podless { age: TimeDelta },
    /// The mover said that all went well.
    Done(T),
    /// The mover said what went wrong, and has cleaned up after itself as far as it could.
    Failed(Failure),
    /// The mover ended without a word: nobody knows what it left behind.
    Lost { reason: &'static str, message: String },
}

impl<T> Found<T> {
    /// Whether it may still do something.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Podless { .. })
    }
}

/// Whether `job` was made for the operation with this UID.
pub fn is_ours(job: &impl ResourceExt, operation_uid: &str) -> bool {
    is_controlled_by(job, operation_uid)
        && job.annotations().get(OPERATION_UID).is_some_and(|annotated| annotated == operation_uid)
}

/// Whether what stands under a name of this operation, and is not its own, goes by itself: it was made for an earlier operation of
/// that name, after which Kubernetes has yet to clean up.
pub fn is_going(object: &impl ResourceExt, operation: &str, operation_uid: &str) -> bool {
    let of_predecessor = |owner: &OwnerReference| {
        let same = owner.kind == OpenBaoOperation::kind(&()) && owner.name == operation;
        owner.controller == Some(true) && same && owner.uid != operation_uid
    };
    object.meta().deletion_timestamp.is_some() || object.owner_references().iter().any(of_predecessor)
}

/// Judges a Job by itself and its pods. Pods of an earlier Job of the same name are passed over, by UID.
pub fn judge<T: DeserializeOwned>(
    job: Option<&Job>,
    pods: &[Pod],
    operation_uid: &str,
    now: DateTime<Utc>,
) -> Found<T> {
    let Some(job) = job else { return Found::Absent };
    if !is_ours(job, operation_uid) {
        return Found::Foreign;
    }
    let uid = job.uid().unwrap_or_default();
    let pods: Vec<&Pod> = pods.iter().filter(|pod| is_controlled_by(*pod, &uid)).collect();
    let running = pods.iter().find(|pod| !has_ended(pod));
    let Some(condition) = end_of(job).filter(|_| running.is_none()) else {
        return match podless(job, now).filter(|_| pods.is_empty()) {
            Some(Podless::Refused(age)) => Found::Podless { age },
            Some(Podless::Unseen) => Found::Running { pod: None, trouble: Some(UNSEEN.to_owned()) },
            None => {
                Found::Running { pod: running.and_then(|pod| pod.uid()), trouble: running.and_then(|pod| trouble(pod)) }
            }
        };
    };
    // The last word counts: with `backoffLimit: 0` there is one pod, but a node's drain may have replaced it.
    let mut by_age = pods;
    by_age.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|at| at.0));
    let result = by_age.iter().rev().find_map(|pod| {
        let message = terminated(pod)?.message.as_deref()?;
        serde_json::from_str::<JobResult<T>>(message.trim()).ok()
    });
    match result {
        Some(JobResult::Done(done)) if condition.complete => Found::Done(done),
        Some(JobResult::Failed(failure)) => Found::Failed(with_cause(failure, job, &by_age)),
        Some(JobResult::Done(_)) | None => lost(job, &by_age, &condition),
    }
}

const UNSEEN: &str = "Kubernetes (its Job controller) has not begun with this Job yet";

/// Why a Job has no pod.
enum Podless {
    /// Kubernetes began with it so long ago, and tries in vain.
    Refused(TimeDelta),
    /// Kubernetes has not come to it: its controllers are down, or have much to do. Another Job would only wait behind this one.
    Unseen,
}

/// Whether a Job waits for its first pod longer than is usual. `None` also where a pod was counted, something was concluded,
/// or it is on its way out: there was one then, or there will be none.
fn podless(job: &Job, now: DateTime<Utc>) -> Option<Podless> {
    let status = job.status.as_ref();
    let begun = status.is_some_and(|status| {
        let counted = [status.active, status.succeeded, status.failed, status.terminating];
        counted.into_iter().flatten().any(|count| count > 0)
            || status.conditions.as_ref().is_some_and(|conditions| !conditions.is_empty())
    });
    if begun || job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    // Set with the first look at a Job, also where its pod is then refused.
    let (since, seen) = match status.and_then(|status| status.start_time.as_ref()) {
        Some(start) => (start, true),
        None => (job.metadata.creation_timestamp.as_ref()?, false),
    };
    let age = now - from_kube(since);
    (age >= UNUSUAL).then_some(if seen { Podless::Refused(age) } else { Podless::Unseen })
}

/// Whether Kubernetes has concluded how a Job ended.
pub fn is_concluded(job: &Job) -> bool {
    end_of(job).is_some()
}

struct End {
    complete: bool,
    reason: String,
    message: String,
}

fn end_of(job: &Job) -> Option<End> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.status == "True" && matches!(&*condition.type_, "Complete" | "Failed"))
        .map(|condition| End {
            complete: condition.type_ == "Complete",
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        })
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The container that has the word: one that prepares has it while it works, and for good where it failed.
fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let ended_well = |container: &&ContainerStatus| {
        let state = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        state.is_some_and(|ended| ended.exit_code == 0)
    };
    // Others may have been put before ours, and run beside it to the end.
    let mut preparing = status.init_container_statuses.iter().flatten().filter(|container| container.name == FETCH);
    preparing.find(|container| !ended_well(container)).or_else(|| status.container_statuses.as_ref()?.first())
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    container(pod)?.state.as_ref()?.terminated.as_ref()
}

/// Why the node sent a pod away, in its own words.
fn evicted(job: &Job, pods: &[&Pod]) -> Option<String> {
    let why = pods.iter().find_map(|pod| {
        let status = pod.status.as_ref()?;
        status.reason.as_deref().filter(|reason| *reason == "Evicted")?;
        Some(status.message.as_deref().unwrap_or_default())
    })?;
    Some(format!("the node evicted the pod of Job {}: {why}", job.name_any()))
}

/// A mover that was told to stop knows nothing but that; its node may know why.
fn with_cause(failure: Failure, job: &Job, pods: &[&Pod]) -> Failure {
    match evicted(job, pods).filter(|_| failure.cause == Cause::Cancelled) {
        Some(message) => Failure { reason: EVICTED.to_owned(), message, ..failure },
        None => failure,
    }
}

const EVICTED: &str = "MoverEvicted";

fn lost<T>(job: &Job, pods: &[&Pod], end: &End) -> Found<T> {
    let name = job.name_any();
    let killed = pods.iter().find_map(|pod| terminated(pod));
    let (reason, message) = if let Some(message) = evicted(job, pods) {
        (EVICTED, message)
    } else if killed.is_some_and(|end| end.reason.as_deref() == Some("OOMKilled")) {
        ("MoverOutOfMemory", format!("the pod of Job {name} was killed for want of memory"))
    } else if end.reason == "DeadlineExceeded" {
        ("DeadlineExceeded", format!("Job {name} did not end in the time it was given and was stopped"))
    } else if let Some(killed) = killed.filter(|_| !end.complete) {
        let signal = killed.signal.map(|signal| format!(", signal {signal}")).unwrap_or_default();
        let code = killed.exit_code;
        ("MoverKilled", format!("the pod of Job {name} ended without a result (exit status {code}{signal})"))
    } else if end.complete {
        ("MoverResultLost", format!("Job {name} completed, but its result cannot be read any more"))
    } else {
        ("MoverLost", format!("Job {name} failed and its pod is gone: {} {}", end.reason, end.message))
    };
    Found::Lost { reason, message: message.trim_end().to_owned() }
}

/// Why a pod does not get going, in the kubelet's or the scheduler's words.
fn trouble(pod: &Pod) -> Option<String> {
    let waiting = container(pod).and_then(|container| container.state.as_ref()?.waiting.as_ref());
    if let Some(waiting) = waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if !matches!(reason, "" | "ContainerCreating" | "PodInitializing") {
            return Some(format!("{reason}: {}", waiting.message.as_deref().unwrap_or_default()));
        }
    }
    unscheduled(pod).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::datapath::protocol::PruneDone;

    const OPERATION: &str = "0f0f";

    fn job(condition: Option<(&str, &str)>) -> Job {
        let conditions: Vec<Value> = condition
            .into_iter()
            .map(|(kind, reason)| json!({"type": kind, "status": "True", "reason": reason, "message": ""}))
            .collect();
        from(json!({
            "metadata": {"name": "kelp-backup-1-backup", "uid": "job-1", "annotations": {OPERATION_UID: OPERATION},
                "ownerReferences": [{"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "name": "o",
                    "uid": OPERATION, "controller": true}]},
            "status": {"conditions": conditions, "failed": 3},
        }))
    }

    fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod(phase: &str, status: Value) -> Pod {
        pod_of("job-1", phase, status)
    }

    #[test]
    fn what_could_not_be_prepared_tells_why_and_what_was_prepared_leaves_the_word_to_the_next() {
        let ended = |name: &str, code: i32, message: &str| json!({"name": name, "state": {"terminated": {"exitCode": code, "message": message}}});
        let refused = r#"{"ok":false,"cause":"Store","reason":"MissingBucket","message":"no"}"#;
        let waiting = json!({"name": "openbao", "state": {"waiting": {"reason": "PodInitializing"}}});
        let sidecar = json!({"name": "mesh", "state": {"terminated": {"exitCode": 137}}});
        let failed = pod(
            "Failed",
            json!({
            "initContainerStatuses": [sidecar.clone(), ended(FETCH, 5, refused)], "containerStatuses": [waiting]}),
        );
        let Found::Failed(failure) =
            judge::<PruneDone>(Some(&job(Some(("Failed", "")))), &[failed], OPERATION, Utc::now())
        else {
            panic!("not told")
        };
        assert_eq!(failure.reason, "MissingBucket");
        let done = r#"{"ok":true,"removed":["a"],"finished":[],"cleaned":[],"kept":[],"durationMs":1}"#;
        let well = pod(
            "Succeeded",
            json!({
            "initContainerStatuses": [sidecar, ended(FETCH, 0, "{}")], "containerStatuses": [ended("openbao", 0, done)]}),
        );
        let found = judge::<PruneDone>(Some(&job(Some(("Complete", "")))), &[well], OPERATION, Utc::now());
        assert!(matches!(found, Found::Done(_)), "{found:?}");
    }

    fn pod_of(job: &str, phase: &str, mut status: Value) -> Pod {
        status["phase"] = json!(phase);
        from(json!({
            "metadata": {"name": "p", "uid": "pod-1", "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job",
                "name": "j", "uid": job, "controller": true}]},
            "status": status,
        }))
    }

    fn ended(message: &str, exit: i32, reason: &str) -> Value {
        let state = json!({"terminated": {"exitCode": exit, "reason": reason, "message": message}});
        json!({"containerStatuses": [{"name": "mover", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": state}]})
    }

    fn found(job: &Job, pods: &[Pod]) -> Found<PruneDone> {
        judge(Some(job), pods, OPERATION, "2026-11-21T03:01:00Z".parse().unwrap())
    }

    const GOOD: &str = r#"{"ok":true,"removed":["a"],"finished":[],"cleaned":[],"kept":[],"durationMs":1}"#;
    const BAD: &str = r#"{"ok":false,"cause":"Store","reason":"MissingBucket","message":"no bucket tide"}"#;

    #[test]
    fn a_job_that_cannot_be_proven_ours_is_foreign_whatever_it_says() {
        let complete = job(Some(("Complete", "")));
        let pods = [pod("Succeeded", ended(GOOD, 0, "Completed"))];
        assert!(matches!(found(&complete, &pods), Found::Done(_)));
        let now = Utc::now();
        assert_eq!(judge::<PruneDone>(Some(&complete), &pods, "1e1e", now), Found::Foreign, "another operation's");
        let mut unsigned = complete.clone();
        unsigned.metadata.annotations = None;
        assert_eq!(found(&unsigned, &pods), Found::Foreign, "owned, but without our annotation");
        let mut orphan = complete;
        orphan.metadata.owner_references = None;
        assert_eq!(found(&orphan, &pods), Found::Foreign, "annotated, but owned by nobody");
        assert_eq!(judge::<PruneDone>(None, &pods, OPERATION, now), Found::Absent);
    }

    #[test]
    fn what_an_earlier_operation_of_this_name_left_is_waited_for_and_what_is_somebody_elses_is_not() {
        let is_going = |object: &Job, operation: &str| is_going(object, operation, "1e1e");
        let old = job(Some(("Failed", "")));
        assert_eq!(judge::<PruneDone>(Some(&old), &[], "1e1e", Utc::now()), Found::Foreign);
        assert!(is_going(&old, "o"), "its operation had our name, so it is gone");
        assert!(!is_going(&old, "p"), "its operation may be there");
        let mut orphan = old.clone();
        orphan.metadata.owner_references = None;
        assert!(!is_going(&orphan, "o"), "nobody takes it away");
        orphan.metadata.deletion_timestamp = Some(from(json!("2026-11-21T03:00:00Z")));
        assert!(is_going(&orphan, "o"), "but somebody does");
    }

    #[test]
    fn a_job_has_ended_only_with_a_condition_and_without_a_running_pod() {
        let none = found(&job(None), &[pod("Failed", ended(BAD, 5, "Error"))]);
        assert_eq!(none, Found::Running { pod: None, trouble: None }, "a failed pod and a counter of 3 are no end");
        let still = found(&job(Some(("Failed", "DeadlineExceeded"))), &[pod("Running", json!({}))]);
        assert_eq!(still, Found::Running { pod: Some("pod-1".into()), trouble: None });
        let marked = found(&job(Some(("FailureTarget", "DeadlineExceeded"))), &[]);
        assert_eq!(marked, Found::Running { pod: None, trouble: None }, "about to fail is not failed");
    }

    #[test]
    fn a_mover_that_was_told_to_stop_is_explained_by_its_node() {
        let told = |cause: &str| {
            let word = format!(r#"{{"ok":false,"cause":"{cause}","reason":"MoverStopped","message":"told to stop"}}"#);
            let mut status = ended(&word, 10, "Error");
            status["reason"] = json!("Evicted");
            status["message"] = json!("volume scratch is full");
            match found(&job(Some(("Failed", "BackoffLimitExceeded"))), &[pod("Failed", status)]) {
                Found::Failed(failure) => (failure.reason, failure.message),
                other => panic!("{other:?}"),
            }
        };
        let (reason, message) = told("Cancelled");
        assert_eq!(reason, "MoverEvicted");
        assert!(message.contains("volume scratch is full"), "{message}");
        assert_eq!(told("Store").0, "MoverStopped", "it had a trouble of its own first");
    }

    #[test]
    fn the_movers_own_word_says_what_went_wrong() {
        let Found::Failed(failure) = found(&job(Some(("Failed", ""))), &[pod("Failed", ended(BAD, 5, "Error"))]) else {
            panic!("not failed")
        };
        assert_eq!((failure.cause, failure.reason.as_str()), (Cause::Store, "MissingBucket"));
    }

    #[test]
    fn a_mover_that_ended_without_a_word_is_lost_and_the_reason_is_named() {
        let lost = |condition, pods: &[Pod]| match found(&job(Some(condition)), pods) {
            Found::Lost { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let failed = ("Failed", "BackoffLimitExceeded");
        assert_eq!(lost(failed, &[pod("Failed", ended("", 137, "OOMKilled"))]), "MoverOutOfMemory");
        assert_eq!(lost(failed, &[pod("Failed", ended("", 137, "Error"))]), "MoverKilled");
        assert_eq!(lost(failed, &[pod("Failed", json!({"reason": "Evicted", "message": "disk"}))]), "MoverEvicted");
        assert_eq!(lost(("Failed", "DeadlineExceeded"), &[]), "DeadlineExceeded");
        assert_eq!(lost(failed, &[]), "MoverLost");
        assert_eq!(lost(("Complete", ""), &[]), "MoverResultLost");
        assert_eq!(lost(("Complete", ""), &[pod("Succeeded", ended("not json", 0, "Completed"))]), "MoverResultLost");
        // A word of success from a Job that failed is no success.
        assert_eq!(lost(failed, &[pod("Failed", ended(GOOD, 1, "Error"))]), "MoverKilled");
        let namesake = pod_of("job-0", "Succeeded", ended(GOOD, 0, "Completed"));
        assert_eq!(lost(("Complete", ""), &[namesake]), "MoverResultLost", "the pod of an earlier Job of this name");
    }

    #[test]
    fn a_job_for_which_kubernetes_makes_no_pod_is_told_from_one_that_runs() {
        let made = |at: &str, status: Value| -> Job {
            let mut job = job(None);
            job.metadata.creation_timestamp = Some(from(json!(at)));
            job.status = Some(from(status));
            job
        };
        let (minute, moment) = ("2026-11-21T03:00:00Z", "2026-11-21T03:00:50Z");
        let refused = Found::Podless { age: TimeDelta::minutes(1) };
        assert_eq!(found(&made(minute, json!({"startTime": minute})), &[]), refused);
        assert_eq!(found(&made(minute, json!({"startTime": minute, "active": 0})), &[]), refused);
        let runs = Found::Running { pod: None, trouble: None };
        assert_eq!(found(&made(minute, json!({"startTime": moment})), &[]), runs, "it was begun just now");
        for status in [
            json!({"startTime": minute, "active": 1}),
            json!({"startTime": minute, "failed": 1}),
            json!({"startTime": minute, "conditions": [{"type": "FailureTarget", "status": "True"}]}),
        ] {
            assert_eq!(found(&made(minute, status.clone()), &[]), runs, "there was a pod: {status}");
        }
        let mut going = made(minute, json!({"startTime": minute}));
        going.metadata.deletion_timestamp = Some(from(json!(moment)));
        assert_eq!(found(&going, &[]), runs, "it gets none any more");
        let pending = [pod("Pending", json!({}))];
        assert!(matches!(found(&made(minute, json!({"startTime": minute})), &pending), Found::Running { .. }));

        let Found::Running { pod: None, trouble: Some(trouble) } = found(&made(minute, json!({})), &[]) else {
            panic!("it waits in a queue, and is not given up for that")
        };
        assert!(trouble.contains("Job controller"), "{trouble}");
        assert_eq!(found(&made(moment, json!({})), &[]), runs, "it was made just now");
        let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
        assert_eq!(found(&made(minute, suspended), &[]), runs, "somebody else's queue holds it");
    }

    #[test]
    fn what_keeps_a_pod_from_running_is_told() {
        let stuck = json!({"containerStatuses": [{"name": "mover", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]});
        let Found::Running { trouble, .. } = found(&job(None), &[pod("Pending", stuck)]) else { panic!("not running") };
        assert_eq!(trouble.as_deref(), Some("ImagePullBackOff: no such image"));
        let unscheduled =
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no claim sand"}]});
        let Found::Running { trouble, .. } = found(&job(None), &[pod("Pending", unscheduled)]) else {
            panic!("not running")
        };
        assert_eq!(trouble.as_deref(), Some("no claim sand"));
    }
}
