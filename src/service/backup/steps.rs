//! The steps of a backup. Each looks first and does the one thing that is missing; what it finds out goes into the
//! journal, what it waits for into the message.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::batch::v1::Job;
use serde::de::DeserializeOwned;

use super::found::Found;
use super::frozen::Frozen;
use super::jobs::{self, Login, Mover, Operation, Source, Task};
use super::key::{self, InUse};
use super::manager::{GATE, HOST, READ_BACK, RETENTION, SNAPSHOT, VERIFY_SEAL, unawaited};
use super::mover::{self, MoverError};
use super::restoretest::{self, manager::TEST};
use super::{aftermath, gate, newest, request, seal};
use crate::adapter::objectstore::keys;
use crate::api::OpenBaoCluster;
use crate::datapath::archive::Inspection;
use crate::datapath::protocol::{BackupDone, Cause, Failure, KEY_TAKEN, MAY_BE_STORED, VerifyDone};
use crate::service::cluster::names;
use crate::service::opslifecycle::{StepCall, StepOutcome};

const TAKES: &str = "takes, verifies and stores a snapshot";
/// A Job ends this long before its step, so that the step can still say how.
pub(super) const JOB_MARGIN: TimeDelta = TimeDelta::seconds(30);

/// Keys of what the steps put out.
pub mod output {
    pub const KEY: &str = "key";
    pub const MANIFEST_KEY: &str = "manifestKey";
    pub const SHA256: &str = "sha256";
    pub const SIZE: &str = "sizeBytes";
    pub const TAKEN_AT: &str = "takenAt";
    pub const SEAL_TYPE: &str = "sealType";
    pub const SEAL_KEY_ID: &str = "sealKeyID";
    pub const VERSION: &str = "version";
    pub const RAFT_INDEX: &str = "raftIndex";
    pub const SEALED_SUMS: &str = "sealedSums";
    pub const SUMS: &str = "sums";
    pub const SEAL: &str = "seal";
    /// What was left undone, and why: the backup itself is good.
    pub const WARNING: &str = "warning";
    /// Why retention was not run: nothing went wrong.
    pub const HELD: &str = "heldBack";
    /// What had to go before a snapshot found room.
    pub const MADE_ROOM: &str = "madeRoom";
    /// Which cluster took what was read, by UID.
    pub const CLUSTER_UID: &str = "clusterUID";
    /// The OpenBao cluster whose data was backed up, by its own id: another one's data may be sealed with another key.
    pub const OPENBAO_CLUSTER_ID: &str = "openbaoClusterID";
}

/// What every step works with.
pub(super) struct Work<'a> {
    pub call: StepCall<'a>,
    pub frozen: Frozen,
    pub operation: Operation,
    /// Which key the servers have now.
    pub key: InUse,
}

pub(super) async fn run(call: StepCall<'_>) -> StepOutcome {
    let frozen = match Frozen::read(call.inputs) {
        Ok(frozen) => frozen,
        Err(error) => return StepOutcome::fatal("InputsUnreadable", error.to_string()),
    };
    let operation = match Operation::of(call.op, &frozen.cluster_uid) {
        Ok(operation) => operation,
        Err(error) => return failed(&error),
    };
    let Some(cluster) = call.cluster.filter(|cluster| mover::uid_of(Some(cluster)) == frozen.cluster_uid) else {
        let name = &call.op.spec.cluster;
        return StepOutcome::fatal("ClusterGone", format!("cluster {name} is gone, or was made again under its name"));
    };
    let key = key::in_use(call.ad, cluster);
    let work = Work { call, frozen, operation, key };
    match call.step.action.as_str() {
        GATE => work.gate(cluster).await,
        SNAPSHOT => work.snapshot(cluster).await,
        READ_BACK => work.read_back().await,
        VERIFY_SEAL => work.verify_seal().await,
        RETENTION => work.retention(cluster).await,
        TEST => restoretest::step::run(&work, cluster).await,
        other => StepOutcome::fatal("PlanMismatch", format!("this operator knows no step {other} of a backup")),
    }
}

