//! The spec, read once: what it says is checked here, and whatever comes later sees only values that are known to be good.
//!
//! Admission has refused what the schema can refuse. Here stands what it cannot: versions, quantities, free-form data, and
//! fields that would be dangerous to ignore (`Supported=False` with reason `UnsafeToIgnore`, nothing is reconciled).

use super::{
    build::exposure,
    config::{self, audit, plugins},
    hcl,
    invalid::{Invalid, NAME_LIMIT},
    login, names, supported,
};
use crate::api::{OpenBaoCluster, OpenBaoClusterSpec, Profile, SealType, SelfInitRequest, TlsMode, duration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use semver::Version;
use std::{sync::Arc, time::Duration};

/// A spec that passed every check.
#[derive(Clone, Debug)]
pub struct ValidatedCluster {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// What makes an object ours.
    pub owner: OwnerReference,
    /// `spec.version`, parsed.
    pub version: Version,
    /// Wanted members.
    pub replicas: u32,
    /// Who makes certificates.
    pub tls: TlsPlan,
    /// The JWT set-up, if OpenBao initialises itself and is to have one.
    pub oidc: Option<OidcPlan>,
    /// OpenBao initialises itself.
    pub self_init: bool,
    /// What `spec.audit` has the servers declare.
    pub audit: Vec<audit::Device>,
    /// The service account of the servers, and whether it is ours to make.
    pub service_account: String,
    /// False when the spec names an account that somebody else made.
    pub owns_service_account: bool,
    /// Everything that is passed through as it is.
    pub spec: Arc<OpenBaoClusterSpec>,
}

impl ValidatedCluster {
    /// The same, but no request of the spec ends the start of a server that sets itself up.
    #[must_use]
    pub fn with_requests_that_may_fail(&self) -> Self {
        let mut spec = OpenBaoClusterSpec::clone(&self.spec);
        let requests = spec.self_init.iter_mut().flat_map(|init| &mut init.requests);
        requests.for_each(|request| request.allow_failure = true);
        Self { spec: Arc::new(spec), ..self.clone() }
    }

    /// Without JWT login and without a root token of ours nobody of ours can ever ask.
    pub fn may_log_in(&self) -> bool {
        !self.self_init || self.oidc.is_some()
    }
}

/// Certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsPlan {
    /// Plain HTTP.
    Off,
    /// The operator issues, and reissues when less than `rotation` is left.
    Managed {
        /// Remaining life that makes a new one due.
        rotation: Duration,
        /// More names.
        extra_names: Vec<String>,
    },
    /// Somebody else fills the Secret.
    External,
}

/// JWT login for service accounts of this Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcPlan {
    /// What tokens must be for.
    pub audience: String,
    /// Who must have issued them; `None` is what the API server says of itself.
    pub issuer: Option<String>,
}

/// Reads a spec. The first problem found is returned: people fix them one by one anyway.
pub fn validate(cluster: &OpenBaoCluster) -> Result<ValidatedCluster, Invalid> {
    let spec = &cluster.spec;
    let name = cluster.name_any();
    if name.len() > NAME_LIMIT {
        return Err(Invalid::Name { length: name.len() });
    }
    let namespace = cluster.namespace().ok_or(Invalid::Identity("namespace"))?;
    let uid = cluster.uid().ok_or(Invalid::Identity("UID"))?;
    let version = Version::parse(spec.version.trim_start_matches('v'))
        .map_err(|error| Invalid::Version { text: spec.version.clone(), cause: error.to_string() })?;
    let replicas =
        u32::try_from(spec.replicas).ok().filter(|n| (1..=9).contains(n)).ok_or(Invalid::Replicas(spec.replicas))?;
    bytes(&spec.storage.size).ok_or_else(|| Invalid::Size(spec.storage.size.clone()))?;
    unsupported(spec)?;
    seal(spec, &version)?;
    hardened(spec)?;
    let (self_init, oidc) = self_init(cluster)?;
    let oldest = config::oldest(cluster, &version);
    let audit = audit::known_at(&oldest, spec)?;
    if sets_itself_up(cluster) {
        audit::check_first_start(spec)?;
    }
    plugins::known_at(&oldest, spec)?;
    Ok(ValidatedCluster {
        generation: cluster.metadata.generation.unwrap_or_default(),
        owner: cluster.controller_owner_ref(&()).ok_or(Invalid::Identity("UID"))?,
        tls: tls(spec)?,
        service_account: spec
            .service_account
            .as_ref()
            .and_then(|account| account.name.clone())
            .unwrap_or_else(|| names::statefulset(&name)),
        owns_service_account: spec.service_account.as_ref().is_none_or(|account| account.name.is_none()),
        spec: Arc::new(spec.clone()),
        name,
        namespace,
        uid,
        version,
        replicas,
        oidc,
        self_init,
        audit,
    })
}

