//! Whom the Services for clients may lead to. Pure.
//!
//! A server on an empty volume that started a cluster of its own is Ready, leads, and is empty: a client that meets it reads
//! that its secrets are gone, and writes what nobody will ever find again. So once members name different OpenBao
//! clusters, clients are sent only to the one that this cluster is known to be.
//!
//! One that has the same id and does not follow is Ready too, and answers from data of before. It has no say in who leads, so clients
//! are sent to whoever leads, by the label that the servers themselves move: no pod is named, so that a cluster that has healed while
//! no operator runs is reached all the same, whoever leads it by then.

use super::{cluster_id, members::Member};
use crate::{
    adapter::openbao::HealthState,
    api::{LockOperation, OpenBaoClusterStatus},
};
use std::collections::BTreeSet;

/// Whom clients may meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Any ready member.
    Everybody,
    /// Whoever leads, by its own label.
    Leader,
    /// One member of the cluster that is known.
    Only(String),
    /// Nobody: it is not known which of them holds the data.
    Nobody,
}

impl Traffic {
    /// The same where a member that does not follow must not be met: what leads to everybody leads `to_leader` instead.
    #[must_use]
    pub fn narrowed(self, to_leader: bool) -> Self {
        match self {
            Self::Everybody if to_leader => Self::Leader,
            other => other,
        }
    }
}

/// Decides for a cluster of `wanted` members. A restore changes the id of one member after the other, which is no disagreement.
/// `closed`: a rollback has wiped the servers, and what they hold is not proven to be the restored data; a client would read
/// that its secrets are gone, and what it wrote would be restored away.
pub fn decide(members: &[Member], status: &OpenBaoClusterStatus, wanted: u32, closed: bool) -> Traffic {
    if closed {
        return Traffic::Nobody;
    }
    let restoring = status.operation_lock.as_ref().is_some_and(|lock| lock.operation == LockOperation::Restore);
    let id = |member: &Member| member.health.as_ref().and_then(|health| health.cluster_id.clone());
    let serving: Vec<&Member> = members.iter().filter(|member| member.serves()).collect();
    let ids: BTreeSet<String> = serving.iter().filter_map(|member| id(member)).collect();
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let doubtful = |found: &String| cluster_id::is_doubtful(found, members, wanted, status);
    if restoring || ids.len() <= 1 && !ids.first().is_some_and(doubtful) {
        return Traffic::Everybody;
    }
    let known = serving.iter().filter(|member| status.cluster_id.is_some() && id(member) == status.cluster_id);
    // Its leader, or else the first that follows one: standbys forward.
    let chosen = known.min_by_key(|member| (member.state() != Some(HealthState::Active), member.ordinal));
    chosen.map_or(Traffic::Nobody, |member| Traffic::Only(member.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::members::tests::member;
    use HealthState::{Active, Standby};

    fn of(id: &str, mut member: Member) -> Member {
        member.health.as_mut().unwrap().cluster_id = Some(id.into());
        member
    }

    fn known(id: Option<&str>) -> OpenBaoClusterStatus {
        OpenBaoClusterStatus { cluster_id: id.map(str::to_owned), ..OpenBaoClusterStatus::default() }
    }

    #[test]
    fn members_that_agree_are_all_reachable_whatever_the_id() {
        let members = [of("a", member(0, Active, Some(0))), of("a", member(1, Standby, Some(0)))];
        for id in [None, Some("a"), Some("b")] {
            assert_eq!(decide(&members, &known(id), 3, false), Traffic::Everybody);
        }
        assert_eq!(decide(&[], &known(Some("a")), 3, false), Traffic::Everybody);
    }

    #[test]
    fn a_newcomer_that_is_all_that_is_heard_is_shown_to_nobody() {
        let newcomer = [of("new", member(0, Active, Some(0)))];
        assert_eq!(decide(&newcomer, &known(Some("a")), 3, false), Traffic::Nobody);
        assert_eq!(decide(&newcomer, &known(Some("new")), 3, false), Traffic::Everybody, "the others are down");
        assert_eq!(decide(&newcomer, &known(None), 3, false), Traffic::Everybody, "the first start");
        assert_eq!(decide(&newcomer, &known(Some("a")), 1, false), Traffic::Everybody, "there are no others");
    }

    #[test]
    fn an_empty_newcomer_is_never_shown_to_clients() {
        let members = [
            of("new", member(0, Active, Some(0))),
            of("a", member(1, Standby, Some(2))),
            of("a", member(2, Active, Some(2))),
        ];
        assert_eq!(decide(&members, &known(Some("a")), 3, false), Traffic::Only("kelp-2".into()));
        assert_eq!(decide(&members[..2], &known(Some("a")), 3, false), Traffic::Only("kelp-1".into()));
        assert_eq!(decide(&members, &known(None), 3, false), Traffic::Nobody, "nobody knows which is right");
        assert_eq!(decide(&members, &known(Some("c")), 3, false), Traffic::Nobody);
    }

    #[test]
    fn a_restore_may_change_the_ids_one_after_the_other() {
        let members = [of("new", member(0, Active, Some(0))), of("a", member(1, Standby, Some(0)))];
        let lock = serde_json::json!({
            "operation": "Restore", "holder": "openbaorestore/r", "holderUID": "u", "message": "", "mode": "Held", "fence": 1,
            "acquiredAt": "2026-11-21T09:00:00Z", "renewedAt": "2026-11-21T09:00:00Z"
        });
        let status =
            OpenBaoClusterStatus { operation_lock: Some(serde_json::from_value(lock).unwrap()), ..known(Some("a")) };
        assert_eq!(decide(&members, &status, 3, false), Traffic::Everybody);
        assert_eq!(decide(&members[..1], &status, 3, false), Traffic::Everybody, "the first one that has it");
    }

    #[test]
    fn servers_that_a_rollback_wiped_are_shown_to_nobody_until_their_data_is_proven() {
        let members = [of("new", member(0, Active, Some(0)))];
        assert_eq!(decide(&members, &known(Some("new")), 3, true), Traffic::Nobody);
        assert_eq!(decide(&members, &known(Some("new")), 3, false), Traffic::Everybody);
    }

    #[test]
    fn what_leads_to_everybody_leads_to_the_leader_where_one_does_not_follow_and_the_rest_stays() {
        for (all, narrowed) in [
            (Traffic::Everybody, Traffic::Leader),
            (Traffic::Only("kelp-1".into()), Traffic::Only("kelp-1".into())),
            (Traffic::Nobody, Traffic::Nobody),
        ] {
            assert_eq!(all.clone().narrowed(true), narrowed);
            assert_eq!(all.clone().narrowed(false), all);
        }
    }
}
