//! The engine against a model of the world: generated plans, failures, waits, crashes at every point, two operations that
//! want one lock, two processes that both think they lead.
//!
//! The world answers by a script, so that a run with crashes can be compared with one without. What it checks while it
//! answers: an effect that must happen once happens once, and nothing acts without the lock.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::{
    super::manager::{Planned, StepMode, StepOutcome},
    COMPENSATION_FAILED,
    faults::Faults,
    machine::{Journal, Subject},
    run::{Ask, Call, Facts, LockSeen, Run, Shows},
};
use crate::{
    adapter::operationlock::HeldError,
    api::{
        cluster::status::LockOperation,
        common::{Request, RequestAction},
        operation::{
            Backoff, Direction, LockPlan, OpenBaoOperationStatus, OperationKind, OperationPhase, Plan, RetryPolicy,
            StepKind, StepSpec, StepState,
        },
    },
};

const STANDARD: Duration = Duration::from_secs(60);

/// How one attempt of a step ends, and after how many looks.
#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Retryable,
    Fatal,
    Never,
    Park,
}

#[derive(Clone, Debug)]
struct Script {
    ends: Vec<(End, u8)>,
}

impl Script {
    fn of(&self, step: usize, attempt: i32) -> (End, u8) {
        let place = step * 5 + usize::try_from(attempt).unwrap();
        self.ends[place % self.ends.len()]
    }
}

#[derive(Clone, Debug)]
struct Operation {
    uid: String,
    plan: Plan,
    script: Script,
    stored: OpenBaoOperationStatus,
    version: u64,
    requests: Vec<Request>,
    looks: BTreeMap<(usize, i32), u8>,
    applied: BTreeMap<usize, Vec<i32>>,
    revoked: Vec<(usize, i32)>,
    undone: Vec<String>,
    finished: u32,
}

#[derive(Clone, Debug, Default)]
struct World {
    now: DateTime<Utc>,
    fence: i64,
    lock: Option<(String, i64)>,
    shows: Shows,
    ops: Vec<Operation>,
}

/// One process's look at one operation.
#[derive(Debug)]
struct Pass {
    op: usize,
    version: u64,
    run: Run,
    facts: Facts,
}

#[derive(Debug, PartialEq)]
enum Turn {
    More,
    Over(Ask),
    Raced,
}

impl World {
    fn new(plans: Vec<(Plan, Script)>) -> Self {
        let ops = plans
            .into_iter()
            .enumerate()
            .map(|(index, (mut plan, script))| {
                let uid = format!("u{index}");
                if let Some(lock) = &mut plan.lock {
                    lock.holder_uid.clone_from(&uid);
                }
                Operation {
                    uid,
                    plan,
                    script,
                    stored: OpenBaoOperationStatus::default(),
                    version: 0,
                    requests: vec![],
                    looks: BTreeMap::new(),
                    applied: BTreeMap::new(),
                    revoked: vec![],
                    undone: vec![],
                    finished: 0,
                }
            })
            .collect();
        Self { now: DateTime::from_timestamp(1_800_000_000, 0).unwrap(), ops, ..Self::default() }
    }

    fn seen(&self, op: usize) -> LockSeen {
        match &self.lock {
            None => LockSeen::Free,
            Some((uid, fence)) if *uid == self.ops[op].uid => LockSeen::Ours { fence: *fence, shows: self.shows },
            Some((uid, _)) => LockSeen::Foreign { holder: uid.clone() },
        }
    }

    fn begin(&self, op: usize, faults: &Faults) -> Pass {
        let me = &self.ops[op];
        // Through the API server and back, as after a restart.
        let status = serde_json::from_value(serde_json::to_value(&me.stored).unwrap()).unwrap();
        let subject = Subject { operation_uid: me.uid.clone(), kind: OperationKind::Workflow, ..Subject::default() };
        let facts = Facts {
            now: self.now,
            deleting: false,
            cluster_gone: false,
            lock: self.seen(op),
            overridden_by: None,
            supported: true,
            message_written_at: None,
        };
        let run = Run::new(Journal { status, subject }, me.requests.clone(), faults.clone());
        Pass { op, version: me.version, run, facts }
    }

