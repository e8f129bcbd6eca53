//! Day two, decided: which pod is restarted next, and who joins or leaves. Pure.
//!
//! One disruption at a time, and only while everybody else serves. A restart is due where a pod was started with other
//! settings, another certificate or another image of the same version than the template says. Changing versions is not
//! upkeep: that is the upgrade manager's.

use super::{
    build::statefulset::{CERTIFICATE_HASH, CONFIG_HASH, CONTAINER, IMAGE},
    facts::Facts,
    members::{self, Member},
    names,
};
use crate::service::upgrade::versions;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
};
use kube::ResourceExt;
use std::{collections::BTreeSet, sync::Arc};

/// Annotation of a claim whose member was removed from raft, or is about to be: its data never rejoins and must go before the
/// claim is used again. Written before raft is asked, so that a member outside of raft without it was removed by others.
pub const REMOVED: &str = "openbao.org/removed-from-raft";

/// What upkeep looks at.
#[derive(Debug)]
pub struct Situation<'a> {
    /// What the watches know.
    pub facts: &'a Facts,
    /// The servers' own words.
    pub members: &'a [Member],
    /// Raft's voters, if they are known.
    pub voters: Option<&'a BTreeSet<String>>,
    /// Everybody raft knows, voting or not; known together with the voters.
    pub peers: Option<&'a BTreeSet<String>>,
    /// Pods that serve though raft has not known them for a while, by UID.
    pub outside: &'a BTreeSet<String>,
    /// The template that pods should have been made from.
    pub template: &'a PodTemplateSpec,
    /// The version that the template's image is to be.
    pub version: &'a str,
    /// Members the spec asks for.
    pub wanted: u32,
    /// Members the StatefulSet has.
    pub current: u32,
    /// Nobody has led under this cluster object yet: clients are served by none, and a bad setting may be why.
    pub unled: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything is as it should be.
    Nothing,
    /// Something is due and must wait.
    Wait(String),
    /// Replace this pod; it returns with the same volume.
    Restart {
        /// The pod.
        pod: String,
        /// Guards the deletion.
        uid: String,
        /// In words.
        why: String,
    },
    /// Let the StatefulSet have more members at once: they only join.
    Grow,
    /// We took this member out and it is to stay after all: its data never rejoins, so it starts with an empty volume.
    Rejoin {
        /// The pod.
        pod: String,
        /// Guards the deletion.
        uid: String,
        /// Whose claim goes with it.
        ordinal: u32,
    },
    /// Raft does not know this member, and it was not we who took it out: its volume is for a person to judge.
    Stranger {
        /// The pod.
        pod: String,
    },
    /// Take the last member out: step-down if it leads, remove it from raft, then one replica less.
    Shrink {
        /// The member that goes.
        pod: String,
        /// It leads and must step down first.
        leads: bool,
        /// Raft does not know it any more: the StatefulSet may drop it.
        removed: bool,
    },
}

/// Decides. Growing comes before restarts, restarts before shrinking: each leaves more healthy members to the next. Only a member
/// that is not known to serve leaves at once.
pub fn decide(seen: &Situation<'_>) -> Step {
    let stale: Vec<(&Member, &Pod, String)> = seen
        .members
        .iter()
        .filter(|member| member.ordinal < seen.current)
        .filter_map(|member| {
            let pod = seen.facts.pods.get(&member.ordinal)?;
            Some((member, pod.as_ref(), difference(pod, seen.template)?))
        })
        .collect();
    // A pod that goes before the StatefulSet can make a better one comes back as it was, and goes again.
    let applied = carries(seen.facts, seen.template);
    // Whoever does not serve loses nothing by a restart, and a bad setting may be why.
    // Silence alone does not mean that: the operator may be who is cut off, or who does not believe the certificate.
    let useless = |member: &Member| {
        let answers_or_is_down = member.health.is_some() || !member.ready;
        applied && answers_or_is_down && (!member.serves() || seen.unled) && !member.terminating
    };
    if let Some((member, _, why)) = stale.iter().find(|(member, ..)| useless(member)) {
        return Step::Restart { pod: member.name.clone(), uid: member.uid.clone(), why: why.clone() };
    }
    if seen.wanted > seen.current {
        return Step::Grow;
    }
    let stays = |member: &&Member| member.ordinal < seen.wanted && !member.terminating;
    if let Some(member) = seen.members.iter().filter(stays).find(|member| seen.outside.contains(&member.uid)) {
        let pod = member.name.clone();
        return match seen.facts.claims.get(&member.ordinal) {
            Some(claim) if claim.annotations().contains_key(REMOVED) => {
                Step::Rejoin { pod, uid: member.uid.clone(), ordinal: member.ordinal }
            }
            _ => Step::Stranger { pod },
        };
    }
    if stale.is_empty() && seen.wanted == seen.current {
        return Step::Nothing;
    }
    if !applied {
        return Step::Wait(
            "the StatefulSet does not carry the new settings yet: no pod goes before it does".to_owned(),
        );
    }
    if let Some(member) = next_refused(seen) {
        let why = "the operator does not believe the certificate that it serves, and there is a newer one".to_owned();
        return Step::Restart { pod: member.name.clone(), uid: member.uid.clone(), why };
    }
    if let Some(why) = unsettled(seen).or_else(|| mistaken(seen)) {
        return Step::Wait(why);
    }
    let Some(leader) = members::leader(seen.members) else {
        // One that is to leave may lead.
        return Step::Wait(silent(seen, seen.current).unwrap_or_else(|| "no member leads".to_owned()));
    };
    // Who is down anyway leaves before anybody else goes down.
    if down_and_leaving(seen) > 0 {
        return shrink(seen, leader);
    }
    // The leader last: each change of leadership is felt by clients, so there is one.
    let next = stale.iter().max_by_key(|(member, ..)| (member.name != leader.name, member.ordinal));
    if let Some((member, _, why)) = next {
        return Step::Restart { pod: member.name.clone(), uid: member.uid.clone(), why: why.clone() };
    }
    shrink(seen, leader)
}

