//! Gathers what [`super::decide::admit`] decides on. Only looks.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};

use super::decide::admit::{Cluster, Facts, Leader, Login, Need, NeedState, Source};
use super::steps::evidence;
use super::{half, plan, reach};
use crate::adapter::Adapters;
use crate::adapter::kubernetes::client::{RequestError, timed};
use crate::adapter::kubernetes::time::from_kube;
use crate::adapter::openbao::HealthState;
use crate::api::{BackupTarget, OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, Provider};
use crate::service::backup::{prune, store::Store};
use crate::service::cluster::members::{self, Member};
use crate::service::cluster::names;
use crate::service::cluster::observe;

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
    let (needs, leader, retention) =
        futures::join!(needs(ad, restore, target, cluster), leader(ad, cluster), retention_at_work(ad, restore));
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
        lacks_target: lacks_target(restore, cluster),
        source: Source {
            key: spec.source.key.clone(),
            latest: spec.source.latest,
            before: spec.source.before,
            target: refused,
        },
        // A cluster that is not there yet may name it.
        image: cluster.map_or(Ok(()), |cluster| {
            reach::image(restore, cluster, &ad.settings.operator_image).map(|_| ()).map_err(|error| error.to_string())
        }),
        cluster: cluster.map(cluster_facts),
        login: login(restore, cluster),
        needs: needs?,
        leader,
        retention: retention?,
    })
}

fn target_of<'a>(restore: &'a OpenBaoRestore, cluster: Option<&'a OpenBaoCluster>) -> Option<&'a BackupTarget> {
    let own = || Some(&cluster?.spec.backup.as_ref()?.target);
    restore.spec.source.target.as_ref().or_else(own)
}

