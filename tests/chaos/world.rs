//! The clusters, the store and the operator, and every way in which the run disturbs them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use openbao_operator::api::{
    OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationKind, OperationPhase, RestorePhase,
};
use rustix::process::Signal;
use serde_json::json;

use super::oracle::{Oracle, Restored};
use crate::harness::{Namespace, Operator, Own, Store, eventually};
use crate::restore::setup::{Bay, manifest};

const VERSIONS: [&str; 5] = ["2.6.1", "2.6.2", "2.7.0", "2.7.1", "2.7.2"];
/// How long everything may take to come to rest once nothing dies any more.
const CALM: Duration = Duration::from_secs(600);

struct Island {
    name: String,
    replicas: u32,
    /// Index of the version asked for last.
    version: usize,
    token: Option<String>,
    oracle: Oracle,
}

/// Dropped in this order: the node goes last.
pub struct World {
    namespace: Namespace,
    operator: Operator,
    islands: Vec<Island>,
    restores: usize,
    told: BTreeMap<&'static str, usize>,
    secrets: usize,
    own: Own,
}

impl World {
    /// The store, the operator, and so many clusters, the first of them with three servers.
    pub async fn open(clusters: usize) -> Self {
        let own = Own::start("chaos").await;
        own.cluster().apply_kinds().await;
        let namespace = own.cluster().namespace("chaos").await;
        let store = Store::start(&namespace).await;
        namespace.apply(&store.secret("s3-credentials")).await;
        let operator = Operator::start(&namespace, &[]).await;
        let target = "backup: {target: {provider: file, file: {claimName: sand}}}\n";
        let islands: Vec<Island> = (0..clusters)
            .map(|index| Island {
                name: format!("isle-{index}"),
                replicas: if index == 0 { 3 } else { 1 },
                version: 0,
                token: None,
                oracle: Oracle::default(),
            })
            .collect();
        for island in &islands {
            let text = manifest(&island.name, island.replicas, VERSIONS[0], "upgrade: {soak: 1s}");
            let backup = format!(
                "backup: {{schedule: '* * * * *', retention: {{keepLast: 4}}, target: {{provider: s3, endpoint: \"{}\", bucket: {}, \
                 usePathStyle: true, credentialsSecretRef: {{name: s3-credentials}}}}}}\n",
                store.endpoint(),
                store.bucket
            );
            namespace.apply(&text.replace(target, &backup)).await;
        }
        let world = Self { namespace, operator, islands, restores: 0, told: BTreeMap::new(), secrets: 0, own };
        for island in &world.islands {
            world.bay(&island.name).whole(island.replicas).await;
        }
        world
    }

