//! The end of a look: what it found becomes the cluster's status, if it says anything new, and when the next one is due.

use super::{
    autopilot::Open,
    bootstrap::{self, Stage},
    error::Error,
    facts::{Facts, MAX_MEMBERS},
    invalid::Invalid,
    login,
    members::Member,
    memory::Notes,
    names,
    pace::{self, LASTING, Worth},
    plane,
    planes::{self, Planes},
    requests,
    status::{self, observed::Observed},
    trouble::{TlsState, Trouble},
    validate::ValidatedCluster,
    volumes, way_in,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::events::{News, Severity},
    },
    api::{ClusterPhase, OpenBaoCluster, OpenBaoClusterSpec, OpenBaoClusterStatus, conditions::reason},
};
use chrono::Utc;
use kube::ResourceExt;
use std::time::Duration;
use tokio::time::Instant;

/// When nothing is under way.
const IDLE: Duration = Duration::from_secs(60);
/// While something is.
const BUSY: Duration = Duration::from_secs(2);
/// How often it is looked at then. Where servers give no answer each look takes a turn for two seconds, so they are asked ever less
/// often, down to the idle pace: what is cut off in a hundred clusters must not keep the healthy ones waiting.
const LASTING_PACE: Duration = Duration::from_secs(15);
/// Such a wait is this part of how long they have been silent.
const SILENCE_PART: u32 = 20;

/// What a look found and did.
#[derive(Default)]
pub(super) struct Acted {
    pub(super) troubles: Vec<Trouble>,
    pub(super) progress: Option<Trouble>,
    pub(super) stopped: Option<Trouble>,
    pub(super) tls: Option<TlsState>,
    pub(super) planes: Planes,
    pub(super) stage: Option<Stage>,
    pub(super) last_restart_at: Option<String>,
    /// The first start is under way, and will let nobody in.
    pub(super) lets_nobody_in: bool,
    /// Who serves and does not follow.
    pub(super) apart: Option<Trouble>,
    /// A network policy, of keeping a server from its start.
    pub(super) suspected: Option<Trouble>,
}

impl Acted {
    /// A look that knows where the cluster stands, and who decides what about it. What a restore brings lets people in as well.
    pub(super) fn at(stage: Stage, planes: Planes, spec: &OpenBaoClusterSpec) -> Self {
        let starts = stage == Stage::Bootstrapping && planes.pending_restore.is_none();
        Self { stage: Some(stage), planes, lets_nobody_in: starts && way_in::is_closed(spec), ..Self::default() }
    }

    /// What is still open about autopilot, or about volumes that grow. Whatever else is under way is told first.
    pub(super) fn adds(&mut self, open: Option<Open>) {
        match open {
            None => {}
            Some(Open::Waits(waits)) => self.progress = self.progress.take().or(Some(waits)),
            Some(Open::Refused(trouble)) => {
                self.stopped = self.stopped.take().or_else(|| Some(trouble.clone()));
                self.troubles.push(trouble);
            }
        }
    }

    pub(super) fn paused() -> Self {
        let paused = Trouble::new(reason::PAUSED, "spec.paused is true: nothing is changed");
        Self { progress: Some(paused), ..Self::default() }
    }

    /// Nothing is done before something is gone.
    pub(super) fn waits_for(remnant: String) -> Self {
        let waits = Trouble::new(reason::WAITING, remnant);
        Self {
            stage: Some(Stage::Bootstrapping),
            tls: Some(TlsState::Bad(waits.clone())),
            progress: Some(waits),
            ..Self::default()
        }
    }
}

