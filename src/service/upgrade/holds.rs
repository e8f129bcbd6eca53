//! What keeps a version from being tried again by itself. Pure.
//!
//! A target that failed, was cancelled or was rolled back is held until the spec names another version or image, or
//! somebody asks. A record begins that, and the status keeps it: deleting the record, or a newer one about something
//! else, lets nothing go.

use super::{
    asked,
    decide::{HALF_RESTORED, UpgradeFacts, ended_at},
    request, versions,
};
use crate::{
    api::{
        Direction, HalfRestored, HandledRequest, OpenBaoCluster, OpenBaoClusterSpec, OpenBaoOperation, OperationKind,
        OperationPhase, Request, RequestAction, RequestOutcome, UpgradeStatus,
    },
    service::opslifecycle::lineage,
};
use chrono::{DateTime, Utc};
use kube::ResourceExt;
use std::sync::Arc;

/// A target that is not tried again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    target: String,
    image: String,
    /// Why, in words.
    pub reason: String,
}

impl Hold {
    /// What the spec names now is held.
    fn new(spec: &OpenBaoClusterSpec, reason: String) -> Self {
        Self { target: versions::plain(&spec.version), image: image(spec), reason }
    }

    /// As the status tells it. An older operator's told no image: nothing is concluded from that.
    fn told(known: &UpgradeStatus, spec: &OpenBaoClusterSpec) -> Option<Self> {
        Some(Self {
            target: known.held_target.clone()?,
            image: known.held_image.clone().unwrap_or_else(|| image(spec)),
            reason: known.held_reason.clone().unwrap_or_default(),
        })
    }

    fn is_about(&self, spec: &OpenBaoClusterSpec) -> bool {
        versions::is_same(&self.target, &spec.version) && self.image == image(spec)
    }

    /// Tells it, which keeps it.
    pub fn tell(&self, status: &mut UpgradeStatus) {
        status.held_target = Some(self.target.clone());
        status.held_reason = Some(self.reason.clone());
        status.held_image = Some(self.image.clone());
    }
}

/// What a person wrote. The operator's repository is no part of it: to move that lets nothing go.
fn image(spec: &OpenBaoClusterSpec) -> String {
    spec.image.clone().unwrap_or_default()
}

/// What is held now, and what was let go.
pub(super) struct Holds {
    /// What the spec names is held.
    pub hold: Option<Hold>,
    /// When a target was last let go. What ended before that holds nothing.
    pub released_at: Option<DateTime<Utc>>,
    /// `Retry` requests that are answered by this.
    pub handled: Vec<HandledRequest>,
}

/// Decides. `at_work` is an upgrade or rollback that has not ended.
pub(super) fn judge(
    facts: &UpgradeFacts<'_>,
    known: &UpgradeStatus,
    half: Option<&HalfRestored>,
    at_work: Option<&OpenBaoOperation>,
    now: DateTime<Utc>,
) -> Holds {
    let spec = &facts.cluster.spec;
    let told = Hold::told(known, spec);
    let changed = told.as_ref().is_some_and(|hold| !hold.is_about(spec));
    let standing = if at_work.is_some_and(|operation| is_trying(operation, spec)) {
        None
    } else if changed {
        told
    } else {
        on_record(facts, known).or(told).or_else(|| rolled_back(spec, known, half)).or_else(|| vanished(facts, known))
    };
    let answer = if half.is_some() {
        Some((RequestOutcome::Refused, HALF_RESTORED.to_owned()))
    } else if let Some(hold) = &standing {
        Some((RequestOutcome::Applied, format!("{} may be tried again", hold.target)))
    } else if at_work.is_some_and(is_turning_back) {
        // What it leaves held is known at its end, and the request speaks of that.
        None
    } else {
        let busy = at_work.map(|operation| format!(": {} is at work", operation.name_any())).unwrap_or_default();
        Some((RequestOutcome::Superseded, format!("no target is held{busy}")))
    };
    let asked = answer.as_ref().is_some_and(|(outcome, _)| *outcome == RequestOutcome::Applied);
    let handled: Vec<_> = answer
        .into_iter()
        .flat_map(|(outcome, message)| {
            new_retries(facts.cluster).map(move |request| HandledRequest {
                nonce: request.nonce.clone(),
                action: request.action,
                outcome,
                message: message.clone(),
                at: Some(now),
            })
        })
        .collect();
    let asked = asked && !handled.is_empty();
    // The spec went elsewhere before the operation had ended: nothing was held yet. Where something is held, that stays.
    let elsewhere = standing.is_none()
        && at_work.is_none()
        && facts.operations.iter().any(|operation| is_left(operation, spec) && ended_at(operation) > known.released_at);
    Holds {
        hold: standing.filter(|_| !asked && !changed),
        released_at: if asked || changed || elsewhere { Some(now) } else { known.released_at },
        handled,
    }
}