    /// Does the next thing that `pass` asks for. `lose_answer`: the process dies after doing it.
    fn turn(&mut self, pass: &mut Pass, lose_answer: bool, strict: bool) -> Result<Turn, TestCaseError> {
        pass.facts.now = self.now;
        let ask = pass.run.next(&pass.facts).map_err(|illegal| TestCaseError::fail(illegal.to_string()))?;
        match ask {
            Ask::Commit => {
                let me = &mut self.ops[pass.op];
                if me.version != pass.version {
                    return Ok(Turn::Raced);
                }
                me.version += 1;
                me.stored = pass.run.status().clone();
                if lose_answer {
                    return Ok(Turn::Raced);
                }
                pass.version = me.version;
                pass.run.committed();
            }
            Ask::Plan => {
                let planned = Planned { plan: self.ops[pass.op].plan.clone(), inputs: BTreeMap::new() };
                pass.run.planned(Ok(planned), None, STANDARD, &pass.facts).unwrap();
            }
            Ask::Look => {
                pass.facts.lock = self.seen(pass.op);
                pass.run.looked();
            }
            Ask::Acquire => match self.seen(pass.op) {
                LockSeen::Foreign { holder } => {
                    let held = HeldError {
                        operation: LockOperation::Maintenance,
                        holder,
                        holder_uid: "x".into(),
                        operation_ref: None,
                        message: String::new(),
                        fence: 0,
                        committed: None,
                    };
                    pass.run.blocked(&held, "", STANDARD, &pass.facts).unwrap();
                }
                seen => {
                    let fence = if let LockSeen::Ours { fence, .. } = seen {
                        fence
                    } else {
                        self.shows = Shows::default();
                        self.fence += 1;
                        self.fence
                    };
                    self.lock = Some((self.ops[pass.op].uid.clone(), fence));
                    if lose_answer {
                        return Ok(Turn::Raced);
                    }
                    pass.run.acquired(fence, self.shows, self.now, None, &mut pass.facts).unwrap();
                }
            },
            Ask::Renew { fence, shows } => {
                if self.lock.as_ref() == Some(&(self.ops[pass.op].uid.clone(), fence)) {
                    // What a stale copy does not know is not turned back: the API server tests it.
                    self.shows = Shows { committed: shows.committed || self.shows.committed, ..shows };
                }
                if lose_answer {
                    return Ok(Turn::Raced);
                }
                pass.facts.lock = self.seen(pass.op);
                pass.run.looked();
            }
            Ask::Call(call) => {
                // Write ahead: what is about to act stands in the stored journal.
                if strict {
                    let stored = &self.ops[pass.op].stored.steps[call.step];
                    prop_assert_eq!(stored.state, StepState::Running);
                    if call.mode != StepMode::Prove {
                        prop_assert!(matches!(self.seen(pass.op), LockSeen::Ours { .. }), "acts without the lock");
                        prop_assert_eq!(self.shows.parked, stored.parked_at.is_some(), "the lock shows something else");
                    }
                }
                let outcome = match pass.run.injected(call) {
                    Some(injected) => injected,
                    None => self.act(pass, call)?,
                };
                if lose_answer {
                    return Ok(Turn::Raced);
                }
                pass.run
                    .answered(call, outcome, STANDARD, &pass.facts)
                    .map_err(|illegal| TestCaseError::fail(illegal.to_string()))?;
            }
            Ask::Finish { .. } => {
                self.ops[pass.op].finished += 1;
                pass.run.finished(StepOutcome::done(), STANDARD, &pass.facts);
            }
            Ask::Release => {
                if self.lock.as_ref().is_some_and(|(uid, _)| *uid == self.ops[pass.op].uid) {
                    self.lock = None;
                }
                if lose_answer {
                    return Ok(Turn::Raced);
                }
                pass.run.released(&mut pass.facts).unwrap();
            }
            over @ (Ask::Rest { .. } | Ask::Idle | Ask::Closed) => return Ok(Turn::Over(over)),
        }
        Ok(Turn::More)
    }

