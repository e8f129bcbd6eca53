//! Fields that the schema accepts and this release does not act on. The one list of them; it only ever gets shorter.
//!
//! Manifests of the Go operator apply unchanged, so some fields are known before they are built. None of them is ignored
//! silently: the cluster's condition `Supported` names each one, and where acting without it would be unsafe the cluster is
//! not reconciled until it is gone. Fields that this operator has no need for, because it reaches their aim another way
//! (helper images, the init container, roles of helper Jobs), are not in the list: nothing is missing without them.

use super::config::{audit, is_writable, plugins};
use crate::adapter::objectstore::target::UPLOAD_MEMORY;
use crate::api::{
    AuditType, ImageVerification, Logging, OpenBaoClusterSpec, ProxyProtocolBehavior, SealType, TlsMode,
    UpgradeStrategy, VerificationFailurePolicy,
};

/// A field that is set and has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where it stands, and what else does the job where something does.
    pub field: &'static str,
    /// Whether it would be unsafe to go on as if it were not there.
    pub blocks: bool,
}

/// Every field of the spec that is set and has no effect, those that block first.
pub fn unsupported(spec: &OpenBaoClusterSpec) -> Vec<Unsupported> {
    let mut found: Vec<Unsupported> =
        LIST.iter().filter(|entry| (entry.set)(spec)).map(|entry| entry.unsupported).collect();
    found.sort_by_key(|unsupported| !unsupported.blocks);
    found
}

/// One entry of the list.
struct Entry {
    unsupported: Unsupported,
    set: fn(&OpenBaoClusterSpec) -> bool,
}

/// Going on without it could harm: nothing is reconciled.
const fn blocks(field: &'static str, set: fn(&OpenBaoClusterSpec) -> bool) -> Entry {
    Entry { unsupported: Unsupported { field, blocks: true }, set }
}

/// Going on without it is safe: it is only reported.
const fn ignored(field: &'static str, set: fn(&OpenBaoClusterSpec) -> bool) -> Entry {
    Entry { unsupported: Unsupported { field, blocks: false }, set }
}

