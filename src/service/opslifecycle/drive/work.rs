//! What the managers are asked: the plan, a step, the clean-up.

use kube::{Api, ResourceExt, api::PostParams, core::DeserializeGuard};

use super::{
    super::{
        asked, lineage,
        manager::{FinishCall, PlanCall, RefusalPhase, StepCall, StepMode, StepOutcome},
        paused::paused,
        preflight, record,
        retry::RetryClass,
        saga::{
            machine::{Event, Journal},
            plan,
            run::Call,
        },
        snapshot,
    },
    CALL_LIMIT, DriveError,
    pass::{Pass, now, subject, tell},
};
use crate::{
    adapter::kubernetes::{
        client::{RequestError, timed},
        readable,
    },
    api::operation::{OpenBaoOperation, OperationPhase},
};

impl Pass<'_> {
    pub(super) async fn plan(&mut self) -> Result<(), DriveError> {
        let ad = &*self.driver.ad;
        let Some(cluster) = &self.cluster else {
            let refusal = preflight::missing_cluster(&self.op, self.facts.now);
            return Ok(self.run.planned(Err(refusal), None, ad.settings.requeue_standard, &self.facts)?);
        };
        let Some(manager) = self.manager else { return Err(DriveError::Endless) };
        let ready = asked::check(&self.op, manager.parameters())
            .and_then(|()| preflight::check(ad, &self.op, cluster, self.facts.now));
        let planned = match ready {
            Err(refusal) => Err(refusal),
            Ok(ready) => {
                let call = PlanCall { ad, op: &self.op, cluster, now: self.facts.now };
                let planned = match tokio::time::timeout(CALL_LIMIT, manager.plan(call)).await {
                    Ok(planned) => planned,
                    Err(_) => Err(preflight::no_answer()),
                };
                if planned.is_ok() {
                    self.run.status_mut().parent_operation = ready.parent;
                }
                planned
            }
        };
        // One that only waits to start is not worth a write at each look.
        let waits = planned.as_ref().is_err_and(|refusal| matches!(refusal.phase, RefusalPhase::Wait(_)));
        if !waits {
            let status = self.run.status_mut();
            status.actor = preflight::verified_actor(&self.op);
            status.cluster_uid = cluster.uid();
            status.snapshots.get_or_insert_default().pre = Some(snapshot::of(cluster, &ad.caches, self.facts.now));
        }
        self.run.planned(planned, manager.actions(), ad.settings.requeue_standard, &self.facts)?;
        self.facts.lock = self.seen();
        Ok(())
    }

    /// Asks the manager whether it is ready for the lock. What has begun under an earlier tenure of it and takes it again has
    /// used up what stood ready, and is not asked for it once more; but what had ended since starts, which nothing does on a
    /// paused cluster.
    pub(super) async fn ready(&self) -> StepOutcome {
        if self.run.journal().begins_anew()
            && let Some(waits) = paused(self.cluster.as_ref())
        {
            return waits;
        }
        let (Some(manager), Some(plan)) = (self.manager, self.run.journal().plan()) else {
            return StepOutcome::done();
        };
        let Some(place) = self.run.journal().first_under_lock() else { return StepOutcome::done() };
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
            turns: &self.driver.turns,
            fence: None,
            deadline: self.facts.now + chrono::TimeDelta::from_std(plan::timeout(step)).unwrap_or_default(),
            now: self.facts.now,
        };
        match tokio::time::timeout(CALL_LIMIT, manager.ready(asked)).await {
            Ok(outcome) => outcome,
            Err(_) => StepOutcome::in_progress("what has to stand ready for the lock does not answer"),
        }
    }

    pub(super) async fn call(&mut self, call: Call) -> Result<(), DriveError> {
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
                turns: &self.driver.turns,
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

    pub(super) async fn finish(&mut self, ending: OperationPhase) {
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
        let done = matches!(outcome, StepOutcome::Done { .. });
        if done && ending == OperationPhase::Succeeded {
            if let Err(error) = self.look().await {
                tracing::warn!(error = %error, "the state after the operation is not recorded");
            } else if let Some(cluster) = &self.cluster {
                let seen = snapshot::of(cluster, &ad.caches, self.facts.now);
                let post = snapshot::after(&self.op, self.run.status(), cluster, seen);
                // Once: a process that dies after writing it must find nothing to write again, or it never gets past it.
                self.run.status_mut().snapshots.get_or_insert_default().post.get_or_insert(post);
            }
        }
        if done
            && lineage::has_turned_back(self.op.spec.operation, self.run.status(), ending)
            && let Err(error) = self.mark_rolled_back().await
        {
            self.run.finished(
                StepOutcome::in_progress(format!("the operation that was turned back is not marked yet: {error}")),
                ad.settings.requeue_standard,
                &self.facts,
            );
            return;
        }
        self.run.finished(outcome, ad.settings.requeue_standard, &self.facts);
    }

    /// A rollback that has turned back the operation it names makes that one `RolledBack`.
    async fn mark_rolled_back(&self) -> Result<(), RequestError> {
        let Some(name) = self.op.spec.lineage.as_ref().and_then(|lineage| lineage.rollback_of.as_ref()) else {
            return Ok(());
        };
        let guarded: Api<DeserializeGuard<OpenBaoOperation>> =
            Api::namespaced(self.driver.ad.client.clone(), &self.op.namespace().unwrap_or_default());
        let mut turned = match timed(guarded.get_opt(name)).await? {
            None => return Ok(()),
            Some(DeserializeGuard(Ok(turned))) => turned,
            // What nobody can read nobody can mark, and this operation has come to its end all the same.
            Some(DeserializeGuard(Err(object))) => {
                tracing::warn!("is not marked as rolled back: {}", readable::named::<OpenBaoOperation>(&object));
                return Ok(());
            }
        };
        // One that began before that was asked.
        if !lineage::turns_back(self.op.spec.operation, turned.spec.operation) {
            return Ok(());
        }
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
}
