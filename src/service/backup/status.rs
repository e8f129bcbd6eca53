//! `status.backup`, derived from the operations. Pure.
//!
//! Records are pruned and the status must not forget with them: what no record contradicts stays as it was. Nothing here
//! moves by itself, so an idle cluster writes nothing.

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::frozen::CLUSTER_UID;
use super::manager::RETENTION;
use super::request::{self, is_verification, role};
use super::steps::output;
use crate::adapter::objectstore::keys;
use crate::api::{ActorSource, BackupStatus, OpenBaoOperation, OperationKind, OperationPhase, duration};
use crate::datapath::stored::AHEAD;
use crate::service::opslifecycle::lineage;

const NOT_READ_BACK: &str = "could not read a backup back";
const NOT_BROUGHT_BACK: &str = "could not bring a backup back";

/// What the operations say about the past, on top of what was known before.
pub fn derive<'a>(
    before: &BackupStatus,
    operations: impl Iterator<Item = &'a OpenBaoOperation>,
    now: DateTime<Utc>,
) -> BackupStatus {
    let mut ended: Vec<(DateTime<Utc>, &OpenBaoOperation)> =
        operations.filter_map(|operation| ended_at(operation).map(|at| (at, operation))).collect();
    ended.sort_by_key(|(at, operation)| (*at, operation.name_any()));
    let mut status = before.clone();
    // An earlier release took over what a clock said that was ahead; all that came after it would be hidden by that.
    status.last_success.take_if(|at| *at > now + AHEAD);
    // A count of records alone would shrink as they are pruned; a success in sight starts it anew.
    let mut failures = 0;
    let mut success_seen = false;
    // Since when a backup could not be read back, if no newer one could not be taken.
    let mut unread = None;
    if !ended.is_empty() {
        // Told anew below, if it still stands.
        let stands = |message: &mut String| [NOT_READ_BACK, NOT_BROUGHT_BACK].iter().any(|why| message.contains(why));
        status.last_failure_message.take_if(stands);
    }
    for (at, operation) in ended {
        if operation.spec.operation == OperationKind::RestoreTest {
            tested(&mut status, operation, at);
            continue;
        }
        // What was known to be read back later than this, this cannot contradict.
        let news = status.last_verified.is_none_or(|known| at > known);
        match (is_verification(operation), operation.phase()) {
            // Says nothing of this cluster's backups, well or badly.
            (true, _) if !read_own(operation) => {}
            (true, OperationPhase::Succeeded) => {
                unread = None;
                if news {
                    status.last_verify_failure = None;
                }
                verified(&mut status, operation, at);
            }
            (true, OperationPhase::Failed) if news => {
                unread = Some(at);
                status.last_verify_failure = Some(unreadable(operation));
            }
            (true, _) => {}
            (false, OperationPhase::Succeeded) => {
                (failures, success_seen) = (0, true);
                succeeded(&mut status, operation, at);
                retained(&mut status, operation);
            }
            (false, OperationPhase::Failed | OperationPhase::ConstraintFailed | OperationPhase::RolledBack) => {
                failures += 1;
                unread = None;
                failed(&mut status, operation, at);
            }
            (false, _) => {}
        }
    }
    tell_the_newest(&mut status, unread);
    status.consecutive_failures = if success_seen { failures } else { failures.max(before.consecutive_failures) };
    status
}

/// One message is shown: the newest trouble. A backup that was taken since says nothing about the one in the store.
fn tell_the_newest(status: &mut BackupStatus, unread: Option<DateTime<Utc>>) {
    let test = status.restore_test.as_ref().filter(|test| test.last_failure_message.is_some());
    let lost = test.and_then(|test| test.last_failure).filter(|at| status.last_failure.is_none_or(|known| known < *at));
    let not_back = test.and_then(|test| test.last_failure_message.clone());
    if unread.is_some() || lost.is_some() || status.last_failure_message.is_none() {
        let not_read = status.last_verify_failure.clone();
        let newest = if lost > unread { not_back.or(not_read) } else { not_read.or(not_back) };
        status.last_failure_message = newest.or(status.last_failure_message.take());
    }
}

/// Whether the operation has ended, and when.
pub fn ended_at(operation: &OpenBaoOperation) -> Option<DateTime<Utc>> {
    let status = operation.status.as_ref()?;
    status.phase.is_terminal().then_some(status.ended_at).flatten()
}

fn succeeded(status: &mut BackupStatus, operation: &OpenBaoOperation, at: DateTime<Utc>) {
    let taken = as_of(operation).map_or(at, |taken| taken.min(at));
    if status.last_success.is_some_and(|known| known > taken) {
        return;
    }
    let artifacts = operation.status.as_ref().and_then(|status| status.artifacts.as_ref());
    status.last_success = Some(taken);
    status.last_key = artifacts.and_then(|artifacts| artifacts.key.clone());
    status.last_size_bytes = artifacts.and_then(|artifacts| artifacts.size_bytes);
    status.last_duration = took(operation, at);
    status.last_operation = Some(operation.name_any());
    status.last_failure_message = None;
}

