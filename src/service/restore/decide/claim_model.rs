//! The submission of a restore, exhaustively: two operators that both think they lead, movers, an API server and an OpenBao
//! that may lose what it has accepted; every interleaving in which up to [`STRIKES`] things go wrong: a death, an answer that
//! never comes, a second operator that begins while the first is at work, an outcome that nobody can tell until a person asks for
//! Resume. A failover or a restart of the server comes on top. The engine, the mover's decision to claim, the proof and what
//! follows from it are the real ones. A mover that is told to go and is not waited for goes on for as long as it likes.
//!
//! No clock of a mover is ever right here, and nothing hangs on it. The operators see everything in the very moment in which
//! it happens: one that sees it later waits longer, and decides nothing that this one does not (a property test beside the
//! proof says so).
//!
//! Three reductions that hide nothing: what an operator only thinks, without reading or writing anything shared, is one move
//! with the deed that follows it; so is a write that only says something else; and two operators that have changed places are
//! the same state.

use std::hash::{Hash, Hasher};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use stateright::{Checker, Model, Property};

use super::again::{Over, no_more};
use super::prove::{
    self, Answer, Claimed, Facts as ProofFacts, LeaderSeen, Marker, MemberSeen, MemberState, Mover, Outcome, Witness,
};
use crate::{
    api::{
        common::{Request, RequestAction},
        operation::{
            Backoff, OpenBaoOperationStatus, OperationKind, OperationPhase, Plan, RetryPolicy, StepKind, StepSpec,
        },
    },
    datapath::protocol::{Claim, Endpoint, Grant, Peer, Permit, Submission, SubmissionOutcome, may_claim},
    service::opslifecycle::{
        Planned, StepMode, StepOutcome,
        saga::{
            faults::Faults,
            machine::{Journal, Subject},
            run::{Ask, Call, Facts, LockSeen, Run, Shows, key_of},
        },
    },
};

const STANDARD: Duration = Duration::from_secs(60);
/// One tick of the model's clock: longer than an unused permit is left to stand, and than a server takes to begin applying.
const TICK: Duration = Duration::from_secs(120);
const TICKS: i32 = 2;
/// Movers, one after the other.
const PODS: usize = 2;
/// Deaths of operators and movers, answers that never come, looks of one operator that begin while another's is not over, and
/// outcomes that nobody can tell.
const STRIKES: u8 = 1;

/// What a mover is about to do.
#[derive(Clone, Debug, PartialEq)]
enum Pod {
    /// It has a verified snapshot and waits for a permit.
    Ready,
    /// It has seen this permit.
    Permitted(Permit),
    /// It has read the object again and found that it may claim.
    Claiming(Permit, u32),
    /// Its claim was written at this tick, which the mover measures by a steady clock of its own.
    Claimed(Permit, i32),
    /// It is connected to this process of the server, and the snapshot is on its way, however long that takes.
    Sending(u8),
    /// It has sent the snapshot and not yet said so.
    Sent,
    /// Since when.
    Ended(i32),
}

/// What became of a snapshot that a server took.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Post {
    Accepted,
    Applied,
    Lost,
}

/// The object through which operator and mover speak.
#[derive(Clone, Debug, Default, PartialEq)]
struct Mailbox {
    version: u32,
    grant: Option<Grant>,
    claim: Option<Claim>,
    result: Option<Submission>,
    /// When the permit and the claim were written, which nobody can read there.
    granted: i32,
    claimed: i32,
    /// The attempts that are over, and whether each was claimed.
    past: Vec<(i32, bool)>,
}

/// The server that leads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Server {
    /// Another pod than in the beginning.
    other: bool,
    /// Another process than in the beginning.
    restarted: bool,
}

impl Server {
    fn uid(self) -> String {
        if self.other { "l1".into() } else { "l0".into() }
    }

    fn process(self) -> u8 {
        u8::from(self.other) + u8::from(self.restarted)
    }
}

/// An operator's look at the operation.
#[derive(Clone, Debug)]
struct Pass {
    version: u32,
    run: Run,
    facts: Facts,
    /// What it read for the call that is under way, and the pod that was ready then.
    read: Option<(Mailbox, Option<usize>)>,
}

