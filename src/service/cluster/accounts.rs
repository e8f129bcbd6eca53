//! A service account that the spec names: somebody else makes it, and without it Kubernetes makes no pod.

use super::{
    facts::Facts,
    status::{Trouble, reasons},
    validate::ValidatedCluster,
};
use crate::adapter::kubernetes::client::timed;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};

/// What is wrong if that account is not there.
pub async fn missing(client: &Client, cluster: &ValidatedCluster, facts: &Facts) -> Option<Trouble> {
    if !may_be_missing(cluster, facts) {
        return None;
    }
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &cluster.namespace);
    match timed(api.get_opt(&cluster.service_account)).await {
        Ok(None) => Some(trouble(cluster)),
        // Nothing rests on it: whoever cannot be asked is asked again while pods are missing.
        Ok(Some(_)) | Err(_) => None,
    }
}

/// Nothing may watch accounts that are not ours, so it is asked for only while pods are missing.
fn may_be_missing(cluster: &ValidatedCluster, facts: &Facts) -> bool {
    let wanted = usize::try_from(cluster.replicas).unwrap_or(usize::MAX);
    !cluster.owns_service_account && facts.pods.len() < wanted
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
    use crate::service::cluster::validate::tests::valid;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn an_account_that_the_spec_names_is_looked_for_only_while_pods_are_missing() {
        let named = valid(|s| s["serviceAccount"] = json!({"name": "bao"}));
        let pods = |count: u32| {
            let pods = (0..count).map(|ordinal| (ordinal, Arc::new(Pod::default())));
            Facts { pods: pods.collect(), ..Facts::default() }
        };
        assert!(may_be_missing(&named, &pods(0)));
        assert!(may_be_missing(&named, &pods(2)));
        assert!(!may_be_missing(&named, &pods(3)), "an idle cluster asks for nothing");
        assert!(!may_be_missing(&valid(|_| {}), &pods(0)), "that one is ours to make");
        let told = trouble(&named);
        assert!(told.message.contains("ServiceAccount bao") && told.message.contains("create it"), "{told:?}");
    }
}
