//! What the newest Job of a restore does, and whether its pod stands ready to submit. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;

use super::super::decide::judge::bytes;
use super::Exchange;
use crate::adapter::kubernetes::{pods::unscheduled, time::from_kube};
use crate::datapath::protocol::{self, Failure, JobResult, Progress, Report, RestoreDone, Stage};

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
    /// Its pod was told to go and may still act. On a node that is gone it stays for as long as Kubernetes knows the node.
    Leaving {
        pod_uid: String,
        why: String,
    },
    /// No pod of it runs any more, or ever will.
    Ended {
        failure: Option<Failure>,
        why: String,
    },
}

/// What is left of movers that were told to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Whose end is waited for, and what helps if it never comes.
    pub what: String,
    /// It should have been gone a while ago: whoever runs its node does not answer.
    pub overdue: bool,
}

/// How long past its time a pod may be before it counts as [`Left::overdue`].
const LATE: TimeDelta = TimeDelta::minutes(1);

/// Whether a mover stands ready to submit.
#[derive(Clone, Debug)]
pub enum Readiness {
    /// It waits for a permit, with a verified snapshot.
    Ready { pod_uid: String, report: Box<Report> },
    /// It is on its way; the sentence says where.
    Working(String),
    /// It has reported something else than a verified snapshot.
    Reported(Box<Report>),
    /// It ended, or was told to go, without a report that counts.
    Ended { failure: Option<Failure>, why: String },
    /// There is none.
    Absent,
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
        State::Leaving { why, .. } => ended(report, None, why),
        State::Ended { failure, why } => ended(report, failure.as_ref(), why),
    }
}

fn ended(report: Option<&Report>, failure: Option<&Failure>, why: &str) -> Readiness {
    match report {
        // What a mover reported before it ended is still true of the source, unless it was about to submit.
        Some(report) if report.kind != protocol::ReportKind::Verified => Readiness::Reported(Box::new(report.clone())),
        _ => Readiness::Ended { failure: failure.cloned(), why: why.to_owned() },
    }
}

fn progress_text(progress: Option<&Progress>) -> String {
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

pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Terminal means the Job's own condition and no pod that could still act; never a counter.
pub(super) fn state(job: &Job, pods: &[&Pod]) -> State {
    let deleting = job.metadata.deletion_timestamp.is_some();
    if let Some(pod) = pods.iter().find(|pod| !has_ended(pod)) {
        let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let leaving = deleting || pod.metadata.deletion_timestamp.is_some();
        return match (leaving, running, pod.uid()) {
            (true, _, Some(pod_uid)) => State::Leaving { pod_uid, why: format!("{} was told to go", whereabouts(pod)) },
            (false, true, Some(pod_uid)) => State::Running { pod_uid },
            (_, _, None) | (false, false, _) => State::Starting(waiting_for(pod)),
        };
    }
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let over = conditions.filter(|condition| condition.status == "True").find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed" | "SuccessCriteriaMet" | "FailureTarget")
    });
    if over.is_none() && !deleting && pods.is_empty() {
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
    State::Ended { failure, why }
}

/// What is left of these Jobs and their pods, all of which were told to go. A pod that has ended does nothing any more;
/// Kubernetes collects it.
pub(super) fn left(jobs: &[Job], pods: &[Pod], now: DateTime<Utc>) -> Option<Left> {
    let live: Vec<&Pod> = pods.iter().filter(|pod| !has_ended(pod)).collect();
    let late = |pod: &&Pod| {
        let until = pod.metadata.deletion_timestamp.as_ref().map(from_kube);
        until.is_some_and(|until| now - until > LATE)
    };
    match (live.first(), jobs.first()) {
        (Some(pod), _) => Some(Left { what: format!("{} to end", whereabouts(pod)), overdue: live.iter().all(late) }),
        (None, Some(job)) => {
            Some(Left { what: format!("the mover's Job {} to be deleted", job.name_any()), overdue: false })
        }
        (None, None) => None,
    }
}

/// The pod, its node, and what a person does when that is gone.
fn whereabouts(pod: &Pod) -> String {
    let name = pod.name_any();
    let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) else {
        return format!("the mover's pod {name}");
    };
    format!(
        "the mover's pod {name} on node {node} (if that node is gone for good: kubectl --namespace {} delete pod {name} --force)",
        pod.namespace().unwrap_or_default()
    )
}

/// Why the mover's pod does not run yet, in Kubernetes' own words.
fn waiting_for(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let containers = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref()).find_map(|waiting| {
        let reason = waiting.reason.clone().filter(|reason| reason != "ContainerCreating")?;
        Some(format!("{reason}: {}", waiting.message.clone().unwrap_or_default()))
    });
    let unscheduled = || unscheduled(pod).map(str::to_owned);
    let why = waiting.or_else(unscheduled).unwrap_or_else(|| "it is being started".to_owned());
    format!("the mover's pod {} ({why})", pod.name_any())
}
