//! Names of the objects of one backup:
//! `<prefix>/<namespace>/<cluster>/<time>-<first 8 of the operation UID>.snap`, and beside it `.manifest.json`, `.pin`
//! and `.deleting`. Uniqueness comes from the name (a store may ignore create-only), so it holds time and UID.

use chrono::{DateTime, NaiveDateTime, Utc};

pub const SNAPSHOT_SUFFIX: &str = ".snap";
pub const MANIFEST_SUFFIX: &str = ".manifest.json";
pub const PIN_SUFFIX: &str = ".pin";
pub const DELETING_SUFFIX: &str = ".deleting";

const TIME_FORMAT: &str = "%Y-%m-%dT%H-%M-%SZ";
const UID_LENGTH: usize = 8;

/// What an object beside a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    Snapshot,
    Manifest,
    Pin,
    Deleting,
}

/// The name of a backup, read back from a key. Anything else under the prefix is foreign and is never touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupName {
    /// Key of the snapshot object itself.
    pub key: String,
    pub taken_at: DateTime<Utc>,
    /// First eight characters of the operation's UID.
    pub uid: String,
}

/// `<prefix>/<namespace>/<cluster>/`: everything of one cluster lies under it, and nothing of another.
pub fn cluster_prefix(prefix: &str, namespace: &str, cluster: &str) -> String {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() { format!("{namespace}/{cluster}/") } else { format!("{prefix}/{namespace}/{cluster}/") }
}

/// Whether a key lies where this cluster's backups lie, under whatever prefix.
pub fn is_of(key: &str, namespace: &str, cluster: &str) -> bool {
    let folder = key.rsplit_once('/').map(|(folder, _)| folder);
    let above = folder.and_then(|folder| folder.strip_suffix(cluster)).and_then(|rest| rest.strip_suffix('/'));
    let prefix = above.and_then(|above| above.strip_suffix(namespace));
    prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('/'))
}

/// The key of a new backup. Frozen when the operation starts, so that a crash leaves a name to clean up.
pub fn snapshot_key(
    prefix: &str,
    namespace: &str,
    cluster: &str,
    taken_at: DateTime<Utc>,
    operation_uid: &str,
) -> String {
    let uid: String = operation_uid.chars().filter(char::is_ascii_alphanumeric).take(UID_LENGTH).collect();
    let time = taken_at.format(TIME_FORMAT);
    format!("{}{time}-{}{SNAPSHOT_SUFFIX}", cluster_prefix(prefix, namespace, cluster), uid.to_ascii_lowercase())
}

pub fn manifest_key(key: &str) -> String {
    format!("{key}{MANIFEST_SUFFIX}")
}

pub fn pin_key(key: &str) -> String {
    format!("{key}{PIN_SUFFIX}")
}

pub fn deleting_key(key: &str) -> String {
    format!("{key}{DELETING_SUFFIX}")
}

/// Written, read and removed before a first backup.
pub fn preflight_key(key: &str) -> String {
    format!("{key}.preflight")
}

/// The backup and the part of it that an object's key names; `None` for anything that is not exactly ours: directly
/// under the cluster's prefix, with a time and a UID in our form.
pub fn parse(cluster_prefix: &str, object_key: &str) -> Option<(BackupName, ObjectKind)> {
    let name = object_key.strip_prefix(cluster_prefix)?;
    let (name, kind) = [
        (MANIFEST_SUFFIX, ObjectKind::Manifest),
        (PIN_SUFFIX, ObjectKind::Pin),
        (DELETING_SUFFIX, ObjectKind::Deleting),
    ]
    .iter()
    .find_map(|(suffix, kind)| name.strip_suffix(suffix).map(|name| (name, *kind)))
    .unwrap_or((name, ObjectKind::Snapshot));
    let stem = name.strip_suffix(SNAPSHOT_SUFFIX)?;
    let (time, uid) = stem.rsplit_once('-')?;
    let uid_is_ours =
        !uid.is_empty() && uid.len() <= UID_LENGTH && uid.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let taken_at = NaiveDateTime::parse_from_str(time, TIME_FORMAT).ok()?.and_utc();
    let exact = taken_at.format(TIME_FORMAT).to_string() == time;
    (uid_is_ours && exact)
        .then(|| (BackupName { key: format!("{cluster_prefix}{name}"), taken_at, uid: uid.to_owned() }, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> DateTime<Utc> {
        "2026-11-21T12:00:05Z".parse().unwrap()
    }

    #[test]
    fn a_key_names_prefix_namespace_cluster_time_and_operation() {
        let key = snapshot_key("/prod/eu/", "vault", "main", noon(), "3F9C1a2b-77");
        assert_eq!(key, "prod/eu/vault/main/2026-11-21T12-00-05Z-3f9c1a2b.snap");
        assert_eq!(manifest_key(&key), "prod/eu/vault/main/2026-11-21T12-00-05Z-3f9c1a2b.snap.manifest.json");
        assert_eq!(cluster_prefix("", "vault", "main"), "vault/main/");
    }

    #[test]
    fn a_key_tells_its_cluster_under_any_prefix() {
        for prefix in ["", "prod", "prod/eu"] {
            assert!(is_of(&snapshot_key(prefix, "vault", "main", noon(), "3f9c"), "vault", "main"), "{prefix}");
        }
        for other in ["vault/main2/a.snap", "vault/domain/a.snap", "a-vault/main/a.snap", "main/a.snap", "a.snap", ""] {
            assert!(!is_of(other, "vault", "main"), "{other}");
        }
    }

    #[test]
    fn every_object_of_a_backup_reads_back_to_the_same_backup() {
        let prefix = cluster_prefix("p", "ns", "c");
        let key = snapshot_key("p", "ns", "c", noon(), "0123456789");
        let cases = [
            (key.clone(), ObjectKind::Snapshot),
            (manifest_key(&key), ObjectKind::Manifest),
            (pin_key(&key), ObjectKind::Pin),
            (deleting_key(&key), ObjectKind::Deleting),
        ];
        for (object, expected) in cases {
            let (name, kind) = parse(&prefix, &object).unwrap();
            assert_eq!(
                (name.key.as_str(), name.taken_at, name.uid.as_str(), kind),
                (&*key, noon(), "01234567", expected)
            );
        }
    }

    #[test]
    fn foreign_objects_under_the_prefix_are_not_ours() {
        let foreign = [
            "p/ns/c/readme.txt",
            "p/ns/c/old/2026-11-21T12-00-05Z-01234567.snap",
            "p/ns/c/nightly-2026-11-21T12-00-05Z-01234567.snap",
            "p/ns/c/2026-11-21T12-00-05Z-01234567.snap.bak",
            "p/ns/c/2026-13-21T12-00-05Z-01234567.snap",
            "p/ns/c/2026-11-21T12-00-05Z-.snap",
            "p/ns/c/2026-11-21T12-00-05Z-0123ABCD.snap",
            "p/ns/c2/2026-11-21T12-00-05Z-01234567.snap",
            "2026-11-21T12-00-05Z-01234567.snap",
        ];
        for object in foreign {
            assert_eq!(parse("p/ns/c/", object), None, "{object}");
        }
    }
}
