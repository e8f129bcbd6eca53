//! A small OpenBao cluster with secrets in it, and how a test speaks to it.

use std::time::{Duration, Instant};

use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use openbao_operator::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationPhase, RestorePhase};
use serde_json::{Value, json};

use crate::harness::{Namespace, Operator, eventually};

/// From the object to a leader and all voters: bootstrap, self-init, joining.
const READY: Duration = Duration::from_secs(300);
/// A backup, on two shared cores.
const BACKUP: Duration = Duration::from_secs(240);

/// A log of every request, on the volume, where it outlives the server.
const HEARD: &str = "
    - name: audit
      operation: update
      path: sys/audit/file
      data: {type: file, options: {file_path: /openbao/data/heard.log}}";

/// What a test's OpenBao has beside what the operator needs: a key-value store, and an administrator with a password.
pub const PEOPLE: &str = r#"
    - name: kv
      operation: update
      path: sys/mounts/secret
      data: {type: kv}
    - name: admin_policy
      operation: update
      path: sys/policies/acl/admin
      data: {policy: 'path "*" { capabilities = ["create","read","update","delete","list","sudo"] }'}
    - name: userpass
      operation: update
      path: sys/auth/userpass
      data: {type: userpass}
    - name: admin
      operation: update
      path: auth/userpass/users/admin
      data: {password: correct-horse, token_policies: admin}
"#;

/// An operator of the namespace's own. Nobody else could lead there, and without an election a machine that is busy for ten
/// seconds does not end it.
pub async fn operator(namespace: &Namespace) -> Operator {
    Operator::start(namespace, &[("OPENBAO_LEADER_ELECT", "false")]).await
}

/// One cluster, and the claim `sand` for its backups.
pub struct Bay<'a> {
    pub namespace: &'a Namespace,
    pub name: String,
}

/// The manifest of a cluster; `extra` are more lines of its spec.
pub fn manifest(name: &str, replicas: u32, version: &str, extra: &str) -> String {
    format!(
        "apiVersion: openbao.org/v1alpha1\nkind: OpenBaoCluster\nmetadata: {{name: {name}}}\nspec:\n  \
         version: {version}\n  replicas: {replicas}\n  storage: {{size: 1Gi}}\n  deletionPolicy: DeletePVCs\n  \
         tls: {{enabled: true}}\n  configuration: {{unsafeAllowAPIAuditCreation: true, raft: {{performanceMultiplier: 5}}}}\n  \
         selfInit:\n    enabled: true\n    oidc: {{enabled: true}}\n    requests:{HEARD}{PEOPLE}  \
         backup: {{target: {{provider: file, file: {{claimName: sand}}}}}}\n  {extra}\n"
    )
}

/// The claim that backups go to.
pub const CLAIM: &str = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: sand}\n\
                         spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n";

impl<'a> Bay<'a> {
    /// Applies the cluster `kelp` and waits until every member serves and votes.
    pub async fn start(namespace: &'a Namespace, replicas: u32, version: &str) -> Self {
        Self::named(namespace, "kelp", replicas, version, "").await
    }

    pub async fn named(namespace: &'a Namespace, name: &str, replicas: u32, version: &str, extra: &str) -> Self {
        namespace.apply(&format!("{CLAIM}---\n{}", manifest(name, replicas, version, extra))).await;
        let bay = Self { namespace, name: name.to_owned() };
        bay.whole(replicas).await;
        bay
    }

    /// Waits until every member serves and as many may be lost as a majority bears.
    pub async fn whole(&self, replicas: u32) {
        eventually("the cluster is available", READY, async || {
            let status = self.cluster().await.status.unwrap_or_default();
            let available = status.conditions.iter().any(|c| c.type_ == "Available" && c.status == "True");
            let ready = status.ready_replicas == i32::try_from(replicas).ok();
            let bears = status.failure_tolerance.unwrap_or_default() >= i32::try_from((replicas - 1) / 2).unwrap();
            if available && ready && bears {
                Ok(())
            } else {
                Err(format!("{:?} {:?} {:?}", status.phase, status.failure_tolerance, status.conditions))
            }
        })
        .await;
    }

    pub async fn cluster(&self) -> OpenBaoCluster {
        self.namespace.api().get(&self.name).await.unwrap()
    }

