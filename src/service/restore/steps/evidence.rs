//! What the leader says about whose data it serves. Only looks.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::Step;
use crate::adapter::kubernetes::client::timed;
use crate::adapter::openbao::{Error as BaoError, HealthState, Token};
use crate::api::OpenBaoCluster;
use crate::service::cluster::{
    login::{self, AccessError},
    observe::{self, Member},
};
use crate::service::restore::decide::prove::{LeaderSeen, Marker, MemberSeen, MemberState, Witness};
use crate::service::restore::plan;

/// A token with which the operator may look: its own, or the one that the spec names, which is valid in the snapshot.
pub async fn token(step: &Step<'_>, cluster: &OpenBaoCluster, member: &Member) -> Result<Token, AccessError> {
    let refused = match login::operator_token(step.call.ad, cluster, member).await {
        Err(error) if error.is_refused() => error,
        other => return other,
    };
    match named_token(step, cluster).await {
        Some(token) => Ok(token),
        None => Err(refused),
    }
}

/// The token in the Secret that the restore names, if it names one and it can be read.
pub async fn named_token(step: &Step<'_>, cluster: &OpenBaoCluster) -> Option<Token> {
    let name = step.inputs.login.token_secret.as_deref()?;
    let secrets: Api<Secret> = Api::namespaced(step.call.ad.client.clone(), &cluster.namespace()?);
    let bytes = timed(secrets.get_opt(name)).await.ok()??.data?.remove("token")?;
    let text = String::from_utf8(bytes.0).ok()?;
    Some(Token::new(text.trim()))
}

/// Whether the operator's own tokens are minted by a login, so that one which is unknown later bears witness.
pub fn mints(cluster: &OpenBaoCluster) -> bool {
    let init = cluster.spec.self_init.as_ref();
    init.is_some_and(|init| init.enabled && init.oidc.as_ref().is_some_and(|oidc| oidc.enabled))
}

/// The members as the proof sees them.
pub fn seen(members: &[Member]) -> Vec<MemberSeen> {
    let state = |member: &Member| match member.state() {
        Some(HealthState::Active) => MemberState::Active,
        Some(HealthState::Standby) => MemberState::Standby,
        Some(HealthState::Sealed) => MemberState::Sealed,
        Some(HealthState::Uninitialized | HealthState::Troubled) | None => MemberState::Silent,
    };
    members.iter().map(|member| MemberSeen { pod: member.name.clone(), state: state(member) }).collect()
}

/// The leader, and what it shows. A server that says it is active and answers nothing else is in the middle of something.
pub async fn leader(step: &Step<'_>, cluster: &OpenBaoCluster, members: &[Member]) -> Option<LeaderSeen> {
    let described = |member: &Member, marker, token| LeaderSeen {
        pod: member.name.clone(),
        pod_uid: member.uid.clone(),
        marker,
        token,
        cluster_id: member.health.as_ref().and_then(|health| health.cluster_id.clone()),
    };
    let Some(leader) = observe::leader(members) else {
        let mut busy = members.iter().filter(|member| {
            member.view.is_none() && matches!(member.state(), Some(HealthState::Active | HealthState::Troubled))
        });
        return busy.next().map(|member| described(member, Marker::Silent, Witness::Silent));
    };
    let (marker, witness) = futures::join!(marker(step, cluster, leader), witness(step, leader));
    Some(described(leader, marker, witness))
}

async fn marker(step: &Step<'_>, cluster: &OpenBaoCluster, leader: &Member) -> Marker {
    let token = match token(step, cluster, leader).await {
        Ok(token) => token,
        Err(error) if error.is_refused() => return Marker::NoAccess,
        Err(_) => return Marker::Silent,
    };
    let Some(Ok(client)) = leader.client() else { return Marker::Silent };
    match client.policy_exists(&token, &plan::marker(&step.uid)).await {
        Ok(true) => Marker::Present,
        Ok(false) => Marker::Gone,
        Err(BaoError::Denied { .. }) => Marker::NoAccess,
        Err(_) => Marker::Silent,
    }
}

async fn witness(step: &Step<'_>, leader: &Member) -> Witness {
    let Some(token) = step.witnesses.get(&step.uid, step.call.now) else { return Witness::Lost };
    let Some(Ok(client)) = leader.client() else { return Witness::Silent };
    match client.lookup_self(&token).await {
        Ok(()) => Witness::Valid,
        Err(BaoError::Denied { .. }) => Witness::Denied,
        Err(_) => Witness::Silent,
    }
}
