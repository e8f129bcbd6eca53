//! What the leader says about whose data it serves. Only looks.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::Step;
use crate::adapter::kubernetes::client::timed;
use crate::adapter::openbao::{Error as BaoError, HealthState, Token};
use crate::api::OpenBaoCluster;
use crate::service::cluster::{
    login::{self, AccessError},
    members::{self, Member},
};
use crate::service::restore::decide::prove::{LeaderSeen, Marker, MemberSeen, MemberState, Witness};
use crate::service::restore::plan;

/// A token with which the operator may look: its own, or the one that the spec names, which is valid in the snapshot. Its own may
/// lie in a Secret for long, and be revoked by now, or of other data: nobody has refused it yet, so the member is asked.
pub async fn token(step: &Step<'_>, cluster: &OpenBaoCluster, member: &Member) -> Result<Token, AccessError> {
    let own = login::operator_token(step.call.ad, cluster, member).await;
    let gives_way = match &own {
        Ok(token) => {
            step.inputs.login.token_secret.is_some() && is_denied(member, token, &plan::marker(&step.uid)).await
        }
        Err(error) => error.is_refused(),
    };
    if !gives_way {
        return own;
    }
    match named_token(step, cluster).await {
        Some(token) => Ok(token),
        None => own,
    }
}

/// Whether the member says that this token may not look for the marker. Silence is no such word.
async fn is_denied(member: &Member, token: &Token, marker: &str) -> bool {
    let Some(Ok(client)) = member.client() else { return false };
    client.policy_exists(token, marker).await.is_err_and(|error| error.is_denied())
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
    let Some(leader) = members::leader(members) else {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::openbao::fixtures;
    use crate::service::cluster::members::tests::member;
    use tokio::io::AsyncWriteExt;

    /// A leader that answers whatever it is asked with this status, or hangs up.
    async fn answering(status: Option<&'static str>) -> Member {
        let endpoint = fixtures::listening(move |_, mut connection| async move {
            if let Some(status) = status {
                connection.write_all(fixtures::answer(status).as_bytes()).await.unwrap();
            }
        });
        Member { endpoint: Some(endpoint.await), ..member(0, HealthState::Active, Some(0)) }
    }

    #[tokio::test]
    async fn a_token_that_was_kept_gives_way_to_the_named_one_when_the_server_denies_it_and_for_no_other_reason() {
        let token = Token::new("s.revoked");
        let cases = [
            (Some("403 Forbidden"), true),
            (Some("200 OK"), false),
            (Some("404 Not Found"), false),
            (Some("503 Service Unavailable"), false),
            (None, false),
        ];
        for (status, denied) in cases {
            let leader = answering(status).await;
            assert_eq!(is_denied(&leader, &token, "marker").await, denied, "{status:?}");
        }
        let unreachable = member(0, HealthState::Active, Some(0));
        assert!(!is_denied(&unreachable, &token, "marker").await);
    }
}
