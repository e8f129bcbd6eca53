//! `unlock`: a lock whose holder is gone. What is not safe is explained and refused, here and by the operator again.

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::connection::Connection;
use super::follow::Ended;
use super::request::{ask, nonce};
use super::table::span;
use super::view::operation::{current_step, phase_of};
use super::{Error, confirm, here, tell};
use crate::api::{
    OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationLock, OperationPhase, Request, RequestAction,
    RestorePhase,
};
use crate::service::opslifecycle::saga::{COMPENSATION_FAILED, DELETED_UNKNOWN};

/// What can be said about the lock.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Free,
    /// Its holder lives: releasing it could let two change the cluster at once. The text says what to do instead.
    Alive(String),
    /// Nobody stands behind it: no object with the holder's UID exists, or it is a restore that has ended.
    Orphan,
}

pub async fn run(connection: &Connection, cluster: &str, yes: bool, reason: &str) -> Result<Ended, Error> {
    let (now, _) = here();
    let object: OpenBaoCluster = connection.get(cluster).await?;
    let operations: Vec<OpenBaoOperation> = connection.list(false).await?;
    let restores: Vec<OpenBaoRestore> = connection.list(false).await?;
    let lock = object.status.as_ref().and_then(|status| status.operation_lock.clone());
    match (judge(lock.as_ref(), &operations, &restores), lock) {
        (Verdict::Free, _) | (_, None) => {
            tell(connection, &object, &format!("the lock of {cluster} is free"))?;
            Ok(Ended::Well)
        }
        (Verdict::Alive(what), Some(_)) => Err(Error::Refused(what)),
        (Verdict::Orphan, Some(lock)) => {
            eprintln!("{}", explain(cluster, &lock, now));
            if !yes {
                confirm("Release it?")?;
            }
            ask::<OpenBaoCluster>(connection, cluster, release(&lock, reason, connection.user())).await
        }
    }
}

fn judge(lock: Option<&OperationLock>, operations: &[OpenBaoOperation], restores: &[OpenBaoRestore]) -> Verdict {
    let Some(lock) = lock else { return Verdict::Free };
    let uid = Some(lock.holder_uid.as_str());
    let restore = restores.iter().find(|restore| restore.metadata.uid.as_deref() == uid);
    // One that has ended holds nothing: its operation may be gone without having given the lock back.
    match restore.map(|restore| (restore.name_any(), restore_phase(restore))) {
        Some((name, RestorePhase::Unknown)) => {
            return Verdict::Alive(format!("restore {name} holds it and {}", for_a_person(&format!("restore/{name}"))));
        }
        Some((name, phase)) if !phase.is_terminal() => {
            return Verdict::Alive(format!(
                "restore {name} holds it: wait for it, or stop it with kubectl openbao cancel restore/{name}"
            ));
        }
        Some(_) | None => {}
    }
    let works = operations.iter().find(|operation| operation.works_under(&lock.holder_uid));
    works.map_or(Verdict::Orphan, |operation| Verdict::Alive(held_by(operation)))
}

