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
    let wanted = UpgradeDirective {
        version: versions::plain(&facts.cluster.spec.version),
        image: facts.wanted_image.to_owned(),
    };
    let newest = newest(facts.operations);
    let last = last_ended(facts.operations);
    let running = running(facts, last, &known, &wanted);
    let accounted_for = last.and_then(ended_at).max(known.accounted_for);

    if let Some(operation) = newest.filter(|operation| !operation.has_ended()) {
        let mut decision = under_way(facts, operation, &running, &wanted);
        decision.status.released_at = known.released_at;
        decision.status.accounted_for = accounted_for;
        return decision;
    }
    let (released_at, handled) = released(facts, newest, &known, now);
    // Nothing but another rollback lifts this.
    let held = request::half_rolled_back(facts.operations)
        .map(half_done)
        .or_else(|| newest.and_then(|operation| held_by(operation, &wanted, released_at)));

    let mut status = UpgradeStatus {
        directive: Some(running.clone()),
        servers: request::servers(facts.operations),
        operation: newest.map(kube::ResourceExt::name_any),
        released_at,
        accounted_for,
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
                    "{rollout} brought this cluster to {}; spec.version still names {} and changes nothing: set it to {0}{}",
                    running.version,
                    wanted.version,
                    if facts.cluster.spec.image.is_some() { ", and spec.image to that version's image" } else { "" }
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
            let live = !operation.has_ended();
            // Of several that live, the one at work: the lock admits one, and the others wait for it.
            (live, live && request::has_begun(operation), created, operation.name_any())
        })
}

fn ended_at(operation: &OpenBaoOperation) -> Option<DateTime<Utc>> {
    operation.status.as_ref()?.ended_at
}

/// The last upgrade or rollback that ended after it had touched the servers.
fn last_ended(operations: &[Arc<OpenBaoOperation>]) -> Option<&OpenBaoOperation> {
    operations
        .iter()
        .map(Arc::as_ref)
        .filter(|operation| matches!(operation.spec.operation, OperationKind::Upgrade | OperationKind::Rollback))
        .filter(|operation| operation.has_ended() && request::directive(operation).is_some())
        .max_by_key(|operation| (ended_at(operation), operation.name_any()))
}

fn under_way(
    facts: &UpgradeFacts<'_>,
    operation: &OpenBaoOperation,
    running: &UpgradeDirective,
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
            servers: request::servers(facts.operations),
            target: target.map(|target| target.version),
            from: origin.map(|origin| origin.version),
            step,
            operation: Some(operation.name_any()),
            // Only the step is shown here: the wait's text moves by itself and lives in the operation.
            message: None,
            directive: request::directive(operation).or_else(|| Some(running.clone())),
            started_at: journal.and_then(|journal| journal.started_at),
            point_of_no_return_at: journal.and_then(|journal| journal.point_of_no_return_at),
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

/// What the template shows as long as no upgrade at work says otherwise.
///
/// The status knows it. A record says more only when it ended after the last one that the status accounts for, because the
/// operator died between the two: records may be deleted or pruned, and an older one must not become the truth again.
fn running(
    facts: &UpgradeFacts<'_>,
    last: Option<&OpenBaoOperation>,
    known: &UpgradeStatus,
    wanted: &UpgradeDirective,
) -> UpgradeDirective {
    let status = facts.cluster.status.as_ref();
    // Before there is data, there is nothing to upgrade: the manifest may still be corrected freely.
    if status.and_then(|status| status.initialized) != Some(true) {
        return wanted.clone();
    }
    let news = last.filter(|operation| known.directive.is_none() || ended_at(operation) > known.accounted_for);
    news.and_then(request::directive)
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
    let differs = |target: &str| !versions::is_same(target, &facts.cluster.spec.version);
    let changed = known.held_target.as_deref().is_some_and(differs);
    // Also when the version went elsewhere before the operation had ended: nothing was held yet.
    let elsewhere = newest.is_some_and(|operation| {
        aborted(operation).is_some_and(|target| differs(&target)) && ended_at(operation) > known.released_at
    });
    (if asked || changed || elsewhere { Some(now) } else { known.released_at }, handled)
}

/// The version that an ended operation leaves held.
fn aborted(operation: &OpenBaoOperation) -> Option<String> {
    let succeeded = operation.phase() == OperationPhase::Succeeded;
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
        // A rollback goes from the version that is now held back to an older one.
        OperationKind::Rollback if journal.phase == OperationPhase::Succeeded => {
            versions::is_same(request::rolled_back(operation)?, &wanted.version)
                .then(|| format!("it was rolled back by {name}"))
        }
        _ => None,
    }
}

/// Servers and volumes are somewhere on the way: only another rollback knows how to go on.
fn half_done(rollback: &OpenBaoOperation) -> String {
    let journal = rollback.status.as_ref();
    let said = journal.and_then(|journal| journal.message.as_deref()).unwrap_or_default();
    format!(
        "{} was wiping and restoring the servers and ended {}: {said}. Create another Rollback first",
        rollback.name_any(),
        rollback.phase().as_str()
    )
}

/// Also one that waits for its start, and has no versions on record yet.
fn is_live_rollback(operation: &OpenBaoOperation) -> bool {
    operation.spec.operation == OperationKind::Rollback && !operation.has_ended()
}

/// Why nothing upgrades servers whose data is nobody's.
pub const HALF_RESTORED: &str = "a rollback has wiped the servers and not restored them: create another Rollback first";

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
    if cluster.is_half_restored() {
        return Some((reason::WAITING, HALF_RESTORED.to_owned()));
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
