//! A backup of the present state, as a child operation under this restore's lock.

use kube::{Api, ResourceExt, api::PostParams};

use super::Step;
use crate::adapter::kubernetes::client::timed;
use crate::adapter::kubernetes::owner::is_controlled_by;
use crate::api::{OpenBaoOperation, OperationPhase};
use crate::service::backup::request;
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
    if !is_controlled_by(&found, &step.uid) {
        return StepOutcome::fatal("NameTaken", format!("OpenBaoOperation {name} exists and is not this restore's"));
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
                "the backup of the present state failed: {}. Nothing was changed. To restore without one, create the \
                 restore with preRestoreBackup: false",
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
