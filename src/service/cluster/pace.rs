//! Whether a status is worth a write to the API server, and when.
//!
//! What people wait for is written at once. The rest is gathered: each event of three starting pods would be a write
//! otherwise, and each write wakes everybody who watches.

use std::time::Duration;

use super::status;
use crate::api::{ClusterPhase, OpenBaoClusterStatus, UpgradeStatus, conditions::cluster as conditions};

/// Changes that come one after the other within this are written together.
const GATHER: Duration = Duration::from_secs(1);
/// While a cluster starts for the first time, its status shows the way in steps of this, not each event.
const STARTING: Duration = Duration::from_secs(8);
/// The same during an upgrade: its own journal tells each step, and its members come and go every few seconds.
const UPGRADING: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// What is written says it already.
    Nothing,
    /// A write, but not so soon after the last one: look again after this.
    Later(Duration),
    Now,
}

/// `written`: how long ago this process wrote the status, if it ever did. Another phase, another answer to "is it
/// available", a new trouble and the answer to a request never wait.
pub(super) fn worth(before: &OpenBaoClusterStatus, next: &OpenBaoClusterStatus, written: Option<Duration>) -> Worth {
    let (old, new) = (status::plane(before), status::plane(next));
    if old == new {
        return Worth::Nothing;
    }
    let pace = match new.phase {
        Some(ClusterPhase::Initializing) => STARTING,
        Some(ClusterPhase::Upgrading) => UPGRADING,
        _ => GATHER,
    };
    let troubled = is(&new, conditions::DEGRADED) && !is(&old, conditions::DEGRADED);
    let turned = new.phase != old.phase || is(&new, conditions::AVAILABLE) != is(&old, conditions::AVAILABLE);
    // Remembered nowhere else: it would be lost with this look.
    let answered =
        new.handled_requests.iter().any(|one| old.handled_requests.iter().all(|known| known.nonce != one.nonce));
    match written {
        Some(ago) if ago < pace && !troubled && !turned && !answered => Worth::Later(pace.saturating_sub(ago)),
        _ => Worth::Now,
    }
}

/// The same for the plane of an upgrade: which step it is at is gathered, everything else tells somebody what to do.
pub(super) fn worth_telling(before: Option<&UpgradeStatus>, next: &UpgradeStatus, written: Option<Duration>) -> Worth {
    let Some(before) = before else { return Worth::Now };
    if before == next {
        return Worth::Nothing;
    }
    let told = UpgradeStatus { step: before.step.clone(), message: before.message.clone(), ..next.clone() };
    match written {
        Some(ago) if ago < UPGRADING && told == *before && next.step.is_some() => {
            Worth::Later(UPGRADING.saturating_sub(ago))
        }
        _ => Worth::Now,
    }
}

fn is(status: &OpenBaoClusterStatus, condition: &str) -> bool {
    status.conditions.iter().any(|one| one.type_ == condition && one.status == "True")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::api::{HandledRequest, RequestAction, RequestOutcome, UpgradeDirective};

    const SOON: Option<Duration> = Some(Duration::from_millis(100));

    fn in_phase(phase: ClusterPhase) -> OpenBaoClusterStatus {
        OpenBaoClusterStatus { phase: Some(phase), ..OpenBaoClusterStatus::default() }
    }

    fn with(condition: &str, truth: bool) -> OpenBaoClusterStatus {
        let condition = Condition {
            type_: condition.to_owned(),
            status: if truth { "True" } else { "False" }.to_owned(),
            reason: "Tested".to_owned(),
            message: String::new(),
            last_transition_time: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
            observed_generation: None,
        };
        OpenBaoClusterStatus { conditions: vec![condition], ..in_phase(ClusterPhase::Running) }
    }

    /// The same status with one member more that is ready: a small change.
    fn and_a_member(status: &OpenBaoClusterStatus) -> OpenBaoClusterStatus {
        OpenBaoClusterStatus { ready_replicas: Some(1), ..status.clone() }
    }

    #[test]
    fn the_steps_of_an_upgrade_are_told_together_and_what_it_means_at_once() {
        let at = |step: &str| UpgradeStatus { step: Some(step.to_owned()), ..UpgradeStatus::default() };
        let (gate, template) = (at("GateHealth"), at("UpdateTemplate"));
        assert_eq!(worth_telling(Some(&gate), &gate, None), Worth::Nothing);
        assert_eq!(worth_telling(Some(&gate), &template, SOON), Worth::Later(UPGRADING.saturating_sub(SOON.unwrap())));
        assert_eq!(worth_telling(Some(&gate), &template, Some(UPGRADING)), Worth::Now);
        assert_eq!(worth_telling(Some(&gate), &template, None), Worth::Now, "a new process knows of no write");
        assert_eq!(worth_telling(None, &gate, SOON), Worth::Now, "it begins");
        assert_eq!(worth_telling(Some(&gate), &UpgradeStatus::default(), SOON), Worth::Now, "it ends");
        let directed = UpgradeStatus { directive: Some(UpgradeDirective::default()), ..template.clone() };
        assert_eq!(worth_telling(Some(&gate), &directed, SOON), Worth::Now, "the template waits for it");
    }

    #[test]
    fn nothing_is_written_twice() {
        let status = in_phase(ClusterPhase::Running);
        assert_eq!(worth(&status, &status, None), Worth::Nothing);
    }

    #[test]
    fn small_changes_are_gathered_for_as_long_as_the_phase_allows() {
        for (phase, pace) in [
            (ClusterPhase::Running, GATHER),
            (ClusterPhase::Initializing, STARTING),
            (ClusterPhase::Upgrading, UPGRADING),
        ] {
            let status = in_phase(phase);
            let next = and_a_member(&status);
            assert_eq!(worth(&status, &next, SOON), Worth::Later(pace.saturating_sub(SOON.unwrap())), "{phase:?}");
            assert_eq!(worth(&status, &next, Some(pace)), Worth::Now, "{phase:?}");
            assert_eq!(worth(&status, &next, None), Worth::Now, "a new process knows of no write: {phase:?}");
        }
    }

    #[test]
    fn what_people_wait_for_is_written_at_once() {
        let running = in_phase(ClusterPhase::Running);
        assert_eq!(worth(&in_phase(ClusterPhase::Initializing), &running, SOON), Worth::Now);
        for truth in [true, false] {
            let (old, new) = (with(conditions::AVAILABLE, !truth), with(conditions::AVAILABLE, truth));
            assert_eq!(worth(&old, &new, SOON), Worth::Now, "available: {truth}");
        }
        let answer = HandledRequest {
            nonce: "n".to_owned(),
            action: RequestAction::Release,
            outcome: RequestOutcome::Applied,
            message: String::new(),
            at: None,
        };
        let answered = OpenBaoClusterStatus { handled_requests: vec![answer], ..running.clone() };
        assert_eq!(worth(&running, &answered, SOON), Worth::Now, "an answer that is not written is lost");
        assert!(matches!(worth(&answered, &and_a_member(&answered), SOON), Worth::Later(_)), "it is told already");
        let (well, troubled) = (with(conditions::DEGRADED, false), with(conditions::DEGRADED, true));
        assert_eq!(worth(&well, &troubled, SOON), Worth::Now);
        assert!(matches!(worth(&troubled, &well, SOON), Worth::Later(_)), "good news of that kind can wait");
    }
}
