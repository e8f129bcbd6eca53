//! The proof of the seal: only the operator may read a static key, so only it can tell whether a backup opens with it.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::frozen::{self, Seal};
use super::key::{InUse, Keys, NoKeys};
use super::manager::{SNAPSHOT, VERIFY_SEAL};
use super::mover::MoverError;
use super::steps::{Work, failed, output};
use crate::api::{OpenBaoOperation, OperationKind, StepState, StepStatus};
use crate::datapath::seal::{self, SealError};
use crate::service::opslifecycle::StepOutcome;

/// The reason where even the kind of seal differs.
const SEAL_OTHER_TYPE: &str = "SealOtherType";
/// The reason where the key may not be the one that the servers have. It says nothing about the backup.
const NOT_SETTLED: &str = "SealNotSettled";

/// How the verdict on a backup begins that the key of its time has opened.
pub(super) const PROVEN: &str = "proven";

/// What the mover reported.
pub(super) struct Proof<'a> {
    /// `SHA256SUMS.sealed` and `SHA256SUMS` of the archive.
    pub(super) sealed_sums: Vec<u8>,
    pub(super) sums: Vec<u8>,
    /// The seal as the archive names it.
    kind: &'a str,
    /// The id of the OpenBao cluster whose data it is; an earlier release did not write it down.
    pub(super) data: Option<&'a str>,
}

impl<'a> Proof<'a> {
    /// Out of what the step put out that had the report.
    pub(super) fn of(told: impl Fn(&str) -> Option<&'a str>) -> Self {
        let bytes = |key| STANDARD.decode(told(key).unwrap_or_default()).unwrap_or_default();
        Self {
            sealed_sums: bytes(output::SEALED_SUMS),
            sums: bytes(output::SUMS),
            kind: told(output::SEAL_TYPE).unwrap_or_default(),
            data: told(output::OPENBAO_CLUSTER_ID),
        }
    }

    /// Of the same cluster object, and yet of data that came from another one, with a key that may be another.
    fn is_of_other_data(&self, than: &Proof<'_>) -> bool {
        self.data.zip(than.data).is_some_and(|(ours, theirs)| ours != theirs)
    }

    fn is_of_another_kind(&self, seal: &Seal) -> bool {
        !self.kind.is_empty() && self.kind != seal.kind
    }
}

