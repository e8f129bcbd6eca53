//! What people and machines do to a cluster that serves: each is said in a condition, and what serves goes on serving.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::api::EvictParams;
use kube::{Api, ResourceExt};
use openbao_operator::api::MemberState;
use openbao_operator::service::cluster::tls::new_authority;
use serde_json::json;

use super::{PATIENCE, available, bao, change, condition, get, keeping, manifest, must_hold, says, settled, told, uid};
use crate::harness::{Cluster, Namespace, Operator, client_with, eventually};

pub async fn leader(namespace: &Namespace) -> String {
    get(namespace, "kelp").await.unwrap().status.unwrap().active_leader.unwrap()
}

pub async fn standby(namespace: &Namespace) -> String {
    let status = get(namespace, "kelp").await.unwrap().status.unwrap();
    let found = status.members.into_iter().find(|member| member.state == MemberState::Standby);
    found.expect("a standby").name
}

async fn label(namespace: &Namespace, pod: &str) -> String {
    namespace.kubectl(&["get", "pod", pod, "-o", r"jsonpath={.metadata.labels.openbao-active}"]).await
}

/// A request to one server, past every Service.
pub async fn directly(namespace: &Namespace, pod: &str, token: &str, method: &str, path: &str) -> String {
    let url = format!("https://{pod}.kelp.{}.svc:8200/v1/{path}", namespace.name());
    let header = format!("X-Vault-Token: {token}");
    let words = ["curl", "-sk", "--max-time", "10", "-X", method, "-H", &header, &url];
    String::from_utf8_lossy(&namespace.cluster().inside(&words).await.stdout).into_owned()
}

