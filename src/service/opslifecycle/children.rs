//! Operations that work for another one, under its lock.

use kube::{Api, ResourceExt, api::ListParams};

use super::{
    ask,
    manager::{FinishCall, StepOutcome},
};
use crate::{
    adapter::kubernetes::{client::timed, owner::is_controlled_by},
    api::{OpenBaoOperation, Request, RequestAction},
    causes::chain,
};

/// Tells a child that is still at work to stop, and is done when none is: the lock that it runs under goes after that.
/// Asked from the API server: the watch may not know yet of one that was made right before the end.
pub async fn stop_children(call: &FinishCall<'_>) -> StepOutcome {
    let (name, uid) = (call.op.name_any(), call.op.uid().unwrap_or_default());
    let api: Api<OpenBaoOperation> = Api::namespaced(call.ad.client.clone(), &call.op.namespace().unwrap_or_default());
    let all = match timed(api.list(&ListParams::default())).await {
        Ok(all) => all.items,
        Err(error) => {
            return StepOutcome::in_progress(format!("trying again: cannot list what works for {name}: {error}"));
        }
    };
    let Some(child) = at_work(&all, &uid) else { return StepOutcome::done() };
    let request = Request {
        nonce: format!("parent-{uid}"),
        action: RequestAction::Cancel,
        reason: format!("its parent {name} ended {}", call.ending.as_str()),
        ..Request::default()
    };
    if let Err(error) = ask(&call.ad.client, child, [request]).await {
        tracing::warn!(error = chain(&error), child = child.name_any(), "failed to cancel a child operation");
    }
    StepOutcome::in_progress(format!("{} is being stopped", child.name_any()))
}

/// A child of the operation with this UID that has not ended.
fn at_work<'a>(all: &'a [OpenBaoOperation], parent_uid: &str) -> Option<&'a OpenBaoOperation> {
    all.iter().find(|child| is_controlled_by(*child, parent_uid) && !child.has_ended())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operation::{OpenBaoOperationSpec, OpenBaoOperationStatus, OperationPhase};

    fn operation(uid: &str, parent: Option<&OpenBaoOperation>, phase: Option<OperationPhase>) -> OpenBaoOperation {
        let mut op = OpenBaoOperation::new(uid, OpenBaoOperationSpec::default());
        op.metadata.uid = Some(uid.into());
        op.metadata.owner_references =
            parent.map(|parent| vec![kube::Resource::controller_owner_ref(parent, &()).unwrap()]);
        op.status = phase.map(|phase| OpenBaoOperationStatus { phase, ..OpenBaoOperationStatus::default() });
        op
    }

    #[test]
    fn a_child_is_at_work_until_it_has_ended_even_if_it_has_not_begun() {
        let (parent, other) = (operation("parent", None, None), operation("other", None, None));
        for (child, works) in [
            (operation("new", Some(&parent), None), true),
            (operation("running", Some(&parent), Some(OperationPhase::Running)), true),
            (operation("unknown", Some(&parent), Some(OperationPhase::Unknown)), true),
            (operation("ended", Some(&parent), Some(OperationPhase::Cancelled)), false),
            (operation("stranger", Some(&other), Some(OperationPhase::Running)), false),
            (operation("alone", None, Some(OperationPhase::Running)), false),
        ] {
            let all = [parent.clone(), child];
            assert_eq!(at_work(&all, "parent").is_some(), works, "{}", all[1].name_any());
        }
    }
}
