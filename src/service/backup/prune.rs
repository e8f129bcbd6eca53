//! Retention: what the mover is ordered to remove, and what is told of it.
//!
//! It is the last step of a backup. Beside that it comes before a snapshot that is tried again because the store had no room:
//! else a full store would keep all backups out, and with them the only thing that makes room. Both stand in the journal
//! before the Job is made (the step has begun; the attempt before it failed for want of room), and restores go by that.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::found::Found;
use super::jobs::{Orders, Task};
use super::manager::{RETENTION, SNAPSHOT};
use super::mover::{self, MoverError};
use super::protect::Held;
use super::steps::{JOB_MARGIN, Work, failed, foreign, output, running};
use super::{protect, records, request, seal, tidy};
use crate::adapter::kubernetes::events::{News, Severity};
use crate::adapter::objectstore::{error::STORE_FULL, keys};
use crate::api::{
    OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationKind, OperationPhase, StepState, StepStatus,
};
use crate::datapath::protocol::{Failure, PRUNED, PruneDone};
use crate::service::opslifecycle::StepOutcome;

const WHAT: &str = "applies the retention rules";
const ROOM: &str = "applies the retention rules, because the store was full";
/// Event: a backup was taken, and what was to go after it has not gone.
const NOT_APPLIED: &str = "BackupRetentionFailed";

