//! What follows a mover that ended badly or never began, or a backup that proves to be none: nothing of it may stay in the
//! store, and nothing good in it may be lost.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::de::IgnoredAny;

use super::found::Found;
use super::jobs::{self, Orders, Source, Task};
use super::mover::{self, MoverError};
use super::protect;
use super::steps::{Work, failed, foreign, of_cause, running};
use crate::adapter::objectstore::keys;
use crate::datapath::protocol::{BackupDone, Failure, PruneDone, REPORT, Report, ReportKind, VerifyDone};
use crate::service::opslifecycle::StepOutcome;

/// What the Job is for that removes a backup which does not open.
pub(super) const DISCARD: &str = "discard";
/// What the Job is for that removes what a dead mover left.
const CLEAN: &str = "clean";
/// How long a Job may be without a pod. Whatever refuses one mostly goes on doing so, and the cluster's lock is held meanwhile.
const POD_PATIENCE: TimeDelta = TimeDelta::minutes(2);

/// Whether a Job that has no pod is given up. Its age is by the clock of Kubernetes and `begun` by ours, which differ; and
/// what was not seen waiting before has only just been made.
fn is_given_up(age: TimeDelta, begun: TimeDelta, seen_waiting: bool) -> bool {
    seen_waiting && age.min(begun) >= POD_PATIENCE
}

