//! The saga engine's view of a rollback. The restore's own steps are run by the restore's manager, on inputs frozen alike.

use super::super::{
    manager::{goes_first, settle},
    request,
};
use super::judge::{self, Way};
use super::plan::{self, Frozen};
use super::{ready, steps};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            apply,
            client::{RequestError, timed},
        },
    },
    api::{OpenBaoCluster, OpenBaoOperation, OperationKind, UpgradeDirective},
    service::{
        backup::store::Store,
        cluster::{facts, headcount, members, names, observe},
        opslifecycle::{
            FinishCall, Manager, PlanCall, Planned, Refusal, RetryClass, StepCall, StepMode, StepOutcome,
            asked::Parameter,
        },
        restore::{
            Restores,
            plan::JUDGE,
            steps::{Step, Witnesses, judge::SHA256, preflight},
        },
    },
};
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use std::collections::BTreeMap;

/// Runs operations of kind `Rollback`.
#[derive(Debug, Default)]
pub struct RollbackManager {
    restores: Restores,
    /// Which mover the steps here began with; the restore's steps keep theirs.
    witnesses: Witnesses,
}

impl Manager for RollbackManager {
    fn kinds(&self) -> &'static [OperationKind] {
        &[OperationKind::Rollback]
    }

    fn parameters(&self) -> &'static [Parameter] {
        &plan::PARAMETERS
    }

    fn plan<'a>(&'a self, call: PlanCall<'a>) -> BoxFuture<'a, Result<Planned, Refusal>> {
        plan_of(call).boxed()
    }

    fn ready<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move {
            match may_begin(&call) {
                Ok(()) => self.restores.ready(call).await,
                Err(outcome) => outcome,
            }
        }
        .boxed()
    }

    fn run<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        async move {
            match call.step.action.as_str() {
                request::STOP_SERVERS
                | request::START_FIRST
                | request::JOIN_OTHERS
                | plan::START_AGAIN
                | plan::FINISH => servers(&call).await,
                plan::CONFIRM_SNAPSHOT => self.confirm(call).await,
                plan::WIPE => self.wipe(call).await,
                // Preflight, Judge, SafetyBackup, PlaceMarker, Submit, ProveApplied, RestartVoters, AwaitHealthy, VerifyAccess.
                _ => self.restores.run(call).await,
            }
        }
        .boxed()
    }

    fn finish<'a>(&'a self, call: FinishCall<'a>) -> BoxFuture<'a, StepOutcome> {
        self.restores.finish(call)
    }
}

/// Asked right before the lock is taken, as the plan is frozen: by the watches, like the plan itself.
fn may_begin(call: &StepCall<'_>) -> Result<(), StepOutcome> {
    let Some(cluster) = call.cluster else { return Ok(()) };
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    ready::still_from_here(call.op, cluster, &call.ad.caches.operations_of(&namespace, &name))?;
    let claims = call.ad.caches.claims_of(&namespace, &name);
    let found = ready::data_claims(&name, claims.iter().map(|claim| &**claim));
    if let Some(why) = ready::other_volumes(call.op, &found) {
        return Err(StepOutcome::fatal("VolumesChanged", why));
    }
    if let Some(restore) = ready::restore_before(&call.ad.caches.restores_of(&namespace, &name), cluster) {
        return Err(goes_first(&restore));
    }
    match cluster.obstacle() {
        // All of them are about to be stopped.
        Some(why) => Err(StepOutcome::Waiting { reason: format!("waiting, as {why}"), retry: RetryClass::Standard }),
        None => Ok(()),
    }
}

async fn plan_of(call: PlanCall<'_>) -> Result<Planned, Refusal> {
    let (namespace, name) = (call.cluster.namespace().unwrap_or_default(), call.cluster.name_any());
    let all = call.ad.caches.operations_of(&namespace, &name);
    let way = judge::way(call.cluster, call.op, &all)?;
    if let Some(upgrade) = ready::upgrade_at_work(&all) {
        let message = format!(
            "waiting for {upgrade}: what this rollback means is known when that has ended. As long as it can be, it may be cancelled"
        );
        return Err(Refusal::wait(RetryClass::Standard, "AnotherUpgradeRuns", message));
    }
    let store = store_of(&way, call.cluster, &all)?;
    let running = call.cluster.status.as_ref().and_then(|status| status.upgrade.as_ref()?.directive.clone());
    let Some(from) = running else {
        return Err(Refusal::wait(
            RetryClass::ProgressPoll,
            "VersionUnknown",
            format!("OpenBaoCluster {name} does not say yet what it runs"),
        ));
    };
    let members = observe::members(call.ad, call.cluster).await;
    let facts = facts::Facts::gather(call.ad, &namespace, &name, &name);
    let claims = ready::data_claims(&name, facts.claims.values().map(|claim| &**claim)).into_iter().collect();
    let frozen = Frozen {
        cluster: call.cluster,
        operation: call.op,
        way: &way,
        from,
        claims,
        store,
        leads: members::leader(&members).is_some(),
        members: facts.stateful_set.as_deref().and_then(headcount::of).and_then(|there| i32::try_from(there).ok()),
    };
    let inputs = plan::inputs(&frozen, &call.ad.settings)
        .map_err(|error| Refusal::failed("InputsInvalid", error.to_string()))?;
    Ok(Planned { plan: plan::plan(&frozen), inputs })
}