const LIST: &[Entry] = &[
    // Servers without certificates, or with others than asked for.
    blocks("spec.tls.mode ACME", |spec| spec.tls.enabled && spec.tls.mode == TlsMode::Acme),
    // An image that was to be refused would run.
    blocks("spec.imageVerification with failurePolicy Block", |spec| verifies(spec.image_verification.as_ref(), true)),
    blocks("spec.operatorImageVerification with failurePolicy Block", |spec| {
        verifies(spec.operator_image_verification.as_ref(), true)
    }),
    // No server would lead.
    blocks(
        "spec.audit of type syslog (no syslog daemon listens in a server's container: use type file with filePath stdout, or type socket)",
        |spec| spec.audit.iter().any(|device| device.type_ == AuditType::Syslog),
    ),
    // It would lie in a ConfigMap.
    blocks(
        "a credential in the uri or the headers of spec.audit (send to a collector that needs none, or that adds it)",
        |spec| spec.audit.iter().any(audit::holds_a_credential),
    ),
    blocks(
        "a credential in env or args of spec.plugins (plugins are configured through OpenBao's API: write it there)",
        |spec| spec.plugins.iter().any(plugins::holds_a_credential),
    ),
    // A server ends at its start over the one, and refuses every connection with the other.
    blocks(
        "spec.configuration.listener.proxyProtocolBehavior other than use_always (OpenBao has no allow_any, and no field says whom deny_unauthorized allows)",
        |spec| {
            let listener = spec.configuration.listener.as_ref();
            let behavior = listener.and_then(|listener| listener.proxy_protocol_behavior);
            behavior.is_some_and(|behavior| behavior != ProxyProtocolBehavior::UseAlways)
        },
    ),
    ignored("spec.imageVerification", |spec| verifies(spec.image_verification.as_ref(), false)),
    ignored("spec.operatorImageVerification", |spec| verifies(spec.operator_image_verification.as_ref(), false)),
    ignored("spec.backup.image of the Go operator (Jobs run this operator's own image)", |spec| {
        spec.backup.as_ref().is_some_and(crate::api::BackupSpec::names_a_foreign_helper)
    }),
    ignored(
        "spec.backup.target.partSize × concurrency beyond 30 MiB (the mover's memory: smaller or fewer parts)",
        |spec| spec.backup.as_ref().is_some_and(|backup| backup.target.is_beyond(UPLOAD_MEMORY)),
    ),
    ignored("spec.upgrade.strategy BlueGreen", |spec| spec.upgrade.strategy == UpgradeStrategy::BlueGreen),
    ignored("spec.maintenance.enabled", |spec| spec.maintenance.enabled),
    ignored(
        "a change of spec.configuration.raft.autopilot after the first start (without spec.selfInit.oidc the operator cannot log in)",
        |spec| {
            let autopilot = spec.configuration.raft.as_ref().and_then(|raft| raft.autopilot.as_ref());
            let init = spec.self_init.as_ref().filter(|init| init.enabled);
            autopilot.is_some() && init.is_some_and(|init| !init.oidc.as_ref().is_some_and(|oidc| oidc.enabled))
        },
    ),
    ignored("spec.serviceAccount.annotations beside a name (that account is yours: annotate it there)", |spec| {
        let account = spec.service_account.as_ref().filter(|account| account.name.is_some());
        account.is_some_and(|account| !account.annotations.is_empty())
    }),
    // The server would not start, and it logs to standard output all the same.
    ignored(
        "spec.configuration.logging.file outside of /tmp and /openbao/data (nothing else can be written to)",
        |spec| lies_elsewhere(spec.configuration.logging.as_ref(), |logging| logging.file.as_ref()),
    ),
    ignored(
        "spec.configuration.logging.pidFile outside of /tmp and /openbao/data (nothing else can be written to)",
        |spec| lies_elsewhere(spec.configuration.logging.as_ref(), |logging| logging.pid_file.as_ref()),
    ),
    ignored("spec.configuration.plugin.downloadBehavior (OpenBao knows neither word)", |spec| {
        spec.configuration.plugin.as_ref().is_some_and(|plugin| plugin.download_behavior.is_some())
    }),
    ignored(
        "spec.configuration.plugin.fileUID and filePermissions (OpenBao looks at files only where a variable says so that no server is given)",
        |spec| {
            let plugin = spec.configuration.plugin.as_ref();
            plugin.is_some_and(|plugin| plugin.file_uid.is_some() || plugin.file_permissions.is_some())
        },
    ),
    ignored(
        "a command in spec.plugins with spec.configuration.plugin.autoRegister false (register it through OpenBao's API)",
        |spec| {
            let is_file = spec.plugins.iter().any(|plugin| plugin.command.is_some());
            is_file && plugins::auto_register(spec) == Some(false)
        },
    ),
    ignored("spec.configuration.acmeCARoot", |spec| spec.configuration.acme_ca_root.is_some()),
    ignored("spec.configuration.listener.tlsDisable (spec.tls.enabled decides)", |spec| {
        let listener = spec.configuration.listener.as_ref();
        listener.and_then(|listener| listener.tls_disable).is_some_and(|disable| disable == spec.tls.enabled)
    }),
    // It would lie in a ConfigMap.
    ignored("spec.telemetry.circonusAPIKey", |spec| {
        spec.telemetry.as_ref().is_some_and(|telemetry| telemetry.circonus_api_key.is_some())
    }),
    ignored("spec.unseal.ocikms.compartmentID", |spec| {
        spec.unseal.type_ == SealType::OciKms
            && spec.unseal.ocikms.as_ref().is_some_and(|seal| seal.compartment_id.is_some())
    }),
    ignored("spec.breakGlassAck (see spec.requests)", |spec| spec.break_glass_ack.is_some()),
    ignored("a block of spec.unseal that is not of spec.unseal.type", |spec| {
        let unseal = &spec.unseal;
        [
            (unseal.static_.is_some(), SealType::Static),
            (unseal.awskms.is_some(), SealType::AwsKms),
            (unseal.azure_key_vault.is_some(), SealType::AzureKeyVault),
            (unseal.gcp_cloud_kms.is_some(), SealType::GcpcKms),
            (unseal.kmip.is_some(), SealType::Kmip),
            (unseal.ocikms.is_some(), SealType::OciKms),
            (unseal.pkcs11.is_some(), SealType::Pkcs11),
            (unseal.transit.is_some(), SealType::Transit),
        ]
        .into_iter()
        .any(|(present, of)| present && of != unseal.type_)
    }),
];