impl Work<'_> {
    /// The backup is good whatever comes of this: what retention could not do now, the next one does.
    pub(super) async fn retention(&self, cluster: &OpenBaoCluster) -> StepOutcome {
        let last = self.call.state.attempt >= self.attempts();
        let over = self.call.now >= self.call.deadline - JOB_MARGIN;
        let outcome = after_retention(self.prune(cluster).await, last, over);
        if let StepOutcome::Done { output } = &outcome
            && let Some(warning) = output.get(output::WARNING)
        {
            self.warn(cluster, warning).await;
        }
        outcome
    }

    async fn prune(&self, cluster: &OpenBaoCluster) -> StepOutcome {
        match self.applied(cluster, &self.job_name("prune"), WHAT).await {
            Ok(Applied::Held(held)) => StepOutcome::done_with([left_undone(&held)]),
            Ok(Applied::Done { done, late }) => {
                let mut output = told(&done);
                let warnings = output.remove(output::WARNING).into_iter().chain(late).collect::<Vec<_>>().join("; ");
                if !warnings.is_empty() {
                    output.insert(output::WARNING, warnings);
                }
                StepOutcome::done_with(output)
            }
            Err(outcome) => outcome,
        }
    }

    /// `None`: the snapshot may be tried again. What keeps room from being made keeps no snapshot from being tried.
    pub(super) async fn make_room(&self, cluster: &OpenBaoCluster) -> Option<StepOutcome> {
        if !self.makes_room() {
            return None;
        }
        match self.applied(cluster, &self.room_name(), ROOM).await {
            Ok(Applied::Done { late: Some(late), .. }) => {
                self.warn(cluster, &late).await;
                None
            }
            Ok(_) => None,
            Err(StepOutcome::Failed { message, .. }) => {
                let (operation, namespace) = (&self.operation.name, &self.operation.namespace);
                tracing::warn!(operation = %operation, namespace = %namespace, error = %message, "failed to make room");
                None
            }
            Err(waits) => Some(waits),
        }
    }

    /// The rules applied by a Job of this name. `Err`: it is not over, or it came to nothing.
    async fn applied(&self, cluster: &OpenBaoCluster, name: &str, what: &str) -> Result<Applied, StepOutcome> {
        match self.look::<PruneDone>(name).await {
            Err(error) => Err(failed(&error)),
            Ok(Found::Absent) => match self.orders(cluster).await {
                Err(error) => Err(failed(&error)),
                Ok(Ordered::Held(held)) => Ok(Applied::Held(held)),
                Ok(Ordered::Now(orders)) => Err(self.begin(name, Task::Prune(orders), what).await),
            },
            Ok(Found::Running { trouble, .. }) => Err(running(name, what, trouble)),
            Ok(Found::Podless { age }) => Err(self.podless(name, what, age).await),
            Ok(Found::Done(done)) => {
                let done = done.counted();
                let removed = self.removed(&done).await;
                match self.too_late(cluster, &removed).await {
                    Ok(late) => Ok(Applied::Done { done, late }),
                    Err(error) => Err(failed(&error)),
                }
            }
            Ok(Found::Failed(Failure { message, .. }) | Found::Lost { message, .. }) => {
                Err(StepOutcome::retryable("RetentionFailed", message))
            }
            Ok(Found::Foreign) => Err(foreign(name)),
        }
    }

    /// Where the store was full again: whoever reads that has to learn why no room was made, or how much.
    pub(super) async fn still_full(&self, cluster: &OpenBaoCluster, mut failure: Failure) -> Failure {
        if failure.reason == STORE_FULL && self.makes_room() {
            let job = self.room_name();
            let why = match self.look::<PruneDone>(&job).await {
                Ok(Found::Absent) => self.held_room(cluster).await,
                Ok(found) => why_no_room(&job, found),
                Err(error) => Some(error.text()),
            };
            let why = why.unwrap_or_else(|| format!("Job {job}, which was to make room, was not made, or is gone"));
            failure.message = format!("{}; {why}", failure.message);
        }
        failure
    }

    /// What kept room from being made: a restore, or that too much was to be spared.
    async fn held_room(&self, cluster: &OpenBaoCluster) -> Option<String> {
        match self.orders(cluster).await {
            Ok(Ordered::Held(held)) => Some(format!("nothing was removed first: {}", held.words())),
            Ok(Ordered::Now(orders)) => orders.excess().map(|why| format!("nothing was removed first: {why}")),
            Err(error) => Some(error.text()),
        }
    }

    /// What room was made for this attempt, in the words of its output.
    pub(super) async fn room_made(&self) -> Option<String> {
        if !self.makes_room() {
            return None;
        }
        let Ok(Found::Done(done)) = self.look::<PruneDone>(&self.room_name()).await else { return None };
        Some(format!("the store was full; removed by the retention rules first: {}", done.counted().removed_count))
    }

    /// A backup that a restore or an upgrade takes runs no retention, also then.
    fn makes_room(&self) -> bool {
        let prunes = self.frozen.retention.is_some() && request::role(self.call.op).is_none();
        prunes && was_full(self.call.state)
    }

    fn room_name(&self) -> String {
        self.job_name("room")
    }

    /// What a prune is to do now. Restores and operations are read afresh: one that came, or was pinned, since the watches last
    /// heard may be about a backup that the rules let go today.
    async fn orders(&self, cluster: &OpenBaoCluster) -> Result<Ordered<'_>, MoverError> {
        let restores = records::restores(self.call.ad, &self.operation).await?;
        let operations = records::now(self.call.ad, &self.operation).await?;
        let held = protect::held(cluster, &restores, &operations);
        let operations = operations.items;
        let readers = restores.items.iter().filter(|restore| self.may_be_read_by(restore));
        let records = operations.iter().map(|record| &**record);
        let mut protected = protect::protected(cluster, records.clone(), readers);
        let uncounted = protect::uncounted(records).into_iter().collect();
        protected.extend(self.read_now());
        protected.insert(self.frozen.key.clone(), "the backup that this is about".to_owned());
        let left = tidy::uncleaned(request::backups_of(cluster, &operations));
        let seal::Left { remove, clean } = seal::judged_anew(self, left, &operations).await;
        let orders = Orders {
            // What failed backups left is never a source.
            retention: self.frozen.retention.as_ref().filter(|_| held.is_none()),
            protected,
            uncounted,
            clean,
            remove,
            ..Orders::default()
        };
        Ok(match held {
            Some(held) if orders.clean.is_empty() && orders.remove.is_empty() => Ordered::Held(held),
            _ => Ordered::Now(orders),
        })
    }

    /// Whether a restore may read what this operation's Jobs may remove.
    pub(super) fn may_be_read_by(&self, restore: &OpenBaoRestore) -> bool {
        let own = self.call.ad.caches.cluster(&restore.namespace().unwrap_or_default(), &restore.spec.cluster);
        let own = own.as_ref().and_then(|cluster| cluster.spec.backup.as_ref()).map(|backup| &backup.target);
        protect::may_read(restore, own, &self.operation.namespace, &self.frozen.store)
    }

    /// Every removal, by its key; each is logged.
    async fn removed(&self, done: &PruneDone) -> Vec<String> {
        let all = if done.removed.len() < done.removed_count { self.pruned().await } else { None };
        let all = all.unwrap_or_else(|| done.removed.clone());
        for key in &all {
            tracing::info!(event = "BackupPruned", cluster = %self.operation.cluster, namespace = %self.operation.namespace, key = %key);
        }
        all
    }

    /// What somebody came to rely on while the Job was at work, to be told.
    async fn too_late(&self, cluster: &OpenBaoCluster, removed: &[String]) -> Result<Option<String>, MoverError> {
        if removed.is_empty() {
            return Ok(None);
        }
        let operations = records::now(self.call.ad, &self.operation).await?.items;
        let records = operations.iter().map(|record| &**record);
        // Restores wait until the Job is over.
        Ok(too_late(removed, &protect::protected(cluster, records, std::iter::empty())))
    }

    /// The keys that a termination message had no room for.
    async fn pruned(&self) -> Option<Vec<String>> {
        let map = mover::channel(self.call.ad, &self.operation).await.ok()??;
        serde_json::from_str(map.data?.get(PRUNED)?).ok()
    }

    async fn warn(&self, cluster: &OpenBaoCluster, warning: &str) {
        let annotations = [
            ("namespace", &self.operation.namespace),
            ("cluster", &self.operation.cluster),
            ("operation", &self.operation.name),
        ];
        let news = News {
            severity: Severity::Warning,
            reason: NOT_APPLIED.to_owned(),
            action: "Backup".to_owned(),
            note: format!("backup {}: {warning}", self.operation.name),
            annotations: annotations.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect(),
        };
        self.call.ad.events.publish(cluster, news).await;
    }
}

