//! The command line of `kubectl openbao`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// See and steer OpenBao clusters: what they do, their backups, restores and operations.
///
/// Exit codes: 0 done, 1 error, 2 wrong usage, 3 the operation ended without success, 4 it waits for a person, 5 it was
/// still running when --timeout ran out, or no operator has answered within ten seconds.
#[derive(Debug, Parser)]
#[command(name = "kubectl-openbao", bin_name = "kubectl openbao", version)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Debug)]
pub struct Global {
    /// Namespace; the context's own without it
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Kubeconfig context
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Print the objects themselves
    #[arg(short, long, global = true, value_enum)]
    pub output: Option<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// What a cluster is doing, on one screen; all clusters without a name
    Status {
        /// The cluster's name
        cluster: Option<String>,
        /// In every namespace
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Take a backup now
    Backup {
        /// The cluster's name
        cluster: String,
        /// Why, for the record
        #[arg(long)]
        intent: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Put a snapshot back into a cluster. Everything written since is lost
    Restore(Restore),
    /// Prove that a backup comes back: it is restored into a server of its own, looked at, and thrown away
    RestoreTest {
        /// The cluster's name
        cluster: String,
        /// The backup's whole object key; the newest backup without it
        #[arg(long)]
        key: Option<String>,
        /// Why, for the record
        #[arg(long)]
        intent: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// The backups that operation records know, and why retention keeps them
    Backups {
        /// The cluster's name
        cluster: String,
        /// Look into the store itself, by a Job of the mover
        #[arg(long)]
        from_store: bool,
        /// The operator's image, for that Job; the one that the last operation used without it
        #[arg(long, requires = "from_store")]
        image: Option<String>,
    },
    /// What the record of one backup says about it
    Inspect {
        /// The operation, or the object's key
        backup: String,
        /// Read this key from this cluster's store by a Job of the mover, check it, and say what is in it
        #[arg(long, value_name = "CLUSTER")]
        from_store: Option<String>,
        /// The operator's image, for that Job; the one that the last operation used without it
        #[arg(long, requires = "from_store")]
        image: Option<String>,
    },
    /// Operations, newest first
    Ops(Ops),
    /// One operation and its steps
    Op {
        /// The operation's name, or a restore's
        name: String,
    },
    /// Stop an operation or a restore before its point of no return, undoing what was done
    Cancel(Steer),
    /// Let an operation go on that stopped for a person: it proves again and never repeats an effect
    Resume(Steer),
    /// Give up an operation whose outcome nobody can prove, and release its lock
    Abandon(Steer),
    /// Try again: a workflow's failed steps, as often as it allows; of an upgrade, or cluster/NAME, the version that is held back
    Retry(Steer),
    /// Leave out one step that its plan allows to leave out
    Skip {
        #[command(flatten)]
        steer: Steer,
        /// The step's name, as `op` shows it
        #[arg(long)]
        step: String,
    },
    /// Release a lock whose holder is gone; explains and refuses where that is not safe
    Unlock {
        /// The cluster's name
        cluster: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Why, for the record
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Who signs the tokens of this Kubernetes, as `bao write auth/jwt/config -` takes it
    Issuer {
        /// The cluster's name
        cluster: String,
    },
    /// Print a completion script
    Completion {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Debug)]
pub struct Wait {
    /// Return when it has ended, with its outcome as the exit code
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, default_value = "1h", value_parser = duration, requires = "wait")]
    pub timeout: Duration,
}

// Each is a flag of its own on the command line.
#[allow(clippy::struct_excessive_bools)]
#[derive(Args, Debug)]
#[group(id = "source", required = true, multiple = false, args = ["key", "latest", "before"])]
pub struct Restore {
    /// The cluster's name
    pub cluster: String,
    /// The snapshot's whole object key
    #[arg(long)]
    pub key: Option<String>,
    /// The newest verified backup of this cluster that no restore took before itself
    #[arg(long)]
    pub latest: bool,
    /// The newest one taken before this time (RFC 3339)
    #[arg(long)]
    pub before: Option<DateTime<Utc>>,
    /// Name of the request; derived from the time without it
    #[arg(long)]
    pub name: Option<String>,
    /// The cluster's own state (uninitialised, upgrading, degraded) does not stop it
    #[arg(long)]
    pub force: bool,
    /// Take the lock from whoever holds it, but another restore
    #[arg(long, requires = "force")]
    pub override_operation_lock: bool,
    /// Accept what would be refused
    #[arg(long, value_enum, value_delimiter = ',')]
    pub waive: Vec<Waive>,
    /// Take a backup of what is about to be lost first; the default where the cluster has a backup target
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub pre_restore_backup: Option<bool>,
    /// Check everything, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Waive {
    MissingManifest,
    OtherSeal,
}

#[derive(Args, Debug)]
pub struct Ops {
    /// Of this cluster only
    #[arg(long)]
    pub cluster: Option<String>,
    /// Whose name contains this
    #[arg(long)]
    pub name: Option<String>,
    /// In this phase only
    #[arg(long, ignore_case = true)]
    pub status: Option<String>,
    /// Begun within this time, such as 24h
    #[arg(long, value_parser = duration)]
    pub since: Option<Duration>,
    /// At most this many: 50 unless said, never more than 200
    #[arg(long, default_value_t = 50, allow_hyphen_values = true)]
    pub limit: i64,
    /// In every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

#[derive(Args, Debug)]
pub struct Steer {
    /// An operation, or restore/NAME; for `retry` also cluster/NAME
    pub name: String,
    /// Why, for the record
    #[arg(long, default_value = "")]
    pub reason: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::api::duration::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("kubectl-openbao").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_restore_names_exactly_one_source() {
        assert!(parse("restore prod").is_err());
        assert!(parse("restore prod --latest --key a.snap").is_err());
        assert!(parse("restore prod --latest").is_ok());
        assert!(parse("restore prod --before 2026-11-20T12:00:00Z").is_ok());
    }

    #[test]
    fn a_restore_test_needs_no_source_and_is_no_restore() {
        let of = |line: &str| match parse(line).unwrap().command {
            Command::RestoreTest { key, wait, .. } => (key, wait.wait),
            other => panic!("{other:?}"),
        };
        assert_eq!(of("restore-test prod --wait"), (None, true));
        assert_eq!(of("restore-test prod --key a.snap"), (Some("a.snap".to_owned()), false));
        assert!(parse("restore-test prod --latest").is_err());
    }

    #[test]
    fn taking_the_lock_away_needs_force() {
        assert!(parse("restore prod --latest --override-operation-lock").is_err());
        assert!(parse("restore prod --latest --override-operation-lock --force").is_ok());
    }

    #[test]
    fn the_namespace_may_stand_before_or_after_the_command() {
        for line in ["-n team status prod", "status prod -n team"] {
            assert_eq!(parse(line).unwrap().global.namespace.as_deref(), Some("team"));
        }
    }
}
