//! One look at one cluster: observe, validate, build, apply, report. Each step is a function beside this one.

use super::{
    accounts,
    apply::Applier,
    autopilot,
    bootstrap::Stage,
    build::{self, Plain, hash, kept, secrets, services, statefulset},
    carry, deletion, emptied,
    error::Error,
    exposure,
    facts::Facts,
    first_start::{self, Flaw, Standing},
    growth, headcount, labels, maintain,
    means::{self, Means},
    members::Member,
    memory::{Memory, Notes},
    names, network, observe, obstacle, parked,
    planes::{self, Planes},
    reach::{Reach, reach},
    report::{Acted, report},
    requests, traffic,
    trouble::{TlsState, Trouble, reasons},
    validate::ValidatedCluster,
    version, voters,
};
use crate::{
    adapter::{Adapters, metrics::metrics},
    api::{ClusterPhase, OpenBaoCluster, OpenBaoClusterStatus, conditions::reason},
};
use chrono::Utc;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::ResourceExt;
use std::time::Duration;

/// Looks at a cluster once and returns when to look again, whatever happens meanwhile.
pub async fn reconcile(ad: &Adapters, memory: &Memory, cluster: &OpenBaoCluster) -> Result<Duration, Error> {
    let notes = memory.of(&cluster.uid().unwrap_or_default());
    let mut notes = notes.lock().await;
    notes.meet(cluster);
    if cluster.metadata.deletion_timestamp.is_some() {
        return Ok(deletion::run(ad, cluster).await?);
    }
    deletion::guard(ad, cluster).await?;
    let valid = carry::read(ad, cluster);
    let upgrade = valid.as_ref().err().and_then(|_| carry::under_way(ad, cluster));
    let earlier = upgrade.as_ref().and_then(|_| carry::carried(cluster, notes.last_good.as_ref()));
    let wish = match (&valid, &earlier) {
        (Ok(spec), _) => Some((cluster, spec)),
        (Err(_), Some((cluster, spec))) => Some((cluster, spec)),
        (Err(_), None) => None,
    };
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let account = wish.map_or_else(|| name.clone(), |(_, spec)| spec.service_account.clone());
    let mut facts = Facts::gather(ad, &namespace, &name, &account);
    let members = observe::members_after(ad, cluster, &notes.silent).await;
    notes.listen(&members);
    let apart = notes.apart.look(cluster, &members);
    let reach = reach(cluster.spec.paused, carry::has_begun(ad, cluster), valid.is_ok());
    let mut kept_up = false;
    let (mut acted, failure) = match (wish, reach) {
        (Some((wished, spec)), Reach::All) => {
            let acted = async {
                facts.complete(ad).await?;
                act(ad, memory, &mut notes, wished, spec, &facts, &members, &mut kept_up).await
            };
            match acted.await {
                Ok(acted) => (acted, None),
                Err(error) => (Acted::default(), Some(error)),
            }
        }
        (Some((_, spec)), Reach::Plans) => plan(ad, &mut notes, cluster, spec, &facts).await,
        (Some(_), Reach::Nothing) => (Acted::paused(), None),
        (None, _) => (Acted::default(), None),
    };
    acted.apart = apart;
    acted.suspected = network::suspected(&cluster.spec, &members, &notes);
    let looked = acted.stage.is_some();
    match (&valid, &upgrade) {
        (Ok(spec), _) => {
            let runs = if looked { acted.planes.upgrade_runs } else { notes.last_good.is_some() };
            notes.last_good = runs.then(|| spec.spec.clone());
        }
        (Err(_), Some(upgrade)) if looked => acted.progress = Some(carry::goes_on(upgrade)),
        (Err(invalid), Some(upgrade)) if wish.is_none() => acted.progress = Some(carry::waits(upgrade, invalid)),
        (Err(_), _) => {}
    }
    let cut_short = failure.as_ref().is_some_and(Error::is_conflict);
    let lasts = notes.is_cut_short_for_long(cut_short);
    let mut failure = match failure {
        // It did not see the rest of its way, so it has nothing to say about it. The next one follows in a moment.
        Some(error) if cut_short && !lasts => return Err(error),
        Some(error) if cut_short => Some(Error::CutShort(Box::new(error))),
        other => other,
    };
    // Nobody knows when upkeep has its next turn. What it had begun comes to its end, or is found again then.
    if !kept_up && let Err(error) = maintain::release(ad, cluster).await {
        failure.get_or_insert(error.into());
    }
    // During the first start there are better things to do than to ask who votes.
    let started = cluster.status.as_ref().is_some_and(|status| status.phase != Some(ClusterPhase::Initializing));
    if let Ok(spec) = &valid
        && started
    {
        voters::refresh(ad, &mut notes, cluster, spec, &members).await;
        if !cluster.spec.paused {
            acted.adds(autopilot::keep(ad, &mut notes, cluster, spec, &members).await);
        }
    }
    if let Some(error) = ways_out(ad, cluster, &mut acted).await {
        failure.get_or_insert(error);
    }
    let wait = report(ad, &mut notes, cluster, &valid, &facts, &members, acted, failure.as_ref()).await?;
    match failure {
        Some(error) => Err(error),
        None => {
            Ok(labels::repair(ad, &mut notes, &namespace, &facts, &members).await.map_or(wait, |soon| soon.min(wait)))
        }
    }
}