#[derive(Clone, Debug)]
struct State {
    stored: OpenBaoOperationStatus,
    version: u32,
    passes: [Option<Pass>; 2],
    mailbox: Mailbox,
    pods: Vec<Pod>,
    /// So many of them, the first ones, were told to go.
    leaving: usize,
    posts: Vec<Post>,
    clock: i32,
    server: Server,
    strikes: u8,
    /// Whose data the server has cannot be told.
    blind: bool,
    /// A person has asked for Resume.
    resumed: bool,
    broken: Option<&'static str>,
    key: String,
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
    /// An operator does the next thing; with `dies` it never hears what came of it.
    Operator {
        who: usize,
        dies: bool,
    },
    Forget(usize),
    /// A mover does the next thing; with `dies` it ends right after it.
    Mover {
        pod: usize,
        dies: bool,
    },
    /// The server begins to serve what it has accepted.
    Apply,
    /// The leader's pod is lost, and with it what it had accepted and not applied.
    FailOver,
    /// The same in the same pod: another process serves.
    Restart,
    /// From now on nobody can tell whose data the server has.
    Blind,
    /// It can be told again, and a person asks for Resume.
    Resume,
    Tick,
}

struct Submissions;

fn at(clock: i32) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::from_std(TICK).unwrap() * clock
}

/// The same by the steady clock of the operators.
fn moment(clock: i32) -> Instant {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    *BEGAN + TICK * u32::try_from(clock).unwrap()
}

/// What a mover's node takes for the time, always.
fn wrong_clock() -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000_000, 0).unwrap()
}

fn uid(pod: usize) -> String {
    format!("p{pod}")
}

fn submission(pod: usize, outcome: SubmissionOutcome) -> Submission {
    Submission { pod_uid: uid(pod), fence: 1, outcome, status: None, message: String::new(), at: wrong_clock() }
}

fn plan() -> Plan {
    let policy = RetryPolicy { max_attempts: Some(3), backoff: Some(Backoff::None), ..RetryPolicy::default() };
    let submit = StepSpec {
        name: "Submit".into(),
        action: "Submit".into(),
        kind: StepKind::OnceOnly,
        retry_policy: Some(policy),
        timeout: Some("120m".into()),
        ..StepSpec::default()
    };
    Plan { steps: vec![submit], point_of_no_return: Some("Submit".into()), ..Plan::default() }
}

impl State {
    fn with_key(mut self) -> Self {
        // How far the versions have counted is no difference, only whether one is the present one.
        let current = self.mailbox.version;
        let unnumbered = |mailbox: &Mailbox| Mailbox { version: 0, ..mailbox.clone() };
        let mut passes = self.passes.each_ref().map(|pass| {
            pass.as_ref().map(|pass| {
                let read = pass.read.as_ref().map(|(read, pod)| (read.version == current, unnumbered(read), *pod));
                format!("{:?}", (pass.version == self.version, &pass.facts.lock, pass.run.key(), read))
            })
        });
        passes.sort();
        let pods: Vec<_> = self
            .pods
            .iter()
            .map(|pod| match pod {
                Pod::Claiming(permit, version) => Pod::Claiming(permit.clone(), u32::from(*version == current)),
                other => other.clone(),
            })
            .collect();
        let world = (self.clock, self.server, self.strikes, self.leaving, self.blind, self.resumed);
        let rest = (unnumbered(&self.mailbox), pods, &self.posts, world, self.broken);
        self.key = format!("{} {passes:?} {rest:?}", key_of(&self.stored));
        self
    }

    fn begin(&self) -> Pass {
        let subject = Subject { kind: OperationKind::Restore, ..Subject::default() };
        let facts = Facts {
            now: at(self.clock),
            deleting: false,
            cluster_gone: false,
            lock: LockSeen::Ours { fence: 1, shows: Shows { parked: false, committed: true } },
            overridden_by: None,
            supported: true,
            message_written_at: None,
        };
        let resume = Request { nonce: "1".into(), action: RequestAction::Resume, ..Request::default() };
        let requests = if self.resumed { vec![resume] } else { vec![] };
        let run = Run::new(Journal { status: self.stored.clone(), subject }, requests, Faults::default());
        Pass { version: self.version, run, facts, read: None }
    }

