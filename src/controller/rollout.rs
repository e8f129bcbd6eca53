//! `OpenBaoRollout`: looks at the members, decides, writes the claim, and only then acts on it.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{SubsecRound, Utc};
use futures::{StreamExt, future::ready, stream};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::{
        controller::{Action, Config, Controller},
        reflector::ObjectRef,
    },
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Queue;
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            client::{RequestError, timed},
            events::{News, Severity},
            feed::Touched,
            finalizer,
            owner::is_controlled_by,
        },
        metrics::{Outcome, metrics},
    },
    api::{OpenBaoOperation, OpenBaoRollout, OpenBaoRolloutStatus, Request, RequestAction, RolloutMemberStatus},
    causes::chain,
    service::{
        opslifecycle::{
            self, RetryClass,
            audit::{self, AuditEvent, Fields},
            retry::ErrorClass,
        },
        rollout::{
            self, Effect, Facts,
            claimed::{self, Unmade},
            member::{self, MemberFacts},
            policy,
        },
        upgrade::request::wish,
    },
};

const KIND: &str = "OpenBaoRollout";
/// The field manager of a rollout's status.
const MANAGER: &str = "openbao-operator-rollout";
/// On every rollout that has begun: what can be undone is undone before the object goes.
const FINALIZER: &str = "openbao.org/openbaorollout-finalizer";
/// Rollouts are few, and their work is done by operations.
const CONCURRENCY: u16 = 2;

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
    #[error(
        "OpenBaoOperation {0} exists and is not the one of this rollout: delete it, then ask for a Retry of the member"
    )]
    NameTaken(String),
}

impl Error {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Request { source, .. } if source.is_conflict() => ErrorClass::Conflict,
            Self::Request { .. } => ErrorClass::Transient,
            Self::NameTaken(_) => ErrorClass::Invalid,
        }
    }

    /// What it means for a member whose operation was to be made.
    fn unmade(&self) -> Unmade {
        match self {
            Self::Request { source, .. } if source.is_invalid() => Unmade::Never,
            Self::NameTaken(_) => Unmade::Never,
            Self::Request { .. } => Unmade::NotYet,
        }
    }
}

struct Context {
    ad: Arc<Adapters>,
    turns: Queue<OpenBaoRollout>,
}

/// Reconciles rollouts until `stop`.
pub async fn run(ad: Arc<Adapters>, stop: CancellationToken) {
    let (for_pick, for_all) = (ad.clone(), ad.clone());
    let wakes = ad.caches.notes.wakes(move |touched| woken(&for_pick, touched), move || all(&for_all));
    // Subscribed first, listed second: nothing falls between.
    let wakes = stream::iter(all(&ad)).chain(wakes);
    let turns = Queue::new(KIND, CONCURRENCY, ad.caches.rollouts.clone(), stop.clone());
    let context = Arc::new(Context { ad: ad.clone(), turns });
    let known = context.clone();
    Controller::for_stream(stream::pending(), ad.caches.rollouts.clone())
        .reconcile_on(wakes)
        // Whoever is due waits for its turn.
        .with_config(Config::default().concurrency(0))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(in_turn, on_error, context)
        .for_each(|outcome| {
            if let Err(error) = outcome {
                known.turns.told(&error);
            }
            ready(())
        })
        .await;
}

fn all(ad: &Adapters) -> Vec<ObjectRef<OpenBaoRollout>> {
    ad.caches.rollouts.state().iter().map(|rollout| ObjectRef::from_obj(&**rollout)).collect()
}

