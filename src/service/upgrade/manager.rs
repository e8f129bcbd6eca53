//! The rolling upgrade as an operation: what it consists of, and how each step looks and acts. Steps that are more than a turn
//! of the servers have a file of their own.
//!
//! `GateHealth` → `GateImage` → `PreUpgradeBackup` (a child operation under this lock) → `GateStorage` → `UpdateTemplate` →
//! `UpgradeStandby/<pod>` … → `Park` (if asked) → `StepDown` (the point of no return) → `ReplaceOldLeader` → `Soak` → `Finish`.
//! Before `StepDown` everything is undone by putting the old template back and replacing the standbys once more.

use super::{
    asked, child, cutover,
    decide::HALF_RESTORED,
    gates, guest, park,
    plan::{
        BACKUP, FINISH, GATE, GATE_IMAGE, GATE_STORAGE, OTHERS, PARK, POD, REPLACE_OLD_LEADER, REVERT_STANDBY,
        REVERT_TEMPLATE, SOAK, UPGRADE_STANDBY, in_turn, leads_to_step_down, planned_steps,
    },
    request, soak,
    steps::{self, Facts, PodFacts, Turn, Votes},
    trouble::trouble,
    versions::{self, Judgement},
    votes,
};
use crate::{
    adapter::{Adapters, kubernetes::apply, openbao::HealthState},
    api::{LockOperation, LockPlan, OpenBaoCluster, OpenBaoOperation, OperationKind, Plan, UpgradeDirective},
    service::{
        cluster::{headcount, login, members, names, observe, upkeep, version},
        opslifecycle::{
            FinishCall, Manager, PlanCall, Planned, Refusal, RetryClass, StepCall, StepDown, StepOutcome,
            asked::Parameter, paused, pending, stop_children, tell_step_down,
        },
    },
};
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Output of the backup's step: how large it is.
pub(super) const BACKUP_BYTES: &str = "backupBytes";

/// How often a step looks again by itself within one call, and for how long: leadership moves in under a second and the
/// old leader must not outlive that by a poll of several seconds.
pub(super) const GLANCE: Duration = Duration::from_millis(250);
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// How long a server gets to stop by itself before it is killed. A server that gave up leadership sits out 10 s without
/// minding SIGTERM, and by then another one leads.
const GRACE_SECONDS: u32 = 10;

/// The same for an old leader that has given up leadership: it only follows, ignores SIGTERM while it sits out its 10 s, and
/// would be killed at their end anyway. What it still forwards for a client gets this long, and the time in which it could
/// win an election again is shorter by the rest.
const PAST_LEADER_GRACE_SECONDS: u32 = 3;

/// Runs upgrades.
#[derive(Debug, Default)]
pub struct UpgradeManager {
    watches: soak::Watches,
}

impl Manager for UpgradeManager {
    fn kinds(&self) -> &'static [OperationKind] {
        &[OperationKind::Upgrade]
    }

    fn parameters(&self) -> &'static [Parameter] {
        &request::PARAMETERS
    }

    fn plan<'a>(&'a self, call: PlanCall<'a>) -> BoxFuture<'a, Result<Planned, Refusal>> {
        async move {
            let (Some(to), Some(from)) = (request::target(call.op), request::origin(call.op)) else {
                return Err(Refusal::failed(
                    asked::NOT_ASKED,
                    "an upgrade is asked for by changing spec.version of the OpenBaoCluster; the operator then creates the \
                     operation",
                ));
            };
            asked::check(call.ad, call.op, call.cluster, &to).await?;
            plan(&call, &to, &from, &observe::members(call.ad, call.cluster).await)
        }
        .boxed()
    }

    fn ready<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move {
            if let (Some(to), Some(cluster)) = (request::target(call.op), call.cluster)
                && let Err(refusal) = asked::check(call.ad, call.op, cluster, &to).await
            {
                return StepOutcome::from(refusal);
            }
            let restore = call.cluster.and_then(|cluster| {
                let restores =
                    call.ad.caches.restores_of(&cluster.namespace().unwrap_or_default(), &cluster.name_any());
                pending(&restores, cluster)
            });
            may_begin(call.op, call.cluster, restore.as_deref())
        }
        .boxed()
    }

    fn run<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        run(call, &self.watches).boxed()
    }

    fn finish<'a>(&'a self, call: FinishCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move {
            let stopped = stop_children(&call).await;
            if !matches!(stopped, StepOutcome::Done { .. }) {
                return stopped;
            }
            if let Some(waits) = guest::before_the_end(&call).await {
                return waits;
            }
            gates::clear(&call).await;
            self.watches.forget(&call.op.uid().unwrap_or_default());
            stopped
        }
        .boxed()
    }
}

