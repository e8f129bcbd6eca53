//! Whether a restore may start at all: everything that can be told without touching OpenBao's data or the store.
//!
//! What is wrong is refused at once. What is missing may still be on its way (one `kubectl apply` of cluster, Secrets
//! and restore together), so it is waited for, for [`GRACE`], and refused then. A pause has no end of its own.

mod facts;

use super::Refused;
use chrono::{DateTime, Duration, Utc};
pub use facts::{Cluster, Facts, Leader, Login, Need, NeedState, Source};

/// How long something missing is waited for, counted from the moment the restore was first seen.
pub const GRACE: Duration = Duration::seconds(60);

/// A cluster that has never been initialised is on its way, not missing: volumes, images and elections of a whole cluster
/// took 11 s on an idle machine and minutes on a busy one. So long it is waited for, counted from its own creation.
pub const BOOTSTRAP: Duration = Duration::minutes(5);

/// What is to be done with the restore now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    Refuse(Refused),
    Wait {
        reason: &'static str,
        /// What is awaited, and from whom.
        message: String,
        /// When waiting turns into a refusal; never for a pause.
        until: Option<DateTime<Utc>>,
    },
    Go,
}

/// Decides in the order of the specification. A refusal further down beats a wait further up: what is wrong stays wrong
/// however long the rest takes to arrive.
pub fn admit(facts: &Facts, now: DateTime<Utc>) -> Admission {
    let findings = [cluster_exists(facts), override_needs_force(facts), source_is_one(facts)]
        .into_iter()
        .chain([image_is_known(facts), credentials(facts), backup_has_a_target(facts)])
        .chain(facts.needs.iter().map(needed))
        .chain([ready(facts), led(facts), unpruned(facts)]);
    let mut first_wait = None;
    for finding in findings.flatten() {
        match finding {
            Finding::Wrong(refused) => return Admission::Refuse(refused),
            Finding::Missing(_) | Finding::Held(_) => first_wait = first_wait.or(Some(finding)),
        }
    }
    match first_wait {
        None | Some(Finding::Wrong(_)) => Admission::Go,
        Some(Finding::Held(Refused { reason, message })) => Admission::Wait { reason, message, until: None },
        Some(Finding::Missing(Refused { reason, message })) => {
            let until = patience(facts);
            if now < until {
                Admission::Wait { reason, message, until: Some(until) }
            } else {
                let waited = (until - facts.since).num_seconds();
                Admission::Refuse(Refused::new(reason, format!("{message} (waited {waited} s, nothing was touched)")))
            }
        }
    }
}

/// Until when something missing is waited for.
fn patience(facts: &Facts) -> DateTime<Utc> {
    let grace = facts.since + GRACE;
    let unborn = facts.cluster.as_ref().filter(|cluster| !cluster.initialized).and_then(|cluster| cluster.created);
    unborn.map_or(grace, |created| grace.max(created + BOOTSTRAP))
}

enum Finding {
    Wrong(Refused),
    Missing(Refused),
    Held(Refused),
}

fn wrong(reason: &'static str, message: impl Into<String>) -> Option<Finding> {
    Some(Finding::Wrong(Refused::new(reason, message)))
}

fn missing(reason: &'static str, message: impl Into<String>) -> Option<Finding> {
    Some(Finding::Missing(Refused::new(reason, message)))
}

fn cluster_exists(facts: &Facts) -> Option<Finding> {
    let name = &facts.cluster_name;
    match (&facts.cluster, &facts.pinned_uid) {
        (None, None) => missing(
            "ClusterNotFound",
            format!("there is no OpenBaoCluster \"{name}\" in this namespace: correct spec.cluster or create it"),
        ),
        (None, Some(_)) => wrong("ClusterGone", format!("OpenBaoCluster \"{name}\" was deleted: create a new restore")),
        (Some(cluster), Some(uid)) if cluster.uid != *uid => wrong(
            "ClusterReplaced",
            format!("OpenBaoCluster \"{name}\" was deleted and created again: create a new restore for the new one"),
        ),
        (Some(cluster), _) if cluster.deleting => {
            wrong("ClusterDeleting", format!("OpenBaoCluster \"{name}\" is being deleted"))
        }
        (Some(_), _) => None,
    }
}

fn override_needs_force(facts: &Facts) -> Option<Finding> {
    if facts.override_lock && !facts.force {
        return wrong(
            "OverrideNeedsForce",
            "spec.overrideOperationLock takes the lock away from a running operation: it needs spec.force: true as well",
        );
    }
    None
}