    /// What the world answers to a call, and what happens in it.
    fn act(&mut self, pass: &Pass, call: Call) -> Result<StepOutcome, TestCaseError> {
        let attempt = pass.run.journal().step(call.step).unwrap().attempt;
        let resumed = pass.run.journal().step(call.step).unwrap().resumed_by.is_some();
        let me = &mut self.ops[pass.op];
        let spec = me.plan.steps[call.step].clone();
        let (end, looks) = me.script.of(call.step, attempt);
        let once = spec.kind == StepKind::OnceOnly && call.undoes.is_none();
        let seen = me.looks.entry((call.step, attempt)).or_insert(0);
        *seen = seen.saturating_add(1);
        let ready = *seen > looks;
        if call.mode == StepMode::Prove {
            let applied = me.applied.get(&call.step).is_some_and(|attempts| attempts.contains(&attempt));
            return Ok(match end {
                End::Never => StepOutcome::Unknown { message: "cannot tell".into() },
                _ if applied && ready => StepOutcome::done(),
                _ if applied => StepOutcome::in_progress("not applied everywhere"),
                // From here on this attempt can have no effect any more: its grant is withdrawn.
                _ => {
                    me.revoked.push((call.step, attempt));
                    StepOutcome::NotApplied { message: "no trace of it".into() }
                }
            });
        }
        if once {
            if me.revoked.contains(&(call.step, attempt)) {
                return Ok(StepOutcome::in_progress("withdrawn"));
            }
            if matches!(end, End::Retryable | End::Fatal) {
                return Ok(StepOutcome::Failed {
                    reason: "Refused",
                    message: "refused before anything happened".into(),
                    retryable: matches!(end, End::Retryable),
                });
            }
            if matches!(self.lock.as_ref(), Some((uid, _)) if *uid == me.uid) {
                prop_assert!(self.shows.committed, "the lock does not show what may have happened under it");
            }
            let applied = me.applied.entry(call.step).or_default();
            applied.push(attempt);
            prop_assert_eq!(applied.len(), 1, "the effect of step {} happened twice", spec.name);
            return Ok(if ready { StepOutcome::done() } else { StepOutcome::in_progress("sent") });
        }
        if !ready {
            return Ok(StepOutcome::in_progress("working"));
        }
        Ok(match end {
            End::Done => {
                if let Some(undone) = call.undoes {
                    let name = me.plan.steps[undone].name.clone();
                    if me.undone.last() != Some(&name) {
                        me.undone.push(name);
                    }
                }
                StepOutcome::done_with([("attempt", attempt.to_string())])
            }
            End::Retryable => StepOutcome::retryable("Broken", "try again"),
            End::Fatal => StepOutcome::fatal("Broken", "no use"),
            End::Never => StepOutcome::in_progress("for ever"),
            End::Park if call.undoes.is_none() && !resumed => {
                StepOutcome::Parked { reason: "waits for a person".into(), unlimited: false }
            }
            End::Park => StepOutcome::done(),
        })
    }

    /// Runs `op` alone until it has ended or waits for a person.
    fn settle(&mut self, op: usize, faults: &Faults) -> Result<Ask, TestCaseError> {
        for _ in 0..400 {
            let mut pass = self.begin(op, faults);
            for _ in 0..2000 {
                match self.turn(&mut pass, false, true)? {
                    Turn::More => {}
                    Turn::Over(Ask::Rest { after }) => {
                        self.now += TimeDelta::from_std(after).unwrap() + TimeDelta::seconds(1);
                        break;
                    }
                    Turn::Over(over) => return Ok(over),
                    Turn::Raced => return Err(TestCaseError::fail("lost a race against nobody")),
                }
            }
        }
        Err(TestCaseError::fail(format!("does not settle: {:?}", self.ops[op].stored)))
    }

    /// Like [`Self::settle`], and a person gives up what is unknown.
    fn end(&mut self, op: usize, faults: &Faults) -> Result<(), TestCaseError> {
        if self.settle(op, faults)? == Ask::Idle {
            prop_assert_eq!(self.ops[op].stored.phase, OperationPhase::Unknown);
            let nonce = format!("give-up-{}", self.ops[op].requests.len());
            let request = Request { nonce, action: RequestAction::Abandon, ..Request::default() };
            self.ops[op].requests.push(request);
            self.settle(op, faults)?;
        }
        let me = &self.ops[op];
        prop_assert!(me.stored.phase.is_terminal(), "{:?}", me.stored);
        prop_assert!(me.finished > 0);
        let kept = me.stored.reason.as_deref() == Some(COMPENSATION_FAILED);
        let held = self.lock.as_ref().is_some_and(|(uid, _)| *uid == me.uid);
        prop_assert_eq!(held, kept && me.stored.lock.is_some(), "{:?}", me.stored);
        self.check_history(op)
    }

