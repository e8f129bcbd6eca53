//! One member: what its cluster and its operation say, and the operation that a claim creates. Pure.

use crate::{
    adapter::kubernetes::shorten,
    api::{
        Actor, ActorSource, Direction, MemberState, MemberStatus, OpenBaoCluster, OpenBaoOperation, OpenBaoRollout,
        OperationKind, OperationPhase, ROLLOUT_NAME, RequestAction, RequestOutcome, RolloutMemberState,
        RolloutMemberStatus, StepState, UpgradeDirective, conditions::reason::MEMBER_MISSING,
    },
    service::{
        opslifecycle,
        upgrade::{
            self,
            versions::{self, Judgement},
        },
    },
};
use kube::ResourceExt;
use std::sync::Arc;

/// What is known of one member.
#[derive(Clone, Debug, Default)]
pub struct MemberFacts {
    /// Its cluster; `None` when there is none of that name.
    pub cluster: Option<Arc<OpenBaoCluster>>,
    /// The operations of that cluster, in no order.
    pub operations: Vec<Arc<OpenBaoOperation>>,
    /// The restore that waits for the cluster.
    pub pending_restore: Option<String>,
    /// The image that brings it to the rollout's version.
    pub image: String,
    /// The image that it runs now.
    pub running_image: String,
}

/// Whether a member can begin now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Yes.
    Open,
    /// It has the version.
    Done,
    /// Not yet: what is awaited.
    Wait(String),
    /// Never: why.
    Never(String),
}

/// Why the leadership of a member's cluster cannot move now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Until a person does something about it.
    UntilMended(String),
    /// Until its members are all there again, as they may be at the next look.
    ForNow(String),
}

impl Kept {
    /// What it is, in words.
    pub fn why(&self) -> &str {
        match self {
            Self::UntilMended(why) | Self::ForNow(why) => why,
        }
    }

    /// Whether it does not pass without a person.
    pub fn waits_for_a_person(&self) -> bool {
        matches!(self, Self::UntilMended(_))
    }
}

/// How far the operation of a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// There is no such operation (yet).
    Absent,
    /// Before the park point.
    Preparing(String),
    /// Before the point of no return, and its outcome is unknown until a person has spoken: it refuses whatever else it is asked.
    Unknown(String),
    /// At the park point: a `Resume` is understood.
    Parked,
    /// Leadership moves, has just moved, or was told to; with what is told of that.
    CuttingOver(String),
    /// Being watched before it counts as done.
    Soaking,
    /// It ended.
    Ended {
        /// What that makes of the member.
        state: RolloutMemberState,
        /// The operation's own words.
        message: String,
    },
}

impl MemberFacts {
    /// Looks at the cluster before it is touched.
    pub fn entry(&self, version: &str) -> Entry {
        let Some(cluster) = &self.cluster else {
            return Entry::Never(format!(
                "{MEMBER_MISSING}: there is no OpenBaoCluster of that name in this namespace"
            ));
        };
        let status = cluster.status.as_ref();
        let Some(running) = status.and_then(|status| status.current_version.as_deref()) else {
            return Entry::Wait("the cluster has not finished its first start".to_owned());
        };
        // Also a rollback that waits for its start, and names no version yet.
        let live = self.operations.iter().find(|operation| {
            matches!(operation.spec.operation, OperationKind::Upgrade | OperationKind::Rollback)
                && !operation.has_ended()
        });
        if let Some(live) = live {
            return Entry::Wait(format!("operation {} goes first", live.name_any()));
        }
        match versions::judge(running, version, cluster.spec.unseal.type_.as_str()) {
            Judgement::Same => upgrade::decide::doubt(cluster).map_or(Entry::Done, Entry::Wait),
            Judgement::Refused { reason, message } => Entry::Never(format!("{reason}: {message}")),
            Judgement::Upgrade => match upgrade::decide::obstacle(cluster, self.pending_restore.as_deref()) {
                Some((_, message)) => Entry::Wait(message),
                None => Entry::Open,
            },
        }
    }

