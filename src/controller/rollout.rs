//! `OpenBaoRollout`: accepted and ended with a reason, see [`service::rollout`](crate::service::rollout).

use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            client::{RequestError, timed},
            feed::gone,
        },
        metrics::{Outcome, metrics},
    },
    api::OpenBaoRollout,
    service::rollout,
};
use chrono::Utc;
use futures::{StreamExt, stream};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        controller::{Action, Config, Controller},
        reflector::ObjectRef,
    },
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const FIELD_MANAGER: &str = "openbao-operator-rollout";
const KIND: &str = "OpenBaoRollout";
const RETRY: Duration = Duration::from_secs(30);

/// The status of a rollout could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the status of OpenBaoRollout {name}")]
pub struct Error {
    name: String,
    #[source]
    source: RequestError,
}

/// Reconciles rollouts until `stop`.
pub async fn run(ad: Arc<Adapters>, stop: CancellationToken) {
    let store = ad.caches.rollouts.clone();
    let everything = {
        let store = store.clone();
        move || store.state().iter().map(|rollout| ObjectRef::from_obj(rollout.as_ref())).collect()
    };
    // Those listed before we began to listen.
    let listed: Vec<ObjectRef<OpenBaoRollout>> = everything();
    let wakes = ad.caches.notes.wakes(
        |touched| match touched.kind {
            KIND if !touched.deleted => vec![ObjectRef::new(&touched.name).within(&touched.namespace)],
            _ => vec![],
        },
        everything,
    );
    Controller::for_stream(stream::pending(), store)
        .reconcile_on(stream::iter(listed).chain(wakes))
        .with_config(Config::default().concurrency(2))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, _, _| Action::requeue(RETRY), ad)
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                gone(KIND, &error);
                tracing::debug!(%error, "rollout");
            }
        })
        .await;
}

async fn reconcile(object: Arc<OpenBaoRollout>, ad: Arc<Adapters>) -> Result<Action, Error> {
    let mut measured = metrics().reconciling(KIND, &object.namespace().unwrap_or_default(), &object.name_any());
    if let Some(status) = rollout::refusal(&object, Utc::now()) {
        let api: Api<OpenBaoRollout> = Api::namespaced(ad.client.clone(), &object.namespace().unwrap_or_default());
        let body = json!({
            "apiVersion": "openbao.org/v1alpha1",
            "kind": KIND,
            "metadata": { "name": object.name_any() },
            "status": status,
        });
        timed(api.patch_status(&object.name_any(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&body)))
            .await
            .map_err(|source| Error { name: object.name_any(), source })?;
    }
    measured.ends(Outcome::Done);
    Ok(Action::await_change())
}