fn restore_phase(restore: &OpenBaoRestore) -> RestorePhase {
    restore.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// What ends an operation that exists and has the lock.
fn held_by(operation: &OpenBaoOperation) -> String {
    let name = operation.name_any();
    let phase = phase_of(operation);
    let status = operation.status.as_ref();
    let step = status.and_then(|status| current_step(&status.steps));
    let at = step.map(|step| format!(" at step {}", step.name)).unwrap_or_default();
    match (phase, status.and_then(|status| status.reason.as_deref())) {
        (OperationPhase::Unknown, _) => format!("operation {name} holds it and {}", for_a_person(&name)),
        (phase, Some(COMPENSATION_FAILED)) if phase.is_terminal() => format!(
            "operation {name} could not be undone and keeps it until a person has looked: put right what kubectl openbao op \
             {name} shows, then say kubectl openbao abandon {name}, which releases the lock"
        ),
        (phase, Some(DELETED_UNKNOWN)) if phase.is_terminal() => format!(
            "operation {name} was deleted while its outcome was unknown and keeps it: check the cluster, and ask again when its \
             object is gone"
        ),
        (phase, _) if phase.is_terminal() => {
            format!("operation {name} ended as {}; the operator releases its lock by itself", phase.as_str())
        }
        (phase, _) => format!(
            "operation {name} is {}{at} and holds it: wait for it, or stop it with kubectl openbao cancel {name}",
            phase.as_str()
        ),
    }
}

fn for_a_person(name: &str) -> String {
    format!(
        "waits for a person: kubectl openbao resume {name} proves its outcome again, kubectl openbao abandon {name} gives it up \
         and releases the lock"
    )
}

fn explain(cluster: &str, lock: &OperationLock, now: DateTime<Utc>) -> String {
    format!(
        "The lock of {cluster} is held for {} by {} since {} ({} ago); that object, UID {}, has ended or is gone.\n\
         The operator releases it unless a Job of it still runs. If it had begun to change data, check the cluster first.",
        lock.operation,
        lock.holder,
        lock.acquired_at.format("%Y-%m-%d %H:%M:%S UTC"),
        span(now - lock.acquired_at),
        lock.holder_uid,
    )
}

/// Names exactly this lock: one that was taken since is another.
fn release(lock: &OperationLock, reason: &str, by: &str) -> Request {
    Request {
        nonce: nonce(),
        action: RequestAction::Release,
        step: String::new(),
        reason: reason.to_owned(),
        by: by.to_owned(),
        holder_uid: Some(lock.holder_uid.clone()),
        fence: Some(lock.fence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> OperationLock {
        serde_saphyr::from_str(
            "{operation: Backup, holder: openbaocluster/backup, holderUID: u1, fence: 4, \
             acquiredAt: '2026-11-21T11:00:00Z', renewedAt: '2026-11-21T11:00:00Z'}",
        )
        .unwrap()
    }

    fn holder(uid: &str, phase: &str) -> OpenBaoOperation {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: fern-backup-1, uid: {uid}}}\nspec: {{cluster: fern, operation: Backup}}\nstatus: {{phase: {phase}}}"
        ))
        .unwrap()
    }

    fn refused(phase: &str) -> String {
        match judge(Some(&lock()), &[holder("u1", phase)], &[]) {
            Verdict::Alive(text) => text,
            other => panic!("{phase}: {other:?}"),
        }
    }

    #[test]
    fn a_lock_with_a_living_holder_is_refused_with_the_way_out() {
        assert!(refused("Running").contains("cancel fern-backup-1"));
        assert!(refused("Unknown").contains("abandon fern-backup-1"));
        assert!(refused("Failed").contains("releases its lock by itself"));
        let mut kept = holder("u1", "Failed");
        kept.status.as_mut().unwrap().reason = Some(COMPENSATION_FAILED.into());
        let text = match judge(Some(&lock()), &[kept], &[]) {
            Verdict::Alive(text) => text,
            other => panic!("{other:?}"),
        };
        assert!(text.contains("abandon fern-backup-1") && !text.contains("by itself"), "{text}");
    }

    #[test]
    fn a_restore_that_has_ended_holds_nothing_any_more() {
        let restore = |phase: &str| -> [OpenBaoRestore; 1] {
            [serde_saphyr::from_str(&format!(
                "metadata: {{name: pearl, uid: u1}}\nspec: {{cluster: fern, source: {{key: a.snap}}}}\nstatus: {{phase: {phase}}}"
            ))
            .unwrap()]
        };
        let said = |phase| match judge(Some(&lock()), &[], &restore(phase)) {
            Verdict::Alive(text) => text,
            other => panic!("{phase}: {other:?}"),
        };
        assert!(said("Running").contains("cancel restore/pearl"));
        assert!(said("Unknown").contains("abandon restore/pearl"));
        for phase in ["Failed", "Completed"] {
            assert_eq!(judge(Some(&lock()), &[], &restore(phase)), Verdict::Orphan, "{phase}");
        }
        let mut work = holder("o1", "Unknown");
        let plan = "{steps: [], lock: {operation: Backup, holder: openbaorestore/pearl, holderUid: u1}}";
        work.status.as_mut().unwrap().plan = Some(serde_saphyr::from_str(plan).unwrap());
        let verdict = judge(Some(&lock()), &[work], &restore("Failed"));
        assert!(
            matches!(verdict, Verdict::Alive(text) if text.contains("abandon fern-backup-1")),
            "its work is not done"
        );
    }

    #[test]
    fn a_namesake_with_another_uid_is_not_the_holder() {
        assert_eq!(judge(Some(&lock()), &[holder("u2", "Running")], &[]), Verdict::Orphan);
        assert_eq!(judge(None, &[], &[]), Verdict::Free);
    }

    #[test]
    fn a_release_names_the_holder_and_the_fence_it_saw() {
        let request = release(&lock(), "its object is gone", "ann");
        assert_eq!((request.holder_uid.as_deref(), request.fence), (Some("u1"), Some(4)));
    }
}
