//! Whether a status is worth a write to the API server, and when.
//!
//! What people wait for is written at once. The rest is gathered: each event of three starting pods would be a write
//! otherwise, and each write wakes everybody who watches.

use std::time::Duration;

use super::{members::is_caught_up, status};
use crate::api::{ClusterPhase, MemberStatus, OpenBaoClusterStatus, UpgradeStatus, conditions::cluster as conditions};

/// Changes that come one after the other within this are written together.
const GATHER: Duration = Duration::from_secs(1);
/// While a cluster starts for the first time, its status shows the way in steps of this, not each event.
const STARTING: Duration = Duration::from_secs(8);
/// The same during an upgrade: its own journal tells each step, and its members come and go every few seconds.
const UPGRADING: Duration = Duration::from_secs(8);
/// How far members have applied the log moves with each write of a client. While one is behind it is told in steps of this.
const CATCHING_UP: Duration = Duration::from_secs(10);
/// The same where nothing else has happened for [`LASTING`]: it may stay behind for days.
const LEFT_BEHIND: Duration = Duration::from_secs(60);
/// What has not changed for this long will not change in the next two seconds either: a cluster that is broken for days
/// takes no time from the others. Events of its pods wake it all the same.
pub(super) const LASTING: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// What is written says it already.
    Nothing,
    /// A write, but not so soon after the last one: look again after this.
    Later(Duration),
    Now,
    /// A write now, of nothing but how far members have applied the log: otherwise the status says the same.
    Moved,
}

/// `written`: how long ago this process wrote the status, if it ever did; `changed`: how long ago it wrote more than how far members
/// have applied the log. Another phase, another answer to "is it available", a new trouble and the answer to a request never wait.
/// How far members have applied the log is no news by itself as long as they are together, and were when it was told last.
pub(super) fn worth(
    before: &OpenBaoClusterStatus,
    next: &OpenBaoClusterStatus,
    written: Option<Duration>,
    changed: Option<Duration>,
) -> Worth {
    let (old, new) = (status::plane(before), status::plane(next));
    if old == new {
        return Worth::Nothing;
    }
    let moved_only = without_indexes(&old) == without_indexes(&new);
    if moved_only && are_together(&old.members) && are_together(&new.members) {
        return Worth::Nothing;
    }
    let pace = match new.phase {
        _ if moved_only && changed.is_some_and(|ago| ago >= LASTING) => LEFT_BEHIND,
        _ if moved_only => CATCHING_UP,
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
        _ if moved_only => Worth::Moved,
        _ => Worth::Now,
    }
}

fn without_indexes(status: &OpenBaoClusterStatus) -> OpenBaoClusterStatus {
    let mut status = status.clone();
    for member in &mut status.members {
        member.applied_index = None;
    }
    status
}

/// Whether of the members that say how far they are none is behind.
fn are_together(members: &[MemberStatus]) -> bool {
    let mut applied = members.iter().filter_map(|member| u64::try_from(member.applied_index?).ok());
    let most = applied.clone().max();
    applied.all(|index| is_caught_up(Some(index), most))
}

/// The same for the plane of an upgrade: which step it is at is gathered, everything else tells somebody what to do.
pub(super) fn worth_telling(before: Option<&UpgradeStatus>, next: &UpgradeStatus, written: Option<Duration>) -> Worth {
    let Some(before) = before else { return Worth::Now };
    if before == next {
        return Worth::Nothing;
    }
    let told = UpgradeStatus { step: before.step.clone(), ..next.clone() };
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

    /// Of a cluster in which something has happened a moment ago.
    fn worth(before: &OpenBaoClusterStatus, next: &OpenBaoClusterStatus, written: Option<Duration>) -> Worth {
        super::worth(before, next, written, SOON)
    }

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
    fn how_far_the_log_is_applied_is_told_while_a_member_is_behind_and_no_news_by_itself() {
        let at = |indexes: [i64; 3]| {
            let member = |index| MemberStatus { applied_index: Some(index), ..MemberStatus::default() };
            OpenBaoClusterStatus { members: indexes.map(member).into(), ..in_phase(ClusterPhase::Upgrading) }
        };
        let (known, moved) = (at([100, 100, 99]), at([9000, 9001, 8999]));
        assert_eq!(worth(&known, &moved, None), Worth::Nothing, "a busy cluster's log moves all the time");
        let behind = at([9000, 9001, 500]);
        assert_eq!(worth(&known, &behind, SOON), Worth::Later(CATCHING_UP.saturating_sub(SOON.unwrap())));
        assert_eq!(worth(&known, &behind, Some(CATCHING_UP)), Worth::Moved);
        assert_eq!(worth(&behind, &moved, Some(CATCHING_UP)), Worth::Moved, "that it caught up is waited for");
        let still = super::worth(&known, &behind, Some(CATCHING_UP), Some(LASTING));
        assert_eq!(still, Worth::Later(LEFT_BEHIND.saturating_sub(CATCHING_UP)), "it may stay behind for days");
        let told = worth(&known, &and_a_member(&moved), SOON);
        assert_eq!(told, Worth::Later(UPGRADING.saturating_sub(SOON.unwrap())), "other news is as soon as ever");
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
