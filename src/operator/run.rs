//! From start to exit: serve health, wait for our kinds, win the lease, run the controllers, drain, hand over.
//!
//! Order matters at the end. First nothing new may begin (the term ends), then what runs gets a moment to journal its
//! result, then it is dropped, and only then the lease is given back. What a dropped reconcile was about to write is
//! found by the next leader in the journal, as after a kill.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::client::ClientBuilder;
use kube::core::error_boundary::InvalidObject;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::args::{Election, Plan};
use super::kinds;
use crate::adapter::Adapters;
use crate::adapter::caches::Caches;
use crate::adapter::kubernetes::client::prepare;
use crate::adapter::kubernetes::events::Events;
use crate::adapter::leadership::{self, Leadership, Term};
use crate::adapter::metrics::metrics;
use crate::adapter::settings::Settings;
use crate::controller;
use crate::leader::{Candidate, Held, Lost, Standing};
use crate::service::backup::{BackupManager, RestoreTestManager};
use crate::service::cluster::shut_out;
use crate::service::opslifecycle::Manager;
use crate::service::restore::Restores;
use crate::service::upgrade::{RollbackManager, UpgradeManager};
use crate::telemetry::fleet::Fleet;
use crate::telemetry::health::{Readiness, Stage};
use crate::telemetry::requests::CountRequests;
use crate::telemetry::server::{self, Server};

/// How long running reconciles may take to finish after a stop. With the lease's release and its take-over it stays
/// under the second that a hand-over may last.
const DRAIN: Duration = Duration::from_millis(600);
/// How long the first lists may take before somebody is told what is missing. They go on meanwhile.
const FILL: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Server(#[from] server::Error),
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("no way to reach a Kubernetes API server: run in a pod, or set KUBECONFIG")]
    Config(#[source] kube::config::InferConfigError),
    #[error("the Kubernetes client could not be set up")]
    Client(#[source] kube::Error),
    #[error("leadership ended, and with it this process: another replica or a restart goes on")]
    Lost(#[from] Lost),
    #[error("a controller ended by itself")]
    Controller(#[source] Option<tokio::task::JoinError>),
}

/// Runs until a signal, a loss of leadership, or an error.
pub async fn run(plan: Plan) -> Result<(), Error> {
    let Plan { log_format: _, listen, election, settings } = plan;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "operator starts");
    metrics().started(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));

    let stop = CancellationToken::new();
    cancel_on_signal(stop.clone())?;
    let readiness = Readiness::default();
    let mut registry = Registry::with_prefix("openbao_operator");
    metrics().register(&mut registry);
    let fleet = Fleet::default();
    registry.register_collector(Box::new(fleet.clone()));
    let server = Server::bind(listen).await?;
    let serving = CancellationToken::new();
    let health = tokio::spawn(server.run(readiness.clone(), Arc::new(registry), serving.clone()));

    let outcome = lead(election, settings, &Seen { readiness: readiness.clone(), fleet }, &stop).await;

    readiness.set(Stage::Stopping);
    serving.cancel();
    // Probes and scrapes in flight are answered; a server that failed says why.
    if let Ok(Ok(Err(error))) = tokio::time::timeout(DRAIN, health).await {
        tracing::warn!(error = crate::causes::chain(&error), "health and metrics server");
    }
    outcome
}

/// What the outside sees of this process.
#[derive(Clone)]
struct Seen {
    readiness: Readiness,
    fleet: Fleet,
}

/// Everything that needs the API server.
async fn lead(
    election: Option<Election>,
    settings: Vec<Settings>,
    seen: &Seen,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let config = prepare(kube::Config::infer().await.map_err(Error::Config)?);
    let connection = ClientBuilder::try_from(config).map_err(Error::Client)?;
    #[cfg(feature = "fault-injection")]
    let connection = connection.with_layer(&crate::adapter::faults::FaultLayer);
    let client = connection.with_layer(&CountRequests).build();
    seen.readiness.set(Stage::Waiting("the API server".to_owned()));
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = kinds::served(&client, |why| seen.readiness.set(Stage::Waiting(why))) => {}
    }

    let (term, leadership) = leadership::channel();
    tokio::spawn({
        // Whatever else is slow at that moment: nothing begins after the signal.
        let (term, stop) = (term.clone(), stop.clone());
        async move {
            stop.cancelled().await;
            term.end();
        }
    });
    let Some(election) = election else {
        term.for_ever();
        metrics().leading(true);
        let mut work = start(&client, settings, &leadership, seen);
        let ended = tokio::select! {
            () = stop.cancelled() => None,
            ended = work.tasks.join_next() => Some(ended),
        };
        term.end();
        work.drain().await;
        return ended.map_or(Ok(()), |ended| Err(ended_by_itself(ended)));
    };

    let identity = format!("{}_{:08x}", election.pod, rand::random::<u32>());
    let candidate = Candidate::new(client.clone(), &election.namespace, &election.lease, identity);
    let tell = |standing| {
        seen.readiness.set(match standing {
            Standing::Standby => Stage::Standby,
            Standing::Trouble(why) => Stage::Waiting(format!("the lease {}: {why}", election.lease)),
        });
    };
    let Some(held) = candidate.acquire(stop, tell).await else { return Ok(()) };
    tracing::info!(lease = election.lease, identity = candidate.identity(), "leading");
    metrics().leading(true);
    term.extend(held.may_act_until());
    let work = start(&client, settings, &leadership, seen);
    let outcome = act(&candidate, held, &term, work, seen, stop).await;
    metrics().leading(false);
    outcome
}

