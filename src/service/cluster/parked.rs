//! What a parked upgrade keeps waiting. Pure.
//!
//! A member that is parked in a rollout may stay so for as long as the rollout takes, and nothing else restarts its servers
//! meanwhile: one that leads would come back on the new version. So a certificate that was renewed lies there and is not read.

use super::{build::statefulset::CERTIFICATE_HASH, facts::Facts, trouble::Trouble};
use crate::api::{LockMode, OpenBaoClusterStatus};
use kube::ResourceExt;

/// Servers go on with a certificate for which there is a newer one.
pub const CERTIFICATE_WAITS: &str = "CertificateWaits";

/// Which servers serve an older certificate than the one that lies there for them, while a parked upgrade keeps upkeep from
/// restarting them. `current` is the digest of that one.
pub fn older_certificate(status: &OpenBaoClusterStatus, facts: &Facts, current: Option<&str>) -> Option<Trouble> {
    let lock = status.operation_lock.as_ref().filter(|lock| lock.mode == LockMode::Parked)?;
    let current = current?;
    let is_older = |digest: Option<&String>| digest.is_some_and(|digest| digest != current);
    let older = facts.pods.values().filter(|pod| is_older(pod.annotations().get(CERTIFICATE_HASH)));
    let names: Vec<String> = older.map(|pod| pod.name_any()).collect();
    if names.is_empty() {
        return None;
    }
    let operation = lock.operation_ref.as_deref().unwrap_or(&lock.holder);
    Some(Trouble::new(
        CERTIFICATE_WAITS,
        format!(
            "the serving certificate was renewed and is not served yet by {}: no server is restarted while {operation} of {} is parked. Let it go on, or turn it back, before the old certificate ends and clients are refused",
            names.join(", "),
            lock.holder
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;
    use std::sync::Arc;

    fn locked(mode: &str) -> OpenBaoClusterStatus {
        let lock = json!({"operation": "Upgrade", "holder": "openbaorollout/wave", "holderUID": "u", "fence": 3,
            "operationRef": "kelp-rollout-01234567-1", "mode": mode, "acquiredAt": "2026-11-21T09:00:00Z", "renewedAt": "2026-11-21T09:00:00Z"});
        OpenBaoClusterStatus {
            operation_lock: Some(serde_json::from_value(lock).unwrap()),
            ..OpenBaoClusterStatus::default()
        }
    }

    fn serving(digests: &[Option<&str>]) -> Facts {
        let pods = (0..).zip(digests).map(|(ordinal, digest)| {
            let mut pod = Pod::default();
            pod.metadata.name = Some(format!("kelp-{ordinal}"));
            pod.metadata.annotations = digest.map(|digest| [(CERTIFICATE_HASH.to_owned(), digest.to_owned())].into());
            (ordinal, Arc::new(pod))
        });
        Facts { pods: pods.collect(), ..Facts::default() }
    }

    #[test]
    fn servers_that_a_parked_upgrade_keeps_from_a_newer_certificate_are_named_with_it() {
        let facts = serving(&[Some("old"), Some("old"), Some("new")]);
        let told = older_certificate(&locked("Parked"), &facts, Some("new")).expect("somebody has to know in time");
        let words = &told.message;
        assert!(words.contains("by kelp-0, kelp-1:") && !words.contains("kelp-2"), "{words}");
        assert!(words.contains("kelp-rollout-01234567-1") && words.contains("openbaorollout/wave"), "{words}");
        assert_eq!(older_certificate(&locked("Held"), &facts, Some("new")), None, "it goes on by itself");
        assert_eq!(
            older_certificate(&OpenBaoClusterStatus::default(), &facts, Some("new")),
            None,
            "upkeep restarts them"
        );
        assert_eq!(older_certificate(&locked("Parked"), &serving(&[Some("new"), None]), Some("new")), None);
        assert_eq!(older_certificate(&locked("Parked"), &facts, None), None, "plain HTTP");
    }
}