/// A cluster that is not there yet may bring its own target.
fn lacks_target(restore: &OpenBaoRestore, cluster: Option<&OpenBaoCluster>) -> bool {
    restore.spec.pre_restore_backup == Some(true) && cluster.is_some_and(|cluster| cluster.spec.backup.is_none())
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
        half_restored: half::refusal(cluster),
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

/// A backup that may be removing the source right now. Its own journal says so, read afresh: a watch may lag behind just then.
async fn retention_at_work(ad: &Adapters, restore: &OpenBaoRestore) -> Result<Option<String>, Unread> {
    let could = ad
        .caches
        .operations
        .state_filter(|operation| !operation.has_ended() && prune::could_take_source(operation, restore));
    for known in could {
        let (namespace, name) = (known.namespace().unwrap_or_default(), known.name_any());
        let operations: Api<OpenBaoOperation> = Api::namespaced(ad.client.clone(), &namespace);
        let found = timed(operations.get_opt(&name)).await.map_err(|source| {
            let object = format!("OpenBaoOperation {namespace}/{name}");
            Unread { field: "spec.source", object, source }
        })?;
        if found.is_some_and(|operation| prune::is_at_work(&operation)) {
            return Ok(Some(told_to(restore, &known)));
        }
    }
    Ok(None)
}

/// A backup in the words of a restore's status: what goes on in another namespace is nobody's business there.
fn told_to(restore: &OpenBaoRestore, backup: &OpenBaoOperation) -> String {
    if backup.namespace() == restore.namespace() { backup.name_any() } else { "in another namespace".to_owned() }
}

async fn needs(
    ad: &Adapters,
    restore: &OpenBaoRestore,
    target: Option<&BackupTarget>,
    cluster: Option<&OpenBaoCluster>,
) -> Result<Vec<Need>, Unread> {
    let namespace = restore.namespace().unwrap_or_default();
    let clusters = ad.caches.clusters.state_filter(|known| known.namespace().as_deref() == Some(namespace.as_str()));
    let secrets = mounted(restore, target, cluster);
    let secrets = secrets.into_iter().map(|mounted| secret_need(ad, &namespace, mounted, &clusters));
    let claim = async {
        match target.and_then(|target| target.file.as_ref()).filter(|file| !file.claim_name.is_empty()) {
            Some(file) => {
                let same = |own: &BackupTarget| own.file.as_ref().is_some_and(|own| own.claim_name == file.claim_name);
                let given = target_given(restore, cluster, same);
                Some(claim_need(ad, &namespace, file.claim_name.clone(), given, &clusters).await)
            }
            None => None,
        }
    };
    let (secrets, claim) = futures::join!(join_all(secrets), claim);
    let account = target.zip(cluster).and_then(|(target, cluster)| account_need(ad, &namespace, target, cluster));
    secrets.into_iter().chain(claim).chain(account.map(Ok)).collect()
}

/// A Secret that the restore's Job mounts.
struct Mounted {
    field: &'static str,
    name: String,
    /// The data keys that it cannot do without.
    keys: Vec<&'static str>,
    /// The cluster's own spec gives it to Jobs too, so that nobody gets at it by this restore who did not before.
    given: bool,
}

fn mounted(restore: &OpenBaoRestore, target: Option<&BackupTarget>, cluster: Option<&OpenBaoCluster>) -> Vec<Mounted> {
    let backup = cluster.and_then(|cluster| cluster.spec.backup.as_ref());
    let token = restore.spec.token_secret_ref.as_ref().map(|secret| Mounted {
        field: "spec.tokenSecretRef",
        name: secret.name.clone(),
        keys: vec!["token"],
        given: backup.is_some_and(|backup| backup.token_secret_ref.as_ref() == Some(secret)),
    });
    let credentials = target.and_then(|target| {
        let secret = target.credentials_secret_ref.as_ref()?;
        Some(Mounted {
            field: "spec.source.target.credentialsSecretRef",
            name: secret.name.clone(),
            keys: credential_keys(target),
            given: target_given(restore, cluster, |own| own.credentials_secret_ref.as_ref() == Some(secret)),
        })
    });
    token.into_iter().chain(credentials).collect()
}

/// Whether what is named stands in the cluster's own target.
fn target_given(
    restore: &OpenBaoRestore,
    cluster: Option<&OpenBaoCluster>,
    names_it: impl Fn(&BackupTarget) -> bool,
) -> bool {
    let own = cluster.and_then(|cluster| cluster.spec.backup.as_ref());
    restore.spec.source.target.is_none() || own.is_some_and(|backup| names_it(&backup.target))
}

/// The account that the Job runs as has to carry what the source's cloud goes by. The cluster puts the annotations of its own
/// target there; those of another one are for the user to put.
fn account_need(ad: &Adapters, namespace: &str, target: &BackupTarget, cluster: &OpenBaoCluster) -> Option<Need> {
    let wanted = &target.workload_identity.as_ref()?.service_account_annotations;
    let own = cluster.spec.backup.as_ref().and_then(|backup| backup.target.workload_identity.as_ref());
    let account = names::restore_service_account(&cluster.name_any());
    let live = ad.caches.service_accounts.get(&ObjectRef::new(&account).within(namespace));
    let carried = [own.map(|own| &own.service_account_annotations), live.as_ref().map(|live| live.annotations())];
    Some(Need {
        field: "spec.source.target.workloadIdentity.serviceAccountAnnotations",
        object: format!("ServiceAccount {account}"),
        state: NeedState::Unannotated(lacking(wanted, &carried)?.to_owned()),
    })
}

/// The first annotation that is carried nowhere. One with another value is somebody's decision, and nobody could change it beside
/// the cluster; whether that identity may read the source the mover finds out.
fn lacking<'a>(wanted: &'a BTreeMap<String, String>, carried: &[Option<&BTreeMap<String, String>>]) -> Option<&'a str> {
    let is_there = |key: &str| carried.iter().flatten().any(|carried| carried.contains_key(key));
    wanted.keys().map(String::as_str).find(|key| !is_there(key))
}

