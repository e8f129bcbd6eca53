//! What the mover and the operator say to each other. Plain data; who reads and writes it lives elsewhere.
//!
//! The mover has one small object of its own per operation, the config map `<operation>-mover`: the operator creates it
//! and writes [`GRANT`]; the mover writes the rest. Each data key holds one JSON document. Beside it, a Job's pod ends
//! with a [`JobResult`] as its last line of output and its termination message.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::archive::Inspection;
use crate::adapter::objectstore::Manifest;

/// Data keys of the mover's config map.
pub const REPORT: &str = "report";
pub const PROGRESS: &str = "progress";
pub const GRANT: &str = "grant";
pub const CLAIM: &str = "claim";
pub const RESULT: &str = "result";
/// The keys that a prune has removed, where its last word has no room for them.
pub const PRUNED: &str = "pruned";

/// Kubernetes keeps this much of a termination message.
pub const MAX_TERMINATION_MESSAGE: usize = 4096;

/// What the mover found, written once verification has ended, well or badly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    pub kind: ReportKind,
    /// A constant in `CamelCase`, such as `Verified`, `ManifestMissing`, `Archive…`, `Store…`.
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspection: Option<Inspection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    /// The key of the snapshot object: what `latest` or `before` came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `SHA256SUMS.sealed`, base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sealed_sums: String,
    /// `SHA256SUMS`, base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sums: String,
    pub at: DateTime<Utc>,
}

/// `Refused`: the source itself is unfit, trying again changes nothing. `Failed`: something in the way, trying again may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportKind {
    Verified,
    Refused,
    Failed,
}

/// Where the mover is, at most every five seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub stage: Stage,
    pub bytes: u64,
    /// 0 when the total is not known (a snapshot has no announced length).
    pub total_bytes: u64,
    pub at: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    Snapshot,
    Upload,
    Download,
    Verify,
    WaitForGrant,
    Submit,
}

/// The operator's answer to a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Grant {
    Granted(Permit),
    Refused { refused: String },
}

/// Leave for one pod to send one snapshot to one leader, once, as long as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Permit {
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// The fence of the lock under which the snapshot is sent.
    pub fence: i64,
    pub leader: Peer,
    pub endpoint: Endpoint,
    /// Around when the operator takes it back, by the operator's clock. For people, and to tell one permit from another:
    /// clocks differ, so nobody acts on it.
    pub expires_at: DateTime<Utc>,
}

/// A server pod as it is dialled: by address, with the name its certificate carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    pub pod: String,
    #[serde(rename = "podUID", default)]
    pub pod_uid: String,
    /// `ip:port`.
    pub address: String,
    /// The name to expect in the certificate. Empty: plain HTTP (a cluster without TLS).
    #[serde(default)]
    pub tls_name: String,
}

/// Which of the server's two restore endpoints. `snapshot-force` skips the check that the seal's key is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    #[serde(rename = "snapshot")]
    Snapshot,
    #[serde(rename = "snapshot-force")]
    SnapshotForce,
}

impl Endpoint {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::SnapshotForce => "snapshot-force",
        }
    }
}

/// Written in one conflict-checked update immediately before the POST. Whoever finds one must assume that the POST happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    pub fence: i64,
    #[serde(rename = "leaderPodUID")]
    pub leader_pod_uid: String,
    pub at: DateTime<Utc>,
}

/// A mover whose claim took longer than this to be written, by its own steady clock, sends nothing: the leader that it logged
/// in at was a moment ago.
pub const POST_WITHIN: Duration = Duration::from_secs(10);

/// Why a pod may not claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MayNotClaim {
    /// There is a claim already, of this pod.
    Claimed {
        /// Its UID.
        by: String,
    },
    /// The permit that it was given does not stand any more.
    Changed,
}

