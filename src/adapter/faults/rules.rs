//! What a rules file says, and which requests a rule is about. Pure.

use std::path::PathBuf;

use http::Method;
use serde::Deserialize;

use crate::adapter::kubernetes::classify::classify;

/// The whole file, as JSON.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesFile {
    /// Every write, and every fault that strikes, is appended here as one line of JSON.
    #[serde(default)]
    pub trace: Option<PathBuf>,
    /// The first rule that matches and is due decides.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// One fault and when it strikes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// For the trace.
    #[serde(default)]
    pub name: String,
    /// Which requests it is about. Empty: all of them.
    #[serde(default, rename = "match")]
    pub matcher: Match,
    /// The number of the first matching request it strikes, counted from 1 since the file changed.
    #[serde(default)]
    pub at: Option<u64>,
    /// How many it strikes from there: one with `at`, all without.
    #[serde(default)]
    pub times: Option<u64>,
    /// What happens.
    #[serde(rename = "do")]
    pub fault: Fault,
}

impl Rule {
    /// Whether the matching request of this number is struck.
    pub fn is_due(&self, number: u64) -> bool {
        let first = self.at.unwrap_or(1);
        let times = self.times.unwrap_or(if self.at.is_some() { 1 } else { u64::MAX });
        number >= first && number - first < times
    }
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// The API server.
    Kubernetes,
    /// An OpenBao server.
    Openbao,
    /// An object store.
    Store,
}

/// All that is said must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Whom the request is for.
    pub server: Option<Server>,
    /// RBAC's verb; for OpenBao the method in lower case; for a store `create`, `put`, `begin`,
    /// `upload`, `complete`, `abort`, `delete`, `read`, `head`, `list`.
    pub verb: Option<String>,
    /// With its subresource; for OpenBao the path, for a store the bucket and the key.
    pub resource: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// Whether it changes anything that lasts.
    pub write: Option<bool>,
}

impl Match {
    /// Whether the request is one of these.
    pub fn covers(&self, call: &Call) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        self.server.is_none_or(|server| server == call.server)
            && same(&self.verb, &call.verb)
            && same(&self.resource, &call.resource)
            && same(&self.name, &call.name)
            && self.write.is_none_or(|write| write == call.write)
    }
}

/// What happens to a request, or to the events of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// It is never sent; the caller sees a broken connection.
    FailBefore,
    /// The server acts; the caller sees a broken connection.
    DropAnswer,
    /// It is sent later.
    Delay {
        /// How much later.
        millis: u64,
    },
    /// It is sent twice, one after the other; the caller gets the second answer.
    Repeat,
    /// It is never sent; the caller gets this status.
    Answer {
        /// 409, 429, 500, 503 …
        status: u16,
    },
    /// The process dies instead of sending it.
    AbortBefore,
    /// The process dies once the server has answered.
    AbortAfter,
    /// Watches that are open when the rule comes break off.
    Cut,
    /// Events wait until so long after the rule came; what waited is then delivered at once.
    Freeze {
        /// Counted from when the file changed.
        seconds: u64,
    },
    /// Every event comes so much later than it should.
    Behind {
        /// How much later.
        millis: u64,
    },
    /// An event comes with the next one of its object, or so much later: of each object the cache knows what was true one
    /// write ago.
    OneBehind {
        /// How long it waits for the next.
        millis: u64,
    },
    /// Every event comes twice.
    Duplicate,
    /// Events of different objects change places with their neighbours.
    Swap,
    /// Every so many events one is lost.
    Skip {
        /// 3 loses every third.
        every: u64,
    },
}

impl Fault {
    /// Whether it is about the events of a watch, not about a request.
    pub fn is_of_watches(&self) -> bool {
        match self {
            Self::Cut
            | Self::Freeze { .. }
            | Self::Behind { .. }
            | Self::OneBehind { .. }
            | Self::Duplicate
            | Self::Swap
            | Self::Skip { .. } => true,
            Self::FailBefore
            | Self::DropAnswer
            | Self::Delay { .. }
            | Self::Repeat
            | Self::Answer { .. }
            | Self::AbortBefore
            | Self::AbortAfter => false,
        }
    }
}

/// One request, as rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Whom it is for.
    pub server: Server,
    /// See [`Match::verb`].
    pub verb: String,
    /// See [`Match::resource`].
    pub resource: String,
    /// The object's name, where the request tells it.
    pub name: String,
    /// Whether it changes anything that lasts. Leases, events and short-lived tokens don't count: nothing is decided by
    /// them, and they would make the numbers of the others depend on the time of day.
    pub write: bool,
}

