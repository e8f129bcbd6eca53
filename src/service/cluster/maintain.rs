//! Day two, done: carries out the one step that [`super::upkeep`] decided, under the cluster's operation lock.

use super::{
    bootstrap::Stage,
    facts::Facts,
    headcount,
    members::{self, Member},
    memory::{Notes, Raft},
    names,
    obstacle::{Obstacles, holds_back, next_step},
    trouble::{Trouble, reasons},
    upkeep::{REMOVED, Situation, Step, forgotten, is_given_up, outsiders, unmarked, unsettled},
    validate::ValidatedCluster,
    version::{LED_BY, is_unled, unnoted},
    volumes, voters,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            apply::{ApplyError, delete},
            client::{RequestError, timed},
        },
        openbao::{Client, Token},
        operationlock::{self, Claim, Force, LockError, is_lock_held},
    },
    api::{LockMode, LockOperation, OpenBaoCluster, conditions::reason},
    causes::chain,
    service::opslifecycle::{StepDown, tell_step_down},
};
use chrono::Utc;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Holder of the lock for upkeep.
pub const HOLDER: &str = "openbaocluster/maintenance";
/// A storage class does not change its mind by being asked again soon.
const REFUSED_PACE: Duration = Duration::from_secs(600);

/// Why a step failed. It is decided again at the next look.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock could not be asked for, or given back.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A pod or claim could not be deleted.
    #[error(transparent)]
    Delete(#[from] ApplyError),
    /// A claim could not be marked, or grown.
    #[error("failed to change volume claim {claim}")]
    Claim {
        /// The claim.
        claim: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For the condition `Progressing`.
    pub progress: Option<Trouble>,
    /// How many members the StatefulSet is to have now.
    pub replicas: u32,
    /// Everything the spec asks for is carried out.
    pub settled: bool,
    /// What only a person can mend.
    pub trouble: Option<Trouble>,
}

#[allow(clippy::too_many_arguments)] // what is known, what is wanted, and who else is at work
/// Takes one step. `version` is what the template's image is to be; `busy` names who else is at work on the pods; `obstacles` are
/// what would keep a server from starting now.
pub async fn run(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
    wanted: &StatefulSet,
    version: &str,
    busy: Option<String>,
    obstacles: &Obstacles,
) -> Result<Outcome, Error> {
    let known = notes.voters.as_ref().map(|(_, raft)| &raft.peers);
    let current = headcount::current(facts, known, spec);
    let voters = notes.voters_of(members).cloned();
    let peers = notes.raft_of(members).map(|raft| raft.peers.clone());
    let outside = peers.as_ref().map(|peers| outsiders(members, peers)).unwrap_or_default();
    let outside = notes.long_outside(outside);
    if let Some(peers) = &peers {
        for claim in unmarked(facts, peers, &spec.name, spec.replicas) {
            mark(ad, spec, claim, false).await?;
        }
    }
    let template = wanted.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut situation = Situation {
        facts,
        members,
        voters: voters.as_ref(),
        peers: peers.as_ref(),
        outside: &outside,
        template: &template,
        version,
        wanted: spec.replicas,
        current,
        unled: is_unled(&cluster.status.clone().unwrap_or_default(), facts, members, Stage::Bootstrapped),
    };
    let (step, joins_not) = next_step(&mut situation, obstacles);
    let stay = |progress: Option<Trouble>| Outcome { progress, replicas: current, ..Outcome::default() };
    if step == Step::Nothing {
        // Done only when the one that went last is back.
        if is_ours(cluster)
            && let Some(why) = unsettled(&situation)
        {
            return Ok(stay(Some(Trouble::new(reasons::RESTARTING, why))));
        }
        release(ad, cluster).await?;
        return Ok(match joins_not {
            Some(why) => stay(waits(&Step::Grow, &why)),
            None => Outcome { replicas: current, settled: true, ..Outcome::default() },
        });
    }
    if let Some(why) = holds_back(&step, obstacles) {
        // It lasts until a person mends it: whoever waits for the lock goes first.
        release(ad, cluster).await?;
        return Ok(stay(waits(&step, &why)));
    }
    // A member that has left raft already is on its way out, whoever waits.
    let leaves = matches!(step, Step::Shrink { removed: true, .. }) && is_ours(cluster);
    if let Some(busy) = busy.filter(|_| !leaves) {
        // They wait for the lock that we would keep until the last pod: whoever was asked for goes first, the rest follows.
        if unsettled(&situation).is_none() {
            release(ad, cluster).await?;
        }
        return Ok(stay(Some(Trouble::new(reason::WAITING, format!("{}: waits for {busy}", words(&step))))));
    }
    match &step {
        Step::Nothing => Ok(stay(None)),
        Step::Wait(why) => Ok(stay(Some(Trouble::new(reason::WAITING, why.clone())))),
        Step::Grow => {
            forget_removed(ad, spec, facts, current).await?;
            let progress = Trouble::new(reasons::SCALING, words(&step));
            Ok(Outcome { progress: Some(progress), replicas: spec.replicas, ..Outcome::default() })
        }
        Step::Restart { pod, uid, .. } => {
            // Before anybody has led nobody else is at work, and the phase that a lock makes would end the first start.
            if !situation.unled
                && let Some(held) = acquire(ad, cluster, &words(&step)).await?
            {
                return Ok(stay(Some(held)));
            }
            if ad.leadership.still_leader() {
                tracing::info!(pod, "{}", words(&step));
                delete::<Pod>(&ad.client, &spec.namespace, pod, uid).await?;
            }
            Ok(stay(Some(Trouble::new(reasons::RESTARTING, words(&step)))))
        }
        Step::Stranger { .. } => {
            release(ad, cluster).await?;
            let trouble = Some(Trouble::new(reasons::NOT_IN_RAFT, words(&step)));
            Ok(Outcome { trouble, ..stay(None) })
        }
        Step::Rejoin { pod, uid, ordinal } => {
            if let Some(held) = acquire(ad, cluster, &words(&step)).await? {
                return Ok(stay(Some(held)));
            }
            match raft_now(ad, notes, cluster, members).await {
                Ok(raft) if !raft.peers.contains(pod) => {
                    start_anew(ad, spec, facts, pod, uid, *ordinal).await?;
                    Ok(stay(Some(Trouble::new(reasons::SCALING, words(&step)))))
                }
                Ok(_) => Ok(stay(waits(&step, "raft knows it again"))),
                Err(why) => Ok(stay(waits(&step, &format!("raft could not be asked about it: {why}")))),
            }
        }
        Step::Shrink { .. } => {
            if let Some(held) = acquire(ad, cluster, &words(&step)).await? {
                return Ok(stay(Some(held)));
            }
            leave(ad, notes, cluster, spec, members, &step, stay(None)).await
        }
    }
}

/// Takes the last member one step further out of the cluster. `outcome` is that of a look that changes nothing.
async fn leave(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    spec: &ValidatedCluster,
    members: &[Member],
    step: &Step,
    mut outcome: Outcome,
) -> Result<Outcome, Error> {
    let Step::Shrink { pod, leads, removed } = step else { return Ok(outcome) };
    outcome.progress = Some(Trouble::new(reasons::SCALING, words(step)));
    if *removed {
        // A voter that is dropped counts as lost for ever, and its volume may go with it: memory does not do here.
        match raft_now(ad, notes, cluster, members).await {
            Ok(raft) if !raft.peers.contains(pod) => {
                mark_removed(ad, spec, pod).await?;
                outcome.replicas = outcome.replicas.saturating_sub(1);
            }
            Ok(_) => outcome.progress = waits(step, "raft knows it still"),
            Err(why) => outcome.progress = waits(step, &format!("raft could not be asked about it: {why}")),
        }
        return Ok(outcome);
    }
    if !*leads {
        mark_removed(ad, spec, pod).await?;
    }
    if let Err(why) = take_out(ad, notes, cluster, members, pod, *leads).await {
        outcome.progress = Some(Trouble::new(reasons::SCALING, format!("{}: {why}", words(step))));
    }
    Ok(outcome)
}

fn waits(step: &Step, why: &str) -> Option<Trouble> {
    Some(Trouble::new(reason::WAITING, format!("{}: waits, {why}", words(step))))
}

fn words(step: &Step) -> String {
    match step {
        Step::Nothing => "nothing to do".to_owned(),
        Step::Wait(why) => why.clone(),
        Step::Grow => "new members join".to_owned(),
        Step::Restart { pod, why, .. } => format!("{pod} restarts because {why}"),
        Step::Rejoin { pod, .. } => {
            format!("{pod} was taken out of raft and is to stay: it joins anew with an empty volume")
        }
        Step::Stranger { pod } => format!(
            "{pod} serves, raft does not know it, and the operator did not take it out: nothing is restarted or scaled. If its \
             volume holds nothing that the others lack, delete its volume claim and then its pod: it joins anew"
        ),
        Step::Shrink { pod, leads: true, .. } => format!("{pod} steps down, to leave"),
        Step::Shrink { pod, .. } => format!("{pod} leaves"),
    }
}

fn claim(cluster: &OpenBaoCluster, message: &str) -> Claim {
    Claim {
        operation: LockOperation::Maintenance,
        holder: HOLDER.to_owned(),
        holder_uid: cluster.uid().unwrap_or_default(),
        operation_ref: None,
        message: message.to_owned(),
        mode: LockMode::Held,
    }
}

fn is_ours(cluster: &OpenBaoCluster) -> bool {
    let lock = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref());
    lock.is_some_and(|lock| claim(cluster, "").owns(lock))
}