/// Why there is no proof.
#[derive(Debug)]
pub(super) enum Refused {
    /// The key could not be read, or is not known to be the servers': says nothing about the backup.
    Unreadable(Box<StepOutcome>),
    /// The backup does not open with this cluster's key.
    NotProven { reason: &'static str, message: String },
}

/// Proves that this cluster's key opens the backup; the answer is a sentence for the journal.
pub(super) async fn prove(work: &Work<'_>, proof: &Proof<'_>) -> Result<String, Refused> {
    let seal = &work.frozen.seal;
    // Without its key that is known already.
    let keys = if proof.is_of_another_kind(seal) { None } else { keys(work).await.map_err(Refused::Unreadable)? };
    let operations = work.call.ad.caches.operations_of(&work.operation.namespace, &work.operation.cluster);
    let good = last_good(&operations, &work.frozen.cluster_uid);
    judge(seal, &work.key, keys.as_ref(), good.as_ref(), proof)
}

/// Pure part of [`prove`]. `keys`: what the Secret in use holds, where it may be read; `good`: the last backup that was good.
fn judge(
    seal: &Seal,
    in_use: &InUse,
    keys: Option<&Keys>,
    good: Option<&Proof<'_>>,
    proof: &Proof<'_>,
) -> Result<String, Refused> {
    if proof.is_of_another_kind(seal) {
        return Err(Refused::NotProven {
            reason: SEAL_OTHER_TYPE,
            message: format!("the snapshot is sealed with {}, this cluster with {}", proof.kind, seal.kind),
        });
    }
    let (Some(secret), Some(keys), Some(id)) = (&in_use.secret, keys, &seal.key_id) else {
        return Ok(format!(
            "not proven: the operator has no key of seal {} to read; everything else was checked",
            seal.kind
        ));
    };
    let Err(error) = keys.prove(id, &proof.sealed_sums, &proof.sums) else {
        return Ok(format!("{PROVEN}: it opens with key {id}"));
    };
    let stays = |reason, why: &str| {
        let message = format!("Secret {secret}: {error}. The backup stays as it is, not proven{why}");
        Err(Refused::Unreadable(Box::new(StepOutcome::fatal(reason, message))))
    };
    match (&error, in_use.unsettled.clone().or_else(|| unproven(keys, id, good, proof))) {
        // A key that is none says nothing about the backup.
        (SealError::KeyLength(_), _) => stays(error.reason(), ""),
        // These no other key would mend: what it opened was sealed with it, and what cannot be read asks for none.
        (SealError::Malformed | SealError::OtherSums, _) | (_, None) => {
            Err(Refused::NotProven { reason: error.reason(), message: error.to_string() })
        }
        // Nor does what a key does not open that may be another than the servers'.
        (_, Some(why)) => stays(
            NOT_SETTLED,
            &format!(
                ", because that key may not be the one which seals the servers' data ({why}): mend that, then back up again"
            ),
        ),
    }
}

/// Why these keys may not condemn a backup. Servers read theirs when they start, and somebody may have put another into the
/// Secret since: what opens no earlier backup is not known to be theirs.
fn unproven(keys: &Keys, key_id: &str, good: Option<&Proof<'_>>, proof: &Proof<'_>) -> Option<String> {
    match good {
        None => Some("no backup of this cluster has been opened with it before".to_owned()),
        // A restore whose record is gone by now, or that somebody made by hand.
        Some(good) if good.is_of_other_data(proof) => {
            Some("the last good backup is of other data, which another OpenBao cluster wrote".to_owned())
        }
        Some(good) if keys.prove(key_id, &good.sealed_sums, &good.sums).is_ok() => None,
        Some(_) => Some(
            "it does not open the last good backup either; if somebody has changed it, a server that starts now stays sealed"
                .to_owned(),
        ),
    }
}

/// What the journal of [`newest_good`] holds of its archive.
fn last_good<'a>(operations: &'a [Arc<OpenBaoOperation>], cluster_uid: &str) -> Option<Proof<'a>> {
    newest_good(operations, cluster_uid).map(|(_, _, proof)| proof)
}

/// Of these operations, the newest backup of the cluster with this UID that was found good, with the step that says so. One from
/// before the servers were given other data tells nothing: that may be sealed with another key.
pub(super) fn newest_good<'a>(
    operations: &'a [Arc<OpenBaoOperation>],
    cluster_uid: &str,
) -> Option<(&'a OpenBaoOperation, &'a StepStatus, Proof<'a>)> {
    let good = operations.iter().filter_map(|operation| {
        let status = operation.status.as_ref()?;
        let ours = status.inputs.get(frozen::CLUSTER_UID).is_some_and(|uid| uid == cluster_uid);
        Some((&**operation, found_good(operation)?, proof_of(operation).filter(|_| ours)?))
    });
    let replaces = |kind| matches!(kind, OperationKind::Restore | OperationKind::Rollback);
    let replaced = operations.iter().filter(|operation| replaces(operation.spec.operation));
    let replaced = replaced.filter_map(|operation| operation.status.as_ref()?.point_of_no_return_at).max();
    good.filter(|(_, found, _)| found.completed_at > replaced).max_by_key(|(_, found, _)| found.completed_at)
}

/// The step that found the archive of this backup good.
fn found_good(operation: &OpenBaoOperation) -> Option<&StepStatus> {
    let mut steps = operation.status.iter().flat_map(|status| &status.steps);
    steps.find(|step| step.name == VERIFY_SEAL && step.state == StepState::Completed)
}

