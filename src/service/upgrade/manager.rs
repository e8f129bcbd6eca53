//! The rolling upgrade as an operation: what it consists of, and how each step looks and acts.
//!
//! `GateHealth` → `GateImage` → `PreUpgradeBackup` (a child operation under this lock) → `GateStorage` → `UpdateTemplate` →
//! `UpgradeStandby/<pod>` … → `Park` (if asked) → `StepDown` (the point of no return) → `ReplaceOldLeader` → `Soak` → `Finish`.
//! Before `StepDown` everything is undone by putting the old template back and replacing the standbys once more.

use super::{
    decide::HALF_RESTORED,
    gates, request,
    steps::{self, Facts, PodFacts, Turn},
    trouble::trouble,
    versions::{self, Judgement},
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{apply, client::timed},
        openbao::HealthState,
    },
    api::{
        LockOperation, LockPlan, OpenBaoCluster, OpenBaoOperation, OperationKind, OperationPhase, Plan, RetryPolicy,
        StepKind, StepSpec, UpgradeDirective, duration,
    },
    service::{
        backup,
        cluster::{
            build::statefulset::{CONTAINER, IMAGE},
            names, observe,
        },
        opslifecycle::{
            FinishCall, Manager, PlanCall, Planned, Refusal, RetryClass, StepCall, StepOutcome, guests, lineage,
            stop_children,
        },
    },
};
use chrono::Utc;
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::PostParams, runtime::reflector::ObjectRef};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const GATE: &str = "GateHealth";
const GATE_IMAGE: &str = "GateImage";
const BACKUP: &str = "PreUpgradeBackup";
const GATE_STORAGE: &str = "GateStorage";
const UPGRADE_STANDBY: &str = "UpgradeStandby";
/// The step in which an upgrade waits before leadership moves.
pub const PARK: &str = "Park";
const REPLACE_OLD_LEADER: &str = "ReplaceOldLeader";
/// The step in which a new leader is watched.
pub const SOAK: &str = "Soak";
/// The last step.
pub const FINISH: &str = "Finish";
const REVERT_TEMPLATE: &str = "RevertTemplate";
const REVERT_STANDBY: &str = "RevertStandby";

/// Config of a standby's step: its pod.
const POD: &str = "pod";
/// Config of the soak: how long.
const PERIOD: &str = "period";
/// Config of a standby's step: the others, should this one lead by then.
const OTHERS: &str = "others";

/// Output of the backup's step: how large it is.
pub(super) const BACKUP_BYTES: &str = "backupBytes";

/// How often a step looks again by itself within one call, and for how long: leadership moves in under a second and the
/// old leader must not outlive that by a poll of several seconds.
pub(super) const GLANCE: Duration = Duration::from_millis(250);
pub(super) const GLANCES: u32 = 40;

/// How long a server gets to stop by itself before it is killed. A server that gave up leadership sits out 10 s without
/// minding SIGTERM, and by then another one leads.
const GRACE_SECONDS: u32 = 10;

/// The same for an old leader that has given up leadership: it only follows, ignores SIGTERM while it sits out its 10 s, and
/// would be killed at their end anyway. What it still forwards for a client gets this long, and the time in which it could
/// win an election again is shorter by the rest.
const PAST_LEADER_GRACE_SECONDS: u32 = 3;

/// Runs upgrades.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpgradeManager;

impl Manager for UpgradeManager {
    fn kinds(&self) -> &'static [OperationKind] {
        &[OperationKind::Upgrade]
    }

    fn plan<'a>(&'a self, call: PlanCall<'a>) -> BoxFuture<'a, Result<Planned, Refusal>> {
        async move { plan(&call, &observe::members(call.ad, call.cluster).await) }.boxed()
    }

    fn ready<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move { still_from_there(&call) }.boxed()
    }

    fn run<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        run(call).boxed()
    }

    fn finish<'a>(&'a self, call: FinishCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move {
            let stopped = stop_children(&call).await;
            if matches!(stopped, StepOutcome::Done { .. }) {
                gates::clear(&call).await;
            }
            stopped
        }
        .boxed()
    }
}

