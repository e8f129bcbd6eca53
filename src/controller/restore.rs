//! `OpenBaoRestore`: a request is admitted, becomes an operation, and shows what that operation does.
//!
//! The work itself is the operation's ([`crate::service::restore`]); nothing here touches OpenBao or the lock.

mod told;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, Utc};
use futures::{StreamExt, future::ready, stream};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use tokio_util::sync::CancellationToken;

use told::write;

use super::Queue;
use crate::adapter::Adapters;
use crate::adapter::kubernetes::client::{RequestError, timed};
use crate::adapter::kubernetes::feed::Touched;
use crate::adapter::kubernetes::finalizer;
use crate::adapter::kubernetes::owner::is_controlled_by;
use crate::adapter::metrics::{Outcome, metrics};
use crate::api::{OpenBaoOperation, OpenBaoRestore, OpenBaoRestoreStatus, RESTORE_FINALIZER, Request, RestorePhase};
use crate::datapath::protocol::{self, Progress};
use crate::service::backup::jobs;
use crate::service::opslifecycle::retry::ErrorClass;
use crate::service::opslifecycle::{self, RetryClass};
use crate::service::restore::decide::Refused;
use crate::service::restore::decide::admit::{Admission, admit};
use crate::service::restore::decide::copy;
use crate::service::restore::decide::orphan::operation_gone;
use crate::service::restore::mover::MoverError;
use crate::service::restore::unmade::{self, Refusals, Unmade};
use crate::service::restore::{admission, asked, hold, plan, status};

const KIND: &str = "OpenBaoRestore";
/// How many restores are looked at at once: each may wait two seconds for silent servers.
const CONCURRENCY: u16 = 8;
/// How soon something missing is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Why a reconcile could not be finished.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to {verb} {kind} {name}")]
    Request {
        verb: &'static str,
        kind: &'static str,
        name: String,
        #[source]
        source: RequestError,
    },
    #[error(transparent)]
    Unread(#[from] admission::Unread),
    #[error(transparent)]
    Mover(#[from] MoverError),
}

impl Error {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Request { source, .. } if source.is_conflict() => ErrorClass::Conflict,
            Self::Request { .. } | Self::Unread(_) | Self::Mover(_) => ErrorClass::Transient,
        }
    }
}

struct Context {
    ad: Arc<Adapters>,
    waits: hold::Waits,
    refusals: Refusals,
    turns: Queue<OpenBaoRestore>,
}

/// Runs until `shutdown`.
pub async fn run(ad: Arc<Adapters>, shutdown: CancellationToken) {
    let caches = &ad.caches;
    let (for_pick, for_all) = (ad.clone(), ad.clone());
    let wakes = caches.notes.wakes(move |touched| woken(&for_pick, touched), move || all(&for_all));
    // Subscribed first, listed second: nothing falls between.
    let wakes = stream::iter(all(&ad)).chain(wakes);
    let context = Arc::new(Context {
        ad: ad.clone(),
        waits: hold::Waits::default(),
        refusals: Refusals::default(),
        turns: Queue::new(KIND, CONCURRENCY, caches.restores.clone(), shutdown.clone()),
    });
    let known = context.clone();
    Controller::for_stream(stream::pending(), caches.restores.clone())
        .reconcile_on(wakes)
        // Whoever is due waits for its turn.
        .with_config(Config::default().concurrency(0))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(in_turn, on_error, context)
        .for_each(|outcome| {
            if let Err(error) = outcome {
                known.turns.told(&error);
            }
            ready(())
        })
        .await;
}

fn all(ad: &Adapters) -> Vec<ObjectRef<OpenBaoRestore>> {
    ad.caches.restores.state().iter().map(|restore| ObjectRef::from_obj(&**restore)).collect()
}

