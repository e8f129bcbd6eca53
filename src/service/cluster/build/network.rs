//! The two NetworkPolicies of a cluster whose spec asks for them: one of the servers, one of the Jobs that move backups.
//!
//! What OpenBao needs to run is let through always. What nobody here can know, such as where a seal's service or a store lies, is
//! not forbidden before the spec says something about it: a server that does not reach its seal stays sealed at its next start.

use super::{meta, names, selector};
use crate::{
    api::{AuditType, NetworkSpec, OpenBaoClusterSpec, SealType},
    service::cluster::{api_server::Door, config::plugins, validate::ValidatedCluster},
};
use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
        util::intstr::IntOrString,
    },
};
use std::collections::BTreeMap;

/// The label by which Kubernetes itself names each namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";
const DNS_PORT: u16 = 53;

/// What lies around a cluster and is not in its spec.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Where the operator runs.
    pub operator_namespace: &'a str,
    /// What its pods are known by; empty: by their namespace alone.
    pub operator_labels: &'a BTreeMap<String, String>,
    /// Where the API server is reached.
    pub api_server: &'a [Door],
}

/// Of the servers, and of the Jobs.
pub fn build(cluster: &ValidatedCluster, network: &NetworkSpec, around: &Surroundings<'_>) -> [NetworkPolicy; 2] {
    [servers(cluster, network, around), movers(cluster, network, around)]
}

/// Whether servers do not work without something that lies where only the spec's author knows: a seal, or an audit device, without
/// which OpenBao answers nothing, or a registry, without which a server that has not got its plugins yet does not start.
pub fn rests_on_others(spec: &OpenBaoClusterSpec) -> bool {
    let first =
        spec.self_init.iter().flat_map(|init| &init.requests).filter_map(|request| request.audit_device.as_ref());
    let mut devices = spec.audit.iter().map(|device| device.type_).chain(first.map(|device| device.type_));
    let is_asked_for = devices.any(|kind| matches!(kind, AuditType::Http | AuditType::Socket));
    spec.unseal.type_ != SealType::Static || is_asked_for || plugins::are_fetched(spec)
}

fn servers(cluster: &ValidatedCluster, network: &NetworkSpec, around: &Surroundings<'_>) -> NetworkPolicy {
    let members = || here(selector(names::server_selector(&cluster.name)));
    let mut ingress = vec![
        from(members(), &[names::API_PORT, names::CLUSTER_PORT]),
        // Jobs: movers, and the steps of a person's workflow.
        from(here(selector(of_cluster(&cluster.name))), &[names::API_PORT]),
        from(operator(around), &[names::API_PORT]),
    ];
    if is_public(cluster, network) {
        ingress.push(NetworkPolicyIngressRule { from: None, ports: Some(vec![tcp(names::API_PORT)]) });
    }
    ingress.extend(network.ingress_rules.iter().cloned());
    let mut egress = always(network, around);
    egress.push(to(vec![members()], &[names::API_PORT, names::CLUSTER_PORT]));
    egress.extend(further(network, rests_on_others(&cluster.spec)));
    NetworkPolicy {
        metadata: meta(cluster, names::server_policy(&cluster.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(names::server_selector(&cluster.name))),
            policy_types: Some(both_ways()),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    }
}

fn movers(cluster: &ValidatedCluster, network: &NetworkSpec, around: &Surroundings<'_>) -> NetworkPolicy {
    let mut egress = always(network, around);
    egress.push(to(vec![here(selector(names::server_selector(&cluster.name)))], &[names::API_PORT]));
    // Whether or not this cluster is backed up: a restore names a store of its own.
    egress.extend(further(network, true));
    NetworkPolicy {
        metadata: meta(cluster, names::mover_policy(&cluster.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(of_cluster(&cluster.name)),
                match_expressions: Some(vec![LabelSelectorRequirement {
                    key: names::COMPONENT_LABEL.to_owned(),
                    operator: "In".to_owned(),
                    values: Some(names::MOVER_COMPONENTS.map(str::to_owned).to_vec()),
                }]),
            }),
            policy_types: Some(both_ways()),
            ingress: None,
            egress: Some(egress),
        }),
    }
}

/// Whether the spec opens a door to clients that no pod selector tells apart: a gateway's or a load balancer's addresses are known
/// to their makers only. An Ingress and a Gateway always come along with whoever is behind them; a Service of another type is
/// narrowed by rules.
fn is_public(cluster: &ValidatedCluster, network: &NetworkSpec) -> bool {
    let spec = &cluster.spec;
    let ingress = spec.ingress.as_ref().is_some_and(|ingress| ingress.enabled);
    let gateway = spec.gateway.as_ref().is_some_and(|gateway| gateway.enabled);
    let kind = spec.service.as_ref().and_then(|service| service.type_.as_deref());
    let service = matches!(kind, Some("LoadBalancer" | "NodePort")) && network.ingress_rules.is_empty();
    ingress || gateway || service
}