    /// What every record must show.
    fn check_history(&self, op: usize) -> Result<(), TestCaseError> {
        let me = &self.ops[op];
        let numbers: Vec<i64> = me.stored.history.iter().map(|entry| entry.seq).collect();
        prop_assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
        let mut completed = vec![];
        let mut undone = vec![];
        for entry in me.stored.history.iter().filter(|entry| entry.event == "SagaStepTransition") {
            let step = entry.fields["step"].clone();
            let undoable = me.plan.steps.iter().any(|one| one.name == step && one.compensate.is_some());
            match entry.phase_to.as_str() {
                "completed" if undoable => completed.push(step),
                "compensated" => undone.push(step),
                _ => {}
            }
        }
        let whole = me.stored.steps.iter().all(|step| step.state != StepState::CompensationFailed);
        if me.stored.direction == Direction::Unwinding && whole && me.stored.reason.as_deref() != Some("Abandoned") {
            completed.reverse();
            prop_assert_eq!(&undone, &completed, "undone is the reverse of completed");
        }
        if me.stored.direction == Direction::Forward {
            prop_assert!(undone.is_empty());
        }
        Ok(())
    }
}

fn any_end() -> impl Strategy<Value = (End, u8)> {
    let end = prop_oneof![6 => Just(End::Done), 2 => Just(End::Retryable), 1 => Just(End::Fatal), 1 => Just(End::Never), 1 => Just(End::Park)];
    (end, 0..3_u8)
}

fn any_script() -> impl Strategy<Value = Script> {
    prop::collection::vec(any_end(), 1..12).prop_map(|ends| Script { ends })
}

fn any_plan(once: bool) -> impl Strategy<Value = Plan> {
    let step = (any::<u8>(), prop::bool::weighted(0.5), 1..4_i32, any::<u8>());
    (prop::collection::vec(step, 1..6), prop::option::weighted(0.3, 0..6_usize), 0..6_usize).prop_map(
        move |(parts, no_return, before)| {
            let count = parts.len();
            let name = |index: usize| format!("s{index}");
            let mut steps: Vec<StepSpec> = vec![];
            for (index, (on, undo, attempts, kind)) in parts.iter().enumerate() {
                let depends_on = (0..index).filter(|bit| on >> bit & 1 == 1).map(name).collect();
                let kind = match kind % 4 {
                    0 if once => StepKind::OnceOnly,
                    1 => StepKind::ReadVerify,
                    _ => StepKind::Idempotent,
                };
                let policy = RetryPolicy {
                    max_attempts: Some(*attempts),
                    backoff: Some(if on % 2 == 0 { Backoff::None } else { Backoff::Exponential }),
                    ..RetryPolicy::default()
                };
                steps.push(StepSpec {
                    name: name(index),
                    action: "x".into(),
                    kind,
                    depends_on,
                    retry_policy: Some(policy),
                    timeout: Some("30s".into()),
                    compensate: undo.then(|| format!("u{index}")),
                    skippable: on % 3 == 0,
                    ..StepSpec::default()
                });
            }
            for (index, (_, undo, ..)) in parts.iter().enumerate() {
                if *undo {
                    steps.push(StepSpec {
                        name: format!("u{index}"),
                        action: "x".into(),
                        timeout: Some("30s".into()),
                        ..StepSpec::default()
                    });
                }
            }
            let lock = LockPlan {
                operation: LockOperation::Maintenance,
                holder: "model".into(),
                holder_uid: String::new(),
                before: Some(name(before.min(count - 1))).filter(|_| before % 2 == 1 && before < count && before == 0),
                force: false,
                message: None,
            };
            let point_of_no_return = no_return.filter(|&index| index < count).map(name);
            Plan { steps, lock: Some(lock), point_of_no_return, ..Plan::default() }
        },
    )
}

