//! The life of a cluster under the rights that the chart gives, steered with the plugin: what is allowed is enough, what
//! is allowed is used, and no secret is told to anyone.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde_json::Value;

use crate::harness::{Audit, Cluster, Namespace, Operator, rights};

const ACCOUNT: &str = "openbao-operator";
/// In the cluster's configuration, and nobody's business elsewhere.
const PASSWORD: &str = "correct-horse-battery-staple";

/// Rights that this life does not use, each with its reason.
const UNUSED: &[(&str, &str, &str)] = &[
    // Granted onward: whoever grants a right must hold it.
    ("update", "pods", "OpenBao labels its own pods"),
    ("update", "configmaps", "a mover writes its own ConfigMap"),
    // Asked for by API servers that enforce it.
    ("update", "openbaoclusters/finalizers", "owner references"),
    ("update", "openbaorestores/finalizers", "owner references"),
    ("update", "openbaooperations/finalizers", "owner references"),
    // Other lives use these; the garbage collector ends what a cluster owns.
    ("delete", "statefulsets", "volumes that grow"),
    ("delete", "services", "a feature that is switched off"),
    ("delete", "serviceaccounts", "a feature that is switched off"),
    ("delete", "roles", "a feature that is switched off"),
    ("delete", "rolebindings", "a feature that is switched off"),
    ("delete", "secrets", "a key that a new cluster must not take over"),
    ("delete", "configmaps", "the grant to initialise, once it was used"),
    ("delete", "openbaooperations", "more than fifty records"),
    ("update", "openbaorollouts/finalizers", "owner references"),
    ("get", "openbaorollouts", "there is no rollout here"),
    ("patch", "openbaorollouts", "there is no rollout here"),
    ("patch", "openbaorollouts/status", "there is no rollout here"),
    ("patch", "persistentvolumeclaims", "volumes that grow"),
    ("get", "persistentvolumeclaims", "volumes that grow"),
    ("get", "poddisruptionbudgets", "one server has none"),
    ("create", "poddisruptionbudgets", "one server has none"),
    ("patch", "poddisruptionbudgets", "one server has none"),
    ("delete", "poddisruptionbudgets", "one server has none"),
    ("get", "networkpolicies", "spec.network is not set"),
    ("create", "networkpolicies", "spec.network is not set"),
    ("patch", "networkpolicies", "spec.network is not set"),
    ("delete", "networkpolicies", "spec.network is not set"),
    ("get", "ingresses", "nothing leads in from outside"),
    ("create", "ingresses", "nothing leads in from outside"),
    ("patch", "ingresses", "nothing leads in from outside"),
    ("delete", "ingresses", "nothing leads in from outside"),
    ("get", "httproutes", "nothing leads in from outside"),
    ("create", "httproutes", "nothing leads in from outside"),
    ("patch", "httproutes", "nothing leads in from outside"),
    ("delete", "httproutes", "nothing leads in from outside"),
    ("get", "tlsroutes", "nothing leads in from outside"),
    ("create", "tlsroutes", "nothing leads in from outside"),
    ("patch", "tlsroutes", "nothing leads in from outside"),
    ("delete", "tlsroutes", "nothing leads in from outside"),
    ("get", "backendtlspolicies", "nothing leads in from outside"),
    ("create", "backendtlspolicies", "nothing leads in from outside"),
    ("patch", "backendtlspolicies", "nothing leads in from outside"),
    ("delete", "backendtlspolicies", "nothing leads in from outside"),
    ("get", "servicemonitors", "nothing leads in from outside"),
    ("create", "servicemonitors", "nothing leads in from outside"),
    ("patch", "servicemonitors", "nothing leads in from outside"),
    ("delete", "servicemonitors", "nothing leads in from outside"),
    ("get", "leases", "a lost race"),
    ("get", "pods", "the watch knows them"),
    ("patch", "secrets", "certificates that are renewed"),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: cargo xtask test --soak"]
async fn a_life_under_the_charts_rights_needs_no_more_uses_them_all_and_tells_no_secret() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("life").await;
    let rules = allowed(&rights(&namespace, namespace.name()));
    let audit = cluster.audit();
    let operator = Operator::start(&namespace, &[]).await;
    // Two, as the chart runs them: the second one watches the lease.
    let _standby = Operator::start(&namespace, &[]).await;

    namespace.apply(&manifest()).await;
    namespace.kubectl(&["wait", "openbaocluster/kelp", "--for=condition=Available", "--timeout=300s"]).await;
    let shown = plugin(&namespace, &["status", "kelp"]).await;
    assert!(shown.contains("kelp-0") && shown.contains("Active"), "{shown}");
    let shown = plugin(&namespace, &["backup", "kelp", "--wait", "--timeout", "5m", "--intent", "to have one"]).await;
    assert!(shown.contains("Succeeded") && shown.contains("to have one"), "{shown}");
    let shown = plugin(&namespace, &["backups", "kelp"]).await;
    assert!(shown.contains("no keep rule") && shown.contains(".snap"), "{shown}");
    let shown = plugin(&namespace, &["restore", "kelp", "--latest", "--yes", "--wait", "--timeout", "8m"]).await;
    assert!(shown.contains("Completed") && shown.contains("Proof"), "{shown}");
    let shown = plugin(&namespace, &["unlock", "kelp", "--yes"]).await;
    assert!(shown.contains("is free"), "{shown}");
    let shown = plugin(&namespace, &["ops", "--cluster", "kelp"]).await;
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");

    let told = everything_told(&namespace, &operator).await;
    namespace.kubectl(&["delete", "openbaocluster", "kelp", "--timeout=120s"]).await;
    no_secret(&namespace, &told).await;
    enough_and_used(&audit, &namespace, &rules);
}

