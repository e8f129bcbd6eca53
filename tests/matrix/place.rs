//! Where cells run: a namespace, an operator in it that can be killed, and the OpenBao cluster that it looks after.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::rules::Rules;
use crate::harness::{Audit, Cluster, Namespace, Operator};
use crate::restore::setup::{Bay, PEOPLE};

/// How long nothing may have been written before an operation counts as settled.
const QUIET: Duration = Duration::from_millis(1500);

/// An audit device, by which the effects in OpenBao are counted.
const DEVICE: &str = "
    - name: trail
      operation: update
      path: sys/audit/trail
      auditDevice: {type: file, fileOptions: {filePath: /openbao/data/trail.log}}";

/// Where the servers keep their audit log.
const TRAIL: &str = "/openbao/data/trail.log";

/// A cluster of the matrix; `extra` are more lines of its spec.
pub fn manifest(name: &str, replicas: u32, version: &str, extra: &str) -> String {
    format!(
        "apiVersion: openbao.org/v1alpha1\nkind: OpenBaoCluster\nmetadata: {{name: {name}}}\nspec:\n  \
         version: {version}\n  replicas: {replicas}\n  storage: {{size: 1Gi}}\n  deletionPolicy: DeletePVCs\n  \
         tls: {{enabled: true}}\n  configuration: {{unsafeAllowAPIAuditCreation: true}}\n  selfInit:\n    enabled: true\n    oidc: {{enabled: true}}\n    \
         requests:{DEVICE}{PEOPLE}  {extra}\n"
    )
}

/// Backups to the claim `sand`.
pub const TO_CLAIM: &str = "backup: {target: {provider: file, file: {claimName: sand}}}";

/// The claim itself.
pub const CLAIM: &str = crate::restore::setup::CLAIM;

/// A namespace with one operator, whose faults are ours.
pub struct Place {
    // Gone before the namespace: it would put its finalizer back on what is cleared away, and the namespace would stay for ever.
    pub operator: Option<Operator>,
    pub namespace: Namespace,
    pub rules: Rules,
    extra: Vec<(String, String)>,
}

impl Place {
    /// A namespace and an operator in it.
    pub async fn open(what: &str) -> Self {
        Self::with(what, &[]).await
    }

    /// The same with more variables for the operator.
    pub async fn with(what: &str, extra: &[(&str, &str)]) -> Self {
        let cluster = Cluster::get().await;
        let namespace = cluster.namespace(what).await;
        let rules = Rules::new(&namespace);
        let extra = extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut place = Self { namespace, rules, operator: None, extra };
        place.revive().await;
        place
    }

    /// Another operator in the same namespace, steered by the same rules.
    pub async fn another(&self) -> Operator {
        let rules = self.rules.path();
        // Alone by arrangement: a killed operator's lease would keep the next one waiting for 15 s in every cell.
        let mut variables = vec![("OPENBAO_FAULT_RULES", rules.as_str()), ("OPENBAO_LEADER_ELECT", "false")];
        variables.extend(self.extra.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        Operator::start(&self.namespace, &variables).await
    }

    /// Starts the operator if it is dead; `true` if it was.
    pub async fn revive(&mut self) -> bool {
        if self.operator.as_mut().is_some_and(Operator::runs) {
            return false;
        }
        // Faults are for its first life: the second one shows whether it recovers.
        self.rules.clear();
        self.operator = Some(self.another().await);
        true
    }

    /// The cluster of that name, if it was applied.
    pub fn bay(&self, name: &str) -> Bay<'_> {
        Bay { namespace: &self.namespace, name: name.to_owned() }
    }

    /// Waits until the operator writes nothing any more. Fails after `limit`.
    pub async fn settled(&self, limit: Duration) -> Result<(), String> {
        let user = format!("system:serviceaccount:{}:", self.namespace.name());
        let start = Instant::now();
        loop {
            let audit = self.namespace.cluster().audit();
            tokio::time::sleep(QUIET).await;
            let writes: Vec<_> = audit
                .requests(&user)
                .into_iter()
                .filter(|request| request.writes() && lasting(&request.resource))
                .collect();
            if writes.is_empty() {
                return Ok(());
            }
            if start.elapsed() > limit {
                return Err(format!("the operator still writes: {writes:?}"));
            }
        }
    }

    /// Every object of this namespace that an operation could leave behind or spoil, by kind and name.
    pub async fn objects(&self) -> BTreeMap<String, Value> {
        const KINDS: &str = "jobs,pods,configmaps,secrets,serviceaccounts,roles.rbac.authorization.k8s.io,\
                             rolebindings.rbac.authorization.k8s.io,services,statefulsets,persistentvolumeclaims,\
                             poddisruptionbudgets,openbaoclusters.openbao.org,openbaooperations.openbao.org,\
                             openbaorestores.openbao.org,openbaorollouts.openbao.org";
        let text = self.namespace.kubectl(&["get", KINDS, "-o", "json"]).await;
        let list: Value = serde_json::from_str(&text).expect("a list");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items
            .into_iter()
            .map(|item| {
                let kind = item["kind"].as_str().unwrap_or_default().to_lowercase();
                (format!("{kind}/{}", item["metadata"]["name"].as_str().unwrap_or_default()), item)
            })
            .filter(|(name, _)| name != "pod/look" && name != "configmap/kube-root-ca.crt")
            .collect()
    }

    /// How many objects of a resource were created in this namespace within a window of the API server's audit log.
    pub fn created(&self, audit: &Audit, resource: &str) -> usize {
        let all = audit.requests("").into_iter();
        all.filter(|request| request.namespace == self.namespace.name() && request.resource == resource)
            .filter(|request| request.verb == "create" && request.code == 201)
            .count()
    }

    /// Requests in one server's audit log whose line contains all of these.
    pub async fn requests_at(&self, pod: &str, words: &[&str]) -> usize {
        let said = self.namespace.kubectl(&["exec", pod, "-c", "openbao", "--", "cat", TRAIL]).await;
        said.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }
}

/// What the fault layer counts as a write.
fn lasting(resource: &str) -> bool {
    !["leases", "events", "serviceaccounts/token"].contains(&resource) && !resource.ends_with("reviews")
}
