//! An upgrade that is under way waits for what only the cluster's reconcile renders. A cluster that is left between two safe
//! points has neither its old nor its new servers, so neither a pause nor a spec that cannot be carried out stops it there.

use super::{
    invalid::Invalid,
    trouble::Trouble,
    validate::{self, ValidatedCluster},
};
use crate::{
    adapter::Adapters,
    api::{
        Direction, LockMode, OpenBaoCluster, OpenBaoClusterSpec, OpenBaoOperation, OperationKind, StepState,
        conditions::reason,
    },
    service::upgrade::{self, request},
};
use kube::ResourceExt;
use std::sync::Arc;

/// The upgrade or rollback on record that has not ended, by name. It may not have touched anything yet.
pub fn under_way(ad: &Adapters, cluster: &OpenBaoCluster) -> Option<String> {
    live(ad, cluster).first().map(|operation| operation.name_any())
}

/// Reads the spec. What it may ask for depends on where an upgrade or a rollback leads, and that is told again only by a look at a good
/// spec: where none is at work any more it is read by what the last one came to.
pub fn read(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<ValidatedCluster, Invalid> {
    match validate::validate(cluster) {
        Err(Invalid::AuditUnknown { .. } | Invalid::PluginsUnknown { .. }) if live(ad, cluster).is_empty() => {
            let records = ad.caches.operations_of(&cluster.namespace().unwrap_or_default(), &cluster.name_any());
            validate::validate(&upgrade::concluded(cluster, &records))
        }
        read => read,
    }
}

/// Whether one is between two safe points. A parked upgrade stands at such a point, also where it was told to go on and did not yet.
pub fn has_begun(ad: &Adapters, cluster: &OpenBaoCluster) -> bool {
    let lock = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref());
    let parked = lock.is_some_and(|lock| lock.mode == LockMode::Parked);
    live(ad, cluster).iter().any(|operation| is_between(operation, parked))
}

fn is_between(operation: &OpenBaoOperation, parked: bool) -> bool {
    let Some(status) = &operation.status else { return false };
    let stands = status.steps.iter().any(|step| step.name == upgrade::PARK && step.state == StepState::Running);
    request::has_begun(operation) && (!(parked || stands) || status.direction == Direction::Unwinding)
}

fn live(ad: &Adapters, cluster: &OpenBaoCluster) -> Vec<Arc<OpenBaoOperation>> {
    let mut operations = ad.caches.operations_of(&cluster.namespace().unwrap_or_default(), &cluster.name_any());
    operations.retain(|operation| {
        matches!(operation.spec.operation, OperationKind::Upgrade | OperationKind::Rollback) && !operation.has_ended()
    });
    operations
}

/// The cluster as it is, with the spec that was last good: what an upgrade goes on with. `None` where none is remembered, or
/// where it is not good any more.
pub fn carried(
    cluster: &OpenBaoCluster,
    last_good: Option<&Arc<OpenBaoClusterSpec>>,
) -> Option<(OpenBaoCluster, ValidatedCluster)> {
    let cluster = OpenBaoCluster { spec: OpenBaoClusterSpec::clone(last_good?), ..cluster.clone() };
    let valid = validate::validate(&cluster).ok()?;
    Some((cluster, valid))
}

/// What is told of an upgrade that goes on with an earlier spec.
pub fn goes_on(upgrade: &str) -> Trouble {
    Trouble::new(
        reason::RECONCILING,
        format!("{upgrade} goes on with the spec from before the last change, which cannot be carried out"),
    )
}

/// What is told of an upgrade that cannot: nobody remembers an earlier spec.
pub fn waits(upgrade: &str, invalid: &Invalid) -> Trouble {
    Trouble::new(
        reason::WAITING,
        format!("{upgrade} is under way and waits for a spec that can be carried out: {invalid}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::cluster;
    use serde_json::json;

    #[test]
    fn an_upgrade_stands_at_a_safe_point_while_it_is_parked_also_when_it_was_told_to_go_on_and_waits() {
        let operation = |step: &str, direction: Direction| {
            let done = json!({"name": request::UPDATE_TEMPLATE, "state": "completed"});
            let mut operation = OpenBaoOperation::new("kelp-upgrade", crate::api::OpenBaoOperationSpec::default());
            operation.status = Some(crate::api::OpenBaoOperationStatus {
                direction,
                steps: serde_json::from_value(json!([done, {"name": step, "state": "running"}])).unwrap(),
                ..crate::api::OpenBaoOperationStatus::default()
            });
            operation
        };
        for (step, direction, parked, between) in [
            ("UpgradeStandby/kelp-1", Direction::Forward, false, true),
            (upgrade::PARK, Direction::Forward, true, false),
            (upgrade::PARK, Direction::Forward, false, false),
            (request::STEP_DOWN, Direction::Forward, false, true),
            (upgrade::PARK, Direction::Unwinding, true, true),
            (upgrade::PARK, Direction::Unwinding, false, true),
        ] {
            assert_eq!(is_between(&operation(step, direction), parked), between, "{step} {direction:?} {parked}");
        }
    }

    #[test]
    fn what_goes_on_is_the_cluster_of_now_with_the_last_spec_that_was_good() {
        let good = Arc::new(cluster(|s| s["replicas"] = json!(5)).spec);
        let mut broken = cluster(|s| s["audit"] = json!([{"type": "file", "path": "f"}]));
        broken.metadata.generation = Some(9);
        assert!(validate::validate(&broken).is_err());
        let (going, valid) = carried(&broken, Some(&good)).expect("it was good");
        assert_eq!((going.metadata.generation, valid.generation, valid.replicas), (Some(9), 9, 5));
        assert!(going.spec.audit.is_empty());
    }

    #[test]
    fn nothing_goes_on_by_guessing() {
        let broken = cluster(|s| s["audit"] = json!([{"type": "file", "path": "f"}]));
        assert!(carried(&broken, None).is_none(), "nothing is remembered");
        assert!(carried(&broken, Some(&Arc::new(broken.spec.clone()))).is_none(), "not good any more");
        let told = waits("kelp-upgrade-2-7-2-1", &validate::validate(&broken).unwrap_err());
        assert!(told.message.contains("kelp-upgrade-2-7-2-1") && told.message.contains("spec.audit"), "{told:?}");
    }
}