/// The data keys without which a store's credentials cannot work. Azure takes one of two, which only the mover can tell. Where
/// the Job has an identity of its own the Secret may hold no more than a CA or a region, and what it needs is the mover's to say.
fn credential_keys(target: &BackupTarget) -> Vec<&'static str> {
    if target.role_arn.is_some() || target.workload_identity.is_some() {
        return Vec::new();
    }
    match target.provider {
        Provider::S3 => vec!["accessKeyId", "secretAccessKey"],
        Provider::Gcs => vec!["credentials.json"],
        Provider::Azure | Provider::File => Vec::new(),
    }
}

async fn secret_need(
    ad: &Adapters,
    namespace: &str,
    mounted: Mounted,
    clusters: &[Arc<OpenBaoCluster>],
) -> Result<Need, Unread> {
    let (field, object) = (mounted.field, format!("Secret {}", mounted.name));
    let secrets: Api<Secret> = Api::namespaced(ad.client.clone(), namespace);
    match timed(secrets.get_opt(&mounted.name)).await {
        Ok(found) => Ok(Need { field, object, state: judged(found, &mounted, clusters) }),
        Err(source) => Err(Unread { field, object, source }),
    }
}

fn judged(found: Option<Secret>, mounted: &Mounted, clusters: &[Arc<OpenBaoCluster>]) -> NeedState {
    let Some(secret) = found else { return NeedState::Missing };
    if let Some(cluster) = reach::key_of(&secret.metadata, clusters).filter(|_| !mounted.given) {
        return NeedState::Own(cluster);
    }
    let data = secret.data.unwrap_or_default();
    let lacking = mounted.keys.iter().find(|key| data.get(**key).is_none_or(|value| value.0.is_empty()));
    lacking.map_or(NeedState::Present, |key| NeedState::Lacks((*key).to_owned()))
}

async fn claim_need(
    ad: &Adapters,
    namespace: &str,
    name: String,
    given: bool,
    clusters: &[Arc<OpenBaoCluster>],
) -> Result<Need, Unread> {
    let (field, object) = ("spec.source.target.file.claimName", format!("PersistentVolumeClaim {name}"));
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ad.client.clone(), namespace);
    match timed(claims.get_metadata_opt(&name)).await {
        Ok(found) => {
            let state = found.map_or(NeedState::Missing, |claim| {
                let own = reach::data_of(&claim.metadata, clusters).filter(|_| !given);
                own.map_or(NeedState::Present, NeedState::Own)
            });
            Ok(Need { field, object, state })
        }
        Err(source) => Err(Unread { field, object, source }),
    }
}

