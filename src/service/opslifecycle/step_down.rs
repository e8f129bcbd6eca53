//! A step-down in the audit trail. It is no transition of a journal, so it is told by a line and an event of its own.

use kube::ResourceExt;

use super::{
    audit::{AuditEvent, Fields, flat, log_phase_transition},
    preflight::actor_of,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::events::{News, Severity},
    },
    api::{cluster::OpenBaoCluster, operation::OpenBaoOperation},
};

/// How a leader was made to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDown {
    /// By the API, and it agreed.
    Asked,
    /// Its pod was stopped.
    Stopped,
}

impl StepDown {
    fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Stopped => "stopped",
        }
    }
}

/// Tells that `pod` was made to give up leadership of `cluster`, for `op` if it was an operation's doing.
pub async fn tell_step_down(
    ad: &Adapters,
    cluster: &OpenBaoCluster,
    op: Option<&OpenBaoOperation>,
    pod: &str,
    how: StepDown,
    why: &str,
) {
    let event = AuditEvent::StepDown;
    let Some(entry) = log_phase_transition(event, "leading", how.as_str(), &fields(cluster, op, pod, why)) else {
        return;
    };
    let note = match how {
        StepDown::Asked => format!("{pod} was asked to give up leadership: {why}"),
        StepDown::Stopped => format!("{pod} was stopped, to give up leadership: {why}"),
    };
    let news = News {
        severity: Severity::Normal,
        reason: event.as_str().to_owned(),
        action: "StepDown".to_owned(),
        note,
        annotations: flat(&entry),
    };
    ad.events.publish(cluster, news).await;
}

/// The keys that every line of the trail has, and the pod.
fn fields(cluster: &OpenBaoCluster, op: Option<&OpenBaoOperation>, pod: &str, why: &str) -> Fields {
    let mut fields = Fields::from([
        ("namespace", cluster.namespace().unwrap_or_default()),
        ("cluster", cluster.name_any()),
        ("pod", pod.to_owned()),
        ("message", why.to_owned()),
        ("actor", op.map_or_else(|| format!("openbaocluster/{}", cluster.name_any()), actor_of)),
    ]);
    if let Some(op) = op {
        fields.insert("operation", op.name_any());
        fields.insert("operation_uid", op.uid().unwrap_or_default());
        fields.insert("kind", op.spec.operation.as_str().to_owned());
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operation::{Actor, ActorSource, OpenBaoOperationSpec, OperationKind};

    #[test]
    fn a_step_down_says_whose_it_is_and_for_what_like_every_line_of_the_trail() {
        let mut cluster = OpenBaoCluster::new("kelp", crate::api::OpenBaoClusterSpec::default());
        cluster.metadata.namespace = Some("reef".into());
        let actor = Actor { identity: "ops@example.org".into(), source: ActorSource::Kubectl };
        let spec = OpenBaoOperationSpec {
            operation: OperationKind::Upgrade,
            actor: Some(actor),
            ..OpenBaoOperationSpec::default()
        };
        let mut op = OpenBaoOperation::new("kelp-upgrade", spec);
        op.metadata.uid = Some("u1".into());
        let told = fields(&cluster, Some(&op), "kelp-0", "the standbys are upgraded");
        for (key, value) in [
            ("namespace", "reef"),
            ("cluster", "kelp"),
            ("pod", "kelp-0"),
            ("actor", "ops@example.org"),
            ("operation", "kelp-upgrade"),
            ("operation_uid", "u1"),
            ("kind", "Upgrade"),
        ] {
            assert_eq!(told.get(key).map(String::as_str), Some(value), "{key}");
        }
        let alone = fields(&cluster, None, "kelp-2", "it leaves");
        assert_eq!(alone["actor"], "openbaocluster/kelp");
        assert!(!alone.contains_key("operation"));
    }
}
