//! The state of a cluster at one moment, as an operation's record keeps it: bounded, and never a secret.

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::{preflight, saga::plan::hex};
use crate::{
    adapter::caches::Caches,
    api::{
        cluster::OpenBaoCluster,
        operation::{ClusterSnapshot, OpenBaoOperation, OpenBaoOperationStatus, PodSnapshot},
    },
};

/// More servers than this are not recorded one by one.
const MOST_PODS: usize = 16;

/// What the cluster's object and the watches say about it now.
pub fn of(cluster: &OpenBaoCluster, caches: &Caches, now: DateTime<Utc>) -> ClusterSnapshot {
    let status = cluster.status.clone().unwrap_or_default();
    let namespace = cluster.namespace().unwrap_or_default();
    let mut pods = caches.pods_of(&namespace, &cluster.name_any());
    // Servers, not the pods of Jobs.
    pods.retain(|pod| pod.labels().get(crate::adapter::caches::OPERATION_LABEL).is_none());
    pods.sort_by_key(|pod| pod.name_any());
    let pods = pods
        .iter()
        .take(MOST_PODS)
        .map(|pod| {
            let name = pod.name_any();
            let pod = pod.status.clone().unwrap_or_default();
            let image = pod.container_statuses.unwrap_or_default().first().map(|container| container.image_id.clone());
            let ready =
                pod.conditions.unwrap_or_default().iter().any(|one| one.type_ == "Ready" && one.status == "True");
            let member = status.members.iter().find(|member| member.name == name);
            PodSnapshot {
                image: image.filter(|image| !image.is_empty()),
                ready,
                state: member.map(|member| format!("{:?}", member.state)),
                version: member.and_then(|member| member.version.clone()),
                voter: member.and_then(|member| member.voter),
                name,
            }
        })
        .collect();
    // Only the hash of the spec is kept: self-init requests may hold secrets.
    let spec = serde_json::to_vec(&cluster.spec).unwrap_or_default();
    ClusterSnapshot {
        at: now,
        generation: cluster.metadata.generation,
        spec_hash: Some(hex(&Sha256::digest(spec))),
        phase: status.phase.map(|phase| format!("{phase:?}")),
        version: status.current_version,
        leader: status.active_leader,
        seal_type: Some(cluster.spec.unseal.type_.as_str().to_owned()),
        seal_key_id: cluster.spec.unseal.static_.as_ref().and_then(|seal| seal.current_key_id.clone()),
        pods,
        last_backup: status.backup.and_then(|backup| backup.last_key),
    }
}

/// What was `seen` of the cluster when `op` was about to end well. Its status counts what has ended, so of this one it does not know
/// yet: the version that it brought, and the backup that it took.
pub fn after(
    op: &OpenBaoOperation,
    journal: &OpenBaoOperationStatus,
    cluster: &OpenBaoCluster,
    seen: ClusterSnapshot,
) -> ClusterSnapshot {
    let upgrade = cluster.status.as_ref().and_then(|status| status.upgrade.as_ref());
    let own = upgrade.filter(|upgrade| upgrade.operation == op.metadata.name);
    let brought = own.and_then(|upgrade| Some(upgrade.directive.as_ref()?.version.clone()));
    let artifacts = journal.artifacts.as_ref().filter(|_| preflight::takes_backup(op));
    let took = artifacts.and_then(|artifacts| artifacts.key.clone());
    ClusterSnapshot { version: brought.or(seen.version), last_backup: took.or(seen.last_backup), ..seen }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::cluster::OpenBaoClusterSpec;
    use serde_json::json;

    #[test]
    fn the_state_after_an_operation_names_the_version_that_it_brought_and_the_backup_that_it_took() {
        let mut cluster = OpenBaoCluster::new("kelp", OpenBaoClusterSpec::default());
        cluster.status = Some(
            serde_json::from_value(json!({"currentVersion": "2.6.1", "upgrade": {"operation": "up",
                "directive": {"version": "2.7.2", "image": "bao:2.7.2"}}}))
            .unwrap(),
        );
        let seen = ClusterSnapshot {
            version: Some("2.6.1".into()),
            last_backup: Some("old.snap".into()),
            ..ClusterSnapshot::default()
        };
        let journal: OpenBaoOperationStatus =
            serde_json::from_value(json!({"artifacts": {"key": "new.snap"}})).unwrap();
        let of = |name: &str, kind: &str, parameters: serde_json::Value| {
            let spec = json!({"cluster": "kelp", "operation": kind, "parameters": parameters});
            let op = OpenBaoOperation::new(name, serde_json::from_value(spec).unwrap());
            let post = after(&op, &journal, &cluster, seen.clone());
            (post.version.unwrap(), post.last_backup.unwrap())
        };
        let told = |version: &str, backup: &str| (version.to_owned(), backup.to_owned());
        assert_eq!(of("up", "Upgrade", json!({})), told("2.7.2", "old.snap"));
        assert_eq!(of("b", "Backup", json!({})), told("2.6.1", "new.snap"), "taken while the upgrade is parked");
        assert_eq!(of("v", "Backup", json!({"mode": "Verify"})), told("2.6.1", "old.snap"));
        assert_eq!(of("r", "Restore", json!({})), told("2.6.1", "old.snap"), "what went in is no backup of it");
    }
}
