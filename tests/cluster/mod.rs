//! A cluster on a real Kubernetes: from a manifest to three servers that serve, and back through failures.

mod audit;
mod bench;
mod certificates;
mod closed;
mod corners;
mod exposure;
mod failures;
mod many;
mod plugins;
mod rescue;
mod scale;
mod seals;
mod trouble;
mod writer;

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use kube::ResourceExt;
use openbao_operator::api::OpenBaoCluster;

use crate::harness::{Cluster, Namespace, Operator, eventually};

/// Two cores, several clusters at once: generous, since what is measured is not here.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A small cluster with a person's login, so that tests can write data as a client would.
pub fn manifest(name: &str, extra: &str) -> String {
    format!(
        r#"
apiVersion: openbao.org/v1alpha1
kind: OpenBaoCluster
metadata: {{name: {name}}}
spec:
  version: "2.7.2"
  image: docker.io/openbao/openbao:2.7.2
  storage: {{size: 1Gi}}
  tls: {{enabled: true}}
  selfInit:
    enabled: true
    oidc: {{enabled: true}}
    requests:
    - {{name: userpass, operation: update, path: sys/auth/userpass, data: {{type: userpass}}}}
    - {{name: admin, operation: update, path: sys/policies/acl/admin, policy: {{policy: 'path "*" {{ capabilities = ["create","read","update","delete","list","sudo"] }}'}}}}
    - {{name: user, operation: update, path: auth/userpass/users/admin, data: {{password: admin, token_policies: [admin]}}}}
    - {{name: kv, operation: update, path: sys/mounts/secret, secretEngine: {{type: kv}}}}
{extra}"#
    )
}

/// Waits for the condition `Available` and returns the object.
pub async fn available(namespace: &Namespace, name: &str) -> OpenBaoCluster {
    eventually("the cluster is available", PATIENCE, async || {
        let cluster = get(namespace, name).await?;
        let ready = condition(&cluster, "Available");
        let replicas = cluster.spec.replicas;
        let all = cluster.status.as_ref().and_then(|status| status.ready_replicas) == Some(replicas);
        if ready.0 == "True" && all { Ok(cluster) } else { Err(format!("{ready:?}")) }
    })
    .await
}

pub async fn get(namespace: &Namespace, name: &str) -> Result<OpenBaoCluster, String> {
    namespace.api::<OpenBaoCluster>().get(name).await.map_err(|error| error.to_string())
}

/// Status and message of a condition.
pub fn condition(cluster: &OpenBaoCluster, kind: &str) -> (String, String) {
    let all = cluster.status.iter().flat_map(|status| &status.conditions);
    all.filter(|condition| condition.type_ == kind)
        .map(|condition| (condition.status.clone(), format!("{}: {}", condition.reason, condition.message)))
        .next()
        .unwrap_or_default()
}

/// Waits until a condition has this status and its reason or message holds this word.
pub async fn says(namespace: &Namespace, cluster: &str, kind: &str, status: &str, word: &str) -> OpenBaoCluster {
    eventually(&format!("{kind} is {status} with {word:?}"), PATIENCE, async || {
        let object = get(namespace, cluster).await?;
        let found = condition(&object, kind);
        if found.0 == status && found.1.contains(word) { Ok(object) } else { Err(format!("{found:?}")) }
    })
    .await
}

/// Waits for an event with this reason.
pub async fn told(namespace: &Namespace, reason: &str) {
    eventually(&format!("an event {reason}"), Duration::from_secs(30), async || {
        let all = namespace.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).await;
        if all.split_whitespace().any(|one| one == reason) { Ok(()) } else { Err(all) }
    })
    .await;
}

/// A change of the spec.
pub async fn change(namespace: &Namespace, cluster: &str, spec: serde_json::Value) {
    let patch = serde_json::json!({ "spec": spec }).to_string();
    namespace.kubectl(&["patch", "openbaocluster", cluster, "--type=merge", "-p", &patch]).await;
}

/// UID of a pod; empty while there is none.
pub async fn uid(namespace: &Namespace, pod: &str) -> String {
    namespace.api::<Pod>().get(pod).await.ok().and_then(|pod| pod.uid()).unwrap_or_default()
}

/// Waits until the cluster can bear a loss: before that every test of a loss would be one of its end.
pub async fn settled(namespace: &Namespace, tolerance: i32) {
    available(namespace, "kelp").await;
    eventually("members vote", PATIENCE, async || {
        let status = get(namespace, "kelp").await?.status.unwrap_or_default();
        let voting = status.members.iter().filter(|member| member.voter == Some(true)).count();
        if status.failure_tolerance == Some(tolerance) && voting == status.members.len() {
            Ok(())
        } else {
            Err(format!("{:?}", status.members))
        }
    })
    .await;
}

/// The cluster `kelp` with more lines of spec, able to bear so many losses, and a secret in it that must stay: the token that reads it.
pub async fn keeping(namespace: &Namespace, extra: &str, tolerance: i32) -> String {
    namespace.apply(&manifest("kelp", extra)).await;
    settled(namespace, tolerance).await;
    let token = login(namespace, "kelp").await;
    put(namespace, "kelp", &token, "kept").await;
    token
}

