//! `KubernetesJob`: an image, a command and an environment. The security context is fixed, there is no service-account
//! token and no volume, so a workflow cannot reach more than whoever may create it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Capabilities, Container, EnvVar, Pod, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
            SeccompProfile, SecurityContext,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions, PropagationPolicy},
};
use sha2::{Digest, Sha256};

use super::{
    super::{
        manager::{FinishCall, StepCall, StepOutcome},
        saga::plan::{hex, timeout},
    },
    leftovers::{self, LOST_NODE},
};
use crate::{
    adapter::{
        Adapters,
        caches::{CLUSTER_LABEL, MANAGED_BY, MANAGER, OPERATION_LABEL, OPERATION_NAME},
        kubernetes::{
            client::{RequestError, timed},
            owner::{controller_of, is_controlled_by},
            shorten::operation_label,
        },
    },
    api::operation::{OpenBaoOperation, Receipt},
};

/// Beside the owner reference the proof that a Job belongs to this very operation.
pub(super) const UID_ANNOTATION: &str = "openbao.org/operation-uid";
/// The user that a workflow's container runs as: nobody's.
const USER: i64 = 65_532;

/// What a step says about its Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobConfig {
    image: String,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// Reads `image`, `command` (words, or a JSON list of strings) and `env.NAME`.
pub(super) fn config(config: &BTreeMap<String, String>) -> Result<JobConfig, String> {
    let required = |key: &str| {
        config
            .get(key)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
            .ok_or(format!("config.{key} is missing"))
    };
    let command = required("command")?;
    let command = if command.starts_with('[') {
        serde_json::from_str(command)
            .map_err(|_| "config.command must be words, or a JSON list of strings".to_owned())?
    } else {
        command.split_whitespace().map(str::to_owned).collect()
    };
    let environment =
        config.iter().filter_map(|(key, value)| Some((key.strip_prefix("env.")?.to_owned(), value.clone()))).collect();
    Ok(JobConfig { image: required("image")?.to_owned(), command, environment })
}

/// The name of the Job of one attempt. Deterministic, so that a step which is called again finds what it made.
fn name(op: &OpenBaoOperation, step: &str, attempt: i32) -> String {
    let lower = step.to_lowercase();
    // Steps whose names differ only in case are told apart by the digest of the names as they are written.
    let steps = op.status.iter().flat_map(|status| &status.steps);
    let alone = steps.filter(|other| other.name.to_lowercase() == lower).count() <= 1;
    let full = format!("{}-{}-{attempt}", op.name_any(), if alone { lower.as_str() } else { step });
    let fits = full.len() <= 63 && full.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits && alone {
        return full;
    }
    let start: String = op.name_any().chars().take(40).collect();
    format!("{}-{}", start.trim_end_matches(['-', '.']).replace('.', "-"), &hex(&Sha256::digest(full))[..16])
}

