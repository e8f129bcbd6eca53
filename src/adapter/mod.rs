//! The edges: every request to a server leaves from here, with a timeout.

pub mod bulk;
pub mod caches;
#[cfg(feature = "fault-injection")]
pub mod faults;
pub mod kubernetes;
pub mod leadership;
pub mod metrics;
pub mod objectstore;
pub mod openbao;
pub mod operationlock;
pub mod remembered;
pub mod settings;
pub mod turns;

use caches::Caches;
use kubernetes::events::Events;
use leadership::Leadership;
use settings::Settings;

/// What services need to reach the outside, built once by `main` for each [`settings::Scope`].
#[derive(Clone)]
pub struct Adapters {
    /// The API server.
    pub client: kube::Client,
    /// What the operator was told at its start.
    pub settings: Settings,
    /// News for people.
    pub events: Events,
    /// What the watches know.
    pub caches: Caches,
    /// Whether this process may still act: asked right before any effect outside Kubernetes.
    pub leadership: Leadership,
}

impl std::fmt::Debug for Adapters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapters").field("settings", &self.settings).finish_non_exhaustive()
    }
}