/// What became of the rules.
enum Applied {
    Held(Held),
    Done {
        done: PruneDone,
        /// What was removed although somebody relies on it by now.
        late: Option<String>,
    },
}

enum Ordered<'a> {
    Now(Orders<'a>),
    Held(Held),
}

/// What is put out instead of what was removed. What somebody has to see to is a warning.
fn left_undone(held: &Held) -> (&'static str, String) {
    match held {
        Held::Choosing(why) => (output::HELD, format!("{why}; the next backup tries again")),
        Held::Unreadable(why) => {
            (output::WARNING, format!("retention was not applied: {why}; the next backup tries again"))
        }
    }
}

/// A backup that is stored and verified does not fail any more. What is refused is tried again, and at the end told.
fn after_retention(outcome: StepOutcome, last: bool, over: bool) -> StepOutcome {
    let trouble = match outcome {
        StepOutcome::Failed { message, .. } if last => message,
        StepOutcome::Failed { reason, message, .. } => return StepOutcome::retryable(reason, message),
        StepOutcome::Waiting { reason, .. } if last && over => format!("its time is over: {reason}"),
        other => return other,
    };
    let warning = format!("retention was not applied: {trouble}; the next backup tries again");
    StepOutcome::done_with([(output::WARNING, warning)])
}

