//! After the data is there, seen at a majority ([`super::spread`]), the servers are restarted one by one.
//!
//! A server that installed a restored snapshot keeps stale state in memory, and servers that join one that was not
//! restarted never unseal (`tls: unrecognized name`). So every pod that was there at the submission is deleted once,
//! standbys first, the leader last. Whether a pod has had its turn is told by its UID, so nothing has to be remembered.
//! One that does not come up is deleted again once the settings that it was made from were corrected. One that was down before
//! holds up nobody: see [`super::away`].

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::away::Away;
use super::spread::PODS;
use super::{Step, chain, recorded_pods};
use crate::adapter::kubernetes::apply;
use crate::adapter::openbao::HealthState;
use crate::api::OpenBaoCluster;
use crate::service::cluster::members::{self, Member};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::plan;

/// When the last server that its restart could help was restarted, once each of those has been since `recorded` was written.
/// While servers are sealed it is they: one that says nothing may never come back, and must not keep the others from being
/// judged. A pod on its way out has had its turn.
pub fn all_restarted_at(members: &[Member], recorded: &BTreeMap<String, String>) -> Option<DateTime<Utc>> {
    let is_sealed = |member: &Member| member.state() == Some(HealthState::Sealed);
    let any_sealed = members.iter().any(is_sealed);
    let counts = |member: &&Member| !member.terminating && (is_sealed(member) || !any_sealed);
    let again = |member: &Member| recorded.get(&member.name).is_none_or(|uid| *uid != member.uid);
    if !members.iter().filter(counts).all(again) {
        return None;
    }
    members.iter().filter(counts).filter_map(|member| member.created).max()
}

/// Deletes those of `names` that still are the recorded pods.
pub async fn delete(
    step: &Step<'_>,
    cluster: &OpenBaoCluster,
    members: &[Member],
    names: &[String],
    recorded: &BTreeMap<String, String>,
) {
    for member in members.iter().filter(|member| names.contains(&member.name) && !member.terminating) {
        if recorded.get(&member.name).is_some_and(|uid| *uid == member.uid) {
            delete_pod(step, cluster, member).await;
        }
    }
}

/// Restarts servers that sealed themselves although the data is the old one, and names them while there are any.
pub async fn restart_sealed(
    step: &Step<'_>,
    cluster: &OpenBaoCluster,
    members: &[Member],
    recorded: &BTreeMap<String, String>,
) -> Option<String> {
    let sealed: Vec<&Member> = members.iter().filter(|member| member.state() == Some(HealthState::Sealed)).collect();
    let harmed = sealed.iter().filter(|member| recorded.get(&member.name).is_some_and(|uid| *uid == member.uid));
    let names: Vec<String> = harmed.map(|member| member.name.clone()).collect();
    if names.is_empty() {
        // A server that stays sealed after its restart is not this step's to mend, and no reason to wait for ever.
        return None;
    }
    delete(step, cluster, members, &names, recorded).await;
    Some(names.join(", "))
}

async fn delete_pod(step: &Step<'_>, cluster: &OpenBaoCluster, member: &Member) {
    if !step.call.ad.leadership.still_leader() {
        return;
    }
    let namespace = cluster.namespace().unwrap_or_default();
    if let Err(error) = apply::delete::<Pod>(&step.call.ad.client, &namespace, &member.name, &member.uid).await {
        tracing::warn!(pod = member.name, error = chain(&error), "failed to restart a server; trying again");
    }
}

