//! Whether an upgrade is due, and what the pods' template must show until then. Pure.

use super::{
    request,
    versions::{self, Judgement},
};
use crate::api::{
    HandledRequest, OpenBaoCluster, OpenBaoOperation, OperationKind, OperationPhase, Request, RequestAction,
    RequestOutcome, StepState, UpgradeDirective, UpgradeStatus, UpgradeStrategy,
    conditions::{self, reason},
};
use chrono::{DateTime, Utc};
use kube::ResourceExt;
use std::sync::Arc;

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct UpgradeFacts<'a> {
    /// The cluster as last seen.
    pub cluster: &'a OpenBaoCluster,
    /// Its operations on record, of all kinds, in no order.
    pub operations: &'a [Arc<OpenBaoOperation>],
    /// A restore that waits for this cluster: nothing new starts meanwhile.
    pub pending_restore: Option<&'a str>,
    /// The image that the spec asks for (`spec.image`, or the repository with `spec.version`).
    pub wanted_image: &'a str,
    /// The repository with the version that runs, for a cluster whose status was lost.
    pub running_image: &'a str,
    /// The seal type of the spec: `static`, `transit`, …
    pub seal: &'a str,
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct UpgradeDecision {
    /// The operation to create; its name makes that idempotent.
    pub create: Option<Box<OpenBaoOperation>>,
    /// The whole upgrade plane of the status.
    pub status: UpgradeStatus,
    /// The version that the cluster finished last.
    pub current_version: String,
    /// The condition `Upgrading`: status, reason, message.
    pub condition: (bool, &'static str, String),
    /// `Retry` requests that this decision answers.
    pub handled: Vec<HandledRequest>,
    /// The operation to turn back, and why: the spec names again what it came from.
    pub turn_back: Option<TurnBack>,
}

/// A wish to turn an upgrade back, told to its operation as a request to cancel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnBack {
    /// The operation.
    pub operation: String,
    /// For `spec.requests[].reason`.
    pub reason: String,
}

impl TurnBack {
    /// The request's nonce: one per operation, so that a repeated look asks nothing twice.
    pub fn nonce(&self) -> String {
        format!("reverted-{}", self.operation)
    }
}

/// Decides from the record: what runs goes on, what failed stays held, what is new and allowed begins.
pub fn decide(facts: &UpgradeFacts<'_>, now: DateTime<Utc>) -> UpgradeDecision {
    let known = facts.cluster.status.as_ref().and_then(|status| status.upgrade.clone()).unwrap_or_default();
    let wanted = UpgradeDirective { version: facts.cluster.spec.version.clone(), image: facts.wanted_image.to_owned() };
    let newest = newest(facts.operations);

    if let Some(operation) = newest.filter(|operation| !phase(operation).is_terminal()) {
        return under_way(facts, operation, &known, &wanted);
    }
    let running = running(facts, newest, &known, &wanted);
    let (released_at, handled) = released(facts, newest, &known, now);
    let held = newest.and_then(|operation| held_by(operation, &wanted, released_at));

    let mut status = UpgradeStatus {
        directive: Some(running.clone()),
        servers: newest.and_then(request::servers),
        operation: newest.map(kube::ResourceExt::name_any),
        released_at,
        ..UpgradeStatus::default()
    };
    let mut decision = UpgradeDecision {
        create: None,
        current_version: running.version.clone(),
        condition: (false, reason::IDLE, format!("runs {}", running.version)),
        handled,
        turn_back: None,
        status: UpgradeStatus::default(),
    };
    match versions::judge(&running.version, &wanted.version, facts.seal) {
        // Another image of the same version is no upgrade: the cluster rolls it like a changed configuration.
        Judgement::Same => status.directive = Some(wanted),
        Judgement::Refused { reason, message } => {
            let by = newest.and_then(|operation| request::rollout(operation)).filter(|_| reason == "DowngradeBlocked");
            let message = by.map_or(message, |rollout| {
                format!(
                    "{rollout} brought this cluster to {}; spec.version still names {} and changes nothing: set it to {0}",
                    running.version, wanted.version
                )
            });
            decision.condition = (false, reason, message);
        }
        Judgement::Upgrade => {
            if let Some(why) = held {
                status.held_target = Some(wanted.version.clone());
                status.held_reason = Some(why.clone());
                decision.condition = (
                    false,
                    conditions::upgrade::HELD,
                    format!(
                        "{} is not tried again: {why}. Change spec.version, or add a Retry to spec.requests",
                        wanted.version
                    ),
                );
            } else if let Some(rollback) = facts.operations.iter().find(|operation| is_live_rollback(operation)) {
                decision.condition = (false, reason::WAITING, format!("rollback {} goes first", rollback.name_any()));
            } else if let Some((reason, message)) = obstacle(facts.cluster, facts.pending_restore) {
                decision.condition = (false, reason, message);
            } else {
                let name = request::name(&facts.cluster.name_any(), &wanted.version, facts.operations);
                decision.create = request::upgrade(facts.cluster, name, &running, &wanted).map(Box::new);
                decision.condition =
                    (true, reason::IN_PROGRESS, format!("starting from {} to {}", running.version, wanted.version));
            }
        }
    }
    decision.status = status;
    decision
}

