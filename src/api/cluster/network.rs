//! How clients reach the cluster, and what its pods may reach.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyIngressRule};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{string_map, yes};

/// The Service for clients.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort` or `LoadBalancer`. Default `ClusterIP`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = ("self in ['ClusterIP', 'NodePort', 'LoadBalancer']", "service.type must be ClusterIP, NodePort or LoadBalancer"))]
    pub type_: Option<String>,
    /// Put on the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub annotations: BTreeMap<String, String>,
}

/// An Ingress in front of the client Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressSpec {
    /// Whether to create it. Default false.
    #[serde(default)]
    pub enabled: bool,
    /// Host name. A certificate that the operator makes carries it.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Path prefix. Default `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub path: Option<String>,
    /// Ingress class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// Secret with the certificate for the host. Default: the controller's own certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
    /// Put on the Ingress. The servers speak HTTPS, which many a controller has to be told here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub annotations: BTreeMap<String, String>,
}

/// A Gateway API route to the client Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Whether to create it.
    #[serde(default)]
    pub enabled: bool,
    /// The Gateway to attach to.
    pub gateway_ref: GatewayRef,
    /// Host name. A certificate that the operator makes carries it where `tlsPassthrough` is true.
    #[schemars(length(min = 1, max = 253))]
    pub hostname: String,
    /// Path prefix, where TLS ends at the Gateway. Default `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub path: Option<String>,
    /// Listener of the Gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub listener_name: Option<String>,
    /// Put on the route.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub annotations: BTreeMap<String, String>,
    /// Route TLS untouched (a `TLSRoute`) instead of HTTP. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls_passthrough: bool,
    /// TLS between Gateway and servers.
    #[serde(rename = "backendTLS", skip_serializing_if = "Option::is_none")]
    pub backend_tls: Option<BackendTls>,
}

/// A Gateway, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace; default is the cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// TLS between Gateway and servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    /// Whether to create a `BackendTLSPolicy`. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Name to expect in the servers' certificate, which one that the operator makes carries then. Default `NAME.NAMESPACE.svc` of the
    /// cluster, which every one carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub hostname: Option<String>,
}

impl Default for BackendTls {
    fn default() -> Self {
        Self { enabled: true, hostname: None }
    }
}

/// What the NetworkPolicies of servers and Jobs let through beside what every cluster needs.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// Addresses of the API server, for example `10.96.0.1/32`. Default: found out, with those behind its Service. Without
    /// `apiServerEndpointIPs` what can be found out is let through beside it.
    #[serde(rename = "apiServerCIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = ("isCIDR(self)", "network.apiServerCIDR must be a CIDR, for example 10.96.0.1/32"))]
    pub api_server_cidr: Option<String>,
    /// Addresses behind the API server's Service, for networks that filter after translation. With `apiServerCIDR` nothing is found out.
    #[serde(rename = "apiServerEndpointIPs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    #[x_kube(validation = ("self.all(ip, isIP(ip))", "network.apiServerEndpointIPs must be IP addresses, for example 192.168.1.10"))]
    pub api_server_endpoint_ips: Vec<String>,
    /// Namespace of the cluster's DNS. Default `kube-system`.
    #[serde(default = "default_dns_namespace")]
    #[schemars(length(min = 1, max = 63))]
    pub dns_namespace: String,
    /// More that servers and Jobs may reach, for example a KMS or an object store. As long as there are none, Jobs may reach everything,
    /// and so may servers with a seal or an audit collector outside of the cluster, or with plugins that they fetch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub egress_rules: Vec<NetworkPolicyEgressRule>,
    /// More that may reach the servers: your clients, at port 8200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ingress_rules: Vec<NetworkPolicyIngressRule>,
}

fn default_dns_namespace() -> String {
    "kube-system".to_owned()
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            api_server_cidr: None,
            api_server_endpoint_ips: Vec::new(),
            dns_namespace: default_dns_namespace(),
            egress_rules: Vec::new(),
            ingress_rules: Vec::new(),
        }
    }
}