fn tls(spec: &OpenBaoClusterSpec) -> Result<TlsPlan, Invalid> {
    if !spec.tls.enabled {
        return if spec.profile == Some(Profile::Development) { Ok(TlsPlan::Off) } else { Err(Invalid::PlainText) };
    }
    match spec.tls.mode {
        TlsMode::External => Ok(TlsPlan::External),
        TlsMode::Acme => Err(Invalid::UnsafeToIgnore("spec.tls.mode ACME")),
        TlsMode::OperatorManaged => {
            let rotation = match &spec.tls.rotation_period {
                None => super::tls::DEFAULT_ROTATION,
                Some(text) => duration::parse(text)
                    .map_err(|error| Invalid::Duration { field: "tls.rotationPeriod", cause: error.to_string() })?,
            };
            let extra_names = [spec.tls.extra_sans.clone(), exposure::hosts(spec)].concat();
            Ok(TlsPlan::Managed { rotation, extra_names })
        }
    }
}

fn unsupported(spec: &OpenBaoClusterSpec) -> Result<(), Invalid> {
    match supported::unsupported(spec).first() {
        Some(first) if first.blocks => Err(Invalid::UnsafeToIgnore(first.field)),
        _ => Ok(()),
    }
}

/// Fields that have no effect yet and may be ignored safely, for the condition `Supported`.
pub fn ignored(spec: &OpenBaoClusterSpec) -> Vec<&'static str> {
    supported::unsupported(spec).into_iter().filter(|field| !field.blocks).map(|field| field.field).collect()
}

/// OpenBao 2.7 has no AWS, PKCS #11 and Oracle seals any more; a server with such a stanza does not start.
pub fn seal_is_gone(seal: SealType, version: &Version) -> bool {
    matches!(seal, SealType::AwsKms | SealType::Pkcs11 | SealType::OciKms) && (version.major, version.minor) >= (2, 7)
}

fn seal(spec: &OpenBaoClusterSpec, version: &Version) -> Result<(), Invalid> {
    let unseal = &spec.unseal;
    if seal_is_gone(unseal.type_, version) {
        return Err(Invalid::SealGone { seal: unseal.type_.as_str(), version: version.to_string() });
    }
    if config::seal::is_key_nowhere(unseal) {
        return Err(Invalid::KeyNowhere);
    }
    let present = match unseal.type_ {
        SealType::Static => true,
        SealType::AwsKms => unseal.awskms.is_some(),
        SealType::GcpcKms => unseal.gcp_cloud_kms.is_some(),
        SealType::AzureKeyVault => unseal.azure_key_vault.is_some(),
        SealType::Transit => unseal.transit.is_some(),
        SealType::Kmip => unseal.kmip.is_some(),
        SealType::OciKms => unseal.ocikms.is_some(),
        SealType::Pkcs11 => unseal.pkcs11.is_some(),
    };
    if present { Ok(()) } else { Err(Invalid::SealBlock(unseal.type_.as_str())) }
}

