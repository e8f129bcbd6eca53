//! The StatefulSet: three pods at once, replaced only by the operator, restricted, with probes that do not lie.

use super::{config_maps, hash, meta, names, secrets, selector};
use crate::{
    api::SealType,
    service::cluster::{
        config::{
            CONFIG_DIR, DATA_DIR, REGISTRY_DIR, SEAL_CREDENTIALS_DIR, SHARED_FILE, TLS_DIR, UNSEAL_DIR, audit, plugins,
            seal,
        },
        headcount::GIVEN,
        validate::{TlsPlan, ValidatedCluster},
    },
};
use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{
            Affinity, AppArmorProfile, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvFromSource,
            EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, Lifecycle, LifecycleHandler, ObjectFieldSelector,
            PersistentVolumeClaim, PersistentVolumeClaimSpec, PodAffinityTerm, PodAntiAffinity, PodSchedulingGate,
            PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, SeccompProfile,
            SecretEnvSource, SecretKeySelector, SecretVolumeSource, SecurityContext, SleepAction, TCPSocketAction,
            Volume, VolumeMount, VolumeProjection, VolumeResourceRequirements, WeightedPodAffinityTerm,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use std::collections::BTreeMap;

/// Annotation of pods: what of the spec they were started with.
pub const CONFIG_HASH: &str = "openbao.org/config-hash";
/// Annotation of pods: which serving certificate they were started with.
pub const CERTIFICATE_HASH: &str = "openbao.org/certificate-hash";
/// Annotation of pods: the image they were made with, as the operator wrote it. An admission webhook may rewrite the image
/// itself (registry mirrors, digests), which is no reason to restart anything.
pub const IMAGE: &str = "openbao.org/image";
/// Annotation of the StatefulSet: which OpenBao version its template runs.
pub const VERSION: &str = "openbao.org/version";
/// Annotation of the StatefulSet: the first start is over; no volume of this cluster may ever be initialised again.
pub const BOOTSTRAPPED: &str = "openbao.org/bootstrapped";
/// Pods of a cluster that was never initialised wait for the operator's grant.
pub const BOOTSTRAP_GATE: &str = "openbao.org/bootstrap";
/// The server container.
pub const CONTAINER: &str = "openbao";

/// After a step-down a server sits out 10 s and ignores SIGTERM; a finite grace ends that and every other hang.
const GRACE_SECONDS: i64 = 15;
/// Until nobody sends it requests any more: kube-proxy alone gathers changes of endpoints for up to a second before it
/// writes them, after the two controllers and the watch. With one second a client of a busy node met a stopping standby.
const PRE_STOP_SECONDS: i64 = 3;

/// What the StatefulSet needs beside the spec.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Members to have; may differ from the spec's while a member is being removed.
    pub replicas: u32,
    /// The version the pods run (the spec's, or an older one while an upgrade waits).
    pub version: String,
    /// Its image.
    pub image: String,
    /// Of the serving certificate; `None` without TLS.
    pub certificate_hash: Option<String>,
    /// The restart that the pods' digest speaks of: see [`hash::restart`].
    pub restart_at: Option<String>,
    /// The first start is not over.
    pub bootstrapping: bool,
    /// What the claims' template says in a StatefulSet that exists already: Kubernetes lets nobody change it.
    pub claim_templates: Option<Vec<PersistentVolumeClaim>>,
}

/// Builds it.
pub fn build(cluster: &ValidatedCluster, inputs: &Inputs) -> StatefulSet {
    let mut metadata = meta(cluster, names::statefulset(&cluster.name));
    let mut annotations =
        BTreeMap::from([(VERSION.to_owned(), inputs.version.clone()), (GIVEN.to_owned(), inputs.replicas.to_string())]);
    if !inputs.bootstrapping {
        annotations.insert(BOOTSTRAPPED.into(), "true".into());
    }
    metadata.annotations = Some(annotations);
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            service_name: Some(names::headless_service(&cluster.name)),
            replicas: i32::try_from(inputs.replicas).ok(),
            selector: selector(names::server_selector(&cluster.name)),
            pod_management_policy: Some("Parallel".into()),
            // Which pod goes when is decided by who leads, which Kubernetes cannot know.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".into()),
                when_scaled: Some("Retain".into()),
            }),
            revision_history_limit: Some(3),
            template: template(cluster, inputs),
            volume_claim_templates: Some(inputs.claim_templates.clone().unwrap_or_else(|| vec![claim(cluster)])),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn claim(cluster: &ValidatedCluster) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::DATA_VOLUME.into()),
            labels: Some(names::labels(&cluster.name)),
            ..ObjectMeta::default()
        },
        spec: Some(claim_of(cluster.spec.storage.size.clone(), cluster.spec.storage.storage_class_name.clone())),
        ..PersistentVolumeClaim::default()
    }
}

