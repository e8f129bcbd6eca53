//! The point of no return, exhaustively: an upgrade in small, run by two processes that both think they lead, each of
//! which may die or lose an answer at any moment, while a person cancels at any moment. The engine is the real one.

use std::hash::{Hash, Hasher};

use stateright::{Checker, Model, Property};

use super::*;
use crate::{api::common::RequestOutcome, service::opslifecycle::saga::run::key_of};

/// The way there, the moment after which nothing goes back, and what comes after it.
const STEPS: [&str; 3] = ["prepare", "cutover", "replace"];
const CUTOVER: usize = 1;

fn upgrade() -> Plan {
    let mut plan = line(&STEPS);
    plan.steps.retain(|step| step.name != "undo-cutover" && step.name != "undo-replace");
    for step in &mut plan.steps {
        step.kind = StepKind::ReadVerify;
        step.retry_policy = Some(RetryPolicy { max_attempts: Some(1), ..RetryPolicy::default() });
        if step.compensate.as_deref() != Some("undo-prepare") {
            step.compensate = None;
        }
    }
    plan.point_of_no_return = Some("cutover".into());
    plan
}

/// Every attempt of the step at `failing` fails; `None`: all goes well.
fn script(failing: Option<usize>) -> Script {
    let end = |place: usize| if Some(place / 5) == failing { (End::Fatal, 0) } else { (End::Done, 0) };
    Script { ends: (0..100).map(end).collect() }
}

#[derive(Debug)]
struct State {
    world: World,
    passes: [Option<Pass>; 2],
    broken: Option<String>,
    key: String,
}

impl State {
    fn with_key(mut self) -> Self {
        let me = &self.world.ops[0];
        let called: Vec<_> = me.looks.keys().collect();
        // Which world it is: the one in which all goes well, or one in which a step fails.
        let failing = me.script.ends.iter().position(|(end, _)| matches!(end, End::Fatal));
        let world = (failing, &self.world.lock, self.world.shows, me.requests.len(), called, &me.undone, &self.broken);
        // Saying something else is a write, and what is said is therefore part of where it stands.
        let says = |status: &OpenBaoOperationStatus| {
            let conditions: Vec<_> = status.conditions.iter().map(|c| (c.type_.clone(), c.status.clone())).collect();
            (status.message.clone(), conditions)
        };
        let passes = self.passes.each_ref().map(|pass| {
            let pass = pass.as_ref()?;
            Some((pass.version == me.version, pass.facts.lock.clone(), pass.run.key(), says(pass.run.status())))
        });
        let key = format!("{} {:?} {world:?} {passes:?}", key_of(&me.stored), says(&me.stored));
        self.key = key;
        self
    }
}

impl Clone for State {
    fn clone(&self) -> Self {
        let copy =
            |pass: &Pass| Pass { op: pass.op, version: pass.version, run: pass.run.clone(), facts: pass.facts.clone() };
        Self {
            world: self.world.clone(),
            passes: [self.passes[0].as_ref().map(copy), self.passes[1].as_ref().map(copy)],
            broken: self.broken.clone(),
            key: self.key.clone(),
        }
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// The process looks at the operation, or does the next thing.
    Turn(usize),
    /// The same, and it dies after the deed, before it hears of it.
    Die(usize),
    /// It dies before the deed.
    Forget(usize),
    Cancel,
}

struct Upgrade;

impl Model for Upgrade {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        [None, Some(0), Some(1), Some(2)]
            .map(|failing| {
                let world = World::new(vec![(upgrade(), script(failing))]);
                State { world, passes: [None, None], broken: None, key: String::new() }.with_key()
            })
            .into()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Act>) {
        for who in 0..2 {
            actions.push(Act::Turn(who));
            if state.passes[who].is_some() {
                actions.extend([Act::Die(who), Act::Forget(who)]);
            }
        }
        if state.world.ops[0].requests.is_empty() {
            actions.push(Act::Cancel);
        }
    }

    fn next_state(&self, last: &State, act: Act) -> Option<State> {
        let mut state = last.clone();
        match act {
            Act::Cancel => ask_for(&mut state.world, "stop", RequestAction::Cancel),
            Act::Forget(who) => state.passes[who] = None,
            Act::Turn(who) | Act::Die(who) => {
                let Some(mut pass) = state.passes[who].take() else {
                    state.passes[who] = Some(state.world.begin(0, &Faults::default()));
                    return Some(state.with_key());
                };
                match state.world.turn(&mut pass, matches!(act, Act::Die(_)), false) {
                    Ok(Turn::More) if act == Act::Turn(who) => state.passes[who] = Some(pass),
                    Ok(_) => {}
                    Err(error) => state.broken = Some(error.to_string()),
                }
            }
        }
        Some(state.with_key())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn me(state: &State) -> &Operation {
            &state.world.ops[0]
        }
        fn cut_over(state: &State) -> bool {
            me(state).looks.keys().any(|(step, _)| *step == CUTOVER)
        }
        fn cancelled(state: &State, outcome: RequestOutcome) -> bool {
            me(state).stored.handled_requests.iter().any(|handled| handled.outcome == outcome)
        }
        vec![
            Property::always("the engine never contradicts itself", |_, state: &State| state.broken.is_none()),
            Property::always("what was cut over is never undone", |_, state: &State| {
                !cut_over(state) || me(state).undone.is_empty()
            }),
            Property::always("it never turns back past its point of no return", |_, state: &State| {
                me(state).stored.point_of_no_return_at.is_none() || me(state).stored.direction == Direction::Forward
            }),
            Property::always("cutting over is written down before it is done", |_, state: &State| {
                !cut_over(state) || me(state).stored.point_of_no_return_at.is_some()
            }),
            Property::always("a cancel that was granted is kept", |_, state: &State| {
                !cancelled(state, RequestOutcome::Applied) || !cut_over(state)
            }),
            Property::always("an operation that has ended holds no lock by its journal", |_, state: &State| {
                let status = &me(state).stored;
                let held =
                    status.lock.as_ref().is_some_and(|lock| lock.released_at.is_none() && lock.lost_at.is_none());
                !status.phase.is_terminal() || !held
            }),
            Property::sometimes("it succeeds", |_, state: &State| me(state).stored.phase == OperationPhase::Succeeded),
            Property::sometimes("it is cancelled and undone", |_, state: &State| {
                me(state).stored.phase == OperationPhase::Cancelled && !me(state).undone.is_empty()
            }),
            Property::sometimes("a late cancel is refused", |_, state: &State| {
                cancelled(state, RequestOutcome::Refused) && cut_over(state)
            }),
            Property::sometimes("it fails past its point of no return", |_, state: &State| {
                me(state).stored.phase == OperationPhase::Failed && cut_over(state)
            }),
        ]
    }
}

#[test]
fn no_interleaving_of_two_operators_a_person_and_crashes_goes_back_over_the_point_of_no_return() {
    let checker = Upgrade.checker().threads(2).spawn_bfs().join();
    println!(
        "MODEL point of no return: {} states, {} transitions, depth {}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
}
