//! What leads to a cluster from outside of it: it follows the spec, comes back, goes with its field, and holds up nothing where it
//! cannot be. The definitions of the kinds that others define are those of their releases.

use std::fs;
use std::process::Stdio;

use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;
use openbao_operator::api::ClusterPhase;
use serde_json::{Value, json};
use xtask::machine;

use super::{PATIENCE, available, change, condition, get, manifest, says, told, uid};
use crate::harness::{Audit, Cluster, Namespace, Operator, eventually};

/// A module, and which definitions of it.
type Definitions = (&'static str, &'static [&'static str]);
const PROMETHEUS: Definitions = (
    "github.com/prometheus-operator/prometheus-operator@v0.85.0",
    &["example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"],
);
const GATEWAY: Definitions = (
    "sigs.k8s.io/gateway-api@v1.5.1",
    &[
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
        "config/crd/standard/gateway.networking.k8s.io_tlsroutes.yaml",
        "config/crd/standard/gateway.networking.k8s.io_backendtlspolicies.yaml",
    ],
);

/// As whoever wants to use them installs them: from the module that the proxy has and Go has verified.
async fn install(namespace: &Namespace, (module, files): Definitions) {
    let mut go = tokio::process::Command::new(machine::which("go").expect("Go"));
    go.args(["mod", "download", "-json", module]).current_dir(namespace.folder());
    go.env("PATH", machine::path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = go.output().await.expect("go starts");
    assert!(output.status.success(), "{module}: {}", String::from_utf8_lossy(&output.stdout));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let folder = answer["Dir"].as_str().expect("a folder").to_owned();
    for file in files {
        let copy = namespace.folder().join(file.rsplit('/').next().expect("a name"));
        fs::copy(format!("{folder}/{file}"), &copy).expect("the definition");
        let copy = copy.display().to_string();
        namespace.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &copy]).await;
        namespace.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "-f", &copy]).await;
    }
}

async fn object(namespace: &Namespace, kind: &str) -> Option<Value> {
    let text = namespace.kubectl(&["get", kind, "kelp", "-o", "json", "--ignore-not-found"]).await;
    (!text.trim().is_empty()).then(|| serde_json::from_str(&text).expect("JSON"))
}

async fn there(namespace: &Namespace, kind: &str) -> Value {
    eventually(&format!("{kind} kelp is there"), PATIENCE, async || {
        object(namespace, kind).await.ok_or_else(|| "not yet".to_owned())
    })
    .await
}

async fn gone(namespace: &Namespace, kind: &str) {
    eventually(&format!("{kind} kelp is gone"), PATIENCE, async || {
        object(namespace, kind).await.map_or(Ok(()), |found| Err(found["metadata"].to_string()))
    })
    .await;
}

/// Waits until the Ingress is as it should be.
async fn ingress(namespace: &Namespace, what: &str, is: impl Fn(&Ingress) -> bool) -> Ingress {
    eventually(what, PATIENCE, async || {
        let found = namespace.api::<Ingress>().get("kelp").await.map_err(|error| error.to_string())?;
        if is(&found) { Ok(found) } else { Err(format!("{:?}", found.spec)) }
    })
    .await
}

fn host(ingress: &Ingress) -> &str {
    let rules = ingress.spec.as_ref().and_then(|spec| spec.rules.as_ref());
    rules.and_then(|rules| rules[0].host.as_deref()).unwrap_or_default()
}

/// Waits until the servers can be asked by this name.
async fn served(namespace: &Namespace, name: &str) {
    let script = format!(
        "openssl s_client -connect kelp-public.{}.svc:8200 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName",
        namespace.name()
    );
    eventually(&format!("the certificate carries {name}"), PATIENCE * 2, async || {
        let output = namespace.cluster().inside(&["sh", "-c", &script]).await;
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        if names.contains(&format!("DNS:{name}")) { Ok(()) } else { Err(names) }
    })
    .await;
}