/// What is asked of a volume for one server.
pub fn claim_of(size: String, class: Option<String>) -> PersistentVolumeClaimSpec {
    PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".into()]),
        storage_class_name: class,
        resources: Some(VolumeResourceRequirements {
            requests: Some(BTreeMap::from([("storage".into(), Quantity(size))])),
            ..VolumeResourceRequirements::default()
        }),
        ..PersistentVolumeClaimSpec::default()
    }
}

fn template(cluster: &ValidatedCluster, inputs: &Inputs) -> PodTemplateSpec {
    let settings = &cluster.spec.pod;
    let mut labels = settings.labels.clone();
    labels.extend(names::labels(&cluster.name));
    labels.insert(names::COMPONENT_LABEL.into(), names::SERVER_COMPONENT.into());
    let mut annotations = settings.annotations.clone();
    annotations.insert(CONFIG_HASH.into(), hash::config(cluster, inputs.restart_at.as_deref()));
    annotations.insert(IMAGE.into(), inputs.image.clone());
    if let Some(hash) = &inputs.certificate_hash {
        annotations.insert(CERTIFICATE_HASH.into(), hash.clone());
    }
    let spreads = &settings.topology_spread_constraints;
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(cluster.service_account.clone()),
            // Servers find their peers and label their own pod.
            automount_service_account_token: Some(true),
            enable_service_links: Some(false),
            security_context: Some(cluster.spec.security_context.clone().unwrap_or_else(security)),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            scheduling_gates: inputs.bootstrapping.then(|| vec![PodSchedulingGate { name: BOOTSTRAP_GATE.into() }]),
            affinity: Some(settings.affinity.clone().unwrap_or_else(|| spread_over_nodes(cluster))),
            node_selector: (!settings.node_selector.is_empty()).then(|| settings.node_selector.clone()),
            tolerations: (!settings.tolerations.is_empty()).then(|| settings.tolerations.clone()),
            topology_spread_constraints: (!spreads.is_empty()).then(|| spreads.clone()),
            priority_class_name: settings.priority_class_name.clone(),
            image_pull_secrets: (!cluster.spec.image_pull_secrets.is_empty())
                .then(|| cluster.spec.image_pull_secrets.clone()),
            containers: vec![container(cluster, inputs)],
            volumes: Some(volumes(cluster)),
            ..PodSpec::default()
        }),
    }
}

pub(super) fn security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(100),
        run_as_group: Some(1000),
        fs_group: Some(1000),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// Members prefer different nodes; a demand would leave small clusters unschedulable.
fn spread_over_nodes(cluster: &ValidatedCluster) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: PodAffinityTerm {
                    label_selector: Some(selector(names::server_selector(&cluster.name))),
                    topology_key: "kubernetes.io/hostname".into(),
                    ..PodAffinityTerm::default()
                },
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn container(cluster: &ValidatedCluster, inputs: &Inputs) -> Container {
    Container {
        name: CONTAINER.into(),
        image: Some(inputs.image.clone()),
        command: Some(plugins::start(&cluster.spec.plugins)),
        args: Some(vec![
            "server".into(),
            format!("-config={CONFIG_DIR}/{SHARED_FILE}"),
            format!("-config={CONFIG_DIR}/$(POD_NAME).hcl"),
        ]),
        env: Some(environment(cluster)),
        env_from: environment_from(cluster),
        ports: Some(vec![port("api", names::API_PORT), port("cluster", names::CLUSTER_PORT)]),
        readiness_probe: Some(readiness(cluster)),
        liveness_probe: Some(liveness()),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP_SECONDS }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        resources: cluster.spec.pod.resources.clone(),
        termination_message_policy: Some(last_words(cluster).into()),
        security_context: Some(container_security(cluster)),
        volume_mounts: Some(mounts(cluster)),
        ..Container::default()
    }
}