fn hardened(spec: &OpenBaoClusterSpec) -> Result<(), Invalid> {
    if spec.profile != Some(Profile::Hardened) {
        return Ok(());
    }
    if spec.tls.mode == TlsMode::OperatorManaged {
        return Err(Invalid::Hardened("certificates from outside: spec.tls.mode External"));
    }
    if spec.unseal.type_ == SealType::Static {
        return Err(Invalid::Hardened(
            "a seal whose key is not in this Kubernetes cluster: spec.unseal.type other than static",
        ));
    }
    if !spec.self_init.as_ref().is_some_and(|init| init.enabled) {
        return Err(Invalid::Hardened("that no root token is stored: spec.selfInit.enabled true"));
    }
    if spec.replicas < 3 {
        return Err(Invalid::Hardened("at least three members: spec.replicas 3"));
    }
    Ok(())
}

fn self_init(cluster: &OpenBaoCluster) -> Result<(bool, Option<OidcPlan>), Invalid> {
    let Some(init) = &cluster.spec.self_init else { return Ok((false, None)) };
    let oidc = init.oidc.as_ref().filter(|oidc| oidc.enabled);
    if !init.enabled {
        return if init.requests.is_empty() && oidc.is_none() { Ok((false, None)) } else { Err(Invalid::SelfInitOff) };
    }
    for request in &init.requests {
        request_body(request)?;
    }
    // The server gives up its first start for good when one request fails. Once it is past that, no request matters.
    let initialized = cluster.status.as_ref().and_then(|status| status.initialized) == Some(true);
    let allowed = cluster.spec.configuration.unsafe_allow_api_audit_creation;
    if !initialized
        && allowed != Some(true)
        && let Some(request) = init.requests.iter().find(|request| request.path.starts_with("sys/audit/"))
    {
        return Err(Invalid::Request {
            name: request.name.clone(),
            cause: "OpenBao creates audit devices on request only where the server allows it, and its first start fails for good \
                    otherwise: set spec.configuration.unsafeAllowAPIAuditCreation to true"
                .to_owned(),
        });
    }
    let plan = oidc.map(|oidc| OidcPlan { audience: login::jobs_audience(cluster), issuer: oidc.issuer.clone() });
    Ok((true, plan))
}

/// Whether a server is to start with an empty volume: for the first time, or in a rollback.
fn sets_itself_up(cluster: &OpenBaoCluster) -> bool {
    let Some(status) = &cluster.status else { return true };
    status.initialized != Some(true) || status.upgrade.as_ref().is_some_and(|upgrade| upgrade.servers.is_some())
}

/// The body of a self-init request: free form, or one of the typed blocks.
pub fn request_body(request: &SelfInitRequest) -> Result<Option<hcl::Value>, Invalid> {
    let refuse = |cause: String| Invalid::Request { name: request.name.clone(), cause };
    let typed = [
        request.audit_device.as_ref().map(serde_json::to_value),
        request.auth_method.as_ref().map(serde_json::to_value),
        request.secret_engine.as_ref().map(serde_json::to_value),
        request.policy.as_ref().map(serde_json::to_value),
    ];
    let mut bodies: Vec<serde_json::Value> =
        typed.into_iter().flatten().collect::<Result<_, _>>().map_err(|error| refuse(error.to_string()))?;
    if request.audit_device.is_some() {
        bodies.iter_mut().for_each(audit_options);
    }
    bodies.extend(request.data.clone());
    if bodies.len() > 1 {
        return Err(refuse("give its body once: data, or one of auditDevice, authMethod, secretEngine, policy".into()));
    }
    match bodies.pop() {
        None => Ok(None),
        Some(body @ serde_json::Value::Object(_)) => {
            hcl::Value::from_json(&body, "data").map(Some).map_err(|error| refuse(error.to_string()))
        }
        Some(_) => Err(refuse("data must be an object".into())),
    }
}

