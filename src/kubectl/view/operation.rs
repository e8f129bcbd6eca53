//! Operations: as a list, and one with its steps as a tree.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;

use super::operation_tone;
use crate::api::{OpenBaoOperation, OperationPhase, StepState, StepStatus};
use crate::kubectl::table::{Cell, Paint, Table, Tone, WIDTH, ago, bytes, fact, length, shorten, span};

/// What `ops` filters by.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub cluster: Option<String>,
    pub name: Option<String>,
    pub phase: Option<OperationPhase>,
    pub since: Option<DateTime<Utc>>,
    /// As asked for; see [`Filter::limit`].
    pub limit: i64,
}

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MOST: usize = 200;

impl Filter {
    fn limit(&self) -> usize {
        match usize::try_from(self.limit) {
            Ok(0) | Err(_) => LIMIT_DEFAULT,
            Ok(limit) => limit.min(LIMIT_MOST),
        }
    }

    /// The operations that pass, newest first.
    pub fn apply(&self, mut operations: Vec<OpenBaoOperation>) -> Vec<OpenBaoOperation> {
        operations.retain(|operation| {
            self.cluster.as_ref().is_none_or(|cluster| *cluster == operation.spec.cluster)
                && self.name.as_ref().is_none_or(|name| operation.name_any().contains(name.as_str()))
                && self.phase.is_none_or(|phase| phase == phase_of(operation))
                && self.since.is_none_or(|since| begun(operation).is_some_and(|at| at >= since))
        });
        operations.sort_by_key(|operation| std::cmp::Reverse((begun(operation), operation.name_any())));
        operations.truncate(self.limit());
        operations
    }
}

/// The phase by the name that `--status` is given, whatever its case.
pub fn phase_named(name: &str) -> Option<OperationPhase> {
    ALL_PHASES.into_iter().find(|phase| phase.as_str().eq_ignore_ascii_case(name))
}

pub const ALL_PHASES: [OperationPhase; 9] = [
    OperationPhase::Pending,
    OperationPhase::ConstraintFailed,
    OperationPhase::Running,
    OperationPhase::Succeeded,
    OperationPhase::Failed,
    OperationPhase::Recovering,
    OperationPhase::RolledBack,
    OperationPhase::Cancelled,
    OperationPhase::Unknown,
];