/// The plan. Pure but for what was observed.
fn plan(
    call: &PlanCall<'_>,
    to: &UpgradeDirective,
    from: &UpgradeDirective,
    members: &[members::Member],
) -> Result<Planned, Refusal> {
    let spec = &call.cluster.spec;
    let seal = spec.unseal.type_.as_str();
    if let Some(why) = soak::too_long(&spec.upgrade.soak) {
        return Err(Refusal::wait(RetryClass::Standard, "SoakTooLong", why));
    }
    if call.cluster.is_half_restored() {
        return Err(Refusal::constraint("RollbackUnfinished", HALF_RESTORED));
    }
    if shown(call.cluster).is_none() {
        let message = format!("OpenBaoCluster {} does not say yet what it runs", call.cluster.name_any());
        return Err(Refusal::wait(RetryClass::ProgressPoll, "VersionUnknown", message));
    }
    if let Some(runs) = elsewhere(call.cluster, from) {
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
            None => Refusal::constraint("NotFromHere", not_from_here(from, runs)),
        });
    }
    match versions::judge(&from.version, &to.version, seal) {
        Judgement::Upgrade => {}
        Judgement::Same => return Err(Refusal::failed("NoUpgradeNeeded", format!("{} runs already", to.version))),
        Judgement::Refused { reason, message } => return Err(Refusal::constraint(reason, message)),
    }
    let Some(leader) = members::leader(members) else {
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

/// What the template shows.
fn shown(cluster: &OpenBaoCluster) -> Option<&UpgradeDirective> {
    cluster.status.as_ref()?.upgrade.as_ref()?.directive.as_ref()
}

/// What the cluster runs, if that is not where this upgrade says it comes from. A record that is applied again, or one of two that
/// were asked for at once, must not bring servers back to what it once knew; nor to an image that somebody wrote into it.
fn elsewhere<'a>(cluster: &'a OpenBaoCluster, from: &UpgradeDirective) -> Option<&'a UpgradeDirective> {
    shown(cluster).filter(|shown| !asked::is_same(shown, from))
}

fn not_from_here(from: &UpgradeDirective, runs: &UpgradeDirective) -> String {
    format!(
        "this upgrade goes from {} ({}) and the cluster runs {} ({}): nothing is changed. Change spec.version of the \
         OpenBaoCluster to ask for another one",
        from.version, from.image, runs.version, runs.image
    )
}

/// Asked right before the lock is taken: another upgrade may have come first, a restore may have been announced or the cluster been
/// paused since, or no server would come back any more. The restore waits for nothing but the lock, which is not ours yet.
fn may_begin(op: &OpenBaoOperation, cluster: Option<&OpenBaoCluster>, restore: Option<&str>) -> StepOutcome {
    if let (Some(from), Some(cluster)) = (request::origin(op), cluster)
        && let Some(runs) = elsewhere(cluster, &from)
    {
        return StepOutcome::fatal("NotFromHere", not_from_here(&from, runs));
    }
    if let Some(restore) = restore {
        return goes_first(restore);
    }
    if let Some(why) = cluster.and_then(OpenBaoCluster::obstacle) {
        return StepOutcome::Waiting { reason: format!("waiting, as {why}"), retry: RetryClass::Standard };
    }
    paused(cluster).unwrap_or_else(StepOutcome::done)
}

