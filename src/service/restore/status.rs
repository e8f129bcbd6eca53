//! What a restore's status says, derived from its spec, its operation's journal and the mover's progress. Pure: the same
//! inputs give the same status, so that nothing is written when nothing changed.

mod shown;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use shown::{durations, output, proof, source, step, transfer};

use super::decide::Refused;
use super::decide::phase::{forward, phase_of};
use super::plan;
use super::steps::{access, away, safety};
use crate::adapter::kubernetes::time::to_kube;
use crate::api::common::forget_old_answers;
use crate::api::conditions::{reason, restore as kind};
use crate::api::{
    HandledRequest, OpenBaoOperationStatus, OpenBaoRestore, OpenBaoRestoreStatus, OperationPhase, RestorePhase,
    StepState,
};
use crate::datapath::protocol::Progress;
use crate::service::cluster::names;

/// The status of a restore that was admitted, before its operation has begun.
pub fn admitted(restore: &OpenBaoRestore, cluster_uid: Option<String>, now: DateTime<Utc>) -> OpenBaoRestoreStatus {
    let mut status = begun(restore, now);
    status.phase = forward(status.phase, RestorePhase::Validating);
    status.message = format!("the operation to start{}", passed_over(restore));
    status.cluster_uid = status.cluster_uid.or(cluster_uid);
    status.operation = Some(plan::operation_name(restore));
    set_complete(restore, &mut status, "Unknown", reason::IN_PROGRESS, now);
    status
}

/// The status of a restore that waits for something that is missing.
pub fn waiting(
    restore: &OpenBaoRestore,
    cluster_uid: Option<String>,
    message: &str,
    now: DateTime<Utc>,
) -> OpenBaoRestoreStatus {
    let mut status = begun(restore, now);
    status.message = format!("waiting: {message}");
    status.cluster_uid = status.cluster_uid.or(cluster_uid);
    set_complete(restore, &mut status, "Unknown", reason::WAITING, now);
    status
}

/// The status of a restore that ended before its operation began.
pub fn refused(restore: &OpenBaoRestore, why: &Refused, now: DateTime<Utc>) -> OpenBaoRestoreStatus {
    let mut status = begun(restore, now);
    status.phase = forward(status.phase, RestorePhase::Failed);
    status.message.clone_from(&why.message);
    status.stage.clear();
    status.completion_time = status.completion_time.or(Some(now));
    set_complete(restore, &mut status, "False", why.reason, now);
    status
}

fn begun(restore: &OpenBaoRestore, now: DateTime<Utc>) -> OpenBaoRestoreStatus {
    let mut status = restore.status.clone().unwrap_or_default();
    status.start_time = status.start_time.or(Some(now));
    status.observed_generation = restore.metadata.generation;
    status
}

/// The same without what follows from an object in a store, which somebody else may have written.
pub fn bare(status: OpenBaoRestoreStatus) -> OpenBaoRestoreStatus {
    OpenBaoRestoreStatus { progress: None, source: None, durations: None, ..status }
}

