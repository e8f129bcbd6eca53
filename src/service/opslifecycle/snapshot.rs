//! The state of a cluster at one moment, as an operation's record keeps it: bounded, and never a secret.

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::saga::plan::hex;
use crate::{
    adapter::caches::Caches,
    api::{
        cluster::OpenBaoCluster,
        operation::{ClusterSnapshot, PodSnapshot},
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
