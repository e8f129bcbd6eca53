//! A workflow of annotations, a Job and a request to OpenBao, with an undo that is not needed.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt;
use openbao_operator::api::OpenBaoCluster;
use serde_json::json;

use super::{
    super::place::{Place, manifest},
    super::run::Scenario,
    succeeded,
};

pub struct Workflow {
    place: Place,
}

impl Scenario for Workflow {
    const NAME: &'static str = "workflow";
    /// Fewer than the operations that are kept: an old one that goes would be a difference.
    const ROUNDS: usize = 40;
    const LIMIT: Duration = Duration::from_secs(600);

    async fn open() -> Self {
        let place = Place::open("matrix-workflow").await;
        place.namespace.apply(&manifest("kelp", 1, "2.7.2", "")).await;
        place.bay("kelp").whole(1).await;
        Self { place }
    }

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    async fn prepare(&mut self, _: usize) {}

    async fn begin(&mut self, round: usize) {
        let annotate = |key: &str, value: &str| json!({"key": format!("workflow.openbao.org/{key}"), "value": value});
        let operation = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
        "metadata": {"name": format!("round-{round}")},
        "spec": {"cluster": "kelp", "operation": "Workflow", "intent": "to see what a crash does", "plan": {"steps": [
            {"name": "mark", "action": "Annotate", "compensate": "unmark", "config": annotate("mark", &round.to_string())},
            {"name": "unmark", "action": "Annotate", "config": annotate("mark", "")},
            {"name": "job", "action": "KubernetesJob", "dependsOn": ["mark"],
                "config": {"image": "docker.io/library/busybox:1.36", "command": "true"}},
            {"name": "ask", "action": "HTTPGet", "dependsOn": ["job"], "config": {"path": "/v1/sys/health", "status": "200"}},
            {"name": "told", "action": "Annotate", "dependsOn": ["ask"], "config": annotate("told", &round.to_string())},
        ]}}});
        self.place.namespace.apply(&operation.to_string()).await;
    }

    async fn over(&mut self, round: usize) -> Result<(), String> {
        succeeded(&self.place, &format!("round-{round}")).await
    }

    async fn facts(&mut self, round: usize) -> BTreeMap<String, String> {
        let cluster = self.place.bay("kelp").cluster().await;
        let is =
            |key: &str| cluster.annotations().get(&format!("workflow.openbao.org/{key}")) == Some(&round.to_string());
        BTreeMap::from([("marked".into(), is("mark").to_string()), ("told".into(), is("told").to_string())])
    }

    async fn counts(&mut self, _: usize) -> BTreeMap<String, i64> {
        let cluster: OpenBaoCluster = self.place.bay("kelp").cluster().await;
        BTreeMap::from([("fence".into(), cluster.status.and_then(|status| status.operation_fence).unwrap_or_default())])
    }

    async fn finish(&mut self, _: usize) {}
}
