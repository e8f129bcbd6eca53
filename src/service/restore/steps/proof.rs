//! What became of the submission that [`super::submit`] gave leave for. Nothing here posts anything.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};

use super::ending::unknown;
use super::submit::{
    ANSWERED_AT, APPLIED, INDEX, LOOK_AGAIN, OUTCOME, PROOF, PROOF_AT, PROOF_TEXT, SUBMITTED_AT, endpoint,
};
use super::{Sight, Step, chain, ending, evidence, marker, preflight, restart, trouble};
use crate::adapter::openbao::Error as BaoError;
use crate::adapter::turns::Linger;
use crate::api::OpenBaoCluster;
use crate::datapath::protocol::{Claim, Grant};
use crate::service::cluster::members::{self, Member};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::decide::again::{Over, no_more};
use crate::service::restore::decide::prove::{self, Answer, Claimed, Facts, Marker, Mover, Outcome, Proof};
use crate::service::restore::mover::{Current, Exchange, MoverError, Past, State};
use crate::service::restore::plan;

/// How long one call watches a leader that applies the snapshot: 5.6 s for a small one, then the engine has its turn.
const LINGER: Duration = Duration::from_secs(15);
/// How often a leader that answers is asked meanwhile.
const LOOK_CLOSELY: Duration = Duration::from_millis(200);
/// How often when each look takes a login.
const UNWITNESSED: Duration = Duration::from_secs(2);

/// Finds out what became of the submission under this receipt. While the leader applies the snapshot, it is watched from
/// here, unless others wait for their turn: nothing in Kubernetes tells when that is over.
pub async fn prove(step: &Step<'_>) -> StepOutcome {
    let linger = step.call.turns.linger(LINGER);
    loop {
        match look(step).await {
            Looked::Settled(outcome) => return outcome,
            Looked::Applying { what, taker } => {
                if !settle(step, taker.as_deref(), &linger).await {
                    return StepOutcome::in_progress(format!("waiting for {what}"));
                }
            }
        }
    }
}

enum Looked {
    /// What the engine is told.
    Settled(StepOutcome),
    /// The snapshot has been handed over, and the old data may still give way to it.
    Applying { what: String, taker: Option<Box<Member>> },
}

/// Returns right after the server that took the snapshot has forgotten the token that was minted right before, or after a
/// moment when that cannot be seen. A call with a token hangs while the snapshot is applied, so this is one or two calls.
/// Says whether to look again within this call.
async fn settle(step: &Step<'_>, taker: Option<&Member>, linger: &Linger<'_>) -> bool {
    let client = taker.and_then(Member::client).and_then(Result::ok);
    let (Some(client), Some(token)) = (client, step.witnesses.get(&step.uid, step.call.now)) else {
        return linger.pause(UNWITNESSED).await;
    };
    loop {
        let pause = match client.lookup_self(&token).await {
            Ok(()) => LOOK_CLOSELY,
            // Nothing may be proven by it yet, for minutes.
            Err(error) if error.is_denied() => return linger.pause(LOOK_CLOSELY).await,
            Err(BaoError::TimedOut { .. }) => Duration::ZERO,
            Err(_) => return linger.pause(LOOK_AGAIN).await,
        };
        if !linger.pause(pause).await {
            return false;
        }
    }
}

async fn look(step: &Step<'_>) -> Looked {
    match looked(step).await {
        Ok(looked) => looked,
        Err(outcome) => Looked::Settled(outcome),
    }
}

