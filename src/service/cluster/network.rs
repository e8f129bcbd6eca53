//! What the cluster's NetworkPolicies come to: applies them, takes them away, and says what is wrong with them.
//!
//! They protect, nothing rests on them. So what stands in their way is told, tried again after a while and not with each look, and
//! the cluster is looked after all the same.

use super::{
    api_server,
    apply::Applier,
    attempts::{Attempts, Watched},
    build::network::{self, Surroundings},
    config::{audit, plugins},
    facts::Facts,
    members::Member,
    memory::{Memory, Notes},
    names,
    trouble::{Trouble, reasons},
    validate::ValidatedCluster,
};
use crate::{
    adapter::Adapters,
    api::{OpenBaoClusterSpec, Provider, SealType},
    causes::chain,
};
use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::time::Duration;

/// How long a server that has just started may be silent before its network is suspected: it loads its data before it listens.
const STARTS: Duration = Duration::from_secs(120);
const HTTPS: u16 = 443;
const HTTP: u16 = 80;
const KMIP: u16 = 5696;
/// The protocol of a rule that names none.
const TCP: &str = "TCP";

/// Under which they are remembered.
const SERVERS: &str = "NetworkPolicy of the servers";
const JOBS: &str = "NetworkPolicy of the Jobs";

/// What this process knows of the policies of one cluster.
#[derive(Debug, Default)]
pub(super) struct Known {
    attempts: Attempts,
    /// Why they are left as they are.
    left: Option<Trouble>,
}

impl Known {
    /// What a person should look at.
    pub(super) fn troubles(&self) -> Vec<Trouble> {
        self.left.iter().cloned().chain(self.attempts.troubles()).collect()
    }
}

/// Applies the policies that the spec asks for, or removes those that it does not.
pub(super) async fn keep(
    ad: &Adapters,
    memory: &Memory,
    applier: &Applier,
    known: &mut Known,
    spec: &ValidatedCluster,
    facts: &Facts,
) {
    known.left = None;
    let wanted = match &spec.spec.network {
        None => [None, None],
        Some(network) => {
            let doors = match memory.api_server.doors(&ad.client, network).await {
                Ok(doors) => doors,
                Err(error) => {
                    known.left = Some(unknown(&error));
                    return;
                }
            };
            let around = Surroundings {
                operator_namespace: &ad.settings.operator_namespace,
                operator_labels: &ad.settings.operator_pod_labels,
                api_server: &doors,
            };
            network::build(spec, network, &around).map(Some)
        }
    };
    carry_out(applier, &mut known.attempts, spec, facts, wanted).await;
}

async fn carry_out(
    applier: &Applier,
    attempts: &mut Attempts,
    spec: &ValidatedCluster,
    facts: &Facts,
    wanted: [Option<NetworkPolicy>; 2],
) {
    let policies = [(SERVERS, names::server_policy(&spec.name)), (JOBS, names::mover_policy(&spec.name))];
    for ((key, name), wanted) in policies.into_iter().zip(wanted) {
        let is_seen = !facts.unseen_network_policies;
        let policy = Watched { key, field: "spec.network", resource: "networkpolicies", is_seen };
        let live = facts.network_policies.get(&name).map(AsRef::as_ref);
        attempts.keep(applier, policy, wanted, live).await;
    }
}

fn unknown(error: &api_server::Error) -> Trouble {
    Trouble::new(
        reasons::API_SERVER_UNKNOWN,
        format!(
            "the NetworkPolicies are left as they are, as nobody knows where the API server is, and servers without it do not start: {}. Give the operator that right, or set spec.network.apiServerCIDR and apiServerEndpointIPs",
            chain(error)
        ),
    )
}