fn shrink(seen: &Situation<'_>, leader: &Member) -> Step {
    // Not the last pod there is: one that was let go a moment ago may still be terminating.
    let last = seen.current.saturating_sub(1);
    let pod = names::pod(names::cluster_of(&leader.name), last);
    let Some(peers) = seen.peers else {
        return Step::Wait(
            "raft's members as they are now are not known yet, or the operator cannot log in (see condition OperatorAccess): a \
             member that is not removed from raft first would count as lost for ever"
                .to_owned(),
        );
    };
    Step::Shrink { leads: last == leader.ordinal, removed: !peers.contains(&pod), pod }
}

/// The pods, by UID, that serve by their own word although raft does not know them.
pub fn outsiders(members: &[Member], peers: &BTreeSet<String>) -> BTreeSet<String> {
    let outside = members.iter().filter(|member| member.serves() && !peers.contains(&member.name));
    outside.map(|member| member.uid.clone()).collect()
}

/// How many members a StatefulSet that is made anew must have: the spec may ask for fewer by now, and whoever is in raft leaves
/// by way of it, or counts as lost for ever. `peers` are those that raft had when it was last asked; where nobody knows, volumes
/// speak for their members. `None` where no volume is left.
pub fn members_left(facts: &Facts, peers: Option<&BTreeSet<String>>, cluster: &str) -> Option<u32> {
    let holds = |(ordinal, claim): (&u32, &Arc<PersistentVolumeClaim>)| {
        (!claim.annotations().contains_key(REMOVED)).then_some(*ordinal)
    };
    let last = match peers.filter(|_| !facts.claims.is_empty()) {
        Some(peers) => peers.iter().filter_map(|peer| names::ordinal_of(cluster, peer)).max(),
        None => facts.claims.iter().filter_map(holds).max(),
    };
    last.map(|last| last + 1)
}

/// Claims that say their member leaves, while raft knows it and it is to stay: it was asked for again before it had gone.
pub fn unmarked(facts: &Facts, peers: &BTreeSet<String>, cluster: &str, wanted: u32) -> Vec<String> {
    let marked = facts.claims.iter().filter(|(ordinal, claim)| {
        **ordinal < wanted
            && claim.annotations().contains_key(REMOVED)
            && peers.contains(&names::pod(cluster, **ordinal))
    });
    marked.map(|(_, claim)| claim.name_any()).collect()
}

/// Claims of members that left raft and whose places are taken by new ones now: a server that starts on such data never joins.
/// Those that are not needed yet stay as they were retained.
pub fn forgotten(facts: &Facts, current: u32, wanted: u32) -> impl Iterator<Item = &PersistentVolumeClaim> {
    let places = facts.claims.range(current..wanted.max(current)).map(|(_, claim)| claim.as_ref());
    places.filter(|claim| claim.annotations().contains_key(REMOVED) && claim.metadata.deletion_timestamp.is_none())
}

/// Whether a claim may go with its member, where the policy gives volumes up. Not while the StatefulSet counts the member: a
/// voter's pod may be away for a moment, and its mark may be about what did not happen.
pub fn is_given_up(facts: &Facts, ordinal: u32, wanted: u32, current: u32) -> bool {
    let marked = facts.claims.get(&ordinal).is_some_and(|claim| claim.annotations().contains_key(REMOVED));
    marked && ordinal >= wanted && ordinal >= current && !facts.pods.contains_key(&ordinal)
}

