//! What to do about the lease: a pure function of what was seen and of this machine's own clock.

use std::time::Duration;

use tokio::time::Instant;

/// What is known of the lease. Times are local: the other replica's clock is never compared with ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; `None` after a release.
    pub holder: Option<String>,
    /// How long the holder said it may be silent before others take over.
    pub duration: Duration,
    /// When this process first saw the present content, by its own monotonic clock.
    pub since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No lease exists: create it in our name.
    Create,
    /// Free, or its holder has been silent for the whole duration: replace what was seen.
    TakeOver,
    /// It is in our name already (the answer to our own write was lost): renew it.
    Renew,
    /// Another holds it. Look again when it changes, or at this moment.
    Wait { until: Instant },
}

/// Decides for the candidate `me` at `now`. Expiry counts from when the content was *seen here*, so a candidate that
/// has just started waits a whole duration, whatever the times written in the lease say.
pub fn decide(seen: Option<&Seen>, me: &str, now: Instant) -> Decision {
    let Some(seen) = seen else { return Decision::Create };
    match seen.holder.as_deref() {
        None | Some("") => Decision::TakeOver,
        Some(holder) if holder == me => Decision::Renew,
        Some(_) => {
            let expiry = seen.since + seen.duration;
            if now < expiry { Decision::Wait { until: expiry } } else { Decision::TakeOver }
        }
    }
}

/// The same where there is no lease, and `before` is what the last one said. Its holder finds out only when it renews: until
/// its term is over, a new lease in our name would make two leaders.
pub fn decide_without(before: Option<&Seen>, me: &str, now: Instant) -> Decision {
    match decide(before, me, now) {
        wait @ Decision::Wait { .. } => wait,
        Decision::Create | Decision::TakeOver | Decision::Renew => Decision::Create,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn held_by(holder: &str, since: Instant) -> Seen {
        Seen { holder: Some(holder.to_owned()), duration: DURATION, since }
    }

    #[test]
    fn a_missing_lease_is_created() {
        assert_eq!(decide(None, "fern", Instant::now()), Decision::Create);
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let now = Instant::now();
        for holder in [None, Some(String::new())] {
            let seen = Seen { holder, duration: DURATION, since: now };
            assert_eq!(decide(Some(&seen), "fern", now), Decision::TakeOver);
        }
    }

    #[test]
    fn anothers_lease_is_left_alone_until_it_was_silent_for_the_whole_duration() {
        let start = Instant::now();
        let seen = held_by("moss", start);
        let expiry = start + DURATION;
        assert_eq!(decide(Some(&seen), "fern", start), Decision::Wait { until: expiry });
        let last_moment = expiry - Duration::from_nanos(1);
        assert_eq!(decide(Some(&seen), "fern", last_moment), Decision::Wait { until: expiry });
        assert_eq!(decide(Some(&seen), "fern", expiry), Decision::TakeOver);
    }

    #[test]
    fn our_own_lease_is_renewed_however_old_it_looks() {
        let start = Instant::now();
        assert_eq!(decide(Some(&held_by("fern", start)), "fern", start + 10 * DURATION), Decision::Renew);
    }

    #[test]
    fn a_deleted_lease_is_made_again_when_its_holders_term_is_over() {
        let start = Instant::now();
        let expiry = start + DURATION;
        let released = Seen { holder: None, duration: DURATION, since: start };
        let held = held_by("moss", start);
        for (before, me, now, expected) in [
            (None, "fern", start, Decision::Create),
            (Some(&released), "fern", start, Decision::Create),
            (Some(&held), "moss", start, Decision::Create),
            (Some(&held), "fern", start, Decision::Wait { until: expiry }),
            (Some(&held), "fern", expiry - Duration::from_nanos(1), Decision::Wait { until: expiry }),
            (Some(&held), "fern", expiry, Decision::Create),
        ] {
            assert_eq!(decide_without(before, me, now), expected, "{before:?} {me}");
        }
    }

    proptest::proptest! {
        /// Deleting the lease makes nobody act earlier than leaving it would.
        #[test]
        fn a_deletion_never_shortens_a_term(ask_ms in 0_u64..60_000, holder in "fern|moss") {
            let start = Instant::now();
            let seen = held_by(&holder, start);
            let asked = start + Duration::from_millis(ask_ms);
            let waits = |decision| matches!(decision, Decision::Wait { .. });
            proptest::prop_assert_eq!(
                waits(decide_without(Some(&seen), "fern", asked)),
                waits(decide(Some(&seen), "fern", asked))
            );
        }

        /// Two candidates that saw the same content at different times never both find it expired
        /// before the holder's own deadline (10 s after it last renewed) has passed.
        #[test]
        fn nobody_takes_over_before_the_holder_stopped_by_itself(delay_ms in 0_u64..60_000, ask_ms in 0_u64..120_000) {
            let renewed = Instant::now();
            let seen = held_by("moss", renewed + Duration::from_millis(delay_ms));
            let asked = renewed + Duration::from_millis(ask_ms);
            if decide(Some(&seen), "fern", asked) == Decision::TakeOver {
                proptest::prop_assert!(asked >= renewed + super::super::RENEW_DEADLINE);
            }
        }
    }
}