/// A server that gives no answer after its start, where a policy may be why: OpenBao waits for the API server before it listens,
/// and says nothing of it.
pub(super) fn suspected(spec: &OpenBaoClusterSpec, members: &[Member], notes: &Notes) -> Option<Trouble> {
    spec.network.as_ref()?;
    let waits = |member: &&Member| {
        let since = notes.silent.get(&member.uid);
        !member.ready && member.is_silent() && since.is_some_and(|since| since.elapsed() >= STARTS)
    };
    let name = &members.iter().find(waits)?.name;
    Some(Trouble::new(
        reasons::NETWORK_SUSPECTED,
        format!(
            "{name} runs and gives no answer. A server that does not reach the API server waits for it before it listens: see that NetworkPolicy {} lets it go there (spec.network.apiServerCIDR, apiServerEndpointIPs), and that no other policy of the namespace, and none of the operator's, is in the way",
            names::server_policy(names::cluster_of(name))
        ),
    ))
}

/// What is unfinished about the rules for what lies outside of the cluster.
pub(super) fn gap(spec: &OpenBaoClusterSpec) -> Option<&'static str> {
    let network = spec.network.as_ref()?;
    let stores = spec.backup.as_ref().is_some_and(|backup| backup.target.provider != Provider::File);
    let rests = stores || network::rests_on_others(spec);
    if network.egress_rules.is_empty() {
        return rests.then_some(
            "spec.network.egressRules is empty, so pods that need a seal, a store, an audit collector or a registry of plugins outside \
             of the cluster may reach everything: name these there",
        );
    }
    let is_shut = |protocol: &str, port: u16| !network.egress_rules.iter().any(|rule| opens(rule, protocol, port));
    if [seal_port(spec), store_port(spec)].into_iter().flatten().any(|port| is_shut(TCP, port)) {
        return Some(
            "no rule of spec.network.egressRules opens the port at which the seal or the backup target is asked, so it cannot be \
             reached: add one",
        );
    }
    let mut collectors = spec.audit.iter().filter_map(audit::collector);
    if collectors.any(|(protocol, address)| is_shut(protocol, port_of(&address, HTTPS))) {
        return Some(
            "no rule of spec.network.egressRules opens the port of an audit collector of spec.audit. What a policy drops gets no \
             answer, so every request waits for it: add a rule",
        );
    }
    plugins::registry_ports(spec).any(|port| is_shut(TCP, port)).then_some(
        "no rule of spec.network.egressRules opens the port of a registry that spec.plugins names, so a server that has not got its \
         plugins yet does not start: add one",
    )
}

/// Whether a rule may let packets of this protocol to this port go out. A port that only has a name may be this one.
fn opens(rule: &NetworkPolicyEgressRule, protocol: &str, port: u16) -> bool {
    let port = i32::from(port);
    let is_it = |one: &NetworkPolicyPort| {
        one.protocol.as_deref().unwrap_or(TCP) == protocol
            && match &one.port {
                Some(IntOrString::Int(first)) => (*first..=one.end_port.unwrap_or(*first)).contains(&port),
                Some(IntOrString::String(_)) | None => true,
            }
    };
    rule.ports.as_ref().is_none_or(|ports| ports.is_empty() || ports.iter().any(is_it))
}

/// Where the seal's service is asked, if that can be told.
fn seal_port(spec: &OpenBaoClusterSpec) -> Option<u16> {
    let unseal = &spec.unseal;
    match unseal.type_ {
        // The module's library knows.
        SealType::Static | SealType::Pkcs11 => None,
        SealType::AwsKms => Some(unseal.awskms.as_ref()?.endpoint.as_ref().map_or(HTTPS, |url| port_of(url, HTTPS))),
        SealType::GcpcKms | SealType::AzureKeyVault => Some(HTTPS),
        SealType::OciKms => Some(port_of(&unseal.ocikms.as_ref()?.crypto_endpoint, HTTPS)),
        SealType::Transit => Some(port_of(&unseal.transit.as_ref()?.address, HTTPS)),
        SealType::Kmip => Some(port_of(&unseal.kmip.as_ref()?.address, KMIP)),
    }
}

/// Where the store is asked, if that can be told.
fn store_port(spec: &OpenBaoClusterSpec) -> Option<u16> {
    let target = &spec.backup.as_ref()?.target;
    match (target.provider, &target.endpoint) {
        // The connection string in Azure's Secret may name another address.
        (Provider::File, _) | (Provider::Azure, None) => None,
        (_, Some(endpoint)) => Some(port_of(endpoint, HTTPS)),
        (Provider::S3 | Provider::Gcs, None) => Some(HTTPS),
    }
}