/// What came of a prune, as output of the step.
fn told(done: &PruneDone) -> BTreeMap<&'static str, String> {
    let mut told = BTreeMap::from([
        ("removed", done.removed_count.to_string()),
        ("finished", done.finished_count.to_string()),
        ("kept", done.kept_count.to_string()),
    ]);
    told.extend(done.failed.first().map(|first| {
        let warning = format!(
            "{} of the backups that are to go could not be removed: {}: {}; the next backup tries again",
            done.failed_count, first.key, first.reason
        );
        (output::WARNING, warning)
    }));
    told
}

/// What is gone and wanted by now, as a warning: whoever wanted it must not go on relying on it.
fn too_late(removed: &[String], wanted: &BTreeMap<String, String>) -> Option<String> {
    let lost: Vec<(&String, &String)> = removed.iter().filter_map(|key| wanted.get_key_value(key)).collect();
    let (key, why) = lost.first()?;
    let others = if lost.len() > 1 { format!(", and {} more", lost.len() - 1) } else { String::new() };
    Some(format!("wanted too late, while it was being removed, and gone: {key} ({why}){others}"))
}

/// What the Job that was to make room says, for a snapshot that found none all the same.
fn why_no_room(job: &str, found: Found<PruneDone>) -> Option<String> {
    match found {
        Found::Done(done) => {
            let done = done.counted();
            let removed = format!("the retention rules were applied first and removed {}", done.removed_count);
            Some(match told(&done).get(output::WARNING) {
                Some(warning) => format!("{removed}; {warning}"),
                None => removed,
            })
        }
        Found::Failed(Failure { message, .. }) | Found::Lost { message, .. } => {
            Some(format!("the retention rules could not be applied first (Job {job}): {message}"))
        }
        Found::Foreign => Some(format!("Job {job}, which was to make room, is not of this operation: delete it")),
        Found::Absent | Found::Running { .. } | Found::Podless { .. } => None,
    }
}

/// Whether this attempt follows one that found no room in the store.
fn was_full(step: &StepStatus) -> bool {
    let reason = step.error.as_deref().and_then(|error| error.split_once(": ")).map(|(reason, _)| reason);
    step.attempt > 1 && reason == Some(STORE_FULL)
}

/// Whether the retention of the cluster that `operation` backs up may ever remove what `restore` is to read. The latest never
/// goes, whatever the rules say.
pub fn could_take_source(operation: &OpenBaoOperation, restore: &OpenBaoRestore) -> bool {
    let (namespace, cluster) = (operation.namespace().unwrap_or_default(), &operation.spec.cluster);
    let source = &restore.spec.source;
    let own = *cluster == restore.spec.cluster && Some(&namespace) == restore.namespace().as_ref();
    operation.spec.operation == OperationKind::Backup
        && match &source.key {
            Some(key) => keys::is_of(key, &namespace, cluster),
            // By time it reads under its own namespace and cluster only.
            None => source.before.is_some() && own,
        }
}

