//! One look at one cluster: observe, validate, build, apply, report. Each step is a function beside this one.

use super::{
    apply::{self, Applier, MANAGER},
    autopilot::{self, Open},
    bootstrap::{self, Stage},
    build::{self, hash, secrets, statefulset},
    carry, deletion,
    facts::{Facts, MAX_MEMBERS},
    first_start::{self, Standing},
    identity, init, keys, labels, maintain,
    memory::{Memory, Notes},
    names,
    observe::{self, Member},
    pace::{self, Worth},
    planes::{self, Planes},
    requests,
    status::{self, Observed, TlsState, Trouble, reasons},
    traffic,
    validate::{self, Invalid, ValidatedCluster},
    version, voters,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            apply::ApplyError,
            client::{RequestError, timed},
            events::{News, Severity},
        },
        metrics::metrics,
        openbao::HealthState,
    },
    api::{ClusterPhase, OpenBaoCluster, OpenBaoClusterStatus, conditions::reason},
    causes::chain,
};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// When nothing is under way.
const IDLE: Duration = Duration::from_secs(60);
/// While something is.
const BUSY: Duration = Duration::from_secs(2);
/// What has not changed for this long will not change in the next two seconds either: a cluster that is broken for days
/// takes no time from the others. Events of its pods wake it all the same.
const LASTING: Duration = Duration::from_secs(300);
/// How often it is looked at then.
const LASTING_PACE: Duration = Duration::from_secs(15);

