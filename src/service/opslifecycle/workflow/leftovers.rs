//! What an earlier attempt, or a step that was given up, has still at work. It goes before the next step acts.
//!
//! Kubernetes ends a Job by its own clock, later than the engine ends its step, and its pod has some seconds more; a pod on a
//! lost node has none that count. Two attempts must not work on one thing meanwhile, nor a step on what is being undone under it.

use std::time::Duration;

use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Api, ResourceExt};
use tokio::time::{Instant, sleep};

use super::{
    super::manager::{StepCall, StepOutcome},
    KUBERNETES_JOB,
    job::{State, UID_ANNOTATION, delete, judge, of_operation, runs},
};
use crate::{
    adapter::kubernetes::{
        client::{RequestError, timed},
        owner::is_controlled_by,
    },
    api::operation::{OpenBaoOperation, Receipt, StepState},
};

/// How long a step that must happen once waits within its one call, which most pods that were told to go do not outlast. Its receipt
/// stands meanwhile: an operator that ends then leaves an outcome that only a person can tell. The step's other attempts wait on.
const PATIENCE: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_secs(1);
/// What a person can do about a pod that does not stop.
pub(super) const LOST_NODE: &str = "If a pod's node is gone for good, kubectl delete pod --force";

/// Whether the journal knows of a Job that nobody has seen end: of an earlier attempt of `step`, or of another step that was
/// stopped, given up or left out.
fn may_be_left(op: &OpenBaoOperation, step: &str) -> bool {
    let Some(status) = &op.status else { return false };
    let planned = status.plan.iter().flat_map(|plan| &plan.steps);
    planned.zip(&status.steps).filter(|(planned, _)| planned.action == KUBERNETES_JOB).any(|(_, journal)| {
        if journal.name == *step {
            return journal.attempt > 1;
        }
        // What is undone, or was, had been completed before.
        let unseen =
            matches!(journal.state, StepState::Pending | StepState::Running | StepState::Failed | StepState::Skipped);
        journal.attempt > 0 && unseen
    })
}

/// Jobs that have not ended, and pods that run.
#[derive(Debug)]
struct AtWork<'a> {
    jobs: Vec<&'a Job>,
    pods: Vec<&'a Pod>,
}

/// What of an operation is at work beside the Job `own`. A Job that has ended may stay, for its log.
fn at_work<'a>(jobs: &'a [Job], pods: &'a [Pod], own: Option<&str>, operation_uid: &str) -> AtWork<'a> {
    let is_own = |owner: &OwnerReference| owner.kind == "Job" && Some(owner.name.as_str()) == own;
    let others = |job: &&Job| job.metadata.name.as_deref() != own;
    let is_ours = |pod: &&Pod| pod.annotations().get(UID_ANNOTATION).is_some_and(|uid| uid == operation_uid);
    AtWork {
        jobs: jobs.iter().filter(others).filter(|job| judge(job, pods, operation_uid) == State::Running).collect(),
        pods: pods
            .iter()
            .filter(is_ours)
            .filter(|pod| runs(pod) && !pod.owner_references().iter().any(is_own))
            .collect(),
    }
}

/// Stops what is left and waits until it is gone. `None`: nothing is in the way. `own` is the Job of this very attempt.
pub(super) async fn make_way(call: &StepCall<'_>, own: Option<&str>) -> Option<StepOutcome> {
    if !may_be_left(call.op, &call.step.name) {
        return None;
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let why = match stop(call, own).await {
            Ok(left) if left.is_empty() => return None,
            Ok(left) => format!(
                "waiting for what an earlier attempt or another step has at work to stop: {}. {LOST_NODE}",
                left.join(", ")
            ),
            Err(error) => format!("what earlier attempts left cannot be stopped, trying again: {error}"),
        };
        // What must happen once is not called again to act.
        if call.receipt().is_none() || Instant::now() >= until {
            return Some(not_begun(call.receipt(), "EarlierJobRuns", &why));
        }
        sleep(GLANCE).await;
    }
}

/// Nothing was begun. What must happen once is not called again to act, so its attempt is over, and another one may follow.
pub(super) fn not_begun(receipt: Option<&Receipt>, reason: &'static str, why: &str) -> StepOutcome {
    match receipt {
        None => StepOutcome::in_progress(why),
        Some(_) => StepOutcome::retryable(reason, format!("nothing was begun: {why}")),
    }
}