/// A rollout is woken by itself, by its members' clusters, and by their operations and restores.
fn woken(ad: &Adapters, touched: &Touched) -> Vec<ObjectRef<OpenBaoRollout>> {
    match (touched.kind, &touched.cluster) {
        (KIND, _) => vec![ObjectRef::new(&touched.name).within(&touched.namespace)],
        ("OpenBaoCluster" | "OpenBaoOperation" | "OpenBaoRestore", Some(cluster)) => ad
            .caches
            .rollouts
            .state()
            .iter()
            .filter(|rollout| rollout.namespace().as_deref() == Some(&touched.namespace))
            .filter(|rollout| rollout.spec.members.iter().any(|member| member.cluster == *cluster))
            .map(|rollout| ObjectRef::from_obj(&**rollout))
            .collect(),
        _ => vec![],
    }
}

async fn in_turn(rollout: Arc<OpenBaoRollout>, context: Arc<Context>) -> Result<Action, Error> {
    let Some((_turn, rollout)) = context.turns.take(rollout.as_ref()).await else {
        return Ok(Action::await_change());
    };
    // Boxed, so that whoever waits for its turn does not hold the room for it yet.
    Box::pin(reconcile(&rollout, &context)).await
}

async fn reconcile(rollout: &OpenBaoRollout, context: &Context) -> Result<Action, Error> {
    let mut measured = metrics().reconciling(KIND, &rollout.namespace().unwrap_or_default(), &rollout.name_any());
    let ad = &context.ad;
    let members = look(ad, rollout).await?;
    let decision = rollout::decide(&Facts { rollout, members: &members }, Utc::now().trunc_subsecs(3));
    // The finalizer first: from the first claim on, somebody must see to what was begun.
    let leaving = rollout.metadata.deletion_timestamp.is_some();
    if !leaving && set_finalizer(ad, rollout, !decision.is_over()).await? {
        // Its change wakes us, with the resourceVersion that the claim needs.
        measured.ends(Outcome::Done);
        return Ok(Action::requeue(RetryClass::ProgressPoll.delay(ad.settings.requeue_standard)));
    }
    let stored = write(ad, rollout, &decision.status).await?;
    carry_out(ad, stored.as_ref().unwrap_or(rollout), &members, &decision.effects).await?;
    if leaving && decision.leaves_nothing_to_undo() {
        set_finalizer(ad, rollout, false).await?;
    }
    context.turns.succeeded(rollout);
    measured.ends(Outcome::Done);
    Ok(if decision.is_over() {
        Action::await_change()
    } else {
        Action::requeue(RetryClass::Standard.delay(ad.settings.requeue_standard))
    })
}

fn on_error(rollout: Arc<OpenBaoRollout>, error: &Error, context: Arc<Context>) -> Action {
    let again = context.turns.failed(&rollout, error.class());
    tracing::warn!(error = chain(error), rollout = %rollout.name_any(), ?again, "rollout");
    Action::requeue(again)
}

/// Does what the stored states call for, each whatever becomes of the others; the first failure is told in the end. A member whose
/// operation was not made says why: nobody else would.
async fn carry_out(
    ad: &Adapters,
    rollout: &OpenBaoRollout,
    members: &[MemberFacts],
    effects: &[Effect],
) -> Result<(), Error> {
    let mut status = rollout.status.clone().unwrap_or_default();
    let (mut outcome, mut waits) = (Ok(()), vec![]);
    for effect in effects {
        if !ad.leadership.still_leader() {
            break;
        }
        let Err(error) = act(ad, rollout, members, effect).await else { continue };
        if let Effect::Create(operation) = effect {
            let (cluster, unmade, why) = (&operation.spec.cluster, error.unmade(), chain(&error));
            // Of what has ended the change of its state is told.
            if claimed::note(&mut status, cluster, unmade, &why) && unmade == Unmade::NotYet {
                waits.push(format!("{cluster}: {why}"));
            }
        }
        outcome = outcome.and(Err(error));
    }
    let told = write(ad, rollout, &status).await;
    for note in waits {
        let (reason, action) = ("OperationNotCreated".to_owned(), "Rollout".to_owned());
        let news = News { severity: Severity::Warning, reason, action, note, annotations: BTreeMap::new() };
        ad.events.publish(rollout, news).await;
    }
    outcome.and(told.map(drop))
}