    fn ready(&self) -> Option<usize> {
        (self.leaving..self.pods.len()).find(|&pod| !matches!(self.pods[pod], Pod::Ended(_)))
    }

    /// One thing that an operator does. `None`: its look is over.
    fn operate(&mut self, mut pass: Pass) -> Option<Pass> {
        pass.facts.now = at(self.clock);
        let ask = loop {
            match pass.run.next(&pass.facts) {
                Ok(Ask::Plan) => {
                    let planned = Planned { plan: plan(), ..Planned::default() };
                    pass.run.planned(Ok(planned), None, STANDARD, &pass.facts).ok()?;
                }
                Ok(Ask::Look) => pass.run.looked(),
                Ok(Ask::Commit)
                    if pass.version == self.version && key_of(pass.run.status()) == key_of(&self.stored) =>
                {
                    self.stored = pass.run.status().clone();
                    pass.run.committed();
                }
                Ok(ask) => break ask,
                Err(_) => {
                    self.broken = Some("the engine contradicts itself");
                    return None;
                }
            }
        };
        match ask {
            Ask::Commit => {
                if pass.version != self.version {
                    return None;
                }
                self.version += 1;
                pass.version = self.version;
                self.stored = pass.run.status().clone();
                pass.run.committed();
            }
            Ask::Call(call) => match pass.read.take() {
                None => pass.read = Some((self.mailbox.clone(), self.ready())),
                Some((read, pod)) => {
                    let outcome = match call.mode {
                        StepMode::Run => self.grant(&pass, call, &read, pod),
                        StepMode::Prove | StepMode::Undo => self.prove(&pass, call, &read),
                    };
                    match outcome {
                        Some(outcome) => pass.run.answered(call, outcome, STANDARD, &pass.facts).ok()?,
                        // It lost a race for the object, and reads again.
                        None => pass.read = Some((self.mailbox.clone(), pod)),
                    }
                }
            },
            Ask::Finish { ending } => {
                self.disarm(ending);
                pass.run.finished(StepOutcome::done(), STANDARD, &pass.facts);
            }
            Ask::Release => pass.run.released(&mut pass.facts).ok()?,
            Ask::Plan | Ask::Look | Ask::Acquire | Ask::Renew { .. } | Ask::Rest { .. } | Ask::Idle | Ask::Closed => {
                return None;
            }
        }
        Some(pass)
    }

    /// The permit, written against what was read.
    fn grant(&mut self, pass: &Pass, call: Call, read: &Mailbox, pod: Option<usize>) -> Option<StepOutcome> {
        let attempt = pass.run.journal().step(call.step).map_or(0, |step| step.attempt);
        let over = read.past.iter().any(|(past, _)| *past == attempt);
        if read.claim.is_some() || read.grant.is_some() || over {
            return Some(StepOutcome::in_progress("a permit was handed out already"));
        }
        let Some(pod) = pod else { return Some(StepOutcome::retryable("NotSubmitted", "no mover is ready")) };
        if self.resumed {
            self.broken = Some("a permit was given after a Resume");
        }
        if read.version != self.mailbox.version {
            return None;
        }
        let leader = Peer { pod: "c-0".into(), pod_uid: self.server.uid(), ..Peer::default() };
        let expires_at = at(self.clock) + TimeDelta::seconds(60);
        let permit = Permit { pod_uid: uid(pod), fence: 1, leader, endpoint: Endpoint::Snapshot, expires_at };
        self.mailbox.grant = Some(Grant::Granted(permit));
        self.mailbox.granted = self.clock;
        self.mailbox.version += 1;
        Some(StepOutcome::in_progress("waiting for the mover to claim"))
    }

    /// Whoever could still claim or send is seen to have ended.
    fn stop(&mut self) {
        for pod in self.pods.iter_mut().filter(|pod| !matches!(pod, Pod::Ended(_))) {
            *pod = Pod::Ended(self.clock);
        }
    }

