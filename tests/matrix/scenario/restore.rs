//! A restore with a safety backup before it.

use std::collections::BTreeMap;
use std::time::Duration;

use openbao_operator::api::RestorePhase;
use serde_json::json;

use super::files;
use crate::matrix::place::{CLAIM, Place, TO_CLAIM, manifest};
use crate::matrix::run::Scenario;

pub struct Restore {
    place: Place,
    key: String,
}

impl Scenario for Restore {
    const NAME: &'static str = "restore";
    /// Two operations each, and fewer than are kept: an old one that goes would be a difference.
    const ROUNDS: usize = 20;
    const LIMIT: Duration = Duration::from_secs(600);

    async fn open() -> Self {
        let place = Place::open("matrix-restore").await;
        place.namespace.apply(&format!("{CLAIM}---\n{}", manifest("kelp", 1, "2.7.2", TO_CLAIM))).await;
        let bay = place.bay("kelp");
        bay.whole(1).await;
        let (_, key) = bay.backed_up().await;
        Self { place, key }
    }

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    async fn prepare(&mut self, _: usize) {
        let bay = self.place.bay("kelp");
        let token = bay.login().await;
        bay.put(&token, "pearl", "after").await;
    }

    async fn begin(&mut self, round: usize) {
        self.place.bay("kelp").restore(&format!("round-{round}"), json!({"source": {"key": self.key}})).await;
    }

    async fn over(&mut self, round: usize) -> Result<(), String> {
        let restores = self.place.bay("kelp").restores();
        let restore = restores.get(&format!("round-{round}")).await.map_err(|error| error.to_string())?;
        let status = restore.status.unwrap_or_default();
        match status.phase {
            RestorePhase::Completed | RestorePhase::Failed | RestorePhase::Unknown => Ok(()),
            phase => Err(format!("{phase:?} {}: {}", status.stage, status.message)),
        }
    }

    async fn facts(&mut self, _: usize) -> BTreeMap<String, String> {
        let bay = self.place.bay("kelp");
        let token = bay.login().await;
        let word = bay.word(&token, "pearl").await.unwrap_or_default();
        BTreeMap::from([("pearl".into(), word)])
    }

    async fn counts(&mut self, _: usize) -> BTreeMap<String, i64> {
        let bay = self.place.bay("kelp");
        let mut counts = files(&bay).await;
        let fence = bay.cluster().await.status.and_then(|status| status.operation_fence);
        counts.insert("fence".into(), fence.unwrap_or_default());
        let posted = self
            .place
            .requests_at(
                "kelp-0",
                &[r#""type":"request""#, r#""operation":"update""#, r#""path":"sys/storage/raft/snapshot"#],
            )
            .await;
        counts.insert("snapshots posted to OpenBao".into(), i64::try_from(posted).unwrap());
        counts
    }

    async fn finish(&mut self, _: usize) {}
}