/// Names and the API server: servers find their peers there and say who leads, movers say how far they are.
fn always(network: &NetworkSpec, around: &Surroundings<'_>) -> Vec<NetworkPolicyEgressRule> {
    let dns = NetworkPolicyPeer {
        namespace_selector: Some(in_namespace(&network.dns_namespace)),
        ..NetworkPolicyPeer::default()
    };
    let udp = NetworkPolicyPort { protocol: Some("UDP".to_owned()), ..tcp(DNS_PORT) };
    let mut rules = vec![NetworkPolicyEgressRule { to: Some(vec![dns]), ports: Some(vec![udp, tcp(DNS_PORT)]) }];
    rules.extend(
        around.api_server.iter().map(|door| to(door.cidrs.iter().map(|cidr| block(cidr)).collect(), &door.ports)),
    );
    rules
}

/// What the spec names; everything, where it names nothing and something out there is `needed`.
fn further(network: &NetworkSpec, needed: bool) -> Vec<NetworkPolicyEgressRule> {
    if network.egress_rules.is_empty() && needed {
        return vec![NetworkPolicyEgressRule::default()];
    }
    network.egress_rules.clone()
}

/// Servers and all Jobs of the cluster.
fn of_cluster(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = names::server_selector(cluster);
    labels.remove(names::COMPONENT_LABEL);
    labels
}

fn operator(around: &Surroundings<'_>) -> NetworkPolicyPeer {
    let labels = Some(around.operator_labels).filter(|labels| !labels.is_empty());
    NetworkPolicyPeer {
        namespace_selector: Some(in_namespace(around.operator_namespace)),
        pod_selector: labels.cloned().map(selector),
        ip_block: None,
    }
}

fn in_namespace(name: &str) -> LabelSelector {
    selector([(NAMESPACE_LABEL.to_owned(), name.to_owned())].into())
}

fn here(pods: LabelSelector) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(pods), ..NetworkPolicyPeer::default() }
}

fn block(cidr: &str) -> NetworkPolicyPeer {
    let ip_block = Some(IPBlock { cidr: cidr.to_owned(), except: None });
    NetworkPolicyPeer { ip_block, ..NetworkPolicyPeer::default() }
}

fn from(peer: NetworkPolicyPeer, ports: &[u16]) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule { from: Some(vec![peer]), ports: Some(ports.iter().copied().map(tcp).collect()) }
}

fn to(peers: Vec<NetworkPolicyPeer>, ports: &[u16]) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule { to: Some(peers), ports: Some(ports.iter().copied().map(tcp).collect()) }
}

fn tcp(port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some("TCP".to_owned()), port: Some(IntOrString::Int(port.into())), end_port: None }
}

