//! A restore that is a copy of another one: put back from a backup of the objects, or applied from what `kubectl get -o yaml`
//! showed. Its status stayed behind, so nothing else would tell it from one that was just asked for, and it would run a second
//! time, over everything that was written since the first.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::Refused;
use crate::api::OpenBaoRestore;
use crate::service::restore::plan;

/// Annotation of every restore that was ever looked at: its own UID. A copy brings that of the object it was made from.
pub const RESTORE_UID: &str = "openbao.org/restore-uid";

/// Adds to `patch`, if there is one, the annotation that a restore does not carry yet. `None` when nothing changes.
pub fn marked(restore: &OpenBaoRestore, patch: Option<Value>) -> Option<Value> {
    let Some(uid) = restore.uid().filter(|_| !restore.annotations().contains_key(RESTORE_UID)) else { return patch };
    // One made since under this name is not marked with the UID of the one before it.
    let mut patch = patch.unwrap_or_else(|| json!({ "metadata": { "resourceVersion": restore.resource_version() } }));
    patch["metadata"]["annotations"] = json!({ RESTORE_UID: uid });
    Some(patch)
}

/// Why a copy does not run. Whatever is written beside an operation of its own, that one is followed to its end.
pub fn refused(restore: &OpenBaoRestore) -> Option<Refused> {
    let original =
        restore.annotations().get(RESTORE_UID).filter(|original| Some(*original) != restore.uid().as_ref())?;
    let operation = restore.status.as_ref().and_then(|status| status.operation.as_ref());
    if operation.is_some_and(|operation| *operation == plan::operation_name(restore)) {
        return None;
    }
    let message = format!(
        "this is a copy of the OpenBaoRestore with UID {original}, and none runs twice by itself. Nothing was changed. To restore \
         again, create one under another name, without the annotation {RESTORE_UID}"
    );
    Some(Refused::new("RestoreCopied", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::kubernetes::finalizer;
    use crate::api::{OpenBaoRestoreSpec, OpenBaoRestoreStatus, RESTORE_FINALIZER};

    fn restore(uid: &str, mark: Option<&str>) -> OpenBaoRestore {
        let mut restore = OpenBaoRestore::new("back", OpenBaoRestoreSpec::default());
        restore.metadata.uid = Some(uid.into());
        restore.metadata.resource_version = Some("7".into());
        restore.metadata.annotations = mark.map(|mark| [(RESTORE_UID.to_owned(), mark.to_owned())].into());
        restore
    }

    #[test]
    fn a_restore_that_was_put_back_without_its_status_does_not_run_a_second_time() {
        let why = refused(&restore("second", Some("first"))).unwrap();
        assert_eq!(why.reason, "RestoreCopied");
        assert!(why.message.contains("UID first") && why.message.contains(RESTORE_UID), "{}", why.message);
        assert_eq!(refused(&restore("first", Some("first"))), None);
        assert_eq!(refused(&restore("first", None)), None, "it was just asked for");
    }

    #[test]
    fn a_status_that_was_put_back_with_it_changes_nothing_and_one_that_runs_goes_on() {
        let with = |operation: String| {
            let mut copy = restore("22222222-second", Some("11111111-first"));
            copy.status = Some(OpenBaoRestoreStatus { operation: Some(operation), ..OpenBaoRestoreStatus::default() });
            copy
        };
        let firsts = plan::operation_name(&restore("11111111-first", None));
        assert!(refused(&with(firsts)).is_some());
        let own = plan::operation_name(&restore("22222222-second", None));
        assert_eq!(refused(&with(own)), None, "somebody wrote into its annotations meanwhile");
    }

    #[test]
    fn every_restore_is_marked_once_in_the_same_write_as_its_finalizer() {
        let new = restore("first", None);
        let patch = marked(&new, finalizer::patch(&new, RESTORE_FINALIZER, true)).unwrap();
        let metadata = json!({
            "resourceVersion": "7", "finalizers": [RESTORE_FINALIZER], "annotations": { RESTORE_UID: "first" },
        });
        assert_eq!(patch, json!({ "metadata": metadata }));
        let alone = marked(&new, None).unwrap();
        assert_eq!(alone["metadata"], json!({ "resourceVersion": "7", "annotations": { RESTORE_UID: "first" } }));
        for mark in ["first", "another"] {
            assert_eq!(marked(&restore("first", Some(mark)), None), None, "{mark}");
        }
    }
}
