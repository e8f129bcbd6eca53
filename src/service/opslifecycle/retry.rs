//! When to look again.
//!
//! Three named classes turn "not yet" into a delay; where a thousand clusters would wake together, with jitter. Errors back
//! off per object. Both are pure: randomness and time come in as arguments.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// How soon to look again when nothing wakes us before.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum RetryClass {
    /// The lock is in other hands: 5 s.
    LockContention,
    /// A Job or a long step is in progress: 5 s.
    ProgressPoll,
    /// Background retries: 60 s, or what `OPENBAO_REQUEUE_STANDARD` says.
    #[default]
    Standard,
}

impl RetryClass {
    /// The class's name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LockContention => "lock-contention",
            Self::ProgressPoll => "progress-poll",
            Self::Standard => "standard",
        }
    }

    /// The class with this name; an unknown one behaves as `standard`.
    pub fn named(name: &str) -> Self {
        match name {
            "lock-contention" => Self::LockContention,
            "progress-poll" => Self::ProgressPoll,
            _ => Self::Standard,
        }
    }

    /// Its delay without jitter. `standard` is the configured delay of that class.
    pub fn delay(self, standard: Duration) -> Duration {
        match self {
            Self::LockContention | Self::ProgressPoll => Duration::from_secs(5),
            Self::Standard => standard,
        }
    }
}

/// `delay` with up to a tenth added; never shorter, so that a promised minimum holds. `dice` is a random number from 0 to 1.
pub fn jitter(delay: Duration, dice: f64) -> Duration {
    delay + delay.mul_f64(dice.clamp(0.0, 1.0) * 0.1)
}

/// What kind of error stopped a reconcile.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorClass {
    /// A write met a newer object: look again at once.
    Conflict,
    /// A server did not answer or answered badly: try again, later each time.
    Transient,
    /// It cannot work as it is: try again rarely, a person or a change will help.
    Invalid,
}

impl ErrorClass {
    /// The first delay of the class.
    fn first(self) -> Duration {
        match self {
            Self::Conflict => Duration::from_millis(50),
            Self::Transient => Duration::from_secs(1),
            Self::Invalid => Duration::from_secs(30),
        }
    }
}

/// The longest delay after an error.
pub const ERROR_DELAY_CAP: Duration = Duration::from_secs(300);

/// The delay after the `failures`-th error in a row (counted from 1): doubling, capped at 5 min, jittered.
pub fn error_delay(class: ErrorClass, failures: u32, dice: f64) -> Duration {
    let doubled = class.first().saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(20)));
    jitter(doubled.min(ERROR_DELAY_CAP), dice).min(ERROR_DELAY_CAP)
}

/// How often each object has failed in a row.
#[derive(Debug)]
pub struct ErrorBackoff<K> {
    failures: HashMap<K, u32>,
}

impl<K> Default for ErrorBackoff<K> {
    fn default() -> Self {
        Self { failures: HashMap::new() }
    }
}

impl<K: Eq + Hash> ErrorBackoff<K> {
    /// Counts an error of `object` and says how long to wait.
    pub fn failed(&mut self, object: K, class: ErrorClass, dice: f64) -> Duration {
        let failures = self.failures.entry(object).or_insert(0);
        *failures = failures.saturating_add(1);
        error_delay(class, *failures, dice)
    }

    /// Forgets the errors of `object`: it was reconciled, or it is gone.
    pub fn succeeded(&mut self, object: &K) {
        self.failures.remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD: Duration = Duration::from_secs(90);

    #[test]
    fn each_class_has_the_delay_that_its_row_says() {
        for (name, seconds) in [("lock-contention", 5), ("progress-poll", 5), ("standard", 90), ("no-such-class", 90)] {
            assert_eq!(RetryClass::named(name).delay(STANDARD), Duration::from_secs(seconds), "{name}");
        }
    }

    #[test]
    fn every_class_is_found_by_its_own_name() {
        for class in [RetryClass::LockContention, RetryClass::ProgressPoll, RetryClass::Standard] {
            assert_eq!(RetryClass::named(class.as_str()), class);
        }
    }

    #[test]
    fn jitter_only_ever_adds_and_at_most_a_tenth() {
        for dice in [-1.0, 0.0, 0.3, 1.0, 7.0] {
            let delay = jitter(STANDARD, dice);
            assert!(delay >= STANDARD && delay <= STANDARD.mul_f64(1.1), "{dice}: {delay:?}");
        }
    }

    #[test]
    fn errors_back_off_per_object_up_to_five_minutes_and_start_over_after_a_success() {
        let mut backoff = ErrorBackoff::default();
        assert_eq!(backoff.failed("a", ErrorClass::Transient, 0.0), Duration::from_secs(1));
        assert_eq!(backoff.failed("a", ErrorClass::Transient, 0.0), Duration::from_secs(2));
        assert_eq!(backoff.failed("b", ErrorClass::Transient, 0.0), Duration::from_secs(1), "each object for itself");
        for _ in 0..100 {
            assert!(backoff.failed("a", ErrorClass::Transient, 1.0) <= ERROR_DELAY_CAP);
        }
        backoff.succeeded(&"a");
        assert_eq!(backoff.failed("a", ErrorClass::Conflict, 0.0), Duration::from_millis(50));
    }
}
