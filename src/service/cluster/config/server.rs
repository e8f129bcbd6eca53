//! `config.hcl`: what all members share. Nothing in it depends on the number of members, so scaling restarts nobody.

use super::{DATA_DIR, TLS_DIR, audit, is_writable, plugins, seal};
use crate::{
    api::{LogFormat, LogLevel, OpenBaoClusterSpec, ProxyProtocolBehavior, Telemetry},
    service::cluster::{
        hcl::Body,
        names,
        validate::{TlsPlan, ValidatedCluster},
    },
};

/// What the vendor recommends for production. OpenBao's default of 5 makes elections and fail-over several times slower.
const PERFORMANCE_MULTIPLIER: i32 = 1;

/// Renders the file.
pub fn render(cluster: &ValidatedCluster) -> String {
    let settings = &cluster.spec.configuration;
    let body = Body::new()
        .set("cluster_name", &cluster.name)
        .set("ui", settings.ui.unwrap_or(true))
        .set("log_level", log_level(settings.log_level.unwrap_or_default()));
    let body = top_level(body, &cluster.spec);
    let body = body.block("listener", &["tcp"], listener(cluster)).block("storage", &["raft"], storage(cluster)).block(
        "service_registration",
        &["kubernetes"],
        Body::new(),
    );
    let body = match telemetry(cluster) {
        Some(block) => body.block("telemetry", &[], block),
        None => body,
    };
    let body = audit::declare(body, &cluster.audit);
    let body = plugins::declare(body, &cluster.spec.plugins);
    format!("{body}{}", seal::stanza(&cluster.spec.unseal))
}

/// The whole configuration of a restore test's server: alone, without TLS, for whoever is in its pod. The audit devices and the seal
/// are those of the cluster, for the data demands both.
pub fn rehearsal(cluster: &ValidatedCluster) -> String {
    let settings = &cluster.spec.configuration;
    let logging = settings.logging.as_ref();
    let local = |port: u16| format!("127.0.0.1:{port}");
    let listener = Body::new()
        .set("address", local(names::API_PORT))
        .set("cluster_address", local(names::CLUSTER_PORT))
        .set("tls_disable", true);
    let storage = Body::new()
        .set("path", DATA_DIR)
        .set("node_id", "restore-test")
        .set("performance_multiplier", PERFORMANCE_MULTIPLIER);
    let body = Body::new()
        .set("ui", false)
        .set("log_level", log_level(settings.log_level.unwrap_or_default()))
        .maybe("log_format", logging.and_then(|logging| logging.format).map(log_format))
        .set("api_addr", format!("http://{}", local(names::API_PORT)))
        .set("cluster_addr", format!("https://{}", local(names::CLUSTER_PORT)))
        .maybe("unsafe_allow_api_audit_creation", settings.unsafe_allow_api_audit_creation)
        .maybe("allow_audit_log_prefixing", settings.allow_audit_log_prefixing)
        .block("listener", &["tcp"], listener)
        .block("storage", &["raft"], storage);
    let body = audit::declare(body, &cluster.audit);
    format!("{body}{}", seal::stanza(&cluster.spec.unseal))
}

fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Standard => "standard",
        LogFormat::Json => "json",
    }
}

fn log_level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Err => "err",
    }
}

