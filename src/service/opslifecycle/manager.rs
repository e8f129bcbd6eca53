//! What a manager tells the engine, and what it is called with.
//!
//! A manager knows one or more kinds of operation. It answers three questions: what is the plan, what became of this
//! step, is everything cleaned up. It never writes an operation's status and never touches the lock: the engine does.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use super::{asked::Parameter, retry::RetryClass, saga::WAITING_FOR_LOCK};
use crate::{
    adapter::{Adapters, operationlock::HeldError, turns::Turns},
    api::{
        cluster::{OpenBaoCluster, status::OperationLock},
        operation::{OpenBaoOperation, OperationKind, OperationPhase, Plan, Receipt, StepSpec, StepStatus},
    },
};

/// Runs the operations of some kinds.
///
/// Every method may be called again at any time, after a crash at any point: `plan` only reads, `run` and `finish` are
/// level-triggered. The engine makes sure that the lock is held when the plan says so, that a step is not called past
/// its deadline, and that a `OnceOnly` step is called in [`StepMode::Run`] at most once per receipt.
pub trait Manager: Send + Sync {
    /// The kinds of operation it runs.
    fn kinds(&self) -> &'static [OperationKind];

    /// The actions it knows, if that is a closed list: a plan with any other is refused before it starts.
    fn actions(&self) -> Option<&'static [&'static str]> {
        None
    }

    /// What `spec.parameters` may say: an operation that says anything else is refused before it starts.
    fn parameters(&self) -> &'static [Parameter] {
        &[]
    }

    /// The plan and the inputs that are frozen when the operation starts. It may read and never acts.
    fn plan<'a>(&'a self, call: PlanCall<'a>) -> BoxFuture<'a, Result<Planned, Refusal>>;

    /// Asked right before a free lock is taken: whether everything stands ready for the steps under it. What was ready when
    /// the wait began may have had to be given up since, and is to be made again while the lock is still free for others.
    /// `call.step` is the first step under the lock, which has not begun. [`StepOutcome::Done`] takes the lock,
    /// [`StepOutcome::Waiting`] leaves it free, [`StepOutcome::Failed`] ends the operation.
    fn ready<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome> {
        let _ = call;
        Box::pin(std::future::ready(StepOutcome::done()))
    }

    /// Advances one step. Called again and again until it says [`StepOutcome::Done`] or [`StepOutcome::Failed`], on
    /// every change of the operation's Jobs and at the latest after the retry class it asked for. A step named by another
    /// one's `compensate` is called through here too.
    fn run<'a>(&'a self, call: StepCall<'a>) -> BoxFuture<'a, StepOutcome>;

    /// Cleans up before the lock is given back, at any end: Jobs gone, directives cleared. Must be idempotent and create
    /// nothing, for it also runs in a namespace that is being deleted. [`StepOutcome::Waiting`] keeps it open.
    fn finish<'a>(&'a self, call: FinishCall<'a>) -> BoxFuture<'a, StepOutcome>;
}

/// A plan and its frozen inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Planned {
    /// The steps, the lock they need, the point of no return.
    pub plan: Plan,
    /// What the steps work with, frozen in the status: never a secret, a few kilobytes at most.
    pub inputs: BTreeMap<String, String>,
}

/// Why an operation does not start, or not yet.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What becomes of the operation.
    pub phase: RefusalPhase,
    /// One CamelCase word.
    pub reason: &'static str,
    /// What is wrong, with which object, and what to do about it.
    pub message: String,
    /// The lock that it waits for, in other hands.
    pub held: Option<Box<HeldError>>,
}

/// What a refused start means for the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalPhase {
    /// A gate that does not hold: terminal, nothing was done.
    ConstraintFailed,
    /// It can never work as asked: terminal.
    Failed,
    /// Not yet: it stays `Pending`, says why, and is asked again.
    Wait(RetryClass),
}

impl Refusal {
    /// A gate does not hold.
    pub fn constraint(reason: &'static str, message: impl Into<String>) -> Self {
        Self { phase: RefusalPhase::ConstraintFailed, reason, message: message.into(), held: None }
    }

    /// It can never work as asked.
    pub fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self { phase: RefusalPhase::Failed, reason, message: message.into(), held: None }
    }

    /// Not yet.
    pub fn wait(retry: RetryClass, reason: &'static str, message: impl Into<String>) -> Self {
        Self { phase: RefusalPhase::Wait(retry), reason, message: message.into(), held: None }
    }

    /// Not yet: somebody else has the cluster's lock. Its release wakes whoever waits.
    pub fn locked(lock: &OperationLock) -> Self {
        let held = HeldError::from(lock);
        let message = format!("waiting: {held}");
        Self { held: Some(Box::new(held)), ..Self::wait(RetryClass::Standard, WAITING_FOR_LOCK, message) }
    }
}

impl From<Refusal> for StepOutcome {
    /// The same for an operation that has a plan and waits for its lock: nothing was done.
    fn from(refusal: Refusal) -> Self {
        match refusal.phase {
            RefusalPhase::Wait(retry) => Self::Waiting { reason: refusal.message, retry },
            RefusalPhase::ConstraintFailed | RefusalPhase::Failed => Self::fatal(refusal.reason, refusal.message),
        }
    }
}

/// What [`Manager::plan`] is called with.
#[derive(Clone, Copy, Debug)]
pub struct PlanCall<'a> {
    /// The way to every server.
    pub ad: &'a Adapters,
    /// The operation that is to start.
    pub op: &'a OpenBaoOperation,
    /// Its cluster, freshly read.
    pub cluster: &'a OpenBaoCluster,
    /// The present time.
    pub now: DateTime<Utc>,
}