/// What the watches know of the members. An operation that a claim names and no watch shows is asked for: a claim that
/// was never acted upon and one that the watch has not caught up with look the same.
async fn look(ad: &Adapters, rollout: &OpenBaoRollout) -> Result<Vec<MemberFacts>, Error> {
    let namespace = rollout.namespace().unwrap_or_default();
    let repository = &ad.settings.openbao_image_repository;
    let wish = wish(&rollout.spec.version, rollout.spec.image.as_ref(), repository);
    let known = rollout.status.as_ref().map(|status| status.members.as_slice()).unwrap_or_default();
    let mut facts = vec![];
    for member in &rollout.spec.members {
        let cluster = ad.caches.cluster(&namespace, &member.cluster);
        let mut operations = ad.caches.operations_of(&namespace, &member.cluster);
        let entry = known.iter().find(|entry| entry.cluster == member.cluster);
        if let Some(name) = entry.and_then(|entry| claimed::unseen(entry, &operations)) {
            operations.extend(fresh(ad, &namespace, name).await?.map(Arc::new));
        }
        if let Some(name) = entry.and_then(|entry| entry.operation.as_deref()) {
            let version = &rollout.spec.version;
            operations.retain(|seen| seen.name_any() != name || claimed::is_upgrade_to(seen, version));
        }
        let status = cluster.as_ref().and_then(|cluster| cluster.status.as_ref());
        let current = status.and_then(|status| status.current_version.clone()).unwrap_or_default();
        let shown = status.and_then(|status| status.upgrade.as_ref()?.directive.clone());
        let restores = ad.caches.restores_of(&namespace, &member.cluster);
        facts.push(MemberFacts {
            pending_restore: cluster.as_ref().and_then(|cluster| opslifecycle::pending(&restores, cluster)),
            operations,
            image: wish.image.clone(),
            running_image: shown
                .filter(|shown| shown.version == current)
                .map_or_else(|| format!("{repository}:{current}"), |shown| shown.image),
            cluster,
        });
    }
    Ok(facts)
}

async fn fresh(ad: &Adapters, namespace: &str, name: &str) -> Result<Option<OpenBaoOperation>, Error> {
    let api: Api<OpenBaoOperation> = Api::namespaced(ad.client.clone(), namespace);
    timed(api.get_opt(name)).await.map_err(failed("read", "OpenBaoOperation", name))
}

fn failed(verb: &'static str, kind: &'static str, name: &str) -> impl FnOnce(RequestError) -> Error {
    let name = name.to_owned();
    move |source| Error::Request { verb, kind, name, source }
}

/// Stores the status against the resourceVersion that it was decided on, and tells each member's transition. The rollout as it is
/// stored then, if that was anything new.
async fn write(
    ad: &Adapters,
    rollout: &OpenBaoRollout,
    next: &OpenBaoRolloutStatus,
) -> Result<Option<OpenBaoRollout>, Error> {
    if rollout.status.as_ref() == Some(next) {
        return Ok(None);
    }
    let (api, name) = (rollouts(ad, rollout), rollout.name_any());
    let body = json!({
        "apiVersion": "openbao.org/v1alpha1",
        "kind": KIND,
        "metadata": { "name": name, "uid": rollout.uid(), "resourceVersion": rollout.resource_version() },
        "status": next,
    });
    let written = timed(api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body))).await;
    let stored = written.map_err(failed("write the status of", KIND, &name))?;
    for member in &next.members {
        tell(ad, rollout, member).await;
    }
    Ok(Some(stored))
}