/// Where the backup went when it was taken; the cluster's target may have changed since.
fn store_of(way: &Way, cluster: &OpenBaoCluster, all: &[std::sync::Arc<OpenBaoOperation>]) -> Result<Store, Refusal> {
    let taken = all.iter().find(|operation| operation.name_any() == way.backup);
    let frozen = taken.and_then(|operation| serde_json::from_str(operation.status.as_ref()?.inputs.get("store")?).ok());
    if let Some(store) = frozen {
        return Ok(store);
    }
    let Some(backup) = &cluster.spec.backup else {
        return Err(Refusal::failed(
            "NoTarget",
            format!("neither operation {} nor spec.backup.target says where backup {} is", way.backup, way.key),
        ));
    };
    Store::freeze(&backup.target).map_err(|error| Refusal::failed("InputsInvalid", error.to_string()))
}

/// The steps that wait for servers to go and to come. The cluster's reconcile renders what this journal asks for.
async fn servers(call: &StepCall<'_>) -> StepOutcome {
    let Some(cluster) = call.cluster else {
        return StepOutcome::fatal("ClusterMissing", format!("OpenBaoCluster {} is gone", call.op.spec.cluster));
    };
    let (Some(to), Some(from)) = (request::target(call.op), request::origin(call.op)) else {
        return StepOutcome::fatal("PlanUnreadable", "the operation's inputs name no versions");
    };
    let count = call.input(request::REPLICAS).and_then(|count| count.parse().ok()).unwrap_or(1);
    let goal: &UpgradeDirective = if call.step.action == plan::START_AGAIN { &from } else { &to };
    match call.step.action.as_str() {
        request::STOP_SERVERS => settle(call, cluster, steps::stopped).await,
        request::START_FIRST => settle(call, cluster, |facts| steps::first(facts, goal)).await,
        plan::START_AGAIN => {
            let left = half_restored(cluster);
            settle(call, cluster, |facts| steps::started_again(facts, goal, count, left)).await
        }
        _ => settle(call, cluster, |facts| steps::joined(facts, goal, count)).await,
    }
}

/// How many servers a rollback before this one left half restored, if one did.
fn half_restored(cluster: &OpenBaoCluster) -> Option<usize> {
    let half = cluster.left_half_restored()?;
    Some(usize::try_from(half.servers.count).unwrap_or_default())
}

impl RollbackManager {
    /// No volume goes before the snapshot is at hand, verified and judged, on the mover's own disk; and while another one than was
    /// planned is there, none goes at all: the servers start again.
    async fn confirm(&self, call: StepCall<'_>) -> StepOutcome {
        let step = match Step::new(call, &self.witnesses) {
            Ok(step) => step,
            Err(outcome) => return outcome,
        };
        let cluster = match step.cluster() {
            Ok(cluster) => cluster,
            Err(outcome) => return outcome,
        };
        match snapshot_at_hand(&step).await {
            Ok(None) => {}
            Ok(Some(what)) => return StepOutcome::in_progress(format!("waiting for {what}")),
            Err(outcome) => return outcome,
        }
        match volumes(call.ad, cluster).await {
            Ok(found) => match ready::other_volumes(call.op, &found) {
                None => StepOutcome::done(),
                Some(why) => StepOutcome::fatal("VolumesChanged", why),
            },
            Err(error) => StepOutcome::in_progress(format!("the volumes cannot be listed, trying again: {error}")),
        }
    }

