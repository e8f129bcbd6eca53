//! What the cluster's NetworkPolicies come to: applies them, takes them away, and says what is wrong with them.
//!
//! They protect, nothing rests on them. So what stands in their way is told, and the cluster is looked after all the same.

use super::{
    api_server,
    apply::{self, Applier},
    build::network::{self, Surroundings},
    error::Error,
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
    api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;
use std::time::Duration;

/// How long a server that has just started may be silent before its network is suspected: it loads its data before it listens.
const STARTS: Duration = Duration::from_secs(120);
const HTTPS: u16 = 443;
const HTTP: u16 = 80;
const KMIP: u16 = 5696;

/// Applies the policies that the spec asks for, or removes those that it does not. Returns what a person should look at.
pub(super) async fn keep(
    ad: &Adapters,
    memory: &Memory,
    applier: &Applier,
    spec: &ValidatedCluster,
    facts: &Facts,
) -> Result<Option<Trouble>, Error> {
    let mut trouble = None;
    let Some(network) = &spec.spec.network else {
        for live in facts.network_policies.values() {
            let removed = applier.remove(live.as_ref()).await;
            trouble = trouble.or(told(removed, &live.name_any())?);
        }
        return Ok(trouble);
    };
    let doors = match memory.api_server.doors(&ad.client, network).await {
        Ok(doors) => doors,
        Err(error) => return Ok(Some(unknown(&error))),
    };
    let around = Surroundings {
        operator_namespace: &ad.settings.operator_namespace,
        operator_labels: &ad.settings.operator_pod_labels,
        api_server: &doors,
    };
    for policy in network::build(spec, network, &around) {
        let name = policy.name_any();
        let live = facts.network_policies.get(&name).map(AsRef::as_ref);
        let written = applier.ensure(live, policy).await;
        trouble = trouble.or(told(written, &name)?);
    }
    Ok(trouble)
}

/// What is to be said of a policy instead of giving up the look.
fn told(outcome: Result<(), apply::Error>, name: &str) -> Result<Option<Trouble>, Error> {
    match outcome {
        Ok(()) => Ok(None),
        Err(error @ apply::Error::NotOurs { .. }) => Ok(Some(Trouble::new(
            reasons::NAME_TAKEN,
            format!("{}. Until then spec.network is not carried out", chain(&error)),
        ))),
        Err(error) if error.is_refused() => Ok(Some(Trouble::new(
            reasons::APPLY_FAILED,
            format!("NetworkPolicy {name} is not as spec.network says: {}. Correct spec.network", chain(&error)),
        ))),
        Err(error) => Err(error.into()),
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
            "spec.network.egressRules is empty, so pods that need a seal, a store or an audit collector outside of the cluster may \
             reach everything: name these there",
        );
    }
    let is_shut = |port: u16| !network.egress_rules.iter().any(|rule| opens(rule, port));
    [seal_port(spec), store_port(spec)].into_iter().flatten().any(is_shut).then_some(
        "no rule of spec.network.egressRules opens the port at which the seal or the backup target is asked, so it cannot be \
         reached: add one",
    )
}

/// Whether a rule may let a connection to this port go out. A port that only has a name may be this one.
fn opens(rule: &NetworkPolicyEgressRule, port: u16) -> bool {
    let port = i32::from(port);
    let is_it = |one: &NetworkPolicyPort| {
        one.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
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
        adapter::openbao::HealthState::Standby,
        service::cluster::{
            apply::tests::refused,
            members::tests::{dialled, member},
            validate::tests::{cluster, valid},
        },
    };
    use serde_json::{Value, json};
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

    #[tokio::test]
    async fn what_is_refused_or_somebody_elses_is_told_and_does_not_end_the_look() {
        let applier = refused("cluster-uid");
        let spec = valid(|spec| spec["network"] = json!({}));
        let network = spec.spec.network.clone().unwrap();
        let labels = std::collections::BTreeMap::new();
        let around = Surroundings { operator_namespace: "ops", operator_labels: &labels, api_server: &[] };
        let [policy, _] = network::build(&spec, &network, &around);
        let trouble = told(applier.ensure(None, policy.clone()).await, "kelp-network-policy").unwrap().unwrap();
        assert!(trouble.reason == reasons::APPLY_FAILED && trouble.message.contains("exceeded quota"), "{trouble:?}");
        let mut others = policy.clone();
        others.metadata.owner_references = None;
        let trouble = told(applier.ensure(Some(&others), policy).await, "kelp-network-policy").unwrap().unwrap();
        assert_eq!(trouble.reason, reasons::NAME_TAKEN);
        assert!(trouble.message.contains("kelp-network-policy"), "{trouble:?}");
    }

    #[test]
    fn whoever_may_not_know_where_the_api_server_is_hears_what_to_set() {
        let error = api_server::Error::Empty { kind: "Service" };
        assert!(unknown(&error).message.contains("apiServerCIDR"));
    }
}
