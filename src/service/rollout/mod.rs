//! One change carried through several clusters.
//!
//! Not built yet. A rollout is accepted, says so in its status and ends there: nothing is half done, and no cluster is
//! touched. Each cluster is upgraded by its own `spec.version`.

use crate::{
    adapter::kubernetes::time::to_kube,
    api::{
        OpenBaoRollout, OpenBaoRolloutStatus, RolloutPhase,
        conditions::{reason, rollout},
    },
};
use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The status that ends a rollout which this version cannot carry out; `None` when it is there already. Pure.
pub fn refusal(object: &OpenBaoRollout, now: DateTime<Utc>) -> Option<OpenBaoRolloutStatus> {
    if object.status.as_ref().is_some_and(|status| status.phase == RolloutPhase::NotSupported) {
        return None;
    }
    let message =
        "rollouts are not supported by this version of the operator and nothing was changed: set spec.version \
                   of each OpenBaoCluster instead"
            .to_owned();
    Some(OpenBaoRolloutStatus {
        phase: RolloutPhase::NotSupported,
        progress: format!("0/{}", object.spec.members.len()),
        message: message.clone(),
        observed_generation: object.metadata.generation,
        conditions: vec![Condition {
            type_: rollout::COMPLETE.to_owned(),
            status: "False".to_owned(),
            reason: reason::NOT_SUPPORTED.to_owned(),
            message,
            observed_generation: object.metadata.generation,
            last_transition_time: to_kube(now),
        }],
        ..OpenBaoRolloutStatus::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{OpenBaoRolloutSpec, RolloutMember};

    #[test]
    fn a_rollout_ends_at_once_says_what_to_do_instead_and_is_written_once() {
        let members = ["kelp", "coral"].map(|cluster| RolloutMember { cluster: cluster.into() }).to_vec();
        let mut rollout = OpenBaoRollout::new("wave", OpenBaoRolloutSpec { members, ..OpenBaoRolloutSpec::default() });
        let status = refusal(&rollout, Utc::now()).unwrap();
        assert_eq!(status.phase, RolloutPhase::NotSupported);
        assert_eq!(status.progress, "0/2");
        assert!(status.message.contains("spec.version"));
        rollout.status = Some(status);
        assert!(refusal(&rollout, Utc::now()).is_none());
    }
}
