//! What a transition leaves behind: the reason and the message, an entry of the history, the artifacts. All of it bounded.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{
    super::super::audit::{AuditEvent, Fields, transition},
    Journal,
};
use crate::api::operation::{Artifacts, HistoryEntry, OperationPhase, StepState};

/// Of a longer history the first [`HISTORY_HEAD`] and the last entries are kept.
pub const HISTORY_KEPT: usize = 160;
/// How the beginning of a long history is remembered.
pub const HISTORY_HEAD: usize = 24;
/// How many keys of an output are kept, and how many bytes of each value.
pub(super) const OUTPUT_KEYS: usize = 32;
pub(super) const OUTPUT_BYTES: usize = 2048;

/// Between why an operation ends and what its clean-up waits for.
const CLEANING_UP: &str = "; cleaning up: ";

impl Journal {
    /// What the clean-up waits for: behind why it ends, which is not forgotten over it.
    pub fn cleans_up(&mut self, what: &str) {
        self.cleaned_up();
        let why = self.status.message.take().unwrap_or_default();
        self.status.message = Some(cut(&format!("{why}{CLEANING_UP}{what}")));
    }

    pub(super) fn cleaned_up(&mut self) {
        let why = self.status.message.as_ref().and_then(|message| message.split_once(CLEANING_UP));
        if let Some(why) = why.map(|(why, _)| why.to_owned()) {
            self.status.message = Some(why);
        }
    }

    pub(super) fn say(&mut self, reason: &str, message: &str) {
        self.status.reason = Some(reason.to_owned());
        self.status.message = Some(cut(message));
    }

    pub(super) fn move_to(&mut self, to: OperationPhase, now: DateTime<Utc>) {
        let from = self.status.phase;
        self.status.phase = to;
        let mut fields = Fields::new();
        if to.is_terminal() {
            fields.insert("reason", self.status.reason.clone().unwrap_or_default());
            fields.insert("message", self.status.message.clone().unwrap_or_default());
        }
        self.record(AuditEvent::of_phase(self.subject.kind, from, to), from.as_str(), to.as_str(), fields, now);
    }

    pub(super) fn step_moved(
        &mut self,
        index: usize,
        from: StepState,
        to: StepState,
        mut fields: Fields,
        now: DateTime<Utc>,
    ) {
        fields.insert("step", self.status.steps[index].name.clone());
        self.record(AuditEvent::SagaStepTransition, from.as_str(), to.as_str(), fields, now);
    }

    pub(super) fn record(&mut self, event: AuditEvent, from: &str, to: &str, mut fields: Fields, now: DateTime<Utc>) {
        fields.insert("operation", self.subject.operation.clone());
        fields.insert("operation_uid", self.subject.operation_uid.clone());
        fields.insert("kind", self.subject.kind.as_str().to_owned());
        fields.insert("cluster", self.subject.cluster.clone());
        fields.insert("namespace", self.subject.namespace.clone());
        fields.insert("actor", self.subject.actor.clone());
        let Some(mut entry) = transition(event, from, to, &fields, now) else { return };
        entry.seq = self.status.history.last().map_or(0, |entry| entry.seq).saturating_add(1);
        self.status.history.push(entry);
        bound_history(&mut self.status.history);
    }

    pub(super) fn note_artifacts(&mut self, output: &BTreeMap<String, String>) {
        let artifacts = self.status.artifacts.clone().unwrap_or_default();
        let new = |key: &str, old: Option<String>| output.get(key).map(|value| cut(value)).or(old);
        let noted = Artifacts {
            key: new("key", artifacts.key),
            manifest_key: new("manifestKey", artifacts.manifest_key),
            sha256: new("sha256", artifacts.sha256),
            size_bytes: output.get("sizeBytes").and_then(|value| value.parse().ok()).or(artifacts.size_bytes),
        };
        self.status.artifacts = (noted != Artifacts::default()).then_some(noted);
    }
}

/// Keeps the beginning and the end of a long history. The numbers of the entries show what is missing.
pub fn bound_history(history: &mut Vec<HistoryEntry>) {
    let surplus = history.len().saturating_sub(HISTORY_KEPT);
    if surplus > 0 {
        history.drain(HISTORY_HEAD..HISTORY_HEAD + surplus);
    }
}

pub(super) fn cut(text: &str) -> String {
    let mut end = text.len().min(OUTPUT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

pub(super) fn bounded(output: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    output.iter().take(OUTPUT_KEYS).map(|(key, value)| (key.clone(), cut(value))).collect()
}