/// Deletes the Jobs that are at work, and names what is left.
async fn stop(call: &StepCall<'_>, own: Option<&str>) -> Result<Vec<String>, RequestError> {
    let namespace = call.op.namespace().unwrap_or_default();
    let selector = of_operation(call.op);
    let jobs: Api<Job> = Api::namespaced(call.ad.client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(call.ad.client.clone(), &namespace);
    let (found, running) = (timed(jobs.list(&selector)).await?.items, timed(pods.list(&selector)).await?.items);
    let left = at_work(&found, &running, own, &call.op.uid().unwrap_or_default());
    for job in &left.jobs {
        if job.metadata.deletion_timestamp.is_none() {
            delete(&jobs, &job.name_any(), job.uid()).await?;
        }
    }
    let jobs = left.jobs.iter().map(|job| format!("Job {}", job.name_any()));
    Ok(jobs.chain(left.pods.iter().map(|pod| format!("pod {}", pod.name_any()))).collect())
}

/// What an operation that ends has left.
#[derive(Debug)]
pub(super) struct Remains<'a, J> {
    /// Its Jobs. Their pods go with them.
    pub(super) jobs: Vec<&'a J>,
    /// Pods that go with no Job: it was deleted without them (`--cascade=orphan`), and nobody else sees to them.
    pub(super) jobless: Vec<&'a Pod>,
    /// By name. A pod that has ended does nothing any more.
    pub(super) waits_for: Vec<String>,
}

