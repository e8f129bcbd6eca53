//! Types that several kinds share: requests, references, secret text.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many handled requests a status remembers. Older ones are forgotten; their nonces must not be used again.
pub const HANDLED_REQUESTS_KEPT: usize = 20;

/// Leaves a field out of the YAML when it says nothing more than its default.
#[allow(clippy::trivially_copy_pass_by_ref)] // the signature is serde's
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The default of switches that are on unless someone turns them off.
pub(crate) fn yes() -> bool {
    true
}

/// The schema of a map from short text to text. A bound on both is what lets admission rules look at it.
pub(crate) fn string_map<const ENTRIES: u64, const LENGTH: u64>(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": ENTRIES,
        "additionalProperties": {"type": "string", "maxLength": LENGTH},
    })
}

/// Something a person asks of a running object. Each entry is handled once, known by its nonce, so a manifest that
/// still carries it can be applied again and again without effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// A word that was never used on this object before, for instance the date. It tells this request from all others.
    #[schemars(length(min = 1, max = 64))]
    pub nonce: String,
    /// What to do. `Cancel`: stop and undo. `Stop`: stop at the next safe point. `Skip`: go on without a step. `Retry`: try failed
    /// steps, or a held target, again. `Resume`: go on with what waits for a person. `Abandon`: give up on what is unknown.
    /// `Release`: free a lock whose holder is gone, or let the next member start. Not every kind understands all.
    pub action: RequestAction,
    /// The step that `Skip` or `Retry` means, by its name in `status.steps`. Empty means the whole operation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub step: String,
    /// Why, in your own words. Kept in the history.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub reason: String,
    /// Who asks, as far as the manifest knows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub by: String,
    /// `Release` only: the `holderUID` shown in `status.operationLock`, so that no other holder's lock is released by mistake.
    #[serde(rename = "holderUID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub holder_uid: Option<String>,
    /// `Release` only: the `fence` shown in `status.operationLock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub fence: Option<i64>,
}

/// What can be asked of a running object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum RequestAction {
    /// Stop and undo what can be undone. Refused past the point of no return.
    #[default]
    Cancel,
    /// Go on without a step that its plan marks as skippable.
    Skip,
    /// Try failed steps (of an operation) or a held target (of a cluster) again.
    Retry,
    /// Go on with something that waits for a person: a paused rollout, a parked upgrade, a restore whose result is unknown.
    Resume,
    /// Give up on something whose result is unknown: it ends as failed and its lock is released.
    Abandon,
    /// On a cluster: free the lock of a holder that no longer exists. On a rollout: let the next member start.
    Release,
    /// Stop at the next safe point and keep what is done.
    Stop,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HandledRequest {
    /// The nonce of the request this answers.
    pub nonce: String,
    /// What it asked for.
    pub action: RequestAction,
    /// `Applied`, `Superseded` by a later request or a faster turn of events, or `Refused`.
    pub outcome: RequestOutcome,
    /// The effect, or why it was refused or superseded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
}

/// Forgets the oldest answers beyond [`HANDLED_REQUESTS_KEPT`], but never one whose request still stands in the spec: it would
/// be acted on again.
pub fn forget_old_answers(handled: &mut Vec<HandledRequest>, stands: impl Fn(&str) -> bool) {
    let mut surplus = handled.len().saturating_sub(HANDLED_REQUESTS_KEPT);
    handled.retain(|answer| {
        let forgotten = surplus > 0 && !stands(&answer.nonce);
        surplus -= usize::from(forgotten);
        !forgotten
    });
}

/// The three ends of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RequestOutcome {
    /// It took effect.
    Applied,
    /// A later request in the same list, or a faster turn of events, made it pointless.
    Superseded,
    /// It could not be done here or now; the message says why.
    #[default]
    Refused,
}

/// A Secret in the same namespace, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A credential that someone wrote into a manifest. It serialises as plain text, since the manifest holds it, but never
/// shows itself in logs or errors. Prefer a Secret: whoever may read the object can read this.
#[derive(Clone, Default)]
pub struct SecretText(SecretString);

impl SecretText {
    /// The text itself, for the one place that renders it into a Secret.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(SecretString::from(text))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for SecretText {}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretString::from(text)))
    }
}

impl JsonSchema for SecretText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({"type": "string", "maxLength": 16384})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_text_stays_out_of_debug_output() {
        let shown = format!("{:?}", SecretText::from("hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn secret_text_is_plain_text_in_yaml() {
        let value = serde_json::to_value(SecretText::from("hunter2")).unwrap();
        assert_eq!(value, "hunter2");
        assert_eq!(serde_json::from_value::<SecretText>(value).unwrap().expose(), "hunter2");
    }
}