/// Frees a lock that nobody stands behind, answers what people ask, and says which restore is announced, also of a paused or badly
/// specified cluster. What comes in the way of that is told like any other failure: a status that says nothing any more would be the
/// last thing to help.
async fn ways_out(ad: &Adapters, cluster: &OpenBaoCluster, acted: &mut Acted) -> Option<Error> {
    let freed = requests::free_orphan(ad, cluster).await;
    let (answers, unanswered) = requests::answer(ad, cluster, Utc::now()).await;
    acted.planes.handled.extend(answers);
    let announced = planes::announce(ad, cluster).await;
    freed.err().or(unanswered).map(Error::from).or(announced.err().map(Error::from))
}

/// A look at a cluster that is paused.
async fn plan(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    spec: &ValidatedCluster,
    facts: &Facts,
) -> (Acted, Option<Error>) {
    let mut acted = Acted::paused();
    // Nobody looks at keys and certificates now: what was seen last counts.
    let obstacle = cluster.obstacle().map(str::to_owned);
    match planes::write(ad, notes, cluster, spec, facts, obstacle, Utc::now()).await {
        Ok(planes) => {
            acted.planes = planes;
            acted.troubles.append(&mut acted.planes.troubles);
            (acted, None)
        }
        Err(error) => (acted, Some(error.into())),
    }
}

