//! The driver: it does what [`Run`](super::saga::run::Run) asks for, one thing at a time, and brings back the answer.
//!
//! All I/O of the engine is here and in what it calls. A pass begins with fresh reads, and every status write names the
//! resourceVersion that was read: two processes that both think they lead cannot both write, and the one that lost
//! stops before its next effect.

mod error;
mod lock;
mod pass;
mod work;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use kube::{Api, ResourceExt};

use super::{manager::Manager, saga::faults::Faults, workflow::Workflows};
use crate::{
    adapter::{Adapters, kubernetes::client::timed, turns::Turns},
    api::operation::{JOURNAL_VERSION, OPERATION_FINALIZER, OpenBaoOperation, OperationKind},
};
pub use error::DriveError;
pub use lock::claim;
use pass::Pass;

/// One call of a manager may not take longer. Managers are level-triggered and answer `Waiting` long before.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// What a person or a change is waited for is looked at this often all the same.
const IDLE: Duration = Duration::from_secs(600);
/// One pass does at most this much before it lets others have a turn. A plan has at most 64 steps.
const MOST_ASKS: usize = 1000;
/// After this long a pass goes before the next call, if others wait for its turn and it may.
const LONG: Duration = Duration::from_secs(10);

/// When to look at an operation again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// After this long, or when woken.
    After(Duration),
    /// When it changes.
    OnChange,
}

/// What this process remembers of an operation beside the journal. Losing it costs a repeated log line, no more.
#[derive(Clone, Copy, Debug, Default)]
struct Remembered {
    told: i64,
    message_written_at: Option<DateTime<Utc>>,
}

/// Drives operations.
pub struct Driver {
    ad: Arc<Adapters>,
    managers: Vec<Arc<dyn Manager>>,
    faults: Faults,
    turns: Arc<Turns>,
    writes: AtomicU64,
    remembered: Mutex<HashMap<String, Remembered>>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("managers", &self.managers.len()).finish_non_exhaustive()
    }
}

impl Driver {
    /// A driver for the kinds of these managers, and for workflows. Whoever calls it has one of these `turns`.
    pub fn new(ad: Arc<Adapters>, managers: Vec<Arc<dyn Manager>>, faults: Faults, turns: Arc<Turns>) -> Self {
        let mut managers = managers;
        managers.push(Arc::new(Workflows));
        Self { ad, managers, faults, turns, writes: AtomicU64::new(0), remembered: Mutex::default() }
    }

    fn manager(&self, kind: OperationKind) -> Option<&dyn Manager> {
        self.managers.iter().find(|manager| manager.kinds().contains(&kind)).map(AsRef::as_ref)
    }

    /// Takes one operation as far as it goes now.
    pub async fn reconcile(&self, known: &OpenBaoOperation) -> Result<Again, DriveError> {
        if is_over(known) {
            self.forget(&known.uid().unwrap_or_default());
            return Ok(Again::OnChange);
        }
        if !self.ad.leadership.still_leader() {
            return Err(DriveError::NotLeader);
        }
        let namespace = known.namespace().unwrap_or_default();
        let api: Api<OpenBaoOperation> = Api::namespaced(self.ad.client.clone(), &namespace);
        let op = match timed(api.get_opt(&known.name_any())).await.map_err(DriveError::ReadOperation)? {
            Some(op) if op.uid() == known.uid() => op,
            // Gone, or another one under its name, which comes with an event of its own.
            _ => {
                self.forget(&known.uid().unwrap_or_default());
                return Ok(Again::OnChange);
            }
        };
        if is_over(&op) {
            return Ok(Again::OnChange);
        }
        let version = op.status.as_ref().and_then(|status| status.journal_version).unwrap_or(0);
        if version > JOURNAL_VERSION {
            tracing::error!(
                version,
                known = JOURNAL_VERSION,
                "the journal was written by a newer operator: left alone until that one runs again"
            );
            return Ok(Again::After(IDLE));
        }
        Pass::begin(self, api, op).await?.go().await
    }

    /// Forgets an operation that is over.
    fn forget(&self, uid: &str) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn remembered(&self, uid: &str) -> Remembered {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied().unwrap_or_default()
    }

    fn remember(&self, uid: &str, change: impl FnOnce(&mut Remembered)) {
        change(self.remembered.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_default());
    }

    /// Counts a status write and, if a test wants it, dies right after it as if killed.
    fn wrote(&self) {
        let writes = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if self.faults.crash_after_write == Some(writes) {
            std::process::abort();
        }
    }
}

/// Whether an operation has ended and nothing about it is left to do: no clean-up, no lock, no request.
pub fn is_over(op: &OpenBaoOperation) -> bool {
    let Some(status) = &op.status else { return false };
    let handled = |nonce: &str| status.handled_requests.iter().any(|seen| seen.nonce == nonce);
    status.phase.is_terminal()
        && !op.finalizers().iter().any(|finalizer| finalizer == OPERATION_FINALIZER)
        && op.spec.requests.iter().all(|request| handled(&request.nonce))
}
