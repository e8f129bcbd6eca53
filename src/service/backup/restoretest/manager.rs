//! The manager of restore tests: `operation: RestoreTest`, asked for by a person or by the schedule.

use futures::future::{BoxFuture, FutureExt};
use kube::ResourceExt;

use super::super::frozen::{Frozen, identity};
use super::super::jobs::Source;
use super::super::{manager, request, steps};
use crate::api::{
    BackupSpec, OpenBaoCluster, OperationKind, Plan, RestoreTestSpec, RetryPolicy, SealType, StepKind, StepSpec,
    TestNetwork,
};
use crate::service::opslifecycle::asked::Parameter;
use crate::service::opslifecycle::{
    FinishCall, Manager, PlanCall, Planned, Refusal, RetryClass, StepCall, StepOutcome,
};

/// The one step.
pub const TEST: &str = "Test";
/// How long a test may take that says nothing else.
const TIMEOUT: &str = "1h";
/// All that `spec.parameters` of a restore test may say.
const PARAMETERS: [Parameter; 1] = [Parameter::any(request::KEY)];
/// Reason: the seal's key is elsewhere, and an isolated server cannot ask for it.
const SEAL_NEEDS_NETWORK: &str = "SealNeedsNetwork";

/// Runs every `operation: RestoreTest`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreTestManager;

impl Manager for RestoreTestManager {
    fn kinds(&self) -> &'static [OperationKind] {
        &[OperationKind::RestoreTest]
    }

    fn parameters(&self) -> &'static [Parameter] {
        &PARAMETERS
    }

    fn plan<'a>(&'a self, call: PlanCall<'a>) -> BoxFuture<'a, Result<Planned, Refusal>> {
        async move { plan(&call) }.boxed()
    }

    fn run<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        steps::run(call).boxed()
    }

    fn finish<'a>(&'a self, call: FinishCall<'a>) -> BoxFuture<'a, StepOutcome> {
        manager::finish(call).boxed()
    }
}

/// What `spec.backup.restoreTest` says, or would say if it stood there.
pub fn settings(spec: &BackupSpec) -> RestoreTestSpec {
    spec.restore_test.clone().unwrap_or_default()
}

/// Pure.
fn plan(call: &PlanCall<'_>) -> Result<Planned, Refusal> {
    let (cluster, op) = (call.cluster, call.op);
    let name = cluster.name_any();
    let spec = may_start(cluster)?;
    let uid = op.metadata.uid.as_deref().unwrap_or_default();
    let mut frozen = Frozen::of(cluster, spec, &call.ad.settings.operator_image, uid, call.now)
        .map_err(|error| Refusal::failed("BackupTargetInvalid", format!("spec.backup.{error}")))?;
    let test = settings(spec);
    // The newest is chosen when it is read: what is the newest now may be gone by then.
    let named = op.spec.parameters.get(request::KEY);
    frozen.source = Some(named.map_or(Source::Latest, |key| Source::Key(key.clone())));
    frozen.key = String::new();
    // The server listens in its own pod, without TLS.
    frozen.login.ca_config_map = None;
    if let Some(role) = test.jwt_auth_role {
        frozen.login.role = role;
        frozen.login.token_secret = None;
    }
    let inputs = frozen.inputs().map_err(|error| {
        let message = format!("the inputs of the restore test of {name} cannot be written as JSON: {error}");
        Refusal::failed("InputsUnreadable", message)
    })?;
    let timeout = test.timeout.unwrap_or_else(|| TIMEOUT.to_owned());
    Ok(Planned { plan: Plan { steps: vec![step(timeout)], ..Plan::default() }, inputs })
}