/// A request to the cluster as a client makes it, through the public Service.
pub async fn bao(namespace: &Namespace, cluster: &str, token: &str, words: &[&str]) -> Result<String, String> {
    let url = |path: &str| format!("https://{cluster}-public.{}.svc:8200/v1/{path}", namespace.name());
    let (method, path, data) = (words[0], words[1], words.get(2).copied().unwrap_or_default());
    let header = format!("X-Vault-Token: {token}");
    let mut command = vec!["curl", "-sk", "--max-time", "5", "--fail-with-body", "-X", method, "-H", &header];
    if !data.is_empty() {
        command.extend(["-d", data]);
    }
    let target = url(path);
    command.push(&target);
    let output = namespace.cluster().inside(&command).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// A client's token.
pub async fn login(namespace: &Namespace, cluster: &str) -> String {
    eventually("a person can log in", PATIENCE, async || {
        let answer =
            bao(namespace, cluster, "", &["POST", "auth/userpass/login/admin", r#"{"password":"admin"}"#]).await?;
        let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        answer["auth"]["client_token"].as_str().map(str::to_owned).ok_or_else(|| answer.to_string())
    })
    .await
}

/// Writes a word and reads it back later.
pub async fn put(namespace: &Namespace, cluster: &str, token: &str, word: &str) {
    eventually("a secret is written", PATIENCE, async || {
        bao(namespace, cluster, token, &["POST", "secret/word", &format!(r#"{{"word":"{word}"}}"#)]).await
    })
    .await;
}

pub async fn must_hold(namespace: &Namespace, cluster: &str, token: &str, word: &str) {
    eventually("the secret is still there", PATIENCE, async || {
        let answer = bao(namespace, cluster, token, &["GET", "secret/word"]).await?;
        if answer.contains(word) { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn a_manifest_becomes_three_servers_that_serve_and_deleted_children_come_back() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-first").await;
    let operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "")).await;
    let found = available(&namespace, "kelp").await;
    let status = found.status.clone().unwrap_or_default();
    assert_eq!(status.current_version.as_deref(), Some("2.7.2"));
    assert_eq!(status.initialized, Some(true));
    assert_eq!(condition(&found, "Degraded").0, "False", "{:?}", condition(&found, "Degraded"));
    eventually("all members vote", PATIENCE, async || {
        let status = get(&namespace, "kelp").await?.status.unwrap_or_default();
        if status.failure_tolerance == Some(1) { Ok(()) } else { Err(format!("{:?}", status.failure_tolerance)) }
    })
    .await;
    eventually("the stanza of the first start is gone, and nobody else can have its name", PATIENCE, async || {
        let held = namespace.api::<ConfigMap>().get("kelp-bootstrap").await.map_err(|error| error.to_string())?;
        let text = format!("{:?}", held.data);
        if text.contains("no settings of its own") && !text.contains("initialize") { Ok(()) } else { Err(text) }
    })
    .await;
    let token = login(&namespace, "kelp").await;
    put(&namespace, "kelp", &token, "first").await;

    for (kind, name) in [
        ("service", "kelp"),
        ("service", "kelp-public"),
        ("service", "kelp-active"),
        ("configmap", "kelp-config"),
        ("configmap", "kelp-ca"),
        ("configmap", "kelp-bootstrap"),
        ("secret", "kelp-tls-server"),
        ("serviceaccount", "kelp"),
        ("role", "kelp-server"),
        ("rolebinding", "kelp-server"),
        ("pdb", "kelp"),
    ] {
        namespace.kubectl(&["delete", kind, name]).await;
        eventually(&format!("{kind} {name} is back"), Duration::from_secs(20), async || {
            let output = cluster.inside(&["kubectl", "-n", namespace.name(), "get", kind, name]).await;
            if output.status.success() { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
    }
    available(&namespace, "kelp").await;
    must_hold(&namespace, "kelp", &token, "first").await;
    for line in operator.lines() {
        let text = line.to_string();
        assert!(!text.contains("PRIVATE KEY"), "a key in the log");
    }
}

#[tokio::test]
async fn an_unseal_key_that_is_deleted_raises_an_alarm_and_is_never_made_again() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-key").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "")).await;
    available(&namespace, "kelp").await;
    let secrets = namespace.api::<Secret>();
    let key = secrets.get("kelp-unseal-key").await.unwrap();
    namespace.kubectl(&["delete", "secret", "kelp-unseal-key"]).await;
    eventually("the alarm", PATIENCE, async || {
        let degraded = condition(&get(&namespace, "kelp").await?, "Degraded");
        if degraded.0 == "True" && degraded.1.contains("UnsealKeyMissing") {
            Ok(())
        } else {
            Err(format!("{degraded:?}"))
        }
    })
    .await;
    assert!(secrets.get_opt("kelp-unseal-key").await.unwrap().is_none(), "no new key over old data");
    let mut back = key;
    back.metadata.resource_version = None;
    back.metadata.uid = None;
    back.metadata.managed_fields = None;
    secrets.create(&kube::api::PostParams::default(), &back).await.unwrap();
    eventually("the alarm ends", PATIENCE, async || {
        let degraded = condition(&get(&namespace, "kelp").await?, "Degraded");
        if degraded.0 == "False" { Ok(()) } else { Err(format!("{degraded:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_statefulset_of_somebody_else_is_never_taken_over() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-foreign").await;
    namespace
        .apply(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: kelp}\nspec:\n  replicas: 0\n  serviceName: theirs\n  \
             selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec: {containers: [{name: c, image: busybox}]}\n",
        )
        .await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "")).await;
    eventually("it is said", PATIENCE, async || {
        let degraded = condition(&get(&namespace, "kelp").await?, "Degraded");
        if degraded.1.contains("NameTaken") { Ok(()) } else { Err(format!("{degraded:?}")) }
    })
    .await;
    let theirs = namespace.kubectl(&["get", "statefulset", "kelp", "-o", "jsonpath={.spec.serviceName}"]).await;
    assert_eq!(theirs, "theirs");
}

#[tokio::test]
async fn the_first_start_names_a_config_map_of_somebody_else_that_is_in_its_way_and_goes_on_without_it() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-foreign-grant").await;
    namespace.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kelp-bootstrap}\ndata: {theirs: kept}\n").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "  replicas: 1\n")).await;
    let told = says(&namespace, "kelp", "Degraded", "True", "NameTaken").await;
    assert!(condition(&told, "Degraded").1.contains("ConfigMap kelp-bootstrap"), "{:?}", condition(&told, "Degraded"));
    let theirs = namespace.kubectl(&["get", "configmap", "kelp-bootstrap", "-o", "jsonpath={.data.theirs}"]).await;
    assert_eq!(theirs, "kept");
    namespace.kubectl(&["delete", "configmap", "kelp-bootstrap"]).await;
    available(&namespace, "kelp").await;
}

#[tokio::test]
async fn an_impossible_spec_is_said_in_a_condition_and_leaves_the_running_cluster_alone() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-spec").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "  replicas: 1\n")).await;
    let before = available(&namespace, "kelp").await;
    let patch = r#"{"spec":{"audit":[{"type":"syslog","path":"s"}]}}"#;
    namespace.kubectl(&["patch", "openbaocluster", "kelp", "--type=merge", "-p", patch]).await;
    eventually("the condition", PATIENCE, async || {
        let supported = condition(&get(&namespace, "kelp").await?, "Supported");
        if supported.0 == "False" { Ok(()) } else { Err(format!("{supported:?}")) }
    })
    .await;
    let after = get(&namespace, "kelp").await.unwrap();
    assert_eq!(condition(&after, "Available").0, "True");
    assert_eq!(after.status.unwrap().cluster_id, before.status.unwrap().cluster_id);
}

#[tokio::test]
async fn a_cluster_without_self_init_is_initialised_by_the_operator_which_keeps_the_root_token() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-sysinit").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace
        .apply(
            "apiVersion: openbao.org/v1alpha1\nkind: OpenBaoCluster\nmetadata: {name: kelp}\nspec:\n  version: \"2.6.1\"\n  \
             image: docker.io/openbao/openbao:2.6.1\n  replicas: 1\n  storage: {size: 1Gi}\n  tls: {enabled: true}\n",
        )
        .await;
    available(&namespace, "kelp").await;
    let secret = namespace.api::<Secret>().get("kelp-root-token").await.unwrap();
    assert!(secret.owner_references().is_empty(), "it outlives the cluster object");
    let token = String::from_utf8(secret.data.unwrap()["token"].0.clone()).unwrap();
    let answer = bao(&namespace, "kelp", &token, &["GET", "auth/token/lookup-self"]).await.unwrap();
    assert!(answer.contains("root"), "{answer}");
}

#[tokio::test]
async fn accounts_of_jobs_exist_only_while_their_feature_is_on() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-accounts").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let backup = "  replicas: 1\n  backup: {target: {provider: file, file: {claimName: backups}}}\n";
    namespace.apply(&manifest("kelp", backup)).await;
    available(&namespace, "kelp").await;
    let names = async || -> BTreeSet<String> {
        let all = namespace.api::<ServiceAccount>().list(&kube::api::ListParams::default()).await.unwrap();
        all.items.iter().map(ResourceExt::name_any).filter(|name| name.starts_with("kelp")).collect()
    };
    assert_eq!(names().await, ["kelp", "kelp-backup", "kelp-restore"].map(str::to_owned).into());
    namespace
        .kubectl(&[
            "patch",
            "openbaocluster",
            "kelp",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/spec/backup"}]"#,
        ])
        .await;
    eventually("the accounts are gone", PATIENCE, async || {
        let names = names().await;
        if names.len() == 1 { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    assert_eq!(namespace.api::<Service>().list(&kube::api::ListParams::default()).await.unwrap().items.len(), 3);
}
