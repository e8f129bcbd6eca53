//! Every name, label and address that belongs to a cluster, in one place: other parts find objects by these functions,
//! never by spelling a name themselves.

use std::collections::BTreeMap;

/// Port of the API (TLS, or plain HTTP in the Development profile).
pub const API_PORT: u16 = 8200;
/// Port of raft and request forwarding between members (always TLS of OpenBao's own making).
pub const CLUSTER_PORT: u16 = 8201;
/// The mount at which self-init sets up JWT login.
pub const JWT_MOUNT: &str = "jwt";
/// The role of the operator's own service account.
pub const OPERATOR_ROLE: &str = "openbao-operator";
/// The role of backup Jobs.
pub const BACKUP_ROLE: &str = "openbao-operator-backup";
/// The role of restore Jobs.
pub const RESTORE_ROLE: &str = "openbao-operator-restore";
/// Marker policies of a restore start with this; the operator's role may write nothing else under `sys/policies/acl`.
pub const MARKER_PREFIX: &str = "openbao-operator-marker-";

/// Label: which cluster an object belongs to.
pub const CLUSTER_LABEL: &str = "openbao.org/cluster";
/// Label: which operation a Job or its pod belongs to.
pub const OPERATION_LABEL: &str = "openbao.org/operation";
/// Label: the name of the cluster, as tools that know nothing of ours show it. Nothing is selected by it.
const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Label: what part of the cluster a pod is.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// [`COMPONENT_LABEL`] of OpenBao servers. Pods of Jobs carry the cluster's label too, so selectors need this one.
pub const SERVER_COMPONENT: &str = "server";
/// [`COMPONENT_LABEL`] of the pods of Jobs that move, read and remove backups.
pub const MOVER_COMPONENTS: [&str; 7] = ["backup", "inspect", "list", "prune", "restore", "restore-test", "verify"];
/// Label: who made the object. The operator watches only what carries it.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// [`MANAGED_BY_LABEL`] of everything of ours.
pub const MANAGER: &str = "openbao-operator";
/// Written by OpenBao on its own pod. A hint only: it is known to stay wrong for ever (`docs`: labels are wake-ups).
pub const ACTIVE_LABEL: &str = "openbao-active";

/// The volume claim template of the StatefulSet.
pub const DATA_VOLUME: &str = "data";
/// Key of the unseal Secret that holds the 32 raw bytes.
pub const UNSEAL_KEY_FIELD: &str = "key";
/// Key id of a generated static key unless the spec names another.
pub const DEFAULT_KEY_ID: &str = "operator-generated-v1";

/// The StatefulSet, which is also the headless Service and the servers' default service account.
pub fn statefulset(cluster: &str) -> String {
    cluster.to_owned()
}

/// The headless Service that gives every pod its DNS name.
pub fn headless_service(cluster: &str) -> String {
    cluster.to_owned()
}

/// The Service for clients: any ready member; standbys forward.
pub fn public_service(cluster: &str) -> String {
    format!("{cluster}-public")
}

/// The Service of the leader only.
pub fn active_service(cluster: &str) -> String {
    format!("{cluster}-active")
}

/// Whatever leads to the cluster from outside of it, one of a kind: its Ingress, the routes and the policy of a Gateway, its
/// `ServiceMonitor`.
pub fn exposure(cluster: &str) -> String {
    cluster.to_owned()
}

/// Pod `ordinal` of the cluster.
pub fn pod(cluster: &str, ordinal: u32) -> String {
    format!("{cluster}-{ordinal}")
}

/// The ordinal of a pod or claim of this cluster, `None` for anything else's.
pub fn ordinal_of(cluster: &str, pod: &str) -> Option<u32> {
    let digits = pod.strip_prefix(cluster)?.strip_prefix('-')?;
    // "01" and "+1" parse as numbers but are nobody's ordinal.
    let ordinal: u32 = digits.parse().ok()?;
    (ordinal.to_string() == digits).then_some(ordinal)
}

/// The volume claim of pod `ordinal`.
pub fn data_claim(cluster: &str, ordinal: u32) -> String {
    format!("{DATA_VOLUME}-{cluster}-{ordinal}")
}

