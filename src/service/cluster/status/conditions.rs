//! Conditions as Kubernetes keeps them.

use crate::{adapter::kubernetes::time::to_kube, api::OpenBaoClusterStatus};
use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use std::collections::BTreeMap;

/// Conditions under construction: a transition time changes only with the status.
pub(super) struct Conditions<'a> {
    pub(super) before: &'a [Condition],
    pub(super) generation: Option<i64>,
    pub(super) now: DateTime<Utc>,
    pub(super) all: BTreeMap<String, Condition>,
}

impl Conditions<'_> {
    pub(super) fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let previous = self.before.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        let condition = Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(1024).collect(),
            observed_generation: self.generation,
            last_transition_time: previous
                .map_or_else(|| to_kube(self.now), |previous| previous.last_transition_time.clone()),
        };
        self.all.insert(type_.to_owned(), condition);
    }

    /// Leaves a condition as it was, if it was.
    pub(super) fn keep(&mut self, type_: &str) {
        if let Some(previous) = self.before.iter().find(|condition| condition.type_ == type_) {
            self.all.insert(type_.to_owned(), previous.clone());
        }
    }
}

pub(super) fn condition_is(status: &OpenBaoClusterStatus, type_: &str, value: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == value)
}
