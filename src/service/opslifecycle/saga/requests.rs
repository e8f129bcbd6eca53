//! What becomes of the requests that people put into `spec.requests`.
//!
//! Edge-triggered by nonce: a request is judged once, in the order of the list, and the verdict is written down together
//! with its effect. A manifest that still carries it can be applied for ever.

use chrono::{DateTime, Utc};

use super::{
    ABANDONED, CANCELLED, COMPENSATION_FAILED,
    machine::{Event, Journal},
    plan,
};
use crate::api::{
    common::{HandledRequest, Request, RequestAction, RequestOutcome},
    operation::{Direction, OperationPhase, StepKind, StepSpec, StepState, StepStatus},
};

/// The way out of an end that stays: only a workflow says of itself how often it may be tried again.
const ANEW: &str = "whatever it did is asked for anew. Of an upgrade that is a Retry in spec.requests of its OpenBaoCluster (kubectl \
                    openbao retry cluster/NAME), or another spec.version; of a rollout's member a Retry in spec.requests of its \
                    OpenBaoRollout";

/// The first request that has not been judged yet.
pub fn next<'a>(journal: &Journal, requests: &'a [Request]) -> Option<&'a Request> {
    requests.iter().find(|request| !journal.status.handled_requests.iter().any(|seen| seen.nonce == request.nonce))
}

/// The verdict on `request`, and the transitions that carry it out: all of them go into one write.
pub fn judge(journal: &Journal, requests: &[Request], request: &Request, now: DateTime<Utc>) -> Vec<Event> {
    let verdict = match request.action {
        RequestAction::Cancel => cancel(journal, request),
        RequestAction::Skip => skip(journal, request),
        RequestAction::Retry => retry(journal, request),
        RequestAction::Resume => resume(journal, request),
        RequestAction::Abandon => abandon(journal, request),
        RequestAction::Stop | RequestAction::Release => {
            refused("an operation understands Cancel, Skip, Retry, Resume and Abandon; Release belongs on the cluster")
        }
    };
    let Verdict { outcome, message, event } = verdict;
    let handled =
        HandledRequest { nonce: request.nonce.clone(), action: request.action, outcome, message, at: Some(now) };
    let present = requests.iter().map(|request| request.nonce.clone()).collect();
    event.into_iter().chain([Event::RequestHandled { request: handled, by: asker(request), present }]).collect()
}

struct Verdict {
    outcome: RequestOutcome,
    message: String,
    event: Option<Event>,
}

fn applied(message: impl Into<String>, event: Event) -> Verdict {
    Verdict { outcome: RequestOutcome::Applied, message: message.into(), event: Some(event) }
}

fn refused(message: impl Into<String>) -> Verdict {
    Verdict { outcome: RequestOutcome::Refused, message: message.into(), event: None }
}

fn superseded(message: impl Into<String>) -> Verdict {
    Verdict { outcome: RequestOutcome::Superseded, message: message.into(), event: None }
}

/// Who asks, as far as the request says.
pub fn asker(request: &Request) -> String {
    if request.by.is_empty() { "somebody".to_owned() } else { request.by.clone() }
}

/// The way back, or the end at once when nothing has begun. `None` past the point of no return.
pub fn turn_back(journal: &Journal, message: &str) -> Option<Event> {
    let status = &journal.status;
    let ending = OperationPhase::Cancelled;
    let (reason, message) = (CANCELLED.to_owned(), message.to_owned());
    if status.point_of_no_return_at.is_some() {
        None
    } else if status.phase == OperationPhase::Pending {
        Some(Event::Ending { phase: ending, reason, message })
    } else {
        Some(Event::Unwind { ending, reason, message })
    }
}

fn cancel(journal: &Journal, request: &Request) -> Verdict {
    let status = &journal.status;
    if status.phase.is_terminal() {
        return superseded(format!("the operation has already ended as {}", status.phase.as_str()));
    }
    if status.phase == OperationPhase::Unknown {
        return refused("the outcome is unknown and cannot be undone: say Resume to prove it again, or Abandon");
    }
    if status.ending.is_some() {
        return superseded("the operation is already on its way to an end");
    }
    let why = if request.reason.is_empty() { String::new() } else { format!(": {}", request.reason) };
    match turn_back(journal, &format!("cancelled by {}{why}", asker(request))) {
        Some(event) => applied("what was done is undone", event),
        None => {
            refused("the operation is past its point of no return: let it end, then start a new one with rollbackOf")
        }
    }
}

