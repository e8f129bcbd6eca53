//! A new cluster, from the object to a server that answers its administrator.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use openbao_operator::api::OpenBaoCluster;

use crate::harness::eventually;
use crate::matrix::place::{Place, manifest};
use crate::matrix::run::Scenario;

pub struct Bootstrap {
    place: Place,
}

fn name(round: usize) -> String {
    format!("kelp-{round}")
}

impl Scenario for Bootstrap {
    const NAME: &'static str = "bootstrap";
    const ROUNDS: usize = 40;
    const LIMIT: Duration = Duration::from_secs(600);

    async fn open() -> Self {
        Self { place: Place::open("matrix-bootstrap").await }
    }

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    async fn prepare(&mut self, _: usize) {}

    async fn begin(&mut self, round: usize) {
        self.place.namespace.apply(&manifest(&name(round), 1, "2.7.2", "")).await;
    }

    async fn over(&mut self, round: usize) -> Result<(), String> {
        let status = self.place.bay(&name(round)).cluster().await.status.unwrap_or_default();
        let available = status.conditions.iter().any(|c| c.type_ == "Available" && c.status == "True");
        if available && status.ready_replicas == Some(1) {
            Ok(())
        } else {
            Err(format!("{:?} {:?}", status.phase, status.conditions))
        }
    }

    async fn facts(&mut self, round: usize) -> BTreeMap<String, String> {
        let cluster = name(round);
        let bay = self.place.bay(&cluster);
        let token = bay.login().await;
        bay.put(&token, "pearl", "kept").await;
        let word = bay.word(&token, "pearl").await.unwrap_or_default();
        BTreeMap::from([("pearl".into(), word)])
    }

    async fn counts(&mut self, _: usize) -> BTreeMap<String, i64> {
        BTreeMap::new()
    }

    async fn finish(&mut self, round: usize) {
        let namespace = &self.place.namespace;
        let clusters: Api<OpenBaoCluster> = namespace.api();
        clusters.delete(&name(round), &DeleteParams::default()).await.expect("the cluster is deleted");
        eventually("the cluster and its volumes are gone", Duration::from_secs(120), async || {
            let claims: Api<PersistentVolumeClaim> = namespace.api();
            let claims = claims.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items.len();
            let there = clusters.get_opt(&name(round)).await.map_err(|error| error.to_string())?.is_some();
            if there || claims > 0 { Err(format!("cluster {there}, {claims} claims")) } else { Ok(()) }
        })
        .await;
    }
}