/// The status as the operation's journal and the mover's progress say it is.
pub fn mirror(
    restore: &OpenBaoRestore,
    operation: &OpenBaoOperationStatus,
    progress: Option<&Progress>,
    now: DateTime<Utc>,
) -> OpenBaoRestoreStatus {
    let mut status = begun(restore, now);
    status.proof = proof(operation).or(status.proof);
    // Completed means proven.
    let unproven = phase_of(operation) == RestorePhase::Completed && !restore.spec.dry_run && status.proof.is_none();
    status.phase = forward(status.phase, if unproven { RestorePhase::Failed } else { phase_of(operation) });
    if let Some(message) = &operation.message {
        status.message.clone_from(message);
    }
    if unproven {
        UNPROVEN.clone_into(&mut status.message);
    }
    let running = operation.steps.iter().find(|step| step.state == StepState::Running);
    running.map_or(BETWEEN_STEPS, |step| step.name.as_str()).clone_into(&mut status.stage);
    let transferring = running.is_some_and(|step| step.name == plan::PREFLIGHT || step.name == plan::PLACE_MARKER);
    status.progress = progress.filter(|_| transferring).map(transfer);
    status.source = source(operation).or(status.source);
    status.pre_restore_backup =
        output(operation, plan::SAFETY_BACKUP, safety::KEY).map(str::to_owned).or(status.pre_restore_backup);
    answers(restore, &mut status, &operation.handled_requests);
    if status.phase.is_terminal() {
        status.stage.clear();
        status.completion_time = status.completion_time.or(operation.ended_at).or(Some(now));
    }
    if status.phase == RestorePhase::Completed {
        status.message = success(restore, &status) + &left_open(restore, operation) + passed_over(restore);
    }
    status.durations = durations(restore, &status, operation);
    let word = match status.phase {
        RestorePhase::Completed => ("True", reason::RESTORE_SUCCEEDED),
        RestorePhase::Failed => ("False", reason::RESTORE_FAILED),
        RestorePhase::Unknown => ("Unknown", reason::RESTORE_UNKNOWN),
        RestorePhase::Pending | RestorePhase::Validating | RestorePhase::Running => ("Unknown", reason::IN_PROGRESS),
    };
    set_complete(restore, &mut status, word.0, word.1, now);
    if let Some(replaced) = operation.lock.as_ref().and_then(|lock| lock.replaced.as_ref()) {
        let message = format!("took the cluster's lock over from {replaced}");
        set(restore, &mut status, kind::LOCK_OVERRIDE, "True", reason::OPERATION_LOCK_OVERRIDDEN, &message, now);
    }
    match output(operation, plan::VERIFY_ACCESS, access::ACCESS) {
        Some("true") => {
            let message = "the operator logs in to the restored data with its own identity";
            set(restore, &mut status, kind::OPERATOR_ACCESS, "True", reason::LOGIN_WORKS, message, now);
        }
        Some(_) => {
            let message = step(operation, plan::VERIFY_ACCESS).map(|step| access::remedy_in(&step.output));
            let message = message.unwrap_or_default();
            set(restore, &mut status, kind::OPERATOR_ACCESS, "False", reason::LOGIN_FAILED, &message, now);
        }
        None => {}
    }
    status
}

/// The message of an operation that succeeded as no restore of ours does.
const UNPROVEN: &str = "the operation succeeded, and its record holds no proof that the snapshot was applied: look at the \
                        cluster's data, and create another restore if it is not the snapshot's";

/// The stage of a restore whose operation has no step under way: it has not begun, tries again in a moment, or cleans up.
const BETWEEN_STEPS: &str = "Waiting";

/// Whether the status tells of the operation itself. If that is not there any more, somebody deleted it, and it is not made again;
/// one that never was is.
pub fn has_seen_operation(restore: &OpenBaoRestore) -> bool {
    restore.status.as_ref().is_some_and(|status| !status.stage.is_empty() || status.source.is_some())
}

/// What a person wants to read at the end.
fn success(restore: &OpenBaoRestore, status: &OpenBaoRestoreStatus) -> String {
    let key = status.source.as_ref().map_or("the snapshot", |source| source.key.as_str());
    match (&status.proof, restore.spec.dry_run) {
        (_, true) => format!("{key} could be restored; this was a dry run and nothing was changed"),
        (Some(proof), false) => format!("{key} is restored: {}", proof.text),
        (None, false) => format!("{key} is restored"),
    }
}

