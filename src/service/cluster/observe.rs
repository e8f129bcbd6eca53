//! What the servers say about themselves, pod by pod.
//!
//! Labels on pods and the readiness of Services are hints: OpenBao leaves `openbao-active` behind on pods that lead no more.
//! Truth is each pod's own `sys/health` and `sys/leader`, asked at the pod's address with the pod's TLS name.

use super::{
    authorities,
    build::statefulset::CONTAINER,
    facts::MAX_MEMBERS,
    members::Member,
    names,
    outdated::{is_refused, outdated},
};
use crate::{
    adapter::{
        Adapters,
        bulk::Unread,
        kubernetes::{owner::is_controlled_by, pods::unscheduled, time::from_kube},
        leadership::Leadership,
        openbao::{Endpoint, Error as BaoError},
    },
    api::{OpenBaoCluster, TlsMode},
    causes::chain,
    service::upgrade::trouble::trouble,
};
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};
use tokio::time::Instant;

/// How long a pod of a new cluster may take before it is asked although Kubernetes does not call it ready.
const STARTING: chrono::Duration = chrono::Duration::seconds(30);

/// How many pods of one cluster are asked at the same time.
const ASKED_AT_ONCE: usize = 9;

/// The server pods of the cluster, ordered by ordinal, each with its own word. Never fails: silence is an observation.
pub async fn members(ad: &Adapters, cluster: &OpenBaoCluster) -> Vec<Member> {
    members_after(ad, cluster, &BTreeMap::new()).await
}

/// The same for whoever looked before. Those that were `silent` then, by the UIDs of their pods, are asked once only: silence that
/// lasts would take twice the time of each look.
pub async fn members_after(ad: &Adapters, cluster: &OpenBaoCluster, silent: &BTreeMap<String, Instant>) -> Vec<Member> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let ca = ca_bundle(ad, cluster).await;
    let set = ad.caches.stateful_sets.get(&ObjectRef::new(&names::statefulset(&name)).within(&namespace));
    let pods = (0..MAX_MEMBERS)
        .filter_map(|n| ad.caches.pods.get(&ObjectRef::new(&names::pod(&name, n)).within(&namespace)))
        .filter(|pod| is_own(pod, cluster, set.as_deref()))
        .filter_map(|pod| known(&pod, cluster, ca.as_deref(), &ad.leadership));
    let starting = cluster.spec.self_init.as_ref().is_some_and(|init| init.enabled)
        && cluster.status.as_ref().and_then(|status| status.initialized) != Some(true);
    // While something is under way, silence has a meaning (a restore) and the next look is near.
    let patient = cluster.status.as_ref().is_none_or(|status| status.operation_lock.is_none());
    let now = Utc::now();
    let pods = pods.map(|member| (patient && !silent.contains_key(&member.uid), member));
    let mut members: Vec<Member> = stream::iter(pods.collect::<Vec<_>>())
        .map(|(patient, member)| async move {
            if is_worth_asking(&member, starting, now) { ask(member, patient).await } else { member }
        })
        .buffer_unordered(ASKED_AT_ONCE)
        .collect()
        .await;
    members.sort_by_key(|member| member.ordinal);
    members
}

/// The CA bundle that the operator keeps for the cluster, as last seen. `None` as well where it cannot be read.
async fn ca_bundle(ad: &Adapters, cluster: &OpenBaoCluster) -> Option<String> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let (secret, field) = match cluster.spec.tls.mode {
        TlsMode::External => (names::older_secret(&name), authorities::OLDER),
        TlsMode::OperatorManaged | TlsMode::Acme => (names::server_secret(&name), "ca.crt"),
    };
    let uid = cluster.uid().unwrap_or_default();
    let unread = |error: &Unread| {
        tracing::warn!(error = chain(error), "the CA bundle of a cluster is not known");
    };
    if let Some(kept) = ad.caches.secrets.get(&ObjectRef::new(&secret).within(&namespace)) {
        let kept = ad.caches.whole_secrets.of(&ad.client, kept).await.inspect_err(unread).ok()?;
        let believed = authorities::believed(Some(&kept), field, &uid, None);
        if believed.is_some() {
            return believed;
        }
    }
    let told = ad.caches.config_maps.get(&ObjectRef::new(&names::ca_config_map(&name)).within(&namespace))?;
    let told = ad.caches.whole_config_maps.of(&ad.client, told).await.inspect_err(unread).ok()?;
    authorities::believed(None, field, &uid, Some(&told))
}

