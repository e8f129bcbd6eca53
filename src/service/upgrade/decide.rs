//! Whether an upgrade is due, and what the pods' template must show until then. Pure.

use super::{
    asked, finished, half,
    holds::{self, Hold},
    request,
    versions::{self, Judgement},
};
use crate::{
    api::{
        HandledRequest, OpenBaoCluster, OpenBaoOperation, OperationKind, OperationPhase, RequestOutcome, StepState,
        UpgradeDirective, UpgradeStatus, UpgradeStrategy,
        conditions::{self, reason},
    },
    service::opslifecycle,
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
    /// All records of its name, also those that say nothing of its volumes: none of their names is free.
    pub all: &'a [Arc<OpenBaoOperation>],
    /// A restore that waits for this cluster: nothing new starts meanwhile.
    pub pending_restore: Option<&'a str>,
    /// The image that the spec asks for (`spec.image`, or the repository with `spec.version`).
    pub wanted_image: &'a str,
    /// The repository with the version that runs, for a cluster whose status was lost.
    pub running_image: &'a str,
    /// What the template keeps where neither the status nor a record says what runs, or the status is older than the volumes: the
    /// `StatefulSet` and the volumes know it.
    pub kept: &'a UpgradeDirective,
    /// Why no server that is started anew would come back, in a clause.
    pub obstacle: Option<&'a str>,
    /// The seal type of the spec: `static`, `transit`, …
    pub seal: &'a str,
}

/// A condition: status, reason, message.
pub type Words = (bool, &'static str, String);

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct UpgradeDecision {
    /// The operation to create; its name makes that idempotent.
    pub create: Option<Box<OpenBaoOperation>>,
    /// The whole upgrade plane of the status.
    pub status: UpgradeStatus,
    /// The version that all members ran last.
    pub current_version: String,
    /// The condition `Upgrading`.
    pub condition: Words,
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
    /// For `spec.requests[].nonce`: the same each time, so that a repeated look asks nothing twice.
    pub nonce: String,
}

/// Decides from the record: what runs goes on, what failed stays held, what is new and allowed begins.
pub fn decide(facts: &UpgradeFacts<'_>, now: DateTime<Utc>) -> UpgradeDecision {
    let known = facts.cluster.status.as_ref().and_then(|status| status.upgrade.clone()).unwrap_or_default();
    let wanted = UpgradeDirective {
        version: versions::plain(&facts.cluster.spec.version),
        image: facts.wanted_image.to_owned(),
    };
    let last = last_ended(facts);
    let running = running(facts, last, &known, &wanted);
    let newest = newest(facts.operations, &running, &wanted);
    let at_work = newest.filter(|operation| !operation.has_ended());
    let half = half::restored(facts.operations, &known);
    let holds = holds::judge(facts, &known, half.as_ref(), at_work, now);
    let judgement = versions::judge(&running.version, &wanted.version, facts.seal);

    let mut status = UpgradeStatus {
        directive: Some(running.clone()),
        servers: half::servers(facts.operations, half.as_ref()),
        half_restored: half.clone(),
        obstacle: facts.obstacle.map(str::to_owned),
        operation: newest.map(kube::ResourceExt::name_any),
        released_at: holds.released_at,
        accounted_for: ended(facts.operations).filter_map(ended_at).max().max(known.accounted_for),
        ..UpgradeStatus::default()
    };
    // Told also where nothing could begin anyway, for what is not told is forgotten. Only what runs is no target any more.
    if let Some(hold) = holds.hold.as_ref().filter(|_| at_work.is_some() || judgement != Judgement::Same) {
        hold.tell(&mut status);
    }
    if let Some(operation) = at_work {
        return UpgradeDecision { handled: holds.handled, ..under_way(facts, operation, status, &wanted) };
    }
    if judgement == Judgement::Same {
        // Another image of the same version is no upgrade: the cluster rolls it like a changed configuration.
        status.directive = Some(wanted.clone());
    }
    let short = finished::short_of(facts.cluster, &running, last, &known).filter(|_| half.is_none());
    let (create, condition) = match (judgement, &half) {
        // Nothing but another rollback lifts this.
        (_, Some(half)) => (None, (false, conditions::upgrade::HELD, half::words(half, facts.operations))),
        (Judgement::Same, None) => (None, at_rest(&running, short.as_deref(), last)),
        (Judgement::Refused { reason, message }, None) => {
            (None, (false, reason, refused(facts, newest, &running, reason, message)))
        }
        (Judgement::Upgrade, None) => due(facts, holds.hold.as_ref(), &running, &wanted),
    };
    UpgradeDecision {
        create,
        current_version: short.unwrap_or(running.version),
        condition,
        handled: holds.handled,
        turn_back: None,
        status,
    }
}

/// The spec names what the template shows.
fn at_rest(running: &UpgradeDirective, short: Option<&str>, last: Option<&OpenBaoOperation>) -> Words {
    match short {
        None => (false, reason::IDLE, format!("runs {}", running.version)),
        Some(before) => (false, conditions::upgrade::UNFINISHED, finished::words(running, before, last)),
    }
}

/// Why the wanted version is refused; a cluster that a rollout brought further is no mistake of its spec.
fn refused(
    facts: &UpgradeFacts<'_>,
    newest: Option<&OpenBaoOperation>,
    running: &UpgradeDirective,
    reason: &str,
    message: String,
) -> String {
    let by = newest.and_then(|operation| request::rollout(operation)).filter(|_| reason == reason::DOWNGRADE_BLOCKED);
    let image = if facts.cluster.spec.image.is_some() { ", and spec.image to that version's image" } else { "" };
    by.map_or(message, |rollout| {
        format!(
            "{rollout} brought this cluster to {}; spec.version still names {} and changes nothing: set it to {0}{image}",
            running.version,
            versions::plain(&facts.cluster.spec.version),
        )
    })
}

/// The operation that brings a version that is wanted and possible, or what keeps it from being created now.
fn due(
    facts: &UpgradeFacts<'_>,
    hold: Option<&Hold>,
    running: &UpgradeDirective,
    wanted: &UpgradeDirective,
) -> (Option<Box<OpenBaoOperation>>, Words) {
    if let Some(hold) = hold {
        let message = format!(
            "{} is not tried again: {}. Change spec.version or spec.image, or add a Retry to spec.requests",
            wanted.version, hold.reason
        );
        return (None, (false, conditions::upgrade::HELD, message));
    }
    if let Some(rollback) = facts.operations.iter().find(|operation| half::is_live_rollback(operation)) {
        return (None, (false, reason::WAITING, format!("rollback {} goes first", rollback.name_any())));
    }
    if let Some((reason, message)) = hindrance(facts.cluster, facts.pending_restore, facts.obstacle) {
        return (None, (false, reason, message));
    }
    let name = request::name(&facts.cluster.name_any(), &wanted.version, facts.all);
    let create = request::upgrade(facts.cluster, name, running, wanted).map(Box::new);
    (create, (true, reason::IN_PROGRESS, format!("starting from {} to {}", running.version, wanted.version)))
}

/// The newest upgrade or rollback on record. One that nobody asked for holds up no other.
fn newest<'a>(
    operations: &'a [Arc<OpenBaoOperation>],
    running: &UpgradeDirective,
    wanted: &UpgradeDirective,
) -> Option<&'a OpenBaoOperation> {
    operations
        .iter()
        .map(Arc::as_ref)
        .filter(|operation| matches!(operation.spec.operation, OperationKind::Upgrade | OperationKind::Rollback))
        .filter(|operation| request::target(operation).is_some() && !asked::is_nobodys(operation, running, wanted))
        .max_by_key(|operation| {
            // Live before ended, then the youngest; the name decides between twins of one second.
            let created = operation.metadata.creation_timestamp.as_ref().map(|at| at.0);
            let live = !operation.has_ended();
            // Of several that live, the one at work: the lock admits one, and the others wait for it.
            (live, live && request::has_begun(operation), created, operation.name_any())
        })
}

