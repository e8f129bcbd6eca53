//! Whether an upgrade can be rolled back, and to what. Pure.

use super::super::{request, versions};
use crate::{
    api::{OpenBaoCluster, OpenBaoOperation, OperationKind, OperationPhase, UpgradeDirective},
    service::{
        cluster::{
            config::{audit, plugins},
            invalid::Invalid,
        },
        opslifecycle::{Refusal, lineage},
    },
};
use kube::ResourceExt;
use std::sync::Arc;

/// What has to be consented to: what was written since the backup is gone.
pub const CONSENT: &str = "DataOlderThanRollback";

/// Where the way back leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The version before the upgrade.
    pub to: UpgradeDirective,
    /// The version that is rolled back.
    pub rolled_back: String,
    /// Key of the backup taken before it.
    pub key: String,
    /// The operation that took it.
    pub backup: String,
}

/// The way back from the upgrade that `rollback` names, or why there is none. `all` are the operations of the cluster.
pub fn way(
    cluster: &OpenBaoCluster,
    rollback: &OpenBaoOperation,
    all: &[Arc<OpenBaoOperation>],
) -> Result<Way, Refusal> {
    let failed = |reason, message: String| Err(Refusal::failed(reason, message));
    let named = rollback.spec.lineage.as_ref().and_then(|lineage| lineage.rollback_of.as_deref());
    let Some(named) = named else {
        return failed(
            "RollbackOfMissing",
            "name the OpenBaoOperation of the upgrade in spec.lineage.rollbackOf".to_owned(),
        );
    };
    let upgrade = all.iter().find(|other| other.name_any() == named);
    let Some(upgrade) = upgrade.filter(|other| other.spec.operation == OperationKind::Upgrade) else {
        return failed(
            "NotAnUpgrade",
            format!("operation {named} is no upgrade of this cluster: only one is rolled back"),
        );
    };
    let journal = upgrade.status.clone().unwrap_or_default();
    if journal.point_of_no_return_at.is_none() {
        return failed(
            "NothingToRollBack",
            format!(
                "upgrade {named} never came to its point of no return and was undone: nothing is left to roll back"
            ),
        );
    }
    let later = all.iter().find(|other| {
        other.spec.operation == OperationKind::Upgrade
            && other.metadata.creation_timestamp.as_ref().map(|at| at.0)
                > upgrade.metadata.creation_timestamp.as_ref().map(|at| at.0)
            && other.status.as_ref().is_some_and(|status| {
                status.point_of_no_return_at.is_some() && status.phase != OperationPhase::RolledBack
            })
    });
    if let Some(later) = later {
        return failed("LaterUpgrade", format!("upgrade {} came later: roll that one back first", later.name_any()));
    }
    let (Some(to), Some(rolled_back)) = (request::origin(upgrade), request::target(upgrade)) else {
        return failed("NotAnUpgrade", format!("operation {named} names no versions"));
    };
    let output =
        |key: &str| journal.steps.iter().find_map(|step| step.output.get(key).filter(|value| !value.is_empty()));
    let (Some(key), Some(backup)) = (output(lineage::BACKUP_KEY), output(lineage::BACKUP)) else {
        return failed(
            "NoBackup",
            format!(
                "upgrade {named} took no backup before it (preUpgradeSnapshot: false), so there is nothing to go back to. \
                 Restore another backup into a new cluster of version {}",
                to.version
            ),
        );
    };
    let init = cluster.spec.self_init.as_ref().filter(|init| init.enabled);
    if !init.is_some_and(|init| init.oidc.as_ref().is_some_and(|oidc| oidc.enabled)) {
        return failed(
            "SelfInitNeeded",
            "the wiped server has to set itself up before the backup goes into it, and this cluster has no selfInit with \
             oidc: create a new cluster of the old version and restore the backup into it"
                .to_owned(),
        );
    }
    if !versions::seal_is_supported(&to.version, cluster.spec.unseal.type_.as_str()) {
        return failed(
            "SealNotSupported",
            format!("OpenBao {} has no {} seal", to.version, cluster.spec.unseal.type_.as_str()),
        );
    }
    if let Some(why) = audit_not_supported(&to, cluster) {
        return failed("AuditNotSupported", why);
    }
    if let Some(why) = plugins_not_supported(&to, cluster) {
        return failed("PluginsNotSupported", why);
    }
    if !rollback.spec.consent.iter().any(|given| given == CONSENT) {
        let plugins = if cluster.spec.plugins.is_empty() {
            String::new()
        } else {
            format!(
                "The wiped servers need the plugins of spec.plugins again: see that their registry, or the image of OpenBao {}, has \
                 them. ",
                to.version
            )
        };
        return Err(Refusal::constraint(
            "ConsentMissing",
            format!(
                "a rollback deletes the volumes of all servers, and audit files on them; everything written since backup \
                 {key} is lost. {plugins}Create it again with spec.consent: [{CONSENT}]"
            ),
        ));
    }
    Ok(Way { to, rolled_back: rolled_back.version, key: key.clone(), backup: backup.clone() })
}

