//! Who votes. Being Ready is not being fault tolerant: a joiner votes only after autopilot's stabilisation.
//!
//! Raft's configuration needs a login, and a login costs the API server a request. So it is asked only when the members have
//! changed, and then until all of them vote.

use super::{
    login,
    members::{self, Member},
    memory::{Notes, Raft, constellation},
    validate::ValidatedCluster,
};
use crate::{
    adapter::{Adapters, openbao::Token},
    api::OpenBaoCluster,
};
use std::time::Duration;
use tokio::time::Instant;

/// Between two questions about the same members.
const PACE: Duration = Duration::from_secs(4);
/// After a refused login nothing changes by asking again soon.
const REFUSED_PACE: Duration = Duration::from_secs(600);
/// How long a login that worked is believed to work still. The API server's keys rotate without telling anybody, and a
/// backup at night is a bad moment to find out. One request in this time is what the warning costs.
const LOGIN_TRUST: Duration = Duration::from_hours(6);
/// Roles give tokens for ten minutes.
const TOKEN_TRUST: Duration = Duration::from_secs(300);

/// Asks if there is a reason to.
pub async fn refresh(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    spec: &ValidatedCluster,
    members: &[Member],
) {
    if !spec.may_log_in() {
        return;
    }
    let Some(leader) = members::leader(members) else { return };
    let constellation = constellation(members, leader);
    let all_vote = |raft: &Raft| members.iter().all(|member| raft.voters.contains(&member.name));
    let settled = notes.voters.as_ref().is_some_and(|(known, raft)| *known == constellation && all_vote(raft));
    let fresh = notes.voters_asked.as_ref().is_some_and(|(at, _)| at.elapsed() < LOGIN_TRUST);
    let refused = matches!(notes.access, Some(Err(_)));
    if settled && fresh && !refused {
        return;
    }
    let pace = if refused { REFUSED_PACE } else { PACE };
    if let Some((at, about)) = &notes.voters_asked
        && at.elapsed() < if *about == constellation { pace } else { Duration::ZERO }
    {
        return;
    }
    // Only a cluster that serves clients is asked: during the first start there are better things to do.
    if members.iter().filter(|member| member.serves()).count() <= members.len() / 2 {
        return;
    }
    notes.voters_asked = Some((Instant::now(), constellation.clone()));
    let Some(token) = login(ad, notes, cluster, leader).await else { return };
    let Some(Ok(client)) = leader.client() else { return };
    match client.raft_configuration(&token).await {
        Ok(raft) => notes.learn(members, leader, &raft),
        Err(error) => {
            notes.token = None;
            tracing::debug!(error = %error, "raft's configuration is not known");
        }
    }
}

/// The operator's token, with what came of the login put down for the condition `OperatorAccess`.
pub async fn login(ad: &Adapters, notes: &mut Notes, cluster: &OpenBaoCluster, leader: &Member) -> Option<Token> {
    match token(ad, notes, cluster, leader).await {
        Ok(token) => {
            notes.access = Some(Ok(()));
            Some(token)
        }
        Err(error) => {
            notes.token = None;
            if error.is_refused() {
                notes.access = Some(Err(crate::causes::chain(&error)));
            }
            tracing::info!(error = crate::causes::chain(&error), "cannot log in to OpenBao");
            None
        }
    }
}

/// The operator's token, from memory while it is young.
pub async fn token(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    leader: &Member,
) -> Result<Token, login::AccessError> {
    if let Some((since, token)) = &notes.token
        && since.elapsed() < TOKEN_TRUST
    {
        return Ok(token.clone());
    }
    let token = login::operator_token(ad, cluster, leader).await?;
    notes.token = Some((Instant::now(), token.clone()));
    Ok(token)
}
