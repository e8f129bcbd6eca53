//! Each turn of a running upgrade, decided from what the pods say of themselves. Pure.

use super::versions;
use crate::{adapter::openbao::HealthState, api::UpgradeDirective, service::cluster::members};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;

/// The words by which a failed turning back says that the new version leads: see [`super::request::directive`].
pub const LEADS_ALREADY: &str = "already leads with";

/// One server pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its UID; deletions carry it.
    pub uid: String,
    /// Ready by Kubernetes.
    pub ready: bool,
    /// On its way out.
    pub terminating: bool,
    /// The image its container was made with.
    pub image: String,
    /// Its own word; `None` is silence.
    pub state: Option<HealthState>,
    /// The version of the binary that answered.
    pub version: Option<String>,
    /// Its applied raft index.
    pub applied: Option<u64>,
    /// Why its container does not run, if the kubelet says so: reason and message.
    pub trouble: Option<(String, String)>,
    /// How often the kubelet has started its container anew.
    pub restarts: i32,
    /// Since when it is up, by the kubelet's word: its container was started, and it became Ready. `None` while it is not.
    pub up_since: Option<DateTime<Utc>>,
    /// It was made from other settings than the `StatefulSet` carries by now.
    pub outdated: bool,
}

impl PodFacts {
    pub(super) fn serves(&self) -> bool {
        matches!(self.state, Some(HealthState::Active | HealthState::Standby))
    }

    /// It runs what `goal` says, by its own word and by its container.
    pub fn is_at(&self, goal: &UpgradeDirective) -> bool {
        !self.terminating && self.image == goal.image && self.says(&goal.version)
    }

    /// Its own word is that version.
    fn says(&self, version: &str) -> bool {
        self.version.as_deref().is_some_and(|own| versions::is_same(own, version))
    }
}

/// The whole picture at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Every server pod that exists.
    pub pods: Vec<PodFacts>,
    /// How many there should be.
    pub replicas: usize,
    /// The pod that leads, by the pods' own agreement.
    pub leader: Option<String>,
    /// The leader's committed index.
    pub committed: Option<u64>,
    /// The image that the `StatefulSet`'s template shows; `None` while it is not known.
    pub template: Option<String>,
    /// How many failures the cluster can bear, by its voters; `None` while nobody may ask.
    pub tolerance: Option<i32>,
    /// Who votes, asked where a step has to know it.
    pub votes: Votes,
    /// Why no server that is started anew would come back, in the words of the cluster's own look.
    pub obstacle: Option<String>,
}

/// Whose vote counts in raft.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Votes {
    /// Nobody asked, or nobody of ours may: then nobody waits for it.
    #[default]
    NotAsked,
    /// The leader gave no answer, and why.
    Unknown(String),
    /// The pods whose vote counts.
    Known(BTreeSet<String>),
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Delete this pod, with its UID.
    Delete {
        /// Its name.
        pod: String,
        /// Its UID.
        uid: String,
    },
    /// Ask this pod to give up leadership.
    StepDown {
        /// The leader on the old version.
        pod: String,
    },
    /// Nothing yet: what is awaited, and from whom.
    Wait(String),
    /// It cannot succeed.
    Fail {
        /// CamelCase.
        reason: &'static str,
        /// What happened to which pod, and what to do.
        message: String,
    },
    /// Done; what to put on record.
    Done(String),
    /// A new server leads though nobody asked the old one to give up: what is left is no longer done standby by standby.
    Overtaken(String),
}

impl Facts {
    /// The pod of that name.
    pub fn pod(&self, name: &str) -> Option<&PodFacts> {
        self.pods.iter().find(|pod| pod.name == name)
    }

    /// How many others must serve before a member is taken away: a majority, so that the cluster goes on without it. Of two
    /// members none can be spared, and the other one is all there is: it stands still until the first is back.
    fn others_needed(&self) -> usize {
        if self.replicas <= 2 { self.replicas.saturating_sub(1) } else { self.replicas / 2 + 1 }
    }