async fn tell(ad: &Adapters, rollout: &OpenBaoRollout, member: &RolloutMemberStatus) {
    let before = rollout.status.as_ref().and_then(|status| {
        status.members.iter().find(|before| before.cluster == member.cluster).map(|before| before.state)
    });
    let (from, to) = (before.unwrap_or_default().as_str(), member.state.as_str());
    let fields = Fields::from([
        ("cluster", member.cluster.clone()),
        ("namespace", rollout.namespace().unwrap_or_default()),
        ("rollout", rollout.name_any()),
        ("rollout_uid", rollout.uid().unwrap_or_default()),
        ("operation", member.operation.clone().unwrap_or_default()),
        ("message", member.message.clone()),
    ]);
    let Some(entry) = audit::log_phase_transition(AuditEvent::RolloutMemberTransition, from, to, &fields) else {
        return;
    };
    let severity = if policy::has_failed(member.state) { Severity::Warning } else { Severity::Normal };
    let news = News {
        severity,
        reason: entry.event.clone(),
        action: "Rollout".to_owned(),
        note: format!("{}: {to}: {}", member.cluster, member.message),
        annotations: audit::flat(&entry),
    };
    ad.events.publish(rollout, news).await;
}

async fn act(ad: &Adapters, rollout: &OpenBaoRollout, members: &[MemberFacts], effect: &Effect) -> Result<(), Error> {
    let api: Api<OpenBaoOperation> = Api::namespaced(ad.client.clone(), &rollout.namespace().unwrap_or_default());
    match effect {
        Effect::Create(operation) => {
            let name = operation.name_any();
            match timed(api.create(&PostParams::default(), operation)).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_already_exists() => {
                    let found = timed(api.get_opt(&name)).await.map_err(failed("read", "OpenBaoOperation", &name))?;
                    let owner = operation.owner_references().first().map(|owner| owner.uid.clone()).unwrap_or_default();
                    let is_own = |found: &OpenBaoOperation| {
                        is_controlled_by(found, &owner) && claimed::is_upgrade_to(found, &rollout.spec.version)
                    };
                    match found {
                        Some(found) if !is_own(&found) => Err(Error::NameTaken(name)),
                        _ => Ok(()),
                    }
                }
                Err(source) => Err(failed("create", "OpenBaoOperation", &name)(source)),
            }
        }
        Effect::Resume { operation } => ask(ad, rollout, members, operation, RequestAction::Resume).await,
        Effect::Cancel { operation } => ask(ad, rollout, members, operation, RequestAction::Cancel).await,
    }
}

/// Adds a request to a member's operation, once: its nonce is the same each time, see [`member::nonce`].
async fn ask(
    ad: &Adapters,
    rollout: &OpenBaoRollout,
    members: &[MemberFacts],
    operation: &str,
    action: RequestAction,
) -> Result<(), Error> {
    let seen = members.iter().flat_map(|member| &member.operations).find(|seen| seen.name_any() == operation);
    let Some(seen) = seen else { return Ok(()) };
    let reason = match action {
        RequestAction::Resume => "its turn in the rollout",
        _ if rollout.metadata.deletion_timestamp.is_some() => "the rollout was deleted",
        _ => "the rollout was cancelled",
    };
    let request = Request {
        nonce: member::nonce(rollout, seen, action),
        action,
        by: member::identity(rollout),
        reason: reason.to_owned(),
        ..Request::default()
    };
    opslifecycle::ask(&ad.client, seen, [request]).await.map_err(failed(
        "pass a request on to",
        "OpenBaoOperation",
        operation,
    ))
}

/// Adds or removes our finalizer; whether that changed anything.
async fn set_finalizer(ad: &Adapters, rollout: &OpenBaoRollout, wanted: bool) -> Result<bool, Error> {
    let Some(patch) = finalizer::patch(rollout, FINALIZER, wanted) else { return Ok(false) };
    let (api, name) = (rollouts(ad, rollout), rollout.name_any());
    match timed(api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(true),
        Err(source) => Err(failed("set the finalizer of", KIND, &name)(source)),
    }
}

fn rollouts(ad: &Adapters, rollout: &OpenBaoRollout) -> Api<OpenBaoRollout> {
    Api::namespaced(ad.client.clone(), &rollout.namespace().unwrap_or_default())
}