impl Call {
    /// A request to the API server.
    pub fn kubernetes(method: &Method, path: &str, query: &str) -> Self {
        let called = classify(method, path, query);
        let passing = ["leases", "events", "serviceaccounts/token", "nonresource"].contains(&called.resource.as_str())
            || called.resource.ends_with("reviews");
        let write = !passing && !matches!(called.verb, "get" | "list" | "watch" | "other");
        Self {
            server: Server::Kubernetes,
            verb: called.verb.to_owned(),
            resource: called.resource,
            name: called.name,
            write,
        }
    }

    /// A request to an OpenBao server.
    pub fn openbao(method: &Method, path: &str, pod: &str) -> Self {
        let passing = *method == Method::GET || path.ends_with("/login") || path.ends_with("/revoke-self");
        Self {
            server: Server::Openbao,
            verb: method.as_str().to_lowercase(),
            resource: path.to_owned(),
            name: pod.to_owned(),
            write: !passing,
        }
    }

    /// A request to a store.
    pub fn store(verb: &str, key: &str) -> Self {
        // What is no object's is about an identity.
        let write = !matches!(verb, "read" | "list" | "head" | "other");
        Self { server: Server::Store, verb: verb.to_owned(), resource: key.to_owned(), name: String::new(), write }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_rule_strikes_the_numbered_request_once_or_as_often_as_it_says() {
        let struck = |text: &str| -> Vec<u64> {
            let rule = rule(text);
            (1..=6).filter(|number| rule.is_due(*number)).collect()
        };
        assert_eq!(struck(r#"{"at": 3, "do": {"fault": "abort-before"}}"#), [3]);
        assert_eq!(struck(r#"{"at": 3, "times": 2, "do": {"fault": "fail-before"}}"#), [3, 4]);
        assert_eq!(struck(r#"{"times": 2, "do": {"fault": "fail-before"}}"#), [1, 2]);
        assert_eq!(struck(r#"{"do": {"fault": "delay", "millis": 5}}"#), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_rule_is_about_the_requests_it_names() {
        let patch = Call::kubernetes(&Method::PATCH, "/apis/apps/v1/namespaces/x/statefulsets/kelp", "");
        let step_down = Call::openbao(&Method::PUT, "sys/step-down", "kelp-0");
        for (text, of_patch, of_step_down) in [
            ("{}", true, true),
            (r#"{"write": true}"#, true, true),
            (r#"{"server": "kubernetes"}"#, true, false),
            (r#"{"verb": "patch", "resource": "statefulsets"}"#, true, false),
            (r#"{"resource": "sys/step-down", "name": "kelp-0"}"#, false, true),
            (r#"{"resource": "sys/step-down", "name": "kelp-1"}"#, false, false),
        ] {
            let matcher: Match = serde_json::from_str(text).unwrap();
            assert_eq!((matcher.covers(&patch), matcher.covers(&step_down)), (of_patch, of_step_down), "{text}");
        }
    }

    #[test]
    fn leases_events_logins_and_reads_are_no_writes() {
        for path in [
            "/apis/coordination.k8s.io/v1/namespaces/x/leases/y",
            "/apis/events.k8s.io/v1/namespaces/x/events/y",
            "/api/v1/namespaces/x/serviceaccounts/y/token",
        ] {
            assert!(!Call::kubernetes(&Method::PATCH, path, "").write, "{path}");
        }
        assert!(Call::kubernetes(&Method::DELETE, "/api/v1/namespaces/x/pods/y", "").write);
        assert!(!Call::openbao(&Method::POST, "auth/jwt/login", "p").write);
        assert!(!Call::openbao(&Method::GET, "sys/health", "p").write);
        assert!(Call::openbao(&Method::DELETE, "sys/policies/acl/x", "p").write);
        assert!(!Call::store("list", "k").write && Call::store("delete", "k").write);
    }

    #[test]
    fn a_word_that_is_no_fault_is_refused() {
        for text in [
            r#"{"do": {"fault": "explode"}}"#,
            r#"{"do": {"fault": "cut"}, "when": 3}"#,
            r#"{"do": {"fault": "cut"}, "match": {"kind": "pods"}}"#,
        ] {
            assert!(serde_json::from_str::<Rule>(text).is_err(), "{text}");
        }
    }
}