    /// Why the leadership of its cluster cannot move now, by what the cluster is told and tells of itself. The operation looks for
    /// itself as well, and closer; but once it is told to go on, nobody else's leadership moves before it has.
    pub fn kept(&self) -> Option<Kept> {
        let cluster = self.cluster.as_ref()?;
        let name = cluster.name_any();
        if cluster.spec.paused {
            let why = format!("OpenBaoCluster {name} is paused: set its spec.paused to false");
            return Some(Kept::UntilMended(why));
        }
        if let Some(why) = cluster.obstacle() {
            return Some(Kept::UntilMended(why.to_owned()));
        }
        let status = cluster.status.as_ref()?;
        let serves = |member: &&MemberStatus| matches!(member.state, MemberState::Active | MemberState::Standby);
        if let Some(lost) = status.members.iter().find(|member| !serves(member)) {
            return Some(Kept::ForNow(format!("member {} of OpenBaoCluster {name} is {:?}", lost.name, lost.state)));
        }
        // By who is there: a changed spec.replicas is carried out after the upgrade. Two can never bear a failure, and one whose pod
        // is gone is missed by the operation itself.
        (status.members.len() > 2 && status.failure_tolerance == Some(0)).then(|| {
            let why = "can bear no failure: not all of its members vote and follow";
            Kept::ForNow(format!("OpenBaoCluster {name} {why}"))
        })
    }

    /// Whether the cluster says that it runs this version.
    pub fn runs(&self, version: &str) -> bool {
        let status = self.cluster.as_ref().and_then(|cluster| cluster.status.as_ref());
        status
            .and_then(|status| status.current_version.as_deref())
            .is_some_and(|running| versions::is_same(running, version))
    }

    /// Looks at the operation of that name.
    pub fn work(&self, operation: &str) -> Work {
        let Some(operation) = self.operations.iter().find(|candidate| candidate.name_any() == operation) else {
            return Work::Absent;
        };
        let Some(status) = &operation.status else { return Work::Preparing("waiting to begin".to_owned()) };
        if status.phase.is_terminal() {
            let past = status.point_of_no_return_at.is_some();
            let state = match status.phase {
                OperationPhase::Succeeded => RolloutMemberState::Completed,
                OperationPhase::RolledBack => RolloutMemberState::Reverted,
                OperationPhase::Cancelled => RolloutMemberState::Stopped,
                _ if past => RolloutMemberState::Failed,
                _ => RolloutMemberState::FailedRetryable,
            };
            return Work::Ended { state, message: status.message.clone().unwrap_or_default() };
        }
        let running =
            |name: &str| status.steps.iter().find(|step| step.name == name && step.state == StepState::Running);
        let park = running(upgrade::PARK).filter(|_| status.direction == Direction::Forward);
        let moves = status.point_of_no_return_at.is_some()
            || status.steps.iter().any(begun_step_down)
            || park.is_some_and(|park| park.resumed_by.is_some());
        if running(upgrade::SOAK).or_else(|| running(upgrade::FINISH)).is_some() {
            Work::Soaking
        } else if status.phase == OperationPhase::Unknown && status.point_of_no_return_at.is_none() {
            let said = status.message.as_deref().unwrap_or_default();
            Work::Unknown(format!("operation {} is Unknown and waits for a person: {said}", operation.name_any()))
        } else if moves {
            // Told to go on, it may still wait for what has to be there first.
            let waits = park.and_then(|park| park.waiting.clone());
            Work::CuttingOver(waits.unwrap_or_else(|| "leadership moves".to_owned()))
        } else if park.is_some_and(|park| park.parked_at.is_some()) {
            // Not as soon as the step runs: it looks around before it parks, and refuses a Resume until then.
            Work::Parked
        } else {
            let step = status.steps.iter().find(|step| step.state == StepState::Running);
            Work::Preparing(step.map_or_else(|| status.phase.as_str().to_owned(), |step| step.name.clone()))
        }
    }

    /// Whether the operation of that name is under way and has a way back still.
    pub fn can_turn_back(&self, operation: &str) -> bool {
        let seen = self.operations.iter().find(|candidate| candidate.name_any() == operation);
        seen.is_some_and(|seen| {
            let is_past = seen.status.as_ref().is_some_and(|status| status.point_of_no_return_at.is_some());
            !seen.has_ended() && !is_past
        })
    }

