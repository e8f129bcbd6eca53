//! Whether the target's image is there and runs, found out before the cluster is touched.
//!
//! A Job that only prints its version is placed like a server and pulls the image like one. Without it the first standby
//! would be the one to find out, and the cluster would stand without its spare member until somebody turns it back.

use super::{
    steps::Turn,
    trouble::{end_of, trouble},
};
use crate::{
    adapter::kubernetes::pods::unscheduled,
    api::UpgradeDirective,
    service::{
        backup::jobs::{self, Operation},
        cluster::build::statefulset::CONTAINER,
    },
};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{Affinity, Container, Pod, PodSpec, PodTemplateSpec, ResourceRequirements},
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::ResourceExt;
use std::sync::Arc;

/// What the Job is called after its operation, and its component label.
pub const WORD: &str = "image";

/// How long a registry and a scheduler may take. Less than the step's own deadline, so that the Job never outlives it.
const LIMIT_SECONDS: i64 = 9 * 60;
/// A Job that nobody removed goes by itself.
const KEPT_SECONDS: i32 = 600;
/// Why Kubernetes makes no pod for a Job; which it is stands in an event only.
const NO_POD: &str = "a quota, a limit range, an admission webhook or a missing service account may be why";

/// The Job, placed where `servers` (the pod spec of the cluster's own template) would be, and under their account: the registry
/// or the API server may let in nobody else. It gets no token of that account. Of the affinity only that to nodes is asked for:
/// it need not stand apart from anybody.
pub fn job(operation: &Operation, name: &str, goal: &UpgradeDirective, servers: &PodSpec) -> Job {
    let server = servers.containers.iter().find(|container| container.name == CONTAINER);
    let quantities = |pairs: [(&str, &str); 2]| {
        Some(pairs.map(|(name, value)| (name.to_owned(), Quantity(value.to_owned()))).into_iter().collect())
    };
    let nodes = servers.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let metadata = jobs::metadata(operation, name, WORD);
    Job {
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: Some(LIMIT_SECONDS),
            ttl_seconds_after_finished: Some(KEPT_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: metadata.labels.clone(),
                    annotations: metadata.annotations.clone(),
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    service_account_name: servers.service_account_name.clone(),
                    automount_service_account_token: Some(false),
                    enable_service_links: Some(false),
                    restart_policy: Some("Never".to_owned()),
                    termination_grace_period_seconds: Some(1),
                    security_context: servers.security_context.clone(),
                    affinity: nodes.map(|nodes| Affinity { node_affinity: Some(nodes), ..Affinity::default() }),
                    node_selector: servers.node_selector.clone(),
                    tolerations: servers.tolerations.clone(),
                    image_pull_secrets: servers.image_pull_secrets.clone(),
                    containers: vec![Container {
                        name: WORD.to_owned(),
                        image: Some(goal.image.clone()),
                        image_pull_policy: server.and_then(|server| server.image_pull_policy.clone()),
                        command: Some(vec!["bao".to_owned(), "version".to_owned()]),
                        resources: Some(ResourceRequirements {
                            requests: quantities([("cpu", "10m"), ("memory", "32Mi")]),
                            limits: quantities([("cpu", "1"), ("memory", "256Mi")]),
                            ..ResourceRequirements::default()
                        }),
                        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
                        security_context: server.and_then(|server| server.security_context.clone()),
                        ..Container::default()
                    }],
                    ..PodSpec::default()
                }),
            },
            ..JobSpec::default()
        }),
        metadata,
        status: None,
    }
}