/// `Retry` requests that nobody has answered.
fn new_retries(cluster: &OpenBaoCluster) -> impl Iterator<Item = &Request> {
    let answered = move |nonce: &str| {
        let status = cluster.status.as_ref();
        status.is_some_and(|status| status.handled_requests.iter().any(|old| old.nonce == nonce))
    };
    let requests = cluster.spec.requests.iter();
    requests.filter(move |request| request.action == RequestAction::Retry && !answered(&request.nonce))
}

/// Whether it goes for what the spec names: somebody asked, and the hold is over.
fn is_trying(operation: &OpenBaoOperation, spec: &OpenBaoClusterSpec) -> bool {
    operation.spec.operation == OperationKind::Upgrade
        && !is_turning_back(operation)
        && request::target(operation).is_some_and(|target| versions::is_same(&target.version, &spec.version))
}

fn is_turning_back(operation: &OpenBaoOperation) -> bool {
    operation.status.as_ref().is_some_and(|status| status.direction == Direction::Unwinding)
}

/// The version that an operation brought, or tried to bring, or turned its back on for good. What nobody asked for is about none.
fn subject(operation: &OpenBaoOperation) -> Option<String> {
    match operation.spec.operation {
        _ if asked::was_refused(operation) => None,
        OperationKind::Upgrade => request::target(operation).map(|target| target.version),
        OperationKind::Rollback if operation.phase() == OperationPhase::Succeeded || lineage::has_proven(operation) => {
            request::rolled_back(operation).map(str::to_owned)
        }
        _ => None,
    }
}

/// The version that an ended operation leaves held.
fn aborted(operation: &OpenBaoOperation) -> Option<String> {
    let reached = operation.spec.operation == OperationKind::Upgrade && operation.phase() == OperationPhase::Succeeded;
    subject(operation).filter(|_| operation.has_ended() && !reached)
}

/// Whether the spec asks for something else than what this one leaves held. A rollout has an image of its own.
fn is_left(operation: &OpenBaoOperation, spec: &OpenBaoClusterSpec) -> bool {
    let Some(version) = aborted(operation) else { return false };
    let own = operation.spec.operation == OperationKind::Upgrade && request::rollout(operation).is_none();
    let tried = request::target(operation).filter(|_| own).map(|target| target.image);
    let corrected = tried.zip(spec.image.as_ref()).is_some_and(|(tried, image)| tried != *image);
    !versions::is_same(&version, &spec.version) || corrected
}

/// What the last record about the wanted version says, whatever others are newer.
fn on_record(facts: &UpgradeFacts<'_>, known: &UpgradeStatus) -> Option<Hold> {
    let spec = &facts.cluster.spec;
    let about = |operation: &&OpenBaoOperation| {
        operation.has_ended() && subject(operation).is_some_and(|version| versions::is_same(&version, &spec.version))
    };
    let ended = facts.operations.iter().map(Arc::as_ref).filter(about);
    let last = ended.max_by_key(|operation| (ended_at(operation), operation.name_any()))?;
    aborted(last)?;
    let let_go = ended_at(last).zip(known.released_at).is_some_and(|(ended, released)| ended <= released);
    // What is told already was seen with the image of then.
    if let_go || (known.held_target.is_none() && is_left(last, spec)) {
        return None;
    }
    let reason = match last.spec.operation {
        OperationKind::Rollback if last.phase() != OperationPhase::Succeeded => {
            let by = by(&last.name_any());
            format!(
                "{by}, which failed when the data was back: a member that is still missing joins when its pod starts"
            )
        }
        OperationKind::Rollback => by(&last.name_any()),
        _ => format!("{} {}", last.name_any(), ending(last)),
    };
    Some(Hold::new(spec, reason))
}

/// The servers were half restored, and are not any more: what they were brought back from is held, record or not.
fn rolled_back(spec: &OpenBaoClusterSpec, known: &UpgradeStatus, half: Option<&HalfRestored>) -> Option<Hold> {
    let was = known.half_restored.as_ref().filter(|_| half.is_none())?;
    let version = was.rolled_back.as_ref()?;
    versions::is_same(version, &spec.version).then(|| Hold::new(spec, by(&was.rollback)))
}

fn by(rollback: &str) -> String {
    format!("it was rolled back by {rollback}")
}

/// The one at work is gone, and nobody saw it end: whoever deleted it wanted it stopped, not begun anew.
fn vanished(facts: &UpgradeFacts<'_>, known: &UpgradeStatus) -> Option<Hold> {
    let (target, name) = (known.target.as_ref()?, known.operation.as_ref()?);
    let spec = &facts.cluster.spec;
    let gone = facts.operations.iter().all(|operation| operation.name_any() != *name);
    (gone && versions::is_same(target, &spec.version))
        .then(|| Hold::new(spec, format!("{name} was deleted before anybody saw it end")))
}

/// `ended Failed: <why>`
pub(super) fn ending(operation: &OpenBaoOperation) -> String {
    let said = operation.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
    format!("ended {}{}{said}", operation.phase().as_str(), if said.is_empty() { "" } else { ": " })
}

#[cfg(test)]
#[path = "holds_tests.rs"]
mod tests;
