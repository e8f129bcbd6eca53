//! Operations that a manifest stands behind. Whoever applies it makes the object again when it is gone, and what is made again
//! is a new operation, which runs: the record is the only thing that keeps it from doing so.

use kube::ResourceExt;

use crate::api::operation::{ActorSource, OpenBaoOperation};

/// What those who apply manifests leave in an object's annotations or labels: kubectl (and Argo CD through it), Flux, Argo CD,
/// Helm.
const MARKS: [&str; 4] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "kustomize.toolkit.fluxcd.io/",
    "argocd.argoproj.io/",
    "meta.helm.sh/",
];

/// Whether somebody keeps this operation as a manifest, as far as can be seen. One that an object of ours owns is made by us.
pub fn is_declared(op: &OpenBaoOperation) -> bool {
    if op.owner_references().iter().any(|owner| owner.controller == Some(true)) {
        return false;
    }
    let said = op.spec.actor.as_ref().is_some_and(|actor| actor.source == ActorSource::Gitops);
    let mut keys = op.annotations().keys().chain(op.labels().keys());
    let marked = keys.any(|key| MARKS.iter().any(|mark| key.starts_with(mark)));
    // Its managers are forgotten with time, and what they told stands in its status.
    let seen = op.status.as_ref().and_then(|status| status.actor.as_ref()).is_some_and(|actor| actor.applied);
    said || marked || seen || is_applied(op)
}

/// Whether a server-side apply is among what wrote it, and not only its status.
pub fn is_applied(op: &OpenBaoOperation) -> bool {
    op.managed_fields().iter().any(|entry| entry.subresource.is_none() && entry.operation.as_deref() == Some("Apply"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;

    use super::*;
    use crate::api::operation::{Actor, OpenBaoOperationSpec, OpenBaoOperationStatus, VerifiedActor};

    fn operation(change: impl FnOnce(&mut OpenBaoOperation)) -> OpenBaoOperation {
        let mut op = OpenBaoOperation::new("flow", OpenBaoOperationSpec::default());
        change(&mut op);
        op
    }

    fn written(how: &str, subresource: Option<&str>) -> OpenBaoOperation {
        let entry = ManagedFieldsEntry {
            manager: Some("somebody".into()),
            operation: Some(how.into()),
            subresource: subresource.map(Into::into),
            ..ManagedFieldsEntry::default()
        };
        operation(|op| op.metadata.managed_fields = Some(vec![entry]))
    }

    #[test]
    fn what_was_applied_is_told_from_what_was_created() {
        let actor = |source| Some(Actor { identity: "flux".into(), source });
        let marked = |key: &str| operation(|op| op.metadata.annotations = Some([(key.into(), "x".into())].into()));
        let labelled = |key: &str| operation(|op| op.metadata.labels = Some([(key.into(), "x".into())].into()));
        let ended = VerifiedActor { applied: true, ..VerifiedActor::default() };
        let remembered = operation(|op| {
            op.status = Some(OpenBaoOperationStatus { actor: Some(ended), ..OpenBaoOperationStatus::default() });
        });
        for declared in [
            operation(|op| op.spec.actor = actor(ActorSource::Gitops)),
            marked("kubectl.kubernetes.io/last-applied-configuration"),
            marked("argocd.argoproj.io/tracking-id"),
            marked("meta.helm.sh/release-name"),
            labelled("kustomize.toolkit.fluxcd.io/name"),
            written("Apply", None),
            remembered,
        ] {
            assert!(is_declared(&declared), "{declared:?}");
        }
        for created in [
            operation(|_| ()),
            operation(|op| op.spec.actor = actor(ActorSource::Api)),
            marked("openbao.org/pinned"),
            written("Update", None),
            written("Apply", Some("status")),
        ] {
            assert!(!is_declared(&created), "{created:?}");
        }
    }

    #[test]
    fn what_an_object_of_ours_owns_is_made_by_us() {
        let mut owner = OpenBaoOperation::new("parent", OpenBaoOperationSpec::default());
        owner.metadata.uid = Some("p".into());
        let mut child = written("Apply", None);
        child.metadata.owner_references = Some(vec![kube::Resource::controller_owner_ref(&owner, &()).unwrap()]);
        assert!(!is_declared(&child));
    }
}
