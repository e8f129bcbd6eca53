//! How a Job tells the mover what to do: names of environment variables and the paths at which things are mounted.
//!
//! The builder of Jobs writes them and the command line reads them (each is also a flag), so they are named once, here.
//! Nothing secret travels in a variable: tokens and credentials are files.

/// The frozen `adapter::objectstore::Target`, as JSON.
pub const TARGET: &str = "MOVER_TARGET";
/// Folder with the keys of the credentials Secret as files; absent for `file` and for workload identity.
pub const CREDENTIALS_DIR: &str = "MOVER_CREDENTIALS_DIR";

/// Namespace of the cluster and of the mover's own config map.
pub const NAMESPACE: &str = "MOVER_NAMESPACE";
/// Name of the `OpenBaoCluster`.
pub const CLUSTER: &str = "MOVER_CLUSTER";
/// UID of the `OpenBaoCluster`.
pub const CLUSTER_UID: &str = "MOVER_CLUSTER_UID";

/// Name, UID, intent and actor of the operation: they end up in the manifest.
pub const OPERATION: &str = "MOVER_OPERATION";
pub const OPERATION_UID: &str = "MOVER_OPERATION_UID";
pub const INTENT: &str = "MOVER_INTENT";
pub const ACTOR: &str = "MOVER_ACTOR";
/// What the backup is taken for, if not for itself.
pub const ROLE: &str = "MOVER_ROLE";
/// Namespace of the mover's own config map, where that is not the cluster's.
pub const REPORT_NAMESPACE: &str = "MOVER_REPORT_NAMESPACE";
/// The mover's own config map, `<operation>-mover`; absent: report to nobody.
pub const CONFIG_MAP: &str = "MOVER_CONFIG_MAP";
/// The pod this process runs in, by the downward API.
pub const POD_NAME: &str = "MOVER_POD_NAME";
pub const POD_UID: &str = "MOVER_POD_UID";

/// The OpenBao servers, a JSON list of `protocol::Peer`: candidates, the mover finds the leader among them by itself. A restore
/// only tries its login there: where it sends the snapshot is said by its grant.
pub const PEERS: &str = "MOVER_PEERS";
/// PEM bundle that the servers' certificates chain to; absent: plain HTTP.
pub const CA_FILE: &str = "MOVER_CA_FILE";
/// JWT login: mount, role, token file and the audience of that token (for the manifest).
pub const JWT_MOUNT: &str = "MOVER_JWT_MOUNT";
pub const JWT_ROLE: &str = "MOVER_JWT_ROLE";
pub const JWT_FILE: &str = "MOVER_JWT_FILE";
pub const AUDIENCE: &str = "MOVER_AUDIENCE";
/// A file with an OpenBao token, instead of the JWT login.
pub const TOKEN_FILE: &str = "MOVER_TOKEN_FILE";

/// The whole key of the snapshot object: where a backup goes, what a verification or a restore reads.
pub const KEY: &str = "MOVER_KEY";
/// Instead of a key: `true` for the newest complete backup of this cluster under the target's prefix.
pub const LATEST: &str = "MOVER_LATEST";
/// Instead of a key: the newest complete backup taken before this time (RFC 3339).
pub const BEFORE: &str = "MOVER_BEFORE";
/// Fingerprint of the static unseal key, for the manifest (the mover never sees the key).
pub const KEY_FINGERPRINT: &str = "MOVER_KEY_FINGERPRINT";
/// Bytes of the last backup: the spool's free space is checked against it first.
pub const EXPECTED_SIZE: &str = "MOVER_EXPECTED_SIZE";
/// Folder for the spool or the download; absent: none (only where the command can do without).
pub const SCRATCH: &str = "MOVER_SCRATCH";
/// Most bytes that the spool may take; absent: as long as the disk has room.
pub const SPOOL_LIMIT: &str = "MOVER_SPOOL_LIMIT";
/// Most bytes that an archive may expand to; absent: 64 GiB.
pub const MAX_EXPANDED: &str = "MOVER_MAX_EXPANDED";
/// RFC 3339: everything is over by then, clean-up included.
pub const DEADLINE: &str = "MOVER_DEADLINE";

/// Retention policy as JSON (the shape of `spec.backup.retention`).
pub const RETENTION: &str = "MOVER_RETENTION";
/// Keys that retention must not remove, with the reason: a JSON map from key to reason.
pub const PROTECTED: &str = "MOVER_PROTECTED";
/// `true`: print what would be removed and kept, and remove nothing.
pub const DRY_RUN: &str = "MOVER_DRY_RUN";
/// Keys to remove whatever retention says (a backup whose seal was not proven), a JSON list.
pub const REMOVE: &str = "MOVER_REMOVE";
/// Keys of movers that died: removed unless they have both a manifest and an object, a JSON list.
pub const CLEAN: &str = "MOVER_CLEAN";
/// Keys that the keep rules do not count (safety backups), a JSON list.
pub const UNCOUNTED: &str = "MOVER_UNCOUNTED";

/// What a restore's requester took upon themselves, a JSON list of `MissingManifest` and `OtherSeal`.
pub const WAIVE: &str = "MOVER_WAIVE";
/// `false`: verify and report, and submit nothing (a dry run).
pub const SUBMIT: &str = "MOVER_SUBMIT";

/// Folder of a restore test: the fetched backup, this program, the server's configuration.
pub const REHEARSAL: &str = "MOVER_REHEARSAL";
/// The server's program and what comes before its `server`, a JSON list; absent: `bao`.
pub const SERVER: &str = "MOVER_SERVER";
/// Configuration of the server of a restore test.
pub const SERVER_CONFIG: &str = "MOVER_SERVER_CONFIG";
/// `ip:port` at which that server listens.
pub const SERVER_ADDRESS: &str = "MOVER_SERVER_ADDRESS";
/// `false`: that server has the pod's network.
pub const ISOLATED: &str = "MOVER_ISOLATED";
/// Paths that must be readable in what came back, a JSON list.
pub const CANARIES: &str = "MOVER_CANARIES";

/// Where the result goes besides standard output.
pub const TERMINATION_LOG: &str = "TERMINATION_LOG";

/// Where the pod's pieces are mounted.
pub mod path {
    /// The program, the same in every image of ours.
    pub const PROGRAM: &str = "/bao-backup";
    /// Spool and downloads.
    pub const SCRATCH: &str = "/scratch";
    /// The claim of a `file` target.
    pub const STORE: &str = "/store";
    /// Keys of the credentials Secret.
    pub const CREDENTIALS: &str = "/etc/openbao/credentials";
    /// The public CA bundle.
    pub const CA: &str = "/etc/openbao/ca";
    /// A user's OpenBao token.
    pub const TOKEN: &str = "/etc/openbao/token";
    /// The projected token for OpenBao.
    pub const JWT: &str = "/var/run/secrets/openbao";
    /// The projected token for a cloud's token exchange.
    pub const CLOUD: &str = "/var/run/secrets/cloud";
    /// Token, CA and namespace for the API server, where every Kubernetes client looks for them.
    pub const KUBERNETES: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
}
