//! Keeps what leads to the cluster from outside of it: the Ingress, and the objects of kinds that somebody else defines.
//!
//! Nothing of the cluster waits for any of it. What cannot be made is told, and tried again after a while and not with each look.
//!
//! The Ingress is watched like everything else. The others are not: they are written when the spec says something new, and once
//! by each new process. That one is there, or may be, a label of the headless Service says: it is written before the object, and
//! taken off after it was removed. So an object goes with its field although nobody watches it, whoever dies in between, and a
//! cluster that never had one is asked nothing.

use super::{
    apply::{self, Applier, MANAGER},
    attempts::{Attempts, Outcome, Watched, failed},
    build::{
        Plain,
        exposure::{self, GUESTS, Guest},
    },
    facts::Facts,
    names,
    trouble::Trouble,
    validate::ValidatedCluster,
};
use crate::adapter::kubernetes::{
    apply::ApplyError,
    client::RequestError,
    foreign::{self, Wanted, Written},
};
use kube::ResourceExt;
use tokio::time::Instant;

/// What this process knows of the objects of one cluster, each by its kind.
#[derive(Debug, Default)]
pub(super) struct Known {
    attempts: Attempts,
    looked: bool,
}

impl Known {
    /// What could not be made or removed.
    pub(super) fn troubles(&self) -> Vec<Trouble> {
        self.attempts.troubles()
    }

    /// What has no effect because its kind is not served here. `None`: this process has not looked yet.
    pub(super) fn missing(&self) -> Option<Vec<String>> {
        self.looked.then(|| self.attempts.missing())
    }
}

/// Puts the labels on the headless Service that say which objects there are.
pub(super) fn marked(mut plain: Plain, known: &Known, cluster: &ValidatedCluster, facts: &Facts) -> Plain {
    let known = &known.attempts;
    let stays = |guest: &Guest| {
        // What this process has made, or tried to: the label is on its way to the watch.
        known.may_be_there(guest.kind.kind) || is_marked(guest, cluster, facts) && !known.is_gone(guest.kind.kind)
    };
    let marks = GUESTS.into_iter().filter(|guest| guest.wanted(cluster).is_some() || stays(guest));
    let marks: Vec<(String, String)> = marks.map(|guest| (guest.mark.to_owned(), "true".to_owned())).collect();
    let headless = names::headless_service(&cluster.name);
    for service in plain.services.iter_mut().filter(|service| service.name_any() == headless) {
        service.labels_mut().extend(marks.iter().cloned());
    }
    plain
}

fn is_marked(guest: &Guest, cluster: &ValidatedCluster, facts: &Facts) -> bool {
    let headless = facts.services.get(&names::headless_service(&cluster.name));
    headless.is_some_and(|service| service.labels().contains_key(guest.mark))
}

/// Makes what the spec asks for and removes what it does not, after the Services: their labels come before the objects.
pub(super) async fn keep(applier: &Applier, known: &mut Known, cluster: &ValidatedCluster, facts: &Facts) {
    let now = Instant::now();
    let attempts = &mut known.attempts;
    let ingress =
        Watched { key: "Ingress", field: "spec.ingress", resource: "ingresses", is_seen: !facts.unseen_ingresses };
    attempts.keep(applier, ingress, exposure::ingress(cluster), facts.ingress.as_deref()).await;
    for guest in GUESTS {
        let kind = guest.kind.kind;
        let wanted = guest.wanted(cluster);
        if wanted.is_none() && !is_marked(guest, cluster, facts) && !attempts.may_be_there(kind) {
            attempts.forget(kind);
            continue;
        }
        let digest = wanted.as_ref().map(|wanted| wanted.digest().to_owned());
        if attempts.is_due(kind, digest.as_deref(), now) {
            let outcome = match &wanted {
                Some(wanted) => put(applier, guest, wanted).await,
                None => take_away(applier, guest).await,
            };
            attempts.remember(kind, digest, now, outcome);
        }
    }
    known.looked = true;
}

async fn put(applier: &Applier, guest: &Guest, wanted: &Wanted) -> Outcome {
    match foreign::apply(&applier.client, wanted, &applier.uid, MANAGER).await {
        Ok(Written::Done) => Outcome::Done,
        Ok(Written::NoKind) => Outcome::NoKind(format!(
            "{} (no kind {} of {} is served here: it comes with {}, install that)",
            guest.field,
            guest.kind.kind,
            guest.kind.api_version(),
            guest.comes_with
        )),
        Ok(Written::Taken) => {
            let name = names::exposure(&applier.cluster);
            failed(guest.field, &apply::Error::NotOurs { kind: guest.kind.kind.to_owned(), name })
        }
        Err(source) => failed(guest.field, &write_failed(applier, guest, "apply", source)),
    }
}