/// What was ordered stays ordered: a backup that is being removed is not called good, whatever the key opens by now.
pub(super) fn stands(verdict: Result<String, Refused>, being_discarded: bool) -> Result<String, Refused> {
    match verdict {
        Err(refuted @ Refused::NotProven { .. }) => Err(refuted),
        _ if being_discarded => Err(Refused::NotProven {
            reason: SealError::DoesNotOpen.reason(),
            message:
                "it did not open with this cluster's key when its removal was ordered, whatever that key opens by now: \
                      back up again"
                    .to_owned(),
        }),
        verdict => verdict,
    }
}

/// What is to become of what failed backups left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Whole backups that do not open. They go although they have a manifest: a restore of the latest would find them on the worst day.
    pub(super) remove: Vec<String>,
    /// Keys under which nothing stays without a manifest. What has one is spared, and no place under the rules is taken by it.
    pub(super) clean: Vec<String>,
}

/// Judges what failed backups left by what their journals hold of the archives. What a record says is not enough: the Secret may have
/// been wrong then. What opens now is in neither list: the rules count it, and remove it, like any other. `operations`: all of the
/// cluster.
pub(super) async fn judged_anew(work: &Work<'_>, left: Vec<String>, operations: &[Arc<OpenBaoOperation>]) -> Left {
    if !operations.iter().any(|of| key_of(of).is_some_and(|key| left.contains(key)) && proof_of(of).is_some()) {
        return Left { clean: left, ..Left::default() };
    }
    let Ok(keys) = keys(work).await else { return Left { clean: left, ..Left::default() } };
    let good = last_good(operations, &work.frozen.cluster_uid);
    sorted(left, operations, &work.frozen.seal, &work.key, keys.as_ref(), good.as_ref())
}

/// Pure part of [`judged_anew`].
fn sorted(
    left: Vec<String>,
    operations: &[Arc<OpenBaoOperation>],
    seal: &Seal,
    in_use: &InUse,
    keys: Option<&Keys>,
    good: Option<&Proof<'_>>,
) -> Left {
    let mut sorted = Left::default();
    for key in left {
        let made = operations.iter().find(|of| key_of(of) == Some(&key));
        // It was stopped after that. The cluster may have been given another key since, with a restore of another one's data.
        if made.is_some_and(|of| found_good(of).is_some()) {
            continue;
        }
        match made.and_then(|of| proof_of(of)).map(|proof| judge(seal, in_use, keys, good, &proof)) {
            Some(Err(Refused::NotProven { .. })) => sorted.remove.push(key),
            Some(Ok(_)) if keys.is_some() => {}
            Some(_) | None => sorted.clean.push(key),
        }
    }
    sorted
}

/// The key that a backup was to be stored under.
fn key_of(operation: &OpenBaoOperation) -> Option<&String> {
    operation.status.as_ref()?.inputs.get(frozen::KEY)
}

/// What the journal of a backup holds of its archive.
fn proof_of(operation: &OpenBaoOperation) -> Option<Proof<'_>> {
    let mut steps = operation.status.iter().flat_map(|status| &status.steps);
    let taken = steps.find(|step| step.name == SNAPSHOT)?;
    Some(Proof::of(|name| taken.output.get(name).map(String::as_str))).filter(|proof| !proof.sealed_sums.is_empty())
}

/// A name for the static key, for the manifest; `None` where the operator cannot read the key.
pub(super) async fn fingerprint(work: &Work<'_>) -> Result<Option<String>, Box<StepOutcome>> {
    let (Some(secret), Some(keys)) = (&work.key.secret, keys(work).await?) else { return Ok(None) };
    let print = seal::fingerprint(keys.named());
    print.map(Some).map_err(|error| Box::new(StepOutcome::fatal(error.reason(), format!("Secret {secret}: {error}"))))
}

