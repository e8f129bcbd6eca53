//! What the server of a restore test has of a member: its user, its seal, a place to write. Nothing by which it could find the
//! living cluster, or be found.

use super::statefulset;
use crate::service::cluster::validate::ValidatedCluster;
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, PodSecurityContext, SecurityContext, Volume, VolumeMount};

/// The volumes of a member that a test has too.
const SHARED: [&str; 3] = ["tmp", "unseal", "seal-credentials"];
/// The variables of a member that a test has too, beside the credentials of its seal.
const PLAIN: [&str; 2] = ["TMPDIR", "HOME"];

/// Pieces of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pieces {
    pub env: Vec<EnvVar>,
    pub env_from: Option<Vec<EnvFromSource>>,
    pub mounts: Vec<VolumeMount>,
    pub volumes: Vec<Volume>,
    pub pod_security: PodSecurityContext,
    pub security: SecurityContext,
}

/// Takes them from what a member is made of.
pub fn pieces(cluster: &ValidatedCluster) -> Pieces {
    let mut env = statefulset::environment(cluster);
    env.retain(|variable| {
        let of_secret = variable.value_from.as_ref().is_some_and(|from| from.secret_key_ref.is_some());
        of_secret || PLAIN.contains(&variable.name.as_str())
    });
    let mut mounts = statefulset::mounts(cluster);
    mounts.retain(|mount| SHARED.contains(&mount.name.as_str()));
    let mut volumes = statefulset::volumes(cluster);
    volumes.retain(|volume| SHARED.contains(&volume.name.as_str()));
    Pieces {
        env,
        env_from: statefulset::environment_from(cluster),
        mounts,
        volumes,
        pod_security: cluster.spec.security_context.clone().unwrap_or_else(statefulset::security),
        security: statefulset::container_security(cluster),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use serde_json::json;

    fn names(pieces: &Pieces) -> (Vec<&str>, Vec<&str>) {
        let volumes = pieces.volumes.iter().map(|volume| volume.name.as_str()).collect();
        (volumes, pieces.env.iter().map(|variable| variable.name.as_str()).collect())
    }

    #[test]
    fn a_tests_server_has_its_seal_and_nothing_that_leads_to_the_members() {
        let pieces = pieces(&valid(|_| {}));
        assert_eq!(names(&pieces), (vec!["tmp", "unseal"], vec!["TMPDIR", "HOME"]));
        assert_eq!(pieces.mounts.len(), 2);
        assert_eq!((pieces.pod_security.run_as_user, pieces.env_from), (Some(100), None));
    }

    #[test]
    fn the_credentials_of_another_seal_come_along() {
        let seal = json!({"type": "gcpckms", "gcpCloudKMS": {"project": "p", "region": "r", "keyRing": "kr", "cryptoKey": "ck"},
            "credentialsSecretRef": {"name": "gcp"}});
        let pieces = pieces(&valid(|s| s["unseal"] = seal));
        assert_eq!(names(&pieces).0, ["tmp", "seal-credentials"]);
        assert_eq!(pieces.env_from.unwrap().len(), 1);
    }
}
