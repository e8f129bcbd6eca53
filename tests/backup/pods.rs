//! The ends that a mover's pod may come to: each leaves a store in which everything is a good backup, and the backup that
//! was asked for is taken after all.

use std::time::Duration;

use kube::ResourceExt;
use openbao_operator::adapter::objectstore::{Credentials, Store as Opened, Target, keys};
use openbao_operator::api::OperationPhase;
use serde_json::json;

use super::node::{self, Still};
use super::setup::{Reef, claim, s3};
use crate::harness::{Cluster, Namespace, Operator, Relay, Store, eventually, oracle};

/// Two attempts with their clean-up in between, on a busy machine.
const TWICE: Duration = Duration::from_secs(300);

/// A static key that sealed nothing.
pub const OTHER_KEY: &str = "b3RoZXIga2V5IG90aGVyIGtleSBvdGhlciBrZXkgMTI=";

/// The bucket as the test itself reads it.
pub struct Bucket {
    _relay: Relay,
    store: Opened,
    prefix: String,
}

impl Bucket {
    pub async fn open(store: &Store, namespace: &Namespace) -> Self {
        let relay = store.relay(namespace).await;
        let target = Target {
            endpoint: Some(format!("http://{}", relay.address())),
            bucket: Some(store.bucket.clone()),
            use_path_style: true,
            ..Target::default()
        };
        let pairs = [("accessKeyId", store.access_key.clone()), ("secretAccessKey", store.secret_key.clone())];
        // Whichever test comes first installs it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let opened = Opened::open(&target, &Credentials::from_pairs(pairs)).unwrap();
        Self { _relay: relay, store: opened, prefix: keys::cluster_prefix("", namespace.name(), "kelp") }
    }

    /// The backups in it, all of them good, and nothing else there.
    pub async fn backups(&self) -> Vec<String> {
        oracle::sound(&self.store, &self.prefix).await
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn whatever_ends_the_movers_pod_is_named_and_the_backup_is_taken_after_all() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-pods").await;
    let store = Store::start(&namespace).await;
    namespace.apply(&store.secret("pearl")).await;
    let _operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 1, &s3(&store, "pearl"), "").await;
    let bucket = Bucket::open(&store, &namespace).await;
    let server = node::running(&namespace, "app=s3").await;

    for (count, (name, reason)) in
        [("deleted", "MoverLost"), ("starved", "MoverOutOfMemory"), ("evicted", "MoverEvicted")].into_iter().enumerate()
    {
        // The mover waits for its store meanwhile, so there is time.
        let still = Still::hold(&server);
        reef.ask(name, json!({})).await;
        let pod = node::running(&namespace, &format!("openbao.org/operation={name}")).await;
        match name {
            "deleted" => {
                namespace.kubectl(&["delete", "pod", &pod.name_any(), "--grace-period=0", "--force"]).await;
            }
            "starved" => node::starve(&pod),
            // Beyond the limit of its volume, which is twice the server's own and a little.
            _ => node::fill(&namespace, &pod, "scratch", 2_300 << 20).await,
        }
        if name == "evicted" {
            eventually("the node evicts it", Duration::from_secs(90), async || {
                let status = reef.pod(&pod.name_any()).await.and_then(|pod| pod.status).unwrap_or_default();
                // The word comes before the deed: a mover that still runs would end its backup as if nothing had been.
                let states =
                    status.container_statuses.iter().flatten().filter_map(|container| container.state.as_ref());
                let runs = states.filter(|state| state.running.is_some()).count();
                if status.reason.as_deref() == Some("Evicted") && runs == 0 {
                    Ok(())
                } else {
                    Err(format!("{:?}, {runs} containers run", status.phase))
                }
            })
            .await;
        }
        drop(still);
        eventually(&format!("the end is named {reason}"), TWICE, async || {
            let status = serde_json::to_string(&reef.operation(name).await.status).unwrap();
            if status.contains(reason) { Ok(()) } else { Err(status) }
        })
        .await;
        let status = reef.ended(name, TWICE).await.status.unwrap();
        assert_eq!(status.phase, OperationPhase::Succeeded, "{name}: {:?}", status.message);
        let key = status.artifacts.unwrap().key.unwrap();
        let backups = bucket.backups().await;
        assert_eq!((backups.len(), backups.last()), (count + 1, Some(&key)), "after {name}");
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_quota_that_refuses_the_movers_pod_is_told_and_keeps_the_lock_for_minutes_only() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-quota").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 1, &claim(), "").await;
    // The server's own pod is there already.
    namespace.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: few}\nspec: {hard: {pods: \"1\"}}").await;

