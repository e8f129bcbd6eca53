//! What a restore's status shows of its operation's journal and of the mover's progress. Pure.

use chrono::{DateTime, TimeDelta, Utc};

use super::super::plan;
use super::super::steps::{judge, submit};
use crate::adapter::kubernetes::time::from_kube;
use crate::api::{
    ObservedSource, OpenBaoOperationStatus, OpenBaoRestore, OpenBaoRestoreStatus, ProofKind, RestoreDurations,
    RestoreProof, StepStatus, TransferProgress, VERSIONS_SHOWN,
};
use crate::datapath::protocol::Progress;

/// The journal of one step.
pub(super) fn step<'a>(operation: &'a OpenBaoOperationStatus, name: &str) -> Option<&'a StepStatus> {
    operation.steps.iter().find(|step| step.name == name)
}

/// What a step put out.
pub(super) fn output<'a>(operation: &'a OpenBaoOperationStatus, name: &str, key: &str) -> Option<&'a str> {
    step(operation, name)?.output.get(key).map(String::as_str)
}

/// How far the mover is with its bytes.
pub(super) fn transfer(progress: &Progress) -> TransferProgress {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let known = progress.total_bytes > 0;
    TransferProgress {
        bytes: number(progress.bytes),
        total_bytes: known.then(|| number(progress.total_bytes)),
        percent: known.then(|| {
            let percent = progress.bytes.saturating_mul(100) / progress.total_bytes.max(1);
            i32::try_from(percent.min(100)).unwrap_or(100)
        }),
    }
}

/// The snapshot, as it was judged.
pub(super) fn source(operation: &OpenBaoOperationStatus) -> Option<ObservedSource> {
    let judged = |key| output(operation, plan::JUDGE, key);
    Some(ObservedSource {
        key: judged(judge::KEY)?.to_owned(),
        sha256: judged(judge::SHA256).map(str::to_owned),
        size_bytes: judged(judge::SIZE).and_then(|text| text.parse().ok()),
        versions: judged(judge::VERSIONS).map(newest).unwrap_or_default(),
        seal_type: judged(judge::SEAL_TYPE).map(str::to_owned),
        seal_key_id: judged(judge::SEAL_KEY_ID).map(str::to_owned),
        taken_at: judged(judge::TAKEN_AT).and_then(instant),
        cluster: judged(judge::ORIGIN).map(str::to_owned),
    })
}

/// Of a list of versions, in their order, as many as a status holds.
fn newest(list: &str) -> Vec<String> {
    let surplus = list.split(',').count().saturating_sub(VERSIONS_SHOWN);
    list.split(',').skip(surplus).map(str::to_owned).collect()
}

fn instant(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.with_timezone(&Utc))
}

/// How it was proven that the snapshot was applied.
pub(super) fn proof(operation: &OpenBaoOperationStatus) -> Option<RestoreProof> {
    let proven = |key| output(operation, plan::SUBMIT, key);
    let kind = match proven(submit::PROOF)? {
        "Marker" => ProofKind::Marker,
        "ClusterID" => ProofKind::ClusterID,
        "Login" => ProofKind::Login,
        _ => return None,
    };
    let text = proven(submit::PROOF_TEXT).unwrap_or_default().to_owned();
    Some(RestoreProof { kind, at: proven(submit::PROOF_AT).and_then(instant)?, text })
}

/// How long each part took, from the journal's own times.
pub(super) fn durations(
    restore: &OpenBaoRestore,
    status: &OpenBaoRestoreStatus,
    operation: &OpenBaoOperationStatus,
) -> Option<RestoreDurations> {
    let started = |name: &str| step(operation, name).and_then(|step| step.started_at);
    let ended = |name: &str| step(operation, name).and_then(|step| step.completed_at);
    let between = |from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>| Some(words(to? - from?));
    let created = restore.metadata.creation_timestamp.as_ref().map(from_kube);
    let submitted = output(operation, plan::SUBMIT, submit::SUBMITTED_AT).and_then(instant);
    let answered = output(operation, plan::SUBMIT, submit::ANSWERED_AT).and_then(instant);
    let proven = output(operation, plan::SUBMIT, submit::PROOF_AT).and_then(instant);
    let durations = RestoreDurations {
        validate: between(status.start_time, ended(plan::JUDGE)),
        download: between(started(plan::PREFLIGHT), ended(plan::PREFLIGHT)),
        wait: between(ended(plan::JUDGE), operation.lock.as_ref().map(|lock| lock.acquired_at)),
        submit: between(submitted, answered),
        apply: between(answered.or(submitted), proven),
        restart: between(started(plan::RESTART_VOTERS), ended(plan::AWAIT_HEALTHY)),
        total: between(created, status.completion_time),
    };
    (durations != RestoreDurations::default()).then_some(durations)
}

/// `3.2s`, as people write durations.
fn words(duration: TimeDelta) -> String {
    let tenths = duration.num_milliseconds().max(0) / 100;
    format!("{}.{}s", tenths / 10, tenths % 10)
}