#[tokio::test]
async fn an_ingress_follows_the_spec_comes_back_and_goes_with_its_field_and_a_strangers_is_left_alone() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-ingress").await;
    namespace
        .apply(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: kelp}\n\
             spec: {defaultBackend: {service: {name: theirs, port: {number: 80}}}}\n",
        )
        .await;
    let _operator = Operator::start(&namespace, &[]).await;
    let asked = "  replicas: 1\n  ingress: {enabled: true, host: bao.example.org, className: nginx}\n";
    namespace.apply(&manifest("kelp", asked)).await;
    available(&namespace, "kelp").await;
    let found = says(&namespace, "kelp", "Degraded", "True", "NameTaken").await;
    assert!(condition(&found, "Degraded").1.contains("Ingress kelp"), "{:?}", condition(&found, "Degraded"));
    assert_eq!(condition(&found, "Available").0, "True", "nothing waits for it");
    let theirs = namespace.kubectl(&["get", "ingress", "kelp", "-o", "jsonpath={.spec.defaultBackend.service.name}"]);
    assert_eq!(theirs.await, "theirs");

    namespace.kubectl(&["delete", "ingress", "kelp"]).await;
    let made = ingress(&namespace, "it is made", |found| host(found) == "bao.example.org").await;
    assert_eq!(made.labels().get("openbao.org/cluster").map(String::as_str), Some("kelp"));
    assert_eq!(made.owner_references()[0].kind, "OpenBaoCluster");
    served(&namespace, "bao.example.org").await;
    says(&namespace, "kelp", "Degraded", "False", "").await;

    // Another host is another certificate: the servers restart with it by themselves.
    change(&namespace, "kelp", json!({"ingress": {"host": "tide.example.org", "annotations": {"a": "b"}}})).await;
    let follows = |found: &Ingress| host(found) == "tide.example.org" && found.annotations().contains_key("a");
    ingress(&namespace, "it follows the spec", follows).await;
    served(&namespace, "tide.example.org").await;
    available(&namespace, "kelp").await;

    let stray = json!([{"op": "replace", "path": "/spec/rules/0/host", "value": "stray.example.org"}]).to_string();
    namespace.kubectl(&["patch", "ingress", "kelp", "--type=json", "-p", &stray]).await;
    ingress(&namespace, "it is mended", follows).await;
    namespace.kubectl(&["delete", "ingress", "kelp"]).await;
    ingress(&namespace, "it is back", |found| follows(found) && found.uid() != made.uid()).await;

    change(&namespace, "kelp", json!({"ingress": {"enabled": false}})).await;
    gone(&namespace, "ingress").await;
    available(&namespace, "kelp").await;
}

#[tokio::test]
async fn a_new_operator_restarts_no_server_for_a_host_that_was_in_the_spec_before_it_came() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-host").await;
    let mut operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&manifest("kelp", "  replicas: 1\n")).await;
    available(&namespace, "kelp").await;
    operator.kill();
    // As an operator leaves it that makes nothing of the field.
    change(&namespace, "kelp", json!({"ingress": {"enabled": true, "host": "bao.example.org"}})).await;
    let generation = get(&namespace, "kelp").await.expect("the cluster").metadata.generation;
    let seen = json!({"status": {"observedGeneration": generation}}).to_string();
    namespace.kubectl(&["patch", "openbaocluster", "kelp", "--subresource=status", "--type=merge", "-p", &seen]).await;
    let before = uid(&namespace, "kelp-0").await;

    let _next = Operator::start(&namespace, &[]).await;
    ingress(&namespace, "it is made", |found| host(found) == "bao.example.org").await;
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    assert_eq!(uid(&namespace, "kelp-0").await, before, "nobody has asked for a restart");

    change(&namespace, "kelp", json!({"ingress": {"annotations": {"a": "b"}}})).await;
    served(&namespace, "bao.example.org").await;
    available(&namespace, "kelp").await;
}

