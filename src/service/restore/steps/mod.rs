//! The steps of a restore, one file each. Every one is level-triggered: called again after a crash at any point, it looks
//! at what is there and goes on.

pub mod access;
pub mod away;
pub mod ending;
pub mod evidence;
pub mod healthy;
pub mod judge;
pub mod marker;
pub mod preflight;
pub mod proof;
pub mod restart;
pub mod safety;
pub mod spread;
pub mod submit;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::mover::{MoverError, Movers};
use super::plan::{InputError, Inputs};
use crate::adapter::openbao::Token;
use crate::api::OpenBaoCluster;
use crate::causes::chain;
use crate::service::cluster::members::Member;
use crate::service::cluster::observe;
use crate::service::cluster::{headcount, names, upkeep};
use crate::service::opslifecycle::manager::{StepCall, StepOutcome};

/// How long one call watches the servers before the engine has its turn.
const LINGER: Duration = Duration::from_secs(10);

/// A token that is refused this long after it was minted may have run out by itself: then the refusal proves nothing.
/// Below the ten minutes that the operator's role grants.
const WITNESS_LIFE: TimeDelta = TimeDelta::minutes(8);
/// How many tokens are kept at most: far more than restores are ever under way in one process.
const WITNESSES: usize = 256;

/// What this process alone knows of submissions, by operation UID. A restart of the operator loses it: then the marker is
/// the only proof, and what is counted from a first sight is counted anew, so that forgetting costs time and nothing else.
#[derive(Debug, Default)]
pub struct Witnesses(Mutex<HashMap<String, Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Minted right before the submission.
    token: Option<(Token, DateTime<Utc>)>,
    /// What was seen, and when for the first time.
    seen: HashMap<Sight, Instant>,
    /// The UID of the newest mover's Job when an attempt of a step was first looked at.
    began: HashMap<(String, i32), String>,
}

/// What time is counted from. Others could say when it happened, by clocks of their own; see [`super::decide::prove`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// A permit stands, in this attempt.
    Permit(i32),
    /// This pod has claimed the submission.
    Claim(String),
    /// The POST of the pod that claimed is over.
    Over(String),
    /// Servers have to be restarted, in the step that began then.
    Harm(Option<DateTime<Utc>>),
    /// All that could be helped by it were restarted, the last one then.
    Restarted(DateTime<Utc>),
    /// The mover of the Job with this UID has failed.
    Ended(String),
}

impl Witnesses {
    /// The entry of that operation, made if there is none.
    fn of<T>(&self, operation_uid: &str, act: impl FnOnce(&mut Known) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= WITNESSES && !all.contains_key(operation_uid) {
            all.clear();
        }
        act(all.entry(operation_uid.to_owned()).or_default())
    }

    pub fn keep(&self, operation_uid: &str, token: Token, now: DateTime<Utc>) {
        self.of(operation_uid, |known| known.token = Some((token, now)));
    }

    pub fn get(&self, operation_uid: &str, now: DateTime<Utc>) -> Option<Token> {
        // Asking makes no entry: it must never be the one too many that clears the others.
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, minted) = all.get(operation_uid)?.token.as_ref()?;
        (now - *minted < WITNESS_LIFE).then(|| token.clone())
    }

    /// When this was first seen, `now` being one such time.
    pub fn since(&self, operation_uid: &str, sight: Sight, now: Instant) -> Instant {
        self.of(operation_uid, |known| *known.seen.entry(sight).or_insert(now))
    }

    /// Whether the newest mover's Job, by its UID, was made after the attempt was first looked at. The clocks of pods, API server
    /// and operator differ: none of them is asked.
    pub fn is_since(&self, operation_uid: &str, step: &str, attempt: i32, job: &str) -> bool {
        self.of(operation_uid, |known| {
            known.began.entry((step.to_owned(), attempt)).or_insert_with(|| job.to_owned()).as_str() != job
        })
    }

    pub fn forget(&self, operation_uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(operation_uid);
    }
}

/// What every step works with.
#[derive(Debug)]
pub struct Step<'a> {
    pub call: StepCall<'a>,
    pub inputs: Inputs,
    pub movers: Movers,
    pub witnesses: &'a Witnesses,
    /// The operation's UID.
    pub uid: String,
}

impl<'a> Step<'a> {
    pub fn new(call: StepCall<'a>, witnesses: &'a Witnesses) -> Result<Self, StepOutcome> {
        let inputs = Inputs::from_map(call.inputs).map_err(|error| unplanned(&error))?;
        let movers = Movers::of(&call.ad.client, call.op).map_err(|error| trouble(&error))?;
        let uid = call.op.uid().unwrap_or_default();
        Ok(Self { call, inputs, movers, witnesses, uid })
    }