impl Work<'_> {
    /// Kubernetes makes no pod for a Job, and says why in an event only. Nothing of it ran, so nothing is cleaned; a pod that
    /// came at the last moment and stored its backup is met by the next attempt, as a key that is taken.
    pub(super) async fn podless(&self, name: &str, what: &str, age: TimeDelta) -> StepOutcome {
        let namespace = &self.operation.namespace;
        let begun = self.call.state.started_at.map_or(TimeDelta::zero(), |at| self.call.now - at);
        let why = "a quota, a limit range, an admission webhook or a missing service account may be why";
        if !is_given_up(age, begun, self.had_started(name)) {
            let look = format!("kubectl --namespace {namespace} describe job {name}");
            return running(name, what, Some(format!("Kubernetes has made none yet ({why}): see {look}")));
        }
        match mover::remove(self.call.ad, &self.operation, name).await {
            Ok(()) => StepOutcome::retryable(
                "MoverNotCreated",
                format!(
                    "Kubernetes made no pod for Job {name} within {} s, so it was removed ({why}): its events say more, \
                     kubectl --namespace {namespace} get events",
                    age.num_seconds()
                ),
            ),
            Err(error) => failed(&error),
        }
    }

    /// What no prune may touch, also where it only finishes what an earlier one began.
    fn spared(&self) -> BTreeMap<String, String> {
        let Some(cluster) = self.call.cluster else { return BTreeMap::new() };
        let caches = &self.call.ad.caches;
        let operations = caches.operations_of(&self.operation.namespace, &self.operation.cluster);
        let restores = caches.restores.state();
        let readers = restores.iter().map(|restore| &**restore).filter(|restore| self.may_be_read_by(restore));
        let mut spared = protect::protected(cluster, operations.iter().map(AsRef::as_ref), readers);
        spared.extend(self.read_now());
        spared
    }

    /// What verifications read at this moment.
    pub(super) fn read_now(&self) -> BTreeMap<String, String> {
        protect::read_now(&self.call.ad.caches.jobs_of_cluster(&self.operation.namespace, &self.operation.cluster))
    }

    /// A mover that ended without a word may have left an object without a manifest, or even a whole backup.
    pub(super) async fn after_loss(&self, lost: &str, reason: &'static str, message: &str) -> StepOutcome {
        // Once something was told to remove what a report speaks of, nobody knows whose report it is, and of what is gone.
        let reported = match self.was_made(CLEAN).await {
            Ok(true) => Ok(None),
            Ok(false) => self.reported().await,
            Err(error) => Err(error),
        };
        match reported {
            Ok(Some(reported)) => return reported,
            Ok(None) => {}
            Err(error) => return failed(&error),
        }
        let name = self.job_name(CLEAN);
        let found = match self.look::<PruneDone>(&name).await {
            Ok(found) => found,
            Err(error) => return failed(&error),
        };
        let what = format!("removes what Job {lost} may have left ({message})");
        match found {
            Found::Absent => {
                let orders =
                    Orders { clean: vec![self.frozen.key.clone()], protected: self.spared(), ..Orders::default() };
                self.begin(&name, Task::Prune(orders), &what).await
            }
            Found::Running { trouble, .. } => running(&name, &what, trouble),
            Found::Podless { age } => self.podless(&name, &what, age).await,
            Found::Done(done) if done.kept.iter().any(|kept| kept.key == self.frozen.key) => self.adopt(lost).await,
            Found::Done(done) => match done.refused(&self.frozen.key) {
                None => StepOutcome::retryable(reason, format!("{message}; nothing of it is left in the store")),
                Some(trouble) => self.left_over(reason, message, &name, trouble),
            },
            Found::Failed(Failure { message: trouble, .. }) | Found::Lost { message: trouble, .. } => {
                self.left_over(reason, message, &name, &trouble)
            }
            Found::Foreign => foreign(&name),
        }
    }

    fn left_over(&self, reason: &'static str, message: &str, job: &str, trouble: &str) -> StepOutcome {
        let key = &self.frozen.key;
        let message = format!("{message}; {key} may be left in the store, Job {job} could not remove it: {trouble}");
        StepOutcome::retryable(reason, message)
    }

    /// Whether this attempt at a step, or an earlier one, has made a Job for this.
    pub(super) async fn was_made(&self, what: &str) -> Result<bool, MoverError> {
        let current = self.call.state.attempt.max(1);
        if self.had_started(&jobs::attempt_name(&self.operation.name, what, current)) {
            return Ok(true);
        }
        for attempt in 1..=current {
            let name = jobs::attempt_name(&self.operation.name, what, attempt);
            if !matches!(self.look::<IgnoredAny>(&name).await?, Found::Absent | Found::Foreign) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the mover wrote into its config map before its pod was lost. It reports a success only after its last look at
    /// object and manifest, so that word is as good as the pod's.
    pub(super) async fn reported(&self) -> Result<Option<StepOutcome>, MoverError> {
        let map = mover::channel(self.call.ad, &self.operation).await?;
        Ok(map.and_then(|map| self.read_report(&map)))
    }

    fn read_report(&self, map: &ConfigMap) -> Option<StepOutcome> {
        let report: Report = serde_json::from_str(map.data.as_ref()?.get(REPORT)?).ok()?;
        let (manifest, inspection) = (report.manifest?, report.inspection?);
        let good = report.kind == ReportKind::Verified && manifest.key == self.frozen.key;
        good.then(|| {
            self.stored(&BackupDone {
                manifest_key: keys::manifest_key(&manifest.key),
                key: manifest.key,
                sha256: manifest.sha256,
                size_bytes: manifest.size_bytes,
                taken_at: manifest.taken_at,
                openbao_cluster_id: manifest.cluster.openbao_cluster_id,
                inspection,
                sealed_sums: report.sealed_sums,
                sums: report.sums,
                duration_ms: 0,
                retries: 0,
                shortened: false,
            })
        })
    }

    /// The mover had finished its backup and only its last word was lost: the backup is read again and taken as it is.
    async fn adopt(&self, lost: &str) -> StepOutcome {
        let name = self.job_name("adopt");
        let source = Source::Key(self.frozen.key.clone());
        let what = format!("reads the backup again that was completed before Job {lost} could say so");
        match self.look::<VerifyDone>(&name).await {
            Err(error) => failed(&error),
            Ok(Found::Absent) => self.begin(&name, Task::Verify { source: &source }, &what).await,
            Ok(Found::Running { trouble, .. }) => running(&name, &what, trouble),
            Ok(Found::Podless { age }) => self.podless(&name, &what, age).await,
            Ok(Found::Done(done)) => {
                let began = self.call.op.status.as_ref().and_then(|status| status.started_at);
                self.verified(&done, as_of(&done, began))
            }
            Ok(Found::Failed(failure)) => of_cause(&failure),
            Ok(Found::Lost { reason, message }) => StepOutcome::retryable(reason, message),
            Ok(Found::Foreign) => foreign(&name),
        }
    }

    /// A backup that this cluster's key cannot open is none: it must not be there on the worst day.
    pub(super) async fn discard(&self, reason: &'static str, message: &str) -> StepOutcome {
        let name = self.job_name(DISCARD);
        let key = &self.frozen.key;
        let what = format!("removes {key}: {message}");
        let stays = |trouble: &str| {
            let message = format!("{message}; {key} could not be removed: {trouble}");
            StepOutcome::retryable(reason, message)
        };
        let outcome = match self.look::<PruneDone>(&name).await {
            Err(error) => failed(&error),
            Ok(Found::Absent) => {
                let mut protected = self.spared();
                // Whoever has named this one is better told now.
                protected.remove(key);
                let orders = Orders { remove: vec![key.clone()], protected, ..Orders::default() };
                self.begin(&name, Task::Prune(orders), &what).await
            }
            Ok(Found::Running { trouble, .. }) => running(&name, &what, trouble),
            Ok(Found::Podless { age }) => self.podless(&name, &what, age).await,
            Ok(Found::Done(done)) => match done.refused(key) {
                None => return StepOutcome::fatal(reason, format!("{message}; {}", removed(key, &done))),
                Some(trouble) => StepOutcome::retryable(reason, trouble),
            },
            Ok(Found::Failed(Failure { message, .. }) | Found::Lost { message, .. }) => {
                StepOutcome::retryable(reason, message)
            }
            Ok(Found::Foreign) => foreign(&name),
        };
        match outcome {
            // The next backup judges it anew, by what this journal holds of it.
            StepOutcome::Failed { message, .. } => stays(&message),
            waits => waits,
        }
    }
}

/// When the snapshot of a backup was taken that was read again. A mover that does not tell leaves only when the operation began,
/// which may have waited and tried for hours.
fn as_of(done: &VerifyDone, began: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    done.taken_at.or(began)
}

/// What became of a backup that was to go, where the store refused nothing.
fn removed(key: &str, done: &PruneDone) -> String {
    match done.kept.iter().find(|kept| kept.key == key) {
        Some(kept) => format!("{key} stays in the store: {}", kept.reason),
        None => format!("{key} was removed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::archive::Inspection;
    use crate::datapath::protocol::KeptKey;

    #[test]
    fn a_backup_that_is_read_again_is_as_of_its_snapshot_and_not_of_its_plan() {
        let at = |time: &str| -> DateTime<Utc> { format!("2026-11-21T{time}:00Z").parse().unwrap() };
        let read = |taken_at| {
            let json = serde_json::json!({"key": "a.snap", "sha256": "", "sizeBytes": 1, "manifest": true, "durationMs": 1,
                "takenAt": taken_at, "inspection": Inspection::default()});
            serde_json::from_value::<VerifyDone>(json).unwrap()
        };
        let planned = Some(at("03:00"));
        assert_eq!(as_of(&read(Some(at("05:00"))), planned), Some(at("05:00")));
        assert_eq!(as_of(&read(None), planned), planned, "an earlier release's mover says nothing");
    }

    #[test]
    fn a_backup_that_was_to_go_and_is_pinned_is_not_told_to_be_gone() {
        let done = |kept: Vec<KeptKey>| PruneDone { kept, ..PruneDone::default() };
        assert_eq!(removed("a.snap", &done(vec![])), "a.snap was removed");
        let pinned = KeptKey { key: "a.snap".into(), reason: "it is pinned".into() };
        assert_eq!(removed("a.snap", &done(vec![pinned])), "a.snap stays in the store: it is pinned");
    }

    #[test]
    fn a_job_without_a_pod_is_given_up_after_two_minutes_by_every_clock() {
        let (long, short) = (TimeDelta::minutes(2), TimeDelta::seconds(119));
        assert!(is_given_up(long, long, true));
        assert!(!is_given_up(short, long, true));
        assert!(!is_given_up(long, short, true), "the clock of Kubernetes is ahead of ours, or behind");
        assert!(!is_given_up(long, long, false), "it was made a moment ago, after something else in the same step");
    }
}