pub fn phase_of(operation: &OpenBaoOperation) -> OperationPhase {
    operation.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// When it started, or was asked for.
pub fn begun(operation: &OpenBaoOperation) -> Option<DateTime<Utc>> {
    let started = operation.status.as_ref().and_then(|status| status.started_at);
    started.or_else(|| operation.metadata.creation_timestamp.as_ref().map(crate::adapter::kubernetes::time::from_kube))
}

/// The list.
pub fn list(operations: &[OpenBaoOperation], namespaces: bool, now: DateTime<Utc>, paint: Paint) -> String {
    let mut header = vec!["NAME", "CLUSTER", "OPERATION", "PHASE", "STEPS", "BEGAN", "TOOK", "MESSAGE"];
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    let mut table = Table::new(header).whole(&["NAMESPACE", "NAME"]);
    for operation in operations {
        let phase = phase_of(operation);
        let status = operation.status.clone().unwrap_or_default();
        let mut cells: Vec<Cell> = vec![
            operation.name_any().into(),
            operation.spec.cluster.clone().into(),
            operation.spec.operation.as_str().into(),
            Cell::toned(phase.as_str(), operation_tone(phase)),
            progress(&status.steps).into(),
            begun(operation).map(|at| ago(at, now)).unwrap_or_default().into(),
            took(operation, now).map(span).unwrap_or_default().into(),
            status.message.unwrap_or_default().into(),
        ];
        if namespaces {
            cells.insert(0, operation.namespace().unwrap_or_default().into());
        }
        table.row(cells);
    }
    table.render(paint)
}

fn took(operation: &OpenBaoOperation, now: DateTime<Utc>) -> Option<TimeDelta> {
    let status = operation.status.as_ref()?;
    Some(status.ended_at.unwrap_or(now) - status.started_at?)
}

/// `3/5`: steps done, of all.
pub fn progress(steps: &[StepStatus]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let done = steps.iter().filter(|step| matches!(step.state, StepState::Completed | StepState::Skipped)).count();
    format!("{done}/{}", steps.len())
}

/// The step under way, and what it waits for.
pub fn current_step(steps: &[StepStatus]) -> Option<&StepStatus> {
    steps.iter().find(|step| matches!(step.state, StepState::Running | StepState::Compensating))
}

/// One operation in full.
pub fn tree(operation: &OpenBaoOperation, now: DateTime<Utc>, paint: Paint) -> String {
    let mut out = String::new();
    let status = operation.status.clone().unwrap_or_default();
    let phase = status.phase;
    let spec = &operation.spec;
    let title = format!("{} of cluster {}", spec.operation.as_str(), spec.cluster);
    let _ = writeln!(out, "{}  {title}  {}", operation.name_any(), paint.on(phase.as_str(), operation_tone(phase)));
    let plain = Tone::Plain;
    if let Some(message) = &status.message {
        fact(&mut out, "Message", message, operation_tone(phase), paint);
    }
    if let Some(actor) = &spec.actor {
        fact(&mut out, "Asked by", &format!("{} ({})", actor.identity, actor.source.as_str()), plain, paint);
    }
    if let Some(intent) = &spec.intent {
        fact(&mut out, "Why", intent, plain, paint);
    }
    if let Some(at) = begun(operation) {
        let mut text = format!("{} ({})", at.format("%Y-%m-%d %H:%M:%S UTC"), ago(at, now));
        if let Some(delta) = took(operation, now) {
            let word = if status.ended_at.is_some() { "took" } else { "running for" };
            let _ = write!(text, ", {word} {}", span(delta));
        }
        fact(&mut out, "Began", &text, plain, paint);
    }
    if let Some(lock) = &status.lock {
        let text = match (lock.released_at, lock.lost_at) {
            (_, Some(lost)) => format!("lost {}", ago(lost, now)),
            (Some(released), _) => format!("held for {}, released", span(released - lock.acquired_at)),
            (None, None) => format!("held for {} (fence {})", span(now - lock.acquired_at), lock.fence),
        };
        fact(&mut out, "Lock", &text, plain, paint);
    }
    if let Some(at) = status.point_of_no_return_at {
        let (so, tone) =
            if phase.is_terminal() { ("", plain) } else { (": it cannot be cancelled any more", Tone::Warn) };
        fact(&mut out, "No return", &format!("passed {}{so}", ago(at, now)), tone, paint);
    }
    if let Some(lineage) = &spec.lineage
        && let Some(of) = &lineage.rollback_of
    {
        fact(&mut out, "Undoes", of, plain, paint);
    }
    if let Some(artifacts) = &status.artifacts {
        if let Some(key) = &artifacts.key {
            let size = artifacts.size_bytes.map(|size| format!(" ({})", bytes(size))).unwrap_or_default();
            fact(&mut out, "Object", &format!("{key}{size}"), plain, paint);
        }
        if let Some(sha256) = &artifacts.sha256 {
            fact(&mut out, "SHA-256", sha256, plain, paint);
        }
    }
    for (index, step) in status.steps.iter().enumerate() {
        let is_last = index + 1 == status.steps.len();
        branch(&mut out, step, is_last, now, paint);
    }
    out
}

fn branch(out: &mut String, step: &StepStatus, is_last: bool, now: DateTime<Utc>, paint: Paint) {
    let (mark, tone) = match step.state {
        StepState::Completed => ("✓", Tone::Good),
        StepState::Running => ("▸", Tone::Warn),
        StepState::Failed | StepState::CompensationFailed => ("✗", Tone::Bad),
        StepState::Skipped => ("-", Tone::Faint),
        StepState::Compensating => ("↶", Tone::Warn),
        StepState::Compensated => ("↶", Tone::Faint),
        StepState::Pending => ("·", Tone::Faint),
    };
    let mut text = format!("{} {}", step.name, step.state.as_str());
    if let Some(started) = step.started_at {
        let _ = write!(text, " {}", span(step.completed_at.unwrap_or(now) - started));
    }
    if step.attempt > 1 {
        let _ = write!(text, ", attempt {}", step.attempt);
    }
    if let Some(by) = &step.skipped_by {
        let _ = write!(text, " by {by}");
    }
    if let Some(next) = step.next_attempt_at.filter(|next| *next > now) {
        let _ = write!(text, ", next try in {}", span(next - now));
    }
    let _ =
        writeln!(out, "{} {} {}", if is_last { "└─" } else { "├─" }, paint.on(mark, tone), shorten(&text, WIDTH - 6));
    let indent = if is_last { "     " } else { "│    " };
    let receipt = step.receipt.as_ref().map(|receipt| format!("receipt written {}", ago(receipt.at, now)));
    let waiting = step.waiting.clone().filter(|_| matches!(step.state, StepState::Running | StepState::Compensating));
    for (detail, tone) in [(receipt, Tone::Faint), (waiting, Tone::Plain), (step.error.clone(), Tone::Bad)] {
        let Some(detail) = detail else { continue };
        for line in crate::kubectl::table::wrap(&detail, WIDTH - length(indent)) {
            let _ = writeln!(out, "{indent}{}", paint.on(&line, tone));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn operation(yaml: &str) -> OpenBaoOperation {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn backup(name: &str, started: &str, phase: &str) -> OpenBaoOperation {
        operation(&format!(
            "metadata: {{name: {name}, namespace: vault}}\nspec: {{cluster: fern, operation: Backup}}\n\
             status: {{phase: {phase}, startedAt: '{started}'}}"
        ))
    }

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn names(operations: &[OpenBaoOperation]) -> Vec<String> {
        operations.iter().map(ResourceExt::name_any).collect()
    }

    #[test]
    fn a_list_is_filtered_newest_first_and_bounded() {
        let all = vec![
            backup("old", "2026-11-20T12:00:00Z", "Succeeded"),
            backup("new", "2026-11-21T11:00:00Z", "Failed"),
            backup("mid", "2026-11-21T10:00:00Z", "Succeeded"),
        ];
        assert_eq!(names(&Filter::default().apply(all.clone())), ["new", "mid", "old"]);
        let failed = Filter { phase: phase_named("failed"), ..Filter::default() };
        assert_eq!(names(&failed.apply(all.clone())), ["new"]);
        let recent = Filter { since: Some(now() - TimeDelta::hours(3)), limit: 1, ..Filter::default() };
        assert_eq!(names(&recent.apply(all.clone())), ["new"]);
        let elsewhere = Filter { cluster: Some("moss".into()), ..Filter::default() };
        assert!(elsewhere.apply(all).is_empty());
    }

    #[test]
    fn a_limit_that_makes_no_sense_means_fifty_and_two_hundred_is_the_most() {
        for (asked, given) in [(0, 50), (-3, 50), (7, 7), (5000, 200)] {
            assert_eq!(Filter { limit: asked, ..Filter::default() }.limit(), given);
        }
    }

    #[test]
    fn every_phase_can_be_asked_for_by_its_name() {
        for phase in ALL_PHASES {
            assert_eq!(phase_named(&phase.as_str().to_lowercase()), Some(phase));
        }
        assert_eq!(phase_named("done"), None);
    }

    #[test]
    fn the_tree_shows_what_is_done_what_runs_and_why_it_waits() {
        let operation = operation(
            "metadata: {name: fern-backup-1, namespace: vault}\n\
             spec: {cluster: fern, operation: Backup, intent: before the holidays, actor: {identity: ann, source: kubectl}}\n\
             status:\n  phase: Running\n  startedAt: '2026-11-21T11:59:00Z'\n  steps:\n\
             \x20 - {name: Gate, state: completed, startedAt: '2026-11-21T11:59:00Z', completedAt: '2026-11-21T11:59:02Z'}\n\
             \x20 - {name: Snapshot, state: running, startedAt: '2026-11-21T11:59:02Z', attempt: 2, waiting: for the Job to end}\n\
             \x20 - {name: Retention, state: pending}",
        );
        let text = tree(&operation, now(), Paint::Off);
        assert!(text.contains("├─ ✓ Gate completed 2s"), "{text}");
        assert!(text.contains("├─ ▸ Snapshot running 58s, attempt 2"), "{text}");
        assert!(text.contains("│    for the Job to end"), "{text}");
        assert!(text.contains("└─ · Retention pending"), "{text}");
        assert!(text.contains("before the holidays") && text.contains("ann (kubectl)"), "{text}");
        assert!(text.lines().all(|line| length(line) <= WIDTH), "{text}");
    }
}