/// Whether the retention of a backup is at work. Its journal says so before it begins; what came after that, it does not know of.
pub fn is_at_work(operation: &OpenBaoOperation) -> bool {
    let goes_on = matches!(operation.phase(), OperationPhase::Running | OperationPhase::Recovering);
    let mut steps = operation.status.iter().flat_map(|status| &status.steps);
    goes_on
        && steps.any(|step| match (step.name.as_str(), step.state) {
            // Between two attempts the first one's Job may still run.
            (RETENTION, StepState::Running | StepState::Pending) => step.attempt > 0,
            (SNAPSHOT, StepState::Running) => was_full(step),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::PINNED_ANNOTATION;
    use crate::datapath::protocol::{Cause, KeptKey};

    #[test]
    fn nothing_that_befalls_retention_fails_a_backup_that_is_stored() {
        let refused = || StepOutcome::fatal("KubernetesRefused", "exceeded quota");
        let again = StepOutcome::retryable("KubernetesRefused", "exceeded quota");
        assert_eq!(after_retention(refused(), false, false), again, "never for good");
        let StepOutcome::Done { output } = after_retention(refused(), true, false) else { panic!("not done") };
        assert!(output[output::WARNING].contains("exceeded quota"), "{output:?}");
        let waits = || StepOutcome::in_progress("Job kelp-prune-2 applies the retention rules");
        assert_eq!(after_retention(waits(), true, false), waits());
        assert_eq!(after_retention(waits(), false, true), waits(), "the next attempt has its own time");
        let StepOutcome::Done { output } = after_retention(waits(), true, true) else { panic!("not done") };
        assert!(output[output::WARNING].contains("time is over"), "{output:?}");
        assert_eq!(after_retention(StepOutcome::done(), true, true), StepOutcome::done());
    }

    #[test]
    fn an_object_that_cannot_be_read_is_warned_of_and_a_restore_that_chooses_is_not() {
        assert_eq!(left_undone(&Held::Choosing("restore pearl".into())).0, output::HELD);
        let (name, text) = left_undone(&Held::Unreadable("OpenBaoRestore reef/pearl cannot be read".into()));
        assert!(name == output::WARNING && text.contains("reef/pearl"), "{text}");
    }

    #[test]
    fn what_the_store_did_not_let_go_is_told_with_the_whole_numbers() {
        let stuck = KeptKey { key: "reef/kelp/a.snap".into(), reason: "legal hold".into() };
        let done = PruneDone { failed: vec![stuck], failed_count: 3, removed_count: 50, ..PruneDone::default() };
        let output = told(&done.counted());
        assert_eq!(output["removed"], "50");
        assert!(output[output::WARNING].starts_with("3 of the backups"), "{output:?}");
        assert!(output[output::WARNING].contains("reef/kelp/a.snap: legal hold"), "{output:?}");
        assert!(!told(&PruneDone::default()).contains_key(output::WARNING));
    }

    #[test]
    fn a_backup_that_was_pinned_while_it_was_being_removed_is_told_and_not_shown_as_kept() {
        let mut pinned = backup("Succeeded", json!([]));
        pinned.metadata.annotations = Some([(PINNED_ANNOTATION.to_owned(), "true".to_owned())].into());
        pinned.status.as_mut().unwrap().artifacts = serde_json::from_value(json!({"key": "reef/kelp/a.snap"})).unwrap();
        let cluster: OpenBaoCluster = serde_json::from_value(json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster", "metadata": {"name": "kelp", "namespace": "reef"},
            "spec": {"version": "2.7.2", "storage": {"size": "1Gi"}},
        }))
        .unwrap();
        let wanted = protect::protected(&cluster, [pinned].iter(), std::iter::empty());
        let gone = |keys: &[&str]| too_late(&keys.iter().map(ToString::to_string).collect::<Vec<_>>(), &wanted);
        let told = gone(&["reef/kelp/b.snap", "reef/kelp/a.snap"]).unwrap();
        assert!(told.contains("reef/kelp/a.snap (pinned)") && !told.contains("b.snap"), "{told}");
        assert_eq!(gone(&["reef/kelp/b.snap"]), None);
    }

    fn step(attempt: i32, error: Option<&str>) -> StepStatus {
        StepStatus { attempt, error: error.map(str::to_owned), ..StepStatus::default() }
    }

    #[test]
    fn only_the_attempt_after_a_full_store_makes_room_and_the_journal_says_so_first() {
        let full = Failure { cause: Cause::Store, reason: STORE_FULL.into(), message: "no room left".into() };
        let StepOutcome::Failed { message, retryable: true, .. } = super::super::steps::of_cause(&full) else {
            panic!("a full store is tried again")
        };
        assert!(was_full(&step(2, Some(&message))), "{message}");
        assert!(!was_full(&step(1, Some(&message))), "the attempt that failed");
        assert!(!was_full(&step(2, Some("StoreUnreachable: no route"))));
        assert!(!was_full(&step(2, None)));
    }

    #[test]
    fn a_store_that_is_full_again_says_why_no_room_was_made() {
        let stuck = KeptKey { key: "reef/kelp/a.snap".into(), reason: "access denied".into() };
        let done = PruneDone { removed: vec!["b".into()], failed: vec![stuck], ..PruneDone::default() };
        let why = why_no_room("kelp-room-2", Found::Done(done)).unwrap();
        assert!(why.contains("removed 1; 1 of the backups") && why.contains("a.snap: access denied"), "{why}");
        let why = why_no_room("kelp-room-2", Found::Done(PruneDone::default())).unwrap();
        assert!(why.ends_with("removed 0"), "the rules let nothing go: {why}");
        let refused = Failure { cause: Cause::Store, reason: String::new(), message: "access denied".into() };
        let why = why_no_room("kelp-room-2", Found::Failed(refused)).unwrap();
        assert!(why.contains("kelp-room-2") && why.contains("access denied"), "{why}");
        assert_eq!(why_no_room("kelp-room-2", Found::Absent), None, "whatever the reason, it is not the Job's");
    }

    fn backup(phase: &str, steps: Value) -> OpenBaoOperation {
        serde_json::from_value(json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": "nightly", "namespace": "reef"},
            "spec": {"cluster": "kelp", "operation": "Backup"},
            "status": {"phase": phase, "steps": steps},
        }))
        .unwrap()
    }

    fn restore(source: Value) -> OpenBaoRestore {
        serde_json::from_value(json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoRestore",
            "metadata": {"name": "pearl", "namespace": "reef"}, "spec": {"cluster": "kelp", "source": source},
        }))
        .unwrap()
    }

    #[test]
    fn a_retention_may_take_what_a_restore_names_among_its_clusters_backups_but_never_the_latest() {
        let takes = |source: Value| could_take_source(&backup("Running", json!([])), &restore(source));
        assert!(takes(json!({"key": "deep/reef/kelp/a.snap"})));
        assert!(takes(json!({"before": "2026-11-20T12:00:00Z"})));
        assert!(!takes(json!({"key": "deep/reef/coral/a.snap"})), "of another cluster");
        assert!(!takes(json!({"latest": true})));
        let mut elsewhere = restore(json!({"before": "2026-11-20T12:00:00Z"}));
        elsewhere.metadata.namespace = Some("lagoon".into());
        assert!(!could_take_source(&backup("Running", json!([])), &elsewhere), "it reads under its own namespace");
        let mut upgrade = backup("Running", json!([]));
        upgrade.spec.operation = OperationKind::Upgrade;
        assert!(!could_take_source(&upgrade, &restore(json!({"key": "deep/reef/kelp/a.snap"}))));
    }

    #[test]
    fn a_retention_is_at_work_from_its_journal_on_until_it_is_over() {
        let at_work = |phase: &str, steps: Value| is_at_work(&backup(phase, steps));
        let retention = |state: &str, attempt: i32| json!([{"name": "Retention", "state": state, "attempt": attempt}]);
        assert!(at_work("Running", retention("running", 1)));
        assert!(at_work("Running", retention("pending", 1)), "an attempt of it may still be at work");
        assert!(!at_work("Running", retention("pending", 0)));
        assert!(!at_work("Running", retention("completed", 1)));
        for phase in ["Succeeded", "Failed", "Unknown"] {
            assert!(!at_work(phase, retention("running", 1)), "{phase}");
        }
        let snapshot = |attempt: i32, error: &str| {
            let step = json!({"name": "Snapshot", "state": "running", "attempt": attempt, "error": error});
            json!([step])
        };
        assert!(!at_work("Running", snapshot(1, "")), "it only takes a snapshot");
        assert!(at_work("Running", snapshot(2, "StoreFull: no room")), "it makes room first");
    }
}
