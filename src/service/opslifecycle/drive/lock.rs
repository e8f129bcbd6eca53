//! The cluster's lock, as an operation takes it, shows what it is about, and gives it back.

use super::{
    super::{
        override_lock,
        saga::run::{LockSeen, Shows},
    },
    DriveError,
    pass::{Pass, now},
};
use crate::{
    adapter::{
        metrics::metrics,
        operationlock::{self, Claim, Force, LockError},
    },
    api::{
        cluster::status::{LockMode, OperationLock},
        operation::{LockPlan, OpenBaoOperation},
    },
};
use kube::ResourceExt;

impl Pass<'_> {
    pub(super) async fn acquire(&mut self) -> Result<(), DriveError> {
        let (Some(cluster), Some(planned)) =
            (self.cluster.clone(), self.run.journal().plan().and_then(|plan| plan.lock.clone()))
        else {
            return Ok(());
        };
        let ad = &*self.driver.ad;
        let standard = ad.settings.requeue_standard;
        if self.facts.lock == LockSeen::Free && !self.stands_ready().await? {
            return Ok(());
        }
        let claim = claim(&self.op, &planned);
        let lock = operationlock::of(&ad.client, &cluster)?;
        let acquired = match lock.acquire(&claim, Force::Never, self.facts.now).await {
            Err(LockError::Held { source, .. }) => {
                let mut permission = override_lock::orphaned(ad, &cluster, &source).await?;
                let orphan = matches!(permission, override_lock::Permission::Take { .. });
                // Nothing is made ready for a lock that even force does not get.
                if !orphan
                    && planned.force
                    && let Some(why) = override_lock::refused(ad, &cluster, &source).await?
                {
                    return Ok(self.run.blocked(&source, &why, standard, &self.facts)?);
                }
                // What would take it away from somebody is asked first as well: nobody is stopped for what cannot begin.
                if (orphan || planned.force) && !self.stands_ready().await? {
                    return Ok(());
                }
                if !orphan && planned.force {
                    permission = override_lock::may_take(ad, &self.op, &cluster, &source).await?;
                }
                match permission {
                    override_lock::Permission::Take { uid, fence } => {
                        let still = move |lock: &OperationLock| lock.holder_uid == uid && lock.fence == fence;
                        match lock.acquire(&claim, Force::If(&still), self.facts.now).await {
                            Err(LockError::Held { source, .. }) => {
                                return Ok(self.run.blocked(&source, "", standard, &self.facts)?);
                            }
                            other => other?,
                        }
                    }
                    override_lock::Permission::Wait { why } => {
                        return Ok(self.run.blocked(&source, &why, standard, &self.facts)?);
                    }
                }
            }
            other => other?,
        };
        // Also of a lock that was found to be ours: it may have been taken by a process that died before it wrote so.
        let replaced = acquired.lock.replaced.clone();
        if let Some(cluster) = self.cluster.as_mut() {
            let status = cluster.status.get_or_insert_default();
            status.operation_fence = Some(acquired.lock.fence.max(status.operation_fence.unwrap_or(0)));
            status.operation_lock = Some(acquired.lock.clone());
        }
        let lock = &acquired.lock;
        Ok(self.run.acquired(lock.fence, shows(lock), lock.acquired_at, replaced, &mut self.facts)?)
    }

    /// Whether the manager is ready for the lock. If not, the engine has been told why.
    async fn stands_ready(&mut self) -> Result<bool, DriveError> {
        let outcome = self.ready().await;
        self.facts.now = now();
        Ok(self.run.ready(outcome, self.driver.ad.settings.requeue_standard, &self.facts)?)
    }

    /// Lets the lock show what the engine wants others to know. A lock that is not this tenure's any more is left alone.
    pub(super) async fn renew(&mut self, fence: i64, wanted: Shows) -> Result<(), DriveError> {
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

    pub(super) async fn release(&mut self) -> Result<(), DriveError> {
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
}

pub(super) fn shows(lock: &OperationLock) -> Shows {
    Shows { parked: lock.mode == LockMode::Parked, committed: lock.committed == Some(true) }
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