fn port_of(address: &str, otherwise: u16) -> u16 {
    let Ok(uri) = address.parse::<http::Uri>() else { return otherwise };
    let usual = if uri.scheme_str() == Some("http") { HTTP } else { otherwise };
    uri.port_u16().unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::{kubernetes::apply::prepare, openbao::HealthState::Standby},
        service::cluster::{
            attempts::tests::{applier, methods, refusal},
            members::tests::{dialled, member},
            validate::tests::{cluster, valid},
        },
    };
    use http::Method;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use tokio::time::Instant;

    fn found(network: Value, unseal: Option<Value>, target: Option<Value>) -> &'static str {
        let object = cluster(|spec| {
            spec["network"] = network;
            spec["backup"] = target.map_or(Value::Null, |target| json!({ "target": target }));
            if let Some(unseal) = unseal {
                spec["unseal"] = unseal;
            }
        });
        gap(&object.spec).map_or("", |words| if words.contains("is empty") { "open" } else { "shut" })
    }

    fn rules(ports: &Value) -> Value {
        json!({"egressRules": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": ports}]})
    }

    fn bucket(endpoint: &str) -> Value {
        json!({"bucket": "b", "endpoint": endpoint})
    }

    #[test]
    fn a_seal_or_a_store_outside_of_the_cluster_wants_a_rule_and_nothing_else_does() {
        let transit =
            || json!({"type": "transit", "transit": {"address": "https://a:8200", "keyName": "k", "mountPath": "m"}});
        let file = || json!({"provider": "file", "file": {"claimName": "sand"}});
        assert_eq!(gap(&cluster(|_| {}).spec), None);
        assert_eq!(found(json!({}), None, None), "");
        assert_eq!(found(json!({}), None, Some(file())), "", "its node mounts it");
        assert_eq!(found(json!({}), None, Some(bucket("https://tide:9000"))), "open");
        assert_eq!(found(json!({}), Some(transit()), None), "open");
        let seal = |ports: Value| found(rules(&ports), Some(transit()), Some(bucket("https://tide:8200")));
        assert_eq!((seal(json!([{"port": 8200}])), seal(json!([{"port": 443}]))), ("", "shut"));
    }

    #[test]
    fn a_rule_opens_the_ports_that_it_names_or_all_of_them() {
        let store = |ports: Value| found(rules(&ports), None, Some(bucket("https://tide:9000")));
        for (ports, expected) in [
            (json!([]), ""),
            (json!([{"protocol": "TCP"}]), ""),
            (json!([{"port": 9000}]), ""),
            (json!([{"port": 443}, {"port": 8000, "endPort": 9100}]), ""),
            (json!([{"port": "https"}]), ""),
            (json!([{"port": 9001}]), "shut"),
            (json!([{"port": 9000, "protocol": "UDP"}]), "shut"),
            (json!([{"port": 8000, "endPort": 8999}]), "shut"),
        ] {
            assert_eq!(store(ports.clone()), expected, "{ports}");
        }
    }

    #[test]
    fn the_port_of_a_store_is_that_of_its_address_or_the_usual_one() {
        let at = |port: u16, target: Value| found(rules(&json!([{ "port": port }])), None, Some(target));
        assert_eq!(at(443, json!({"bucket": "b"})), "");
        assert_eq!(at(443, bucket("https://tide.example")), "");
        assert_eq!((at(80, bucket("http://tide.example")), at(443, bucket("http://tide.example"))), ("", "shut"));
        let azure = json!({"provider": "azure", "bucket": "b"});
        assert_eq!(at(10_000, azure), "", "nobody but its Secret knows");
    }

    #[test]
    fn the_port_of_a_seal_is_that_of_its_address_or_the_usual_one() {
        let at = |port: u16, unseal: Value| found(rules(&json!([{ "port": port }])), Some(unseal), None);
        let kmip = |address: &str| json!({"type": "kmip", "kmip": {"address": address}});
        assert_eq!((at(5696, kmip("hsm.example:5696")), at(5696, kmip("hsm.example"))), ("", ""));
        assert_eq!(at(443, kmip("hsm.example:5696")), "shut");
        let vault = json!({"type": "azurekeyvault", "azureKeyVault": {"vaultName": "v", "keyName": "k"}});
        assert_eq!((at(443, vault.clone()), at(80, vault)), ("", "shut"));
        let module = json!({"type": "pkcs11", "pkcs11": {"lib": "/l", "keyLabel": "k"}});
        assert_eq!(at(1, module), "", "its library knows");
    }

    #[test]
    fn the_port_of_each_audit_collector_wants_a_rule_for_its_protocol() {
        let log = json!({"type": "file", "path": "log", "fileOptions": {"filePath": "stdout"}});
        let socket = |kind: &str| {
            let options = json!({"address": "log.shore:9090", "socketType": kind});
            json!({"type": "socket", "path": "far", "socketOptions": options})
        };
        let http = |uri: &str| json!({"type": "http", "path": "web", "httpOptions": {"uri": uri}});
        let (tcp, udp) = (json!({"port": 9090}), json!({"port": 9090, "protocol": "UDP"}));
        for (device, port, is_told) in [
            (log.clone(), &tcp, false),
            (socket("tcp"), &tcp, false),
            (socket("tcp4"), &udp, true),
            (socket("udp"), &tcp, true),
            (socket("udp6"), &udp, false),
            (socket("tcp"), &json!({"port": 443}), true),
            (http("https://log.shore:9090/bao"), &tcp, false),
            (http("https://log.shore/bao"), &json!({"port": 443}), false),
            (http("http://log.shore/bao"), &json!({"port": 443}), true),
            (http("http://log.shore/bao"), &json!({"port": 80}), false),
        ] {
            let object = cluster(|spec| {
                spec["network"] = rules(&json!([port]));
                spec["audit"] = json!([log, device]);
            });
            let told = gap(&object.spec).is_some_and(|words| words.contains("audit collector of spec.audit"));
            assert_eq!(told, is_told, "{device} {port}: {:?}", gap(&object.spec));
        }
    }

    #[test]
    fn the_port_of_a_registry_is_that_of_its_address_or_the_usual_one_and_a_plugin_in_the_image_wants_none() {
        let at = |port: u16, from: &str, what: &str| {
            let mut plugin = json!({"type": "secret", "name": "word", "version": "v1.0.0", "binaryName": "word",
                "sha256sum": "0".repeat(64)});
            plugin[from] = json!(what);
            let object = cluster(|spec| {
                spec["network"] = rules(&json!([{ "port": port }]));
                spec["plugins"] = json!([plugin]);
            });
            gap(&object.spec).is_some_and(|words| words.contains("spec.plugins"))
        };
        for (port, image, is_told) in [
            (443, "ghcr.io/reef/word", false),
            (443, "reef/word", false),
            (443, "word", false),
            (80, "ghcr.io/reef/word", true),
            (5000, "registry.reef.svc.cluster.local:5000/word", false),
            (443, "registry.reef.svc.cluster.local:5000/word", true),
        ] {
            assert_eq!(at(port, "image", image), is_told, "{image} at {port}");
        }
        assert!(!at(80, "command", "word"));
    }

    #[test]
    fn a_server_that_is_silent_after_its_start_is_suspected_of_waiting_for_the_api_server() {
        let spec = |network: Value| cluster(|spec| spec["network"] = network).spec;
        let silent = Member {
            ready: false,
            health: None,
            view: None,
            silence: Some("no answer".into()),
            ..dialled(member(1, Standby, None))
        };
        let of = |spec: &OpenBaoClusterSpec, member: &Member, for_: Duration| {
            let mut notes = Notes::default();
            notes.silent.insert(member.uid.clone(), Instant::now().checked_sub(for_).unwrap());
            suspected(spec, std::slice::from_ref(member), &notes)
        };
        let with = spec(json!({}));
        let told = of(&with, &silent, STARTS).unwrap().message;
        assert!(told.starts_with("kelp-1 ") && told.contains("kelp-network-policy"), "{told}");
        assert_eq!(of(&with, &silent, Duration::ZERO), None, "it starts");
        assert_eq!(of(&cluster(|_| {}).spec, &silent, STARTS), None, "there is no policy of ours");
        assert_eq!(of(&with, &Member { ready: true, ..silent.clone() }, STARTS), None, "Kubernetes had an answer");
        assert_eq!(of(&with, &dialled(member(1, Standby, None)), STARTS), None, "it answers");
    }

    /// What the spec asks for, as the API server would have it.
    fn policies(spec: &ValidatedCluster) -> [NetworkPolicy; 2] {
        let labels = std::collections::BTreeMap::new();
        let around = Surroundings { operator_namespace: "ops", operator_labels: &labels, api_server: &[] };
        network::build(spec, spec.spec.network.as_ref().unwrap(), &around)
    }

    #[tokio::test]
    async fn neither_policy_that_is_refused_keeps_the_other_or_a_look_waiting_and_both_are_told_until_the_field_goes() {
        let (applier, asked) = applier(|method| match *method {
            Method::GET => refusal(404, "NotFound", "none yet"),
            _ => refusal(500, "InternalError", "failed calling webhook"),
        });
        let (mut known, spec) = (Known::default(), valid(|spec| spec["network"] = json!({})));
        for _ in 0..3 {
            carry_out(&applier, &mut known.attempts, &spec, &Facts::default(), policies(&spec).map(Some)).await;
        }
        assert_eq!(methods(&asked), [Method::GET, Method::PATCH, Method::GET, Method::PATCH], "each once");
        let told: Vec<String> = known.troubles().into_iter().map(|trouble| trouble.message).collect();
        assert_eq!(told.len(), 2);
        for (told, name) in told.iter().zip(["reef/kelp-jobs-network-policy", "reef/kelp-network-policy"]) {
            assert!(told.starts_with("spec.network: ") && told.contains(name) && told.contains("webhook"), "{told}");
        }
        carry_out(&applier, &mut known.attempts, &spec, &Facts::default(), [None, None]).await;
        assert_eq!((methods(&asked), known.troubles()), (vec![], vec![]));
    }

    #[tokio::test]
    async fn policies_that_are_there_cost_no_request_and_go_with_the_field() {
        let (applier, asked) = applier(|_| (200, json!({"kind": "Status", "status": "Success"})));
        let (mut known, spec) = (Known::default(), valid(|spec| spec["network"] = json!({})));
        let wanted = policies(&spec);
        let live = wanted.clone().map(|policy| {
            let mut live = prepare(policy).unwrap().object;
            live.metadata.uid = Some("policy-uid".into());
            (live.metadata.name.clone().unwrap(), Arc::new(live))
        });
        let facts = Facts { network_policies: live.into(), ..Facts::default() };
        carry_out(&applier, &mut known.attempts, &spec, &facts, wanted.map(Some)).await;
        assert_eq!((methods(&asked), known.troubles()), (vec![], vec![]));
        carry_out(&applier, &mut known.attempts, &spec, &facts, [None, None]).await;
        assert_eq!((methods(&asked), known.troubles()), (vec![Method::DELETE, Method::DELETE], vec![]));
    }

    #[tokio::test]
    async fn where_policies_may_not_be_listed_a_cluster_that_asks_for_them_is_told_and_another_one_asks_nothing() {
        let (applier, asked) = applier(|_| refusal(403, "Forbidden", "no"));
        let facts = Facts { unseen_network_policies: true, ..Facts::default() };
        let (mut known, spec) = (Known::default(), valid(|spec| spec["network"] = json!({})));
        carry_out(&applier, &mut known.attempts, &spec, &facts, policies(&spec).map(Some)).await;
        let told: Vec<_> = known.troubles().into_iter().map(|trouble| trouble.reason).collect();
        assert_eq!(told, [reasons::ACCESS_MISSING, reasons::ACCESS_MISSING]);
        carry_out(&applier, &mut known.attempts, &valid(|_| {}), &facts, [None, None]).await;
        assert_eq!((methods(&asked), known.troubles()), (vec![], vec![]));
    }

    #[test]
    fn whoever_may_not_know_where_the_api_server_is_hears_what_to_set() {
        let error = api_server::Error::Empty { kind: "Service" };
        assert!(unknown(&error).message.contains("apiServerCIDR"));
    }
}