/// Who was not there at the end, with what may still have to be done about it.
fn left_open(restore: &OpenBaoRestore, operation: &OpenBaoOperationStatus) -> String {
    let namespace = restore.namespace().unwrap_or_default();
    let absent = output(operation, plan::AWAIT_HEALTHY, away::ABSENT).map(|pods| {
        let typed = pods.split(", ").map(|pod| format!("`{}`", names::join_anew_command(&namespace, pod)));
        let typed = typed.collect::<Vec<_>>().join(", ");
        format!(
            ". Not there at the end: {pods}. What was down takes the restored data over by itself only where the snapshot is of this \
             very cluster and younger than the last change of raft's key, which comes about once a day. Otherwise it serves, once it \
             is back, what its volume holds, and never follows: delete its volume claim and its pod then, so that it joins empty: \
             {typed}. Should it stay sealed, delete its pod once"
        )
    });
    let was_left_out = step(operation, plan::AWAIT_HEALTHY).is_some_and(|step| step.state == StepState::Skipped);
    let unseen =
        was_left_out.then(|| ". That every server follows was not waited for: AwaitHealthy was left out".to_owned());
    absent.or(unseen).unwrap_or_default()
}

/// What of the spec had no effect.
fn passed_over(restore: &OpenBaoRestore) -> &'static str {
    if restore.spec.names_a_foreign_helper() {
        ". spec.image is not used: it names a helper image of the Go operator, which cannot run this operator's Job"
    } else {
        ""
    }
}

/// Takes over the operation's answers to requests that stand in this restore.
fn answers(restore: &OpenBaoRestore, status: &mut OpenBaoRestoreStatus, handled: &[HandledRequest]) {
    let asked = |nonce: &str| restore.spec.requests.iter().any(|request| request.nonce == nonce);
    for answer in handled.iter().filter(|answer| asked(&answer.nonce)) {
        answer_with(restore, status, answer.clone());
    }
}

/// Adds an answer, once per nonce; the oldest go.
pub fn answer_with(restore: &OpenBaoRestore, status: &mut OpenBaoRestoreStatus, answer: HandledRequest) {
    match status.handled_requests.iter_mut().find(|known| known.nonce == answer.nonce) {
        Some(known) => *known = answer,
        None => status.handled_requests.push(answer),
    }
    let stands = |nonce: &str| restore.spec.requests.iter().any(|request| request.nonce == nonce);
    forget_old_answers(&mut status.handled_requests, stands);
}

fn set_complete(
    restore: &OpenBaoRestore,
    status: &mut OpenBaoRestoreStatus,
    word: &str,
    reason: &str,
    now: DateTime<Utc>,
) {
    let message = status.message.clone();
    set(restore, status, kind::COMPLETE, word, reason, &message, now);
}

/// Sets a condition; its transition time moves only when its status does.
fn set(
    restore: &OpenBaoRestore,
    status: &mut OpenBaoRestoreStatus,
    type_: &str,
    word: &str,
    reason: &str,
    message: &str,
    now: DateTime<Utc>,
) {
    let before = status.conditions.iter().find(|condition| condition.type_ == type_);
    let since = before.filter(|before| before.status == word).map(|before| before.last_transition_time.clone());
    let condition = Condition {
        type_: type_.to_owned(),
        status: word.to_owned(),
        reason: reason.to_owned(),
        // Conditions hold 32 KiB; ours are a few sentences.
        message: message.chars().take(4096).collect(),
        observed_generation: restore.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| to_kube(now)),
    };
    status.conditions.retain(|other| other.type_ != type_);
    status.conditions.push(condition);
    status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

/// Whether an operation has waited longer than this for the lock with its snapshot in hand.
pub fn waits_for_lock_since(operation: &OpenBaoOperationStatus) -> Option<DateTime<Utc>> {
    if operation.phase != OperationPhase::Running || operation.lock.is_some() {
        return None;
    }
    step(operation, plan::JUDGE).filter(|judge| judge.state == StepState::Completed)?.completed_at
}