/// What the end of a run comes to, without times and counts.
fn essence(status: &OpenBaoOperationStatus) -> (OperationPhase, Direction, Vec<(String, StepState, i32)>) {
    let steps = status.steps.iter().map(|step| (step.name.clone(), step.state, step.attempt)).collect();
    (status.phase, status.direction, steps)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 5_000, ..ProptestConfig::default() })]

    /// Every run ends, gives its lock back, and has undone exactly what it had done, in reverse.
    #[test]
    fn every_run_ends_and_undoes_in_reverse(plan in any_plan(true), script in any_script()) {
        let mut world = World::new(vec![(plan, script)]);
        world.end(0, &Faults::default())?;
    }

    /// Killed after any of the things it does, with or without having heard the answer, an operation without `OnceOnly`
    /// steps comes to the same end as if nothing had happened.
    #[test]
    fn crashes_change_nothing(plan in any_plan(false), script in any_script(), crashes in prop::collection::vec((0..12_u8, any::<bool>()), 0..12)) {
        let mut calm = World::new(vec![(plan.clone(), script.clone())]);
        calm.end(0, &Faults::default())?;
        let mut rough = World::new(vec![(plan, script)]);
        for (after, lose) in crashes {
            let mut pass = rough.begin(0, &Faults::default());
            for turn in 0..=after {
                match rough.turn(&mut pass, lose && turn == after, true)? {
                    Turn::More => {}
                    Turn::Over(Ask::Rest { after }) => {
                        rough.now += TimeDelta::from_std(after).unwrap() + TimeDelta::seconds(1);
                        break;
                    }
                    Turn::Over(_) | Turn::Raced => break,
                }
            }
        }
        rough.end(0, &Faults::default())?;
        prop_assert_eq!(essence(&calm.ops[0].stored), essence(&rough.ops[0].stored));
    }

    /// Two processes, each believing that it leads, take turns over one operation with crashes in between: what must
    /// happen once happens at most once. (The world checks it in `act`.)
    #[test]
    fn two_leaders_do_nothing_twice(plan in any_plan(true), script in any_script(), turns in prop::collection::vec((any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1)), 0..120)) {
        let mut world = World::new(vec![(plan, script)]);
        let mut passes: [Option<Pass>; 2] = [None, None];
        for (which, crash, lose) in turns {
            let which = usize::from(which);
            if crash {
                passes[which] = None;
                continue;
            }
            let mut pass = match passes[which].take() {
                Some(pass) => pass,
                None => world.begin(0, &Faults::default()),
            };
            match world.turn(&mut pass, lose, false)? {
                Turn::More => passes[which] = Some(pass),
                Turn::Over(Ask::Rest { after }) => world.now += TimeDelta::from_std(after).unwrap(),
                Turn::Over(_) | Turn::Raced => {}
            }
        }
        world.end(0, &Faults::default())?;
    }

    /// Two operations want the lock of one cluster: whoever acts holds it (checked at each call), the other waits and
    /// gets its turn.
    #[test]
    fn two_operations_never_act_together(plans in prop::collection::vec((any_plan(true), any_script()), 2..3), turns in prop::collection::vec((0..2_usize, prop::bool::weighted(0.05), prop::bool::weighted(0.05)), 0..160)) {
        let mut world = World::new(plans);
        let mut passes: [Option<Pass>; 2] = [None, None];
        for (op, crash, lose) in turns {
            if crash {
                passes = [None, None];
                continue;
            }
            let mut pass = match passes[op].take() {
                Some(pass) => pass,
                None => world.begin(op, &Faults::default()),
            };
            match world.turn(&mut pass, lose, true)? {
                Turn::More => passes[op] = Some(pass),
                Turn::Over(Ask::Rest { after }) => world.now += TimeDelta::from_std(after).unwrap(),
                Turn::Over(_) => {}
                Turn::Raced => passes = [None, None],
            }
        }
        // Whoever holds the lock ends first.
        let first = usize::from(world.lock.as_ref().is_some_and(|(uid, _)| uid == "u1"));
        world.end(first, &Faults::default())?;
        if world.lock.is_none() {
            world.end(1 - first, &Faults::default())?;
        }
    }

    /// The lock goes into other hands between two looks, and comes back: whatever acts, forward or back, holds it (checked at
    /// each call), and the run still comes to an end.
    #[test]
    fn nothing_is_done_or_undone_while_the_lock_is_in_other_hands(plan in any_plan(true), script in any_script(), thefts in prop::collection::vec(prop::bool::weighted(0.3), 0..40)) {
        let mut world = World::new(vec![(plan, script)]);
        for (index, stolen) in thefts.into_iter().chain([false]).enumerate() {
            if stolen {
                world.fence += 1;
                world.lock = Some(("thief".to_owned(), world.fence));
                world.shows = Shows::default();
            } else if world.lock.as_ref().is_some_and(|(uid, _)| uid == "thief") {
                world.lock = None;
            }
            if world.ops[0].stored.phase == OperationPhase::Unknown {
                ask_for(&mut world, &format!("n{index}"), RequestAction::Resume);
            }
            let mut pass = world.begin(0, &Faults::default());
            for _ in 0..6 {
                match world.turn(&mut pass, false, true)? {
                    Turn::More => {}
                    Turn::Over(Ask::Rest { after }) => {
                        world.now += TimeDelta::from_std(after).unwrap() + TimeDelta::seconds(1);
                        break;
                    }
                    Turn::Over(_) | Turn::Raced => break,
                }
            }
        }
        if world.settle(0, &Faults::default())? == Ask::Idle {
            ask_for(&mut world, "give-up", RequestAction::Abandon);
            world.settle(0, &Faults::default())?;
        }
        prop_assert!(world.ops[0].stored.phase.is_terminal(), "{:?}", world.ops[0].stored);
    }

    /// A person may ask for anything at any time: every request gets one answer, and the run still ends in order.
    #[test]
    fn requests_at_any_time_are_answered_once(plan in any_plan(true), script in any_script(), when in prop::collection::vec((0..30_u8, 0..7_u8, 0..6_usize), 0..6)) {
        let mut world = World::new(vec![(plan, script)]);
        for (index, (after, action, step)) in when.iter().enumerate() {
            let mut pass = world.begin(0, &Faults::default());
            for _ in 0..*after {
                match world.turn(&mut pass, false, true)? {
                    Turn::More => {}
                    Turn::Over(Ask::Rest { after }) => {
                        world.now += TimeDelta::from_std(after).unwrap() + TimeDelta::seconds(1);
                        break;
                    }
                    Turn::Over(_) | Turn::Raced => break,
                }
            }
            let action = [
                RequestAction::Cancel, RequestAction::Skip, RequestAction::Retry, RequestAction::Resume,
                RequestAction::Abandon, RequestAction::Stop, RequestAction::Release,
            ][usize::from(*action)];
            let request = Request { nonce: format!("n{index}"), action, step: format!("s{step}"), ..Request::default() };
            world.ops[0].requests.push(request);
        }
        world.end(0, &Faults::default())?;
        let me = &world.ops[0];
        for request in &me.requests {
            let answers = me.stored.handled_requests.iter().filter(|handled| handled.nonce == request.nonce).count();
            prop_assert_eq!(answers, 1, "{}", request.nonce);
        }
    }

    /// A journal that something damaged is refused or bounded with a message: it never panics and never spins.
    #[test]
    fn damaged_journals_are_survived(plan in any_plan(true), script in any_script(), cut in 0..40_u8, damage in prop::collection::vec((0..9_u8, any::<u8>(), any::<i32>()), 1..4)) {
        let mut world = World::new(vec![(plan, script)]);
        let mut pass = world.begin(0, &Faults::default());
        for _ in 0..cut {
            match world.turn(&mut pass, false, true)? {
                Turn::More => {}
                Turn::Over(Ask::Rest { after }) => {
                    world.now += TimeDelta::from_std(after).unwrap();
                    pass = world.begin(0, &Faults::default());
                }
                Turn::Over(_) | Turn::Raced => break,
            }
        }
        let status = &mut world.ops[0].stored;
        for (what, place, number) in damage {
            let place = usize::from(place) % status.steps.len().max(1);
            match what {
                0 => { status.steps.truncate(place); }
                1 => status.plan_hash = Some("0".into()),
                2 => if let Some(step) = status.steps.get_mut(place) { step.attempt = number; },
                3 => if let Some(step) = status.steps.get_mut(place) { step.state = StepState::Compensating; },
                4 => if let Some(step) = status.steps.get_mut(place) { step.state = StepState::Failed; step.receipt = None; },
                5 => if let Some(step) = status.steps.get_mut(place) { step.started_at = DateTime::from_timestamp(i64::from(number) * 1000, 0); },
                6 => status.direction = Direction::Unwinding,
                7 => { if let Some(plan) = &mut status.plan { plan.steps.clear(); } status.ending = Some(OperationPhase::Running); status.closing = Some(true); }
                _ => { let entry = status.history.first().cloned().unwrap_or_default(); status.history = vec![entry; 1_000]; }
            }
        }
        for _ in 0..20 {
            let mut pass = world.begin(0, &Faults::default());
            for _ in 0..200 {
                pass.facts.now = world.now;
                let Ok(ask) = pass.run.next(&pass.facts) else { return Ok(()) };
                let outcome = match ask {
                    Ask::Commit => { world.ops[0].stored = pass.run.status().clone(); pass.run.committed(); Ok(()) }
                    Ask::Call(call) => pass.run.answered(call, StepOutcome::done(), STANDARD, &pass.facts),
                    Ask::Finish { .. } => { pass.run.finished(StepOutcome::done(), STANDARD, &pass.facts); Ok(()) }
                    Ask::Acquire => pass.run.acquired(1, Shows::default(), world.now, None, &mut pass.facts),
                    Ask::Renew { fence, shows } => { pass.facts.lock = LockSeen::Ours { fence, shows }; pass.run.looked(); Ok(()) }
                    Ask::Release => pass.run.released(&mut pass.facts),
                    Ask::Look => { pass.run.looked(); Ok(()) }
                    Ask::Plan | Ask::Rest { .. } | Ask::Idle | Ask::Closed => break,
                };
                if outcome.is_err() { return Ok(()) }
            }
            world.now += TimeDelta::minutes(5);
        }
        // What is appended to an oversized history bounds it.
        if world.ops[0].stored.history.len() > 1_000 { prop_assert!(false, "the history grew"); }
    }
}