    /// How many serve beside this one.
    fn others_serving(&self, name: &str) -> usize {
        self.pods.iter().filter(|other| other.name != name && !other.terminating && other.serves()).count()
    }

    fn silent_or_sealed(&self) -> Option<&PodFacts> {
        self.pods.iter().find(|pod| pod.terminating || !pod.serves())
    }
}

/// Before anything is touched: every member there, serving and voting, and one of them leading.
pub fn gate(facts: &Facts) -> Turn {
    match settled(facts) {
        Turn::Done(record) => match facts.tolerance {
            Some(0) if facts.replicas > 2 => Turn::Wait(
                "not all members vote and follow yet, so the cluster can bear no failure: the first pod goes when it can"
                    .to_owned(),
            ),
            _ => Turn::Done(record),
        },
        other => other,
    }
}

/// Every member there, serving, and one of them leading.
pub(super) fn settled(facts: &Facts) -> Turn {
    if facts.pods.len() < facts.replicas {
        return Turn::Wait(format!("{} of {} pods exist", facts.pods.len(), facts.replicas));
    }
    if let Some(pod) = facts.silent_or_sealed() {
        return Turn::Wait(format!("pod {} does not serve: {}", pod.name, words(pod)));
    }
    match &facts.leader {
        Some(leader) => Turn::Done(format!("{} members serve, {leader} leads", facts.replicas)),
        None => Turn::Wait("the members agree on no leader".to_owned()),
    }
}

/// A standby's turn is over only while servers that start would come back: the next one may be the leader's, and from there no way
/// leads back.
pub fn unhindered(facts: &Facts, turn: Turn) -> Turn {
    match (&facts.obstacle, turn) {
        (Some(why), Turn::Done(record)) => Turn::Wait(format!("{record}; waiting, as {why}")),
        (_, turn) => turn,
    }
}

/// The template shows the goal.
pub fn template(facts: &Facts, goal: &UpgradeDirective) -> Turn {
    match &facts.template {
        Some(image) if *image == goal.image => Turn::Done(goal.image.clone()),
        Some(image) => Turn::Wait(format!("the StatefulSet shows {image}, not yet {}", goal.image)),
        None => Turn::Wait("the StatefulSet is not there".to_owned()),
    }
}

/// Turns back: the template shows the origin, and every pod that shows something else is replaced, also the one whose
/// step failed and which therefore has no undo of its own: it is done when that one, as all the others, serves again.
pub fn reverted(facts: &Facts, origin: &UpgradeDirective) -> Turn {
    if let Some(stuck) = leads_already(facts, origin) {
        return stuck;
    }
    match template(facts, origin) {
        Turn::Done(_) => {}
        other => return other,
    }
    match out_of_order(facts, origin).or_else(|| facts.pods.iter().find(|pod| pod.image != origin.image)) {
        Some(pod) => replaced(facts, origin, &pod.name),
        None => in_vain(facts, origin).unwrap_or_else(|| settled(facts)),
    }
}

/// [`reverted`], for one standby.
pub fn standby_reverted(facts: &Facts, origin: &UpgradeDirective, pod: &str) -> Turn {
    if let Some(stuck) = leads_already(facts, origin) {
        return stuck;
    }
    let first = out_of_order(facts, origin).map_or(pod, |broken| broken.name.as_str());
    replaced(facts, origin, first)
}

/// A server that shows something else than the origin and does not serve. It is put right before any that serves: as long as it
/// does not, none of those can be spared, and to replace it costs nothing.
fn out_of_order<'a>(facts: &'a Facts, origin: &UpgradeDirective) -> Option<&'a PodFacts> {
    facts.pods.iter().find(|pod| !pod.terminating && pod.image != origin.image && !pod.serves())
}

