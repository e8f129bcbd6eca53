//! What is to be done about backups, right now. Pure: the cluster, its operations and a time in, a decision out.
//!
//! Called from the cluster's reconcile. The order matters to the caller: create first, then write the status. Names are
//! deterministic, so whatever a crash leaves between the two is found again instead of done twice.

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::frozen::{NoIdentity, identity};
use super::request::{self, backups_of, is_verification, restore_tests_of};
use super::schedule::{Due, Planned, Schedule, ScheduleError};
use super::status::derive;
use super::store::{Store, StoreError};
use crate::api::{
    BackupSkip, BackupSpec, BackupStatus, LockMode, LockOperation, OpenBaoCluster, OpenBaoOperation, RestoreTestStatus,
};

/// Any new, non-empty value asks for one backup. Remembered by value, so that manifests may be applied again and again.
pub const TRIGGER_ANNOTATION: &str = "openbao.org/trigger-backup";

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct BackupFacts<'a, O> {
    pub cluster: &'a OpenBaoCluster,
    /// Operations of the namespace; those of other clusters and kinds are passed over.
    pub operations: &'a [O],
    /// A live restore of this cluster that waits or runs, by name (derived from the restores, not from the status).
    pub pending_restore: Option<&'a str>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackupDecision {
    /// Create this operation; that it exists already is as good.
    pub create: Option<OpenBaoOperation>,
    /// What `status.backup` is to say; `None`: nothing has ever been to say.
    pub status: Option<BackupStatus>,
    /// A scheduled run that is left out now: told once, as an event and a metric.
    pub skipped: Option<Skip>,
    /// Why nothing can be started until the spec changes.
    pub refused: Option<Refused>,
    /// When to decide again if nothing happens before.
    pub wake_at: Option<DateTime<Utc>>,
}

/// A scheduled run that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub at: DateTime<Utc>,
    /// One of the closed set in [`Hindrance::reason`]: a metric label.
    pub reason: &'static str,
    pub message: String,
}

