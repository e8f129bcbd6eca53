//! The operations that backups are: how one is asked for, and how one is told from another. Pure.
//!
//! All are `operation: Backup`. What sets them apart stands in `spec.parameters`, frozen with the rest of the spec:
//! `mode: Verify` reads a stored backup again instead of taking one; `role` says for whom a child operation works. Beside them
//! stand the restore tests, `operation: RestoreTest`, which read a backup into a server of their own.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use crate::adapter::kubernetes::{owner, time};
use crate::api::{
    Actor, ActorSource, Lineage, OPERATION_FINALIZER, OpenBaoCluster, OpenBaoOperation, OpenBaoOperationSpec,
    OperationKind,
};
use crate::service::cluster::names;
use crate::service::opslifecycle::asked::Parameter;

/// Parameter: [`VERIFY`], or absent for taking a backup.
pub const MODE: &str = "mode";
/// Value of [`MODE`]: read a stored backup again and check everything.
pub const VERIFY: &str = "Verify";
/// Parameter of a verification and of a restore test: the whole key to read; absent: the newest backup.
pub const KEY: &str = "key";
/// Parameter of a child operation: what its parent needs it for. Such a one runs under its parent's lock, takes no lock
/// itself and runs no retention.
pub const ROLE: &str = "role";
/// Value of [`ROLE`]: the state before a restore.
pub use crate::datapath::prune::SAFETY;
/// Value of [`ROLE`]: the state before an upgrade.
pub const PRE_UPGRADE: &str = "PreUpgrade";

/// All that `spec.parameters` of a backup may say.
pub const PARAMETERS: [Parameter; 3] = [Parameter::one_of(MODE, &[VERIFY]), Parameter::any(KEY), Parameter::any(ROLE)];

/// What of the parameters would be passed over beside the others.
pub fn contradiction(operation: &OpenBaoOperation) -> Option<&'static str> {
    let has = |name: &str| operation.spec.parameters.contains_key(name);
    if is_verification(operation) {
        has(ROLE).then_some("parameters.role is of a backup that is taken: leave it out beside mode Verify")
    } else {
        has(KEY).then_some("parameters.key names a stored backup to read: say mode Verify too, or leave key out")
    }
}

/// Whether this operation reads a stored backup instead of taking one.
pub fn is_verification(operation: &OpenBaoOperation) -> bool {
    operation.spec.parameters.get(MODE).is_some_and(|mode| mode == VERIFY)
}

/// Whether this operation only reads a stored backup, and leaves the cluster and its lock alone.
pub fn only_reads(operation: &OpenBaoOperation) -> bool {
    match operation.spec.operation {
        OperationKind::Backup => is_verification(operation),
        kind => kind == OperationKind::RestoreTest,
    }
}

/// What a parent operation needs this one for; `None` for one that stands alone.
pub fn role(operation: &OpenBaoOperation) -> Option<&str> {
    operation.spec.parameters.get(ROLE).map(String::as_str)
}

/// `<cluster>-backup-<unix tick>`.
pub fn scheduled_name(cluster: &str, tick: DateTime<Utc>) -> String {
    format!("{cluster}-backup-{}", tick.timestamp())
}

/// `<cluster>-verify-<unix tick>`.
pub fn verification_name(cluster: &str, tick: DateTime<Utc>) -> String {
    format!("{cluster}-verify-{}", tick.timestamp())
}

/// `<cluster>-restoretest-<unix tick>`.
pub fn restore_test_name(cluster: &str, tick: DateTime<Utc>) -> String {
    format!("{cluster}-restoretest-{}", tick.timestamp())
}