/// The restores that a change concerns: the restore itself, those of the operation or config map, those of the cluster.
fn woken(ad: &Adapters, touched: &Touched) -> Vec<ObjectRef<OpenBaoRestore>> {
    let live = |restore: &OpenBaoRestore| {
        restore.metadata.deletion_timestamp.is_some() || restore.status.as_ref().is_none_or(|s| !s.phase.is_terminal())
    };
    match (touched.kind, &touched.cluster, &touched.operation) {
        (KIND, _, _) => vec![ObjectRef::new(&touched.name).within(&touched.namespace)],
        ("OpenBaoCluster" | "OpenBaoOperation", Some(cluster), _) => {
            let restores = ad.caches.restores_of(&touched.namespace, cluster);
            restores.iter().filter(|restore| live(restore)).map(|restore| ObjectRef::from_obj(&**restore)).collect()
        }
        ("ConfigMap", Some(cluster), Some(operation)) => {
            let restores = ad.caches.restores_of(&touched.namespace, cluster);
            let own = |restore: &OpenBaoRestore| status::operation_of(restore).is_some_and(|name| name == *operation);
            restores
                .iter()
                .filter(|restore| live(restore) && own(restore))
                .map(|restore| ObjectRef::from_obj(&**restore))
                .collect()
        }
        _ => Vec::new(),
    }
}

#[allow(clippy::needless_pass_by_value)] // the signature is kube's
fn on_error(restore: Arc<OpenBaoRestore>, error: &Error, context: Arc<Context>) -> Action {
    let delay = context.turns.failed(&restore, error.class());
    tracing::warn!(
        namespace = restore.namespace(),
        name = restore.name_any(),
        error = crate::causes::chain(error),
        "failed to reconcile a restore; trying again"
    );
    Action::requeue(delay)
}

async fn in_turn(restore: Arc<OpenBaoRestore>, context: Arc<Context>) -> Result<Action, Error> {
    let Some((_turn, restore)) = context.turns.take(restore.as_ref()).await else {
        return Ok(Action::await_change());
    };
    // Boxed, so that whoever waits for its turn does not hold the room for it yet.
    Box::pin(reconcile(&restore, &context)).await
}

async fn reconcile(restore: &OpenBaoRestore, context: &Context) -> Result<Action, Error> {
    let ad = &context.ad;
    let mut measured = metrics().reconciling(KIND, &restore.namespace().unwrap_or_default(), &restore.name_any());
    let action = if restore.metadata.deletion_timestamp.is_some() {
        let uid = restore.uid().unwrap_or_default();
        context.waits.forget(&uid);
        context.refusals.forget(&uid);
        depart(ad, restore).await
    } else if phase(restore).is_terminal() {
        settle(ad, restore).await
    } else {
        proceed(context, restore).await
    };
    if action.is_ok() {
        measured.ends(if phase(restore).is_terminal() { Outcome::Done } else { Outcome::Waiting });
        context.turns.succeeded(restore);
    }
    action
}