async fn looked(step: &Step<'_>) -> Result<Looked, StepOutcome> {
    let cluster = match step.cluster() {
        Ok(cluster) => cluster,
        Err(StepOutcome::Failed { message, .. }) => {
            return Err(unknown(&format!("{message}: nothing can be asked any more")));
        }
        Err(outcome) => return Err(outcome),
    };
    let read = match step.movers.exchange().await {
        Ok(Some(read)) => read,
        Ok(None) => {
            return Err(unknown("the mover's ConfigMap is gone, and with it whether the submission was claimed"));
        }
        Err(error) if error.is_final() => return Err(unknown(&chain(&error))),
        Err(error) => return Err(trouble(&error)),
    };
    if let Some(past) = read.past(step.call.state.attempt) {
        return Err(again(step, &past.verdict, read.submitted()).await);
    }
    let (current, members) = futures::join!(step.movers.current(), step.members(cluster));
    let current = current.map_err(|error| trouble(&error))?;
    let mut leader = match read.claim {
        Some(_) => evidence::leader(step, cluster, &members).await,
        None => None,
    };
    if step.call.output(plan::PLACE_MARKER, marker::MARKER) != Some("true")
        && let Some(leader) = &mut leader
        && leader.marker == Marker::Gone
    {
        // One that was never there is no proof when it is not there.
        leader.marker = Marker::NoAccess;
    }
    let now = Instant::now();
    let since = |sight| step.witnesses.since(&step.uid, sight, now);
    let permitted = matches!(read.grant, Some(Grant::Granted(_)));
    let mover = mover_of(&read, current.as_ref());
    let facts = Facts {
        permit: permitted.then(|| since(Sight::Permit(step.call.state.attempt))),
        revoked: !permitted,
        claim: read.claim.as_ref().map(|claim| claimed(claim, read.result.is_some() || mover == Mover::Gone, since)),
        submission: read.result.as_ref().map(Answer::from),
        mover,
        leader,
        members: evidence::seen(&members),
        new_cluster_id: step.call.output(plan::PLACE_MARKER, marker::NEW_CLUSTER_ID).map(str::to_owned),
        restarted: restart::all_restarted_at(&members, &read.servers).map(|at| since(Sight::Restarted(at))),
    };
    let settled = match prove::prove(&facts, now) {
        Outcome::Wait(what) => match (&read.claim, &read.result) {
            (Some(claim), Some(_)) => {
                let taker = members.into_iter().find(|member| member.uid == claim.leader_pod_uid);
                return Ok(Looked::Applying { what, taker: taker.map(Box::new) });
            }
            _ => StepOutcome::in_progress(format!("waiting for {what}{}", lingering(current.as_ref()))),
        },
        Outcome::Revoke => match step.movers.refuse("the permit ran out").await {
            Ok(()) | Err(MoverError::Claimed) => StepOutcome::in_progress("the permit ran out and was taken back"),
            // No failure: with it went whether the submission was claimed, which the next look says.
            Err(MoverError::Gone(map)) => StepOutcome::in_progress(format!("ConfigMap {map} is gone: looking again")),
            Err(error) => trouble(&error),
        },
        Outcome::NothingPosted(why) => {
            let end = current.map(|current| current.state);
            let why = match &end {
                Some(State::Ended { why: end, .. }) => format!("{why}: {end}"),
                _ => why,
            };
            if step.inputs.onto.is_none() && end.as_ref().is_some_and(|end| !ending::may_follow(end)) {
                return Err(ending::no_access(&why, read.submitted()));
            }
            close(step, cluster, &read, &members, why).await
        }
        Outcome::NotApplied(why) => close(step, cluster, &read, &members, why).await,
        Outcome::Rejected(message) => {
            StepOutcome::fatal("ServerRefused", step.unchanged(&format!("the server refused the snapshot: {message}")))
        }
        Outcome::Applied { proof, text } => applied(step, cluster, &read, proof, text).await,
        Outcome::Restart { why, .. } if step.call.fence.is_none() => {
            unknown(&format!("the servers {why}, and the cluster's lock is in other hands: nobody is restarted"))
        }
        Outcome::Restart { why, .. }
            if now.duration_since(since(Sight::Harm(step.call.state.started_at))) > prove::PROOF_DEADLINE =>
        {
            let minutes = prove::PROOF_DEADLINE.as_secs() / 60;
            unknown(&format!("the servers {why}, and could not be restarted within {minutes} minutes"))
        }
        Outcome::Restart { pods: names, why } => {
            restart::delete(step, cluster, &members, &names, &read.servers).await;
            StepOutcome::in_progress(format!("restarting {} once, because they {why}", names.join(", ")))
        }
        Outcome::Sealed { pods } => {
            let late = |claim: &Claimed| now.duration_since(claim.since) > prove::PROOF_DEADLINE;
            ending::sealed(endpoint(step), facts.claim.as_ref().is_some_and(late), &pods)
        }
        Outcome::Unknown(message) => unknown(&message),
    };
    Ok(Looked::Settled(settled))
}