/// Why nothing may be disrupted now.
pub fn unsettled(seen: &Situation<'_>) -> Option<String> {
    let serving = seen.members.iter().filter(|member| member.ordinal < seen.current && is_up(member)).count();
    let current = usize::try_from(seen.current).unwrap_or(usize::MAX);
    // A member that was already taken out of raft may say what it likes.
    let removed = seen.wanted < seen.current && seen.peers.is_some_and(|peers| peers.len() + 1 == current);
    let leaving = down_and_leaving(seen).max(u32::from(removed));
    // Of one that leaves nobody needs to know whether it serves, as long as all others do.
    if let Some(silent) = silent(seen, seen.current.saturating_sub(leaving)) {
        return Some(silent);
    }
    if serving + usize::try_from(leaving).unwrap_or_default() < current {
        let scales = seen.wanted < seen.current;
        let advice = if scales {
            ". Of those that are down only the last ones can leave: bring the others back first"
        } else {
            ""
        };
        return Some(format!("{serving} of {current} members serve; the next one waits for all{advice}"));
    }
    if let Some(behind) = behind(seen) {
        return Some(format!("{behind} serves and catches up with the leader's log; the next one waits for it"));
    }
    // The vote of one that leaves says nothing about the others'.
    let stays = |member: &&Member| member.ordinal < seen.current.saturating_sub(leaving);
    let vote =
        |voters: &BTreeSet<String>| seen.members.iter().filter(stays).all(|member| voters.contains(&member.name));
    let voting = seen.voters.is_none_or(vote);
    (!voting).then(|| "not all members vote yet; the next one waits for them".to_owned())
}

fn is_up(member: &Member) -> bool {
    member.serves() && member.ready && !member.terminating
}

/// How many of the last members are to leave and are down, or say nothing. Raft loses nothing with them while all others serve:
/// fewer votes make a majority.
fn down_and_leaving(seen: &Situation<'_>) -> u32 {
    let is_down = |ordinal: &u32| !seen.members.iter().any(|member| member.ordinal == *ordinal && is_up(member));
    let down = (seen.wanted..seen.current).rev().take_while(is_down).count();
    u32::try_from(down).unwrap_or_default()
}

/// A member whose certificate the operator does not believe, because it has expired or is for others, and for which there is a
/// newer one. None that shows such a certificate can be asked anything, so nobody knows who leads: they are replaced one at a
/// time, and only while Kubernetes calls every member ready, and those that have the new one answer.
fn next_refused<'a>(seen: &Situation<'a>) -> Option<&'a Member> {
    let all: Vec<&Member> = seen.members.iter().filter(|member| member.ordinal < seen.current).collect();
    let is_replaced_soon = |member: &Member| is_replaced_soon(seen, member);
    let has_all = |member: &Member| {
        let view = member.view.as_ref();
        members::is_caught_up(view.map(|view| view.raft_applied_index), view.map(|view| view.raft_committed_index))
    };
    let is_well = |member: &&Member| {
        member.ready && !member.terminating && (is_replaced_soon(member) || member.serves() && has_all(member))
    };
    if all.len() < usize::try_from(seen.current).unwrap_or(usize::MAX) || !all.iter().all(is_well) {
        return None;
    }
    all.into_iter().filter(|member| is_replaced_soon(member)).max_by_key(|member| member.ordinal)
}

fn is_replaced_soon(seen: &Situation<'_>, member: &Member) -> bool {
    member.refused && has_newer_certificate(seen, member)
}

/// Whether a member would have another certificate if it were made again.
fn has_newer_certificate(seen: &Situation<'_>, member: &Member) -> bool {
    let wanted = seen.template.metadata.as_ref().and_then(|meta| meta.annotations.as_ref()?.get(CERTIFICATE_HASH));
    let pod = seen.facts.pods.get(&member.ordinal);
    wanted.is_some() && pod.is_some_and(|pod| pod.annotations().get(CERTIFICATE_HASH) != wanted)
}

/// A member of the first so many that Kubernetes calls Ready and that the operator hears nothing from. Whether it serves is not
/// known. In words, with the way out.
fn silent(seen: &Situation<'_>, first: u32) -> Option<String> {
    let silent =
        |member: &&Member| member.ordinal < first && member.ready && member.health.is_none() && !member.terminating;
    // One that is not replaced soon is what keeps those waiting that are.
    let member =
        seen.members.iter().filter(silent).min_by_key(|member| (is_replaced_soon(seen, member), member.ordinal))?;
    let (pod, cluster) = (&member.name, names::cluster_of(&member.name));
    let heard = member.silence.as_deref().unwrap_or("no reason is known");
    if member.refused {
        let secret = names::server_secret(cluster);
        let rest = if has_newer_certificate(seen, member) {
            format!(
                "such members are restarted one by one, to read the newer one of Secret {secret}, each when all others are \
                 Ready. Who cannot wait for that deletes their pods, one after the other"
            )
        } else {
            format!(
                "Secret {secret} holds no newer one than the pod was made for. Where condition TLSReady is False, put a good \
                 one there (with spec.tls.mode External): the members are restarted with it, one by one. Where it is True, \
                 the server started before the good one was there: delete pod {pod}, when all others serve"
            )
        };
        return Some(format!(
            "{pod} is Ready and does not answer the operator, which does not believe the certificate that it serves \
             ({heard}): {rest}"
        ));
    }
    Some(format!(
        "{pod} is Ready and does not answer the operator ({heard}): no member is restarted before it does. Look whether a \
         NetworkPolicy keeps the operator from port {}, whether ca.crt in ConfigMap {} verifies the certificate that it \
         serves, and whether the server is slow. If nothing else helps, delete pod {pod}, when all others serve",
        names::API_PORT,
        names::ca_config_map(cluster),
    ))
}