/// Why a server of that version would not lead with the audit devices of the spec, or would lead without any record, when its volume
/// is wiped already.
fn audit_not_supported(to: &UpgradeDirective, cluster: &OpenBaoCluster) -> Option<String> {
    let known = audit::known_at(&versions::parse(&to.version)?, &cluster.spec);
    match known.and_then(|_| audit::check_first_start(&cluster.spec)) {
        Ok(()) => None,
        Err(Invalid::AuditUnknown { kind, since, version }) => Some(format!(
            "spec.audit has a device of type {kind}, which needs OpenBao {since}: {version} would have no leader with it, or keep no \
             record. Take it out of spec.audit, and create the rollback again"
        )),
        Err(invalid) => Some(format!("{invalid}. Correct spec.audit, and create the rollback again")),
    }
}

/// Why a server of that version would serve without what is mounted with the plugins of the spec, when its volume is wiped already.
fn plugins_not_supported(to: &UpgradeDirective, cluster: &OpenBaoCluster) -> Option<String> {
    match plugins::known_at(&versions::parse(&to.version)?, &cluster.spec) {
        Ok(()) => None,
        Err(Invalid::PluginsUnknown { since, version }) => Some(format!(
            "spec.plugins needs OpenBao {since}, and {version} would serve without what is mounted with them. Take them out of \
             spec.plugins, and create the rollback again"
        )),
        Err(invalid) => Some(format!("{invalid}. Correct spec.plugins, and create the rollback again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::remembered::testing::shared;
    use serde_json::{Value, json};

    fn cluster(init: Value) -> OpenBaoCluster {
        let spec = json!({"version": "2.7.2", "storage": {"size": "1Gi"}, "selfInit": init});
        OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap())
    }

    fn with_oidc() -> OpenBaoCluster {
        cluster(json!({"enabled": true, "oidc": {"enabled": true}}))
    }

    fn operation(name: &str, kind: &str, minute: u32, more: &Value) -> Arc<OpenBaoOperation> {
        let mut text = json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": name, "namespace": "reef",
                "creationTimestamp": format!("2026-11-21T12:{minute:02}:00Z")},
            "spec": {"cluster": "kelp", "operation": kind}
        });
        for part in ["spec", "status"] {
            for (key, value) in more[part].as_object().into_iter().flatten() {
                text[part][key] = value.clone();
            }
        }
        Arc::new(serde_json::from_value(text).unwrap())
    }

    fn upgrade(name: &str, minute: u32, status: &Value) -> Arc<OpenBaoOperation> {
        let mut all = json!({"phase": "Succeeded", "pointOfNoReturnAt": "2026-11-21T12:30:00Z", "steps": [
            {"name": "PreUpgradeBackup", "output": {"backup": "up-backup", "backupKey": "pre.snap"}}]});
        for (key, value) in status.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        let spec = json!({"parameters": {"version": "2.7.2", "image": "bao:2.7.2", "fromVersion": "2.6.1",
            "fromImage": "bao:2.6.1"}});
        operation(name, "Upgrade", minute, &json!({"spec": spec, "status": all}))
    }

    fn rollback(of: &Value, consent: &Value) -> Arc<OpenBaoOperation> {
        operation("back", "Rollback", 50, &json!({"spec": {"lineage": {"rollbackOf": of}, "consent": consent}}))
    }

    fn reason(cluster: &OpenBaoCluster, rollback: &OpenBaoOperation, all: &[Arc<OpenBaoOperation>]) -> &'static str {
        let [whole, remembered] = shared(all).map(|all| way(cluster, rollback, &all));
        assert_eq!(whole, remembered);
        way(cluster, rollback, all).map_or_else(|refusal| refusal.reason, |_| "Way")
    }

    #[test]
    fn the_way_leads_to_the_version_before_and_to_the_backup_taken_before() {
        for phase in ["Succeeded", "Failed"] {
            let all = [upgrade("up", 1, &json!({"phase": phase}))];
            let found = way(&with_oidc(), &rollback(&json!("up"), &json!([CONSENT])), &all).unwrap();
            assert_eq!((found.to.version.as_str(), found.rolled_back.as_str()), ("2.6.1", "2.7.2"));
            assert_eq!((found.key.as_str(), found.backup.as_str()), ("pre.snap", "up-backup"));
        }
    }

    #[test]
    fn without_consent_nothing_begins_and_the_loss_is_named() {
        let all = [upgrade("up", 1, &json!({}))];
        for consent in [json!([]), json!(["Something"])] {
            let refusal = way(&with_oidc(), &rollback(&json!("up"), &consent), &all).unwrap_err();
            assert_eq!(refusal.reason, "ConsentMissing");
            assert!(refusal.message.contains("pre.snap") && refusal.message.contains(CONSENT));
        }
    }

    #[test]
    fn each_thing_that_stands_in_the_way_is_named() {
        let whole = with_oidc();
        let back = rollback(&json!("up"), &json!([CONSENT]));
        let up = upgrade("up", 1, &json!({}));
        assert_eq!(
            reason(&whole, &rollback(&Value::Null, &json!([CONSENT])), std::slice::from_ref(&up)),
            "RollbackOfMissing"
        );
        assert_eq!(reason(&whole, &back, &[operation("up", "Backup", 1, &json!({}))]), "NotAnUpgrade");
        assert_eq!(reason(&whole, &back, &[]), "NotAnUpgrade");
        let undone = upgrade("up", 1, &json!({"pointOfNoReturnAt": null, "phase": "Failed"}));
        assert_eq!(reason(&whole, &back, &[undone]), "NothingToRollBack");
        let bare = upgrade("up", 1, &json!({"steps": []}));
        assert_eq!(reason(&whole, &back, &[bare]), "NoBackup");
        for init in [json!({"enabled": false}), json!({"enabled": true, "oidc": {"enabled": false}})] {
            assert_eq!(reason(&cluster(init), &back, std::slice::from_ref(&up)), "SelfInitNeeded");
        }
    }

    #[test]
    fn no_volume_goes_for_a_version_that_has_no_leader_or_no_record_with_the_audit_devices_of_the_spec() {
        let log = json!({"type": "file", "path": "log", "fileOptions": {"filePath": "stdout"}});
        let http = json!({"type": "http", "path": "web", "httpOptions": {"uri": "https://audit.shore"}});
        for (from, audit, word) in [
            ("2.3.2", json!([]), None),
            ("2.3.2", json!([log]), Some("needs OpenBao 2.4.0")),
            ("2.4.4", json!([log]), None),
            ("2.4.4", json!([log, http]), Some("type http, which needs OpenBao 2.5.0: 2.4.4")),
            ("2.5.0", json!([log, http]), None),
            ("2.6.1", json!([http]), Some("add a device of type file")),
        ] {
            let mut whole = with_oidc();
            whole.spec.audit = serde_json::from_value(audit.clone()).unwrap();
            let mut up = (*upgrade("up", 1, &json!({}))).clone();
            up.spec.parameters.insert(request::FROM_VERSION.to_owned(), from.to_owned());
            // Consent to a loss is not asked for before.
            for consent in [json!([CONSENT]), json!([])] {
                let judged = way(&whole, &rollback(&json!("up"), &consent), &[Arc::new(up.clone())]);
                let refused = judged.err().filter(|refusal| refusal.reason == "AuditNotSupported");
                assert_eq!(refused.is_some(), word.is_some(), "{from} {audit}: {refused:?}");
                assert!(refused.is_none_or(|refusal| refusal.message.contains(word.unwrap_or_default())), "{audit}");
            }
        }
    }

    #[test]
    fn what_the_version_before_does_not_know_of_the_spec_stands_in_the_way() {
        let mut whole = with_oidc();
        whole.spec.plugins = serde_json::from_value(json!([{"type": "secret", "name": "word", "version": "v1.0.0",
            "binaryName": "word", "command": "word", "sha256sum": "0".repeat(64)}]))
        .unwrap();
        let back = rollback(&json!("up"), &json!([CONSENT]));
        for (from, expected) in [("2.4.4", "PluginsNotSupported"), ("2.5.0", "Way"), ("2.6.1", "Way")] {
            let mut up = (*upgrade("up", 1, &json!({}))).clone();
            let mut spec = serde_json::to_value(&up.spec).unwrap();
            spec["parameters"]["fromVersion"] = json!(from);
            up.spec = serde_json::from_value(spec).unwrap();
            assert_eq!(reason(&whole, &back, &[Arc::new(up)]), expected, "{from}");
        }
    }

    #[test]
    fn only_the_latest_upgrade_is_rolled_back_and_one_that_was_rolled_back_or_undone_does_not_count() {
        let back = rollback(&json!("up"), &json!([CONSENT]));
        let up = upgrade("up", 1, &json!({}));
        let later = |status: Value| upgrade("later", 2, &status);
        assert_eq!(reason(&with_oidc(), &back, &[up.clone(), later(json!({}))]), "LaterUpgrade");
        assert_eq!(reason(&with_oidc(), &back, &[up.clone(), later(json!({"phase": "RolledBack"}))]), "Way");
        assert_eq!(reason(&with_oidc(), &back, &[up, later(json!({"pointOfNoReturnAt": null}))]), "Way");
    }
}
