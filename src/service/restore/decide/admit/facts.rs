//! What is looked at before a restore is admitted, as it was found.

use chrono::{DateTime, Utc};

/// Everything that is looked at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the restore was first seen.
    pub since: DateTime<Utc>,
    pub cluster_name: String,
    /// The cluster's UID when this restore first saw it: a namesake created later is another cluster.
    pub pinned_uid: Option<String>,
    pub force: bool,
    pub override_lock: bool,
    /// A safety backup is asked for, in so many words, of a cluster that has no target for it.
    pub lacks_target: bool,
    pub source: Source,
    /// Why the restore's Job does not run the image that the spec names.
    pub image: Result<(), String>,
    pub cluster: Option<Cluster>,
    pub login: Login,
    /// Objects that the spec names, in the order of its fields.
    pub needs: Vec<Need>,
    pub leader: Leader,
    /// A backup, in words, whose retention is at work where the source lies and does not know of this restore.
    pub retention: Option<String>,
}

/// Which snapshot is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub key: Option<String>,
    pub latest: bool,
    pub before: Option<DateTime<Utc>>,
    /// Why the target cannot work whatever the store says; `None` when there is nothing against it.
    pub target: Result<(), String>,
}

/// The cluster as its object says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    pub uid: String,
    pub deleting: bool,
    pub paused: bool,
    pub initialized: bool,
    pub created: Option<DateTime<Utc>>,
    /// The version an upgrade under way is heading for.
    pub upgrading_to: Option<String>,
    /// Why what is restored would serve nobody: a rollback wiped the servers and did not restore them.
    pub half_restored: Option<String>,
}

/// How the mover is going to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A token from the Secret that the spec names.
    Token,
    /// A JWT role that the spec names or that was set up with the cluster.
    Role(String),
    /// None of these.
    Nobody,
}

/// An object that the restore cannot do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The field that names it, as a path.
    pub field: &'static str,
    /// Kind and name: `Secret backup-credentials`.
    pub object: String,
    pub state: NeedState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NeedState {
    Present,
    Missing,
    /// It exists without this data key.
    Lacks(String),
    /// An account without this annotation.
    Unannotated(String),
    /// A key or a volume of this cluster's own.
    Own(String),
}

/// Who leads, by the servers' own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    /// Not asked, because there is no cluster to ask.
    NotAsked,
    Found,
    /// Every server that answered is sealed.
    Sealed,
    /// Every server that answered has empty storage.
    Uninitialized,
    /// No server answered, or none is active.
    Nobody {
        detail: String,
    },
}