/// What the Job found out so far.
pub fn judge(job: &Job, pods: &[Arc<Pod>], goal: &UpgradeDirective) -> Turn {
    let (name, untouched) = (job.name_any(), "Nothing of the cluster was touched");
    let refuse = |why: String| Turn::Fail {
        reason: "ImageNotUsable",
        message: format!(
            "image {} cannot be used for OpenBao {}: {why}. {untouched}: correct spec.version or spec.image. Where the image is \
             good, look at the pull secrets (spec.imagePullSecrets, or those of the servers' service account) and at the nodes \
             that spec.pod allows",
            goal.image, goal.version
        ),
    };
    let ended = |kind: &str| {
        let conditions = job.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
    };
    if ended("Complete").is_some() {
        return Turn::Done(format!("{} starts", goal.image));
    }
    if let Some((reason, message)) = pods.iter().find_map(|pod| trouble(pod)) {
        return refuse(format!("{reason}: {message}"));
    }
    let podless = is_podless(job, pods);
    if let Some(failed) = ended("Failed") {
        let said = failed.message.clone().unwrap_or_default();
        if podless {
            return Turn::Fail {
                reason: "ImageNotTried",
                message: format!(
                    "image {} was not tried for OpenBao {}: Kubernetes made no pod for Job {name} ({said}): {NO_POD}, and \
                     its events say which, kubectl --namespace {} get events. {untouched}: mend that, then ask for a Retry",
                    goal.image,
                    goal.version,
                    job.namespace().unwrap_or_default()
                ),
            };
        }
        return refuse(pods.iter().find_map(|pod| last_words(pod)).unwrap_or(said));
    }
    let waits = match pods.iter().find_map(|pod| unscheduled(pod)) {
        Some(why) => why.to_owned(),
        None if podless => format!("Kubernetes has made no pod for it yet. If that lasts, {NO_POD}"),
        None => "it is pulled and started".to_owned(),
    };
    Turn::Wait(format!("Job {name} looks whether image {} is there: {waits}", goal.image))
}

/// Whether none was ever made: those of a Job that ran out of time are removed, and counted.
fn is_podless(job: &Job, pods: &[Arc<Pod>]) -> bool {
    let counted = job.status.as_ref().is_some_and(|status| {
        [status.active, status.failed, status.succeeded].into_iter().flatten().any(|count| count > 0)
    });
    pods.is_empty() && !counted
}

