//! `unlock`: a lock whose holder is gone. What is not safe is explained and refused, here and by the operator again.

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::connection::Connection;
use super::request::{ask, nonce};
use super::table::span;
use super::view::operation::{current_step, phase_of};
use super::{Error, confirm, here, tell};
use crate::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationLock, Request, RequestAction};

/// What can be said about the lock.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Free,
    /// Its holder lives: releasing it could let two change the cluster at once. The text says what to do instead.
    Alive(String),
    /// No object with the holder's UID exists.
    Orphan,
}

pub async fn run(connection: &Connection, cluster: &str, yes: bool, reason: &str) -> Result<(), Error> {
    let (now, _) = here();
    let object: OpenBaoCluster = connection.get(cluster).await?;
    let operations: Vec<OpenBaoOperation> = connection.list(false).await?;
    let restores: Vec<OpenBaoRestore> = connection.list(false).await?;
    let lock = object.status.as_ref().and_then(|status| status.operation_lock.clone());
    match (judge(lock.as_ref(), &operations, &restores), lock) {
        (Verdict::Free, _) | (_, None) => tell(connection, &object, &format!("the lock of {cluster} is free")),
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
    if let Some(operation) = operations.iter().find(|operation| operation.metadata.uid.as_deref() == uid) {
        let name = operation.name_any();
        let phase = phase_of(operation);
        let step = operation.status.as_ref().and_then(|status| current_step(&status.steps));
        let at = step.map(|step| format!(" at step {}", step.name)).unwrap_or_default();
        return Verdict::Alive(match phase {
            crate::api::OperationPhase::Unknown => format!(
                "operation {name} holds it and waits for a person: kubectl openbao resume {name} proves its outcome \
                 again, kubectl openbao abandon {name} gives it up and releases the lock"
            ),
            phase if phase.is_terminal() => {
                format!("operation {name} ended as {}; the operator releases its lock by itself", phase.as_str())
            }
            phase => format!(
                "operation {name} is {}{at} and holds it: wait for it, or stop it with kubectl openbao cancel {name}",
                phase.as_str()
            ),
        });
    }
    if let Some(restore) = restores.iter().find(|restore| restore.metadata.uid.as_deref() == uid) {
        let name = restore.name_any();
        return Verdict::Alive(format!(
            "restore {name} holds it: wait for it, or stop it with kubectl openbao cancel restore/{name}"
        ));
    }
    Verdict::Orphan
}

fn explain(cluster: &str, lock: &OperationLock, now: DateTime<Utc>) -> String {
    format!(
        "The lock of {cluster} is held for {} by {} since {} ({} ago), and no object with its UID {} exists any more.\n\
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
