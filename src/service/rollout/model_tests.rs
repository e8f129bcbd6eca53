//! Rollouts under any order of events: whatever members do, people ask, and operators crash.

use super::{
    Decision, Effect, Facts, decide,
    fixtures::member,
    member::{self as members, MemberFacts},
    policy::{self, Cutover, Order, Policy},
};
use crate::{
    adapter::kubernetes::time::to_kube,
    api::{
        Direction, MemberState, MemberStatus, OpenBaoOperation, OpenBaoOperationStatus, OpenBaoRollout,
        OpenBaoRolloutSpec, OperationPhase, Request, RequestAction, RolloutMember, RolloutMemberState as State,
        RolloutPhase, RolloutStop, StepState, StepStatus,
    },
    service::{
        opslifecycle::saga::{machine::Journal, requests},
        upgrade,
    },
};
use chrono::{DateTime, Utc};
use kube::ResourceExt;
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Happens {
    /// The operator looks, decides, writes and acts; it dies after this many effects.
    Reconcile { effects: usize },
    /// The operation of this member takes its next step.
    Advance(usize),
    /// It fails, and is undone if it can be.
    Fails(usize),
    /// Somebody asks.
    Asks(RequestAction, Option<usize>),
    /// Somebody pauses the cluster of this member, or ends that.
    Pauses(usize),
    /// A server of the cluster of this member is lost, or is back.
    Loses(usize),
}

fn happens(members: usize) -> impl Strategy<Value = Happens> {
    use RequestAction::{Cancel, Release, Resume, Retry, Skip, Stop};
    prop_oneof![
        8 => (0_usize..4).prop_map(|effects| Happens::Reconcile { effects }),
        8 => (0..members).prop_map(Happens::Advance),
        1 => (0..members).prop_map(Happens::Fails),
        1 => (0..members).prop_map(Happens::Pauses),
        1 => (0..members).prop_map(Happens::Loses),
        2 => (
            prop::sample::select(vec![Stop, Resume, Retry, Skip, Release, Cancel]),
            prop::option::of(0..members),
        )
            .prop_map(|(action, member)| Happens::Asks(action, member)),
    ]
}

/// The world: the stored rollout and the operations, which run by themselves once they exist.
struct World {
    rollout: OpenBaoRollout,
    members: Vec<MemberFacts>,
    operations: BTreeMap<String, OpenBaoOperation>,
    nonce: u32,
}

fn name_of(member: &MemberFacts) -> String {
    member.cluster.as_ref().expect("a member of the model has a cluster").name_any()
}

const STEPS: [&str; 4] = ["UpgradeStandby", "Park", "StepDown", "Soak"];

impl World {
    fn new(members: usize, policy: &str, on_failure: &str, defer_cutover: bool) -> Self {
        let name = |n: usize| format!("c{n}");
        let spec = OpenBaoRolloutSpec {
            version: "2.7.2".into(),
            members: (0..members).map(|n| RolloutMember { cluster: name(n) }).collect(),
            policy: policy.into(),
            on_failure: on_failure.into(),
            defer_cutover,
            ..OpenBaoRolloutSpec::default()
        };
        let mut rollout = OpenBaoRollout::new("wave", spec);
        rollout.metadata.uid = Some("0123456789".into());
        Self {
            rollout,
            members: (0..members).map(|n| member(&name(n))).collect(),
            operations: BTreeMap::new(),
            nonce: 0,
        }
    }

    fn facts(&self) -> Vec<MemberFacts> {
        let of = |member: &MemberFacts| MemberFacts {
            operations: self
                .operations
                .values()
                .filter(|operation| operation.spec.cluster == name_of(member))
                .map(|operation| Arc::new(operation.clone()))
                .collect(),
            ..member.clone()
        };
        self.members.iter().map(of).collect()
    }

    fn decide(&self) -> Decision {
        decide(&Facts { rollout: &self.rollout, members: &self.facts() }, DateTime::<Utc>::MIN_UTC)
    }

