//! Which backup a verification reads where nobody has named one. Pure.

use super::frozen::Frozen;
use super::manager::VERIFY_SEAL;
use super::request::is_verification;
use super::status::as_of;
use crate::api::{OpenBaoOperation, OperationKind, StepState};

/// Key of the newest backup that these operations have stored where `mine` reads, for the cluster of `mine`. In that folder
/// another cluster's may be newer, that has the name in another Kubernetes; and where backups went before, nobody looks.
pub fn own_key<'a>(mine: &Frozen, operations: impl Iterator<Item = &'a OpenBaoOperation>) -> Option<String> {
    let stored = operations.filter(|operation| is_stored(operation)).filter_map(|operation| {
        let frozen = Frozen::read(&operation.status.as_ref()?.inputs).ok()?;
        let here = frozen.cluster_uid == mine.cluster_uid && frozen.store.is_same_place(&mine.store);
        Some((as_of(operation)?, frozen.key)).filter(|_| here)
    });
    stored.max().map(|(_, key)| key)
}

/// A backup is whole from the proof of its seal on. While its retention is at work it is the newest already, and the one
/// before it may be what goes.
fn is_stored(operation: &OpenBaoOperation) -> bool {
    let mut steps = operation.status.iter().flat_map(|status| &status.steps);
    operation.spec.operation == OperationKind::Backup
        && !is_verification(operation)
        && steps.any(|step| step.name == VERIFY_SEAL && step.state == StepState::Completed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::adapter::remembered::testing::whole_and_remembered;
    use crate::api::{OpenBaoCluster, OperationPhase};

    fn sand() -> Value {
        json!({"provider": "file", "file": {"claimName": "sand"}})
    }

    fn frozen(target: &Value, cluster_uid: &str, hour: u32) -> Frozen {
        let cluster: OpenBaoCluster = serde_json::from_value(json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoCluster",
            "metadata": {"name": "kelp", "namespace": "reef", "uid": cluster_uid},
            "spec": {"version": "2.7.2", "storage": {"size": "1Gi"}, "backup": {"target": target}},
        }))
        .unwrap();
        let at = format!("2026-11-21T{hour:02}:00:00Z").parse().unwrap();
        Frozen::of(&cluster, cluster.spec.backup.as_ref().unwrap(), "own:1", "0f0f0f0f-22", at).unwrap()
    }

    fn backup(frozen: &Frozen, hour: u32, seal: &str) -> OpenBaoOperation {
        let taken_at = format!("2026-11-21T{hour:02}:00:05Z");
        serde_json::from_value(json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": format!("kelp-{hour}"), "namespace": "reef"},
            "spec": {"cluster": "kelp", "operation": "Backup"},
            "status": {"phase": "Running", "inputs": frozen.inputs().unwrap(), "steps": [
                {"name": "Snapshot", "state": "completed", "output": {"takenAt": taken_at}},
                {"name": "VerifySeal", "state": seal},
                {"name": "Retention", "state": "running", "attempt": 1}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_verification_reads_the_newest_that_is_stored_also_while_its_retention_removes_the_one_before() {
        let stored = |hour: u32, seal: &str| backup(&frozen(&sand(), "c1", hour), hour, seal);
        let mine = frozen(&sand(), "c1", 9);
        let newest = own_key(&mine, [stored(4, "completed"), stored(5, "completed"), stored(6, "running")].iter());
        assert_eq!(newest, Some(frozen(&sand(), "c1", 5).key), "the last one is not proven yet");
        assert_eq!(own_key(&mine, [].iter()), None);
        let mut over = stored(5, "completed");
        over.status.as_mut().unwrap().phase = OperationPhase::Succeeded;
        for known in whole_and_remembered([&over]) {
            assert_eq!(own_key(&mine, known.iter()), newest, "also by what is remembered of a record");
        }
        let mut verification = stored(7, "completed");
        verification.spec.parameters.insert("mode".into(), "Verify".into());
        assert_eq!(own_key(&mine, [verification].iter()), None, "it stored nothing");
    }

    #[test]
    fn a_verification_does_not_go_on_reading_the_backup_of_a_node_whose_clock_was_ahead() {
        let mut ahead = backup(&frozen(&sand(), "c1", 4), 4, "completed");
        let snapshot = &mut ahead.status.as_mut().unwrap().steps[0];
        snapshot.output.insert("takenAt".into(), "2026-12-21T04:00:05Z".into());
        snapshot.completed_at = Some("2026-11-21T04:00:09Z".parse().unwrap());
        let next = backup(&frozen(&sand(), "c1", 5), 5, "completed");
        assert_eq!(own_key(&frozen(&sand(), "c1", 9), [ahead, next].iter()), Some(frozen(&sand(), "c1", 5).key));
    }

    #[test]
    fn what_lies_elsewhere_or_is_another_clusters_is_not_this_clusters_newest() {
        let mine = frozen(&sand(), "c1", 9);
        let here = backup(&frozen(&sand(), "c1", 4), 4, "completed");
        for (case, target, cluster_uid) in [
            ("another claim", json!({"provider": "file", "file": {"claimName": "silt"}}), "c1"),
            ("another prefix", json!({"provider": "file", "file": {"claimName": "sand"}, "pathPrefix": "old"}), "c1"),
            ("another cluster of this name", sand(), "c0"),
        ] {
            let other = backup(&frozen(&target, cluster_uid, 5), 5, "completed");
            assert_eq!(own_key(&mine, [other.clone()].iter()), None, "{case}");
            assert_eq!(own_key(&mine, [here.clone(), other].iter()), Some(frozen(&sand(), "c1", 4).key), "{case}");
        }
    }
}
