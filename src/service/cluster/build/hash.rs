//! When pods must be restarted: a digest of what the *spec* says about them.
//!
//! It is taken from the spec and not from what we render, so that a new operator version, which may render the same spec
//! differently, never restarts OpenBao by itself. Version and image are left out: changing those is an upgrade.

use crate::service::cluster::validate::ValidatedCluster;
use serde_json::json;
use sha2::{Digest, Sha256};

/// The `restartAt` that the digest speaks of: the spec's, or without one the last that was carried out, so that taking it out of
/// the spec asks for nothing. `live` is the digest of now: one that never spoke of any goes on so.
pub fn restart(cluster: &ValidatedCluster, carried_out: Option<&str>, live: Option<&str>) -> Option<String> {
    let asked = cluster.spec.maintenance.restart_at.clone();
    let silent = || live.is_some_and(|live| live == config(cluster, None));
    asked.or_else(|| carried_out.filter(|_| !silent()).map(str::to_owned))
}

/// Digest of everything in the spec that a running server would have to be restarted for. `restart_at`: see [`restart`].
pub fn config(cluster: &ValidatedCluster, restart_at: Option<&str>) -> String {
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
    let mut inputs = json!({
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
        "restartAt": restart_at,
    });
    // Only where there is any: servers that run without one are not to restart because this can be said now.
    if !spec.audit.is_empty() {
        inputs["audit"] = json!(spec.audit);
    }
    if !spec.plugins.is_empty() {
        inputs["plugins"] = json!(spec.plugins);
    }
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
    use super::{config as digest, restart};
    use crate::service::cluster::validate::{ValidatedCluster, tests::valid};
    use serde_json::json;

    fn config(cluster: &ValidatedCluster) -> String {
        digest(cluster, restart(cluster, None, None).as_deref())
    }

    #[test]
    fn taking_back_a_restart_that_was_carried_out_restarts_nothing() {
        let asks = valid(|s| s["maintenance"] = json!({"restartAt": "noon"}));
        let plain = valid(|_| {});
        let made = config(&asks);
        let now = |cluster: &ValidatedCluster, live: &str| {
            digest(cluster, restart(cluster, Some("noon"), Some(live)).as_deref())
        };
        assert_eq!(now(&plain, &made), made, "as it was carried out");
        let silent = config(&plain);
        assert_ne!(silent, made);
        assert_eq!(now(&plain, &silent), silent, "its pods were made when absence meant none");
        let again = valid(|s| s["maintenance"] = json!({"restartAt": "midnight"}));
        assert_ne!(now(&again, &made), made, "another one is another restart");
        let changed = valid(|s| s["configuration"] = json!({"logLevel": "debug"}));
        assert_ne!(now(&changed, &made), made);
    }

    #[test]
    fn what_a_server_reads_at_its_start_changes_the_digest() {
        let before = config(&valid(|_| {}));
        for change in [
            ("configuration", json!({"logLevel": "debug"})),
            ("pod", json!({"resources": {"requests": {"cpu": "1"}}})),
            ("maintenance", json!({"restartAt": "now"})),
            ("unseal", json!({"type": "static", "static": {"currentKeyID": "other"}})),
            ("audit", json!([{"type": "file", "path": "log", "fileOptions": {"filePath": "stdout"}}])),
            (
                "plugins",
                json!([{"type": "secret", "name": "p", "version": "v1.0.0", "binaryName": "p", "command": "p",
                    "sha256sum": "0".repeat(64)}]),
            ),
        ] {
            assert_ne!(config(&valid(|s| s[change.0] = change.1.clone())), before, "{}", change.0);
        }
    }

    #[test]
    fn what_was_not_there_when_servers_began_restarts_none_of_them_by_its_absence() {
        let bare = config(&valid(|_| {}));
        for field in ["audit", "plugins"] {
            assert_eq!(config(&valid(|s| s[field] = json!([]))), bare, "{field}");
        }
        let device = |path: &str| json!([{"type": "file", "path": path, "fileOptions": {"filePath": "stdout"}}]);
        let [one, other] = ["log", "kept"].map(|path| config(&valid(|s| s["audit"] = device(path))));
        assert_ne!(one, other);
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