/// A backup that succeeded tells of the retention that came after it. One for a restore or an upgrade runs none.
fn retained(status: &mut BackupStatus, operation: &OpenBaoOperation) {
    if role(operation).is_some() {
        return;
    }
    let steps = operation.status.iter().flat_map(|status| &status.steps);
    let warning = steps.filter(|step| step.name == RETENTION).find_map(|step| step.output.get(output::WARNING));
    status.last_retention_failure = warning.map(|warning| format!("{}: {warning}", operation.name_any()));
}

/// Whether a verification or a restore test read a backup of this cluster. A person may name any key in the bucket; and under the
/// cluster's own name there may be another one's, which has that name in another Kubernetes.
fn read_own(operation: &OpenBaoOperation) -> bool {
    let status = operation.status.as_ref();
    let read = status.and_then(|status| status.artifacts.as_ref()?.key.as_ref());
    let key = read.or_else(|| operation.spec.parameters.get(request::KEY));
    let namespace = operation.namespace().unwrap_or_default();
    let lies_with_ours = key.is_none_or(|key| keys::is_of(key, &namespace, &operation.spec.cluster));
    let taken_by = status.and_then(|status| status.steps.iter().find_map(|step| step.output.get(output::CLUSTER_UID)));
    let ours = status.and_then(|status| status.inputs.get(CLUSTER_UID));
    // Where a manifest names no cluster, its place has to do.
    lies_with_ours && (taken_by.is_none() || ours.is_none() || taken_by == ours)
}

fn failed(status: &mut BackupStatus, operation: &OpenBaoOperation, at: DateTime<Utc>) {
    let newest_failure = status.last_failure.is_none_or(|known| known <= at);
    if newest_failure {
        status.last_failure = Some(at);
    }
    if newest_failure && status.last_success.is_none_or(|known| known <= at) {
        status.last_operation = Some(operation.name_any());
        status.last_failure_message = operation.status.as_ref().and_then(|status| status.message.clone());
    }
}

/// What cannot be read back is told as loudly as what could not be taken, though no failure is counted.
fn unreadable(operation: &OpenBaoOperation) -> String {
    let message = operation.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
    format!("{} {NOT_READ_BACK}: {message}", operation.name_any())
}

/// A restore test that passed or failed. Known times beat records: what was seen to pass later than this, this cannot contradict.
fn tested(status: &mut BackupStatus, operation: &OpenBaoOperation, at: DateTime<Utc>) {
    let passed = match operation.phase() {
        OperationPhase::Succeeded => true,
        OperationPhase::Failed => false,
        _ => return,
    };
    // Says nothing of this cluster's backups, well or badly: another one's, or a request that was refused as it was written. One
    // that the schedule makes and that is refused each time is no test at all, and that is worth knowing.
    let begun = operation.status.as_ref().is_some_and(|status| !status.steps.is_empty());
    let scheduled = operation.spec.actor.as_ref().is_some_and(|actor| actor.source == ActorSource::Schedule);
    if !read_own(operation) || !(begun || scheduled) {
        return;
    }
    // What becomes of an older backup that somebody names says nothing of the newest, well or badly.
    let named = operation.spec.parameters.get(request::KEY);
    if named.is_some_and(|key| status.last_key.as_ref() != Some(key)) {
        return;
    }
    let is_newest = |known: Option<DateTime<Utc>>| known.is_none_or(|known| known <= at);
    let record = operation.status.as_ref();
    let test = status.restore_test.get_or_insert_default();
    if is_newest(test.last_success.max(test.last_failure)) {
        test.last_operation = Some(operation.name_any());
    }
    if passed && is_newest(test.last_success) {
        test.last_success = Some(at);
        test.last_key = record.and_then(|record| record.artifacts.as_ref()?.key.clone());
        test.last_duration = took(operation, at);
        if is_newest(test.last_failure) {
            test.last_failure_message = None;
        }
    }
    if !passed && is_newest(test.last_failure) {
        test.last_failure = Some(at);
        if test.last_success.is_none_or(|known| known < at) {
            let why = record.and_then(|record| record.message.clone()).unwrap_or_default();
            test.last_failure_message = Some(format!("{} {NOT_BROUGHT_BACK}: {why}", operation.name_any()));
        }
    }
}

fn verified(status: &mut BackupStatus, operation: &OpenBaoOperation, at: DateTime<Utc>) {
    if status.last_verified.is_some_and(|known| known > at) {
        return;
    }
    status.last_verified = Some(at);
    status.last_verified_key = operation.status.as_ref().and_then(|status| status.artifacts.as_ref()?.key.clone());
}

/// When the snapshot was asked for: what the backup is as of. The Snapshot step puts it out.
pub fn taken_at(operation: &OpenBaoOperation) -> Option<DateTime<Utc>> {
    lineage::output(operation, output::TAKEN_AT)?.parse().ok()
}

/// The same, and never later than the end of the step that tells it: the clock of the mover's node may be ahead.
pub fn as_of(operation: &OpenBaoOperation) -> Option<DateTime<Utc>> {
    lineage::moment(operation, output::TAKEN_AT)
}

fn took(operation: &OpenBaoOperation, ended: DateTime<Utc>) -> Option<String> {
    let started = operation.status.as_ref()?.started_at?;
    (ended - started).to_std().ok().map(duration::format)
}
