//! What the first start does: asks where a cluster stands, grants the start to one volume, lets pods go, and tidies up. What it
//! decides is in [`bootstrap`].

use super::{
    apply::{self, Applier},
    bootstrap::{self, Stage, Step},
    build::{config_maps, statefulset},
    config::initialize,
    error::Error,
    facts::Facts,
    identity, init,
    members::Member,
    memory::{Memory, Notes},
    names,
    trouble::{Trouble, reasons},
    upkeep,
    validate::ValidatedCluster,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{apply::delete, client::timed, owner::is_controlled_by},
    },
    api::OpenBaoClusterStatus,
    causes::chain,
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

/// What is wrong with the name under which servers look when they start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Something lies there that is not for them.
    Read(Trouble),
    /// Nothing lies there, and nothing of ours may.
    Bare(Trouble),
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

/// After the first start: the stanza goes, and what says nothing takes its place and is put back like everything else of ours.
/// Servers read what lies under that name when they start, so it is left to nobody; what is wrong with it is returned. Whoever
/// still waits at the gate of the old template may start, to join.
pub(super) async fn tidy(
    applier: &Applier,
    notes: &mut Notes,
    spec: &ValidatedCluster,
    facts: &Facts,
) -> Result<Option<Flaw>, Error> {
    // Before servers carry this mark, a stanza that is gone could be granted to another volume.
    if facts.stateful_set.is_some() && facts.annotation(statefulset::BOOTSTRAPPED).is_none() {
        return Ok(None);
    }
    let name = names::bootstrap_config_map(&applier.cluster);
    // The watch shows for a moment longer what is gone.
    let is_there = |object: &&ConfigMap| notes.stanza_removed != object.uid();
    let known: Option<&ConfigMap> = facts.config_maps.get(&name).map(AsRef::as_ref).filter(is_there);
    let is_spent = |object: &&ConfigMap| {
        is_controlled_by(*object, &applier.uid) && !config_maps::is_placeholder(object, &applier.cluster)
    };
    if let Some(object) = known.filter(is_spent) {
        match applier.remove(object).await {
            Err(error) if error.is_refused() => return Ok(Some(Flaw::Read(stays(&name, &error)))),
            removed => removed?,
        }
        notes.stanza_removed = object.uid();
    }
    let live = known.filter(|object| !is_spent(object));
    let bare = match applier.ensure(live, config_maps::placeholder(spec)).await {
        Err(apply::Error::NotOurs { .. }) => return Ok(Some(Flaw::Read(taken(&name)))),
        // A precaution: servers need nothing there.
        Err(error) if error.is_refused() => Some(Flaw::Bare(bare(&name, &error))),
        written => written.map(|()| None)?,
    };
    // Pods behind the gate wait until the watch has seen it, or that nothing lies there.
    if live.is_some() || bare.is_some() && !facts.config_maps.contains_key(&name) {
        let waiting: Vec<String> =
            facts.pods.values().filter(|pod| bootstrap::is_gated(pod)).map(|pod| pod.name_any()).collect();
        let_go(applier, facts, &waiting).await?;
    }
    Ok(bare)
}

fn bare(name: &str, error: &apply::Error) -> Trouble {
    Trouble::new(
        reasons::APPLY_FAILED,
        format!(
            "nothing keeps a name from others under which servers look when they start: {}. See which quota or policy of the namespace refuses ConfigMap {name}; the cluster goes on without it",
            chain(error)
        ),
    )
}

fn stays(name: &str, error: &apply::Error) -> Trouble {
    Trouble::new(
        reasons::APPLY_FAILED,
        format!(
            "ConfigMap {name} with the settings of the first start could not be deleted, and a server that starts reads them, so none is restarted before it is gone: {}. See which policy of the namespace refuses that, or delete it",
            chain(error)
        ),
    )
}

