//! Whether this process may still act. Whoever is about to cause something outside Kubernetes asks right before; an OpenBao
//! client asks by itself (`openbao::Client::while_leading`).
//!
//! The election (`crate::leader`) drives a [`Term`]; everyone else holds a [`Leadership`]. The answer comes from a
//! deadline on this machine's own monotonic clock, so a process that can no longer reach the API server stops by
//! itself before anybody else may begin.

use tokio::sync::watch;
use tokio::time::Instant;

/// A cheap, cloneable view of this process's leadership.
#[derive(Clone, Debug)]
pub struct Leadership {
    until: watch::Receiver<Until>,
}

/// The side that grants: extended by each renewed lease, ended on loss or shutdown by whoever learns of it first.
#[derive(Clone, Debug)]
pub struct Term {
    until: watch::Sender<Until>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Nothing was granted yet: a standby.
    Nobody,
    /// The term has ended. It does not come back, not even by a renewal that was under way.
    Over,
    /// May act strictly before this moment.
    Moment(Instant),
    /// Leader election is switched off: this process is the only one by arrangement.
    Ever,
}

/// The two ends: what the election drives and what the rest asks.
pub fn channel() -> (Term, Leadership) {
    let (sender, receiver) = watch::channel(Until::Nobody);
    (Term { until: sender }, Leadership { until: receiver })
}

impl Leadership {
    /// For a process that is alone by arrangement: `--leader-elect=false`, or a tool that a person runs.
    pub fn always() -> Self {
        let (_, receiver) = watch::channel(Until::Ever);
        Self { until: receiver }
    }

    /// True while an effect may begin. Ask right before it: the answer is only as fresh as the question.
    pub fn still_leader(&self) -> bool {
        match *self.until.borrow() {
            Until::Nobody | Until::Over => false,
            Until::Moment(moment) => Instant::now() < moment,
            Until::Ever => true,
        }
    }

    /// Resolves when this process may no longer act; at once if it may not now. Long waits select on it.
    pub async fn over(&self) {
        let mut until = self.until.clone();
        loop {
            let now = *until.borrow_and_update();
            match now {
                Until::Nobody | Until::Over => return,
                // A dropped sender cannot take back what was granted for ever.
                Until::Ever => match until.changed().await {
                    Ok(()) => {}
                    Err(_) => std::future::pending().await,
                },
                Until::Moment(moment) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(moment) => return,
                        // The granting side is gone: what it granted runs out by itself.
                        changed = until.changed() => if changed.is_err() { tokio::time::sleep_until(moment).await; return },
                    }
                }
            }
        }
    }
}

impl Term {
    /// May act until `moment`, which only moves forward while the term lasts.
    pub fn extend(&self, moment: Instant) {
        self.grant(Until::Moment(moment));
    }

    /// Alone by arrangement: no deadline.
    pub fn for_ever(&self) {
        self.grant(Until::Ever);
    }

    fn grant(&self, until: Until) {
        self.until.send_if_modified(|now| {
            let lasts = *now != Until::Over;
            if lasts {
                *now = until;
            }
            lasts
        });
    }

    /// From here on nothing may begin.
    pub fn end(&self) {
        self.until.send_replace(Until::Over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_standby_may_not_act_and_a_leader_may_until_its_deadline() {
        let (term, leadership) = channel();
        assert!(!leadership.still_leader());
        term.extend(Instant::now() + Duration::from_secs(10));
        assert!(leadership.still_leader());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!leadership.still_leader(), "the deadline itself is already too late");
    }

    #[tokio::test(start_paused = true)]
    async fn ending_the_term_wakes_whoever_waits_for_it() {
        let (term, leadership) = channel();
        term.extend(Instant::now() + Duration::from_secs(10));
        let waiter = tokio::spawn({
            let leadership = leadership.clone();
            async move { leadership.over().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        term.end();
        waiter.await.unwrap();
        assert!(!leadership.still_leader());
        term.extend(Instant::now() + Duration::from_secs(10));
        assert!(!leadership.still_leader(), "a renewal that was under way brings nothing back");
    }

    #[tokio::test(start_paused = true)]
    async fn an_election_that_died_cannot_prolong_what_it_granted() {
        let (term, leadership) = channel();
        term.extend(Instant::now() + Duration::from_secs(10));
        drop(term);
        assert!(leadership.still_leader());
        let before = Instant::now();
        leadership.over().await;
        assert_eq!(before.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn without_election_the_only_process_always_leads() {
        let leadership = Leadership::always();
        assert!(leadership.still_leader());
        let waited = tokio::time::timeout(Duration::from_secs(3600), leadership.over()).await;
        assert!(waited.is_err(), "it never ends");
    }
}
