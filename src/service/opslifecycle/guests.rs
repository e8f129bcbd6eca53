//! Operations that run under another one's parked lock.
//!
//! A parked holder lets backups run without a lock of their own. Before it acts again it shows its lock as held, and then
//! looks here, as it does before it gives its lock back. A guest, for its part, has its plan written down before it looks at the
//! lock: of the two, at least one sees the other. So a guest that once saw the lock parked is waited for until it has ended.

use kube::{Api, ResourceExt, core::DeserializeGuard};

use crate::{
    adapter::{
        Adapters,
        kubernetes::{client::RequestError, owner::is_controlled_by, readable},
    },
    api::operation::OpenBaoOperation,
};

/// The operations of the cluster of `host` that have begun, have not ended, and take no lock of their own. Its own children
/// are not guests, nor is one that cannot be read: nobody runs it here. Asked from the API server: the watch may be behind.
pub async fn guests(ad: &Adapters, host: &OpenBaoOperation) -> Result<Vec<OpenBaoOperation>, RequestError> {
    let api: Api<DeserializeGuard<OpenBaoOperation>> =
        Api::namespaced(ad.client.clone(), &host.namespace().unwrap_or_default());
    Ok(readable::list(&api, |other: &OpenBaoOperation| is_guest(other, host)).await?.items)
}

fn is_guest(other: &OpenBaoOperation, host: &OpenBaoOperation) -> bool {
    let Some(status) = &other.status else { return false };
    let host_uid = host.uid().unwrap_or_default();
    other.spec.cluster == host.spec.cluster
        && other.uid().as_deref() != Some(&host_uid)
        && !is_controlled_by(other, &host_uid)
        && !status.phase.is_terminal()
        && status.plan.as_ref().is_some_and(|plan| plan.lock.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operation::{LockPlan, OpenBaoOperationSpec, OpenBaoOperationStatus, OperationPhase, Plan};

    fn operation(uid: &str, phase: OperationPhase, plan: Option<Plan>) -> OpenBaoOperation {
        let spec = OpenBaoOperationSpec { cluster: "prod".into(), ..OpenBaoOperationSpec::default() };
        let mut op = OpenBaoOperation::new(uid, spec);
        op.metadata.uid = Some(uid.into());
        op.status = Some(OpenBaoOperationStatus { phase, plan, ..OpenBaoOperationStatus::default() });
        op
    }

    #[test]
    fn a_guest_has_begun_has_not_ended_and_has_no_lock_of_its_own() {
        let host = operation("host", OperationPhase::Running, Some(Plan::default()));
        let lock = LockPlan {
            operation: crate::api::cluster::status::LockOperation::Backup,
            holder: "openbaocluster/backup".into(),
            holder_uid: "u".into(),
            before: None,
            force: false,
            message: None,
        };
        let locked = Plan { lock: Some(lock), ..Plan::default() };
        let mut child = operation("child", OperationPhase::Running, Some(Plan::default()));
        child.metadata.owner_references = Some(vec![kube::Resource::controller_owner_ref(&host, &()).unwrap()]);
        let mut elsewhere = operation("elsewhere", OperationPhase::Running, Some(Plan::default()));
        elsewhere.spec.cluster = "other".into();
        for (other, guest) in [
            (operation("running", OperationPhase::Running, Some(Plan::default())), true),
            (operation("frozen", OperationPhase::Pending, Some(Plan::default())), true),
            (operation("unknown", OperationPhase::Unknown, Some(Plan::default())), true),
            (operation("unplanned", OperationPhase::Pending, None), false),
            (operation("ended", OperationPhase::Failed, Some(Plan::default())), false),
            (operation("locked", OperationPhase::Running, Some(locked)), false),
            (child, false),
            (elsewhere, false),
            (host.clone(), false),
        ] {
            assert_eq!(is_guest(&other, &host), guest, "{}", other.name_any());
        }
    }
}