    fn reconcile(&mut self, effects: usize) {
        let decision = self.decide();
        self.rollout.status = Some(decision.status);
        for effect in decision.effects.into_iter().take(effects) {
            match effect {
                Effect::Create(operation) => {
                    self.operations.entry(operation.name_any()).or_insert(*operation);
                }
                Effect::Resume { operation } => self.ask_operation(&operation, RequestAction::Resume),
                Effect::Cancel { operation } => self.ask_operation(&operation, RequestAction::Cancel),
            }
        }
    }

    fn ask_operation(&mut self, name: &str, action: RequestAction) {
        let operation = self.operations.get_mut(name).expect("effects name operations that exist");
        let nonce = members::nonce(&self.rollout, operation, action);
        if !operation.spec.requests.iter().any(|request| request.nonce == nonce) {
            operation.spec.requests.push(Request { nonce, action, ..Request::default() });
        }
    }

    /// The live operation of a member does one more thing, as the engine would. What it is asked comes first, and is judged by the
    /// engine's own judge: once, by what the operation is at that moment.
    fn advance(&mut self, member: usize, fails: bool) {
        let waits = !fails && (self.is_paused(member) || self.is_short(member));
        let Some(operation) = self.live(member) else { return };
        let parks = operation.spec.parameters.contains_key(upgrade::request::PARK);
        let now = DateTime::<Utc>::MIN_UTC;
        let mut journal = Journal { status: operation.status.clone().unwrap_or_default(), ..Journal::default() };
        if let Some(request) = requests::next(&journal, &operation.spec.requests) {
            for event in requests::judge(&journal, &operation.spec.requests, request, now) {
                journal.apply(&event, now).expect("what the judge says is legal");
            }
        } else if !(waits && stands_before_its_cutover(&journal.status)) {
            one_step(&mut journal.status, parks, fails);
        }
        operation.status = Some(journal.status);
    }

    fn live(&mut self, member: usize) -> Option<&mut OpenBaoOperation> {
        let cluster = name_of(&self.members[member]);
        self.operations.values_mut().find(|operation| {
            operation.spec.cluster == cluster
                && !operation.status.as_ref().is_some_and(|status| status.phase.is_terminal())
        })
    }

    fn happen(&mut self, event: &Happens) {
        match event {
            Happens::Reconcile { effects } => self.reconcile(*effects),
            Happens::Advance(member) => self.advance(*member, false),
            Happens::Fails(member) => self.advance(*member, true),
            Happens::Asks(action, member) => {
                self.nonce += 1;
                let step = member.map_or_else(String::new, |member| name_of(&self.members[member]));
                let nonce = self.nonce.to_string();
                self.rollout.spec.requests = vec![Request { nonce, action: *action, step, ..Request::default() }];
            }
            Happens::Pauses(member) => {
                let paused = self.is_paused(*member);
                self.pause(*member, !paused);
            }
            Happens::Loses(member) => {
                let short = self.is_short(*member);
                self.lose(*member, !short);
            }
        }
    }

    fn members_of(&self, member: usize) -> &[MemberStatus] {
        let status = self.members[member].cluster.as_ref().and_then(|cluster| cluster.status.as_ref());
        status.map(|status| status.members.as_slice()).unwrap_or_default()
    }

    fn is_short(&self, member: usize) -> bool {
        self.members_of(member).iter().any(|server| server.state == MemberState::Down)
    }

    fn lose(&mut self, member: usize, lost: bool) {
        let cluster = self.members[member].cluster.as_mut().expect("a member of the model has a cluster");
        let status = Arc::make_mut(cluster).status.as_mut().expect("a cluster of the model has a status");
        let state = if lost { MemberState::Down } else { MemberState::Standby };
        status.members = vec![MemberStatus { name: "server-2".into(), state, ..MemberStatus::default() }];
    }

    fn is_paused(&self, member: usize) -> bool {
        self.members[member].cluster.as_ref().is_some_and(|cluster| cluster.spec.paused)
    }

    fn pause(&mut self, member: usize, paused: bool) {
        let cluster = self.members[member].cluster.as_mut().expect("a member of the model has a cluster");
        Arc::make_mut(cluster).spec.paused = paused;
    }

