//! One pass over one operation: fresh reads, one thing at a time, every write against what was read.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use tokio::time::Instant;

use super::{
    super::{
        audit,
        manager::{Manager, StepMode},
        override_lock, preflight, prune,
        retry::jitter,
        saga::{
            machine::{Journal, Subject},
            run::{Ask, Call, Facts, LockSeen, Run},
        },
    },
    Again, DriveError, Driver, IDLE, LONG, MOST_ASKS, is_over,
    lock::{claim, shows},
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            client::timed,
            events::{News, Severity},
            finalizer,
        },
    },
    api::{
        cluster::OpenBaoCluster,
        operation::{HistoryEntry, OPERATION_FINALIZER, OpenBaoOperation, OperationKind, StepKind},
    },
};

/// One pass over one operation.
pub(super) struct Pass<'a> {
    pub(super) driver: &'a Driver,
    pub(super) manager: Option<&'a dyn Manager>,
    pub(super) api: Api<OpenBaoOperation>,
    pub(super) op: OpenBaoOperation,
    pub(super) cluster: Option<OpenBaoCluster>,
    pub(super) uid: String,
    pub(super) facts: Facts,
    pub(super) run: Run,
}

impl<'a> Pass<'a> {
    pub(super) async fn begin(
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

    pub(super) async fn go(mut self) -> Result<Again, DriveError> {
        let begun = Instant::now();
        // What an earlier process may not have told any more.
        self.announce().await;
        for _ in 0..MOST_ASKS {
            self.facts.now = now();
            let gives_way = begun.elapsed() > LONG && self.driver.turns.are_awaited();
            if gives_way && is_long(self.run.journal()) {
                self.run.give_way();
            }
            match self.run.next(&self.facts)? {
                Ask::Commit => self.commit().await?,
                Ask::Plan => self.plan().await?,
                Ask::Look => {
                    self.look().await?;
                    self.run.looked();
                }
                Ask::Acquire => self.acquire().await?,
                Ask::Renew { fence, shows } => self.renew(fence, shows).await?,
                Ask::Call(call) if gives_way && may_leave(self.run.journal(), call) => {
                    return Ok(Again::After(Duration::ZERO));
                }
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
    pub(super) async fn look(&mut self) -> Result<(), DriveError> {
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

    pub(super) fn seen(&self) -> LockSeen {
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
        if !ends && !finalizer::is_on(&self.op, OPERATION_FINALIZER) && self.op.metadata.deletion_timestamp.is_none() {
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
        self.driver.remember(&self.uid, |remembered| remembered.told = last);
        // Events are sent on the side. What was told before the last write has had the time of that write to get there; the rest is
        // told again if this process dies now.
        if told > 0 {
            self.run.told(told);
        }
    }

    async fn closed(mut self) -> Result<Again, DriveError> {
        if finalizer::is_on(&self.op, OPERATION_FINALIZER) && self.lock_is_settled() {
            self.set_finalizer(false).await?;
        }
        // Nobody comes back to it.
        if self.facts.deleting || is_over(&self.op) {
            self.driver.forget(&self.uid);
        }
        prune::records(&self.driver.ad, &self.op, self.facts.now).await;
        Ok(Again::OnChange)
    }

    /// An operation that keeps its lock for a person stays until that person has spoken; deleting it speaks too.
    fn lock_is_settled(&self) -> bool {
        self.run.journal().lock().is_none() || self.facts.deleting
    }

    async fn set_finalizer(&mut self, wanted: bool) -> Result<(), DriveError> {
        let Some(patch) = finalizer::patch(&self.op, OPERATION_FINALIZER, wanted) else { return Ok(()) };
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

/// Whether it takes as long as its steps say. Only a workflow is as long as somebody wrote it; the other plans are short, and between
/// a step-down and the old leader's replacement nobody may go.
fn is_long(journal: &Journal) -> bool {
    journal.subject.kind == OperationKind::Workflow
}

/// Whether the pass may end right before `call`, which another one makes then, as after the end of a process. Not between a receipt and
/// its call: without it nobody knows whether the effect has happened. [`Run::give_way`] ends the pass before such a receipt.
fn may_leave(journal: &Journal, call: Call) -> bool {
    let step = journal.plan().and_then(|plan| plan.steps.get(call.step));
    let acts_once = call.mode == StepMode::Run && step.is_none_or(|step| step.kind == StepKind::OnceOnly);
    is_long(journal) && !acts_once
}

/// Whose journal it is.
pub(super) fn subject(op: &OpenBaoOperation) -> Subject {
    Subject {
        operation: op.name_any(),
        operation_uid: op.uid().unwrap_or_default(),
        namespace: op.namespace().unwrap_or_default(),
        cluster: op.spec.cluster.clone(),
        kind: op.spec.operation,
        actor: preflight::actor_of(op),
    }
}

/// Tells the log and the events of `op` what its history says.
pub(super) async fn tell(ad: &Adapters, op: &OpenBaoOperation, entry: &HistoryEntry) {
    let warning = audit::is_warning(&entry.event);
    audit::log_entry(entry, warning);
    if !audit::is_event(entry) {
        return;
    }
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
pub(super) fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operation::{OpenBaoOperationStatus, Plan, StepSpec};

    #[test]
    fn a_long_workflow_lets_others_have_their_turn_between_its_calls_but_not_between_a_receipt_and_its_call() {
        let may = |kind, step, mode| {
            let step = StepSpec { kind: step, ..StepSpec::default() };
            let plan = Plan { steps: vec![step], ..Plan::default() };
            let status = OpenBaoOperationStatus { plan: Some(plan), ..OpenBaoOperationStatus::default() };
            let subject = Subject { kind, ..Subject::default() };
            may_leave(&Journal { status, subject }, Call { step: 0, mode, undoes: None })
        };
        for step in [StepKind::Idempotent, StepKind::ReadVerify] {
            assert!(may(OperationKind::Workflow, step, StepMode::Run));
            assert!(may(OperationKind::Workflow, step, StepMode::Undo));
            assert!(!may(OperationKind::Upgrade, step, StepMode::Run), "leadership may be moving");
        }
        assert!(!may(OperationKind::Workflow, StepKind::OnceOnly, StepMode::Run));
        assert!(may(OperationKind::Workflow, StepKind::OnceOnly, StepMode::Prove));
    }
}
