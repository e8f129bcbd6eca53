//! Backups that run under an upgrade's lock, since it was parked when they began. The upgrade waits for them before its leadership moves,
//! and before it gives its lock back: without that lock they end as lost.

use super::plan::PARK;
use crate::{
    adapter::kubernetes::client::RequestError,
    api::{OpenBaoOperation, OperationPhase},
    service::{
        backup,
        opslifecycle::{FinishCall, StepCall, StepOutcome, guests, saga::LOCK_LOST},
    },
};
use kube::ResourceExt;

/// The wait before leadership moves.
pub async fn before_cutover(call: &StepCall<'_>) -> Option<StepOutcome> {
    match guests(call.ad, call.op).await {
        Ok(guests) => {
            let guest = guests.iter().find(|guest| acts(guest))?;
            Some(StepOutcome::in_progress(format!("waiting for backup {} to end", guest.name_any())))
        }
        Err(error) => Some(unseen(&error)),
    }
}

/// The wait before the lock is given back.
pub async fn before_the_end(call: &FinishCall<'_>) -> Option<StepOutcome> {
    if !may_have_guests(call.op) {
        return None;
    }
    match guests(call.ad, call.op).await {
        Ok(guests) => {
            let guest = guests.iter().find(|guest| ends_by_itself(guest))?;
            Some(StepOutcome::in_progress(format!(
                "waiting for backup {} to end, which runs under this lock: a Cancel of it ends the wait",
                guest.name_any()
            )))
        }
        Err(error) => Some(unseen(&error)),
    }
}

fn unseen(error: &RequestError) -> StepOutcome {
    StepOutcome::in_progress(format!("failed to look for running backups, trying again: {error}"))
}

/// Whether it does more than read the store.
fn acts(guest: &OpenBaoOperation) -> bool {
    !backup::request::only_reads(guest)
}

/// Whether the timeouts of its own steps end it. One that waits for a person begins nothing before that, and then looks at the lock.
fn ends_by_itself(guest: &OpenBaoOperation) -> bool {
    acts(guest) && guest.status.as_ref().is_none_or(|status| status.phase != OperationPhase::Unknown)
}

/// Whether something may run under the lock of this upgrade, and is spared by waiting. Nothing entered before it parked, past its point
/// of no return nothing is left, and whoever takes the lock from it waits for no backup.
fn may_have_guests(upgrade: &OpenBaoOperation) -> bool {
    let Some(status) = &upgrade.status else { return false };
    let has_lock = status.lock.as_ref().is_some_and(|lock| lock.released_at.is_none() && lock.lost_at.is_none());
    let has_parked = status.steps.iter().any(|step| step.name == PARK && step.attempt > 0);
    has_lock && has_parked && status.point_of_no_return_at.is_none() && status.reason.as_deref() != Some(LOCK_LOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operation::{LockRecord, OpenBaoOperationSpec, OpenBaoOperationStatus, StepStatus};
    use chrono::{DateTime, Utc};
    use serde_json::{Value, json};

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    #[test]
    fn an_upgrade_waits_for_a_backup_under_its_lock_and_its_end_not_for_one_that_waits_for_a_person() {
        let guest = |kind: &str, parameters: &Value, phase: &str| -> OpenBaoOperation {
            serde_json::from_value(json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "nightly"},
                "spec": {"cluster": "kelp", "operation": kind, "parameters": parameters}, "status": {"phase": phase},
            }))
            .unwrap()
        };
        let (takes, reads) = (json!({}), json!({"mode": "Verify"}));
        for (kind, parameters, phase, cutover, end) in [
            ("Backup", &takes, "Pending", true, true),
            ("Backup", &takes, "Running", true, true),
            ("Backup", &takes, "Recovering", true, true),
            ("Backup", &takes, "Unknown", true, false),
            ("Backup", &reads, "Running", false, false),
            ("RestoreTest", &takes, "Running", false, false),
        ] {
            let guest = guest(kind, parameters, phase);
            assert_eq!((acts(&guest), ends_by_itself(&guest)), (cutover, end), "{kind} {parameters} {phase}");
        }
    }

    #[test]
    fn only_an_upgrade_that_has_parked_turns_back_and_keeps_its_lock_looks_for_guests_at_its_end() {
        type Edit = fn(&mut OpenBaoOperationStatus);
        let cases: [(&str, Edit, bool); 9] = [
            ("it turns back", |_| {}, true),
            ("its undoing failed", |status| status.reason = Some("CompensationFailed".into()), true),
            ("it has no park", |status| status.steps.clear(), false),
            ("it never came to its park", |status| status.steps[0].attempt = 0, false),
            ("it never had the lock", |status| status.lock = None, false),
            ("its lock is given back", |status| status.lock.as_mut().unwrap().released_at = Some(now()), false),
            ("its lock is lost", |status| status.lock.as_mut().unwrap().lost_at = Some(now()), false),
            ("its lock is taken by force", |status| status.reason = Some(LOCK_LOST.into()), false),
            ("leadership has moved", |status| status.point_of_no_return_at = Some(now()), false),
        ];
        for (case, edit, looks) in cases {
            let lock = LockRecord { fence: 7, acquired_at: now(), released_at: None, lost_at: None, replaced: None };
            let mut status = OpenBaoOperationStatus {
                reason: Some("Cancelled".into()),
                lock: Some(lock),
                steps: vec![StepStatus { name: PARK.into(), attempt: 1, ..StepStatus::default() }],
                ..OpenBaoOperationStatus::default()
            };
            edit(&mut status);
            let mut upgrade = OpenBaoOperation::new("kelp-upgrade", OpenBaoOperationSpec::default());
            upgrade.status = Some(status);
            assert_eq!(may_have_guests(&upgrade), looks, "{case}");
        }
        assert!(!may_have_guests(&OpenBaoOperation::new("kelp-upgrade", OpenBaoOperationSpec::default())));
    }
}
