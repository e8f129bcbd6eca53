//! A downloaded snapshot that waits for the lock takes up a node's disk. When the lock is long in coming the mover is ended,
//! and another one downloads again before the lock is taken ([`super::manager`]).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;

use super::mover::{MoverError, Movers, State};
use super::status;
use crate::adapter::Adapters;
use crate::adapter::operationlock::HeldError;
use crate::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore};
use crate::service::opslifecycle::override_lock;

/// How long a downloaded snapshot may wait for the lock before its disk is given back.
pub const HOLD: TimeDelta = TimeDelta::minutes(10);
/// The same, by our own steady clock.
const HOLD_SEEN: Duration = Duration::from_mins(10);

/// Since when a restore is seen to wait, and with which mover's pod, by the restore's UID. When the pod reported is written by the
/// clock of its node.
#[derive(Debug, Default)]
pub struct Waits(Mutex<HashMap<String, (Option<String>, Instant)>>);

impl Waits {
    /// The restore waits, with a pod that nobody has looked at yet.
    fn begin(&self, restore_uid: &str, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(restore_uid.to_owned()).or_insert((None, now));
    }

    /// Since when that pod is seen to wait. The first one that is looked at has waited from the beginning; a second download has
    /// a wait of its own.
    fn since(&self, restore_uid: &str, pod_uid: &str, now: Instant) -> Instant {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (pod, since) = all.entry(restore_uid.to_owned()).or_insert((None, now));
        if pod.as_ref().is_some_and(|other| other != pod_uid) {
            *since = now;
        }
        *pod = Some(pod_uid.to_owned());
        *since
    }

    /// The restore waits no more.
    pub fn forget(&self, restore_uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(restore_uid);
    }
}

/// Ends the mover when it has waited too long for a lock that it cannot have yet.
pub async fn give_back(
    ad: &Adapters,
    waits: &Waits,
    restore: &OpenBaoRestore,
    operation: &OpenBaoOperation,
    now: DateTime<Utc>,
) -> Result<(), MoverError> {
    let (uid, seen) = (restore.uid().unwrap_or_default(), Instant::now());
    let judged = operation.status.as_ref().and_then(status::waits_for_lock_since);
    if judged.is_none() {
        waits.forget(&uid);
        return Ok(());
    }
    // Our own clock begins with the wait, not when that is looked into: the two would add up.
    waits.begin(&uid, seen);
    let cluster = ad.caches.cluster(&restore.namespace().unwrap_or_default(), &restore.spec.cluster);
    let Some(cluster) = cluster.filter(|_| too_long(judged, now)) else { return Ok(()) };
    let withheld = match reach(restore, &cluster) {
        Reach::Near => false,
        Reach::Far => true,
        Reach::ByForce(held) => override_lock::refused(ad, &cluster, &held).await.is_ok_and(|why| why.is_some()),
    };
    if !withheld {
        return Ok(());
    }
    let movers = Movers::of(&ad.client, operation)?;
    let (exchange, current) = futures::try_join!(movers.exchange(), movers.current())?;
    let (Some(exchange), Some(current)) = (exchange, current) else { return Ok(()) };
    // The report that counts is that of the pod that runs now.
    let State::Running { pod_uid } = &current.state else { return Ok(()) };
    if exchange.report.is_none_or(|report| report.pod_uid != *pod_uid) {
        return Ok(());
    }
    let since = waits.since(&uid, pod_uid, seen);
    if seen.duration_since(since) >= HOLD_SEEN && ad.leadership.still_leader() {
        movers.delete(&current.job, Some(current.job_uid)).await?;
        tracing::info!(job = current.job, "the lock is long in coming: the snapshot will be downloaded again");
    }
    Ok(())
}

fn too_long(since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    since.is_some_and(|since| now - since >= HOLD)
}

/// How far the lock is from a restore that waits for it.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    /// It is free, or the restore's own.
    Near,
    /// The cluster is paused, or somebody else has it.
    Far,
    /// Somebody else has it, and the restore takes it away as soon as it may, if it ever may.
    ByForce(HeldError),
}

fn reach(restore: &OpenBaoRestore, cluster: &OpenBaoCluster) -> Reach {
    let lock = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref());
    let forced = restore.spec.force && restore.spec.override_operation_lock;
    match lock {
        Some(lock) if Some(&lock.holder_uid) == restore.uid().as_ref() => Reach::Near,
        _ if cluster.spec.paused => Reach::Far,
        None => Reach::Near,
        Some(lock) if forced => Reach::ByForce(HeldError::from(lock)),
        Some(_) => Reach::Far,
    }
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
    fn a_wait_counts_from_its_beginning_and_anew_for_the_next_pod() {
        let waits = Waits::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        waits.begin("q", now);
        waits.begin("q", later);
        assert_eq!(
            waits.since("q", "p7", later),
            now,
            "the pod is looked at once the wait is long, and has waited as long"
        );
        assert_eq!(waits.since("q", "p8", later), later);
        assert_eq!(waits.since("r", "p1", now), now);
        assert_eq!(waits.since("r", "p1", later), now);
        assert_eq!(waits.since("s", "p9", later), later);
        assert_eq!(waits.since("r", "p2", later), later, "it was downloaded again");
        waits.forget("s");
        assert_eq!(waits.since("s", "p9", now), now);
    }

    #[test]
    fn only_a_lock_in_other_hands_is_long_in_coming_and_one_that_is_taken_by_force_only_where_that_is_refused() {
        let mut restore = OpenBaoRestore::new("r", crate::api::OpenBaoRestoreSpec::default());
        restore.metadata.uid = Some("r-uid".into());
        let mut cluster = OpenBaoCluster::new("c", crate::api::OpenBaoClusterSpec::default());
        assert_eq!(reach(&restore, &cluster), Reach::Near);
        let held = |uid: &str| -> Option<OperationLock> {
            serde_json::from_value(
                serde_json::json!({"operation": "Backup", "holder": "h", "holderUID": uid, "fence": 1,
                "message": "", "mode": "Held", "acquiredAt": at(0), "renewedAt": at(0)}),
            )
            .unwrap()
        };
        cluster.status.get_or_insert_default().operation_lock = held("somebody");
        assert_eq!(reach(&restore, &cluster), Reach::Far);
        restore.spec.force = true;
        restore.spec.override_operation_lock = true;
        assert!(matches!(reach(&restore, &cluster), Reach::ByForce(held) if held.holder_uid == "somebody"));
        cluster.spec.paused = true;
        assert_eq!(reach(&restore, &cluster), Reach::Far, "force does not wake a paused cluster");
        restore.spec.force = false;
        cluster.status.get_or_insert_default().operation_lock = held("r-uid");
        assert_eq!(reach(&restore, &cluster), Reach::Near);
        cluster.status.get_or_insert_default().operation_lock = None;
        assert_eq!(reach(&restore, &cluster), Reach::Far);
    }
}
