//! An error and what caused it, in one line. A leaf: every part may use it, and it uses none.

use std::error::Error;

/// `error: its cause: the cause of that`. A cause that is already part of what was said is not repeated: some libraries put
/// it into their own message.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Link>>);

    fn link(text: &'static str, cause: Option<Link>) -> Link {
        Link(text, cause.map(Box::new))
    }

    #[test]
    fn every_cause_stands_once_in_the_line() {
        let error = link("failed to write", Some(link("no answer", Some(link("connection refused", None)))));
        assert_eq!(chain(&error), "failed to write: no answer: connection refused");
        let repeating = link("failed: no route", Some(link("no route", Some(link("unplugged", None)))));
        assert_eq!(chain(&repeating), "failed: no route: unplugged");
        assert_eq!(chain(&link("alone", None)), "alone");
    }
}