/// A fail-over put a new version in front before the planned moment: its data can no longer be led by the old one.
fn leads_already(facts: &Facts, origin: &UpgradeDirective) -> Option<Turn> {
    let leader = facts.leader.as_deref().and_then(|leader| facts.pod(leader))?;
    (leader.image != origin.image).then(|| Turn::Fail {
        reason: "LeadsAlready",
        message: format!(
            "pod {} {LEADS_ALREADY} {}: going back to {} would leave the cluster without a leader. Set spec.version to \
             the version that leads, or restore the backup taken before the upgrade",
            leader.name, leader.image, origin.version
        ),
    })
}

/// Replaces `pod` by one that runs `goal`, as a standby.
///
/// It is deleted only while the rest can lose it: one leader, and a quorum of other members that serve. It is done when
/// its own health names the goal's version, it follows, it is Ready, its log has caught up with the leader's, and it votes.
/// If `pod` itself leads by now, another one that still needs it (`instead`) is taken. If a new server leads, the old leader
/// was lost: there is no way back any more, and whatever is old must go soon.
pub fn standby(facts: &Facts, goal: &UpgradeDirective, pod: &str, instead: &[String]) -> Turn {
    if let Some(leads) = leads_on(facts, goal) {
        return Turn::Overtaken(leads);
    }
    if facts.leader.as_deref() == Some(pod) && !facts.pod(pod).is_some_and(|pod| pod.is_at(goal)) {
        let other = instead.iter().find(|other| {
            other.as_str() != pod && facts.pod(other).is_none_or(|other| !other.is_at(goal) || !caught_up(facts, other))
        });
        return match other {
            Some(other) => replaced(facts, goal, other),
            None => Turn::Done(format!("{pod} leads now and is the last to be replaced")),
        };
    }
    replaced(facts, goal, pod)
}

fn replaced(facts: &Facts, goal: &UpgradeDirective, name: &str) -> Turn {
    if let Some(again) = in_vain(facts, goal) {
        return again;
    }
    let Some(pod) = facts.pod(name) else {
        return Turn::Wait(format!("the StatefulSet has not made pod {name} again"));
    };
    if pod.terminating {
        return Turn::Wait(format!("pod {name} is stopping"));
    }
    if pod.image != goal.image {
        if facts.template.as_deref() != Some(goal.image.as_str()) {
            return template(facts, goal);
        }
        if facts.replicas > 1 && facts.others_serving(name) < facts.others_needed() {
            return Turn::Wait(format!("deleting pod {name} would cost the quorum: other members do not serve"));
        }
        // One that does not serve is missed by nobody.
        if let Some(why) = facts.obstacle.as_ref().filter(|_| pod.serves()) {
            return Turn::Wait(format!("pod {name} is not replaced, as {why}"));
        }
        return match facts.leader.as_deref() {
            None if facts.replicas > 1 => Turn::Wait("the members agree on no leader".to_owned()),
            _ => Turn::Delete { pod: pod.name.clone(), uid: pod.uid.clone() },
        };
    }
    if let Some((reason, message)) = &pod.trouble {
        return Turn::Fail {
            reason: "PodNotStarting",
            message: format!("pod {name} with image {} does not start: {reason}: {message}", goal.image),
        };
    }
    // Its container was made from the image that is wanted, so waiting changes nothing.
    if let Some(version) = pod.version.as_deref().filter(|_| pod.serves() && !pod.says(&goal.version)) {
        return Turn::Fail {
            reason: "WrongVersion",
            message: format!(
                "pod {name} runs image {}, and that is OpenBao {version}, not {}: let spec.image and spec.version agree",
                goal.image, goal.version
            ),
        };
    }
    if !pod.is_at(goal) || !pod.serves() {
        return Turn::Wait(format!("pod {name} does not serve {} yet: {}", goal.version, words(pod)));
    }
    if !pod.ready {
        return Turn::Wait(format!("pod {name} serves {} and is not Ready yet", goal.version));
    }
    if !caught_up(facts, pod) {
        return Turn::Wait(format!("pod {name} serves {} and catches up with the leader's log", goal.version));
    }
    match &facts.votes {
        Votes::NotAsked => Turn::Done(format!("{name} serves {}", goal.version)),
        Votes::Known(voters) if voters.contains(name) => {
            Turn::Done(format!("{name} serves {} and votes", goal.version))
        }
        Votes::Known(_) => Turn::Wait(format!("pod {name} serves {} and does not vote yet", goal.version)),
        Votes::Unknown(why) => {
            Turn::Wait(format!("pod {name} serves {}, and whether it votes is not known yet: {why}", goal.version))
        }
    }
}