/// The plan. Pure but for what was observed.
fn plan(call: &PlanCall<'_>, members: &[observe::Member]) -> Result<Planned, Refusal> {
    let spec = &call.cluster.spec;
    let (Some(to), Some(from)) = (request::target(call.op), request::origin(call.op)) else {
        return Err(Refusal::failed(
            "NotAsked",
            "an upgrade is asked for by changing spec.version of the OpenBaoCluster; the operator then creates the operation",
        ));
    };
    let seal = spec.unseal.type_.as_str();
    if call.cluster.is_half_restored() {
        return Err(Refusal::constraint("RollbackUnfinished", HALF_RESTORED));
    }
    if let Some(runs) = elsewhere(call.cluster, &from) {
        let (namespace, name) = (call.cluster.namespace().unwrap_or_default(), call.cluster.name_any());
        let others = call.ad.caches.operations_of(&namespace, &name);
        let is_at_work = |other: &&Arc<OpenBaoOperation>| {
            other.uid() != call.op.uid() && request::has_begun(other) && !other.has_ended()
        };
        return Err(match others.iter().find(is_at_work) {
            Some(other) => Refusal::wait(
                RetryClass::Standard,
                "AnotherUpgradeRuns",
                format!("{} is at work; what this one means is decided when that has ended", other.name_any()),
            ),
            None => Refusal::constraint("NotFromHere", not_from_here(&from, &runs)),
        });
    }
    match versions::judge(&from.version, &to.version, seal) {
        Judgement::Upgrade => {}
        Judgement::Same => return Err(Refusal::failed("NoUpgradeNeeded", format!("{} runs already", to.version))),
        Judgement::Refused { reason, message } => return Err(Refusal::constraint(reason, message)),
    }
    let Some(leader) = observe::leader(members) else {
        return Err(Refusal::wait(
            RetryClass::ProgressPoll,
            "LeaderUnknown",
            "the members agree on no leader, so nobody can say which pods are the standbys",
        ));
    };
    let standbys = members.iter().filter(|member| member.name != leader.name).map(|member| member.name.clone());
    let holder_uid = call.op.uid().unwrap_or_default();
    Ok(Planned {
        plan: Plan {
            steps: planned_steps(
                spec,
                request::Park::of(call.op, call.cluster).is_some(),
                &standbys.collect::<Vec<_>>(),
                &leader.name,
            ),
            lock: Some(LockPlan {
                operation: LockOperation::Upgrade,
                holder: request::rollout(call.op).unwrap_or("openbaocluster/upgrade").to_owned(),
                holder_uid,
                before: Some(
                    if spec.upgrade.pre_upgrade_snapshot { BACKUP } else { request::UPDATE_TEMPLATE }.to_owned(),
                ),
                force: false,
                message: Some(format!("upgrade from {} to {}", from.version, to.version)),
            }),
            point_of_no_return: Some(request::STEP_DOWN.to_owned()),
            forward_recovery: Some(
                "an OpenBaoOperation with operation: Rollback and lineage.rollbackOf naming this one".to_owned(),
            ),
            max_retries: None,
        },
        inputs: BTreeMap::new(),
    })
}

/// The version that the cluster runs, if that is not where this upgrade says it comes from. A record that is applied again,
/// or one of two that were asked for at once, must not bring servers back to what it once knew.
fn elsewhere(cluster: &OpenBaoCluster, from: &UpgradeDirective) -> Option<String> {
    let shown = cluster.status.as_ref()?.upgrade.as_ref()?.directive.as_ref()?;
    (!versions::is_same(&shown.version, &from.version)).then(|| shown.version.clone())
}

fn not_from_here(from: &UpgradeDirective, runs: &str) -> String {
    format!(
        "this upgrade goes from {} and the cluster runs {runs}: nothing is changed. Change spec.version of the \
         OpenBaoCluster to ask for another one",
        from.version
    )
}

/// Asked right before the lock is taken: another upgrade may have come first.
fn still_from_there(call: &StepCall<'_>) -> StepOutcome {
    let (Some(from), Some(cluster)) = (request::origin(call.op), call.cluster) else { return StepOutcome::done() };
    match elsewhere(cluster, &from) {
        Some(runs) => StepOutcome::fatal("NotFromHere", not_from_here(&from, &runs)),
        None => StepOutcome::done(),
    }
}

