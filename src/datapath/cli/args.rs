//! Flags, each also a variable of [`environment`](crate::datapath::environment).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand};
use kube::client::ClientBuilder;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rehearsal_args::{FetchArgs, IsolatedArgs, RehearseArgs};
use crate::adapter::kubernetes::client::prepare;
use crate::adapter::objectstore::manifest::{ManifestAuth, ManifestCluster, ManifestOperation};
use crate::adapter::objectstore::{Credentials, Store, Target, keys};
use crate::datapath::archive::Limits;
use crate::datapath::backup::{self, Facts, SpoolPlan};
use crate::datapath::environment as env;
use crate::datapath::error::MoverError;
use crate::datapath::leader::{Identity, Jwt, Servers};
use crate::datapath::mailbox::Mailbox;
use crate::datapath::protocol::Peer;
use crate::datapath::stored::Source;
use crate::datapath::{prune, restore};

/// Without a deadline of its own a command gives up after this long.
const DEFAULT_TIME: Duration = Duration::from_hours(1);
const MISSING_MANIFEST: &str = "MissingManifest";

/// Takes, checks, stores, fetches and removes OpenBao snapshots.
#[derive(Debug, Parser)]
#[command(name = "bao-backup", version, disable_help_subcommand = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take a snapshot from the leader, verify it while it streams, store it with its manifest.
    Backup(BackupArgs),
    /// Read a stored backup again from end to end and check everything.
    Verify(VerifyArgs),
    /// Tell what a snapshot is, without any key: a local file or a stored object.
    Inspect(InspectArgs),
    /// Fetch and verify a backup, wait for the operator's leave, submit it once to the leader.
    Restore(RestoreArgs),
    /// Remove backups in two phases, and finish what an earlier run began.
    Prune(PruneArgs),
    /// List the backups of one cluster as JSON lines.
    List(ListArgs),
    /// Write, read and remove a small object: does the target work?
    Preflight(PreflightArgs),
    /// Fetch and verify a backup for a restore test, and lay this program beside it.
    Fetch(FetchArgs),
    /// Restore a fetched backup into a server of its own, and look whether all of it came back.
    Rehearse(RehearseArgs),
    /// Run a program that can open no connection.
    Isolated(IsolatedArgs),
}

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// The target as JSON: the fields of spec.backup.target.
    #[arg(long, env = env::TARGET)]
    target: Option<String>,
    /// Folder with the keys of the credentials Secret as files.
    #[arg(long, env = env::CREDENTIALS_DIR)]
    credentials_dir: Option<PathBuf>,
    /// Namespace of the cluster, for keys.
    #[arg(long, env = env::NAMESPACE, default_value = "default")]
    pub namespace: String,
    /// Name of the cluster, for keys.
    #[arg(long, env = env::CLUSTER, default_value = "openbao")]
    pub cluster: String,
}

impl StoreArgs {
    pub(super) fn open(&self) -> Result<Store, MoverError> {
        let credentials = Credentials::read(self.credentials_dir.as_deref());
        let credentials = credentials.map_err(crate::adapter::objectstore::StoreError::from)?;
        Ok(Store::open(&self.target()?, &credentials)?)
    }

    fn target(&self) -> Result<Target, MoverError> {
        let text =
            self.target.as_deref().ok_or_else(|| MoverError::Config("no target was named (--target)".to_owned()))?;
        json("--target", text)
    }

    pub(super) fn cluster_prefix(&self) -> String {
        // An unreadable target is reported by `open`; until then its prefix does not matter.
        let prefix = self.target().map(|target| target.prefix().to_owned()).unwrap_or_default();
        keys::cluster_prefix(&prefix, &self.namespace, &self.cluster)
    }
}

