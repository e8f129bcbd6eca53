//! Servers that are down while a restore puts the data back. It is done when a majority has it; who was not there is told.
//!
//! None of them brings the old data back. The majority has the snapshot on disk, at an index that a server which was away has not
//! reached, so nobody there votes for it. Whether the leader can send it the snapshot once it is back is another matter: raft's key
//! lies in the data, and where the snapshot has another one than its volume, the two never speak. Its volume is a person's to delete.
//! Its pod is deleted like the others, only last: whatever a node that does not answer still runs of it ends before another one of
//! its name starts.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;

use super::Step;
use crate::adapter::openbao::{AutopilotState, HealthState};
use crate::api::OpenBaoCluster;
use crate::service::cluster::{members::Member, names};
use crate::service::restore::plan;

/// Output key of [`super::spread::prove_applied`]: the servers that were down when a majority had the snapshot, by name.
pub const AWAY: &str = "away";
/// Output key of [`super::spread::prove_applied`]: those of them that were sealed.
pub const SEALED: &str = "sealed";
/// Output key of [`super::healthy::await_healthy`]: those that were not there at the end, or did not follow.
pub const ABSENT: &str = "absent";
/// How long each step waits for servers that are down: one that only restarts, or that takes its snapshot over and answers nothing
/// meanwhile, looks the same.
pub const PATIENCE: TimeDelta = TimeDelta::minutes(3);
/// How long for those that went down while it ran: it may have been the step itself that took them down.
const LONG: TimeDelta = TimeDelta::minutes(15);

/// The servers that there are to be, by name.
pub fn all(cluster: &OpenBaoCluster, count: i32) -> Vec<String> {
    let name = cluster.name_any();
    (0..u32::try_from(count).unwrap_or_default()).map(|ordinal| names::pod(&name, ordinal)).collect()
}

/// Those of `all` without a pod.
pub fn podless(members: &[Member], all: &[String]) -> Vec<String> {
    all.iter().filter(|name| members.iter().all(|member| member.name != **name)).cloned().collect()
}

/// Those of `all` that are down: without a pod, or with one that neither serves nor is ready. Silence alone does not mean that.
pub fn down(members: &[Member], all: &[String]) -> Vec<String> {
    let is_up = |name: &str| members.iter().any(|member| member.name == name && (member.serves() || member.ready));
    all.iter().filter(|name| !is_up(name)).cloned().collect()
}

/// Those that are sealed, by name.
pub fn sealed(members: &[Member]) -> Vec<String> {
    let sealed = members.iter().filter(|member| member.state() == Some(HealthState::Sealed));
    sealed.map(|member| member.name.clone()).collect()
}

/// Whether it serves what `leader` does: it names that one, is of the same cluster, and has what was restored at `index`. Each alone is
/// also true of some that are back on a volume from before.
pub fn follows(member: &Member, leader: &Member, index: u64) -> bool {
    let id = |member: &Member| member.health.as_ref().and_then(|health| health.cluster_id.clone());
    let is_with_it = member.name == leader.name || (member.follows(leader) && member.applied() >= index);
    member.serves() && !member.terminating && is_with_it && id(member) == id(leader)
}

/// How long the step has been at it.
pub fn waited(step: &Step<'_>) -> TimeDelta {
    step.call.state.started_at.map_or_else(TimeDelta::zero, |at| step.call.now - at)
}

/// Whether autopilot finds everybody healthy but those who are `absent`.
pub fn is_fit(state: &AutopilotState, absent: &[String]) -> bool {
    let others = || state.servers.iter().all(|(name, server)| server.healthy || absent.contains(name));
    state.healthy || (!absent.is_empty() && !state.servers.is_empty() && others())
}

/// The servers that were down when the data was proven, and how long a later step has waited.
#[derive(Debug, Default)]
pub struct Away {
    names: BTreeSet<String>,
    sealed: BTreeSet<String>,
    waited: TimeDelta,
    now: DateTime<Utc>,
}