/// The wait for an announced restore. Its end changes the cluster, which wakes us.
pub(super) fn goes_first(restore: &str) -> StepOutcome {
    StepOutcome::Waiting { reason: format!("waiting, as restore {restore} goes first"), retry: RetryClass::Standard }
}

async fn run(call: StepCall<'_>, watches: &soak::Watches) -> StepOutcome {
    let (Some(to), Some(from)) = (request::target(call.op), request::origin(call.op)) else {
        return StepOutcome::fatal(asked::NOT_ASKED, "the operation names no versions");
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
        BACKUP => gates::unhindered(cluster, child::pre_upgrade_backup(&call).await),
        GATE_STORAGE => gates::unhindered(cluster, gates::storage(&call, cluster)),
        // The template itself is rendered by the cluster's reconcile, from this very journal.
        request::UPDATE_TEMPLATE => settle(&call, cluster, |facts| steps::template(facts, &to)).await,
        REVERT_TEMPLATE => settle(&call, cluster, |facts| steps::reverted(facts, &from)).await,
        UPGRADE_STANDBY => {
            let is_last = leads_to_step_down(call.op, &call.step.name);
            let turn = |facts: &Facts| {
                let turn = steps::unhindered(facts, steps::standby(facts, &to, pod, &others));
                if is_last { cutover::last_turn(facts, &to, turn) } else { turn }
            };
            settle(&call, cluster, turn).await
        }
        REVERT_STANDBY => settle(&call, cluster, |facts| steps::standby_reverted(facts, &from, pod)).await,
        PARK => park::run(&call, cluster, &to).await,
        request::STEP_DOWN => settle(&call, cluster, |facts| steps::step_down(facts, &to)).await,
        REPLACE_OLD_LEADER => {
            let in_turn = in_turn(call.op);
            settle(&call, cluster, |facts| steps::replace_old(facts, &to, &in_turn)).await
        }
        SOAK => soak::run(&call, cluster, &to, watches).await,
        FINISH => settle(&call, cluster, |facts| steps::finished(facts, &to)).await,
        other => StepOutcome::fatal("UnknownAction", format!("an upgrade has no action {other}")),
    }
}

