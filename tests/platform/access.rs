//! A right is missing in one of the watched namespaces: its clusters say so, and nobody else waits for it.

use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use openbao_operator::api::OpenBaoCluster;
use serde_json::{Value, json};

use crate::harness::{Cluster, Namespace, Operator, eventually};

const LONG: Duration = Duration::from_secs(120);
const KELP: &str = "apiVersion: openbao.org/v1alpha1\nkind: OpenBaoCluster\nmetadata: {name: kelp}\n\
     spec: {version: 2.7.2, replicas: 1, profile: Development, tls: {enabled: false}, \
     storage: {size: 1Gi}, deletionPolicy: DeletePVCs}\n";

#[tokio::test]
async fn a_right_that_is_missing_is_named_on_the_clusters_there_and_holds_up_nobody_else() {
    let cluster = Cluster::get().await;
    let (open, shut) = (cluster.namespace("access-open").await, cluster.namespace("access-shut").await);
    let watched = format!("{},{}", open.name(), shut.name());
    let env = [("OPENBAO_WATCH_NAMESPACES", watched.as_str())];
    // Once, for the rights that come with it.
    Operator::start(&open, &env).await.kill();
    open.kubectl(&["delete", "lease", "openbao-operator", "--ignore-not-found"]).await;
    let rules = without(&shut, &["pods"]).await;

    let operator = Operator::start(&open, &env).await;
    for namespace in [&open, &shut] {
        namespace.apply(KELP).await;
    }
    says(&open, "Available", "True", "").await;
    says(&shut, "Degraded", "True", "pods is forbidden").await;
    assert!(
        shut.kubectl(&["get", "statefulsets", "-o", "name"]).await.is_empty(),
        "nothing is done on half of the facts"
    );
    let waits = operator.http("/readyz").await.expect_err("it is not ready while a namespace is shut");
    assert!(waits.contains("Pod"), "{waits}");

    set_rules(&shut, &rules).await;
    says(&shut, "Available", "True", "").await;
    nothing_is_missing(&shut).await;
}

#[tokio::test]
async fn a_right_that_only_some_clusters_need_is_missed_by_those_alone_and_comes_to_them_without_a_restart() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("access-some").await;
    // Once, for the rights that come with it.
    Operator::start(&namespace, &[]).await.kill();
    namespace.kubectl(&["delete", "lease", "openbao-operator", "--ignore-not-found"]).await;
    let rules = without(&namespace, &["ingresses", "networkpolicies"]).await;

    let operator = Operator::start(&namespace, &[]).await;
    namespace.apply(KELP).await;
    says(&namespace, "Available", "True", "").await;
    nothing_is_missing(&namespace).await;
    operator.http("/readyz").await.expect("nobody waits for these");

    let fenced = json!({"spec": {"network": {"apiServerCIDR": "10.96.0.0/12"}}}).to_string();
    namespace.kubectl(&["patch", "openbaocluster", "kelp", "--type=merge", "-p", &fenced]).await;
    says(&namespace, "Degraded", "True", "may not list networkpolicies").await;
    says(&namespace, "Available", "True", "").await;

    set_rules(&namespace, &rules).await;
    // The watch asks again within about a minute, and so does a look.
    eventually("the servers have a policy", LONG * 2, async || {
        let policy = namespace.api::<NetworkPolicy>().get_opt("kelp-network-policy").await;
        policy.map_err(|error| error.to_string())?.map(drop).ok_or_else(|| "none yet".to_owned())
    })
    .await;
    nothing_is_missing(&namespace).await;
}

/// Not "not degraded": a root token that lies in a Secret is said there too.
async fn nothing_is_missing(namespace: &Namespace) {
    eventually("no right is missing any more", LONG, async || {
        let cluster = namespace.api::<OpenBaoCluster>().get("kelp").await.map_err(|error| error.to_string())?;
        let conditions = cluster.status.unwrap_or_default().conditions;
        if conditions.iter().any(|one| one.reason == "AccessMissing") { Err(format!("{conditions:?}")) } else { Ok(()) }
    })
    .await;
}

/// Takes the rights on these kinds out of the operator's role. Returns the rules as they were.
async fn without(namespace: &Namespace, kinds: &[&str]) -> Value {
    let text = namespace.kubectl(&["get", "role", "openbao-operator", "-o", "json"]).await;
    let role: Value = serde_json::from_str(&text).expect("JSON");
    let mut fewer = role["rules"].clone();
    let rules = fewer.as_array_mut().expect("rules");
    for rule in rules.iter_mut() {
        if let Some(resources) = rule["resources"].as_array_mut() {
            resources.retain(|resource| !resource.as_str().is_some_and(|name| kinds.contains(&name)));
        }
    }
    rules.retain(|rule| rule["resources"] != json!([]));
    set_rules(namespace, &fewer).await;
    role["rules"].clone()
}

async fn set_rules(namespace: &Namespace, rules: &Value) {
    let patch = json!([{"op": "replace", "path": "/rules", "value": rules}]).to_string();
    namespace.kubectl(&["patch", "role", "openbao-operator", "--type=json", "-p", &patch]).await;
}

async fn says(namespace: &Namespace, condition: &str, truth: &str, words: &str) {
    eventually(&format!("{condition}={truth} in {}", namespace.name()), LONG, async || {
        let cluster = namespace.api::<OpenBaoCluster>().get("kelp").await.map_err(|error| error.to_string())?;
        let conditions = cluster.status.unwrap_or_default().conditions;
        let found = conditions.iter().find(|one| one.type_ == condition);
        match found {
            Some(found) if found.status == truth && found.message.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