impl Away {
    /// As [`super::spread::prove_applied`] wrote it down.
    pub fn of(step: &Step<'_>) -> Self {
        let names = |key| -> BTreeSet<String> {
            let names = step.call.output(plan::PROVE_APPLIED, key).unwrap_or_default();
            names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        Self { names: names(AWAY), sealed: names(SEALED), waited: waited(step), now: step.call.now }
    }

    /// Whether it was sealed, and is on its way back from the restart that it may only have needed: it stops, has no pod, and answers
    /// nothing for a while. They go one by one, and not always at once.
    fn restarts(&self, name: &str, pod: Option<&Member>) -> bool {
        let all_of_them = PATIENCE * i32::try_from(self.sealed.len()).unwrap_or(1);
        let moves = pod.is_none_or(|pod| pod.terminating) && self.waited < LONG;
        // By the API server's clock, which may differ from ours: one that is far ahead keeps nobody young for as long.
        let is_young = pod.and_then(|pod| pod.created).is_some_and(|created| (self.now - created).abs() < PATIENCE);
        self.sealed.contains(name) && (self.waited < all_of_them || moves || is_young)
    }

    /// Whether its turn comes after the leader's. A sealed one has it before all others: it may only need that.
    pub fn goes_last(&self, member: &Member) -> bool {
        let is_down = !member.serves() && !member.ready;
        member.state() != Some(HealthState::Sealed) && (is_down || self.names.contains(&member.name))
    }

    /// Whether nobody waits for it: it was down then, and still is.
    pub fn is_left(&self, member: &Member) -> bool {
        let starts = member.state() == Some(HealthState::Sealed) && self.waited < PATIENCE;
        let restarts = self.restarts(&member.name, Some(member));
        self.names.contains(&member.name) && !member.serves() && !starts && !restarts
    }

    /// How many of them have no pod that is waited for.
    pub fn podless(&self, members: &[Member]) -> usize {
        let has_pod = |name: &str| members.iter().any(|member| member.name == name);
        self.names.iter().filter(|name| !has_pod(name) && !self.restarts(name, None)).count()
    }

    /// Whether nobody is waited for any more who need not be.
    pub fn has_waited_long(&self) -> bool {
        self.waited >= LONG
    }

    /// What a person may do about a server that was taken down and does not come back: the next one might not either, so nobody else
    /// takes that one down.
    pub fn way_on(&self) -> &'static str {
        if self.has_waited_long() {
            ". If it never comes back, delete the pods that are older than this step one by one, the leader's last: a majority of \
             restarted servers is enough"
        } else {
            ""
        }
    }

