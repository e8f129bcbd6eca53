//! How our Kubernetes client is configured.

use crate::causes::words;
use kube::Config;
use std::time::Duration;

/// How long the API server may stay silent on a connection. It sends a bookmark on every watch about once a minute, so a
/// quiet watch is not cut (and costs no request), and one whose connection died without a word is noticed in less than two
/// minutes instead of at its own end, after almost five.
const READ_TIMEOUT: Duration = Duration::from_secs(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that one ordinary request may take before its reconcile gives up and requeues.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Prepares a configuration for an operator: kube's default retries up to 15 times with a backoff of minutes inside one
/// request, which blocks a reconcile far longer than its own requeue would.
pub fn prepare(mut config: Config) -> Config {
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(READ_TIMEOUT);
    config
}

/// A request that got no answer in [`REQUEST_TIMEOUT`], or that the API server refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The API server's answer, or a transport error.
    #[error("{}", words(.0))]
    Kube(Box<kube::Error>),
    /// Nothing came back; whether the server acted is unknown.
    #[error("the API server did not answer within {REQUEST_TIMEOUT:?}")]
    TimedOut,
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

impl RequestError {
    fn api(&self, is: fn(&kube::core::Status) -> bool) -> bool {
        match self {
            Self::Kube(error) => matches!(&**error, kube::Error::Api(status) if is(status)),
            Self::TimedOut => false,
        }
    }

    /// 404 in the API server's own words: the object is not there. (Not any other 404, which a proxy may have said.)
    pub fn is_not_found(&self) -> bool {
        self.api(kube::core::Status::is_not_found)
    }

    /// 404 in plain text: the API server knows no such path, so no such kind.
    pub fn is_unknown_kind(&self) -> bool {
        self.api(|status| status.code == 404 && !status.is_not_found())
    }

    /// 409 because the object moved on.
    pub fn is_conflict(&self) -> bool {
        self.api(kube::core::Status::is_conflict)
    }

    /// 409 because the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.api(kube::core::Status::is_already_exists)
    }

    /// 403.
    pub fn is_forbidden(&self) -> bool {
        self.api(kube::core::Status::is_forbidden)
    }

    /// 422: the object can never be accepted as it is.
    pub fn is_invalid(&self) -> bool {
        self.api(kube::core::Status::is_invalid)
    }

    /// The API server understood and did nothing, whatever the reason: a missing right, a quota, a webhook, too many requests. A 5xx,
    /// silence or a broken connection tell nothing about that.
    pub fn is_refusal(&self) -> bool {
        self.code().is_some_and(|code| (400..500).contains(&code) && code != 408)
    }

    /// With which status the API server answered, if it did and it was an error.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(error) => match &**error {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::TimedOut => None,
        }
    }
}

/// Runs one request with its deadline.
pub async fn timed<T>(request: impl Future<Output = Result<T, kube::Error>> + Send) -> Result<T, RequestError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to create Role reef/kelp")]
    struct Attempt(#[source] RequestError);

    #[derive(Debug, thiserror::Error)]
    #[error("reading kelp failed")]
    struct Direct(#[source] kube::Error);

    #[test]
    fn a_connection_that_died_silently_blinds_a_watch_for_less_than_two_minutes() {
        let cut = prepare(Config::new("https://kelp.example".parse().unwrap())).read_timeout.unwrap();
        assert!(cut >= Duration::from_secs(90), "bookmarks of a quiet watch come about once a minute: {cut:?}");
        assert!(cut < Duration::from_secs(120) && cut > REQUEST_TIMEOUT, "{cut:?}");
    }

    fn refusal() -> kube::Error {
        let status = kube::core::Status::failure("roles \"kelp\" is forbidden: not yours", "Forbidden").with_code(403);
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn only_an_answer_of_the_api_server_tells_that_nothing_was_done() {
        let answer = |code: u16| {
            RequestError::from(kube::Error::Api(Box::new(kube::core::Status::failure("no", "No").with_code(code))))
        };
        for code in [400, 401, 403, 404, 409, 413, 422, 429] {
            assert!(answer(code).is_refusal(), "{code}");
        }
        for code in [408, 500, 503, 504] {
            assert!(!answer(code).is_refusal(), "{code}");
        }
        assert!(!RequestError::TimedOut.is_refusal());
    }

    #[test]
    fn an_object_that_is_not_there_and_a_kind_that_is_not_served_are_told_apart() {
        let answer = |reason: &str| {
            let status = kube::core::Status::failure("404 page not found", reason).with_code(404);
            RequestError::from(kube::Error::Api(Box::new(status)))
        };
        let (object, kind) = (answer("NotFound"), answer("Failed to parse error data"));
        assert!(object.is_not_found() && !object.is_unknown_kind());
        assert!(kind.is_unknown_kind() && !kind.is_not_found());
        assert!(!RequestError::from(refusal()).is_unknown_kind());
    }

    #[test]
    fn a_refusal_is_told_in_the_api_servers_words_and_once() {
        let wanted = "roles \"kelp\" is forbidden: not yours";
        assert_eq!(chain(&Attempt(refusal().into())), format!("failed to create Role reef/kelp: {wanted}"));
        assert_eq!(chain(&Direct(refusal())), format!("reading kelp failed: {wanted}"));
    }
}