fn source_is_one(facts: &Facts) -> Option<Finding> {
    let Source { key, latest, before, target } = &facts.source;
    let named = usize::from(key.is_some()) + usize::from(*latest) + usize::from(before.is_some());
    if named != 1 {
        return wrong(
            "SourceAmbiguous",
            format!("spec.source names {named} snapshots: give exactly one of key, latest: true and before"),
        );
    }
    if let Some(key) = key {
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if key.starts_with('/') || key.split('/').any(odd) || key.contains(|c: char| c.is_control() || c == '\\') {
            return wrong(
                "KeyInvalid",
                format!(
                    "spec.source.key \"{key}\" is not a plain object key: no leading slash, no empty, \".\" or \"..\" parts"
                ),
            );
        }
    }
    match target {
        Ok(()) => None,
        Err(why) => wrong("TargetInvalid", why.clone()),
    }
}

fn image_is_known(facts: &Facts) -> Option<Finding> {
    facts.image.as_ref().err().and_then(|why| wrong("ImageNotAllowed", why.clone()))
}

fn credentials(facts: &Facts) -> Option<Finding> {
    match facts.login {
        Login::Token | Login::Role(_) => None,
        // A cluster that does not exist yet cannot say whether roles come with it.
        Login::Nobody if facts.cluster.is_none() => None,
        Login::Nobody => wrong(
            "NoCredentials",
            "nobody could log in to OpenBao for this restore: set spec.tokenSecretRef or spec.jwtAuthRole \
             (the cluster was created without selfInit.oidc, so no role exists by itself)",
        ),
    }
}

fn backup_has_a_target(facts: &Facts) -> Option<Finding> {
    if facts.lacks_target {
        return wrong(
            "NoBackupTarget",
            format!(
                "spec.preRestoreBackup is true, and OpenBaoCluster \"{}\" has no spec.backup.target to take it to: give it \
                 one, or set preRestoreBackup: false",
                facts.cluster_name
            ),
        );
    }
    None
}

fn needed(need: &Need) -> Option<Finding> {
    let Need { field, object, state } = need;
    match state {
        NeedState::Present => None,
        NeedState::Missing => {
            missing("ObjectMissing", format!("{object}, named by {field}, does not exist in this namespace"))
        }
        NeedState::Lacks(key) => {
            wrong("ObjectIncomplete", format!("{object}, named by {field}, has no data key \"{key}\""))
        }
        NeedState::Own(cluster) => wrong(
            "ObjectNotAllowed",
            format!(
                "{object}, named by {field}, is a key or a volume of OpenBaoCluster \"{cluster}\" itself, which no restore is \
                 given: name an object that was made for it. A token goes into a Secret of its own, under the data key token"
            ),
        ),
        NeedState::Unannotated(annotation) => missing(
            "ObjectIncomplete",
            format!(
                "{object}, which the restore's Job runs as, has not the annotation {annotation} of {field}: put it into \
                 spec.backup.target.workloadIdentity of the cluster; or annotate the account by hand, which with spec.restore: {{}} \
                 in the cluster stays; or leave it out of the restore if the account may read there without it"
            ),
        ),
    }
}

fn ready(facts: &Facts) -> Option<Finding> {
    let cluster = facts.cluster.as_ref()?;
    let name = &facts.cluster_name;
    if cluster.paused {
        return Some(Finding::Held(Refused::new(
            "ClusterPaused",
            format!("OpenBaoCluster \"{name}\" is paused and starts nothing: set its spec.paused to false"),
        )));
    }
    // Force waives the cluster's state, and this is lifted by no restore.
    if let Some(why) = &cluster.half_restored {
        return wrong("RollbackUnfinished", why.clone());
    }
    if facts.force {
        return None;
    }
    if let Some(version) = &cluster.upgrading_to {
        return wrong(
            "ClusterUpgrading",
            format!(
                "OpenBaoCluster \"{name}\" is being upgraded to {version}: create the restore again when that has ended, \
                 or set spec.force: true"
            ),
        );
    }
    if !cluster.initialized {
        return missing("ClusterNotInitialized", format!("OpenBaoCluster \"{name}\" is not initialised yet"));
    }
    None
}