/// `sys/audit` wants the device's options under `options`, as strings, in OpenBao's own spelling.
fn audit_options(body: &mut serde_json::Value) {
    use serde_json::Value;
    let Value::Object(map) = body else { return };
    let mut options = serde_json::Map::new();
    for block in ["fileOptions", "httpOptions", "syslogOptions", "socketOptions"] {
        let Some(Value::Object(block)) = map.remove(block) else { continue };
        for (key, value) in block {
            let snake: String = key
                .chars()
                .flat_map(|char| if char.is_uppercase() { vec!['_', char.to_ascii_lowercase()] } else { vec![char] })
                .collect();
            options.insert(snake, value);
        }
    }
    if !options.is_empty() {
        map.insert("options".into(), Value::Object(options));
    }
}

/// A Kubernetes quantity in bytes; `None` for what is no positive whole quantity. Milli-units make no sense for volumes.
pub fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9)?;
    let part = if fraction.is_empty() { 0 } else { u128::from(fraction.parse::<u64>().ok()?) };
    let total =
        u128::from(whole.parse::<u64>().ok()?) * u128::from(factor) + part * u128::from(factor) / 10_u128.pow(digits);
    let total = u64::try_from(total).ok()?;
    (total > 0).then_some(total)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A small cluster as a user writes it; `change` edits its spec.
    pub(crate) fn cluster(change: impl FnOnce(&mut serde_json::Value)) -> OpenBaoCluster {
        let mut object = json!({
            "apiVersion": "openbao.org/v1alpha1",
            "kind": "OpenBaoCluster",
            "metadata": {"name": "kelp", "namespace": "reef", "uid": "cluster-uid", "generation": 4},
            "spec": {
                "version": "2.7.2",
                "replicas": 3,
                "storage": {"size": "1Gi"},
                "tls": {"enabled": true},
                "selfInit": {"enabled": true, "oidc": {"enabled": true}}
            }
        });
        change(&mut object["spec"]);
        serde_json::from_value(object).unwrap()
    }

    pub(crate) fn valid(change: impl FnOnce(&mut serde_json::Value)) -> ValidatedCluster {
        validate(&cluster(change)).unwrap()
    }

    fn refusal(change: impl FnOnce(&mut serde_json::Value)) -> Invalid {
        validate(&cluster(change)).unwrap_err()
    }

    #[test]
    fn a_minimal_cluster_is_valid_and_gets_an_audience_of_its_own() {
        let cluster = valid(|_| {});
        assert_eq!(cluster.oidc.unwrap().audience, "openbao:reef/kelp");
        assert_eq!(cluster.service_account, "kelp");
    }

    #[test]
    fn each_impossible_spec_is_refused_by_what_to_change() {
        assert!(matches!(refusal(|s| s["version"] = json!("latest")), Invalid::Version { .. }));
        assert!(matches!(refusal(|s| s["replicas"] = json!(0)), Invalid::Replicas(0)));
        assert!(matches!(refusal(|s| s["storage"]["size"] = json!("much")), Invalid::Size(_)));
        assert!(matches!(refusal(|s| s["tls"] = json!({"enabled": false})), Invalid::PlainText));
        assert!(matches!(refusal(|s| s["tls"]["rotationPeriod"] = json!("soon")), Invalid::Duration { .. }));
        assert!(matches!(refusal(|s| s["unseal"] = json!({"type": "transit"})), Invalid::SealBlock("transit")));
        let elsewhere = json!({"static": {"currentKey": "/run/keys/bao"}, "credentialsSecretRef": {"name": "mine"}});
        assert!(matches!(refusal(|s| s["unseal"] = elsewhere), Invalid::KeyNowhere));
        assert!(matches!(refusal(|s| s["selfInit"]["enabled"] = json!(false)), Invalid::SelfInitOff));
        assert!(matches!(refusal(|s| s["profile"] = json!("Hardened")), Invalid::Hardened(_)));
    }

    #[test]
    fn what_would_be_dangerous_to_ignore_is_refused_not_ignored() {
        let syslog = json!([{"type": "syslog", "path": "a"}]);
        assert!(refusal(|s| s["audit"] = syslog).is_unsupported());
        let check = json!({"enabled": true, "failurePolicy": "Block"});
        assert!(refusal(|s| s["imageVerification"] = check).is_unsupported());
        assert!(refusal(|s| s["tls"]["mode"] = json!("ACME")).is_unsupported());
    }

    #[test]
    fn an_audit_device_that_would_leave_no_leader_is_a_mistake_and_named() {
        let audit = json!([{"type": "file", "path": "a", "fileOptions": {"filePath": "/var/log/a"}}]);
        let refused = refusal(|s| s["audit"] = audit);
        assert!(!refused.is_unsupported() && refused.to_string().contains("spec.audit[a]"), "{refused}");
    }

    #[test]
    fn a_seal_that_the_version_lost_is_refused_and_the_older_version_keeps_it() {
        let awskms = json!({"type": "awskms", "awskms": {"region": "eu-west-1", "kmsKeyID": "k"}});
        assert!(matches!(refusal(|s| s["unseal"] = awskms.clone()), Invalid::SealGone { .. }));
        valid(|s| {
            s["unseal"] = awskms;
            s["version"] = json!("2.6.1");
        });
    }

    #[test]
    fn plain_http_is_for_development_only() {
        let cluster = valid(|s| {
            s["tls"] = json!({"enabled": false});
            s["profile"] = json!("Development");
        });
        assert_eq!(cluster.tls, TlsPlan::Off);
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, value) in [("1Gi", 1 << 30), ("10G", 10_000_000_000), ("1.5Gi", 3 << 29), ("100", 100)] {
            assert_eq!(bytes(text), Some(value), "{text}");
        }
        for text in ["", "0", "-1Gi", "1gi", "Gi", "1 Gi", "1.x"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn an_audit_device_of_self_init_is_spelled_as_openbao_wants_it() {
        let cluster = cluster(|s| {
            s["selfInit"]["requests"] = json!([{
                "name": "audit", "operation": "update", "path": "sys/audit/file",
                "auditDevice": {"type": "file", "fileOptions": {"filePath": "stdout"}}
            }]);
        });
        let body = request_body(&cluster.spec.self_init.unwrap().requests[0]).unwrap().unwrap();
        let expected =
            hcl::Value::from_json(&json!({"type": "file", "options": {"file_path": "stdout"}}), "data").unwrap();
        assert_eq!(body, expected);
    }

    #[test]
    fn an_audit_device_of_self_init_needs_the_servers_leave_until_the_cluster_is_initialised() {
        let audit = json!([{
            "name": "audit", "operation": "update", "path": "sys/audit/file",
            "auditDevice": {"type": "file", "fileOptions": {"filePath": "stdout"}}
        }]);
        let error = refusal(|s| s["selfInit"]["requests"] = audit.clone());
        assert!(error.to_string().contains("unsafeAllowAPIAuditCreation to true"), "{error}");
        valid(|s| {
            s["selfInit"]["requests"] = audit.clone();
            s["configuration"] = json!({"unsafeAllowAPIAuditCreation": true});
        });
        let mut running = cluster(|s| s["selfInit"]["requests"] = audit);
        running.status.get_or_insert_default().initialized = Some(true);
        validate(&running).unwrap();
    }

    #[test]
    fn a_request_with_two_bodies_is_refused_by_its_name() {
        let error = refusal(|s| {
            s["selfInit"]["requests"] = json!([{
                "name": "twice", "operation": "update", "path": "sys/policies/acl/x",
                "data": {"policy": ""}, "policy": {"policy": ""}
            }]);
        });
        assert!(matches!(error, Invalid::Request { name, .. } if name == "twice"));
    }
}
