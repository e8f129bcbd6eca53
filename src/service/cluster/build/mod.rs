//! Every object of a cluster, built from a validated spec and the facts gathered before. Pure: nothing here can fail for a
//! user's reasons, and nothing here asks a server.

pub mod access;
pub mod config_maps;
pub mod exposure;
pub mod hash;
pub mod kept;
pub mod network;
pub mod rehearsal;
pub mod secrets;
pub mod services;
pub mod statefulset;

use super::{names, traffic::Traffic, validate::ValidatedCluster};
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Service, ServiceAccount},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::Resource;
use std::collections::{BTreeMap, BTreeSet};

/// The objects that follow from the spec alone. Secrets and the `StatefulSet` depend on more and are built beside it.
#[derive(Clone, Debug)]
pub struct Plain {
    /// Headless, public and active.
    pub services: Vec<Service>,
    /// The servers' account, unless the spec names a foreign one; those of Jobs while their feature is on.
    pub service_accounts: Vec<ServiceAccount>,
    /// What servers may do with pods.
    pub role: Role,
    /// Who may.
    pub role_binding: RoleBinding,
    /// The configuration, and the CA bundle if there is TLS.
    pub config_maps: Vec<ConfigMap>,
    /// Only where a disruption can be borne at all.
    pub budget: Option<PodDisruptionBudget>,
}

/// Builds them. `bundle` is the public CA bundle; `restores` whether a restore needs its service account; `traffic` whom
/// clients may meet; `members` how many vote by now.
pub fn plain(
    cluster: &ValidatedCluster,
    bundle: Option<&str>,
    restores: bool,
    traffic: &Traffic,
    members: u32,
) -> Plain {
    Plain {
        services: services::build(cluster, traffic),
        service_accounts: access::service_accounts(cluster, restores),
        role: access::role(cluster),
        role_binding: access::role_binding(cluster),
        config_maps: config_maps::build(cluster, bundle),
        budget: budget(cluster, members),
    }
}

/// Metadata of an object of ours.
fn meta(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(names::labels(&cluster.name)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// Metadata of an object that must outlive the cluster object: without owner, so that garbage collection never takes it, and
/// without what would make Argo CD take it for its own.
fn unowned_meta(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        labels: Some(names::unowned_labels(&cluster.name)),
        annotations: Some(names::unowned_annotations()),
        owner_references: None,
        ..meta(cluster, name)
    }
}

/// As many voluntary disruptions as raft bears. One or two members bear none; a budget would only block node drains for
/// ever, so they get none.
///
/// It is about the `members` that there are: those that are asked for come when the lock is free, and bear nothing before they
/// vote. Where fewer are asked for, one may go at a time until they are as few, for those that leave stop voting a moment
/// before they are gone.
fn budget(cluster: &ValidatedCluster, members: u32) -> Option<PodDisruptionBudget> {
    let bears = |members: u32| members.saturating_sub(1) / 2;
    let at_all = bears(cluster.replicas.max(members)).min(1);
    let bearable = bears(cluster.replicas.min(members)).max(at_all);
    let bearable = i32::try_from(bearable).ok().filter(|&bearable| bearable > 0)?;
    Some(PodDisruptionBudget {
        metadata: meta(cluster, names::statefulset(&cluster.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(bearable)),
            selector: Some(selector(names::server_selector(&cluster.name))),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}

/// The names of these objects.
pub fn names_of<K: Resource>(objects: &[K]) -> BTreeSet<String> {
    objects.iter().filter_map(|object| object.meta().name.clone()).collect()
}

fn selector(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), match_expressions: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use serde_json::json;

    #[test]
    fn the_objects_of_a_default_cluster() {
        let plain = plain(
            &valid(|s| s["backup"] = json!({"target": {"provider": "file", "file": {"claimName": "b"}}})),
            Some("PEM"),
            false,
            &Traffic::Everybody,
            3,
        );
        insta::assert_yaml_snapshot!("services", plain.services);
        insta::assert_yaml_snapshot!("service_accounts", plain.service_accounts);
        insta::assert_yaml_snapshot!("role", (plain.role, plain.role_binding));
        insta::assert_yaml_snapshot!("budget", plain.budget);
        insta::assert_yaml_snapshot!("config_maps", plain.config_maps);
    }

    #[test]
    fn a_budget_exists_only_where_raft_bears_a_loss() {
        for (replicas, expected) in [(1, None), (2, None), (3, Some(1)), (4, Some(1)), (5, Some(2)), (7, Some(3))] {
            assert_eq!(bearable(replicas, replicas), expected, "{replicas}");
        }
    }

    #[test]
    fn the_budget_is_about_the_members_that_there_are() {
        for (asked, there, expected, why) in [
            (5, 3, Some(1), "two are to join and do not vote yet"),
            (5, 1, Some(1), "they start, and must not go together"),
            (9, 5, Some(2), "five vote"),
            (1, 3, Some(1), "all three vote until two have left"),
            (1, 5, Some(1), "four vote when the first has left"),
            (3, 5, Some(1), "the same"),
            (1, 2, None, "of two none can be lost"),
        ] {
            assert_eq!(bearable(asked, there), expected, "{asked} of {there}: {why}");
        }
    }

    fn bearable(asked: u32, there: u32) -> Option<i32> {
        let budget = budget(&valid(|s| s["replicas"] = json!(asked)), there)?;
        match budget.spec?.max_unavailable? {
            IntOrString::Int(bearable) => Some(bearable),
            IntOrString::String(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_accounts_of_jobs_carry_what_the_backup_targets_cloud_knows_them_by() {
        let annotation = ("iam.gke.io/gcp-service-account", "tide@shells.iam.gserviceaccount.com");
        let annotations: BTreeMap<_, _> = [annotation].into();
        let target = json!({"provider": "gcs", "bucket": "tide",
            "workloadIdentity": {"serviceAccountAnnotations": annotations}});
        let plain = plain(&valid(|s| s["backup"] = json!({"target": target})), None, false, &Traffic::Everybody, 3);
        let carry = plain.service_accounts.iter().filter(|account| {
            let found = account.metadata.annotations.as_ref().and_then(|all| all.get(annotation.0));
            found.is_some_and(|found| found == annotation.1)
        });
        let names: Vec<_> = carry.map(|account| account.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["kelp-backup", "kelp-restore"]);
    }

    #[test]
    fn accounts_of_jobs_exist_only_while_their_feature_is_on() {
        let names = |plain: Plain| -> Vec<String> {
            plain.service_accounts.into_iter().filter_map(|account| account.metadata.name).collect()
        };
        assert_eq!(names(plain(&valid(|_| {}), None, false, &Traffic::Everybody, 3)), ["kelp"]);
        assert_eq!(names(plain(&valid(|_| {}), None, true, &Traffic::Everybody, 3)), ["kelp", "kelp-restore"]);
        let backup = json!({"target": {"provider": "file", "file": {"claimName": "b"}}});
        let both = plain(&valid(|s| s["backup"] = backup), None, false, &Traffic::Everybody, 3);
        assert_eq!(names(both), ["kelp", "kelp-backup", "kelp-restore"]);
        assert_eq!(
            names(plain(
                &valid(|s| s["serviceAccount"] = json!({"name": "theirs"})),
                None,
                false,
                &Traffic::Everybody,
                3
            )),
            [""; 0]
        );
    }
}