/// Why the mover's end may be long in coming.
fn lingering(current: Option<&Current>) -> String {
    match current.map(|current| &current.state) {
        Some(State::Leaving { why, .. }) => format!("; {why}"),
        _ => String::new(),
    }
}

/// The claim as this process has seen it. What the mover wrote down of its own times is for people.
fn claimed(claim: &Claim, over: bool, since: impl Fn(Sight) -> Instant) -> Claimed {
    Claimed {
        leader_pod_uid: claim.leader_pod_uid.clone(),
        since: since(Sight::Claim(claim.pod_uid.clone())),
        over: over.then(|| since(Sight::Over(claim.pod_uid.clone()))),
    }
}

/// The mover that was given the permit, as far as the submission goes. One whose Job is gone can send nothing any more.
fn mover_of(read: &Exchange, current: Option<&Current>) -> Mover {
    match current.map(|current| &current.state) {
        None | Some(State::Ended { .. }) => Mover::Gone,
        Some(State::Starting(_)) => Mover::Running,
        Some(State::Running { pod_uid } | State::Leaving { pod_uid, .. }) => match &read.claim {
            // Another pod runs now: the one that claimed is gone.
            Some(claim) if claim.pod_uid != *pod_uid => Mover::Gone,
            _ => Mover::Running,
        },
    }
}

async fn applied(
    step: &Step<'_>,
    cluster: &OpenBaoCluster,
    read: &Exchange,
    proof: Proof,
    text: String,
) -> StepOutcome {
    // How far the log goes with the restored data in it: the look that proved it may have begun before it was there.
    let members = step.members(cluster).await;
    let Some(view) = members::leader(&members).and_then(|leader| leader.view.as_ref()) else {
        return StepOutcome::in_progress("waiting for the servers to agree on a leader after the restore");
    };
    let word = match proof {
        Proof::Marker => "Marker",
        Proof::Token => "Login",
        Proof::ClusterId => "ClusterID",
    };
    let mut output = vec![
        (OUTCOME, APPLIED.to_owned()),
        (PROOF, word.to_owned()),
        (PROOF_TEXT, text),
        (PROOF_AT, stamp(Utc::now())),
        (INDEX, view.raft_applied_index.to_string()),
    ];
    output.extend(read.claim.as_ref().map(|claim| (SUBMITTED_AT, stamp(claim.at))));
    output.extend(read.result.as_ref().map(|result| (ANSWERED_AT, stamp(result.at))));
    StepOutcome::done_with(output)
}

fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Ends an attempt that changed nothing: nobody can send under its claim or claim under its permit any more, servers that sealed
/// themselves are back, and the claim is put on record, so that another attempt gets one of its own.
async fn close(
    step: &Step<'_>,
    cluster: &OpenBaoCluster,
    read: &Exchange,
    members: &[Member],
    why: String,
) -> StepOutcome {
    if read.grant.is_some() || read.claim.is_some() {
        match step.movers.stop(step.call.now).await {
            Ok(None) => {}
            // On a node that is gone it stays. It can send nothing: it has sent, or the write below takes its permit away.
            Ok(Some(left)) if left.overdue && !read.may_be_sending() => {}
            Ok(Some(left)) => {
                return StepOutcome::in_progress(format!("not applied ({why}): waiting for {}", left.what));
            }
            Err(error) => return trouble(&error),
        }
    }
    if step.call.fence.is_some()
        && let Some(sealed) = restart::restart_sealed(step, cluster, members, &read.servers).await
    {
        return StepOutcome::in_progress(format!("not applied ({why}): waiting for {sealed} to unseal"));
    }
    let past = Past {
        attempt: step.call.state.attempt,
        grant: read.grant.clone(),
        claim: read.claim.clone(),
        result: read.result.clone(),
        verdict: why.clone(),
        at: Utc::now(),
    };
    match step.movers.close(read, past).await {
        Ok(()) => again(step, &why, read.submitted() + usize::from(read.claim.is_some())).await,
        Err(MoverError::Request { source, .. }) if source.is_conflict() => {
            StepOutcome::in_progress("the mover wrote meanwhile: looking again")
        }
        Err(error) => trouble(&error),
    }
}

