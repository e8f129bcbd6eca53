//! What the servers say about themselves, pod by pod.
//!
//! Labels on pods and the readiness of Services are hints: OpenBao leaves `openbao-active` behind on pods that lead no more.
//! Truth is each pod's own `sys/health` and `sys/leader`, asked at the pod's address with the pod's TLS name.

use super::{
    authorities,
    build::statefulset::CONTAINER,
    facts::MAX_MEMBERS,
    names,
    outdated::{is_refused, outdated},
};
use crate::{
    adapter::{
        Adapters,
        bulk::Unread,
        kubernetes::{owner::is_controlled_by, pods::unscheduled, time::from_kube},
        leadership::Leadership,
        openbao::{Client, Endpoint, Error as BaoError, Health, HealthState, LeaderView},
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
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};
use tokio::time::Instant;

/// How long a pod of a new cluster may take before it is asked although Kubernetes does not call it ready.
const STARTING: chrono::Duration = chrono::Duration::seconds(30);

/// How many pods of one cluster are asked at the same time.
const ASKED_AT_ONCE: usize = 9;

/// One server pod and its own word.
#[derive(Clone, Debug)]
pub struct Member {
    /// The pod, which is also the raft node id.
    pub name: String,
    /// Its number in the StatefulSet.
    pub ordinal: u32,
    /// Tells it from an earlier pod of the same name; deletions carry it.
    pub uid: String,
    /// `None` until it runs.
    pub ip: Option<IpAddr>,
    /// Kubernetes' Ready condition.
    pub ready: bool,
    /// On its way out.
    pub terminating: bool,
    /// When the pod was made.
    pub created: Option<DateTime<Utc>>,
    /// How to reach it; `None` without an address or a CA bundle.
    pub endpoint: Option<Endpoint>,
    /// Its `sys/health`; `None` when it gave no answer within 2 s.
    pub health: Option<Health>,
    /// Its `sys/leader`; `None` when it gave no answer, which is also so while it restores.
    pub view: Option<LeaderView>,
    /// Why there is no answer, for messages.
    pub silence: Option<String>,
    /// There is no answer because the operator does not believe the certificate that it serves.
    pub refused: bool,
    /// Of whoever looked: its clients change nothing there once that is over.
    pub leadership: Leadership,
}

impl Member {
    /// Its own word for what it is.
    pub fn state(&self) -> Option<HealthState> {
        self.health.as_ref().map(|health| health.state)
    }

    /// Unsealed and part of a cluster, leading or following.
    pub fn serves(&self) -> bool {
        matches!(self.state(), Some(HealthState::Active | HealthState::Standby))
    }

    /// It was asked and gave no answer, or not a whole one.
    pub fn is_silent(&self) -> bool {
        let says_nothing = self.health.is_none() && self.silence.is_some();
        self.endpoint.is_some() && (says_nothing || self.serves() && self.view.is_none())
    }

    /// The version of the binary that answered.
    pub fn version(&self) -> Option<&str> {
        self.health.as_ref().map(|health| health.version.as_str()).filter(|version| !version.is_empty())
    }

    /// A client for exactly this pod. `None` while it cannot be dialled.
    pub fn client(&self) -> Option<Result<Client, BaoError>> {
        let leading = |client: Client| client.while_leading(self.leadership.clone());
        self.endpoint.as_ref().map(|endpoint| Client::new(endpoint).map(leading))
    }

    /// Whether `leader` is whom it names. Its own word from its own data: one that is cut off names for ever whom it knew last, which
    /// may be the one that leads now.
    pub fn follows(&self, leader: &Self) -> bool {
        self.names().is_some_and(|address| leader.is_at(address))
    }

    /// How far it has applied the log, by its own word.
    pub fn applied(&self) -> u64 {
        self.view.as_ref().map_or(0, |view| view.raft_applied_index)
    }

    /// The API address of the leader as it knows it. `None` where it knows of none.
    fn names(&self) -> Option<&str> {
        self.view.as_ref().map(|view| view.leader_address.as_str()).filter(|address| !address.is_empty())
    }

    /// Whether `leader_address`, an API address as servers tell it, is this member's.
    fn is_at(&self, leader_address: &str) -> bool {
        let host = leader_address.split("://").last().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        host.split('.').next() == Some(self.name.as_str())
            || self.ip.is_some_and(|ip| host.trim_matches(['[', ']']) == ip.to_string())
    }
}

/// The one member that leads: exactly one says so. Where a serving member names another one, a majority of all members decides:
/// one that raft has dropped, or that is cut off from the others, names for ever whom it knew last.
pub fn leader(members: &[Member]) -> Option<&Member> {
    let claims = |member: &&Member| {
        member.state() == Some(HealthState::Active) && member.view.as_ref().is_some_and(|view| view.is_self)
    };
    let mut active = members.iter().filter(claims);
    let leader = active.next()?;
    if active.next().is_some() {
        return None;
    }
    let others = members.iter().filter(|other| other.serves() && other.name != leader.name);
    let named: Vec<&str> = others.filter_map(Member::names).collect();
    let followers = named.iter().filter(|address| leader.is_at(address)).count();
    // Not only of those that are there: members are the first ones without a gap, and one that is away may follow another.
    let last = members.iter().map(|member| member.ordinal).max().and_then(|last| usize::try_from(last).ok());
    let all = members.len().max(last.map_or(0, |last| last + 1));
    (followers == named.len() || (followers + 1) * 2 > all).then_some(leader)
}

/// Which member names whom, where they name more than one.
pub fn disagreement(members: &[Member]) -> Option<String> {
    let leads = |member: &Member| member.view.as_ref().is_some_and(|view| view.is_self);
    let named: Vec<(&Member, &str)> = members
        .iter()
        .filter(|member| member.serves())
        .filter_map(|member| {
            let address = if leads(member) { member.name.as_str() } else { member.names()? };
            let known = members.iter().find(|other| other.is_at(address));
            Some((member, known.map_or(address, |other| other.name.as_str())))
        })
        .collect();
    let different: BTreeSet<&str> = named.iter().map(|(_, other)| *other).collect();
    let words = named.iter().map(|(member, other)| {
        if leads(member) { format!("{other} says that it leads") } else { format!("{} follows {other}", member.name) }
    });
    (different.len() > 1).then(|| words.collect::<Vec<_>>().join(", "))
}

/// How far behind the leader's log a member may be and still count as caught up: the log moves while we look.
const LAG: u64 = 64;

/// A member that applied this much has what the leader committed. Ready is less than that: OpenBao answers reads of a
/// standby from its own storage, which after a start may be seconds behind, and a majority that needs it waits as long.
pub fn is_caught_up(applied: Option<u64>, committed: Option<u64>) -> bool {
    matches!((applied, committed), (Some(applied), Some(committed)) if applied.saturating_add(LAG) >= committed)
}

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
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A member that says what it is and whom it follows.
    pub(crate) fn member(ordinal: u32, state: HealthState, follows: Option<u32>) -> Member {
        let name = names::pod("kelp", ordinal);
        Member {
            ordinal,
            uid: format!("uid-{ordinal}"),
            ip: Some(IpAddr::from([10, 0, 0, u8::try_from(ordinal).unwrap()])),
            ready: true,
            terminating: false,
            created: None,
            endpoint: None,
            health: Some(Health {
                state,
                initialized: state != HealthState::Uninitialized,
                sealed: state == HealthState::Sealed,
                version: "2.7.2".into(),
                cluster_id: Some("id-1".into()),
            }),
            view: Some(LeaderView {
                is_self: follows == Some(ordinal),
                leader_address: follows.map_or_else(String::new, |leader| {
                    format!("https://{}:8200", names::tls_name("kelp", "reef", &names::pod("kelp", leader)))
                }),
                ..LeaderView::default()
            }),
            silence: None,
            refused: false,
            leadership: Leadership::always(),
            name,
        }
    }

    use HealthState::{Active, Sealed, Standby};

    #[test]
    fn one_active_member_that_the_others_follow_leads() {
        let members = [member(0, Standby, Some(1)), member(1, Active, Some(1)), member(2, Standby, Some(1))];
        assert_eq!(leader(&members).map(|leader| leader.ordinal), Some(1));
    }

    #[test]
    fn a_member_that_knows_no_leader_contradicts_nobody_and_a_sealed_one_has_no_say() {
        let members = [member(0, Standby, None), member(1, Active, Some(1)), member(2, Sealed, Some(0))];
        assert_eq!(leader(&members).map(|leader| leader.ordinal), Some(1));
    }

    #[test]
    fn two_that_claim_to_lead_or_one_that_is_contradicted_is_no_leader() {
        assert!(leader(&[member(0, Active, Some(0)), member(1, Active, Some(1))]).is_none(), "two claims");
        assert!(leader(&[member(0, Active, Some(0)), member(1, Standby, Some(2))]).is_none(), "contradicted");
        assert!(leader(&[member(0, Active, None)]).is_none(), "active by health, but its own sys/leader denies it");
        assert!(leader(&[]).is_none());
    }

    #[test]
    fn one_member_that_tells_of_the_past_does_not_outweigh_the_majority_that_follows() {
        let leads = |members: &[Member]| leader(members).map(|leader| leader.ordinal);
        let mut five: Vec<Member> = (0..5).map(|ordinal| member(ordinal, Standby, Some(1))).collect();
        five[1] = member(1, Active, Some(1));
        five[4] = member(4, Standby, Some(0));
        assert_eq!(leads(&[member(0, Standby, Some(1)), member(1, Active, Some(1)), five[4].clone()]), None, "2 of 5");
        assert_eq!(leads(&five), Some(1));
        assert_eq!(leads(&[five[0].clone(), five[1].clone(), member(2, Standby, Some(0))]), Some(1), "2 of 3");
        five[3].view = None;
        assert_eq!(leads(&five), Some(1), "3 of 5");
        five[2].view = None;
        assert_eq!(leads(&five), None, "those that say nothing may follow another");
        five[4] = member(4, Active, Some(4));
        assert_eq!(leads(&five), None, "two that claim to lead are no question of majorities");
    }

    #[test]
    fn members_that_disagree_are_named_with_whom_they_follow() {
        let members = [member(0, Active, Some(0)), member(1, Standby, Some(2)), member(2, Standby, None)];
        assert_eq!(disagreement(&members).as_deref(), Some("kelp-0 says that it leads, kelp-1 follows kelp-2"));
        let away = [member(0, Standby, Some(7)), member(1, Active, Some(1))];
        let told = disagreement(&away).unwrap_or_default();
        assert!(told.contains("kelp-0 follows https://kelp-7."), "nobody of this name is there: {told}");
        assert_eq!(disagreement(&[member(0, Standby, Some(2)), member(1, Standby, Some(2))]), None, "it is gone");
        assert_eq!(disagreement(&[]), None);
    }

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
    fn a_leader_in_the_middle_of_a_restore_answers_no_leader_question_and_is_not_taken_for_one() {
        let mut restoring = member(0, Active, Some(0));
        restoring.view = None;
        assert!(leader(&[restoring, member(1, Standby, Some(0))]).is_none());
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

    /// A member with an address to ask it at.
    pub(crate) fn dialled(member: Member) -> Member {
        let address = SocketAddr::new(IpAddr::from([10, 0, 0, 1]), names::API_PORT);
        let endpoint = Endpoint { pod: member.name.clone(), address, tls_name: "kelp-0.test".into(), ca_pem: None };
        Member { endpoint: Some(endpoint), ..member }
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

    #[test]
    fn pods_whose_names_start_alike_are_told_apart() {
        let members = [member(1, Active, Some(1)), member(2, Standby, Some(11))];
        assert!(leader(&members).is_none(), "kelp-11 is not kelp-1");
    }
}