fn skip(journal: &Journal, request: &Request) -> Verdict {
    let Some(plan) = journal.plan() else { return refused("the operation has no plan yet") };
    let Some(index) = plan.steps.iter().position(|step| step.name == request.step) else {
        return refused(format!("there is no step {:?}; see status.steps", request.step));
    };
    let step = &plan.steps[index];
    if plan::compensations(plan).contains(step.name.as_str()) {
        return refused(format!("step {} only undoes another one", step.name));
    }
    if !step.skippable {
        return refused(format!("step {} is not marked as skippable", step.name));
    }
    if journal.status.phase.is_terminal()
        || journal.status.ending.is_some()
        || journal.status.direction == Direction::Unwinding
    {
        return superseded("the operation no longer goes forward");
    }
    if journal.status.phase == OperationPhase::Unknown {
        return refused("the operation waits for Resume or Abandon");
    }
    if let Some(reader) = plan.steps.iter().find(|reader| reader.needs_output.contains(&step.name)) {
        return refused(format!("step {} needs the output of {}", reader.name, step.name));
    }
    let Some(known) = journal.step(index) else { return refused("the journal knows no such step") };
    let leave_out = || {
        let event = Event::StepSkipped { step: index, by: asker(request), why: request.reason.clone() };
        applied(format!("step {} is left out", step.name), event)
    };
    let past = journal.status.point_of_no_return_at.is_some();
    match known.state {
        StepState::Pending => leave_out(),
        StepState::Skipped | StepState::Completed => superseded(format!("step {} is already over", step.name)),
        StepState::Running if past && leaves_nothing(step, known) => leave_out(),
        _ if past => refused(format!("step {} has begun and cannot be left out any more: wait for its end", step.name)),
        // Others may have begun under its lock since, and it waits for them.
        _ if known.parked_at.is_some() => refused(format!("step {} is parked: say Resume, or Cancel", step.name)),
        _ => refused(format!("step {} has begun: wait for its end, or Cancel", step.name)),
    }
}

/// Whether a step that runs may be left out half-way: nothing of it would have to be proven, or undone. It is the way out past the
/// point of no return, where nobody can cancel; before it, Cancel leaves less behind.
fn leaves_nothing(step: &StepSpec, known: &StepStatus) -> bool {
    step.kind != StepKind::OnceOnly && step.compensate.is_none() && known.receipt.is_none()
}

fn retry(journal: &Journal, request: &Request) -> Verdict {
    let status = &journal.status;
    let most = journal.plan().and_then(|plan| plan.max_retries).unwrap_or(0);
    if !status.phase.is_terminal() {
        return refused("the operation has not ended; failed steps are tried again by their own retry policy");
    }
    if status.phase != OperationPhase::Failed || status.direction != Direction::Forward {
        return refused(format!("an operation that ended as {} is not tried again: {ANEW}", status.phase.as_str()));
    }
    if !status.steps.iter().any(|step| step.state == StepState::Failed) {
        return refused("no step of it failed");
    }
    if most == 0 {
        return refused(format!("its plan allows no retries: {ANEW}"));
    }
    if status.retry_count.unwrap_or(0) >= most {
        return refused(format!("its plan allows {most} retries, and they are used up: {ANEW}"));
    }
    applied("failed steps are tried again, completed ones are not", Event::Reopened { by: asker(request) })
}

fn resume(journal: &Journal, request: &Request) -> Verdict {
    let status = &journal.status;
    if status.closing == Some(true) {
        // Whoever ends it decides about its lock by the reason that stands in the journal, which a Resume would take away.
        let ending = status.ending.unwrap_or(OperationPhase::Failed);
        return superseded(format!("the operation is about to end as {}", ending.as_str()));
    }
    if status.phase == OperationPhase::Unknown {
        return applied("the outcome is proven again", Event::Resumed { by: asker(request) });
    }
    if status.phase.is_terminal() {
        return superseded(format!("the operation has already ended as {}", status.phase.as_str()));
    }
    match journal.parked() {
        Some(step) if status.direction == Direction::Forward && status.ending.is_none() => applied(
            format!("step {} goes on", status.steps[step].name),
            Event::StepResumed { step, by: asker(request) },
        ),
        _ => refused(format!(
            "only an operation in Unknown, or one that is parked, is resumed; this one is {}",
            status.phase.as_str()
        )),
    }
}

fn abandon(journal: &Journal, request: &Request) -> Verdict {
    let status = &journal.status;
    if status.phase == OperationPhase::Unknown {
        let message = format!("given up by {}; what became of the cluster was not proven", asker(request));
        let reason = ABANDONED.to_owned();
        return applied(
            "it ends as failed and its lock is released",
            Event::Ending { phase: OperationPhase::Failed, reason, message },
        );
    }
    if status.reason.as_deref() == Some(COMPENSATION_FAILED) && journal.lock().is_some() {
        return applied("its lock is released", Event::LockGivenUp);
    }
    let phase = status.phase.as_str();
    if status.phase.is_terminal() {
        superseded(format!("the operation has already ended as {phase}"))
    } else if status.point_of_no_return_at.is_some() {
        refused(format!(
            "only an operation in Unknown is abandoned; this one is {phase} and past its point of no return: wait for its end, \
             or say Skip to the step that runs, if its plan marks it as skippable"
        ))
    } else {
        refused(format!("only an operation in Unknown is abandoned; this one is {phase}: say Cancel"))
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