/// Where to report, and until when.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The mover's own config map; without it, progress and reports go to the terminal only.
    #[arg(long, env = env::CONFIG_MAP)]
    config_map: Option<String>,
    /// Namespace of that config map, where it is not the cluster's.
    #[arg(long, env = env::REPORT_NAMESPACE)]
    report_namespace: Option<String>,
    /// UID of the pod this process runs in.
    #[arg(long, env = env::POD_UID, default_value = "")]
    pub pod_uid: String,
    /// When everything has to be over (RFC 3339); an hour from now unless told otherwise.
    #[arg(long, env = env::DEADLINE)]
    deadline: Option<DateTime<Utc>>,
    /// No progress on standard error.
    #[arg(long)]
    pub quiet: bool,
}

impl ReportArgs {
    pub(super) fn until(&self) -> Instant {
        let left = self.deadline.map_or(DEFAULT_TIME, |at| (at - Utc::now()).to_std().unwrap_or(Duration::ZERO));
        Instant::now() + left
    }

    pub(super) async fn mailbox(&self, namespace: &str) -> Result<Option<Mailbox>, MoverError> {
        let Some(name) = &self.config_map else { return Ok(None) };
        let unusable =
            |what: &str, why: String| MoverError::Config(format!("the API server's {what} is not usable: {why}"));
        let config = kube::Config::infer().await.map_err(|error| unusable("address", error.to_string()))?;
        let client = ClientBuilder::try_from(prepare(config)).map_err(|error| unusable("client", error.to_string()))?;
        #[cfg(feature = "fault-injection")]
        let client = client.with_layer(&crate::adapter::faults::FaultLayer);
        let client = client.build();
        let namespace = self.report_namespace.as_deref().unwrap_or(namespace);
        Ok(Some(Mailbox::new(client, namespace, name)))
    }
}

#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// Most bytes that an archive may expand to.
    #[arg(long, env = env::MAX_EXPANDED)]
    max_expanded: Option<u64>,
}

impl LimitArgs {
    pub(super) fn limits(&self) -> Limits {
        self.max_expanded.map_or_else(Limits::default, |expanded| Limits { expanded })
    }
}

#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// The whole key of the snapshot object.
    #[arg(long, env = env::KEY)]
    key: Option<String>,
    /// The newest complete backup of the cluster.
    #[arg(long, env = env::LATEST, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    latest: bool,
    /// The newest complete backup taken before this time (RFC 3339).
    #[arg(long, env = env::BEFORE)]
    before: Option<DateTime<Utc>>,
}

impl SourceArgs {
    pub(super) fn source(&self) -> Result<Source, MoverError> {
        match (&self.key, self.latest, self.before) {
            (Some(key), false, None) => Ok(Source::Key(key.clone())),
            (None, true, None) => Ok(Source::Latest),
            (None, false, Some(time)) => Ok(Source::Before(time)),
            _ => Err(MoverError::Config("name exactly one of --key, --latest and --before".to_owned())),
        }
    }
}

/// How to log in, and what to trust.
#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// PEM bundle that the servers' certificates chain to.
    #[arg(long, env = env::CA_FILE)]
    ca_file: Option<PathBuf>,
    /// File with the service account token for the JWT login.
    #[arg(long, env = env::JWT_FILE)]
    jwt_file: Option<PathBuf>,
    /// Mount of the JWT auth method.
    #[arg(long = "auth-mount", env = env::JWT_MOUNT, default_value = "jwt")]
    auth_mount: String,
    /// Role of the JWT login.
    #[arg(long = "auth-role", env = env::JWT_ROLE)]
    auth_role: Option<String>,
    /// Audience of the service account token, for the manifest.
    #[arg(long, env = env::AUDIENCE, default_value = "")]
    audience: String,
    /// File with an OpenBao token, instead of the JWT login. With a JWT file and a role as well: those are for servers that do not
    /// know the token.
    #[arg(long, env = env::TOKEN_FILE)]
    token_file: Option<PathBuf>,
}

impl LoginArgs {
    fn ca_pem(&self) -> Result<Option<String>, MoverError> {
        let read = self.ca_file.as_ref().map(|path| {
            let read = std::fs::read_to_string(path);
            read.map_err(|source| MoverError::ReadFile { what: "the CA bundle", path: path.clone(), source })
        });
        read.transpose()
    }

