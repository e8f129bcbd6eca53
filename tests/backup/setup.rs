//! A small OpenBao cluster with a backup target, and how a test speaks to it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use openbao_operator::api::{BackupStatus, OpenBaoCluster, OpenBaoOperation, OperationPhase};
use serde_json::{Value, json};

use crate::harness::{Namespace, Store, eventually};

/// From the object to a leader and all voters: bootstrap, self-init, joining.
const READY: Duration = Duration::from_secs(240);

/// The cluster `kelp`.
pub struct Reef<'a> {
    namespace: &'a Namespace,
    clusters: Api<OpenBaoCluster>,
    operations: Api<OpenBaoOperation>,
}

/// A target on the claim `sand`.
pub fn claim() -> String {
    "{provider: file, file: {claimName: sand}}".to_owned()
}

/// A target in the bucket of a real S3 server.
pub fn s3(store: &Store, secret: &str) -> String {
    format!(
        "{{provider: s3, endpoint: \"{}\", bucket: {}, usePathStyle: true, credentialsSecretRef: {{name: {secret}}}}}",
        store.endpoint(),
        store.bucket
    )
}

pub fn manifest_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

impl<'a> Reef<'a> {
    /// Applies the cluster and waits until it leads and may bear a loss.
    pub async fn start(namespace: &'a Namespace, replicas: u32, target: &str, extra: &str) -> Self {
        namespace
            .apply(&format!(
                "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: sand}}\n\
                 spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n---\n\
                 apiVersion: openbao.org/v1alpha1\nkind: OpenBaoCluster\nmetadata: {{name: kelp}}\nspec:\n  \
                 version: 2.7.2\n  replicas: {replicas}\n  storage: {{size: 1Gi}}\n  deletionPolicy: DeletePVCs\n  \
                 selfInit: {{enabled: true, oidc: {{enabled: true}}}}\n  backup:\n    target: {target}\n    {extra}\n"
            ))
            .await;
        let reef = Self { namespace, clusters: namespace.api(), operations: namespace.api() };
        eventually("the cluster is available", READY, async || {
            let status = reef.cluster().await.status.unwrap_or_default();
            let available = status.conditions.iter().any(|c| c.type_ == "Available" && c.status == "True");
            let whole = status.ready_replicas == i32::try_from(replicas).ok();
            if available && whole { Ok(()) } else { Err(format!("{:?} {:?}", status.phase, status.conditions)) }
        })
        .await;
        reef
    }

    pub async fn cluster(&self) -> OpenBaoCluster {
        self.clusters.get("kelp").await.unwrap()
    }

    pub async fn backup_status(&self) -> BackupStatus {
        self.cluster().await.status.and_then(|status| status.backup).unwrap_or_default()
    }

    /// A person's request.
    pub async fn ask(&self, name: &str, spec: Value) {
        let mut whole = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": name}, "spec": {"cluster": "kelp", "operation": "Backup"}});
        for (key, value) in spec.as_object().unwrap() {
            whole["spec"][key] = value.clone();
        }
        self.namespace.apply(&whole.to_string()).await;
    }

    pub async fn operation(&self, name: &str) -> OpenBaoOperation {
        self.operations.get(name).await.unwrap()
    }

    pub async fn pod(&self, name: &str) -> Option<Pod> {
        self.namespace.api::<Pod>().get_opt(name).await.unwrap()
    }

    pub async fn operations(&self) -> Vec<OpenBaoOperation> {
        self.operations.list(&ListParams::default()).await.unwrap().items
    }

    /// Backups that succeeded, oldest first.
    pub async fn succeeded(&self) -> Vec<OpenBaoOperation> {
        let mut all = self.operations().await;
        all.retain(|op| op.status.as_ref().is_some_and(|status| status.phase == OperationPhase::Succeeded));
        all.sort_by_key(|op| op.status.as_ref().and_then(|status| status.ended_at));
        all
    }

    /// Waits for an end, whichever.
    pub async fn ended(&self, name: &str, limit: Duration) -> OpenBaoOperation {
        eventually(&format!("{name} ends"), limit, async || {
            let operation = self.operation(name).await;
            let status = operation.status.clone().unwrap_or_default();
            if status.phase.is_terminal() {
                Ok(operation)
            } else {
                Err(format!("{:?}: {}", status.phase, status.message.unwrap_or_default()))
            }
        })
        .await
    }

    /// No operation is under way.
    pub async fn idle(&self) {
        eventually("no operation is under way", Duration::from_secs(180), async || {
            let all = self.operations().await;
            let live = all.iter().find(|op| !op.status.as_ref().is_some_and(|status| status.phase.is_terminal()));
            live.map_or(Ok(()), |op| Err(op.name_any()))
        })
        .await;
    }

    pub async fn annotate(&self, value: &str) {
        self.patch(json!({"metadata": {"annotations": {"openbao.org/trigger-backup": value}}})).await;
    }

    pub async fn suspend(&self) {
        self.patch_backup(json!({"suspend": true})).await;
    }

    pub async fn patch_backup(&self, backup: Value) {
        self.patch(json!({"spec": {"backup": backup}})).await;
    }

    async fn patch(&self, patch: Value) {
        self.clusters.patch("kelp", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// Puts a lock into the status that no controller knows of, or takes it away.
    pub async fn lock(&self, lock: Option<Value>) {
        let patch = json!({"status": {"operationLock": lock}});
        self.clusters.patch_status("kelp", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// Files on the claim, by path.
    pub async fn files(&self) -> Vec<String> {
        let said = self.on_claim("cd /store && find . -type f | sed 's#^./##' | sort").await;
        said.lines().map(str::to_owned).collect()
    }

    pub async fn read(&self, path: &str) -> String {
        self.on_claim(&format!("cat /store/{path}")).await
    }

    /// Runs a shell line in a pod that mounts the claim.
    async fn on_claim(&self, script: &str) -> String {
        const POD: &str = "look";
        let pods: Api<Pod> = self.namespace.api();
        if pods.get_opt(POD).await.unwrap().is_none() {
            self.namespace
                .apply(&format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: {POD}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
                     containers:\n  - name: look\n    image: docker.io/library/busybox:1.36\n    command: [sleep, '3600']\n    \
                     volumeMounts: [{{name: store, mountPath: /store}}]\n  \
                     volumes: [{{name: store, persistentVolumeClaim: {{claimName: sand}}}}]\n"
                ))
                .await;
            self.namespace.kubectl(&["wait", "--for=condition=Ready", "pod/look", "--timeout=60s"]).await;
        }
        self.namespace.kubectl(&["exec", POD, "--", "sh", "-c", script]).await
    }
}
