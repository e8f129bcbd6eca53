//! What a restore may reach: less than whoever may read the Secrets of its namespace. Its Job runs no image that neither the
//! cluster's spec nor the operator names, and mounts no key and no volume that is a cluster's own. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::api::{BackupSpec, OpenBaoCluster, OpenBaoRestore, SealType};
use crate::service::cluster::{build::secrets::seal_credentials_name, names};

/// An image that a restore may not choose.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "spec.image {0} is neither the cluster's spec.backup.image nor the operator's own, and no other one is given what the \
     restore's Job mounts: leave spec.image out, or set the cluster's spec.backup.image to it first. Once the cluster has a \
     spec.backup, a restore takes a safety backup of its present data first, empty as they may be: say preRestoreBackup: false \
     where that is not wanted"
)]
pub struct ForeignImage(String);

/// The image of the restore's Job.
pub fn image<'a>(
    restore: &'a OpenBaoRestore,
    cluster: &'a OpenBaoCluster,
    operator: &'a str,
) -> Result<&'a str, ForeignImage> {
    let of_cluster = cluster.spec.backup.as_ref().and_then(BackupSpec::job_image);
    match restore.spec.job_image() {
        None => Ok(of_cluster.unwrap_or(operator)),
        Some(named) if named == operator || Some(named) == of_cluster => Ok(named),
        Some(named) => Err(ForeignImage(named.to_owned())),
    }
}

/// The cluster whose key this Secret is. `clusters`: all of its namespace.
pub fn key_of<C: AsRef<OpenBaoCluster>>(secret: &ObjectMeta, clusters: &[C]) -> Option<String> {
    let name = secret.name.as_deref().unwrap_or_default();
    let made = |of: &str| keys_of(of).iter().chain([&seal_credentials_name(of)]).any(|own| own == name);
    made_for(secret, made).or_else(|| named(clusters, |cluster| is_key(cluster, name)))
}

/// The cluster whose data lies in this claim. `clusters`: all of its namespace.
pub fn data_of<C: AsRef<OpenBaoCluster>>(claim: &ObjectMeta, clusters: &[C]) -> Option<String> {
    let name = claim.name.as_deref().unwrap_or_default();
    let is_data = |of: &str| names::ordinal_of_claim(of, name).is_some();
    made_for(claim, is_data).or_else(|| named(clusters, |cluster| is_data(&cluster.name_any())))
}

/// Whatever the operator makes of these kinds is a key or data, also when the cluster is gone. The label alone says nothing: it comes
/// along where somebody copies such an object under a name of their own. `made`: whether the operator gives that name for a cluster.
fn made_for(object: &ObjectMeta, made: impl Fn(&str) -> bool) -> Option<String> {
    let label = |labels: &BTreeMap<String, String>, name: &str| labels.get(name).cloned();
    let labels = object.labels.as_ref()?;
    label(labels, names::MANAGED_BY_LABEL).filter(|by| by == names::MANAGER)?;
    label(labels, names::CLUSTER_LABEL).filter(|cluster| made(cluster))
}

fn named<C: AsRef<OpenBaoCluster>>(clusters: &[C], is_own: impl Fn(&OpenBaoCluster) -> bool) -> Option<String> {
    clusters.iter().map(AsRef::as_ref).find(|cluster| is_own(cluster)).map(ResourceExt::name_any)
}

/// By its name: a Secret that somebody else fills (a certificate, a key of the user's own) carries no label of ours.
fn is_key(cluster: &OpenBaoCluster, secret: &str) -> bool {
    let unseal = &cluster.spec.unseal;
    let theirs = unseal.credentials_secret_ref.as_ref().filter(|_| unseal.type_ == SealType::Static);
    keys_of(&cluster.name_any()).iter().any(|own| own == secret) || theirs.is_some_and(|key| key.name == secret)
}

