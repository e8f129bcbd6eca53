//! Leader election over a Lease: a pure decision, a conflict-checked write, fail-stop on loss.
//!
//! Every write is a replace that carries the resourceVersion of what was decided on, so the API server lets exactly
//! one candidate win. A holder that cannot renew stops by its own clock ([`RENEW_DEADLINE`]) well before others may
//! take over ([`LEASE_DURATION`]). Candidates watch the lease: a released one changes hands within milliseconds.
//! The ready-made crates were measured and found to merge without a precondition or to claim past expiry.

mod decide;
mod lease;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adapter::leadership::Term;
use crate::causes::chain;
use decide::Decision;
use lease::{Leases, Observer};

/// How long others wait for a silent holder. With the watch this is also the take-over time after a kill.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that has not renewed for this long may no longer act. Less than the duration by more than one request.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Twelve writes a minute.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Between two tries after an error or a lost race.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// One request about the lease. Two of them fit between a missed renewal and the deadline.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// So many failures of the watch in a row are more than an API server that restarts.
const FAILURES: u32 = 3;

/// Where a candidate that does not lead stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Another holds the lease: there is nothing to do but wait.
    Standby,
    /// Nobody can say who leads, or nobody can take the lease. The text says why.
    Trouble(String),
}

/// What keeps a candidate from knowing or taking the lease.
#[derive(Debug, Default)]
struct Troubles {
    /// Why the last claim failed, unless somebody was faster.
    claim: Option<String>,
    /// The watch's failures since its last answer, and the last of them.
    watch: (u32, String),
}

impl Troubles {
    /// Where that leaves the candidate; `None` while there is nothing to say.
    fn standing(&self, decision: Option<Decision>) -> Option<Standing> {
        let (failures, last) = &self.watch;
        if *failures >= FAILURES {
            return Some(Standing::Trouble(format!("it cannot be watched: {last}")));
        }
        match (decision, &self.claim) {
            (Some(Decision::Wait { .. }), _) => Some(Standing::Standby),
            (_, Some(why)) => Some(Standing::Trouble(format!("it cannot be taken: {why}"))),
            (_, None) => None,
        }
    }
}

/// A candidate for one lease.
#[derive(Debug)]
pub struct Candidate {
    leases: Leases,
    identity: String,
}

/// Proof that the lease was won: what is renewed and, in the end, released.
#[derive(Debug)]
pub struct Held {
    lease: Lease,
    /// When the last successful write was *begun*: the deadline counts from there.
    renewed: Instant,
}

impl Held {
    /// The holder stops by itself at this moment unless it renews before.
    pub fn may_act_until(&self) -> Instant {
        self.renewed + RENEW_DEADLINE
    }
}

/// Why leadership ended.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("the lease now belongs to {holder}")]
    Taken { holder: String },
    #[error("the lease could not be renewed for {} seconds", RENEW_DEADLINE.as_secs())]
    NotRenewed,
}