    /// Deletes the data claim of one name, guarded by its UID. Another one may have been made under it since the plan: the consent is
    /// to lose what all servers hold, and one that stayed would be started with the old version.
    async fn wipe(&self, call: StepCall<'_>) -> StepOutcome {
        let step = match Step::new(call, &self.witnesses) {
            Ok(step) => step,
            Err(outcome) => return outcome,
        };
        let cluster = match step.cluster() {
            Ok(cluster) => cluster,
            Err(outcome) => return outcome,
        };
        let claim = call.step.config.get(plan::CLAIM).cloned().unwrap_or_default();
        let namespace = cluster.namespace().unwrap_or_default();
        if call.mode == StepMode::Prove {
            return proven(call.ad, &namespace, &claim).await;
        }
        let not_yet = |why: String| StepOutcome::retryable("NotWiped", format!("{why}; claim {claim} was not touched"));
        match running_servers(call.ad, cluster).await {
            Ok(None) => {}
            Ok(Some(pod)) => return not_yet(format!("pod {pod} runs")),
            Err(why) => return not_yet(why),
        }
        match snapshot_at_hand(&step).await {
            Ok(None) => {}
            Ok(Some(what)) => return not_yet(format!("the snapshot is not at hand (waiting for {what})")),
            Err(StepOutcome::Failed { reason, message, retryable }) => {
                return StepOutcome::Failed {
                    reason,
                    message: format!("{message}; claim {claim} was not touched"),
                    retryable,
                };
            }
            Err(_) => return not_yet("the mover cannot be seen".to_owned()),
        }
        let uid = match claim_uid(call.ad, &namespace, &claim).await {
            Ok(Some(uid)) => uid,
            Ok(None) => return StepOutcome::done(),
            Err(error) => return not_yet(format!("it cannot be read: {error}")),
        };
        if !call.ad.leadership.still_leader() {
            return not_yet("another operator leads now".to_owned());
        }
        match apply::delete::<PersistentVolumeClaim>(&call.ad.client, &namespace, &claim, &uid).await {
            // Also where another one had that name by then.
            Ok(()) => {
                tracing::info!(%claim, "wiped a volume for a rollback");
                match proven(call.ad, &namespace, &claim).await {
                    StepOutcome::NotApplied { message } => StepOutcome::in_progress(message),
                    outcome => outcome,
                }
            }
            // Whether it was carried out is looked up.
            Err(error) => StepOutcome::in_progress(format!("looking whether claim {claim} is gone: {error}")),
        }
    }
}

async fn proven(ad: &Adapters, namespace: &str, claim: &str) -> StepOutcome {
    match claim_uid(ad, namespace, claim).await {
        Ok(Some(_)) => StepOutcome::NotApplied { message: format!("claim {claim} is still there") },
        Ok(None) => StepOutcome::done(),
        Err(error) => StepOutcome::in_progress(format!("looking whether claim {claim} is gone: {error}")),
    }
}

/// The UID of the claim of that name that is there and stays, by a fresh answer.
async fn claim_uid(ad: &Adapters, namespace: &str, claim: &str) -> Result<Option<String>, RequestError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ad.client.clone(), namespace);
    Ok(ready::stays(timed(claims.get_opt(claim)).await?.as_ref()))
}

/// The data claims there are and that stay, with their UIDs, by a fresh answer.
async fn volumes(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<BTreeMap<String, String>, RequestError> {
    let name = cluster.name_any();
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(ad.client.clone(), &cluster.namespace().unwrap_or_default());
    let ours = ListParams::default().labels(&format!("{}={name}", names::CLUSTER_LABEL));
    let all = timed(claims.list(&ours)).await?.items;
    Ok(ready::data_claims(&name, &all))
}

/// A server pod that still exists, by a fresh answer.
async fn running_servers(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<Option<String>, String> {
    let pods: Api<Pod> = Api::namespaced(ad.client.clone(), &cluster.namespace().unwrap_or_default());
    let selector: Vec<String> =
        names::server_selector(&cluster.name_any()).iter().map(|(key, value)| format!("{key}={value}")).collect();
    match timed(pods.list_metadata(&ListParams::default().labels(&selector.join(",")))).await {
        Ok(list) => Ok(list.items.first().map(ResourceExt::name_any)),
        Err(error) => Err(format!("cannot list the servers' pods: {error}")),
    }
}

/// `None`: a mover stands ready with the very snapshot that was judged. `Some`: what is awaited.
async fn snapshot_at_hand(step: &Step<'_>) -> Result<Option<String>, StepOutcome> {
    match preflight::ready(step).await? {
        preflight::Prepared::Ready { report, .. } => {
            let found = report.inspection.as_ref().map(|inspection| inspection.sha256.as_str());
            if found == step.call.output(JUDGE, SHA256) {
                return Ok(None);
            }
            Err(StepOutcome::fatal("SourceChanged", "the backup in the store is not the one that was judged any more"))
        }
        preflight::Prepared::Working(what) => Ok(Some(what)),
        preflight::Prepared::Refused(report) => Err(StepOutcome::fatal("SourceChanged", report.message)),
    }
}
