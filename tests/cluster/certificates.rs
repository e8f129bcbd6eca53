//! Certificates: renewed under load, brought by the user, or none at all.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use openbao_operator::service::cluster::tls::{DEFAULT_ROTATION, KeyedCert, issue, new_authority, serving_names};
use secrecy::ExposeSecret;
use serde_json::json;

use super::writer::Writer;
use super::{PATIENCE, available, bao, change, condition, get, login, manifest, says, settled, told, uid};
use crate::harness::{Cluster, Namespace, Operator, eventually};

async fn certificate(namespace: &Namespace, host: &str) -> String {
    let script = format!("openssl s_client -connect {host}:8200 </dev/null 2>/dev/null | openssl x509 -noout -serial");
    let output = namespace.cluster().inside(&["sh", "-c", &script]).await;
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub async fn all_restarted(namespace: &Namespace, before: &[String]) {
    eventually("every member was restarted", PATIENCE * 2, async || {
        for (ordinal, old) in before.iter().enumerate() {
            let now = uid(namespace, &format!("kelp-{ordinal}")).await;
            if now.is_empty() || now == *old {
                return Err(format!("kelp-{ordinal} is the old one"));
            }
        }
        let status = get(namespace, "kelp").await?.status.unwrap_or_default();
        if status.operation_lock.is_none() { Ok(()) } else { Err("the lock is held".to_owned()) }
    })
    .await;
    settled(namespace, 1).await;
}

pub async fn uids(namespace: &Namespace) -> Vec<String> {
    let mut all = Vec::new();
    for ordinal in 0..3 {
        all.push(uid(namespace, &format!("kelp-{ordinal}")).await);
    }
    all
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn certificates_and_their_authority_are_replaced_under_a_client_that_writes_and_feels_only_the_leader_change() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-certs").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "")).await;
    settled(&namespace, 1).await;
    let token = login(&namespace, "kelp").await;
    let host = format!("kelp-public.{}.svc", namespace.name());
    let first = certificate(&namespace, &host).await;
    let writer = Writer::start(&namespace, "kelp", &token);

    // More life is demanded than is left: due now.
    let before = uids(&namespace).await;
    change(&namespace, "kelp", json!({"tls": {"rotationPeriod": "9000h"}})).await;
    all_restarted(&namespace, &before).await;
    let second = certificate(&namespace, &host).await;
    assert_ne!(first, second, "a new certificate is served");

    // Another authority: for a while some members serve certificates of the old one, and all of them are believed.
    let before = uids(&namespace).await;
    namespace.kubectl(&["delete", "secret", "kelp-tls-ca", "kelp-tls-server"]).await;
    all_restarted(&namespace, &before).await;
    assert_ne!(second, certificate(&namespace, &host).await);

    let written = writer.stop(&namespace, "kelp", &token).await;
    println!("{} acknowledged, outages {:?}", written.acknowledged.len(), written.outages);
    assert!(written.acknowledged.len() > 100, "the writer wrote");
    // Two rollings, one change of the leader each; a restarting standby must not be felt at all.
    assert!(written.outages.len() <= 2, "{:?}", written.outages);
    assert!(written.outages.iter().all(|(_, span)| *span < Duration::from_secs(12)), "{:?}", written.outages);
}

pub fn secret(cert: &str, key: &KeyedCert, bundle: &str) -> Secret {
    let data = [("tls.crt", cert), ("tls.key", key.key.expose_secret()), ("ca.crt", bundle)];
    Secret {
        metadata: ObjectMeta { name: Some("kelp-tls-server".into()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data.into_iter().map(|(key, text)| (key.into(), ByteString(text.as_bytes().to_vec()))).collect()),
        ..Secret::default()
    }
}

pub async fn put(namespace: &Namespace, secret: &Secret) {
    let api = namespace.api::<Secret>();
    let _ = api.delete("kelp-tls-server", &kube::api::DeleteParams::default()).await;
    api.create(&PostParams::default(), secret).await.expect("the user's Secret");
}

#[tokio::test]
async fn certificates_of_the_user_are_waited_for_judged_and_followed() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-external").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let text =
        manifest("kelp", "  replicas: 1\n").replace("tls: {enabled: true}", "tls: {enabled: true, mode: External}");
    namespace.apply(&text).await;
    says(&namespace, "kelp", "TLSReady", "False", "TLSSecretMissing").await;
    told(&namespace, "TLSSecretMissing").await;

    let now = chrono::Utc::now();
    let authority = new_authority("mine", namespace.name(), now).unwrap();
    let names = serving_names("kelp", namespace.name(), &[]);
    let [one, two] = [(); 2].map(|()| issue(&authority, &names, DEFAULT_ROTATION, now).unwrap());
    put(&namespace, &secret(&one.cert, &two, &authority.cert)).await;
    says(&namespace, "kelp", "TLSReady", "False", "TLSSecretInvalid").await;
    assert_eq!(uid(&namespace, "kelp-0").await, "", "nothing starts with a certificate that cannot be served");

    put(&namespace, &secret(&one.cert, &one, &authority.cert)).await;
    available(&namespace, "kelp").await;
    let host = format!("kelp-0.kelp.{}.svc", namespace.name());
    let served = certificate(&namespace, &host).await;

    // A mistake in a renewal leaves what runs as it is.
    let pod = uid(&namespace, "kelp-0").await;
    let other = new_authority("other", namespace.name(), now).unwrap();
    put(&namespace, &secret(&two.cert, &two, &other.cert)).await;
    change(&namespace, "kelp", json!({"tls": {"rotationPeriod": "100h"}})).await;
    let bad = says(&namespace, "kelp", "TLSReady", "False", "TLSSecretInvalid").await;
    assert_eq!(condition(&bad, "Degraded").0, "True");
    assert_eq!(condition(&bad, "Available").0, "True", "{:?}", condition(&bad, "Available"));
    assert_eq!(uid(&namespace, "kelp-0").await, pod);

    put(&namespace, &secret(&two.cert, &two, &authority.cert)).await;
    change(&namespace, "kelp", json!({"tls": {"rotationPeriod": "200h"}})).await;
    eventually("the renewed one is served", PATIENCE, async || {
        let now = certificate(&namespace, &host).await;
        if now.is_empty() || now == served { Err(now) } else { Ok(()) }
    })
    .await;
    available(&namespace, "kelp").await;
    login(&namespace, "kelp").await;
}

#[tokio::test]
async fn three_members_of_the_development_profile_speak_plain_http() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-http").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let text = manifest("kelp", "  profile: Development\n").replace("tls: {enabled: true}", "tls: {enabled: false}");
    namespace.apply(&text).await;
    let found = available(&namespace, "kelp").await;
    assert_eq!(condition(&found, "TLSReady").0, "False");
    assert_eq!(condition(&found, "ProductionReady").0, "False");
    let url = format!("http://kelp-active.{}.svc:8200/v1/sys/health", namespace.name());
    let health = cluster.expect_inside(&["curl", "-s", "--max-time", "5", &url]).await;
    assert!(health.contains(r#""sealed":false"#), "{health}");
    assert!(bao(&namespace, "kelp", "", &["GET", "sys/health"]).await.is_err(), "no TLS there");
}
