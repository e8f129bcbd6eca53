//! What backups know of the key that the data of now is sealed with, before any server restarts with another. Pure.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use kube::ResourceExt;
use secrecy::SecretSlice;

use super::seal::{self, PROVEN};
use super::steps::output;
use crate::api::OpenBaoOperation;
use crate::datapath::seal::{KEY_LENGTH, SealError, prove};

/// The newest good backup of a cluster, where the key of its time has opened it.
#[derive(Debug)]
pub struct Opened {
    name: String,
    at: DateTime<Utc>,
    /// The id of the OpenBao cluster whose data it is.
    data: String,
    sealed_sums: Vec<u8>,
    sums: Vec<u8>,
}

impl Opened {
    /// Out of the operations of the cluster with this UID. `data` is the id that its leader names now: the record of a restore may
    /// be gone, and with it all that tells of data that came with another key. An id is of one key for ever.
    pub fn newest(operations: &[Arc<OpenBaoOperation>], cluster_uid: &str, data: Option<&str>) -> Option<Self> {
        let data = data?;
        let (operation, found, proof) = seal::newest_good(operations, cluster_uid)?;
        let proven = found.output.get(output::SEAL).is_some_and(|verdict| verdict.starts_with(PROVEN));
        if !proven || proof.data != Some(data) {
            return None;
        }
        let (name, at) = (operation.name_any(), found.completed_at?);
        Some(Self { name, at, data: data.to_owned(), sealed_sums: proof.sealed_sums, sums: proof.sums })
    }

    /// Why no server would open its data with this key, which stands under `field` of Secret `name`.
    pub fn flaw_of(&self, key: &[u8; KEY_LENGTH], key_id: &str, field: &str, name: &str) -> Option<String> {
        let opens = prove(&SecretSlice::from(key.to_vec()), key_id, &self.sealed_sums, &self.sums);
        (opens == Err(SealError::DoesNotOpen)).then(|| {
            format!(
                "key `{field}` of Secret {name} is another one than that which the servers' data is sealed with: it does not open \
                 backup {} of {}, which is of the same data (OpenBao cluster {}) and was opened with the key of then. The servers that \
                 run have that one in memory, and whichever restarts stays sealed: put it back into {name} before any does",
                self.name,
                self.at.to_rfc3339_opts(SecondsFormat::Secs, true),
                self.data
            )
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde_json::{Value, json};

    use super::*;
    use crate::adapter::remembered::testing::shared;
    use crate::datapath::archive::{Limits, read};

    const SNAPSHOT_FILE: &[u8] = include_bytes!("../../../tests/datapath/data/static-2.7.2.snap");
    /// What opens [`opened`], with the id `k1`.
    pub(crate) const KEY: &[u8; 32] = include_bytes!("../../../tests/datapath/data/static-2.7.2.key");

    fn operation(kind: &str, status: &Value) -> Arc<OpenBaoOperation> {
        let whole = json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "nightly", "namespace": "reef"},
            "spec": {"cluster": "kelp", "operation": kind}, "status": status,
        });
        Arc::new(serde_json::from_value(whole).unwrap())
    }

    fn backup(data: Option<&str>, verdict: &str, hour: u32) -> Arc<OpenBaoOperation> {
        let archive = read(SNAPSHOT_FILE, Limits::default()).unwrap();
        let (sealed, sums) = (STANDARD.encode(&archive.sealed_sums), STANDARD.encode(&archive.sums));
        let mut taken = json!({"sealedSums": sealed, "sums": sums, "sealType": "static"});
        if let Some(data) = data {
            taken["openbaoClusterID"] = data.into();
        }
        operation(
            "Backup",
            &json!({"phase": "Succeeded", "inputs": {"clusterUID": "c1"}, "steps": [
                {"name": "Snapshot", "state": "completed", "output": taken},
                {"name": "VerifySeal", "state": "completed", "output": {"seal": verdict},
                    "completedAt": format!("2026-11-21T{hour:02}:00:00Z")}]}),
        )
    }

    const YES: &str = "proven: it opens with key k1";

    /// A backup of a real server.
    pub(crate) fn opened() -> Opened {
        Opened::newest(&[backup(Some("id-1"), YES, 3)], "c1", Some("id-1")).unwrap()
    }

    #[test]
    fn a_key_is_refuted_by_the_last_backup_of_the_same_data_that_was_opened_and_by_nothing_else() {
        let restored = |hour: u32| {
            operation(
                "Restore",
                &json!({"phase": "Succeeded", "pointOfNoReturnAt": format!("2026-11-21T{hour:02}:00:00Z")}),
            )
        };
        let not_proven = "not proven: the operator has no key of seal static to read; everything else was checked";
        let with = |mut all: Vec<Arc<OpenBaoOperation>>, other| {
            all.push(other);
            all
        };
        let nightly = || vec![backup(Some("id-1"), YES, 3)];
        for (told, operations, uid, now, why) in [
            (true, nightly(), "c1", Some("id-1"), "another key lies in the Secret"),
            (true, with(nightly(), restored(2)), "c1", Some("id-1"), "it is of what was restored"),
            (false, with(nightly(), restored(4)), "c1", Some("id-1"), "with another key, which somebody waived"),
            (false, nightly(), "c1", Some("id-2"), "the same, and the record of the restore was deleted"),
            (false, nightly(), "c1", None, "nobody leads: whose data it is now is not known"),
            (false, nightly(), "c2", Some("id-1"), "another cluster of that name"),
            (false, vec![backup(None, YES, 3)], "c1", Some("id-1"), "an earlier release wrote down no id"),
            (false, vec![backup(Some("id-1"), not_proven, 3)], "c1", Some("id-1"), "no key has opened it"),
            (
                false,
                with(nightly(), backup(Some("id-2"), YES, 4)),
                "c1",
                Some("id-1"),
                "other data came in between: nobody knows how it went",
            ),
            (false, vec![], "c1", Some("id-1"), "there is no backup"),
        ] {
            for known in shared(&operations) {
                let opened = Opened::newest(&known, uid, now);
                let flaw = opened.as_ref().and_then(|opened| opened.flaw_of(&[7; 32], "k1", "key", "mine"));
                assert_eq!(flaw.is_some(), told, "{why}");
                let right = opened.and_then(|opened| opened.flaw_of(KEY, "k1", "key", "mine"));
                assert_eq!(right, None, "{why}");
            }
        }
    }

    #[test]
    fn the_words_name_the_secret_the_backup_and_what_a_restart_would_do() {
        let opened = opened();
        let flaw = opened.flaw_of(&[7; 32], "k1", "key", "mine").unwrap();
        for word in ["`key` of Secret mine", "backup nightly of 2026-11-21T03:00:00Z", "stays sealed"] {
            assert!(flaw.contains(word), "{flaw}");
        }
        assert_eq!(opened.flaw_of(&[7; 32], "k2", "key", "mine"), None, "by its id nothing is known of the key");
    }
}