/// The key that the servers have; `None` where the operator is not to read it, or cannot any more.
async fn keys(work: &Work<'_>) -> Result<Option<Keys>, Box<StepOutcome>> {
    let namespace = &work.operation.namespace;
    work.key.keys(&work.call.ad.client, namespace).await.map_err(|error| {
        Box::new(match error {
            NoKeys::Unread { name, source } => {
                let kind = "Secret".to_owned();
                failed(&MoverError::Request { verb: "read", kind, namespace: namespace.clone(), name, source })
            }
            NoKeys::Missing { .. } => StepOutcome::fatal(
                "UnsealKeyMissing",
                format!("{error}: without it no backup of this cluster can be opened"),
            ),
        })
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    use super::*;
    use crate::adapter::remembered::testing::shared;
    use crate::datapath::archive::{Limits, read};

    const SNAPSHOT_FILE: &[u8] = include_bytes!("../../../tests/datapath/data/static-2.7.2.snap");
    const KEY: &[u8] = include_bytes!("../../../tests/datapath/data/static-2.7.2.key");

    fn seal() -> Seal {
        Seal { kind: "static".into(), key_id: Some("k1".into()) }
    }

    fn in_use(unsettled: Option<&str>) -> InUse {
        InUse { secret: Some("mine".into()), guessed: false, unsettled: unsettled.map(str::to_owned) }
    }

    fn holding(fields: &[(&str, &[u8])]) -> Keys {
        let data = fields.iter().map(|(field, key)| ((*field).to_owned(), ByteString(key.to_vec()))).collect();
        Keys::of(&Secret { data: Some(data), ..Secret::default() }).unwrap()
    }

    fn key(bytes: &[u8]) -> Keys {
        holding(&[("key", bytes)])
    }

    fn proof() -> Proof<'static> {
        let archive = read(SNAPSHOT_FILE, Limits::default()).unwrap();
        Proof { sealed_sums: archive.sealed_sums, sums: archive.sums, kind: "static", data: Some("id-1") }
    }

    /// It says that it was sealed with the key, and was not.
    fn forged() -> Proof<'static> {
        let mut proof = proof();
        proof.sealed_sums[10] ^= 1;
        proof
    }

    fn judged(
        keys: &Keys,
        doubt: Option<&str>,
        good: Option<&Proof<'_>>,
        proof: &Proof<'_>,
    ) -> Result<String, Refused> {
        judge(&seal(), &in_use(doubt), Some(keys), good, proof)
    }

    fn is_none(verdict: &Result<String, Refused>) -> bool {
        matches!(verdict, Err(Refused::NotProven { reason: "SealDoesNotOpen", .. }))
    }

    fn why_it_stays(verdict: Result<String, Refused>) -> String {
        let Err(Refused::Unreadable(outcome)) = verdict else { panic!("it was judged") };
        let StepOutcome::Failed { reason, message, retryable } = *outcome else { panic!("it did not fail") };
        assert_eq!((reason, retryable), (NOT_SETTLED, false));
        assert!(message.contains("stays as it is"), "{message}");
        message
    }

    #[test]
    fn a_backup_that_a_key_does_not_open_is_none_only_where_that_key_is_the_servers() {
        let judged = |proof: &Proof<'_>, doubt| judged(&key(KEY), doubt, Some(&self::proof()), proof);
        assert!(judged(&proof(), None).unwrap().starts_with("proven"));
        assert!(judged(&proof(), Some("they differ")).unwrap().starts_with("proven"), "whoever's key it is");
        assert!(is_none(&judged(&forged(), None)));
        assert!(why_it_stays(judged(&forged(), Some("they differ"))).contains("they differ"));
    }

    #[test]
    fn a_key_that_opens_no_earlier_backup_condemns_none() {
        let other = key(&[7; 32]);
        let changed = why_it_stays(judged(&other, None, Some(&proof()), &proof()));
        assert!(changed.contains("the last good backup"), "{changed}");
        let first = why_it_stays(judged(&other, None, None, &proof()));
        assert!(first.contains("no backup of this cluster"), "{first}");
        why_it_stays(judged(&key(KEY), None, None, &forged()));
        let other_sums = Proof { sums: b"others".to_vec(), ..proof() };
        for (doubt, good) in [(None, None), (Some("they differ"), Some(&proof()))] {
            let verdict = judged(&key(KEY), doubt, good, &other_sums);
            assert!(
                matches!(verdict, Err(Refused::NotProven { reason: "SealOtherSums", .. })),
                "it was sealed with that very key"
            );
        }
        assert!(judged(&key(KEY), None, None, &proof()).is_ok(), "to find one good it need not be known");
    }

    #[test]
    fn a_key_that_opens_the_backups_of_other_data_condemns_none_of_the_data_of_now() {
        let of = |data: Option<&'static str>| Proof { data, ..forged() };
        let verdict = |data| judged(&key(KEY), None, Some(&proof()), &of(data));
        assert!(is_none(&verdict(Some("id-1"))));
        let why = why_it_stays(verdict(Some("id-2")));
        assert!(why.contains("other data"), "{why}");
        assert!(is_none(&verdict(None)), "an earlier release wrote nothing of it");
    }

    #[test]
    fn a_key_is_known_by_the_newest_backup_of_this_cluster_that_was_found_good() {
        let archive = read(SNAPSHOT_FILE, Limits::default()).unwrap();
        let record = |hour: u32, uid: &str, verified: &str, sums: &[u8]| -> Arc<OpenBaoOperation> {
            let output = json!({"sealedSums": STANDARD.encode(&archive.sealed_sums), "sums": STANDARD.encode(sums)});
            let whole = json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "d", "namespace": "reef"},
                "spec": {"cluster": "kelp", "operation": "Backup"},
                "status": {"phase": "Succeeded", "inputs": {"clusterUID": uid}, "steps": [
                    {"name": "Snapshot", "state": "completed", "output": output},
                    {"name": "VerifySeal", "state": verified, "completedAt": format!("2026-11-21T{hour:02}:00:00Z")}]},
            });
            Arc::new(serde_json::from_value(whole).unwrap())
        };
        let good = |operations: &[Arc<OpenBaoOperation>]| {
            let by = |operations: &[Arc<OpenBaoOperation>]| last_good(operations, "c1").map(|proof| proof.sums);
            let [whole, remembered] = shared(operations).map(|operations| by(&operations));
            assert_eq!(whole, remembered);
            by(operations)
        };
        let all = [
            record(3, "c1", "completed", b"three"),
            record(4, "c1", "completed", b"four"),
            record(5, "c1", "failed", b"five"),
            record(6, "c0", "completed", b"six"),
        ];
        assert_eq!(good(&all).as_deref(), Some(b"four".as_slice()));
        assert_eq!(good(&all[2..]), None, "one that failed, and another cluster's of this name");
        let restore = |hour: u32| -> Arc<OpenBaoOperation> {
            let whole = json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "r", "namespace": "reef"},
                "spec": {"cluster": "kelp", "operation": "Restore"},
                "status": {"phase": "Succeeded", "pointOfNoReturnAt": format!("2026-11-21T{hour:02}:00:00Z")},
            });
            Arc::new(serde_json::from_value(whole).unwrap())
        };
        let with = |hour| [all[0].clone(), all[1].clone(), restore(hour)];
        assert_eq!(good(&with(5)), None, "since then the servers have other data, and perhaps another key");
        assert_eq!(good(&with(2)).as_deref(), Some(b"four".as_slice()));
    }

    #[test]
    fn a_backup_that_another_key_of_the_same_secret_opens_is_good() {
        let judged = |old: &[u8], proof: &Proof<'_>| {
            let keys = holding(&[("key", [7; 32].as_slice()), ("old", old)]);
            judged(&keys, None, Some(&self::proof()), proof)
        };
        assert!(judged(KEY, &proof()).unwrap().starts_with("proven"), "the servers have not read yet which one to use");
        let written: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(judged(written.as_bytes(), &proof()).is_ok(), "however it is written");
        assert!(is_none(&judged(KEY, &forged())), "one of them is known to be theirs");
        for other in [&[8_u8; 32] as &[u8], b"a note"] {
            why_it_stays(judged(other, &proof()));
        }
    }

    #[test]
    fn a_backup_whose_removal_was_ordered_is_not_called_good_when_the_key_changes() {
        let proven = || Ok("proven".to_owned());
        let away = || Err(Refused::Unreadable(Box::new(StepOutcome::in_progress("the Secret cannot be read"))));
        assert!(stands(proven(), false).is_ok());
        assert!(matches!(stands(away(), false), Err(Refused::Unreadable(_))));
        for verdict in [proven(), away()] {
            assert!(matches!(stands(verdict, true), Err(Refused::NotProven { reason: "SealDoesNotOpen", .. })));
        }
        let other = Refused::NotProven { reason: SEAL_OTHER_TYPE, message: String::new() };
        assert!(matches!(stands(Err(other), true), Err(Refused::NotProven { reason: SEAL_OTHER_TYPE, .. })));
    }

    #[test]
    fn no_backup_is_removed_on_the_word_of_a_record_that_says_that_it_did_not_open() {
        let (bad, good) = (forged(), proof());
        let output = |proof: &Proof<'_>| {
            let (sealed, sums) = (STANDARD.encode(&proof.sealed_sums), STANDARD.encode(&proof.sums));
            json!({"sealedSums": sealed, "sums": sums, "sealType": "static"})
        };
        let left = || vec!["reef/kelp/d.snap".to_owned()];
        let (goes, stays, counts) =
            (Left { remove: left(), clean: vec![] }, Left { remove: vec![], clean: left() }, Left::default());
        let record = |reason: &str, output: &serde_json::Value, verified: &str| -> Arc<OpenBaoOperation> {
            let whole = json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "d", "namespace": "reef"},
                "spec": {"cluster": "kelp", "operation": "Backup"},
                "status": {"phase": "Failed", "reason": reason, "inputs": {"key": "reef/kelp/d.snap"}, "steps": [
                    {"name": "Snapshot", "state": "completed", "output": output},
                    {"name": "VerifySeal", "state": verified}]},
            });
            Arc::new(serde_json::from_value(whole).unwrap())
        };
        let (right, wrong) = (key(KEY), key(&[7; 32]));
        let stopped = [record("Cancelled", &output(&bad), "completed")];
        let judged = sorted(left(), &stopped, &seal(), &in_use(None), Some(&right), Some(&good));
        assert_eq!(judged, counts, "it was found good with the key of its time");
        for reason in [NOT_SETTLED, "SealDoesNotOpen", "DeadlineExceeded"] {
            let judged = |output: &serde_json::Value, keys: Option<&Keys>, doubt: Option<&str>| {
                let records = [record(reason, output, "failed")];
                sorted(left(), &records, &seal(), &in_use(doubt), keys, Some(&good))
            };
            assert_eq!(judged(&output(&bad), Some(&right), None), goes, "{reason}");
            let known = judged(&output(&good), Some(&right), None);
            assert_eq!(known, counts, "the Secret was wrong, and is right now: the rules make room of it, {reason}");
            assert_eq!(judged(&output(&good), Some(&wrong), None), stays, "it is still wrong, {reason}");
            assert_eq!(judged(&output(&bad), Some(&wrong), None), stays, "it is wrong again, {reason}");
            assert_eq!(
                judged(&output(&bad), Some(&right), Some("they differ")),
                stays,
                "it may be wrong again, {reason}"
            );
            assert_eq!(judged(&output(&good), None, None), stays, "nobody can tell, {reason}");
            assert_eq!(judged(&json!({}), Some(&right), None), stays, "nothing is left to judge it by, {reason}");
        }
    }
}