async fn take_away(applier: &Applier, guest: &Guest) -> Outcome {
    let name = names::exposure(&applier.cluster);
    match foreign::remove(&applier.client, &guest.kind, &applier.namespace, &name, &applier.uid).await {
        Ok(()) => Outcome::Done,
        Err(source) => failed(guest.field, &write_failed(applier, guest, "delete", source)),
    }
}

fn write_failed(applier: &Applier, guest: &Guest, verb: &'static str, source: RequestError) -> apply::Error {
    apply::Error::Apply(ApplyError::Write {
        verb,
        kind: guest.kind.kind.to_owned(),
        namespace: applier.namespace.clone(),
        name: names::exposure(&applier.cluster),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::{
        attempts::{
            RECHECK, RETRY,
            tests::{applier, methods, refusal},
        },
        build,
        traffic::Traffic,
        trouble::reasons,
        validate::tests::valid,
    };
    use http::Method;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn not_found() -> (u16, Value) {
        refusal(404, "NotFound", "servicemonitors \"kelp\" not found")
    }

    fn object(owner: &str) -> Value {
        json!({"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
            "metadata": {"name": "kelp", "namespace": "reef", "uid": "monitor-uid", "ownerReferences": [
                {"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster", "name": "kelp", "uid": owner, "controller": true}]}})
    }

    fn monitored(interval: &str) -> ValidatedCluster {
        valid(|spec| {
            spec["observability"] =
                json!({"metrics": {"enabled": true, "serviceMonitor": {"enabled": true, "interval": interval}}});
        })
    }

    /// With a headless Service as `plain` has it.
    fn facts(plain: &Plain) -> Facts {
        let services = plain.services.iter().map(|service| (service.name_any(), Arc::new(service.clone())));
        Facts { services: services.collect(), ..Facts::default() }
    }

    fn plain(cluster: &ValidatedCluster) -> Plain {
        build::plain(cluster, None, false, &Traffic::Everybody, 3)
    }

    /// The Services that say that there is a `ServiceMonitor`.
    fn marks(plain: &Plain) -> Vec<&str> {
        let marked = plain.services.iter().filter(|one| one.labels().contains_key(exposure::SERVICE_MONITOR.mark));
        marked.filter_map(|service| service.metadata.name.as_deref()).collect()
    }

    #[tokio::test]
    async fn a_cluster_that_asks_for_none_of_it_asks_nothing_of_anybody() {
        let (applier, asked) = applier(|_| not_found());
        let cluster = valid(|_| {});
        let mut known = Known::default();
        assert_eq!(known.missing(), None, "nobody has looked yet");
        let plain = marked(plain(&cluster), &known, &cluster, &Facts::default());
        assert_eq!(marks(&plain), [""; 0]);
        keep(&applier, &mut known, &cluster, &facts(&plain)).await;
        assert!(methods(&asked).is_empty());
        assert_eq!((known.troubles(), known.missing()), (vec![], Some(vec![])));
    }

    #[tokio::test]
    async fn an_object_is_written_once_and_again_when_the_spec_says_something_else() {
        let (applier, asked) =
            applier(|method| if *method == Method::GET { not_found() } else { (201, object("cluster-uid")) });
        let mut known = Known::default();
        let cluster = monitored("30s");
        let plain = marked(plain(&cluster), &known, &cluster, &Facts::default());
        assert_eq!(marks(&plain), ["kelp"], "the headless Service alone, and before the object");
        let facts = facts(&plain);
        for _ in 0..3 {
            keep(&applier, &mut known, &cluster, &facts).await;
        }
        {
            let asked = asked.lock().unwrap();
            let (_, path, body) = asked.last().unwrap();
            assert_eq!(path, "/apis/monitoring.coreos.com/v1/namespaces/reef/servicemonitors/kelp");
            assert!(body.contains("cluster-uid") && body.contains("openbao.org/applied"), "{body}");
        }
        assert_eq!(methods(&asked), [Method::GET, Method::PATCH], "looked at once, written once");
        keep(&applier, &mut known, &monitored("15s"), &facts).await;
        assert_eq!(methods(&asked), [Method::GET, Method::PATCH]);
        assert_eq!((known.troubles(), known.missing()), (vec![], Some(vec![])));
    }

    #[tokio::test]
    async fn a_kind_that_is_not_served_is_told_asked_for_rarely_and_no_trouble() {
        let (applier, asked) = applier(|_| (404, json!("404 page not found\n")));
        let (mut known, cluster) = (Known::default(), monitored("30s"));
        for _ in 0..3 {
            keep(&applier, &mut known, &cluster, &Facts::default()).await;
        }
        assert_eq!(methods(&asked), [Method::GET]);
        let missing = known.missing().unwrap();
        assert!(
            missing.len() == 1 && missing[0].contains("serviceMonitor") && missing[0].contains("Prometheus operator"),
            "{missing:?}"
        );
        assert_eq!(known.troubles(), []);
        known.attempts.back("ServiceMonitor", RECHECK);
        keep(&applier, &mut known, &cluster, &Facts::default()).await;
        assert_eq!(methods(&asked), [Method::GET]);
        known.attempts.back("ServiceMonitor", RECHECK);
        keep(&applier, &mut known, &valid(|_| {}), &Facts::default()).await;
        assert_eq!(methods(&asked), [Method::GET], "nothing of a kind that is not served is left to be removed");
        assert_eq!((known.troubles(), known.missing()), (vec![], Some(vec![])));
    }

    #[tokio::test]
    async fn an_object_of_somebody_else_is_left_alone_and_told() {
        let (applier, asked) = applier(|_| (200, object("another-uid")));
        let (mut known, cluster) = (Known::default(), monitored("30s"));
        let facts = facts(&marked(plain(&cluster), &known, &cluster, &Facts::default()));
        for _ in 0..3 {
            keep(&applier, &mut known, &cluster, &facts).await;
        }
        assert_eq!(methods(&asked), [Method::GET]);
        let troubles = known.troubles();
        let [trouble] = &troubles[..] else { panic!("{known:?}") };
        assert!(
            trouble.reason == reasons::NAME_TAKEN && trouble.message.contains("ServiceMonitor kelp"),
            "{trouble:?}"
        );
        keep(&applier, &mut known, &valid(|_| {}), &facts).await;
        assert_eq!(methods(&asked), [Method::GET], "nor is it removed");
        assert_eq!(known.troubles(), []);
    }

    #[tokio::test]
    async fn an_object_goes_with_its_field_also_by_a_process_that_did_not_make_it_and_its_label_after_it() {
        let (applier, asked) = applier(|method| {
            if *method == Method::GET {
                (200, object("cluster-uid"))
            } else {
                (200, json!({"kind": "Status", "status": "Success"}))
            }
        });
        let with = monitored("30s");
        let before = facts(&marked(plain(&with), &Known::default(), &with, &Facts::default()));
        // The watch may be a moment behind what this process has made.
        let mut made = Known::default();
        made.attempts.remember("ServiceMonitor", Some("a".into()), Instant::now(), Outcome::Done);
        assert_eq!(marks(&marked(plain(&valid(|_| {})), &made, &valid(|_| {}), &Facts::default())), ["kelp"]);
        let (mut known, without) = (Known::default(), valid(|_| {}));
        let still = marked(plain(&without), &known, &without, &before);
        assert_eq!(marks(&still), ["kelp"], "it is there");
        for _ in 0..3 {
            keep(&applier, &mut known, &without, &before).await;
        }
        {
            let asked = asked.lock().unwrap();
            assert!(asked.last().unwrap().2.contains("monitor-uid"), "exactly the one that was seen: {asked:?}");
        }
        assert_eq!(methods(&asked), [Method::GET, Method::DELETE]);
        let after = marked(plain(&without), &known, &without, &before);
        assert_eq!(marks(&after), [""; 0]);
        keep(&applier, &mut known, &without, &facts(&after)).await;
        assert!(methods(&asked).is_empty());
    }

    #[tokio::test]
    async fn an_ingress_that_is_refused_is_told_and_tried_again_after_a_while_or_when_it_changes() {
        let (applier, asked) = applier(|method| match *method {
            Method::GET => not_found(),
            _ => refusal(403, "Forbidden", "host is taken"),
        });
        let exposed = |host: &str| valid(|spec| spec["ingress"] = json!({"enabled": true, "host": host}));
        let (mut known, nothing) = (Known::default(), Facts::default());
        for _ in 0..3 {
            keep(&applier, &mut known, &exposed("a.example.org"), &nothing).await;
        }
        assert_eq!(methods(&asked), [Method::GET, Method::PATCH]);
        let troubles = known.troubles();
        let [trouble] = &troubles[..] else { panic!("{known:?}") };
        assert!(trouble.reason == reasons::APPLY_FAILED && trouble.message.contains("host is taken"), "{trouble:?}");
        keep(&applier, &mut known, &exposed("b.example.org"), &nothing).await;
        assert_eq!(methods(&asked), [Method::GET, Method::PATCH]);
        known.attempts.back("Ingress", RETRY);
        keep(&applier, &mut known, &exposed("b.example.org"), &nothing).await;
        assert_eq!(methods(&asked), [Method::GET, Method::PATCH]);
        keep(&applier, &mut known, &valid(|_| {}), &nothing).await;
        assert_eq!((methods(&asked), known.troubles()), (vec![], vec![]));
    }
}
