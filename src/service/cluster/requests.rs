//! What a person asks of a cluster: to release a lock whose holder is gone. (`Retry` is the upgrade manager's.)
//!
//! A lock is never released by time, so this is the way out that makes sure that nothing can lock a cluster for ever. It is
//! granted only for exactly the lock that the request names, and only if the API server knows no object with the holder's UID.

use super::maintain;
use crate::{
    adapter::{
        Adapters,
        kubernetes::events::{News, Severity},
    },
    api::{
        HandledRequest, OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationLock, Request, RequestAction,
        RequestOutcome,
    },
    service::opslifecycle::{
        AuditEvent, Fields, Released,
        audit::flat,
        log_phase_transition,
        override_lock::{ReleaseError, clear_orphan},
        release_on_request,
    },
};
use chrono::{DateTime, Utc};
use kube::ResourceExt;

/// Why a request could not be answered yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock could not be released.
    #[error("failed to release the lock of the cluster")]
    Release(#[from] ReleaseError),
}

/// What a request comes to, before anything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Clear the lock with this fence, if its holder is gone.
    Clear(i64),
    /// Nothing to do, and why.
    Answer(RequestOutcome, String),
}

/// Judges one request against the lock as it is. Pure.
pub fn judge(request: &Request, lock: Option<&OperationLock>) -> Verdict {
    let refused = |why: String| Verdict::Answer(RequestOutcome::Refused, why);
    if request.action != RequestAction::Release {
        return refused(format!(
            "a cluster understands Release and Retry, not {:?}: ask the operation itself",
            request.action
        ));
    }
    let (Some(uid), Some(fence)) = (&request.holder_uid, request.fence) else {
        return refused("Release needs holderUID and fence as status.operationLock shows them".to_owned());
    };
    match lock {
        None => Verdict::Answer(RequestOutcome::Superseded, "nobody holds the lock".to_owned()),
        Some(lock) if lock.holder_uid != *uid || lock.fence != fence => Verdict::Answer(
            RequestOutcome::Superseded,
            format!("the lock has changed hands: it is {}'s, fence {}", lock.holder, lock.fence),
        ),
        Some(lock) if lock.holder == maintain::HOLDER => {
            refused("the operator's own maintenance holds it and gives it back by itself".to_owned())
        }
        Some(lock) => Verdict::Clear(lock.fence),
    }
}

/// Answers every request that is new, and returns the answers. One that cannot be answered yet keeps no other waiting: why the
/// first of those cannot comes with them.
pub async fn answer(
    ad: &Adapters,
    cluster: &OpenBaoCluster,
    now: DateTime<Utc>,
) -> (Vec<HandledRequest>, Option<Error>) {
    let status = cluster.status.clone().unwrap_or_default();
    let (mut answers, mut failure) = (Vec::new(), None);
    for request in &cluster.spec.requests {
        let known = status.handled_requests.iter().any(|handled| handled.nonce == request.nonce);
        if known || request.action == RequestAction::Retry {
            continue;
        }
        let judged = match judge(request, status.operation_lock.as_ref()) {
            Verdict::Answer(outcome, message) => Ok((outcome, message)),
            Verdict::Clear(fence) => clear(ad, cluster, request.holder_uid.as_deref().unwrap_or_default(), fence).await,
        };
        let (outcome, message) = match judged {
            Ok(answer) => answer,
            Err(error) => {
                failure.get_or_insert(error);
                continue;
            }
        };
        tracing::info!(nonce = request.nonce, outcome = ?outcome, message, by = request.by, "answered a request");
        answers.push(HandledRequest {
            nonce: request.nonce.clone(),
            action: request.action,
            outcome,
            message,
            at: Some(now),
        });
    }
    (answers, failure)
}

/// Carries it out, if the API server knows nobody who stands behind the lock.
async fn clear(
    ad: &Adapters,
    cluster: &OpenBaoCluster,
    uid: &str,
    fence: i64,
) -> Result<(RequestOutcome, String), Error> {
    Ok(match release_on_request(ad, cluster, uid, fence).await? {
        Released::Applied(message) => (RequestOutcome::Applied, message),
        Released::Superseded(message) => (RequestOutcome::Superseded, message),
        Released::Refused(message) => (RequestOutcome::Refused, message),
    })
}

