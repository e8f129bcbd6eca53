//! Events with annotations.
//!
//! kube's recorder cannot annotate, and the audit trail promises the same keys in the log line and on the event, so we
//! write `events.k8s.io/v1` objects ourselves. An event is news for people: failing to write one is logged and forgotten.

use super::{client::timed, time::to_kube};
use chrono::{DateTime, Duration, Utc};
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, Resource, api::PostParams};
use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

/// The API server refuses notes longer than this.
const NOTE_LIMIT: usize = 1024;

/// The same news about the same object is told once in this time.
const QUIET: Duration = Duration::minutes(5);

/// How many recent events are remembered; the memory is cleared when full.
const REMEMBERED: usize = 4096;

/// Whether the news is good or needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Something went as it should.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One piece of news.
#[derive(Clone, Debug)]
pub struct News {
    /// Normal or Warning.
    pub severity: Severity,
    /// CamelCase, machine readable: `RestoreCompleted`.
    pub reason: String,
    /// What the controller was doing: `Reconcile`, `Restore`.
    pub action: String,
    /// For people.
    pub note: String,
    /// The audit fields.
    pub annotations: BTreeMap<String, String>,
}

/// Publishes news about objects.
#[derive(Clone)]
pub struct Events {
    client: Client,
    instance: String,
    recent: Arc<Mutex<HashMap<u64, DateTime<Utc>>>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Events {
    /// `instance` names this replica (its pod).
    pub fn new(client: Client, instance: impl Into<String>) -> Self {
        Self { client, instance: instance.into(), recent: Arc::default() }
    }

    /// Tells `news` about `object`, once.
    pub async fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, news: News) {
        self.publish_about(object.object_ref(&()), news).await;
    }

    /// Tells `news` about whatever `regarding` names, once. Whatever comes next does not wait for it: news are sent on the side,
    /// and each sending ends by its timeout.
    #[allow(clippy::unused_async)] // an adapter's call that does I/O; that it returns early is its own affair
    pub async fn publish_about(&self, regarding: ObjectReference, news: News) {
        let now = Utc::now();
        if self.is_repeated(&regarding, &news, now) {
            return;
        }
        let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let event = self.event(regarding, &news, now);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        tokio::spawn(async move {
            if let Err(error) = timed(api.create(&PostParams::default(), &event)).await {
                tracing::warn!(reason = %news.reason, error = %error, "failed to publish an event");
            }
        });
    }

    fn is_repeated(&self, regarding: &ObjectReference, news: &News, now: DateTime<Utc>) -> bool {
        let mut hasher = DefaultHasher::new();
        (&regarding.uid, &regarding.namespace, &regarding.name, &news.reason, &news.note).hash(&mut hasher);
        news.annotations.hash(&mut hasher);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= REMEMBERED {
            recent.clear();
        }
        match recent.insert(hasher.finish(), now) {
            Some(before) => now - before < QUIET,
            None => false,
        }
    }

    fn event(&self, regarding: ObjectReference, news: &News, now: DateTime<Utc>) -> Event {
        // Named after the object, like every event: the API server takes no generated name that ends in a dot.
        let prefix: String = regarding.name.clone().unwrap_or_default().chars().take(200).collect();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:016x}", prefix.trim_end_matches(['.', '-']), rand::random::<u64>())),
                annotations: (!news.annotations.is_empty()).then(|| news.annotations.clone()),
                creation_timestamp: Some(to_kube(now)),
                ..ObjectMeta::default()
            },
            action: Some(truncated(&news.action, 128)),
            reason: Some(truncated(&news.reason, 128)),
            note: Some(truncated(&news.note, NOTE_LIMIT)),
            type_: Some(news.severity.word().to_owned()),
            event_time: Some(MicroTime(
                Timestamp::from_microsecond(now.timestamp_micros()).unwrap_or(Timestamp::UNIX_EPOCH),
            )),
            regarding: Some(regarding),
            reporting_controller: Some("openbao.org/operator".to_owned()),
            reporting_instance: Some(truncated(&self.instance, 128)),
            ..Event::default()
        }
    }
}

/// Cut to at most `limit` bytes at a character boundary.
fn truncated(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::truncated;

    #[test]
    fn a_note_is_cut_between_characters_never_inside_one() {
        assert_eq!(truncated("aé", 2), "a");
        assert_eq!(truncated("aé", 3), "aé");
        assert_eq!(truncated("", 3), "");
    }
}
