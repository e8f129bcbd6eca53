//! Keys and first initialisations: from another OpenBao, from the user, by the API, and lost.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use serde_json::json;

use super::{
    PATIENCE, available, bao, change, condition, get, keeping, login, manifest, must_hold, put, says, told, uid,
};
use crate::harness::{Cluster, Namespace, Operator, eventually};

/// What [`manifest`] has servers run.
const IMAGE: &str = "docker.io/openbao/openbao:2.7.2";

async fn give(namespace: &Namespace, name: &str, data: &[(&str, &[u8])]) {
    let api = namespace.api::<Secret>();
    let _ = api.delete(name, &kube::api::DeleteParams::default()).await;
    let data = data.iter().map(|(key, bytes)| ((*key).to_owned(), ByteString(bytes.to_vec())));
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        data: Some(data.collect()),
        ..Secret::default()
    };
    api.create(&PostParams::default(), &secret).await.expect("the Secret");
}

/// Waits for another pod `kelp-0` than the one with this UID.
async fn another(namespace: &Namespace, than: &str) -> String {
    eventually("another pod", PATIENCE, async || {
        let now = uid(namespace, "kelp-0").await;
        if now.is_empty() || now == than { Err(now) } else { Ok(now) }
    })
    .await
}

/// A cluster `root`, and a cluster `leaf` that unseals itself with a key of that one.
async fn root_and_leaf(namespace: &Namespace, image: &str, extra: &str) {
    namespace.apply(&manifest("root", "  replicas: 1\n")).await;
    let seal = format!(
        "  replicas: 1\n  unseal:\n    type: transit\n    credentialsSecretRef: {{name: leaf-seal}}\n    transit:\n      \
         address: https://root-public.{}.svc:8200\n      keyName: leaf\n      mountPath: transit/\n{extra}",
        namespace.name()
    );
    namespace.apply(&manifest("leaf", &seal).replace(IMAGE, image)).await;
    says(namespace, "leaf", "Degraded", "True", "SealCredentialsMissing").await;
    told(namespace, "SealCredentialsMissing").await;

    available(namespace, "root").await;
    let admin = login(namespace, "root").await;
    for (path, body) in [
        ("sys/mounts/transit", r#"{"type":"transit"}"#),
        ("transit/keys/leaf", "{}"),
        (
            "sys/policies/acl/leaf",
            r#"{"policy":"path \"transit/encrypt/leaf\" { capabilities = [\"update\"] }\npath \"transit/decrypt/leaf\" { capabilities = [\"update\"] }"}"#,
        ),
    ] {
        bao(namespace, "root", &admin, &["POST", path, body]).await.unwrap();
    }
    let answer = bao(
        namespace,
        "root",
        &admin,
        &["POST", "auth/token/create-orphan", r#"{"policies":["leaf"],"period":"24h"}"#],
    )
    .await
    .unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let token = answer["auth"]["client_token"].as_str().unwrap();
    let ca = namespace.kubectl(&["get", "configmap", "root-ca", "-o", "jsonpath={.data.ca\\.crt}"]).await;
    // The keys that the Go operator knows, and no field that names them.
    give(namespace, "leaf-seal", &[("token", token.as_bytes()), ("ca.crt", ca.as_bytes())]).await;
}

#[tokio::test]
async fn a_cluster_unseals_with_the_transit_engine_of_another_and_waits_while_that_is_away() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-transit").await;
    let _operator = Operator::start(&namespace, &[]).await;
    root_and_leaf(&namespace, IMAGE, "").await;

    let leaf = available(&namespace, "leaf").await;
    assert_eq!(condition(&leaf, "Degraded").0, "False", "{:?}", condition(&leaf, "Degraded"));
    assert!(namespace.api::<Secret>().get_opt("leaf-unseal-key").await.unwrap().is_none(), "no key of ours");
    let client = login(&namespace, "leaf").await;
    put(&namespace, "leaf", &client, "kept").await;

    // Without the root the leaf cannot start: it says so, and comes back by itself.
    namespace.kubectl(&["patch", "openbaocluster", "root", "--type=merge", "-p", r#"{"spec":{"paused":true}}"#]).await;
    namespace.kubectl(&["scale", "statefulset", "root", "--replicas=0"]).await;
    eventually("the root is away", PATIENCE, async || {
        if uid(&namespace, "root-0").await.is_empty() { Ok(()) } else { Err(String::new()) }
    })
    .await;
    namespace.kubectl(&["delete", "pod", "leaf-0"]).await;
    says(&namespace, "leaf", "Available", "False", "").await;
    says(&namespace, "leaf", "Degraded", "True", "leaf-0").await;
    namespace.kubectl(&["patch", "openbaocluster", "root", "--type=merge", "-p", r#"{"spec":{"paused":false}}"#]).await;
    available(&namespace, "root").await;
    available(&namespace, "leaf").await;
    must_hold(&namespace, "leaf", &client, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_backup_whose_key_is_elsewhere_comes_back_only_where_the_spec_lets_its_test_reach_the_key() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-transit-test").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(crate::restore::setup::CLAIM).await;
    let target = "  backup: {target: {provider: file, file: {claimName: sand}}}\n";
    // In this one the data mover of this test run runs too.
    root_and_leaf(&namespace, &cluster.server_image().await, target).await;
    ended(&namespace, "first", "Backup", "Succeeded").await;

    let told = ended(&namespace, "isolated", "RestoreTest", "Failed").await;
    assert!(told.contains("SealNeedsNetwork"), "{told}");
    change(&namespace, "leaf", json!({"backup": {"restoreTest": {"network": "Open"}}})).await;
    let told = ended(&namespace, "open", "RestoreTest", "Succeeded").await;
    assert!(told.contains(r#""isolated":"false""#), "{told}");
}

/// Asks for an operation of the leaf, waits for its end, and returns its status.
async fn ended(namespace: &Namespace, name: &str, kind: &str, phase: &str) -> String {
    let whole = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": name},
        "spec": {"cluster": "leaf", "operation": kind}});
    namespace.apply(&whole.to_string()).await;
    eventually(&format!("{name} ends as {phase}"), 2 * PATIENCE, async || {
        let status = namespace.kubectl(&["get", "openbaooperation", name, "-o", "jsonpath={.status}"]).await;
        let now = serde_json::from_str(&status).unwrap_or(json!({}))["phase"].clone();
        if now == phase { Ok(status) } else { Err(status) }
    })
    .await
}

#[tokio::test]
async fn a_static_key_of_the_user_is_waited_for_and_must_have_32_bytes() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-own-key").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let extra = "  replicas: 1\n  unseal: {type: static, credentialsSecretRef: {name: mine}}\n";
    namespace.apply(&manifest("kelp", extra)).await;
    says(&namespace, "kelp", "Degraded", "True", "SealCredentialsMissing").await;
    give(&namespace, "mine", &[("key", b"too short")]).await;
    says(&namespace, "kelp", "Degraded", "True", "UnsealKeyInvalid").await;
    told(&namespace, "UnsealKeyInvalid").await;
    assert_eq!(uid(&namespace, "kelp-0").await, "", "nothing is sealed with a bad key");
    give(&namespace, "mine", &[("key", &[7; 32])]).await;
    available(&namespace, "kelp").await;
    says(&namespace, "kelp", "Degraded", "False", "").await;
    // The id under which data was sealed is part of the data.
    let patch = json!({"spec": {"unseal": {"static": {"currentKeyID": "another"}}}}).to_string();
    let output = cluster
        .inside(&["kubectl", "-n", namespace.name(), "patch", "openbaocluster", "kelp", "--type=merge", "-p", &patch])
        .await;
    let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && refusal.contains("currentKeyID cannot be changed"), "{refusal}");
}

#[tokio::test]
async fn servers_that_run_keep_their_settings_until_the_new_seal_is_known_to_open_their_data() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-other-key").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "  replicas: 1\n", 0).await;
    let made = namespace.api::<Secret>().get("kelp-unseal-key").await.unwrap().data.unwrap()["key"].0.clone();
    let pod = uid(&namespace, "kelp-0").await;
    let configured = ["get", "configmap", "kelp-config", "-o", "yaml"];

    // Nothing of it reaches the servers, not even one that Kubernetes starts anew meanwhile.
    change(&namespace, "kelp", json!({"unseal": {"type": "static", "credentialsSecretRef": {"name": "mine"}}})).await;
    says(&namespace, "kelp", "Degraded", "True", "SealCredentialsMissing").await;
    give(&namespace, "mine", &[("key", &[8; 32])]).await;
    says(&namespace, "kelp", "Degraded", "True", "is another one than that of Secret kelp-unseal-key").await;
    assert_eq!(uid(&namespace, "kelp-0").await, pod, "it would not come back");
    assert!(!namespace.kubectl(&configured).await.contains("seal-credentials"));
    namespace.kubectl(&["delete", "pod", "kelp-0"]).await;
    let moved = another(&namespace, &pod).await;
    must_hold(&namespace, "kelp", &token, "kept").await;

    give(&namespace, "mine", &[("key", made.as_slice())]).await;
    another(&namespace, &moved).await;
    available(&namespace, "kelp").await;
    says(&namespace, "kelp", "Degraded", "False", "").await;
    assert!(namespace.kubectl(&configured).await.contains("seal-credentials"));
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
async fn a_lost_answer_to_the_first_initialisation_costs_a_second_one_and_no_more() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-lost-init").await;
    // The API server refuses to store the token, whoever asks, until the policy goes.
    let policy = format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {0}}}\nspec:\n  \
         failurePolicy: Fail\n  matchConstraints:\n    resourceRules: [{{apiGroups: [\"\"], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [secrets]}}]\n  \
         validations: [{{expression: \"object.metadata.name != 'kelp-root-token' || !has(object.data) || !('token' in object.data)\", message: \"the disk is full\"}}]\n\
         ---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: {0}}}\nspec:\n  \
         policyName: {0}\n  validationActions: [Deny]\n  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {0}}}}}}}\n",
        namespace.name()
    );
    namespace.apply(&policy).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace
        .apply(
            "apiVersion: openbao.org/v1alpha1\nkind: OpenBaoCluster\nmetadata: {name: kelp}\nspec:\n  version: \"2.7.2\"\n  \
             image: docker.io/openbao/openbao:2.7.2\n  replicas: 1\n  storage: {size: 1Gi}\n  tls: {enabled: true}\n",
        )
        .await;
    let volume = eventually("the first volume", PATIENCE, async || {
        let uid = namespace.kubectl(&["get", "pvc", "-o", "jsonpath={.items[*].metadata.uid}"]).await;
        if uid.is_empty() { Err(uid) } else { Ok(uid) }
    })
    .await;
    eventually("the volume without an owner is given up", PATIENCE, async || {
        let secret = namespace.api::<Secret>().get("kelp-root-token").await.map_err(|error| error.to_string())?;
        let given_up = secret.metadata.annotations.unwrap_or_default().contains_key("openbao.org/init-given-up");
        let status = get(&namespace, "kelp").await?;
        assert_ne!(condition(&status, "Available").0, "True", "nobody could administer it");
        if given_up { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let name = namespace.name();
    namespace.kubectl(&["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name]).await;
    available(&namespace, "kelp").await;
    let secret = namespace.api::<Secret>().get("kelp-root-token").await.unwrap();
    let token = String::from_utf8(secret.data.unwrap()["token"].0.clone()).unwrap();
    let answer = bao(&namespace, "kelp", &token, &["GET", "auth/token/lookup-self"]).await.unwrap();
    assert!(answer.contains("root"), "{answer}");
    let now = namespace.kubectl(&["get", "pvc", "-o", "jsonpath={.items[*].metadata.uid}"]).await;
    assert_ne!(now, volume, "another volume");
}
