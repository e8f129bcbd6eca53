//! Where the key of a Secret that is gone can still be read. Pure.
//!
//! A kubelet leaves what a pod has mounted as it is, so every server that runs has its seal's key until its pod goes. Who was told
//! only that the key is missing would delete a pod next.

use super::{
    config::{SEAL_CREDENTIALS_DIR, UNSEAL_DIR},
    facts::Facts,
    names,
    trouble::{Trouble, reasons},
    validate::ValidatedCluster,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::sync::Arc;

/// What is said of the operator's own key. `in_use` names the Secret with whose static key the servers run.
pub(super) fn own_key_gone(cluster: &ValidatedCluster, facts: &Facts, in_use: Option<&str>) -> Trouble {
    let (name, field) = (names::unseal_secret(&cluster.name), names::UNSEAL_KEY_FIELD);
    let copy = copy(cluster, facts, &name, (UNSEAL_DIR, Some(field)), in_use);
    Trouble::new(
        reasons::UNSEAL_KEY_MISSING,
        format!(
            "Secret {name} with the unseal key is gone, and data sealed with it may exist: restore the Secret from your copy (data key `{field}`, 32 bytes). The operator makes no new one, because a new key cannot open old data; pods that run stay unsealed until they restart{copy}"
        ),
    )
}

/// What is added where a Secret of the user's is gone. `field`: the data key that is a static key; other seals have several.
pub(super) fn of_theirs(
    cluster: &ValidatedCluster,
    facts: &Facts,
    secret: &str,
    field: Option<&str>,
    in_use: Option<&str>,
) -> String {
    copy(cluster, facts, secret, (SEAL_CREDENTIALS_DIR, field), in_use)
}

/// Nothing where no server runs, or where those that run have another Secret.
fn copy(
    cluster: &ValidatedCluster,
    facts: &Facts,
    secret: &str,
    (folder, field): (&str, Option<&str>),
    in_use: Option<&str>,
) -> String {
    let runs = |pod: &&Arc<Pod>| {
        pod.metadata.deletion_timestamp.is_none()
            && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    };
    let Some(pod) = facts.pods.values().find(runs).filter(|_| in_use.is_none_or(|in_use| in_use == secret)) else {
        return String::new();
    };
    let Some(field) = field else {
        return format!(". Each of those still has what it held, as files in {folder}: read them before a pod goes");
    };
    let (pod, namespace) = (pod.name_any(), &cluster.namespace);
    format!(
        ". Each of those still has the key. Without a copy, before any pod is deleted and any node drained: `kubectl -n {namespace} exec {pod} -- cat {folder}/{field} > key`, and `kubectl -n {namespace} create secret generic {secret} --from-file={field}=key`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use serde_json::json;

    fn facts(phase: &str) -> Facts {
        let pod = json!({"metadata": {"name": "kelp-1"}, "status": {"phase": phase}});
        Facts { pods: [(1, Arc::new(serde_json::from_value(pod).unwrap()))].into(), ..Facts::default() }
    }

    #[test]
    fn a_key_whose_secret_is_gone_is_read_out_of_a_server_that_runs_and_has_it() {
        let cluster = valid(|_| {});
        let told = |phase, in_use| own_key_gone(&cluster, &facts(phase), in_use).message;
        let text = told("Running", Some("kelp-unseal-key"));
        for part in [
            "kubectl -n reef exec kelp-1 -- cat /openbao/unseal/key > key",
            "kubectl -n reef create secret generic kelp-unseal-key --from-file=key=key",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.len() < 1024, "a condition shows all of it");
        assert!(told("Running", None).contains("exec"), "nobody knows of another");
        assert!(!told("Running", Some("mine")).contains("exec"), "they run with another one");
        assert!(!told("Pending", Some("kelp-unseal-key")).contains("exec"), "it never had it");
    }

    #[test]
    fn what_a_users_secret_held_is_looked_for_where_servers_have_it() {
        let cluster = valid(|_| {});
        let told = |field| of_theirs(&cluster, &facts("Running"), "mine", field, None);
        assert!(told(Some("old")).contains("cat /openbao/seal-credentials/old > key"), "{}", told(Some("old")));
        assert!(told(Some("old")).contains("generic mine --from-file=old=key"), "{}", told(Some("old")));
        assert!(told(None).contains("files in /openbao/seal-credentials"), "{}", told(None));
    }
}
