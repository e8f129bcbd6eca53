//! What follows a mover that ended badly, or a backup that proves to be none: nothing of it may stay in the store, and
//! nothing good in it may be lost.

use super::found::Found;
use super::jobs::{Orders, Source, Task};
use super::mover;
use super::steps::{Work, failed, foreign, of_cause, running};
use crate::adapter::objectstore::keys;
use crate::datapath::protocol::{BackupDone, Failure, PruneDone, REPORT, Report, ReportKind, VerifyDone};
use crate::service::opslifecycle::StepOutcome;

impl Work<'_> {
    /// A mover that ended without a word may have left an object without a manifest, or even a whole backup.
    pub(super) async fn after_loss(&self, lost: &str, reason: &'static str, message: &str) -> StepOutcome {
        if let Some(reported) = self.reported().await {
            return reported;
        }
        let name = self.job_name("clean");
        let found = match self.look::<PruneDone>(&name).await {
            Ok(found) => found,
            Err(error) => return failed(&error),
        };
        let what = format!("removes what Job {lost} may have left ({message})");
        match found {
            Found::Absent => {
                let orders = Orders { clean: vec![self.frozen.key.clone()], ..Orders::default() };
                self.begin(&name, Task::Prune(orders), &what).await
            }
            Found::Running { trouble, .. } => running(&name, &what, trouble),
            Found::Done(done) if done.kept.iter().any(|kept| kept.key == self.frozen.key) => self.adopt(lost).await,
            Found::Done(_) => StepOutcome::retryable(reason, format!("{message}; nothing of it is left in the store")),
            Found::Failed(Failure { message: trouble, .. }) | Found::Lost { message: trouble, .. } => {
                let key = &self.frozen.key;
                let message =
                    format!("{message}; {key} may be left in the store, Job {name} could not remove it: {trouble}");
                StepOutcome::retryable(reason, message)
            }
            Found::Foreign => foreign(&name),
        }
    }

    /// What the mover wrote into its config map before its pod was lost. It reports a success only after its last look at
    /// object and manifest, so that word is as good as the pod's.
    pub(super) async fn reported(&self) -> Option<StepOutcome> {
        let map = mover::channel(self.call.ad, &self.operation).await.ok()??;
        let report: Report = serde_json::from_str(map.data?.get(REPORT)?).ok()?;
        let (manifest, inspection) = (report.manifest?, report.inspection?);
        let good = report.kind == ReportKind::Verified && manifest.key == self.frozen.key;
        good.then(|| {
            self.stored(&BackupDone {
                manifest_key: keys::manifest_key(&manifest.key),
                key: manifest.key,
                sha256: manifest.sha256,
                size_bytes: manifest.size_bytes,
                taken_at: manifest.taken_at,
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
            Ok(Found::Done(done)) => self.verified(&done, self.call.op.status.as_ref().and_then(|s| s.started_at)),
            Ok(Found::Failed(failure)) => of_cause(&failure),
            Ok(Found::Lost { reason, message }) => StepOutcome::retryable(reason, message),
            Ok(Found::Foreign) => foreign(&name),
        }
    }

    /// A backup that this cluster's key cannot open is none: it must not be there on the worst day.
    pub(super) async fn discard(&self, reason: &'static str, message: &str) -> StepOutcome {
        let name = self.job_name("discard");
        let key = &self.frozen.key;
        match self.look::<PruneDone>(&name).await {
            Err(error) => failed(&error),
            Ok(Found::Absent) => {
                let orders = Orders { remove: vec![key.clone()], ..Orders::default() };
                self.begin(&name, Task::Prune(orders), &format!("removes {key}: {message}")).await
            }
            Ok(Found::Running { trouble, .. }) => running(&name, &format!("removes {key}: {message}"), trouble),
            Ok(Found::Done(_)) => StepOutcome::fatal(reason, format!("{message}; {key} was removed")),
            Ok(Found::Failed(Failure { message: trouble, .. }) | Found::Lost { message: trouble, .. }) => {
                let message = format!("{message}; {key} could not be removed: {trouble}");
                StepOutcome::Failed { reason, message, retryable: true }
            }
            Ok(Found::Foreign) => foreign(&name),
        }
    }
}