/// Why a look could not be finished. Another one follows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Keys or certificates.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// Objects.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The issuer.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The watch does not show yet what was just made.
    #[error("the watch is behind: the StatefulSet exists and is not seen yet")]
    Behind,
    /// The claims of the namespace could not be listed.
    #[error("failed to list the volume claims in namespace {namespace}")]
    Claims {
        /// The namespace.
        namespace: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// A pod could not be let go.
    #[error("failed to let pod {pod} start")]
    LetGo {
        /// The pod.
        pod: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// The status could not be written.
    #[error("failed to write the status of cluster {name}")]
    Status {
        /// The cluster.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// What a person asked for.
    #[error(transparent)]
    Requests(#[from] requests::Error),
    /// Restarts, members, volumes.
    #[error(transparent)]
    Maintain(#[from] maintain::Error),
    /// The first initialisation through the API.
    #[error(transparent)]
    Init(#[from] init::Error),
    /// A manager's plane.
    #[error(transparent)]
    Planes(#[from] planes::Error),
    /// Deletion could not be finished.
    #[error(transparent)]
    Deletion(#[from] deletion::Error),
    /// No look has got to its end for a while.
    #[error("no look gets to its end: what it is about to change has always just been changed, or is not there")]
    CutShort(#[source] Box<Error>),
}

impl Error {
    /// The constant word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Keys(_) => "Keys",
            Self::Apply(_) => "Apply",
            Self::Identity(_) => "Identity",
            Self::Behind => "Behind",
            Self::Claims { .. } => "Claims",
            Self::LetGo { .. } => "LetGo",
            Self::Status { .. } => "Status",
            Self::Planes(_) => "Planes",
            Self::Maintain(_) => "Maintenance",
            Self::Init(_) => "Initialize",
            Self::Requests(_) => "Requests",
            Self::Deletion(_) => "Deletion",
            Self::CutShort(_) => "CutShort",
        }
    }

    /// Another writer was faster, or the watch is a moment behind: try again soon and say nothing.
    pub fn is_conflict(&self) -> bool {
        let request = match self {
            Self::Behind => return true,
            Self::Keys(keys::Error::Apply(error)) | Self::Apply(error) => error.request(),
            Self::LetGo { source, .. } | Self::Status { source, .. } => Some(source),
            Self::Planes(error) => error.request(),
            _ => None,
        };
        request.is_some_and(|error| error.is_conflict() || error.is_not_found())
    }

    fn trouble(&self) -> Trouble {
        let why = match self {
            Self::Apply(apply::Error::NotOurs { .. })
            | Self::Keys(keys::Error::Apply(apply::Error::NotOurs { .. })) => reasons::NAME_TAKEN,
            Self::Identity(_) => reasons::ISSUER_KEYS_UNUSABLE,
            _ => reasons::APPLY_FAILED,
        };
        Trouble::new(why, chain(self))
    }
}

/// What a look found and did.
#[derive(Default)]
struct Acted {
    troubles: Vec<Trouble>,
    progress: Option<Trouble>,
    stopped: Option<Trouble>,
    tls: Option<TlsState>,
    planes: Planes,
    stage: Option<Stage>,
    last_restart_at: Option<String>,
}

impl Acted {
    /// What is still open about autopilot. Whatever else is under way is told first.
    fn adds(&mut self, open: Option<Open>) {
        match open {
            None => {}
            Some(Open::Waits(waits)) => self.progress = self.progress.take().or(Some(waits)),
            Some(Open::Refused(trouble)) => {
                self.stopped = self.stopped.take().or_else(|| Some(trouble.clone()));
                self.troubles.push(trouble);
            }
        }
    }

    /// Nothing is done before something is gone.
    fn waits_for(remnant: String) -> Self {
        let waits = Trouble::new(reason::WAITING, remnant);
        Self {
            stage: Some(Stage::Bootstrapping),
            tls: Some(TlsState::Bad(waits.clone())),
            progress: Some(waits),
            ..Self::default()
        }
    }
}

/// Looks at a cluster once and returns when to look again, whatever happens meanwhile.
pub async fn reconcile(ad: &Adapters, memory: &Memory, cluster: &OpenBaoCluster) -> Result<Duration, Error> {
    let notes = memory.of(&cluster.uid().unwrap_or_default());
    let mut notes = notes.lock().await;
    if cluster.metadata.deletion_timestamp.is_some() {
        return Ok(deletion::run(ad, cluster).await?);
    }
    deletion::guard(ad, cluster).await?;
    let valid = validate::validate(cluster);
    let upgrade = valid.as_ref().err().and_then(|_| carry::under_way(ad, cluster));
    let earlier = upgrade.as_ref().and_then(|_| carry::carried(cluster, notes.last_good.as_ref()));
    let wish = match (&valid, &earlier) {
        (Ok(spec), _) => Some((cluster, spec)),
        (Err(_), Some((cluster, spec))) => Some((cluster, spec)),
        (Err(_), None) => None,
    };
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let account = wish.map_or_else(|| name.clone(), |(_, spec)| spec.service_account.clone());
    let facts = Facts::gather(ad, &namespace, &name, &account);
    let members = observe::members(ad, cluster).await;
    let (mut acted, failure) = match wish {
        Some((wished, spec)) if !cluster.spec.paused || carry::has_begun(ad, cluster) => {
            match act(ad, memory, &mut notes, wished, spec, &facts, &members).await {
                Ok(acted) => (acted, None),
                Err(error) => (Acted::default(), Some(error)),
            }
        }
        Some(_) => {
            maintain::release(ad, cluster).await?;
            let paused = Trouble::new(reason::PAUSED, "spec.paused is true: nothing is changed");
            (Acted { progress: Some(paused), ..Acted::default() }, None)
        }
        None => (Acted::default(), None),
    };
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
    let failure = match failure {
        // It did not see the rest of its way, so it has nothing to say about it. The next one follows in a moment.
        Some(error) if cut_short && !lasts => return Err(error),
        Some(error) if cut_short => Some(Error::CutShort(Box::new(error))),
        other => other,
    };
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
    // Also of a paused or badly specified cluster: this is a way out.
    requests::free_orphan(ad, cluster).await?;
    let answers = requests::answer(ad, cluster, Utc::now()).await?;
    acted.planes.handled.extend(answers);
    let wait = report(ad, &mut notes, cluster, &valid, &facts, &members, acted, failure.as_ref()).await?;
    match failure {
        Some(error) => Err(error),
        None => {
            Ok(labels::repair(ad, &mut notes, &namespace, &facts, &members).await.map_or(wait, |soon| soon.min(wait)))
        }
    }
}

/// Brings everything into its wanted state, in the one order that is safe: keys before volumes, what pods mount before pods,
/// the grant before the first pod.
async fn act(
    ad: &Adapters,
    memory: &Memory,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
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
    let planes = planes::write(ad, notes, cluster, spec, now).await?;
    let mut acted = Acted { stage: Some(stage), planes, ..Acted::default() };
    acted.troubles.append(&mut acted.planes.troubles);

    let certificates = keys::certificates(&applier, spec, facts, &notes.tls, now).await?;
    if let TlsState::Good(until) = certificates.state {
        metrics().certificate_expires(&spec.namespace, &spec.name, until);
    }
    acted.tls = Some(certificates.state.clone());
    let seal = keys::unseal(&applier, spec, facts, stage, &notes.seal).await?;
    let may_start = seal.is_none() && !matches!(certificates.state, TlsState::Bad(_));
    acted.stopped = match &certificates.state {
        TlsState::Bad(bad) => Some(bad.clone()),
        _ => seal.clone(),
    };
    acted.troubles.extend(seal);

    if let Some(secret) = certificates.secret {
        let live = facts.secrets.get(&names::server_secret(&spec.name));
        applier.ensure(live.map(AsRef::as_ref), secret).await?;
    }
    if let Some(secret) = secrets::seal_credentials(spec) {
        let live = facts.secrets.get(&secrets::seal_credentials_name(&spec.name));
        applier.ensure(live.map(AsRef::as_ref), secret).await?;
    }
    let restores = !ad.caches.restores_of(&spec.namespace, &spec.name).is_empty() || acted.planes.rolls_back;
    let closed = acted.planes.servers.as_ref().is_some_and(|servers| servers.closed);
    let traffic = traffic::decide(members, &status, closed);
    applier.plain(facts, build::plain(spec, certificates.bundle.as_deref(), restores, &traffic)).await?;

    let running = match &acted.planes.directive {
        Some(directive) => version::Running { version: directive.version.clone(), image: directive.image.clone() },
        None => version::running(spec, &status, facts, stage, &ad.settings.openbao_image_repository),
    };
    // A missing key or certificate stops what was never started; it changes nothing about what runs.
    if !may_start && facts.stateful_set.is_none() {
        return Ok(acted);
    }
    // A rollback has wiped the volumes under its claims: the first server starts from nothing, this once.
    let servers = acted.planes.servers.clone();
    let stage = match &servers {
        Some(servers) if servers.initialize => Stage::Bootstrapping,
        _ => stage,
    };
    let mut inputs = statefulset::Inputs {
        replicas: spec.replicas,
        version: running.version,
        image: running.image,
        certificate_hash: certificates.hash.or_else(|| template_annotation(facts, statefulset::CERTIFICATE_HASH)),
        restart_at: restart_at(spec, &status, facts),
        bootstrapping: stage == Stage::Bootstrapping,
        claim_templates: kept_claims(spec, facts),
    };
    if let Some(count) = servers.as_ref().and_then(|servers| u32::try_from(servers.count).ok()) {
        inputs.replicas = count;
    }
    let live = facts.stateful_set.as_deref();
    match stage {
        Stage::Bootstrapping => {
            let wanted = statefulset::build(spec, &inputs);
            acted.troubles.extend(first_start::begin(ad, memory, &applier, spec, facts, members, &wanted).await?);
            acted.progress = Some(Trouble::new(reasons::BOOTSTRAPPING, "the members start for the first time"));
        }
        Stage::Bootstrapped if servers.is_some() => {
            applier.ensure(live, statefulset::build(spec, &inputs)).await?;
            acted.progress = Some(Trouble::new(reason::WAITING, "an upgrade is being rolled back"));
            first_start::tidy(&applier, notes, facts).await?;
        }
        Stage::Bootstrapped => {
            let busy = at_work(&status, &acted.planes);
            let wanted = statefulset::build(spec, &inputs);
            let outcome =
                maintain::run(ad, notes, cluster, spec, facts, members, &wanted, &inputs.version, busy).await?;
            inputs.replicas = outcome.replicas;
            applier.ensure(live, statefulset::build(spec, &inputs)).await?;
            acted.progress = outcome.progress;
            acted.troubles.extend(outcome.trouble);
            acted.last_restart_at = spec.spec.maintenance.restart_at.clone().filter(|_| outcome.settled);
            maintain::sweep(ad, spec, facts).await?;
            acted.troubles.extend(maintain::grow_volumes(ad, notes, spec, facts).await?);
            acted.troubles.extend(all_empty(members));
            first_start::tidy(&applier, notes, facts).await?;
        }
    }
    Ok(acted)
}

/// Every member runs and says that it is empty: whoever held the data is gone, or it never came to be.
fn all_empty(members: &[Member]) -> Option<Trouble> {
    let empty = |member: &Member| member.state() == Some(HealthState::Uninitialized);
    (!members.is_empty() && members.iter().all(empty)).then(|| {
        Trouble::new(
            reasons::ALL_VOLUMES_EMPTY,
            "every member runs on an empty volume, and a cluster that was started once is never started anew by itself: bring the \
             old volumes back; or delete this object and its volume claims, apply it again, and restore a backup into it",
        )
    })
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

/// Writes the status if it says anything new. Returns when to look again.
#[allow(clippy::too_many_arguments)] // everything a status speaks of
async fn report(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    valid: &Result<ValidatedCluster, Invalid>,
    facts: &Facts,
    members: &[Member],
    acted: Acted,
    failure: Option<&Error>,
) -> Result<Duration, Error> {
    let before = cluster.status.clone().unwrap_or_default();
    let mut troubles = acted.troubles;
    let failed = failure.map(Error::trouble);
    let stopped = failed.clone().or(acted.stopped);
    troubles.extend(failed);
    let known_tls = || before.conditions.iter().find(|known| known.type_ == crate::api::conditions::cluster::TLS_READY);
    let tls = acted.tls.unwrap_or_else(|| match known_tls() {
        Some(known) if known.status == "True" => TlsState::Good(until_of(&known.message)),
        _ if !cluster.spec.tls.enabled => TlsState::Off,
        _ => TlsState::Bad(Trouble::new(reason::WAITING, "not looked at yet")),
    });
    let uid = cluster.uid().unwrap_or_default();
    let seen = Observed {
        cluster,
        spec: valid.as_ref(),
        members,
        stage: acted.stage.unwrap_or_else(|| bootstrap::stage(facts, &uid, before.initialized == Some(true), true)),
        tls,
        troubles,
        progress: acted.progress,
        stopped,
        voters: notes.voters.as_ref().map(|(_, raft)| &raft.voters),
        current_version: acted.planes.current_version.as_deref(),
        upgrading: acted.planes.upgrading.as_ref(),
        handled: &acted.planes.handled,
        lock_orphaned: requests::is_orphaned(ad, cluster),
        access: notes.access.clone(),
        last_restart_at: acted.last_restart_at.or_else(|| before.last_restart_at.clone()),
    };
    let next = status::build(&seen, Utc::now());
    let busy = is_busy(&seen, &next, members);
    let mut later = None;
    match pace::worth(&before, &next, notes.status_written.map(|at| at.elapsed())) {
        Worth::Nothing => {}
        Worth::Later(after) => later = Some(after),
        Worth::Now => {
            write(&ad.client, cluster, &next).await?;
            notes.status_written = Some(Instant::now());
            tell(ad, cluster, &before, &next).await;
        }
    }
    let changed = notes.status_written.get_or_insert_with(Instant::now).elapsed();
    let wait = match (busy, changed < LASTING) {
        (true, true) => BUSY,
        (true, false) => LASTING_PACE,
        (false, _) => IDLE,
    };
    Ok([acted.planes.wake, later].into_iter().flatten().fold(wait, Duration::min))
}

/// The day in the message of a good certificate: what a look that did not judge it again repeats.
fn until_of(message: &str) -> DateTime<Utc> {
    let day = message.rsplit(' ').next().unwrap_or_default();
    format!("{day}T00:00:00Z").parse().unwrap_or_default()
}

fn is_busy(seen: &Observed<'_>, next: &OpenBaoClusterStatus, members: &[Member]) -> bool {
    let wanted = usize::try_from(seen.cluster.spec.replicas).unwrap_or(1).min(MAX_MEMBERS as usize);
    let all_serve = members.iter().filter(|member| member.serves()).count() == wanted;
    let locked = seen.cluster.status.as_ref().is_some_and(|status| status.operation_lock.is_some());
    let all_vote = seen.voters.is_none_or(|voters| members.iter().all(|member| voters.contains(&member.name)));
    !seen.cluster.spec.paused
        && seen.spec.is_ok()
        && (seen.stage == Stage::Bootstrapping || !all_serve || locked || next.active_leader.is_none() || !all_vote)
}

/// An event for what a person should look at, when it appears.
async fn tell(ad: &Adapters, cluster: &OpenBaoCluster, before: &OpenBaoClusterStatus, next: &OpenBaoClusterStatus) {
    for (reason, note) in status::news(before, next) {
        let news = News {
            severity: Severity::Warning,
            reason,
            action: "Reconcile".to_owned(),
            note,
            annotations: std::collections::BTreeMap::new(),
        };
        ad.events.publish(cluster, news).await;
    }
}

/// Writes the plane of a status that this service owns.
pub(super) async fn write(client: &Client, cluster: &OpenBaoCluster, next: &OpenBaoClusterStatus) -> Result<(), Error> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let api: Api<OpenBaoCluster> = Api::namespaced(client.clone(), &namespace);
    let body = json!({
        "apiVersion": "openbao.org/v1alpha1",
        "kind": "OpenBaoCluster",
        // A namesake made since has another UID and must not inherit this status.
        "metadata": {"name": name, "namespace": namespace, "uid": cluster.uid()},
        "status": status::plane(next),
    });
    timed(api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)))
        .await
        .map(drop)
        .map_err(|source| Error::Status { name, source })
}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        Self::Apply(error.into())
    }
}
