//! The proof of the seal: only the operator may read a static key, so only it can tell whether a backup opens with it.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::frozen::{self, Seal};
use super::key::{InUse, Keys};
use super::manager::SNAPSHOT;
use super::mover::MoverError;
use super::steps::{Work, failed, output};
use crate::adapter::kubernetes::client::timed;
use crate::api::OpenBaoOperation;
use crate::datapath::seal::{self, SealError};
use crate::service::cluster::names;
use crate::service::opslifecycle::StepOutcome;

/// The reason where even the kind of seal differs.
pub(super) const SEAL_OTHER_TYPE: &str = "SealOtherType";
/// The reason where the key may not be the one that the servers have. It says nothing about the backup.
const NOT_SETTLED: &str = "SealNotSettled";

/// What the mover reported.
pub(super) struct Proof<'a> {
    /// `SHA256SUMS.sealed` and `SHA256SUMS` of the archive.
    sealed_sums: Vec<u8>,
    sums: Vec<u8>,
    /// The seal as the archive names it.
    kind: &'a str,
}

impl<'a> Proof<'a> {
    /// Out of what the step put out that had the report.
    pub(super) fn of(told: impl Fn(&str) -> Option<&'a str>) -> Self {
        let bytes = |key| STANDARD.decode(told(key).unwrap_or_default()).unwrap_or_default();
        Self {
            sealed_sums: bytes(output::SEALED_SUMS),
            sums: bytes(output::SUMS),
            kind: told(output::SEAL_TYPE).unwrap_or_default(),
        }
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
    judge(seal, &work.key, keys.as_ref(), proof)
}

/// Pure part of [`prove`]. `keys`: what the Secret in use holds, where it may be read.
fn judge(seal: &Seal, in_use: &InUse, keys: Option<&Keys>, proof: &Proof<'_>) -> Result<String, Refused> {
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
        return Ok(format!("proven: it opens with key {id}"));
    };
    let stays = |reason, why: &str| {
        let message = format!("Secret {secret}: {error}. The backup stays as it is, not proven{why}");
        Err(Refused::Unreadable(Box::new(StepOutcome::fatal(reason, message))))
    };
    match (&error, &in_use.unsettled) {
        // A key that is none says nothing about the backup.
        (SealError::KeyLength(_), _) => stays(error.reason(), ""),
        // Nor does one that may be another than the servers'.
        (_, Some(why)) => stays(
            NOT_SETTLED,
            &format!(
                ", because that key may not be the one which seals the servers' data ({why}): mend that, then back up again"
            ),
        ),
        (_, None) => Err(Refused::NotProven { reason: error.reason(), message: error.to_string() }),
    }
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

/// Of the keys of earlier backups that did not open, those that do not open now either. What a record says is not enough: the
/// Secret may have been wrong, and the backup good. `operations`: all of the cluster.
pub(super) async fn still_disproven(work: &Work<'_>, operations: &[Arc<OpenBaoOperation>]) -> Vec<String> {
    if work.frozen.disproven.is_empty() {
        return Vec::new();
    }
    let Ok(keys) = keys(work).await else { return Vec::new() };
    let refuted = |of: &OpenBaoOperation| is_refuted(of, &work.frozen.seal, &work.key, keys.as_ref());
    let made = |key: &String| operations.iter().map(|of| &**of).find(|of| key_of(of) == Some(key));
    work.frozen.disproven.iter().filter(|key| made(key).is_some_and(refuted)).cloned().collect()
}

/// The key that a backup was to be stored under.
fn key_of(operation: &OpenBaoOperation) -> Option<&String> {
    operation.status.as_ref()?.inputs.get(frozen::KEY)
}

/// Whether what the journal of a backup holds of the archive does not open.
fn is_refuted(operation: &OpenBaoOperation, seal: &Seal, in_use: &InUse, keys: Option<&Keys>) -> bool {
    let mut steps = operation.status.iter().flat_map(|status| &status.steps);
    let Some(taken) = steps.find(|step| step.name == SNAPSHOT) else { return false };
    let proof = Proof::of(|name| taken.output.get(name).map(String::as_str));
    !proof.sealed_sums.is_empty() && matches!(judge(seal, in_use, keys, &proof), Err(Refused::NotProven { .. }))
}

/// A name for the static key, for the manifest; `None` where the operator cannot read the key.
pub(super) async fn fingerprint(work: &Work<'_>) -> Result<Option<String>, Box<StepOutcome>> {
    let (Some(secret), Some(keys)) = (&work.key.secret, keys(work).await?) else { return Ok(None) };
    let print = seal::fingerprint(keys.named());
    print.map(Some).map_err(|error| Box::new(StepOutcome::fatal(error.reason(), format!("Secret {secret}: {error}"))))
}

/// The Secret with the key that the servers have; `None` where the operator is not to read it, or cannot any more.
async fn keys(work: &Work<'_>) -> Result<Option<Keys>, Box<StepOutcome>> {
    let Some(secret) = &work.key.secret else { return Ok(None) };
    let namespace = &work.operation.namespace;
    let api: Api<Secret> = Api::namespaced(work.call.ad.client.clone(), namespace);
    let found = timed(api.get_opt(secret)).await.map_err(|source| {
        let (kind, name) = ("Secret".to_owned(), secret.clone());
        Box::new(failed(&MoverError::Request { verb: "read", kind, namespace: namespace.clone(), name, source }))
    })?;
    match found.as_ref().and_then(Keys::of) {
        Some(keys) => Ok(Some(keys)),
        // The servers have it under a name that nobody tells any more, or from a Secret that is gone.
        None if work.key.guessed => Ok(None),
        None => Err(Box::new(StepOutcome::fatal(
            "UnsealKeyMissing",
            format!(
                "Secret {namespace}/{secret} has no data key {}: without it no backup of this cluster can be opened",
                names::UNSEAL_KEY_FIELD
            ),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;
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
        Proof { sealed_sums: archive.sealed_sums, sums: archive.sums, kind: "static" }
    }

    #[test]
    fn a_backup_that_a_key_does_not_open_is_none_only_where_that_key_is_the_servers() {
        let judged = |bytes: &[u8], doubt| judge(&seal(), &in_use(doubt), Some(&key(bytes)), &proof());
        assert!(judged(KEY, None).unwrap().starts_with("proven"));
        assert!(judged(KEY, Some("they differ")).unwrap().starts_with("proven"), "whoever's key it is");
        assert!(matches!(judged(&[7; 32], None), Err(Refused::NotProven { reason: "SealDoesNotOpen", .. })));
        let Err(Refused::Unreadable(outcome)) = judged(&[7; 32], Some("they differ")) else { panic!("it was judged") };
        let StepOutcome::Failed { reason, message, retryable } = *outcome else { panic!("it did not fail") };
        assert_eq!((reason, retryable), (NOT_SETTLED, false));
        assert!(message.contains("they differ") && message.contains("stays as it is"), "{message}");
        assert!(!SealError::REASONS.contains(&NOT_SETTLED), "its record does not order it away");
    }

    #[test]
    fn a_backup_that_another_key_of_the_same_secret_opens_is_good() {
        let judged = |old: &[u8]| {
            judge(&seal(), &in_use(None), Some(&holding(&[("key", [7; 32].as_slice()), ("old", old)])), &proof())
        };
        assert!(judged(KEY).unwrap().starts_with("proven"), "the servers have not read yet which one they are to use");
        let written: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(judged(written.as_bytes()).is_ok(), "however it is written");
        for other in [&[8_u8; 32] as &[u8], b"a note"] {
            assert!(matches!(judged(other), Err(Refused::NotProven { reason: "SealDoesNotOpen", .. })));
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
        let archive = read(SNAPSHOT_FILE, Limits::default()).unwrap();
        let (sealed, sums) = (STANDARD.encode(&archive.sealed_sums), STANDARD.encode(&archive.sums));
        let record = |output: serde_json::Value| -> OpenBaoOperation {
            serde_json::from_value(json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "d", "namespace": "reef"},
                "spec": {"cluster": "kelp", "operation": "Backup"},
                "status": {"phase": "Failed", "reason": "SealDoesNotOpen", "inputs": {"key": "reef/kelp/d.snap"},
                    "steps": [{"name": "Snapshot", "state": "completed", "output": output}]},
            }))
            .unwrap()
        };
        let whole = record(json!({"sealedSums": sealed, "sums": sums, "sealType": "static"}));
        let refuted =
            |of: &OpenBaoOperation, bytes: &[u8], doubt| is_refuted(of, &seal(), &in_use(doubt), Some(&key(bytes)));
        assert!(refuted(&whole, &[7; 32], None));
        assert!(!refuted(&whole, KEY, None), "the Secret was wrong, and is right now");
        assert!(!refuted(&whole, &[7; 32], Some("they differ")), "it may be wrong again");
        assert!(!refuted(&record(json!({})), &[7; 32], None), "nothing is left to judge it by");
        assert_eq!(key_of(&whole).map(String::as_str), Some("reef/kelp/d.snap"));
    }
}
