//! Workflows: operations whose steps a person wrote, over a few built-in actions that need no manager.
//!
//! `Wait`, `HTTPGet` to the cluster's own service, `Annotate` on the cluster's own object, and `KubernetesJob` with image,
//! command and environment and nothing else. They cannot reach a secret, another cluster or the host.

mod actions;
mod job;
mod leftovers;

use std::collections::BTreeMap;

use futures::{FutureExt, future::BoxFuture};
use kube::ResourceExt;

use super::{
    manager::{FinishCall, Manager, PlanCall, Planned, Refusal, StepCall, StepMode, StepOutcome},
    paused,
    retry::RetryClass,
    saga::{PLAN_MISMATCH, plan::timeout},
};
use crate::api::{
    cluster::{OpenBaoCluster, status::LockOperation},
    duration,
    operation::{LockPlan, OpenBaoOperation, OperationKind, Plan, StepKind, StepSpec},
};

/// The action that runs a Job.
const KUBERNETES_JOB: &str = "KubernetesJob";

/// The built-in actions.
pub const ACTIONS: [&str; 4] = ["Wait", "HTTPGet", "Annotate", KUBERNETES_JOB];

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
        async move { plan(call.op, call.cluster) }.boxed()
    }

    /// It may have waited for the lock while the cluster was paused.
    fn ready<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move { paused(call.cluster).unwrap_or_else(StepOutcome::done) }.boxed()
    }

    fn run<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move {
            // One that makes a Job looks for its own first.
            if call.mode != StepMode::Prove
                && call.step.action != KUBERNETES_JOB
                && let Some(waiting) = leftovers::make_way(&call, None).await
            {
                return waiting;
            }
            match (call.step.action.as_str(), call.mode) {
                ("Wait", _) => actions::wait(call).await,
                ("HTTPGet" | "Annotate", StepMode::Prove) => unprovable(call.step),
                ("HTTPGet", _) => actions::http_get(call).await,
                ("Annotate", _) => actions::annotate(call).await,
                (KUBERNETES_JOB, StepMode::Prove) => job::prove(call).await,
                (KUBERNETES_JOB, StepMode::Run | StepMode::Undo) => job::run(call).await,
                (other, _) => StepOutcome::fatal(PLAN_MISMATCH, format!("there is no action {other}")),
            }
        }
        .boxed()
    }

    fn finish<'a>(&'a self, call: FinishCall<'a>) -> BoxFuture<'a, StepOutcome> {
        job::clean_up(call).boxed()
    }
}

/// Of a plan that was frozen before [`check`] refused such a step: what was sent may have arrived, and is not sent again.
fn unprovable(step: &StepSpec) -> StepOutcome {
    let message = format!(
        "step {} ({}) had begun when the operator was started anew. Whether it had its effect cannot be told, and as kind \
         OnceOnly it is not repeated: look for the effect, then say Abandon",
        step.name, step.action
    );
    StepOutcome::Unknown { message }
}

