//! The driver: it does what [`Run`](super::saga::run::Run) asks for, one thing at a time, and brings back the answer.
//!
//! All I/O of the engine is here and in what it calls. A pass begins with fresh reads, and every status write names the
//! resourceVersion that was read: two processes that both think they lead cannot both write, and the one that lost
//! stops before its next effect.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, SubsecRound, Utc};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use thiserror::Error;

use super::{
    audit,
    manager::{FinishCall, Manager, PlanCall, RefusalPhase, StepCall, StepMode, StepOutcome},
    override_lock, preflight, prune, record,
    retry::{ErrorClass, RetryClass, jitter},
    saga::{
        faults::Faults,
        machine::{Event, Illegal, Journal, Subject},
        plan,
        run::{Ask, Call, Facts, LockSeen, Run, Shows},
    },
    snapshot,
    workflow::Workflows,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            client::{RequestError, timed},
            events::{News, Severity},
        },
        metrics::metrics,
        operationlock::{self, Claim, Force, How, LockError},
    },
    api::{
        cluster::{
            OpenBaoCluster,
            status::{LockMode, OperationLock},
        },
        operation::{
            HistoryEntry, JOURNAL_VERSION, LockPlan, OPERATION_FINALIZER, OpenBaoOperation, OperationKind,
            OperationPhase,
        },
    },
};

/// One call of a manager may not take longer. Managers are level-triggered and answer `Waiting` long before.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// What a person or a change is waited for is looked at this often all the same.
const IDLE: Duration = Duration::from_secs(600);
/// One pass does at most this much before it lets others have a turn. A plan has at most 64 steps.
const MOST_ASKS: usize = 1000;

/// When to look at an operation again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// After this long, or when woken.
    After(Duration),
    /// When it changes.
    OnChange,
}

/// Why a pass came to no end. The next one starts from what is stored.
#[derive(Debug, Error)]
pub enum DriveError {
    /// The operation could not be read.
    #[error("failed to read the operation")]
    ReadOperation(#[source] RequestError),
    /// The cluster could not be read.
    #[error("failed to read cluster {name}")]
    ReadCluster {
        /// The cluster.
        name: String,
        /// What happened.
        source: RequestError,
    },
    /// The journal could not be written.
    #[error("failed to write the journal")]
    WriteJournal(#[source] RequestError),
    /// The finalizer could not be set or taken away.
    #[error("failed to change the finalizer")]
    Finalizer(#[source] RequestError),
    /// The lock could not be taken or given back.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal does not allow what follows from it.
    #[error("the journal is damaged")]
    Journal(#[from] Illegal),
    /// The operation whose lock is to be taken over could not be told to stop.
    #[error("failed to take over the lock")]
    Override(#[from] override_lock::OverrideError),
    /// This process no longer leads.
    #[error("this process does not lead any more")]
    NotLeader,
    /// Something asks for more and more.
    #[error("the operation makes no headway")]
    Endless,
}

impl DriveError {
    /// How soon to try again.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::WriteJournal(error) | Self::Finalizer(error) if error.is_conflict() => ErrorClass::Conflict,
            Self::ReadOperation(_)
            | Self::ReadCluster { .. }
            | Self::WriteJournal(_)
            | Self::Finalizer(_)
            | Self::Override(_)
            | Self::NotLeader => ErrorClass::Transient,
            Self::Lock(error) => match error {
                LockError::Request { .. }
                | LockError::Contended(_)
                | LockError::Held { .. }
                | LockError::ClusterGone(_) => ErrorClass::Transient,
                LockError::EmptyCluster
                | LockError::EmptyHolder
                | LockError::EmptyHolderUid
                | LockError::Refused { .. } => ErrorClass::Invalid,
            },
            Self::Journal(_) | Self::Endless => ErrorClass::Invalid,
        }
    }

    /// The variant's name, for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ReadOperation(_) => "ReadOperation",
            Self::ReadCluster { .. } => "ReadCluster",
            Self::WriteJournal(_) => "WriteJournal",
            Self::Finalizer(_) => "Finalizer",
            Self::Lock(_) => "Lock",
            Self::Journal(_) => "Journal",
            Self::Override(_) => "Override",
            Self::NotLeader => "NotLeader",
            Self::Endless => "Endless",
        }
    }
}

/// What this process remembers of an operation beside the journal. Losing it costs a repeated log line, no more.
#[derive(Clone, Copy, Debug, Default)]
struct Remembered {
    told: i64,
    message_written_at: Option<DateTime<Utc>>,
}

/// Drives operations.
pub struct Driver {
    ad: Arc<Adapters>,
    managers: Vec<Arc<dyn Manager>>,
    faults: Faults,
    writes: AtomicU64,
    remembered: Mutex<HashMap<String, Remembered>>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("managers", &self.managers.len()).finish_non_exhaustive()
    }
}

