//! What a set-up lacks for production. Pure.

use super::{config::audit, network};
use crate::api::{OpenBaoClusterSpec, Profile, SealType, TlsMode, conditions::reason};

/// All of it, the worst first, each with a constant reason and words. `root_token`: one lies in its Secret.
pub(super) fn missing(
    spec: &OpenBaoClusterSpec,
    initialized: bool,
    root_token: bool,
) -> Vec<(&'static str, &'static str)> {
    let sets_itself_up = spec.self_init.as_ref().is_some_and(|init| init.enabled);
    let is_scheduled = spec.backup.as_ref().is_some_and(|backup| backup.schedule.is_some() && !backup.suspend);
    let network = network::gap(spec);
    let gaps = [
        (
            root_token,
            reason::ROOT_TOKEN_STORED,
            "a root token is stored: see condition Degraded for how to be rid of it",
        ),
        (
            !root_token && !initialized && !sets_itself_up,
            reason::ROOT_TOKEN_STORED,
            "a root token will be stored: use spec.selfInit",
        ),
        (spec.profile == Some(Profile::Development), reason::DEVELOPMENT_PROFILE, "spec.profile is Development"),
        (
            spec.tls.mode == TlsMode::OperatorManaged,
            reason::OPERATOR_MANAGED_TLS,
            "the operator's own authority signs the certificates: spec.tls.mode External brings yours",
        ),
        (
            spec.unseal.type_ == SealType::Static,
            reason::STATIC_UNSEAL_IN_USE,
            "the unseal key lies in a Secret of this Kubernetes cluster: use a seal outside of it",
        ),
        (
            !audit::has_a_file(spec),
            reason::AUDIT_FILE_MISSING,
            "spec.audit has no device of type file: no request is answered while no collector takes a record, and no rollback is \
             possible",
        ),
        (network.is_some(), reason::NETWORK_EGRESS_RULES_REQUIRED, network.unwrap_or_default()),
        (
            spec.profile.is_none(),
            reason::PROFILE_NOT_SET,
            "spec.profile is not set: Hardened checks what production needs",
        ),
        (
            !is_scheduled,
            reason::NO_BACKUP,
            "no backup is scheduled: set spec.backup with a target and a schedule, and without suspend. Backups that something \
             else asks for from time to time are not counted",
        ),
    ];
    gaps.into_iter().filter(|(lacks, ..)| *lacks).map(|(_, why, words)| (why, words)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::cluster;
    use serde_json::json;

    #[test]
    fn pods_that_may_reach_everything_are_told() {
        let object = cluster(|spec| {
            spec["network"] = json!({});
            spec["backup"] = json!({"target": {"bucket": "b"}});
        });
        let found = missing(&object.spec, true, false);
        let words = found.iter().find(|(why, _)| *why == "NetworkEgressRulesRequired").map(|(_, words)| *words);
        assert!(words.is_some_and(|words| words.contains("spec.network.egressRules")), "{found:?}");
    }

    #[test]
    fn everything_that_production_lacks_is_told_at_once_and_the_worst_first() {
        let object = cluster(|spec| spec["profile"] = json!("Development"));
        let found = missing(&object.spec, true, true);
        let reasons: Vec<&str> = found.iter().map(|(why, _)| *why).collect();
        assert_eq!(
            reasons,
            ["RootTokenStored", "DevelopmentProfile", "OperatorManagedTLS", "StaticUnsealInUse", "NoBackup"]
        );
        let words: usize = found.iter().map(|(_, words)| words.len() + 2).sum();
        assert!(words < 1024, "a condition shows all of it: {words}");
    }
}
