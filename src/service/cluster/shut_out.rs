//! What a cluster is told when the operator may not watch everything that it is made of: a right is missing in its
//! namespace, or a kind in its Kubernetes. Nothing is reconciled then, because half of the facts would be no facts.

use chrono::{DateTime, Utc};
use kube::Client;

use super::{
    plane, status,
    trouble::{Trouble, reasons::ACCESS_MISSING},
};
use crate::{
    adapter::caches::{Caches, NotFilled},
    api::{OpenBaoCluster, OpenBaoClusterStatus},
};

/// Says so on every cluster that can be seen, once. The first look after the right was given takes it back. A list that
/// is only late is nothing to tell a thousand clusters.
pub async fn tell(client: &Client, caches: &Caches, missing: &NotFilled) {
    if !matches!(missing, NotFilled::Refused { .. }) {
        return;
    }
    for cluster in caches.clusters.state() {
        let Some(next) = told(&cluster, missing, Utc::now()) else { continue };
        if let Err(error) = plane::write(client, &cluster, &next).await {
            tracing::warn!(error = crate::causes::chain(&error), "a cluster could not be told what is missing");
        }
    }
}

/// The status that says so; `None` if it does already.
fn told(cluster: &OpenBaoCluster, missing: &NotFilled, now: DateTime<Utc>) -> Option<OpenBaoClusterStatus> {
    let message = format!("the operator does nothing here: {missing}. It goes on by itself once it can");
    let next = status::degraded(cluster, &Trouble::new(ACCESS_MISSING, message), now);
    let before = cluster.status.clone().unwrap_or_default();
    (status::plane(&next) != status::plane(&before)).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::cluster;

    #[test]
    fn a_cluster_is_told_once_and_keeps_all_else_that_it_said() {
        let now = Utc::now();
        let mut object = cluster(|_| {});
        object.status = Some(OpenBaoClusterStatus { initialized: Some(true), ..OpenBaoClusterStatus::default() });
        let missing = NotFilled::Refused { kind: "Pod".into(), refusal: "pods is forbidden".to_owned() };
        let next = told(&object, &missing, now).expect("it was not told yet");
        assert_eq!(next.initialized, Some(true));
        let degraded = next.conditions.iter().find(|one| one.type_ == "Degraded").expect("the condition");
        assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", ACCESS_MISSING));
        assert!(degraded.message.contains("may not list Pod: pods is forbidden"), "{}", degraded.message);
        object.status = Some(next);
        assert!(told(&object, &missing, now + chrono::TimeDelta::hours(1)).is_none());
    }
}
