//! A certificate that is due: made anew, and served by a restarted server.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::matrix::place::{Place, manifest};
use crate::matrix::run::Scenario;

pub struct Rotation {
    place: Place,
    /// What was served before the round.
    before: String,
}

impl Rotation {
    /// The serving certificate as the Secret has it.
    async fn certificate(&self) -> String {
        let secret = self.place.namespace.api::<Secret>().get_opt("kelp-tls-server").await.expect("the API server");
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        data.get("tls.crt").map(|cert| String::from_utf8_lossy(&cert.0).into_owned()).unwrap_or_default()
    }

    /// The hash of the certificate that the pod was started with.
    async fn served(&self) -> String {
        let path = r"jsonpath={.metadata.annotations.openbao\.org/certificate-hash}";
        self.place.namespace.kubectl(&["get", "pod", "kelp-0", "--ignore-not-found", "-o", path]).await
    }
}

impl Scenario for Rotation {
    const NAME: &'static str = "rotation";
    const ROUNDS: usize = 30;
    const LIMIT: Duration = Duration::from_secs(300);

    async fn open() -> Self {
        let place = Place::open("matrix-rotation").await;
        place.namespace.apply(&manifest("kelp", 1, "2.7.2", "")).await;
        let bay = place.bay("kelp");
        bay.whole(1).await;
        let token = bay.login().await;
        bay.put(&token, "pearl", "kept").await;
        Self { place, before: String::new() }
    }

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    async fn prepare(&mut self, _: usize) {
        self.before = self.served().await;
    }

    async fn begin(&mut self, round: usize) {
        // Each round demands more life than any certificate made before has left: due now.
        let patch = match round {
            0..=8 => json!({"spec": {"tls": {"rotationPeriod": format!("{}h", 9000_u64 << round)}}}),
            // Beyond that a new name does it.
            _ => json!({"spec": {"tls": {"extraSANs": [format!("r{round}.example.org")]}}}),
        };
        self.place.namespace.kubectl(&["patch", "bao", "kelp", "--type=merge", "-p", &patch.to_string()]).await;
    }

    async fn over(&mut self, _: usize) -> Result<(), String> {
        let served = self.served().await;
        if served.is_empty() || served == self.before {
            return Err(format!("{} is served, as before", self.before));
        }
        let status = self.place.bay("kelp").cluster().await.status.unwrap_or_default();
        let settled = status.operation_lock.is_none() && status.ready_replicas == Some(1);
        let degraded = status.conditions.iter().any(|c| c.type_ == "Degraded" && c.status == "True");
        if settled && !degraded { Ok(()) } else { Err(format!("{:?} {:?}", status.operation_lock, status.conditions)) }
    }

    async fn facts(&mut self, _: usize) -> BTreeMap<String, String> {
        let bay = self.place.bay("kelp");
        let token = bay.login().await;
        let word = bay.word(&token, "pearl").await.unwrap_or_default();
        let hash = openbao_operator::service::cluster::build::hash::certificate(&self.certificate().await);
        BTreeMap::from([
            ("pearl".into(), word),
            ("the Secret's certificate is served".into(), (hash == self.served().await).to_string()),
        ])
    }

    async fn counts(&mut self, _: usize) -> BTreeMap<String, i64> {
        let status = self.place.bay("kelp").cluster().await.status;
        BTreeMap::from([("fence".into(), status.and_then(|status| status.operation_fence).unwrap_or_default())])
    }

    async fn finish(&mut self, _: usize) {}
}
