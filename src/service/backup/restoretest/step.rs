//! What the one step of a restore test does: a Job, looked at until it has ended, and its word written down.

use std::collections::BTreeMap;

use super::super::found::Found;
use super::super::jobs::{self, Task};
use super::super::mover;
use super::super::stamp;
use super::super::steps::{self, JOB_MARGIN, Work, output};
use super::job::{self, Test};
use crate::api::OpenBaoCluster;
use crate::datapath::protocol::{Cause, Failure, RehearsalDone};
use crate::datapath::rehearsal::error::reason;
use crate::service::cluster::{names, validate, version};
use crate::service::opslifecycle::StepOutcome;

const TRIES: &str = "restores a backup into a server of its own";

/// Keys of what the step puts out, beside those of every other.
mod told {
    pub const MOUNTS: &str = "mounts";
    pub const KEYS: &str = "keys";
    pub const CANARIES: &str = "canaries";
    pub const ISOLATED: &str = "isolated";
    pub const RESTORE_MS: &str = "restoreMs";
}

pub(in super::super) async fn run(work: &Work<'_>, cluster: &OpenBaoCluster) -> StepOutcome {
    let name = work.job_name("test");
    match work.look::<RehearsalDone>(&name).await {
        Err(error) => steps::failed(&error),
        Ok(Found::Absent) if work.had_started(&name) => {
            StepOutcome::retryable("MoverLost", format!("Job {name} is gone, somebody deleted it"))
        }
        Ok(Found::Absent) => begin(work, cluster, &name).await,
        Ok(Found::Running { trouble, .. }) => steps::running(&name, TRIES, trouble),
        Ok(Found::Podless { age }) => work.podless(&name, TRIES, age).await,
        Ok(Found::Done(done)) => came_back(work, &done).await,
        Ok(Found::Failed(failure)) => did_not(&failure),
        // It touches nothing that is not its own: nothing can be left behind.
        Ok(Found::Lost { reason, message }) => StepOutcome::retryable(reason, message),
        Ok(Found::Foreign) => steps::foreign(&name),
    }
}

async fn begin(work: &Work<'_>, cluster: &OpenBaoCluster, name: &str) -> StepOutcome {
    if work.call.deadline - JOB_MARGIN <= work.call.now {
        return StepOutcome::retryable("DeadlineExceeded", format!("no time is left for Job {name}"));
    }
    // Each has a volume as large as a member's: never two.
    if work.call.state.attempt > 1 {
        let before = jobs::attempt_name(&work.operation.name, "test", work.call.state.attempt - 1);
        if let Err(error) = mover::remove(work.call.ad, &work.operation, &before).await {
            return steps::failed(&error);
        }
    }
    let Some(spec) = &cluster.spec.backup else {
        return StepOutcome::fatal(
            "NoBackupTarget",
            format!("cluster {} has no spec.backup any more", work.operation.cluster),
        );
    };
    let validated = match validate::validate(cluster) {
        Ok(validated) => validated,
        Err(invalid) => {
            let message = format!(
                "cluster {} cannot be read, so no server can be made like its own: {invalid}",
                work.operation.cluster
            );
            return StepOutcome::fatal("InvalidCluster", message);
        }
    };
    let Some(image) = image(work) else {
        return StepOutcome::in_progress(format!(
            "waiting for the StatefulSet of cluster {}: its image is the one that a restored server runs",
            work.operation.cluster
        ));
    };
    let source = work.to_read();
    let mover = work.mover(name, Task::RestoreTest { source: &source, login: &work.frozen.login });
    let test = Test { cluster: &validated, spec, image: &image };
    match work.start(job::job(&mover, &test)).await {
        Ok(()) => steps::running(name, TRIES, None),
        Err(error) => steps::failed(&error),
    }
}

/// The image of the servers as they are, not as the spec wishes them to be.
fn image(work: &Work<'_>) -> Option<String> {
    let set = names::statefulset(&work.operation.cluster);
    let reference = kube::runtime::reflector::ObjectRef::new(&set).within(&work.operation.namespace);
    version::template_image(&*work.call.ad.caches.stateful_sets.get(&reference)?)
}

async fn came_back(work: &Work<'_>, done: &RehearsalDone) -> StepOutcome {
    stamp::restore_tested(work, &done.key).await;
    let mut output = BTreeMap::from([
        (output::KEY, done.key.clone()),
        (output::SHA256, done.sha256.clone()),
        (output::SIZE, done.size_bytes.to_string()),
        (output::OPENBAO_CLUSTER_ID, done.openbao_cluster_id.clone()),
        (output::VERSION, done.version.clone()),
        (told::MOUNTS, done.mounts.to_string()),
        (told::KEYS, done.keys.to_string()),
        (told::CANARIES, done.canaries.to_string()),
        (told::ISOLATED, done.isolated.to_string()),
        (told::RESTORE_MS, done.restore_ms.to_string()),
    ]);
    output.extend(done.taken_at.map(|at| (output::TAKEN_AT, at.to_rfc3339())));
    if !done.cluster_uid.is_empty() {
        output.insert(output::CLUSTER_UID, done.cluster_uid.clone());
    }
    StepOutcome::done_with(output)
}

/// A backup that does not come back does not come back the next time either: nothing is tried again but what failed before it was
/// looked at.
fn did_not(failure: &Failure) -> StepOutcome {
    if failure.cause != Cause::Rehearsal {
        return steps::of_cause(failure);
    }
    let known = reason::ALL.into_iter().find(|known| *known == failure.reason);
    let reason = known.unwrap_or("RestoreTestFailed");
    StepOutcome::Failed { reason, message: failure.message.clone(), retryable: reason == reason::NOT_STARTED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_does_not_come_back_says_why_and_is_not_tried_again() {
        let outcome =
            |cause, reason: &str| did_not(&Failure { cause, reason: reason.to_owned(), message: "words".to_owned() });
        for (cause, reason, expected, again) in [
            (Cause::Rehearsal, "KeysMissing", "KeysMissing", false),
            (Cause::Rehearsal, "ServerNotReady", "ServerNotReady", false),
            (Cause::Rehearsal, "ServerNotStarted", "ServerNotStarted", true),
            (Cause::Rehearsal, "OfALaterRelease", "RestoreTestFailed", false),
            (Cause::Store, "MissingBucket", "ObjectStore", true),
            (Cause::Integrity, "DigestMismatch", "SnapshotIntegrity", true),
        ] {
            let StepOutcome::Failed { reason: found, retryable, .. } = outcome(cause, reason) else {
                panic!("not failed")
            };
            assert_eq!((found, retryable), (expected, again), "{reason}");
        }
    }
}