    fn identity(&self) -> Result<Option<Identity>, MoverError> {
        let jwt = |file: &Path, role: &str| Jwt {
            file: file.to_owned(),
            mount: self.auth_mount.clone(),
            role: role.to_owned(),
        };
        match (&self.token_file, &self.jwt_file, &self.auth_role) {
            (Some(token), Some(file), Some(role)) => {
                Ok(Some(Identity::TokenOrJwt { token: token.clone(), jwt: jwt(file, role) }))
            }
            (Some(file), _, _) => Ok(Some(Identity::Token { file: file.clone() })),
            (None, Some(file), Some(role)) => Ok(Some(Identity::Jwt(jwt(file, role)))),
            (None, Some(_), None) => Err(MoverError::Config("--jwt-file needs --auth-role".to_owned())),
            (None, None, _) => Ok(None),
        }
    }

    /// For what can do nothing without a login.
    pub(super) fn needed_identity(&self) -> Result<Identity, MoverError> {
        let no_login =
            || MoverError::Config("no way to log in: name --jwt-file and --auth-role, or --token-file".to_owned());
        self.identity()?.ok_or_else(no_login)
    }
}

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    /// The whole key of the snapshot object; made from namespace, cluster and time when absent.
    #[arg(long, env = env::KEY)]
    key: Option<String>,
    /// The servers, a JSON list of {pod, podUID, address, tlsName}; an empty tlsName means plain HTTP.
    #[arg(long, env = env::PEERS)]
    peers: String,
    /// Folder for the spool. Without one the stream waits for the store, and the leader with it.
    #[arg(long, env = env::SCRATCH)]
    scratch: Option<PathBuf>,
    /// Use no spool even if there is a scratch folder.
    #[arg(long)]
    no_spool: bool,
    /// Most bytes that the spool may take.
    #[arg(long, env = env::SPOOL_LIMIT)]
    spool_limit: Option<u64>,
    /// Bytes of the last backup; without it the target is tried out first.
    #[arg(long, env = env::EXPECTED_SIZE)]
    expected_size: Option<u64>,
    #[arg(long, env = env::CLUSTER_UID, default_value = "")]
    cluster_uid: String,
    #[arg(long, env = env::OPERATION, default_value = "")]
    operation: String,
    #[arg(long, env = env::OPERATION_UID, default_value = "")]
    operation_uid: String,
    #[arg(long, env = env::INTENT, default_value = "")]
    intent: String,
    #[arg(long, env = env::ACTOR, default_value = "")]
    actor: String,
    /// What it is taken for, if not for itself: Safety or `PreUpgrade`.
    #[arg(long, env = env::ROLE, default_value = "")]
    role: String,
    /// Fingerprint of the static unseal key, for the manifest.
    #[arg(long, env = env::KEY_FINGERPRINT)]
    key_fingerprint: Option<String>,
}

