//! A backup on demand to a volume; and one whose retention has an older one to remove.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::{files, succeeded};
use crate::matrix::place::{CLAIM, Place, TO_CLAIM, manifest};
use crate::matrix::run::Scenario;

/// A backup; with `RETENTION` every one removes the one before the last.
pub struct Saved<const RETENTION: bool> {
    place: Place,
}

pub type Backup = Saved<false>;
pub type Retention = Saved<true>;

const KEEP_ONE: &str = "backup: {target: {provider: file, file: {claimName: sand}}, retention: {keepLast: 1}}";

impl<const RETENTION: bool> Scenario for Saved<RETENTION> {
    const NAME: &'static str = if RETENTION { "retention" } else { "backup" };
    /// Fewer than the operations that are kept: an old one that goes would be a difference.
    const ROUNDS: usize = 40;
    const LIMIT: Duration = Duration::from_secs(600);

    async fn open() -> Self {
        let place = Place::open(if RETENTION { "matrix-retention" } else { "matrix-backup" }).await;
        let backup = if RETENTION { KEEP_ONE } else { TO_CLAIM };
        place.namespace.apply(&format!("{CLAIM}---\n{}", manifest("kelp", 1, "2.7.2", backup))).await;
        let bay = place.bay("kelp");
        bay.whole(1).await;
        if RETENTION {
            // Retention never touches the newest and the last verified: one more than these.
            for name in ["first", "second"] {
                bay.backup(name).await;
            }
        }
        Self { place }
    }

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    async fn prepare(&mut self, _: usize) {}

    async fn begin(&mut self, round: usize) {
        let operation = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": format!("round-{round}")}, "spec": {"cluster": "kelp", "operation": "Backup"}});
        self.place.namespace.apply(&operation.to_string()).await;
    }

    async fn over(&mut self, round: usize) -> Result<(), String> {
        succeeded(&self.place, &format!("round-{round}")).await
    }

    async fn facts(&mut self, _: usize) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    async fn counts(&mut self, _: usize) -> BTreeMap<String, i64> {
        let bay = self.place.bay("kelp");
        let mut counts = files(&bay).await;
        let fence = bay.cluster().await.status.and_then(|status| status.operation_fence);
        counts.insert("fence".into(), fence.unwrap_or_default());
        let taken =
            self.place.requests_at("kelp-0", &[r#""type":"request""#, r#""path":"sys/storage/raft/snapshot""#]).await;
        counts.insert("snapshots asked of OpenBao".into(), i64::try_from(taken).unwrap());
        counts
    }

    async fn finish(&mut self, _: usize) {}
}
