//! Every admission rule against the real API server: one object accepted, one refused with its message.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::Value;

use super::objects;
use super::table::{Case, cases, merge, smallest};
use crate::harness::Cluster;

async fn create(api: &Api<DynamicObject>, base: &Value, patch: &Value) -> Result<DynamicObject, kube::Error> {
    let mut object = base.clone();
    merge(&mut object, patch);
    api.create(&PostParams { dry_run: true, ..PostParams::default() }, &serde_json::from_value(object).unwrap()).await
}

async fn update(api: &Api<DynamicObject>, name: &str, patch: &Value) -> Result<DynamicObject, kube::Error> {
    api.patch(name, &PatchParams { dry_run: true, ..PatchParams::default() }, &Patch::Merge(patch)).await
}

#[tokio::test]
async fn every_rule_passes_what_it_should_and_refuses_the_rest_with_its_message() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("api-rules").await;
    let mut wrong = Vec::new();
    for (number, Case { kind, message, before, accepted, refused }) in cases().into_iter().enumerate() {
        let api = objects(&namespace, &kind);
        let mut base = smallest(&kind);
        let (accepted, refused) = if let Some(before) = before {
            let name = format!("before-{number}");
            merge(&mut base, &before);
            base["metadata"]["name"] = name.clone().into();
            api.create(&PostParams::default(), &serde_json::from_value(base).unwrap()).await.unwrap();
            // Nobody creates an object with a status.
            if let Some(status) = before.get("status") {
                let patch = Patch::Merge(serde_json::json!({ "status": status }));
                api.patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
            }
            (update(&api, &name, &accepted).await, update(&api, &name, &refused).await)
        } else {
            (create(&api, &base, &accepted).await, create(&api, &base, &refused).await)
        };
        if let Err(error) = accepted {
            wrong.push(format!("{message}: refused what should pass: {error}"));
        }
        match refused {
            Ok(_) => wrong.push(format!("{message}: let pass what should be refused")),
            Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains(&message) => {}
            Err(error) => wrong.push(format!("{message}: refused for another reason: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The server estimates what each rule may cost and takes no CRD above its limit. It also says where a schema is not
/// what it wants, without refusing it.
#[tokio::test]
async fn the_definitions_are_established_without_complaint() {
    let cluster = Cluster::get().await;
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
    for crd in openbao_operator::api::crds().unwrap() {
        let name = crd.metadata.name.unwrap();
        let stored = api.get(&name).await.unwrap();
        let conditions = stored.status.unwrap().conditions.unwrap_or_default();
        let is = |type_: &str, status: &str| conditions.iter().any(|c| c.type_ == type_ && c.status == status);
        assert!(is("Established", "True") && is("NamesAccepted", "True"), "{name}: {conditions:?}");
        assert!(!is("NonStructuralSchema", "True"), "{name}: {conditions:?}");
    }
}
