//! Restore tests end to end: a backup on a claim comes back in a server of its own, which is gone afterwards, and the cluster
//! that it was taken of notices nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use openbao_operator::api::{
    OpenBaoClusterStatus, OpenBaoOperation, OpenBaoOperationStatus, OperationKind, OperationPhase, RestoreTestStatus,
};
use serde_json::{Value, json};

use crate::harness::{Cluster, Namespace, eventually};
use crate::restore::setup::{Bay, operator};

/// From the request to its end: the backup is fetched, and OpenBao starts twice, on two shared cores.
const LONG: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(30);

/// A cluster of one server, in whose image the test run's own data mover runs too.
async fn bay(namespace: &Namespace) -> Bay<'_> {
    let image = namespace.cluster().server_image().await;
    Bay::named(namespace, "kelp", 1, "2.7.2", &format!("image: {image}")).await
}

/// Asks for a test and waits for its end, whichever.
async fn tested(bay: &Bay<'_>, name: &str, parameters: Value) -> OpenBaoOperationStatus {
    let whole = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": name},
        "spec": {"cluster": bay.name, "operation": "RestoreTest", "parameters": parameters}});
    bay.namespace.apply(&whole.to_string()).await;
    let operations = bay.namespace.api::<OpenBaoOperation>();
    eventually(&format!("{name} ends"), LONG, async || {
        let status = operations.get(name).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if status.phase.is_terminal() { Ok(status) } else { Err(format!("{:?}: {:?}", status.phase, status.message)) }
    })
    .await
}

/// One that is to pass, and what it found out.
async fn passed(bay: &Bay<'_>, name: &str, parameters: Value) -> OpenBaoOperationStatus {
    let status = tested(bay, name, parameters).await;
    assert_eq!(status.phase, OperationPhase::Succeeded, "{name}: {:?} {:?}", status.reason, status.message);
    status
}

/// A fact that the step `Test` found out.
fn found<'a>(status: &'a OpenBaoOperationStatus, name: &str) -> &'a str {
    let step = status.steps.iter().find(|step| step.name == "Test").unwrap();
    step.output.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", step.output))
}

