//! A mover downloads and verifies the snapshot while the lock is still free for others; later steps come back here when
//! the one that stood ready is gone.

use std::time::{Duration, Instant};

use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{Sight, Step, judge, submit, trouble, unchanged};
use crate::datapath::protocol::{Cause, Failure, Peer, Report, ReportKind};
use crate::service::backup::jobs::{self, Source};
use crate::service::opslifecycle::RetryClass;
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::mover::{self, Readiness};
use crate::service::restore::plan::{self, Inputs};

/// How soon a mover that failed is followed by another while the lock is free: a store that is away is so for longer.
const PAUSE: Duration = Duration::from_secs(60);

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

/// Sees to it that a mover stands ready: makes the first one, replaces one that was made before this attempt of the step
/// began, and fails the attempt when its own one ended. Before the lock is taken nothing has begun and no attempts are counted:
/// there one that failed is followed by another after [`PAUSE`]. Past a rollback's point of no return there are as many as it takes.
pub async fn ready(step: &Step<'_>) -> Result<Prepared, StepOutcome> {
    let (exchange, current) =
        futures::try_join!(step.movers.exchange(), step.movers.current()).map_err(|error| trouble(&error))?;
    let (number, job) = current.as_ref().map_or((0, ""), |current| (current.number, current.job_uid.as_str()));
    let state = step.call.state;
    let own = step.witnesses.is_since(&step.uid, &state.name, state.attempt, job);
    let past = step.is_past_return();
    match turn(mover::readiness(exchange.as_ref(), current.as_ref()), own, number, past) {
        Turn::Go(prepared) => {
            if matches!(prepared, Prepared::Working(_)) && !may_speak(step) {
                let given = step.movers.let_speak(step.call.op, &step.inputs).await;
                given.map_err(|error| trouble(&error))?;
            }
            Ok(prepared)
        }
        Turn::Next => next(step, number).await,
        Turn::Fail(StepOutcome::Failed { message, retryable: true, .. }) if state.attempt == 0 => {
            let now = Instant::now();
            let since = step.witnesses.since(&step.uid, Sight::Ended(job.to_owned()), now);
            match another(number, past, Some(&message)) {
                Turn::Fail(spent) => Err(spent),
                _ if now.duration_since(since) >= PAUSE => next(step, number).await,
                _ => {
                    let reason = format!("{message}; before the lock is taken, another mover is made in a minute");
                    Err(StepOutcome::Waiting { reason, retry: RetryClass::Standard })
                }
            }
        }
        Turn::Fail(outcome) => Err(outcome),
    }
}

/// What follows from what the newest mover does.
#[derive(Debug)]
enum Turn {
    Go(Prepared),
    /// Another one is made.
    Next,
    Fail(StepOutcome),
}

/// `own`: the newest mover was made in this attempt of the step, so that its end is the attempt's. `number`: how many there
/// have been. `past`: see [`Step::is_past_return`].
fn turn(readiness: Readiness, own: bool, number: i32, past: bool) -> Turn {
    match readiness {
        Readiness::Ready { pod_uid, report } => Turn::Go(Prepared::Ready { pod_uid, report }),
        Readiness::Working(what) => Turn::Go(Prepared::Working(what)),
        Readiness::Reported(report) if report.kind == ReportKind::Refused => Turn::Go(Prepared::Refused(report)),
        Readiness::Reported(report) if own => {
            Turn::Fail(StepOutcome::retryable("PreflightFailed", report.message.clone()))
        }
        Readiness::Ended { failure, why } if own => Turn::Fail(ended(failure.as_ref(), past, &why)),
        Readiness::Reported(report) => another(number, past, Some(&report.message)),
        Readiness::Ended { why, .. } => another(number, past, Some(&why)),
        Readiness::Absent => another(number, past, None),
    }
}

/// Another mover, unless there have been enough; `last`: what became of the last one.
fn another(number: i32, past: bool, last: Option<&str>) -> Turn {
    if mover::may_follow(number, past) {
        return Turn::Next;
    }
    let last = last.map(|why| format!("; the last one: {why}")).unwrap_or_default();
    let message = format!("{number} movers have ended before the snapshot could be submitted{last}");
    Turn::Fail(StepOutcome::fatal("TooManyDownloads", unchanged(&message, past)))
}