/// The attempt is over. If another one may follow, its mover is made first, so that the next permit finds one ready.
async fn again(step: &Step<'_>, why: &str, submitted: usize) -> StepOutcome {
    let message = format!("not applied: {why}");
    let over = Over {
        submitted,
        deleted: step.call.op.metadata.deletion_timestamp.is_some(),
        // A rollback's servers are empty and closed to clients: nothing is lost by sending it again, and nothing works without.
        resumed_by: step.call.state.resumed_by.as_deref().filter(|_| step.inputs.onto.is_none()),
    };
    if let Some(refused) = no_more(over) {
        return StepOutcome::fatal(refused.reason, format!("{message}. {}", refused.message));
    }
    match preflight::ready(step).await {
        Ok(preflight::Prepared::Working(what)) => {
            StepOutcome::in_progress(format!("{message}; before the next attempt, waiting for {what}"))
        }
        Err(waiting @ StepOutcome::Waiting { .. }) => waiting,
        Ok(preflight::Prepared::Ready { .. } | preflight::Prepared::Refused(_)) | Err(_) => {
            StepOutcome::NotApplied { message }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What stands there once this pod has claimed the submission, or nobody has.
    pub(in super::super) fn read(claimed_by: Option<&str>) -> Exchange {
        let claim = claimed_by.map(|pod| Claim {
            pod_uid: pod.to_owned(),
            fence: 1,
            leader_pod_uid: "l".into(),
            at: DateTime::from_timestamp(100, 0).unwrap(),
        });
        Exchange { claim, ..Exchange::default() }
    }

    fn current(state: State) -> Current {
        Current { number: 1, job: "j".into(), job_uid: "u".into(), state }
    }

    #[test]
    fn a_claim_belongs_to_the_pod_that_made_it_and_to_no_later_one() {
        let running = current(State::Running { pod_uid: "m2".into() });
        assert_eq!(mover_of(&read(Some("m1")), Some(&running)), Mover::Gone, "another pod runs");
        assert_eq!(mover_of(&read(Some("m2")), Some(&running)), Mover::Running);
        assert_eq!(mover_of(&read(Some("m1")), None), Mover::Gone);
        assert_eq!(mover_of(&read(None), None), Mover::Gone);
        let leaving = |pod: &str| State::Leaving { pod_uid: pod.into(), why: String::new() };
        assert_eq!(
            mover_of(&read(Some("m2")), Some(&current(leaving("m2")))),
            Mover::Running,
            "it may still be sending"
        );
        assert_eq!(
            mover_of(&read(None), Some(&current(leaving("m2")))),
            Mover::Running,
            "its permit is taken back first"
        );
        let ended = State::Ended { failure: None, why: String::new() };
        assert_eq!(mover_of(&read(Some("m1")), Some(&current(ended))), Mover::Gone);
    }

    #[test]
    fn whatever_the_movers_clock_says_a_claim_is_as_old_as_our_sight_of_it() {
        let now = Instant::now();
        let by =
            |seconds| Claim { at: DateTime::from_timestamp(seconds, 0).unwrap(), ..read(Some("m")).claim.unwrap() };
        let sights = |over| [claimed(&by(0), over, |_| now), claimed(&by(4_000_000_000), over, |_| now)];
        for over in [false, true] {
            let [behind, ahead] = sights(over);
            assert_eq!(behind, ahead);
            assert_eq!((ahead.since, ahead.over), (now, over.then_some(now)));
        }
    }
}
