//! What is remembered of an operation that has ended.
//!
//! Records are many and are kept for years: of ten thousand each byte counts. What is read of them here is what they did (their
//! spec, the inputs, what their steps put out, how they ended), not how they came there, nor what is told to people. The rest
//! stands in the API server, for people and for whoever writes.
//!
//! What is left out could mislead in two ways, and both are shut:
//!
//! - *Judged as if it were empty.* The fields are named below, all of them, so that a new one is decided on when it is added; and
//!   the tables of what is decided by records are decided twice, by whole records and by remembered ones.
//! - *Written back.* Only `service::opslifecycle::drive` writes an operation whole, and reads it from the API server before, which a
//!   test of the layers holds. Everybody else patches single fields, or makes new ones.

use super::kubernetes::feed;
use crate::api::operation::{OpenBaoOperation, OpenBaoOperationSpec, OpenBaoOperationStatus, Plan};

/// `kubectl apply` repeats the whole manifest in it. That it is there is read, see `service::opslifecycle::declared`.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes off what nobody reads of a record. Of an operation that has not ended everything stays: its managers tell who asked for it
/// until that stands in its status, and its journal is at work.
pub fn slim(operation: &mut OpenBaoOperation) {
    if !operation.has_ended() {
        return;
    }
    feed::forget_managers(operation);
    if let Some(manifest) = operation.metadata.annotations.as_mut().and_then(|all| all.get_mut(LAST_APPLIED)) {
        *manifest = String::new();
    }
    let OpenBaoOperationSpec {
        cluster: _,
        operation: _,
        actor: _,
        intent: _,
        targets: _,
        constraints: _,
        lineage: _,
        consent: _,
        parameters: _,
        plan: written,
        requests: _,
    } = &mut operation.spec;
    *written = None;
    let Some(status) = &mut operation.status else { return };
    let OpenBaoOperationStatus {
        journal_version: _,
        phase: _,
        reason: _,
        message: _,
        direction: _,
        ending: _,
        cause: _,
        closing: _,
        plan,
        inputs: _,
        plan_hash,
        lock: _,
        point_of_no_return_at: _,
        steps: _,
        retry_count: _,
        actor: _,
        parent_operation: _,
        rolled_back_by: _,
        snapshots,
        artifacts: _,
        cluster_uid: _,
        started_at: _,
        ended_at: _,
        history,
        announced: _,
        handled_requests: _,
        conditions,
    } = status;
    // That there was one is read, and whose lock it took. How a step went stands in `steps`.
    if let Some(Plan { steps, lock: _, point_of_no_return, forward_recovery, max_retries: _ }) = plan {
        *steps = Vec::new();
        *point_of_no_return = None;
        *forward_recovery = None;
    }
    *plan_hash = None;
    *snapshots = None;
    *history = Vec::new();
    // They say once more what phase, reason and message say.
    *conditions = Vec::new();
}

/// For the tests of whatever is decided by records.
#[cfg(test)]
pub mod testing {
    use std::{collections::BTreeMap, sync::Arc};

    use serde_json::{Value, json};

    use super::{LAST_APPLIED, slim};
    use crate::api::operation::OpenBaoOperation;