    /// Sees to it that nobody can send any more: who may be sending is seen to have ended, who has not claimed gets no permit.
    /// One whose snapshot is proven to be there has sent it.
    fn disarm(&mut self, ending: OperationPhase) {
        if self.mailbox.claim.is_none() {
            self.mailbox.grant = Some(Grant::Refused { refused: "over".into() });
            self.mailbox.version += 1;
        } else if self.mailbox.result.is_none() && ending != OperationPhase::Succeeded {
            self.stop();
        }
        self.leaving = self.pods.len();
    }

    fn prove(&mut self, pass: &Pass, call: Call, read: &Mailbox) -> Option<StepOutcome> {
        let step = pass.run.journal().step(call.step);
        let attempt = step.map_or(0, |step| step.attempt);
        let resumed_by = step.and_then(|step| step.resumed_by.as_deref());
        let submitted = read.past.iter().filter(|(_, claimed)| *claimed).count();
        if read.past.iter().any(|(past, _)| *past == attempt) {
            return Some(self.again(submitted, resumed_by));
        }
        if self.blind && read.claim.is_some() {
            return Some(StepOutcome::Unknown { message: "nobody can tell".into() });
        }
        let applied = self.posts.contains(&Post::Applied);
        let mine = self.pods.iter().enumerate().find(|(pod, _)| match &read.claim {
            Some(claim) => claim.pod_uid == uid(*pod),
            None => *pod + 1 == self.pods.len(),
        });
        let gone = match mine {
            Some((_, Pod::Ended(since))) => Some(moment(*since)),
            Some(_) => None,
            None => Some(moment(self.clock)),
        };
        let claimed = |claim: &Claim| {
            // A mover ends with the word that it writes.
            Claimed { leader_pod_uid: claim.leader_pod_uid.clone(), since: moment(read.claimed), over: gone }
        };
        let leader = LeaderSeen {
            pod: "c-0".into(),
            pod_uid: self.server.uid(),
            marker: if applied { Marker::Gone } else { Marker::Present },
            token: if applied { Witness::Denied } else { Witness::Valid },
            cluster_id: None,
        };
        let permitted = matches!(read.grant, Some(Grant::Granted(_)));
        let facts = ProofFacts {
            permit: permitted.then(|| moment(read.granted)),
            revoked: !permitted,
            claim: read.claim.as_ref().map(claimed),
            submission: read.result.as_ref().map(Answer::from),
            mover: gone.map_or(Mover::Running, |_| Mover::Gone),
            leader: read.claim.as_ref().map(|_| leader),
            members: vec![MemberSeen { pod: "c-0".into(), state: MemberState::Active }],
            new_cluster_id: None,
            restarted: None,
        };
        let fresh = read.version == self.mailbox.version;
        Some(match prove::prove(&facts, moment(self.clock)) {
            Outcome::Wait(what) => StepOutcome::in_progress(what),
            Outcome::Revoke => {
                if fresh && read.claim.is_none() {
                    self.mailbox.grant = Some(Grant::Refused { refused: "the permit ran out".into() });
                    self.mailbox.version += 1;
                }
                StepOutcome::in_progress("the permit ran out")
            }
            Outcome::NothingPosted(_) | Outcome::NotApplied(_) => {
                // Who may be sending is stopped, and seen to have ended, before anything is written. Who has claimed nothing is
                // told to go: the write takes its permit away.
                if read.claim.is_some() && read.result.is_none() {
                    self.stop();
                }
                if read.grant.is_some() || read.claim.is_some() {
                    self.leaving = self.pods.len();
                }
                if !fresh {
                    return Some(StepOutcome::in_progress("the mover wrote meanwhile"));
                }
                let past = [self.mailbox.past.clone(), vec![(attempt, read.claim.is_some())]].concat();
                self.mailbox = Mailbox { version: read.version + 1, past, ..Mailbox::default() };
                self.again(submitted + usize::from(read.claim.is_some()), resumed_by)
            }
            Outcome::Applied { .. } => StepOutcome::done(),
            Outcome::Rejected(message) => StepOutcome::fatal("ServerRefused", message),
            Outcome::Restart { .. } | Outcome::Sealed { .. } => StepOutcome::in_progress("not in this model"),
            Outcome::Unknown(message) => StepOutcome::Unknown { message },
        })
    }

