//! The status planes of the managers, which this reconcile writes for them: backup, restore, upgrade.
//!
//! Each is derived again at every look from the operations and restores themselves, by the manager's own pure function. What
//! a decision asks to be created is created first and then told, so that a crash between the two repeats a creation
//! whose name makes it harmless. A plane that says what it said before is not written.

use super::{
    bootstrap::Stage,
    carry,
    facts::Facts,
    memory::Notes,
    pace::{self, Worth},
    plane, records,
    trouble::Trouble,
    validate::ValidatedCluster,
    version,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::client::{RequestError, timed},
    },
    api::{
        ClusterPhase, HandledRequest, OpenBaoCluster, OpenBaoOperation, OperationKind, Request, RequestAction,
        ServersDirective, UpgradeDirective,
    },
    service::{
        backup::{self, BackupFacts},
        opslifecycle::{self, pending},
        upgrade::{self, TurnBack, UpgradeFacts, request},
    },
};
use chrono::{DateTime, Utc};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

const BACKUP: &str = "openbao-operator-backup";
const RESTORE: &str = "openbao-operator-restore";
const UPGRADE: &str = "openbao-operator-upgrade";

/// Why a plane could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A backup that is due could not be created.
    #[error(transparent)]
    Backup(#[from] backup::ActError),
    /// An upgrade that is due could not be created.
    #[error("failed to create OpenBaoOperation {name}")]
    Upgrade {
        /// The operation.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// An upgrade whose version was taken back could not be told to turn back.
    #[error("failed to ask OpenBaoOperation {name} to turn back")]
    TurnBack {
        /// The operation.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// A status could not be written.
    #[error("failed to write the status plane {plane} of cluster {cluster}")]
    Status {
        /// The field manager.
        plane: &'static str,
        /// The cluster.
        cluster: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
}

impl Error {
    /// The API server's refusal, where we hold it.
    pub fn request(&self) -> Option<&RequestError> {
        match self {
            Self::Backup(_) => None,
            Self::Upgrade { source, .. } | Self::TurnBack { source, .. } | Self::Status { source, .. } => Some(source),
        }
    }
}

/// What the planes mean for the cluster's own status.
#[derive(Debug, Default)]
pub struct Planes {
    /// A spec of a manager that cannot work.
    pub troubles: Vec<Trouble>,
    /// The version finished last.
    pub current_version: Option<String>,
    /// The condition `Upgrading`.
    pub upgrading: Option<(bool, &'static str, String)>,
    /// Requests that were answered now.
    pub handled: Vec<HandledRequest>,
    /// When something falls due.
    pub wake: Option<Duration>,
    /// A live restore that waits or runs.
    pub pending_restore: Option<String>,
    /// An upgrade or rollback under way: nobody else touches pods.
    pub upgrade_runs: bool,
    /// What the pods' template must show, as just decided: the stored status may be a look behind.
    pub directive: Option<UpgradeDirective>,
    /// How many servers a rollback wants there to be.
    pub servers: Option<ServersDirective>,
    /// A rollback that has not ended: its mover needs an account.
    pub rolls_back: bool,
}

/// What decides about upgrades beside the object itself.
struct Known<'a> {
    operations: &'a [Arc<OpenBaoOperation>],
    /// Also those that say nothing of these volumes.
    all: &'a [Arc<OpenBaoOperation>],
    facts: &'a Facts,
    obstacle: Option<String>,
}

/// Decides all three, and writes what is told of backups and upgrades; see [`announce`] for restores. Before OpenBao holds data
/// there is nothing to back up, restore or upgrade. `obstacle`: why no server that is started anew would come back.
pub async fn write(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    spec: &ValidatedCluster,
    facts: &Facts,
    obstacle: Option<String>,
    now: DateTime<Utc>,
) -> Result<Planes, Error> {
    let mut planes = Planes::default();
    let status = cluster.status.clone().unwrap_or_default();
    if status.initialized != Some(true) || status.phase == Some(ClusterPhase::Initializing) {
        return Ok(planes);
    }
    let all = ad.caches.operations_of(&spec.namespace, &spec.name);
    let claims = ad.caches.claims_of(&spec.namespace, &spec.name);
    let operations = records::of_these_volumes(all.clone(), cluster, &claims);
    planes.pending_restore = pending_restore(ad, cluster);
    backups(ad, cluster, &operations, &mut planes, now).await?;
    let known = Known { operations: &operations, all: &all, facts, obstacle };
    upgrades(ad, notes, cluster, spec, &known, &mut planes, now).await?;
    Ok(planes)
}

/// The restore that is announced now.
pub(super) fn pending_restore(ad: &Adapters, cluster: &OpenBaoCluster) -> Option<String> {
    let namespace = cluster.namespace().unwrap_or_default();
    pending(&ad.caches.restores_of(&namespace, &cluster.name_any()), cluster)
}

/// Shows it in the status, also of a cluster whose spec does not say what to do.
pub(super) async fn announce(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<(), Error> {
    let pending = pending_restore(ad, cluster);
    if cluster.status.as_ref().and_then(|status| status.pending_restore.as_ref()) == pending.as_ref() {
        return Ok(());
    }
    // Merged, not applied: what somebody else has written there as well goes too.
    let params = PatchParams { field_manager: Some(RESTORE.to_owned()), ..PatchParams::default() };
    send(ad, cluster, RESTORE, &params, Patch::Merge, json!({"pendingRestore": pending})).await
}

async fn backups(
    ad: &Adapters,
    cluster: &OpenBaoCluster,
    operations: &[Arc<OpenBaoOperation>],
    planes: &mut Planes,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let facts = BackupFacts { cluster, operations, pending_restore: planes.pending_restore.as_deref() };
    let decision = backup::decide(&facts, now);
    backup::act(ad, cluster, &decision).await?;
    if let Some(refused) = &decision.refused {
        planes.troubles.push(Trouble::new(refused.reason(), crate::causes::chain(refused)));
    }
    planes.wake = decision.wake_at.map(|at| (at - now).to_std().unwrap_or_default());
    let before = cluster.status.as_ref().and_then(|status| status.backup.as_ref());
    if decision.status.as_ref() != before {
        let body = match &decision.status {
            Some(status) => json!({"backup": status}),
            None => json!({}),
        };
        put(ad, cluster, BACKUP, body).await?;
    }
    Ok(())
}

async fn upgrades(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    spec: &ValidatedCluster,
    known: &Known<'_>,
    planes: &mut Planes,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let operations = known.operations;
    let status = cluster.status.clone().unwrap_or_default();
    let repository = &ad.settings.openbao_image_repository;
    let wanted_image = request::wish(&spec.spec.version, spec.spec.image.as_ref(), repository).image;
    // There is data, so this is not a first start.
    let kept = version::running(spec, &status, known.facts, Stage::Bootstrapped, false, repository);
    let kept = UpgradeDirective { version: kept.version, image: kept.image };
    let running_image = match &status.current_version {
        Some(version) => format!("{repository}:{version}"),
        None => wanted_image.clone(),
    };
    let facts = UpgradeFacts {
        cluster,
        operations,
        all: known.all,
        pending_restore: planes.pending_restore.as_deref(),
        wanted_image: &wanted_image,
        running_image: &running_image,
        kept: &kept,
        obstacle: known.obstacle.as_deref(),
        seal: spec.spec.unseal.type_.as_str(),
    };
    let mut decision = upgrade::decide(&facts, now);
    if let Some(operation) = &decision.create {
        let name = operation.name_any();
        let api: Api<OpenBaoOperation> = Api::namespaced(ad.client.clone(), &spec.namespace);
        match timed(api.create(&PostParams::default(), operation.as_ref())).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {}
            Err(source) => return Err(Error::Upgrade { name, source }),
        }
    }
    match &decision.turn_back {
        // It waits for its start, or is parked: during a pause it stays there.
        Some(_) if cluster.spec.paused && !carry::has_begun(ad, cluster) => {
            decision.condition.2.push_str(", when the pause ends");
        }
        Some(turn_back) => ask_back(ad, spec, operations, turn_back).await?,
        None => {}
    }
    let told = notes.upgrade_told.map(|at| at.elapsed());
    match pace::worth_telling(status.upgrade.as_ref(), &decision.status, told) {
        Worth::Nothing => {}
        Worth::Later(left) => planes.wake = Some(planes.wake.map_or(left, |wake| wake.min(left))),
        Worth::Now | Worth::Moved => {
            put(ad, cluster, UPGRADE, json!({"upgrade": decision.status})).await?;
            notes.upgrade_told = Some(Instant::now());
        }
    }
    planes.rolls_back = operations
        .iter()
        .any(|operation| operation.spec.operation == OperationKind::Rollback && !operation.has_ended());
    planes.directive.clone_from(&decision.status.directive);
    planes.servers.clone_from(&decision.status.servers);
    planes.upgrade_runs =
        decision.create.is_some() || decision.status.target.is_some() || planes.rolls_back || planes.servers.is_some();
    planes.current_version = Some(decision.current_version);
    planes.upgrading = Some(decision.condition);
    planes.handled = decision.handled;
    Ok(())
}

/// Adds the request to cancel, once.
async fn ask_back(
    ad: &Adapters,
    spec: &ValidatedCluster,
    operations: &[Arc<OpenBaoOperation>],
    turn_back: &TurnBack,
) -> Result<(), Error> {
    let Some(operation) = operations.iter().find(|operation| operation.name_any() == turn_back.operation) else {
        return Ok(());
    };
    let request = Request {
        nonce: turn_back.nonce.clone(),
        action: RequestAction::Cancel,
        reason: turn_back.reason.clone(),
        by: format!("openbaocluster/{}", spec.name),
        ..Request::default()
    };
    match opslifecycle::ask(&ad.client, operation, [request]).await {
        Ok(()) => Ok(()),
        // It changed meanwhile: the next look knows the change.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
        Err(source) => Err(Error::TurnBack { name: turn_back.operation.clone(), source }),
    }
}

async fn put(ad: &Adapters, cluster: &OpenBaoCluster, manager: &'static str, status: Value) -> Result<(), Error> {
    send(ad, cluster, manager, &PatchParams::apply(manager).force(), Patch::Apply, status).await
}

async fn send(
    ad: &Adapters,
    cluster: &OpenBaoCluster,
    manager: &'static str,
    params: &PatchParams,
    patch: fn(Value) -> Patch<Value>,
    status: Value,
) -> Result<(), Error> {
    let sent = plane::send(&ad.client, cluster, params, patch, &status).await;
    sent.map_err(|source| Error::Status { plane: manager, cluster: cluster.name_any(), source })
}
