//! Which backups retention must spare whatever its rules say, and why. Pure.
//!
//! The newest, and those with a pin beside them in the store, are spared by the retention rules themselves; this is what
//! only the cluster's other objects can tell. An ordinary parent link protects nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::Job;
use kube::{ResourceExt, core::error_boundary::InvalidObject};

use super::found::is_concluded;
use super::jobs::key_read;
use super::request::{KEY, PRE_UPGRADE, SAFETY, is_verification, only_reads, role};
use super::store::Store;
use crate::adapter::kubernetes::readable::{self, Readable};
use crate::adapter::objectstore::keys;
use crate::api::{BackupTarget, OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, RESTORE_FINALIZER};
use crate::service::opslifecycle::lineage;

const WANTED: &str = "a rollback that has not ended goes back to it";

/// Keys and the reason why each must stay.
pub fn protected<'a>(
    cluster: &OpenBaoCluster,
    operations: impl Iterator<Item = &'a OpenBaoOperation> + Clone,
    restores: impl Iterator<Item = &'a OpenBaoRestore>,
) -> BTreeMap<String, String> {
    let mut keep = BTreeMap::new();
    let backup = cluster.status.as_ref().and_then(|status| status.backup.as_ref());
    if let Some(key) = backup.and_then(|backup| backup.last_verified_key.as_ref()) {
        keep.insert(key.clone(), "the last one that was read back and found good".to_owned());
    }
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    for restore in restores.filter(|restore| !has_ended(restore)) {
        let found = restore.status.as_ref().and_then(|status| status.source.as_ref()).map(|source| source.key.clone());
        // Of other keys none is ever removed.
        let read = [restore.spec.source.key.clone(), found].into_iter().flatten();
        for key in read.filter(|key| keys::is_of(key, &namespace, &name)) {
            keep.insert(key, reader(restore, &namespace));
        }
    }
    // Between two attempts no Job says what a verification or a restore test reads.
    for operation in operations.clone().filter(|operation| only_reads(operation) && !operation.has_ended()) {
        let Some(key) = operation.spec.parameters.get(KEY) else { continue };
        let what = if is_verification(operation) { "verification" } else { "restore test" };
        keep.entry(key.clone()).or_insert_with(|| format!("{what} {} reads it", operation.name_any()));
    }
    // What a rollback that has not ended goes back to: the operation it names, and what that one took before itself.
    let wanted: BTreeSet<String> = operations
        .clone()
        .filter(|operation| !operation.has_ended())
        .filter_map(|operation| operation.spec.lineage.as_ref()?.rollback_of.clone())
        .collect();
    // The upgrade's own journal names its backup: the record of the one that took it may be gone by then.
    let revertible = lineage::revertible(operations.clone());
    let names: BTreeSet<String> = revertible.iter().map(|upgrade| upgrade.name_any()).collect();
    for upgrade in operations.clone() {
        let Some(key) = lineage::output(upgrade, lineage::BACKUP_KEY) else { continue };
        let name = upgrade.name_any();
        if wanted.contains(&name) {
            keep.insert(key.to_owned(), WANTED.to_owned());
        } else if names.contains(&name) {
            keep.insert(key.to_owned(), format!("upgrade {name} can be turned back by it"));
        }
    }
    for operation in operations {
        let Some(key) = key_of(operation) else { continue };
        let parent = operation.spec.lineage.as_ref().and_then(|lineage| lineage.parent_operation.as_ref());
        let serves = |names: &BTreeSet<String>| parent.is_some_and(|parent| names.contains(parent));
        if wanted.contains(&operation.name_any()) || (serves(&wanted) && role(operation).is_some()) {
            keep.insert(key, WANTED.to_owned());
        } else if role(operation) == Some(PRE_UPGRADE) && serves(&names) {
            keep.insert(key, "the upgrade that took it can still be turned back".to_owned());
        } else if operation.is_pinned() {
            keep.entry(key).or_insert_with(|| "pinned".to_owned());
        }
    }
    keep
}

/// What goes on in another namespace is nobody's business here: whoever may see a Job sees this.
fn reader(restore: &OpenBaoRestore, namespace: &str) -> String {
    if restore.namespace().unwrap_or_default() == namespace {
        return format!("restore {} reads it", restore.name_any());
    }
    "a restore in another namespace reads it".to_owned()
}

