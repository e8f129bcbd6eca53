//! Which records tell of the data that is there. Pure.
//!
//! A cluster's records outlive it, those that a person made do so for good. Applied again under its name, a cluster finds either the
//! volumes of the one before it, and what was done to those is still so, or new ones, of which those records say nothing.

use crate::{
    api::{OpenBaoCluster, OpenBaoOperation},
    service::upgrade::request,
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use std::sync::Arc;

/// Without those that an earlier cluster of the name ended before the first of these volumes was made.
pub fn of_these_volumes(
    mut operations: Vec<Arc<OpenBaoOperation>>,
    cluster: &OpenBaoCluster,
    claims: &[Arc<PersistentVolumeClaim>],
) -> Vec<Arc<OpenBaoOperation>> {
    let first = claims.iter().filter_map(|claim| Some(claim.metadata.creation_timestamp.as_ref()?.0)).min();
    operations.retain(|operation| {
        let Some(status) = &operation.status else { return true };
        let is_ours = request::is_of(operation, cluster);
        let Some(ended) = status.ended_at.filter(|_| !is_ours) else { return true };
        first.is_some_and(|first| first.as_second() <= ended.timestamp())
    });
    operations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::cluster;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::ResourceExt;
    use serde_json::json;

    fn record(name: &str, uid: Option<&str>, ended: Option<&str>) -> Arc<OpenBaoOperation> {
        let mut record = OpenBaoOperation::new(
            name,
            serde_json::from_value(json!({"cluster": "kelp", "operation": "Rollback"})).unwrap(),
        );
        let status = json!({"phase": "Failed", "clusterUID": uid, "endedAt": ended});
        record.status = Some(serde_json::from_value(status).unwrap());
        Arc::new(record)
    }

    fn claim(made: &str) -> Arc<PersistentVolumeClaim> {
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.creation_timestamp = Some(Time(made.parse().unwrap()));
        Arc::new(claim)
    }

    #[test]
    fn records_of_an_earlier_namesake_count_as_long_as_its_volumes_are_there() {
        let mut cluster = cluster(|_| {});
        cluster.metadata.uid = Some("now".into());
        let records = || {
            vec![
                record("ours", Some("now"), Some("2026-11-20T09:00:00Z")),
                record("never-begun", None, Some("2026-11-20T09:00:00Z")),
                record("theirs", Some("before"), Some("2026-11-20T09:00:00Z")),
                record("theirs-at-work", Some("before"), None),
            ]
        };
        let names = |claims: &[Arc<PersistentVolumeClaim>]| -> Vec<String> {
            of_these_volumes(records(), &cluster, claims).iter().map(|record| record.name_any()).collect()
        };
        let all = ["ours", "never-begun", "theirs", "theirs-at-work"];
        let (older, newer) = (claim("2026-11-19T09:00:00Z"), claim("2026-11-21T09:00:00Z"));
        assert_eq!(names(&[newer.clone(), older]), all, "a volume that it worked on");
        assert_eq!(names(&[newer]), ["ours", "never-begun", "theirs-at-work"], "all are new");
        assert_eq!(names(&[]), ["ours", "never-begun", "theirs-at-work"], "none is left");
    }
}