impl Work<'_> {
    async fn gate(&self, cluster: &OpenBaoCluster) -> StepOutcome {
        let is_guest = self.call.input(HOST).is_some();
        // A call before this one has left a word of what it waited for.
        let enters = self.call.state.attempt <= 1 && self.call.state.waiting.is_none();
        if is_guest && let Some(ended) = self.unawaited(cluster, enters) {
            return ended;
        }
        gate::run(self, cluster).await
    }

    /// The end of a backup that runs under another one's lock, as soon as nobody waits for it.
    fn unawaited(&self, cluster: &OpenBaoCluster, enters: bool) -> Option<StepOutcome> {
        let lock = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref());
        let why = unawaited(lock, self.call.input(HOST), enters)?;
        Some(StepOutcome::fatal("LockLost", why))
    }

    async fn snapshot(&self, cluster: &OpenBaoCluster) -> StepOutcome {
        let needs_lock = request::role(self.call.op).is_none() && self.call.fence.is_none();
        if needs_lock && let Some(ended) = self.unawaited(cluster, false) {
            return ended;
        }
        let name = self.job_name("snapshot");
        let found = match self.look::<BackupDone>(&name).await {
            Ok(found) => found,
            Err(error) => return failed(&error),
        };
        match found {
            Found::Absent => self.begin_snapshot(cluster, &name).await,
            // What had no room in the pod's last word stands in the report: nothing may be judged by what is missing.
            Found::Done(done) if done.sealed_sums.is_empty() => match self.reported().await {
                Err(error) => failed(&error),
                Ok(Some(reported)) => reported,
                Ok(None) => {
                    StepOutcome::retryable("MoverResultLost", format!("Job {name} is done and its report is gone"))
                }
            },
            Found::Done(done) => self.with_room(self.stored(&done)).await,
            Found::Running { trouble, .. } => running(&name, TAKES, trouble),
            Found::Podless { age } => self.podless(&name, TAKES, age).await,
            Found::Failed(failure) => match may_be_stored(&failure) {
                Some(reason) => self.after_loss(&name, reason, &failure.message).await,
                None if failure.cause == Cause::Auth => of_cause(&self.told_role(cluster, failure)),
                None => of_cause(&self.still_full(cluster, failure).await),
            },
            Found::Foreign => foreign(&name),
            Found::Lost { reason, message } => self.after_loss(&name, reason, &message).await,
        }
    }

    /// With what sets the role under which the Job was refused. One that is shared with restores takes more than its command.
    fn told_role(&self, cluster: &OpenBaoCluster, failure: Failure) -> Failure {
        let subject = names::subject(&self.operation.namespace, &self.frozen.service_account);
        if cluster.spec.shared_role().is_some() { failure } else { with_role(failure, &self.frozen.login, &subject) }
    }

    async fn begin_snapshot(&self, cluster: &OpenBaoCluster, name: &str) -> StepOutcome {
        if self.had_started(name) {
            return self.after_loss(name, "MoverLost", &format!("Job {name} is gone, somebody deleted it")).await;
        }
        let peers = match gate::peers(self.call.ad, cluster).await {
            Ok(peers) => peers,
            Err(why) => return StepOutcome::in_progress(why),
        };
        let print = match seal::fingerprint(self).await {
            Ok(print) => print,
            Err(outcome) => return *outcome,
        };
        if let Some(outcome) = self.make_room(cluster).await {
            return outcome;
        }
        let task = Task::Backup {
            key: &self.frozen.key,
            login: &self.frozen.login,
            peers: &peers,
            expected_size: self.frozen.expected_size,
            spool_limit: self.frozen.spool_limit,
            key_fingerprint: print.as_deref(),
        };
        self.begin(name, task, TAKES).await
    }

    /// The journal of the step says what it cost.
    async fn with_room(&self, outcome: StepOutcome) -> StepOutcome {
        match outcome {
            StepOutcome::Done { mut output } => {
                output.extend(self.room_made().await.map(|room| (output::MADE_ROOM.to_owned(), room)));
                StepOutcome::Done { output }
            }
            other => other,
        }
    }

    pub(super) fn stored(&self, done: &BackupDone) -> StepOutcome {
        if done.key != self.frozen.key {
            let message = format!("the mover stored {}, not the key {} it was given", done.key, self.frozen.key);
            return StepOutcome::fatal("WrongKey", message);
        }
        let mut output = described(&done.inspection, &done.sealed_sums, &done.sums);
        output.insert(output::MANIFEST_KEY, done.manifest_key.clone());
        output.insert(output::KEY, done.key.clone());
        output.insert(output::SHA256, done.sha256.clone());
        output.insert(output::SIZE, done.size_bytes.to_string());
        output.insert(output::TAKEN_AT, done.taken_at.to_rfc3339());
        if !done.openbao_cluster_id.is_empty() {
            output.insert(output::OPENBAO_CLUSTER_ID, done.openbao_cluster_id.clone());
        }
        StepOutcome::done_with(output)
    }

    pub(super) fn verified(&self, done: &VerifyDone, taken_at: Option<DateTime<Utc>>) -> StepOutcome {
        let mut output = described(&done.inspection, &done.sealed_sums, &done.sums);
        output.insert(output::KEY, done.key.clone());
        output.insert(output::SHA256, done.sha256.clone());
        output.insert(output::SIZE, done.size_bytes.to_string());
        if done.manifest {
            output.insert(output::MANIFEST_KEY, keys::manifest_key(&done.key));
        }
        if !done.cluster_uid.is_empty() {
            output.insert(output::CLUSTER_UID, done.cluster_uid.clone());
        }
        output.extend(taken_at.map(|at| (output::TAKEN_AT, at.to_rfc3339())));
        StepOutcome::done_with(output)
    }

    async fn read_back(&self) -> StepOutcome {
        let name = self.job_name("verify");
        let what = "reads a stored backup again from end to end";
        match self.look::<VerifyDone>(&name).await {
            Err(error) => failed(&error),
            Ok(Found::Absent) => {
                let source = self.to_read();
                self.begin(&name, Task::Verify { source: &source }, what).await
            }
            Ok(Found::Running { trouble, .. }) => running(&name, what, trouble),
            Ok(Found::Podless { age }) => self.podless(&name, what, age).await,
            Ok(Found::Done(done)) => self.verified(&done, None),
            Ok(Found::Failed(failure)) => of_cause(&failure),
            // It only reads: nothing can be left behind.
            Ok(Found::Lost { reason, message }) => StepOutcome::retryable(reason, message),
            Ok(Found::Foreign) => foreign(&name),
        }
    }

    /// What this attempt reads. Retention goes on beside a verification, so the newest may be another one each time.
    pub(super) fn to_read(&self) -> Source {
        if let Some(named @ Source::Key(_)) = &self.frozen.source {
            return named.clone();
        }
        let operations = self.call.ad.caches.operations_of(&self.operation.namespace, &self.operation.cluster);
        newest::own_key(&self.frozen, operations.iter().map(AsRef::as_ref)).map_or(Source::Latest, Source::Key)
    }

    async fn verify_seal(&self) -> StepOutcome {
        let verification = request::is_verification(self.call.op);
        let step = if verification { READ_BACK } else { SNAPSHOT };
        // What was only read is never removed.
        let ordered = if verification { Ok(false) } else { self.was_made(aftermath::DISCARD).await };
        let ordered = match ordered {
            Ok(ordered) => ordered,
            Err(error) => return failed(&error),
        };
        let verdict = seal::prove(self, &seal::Proof::of(|name| self.call.output(step, name))).await;
        match seal::stands(verdict, ordered) {
            Ok(verdict) => {
                if verification {
                    super::stamp::verified(self, self.call.output(step, output::KEY).unwrap_or_default()).await;
                }
                StepOutcome::done_with([(output::SEAL, verdict)])
            }
            Err(seal::Refused::Unreadable(outcome)) => *outcome,
            // What was only read stays: it may be all there is.
            Err(seal::Refused::NotProven { reason, message }) if verification => StepOutcome::fatal(reason, message),
            Err(seal::Refused::NotProven { reason, message }) => self.discard(reason, &message).await,
        }
    }

    /// Makes a Job, its channel first.
    pub(super) async fn begin(&self, name: &str, task: Task<'_>, what: &str) -> StepOutcome {
        if self.call.deadline - JOB_MARGIN <= self.call.now {
            return StepOutcome::retryable("DeadlineExceeded", format!("no time is left for Job {name}"));
        }
        if let Task::Prune(orders) = &task
            && let Some(why) = orders.excess()
        {
            return StepOutcome::retryable("OrdersTooLong", format!("Job {name}, which {what}, was not made: {why}"));
        }
        match self.create(name, task).await {
            Ok(()) => running(name, what, None),
            Err(error) => failed(&error),
        }
    }

    async fn create(&self, name: &str, task: Task<'_>) -> Result<(), MoverError> {
        let account = &self.frozen.service_account;
        mover::open_channel(self.call.ad, &self.operation, account).await?;
        self.start(jobs::job(&self.mover(name, task))).await
    }

    /// What a Job of this step is built from.
    pub(super) fn mover<'b>(&'b self, name: &'b str, task: Task<'b>) -> Mover<'b> {
        Mover {
            operation: &self.operation,
            name,
            task,
            store: &self.frozen.store,
            image: &self.frozen.image,
            image_pull_secrets: &self.frozen.image_pull_secrets,
            service_account: &self.frozen.service_account,
            max_expanded: self.call.cluster.and_then(jobs::max_expanded),
            deadline: self.call.deadline - JOB_MARGIN,
            now: self.call.now,
        }
    }

    pub(super) async fn start(&self, job: Result<Job, serde_json::Error>) -> Result<(), MoverError> {
        let job = job.map_err(|source| MoverError::Json(self.operation.name.clone(), source))?;
        mover::start(self.call.ad, &self.operation, &job).await
    }

    pub(super) async fn look<T: DeserializeOwned>(&self, name: &str) -> Result<Found<T>, MoverError> {
        mover::look(self.call.ad, &self.operation, name, self.call.now).await
    }

    pub(super) fn job_name(&self, what: &str) -> String {
        jobs::attempt_name(&self.operation.name, what, self.call.state.attempt)
    }

    pub(super) fn attempts(&self) -> i32 {
        self.call.step.retry_policy.as_ref().and_then(|policy| policy.max_attempts).unwrap_or(3)
    }

    /// Whether this attempt has already waited for a Job of this name: then its absence is a loss, not a beginning.
    pub(super) fn had_started(&self, name: &str) -> bool {
        self.call.state.waiting.as_ref().is_some_and(|waiting| waiting.contains(&format!("Job {name} ")))
    }
}

