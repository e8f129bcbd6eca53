//! A cluster on 2.6.1 that a rollout can bring to 2.7.2.

use super::member::MemberFacts;
use crate::api::{OpenBaoCluster, OpenBaoClusterStatus};
use serde_json::json;
use std::sync::Arc;

/// The member of that name, with nothing done yet.
pub fn member(name: &str) -> MemberFacts {
    let mut cluster: OpenBaoCluster = serde_json::from_value(json!({
        "apiVersion": "openbao.org/v1alpha1",
        "kind": "OpenBaoCluster",
        "metadata": {"name": name, "namespace": "reef", "uid": format!("uid-{name}")},
        "spec": {
            "version": "2.6.1",
            "replicas": 3,
            "storage": {"size": "1Gi"},
            "tls": {"enabled": true, "mode": "OperatorManaged", "rotationPeriod": "720h"},
            "backup": {"target": {"provider": "file", "file": {"claimName": "backups"}}}
        }
    }))
    .unwrap();
    cluster.status = Some(OpenBaoClusterStatus {
        initialized: Some(true),
        current_version: Some("2.6.1".into()),
        ..OpenBaoClusterStatus::default()
    });
    MemberFacts {
        cluster: Some(Arc::new(cluster)),
        image: "bao:2.7.2".into(),
        running_image: "bao:2.6.1".into(),
        ..MemberFacts::default()
    }
}
