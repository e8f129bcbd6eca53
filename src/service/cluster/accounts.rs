//! A service account that the spec names: somebody else makes it, and without it Kubernetes makes no pod. And those that servers
//! run as still, when the spec has come to name another.

use super::{
    facts::Facts,
    trouble::{Trouble, reasons},
    validate::ValidatedCluster,
};
use crate::{adapter::kubernetes::client::timed, causes::chain};
use k8s_openapi::api::{
    core::v1::{PodSpec, ServiceAccount},
    rbac::v1::{RoleBinding, Subject},
};
use kube::{Api, Client};
use std::{collections::BTreeSet, sync::Arc};

/// What is wrong if that account is not there.
pub async fn missing(client: &Client, cluster: &ValidatedCluster, facts: &Facts) -> Option<Trouble> {
    if !may_be_missing(cluster, facts) {
        return None;
    }
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &cluster.namespace);
    match timed(api.get_opt(&cluster.service_account)).await {
        Ok(None) => Some(trouble(cluster)),
        Ok(Some(_)) => None,
        // Servers are about to be restarted with it. Whoever may not ask will see what comes of it.
        Err(error) if is_new(cluster, facts) && !error.is_forbidden() => Some(Trouble::new(
            reasons::SERVICE_ACCOUNT_MISSING,
            format!("it is not known yet whether ServiceAccount {} exists: {}", cluster.service_account, chain(&error)),
        )),
        // Nothing rests on it: it is asked for again while pods are missing.
        Err(_) => None,
    }
}

/// Nothing may watch accounts that are not ours, so it is asked for only while pods are missing, or are to be made anew with it.
fn may_be_missing(cluster: &ValidatedCluster, facts: &Facts) -> bool {
    let wanted = usize::try_from(cluster.replicas).unwrap_or(usize::MAX);
    !cluster.owns_service_account && (facts.pods.len() < wanted || is_new(cluster, facts))
}

fn is_new(cluster: &ValidatedCluster, facts: &Facts) -> bool {
    of_template(facts).is_some_and(|account| account != cluster.service_account)
}

/// Accounts of ours that nothing asks for any more. One that servers or Jobs run as goes only after them: their tokens go with it.
pub fn unwanted(facts: &Facts, wanted: &BTreeSet<String>) -> Vec<Arc<ServiceAccount>> {
    let in_use = in_use(facts);
    let others = facts.service_accounts.iter();
    let others = others.filter(|(name, _)| !wanted.contains(*name) && !in_use.contains(name.as_str()));
    let others = others.filter(|(name, _)| !facts.job_accounts.contains(*name));
    others.map(|(_, live)| live.clone()).collect()
}

/// Servers that run as another account than the spec's go on to find their peers, and to tell who leads, until they are restarted.
pub fn keep_rights(binding: &mut RoleBinding, facts: &Facts) {
    let Some(subjects) = &mut binding.subjects else { return };
    let Some(wanted) = subjects.first().cloned() else { return };
    let others = in_use(facts).into_iter().filter(|account| *account != wanted.name);
    subjects.extend(others.map(|account| Subject { name: account.to_owned(), ..wanted.clone() }));
}

/// The accounts of the servers that there are, and of those that would be made now.
fn in_use(facts: &Facts) -> BTreeSet<&str> {
    let pods = facts.pods.values().filter_map(|pod| account_of(pod.spec.as_ref()?));
    pods.chain(of_template(facts)).collect()
}

fn of_template(facts: &Facts) -> Option<&str> {
    account_of(facts.stateful_set.as_ref()?.spec.as_ref()?.template.spec.as_ref()?)
}

fn account_of(pod: &PodSpec) -> Option<&str> {
    pod.service_account_name.as_deref()
}