fn planned_steps(
    spec: &crate::api::OpenBaoClusterSpec,
    park: bool,
    standbys: &[String],
    leader: &str,
) -> Vec<StepSpec> {
    let mut steps = vec![
        step(GATE, GATE, StepKind::Idempotent, "10m"),
        StepSpec { skippable: true, ..step(GATE_IMAGE, GATE_IMAGE, StepKind::Idempotent, "10m") },
    ];
    if spec.upgrade.pre_upgrade_snapshot {
        steps.push(step(BACKUP, BACKUP, StepKind::Idempotent, "1h"));
        // Long enough for a volume to be grown.
        steps.push(StepSpec { skippable: true, ..step(GATE_STORAGE, GATE_STORAGE, StepKind::Idempotent, "1h") });
    }
    let mut template = step(request::UPDATE_TEMPLATE, request::UPDATE_TEMPLATE, StepKind::Idempotent, "2m");
    template.compensate = Some(REVERT_TEMPLATE.to_owned());
    steps.push(template);
    let mut undo = vec![step(REVERT_TEMPLATE, REVERT_TEMPLATE, StepKind::ReadVerify, "30m")];
    for pod in standbys {
        let others = std::iter::once(leader).chain(standbys.iter().map(String::as_str)).filter(|other| other != pod);
        let others = others.collect::<Vec<_>>().join(",");
        let mut forward = step(&format!("{UPGRADE_STANDBY}/{pod}"), UPGRADE_STANDBY, StepKind::ReadVerify, "10m");
        forward.config = BTreeMap::from([(POD.to_owned(), pod.clone()), (OTHERS.to_owned(), others)]);
        forward.compensate = Some(format!("{REVERT_STANDBY}/{pod}"));
        steps.push(forward);
        let mut back = step(&format!("{REVERT_STANDBY}/{pod}"), REVERT_STANDBY, StepKind::ReadVerify, "10m");
        back.config = BTreeMap::from([(POD.to_owned(), pod.clone())]);
        undo.push(back);
    }
    if park {
        // A fortnight: then somebody has forgotten it, and it turns back.
        let mut park = step(PARK, PARK, StepKind::Idempotent, "336h");
        park.skippable = true;
        steps.push(park);
    }
    steps.push(step(request::STEP_DOWN, request::STEP_DOWN, StepKind::ReadVerify, "10m"));
    steps.push(step(REPLACE_OLD_LEADER, REPLACE_OLD_LEADER, StepKind::ReadVerify, "30m"));
    let mut soak = step(SOAK, SOAK, StepKind::Idempotent, "24h");
    soak.config = BTreeMap::from([(PERIOD.to_owned(), spec.upgrade.soak.clone())]);
    soak.skippable = true;
    steps.push(soak);
    steps.push(step(FINISH, FINISH, StepKind::Idempotent, "30m"));
    // A straight line: each step rests on the one before it.
    for index in 1..steps.len() {
        let before = steps[index - 1].name.clone();
        steps[index].depends_on = vec![before];
    }
    steps.extend(undo);
    steps
}

fn step(name: &str, action: &str, kind: StepKind, timeout: &str) -> StepSpec {
    StepSpec {
        name: name.to_owned(),
        action: action.to_owned(),
        kind,
        timeout: Some(timeout.to_owned()),
        // Each of these steps waits for as long as its deadline allows; a failure it reports is final.
        retry_policy: Some(RetryPolicy { max_attempts: Some(1), ..RetryPolicy::default() }),
        ..StepSpec::default()
    }
}

