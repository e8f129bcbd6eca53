//! What the first start does: asks where a cluster stands, grants the start to one volume, lets pods go, and tidies up. What it
//! decides is in [`bootstrap`].

use super::{
    apply::{self, Applier},
    bootstrap::{self, Stage, Step},
    build::{config_maps, statefulset},
    config::initialize,
    facts::Facts,
    identity, init,
    memory::{Memory, Notes},
    names,
    observe::Member,
    reconcile::Error,
    status::{Trouble, reasons},
    upkeep,
    validate::ValidatedCluster,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{apply::delete, client::timed, owner::is_controlled_by},
    },
    api::OpenBaoClusterStatus,
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

/// Whether this cluster may still be initialised, if that can be said.
pub(super) enum Standing {
    /// It is known.
    At(Stage),
    /// An earlier object of this name is not gone yet, so nobody knows: what is left of it, in words.
    Unclear(String),
}

/// Whether this cluster may still be initialised. Asked of the API server itself where a mistake would cost data.
pub(super) async fn standing(
    applier: &Applier,
    notes: &mut Notes,
    status: &OpenBaoClusterStatus,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
) -> Result<Standing, Error> {
    let initialized = status.initialized == Some(true);
    if !initialized
        && !notes.bootstrapped
        && let Some(remnant) = bootstrap::remnant(facts, &spec.uid)
    {
        return Ok(Standing::Unclear(remnant));
    }
    if notes.bootstrapped || bootstrap::is_done(members) {
        let marked = facts.annotation(statefulset::BOOTSTRAPPED).is_some();
        if !notes.bootstrapped && !initialized && !marked && !spec.self_init && init::is_pending(applier).await? {
            return Ok(Standing::At(Stage::Bootstrapping));
        }
        notes.bootstrapped = true;
        return Ok(Standing::At(Stage::Bootstrapped));
    }
    let claims_exist = if facts.own_set(&spec.uid).is_none() && !initialized {
        // Right after its creation the watch does not show it yet, while its volumes exist already: not to be taken for
        // volumes of an earlier cluster.
        let sets: Api<StatefulSet> = Api::namespaced(applier.client.clone(), &spec.namespace);
        let name = names::statefulset(&spec.name);
        let found = timed(sets.get_metadata_opt(&name)).await.map_err(|source| apply::Error::Look {
            kind: "StatefulSet".to_owned(),
            name,
            source,
        })?;
        if let Some(found) = found {
            if is_controlled_by(&found, &spec.uid) {
                return Err(Error::Behind);
            }
            if bootstrap::is_left_behind(&found, &spec.uid) {
                return Ok(Standing::Unclear(bootstrap::left_behind("StatefulSet", &found.name_any())));
            }
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(applier.client.clone(), &spec.namespace);
        let claims = timed(api.list_metadata(&ListParams::default()))
            .await
            .map_err(|source| Error::Claims { namespace: spec.namespace.clone(), source })?;
        let mut claims = claims
            .items
            .iter()
            .filter(|claim| names::ordinal_of_claim(&spec.name, &claim.name_any()).is_some())
            .peekable();
        let exist = claims.peek().is_some();
        // Neither retained nor gone: whoever waits for it to go finds the one or the other.
        if let Some(going) = claims.find(|claim| claim.metadata.deletion_timestamp.is_some()) {
            return Ok(Standing::Unclear(bootstrap::left_behind("volume claim", &going.name_any())));
        }
        exist
    } else {
        false
    };
    let stage = bootstrap::stage(facts, &spec.uid, initialized, claims_exist);
    notes.bootstrapped = stage == Stage::Bootstrapped;
    Ok(Standing::At(stage))
}

/// The first start, one look further. Returns what is wrong with it.
pub(super) async fn begin(
    ad: &Adapters,
    memory: &Memory,
    applier: &Applier,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
    wanted: &StatefulSet,
) -> Result<Vec<Trouble>, Error> {
    applier.ensure(facts.stateful_set.as_deref(), wanted.clone()).await?;
    replace_stuck(applier, facts, members, wanted).await?;
    let trouble = match start(ad, memory, applier, spec, facts, members).await? {
        None if !spec.self_init => init::run(ad, applier, spec, facts, members).await?,
        trouble => trouble,
    };
    Ok(trouble.into_iter().chain(bootstrap::failing(facts, &spec.name)).collect())
}

/// During the first start a pod with old settings that never came up is in nobody's way: a corrected spec replaces it, as
/// soon as the StatefulSet would make a better one.
async fn replace_stuck(
    applier: &Applier,
    facts: &Facts,
    members: &[Member],
    wanted: &StatefulSet,
) -> Result<(), Error> {
    let Some(template) = wanted.spec.as_ref().map(|spec| &spec.template) else { return Ok(()) };
    if !upkeep::carries(facts, template) {
        return Ok(());
    }
    for member in members.iter().filter(|member| !member.serves() && !member.ready && !member.terminating) {
        let Some(pod) = facts.pods.get(&member.ordinal) else { continue };
        if upkeep::difference(pod, template).is_some() {
            delete::<Pod>(&applier.client, &applier.namespace, &member.name, &member.uid).await?;
        }
    }
    Ok(())
}

/// Grants the first start to one volume and lets waiting pods go.
async fn start(
    ad: &Adapters,
    memory: &Memory,
    applier: &Applier,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
) -> Result<Option<Trouble>, Error> {
    match bootstrap::step(facts, &spec.name, &spec.uid, members) {
        Step::Nothing => Ok(None),
        Step::Grant { volume_uid } => {
            let stanza = stanza(ad, memory, spec).await?;
            let object = config_maps::bootstrap(spec, stanza, &volume_uid);
            // Created, never applied: a second grant for another volume must fail here.
            if applier.create(object).await? {
                let waiting: Vec<String> =
                    facts.pods.values().filter(|pod| bootstrap::is_gated(pod)).map(|pod| pod.name_any()).collect();
                let_go(applier, facts, &waiting).await?;
            } else {
                // Nobody starts before it is gone, and the watch never shows what does not carry our label.
                applier.must_be_of_this_name::<ConfigMap>(&names::bootstrap_config_map(&spec.name)).await?;
            }
            Ok(None)
        }
        Step::LetGo(pods) => {
            let_go(applier, facts, &pods).await?;
            Ok(None)
        }
        Step::Discard { uid } => {
            let name = names::bootstrap_config_map(&spec.name);
            delete::<ConfigMap>(&applier.client, &applier.namespace, &name, &uid).await.map_err(apply::Error::from)?;
            Ok(None)
        }
        Step::Lost(lost) => Ok(Some(Trouble::new(
            reasons::BOOTSTRAP_VOLUME_LOST,
            format!(
                "the volume of {} (UID {}) was replaced in the middle of the first start, and other members may hold data of it. To start over, delete the cluster with its volumes; it holds nothing but what was written in its first seconds",
                names::pod(&spec.name, 0),
                lost.granted
            ),
        ))),
    }
}

/// The stanza of the first start; empty where the operator initialises through the API.
async fn stanza(ad: &Adapters, memory: &Memory, spec: &ValidatedCluster) -> Result<String, Error> {
    if !spec.self_init {
        return Ok("# The operator initialises this cluster through the API.\n".to_owned());
    }
    let identity = match (&spec.oidc, memory.identity()) {
        (None, _) => None,
        (Some(_), Some(known)) => Some(known),
        (Some(_), None) => {
            let subject = names::subject(&ad.settings.operator_namespace, &ad.settings.operator_service_account);
            let fetched = identity::fetch(&ad.client, subject).await?;
            memory.remember_identity(&fetched);
            Some(fetched)
        }
    };
    // Its requests were validated with the spec.
    Ok(initialize::render(spec, identity.as_ref()).unwrap_or_default())
}

/// Takes the gate off pods. Guarded by their UIDs: a pod made since waits for its own decision.
async fn let_go(applier: &Applier, facts: &Facts, pods: &[String]) -> Result<(), Error> {
    let waiting = facts.pods.values().filter(|pod| pods.contains(&pod.name_any()));
    futures::future::try_join_all(waiting.map(|pod| async move {
        let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.clone()).unwrap_or_default();
        let Some(at) = gates.iter().position(|gate| gate.name == statefulset::BOOTSTRAP_GATE) else { return Ok(()) };
        let name = pod.name_any();
        let api: Api<Pod> = Api::namespaced(applier.client.clone(), &applier.namespace);
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": pod.uid()},
            {"op": "test", "path": format!("/spec/schedulingGates/{at}/name"), "value": statefulset::BOOTSTRAP_GATE},
            {"op": "remove", "path": format!("/spec/schedulingGates/{at}")},
        ]);
        let Ok(patch) = serde_json::from_value(patch) else { return Ok(()) };
        match timed(api.patch(&name, &PatchParams::default(), &Patch::<Pod>::Json(patch))).await {
            Ok(_) => Ok(()),
            // The pod was replaced, or somebody else took the gate off: the next event tells.
            Err(error) if error.is_not_found() || error.is_invalid() || error.is_conflict() => Ok(()),
            Err(source) => Err(Error::LetGo { pod: name, source }),
        }
    }))
    .await
    .map(drop)
}

/// After the first start: the stanza goes, and whoever still waits at the gate of the old template may start, to join.
pub(super) async fn tidy(applier: &Applier, notes: &mut Notes, facts: &Facts) -> Result<(), Error> {
    if let Some(object) = facts.config_maps.get(&names::bootstrap_config_map(&applier.cluster)) {
        if notes.stanza_removed != object.uid() {
            applier.remove(object.as_ref()).await?;
            notes.stanza_removed = object.uid();
        }
        // Pods behind the gate wait until the watch has seen it gone.
        return Ok(());
    }
    let waiting: Vec<String> =
        facts.pods.values().filter(|pod| bootstrap::is_gated(pod)).map(|pod| pod.name_any()).collect();
    let_go(applier, facts, &waiting).await
}
