//! From one server to three.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::harness::eventually;
use crate::matrix::place::{Place, manifest};
use crate::matrix::run::Scenario;

pub struct Scale {
    place: Place,
}

impl Scale {
    async fn wish(&self, replicas: u32) {
        let patch = json!({"spec": {"replicas": replicas}}).to_string();
        self.place.namespace.kubectl(&["patch", "bao", "kelp", "--type=merge", "-p", &patch]).await;
    }

    async fn voters(&self, wanted: usize) -> Result<(), String> {
        let status = self.place.bay("kelp").cluster().await.status.unwrap_or_default();
        let voters = status.members.len();
        let ready = status.ready_replicas == i32::try_from(wanted).ok();
        let bears = status.failure_tolerance == i32::try_from((wanted - 1) / 2).ok();
        if voters == wanted && ready && bears {
            Ok(())
        } else {
            Err(format!("{voters} members, {:?} ready, bears {:?}", status.ready_replicas, status.failure_tolerance))
        }
    }
}

impl Scenario for Scale {
    const NAME: &'static str = "scale";
    const ROUNDS: usize = 1;
    const LIMIT: Duration = Duration::from_secs(600);

    async fn open() -> Self {
        let place = Place::open("matrix-scale").await;
        place.namespace.apply(&manifest("kelp", 1, "2.7.2", "")).await;
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

    async fn begin(&mut self, _: usize) {
        self.wish(3).await;
    }

    async fn over(&mut self, _: usize) -> Result<(), String> {
        self.voters(3).await
    }

    async fn facts(&mut self, _: usize) -> BTreeMap<String, String> {
        let bay = self.place.bay("kelp");
        let token = bay.login().await;
        let mut facts = BTreeMap::new();
        for ordinal in 0..3 {
            let word = bay.word_at(&bay.pod(ordinal), &token, "pearl").await.unwrap_or_default();
            facts.insert(format!("pearl at {ordinal}"), word);
        }
        facts
    }

    async fn counts(&mut self, _: usize) -> BTreeMap<String, i64> {
        BTreeMap::new()
    }

    async fn finish(&mut self, _: usize) {
        eventually("nothing is left to do", Duration::from_secs(30), async || self.voters(3).await).await;
    }
}
