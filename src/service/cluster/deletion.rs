//! What goes when the cluster object goes.
//!
//! Most objects are owned and collected by Kubernetes. Volumes and keys are not: the policy says what becomes of them. The
//! finalizer is there only while the policy asks for more than nothing, so a retained cluster is never held up.

use super::{apply::Error as ApplyFailure, facts::MAX_MEMBERS, names};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            apply::{ApplyError, delete},
            client::{RequestError, timed},
            finalizer,
            owner::is_controlled_by,
        },
    },
    api::{DeletionPolicy, OpenBaoCluster},
};
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
use std::{fmt::Debug, time::Duration};

/// Held while deletion has something to do.
pub const FINALIZER: &str = "openbao.org/openbaocluster-finalizer";
/// Between two looks at pods that are going.
const SOON: Duration = Duration::from_secs(1);

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
    let uid = cluster.uid().unwrap_or_default();
    let policy = cluster.spec.deletion_policy;
    if policy != DeletionPolicy::Retain {
        // First what would make new pods and volumes.
        if let Some(set) = read::<StatefulSet>(ad, &namespace, &names::statefulset(&name)).await?
            && is_controlled_by(&set, &uid)
        {
            if set.metadata.deletion_timestamp.is_none() {
                delete::<StatefulSet>(&ad.client, &namespace, &set.name_any(), &set.uid().unwrap_or_default()).await?;
            }
            return Ok(SOON);
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
            return Ok(SOON);
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
    Ok(SOON)
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