pub(super) fn container_security(cluster: &ValidatedCluster) -> SecurityContext {
    let hardening = cluster.spec.workload_hardening.as_ref().is_some_and(|hardening| hardening.app_armor_enabled);
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        app_armor_profile: hardening
            .then(|| AppArmorProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

/// An upgrade that stops on a server which does not start repeats its last lines. Whoever sees pods and clusters sees them too, so not
/// those of a log in which secrets stand as they are.
fn last_words(cluster: &ValidatedCluster) -> &'static str {
    let is_secret = cluster.audit.iter().any(audit::Device::shows_secrets_in_log);
    if is_secret { "File" } else { "FallbackToLogsOnError" }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

pub(super) fn environment(cluster: &ValidatedCluster) -> Vec<EnvVar> {
    let plain = |name: &str, value: String| EnvVar { name: name.into(), value: Some(value), value_from: None };
    let field = |name: &str, path: &str| EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.into(), api_version: Some("v1".into()) }),
            ..EnvVarSource::default()
        }),
    };
    let scheme = if cluster.tls == TlsPlan::Off { "http" } else { "https" };
    let host = names::tls_name(&cluster.name, &cluster.namespace, "$(POD_NAME)");
    let mut all = vec![
        field("POD_NAME", "metadata.name"),
        field("BAO_K8S_POD_NAME", "metadata.name"),
        field("BAO_K8S_NAMESPACE", "metadata.namespace"),
        plain("BAO_RAFT_NODE_ID", "$(POD_NAME)".into()),
        plain("BAO_API_ADDR", format!("{scheme}://{host}:{}", names::API_PORT)),
        plain("BAO_CLUSTER_ADDR", format!("https://{host}:{}", names::CLUSTER_PORT)),
        // A restore is spooled here by the server; the root file system is read-only.
        plain("TMPDIR", "/tmp".into()),
        plain("HOME", "/tmp".into()),
    ];
    // For people who exec into the pod. The transit seal reads the same variables for its own connection.
    if cluster.spec.unseal.type_ != SealType::Transit {
        all.push(plain("BAO_ADDR", format!("{scheme}://127.0.0.1:{}", names::API_PORT)));
        if cluster.tls != TlsPlan::Off {
            all.push(plain("BAO_CACERT", format!("{TLS_DIR}/ca.crt")));
        }
    }
    if plugins::registry_secret(&cluster.spec).is_some() {
        all.push(plain("DOCKER_CONFIG", REGISTRY_DIR.into()));
    }
    if let Some(secret) = &cluster.spec.unseal.credentials_secret_ref {
        let variables = seal::variables(&cluster.spec.unseal).into_iter();
        all.extend(variables.map(|(variable, key)| of_secret(variable, &secret.name, key)));
    }
    all
}

/// A variable that is not set where the Secret lacks the key.
fn of_secret(variable: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { key: key.into(), name: secret.into(), optional: Some(true) };
    EnvVar {
        name: variable.into(),
        value: None,
        value_from: Some(EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() }),
    }
}

/// The names of Secrets whose keys become environment variables: the user's own, and ours for what the spec says in plain text.
fn credential_secrets(cluster: &ValidatedCluster) -> Vec<String> {
    let unseal = &cluster.spec.unseal;
    let own = unseal.credentials_secret_ref.iter().map(|reference| reference.name.clone());
    let inline = (!seal::inline_credentials(unseal).is_empty()).then(|| secrets::seal_credentials_name(&cluster.name));
    own.chain(inline).collect()
}

pub(super) fn environment_from(cluster: &ValidatedCluster) -> Option<Vec<EnvFromSource>> {
    // A static key is 32 raw bytes: a file, nothing for the environment.
    if cluster.spec.unseal.type_ == SealType::Static {
        return None;
    }
    let all: Vec<EnvFromSource> = credential_secrets(cluster)
        .into_iter()
        .map(|name| EnvFromSource {
            secret_ref: Some(SecretEnvSource { name, optional: Some(false) }),
            ..EnvFromSource::default()
        })
        .collect();
    (!all.is_empty()).then_some(all)
}

/// Unsealed, leading or following: what a client may be sent to. The server says so itself.
fn readiness(cluster: &ValidatedCluster) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/v1/sys/health?standbyok=true".into()),
            port: IntOrString::String("api".into()),
            scheme: Some(if cluster.tls == TlsPlan::Off { "HTTP" } else { "HTTPS" }.into()),
            ..HTTPGetAction::default()
        }),
        // Joining members find only peers that are Ready, so this period is part of how fast a cluster forms.
        period_seconds: Some(1),
        timeout_seconds: Some(3),
        failure_threshold: Some(3),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

