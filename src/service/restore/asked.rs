//! What people ask of a restore itself, and which operation of its name is its own. Pure.

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::decide::Refused;
use super::{plan, status};
use crate::adapter::kubernetes::owner::is_controlled_by;
use crate::api::{
    HandledRequest, OpenBaoOperation, OpenBaoRestore, OpenBaoRestoreStatus, Request, RequestAction, RequestOutcome,
};

/// The end of a restore that is to be cancelled and has no operation to undo.
pub fn cancelled(restore: &OpenBaoRestore, now: DateTime<Utc>) -> Option<OpenBaoRestoreStatus> {
    let request = unanswered(restore).find(|request| request.action == RequestAction::Cancel)?;
    let mut next = status::refused(restore, &Refused::new("Cancelled", "cancelled before anything was done"), now);
    let answer = answer(request, RequestOutcome::Applied, "nothing had been done yet", now);
    status::answer_with(restore, &mut next, answer);
    Some(next)
}

/// The status of a restore that has ended, with an answer to whatever is asked of it since.
pub fn answered(restore: &OpenBaoRestore, now: DateTime<Utc>) -> OpenBaoRestoreStatus {
    let mut next = restore.status.clone().unwrap_or_default();
    for request in unanswered(restore) {
        let message = "the restore has ended; to restore again, create another OpenBaoRestore";
        status::answer_with(restore, &mut next, answer(request, RequestOutcome::Refused, message, now));
    }
    next
}

fn unanswered(restore: &OpenBaoRestore) -> impl Iterator<Item = &Request> {
    let handled = restore.status.as_ref().map(|status| status.handled_requests.as_slice()).unwrap_or_default();
    restore.spec.requests.iter().filter(move |request| !handled.iter().any(|done| done.nonce == request.nonce))
}

fn answer(request: &Request, outcome: RequestOutcome, message: &str, now: DateTime<Utc>) -> HandledRequest {
    HandledRequest {
        nonce: request.nonce.clone(),
        action: request.action,
        outcome,
        message: message.to_owned(),
        at: Some(now),
    }
}

/// Whether an operation of its name is the restore's. Whoever makes one can name the restore as its owner, and let it do anything.
pub fn is_own(restore: &OpenBaoRestore, operation: &OpenBaoOperation) -> bool {
    is_controlled_by(operation, &restore.uid().unwrap_or_default())
        && plan::operation(restore).is_some_and(|wanted| operation.does_the_work_of(&wanted))
}

/// Why a restore ends beside one of its operation's name.
pub fn name_taken(name: &str) -> Refused {
    let message = format!(
        "OpenBaoOperation {name} exists and is not this restore's: delete it, then create another OpenBaoRestore. \
         Nothing was changed"
    );
    Refused::new("NameTaken", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{OpenBaoRestoreSpec, OperationKind, RestorePhase};

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000, 0).unwrap()
    }

    #[test]
    fn a_restore_whose_operation_was_never_made_can_be_cancelled() {
        let mut restore = OpenBaoRestore::new("r", OpenBaoRestoreSpec::default());
        restore.metadata.uid = Some("r-uid".into());
        restore.status = Some(status::admitted(&restore, Some("c-uid".into()), now()));
        assert_eq!(cancelled(&restore, now()), None, "nobody has asked for it");
        let request = Request { nonce: "enough".into(), action: RequestAction::Cancel, ..Request::default() };
        restore.spec.requests = vec![request];
        let next = cancelled(&restore, now()).unwrap();
        assert_eq!(next.phase, RestorePhase::Failed);
        assert_eq!(next.handled_requests[0].outcome, RequestOutcome::Applied);
    }

    #[test]
    fn an_operation_of_that_name_is_followed_only_if_this_very_restore_made_it() {
        let mut restore = OpenBaoRestore::new("r", OpenBaoRestoreSpec::default());
        restore.metadata.uid = Some("r-uid".into());
        let own = plan::operation(&restore).unwrap();
        assert!(is_own(&restore, &own));
        let mut forged = own.clone();
        forged.spec.operation = OperationKind::Workflow;
        assert!(!is_own(&restore, &forged), "it restores nothing, whoever it names as its owner");
        restore.metadata.uid = Some("another".into());
        assert!(!is_own(&restore, &own), "made by a restore that had this name before");
    }

    #[test]
    fn whatever_is_asked_of_a_restore_that_has_ended_is_refused_once() {
        let mut restore = OpenBaoRestore::new("r", OpenBaoRestoreSpec::default());
        restore.status = Some(OpenBaoRestoreStatus { phase: RestorePhase::Completed, ..Default::default() });
        assert_eq!(Some(&answered(&restore, now())), restore.status.as_ref(), "nobody has asked for anything");
        let request =
            |nonce: &str| Request { nonce: nonce.into(), action: RequestAction::Resume, ..Request::default() };
        restore.spec.requests = vec![request("one"), request("two")];
        let next = answered(&restore, now());
        assert!(next.handled_requests.iter().all(|done| done.outcome == RequestOutcome::Refused));
        assert_eq!(next.handled_requests.len(), 2);
        restore.status = Some(next.clone());
        assert_eq!(answered(&restore, now() + chrono::TimeDelta::hours(1)), next, "nothing is written again");
    }
}
