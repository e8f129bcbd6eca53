//! What the servers say about themselves, pod by pod.
//!
//! Labels on pods and the readiness of Services are hints: OpenBao leaves `openbao-active` behind on pods that lead no more.
//! Truth is each pod's own `sys/health` and `sys/leader`, asked at the pod's address with the pod's TLS name.

use super::{facts::MAX_MEMBERS, names};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            client::{RequestError, timed},
            owner::is_controlled_by,
            pods::unscheduled,
            time::from_kube,
            token::{self, TokenError},
        },
        openbao::{Client, Endpoint, Error as BaoError, Health, HealthState, LeaderView, Token},
    },
    api::OpenBaoCluster,
};
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Secret},
};
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};
use std::net::{IpAddr, SocketAddr};

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

    /// The version of the binary that answered.
    pub fn version(&self) -> Option<&str> {
        self.health.as_ref().map(|health| health.version.as_str()).filter(|version| !version.is_empty())
    }

    /// A client for exactly this pod. `None` while it cannot be dialled.
    pub fn client(&self) -> Option<Result<Client, BaoError>> {
        self.endpoint.as_ref().map(Client::new)
    }

    /// Whether `leader_address`, an API address as servers tell it, is this member's.
    fn is_at(&self, leader_address: &str) -> bool {
        let host = leader_address.split("://").last().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        host.split('.').next() == Some(self.name.as_str())
            || self.ip.is_some_and(|ip| host.trim_matches(['[', ']']) == ip.to_string())
    }
}

/// The one member that leads, if there is exactly one that says so and no serving member follows another one.
pub fn leader(members: &[Member]) -> Option<&Member> {
    let claims = |member: &&Member| {
        member.state() == Some(HealthState::Active) && member.view.as_ref().is_some_and(|view| view.is_self)
    };
    let mut active = members.iter().filter(claims);
    let leader = active.next()?;
    if active.next().is_some() {
        return None;
    }
    let contradicted = members.iter().filter(|other| other.serves() && other.name != leader.name).any(|other| {
        other.view.as_ref().is_some_and(|view| !view.leader_address.is_empty() && !leader.is_at(&view.leader_address))
    });
    (!contradicted).then_some(leader)
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
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let ca = ca_bundle(ad, &namespace, &name);
    let set = ad.caches.stateful_sets.get(&ObjectRef::new(&names::statefulset(&name)).within(&namespace));
    let pods = (0..MAX_MEMBERS)
        .filter_map(|n| ad.caches.pods.get(&ObjectRef::new(&names::pod(&name, n)).within(&namespace)))
        .filter(|pod| is_own(pod, cluster, set.as_deref()))
        .filter_map(|pod| known(&pod, cluster, ca.as_deref()));
    let starting = cluster.spec.self_init.as_ref().is_some_and(|init| init.enabled)
        && cluster.status.as_ref().and_then(|status| status.initialized) != Some(true);
    let now = Utc::now();
    let mut members: Vec<Member> = stream::iter(pods.collect::<Vec<_>>())
        .map(|member| async move { if is_worth_asking(&member, starting, now) { ask(member).await } else { member } })
        .buffer_unordered(ASKED_AT_ONCE)
        .collect()
        .await;
    members.sort_by_key(|member| member.ordinal);
    members
}

/// The public CA bundle that the operator keeps for the cluster, as last seen.
pub fn ca_bundle(ad: &Adapters, namespace: &str, cluster: &str) -> Option<String> {
    let name = names::ca_config_map(cluster);
    let map = ad.caches.config_maps.get(&ObjectRef::new(&name).within(namespace))?;
    map.data.as_ref()?.get("ca.crt").filter(|pem| !pem.is_empty()).cloned()
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
fn known(pod: &Pod, cluster: &OpenBaoCluster, ca: Option<&str>) -> Option<Member> {
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
    let tls = cluster.spec.tls.enabled;
    let endpoint = ip.filter(|_| running && (!tls || ca.is_some())).map(|ip| Endpoint {
        pod: name.clone(),
        address: SocketAddr::new(ip, names::API_PORT),
        tls_name: names::tls_name(&cluster_name, &namespace, &name),
        ca_pem: if tls { ca.map(str::to_owned) } else { None },
    });
    let silence = match (&endpoint, running) {
        (Some(_), _) => None,
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
        name,
    })
}

/// Why a pod does not run yet, in Kubernetes' own words: the kubelet's reason, or the scheduler's message.
fn waiting_for(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "its pod is not scheduled yet".to_owned() };
    let containers = status.container_statuses.iter().flatten();
    let waiting = containers
        .filter_map(|container| container.state.as_ref()?.waiting.as_ref())
        .find_map(|waiting| Some((waiting.reason.clone()?, waiting.message.clone().unwrap_or_default())));
    if let Some((reason, message)) = waiting {
        return if message.is_empty() { reason } else { format!("{reason}: {message}") };
    }
    unscheduled(pod).unwrap_or("its pod is starting").to_owned()
}

/// While a cluster starts for the first time, a server that initialises itself accepts connections and answers nothing: each
/// look would take the whole timeout. Kubernetes probes it every second anyway, and its readiness wakes us.
fn is_worth_asking(member: &Member, starting: bool, now: DateTime<Utc>) -> bool {
    let young = member.created.is_none_or(|created| now - created < STARTING);
    member.ready || !starting || !young
}

async fn ask(mut member: Member) -> Member {
    let Some(client) = member.client() else { return member };
    match client {
        Ok(client) => {
            let (health, view) = futures::join!(client.health(), client.leader());
            match health {
                Ok(health) => member.health = Some(health),
                Err(error) => member.silence = Some(error.to_string()),
            }
            member.view = view.ok();
        }
        Err(error) => member.silence = Some(error.to_string()),
    }
    member
}