/// Whether a pod with `permit` may claim, by what stands in the object that the claim is then written into. Pure.
pub fn may_claim(standing: Option<&Claim>, grant: Option<&Grant>, permit: &Permit) -> Result<(), MayNotClaim> {
    match (standing, grant) {
        (Some(other), _) => Err(MayNotClaim::Claimed { by: other.pod_uid.clone() }),
        (None, Some(Grant::Granted(standing))) if standing == permit => Ok(()),
        (None, _) => Err(MayNotClaim::Changed),
    }
}

/// What came of the POST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Submission {
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    pub fence: i64,
    pub outcome: SubmissionOutcome,
    /// HTTP status, where there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub message: String,
    pub at: DateTime<Utc>,
}

/// `Accepted` is not done: the server applies the snapshot after it has answered. `Refused`: nothing was changed, the
/// server said so. `Unknown`: no answer, or one that does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubmissionOutcome {
    Accepted,
    Refused,
    Unknown,
}

/// Why a Job of the mover failed: each calls for another remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// A flag, variable or target that cannot work.
    Config,
    /// OpenBao refused the login or the request.
    Auth,
    /// No leader, two leaders, or the leader went away.
    Leader,
    /// The object store: permission, missing bucket, unreachable, certificate, clock.
    Store,
    /// Not enough local disk.
    Space,
    /// The archive or the object is not what it must be.
    Integrity,
    /// The time allowed is over.
    Deadline,
    /// The Kubernetes API refused or did not answer.
    Kubernetes,
    /// The pod was told to stop.
    Cancelled,
    /// Another pod holds the submission claim; it is never taken over.
    Claimed,
    /// The operator refused the grant.
    NotGranted,
    /// The POST was refused by the server; nothing was changed.
    Refused,
    /// The POST's outcome is not known.
    Unknown,
    /// Local input or output failed.
    Io,
    /// A restore test: the backup did not come back, or its server did not get going.
    Rehearsal,
}

impl Cause {
    /// Exit status of the process, one per cause; 0 is success and 2 stays with the argument parser.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Config => 1,
            Self::Auth => 3,
            Self::Leader => 4,
            Self::Store => 5,
            Self::Integrity => 6,
            Self::Space => 7,
            Self::Deadline => 8,
            Self::Kubernetes => 9,
            Self::Cancelled => 10,
            Self::Claimed => 11,
            Self::NotGranted => 12,
            Self::Refused => 13,
            Self::Unknown => 14,
            Self::Io => 15,
            Self::Rehearsal => 16,
        }
    }
}

/// How a Job ended, as its last line of output and as its termination message: `{"ok":true,…}` or
/// `{"ok":false,"cause":…,"message":…}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobResult<T> {
    Done(T),
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub cause: Cause,
    /// A constant in `CamelCase` within the cause, such as `MissingBucket` or `UntrustedCertificate`.
    #[serde(default)]
    pub reason: String,
    pub message: String,
}

impl<T: Serialize> Serialize for JobResult<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tagged<'a, B> {
            ok: bool,
            #[serde(flatten)]
            body: &'a B,
        }
        match self {
            Self::Done(body) => Tagged { ok: true, body }.serialize(serializer),
            Self::Failed(body) => Tagged { ok: false, body }.serialize(serializer),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for JobResult<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let value = serde_json::Value::deserialize(deserializer)?;
        match value.get("ok").and_then(serde_json::Value::as_bool) {
            Some(true) => serde_json::from_value(value).map(Self::Done).map_err(D::Error::custom),
            Some(false) => serde_json::from_value(value).map(Self::Failed).map_err(D::Error::custom),
            None => Err(D::Error::missing_field("ok")),
        }
    }
}

/// Reason of a [`Failure`]: the key that was to be written has a complete backup. A key is one operation's own, so an
/// earlier attempt of the same operation completed it without being able to say so.
pub const KEY_TAKEN: &str = "KeyTaken";

/// Reason of a [`Failure`]: the manifest could not be written for certain, and neither be taken away again. The backup may
/// be complete.
pub const MAY_BE_STORED: &str = "MayBeStored";

