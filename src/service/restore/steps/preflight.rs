//! A mover downloads and verifies the snapshot while the lock is still free for others; later steps come back here when
//! the one that stood ready is gone.

use chrono::{DateTime, Utc};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{Step, judge, trouble};
use crate::datapath::protocol::{Cause, Failure, Report, ReportKind};
use crate::service::backup::jobs::{self, Source};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::mover::{self, Readiness};
use crate::service::restore::plan::{self, Inputs};

/// Runs until there is a report, good or bad: the verdict is the next step's.
pub async fn run(step: &Step<'_>) -> StepOutcome {
    if step.inputs.dry_run {
        // A mover that is not to submit ends by itself once it has reported.
        match step.movers.exchange().await {
            Ok(Some(exchange)) if exchange.report.as_ref().is_some_and(|r| r.kind == ReportKind::Verified) => {
                return StepOutcome::done();
            }
            Ok(_) => {}
            Err(error) => return trouble(&error),
        }
    }
    match ready(step).await {
        Ok(Prepared::Ready { .. } | Prepared::Refused(_)) => StepOutcome::done(),
        Ok(Prepared::Working(what)) => StepOutcome::in_progress(format!("waiting for {what}")),
        Err(outcome) => outcome,
    }
}

/// Whether a mover stands ready with a verified snapshot.
#[derive(Debug)]
pub enum Prepared {
    Ready {
        pod_uid: String,
        report: Box<Report>,
    },
    /// What is awaited.
    Working(String),
    /// The source itself is unfit.
    Refused(Box<Report>),
}

/// Sees to it that a mover stands ready: makes the first one, replaces one that ended before this attempt of the step
/// began, and fails the attempt when one ended during it.
pub async fn ready(step: &Step<'_>) -> Result<Prepared, StepOutcome> {
    let (exchange, current) =
        futures::try_join!(step.movers.exchange(), step.movers.current()).map_err(|error| trouble(&error))?;
    let number = current.as_ref().map_or(0, |current| current.number);
    let began = step.call.state.started_at;
    let before = |at: Option<DateTime<Utc>>| at.is_none_or(|at| began.is_none_or(|began| at < began));
    match mover::readiness(exchange.as_ref(), current.as_ref()) {
        Readiness::Ready { pod_uid, report } => Ok(Prepared::Ready { pod_uid, report }),
        Readiness::Working(what) => {
            if !may_speak(step) {
                let given = step.movers.let_speak(step.call.op, &step.inputs).await;
                given.map_err(|error| trouble(&error))?;
            }
            Ok(Prepared::Working(what))
        }
        Readiness::Reported(report) if report.kind == ReportKind::Refused => Ok(Prepared::Refused(report)),
        Readiness::Reported(report) if !before(Some(report.at)) => {
            Err(StepOutcome::retryable("PreflightFailed", report.message.clone()))
        }
        Readiness::Ended { at, failure, why } if !before(at) => Err(ended(failure.as_ref(), &why)),
        Readiness::Reported(_) | Readiness::Ended { .. } | Readiness::Absent => next(step, number).await,
    }
}

/// Whether the mover's binding is there, as far as the watches know.
fn may_speak(step: &Step<'_>) -> bool {
    let binding = ObjectRef::new(&jobs::mover_name(&step.call.op.name_any()));
    let binding = binding.within(&step.call.op.namespace().unwrap_or_default());
    step.call.ad.caches.role_bindings.get(&binding).is_some()
}

async fn next(step: &Step<'_>, number: i32) -> Result<Prepared, StepOutcome> {
    if !mover::may_follow(number) {
        return Err(StepOutcome::fatal(
            "TooManyDownloads",
            format!("{number} movers have ended before the snapshot could be submitted; nothing was changed"),
        ));
    }
    let most = step.call.cluster.and_then(jobs::max_expanded);
    let inputs = settled(&step.inputs, step.call.output(plan::JUDGE, judge::KEY));
    let started = step.movers.start(step.call.op, &inputs, most, number + 1, step.call.now).await;
    started.map_err(|error| trouble(&error))?;
    Ok(Prepared::Working("the mover's pod to start".to_owned()))
}

/// What a further mover is to fetch: the very backup that was judged, if one was. The safety backup is newer than the one
/// that "the latest" meant, and so is what a schedule took while the lock was waited for.
fn settled(inputs: &Inputs, judged: Option<&str>) -> Inputs {
    let mut inputs = inputs.clone();
    if let Some(key) = judged {
        inputs.source = Source::Key(key.to_owned());
    }
    inputs
}

/// Some causes come back whatever one does; the others may pass.
fn ended(failure: Option<&Failure>, why: &str) -> StepOutcome {
    let message = format!("the mover could not fetch and verify the snapshot: {why}. Nothing was changed");
    let Some(failure) = failure else { return StepOutcome::retryable("MoverEnded", message) };
    match failure.cause {
        Cause::Config => StepOutcome::fatal("MoverConfig", message),
        Cause::Integrity => StepOutcome::fatal("SnapshotDamaged", message),
        Cause::Space => StepOutcome::fatal("NoSpace", message),
        Cause::Auth => StepOutcome::retryable("MoverAccess", message),
        Cause::Store => StepOutcome::retryable("StoreFailed", message),
        Cause::Leader
        | Cause::Deadline
        | Cause::Kubernetes
        | Cause::Cancelled
        | Cause::Claimed
        | Cause::NotGranted
        | Cause::Refused
        | Cause::Unknown
        | Cause::Io => StepOutcome::retryable("MoverEnded", message),
    }
}