async fn run(call: StepCall<'_>) -> StepOutcome {
    let (Some(to), Some(from)) = (request::target(call.op), request::origin(call.op)) else {
        return StepOutcome::fatal("NotAsked", "the operation names no versions");
    };
    let Some(cluster) = call.cluster else {
        return StepOutcome::fatal("ClusterMissing", format!("OpenBaoCluster {} is gone", call.op.spec.cluster));
    };
    let pod = call.step.config.get(POD).map(String::as_str).unwrap_or_default();
    let others: Vec<String> =
        call.step.config.get(OTHERS).map(|others| others.split(',').map(str::to_owned).collect()).unwrap_or_default();
    match call.step.action.as_str() {
        GATE => settle(&call, cluster, steps::gate).await,
        GATE_IMAGE => gates::image(&call, cluster, &to).await,
        BACKUP => pre_upgrade_backup(&call).await,
        GATE_STORAGE => gates::storage(&call, cluster),
        // The template itself is rendered by the cluster's reconcile, from this very journal.
        request::UPDATE_TEMPLATE => settle(&call, cluster, |facts| steps::template(facts, &to)).await,
        REVERT_TEMPLATE => settle(&call, cluster, |facts| steps::reverted(facts, &from)).await,
        UPGRADE_STANDBY => settle(&call, cluster, |facts| steps::standby(facts, &to, pod, &others)).await,
        REVERT_STANDBY => settle(&call, cluster, |facts| steps::standby_reverted(facts, &from, pod)).await,
        PARK => park(&call, cluster, &to).await,
        request::STEP_DOWN => settle(&call, cluster, |facts| steps::step_down(facts, &to)).await,
        REPLACE_OLD_LEADER => settle(&call, cluster, |facts| steps::replace_old(facts, &to)).await,
        SOAK => soak(&call, &to).await,
        FINISH => settle(&call, cluster, |facts| steps::finished(facts, &to)).await,
        other => StepOutcome::fatal("UnknownAction", format!("an upgrade has no action {other}")),
    }
}

/// Looks, decides and acts until there is nothing to do but wait for longer than a few glances.
pub(super) async fn settle(
    call: &StepCall<'_>,
    cluster: &OpenBaoCluster,
    decide: impl Fn(&Facts) -> Turn + Send + Sync,
) -> StepOutcome {
    let namespace = cluster.namespace().unwrap_or_default();
    let mut reason = String::new();
    for glance in 0..GLANCES {
        if glance > 0 {
            tokio::time::sleep(GLANCE).await;
        }
        let (facts, members) = look(call.ad, cluster).await;
        match decide(&facts) {
            Turn::Done(record) => return StepOutcome::done_with([("observed", record)]),
            Turn::Overtaken(leads) => return StepOutcome::done_with([(request::UNPLANNED_CUTOVER, leads)]),
            Turn::Fail { reason, message } => return StepOutcome::fatal(reason, message),
            Turn::Wait(awaited) => reason = awaited,
            Turn::Delete { pod, uid } => {
                if !call.ad.leadership.still_leader() {
                    return StepOutcome::in_progress("another operator leads now");
                }
                let grace = grace(&call.step.action, &facts, &pod);
                if let Err(error) = apply::delete_within::<Pod>(&call.ad.client, &namespace, &pod, &uid, grace).await {
                    return StepOutcome::in_progress(format!("failed to delete pod {pod}, trying again: {error}"));
                }
                tracing::info!(%pod, step = %call.step.name, "replaced a pod of the upgrade");
                reason = format!("pod {pod} is being replaced");
            }
            Turn::StepDown { pod } => match move_leadership(call, cluster, &members, &pod).await {
                Ok(()) => reason = format!("{pod} was asked to give up leadership"),
                Err(waiting) => return waiting,
            },
        }
    }
    StepOutcome::in_progress(reason)
}

/// How long this pod gets to stop. One that leads, by whoever's word, gets the whole time.
fn grace(action: &str, facts: &Facts, pod: &str) -> u32 {
    let follows = facts.leader.as_deref().is_some_and(|leader| leader != pod)
        && facts.pod(pod).is_some_and(|pod| pod.state == Some(HealthState::Standby));
    if action == REPLACE_OLD_LEADER && follows { PAST_LEADER_GRACE_SECONDS } else { GRACE_SECONDS }
}