/// A backup that is complete: object verified, manifest written, both seen by HEAD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupDone {
    pub key: String,
    pub manifest_key: String,
    pub sha256: String,
    pub size_bytes: u64,
    /// When the snapshot was asked for: what the backup is as of.
    pub taken_at: DateTime<Utc>,
    /// Whose data it is, as its manifest says; a mover of an earlier release does not tell.
    #[serde(default, rename = "openbaoClusterID", skip_serializing_if = "String::is_empty")]
    pub openbao_cluster_id: String,
    /// In a termination message the key counts are left out when they don't fit; the report has them all.
    pub inspection: Inspection,
    #[serde(default)]
    pub sealed_sums: String,
    #[serde(default)]
    pub sums: String,
    pub duration_ms: u64,
    /// How often the stream was started again because the leader changed.
    #[serde(default)]
    pub retries: u32,
    /// Set when something was left out to fit a termination message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
}

/// A stored backup, read again from end to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyDone {
    pub key: String,
    pub sha256: String,
    pub size_bytes: u64,
    /// False: no manifest was demanded and none was there.
    pub manifest: bool,
    /// When the snapshot was taken, as its manifest says; a mover of an earlier release does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<DateTime<Utc>>,
    /// UID of the cluster that took the backup, as its manifest says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_uid: String,
    pub inspection: Inspection,
    #[serde(default)]
    pub sealed_sums: String,
    #[serde(default)]
    pub sums: String,
    pub duration_ms: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
}

/// What a prune did. Keys are those of snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneDone {
    pub removed: Vec<String>,
    /// Deletions that an earlier run had begun, now finished.
    pub finished: Vec<String>,
    /// Keys without a manifest that were cleaned up.
    pub cleaned: Vec<String>,
    /// Not removed, and why (pinned since, or no backup of that name).
    pub kept: Vec<KeptKey>,
    /// To be removed, and the store did not let them go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<KeptKey>,
    /// How many there were in each list: a termination message has room for the first few.
    #[serde(default)]
    pub removed_count: usize,
    #[serde(default)]
    pub finished_count: usize,
    #[serde(default)]
    pub kept_count: usize,
    #[serde(default)]
    pub failed_count: usize,
    pub duration_ms: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
}

impl PruneDone {
    /// Counts what the lists hold, before they are cut; a mover of an earlier release counted nothing.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.removed_count = self.removed_count.max(self.removed.len());
        self.finished_count = self.finished_count.max(self.finished.len());
        self.kept_count = self.kept_count.max(self.kept.len());
        self.failed_count = self.failed_count.max(self.failed.len());
        self
    }

    /// Why this key is still there, if the store did not let it go.
    pub fn refused(&self, key: &str) -> Option<&str> {
        self.failed.iter().find(|failed| failed.key == key).map(|failed| failed.reason.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptKey {
    pub key: String,
    pub reason: String,
}

/// A restore's mover that ended well: the server accepted, or there was nothing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreDone {
    pub key: String,
    pub sha256: String,
    pub size_bytes: u64,
    /// What the server said; absent for a mover that was told not to submit (a dry run).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<Submission>,
    pub download_ms: u64,
    pub submit_ms: u64,
}

/// A backup that lies where the server of a restore test finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchDone {
    pub key: String,
    pub sha256: String,
    pub size_bytes: u64,
}

/// A backup that came back: restored into a server of its own, started again, and looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalDone {
    pub key: String,
    pub sha256: String,
    pub size_bytes: u64,
    /// When the snapshot was taken, as its manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<DateTime<Utc>>,
    /// UID of the cluster that took the backup, as its manifest says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_uid: String,
    /// Of the data that came back.
    #[serde(rename = "openbaoClusterID")]
    pub openbao_cluster_id: String,
    /// Of the server that it came back to.
    pub version: String,
    /// Mounts with anything in them.
    pub mounts: u64,
    pub keys: u64,
    /// How many paths were read.
    pub canaries: u64,
    /// Whether the server was kept off every network.
    pub isolated: bool,
    /// From the first byte that was sent until the restored server led.
    pub restore_ms: u64,
    pub duration_ms: u64,
}