/// What an archive shows, as output of a step.
fn described(inspection: &Inspection, sealed_sums: &str, sums: &str) -> BTreeMap<&'static str, String> {
    let mut output = BTreeMap::from([
        (output::SEAL_TYPE, inspection.seal.kind.clone()),
        (output::RAFT_INDEX, inspection.raft_index.to_string()),
        (output::SEALED_SUMS, sealed_sums.to_owned()),
        (output::SUMS, sums.to_owned()),
    ]);
    output.extend(inspection.seal.key_id.clone().map(|id| (output::SEAL_KEY_ID, id)));
    output.extend(inspection.highest_version().map(|version| (output::VERSION, version.to_string())));
    output
}

pub(super) fn running(name: &str, what: &str, trouble: Option<String>) -> StepOutcome {
    StepOutcome::in_progress(match trouble {
        Some(trouble) => format!("Job {name} {what}; its pod does not run: {trouble}"),
        None => format!("Job {name} {what}"),
    })
}

pub(super) fn foreign(name: &str) -> StepOutcome {
    StepOutcome::fatal(
        "ForeignJob",
        format!("Job {name} exists and is not of this operation: delete it, then ask again"),
    )
}

pub(super) fn failed(error: &MoverError) -> StepOutcome {
    let message = error.text();
    if error.is_final() {
        StepOutcome::fatal("KubernetesRefused", message)
    } else if error.is_over_quota() {
        // By attempts and not by time: nothing holds the cluster's lock while somebody makes room.
        StepOutcome::retryable("KubernetesRefused", message)
    } else {
        // Nothing was tried yet that could count as an attempt: look again.
        StepOutcome::in_progress(message)
    }
}

