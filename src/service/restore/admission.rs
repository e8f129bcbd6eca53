//! Gathers what [`super::decide::admit`] decides on. Only looks.

use chrono::{DateTime, Utc};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::{Api, ResourceExt};

use super::decide::admit::{Cluster, Facts, Leader, Login, Need, NeedState, Source};
use super::plan;
use super::steps::evidence;
use crate::adapter::Adapters;
use crate::adapter::kubernetes::client::{RequestError, timed};
use crate::adapter::kubernetes::time::from_kube;
use crate::adapter::openbao::HealthState;
use crate::api::{BackupTarget, OpenBaoCluster, OpenBaoRestore, Provider};
use crate::service::backup::store::Store;
use crate::service::cluster::observe::{self, Member};

/// An object that the restore names could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {object}, named by {field}")]
pub struct Unread {
    field: &'static str,
    object: String,
    #[source]
    source: RequestError,
}

/// Looks at everything at once: objects and servers answer concurrently.
pub async fn gather(
    ad: &Adapters,
    restore: &OpenBaoRestore,
    cluster: Option<&OpenBaoCluster>,
    since: DateTime<Utc>,
) -> Result<Facts, Unread> {
    let target = target_of(restore, cluster);
    let (needs, leader) = futures::join!(needs(ad, restore, target), leader(ad, cluster));
    let spec = &restore.spec;
    let refused = match target {
        Some(target) => Store::freeze(target).map(drop).map_err(|error| format!("spec.source.{error}")),
        // A cluster that is not there yet may bring its own target.
        None if cluster.is_none() => Ok(()),
        None => Err(plan::InputError::NoTarget.to_string()),
    };
    Ok(Facts {
        since,
        cluster_name: spec.cluster.clone(),
        pinned_uid: restore.status.as_ref().and_then(|status| status.cluster_uid.clone()),
        force: spec.force,
        override_lock: spec.override_operation_lock,
        source: Source {
            key: spec.source.key.clone(),
            latest: spec.source.latest,
            before: spec.source.before,
            target: refused,
        },
        cluster: cluster.map(cluster_facts),
        login: login(restore, cluster),
        needs: needs?,
        leader,
    })
}

fn target_of<'a>(restore: &'a OpenBaoRestore, cluster: Option<&'a OpenBaoCluster>) -> Option<&'a BackupTarget> {
    let own = || Some(&cluster?.spec.backup.as_ref()?.target);
    restore.spec.source.target.as_ref().or_else(own)
}

fn cluster_facts(cluster: &OpenBaoCluster) -> Cluster {
    let status = cluster.status.as_ref();
    Cluster {
        uid: cluster.uid().unwrap_or_default(),
        deleting: cluster.metadata.deletion_timestamp.is_some(),
        paused: cluster.spec.paused,
        initialized: status.and_then(|status| status.initialized).unwrap_or_default(),
        created: cluster.metadata.creation_timestamp.as_ref().map(from_kube),
        upgrading_to: status
            .and_then(|status| status.upgrade.as_ref())
            .filter(|upgrade| upgrade.operation.is_some() && upgrade.step.is_some())
            .and_then(|upgrade| upgrade.target.clone()),
    }
}

fn login(restore: &OpenBaoRestore, cluster: Option<&OpenBaoCluster>) -> Login {
    if restore.spec.token_secret_ref.is_some() {
        return Login::Token;
    }
    let Some(cluster) = cluster else { return Login::Nobody };
    let access = cluster.spec.restore.as_ref();
    let named = restore.spec.jwt_auth_role.is_some() || access.is_some_and(|access| access.jwt_auth_role.is_some());
    if named || evidence::mints(cluster) { Login::Role(plan::role(restore, cluster)) } else { Login::Nobody }
}

async fn needs(ad: &Adapters, restore: &OpenBaoRestore, target: Option<&BackupTarget>) -> Result<Vec<Need>, Unread> {
    let namespace = restore.namespace().unwrap_or_default();
    let mut secrets: Vec<(&'static str, String, Vec<&'static str>)> = Vec::new();
    if let Some(token) = &restore.spec.token_secret_ref {
        secrets.push(("spec.tokenSecretRef", token.name.clone(), vec!["token"]));
    }
    if let Some((target, secret)) = target.and_then(|target| Some((target, target.credentials_secret_ref.as_ref()?))) {
        secrets.push((
            "spec.source.target.credentialsSecretRef",
            secret.name.clone(),
            credential_keys(target.provider),
        ));
    }
    let secrets = secrets.into_iter().map(|(field, name, keys)| secret_need(ad, &namespace, field, name, keys));
    let claim = async {
        match target.and_then(|target| target.file.as_ref()).filter(|file| !file.claim_name.is_empty()) {
            Some(file) => Some(claim_need(ad, &namespace, file.claim_name.clone()).await),
            None => None,
        }
    };
    let (secrets, claim) = futures::join!(join_all(secrets), claim);
    secrets.into_iter().chain(claim).collect()
}