/// Brings everything into its wanted state, in the one order that is safe: keys before volumes, what pods mount before pods,
/// the grant before the first pod. `kept_up` tells, also of a look that fails, that upkeep had its turn: it has given its lock
/// back, or goes on. A lock that is taken and given back by turns wakes everybody each time.
#[allow(clippy::too_many_arguments)] // what is known, what is wanted, and what is told of a look that fails
async fn act(
    ad: &Adapters,
    memory: &Memory,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
    kept_up: &mut bool,
) -> Result<Acted, Error> {
    let now = Utc::now();
    let status = cluster.status.clone().unwrap_or_default();
    let applier = Applier {
        client: ad.client.clone(),
        namespace: spec.namespace.clone(),
        cluster: spec.name.clone(),
        uid: spec.uid.clone(),
        settled: memory.settled.clone(),
    };
    let stage = match first_start::standing(&applier, notes, &status, spec, facts, members).await? {
        Standing::At(stage) => stage,
        Standing::Unclear(remnant) => return Ok(Acted::waits_for(remnant)),
    };
    // Before it is decided who takes servers down.
    let means = means::look(&applier, notes, spec, facts, members, stage, now).await;
    let obstacle = means::returning(means.as_ref().ok(), notes, cluster);
    let planes = planes::write(ad, notes, cluster, spec, facts, obstacle, now).await?;
    let mut acted = Acted::at(stage, planes, &spec.spec);
    acted.troubles.append(&mut acted.planes.troubles);

    let Means { certificates, seal, account, obstacles } = means?;
    if let TlsState::Good(until) = certificates.state {
        metrics().certificate_expires(&spec.namespace, &spec.name, until);
    }
    acted.tls = Some(certificates.state.clone());
    acted.stopped.clone_from(&obstacles.joining);
    acted.troubles.extend(seal.into_iter().chain(account));
    let keeps = keeps_settings(obstacles.returning.as_ref(), spec, &status, facts);

    let restores = !ad.caches.restores_of(&spec.namespace, &spec.name).is_empty() || acted.planes.rolls_back;
    let closed = acted.planes.servers.as_ref().is_some_and(|servers| servers.closed);
    let to_leader = leads_to_leader(notes, spec, facts, members);
    let traffic = traffic::decide(members, &status, spec.replicas, closed).narrowed(to_leader);
    let voting = headcount::voting(facts, notes.voters_of(members), spec);
    let plain = build::plain(spec, certificates.bundle.as_deref(), restores, &traffic, voting);
    before_pods(&applier, notes, spec, facts, certificates.secret, plain, keeps).await?;
    network::keep(ad, memory, &applier, &mut notes.policies, spec, facts).await;

    let running = match &acted.planes.directive {
        Some(directive) => version::Running { version: directive.version.clone(), image: directive.image.clone() },
        None => {
            let unled = version::is_unled(&status, facts, members, stage);
            version::running(spec, &status, facts, stage, unled, &ad.settings.openbao_image_repository)
        }
    };
    // A rollback has wiped the volumes under its claims: the first server starts from nothing, this once.
    let servers = acted.planes.servers.clone();
    let stage = match &servers {
        Some(servers) if servers.initialize => Stage::Bootstrapping,
        _ => stage,
    };
    hold_name(&applier, notes, spec, facts, stage, &mut acted).await?;
    let obstacles = obstacles.or(notes.taken.as_ref());
    // A missing key or certificate stops what was never started, and what runs keeps the settings that it has. Servers between two
    // safe points go on with those.
    let waits = keeps && acted.planes.servers.is_none() && !carry::has_begun(ad, cluster);
    if waits || acted.stopped.is_some() && facts.stateful_set.is_none() {
        maintain::release(ad, cluster).await?;
        return Ok(acted);
    }
    let count = servers.as_ref().and_then(|servers| u32::try_from(servers.count).ok());
    let mut inputs = statefulset::Inputs {
        replicas: count.unwrap_or(spec.replicas),
        version: running.version,
        image: running.image,
        certificate_hash: certificates.hash.or_else(|| template_annotation(facts, statefulset::CERTIFICATE_HASH)),
        restart_at: restart_at(spec, &status, facts),
        bootstrapping: stage == Stage::Bootstrapping,
        claim_templates: kept_claims(spec, facts),
    };
    let live = facts.stateful_set.as_deref();
    let kept = live.filter(|_| keeps);
    match stage {
        Stage::Bootstrapping => {
            let wanted = kept::build(kept, spec, &inputs);
            // The snapshot replaces all that is made here in a rollback, and its wiped volume has this one start: a request of years ago
            // that cannot succeed any more must not end it.
            let again = servers.is_some().then(|| spec.with_requests_that_may_fail());
            let starts = again.as_ref().unwrap_or(spec);
            acted.troubles.extend(first_start::begin(ad, memory, &applier, starts, facts, members, &wanted).await?);
            acted.progress = Some(Trouble::new(reasons::BOOTSTRAPPING, "the members start for the first time"));
        }
        Stage::Bootstrapped if servers.is_some() => {
            applier.ensure(live, kept::build(kept, spec, &inputs)).await?;
            acted.progress = Some(rolled_back(&acted.planes));
        }
        Stage::Bootstrapped => {
            let busy = at_work(&status, &acted.planes);
            let wanted = kept::build(kept, spec, &inputs);
            let version = &inputs.version;
            *kept_up = true;
            let outcome =
                maintain::run(ad, notes, cluster, spec, facts, members, &wanted, version, busy, &obstacles).await?;
            inputs.replicas = outcome.replicas;
            applier.ensure(live, kept::build(kept, spec, &inputs)).await?;
            acted.progress = outcome.progress;
            acted.troubles.extend(outcome.trouble);
            acted.last_restart_at = spec.spec.maintenance.restart_at.clone().filter(|_| outcome.settled);
            maintain::sweep(ad, spec, facts).await?;
            maintain::note_version(ad, spec, facts, members).await?;
            acted.troubles.extend(maintain::grow_volumes(ad, notes, spec, facts).await?);
            acted.adds(growth::look(facts, &mut notes.grows_since, now));
            acted.troubles.extend(emptied::look(members, facts, spec.replicas));
            acted.troubles.extend(parked::older_certificate(&status, facts, inputs.certificate_hash.as_deref()));
        }
    }
    Ok(acted)
}

/// Whether clients are to be led to the one that leads and to nobody else. It begins only where that one is found by its label: what
/// OpenBao writes there moves with the leadership by itself, also while no operator runs.
fn leads_to_leader(notes: &Notes, spec: &ValidatedCluster, facts: &Facts, members: &[Member]) -> bool {
    let public = facts.services.get(&names::public_service(&spec.name));
    let already = public.is_some_and(|service| services::lead_to_leader(service));
    notes.apart.keeps_to_leader(already) && (already || labels::tell_who_leads(facts, members))
}

