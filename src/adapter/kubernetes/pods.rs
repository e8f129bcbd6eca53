//! What a pod's status says, read once for everybody.

use k8s_openapi::api::core::v1::Pod;

/// The scheduler's words, while it has found no node for the pod.
pub fn unscheduled(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let waiting = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    waiting?.message.as_deref()
}
