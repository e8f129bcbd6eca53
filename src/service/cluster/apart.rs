//! Members that serve and do not follow: what they answer is old, and their vote counts for nothing. Pure but for the clock.
//!
//! Raft's own key lies in the data. A server that was down while a snapshot was restored comes back with the key from before, and
//! unless the snapshot has that one too nobody speaks with it again. It is unsealed and Ready all the same, and names whom it knew
//! last. So it is known by what it has applied, too.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use kube::ResourceExt;
use tokio::time::Instant;

use super::{
    members::{self, Member},
    names,
    trouble::{Trouble, reasons},
};
use crate::api::{LockOperation, OpenBaoCluster};

/// How long that lasts before somebody is told. Elections and restarts are over sooner.
const LONG: Duration = Duration::from_secs(300);

/// How long that lasts before such a member counts for nothing, and clients are kept from it. It costs nobody anything where it was
/// only slow.
const SOON: Duration = Duration::from_secs(60);

/// Who follows, as far as the looks before have seen it. Pods are named by their UIDs.
#[derive(Debug, Default)]
pub struct Apart {
    seen: HashMap<String, Seen>,
    /// Those that have not followed for a while.
    behind: BTreeSet<String>,
    /// By the last look: one leads, and a majority follows it.
    led: bool,
    /// By the last look: clients may meet one that does not follow, or of which nobody knows.
    strays: bool,
    /// By the last look: one leads, and of each that serves it is known whether it follows.
    settled: bool,
}

/// One member, by the looks that it answered. A look that it did not answer says neither that it follows nor that it does not.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// What the leader had committed when it was last seen to follow.
    had: u64,
    /// The first look since then that saw it not to.
    strays: Option<Instant>,
    /// The first look since the last answer that got none.
    mute: Option<Instant>,
}

impl Apart {
    /// The pods, by their UIDs, that serve and have not followed for a while. They bear no failure.
    pub fn behind(&self) -> &BTreeSet<String> {
        &self.behind
    }

    /// Whether it is known who follows. Otherwise one that bears no failure may be counted among those that do: a process that has
    /// just begun has seen nobody follow yet.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether clients are to meet the leader alone, who do so `already` or not. It takes a while to begin and ends at once when all
    /// follow. While it is not known whom a majority follows it stays as it is.
    pub fn keeps_to_leader(&self, already: bool) -> bool {
        match (self.led, already) {
            (false, _) => already,
            (true, true) => self.strays,
            (true, false) => !self.behind.is_empty(),
        }
    }

