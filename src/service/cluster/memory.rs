//! What the operator remembers about a cluster between two looks. All of it may be lost: it saves requests, it decides nothing
//! that must not happen twice.

use super::{
    apart::Apart,
    api_server,
    apply::Settled,
    autopilot::told::Told,
    exposure,
    identity::Identity,
    keys::Remembered,
    members::{self, Member},
    network,
    trouble::Trouble,
};
use crate::{
    adapter::openbao::{RaftConfiguration, Token},
    api::{OpenBaoCluster, OpenBaoClusterSpec, OpenBaoClusterStatus, conditions::reason},
};
use chrono::{DateTime, Utc};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How long the API server's issuer and keys are believed.
const IDENTITY_TRUST: Duration = Duration::from_secs(60);

/// How long a member serves outside of raft before that is believed.
const OUTSIDE: Duration = Duration::from_secs(30);

/// How long looks may be cut short by other writers, or by a watch that is behind, before somebody is told.
const CUT_SHORT: Duration = Duration::from_secs(30);

/// Memory of all clusters of one scope.
#[derive(Debug, Default)]
pub struct Memory {
    clusters: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Notes>>>>,
    /// Objects that the API server writes in its own way.
    pub settled: Settled,
    /// Where pods reach the API server.
    pub api_server: api_server::Known,
    identity: Mutex<Option<(Instant, Identity)>>,
}

/// Memory of one cluster.
#[derive(Debug, Default)]
pub struct Notes {
    /// The first start is over, whatever an older view says.
    pub bootstrapped: bool,
    /// What was deleted under the name of the first start's stanza, by UID: the watch shows it for a moment longer.
    pub stanza_removed: Option<String>,
    /// When the status was last written.
    pub status_written: Option<Instant>,
    /// When it was last written because of more than how far members have applied the log.
    pub status_changed: Option<Instant>,
    /// When the plane of an upgrade was last written.
    pub upgrade_told: Option<Instant>,
    /// Raft's members, and for which constellation of ours they were asked.
    pub voters: Option<(Constellation, Raft)>,
    /// Since when a pod serves that raft does not know, by its UID.
    pub outside: HashMap<String, Instant>,
    /// Who serves and does not follow.
    pub(super) apart: Apart,
    /// Since when a pod that is asked gives no answer, by its UID.
    pub silent: BTreeMap<String, Instant>,
    /// When voters were last asked for, and for which constellation.
    pub voters_asked: Option<(Instant, Constellation)>,
    /// The operator's own token in this cluster.
    pub token: Option<(Instant, Token)>,
    /// What the leader was told of autopilot's settings.
    pub(super) autopilot: Option<Told>,
    /// The last login's result.
    pub access: Option<Result<(), String>>,
    /// Since when a pod's label contradicts its server.
    pub mislabelled: HashMap<String, Instant>,
    /// A user's TLS Secret.
    pub tls: Remembered,
    /// The bundle of authorities that was told last.
    pub believed: Option<String>,
    /// A user's seal Secret.
    pub seal: Remembered,
    /// The id of the OpenBao cluster that the one that led last has named.
    pub led_id: Option<String>,
    /// A size that the storage class refused, its words, and when.
    pub refused_size: Option<(String, String, Instant)>,
    /// Since when a volume has less than it was asked to grow to.
    pub grows_since: Option<DateTime<Utc>>,
    /// What lies in the place of the first start's settings and is not for servers to read, by the look before.
    pub taken: Option<Trouble>,
    /// Whether this process has looked there yet.
    pub looked_there: bool,
    /// The spec that was last good. Only while an upgrade or a rollback is under way, which may have to go on with it.
    pub last_good: Option<Arc<OpenBaoClusterSpec>>,
    /// Since when no look has got to its end because another writer was faster.
    pub cut_short: Option<Instant>,
    /// What leads in from outside.
    pub(super) exposure: exposure::Known,
    /// The network policies.
    pub(super) policies: network::Known,
    /// The generation that some other process had looked at when this one met the cluster; 0: none.
    pub found: Option<i64>,
}

/// Raft's members by node id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raft {
    /// Those whose vote counts.
    pub voters: BTreeSet<String>,
    /// All of them.
    pub peers: BTreeSet<String>,
}

impl Notes {
    /// Remembers how the cluster was found, when it is looked at for the first time.
    pub fn meet(&mut self, cluster: &OpenBaoCluster) {
        // One that refused this spec has made nothing of it.
        let acted = |status: &&OpenBaoClusterStatus| {
            let refused = [reason::INVALID, reason::NOT_SUPPORTED, reason::UNSAFE_TO_IGNORE];
            !status.conditions.iter().any(|one| one.status == "False" && refused.contains(&one.reason.as_str()))
        };
        let observed =
            || cluster.status.as_ref().filter(acted).and_then(|status| status.observed_generation).unwrap_or(0);
        self.found.get_or_insert_with(observed);
    }

    /// Whether this generation of the spec was carried out, or on its way to be, before this process came: whatever this one would
    /// make of it beyond that, nobody has asked of it.
    pub fn asks_nothing_new(&self, generation: i64) -> bool {
        generation > 0 && self.found == Some(generation)
    }