/// Keeps the lease while the controllers run, then drains them and hands over.
async fn act(
    candidate: &Candidate,
    held: Held,
    term: &Term,
    mut work: Work,
    seen: &Seen,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let give_up = stop.child_token();
    let mut keeping = std::pin::pin!(candidate.keep(held, term, &give_up));
    let (kept, failure) = tokio::select! {
        kept = &mut keeping => (kept, None),
        ended = work.tasks.join_next() => {
            give_up.cancel();
            term.end();
            (keeping.await, Some(ended_by_itself(ended)))
        }
    };
    term.end();
    seen.readiness.set(Stage::Stopping);
    work.drain().await;
    match (kept, failure) {
        (Err(lost), _) => Err(lost.into()),
        (Ok(held), failure) => {
            candidate.release(held).await;
            failure.map_or(Ok(()), Err)
        }
    }
}

fn ended_by_itself(ended: Option<Result<(), tokio::task::JoinError>>) -> Error {
    Error::Controller(ended.and_then(Result::err))
}

/// The controllers under way.
struct Work {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Work {
    /// Lets reconciles under way end by themselves for a moment, then drops them.
    async fn drain(&mut self) {
        self.stop.cancel();
        let finished = tokio::time::timeout(DRAIN, async { while self.tasks.join_next().await.is_some() {} }).await;
        if finished.is_err() {
            tracing::info!("some reconciles were still under way: their journals tell the next leader where they are");
        }
        self.tasks.shutdown().await;
    }
}

/// Begins to watch and to reconcile, one set for each scope.
fn start(client: &kube::Client, settings: Vec<Settings>, leadership: &Leadership, seen: &Seen) -> Work {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    seen.readiness.set(Stage::Waiting("the first list of every kind".to_owned()));
    let unfilled = Arc::new(AtomicUsize::new(settings.len()));
    for settings in settings {
        let scope = Scoped {
            client: client.clone(),
            settings,
            leadership: leadership.clone(),
            seen: seen.clone(),
            unfilled: unfilled.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(scope.run());
    }
    Work { tasks, stop }
}

/// One set of watches and controllers: the whole cluster's, or one namespace's.
struct Scoped {
    client: kube::Client,
    settings: Settings,
    leadership: Leadership,
    seen: Seen,
    /// How many scopes still wait for their lists.
    unfilled: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Scoped {
    async fn run(self) {
        let Self { client, settings, leadership, seen, unfilled, stop } = self;
        let events = Events::new(client.clone(), settings.instance.clone());
        let caches = Caches::start(&client, &settings.scope, malformed, &stop);
        loop {
            let filled = tokio::select! {
                () = stop.cancelled() => return,
                filled = caches.filled(&client, &settings.scope, FILL) => filled,
            };
            match filled {
                Ok(()) => break,
                // Rights that are granted later, or a kind that comes later, are found by the watches themselves.
                Err(error) => {
                    tracing::warn!(scope = ?settings.scope, error = crate::causes::chain(&error), "cannot start here yet");
                    seen.readiness.set(Stage::Waiting(format!("{:?}: {error}", settings.scope)));
                    shut_out::tell(&client, &caches, &error).await;
                }
            }
        }
        if unfilled.fetch_sub(1, Ordering::SeqCst) == 1 {
            seen.readiness.set(Stage::Leading);
        }
        tracing::info!(scope = ?settings.scope, "watching");
        seen.fleet.watch(caches.clone());
        let adapters = Arc::new(Adapters { client, settings, events, caches, leadership });
        controllers(adapters, stop).await;
    }
}

/// Every controller of one scope, until `stop`. One that ends by itself ends all: half an operator is worse than a
/// restart.
async fn controllers(adapters: Arc<Adapters>, stop: CancellationToken) {
    let mut running = JoinSet::new();
    running.spawn(controller::restore::run(adapters.clone(), stop.clone()));
    running.spawn(controller::cluster::run(adapters.clone(), stop.clone()));
    running.spawn(controller::rollout::run(adapters.clone(), stop.clone()));
    let managers: Vec<Arc<dyn Manager>> = vec![
        Arc::new(BackupManager),
        Arc::new(RestoreTestManager),
        Arc::new(Restores::default()),
        Arc::new(UpgradeManager::default()),
        Arc::new(RollbackManager::default()),
    ];
    running.spawn(controller::operation::run(adapters.clone(), managers, stop.clone()));
    if running.join_next().await.is_some() && stop.is_cancelled() {
        while running.join_next().await.is_some() {}
    }
}

/// An object that cannot be read as its kind is left alone and named; the others are not disturbed.
fn malformed(kind: &'static str, object: &InvalidObject) {
    tracing::warn!(
        kind,
        namespace = object.metadata.namespace,
        name = object.metadata.name,
        error = object.error,
        "an object does not match its kind and is left alone: correct or delete it"
    );
}

/// The first signal asks to stop, the second one does not ask.
fn cancel_on_signal(stop: CancellationToken) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    tokio::spawn(async move {
        for round in 0_u8.. {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if round > 0 {
                tracing::warn!("second signal: leaving at once");
                std::process::exit(130);
            }
            tracing::info!("stopping");
            stop.cancel();
        }
    });
    Ok(())
}
