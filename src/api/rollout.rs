//! `OpenBaoRollout`: one version brought to several clusters, in order, with a barrier before leadership moves.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{HandledRequest, Request, is_default};
use super::rules;

/// On each operation of a rollout: its whole name, which a label may not hold.
pub const ROLLOUT_NAME: &str = "openbao.org/rollout-name";

/// Brings one version to several clusters of a namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "openbao.org",
    version = "v1alpha1",
    kind = "OpenBaoRollout",
    plural = "openbaorollouts",
    shortname = "baorollout",
    category = "openbao",
    namespaced,
    status = "OpenBaoRolloutStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Brings one version to several clusters, in order.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = rules::immutable_but_requests("rollout", &["version", "members", "policy", "onFailure"], &["image", "deferCutover"]))]
#[serde(rename_all = "camelCase")]
pub struct OpenBaoRolloutSpec {
    /// The OpenBao version every member gets.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::version())]
    pub version: String,
    /// Full image; default is the operator's repository with the version as tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// The clusters, in the order they are worked on.
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cluster".into()]))]
    pub members: Vec<RolloutMember>,
    /// `rolling`: one member after the other. `barrier`: prepare one after the other, then move leadership in order.
    /// `parallel`: prepare all at once, then move leadership in order. Default `rolling`.
    #[serde(default = "default_policy")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = ("self in ['rolling', 'barrier', 'parallel']", "policy must be rolling, barrier or parallel"))]
    pub policy: String,
    /// What a failed member does to those after it. `halt`: none starts. `continue`: they go on. `pause`: they wait for
    /// a `Release` request. The rollout's verdict is failed in all three. Default `halt`.
    #[serde(default = "default_on_failure")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = ("self in ['halt', 'continue', 'pause']", "onFailure must be halt, continue or pause"))]
    pub on_failure: String,
    /// Park each member once its standbys run the version (with `rolling` one member at a time), and wait for a person to let its
    /// leadership move. After fourteen days a parked member turns back. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub defer_cutover: bool,
    /// What a person asks of the running rollout; the only part of the spec that may change.
    /// `Stop`: no further member begins or moves its leadership. `Resume`: take a `Stop` back, and nothing else; or let leadership
    /// move where `deferCutover` waits for you (`step`: of that member, when those before it are done; without it of all that are
    /// parked, in order). `Cancel`: as `Stop`, and what has not moved its leadership yet is undone. `Release`: let the members after
    /// a failed one go on (`onFailure: pause`).
    /// `Retry`: begin failed members again, `Skip`: leave one out; `step` names the member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nonce".into()]))]
    #[x_kube(validation = rules::only_actions("rollout", &["Cancel", "Stop", "Resume", "Release", "Retry", "Skip"]))]
    pub requests: Vec<Request>,
}

fn default_policy() -> String {
    "rolling".to_owned()
}

fn default_on_failure() -> String {
    "halt".to_owned()
}

/// One cluster of a rollout.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutMember {
    /// Name of an `OpenBaoCluster` in the same namespace.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name("cluster"))]
    pub cluster: String,
}

/// How far a rollout is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenBaoRolloutStatus {
    /// Where the whole stands.
    #[serde(default)]
    pub phase: RolloutPhase,
    /// Members done and in all, for example `1/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// What happens now, what is waited for and from whom, or why it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The spec generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One entry per member, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cluster".into()]))]
    pub members: Vec<RolloutMemberStatus>,
    /// A person stopped the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<RolloutStop>,
    /// The last 20 answers to `spec.requests`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nonce".into()]))]
    pub handled_requests: Vec<HandledRequest>,
    /// `RolloutComplete`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RolloutPhase {
    /// Seen, not begun.
    #[default]
    Pending,
    /// Members are worked on.
    Running,
    /// All members are parked before the move of leadership and wait for a person.
    WaitingForCutover,
    /// A failed member waits for a `Release`.
    Paused,
    /// Every member has the version, but for those that were left out before they began.
    Completed,
    /// At least one member failed and none goes on. A `Retry`, `Release` or `Skip` can still move it.
    Failed,
    /// A person stopped it, with `Stop` (a `Resume` goes on), with `Cancel` (final), or with a `Skip` of every member.
    Stopped,
}

/// How far one member is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutMemberStatus {
    /// The cluster.
    pub cluster: String,
    /// Where it stands.
    #[serde(default)]
    pub state: RolloutMemberState,
    /// The `OpenBaoOperation` that does the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What is waited for, or why it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How often it was begun: a `Retry` begins it again.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(range(min = 0))]
    pub attempt: i32,
    /// Its operation exists, or did: it is not created a second time when it is gone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub begun: bool,
    /// It failed, and a `Release` let the members after it go on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub released: bool,
    /// A person has let its leadership move (`Resume` on a rollout with `deferCutover`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub cutover_asked: bool,
}

/// How a person ended a rollout early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RolloutStop {
    /// No further member begins, none moves its leadership; what is parked stays parked. `Resume` goes on.
    Stop,
    /// No further member begins and what can be undone is undone. Final.
    Cancel,
}

/// Where one member stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum RolloutMemberState {
    /// Not begun.
    #[default]
    Pending,
    /// Standbys are being brought to the version.
    Preparing,
    /// Parked before the move of leadership; keeps its cluster's lock.
    WaitingForCutover,
    /// Leadership moves. No request is accepted now.
    CuttingOver,
    /// Being watched before it counts as done.
    Soaking,
    /// Done.
    Completed,
    /// Failed for good.
    Failed,
    /// Failed, may be tried again.
    FailedRetryable,
    /// Stopped by a person.
    Stopped,
    /// Never begun, and never will be.
    Cancelled,
    /// Brought back to the old version.
    Reverted,
}

impl RolloutMemberState {
    /// The word as it stands in YAML, events and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Preparing => "Preparing",
            Self::WaitingForCutover => "WaitingForCutover",
            Self::CuttingOver => "CuttingOver",
            Self::Soaking => "Soaking",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::FailedRetryable => "FailedRetryable",
            Self::Stopped => "Stopped",
            Self::Cancelled => "Cancelled",
            Self::Reverted => "Reverted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_state_is_told_by_the_word_that_stands_in_yaml() {
        use RolloutMemberState as State;
        for state in [
            State::Pending,
            State::Preparing,
            State::WaitingForCutover,
            State::CuttingOver,
            State::Soaking,
            State::Completed,
            State::Failed,
            State::FailedRetryable,
            State::Stopped,
            State::Cancelled,
            State::Reverted,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
