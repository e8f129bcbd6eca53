//! What the leader was told last, and whether it is to be told again.

use crate::service::cluster::hcl::Value;
use std::time::Duration;
use tokio::time::Instant;

/// After silence, or from a server in trouble.
const PACE: Duration = Duration::from_secs(4);
/// What was refused once is refused again, unless somebody gives the operator the right.
const REFUSED_PACE: Duration = Duration::from_secs(600);

/// What was told last, to whom, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub(super) settings: Value,
    /// UID of the pod that led.
    pub(super) leader: String,
    pub(super) at: Instant,
    pub(super) answer: Answer,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Taken,
    Refused(String),
    /// Nothing that lasts.
    None(String),
}

pub(super) fn is_due(told: Option<&Told>, settings: &Value, leader: &str) -> bool {
    let Some(told) = told.filter(|told| told.settings == *settings && told.leader == leader) else { return true };
    match told.answer {
        Answer::Taken => false,
        Answer::Refused(_) => told.at.elapsed() >= REFUSED_PACE,
        Answer::None(_) => told.at.elapsed() >= PACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_told_once_and_again_when_the_spec_or_the_leader_changes_or_it_was_not_taken() {
        let one = Value::object([("max_trailing_logs", 1_i64)]);
        let two = Value::object([("max_trailing_logs", 2_i64)]);
        let told = |answer: Answer, ago: Duration| Told {
            settings: one.clone(),
            leader: "uid-0".into(),
            at: Instant::now().checked_sub(ago).unwrap(),
            answer,
        };
        let taken = told(Answer::Taken, REFUSED_PACE);
        assert!(is_due(None, &one, "uid-0"));
        assert!(!is_due(Some(&taken), &one, "uid-0"), "an idle cluster is asked nothing");
        assert!(is_due(Some(&taken), &two, "uid-0"), "the spec changed");
        assert!(is_due(Some(&taken), &one, "uid-9"), "it may have been restored");
        for (answer, ago, due) in [
            (Answer::Refused(String::new()), PACE, false),
            (Answer::Refused(String::new()), REFUSED_PACE, true),
            (Answer::None(String::new()), Duration::ZERO, false),
            (Answer::None(String::new()), PACE, true),
        ] {
            assert_eq!(is_due(Some(&told(answer.clone(), ago)), &one, "uid-0"), due, "{answer:?} {ago:?}");
        }
    }
}