/// Restarts the servers one by one.
pub async fn restart_voters(step: &Step<'_>) -> StepOutcome {
    let cluster = match step.cluster() {
        Ok(cluster) => cluster,
        Err(outcome) => return outcome,
    };
    let recorded = recorded_pods(step.call.output(plan::PROVE_APPLIED, PODS).unwrap_or_default());
    let members = step.members(cluster).await;
    let away = Away::of(step);
    match next_restart(&members, &recorded, step.servers(cluster), &step.outdated(cluster), &away) {
        Restart::Done => StepOutcome::done(),
        Restart::Wait(what) => {
            StepOutcome::in_progress(format!("restarting the servers: waiting for {what}{}", away.way_on()))
        }
        Restart::Delete(name) => {
            for member in members.iter().filter(|member| member.name == name) {
                if let Some(why) = cluster.obstacle().filter(|_| member.serves()) {
                    return StepOutcome::in_progress(format!("server {name} is not restarted, as {why}"));
                }
                delete_pod(step, cluster, member).await;
            }
            StepOutcome::in_progress(format!("restarting server {name}"))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Restart {
    Done,
    Wait(String),
    Delete(String),
}

/// Who is next. Nobody is deleted while another one is on its way, and the leader only when nobody else who is up is left; those
/// who were `away` come last and are not waited for. `outdated` are the pods, by UID, that would have other settings if they were
/// made again.
pub(super) fn next_restart(
    members: &[Member],
    recorded: &BTreeMap<String, String>,
    replicas: i32,
    outdated: &BTreeSet<String>,
    away: &Away,
) -> Restart {
    let replicas = usize::try_from(replicas).unwrap_or_default();
    let old = |member: &&Member| recorded.get(&member.name).is_some_and(|uid| *uid == member.uid);
    // A pod on its way out has had its turn.
    let waiting = members.iter().filter(old).filter(|member| !member.terminating);
    let (last, first): (Vec<&Member>, Vec<&Member>) = waiting.partition(|member| away.goes_last(member));
    let over = first.is_empty() && last.is_empty();
    let majority = members.iter().filter(|member| member.serves()).count() * 2 > replicas;
    let stops = |member: &Member| member.terminating && member.serves();
    if over && majority && away.has_waited_long() && !members.iter().any(stops) {
        return Restart::Done;
    }
    if let Some(leaving) = members.iter().find(|member| member.terminating && !away.is_left(member)) {
        return Restart::Wait(format!("{} to stop", leaving.name));
    }
    if members.len() + away.podless(members) < replicas {
        return Restart::Wait("a deleted pod to be made again".to_owned());
    }
    let late = |member: &&Member| !old(member) && !member.serves() && !member.terminating;
    // Nobody else does it while we hold the lock, and what it was made with may be all that keeps it from coming up.
    let in_vain = |member: &&Member| late(member) && !member.ready && outdated.contains(&member.uid);
    if let Some(again) = members.iter().find(in_vain) {
        return Restart::Delete(again.name.clone());
    }
    if let Some(late) = members.iter().filter(late).find(|member| !away.is_left(member)) {
        let silence = late.silence.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        return Restart::Wait(format!("{} to unseal and follow{silence}", late.name));
    }
    if over {
        return Restart::Done;
    }
    // It was there when the data was proven, so it comes back as a rule.
    let went_down = last.iter().find(|member| !member.serves() && !away.is_left(member));
    if let Some(down) = went_down.filter(|_| !first.is_empty() && !away.has_waited_long()) {
        return Restart::Wait(format!("{} to serve again", down.name));
    }
    let leads = |member: &Member| member.state() == Some(HealthState::Active);
    // The highest ordinal first, as a StatefulSet would; but a sealed one before those who serve: they may need its vote.
    let standbys = first.iter().rev().filter(|member| !leads(member));
    let standby = standbys.min_by_key(|member| member.state() != Some(HealthState::Sealed));
    let next = match standby {
        Some(standby) => Some(*standby),
        None if first.is_empty() => last.last().copied(),
        None => members::leader(members),
    };
    match next {
        Some(next) if next.serves() && !majority => Restart::Wait("a majority of the servers to serve".to_owned()),
        Some(next) => Restart::Delete(next.name.clone()),
        None => Restart::Wait("the servers to agree on a leader".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{evidence, spread::is_sealed};
    use super::*;
    use crate::service::cluster::members::tests::member;
    use crate::service::restore::decide::prove;
    use HealthState::{Active, Sealed, Standby};

    fn recorded() -> BTreeMap<String, String> {
        (0..3).map(|i| (format!("kelp-{i}"), format!("uid-{i}"))).collect()
    }

    fn restarted(mut member: Member) -> Member {
        member.uid = format!("new-{}", member.ordinal);
        member
    }

    fn three() -> Vec<Member> {
        vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), member(2, Standby, Some(0))]
    }

    fn next(members: &[Member]) -> Restart {
        next_restart(members, &recorded(), 3, &BTreeSet::new(), &Away::default())
    }

    #[test]
    fn standbys_are_restarted_first_one_at_a_time_and_the_leader_last() {
        let mut members = three();
        assert_eq!(next(&members), Restart::Delete("kelp-2".into()));
        members[2].terminating = true;
        assert!(matches!(next(&members), Restart::Wait(_)));
        assert!(matches!(next(&members[..2]), Restart::Wait(_)));
        members[2] = restarted(member(2, Sealed, None));
        assert!(matches!(next(&members), Restart::Wait(_)));
        members[2] = restarted(member(2, Standby, Some(0)));
        assert_eq!(next(&members), Restart::Delete("kelp-1".into()));
        members[1] = restarted(member(1, Standby, Some(0)));
        assert_eq!(next(&members), Restart::Delete("kelp-0".into()));
        let done = [
            restarted(member(0, Standby, Some(2))),
            restarted(member(1, Standby, Some(2))),
            restarted(member(2, Active, Some(2))),
        ];
        assert_eq!(next(&done), Restart::Done);
    }

    #[test]
    fn a_single_server_is_restarted_too() {
        let recorded: BTreeMap<_, _> = [("kelp-0".to_owned(), "uid-0".to_owned())].into();
        let (one, none) = ([member(0, Active, Some(0))], BTreeSet::new());
        assert_eq!(next_restart(&one, &recorded, 1, &none, &Away::default()), Restart::Delete("kelp-0".into()));
        let again = [restarted(member(0, Active, Some(0)))];
        assert_eq!(next_restart(&again, &recorded, 1, &none, &Away::default()), Restart::Done);
    }

    #[test]
    fn a_restarted_server_whose_settings_were_corrected_is_made_again() {
        let mut members = three();
        members[2] = Member { ready: false, health: None, ..restarted(member(2, Standby, None)) };
        let outdated = BTreeSet::from(["new-2".to_owned(), "uid-1".to_owned(), "uid-0".to_owned()]);
        assert!(matches!(next(&members), Restart::Wait(_)), "it starts");
        let next = |members: &[Member]| next_restart(members, &recorded(), 3, &outdated, &Away::default());
        assert_eq!(next(&members), Restart::Delete("kelp-2".into()), "it waits for a node that it may go to by now");
        members[2].terminating = true;
        assert!(matches!(next(&members), Restart::Wait(_)), "it goes already");
        members[2].terminating = false;
        members[2].ready = true;
        assert!(matches!(next(&members), Restart::Wait(_)), "it may only have missed our question");
        members[2] = restarted(member(2, Standby, Some(0)));
        assert_eq!(next(&members), Restart::Delete("kelp-1".into()), "it serves: upkeep has it later");
    }

    #[test]
    fn a_server_that_sealed_itself_has_its_turn_before_the_others_and_is_not_waited_for_until_then() {
        let mut members = three();
        members[1] = member(1, Sealed, None);
        assert!(is_sealed(&members, "kelp-1") && !is_sealed(&members, "kelp-2"));
        assert_eq!(next(&members), Restart::Delete("kelp-1".into()), "a majority is two of those that are left");
        members[2] = restarted(member(2, Standby, Some(0)));
        assert_eq!(next(&members), Restart::Delete("kelp-1".into()));
    }

    #[test]
    fn the_one_restart_after_harm_counts_when_every_server_has_had_it() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let mut members = three();
        assert_eq!(all_restarted_at(&members, &recorded()), None);
        for (i, one) in members.iter_mut().enumerate() {
            one.uid = format!("new-{i}");
            one.created = at(100 + i64::try_from(i).unwrap());
        }
        assert_eq!(all_restarted_at(&members, &recorded()), at(102));
        members[0].uid = "uid-0".into();
        assert_eq!(all_restarted_at(&members, &recorded()), None);
        assert_eq!(all_restarted_at(&[], &recorded()), None);
    }

    #[test]
    fn a_server_that_says_nothing_does_not_keep_the_sealed_ones_from_being_named() {
        let at = |seconds: i64| DateTime::from_timestamp(1_795_000_000 + seconds, 0).unwrap();
        let begun = std::time::Instant::now();
        // On a dead node, or crashing again and again in the same pod: the claim was at 0, the other two were restarted at 40.
        let mut silent = member(2, Sealed, None);
        silent.health = None;
        let mut members = vec![member(0, Sealed, None), member(1, Sealed, None), silent];
        assert_eq!(all_restarted_at(&members, &recorded()), None);
        for one in &mut members[..2] {
            *one = restarted(one.clone());
            one.created = Some(at(40));
        }
        assert_eq!(all_restarted_at(&members, &recorded()), Some(at(40)));
        let seen = |seconds| begun + Duration::from_secs(seconds);
        let facts = prove::Facts {
            claim: Some(prove::Claimed { leader_pod_uid: "uid-0".into(), since: seen(0), over: Some(seen(1)) }),
            mover: prove::Mover::Gone,
            members: evidence::seen(&members),
            restarted: all_restarted_at(&members, &recorded()).map(|_| seen(40)),
            ..prove::Facts::default()
        };
        assert!(matches!(prove::prove(&facts, seen(100)), prove::Outcome::Wait(_)));
        let sealed = prove::Outcome::Sealed { pods: vec!["kelp-0".into(), "kelp-1".into()] };
        assert_eq!(prove::prove(&facts, seen(131)), sealed);
        // One of the two seals itself again in its old pod: that one has not had its turn.
        members[1] = member(1, Sealed, None);
        assert_eq!(all_restarted_at(&members, &recorded()), None);
        members[1].terminating = true;
        assert_eq!(all_restarted_at(&members, &recorded()), Some(at(40)), "it is on its way out");
    }
}