    /// The cluster that the restore was made for; a namesake made since is another one.
    pub fn cluster(&self) -> Result<&'a OpenBaoCluster, StepOutcome> {
        match self.call.cluster {
            Some(cluster) if cluster.uid().as_deref() == Some(&self.inputs.cluster_uid) => Ok(cluster),
            Some(cluster) => Err(StepOutcome::fatal(
                "ClusterReplaced",
                format!("OpenBaoCluster {} was deleted and created again during the restore", cluster.name_any()),
            )),
            None => Err(StepOutcome::fatal("ClusterGone", "the OpenBaoCluster was deleted during the restore")),
        }
    }

    /// Whether what the servers hold is gone, or about to go: a rollback wipes them first. A restore changes nothing before it submits.
    pub fn is_past_return(&self) -> bool {
        let since = self.call.op.status.as_ref().and_then(|status| status.point_of_no_return_at);
        self.inputs.onto.is_some() && since.is_some()
    }

    /// Why it ends here, and that nothing was changed where that is so.
    pub fn unchanged(&self, why: &str) -> String {
        unchanged(why, self.is_past_return())
    }

    /// How many servers there are while the snapshot is submitted and taken over: a rollback restores into one.
    pub fn servers(&self, cluster: &OpenBaoCluster) -> i32 {
        if self.inputs.onto.is_some() { 1 } else { self.all_servers(cluster) }
    }

    /// How many servers the cluster has, as last seen.
    pub fn all_servers(&self, cluster: &OpenBaoCluster) -> i32 {
        wanted_servers(self.stateful_set(cluster).as_deref(), cluster.spec.replicas)
    }

    /// The server pods, by UID, that would have other settings if they were made again, as last seen.
    pub fn outdated(&self, cluster: &OpenBaoCluster) -> BTreeSet<String> {
        let pods = self.call.ad.caches.pods_of(&cluster.namespace().unwrap_or_default(), &cluster.name_any());
        upkeep::outdated(self.stateful_set(cluster).as_deref(), &pods)
    }

    fn stateful_set(&self, cluster: &OpenBaoCluster) -> Option<Arc<StatefulSet>> {
        let name = names::statefulset(&cluster.name_any());
        let set = ObjectRef::new(&name).within(&cluster.namespace().unwrap_or_default());
        self.call.ad.caches.stateful_sets.get(&set)
    }

    pub async fn members(&self, cluster: &OpenBaoCluster) -> Vec<Member> {
        observe::members(self.call.ad, cluster).await
    }
}

/// What is said of a way that ends, `past_return` or before.
fn unchanged(why: &str, past_return: bool) -> String {
    if past_return { why.to_owned() } else { format!("{why}. Nothing was changed") }
}

/// How many servers are waited for. A changed `spec.replicas` is carried out once the lock is free again, so nobody makes the pods
/// that it asks for, and none of those that it does not ask for goes. Those whom somebody scaled away come back.
fn wanted_servers(set: Option<&StatefulSet>, spec: i32) -> i32 {
    set.and_then(headcount::of).and_then(|there| i32::try_from(there).ok()).unwrap_or(spec)
}

/// The server pods as they are, by name, with their UIDs.
pub fn servers(members: &[Member]) -> BTreeMap<String, String> {
    members.iter().map(|member| (member.name.clone(), member.uid.clone())).collect()
}

/// The same for a step's output: `name=uid`, comma separated.
pub fn record_pods(members: &[Member]) -> String {
    let pods: Vec<String> = members.iter().map(|member| format!("{}={}", member.name, member.uid)).collect();
    pods.join(",")
}

/// The pods as they were when [`record_pods`] wrote them down.
pub fn recorded_pods(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, uid)| (name.to_owned(), uid.to_owned())).collect()
}

fn unplanned(error: &InputError) -> StepOutcome {
    StepOutcome::fatal("PlanUnreadable", error.to_string())
}