/// The process accepts connections. Nothing more: sealed, joining and restoring servers must not be killed, and a server
/// that restores a large snapshot answers no request for minutes.
fn liveness() -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction { port: IntOrString::String("api".into()), host: None }),
        initial_delay_seconds: Some(60),
        // OpenBao logs every connection that ends without a handshake, so rarely.
        period_seconds: Some(30),
        timeout_seconds: Some(5),
        failure_threshold: Some(3),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

pub(super) fn mounts(cluster: &ValidatedCluster) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut all = vec![
        mount(names::DATA_VOLUME, DATA_DIR, false),
        mount("config", CONFIG_DIR, true),
        mount("tmp", "/tmp", false),
    ];
    if cluster.tls != TlsPlan::Off {
        all.push(mount("tls", TLS_DIR, true));
    }
    if seal::is_key_ours(&cluster.spec.unseal) {
        all.push(mount("unseal", UNSEAL_DIR, true));
    }
    if !credential_secrets(cluster).is_empty() {
        all.push(mount("seal-credentials", SEAL_CREDENTIALS_DIR, true));
    }
    if plugins::registry_secret(&cluster.spec).is_some() {
        all.push(mount("registry", REGISTRY_DIR, true));
    }
    all
}

pub(super) fn volumes(cluster: &ValidatedCluster) -> Vec<Volume> {
    let secret = |volume: &str, name: String| Volume {
        name: volume.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut all = vec![
        config_maps::volume(cluster),
        Volume { name: "tmp".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
    ];
    if cluster.tls != TlsPlan::Off {
        all.push(secret("tls", names::server_secret(&cluster.name)));
    }
    if seal::is_key_ours(&cluster.spec.unseal) {
        all.push(secret("unseal", names::unseal_secret(&cluster.name)));
    }
    let credentials = credential_secrets(cluster);
    if !credentials.is_empty() {
        all.push(Volume {
            name: "seal-credentials".into(),
            projected: Some(ProjectedVolumeSource {
                default_mode: Some(0o440),
                sources: Some(credentials.into_iter().map(projected_secret).collect()),
            }),
            ..Volume::default()
        });
    }
    all.extend(plugins::registry_secret(&cluster.spec).map(registry));
    all
}

/// What images are pulled with, under the name by which OpenBao looks for it. As for the kubelet it need not be there.
fn registry(secret: &str) -> Volume {
    let file = KeyToPath { key: ".dockerconfigjson".into(), path: "config.json".into(), ..KeyToPath::default() };
    Volume {
        name: "registry".into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.into()),
            default_mode: Some(0o440),
            items: Some(vec![file]),
            optional: Some(true),
        }),
        ..Volume::default()
    }
}