fn manifest() -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: sand}}\n\
         spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n---\n\
         apiVersion: openbao.org/v1alpha1\nkind: OpenBaoCluster\nmetadata: {{name: kelp}}\nspec:\n  version: 2.7.2\n  \
         replicas: 1\n  storage: {{size: 1Gi}}\n  deletionPolicy: DeletePVCs\n  tls: {{enabled: true}}\n  \
         configuration: {{raft: {{performanceMultiplier: 1}}}}\n  selfInit:\n    enabled: true\n    oidc: {{enabled: true}}\n    \
         requests:\n    - {{name: userpass, operation: update, path: sys/auth/userpass, data: {{type: userpass}}}}\n    \
         - {{name: admin, operation: update, path: auth/userpass/users/admin, data: {{password: {PASSWORD}}}}}\n  \
         backup: {{target: {{provider: file, file: {{claimName: sand}}}}}}\n"
    )
}

/// What the chart's roles for one namespace allow, as verb and resource.
fn allowed(yaml: &str) -> BTreeSet<(String, String)> {
    let mut rights = BTreeSet::new();
    for document in yaml.split("\n---\n") {
        let role: Value = serde_saphyr::from_str(document).unwrap();
        for rule in role["rules"].as_array().into_iter().flatten() {
            for verb in rule["verbs"].as_array().unwrap() {
                for resource in rule["resources"].as_array().unwrap() {
                    rights.insert((verb.as_str().unwrap().to_owned(), resource.as_str().unwrap().to_owned()));
                }
            }
        }
    }
    rights
}

/// The plugin as a person runs it, on this machine; its two outputs together.
async fn plugin(namespace: &Namespace, words: &[&str]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_kubectl-openbao"));
    command.env("KUBECONFIG", namespace.cluster().devcluster().kubeconfig());
    command.args(["--namespace", namespace.name()]).args(words).kill_on_drop(true);
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "kubectl openbao {words:?}: {status}\n{text}");
    text
}