/// The newest upgrade or rollback on record.
fn newest(operations: &[Arc<OpenBaoOperation>]) -> Option<&OpenBaoOperation> {
    operations
        .iter()
        .map(Arc::as_ref)
        .filter(|operation| matches!(operation.spec.operation, OperationKind::Upgrade | OperationKind::Rollback))
        .filter(|operation| request::target(operation).is_some())
        .max_by_key(|operation| {
            // Live before ended, then the youngest; the name decides between twins of one second.
            let created = operation.metadata.creation_timestamp.as_ref().map(|at| at.0);
            (!phase(operation).is_terminal(), created, operation.name_any())
        })
}

fn phase(operation: &OpenBaoOperation) -> OperationPhase {
    operation.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

fn under_way(
    facts: &UpgradeFacts<'_>,
    operation: &OpenBaoOperation,
    known: &UpgradeStatus,
    wanted: &UpgradeDirective,
) -> UpgradeDecision {
    let journal = operation.status.as_ref();
    let target = request::target(operation);
    let origin = request::origin(operation);
    let step = journal.and_then(|journal| {
        let busy = |state| matches!(state, StepState::Running | StepState::Compensating);
        journal.steps.iter().find(|step| busy(step.state)).map(|step| step.name.clone())
    });
    let message = journal.and_then(|journal| journal.message.clone());
    let goal = target.as_ref().map_or(wanted.version.as_str(), |target| target.version.as_str());
    let mut text = format!("{} by {}", goal, operation.name_any());
    if let Some(step) = &step {
        text = format!("{text}, {step}");
    }
    if let Some(message) = &message {
        text = format!("{text}: {message}");
    }
    let mut turn_back = None;
    let by_rollout = request::rollout(operation).is_some();
    let comes_from = origin.as_ref().map(|origin| origin.version.as_str());
    if by_rollout && ![Some(goal), comes_from].contains(&Some(wanted.version.as_str())) {
        text = format!("{text}. {} comes next", wanted.version);
    }
    // A rollout brings its version whatever the spec says; whoever wants that stopped says so to the rollout.
    if operation.spec.operation == OperationKind::Upgrade && !by_rollout {
        match next(wanted, goal, origin.as_ref(), operation) {
            Next::Nothing => {}
            Next::Upgrade => text = format!("{text}. {} comes next", wanted.version),
            Next::TurnBack => {
                text = format!("{text}. It turns back, because spec.version is {} again", wanted.version);
                turn_back = Some(TurnBack {
                    operation: operation.name_any(),
                    reason: format!("spec.version was set back to {}", wanted.version),
                });
            }
            Next::TooLate => {
                text = format!(
                    "{text}. spec.version {} is lower and no longer possible: a newer version has led. Set it to {goal}; to \
                     go back, create an OpenBaoOperation with operation: Rollback and rollbackOf: {} when this one has ended",
                    wanted.version,
                    operation.name_any()
                );
            }
        }
    }
    let finished = facts.cluster.status.as_ref().and_then(|status| status.current_version.clone());
    UpgradeDecision {
        create: None,
        current_version: finished
            .or_else(|| origin.as_ref().map(|origin| origin.version.clone()))
            .unwrap_or_else(|| wanted.version.clone()),
        condition: (true, reason::IN_PROGRESS, text),
        handled: vec![],
        turn_back,
        status: UpgradeStatus {
            servers: request::servers(operation),
            target: target.map(|target| target.version),
            from: origin.map(|origin| origin.version),
            step,
            operation: Some(operation.name_any()),
            // Only the step is shown here: the wait's text moves by itself and lives in the operation.
            message: None,
            directive: request::directive(operation).or_else(|| known.directive.clone()),
            started_at: journal.and_then(|journal| journal.started_at),
            point_of_no_return_at: journal.and_then(|journal| journal.point_of_no_return_at),
            released_at: known.released_at,
            ..UpgradeStatus::default()
        },
    }
}

/// What a spec that was edited during an upgrade means for it.
enum Next {
    Nothing,
    Upgrade,
    TurnBack,
    TooLate,
}

fn next(
    wanted: &UpgradeDirective,
    goal: &str,
    origin: Option<&UpgradeDirective>,
    operation: &OpenBaoOperation,
) -> Next {
    let compare = |other: &str| Some(versions::parse(&wanted.version)?.cmp_precedence(&versions::parse(other)?));
    if compare(goal).is_none_or(std::cmp::Ordering::is_ge) {
        return if wanted.version == goal { Next::Nothing } else { Next::Upgrade };
    }
    if operation.status.as_ref().is_some_and(|status| status.point_of_no_return_at.is_some()) {
        return Next::TooLate;
    }
    match origin.and_then(|origin| compare(&origin.version)) {
        Some(std::cmp::Ordering::Greater) => Next::Upgrade,
        // Also for a version below the origin: to get there is refused afterwards, and said so.
        _ => Next::TurnBack,
    }
}

/// What the template shows now that no upgrade runs.
fn running(
    facts: &UpgradeFacts<'_>,
    newest: Option<&OpenBaoOperation>,
    known: &UpgradeStatus,
    wanted: &UpgradeDirective,
) -> UpgradeDirective {
    let status = facts.cluster.status.as_ref();
    // Before there is data, there is nothing to upgrade: the manifest may still be corrected freely.
    if status.and_then(|status| status.initialized) != Some(true) {
        return wanted.clone();
    }
    // The record is newer than the status when the operator died between the two.
    let ended = newest.filter(|operation| known.operation.as_deref() != Some(operation.name_any().as_str()));
    let by_record = ended.or_else(|| newest.filter(|_| known.target.is_some())).and_then(request::directive);
    by_record
        .or_else(|| known.directive.clone())
        .or_else(|| {
            let version = status.and_then(|status| status.current_version.clone())?;
            let image = if version == wanted.version { &wanted.image } else { facts.running_image };
            Some(UpgradeDirective { version, image: image.to_owned() })
        })
        .unwrap_or_else(|| wanted.clone())
}

/// When the held target was last let go, and the requests answered by that.
fn released(
    facts: &UpgradeFacts<'_>,
    newest: Option<&OpenBaoOperation>,
    known: &UpgradeStatus,
    now: DateTime<Utc>,
) -> (Option<DateTime<Utc>>, Vec<HandledRequest>) {
    let status = facts.cluster.status.as_ref();
    let is_new = |request: &&Request| {
        request.action == RequestAction::Retry
            && !status.is_some_and(|status| status.handled_requests.iter().any(|old| old.nonce == request.nonce))
    };
    let handled: Vec<_> = facts
        .cluster
        .spec
        .requests
        .iter()
        .filter(is_new)
        .map(|request| {
            let (outcome, message) = match &known.held_target {
                Some(target) => (RequestOutcome::Applied, format!("{target} may be tried again")),
                None => (RequestOutcome::Superseded, "no target is held".to_owned()),
            };
            HandledRequest { nonce: request.nonce.clone(), action: request.action, outcome, message, at: Some(now) }
        })
        .collect();
    let asked = handled.iter().any(|request| request.outcome == RequestOutcome::Applied);
    let changed = known.held_target.as_ref().is_some_and(|held| *held != facts.cluster.spec.version);
    // Also when the version went elsewhere before the operation had ended: nothing was held yet.
    let elsewhere = newest.is_some_and(|operation| {
        aborted(operation).is_some_and(|target| target != facts.cluster.spec.version)
            && operation.status.as_ref().and_then(|journal| journal.ended_at) > known.released_at
    });
    (if asked || changed || elsewhere { Some(now) } else { known.released_at }, handled)
}

/// The version that an ended operation leaves held.
fn aborted(operation: &OpenBaoOperation) -> Option<String> {
    let succeeded = phase(operation) == OperationPhase::Succeeded;
    match operation.spec.operation {
        OperationKind::Upgrade if !succeeded => request::target(operation).map(|target| target.version),
        OperationKind::Rollback if succeeded => request::rolled_back(operation).map(str::to_owned),
        _ => None,
    }
}

/// Why `wanted` is held by what the newest operation did; `None` if it is not.
fn held_by(
    operation: &OpenBaoOperation,
    wanted: &UpgradeDirective,
    released_at: Option<DateTime<Utc>>,
) -> Option<String> {
    let journal = operation.status.as_ref()?;
    if journal.ended_at.is_some_and(|ended| released_at.is_some_and(|released| ended <= released)) {
        return None;
    }
    let name = operation.name_any();
    match operation.spec.operation {
        OperationKind::Upgrade if request::target(operation)?.version == wanted.version => match journal.phase {
            OperationPhase::Succeeded => None,
            phase => {
                let said = journal.message.clone().unwrap_or_default();
                Some(format!("{name} ended {}{}{said}", phase.as_str(), if said.is_empty() { "" } else { ": " }))
            }
        },
        // Servers and volumes are somewhere on the way: only another rollback knows how to go on.
        OperationKind::Rollback
            if journal.point_of_no_return_at.is_some() && journal.phase != OperationPhase::Succeeded =>
        {
            let said = journal.message.clone().unwrap_or_default();
            Some(format!(
                "{name} was wiping and restoring the servers and ended {}: {said}. Create another Rollback first",
                journal.phase.as_str()
            ))
        }
        // A rollback goes from the version that is now held back to an older one.
        OperationKind::Rollback if journal.phase == OperationPhase::Succeeded => {
            (request::rolled_back(operation)? == wanted.version).then(|| format!("it was rolled back by {name}"))
        }
        _ => None,
    }
}

/// Also one that waits for its start, and has no versions on record yet.
fn is_live_rollback(operation: &OpenBaoOperation) -> bool {
    operation.spec.operation == OperationKind::Rollback && !phase(operation).is_terminal()
}

/// What keeps a wanted and possible upgrade from starting now.
pub fn obstacle(cluster: &OpenBaoCluster, pending_restore: Option<&str>) -> Option<(&'static str, String)> {
    let spec = &cluster.spec;
    let upgrade = &spec.upgrade;
    if spec.paused {
        return Some((reason::PAUSED, "spec.paused is set: no upgrade starts".to_owned()));
    }
    if let Some(restore) = pending_restore {
        return Some((reason::WAITING, format!("restore {restore} goes first")));
    }
    if upgrade.strategy == UpgradeStrategy::BlueGreen {
        let message = "spec.upgrade.strategy BlueGreen is not available yet: set RollingUpdate";
        return Some((reason::NOT_SUPPORTED, message.to_owned()));
    }
    if upgrade.pre_upgrade_snapshot && spec.backup.is_none() {
        return Some((
            reason::PREREQUISITES_MISSING,
            "an upgrade takes a backup first and spec.backup.target names no place for it: add a target, or accept an \
             upgrade that cannot be rolled back with spec.upgrade.preUpgradeSnapshot: false"
                .to_owned(),
        ));
    }
    None
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