    /// One request to the server at `host` (a pod's or Service's name), as curl makes it. `None`: no answer.
    async fn call(
        &self,
        host: &str,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let url = format!("https://{host}.{}.svc:8200/v1/{path}", self.namespace.name());
        let header = format!("X-Vault-Token: {token}");
        let mut words =
            vec!["curl", "-sk", "--max-time", "8", "-w", "\n%{http_code}", "-X", method, "-H", &header, &url];
        let text = body.map(Value::to_string);
        if let Some(text) = &text {
            words.extend(["-d", text.as_str()]);
        }
        let output = self.namespace.cluster().inside(&words).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = said.rsplit_once('\n')?;
        let status: u16 = status.trim().parse().ok().filter(|status| *status > 0)?;
        Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    /// The Service that leads to the leader.
    fn active(&self) -> String {
        format!("{}-active", self.name)
    }

    /// The name of one server pod as its certificate has it.
    pub fn pod(&self, ordinal: u32) -> String {
        format!("{0}-{ordinal}.{0}", self.name)
    }

    /// A fresh token of the administrator.
    pub async fn login(&self) -> String {
        eventually("the administrator logs in", Duration::from_secs(60), async || {
            let password = json!({"password": "correct-horse"});
            let answer = self.call(&self.active(), "", "POST", "auth/userpass/login/admin", Some(&password)).await;
            let (status, body) = answer.ok_or("no answer")?;
            body["auth"]["client_token"].as_str().map(str::to_owned).ok_or_else(|| format!("{status} {body}"))
        })
        .await
    }

    /// Whether a token is known.
    pub async fn knows(&self, token: &str) -> bool {
        let answer = self.call(&self.active(), token, "GET", "auth/token/lookup-self", None).await;
        matches!(answer, Some((200, _)))
    }

    pub async fn put(&self, token: &str, path: &str, word: &str) {
        eventually("a secret is written", Duration::from_secs(30), async || {
            let body = json!({"word": word});
            match self.call(&self.active(), token, "PUT", &format!("secret/{path}"), Some(&body)).await {
                Some((204 | 200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Whether a client's write is taken at this moment.
    pub async fn answers(&self, token: &str) -> bool {
        let body = json!({"word": "pulse"});
        let answer = self.call(&self.active(), token, "PUT", "secret/pulse", Some(&body)).await;
        matches!(answer, Some((200 | 204, _)))
    }

    /// Writes so many MiB of secrets that do not compress.
    pub async fn fill(&self, token: &str, mib: usize) {
        let mut seed = 1_u64;
        let mut letter = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + u8::try_from((seed >> 33) % 26).unwrap_or_default())
        };
        let word: String = (0..512 * 1024).map(|_| letter()).collect();
        let file = self.namespace.folder().join("ballast.json");
        std::fs::write(&file, json!({"word": word}).to_string()).unwrap();
        let url =
            format!("https://{}.{}.svc:8200/v1/secret/ballast-[1-{}]", self.active(), self.namespace.name(), mib * 2);
        let (header, body) = (format!("X-Vault-Token: {token}"), format!("@{}", file.display()));
        let words = ["curl", "-skf", "-o", "/dev/null", "-X", "PUT", "-H", &header, "--data-binary", &body, &url];
        self.namespace.cluster().expect_inside(&words).await;
    }

    /// One try to log in; for clients of a cluster in trouble.
    pub async fn try_login(&self) -> Option<String> {
        let password = json!({"password": "correct-horse"});
        let (_, body) = self.call(&self.active(), "", "POST", "auth/userpass/login/admin", Some(&password)).await?;
        body["auth"]["client_token"].as_str().map(str::to_owned)
    }

    /// One try to write; `true` means that the server acknowledged it.
    pub async fn try_put(&self, token: &str, path: &str, word: &str) -> bool {
        let body = json!({"word": word});
        let answer = self.call(&self.active(), token, "PUT", &format!("secret/{path}"), Some(&body)).await;
        matches!(answer, Some((204 | 200, _)))
    }

    /// The names of all secrets.
    pub async fn list(&self, token: &str) -> std::collections::BTreeSet<String> {
        eventually("the secrets are listed", Duration::from_secs(60), async || {
            match self.call(&self.active(), token, "GET", "secret/?list=true", None).await {
                Some((200, body)) => {
                    let keys = body["data"]["keys"].as_array().into_iter().flatten();
                    Ok(keys.filter_map(|key| key.as_str().map(str::to_owned)).collect())
                }
                Some((404, _)) => Ok(std::collections::BTreeSet::new()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    pub async fn remove(&self, token: &str, path: &str) {
        let answer = self.call(&self.active(), token, "DELETE", &format!("secret/{path}"), None).await;
        assert!(matches!(answer, Some((204, _))), "{answer:?}");
    }

    /// A secret's word at the leader; `None`: there is none.
    pub async fn word(&self, token: &str, path: &str) -> Option<String> {
        self.word_at(&self.active(), token, path).await
    }

    /// A secret's word as one server shows it.
    pub async fn word_at(&self, host: &str, token: &str, path: &str) -> Option<String> {
        eventually("a secret is read", Duration::from_secs(60), async || {
            match self.call(host, token, "GET", &format!("secret/{path}"), None).await {
                Some((200, body)) => Ok(body["data"]["word"].as_str().map(str::to_owned)),
                Some((404, _)) => Ok(None),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// The names under a folder, as the leader lists them.
    pub async fn names(&self, token: &str, folder: &str) -> Vec<String> {
        eventually("a folder is listed", Duration::from_secs(60), async || {
            match self.call(&self.active(), token, "LIST", &format!("secret/{folder}"), None).await {
                Some((200, body)) => {
                    serde_json::from_value(body["data"]["keys"].clone()).map_err(|error| error.to_string())
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Asks the leader to give up, as an administrator.
    pub async fn step_down(&self, token: &str) {
        let answer = self.call(&self.active(), token, "PUT", "sys/step-down", None).await;
        assert!(matches!(answer, Some((204, _))), "{answer:?}");
    }

    /// The pod that leads, by the servers' own word.
    pub async fn leader(&self) -> String {
        eventually("a leader", Duration::from_secs(60), async || {
            // As many as there may be: the status is no newer than its operator.
            for ordinal in 0..self.cluster().await.spec.replicas {
                let pod = format!("{}-{ordinal}", self.name);
                let answer = self.call(&format!("{pod}.{}", self.name), "", "GET", "sys/health", None).await;
                if matches!(answer, Some((200, _))) {
                    return Ok(pod);
                }
            }
            Err("none answers as active".to_owned())
        })
        .await
    }

    /// Asks for a backup.
    pub async fn ask_for_backup(&self, name: &str) {
        let operation = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": name}, "spec": {"cluster": self.name, "operation": "Backup"}});
        self.namespace.apply(&operation.to_string()).await;
    }

    /// Writes the word that a restore is to bring back and takes a backup of it; returns a token and the backup's key.
    pub async fn backed_up(&self) -> (String, String) {
        let token = self.login().await;
        self.put(&token, "pearl", "before").await;
        let key = self.backup("first").await;
        (token, key)
    }

    /// Takes a backup and returns its key.
    pub async fn backup(&self, name: &str) -> String {
        self.ask_for_backup(name).await;
        let operations: Api<OpenBaoOperation> = self.namespace.api();
        eventually("the backup succeeds", BACKUP, async || {
            let status = operations.get(name).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            assert!(
                !status.phase.is_terminal() || status.phase == OperationPhase::Succeeded,
                "the backup failed: {:?}",
                status.message
            );
            status
                .artifacts
                .filter(|_| status.phase == OperationPhase::Succeeded)
                .and_then(|artifacts| artifacts.key)
                .ok_or_else(|| format!("{:?} {:?}", status.phase, status.message))
        })
        .await
    }

    /// Asks for a restore; `spec` beside the cluster's name.
    pub async fn restore(&self, name: &str, spec: Value) {
        self.try_restore(name, spec).await.unwrap();
    }

    /// The same, for what the API server may refuse. Sent as it is written here.
    pub async fn try_restore(&self, name: &str, mut spec: Value) -> kube::Result<()> {
        spec["cluster"] = json!(self.name);
        let restore: DynamicObject = serde_json::from_value(json!({"apiVersion": "openbao.org/v1alpha1",
            "kind": "OpenBaoRestore", "metadata": {"name": name}, "spec": spec}))
        .unwrap();
        let kind = ApiResource::erase::<OpenBaoRestore>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.namespace.client(), self.namespace.name(), &kind);
        api.create(&PostParams::default(), &restore).await.map(drop)
    }

    /// Changes the cluster's object.
    pub async fn patch(&self, patch: Value) {
        let clusters: Api<OpenBaoCluster> = self.namespace.api();
        clusters.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Gives the cluster another target for its backups, in place of the claim.
    pub async fn point(&self, mut target: Value) {
        target["file"] = Value::Null;
        self.patch(json!({"spec": {"backup": {"target": target}}})).await;
    }

    /// Seals the server that leads.
    pub async fn seal(&self, token: &str) {
        let answer = self.call(&self.active(), token, "PUT", "sys/seal", None).await;
        assert!(matches!(answer, Some((204, _))), "{answer:?}");
    }

    /// Waits until the restore's message says this.
    pub async fn says(&self, name: &str, words: &str, limit: Duration) {
        eventually(&format!("restore {name} says \"{words}\""), limit, async || {
            let status = self.restores().get(name).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            if status.message.contains(words) { Ok(()) } else { Err(format!("{:?} {}", status.phase, status.message)) }
        })
        .await;
    }

    pub fn restores(&self) -> Api<OpenBaoRestore> {
        self.namespace.api()
    }

    /// Waits for an end of the restore, or for the state that waits for a person.
    pub async fn ended(&self, name: &str, limit: Duration) -> OpenBaoRestore {
        eventually(&format!("restore {name} ends"), limit, async || {
            let restore = self.restores().get(name).await.map_err(|error| error.to_string())?;
            let status = restore.status.clone().unwrap_or_default();
            match status.phase {
                RestorePhase::Completed | RestorePhase::Failed | RestorePhase::Unknown => Ok(restore),
                phase => Err(format!("{phase:?} {}: {}", status.stage, status.message)),
            }
        })
        .await
    }

    /// Waits until the restore's operation has the step under way.
    pub async fn stage(&self, name: &str, stage: &str, limit: Duration) {
        eventually(&format!("restore {name} reaches {stage}"), limit, async || {
            let status = self.restores().get(name).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            if status.stage == stage {
                Ok(())
            } else {
                Err(format!("{:?} {}: {}", status.phase, status.stage, status.message))
            }
        })
        .await;
    }

    /// The mover's config map of a restore, as it is now: permit, claim, result, past attempts.
    pub async fn exchange(&self, restore: &str) -> Option<Value> {
        let operation = self.restores().get(restore).await.ok()?.status?.operation?;
        let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = self.namespace.api();
        let map = maps.get_opt(&openbao_operator::service::backup::jobs::mover_name(&operation)).await.ok()??;
        let data = map.data.unwrap_or_default();
        Some(data.into_iter().map(|(key, text)| (key, serde_json::from_str(&text).unwrap_or(Value::Null))).collect())
    }

    /// Waits until the mover has claimed the submission.
    pub async fn claimed(&self, restore: &str, limit: Duration) -> Instant {
        eventually("the submission is claimed", limit, async || {
            let exchange = self.exchange(restore).await.unwrap_or_default();
            if exchange["claim"].is_null() { Err(format!("{exchange}")) } else { Ok(Instant::now()) }
        })
        .await
    }

    /// Waits until the server has answered the submission.
    pub async fn answered(&self, restore: &str, limit: Duration) {
        eventually("the submission is answered", limit, async || {
            let exchange = self.exchange(restore).await.unwrap_or_default();
            if exchange["result"].is_null() { Err(format!("{exchange}")) } else { Ok(()) }
        })
        .await;
    }

    /// Kills every mover of a restore, as a node's crash would.
    pub async fn kill_movers(&self, restore: &str) {
        let status = self.restores().get(restore).await.unwrap().status.unwrap_or_default();
        self.kill_movers_of(&status.operation.unwrap_or_default()).await;
    }

    /// The same for those of a restore's, or a rollback's, operation.
    pub async fn kill_movers_of(&self, operation: &str) {
        let label = openbao_operator::adapter::kubernetes::shorten::operation_label(operation);
        let selector = format!("openbao.org/operation={label},app.kubernetes.io/component=restore");
        let words = ["delete", "pods", "-l", &selector, "--grace-period=0", "--force", "--wait=false"];
        self.namespace.kubectl(&words).await;
    }

    /// Kills a pod as a node's crash would.
    pub async fn kill(&self, pod: &str) {
        self.namespace.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force", "--wait=false"]).await;
    }

    /// Makes a copy of this Secret's keys, as a person would with kubectl.
    pub async fn secret(&self, name: &str, key: &str, value: &str) {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}});
        self.namespace.apply(&secret.to_string()).await;
    }

    /// Asks something of a running restore.
    pub async fn request(&self, restore: &str, nonce: &str, action: &str) {
        let patch = json!({"spec": {"requests": [{"nonce": nonce, "action": action}]}});
        self.restores().patch(restore, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// How often the servers of this cluster have been sent a snapshot, by OpenBao's own audit log of each of them.
    pub async fn posts(&self, replicas: u32) -> usize {
        let pod = format!("ears-{}", self.name);
        let pods: Api<k8s_openapi::api::core::v1::Pod> = self.namespace.api();
        if pods.get_opt(&pod).await.unwrap().is_none() {
            let claim = |n| json!({"name": format!("n{n}"), "persistentVolumeClaim": {"claimName": format!("data-{}-{n}", self.name)}});
            let mount = |n| json!({"name": format!("n{n}"), "mountPath": format!("/heard/{n}")});
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "ears", "image": "docker.io/library/busybox:1.36", "command": ["sleep", "7200"],
                    "volumeMounts": (0..replicas).map(mount).collect::<Vec<_>>()}],
                "volumes": (0..replicas).map(claim).collect::<Vec<_>>()}});
            self.namespace.apply(&pod.to_string()).await;
        }
        self.namespace.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]).await;
        let heard = self.namespace.kubectl(&["exec", &pod, "--", "sh", "-c", "cat /heard/*/heard.log"]).await;
        assert!(heard.contains("auth/userpass/login/admin"), "the servers' audit log does not log");
        let entries = heard.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let posted = |entry: &Value| {
            let path = entry["request"]["path"].as_str().unwrap_or_default();
            entry["type"] == "request"
                && entry["request"]["operation"] == "update"
                && matches!(path, "sys/storage/raft/snapshot" | "sys/storage/raft/snapshot-force")
        };
        entries.filter(posted).count()
    }

    /// How often the movers of a restore have claimed the submission.
    pub async fn claims(&self, restore: &str) -> usize {
        let exchange = self.exchange(restore).await.unwrap_or_default();
        let past = exchange["attempts"]
            .as_array()
            .map_or(0, |all| all.iter().filter(|attempt| !attempt["claim"].is_null()).count());
        past + usize::from(!exchange["claim"].is_null())
    }

    /// Nobody holds the lock and nothing is announced.
    pub async fn free(&self) {
        eventually("the lock is free", Duration::from_secs(60), async || {
            let status = self.cluster().await.status.unwrap_or_default();
            match (status.operation_lock, status.pending_restore) {
                (None, None) => Ok(()),
                held => Err(format!("{held:?}")),
            }
        })
        .await;
    }

    /// Runs a shell line in a pod that mounts the claim at `/store`.
    pub async fn on_claim(&self, script: &str) -> String {
        const POD: &str = "look";
        let pods: Api<k8s_openapi::api::core::v1::Pod> = self.namespace.api();
        if pods.get_opt(POD).await.unwrap().is_none() {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "look", "image": "docker.io/library/busybox:1.36", "command": ["sleep", "7200"],
                    "volumeMounts": [{"name": "store", "mountPath": "/store"}]}],
                "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": "sand"}}]}});
            self.namespace.apply(&pod.to_string()).await;
            self.namespace.kubectl(&["wait", "--for=condition=Ready", "pod/look", "--timeout=240s"]).await;
        }
        self.namespace.kubectl(&["exec", POD, "--", "sh", "-c", script]).await
    }
}

/// A restore's phase and message, for assertions.
pub fn end(restore: &OpenBaoRestore) -> (RestorePhase, String) {
    let status = restore.status.clone().unwrap_or_default();
    (status.phase, status.message)
}

/// The reason of the condition `RestoreComplete`.
pub fn reason(restore: &OpenBaoRestore) -> String {
    let conditions = restore.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|c| c.type_ == "RestoreComplete").map(|c| c.reason.clone()).collect()
}