/// Whether a file is to lie where a server cannot make it.
fn lies_elsewhere(logging: Option<&Logging>, file: fn(&Logging) -> Option<&String>) -> bool {
    logging.and_then(file).is_some_and(|path| !is_writable(path))
}

/// Whether a signature check is wanted, and with this consequence.
fn verifies(check: Option<&ImageVerification>, block: bool) -> bool {
    check.is_some_and(|check| check.enabled && (check.failure_policy == VerificationFailurePolicy::Block) == block)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::{OpenBaoCluster, admission::admit, samples::samples};
    use crate::service::cluster::validate::validate;

    fn found(extra: &Value) -> Vec<Unsupported> {
        let mut spec = json!({"version": "2.7.2", "storage": {"size": "1Gi"}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        unsupported(&serde_json::from_value(spec).unwrap())
    }

    /// A plugin that lies in the servers' image, with more to it.
    fn plugin(more: &Value) -> Value {
        let mut plugin = json!({"type": "secret", "name": "p", "version": "v1.0.0", "binaryName": "p", "command": "p",
            "sha256sum": "0".repeat(64)});
        plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        plugin
    }

    #[test]
    fn a_plain_cluster_has_nothing_unsupported() {
        assert_eq!(found(&json!({})), []);
    }

    #[test]
    fn switched_off_is_not_set() {
        let off = json!({
            "imageVerification": {"enabled": false, "failurePolicy": "Block"},
            "configuration": {
                "listener": {"tlsDisable": false}, "raft": {"autopilot": {"minQuorum": 3}},
                "logging": {"file": "/tmp/openbao.log", "pidFile": "/openbao/data/openbao.pid"}},
            "serviceAccount": {"annotations": {"a": "b"}},
            "plugins": [plugin(&json!({"env": ["WORD=x"]}))],
            "selfInit": {"enabled": true, "oidc": {"enabled": true}},
            "audit": [
                {"type": "file", "path": "f", "fileOptions": {"filePath": "stdout"}},
                {"type": "http", "path": "h", "httpOptions": {"uri": "https://a.svc", "headers": {"X-From": "kelp"}}}],
        });
        assert_eq!(found(&off), []);
    }

    /// One spec for each entry of the list, and whether it blocks.
    fn triggers() -> Vec<(Value, bool)> {
        let blocking = [
            json!({"tls": {"mode": "ACME", "acme": {"directoryURL": "https://a", "domains": ["a"]}}}),
            json!({"imageVerification": {"enabled": true, "failurePolicy": "Block"}}),
            json!({"operatorImageVerification": {"enabled": true, "failurePolicy": "Block"}}),
            json!({"audit": [{"type": "syslog", "path": "s"}]}),
            json!({"audit": [{"type": "http", "path": "h", "httpOptions": {"uri": "https://a.svc", "headers": {"Authorization": "Bearer x"}}}]}),
            json!({"plugins": [plugin(&json!({"env": ["API_TOKEN=x"]}))]}),
            json!({"configuration": {"listener": {"proxyProtocolBehavior": "allow_any"}}}),
        ];
        let ignored = [
            json!({"imageVerification": {"enabled": true, "failurePolicy": "Warn"}}),
            json!({"operatorImageVerification": {"enabled": true, "failurePolicy": "Warn"}}),
            json!({"upgrade": {"strategy": "BlueGreen"}}),
            json!({"maintenance": {"enabled": true}}),
            json!({"configuration": {"raft": {"autopilot": {"minQuorum": 3}}}, "selfInit": {"enabled": true}}),
            json!({"serviceAccount": {"name": "bao", "annotations": {"a": "b"}}}),
            json!({"configuration": {"logging": {"file": "/var/log/openbao/openbao.log"}}}),
            json!({"configuration": {"logging": {"pidFile": "/var/run/openbao/openbao.pid"}}}),
            json!({"configuration": {"plugin": {"downloadBehavior": "direct"}}}),
            json!({"configuration": {"plugin": {"filePermissions": "0755"}}}),
            json!({"configuration": {"plugin": {"autoRegister": false}}, "plugins": [plugin(&json!({}))]}),
            json!({"configuration": {"acmeCARoot": "/ca"}}),
            json!({"configuration": {"listener": {"tlsDisable": true}}}),
            json!({"breakGlassAck": "a"}),
            json!({"telemetry": {"circonusAPIKey": "a"}}),
            json!({"backup": {"target": {"bucket": "b"}, "image": "ghcr.io/a/openbao-backup:0.1.0"}}),
            json!({"backup": {"target": {"bucket": "b", "concurrency": 10}}}),
            json!({"unseal": {"type": "ocikms", "ocikms": {"keyID": "k", "cryptoEndpoint": "c", "managementEndpoint": "m", "compartmentID": "c"}}}),
            json!({"unseal": {"transit": {"address": "a", "keyName": "k", "mountPath": "m"}}}),
        ];
        blocking.map(|spec| (spec, true)).into_iter().chain(ignored.map(|spec| (spec, false))).collect()
    }

    #[test]
    fn each_entry_is_found_alone_and_blocks_where_ignoring_it_would_be_unsafe() {
        let mut named = BTreeSet::new();
        for (spec, blocks) in triggers() {
            let found = found(&spec);
            assert!(found.len() == 1 && found[0].blocks == blocks, "{spec}: {found:?}");
            named.insert(found[0].field);
        }
        let all: BTreeSet<_> = LIST.iter().map(|entry| entry.unsupported.field).collect();
        assert_eq!(named, all, "an entry without a spec that triggers it, or a spec without an entry");
    }

    #[test]
    fn only_a_proxy_policy_with_which_servers_start_and_answer_is_carried_out() {
        for (behavior, blocks) in [("use_always", 0), ("allow_any", 1), ("deny_unauthorized", 1)] {
            let found = found(&json!({"configuration": {"listener": {"proxyProtocolBehavior": behavior}}}));
            assert_eq!(found.iter().filter(|field| field.blocks).count(), blocks, "{behavior}: {found:?}");
        }
    }

    #[test]
    fn every_sample_does_what_its_first_line_says() {
        let mut clusters = 0;
        for (file, object) in samples().into_iter().filter(|(_, object)| object["kind"] == "OpenBaoCluster") {
            let mut stored = admit(&object, None).unwrap();
            stored["metadata"]["namespace"] = json!("reef");
            stored["metadata"]["uid"] = json!("cluster-uid");
            let cluster: OpenBaoCluster = serde_json::from_value(stored).unwrap();
            if let Err(invalid) = validate(&cluster) {
                panic!("{file}: the operator would do nothing: {invalid}");
            }
            let without: Vec<&str> = unsupported(&cluster.spec).iter().map(|field| field.field).collect();
            let says_so = file == "cluster-from-the-go-operator.yaml";
            assert_eq!(!without.is_empty(), says_so, "{file}: without effect: {without:?}");
            clusters += 1;
        }
        assert!(clusters >= 12, "only {clusters} were found");
    }

    #[test]
    fn what_blocks_comes_first() {
        let both = json!({"breakGlassAck": "a", "audit": [{"type": "syslog", "path": "s"}]});
        assert_eq!(found(&both).iter().map(|field| field.blocks).collect::<Vec<_>>(), [true, false]);
    }
}