/// Whether the mover's binding is there, as far as the watches know.
fn may_speak(step: &Step<'_>) -> bool {
    let binding = ObjectRef::new(&jobs::mover_name(&step.call.op.name_any()));
    let binding = binding.within(&step.call.op.namespace().unwrap_or_default());
    step.call.ad.caches.role_bindings.get(&binding).is_some()
}

async fn next(step: &Step<'_>, number: i32) -> Result<Prepared, StepOutcome> {
    let most = step.call.cluster.and_then(jobs::max_expanded);
    let inputs = settled(&step.inputs, step.call.output(plan::JUDGE, judge::KEY));
    let peers = login_at(step).await;
    let started = step.movers.start(step.call.op, &inputs, &peers, most, number + 1, step.call.now).await;
    started.map_err(|error| trouble(&error))?;
    Ok(Prepared::Working("the mover's pod to start".to_owned()))
}

/// The servers at which the mover tries its login; none where they are still to be made, by a rollback.
async fn login_at(step: &Step<'_>) -> Vec<Peer> {
    let Some(cluster) = step.cluster().ok().filter(|_| step.inputs.onto.is_none()) else { return Vec::new() };
    let members = step.members(cluster).await;
    members.iter().filter(|member| !member.terminating).filter_map(submit::peer).collect()
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
fn ended(failure: Option<&Failure>, past: bool, why: &str) -> StepOutcome {
    let message = unchanged(&format!("the mover could not fetch and verify the snapshot: {why}"), past);
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
        | Cause::Rehearsal
        | Cause::Io => StepOutcome::retryable("MoverEnded", message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(kind: ReportKind, message: &str) -> Readiness {
        Readiness::Reported(Box::new(Report {
            pod_uid: "p".into(),
            kind,
            reason: "R".into(),
            message: message.into(),
            inspection: None,
            manifest: None,
            key: None,
            sealed_sums: String::new(),
            sums: String::new(),
            // By the clock of a node that is years behind: nobody asks.
            at: chrono::DateTime::from_timestamp(1_000_000_000, 0).unwrap(),
        }))
    }

    fn gone() -> Readiness {
        Readiness::Ended { failure: None, why: "its Job was deleted".into() }
    }

    #[test]
    fn the_end_of_an_attempts_own_mover_fails_the_attempt_and_that_of_an_earlier_one_does_not() {
        let ends: [fn() -> Readiness; 2] = [|| reported(ReportKind::Failed, "no such bucket"), gone];
        for readiness in ends {
            for past in [false, true] {
                let turn = |own| turn(readiness(), own, 2, past);
                assert!(matches!(turn(true), Turn::Fail(StepOutcome::Failed { retryable: true, .. })));
                assert!(matches!(turn(false), Turn::Next));
            }
        }
        assert!(matches!(turn(reported(ReportKind::Refused, "m"), true, 1, false), Turn::Go(Prepared::Refused(_))));
        assert!(matches!(turn(Readiness::Absent, false, 0, false), Turn::Next));
    }

    #[test]
    fn the_last_of_too_many_downloads_says_what_became_of_it() {
        let spent = |readiness| match turn(readiness, false, 8, false) {
            Turn::Fail(StepOutcome::Failed { reason: "TooManyDownloads", message, retryable: false }) => message,
            other => panic!("{other:?}"),
        };
        let message = spent(reported(ReportKind::Failed, "no such bucket"));
        assert!(message.contains("8 movers") && message.contains("no such bucket"), "{message}");
        assert!(spent(gone()).contains("its Job was deleted. Nothing was changed"));
    }

    #[test]
    fn downloads_from_before_a_wipe_end_no_rollback_after_it_and_nobody_says_that_nothing_was_changed() {
        assert!(matches!(turn(gone(), false, 8, true), Turn::Next));
        let words = |turn| match turn {
            Turn::Fail(StepOutcome::Failed { message, .. }) => message,
            other => panic!("{other:?}"),
        };
        for (turned, why) in [
            (turn(gone(), true, 8, true), "its Job was deleted"),
            (turn(gone(), false, 10_000, true), "10000 movers"),
            (another(10_000, true, Some("no such bucket")), "no such bucket"),
        ] {
            let message = words(turned);
            assert!(message.contains(why) && !message.contains("othing was changed"), "{message}");
        }
    }
}