/// What is not named is forbidden.
fn both_ways() -> Vec<String> {
    ["Ingress", "Egress"].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use kube::core::{Selector, SelectorExt};
    use serde_json::{Value, json};

    /// A pod's labels, and its namespace.
    type Whom<'a> = (&'a [(&'a str, &'a str)], &'a str);

    const SERVER: &[(&str, &str)] = &[
        ("app.kubernetes.io/name", "openbao"),
        ("openbao.org/cluster", "kelp"),
        ("app.kubernetes.io/component", "server"),
    ];
    const MOVER: &[(&str, &str)] = &[
        ("app.kubernetes.io/name", "openbao"),
        ("openbao.org/cluster", "kelp"),
        ("app.kubernetes.io/component", "backup"),
    ];
    /// The Job of a workflow's step.
    const STEP: &[(&str, &str)] = &[("app.kubernetes.io/name", "openbao"), ("openbao.org/cluster", "kelp")];
    const OTHER_SERVER: &[(&str, &str)] = &[
        ("app.kubernetes.io/name", "openbao"),
        ("openbao.org/cluster", "moss"),
        ("app.kubernetes.io/component", "server"),
    ];
    const OPERATOR: &[(&str, &str)] = &[("app.kubernetes.io/component", "operator")];
    const APP: &[(&str, &str)] = &[("app", "shop")];
    const DNS: &[(&str, &str)] = &[("k8s-app", "kube-dns")];

    fn policies(change: impl FnOnce(&mut Value)) -> [NetworkPolicySpec; 2] {
        let cluster = valid(|spec| {
            spec["network"] = json!({});
            change(spec);
        });
        let network = cluster.spec.network.clone().unwrap();
        let labels: BTreeMap<String, String> =
            OPERATOR.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let api_server = [
            Door { cidrs: vec!["10.96.0.1/32".into()], ports: vec![443] },
            Door { cidrs: vec!["192.168.1.10/32".into(), "192.168.1.11/32".into()], ports: vec![6443] },
        ];
        let around = Surroundings { operator_namespace: "ops", operator_labels: &labels, api_server: &api_server };
        build(&cluster, &network, &around).map(|policy| policy.spec.unwrap())
    }

    fn matches(selector: &LabelSelector, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Selector::try_from(selector.clone()).unwrap().matches(&labels)
    }

    fn is_peer(peer: &NetworkPolicyPeer, (labels, namespace): Whom<'_>) -> bool {
        let there = match &peer.namespace_selector {
            Some(selector) => matches(selector, &[(NAMESPACE_LABEL, namespace)]),
            None => namespace == "reef",
        };
        peer.ip_block.is_none() && there && peer.pod_selector.as_ref().is_none_or(|pods| matches(pods, labels))
    }

    fn at(ports: Option<&Vec<NetworkPolicyPort>>, port: u16) -> bool {
        ports.is_none_or(|all| all.iter().any(|one| one.port == Some(IntOrString::Int(port.into()))))
    }

    fn lets_in(policy: &NetworkPolicySpec, whom: Whom<'_>, port: u16) -> bool {
        let mut rules = policy.ingress.iter().flatten();
        rules.any(|rule| {
            let peers = rule.from.as_ref();
            at(rule.ports.as_ref(), port) && peers.is_none_or(|all| all.iter().any(|peer| is_peer(peer, whom)))
        })
    }

    fn lets_out(policy: &NetworkPolicySpec, whom: Whom<'_>, port: u16) -> bool {
        let mut rules = policy.egress.iter().flatten();
        rules.any(|rule| {
            let peers = rule.to.as_ref();
            at(rule.ports.as_ref(), port) && peers.is_none_or(|all| all.iter().any(|peer| is_peer(peer, whom)))
        })
    }

    #[test]
    fn servers_are_reached_by_each_other_by_their_jobs_and_by_the_operator_and_by_nobody_else() {
        let [servers, movers] = policies(|_| {});
        for (whom, api, raft) in [
            ((SERVER, "reef"), true, true),
            ((MOVER, "reef"), true, false),
            ((STEP, "reef"), true, false),
            ((OPERATOR, "ops"), true, false),
            ((OPERATOR, "reef"), false, false),
            ((APP, "ops"), false, false),
            ((APP, "reef"), false, false),
            ((OTHER_SERVER, "reef"), false, false),
            ((SERVER, "wreck"), false, false),
        ] {
            assert_eq!((lets_in(&servers, whom, 8200), lets_in(&servers, whom, 8201)), (api, raft), "{whom:?}");
            assert!(!lets_in(&movers, whom, 8200), "nobody speaks to a Job: {whom:?}");
        }
    }

    #[test]
    fn servers_reach_names_each_other_and_the_api_server() {
        let [servers, _] = policies(|_| {});
        for (whom, port, expected) in [
            ((DNS, "kube-system"), 53, true),
            ((DNS, "kube-system"), 8080, false),
            ((APP, "reef"), 53, false),
            ((SERVER, "reef"), 8200, true),
            ((SERVER, "reef"), 8201, true),
            ((OTHER_SERVER, "reef"), 8200, false),
            ((APP, "reef"), 443, false),
        ] {
            assert_eq!(lets_out(&servers, whom, port), expected, "{whom:?} at {port}");
        }
        let dns = &servers.egress.as_ref().unwrap()[0];
        let protocols: Vec<_> = dns.ports.iter().flatten().filter_map(|port| port.protocol.as_deref()).collect();
        assert_eq!(protocols, ["UDP", "TCP"]);
        let blocks = |port: u16| -> Vec<String> {
            let rules = servers.egress.iter().flatten().filter(|rule| at(rule.ports.as_ref(), port));
            let peers = rules.flat_map(|rule| rule.to.iter().flatten());
            peers.filter_map(|peer| Some(peer.ip_block.as_ref()?.cidr.clone())).collect()
        };
        assert_eq!(blocks(443), ["10.96.0.1/32"]);
        assert_eq!(blocks(6443), ["192.168.1.10/32", "192.168.1.11/32"]);
        let [elsewhere, _] = policies(|spec| spec["network"]["dnsNamespace"] = json!("openshift-dns"));
        assert!(lets_out(&elsewhere, (DNS, "openshift-dns"), 53) && !lets_out(&elsewhere, (DNS, "kube-system"), 53));
    }

    #[test]
    fn what_nobody_here_knows_is_not_forbidden_before_the_spec_says_something_about_it() {
        let rule = json!([{"to": [{"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: "stores"}}}],
            "ports": [{"port": 9000}]}]);
        let transit = json!({"type": "transit", "transit": {"address": "https://a:8200", "keyName": "k", "mountPath": "m"},
            "credentialsSecretRef": {"name": "c"}});
        let audit = json!([{"type": "file", "path": "f", "fileOptions": {"filePath": "stdout"}},
            {"type": "socket", "path": "s", "socketOptions": {"address": "log.shore:9090"}}]);
        let [servers, _] = policies(|spec| spec["audit"] = audit);
        assert!(lets_out(&servers, (APP, "shore"), 9090), "every request waits for it");
        for (from, expected) in [("image", true), ("command", false)] {
            let mut plugin = json!({"type": "secret", "name": "word", "version": "v1.0.0", "binaryName": "word",
                "sha256sum": "0".repeat(64)});
            plugin[from] = json!("word");
            let [servers, _] = policies(|spec| spec["plugins"] = json!([plugin]));
            assert_eq!(lets_out(&servers, (APP, "shore"), 5000), expected, "its registry: {from}");
        }
        for (seal, rules, servers_out, movers_out) in [
            (None, json!([]), false, true),
            (Some(&transit), json!([]), true, true),
            (Some(&transit), rule.clone(), false, false),
            (None, rule, false, false),
        ] {
            let [servers, movers] = policies(|spec| {
                spec["network"]["egressRules"] = rules.clone();
                if let Some(seal) = seal {
                    spec["unseal"] = seal.clone();
                }
            });
            let out = [&servers, &movers].map(|policy| lets_out(policy, (APP, "reef"), 443));
            assert_eq!(out, [servers_out, movers_out], "{seal:?} {rules}");
            let named = [&servers, &movers].map(|policy| lets_out(policy, (APP, "stores"), 9000));
            let expected = if rules == json!([]) { [servers_out, movers_out] } else { [true, true] };
            assert_eq!(named, expected, "{seal:?} {rules}");
            assert!(lets_out(&movers, (SERVER, "reef"), 8200) && lets_out(&movers, (DNS, "kube-system"), 53));
        }
    }

    #[test]
    fn a_door_that_the_spec_opens_lets_everybody_in_and_rules_narrow_that_of_a_service() {
        let rules = json!([{"from": [{"podSelector": {"matchLabels": {"app": "shop"}}}], "ports": [{"port": 8200}]}]);
        let stranger = (DNS, "elsewhere");
        for (door, open, open_with_rules) in [
            (json!({}), false, false),
            (json!({"service": {"type": "ClusterIP"}}), false, false),
            (json!({"service": {"type": "LoadBalancer"}}), true, false),
            (json!({"service": {"type": "NodePort"}}), true, false),
            (json!({"ingress": {"enabled": true, "host": "a"}}), true, true),
            (json!({"ingress": {"enabled": false, "host": "a"}}), false, false),
            (json!({"gateway": {"enabled": true, "gatewayRef": {"name": "g"}, "hostname": "a"}}), true, true),
        ] {
            let with = |network: Value| {
                let [servers, _] = policies(|spec| {
                    spec.as_object_mut().unwrap().extend(door.as_object().unwrap().clone());
                    spec["network"] = network;
                });
                servers
            };
            assert_eq!(lets_in(&with(json!({})), stranger, 8200), open, "{door}");
            let ruled = with(json!({ "ingressRules": rules }));
            assert_eq!(lets_in(&ruled, stranger, 8200), open_with_rules, "{door}");
            assert!(lets_in(&ruled, (APP, "reef"), 8200), "{door}");
            assert!(!lets_in(&ruled, stranger, 8201), "raft is nobody else's: {door}");
        }
    }

    #[test]
    fn each_policy_selects_its_own_pods_and_no_others() {
        let [servers, movers] = policies(|_| {});
        let selects = |policy: &NetworkPolicySpec, labels| matches(policy.pod_selector.as_ref().unwrap(), labels);
        for (labels, server, mover) in [
            (SERVER, true, false),
            (MOVER, false, true),
            (STEP, false, false),
            (OTHER_SERVER, false, false),
            (APP, false, false),
        ] {
            assert_eq!((selects(&servers, labels), selects(&movers, labels)), (server, mover), "{labels:?}");
        }
        for policy in [servers, movers] {
            assert_eq!(policy.policy_types.unwrap(), ["Ingress", "Egress"], "what is not named is forbidden");
        }
    }

    #[test]
    fn without_labels_of_its_own_the_operator_is_known_by_its_namespace() {
        let labels = BTreeMap::new();
        let around = Surroundings { operator_namespace: "ops", operator_labels: &labels, api_server: &[] };
        assert!(is_peer(&operator(&around), (APP, "ops")) && !is_peer(&operator(&around), (OPERATOR, "reef")));
    }
}
