//! What leads to the cluster from outside of it: an Ingress, a Gateway's route and how the Gateway knows the servers, and the
//! `ServiceMonitor` by which Prometheus finds each of them.

use super::{meta, names, services::scheme};
use crate::{
    adapter::kubernetes::foreign::{Kind, Wanted},
    api::{GatewaySpec, OpenBaoClusterSpec},
    service::cluster::{
        tls::is_host,
        validate::{TlsPlan, ValidatedCluster},
    },
};
use k8s_openapi::{
    api::networking::v1::{
        HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
        IngressSpec, IngressTLS, ServiceBackendPort,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The path to which everything belongs.
const EVERYTHING: &str = "/";

/// An object of a kind that somebody else defines.
#[derive(Debug)]
pub struct Guest {
    /// Its kind.
    pub kind: Kind,
    /// The field that asks for it.
    pub field: &'static str,
    /// What brings the kind.
    pub comes_with: &'static str,
    /// The label of the headless Service that says that there is such an object, or that there may be one.
    pub mark: &'static str,
    build: fn(&ValidatedCluster) -> Option<(ObjectMeta, Value)>,
}

impl Guest {
    /// The object, if the spec asks for it.
    pub fn wanted(&'static self, cluster: &ValidatedCluster) -> Option<Wanted> {
        (self.build)(cluster).map(|(metadata, spec)| Wanted::new(&self.kind, &metadata, &spec))
    }
}

/// All of them.
pub static GUESTS: [&Guest; 4] = [&SERVICE_MONITOR, &HTTP_ROUTE, &TLS_ROUTE, &BACKEND_TLS_POLICY];

/// By which Prometheus finds the servers.
pub static SERVICE_MONITOR: Guest = Guest {
    kind: Kind { group: "monitoring.coreos.com", version: "v1", kind: "ServiceMonitor", plural: "servicemonitors" },
    field: "spec.observability.metrics.serviceMonitor",
    comes_with: "the Prometheus operator",
    mark: "openbao.org/service-monitor",
    build: service_monitor,
};

/// By which a Gateway leads requests to the servers.
pub static HTTP_ROUTE: Guest = Guest {
    kind: Kind { group: GATEWAY_GROUP, version: "v1", kind: "HTTPRoute", plural: "httproutes" },
    field: "spec.gateway",
    comes_with: "the Gateway API",
    mark: "openbao.org/http-route",
    build: http_route,
};

/// By which a Gateway leads connections to the servers.
pub static TLS_ROUTE: Guest = Guest {
    kind: Kind { group: GATEWAY_GROUP, version: "v1", kind: "TLSRoute", plural: "tlsroutes" },
    field: "spec.gateway.tlsPassthrough",
    comes_with: "the Gateway API from 1.5 on",
    mark: "openbao.org/tls-route",
    build: tls_route,
};

/// By which a Gateway knows the servers.
pub static BACKEND_TLS_POLICY: Guest = Guest {
    kind: Kind { group: GATEWAY_GROUP, version: "v1", kind: "BackendTLSPolicy", plural: "backendtlspolicies" },
    field: "spec.gateway.backendTLS",
    comes_with: "the Gateway API from 1.4 on",
    mark: "openbao.org/backend-tls-policy",
    build: backend_tls_policy,
};

/// The names by which whoever comes from outside may ask the servers themselves: what a Gateway leads through unopened is asked for
/// its host, and what it opens by the name in its policy. Whether an Ingress leads through only its controller knows. One that is no
/// host name is left out: a certificate with it cannot be issued, which would keep the servers from starting, and the API server
/// refuses the object that it is meant for anyway.
pub fn hosts(spec: &OpenBaoClusterSpec) -> Vec<String> {
    let ingress = spec.ingress.as_ref().filter(|ingress| ingress.enabled);
    let gateway = spec.gateway.as_ref().filter(|gateway| gateway.enabled);
    let through = gateway.filter(|gateway| gateway.tls_passthrough);
    let opened = gateway.filter(|gateway| !gateway.tls_passthrough);
    let policy = opened.and_then(|gateway| gateway.backend_tls.as_ref()).filter(|policy| policy.enabled);
    let asked = [
        ingress.map(|ingress| &ingress.host),
        through.map(|gateway| &gateway.hostname),
        policy.and_then(|policy| policy.hostname.as_ref()),
    ];
    asked.into_iter().flatten().filter(|name| is_host(name)).cloned().collect()
}

/// The Ingress, if the spec asks for one. Its controller ends TLS for the host, with its own certificate where no Secret is
/// named: without that a token would come in in the clear.
pub fn ingress(cluster: &ValidatedCluster) -> Option<Ingress> {
    let settings = cluster.spec.ingress.as_ref().filter(|ingress| ingress.enabled)?;
    let tls = IngressTLS { hosts: Some(vec![settings.host.clone()]), secret_name: settings.tls_secret_name.clone() };
    let plain = cluster.tls == TlsPlan::Off && settings.tls_secret_name.is_none();
    let service = IngressServiceBackend {
        name: names::public_service(&cluster.name),
        port: Some(ServiceBackendPort { number: Some(names::API_PORT.into()), name: None }),
    };
    let path = HTTPIngressPath {
        path: Some(settings.path.clone().unwrap_or_else(|| EVERYTHING.into())),
        path_type: "Prefix".into(),
        backend: IngressBackend { service: Some(service), resource: None },
    };
    let rule =
        IngressRule { host: Some(settings.host.clone()), http: Some(HTTPIngressRuleValue { paths: vec![path] }) };
    Some(Ingress {
        metadata: annotated(cluster, &settings.annotations),
        spec: Some(IngressSpec {
            ingress_class_name: settings.class_name.clone(),
            rules: Some(vec![rule]),
            tls: (!plain).then(|| vec![tls]),
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    })
}

/// Each server is scraped, by its own address and under the one name that every certificate carries. Only the headless Service
/// has the label, so that none is scraped twice.
fn service_monitor(cluster: &ValidatedCluster) -> Option<(ObjectMeta, Value)> {
    let metrics = cluster.spec.observability.as_ref()?.metrics.as_ref().filter(|metrics| metrics.enabled)?;
    let settings = metrics.service_monitor.as_ref().filter(|monitor| monitor.enabled)?;
    let mut endpoint = json!({
        "port": scheme(cluster),
        "scheme": scheme(cluster),
        "path": "/v1/sys/metrics",
        "params": {"format": ["prometheus"]},
        "interval": settings.interval,
        "scrapeTimeout": settings.scrape_timeout,
    });
    if cluster.tls != TlsPlan::Off {
        endpoint["tlsConfig"] = json!({
            "serverName": names::shared_tls_name(&cluster.name, &cluster.namespace),
            "ca": {"configMap": {"name": names::ca_config_map(&cluster.name), "key": "ca.crt"}},
        });
    }
    let mut metadata = meta(cluster, names::exposure(&cluster.name));
    // Ours win: the operator knows its objects by them.
    let ours = metadata.labels.take().unwrap_or_default();
    metadata.labels = Some(settings.labels.clone().into_iter().chain(ours).collect());
    let labels = json!({(names::CLUSTER_LABEL): cluster.name, (SERVICE_MONITOR.mark): "true"});
    Some((metadata, json!({"selector": {"matchLabels": labels}, "endpoints": [endpoint]})))
}

fn http_route(cluster: &ValidatedCluster) -> Option<(ObjectMeta, Value)> {
    let gateway = gateway(cluster).filter(|gateway| !gateway.tls_passthrough)?;
    let path = gateway.path.as_deref().unwrap_or(EVERYTHING);
    let rule = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "backendRefs": [backend(cluster)],
    });
    Some(route(cluster, gateway, &rule))
}

fn tls_route(cluster: &ValidatedCluster) -> Option<(ObjectMeta, Value)> {
    let gateway = gateway(cluster).filter(|gateway| gateway.tls_passthrough)?;
    Some(route(cluster, gateway, &json!({"backendRefs": [backend(cluster)]})))
}

/// Without it a Gateway would speak plain HTTP to servers that speak TLS.
fn backend_tls_policy(cluster: &ValidatedCluster) -> Option<(ObjectMeta, Value)> {
    let gateway = gateway(cluster).filter(|gateway| !gateway.tls_passthrough && cluster.tls != TlsPlan::Off)?;
    let settings = gateway.backend_tls.as_ref();
    if settings.is_some_and(|settings| !settings.enabled) {
        return None;
    }
    let shared = || names::shared_tls_name(&cluster.name, &cluster.namespace);
    let spec = json!({
        "targetRefs": [{"group": "", "kind": "Service", "name": names::public_service(&cluster.name)}],
        "validation": {
            "hostname": settings.and_then(|settings| settings.hostname.clone()).unwrap_or_else(shared),
            "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": names::ca_config_map(&cluster.name)}],
        },
    });
    Some((meta(cluster, names::exposure(&cluster.name)), spec))
}