/// Waits until the cluster tells what it is to tell of its restore tests.
async fn told(
    bay: &Bay<'_>,
    what: &str,
    limit: Duration,
    so: impl Fn(&RestoreTestStatus) -> bool,
) -> RestoreTestStatus {
    eventually(what, limit, async || {
        let backup = bay.cluster().await.status.and_then(|status| status.backup).unwrap_or_default();
        match backup.restore_test {
            Some(test) if so(&test) => Ok(test),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

async fn status(bay: &Bay<'_>) -> OpenBaoClusterStatus {
    bay.cluster().await.status.unwrap()
}

async fn set(bay: &Bay<'_>, restore_test: Value) {
    bay.patch(json!({"spec": {"backup": {"restoreTest": restore_test}}})).await;
}

/// The names of all that there is of one kind.
async fn names(namespace: &Namespace, kind: &str) -> Vec<String> {
    let said = namespace.kubectl(&["get", kind, "-o", "jsonpath={.items[*].metadata.name}"]).await;
    let mut names: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    names.sort();
    names
}

/// Waits until nothing of a test is left.
async fn nothing_is_left(namespace: &Namespace) {
    eventually("Job, pod and claim are gone", Duration::from_secs(60), async || {
        let left = [
            names(namespace, "jobs").await,
            names(namespace, "pods").await,
            names(namespace, "persistentvolumeclaims").await,
        ];
        let none: [Vec<String>; 3] = [vec![], vec!["kelp-0".into()], vec!["data-kelp-0".into(), "sand".into()]];
        if left == none { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

/// Writes into OpenBao as its administrator.
async fn write(bay: &Bay<'_>, token: &str, path: &str, body: &Value) {
    let url = format!("https://{}-active.{}.svc:8200/v1/{path}", bay.name, bay.namespace.name());
    let (header, body) = (format!("X-Vault-Token: {token}"), body.to_string());
    bay.namespace.cluster().expect_inside(&["curl", "-skf", "-X", "PUT", "-H", &header, "-d", &body, &url]).await;
}

/// The role that the guide has people make: what a backup's has, and the canaries.
async fn make_role(bay: &Bay<'_>, token: &str, canaries: &str) {
    let policy = format!(
        "path \"sys/storage/raft/snapshot\" {{ capabilities = [\"read\"] }}\n\
         path \"{canaries}\" {{ capabilities = [\"read\"] }}"
    );
    write(bay, token, "sys/policies/acl/drill", &json!({"policy": policy})).await;
    let namespace = bay.namespace.name();
    let role = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": [format!("openbao:{namespace}/kelp")],
        "bound_subject": format!("system:serviceaccount:{namespace}:kelp-backup"), "token_policies": ["drill"], "token_ttl": "1h"});
    write(bay, token, "auth/jwt/role/drill", &role).await;
}

#[tokio::test]
async fn a_backup_comes_back_in_a_server_of_its_own_and_its_cluster_notices_nothing() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restoretest").await;
    let _operator = operator(&namespace).await;
    let bay = bay(&namespace).await;
    let (token, key) = bay.backed_up().await;
    // Not in the backup: it would be gone if the living cluster were restored.
    bay.put(&token, "later", "after").await;
    let before = status(&bay).await;
    let server = namespace.api::<Pod>().get("kelp-0").await.unwrap().uid();

    let tested = passed(&bay, "proof", json!({})).await;
    assert_eq!((found(&tested, "key"), found(&tested, "isolated")), (key.as_str(), "true"));
    assert_eq!(Some(found(&tested, "openbaoClusterID")), before.cluster_id.as_deref());
    assert_eq!((found(&tested, "version"), found(&tested, "canaries")), ("2.7.2", "0"));
    for count in ["keys", "mounts", "restoreMs"] {
        assert!(found(&tested, count).parse::<u64>().unwrap() > 0, "{count}: {:?}", tested.steps);
    }
    assert_eq!(tested.artifacts.unwrap().key.as_ref(), Some(&key));

    // The cluster tells of it, and so does the backup's own record.
    let told = told(&bay, "the cluster tells of the test", SOON, |test| test.last_success.is_some()).await;
    assert_eq!((told.last_key.as_ref(), told.last_operation.as_deref()), (Some(&key), Some("proof")));
    assert!(told.last_duration.is_some() && told.last_failure_message.is_none() && told.next.is_none(), "{told:?}");
    let stamped = namespace.api::<OpenBaoOperation>().get("first").await.unwrap();
    assert!(stamped.annotations().contains_key("openbao.org/restore-tested-at"), "{:?}", stamped.annotations());

    // No lock was taken, no server restarted, nothing went back, and nothing is left.
    let after = status(&bay).await;
    assert!(tested.lock.is_none() && after.operation_lock.is_none());
    assert_eq!(after.operation_fence, before.operation_fence, "it rises with every lock");
    assert_eq!(after.active_leader, before.active_leader);
    assert_eq!(namespace.api::<Pod>().get("kelp-0").await.unwrap().uid(), server);
    assert!(bay.knows(&token).await);
    assert_eq!(bay.word(&token, "later").await.as_deref(), Some("after"));
    nothing_is_left(&namespace).await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_canary_that_the_backup_does_not_have_fails_the_test_by_its_path_until_a_backup_has_it() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restoretest-canary").await;
    let _operator = operator(&namespace).await;
    let bay = bay(&namespace).await;
    let token = bay.login().await;
    make_role(&bay, &token, "secret/*").await;
    let (token, first) = bay.backed_up().await;
    set(&bay, json!({"jwtAuthRole": "drill", "canaries": ["secret/pearl"]})).await;
    let status = passed(&bay, "there", json!({})).await;
    assert_eq!(found(&status, "canaries"), "1");

    bay.put(&token, "later", "nobody-may-read-this").await;
    set(&bay, json!({"canaries": ["secret/pearl", "secret/later"]})).await;
    let status = tested(&bay, "missing", json!({})).await;
    assert_eq!((status.phase, status.reason.as_deref()), (OperationPhase::Failed, Some("CanaryMissing")));
    let message = status.message.unwrap_or_default();
    assert!(message.contains("secret/later") && !message.contains("secret/pearl"), "{message}");
    let failed = told(&bay, "the failure is told", SOON, |test| test.last_failure_message.is_some()).await;
    let why = failed.last_failure_message.unwrap_or_default();
    assert!(why.contains("secret/later"), "{why}");
    assert_eq!(
        (failed.last_key.as_ref(), failed.last_success.is_some()),
        (Some(&first), true),
        "what passed is not forgotten"
    );

    // A newer backup has it; the older one has it as little as before.
    let second = bay.backup("second").await;
    let status = passed(&bay, "again", json!({})).await;
    assert_eq!((found(&status, "key"), found(&status, "canaries")), (second.as_str(), "2"));
    let healed = told(&bay, "the failure is over", SOON, |test| test.last_failure_message.is_none()).await;
    assert_eq!(healed.last_key.as_ref(), Some(&second));
    let status = tested(&bay, "by-key", json!({"key": first})).await;
    assert_eq!((status.phase, status.reason.as_deref()), (OperationPhase::Failed, Some("CanaryMissing")));

    // What stands at a canary is kept nowhere.
    let records = namespace.kubectl(&["get", "openbaooperations,events.events.k8s.io", "-o", "json"]).await;
    assert!(records.contains("secret/later") && !records.contains("nobody-may-read-this"), "a secret is told");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_schedule_makes_tests_by_itself_and_takes_no_lock() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restoretest-schedule").await;
    let _operator = operator(&namespace).await;
    let bay = bay(&namespace).await;
    let (_, key) = bay.backed_up().await;
    let fence = status(&bay).await.operation_fence;
    set(&bay, json!({"schedule": "* * * * *"})).await;

    let first = told(&bay, "a minute's test", LONG, |test| test.last_success.is_some()).await;
    assert_eq!(first.last_key.as_ref(), Some(&key));
    assert!(first.next.is_some(), "{first:?}");
    let operations = namespace.api::<OpenBaoOperation>();
    let made = operations.get(first.last_operation.as_deref().unwrap()).await.unwrap();
    assert!(made.name_any().starts_with("kelp-restoretest-") && made.spec.operation == OperationKind::RestoreTest);
    let actor = made.spec.actor.unwrap();
    assert_eq!((actor.source.as_str(), actor.identity.as_str()), ("schedule", "openbaocluster/kelp"));
    assert_eq!(status(&bay).await.operation_fence, fence, "it rises with every lock");

    set(&bay, json!({"schedule": null})).await;
    told(&bay, "nothing is planned any more", SOON, |test| test.next.is_none()).await;
    eventually("the last one ends", LONG, async || {
        let all = operations.list(&kube::api::ListParams::default()).await.unwrap().items;
        let live = all.iter().find(|operation| !operation.has_ended());
        live.map_or(Ok(()), |operation| Err(operation.name_any()))
    })
    .await;
    nothing_is_left(&namespace).await;
}
