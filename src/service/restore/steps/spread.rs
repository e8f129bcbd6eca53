//! After the submission was proven: the restored data is seen at a majority of the servers.

use std::time::Duration;

use super::{LINGER, Step, away, evidence, judge, marker, record_pods, safety, submit};
use crate::adapter::openbao::HealthState;
use crate::service::cluster::members::{self, Member};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::decide::prove::{Identity, LeaderSeen, Marker};
use crate::service::restore::plan;

/// Output key of [`prove_applied`]: the server pods, with their UIDs, when they had installed the snapshot. Each is restarted
/// once, and known to have been by another UID.
pub(super) const PODS: &str = "pods";
/// How often they are asked meanwhile.
const LOOK_CLOSELY: Duration = Duration::from_millis(300);

/// The cluster id that only the restored data has, where it has one.
pub fn restored_id<'a>(step: &Step<'a>) -> Option<&'a str> {
    step.call.output(plan::PLACE_MARKER, marker::NEW_CLUSTER_ID)
}

/// Looks again whether the restored data is there: a leader that loses its office before the others have the snapshot
/// takes the restore with it. Where nobody may look for the marker, the cluster id tells. `None`: nothing speaks against it.
fn lost(seen: Option<&LeaderSeen>, id: Option<&str>) -> Option<StepOutcome> {
    let leader = seen?;
    let pod = &leader.pod;
    match (leader.marker, Identity::of(id, leader.cluster_id.as_deref())) {
        (Marker::Present, _) | (Marker::NoAccess, Identity::Old) => Some(StepOutcome::fatal(
            "RestoreLost",
            format!(
                "the restored data was seen, but leadership moved before the other servers had it, and {pod} serves the \
                 old data. Create another OpenBaoRestore"
            ),
        )),
        (_, Identity::NotAsked | Identity::New) => None,
        (_, Identity::Old | Identity::NotSeen) => {
            Some(StepOutcome::in_progress(format!("waiting for leader {pod} to show the cluster id of the snapshot")))
        }
    }
}

/// Done when a majority of the servers has what the leader was proven to serve. Watched from here for a while: nothing in
/// Kubernetes tells when a server has installed a snapshot.
pub async fn prove_applied(step: &Step<'_>) -> StepOutcome {
    let linger = step.call.turns.linger(LINGER);
    let outcome = loop {
        match applied(step).await {
            waiting @ StepOutcome::Waiting { .. } => {
                if !linger.pause(LOOK_CLOSELY).await {
                    break waiting;
                }
            }
            over => return over,
        }
    };
    let Ok(cluster) = step.cluster() else { return outcome };
    let members = step.members(cluster).await;
    lost(evidence::leader(step, cluster, &members).await.as_ref(), restored_id(step)).unwrap_or(outcome)
}

async fn applied(step: &Step<'_>) -> StepOutcome {
    let output = |key| step.call.output(plan::SUBMIT, key).unwrap_or_default();
    match output(submit::OUTCOME) {
        submit::APPLIED => {}
        submit::SEALED => return StepOutcome::fatal("Sealed", sealed_message(step, output(submit::MESSAGE))),
        other => return StepOutcome::fatal("PlanUnreadable", format!("the submission ended in \"{other}\"")),
    }
    let cluster = match step.cluster() {
        Ok(cluster) => cluster,
        Err(outcome) => return outcome,
    };
    let members = step.members(cluster).await;
    let Some(leader) = members::leader(&members) else {
        return StepOutcome::in_progress("waiting for the servers to agree on a leader");
    };
    let index: u64 = output(submit::INDEX).parse().unwrap_or_default();
    let (has, mut lacks) = spread(&members, leader, index);
    let servers = step.servers(cluster);
    let all = away::all(cluster, servers);
    lacks.extend(away::podless(&members, &all));
    let down = away::down(&members, &all);
    let wanted = usize::try_from(servers).unwrap_or(1) / 2 + 1;
    let late = step.call.deadline - step.call.now < chrono::TimeDelta::minutes(30);
    let impatient = away::waited(step) >= away::PATIENCE;
    let is_passed_over = |name: &String| is_sealed(&members, name) || (impatient && down.contains(name));
    if has.len() >= wanted && (late || lacks.iter().all(is_passed_over)) {
        let seen = evidence::leader(step, cluster, &members).await;
        let found = [
            ("servers", has.join(",")),
            (PODS, record_pods(&members)),
            (away::AWAY, down.join(",")),
            (away::SEALED, away::sealed(&members).join(",")),
        ];
        return lost(seen.as_ref(), restored_id(step)).unwrap_or_else(|| StepOutcome::done_with(found));
    }
    StepOutcome::in_progress(format!("waiting for {} to install the snapshot", lacks.join(", ")))
}