/// Trouble with the API server passes; a state that somebody else made does not.
pub fn trouble(error: &MoverError) -> StepOutcome {
    let text = chain(error);
    if error.is_final() {
        StepOutcome::fatal("MoverUnusable", text)
    } else {
        StepOutcome::in_progress(format!("trying again: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_pods_read_back() {
        let pods = recorded_pods("kelp-0=u0,kelp-1=u1");
        assert_eq!(pods["kelp-1"], "u1");
        assert_eq!(pods.len(), 2);
        assert!(recorded_pods("").is_empty());
    }

    #[test]
    fn servers_that_are_only_asked_for_are_not_waited_for_while_the_lock_is_held() {
        let set: StatefulSet = serde_json::from_value(serde_json::json!({
            "spec": {"replicas": 3, "selector": {}, "serviceName": "s", "template": {"metadata": {}}}
        }))
        .unwrap();
        for asked in [1, 3, 5] {
            assert_eq!(wanted_servers(Some(&set), asked), 3, "there are three, and {asked} are asked for");
        }
        assert_eq!(wanted_servers(None, 5), 5);
    }

    #[test]
    fn servers_that_somebody_scaled_away_are_waited_for() {
        let set: StatefulSet = serde_json::from_value(serde_json::json!({
            "metadata": {"annotations": {headcount::GIVEN: "3"}},
            "spec": {"replicas": 1, "selector": {}, "serviceName": "s", "template": {"metadata": {}}}
        }))
        .unwrap();
        assert_eq!(wanted_servers(Some(&set), 3), 3);
    }

    #[test]
    fn a_witness_that_may_have_run_out_bears_no_witness() {
        let witnesses = Witnesses::default();
        let now: DateTime<Utc> = "2026-11-21T03:00:00Z".parse().unwrap();
        witnesses.keep("u", Token::new("t"), now);
        assert!(witnesses.get("u", now + TimeDelta::minutes(7)).is_some());
        assert!(witnesses.get("u", now + TimeDelta::minutes(8)).is_none());
        witnesses.forget("u");
        assert!(witnesses.get("u", now).is_none());
    }

    #[test]
    fn asking_for_tokens_that_are_not_there_costs_nobody_his_own() {
        let witnesses = Witnesses::default();
        let now: DateTime<Utc> = "2026-11-21T03:00:00Z".parse().unwrap();
        witnesses.keep("u", Token::new("t"), now);
        for other in 0..=WITNESSES {
            assert!(witnesses.get(&format!("o{other}"), now).is_none());
        }
        assert!(witnesses.get("u", now).is_some());
    }

    #[test]
    fn what_is_seen_counts_from_the_first_time_and_anew_for_another_attempt_pod_or_operation() {
        let witnesses = Witnesses::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        assert_eq!(witnesses.since("u", Sight::Permit(1), now), now);
        assert_eq!(witnesses.since("u", Sight::Permit(1), later), now);
        assert_eq!(witnesses.since("u", Sight::Permit(2), later), later);
        assert_eq!(witnesses.since("v", Sight::Permit(1), later), later);
        assert_eq!(witnesses.since("u", Sight::Claim("m".into()), now), now);
        assert_eq!(witnesses.since("u", Sight::Over("m".into()), later), later, "the end of a POST is not its claim");
    }

    #[test]
    fn an_attempts_own_mover_is_the_one_that_was_made_after_its_first_look() {
        let witnesses = Witnesses::default();
        assert!(!witnesses.is_since("u", "Preflight", 1, ""), "there is none yet");
        assert!(witnesses.is_since("u", "Preflight", 1, "j1"));
        assert!(!witnesses.is_since("u", "Preflight", 2, "j1"), "it is the earlier attempt's");
        assert!(witnesses.is_since("u", "Preflight", 2, "j2"));
        assert!(!witnesses.is_since("u", "PlaceMarker", 1, "j2"));
        assert!(!witnesses.is_since("v", "Preflight", 1, "j1"));
        let restarted = Witnesses::default();
        assert!(!restarted.is_since("u", "Preflight", 2, "j2"), "not known any more: another one is made");
    }

    #[test]
    fn an_operator_that_was_restarted_counts_anew_and_never_from_earlier() {
        let (before, after) = (Witnesses::default(), Witnesses::default());
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        assert_eq!(before.since("u", Sight::Over("m".into()), now), now);
        assert_eq!(after.since("u", Sight::Over("m".into()), later), later);
        before.forget("u");
        assert_eq!(before.since("u", Sight::Over("m".into()), later), later);
    }

    #[test]
    fn a_resume_gives_servers_that_have_to_be_restarted_their_whole_time_again() {
        let witnesses = Witnesses::default();
        let began = |minute: i64| DateTime::from_timestamp(1_795_000_000 + minute * 60, 0);
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        assert_eq!(witnesses.since("u", Sight::Harm(began(0)), now), now);
        assert_eq!(witnesses.since("u", Sight::Harm(began(40)), later), later);
    }
}
