//! Members that serve and do not follow: what they answer is old, and their vote counts for nothing. Pure but for the clock.
//!
//! Raft's own key lies in the data. A server that was down while a snapshot was restored comes back with the key from before, and
//! unless the snapshot has that one too nobody speaks with it again. It is unsealed and Ready all the same, and names whom it knew
//! last. So it is known by what it has applied, too.

use std::{collections::HashMap, time::Duration};

use kube::ResourceExt;
use tokio::time::Instant;

use super::{
    names,
    observe::{self, Member},
    status::{Trouble, reasons},
};
use crate::api::{LockOperation, OpenBaoCluster};

/// How long that lasts before somebody is told. Elections and restarts are over sooner.
const LONG: Duration = Duration::from_secs(300);

/// When each pod, by its UID, was last seen to follow, and what the leader had committed then.
#[derive(Debug, Default)]
pub struct Apart(HashMap<String, (Instant, u64)>);

impl Apart {
    /// Remembers who follows, and tells who has not for long. While nobody leads there is nobody to follow, and while a restore holds
    /// the lock it is the restore that waits for them. Nobody is told to delete what may be the only copy: a majority has to follow,
    /// and who is of another cluster is told otherwise.
    pub fn look(&mut self, cluster: &OpenBaoCluster, members: &[Member]) -> Option<Trouble> {
        let lock = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref());
        let restores = lock.is_some_and(|lock| lock.operation == LockOperation::Restore);
        let before = std::mem::take(&mut self.0);
        let leader = observe::leader(members).filter(|_| !restores)?;
        let committed = leader.view.as_ref().map_or(0, |view| view.raft_committed_index);
        let now = Instant::now();
        let id = |member: &Member| member.health.as_ref().and_then(|health| health.cluster_id.clone());
        let (mut apart, mut with_it) = (Vec::new(), 1);
        for member in members.iter().filter(|one| one.name != leader.name && one.serves() && !one.terminating) {
            let (mut since, mut had) = before.get(&member.uid).copied().unwrap_or((now, committed));
            // What was committed by then it has by now, however much is written.
            if member.follows(leader) && member.applied() >= had {
                (since, had) = (now, committed);
                with_it += 1;
            }
            self.0.insert(member.uid.clone(), (since, had));
            // What a restore leaves behind has less than was restored. Whoever has more than the leader had may hold the only copy of it.
            if now.duration_since(since) >= LONG && id(member) == id(leader) && member.applied() <= had {
                apart.push(member.name.as_str());
            }
        }
        if with_it * 2 <= members.len().max(usize::try_from(cluster.spec.replicas).unwrap_or_default()) {
            return None;
        }
        let namespace = cluster.namespace().unwrap_or_default();
        let first = names::join_anew_command(&namespace, apart.first()?);
        Some(Trouble::new(
            reasons::NOT_FOLLOWING,
            format!(
                "serving for minutes without following {}, which leads: {}. Reads there may be old. A server that was down while a \
                 snapshot was restored may never follow again: its volume is from before, and has another key of raft's. If it \
                 stays so, and its volume holds nothing that the others lack, type `{first}`, so that it joins empty",
                leader.name,
                apart.join(", ")
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::openbao::HealthState::{Active, Standby};
    use crate::service::cluster::{observe::tests::member, validate::tests::cluster};

    /// Three members, the last of which follows `follows` and has applied `applied` of what the leader committed.
    fn members(committed: u64, follows: Option<u32>, applied: u64) -> Vec<Member> {
        let mut members = vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), member(2, Standby, follows)];
        for (member, applied) in members.iter_mut().zip([committed, committed, applied]) {
            let view = member.view.as_mut().unwrap();
            (view.raft_committed_index, view.raft_applied_index) = (committed, applied);
        }
        members
    }

    fn plain() -> OpenBaoCluster {
        cluster(|_| {})
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_names_no_leader_or_another_one_is_told_after_a_while_with_what_to_type() {
        for follows in [None, Some(1)] {
            let mut apart = Apart::default();
            let seen = members(7, follows, 7);
            assert_eq!(apart.look(&plain(), &seen), None);
            tokio::time::advance(LONG / 2).await;
            assert_eq!(apart.look(&plain(), &seen), None, "it may be an election");
            tokio::time::advance(LONG / 2).await;
            let told = apart.look(&plain(), &seen).unwrap();
            assert_eq!(told.reason, "NotFollowing");
            let typed = "`kubectl --namespace reef delete pvc/data-kelp-2 pod/kelp-2`";
            assert!(told.message.contains("kelp-0, which leads: kelp-2.") && told.message.contains(typed), "{told:?}");
            assert_eq!(apart.look(&plain(), &members(8, Some(0), 8)), None, "it follows");
            assert_eq!(apart.look(&plain(), &seen), None, "that begins anew");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_is_cut_off_and_names_by_chance_the_one_that_leads_is_known_by_what_it_has_applied() {
        let mut apart = Apart::default();
        assert_eq!(apart.look(&plain(), &members(11, Some(0), 10)), None);
        tokio::time::advance(LONG).await;
        let told = apart.look(&plain(), &members(12, Some(0), 10)).unwrap();
        assert!(told.message.contains("kelp-2"), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_told_to_delete_the_volume_of_another_cluster_or_one_that_no_majority_has() {
        let mut other = members(7, None, 7);
        let alone = [other[0].clone(), other[2].clone()];
        other[2].health.as_mut().unwrap().cluster_id = Some("another".into());
        for seen in [&other[..], &alone[..]] {
            let mut apart = Apart::default();
            assert_eq!(apart.look(&plain(), seen), None);
            tokio::time::advance(LONG * 2).await;
            assert_eq!(apart.look(&plain(), seen), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_told_to_delete_the_volume_of_a_member_that_has_more_than_the_leader() {
        let mut apart = Apart::default();
        let seen = members(7, Some(1), 9);
        assert_eq!(apart.look(&plain(), &seen), None);
        tokio::time::advance(LONG * 2).await;
        assert_eq!(apart.look(&plain(), &seen), None);
        assert_eq!(apart.look(&plain(), &members(20, Some(1), 9)), None, "however much is written since");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_is_always_a_little_behind_follows() {
        let mut apart = Apart::default();
        for n in 1..=10_u64 {
            assert_eq!(apart.look(&plain(), &members(n * 1_000_000, Some(0), n * 1_000_000 - 500_000)), None);
            tokio::time::advance(LONG / 4).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_leader_another_pod_or_a_restore_under_way_the_time_begins_anew() {
        let mut apart = Apart::default();
        let seen = members(7, None, 7);
        let mut restarted = seen.clone();
        restarted[2].uid = "new".into();
        let lock = serde_json::json!({"operation": "Restore", "holder": "openbaorestore/r", "holderUID": "u", "message": "",
            "mode": "Held", "fence": 1, "acquiredAt": "2026-11-21T09:00:00Z", "renewedAt": "2026-11-21T09:00:00Z"});
        let mut restoring = plain();
        restoring.status.get_or_insert_default().operation_lock = Some(serde_json::from_value(lock).unwrap());
        for (object, between) in [(plain(), &seen[1..]), (plain(), &restarted[..]), (restoring, &seen[..])] {
            assert_eq!(apart.look(&plain(), &seen), None);
            tokio::time::advance(LONG).await;
            assert_eq!(apart.look(&object, between), None);
            assert_eq!(apart.look(&plain(), &seen), None);
            apart = Apart::default();
        }
    }
}