fn gateway(cluster: &ValidatedCluster) -> Option<&GatewaySpec> {
    cluster.spec.gateway.as_ref().filter(|gateway| gateway.enabled)
}

fn route(cluster: &ValidatedCluster, gateway: &GatewaySpec, rule: &Value) -> (ObjectMeta, Value) {
    let mut parent = json!({"group": GATEWAY_GROUP, "kind": "Gateway", "name": gateway.gateway_ref.name});
    if let Some(namespace) = &gateway.gateway_ref.namespace {
        parent["namespace"] = json!(namespace);
    }
    if let Some(listener) = &gateway.listener_name {
        parent["sectionName"] = json!(listener);
    }
    let spec = json!({"parentRefs": [parent], "hostnames": [gateway.hostname], "rules": [rule]});
    (annotated(cluster, &gateway.annotations), spec)
}

fn backend(cluster: &ValidatedCluster) -> Value {
    json!({"kind": "Service", "name": names::public_service(&cluster.name), "port": names::API_PORT})
}

fn annotated(cluster: &ValidatedCluster, annotations: &BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        annotations: Some(annotations.clone()).filter(|all| !all.is_empty()),
        ..meta(cluster, names::exposure(&cluster.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;

    fn said(guest: &'static Guest, cluster: &ValidatedCluster) -> Option<Value> {
        (guest.build)(cluster).map(|(_, spec)| spec)
    }

    /// Of which kinds there are objects.
    fn kinds(change: impl FnOnce(&mut Value)) -> Vec<&'static str> {
        let cluster = valid(change);
        let guests = GUESTS.iter().filter(|guest| guest.wanted(&cluster).is_some()).map(|guest| guest.kind.kind);
        ingress(&cluster).map(|_| "Ingress").into_iter().chain(guests).collect()
    }

    #[test]
    fn each_object_exists_exactly_while_its_field_is_on() {
        let gateway = |more: Value| {
            let mut gateway = json!({"enabled": true, "gatewayRef": {"name": "g"}, "hostname": "bao.example.org"});
            gateway.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"gateway": gateway})
        };
        let monitor = |on: bool, metrics: bool| json!({"observability": {"metrics": {"enabled": metrics, "serviceMonitor": {"enabled": on}}}});
        for (extra, expected) in [
            (json!({}), vec![]),
            (json!({"ingress": {"enabled": true, "host": "bao.example.org"}}), vec!["Ingress"]),
            (json!({"ingress": {"enabled": false, "host": "bao.example.org"}}), vec![]),
            (monitor(true, true), vec!["ServiceMonitor"]),
            (monitor(false, true), vec![]),
            // There would be nothing to scrape.
            (monitor(true, false), vec![]),
            (json!({"observability": {"metrics": {"enabled": true}}}), vec![]),
            (gateway(json!({})), vec!["HTTPRoute", "BackendTLSPolicy"]),
            (gateway(json!({"enabled": false})), vec![]),
            (gateway(json!({"backendTLS": {"enabled": false}})), vec!["HTTPRoute"]),
            (gateway(json!({"tlsPassthrough": true})), vec!["TLSRoute"]),
        ] {
            let said = extra.to_string();
            let found = kinds(|spec| spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone()));
            assert_eq!(found, expected, "{said}");
        }
        let plain = |spec: &mut Value| {
            spec["profile"] = json!("Development");
            spec["tls"] = json!({"enabled": false});
            spec["gateway"] = gateway(json!({}))["gateway"].clone();
        };
        assert_eq!(kinds(plain), ["HTTPRoute"], "there is no TLS that a policy could be about");
    }

    #[test]
    fn an_ingress_leads_its_host_to_the_clients_service_and_never_in_the_clear() {
        let with = |extra: Value, tls: bool| {
            let cluster = valid(|spec| {
                spec["tls"] = json!({"enabled": tls});
                spec["profile"] = json!("Development");
                spec["ingress"] = json!({"enabled": true, "host": "bao.example.org"});
                spec["ingress"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            });
            serde_json::to_value(ingress(&cluster).unwrap()).unwrap()
        };
        let bare = with(json!({}), true);
        let path = &bare["spec"]["rules"][0]["http"]["paths"][0];
        assert_eq!(bare["spec"]["rules"][0]["host"], "bao.example.org");
        assert_eq!((&path["path"], &path["pathType"]), (&json!("/"), &json!("Prefix")));
        assert_eq!(path["backend"]["service"], json!({"name": "kelp-public", "port": {"number": 8200}}));
        assert_eq!(bare["spec"]["tls"], json!([{"hosts": ["bao.example.org"]}]), "the controller's own certificate");
        assert_eq!(bare["metadata"]["labels"]["openbao.org/cluster"], "kelp");
        assert_eq!(bare["metadata"]["ownerReferences"][0]["uid"], "cluster-uid");

        let full = with(
            json!({"className": "nginx", "path": "/bao", "tlsSecretName": "bao-tls", "annotations": {"a": "b"}}),
            true,
        );
        assert_eq!(full["spec"]["ingressClassName"], "nginx");
        assert_eq!(full["spec"]["rules"][0]["http"]["paths"][0]["path"], "/bao");
        assert_eq!(full["spec"]["tls"][0]["secretName"], "bao-tls");
        assert_eq!(full["metadata"]["annotations"], json!({"a": "b"}));

        assert!(with(json!({}), false)["spec"].get("tls").is_none(), "who has no TLS at all is in the clear anyway");
        assert_eq!(with(json!({"tlsSecretName": "t"}), false)["spec"]["tls"][0]["secretName"], "t");
    }

    #[test]
    fn each_server_is_scraped_once_and_known_by_the_name_that_all_certificates_carry() {
        let monitor = |tls: bool| {
            let cluster = valid(|spec| {
                spec["tls"] = json!({"enabled": tls});
                spec["profile"] = json!("Development");
                let settings = json!({"enabled": true, "interval": "15s", "labels": {
                    "release": "stack", "openbao.org/cluster": "other"}});
                spec["observability"] = json!({"metrics": {"enabled": true, "serviceMonitor": settings}});
            });
            (
                service_monitor(&cluster).unwrap(),
                super::super::services::build(&cluster, &crate::service::cluster::traffic::Traffic::Everybody),
            )
        };
        let ((metadata, spec), services) = monitor(true);
        let endpoint = &spec["endpoints"][0];
        assert_eq!(endpoint["params"], json!({"format": ["prometheus"]}));
        assert_eq!((&endpoint["interval"], &endpoint["scrapeTimeout"]), (&json!("15s"), &json!("10s")));
        let tls = json!({"serverName": "kelp.reef.svc", "ca": {"configMap": {"name": "kelp-ca", "key": "ca.crt"}}});
        assert_eq!((&endpoint["scheme"], &endpoint["tlsConfig"]), (&json!("https"), &tls));
        let ports = services[0].spec.as_ref().unwrap().ports.as_ref().unwrap();
        assert!(ports.iter().any(|port| endpoint["port"] == json!(port.name)), "the headless Service has that port");
        let labels = metadata.labels.unwrap();
        assert_eq!((labels["release"].as_str(), labels["openbao.org/cluster"].as_str()), ("stack", "kelp"));

        let ((_, spec), _) = monitor(false);
        assert_eq!(spec["endpoints"][0]["scheme"], "http");
        assert!(spec["endpoints"][0].get("tlsConfig").is_none());
    }

    #[test]
    fn routes_name_their_gateway_and_what_it_expects_of_the_servers() {
        let with = |extra: Value| {
            valid(|spec| {
                spec["gateway"] = json!({"enabled": true, "gatewayRef": {"name": "g"}, "hostname": "bao.example.org"});
                spec["gateway"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            })
        };
        let bare = with(json!({}));
        let backend = json!([{"kind": "Service", "name": "kelp-public", "port": 8200}]);
        let parent = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"});
        let route = said(&HTTP_ROUTE, &bare).unwrap();
        assert_eq!((&route["parentRefs"], &route["hostnames"]), (&json!([parent]), &json!(["bao.example.org"])));
        assert_eq!(route["rules"][0]["matches"], json!([{"path": {"type": "PathPrefix", "value": "/"}}]));
        assert_eq!(route["rules"][0]["backendRefs"], backend);
        let validation = &said(&BACKEND_TLS_POLICY, &bare).unwrap()["validation"];
        assert_eq!(validation["hostname"], "kelp.reef.svc", "every member's certificate carries it");
        assert_eq!(validation["caCertificateRefs"][0]["name"], "kelp-ca");

        let full =
            with(json!({"gatewayRef": {"name": "g", "namespace": "infra"}, "listenerName": "tls", "path": "/bao",
            "backendTLS": {"enabled": true, "hostname": "bao.example.org"}}));
        let route = said(&HTTP_ROUTE, &full).unwrap();
        let parent = &route["parentRefs"][0];
        assert_eq!((&parent["namespace"], &parent["sectionName"]), (&json!("infra"), &json!("tls")));
        assert_eq!(route["rules"][0]["matches"][0]["path"]["value"], "/bao");
        assert_eq!(said(&BACKEND_TLS_POLICY, &full).unwrap()["validation"]["hostname"], "bao.example.org");

        let through = said(&TLS_ROUTE, &with(json!({"tlsPassthrough": true}))).unwrap();
        assert_eq!(through["rules"], json!([{"backendRefs": backend}]));
    }

    #[test]
    fn the_certificate_carries_the_hosts_by_which_servers_are_asked_and_no_others() {
        let served = |extra: Value| {
            let cluster = valid(|spec| spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone()));
            match cluster.tls {
                TlsPlan::Managed { extra_names, .. } => extra_names,
                other => panic!("{other:?}"),
            }
        };
        let gateway = |through: bool, more: Value| {
            json!({"gateway": {"enabled": true, "gatewayRef": {"name": "g"}, "hostname": "gate.example.org",
                "tlsPassthrough": through, "backendTLS": more}})
        };
        for (extra, expected) in [
            (json!({}), vec![]),
            (json!({"ingress": {"enabled": true, "host": "bao.example.org"}}), vec!["bao.example.org"]),
            (json!({"ingress": {"enabled": false, "host": "bao.example.org"}}), vec![]),
            (json!({"ingress": {"enabled": true, "host": "no host"}}), vec![]),
            (gateway(true, json!({})), vec!["gate.example.org"]),
            (gateway(true, json!({"hostname": "in.example.org"})), vec!["gate.example.org"]),
            (gateway(false, json!({})), vec![]),
            (gateway(false, json!({"hostname": "in.example.org"})), vec!["in.example.org"]),
            (gateway(false, json!({"enabled": false, "hostname": "in.example.org"})), vec![]),
        ] {
            assert_eq!(served(extra.clone()), expected, "{extra}");
        }
        let both = served(json!({"tls": {"enabled": true, "extraSANs": ["x.example.org"]},
            "ingress": {"enabled": true, "host": "*.example.org"}}));
        assert_eq!(both, ["x.example.org", "*.example.org"]);
    }
}