/// Sees to the name under which servers look when they start, once nothing of a first start has to lie there. What is wrong with
/// it is told, and what they would read there known from then on to whoever takes servers down.
async fn hold_name(
    applier: &Applier,
    notes: &mut Notes,
    spec: &ValidatedCluster,
    facts: &Facts,
    stage: Stage,
    acted: &mut Acted,
) -> Result<(), Error> {
    let flaw = match stage {
        Stage::Bootstrapped => first_start::tidy(applier, notes, spec, facts).await?,
        Stage::Bootstrapping => None,
    };
    let (taken, bare) = match flaw {
        Some(Flaw::Read(taken)) => (Some(taken), None),
        Some(Flaw::Bare(bare)) => (None, Some(bare)),
        None => (None, None),
    };
    acted.stopped = acted.stopped.take().or_else(|| taken.clone());
    acted.troubles.extend(taken.iter().cloned().chain(bare));
    (notes.taken, notes.looked_there) = (taken, true);
    Ok(())
}

/// What is told while a rollback says how many servers there are, or one that ended does.
fn rolled_back(planes: &Planes) -> Trouble {
    let words = if planes.rolls_back {
        "an upgrade is being rolled back"
    } else {
        "a rollback has left the servers half restored: see condition Upgrading"
    };
    Trouble::new(reason::WAITING, words)
}

/// Applies what pods mount, everything else that follows from the spec alone, and what leads in from outside. `keeps`: what a server
/// reads at its start stays as it is.
async fn before_pods(
    applier: &Applier,
    notes: &mut Notes,
    spec: &ValidatedCluster,
    facts: &Facts,
    serving: Option<Secret>,
    plain: Plain,
    keeps: bool,
) -> Result<(), Error> {
    if let Some(secret) = serving {
        let live = facts.secrets.get(&names::server_secret(&spec.name));
        applier.ensure(live.map(AsRef::as_ref), secret).await?;
    }
    if let Some(secret) = secrets::seal_credentials(spec).filter(|_| !keeps) {
        let live = facts.secrets.get(&secrets::seal_credentials_name(&spec.name));
        applier.ensure(live.map(AsRef::as_ref), secret).await?;
    }
    let plain = exposure::marked(plain, &notes.exposure, spec, facts);
    let mut plain = if keeps { obstacle::without_settings(plain, &spec.name) } else { plain };
    accounts::keep_rights(&mut plain.role_binding, facts);
    applier.plain(facts, plain).await?;
    exposure::keep(applier, &mut notes.exposure, spec, facts).await;
    Ok(())
}

/// Who else works on the pods, in words.
fn at_work(status: &OpenBaoClusterStatus, planes: &Planes) -> Option<String> {
    let lock = status.operation_lock.as_ref().filter(|lock| lock.holder != maintain::HOLDER);
    if let Some(lock) = lock {
        return Some(format!("{} by {}", lock.operation, lock.holder));
    }
    if planes.upgrade_runs {
        return Some("an upgrade".to_owned());
    }
    planes.pending_restore.as_ref().map(|name| format!("restore {name}"))
}

/// Whether the settings that the spec asks for wait until servers can start.
fn keeps_settings(
    obstacle: Option<&Trouble>,
    spec: &ValidatedCluster,
    status: &OpenBaoClusterStatus,
    facts: &Facts,
) -> bool {
    let live = template_annotation(facts, statefulset::CONFIG_HASH);
    let wanted = hash::config(spec, restart_at(spec, status, facts).as_deref());
    obstacle::keeps_settings(obstacle, live.as_deref(), &wanted)
}

fn restart_at(spec: &ValidatedCluster, status: &OpenBaoClusterStatus, facts: &Facts) -> Option<String> {
    let live = template_annotation(facts, statefulset::CONFIG_HASH);
    hash::restart(spec, status.last_restart_at.as_deref(), live.as_deref())
}

fn template_annotation(facts: &Facts, key: &str) -> Option<String> {
    let template = &facts.stateful_set.as_ref()?.spec.as_ref()?.template;
    template.metadata.as_ref()?.annotations.as_ref()?.get(key).cloned()
}

/// The claim templates of an existing StatefulSet, where they say something else than the spec: nobody may change them. What
/// the API server added to them is not sent back.
fn kept_claims(spec: &ValidatedCluster, facts: &Facts) -> Option<Vec<PersistentVolumeClaim>> {
    let templates = facts.stateful_set.as_ref()?.spec.as_ref()?.volume_claim_templates.clone()?;
    let says = |template: &PersistentVolumeClaim| {
        let claim = template.spec.clone().unwrap_or_default();
        let size = claim.resources.and_then(|resources| resources.requests?.get("storage").map(|size| size.0.clone()));
        size.as_deref() == Some(spec.spec.storage.size.as_str())
            && claim.storage_class_name == spec.spec.storage.storage_class_name
    };
    if templates.len() == 1 && templates.iter().all(says) {
        return None;
    }
    Some(templates.into_iter().map(|template| PersistentVolumeClaim { status: None, ..template }).collect())
}