/// A member that runs the template's image and is another version by its own word. Two of them may be one too many: an older
/// version never leads over newer data, and a newer one is an upgrade without any of its gates.
fn mistaken(seen: &Situation<'_>) -> Option<String> {
    let member = seen.members.iter().find(|member| {
        let fits = seen.facts.pods.get(&member.ordinal).is_some_and(|pod| difference(pod, seen.template).is_none());
        fits && member.version().is_some_and(|version| !versions::is_same(version, seen.version))
    })?;
    Some(format!(
        "{} runs the image that spec.image names, and that is OpenBao {}, not {}: no other member is restarted until \
         spec.image is that version's image",
        member.name,
        member.version().unwrap_or_default(),
        seen.version
    ))
}

/// A member that follows and does not have yet what the leader committed: without it and the next one there would be no
/// majority that has.
fn behind<'a>(seen: &Situation<'a>) -> Option<&'a str> {
    let leader = members::leader(seen.members)?;
    let committed = leader.view.as_ref()?.raft_committed_index;
    let is_peer = |member: &Member| seen.peers.is_none_or(|peers| peers.contains(&member.name));
    let follows = |member: &&Member| {
        member.ordinal < seen.current && member.serves() && member.name != leader.name && is_peer(member)
    };
    let lags = |member: &&Member| {
        let applied = member.view.as_ref().map(|view| view.raft_applied_index);
        !members::is_caught_up(applied, Some(committed))
    };
    seen.members.iter().filter(follows).find(lags).map(|member| member.name.as_str())
}

/// Whether the StatefulSet that exists would make pods as the template wants them, in what needs a restart. The API server,
/// or a policy, may have refused it.
pub fn carries(facts: &Facts, template: &PodTemplateSpec) -> bool {
    let live = facts.stateful_set.as_ref().and_then(|set| Some(&set.spec.as_ref()?.template));
    let of =
        |template: &PodTemplateSpec, key: &str| template.metadata.as_ref()?.annotations.as_ref()?.get(key).cloned();
    live.is_some_and(|live| {
        [CONFIG_HASH, CERTIFICATE_HASH, IMAGE].into_iter().all(|key| of(live, key) == of(template, key))
    })
}

/// How a pod differs from the template in what needs a restart; `None` if it does not.
pub fn difference(pod: &Pod, template: &PodTemplateSpec) -> Option<String> {
    let wanted = template.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
    let differs = |key: &str| wanted.and_then(|all| all.get(key)) != pod.annotations().get(key);
    if differs(CONFIG_HASH) {
        return Some("the settings changed".to_owned());
    }
    if differs(CERTIFICATE_HASH) {
        return Some("the serving certificate changed".to_owned());
    }
    // What the API server made of it does not matter, only what it was asked for. Older pods do not say.
    if pod.annotations().contains_key(IMAGE) {
        return differs(IMAGE).then(|| "the image changed".to_owned());
    }
    let image = |containers: &[k8s_openapi::api::core::v1::Container]| {
        containers.iter().find(|container| container.name == CONTAINER).and_then(|container| container.image.clone())
    };
    let wanted = template.spec.as_ref().and_then(|spec| image(&spec.containers));
    let found = pod.spec.as_ref().and_then(|spec| image(&spec.containers));
    (wanted != found).then(|| "the image changed".to_owned())
}

/// The pods, by UID, that were made from other settings than the StatefulSet carries by now: made again, they would have those.
/// Upkeep leaves them alone while somebody else holds the lock. Whoever does makes one again that he waits for in vain.
pub fn outdated(set: Option<&StatefulSet>, pods: &[Arc<Pod>]) -> BTreeSet<String> {
    let Some(template) = set.and_then(|set| Some(&set.spec.as_ref()?.template)) else { return BTreeSet::new() };
    pods.iter().filter(|pod| difference(pod, template).is_some()).filter_map(|pod| pod.uid()).collect()
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
