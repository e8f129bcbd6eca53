//! The verdict on what the mover downloaded and read, before anything is sent to a server.
//!
//! OpenBao answers 204 to snapshots that destroy a cluster: one of a newer version never comes up, one of another seal
//! seals every server. So versions and seal are compared here, `force` or not; only [`Facts::waive_other_seal`] and
//! [`Facts::waive_missing_manifest`] can be taken upon oneself.

use super::{Refused, room};
use crate::datapath::archive::SealInfo;
use crate::datapath::protocol::{Endpoint, Report, ReportKind};
use crate::service::cluster::names::UNSEAL_KEY_FIELD;
use chrono::{DateTime, Utc};
use semver::Version;

/// What a follower took in anonymous memory per byte of a restored database (1.5 GiB for 525 MB), rounded up.
const MEMORY_PER_BYTE: u64 = 3;
/// What a server takes without any data, with room to spare.
const MEMORY_BASE: u64 = 256 * 1024 * 1024;
/// The restored database is written beside the old one before it takes its place.
const VOLUME_PER_BYTE: u64 = 2;

/// What the verdict rests on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub report: &'a Report,
    pub waive_missing_manifest: bool,
    pub waive_other_seal: bool,
    /// Pod and version of every running server.
    pub versions: Vec<(String, String)>,
    pub seal: ClusterSeal,
    /// The Secret that the servers' static key lies in, where it is one that can be read.
    pub key_secret: Option<String>,
    pub proof: SealProof,
    pub limits: Limits,
    /// The OpenBao cluster id that the servers show now.
    pub cluster_id: Option<String>,
}

/// The seal that the cluster's servers have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSeal {
    /// `static`, `transit`, `awskms` …
    pub kind: String,
    /// The id of its key, where the spec says it.
    pub key_id: Option<String>,
}

/// Whether the sealed sums were opened with the cluster's own static key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealProof {
    /// They open, and say what the plain sums say.
    Proven,
    /// They don't open, or say something else.
    Disproven(String),
    /// The key is not one that can be read.
    NotPossible,
}

/// Bytes that a server pod may use; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub memory: Option<u64>,
    pub tmp: Option<u64>,
    /// What the smallest volume has now.
    pub volume: Option<u64>,
    /// What each will have once it has grown.
    pub volume_asked: Option<u64>,
}

/// What follows from the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept(Box<Accepted>),
    Refuse(Refused),
    /// The mover could not finish for a reason that may pass.
    Retry(String),
}

/// A snapshot that may be submitted, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub key: String,
    pub sha256: String,
    pub size_bytes: u64,
    pub versions: Vec<String>,
    pub seal_type: String,
    pub seal_key_id: Option<String>,
    pub taken_at: Option<DateTime<Utc>>,
    pub endpoint: Endpoint,
    /// The id that the cluster must show afterwards, only when it differs from today's.
    pub new_cluster_id: Option<String>,
    /// The cluster that the snapshot was taken of, as `namespace/name`, where the manifest says so.
    pub origin: Option<String>,
    /// Set when the servers will be sealed afterwards: the key that they need then.
    pub key_needed: Option<String>,
}

