//! The status as the running operator writes it: each plane by a field manager of its own, none touching another's fields.
//! And one unreadable object disturbs no other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use openbao_operator::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore};
use serde_json::{Value, json};

use super::objects;
use crate::harness::{Cluster, Operator, eventually};

const ONE_SERVER_WITH_BACKUPS: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: backups}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: openbao.org/v1alpha1
kind: OpenBaoCluster
metadata: {name: main}
spec:
  version: 2.7.2
  profile: Development
  replicas: 1
  deletionPolicy: DeletePVCs
  storage: {size: 1Gi}
  configuration: {raft: {performanceMultiplier: 5}}
  selfInit: {enabled: true, oidc: {enabled: true}}
  backup: {schedule: 0 0 1 1 *, target: {provider: file, file: {claimName: backups}}}
";

#[tokio::test]
async fn field_managers_own_disjoint_planes_of_the_status() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("api-planes").await;
    let _operator = Operator::start(&namespace, &[]).await;
    namespace.apply(ONE_SERVER_WITH_BACKUPS).await;
    let clusters = namespace.api::<OpenBaoCluster>();
    eventually("the cluster is available", Duration::from_mins(4), async || {
        let status = clusters.get("main").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let available = status.conditions.iter().any(|c| c.type_ == "Available" && c.status == "True");
        if available { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await;
    namespace
        .apply(
            "
apiVersion: openbao.org/v1alpha1
kind: OpenBaoOperation
metadata: {name: now}
spec: {cluster: main, operation: Backup}
---
apiVersion: openbao.org/v1alpha1
kind: OpenBaoRestore
metadata: {name: rehearsal}
spec: {cluster: main, source: {latest: true}, dryRun: true}
",
        )
        .await;
    let operations = namespace.api::<OpenBaoOperation>();
    eventually("the backup has ended", Duration::from_mins(3), async || {
        let status = operations.get("now").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if status.phase.is_terminal() { Ok(()) } else { Err(format!("{:?}: {:?}", status.phase, status.message)) }
    })
    .await;
    let restores = namespace.api::<OpenBaoRestore>();
    eventually("the rehearsal has ended", Duration::from_mins(3), async || {
        let status = restores.get("rehearsal").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if status.phase.is_terminal() { Ok(()) } else { Err(format!("{:?}: {}", status.phase, status.message)) }
    })
    .await;

    let api = objects(&namespace, "OpenBaoCluster");
    let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut managers = BTreeSet::new();
    for entry in api.get("main").await.unwrap().metadata.managed_fields.unwrap_or_default() {
        let (Some(manager), Some(fields)) = (entry.manager, entry.fields_v1) else { continue };
        if entry.subresource.as_deref() != Some("status") {
            continue;
        }
        managers.insert(manager.clone());
        leaves(&fields.0, "", &mut |path| {
            owners.entry(path).or_default().insert(manager.clone());
        });
    }
    let shared: Vec<_> = owners.iter().filter(|(_, owners)| owners.len() > 1).collect();
    assert!(shared.is_empty(), "fields with two owners: {shared:#?}");
    for manager in ["openbao-operator-cluster", "openbao-operator-backup", "openbao-operator-lock"] {
        assert!(managers.contains(manager), "{manager} wrote nothing; these did: {managers:?}");
    }
    assert_eq!(
        owners.get("f:status/f:operationFence").map(|owners| owners.iter().cloned().collect::<Vec<_>>()),
        Some(vec!["openbao-operator-lock".to_owned()]),
        "only the lock's writer raises the fence"
    );
}

/// The paths of a field set that stand for values.
fn leaves(fields: &Value, path: &str, see: &mut impl FnMut(String)) {
    let children = fields.as_object().into_iter().flatten().filter(|(name, _)| *name != ".");
    let mut leaf = true;
    for (name, child) in children {
        leaf = false;
        let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        leaves(child, &path, see);
    }
    if leaf {
        see(path.to_owned());
    }
}

/// The API server takes a time that no reader of RFC 3339 takes; anything stored before a rule existed is like that.
#[tokio::test]
async fn an_unreadable_object_disturbs_no_other() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("api-unreadable").await;
    let minimal = |name: &str| {
        format!(
            "apiVersion: openbao.org/v1alpha1\nkind: OpenBaoCluster\nmetadata: {{name: {name}}}\n\
             spec: {{version: 2.7.2, replicas: 1, storage: {{size: 1Gi}}}}\n"
        )
    };
    namespace.apply(&minimal("broken")).await;
    let odd = json!({"status": {"backup": {"consecutiveFailures": 0, "lastSuccess": "2026-11-20T12:00:00x5Z"}}});
    objects(&namespace, "OpenBaoCluster")
        .patch_status("broken", &PatchParams::default(), &Patch::Merge(&odd))
        .await
        .unwrap();
    assert!(namespace.api::<OpenBaoCluster>().get("broken").await.is_err(), "it should not be readable");

    let mut operator = Operator::start(&namespace, &[]).await;
    namespace.apply(&minimal("healthy")).await;
    let sets = namespace.api::<StatefulSet>();
    eventually("the readable cluster gets its servers", Duration::from_mins(1), async || {
        sets.get("healthy").await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert!(operator.runs());
    assert!(sets.get("broken").await.is_err(), "nothing is made for what cannot be read");
    let named = operator.lines().iter().any(|line| line.to_string().contains("\"broken\""));
    assert!(named, "the operator's log does not name the unreadable object:\n{}", operator.log());

    let repaired = json!({"status": {"backup": null}});
    objects(&namespace, "OpenBaoCluster")
        .patch_status("broken", &PatchParams::default(), &Patch::Merge(&repaired))
        .await
        .unwrap();
    eventually("the repaired cluster gets its servers", Duration::from_mins(1), async || {
        sets.get("broken").await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}