/// Looks, decides and acts until there is nothing to do but wait for longer than a few glances, or others wait for their turn.
pub(super) async fn settle(
    call: &StepCall<'_>,
    cluster: &OpenBaoCluster,
    decide: impl Fn(&Facts) -> Turn + Send + Sync,
) -> StepOutcome {
    let namespace = cluster.namespace().unwrap_or_default();
    let must_vote = matches!(call.step.action.as_str(), UPGRADE_STANDBY | REVERT_STANDBY);
    let mut asked = votes::Asked::default();
    let mut linger = call.turns.linger(LINGER);
    let mut moves = false;
    loop {
        let (mut facts, members) = look(call.ad, cluster).await;
        let mut turn = decide(&facts);
        // Only once nothing else is awaited: to ask costs a login.
        if must_vote && matches!(turn, Turn::Done(_)) {
            facts.votes = asked.who(call, cluster, &members).await;
            turn = decide(&facts);
        }
        let reason = match turn {
            Turn::Done(record) => return StepOutcome::done_with([("observed", record)]),
            Turn::Overtaken(leads) => return StepOutcome::done_with([(request::UNPLANNED_CUTOVER, leads)]),
            Turn::Fail { reason, message } => return StepOutcome::fatal(reason, message),
            Turn::Wait(awaited) => awaited,
            Turn::Delete { pod, uid } => {
                if !call.ad.leadership.still_leader() {
                    return StepOutcome::in_progress("another operator leads now");
                }
                let grace = grace(&call.step.action, &facts, &pod);
                if let Err(error) = apply::delete_within::<Pod>(&call.ad.client, &namespace, &pod, &uid, grace).await {
                    return StepOutcome::in_progress(format!("failed to delete pod {pod}, trying again: {error}"));
                }
                tracing::info!(%pod, step = %call.step.name, "replaced a pod of the upgrade");
                format!("pod {pod} is being replaced")
            }
            Turn::StepDown { pod } => match move_leadership(call, cluster, &members, &pod).await {
                Ok(()) => {
                    // To ask may have taken all of the time in which it is to be replaced.
                    if !moves {
                        linger = call.turns.linger(LINGER);
                    }
                    moves = true;
                    format!("{pod} was asked to give up leadership")
                }
                Err(waiting) => return waiting,
            },
        };
        // Right after leadership has moved the old leader is to go, whoever waits.
        let goes_on = if moves { linger.hold(GLANCE).await } else { linger.pause(GLANCE).await };
        if !goes_on {
            return StepOutcome::in_progress(reason);
        }
    }
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
    members: &[members::Member],
    pod: &str,
) -> Result<(), StepOutcome> {
    let Some(member) = members.iter().find(|member| member.name == pod) else { return Ok(()) };
    let asked = async {
        let token = login::operator_token(call.ad, cluster, member).await.map_err(|error| error.to_string())?;
        let client = member.client().ok_or("it has no address")?.map_err(|error| error.to_string())?;
        client.step_down(&token).await.map_err(|error| error.to_string())
    };
    match asked.await {
        Ok(()) => {
            let why = "the standbys are upgraded, and one of them takes over";
            tell_step_down(call.ad, cluster, Some(call.op), pod, StepDown::Asked, why).await;
            Ok(())
        }
        // Not before the login, which takes its time; and the client asked for the same.
        Err(_) if !call.ad.leadership.still_leader() => Err(StepOutcome::in_progress("another operator leads now")),
        Err(why) => {
            let namespace = cluster.namespace().unwrap_or_default();
            apply::delete_within::<Pod>(&call.ad.client, &namespace, pod, &member.uid, GRACE_SECONDS).await.map_err(
                |error| StepOutcome::in_progress(format!("failed to stop pod {pod}, trying again: {error}")),
            )?;
            // One that is stopping already was told of.
            if !member.terminating {
                let why = format!("it cannot be asked: {why}");
                tell_step_down(call.ad, cluster, Some(call.op), pod, StepDown::Stopped, &why).await;
            }
            Ok(())
        }
    }
}