async fn leader(ad: &Adapters, cluster: Option<&OpenBaoCluster>) -> Leader {
    let Some(cluster) = cluster else { return Leader::NotAsked };
    let members = observe::members(ad, cluster).await;
    if members::leader(&members).is_some() { Leader::Found } else { nobody(&members) }
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
    use serde_json::json;

    use crate::service::cluster::members::tests::member;

    #[test]
    fn a_secret_needs_keys_only_where_the_job_has_no_identity_of_its_own() {
        let keys = |target: serde_json::Value| credential_keys(&serde_json::from_value(target).unwrap());
        let secret = json!({"name": "pearl"});
        let given = json!({"bucket": "tide", "credentialsSecretRef": secret});
        assert_eq!(keys(given), ["accessKeyId", "secretAccessKey"]);
        let role = json!({"bucket": "tide", "roleArn": "arn:aws:iam::1:role/x", "credentialsSecretRef": secret});
        assert_eq!(keys(role), [""; 0], "it may hold no more than the store's CA");
        let account =
            json!({"provider": "gcs", "bucket": "tide", "workloadIdentity": {}, "credentialsSecretRef": secret});
        assert_eq!(keys(account), [""; 0]);
    }

    #[test]
    fn a_key_of_a_cluster_is_no_token_and_no_credential_of_a_restore_unless_the_clusters_spec_says_so() {
        let target = json!({"provider": "azure", "bucket": "tide", "azure": {"storageAccount": "x"},
            "credentialsSecretRef": {"name": "prod-unseal-key"}});
        let spec = json!({"cluster": "prod", "source": {"key": "a.snap", "target": target},
            "tokenSecretRef": {"name": "prod-root-token"}});
        let restore = OpenBaoRestore::new("r", serde_json::from_value(spec).unwrap());
        let spec = json!({"version": "2.7.2", "storage": {"size": "1Gi"},
            "backup": {"target": {"provider": "file", "file": {"claimName": "sand"}}}});
        let mut cluster = OpenBaoCluster::new("prod", serde_json::from_value(spec).unwrap());
        let states = |cluster: &OpenBaoCluster| -> Vec<NeedState> {
            let target = target_of(&restore, Some(cluster));
            let state = |mounted: Mounted| {
                let data = [("token".to_owned(), k8s_openapi::ByteString(b"x".to_vec()))].into();
                let metadata = kube::api::ObjectMeta { name: Some(mounted.name.clone()), ..Default::default() };
                let secret = Secret { metadata, data: Some(data), ..Secret::default() };
                judged(Some(secret), &mounted, &[Arc::new(cluster.clone())])
            };
            mounted(&restore, target, Some(cluster)).into_iter().map(state).collect()
        };
        let own = NeedState::Own("prod".to_owned());
        assert_eq!(states(&cluster), [own.clone(), own.clone()]);
        cluster.spec.backup.as_mut().unwrap().token_secret_ref.clone_from(&restore.spec.token_secret_ref);
        assert_eq!(states(&cluster), [NeedState::Present, own], "its Jobs have that token already, and not that key");
    }

    #[test]
    fn an_annotation_that_the_jobs_account_does_not_carry_is_named() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let wanted = map(&[("role", "a"), ("tenant", "t")]);
        assert_eq!(lacking(&wanted, &[Some(&wanted), None]), None);
        assert_eq!(lacking(&wanted, &[Some(&map(&[("tenant", "t")])), None]), Some("role"));
        assert_eq!(lacking(&wanted, &[Some(&map(&[("role", "a")])), Some(&map(&[("tenant", "t")]))]), None);
        assert_eq!(lacking(&map(&[]), &[None]), None, "nothing is asked for");
    }

    #[test]
    fn a_restore_says_nothing_of_backups_in_other_namespaces_but_that_there_is_one() {
        let mut backup = OpenBaoOperation::new("kelp-backup-1", crate::api::OpenBaoOperationSpec::default());
        backup.metadata.namespace = Some("reef".into());
        let mut restore = OpenBaoRestore::new("r", crate::api::OpenBaoRestoreSpec::default());
        restore.metadata.namespace = Some("reef".into());
        assert_eq!(told_to(&restore, &backup), "kelp-backup-1");
        restore.metadata.namespace = Some("lagoon".into());
        assert_eq!(told_to(&restore, &backup), "in another namespace");
    }

    #[test]
    fn an_annotation_with_another_value_is_left_to_whoever_put_it_there() {
        let of = |role: &str| BTreeMap::from([("role".to_owned(), role.to_owned())]);
        assert_eq!(lacking(&of("a"), &[Some(&of("b")), None]), None, "the cluster's own identity may read there too");
        assert_eq!(lacking(&of("a"), &[None, Some(&of("b"))]), None);
    }

    #[test]
    fn a_safety_backup_lacks_a_target_where_it_is_demanded_and_the_cluster_has_none() {
        let mut restore = OpenBaoRestore::new("r", crate::api::OpenBaoRestoreSpec::default());
        let mut cluster = OpenBaoCluster::new("kelp", crate::api::OpenBaoClusterSpec::default());
        assert!(!lacks_target(&restore, Some(&cluster)), "by default none is taken then");
        restore.spec.pre_restore_backup = Some(true);
        assert!(lacks_target(&restore, Some(&cluster)));
        assert!(!lacks_target(&restore, None));
        cluster.spec.backup = Some(crate::api::BackupSpec::default());
        assert!(!lacks_target(&restore, Some(&cluster)));
    }

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