    /// Another attempt, with a mover of its own if the last one has ended.
    fn again(&mut self, submitted: usize, resumed_by: Option<&str>) -> StepOutcome {
        if let Some(refused) = no_more(Over { submitted, deleted: false, resumed_by }) {
            return StepOutcome::fatal(refused.reason, refused.message);
        }
        if self.ready().is_none() && self.pods.len() < PODS {
            self.pods.push(Pod::Ready);
        }
        StepOutcome::NotApplied { message: "not applied".into() }
    }

    /// One thing that a mover does.
    fn moves(&mut self, pod: usize) {
        let ended = Pod::Ended(self.clock);
        let standing = |mailbox: &Mailbox, permit: &Permit| {
            may_claim(mailbox.claim.as_ref(), mailbox.grant.as_ref(), permit).is_ok()
        };
        self.pods[pod] = match self.pods[pod].clone() {
            Pod::Ready => match &self.mailbox.grant {
                Some(Grant::Granted(permit)) if permit.pod_uid == uid(pod) => Pod::Permitted(permit.clone()),
                Some(Grant::Granted(_) | Grant::Refused { .. }) => ended,
                None => Pod::Ready,
            },
            Pod::Permitted(permit) if !standing(&self.mailbox, &permit) => ended,
            Pod::Permitted(permit) => Pod::Claiming(permit, self.mailbox.version),
            // A conflict: it looks again.
            Pod::Claiming(permit, version) if version != self.mailbox.version => Pod::Permitted(permit),
            Pod::Claiming(permit, _) => {
                let leader_pod_uid = permit.leader.pod_uid.clone();
                let claim = Claim { pod_uid: uid(pod), fence: permit.fence, leader_pod_uid, at: wrong_clock() };
                self.mailbox.claim = Some(claim);
                self.mailbox.claimed = self.clock;
                self.mailbox.version += 1;
                Pod::Claimed(permit, self.clock)
            }
            // A tick is longer than a claim may be old when the POST begins.
            Pod::Claimed(_, since) if since < self.clock => {
                self.mailbox.result = Some(submission(pod, SubmissionOutcome::Refused));
                self.mailbox.version += 1;
                ended
            }
            // A server that is gone takes nothing; one that was restarted does.
            Pod::Claimed(permit, _) => {
                Pod::Sending(if permit.leader.pod_uid == self.server.uid() { self.server.process() } else { u8::MAX })
            }
            Pod::Sending(process) => {
                if self.posts.iter().any(|post| *post != Post::Lost) {
                    self.broken = Some("a snapshot was sent while an earlier one was or could be applied");
                }
                let taken = process == self.server.process();
                self.posts.push(if taken { Post::Accepted } else { Post::Lost });
                Pod::Sent
            }
            Pod::Sent => {
                self.mailbox.result = Some(submission(pod, SubmissionOutcome::Unknown));
                self.mailbox.version += 1;
                ended
            }
            Pod::Ended(since) => Pod::Ended(since),
        };
    }
}