/// What a person types so that the server in `pod` joins anew, empty. The claim first: it goes when the pod has gone, and no other
/// pod is made before that.
pub fn join_anew_command(namespace: &str, pod: &str) -> String {
    format!("kubectl --namespace {namespace} delete pvc/{DATA_VOLUME}-{pod} pod/{pod}")
}

/// The ordinal of a data claim of this cluster, `None` for anything else's.
pub fn ordinal_of_claim(cluster: &str, claim: &str) -> Option<u32> {
    ordinal_of(cluster, claim.strip_prefix(DATA_VOLUME)?.strip_prefix('-')?)
}

/// The cluster that a server's pod is of, by its name.
pub fn cluster_of(pod: &str) -> &str {
    pod.rsplit_once('-').map_or("", |(cluster, _)| cluster)
}

/// The name that pod's certificate carries and that clients must ask for when they dial it by address.
pub fn tls_name(cluster: &str, namespace: &str, pod: &str) -> String {
    format!("{pod}.{cluster}.{namespace}.svc")
}

/// The name that every member's certificate carries: what a joining member asks for, since it finds peers by address.
pub fn shared_tls_name(cluster: &str, namespace: &str) -> String {
    format!("{cluster}.{namespace}.svc")
}

/// CA certificate and key (`ca.crt`, `ca.key`), and the authorities before it (`older.crt`). Only the operator reads it; no pod
/// mounts it.
pub fn ca_secret(cluster: &str) -> String {
    format!("{cluster}-tls-ca")
}

/// Serving certificate (`tls.crt`, `tls.key`, `ca.crt`). In `External` mode somebody else fills it.
pub fn server_secret(cluster: &str) -> String {
    format!("{cluster}-tls-server")
}

/// Which authorities were believed while the serving certificate is a user's. Only the operator fills it; no pod mounts it.
pub fn older_secret(cluster: &str) -> String {
    format!("{cluster}-tls-older")
}

/// The static unseal key.
pub fn unseal_secret(cluster: &str) -> String {
    format!("{cluster}-unseal-key")
}

/// Root token and recovery keys; only without self-init.
pub fn root_token_secret(cluster: &str) -> String {
    format!("{cluster}-root-token")
}

/// The public CA bundle (`ca.crt`) that Jobs and clients mount.
pub fn ca_config_map(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// The servers' configuration.
pub fn config_map(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// The `initialize` stanza, from the first pod's grant to the end of the bootstrap. After it what says nothing holds the name.
pub fn bootstrap_config_map(cluster: &str) -> String {
    format!("{cluster}-bootstrap")
}

/// Service account of backup Jobs; exists only while the cluster has a backup target.
pub fn backup_service_account(cluster: &str) -> String {
    format!("{cluster}-backup")
}

/// Service account of restore Jobs.
pub fn restore_service_account(cluster: &str) -> String {
    format!("{cluster}-restore")
}

/// Role and binding with which servers label their own pods and find their peers.
pub fn server_role(cluster: &str) -> String {
    format!("{cluster}-server")
}

/// The policy of what servers reach and are reached by. Called as the Go operator calls its own, which this one replaces.
pub fn server_policy(cluster: &str) -> String {
    format!("{cluster}-network-policy")
}

/// The policy of the Jobs that move backups.
pub fn mover_policy(cluster: &str) -> String {
    format!("{cluster}-jobs-network-policy")
}

/// The audience of tokens for this cluster. One per cluster: a token for one is worthless at another.
pub fn audience(namespace: &str, cluster: &str) -> String {
    format!("openbao:{namespace}/{cluster}")
}

/// The `sub` of a service account's token.
pub fn subject(namespace: &str, service_account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{service_account}")
}

/// What a person types to let a service account in under a role with one of our policies. All of the role, because OpenBao reads
/// a type that is left out as another one.
pub fn role_command(mount: &str, role: &str, policy: &str, audience: &str, subject: &str) -> String {
    format!(
        "bao write auth/{mount}/role/{role} role_type=jwt user_claim=sub bound_audiences={audience} \
         bound_subject={subject} token_policies={policy} token_ttl=10m"
    )
}

/// The same for a role under which several service accounts log in, each with all of the policies. What it takes no command line
/// can say.
pub fn shared_role_command(mount: &str, role: &str, policies: &[&str], audience: &str, subjects: &[String]) -> String {
    let body = serde_json::json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": [audience], "bound_claims": {"sub": subjects},
        "token_policies": policies, "token_ttl": "10m",
    });
    format!("echo '{body}' | bao write auth/{mount}/role/{role} -")
}