    /// Remembers who follows, and tells who has not for long. While nobody leads there is nobody to follow, and while a restore holds
    /// the lock it is the restore that waits for them. Whoever gives no whole answer, or that of a server that does not serve, is
    /// taken for what it was. Nobody is told to delete what may be the only copy: a majority has to follow, and who is of another
    /// cluster is told otherwise.
    pub fn look(&mut self, cluster: &OpenBaoCluster, members: &[Member]) -> Option<Trouble> {
        let lock = cluster.status.as_ref().and_then(|status| status.operation_lock.as_ref());
        let restores = lock.is_some_and(|lock| lock.operation == LockOperation::Restore);
        let before = std::mem::take(self);
        if restores {
            return None;
        }
        let Some(leader) = members::leader(members) else {
            // An election makes nobody follow who did not.
            self.behind = before.behind;
            return None;
        };
        // What it tells as committed is the end of its log, where entries without data may lie that nobody ever applies.
        let committed = leader.view.as_ref().map_or(0, |view| view.raft_committed_index.min(view.raft_applied_index));
        let now = Instant::now();
        let id = |member: &Member| member.health.as_ref().and_then(|health| health.cluster_id.clone());
        let (mut apart, mut with_it) = (Vec::new(), 1);
        self.settled = true;
        for member in members.iter().filter(|one| one.name != leader.name) {
            let known = before.seen.get(&member.uid).copied();
            let mut behind = before.behind.contains(&member.uid);
            let mut seen = known.unwrap_or(Seen { had: committed, strays: None, mute: None });
            let speaks = member.serves() && member.view.is_some() && !member.terminating;
            // What was committed by then it has by now, however much is written.
            if speaks && member.follows(leader) && member.applied() >= seen.had {
                (seen, behind) = (Seen { had: committed, strays: None, mute: None }, false);
                with_it += 1;
            } else if speaks {
                // What was silent for so long may have been down, and catches up anew.
                if seen.mute.take().is_some_and(|mute| now.duration_since(mute) >= SOON) {
                    seen.strays = None;
                }
                let since = now.duration_since(*seen.strays.get_or_insert(now));
                behind |= since >= SOON;
                // What a restore leaves behind has less than was restored. Whoever has more than the leader had may hold the only copy
                // of it.
                if since >= LONG && id(member) == id(leader) && member.applied() <= seen.had {
                    apart.push(member.name.as_str());
                }
            } else {
                seen.mute.get_or_insert(now);
            }
            let doubtful = seen.strays.is_some() || known.is_none() && !speaks;
            self.strays |= behind || doubtful && (member.serves() || member.ready);
            self.settled &= behind || !doubtful || !member.serves();
            if behind {
                self.behind.insert(member.uid.clone());
            }
            if speaks || known.is_some() {
                self.seen.insert(member.uid.clone(), seen);
            }
        }
        self.led = with_it * 2 > members.len().max(usize::try_from(cluster.spec.replicas).unwrap_or_default());
        if !self.led {
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
    use crate::adapter::openbao::HealthState::{Active, Sealed, Standby};
    use crate::service::cluster::{members::tests::member, validate::tests::cluster};

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

    #[tokio::test(start_paused = true)]
    async fn who_does_not_follow_for_a_minute_bears_no_failure_and_is_kept_from_clients_until_it_does() {
        let stray = members(12, Some(1), 10);
        let mut apart = Apart::default();
        apart.look(&plain(), &members(11, Some(0), 11));
        apart.look(&plain(), &stray);
        assert!(apart.behind().is_empty() && !apart.keeps_to_leader(false), "it may only be slow");
        tokio::time::advance(SOON).await;
        apart.look(&plain(), &stray);
        assert_eq!(apart.behind(), &BTreeSet::from(["uid-2".to_owned()]));
        assert!(apart.keeps_to_leader(false));
        apart.look(&plain(), &stray[1..]);
        assert!(apart.keeps_to_leader(true) && !apart.behind().is_empty(), "an election changes nothing");
        apart.look(&plain(), &stray);
        assert!(apart.keeps_to_leader(true) && !apart.behind().is_empty(), "nor does its end");
        apart.look(&plain(), &members(13, Some(0), 13));
        assert!(apart.behind().is_empty() && !apart.keeps_to_leader(true), "it follows");
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_that_sees_a_member_not_to_follow_changes_nothing_however_long_ago_the_look_before_was() {
        let mut apart = Apart::default();
        for _ in 0..3 {
            apart.look(&plain(), &members(11, Some(0), 11));
            assert!(apart.is_settled());
            tokio::time::advance(LONG).await;
            assert_eq!(apart.look(&plain(), &members(11, None, 11)), None);
            assert!(apart.behind().is_empty() && !apart.keeps_to_leader(false));
            assert!(!apart.is_settled(), "whether it comes back is not known yet");
        }
    }

    /// What the last of these members says in a look in which it does not tell whom it follows.
    fn mute(seen: &[Member]) -> Vec<(&'static str, Vec<Member>)> {
        let last = &seen[2];
        let cases = [
            ("no answer", Member { health: None, view: None, ..last.clone() }),
            ("half an answer", Member { view: None, ..last.clone() }),
            ("its server starts anew", member(2, Sealed, None)),
            ("it stops", Member { terminating: true, ..last.clone() }),
        ];
        cases.map(|(why, says)| (why, [&seen[..2], &[says]].concat())).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_followed_and_does_not_tell_any_more_is_not_said_to_stray() {
        for (why, silent) in mute(&members(11, Some(0), 11)) {
            let mut apart = Apart::default();
            apart.look(&plain(), &members(11, Some(0), 11));
            for _ in 0..3 {
                assert_eq!(apart.look(&plain(), &silent), None, "{why}");
                assert!(apart.behind().is_empty() && !apart.keeps_to_leader(true) && apart.is_settled(), "{why}");
                tokio::time::advance(LONG).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_is_known_not_to_follow_and_misses_an_answer_stays_known() {
        let stray = members(12, Some(1), 10);
        for (why, silent) in mute(&stray) {
            let mut apart = Apart::default();
            for _ in 0..2 {
                apart.look(&plain(), &stray);
                tokio::time::advance(SOON).await;
            }
            for seen in [&silent, &stray, &silent, &silent, &stray] {
                apart.look(&plain(), seen);
                assert!(apart.keeps_to_leader(true) && apart.keeps_to_leader(false), "{why}");
                assert_eq!(apart.behind(), &BTreeSet::from(["uid-2".to_owned()]), "{why}");
                assert!(apart.is_settled(), "{why}: it counts for nothing");
            }
            apart.look(&plain(), &members(13, Some(0), 13));
            assert!(apart.behind().is_empty() && !apart.keeps_to_leader(true), "{why}: it follows");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missed_answer_does_not_begin_the_time_anew_in_which_a_member_does_not_follow() {
        let stray = members(12, Some(1), 10);
        for (why, silent) in mute(&stray) {
            let mut apart = Apart::default();
            apart.look(&plain(), &members(11, Some(0), 11));
            apart.look(&plain(), &stray);
            tokio::time::advance(SOON / 2).await;
            apart.look(&plain(), &silent);
            assert!(apart.behind().is_empty(), "{why}");
            tokio::time::advance(SOON / 2).await;
            apart.look(&plain(), &stray);
            assert_eq!(apart.behind().len(), 1, "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_down_for_minutes_while_it_caught_up_is_not_told_to_be_deleted_at_its_first_answer() {
        let reads = members(12, Some(0), 10);
        for (why, silent) in mute(&reads) {
            let mut apart = Apart::default();
            apart.look(&plain(), &reads);
            apart.look(&plain(), &silent);
            tokio::time::advance(LONG).await;
            apart.look(&plain(), &silent);
            assert_eq!(apart.look(&plain(), &reads), None, "{why}");
            assert!(apart.behind().is_empty(), "{why}");
            tokio::time::advance(LONG).await;
            assert!(apart.look(&plain(), &reads).is_some(), "{why}: it has been there all the time since");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_that_starts_anew_knows_who_follows_as_soon_as_each_that_serves_has_said_it() {
        let all = members(11, Some(0), 11);
        let stray = members(11, Some(1), 10);
        let silent = |seen: &[Member], which: usize| mute(seen).swap_remove(which).1;
        for (why, seen, settled) in [
            ("all follow", all.clone(), true),
            ("a single server", vec![all[0].clone()], true),
            ("one has not joined or is down", all[..2].to_vec(), true),
            ("one gives no answer, and is not counted", silent(&all, 0), true),
            ("one does not follow", stray.clone(), false),
            ("it may still be reading", members(11, Some(0), 10), false),
            ("of one it is not known", silent(&all, 1), false),
            ("nobody leads", all[1..].to_vec(), false),
        ] {
            let mut apart = Apart::default();
            apart.look(&plain(), &seen);
            assert_eq!(apart.is_settled(), settled, "{why}");
            apart.look(&plain(), &all);
            assert!(apart.is_settled(), "{why}: now all follow");
        }
        let mut apart = Apart::default();
        apart.look(&plain(), &stray);
        tokio::time::advance(SOON).await;
        apart.look(&plain(), &stray);
        assert!(apart.is_settled() && apart.behind().len() == 1, "it is known, and counts for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_larger_spec_that_waits_keeps_nobody_from_knowing_who_follows() {
        let mut larger = plain();
        larger.spec.replicas = 7;
        let mut apart = Apart::default();
        apart.look(&larger, &members(11, Some(0), 11));
        assert!(apart.is_settled());
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_that_starts_anew_leaves_clients_where_they_are_until_it_knows_better() {
        for (why, seen, already, kept) in [
            ("all follow", members(11, Some(0), 11), true, false),
            ("all follow", members(11, Some(0), 11), false, false),
            ("one does not, for all that it knows since a moment ago", members(11, Some(1), 10), false, false),
            ("one still does not", members(11, Some(1), 10), true, true),
            ("of one it is not known", mute(&members(11, Some(1), 10)).swap_remove(0).1, true, true),
            ("nobody leads", members(11, Some(0), 11)[1..].to_vec(), true, true),
            ("nobody leads", members(11, Some(0), 11)[1..].to_vec(), false, false),
        ] {
            let mut apart = Apart::default();
            apart.look(&plain(), &seen);
            assert_eq!(apart.keeps_to_leader(already), kept, "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_not_sent_to_a_leader_alone_whom_no_majority_follows() {
        let mut nobody = members(11, None, 10);
        nobody[1] = nobody[2].clone();
        (nobody[1].uid, nobody[1].name) = ("uid-1".into(), "kelp-1".into());
        let mut apart = Apart::default();
        apart.look(&plain(), &nobody);
        tokio::time::advance(SOON).await;
        apart.look(&plain(), &nobody);
        assert_eq!(apart.behind().len(), 2);
        assert!(!apart.keeps_to_leader(false));
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_without_data_at_the_end_of_the_log_leaves_nobody_behind() {
        let mut idle = members(11, Some(0), 11);
        for member in &mut idle {
            member.view.as_mut().unwrap().raft_committed_index = 12;
        }
        let mut apart = Apart::default();
        for _ in 0..3 {
            assert_eq!(apart.look(&plain(), &idle), None);
            assert!(apart.behind().is_empty() && !apart.keeps_to_leader(true));
            tokio::time::advance(LONG).await;
        }
    }
}
