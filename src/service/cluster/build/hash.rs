//! When pods must be restarted: a digest of what the *spec* says about them.
//!
//! It is taken from the spec and not from what we render, so that a new operator version, which may render the same spec
//! differently, never restarts OpenBao by itself. Version and image are left out: changing those is an upgrade.

use crate::service::cluster::validate::ValidatedCluster;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Digest of everything in the spec that a running server would have to be restarted for.
pub fn config(cluster: &ValidatedCluster) -> String {
    let spec = &cluster.spec;
    let metrics =
        spec.observability.as_ref().and_then(|all| all.metrics.as_ref()).is_some_and(|metrics| metrics.enabled);
    let mut configuration = serde_json::to_value(&spec.configuration).unwrap_or_default();
    // Autopilot is configured through the API, without a restart.
    if let Some(all) = configuration.as_object_mut() {
        let emptied = all.get_mut("raft").and_then(serde_json::Value::as_object_mut).is_some_and(|raft| {
            raft.remove("autopilot");
            raft.is_empty()
        });
        if emptied {
            all.remove("raft");
        }
    }
    let inputs = json!({
        "configuration": configuration,
        "telemetry": spec.telemetry,
        "metrics": metrics,
        "unseal": spec.unseal,
        "tls": spec.tls.enabled,
        "pod": spec.pod,
        "securityContext": spec.security_context,
        "serviceAccount": cluster.service_account,
        "imagePullSecrets": spec.image_pull_secrets,
        "appArmor": spec.workload_hardening,
        "restartAt": spec.maintenance.restart_at,
    });
    digest(inputs.to_string().as_bytes())
}

/// Digest of a serving certificate.
pub fn certificate(pem: &str) -> String {
    digest(pem.as_bytes())
}

fn digest(bytes: &[u8]) -> String {
    let whole = Sha256::digest(bytes);
    let first: [u8; 8] = std::array::from_fn(|at| whole[at]);
    format!("{:016x}", u64::from_be_bytes(first))
}

#[cfg(test)]
mod tests {
    use super::config;
    use crate::service::cluster::validate::tests::valid;
    use serde_json::json;

    #[test]
    fn what_a_server_reads_at_its_start_changes_the_digest() {
        let before = config(&valid(|_| {}));
        for change in [
            ("configuration", json!({"logLevel": "debug"})),
            ("pod", json!({"resources": {"requests": {"cpu": "1"}}})),
            ("maintenance", json!({"restartAt": "now"})),
            ("unseal", json!({"type": "static", "static": {"currentKeyID": "other"}})),
        ] {
            assert_ne!(config(&valid(|s| s[change.0] = change.1.clone())), before, "{}", change.0);
        }
    }

    #[test]
    fn what_needs_no_restart_does_not() {
        let before = config(&valid(|_| {}));
        for change in [
            ("replicas", json!(5)),
            ("version", json!("2.7.1")),
            ("image", json!("elsewhere/openbao:2.7.2")),
            ("backup", json!({"target": {"provider": "file", "file": {"claimName": "b"}}})),
            ("service", json!({"type": "LoadBalancer"})),
            ("configuration", json!({"raft": {"autopilot": {"minQuorum": 3}}})),
        ] {
            assert_eq!(config(&valid(|s| s[change.0] = change.1.clone())), before, "{}", change.0);
        }
    }
}
