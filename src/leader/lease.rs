//! The requests about one Lease, and what this process remembers of it.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::decide::{Decision, Seen, decide, decide_without};
use super::{LEASE_DURATION, REQUEST_TIMEOUT};

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("reading the lease failed")]
    Read(#[source] kube::Error),
    #[error("writing the lease failed")]
    Write(#[source] kube::Error),
    #[error("no answer within {} seconds", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

impl Error {
    /// The API server refused because the lease is not what we decided on.
    pub(super) fn lost_race(&self) -> bool {
        matches!(self, Self::Write(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists())
    }
}

/// One lease by name. Each request ends within [`REQUEST_TIMEOUT`].
#[derive(Debug)]
pub(super) struct Leases {
    api: Api<Lease>,
    name: String,
}

/// The lease as it changes; an error is followed by a pause and another try.
pub(super) struct Changes(Pin<Box<dyn Stream<Item = Result<Option<Lease>, watcher::Error>> + Send>>);

impl Changes {
    pub(super) async fn next(&mut self) -> Result<Option<Lease>, watcher::Error> {
        match self.0.next().await {
            Some(change) => change,
            // The watcher never ends; if it ever did, the deadline of what was seen still holds.
            None => std::future::pending().await,
        }
    }
}

impl Leases {
    pub(super) fn new(api: Api<Lease>, name: &str) -> Self {
        Self { api, name: name.to_owned() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn watch(&self) -> Changes {
        Changes(watcher::watch_object(self.api.clone(), &self.name).default_backoff().boxed())
    }

    pub(super) async fn read(&self) -> Result<Option<Lease>, Error> {
        within(self.api.get_opt(&self.name)).await?.map_err(Error::Read)
    }

    /// Creates the lease, or replaces exactly the version that `seen` is.
    pub(super) async fn claim(&self, seen: Option<&Lease>, identity: &str) -> Result<Lease, Error> {
        let now = MicroTime(Timestamp::now());
        let mut spec = seen.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(identity) {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
        }
        let spec = LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(seconds(LEASE_DURATION)),
            renew_time: Some(now),
            ..spec
        };
        match seen {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                within(self.api.create(&PostParams::default(), &lease)).await?.map_err(Error::Write)
            }
            Some(seen) => self.replace(&Lease { metadata: seen.metadata.clone(), spec: Some(spec) }).await,
        }
    }

    pub(super) async fn renew(&self, held: &Lease, identity: &str) -> Result<Lease, Error> {
        self.claim(Some(held), identity).await
    }

    /// Leaves the lease without a holder, if it is still the version that we hold.
    pub(super) async fn release(&self, held: &Lease) -> Result<(), Error> {
        let mut lease = held.clone();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        self.replace(&lease).await.map(|_| ())
    }

    /// Conflicts (409) unless the stored version is the one `lease` carries.
    async fn replace(&self, lease: &Lease) -> Result<Lease, Error> {
        debug_assert!(lease.resource_version().is_some(), "a replace without a version would overwrite anything");
        within(self.api.replace(&self.name, &PostParams::default(), lease)).await?.map_err(Error::Write)
    }
}

pub(super) fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// What was last seen, and since when by our own clock.
#[derive(Debug, Default)]
pub(super) enum Observer {
    /// No answer yet.
    #[default]
    Unknown,
    /// There is no such lease. What stood in it before it was deleted still holds: its holder may not know yet.
    Absent(Option<Box<Seen>>),
    Present(Box<(Lease, Seen)>),
}

impl Observer {
    /// What to do now; `None` while nothing is known.
    pub(super) fn decide(&self, me: &str, now: Instant) -> Option<Decision> {
        match self {
            Self::Unknown => None,
            Self::Absent(before) => Some(decide_without(before.as_deref(), me, now)),
            Self::Present(known) => Some(decide(Some(&known.1), me, now)),
        }
    }

    /// The version to replace.
    pub(super) fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Unknown | Self::Absent(_) => None,
            Self::Present(known) => Some(&known.0),
        }
    }

    /// Only a changed spec is a sign of life: an annotation that somebody sets must not prolong a dead holder's term.
    pub(super) fn note(&mut self, lease: Option<Lease>, now: Instant) {
        let Some(lease) = lease else {
            *self = Self::Absent(match std::mem::take(self) {
                Self::Unknown => None,
                Self::Absent(before) => before,
                Self::Present(known) => Some(Box::new(known.1)),
            });
            return;
        };
        let since = match self {
            Self::Present(known) if known.0.spec == lease.spec => known.1.since,
            _ => now,
        };
        let spec = lease.spec.as_ref();
        let seen = Seen {
            holder: spec.and_then(|spec| spec.holder_identity.clone()),
            duration: spec
                .and_then(|spec| u64::try_from(spec.lease_duration_seconds?).ok())
                .map_or(LEASE_DURATION, Duration::from_secs),
            since,
        };
        *self = Self::Present(Box::new((lease, seen)));
    }
}

async fn within<T>(request: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(REQUEST_TIMEOUT, request).await.map_err(|_| Error::Timeout)
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: i64) -> Lease {
        Lease {
            metadata: ObjectMeta::default(),
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
        }
    }

    fn wait_until(moment: Instant) -> Option<Decision> {
        Some(Decision::Wait { until: moment })
    }

    #[test]
    fn seeing_the_same_content_again_does_not_prolong_the_holders_term() {
        let start = Instant::now();
        let mut observer = Observer::default();
        observer.note(Some(lease("moss", 1)), start);
        let mut annotated = lease("moss", 1);
        annotated.metadata.resource_version = Some("9".to_owned());
        observer.note(Some(annotated), start + Duration::from_secs(9));
        assert_eq!(observer.decide("fern", start), wait_until(start + LEASE_DURATION));
        assert_eq!(observer.lease().unwrap().metadata.resource_version.as_deref(), Some("9"), "the version is fresh");
        let renewed = start + Duration::from_secs(10);
        observer.note(Some(lease("moss", 2)), renewed);
        assert_eq!(observer.decide("fern", renewed), wait_until(renewed + LEASE_DURATION));
    }

    #[test]
    fn the_holder_of_a_deleted_lease_keeps_its_term() {
        let start = Instant::now();
        let mut observer = Observer::default();
        observer.note(Some(lease("moss", 1)), start);
        let expiry = start + LEASE_DURATION;
        for second in [1, 5] {
            observer.note(None, start + Duration::from_secs(second));
            assert_eq!(observer.decide("fern", start + Duration::from_secs(second)), wait_until(expiry));
        }
        assert!(observer.lease().is_none(), "what is made is new: nothing is there to replace");
        assert_eq!(observer.decide("fern", expiry), Some(Decision::Create));
        assert_eq!(observer.decide("moss", start), Some(Decision::Create), "its own");
        observer.note(Some(lease("reed", 9)), expiry);
        assert_eq!(observer.decide("fern", expiry), wait_until(expiry + LEASE_DURATION), "another was faster");
    }

    #[test]
    fn nothing_is_decided_before_the_first_answer() {
        let mut observer = Observer::default();
        assert_eq!(observer.decide("fern", Instant::now()), None);
        observer.note(None, Instant::now());
        assert_eq!(observer.decide("fern", Instant::now()), Some(Decision::Create));
    }
}