fn phase(restore: &OpenBaoRestore) -> RestorePhase {
    restore.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// A live restore: admitted, or shown.
async fn proceed(context: &Context, restore: &OpenBaoRestore) -> Result<Action, Error> {
    let ad = &context.ad;
    let now = now();
    if let Some(why) = copy::refused(restore) {
        return end(ad, restore, &why, now).await;
    }
    set_finalizer(ad, restore, true).await?;
    let Some(name) = status::operation_of(restore) else { return consider(context, restore, now).await };
    let Some(operation) = operation(ad, restore, &name).await? else {
        if !status::has_seen_operation(restore) {
            // Admitted, and cut off before the operation was made, or not let in.
            if let Some(next) = asked::cancelled(restore, now) {
                context.refusals.forget(&restore.uid().unwrap_or_default());
                write(ad, restore, next).await?;
                return Ok(Action::await_change());
            }
            return begin(context, restore, now).await;
        }
        let why = operation_gone(&name, &restore.status.clone().unwrap_or_default());
        return end(ad, restore, &why, now).await;
    };
    if !asked::is_own(restore, &operation) {
        return end(ad, restore, &asked::name_taken(&name), now).await;
    }
    follow(ad, &context.waits, restore, &operation, now).await
}

/// Admits, waits or refuses.
async fn consider(context: &Context, restore: &OpenBaoRestore, now: DateTime<Utc>) -> Result<Action, Error> {
    let ad = &context.ad;
    if let Some(next) = asked::cancelled(restore, now) {
        write(ad, restore, next).await?;
        return Ok(Action::await_change());
    }
    let namespace = restore.namespace().unwrap_or_default();
    let cluster = ad.caches.cluster(&namespace, &restore.spec.cluster);
    let since = restore.status.as_ref().and_then(|status| status.start_time).unwrap_or(now);
    let facts = admission::gather(ad, restore, cluster.as_deref(), since).await?;
    let uid = cluster.as_deref().and_then(ResourceExt::uid);
    match admit(&facts, now) {
        Admission::Go => {
            write(ad, restore, status::admitted(restore, uid, now)).await?;
            begin(context, restore, now).await
        }
        Admission::Refuse(why) => end(ad, restore, &why, now).await,
        Admission::Wait { message, .. } => {
            write(ad, restore, status::waiting(restore, uid, &message, now)).await?;
            Ok(Action::requeue(LOOK_AGAIN))
        }
    }
}

/// Makes the operation. Its name is the same each time, so that a crash in between makes nothing twice. What stands in the way
/// for good ends the restore: while it lives it is announced, and no backup and no upgrade begins.
async fn begin(context: &Context, restore: &OpenBaoRestore, now: DateTime<Utc>) -> Result<Action, Error> {
    let ad = &context.ad;
    let Some(operation) = plan::operation(restore) else { return Ok(Action::requeue(LOOK_AGAIN)) };
    let name = operation.name_any();
    match timed(operations(ad, restore).create(&PostParams::default(), &operation)).await {
        Ok(_) => {}
        Err(error) if error.is_already_exists() => match self::operation(ad, restore, &name).await? {
            Some(found) if asked::is_own(restore, &found) => {}
            Some(_) => return end(ad, restore, &asked::name_taken(&name), now).await,
            // Gone again since.
            None => return Ok(Action::requeue(LOOK_AGAIN)),
        },
        Err(error) if unmade::is_refused(&error) => return not_let_in(context, restore, &name, &error, now).await,
        Err(source) => return Err(Error::Request { verb: "create", kind: "OpenBaoOperation", name, source }),
    }
    context.refusals.forget(&restore.uid().unwrap_or_default());
    // The operation's own change wakes us; this is for a missed one.
    Ok(Action::requeue(RetryClass::ProgressPoll.delay(ad.settings.requeue_standard)))
}

async fn not_let_in(
    context: &Context,
    restore: &OpenBaoRestore,
    name: &str,
    error: &RequestError,
    now: DateTime<Utc>,
) -> Result<Action, Error> {
    let (ad, uid) = (&context.ad, restore.uid().unwrap_or_default());
    match unmade::judge(name, error, context.refusals.lasting(&uid, Instant::now())) {
        Unmade::End(why) => {
            context.refusals.forget(&uid);
            end(ad, restore, &why, now).await
        }
        Unmade::Wait(message) => {
            // What is written replaces the whole status, also the one that has just admitted it and not come back yet.
            if status::operation_of(restore).is_some() {
                write(ad, restore, status::waiting(restore, None, &message, now)).await?;
            }
            Ok(Action::requeue(LOOK_AGAIN))
        }
    }
}

async fn end(ad: &Adapters, restore: &OpenBaoRestore, why: &Refused, now: DateTime<Utc>) -> Result<Action, Error> {
    write(ad, restore, status::refused(restore, why, now)).await?;
    Ok(Action::await_change())
}

/// Shows what the operation does, passes requests on to it, and gives the disk back when the lock is long in coming.
async fn follow(
    ad: &Adapters,
    waits: &hold::Waits,
    restore: &OpenBaoRestore,
    operation: &OpenBaoOperation,
    now: DateTime<Utc>,
) -> Result<Action, Error> {
    let journal = operation.status.clone().unwrap_or_default();
    let next = status::mirror(restore, &journal, progress(ad, operation).as_ref(), now);
    pass_on(ad, restore, operation, &next).await?;
    let ended = next.phase.is_terminal();
    write(ad, restore, next).await?;
    if ended {
        waits.forget(&restore.uid().unwrap_or_default());
        return Ok(Action::await_change());
    }
    hold::give_back(ad, waits, restore, operation, now).await?;
    Ok(Action::requeue(RetryClass::ProgressPoll.delay(ad.settings.requeue_standard)))
}

fn progress(ad: &Adapters, operation: &OpenBaoOperation) -> Option<Progress> {
    let name = jobs::mover_name(&operation.name_any());
    let map = ad.caches.config_maps.get(&ObjectRef::new(&name).within(&operation.namespace()?))?;
    serde_json::from_str(map.data.as_ref()?.get(protocol::PROGRESS)?).ok()
}

/// Requests to the restore become requests to its operation, which answers them.
async fn pass_on(
    ad: &Adapters,
    restore: &OpenBaoRestore,
    operation: &OpenBaoOperation,
    next: &OpenBaoRestoreStatus,
) -> Result<(), Error> {
    if next.phase.is_terminal() {
        return Ok(());
    }
    let answered = |request: &&Request| next.handled_requests.iter().any(|done| done.nonce == request.nonce);
    let open = restore.spec.requests.iter().filter(|request| !answered(request)).cloned();
    opslifecycle::ask(&ad.client, operation, open).await.map_err(|source| Error::Request {
        verb: "pass a request on to",
        kind: "OpenBaoOperation",
        name: operation.name_any(),
        source,
    })
}

/// A restore that has ended: requests are answered, the finalizer goes.
async fn settle(ad: &Adapters, restore: &OpenBaoRestore) -> Result<Action, Error> {
    write(ad, restore, asked::answered(restore, now())).await?;
    set_finalizer(ad, restore, false).await?;
    Ok(Action::await_change())
}

/// A restore that is being deleted waits until its operation has stopped its Job and given the lock back.
async fn depart(ad: &Adapters, restore: &OpenBaoRestore) -> Result<Action, Error> {
    if !finalizer::is_on(restore, RESTORE_FINALIZER) {
        return Ok(Action::await_change());
    }
    let name = plan::operation_name(restore);
    let found = fresh_operation(ad, restore, &name).await?;
    let own = found.filter(|operation| is_controlled_by(operation, &restore.uid().unwrap_or_default()));
    let live = own.filter(|operation| !operation.has_ended());
    let Some(operation) = live else {
        set_finalizer(ad, restore, false).await?;
        return Ok(Action::await_change());
    };
    if operation.metadata.deletion_timestamp.is_none() {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: operation.uid(), resource_version: None }),
            ..DeleteParams::background()
        };
        match timed(operations(ad, restore).delete(&name, &params)).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(source) => return Err(Error::Request { verb: "delete", kind: "OpenBaoOperation", name, source }),
        }
    }
    let journal = operation.status.clone().unwrap_or_default();
    let next = status::mirror(restore, &journal, None, now());
    write(ad, restore, next).await?;
    Ok(Action::requeue(RetryClass::ProgressPoll.delay(ad.settings.requeue_standard)))
}