/// Frees a lock that nobody stands behind any more, and says so. What cannot be proven stays, and a condition names it.
pub async fn free_orphan(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<(), Error> {
    let Some(held) = clear_orphan(ad, cluster).await? else { return Ok(()) };
    let note = format!(
        "the lock of {} for {} (fence {}) was freed: its holder has ended or is gone, and had done nothing that cannot be known",
        held.holder, held.operation, held.fence
    );
    let fields = Fields::from([
        ("cluster", cluster.name_any()),
        ("namespace", cluster.namespace().unwrap_or_default()),
        ("held_by_operation", held.operation.to_string()),
        ("held_by_holder", held.holder),
        ("fence", held.fence.to_string()),
        ("message", note.clone()),
    ]);
    let event = AuditEvent::OperationLockReleased;
    let annotations =
        log_phase_transition(event, "orphaned", "free", &fields).map(|entry| flat(&entry)).unwrap_or_default();
    let news = News {
        severity: Severity::Normal,
        reason: event.as_str().to_owned(),
        action: "Release".to_owned(),
        note,
        annotations,
    };
    ad.events.publish(cluster, news).await;
    Ok(())
}

/// Whether nobody is to be seen who stands behind the lock.
pub fn is_orphaned(ad: &Adapters, cluster: &OpenBaoCluster) -> bool {
    let Some(lock) = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref()) else { return false };
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    cluster.uid().as_deref() != Some(&lock.holder_uid)
        && !stands_behind(lock, &ad.caches.operations_of(&namespace, &name), &ad.caches.restores_of(&namespace, &name))
}

/// Whether one of these holds `lock`: the operation that works under it, or the restore that it is held for. A restore that has
/// ended does not: its operation may be gone without having given the lock back.
fn stands_behind(
    lock: &OperationLock,
    operations: &[impl AsRef<OpenBaoOperation>],
    restores: &[impl AsRef<OpenBaoRestore>],
) -> bool {
    let uid = Some(lock.holder_uid.as_str());
    let has_ended = |restore: &OpenBaoRestore| restore.status.as_ref().is_some_and(|status| status.phase.is_terminal());
    operations.iter().map(AsRef::as_ref).any(|operation| operation.works_under(&lock.holder_uid))
        || restores
            .iter()
            .map(AsRef::as_ref)
            .any(|restore| restore.metadata.uid.as_deref() == uid && !has_ended(restore))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn lock(holder: &str) -> OperationLock {
        serde_json::from_value(json!({
            "operation": "Backup", "holder": holder, "holderUID": "gone", "message": "", "mode": "Held", "fence": 7,
            "acquiredAt": "2026-11-21T09:00:00Z", "renewedAt": "2026-11-21T09:00:00Z"
        }))
        .unwrap()
    }

    fn release(uid: &str, fence: i64) -> Request {
        Request {
            nonce: "n".into(),
            action: RequestAction::Release,
            holder_uid: Some(uid.into()),
            fence: Some(fence),
            ..Request::default()
        }
    }

    fn outcome(verdict: Verdict) -> Option<RequestOutcome> {
        match verdict {
            Verdict::Answer(outcome, _) => Some(outcome),
            Verdict::Clear(_) => None,
        }
    }

    #[test]
    fn a_restore_that_has_ended_holds_nothing_any_more() {
        let held = lock("openbaorestore/pearl");
        let restore = |phase: &str| -> Vec<Arc<OpenBaoRestore>> {
            let whole = json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoRestore", "metadata": {"name": "pearl", "uid": "gone"},
                "spec": {"cluster": "kelp", "source": {"key": "a.snap"}}, "status": {"phase": phase},
            });
            vec![Arc::new(serde_json::from_value(whole).unwrap())]
        };
        let operation: Arc<OpenBaoOperation> = Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
                "metadata": {"name": "pearl-restore", "uid": "o1"}, "spec": {"cluster": "kelp", "operation": "Restore"},
                "status": {"phase": "Unknown", "plan": {"steps": [], "lock": {"operation": "Restore", "holder": "openbaorestore/pearl",
                    "holderUid": "gone"}}},
            }))
            .unwrap(),
        );
        let nobody: [Arc<OpenBaoOperation>; 0] = [];
        for (phase, holds) in
            [("Validating", true), ("Running", true), ("Unknown", true), ("Completed", false), ("Failed", false)]
        {
            assert_eq!(stands_behind(&held, &nobody, &restore(phase)), holds, "{phase}");
        }
        assert!(stands_behind(&held, &[operation], &restore("Failed")), "its work is not done");
    }

    #[test]
    fn only_exactly_the_lock_that_is_named_is_released() {
        let held = lock("openbaocluster/backup");
        assert_eq!(judge(&release("gone", 7), Some(&held)), Verdict::Clear(7));
        assert_eq!(outcome(judge(&release("gone", 6), Some(&held))), Some(RequestOutcome::Superseded));
        assert_eq!(outcome(judge(&release("other", 7), Some(&held))), Some(RequestOutcome::Superseded));
        assert_eq!(outcome(judge(&release("gone", 7), None)), Some(RequestOutcome::Superseded));
    }

    #[test]
    fn a_release_without_names_another_action_and_our_own_maintenance_are_refused() {
        let held = lock("openbaocluster/backup");
        let unnamed = Request { holder_uid: None, ..release("gone", 7) };
        assert_eq!(outcome(judge(&unnamed, Some(&held))), Some(RequestOutcome::Refused));
        let cancel = Request { action: RequestAction::Cancel, ..release("gone", 7) };
        assert_eq!(outcome(judge(&cancel, Some(&held))), Some(RequestOutcome::Refused));
        let ours = lock(maintain::HOLDER);
        assert_eq!(outcome(judge(&release("gone", 7), Some(&ours))), Some(RequestOutcome::Refused));
    }
}