    /// Remembers what raft said about these members.
    pub fn learn(&mut self, members: &[Member], leader: &Member, raft: &RaftConfiguration) {
        let ids = |voting: bool| {
            let servers = raft.servers.iter().filter(move |server| server.voter || !voting);
            servers.map(|server| server.node_id.clone()).collect()
        };
        self.voters = Some((constellation(members, leader), Raft { voters: ids(true), peers: ids(false) }));
    }

    /// What raft said about exactly these members under this leader. What it said of others proves nothing: who joined since
    /// is not among its members, and would be taken for one that was removed.
    pub fn raft_of(&self, members: &[Member]) -> Option<&Raft> {
        let leader = members::leader(members)?;
        let (about, raft) = self.voters.as_ref()?;
        (*about == constellation(members, leader)).then_some(raft)
    }

    /// Remembers who serves outside of raft, by the UIDs of their pods, and returns those who have done so for a while. A
    /// member that joins may be told by its own health a moment before the leader tells of it.
    pub fn long_outside(&mut self, outside: BTreeSet<String>) -> BTreeSet<String> {
        self.outside.retain(|uid, _| outside.contains(uid));
        let now = Instant::now();
        outside
            .into_iter()
            .filter(|uid| {
                let since = self.outside.entry(uid.clone()).or_insert(now);
                now.duration_since(*since) >= OUTSIDE
            })
            .collect()
    }

    /// Remembers who was asked and gave no answer.
    pub fn listen(&mut self, members: &[Member]) {
        let silent: BTreeSet<&str> =
            members.iter().filter(|member| member.is_silent()).map(|member| member.uid.as_str()).collect();
        self.silent.retain(|uid, _| silent.contains(uid.as_str()));
        let now = Instant::now();
        for uid in silent {
            self.silent.entry(uid.to_owned()).or_insert(now);
        }
    }

    /// For how long nobody has fallen silent who still is. `None`: all answer.
    pub fn silence(&self) -> Option<Duration> {
        self.silent.values().map(Instant::elapsed).min()
    }

    /// Remembers whether a look was cut short, and returns whether all have been for so long that it should be said.
    pub fn is_cut_short_for_long(&mut self, cut_short: bool) -> bool {
        if !cut_short {
            self.cut_short = None;
            return false;
        }
        self.cut_short.get_or_insert_with(Instant::now).elapsed() >= CUT_SHORT
    }

    /// Whom to wait for: older knowledge will do while newer is on its way, and none while the login is refused.
    pub fn voters_of(&self, members: &[Member]) -> Option<&BTreeSet<String>> {
        let refused = matches!(self.access, Some(Err(_)));
        let older = self.voters.as_ref().map(|(_, raft)| raft).filter(|_| !refused);
        self.raft_of(members).or(older).map(|raft| &raft.voters)
    }
}

/// Tells this constellation of members from any other.
pub fn constellation(members: &[Member], leader: &Member) -> Constellation {
    let serving = members.iter().filter(|member| member.serves());
    serving
        .map(|member| format!("{}/{}{}", member.name, member.uid, if member.name == leader.name { "*" } else { "" }))
        .collect()
}

/// Who is there and who leads: when it changes, voters may have changed.
pub type Constellation = BTreeSet<String>;

impl Memory {
    /// The notes of the cluster with this UID.
    pub fn of(&self, uid: &str) -> Arc<tokio::sync::Mutex<Notes>> {
        let mut all = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(uid.to_owned()).or_default().clone()
    }

