//! Which restore is announced: backups and upgrades start nothing new while one is.

use crate::api::{OpenBaoCluster, OpenBaoRestore};
use kube::ResourceExt;
use std::sync::Arc;

/// The name of the live restore that `cluster` has announced, the oldest if there are several. Derived from the restores
/// themselves each time, so nothing has to be cleared when one ends, is deleted, or its operator dies.
///
/// A restore counts from the moment its first checks have passed (its operation exists) until it has ended. A dry run
/// changes nothing and is never announced. One that was made for an earlier cluster of this name does not count.
pub fn pending(restores: &[Arc<OpenBaoRestore>], cluster: &OpenBaoCluster) -> Option<String> {
    let uid = cluster.metadata.uid.as_deref();
    restores
        .iter()
        .filter(|restore| restore.spec.cluster == cluster.name_any() && restore.namespace() == cluster.namespace())
        .filter(|restore| !restore.spec.dry_run)
        .filter(|restore| {
            restore.status.as_ref().is_some_and(|status| {
                status.operation.is_some() && !status.phase.is_terminal() && status.cluster_uid.as_deref() == uid
            })
        })
        .min_by_key(|restore| (restore.metadata.creation_timestamp.clone().map(|time| time.0), restore.name_any()))
        .map(|restore| restore.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::kubernetes::time::to_kube;
    use crate::api::restore::{OpenBaoRestoreStatus, RestorePhase};

    fn cluster() -> OpenBaoCluster {
        let mut cluster = OpenBaoCluster::new("ledger", crate::api::OpenBaoClusterSpec::default());
        cluster.metadata.namespace = Some("bank".into());
        cluster.metadata.uid = Some("c-uid".into());
        cluster
    }

    fn restore(name: &str, phase: RestorePhase, created: i64) -> OpenBaoRestore {
        let mut restore = OpenBaoRestore::new(name, crate::api::OpenBaoRestoreSpec::default());
        restore.metadata.namespace = Some("bank".into());
        restore.metadata.creation_timestamp =
            Some(to_kube(chrono::DateTime::from_timestamp(1_795_000_000 + created, 0).unwrap()));
        restore.spec.cluster = "ledger".into();
        restore.status = Some(OpenBaoRestoreStatus {
            phase,
            operation: Some("op".into()),
            cluster_uid: Some("c-uid".into()),
            ..Default::default()
        });
        restore
    }

    fn announced(restores: Vec<OpenBaoRestore>) -> Option<String> {
        let restores: Vec<_> = restores.into_iter().map(Arc::new).collect();
        pending(&restores, &cluster())
    }

    #[test]
    fn a_restore_is_announced_from_its_operation_to_its_end() {
        use RestorePhase::{Completed, Failed, Running, Unknown, Validating};
        for phase in [Validating, Running, Unknown] {
            assert_eq!(announced(vec![restore("r", phase, 0)]).as_deref(), Some("r"), "{phase:?}");
        }
        for phase in [Completed, Failed] {
            assert_eq!(announced(vec![restore("r", phase, 0)]), None, "{phase:?}");
        }
        let mut unadmitted = restore("r", RestorePhase::Validating, 0);
        unadmitted.status.as_mut().unwrap().operation = None;
        assert_eq!(announced(vec![unadmitted]), None);
    }

    #[test]
    fn of_several_the_oldest_is_announced() {
        let restores = vec![restore("b", RestorePhase::Validating, 5), restore("a", RestorePhase::Validating, 9)];
        assert_eq!(announced(restores).as_deref(), Some("b"));
    }

    #[test]
    fn a_dry_run_and_a_restore_of_another_cluster_are_not_announced() {
        let mut dry = restore("dry", RestorePhase::Validating, 0);
        dry.spec.dry_run = true;
        let mut other = restore("other", RestorePhase::Validating, 0);
        other.spec.cluster = "else".into();
        let mut earlier = restore("earlier", RestorePhase::Validating, 0);
        earlier.status.as_mut().unwrap().cluster_uid = Some("an earlier namesake".into());
        let mut elsewhere = restore("elsewhere", RestorePhase::Validating, 0);
        elsewhere.metadata.namespace = Some("shop".into());
        assert_eq!(announced(vec![dry, other, earlier, elsewhere]), None);
    }
}
