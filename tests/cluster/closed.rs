//! A first start after which nobody could log in.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use openbao_operator::api::OpenBaoCluster;

use super::{PATIENCE, available, condition, login, manifest, told};
use crate::harness::{Cluster, Operator, eventually};

const REASON: &str = "NobodyCanLogIn";

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_first_start_that_lets_nobody_in_says_so_and_what_it_says_to_do_helps() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-closed").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let whole = manifest("kelp", "  replicas: 1\n");
    let (before, _) = whole.split_once("    requests:").unwrap();
    namespace.apply(&format!("{before}  replicas: 1\n")).await;
    told(&namespace, REASON).await;
    // It starts all the same: it may be there for a restore. Then nobody can mend it, and nobody is told any more.
    let found = available(&namespace, "kelp").await;
    let (status, words) = condition(&found, "Valid");
    assert!(status == "True" && !words.contains(REASON), "{status} {words}");

    namespace.kubectl(&["delete", "openbaocluster", "kelp"]).await;
    namespace.kubectl(&["delete", "pvc", "data-kelp-0"]).await;
    eventually("nothing is left of it", PATIENCE, async || {
        let object = namespace.api::<OpenBaoCluster>().get_opt("kelp").await.map_err(|error| error.to_string())?;
        let claims = namespace.api::<PersistentVolumeClaim>();
        let claim = claims.get_opt("data-kelp-0").await.map_err(|error| error.to_string())?;
        let left = (object.is_some(), claim.is_some());
        if left == (false, false) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let events = async || {
        let all = namespace.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).await;
        all.split_whitespace().filter(|one| *one == REASON).count()
    };
    let earlier = events().await;
    namespace.apply(&whole).await;
    available(&namespace, "kelp").await;
    assert!(!login(&namespace, "kelp").await.is_empty());
    assert_eq!(events().await, earlier, "a cluster that lets somebody in is not warned about");
}
