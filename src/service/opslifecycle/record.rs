//! What an operation's record says to people: its conditions.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::saga::{COMPENSATION_FAILED, WAITING_FOR_LOCK};
use crate::{
    adapter::kubernetes::time::to_kube,
    api::operation::{OpenBaoOperationStatus, OperationPhase},
};

/// It has ended, well or badly.
pub const COMPLETE: &str = "Complete";
/// It ended without its goal.
pub const FAILED: &str = "Failed";
/// It waits for the cluster's lock.
pub const WAITING: &str = "WaitingForLock";
/// Only a person can say how it goes on.
pub const NEEDS_ATTENTION: &str = "NeedsAttention";

/// It took its lock from somebody else, by force or because nobody stood behind it any more.
pub const LOCK_OVERRIDDEN: &str = "LockOverridden";

/// The conditions that belong to `status`. Those that did not change keep the time of their last transition.
pub fn conditions(status: &OpenBaoOperationStatus, now: DateTime<Utc>) -> Vec<Condition> {
    let phase = status.phase;
    let reason = status.reason.clone().unwrap_or_else(|| phase.as_str().to_owned());
    let message = status.message.clone().unwrap_or_default();
    let waiting = !phase.is_terminal() && status.reason.as_deref() == Some(WAITING_FOR_LOCK);
    let kept_lock = status.lock.as_ref().is_some_and(|lock| lock.released_at.is_none() && lock.lost_at.is_none());
    let helpless = phase == OperationPhase::Unknown
        || (phase.is_terminal() && kept_lock && status.reason.as_deref() == Some(COMPENSATION_FAILED));
    let failed = phase.is_terminal() && phase != OperationPhase::Succeeded;
    let replaced = status.lock.as_ref().and_then(|lock| lock.replaced.clone());
    [(COMPLETE, phase.is_terminal()), (FAILED, failed), (WAITING, waiting), (NEEDS_ATTENTION, helpless)]
        .into_iter()
        .map(|(type_, holds)| condition(status, type_, holds, &reason, &message, now))
        .chain(replaced.map(|replaced| {
            let message = format!("the lock was taken from {replaced}");
            condition(status, LOCK_OVERRIDDEN, true, "LockReplaced", &message, now)
        }))
        .collect()
}

fn condition(
    status: &OpenBaoOperationStatus,
    type_: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: DateTime<Utc>,
) -> Condition {
    let value = if holds { "True" } else { "False" };
    let before = status.conditions.iter().find(|condition| condition.type_ == type_);
    let since = before.filter(|before| before.status == value).map(|before| before.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        // What does not hold says so by its phase, not by news that change with every step.
        reason: if holds { reason.to_owned() } else { "No".to_owned() },
        message: if holds { message.to_owned() } else { String::new() },
        last_transition_time: since.unwrap_or_else(|| to_kube(now)),
        observed_generation: None,
    }
}