/// Whether a restore may read what lies in `store`, where the backups of a cluster of `namespace` go: one of another namespace only
/// if its target, or else `own`, that of its own cluster, may be the same place. What cannot be told yet counts as one that may.
pub fn may_read(restore: &OpenBaoRestore, own: Option<&BackupTarget>, namespace: &str, store: &Store) -> bool {
    if restore.namespace().as_deref() == Some(namespace) {
        return true;
    }
    let target = restore.spec.source.target.as_ref().or(own);
    // One that cannot be used reads nothing.
    target.is_none_or(|target| Store::freeze(target).is_ok_and(|theirs| store.may_share(&theirs)))
}

/// Keys that Jobs read from end to end right now, and the reason to leave them alone: retention goes on beside a verification.
pub fn read_now<J: AsRef<Job>>(jobs: &[J]) -> BTreeMap<String, String> {
    let live = jobs.iter().map(AsRef::as_ref).filter(|job: &&Job| !is_concluded(job));
    live.filter_map(|job| Some((key_read(job)?, format!("Job {} reads it", job.name_any())))).collect()
}

/// Why no rule may be applied now, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// A restore may mean any of the backups yet. It chooses soon, and nothing is wrong.
    Choosing(String),
    /// Nobody knows what an object that cannot be read relies on, and it stays until somebody sees to it.
    Unreadable(String),
}

impl Held {
    /// What holds the rules back.
    pub fn words(&self) -> &str {
        let (Self::Choosing(words) | Self::Unreadable(words)) = self;
        words
    }
}

/// What holds the rules back. `operations`: those that are, or may be, of this cluster. What one of them relies on its record says
/// also when it has ended; a restore that has ended, or was never looked at, relies on nothing, and has no finalizer of ours.
pub fn held<K>(
    cluster: &OpenBaoCluster,
    restores: &Readable<OpenBaoRestore>,
    operations: &Readable<K>,
) -> Option<Held> {
    if let Some(operation) = operations.unreadable.first() {
        return Some(Held::Unreadable(readable::named::<OpenBaoOperation>(operation)));
    }
    let is_live =
        |restore: &&InvalidObject| restore.metadata.finalizers.iter().flatten().any(|on| on == RESTORE_FINALIZER);
    if let Some(restore) = restores.unreadable.iter().find(is_live) {
        let own = restore.metadata.namespace == cluster.namespace();
        return Some(Held::Unreadable(if own {
            readable::named::<OpenBaoRestore>(restore)
        } else {
            "a restore in another namespace cannot be read: the operator's log names it".to_owned()
        }));
    }
    let name = undecided(cluster, restores.items.iter())?;
    Some(Held::Choosing(format!("restore {name} has not chosen its backup yet")))
}

/// A restore of this cluster's backups by time that has not said yet which one it reads. Until then any of them may be it,
/// and none can be spared by its key.
fn undecided<'a>(cluster: &OpenBaoCluster, mut restores: impl Iterator<Item = &'a OpenBaoRestore>) -> Option<String> {
    // By time a restore reads under its own namespace and cluster only.
    let ours = |restore: &OpenBaoRestore| {
        restore.spec.cluster == cluster.name_any() && restore.namespace() == cluster.namespace()
    };
    let open = |restore: &OpenBaoRestore| {
        restore.spec.source.key.is_none() && restore.status.as_ref().is_none_or(|status| status.source.is_none())
    };
    let found = restores.find(|restore| ours(restore) && open(restore) && !has_ended(restore))?;
    Some(found.name_any())
}

/// Keys of safety backups: they stand outside the counts of the keep rules.
pub fn uncounted<'a>(operations: impl Iterator<Item = &'a OpenBaoOperation>) -> BTreeSet<String> {
    operations.filter(|operation| role(operation) == Some(SAFETY)).filter_map(key_of).collect()
}

fn key_of(operation: &OpenBaoOperation) -> Option<String> {
    operation.status.as_ref()?.artifacts.as_ref()?.key.clone()
}