/// What a test waits for, and what it can never work without.
fn may_start(cluster: &OpenBaoCluster) -> Result<&BackupSpec, Refusal> {
    let name = cluster.name_any();
    if cluster.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::failed("ClusterDeleting", format!("cluster {name} is being deleted")));
    }
    let Some(spec) = &cluster.spec.backup else {
        return Err(Refusal::failed(
            "NoBackupTarget",
            format!("cluster {name} has no spec.backup.target: say there where its backups are, then ask again"),
        ));
    };
    identity(cluster, spec).map_err(|error| Refusal::failed("BackupIdentityMissing", error.to_string()))?;
    let seal = cluster.spec.unseal.type_;
    if seal != SealType::Static && settings(spec).network == TestNetwork::Isolated {
        let message = format!(
            "the seal {} of cluster {name} keeps its key elsewhere, and the server of a restore test reaches nobody, so that \
             it revokes no lease of the living cluster: read docs/backup.md, \"Restore tests\", before you set \
             spec.backup.restoreTest.network to Open",
            seal.as_str()
        );
        return Err(Refusal::failed(SEAL_NEEDS_NETWORK, message));
    }
    if cluster.spec.paused {
        let message =
            format!("cluster {name} is paused (spec.paused): the restore test starts when it is not any more");
        return Err(Refusal::wait(RetryClass::Standard, "Paused", message));
    }
    Ok(spec)
}

fn step(timeout: String) -> StepSpec {
    StepSpec {
        name: TEST.to_owned(),
        action: TEST.to_owned(),
        // A Job of a deterministic name, which touches nothing that is not its own.
        kind: StepKind::Idempotent,
        retry_policy: Some(RetryPolicy {
            max_attempts: Some(2),
            initial_delay: Some("15s".to_owned()),
            max_delay: Some("5m".to_owned()),
            ..RetryPolicy::default()
        }),
        timeout: Some(timeout),
        ..StepSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::service::opslifecycle::RefusalPhase;

    fn cluster(change: impl FnOnce(&mut serde_json::Value)) -> OpenBaoCluster {
        let mut whole = json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster",
            "metadata": {"name": "kelp", "namespace": "reef", "uid": "c1"},
            "spec": {"version": "2.7.2", "storage": {"size": "1Gi"}, "selfInit": {"enabled": true, "oidc": {"enabled": true}},
                "backup": {"target": {"provider": "file", "file": {"claimName": "sand"}}}},
        });
        change(&mut whole["spec"]);
        serde_json::from_value(whole).unwrap()
    }

    fn refused(change: impl FnOnce(&mut serde_json::Value)) -> (RefusalPhase, &'static str) {
        let refusal = may_start(&cluster(change)).unwrap_err();
        (refusal.phase, refusal.reason)
    }

    #[test]
    fn a_test_needs_backups_a_way_to_log_in_and_nothing_else() {
        assert!(may_start(&cluster(|_| {})).is_ok(), "whether the cluster is up, or locked, does not matter");
        assert_eq!(refused(|spec| spec["backup"] = json!(null)), (RefusalPhase::Failed, "NoBackupTarget"));
        let without = refused(|spec| spec["selfInit"] = json!({"enabled": true}));
        assert_eq!(without, (RefusalPhase::Failed, "BackupIdentityMissing"));
        assert_eq!(refused(|spec| spec["paused"] = json!(true)), (RefusalPhase::Wait(RetryClass::Standard), "Paused"));
    }

    #[test]
    fn a_seal_whose_key_is_elsewhere_is_tested_only_where_the_spec_opens_the_network() {
        let transit = |network: Option<&str>| {
            cluster(|spec| {
                spec["unseal"] =
                    json!({"type": "transit", "transit": {"address": "a", "keyName": "k", "mountPath": "t/"}});
                if let Some(network) = network {
                    spec["backup"]["restoreTest"] = json!({"network": network});
                }
            })
        };
        for isolated in [None, Some("Isolated")] {
            let refusal = may_start(&transit(isolated)).unwrap_err();
            assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::Failed, "SealNeedsNetwork"));
        }
        assert!(may_start(&transit(Some("Open"))).is_ok());
    }
}
