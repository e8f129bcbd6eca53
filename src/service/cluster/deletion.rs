//! What goes when the cluster object goes.
//!
//! Most objects are owned and collected by Kubernetes. Volumes and keys are not: the policy says what becomes of them. The
//! finalizer is there only while the policy asks for more than nothing, so a retained cluster is never held up. Whoever deletes
//! the object and leaves its servers alone (`--cascade=orphan`) says more plainly what is wanted than a policy from before.

use super::{
    apply::Error as ApplyFailure,
    facts::{Facts, MAX_MEMBERS},
    leaving::{self, Left},
    names,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            apply::{ApplyError, delete},
            client::{RequestError, timed},
            events::{News, Severity},
            finalizer,
            owner::is_controlled_by,
        },
    },
    api::{DeletionPolicy, OpenBaoCluster},
};
use chrono::Utc;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod, Secret},
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt::Debug, time::Duration};

/// Held while deletion has something to do.
pub const FINALIZER: &str = "openbao.org/openbaocluster-finalizer";
/// Kubernetes' own finalizer while it takes the owner off what a deleted object owns.
const ORPHAN: &str = "orphan";

/// Why deletion is not finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The finalizer could not be set or taken off.
    #[error("failed to change the finalizers of cluster {name}")]
    Finalizer {
        /// The cluster.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// Something could not be read.
    #[error("failed to read {kind} {name}")]
    Read {
        /// Kind.
        kind: String,
        /// Name.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// Something could not be deleted.
    #[error(transparent)]
    Delete(#[from] ApplyError),
    /// Something is not ours to delete.
    #[error(transparent)]
    Foreign(#[from] ApplyFailure),
}

/// Sets or removes the finalizer as the policy demands.
pub async fn guard(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<(), Error> {
    set(ad, cluster, cluster.spec.deletion_policy != DeletionPolicy::Retain).await
}

async fn set(ad: &Adapters, cluster: &OpenBaoCluster, held: bool) -> Result<(), Error> {
    let name = cluster.name_any();
    let Some(patch) = finalizer::patch(cluster, FINALIZER, held) else { return Ok(()) };
    let api: Api<OpenBaoCluster> = Api::namespaced(ad.client.clone(), &cluster.namespace().unwrap_or_default());
    match timed(api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() && !held => Ok(()),
        Err(source) => Err(Error::Finalizer { name, source }),
    }
}

/// Carries out the policy. Needs no valid spec: a bad one must not keep a cluster from going.
pub async fn run(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<Duration, Error> {
    if !finalizer::is_on(cluster, FINALIZER) {
        return Ok(Duration::from_secs(60));
    }
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let mut policy = cluster.spec.deletion_policy;
    let lasted = leaving::lasted(cluster, Utc::now());
    let pace = leaving::pace(lasted);
    let facts = Facts::gather(ad, &namespace, &name, &name);
    if policy != DeletionPolicy::Retain && !is_orphaned(cluster, facts.stateful_set.as_deref()) {
        let left = Left::of(&facts, &name);
        if left.lasts(lasted) {
            leaving::tell(ad, cluster, &left).await;
        }
        // All of it was asked to go, and the watches tell when it is gone.
        if left.only_goes() {
            return Ok(pace);
        }
    }
    let servers = read::<StatefulSet>(ad, &namespace, &names::statefulset(&name)).await?;
    if policy != DeletionPolicy::Retain && is_orphaned(cluster, servers.as_ref()) {
        tell_orphaned(ad, cluster).await;
        policy = DeletionPolicy::Retain;
    }
    if policy != DeletionPolicy::Retain {
        // First what would make new pods and volumes; also an earlier object's, which goes by itself.
        if let Some(found) = servers.filter(|found| found.labels().get(names::CLUSTER_LABEL) == Some(&name)) {
            let ours = is_controlled_by(&found, &cluster.uid().unwrap_or_default());
            if ours && found.metadata.deletion_timestamp.is_none() {
                let set_uid = found.uid().unwrap_or_default();
                delete::<StatefulSet>(&ad.client, &namespace, &found.name_any(), &set_uid).await?;
            }
            return Ok(pace);
        }
        let mut left = false;
        for ordinal in 0..MAX_MEMBERS {
            if let Some(pod) = read::<Pod>(ad, &namespace, &names::pod(&name, ordinal)).await?
                && pod.labels().get(names::CLUSTER_LABEL) == Some(&name)
            {
                left = true;
            }
            if let Some(claim) =
                read::<PersistentVolumeClaim>(ad, &namespace, &names::data_claim(&name, ordinal)).await?
                && claim.labels().get(names::CLUSTER_LABEL) == Some(&name)
            {
                // Also one that is going: an object of the same name must not find it and take it for retained data.
                left = true;
                if claim.metadata.deletion_timestamp.is_none() {
                    let claim_uid = claim.uid().unwrap_or_default();
                    delete::<PersistentVolumeClaim>(&ad.client, &namespace, &claim.name_any(), &claim_uid).await?;
                }
            }
        }
        if left {
            return Ok(pace);
        }
    }
    // Last of all the Secrets: until here everything could still be stopped by hand.
    for secret in secrets_that_go(policy, &name) {
        if let Some(found) = read::<Secret>(ad, &namespace, &secret).await?
            && found.labels().get(names::CLUSTER_LABEL) == Some(&name)
            && found.labels().get(names::MANAGED_BY_LABEL).map(String::as_str) == Some(names::MANAGER)
        {
            delete::<Secret>(&ad.client, &namespace, &secret, &found.uid().unwrap_or_default()).await?;
        }
    }
    set(ad, cluster, false).await?;
    Ok(pace)
}

/// Whether the servers are to be left alone, whatever the policy says: the deletion asks for it; or it did and Kubernetes has
/// taken our name off the StatefulSet already, or somebody else has put another there.
fn is_orphaned(cluster: &OpenBaoCluster, set: Option<&StatefulSet>) -> bool {
    let of_a_cluster = |set: &StatefulSet| {
        let mut owners = set.owner_references().iter().filter(|owner| owner.controller == Some(true));
        owners.any(|owner| owner.kind == OpenBaoCluster::kind(&()))
    };
    let is_left = |set: &StatefulSet| {
        let labelled = set.labels().get(names::CLUSTER_LABEL) == Some(&cluster.name_any());
        labelled && set.metadata.deletion_timestamp.is_none() && !of_a_cluster(set)
    };
    cluster.finalizers().iter().any(|finalizer| finalizer == ORPHAN) || set.is_some_and(is_left)
}

async fn tell_orphaned(ad: &Adapters, cluster: &OpenBaoCluster) {
    let name = cluster.name_any();
    let news = News {
        severity: Severity::Normal,
        reason: "Orphaned".to_owned(),
        action: "Delete".to_owned(),
        note: format!(
            "the object was deleted and its servers were not (--cascade=orphan), so spec.deletionPolicy is not carried out: \
             StatefulSet, pods, volumes and keys stay as they are and nobody looks after them. To give them up, delete \
             StatefulSet {name}, its volume claims, Secrets {} and {}",
            names::unseal_secret(&name),
            names::root_token_secret(&name),
        ),
        annotations: BTreeMap::new(),
    };
    ad.events.publish(cluster, news).await;
}

/// The Secrets without owner that the policy gives up. A root token is worth nothing without its volumes, and would keep the
/// next cluster of this name from being initialised. The unseal key opens the backups too, so it outlives the volumes.
fn secrets_that_go(policy: DeletionPolicy, cluster: &str) -> Vec<String> {
    match policy {
        DeletionPolicy::Retain => vec![],
        DeletionPolicy::DeletePVCs => vec![names::root_token_secret(cluster)],
        DeletionPolicy::DeleteAll => vec![names::unseal_secret(cluster), names::root_token_secret(cluster)],
    }
}

async fn read<K>(ad: &Adapters, namespace: &str, name: &str) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let api: Api<K> = Api::namespaced(ad.client.clone(), namespace);
    timed(api.get_opt(name)).await.map_err(|source| Error::Read {
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::cluster;
    use serde_json::json;

    fn servers(labels: serde_json::Value, owner: Option<(&str, &str)>) -> StatefulSet {
        let owners: Vec<_> = owner
            .iter()
            .map(|(kind, uid)| json!({"apiVersion": "v1", "kind": kind, "name": "o", "uid": uid, "controller": true}))
            .collect();
        let metadata = json!({"name": "kelp", "uid": "set", "labels": labels, "ownerReferences": owners});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn whoever_leaves_the_servers_alone_keeps_volumes_and_keys_whatever_the_policy_says() {
        let with = |finalizers: &[&str]| {
            let mut object = cluster(|spec| spec["deletionPolicy"] = json!("DeleteAll"));
            object.metadata.finalizers = Some(finalizers.iter().map(|one| (*one).to_owned()).collect());
            object
        };
        let ours = || json!({names::CLUSTER_LABEL: "kelp"});
        let owned = servers(ours(), Some(("OpenBaoCluster", "cluster-uid")));
        assert!(!is_orphaned(&with(&[FINALIZER]), Some(&owned)));
        assert!(!is_orphaned(&with(&[FINALIZER]), None), "its servers are gone, and the rest follows");
        assert!(!is_orphaned(&with(&[FINALIZER, "foregroundDeletion"]), Some(&owned)));
        assert!(is_orphaned(&with(&[FINALIZER, "orphan"]), Some(&owned)), "nothing was taken off yet");
        assert!(is_orphaned(&with(&[FINALIZER, "orphan"]), None));
        let after = with(&[FINALIZER]);
        assert!(is_orphaned(&after, Some(&servers(ours(), None))), "Kubernetes was faster than we");
        assert!(
            is_orphaned(&after, Some(&servers(ours(), Some(("BaoServer", "theirs"))))),
            "another operator took it over"
        );
        assert!(!is_orphaned(&after, Some(&servers(ours(), Some(("OpenBaoCluster", "earlier"))))), "it goes by itself");
        assert!(!is_orphaned(&after, Some(&servers(json!({"app": "kelp"}), None))), "it never was ours");
        let mut going = servers(ours(), None);
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-21T09:00:00Z")).unwrap();
        assert!(!is_orphaned(&after, Some(&going)), "somebody gave it up");
    }

    #[test]
    fn the_root_token_goes_with_its_volumes_and_the_unseal_key_only_with_everything() {
        for (policy, gone) in [
            (DeletionPolicy::Retain, &[][..]),
            (DeletionPolicy::DeletePVCs, &["kelp-root-token"]),
            (DeletionPolicy::DeleteAll, &["kelp-unseal-key", "kelp-root-token"]),
        ] {
            assert_eq!(secrets_that_go(policy, "kelp"), gone, "{policy:?}");
        }
    }
}