/// Judges in the order of what is cheapest to mend.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let report = facts.report;
    let inspection = match (report.kind, &report.inspection) {
        (ReportKind::Verified, Some(inspection)) => inspection,
        (ReportKind::Verified, None) => {
            return Verdict::Retry("the mover reported a verified snapshot without saying what it holds".into());
        }
        (ReportKind::Refused, _) => return Verdict::Refuse(refused_by_mover(report)),
        (ReportKind::Failed, _) => return Verdict::Retry(report.message.clone()),
    };
    let manifest = report.manifest.as_ref();
    if manifest.is_none() && !facts.waive_missing_manifest {
        return Verdict::Refuse(Refused::new(
            "ManifestMissing",
            "the snapshot has no manifest, so nothing says that it is whole or where it comes from: name one that has, \
             or take that upon yourself with spec.waive: [MissingManifest]",
        ));
    }
    if let Err(refused) = version_fits(inspection.highest_version(), &facts.versions) {
        return Verdict::Refuse(refused);
    }
    if let Err(refused) = size_fits(inspection.size_bytes, inspection.state_bytes, facts.limits) {
        return Verdict::Refuse(refused);
    }
    let key_needed = match key_needed(&inspection.seal, facts) {
        Ok(key) => key,
        Err(refused) => return Verdict::Refuse(refused),
    };
    let id = manifest.map(|m| m.cluster.openbao_cluster_id.clone()).filter(|id| !id.is_empty());
    let origin = manifest.filter(|m| !m.cluster.name.is_empty());
    Verdict::Accept(Box::new(Accepted {
        key: report.key.clone().or_else(|| manifest.map(|m| m.key.clone())).unwrap_or_default(),
        sha256: inspection.sha256.clone(),
        size_bytes: inspection.size_bytes,
        versions: inspection.versions_ever_active.clone(),
        seal_type: inspection.seal.kind.clone(),
        seal_key_id: inspection.seal.key_id.clone(),
        taken_at: manifest.map(|m| m.taken_at),
        endpoint: if key_needed.is_some() { Endpoint::SnapshotForce } else { Endpoint::Snapshot },
        new_cluster_id: id.filter(|id| facts.cluster_id.as_ref().is_some_and(|now| now != id)),
        origin: origin.map(|m| format!("{}/{}", m.cluster.namespace, m.cluster.name)),
        key_needed,
    }))
}

/// The mover's words say what is wrong with the source; its constants are many, ours is one per remedy.
fn refused_by_mover(report: &Report) -> Refused {
    let reason = if report.reason.starts_with("Manifest") {
        "ManifestRefused"
    } else if report.reason.starts_with("Archive") {
        "SnapshotDamaged"
    } else {
        "SourceRefused"
    };
    Refused::new(reason, report.message.clone())
}

fn version_fits(highest: Option<Version>, servers: &[(String, String)]) -> Result<(), Refused> {
    let Some(highest) = highest else {
        return Err(Refused::new(
            "VersionUnknown",
            "the snapshot does not say which OpenBao versions its data has seen: one newer than the servers would be \
             accepted by them and never come up",
        ));
    };
    let mut lowest: Option<(&str, Version)> = None;
    for (pod, version) in servers {
        let Ok(parsed) = Version::parse(version) else {
            return Err(Refused::new(
                "ServerVersionUnknown",
                format!("pod {pod} says that it runs version \"{version}\", which is not one: it cannot be compared"),
            ));
        };
        if lowest.as_ref().is_none_or(|(_, least)| parsed < *least) {
            lowest = Some((pod, parsed));
        }
    }
    match lowest {
        None => Err(Refused::new("ServerVersionUnknown", "no server says which version it runs")),
        Some((pod, least)) if highest > least => Err(Refused::new(
            "NewerVersion",
            format!(
                "the snapshot's data was used by OpenBao {highest}, pod {pod} runs {least}: the server would accept it \
                 and never come up again. Upgrade the cluster to {highest} or later first (spec.version), or name an \
                 older snapshot"
            ),
        )),
        Some(_) => Ok(()),
    }
}

fn size_fits(archive: u64, state: u64, limits: Limits) -> Result<(), Refused> {
    let memory = state.saturating_mul(MEMORY_PER_BYTE).saturating_add(MEMORY_BASE);
    let volume = state.saturating_mul(VOLUME_PER_BYTE);
    let checks = [
        (limits.memory, memory, "memory", "raise spec.pod.resources.limits.memory"),
        (limits.tmp, archive, "space in the servers' temporary folder", "raise its size limit"),
        (limits.volume, volume, "volume", room::more(limits.volume_asked, volume)),
    ];
    for (limit, needed, what, more) in checks {
        if let Some(limit) = limit
            && limit < needed
        {
            return Err(Refused::new(
                "TooLarge",
                format!(
                    "restoring {} needs about {} of {what} on every server, which may use {}: {more}",
                    bytes(state),
                    bytes(needed),
                    bytes(limit)
                ),
            ));
        }
    }
    Ok(())
}

/// How the seals differ, in words.
enum Differs {
    /// In what a cluster has for life.
    Seal(String),
    /// In the bytes of a static key: those can be put in the place of the present ones.
    Key(String),
}

