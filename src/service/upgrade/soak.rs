//! Watching the new version before the upgrade counts as done: for the whole time every member serves it, one leads, and none is
//! started anew. Whatever breaks that begins the time again; how long in all is bounded by the step's deadline. A server that does
//! not start for a while ends it sooner: nobody can cancel any more, and a rollback waits for the end. A restart of the operator
//! breaks nothing: what it did not see itself it takes from Kubernetes.

use super::{
    manager::look,
    steps::{self, Facts, Turn},
};
use crate::{
    adapter::kubernetes::time::from_kube,
    api::{OpenBaoCluster, UpgradeDirective, duration},
    service::{
        cluster::build::statefulset::CONTAINER,
        opslifecycle::{
            StepCall, StepOutcome,
            saga::plan::{LONGEST as LONGEST_STEP, timeout},
        },
    },
};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Config of the step: how long.
pub const PERIOD: &str = "period";

/// How much longer than twice its period the step may take: so long a person has to mend what is not well, and then the whole time
/// is still left.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// No step may take longer than a month, and a day to mend something is always left.
const LONGEST: Duration = LONGEST_STEP.saturating_sub(PATIENCE);

/// How long a server may go without starting. A server that dies again and again looks well between two deaths, and Kubernetes
/// waits five minutes at most before it starts it anew: what comes back within this time is the same trouble.
const STUCK: Duration = Duration::from_secs(600);

/// Within one call it looks this often, and for so long.
const PACE: Duration = Duration::from_secs(1);
const LINGER: Duration = Duration::from_secs(10);

/// Since when all has been well.
#[derive(Clone, Debug, PartialEq)]
struct Well {
    since: Instant,
    /// Of each server its pod's UID, and how often its container was started anew.
    servers: Vec<(String, i32)>,
}

/// What a look came to.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    Well(Well),
    NotWell,
}

/// A server that does not start, by its pod's UID.
#[derive(Clone, Debug, PartialEq)]
struct Stuck {
    uid: String,
    since: Instant,
    seen: Instant,
}

/// What is known of one upgrade.
#[derive(Clone, Debug, Default)]
struct Watched {
    found: Option<Found>,
    stuck: Vec<Stuck>,
}

/// What this process has found last of the upgrades that are being watched, by the operation's UID. A restart of the operator loses
/// it: then Kubernetes' word counts.
#[derive(Debug, Default)]
pub struct Watches(Mutex<HashMap<String, Watched>>);

impl Watches {
    fn of(&self, uid: &str) -> Watched {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned().unwrap_or_default()
    }

    fn keep(&self, uid: &str, found: Option<Found>, stuck: Vec<Stuck>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), Watched { found, stuck });
    }

    /// Forgets an upgrade that is over.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// The step's deadline, for that period.
pub fn deadline(period: &str) -> String {
    duration::format(read(period).saturating_mul(2).saturating_add(PATIENCE).min(LONGEST_STEP))
}

/// Why nobody can watch for so long, if that is so.
pub fn too_long(period: &str) -> Option<String> {
    (read(period) > LONGEST).then(|| {
        format!(
            "spec.upgrade.soak is {period}, and an upgrade is watched for {} at most: shorten it, and this one begins",
            duration::format(LONGEST)
        )
    })
}

fn read(period: &str) -> Duration {
    duration::parse(period).unwrap_or_default()
}

/// How often the server's container was started anew.
pub fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.filter(|container| container.name == CONTAINER).map(|container| container.restart_count).sum()
}

/// Since when a server is up: its container was started, and it became Ready. `None` while it is not.
pub fn up_since(pod: &Pod) -> Option<DateTime<Utc>> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().find(|container| container.name == CONTAINER)?;
    let started = container.state.as_ref()?.running.as_ref()?.started_at.as_ref()?;
    let ready = status.conditions.iter().flatten().find(|one| one.type_ == "Ready" && one.status == "True")?;
    Some(from_kube(started).max(from_kube(ready.last_transition_time.as_ref()?)))
}

