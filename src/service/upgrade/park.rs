//! The park point: everything is prepared, the old version leads, and there is a way back. What moves leadership from here is a person's
//! word, or the turn in a rollout, and then only what [`cutover`] finds: nothing was looked at for as long as this took.

use super::{
    cutover, guest, manager,
    plan::PARKED_DAYS,
    request::{self, Park},
    steps::{self, Facts},
    votes,
};
use crate::{
    api::{OpenBaoCluster, OpenBaoOperation, UpgradeDirective},
    service::opslifecycle::{StepCall, StepOutcome, paused},
};
use kube::ResourceExt;

/// Waits for a person, or for its turn in a rollout; backups may run meanwhile, and the cutover waits for those that do.
pub async fn run(call: &StepCall<'_>, cluster: &OpenBaoCluster, to: &UpgradeDirective) -> StepOutcome {
    let (mut facts, members) = manager::look(call.ad, cluster).await;
    let by = call.state.resumed_by.as_deref();
    if let Some(outcome) = judge(call.op, cluster, &facts, to, by) {
        return outcome;
    }
    if let Some(waits) = guest::before_cutover(call).await {
        return waits;
    }
    // Only once nothing else is awaited: to ask costs a login.
    facts.votes = votes::Asked::default().who(call, cluster, &members).await;
    judge(call.op, cluster, &facts, to, by)
        .unwrap_or_else(|| StepOutcome::done_with([("resumedBy", by.unwrap_or_default())]))
}

/// What a look comes to. `None`: it was told to go on, and nothing that is seen keeps it.
fn judge(
    op: &OpenBaoOperation,
    cluster: &OpenBaoCluster,
    facts: &Facts,
    to: &UpgradeDirective,
    resumed_by: Option<&str>,
) -> Option<StepOutcome> {
    // The old leader was lost and a new server leads: what is left of the old version must not win an election now. Nobody waits for
    // that, whatever else is awaited.
    if let Some(leads) = steps::leads_on(facts, to) {
        return Some(StepOutcome::done_with([(request::UNPLANNED_CUTOVER, leads)]));
    }
    if resumed_by.is_none() {
        return Some(parked(op, cluster));
    }
    // Leadership moves next, and the old leader is replaced.
    if let Some(waits) = paused(Some(cluster)) {
        return Some(waits);
    }
    let why = cluster.obstacle().map(str::to_owned).or_else(|| cutover::hindrance_after_park(facts, to))?;
    Some(StepOutcome::in_progress(format!("leadership does not move yet, as {why}; a Cancel turns back")))
}