impl Driver {
    /// A driver for the kinds of these managers, and for workflows.
    pub fn new(ad: Arc<Adapters>, managers: Vec<Arc<dyn Manager>>, faults: Faults) -> Self {
        let mut managers = managers;
        managers.push(Arc::new(Workflows));
        Self { ad, managers, faults, writes: AtomicU64::new(0), remembered: Mutex::default() }
    }

    fn manager(&self, kind: OperationKind) -> Option<&dyn Manager> {
        self.managers.iter().find(|manager| manager.kinds().contains(&kind)).map(AsRef::as_ref)
    }

    /// Takes one operation as far as it goes now.
    pub async fn reconcile(&self, known: &OpenBaoOperation) -> Result<Again, DriveError> {
        if is_over(known) {
            self.forget(&known.uid().unwrap_or_default());
            return Ok(Again::OnChange);
        }
        if !self.ad.leadership.still_leader() {
            return Err(DriveError::NotLeader);
        }
        let namespace = known.namespace().unwrap_or_default();
        let api: Api<OpenBaoOperation> = Api::namespaced(self.ad.client.clone(), &namespace);
        let op = match timed(api.get_opt(&known.name_any())).await.map_err(DriveError::ReadOperation)? {
            Some(op) if op.uid() == known.uid() => op,
            // Gone, or another one under its name, which comes with an event of its own.
            _ => return Ok(Again::OnChange),
        };
        if is_over(&op) {
            return Ok(Again::OnChange);
        }
        let version = op.status.as_ref().and_then(|status| status.journal_version).unwrap_or(0);
        if version > JOURNAL_VERSION {
            tracing::error!(
                version,
                known = JOURNAL_VERSION,
                "the journal was written by a newer operator: left alone until that one runs again"
            );
            return Ok(Again::After(IDLE));
        }
        Pass::begin(self, api, op).await?.go().await
    }

    /// Forgets an operation that is over.
    fn forget(&self, uid: &str) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn remembered(&self, uid: &str) -> Remembered {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied().unwrap_or_default()
    }

    fn remember(&self, uid: &str, change: impl FnOnce(&mut Remembered)) {
        change(self.remembered.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_default());
    }

    /// Counts a status write and, if a test wants it, dies right after it as if killed.
    fn wrote(&self) {
        let writes = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if self.faults.crash_after_write == Some(writes) {
            std::process::abort();
        }
    }
}

/// Whether an operation has ended and nothing about it is left to do: no clean-up, no lock, no request.
fn is_over(op: &OpenBaoOperation) -> bool {
    let Some(status) = &op.status else { return false };
    let handled = |nonce: &str| status.handled_requests.iter().any(|seen| seen.nonce == nonce);
    status.phase.is_terminal()
        && !op.finalizers().iter().any(|finalizer| finalizer == OPERATION_FINALIZER)
        && op.spec.requests.iter().all(|request| handled(&request.nonce))
}

/// One pass over one operation.
struct Pass<'a> {
    driver: &'a Driver,
    manager: Option<&'a dyn Manager>,
    api: Api<OpenBaoOperation>,
    op: OpenBaoOperation,
    cluster: Option<OpenBaoCluster>,
    uid: String,
    facts: Facts,
    run: Run,
}