/// Writes the status if it says anything new. Returns when to look again.
#[allow(clippy::too_many_arguments)] // everything a status speaks of
pub(super) async fn report(
    ad: &Adapters,
    notes: &mut Notes,
    cluster: &OpenBaoCluster,
    valid: &Result<ValidatedCluster, Invalid>,
    facts: &Facts,
    members: &[Member],
    acted: Acted,
    failure: Option<&Error>,
) -> Result<Duration, Error> {
    let before = cluster.status.clone().unwrap_or_default();
    let mut troubles = acted.troubles;
    let failed = failure.map(Error::trouble);
    let stopped = failed.clone().or(acted.stopped);
    troubles.extend(failed);
    troubles.extend(acted.apart);
    let beside = notes.policies.troubles().into_iter().chain(notes.exposure.troubles());
    let (beside, progress) = aside(&before, beside, acted.suspected, acted.progress);
    troubles.extend(beside);
    let known_tls = || before.conditions.iter().find(|known| known.type_ == crate::api::conditions::cluster::TLS_READY);
    let tls = acted.tls.unwrap_or_else(|| match known_tls() {
        Some(known) if known.status == "True" => TlsState::StillGood,
        _ if !cluster.spec.tls.enabled => TlsState::Off,
        _ => TlsState::Bad(Trouble::new(reason::WAITING, "not looked at yet")),
    });
    let uid = cluster.uid().unwrap_or_default();
    let root_token = facts.secret_text(&names::root_token_secret(&cluster.name_any()), "token");
    let command = root_token.map(|_| login::role_command(ad, cluster));
    let seen = Observed {
        cluster,
        spec: valid.as_ref(),
        members,
        stage: acted.stage.unwrap_or_else(|| bootstrap::stage(facts, &uid, before.initialized == Some(true), true)),
        tls,
        troubles,
        progress,
        stopped,
        voters: notes.voters.as_ref().map(|(_, raft)| &raft.voters),
        behind: notes.apart.behind(),
        settled: notes.apart.is_settled(),
        current_version: acted.planes.current_version.as_deref(),
        upgrading: acted.planes.upgrading.as_ref(),
        handled: &acted.planes.handled,
        lock_orphaned: requests::is_orphaned(ad, cluster),
        pending_restore: planes::pending_restore(ad, cluster),
        access: notes.access.clone(),
        last_restart_at: acted.last_restart_at.or_else(|| before.last_restart_at.clone()),
        volume_size: volumes::largest(&volumes::of(facts, notes.grows_since, Utc::now()))
            .map(|volume| volume.size.to_owned()),
        root_token: command.as_deref(),
        lets_nobody_in: acted.lets_nobody_in,
        missing: notes.exposure.missing(),
    };
    let next = status::build(&seen, Utc::now());
    let busy = is_busy(&seen, &next, members);
    // Who starts for the first time is waited for, and what holds the lock goes on as soon as somebody answers.
    let waited_for = seen.stage == Stage::Bootstrapping || before.operation_lock.is_some();
    let mut later = None;
    let ago = |at: Option<Instant>| at.map(|at| at.elapsed());
    match pace::worth(&before, &next, ago(notes.status_written), ago(notes.status_changed)) {
        Worth::Nothing => {}
        Worth::Later(after) => later = Some(after),
        worth @ (Worth::Now | Worth::Moved) => {
            plane::write(&ad.client, cluster, &next).await?;
            notes.status_written = Some(Instant::now());
            if worth == Worth::Now {
                notes.status_changed = notes.status_written;
            }
            tell(ad, cluster, &before, &next).await;
        }
    }
    let changed = notes.status_changed.get_or_insert_with(Instant::now).elapsed();
    let wait = next_look(busy, changed, notes.silence().filter(|_| !waited_for));
    Ok([acted.planes.wake, later].into_iter().flatten().fold(wait, Duration::min))
}

/// What is told of what nothing of a cluster waits for, and of what is under way. A first start does not fail for the former: a wrong
/// version could not be corrected any more. But what it may hang on is told as what it is about.
fn aside(
    before: &OpenBaoClusterStatus,
    mut beside: impl Iterator<Item = Trouble>,
    suspected: Option<Trouble>,
    progress: Option<Trouble>,
) -> (Vec<Trouble>, Option<Trouble>) {
    let starts = before.initialized != Some(true) || before.phase == Some(ClusterPhase::Initializing);
    if starts {
        (Vec::new(), suspected.or_else(|| beside.next()).or(progress))
    } else {
        (suspected.into_iter().chain(beside).collect(), progress)
    }
}

/// When to look again at a cluster whose status has said the same since `changed`. `silence`: for how long those of its servers have
/// been silent that are.
fn next_look(busy: bool, changed: Duration, silence: Option<Duration>) -> Duration {
    match silence {
        _ if !busy => IDLE,
        Some(lasting) if lasting >= LASTING => (lasting / SILENCE_PART).clamp(LASTING_PACE, IDLE),
        None if changed >= LASTING => LASTING_PACE,
        Some(_) | None => BUSY,
    }
}