/// `Some`: it is another's, in words.
async fn acquire(ad: &Adapters, cluster: &OpenBaoCluster, message: &str) -> Result<Option<Trouble>, Error> {
    if is_ours(cluster) {
        return Ok(None);
    }
    match operationlock::of(&ad.client, cluster)?.acquire(&claim(cluster, message), Force::Never, Utc::now()).await {
        Ok(_) => Ok(None),
        Err(error) if is_lock_held(&error) => {
            Ok(Some(Trouble::new(reason::WAITING, format!("{message}: waits, {}", chain(&error)))))
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives the lock back if upkeep holds it.
pub async fn release(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<(), Error> {
    if is_ours(cluster) {
        operationlock::of(&ad.client, cluster)?.release(&claim(cluster, ""), None).await?;
    }
    Ok(())
}

/// Step-down or remove-peer, whichever comes first. Both are asked of the leader itself.
async fn take_out(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    members: &[Member],
    pod: &str,
    leads: bool,
) -> Result<(), String> {
    let (leader, client, token) = at_leader(ad, notes, cluster, members).await?;
    if !ad.leadership.still_leader() {
        return Err("this operator no longer leads".to_owned());
    }
    if leads {
        client.step_down(&token).await.map_err(|error| chain(&error))?;
        tell_step_down(ad, cluster, None, pod, StepDown::Asked, "the cluster shrinks, and it is the one to leave")
            .await;
        return Ok(());
    }
    // Whatever becomes of the answers: what was known is not so any more.
    notes.voters = None;
    client.remove_peer(&token, pod).await.map_err(|error| chain(&error))?;
    let raft = client.raft_configuration(&token).await.map_err(|error| chain(&error))?;
    notes.learn(members, leader, &raft);
    Ok(())
}

/// Raft's members as the leader tells them at this moment.
async fn raft_now(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    members: &[Member],
) -> Result<Raft, String> {
    let (leader, client, token) = at_leader(ad, notes, cluster, members).await?;
    let answer = client.raft_configuration(&token).await;
    if answer.is_err() {
        notes.token = None;
    }
    notes.learn(members, leader, &answer.map_err(|error| chain(&error))?);
    notes.raft_of(members).cloned().ok_or_else(|| "its answer is about other members".to_owned())
}

/// The leader, a client for it, and a token that it takes.
async fn at_leader<'a>(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    members: &'a [Member],
) -> Result<(&'a Member, Client, Token), String> {
    let Some(leader) = members::leader(members) else { return Err("no member leads".to_owned()) };
    let token = voters::token(ad, notes, cluster, leader).await.map_err(|error| chain(&error))?;
    match leader.client() {
        Some(client) => Ok((leader, client.map_err(|error| chain(&error))?, token)),
        None => Err("the leader cannot be dialled yet".to_owned()),
    }
}

/// Remembers on the claim that its data is out of raft for good.
async fn mark_removed(ad: &Adapters, spec: &ValidatedCluster, pod: &str) -> Result<(), Error> {
    let Some(ordinal) = names::ordinal_of(&spec.name, pod) else { return Ok(()) };
    mark(ad, spec, names::data_claim(&spec.name, ordinal), true).await
}

async fn mark(ad: &Adapters, spec: &ValidatedCluster, claim: String, removed: bool) -> Result<(), Error> {
    annotate(ad, spec, claim, REMOVED, removed.then_some("true")).await
}

/// Notes on every volume which version leads over it.
pub async fn note_version(
    ad: &Adapters,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
) -> Result<(), Error> {
    let Some(version) = members::leader(members).and_then(Member::version) else { return Ok(()) };
    for claim in unnoted(facts, version) {
        annotate(ad, spec, claim, LED_BY, Some(version)).await?;
    }
    Ok(())
}

async fn annotate(
    ad: &Adapters,
    spec: &ValidatedCluster,
    claim: String,
    key: &str,
    value: Option<&str>,
) -> Result<(), Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ad.client.clone(), &spec.namespace);
    let patch = json!({"metadata": {"annotations": {(key): value}}});
    match timed(api.patch(&claim, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(source) => Err(Error::Claim { claim, source }),
    }
}

/// Claim first: it stays until the pod is gone, and the pod's successor is not made before the claim's is.
async fn start_anew(
    ad: &Adapters,
    spec: &ValidatedCluster,
    facts: &Facts,
    pod: &str,
    uid: &str,
    ordinal: u32,
) -> Result<(), Error> {
    if !ad.leadership.still_leader() {
        return Ok(());
    }
    let Some(claim) = facts.claims.get(&ordinal) else { return Ok(()) };
    tracing::info!(pod, "it was taken out of raft and joins anew with an empty volume");
    if claim.metadata.deletion_timestamp.is_none() {
        let claim_uid = claim.uid().unwrap_or_default();
        delete::<PersistentVolumeClaim>(&ad.client, &spec.namespace, &claim.name_any(), &claim_uid).await?;
    }
    delete::<Pod>(&ad.client, &spec.namespace, pod, uid).await?;
    Ok(())
}

/// Deletes claims of members that left raft, before a new member would start on their data and never join.
async fn forget_removed(ad: &Adapters, spec: &ValidatedCluster, facts: &Facts, from: u32) -> Result<(), Error> {
    for claim in forgotten(facts, from, spec.replicas) {
        let uid = claim.uid().unwrap_or_default();
        delete::<PersistentVolumeClaim>(&ad.client, &spec.namespace, &claim.name_any(), &uid).await?;
    }
    Ok(())
}

/// Deletes the claims of members that are gone, where the policy gives volumes up.
pub async fn sweep(ad: &Adapters, spec: &ValidatedCluster, facts: &Facts) -> Result<(), Error> {
    if spec.spec.deletion_policy == crate::api::DeletionPolicy::Retain {
        return Ok(());
    }
    let Some(current) = facts.stateful_set.as_deref().and_then(headcount::of) else { return Ok(()) };
    for (ordinal, claim) in &facts.claims {
        let given_up = is_given_up(facts, *ordinal, spec.replicas, current);
        if given_up && claim.metadata.deletion_timestamp.is_none() {
            let uid = claim.uid().unwrap_or_default();
            delete::<PersistentVolumeClaim>(&ad.client, &spec.namespace, &claim.name_any(), &uid).await?;
        }
    }
    Ok(())
}

/// Brings claims to the size of the spec: up, and down again where they were not given what they ask for. Shrinking what a volume
/// has is refused, and a class that cannot grow is named.
pub async fn grow_volumes(
    ad: &Adapters,
    notes: &mut Notes,
    spec: &ValidatedCluster,
    facts: &Facts,
) -> Result<Option<Trouble>, Error> {
    let wanted = &spec.spec.storage.size;
    let Some(size) = super::validate::bytes(wanted) else { return Ok(None) };
    let found = volumes::of(facts, notes.grows_since, Utc::now());
    let largest = volumes::largest(&found);
    if let Some(largest) = largest.filter(|largest| largest.bytes > size) {
        return Ok(Some(volumes::too_small(wanted, largest)));
    }
    let others: Vec<_> = found.iter().filter(|volume| volume.differs(size)).collect();
    if others.is_empty() {
        return Ok(None);
    }
    let mut changed = false;
    for volume in &others {
        let refused = |(refused, _, at): &(String, String, Instant)| refused == wanted && at.elapsed() < REFUSED_PACE;
        if notes.refused_size.as_ref().is_some_and(refused) {
            continue;
        }
        let name = &volume.claim;
        let api: Api<PersistentVolumeClaim> = Api::namespaced(ad.client.clone(), &spec.namespace);
        let patch = json!({"spec": {"resources": {"requests": {"storage": wanted}}}});
        match timed(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(_) => {
                notes.refused_size = None;
                changed = true;
                tracing::info!(claim = name, size = wanted, "asked for a volume of another size");
            }
            Err(error) if error.is_forbidden() || error.is_invalid() => {
                notes.refused_size = Some((wanted.clone(), chain(&error), Instant::now()));
            }
            Err(error) if error.is_not_found() => {}
            Err(source) => return Err(Error::Claim { claim: name.clone(), source }),
        }
    }
    let Some((_, why, _)) = notes.refused_size.as_ref().filter(|(refused, ..)| refused == wanted) else {
        return Ok(None);
    };
    if let Some(returns) = others.iter().find(|volume| volume.asked > size) {
        return Ok(Some(volumes::cannot_return(wanted, why, returns)));
    }
    // Once one has grown there is no way back to the size before.
    let back = largest.filter(|largest| !changed && largest.bytes < size);
    Ok(Some(volumes::cannot_grow(wanted, why, back)))
}