/// `<cluster>-backup-<digest>`: the same for the same value after the same past, so that a crash between creating the
/// operation and remembering the value creates nothing twice, and another one when a value comes back later.
pub fn triggered_name(cluster: &OpenBaoCluster, value: &str) -> String {
    let past = cluster.status.as_ref().and_then(|status| status.backup.as_ref());
    let mut digest = Sha256::new();
    for text in [
        cluster.metadata.uid.as_deref(),
        Some(value),
        past.and_then(|past| past.last_trigger.as_deref()),
        past.and_then(|past| past.last_operation.as_deref()),
    ] {
        let bytes = text.unwrap_or_default().as_bytes();
        // The length first: ("ab", "c") and ("a", "bc") are two pasts.
        digest.update(bytes.len().to_be_bytes());
        digest.update(bytes);
    }
    let short = digest.finalize().iter().take(5).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    format!("{}-backup-{short:010x}", cluster.name_any())
}

/// A backup that the schedule asks for.
pub fn scheduled(cluster: &OpenBaoCluster, tick: DateTime<Utc>, schedule: &str) -> OpenBaoOperation {
    let intent = format!("scheduled for {} by {schedule}", tick.format("%Y-%m-%d %H:%M:%S UTC"));
    backup(cluster, scheduled_name(&cluster.name_any(), tick), ActorSource::Schedule, intent, BTreeMap::new())
}

/// A verification that the schedule asks for.
pub fn scheduled_verification(cluster: &OpenBaoCluster, tick: DateTime<Utc>, schedule: &str) -> OpenBaoOperation {
    let intent = format!("read the newest backup again, by {schedule}");
    let parameters = BTreeMap::from([(MODE.to_owned(), VERIFY.to_owned())]);
    backup(cluster, verification_name(&cluster.name_any(), tick), ActorSource::Schedule, intent, parameters)
}

/// A restore test that the schedule asks for.
pub fn scheduled_restore_test(cluster: &OpenBaoCluster, tick: DateTime<Utc>, schedule: &str) -> OpenBaoOperation {
    let name = restore_test_name(&cluster.name_any(), tick);
    let spec = OpenBaoOperationSpec {
        operation: OperationKind::RestoreTest,
        intent: Some(limited(&format!("restore the newest backup into a server of its own, by {schedule}"))),
        ..OpenBaoOperationSpec::default()
    };
    of_cluster(cluster, name, ActorSource::Schedule, spec)
}

/// A backup that somebody asked for by the annotation.
pub fn triggered(cluster: &OpenBaoCluster, value: &str) -> OpenBaoOperation {
    let intent = format!("annotation {} = {value}", super::TRIGGER_ANNOTATION);
    backup(cluster, triggered_name(cluster, value), ActorSource::Api, intent, BTreeMap::new())
}

/// A backup that a restore or an upgrade takes first, under its own lock. `None` while the parent has no UID, which the
/// API server gives to everything it stores.
pub fn child(parent: &OpenBaoOperation, role: &'static str, intent: &str) -> Option<OpenBaoOperation> {
    let reference = owner::controller_of(parent)?;
    let name = super::jobs::job_name(&parent.name_any(), &format!("{}-backup", role.to_lowercase()));
    Some(operation(
        name,
        parent.namespace().unwrap_or_default(),
        &parent.spec.cluster,
        reference,
        OpenBaoOperationSpec {
            operation: OperationKind::Backup,
            actor: Some(Actor {
                identity: format!("openbaooperation/{}", parent.name_any()),
                source: ActorSource::Controller,
            }),
            intent: Some(limited(intent)),
            lineage: Some(Lineage { parent_operation: Some(parent.name_any()), rollback_of: None }),
            parameters: BTreeMap::from([(ROLE.to_owned(), role.to_owned())]),
            ..OpenBaoOperationSpec::default()
        },
    ))
}

fn backup(
    cluster: &OpenBaoCluster,
    name: String,
    source: ActorSource,
    intent: String,
    parameters: BTreeMap<String, String>,
) -> OpenBaoOperation {
    let spec = OpenBaoOperationSpec {
        operation: OperationKind::Backup,
        intent: Some(limited(&intent)),
        parameters,
        ..OpenBaoOperationSpec::default()
    };
    of_cluster(cluster, name, source, spec)
}