/// A server that was replaced, does not come up, and would have other settings if it were made again: they were corrected since.
/// Nobody else does that while the upgrade holds the lock, and there is nothing to lose by it.
fn in_vain(facts: &Facts, goal: &UpgradeDirective) -> Option<Turn> {
    let waits_in_vain =
        |pod: &&PodFacts| pod.image == goal.image && pod.outdated && !pod.terminating && !pod.ready && !pod.serves();
    let pod = facts.pods.iter().find(waits_in_vain)?;
    let comes_back = facts.template.as_deref() == Some(goal.image.as_str());
    comes_back.then(|| Turn::Delete { pod: pod.name.clone(), uid: pod.uid.clone() })
}

/// It has what the leader has committed.
pub(super) fn caught_up(facts: &Facts, pod: &PodFacts) -> bool {
    facts.leader.as_deref() == Some(pod.name.as_str()) || members::is_caught_up(pod.applied, facts.committed)
}

/// Who leads, if that is a member on the goal's version.
pub fn leads_on(facts: &Facts, goal: &UpgradeDirective) -> Option<String> {
    let leader = facts.pod(facts.leader.as_deref()?)?;
    leader.is_at(goal).then(|| format!("{} leads on {}", leader.name, goal.version))
}

/// Moves leadership to a member on the goal's version. The leader is asked again if it still, or again, is an old one.
///
/// It is deleted the moment it is past, so a majority has to be there without it. More than that was looked at before the point of no
/// return (`cutover`); this is for a member that is lost right after that.
pub fn step_down(facts: &Facts, goal: &UpgradeDirective) -> Turn {
    if let Some(leads) = leads_on(facts, goal) {
        return Turn::Done(leads);
    }
    let Some(leader) = facts.leader.as_deref().and_then(|leader| facts.pod(leader)) else {
        return Turn::Wait("the members agree on no leader".to_owned());
    };
    if facts.replicas <= 1 {
        // Asked to step down, it sits out ten seconds and leads again: nobody else can. Its replacement is the move.
        return Turn::Done(format!("{} is the only server: it is replaced", leader.name));
    }
    let successor = facts.pods.iter().any(|pod| {
        pod.name != leader.name && pod.is_at(goal) && pod.state == Some(HealthState::Standby) && caught_up(facts, pod)
    });
    if !successor {
        return Turn::Wait(format!("no caught-up standby on {} could take over from {}", goal.version, leader.name));
    }
    let go_on = facts.pods.iter().filter(|pod| pod.name != leader.name && pod.is_at(goal) && pod.serves()).count();
    let needed = facts.others_needed();
    if go_on < needed {
        return Turn::Wait(format!(
            "{} is not asked to give up leadership, as that would cost the quorum: {needed} others on {} have to serve, and \
             {go_on} do",
            leader.name, goal.version
        ));
    }
    Turn::StepDown { pod: leader.name.clone() }
}

