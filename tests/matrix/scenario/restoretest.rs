//! A restore test of the one backup that there is.

use std::collections::BTreeMap;
use std::time::Duration;

use openbao_operator::api::OpenBaoOperation;
use serde_json::json;

use super::{files, succeeded};
use crate::matrix::place::{CLAIM, Place, TO_CLAIM, manifest};
use crate::matrix::run::Scenario;

pub struct RestoreTest {
    place: Place,
}

impl Scenario for RestoreTest {
    const NAME: &'static str = "restore test";
    const ROUNDS: usize = 40;
    const LIMIT: Duration = Duration::from_secs(600);

    async fn open() -> Self {
        let place = Place::open("matrix-restoretest").await;
        let image = place.namespace.cluster().server_image().await;
        let extra = format!("image: {image}\n  {TO_CLAIM}");
        place.namespace.apply(&format!("{CLAIM}---\n{}", manifest("kelp", 1, "2.7.2", &extra))).await;
        let bay = place.bay("kelp");
        bay.whole(1).await;
        bay.backup("first").await;
        Self { place }
    }

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    async fn prepare(&mut self, _: usize) {}

    async fn begin(&mut self, round: usize) {
        let operation = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": format!("round-{round}")}, "spec": {"cluster": "kelp", "operation": "RestoreTest"}});
        self.place.namespace.apply(&operation.to_string()).await;
    }

    async fn over(&mut self, round: usize) -> Result<(), String> {
        succeeded(&self.place, &format!("round-{round}")).await
    }

    /// What was found in the restored server.
    async fn facts(&mut self, round: usize) -> BTreeMap<String, String> {
        let operations = self.place.namespace.api::<OpenBaoOperation>();
        let status = operations.get(&format!("round-{round}")).await.unwrap().status.unwrap_or_default();
        let found = status.steps.into_iter().flat_map(|step| step.output);
        // The others differ from place to place.
        found.filter(|(name, _)| ["version", "mounts", "canaries", "isolated"].contains(&name.as_str())).collect()
    }

    /// Nothing of the living cluster is asked, and nothing of the store changes.
    async fn counts(&mut self, _: usize) -> BTreeMap<String, i64> {
        let bay = self.place.bay("kelp");
        let mut counts = files(&bay).await;
        let fence = bay.cluster().await.status.and_then(|status| status.operation_fence);
        counts.insert("fence".into(), fence.unwrap_or_default());
        let asked =
            self.place.requests_at("kelp-0", &[r#""type":"request""#, r#""path":"sys/storage/raft/snapshot"#]).await;
        counts.insert("snapshots asked of OpenBao".into(), i64::try_from(asked).unwrap());
        counts
    }

    async fn finish(&mut self, _: usize) {}
}
