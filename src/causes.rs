//! An error and what caused it, in one line. A leaf: every part may use it, and it uses none.

use std::error::Error;

/// `error: its cause: the cause of that`. A cause that is already part of what was said is not repeated: some libraries put
/// it into their own message. Of a refusal by the API server only its own words are told, see [`words`].
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let (more, last) = match error.downcast_ref::<kube::Error>() {
            Some(refused @ kube::Error::Api(_)) => (words(refused), true),
            _ => (error.to_string(), false),
        };
        if text.is_empty() {
            text = more;
        } else if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = if last { None } else { error.source() };
    }
    text
}

/// What the API server said, or why it said nothing. kube's own text of a refusal contains the whole answer twice, once as
/// Rust's debug output.
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.message.is_empty() => format!("{} ({})", status.reason, status.code),
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
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