/// The data keys without which a store's credentials cannot work. Azure takes one of two, which only the mover can tell.
fn credential_keys(provider: Provider) -> Vec<&'static str> {
    match provider {
        Provider::S3 => vec!["accessKeyId", "secretAccessKey"],
        Provider::Gcs => vec!["credentials.json"],
        Provider::Azure | Provider::File => Vec::new(),
    }
}

async fn secret_need(
    ad: &Adapters,
    namespace: &str,
    field: &'static str,
    name: String,
    keys: Vec<&'static str>,
) -> Result<Need, Unread> {
    let object = format!("Secret {name}");
    let secrets: Api<Secret> = Api::namespaced(ad.client.clone(), namespace);
    let found = match timed(secrets.get_opt(&name)).await {
        Ok(found) => found,
        Err(source) => return Err(Unread { field, object, source }),
    };
    let state = match found {
        None => NeedState::Missing,
        Some(secret) => {
            let data = secret.data.unwrap_or_default();
            let lacking = keys.into_iter().find(|key| data.get(*key).is_none_or(|value| value.0.is_empty()));
            lacking.map_or(NeedState::Present, |key| NeedState::Lacks(key.to_owned()))
        }
    };
    Ok(Need { field, object, state })
}

async fn claim_need(ad: &Adapters, namespace: &str, name: String) -> Result<Need, Unread> {
    let (field, object) = ("spec.source.target.file.claimName", format!("PersistentVolumeClaim {name}"));
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ad.client.clone(), namespace);
    match timed(claims.get_metadata_opt(&name)).await {
        Ok(found) => {
            let state = if found.is_some() { NeedState::Present } else { NeedState::Missing };
            Ok(Need { field, object, state })
        }
        Err(source) => Err(Unread { field, object, source }),
    }
}

async fn leader(ad: &Adapters, cluster: Option<&OpenBaoCluster>) -> Leader {
    let Some(cluster) = cluster else { return Leader::NotAsked };
    let members = observe::members(ad, cluster).await;
    if observe::leader(&members).is_some() { Leader::Found } else { nobody(&members) }
}

fn nobody(members: &[Member]) -> Leader {
    let answered: Vec<HealthState> = members.iter().filter_map(Member::state).collect();
    if !answered.is_empty() && answered.iter().all(|state| *state == HealthState::Uninitialized) {
        return Leader::Uninitialized;
    }
    if !answered.is_empty() && answered.iter().all(|state| *state == HealthState::Sealed) {
        return Leader::Sealed;
    }
    let mut details: Vec<String> = members
        .iter()
        .map(|member| match member.state() {
            Some(state) => format!("{} is {}", member.name, word(state)),
            None => format!("{} gives no answer", member.name),
        })
        .collect();
    if details.is_empty() {
        details.push("it has no server pod".to_owned());
    }
    Leader::Nobody { detail: details.join(", ") }
}

fn word(state: HealthState) -> &'static str {
    match state {
        HealthState::Active => "active",
        HealthState::Standby => "a standby",
        HealthState::Sealed => "sealed",
        HealthState::Uninitialized => "not initialised",
        HealthState::Troubled => "in trouble",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::observe::tests::member;

    #[test]
    fn a_cluster_without_a_leader_says_what_its_servers_are() {
        use HealthState::{Sealed, Standby, Uninitialized};
        assert_eq!(nobody(&[member(0, Sealed, None), member(1, Sealed, None)]), Leader::Sealed);
        assert_eq!(nobody(&[member(0, Uninitialized, None)]), Leader::Uninitialized);
        let Leader::Nobody { detail } = nobody(&[member(0, Sealed, None), member(1, Standby, None)]) else { panic!() };
        assert_eq!(detail, "kelp-0 is sealed, kelp-1 is a standby");
        assert!(matches!(nobody(&[]), Leader::Nobody { .. }));
    }
}