fn parked(op: &OpenBaoOperation, cluster: &OpenBaoCluster) -> StepOutcome {
    // The members before this one may take their time.
    let unlimited = Park::of(op, cluster) == Some(Park::Ordered);
    let ends = if unlimited { String::new() } else { format!(", which it does by itself after {PARKED_DAYS} days") };
    let paused = if cluster.spec.paused {
        let name = cluster.name_any();
        format!(". OpenBaoCluster {name} is paused: its leadership does not move before its spec.paused is false")
    } else {
        String::new()
    };
    let reason = format!(
        "parked with all standbys upgraded: add a Resume to spec.requests of {} to move leadership, or a Cancel to turn \
         back{ends}{paused}",
        op.name_any()
    );
    StepOutcome::Parked { reason, unlimited }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::openbao::HealthState,
        api::{OpenBaoClusterSpec, OpenBaoClusterStatus, OpenBaoOperationSpec, UpgradeStatus},
        service::upgrade::steps::{PodFacts, Votes},
    };

    fn goal() -> UpgradeDirective {
        UpgradeDirective { version: "2.7.2".into(), image: "bao:2.7.2".into() }
    }

    /// Three members, `kelp-0` leading on the old version, the others on the new one.
    fn prepared() -> Facts {
        let pod = |ordinal: usize, version: &str, state| PodFacts {
            name: format!("kelp-{ordinal}"),
            ready: true,
            image: format!("bao:{version}"),
            state: Some(state),
            version: Some(version.into()),
            applied: Some(100),
            ..PodFacts::default()
        };
        let follows = HealthState::Standby;
        Facts {
            pods: vec![pod(0, "2.6.1", HealthState::Active), pod(1, "2.7.2", follows), pod(2, "2.7.2", follows)],
            replicas: 3,
            leader: Some("kelp-0".into()),
            committed: Some(100),
            template: Some("bao:2.7.2".into()),
            tolerance: Some(1),
            ..Facts::default()
        }
    }

    fn operation(park: &str) -> OpenBaoOperation {
        let mut operation = OpenBaoOperation::new("kelp-upgrade", OpenBaoOperationSpec::default());
        operation.spec.parameters.insert(request::PARK.to_owned(), park.to_owned());
        operation
    }

    fn cluster(paused: bool) -> OpenBaoCluster {
        let mut cluster = OpenBaoCluster::new("kelp", OpenBaoClusterSpec::default());
        cluster.spec.paused = paused;
        cluster
    }

    fn waits(outcome: Option<StepOutcome>) -> Option<String> {
        match outcome {
            Some(StepOutcome::Waiting { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn it_stays_parked_until_somebody_says_resume_and_names_the_end_of_that() {
        let parked =
            |park: &str, paused: bool| match judge(&operation(park), &cluster(paused), &prepared(), &goal(), None) {
                Some(StepOutcome::Parked { reason, unlimited }) => (reason, unlimited),
                other => panic!("{other:?}"),
            };
        let (reason, unlimited) = parked("manual", false);
        assert!(!unlimited && reason.contains("Resume") && reason.contains("14 days"), "{reason}");
        let (reason, unlimited) = parked("ordered", false);
        assert!(unlimited && !reason.contains("14 days"), "{reason}");
        assert!(!reason.contains("paused"), "{reason}");
        assert!(parked("ordered", true).0.contains("spec.paused"), "a pause is told of");
    }

    #[test]
    fn a_resume_moves_leadership_only_while_the_cluster_is_not_paused_and_bears_the_loss_of_its_leader() {
        let resumed = |paused: bool, edit: fn(&mut Facts)| {
            let mut facts = prepared();
            edit(&mut facts);
            judge(&operation("ordered"), &cluster(paused), &facts, &goal(), Some("ops"))
        };
        assert_eq!(resumed(false, |_| {}), None, "nothing keeps it");
        assert!(waits(resumed(true, |_| {})).is_some_and(|why| why.contains("spec.paused")));
        type Spoil = fn(&mut Facts);
        let cases: [(&str, Spoil); 5] = [
            ("kelp-2 does not serve", |facts| facts.pods[2].state = None),
            ("2 of 3 pods", |facts| facts.pods.truncate(2)),
            ("no leader", |facts| facts.leader = None),
            ("bear no failure", |facts| facts.tolerance = Some(0)),
            ("kelp-2 does not vote", |facts| {
                facts.votes = Votes::Known(["kelp-0", "kelp-1"].map(str::to_owned).into());
            }),
        ];
        for (words, edit) in cases {
            let why = waits(resumed(false, edit));
            assert!(why.as_ref().is_some_and(|why| why.contains(words) && why.contains("Cancel")), "{words}: {why:?}");
        }
        let upgrade = UpgradeStatus { obstacle: Some("Secret mine is gone".into()), ..UpgradeStatus::default() };
        let status = OpenBaoClusterStatus { upgrade: Some(upgrade), ..OpenBaoClusterStatus::default() };
        let hindered = OpenBaoCluster { status: Some(status), ..cluster(false) };
        let why = waits(judge(&operation("manual"), &hindered, &prepared(), &goal(), Some("ops")));
        assert!(why.as_ref().is_some_and(|why| why.contains("Secret mine")), "{why:?}");
    }

    #[test]
    fn a_new_server_that_leads_ends_the_wait_at_once_before_and_after_a_resume_and_on_a_paused_cluster() {
        let mut facts = prepared();
        facts.pods[0].state = None;
        facts.pods[1].state = Some(HealthState::Active);
        facts.leader = Some("kelp-1".into());
        for (resumed_by, paused) in [(None, false), (Some("ops"), false), (Some("ops"), true), (None, true)] {
            let outcome = judge(&operation("manual"), &cluster(paused), &facts, &goal(), resumed_by);
            let leads = format!("kelp-1 leads on {}", goal().version);
            let done = StepOutcome::done_with([(request::UNPLANNED_CUTOVER, leads)]);
            assert_eq!(outcome, Some(done), "{resumed_by:?} {paused}");
        }
    }
}