/// Which servers have applied the log up to `index`, and which not yet.
fn spread(members: &[Member], leader: &Member, index: u64) -> (Vec<String>, Vec<String>) {
    let has = |member: &&Member| member.name == leader.name || (member.serves() && member.applied() >= index);
    let (has, lacks): (Vec<&Member>, Vec<&Member>) = members.iter().partition(has);
    let names = |list: Vec<&Member>| list.into_iter().map(|member| member.name.clone()).collect();
    (names(has), names(lacks))
}

/// Whether it cannot tell how far it is. A follower may seal itself as it installs the snapshot, and then nothing but its restart,
/// which comes next, brings it back.
pub(super) fn is_sealed(members: &[Member], name: &str) -> bool {
    members.iter().any(|member| member.name == name && member.state() == Some(HealthState::Sealed))
}

fn sealed_message(step: &Step<'_>, pods: &str) -> String {
    let judged = |key| step.call.output(plan::JUDGE, key);
    let key = judged(judge::KEY_NEEDED).map_or_else(
        || {
            let id = judged(judge::SEAL_KEY_ID).map(|id| format!(" with id \"{id}\"")).unwrap_or_default();
            format!("the {} seal key{id} of the snapshot", judged(judge::SEAL_TYPE).unwrap_or("snapshot's"))
        },
        str::to_owned,
    );
    let before = step.call.output(plan::SAFETY_BACKUP, safety::KEY).map_or_else(
        || "No safety backup was taken".to_owned(),
        |key| format!("The data from before is in the safety backup {key}"),
    );
    format!(
        "the snapshot was applied, and {pods} cannot unseal: they need {key}. Once it is there, delete the server pods: they \
         unseal as they start. {before}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::members::tests::member;
    use crate::service::restore::decide::prove;
    use HealthState::{Active, Standby};

    #[test]
    fn a_restore_whose_leader_was_lost_is_known_by_the_marker_or_where_nobody_may_look_by_the_cluster_id() {
        let seen = |marker, id: Option<&str>| LeaderSeen {
            pod: "kelp-1".into(),
            pod_uid: "uid-1".into(),
            marker,
            token: prove::Witness::Lost,
            cluster_id: id.map(str::to_owned),
        };
        let told = |marker, id, wanted| lost(Some(&seen(marker, id)), wanted);
        let is_lost = |outcome: Option<StepOutcome>| {
            matches!(outcome, Some(StepOutcome::Failed { reason: "RestoreLost", retryable: false, .. }))
        };
        for wanted in [None, Some("new")] {
            assert!(is_lost(told(Marker::Present, Some("old"), wanted)));
        }
        assert!(is_lost(told(Marker::NoAccess, Some("old"), Some("new"))));
        assert_eq!(told(Marker::NoAccess, Some("new"), Some("new")), None);
        assert_eq!(told(Marker::NoAccess, Some("old"), None), None, "the snapshot is of this very cluster");
        // It contradicts itself, or says nothing: that is neither done nor lost.
        for (marker, id) in [(Marker::Gone, Some("old")), (Marker::Silent, Some("old")), (Marker::NoAccess, None)] {
            assert!(matches!(told(marker, id, Some("new")), Some(StepOutcome::Waiting { .. })), "{marker:?} {id:?}");
        }
        assert_eq!(lost(None, Some("new")), None);
    }

    #[test]
    fn the_snapshot_is_where_the_log_has_been_applied_to_its_end() {
        let mut members = vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), member(2, Standby, Some(0))];
        members[1].view.as_mut().unwrap().raft_applied_index = 50;
        members[2].view.as_mut().unwrap().raft_applied_index = 49;
        let (has, lacks) = spread(&members, &members[0], 50);
        assert_eq!((has, lacks), (vec!["kelp-0".to_owned(), "kelp-1".into()], vec!["kelp-2".to_owned()]));
    }
}
