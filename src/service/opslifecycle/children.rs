//! Operations that work for another one, under its lock.

use kube::{
    Api, ResourceExt,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};

use super::{
    ask,
    manager::{FinishCall, StepOutcome},
};
use crate::{
    adapter::kubernetes::{
        owner::{has_controller, is_controlled_by},
        readable::{self, Readable},
    },
    api::{OpenBaoOperation, Request, RequestAction},
    causes::chain,
};

/// Tells a child that is still at work to stop, and is done when none is: the lock that it runs under goes after that.
/// Asked from the API server: the watch may not know yet of one that was made right before the end.
pub async fn stop_children(call: &FinishCall<'_>) -> StepOutcome {
    let (name, uid) = (call.op.name_any(), call.op.uid().unwrap_or_default());
    let api: Api<DeserializeGuard<OpenBaoOperation>> =
        Api::namespaced(call.ad.client.clone(), &call.op.namespace().unwrap_or_default());
    let all = match readable::list(&api, |other: &OpenBaoOperation| is_controlled_by(other, &uid)).await {
        Ok(all) => all,
        Err(error) => {
            return StepOutcome::in_progress(format!("trying again: cannot list what works for {name}: {error}"));
        }
    };
    let child = match at_work(&all, &uid) {
        None => return StepOutcome::done(),
        Some(Child::Unreadable(child)) => {
            return StepOutcome::in_progress(format!(
                "it works for {name}: {}",
                readable::named::<OpenBaoOperation>(child)
            ));
        }
        Some(Child::AtWork(child)) => child,
    };
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

/// An operation that works for another one.
#[derive(Debug)]
enum Child<'a> {
    AtWork(&'a OpenBaoOperation),
    /// Whether it has ended cannot be told, nor can it be told to stop.
    Unreadable(&'a InvalidObject),
}

/// A child of the operation with this UID that has not ended, or may not have. Whatever else cannot be read is nobody's here.
fn at_work<'a>(all: &'a Readable<OpenBaoOperation>, parent_uid: &str) -> Option<Child<'a>> {
    let working = all.items.iter().find(|child| is_controlled_by(*child, parent_uid) && !child.has_ended());
    let unreadable = || all.unreadable.iter().find(|child| has_controller(&child.metadata, parent_uid));
    working.map(Child::AtWork).or_else(|| unreadable().map(Child::Unreadable))
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
            let name = child.name_any();
            let all = Readable { items: vec![parent.clone(), child], unreadable: vec![] };
            assert_eq!(at_work(&all, "parent").is_some(), works, "{name}");
        }
    }

    #[test]
    fn one_unreadable_operation_keeps_no_other_from_ending() {
        let parent = operation("parent", None, None);
        let odd = |owner: Option<&OpenBaoOperation>| {
            let owners: Vec<_> =
                owner.and_then(|owner| kube::Resource::controller_owner_ref(owner, &())).into_iter().collect();
            let whole = serde_json::json!([{
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
                "metadata": {"name": "odd", "namespace": "reef", "ownerReferences": owners},
                "spec": {"cluster": "prod", "operation": "Teleport"},
            }]);
            let mut all = Readable::<OpenBaoOperation>::default();
            all.add(serde_json::from_value(whole).unwrap(), |_| true);
            all
        };
        let (nobodys, own) = (odd(None), odd(Some(&parent)));
        assert!(at_work(&nobodys, "parent").is_none(), "it is nobody's child");
        assert!(matches!(at_work(&own, "parent"), Some(Child::Unreadable(child)) if child.error.contains("Teleport")));
    }
}