fn taken(name: &str) -> Trouble {
    Trouble::new(
        reasons::NAME_TAKEN,
        format!(
            "ConfigMap {name} exists and was not made for this cluster: its first server would read it as a part of its own settings, so none is started or restarted before it is gone. See who made it, and delete it"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::kubernetes::apply::prepare,
        service::cluster::{
            apply::{Settled, tests::refused},
            validate::tests::valid,
        },
    };
    use kube::Client;
    use std::sync::Arc;

    /// Writes to nobody: a request fails.
    fn applier(spec: &ValidatedCluster) -> Applier {
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let (namespace, cluster, uid) = ("reef".to_owned(), "kelp".to_owned(), spec.uid.clone());
        Applier { client, namespace, cluster, uid, settled: Settled::default() }
    }

    /// With a StatefulSet that has the mark or not, or with none.
    fn facts(mark: Option<bool>, under_the_name: ConfigMap) -> Facts {
        let set = mark.map(|mark| {
            let mut set = StatefulSet::default();
            if mark {
                set.annotations_mut().insert(statefulset::BOOTSTRAPPED.into(), "true".into());
            }
            Arc::new(set)
        });
        Facts {
            stateful_set: set,
            config_maps: [("kelp-bootstrap".to_owned(), Arc::new(under_the_name))].into(),
            ..Facts::default()
        }
    }

    // A client wants a runtime.
    #[tokio::test]
    async fn after_the_first_start_what_somebody_else_put_under_the_stanzas_name_is_told_and_stays_theirs() {
        let spec = valid(|_| {});
        let mut theirs = config_maps::placeholder(&spec);
        theirs.metadata.uid = Some("theirs".into());
        theirs.metadata.owner_references.as_mut().unwrap()[0].uid = "earlier".into();
        // Also before the first pod of a cluster that is applied again over its volumes.
        for mark in [Some(true), None] {
            let facts = facts(mark, theirs.clone());
            let told = tidy(&applier(&spec), &mut Notes::default(), &spec, &facts).await.unwrap();
            let Some(Flaw::Read(told)) = told else { panic!("{told:?}") };
            assert_eq!(told.reason, reasons::NAME_TAKEN);
            assert!(
                told.message.contains("ConfigMap kelp-bootstrap") && told.message.contains("delete it"),
                "{told:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_stanza_goes_only_once_the_first_start_is_on_record_and_what_took_its_place_costs_nothing() {
        let spec = valid(|_| {});
        let (applier, mut notes) = (applier(&spec), Notes::default());
        let mut stanza = config_maps::bootstrap(&spec, "initialize".into(), "v1");
        stanza.metadata.uid = Some("granted".into());
        assert_eq!(tidy(&applier, &mut notes, &spec, &facts(Some(false), stanza.clone())).await.unwrap(), None);
        assert!(tidy(&applier, &mut notes, &spec, &facts(Some(true), stanza)).await.is_err(), "it is asked to go");
        let mut settled = prepare(config_maps::placeholder(&spec)).unwrap().object;
        settled.metadata.uid = Some("settled".into());
        assert_eq!(tidy(&applier, &mut notes, &spec, &facts(Some(true), settled)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_namespace_that_takes_no_config_map_is_told_of_and_holds_servers_back_only_while_they_would_read_one() {
        let spec = valid(|_| {});
        let (applier, mut notes) = (refused(&spec.uid), Notes::default());
        let nothing =
            Facts { config_maps: std::collections::BTreeMap::new(), ..facts(Some(true), ConfigMap::default()) };
        let told = tidy(&applier, &mut notes, &spec, &nothing).await.unwrap();
        let Some(Flaw::Bare(told)) = told else { panic!("{told:?}") };
        assert_eq!(told.reason, reasons::APPLY_FAILED);
        assert!(
            told.message.contains("ConfigMap kelp-bootstrap") && told.message.contains("exceeded quota"),
            "{told:?}"
        );
        let mut stanza = config_maps::bootstrap(&spec, "initialize".into(), "v1");
        stanza.metadata.uid = Some("granted".into());
        let told = tidy(&applier, &mut notes, &spec, &facts(Some(true), stanza)).await.unwrap();
        let Some(Flaw::Read(told)) = told else { panic!("{told:?}") };
        assert!(told.message.contains("delete it") && told.message.contains("exceeded quota"), "{told:?}");
        assert_eq!(notes.stanza_removed, None, "the watch is believed about it");
    }
}
