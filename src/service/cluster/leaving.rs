//! What a deletion waits for. The watches know it, so waiting asks the API server nothing; and what lasts is told, because nobody
//! looks at the conditions of an object that should be gone unless something says so.

use super::{
    facts::Facts,
    names, plane, status,
    trouble::{Trouble, reasons},
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            events::{News, Severity},
            time::from_kube,
        },
    },
    api::{OpenBaoCluster, conditions::cluster as kind},
    causes::chain,
};
use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use std::{collections::BTreeMap, time::Duration};

/// Between two looks.
const SOON: Duration = Duration::from_secs(1);
/// What takes longer than this waits for somebody.
const LASTING: Duration = Duration::from_secs(120);
/// How often it is looked at then. Whatever goes wakes the cluster all the same.
const LASTING_PACE: Duration = Duration::from_secs(15);

/// For how long a cluster has been going.
pub(super) fn lasted(cluster: &OpenBaoCluster, now: DateTime<Utc>) -> Duration {
    let since = cluster.metadata.deletion_timestamp.as_ref().map_or(now, from_kube);
    (now - since).to_std().unwrap_or_default()
}

/// When to look again.
pub(super) fn pace(lasted: Duration) -> Duration {
    if lasted < LASTING { SOON } else { LASTING_PACE }
}

/// What of a cluster is still there.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// In words.
    what: Vec<String>,
    /// Some of it is still to be asked to go.
    stays: bool,
}

impl Left {
    /// As the watches know it.
    pub(super) fn of(facts: &Facts, cluster: &str) -> Self {
        let mut left = Self::default();
        if let Some(set) = facts.stateful_set.as_deref().filter(|set| is_of(*set, cluster)) {
            left.adds("StatefulSet", set, "");
            left.stays = set.metadata.deletion_timestamp.is_none();
        }
        // While it is there it makes pods, and pods make claims.
        let closed = left.what.is_empty();
        for pod in facts.pods.values().map(AsRef::as_ref).filter(|pod: &&Pod| is_of(*pod, cluster)) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
            // Kubernetes collects them with their StatefulSet.
            left.adds("pod", pod, node);
        }
        let claims = facts.claims.values().map(AsRef::as_ref);
        for claim in claims.filter(|claim: &&PersistentVolumeClaim| is_of(*claim, cluster)) {
            left.adds("volume claim", claim, "");
            left.stays |= closed && claim.metadata.deletion_timestamp.is_none();
        }
        left
    }

    fn adds(&mut self, kind: &str, object: &impl ResourceExt, node: &str) {
        let going = object.meta().deletion_timestamp.as_ref();
        let since =
            going.map(|at| format!("terminating since {}", from_kube(at).to_rfc3339_opts(SecondsFormat::Secs, true)));
        let held = object.finalizers();
        let held = (!held.is_empty()).then(|| format!("finalizers {}", held.join(", ")));
        let node = (!node.is_empty()).then(|| format!("on node {node}"));
        let details: Vec<String> = [node, since, held].into_iter().flatten().collect();
        let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
        self.what.push(format!("{kind} {}{details}", object.name_any()));
    }

    /// Whether there is nothing to do but to wait.
    pub(super) fn only_goes(&self) -> bool {
        !self.what.is_empty() && !self.stays
    }

    /// Whether it should be told by now.
    pub(super) fn lasts(&self, lasted: Duration) -> bool {
        !self.what.is_empty() && lasted >= LASTING
    }

    fn words(&self) -> String {
        format!(
            "the deletion waits for {}. A pod on a node that is gone goes with its Node object; a claim that a pod mounts, with \
             that pod; anything else when whoever set its finalizers takes them off",
            self.what.join("; ")
        )
    }
}

fn is_of(object: &impl ResourceExt, cluster: &str) -> bool {
    object.labels().get(names::CLUSTER_LABEL).is_some_and(|of| of == cluster)
}