/// The plan is what a person wrote. Pure.
fn plan(op: &OpenBaoOperation, cluster: &OpenBaoCluster) -> Result<Planned, Refusal> {
    let Some(written) = &op.spec.plan else {
        return Err(Refusal::failed("InvalidPlan", "operation: Workflow needs spec.plan.steps"));
    };
    for step in &written.steps {
        check(step).map_err(|problem| Refusal::failed("InvalidPlan", format!("step {}: {problem}", step.name)))?;
    }
    if cluster.spec.paused {
        let name = cluster.name_any();
        let message = format!("cluster {name} is paused (spec.paused): the workflow starts when it is not any more");
        return Err(Refusal::wait(RetryClass::Standard, "Paused", message));
    }
    let lock = LockPlan {
        operation: LockOperation::Maintenance,
        holder: format!("openbaooperation/{}", op.name_any()),
        holder_uid: op.uid().unwrap_or_default(),
        before: None,
        force: false,
        message: Some(format!("workflow {}", op.name_any())),
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

/// What is wrong with the configuration of `step`.
pub fn check(step: &StepSpec) -> Result<(), String> {
    let known: &[&str] = match step.action.as_str() {
        "Wait" => &["duration"],
        "HTTPGet" => &["path", "status"],
        "Annotate" => &["key", "value"],
        KUBERNETES_JOB => &["image", "command"],
        other => return Err(format!("there is no action {other}; known are {}", ACTIONS.join(", "))),
    };
    let is_env = |key: &str| step.action == KUBERNETES_JOB && key.starts_with("env.");
    if let Some(key) = step.config.keys().find(|key| !known.contains(&key.as_str()) && !is_env(key)) {
        return Err(format!("{} does not know config.{key}; it knows {}", step.action, known.join(", ")));
    }
    // Nothing tells afterwards whether a request arrived, or who wrote the annotation that stands there.
    if step.kind == StepKind::OnceOnly && matches!(step.action.as_str(), "HTTPGet" | "Annotate") {
        return Err(format!(
            "whether an {} had its effect cannot be proven, so it cannot be of kind OnceOnly: leave kind out if it may happen \
             twice, or do it in a {KUBERNETES_JOB}",
            step.action
        ));
    }
    match step.action.as_str() {
        "Wait" => fits_its_timeout(step),
        "HTTPGet" => actions::http_config(&step.config).map(drop),
        "Annotate" => actions::annotate_config(&step.config).map(drop),
        _ => job::config(&step.config).map(drop),
    }
}

/// A wait that outlasts its step would fail each time, at the step's deadline.
fn fits_its_timeout(step: &StepSpec) -> Result<(), String> {
    let (wait, most) = (actions::wait_config(&step.config)?, timeout(step));
    if wait <= most {
        return Ok(());
    }
    let unsaid = if step.timeout.is_none() { " (what a step has that sets none)" } else { "" };
    Err(format!(
        "config.duration {} is longer than the step's timeout of {}{unsaid}: set a longer one",
        duration::format(wait),
        duration::format(most)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::operation::{OpenBaoOperationSpec, WorkflowPlan},
        service::opslifecycle::manager::RefusalPhase,
    };

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

    #[test]
    fn what_cannot_be_proven_is_no_step_that_happens_once_and_is_never_repeated_as_one() {
        let annotate = [("key", "workflow.openbao.org/done"), ("value", "yes")];
        for (action, config, once) in [
            // It has no effect, and the clock proves it.
            ("Wait", &[("duration", "5s")][..], true),
            ("KubernetesJob", &[("image", "busybox:1.36"), ("command", "true")][..], true),
            ("HTTPGet", &[("path", "/v1/sys/health")][..], false),
            ("Annotate", &annotate[..], false),
        ] {
            for kind in [StepKind::Idempotent, StepKind::ReadVerify, StepKind::OnceOnly] {
                let judged = check(&StepSpec { kind, ..step(action, config) });
                assert_eq!(judged.is_ok(), once || kind != StepKind::OnceOnly, "{action} {kind:?}: {judged:?}");
                assert!(judged.err().is_none_or(|problem| problem.contains("OnceOnly") && problem.contains(action)));
            }
        }
        let frozen_before = StepSpec { kind: StepKind::OnceOnly, ..step("Annotate", &annotate) };
        assert!(matches!(unprovable(&frozen_before), StepOutcome::Unknown { .. }));
    }

    #[test]
    fn a_wait_that_outlasts_its_step_is_refused() {
        for (wait, timeout, fine) in [
            ("1h", None, true),
            ("1h1s", None, false),
            ("2h", Some("2h"), true),
            ("2h", Some("3h"), true),
            ("10m", Some("5m"), false),
            ("30d", Some("30d"), true),
        ] {
            let mut step = step("Wait", &[("duration", wait)]);
            step.timeout = timeout.map(str::to_owned);
            let judged = check(&step);
            assert_eq!(judged.is_ok(), fine, "{wait} {timeout:?}");
            assert!(judged.err().is_none_or(|problem| problem.contains("timeout")), "{wait} {timeout:?}");
        }
    }

    #[test]
    fn a_workflow_does_not_start_on_a_paused_cluster() {
        let written = WorkflowPlan { steps: vec![step("Wait", &[("duration", "1s")])], ..WorkflowPlan::default() };
        let spec = OpenBaoOperationSpec { plan: Some(written), ..OpenBaoOperationSpec::default() };
        let op = OpenBaoOperation::new("flow", spec);
        let mut cluster = OpenBaoCluster::new("kelp", crate::api::OpenBaoClusterSpec::default());
        assert!(plan(&op, &cluster).is_ok());
        cluster.spec.paused = true;
        let refusal = plan(&op, &cluster).unwrap_err();
        assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::Wait(RetryClass::Standard), "Paused"));
        assert!(refusal.message.contains("spec.paused"), "{refusal}");
    }
}
