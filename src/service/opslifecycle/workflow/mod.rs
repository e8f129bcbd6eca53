//! Workflows: operations whose steps a person wrote, over a few built-in actions that need no manager.
//!
//! `Wait`, `HTTPGet` to the cluster's own service, `Annotate` on the cluster's own object, and `KubernetesJob` with image,
//! command and environment and nothing else. They cannot reach a secret, another cluster or the host.

mod actions;
mod job;

use std::collections::BTreeMap;

use futures::{FutureExt, future::BoxFuture};
use kube::ResourceExt;

use super::{
    manager::{FinishCall, Manager, PlanCall, Planned, Refusal, StepCall, StepMode, StepOutcome},
    saga::PLAN_MISMATCH,
};
use crate::api::{
    cluster::status::LockOperation,
    operation::{LockPlan, OperationKind, Plan, StepSpec},
};

/// The built-in actions.
pub const ACTIONS: [&str; 4] = ["Wait", "HTTPGet", "Annotate", "KubernetesJob"];

/// Runs workflows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Workflows;

impl Manager for Workflows {
    fn kinds(&self) -> &'static [OperationKind] {
        &[OperationKind::Workflow]
    }

    fn actions(&self) -> Option<&'static [&'static str]> {
        Some(&ACTIONS)
    }

    fn plan<'a>(&'a self, call: PlanCall<'a>) -> BoxFuture<'a, Result<Planned, Refusal>> {
        async move {
            let Some(written) = &call.op.spec.plan else {
                return Err(Refusal::failed("InvalidPlan", "operation: Workflow needs spec.plan.steps"));
            };
            for step in &written.steps {
                check(step)
                    .map_err(|problem| Refusal::failed("InvalidPlan", format!("step {}: {problem}", step.name)))?;
            }
            let lock = LockPlan {
                operation: LockOperation::Maintenance,
                holder: format!("openbaooperation/{}", call.op.name_any()),
                holder_uid: call.op.uid().unwrap_or_default(),
                before: None,
                force: false,
                message: Some(format!("workflow {}", call.op.name_any())),
            };
            let plan = Plan {
                steps: written.steps.clone(),
                lock: Some(lock),
                point_of_no_return: written.point_of_no_return.clone(),
                forward_recovery: None,
                max_retries: written.max_retries,
            };
            Ok(Planned { plan, inputs: BTreeMap::new() })
        }
        .boxed()
    }

    fn run<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move {
            match (call.step.action.as_str(), call.mode) {
                ("Wait", _) => actions::wait(call).await,
                ("HTTPGet", _) => actions::http_get(call).await,
                ("Annotate", _) => actions::annotate(call).await,
                ("KubernetesJob", StepMode::Prove) => job::prove(call).await,
                ("KubernetesJob", StepMode::Run | StepMode::Undo) => job::run(call).await,
                (other, _) => StepOutcome::fatal(PLAN_MISMATCH, format!("there is no action {other}")),
            }
        }
        .boxed()
    }

    fn finish<'a>(&'a self, call: FinishCall<'a>) -> BoxFuture<'a, StepOutcome> {
        job::clean_up(call).boxed()
    }
}

/// What is wrong with the configuration of `step`.
pub fn check(step: &StepSpec) -> Result<(), String> {
    let known: &[&str] = match step.action.as_str() {
        "Wait" => &["duration"],
        "HTTPGet" => &["path", "status"],
        "Annotate" => &["key", "value"],
        "KubernetesJob" => &["image", "command"],
        other => return Err(format!("there is no action {other}; known are {}", ACTIONS.join(", "))),
    };
    let is_env = |key: &str| step.action == "KubernetesJob" && key.starts_with("env.");
    if let Some(key) = step.config.keys().find(|key| !known.contains(&key.as_str()) && !is_env(key)) {
        return Err(format!("{} does not know config.{key}; it knows {}", step.action, known.join(", ")));
    }
    match step.action.as_str() {
        "Wait" => actions::wait_config(&step.config).map(drop),
        "HTTPGet" => actions::http_config(&step.config).map(drop),
        "Annotate" => actions::annotate_config(&step.config).map(drop),
        _ => job::config(&step.config).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(action: &str, config: &[(&str, &str)]) -> StepSpec {
        StepSpec {
            name: "s".into(),
            action: action.into(),
            config: config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..StepSpec::default()
        }
    }

    #[test]
    fn each_action_takes_its_own_configuration_and_no_other() {
        for (action, config, fine) in [
            ("Wait", vec![("duration", "5s")], true),
            ("Wait", vec![], false),
            ("Wait", vec![("duration", "soon")], false),
            ("Wait", vec![("duration", "5s"), ("url", "http://evil")], false),
            ("HTTPGet", vec![("path", "/v1/sys/health")], true),
            ("HTTPGet", vec![("path", "/v1/sys/health"), ("status", "200,429")], true),
            ("HTTPGet", vec![("path", "//evil.example/")], false),
            ("HTTPGet", vec![("path", "@evil.example/")], false),
            ("HTTPGet", vec![("path", "/x"), ("status", "fine")], false),
            ("Annotate", vec![("key", "workflow.openbao.org/done"), ("value", "yes")], true),
            ("Annotate", vec![("key", "openbao.org/trigger-backup"), ("value", "x")], false),
            ("KubernetesJob", vec![("image", "busybox:1.36"), ("command", "true"), ("env.A", "b")], true),
            ("KubernetesJob", vec![("image", "busybox:1.36"), ("command", "[\"sh\", \"-c\", \"true\"]")], true),
            ("KubernetesJob", vec![("image", "busybox:1.36"), ("command", "[1]")], false),
            ("KubernetesJob", vec![("image", "busybox:1.36"), ("hostPath", "/")], false),
            ("KubernetesJob", vec![("command", "true")], false),
            ("Dance", vec![], false),
        ] {
            assert_eq!(check(&step(action, &config)).is_ok(), fine, "{action} {config:?}");
        }
    }
}
