//! Servers as they say they are: who leads, and who follows. Pure.

use crate::adapter::{
    leadership::Leadership,
    openbao::{Client, Endpoint, Error as BaoError, Health, HealthState, LeaderView},
};
use chrono::{DateTime, Utc};
use std::{collections::BTreeSet, net::IpAddr};

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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::service::cluster::names;
    use std::net::SocketAddr;

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
    fn a_leader_in_the_middle_of_a_restore_answers_no_leader_question_and_is_not_taken_for_one() {
        let mut restoring = member(0, Active, Some(0));
        restoring.view = None;
        assert!(leader(&[restoring, member(1, Standby, Some(0))]).is_none());
    }

    /// A member with an address to ask it at.
    pub(crate) fn dialled(member: Member) -> Member {
        let address = SocketAddr::new(IpAddr::from([10, 0, 0, 1]), names::API_PORT);
        let endpoint = Endpoint { pod: member.name.clone(), address, tls_name: "kelp-0.test".into(), ca_pem: None };
        Member { endpoint: Some(endpoint), ..member }
    }

    #[test]
    fn pods_whose_names_start_alike_are_told_apart() {
        let members = [member(1, Active, Some(1)), member(2, Standby, Some(11))];
        assert!(leader(&members).is_none(), "kelp-11 is not kelp-1");
    }
}