/// Why the operator cannot act inside OpenBao.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The API server gave us no token for our own service account.
    #[error("failed to get a token for the operator's own service account")]
    Token(#[from] TokenError),
    /// OpenBao refused the login, or did not answer.
    #[error(
        "failed to log in to OpenBao as role {role} at mount {mount}: was the cluster bootstrapped with selfInit.oidc? Was it restored from another one, or were the API server's signing keys rotated? Then give OpenBao the keys of now: write `kubectl get --raw /openid/v1/jwks` as PEM to auth/{mount}/config, key jwt_validation_pubkeys. Does the operator run in another namespace or under another service account than then? Then set the role again: {command}"
    )]
    Login {
        /// The JWT mount.
        mount: &'static str,
        /// The role.
        role: &'static str,
        /// What lets the operator in under the name it has now.
        command: Box<str>,
        /// OpenBao's answer.
        #[source]
        source: BaoError,
    },
    /// The pod has no address or no CA bundle yet.
    #[error("pod {0} cannot be dialled yet")]
    NoAddress(String),
    /// The Secret with the root token could not be read.
    #[error("failed to read Secret {name} with the root token")]
    RootToken {
        /// The Secret.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// The cluster has neither JWT roles nor a root token that we know.
    #[error(
        "the cluster was set up without selfInit.oidc and has no Secret {0} with a token: the operator has no identity in it"
    )]
    NoIdentity(String),
}

impl AccessError {
    /// OpenBao itself said no, as opposed to silence or a server in trouble: waiting will not help.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Login { source, .. } => source.is_refusal(),
            Self::NoIdentity(_) => true,
            Self::Token(_) | Self::NoAddress(_) | Self::RootToken { .. } => false,
        }
    }
}

/// The audience that this cluster's JWT roles demand.
pub fn audience(cluster: &OpenBaoCluster) -> String {
    let named =
        cluster.spec.self_init.as_ref().and_then(|init| init.oidc.as_ref()).and_then(|oidc| oidc.audience.clone());
    named.unwrap_or_else(|| names::audience(&cluster.namespace().unwrap_or_default(), &cluster.name_any()))
}

/// A short-lived OpenBao token of the operator itself, got at that very member: by JWT where self-init set it up, else
/// with the root token that the operator keeps for clusters without self-init.
pub async fn operator_token(ad: &Adapters, cluster: &OpenBaoCluster, member: &Member) -> Result<Token, AccessError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let settings = &ad.settings;
    let subject = names::subject(&settings.operator_namespace, &settings.operator_service_account);
    let login_failed = |source| login_failed(source, &audience(cluster), &subject);
    let client = match member.client() {
        None => return Err(AccessError::NoAddress(member.name.clone())),
        Some(client) => client.map_err(login_failed)?,
    };
    let by_jwt = cluster
        .spec
        .self_init
        .as_ref()
        .is_some_and(|init| init.enabled && init.oidc.as_ref().is_some_and(|oidc| oidc.enabled));
    if !by_jwt {
        let name = names::root_token_secret(&cluster.name_any());
        let secrets: Api<Secret> = Api::namespaced(ad.client.clone(), &namespace);
        return match timed(secrets.get_opt(&name)).await {
            Ok(Some(secret)) => secret
                .data
                .and_then(|mut data| data.remove("token"))
                .and_then(|token| String::from_utf8(token.0).ok())
                .map(Token::new)
                .ok_or(AccessError::NoIdentity(name)),
            Ok(None) => Err(AccessError::NoIdentity(name)),
            Err(source) => Err(AccessError::RootToken { name, source }),
        };
    }
    let jwt = token::request(
        &ad.client,
        &settings.operator_namespace,
        &settings.operator_service_account,
        &audience(cluster),
    )
    .await?;
    client.login_jwt(names::JWT_MOUNT, names::OPERATOR_ROLE, &jwt).await.map_err(login_failed)
}

fn login_failed(source: BaoError, audience: &str, subject: &str) -> AccessError {
    let (mount, role) = (names::JWT_MOUNT, names::OPERATOR_ROLE);
    let command = names::role_command(mount, role, audience, subject).into();
    AccessError::Login { mount, role, command, source }
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
    fn a_leader_in_the_middle_of_a_restore_answers_no_leader_question_and_is_not_taken_for_one() {
        let mut restoring = member(0, Active, Some(0));
        restoring.view = None;
        assert!(leader(&[restoring, member(1, Standby, Some(0))]).is_none());
    }

    #[test]
    fn a_refused_login_names_the_subject_of_now_and_what_sets_the_role_again() {
        let timed_out = BaoError::TimedOut {
            pod: "kelp-0".into(),
            request: "POST auth/jwt/login".into(),
            timeout: std::time::Duration::from_secs(2),
        };
        let text = login_failed(timed_out, "openbao:reef/kelp", "system:serviceaccount:ops:operator").to_string();
        for part in [
            "bao write auth/jwt/role/openbao-operator role_type=jwt",
            "bound_audiences=openbao:reef/kelp",
            "bound_subject=system:serviceaccount:ops:operator",
        ] {
            assert!(text.contains(part), "{part} in {text}");
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

    #[test]
    fn pods_whose_names_start_alike_are_told_apart() {
        let members = [member(1, Active, Some(1)), member(2, Standby, Some(11))];
        assert!(leader(&members).is_none(), "kelp-11 is not kelp-1");
    }
}
