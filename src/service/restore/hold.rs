//! A downloaded snapshot that waits for the lock takes up a node's disk. When the lock is long in coming the mover is ended,
//! and another one downloads again before the lock is taken ([`super::manager`]).

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;

use super::mover::{MoverError, Movers, State};
use super::status;
use crate::adapter::Adapters;
use crate::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore};

/// How long a downloaded snapshot may wait for the lock before its disk is given back.
pub const HOLD: TimeDelta = TimeDelta::minutes(10);

/// Ends the mover when it has waited too long for a lock that it cannot have yet.
pub async fn give_back(
    ad: &Adapters,
    restore: &OpenBaoRestore,
    operation: &OpenBaoOperation,
    now: DateTime<Utc>,
) -> Result<(), MoverError> {
    let judged = operation.status.as_ref().and_then(status::waits_for_lock_since);
    let cluster = ad.caches.cluster(&restore.namespace().unwrap_or_default(), &restore.spec.cluster);
    if !too_long(judged, now) || !is_withheld(restore, cluster.as_deref()) {
        return Ok(());
    }
    let movers = Movers::of(&ad.client, operation)?;
    let (exchange, current) = futures::try_join!(movers.exchange(), movers.current())?;
    let (Some(exchange), Some(current)) = (exchange, current) else { return Ok(()) };
    // The report that counts is that of the pod that runs now: a second download has a wait of its own.
    let reported = exchange
        .report
        .filter(|report| matches!(&current.state, State::Running { pod_uid } if *pod_uid == report.pod_uid))
        .map(|report| report.at);
    if too_long(reported, now) && ad.leadership.still_leader() {
        movers.delete(&current.job, Some(current.job_uid)).await?;
        tracing::info!(job = current.job, "the lock is long in coming: the snapshot will be downloaded again");
    }
    Ok(())
}

fn too_long(since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    since.is_some_and(|since| now - since >= HOLD)
}

/// Whether the lock cannot be had now: the cluster is paused, or somebody else has it, and the restore is not one that takes it
/// by force as soon as it can.
fn is_withheld(restore: &OpenBaoRestore, cluster: Option<&OpenBaoCluster>) -> bool {
    let lock = cluster.and_then(|cluster| cluster.status.as_ref()?.operation_lock.as_ref());
    let ours = lock.is_some_and(|lock| Some(&lock.holder_uid) == restore.uid().as_ref());
    let forced = restore.spec.force && restore.spec.override_operation_lock;
    let paused = cluster.is_some_and(|cluster| cluster.spec.paused);
    !ours && (paused || (!forced && lock.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::cluster::status::OperationLock;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_snapshot_waits_ten_minutes_for_the_lock_and_no_longer() {
        assert!(!too_long(Some(at(0)), at(599)));
        assert!(too_long(Some(at(0)), at(600)));
        assert!(!too_long(None, at(6000)), "it has not been downloaded yet, or is being downloaded again");
    }

    #[test]
    fn only_a_lock_in_other_hands_is_long_in_coming_and_never_one_that_is_taken_by_force() {
        let mut restore = OpenBaoRestore::new("r", crate::api::OpenBaoRestoreSpec::default());
        restore.metadata.uid = Some("r-uid".into());
        let mut cluster = OpenBaoCluster::new("c", crate::api::OpenBaoClusterSpec::default());
        assert!(!is_withheld(&restore, Some(&cluster)));
        let held = |uid: &str| -> Option<OperationLock> {
            serde_json::from_value(
                serde_json::json!({"operation": "Backup", "holder": "h", "holderUID": uid, "fence": 1,
                "message": "", "mode": "Held", "acquiredAt": at(0), "renewedAt": at(0)}),
            )
            .unwrap()
        };
        cluster.status.get_or_insert_default().operation_lock = held("somebody");
        assert!(is_withheld(&restore, Some(&cluster)));
        restore.spec.force = true;
        restore.spec.override_operation_lock = true;
        assert!(!is_withheld(&restore, Some(&cluster)));
        cluster.spec.paused = true;
        assert!(is_withheld(&restore, Some(&cluster)), "force does not wake a paused cluster");
        restore.spec.force = false;
        cluster.status.get_or_insert_default().operation_lock = held("r-uid");
        assert!(!is_withheld(&restore, Some(&cluster)));
        cluster.status.get_or_insert_default().operation_lock = None;
        assert!(is_withheld(&restore, Some(&cluster)));
    }
}
