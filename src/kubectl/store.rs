//! What is in the store itself, whatever records there are: a Job of the mover looks, because nobody else holds the
//! store's credentials. It is made with the person's own rights, read, and removed.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use kube::{Resource, ResourceExt};

use super::connection::Connection;
use super::table::{Cell, Paint, Table, Tone, ago, bytes};
use super::view::operation::begun;
use super::{Error, here, say};
use crate::adapter::kubernetes::client::{RequestError, timed};
use crate::api::{OpenBaoCluster, OpenBaoOperation};
use crate::datapath::protocol::{BackupState, ListedBackup};
use crate::datapath::stored::NOTE;
use crate::service::backup::jobs::{self, Mover, Operation, Source, Task};
use crate::service::backup::store::Store;
use crate::service::cluster::names;

/// How long the API server may be away while an answer is awaited.
const AWAY: Duration = Duration::from_secs(30);
/// From the Job's start to its last word. Reading one backup back may take a while.
const LIMIT: TimeDelta = TimeDelta::minutes(15);
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// `backups CLUSTER --from-store`.
pub async fn list(connection: &Connection, cluster: &str, image: Option<String>) -> Result<(), Error> {
    let (now, paint) = here();
    let text = run(connection, cluster, image, &Task::List).await?;
    for note in text.lines().filter(|line| line.starts_with(NOTE)) {
        eprintln!("{note}");
    }
    let found: Vec<ListedBackup> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if let Some(text) = connection.encode(&found)? {
        return say(&text);
    }
    if found.is_empty() {
        eprintln!("there is no backup of {cluster} in its store");
        return Ok(());
    }
    say(&table(found, now, paint))
}

/// `inspect KEY --from-store CLUSTER`: reads it back, checks it, and says what is in it.
pub async fn inspect(connection: &Connection, cluster: &str, key: &str, image: Option<String>) -> Result<(), Error> {
    say(&run(connection, cluster, image, &Task::Inspect { source: &Source::Key(key.to_owned()) }).await?)
}

fn table(mut found: Vec<ListedBackup>, now: DateTime<Utc>, paint: Paint) -> String {
    found.sort_by_key(|backup| std::cmp::Reverse(backup.taken_at));
    let mut table = Table::new(["TAKEN", "SIZE", "KEY", "STATE"]).whole(&["KEY"]);
    for backup in found {
        let (state, tone) = match backup.state {
            BackupState::Complete if backup.pinned => ("complete, pinned", Tone::Good),
            BackupState::Complete => ("complete", Tone::Good),
            BackupState::NoManifest => ("no manifest: not a backup", Tone::Warn),
            BackupState::Deleting => ("being deleted", Tone::Faint),
            BackupState::NoObject => ("its snapshot is missing", Tone::Bad),
        };
        table.row([
            ago(backup.taken_at, now).into(),
            i64::try_from(backup.size_bytes).map(bytes).unwrap_or_default().into(),
            backup.key.into(),
            Cell::toned(state, tone),
        ]);
    }
    table.render(paint)
}

/// Runs the mover once, and returns what it printed.
async fn run(connection: &Connection, cluster: &str, image: Option<String>, task: &Task<'_>) -> Result<String, Error> {
    let object: OpenBaoCluster = connection.get(cluster).await?;
    let operations: Vec<OpenBaoOperation> = connection.list(false).await?;
    let job = describe(&object, &operations, image, task, connection.user(), Utc::now())?;
    let name = job.name_any();
    let api: Api<Job> = connection.objects();
    let write = |source| Error::Write { what: format!("job {name}"), source };
    timed(api.create(&PostParams::default(), &job)).await.map_err(write)?;
    eprintln!("job {name} looks into the store");
    let answer = await_answer(connection, &name).await;
    // Whatever became of it, it is not left behind; its own deadline ends one that cannot be deleted.
    timed(api.delete(&name, &DeleteParams::background())).await.map_err(write)?;
    answer
}