fn top_level(body: Body, spec: &OpenBaoClusterSpec) -> Body {
    let settings = &spec.configuration;
    let logging = settings.logging.as_ref();
    let plugin = settings.plugin.as_ref();
    body.maybe("log_format", logging.and_then(|logging| logging.format).map(log_format))
        .maybe("log_file", logging.and_then(|logging| logging.file.as_ref()).filter(|path| is_writable(path)))
        .maybe("pid_file", logging.and_then(|logging| logging.pid_file.as_ref()).filter(|path| is_writable(path)))
        .maybe("log_rotate_bytes", logging.and_then(|logging| logging.rotate_bytes))
        .maybe("log_rotate_duration", logging.and_then(|logging| logging.rotate_duration.as_ref()))
        .maybe("log_rotate_max_files", logging.and_then(|logging| logging.rotate_max_files))
        .maybe("cache_size", settings.cache_size)
        .maybe("disable_cache", settings.disable_cache)
        .maybe("default_lease_ttl", settings.default_lease_ttl.as_ref())
        .maybe("max_lease_ttl", settings.max_lease_ttl.as_ref())
        // OpenBao takes a list of lock names here, as text.
        .maybe("detect_deadlocks", settings.detect_deadlocks.and_then(|on| on.then_some("statelock,quotas,expiration")))
        .maybe("raw_storage_endpoint", settings.raw_storage_endpoint)
        .maybe("introspection_endpoint", settings.introspection_endpoint)
        .maybe("unsafe_allow_api_audit_creation", settings.unsafe_allow_api_audit_creation)
        .maybe("allow_audit_log_prefixing", settings.allow_audit_log_prefixing)
        .maybe("enable_response_header_hostname", settings.enable_response_header_hostname)
        .maybe("enable_response_header_raft_node_id", settings.enable_response_header_raft_node_id)
        .maybe("imprecise_lease_role_tracking", settings.imprecise_lease_role_tracking)
        .maybe("plugin_directory", plugins::folder(spec))
        .maybe("plugin_auto_download", plugins::auto_download(spec))
        .maybe("plugin_auto_register", plugins::auto_register(spec))
        .maybe("plugin_file_permissions", plugin.and_then(|plugin| plugin.file_permissions.as_ref()))
        .maybe("plugin_file_uid", plugin.and_then(|plugin| plugin.file_uid))
}

fn listener(cluster: &ValidatedCluster) -> Body {
    let settings = cluster.spec.configuration.listener.as_ref();
    let metrics = cluster.spec.observability.as_ref().and_then(|all| all.metrics.as_ref());
    let body = Body::new()
        .set("address", format!("[::]:{}", names::API_PORT))
        .set("cluster_address", format!("[::]:{}", names::CLUSTER_PORT));
    let body = match cluster.tls {
        TlsPlan::Off => body.set("tls_disable", true),
        TlsPlan::Managed { .. } | TlsPlan::External => {
            body.set("tls_cert_file", format!("{TLS_DIR}/tls.crt")).set("tls_key_file", format!("{TLS_DIR}/tls.key"))
        }
    };
    // With any other no server is rendered: see `supported`.
    let believed = settings.and_then(|listener| listener.proxy_protocol_behavior);
    body.maybe(
        "proxy_protocol_behavior",
        believed.filter(|behavior| *behavior == ProxyProtocolBehavior::UseAlways).map(|_| "use_always"),
    )
    .maybe_block(
        "telemetry",
        &[],
        metrics.filter(|metrics| metrics.enabled).map(|_| Body::new().set("unauthenticated_metrics_access", true)),
    )
}

fn storage(cluster: &ValidatedCluster) -> Body {
    let multiplier = cluster
        .spec
        .configuration
        .raft
        .as_ref()
        .and_then(|raft| raft.performance_multiplier)
        .unwrap_or(PERFORMANCE_MULTIPLIER);
    let selector: Vec<String> =
        names::server_selector(&cluster.name).iter().map(|(key, value)| format!("{key}={value}")).collect();
    // Found by label, dialled by address, hence the one name that every member's certificate carries.
    let join = Body::new().set(
        "auto_join",
        format!("provider=k8s namespace=\"{}\" label_selector=\"{}\"", cluster.namespace, selector.join(",")),
    );
    let join = match cluster.tls {
        TlsPlan::Off => join.set("auto_join_scheme", "http"),
        TlsPlan::Managed { .. } | TlsPlan::External => join
            .set("auto_join_scheme", "https")
            .set("leader_tls_servername", names::shared_tls_name(&cluster.name, &cluster.namespace))
            .set("leader_ca_cert_file", format!("{TLS_DIR}/ca.crt")),
    };
    Body::new().set("path", DATA_DIR).set("performance_multiplier", multiplier).block("retry_join", &[], join)
}