// === the test hooks ===

fn line(steps: &[&str]) -> Plan {
    let mut specs: Vec<StepSpec> = vec![];
    for (index, name) in steps.iter().enumerate() {
        specs.push(StepSpec {
            name: (*name).into(),
            action: "x".into(),
            depends_on: index.checked_sub(1).map(|before| steps[before].to_owned()).into_iter().collect(),
            compensate: Some(format!("undo-{name}")),
            ..StepSpec::default()
        });
    }
    for name in steps {
        specs.push(StepSpec { name: format!("undo-{name}"), action: "x".into(), ..StepSpec::default() });
    }
    let lock = LockPlan {
        operation: LockOperation::Maintenance,
        holder: "model".into(),
        holder_uid: String::new(),
        before: None,
        force: false,
        message: None,
    };
    Plan { steps: specs, lock: Some(lock), ..Plan::default() }
}

fn smooth() -> Script {
    Script { ends: vec![(End::Done, 0)] }
}

#[test]
fn failing_any_step_undoes_all_before_it() {
    let names = ["a", "b", "c", "d"];
    for (failing, name) in names.iter().enumerate() {
        let mut world = World::new(vec![(line(&names), smooth())]);
        world.end(0, &Faults { fail: Some((*name).into()), ..Faults::default() }).unwrap();
        let expected: Vec<&str> = names[..failing].iter().rev().copied().collect();
        assert_eq!(world.ops[0].undone, expected, "{name}");
        let phase = if failing == 0 { OperationPhase::Failed } else { OperationPhase::RolledBack };
        assert_eq!(world.ops[0].stored.phase, phase, "{name}");
    }
}