/// A target that took a small object, gave it back, and forgot it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreflightDone {
    pub target: String,
    /// Whether the store honours create-only writes. Uniqueness does not rest on it.
    pub create_only: bool,
    pub duration_ms: u64,
}

/// One line of `list`: a backup of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedBackup {
    pub key: String,
    pub taken_at: DateTime<Utc>,
    /// Bytes of the snapshot object; 0 when only a manifest or a mark is left of it.
    pub size_bytes: u64,
    pub state: BackupState,
    pub pinned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
}

/// `Complete`: object and manifest. `NoManifest`: a leftover of a mover that died, no backup. `Deleting`: marked, not
/// gone yet. `NoObject`: a manifest whose object is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupState {
    Complete,
    NoManifest,
    Deleting,
    NoObject,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_says_ok_or_names_its_cause() {
        let failed = JobResult::<PruneDone>::Failed(Failure {
            cause: Cause::Store,
            reason: "MissingBucket".into(),
            message: "no".into(),
        });
        let text = serde_json::to_value(&failed).unwrap();
        assert_eq!(text, json!({"ok": false, "cause": "Store", "reason": "MissingBucket", "message": "no"}));
        assert_eq!(serde_json::from_value::<JobResult<PruneDone>>(text).unwrap(), failed);
        let done = JobResult::Done(PruneDone { removed: vec!["a".into()], ..PruneDone::default() });
        let text = serde_json::to_value(&done).unwrap();
        assert_eq!((&text["ok"], &text["removed"]), (&json!(true), &json!(["a"])));
        assert_eq!(serde_json::from_value::<JobResult<PruneDone>>(text).unwrap(), done);
        assert!(serde_json::from_value::<JobResult<PruneDone>>(json!({"removed": []})).is_err());
    }

    #[test]
    fn a_grant_is_a_permit_or_a_refusal_and_nothing_between() {
        let permit = json!({"podUID": "p", "fence": 7, "endpoint": "snapshot-force", "expiresAt": "2026-11-21T03:00:00Z",
            "leader": {"pod": "c-0", "podUID": "u", "address": "10.0.0.1:8200", "tlsName": "c-0.c.ns.svc"}});
        let Grant::Granted(read) = serde_json::from_value(permit.clone()).unwrap() else { panic!("not a permit") };
        assert_eq!(
            (read.fence, read.endpoint, read.leader.address.as_str()),
            (7, Endpoint::SnapshotForce, "10.0.0.1:8200")
        );
        assert_eq!(serde_json::to_value(Grant::Granted(read)).unwrap(), permit);
        let refused: Grant = serde_json::from_value(json!({"refused": "newer"})).unwrap();
        assert_eq!(refused, Grant::Refused { refused: "newer".into() });
        assert!(serde_json::from_value::<Grant>(json!({"fence": 7})).is_err());
    }

    #[test]
    fn exit_codes_tell_the_causes_apart() {
        use Cause::{
            Auth, Cancelled, Claimed, Config, Deadline, Integrity, Io, Kubernetes, Leader, NotGranted, Refused,
            Rehearsal, Space, Store, Unknown,
        };
        let causes = [
            Auth, Cancelled, Claimed, Config, Deadline, Integrity, Io, Kubernetes, Leader, NotGranted, Refused,
            Rehearsal, Space, Store, Unknown,
        ];
        let codes: std::collections::BTreeSet<u8> = causes.iter().map(|cause| cause.exit_code()).collect();
        assert_eq!(codes.len(), causes.len());
        assert!(!codes.contains(&0) && !codes.contains(&2));
    }
}