fn operations(ad: &Adapters, restore: &OpenBaoRestore) -> Api<OpenBaoOperation> {
    Api::namespaced(ad.client.clone(), &restore.namespace().unwrap_or_default())
}

/// The operation as last seen, or as it is if it was never seen.
async fn operation(
    ad: &Adapters,
    restore: &OpenBaoRestore,
    name: &str,
) -> Result<Option<Arc<OpenBaoOperation>>, Error> {
    match ad.caches.operation(&restore.namespace().unwrap_or_default(), name) {
        Some(operation) => Ok(Some(operation)),
        None => Ok(fresh_operation(ad, restore, name).await?.map(Arc::new)),
    }
}

async fn fresh_operation(
    ad: &Adapters,
    restore: &OpenBaoRestore,
    name: &str,
) -> Result<Option<OpenBaoOperation>, Error> {
    let request = |source| Error::Request { verb: "read", kind: "OpenBaoOperation", name: name.to_owned(), source };
    timed(operations(ad, restore).get_opt(name)).await.map_err(request)
}

/// Adds or removes our finalizer, and marks the restore as seen, if that changes anything.
async fn set_finalizer(ad: &Adapters, restore: &OpenBaoRestore, wanted: bool) -> Result<(), Error> {
    let patch = finalizer::patch(restore, RESTORE_FINALIZER, wanted);
    let Some(patch) = copy::marked(restore, patch) else { return Ok(()) };
    let (api, name) = (restores(ad, restore), restore.name_any());
    match timed(api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(source) => Err(Error::Request { verb: "set the finalizer of", kind: "OpenBaoRestore", name, source }),
    }
}

fn restores(ad: &Adapters, restore: &OpenBaoRestore) -> Api<OpenBaoRestore> {
    Api::namespaced(ad.client.clone(), &restore.namespace().unwrap_or_default())
}

/// The present time, as precise as a status shows it.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}