    reef.ask("refused", json!({})).await;
    eventually("it says where Kubernetes tells why", Duration::from_secs(90), async || {
        let message = reef.operation("refused").await.status.unwrap_or_default().message.unwrap_or_default();
        if message.contains("describe job refused-snapshot") { Ok(()) } else { Err(message) }
    })
    .await;
    // Three attempts of two minutes each.
    let status = reef.ended("refused", Duration::from_secs(600)).await.status.unwrap();
    assert_eq!(
        (status.phase, status.reason.as_deref()),
        (OperationPhase::Failed, Some("MoverNotCreated")),
        "{:?}",
        status.message
    );
    assert!(reef.cluster().await.status.unwrap().operation_lock.is_none());

    namespace.kubectl(&["delete", "resourcequota", "few"]).await;
    reef.ask("after", json!({})).await;
    let status = reef.ended("after", TWICE).await.status.unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn servers_that_keep_their_key_are_backed_up_whatever_secret_the_spec_names() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-other-key").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 1, &claim(), "").await;
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "data": {"key": OTHER_KEY}});
    namespace.apply(&secret.to_string()).await;
    let patch = json!({"spec": {"unseal": {"type": "static", "credentialsSecretRef": {"name": "mine"}}}}).to_string();
    namespace.kubectl(&["patch", "openbaocluster", "kelp", "--type=merge", "-p", &patch]).await;
    eventually("the servers keep what they have", Duration::from_secs(60), async || {
        let conditions = reef.cluster().await.status.unwrap_or_default().conditions;
        let told = conditions.iter().any(|told| told.reason == "UnsealKeyInvalid");
        if told { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;

    reef.ask("kept", json!({})).await;
    let status = reef.ended("kept", TWICE).await.status.unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
    let proof = status.steps.iter().find_map(|step| step.output.get("seal")).unwrap();
    assert!(proof.starts_with("proven"), "{proof}");
    assert!(reef.files().await.contains(&status.artifacts.unwrap().key.unwrap()), "it stays");
    reef.ask("read", json!({"parameters": {"mode": "Verify"}})).await;
    let status = reef.ended("read", TWICE).await.status.unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_operation_that_is_made_again_under_its_name_waits_for_what_the_failed_one_left() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-again").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let reef = Reef::start(&namespace, 1, &claim(), "").await;
    reef.patch_backup(json!({"jwtAuthRole": "nobodys"})).await;
    reef.ask("now", json!({})).await;
    let status = reef.ended("now", TWICE).await.status.unwrap();
    assert_eq!((status.phase, status.reason.as_deref()), (OperationPhase::Failed, Some("OpenBaoAuth")));

    reef.patch_backup(json!({"jwtAuthRole": null})).await;
    // Its Job goes with the record, and later than that: somebody else's finalizer keeps it for a while.
    let held = json!({"metadata": {"finalizers": ["example.com/held"]}}).to_string();
    let free = json!({"metadata": {"finalizers": null}}).to_string();
    namespace.kubectl(&["patch", "job", "now-snapshot", "--type=merge", "-p", &held]).await;
    namespace.kubectl(&["delete", "openbaooperation", "now"]).await;
    reef.ask("now", json!({})).await;
    eventually("it waits", Duration::from_secs(60), async || {
        let status = reef.operation("now").await.status.unwrap_or_default();
        let message = status.message.unwrap_or_default();
        if message.contains("earlier operation") { Ok(()) } else { Err(format!("{:?}: {message}", status.phase)) }
    })
    .await;
    namespace.kubectl(&["patch", "job", "now-snapshot", "--type=merge", "-p", &free]).await;
    let status = reef.ended("now", TWICE).await.status.unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
}