    fn states(&self) -> Vec<State> {
        let members = self.rollout.status.as_ref().map(|status| status.members.as_slice()).unwrap_or_default();
        members.iter().map(|member| member.state).collect()
    }

    /// Operations that move leadership right now, by their own journal.
    fn moving(&self) -> usize {
        let moving = |status: &OpenBaoOperationStatus| {
            !status.phase.is_terminal()
                && status.steps.last().is_some_and(|step| step.name == "StepDown" || step.name == "Soak")
        };
        self.operations
            .values()
            .filter_map(|operation| operation.status.as_ref())
            .filter(|status| moving(status))
            .count()
    }

    /// How many operations have passed their point of no return.
    fn past_return(&self) -> usize {
        let status = self.operations.values().filter_map(|operation| operation.status.as_ref());
        status.filter(|status| status.point_of_no_return_at.is_some()).count()
    }

    /// Lets everything happen that happens by itself.
    fn settle(&mut self) {
        for _ in 0..60 {
            self.reconcile(usize::MAX);
            for member in 0..self.members.len() {
                self.advance(member, false);
            }
        }
    }
}

/// Told to go on, with a way back.
fn stands_before_its_cutover(status: &OpenBaoOperationStatus) -> bool {
    status.direction == Direction::Forward
        && status.ending.is_none()
        && status
            .steps
            .last()
            .is_some_and(|step| step.name == "Park" && step.state == StepState::Running && step.resumed_by.is_some())
}

/// The engine's next write, of an operation that nobody asks anything.
fn one_step(status: &mut OpenBaoOperationStatus, parks: bool, fails: bool) {
    if status.closing == Some(true) || status.direction == Direction::Unwinding {
        status.phase = status.ending.unwrap_or(OperationPhase::Failed);
        return;
    }
    status.phase = OperationPhase::Running;
    match status.point_of_no_return_at {
        Some(_) if fails => {
            status.phase = OperationPhase::Failed;
            return;
        }
        None if fails => {
            status.direction = Direction::Unwinding;
            status.ending = Some(OperationPhase::RolledBack);
            status.phase = OperationPhase::Recovering;
            return;
        }
        _ => {}
    }
    let at = status.steps.len();
    if let Some(last) = status.steps.last_mut() {
        // It runs before it is parked, and a Resume that comes between is refused.
        if last.name == "Park" && last.state == StepState::Running && last.resumed_by.is_none() {
            last.parked_at.get_or_insert(DateTime::<Utc>::MIN_UTC);
            return;
        }
        last.state = StepState::Completed;
    }
    let Some(&name) = STEPS.get(at) else {
        status.phase = OperationPhase::Succeeded;
        return;
    };
    if name == "StepDown" {
        status.point_of_no_return_at = Some(DateTime::<Utc>::MIN_UTC);
    }
    let state = if name == "Park" && !parks { StepState::Completed } else { StepState::Running };
    status.steps.push(StepStatus { name: name.into(), state, ..StepStatus::default() });
}