fn last_words(pod: &Pod) -> Option<String> {
    let state = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?;
    let ended = state.terminated.as_ref()?;
    let words = end_of(ended.message.as_deref().or(ended.reason.as_deref()).unwrap_or_default());
    Some(format!("`bao version` in it ended with code {}: {words}", ended.exit_code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{
        backup::jobs::tests::operation,
        cluster::{build::statefulset, validate::tests::valid},
    };
    use serde_json::{Value, json};

    fn goal() -> UpgradeDirective {
        UpgradeDirective { version: "2.7.9".into(), image: "docker.io/openbao/openbao:2.7.9".into() }
    }

    fn made() -> Job {
        let template = statefulset::build(
            &valid(|spec| {
                spec["imagePullSecrets"] = json!([{"name": "registry"}]);
                spec["serviceAccount"] = json!({"name": "bao"});
                spec["pod"] = json!({"nodeSelector": {"disk": "fast"}, "affinity": {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["arm64"]}]}]}},
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                        {"topologyKey": "kubernetes.io/hostname"}]}}});
            }),
            &statefulset::tests::inputs(),
        );
        let servers = template.spec.unwrap().template.spec.unwrap();
        job(&operation("kelp-up"), "up-image", &goal(), &servers)
    }

    fn with(mut job: Job, kind: &str) -> Job {
        job.status =
            serde_json::from_value(json!({"conditions": [{"type": kind, "status": "True", "message": "why"}]}))
                .unwrap();
        job
    }

    fn pod(status: &Value) -> Vec<Arc<Pod>> {
        vec![Arc::new(serde_json::from_value(json!({"metadata": {"name": "up-image-x"}, "status": status})).unwrap())]
    }

    #[test]
    fn the_job_pulls_like_a_server_and_holds_nothing_of_the_cluster() {
        let spec = made().spec.unwrap();
        assert_eq!((spec.backoff_limit, spec.active_deadline_seconds), (Some(0), Some(LIMIT_SECONDS)));
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "registry");
        assert_eq!(pod.node_selector.unwrap()["disk"], "fast");
        assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert!(pod.volumes.is_none());
        let [container] = pod.containers.as_slice() else { panic!("one container") };
        assert_eq!(container.image.as_deref(), Some("docker.io/openbao/openbao:2.7.9"));
        assert!(container.env.is_none() && container.env_from.is_none() && container.volume_mounts.is_none());
        assert_eq!(container.security_context.as_ref().unwrap().read_only_root_filesystem, Some(true));
        let labels = spec.template.metadata.unwrap().labels.unwrap();
        assert_ne!(
            labels.get("app.kubernetes.io/component").map(String::as_str),
            Some("server"),
            "no Service selects it"
        );
    }

    #[test]
    fn the_job_is_let_in_where_servers_are_by_their_account_and_their_nodes() {
        let pod = made().spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.service_account_name.as_deref(), Some("bao"), "a registry's secret may hang on it");
        let affinity = pod.affinity.unwrap();
        assert!(affinity.node_affinity.unwrap().required_during_scheduling_ignored_during_execution.is_some());
        assert!(affinity.pod_anti_affinity.is_none(), "the servers stand on every node already");
    }

    #[test]
    fn a_job_for_which_no_pod_is_made_says_that_the_image_was_not_tried() {
        assert!(matches!(judge(&made(), &[], &goal()), Turn::Wait(why) if why.contains("missing service account")));
        let told = |job: Job| match judge(&job, &[], &goal()) {
            Turn::Fail { reason, message } => (reason, message),
            other => panic!("{other:?}"),
        };
        let (reason, message) = told(with(made(), "Failed"));
        assert_eq!(reason, "ImageNotTried");
        assert!(message.contains("up-image (why)") && !message.contains("correct spec.version"), "{message}");
        let mut late = with(made(), "Failed");
        late.status.as_mut().unwrap().failed = Some(1);
        assert_eq!(told(late).0, "ImageNotUsable", "it had one, which is gone");
    }

    #[test]
    fn an_image_that_starts_is_good_and_one_that_is_not_there_is_named_in_the_kubelets_words() {
        assert!(matches!(judge(&made(), &[], &goal()), Turn::Wait(why) if why.contains("up-image")));
        assert!(matches!(judge(&with(made(), "Complete"), &[], &goal()), Turn::Done(_)));
        let pulls = |reason: &str| {
            pod(
                &json!({"containerStatuses": [{"name": "image", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": "no such tag"}}}]}),
            )
        };
        assert!(matches!(judge(&made(), &pulls("ErrImagePull"), &goal()), Turn::Wait(_)), "tried again at once");
        match judge(&made(), &pulls("ImagePullBackOff"), &goal()) {
            Turn::Fail { reason: "ImageNotUsable", message } => {
                assert!(message.contains("2.7.9") && message.contains("no such tag"), "{message}");
                assert!(message.contains("service account"), "the tag may be right: {message}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_program_that_does_not_run_is_quoted_and_a_job_that_ran_out_of_time_says_so() {
        let dead = pod(&json!({"containerStatuses": [{"name": "image", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 127, "message": "exec format error"}}}]}));
        let told = |turn: Turn| match turn {
            Turn::Fail { message, .. } => message,
            other => panic!("{other:?}"),
        };
        let message = told(judge(&with(made(), "Failed"), &dead, &goal()));
        assert!(message.contains("127") && message.contains("exec format error"), "{message}");
        let mut late = with(made(), "Failed");
        late.status.as_mut().unwrap().failed = Some(1);
        assert!(told(judge(&late, &[], &goal())).contains("why"));
    }

    #[test]
    fn a_pod_that_finds_no_node_says_whom_it_waits_for() {
        let homeless =
            pod(&json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}));
        assert!(matches!(judge(&made(), &homeless, &goal()), Turn::Wait(why) if why.contains("0/3 nodes")));
    }
}
