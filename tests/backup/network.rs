//! The NetworkPolicies of a cluster, against the pods that there are. The devcluster enforces none, so what they would let through
//! is worked out here, by the labels and the ports of real pods.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace as Space, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Selector, SelectorExt};
use kube::{Api, ResourceExt};
use openbao_operator::api::OperationPhase;
use serde_json::json;

use super::node::{self, Still};
use super::setup::{Reef, s3};
use crate::harness::{Cluster, Namespace, Operator, Store, eventually};

const PATIENCE: Duration = Duration::from_secs(120);
const SERVERS: &str = "kelp-network-policy";
const JOBS: &str = "kelp-jobs-network-policy";

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn network_policies_fit_the_pods_that_there_are_come_back_when_changed_and_go_with_the_spec() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("backup-network").await;
    let store = Store::start(&namespace).await;
    namespace.apply(&store.secret("pearl")).await;
    // Somebody else's, under the name of one of ours.
    let theirs = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {JOBS}}}\nspec: {{podSelector: {{matchLabels: {{app: shop}}}}}}"
    );
    namespace.apply(&theirs).await;
    let before = policy(&namespace, JOBS).await.unwrap();
    let _operator =
        Operator::start(&namespace, &[("OPENBAO_OPERATOR_POD_LABELS", "app.kubernetes.io/component=operator")]).await;
    let reef = Reef::start(&namespace, 1, &s3(&store, "pearl"), "\n  network: {}").await;

    // Without knowing where the API server is, no policy may be made: no server would start under it.
    told(&reef, "Degraded", "APIServerUnknown").await;
    assert!(policy(&namespace, SERVERS).await.is_none());
    let right = Right::give(&namespace).await;
    look(&namespace, "1").await;
    eventually("the servers have a policy", PATIENCE, async || {
        policy(&namespace, SERVERS).await.map(drop).ok_or_else(|| "none yet".to_owned())
    })
    .await;
    told(&reef, "Degraded", JOBS).await;
    told(&reef, "ProductionReady", "spec.network.egressRules").await;
    assert_eq!(policy(&namespace, JOBS).await, Some(before), "it is somebody else's");
    namespace.kubectl(&["delete", "networkpolicy", JOBS]).await;
    look(&namespace, "2").await;
    eventually("the Jobs have a policy", PATIENCE, async || {
        policy(&namespace, JOBS).await.map(drop).ok_or_else(|| "none yet".to_owned())
    })
    .await;

    let servers = policy(&namespace, SERVERS).await.unwrap().spec.unwrap();
    let jobs = policy(&namespace, JOBS).await.unwrap().spec.unwrap();
    against_real_pods(&reef, &namespace, &store, &servers, &jobs).await;
    knows_the_api_server(&namespace, &servers).await;

    // Changed and deleted by hand, they come back.
    let open = json!({"spec": {"ingress": [{}]}}).to_string();
    namespace.kubectl(&["patch", "networkpolicy", SERVERS, "--type=merge", "-p", &open]).await;
    namespace.kubectl(&["delete", "networkpolicy", JOBS]).await;
    eventually("they are what they were", PATIENCE, async || {
        let now = [policy(&namespace, SERVERS).await, policy(&namespace, JOBS).await];
        let now = now.map(|policy| policy.and_then(|policy| policy.spec));
        if now == [Some(servers.clone()), Some(jobs.clone())] { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;

    let none = json!([{"op": "remove", "path": "/spec/network"}]).to_string();
    namespace.kubectl(&["patch", "openbaocluster", "kelp", "--type=json", "-p", &none]).await;
    eventually("they are gone", PATIENCE, async || {
        let left = namespace.kubectl(&["get", "networkpolicies", "-o", "name"]).await;
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    right.take().await;
}

/// What the policies say of a server and of the Job of a backup that runs.
async fn against_real_pods(
    reef: &Reef<'_>,
    namespace: &Namespace,
    store: &Store,
    servers: &NetworkPolicySpec,
    jobs: &NetworkPolicySpec,
) {
    let still = Still::hold(&node::running(namespace, "app=s3").await);
    reef.ask("by-hand", json!({})).await;
    let mover = node::running(namespace, "openbao.org/operation=by-hand").await;
    let server = reef.pod("kelp-0").await.unwrap();
    drop(still);
    let here = labels_of(namespace, namespace.name()).await;
    let names = labels_of(namespace, "kube-system").await;

    for (policy, chosen, other) in [(servers, &server, &mover), (jobs, &mover, &server)] {
        let selector = policy.pod_selector.as_ref().unwrap();
        assert!(selects(selector, chosen.labels()) && !selects(selector, other.labels()), "{selector:?}");
    }
    let ports: Vec<i32> = server
        .spec
        .iter()
        .flat_map(|spec| &spec.containers[0].ports)
        .flatten()
        .map(|port| port.container_port)
        .collect();
    assert!(ports.contains(&8200) && ports.contains(&8201), "{ports:?}");
    let stranger: Pod = serde_json::from_value(json!({"metadata": {"labels": {"app": "shop"}}})).unwrap();
    let operator: Pod =
        serde_json::from_value(json!({"metadata": {"labels": {"app.kubernetes.io/component": "operator"}}})).unwrap();
    for (from, port, expected) in [
        (&server, 8200, true),
        (&server, 8201, true),
        (&mover, 8200, true),
        (&mover, 8201, false),
        (&operator, 8200, true),
        (&stranger, 8200, false),
    ] {
        let mut rules = servers.ingress.iter().flatten();
        let admitted = rules.any(|rule| fits(rule.from.as_ref(), rule.ports.as_ref(), from, (&here, &here), port));
        assert_eq!(admitted, expected, "{:?} at {port}", from.labels());
    }
    assert!(jobs.ingress.iter().flatten().next().is_none());
    let dns: Pod = serde_json::from_value(json!({"metadata": {"labels": {"k8s-app": "kube-dns"}}})).unwrap();
    let lets = |policy: &NetworkPolicySpec, to: &Pod, there: &BTreeMap<String, String>, port: i32| {
        let mut rules = policy.egress.iter().flatten();
        rules.any(|rule| fits(rule.to.as_ref(), rule.ports.as_ref(), to, (&here, there), port))
    };
    assert!(lets(servers, &server, &here, 8201) && lets(servers, &dns, &names, 53));
    assert!(!lets(servers, &stranger, &here, 8200) && !lets(servers, &stranger, &here, 443));
    assert!(lets(jobs, &server, &here, 8200) && lets(jobs, &dns, &names, 53));
    assert!(lets(jobs, &stranger, &here, 9000), "no rule says yet where {} is", store.endpoint());

    let status = reef.ended("by-hand", Duration::from_secs(300)).await.status.unwrap();
    assert_eq!(status.phase, OperationPhase::Succeeded, "{:?}", status.message);
}

/// The policy lets servers go to where the API server is.
async fn knows_the_api_server(namespace: &Namespace, servers: &NetworkPolicySpec) {
    let service = Api::<Service>::namespaced(namespace.client(), "default").get("kubernetes").await.unwrap();
    let slice = Api::<EndpointSlice>::namespaced(namespace.client(), "default").get("kubernetes").await.unwrap();
    let in_front = service.spec.unwrap().cluster_ip.unwrap();
    let behind = slice.endpoints[0].addresses[0].clone();
    let port = slice.ports.unwrap()[0].port.unwrap();
    for (address, port) in [(in_front, 443), (behind, port)] {
        let found = servers.egress.iter().flatten().any(|rule| {
            let mut blocks = rule.to.iter().flatten().filter_map(|peer| peer.ip_block.as_ref());
            is_port(rule.ports.as_ref(), port) && blocks.any(|block| block.cidr == format!("{address}/32"))
        });
        assert!(found, "{address}:{port} in {:?}", servers.egress);
    }
}

/// Whether a rule is about this pod and port. `here` are the labels of the policy's namespace, `there` those of the pod's.
fn fits(
    peers: Option<&Vec<NetworkPolicyPeer>>,
    ports: Option<&Vec<NetworkPolicyPort>>,
    pod: &Pod,
    (here, there): (&BTreeMap<String, String>, &BTreeMap<String, String>),
    port: i32,
) -> bool {
    let is_it = |peer: &NetworkPolicyPeer| {
        let namespace = peer.namespace_selector.as_ref().map_or(here == there, |selector| selects(selector, there));
        let labels = peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, pod.labels()));
        peer.ip_block.is_none() && namespace && labels
    };
    is_port(ports, port) && peers.is_none_or(|peers| peers.iter().any(is_it))
}

fn is_port(ports: Option<&Vec<NetworkPolicyPort>>, port: i32) -> bool {
    ports.is_none_or(|ports| ports.iter().any(|one| one.port == Some(IntOrString::Int(port))))
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).unwrap().matches(labels)
}

async fn labels_of(namespace: &Namespace, name: &str) -> BTreeMap<String, String> {
    Api::<Space>::all(namespace.client()).get(name).await.unwrap().labels().clone()
}

async fn policy(namespace: &Namespace, name: &str) -> Option<NetworkPolicy> {
    namespace.api::<NetworkPolicy>().get_opt(name).await.unwrap()
}

/// A change of nothing: the operator looks now and not within a minute.
async fn look(namespace: &Namespace, value: &str) {
    namespace.kubectl(&["label", "openbaocluster", "kelp", "--overwrite", &format!("look={value}")]).await;
}

/// Waits until a condition holds this word.
async fn told(reef: &Reef<'_>, kind: &str, word: &str) {
    eventually(&format!("{kind} tells of {word}"), PATIENCE, async || {
        let status = reef.cluster().await.status.unwrap_or_default();
        let said = status.conditions.iter().find(|condition| condition.type_ == kind);
        let said = said.map(|condition| format!("{}: {}", condition.reason, condition.message)).unwrap_or_default();
        if said.contains(word) { Ok(()) } else { Err(said) }
    })
    .await;
}

/// What the chart gives in namespace default. Tests share that namespace, so its name is this test's own.
struct Right<'a>(&'a Namespace);

impl<'a> Right<'a> {
    async fn give(namespace: &'a Namespace) -> Self {
        let (name, account) = (namespace.name(), format!("--serviceaccount={}:openbao-operator", namespace.name()));
        let resources = "--resource=services,endpointslices.discovery.k8s.io";
        let role = ["-n", "default", "create", "role", name, "--verb=get", resources, "--resource-name=kubernetes"];
        namespace.cluster().kubectl(&role).await;
        let role = format!("--role={name}");
        namespace.cluster().kubectl(&["-n", "default", "create", "rolebinding", name, &role, &account]).await;
        Self(namespace)
    }

    async fn take(self) {
        let name = self.0.name();
        self.0.cluster().kubectl(&["-n", "default", "delete", "role,rolebinding", name]).await;
    }
}
