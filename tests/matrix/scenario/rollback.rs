//! The way back from an upgrade, with consent: an empty server of the old version, and the backup from before.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::ListParams;
use openbao_operator::api::{OpenBaoOperation, OperationKind, OperationPhase};
use serde_json::json;

use super::succeeded;
use crate::harness::eventually;
use crate::matrix::place::{CLAIM, Place, TO_CLAIM, manifest};
use crate::matrix::run::Scenario;

/// What each round upgrades to and comes back from: a target that was rolled back is held, another one is not.
const TARGETS: [&str; 3] = ["2.7.0", "2.7.1", "2.7.2"];

pub struct Rollback {
    place: Place,
    /// The upgrade that the round turns back.
    of: String,
}

impl Scenario for Rollback {
    const NAME: &'static str = "rollback";
    const ROUNDS: usize = TARGETS.len();
    const LIMIT: Duration = Duration::from_secs(900);

    async fn open() -> Self {
        let place = Place::open("matrix-rollback").await;
        let extra = format!("{TO_CLAIM}\n  upgrade: {{soak: 1s}}");
        place.namespace.apply(&format!("{CLAIM}---\n{}", manifest("kelp", 1, "2.6.1", &extra))).await;
        place.bay("kelp").whole(1).await;
        Self { place, of: String::new() }
    }

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    async fn prepare(&mut self, round: usize) {
        let bay = self.place.bay("kelp");
        let token = bay.login().await;
        bay.put(&token, "pearl", "before").await;
        let patch = json!({"spec": {"version": TARGETS[round]}}).to_string();
        self.place.namespace.kubectl(&["patch", "bao", "kelp", "--type=merge", "-p", &patch]).await;
        self.of = eventually("the upgrade ends", Self::LIMIT, async || {
            let all = self.place.namespace.api::<OpenBaoOperation>().list(&ListParams::default()).await;
            let all = all.map_err(|error| error.to_string())?.items;
            let mut upgrades = all.into_iter().filter(|op| op.spec.operation == OperationKind::Upgrade);
            let upgrade = upgrades
                .find(|op| op.spec.parameters.get("version").map(String::as_str) == Some(TARGETS[round]))
                .ok_or("none")?;
            let phase = upgrade.status.map(|status| status.phase).unwrap_or_default();
            if phase == OperationPhase::Succeeded {
                Ok(upgrade.metadata.name.unwrap())
            } else {
                Err(format!("{phase:?}"))
            }
        })
        .await;
        let bay = self.place.bay("kelp");
        bay.whole(1).await;
        let token = bay.login().await;
        bay.put(&token, "pearl", "after").await;
    }

    async fn begin(&mut self, round: usize) {
        let object = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": format!("back-{round}")}, "spec": {"cluster": "kelp", "operation": "Rollback",
                "lineage": {"rollbackOf": self.of}, "consent": ["DataOlderThanRollback"], "intent": "a round of the matrix"}});
        self.place.namespace.apply(&object.to_string()).await;
    }

    async fn over(&mut self, round: usize) -> Result<(), String> {
        succeeded(&self.place, &format!("back-{round}")).await?;
        let status = self.place.bay("kelp").cluster().await.status.unwrap_or_default();
        if status.operation_lock.is_none() && status.ready_replicas == Some(1) {
            Ok(())
        } else {
            Err(format!("{:?}", status.conditions))
        }
    }

    async fn facts(&mut self, _: usize) -> BTreeMap<String, String> {
        let bay = self.place.bay("kelp");
        let token = bay.login().await;
        let word = bay.word(&token, "pearl").await.unwrap_or_default();
        let status = bay.cluster().await.status.unwrap_or_default();
        let versions: Vec<_> = status.members.iter().filter_map(|member| member.version.clone()).collect();
        BTreeMap::from([("pearl".into(), word), ("versions".into(), versions.join(" "))])
    }

    async fn counts(&mut self, _: usize) -> BTreeMap<String, i64> {
        let status = self.place.bay("kelp").cluster().await.status;
        BTreeMap::from([("fence".into(), status.and_then(|status| status.operation_fence).unwrap_or_default())])
    }

    async fn finish(&mut self, _: usize) {}
}