    /// Whether the operation of that name was refused before it began, as the image is another one by now.
    pub fn is_overtaken(&self, operation: &str, version: &str) -> bool {
        let wished = UpgradeDirective { version: version.to_owned(), image: self.image.clone() };
        let seen = self.operations.iter().find(|candidate| candidate.name_any() == operation);
        seen.is_some_and(|seen| upgrade::asked::is_overtaken(seen, &wished))
    }

    /// The operation that brings the member to the rollout's version.
    pub fn operation(
        &self,
        rollout: &OpenBaoRollout,
        name: &str,
        park: Option<upgrade::Park>,
    ) -> Option<OpenBaoOperation> {
        let cluster = self.cluster.as_ref()?;
        let running = cluster.status.as_ref()?.current_version.clone()?;
        let from = UpgradeDirective { version: running, image: self.running_image.clone() };
        let to = UpgradeDirective { version: rollout.spec.version.clone(), image: self.image.clone() };
        let mut operation = upgrade::request::upgrade(cluster, name.to_owned(), &from, &to)?;
        operation.spec.actor = Some(Actor { identity: identity(rollout), source: ActorSource::Rollout });
        operation.spec.intent = Some(format!("rollout {} to {}", rollout.name_any(), to.version));
        if let Some(park) = park {
            operation.spec.parameters.insert(upgrade::request::PARK.to_owned(), park.as_str().to_owned());
        }
        operation.metadata.labels.get_or_insert_default().insert(ROLLOUT_LABEL.to_owned(), label(&rollout.name_any()));
        operation.metadata.annotations.get_or_insert_default().insert(ROLLOUT_NAME.to_owned(), rollout.name_any());
        Some(operation)
    }
}

/// The member as it is before an attempt; its next one has an operation of its own.
pub fn anew(member: &RolloutMemberStatus) -> RolloutMemberStatus {
    RolloutMemberStatus { cluster: member.cluster.clone(), attempt: member.attempt, ..RolloutMemberStatus::default() }
}

/// The nonce with which `rollout` says `Resume` or `Cancel` to a member's operation.
pub fn nonce(rollout: &OpenBaoRollout, operation: &OpenBaoOperation, action: RequestAction) -> String {
    let first = format!("rollout-{action:?}-{}", rollout.uid().unwrap_or_default());
    let past = operation.status.as_ref().is_some_and(|status| status.point_of_no_return_at.is_some());
    opslifecycle::nonce(&first, operation, |answer| match action {
        // What is superseded is on its way to an end.
        RequestAction::Resume => answer.outcome != RequestOutcome::Superseded,
        // Past the point of no return each one would be refused, for ever.
        _ => answer.outcome == RequestOutcome::Refused && !past,
    })
}

/// The label that names the rollout an operation belongs to, shortened to what a label may hold.
pub const ROLLOUT_LABEL: &str = "openbao.org/rollout";

/// Characters that `spec.actor.identity`, and `by` of a request, take. A rollout's name alone may be as long.
const IDENTITY: usize = 253;

/// Who a rollout is to its operations: `openbaorollout/<name>`, the name shortened where there is no room for it.
pub fn identity(rollout: &OpenBaoRollout) -> String {
    let name = rollout.name_any();
    let whole = format!("openbaorollout/{name}");
    if whole.len() <= IDENTITY { whole } else { format!("openbaorollout/{}", label(&name)) }
}

fn label(name: &str) -> String {
    if name.len() <= shorten::LIMIT { name.to_owned() } else { shorten::joined(name, "rollout") }
}

fn begun_step_down(step: &crate::api::StepStatus) -> bool {
    step.name == upgrade::request::STEP_DOWN && step.state != StepState::Pending
}

/// `<cluster>-rollout-<first 8 of the rollout's UID>-<attempt>`: the same each time, so that a crash makes nothing twice.
pub fn operation_name(rollout: &OpenBaoRollout, cluster: &str, attempt: i32) -> String {
    let uid: String = rollout.uid().unwrap_or_default().chars().take(8).collect();
    format!("{cluster}-rollout-{uid}-{attempt}")
}