/// `None` when the servers' own seal opens the snapshot, or only the server can tell.
fn differs(seal: &SealInfo, cluster: &ClusterSeal, proof: &SealProof) -> Option<Differs> {
    let kind = seal.kind.as_str();
    if kind != cluster.kind {
        let how = format!("the snapshot is sealed with {kind}, the cluster with {}", cluster.kind);
        return Some(Differs::Seal(how));
    }
    // The ids of a key service are versions of one key: only the service can tell whether it still opens an older one.
    if kind != "static" {
        return None;
    }
    if let (Some(theirs), Some(ours)) = (seal.key_id.as_deref(), cluster.key_id.as_deref())
        && theirs != ours
    {
        let how = format!("the snapshot's static key has the id \"{theirs}\", the cluster's has \"{ours}\"");
        return Some(Differs::Seal(how));
    }
    match proof {
        SealProof::Proven | SealProof::NotPossible => None,
        SealProof::Disproven(why) => {
            Some(Differs::Key(format!("the cluster's static key does not open the snapshot's seal ({why})")))
        }
    }
}

/// The key that the servers will need, if it is not the one they have. Only for one that they can be given may a person answer.
fn key_needed(seal: &SealInfo, facts: &Facts<'_>) -> Result<Option<String>, Refused> {
    let kind = &seal.kind;
    let refused = |message: String| Err(Refused::new("OtherSeal", message));
    let how = match differs(seal, &facts.seal, &facts.proof) {
        None => return Ok(None),
        Some(Differs::Seal(how)) => {
            let id = seal.key_id.as_ref().filter(|_| kind == "static");
            let id = id.map(|id| format!(" and unseal.static.currentKeyID: {id}")).unwrap_or_default();
            return refused(format!(
                "{how}: every server would seal itself for good, since this cluster can never be given that key. Make a new \
                 cluster with unseal.type: {kind}{id} and the snapshot's key, and restore into that one"
            ));
        }
        Some(Differs::Key(how)) => how,
    };
    let secret = facts.key_secret.as_deref().unwrap_or("with the unseal key");
    let place = format!("Secret {secret}, data key \"{UNSEAL_KEY_FIELD}\"");
    if facts.waive_other_seal {
        let which = seal.key_id.as_ref().map(|id| format!(" with id \"{id}\"")).unwrap_or_default();
        return Ok(Some(format!("the snapshot's {kind} seal key{which} in {place} ({how})")));
    }
    refused(format!(
        "{how}: every server would seal itself. Make a new cluster that has the snapshot's key in {place}, from the start, \
         and restore into that one. Or, if you hold that key, say spec.waive: [OtherSeal] and put it there once the restore \
         has ended: until then nothing can be read"
    ))
}

