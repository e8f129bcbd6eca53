//! What stands in the config map through which operator and mover talk.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::MoverError;
use crate::datapath::protocol::{self, Claim, Grant, Progress, Report, Submission};

/// Data key of the attempts that are over, a JSON list of [`Past`].
pub(super) const PAST: &str = "attempts";
/// Data key of the server pods at the moment of the permit, a JSON object from name to UID.
pub(super) const PODS: &str = "servers";

/// One attempt at a submission that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// The step's attempt that it belonged to.
    pub attempt: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Submission>,
    /// How it was known not to have been applied.
    pub verdict: String,
    pub at: DateTime<Utc>,
}

/// What stands in the config map.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    pub resource_version: Option<String>,
    pub report: Option<Report>,
    pub progress: Option<Progress>,
    pub grant: Option<Grant>,
    pub claim: Option<Claim>,
    pub result: Option<Submission>,
    /// The server pods when the permit was given, by name, with their UIDs: each is known to have been restarted since by
    /// another one.
    pub servers: BTreeMap<String, String>,
    pub past: Vec<Past>,
}

impl Exchange {
    pub(super) fn read(map: &ConfigMap) -> Result<Self, MoverError> {
        fn one<T: DeserializeOwned>(map: &ConfigMap, key: &'static str) -> Result<Option<T>, MoverError> {
            let Some(text) = map.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
            let unreadable = |source| MoverError::Unreadable { name: map.name_any(), key, source };
            serde_json::from_str(text).map(Some).map_err(unreadable)
        }
        Ok(Self {
            resource_version: map.resource_version(),
            report: one(map, protocol::REPORT)?,
            // Nothing hangs on progress.
            progress: one(map, protocol::PROGRESS).unwrap_or_default(),
            grant: one(map, protocol::GRANT)?,
            claim: one(map, protocol::CLAIM)?,
            result: one(map, protocol::RESULT)?,
            servers: one(map, PODS)?.unwrap_or_default(),
            past: one(map, PAST)?.unwrap_or_default(),
        })
    }

    /// How often a submission was claimed in the attempts that are over.
    pub fn submitted(&self) -> usize {
        self.past.iter().filter(|past| past.claim.is_some()).count()
    }

    /// Whether a mover may still be sending under the claim that stands: it has not said how its POST ended.
    pub fn may_be_sending(&self) -> bool {
        let answered = |claim: &Claim| self.result.as_ref().is_some_and(|result| result.pod_uid == claim.pod_uid);
        self.claim.as_ref().is_some_and(|claim| !answered(claim))
    }

    /// The attempt of that number, if it is over.
    pub fn past(&self, attempt: i32) -> Option<&Past> {
        self.past.iter().find(|past| past.attempt == attempt)
    }
}