/// Whether a pod is of this very cluster object. Servers of an earlier one of the same name may still answer, and would be
/// taken for its own data. Once it holds data there can be no others.
fn is_own(pod: &Pod, cluster: &OpenBaoCluster, set: Option<&StatefulSet>) -> bool {
    let initialized = cluster.status.as_ref().is_some_and(|status| status.initialized == Some(true));
    let uid = cluster.uid().unwrap_or_default();
    let made_by = |set: &StatefulSet| {
        is_controlled_by(set, &uid) && is_controlled_by(pod, set.metadata.uid.as_deref().unwrap_or_default())
    };
    initialized || set.is_some_and(made_by)
}

/// What Kubernetes knows of a server pod. `None` for pods that are not servers of this cluster.
fn known(pod: &Pod, cluster: &OpenBaoCluster, ca: Option<&str>, leadership: &Leadership) -> Option<Member> {
    let (namespace, cluster_name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let name = pod.name_any();
    if pod.labels().get(names::COMPONENT_LABEL).map(String::as_str) != Some(names::SERVER_COMPONENT) {
        return None;
    }
    let ordinal = names::ordinal_of(&cluster_name, &name)?;
    let status = pod.status.as_ref();
    let ip: Option<IpAddr> = status.and_then(|status| status.pod_ip.as_ref()).and_then(|ip| ip.parse().ok());
    let running = status.and_then(|status| status.phase.as_deref()) == Some("Running");
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    // As it was started: where the spec says otherwise by now, it is spoken to as it is until its turn to restart comes.
    let tls = serves_tls(pod).unwrap_or(cluster.spec.tls.enabled);
    let endpoint = ip.filter(|_| running && (!tls || ca.is_some())).map(|ip| Endpoint {
        pod: name.clone(),
        address: SocketAddr::new(ip, names::API_PORT),
        tls_name: names::tls_name(&cluster_name, &namespace, &name),
        ca_pem: if tls { ca.map(str::to_owned) } else { None },
    });
    let silence = match (&endpoint, running) {
        // Asked all the same: what ends again and again may be a container beside the server.
        (Some(_), _) => trouble(pod).map(told),
        (None, false) => Some(waiting_for(pod)),
        (None, true) => Some("its CA bundle is not known yet".to_owned()),
    };
    Some(Member {
        ordinal,
        uid: pod.uid().unwrap_or_default(),
        ip,
        ready,
        terminating: pod.metadata.deletion_timestamp.is_some(),
        created: pod.metadata.creation_timestamp.as_ref().map(from_kube),
        endpoint,
        health: None,
        view: None,
        silence,
        refused: false,
        leadership: leadership.clone(),
        name,
    })
}

/// Whether the server in a pod serves TLS, by the probe that it was made with. `None`: the pod does not say.
fn serves_tls(pod: &Pod) -> Option<bool> {
    let server = pod.spec.as_ref()?.containers.iter().find(|container| container.name == CONTAINER)?;
    let scheme = server.readiness_probe.as_ref()?.http_get.as_ref()?.scheme.as_deref()?;
    Some(scheme == "HTTPS")
}

/// Why a pod does not run yet, in Kubernetes' own words: the kubelet's reason, or the scheduler's message. Why a server ends again
/// and again the kubelet does not know; its last lines do.
fn waiting_for(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "its pod is not scheduled yet".to_owned() };
    let mut containers = status.container_statuses.iter().flatten();
    let waiting = trouble(pod).or_else(|| {
        containers.find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            Some((waiting.reason.clone()?, waiting.message.clone().unwrap_or_default()))
        })
    });
    waiting.map_or_else(|| unscheduled(pod).unwrap_or("its pod is starting").to_owned(), told)
}