/// The name of the restore's own operation, if it has got that far.
pub fn operation_of(restore: &OpenBaoRestore) -> Option<String> {
    restore.status.as_ref()?.operation.clone().filter(|_| restore.uid().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::kubernetes::time::from_kube;
    use crate::api::{LockRecord, ProofKind, Request, RequestAction, RequestOutcome, StepStatus, VERSIONS_SHOWN};
    use crate::datapath::protocol::Stage;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + seconds, 0).unwrap()
    }

    fn restore() -> OpenBaoRestore {
        let mut restore = OpenBaoRestore::new("rollback", crate::api::OpenBaoRestoreSpec::default());
        restore.metadata.uid = Some("r-uid".into());
        restore.metadata.generation = Some(1);
        restore.metadata.creation_timestamp = Some(to_kube(at(0)));
        restore
    }

    fn done(name: &str, from: i64, to: i64, output: &[(&str, &str)]) -> StepStatus {
        StepStatus {
            name: name.to_owned(),
            state: StepState::Completed,
            started_at: Some(at(from)),
            completed_at: Some(at(to)),
            output: output.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..StepStatus::default()
        }
    }

    fn journal() -> OpenBaoOperationStatus {
        let judged = [("key", "a.snap"), ("sha256", "ab"), ("sizeBytes", "7"), ("versions", "2.6.1,2.7.2")];
        let proven = [
            ("proof", "Marker"),
            ("proofText", "gone"),
            ("proofAt", "2026-11-18T11:26:58.000Z"),
            ("submittedAt", "2026-11-18T11:26:50.000Z"),
            ("answeredAt", "2026-11-18T11:26:51.500Z"),
        ];
        OpenBaoOperationStatus {
            phase: OperationPhase::Succeeded,
            message: Some("done".into()),
            lock: Some(LockRecord { acquired_at: at(9), ..LockRecord::default() }),
            ended_at: Some(at(40)),
            steps: vec![
                done(plan::PREFLIGHT, 1, 5, &[]),
                done(plan::JUDGE, 5, 6, &judged),
                done(plan::SAFETY_BACKUP, 9, 11, &[("preRestoreBackup", "b.snap")]),
                done(plan::SUBMIT, 11, 20, &proven),
                done(plan::RESTART_VOTERS, 20, 30, &[]),
                done(plan::AWAIT_HEALTHY, 30, 35, &[]),
                done(
                    plan::VERIFY_ACCESS,
                    35,
                    36,
                    &[("operatorAccess", "false"), ("operatorAccessRemedy", "type this")],
                ),
            ],
            ..OpenBaoOperationStatus::default()
        }
    }

    #[test]
    fn a_finished_operation_becomes_a_complete_record() {
        let mut restore = restore();
        restore.status = Some(admitted(&restore, Some("c-uid".into()), at(0)));
        let status = mirror(&restore, &journal(), None, at(50));
        let mut record =
            crate::api::OpenBaoOperation::new("restore-rollback", crate::api::OpenBaoOperationSpec::default());
        record.status = Some(journal());
        for known in crate::adapter::remembered::testing::whole_and_remembered([&record]) {
            let journal = known[0].status.as_ref().unwrap();
            assert_eq!(mirror(&restore, journal, None, at(50)), status, "also by what is remembered of its operation");
        }
        assert_eq!((status.phase, status.completion_time), (RestorePhase::Completed, Some(at(40))));
        assert_eq!(status.message, "a.snap is restored: gone");
        let source = status.source.unwrap();
        assert_eq!((source.key.as_str(), source.size_bytes, source.versions.len()), ("a.snap", Some(7), 2));
        assert_eq!(status.proof.unwrap().kind, ProofKind::Marker);
        assert_eq!(status.pre_restore_backup.as_deref(), Some("b.snap"));
        let durations = status.durations.unwrap();
        let texts = [&durations.download, &durations.wait, &durations.submit, &durations.apply, &durations.restart];
        assert_eq!(texts.map(|text| text.as_deref().unwrap()), ["4.0s", "3.0s", "1.5s", "6.5s", "15.0s"]);
        assert_eq!(durations.total.as_deref(), Some("40.0s"));
        let access = status.conditions.iter().find(|c| c.type_ == kind::OPERATOR_ACCESS).unwrap();
        assert_eq!((access.status.as_str(), access.message.as_str()), ("False", "type this"));
    }

    #[test]
    fn an_operation_that_succeeded_without_a_proof_is_no_restore() {
        let mut journal = journal();
        journal.steps.retain(|step| step.name != plan::SUBMIT);
        let mut restore = restore();
        let status = mirror(&restore, &journal, None, at(50));
        assert_eq!(status.phase, RestorePhase::Failed);
        assert!(status.message.contains("no proof"), "{}", status.message);
        restore.spec.dry_run = true;
        assert_eq!(mirror(&restore, &journal, None, at(50)).phase, RestorePhase::Completed, "it sent nothing");
    }

    #[test]
    fn a_restore_that_is_completed_names_the_servers_that_were_not_there() {
        let mut journal = journal();
        let mut restore = restore();
        restore.metadata.namespace = Some("reef".into());
        let of = |journal: &OpenBaoOperationStatus| mirror(&restore, journal, None, at(50));
        journal.steps[5].output.insert(away::ABSENT.into(), "kelp-2".into());
        let status = of(&journal);
        assert_eq!(status.phase, RestorePhase::Completed);
        assert!(
            status.message.starts_with("a.snap is restored: gone. Not there at the end: kelp-2."),
            "{}",
            status.message
        );
        let typed = "`kubectl --namespace reef delete pvc/data-kelp-2 pod/kelp-2`";
        assert!(status.message.contains("only where") && status.message.contains(typed), "{}", status.message);
        journal.steps[5] = StepStatus { state: StepState::Skipped, ..done(plan::AWAIT_HEALTHY, 30, 35, &[]) };
        let message = of(&journal).message;
        assert!(message.ends_with("AwaitHealthy was left out"), "{message}");
    }

    #[test]
    fn a_snapshot_that_names_more_versions_than_a_status_holds_shows_the_newest() {
        let mut journal = journal();
        let all: Vec<String> = (0..100).map(|n| format!("0.0.{n}")).collect();
        journal.steps[1].output.insert("versions".into(), all.join(","));
        let versions = mirror(&restore(), &journal, None, at(50)).source.unwrap().versions;
        assert_eq!(versions.len(), VERSIONS_SHOWN);
        assert_eq!(versions.last().map(String::as_str), Some("0.0.99"));
        let status = bare(mirror(&restore(), &journal, None, at(50)));
        assert_eq!((status.phase, status.source, status.durations), (RestorePhase::Completed, None, None));
    }

    #[test]
    fn an_image_that_is_passed_over_is_told_at_the_beginning_and_at_the_end() {
        let mut restore = restore();
        restore.spec.image = Some("ghcr.io/dc-tec/openbao-operator-backup:0.1.0".into());
        for status in [admitted(&restore, None, at(0)), mirror(&restore, &journal(), None, at(50))] {
            assert!(status.message.contains("spec.image is not used"), "{}", status.message);
        }
        restore.spec.image = Some("mirror/openbao-operator:1".into());
        assert_eq!(admitted(&restore, None, at(0)).message, "the operation to start");
    }

    #[test]
    fn the_same_journal_gives_the_same_status_so_nothing_is_written_twice() {
        let mut restore = restore();
        restore.status = Some(mirror(&restore, &journal(), None, at(50)));
        assert_eq!(restore.status, Some(mirror(&restore, &journal(), None, at(99))));
        let mut waits = self::restore();
        waits.status = Some(waiting(&waits, None, "for Godot", at(1)));
        assert_eq!(waits.status, Some(waiting(&waits, None, "for Godot", at(30))));
    }

    #[test]
    fn progress_is_shown_while_bytes_move_and_forgotten_afterwards() {
        let progress = Progress { stage: Stage::Download, bytes: 50, total_bytes: 200, at: at(2) };
        let mut journal = OpenBaoOperationStatus { phase: OperationPhase::Running, ..Default::default() };
        journal.steps =
            vec![StepStatus { name: plan::PREFLIGHT.into(), state: StepState::Running, ..StepStatus::default() }];
        let status = mirror(&restore(), &journal, Some(&progress), at(3));
        assert_eq!(status.progress.unwrap().percent, Some(25));
        assert_eq!(status.stage, plan::PREFLIGHT);
        assert_eq!(mirror(&restore(), &self::journal(), Some(&progress), at(3)).progress, None);
    }

    #[test]
    fn an_operation_that_was_deleted_is_not_made_again_and_one_that_was_never_made_is() {
        let mut restore = restore();
        assert!(!has_seen_operation(&restore));
        restore.status = Some(admitted(&restore, Some("c-uid".into()), at(0)));
        assert!(!has_seen_operation(&restore), "cut off before it was made");
        restore.status = Some(waiting(&restore, None, "a quota", at(1)));
        assert!(!has_seen_operation(&restore), "not let in");
        let failed = StepStatus { name: plan::PREFLIGHT.into(), state: StepState::Failed, ..StepStatus::default() };
        for (phase, steps) in [(OperationPhase::Pending, vec![]), (OperationPhase::Recovering, vec![failed])] {
            let journal = OpenBaoOperationStatus { phase, steps, ..OpenBaoOperationStatus::default() };
            let mut seen = restore.clone();
            seen.status = Some(mirror(&restore, &journal, None, at(2)));
            assert!(has_seen_operation(&seen), "{phase:?}");
        }
    }

    #[test]
    fn a_refusal_is_an_end_with_its_reason_and_time() {
        let status = refused(&restore(), &Refused::new("KeyInvalid", "write it so"), at(5));
        assert_eq!((status.phase, status.completion_time), (RestorePhase::Failed, Some(at(5))));
        assert_eq!((status.conditions[0].reason.as_str(), status.message.as_str()), ("KeyInvalid", "write it so"));
    }

    #[test]
    fn a_conditions_time_moves_only_with_its_status() {
        let mut restore = restore();
        restore.status = Some(waiting(&restore, None, "a", at(1)));
        restore.status = Some(waiting(&restore, None, "b", at(9)));
        let condition = &restore.status.as_ref().unwrap().conditions[0];
        assert_eq!(from_kube(&condition.last_transition_time), at(1));
        let status = refused(&restore, &Refused::new("X", "y"), at(20));
        assert_eq!(from_kube(&status.conditions[0].last_transition_time), at(20));
    }

    #[test]
    fn answers_are_taken_over_for_our_own_requests_only_and_bounded() {
        let mut restore = restore();
        restore.spec.requests =
            vec![Request { nonce: "mine".into(), action: RequestAction::Cancel, ..Request::default() }];
        let answer = |nonce: &str| HandledRequest {
            nonce: nonce.into(),
            action: RequestAction::Cancel,
            outcome: RequestOutcome::Applied,
            ..HandledRequest::default()
        };
        let mut journal = journal();
        journal.handled_requests = vec![answer("mine"), answer("another's")];
        let mut status = mirror(&restore, &journal, None, at(50));
        assert_eq!(status.handled_requests.len(), 1);
        for i in 0..50 {
            answer_with(&restore, &mut status, answer(&i.to_string()));
        }
        assert_eq!(status.handled_requests.len(), 20);
    }

    #[test]
    fn an_operation_waits_for_the_lock_between_verdict_and_lock() {
        let mut journal = journal();
        journal.phase = OperationPhase::Running;
        assert_eq!(waits_for_lock_since(&journal), None);
        journal.lock = None;
        assert_eq!(waits_for_lock_since(&journal), Some(at(6)));
        journal.steps.truncate(1);
        assert_eq!(waits_for_lock_since(&journal), None);
    }
}