impl Candidate {
    /// `identity` must differ between any two processes that ever run: pod name plus something random.
    pub fn new(client: kube::Client, namespace: &str, lease: &str, identity: String) -> Self {
        Self { leases: Leases::new(Api::namespaced(client, namespace), lease), identity }
    }

    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Waits until the lease is ours, or until `stop`. `tell` hears where this candidate stands: one that has seen another
    /// lead is ready, one that knows of nobody is not.
    pub async fn acquire(&self, stop: &CancellationToken, tell: impl Fn(Standing)) -> Option<Held> {
        let mut changes = self.leases.watch();
        let mut observer = Observer::default();
        let mut not_before = Instant::now();
        let mut said = false;
        let mut troubles = Troubles::default();
        loop {
            // Before the first answer nothing is known, and there is nothing to decide on.
            let decision = observer.decide(&self.identity, Instant::now());
            troubles.standing(decision).into_iter().for_each(&tell);
            let wake = match decision {
                None => None,
                Some(Decision::Wait { until }) => {
                    if !said {
                        tracing::info!(lease = self.leases.name(), "standby: another replica leads");
                        said = true;
                    }
                    Some(until)
                }
                Some(Decision::Create | Decision::TakeOver | Decision::Renew) if Instant::now() < not_before => {
                    Some(not_before)
                }
                Some(Decision::Create | Decision::TakeOver | Decision::Renew) => {
                    troubles.claim = match self.claim(&mut observer).await {
                        Ok(held) => return Some(held),
                        Err(why) => why,
                    };
                    not_before = Instant::now() + RETRY_AFTER;
                    continue;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep_until(wake) => {}
                change = changes.next() => match change {
                    Ok(lease) => {
                        observer.note(lease, Instant::now());
                        troubles.watch.0 = 0;
                    }
                    Err(error) => {
                        let error = chain(&error);
                        tracing::warn!(lease = self.leases.name(), error, "cannot watch the lease; trying again");
                        troubles.watch = (troubles.watch.0.saturating_add(1), error);
                    }
                }
            }
        }
    }

    /// One try. A failure leaves the observer with what the lease is now, and says why unless another was faster.
    async fn claim(&self, observer: &mut Observer) -> Result<Held, Option<String>> {
        let begun = Instant::now();
        let why = match self.leases.claim(observer.lease(), &self.identity).await {
            Ok(lease) => return Ok(Held { lease, renewed: begun }),
            Err(error) if error.lost_race() => {
                tracing::debug!("another candidate was faster");
                None
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(lease = self.leases.name(), error, "cannot take the lease; trying again");
                Some(error)
            }
        };
        if let Ok(fresh) = self.leases.read().await {
            observer.note(fresh, Instant::now());
        }
        Err(why)
    }

    /// Renews until leadership is lost (the term is then over already) or `stop` is called, which gives the lease
    /// back for [`Candidate::release`].
    pub async fn keep(&self, mut held: Held, term: &Term, stop: &CancellationToken) -> Result<Held, Lost> {
        term.extend(held.may_act_until());
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(held),
                () = tokio::time::sleep_until(held.renewed + RENEW_EVERY) => {}
            }
            let renewed = tokio::select! {
                () = stop.cancelled() => return Ok(held),
                renewed = self.renew(&mut held, term) => renewed,
            };
            if let Err(lost) = renewed {
                term.end();
                return Err(lost);
            }
        }
    }

    /// One renewal, tried until its deadline.
    async fn renew(&self, held: &mut Held, term: &Term) -> Result<(), Lost> {
        let deadline = held.may_act_until();
        while Instant::now() < deadline {
            let begun = Instant::now();
            match self.leases.renew(&held.lease, &self.identity).await {
                Ok(lease) => {
                    *held = Held { lease, renewed: begun };
                    term.extend(begun + RENEW_DEADLINE);
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(lease = self.leases.name(), error = chain(&error), "cannot renew the lease");
                    // A conflict is another's write, or ours whose answer was lost: only a fresh read can tell.
                    match self.leases.read().await {
                        Ok(fresh) => match fresh {
                            Some(lease) if lease::holder(&lease) == Some(self.identity.as_str()) => held.lease = lease,
                            Some(lease) => {
                                let holder = lease::holder(&lease).unwrap_or("nobody").to_owned();
                                return Err(Lost::Taken { holder });
                            }
                            None => return Err(Lost::Taken { holder: "nobody: it was deleted".to_owned() }),
                        },
                        Err(error) => {
                            tracing::warn!(lease = self.leases.name(), error = chain(&error), "cannot read the lease");
                        }
                    }
                }
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + RETRY_AFTER)).await;
        }
        Err(Lost::NotRenewed)
    }

    /// Hands the lease over: the next candidate's watch sees it at once. Call only when nothing acts any more.
    /// A failure costs the next one the lease's duration and nothing else.
    pub async fn release(&self, held: Held) {
        let mut outcome = self.leases.release(&held.lease).await;
        // A renewal that a stop cut short may have been written without our knowing its version.
        if outcome.as_ref().is_err_and(lease::Error::lost_race)
            && let Ok(Some(fresh)) = self.leases.read().await
            && lease::holder(&fresh) == Some(self.identity.as_str())
        {
            outcome = self.leases.release(&fresh).await;
        }
        match outcome {
            Ok(()) => tracing::info!(lease = self.leases.name(), "lease released"),
            Err(error) => tracing::warn!(
                lease = self.leases.name(),
                error = chain(&error),
                "cannot release the lease; it expires by itself"
            ),
        }
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_seen_another_lead_calls_itself_a_standby() {
        let until = Instant::now();
        let waits = Some(Decision::Wait { until });
        let refused = || Some("not yours".to_owned());
        let trouble = |words: &str| Some(Standing::Trouble(words.to_owned()));
        for (claim, failures, decision, expected) in [
            (None, 0, None, None),
            (None, 0, Some(Decision::Create), None),
            (None, 0, waits, Some(Standing::Standby)),
            (None, FAILURES - 1, waits, Some(Standing::Standby)),
            (refused(), 0, Some(Decision::Create), trouble("it cannot be taken: not yours")),
            (refused(), 0, Some(Decision::TakeOver), trouble("it cannot be taken: not yours")),
            (refused(), 0, waits, Some(Standing::Standby)),
            (None, FAILURES, None, trouble("it cannot be watched: away")),
            (refused(), FAILURES, waits, trouble("it cannot be watched: away")),
        ] {
            let troubles = Troubles { claim, watch: (failures, "away".to_owned()) };
            assert_eq!(troubles.standing(decision), expected, "{troubles:?} {decision:?}");
        }
    }
}
