//! The three Services: one for names, one for clients, one for the leader.

use super::{meta, names};
use crate::service::cluster::{
    traffic::Traffic,
    validate::{TlsPlan, ValidatedCluster},
};
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::collections::BTreeMap;

/// The label that the StatefulSet controller gives each pod: its name.
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// A label that no pod has.
const NOBODY_LABEL: &str = "openbao.org/withheld";

/// Headless, public, active.
pub fn build(cluster: &ValidatedCluster, traffic: &Traffic) -> Vec<Service> {
    vec![headless(cluster), public(cluster, traffic), active(cluster, traffic)]
}

/// Whom clients may be sent to.
fn reachable(cluster: &ValidatedCluster, traffic: &Traffic) -> BTreeMap<String, String> {
    let mut selector = names::server_selector(&cluster.name);
    match traffic {
        Traffic::Everybody => None,
        Traffic::Leader => selector.insert(names::ACTIVE_LABEL.into(), "true".into()),
        Traffic::Only(pod) => selector.insert(POD_NAME_LABEL.into(), pod.clone()),
        Traffic::Nobody => selector.insert(NOBODY_LABEL.into(), "true".into()),
    };
    selector
}

/// Whether `service` leads to the leader and to nobody else.
pub fn lead_to_leader(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| selector.contains_key(names::ACTIVE_LABEL))
}

/// Every pod's DNS name, ready or not: members must find each other to become ready.
fn headless(cluster: &ValidatedCluster) -> Service {
    let cluster_port = ServicePort {
        name: Some("cluster".into()),
        port: names::CLUSTER_PORT.into(),
        target_port: Some(IntOrString::String("cluster".into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    Service {
        metadata: meta(cluster, names::headless_service(&cluster.name)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names::server_selector(&cluster.name)),
            ports: Some(vec![api_port(cluster), cluster_port]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Any ready member; standbys forward. See [`Traffic`] for when it is fewer.
fn public(cluster: &ValidatedCluster, traffic: &Traffic) -> Service {
    let settings = cluster.spec.service.as_ref();
    let mut metadata = meta(cluster, names::public_service(&cluster.name));
    metadata.annotations = settings.map(|service| service.annotations.clone()).filter(|all| !all.is_empty());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(settings.and_then(|service| service.type_.clone()).unwrap_or_else(|| "ClusterIP".into())),
            selector: Some(reachable(cluster, traffic)),
            ports: Some(vec![api_port(cluster)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The leader, by the label that OpenBao writes and the operator corrects.
fn active(cluster: &ValidatedCluster, traffic: &Traffic) -> Service {
    let mut selector = reachable(cluster, traffic);
    selector.insert(names::ACTIVE_LABEL.into(), "true".into());
    Service {
        metadata: meta(cluster, names::active_service(&cluster.name)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            selector: Some(selector),
            ports: Some(vec![api_port(cluster)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// What the servers speak, which is also the name of their port: meshes and gateways read the protocol from it.
pub fn scheme(cluster: &ValidatedCluster) -> &'static str {
    if cluster.tls == TlsPlan::Off { "http" } else { "https" }
}

fn api_port(cluster: &ValidatedCluster) -> ServicePort {
    ServicePort {
        name: Some(scheme(cluster).into()),
        port: names::API_PORT.into(),
        target_port: Some(IntOrString::String("api".into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;

    #[test]
    fn clients_are_led_to_the_leader_by_its_label_and_by_the_name_of_no_pod() {
        let cluster = valid(|_| {});
        for (traffic, to_leader) in [
            (Traffic::Everybody, false),
            (Traffic::Leader, true),
            (Traffic::Only("kelp-1".into()), false),
            (Traffic::Nobody, false),
        ] {
            assert_eq!(lead_to_leader(&public(&cluster, &traffic)), to_leader, "{traffic:?}");
        }
        let led = public(&cluster, &Traffic::Leader).spec.and_then(|spec| spec.selector).unwrap();
        assert!(!led.contains_key(POD_NAME_LABEL), "{led:?}");
        assert_eq!(Some(led), active(&cluster, &Traffic::Everybody).spec.and_then(|spec| spec.selector));
    }
}