/// Makes the old leader give up: asked by step-down where our identity allows it, else by deleting its pod, which stops it
/// gracefully. Either way its replacement follows at once.
async fn move_leadership(
    call: &StepCall<'_>,
    cluster: &OpenBaoCluster,
    members: &[observe::Member],
    pod: &str,
) -> Result<(), StepOutcome> {
    let Some(member) = members.iter().find(|member| member.name == pod) else { return Ok(()) };
    if !call.ad.leadership.still_leader() {
        return Err(StepOutcome::in_progress("another operator leads now"));
    }
    let asked = async {
        let token = observe::operator_token(call.ad, cluster, member).await.map_err(|error| error.to_string())?;
        let client = member.client().ok_or("it has no address")?.map_err(|error| error.to_string())?;
        client.step_down(&token).await.map_err(|error| error.to_string())
    };
    match asked.await {
        Ok(()) => {
            tracing::info!(%pod, event = "StepDown", "asked the old leader to give up leadership");
            Ok(())
        }
        Err(why) => {
            tracing::info!(%pod, %why, event = "StepDown", "no step-down by API: stopping the old leader's pod instead");
            let namespace = cluster.namespace().unwrap_or_default();
            apply::delete_within::<Pod>(&call.ad.client, &namespace, pod, &member.uid, GRACE_SECONDS)
                .await
                .map_err(|error| StepOutcome::in_progress(format!("failed to stop pod {pod}, trying again: {error}")))
        }
    }
}

/// Everything the decisions need, at this moment.
async fn look(ad: &Adapters, cluster: &OpenBaoCluster) -> (Facts, Vec<observe::Member>) {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let members = observe::members(ad, cluster).await;
    // As last seen: whoever looks four times a second asks nobody. An old view only makes a step wait.
    let set = ad.caches.stateful_sets.get(&ObjectRef::new(&names::statefulset(&name)).within(&namespace));
    let set = set.and_then(|set| set.spec.clone());
    // The members there are: a changed spec.replicas is carried out after the upgrade.
    let replicas = set.as_ref().and_then(|set| set.replicas).unwrap_or(cluster.spec.replicas);
    let template = set.and_then(|set| image_of(set.template.spec.as_ref()?));
    let pods = ad.caches.pods_of(&namespace, &name);
    let facts = Facts {
        replicas: usize::try_from(replicas).unwrap_or_default(),
        tolerance: ad.caches.cluster(&namespace, &name).and_then(|now| now.status.as_ref()?.failure_tolerance),
        leader: observe::leader(&members).map(|leader| leader.name.clone()),
        committed: observe::leader(&members)
            .and_then(|leader| leader.view.as_ref())
            .map(|view| view.raft_committed_index),
        template,
        pods: members
            .iter()
            .map(|member| {
                let pod = pods.iter().find(|pod| pod.uid().as_deref() == Some(member.uid.as_str()));
                PodFacts {
                    name: member.name.clone(),
                    uid: member.uid.clone(),
                    ready: member.ready,
                    terminating: member.terminating,
                    image: pod.and_then(|pod| wanted_image(pod)).unwrap_or_default(),
                    state: member.state(),
                    version: member.version().map(str::to_owned),
                    applied: member.view.as_ref().map(|view| view.raft_applied_index),
                    trouble: pod.and_then(|pod| trouble(pod)),
                }
            })
            .collect(),
    };
    (facts, members)
}

/// The image that the server's container was asked for. What a webhook made of it, or put before it, does not matter.
fn wanted_image(pod: &Pod) -> Option<String> {
    pod.annotations().get(IMAGE).cloned().or_else(|| image_of(pod.spec.as_ref()?))
}

fn image_of(pod: &k8s_openapi::api::core::v1::PodSpec) -> Option<String> {
    pod.containers.iter().find(|container| container.name == CONTAINER)?.image.clone()
}