    /// These operations twice: as the API server has them, with all that a record may hold and a table of tests leaves out, and as
    /// they are remembered.
    ///
    /// # Panics
    ///
    /// Where anything is left out of one that has not ended, or nothing of one that has.
    pub fn whole_and_remembered<'a>(
        operations: impl IntoIterator<Item = &'a OpenBaoOperation>,
    ) -> [Vec<OpenBaoOperation>; 2] {
        let whole: Vec<OpenBaoOperation> = operations.into_iter().map(filled).collect();
        let mut remembered = whole.clone();
        remembered.iter_mut().for_each(slim);
        for (remembered, whole) in remembered.iter().zip(&whole) {
            assert_eq!(remembered != whole, whole.has_ended(), "what is left out of a record, and of nothing else");
        }
        [whole, remembered]
    }

    /// The same for those who share them.
    pub fn shared(operations: &[Arc<OpenBaoOperation>]) -> [Vec<Arc<OpenBaoOperation>>; 2] {
        whole_and_remembered(operations.iter().map(AsRef::as_ref)).map(|all| all.into_iter().map(Arc::new).collect())
    }

    /// The operation, with what a real one has wherever this one says nothing.
    fn filled(operation: &OpenBaoOperation) -> OpenBaoOperation {
        let mut operation = operation.clone();
        operation.metadata.annotations.get_or_insert_default().insert(LAST_APPLIED.to_owned(), "{}".to_owned());
        operation.metadata.managed_fields = Some(vec![serde_json::from_value(json!({"manager": "somebody"})).unwrap()]);
        operation.spec.plan.get_or_insert_with(|| serde_json::from_value(json!({"steps": steps(["mark"])})).unwrap());
        let Some(status) = &mut operation.status else { return operation };
        let at = "2026-11-21T12:00:00Z";
        let names = status.steps.iter().map(|step| step.name.as_str()).chain(["Extra"]);
        let planned = serde_json::from_value(steps(names)).unwrap();
        let plan = status.plan.get_or_insert_default();
        if plan.steps.is_empty() {
            plan.steps = planned;
        }
        plan.point_of_no_return.get_or_insert_with(|| "Extra".to_owned());
        plan.forward_recovery.get_or_insert_with(|| "Look at it.".to_owned());
        status.plan_hash.get_or_insert_with(|| "00".to_owned());
        status.snapshots.get_or_insert_with(|| serde_json::from_value(json!({"pre": {"at": at}})).unwrap());
        if status.history.is_empty() {
            let entry = json!({"event": "Began", "phase_from": "Pending", "phase_to": "Running", "at": at, "seq": 1});
            status.history = vec![serde_json::from_value(entry).unwrap()];
        }
        if status.conditions.is_empty() {
            let words = ["Complete", "Failed", "WaitingForLock", "NeedsAttention"].map(|type_| {
                json!({"type": type_, "status": "True", "reason": "So", "message": "so", "lastTransitionTime": at})
            });
            status.conditions = serde_json::from_value(words.to_vec().into()).unwrap();
        }
        operation
    }

    fn steps<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
        let config = BTreeMap::from([("claim", "data-kelp-0")]);
        names.into_iter().map(|name| json!({"name": name, "action": name, "config": config})).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operation::OperationPhase;

    /// The record of a real backup, with other names.
    fn record() -> OpenBaoOperation {
        let mut whole: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/cluster/record.json")).unwrap();
        whole["apiVersion"] = "openbao.org/v1alpha1".into();
        whole["kind"] = "OpenBaoOperation".into();
        whole["metadata"] = serde_json::json!({"name": "nightly", "namespace": "reef", "resourceVersion": "7",
            "annotations": {LAST_APPLIED: "{\"spec\": {}}", "openbao.org/pinned": "true"}});
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn of_a_record_what_it_did_is_remembered_and_of_a_live_operation_everything() {
        let whole = record();
        let mut running = whole.clone();
        running.status.as_mut().unwrap().phase = OperationPhase::Running;
        let before = running.clone();
        slim(&mut running);
        assert_eq!(running, before);

        let mut ended = whole.clone();
        slim(&mut ended);
        assert_eq!(ended.metadata.resource_version, whole.metadata.resource_version, "what is removed is this version");
        let annotations = ended.metadata.annotations.as_ref().unwrap();
        assert!(ended.is_pinned() && annotations[LAST_APPLIED].is_empty(), "that it was applied is still seen");
        let (slim, whole) = (ended.status.as_ref().unwrap(), whole.status.as_ref().unwrap());
        assert_eq!((&slim.steps, &slim.inputs, &slim.message), (&whole.steps, &whole.inputs, &whole.message));
        assert_eq!((&slim.artifacts, slim.ended_at, &slim.lock), (&whole.artifacts, whole.ended_at, &whole.lock));
        assert_eq!(slim.plan.as_ref().unwrap().lock, whole.plan.as_ref().unwrap().lock);
        assert!(ended.works_under("RECORD-UID"), "whose lock it took is read of its plan");
    }

    #[test]
    fn a_record_takes_half_the_room_of_what_stands_in_the_api_server() {
        let whole = record();
        let mut slimmed = whole.clone();
        slim(&mut slimmed);
        let written = |operation: &OpenBaoOperation| serde_json::to_string(operation).unwrap().len();
        let (slimmed, whole) = (written(&slimmed), written(&whole));
        assert!(slimmed * 2 < whole, "{slimmed} of {whole} bytes");
    }
}