/// The reason of a failure after which the backup may stand in the store all the same: its manifest was written, the answer
/// to that was lost, and so was the attempt to take it away again. This attempt says so, or the next one finds its key
/// taken. What stands there is looked at like what a dead mover left.
fn may_be_stored(failure: &Failure) -> Option<&'static str> {
    [KEY_TAKEN, MAY_BE_STORED].into_iter().find(|reason| failure.reason == *reason)
}

/// A token that was refused is its owner's to mend; a role can be set by anybody who may.
fn with_role(failure: Failure, login: &Login, subject: &str) -> Failure {
    if login.token_secret.is_some() {
        return failure;
    }
    let Login { mount, role, audience, .. } = login;
    let command = names::role_command(mount, role, names::BACKUP_ROLE, audience, subject);
    let message = format!(
        "{}. If the role is missing, or is for others (docs/backup.md, \"With a role of your own\"): {command}",
        failure.message
    );
    Failure { message, ..failure }
}

/// Each cause calls for another remedy; what no repetition can mend ends the operation at once.
pub(super) fn of_cause(failure: &Failure) -> StepOutcome {
    let (reason, retryable) = match failure.cause {
        Cause::Config => ("MoverConfig", false),
        Cause::Auth => ("OpenBaoAuth", true),
        Cause::Leader => ("OpenBaoLeader", true),
        Cause::Store => ("ObjectStore", true),
        Cause::Integrity => ("SnapshotIntegrity", true),
        Cause::Space => ("ScratchSpace", false),
        Cause::Deadline => ("DeadlineExceeded", true),
        Cause::Kubernetes => ("KubernetesAPI", true),
        Cause::Cancelled => ("MoverStopped", true),
        Cause::Io => ("MoverIO", true),
        Cause::Claimed | Cause::NotGranted | Cause::Refused | Cause::Unknown | Cause::Rehearsal => {
            ("MoverProtocol", false)
        }
    };
    let message = match failure.reason.as_str() {
        "" => failure.message.clone(),
        detail => format!("{detail}: {}", failure.message),
    };
    StepOutcome::Failed { reason, message, retryable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::error::MoverError;

    #[test]
    fn a_backup_that_may_stand_in_the_store_is_looked_for_and_after_other_failures_nothing_is() {
        let key = "reef/kelp/a.snap".to_owned();
        let taken = MoverError::KeyTaken { key: key.clone() };
        assert_eq!(may_be_stored(&taken.failure()), Some(KEY_TAKEN));
        let source = Box::new(MoverError::Deadline("the manifest was written"));
        let unsure = MoverError::MayBeStored { key, left: "no answer".into(), source };
        assert_eq!(may_be_stored(&unsure.failure()), Some(MAY_BE_STORED));
        assert_eq!(may_be_stored(&MoverError::Config("no target".into()).failure()), None);
    }

    #[test]
    fn a_refused_role_is_told_with_what_sets_it_and_a_refused_token_is_not() {
        let login = |token: Option<&str>| Login {
            mount: "jwt".into(),
            role: "team".into(),
            audience: "openbao:reef/kelp".into(),
            ca_config_map: None,
            token_secret: token.map(str::to_owned),
        };
        let refused = || Failure { cause: Cause::Auth, reason: String::new(), message: "no".into() };
        let told = |token| with_role(refused(), &login(token), "system:serviceaccount:reef:kelp-backup").message;
        for part in [
            "bao write auth/jwt/role/team role_type=jwt",
            "bound_audiences=openbao:reef/kelp",
            "bound_subject=system:serviceaccount:reef:kelp-backup token_policies=openbao-operator-backup",
        ] {
            assert!(told(None).contains(part), "{part} in {}", told(None));
        }
        assert_eq!(told(Some("mine")), "no");
    }

    #[test]
    fn what_a_repetition_cannot_mend_ends_at_once_and_the_reason_names_the_cause() {
        let outcome = |cause| of_cause(&Failure { cause, reason: "Detail".into(), message: "words".into() });
        for (cause, expected, again) in [
            (Cause::Auth, "OpenBaoAuth", true),
            (Cause::Leader, "OpenBaoLeader", true),
            (Cause::Store, "ObjectStore", true),
            (Cause::Integrity, "SnapshotIntegrity", true),
            (Cause::Deadline, "DeadlineExceeded", true),
            (Cause::Space, "ScratchSpace", false),
            (Cause::Config, "MoverConfig", false),
        ] {
            let StepOutcome::Failed { reason, message, retryable } = outcome(cause) else { panic!("not failed") };
            assert_eq!((reason, retryable, message.as_str()), (expected, again, "Detail: words"));
        }
    }
}