async fn evict(namespace: &Namespace, pod: &str) -> Result<(), u16> {
    let client = client_with(&namespace.cluster().devcluster().kubeconfig(), false).await;
    let api: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client, namespace.name());
    match api.evict(pod, &EvictParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn wrong_labels_pauses_evictions_seals_and_foreign_keys_are_told_and_the_cluster_serves_on() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-trouble").await;
    let mut operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;

    // The label by which the leader's Service finds its pod, wrong both ways.
    let (leading, other) = (leader(&namespace).await, standby(&namespace).await);
    namespace.kubectl(&["label", "pod", &other, "openbao-active=true", "--overwrite"]).await;
    namespace.kubectl(&["label", "pod", &leading, "openbao-active=false", "--overwrite"]).await;
    eventually("the labels say what the servers say", Duration::from_secs(60), async || {
        let found = (label(&namespace, &leading).await, label(&namespace, &other).await);
        if found == ("true".to_owned(), "false".to_owned()) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;

    // Paused: nothing is repaired.
    change(&namespace, "kelp", json!({"paused": true})).await;
    says(&namespace, "kelp", "Progressing", "True", "Paused").await;
    namespace.kubectl(&["delete", "service", "kelp-active"]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(namespace.api::<Service>().get_opt("kelp-active").await.unwrap().is_none(), "paused means hands off");
    change(&namespace, "kelp", json!({"paused": false})).await;
    eventually("it is back", Duration::from_secs(20), async || {
        let found = namespace.api::<Service>().get_opt("kelp-active").await.map_err(|error| error.to_string())?;
        found.map(drop).ok_or_else(|| "not yet".to_owned())
    })
    .await;

    // A node is drained: one member at a time may go, the next only when it is back.
    let (first, old) = (standby(&namespace).await, uid(&namespace, &standby(&namespace).await).await);
    let second = leader(&namespace).await;
    assert_eq!(evict(&namespace, &first).await, Ok(()));
    assert_eq!(evict(&namespace, &second).await, Err(429), "the budget holds the second one");
    eventually("the evicted one is back", PATIENCE, async || {
        let now = uid(&namespace, &first).await;
        if now.is_empty() || now == old { Err(now) } else { Ok(()) }
    })
    .await;
    settled(&namespace, 1).await;
    must_hold(&namespace, "kelp", &token, "kept").await;

    // Sealed by hand: said, and left to whoever did it.
    let sealed = leader(&namespace).await;
    let pod = uid(&namespace, &sealed).await;
    directly(&namespace, &sealed, &token, "PUT", "sys/seal").await;
    says(&namespace, "kelp", "OpenBaoSealed", "True", &sealed).await;
    says(&namespace, "kelp", "Degraded", "True", "Sealed").await;
    told(&namespace, "Sealed").await;
    assert_eq!(condition(&get(&namespace, "kelp").await.unwrap(), "Available").0, "True", "two others serve");
    assert_eq!(uid(&namespace, &sealed).await, pod, "nobody restarts what a person sealed");
    namespace.kubectl(&["delete", "pod", &sealed]).await;
    settled(&namespace, 1).await;

    // A class that cannot grow volumes.
    change(&namespace, "kelp", json!({"storage": {"size": "2Gi"}})).await;
    says(&namespace, "kelp", "Degraded", "True", "StorageResizeNotSupported").await;
    told(&namespace, "StorageResizeNotSupported").await;
    let stuck = get(&namespace, "kelp").await.unwrap();
    assert_eq!(condition(&stuck, "Available").0, "True");
    assert!(condition(&stuck, "Degraded").1.contains("Set spec.storage.size back to 1Gi"), "{stuck:?}");
    change(&namespace, "kelp", json!({"storage": {"size": "1Gi"}})).await;
    says(&namespace, "kelp", "Degraded", "False", "Reconciled").await;

    // Keys that are not the API server's any more. A login that worked is believed for hours; an operator that starts knows of
    // none, and looks.
    let script = "openssl ecparam -genkey -noout -name prime256v1 | openssl ec -pubout 2>/dev/null";
    let key = cluster.expect_inside(&["sh", "-c", script]).await;
    let config = json!({ "jwt_validation_pubkeys": [key] }).to_string();
    bao(&namespace, "kelp", &token, &["POST", "auth/jwt/config", &config]).await.unwrap();
    operator.kill();
    let _next = Operator::start(&namespace, &[]).await;
    says(&namespace, "kelp", "OperatorAccess", "False", "signing keys").await;
    told(&namespace, "LoginFailed").await;
    must_hold(&namespace, "kelp", &token, "kept").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_setting_or_an_image_that_does_not_start_stops_at_one_member_and_a_corrected_one_goes_on() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-bad-setting").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    let bad = [
        // OpenBao wants the longest lease to be no shorter than the default one.
        (
            json!({"configuration": {"defaultLeaseTTL": "768h", "maxLeaseTTL": "1h"}}),
            json!({"configuration": {"defaultLeaseTTL": null, "maxLeaseTTL": null}}),
        ),
        (json!({"image": "docker.io/openbao/openbao:2.7.2-none"}), json!({"image": "docker.io/openbao/openbao:2.7.2"})),
    ];
    for (wrong, right) in bad {
        let names = ["kelp-0", "kelp-1", "kelp-2"];
        let mut before = Vec::new();
        for name in names {
            before.push(uid(&namespace, name).await);
        }
        change(&namespace, "kelp", wrong.clone()).await;
        let told = says(&namespace, "kelp", "Degraded", "True", "not serving").await;
        tokio::time::sleep(Duration::from_secs(12)).await;
        let mut restarted = 0;
        for (name, old) in names.iter().zip(&before) {
            restarted += usize::from(uid(&namespace, name).await != *old);
        }
        assert_eq!(restarted, 1, "{wrong}: {:?}", condition(&told, "Degraded"));
        let now = get(&namespace, "kelp").await.unwrap();
        assert_eq!(condition(&now, "Available").0, "True", "{wrong}");
        must_hold(&namespace, "kelp", &token, "kept").await;
        change(&namespace, "kelp", right).await;
        eventually("the correction is carried out", PATIENCE, async || {
            let cluster = get(&namespace, "kelp").await?;
            let found = (condition(&cluster, "Degraded"), condition(&cluster, "Progressing"));
            let lock = cluster.status.and_then(|status| status.operation_lock);
            if found.0.0 == "False" && found.1.0 == "False" && lock.is_none() {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
        settled(&namespace, 1).await;
    }
}

/// The API server makes no pods in this namespace until the policy goes: members that die stay away.
pub fn no_pods(namespace: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {namespace}}}\nspec:\n  \
         failurePolicy: Fail\n  matchConstraints:\n    resourceRules: [{{apiGroups: [\"\"], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]\n  \
         validations: [{{expression: \"false\", message: \"no room\"}}]\n\
         ---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: {namespace}}}\nspec:\n  \
         policyName: {namespace}\n  validationActions: [Deny]\n  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}}}\n"
    )
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_lost_majority_is_said_nothing_drastic_is_done_and_it_recovers_when_the_members_return() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-quorum").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    let before = get(&namespace, "kelp").await.unwrap().status.unwrap().cluster_id;
    let name = namespace.name();
    namespace.apply(&no_pods(name)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let survivor = uid(&namespace, "kelp-2").await;
    namespace.kubectl(&["delete", "pod", "kelp-0", "kelp-1", "--grace-period=0", "--force"]).await;
    let lost = says(&namespace, "kelp", "Available", "False", "QuorumLost").await;
    assert_eq!(condition(&lost, "Degraded").0, "True");
    told(&namespace, "QuorumLost").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(uid(&namespace, "kelp-2").await, survivor, "the one that is left is left alone");
    assert_eq!(get(&namespace, "kelp").await.unwrap().status.unwrap().operation_lock, None);
    namespace.kubectl(&["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name]).await;
    settled(&namespace, 1).await;
    let after = get(&namespace, "kelp").await.unwrap().status.unwrap().cluster_id;
    assert_eq!(after, before);
    must_hold(&namespace, "kelp", &token, "kept").await;
}

/// What holds the name of the stanza after the first start.
const NO_SETTINGS: (&str, &str) = ("kelp-0.hcl", "# This member needs no settings of its own.\n");

/// Waits until a ConfigMap has this under this key, and nothing else.
async fn holds(namespace: &Namespace, name: &str, (key, wanted): (&str, &str)) {
    eventually(&format!("ConfigMap {name} says what it should"), PATIENCE, async || {
        let found = namespace.api::<ConfigMap>().get_opt(name).await.map_err(|error| error.to_string())?;
        let data = found.and_then(|map| map.data).unwrap_or_default();
        let alone = data.len() == 1 && data.get(key).is_some_and(|text| text == wanted);
        if alone { Ok(()) } else { Err(format!("{data:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_servers_read_and_whom_they_believe_is_nobody_elses_to_write() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-strangers").await;
    let mut operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "  replicas: 1\n")).await;
    available(&namespace, "kelp").await;
    let stanza = |settings: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kelp-bootstrap}}\ndata: {settings}\n")
    };

    namespace.apply(&stanza("{config.hcl: theirs, kelp-0.hcl: theirs}")).await;
    holds(&namespace, "kelp-bootstrap", NO_SETTINGS).await;

    let told = namespace.api::<ConfigMap>().get("kelp-ca").await.unwrap().data.unwrap();
    let own = &told["ca.crt"];
    let stranger = new_authority("stranger", namespace.name(), chrono::Utc::now()).unwrap().cert;
    let both = json!({"data": {"ca.crt": format!("{own}{stranger}")}}).to_string();
    namespace.kubectl(&["patch", "configmap", "kelp-ca", "--type=merge", "-p", &both]).await;
    holds(&namespace, "kelp-ca", ("ca.crt", own)).await;
    let served = namespace.api::<Secret>().get("kelp-tls-server").await.unwrap().data.unwrap();
    assert_eq!(&String::from_utf8_lossy(&served["ca.crt"].0), own);

    operator.stop(Duration::from_secs(10)).await;
    namespace.kubectl(&["delete", "configmap", "kelp-bootstrap"]).await;
    namespace.apply(&stanza("{kelp-0.hcl: theirs}")).await;
    let pod = uid(&namespace, "kelp-0").await;
    let _operator = Operator::start(&namespace, &[]).await;
    says(&namespace, "kelp", "Degraded", "True", "ConfigMap kelp-bootstrap").await;
    change(&namespace, "kelp", json!({"configuration": {"logLevel": "debug"}})).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(uid(&namespace, "kelp-0").await, pod, "it would read what somebody else wrote");
    namespace.kubectl(&["delete", "configmap", "kelp-bootstrap"]).await;
    says(&namespace, "kelp", "Degraded", "False", "").await;
    eventually("it is restarted with what the spec says", PATIENCE, async || {
        let now = uid(&namespace, "kelp-0").await;
        if now.is_empty() || now == pod { Err(now) } else { Ok(()) }
    })
    .await;
    available(&namespace, "kelp").await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn clients_never_meet_a_second_cluster_that_somebody_forced_into_being() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-second").await;
    let mut operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    let before = get(&namespace, "kelp").await.unwrap().status.unwrap().cluster_id;
    // Nobody but a person with rights over the namespace can do this, and only while no operator looks: the stanza of a first start,
    // and an empty volume.
    operator.stop(Duration::from_secs(10)).await;
    namespace
        .apply(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kelp-bootstrap}\ndata:\n  kelp-0.hcl: |\n    initialize \"a\" {\n      \
             request \"b\" {\n        operation = \"update\"\n        path = \"sys/auth/userpass\"\n        data = { type = \"userpass\" }\n      }\n    }\n",
        )
        .await;
    let old = uid(&namespace, "kelp-0").await;
    namespace.kubectl(&["delete", "pvc", "data-kelp-0", "--wait=false"]).await;
    namespace.kubectl(&["delete", "pod", "kelp-0"]).await;
    eventually("another server in its place", PATIENCE, async || {
        let now = uid(&namespace, "kelp-0").await;
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        let ready =
            if now.is_empty() { now.clone() } else { namespace.kubectl(&["get", "pod", "kelp-0", "-o", ready]).await };
        if now != old && ready.trim() == "True" { Ok(()) } else { Err(format!("{now}: {ready}")) }
    })
    .await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bad = says(&namespace, "kelp", "Available", "False", "ClusterIDMismatch").await;
    assert_eq!(bad.status.unwrap().cluster_id, before, "the id that is known stays");
    told(&namespace, "ClusterIDMismatch").await;
    // From here on every client finds its data.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..30 {
        let answer = bao(&namespace, "kelp", &token, &["GET", "secret/word"]).await.unwrap();
        assert!(answer.contains("kept"), "{answer}");
    }
    // The way back: without the stanza the member joins.
    holds(&namespace, "kelp-bootstrap", NO_SETTINGS).await;
    namespace.kubectl(&["delete", "pvc", "data-kelp-0", "--wait=false"]).await;
    namespace.kubectl(&["delete", "pod", "kelp-0"]).await;
    settled(&namespace, 1).await;
    let service = namespace.api::<Service>().get("kelp-public").await.unwrap();
    let selector = service.spec.and_then(|spec| spec.selector).unwrap_or_default();
    assert!(!selector.contains_key("statefulset.kubernetes.io/pod-name"), "everybody again: {selector:?}");
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named_and_a_corrected_one_starts() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-image").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let text = manifest("kelp", "  replicas: 1\n").replace("openbao:2.7.2\n", "openbao:2.7.2-none\n");
    namespace.apply(&text).await;
    let found = eventually("the image is named", PATIENCE, async || {
        let object = get(&namespace, "kelp").await?;
        let available = condition(&object, "Available");
        if available.1.contains("2.7.2-none") { Ok(object) } else { Err(format!("{available:?}")) }
    })
    .await;
    assert_eq!(condition(&found, "Available").0, "False");
    change(&namespace, "kelp", json!({"image": "docker.io/openbao/openbao:2.7.2"})).await;
    let found = available(&namespace, "kelp").await;
    assert!(found.metadata.generation > Some(1), "{}", found.name_any());
}

#[tokio::test]
async fn an_account_that_nobody_made_is_named_and_the_cluster_starts_when_somebody_makes_it() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-account").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let account = "  replicas: 1\n  serviceAccount: {name: bao, annotations: {example.org/role: unseal}}\n";
    namespace.apply(&manifest("kelp", account)).await;
    says(&namespace, "kelp", "Degraded", "True", "ServiceAccountMissing").await;
    says(&namespace, "kelp", "Supported", "False", "spec.serviceAccount.annotations").await;
    namespace.kubectl(&["create", "serviceaccount", "bao"]).await;
    available(&namespace, "kelp").await;
    says(&namespace, "kelp", "Degraded", "False", "").await;

    // Another one, mistyped: the only server would not come back.
    let pod = uid(&namespace, "kelp-0").await;
    change(&namespace, "kelp", json!({"serviceAccount": {"name": "boa"}})).await;
    says(&namespace, "kelp", "Degraded", "True", "ServiceAccount boa").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(uid(&namespace, "kelp-0").await, pod);
    change(&namespace, "kelp", json!({"serviceAccount": {"name": "bao"}})).await;
    says(&namespace, "kelp", "Degraded", "False", "").await;
    assert_eq!(uid(&namespace, "kelp-0").await, pod, "it is what it runs as");
}
