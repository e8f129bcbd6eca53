//! Restores into another cluster than the one that was backed up.

use std::time::Duration;

use openbao_operator::api::RestorePhase;
use serde_json::{Value, json};

use super::setup::{Bay, end, manifest, operator};
use crate::harness::{Cluster, Namespace, eventually};

const LONG: Duration = Duration::from_secs(420);

/// The seal key of `kelp` as a Secret for `coral`.
pub(super) async fn same_seal(namespace: &Namespace) -> Value {
    let secret = namespace.kubectl(&["get", "secret", "kelp-unseal-key", "-o", "jsonpath={.data.key}"]).await;
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "coral-unseal-key"}, "data": {"key": secret.trim()}})
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_fresh_cluster_with_the_same_key_gets_the_data_of_the_lost_one_across_versions() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-fresh").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.6.1").await;
    let (token, key) = bay.backed_up().await;

    // Another name, a newer version, three servers, the same seal key; cluster and restore in one apply.
    let unseal = same_seal(&namespace).await;
    let restore = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoRestore", "metadata": {"name": "rescue"},
        "spec": {"cluster": "coral", "source": {"key": key}}});
    namespace.apply(&format!("{unseal}\n---\n{}---\n{restore}\n", manifest("coral", 3, "2.7.2", ""))).await;
    let coral = Bay { namespace: &namespace, name: "coral".to_owned() };
    let restore = coral.ended("rescue", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    assert_eq!(coral.word(&token, "pearl").await.as_deref(), Some("before"));
    // Its roles demand the audience of the lost cluster: the data is there, the operator's access is told apart.
    let conditions = restore.status.unwrap().conditions;
    let access = conditions.iter().find(|condition| condition.type_ == "OperatorAccess").unwrap();
    assert_eq!(access.status, "False", "{}", access.message);
    assert!(access.message.contains("bao write auth/jwt/role/"), "{}", access.message);
    coral.free().await;
    for ordinal in 0..3 {
        assert_eq!(coral.word_at(&coral.pod(ordinal), &token, "pearl").await.as_deref(), Some("before"));
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_token_of_the_lost_cluster_which_the_new_one_does_not_know_gives_the_operator_its_access_again() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-token").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    let unseal = same_seal(&namespace).await;
    namespace.apply(&format!("{unseal}\n---\n{}", manifest("coral", 1, "2.7.2", ""))).await;
    let coral = Bay { namespace: &namespace, name: "coral".to_owned() };
    coral.whole(1).await;
    assert!(!coral.knows(&token).await, "it is a token of the data that is about to come");
    coral.secret("of-the-lost", "token", &token).await;
    let spec = json!({"source": {"key": key}, "tokenSecretRef": {"name": "of-the-lost"}, "force": true});
    coral.restore("rescue", spec).await;
    let restore = coral.ended("rescue", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    let conditions = restore.status.unwrap().conditions;
    let access = conditions.iter().find(|condition| condition.type_ == "OperatorAccess").unwrap();
    assert_eq!(access.status, "True", "{}", access.message);
    assert_eq!(coral.word(&token, "pearl").await.as_deref(), Some("before"));
    coral.free().await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn another_seal_that_is_waived_ends_sealed_with_the_key_named_and_no_earlier_backup_speaks_against_that_key() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-seal").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    namespace.apply(&manifest("coral", 1, "2.7.2", "")).await;
    let coral = Bay { namespace: &namespace, name: "coral".to_owned() };
    coral.whole(1).await;
    coral.backup("own").await;
    coral.restore("stubborn", json!({"source": {"key": key}, "waive": ["OtherSeal"]})).await;
    let restore = coral.ended("stubborn", LONG).await;
    let (phase, message) = end(&restore);
    assert_eq!(phase, RestorePhase::Failed, "{message}");
    assert!(message.contains("operator-generated-v1") && message.contains("safety backup"), "{message}");
    assert!(message.contains("Secret coral-unseal-key, data key \"key\""), "where the key belongs: {message}");
    eventually("the lock is given back", Duration::from_secs(30), async || {
        match coral.cluster().await.status.unwrap_or_default().operation_lock {
            None => Ok(()),
            held => Err(format!("{held:?}")),
        }
    })
    .await;

    // The way that it tells. The coral's own backup was opened with another key, and nobody remembers the restore any more: of the
    // data of now it says nothing.
    namespace.kubectl(&["delete", "openbaorestore", "stubborn"]).await;
    let unseal = same_seal(&namespace).await;
    namespace.kubectl(&["delete", "secret", "coral-unseal-key"]).await;
    namespace.apply(&unseal.to_string()).await;
    namespace.kubectl(&["delete", "pod", "coral-0"]).await;
    coral.whole(1).await;
    assert_eq!(coral.word(&token, "pearl").await.as_deref(), Some("before"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let conditions = coral.cluster().await.status.unwrap_or_default().conditions;
    assert!(conditions.iter().all(|told| told.reason != "UnsealKeyInvalid"), "{conditions:?}");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_cluster_that_lost_every_volume_is_told_the_way_and_gets_its_data_back_on_it() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-empty").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 3, "2.7.2").await;
    let (token, key) = bay.backed_up().await;

    let claims = ["data-kelp-0", "data-kelp-1", "data-kelp-2"];
    namespace.kubectl(&[&["delete", "pvc", "--wait=false"][..], &claims].concat()).await;
    namespace.kubectl(&["delete", "pods", "kelp-0", "kelp-1", "kelp-2", "--grace-period=1"]).await;
    eventually("the cluster says what happened", LONG, async || {
        let conditions = bay.cluster().await.status.unwrap_or_default().conditions;
        let said = conditions.iter().any(|one| one.type_ == "Degraded" && one.reason == "AllVolumesEmpty");
        if said { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
    bay.restore("early", json!({"source": {"key": key}})).await;
    bay.says("early", "delete it and its volume claims, apply it again", LONG).await;
    assert!(bay.cluster().await.status.unwrap().operation_lock.is_none(), "it waits without the lock");

    namespace.kubectl(&["delete", "openbaocluster", "kelp", "--timeout=180s"]).await;
    // It was meant for the one that is gone; nothing is ever put into a namesake that nobody spoke of.
    assert_eq!(end(&bay.ended("early", LONG).await).0, RestorePhase::Failed);
    namespace.apply(&manifest("kelp", 3, "2.7.2", "")).await;
    bay.restore("rescue", json!({"source": {"key": key}})).await;
    let restore = bay.ended("rescue", LONG).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
    bay.whole(3).await;
    bay.free().await;
}