async fn pre_upgrade_backup(call: &StepCall<'_>) -> StepOutcome {
    let (namespace, name) = (call.op.namespace().unwrap_or_default(), call.op.name_any());
    let Some(child) = backup::request::child(call.op, backup::request::PRE_UPGRADE, "the state before an upgrade")
    else {
        return StepOutcome::fatal("NotStored", format!("operation {name} has no UID"));
    };
    let operations: Api<OpenBaoOperation> = Api::namespaced(call.ad.client.clone(), &namespace);
    let child_name = child.name_any();
    let found = match call.ad.caches.operation(&namespace, &child_name) {
        Some(found) => found.as_ref().clone(),
        None => match timed(operations.create(&PostParams::default(), &child)).await {
            Ok(created) => created,
            Err(error) if error.is_already_exists() => {
                return StepOutcome::in_progress(format!("backup {child_name} was just asked for"));
            }
            Err(error) => {
                return StepOutcome::retryable("BackupNotAsked", format!("failed to create {child_name}: {error}"));
            }
        },
    };
    let status = found.status.unwrap_or_default();
    match status.phase {
        OperationPhase::Succeeded => {
            let artifacts = status.artifacts.unwrap_or_default();
            let mut output =
                vec![(lineage::BACKUP, child_name), (lineage::BACKUP_KEY, artifacts.key.unwrap_or_default())];
            output.extend(artifacts.size_bytes.map(|bytes| (BACKUP_BYTES, bytes.to_string())));
            StepOutcome::done_with(output)
        }
        phase if phase.is_terminal() => StepOutcome::fatal(
            "PreUpgradeBackupFailed",
            format!("backup {child_name} ended {}: {}", phase.as_str(), status.message.unwrap_or_default()),
        ),
        _ => StepOutcome::in_progress(format!(
            "backup {child_name}: {}",
            status.message.unwrap_or_else(|| "starting".to_owned())
        )),
    }
}

/// Waits for a person, or for its turn in a rollout; backups may run meanwhile, and the cutover waits for those that do.
async fn park(call: &StepCall<'_>, cluster: &OpenBaoCluster, to: &UpgradeDirective) -> StepOutcome {
    let Some(by) = &call.state.resumed_by else {
        // The old leader was lost and a new server leads: what is left of the old version must not win an election now.
        let (facts, _) = look(call.ad, cluster).await;
        if let Some(leads) = steps::leads_on(&facts, to) {
            return StepOutcome::done_with([(request::UNPLANNED_CUTOVER, leads)]);
        }
        return StepOutcome::Parked {
            reason: format!(
                "parked with all standbys upgraded: add a Resume to spec.requests of {} to move leadership, or a Cancel to turn back",
                call.op.name_any()
            ),
            // The members before this one may take their time.
            unlimited: request::Park::of(call.op, cluster) == Some(request::Park::Ordered),
        };
    };
    match guests(call.ad, call.op).await {
        Ok(guests) => match guests.iter().find(|guest| !backup::request::is_verification(guest)) {
            Some(guest) => StepOutcome::in_progress(format!("waiting for backup {} to end", guest.name_any())),
            None => StepOutcome::done_with([("resumedBy", by.clone())]),
        },
        Err(error) => StepOutcome::in_progress(format!("failed to look for running backups, trying again: {error}")),
    }
}

async fn soak(call: &StepCall<'_>, to: &UpgradeDirective) -> StepOutcome {
    let period = call.step.config.get(PERIOD).and_then(|period| duration::parse(period).ok()).unwrap_or_default();
    let since = call.state.started_at.unwrap_or(call.now);
    let left = period.saturating_sub((Utc::now().max(call.now) - since).to_std().unwrap_or_default());
    if left <= GLANCE * GLANCES {
        tokio::time::sleep(left).await;
        StepOutcome::done()
    } else {
        StepOutcome::in_progress(format!("{} leads; watching it for {}", to.version, duration::format(period)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_old_leader_that_follows_another_one_gets_less_time_to_stop() {
        let pod = |name: &str, state| PodFacts { name: name.into(), state: Some(state), ..PodFacts::default() };
        let mut facts = Facts {
            pods: vec![pod("kelp-0", HealthState::Standby), pod("kelp-1", HealthState::Active)],
            leader: Some("kelp-1".into()),
            ..Facts::default()
        };
        assert_eq!(grace(REPLACE_OLD_LEADER, &facts, "kelp-0"), PAST_LEADER_GRACE_SECONDS);
        assert_eq!(grace(UPGRADE_STANDBY, &facts, "kelp-0"), GRACE_SECONDS);
        facts.pods[0].state = Some(HealthState::Active);
        assert_eq!(grace(REPLACE_OLD_LEADER, &facts, "kelp-0"), GRACE_SECONDS, "it says that it leads");
        facts.pods[0].state = Some(HealthState::Standby);
        facts.leader = None;
        assert_eq!(grace(REPLACE_OLD_LEADER, &facts, "kelp-0"), GRACE_SECONDS, "nobody leads yet");
    }
}