#[test]
fn a_failed_undo_keeps_the_lock_and_what_it_stands_on() {
    let mut world = World::new(vec![(line(&["a", "b", "c", "d"]), smooth())]);
    let faults = Faults { fail: Some("d".into()), fail_undo: Some("b".into()), ..Faults::default() };
    world.end(0, &faults).unwrap();
    let me = &world.ops[0];
    assert_eq!(me.undone, ["c"], "a stays, since b still stands on it");
    assert_eq!((me.stored.phase, me.stored.reason.as_deref()), (OperationPhase::Failed, Some(COMPENSATION_FAILED)));
    assert!(world.lock.is_some());
    let needs = |world: &World| {
        let conditions = &world.ops[0].stored.conditions;
        conditions.iter().any(|one| one.type_ == "NeedsAttention" && one.status == "True")
    };
    assert!(needs(&world));
    let request = Request { nonce: "1".into(), action: RequestAction::Abandon, ..Request::default() };
    world.ops[0].requests.push(request);
    world.settle(0, &Faults::default()).unwrap();
    assert!(world.lock.is_none() && !needs(&world), "Abandon releases the lock");
}

#[test]
fn a_failed_undo_does_not_stop_the_independent_ones() {
    let mut plan = line(&["a", "b", "c"]);
    for step in &mut plan.steps {
        step.depends_on.clear();
    }
    plan.steps[2].depends_on = vec!["a".into(), "b".into()];
    let mut world = World::new(vec![(plan, smooth())]);
    let faults = Faults { fail: Some("c".into()), fail_undo: Some("b".into()), ..Faults::default() };
    world.end(0, &faults).unwrap();
    assert_eq!(world.ops[0].undone, ["a"]);
}

#[test]
fn a_repeated_step_is_called_twice_and_changes_nothing_else() {
    let mut world = World::new(vec![(line(&["a", "b"]), smooth())]);
    world.end(0, &Faults { repeat: Some("b".into()), ..Faults::default() }).unwrap();
    assert_eq!(world.ops[0].looks[&(1, 1)], 2);
    assert_eq!(world.ops[0].looks[&(0, 1)], 1);
    assert_eq!(world.ops[0].stored.phase, OperationPhase::Succeeded);
}