fn of_cluster(
    cluster: &OpenBaoCluster,
    name: String,
    source: ActorSource,
    spec: OpenBaoOperationSpec,
) -> OpenBaoOperation {
    let reference = owner::controller_of(cluster).unwrap_or_else(|| {
        // Only an object that was never stored has no UID; the API server refuses a reference without one.
        OwnerReference { kind: OpenBaoCluster::kind(&()).into_owned(), ..OwnerReference::default() }
    });
    let spec = OpenBaoOperationSpec {
        actor: Some(Actor { identity: format!("openbaocluster/{}", cluster.name_any()), source }),
        ..spec
    };
    operation(name, cluster.namespace().unwrap_or_default(), &cluster.name_any(), reference, spec)
}

fn operation(
    name: String,
    namespace: String,
    cluster: &str,
    owner: OwnerReference,
    spec: OpenBaoOperationSpec,
) -> OpenBaoOperation {
    OpenBaoOperation {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            labels: Some(names::labels(cluster)),
            owner_references: Some(vec![owner]),
            // Here, the driver need not write it.
            finalizers: Some(vec![OPERATION_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: OpenBaoOperationSpec { cluster: cluster.to_owned(), ..spec },
        status: None,
    }
}

/// What the CRD allows for an intent.
fn limited(intent: &str) -> String {
    intent.chars().take(1000).collect()
}

/// The operations that are backups of this very cluster, not of an earlier one of its name.
pub fn backups_of<'a, O: AsRef<OpenBaoOperation>>(
    cluster: &'a OpenBaoCluster,
    operations: &'a [O],
) -> impl Iterator<Item = &'a OpenBaoOperation> + Clone {
    of_kind(OperationKind::Backup, cluster, operations)
}

/// The operations that are restore tests of this very cluster, not of an earlier one of its name.
pub fn restore_tests_of<'a, O: AsRef<OpenBaoOperation>>(
    cluster: &'a OpenBaoCluster,
    operations: &'a [O],
) -> impl Iterator<Item = &'a OpenBaoOperation> + Clone {
    of_kind(OperationKind::RestoreTest, cluster, operations)
}

fn of_kind<'a, O: AsRef<OpenBaoOperation>>(
    kind: OperationKind,
    cluster: &'a OpenBaoCluster,
    operations: &'a [O],
) -> impl Iterator<Item = &'a OpenBaoOperation> + Clone {
    let name = cluster.name_any();
    let born = cluster.metadata.creation_timestamp.as_ref().map(time::from_kube);
    operations.iter().map(AsRef::as_ref).filter(move |operation| {
        let made = operation.metadata.creation_timestamp.as_ref().map(time::from_kube);
        operation.spec.operation == kind
            && operation.spec.cluster == name
            && operation.namespace() == cluster.namespace()
            && match (made, born) {
                (Some(made), Some(born)) => made >= born,
                _ => true,
            }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_reads_a_backup_is_told_from_what_takes_one_or_does_anything_else() {
        let operation = |kind: &str, parameters: serde_json::Value| -> OpenBaoOperation {
            serde_json::from_value(json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "look"},
                "spec": {"cluster": "kelp", "operation": kind, "parameters": parameters},
            }))
            .unwrap()
        };
        for (kind, parameters, reads) in [
            ("Backup", json!({}), false),
            ("Backup", json!({"mode": "Verify"}), true),
            ("RestoreTest", json!({}), true),
            ("RestoreTest", json!({"key": "a.snap"}), true),
            ("Restore", json!({}), false),
            ("Workflow", json!({"mode": "Verify"}), false),
        ] {
            assert_eq!(only_reads(&operation(kind, parameters.clone())), reads, "{kind} {parameters}");
        }
    }

    #[test]
    fn the_names_of_scheduled_operations_fit_into_a_label_for_the_longest_name_of_a_cluster() {
        let (longest, tick) = ("c".repeat(40), DateTime::from_timestamp(9_999_999_999, 0).unwrap());
        for name in
            [scheduled_name(&longest, tick), verification_name(&longest, tick), restore_test_name(&longest, tick)]
        {
            assert!(name.len() <= 63, "{name} has {} characters", name.len());
        }
    }
}
