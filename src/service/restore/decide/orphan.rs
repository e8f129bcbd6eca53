//! A restore whose operation's record is not there any more: somebody deleted it, and nobody saw how it ended.

use super::Refused;
use crate::api::restore::{OpenBaoRestoreStatus, RestorePhase};

/// How it ends: with what its own status last said of the cluster. `name`: the operation's.
pub fn operation_gone(name: &str, status: &OpenBaoRestoreStatus) -> Refused {
    let known = match (&status.proof, status.phase) {
        (Some(proof), _) => format!(
            "The snapshot was applied: {}. Whether every server was restarted since is not known, and each must be: delete the \
             server pods one by one, the leader's last",
            proof.text
        ),
        (None, RestorePhase::Pending | RestorePhase::Validating) => {
            "Nothing was changed, as far as was seen: it had not taken the cluster's lock".to_owned()
        }
        (None, RestorePhase::Running | RestorePhase::Unknown | RestorePhase::Completed | RestorePhase::Failed) => {
            "Whether the snapshot was sent is not known: look for a secret that only the old or only the restored data has. \
             If the cluster's lock is still held, its condition OperationLock says how it is released"
                .to_owned()
        }
    };
    Refused::new("OperationGone", format!("OpenBaoOperation {name}, which did the work, was deleted. {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::restore::{ProofKind, RestoreProof};

    #[test]
    fn a_restore_without_its_operation_says_whether_the_cluster_was_touched() {
        let status = |phase| OpenBaoRestoreStatus { phase, ..OpenBaoRestoreStatus::default() };
        for phase in [RestorePhase::Pending, RestorePhase::Validating] {
            assert!(operation_gone("op", &status(phase)).message.contains("Nothing was changed"));
        }
        for phase in [RestorePhase::Running, RestorePhase::Unknown] {
            let message = operation_gone("op", &status(phase)).message;
            assert!(message.contains("Whether the snapshot was sent is not known"), "{message}");
        }
        let mut proven = status(RestorePhase::Running);
        let at = chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let text = "the marker is gone on leader kelp-0".to_owned();
        proven.proof = Some(RestoreProof { kind: ProofKind::Marker, at, text: text.clone() });
        let refused = operation_gone("back-restore-1", &proven);
        assert_eq!(refused.reason, "OperationGone");
        assert!(refused.message.contains(&text) && refused.message.contains("back-restore-1"), "{}", refused.message);
        assert!(
            refused.message.contains("was applied") && refused.message.contains("restarted"),
            "{}",
            refused.message
        );
    }
}
