//! A paused cluster starts nothing.

use kube::ResourceExt;

use super::{manager::StepOutcome, retry::RetryClass};
use crate::api::cluster::OpenBaoCluster;

/// What waits for the lock has not started, and does not as long as the cluster is paused: the answer of
/// [`Manager::ready`](super::Manager::ready) then. What has begun goes on.
pub fn paused(cluster: Option<&OpenBaoCluster>) -> Option<StepOutcome> {
    let cluster = cluster.filter(|cluster| cluster.spec.paused)?;
    let reason = format!(
        "waiting: OpenBaoCluster {} is paused and starts nothing: set its spec.paused to false",
        cluster.name_any()
    );
    // Its change wakes us.
    Some(StepOutcome::Waiting { reason, retry: RetryClass::Standard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_lock_does_not_start_on_a_paused_cluster() {
        let mut cluster = OpenBaoCluster::new("kelp", crate::api::OpenBaoClusterSpec::default());
        assert_eq!(paused(Some(&cluster)), None);
        cluster.spec.paused = true;
        let outcome = paused(Some(&cluster));
        assert!(matches!(&outcome, Some(StepOutcome::Waiting { reason, .. }) if reason.contains("spec.paused")));
        assert_eq!(paused(None), None, "a cluster that is gone is told of elsewhere");
    }
}