    fn bay(&self, name: &str) -> Bay<'_> {
        Bay { namespace: &self.namespace, name: name.to_owned() }
    }

    fn tell(&mut self, what: &'static str, detail: &str) {
        *self.told.entry(what).or_default() += 1;
        eprintln!("chaos {} {what} {detail}", Utc::now().format("%H:%M:%S"));
    }

    /// Writes secrets into every cluster for a while. A write that is not acknowledged says nothing.
    pub async fn write_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for index in 0..self.islands.len() {
                self.secrets += 1;
                let (name, secret) = (self.islands[index].name.clone(), format!("s{}", self.secrets));
                let bay = Bay { namespace: &self.namespace, name };
                let began = Utc::now();
                let token = match self.islands[index].token.clone() {
                    Some(token) => Some(token),
                    None => bay.try_login().await,
                };
                let acknowledged = match &token {
                    Some(token) => bay.try_put(token, &secret, &secret).await,
                    None => false,
                };
                // A token that does not work any more may have gone with a restore.
                self.islands[index].token = token.filter(|_| acknowledged);
                if acknowledged {
                    self.islands[index].oracle.acknowledge(&secret, began, Utc::now());
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    pub async fn kill_operator(&mut self, pause: Duration) {
        self.tell("operator killed", &format!("for {} ms", pause.as_millis()));
        self.operator.kill();
        tokio::time::sleep(pause).await;
        self.operator = Operator::start(&self.namespace, &[]).await;
    }

    pub async fn kill_server(&mut self, cluster: usize, which: u32) {
        let island = &self.islands[cluster];
        let pod = format!("{}-{}", island.name, which % island.replicas);
        self.force(&pod).await;
        self.tell("server killed", &pod);
    }

    pub async fn kill_job(&mut self, which: usize) {
        let pods: Api<Pod> = self.namespace.api();
        let listed = pods.list(&ListParams::default().labels("openbao.org/operation")).await;
        let running: Vec<String> = listed
            .map(|list| list.items)
            .unwrap_or_default()
            .into_iter()
            .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Succeeded"))
            .map(|pod| pod.name_any())
            .collect();
        if let Some(pod) = running.get(which % running.len().max(1)) {
            self.force(pod).await;
            self.tell("Job's pod killed", pod);
        }
    }

    async fn force(&self, pod: &str) {
        let words = ["delete", "pod", pod, "--grace-period=0", "--force", "--wait=false", "--ignore-not-found"];
        self.namespace.kubectl(&words).await;
    }

    /// Its container ends and is started again on the same data.
    pub async fn kill_store(&mut self) {
        let cluster = self.namespace.cluster();
        let name = self.namespace.name();
        cluster.inside(&["kubectl", "-n", name, "exec", "deployment/s3", "--", "kill", "1"]).await;
        self.tell("store ended", "");
    }

    /// Kubernetes' own: the API server or containerd. It is started again at once, and the run goes on when it answers.
    pub async fn kill_node_program(&mut self, program: &'static str) {
        self.own.signal(program, Signal::KILL);
        self.tell("node's program killed", program);
        eventually("the node is ready again", Duration::from_secs(120), async || {
            let cluster = self.namespace.cluster();
            for words in [&["kubectl", "get", "--raw", "/readyz"][..], &["ctr", "version"]] {
                let output = cluster.inside(words).await;
                if !output.status.success() {
                    return Err(String::from_utf8_lossy(&output.stderr).into_owned());
                }
            }
            Ok(())
        })
        .await;
    }

    /// One of the newest backups back into its cluster.
    pub async fn restore(&mut self, cluster: usize, which: usize) {
        let name = self.islands[cluster].name.clone();
        let backups = self.backups(&name).await;
        let newest: Vec<_> = backups.iter().rev().take(3).collect();
        let Some((key, _)) = newest.get(which % newest.len().max(1)) else { return };
        self.restores += 1;
        let restore = format!("rescue-{}", self.restores);
        self.bay(&name)
            .restore(&restore, json!({"source": {"key": key}, "preRestoreBackup": which.is_multiple_of(2)}))
            .await;
        self.tell("restore asked for", &format!("{restore} of {name}"));
    }

    pub async fn upgrade(&mut self, cluster: usize) {
        let island = &mut self.islands[cluster];
        if island.version + 1 == VERSIONS.len() {
            return;
        }
        island.version += 1;
        let (name, version) = (island.name.clone(), VERSIONS[island.version]);
        let patch = json!({"spec": {"version": version}}).to_string();
        self.namespace.kubectl(&["patch", "bao", &name, "--type=merge", "-p", &patch]).await;
        self.tell("upgrade asked for", &format!("{name} to {version}"));
    }

    /// Succeeded backups of a cluster by key, with the time before which they had not begun; oldest first.
    async fn backups(&self, cluster: &str) -> Vec<(String, DateTime<Utc>)> {
        let all = self.namespace.api::<OpenBaoOperation>().list(&ListParams::default()).await.expect("the operations");
        let mut backups: Vec<_> = all
            .items
            .into_iter()
            .filter(|op| op.spec.cluster == cluster && op.spec.operation == OperationKind::Backup)
            .filter_map(|op| {
                let status = op.status?;
                let key = status.artifacts?.key?;
                (status.phase == OperationPhase::Succeeded).then_some((key, status.started_at?))
            })
            .collect();
        backups.sort_by_key(|(_, began)| *began);
        backups
    }

    /// Nothing dies any more, schedules are suspended, and everything comes to its end.
    pub async fn calm(&mut self) {
        if !self.operator.runs() {
            self.operator = Operator::start(&self.namespace, &[]).await;
        }
        for island in &self.islands {
            let patch = r#"{"spec":{"backup":{"suspend":true}}}"#;
            self.namespace.kubectl(&["patch", "bao", &island.name, "--type=merge", "-p", patch]).await;
        }
        eprintln!("chaos {} calm: {:?}", Utc::now().format("%H:%M:%S"), self.told);
        eventually("every operation and restore ends", CALM, async || {
            let operations = self.namespace.api::<OpenBaoOperation>().list(&ListParams::default()).await;
            let restores = self.namespace.api::<OpenBaoRestore>().list(&ListParams::default()).await;
            let operations = operations.map_err(|error| error.to_string())?.items.into_iter().filter_map(|op| {
                let status = op.status.clone().unwrap_or_default();
                (!status.phase.is_terminal())
                    .then(|| format!("{} {:?}: {:?}", op.name_any(), status.phase, status.message))
            });
            let restores = restores.map_err(|error| error.to_string())?.items.into_iter().filter_map(|restore| {
                let status = restore.status.clone().unwrap_or_default();
                let over = status.phase.is_terminal() || status.phase == RestorePhase::Unknown;
                (!over).then(|| format!("{} {:?}: {}", restore.name_any(), status.phase, status.message))
            });
            let open: Vec<String> = operations.chain(restores).collect();
            if open.is_empty() { Ok(()) } else { Err(open.join("; ")) }
        })
        .await;
        for island in &self.islands {
            let bay = self.bay(&island.name);
            bay.whole(island.replicas).await;
            bay.free().await;
            eventually("the version asked for last is there", CALM, async || {
                let status = bay.cluster().await.status.unwrap_or_default();
                let held = status.upgrade.as_ref().and_then(|upgrade| upgrade.held_target.clone());
                if status.current_version.as_deref() == Some(VERSIONS[island.version]) || held.is_some() {
                    Ok(())
                } else {
                    Err(format!("{:?}, asked for {}", status.current_version, VERSIONS[island.version]))
                }
            })
            .await;
        }
    }

    /// What must be true at the end.
    pub async fn judge(&self) {
        let restores = self.namespace.api::<OpenBaoRestore>().list(&ListParams::default()).await.expect("the restores");
        let mut summary = Vec::new();
        let mut wrong = Vec::new();
        for island in &self.islands {
            let bay = self.bay(&island.name);
            let began: BTreeMap<String, DateTime<Utc>> = self.backups(&island.name).await.into_iter().collect();
            let mine: Vec<_> = restores.items.iter().filter(|restore| restore.spec.cluster == island.name).collect();
            let mut effective = Vec::new();
            for restore in &mine {
                let status = restore.status.clone().unwrap_or_default();
                if status.phase == RestorePhase::Unknown {
                    wrong.push(format!("{}: nobody knows how it ended: {}", restore.name_any(), status.message));
                }
                if status.phase != RestorePhase::Completed {
                    summary.push(format!("{}: {:?}: {}", restore.name_any(), status.phase, status.message));
                    continue;
                }
                let key = status.source.map(|source| source.key).unwrap_or_default();
                let operation = status.operation.unwrap_or_default();
                let operation = self.namespace.api::<OpenBaoOperation>().get(&operation).await.expect("its operation");
                let ended = operation.status.and_then(|status| status.ended_at).expect("its end");
                effective.push(Restored { backup_began: began[&key], ended });
            }
            let token = bay.login().await;
            let there = bay.list(&token).await;
            let (lost, explained) = island.oracle.unexplained(|secret| there.contains(secret), &effective);
            summary.push(format!(
                "{}: {} secrets acknowledged, {} there, {explained} gone with {} of {} restores, {} lost",
                island.name,
                island.oracle.count(),
                island.oracle.count() - explained - lost.len(),
                effective.len(),
                mine.len(),
                lost.len()
            ));
            wrong.extend(lost.into_iter().map(|secret| format!("{}: {secret} is gone", island.name)));
        }
        wrong.extend(self.left_over().await);
        let operations = self.namespace.api::<OpenBaoOperation>().list(&ListParams::default()).await.expect("them");
        let mut ends: BTreeMap<String, usize> = BTreeMap::new();
        for op in &operations.items {
            let phase = op.status.as_ref().map(|status| status.phase).unwrap_or_default();
            *ends.entry(format!("{:?} {phase:?}", op.spec.operation)).or_default() += 1;
            if phase.is_terminal() && phase != OperationPhase::Succeeded {
                let message = op.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or_default();
                summary.push(format!("{}: {phase:?}: {message}", op.name_any()));
            }
        }
        eprintln!("chaos: {:?}\n{}\noperations: {ends:?}", self.told, summary.join("\n"));
        if !wrong.is_empty() {
            self.namespace.keep_evidence();
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Jobs, volumes, objects and parts of uploads that belong to nothing.
    async fn left_over(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let jobs = self.namespace.api::<Job>().list(&ListParams::default()).await.expect("the Jobs");
        for job in &jobs.items {
            if job.status.as_ref().is_some_and(|status| status.active.unwrap_or_default() > 0) {
                wrong.push(format!("Job {} still runs", job.name_any()));
            }
        }
        let claims = self.namespace.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.expect("claims");
        let servers: u32 = self.islands.iter().map(|island| island.replicas).sum();
        if claims.items.len() != servers as usize {
            wrong.push(format!("{} claims for {servers} servers", claims.items.len()));
        }
        let clusters = self.namespace.api::<OpenBaoCluster>().list(&ListParams::default()).await.expect("the clusters");
        for cluster in &clusters.items {
            if cluster.status.as_ref().is_some_and(|status| status.operation_lock.is_some()) {
                wrong.push(format!("{} is locked", cluster.name_any()));
            }
        }
        let objects = self.objects("/buckets/backups").await;
        let snapshots: BTreeSet<&str> =
            objects.iter().filter(|key| key.ends_with(".snap")).map(String::as_str).collect();
        for object in &objects {
            let of = object.strip_suffix(".manifest.json").or_else(|| object.strip_suffix(".deleting"));
            let whole = match of {
                Some(snapshot) => snapshots.contains(snapshot) && !object.ends_with(".deleting"),
                None => {
                    let listed = objects.contains(&format!("{object}.manifest.json"));
                    (object.ends_with(".snap") && listed) || object.ends_with(".pin")
                }
            };
            if !whole {
                wrong.push(format!("object {object} belongs to nothing"));
            }
        }
        wrong
    }

    /// Every object of the store, and every part of an upload, by path.
    async fn objects(&self, folder: &str) -> Vec<String> {
        let script =
            format!("printf 'fs.meta.save -v -o /tmp/meta {folder}\\n' | weed shell -master localhost:9333 2>&1");
        let said = self.namespace.kubectl(&["exec", "deployment/s3", "--", "sh", "-c", &script]).await;
        // One line per entry: folders end with a slash.
        said.lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with(folder)))
            .filter(|path| path.rsplit('/').next().is_some_and(|name| name.contains('.')))
            .map(str::to_owned)
            .collect()
    }
}