/// The Job of one attempt. `None` while the operation has no UID, which it always has.
fn build(op: &OpenBaoOperation, name: &str, config: &JobConfig, seconds: i64) -> Option<Job> {
    let labels = BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "openbao".to_owned()),
        ("app.kubernetes.io/instance".to_owned(), op.spec.cluster.clone()),
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (CLUSTER_LABEL.to_owned(), op.spec.cluster.clone()),
        (OPERATION_LABEL.to_owned(), operation_label(&op.name_any())),
    ]);
    let annotations =
        BTreeMap::from([(UID_ANNOTATION.to_owned(), op.uid()?), (OPERATION_NAME.to_owned(), op.name_any())]);
    let container = Container {
        name: "step".into(),
        image: Some(config.image.clone()),
        command: Some(config.command.clone()),
        env: Some(
            config
                .environment
                .iter()
                .map(|(name, value)| EnvVar { name: name.clone(), value: Some(value.clone()), ..EnvVar::default() })
                .collect(),
        ),
        resources: Some(ResourceRequirements {
            limits: Some(BTreeMap::from([("memory".to_owned(), Quantity("256Mi".into()))])),
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), Quantity("10m".into())),
                ("memory".to_owned(), Quantity("32Mi".into())),
            ])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        ..Container::default()
    };
    let pod = PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        containers: vec![container],
        restart_policy: Some("Never".into()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    };
    Some(Job {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: op.namespace(),
            labels: Some(labels.clone()),
            annotations: Some(annotations.clone()),
            owner_references: Some(vec![controller_of(op)?]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: Some(seconds),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

/// What a Job comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Foreign,
    Running,
    Complete,
    Failed(String),
}

/// Whether a pod is, or may be, at work.
pub(super) fn runs(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// A Job is judged only with proof that it is ours; it has ended when a condition says so and none of its pods runs.
pub(super) fn judge(job: &Job, pods: &[Pod], operation_uid: &str) -> State {
    let proven = job.annotations().get(UID_ANNOTATION).is_some_and(|uid| uid == operation_uid);
    if !proven || !is_controlled_by(job, operation_uid) {
        return State::Foreign;
    }
    let uid = job.uid().unwrap_or_default();
    let runs = pods.iter().filter(|pod| is_controlled_by(*pod, &uid)).any(runs);
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ended = conditions.filter(|condition| condition.status == "True").find_map(|condition| {
        match condition.type_.as_str() {
            "Complete" => Some(State::Complete),
            "Failed" => Some(State::Failed(condition.message.clone().unwrap_or_default())),
            _ => None,
        }
    });
    match ended {
        Some(ended) if !runs => ended,
        _ => State::Running,
    }
}

async fn look(ad: &Adapters, op: &OpenBaoOperation, name: &str) -> Result<Option<State>, RequestError> {
    let namespace = op.namespace().unwrap_or_default();
    let jobs: Api<Job> = Api::namespaced(ad.client.clone(), &namespace);
    let Some(job) = timed(jobs.get_opt(name)).await? else { return Ok(None) };
    let pods: Api<Pod> = Api::namespaced(ad.client.clone(), &namespace);
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    let pods = timed(pods.list(&selector)).await?.items;
    Ok(Some(judge(&job, &pods, &op.uid().unwrap_or_default())))
}

fn outcome(name: &str, state: State) -> StepOutcome {
    match state {
        State::Foreign => StepOutcome::fatal(
            "ForeignJob",
            format!("Job {name} exists and belongs to somebody else: delete or rename it"),
        ),
        State::Running => StepOutcome::in_progress(format!("Job {name} is running")),
        State::Complete => StepOutcome::done_with([("job", name)]),
        State::Failed(why) => StepOutcome::retryable("JobFailed", format!("Job {name} failed: {why}")),
    }
}

/// Creates the attempt's Job if it is not there, and says what becomes of it.
pub(super) async fn run(call: StepCall<'_>) -> StepOutcome {
    let config = match config(&call.step.config) {
        Ok(config) => config,
        Err(problem) => return StepOutcome::fatal("InvalidPlan", problem),
    };
    let name = name(call.op, &call.step.name, call.state.attempt);
    match look(call.ad, call.op, &name).await {
        // What must happen once is called this one time, so nobody has made its Job.
        Err(error) => {
            let why = format!("Job {name}: {error}; trying again");
            return leftovers::not_begun(call.receipt(), "NotBegun", &why);
        }
        Ok(Some(state)) => return outcome(&name, state),
        Ok(None) => {}
    }
    if let Some(waiting) = leftovers::make_way(&call, Some(&name)).await {
        return waiting;
    }
    let seconds = i64::try_from(timeout(call.step).as_secs()).unwrap_or(i64::MAX);
    let Some(job) = build(call.op, &name, &config, seconds) else {
        return StepOutcome::fatal("NoUID", "the operation has no UID");
    };
    // What went before may have taken long, and another operator may have told a person meanwhile that this Job is not there.
    if !call.ad.leadership.still_leader() {
        let why = format!("another operator leads now, so Job {name} was not made here");
        return leftovers::not_begun(call.receipt(), "NotLeader", &why);
    }
    let jobs: Api<Job> = Api::namespaced(call.ad.client.clone(), &call.op.namespace().unwrap_or_default());
    match timed(jobs.create(&PostParams::default(), &job)).await {
        Ok(_) => StepOutcome::in_progress(format!("Job {name} was created")),
        Err(error) => not_made(&name, &error, call.receipt()),
    }
}

/// What follows from an attempt to make a Job that came to no good answer. What must happen once is not called again to make it:
/// a refusal ends its attempt, and another one may follow. Only where the Job may have been made all the same is it looked for.
fn not_made(name: &str, error: &RequestError, receipt: Option<&Receipt>) -> StepOutcome {
    if error.is_already_exists() {
        StepOutcome::in_progress(format!("Job {name} was created"))
    } else if error.is_invalid() {
        StepOutcome::fatal("InvalidJob", format!("the API server refuses Job {name}: {error}"))
    } else if error.is_refusal() {
        let why = format!("the API server refuses Job {name}, so it was not made: {error}; trying again");
        leftovers::not_begun(receipt, "JobRefused", &why)
    } else {
        StepOutcome::in_progress(format!("Job {name}: {error}; trying again"))
    }
}

/// What became of the Job of a `OnceOnly` step.
pub(super) async fn prove(call: StepCall<'_>) -> StepOutcome {
    let name = name(call.op, &call.step.name, call.state.attempt);
    match look(call.ad, call.op, &name).await {
        Err(error) => StepOutcome::in_progress(format!("Job {name}: {error}; trying again")),
        Ok(state) => proven(&name, state),
    }
}

/// A Job that is not there proves nothing. Nothing is written between the receipt and the Job that would tell one that was
/// never made from one that ran and was deleted; nor would making it again, for its name is free as soon as it is gone. So a
/// driver that dies in just that moment leaves an outcome that a person has to look into, and nothing ever runs twice. Nor does
/// somebody else's under its name prove anything: the name was free again.
fn proven(name: &str, state: Option<State>) -> StepOutcome {
    match state {
        None => StepOutcome::Unknown {
            message: format!(
                "Job {name} is not there: it was deleted, or the operator died before it was made. Look whether its work is \
                 done; then say Abandon, and ask for what is left by another operation"
            ),
        },
        Some(State::Foreign) => StepOutcome::Unknown {
            message: format!(
                "Job {name} belongs to somebody else: the one of this step was deleted, or was never made. Look whether its work \
                 is done; then say Abandon, and ask for what is left by another operation"
            ),
        },
        Some(State::Failed(why)) => {
            StepOutcome::Unknown { message: format!("Job {name} failed, and how far it came is not known: {why}") }
        }
        Some(state @ (State::Running | State::Complete)) => outcome(name, state),
    }
}

/// Deletes the operation's Jobs and waits until they are gone and no pod of theirs runs.
pub(super) async fn clean_up(call: FinishCall<'_>) -> StepOutcome {
    match remove(call.ad, call.op).await {
        Ok(left) if left.is_empty() => StepOutcome::done(),
        Ok(left) => StepOutcome::in_progress(format!("waiting for {} to go. {LOST_NODE}", left.join(", "))),
        Err(error) => StepOutcome::in_progress(format!("the Jobs could not be deleted: {error}; trying again")),
    }
}

/// Which Jobs and pods are an operation's, by label.
pub(super) fn of_operation(op: &OpenBaoOperation) -> ListParams {
    ListParams::default().labels(&format!("{OPERATION_LABEL}={}", operation_label(&op.name_any())))
}

/// Deletes this very Job, which stays until its pods are gone.
pub(super) async fn delete(jobs: &Api<Job>, name: &str, uid: Option<String>) -> Result<(), RequestError> {
    let only_this = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        preconditions: Some(Preconditions { uid, resource_version: None }),
        ..DeleteParams::default()
    };
    gone(timed(jobs.delete(name, &only_this)).await)
}

/// Whether the object that was meant is on its way, or is not there any more.
fn gone<T>(answer: Result<T, RequestError>) -> Result<(), RequestError> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes what an operation has left, and names what is still there.
async fn remove(ad: &Adapters, op: &OpenBaoOperation) -> Result<Vec<String>, RequestError> {
    let namespace = op.namespace().unwrap_or_default();
    let uid = op.uid().unwrap_or_default();
    let selector = of_operation(op);
    let jobs: Api<Job> = Api::namespaced(ad.client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(ad.client.clone(), &namespace);
    let (made, running) = (timed(jobs.list_metadata(&selector)).await?.items, timed(pods.list(&selector)).await?.items);
    let left = leftovers::remains(&made, &running, &uid);
    for job in &left.jobs {
        if job.metadata.deletion_timestamp.is_none() {
            delete(&jobs, &job.name_any(), job.uid()).await?;
        }
    }
    for pod in &left.jobless {
        if pod.metadata.deletion_timestamp.is_none() {
            let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
            let only_this = DeleteParams { preconditions, ..DeleteParams::default() };
            gone(timed(pods.delete(&pod.name_any(), &only_this)).await)?;
        }
    }
    Ok(left.waits_for)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{
        batch::v1::{JobCondition, JobStatus},
        core::v1::PodStatus,
    };

    use super::*;
    use crate::api::operation::{OpenBaoOperationSpec, OpenBaoOperationStatus, StepStatus};

    fn operation(name: &str) -> OpenBaoOperation {
        let spec = OpenBaoOperationSpec { cluster: "prod".into(), ..OpenBaoOperationSpec::default() };
        let mut op = OpenBaoOperation::new(name, spec);
        op.metadata.uid = Some("op-uid".into());
        op.metadata.namespace = Some("ns".into());
        op
    }

    fn job() -> Job {
        let config = JobConfig { image: "i".into(), command: vec!["true".into()], environment: BTreeMap::new() };
        let mut job = build(&operation("flow"), "flow-a-1", &config, 60).unwrap();
        job.metadata.uid = Some("job-uid".into());
        job
    }

    fn ended(type_: &str) -> Job {
        let condition = JobCondition { type_: type_.into(), status: "True".into(), ..JobCondition::default() };
        let status = JobStatus { conditions: Some(vec![condition]), failed: Some(1), ..JobStatus::default() };
        Job { status: Some(status), ..job() }
    }

    fn pod(phase: &str) -> Pod {
        let mut pod =
            Pod { status: Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() }), ..Pod::default() };
        pod.metadata.owner_references = Some(vec![kube::Resource::controller_owner_ref(&job(), &()).unwrap()]);
        pod
    }

    #[test]
    fn a_job_has_neither_token_nor_volume_nor_privilege() {
        let spec = job().spec.unwrap().template.spec.unwrap();
        assert_eq!(spec.automount_service_account_token, Some(false));
        assert!(spec.volumes.is_none() && spec.service_account_name.is_none() && spec.host_network.is_none());
        let context = spec.containers[0].security_context.clone().unwrap();
        assert_eq!((context.privileged, context.allow_privilege_escalation), (Some(false), Some(false)));
        assert_eq!(spec.security_context.unwrap().run_as_non_root, Some(true));
    }

    #[test]
    fn only_a_condition_and_no_running_pod_end_a_job() {
        assert_eq!(judge(&job(), &[], "op-uid"), State::Running);
        assert_eq!(judge(&ended("Complete"), &[pod("Running")], "op-uid"), State::Running);
        assert_eq!(judge(&ended("Complete"), &[pod("Succeeded")], "op-uid"), State::Complete);
        assert!(matches!(judge(&ended("Failed"), &[pod("Failed")], "op-uid"), State::Failed(_)));
        assert_eq!(judge(&ended("FailureTarget"), &[], "op-uid"), State::Running);
    }

    #[test]
    fn a_job_of_somebody_else_is_not_read() {
        assert_eq!(judge(&ended("Complete"), &[], "another-uid"), State::Foreign);
        let mut unannotated = ended("Complete");
        unannotated.metadata.annotations = None;
        assert_eq!(judge(&unannotated, &[], "op-uid"), State::Foreign);
    }

    #[test]
    fn a_job_of_a_step_that_happens_once_and_is_not_there_may_have_run() {
        let gone = proven("flow-a-1", None);
        assert!(matches!(&gone, StepOutcome::Unknown { message } if message.contains("flow-a-1")), "{gone:?}");
        assert!(matches!(proven("j", Some(State::Failed(String::new()))), StepOutcome::Unknown { .. }));
        assert!(matches!(proven("j", Some(State::Foreign)), StepOutcome::Unknown { .. }), "its name was free again");
        assert!(matches!(proven("j", Some(State::Running)), StepOutcome::Waiting { .. }));
        assert_eq!(proven("j", Some(State::Complete)), StepOutcome::done_with([("job", "j")]));
    }

    #[test]
    fn what_was_refused_or_not_even_asked_for_is_tried_again_and_not_unknown() {
        let answer = |code: u16, reason: &str| {
            let status = kube::core::Status::failure("no", reason).with_code(code);
            RequestError::from(kube::Error::Api(Box::new(status)))
        };
        let once = Receipt::default();
        for (code, reason) in [
            (400, "BadRequest"),
            (403, "Forbidden"),
            (404, "NotFound"),
            (409, "Conflict"),
            (413, "RequestEntityTooLarge"),
            (429, "TooManyRequests"),
        ] {
            let error = answer(code, reason);
            let outcome = not_made("j", &error, Some(&once));
            assert!(matches!(outcome, StepOutcome::Failed { retryable: true, .. }), "{code}: {outcome:?}");
            assert!(matches!(not_made("j", &error, None), StepOutcome::Waiting { .. }), "{code}: it is called again");
        }
        let invalid = not_made("j", &answer(422, "Invalid"), Some(&once));
        assert!(matches!(invalid, StepOutcome::Failed { retryable: false, .. }), "{invalid:?}");
        for unclear in [answer(409, "AlreadyExists"), answer(500, "InternalError"), RequestError::TimedOut] {
            let outcome = not_made("j", &unclear, Some(&once));
            assert!(matches!(outcome, StepOutcome::Waiting { .. }), "it may be there, and is looked for: {outcome:?}");
        }
    }

    #[test]
    fn names_fit_and_differ_by_attempt_and_step() {
        assert_eq!(name(&operation("flow"), "Check", 1), "flow-check-1");
        let with_steps = |op: &str| {
            let mut op = operation(op);
            let steps = ["a", "A", "b"].map(|name| StepStatus { name: name.into(), ..StepStatus::default() });
            op.status = Some(OpenBaoOperationStatus { steps: steps.into(), ..OpenBaoOperationStatus::default() });
            op
        };
        let (long, flow) = (with_steps(&"x".repeat(63)), with_steps("flow"));
        assert_eq!(name(&flow, "b", 1), "flow-b-1", "nobody else is called so");
        let names = [
            name(&long, "a", 1),
            name(&long, "A", 1),
            name(&long, "a", 2),
            name(&long, "b", 1),
            name(&operation("a.b"), "a", 1),
            name(&flow, "a", 1),
            name(&flow, "A", 1),
        ];
        for (index, one) in names.iter().enumerate() {
            assert!(one.len() <= 63 && !one.contains('.'), "{one}");
            assert!(!names[..index].contains(one));
        }
    }
}