fn trouble(cluster: &ValidatedCluster) -> Trouble {
    Trouble::new(
        reasons::SERVICE_ACCOUNT_MISSING,
        format!(
            "ServiceAccount {} of spec.serviceAccount.name does not exist, and no pod is made without it: create it, with the annotations that its cloud asks for. Or leave the name out: then the operator makes one with spec.serviceAccount.annotations",
            cluster.service_account
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::{build, traffic::Traffic, validate::tests::valid};
    use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
    use serde_json::json;

    fn named() -> ValidatedCluster {
        valid(|s| s["serviceAccount"] = json!({"name": "bao"}))
    }

    /// As many pods of these accounts, and a template that makes more of the last one.
    fn running(accounts: &[&str]) -> Facts {
        let pods = (0..).zip(accounts).map(|(ordinal, account)| {
            let pod = json!({"spec": {"containers": [], "serviceAccountName": account}});
            (ordinal, Arc::new(serde_json::from_value::<Pod>(pod).unwrap()))
        });
        let template = json!({"spec": {"containers": [], "serviceAccountName": accounts.last()}});
        let set = json!({"spec": {"selector": {}, "serviceName": "kelp", "template": template}});
        let set: StatefulSet = serde_json::from_value(set).unwrap();
        Facts { pods: pods.collect(), stateful_set: Some(Arc::new(set)), ..Facts::default() }
    }

    #[test]
    fn an_account_that_the_spec_names_is_looked_for_only_while_pods_are_missing_or_are_to_be_made_with_it() {
        assert!(may_be_missing(&named(), &Facts::default()));
        assert!(may_be_missing(&named(), &running(&["bao"; 2])));
        assert!(!may_be_missing(&named(), &running(&["bao"; 3])), "an idle cluster asks for nothing");
        assert!(may_be_missing(&named(), &running(&["kelp"; 3])), "before the first one is restarted");
        assert!(!may_be_missing(&valid(|_| {}), &Facts::default()), "that one is ours to make");
        let told = trouble(&named());
        assert!(told.message.contains("ServiceAccount bao") && told.message.contains("create it"), "{told:?}");
    }

    #[test]
    fn the_account_that_the_operator_made_goes_when_the_spec_names_another_and_no_server_runs_as_it() {
        let left = |accounts: &[&str]| {
            let mut facts = running(accounts);
            facts.service_accounts.insert("kelp".to_owned(), Arc::default());
            unwanted(&facts, &BTreeSet::new()).len()
        };
        assert_eq!(left(&["kelp", "bao", "bao"]), 0, "kelp-0 has a token of it");
        assert_eq!(left(&["bao", "kelp"]), 0, "and more would be made with it");
        assert_eq!(left(&["bao", "bao", "bao"]), 1);
        let mut wanted = running(&["bao"]);
        wanted.service_accounts.insert("kelp-backup".to_owned(), Arc::default());
        assert_eq!(unwanted(&wanted, &BTreeSet::from(["kelp-backup".to_owned()])).len(), 0);
    }

    #[test]
    fn the_account_of_a_backup_that_runs_stays_when_the_spec_backs_nothing_up_any_more() {
        let mut facts = running(&["kelp"; 3]);
        facts.service_accounts.insert("kelp-backup".to_owned(), Arc::default());
        facts.job_accounts.insert("kelp-backup".to_owned());
        assert_eq!(unwanted(&facts, &BTreeSet::new()).len(), 0);
        facts.job_accounts.clear();
        assert_eq!(unwanted(&facts, &BTreeSet::new()).len(), 1, "it has ended");
    }

    #[test]
    fn servers_that_are_still_to_be_restarted_keep_their_rights() {
        let accounts = |running: &Facts| -> Vec<String> {
            let mut binding = build::plain(&named(), None, false, &Traffic::Everybody, 3).role_binding;
            keep_rights(&mut binding, running);
            binding.subjects.into_iter().flatten().map(|subject| subject.name).collect()
        };
        assert_eq!(accounts(&running(&["kelp", "kelp", "bao"])), ["bao", "kelp"]);
        assert_eq!(accounts(&running(&["bao"; 3])), ["bao"]);
        assert_eq!(accounts(&Facts::default()), ["bao"]);
    }
}
