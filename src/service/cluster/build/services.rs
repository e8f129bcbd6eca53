//! The three Services: one for names, one for clients, one for the leader.

use super::{meta, names};
use crate::service::cluster::validate::{TlsPlan, ValidatedCluster};
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::collections::BTreeMap;

/// Headless, public, active.
pub fn build(cluster: &ValidatedCluster) -> Vec<Service> {
    vec![headless(cluster), public(cluster), active(cluster)]
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

/// Any ready member; standbys forward.
fn public(cluster: &ValidatedCluster) -> Service {
    let settings = cluster.spec.service.as_ref();
    let mut metadata = meta(cluster, names::public_service(&cluster.name));
    metadata.annotations = settings.map(|service| service.annotations.clone()).filter(|all| !all.is_empty());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(settings.and_then(|service| service.type_.clone()).unwrap_or_else(|| "ClusterIP".into())),
            selector: Some(names::server_selector(&cluster.name)),
            ports: Some(vec![api_port(cluster)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The leader, by the label that OpenBao writes and the operator corrects.
fn active(cluster: &ValidatedCluster) -> Service {
    let mut selector: BTreeMap<String, String> = names::server_selector(&cluster.name);
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

fn api_port(cluster: &ValidatedCluster) -> ServicePort {
    ServicePort {
        // Meshes and gateways read the protocol from the name.
        name: Some(if cluster.tls == TlsPlan::Off { "http" } else { "https" }.into()),
        port: names::API_PORT.into(),
        target_port: Some(IntOrString::String("api".into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }
}
