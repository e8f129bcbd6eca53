//! What nothing of a cluster waits for: an Ingress, a route, a NetworkPolicy. What cannot be made or removed is told, and tried
//! again after a while and not with each look. It never ends one.

use super::{
    apply::{self, Applier},
    trouble::{Trouble, reasons},
};
use crate::{adapter::kubernetes::Namespaced, causes::chain};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// How long what failed is left alone. It may fail the same way for days.
pub(super) const RETRY: Duration = Duration::from_secs(30);
/// How long a kind that is not served is taken for missing.
pub(super) const RECHECK: Duration = Duration::from_secs(300);

/// What this process knows of such objects of one cluster, each under a word of its own.
#[derive(Debug, Default)]
pub(super) struct Attempts(BTreeMap<&'static str, Attempt>);

/// The last time that something was asked of the API server.
#[derive(Debug)]
struct Attempt {
    /// What the object was to be; `None`: gone.
    wanted: Option<String>,
    at: Instant,
    outcome: Outcome,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// The kind is not served: what is to be told about it.
    NoKind(String),
    Failed(Trouble),
}

/// An object of a kind that is watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    /// Under which it is remembered.
    pub(super) key: &'static str,
    /// The field that asks for it.
    pub(super) field: &'static str,
    /// The kind as rights name it.
    pub(super) resource: &'static str,
    /// The watch knows all that there are: its list is not refused.
    pub(super) is_seen: bool,
}

impl Attempts {
    /// Whether there is a reason to ask again.
    pub(super) fn is_due(&self, key: &str, wanted: Option<&str>, now: Instant) -> bool {
        let Some(last) = self.0.get(key) else { return true };
        let ago = now.duration_since(last.at);
        last.wanted.as_deref() != wanted
            || match last.outcome {
                Outcome::Done => false,
                Outcome::NoKind(_) => ago >= RECHECK,
                Outcome::Failed(_) => ago >= RETRY,
            }
    }

    /// Whether it was removed, or found to be gone.
    pub(super) fn is_gone(&self, key: &str) -> bool {
        let last = self.0.get(key);
        last.is_some_and(|last| last.wanted.is_none() && matches!(last.outcome, Outcome::Done))
    }

    /// Whether this process has made it, or tried to.
    pub(super) fn may_be_there(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|last| last.wanted.is_some())
    }

    pub(super) fn remember(&mut self, key: &'static str, wanted: Option<String>, at: Instant, outcome: Outcome) {
        self.0.insert(key, Attempt { wanted, at, outcome });
    }

    pub(super) fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// What could not be made or removed.
    pub(super) fn troubles(&self) -> Vec<Trouble> {
        let outcomes = self.0.values().map(|last| &last.outcome);
        let failed =
            outcomes.filter_map(|outcome| if let Outcome::Failed(trouble) = outcome { Some(trouble) } else { None });
        failed.cloned().collect()
    }

    /// What has no effect because its kind is not served here.
    pub(super) fn missing(&self) -> Vec<String> {
        let outcomes = self.0.values().map(|last| &last.outcome);
        let missing =
            outcomes.filter_map(|outcome| if let Outcome::NoKind(told) = outcome { Some(told) } else { None });
        missing.cloned().collect()
    }

    /// Brings an object into its wanted state; `None`: gone. `live` is what the watch knows. What is watched is compared with each
    /// look, which asks nothing of anybody, so only what failed is remembered.
    pub(super) async fn keep<K>(&mut self, applier: &Applier, what: Watched, wanted: Option<K>, live: Option<&K>)
    where
        K: Namespaced + Serialize,
    {
        if !what.is_seen {
            match wanted {
                // Nothing was asked for, so it is due at once when the watch sees.
                Some(_) => self.remember(what.key, None, Instant::now(), unseen(what)),
                None => self.forget(what.key),
            }
            return;
        }
        let form = || wanted.as_ref().map(|wanted| format!("{wanted:?}"));
        if self.0.contains_key(what.key) && !self.is_due(what.key, form().as_deref(), Instant::now()) {
            return;
        }
        let form = form();
        let result = match (wanted, live) {
            (Some(wanted), live) => applier.ensure(live, wanted).await,
            (None, Some(live)) => applier.remove(live).await,
            (None, None) => Ok(()),
        };
        match result {
            // Counted from its end: what gets no answer takes a while each time.
            Err(error) if !was_overtaken(&error) => {
                self.remember(what.key, form, Instant::now(), failed(what.field, &error));
            }
            _ => self.forget(what.key),
        }
    }
}

/// Somebody else was faster, or it is gone: the next look sees it.
fn was_overtaken(error: &apply::Error) -> bool {
    error.request().is_some_and(|request| request.is_conflict() || request.is_not_found())
}