/// What a person types to tell OpenBao who signs this Kubernetes' tokens: the issuer and each of its keys. All of it at once, because
/// OpenBao forgets what a write leaves out, and reads one key an entry.
pub fn issuer_command(mount: &str, namespace: &str, cluster: &str) -> String {
    format!("kubectl openbao -n {namespace} issuer {cluster} | bao write auth/{mount}/config -")
}

/// The labels of everything that belongs to the cluster.
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "openbao"),
        (INSTANCE_LABEL, cluster),
        (MANAGED_BY_LABEL, MANAGER),
        (CLUSTER_LABEL, cluster),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// The labels of what has no owner on purpose. Without `app.kubernetes.io/instance`: Argo CD, where it tracks by this label,
/// takes such an object for one of an application of the cluster's name, does not find it in the repository, and deletes it.
pub fn unowned_labels(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = labels(cluster);
    labels.remove(INSTANCE_LABEL);
    labels
}

/// What tells Argo CD to leave an object alone that is in no repository, however it tracks its own.
pub fn unowned_annotations() -> BTreeMap<String, String> {
    [
        ("argocd.argoproj.io/sync-options", "Prune=false,Delete=false"),
        ("argocd.argoproj.io/compare-options", "IgnoreExtraneous"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// What selects the cluster's servers and nothing else, neither Jobs nor another cluster's pods.
pub fn server_selector(cluster: &str) -> BTreeMap<String, String> {
    [("app.kubernetes.io/name", "openbao"), (CLUSTER_LABEL, cluster), (COMPONENT_LABEL, SERVER_COMPONENT)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_read_only_from_names_that_the_statefulset_could_have_made() {
        assert_eq!(ordinal_of("kelp", "kelp-0"), Some(0));
        assert_eq!(ordinal_of("kelp", "kelp-12"), Some(12));
        for other in ["kelp", "kelp-", "kelp-a", "kelp-01", "kelp-+1", "kelp-2-0", "other-0", "kelpx-0"] {
            assert_eq!(ordinal_of("kelp", other), None, "{other}");
        }
        // Two clusters whose names start alike must not see each other's pods.
        assert_eq!(ordinal_of("kelp", "kelp-2-0"), None);
        assert_eq!(ordinal_of("kelp-2", "kelp-2-0"), Some(0));
    }

    #[test]
    fn a_claim_belongs_to_the_pod_whose_name_it_carries() {
        assert_eq!(ordinal_of_claim("kelp", &data_claim("kelp", 3)), Some(3));
        assert_eq!(ordinal_of_claim("kelp", "kelp-3"), None);
        assert_eq!(ordinal_of_claim("kelp", "data-other-3"), None);
    }

    #[test]
    fn what_has_no_owner_is_found_by_our_labels_and_claimed_by_no_gitops_tool() {
        let labels = unowned_labels("kelp");
        assert_eq!(labels.get(INSTANCE_LABEL), None);
        for (key, value) in [(CLUSTER_LABEL, "kelp"), (MANAGED_BY_LABEL, MANAGER)] {
            assert_eq!(labels.get(key).map(String::as_str), Some(value), "watched and deleted by it: {key}");
        }
        assert!(!server_selector("kelp").contains_key(INSTANCE_LABEL));
    }

    #[test]
    fn what_selects_servers_leaves_out_the_pods_of_jobs() {
        let job = labels("kelp");
        assert!(server_selector("kelp").iter().any(|(key, value)| job.get(key) != Some(value)));
    }
}
