//! How a submission ends when it is not proven. Pure.

use super::submit::{MESSAGE, OUTCOME, SEALED};
use crate::datapath::protocol::{Cause, Endpoint};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::mover::State;

/// Nobody can tell: a person does.
pub fn unknown(message: &str) -> StepOutcome {
    StepOutcome::Unknown {
        message: format!(
            "{message}. Look for a secret that only the old or only the restored data has; then ask for Resume (look \
             again, and send nothing) or Abandon (give up and release the lock) in the restore's spec.requests"
        ),
    }
}

/// Servers stay sealed. That is what follows from a snapshot whose seal is known to be another one, and was sent all the same.
/// Any other proves nothing by it: its key is the one that the servers have, so what gives them that key does not answer, or has
/// not yet. `late`: it was waited for as long as anything that cannot be told.
pub fn sealed(endpoint: Endpoint, late: bool, pods: &[String]) -> StepOutcome {
    let pods = pods.join(", ");
    match endpoint {
        Endpoint::SnapshotForce => StepOutcome::done_with([(OUTCOME, SEALED.to_owned()), (MESSAGE, pods)]),
        Endpoint::Snapshot if late => unknown(&format!(
            "{pods} stay sealed although the snapshot's seal is the cluster's own: see that what unseals them (the cluster's \
             spec.unseal) answers"
        )),
        Endpoint::Snapshot => StepOutcome::in_progress(format!(
            "waiting for {pods} to unseal: the snapshot's seal is the cluster's own, so see that what unseals them (the cluster's \
             spec.unseal) answers"
        )),
    }
}

/// OpenBao refused a mover's login after its permit. `submitted`: how many earlier attempts were sent, each of which is proven not
/// to be applied.
pub fn no_access(why: &str, submitted: usize) -> StepOutcome {
    let sent = if submitted == 0 {
        "Nothing was submitted"
    } else {
        "Nothing was sent in this attempt, and what was sent in an earlier one is proven not to be applied: the data is the old one"
    };
    StepOutcome::fatal("MoverAccess", format!("not applied: {why}. {sent}"))
}

/// Whether another mover may follow one that ended so before it claimed. A login that OpenBao refuses is refused again, after
/// another download under the cluster's lock.
pub fn may_follow(end: &State) -> bool {
    !matches!(end, State::Ended { failure: Some(failure), .. } if failure.cause == Cause::Auth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::protocol::Failure;

    #[test]
    fn servers_that_stay_sealed_under_their_own_seal_prove_nothing_and_wait_for_a_person() {
        let pods = ["kelp-0".to_owned(), "kelp-1".to_owned()];
        let StepOutcome::Waiting { reason, .. } = sealed(Endpoint::Snapshot, false, &pods) else {
            panic!("not waited for")
        };
        assert!(reason.contains("kelp-0, kelp-1 to unseal") && reason.contains("spec.unseal"), "{reason}");
        let StepOutcome::Unknown { message } = sealed(Endpoint::Snapshot, true, &pods) else { panic!("told as known") };
        assert!(message.contains("kelp-0, kelp-1") && message.contains("spec.unseal"), "{message}");
        assert!(message.contains("Resume") && !message.contains("was applied"), "{message}");
        let StepOutcome::Done { output } = sealed(Endpoint::SnapshotForce, false, &pods) else { panic!("not told") };
        assert_eq!((output[OUTCOME].as_str(), output[MESSAGE].as_str()), (SEALED, "kelp-0, kelp-1"));
    }

    #[test]
    fn a_refused_login_says_whether_anything_was_ever_sent() {
        let message = |submitted| match no_access("the login was refused", submitted) {
            StepOutcome::Failed { message, .. } => message,
            other => panic!("{other:?}"),
        };
        assert!(message(0).ends_with("Nothing was submitted"), "{}", message(0));
        let later = message(1);
        assert!(!later.contains("Nothing was submitted") && later.ends_with("the data is the old one"), "{later}");
    }

    #[test]
    fn a_mover_whose_login_was_refused_is_followed_by_no_other() {
        let end = |cause| State::Ended {
            failure: Some(Failure { cause, reason: String::new(), message: "no".into() }),
            why: "no".into(),
        };
        assert!(!may_follow(&end(Cause::Auth)));
        for cause in [Cause::Leader, Cause::Deadline, Cause::Kubernetes, Cause::NotGranted, Cause::Io] {
            assert!(may_follow(&end(cause)), "{cause:?}");
        }
        assert!(may_follow(&State::Ended { failure: None, why: String::new() }));
    }
}