fn told((reason, message): (String, String)) -> String {
    if message.is_empty() { reason } else { format!("{reason}: {message}") }
}

/// While a cluster starts for the first time, a server that initialises itself accepts connections and answers nothing: each
/// look would take the whole timeout. Kubernetes probes it every second anyway, and its readiness wakes us.
fn is_worth_asking(member: &Member, starting: bool, now: DateTime<Utc>) -> bool {
    let young = member.created.is_none_or(|created| now - created < STARTING);
    member.ready || !starting || !young
}

/// One unanswered question on a busy machine is no outage: a `patient` look asks a server that Kubernetes calls ready once
/// more before it speaks of silence.
async fn ask(mut member: Member, patient: bool) -> Member {
    let Some(client) = member.client() else { return member };
    match client {
        Ok(client) => {
            let late = |error: Option<&BaoError>| matches!(error, Some(BaoError::TimedOut { .. }));
            let (mut health, mut view) = futures::join!(client.health(), client.leader());
            if patient && member.ready && (late(health.as_ref().err()) || late(view.as_ref().err())) {
                (health, view) = futures::join!(client.health(), client.leader());
            }
            match health {
                Ok(health) => (member.health, member.silence) = (Some(health), None),
                Err(error) => {
                    member.refused = is_refused(&error);
                    // Why it ends again and again says more than that nobody listens.
                    member.silence = member.silence.or_else(|| outdated(&error).map(|flaw| flaw.to_string()));
                    member.silence = member.silence.or_else(|| Some(chain(&error)));
                }
            }
            member.view = view.ok();
        }
        Err(error) => member.silence = Some(chain(&error)),
    }
    member
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{adapter::openbao::HealthState::Active, service::cluster::members::tests::member};
    use serde_json::json;

    #[test]
    fn a_server_is_spoken_to_as_it_was_started_while_the_spec_says_otherwise() {
        let pod = |probe: serde_json::Value| {
            let container = json!({"name": "openbao", "readinessProbe": probe});
            let labels = json!({names::COMPONENT_LABEL: names::SERVER_COMPONENT});
            let pod = json!({"metadata": {"name": "kelp-0", "labels": labels}, "spec": {"containers": [container]},
                "status": {"phase": "Running", "podIP": "10.0.0.1"}});
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        let by = |scheme: &str| json!({"httpGet": {"port": "api", "scheme": scheme}});
        for enabled in [true, false] {
            let cluster = crate::service::cluster::validate::tests::cluster(|spec| {
                spec["profile"] = json!("Development");
                spec["tls"] = json!({"enabled": enabled});
            });
            let ca = |probe| {
                known(&pod(probe), &cluster, Some("PEM"), &Leadership::always()).unwrap().endpoint.unwrap().ca_pem
            };
            assert_eq!(ca(by("HTTP")), None);
            assert_eq!(ca(by("HTTPS")).as_deref(), Some("PEM"));
            assert_eq!(ca(json!(null)).is_some(), enabled, "a pod that does not say");
        }
    }

    #[test]
    fn servers_of_an_earlier_object_of_the_same_name_are_not_its_members() {
        let owned = |name: &str, uid: &str, owner: &str| {
            let owner = json!([{"apiVersion": "v1", "kind": "K", "name": "o", "uid": owner, "controller": true}]);
            json!({"metadata": {"name": name, "uid": uid, "ownerReferences": owner}})
        };
        let pod = |owner| serde_json::from_value::<Pod>(owned("kelp-0", "pod", owner)).unwrap();
        let set = |uid, owner| serde_json::from_value::<StatefulSet>(owned("kelp", uid, owner)).unwrap();
        let mut new = crate::service::cluster::validate::tests::cluster(|_| {});
        new.metadata.uid = Some("new".into());
        assert!(is_own(&pod("set"), &new, Some(&set("set", "new"))));
        assert!(!is_own(&pod("set"), &new, Some(&set("set", "earlier"))), "its StatefulSet is not ours");
        assert!(!is_own(&pod("earlier"), &new, Some(&set("set", "new"))), "made by the one before ours");
        assert!(!is_own(&pod("set"), &new, None));
        new.status = Some(crate::api::OpenBaoClusterStatus { initialized: Some(true), ..Default::default() });
        assert!(is_own(&pod("set"), &new, None), "its StatefulSet was deleted and comes back");
    }

    /// A server that leaves its first so many connections without an answer.
    async fn silent_for(connections: usize) -> Member {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        // No client is built without one, whatever it speaks. Where another test installed one, that does.
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                if open.len() < connections {
                    open.push(connection);
                    continue;
                }
                let mut asked = [0; 1024];
                let length = connection.read(&mut asked).await.unwrap();
                let health = asked[..length].starts_with(b"GET /v1/sys/health");
                let body = if health {
                    r#"{"initialized": true, "sealed": false, "version": "2.7.2"}"#
                } else {
                    r#"{"ha_enabled": true, "is_self": true, "leader_address": ""}"#
                };
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let endpoint = Endpoint { pod: "kelp-0".into(), address, tls_name: "kelp-0.test".into(), ca_pem: None };
        Member { health: None, view: None, endpoint: Some(endpoint), ..member(0, Active, Some(0)) }
    }

    #[tokio::test]
    async fn a_ready_server_that_misses_one_question_is_asked_again_before_it_counts_as_silent() {
        let asked = ask(silent_for(2).await, true).await;
        assert!(asked.serves() && asked.silence.is_none() && asked.view.is_some(), "{asked:?}");
        let twice = ask(silent_for(4).await, true).await;
        assert!(twice.health.is_none() && twice.silence.is_some(), "{twice:?}");
        let hurried = ask(silent_for(2).await, false).await;
        assert!(hurried.health.is_none(), "an operation wants to know at once: {hurried:?}");
        let unready = ask(Member { ready: false, ..silent_for(2).await }, true).await;
        assert!(unready.health.is_none(), "Kubernetes had no answer either: {unready:?}");
    }

    #[test]
    fn a_server_that_ends_again_and_again_is_told_with_its_last_words() {
        let said = json!({"terminated": {"exitCode": 1, "message": "write vault.db:\nno space left on device"}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let container = json!({"name": "openbao", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
            "state": waiting, "lastState": said});
        let mut pod = json!({"metadata": {"name": "kelp-0"}, "status": {"containerStatuses": [container]}});
        let told = waiting_for(&serde_json::from_value(pod.clone()).unwrap());
        assert!(told.starts_with("CrashLoopBackOff: ") && told.ends_with("no space left on device"), "{told}");
        // Kubernetes calls such a pod running.
        pod["metadata"]["labels"] = json!({names::COMPONENT_LABEL: names::SERVER_COMPONENT});
        pod["status"]["phase"] = json!("Running");
        pod["status"]["podIP"] = json!("10.0.0.1");
        let cluster = crate::service::cluster::validate::tests::cluster(|_| {});
        let member =
            known(&serde_json::from_value(pod).unwrap(), &cluster, Some("PEM"), &Leadership::always()).unwrap();
        assert!(member.endpoint.is_some(), "it is asked all the same");
        assert_eq!(member.silence, Some(told));
    }

    #[tokio::test]
    async fn at_a_member_nothing_is_changed_any_more_by_an_operator_that_led_when_it_looked() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let labels = json!({names::COMPONENT_LABEL: names::SERVER_COMPONENT});
        let pod = json!({"metadata": {"name": "kelp-0", "labels": labels},
            "status": {"phase": "Running", "podIP": "10.0.0.1"}});
        let cluster = crate::service::cluster::validate::tests::cluster(|spec| {
            spec["profile"] = json!("Development");
            spec["tls"] = json!({"enabled": false});
        });
        let (term, leadership) = crate::adapter::leadership::channel();
        term.for_ever();
        let member = known(&serde_json::from_value(pod).unwrap(), &cluster, None, &leadership).unwrap();
        term.end();
        let token = crate::adapter::openbao::Token::new("s.token");
        let error = member.client().unwrap().unwrap().step_down(&token).await.unwrap_err();
        assert!(matches!(error, BaoError::NotLeader { .. }), "{error}");
    }
}