/// For how long all may have been well unwatched: since the step began, and since the last server is up.
fn unwatched(facts: &Facts, begun: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Duration {
    let since = begun.and_then(|begun| {
        facts.pods.iter().map(|pod| pod.up_since).try_fold(begun, |latest, up| Some(latest.max(up?)))
    });
    since.and_then(|since| (now - since).to_std().ok()).unwrap_or_default()
}

/// Looks, and goes on looking while little is left.
pub async fn run(
    call: &StepCall<'_>,
    cluster: &OpenBaoCluster,
    to: &UpgradeDirective,
    watches: &Watches,
) -> StepOutcome {
    let uid = call.op.uid().unwrap_or_default();
    let period = call.step.config.get(PERIOD).map(|period| read(period)).unwrap_or_default();
    let watching =
        || StepOutcome::in_progress(format!("{} leads; watching it for {}", to.version, duration::format(period)));
    let linger = call.turns.linger(LINGER + PACE);
    let mut doubted = false;
    loop {
        let (facts, _) = look(call.ad, cluster).await;
        let unwatched = unwatched(&facts, call.state.started_at, call.now);
        let Watched { found, stuck } = watches.of(&uid);
        let stuck = not_starting(&stuck, &facts, Instant::now());
        if let Some(message) = hopeless(&stuck, &facts, to) {
            return StepOutcome::fatal("PodNotStarting", message);
        }
        let pause = match seen(found.clone(), &facts, to, Instant::now(), unwatched) {
            Ok(well) => {
                let left = period.saturating_sub(well.since.elapsed());
                watches.keep(&uid, Some(Found::Well(well)), stuck);
                if left.is_zero() {
                    return StepOutcome::done();
                }
                if left > LINGER {
                    return watching();
                }
                doubted = false;
                left.min(PACE)
            }
            // One question without an answer is no trouble yet.
            Err(_) if !doubted => {
                watches.keep(&uid, found, stuck);
                doubted = true;
                PACE
            }
            Err(why) => {
                watches.keep(&uid, Some(Found::NotWell), stuck);
                let most = duration::format(timeout(call.step));
                return StepOutcome::in_progress(format!(
                    "{why}; from when all is well again, it is to stay so for {}, within {most} in all",
                    duration::format(period)
                ));
            }
        };
        // A doubt is settled at once, or nobody would ever hear of what is not well.
        let goes_on = if doubted { linger.hold(pause).await } else { linger.pause(pause).await };
        if !goes_on {
            return watching();
        }
    }
}

/// The servers that do not start, with what is known of them from before.
fn not_starting(before: &[Stuck], facts: &Facts, now: Instant) -> Vec<Stuck> {
    let known = |uid: &str| before.iter().find(|known| known.uid == uid && now - known.seen < STUCK);
    let stuck = facts.pods.iter().filter_map(|pod| match (&pod.trouble, known(&pod.uid)) {
        (Some(_), known) => {
            Some(Stuck { uid: pod.uid.clone(), since: known.map_or(now, |known| known.since), seen: now })
        }
        (None, known) => known.cloned(),
    });
    stuck.collect()
}

/// What there is to say of a server that does not start now, and has not for too long.
fn hopeless(stuck: &[Stuck], facts: &Facts, to: &UpgradeDirective) -> Option<String> {
    let (pod, reason, message) = facts.pods.iter().find_map(|pod| {
        let (reason, message) = pod.trouble.as_ref()?;
        let long = stuck.iter().any(|known| known.uid == pod.uid && known.seen - known.since >= STUCK);
        long.then_some((&pod.name, reason, message))
    })?;
    Some(format!(
        "pod {pod} with image {} has not come up for {}: {reason}: {message}",
        to.image,
        duration::format(STUCK)
    ))
}

/// One look: since when all is well, or what is not. Where nobody looked before, it may have been well for as long as `unwatched`.
fn seen(
    before: Option<Found>,
    facts: &Facts,
    to: &UpgradeDirective,
    now: Instant,
    unwatched: Duration,
) -> Result<Well, String> {
    if let Turn::Wait(why) = steps::finished(facts, to) {
        return Err(why);
    }
    let servers = facts.pods.iter().map(|pod| (pod.uid.clone(), pod.restarts)).collect();
    match before {
        Some(Found::Well(before)) if before.servers == servers => Ok(before),
        Some(_) => Ok(Well { since: now, servers }),
        None => Ok(Well { since: now.checked_sub(unwatched).unwrap_or(now), servers }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{adapter::openbao::HealthState, service::upgrade::steps::PodFacts};
    use chrono::TimeDelta;
    use serde_json::json;

    fn goal() -> UpgradeDirective {
        UpgradeDirective { version: "2.7.2".into(), image: "bao:2.7.2".into() }
    }

    /// Three members of the new version, of which `kelp-1` leads.
    fn upgraded() -> Facts {
        let pod = |ordinal: usize| PodFacts {
            name: format!("kelp-{ordinal}"),
            uid: format!("uid-{ordinal}"),
            ready: true,
            image: "bao:2.7.2".into(),
            state: Some(if ordinal == 1 { HealthState::Active } else { HealthState::Standby }),
            version: Some("2.7.2".into()),
            ..PodFacts::default()
        };
        Facts { pods: (0..3).map(pod).collect(), replicas: 3, leader: Some("kelp-1".into()), ..Facts::default() }
    }

    /// The next look of a process that found all well.
    fn again(well: &Well, facts: &Facts, now: Instant) -> Result<Well, String> {
        seen(Some(Found::Well(well.clone())), facts, &goal(), now, Duration::ZERO)
    }

    #[test]
    fn the_time_is_counted_from_when_all_were_last_not_well() {
        let begun = Instant::now();
        let later = |seconds: u64| begun + Duration::from_secs(seconds);
        let well = seen(None, &upgraded(), &goal(), begun, Duration::ZERO).unwrap();
        assert_eq!(again(&well, &upgraded(), later(20)).unwrap().since, begun);
        let cases: [fn(&mut Facts); 5] = [
            |facts| facts.pods[0].state = Some(HealthState::Sealed),
            |facts| facts.pods[2].state = None,
            |facts| facts.pods[2].version = Some("2.6.1".into()),
            |facts| facts.leader = None,
            |facts| facts.pods.truncate(2),
        ];
        for (index, spoil) in cases.into_iter().enumerate() {
            let mut worse = upgraded();
            spoil(&mut worse);
            assert!(again(&well, &worse, later(20)).is_err(), "case {index}");
        }
        let mended = seen(Some(Found::NotWell), &upgraded(), &goal(), later(30), Duration::from_secs(30)).unwrap();
        assert_eq!(mended.since, later(30), "what was is forgotten, whatever Kubernetes did not notice");
    }

    #[test]
    fn what_an_operator_that_was_started_anew_has_not_seen_is_counted_as_far_as_kubernetes_remembers() {
        let at = |hour: i64| DateTime::<Utc>::UNIX_EPOCH + TimeDelta::hours(hour);
        let mut facts = upgraded();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        for pod in &mut facts.pods {
            pod.up_since = Some(at(1));
        }
        assert_eq!(unwatched(&facts, Some(at(3)), at(10)), hours(7), "not before the step began");
        facts.pods[2].up_since = Some(at(8));
        assert_eq!(unwatched(&facts, Some(at(3)), at(10)), hours(2), "one was started anew meanwhile");
        facts.pods[0].up_since = None;
        assert_eq!(unwatched(&facts, Some(at(3)), at(10)), Duration::ZERO, "one is not up");
        assert_eq!(unwatched(&upgraded(), None, at(10)), Duration::ZERO);

        let now = Instant::now();
        let well = seen(None, &upgraded(), &goal(), now, Duration::from_secs(20)).unwrap();
        assert_eq!(well.since, now.checked_sub(Duration::from_secs(20)).unwrap());
    }

    #[test]
    fn a_server_is_up_since_its_container_was_started_and_it_became_ready() {
        let pod = |started: &str, ready: &str, is: &str| -> Pod {
            let state = json!({"running": {"startedAt": started}});
            let mut container =
                json!({"name": CONTAINER, "ready": true, "image": "", "imageID": "", "restartCount": 0});
            container["state"] = state;
            let ready = json!({"type": "Ready", "status": is, "lastTransitionTime": ready});
            let status = json!({"containerStatuses": [container], "conditions": [ready]});
            serde_json::from_value(json!({"metadata": {"name": "kelp-0"}, "status": status})).unwrap()
        };
        let (early, late) = ("2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z");
        assert_eq!(up_since(&pod(early, late, "True")), Some(late.parse().unwrap()));
        assert_eq!(up_since(&pod(late, early, "True")), Some(late.parse().unwrap()));
        assert_eq!(up_since(&pod(early, late, "False")), None);
        assert_eq!(up_since(&Pod::default()), None);
    }

    #[test]
    fn a_server_that_crashed_between_two_looks_begins_the_time_anew() {
        let begun = Instant::now();
        let later = begun + Duration::from_secs(20);
        let well = seen(None, &upgraded(), &goal(), begun, Duration::ZERO).unwrap();
        let mut crashed = upgraded();
        crashed.pods[2].restarts = 1;
        assert_eq!(again(&well, &crashed, later).unwrap().since, later);
        let mut replaced = upgraded();
        replaced.pods[2].uid = "another".into();
        assert_eq!(again(&well, &replaced, later).unwrap().since, later);
    }

    #[test]
    fn a_server_that_does_not_start_for_ten_minutes_ends_the_watching_however_well_it_looks_between_two_deaths() {
        let begun = Instant::now();
        let later = |minutes: u64| begun + Duration::from_secs(60 * minutes);
        let mut dies = upgraded();
        dies.pods[2].trouble = Some(("CrashLoopBackOff".into(), "out of memory".into()));
        let mut stuck = vec![];
        let mut told = |facts: &Facts, minutes: u64| {
            stuck = not_starting(&stuck, facts, later(minutes));
            hopeless(&stuck, facts, &goal())
        };
        assert_eq!(told(&dies, 0), None);
        assert_eq!(told(&upgraded(), 2), None, "for a moment it serves");
        assert_eq!(told(&dies, 6), None);
        let why = told(&dies, 10).expect("it goes on dying");
        assert!(why.contains("kelp-2") && why.contains("out of memory") && why.contains("10m"), "{why}");
        assert_eq!(told(&upgraded(), 11), None, "it may have been mended");
        assert_eq!(told(&dies, 30), None, "after so long it is another trouble");
        let mut replaced = dies.clone();
        replaced.pods[2].uid = "another".into();
        assert_eq!(told(&replaced, 39), None, "another pod");
    }

    #[test]
    fn only_the_servers_own_restarts_are_counted() {
        fn container(name: &str, count: i32) -> serde_json::Value {
            json!({"name": name, "ready": true, "image": "", "imageID": "", "restartCount": count})
        }
        let statuses = [container("mesh", 7), container(CONTAINER, 2)];
        let pod = json!({"metadata": {"name": "kelp-0"}, "status": {"containerStatuses": statuses}});
        assert_eq!(restarts(&serde_json::from_value(pod).unwrap()), 2);
        assert_eq!(restarts(&Pod::default()), 0);
    }

    #[test]
    fn the_deadline_is_later_than_the_time_itself_and_what_no_step_can_last_is_told() {
        for (period, expected) in [("1s", "24h2s"), ("7d", "15d"), ("29d", "30d")] {
            let deadline = duration::parse(&deadline(period)).unwrap();
            assert_eq!(deadline, read(expected), "{period}: begun anew after all of it, it can still come to its end");
            assert!(deadline > read(period) && deadline <= LONGEST_STEP, "{period}: {deadline:?}");
            assert_eq!(too_long(period), None);
        }
        let why = too_long("30d").unwrap();
        assert!(why.contains("spec.upgrade.soak is 30d") && why.contains("29d"), "{why}");
    }
}