async fn await_answer(connection: &Connection, name: &str) -> Result<String, Error> {
    let (jobs, pods): (Api<Job>, Api<Pod>) = (connection.objects(), connection.objects());
    let deadline = Utc::now() + LIMIT;
    let mut said = String::new();
    let mut answered = Instant::now();
    loop {
        let waiting = match look(&jobs, &pods, name).await {
            Ok(Looked::Ended(answer)) => return answer,
            Ok(Looked::Waiting(why)) => {
                answered = Instant::now();
                why
            }
            Err(source) if source.is_forbidden() || source.is_not_found() || answered.elapsed() > AWAY => {
                return Err(Error::Read { what: format!("job {name}"), source });
            }
            Err(source) => Some(format!("out of sight, trying again: {source}")),
        };
        if let Some(why) = waiting
            && why != said
        {
            eprintln!("waiting: {why}");
            said = why;
        }
        if Utc::now() > deadline {
            return Err(Error::Mover(format!("job {name} gave no answer within {} minutes", LIMIT.num_minutes())));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

enum Looked {
    Ended(Result<String, Error>),
    /// And what keeps it from starting, if that is known.
    Waiting(Option<String>),
}

async fn look(jobs: &Api<Job>, pods: &Api<Pod>, name: &str) -> Result<Looked, RequestError> {
    let status = timed(jobs.get(name)).await?.status.unwrap_or_default();
    let (done, failed) = (status.succeeded.unwrap_or(0) > 0, status.failed.unwrap_or(0) > 0);
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    let pod = timed(pods.list(&selector)).await?.items.into_iter().next();
    if !done && !failed {
        return Ok(Looked::Waiting(pod.as_ref().and_then(stuck)));
    }
    let Some(pod) = pod else {
        return Ok(Looked::Ended(Err(Error::Mover(format!("its pod of job {name} is gone already")))));
    };
    let text = timed(pods.logs(&pod.name_any(), &LogParams::default())).await?;
    Ok(Looked::Ended(if done { Ok(text) } else { Err(Error::Mover(complaint(&text))) }))
}

/// The mover's own sentence among its lines.
fn complaint(log: &str) -> String {
    let line = log.lines().find_map(|line| line.strip_prefix("error: "));
    line.or(log.lines().last()).unwrap_or("the mover failed without a word").to_owned()
}

/// Why a pod does not start, where Kubernetes says so.
fn stuck(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().filter(|reason| reason != "ContainerCreating")?;
    Some(format!("{reason} {}", waiting.message.clone().unwrap_or_default()).trim().to_owned())
}

/// The Job. It belongs to the cluster object, so it goes when that goes.
fn describe(
    cluster: &OpenBaoCluster,
    operations: &[OpenBaoOperation],
    image: Option<String>,
    task: &Task<'_>,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Job, Error> {
    let name = cluster.name_any();
    let Some(backup) = &cluster.spec.backup else {
        return Err(Error::Refused(format!("{name} has no spec.backup: nobody knows where its backups are")));
    };
    let store = Store::freeze(&backup.target).map_err(|error| Error::Refused(error.to_string()))?;
    // The mover's image is the operator's business; what it used last is what it has. An older one may be gone from the registry.
    let movers = operations.iter().filter(|operation| operation.spec.cluster == name).filter_map(|operation| {
        let image = operation.status.as_ref()?.inputs.get("image")?;
        Some((begun(operation), image))
    });
    let known = movers.max_by_key(|(at, _)| *at).map(|(_, image)| image.clone());
    let Some(image) = image.or_else(|| backup.job_image().map(str::to_owned)).or(known) else {
        return Err(Error::Refused(
            "no operation tells which image the mover has: name the operator's with --image".into(),
        ));
    };
    let mut owner = cluster.owner_ref(&()).unwrap_or_default();
    owner.controller = None;
    owner.block_owner_deletion = None;
    let uid = cluster.uid().unwrap_or_default();
    let operation = Operation {
        name: format!("{}-{}", name.chars().take(36).collect::<String>(), now.format("%Y%m%d-%H%M%S")),
        uid: uid.clone(),
        namespace: cluster.namespace().unwrap_or_default(),
        cluster: name.clone(),
        cluster_uid: uid,
        intent: "a look into the store".to_owned(),
        role: String::new(),
        actor: actor.to_owned(),
        owner,
    };
    let job_name = jobs::job_name(&operation.name, task.word());
    jobs::job(&Mover {
        operation: &operation,
        name: &job_name,
        task: task.clone(),
        store: &store,
        image: &image,
        image_pull_secrets: &cluster.spec.image_pull_secrets,
        service_account: &names::backup_service_account(&name),
        max_expanded: jobs::max_expanded(cluster),
        deadline: now + LIMIT,
        now,
    })
    .map_err(|error| Error::Encode(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(backup: &str) -> OpenBaoCluster {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: fern, namespace: vault, uid: u1}}\n\
             spec: {{version: 2.7.2, replicas: 1, storage: {{size: 1Gi}}, tls: {{enabled: true}}{backup}}}"
        ))
        .unwrap()
    }

    const FILE: &str = ", backup: {target: {provider: file, file: {claimName: sand}}}";

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn worked(name: &str, on: &str, at: &str, image: &str) -> OpenBaoOperation {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: {name}}}\nspec: {{cluster: {on}, operation: Backup}}\n\
             status: {{phase: Succeeded, startedAt: '{at}', inputs: {{image: '{image}'}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn the_job_looks_with_the_image_that_was_used_last_may_not_write_and_goes_with_the_cluster() {
        // By name, as they are listed.
        let operations = [
            worked("a-new", "fern", "2026-11-21T03:00:00Z", "mine:1"),
            worked("b-other", "moss", "2026-11-21T04:00:00Z", "theirs:1"),
            worked("z-old", "fern", "2026-05-01T03:00:00Z", "mine:0"),
        ];
        let job = describe(&cluster(FILE), &operations, None, &Task::List, "ann", now()).unwrap();
        let pod = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        assert_eq!(pod.containers[0].image.as_deref(), Some("mine:1"));
        assert_eq!(pod.containers[0].command.as_ref().unwrap()[1], "list");
        let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
        let store = mounts.iter().find(|mount| mount.name == "store").unwrap();
        assert_eq!(store.read_only, Some(true));
        assert_eq!(job.owner_references()[0].kind, "OpenBaoCluster");
        assert_eq!(job.owner_references()[0].controller, None, "no controller of ours takes it for its own");
    }

    #[test]
    fn a_helper_image_of_the_go_operator_runs_no_look_into_the_store() {
        let named = ", backup: {image: 'ghcr.io/a/openbao-operator-backup:v1', target: {provider: file, file: {claimName: sand}}}";
        let image = Some("mine:1".to_owned());
        let told = describe(&cluster(named), &[], None, &Task::List, "ann", now()).unwrap_err().to_string();
        assert!(told.contains("--image"), "{told}");
        assert!(describe(&cluster(named), &[], image, &Task::List, "ann", now()).is_ok());
    }

    #[test]
    fn without_a_target_or_an_image_nothing_is_started() {
        let refused =
            |cluster: &OpenBaoCluster| describe(cluster, &[], None, &Task::List, "ann", now()).unwrap_err().to_string();
        assert!(refused(&cluster("")).contains("has no spec.backup"));
        assert!(refused(&cluster(FILE)).contains("--image"));
    }

    #[test]
    fn what_is_in_the_store_is_listed_newest_first_with_what_it_is_worth() {
        let listed = |key: &str, day: u8, state: BackupState| ListedBackup {
            key: key.to_owned(),
            taken_at: format!("2026-11-{day}T12:00:00Z").parse().unwrap(),
            size_bytes: 2048,
            state,
            pinned: false,
            manifest: None,
        };
        let all = vec![listed("old.snap", 19, BackupState::NoManifest), listed("new.snap", 20, BackupState::Complete)];
        let text = table(all, now(), Paint::Off);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("new.snap  complete"), "{text}");
        assert!(lines[2].contains("old.snap  no manifest: not a backup"), "{text}");
    }

    #[test]
    fn of_a_movers_words_its_complaint_is_told() {
        assert_eq!(complaint("reading\nerror: the bucket is gone\n{\"failed\":1}"), "the bucket is gone");
    }
}