fn has_ended(restore: &OpenBaoRestore) -> bool {
    restore.status.as_ref().is_some_and(|status| status.phase.is_terminal())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::adapter::remembered::testing::whole_and_remembered;
    use crate::api::PINNED_ANNOTATION;

    fn cluster(verified: Option<&str>) -> OpenBaoCluster {
        serde_json::from_value(json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster", "metadata": {"name": "kelp", "namespace": "reef"},
            "spec": {"version": "2.7.2", "storage": {"size": "1Gi"}}, "status": {"backup": {"lastVerifiedKey": verified}},
        }))
        .unwrap()
    }

    fn operation(name: &str, kind: &str, phase: &str, spec: Value) -> OpenBaoOperation {
        let mut whole = json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": name, "namespace": "reef"},
            "spec": {"cluster": "kelp", "operation": kind},
            "status": {"phase": phase, "artifacts": {"key": format!("{name}.snap")}},
        });
        for (key, value) in spec.as_object().unwrap() {
            whole["spec"][key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn restore(phase: &str, source: Value, found: Option<&str>) -> OpenBaoRestore {
        serde_json::from_value(json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoRestore", "metadata": {"name": "pearl", "namespace": "reef"},
            "spec": {"cluster": "kelp", "source": source},
            "status": {"phase": phase, "source": found.map(|key| json!({"key": key}))},
        }))
        .unwrap()
    }

    /// What stays, by whole records as by what is remembered of them.
    fn keys(operations: &[OpenBaoOperation], restores: &[OpenBaoRestore]) -> Vec<String> {
        let by = |operations: &[OpenBaoOperation]| protected(&cluster(None), operations.iter(), restores.iter());
        let [whole, remembered] = whole_and_remembered(operations).map(|operations| by(&operations));
        assert_eq!(whole, remembered);
        by(operations).into_keys().collect()
    }

    #[test]
    fn the_last_verified_stays() {
        let keep = protected(&cluster(Some("v.snap")), [].iter(), [].iter());
        assert!(keep["v.snap"].contains("read back"));
    }

    #[test]
    fn what_a_live_restore_reads_stays_until_the_restore_has_ended() {
        let named = |phase: &str| restore(phase, json!({"key": "p/reef/kelp/a.snap"}), None);
        assert_eq!(keys(&[], &[named("Validating")]), ["p/reef/kelp/a.snap"]);
        assert_eq!(keys(&[], &[named("Unknown")]), ["p/reef/kelp/a.snap"], "a person may still resume it");
        assert_eq!(keys(&[], &[named("Completed")]), [""; 0]);
        let latest = restore("Running", json!({"latest": true}), Some("reef/kelp/b.snap"));
        assert_eq!(keys(&[], &[latest]), ["reef/kelp/b.snap"], "what latest came to");
    }

    #[test]
    fn a_job_is_not_told_what_restores_elsewhere_read_beside_its_own_clusters_backups() {
        let mut elsewhere = restore("Validating", json!({"key": "lagoon/eel/a.snap"}), None);
        elsewhere.metadata.namespace = Some("lagoon".into());
        assert_eq!(keys(&[], &[elsewhere.clone()]), [""; 0]);
        elsewhere.spec.source.key = Some("p/reef/kelp/a.snap".into());
        let keep = protected(&cluster(None), [].iter(), [elsewhere].iter());
        let reason = &keep["p/reef/kelp/a.snap"];
        assert!(!reason.contains("lagoon") && !reason.contains("pearl"), "{reason}");
    }

    #[test]
    fn a_restore_of_another_namespace_keeps_a_backup_only_if_it_may_reach_where_that_lies() {
        let bucket = |name: &str| -> BackupTarget {
            serde_json::from_value(json!({"bucket": name, "credentialsSecretRef": {"name": "shell"}})).unwrap()
        };
        let store = Store::freeze(&bucket("tide")).unwrap();
        let mut restore = restore("Validating", json!({"key": "reef/kelp/a.snap"}), None);
        assert!(may_read(&restore, Some(&bucket("ebb")), "reef", &store), "whatever its own namespace asks for");
        restore.metadata.namespace = Some("lagoon".into());
        assert!(may_read(&restore, None, "reef", &store), "its cluster may bring its target yet");
        assert!(may_read(&restore, Some(&bucket("tide")), "reef", &store));
        assert!(!may_read(&restore, Some(&bucket("ebb")), "reef", &store));
        restore.spec.source.target = Some(BackupTarget { endpoint: Some("https://a.cove".into()), ..bucket("tide") });
        assert!(may_read(&restore, Some(&bucket("ebb")), "reef", &store), "by another way");
        restore.spec.source.target = Some(bucket("ebb"));
        assert!(!may_read(&restore, Some(&bucket("tide")), "reef", &store));
    }

    #[test]
    fn what_a_verification_reads_stays_until_it_has_been_read() {
        let verification = |phase: &str| {
            let parameters = json!({"mode": "Verify", "key": "a.snap"});
            let mut operation = operation("look", "Backup", phase, json!({"parameters": parameters}));
            operation.status.as_mut().unwrap().artifacts = None;
            operation
        };
        assert_eq!(keys(&[verification("Running")], &[]), ["a.snap"]);
        assert_eq!(keys(&[verification("Failed")], &[]), [""; 0]);
        let job = |word: &str, conditions: Value| -> Job {
            let variables = json!([{"name": "MOVER_KEY", "value": "b.snap"}]);
            let containers = json!([{"name": "mover", "env": variables}]);
            serde_json::from_value(json!({
                "metadata": {"name": "look-verify", "labels": {"app.kubernetes.io/component": word}},
                "spec": {"template": {"spec": {"containers": containers}}}, "status": {"conditions": conditions},
            }))
            .unwrap()
        };
        let read = |word: &str, conditions: Value| -> Vec<String> {
            read_now(&[Box::new(job(word, conditions))]).into_keys().collect()
        };
        assert_eq!(read("verify", json!([])), ["b.snap"]);
        assert_eq!(read("verify", json!([{"type": "Complete", "status": "True"}])), [""; 0], "it has been read");
        assert_eq!(read("backup", json!([])), [""; 0], "that one writes it");
    }

    #[test]
    fn what_a_restore_test_was_told_to_restore_stays_until_the_test_has_ended() {
        let test = |phase: &str, parameters: Value| {
            let mut operation = operation("trial", "RestoreTest", phase, json!({"parameters": parameters}));
            operation.status.as_mut().unwrap().artifacts = None;
            operation
        };
        let named = json!({"key": "a.snap"});
        assert_eq!(keys(&[test("Running", named.clone())], &[]), ["a.snap"]);
        assert_eq!(keys(&[test("Pending", json!({}))], &[]), [""; 0], "which one that is its Job says");
        for ended in ["Succeeded", "Failed"] {
            assert_eq!(keys(&[test(ended, named.clone())], &[]), [""; 0], "{ended}");
        }
        let keep = protected(&cluster(None), [test("Running", named)].iter(), [].iter());
        assert_eq!(keep["a.snap"], "restore test trial reads it");
    }

    fn upgrade(name: &str, minute: u32, phase: &str, past: bool) -> OpenBaoOperation {
        let mut upgrade = operation(name, "Upgrade", phase, json!({}));
        upgrade.metadata.creation_timestamp =
            Some(serde_json::from_value(json!(format!("2026-11-21T12:{minute:02}:00Z"))).unwrap());
        let status = upgrade.status.as_mut().unwrap();
        status.artifacts = None;
        status.point_of_no_return_at = past.then(|| "2026-11-21T13:00:00Z".parse().unwrap());
        let step =
            json!({"name": "PreUpgradeBackup", "output": {"backup": "gone", "backupKey": format!("{name}-pre.snap")}});
        status.steps = vec![serde_json::from_value(step).unwrap()];
        upgrade
    }

    #[test]
    fn a_pre_upgrade_backup_stays_while_its_upgrade_runs_and_an_ordinary_parent_protects_nothing() {
        let running = operation("up", "Upgrade", "Running", json!({}));
        let lineage = json!({"parentOperation": "up"});
        let before =
            operation("pre", "Backup", "Succeeded", json!({"lineage": lineage, "parameters": {"role": "PreUpgrade"}}));
        let ordinary = operation("nightly", "Backup", "Succeeded", json!({"lineage": lineage}));
        assert_eq!(keys(&[running, before.clone(), ordinary.clone()], &[]), ["pre.snap"]);
        let undone = operation("up", "Upgrade", "Failed", json!({}));
        assert_eq!(keys(&[undone, before, ordinary], &[]), [""; 0]);
    }

    #[test]
    fn the_backup_that_a_rollback_would_need_stays_after_its_upgrade_has_ended() {
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(keys(&[upgrade("up", 1, phase, true)], &[]), ["up-pre.snap"], "{phase}");
        }
        assert_eq!(keys(&[upgrade("up", 1, "Running", false)], &[]), ["up-pre.snap"]);
        assert_eq!(keys(&[upgrade("up", 1, "Failed", false)], &[]), [""; 0], "undone: nothing is left to go back from");
        assert_eq!(keys(&[upgrade("up", 1, "RolledBack", true)], &[]), [""; 0]);
        let later = [upgrade("up", 1, "Succeeded", true), upgrade("then", 2, "Succeeded", true)];
        assert_eq!(keys(&later, &[]), ["then-pre.snap"], "only the last one can be rolled back");
    }

    #[test]
    fn what_a_person_pinned_stays() {
        let pin = |value: &str| {
            let mut backup = operation("keep", "Backup", "Succeeded", json!({}));
            backup.metadata.annotations = Some([(PINNED_ANNOTATION.to_owned(), value.to_owned())].into());
            backup
        };
        let keep = protected(&cluster(None), [pin("true")].iter(), [].iter());
        assert_eq!(keep.get("keep.snap").map(String::as_str), Some("pinned"));
        assert_eq!(keys(&[pin("false")], &[]), [""; 0]);
    }

    #[test]
    fn what_a_rollback_goes_back_to_stays() {
        let rollback = operation("back", "Rollback", "Pending", json!({"lineage": {"rollbackOf": "up"}}));
        let upgrade = operation("up", "Upgrade", "Failed", json!({}));
        let before = operation(
            "pre",
            "Backup",
            "Succeeded",
            json!({"lineage": {"parentOperation": "up"}, "parameters": {"role": "PreUpgrade"}}),
        );
        assert_eq!(keys(&[rollback, upgrade, before], &[]), ["pre.snap", "up.snap"]);
    }

    #[test]
    fn safety_backups_are_not_counted() {
        let safety = operation("s", "Backup", "Succeeded", json!({"parameters": {"role": "Safety"}}));
        let plain = operation("p", "Backup", "Succeeded", json!({}));
        assert_eq!(uncounted([safety, plain].iter()).into_iter().collect::<Vec<_>>(), ["s.snap"]);
    }

    #[test]
    fn a_live_restore_that_cannot_be_read_holds_retention_back_and_is_named_where_it_is() {
        let odd = |namespace: &str, finalizers: Value| {
            let whole = json!([{
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoRestore",
                "metadata": {"name": "pearl", "namespace": namespace, "finalizers": finalizers},
                "spec": {"cluster": "kelp", "source": {"key": "a.snap"}}, "status": {"phase": "Dreaming"},
            }]);
            let mut restores = Readable::<OpenBaoRestore>::default();
            restores.add(serde_json::from_value(whole).unwrap(), |_| true);
            held(&cluster(None), &restores, &Readable::<OpenBaoOperation>::default())
        };
        let live = |namespace: &str| match odd(namespace, json!([RESTORE_FINALIZER])) {
            Some(Held::Unreadable(words)) => words,
            other => panic!("not held by it: {other:?}"),
        };
        let own = live("reef");
        assert!(own.contains("reef/pearl") && own.contains("Dreaming"), "{own}");
        let elsewhere = live("lagoon");
        assert!(!elsewhere.contains("lagoon") && !elsewhere.contains("pearl"), "{elsewhere}");
        for namespace in ["reef", "lagoon"] {
            assert_eq!(odd(namespace, json!([])), None, "it has ended, or nobody ever looked at it");
            assert_eq!(odd(namespace, json!(["foregroundDeletion"])), None, "that is somebody else's");
        }
    }

    #[test]
    fn an_operation_that_cannot_be_read_holds_retention_back_because_nobody_knows_what_it_protects() {
        let mut whole = serde_json::to_value([operation("up", "Upgrade", "Succeeded", json!({}))]).unwrap();
        whole[0]["spec"]["operation"] = json!("Teleport");
        let mut operations = Readable::<OpenBaoOperation>::default();
        operations.add(serde_json::from_value(whole).unwrap(), |_| true);
        let Some(Held::Unreadable(words)) = held(&cluster(None), &Readable::default(), &operations) else {
            panic!("not held")
        };
        assert!(words.contains("OpenBaoOperation reef/up") && words.contains("Teleport"), "{words}");
    }

    #[test]
    fn a_restore_that_chooses_holds_retention_back_without_anything_being_wrong() {
        let choosing = restore("Validating", json!({"latest": true}), None);
        let restores = Readable { items: vec![choosing], unreadable: vec![] };
        let held = held(&cluster(None), &restores, &Readable::<OpenBaoOperation>::default());
        let Some(Held::Choosing(words)) = held else { panic!("{held:?}") };
        assert!(words.contains("pearl"), "{words}");
    }

    #[test]
    fn a_restore_by_time_that_has_not_chosen_yet_holds_retention_back() {
        let undecided = |restore: OpenBaoRestore| undecided(&cluster(None), [restore].iter());
        let before = json!({"before": "2026-11-20T12:00:00Z"});
        assert_eq!(undecided(restore("Validating", before.clone(), None)).as_deref(), Some("pearl"));
        assert_eq!(undecided(restore("Validating", json!({"latest": true}), None)).as_deref(), Some("pearl"));
        assert_eq!(undecided(restore("Validating", before.clone(), Some("b.snap"))), None, "it has chosen");
        assert_eq!(undecided(restore("Failed", before.clone(), None)), None, "it has ended");
        assert_eq!(undecided(restore("Validating", json!({"key": "a.snap"}), None)), None, "it was told");
        let mut elsewhere = restore("Validating", before, None);
        elsewhere.metadata.namespace = Some("lagoon".into());
        assert_eq!(undecided(elsewhere), None, "it reads under its own namespace");
    }
}