/// Everything the decisions need, at this moment.
pub(super) async fn look(ad: &Adapters, cluster: &OpenBaoCluster) -> (Facts, Vec<members::Member>) {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let members = observe::members(ad, cluster).await;
    // As last seen: whoever looks four times a second asks nobody. An old view only makes a step wait.
    let set = ad.caches.stateful_sets.get(&ObjectRef::new(&names::statefulset(&name)).within(&namespace));
    // The members there are: a changed spec.replicas is carried out after the upgrade.
    let there = set.as_deref().and_then(headcount::of);
    let replicas = there.or_else(|| u32::try_from(cluster.spec.replicas).ok()).unwrap_or_default();
    let template = set.as_deref().and_then(version::template_image);
    let pods = ad.caches.pods_of(&namespace, &name);
    let outdated = upkeep::outdated(set.as_deref(), &pods);
    let told = ad.caches.cluster(&namespace, &name);
    let facts = Facts {
        replicas: usize::try_from(replicas).unwrap_or_default(),
        tolerance: told.as_deref().and_then(|told| told.status.as_ref()?.failure_tolerance),
        obstacle: told.as_deref().and_then(OpenBaoCluster::obstacle).map(str::to_owned),
        leader: members::leader(&members).map(|leader| leader.name.clone()),
        committed: members::leader(&members)
            .and_then(|leader| leader.view.as_ref())
            .map(|view| view.raft_committed_index),
        template,
        votes: Votes::NotAsked,
        pods: members
            .iter()
            .map(|member| {
                let pod = pods.iter().find(|pod| pod.uid().as_deref() == Some(member.uid.as_str()));
                PodFacts {
                    name: member.name.clone(),
                    uid: member.uid.clone(),
                    ready: member.ready,
                    terminating: member.terminating,
                    image: pod
                        .and_then(|pod| version::asked_image(Some(&pod.metadata), pod.spec.as_ref()))
                        .unwrap_or_default(),
                    state: member.state(),
                    version: member.version().map(str::to_owned),
                    applied: member.view.as_ref().map(|view| view.raft_applied_index),
                    trouble: pod.and_then(|pod| trouble(pod)),
                    restarts: pod.map_or(0, |pod| soak::restarts(pod)),
                    up_since: pod.and_then(|pod| soak::up_since(pod)),
                    outdated: outdated.contains(&member.uid),
                }
            })
            .collect(),
    };
    (facts, members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_that_waits_for_the_lock_does_not_start_on_a_paused_cluster() {
        let op = OpenBaoOperation::new("kelp-upgrade", crate::api::OpenBaoOperationSpec::default());
        let mut cluster = OpenBaoCluster::new("kelp", crate::api::OpenBaoClusterSpec::default());
        assert_eq!(may_begin(&op, Some(&cluster), None), StepOutcome::done());
        cluster.spec.paused = true;
        assert!(matches!(may_begin(&op, Some(&cluster), None), StepOutcome::Waiting { .. }));
    }

    #[test]
    fn an_upgrade_that_waits_for_the_lock_lets_an_announced_restore_go_first() {
        let op = OpenBaoOperation::new("kelp-upgrade", crate::api::OpenBaoOperationSpec::default());
        let cluster = OpenBaoCluster::new("kelp", crate::api::OpenBaoClusterSpec::default());
        let waits = may_begin(&op, Some(&cluster), Some("undo-monday"));
        assert!(matches!(&waits, StepOutcome::Waiting { reason, .. } if reason.contains("undo-monday")), "{waits:?}");
        assert_eq!(may_begin(&op, Some(&cluster), None), StepOutcome::done(), "it is over");
    }

    #[test]
    fn an_upgrade_that_waits_for_the_lock_does_not_start_from_another_image_nor_while_no_server_would_come_back() {
        let mut op = OpenBaoOperation::new("kelp-upgrade", crate::api::OpenBaoOperationSpec::default());
        let from = [(request::FROM_VERSION, "2.6.1"), (request::FROM_IMAGE, "bao:2.6.1")];
        op.spec.parameters = from.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let cluster = |image: &str, obstacle: Option<&str>| {
            let directive = UpgradeDirective { version: "v2.6.1".into(), image: image.into() };
            let upgrade = crate::api::UpgradeStatus {
                directive: Some(directive),
                obstacle: obstacle.map(str::to_owned),
                ..crate::api::UpgradeStatus::default()
            };
            let mut cluster = OpenBaoCluster::new("kelp", crate::api::OpenBaoClusterSpec::default());
            cluster.status = Some(crate::api::OpenBaoClusterStatus { upgrade: Some(upgrade), ..Default::default() });
            cluster
        };
        assert_eq!(may_begin(&op, Some(&cluster("bao:2.6.1", None)), None), StepOutcome::done());
        let moved = may_begin(&op, Some(&cluster("mirror/bao:2.6.1", None)), None);
        assert!(
            matches!(&moved, StepOutcome::Failed { reason: "NotFromHere", message, .. } if message.contains("mirror"))
        );
        let hindered = may_begin(&op, Some(&cluster("bao:2.6.1", Some("Secret mine does not exist"))), None);
        assert!(matches!(&hindered, StepOutcome::Waiting { reason, .. } if reason.contains("Secret mine")));
    }

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