fn telemetry(cluster: &ValidatedCluster) -> Option<Body> {
    let on =
        cluster.spec.observability.as_ref().and_then(|all| all.metrics.as_ref()).is_some_and(|metrics| metrics.enabled);
    let default = Telemetry::default();
    let settings = match &cluster.spec.telemetry {
        None if !on => return None,
        None => &default,
        Some(settings) => settings,
    };
    // Scraping needs a retention, or OpenBao keeps nothing to scrape.
    let retention = settings.prometheus_retention_time.clone().or_else(|| on.then(|| "24h".to_owned()));
    let disable_hostname = settings.disable_hostname.or_else(|| on.then_some(true));
    let tags = (!settings.dog_statsd_tags.is_empty()).then(|| settings.dog_statsd_tags.clone());
    Some(
        Body::new()
            .maybe("usage_gauge_period", settings.usage_gauge_period.as_ref())
            .maybe("maximum_gauge_cardinality", settings.maximum_gauge_cardinality)
            .maybe("disable_hostname", disable_hostname)
            .maybe("enable_hostname_label", settings.enable_hostname_label)
            .maybe("metrics_prefix", settings.metrics_prefix.as_ref())
            .maybe("lease_metrics_epsilon", settings.lease_metrics_epsilon.as_ref())
            .maybe("prometheus_retention_time", retention)
            .maybe("statsd_address", settings.statsd_address.as_ref())
            .maybe("statsite_address", settings.statsite_address.as_ref())
            .maybe("dogstatsd_addr", settings.dog_statsd_address.as_ref())
            .maybe("dogstatsd_tags", tags)
            .maybe("circonus_api_app", settings.circonus_api_app.as_ref())
            .maybe("circonus_api_url", settings.circonus_api_url.as_ref())
            .maybe("circonus_broker_id", settings.circonus_broker_id.as_ref())
            .maybe("circonus_broker_select_tag", settings.circonus_broker_select_tag.as_ref())
            .maybe("circonus_check_display_name", settings.circonus_check_display_name.as_ref())
            .maybe("circonus_check_force_metric_activation", settings.circonus_check_force_metric_activation.as_ref())
            .maybe("circonus_check_id", settings.circonus_check_id.as_ref())
            .maybe("circonus_check_instance_id", settings.circonus_check_instance_id.as_ref())
            .maybe("circonus_check_search_tag", settings.circonus_check_search_tag.as_ref())
            .maybe("circonus_check_tags", settings.circonus_check_tags.as_ref())
            .maybe("circonus_submission_interval", settings.circonus_submission_interval.as_ref())
            .maybe("stackdriver_project_id", settings.stackdriver_project_id.as_ref())
            .maybe("stackdriver_location", settings.stackdriver_location.as_ref())
            .maybe("stackdriver_namespace", settings.stackdriver_namespace.as_ref())
            .maybe("stackdriver_debug_logs", settings.stackdriver_debug_logs),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use serde_json::json;

    #[test]
    fn the_default_configuration() {
        insta::assert_snapshot!(render(&valid(|_| {})));
    }

    #[test]
    fn plain_http_with_telemetry_and_every_kind_of_setting() {
        insta::assert_snapshot!(render(&valid(|s| {
            s["profile"] = json!("Development");
            s["tls"] = json!({"enabled": false});
            s["observability"] = json!({"metrics": {"enabled": true}});
            s["configuration"] = json!({
                "ui": false, "logLevel": "debug", "defaultLeaseTTL": "1h", "maxLeaseTTL": "24h",
                "logging": {"format": "json"}, "raft": {"performanceMultiplier": 5},
                "listener": {"proxyProtocolBehavior": "use_always"}, "plugin": {"downloadBehavior": "direct", "fileUID": 0}
            });
        })));
    }

    #[test]
    fn each_seal() {
        let seals = [
            json!({"type": "static", "static": {"currentKeyID": "mine"}, "credentialsSecretRef": {"name": "mine"}}),
            json!({"type": "transit", "transit": {"address": "https://vault:8200", "keyName": "k", "mountPath": "transit/", "token": "secret-token"}}),
            json!({"type": "gcpckms", "gcpCloudKMS": {"project": "p", "region": "r", "keyRing": "kr", "cryptoKey": "ck"}, "credentialsSecretRef": {"name": "gcp"}}),
            json!({"type": "azurekeyvault", "azureKeyVault": {"vaultName": "v", "keyName": "k", "clientSecret": "secret"}}),
            json!({"type": "kmip", "kmip": {"address": "kmip:5696"}}),
        ];
        let text: Vec<String> = seals
            .into_iter()
            .map(|seal| seal::stanza(&valid(|s| s["unseal"] = seal).spec.unseal).to_string())
            .collect();
        let text = text.join("\n");
        assert!(!text.contains("secret"), "no credential in the configuration: {text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_server_is_given_no_file_that_it_cannot_make() {
        for path in ["/tmp/openbao.log", "/openbao/data/.openbao.pid"] {
            assert!(is_writable(path), "{path}");
        }
        for path in ["/var/log/openbao/openbao.log", "/tmp/logs/openbao.log", "/tmp/", "/tmp/..", "/tmp/*.log", "a.log"]
        {
            assert!(!is_writable(path), "{path}");
        }
        let logs =
            |file: &str| render(&valid(|s| s["configuration"] = json!({"logging": {"file": file, "pidFile": file}})));
        assert!(logs("/tmp/openbao").contains("log_file = \"/tmp/openbao\""));
        let elsewhere = logs("/var/log/openbao/openbao.log");
        assert!(!elsewhere.contains("log_file") && !elsewhere.contains("pid_file"), "{elsewhere}");
    }

    #[test]
    fn the_devices_of_the_spec_are_declared_and_none_where_it_names_none() {
        let audit = json!([{"type": "file", "path": "log", "fileOptions": {"filePath": "stdout"}}]);
        let text = render(&valid(|s| s["audit"] = audit));
        assert!(text.contains("\naudit \"file\" \"log-") && text.contains("file_path = \"stdout\""), "{text}");
        assert!(!render(&valid(|_| {})).contains("audit"));
    }

    #[test]
    fn the_plugins_of_the_spec_are_declared_and_none_where_it_names_none() {
        let plugins = json!([{"type": "secret", "name": "word", "version": "v1.0.0", "binaryName": "word",
            "command": "word", "sha256sum": "0".repeat(64)}]);
        let text = render(&valid(|s| s["plugins"] = plugins));
        let folder = "\nplugin_directory = \"/openbao/plugins\"\nplugin_auto_register = true\n";
        assert!(text.contains(folder) && text.contains("\nplugin \"secret\" \"word\" {\n"), "{text}");
        assert!(!render(&valid(|_| {})).contains("plugin"));
    }

    #[test]
    fn the_server_of_a_restore_test_is_alone_and_has_the_seal_and_the_audit_devices_of_the_cluster() {
        let text = rehearsal(&valid(|s| {
            s["audit"] = json!([{"type": "file", "path": "log", "fileOptions": {"filePath": "stdout"}}]);
        }));
        let declared = render(&valid(|s| {
            s["audit"] = json!([{"type": "file", "path": "log", "fileOptions": {"filePath": "stdout"}}]);
        }));
        let stanza = |text: &str| text[text.find("audit \"file\"").unwrap()..].to_owned();
        assert_eq!(stanza(&text), stanza(&declared), "the data demands the very same");
        for foreign in ["auto_join", "service_registration", "tls_cert_file", "[::]", "plugin"] {
            assert!(!text.contains(foreign), "{foreign} in {text}");
        }
        assert!(text.contains("127.0.0.1:8200") && text.contains("path = \"/openbao/data\""), "{text}");
    }

    #[test]
    fn the_number_of_members_does_not_show() {
        assert_eq!(render(&valid(|_| {})), render(&valid(|s| s["replicas"] = json!(5))));
    }
}