proptest! {
    #[test]
    fn order_is_kept_two_never_cut_over_stop_wins_and_every_state_has_a_way_out(
        (members, events) in (1_usize..5).prop_flat_map(|n| (Just(n), prop::collection::vec(happens(n), 0..60))),
        policy in prop::sample::select(vec!["rolling", "barrier", "parallel"]),
        on_failure in prop::sample::select(vec!["halt", "continue", "pause"]),
        defer in any::<bool>(),
    ) {
        let mut world = World::new(members, policy, on_failure, defer);
        let options = Policy::of(&world.rollout.spec);
        for event in &events {
            let stopped = world.rollout.status.as_ref().is_some_and(|status| status.stop.is_some());
            let before = world.states();
            world.happen(event);
            let after = world.states();

            // Never two: neither by the claims nor by what the operations do.
            let claimed = after.iter().filter(|state| matches!(state, State::CuttingOver | State::Soaking)).count();
            prop_assert!(claimed <= 1, "{after:?}");
            prop_assert!(world.moving() <= 1, "{after:?}");

            for (index, (was, is)) in before.iter().zip(&after).enumerate() {
                let begins = *was == State::Pending && *is == State::Preparing;
                let moves = *was == State::WaitingForCutover && *is == State::CuttingOver;
                let status = world.rollout.status.as_ref().unwrap();
                // Stop wins, unless this very turn resumed it.
                prop_assert!(!(stopped && status.stop.is_some() && (begins || moves)), "{before:?} -> {after:?}");
                let earlier = &status.members[..index];
                if begins {
                    prop_assert!(earlier.iter().all(|member| options.lets_prepare(member.state, member.released)));
                }
                let holds_up = |member: &crate::api::RolloutMemberStatus| {
                    let is_asked = member.state == State::WaitingForCutover && member.cutover_asked;
                    let goes = matches!(member.state, State::CuttingOver | State::Soaking) || is_asked;
                    !goes && !options.is_behind_us(member.state, member.released)
                };
                // Nobody is left to move when what is in the way is dealt with, days later.
                let waits = *is == State::WaitingForCutover && status.members[index].cutover_asked;
                prop_assert!(!(waits && earlier.iter().any(holds_up)), "{:?}", status.members);
                if moves {
                    prop_assert!(!world.is_paused(index) && !world.is_short(index), "{after:?}");
                    prop_assert!(earlier.iter().all(|member| options.is_behind_us(member.state, member.released)));
                    if options.cutover == Cutover::Ordered {
                        let there = |member: &crate::api::RolloutMemberStatus| {
                            member.state == State::WaitingForCutover || options.is_behind_us(member.state, member.released)
                        };
                        prop_assert!(status.members[index + 1..].iter().all(there), "the barrier: {after:?}");
                    }
                }
                // A finished member stays finished but for a Retry; a completed one whatever is asked.
                prop_assert!(*was != State::Completed || *is == State::Completed);
            }
            if options.order == Order::Rolling {
                prop_assert!(after.iter().filter(|state| policy::is_active(**state)).count() <= 1);
            }
        }

        (0..members).for_each(|member| {
            world.pause(member, false);
            world.lose(member, false);
        });
        // Left alone, it comes to rest, says for whom it waits, and a person can always end it.
        world.settle();
        let rest = world.decide();
        prop_assert_eq!(Some(&rest.status), world.rollout.status.as_ref(), "at rest it writes nothing");
        prop_assert!(rest.is_over() || matches!(
            rest.status.phase,
            RolloutPhase::Failed | RolloutPhase::Paused | RolloutPhase::Stopped | RolloutPhase::WaitingForCutover
        ), "{:?}: {}", rest.status.phase, rest.status.message);
        prop_assert!(!rest.status.message.is_empty());
        world.happen(&Happens::Asks(RequestAction::Cancel, None));
        world.settle();
        let ended = world.decide();
        prop_assert!(ended.is_over(), "{:?}", ended.status.members);
        prop_assert_eq!(ended.status.stop, Some(RolloutStop::Cancel));
        prop_assert_eq!(world.moving(), 0);
    }

    #[test]
    fn a_deleted_rollout_moves_no_leadership_any_more_and_stays_until_what_could_be_undone_is(
        (members, events) in (1_usize..5).prop_flat_map(|n| (Just(n), prop::collection::vec(happens(n), 0..60))),
        policy in prop::sample::select(vec!["rolling", "barrier", "parallel"]),
        defer in any::<bool>(),
    ) {
        let mut world = World::new(members, policy, "continue", defer);
        for event in &events {
            world.happen(event);
        }
        let past = world.past_return();
        world.rollout.metadata.deletion_timestamp = Some(to_kube(DateTime::<Utc>::MIN_UTC));
        // Whatever is paused or lost stays so, and then ends.
        for healed in [false, true] {
            if healed {
                (0..members).for_each(|member| {
                    world.pause(member, false);
                    world.lose(member, false);
                });
            }
            world.settle();
            prop_assert!(world.decide().leaves_nothing_to_undo(), "{:?}", world.states());
            let ended = |operation: &OpenBaoOperation| operation.has_ended();
            prop_assert!(world.operations.values().all(ended), "{:?}", world.operations);
            prop_assert_eq!(world.past_return(), past, "{:?}", world.states());
        }
    }
}