/// Bytes for people.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut scaled, mut unit) = (n, 0);
    while scaled >= 10 * 1024 && unit + 1 < UNITS.len() {
        scaled /= 1024;
        unit += 1;
    }
    format!("{scaled} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::objectstore::Manifest;
    use crate::datapath::archive::Inspection;

    fn inspection() -> Inspection {
        Inspection {
            sha256: "ab".into(),
            size_bytes: 1000,
            state_bytes: 900,
            seal: SealInfo { kind: "static".into(), key_id: Some("k1".into()), shares: None, threshold: None },
            versions_ever_active: vec!["2.6.1".into(), "2.7.0".into()],
            ..Inspection::default()
        }
    }

    fn manifest(cluster_id: &str) -> Manifest {
        serde_json::from_value(serde_json::json!({
            "version": 1, "key": "ns/c/x.snap", "sha256": "ab", "sizeBytes": 1000, "takenAt": "2026-11-21T03:00:00Z",
            "cluster": {"namespace": "ns", "name": "c", "uid": "u", "openbaoClusterID": cluster_id},
            "openbao": {}, "seal": {"type": "static"}, "contents": {}, "operation": {}, "sealedSums": ""
        }))
        .unwrap()
    }

    fn report() -> Report {
        Report {
            pod_uid: "p".into(),
            kind: ReportKind::Verified,
            reason: "Verified".into(),
            message: "fine".into(),
            inspection: Some(inspection()),
            manifest: Some(manifest("id-1")),
            key: Some("ns/c/x.snap".into()),
            sealed_sums: String::new(),
            sums: String::new(),
            at: "2026-11-21T03:00:00Z".parse().unwrap(),
        }
    }

    fn facts(report: &Report) -> Facts<'_> {
        Facts {
            report,
            waive_missing_manifest: false,
            waive_other_seal: false,
            versions: vec![("c-0".into(), "2.7.2".into()), ("c-1".into(), "2.7.0".into())],
            seal: ClusterSeal { kind: "static".into(), key_id: Some("k1".into()) },
            key_secret: Some("c-unseal-key".into()),
            proof: SealProof::Proven,
            limits: Limits::default(),
            cluster_id: Some("id-1".into()),
        }
    }

    fn accepted(verdict: Verdict) -> Accepted {
        match verdict {
            Verdict::Accept(accepted) => *accepted,
            other => panic!("not accepted: {other:?}"),
        }
    }

    fn reason(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Refuse(refused) => refused.reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_snapshot_no_newer_than_the_oldest_server_with_the_clusters_own_seal_is_accepted() {
        let report = report();
        let accepted = accepted(judge(&facts(&report)));
        assert_eq!(accepted.endpoint, Endpoint::Snapshot);
        assert_eq!((accepted.new_cluster_id, accepted.key_needed), (None, None));
        assert_eq!(accepted.origin.as_deref(), Some("ns/c"));
    }

    #[test]
    fn a_snapshot_newer_than_any_one_server_is_refused_whatever_is_waived() {
        let report = report();
        let mut facts = facts(&report);
        facts.versions.push(("c-2".into(), "2.6.1".into()));
        (facts.waive_other_seal, facts.waive_missing_manifest) = (true, true);
        let verdict = judge(&facts);
        assert_eq!(reason(&verdict), "NewerVersion");
        let Verdict::Refuse(refused) = verdict else { unreachable!() };
        assert!(refused.message.contains("2.7.0") && refused.message.contains("c-2"), "{}", refused.message);
    }

    #[test]
    fn a_version_that_cannot_be_compared_is_refused() {
        let mut old = report();
        old.inspection.as_mut().unwrap().versions_ever_active = vec!["banana".into()];
        assert_eq!(reason(&judge(&facts(&old))), "VersionUnknown");
        let report = report();
        let mut facts = facts(&report);
        facts.versions.clear();
        assert_eq!(reason(&judge(&facts)), "ServerVersionUnknown");
        facts.versions.push(("c-0".into(), String::new()));
        assert_eq!(reason(&judge(&facts)), "ServerVersionUnknown");
    }

    #[test]
    fn another_seal_type_or_key_id_is_refused_waived_or_not_since_no_cluster_can_change_them() {
        let report = report();
        let mut cases = [facts(&report), facts(&report)];
        cases[0].seal.kind = "transit".into();
        cases[1].seal.key_id = Some("k2".into());
        for mut facts in cases {
            for waived in [false, true] {
                facts.waive_other_seal = waived;
                let Verdict::Refuse(refused) = judge(&facts) else { panic!("taken, waived: {waived}") };
                assert_eq!(refused.reason, "OtherSeal");
                let wanted = "new cluster with unseal.type: static and unseal.static.currentKeyID: k1";
                assert!(refused.message.contains(wanted) && !refused.message.contains("waive"), "{}", refused.message);
            }
        }
    }

    #[test]
    fn another_static_key_is_refused_with_the_secret_named_and_goes_by_force_only_when_waived() {
        let report = report();
        let mut facts = facts(&report);
        facts.proof = SealProof::Disproven("authentication failed".into());
        let Verdict::Refuse(refused) = judge(&facts) else { panic!("taken") };
        let place = "Secret c-unseal-key, data key \"key\"";
        assert_eq!(refused.reason, "OtherSeal");
        assert!(refused.message.contains(place) && refused.message.contains("spec.waive"), "{}", refused.message);
        facts.waive_other_seal = true;
        let accepted = accepted(judge(&facts));
        assert_eq!(accepted.endpoint, Endpoint::SnapshotForce);
        let key = accepted.key_needed.unwrap();
        assert!(key.contains("\"k1\"") && key.contains(place), "{key}");
    }

    #[test]
    fn a_waived_seal_that_is_the_same_after_all_still_goes_the_checked_way() {
        let report = report();
        let accepted = accepted(judge(&Facts { waive_other_seal: true, ..facts(&report) }));
        assert_eq!((accepted.endpoint, accepted.key_needed), (Endpoint::Snapshot, None));
    }

    #[test]
    fn a_key_services_key_ids_are_left_to_the_server() {
        let mut report = report();
        report.inspection.as_mut().unwrap().seal =
            SealInfo { kind: "transit".into(), key_id: Some("3".into()), ..SealInfo::default() };
        let mut facts = facts(&report);
        facts.seal = ClusterSeal { kind: "transit".into(), key_id: None };
        facts.proof = SealProof::NotPossible;
        assert_eq!(accepted(judge(&facts)).endpoint, Endpoint::Snapshot);
    }

    #[test]
    fn a_snapshot_without_manifest_needs_the_waiver_and_is_inspected_all_the_same() {
        let mut report = report();
        report.manifest = None;
        assert_eq!(reason(&judge(&facts(&report))), "ManifestMissing");
        let waived = Facts { waive_missing_manifest: true, ..facts(&report) };
        assert_eq!(accepted(judge(&waived)).key, "ns/c/x.snap");
        let mut newer = waived.clone();
        newer.versions = vec![("c-0".into(), "2.6.1".into())];
        assert_eq!(reason(&judge(&newer)), "NewerVersion");
    }

    #[test]
    fn the_cluster_id_must_change_exactly_when_the_snapshot_is_of_another_cluster() {
        let mut report = report();
        report.manifest = Some(manifest("id-2"));
        assert_eq!(accepted(judge(&facts(&report))).new_cluster_id.as_deref(), Some("id-2"));
        report.manifest = Some(manifest(""));
        assert_eq!(accepted(judge(&facts(&report))).new_cluster_id, None);
    }

    #[test]
    fn a_restore_that_does_not_fit_is_refused_with_the_field_to_raise() {
        let mut report = report();
        report.inspection.as_mut().unwrap().state_bytes = 525_000_000;
        report.inspection.as_mut().unwrap().size_bytes = 525_100_000;
        let gib = 1024 * 1024 * 1024;
        let cases = [
            (Limits { memory: Some(gib), ..Limits::default() }, Some("spec.pod.resources.limits.memory")),
            (Limits { memory: Some(2 * gib), ..Limits::default() }, None),
            (Limits { tmp: Some(gib / 4), ..Limits::default() }, Some("size limit")),
            (Limits { volume: Some(gib / 2), ..Limits::default() }, Some("spec.storage.size")),
            (Limits { volume: Some(gib), ..Limits::default() }, None),
            (Limits { volume: Some(gib / 2), volume_asked: Some(gib), ..Limits::default() }, Some("have not grown")),
            (Limits { volume: Some(gib / 2), volume_asked: Some(gib / 2), ..Limits::default() }, Some("raise spec.st")),
        ];
        for (limits, field) in cases {
            match (judge(&Facts { limits, ..facts(&report) }), field) {
                (Verdict::Refuse(refused), Some(field)) => {
                    assert!(refused.message.contains(field), "{}", refused.message);
                }
                (Verdict::Accept(_), None) => {}
                (other, field) => panic!("{other:?}, expected {field:?}"),
            }
        }
    }

    #[test]
    fn the_movers_refusal_is_final_and_its_failure_is_not() {
        let mut report = report();
        (report.kind, report.reason) = (ReportKind::Refused, "ArchiveTruncated".into());
        assert_eq!(reason(&judge(&facts(&report))), "SnapshotDamaged");
        report.kind = ReportKind::Failed;
        assert!(matches!(judge(&facts(&report)), Verdict::Retry(_)));
        (report.kind, report.inspection) = (ReportKind::Verified, None);
        assert!(matches!(judge(&facts(&report)), Verdict::Retry(_)));
    }
}
