//! Who prepares when, and who lets leadership move: the table of policies as functions. Pure.

use crate::api::{OpenBaoRolloutSpec, RolloutMemberState};

/// In which order members are prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other, each to its end.
    Rolling,
    /// One after the other up to the park point; leadership moves when all are there.
    Barrier,
    /// All at once up to the park point; leadership moves when all are there.
    Parallel,
}

/// What a failed member does to those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// None goes on.
    Halt,
    /// They go on.
    Continue,
    /// They wait for a `Release`.
    Pause,
}

/// Who lets the leadership of a member move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cutover {
    /// Nobody waits: the upgrade runs through.
    Inline,
    /// The rollout, in the order of the spec, once every member is parked.
    Ordered,
    /// A person.
    Manual,
}

/// The options in effect. They are derived, and never written back to the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// See [`Order`].
    pub order: Order,
    /// See [`OnFailure`].
    pub on_failure: OnFailure,
    /// See [`Cutover`].
    pub cutover: Cutover,
}

impl Policy {
    /// Reads the spec. An unknown policy behaves as rolling, an unknown `onFailure` as halt. A barrier for one member is none.
    pub fn of(spec: &OpenBaoRolloutSpec) -> Self {
        let order = match spec.policy.as_str() {
            "barrier" => Order::Barrier,
            "parallel" => Order::Parallel,
            _ => Order::Rolling,
        };
        let cutover = match order {
            _ if spec.defer_cutover => Cutover::Manual,
            Order::Barrier | Order::Parallel if spec.members.len() > 1 => Cutover::Ordered,
            Order::Rolling | Order::Barrier | Order::Parallel => Cutover::Inline,
        };
        let on_failure = match spec.on_failure.as_str() {
            "continue" => OnFailure::Continue,
            "pause" => OnFailure::Pause,
            _ => OnFailure::Halt,
        };
        Self { order, on_failure, cutover }
    }

    /// Whether a member in `state` no longer keeps a later one from being prepared.
    pub fn lets_prepare(self, state: RolloutMemberState, released: bool) -> bool {
        use RolloutMemberState::{Completed, CuttingOver, Soaking, WaitingForCutover};
        match self.order {
            Order::Parallel => true,
            Order::Barrier if matches!(state, WaitingForCutover | CuttingOver | Soaking | Completed) => true,
            Order::Barrier | Order::Rolling => self.is_behind_us(state, released),
        }
    }

    /// Whether a member in `state` keeps any other from being prepared, wherever it stands in the list.
    pub fn occupies(self, state: RolloutMemberState) -> bool {
        match self.order {
            Order::Rolling => is_active(state) || state == RolloutMemberState::WaitingForCutover,
            Order::Barrier => state == RolloutMemberState::Preparing,
            Order::Parallel => false,
        }
    }

    /// Whether a member in `state` is done with, well or badly, so that leadership of a later one may move.
    pub fn is_behind_us(self, state: RolloutMemberState, released: bool) -> bool {
        match state {
            RolloutMemberState::Completed | RolloutMemberState::Cancelled => true,
            state if has_failed(state) => released || self.on_failure == OnFailure::Continue,
            _ => false,
        }
    }
}

/// Whether a member ended without the version.
pub fn has_failed(state: RolloutMemberState) -> bool {
    matches!(
        state,
        RolloutMemberState::Failed
            | RolloutMemberState::FailedRetryable
            | RolloutMemberState::Reverted
            | RolloutMemberState::Stopped
    )
}

/// Whether an operation works on the member, or is about to.
pub fn is_active(state: RolloutMemberState) -> bool {
    matches!(state, RolloutMemberState::Preparing | RolloutMemberState::CuttingOver | RolloutMemberState::Soaking)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RolloutMember;

    fn spec(members: usize, policy: &str, defer_cutover: bool) -> OpenBaoRolloutSpec {
        OpenBaoRolloutSpec {
            members: (0..members).map(|n| RolloutMember { cluster: format!("c{n}") }).collect(),
            policy: policy.into(),
            on_failure: "halt".into(),
            defer_cutover,
            ..OpenBaoRolloutSpec::default()
        }
    }

    #[test]
    fn who_moves_leadership_follows_from_members_policy_and_deferral() {
        for (members, policy, defer, expected) in [
            (2, "barrier", false, Cutover::Ordered),
            (2, "parallel", false, Cutover::Ordered),
            (2, "barrier", true, Cutover::Manual),
            (2, "parallel", true, Cutover::Manual),
            (2, "rolling", false, Cutover::Inline),
            (2, "rolling", true, Cutover::Manual),
            (1, "barrier", true, Cutover::Manual),
            (1, "barrier", false, Cutover::Inline),
            (1, "rolling", false, Cutover::Inline),
            (2, "a word from the future", false, Cutover::Inline),
        ] {
            assert_eq!(Policy::of(&spec(members, policy, defer)).cutover, expected, "{members} {policy} {defer}");
        }
    }

    #[test]
    fn an_unknown_word_for_failures_halts() {
        let mut spec = spec(2, "rolling", false);
        spec.on_failure = "improvise".into();
        assert_eq!(Policy::of(&spec).on_failure, OnFailure::Halt);
    }

    #[test]
    fn a_failed_member_stops_blocking_by_continue_or_by_release_only() {
        for (on_failure, released, passes) in
            [("halt", false, false), ("pause", false, false), ("continue", false, true), ("pause", true, true)]
        {
            let mut spec = spec(2, "rolling", false);
            spec.on_failure = on_failure.into();
            let policy = Policy::of(&spec);
            for state in [RolloutMemberState::Failed, RolloutMemberState::Reverted, RolloutMemberState::Stopped] {
                assert_eq!(policy.is_behind_us(state, released), passes, "{on_failure} {released} {state:?}");
                assert_eq!(policy.lets_prepare(state, released), passes, "{on_failure} {released} {state:?}");
            }
        }
    }
}
