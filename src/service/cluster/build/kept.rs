//! The StatefulSet of servers that keep the settings that they have, because with those of the spec they would not come back. An
//! upgrade or a rollback that is between two safe points goes on with them.

use super::statefulset::{self, BOOTSTRAP_GATE, BOOTSTRAPPED, CONTAINER, IMAGE, Inputs, VERSION};
use crate::service::cluster::{headcount::GIVEN, validate::ValidatedCluster};
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::PodSchedulingGate},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// Builds it: from the spec or, where one is to be `kept`, from that one with nothing changed but what an upgrade or a rollback asks
/// for: how many members, which version and image, and whether the first server may start from nothing.
pub fn build(kept: Option<&StatefulSet>, cluster: &ValidatedCluster, inputs: &Inputs) -> StatefulSet {
    let Some(live) = kept else { return statefulset::build(cluster, inputs) };
    let mut annotations = live.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(VERSION.to_owned(), inputs.version.clone());
    annotations.insert(GIVEN.to_owned(), inputs.replicas.to_string());
    if inputs.bootstrapping {
        annotations.remove(BOOTSTRAPPED);
    } else {
        annotations.insert(BOOTSTRAPPED.to_owned(), "true".to_owned());
    }
    let mut spec = live.spec.clone().unwrap_or_default();
    spec.replicas = i32::try_from(inputs.replicas).ok();
    spec.template
        .metadata
        .get_or_insert_default()
        .annotations
        .get_or_insert_default()
        .insert(IMAGE.to_owned(), inputs.image.clone());
    let pod = spec.template.spec.get_or_insert_default();
    pod.scheduling_gates = inputs.bootstrapping.then(|| vec![PodSchedulingGate { name: BOOTSTRAP_GATE.to_owned() }]);
    for server in pod.containers.iter_mut().filter(|container| container.name == CONTAINER) {
        server.image = Some(inputs.image.clone());
    }
    // Nobody may change them, and what the API server added to them is not sent back.
    for claim in spec.volume_claim_templates.iter_mut().flatten() {
        claim.status = None;
    }
    StatefulSet {
        metadata: ObjectMeta {
            name: live.metadata.name.clone(),
            namespace: live.metadata.namespace.clone(),
            labels: live.metadata.labels.clone(),
            owner_references: live.metadata.owner_references.clone(),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::{build::statefulset::tests::inputs, validate::tests::valid};
    use k8s_openapi::api::apps::v1::StatefulSetStatus;
    use serde_json::json;

    #[test]
    fn servers_that_keep_their_settings_still_follow_an_upgrade_or_a_rollback() {
        let own = valid(|_| {});
        let asked = valid(|s| s["configuration"] = json!({"logLevel": "debug"}));
        let mut live = statefulset::build(&own, &inputs());
        live.metadata.resource_version = Some("7".into());
        live.status = Some(StatefulSetStatus { replicas: 3, ..StatefulSetStatus::default() });
        let at = |version: &str, replicas: u32, bootstrapping: bool| Inputs {
            version: version.into(),
            image: format!("openbao/openbao:{version}"),
            replicas,
            bootstrapping,
            ..inputs()
        };
        for inputs in [at("2.7.2", 0, false), at("2.6.1", 0, false), at("2.6.1", 1, true), at("2.6.1", 3, false)] {
            live = build(Some(&live), &asked, &inputs);
            assert_eq!(live, statefulset::build(&own, &inputs));
            assert_ne!(live, build(None, &asked, &inputs), "which would not come back");
        }
    }
}