/// The server answers a restore only while it leads, unsealed: no `force` can replace that.
fn led(facts: &Facts) -> Option<Finding> {
    let name = &facts.cluster_name;
    match &facts.leader {
        Leader::NotAsked | Leader::Found => None,
        Leader::Sealed => missing(
            "ClusterSealed",
            format!(
                "every server of \"{name}\" is sealed, and a sealed server takes no snapshot: unseal it (give it the seal \
                 key of the data it holds), or restore into a new cluster that has the snapshot's seal key"
            ),
        ),
        Leader::Uninitialized => missing(
            "ClusterUninitialized",
            format!(
                "every server of \"{name}\" has empty storage, and only an initialised cluster takes a snapshot. A new one \
                 is initialised by spec.selfInit or by the operator, with the snapshot's seal key; one that has lost all its \
                 volumes never is: delete it and its volume claims, apply it again (the Secret with its seal key stays), and \
                 then this restore under another name"
            ),
        ),
        Leader::Nobody { detail } => missing(
            "NoLeader",
            format!(
                "\"{name}\" has no unsealed leader that could take the snapshot: {detail}. Bring back a majority of its members \
                 and create the restore again. Where a majority of its volumes is lost for good, keep the others: \
                 docs/troubleshooting.md says how they go on without it"
            ),
        ),
    }
}