/// When it ended, if it has.
pub(super) fn ended_at(operation: &OpenBaoOperation) -> Option<DateTime<Utc>> {
    operation.status.as_ref()?.ended_at
}

/// The upgrades and rollbacks that ended after they had touched the servers.
fn ended(operations: &[Arc<OpenBaoOperation>]) -> impl Iterator<Item = &OpenBaoOperation> {
    operations
        .iter()
        .map(Arc::as_ref)
        .filter(|operation| matches!(operation.spec.operation, OperationKind::Upgrade | OperationKind::Rollback))
        .filter(|operation| operation.has_ended() && request::directive(operation).is_some())
}

/// The last of them. What was done under an earlier object of the name is no news: the upgrades after it went with that object,
/// and what has led over the volumes since stands on those.
fn last_ended<'a>(facts: &UpgradeFacts<'a>) -> Option<&'a OpenBaoOperation> {
    ended(facts.operations)
        .filter(|operation| request::is_of(operation, facts.cluster))
        .max_by_key(|operation| (ended_at(operation), operation.name_any()))
}

/// What an operation at work makes of what else is known.
fn under_way(
    facts: &UpgradeFacts<'_>,
    operation: &OpenBaoOperation,
    known: UpgradeStatus,
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
    // A rollout brings its version whatever the spec says; whoever wants that stopped says so to the rollout.
    if by_rollout && is_higher(&wanted.version, goal) {
        text = format!("{text}. {} comes next", wanted.version);
    }
    if operation.spec.operation == OperationKind::Upgrade && !by_rollout {
        match next(wanted, goal, operation) {
            Next::Nothing => {}
            Next::Upgrade => text = format!("{text}. {} comes next", wanted.version),
            Next::TurnBack => {
                let from = origin.as_ref().map_or("", |origin| origin.version.as_str());
                let again = if wanted.version == from { "again" } else { "now" };
                turn_back = turning_back(operation, &wanted.version);
                let how = match turn_back {
                    Some(_) => "It turns back",
                    None => "It turns back when somebody has said Resume to it",
                };
                text = format!("{text}. {how}, because spec.version is {} {again}", wanted.version);
                if is_higher(&wanted.version, from) {
                    text = format!("{text}, which comes next");
                }
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
        // Only the step is shown here: the wait's text moves by itself and lives in the operation.
        status: UpgradeStatus {
            target: target.map(|target| target.version),
            from: origin.map(|origin| origin.version),
            step,
            directive: request::directive(operation).or_else(|| known.directive.clone()),
            started_at: journal.and_then(|journal| journal.started_at),
            point_of_no_return_at: journal.and_then(|journal| journal.point_of_no_return_at),
            ..known
        },
    }
}

/// What is asked of an upgrade that is to turn back. As long as its outcome is unknown it would refuse, and what was refused before
/// is asked anew.
fn turning_back(operation: &OpenBaoOperation, version: &str) -> Option<TurnBack> {
    if operation.phase() == OperationPhase::Unknown {
        return None;
    }
    let name = operation.name_any();
    let nonce =
        opslifecycle::nonce(&format!("reverted-{name}"), operation, |answer| answer.outcome == RequestOutcome::Refused);
    Some(TurnBack { operation: name, reason: format!("spec.version was set back to {version}"), nonce })
}

/// What a spec that was edited during an upgrade means for it.
enum Next {
    Nothing,
    Upgrade,
    TurnBack,
    TooLate,
}

fn next(wanted: &UpgradeDirective, goal: &str, operation: &OpenBaoOperation) -> Next {
    if !is_higher(goal, &wanted.version) {
        return if wanted.version == goal { Next::Nothing } else { Next::Upgrade };
    }
    if operation.status.as_ref().is_some_and(|status| status.point_of_no_return_at.is_some()) {
        return Next::TooLate;
    }
    // Also for a version in between: from the goal there is no way to it, and this is the last moment at which there is one.
    // And for one below the origin: to get there is refused afterwards, and said so.
    Next::TurnBack
}

fn is_higher(version: &str, than: &str) -> bool {
    versions::parse(version).zip(versions::parse(than)).is_some_and(|(one, other)| one.cmp_precedence(&other).is_gt())
}

/// What the template shows as long as no upgrade at work says otherwise.
///
/// The status knows it. A record says more only when it ended after the last one that the status accounts for, because the
/// operator died between the two: records may be deleted or pruned, and an older one must not become the truth again. Where both
/// are silent, the wish of the spec is no answer: a newer version may have led over the data.
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
    let told = || {
        known.directive.clone().or_else(|| {
            let version = status.and_then(|status| status.current_version.clone())?;
            let image = if version == wanted.version { &wanted.image } else { facts.running_image };
            Some(UpgradeDirective { version, image: image.to_owned() })
        })
    };
    // A status that was put back from a backup may be older than the volumes, and they know it.
    let stands = |told: &UpgradeDirective| !is_higher(&facts.kept.version, &told.version);
    news.and_then(request::directive).or_else(|| told().filter(stands)).unwrap_or_else(|| facts.kept.clone())
}

/// Why nothing upgrades servers whose data is nobody's.
pub const HALF_RESTORED: &str = "a rollback has wiped the servers and not restored them: create another Rollback first";

/// What keeps an upgrade that a rollout wants, and that is possible, from starting now.
pub fn obstacle(cluster: &OpenBaoCluster, pending_restore: Option<&str>) -> Option<(&'static str, String)> {
    hindrance(cluster, pending_restore, cluster.obstacle()).or_else(|| finished::obstacle(cluster))
}

/// Why the version that a cluster names is no proof that its members run it.
pub fn doubt(cluster: &OpenBaoCluster) -> Option<String> {
    let half = cluster.is_half_restored().then(|| HALF_RESTORED.to_owned());
    half.or_else(|| finished::obstacle(cluster).map(|(_, message)| message))
}

/// What keeps any upgrade that is wanted and possible from starting now. The cluster's own may go on from one that did not
/// bring all members to its version: it begins where the template is.
fn hindrance(
    cluster: &OpenBaoCluster,
    pending_restore: Option<&str>,
    obstacle: Option<&str>,
) -> Option<(&'static str, String)> {
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
    if let Some(why) = obstacle {
        return Some((reason::WAITING, format!("waiting, as {why}")));
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
#[path = "decide_odds_tests.rs"]
mod odds;
#[cfg(test)]
#[path = "decide_tests.rs"]
pub(super) mod tests;