/// The Secrets that hold a cluster's keys, whoever fills them.
fn keys_of(cluster: &str) -> [String; 4] {
    [
        names::unseal_secret(cluster),
        names::root_token_secret(cluster),
        names::ca_secret(cluster),
        names::server_secret(cluster),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn cluster(name: &str, more: &Value) -> Arc<OpenBaoCluster> {
        let mut spec = json!({"version": "2.7.2", "storage": {"size": "1Gi"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Arc::new(OpenBaoCluster::new(name, serde_json::from_value(spec).unwrap()))
    }

    fn object(name: &str) -> ObjectMeta {
        ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
    }

    #[test]
    fn a_restore_chooses_no_image_that_its_cluster_and_the_operator_do_not_name() {
        let target = json!({"provider": "file", "file": {"claimName": "tide"}});
        let own = cluster("kelp", &json!({"backup": {"target": target, "image": "mirror/operator:1"}}));
        let plain = cluster("kelp", &json!({"backup": {"target": target}}));
        let of = |named: Option<&str>, cluster: &OpenBaoCluster| {
            let mut restore = OpenBaoRestore::new("r", crate::api::OpenBaoRestoreSpec::default());
            restore.spec.image = named.map(str::to_owned);
            image(&restore, cluster, "operator:1").map(str::to_owned).map_err(|error| error.to_string())
        };
        assert_eq!(of(None, &own).as_deref(), Ok("mirror/operator:1"));
        assert_eq!(of(None, &plain).as_deref(), Ok("operator:1"));
        assert_eq!(of(Some("mirror/operator:1"), &own).as_deref(), Ok("mirror/operator:1"));
        assert_eq!(of(Some("operator:1"), &own).as_deref(), Ok("operator:1"));
        let refusal = of(Some("evil"), &own).unwrap_err();
        assert!(refusal.contains("spec.image evil") && refusal.contains("spec.backup.image"), "{refusal}");
        assert!(of(Some("mirror/operator:1"), &plain).is_err());
        assert!(refusal.contains("preRestoreBackup: false"), "the way out adds a target: {refusal}");
    }

    #[test]
    fn the_keys_and_volumes_of_every_cluster_of_the_namespace_are_told_from_what_people_made() {
        let brings = json!({"unseal": {"type": "static", "credentialsSecretRef": {"name": "brought"}}});
        let cloud = json!({"unseal": {"type": "awskms", "credentialsSecretRef": {"name": "cloud"}}});
        let clusters = [cluster("kelp", &json!({})), cluster("coral", &brings), cluster("reed", &cloud)];
        for key in ["kelp-unseal-key", "kelp-root-token", "kelp-tls-ca", "kelp-tls-server"] {
            assert_eq!(key_of(&object(key), &clusters).as_deref(), Some("kelp"), "{key}");
        }
        assert_eq!(key_of(&object("brought"), &clusters).as_deref(), Some("coral"));
        // The cloud that unseals may be the one that stores.
        for other in ["cloud", "mussel-root-token", "backup-credentials", ""] {
            assert_eq!(key_of(&object(other), &clusters), None, "{other}");
        }
        assert_eq!(data_of(&object("data-coral-2"), &clusters).as_deref(), Some("coral"));
        for other in ["data-coral-x", "data-mussel-0", "tide"] {
            assert_eq!(data_of(&object(other), &clusters), None, "{other}");
        }
    }

    #[test]
    fn what_a_cluster_leaves_behind_stays_its_own() {
        let left = |name: &str| ObjectMeta { labels: Some(names::labels("gone")), ..object(name) };
        let nobody: [Arc<OpenBaoCluster>; 0] = [];
        for name in ["gone-unseal-key", "gone-root-token", "gone-tls-ca", "gone-tls-server", "gone-seal-credentials"] {
            assert_eq!(key_of(&left(name), &nobody).as_deref(), Some("gone"), "{name}");
        }
        assert_eq!(data_of(&left("data-gone-0"), &nobody).as_deref(), Some("gone"));
        let mut theirs = left("gone-unseal-key");
        theirs.labels.as_mut().unwrap().insert(names::MANAGED_BY_LABEL.into(), "Helm".into());
        assert_eq!(key_of(&theirs, &nobody), None, "somebody's own label on somebody's own Secret");
    }

    #[test]
    fn a_copy_under_a_name_of_ones_own_may_be_named_although_the_labels_came_along() {
        let clusters = [cluster("kelp", &json!({}))];
        for of in ["kelp", "gone"] {
            let copy = |name: &str| ObjectMeta { labels: Some(names::labels(of)), ..object(name) };
            assert_eq!(key_of(&copy("token-from-the-old-cluster"), &clusters), None);
            assert_eq!(data_of(&copy("backups-of-before"), &clusters), None);
        }
    }
}