impl BackupArgs {
    pub(super) fn plan(self, stop: CancellationToken) -> Result<backup::Plan, MoverError> {
        let peers: Vec<Peer> = json("--peers", &self.peers)?;
        let identity = self.login.needed_identity()?;
        let key = self.key.clone().unwrap_or_else(|| {
            let uid = if self.operation_uid.is_empty() {
                format!("{:08x}", rand::random::<u32>())
            } else {
                self.operation_uid.clone()
            };
            let prefix = self.store.target().map(|target| target.prefix().to_owned()).unwrap_or_default();
            keys::snapshot_key(&prefix, &self.store.namespace, &self.store.cluster, Utc::now(), &uid)
        });
        let spool = match self.scratch {
            Some(folder) if !self.no_spool => SpoolPlan::Folder { folder, limit: self.spool_limit.unwrap_or(u64::MAX) },
            _ => SpoolPlan::None,
        };
        let facts = Facts {
            cluster: ManifestCluster {
                namespace: self.store.namespace.clone(),
                name: self.store.cluster.clone(),
                uid: self.cluster_uid,
                openbao_cluster_id: String::new(),
            },
            operation: ManifestOperation {
                name: self.operation,
                uid: self.operation_uid,
                intent: self.intent,
                actor: self.actor,
                role: self.role,
            },
            auth: ManifestAuth { mount: self.login.auth_mount.clone(), audience: self.login.audience.clone() },
            key_fingerprint: self.key_fingerprint,
        };
        Ok(backup::Plan {
            store: self.store.open()?,
            key,
            servers: Servers { peers, ca_pem: self.login.ca_pem()?, identity },
            spool,
            limits: self.limits.limits(),
            expected_size: self.expected_size,
            until: self.report.until(),
            stop,
            facts,
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    /// Accept an object without a manifest.
    #[arg(long)]
    pub without_manifest: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// A snapshot file.
    pub file: Option<PathBuf>,
    /// JSON instead of text.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    /// Folder for the download.
    #[arg(long, env = env::SCRATCH)]
    scratch: PathBuf,
    /// What the requester answers for: a JSON list of `MissingManifest` and `OtherSeal`.
    #[arg(long, env = env::WAIVE)]
    waive: Option<String>,
    /// The servers at which the login is tried first, as for a backup.
    #[arg(long, env = env::PEERS)]
    peers: Option<String>,
    /// False: verify and report only.
    #[arg(long, env = env::SUBMIT, default_value_t = true, action = clap::ArgAction::Set)]
    pub submit: bool,
}

impl RestoreArgs {
    pub(super) fn plan(&self, stop: CancellationToken) -> Result<restore::Plan, MoverError> {
        let waived: Vec<String> =
            self.waive.as_deref().map(|text| json("--waive", text)).transpose()?.unwrap_or_default();
        Ok(restore::Plan {
            store: self.store.open()?,
            cluster_prefix: self.store.cluster_prefix(),
            source: self.source.source()?,
            scratch: self.scratch.clone(),
            limits: self.limits.limits(),
            without_manifest: waived.iter().any(|waived| waived == MISSING_MANIFEST),
            submit: self.submit,
            ca_pem: self.login.ca_pem()?,
            identity: self.login.identity()?,
            peers: self.peers.as_deref().map(|text| json("--peers", text)).transpose()?.unwrap_or_default(),
            pod_uid: self.report.pod_uid.clone(),
            until: self.report.until(),
            stop,
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    /// Keys to remove whatever retention says, a JSON list.
    #[arg(long, env = env::REMOVE)]
    remove: Option<String>,
    /// Keys to remove unless they have both a manifest and an object, a JSON list.
    #[arg(long, env = env::CLEAN)]
    clean: Option<String>,
    /// Keys that must stay, with the reason: a JSON map.
    #[arg(long, env = env::PROTECTED)]
    protected: Option<String>,
    /// Retention rules, the JSON of spec.backup.retention.
    #[arg(long, env = env::RETENTION)]
    pub retention: Option<String>,
    /// Keys that the rules do not count (safety backups), a JSON list.
    #[arg(long, env = env::UNCOUNTED)]
    uncounted: Option<String>,
    /// UID of the cluster: backups of another one of its name are left alone by the rules, and a deletion of them is not
    /// finished. Without it none are.
    #[arg(long, env = env::CLUSTER_UID, default_value = "")]
    cluster_uid: String,
    /// Say what would be done, and do nothing.
    #[arg(long, env = env::DRY_RUN, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    dry_run: bool,
}

impl PruneArgs {
    pub(super) fn uncounted(&self) -> Result<Vec<String>, MoverError> {
        Ok(self.uncounted.as_deref().map(|text| json("--uncounted", text)).transpose()?.unwrap_or_default())
    }

    pub(super) fn orders(&self) -> Result<prune::Orders, MoverError> {
        let keys = |flag, text: &Option<String>| text.as_deref().map(|text| json(flag, text)).transpose();
        let protected = self.protected.as_deref().map(|text| json("--protected", text)).transpose()?;
        Ok(prune::Orders {
            remove: keys("--remove", &self.remove)?.unwrap_or_default(),
            clean: keys("--clean", &self.clean)?.unwrap_or_default(),
            protected: protected.unwrap_or_else(BTreeMap::new),
            cluster_uid: self.cluster_uid.clone(),
            dry_run: self.dry_run,
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub(super) struct PreflightArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

pub(super) fn json<T: DeserializeOwned>(flag: &str, text: &str) -> Result<T, MoverError> {
    serde_json::from_str(text)
        .map_err(|error| MoverError::Config(format!("{flag} is not the JSON it should be: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once(&"bao-backup").chain(words))
    }

    #[test]
    fn the_definition_of_the_flags_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_source_is_exactly_one_of_three() {
        let source = |words: &[&str]| {
            let words = [&["verify", "--target", "{}"], words].concat();
            match parse(&words).unwrap().command {
                Command::Verify(args) => args.source.source(),
                _ => unreachable!(),
            }
        };
        assert_eq!(source(&["--latest"]).unwrap(), Source::Latest);
        assert_eq!(source(&["--latest", "true"]).unwrap(), Source::Latest);
        assert_eq!(source(&["--key", "k"]).unwrap(), Source::Key("k".into()));
        assert!(matches!(source(&["--before", "2026-11-20T12:00:00Z"]).unwrap(), Source::Before(_)));
        assert!(source(&[]).is_err());
        assert!(source(&["--key", "k", "--latest"]).is_err());
    }

    #[test]
    fn a_backup_without_a_way_to_log_in_is_refused() {
        let target = r#"{"provider":"file","file":{"root":"/tmp"}}"#;
        let command = parse(&["backup", "--target", target, "--peers", "[]"]).unwrap().command;
        let Command::Backup(args) = command else { unreachable!() };
        assert!(
            matches!(args.plan(CancellationToken::new()), Err(MoverError::Config(text)) if text.contains("--token-file"))
        );
    }

    #[test]
    fn a_restore_tries_its_login_where_servers_are_named() {
        let plan = |words: &[&str]| {
            let target = r#"{"provider":"file","file":{"root":"/tmp"}}"#;
            let words = [&["restore", "--target", target, "--latest", "--scratch", "/tmp"], words].concat();
            let Command::Restore(args) = parse(&words).unwrap().command else { unreachable!() };
            args.plan(CancellationToken::new())
        };
        assert!(plan(&[]).unwrap().peers.is_empty());
        let peers = r#"[{"pod":"kelp-0","podUID":"p0","address":"10.0.0.7:8200","tlsName":""}]"#;
        assert_eq!(plan(&["--peers", peers]).unwrap().peers[0].pod, "kelp-0");
        assert!(matches!(plan(&["--peers", "kelp-0"]), Err(MoverError::Config(text)) if text.contains("--peers")));
    }

    #[test]
    fn a_token_stands_alone_or_before_the_jwt_login() {
        let target = r#"{"provider":"file","file":{"root":"/tmp"}}"#;
        let identity = |words: &[&str]| {
            let words = [&["backup", "--target", target, "--peers", "[]"], words].concat();
            let Command::Backup(args) = parse(&words).unwrap().command else { unreachable!() };
            args.login.identity()
        };
        let (token, jwt) = (["--token-file", "t"], ["--jwt-file", "j", "--auth-role", "r"]);
        assert!(matches!(identity(&token), Ok(Some(Identity::Token { .. }))));
        assert!(matches!(identity(&jwt), Ok(Some(Identity::Jwt(_)))));
        let both = identity(&[token.as_slice(), &jwt].concat()).unwrap().unwrap();
        let Identity::TokenOrJwt { token, jwt } = both else { panic!("{both:?}") };
        assert_eq!((token.to_str(), jwt.file.to_str(), jwt.role.as_str()), (Some("t"), Some("j"), "r"));
        assert!(identity(&["--jwt-file", "j"]).is_err());
    }

    #[test]
    fn a_deadline_in_the_past_leaves_no_time() {
        let command = parse(&["verify", "--latest", "--deadline", "2020-01-01T00:00:00Z"]).unwrap().command;
        let Command::Verify(args) = command else { unreachable!() };
        assert!(args.report.until() <= Instant::now());
    }
}