#[tokio::test]
async fn policies_that_are_refused_fail_no_first_start_are_asked_about_rarely_and_come_by_themselves() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-policies").await;
    let quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\n\
                 spec: {hard: {count/networkpolicies.networking.k8s.io: \"0\"}}\n";
    namespace.apply(quota).await;
    let audit = cluster.audit();
    let _operator = Operator::start(&namespace, &[]).await;
    // The operator of a test may not find out where the API server is: what is named stands alone.
    namespace.apply(&manifest("kelp", "  replicas: 1\n  network: {apiServerCIDR: 10.96.0.0/12}\n")).await;
    eventually("the first start is over, and did not fail", PATIENCE, async || {
        let found = get(&namespace, "kelp").await?;
        let phase = found.status.as_ref().and_then(|status| status.phase);
        assert_ne!(phase, Some(ClusterPhase::Failed), "{:?}", found.status);
        if condition(&found, "Available").0 == "True" { Ok(()) } else { Err(format!("{phase:?}")) }
    })
    .await;
    let found = says(&namespace, "kelp", "Degraded", "True", "ApplyFailed").await;
    let words = condition(&found, "Degraded").1;
    assert!(words.contains("spec.network") && words.contains("quota"), "{words}");

    let before = asked(&audit, &namespace, "networkpolicies").len();
    for word in ["one", "two", "three"] {
        namespace.kubectl(&["annotate", "service", "kelp", "--overwrite", &format!("a={word}")]).await;
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    }
    let more = asked(&audit, &namespace, "networkpolicies").len() - before;
    assert!(more <= 4, "each of the two is looked for and written once in half a minute: {more}");

    namespace.kubectl(&["delete", "resourcequota", "none"]).await;
    eventually("both policies are there", PATIENCE, async || {
        let names = namespace.kubectl(&["get", "networkpolicies", "-o", "name"]).await;
        if names.lines().count() == 2 { Ok(()) } else { Err(names) }
    })
    .await;
    says(&namespace, "kelp", "Degraded", "False", "").await;
}

/// What the operator of this namespace has asked about objects of a kind, beside watching them.
fn asked(audit: &Audit, namespace: &Namespace, resource: &str) -> Vec<(String, i64)> {
    let user = format!("system:serviceaccount:{}:openbao-operator", namespace.name());
    let all = audit.requests(&user).into_iter().filter(|request| request.resource == resource);
    let all = all.filter(|request| !["list", "watch"].contains(&request.verb.as_str()));
    all.map(|request| (request.verb, request.code)).collect()
}

#[tokio::test]
async fn a_service_monitor_waits_for_its_kind_finds_each_server_once_and_goes_with_its_field() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-monitor").await;
    let definition = "servicemonitors.monitoring.coreos.com";
    cluster.kubectl(&["delete", "crd", definition, "--ignore-not-found"]).await;
    let audit = cluster.audit();
    let mut operator = Operator::start(&namespace, &[]).await;
    let metrics = "  replicas: 1\n  observability: {metrics: {enabled: true, serviceMonitor: {enabled: true}}}\n";
    namespace.apply(&manifest("kelp", metrics)).await;
    let found = says(&namespace, "kelp", "Supported", "False", "PrerequisitesMissing").await;
    let words = condition(&found, "Supported").1;
    assert!(words.contains("spec.observability.metrics.serviceMonitor") && words.contains("ServiceMonitor"), "{words}");
    told(&namespace, "PrerequisitesMissing").await;
    let found = available(&namespace, "kelp").await;
    assert_eq!(condition(&found, "Degraded").0, "False", "{:?}", condition(&found, "Degraded"));
    let before = asked(&audit, &namespace, "servicemonitors");
    assert!((1..=4).contains(&before.len()), "not with each look: {before:?}");

    install(&namespace, PROMETHEUS).await;
    let settings = json!({"metrics": {"serviceMonitor": {"interval": "15s", "labels": {"release": "stack"}}}});
    change(&namespace, "kelp", json!({"observability": settings})).await;
    let made = there(&namespace, definition).await;
    says(&namespace, "kelp", "Supported", "True", "AllFieldsSupported").await;
    assert_eq!(made["metadata"]["ownerReferences"][0]["kind"], "OpenBaoCluster");
    assert_eq!(made["metadata"]["labels"]["release"], "stack");
    let endpoint = &made["spec"]["endpoints"][0];
    assert_eq!(endpoint["interval"], "15s");

    // As Prometheus goes about it: the Service, its port, the name and the CA.
    let labels = made["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap())).collect();
    let services = namespace.kubectl(&["get", "services", "-l", &labels.join(","), "-o", "name"]).await;
    assert_eq!(services.trim(), "service/kelp", "each server is found once");
    let port = format!("jsonpath={{.spec.ports[?(@.name=='{}')].port}}", endpoint["port"].as_str().unwrap());
    let port = namespace.kubectl(&["get", "service", "kelp", "-o", &port]).await;
    let ca = &endpoint["tlsConfig"]["ca"]["configMap"];
    assert_eq!(ca["key"], "ca.crt");
    let ca = ["get", "configmap", ca["name"].as_str().unwrap(), "-o", "jsonpath={.data.ca\\.crt}"];
    let file = namespace.folder().join("ca.crt");
    fs::write(&file, namespace.kubectl(&ca).await).unwrap();
    let name = endpoint["tlsConfig"]["serverName"].as_str().unwrap();
    let address = namespace.kubectl(&["get", "pod", "kelp-0", "-o", "jsonpath={.status.podIP}"]).await;
    let resolve = format!("{name}:{port}:{address}");
    let (path, format) = (endpoint["path"].as_str().unwrap(), endpoint["params"]["format"][0].as_str().unwrap());
    let url = format!("{}://{name}:{port}{path}?format={format}", endpoint["scheme"].as_str().unwrap());
    let file = file.display().to_string();
    let scrape = ["curl", "-sS", "--fail", "--max-time", "10", "--cacert", &file, "--resolve", &resolve, &url];
    let scraped = cluster.expect_inside(&scrape).await;
    assert!(scraped.contains("# TYPE"), "{scraped}");

    // What wakes the operator asks nothing about it any more.
    let before = asked(&audit, &namespace, "servicemonitors").len();
    for word in ["one", "two", "three"] {
        namespace.kubectl(&["annotate", "service", "kelp", "--overwrite", &format!("a={word}")]).await;
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    }
    assert_eq!(asked(&audit, &namespace, "servicemonitors").len(), before);

    // Switched off while nobody looks: the next operator knows that there is one.
    operator.kill();
    change(&namespace, "kelp", json!({"observability": {"metrics": {"serviceMonitor": {"enabled": false}}}})).await;
    assert!(object(&namespace, definition).await.is_some());
    let _next = Operator::start(&namespace, &[]).await;
    gone(&namespace, definition).await;
    eventually("nothing says any more that there is one", PATIENCE, async || {
        let labels = namespace.kubectl(&["get", "service", "kelp", "-o", "jsonpath={.metadata.labels}"]).await;
        if labels.contains("openbao.org/service-monitor") { Err(labels) } else { Ok(()) }
    })
    .await;
    cluster.kubectl(&["delete", "crd", definition, "--ignore-not-found"]).await;
}

#[tokio::test]
async fn routes_of_a_gateway_follow_the_spec_and_go_with_their_field() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-gateway").await;
    let [http, tls, policy] = ["httproutes", "tlsroutes", "backendtlspolicies"];
    let of_group = |kind: &str| format!("{kind}.gateway.networking.k8s.io");
    let (http, tls, policy) = (of_group(http), of_group(tls), of_group(policy));
    install(&namespace, GATEWAY).await;
    let _operator = Operator::start(&namespace, &[]).await;
    let gateway = "  replicas: 1\n  gateway: {enabled: true, gatewayRef: {name: g, namespace: infra}, hostname: bao.example.org}\n";
    namespace.apply(&manifest("kelp", gateway)).await;
    let route = there(&namespace, &http).await;
    assert_eq!(route["spec"]["hostnames"], json!(["bao.example.org"]));
    assert_eq!(route["spec"]["parentRefs"][0]["namespace"], "infra");
    assert_eq!(route["spec"]["rules"][0]["backendRefs"][0]["name"], "kelp-public");
    assert_eq!(route["metadata"]["ownerReferences"][0]["kind"], "OpenBaoCluster");
    let known = there(&namespace, &policy).await;
    let expected = format!("kelp.{}.svc", namespace.name());
    assert_eq!(known["spec"]["validation"]["hostname"], expected);
    available(&namespace, "kelp").await;

    // What reaches the servers unopened asks for the host, and nothing before did.
    change(&namespace, "kelp", json!({"gateway": {"tlsPassthrough": true}})).await;
    let through = there(&namespace, &tls).await;
    assert_eq!(through["spec"]["rules"][0]["backendRefs"][0]["port"], 8200);
    gone(&namespace, &http).await;
    gone(&namespace, &policy).await;
    served(&namespace, "bao.example.org").await;

    change(&namespace, "kelp", json!({"gateway": null})).await;
    gone(&namespace, &tls).await;
    available(&namespace, "kelp").await;
    for definition in [&http, &tls, &policy] {
        cluster.kubectl(&["delete", "crd", definition, "--ignore-not-found"]).await;
    }
}