/// Says what the deletion waits for: by an event once, and by a condition that changes with it.
pub(super) async fn tell(ad: &Adapters, cluster: &OpenBaoCluster, left: &Left) {
    let waits = Trouble::new(reasons::DELETION_WAITS, left.words());
    let before = cluster.status.clone().unwrap_or_default();
    let next = status::progressing(cluster, &waits, Utc::now());
    if status::plane(&next) == status::plane(&before) {
        return;
    }
    if let Err(error) = plane::write(&ad.client, cluster, &next).await {
        // The next look tells it again, if there is one.
        tracing::debug!(error = chain(&error), "what the deletion waits for could not be told");
        return;
    }
    let is_known =
        before.conditions.iter().any(|known| known.type_ == kind::PROGRESSING && known.reason == waits.reason);
    if !is_known {
        let news = News {
            severity: Severity::Warning,
            reason: waits.reason.to_owned(),
            action: "Delete".to_owned(),
            note: waits.message,
            annotations: BTreeMap::new(),
        };
        ad.events.publish(cluster, news).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::cluster;
    use k8s_openapi::api::apps::v1::StatefulSet;
    use serde_json::{Value, json};
    use std::sync::Arc;

    const SINCE: &str = "2026-11-21T09:00:00Z";

    fn metadata(name: &str, going: bool) -> Value {
        json!({"name": name, "labels": {names::CLUSTER_LABEL: "kelp"}, "deletionTimestamp": going.then_some(SINCE),
            "finalizers": if name.starts_with("data-") { json!(["kubernetes.io/pvc-protection"]) } else { json!(null) }})
    }

    /// A StatefulSet, a pod and a claim, each there or not, and going or not.
    fn left(set: Option<bool>, pod: Option<bool>, claim: Option<bool>) -> Left {
        let set = set.map(|going| json!({"metadata": metadata("kelp", going)}));
        let pod = pod
            .map(|going| json!({"metadata": metadata("kelp-1", going), "spec": {"containers": [], "nodeName": "n3"}}));
        let claim = claim.map(|going| json!({"metadata": metadata("data-kelp-1", going)}));
        let facts = Facts {
            stateful_set: set.map(|set| Arc::new(serde_json::from_value::<StatefulSet>(set).unwrap())),
            pods: pod.map(|pod| (1, Arc::new(serde_json::from_value::<Pod>(pod).unwrap()))).into_iter().collect(),
            claims: claim
                .map(|claim| (1, Arc::new(serde_json::from_value::<PersistentVolumeClaim>(claim).unwrap())))
                .into_iter()
                .collect(),
            ..Facts::default()
        };
        Left::of(&facts, "kelp")
    }

    #[test]
    fn a_deletion_asks_the_api_server_only_when_there_is_something_to_do() {
        for (set, pod, claim, waits) in [
            (Some(false), None, None, false),
            (Some(true), Some(true), Some(false), true),
            (None, Some(false), None, true),
            (None, Some(true), Some(false), false),
            (None, Some(true), Some(true), true),
            (None, None, Some(true), true),
            (None, None, None, false),
        ] {
            assert_eq!(left(set, pod, claim).only_goes(), waits, "{set:?} {pod:?} {claim:?}");
        }
        let theirs = json!({"metadata": {"name": "kelp-1", "labels": {names::CLUSTER_LABEL: "moss"}}});
        let pods = [(1, Arc::new(serde_json::from_value::<Pod>(theirs).unwrap()))].into();
        assert!(!Left::of(&Facts { pods, ..Facts::default() }, "kelp").only_goes(), "another cluster's");
    }

    #[test]
    fn a_deletion_that_lasts_is_looked_at_less_often_and_says_what_it_waits_for() {
        let mut object = cluster(|_| {});
        object.metadata.deletion_timestamp = serde_json::from_value(json!(SINCE)).unwrap();
        let after = |minutes: i64| {
            let now = SINCE.parse::<DateTime<Utc>>().unwrap() + chrono::Duration::minutes(minutes);
            lasted(&object, now)
        };
        assert_eq!([1, 2, 600].map(|minutes| pace(after(minutes)).as_secs()), [1, 15, 15]);
        let held = left(None, Some(true), Some(true));
        assert!(!held.lasts(after(1)) && held.lasts(after(2)));
        let words = held.words();
        for part in [
            "pod kelp-1 (on node n3, terminating since 2026-11-21T09:00:00Z)",
            "volume claim data-kelp-1 (terminating since 2026-11-21T09:00:00Z, finalizers kubernetes.io/pvc-protection)",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
        let waits = Trouble::new(reasons::DELETION_WAITS, words);
        let told = status::progressing(&object, &waits, Utc::now());
        let condition = told.conditions.iter().find(|known| known.type_ == kind::PROGRESSING).unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "DeletionWaits"));
    }
}
