//! Servers that a rollback wiped and did not restore: what is to be of them until another one has ended well. Pure.
//!
//! A record tells of it, and the status keeps it. Deleting the record lifts nothing: clients would meet empty servers, and an
//! upgrade would back them up. And a record that the status has left behind brings nothing back: it would take members
//! from servers that were restored since. A rollback that failed after the data was proven left whole servers: upkeep brings the
//! others, as ever, and nobody has to wipe anything again.

use super::{decide::ended_at, holds, request};
use crate::{
    api::{
        Direction, HalfRestored, OpenBaoOperation, OperationKind, OperationPhase, ServersDirective, StepState,
        UpgradeStatus,
    },
    service::opslifecycle::lineage,
};
use kube::ResourceExt;
use std::sync::Arc;

/// What a rollback left half restored, or is about to restore.
pub(super) fn restored(operations: &[Arc<OpenBaoOperation>], known: &UpgradeStatus) -> Option<HalfRestored> {
    let record = lineage::unfinished_rollback(operations.iter().map(Arc::as_ref))
        .filter(|rollback| is_news(rollback, operations, known))
        .and_then(left_by);
    // Before the others may join, the data is proven: from then on upkeep brings them, whatever becomes of the rollback.
    let kept = known.half_restored.as_ref().filter(|kept| kept.servers.closed && !is_over(operations, kept));
    let half = match (record, kept) {
        (Some(record), Some(kept)) if record.wiped_at < kept.wiped_at => kept.clone(),
        (Some(record), _) => record,
        (None, kept) => kept?.clone(),
    };
    (!is_turned_back(operations, &half)).then_some(half)
}

/// Whether a record says more than the status. One that was outlived by a good rollback, whose own record is gone, does not.
fn is_news(rollback: &OpenBaoOperation, operations: &[Arc<OpenBaoOperation>], known: &UpgradeStatus) -> bool {
    if !rollback.has_ended() {
        return true;
    }
    match &known.half_restored {
        Some(kept) => {
            rollback.status.as_ref().is_some_and(|status| status.point_of_no_return_at >= Some(kept.wiped_at))
        }
        // A status without this field may be an older operator's: its servers say whether it knew.
        None => {
            let ended = ended_at(rollback);
            ended > known.accounted_for
                || known.servers.is_some() && (ended == known.accounted_for || !were_at_work(operations, known))
        }
    }
}

/// Whether the servers that a status tells of were wanted by the rollback that was at work then. If not, one that had ended left
/// them so, and an older operator wrote it down: another rollback may have ended since, without a wipe.
fn were_at_work(operations: &[Arc<OpenBaoOperation>], known: &UpgradeStatus) -> bool {
    let at_work = known.operation.as_ref().filter(|_| known.target.is_some());
    at_work.is_some_and(|name| {
        let record = operations.iter().find(|operation| operation.name_any() == *name);
        record.is_none_or(|record| wanted(record).is_some())
    })
}

fn left_by(rollback: &OpenBaoOperation) -> Option<HalfRestored> {
    let (servers, _) = wanted(rollback)?;
    Some(HalfRestored {
        rollback: rollback.name_any(),
        rollback_of: rollback.spec.lineage.as_ref().and_then(|lineage| lineage.rollback_of.clone()),
        rolled_back: request::rolled_back(rollback).map(str::to_owned),
        wiped_at: rollback.status.as_ref()?.point_of_no_return_at?,
        // Only a rollback at work lets a server start from nothing.
        servers: ServersDirective { initialize: false, ..servers },
    })
}

/// Whether a rollback that wiped as late, or later, has ended well, or has proven what it restored.
fn is_over(operations: &[Arc<OpenBaoOperation>], kept: &HalfRestored) -> bool {
    operations.iter().any(|other| {
        other.spec.operation == OperationKind::Rollback
            && (other.phase() == OperationPhase::Succeeded || lineage::has_proven(other))
            && other.status.as_ref().is_some_and(|status| status.point_of_no_return_at >= Some(kept.wiped_at))
    })
}

/// Whether the upgrade it was about says that it is turned back, which is written when a rollback is about to end well: the
/// record of that one may be gone, and another one would be refused.
fn is_turned_back(operations: &[Arc<OpenBaoOperation>], half: &HalfRestored) -> bool {
    operations.iter().any(|other| {
        Some(other.name_any()) == half.rollback_of
            && other.status.as_ref().is_some_and(|status| status.rolled_back_by.is_some())
    })
}

/// How many servers there are to be while a rollback is, or was, at work, and whether the first of them may start from
/// nothing. `None`: as many as ever, and never from nothing.
pub(super) fn servers(operations: &[Arc<OpenBaoOperation>], half: Option<&HalfRestored>) -> Option<ServersDirective> {
    // One that waits for its start wants nothing yet, whatever its place among the others.
    let live = operations.iter().filter(|operation| is_live_rollback(operation)).find_map(|rollback| wanted(rollback));
    match (live, half) {
        // It turns back to where it began, and that is where the one before it left off.
        (Some((_, Going::Back)) | None, Some(half)) => Some(half.servers.clone()),
        (Some((wanted, _)), _) => Some(wanted),
        (None, None) => None,
    }
}

/// Also one that waits for its start, and has no versions on record yet.
pub(super) fn is_live_rollback(operation: &OpenBaoOperation) -> bool {
    operation.spec.operation == OperationKind::Rollback && !operation.has_ended()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Going {
    Forth,
    Back,
}

/// What the journal of one rollback asks for.
fn wanted(rollback: &OpenBaoOperation) -> Option<(ServersDirective, Going)> {
    let status = rollback.status.as_ref()?;
    let past = status.point_of_no_return_at.is_some();
    let state =
        |name: &str| status.steps.iter().find(|step| step.name == name).map_or(StepState::Pending, |step| step.state);
    let all = status.inputs.get(request::REPLICAS)?.parse().ok()?;
    let going = if status.direction == Direction::Unwinding && !past { Going::Back } else { Going::Forth };
    // What they hold is proven before the others join.
    let (count, initialize, closed) = if going == Going::Back || state(request::JOIN_OTHERS) != StepState::Pending {
        (all, false, false)
    } else if state(request::START_FIRST) != StepState::Pending {
        (1, state(request::START_FIRST) == StepState::Running, true)
    } else if state(request::STOP_SERVERS) != StepState::Pending {
        (0, false, true)
    } else {
        return None;
    };
    Some((ServersDirective { count, initialize, closed }, going))
}

/// What happened, and the one way on.
pub(super) fn words(half: &HalfRestored, operations: &[Arc<OpenBaoOperation>]) -> String {
    let name = &half.rollback;
    let is_it = |other: &&Arc<OpenBaoOperation>| {
        let wiped_at = other.status.as_ref().and_then(|status| status.point_of_no_return_at);
        other.name_any() == *name && wiped_at == Some(half.wiped_at)
    };
    let end = operations
        .iter()
        .find(is_it)
        .map_or_else(|| "did not end well, and its record is gone".to_owned(), |record| holds::ending(record));
    let way_on = match operations.iter().find(|other| is_live_rollback(other)) {
        Some(next) => format!("Rollback {} goes on from there", next.name_any()),
        None => {
            let of = half.rollback_of.as_ref().map(|of| format!(", with rollbackOf: {of}")).unwrap_or_default();
            format!("Create another Rollback first{of}")
        }
    };
    format!("{name} was wiping and restoring the servers and {end}. {way_on}")
}

#[cfg(test)]
#[path = "half_tests.rs"]
mod tests;