/// A spec that cannot work, for a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("spec.backup.{0}")]
    Target(#[source] StoreError),
    #[error(transparent)]
    Identity(#[from] NoIdentity),
    #[error("spec.backup: {0}")]
    Schedule(#[source] ScheduleError),
    #[error("spec.backup.verify: {0}")]
    Verify(#[source] ScheduleError),
    #[error("spec.backup.restoreTest: {0}")]
    RestoreTest(#[source] ScheduleError),
}

impl Refused {
    /// Constant for a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Target(_) => "BackupTargetInvalid",
            Self::Identity(_) => "BackupIdentityMissing",
            Self::Schedule(_) => "BackupScheduleInvalid",
            Self::Verify(_) => "BackupVerifyScheduleInvalid",
            Self::RestoreTest(_) => "RestoreTestScheduleInvalid",
        }
    }
}

/// Decides. Makes at most one operation at a time; what else is due follows at once, because `wake_at` is then `now`.
pub fn decide<O: AsRef<OpenBaoOperation>>(facts: &BackupFacts<'_, O>, now: DateTime<Utc>) -> BackupDecision {
    let cluster = facts.cluster;
    let before = cluster.status.as_ref().and_then(|status| status.backup.clone());
    let records = backups_of(cluster, facts.operations).chain(restore_tests_of(cluster, facts.operations));
    let status = derive(&before.clone().unwrap_or_default(), records, now);
    let Some(spec) = &cluster.spec.backup else {
        return BackupDecision { status: before.map(|_| unplanned(status)), ..BackupDecision::default() };
    };
    let store = Store::freeze(&spec.target).map_err(Refused::Target);
    if let Err(refused) = store.and_then(|_| identity(cluster, spec).map_err(Refused::Identity)) {
        return BackupDecision { status: Some(unplanned(status)), refused: Some(refused), ..BackupDecision::default() };
    }
    Deciding { facts, spec, uid: cluster.metadata.uid.as_deref().unwrap_or_default(), now, status }.decide()
}

/// The past stays; nothing is planned any more.
fn unplanned(mut status: BackupStatus) -> BackupStatus {
    plan_test(&mut status, None);
    BackupStatus { next_run: None, next_verify: None, schedule: None, ..status }
}

/// A status that says nothing of restore tests has no place for them.
fn plan_test(status: &mut BackupStatus, next: Option<DateTime<Utc>>) {
    let test = RestoreTestStatus { next, ..status.restore_test.take().unwrap_or_default() };
    status.restore_test = (test != RestoreTestStatus::default()).then_some(test);
}

struct Deciding<'a, O> {
    facts: &'a BackupFacts<'a, O>,
    spec: &'a BackupSpec,
    uid: &'a str,
    now: DateTime<Utc>,
    status: BackupStatus,
}

impl<O: AsRef<OpenBaoOperation>> Deciding<'_, O> {
    fn decide(mut self) -> BackupDecision {
        let mut decision = BackupDecision::default();
        self.trigger(&mut decision);
        self.schedule(&mut decision);
        self.verify(&mut decision);
        self.restore_test(&mut decision);
        let planned = [self.status.next_run, self.status.next_verify, self.next_test()].into_iter().flatten().min();
        decision.wake_at = planned.map(|at| at.max(self.now));
        decision.status = Some(self.status);
        decision
    }

    /// A person's request: it waits while the cluster is paused, and else becomes an operation that does its own waiting.
    fn trigger(&mut self, decision: &mut BackupDecision) {
        let cluster = self.facts.cluster;
        let Some(value) = cluster.annotations().get(TRIGGER_ANNOTATION).filter(|value| !value.is_empty()) else {
            return;
        };
        if cluster.spec.paused || self.status.last_trigger.as_ref() == Some(value) {
            return;
        }
        decision.create = Some(request::triggered(cluster, value));
        self.status.last_trigger = Some(value.clone());
    }

    fn schedule(&mut self, decision: &mut BackupDecision) {
        let text = self.spec.schedule.as_deref().filter(|_| !self.spec.suspend);
        let schedule = match text {
            None => None,
            Some(text) => match Schedule::parse(text, self.spec.time_zone.as_deref(), self.spec.jitter.as_deref()) {
                Ok(schedule) => Some(schedule),
                Err(error) => {
                    decision.refused = Some(Refused::Schedule(error));
                    None
                }
            },
        };
        let Some(schedule) = schedule else {
            self.status.next_run = None;
            self.status.schedule = None;
            return;
        };
        let by = self.status.schedule.clone().unwrap_or_default();
        let planned = self.status.next_run.map(|at| Planned { at, by: &by });
        let due = schedule.due(planned, self.now, self.uid);
        if let Some(tick) = due.tick {
            if decision.create.is_some() {
                // One at a time: the tick stays due, and the next look finds the other one running.
                return;
            }
            self.tick(tick, &schedule, decision);
            self.status.last_scheduled = Some(tick);
        }
        self.status.next_run = Some(due.next);
        self.status.schedule = Some(schedule.text().to_owned());
    }

    fn tick(&mut self, tick: DateTime<Utc>, schedule: &Schedule, decision: &mut BackupDecision) {
        let cluster = self.facts.cluster;
        let name = request::scheduled_name(&cluster.name_any(), tick);
        let mut backups = backups_of(cluster, self.facts.operations);
        if backups.any(|operation| operation.name_any() == name) {
            // Made before a crash, or our view of the status is old: this tick has had its backup.
            return;
        }
        match self.hindrance() {
            None => decision.create = Some(request::scheduled(cluster, tick, schedule.text())),
            Some(hindrance) => {
                let (reason, message) = (hindrance.reason(), hindrance.to_string());
                self.status.last_skip =
                    Some(BackupSkip { at: Some(tick), reason: reason.to_owned(), message: message.clone() });
                decision.skipped = Some(Skip { at: tick, reason, message });
            }
        }
    }

    /// Why a scheduled backup is left out now.
    fn hindrance(&self) -> Option<Hindrance> {
        let cluster = self.facts.cluster;
        if cluster.spec.paused {
            return Some(Hindrance::Paused);
        }
        if let Some(restore) = self.facts.pending_restore {
            return Some(Hindrance::RestorePending(restore.to_owned()));
        }
        let status = cluster.status.as_ref();
        if let Some(lock) = status.and_then(|status| status.operation_lock.as_ref()) {
            let holder = lock.holder.clone();
            match (lock.operation, lock.mode) {
                (LockOperation::Restore, _) => return Some(Hindrance::Restore(holder)),
                (LockOperation::Upgrade, LockMode::Held) => return Some(Hindrance::Upgrade(holder)),
                // A parked upgrade lets backups run; maintenance is short, the operation waits for it.
                (LockOperation::Upgrade, LockMode::Parked)
                | (LockOperation::Maintenance | LockOperation::Backup, _) => {}
            }
        }
        if cluster.is_half_restored() {
            return Some(Hindrance::HalfRestored);
        }
        if let Some(running) = self.live(false) {
            return Some(Hindrance::Running(running));
        }
        if status.is_none_or(|status| status.initialized != Some(true)) {
            return Some(Hindrance::NotInitialized);
        }
        None
    }

    /// A backup (or a verification) that has not ended. One that works for a parent doesn't count: its parent does.
    fn live(&self, verification: bool) -> Option<String> {
        backups_of(self.facts.cluster, self.facts.operations)
            .filter(|operation| is_verification(operation) == verification && request::role(operation).is_none())
            .find(|operation| !operation.has_ended())
            .map(ResourceExt::name_any)
    }

    /// Reading back is harmless to the cluster, so neither a lock nor a pending restore stops it.
    fn verify(&mut self, decision: &mut BackupDecision) {
        let text = self.spec.verify.as_ref().and_then(|verify| verify.schedule.as_deref());
        let schedule = self.reading(text).unwrap_or_else(|error| {
            decision.refused.get_or_insert(Refused::Verify(error));
            None
        });
        let Some(schedule) = schedule else {
            self.status.next_verify = None;
            return;
        };
        let due = self.due(&schedule, self.status.next_verify);
        if let Some(tick) = due.tick
            && self.has_what_to_read()
            && self.live(true).is_none()
        {
            if decision.create.is_some() {
                return;
            }
            decision.create = Some(request::scheduled_verification(self.facts.cluster, tick, schedule.text()));
        }
        self.status.next_verify = Some(due.next);
    }

    /// The restored server stands beside the cluster and never meets it, so here too neither a lock nor a pending restore stops it.
    fn restore_test(&mut self, decision: &mut BackupDecision) {
        let text = self.spec.restore_test.as_ref().and_then(|test| test.schedule.as_deref());
        let schedule = self.reading(text).unwrap_or_else(|error| {
            decision.refused.get_or_insert(Refused::RestoreTest(error));
            None
        });
        let Some(schedule) = schedule else {
            plan_test(&mut self.status, None);
            return;
        };
        let due = self.due(&schedule, self.next_test());
        let (cluster, operations) = (self.facts.cluster, self.facts.operations);
        if let Some(tick) = due.tick
            && self.has_what_to_read()
            && restore_tests_of(cluster, operations).all(OpenBaoOperation::has_ended)
        {
            if decision.create.is_some() {
                return;
            }
            decision.create = Some(request::scheduled_restore_test(cluster, tick, schedule.text()));
        }
        plan_test(&mut self.status, Some(due.next));
    }

    /// The schedule of what reads backups, if there is one and it is not suspended.
    fn reading(&self, text: Option<&str>) -> Result<Option<Schedule>, ScheduleError> {
        let text = text.filter(|_| !self.spec.suspend);
        text.map(|text| Schedule::parse(text, self.spec.time_zone.as_deref(), None)).transpose()
    }

    /// Without jitter a plan carries its own proof: it stands if the schedule fires at that very time.
    fn due(&self, schedule: &Schedule, planned: Option<DateTime<Utc>>) -> Due {
        let planned = planned.filter(|at| schedule.fires_at(*at));
        schedule.due(planned.map(|at| Planned { at, by: schedule.text() }), self.now, self.uid)
    }

    /// Whether a scheduled read may start at all, and there is a backup to read.
    fn has_what_to_read(&self) -> bool {
        !self.facts.cluster.spec.paused && self.status.last_key.is_some()
    }

    fn next_test(&self) -> Option<DateTime<Utc>> {
        self.status.restore_test.as_ref()?.next
    }
}

/// What keeps a scheduled backup from being taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Hindrance {
    #[error("the cluster is paused (spec.paused): nothing new starts")]
    Paused,
    #[error("restore {0} waits or runs: nothing new starts until it has ended")]
    RestorePending(String),
    #[error("{0} holds the cluster's lock for a restore")]
    Restore(String),
    #[error("{0} holds the cluster's lock for an upgrade")]
    Upgrade(String),
    #[error("backup {0} has not ended yet")]
    Running(String),
    #[error("{}", super::gate::HALF_RESTORED)]
    HalfRestored,
    #[error("OpenBao is not initialised yet: there is nothing to back up")]
    NotInitialized,
}

impl Hindrance {
    fn reason(&self) -> &'static str {
        match self {
            Self::Paused => "Paused",
            Self::RestorePending(_) => "RestorePending",
            Self::Restore(_) => "RestoreHoldsLock",
            Self::Upgrade(_) => "UpgradeHoldsLock",
            Self::HalfRestored => "RollbackUnfinished",
            Self::Running(_) => "BackupRunning",
            Self::NotInitialized => "NotInitialized",
        }
    }
}

#[cfg(test)]
mod tests;