#[test]
fn ten_steps_cost_at_most_two_writes_each() {
    let names: Vec<String> = (0..10).map(|index| format!("s{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new(vec![(line(&names), smooth())]);
    world.end(0, &Faults::default()).unwrap();
    assert!(world.ops[0].version <= 20, "{} writes", world.ops[0].version);
}

// === parking ===

/// Runs `op` until it rests, and answers how it rests.
fn until_rest(world: &mut World, op: usize) -> Ask {
    let mut pass = world.begin(op, &Faults::default());
    for _ in 0..200 {
        match world.turn(&mut pass, false, true).unwrap() {
            Turn::More => {}
            Turn::Over(ask) => return ask,
            Turn::Raced => panic!("nobody else is there"),
        }
    }
    panic!("it does not come to rest");
}

fn parked_world() -> World {
    let mut plan = line(&["a", "b", "c"]);
    plan.steps[1].compensate = None;
    plan.steps.retain(|step| step.name != "undo-b");
    plan.steps[1].timeout = Some("336h".into());
    let script = Script {
        ends: vec![(End::Done, 0); 5]
            .into_iter()
            .chain(vec![(End::Park, 0); 5])
            .chain(vec![(End::Done, 0); 90])
            .collect(),
    };
    let mut world = World::new(vec![(plan, script)]);
    assert!(matches!(until_rest(&mut world, 0), Ask::Rest { .. }));
    world
}

fn ask_for(world: &mut World, nonce: &str, action: RequestAction) {
    world.ops[0].requests.push(Request { nonce: nonce.into(), action, by: "ops".into(), ..Request::default() });
}

#[test]
fn a_parked_step_shows_it_in_the_lock_and_goes_on_when_somebody_says_resume() {
    let mut world = parked_world();
    assert!(world.shows.parked);
    let stored = &world.ops[0].stored;
    assert!(stored.steps[1].parked_at.is_some() && stored.reason.as_deref() == Some("Parked"));
    // However long it takes and however often the process dies: it stays parked.
    for _ in 0..5 {
        world.now += TimeDelta::days(2);
        assert!(matches!(until_rest(&mut world, 0), Ask::Rest { .. }));
        assert!(world.shows.parked);
    }
    ask_for(&mut world, "1", RequestAction::Resume);
    world.end(0, &Faults::default()).unwrap();
    let me = &world.ops[0];
    assert_eq!(me.stored.phase, OperationPhase::Succeeded);
    assert_eq!(me.stored.steps[1].resumed_by.as_deref(), Some("ops"));
    let answer = &me.stored.handled_requests[0];
    assert_eq!(format!("{:?}", answer.outcome), "Applied", "{}", answer.message);
    let moves: Vec<_> =
        me.stored.history.iter().filter(|entry| entry.fields.get("step").is_some_and(|step| step == "b")).collect();
    assert!(moves.windows(2).any(|pair| pair[0].phase_to == "parked" && pair[1].phase_from == "parked"));
}

#[test]
fn a_parked_step_that_is_cancelled_goes_back_with_a_lock_that_is_held() {
    let mut world = parked_world();
    ask_for(&mut world, "1", RequestAction::Cancel);
    world.end(0, &Faults::default()).unwrap();
    assert_eq!(
        (world.ops[0].stored.phase, world.ops[0].undone.as_slice()),
        (OperationPhase::Cancelled, &["a".to_owned()][..])
    );
}

#[test]
fn a_parked_step_that_everybody_forgot_turns_back() {
    let mut world = parked_world();
    world.now += TimeDelta::days(15);
    world.end(0, &Faults::default()).unwrap();
    assert_eq!(world.ops[0].stored.phase, OperationPhase::RolledBack);
    assert!(world.ops[0].stored.steps[1].error.as_ref().is_some_and(|error| error.contains("nobody said Resume")));
}

#[test]
fn resume_before_anything_is_parked_is_refused_and_does_not_count_later() {
    let mut world = World::new(vec![(line(&["a"]), smooth())]);
    ask_for(&mut world, "early", RequestAction::Resume);
    world.end(0, &Faults::default()).unwrap();
    let mut parked = parked_world();
    parked.ops[0].requests.clear();
    assert_eq!(format!("{:?}", world.ops[0].stored.handled_requests[0].outcome), "Refused");
}

#[path = "exhaustive_tests.rs"]
mod exhaustive;