fn is_busy(seen: &Observed<'_>, next: &OpenBaoClusterStatus, members: &[Member]) -> bool {
    let wanted = usize::try_from(seen.cluster.spec.replicas).unwrap_or(1).min(MAX_MEMBERS as usize);
    let all_serve = members.iter().filter(|member| member.serves()).count() == wanted;
    let locked = seen.cluster.status.as_ref().is_some_and(|status| status.operation_lock.is_some());
    let all_vote = seen.voters.is_none_or(|voters| members.iter().all(|member| voters.contains(&member.name)));
    !seen.cluster.spec.paused
        && seen.spec.is_ok()
        && (seen.stage == Stage::Bootstrapping
            || !all_serve
            || locked
            || next.active_leader.is_none()
            || !all_vote
            || !seen.settled)
}

/// An event for what a person should look at, when it appears.
async fn tell(ad: &Adapters, cluster: &OpenBaoCluster, before: &OpenBaoClusterStatus, next: &OpenBaoClusterStatus) {
    for (reason, note) in status::news(before, next) {
        let news = News {
            severity: Severity::Warning,
            reason,
            action: "Reconcile".to_owned(),
            note,
            annotations: std::collections::BTreeMap::new(),
        };
        ad.events.publish(cluster, news).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::cluster;
    use serde_json::json;

    #[test]
    fn what_nothing_waits_for_is_told_of_a_cluster_that_has_started_and_fails_no_first_start() {
        let told = |initialized: bool, phase: Option<ClusterPhase>, suspected: bool| {
            let before =
                OpenBaoClusterStatus { initialized: Some(initialized), phase, ..OpenBaoClusterStatus::default() };
            let [refused, silent, starts] =
                ["APIServerUnknown", "NetworkSuspected", "Bootstrapping"].map(|reason| Trouble::new(reason, "words"));
            let (troubles, progress) =
                aside(&before, [refused].into_iter(), Some(silent).filter(|_| suspected), Some(starts));
            (troubles.iter().map(|trouble| trouble.reason).collect::<Vec<_>>(), progress.unwrap().reason)
        };
        for (initialized, phase) in [
            (false, None),
            (false, Some(ClusterPhase::Initializing)),
            (true, Some(ClusterPhase::Initializing)),
            // Something else had failed it.
            (false, Some(ClusterPhase::Failed)),
        ] {
            assert_eq!(told(initialized, phase, false), (vec![], "APIServerUnknown"), "{initialized} {phase:?}");
            assert_eq!(told(initialized, phase, true), (vec![], "NetworkSuspected"), "{initialized} {phase:?}");
        }
        for phase in [ClusterPhase::Running, ClusterPhase::Failed, ClusterPhase::BackingUp] {
            assert_eq!(told(true, Some(phase), false), (vec!["APIServerUnknown"], "Bootstrapping"), "{phase:?}");
            let all = vec!["NetworkSuspected", "APIServerUnknown"];
            assert_eq!(told(true, Some(phase), true), (all, "Bootstrapping"), "{phase:?}");
        }
    }

    #[test]
    fn a_cluster_is_told_that_nobody_gets_in_while_that_can_still_be_mended_and_no_restore_brings_somebody() {
        let closed = cluster(|_| {}).spec;
        let user = json!({"name": "u", "operation": "update", "path": "auth/userpass/users/u"});
        let open = cluster(|spec| spec["selfInit"]["requests"] = json!([user])).spec;
        for (stage, restore, spec, told) in [
            (Stage::Bootstrapping, None, &closed, true),
            (Stage::Bootstrapping, None, &open, false),
            (Stage::Bootstrapping, Some("pearl"), &closed, false),
            // Set up long ago; its requests may have been taken out of the spec since.
            (Stage::Bootstrapped, None, &closed, false),
        ] {
            let planes = Planes { pending_restore: restore.map(str::to_owned), ..Planes::default() };
            assert_eq!(Acted::at(stage, planes, spec).lets_nobody_in, told, "{stage:?} {restore:?}");
        }
        assert!(!Acted::waits_for("its volumes may stay".into()).lets_nobody_in, "it may have been set up long ago");
    }

    #[test]
    fn what_stays_silent_is_asked_ever_less_often() {
        let after = |minutes: u64| next_look(true, Duration::ZERO, Some(Duration::from_secs(60 * minutes))).as_secs();
        assert_eq!([0, 4, 5, 10, 20, 24 * 60].map(after), [2, 2, 15, 30, 60, 60]);
        let (short, long) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
        assert_eq!(next_look(true, short, None), BUSY);
        assert_eq!(next_look(true, long, None), LASTING_PACE, "whoever answers costs no time");
        assert_eq!(next_look(false, short, Some(short)), IDLE, "paused");
    }
}