impl Model for Submissions {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let state = State {
            stored: OpenBaoOperationStatus::default(),
            version: 0,
            passes: [None, None],
            mailbox: Mailbox::default(),
            pods: vec![Pod::Ready],
            leaving: 0,
            posts: vec![],
            clock: 0,
            server: Server::default(),
            strikes: 0,
            blind: false,
            resumed: false,
            broken: None,
            key: String::new(),
        };
        vec![state.with_key()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Act>) {
        let may_strike = state.strikes < STRIKES;
        for who in 0..2 {
            let second = state.passes[who].is_none() && state.passes[1 - who].is_some();
            if may_strike || !second {
                actions.push(Act::Operator { who, dies: false });
            }
            if state.passes[who].is_some() && may_strike {
                actions.extend([Act::Operator { who, dies: true }, Act::Forget(who)]);
            }
        }
        for (pod, doing) in state.pods.iter().enumerate() {
            if !matches!(doing, Pod::Ended(_)) {
                actions.push(Act::Mover { pod, dies: false });
                // One that was told to go may be killed at any time.
                if may_strike || pod < state.leaving {
                    actions.push(Act::Mover { pod, dies: true });
                }
            }
        }
        let accepted = state.posts.contains(&Post::Accepted);
        if accepted {
            actions.push(Act::Apply);
        }
        if state.server == Server::default() {
            actions.extend([Act::FailOver, Act::Restart]);
        }
        if may_strike && !state.blind && state.mailbox.claim.is_some() {
            actions.push(Act::Blind);
        }
        if state.blind && state.stored.phase == OperationPhase::Unknown {
            actions.push(Act::Resume);
        }
        // What a server has accepted it begins to apply before a tick is over.
        if !accepted && state.clock < TICKS {
            actions.push(Act::Tick);
        }
    }

    fn next_state(&self, last: &State, act: Act) -> Option<State> {
        let mut state = last.clone();
        let strikes = match act {
            Act::Operator { dies, .. } => dies,
            Act::Mover { pod, dies } => dies && pod >= last.leaving,
            Act::Forget(_) | Act::Blind => true,
            Act::Apply | Act::FailOver | Act::Restart | Act::Resume | Act::Tick => false,
        };
        let second =
            matches!(act, Act::Operator { who, .. } if last.passes[who].is_none() && last.passes[1 - who].is_some());
        state.strikes += u8::from(strikes || second);
        match act {
            Act::Operator { who, dies } => match state.passes[who].take() {
                None => state.passes[who] = Some(state.begin()),
                Some(pass) => {
                    let pass = state.operate(pass);
                    state.passes[who] = pass.filter(|_| !dies);
                }
            },
            Act::Forget(who) => state.passes[who] = None,
            Act::Mover { pod, dies } => {
                state.moves(pod);
                if dies {
                    state.pods[pod] = Pod::Ended(state.clock);
                }
            }
            Act::Apply => {
                let accepted = state.posts.iter_mut().find(|post| **post == Post::Accepted)?;
                *accepted = Post::Applied;
            }
            Act::FailOver | Act::Restart => {
                match act {
                    Act::Restart => state.server.restarted = true,
                    _ => state.server.other = true,
                }
                for post in state.posts.iter_mut().filter(|post| **post == Post::Accepted) {
                    *post = Post::Lost;
                }
            }
            Act::Blind => state.blind = true,
            Act::Resume => (state.blind, state.resumed) = (false, true),
            Act::Tick => state.clock += 1,
        }
        Some(state.with_key())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn phase(state: &State) -> OperationPhase {
            state.stored.phase
        }
        vec![
            Property::always("no snapshot is sent while another is or could be applied", |_, state: &State| {
                state.broken.is_none()
            }),
            Property::always("a restore that succeeded was applied, once", |_, state: &State| {
                let applied = state.posts.iter().filter(|post| **post == Post::Applied).count();
                applied <= 1 && (phase(state) != OperationPhase::Succeeded || applied == 1)
            }),
            Property::always("a restore that failed changed nothing and can change nothing", |_, state: &State| {
                phase(state) != OperationPhase::Failed || state.posts.iter().all(|post| *post == Post::Lost)
            }),
            Property::sometimes("it succeeds", |_, state: &State| phase(state) == OperationPhase::Succeeded),
            Property::sometimes("it succeeds after one that was lost", |_, state: &State| {
                phase(state) == OperationPhase::Succeeded && state.posts.len() == 2
            }),
            Property::sometimes("a Resume finds the restored data", |_, state: &State| {
                phase(state) == OperationPhase::Succeeded && state.resumed
            }),
            Property::sometimes("a Resume finds the old data", |_, state: &State| {
                phase(state) == OperationPhase::Failed && state.resumed
            }),
        ]
    }
}

#[test]
fn no_interleaving_sends_a_snapshot_twice() {
    let checker = Submissions.checker().threads(2).spawn_bfs().join();
    println!(
        "MODEL restore claim: {} states, {} transitions, depth {}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
}