    /// Those of `all` that are down and that nobody waits for any more, and those of them that came back and, after long, `follow`
    /// nobody: their volumes are from before, and they may never.
    pub fn absent(&self, members: &[Member], all: &[String], follows: impl Fn(&Member) -> bool) -> Vec<String> {
        let mut names = down(members, all);
        names.retain(|name| self.has_waited_long() || (self.waited >= PATIENCE && self.names.contains(name)));
        let apart = |member: &&Member| self.names.contains(&member.name) && member.serves() && !follows(member);
        let apart = members.iter().filter(|_| self.has_waited_long()).filter(apart);
        names.extend(apart.map(|member| member.name.clone()));
        names
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::restart::{Restart, next_restart};
    use super::*;
    use crate::service::cluster::members::tests::member;
    use HealthState::{Active, Sealed, Standby};

    fn away(names: &[&str], minutes: i64) -> Away {
        Away {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            waited: TimeDelta::minutes(minutes),
            ..Away::default()
        }
    }

    fn silent(ordinal: u32) -> Member {
        Member { ready: false, health: None, view: None, ..member(ordinal, Standby, None) }
    }

    fn restarted(mut member: Member) -> Member {
        member.uid = format!("new-{}", member.ordinal);
        member
    }

    fn next(members: &[Member], away: &Away) -> Restart {
        let recorded: BTreeMap<_, _> = (0..3).map(|i| (format!("kelp-{i}"), format!("uid-{i}"))).collect();
        next_restart(members, &recorded, 3, &BTreeSet::new(), away)
    }

    fn delete(name: &str) -> Restart {
        Restart::Delete(name.to_owned())
    }

    #[test]
    fn a_server_that_was_down_when_the_data_was_proven_holds_up_no_restart_and_its_own_pod_goes_last() {
        let gone = away(&["kelp-2"], 0);
        let mut members = vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), silent(2)];
        assert_eq!(next(&members, &gone), delete("kelp-1"));
        members[2].terminating = true;
        assert_eq!(next(&members, &gone), delete("kelp-1"), "its node does not answer, so it stays so");
        assert_eq!(next(&members[..2], &gone), delete("kelp-1"), "nobody can make its pod");
        members[1] = restarted(member(1, Sealed, None));
        assert!(matches!(next(&members, &gone), Restart::Wait(_)), "that one was up, and is on its way");
        members[1] = restarted(member(1, Standby, Some(0)));
        assert_eq!(next(&members, &gone), delete("kelp-0"));
        members[0] = restarted(member(0, Standby, Some(1)));
        members[1] = restarted(member(1, Active, Some(1)));
        assert_eq!(next(&members, &gone), Restart::Done, "its old pod is deleted, and ends when its node is back");
        members[2].terminating = false;
        assert_eq!(next(&members, &gone), delete("kelp-2"), "what its node may still run of it has to end");
        members[2] = restarted(silent(2));
        assert_eq!(next(&members, &gone), Restart::Done);
    }

    #[test]
    fn a_server_that_comes_back_in_the_pod_that_was_there_is_restarted_before_the_restore_is_done() {
        let gone = away(&["kelp-2"], 20);
        let mut members = vec![
            restarted(member(0, Standby, Some(1))),
            restarted(member(1, Active, Some(1))),
            member(2, Standby, Some(1)),
        ];
        assert_eq!(next(&members, &gone), delete("kelp-2"));
        members[2].terminating = true;
        assert!(matches!(next(&members, &gone), Restart::Wait(_)), "it serves as long as it has not stopped");
    }

    #[test]
    fn a_server_that_was_sealed_has_its_turn_first_and_a_while_to_unseal() {
        let mut members = vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), member(2, Sealed, None)];
        assert_eq!(next(&members, &away(&["kelp-2"], 0)), delete("kelp-2"));
        members[2] = restarted(member(2, Sealed, None));
        assert!(matches!(next(&members, &away(&["kelp-2"], 2)), Restart::Wait(_)));
        assert_eq!(next(&members, &away(&["kelp-2"], 3)), delete("kelp-1"));
    }

    #[test]
    fn nobody_goes_while_a_server_that_was_sealed_stops_has_no_pod_or_does_not_answer_yet() {
        let sealed = |minutes| Away { sealed: BTreeSet::from(["kelp-2".into()]), ..away(&["kelp-2"], minutes) };
        let mut members = vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), member(2, Sealed, None)];
        assert_eq!(next(&members, &sealed(0)), delete("kelp-2"));
        members[2] = Member { terminating: true, ..silent(2) };
        let mut looks = vec![members.clone(), members[..2].to_vec()];
        members[2] = restarted(silent(2));
        looks.push(members);
        for members in looks {
            assert!(matches!(next(&members, &sealed(0)), Restart::Wait(_)), "a majority would be lost: {members:?}");
            assert_eq!(next(&members, &sealed(15)), delete("kelp-1"), "it does not come back: {members:?}");
        }
    }

    #[test]
    fn a_server_that_was_sealed_has_its_while_also_when_its_turn_comes_late() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::hours(1);
        let late = Away { sealed: BTreeSet::from(["kelp-2".into()]), now, ..away(&["kelp-2"], 5) };
        let mut members =
            vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), Member { terminating: true, ..silent(2) }];
        assert!(matches!(next(&members, &late), Restart::Wait(_)), "it stops");
        assert!(matches!(next(&members[..2], &late), Restart::Wait(_)), "its pod is made again");
        members[2] = Member { created: Some(now - TimeDelta::minutes(2)), ..restarted(silent(2)) };
        assert!(matches!(next(&members, &late), Restart::Wait(_)), "it starts");
        for ago in [3, -60] {
            members[2].created = Some(now - TimeDelta::minutes(ago));
            assert_eq!(next(&members, &late), delete("kelp-1"), "{ago} minutes ago by the API server's clock");
        }
    }

    #[test]
    fn nobody_goes_while_a_server_that_went_down_by_itself_after_the_proof_may_come_back() {
        let members = [member(0, Active, Some(0)), member(1, Standby, Some(0)), silent(2)];
        assert!(matches!(next(&members, &away(&[], 0)), Restart::Wait(_)), "a majority would be lost");
        assert_eq!(next(&members, &away(&[], 15)), delete("kelp-1"), "it does not come back");
    }

    #[test]
    fn a_server_that_this_very_restart_took_down_is_waited_for_before_another_one_goes() {
        let mut members = vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), restarted(silent(2))];
        assert!(matches!(next(&members, &away(&[], 40)), Restart::Wait(_)), "the next one would not come back either");
        members[0] = restarted(member(0, Active, Some(0)));
        members[1] = restarted(member(1, Standby, Some(0)));
        assert!(matches!(next(&members, &away(&[], 14)), Restart::Wait(_)));
        assert_eq!(next(&members, &away(&[], 15)), Restart::Done, "nobody else has to go");
        assert!(away(&[], 14).way_on().is_empty() && away(&[], 15).way_on().contains("a majority"));
        members[1] = restarted(silent(1));
        assert!(matches!(next(&members, &away(&[], 40)), Restart::Wait(_)), "that is no majority");
    }

    #[test]
    fn a_server_that_serves_is_not_restarted_without_a_majority() {
        let members = [member(0, Standby, None), silent(1), silent(2)];
        assert!(matches!(next(&members, &away(&["kelp-1", "kelp-2"], 0)), Restart::Wait(_)));
    }

    #[test]
    fn at_the_end_servers_that_were_down_get_a_while_and_others_longer() {
        let all: Vec<String> = (0..3).map(|i| format!("kelp-{i}")).collect();
        let mut members = vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), silent(2)];
        let follows = |member: &Member| member.applied() >= 50;
        let absent = |members: &[Member], away: &Away| away.absent(members, &all, follows).join(",");
        assert_eq!(absent(&members, &away(&["kelp-2"], 2)), "", "it may be on its way");
        assert_eq!(absent(&members, &away(&["kelp-2"], 3)), "kelp-2");
        assert_eq!(absent(&members[..2], &away(&["kelp-2"], 3)), "kelp-2", "also without a pod");
        assert_eq!(absent(&members, &away(&[], 14)), "", "it was up when the data was proven");
        assert_eq!(absent(&members, &away(&[], 15)), "kelp-2");
        members[2].ready = true;
        assert_eq!(absent(&members, &away(&["kelp-2"], 15)), "", "it may only have missed our question");
        members[2] = member(2, Standby, Some(0));
        assert_eq!(absent(&members, &away(&["kelp-2"], 14)), "", "it may take the snapshot over");
        assert_eq!(absent(&members, &away(&["kelp-2"], 15)), "kelp-2", "it is back on a volume from before");
        assert_eq!(absent(&members, &away(&[], 15)), "", "it had the snapshot");
        members[2].view.as_mut().unwrap().raft_applied_index = 50;
        assert_eq!(absent(&members, &away(&["kelp-2"], 15)), "");
    }

    #[test]
    fn a_server_follows_that_names_the_leader_and_has_what_was_restored() {
        let (leader, follower) = (member(0, Active, Some(0)), member(1, Standby, Some(0)));
        assert!(follows(&leader, &leader, 50), "itself");
        assert!(!follows(&follower, &leader, 50), "it names whom it knew before it went down");
        assert!(follows(&follower, &leader, 0));
        assert!(!follows(&member(1, Standby, None), &leader, 0));
        assert!(!follows(&member(1, Standby, Some(2)), &leader, 0), "the id of an older snapshot is the same");
        let mut other = follower;
        other.health.as_mut().unwrap().cluster_id = Some("another".into());
        assert!(!follows(&other, &leader, 0));
    }

    #[test]
    fn autopilot_has_to_find_everybody_healthy_but_those_who_are_not_there() {
        let state = |healthy: [bool; 3]| {
            let servers: serde_json::Map<String, serde_json::Value> =
                (0..3).map(|i| (format!("kelp-{i}"), serde_json::json!({"healthy": healthy[i]}))).collect();
            let all = healthy.iter().all(|one| *one);
            serde_json::from_value::<AutopilotState>(serde_json::json!({"healthy": all, "servers": servers})).unwrap()
        };
        let absent = ["kelp-2".to_owned()];
        assert!(is_fit(&state([true; 3]), &[]));
        assert!(!is_fit(&state([true, true, false]), &[]));
        assert!(is_fit(&state([true, true, false]), &absent));
        assert!(!is_fit(&state([true, false, false]), &absent));
        assert!(!is_fit(&AutopilotState::default(), &absent), "it has not looked yet");
    }
}
