//! Asking raft whose vote counts, during a step that has to know it. A server that lost its place in raft joins anew, and serves
//! for a while before it votes.

use super::steps::Votes;
use crate::{
    api::OpenBaoCluster,
    causes::chain,
    service::{
        cluster::{
            login,
            members::{self, Member},
        },
        opslifecycle::{StepCall, StepMode},
    },
};
use chrono::{TimeDelta, Utc};
use std::time::Duration;
use tokio::time::Instant;

/// Between two questions: each is a login, which costs the API server a request too.
const PACE: Duration = Duration::from_secs(4);

/// With less than this left until its deadline a step makes do with what the servers themselves say.
const LEAST_LEFT: TimeDelta = TimeDelta::minutes(2);

/// The last answer, during one call of a step.
#[derive(Debug, Default)]
pub struct Asked(Option<(Instant, Votes)>);

impl Asked {
    /// Who votes, by the leader's word of this moment or of one shortly before it.
    pub async fn who(&mut self, call: &StepCall<'_>, cluster: &OpenBaoCluster, members: &[Member]) -> Votes {
        if let Some((at, votes)) = &self.0
            && at.elapsed() < PACE
        {
            return votes.clone();
        }
        let answer = ask(call, cluster, members).await;
        let votes = counted(answer, call.deadline - Utc::now(), call.mode == StepMode::Undo);
        self.0 = Some((Instant::now(), votes.clone()));
        votes
    }
}

/// What of an answer is waited for, with so much time left. Silence costs no upgrade: where the voters cannot be asked, it goes by
/// what it could always ask. And a way back is not left half done for want of a vote.
fn counted(answer: Votes, left: TimeDelta, goes_back: bool) -> Votes {
    match answer {
        Votes::Unknown(_) if left < LEAST_LEFT => Votes::NotAsked,
        Votes::Known(_) if left < LEAST_LEFT && goes_back => Votes::NotAsked,
        answer => answer,
    }
}

async fn ask(call: &StepCall<'_>, cluster: &OpenBaoCluster, members: &[Member]) -> Votes {
    let Some(leader) = members::leader(members) else {
        return Votes::Unknown("the members agree on no leader".to_owned());
    };
    let token = match login::operator_token(call.ad, cluster, leader).await {
        Ok(token) => token,
        Err(error) if error.is_refused() => return Votes::NotAsked,
        Err(error) => return Votes::Unknown(chain(&error)),
    };
    let Some(Ok(client)) = leader.client() else {
        return Votes::Unknown(format!("pod {} cannot be dialled yet", leader.name));
    };
    match client.raft_configuration(&token).await {
        Ok(raft) => {
            let voters = raft.servers.into_iter().filter(|server| server.voter);
            Votes::Known(voters.map(|server| server.node_id).collect())
        }
        Err(error) if error.is_refusal() => Votes::NotAsked,
        Err(error) => Votes::Unknown(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_asked_is_not_waited_for_to_the_end_and_a_way_back_ends_without_a_vote() {
        let silent = || Votes::Unknown("it does not answer".into());
        let nobody = || Votes::Known(std::collections::BTreeSet::new());
        let (early, late) = (TimeDelta::minutes(8), TimeDelta::minutes(1));
        assert_eq!(counted(silent(), early, false), silent());
        assert_eq!(counted(silent(), late, false), Votes::NotAsked);
        assert_eq!(counted(nobody(), late, false), nobody(), "a standby that does not vote stops the upgrade");
        assert_eq!(counted(nobody(), early, true), nobody());
        assert_eq!(counted(nobody(), late, true), Votes::NotAsked, "nobody has to put it right by hand");
    }
}
