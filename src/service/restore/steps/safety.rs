//! A backup of the present state, as a child operation under this restore's lock.

use kube::{Api, ResourceExt, api::PostParams};

use super::Step;
use crate::adapter::kubernetes::client::timed;
use crate::adapter::kubernetes::owner::is_controlled_by;
use crate::api::{OpenBaoOperation, OperationKind, OperationPhase};
use crate::service::backup::{found::is_going, request};
use crate::service::opslifecycle::manager::StepOutcome;

/// Output key: the key of the safety backup. Not `key`, which the engine takes for the operation's own artifact.
pub const KEY: &str = "preRestoreBackup";

pub async fn run(step: &Step<'_>) -> StepOutcome {
    let intent = format!("the state before OpenBaoRestore {}", step.inputs.restore);
    let Some(child) = request::child(step.call.op, request::SAFETY, &intent) else {
        return StepOutcome::in_progress("waiting for the operation's UID");
    };
    let name = child.name_any();
    let namespace = step.call.op.namespace().unwrap_or_default();
    let api: Api<OpenBaoOperation> = Api::namespaced(step.call.ad.client.clone(), &namespace);
    let again = |verb: &str, error: &(dyn std::error::Error + 'static)| {
        StepOutcome::in_progress(format!("trying again: cannot {verb} OpenBaoOperation {name}: {error}"))
    };
    let found = match timed(api.get_opt(&name)).await {
        Ok(found) => found,
        Err(error) => return again("read", &error),
    };
    let Some(found) = found else {
        return match timed(api.create(&PostParams::default(), &child)).await {
            Ok(_) => waiting(&name, "to start"),
            Err(error) if error.is_already_exists() => waiting(&name, "to start"),
            Err(error) => again("create", &error),
        };
    };
    let (again, without) = ways_on(step.call.op.spec.operation);
    judge(found, &child, &step.uid, again, without)
}

/// What to create in place of one that came no further than this, and how to say there that no backup is to be taken.
fn ways_on(kind: OperationKind) -> (&'static str, &'static str) {
    if kind == OperationKind::Rollback {
        ("another Rollback", "spec.parameters: {safetyBackup: \"false\"}")
    } else {
        ("another OpenBaoRestore", "preRestoreBackup: false")
    }
}

/// What came of `child`. Whoever makes an operation of its name can name its owner too, but not make it this backup.
fn judge(found: OpenBaoOperation, child: &OpenBaoOperation, uid: &str, again: &str, without: &str) -> StepOutcome {
    let name = child.name_any();
    if !is_controlled_by(&found, uid) || !found.does_the_work_of(child) {
        let parent = child.owner_references().first().map(|owner| owner.name.as_str()).unwrap_or_default();
        if is_going(&found, parent, uid) {
            return StepOutcome::in_progress(format!(
                "OpenBaoOperation {name} is left of an earlier operation of this name: waiting for Kubernetes to remove it"
            ));
        }
        let message = format!(
            "OpenBaoOperation {name} exists and is not the safety backup that belongs here: delete it, then create {again}. \
             Nothing was changed"
        );
        return StepOutcome::fatal("NameTaken", message);
    }
    let status = found.status.unwrap_or_default();
    match status.phase {
        OperationPhase::Succeeded => {
            let key = status.artifacts.and_then(|artifacts| artifacts.key);
            StepOutcome::done_with(key.map(|key| (KEY, key)))
        }
        OperationPhase::ConstraintFailed
        | OperationPhase::Failed
        | OperationPhase::RolledBack
        | OperationPhase::Cancelled => StepOutcome::fatal(
            "SafetyBackupFailed",
            format!(
                "the backup of the present state failed: {}. Nothing was changed. To go on without one, create {again} with \
                 {without}",
                status.message.unwrap_or_default()
            ),
        ),
        OperationPhase::Pending | OperationPhase::Running | OperationPhase::Recovering | OperationPhase::Unknown => {
            waiting(&name, &status.message.map_or_else(|| "to end".to_owned(), |message| format!("({message})")))
        }
    }
}

fn waiting(name: &str, what: &str) -> StepOutcome {
    StepOutcome::in_progress(format!("waiting for the safety backup, OpenBaoOperation {name}, {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operation::{Artifacts, OpenBaoOperationSpec, OpenBaoOperationStatus};

    #[test]
    fn only_the_backup_that_was_asked_for_is_the_safety_backup_whoever_owns_it() {
        let mut parent = OpenBaoOperation::new("back-restore-3f9c1a2b", OpenBaoOperationSpec::default());
        parent.metadata.uid = Some("now".into());
        let child = request::child(&parent, request::SAFETY, "before").unwrap();
        let mut found = child.clone();
        let artifacts = Artifacts { key: Some("a.snap".into()), ..Artifacts::default() };
        let phase = OperationPhase::Succeeded;
        found.status =
            Some(OpenBaoOperationStatus { phase, artifacts: Some(artifacts), ..OpenBaoOperationStatus::default() });
        let judged = |found: &OpenBaoOperation| judge(found.clone(), &child, "now", "another", "none");
        assert_eq!(judged(&found), StepOutcome::done_with([(KEY, "a.snap".to_owned())]));
        let taken = |found: &OpenBaoOperation| matches!(judged(found), StepOutcome::Failed { reason: "NameTaken", .. });
        let mut read = found.clone();
        read.spec.parameters = [(request::MODE.to_owned(), request::VERIFY.to_owned())].into();
        assert!(taken(&read), "it reads an old one");
        let mut other = found.clone();
        other.spec.cluster = "coral".into();
        assert!(taken(&other), "of another cluster");
        let mut earlier = parent.clone();
        earlier.metadata.uid = Some("before".into());
        let left = request::child(&earlier, request::SAFETY, "before").unwrap();
        assert!(
            matches!(judged(&left), StepOutcome::Waiting { .. }),
            "Kubernetes removes it with the one it was made for"
        );
        found.metadata.owner_references = None;
        assert!(taken(&found), "nobody's");
    }

    #[test]
    fn a_safety_backup_that_fails_names_the_field_by_which_this_very_operation_goes_without_one() {
        for (kind, field, other) in [
            (OperationKind::Restore, "OpenBaoRestore with preRestoreBackup: false", "safetyBackup"),
            (OperationKind::Rollback, "Rollback with spec.parameters: {safetyBackup: \"false\"}", "preRestoreBackup"),
        ] {
            let mut parent = OpenBaoOperation::new("back", OpenBaoOperationSpec::default());
            parent.metadata.uid = Some("now".into());
            let child = request::child(&parent, request::SAFETY, "before").unwrap();
            let mut found = child.clone();
            let phase = OperationPhase::Failed;
            found.status = Some(OpenBaoOperationStatus { phase, ..OpenBaoOperationStatus::default() });
            let (again, without) = ways_on(kind);
            let outcome = judge(found, &child, "now", again, without);
            let StepOutcome::Failed { reason: "SafetyBackupFailed", message, .. } = &outcome else {
                panic!("{outcome:?}")
            };
            assert!(message.contains(field) && !message.contains(other), "{message}");
        }
    }
}