/// Whatever anybody but the owner of the Secrets may read: objects, events, logs, metrics.
async fn everything_told(namespace: &Namespace, operator: &Operator) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    // The password stands in the cluster's own spec, by the wish of whoever wrote it.
    let kinds = "openbaorestores.openbao.org,openbaooperations.openbao.org,statefulsets,jobs,pods,services,serviceaccounts,\
                 roles,rolebindings,leases,poddisruptionbudgets,events,events.events.k8s.io";
    told.insert("objects".to_owned(), namespace.kubectl(&["get", kinds, "-o", "yaml"]).await);
    let status = namespace.kubectl(&["get", "openbaocluster", "kelp", "-o", "jsonpath={.status}"]).await;
    told.insert("the cluster's status".to_owned(), status);
    let maps = namespace.kubectl(&["get", "configmaps", "-o", "json"]).await;
    told.insert("configmaps".to_owned(), maps);
    told.insert("the operator's log".to_owned(), operator.log());
    told.insert("metrics".to_owned(), operator.http("/metrics").await.unwrap());
    for pod in namespace.kubectl(&["get", "pods", "-o", "name"]).await.split_whitespace() {
        told.insert(pod.to_owned(), namespace.kubectl(&["logs", pod, "--all-containers"]).await);
    }
    told
}

/// No value of any Secret, as bytes or in base64, in anything that was told.
async fn no_secret(namespace: &Namespace, told: &BTreeMap<String, String>) {
    let secrets = namespace.api::<Secret>().list(&ListParams::default()).await.unwrap();
    assert!(!secrets.items.is_empty(), "there are Secrets to look for");
    let mut values: Vec<(String, Vec<u8>)> = vec![("the password".to_owned(), PASSWORD.into())];
    for secret in secrets {
        let name = secret.metadata.name.unwrap_or_default();
        for (key, value) in secret.data.unwrap_or_default() {
            // Certificates are public, and the CA is meant to be told.
            if key.ends_with(".crt") {
                continue;
            }
            values.push((format!("{name}/{key}"), value.0));
        }
    }
    for (secret, value) in values {
        let encoded = STANDARD.encode(&value);
        // The middle of it: neither padding nor a common PEM header decides.
        let encoded = &encoded[encoded.len() / 3..(encoded.len() / 3 + 24).min(encoded.len() - 2)];
        let plain = String::from_utf8(value).ok();
        let plain = plain
            .as_deref()
            .and_then(|text| text.lines().filter(|line| line.len() >= 12).nth(1).or(text.lines().next()));
        for (place, text) in told {
            if secret == "the password" && place == "configmaps" {
                // Self-init reads its requests from a ConfigMap: the spec said it in the open already.
                continue;
            }
            assert!(!text.contains(encoded), "{secret} stands in base64 in {place}");
            if let Some(plain) = plain.filter(|plain| plain.len() >= 12) {
                assert!(!text.contains(plain), "{secret} stands in {place}");
            }
        }
    }
}

/// Nothing was refused, and nothing is held without need.
fn enough_and_used(audit: &Audit, namespace: &Namespace, rules: &BTreeSet<(String, String)>) {
    let user = format!("system:serviceaccount:{}:{ACCOUNT}", namespace.name());
    let requests = audit.requests(&user);
    assert!(requests.len() > 50, "only {} requests were seen", requests.len());
    let refused: BTreeSet<_> =
        requests.iter().filter(|request| request.code == 403).map(|one| (&one.verb, &one.resource)).collect();
    assert!(refused.is_empty(), "refused: {refused:?}");
    let used: BTreeSet<(String, String)> = requests
        .into_iter()
        .flat_map(|one| {
            // An apply that makes a new object is asked for the right to create it.
            let created = (one.verb == "patch" && one.code == 201).then(|| ("create".to_owned(), one.resource.clone()));
            created.into_iter().chain([(one.verb, one.resource)])
        })
        .collect();
    let exempt: BTreeSet<(String, String)> =
        UNUSED.iter().map(|(verb, resource, _)| ((*verb).to_owned(), (*resource).to_owned())).collect();
    let idle: Vec<_> = rules.difference(&used).filter(|right| !exempt.contains(*right)).collect();
    assert!(idle.is_empty(), "held and never used: {idle:?}");
}