fn projected_secret(name: String) -> VolumeProjection {
    VolumeProjection {
        secret: Some(k8s_openapi::api::core::v1::SecretProjection { name, ..Default::default() }),
        ..VolumeProjection::default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use serde_json::json;

    pub(crate) fn inputs() -> Inputs {
        Inputs {
            replicas: 3,
            version: "2.7.2".into(),
            image: "openbao/openbao:2.7.2".into(),
            certificate_hash: Some("cert".into()),
            restart_at: None,
            bootstrapping: false,
            claim_templates: None,
        }
    }

    #[test]
    fn the_statefulset_of_a_default_cluster() {
        insta::assert_yaml_snapshot!(build(&valid(|_| {}), &inputs()));
    }

    #[test]
    fn everything_that_is_passed_through() {
        let cluster = valid(|s| {
            s["pod"] = json!({
                "resources": {"requests": {"memory": "256Mi"}}, "nodeSelector": {"disk": "ssd"},
                "labels": {"team": "vault", "openbao.org/cluster": "stolen"}, "annotations": {"a": "b"},
                "priorityClassName": "high",
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]
            });
            s["imagePullSecrets"] = json!([{"name": "registry"}]);
            s["unseal"] = json!({"type": "transit", "credentialsSecretRef": {"name": "transit-token"},
                "transit": {"address": "https://vault:8200", "keyName": "k", "mountPath": "transit/", "token": "s.inline"}});
        });
        let built = build(&cluster, &inputs());
        assert!(!serde_json::to_string(&built).unwrap().contains("s.inline"), "no credential in the pod");
        insta::assert_yaml_snapshot!(built);
    }

    #[test]
    fn the_token_of_a_transit_seal_is_read_from_the_users_secret() {
        let cluster = valid(|s| {
            s["unseal"] = json!({"type": "transit", "credentialsSecretRef": {"name": "mine"},
                "transit": {"address": "https://vault:8200", "keyName": "k", "mountPath": "transit/"}});
        });
        let all = environment(&cluster);
        let token = all.iter().find(|variable| variable.name == "BAO_TOKEN").and_then(|found| found.value_from.clone());
        let from = token.and_then(|from| from.secret_key_ref).unwrap();
        assert_eq!((from.name.as_str(), from.key.as_str(), from.optional), ("mine", "token", Some(true)));
    }

    #[test]
    fn the_last_lines_of_a_log_in_which_secrets_stand_as_they_are_are_not_repeated() {
        for (options, policy) in [
            (json!({"file_path": "stdout"}), "FallbackToLogsOnError"),
            (json!({"file_path": "stdout", "log_raw": false}), "FallbackToLogsOnError"),
            (json!({"file_path": "/tmp/audit.log", "log_raw": true}), "FallbackToLogsOnError"),
            (json!({"file_path": "stdout", "log_raw": true}), "File"),
            (json!({"file_path": "STDOUT", "log_raw": "true"}), "File"),
        ] {
            let first = json!({"type": "file", "path": "first", "options": {"file_path": "/tmp/first.log"}});
            let device = json!({"type": "file", "path": "f", "options": options});
            let built = container(&valid(|s| s["audit"] = json!([first, device])), &inputs());
            assert_eq!(built.termination_message_policy.as_deref(), Some(policy), "{options}");
        }
    }

    #[test]
    fn a_server_with_plugins_in_its_image_looks_at_them_first_and_one_that_fetches_them_shows_who_it_is() {
        let plugin = |from: serde_json::Value| {
            let mut plugin = json!({"type": "secret", "name": "word", "version": "v1.0.0", "binaryName": "word",
                "sha256sum": "A".repeat(64)});
            plugin.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
            plugin
        };
        let pod = |plugins: serde_json::Value| {
            let cluster = valid(|s| {
                s["plugins"] = plugins;
                s["imagePullSecrets"] = json!([{"name": "mine"}]);
            });
            build(&cluster, &inputs()).spec.unwrap().template.spec.unwrap()
        };
        let lies_there = pod(json!([plugin(json!({"command": "word"}))]));
        let script = format!("echo '{}  /openbao/plugins/word' | sha256sum -c - && exec \"$0\" \"$@\"", "a".repeat(64));
        let words = lies_there.containers[0].command.clone().unwrap();
        assert_eq!(words, ["sh", "-c", &script, "bao"]);
        let fetched = pod(json!([plugin(json!({"image": "ghcr.io/reef/word"}))]));
        assert_eq!(fetched.containers[0].command.as_deref().unwrap(), ["bao"]);
        let secret = |pod: &PodSpec| {
            let mut volumes = pod.volumes.iter().flatten();
            volumes.find(|volume| volume.name == "registry").and_then(|volume| volume.secret.clone()?.secret_name)
        };
        assert_eq!(secret(&fetched).as_deref(), Some("mine"));
        for pod in [lies_there, pod(json!([]))] {
            assert_eq!(secret(&pod), None);
            let env = pod.containers[0].env.clone().unwrap();
            assert!(env.iter().all(|variable| variable.name != "DOCKER_CONFIG"));
        }
    }

    #[test]
    fn only_pods_of_a_cluster_that_was_never_initialised_wait_for_a_grant() {
        let cluster = valid(|_| {});
        let gates = |bootstrapping| {
            let built = build(&cluster, &Inputs { bootstrapping, ..inputs() });
            built.spec.unwrap().template.spec.unwrap().scheduling_gates.map_or(0, |gates| gates.len())
        };
        assert_eq!((gates(true), gates(false)), (1, 0));
    }

    #[test]
    fn the_template_of_an_existing_claim_is_kept_as_it_is() {
        let small = build(&valid(|_| {}), &inputs()).spec.unwrap().volume_claim_templates;
        let grown = valid(|s| s["storage"]["size"] = json!("5Gi"));
        let kept = build(&grown, &Inputs { claim_templates: small.clone(), ..inputs() });
        assert_eq!(kept.spec.unwrap().volume_claim_templates, small);
    }
}