pub(super) fn remains<'a, J: ResourceExt>(jobs: &'a [J], pods: &'a [Pod], operation_uid: &str) -> Remains<'a, J> {
    let annotated = |found: Option<&String>| found.is_some_and(|uid| uid == operation_uid);
    let is_ours = |job: &&J| annotated(job.annotations().get(UID_ANNOTATION)) && is_controlled_by(*job, operation_uid);
    let jobs: Vec<&J> = jobs.iter().filter(is_ours).collect();
    let pods: Vec<&Pod> = pods.iter().filter(|pod| annotated(pod.annotations().get(UID_ANNOTATION))).collect();
    let has_job = |pod: &Pod| jobs.iter().filter_map(|job| job.uid()).any(|uid| is_controlled_by(pod, &uid));
    let running = pods.iter().filter(|pod| runs(pod)).map(|pod| format!("pod {}", pod.name_any()));
    let waits_for = jobs.iter().map(|job| format!("Job {}", job.name_any())).chain(running).collect();
    let jobless = pods.iter().copied().filter(|pod| !has_job(pod)).collect();
    Remains { jobs, jobless, waits_for }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::operation::{OpenBaoOperationSpec, OpenBaoOperationStatus, Plan, StepSpec, StepStatus};
    use crate::service::opslifecycle::saga::plan::{max_attempts, retry_delay};

    const UID: &str = "op-uid";

    fn job(name: &str, operation: &str, condition: Option<&str>) -> Job {
        let conditions: Vec<Value> =
            condition.map(|type_| json!({"type": type_, "status": "True"})).into_iter().collect();
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "uid": format!("uid-{name}"), "annotations": {UID_ANNOTATION: operation},
                "ownerReferences": [{"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "name": "flow",
                    "uid": operation, "controller": true}],
            },
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn pod(job: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("{job}-x"), "annotations": {UID_ANNOTATION: UID},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": format!("uid-{job}"),
                    "controller": true}],
            },
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn named(work: &AtWork<'_>) -> Vec<String> {
        work.jobs.iter().map(|job| job.name_any()).chain(work.pods.iter().map(|pod| pod.name_any())).collect()
    }

    #[test]
    fn another_attempt_or_an_undo_waits_until_the_earlier_job_is_gone() {
        let jobs = [
            job("flow-dump-1", UID, Some("Complete")),
            job("flow-migrate-1", UID, None),
            job("flow-migrate-2", UID, None),
            job("other", "another-uid", None),
        ];
        let pods =
            [pod("flow-dump-1", "Succeeded"), pod("flow-migrate-1", "Running"), pod("flow-migrate-2", "Pending")];
        let left = |own| named(&at_work(&jobs, &pods, own, UID));
        assert_eq!(left(Some("flow-migrate-2")), ["flow-migrate-1", "flow-migrate-1-x"], "not itself");
        let all = ["flow-migrate-1", "flow-migrate-2", "flow-migrate-1-x", "flow-migrate-2-x"];
        assert_eq!(left(Some("flow-undump-1")), all, "neither has ended, and the undo is about what they work on");
        // Its time is over by Kubernetes' own clock, and its pod does not mind.
        let late = [job("flow-migrate-1", UID, Some("Failed"))];
        assert_eq!(named(&at_work(&late, &pods[1..2], None, UID)), ["flow-migrate-1", "flow-migrate-1-x"]);
        // Its object was deleted by force, and its pod lies on a lost node.
        assert_eq!(named(&at_work(&[], &pods[1..2], None, UID)), ["flow-migrate-1-x"]);
        let ended = [job("flow-migrate-1", UID, Some("Failed"))];
        assert_eq!(named(&at_work(&ended, &[pod("flow-migrate-1", "Failed")], None, UID)), [""; 0], "its log may stay");
    }

    #[test]
    fn an_operation_that_ends_waits_for_what_runs_and_takes_along_what_nobody_else_deletes() {
        let jobs = [job("flow-dump-1", UID, Some("Complete")), job("other", "another-uid", None)];
        let orphan = |name: &str, phase: &str| {
            let mut pod = pod(name, phase);
            pod.metadata.owner_references = None;
            pod
        };
        let mut foreign = pod("other", "Running");
        foreign.metadata.annotations = None;
        let pods = [
            pod("flow-dump-1", "Succeeded"),
            orphan("flow-migrate-1", "Succeeded"),
            orphan("flow-migrate-2", "Running"),
            pod("flow-gone-1", "Running"),
            foreign,
        ];
        let left = remains(&jobs, &pods, UID);
        assert_eq!(left.waits_for, ["Job flow-dump-1", "pod flow-migrate-2-x", "pod flow-gone-1-x"]);
        let jobless: Vec<String> = left.jobless.iter().map(|pod| pod.name_any()).collect();
        assert_eq!(jobless, ["flow-migrate-1-x", "flow-migrate-2-x", "flow-gone-1-x"]);
        let ended = remains::<Job>(&[], &pods[1..2], UID);
        assert_eq!(ended.waits_for, [""; 0], "nothing of it runs");
    }

    #[test]
    fn a_step_that_must_happen_once_gives_up_its_attempt_where_any_other_waits() {
        let once = not_begun(Some(&Receipt::default()), "NotLeader", "another operator leads now");
        let StepOutcome::Failed { reason, message, retryable } = once else { panic!("{once:?}") };
        assert_eq!(
            (reason, message.as_str(), retryable),
            ("NotLeader", "nothing was begun: another operator leads now", true)
        );
        assert!(matches!(not_begun(None, "NotLeader", "another operator leads now"), StepOutcome::Waiting { .. }));
    }

    #[test]
    fn the_attempts_of_a_step_outlast_a_pod_that_does_not_mind_being_told_to_go_and_none_waits_long() {
        let attempts = max_attempts(None);
        let between: Duration = (1..attempts).map(|retries| retry_delay(None, retries)).sum();
        assert!(
            PATIENCE * u32::try_from(attempts).unwrap() + between > Duration::from_secs(35),
            "Kubernetes gives it 30"
        );
        assert!(PATIENCE <= Duration::from_secs(10), "its receipt stands, and there is no Job yet");
    }

    #[test]
    fn nobody_looks_for_jobs_where_the_journal_has_seen_them_all_end() {
        let journal = |states: [(StepState, i32); 2]| {
            let mut op = OpenBaoOperation::new("flow", OpenBaoOperationSpec::default());
            let mut status = OpenBaoOperationStatus::default();
            let mut plan = Plan::default();
            for ((name, action), (state, attempt)) in
                [("dump", KUBERNETES_JOB), ("migrate", KUBERNETES_JOB)].into_iter().zip(states)
            {
                plan.steps.push(StepSpec { name: name.into(), action: action.into(), ..StepSpec::default() });
                status.steps.push(StepStatus { name: name.into(), state, attempt, ..StepStatus::default() });
            }
            plan.steps.push(StepSpec { name: "mark".into(), action: "Annotate".into(), ..StepSpec::default() });
            status.steps.push(StepStatus { name: "mark".into(), attempt: 3, ..StepStatus::default() });
            status.plan = Some(plan);
            op.status = Some(status);
            op
        };
        use StepState::{Compensated, Completed, Failed, Pending, Running, Skipped};
        for (states, step, left) in [
            ([(Completed, 1), (Running, 1)], "migrate", false),
            ([(Completed, 3), (Running, 1)], "migrate", false),
            ([(Completed, 1), (Running, 2)], "migrate", true),
            ([(Completed, 1), (Pending, 0)], "mark", false),
            ([(Completed, 1), (Pending, 1)], "mark", true),
            ([(Completed, 1), (Skipped, 0)], "mark", false),
            ([(Completed, 1), (Skipped, 1)], "mark", true),
            ([(Compensated, 1), (Failed, 1)], "mark", true),
            ([(Compensated, 1), (Completed, 1)], "mark", false),
        ] {
            assert_eq!(may_be_left(&journal(states), step), left, "{states:?} {step}");
        }
    }
}