/// What `retention` removes it was told before this restore came. It is over within seconds mostly, and then spares the source.
fn unpruned(facts: &Facts) -> Option<Finding> {
    let backup = facts.retention.as_ref()?;
    Some(Finding::Held(Refused::new(
        "RetentionRuns",
        format!(
            "backup {backup} is removing old backups and does not know of this restore: waiting for it to end, lest it removes \
             what is to be restored. Cancel that operation if it takes too long"
        ),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + seconds, 0).unwrap()
    }

    fn good() -> Facts {
        Facts {
            since: at(0),
            cluster_name: "ledger".into(),
            pinned_uid: Some("c-uid".into()),
            force: false,
            override_lock: false,
            lacks_target: false,
            source: Source { key: Some("ns/ledger/x.snap".into()), latest: false, before: None, target: Ok(()) },
            image: Ok(()),
            cluster: Some(Cluster { uid: "c-uid".into(), initialized: true, ..Cluster::default() }),
            login: Login::Role("r".into()),
            needs: vec![Need { field: "spec.x", object: "Secret s".into(), state: NeedState::Present }],
            leader: Leader::Found,
            retention: None,
        }
    }

    fn refused(facts: &Facts, seconds: i64) -> &'static str {
        match admit(facts, at(seconds)) {
            Admission::Refuse(refused) => refused.reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn waits(facts: &Facts, seconds: i64) -> &'static str {
        match admit(facts, at(seconds)) {
            Admission::Wait { reason, .. } => reason,
            other => panic!("does not wait: {other:?}"),
        }
    }

    #[test]
    fn a_restore_with_nothing_against_it_goes() {
        assert_eq!(admit(&good(), at(3600)), Admission::Go);
    }

    #[test]
    fn what_is_missing_is_waited_for_one_minute_and_refused_then() {
        let sealed = Facts { leader: Leader::Sealed, ..good() };
        let none = Facts { leader: Leader::Nobody { detail: "d".into() }, ..good() };
        let empty = Facts { leader: Leader::Uninitialized, ..good() };
        let unborn = Facts { cluster: None, pinned_uid: None, leader: Leader::NotAsked, ..good() };
        let mut fresh = good();
        fresh.cluster.as_mut().unwrap().initialized = false;
        let mut secretless = good();
        secretless.needs[0].state = NeedState::Missing;
        let cases = [
            (sealed, "ClusterSealed"),
            (none, "NoLeader"),
            (empty, "ClusterUninitialized"),
            (unborn, "ClusterNotFound"),
            (fresh, "ClusterNotInitialized"),
            (secretless, "ObjectMissing"),
        ];
        for (facts, reason) in cases {
            assert_eq!(waits(&facts, 59), reason);
            assert_eq!(refused(&facts, 60), reason);
        }
    }

    #[test]
    fn whatever_keeps_a_cluster_from_taking_a_snapshot_is_told_with_a_way_out() {
        for leader in [Leader::Sealed, Leader::Uninitialized, Leader::Nobody { detail: "d".into() }] {
            let Admission::Refuse(refused) = admit(&Facts { leader, ..good() }, at(60)) else { panic!("not refused") };
            let ways = ["restore into a new cluster", "delete it and its volume claims", "docs/troubleshooting.md"];
            assert!(ways.iter().any(|way| refused.message.contains(way)), "{}", refused.message);
        }
    }

    #[test]
    fn a_cluster_that_is_being_made_is_waited_for_longer_than_one_that_fails() {
        let mut facts = Facts { leader: Leader::Nobody { detail: "d".into() }, ..good() };
        facts.cluster.as_mut().unwrap().created = Some(at(-30));
        assert_eq!(refused(&facts, 60), "NoLeader");
        facts.cluster.as_mut().unwrap().initialized = false;
        assert_eq!(waits(&facts, 269), "ClusterNotInitialized");
        assert_eq!(refused(&facts, 270), "ClusterNotInitialized");
    }

    #[test]
    fn what_is_wrong_is_refused_at_once_with_the_field_named() {
        let mut replaced = good();
        replaced.cluster.as_mut().unwrap().uid = "another".into();
        let mut deleting = good();
        deleting.cluster.as_mut().unwrap().deleting = true;
        let mut upgrading = good();
        upgrading.cluster.as_mut().unwrap().upgrading_to = Some("2.7.2".into());
        let mut incomplete = good();
        incomplete.needs[0].state = NeedState::Lacks("token".into());
        let mut own = good();
        own.needs[0].state = NeedState::Own("ledger".into());
        let source =
            |key: Option<&str>, latest| Source { key: key.map(Into::into), latest, before: None, target: Ok(()) };
        let cases = [
            (Facts { override_lock: true, ..good() }, "OverrideNeedsForce"),
            (Facts { cluster: None, ..good() }, "ClusterGone"),
            (replaced, "ClusterReplaced"),
            (deleting, "ClusterDeleting"),
            (upgrading, "ClusterUpgrading"),
            (incomplete, "ObjectIncomplete"),
            (own, "ObjectNotAllowed"),
            (Facts { image: Err("spec.image evil".into()), ..good() }, "ImageNotAllowed"),
            (Facts { login: Login::Nobody, ..good() }, "NoCredentials"),
            (Facts { source: source(Some("a"), true), ..good() }, "SourceAmbiguous"),
            (Facts { source: source(None, false), ..good() }, "SourceAmbiguous"),
            (Facts { source: source(Some("a/../b"), false), ..good() }, "KeyInvalid"),
            (Facts { source: source(Some("/a"), false), ..good() }, "KeyInvalid"),
            (
                Facts { source: Source { target: Err("no bucket".into()), ..source(None, true) }, ..good() },
                "TargetInvalid",
            ),
        ];
        for (facts, reason) in cases {
            assert_eq!(refused(&facts, 0), reason);
        }
    }

    #[test]
    fn a_safety_backup_that_has_nowhere_to_go_is_refused_before_anything_is_downloaded() {
        assert_eq!(refused(&Facts { lacks_target: true, ..good() }, 0), "NoBackupTarget");
    }

    #[test]
    fn what_is_wrong_is_told_even_while_something_else_is_still_missing() {
        let facts = Facts { cluster: None, pinned_uid: None, leader: Leader::NotAsked, override_lock: true, ..good() };
        assert_eq!(refused(&facts, 0), "OverrideNeedsForce");
    }

    #[test]
    fn force_waives_the_clusters_state_but_never_an_unsealed_leader() {
        let mut facts = Facts { force: true, ..good() };
        let cluster = facts.cluster.as_mut().unwrap();
        cluster.initialized = false;
        cluster.upgrading_to = Some("2.7.2".into());
        assert_eq!(admit(&facts, at(0)), Admission::Go);
        facts.leader = Leader::Sealed;
        assert_eq!(refused(&facts, 61), "ClusterSealed");
    }

    #[test]
    fn servers_that_a_rollback_left_half_restored_take_no_restore_and_force_waives_that_not() {
        let mut facts = good();
        facts.cluster.as_mut().unwrap().half_restored = Some("create another Rollback".into());
        for force in [false, true] {
            assert_eq!(refused(&Facts { force, ..facts.clone() }, 0), "RollbackUnfinished", "force: {force}");
        }
    }

    #[test]
    fn a_retention_that_does_not_know_of_the_restore_is_waited_for_and_named() {
        let facts = Facts { retention: Some("bank/ledger-backup-1".into()), force: true, ..good() };
        let Admission::Wait { reason, message, until: None } = admit(&facts, at(100_000)) else { panic!("goes") };
        assert!(reason == "RetentionRuns" && message.contains("bank/ledger-backup-1"), "{message}");
    }

    #[test]
    fn a_missing_annotation_is_waited_for_one_minute_and_named() {
        let mut facts = good();
        facts.needs[0].state = NeedState::Unannotated("iam.gke.io/gcp-service-account".into());
        assert_eq!(waits(&facts, 59), "ObjectIncomplete");
        let Admission::Refuse(refused) = admit(&facts, at(60)) else { panic!("not refused") };
        assert!(refused.message.contains("iam.gke.io/gcp-service-account"), "{}", refused.message);
        assert!(refused.message.contains("leave it out of the restore"), "{}", refused.message);
    }

    #[test]
    fn a_paused_cluster_is_waited_for_without_end() {
        let mut facts = good();
        facts.cluster.as_mut().unwrap().paused = true;
        assert_eq!(waits(&facts, 100_000), "ClusterPaused");
    }
}
