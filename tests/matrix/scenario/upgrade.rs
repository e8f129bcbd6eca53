//! An upgrade of one server with a backup before it, from each version to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::ListParams;
use openbao_operator::api::{OpenBaoOperation, OperationKind};
use serde_json::json;

use super::{files, succeeded};
use crate::matrix::place::{CLAIM, Place, TO_CLAIM, manifest};
use crate::matrix::run::Scenario;

const VERSIONS: [&str; 5] = ["2.6.1", "2.6.2", "2.7.0", "2.7.1", "2.7.2"];

pub struct Upgrade {
    place: Place,
}

impl Scenario for Upgrade {
    const NAME: &'static str = "upgrade";
    const ROUNDS: usize = VERSIONS.len() - 1;
    const LIMIT: Duration = Duration::from_secs(600);

    async fn open() -> Self {
        let place = Place::open("matrix-upgrade").await;
        let extra = format!("{TO_CLAIM}\n  upgrade: {{soak: 1s}}");
        place.namespace.apply(&format!("{CLAIM}---\n{}", manifest("kelp", 1, VERSIONS[0], &extra))).await;
        let bay = place.bay("kelp");
        bay.whole(1).await;
        let token = bay.login().await;
        bay.put(&token, "pearl", "kept").await;
        Self { place }
    }

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    async fn prepare(&mut self, _: usize) {}

    async fn begin(&mut self, round: usize) {
        let patch = json!({"spec": {"version": VERSIONS[round + 1]}}).to_string();
        self.place.namespace.kubectl(&["patch", "bao", "kelp", "--type=merge", "-p", &patch]).await;
    }

    async fn over(&mut self, round: usize) -> Result<(), String> {
        let all = self.place.namespace.api::<OpenBaoOperation>().list(&ListParams::default()).await;
        let all = all.map_err(|error| error.to_string())?.items;
        let upgrades: Vec<_> = all.iter().filter(|op| op.spec.operation == OperationKind::Upgrade).collect();
        if upgrades.len() <= round {
            return Err("the upgrade has not begun".into());
        }
        for upgrade in upgrades {
            succeeded(&self.place, upgrade.metadata.name.as_deref().unwrap_or_default()).await?;
        }
        let version = self.place.bay("kelp").cluster().await.status.and_then(|status| status.current_version);
        if version.as_deref() == Some(VERSIONS[round + 1]) {
            Ok(())
        } else {
            Err(format!("the cluster is at {version:?}"))
        }
    }

    async fn facts(&mut self, round: usize) -> BTreeMap<String, String> {
        let bay = self.place.bay("kelp");
        let token = bay.login().await;
        let word = bay.word(&token, "pearl").await.unwrap_or_default();
        let status = bay.cluster().await.status.unwrap_or_default();
        let arrived = status.members.iter().all(|member| member.version.as_deref() == Some(VERSIONS[round + 1]));
        BTreeMap::from([("pearl".into(), word), ("every member is at the new version".into(), arrived.to_string())])
    }

    async fn counts(&mut self, _: usize) -> BTreeMap<String, i64> {
        let bay = self.place.bay("kelp");
        let mut counts = files(&bay).await;
        let fence = bay.cluster().await.status.and_then(|status| status.operation_fence);
        counts.insert("fence".into(), fence.unwrap_or_default());
        counts
    }

    async fn finish(&mut self, _: usize) {}
}