    /// Forgets clusters that exist no more, so that the memory is bounded by what exists.
    pub fn forget_all_but(&self, uids: &BTreeSet<String>) {
        let mut all = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|uid, _| uids.contains(uid));
    }

    /// How many clusters are remembered.
    pub fn len(&self) -> usize {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The API server's issuer and keys, if they were read a moment ago.
    pub fn identity(&self) -> Option<Identity> {
        let known = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(since, _)| since.elapsed() < IDENTITY_TRUST).map(|(_, identity)| identity.clone())
    }

    /// Remembers them.
    pub fn remember_identity(&self, identity: &Identity) {
        let mut known = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((Instant::now(), identity.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::openbao::HealthState::{Active, Sealed, Standby};
    use members::tests::member;

    fn alone(ordinal: u32) -> Raft {
        let names: BTreeSet<String> = [crate::service::cluster::names::pod("kelp", ordinal)].into();
        Raft { voters: names.clone(), peers: names }
    }

    #[test]
    fn a_spec_asks_for_something_new_unless_another_process_had_looked_at_it_before_this_one_came() {
        use crate::service::cluster::validate::tests::cluster;
        let seen = |observed: Option<i64>, generation: i64| {
            let mut object = cluster(|_| {});
            object.metadata.generation = Some(generation);
            let status = OpenBaoClusterStatus { observed_generation: observed, ..OpenBaoClusterStatus::default() };
            object.status = observed.map(|_| status);
            object
        };
        for (observed, then, expected) in [(None, 1, false), (Some(4), 4, true), (Some(3), 4, false)] {
            let mut notes = Notes::default();
            assert!(!notes.asks_nothing_new(then), "nobody has looked yet");
            notes.meet(&seen(observed, then));
            assert_eq!(notes.asks_nothing_new(then), expected, "{observed:?} {then}");
            let mut refused = seen(observed, then);
            let no = serde_json::json!([{"type": "Valid", "status": "False", "reason": "Invalid", "message": "no",
                "lastTransitionTime": "2026-11-21T09:00:00Z"}]);
            refused.status.get_or_insert_default().conditions = serde_json::from_value(no).unwrap();
            let mut other = Notes::default();
            other.meet(&refused);
            assert!(!other.asks_nothing_new(then), "whoever refused it has made nothing of it");
            // The status of a look that failed says the new generation too.
            notes.meet(&seen(Some(then + 1), then + 1));
            assert!(!notes.asks_nothing_new(then + 1), "{observed:?} {then}");
        }
    }

    #[test]
    fn what_raft_said_of_other_members_is_not_taken_for_what_it_would_say_now() {
        let before = [member(0, Active, Some(0))];
        let about = constellation(&before, &before[0]);
        let notes = Notes { voters: Some((about, alone(0))), ..Notes::default() };
        assert_eq!(notes.raft_of(&before), Some(&alone(0)));
        let grown = [member(0, Active, Some(0)), member(1, Standby, Some(0))];
        assert_eq!(notes.raft_of(&grown), None, "kelp-1 has joined since and was not removed");
        let joins = [member(0, Active, Some(0)), member(1, Sealed, None)];
        assert!(notes.raft_of(&joins).is_some(), "it does not serve yet");
        let mut replaced = before.clone();
        replaced[0].uid = "another".into();
        assert_eq!(notes.raft_of(&replaced), None, "another pod");
        assert_eq!(notes.raft_of(&[member(0, Standby, None)]), None, "nobody leads");
    }

    #[test]
    fn a_member_is_outside_of_raft_only_after_it_was_seen_so_for_a_while() {
        let one = || BTreeSet::from(["uid-4".to_owned()]);
        let mut notes = Notes::default();
        assert_eq!(notes.long_outside(one()), BTreeSet::new());
        notes.outside.insert("uid-4".into(), Instant::now().checked_sub(OUTSIDE).unwrap());
        assert_eq!(notes.long_outside(one()), one());
        assert_eq!(notes.long_outside(BTreeSet::new()), BTreeSet::new());
        assert_eq!(notes.long_outside(one()), BTreeSet::new(), "it was inside meanwhile: counted anew");
    }

    #[test]
    fn who_is_silent_is_remembered_until_it_answers_or_another_pod_is_in_its_place() {
        let there = |ordinal, state| members::tests::dialled(member(ordinal, state, Some(0)));
        let mute = |ordinal| Member {
            health: None,
            view: None,
            silence: Some("no answer within 2 s".into()),
            ..there(ordinal, Standby)
        };
        let mut notes = Notes::default();
        notes.listen(&[there(0, Active), Member { view: None, ..there(1, Sealed) }]);
        assert_eq!(notes.silence(), None, "a sealed server says so");
        notes.listen(&[mute(0), mute(1)]);
        notes.silent.insert("uid-0".into(), Instant::now().checked_sub(OUTSIDE).unwrap());
        assert!(notes.silence().unwrap() < OUTSIDE, "kelp-1 has only just fallen silent");
        notes.listen(&[mute(0), there(1, Standby)]);
        assert!(notes.silence().unwrap() >= OUTSIDE);
        notes.listen(&[Member { uid: "another".into(), ..mute(0) }]);
        assert!(notes.silence().unwrap() < OUTSIDE && notes.silent.len() == 1);
    }

    #[test]
    fn being_cut_short_is_told_only_when_it_has_lasted_and_is_forgotten_with_the_first_look_that_was_not() {
        let mut notes = Notes::default();
        assert!(!notes.is_cut_short_for_long(true), "the next look may get to its end");
        notes.cut_short = Instant::now().checked_sub(CUT_SHORT);
        assert!(notes.is_cut_short_for_long(true));
        assert!(!notes.is_cut_short_for_long(false));
        assert!(!notes.is_cut_short_for_long(true), "counted anew");
    }

    #[test]
    fn older_votes_are_waited_for_until_the_login_is_refused() {
        let before = [member(0, Active, Some(0))];
        let about = constellation(&before, &before[0]);
        let mut notes = Notes { voters: Some((about, alone(0))), ..Notes::default() };
        let grown = [member(0, Active, Some(0)), member(1, Standby, Some(0))];
        assert_eq!(notes.voters_of(&grown), Some(&alone(0).voters), "kelp-1 is not known to vote");
        notes.access = Some(Err("refused".into()));
        assert_eq!(notes.voters_of(&grown), None, "nobody will ever know");
        assert_eq!(notes.voters_of(&before), Some(&alone(0).voters));
    }
}