/// After leadership began to move: whatever is not on the goal's version is replaced, for it could win an election, fail to
/// activate over newer data, and leave the cluster without a leader.
///
/// The old leader is what is left when every other member had its turn (`in_turn`), and it goes at once. Where a new server led
/// before that, several old ones are left, and each of them goes only while the rest can lose it.
pub fn replace_old(facts: &Facts, goal: &UpgradeDirective, in_turn: &[String]) -> Turn {
    // It may be all that keeps the others from being spared.
    if let Some(again) = in_vain(facts, goal) {
        return again;
    }
    if let Some(pod) = next_old(facts, goal) {
        // Nobody else could lead meanwhile, so nothing is lost by waiting.
        if let Some(why) = facts.obstacle.as_ref().filter(|_| facts.replicas <= 1 && pod.serves()) {
            return Turn::Wait(format!("pod {} is not replaced, as {why}", pod.name));
        }
        let heir = facts.pods.iter().any(|other| other.name != pod.name && other.is_at(goal) && other.serves());
        if facts.replicas > 1 && !heir {
            return Turn::Wait(format!("no member on {} serves that could lead", goal.version));
        }
        if facts.template.as_deref() != Some(goal.image.as_str()) {
            return template(facts, goal);
        }
        let others_in_turn = in_turn.iter().filter(|name| **name != pod.name).count();
        let is_the_leader_of_before = others_in_turn + 1 >= facts.replicas;
        // One that Kubernetes calls ready may only have missed our question.
        let is_lost = !pod.serves() && !pod.ready;
        if is_the_leader_of_before || is_lost || facts.others_serving(&pod.name) >= facts.others_needed() {
            return Turn::Delete { pod: pod.name.clone(), uid: pod.uid.clone() };
        }
        let why = missing(facts, goal);
        return Turn::Wait(format!("deleting pod {} would cost the quorum: {why}", pod.name));
    }
    for index in 0..facts.pods.len().max(facts.replicas) {
        let Some(pod) = facts.pods.get(index) else {
            return Turn::Wait(format!("{} of {} pods exist", facts.pods.len(), facts.replicas));
        };
        match replaced(facts, goal, &pod.name) {
            Turn::Done(_) => {}
            other => return other,
        }
    }
    match &facts.leader {
        Some(leader) => Turn::Done(format!("{leader} leads on {}", goal.version)),
        None => Turn::Wait("the members agree on no leader".to_owned()),
    }
}

/// The old server that is replaced next: one that does not serve is missed by nobody, and one that says it leads is in the new
/// one's way.
fn next_old<'a>(facts: &'a Facts, goal: &UpgradeDirective) -> Option<&'a PodFacts> {
    let old = facts.pods.iter().filter(|pod| !pod.terminating && pod.image != goal.image);
    old.min_by_key(|pod| match pod.state {
        Some(HealthState::Active) => 1,
        Some(HealthState::Standby) => 2,
        _ => 0,
    })
}

/// Why those that were replaced are not enough yet.
fn missing(facts: &Facts, goal: &UpgradeDirective) -> String {
    let replaced_ones = facts.pods.iter().filter(|pod| pod.terminating || pod.image == goal.image);
    let why = replaced_ones.map(|pod| replaced(facts, goal, &pod.name)).find_map(|turn| match turn {
        Turn::Wait(why) | Turn::Fail { message: why, .. } => Some(why),
        _ => None,
    });
    why.unwrap_or_else(|| "other members do not serve".to_owned())
}

/// The end: all of them on the goal, serving, one leading.
pub fn finished(facts: &Facts, goal: &UpgradeDirective) -> Turn {
    match settled(facts) {
        Turn::Done(_) => match facts.pods.iter().find(|pod| !pod.is_at(goal)) {
            Some(pod) => Turn::Wait(format!("pod {} runs {}", pod.name, pod.version.as_deref().unwrap_or("nothing"))),
            None => Turn::Done(format!("{} members serve {}", facts.replicas, goal.version)),
        },
        other => other,
    }
}

fn words(pod: &PodFacts) -> String {
    if let Some((reason, message)) = &pod.trouble {
        return format!("{reason}: {message}");
    }
    match pod.state {
        _ if pod.terminating => "it is stopping".to_owned(),
        Some(HealthState::Active) => "it leads".to_owned(),
        Some(HealthState::Standby) => "it follows".to_owned(),
        Some(HealthState::Sealed) => "it is sealed or joining".to_owned(),
        Some(HealthState::Uninitialized) => "it is not initialised".to_owned(),
        Some(HealthState::Troubled) => "it reports trouble".to_owned(),
        None => "it does not answer".to_owned(),
    }
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