/// What [`Manager::run`] is called with.
#[derive(Clone, Copy, Debug)]
pub struct StepCall<'a> {
    /// The way to every server.
    pub ad: &'a Adapters,
    /// The operation, with its journal as it was last written.
    pub op: &'a OpenBaoOperation,
    /// Its cluster, freshly read. `None` when it is gone: steps that need it fail.
    pub cluster: Option<&'a OpenBaoCluster>,
    /// The step as planned.
    pub step: &'a StepSpec,
    /// Its journal: attempt, start, receipt.
    pub state: &'a StepStatus,
    /// The frozen inputs.
    pub inputs: &'a BTreeMap<String, String>,
    /// Whether to act, or only to find out.
    pub mode: StepMode,
    /// For steps that look again by themselves: others may wait for the turn that this one has.
    pub turns: &'a Turns,
    /// The fence of the lock under which it runs; `None` without a lock.
    pub fence: Option<i64>,
    /// When the step has to be over.
    pub deadline: DateTime<Utc>,
    /// The present time.
    pub now: DateTime<Utc>,
}

impl<'a> StepCall<'a> {
    /// What an earlier step put out under `key`.
    pub fn output(&self, step: &str, key: &str) -> Option<&'a str> {
        let status = self.op.status.as_ref()?;
        status.steps.iter().find(|done| done.name == step)?.output.get(key).map(String::as_str)
    }

    /// A frozen input.
    pub fn input(&self, key: &str) -> Option<&'a str> {
        self.inputs.get(key).map(String::as_str)
    }

    /// The receipt of this attempt, for a `OnceOnly` step.
    pub fn receipt(&self) -> Option<&'a Receipt> {
        self.state.receipt.as_ref()
    }
}

/// What a step is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepMode {
    /// Act, or go on acting.
    Run,
    /// A `OnceOnly` step whose receipt is written and whose result is not known: find out, and never act again.
    /// Answer `Done`, `Waiting`, `NotApplied` or `Unknown`.
    Prove,
    /// This step undoes the one named here.
    Undo,
}

/// What [`Manager::finish`] is called with.
#[derive(Clone, Copy, Debug)]
pub struct FinishCall<'a> {
    /// The way to every server.
    pub ad: &'a Adapters,
    /// The operation, with its journal as it was last written. Its plan may be absent when it never started.
    pub op: &'a OpenBaoOperation,
    /// Its cluster, if there still is one.
    pub cluster: Option<&'a OpenBaoCluster>,
    /// The phase in which it will end.
    pub ending: OperationPhase,
    /// The operation's object, or its namespace, is being deleted.
    pub deleting: bool,
    /// The present time.
    pub now: DateTime<Utc>,
}

/// What became of a step, or of a clean-up.
#[derive(Clone, Debug, PartialEq)]
pub enum StepOutcome {
    /// It is done. The output is small and holds no secret. The keys `key`, `manifestKey`, `sha256` and `sizeBytes` are
    /// copied into `status.artifacts`.
    Done {
        /// What later steps and people want to know.
        output: BTreeMap<String, String>,
    },
    /// It goes on: what is awaited and from whom, and when to look again.
    Waiting {
        /// For `status.message`.
        reason: String,
        /// When to look again if nothing wakes us.
        retry: RetryClass,
    },
    /// Everything up to here is done, and a person (or a rollout) says how it goes on: `Resume` or `Cancel`. The lock is shown
    /// as `Parked`, so that backups may run meanwhile. The step is called again at every look, so it may also answer
    /// `Done` by itself when the world has moved on. After a `Resume` the lock is shown as `Held` again and the call's
    /// `state.resumed_by` is set.
    Parked {
        /// What is awaited and from whom, for `status.message`.
        reason: String,
        /// No deadline: whoever parks here has promised to come back. Else the step's own timeout counts.
        unlimited: bool,
    },
    /// It failed; whatever it began, it has cleaned up. For a `OnceOnly` step this means that the effect certainly did
    /// not happen.
    Failed {
        /// One CamelCase word.
        reason: &'static str,
        /// What happened, to which object, and what to do.
        message: String,
        /// Whether another attempt could help.
        retryable: bool,
    },
    /// Only from [`StepMode::Prove`]: the effect certainly did not happen and cannot happen any more.
    NotApplied {
        /// How that is known.
        message: String,
    },
    /// It cannot be known whether the effect happened. The operation waits for a person and keeps its lock. After a `Resume` the
    /// step is proven again, with the call's `state.resumed_by` set.
    Unknown {
        /// What was tried, and how a person can find out.
        message: String,
    },
}

impl StepOutcome {
    /// Done, with nothing to tell.
    pub fn done() -> Self {
        Self::Done { output: BTreeMap::new() }
    }

    /// Done, with `output`.
    pub fn done_with<K: Into<String>, V: Into<String>>(output: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::Done { output: output.into_iter().map(|(key, value)| (key.into(), value.into())).collect() }
    }

    /// A Job or a long step is under way.
    pub fn in_progress(reason: impl Into<String>) -> Self {
        Self::Waiting { reason: reason.into(), retry: RetryClass::ProgressPoll }
    }

    /// Failed in a way that another attempt could help.
    pub fn retryable(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Failed { reason, message: message.into(), retryable: true }
    }

    /// Failed for good.
    pub fn fatal(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Failed { reason, message: message.into(), retryable: false }
    }
}