fn unseen(what: Watched) -> Outcome {
    let Watched { field, resource, .. } = what;
    Outcome::Failed(Trouble::new(
        reasons::ACCESS_MISSING,
        format!(
            "{field} is not carried out: the operator may not list {resource} here. Give it the rights on them that its chart does (get, list, watch, create, patch, delete in networking.k8s.io); it goes on by itself"
        ),
    ))
}

/// What is told of a write that failed.
pub(super) fn failed(field: &str, error: &apply::Error) -> Outcome {
    let reason = match error {
        apply::Error::NotOurs { .. } => reasons::NAME_TAKEN,
        _ => reasons::APPLY_FAILED,
    };
    Outcome::Failed(Trouble::new(reason, format!("{field}: {}", chain(error))))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::service::cluster::apply::Settled;
    use http::Method;
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use kube::{Client, client::Body};
    use serde_json::{Value, json};
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    /// The requests that were made, oldest first: method, path, body.
    pub(in crate::service::cluster) type Asked = Arc<Mutex<Vec<(Method, String, String)>>>;

    /// Of cluster `kelp`, whose API server answers as it is told. It wants a runtime.
    pub(in crate::service::cluster) fn applier(answer: fn(&Method) -> (u16, Value)) -> (Applier, Asked) {
        let asked = Asked::default();
        let known = asked.clone();
        let serve = tower::service_fn(move |request: http::Request<Body>| {
            let known = known.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = String::from_utf8(body.collect_bytes().await.unwrap().to_vec()).unwrap();
                known.lock().unwrap().push((parts.method.clone(), parts.uri.path().to_owned(), body));
                let (code, answer) = answer(&parts.method);
                // An unknown kind is answered in plain text.
                let answer = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
                let answer = http::Response::builder().status(code).body(Body::from(answer.into_bytes()));
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        let applier = Applier {
            client: Client::new(serve, "reef"),
            namespace: "reef".into(),
            cluster: "kelp".into(),
            uid: "cluster-uid".into(),
            settled: Settled::default(),
        };
        (applier, asked)
    }

    pub(in crate::service::cluster) fn methods(asked: &Asked) -> Vec<Method> {
        asked.lock().unwrap().drain(..).map(|(method, ..)| method).collect()
    }

    /// The API server's answer that says no.
    pub(in crate::service::cluster) fn refusal(code: u16, reason: &str, message: &str) -> (u16, Value) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
            "message": message});
        (code, status)
    }

    impl Attempts {
        /// As if the last time had been earlier by that.
        pub(in crate::service::cluster) fn back(&mut self, key: &str, time: Duration) {
            let last = self.0.get_mut(key).unwrap();
            last.at = last.at.checked_sub(time).unwrap();
        }
    }

    const POLICY: Watched =
        Watched { key: "policy", field: "spec.network", resource: "networkpolicies", is_seen: true };

    fn policy(owner: &str, rule: Value) -> NetworkPolicy {
        let owner = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster", "name": "kelp", "uid": owner,
            "controller": true});
        let metadata = json!({"name": "kelp", "namespace": "reef", "uid": "policy-uid", "ownerReferences": [owner]});
        serde_json::from_value(json!({"metadata": metadata, "spec": rule})).unwrap()
    }

    fn wanted() -> Option<NetworkPolicy> {
        Some(policy("cluster-uid", json!({"policyTypes": ["Ingress"]})))
    }

    #[test]
    fn what_is_done_is_asked_for_again_only_when_it_changes_and_what_is_not_after_a_while() {
        let now = Instant::now();
        let missing = || Outcome::NoKind(String::new());
        let refused = || Outcome::Failed(Trouble::new("ApplyFailed", "no"));
        let day = Duration::from_secs(86_400);
        for (outcome, ago, same, expected) in [
            (Outcome::Done, day, true, false),
            (Outcome::Done, Duration::ZERO, false, true),
            (missing(), RECHECK.saturating_sub(Duration::from_secs(1)), true, false),
            (missing(), RECHECK, true, true),
            (missing(), Duration::ZERO, false, true),
            (refused(), RETRY.saturating_sub(Duration::from_secs(1)), true, false),
            (refused(), RETRY, true, true),
            (refused(), Duration::ZERO, false, true),
        ] {
            let told = format!("{outcome:?} {ago:?} {same}");
            let mut known = Attempts::default();
            known.remember("ServiceMonitor", Some("a".into()), now, outcome);
            assert_eq!(
                known.is_due("ServiceMonitor", Some(if same { "a" } else { "b" }), now + ago),
                expected,
                "{told}"
            );
        }
        assert!(Attempts::default().is_due("ServiceMonitor", Some("a"), now), "a new process knows nothing");
    }

    type Answer = fn(&Method) -> (u16, Value);

    #[tokio::test]
    async fn whatever_stands_in_the_way_is_told_and_asked_about_again_only_after_a_while() {
        let cases: [(Answer, &[Method], &str); 4] = [
            (
                |method| match *method {
                    Method::GET => refusal(404, "NotFound", "none yet"),
                    _ => refusal(403, "Forbidden", "exceeded quota"),
                },
                &[Method::GET, Method::PATCH],
                "exceeded quota",
            ),
            (
                |method| match *method {
                    Method::GET => refusal(404, "NotFound", "none yet"),
                    _ => refusal(500, "InternalError", "failed calling webhook"),
                },
                &[Method::GET, Method::PATCH],
                "failed calling webhook",
            ),
            (|_| refusal(403, "Forbidden", "cannot get resource"), &[Method::GET], "cannot get resource"),
            (|_| refusal(503, "ServiceUnavailable", "etcd is away"), &[Method::GET], "etcd is away"),
        ];
        for (answer, expected, words) in cases {
            let (applier, asked) = applier(answer);
            let mut known = Attempts::default();
            for _ in 0..3 {
                known.keep(&applier, POLICY, wanted(), None).await;
            }
            assert_eq!(methods(&asked), expected, "{words}");
            let troubles = known.troubles();
            let [trouble] = &troubles[..] else { panic!("{words}: {known:?}") };
            assert_eq!(trouble.reason, reasons::APPLY_FAILED);
            assert!(trouble.message.starts_with("spec.network: ") && trouble.message.contains(words), "{trouble:?}");
            known.back(POLICY.key, RETRY);
            known.keep(&applier, POLICY, wanted(), None).await;
            assert_eq!(methods(&asked), expected, "{words}");
            known.keep(&applier, POLICY, Some(policy("cluster-uid", json!({}))), None).await;
            assert_eq!(methods(&asked), expected, "the spec says something else: {words}");
        }
        let (applier, asked) = applier(|_| refusal(409, "Conflict", "the object has been modified"));
        let mut known = Attempts::default();
        let live = policy("cluster-uid", json!({}));
        known.keep(&applier, POLICY, wanted(), Some(&live)).await;
        known.keep(&applier, POLICY, wanted(), Some(&live)).await;
        assert_eq!((methods(&asked).len(), known.troubles()), (2, vec![]), "who is overtaken sees it in the next look");
    }

    #[tokio::test]
    async fn an_object_that_is_not_removed_is_told_too_and_that_of_somebody_else_is_left_alone() {
        let (applier, asked) = applier(|_| refusal(500, "InternalError", "failed calling webhook"));
        let (mut known, live) = (Attempts::default(), policy("cluster-uid", json!({})));
        for _ in 0..3 {
            known.keep(&applier, POLICY, None, Some(&live)).await;
        }
        assert_eq!(methods(&asked), [Method::DELETE]);
        assert!(known.troubles()[0].message.contains("failed calling webhook"), "{known:?}");
        known.keep(&applier, POLICY, None::<NetworkPolicy>, None).await;
        assert!(!known.troubles().is_empty(), "it has not been looked at again yet");
        known.back(POLICY.key, RETRY);
        known.keep(&applier, POLICY, None::<NetworkPolicy>, None).await;
        assert_eq!((methods(&asked), known.troubles()), (vec![], vec![]), "it is gone");

        let theirs = policy("another-uid", json!({}));
        for _ in 0..3 {
            known.keep(&applier, POLICY, wanted(), Some(&theirs)).await;
        }
        assert!(methods(&asked).is_empty());
        let troubles = known.troubles();
        assert!(troubles.len() == 1 && troubles[0].reason == reasons::NAME_TAKEN, "{troubles:?}");
        assert!(troubles[0].message.contains("NetworkPolicy kelp"), "{troubles:?}");
    }

    #[tokio::test]
    async fn where_nothing_can_be_seen_nothing_is_asked_and_only_who_wants_something_is_told() {
        let (applier, asked) = applier(|method| match *method {
            Method::GET => refusal(404, "NotFound", "none yet"),
            _ => (200, serde_json::to_value(policy("cluster-uid", json!({"policyTypes": ["Ingress"]}))).unwrap()),
        });
        let blind = Watched { is_seen: false, ..POLICY };
        let mut known = Attempts::default();
        known.keep(&applier, blind, None::<NetworkPolicy>, None).await;
        assert_eq!(known.troubles(), [], "nothing was asked for");
        known.keep(&applier, blind, wanted(), None).await;
        let troubles = known.troubles();
        assert!(troubles.len() == 1 && troubles[0].reason == reasons::ACCESS_MISSING, "{troubles:?}");
        assert!(troubles[0].message.contains("may not list networkpolicies"), "{troubles:?}");
        assert!(methods(&asked).is_empty(), "what is not seen may be there");
        known.keep(&applier, POLICY, wanted(), None).await;
        assert_eq!(methods(&asked), [Method::GET, Method::PATCH], "at once with the right");
        assert_eq!(known.troubles(), []);
        known.keep(&applier, blind, wanted(), None).await;
        known.keep(&applier, blind, None::<NetworkPolicy>, None).await;
        assert_eq!((methods(&asked), known.troubles()), (vec![], vec![]), "the field was taken out");
    }
}