impl<'a> Pass<'a> {
    async fn begin(
        driver: &'a Driver,
        api: Api<OpenBaoOperation>,
        op: OpenBaoOperation,
    ) -> Result<Pass<'a>, DriveError> {
        let uid = op.uid().unwrap_or_default();
        let journal = Journal { status: op.status.clone().unwrap_or_default(), subject: subject(&op) };
        let run = Run::new(journal, op.spec.requests.clone(), driver.faults.clone());
        let manager = driver.manager(op.spec.operation);
        let facts = Facts {
            now: now(),
            deleting: op.metadata.deletion_timestamp.is_some(),
            cluster_gone: false,
            lock: LockSeen::Free,
            overridden_by: None,
            supported: manager.is_some(),
            message_written_at: driver.remembered(&uid).message_written_at,
        };
        let mut pass = Pass { driver, manager, api, op, cluster: None, uid, facts, run };
        pass.facts.overridden_by =
            override_lock::overrider(&driver.ad, &pass.op).map(|name| format!("operation {name}"));
        pass.look().await?;
        Ok(pass)
    }

    async fn go(mut self) -> Result<Again, DriveError> {
        // What an earlier process may not have told any more.
        self.announce().await;
        for _ in 0..MOST_ASKS {
            self.facts.now = now();
            match self.run.next(&self.facts)? {
                Ask::Commit => self.commit().await?,
                Ask::Plan => self.plan().await?,
                Ask::Look => {
                    self.look().await?;
                    self.run.looked();
                }
                Ask::Acquire => self.acquire().await?,
                Ask::Renew { fence, shows } => self.renew(fence, shows).await?,
                Ask::Call(call) => self.call(call).await?,
                Ask::Finish { ending } => self.finish(ending).await,
                Ask::Release => self.release().await?,
                Ask::Rest { after } => return Ok(Again::After(jitter(after, rand::random()))),
                Ask::Idle => return Ok(Again::After(jitter(IDLE, rand::random()))),
                Ask::Closed => return self.closed().await,
            }
        }
        Err(DriveError::Endless)
    }

    /// Reads the cluster, and with it the lock.
    async fn look(&mut self) -> Result<(), DriveError> {
        let name = self.op.spec.cluster.clone();
        let clusters: Api<OpenBaoCluster> =
            Api::namespaced(self.driver.ad.client.clone(), &self.op.namespace().unwrap_or_default());
        let found = timed(clusters.get_opt(&name)).await.map_err(|source| DriveError::ReadCluster { name, source })?;
        // One that was made later under the same name is not the one that this is about.
        let began_with = self.run.status().cluster_uid.clone();
        self.cluster = found.filter(|cluster| began_with.is_none() || cluster.uid() == began_with);
        self.facts.cluster_gone = self.cluster.is_none();
        self.facts.lock = self.seen();
        Ok(())
    }

    fn seen(&self) -> LockSeen {
        let lock = self.cluster.as_ref().and_then(|cluster| cluster.status.as_ref()?.operation_lock.as_ref());
        let Some(lock) = lock else { return LockSeen::Free };
        match self.run.journal().plan().and_then(|plan| plan.lock.as_ref()) {
            Some(planned) if claim(&self.op, planned).owns(lock) => {
                LockSeen::Ours { fence: lock.fence, shows: shows(lock) }
            }
            _ => LockSeen::Foreign { holder: lock.holder.clone() },
        }
    }

    async fn commit(&mut self) -> Result<(), DriveError> {
        let ends = self.run.status().phase.is_terminal();
        if !ends && !has_finalizer(&self.op) && self.op.metadata.deletion_timestamp.is_none() {
            self.set_finalizer(true).await?;
        }
        if !self.driver.ad.leadership.still_leader() {
            return Err(DriveError::NotLeader);
        }
        let message = self.op.status.as_ref().and_then(|status| status.message.clone());
        let mut body = self.op.clone();
        body.metadata.managed_fields = None;
        body.status = Some(self.run.status().clone());
        let written = timed(self.api.replace_status(&self.op.name_any(), &PostParams::default(), &body))
            .await
            .map_err(DriveError::WriteJournal)?;
        self.driver.wrote();
        self.run.committed();
        self.op.metadata = written.metadata;
        self.op.status = Some(self.run.status().clone());
        if self.run.status().message != message {
            self.driver.remember(&self.uid, |remembered| remembered.message_written_at = Some(self.facts.now));
            self.facts.message_written_at = Some(self.facts.now);
        }
        self.announce().await;
        Ok(())
    }

    /// Tells the log and the events what the history says since the last time.
    async fn announce(&mut self) {
        let told = self.driver.remembered(&self.uid).told.max(self.run.status().announced.unwrap_or(0));
        let stored = self.op.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
        let mut last = told;
        for entry in stored.iter().filter(|entry| entry.seq > told) {
            tell(&self.driver.ad, &self.op, entry).await;
            last = last.max(entry.seq);
        }
        if last > told || self.run.status().announced != Some(last).filter(|&last| last > 0) {
            self.driver.remember(&self.uid, |remembered| remembered.told = last);
            self.run.told(last);
        }
    }

    async fn plan(&mut self) -> Result<(), DriveError> {
        let ad = &*self.driver.ad;
        let Some(cluster) = &self.cluster else {
            let refusal = preflight::missing_cluster(&self.op, self.facts.now);
            return Ok(self.run.planned(Err(refusal), None, ad.settings.requeue_standard, &self.facts)?);
        };
        let Some(manager) = self.manager else { return Err(DriveError::Endless) };
        let ready = preflight::check(ad, &self.op, cluster, self.facts.now);
        let planned = match ready {
            Err(refusal) => Err(refusal),
            Ok(ready) => {
                let call = PlanCall { ad, op: &self.op, cluster, now: self.facts.now };
                let planned = match tokio::time::timeout(CALL_LIMIT, manager.plan(call)).await {
                    Ok(planned) => planned,
                    Err(_) => Err(preflight::no_answer()),
                };
                if planned.is_ok() {
                    let status = self.run.status_mut();
                    status.actor = ready.actor;
                    status.parent_operation = ready.parent;
                }
                planned
            }
        };
        // One that only waits to start is not worth a write at each look.
        let waits = planned.as_ref().is_err_and(|refusal| matches!(refusal.phase, RefusalPhase::Wait(_)));
        if !waits {
            let status = self.run.status_mut();
            status.cluster_uid = cluster.uid();
            status.snapshots.get_or_insert_default().pre = Some(snapshot::of(cluster, &ad.caches, self.facts.now));
        }
        self.run.planned(planned, manager.actions(), ad.settings.requeue_standard, &self.facts)?;
        self.facts.lock = self.seen();
        Ok(())
    }

    async fn acquire(&mut self) -> Result<(), DriveError> {
        let (Some(cluster), Some(planned)) =
            (&self.cluster, self.run.journal().plan().and_then(|plan| plan.lock.clone()))
        else {
            return Ok(());
        };
        let ad = &*self.driver.ad;
        if self.facts.lock == LockSeen::Free {
            let outcome = self.ready(planned.before.as_deref()).await;
            self.facts.now = now();
            if !self.run.ready(outcome, ad.settings.requeue_standard, &self.facts)? {
                return Ok(());
            }
        }
        let claim = claim(&self.op, &planned);
        let lock = operationlock::of(&ad.client, cluster)?;
        let acquired = match lock.acquire(&claim, Force::Never, self.facts.now).await {
            Err(LockError::Held { source, .. }) => {
                let permission = match override_lock::orphaned(ad, cluster, &source).await? {
                    override_lock::Permission::Wait { .. } if planned.force => {
                        override_lock::may_take(ad, &self.op, cluster, &source).await?
                    }
                    permission => permission,
                };
                match permission {
                    override_lock::Permission::Take { uid, fence } => {
                        let still = move |lock: &OperationLock| lock.holder_uid == uid && lock.fence == fence;
                        match lock.acquire(&claim, Force::If(&still), self.facts.now).await {
                            Err(LockError::Held { source, .. }) => {
                                return Ok(self.run.blocked(&source, "", &self.facts)?);
                            }
                            other => other?,
                        }
                    }
                    override_lock::Permission::Wait { why } => {
                        return Ok(self.run.blocked(&source, &why, &self.facts)?);
                    }
                }
            }
            other => other?,
        };
        let replaced = match &acquired.how {
            How::Replaced(before) => Some(format!(
                "{} {} (UID {}, fence {}, since {})",
                before.operation, before.holder, before.holder_uid, before.fence, before.acquired_at
            )),
            How::Taken | How::Renewed => None,
        };
        if let Some(cluster) = self.cluster.as_mut() {
            let status = cluster.status.get_or_insert_default();
            status.operation_fence = Some(acquired.lock.fence.max(status.operation_fence.unwrap_or(0)));
            status.operation_lock = Some(acquired.lock.clone());
        }
        let lock = &acquired.lock;
        Ok(self.run.acquired(lock.fence, shows(lock), lock.acquired_at, replaced, &mut self.facts)?)
    }

    /// Lets the lock show what the engine wants others to know. A lock that is not this tenure's any more is left alone.
    async fn renew(&mut self, fence: i64, wanted: Shows) -> Result<(), DriveError> {
        let (Some(cluster), Some(planned)) =
            (self.cluster.as_mut(), self.run.journal().plan().and_then(|plan| plan.lock.clone()))
        else {
            return Ok(());
        };
        if !self.driver.ad.leadership.still_leader() {
            return Err(DriveError::NotLeader);
        }
        let mut claim = claim(&self.op, &planned);
        claim.mode = if wanted.parked { LockMode::Parked } else { LockMode::Held };
        let renewed = operationlock::of(&self.driver.ad.client, cluster)?
            .renew(&claim, fence, wanted.committed, self.facts.now)
            .await?;
        match renewed {
            Some(lock) => {
                self.facts.lock = LockSeen::Ours { fence: lock.fence, shows: shows(&lock) };
                cluster.status.get_or_insert_default().operation_lock = Some(lock);
            }
            None => self.look().await?,
        }
        self.run.looked();
        Ok(())
    }

    /// Asks the manager whether it is ready for the lock, before its step `first`.
    async fn ready(&self, first: Option<&str>) -> StepOutcome {
        let (Some(manager), Some(plan)) = (self.manager, self.run.journal().plan()) else {
            return StepOutcome::done();
        };
        let place = first.and_then(|first| plan.steps.iter().position(|step| step.name == first)).unwrap_or_default();
        let Some(state) = self.run.journal().step(place) else { return StepOutcome::done() };
        let step = &plan.steps[place];
        let asked = StepCall {
            ad: &self.driver.ad,
            op: &self.op,
            cluster: self.cluster.as_ref(),
            step,
            state,
            inputs: &self.run.status().inputs,
            mode: StepMode::Run,
            fence: None,
            deadline: self.facts.now + chrono::TimeDelta::from_std(plan::timeout(step)).unwrap_or_default(),
            now: self.facts.now,
        };
        match tokio::time::timeout(CALL_LIMIT, manager.ready(asked)).await {
            Ok(outcome) => outcome,
            Err(_) => StepOutcome::in_progress("what has to stand ready for the lock does not answer"),
        }
    }

    async fn call(&mut self, call: Call) -> Result<(), DriveError> {
        let ad = &*self.driver.ad;
        let Some(manager) = self.manager else { return Err(DriveError::Endless) };
        if !ad.leadership.still_leader() {
            return Err(DriveError::NotLeader);
        }
        let (Some(plan), Some(state)) = (self.run.journal().plan(), self.run.journal().step(call.step)) else {
            return Err(DriveError::Endless);
        };
        let step = &plan.steps[call.step];
        let started = state.started_at.unwrap_or(self.facts.now);
        let deadline = started + chrono::TimeDelta::from_std(plan::timeout(step)).unwrap_or_default();
        let outcome = if let Some(injected) = self.run.injected(call) {
            injected
        } else {
            let asked = StepCall {
                ad,
                op: &self.op,
                cluster: self.cluster.as_ref(),
                step,
                state,
                inputs: &self.run.status().inputs,
                mode: call.mode,
                fence: self.run.journal().lock().map(|lock| lock.fence),
                deadline,
                now: self.facts.now,
            };
            match tokio::time::timeout(CALL_LIMIT, manager.run(asked)).await {
                Ok(outcome) => outcome,
                Err(_) => StepOutcome::Waiting {
                    reason: format!("step {} did not answer within {} s", step.name, CALL_LIMIT.as_secs()),
                    retry: RetryClass::ProgressPoll,
                },
            }
        };
        self.facts.now = now();
        let look_again = call.mode == StepMode::Run;
        self.run.answered(call, outcome, ad.settings.requeue_standard, &self.facts)?;
        // A step may have taken long, and what follows decides on the cluster as it is.
        if look_again && self.facts.now - started > chrono::TimeDelta::seconds(2) {
            self.look().await?;
        }
        Ok(())
    }

    async fn finish(&mut self, ending: OperationPhase) {
        let ad = &*self.driver.ad;
        let outcome = match (self.manager, self.run.journal().plan()) {
            (Some(manager), Some(_)) => {
                let call = FinishCall {
                    ad,
                    op: &self.op,
                    cluster: self.cluster.as_ref(),
                    ending,
                    deleting: self.facts.deleting,
                    now: self.facts.now,
                };
                match tokio::time::timeout(CALL_LIMIT, manager.finish(call)).await {
                    Ok(outcome) => outcome,
                    Err(_) => StepOutcome::in_progress("the clean-up does not answer"),
                }
            }
            // Never started, or run by nobody: there is nothing of it.
            _ => StepOutcome::done(),
        };
        if matches!(outcome, StepOutcome::Done { .. }) && ending == OperationPhase::Succeeded {
            if let Err(error) = self.look().await {
                tracing::warn!(error = %error, "the state after the operation is not recorded");
            } else if let Some(cluster) = &self.cluster {
                let post = snapshot::of(cluster, &ad.caches, self.facts.now);
                // Once: a process that dies after writing it must find nothing to write again, or it never gets past it.
                self.run.status_mut().snapshots.get_or_insert_default().post.get_or_insert(post);
            }
            if let Err(error) = self.mark_rolled_back().await {
                self.run.finished(
                    StepOutcome::in_progress(format!("the operation that was turned back is not marked yet: {error}")),
                    ad.settings.requeue_standard,
                    &self.facts,
                );
                return;
            }
        }
        self.run.finished(outcome, ad.settings.requeue_standard, &self.facts);
    }

    /// A rollback that succeeded turns the operation it names into `RolledBack`.
    async fn mark_rolled_back(&self) -> Result<(), RequestError> {
        let Some(name) = self.op.spec.lineage.as_ref().and_then(|lineage| lineage.rollback_of.as_ref()) else {
            return Ok(());
        };
        let Some(mut turned) = timed(self.api.get_opt(name)).await? else { return Ok(()) };
        let mut journal = Journal { status: turned.status.clone().unwrap_or_default(), subject: subject(&turned) };
        let event = Event::TurnedBack { by: self.op.name_any() };
        if let Err(illegal) = journal.apply(&event, self.facts.now) {
            // Marked before a crash, or by hand.
            tracing::debug!(%illegal, operation = %name, "is not marked as rolled back");
            return Ok(());
        }
        journal.status.conditions = record::conditions(&journal.status, self.facts.now);
        let entry = journal.status.history.last().cloned();
        turned.status = Some(journal.status);
        timed(self.api.replace_status(name, &PostParams::default(), &turned)).await?;
        if let Some(entry) = entry {
            tell(&self.driver.ad, &turned, &entry).await;
        }
        Ok(())
    }

    async fn release(&mut self) -> Result<(), DriveError> {
        let planned = self.run.journal().plan().and_then(|plan| plan.lock.clone());
        let fence = self.run.journal().lock().map(|lock| lock.fence);
        if let (Some(cluster), Some(planned)) = (&self.cluster, planned) {
            let claim = claim(&self.op, &planned);
            match operationlock::of(&self.driver.ad.client, cluster)?.release(&claim, fence).await {
                Ok(_) => {
                    let since = self.run.journal().lock().map(|lock| self.facts.now - lock.acquired_at);
                    let held = since.and_then(|since| since.to_std().ok()).unwrap_or_default();
                    metrics().lock_released(planned.operation.as_str(), held);
                }
                // Not ours any more: there is nothing to give back.
                Err(LockError::Held { .. } | LockError::ClusterGone(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.run.released(&mut self.facts)?)
    }

    async fn closed(mut self) -> Result<Again, DriveError> {
        if has_finalizer(&self.op) && self.lock_is_settled() {
            self.set_finalizer(false).await?;
        }
        prune::records(&self.driver.ad, &self.op, self.facts.now).await;
        Ok(Again::OnChange)
    }

    /// An operation that keeps its lock for a person stays until that person has spoken; deleting it speaks too.
    fn lock_is_settled(&self) -> bool {
        self.run.journal().lock().is_none() || self.facts.deleting
    }

    async fn set_finalizer(&mut self, wanted: bool) -> Result<(), DriveError> {
        let mut finalizers = self.op.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != OPERATION_FINALIZER);
        if wanted {
            finalizers.push(OPERATION_FINALIZER.to_owned());
        }
        let patch = json!({"metadata": {
            "resourceVersion": self.op.resource_version(),
            "finalizers": finalizers,
        }});
        match timed(self.api.patch_metadata(&self.op.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await
        {
            Ok(written) => {
                self.op.metadata = written.metadata;
                Ok(())
            }
            Err(error) if error.is_not_found() && !wanted => Ok(()),
            Err(error) => Err(DriveError::Finalizer(error)),
        }
    }
}

fn shows(lock: &OperationLock) -> Shows {
    Shows { parked: lock.mode == LockMode::Parked, committed: lock.committed == Some(true) }
}

fn has_finalizer(op: &OpenBaoOperation) -> bool {
    op.finalizers().iter().any(|finalizer| finalizer == OPERATION_FINALIZER)
}

/// The claim that an operation with this plan makes.
pub fn claim(op: &OpenBaoOperation, planned: &LockPlan) -> Claim {
    Claim {
        operation: planned.operation,
        holder: planned.holder.clone(),
        holder_uid: planned.holder_uid.clone(),
        operation_ref: op.metadata.name.clone(),
        message: planned.message.clone().unwrap_or_else(|| format!("operation {}", op.name_any())),
        mode: LockMode::Held,
    }
}

/// Whose journal it is.
fn subject(op: &OpenBaoOperation) -> Subject {
    Subject {
        operation: op.name_any(),
        operation_uid: op.uid().unwrap_or_default(),
        namespace: op.namespace().unwrap_or_default(),
        cluster: op.spec.cluster.clone(),
        kind: op.spec.operation,
        actor: op.spec.actor.as_ref().map_or_else(
            || preflight::verified_actor(op).map(|actor| actor.describe()).unwrap_or_default(),
            |actor| actor.identity.clone(),
        ),
    }
}

/// Tells the log and the events of `op` what its history says.
async fn tell(ad: &Adapters, op: &OpenBaoOperation, entry: &HistoryEntry) {
    let warning = audit::is_warning(&entry.event);
    audit::log_entry(entry, warning);
    let news = News {
        severity: if warning { Severity::Warning } else { Severity::Normal },
        reason: entry.event.clone(),
        action: op.spec.operation.as_str().to_owned(),
        note: note(entry),
        annotations: audit::flat(entry),
    };
    ad.events.publish(op, news).await;
}

/// The transition in a sentence.
fn note(entry: &HistoryEntry) -> String {
    let step = entry.fields.get("step").map(|step| format!("step {step}: ")).unwrap_or_default();
    let why = ["message", "error", "reason"].iter().find_map(|key| entry.fields.get(*key));
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{step}{} → {}{why}", entry.phase_from, entry.phase_to)
}

/// The present time, as precise as a status shows it.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}
