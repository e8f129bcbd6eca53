//! Whether a submission that was not applied is followed by another attempt. An attempt that follows sends the snapshot again,
//! over everything that was written since the last one.

use super::Refused;
use crate::service::restore::plan::SUBMISSIONS;

/// What is known when an attempt is over and the old data is what the servers have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Over<'a> {
    /// How often a submission was claimed so far.
    pub submitted: usize,
    /// The restore's object is being deleted.
    pub deleted: bool,
    /// Who said `Resume` in this attempt: that asks to look again, and clients may have written for hours by then.
    pub resumed_by: Option<&'a str>,
}

/// Why nothing is sent again, if nothing is.
pub fn no_more(over: Over<'_>) -> Option<Refused> {
    let Over { submitted, deleted, resumed_by } = over;
    let why = if let Some(by) = resumed_by {
        format!("Nothing was sent again: {by} asked for Resume, which only looks. The data is the old one")
    } else if submitted >= SUBMISSIONS {
        format!("It was submitted {submitted} times; the data is the old one")
    } else if deleted {
        // Nobody's wish any more, and in a namespace that goes no mover could be made.
        "The restore was deleted; the data is the old one".to_owned()
    } else {
        return None;
    };
    Some(Refused::new("NotApplied", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_applied_is_sent_three_times_at_most_and_never_for_a_restore_that_is_gone() {
        for submitted in 0..SUBMISSIONS {
            assert_eq!(no_more(Over { submitted, ..Over::default() }), None, "{submitted}");
            assert!(no_more(Over { submitted, deleted: true, ..Over::default() }).is_some());
        }
        let refused = no_more(Over { submitted: SUBMISSIONS, ..Over::default() }).unwrap();
        assert!(refused.message.contains("3 times"), "{}", refused.message);
    }

    #[test]
    fn after_a_resume_nothing_is_ever_sent_again() {
        for submitted in 0..=SUBMISSIONS {
            let refused = no_more(Over { submitted, deleted: false, resumed_by: Some("ops") }).unwrap();
            assert_eq!(refused.reason, "NotApplied");
            assert!(refused.message.contains("ops asked for Resume"), "{}", refused.message);
        }
    }
}
