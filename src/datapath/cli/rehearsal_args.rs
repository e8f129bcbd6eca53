//! Flags of the two containers of a restore test.

use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::args::{LimitArgs, LoginArgs, ReportArgs, SourceArgs, StoreArgs, json};
use crate::datapath::environment as env;
use crate::datapath::error::MoverError;
use crate::datapath::rehearsal::{self, fetch};

#[derive(Debug, Args)]
pub(in crate::datapath) struct FetchArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    /// Folder in which the backup is laid down, and this program beside it.
    #[arg(long, env = env::REHEARSAL)]
    folder: PathBuf,
}

impl FetchArgs {
    pub(in crate::datapath) fn plan(&self, stop: CancellationToken) -> Result<fetch::Plan, MoverError> {
        Ok(fetch::Plan {
            store: self.store.open()?,
            cluster_prefix: self.store.cluster_prefix(),
            source: self.source.source()?,
            folder: self.folder.clone(),
            limits: self.limits.limits(),
            until: self.report.until(),
            stop,
        })
    }
}

#[derive(Debug, Args)]
pub(in crate::datapath) struct RehearseArgs {
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Folder in which `fetch` has laid the backup down.
    #[arg(long, env = env::REHEARSAL)]
    folder: PathBuf,
    /// The server's program and what comes before its `server`, a JSON list.
    #[arg(long, env = env::SERVER, default_value = "[\"bao\"]")]
    server: String,
    /// The server's configuration.
    #[arg(long, env = env::SERVER_CONFIG)]
    config: String,
    /// Where that configuration has it listen, without TLS.
    #[arg(long, env = env::SERVER_ADDRESS, default_value = "127.0.0.1:8200")]
    address: String,
    /// False: the server has this pod's network. Leases that have run out since may be revoked for real.
    #[arg(long, env = env::ISOLATED, default_value_t = true, action = clap::ArgAction::Set)]
    isolated: bool,
    /// API paths that must be readable in what came back, a JSON list.
    #[arg(long, env = env::CANARIES)]
    canaries: Option<String>,
}

impl RehearseArgs {
    pub(in crate::datapath) fn plan(&self, stop: CancellationToken) -> Result<rehearsal::Plan, MoverError> {
        Ok(rehearsal::Plan {
            folder: self.folder.clone(),
            server: json("--server", &self.server)?,
            config: self.config.clone(),
            address: self.address.clone(),
            isolated: self.isolated,
            identity: self.login.needed_identity()?,
            canaries: self.canaries.as_deref().map(|text| json("--canaries", text)).transpose()?.unwrap_or_default(),
            limits: self.limits.limits(),
            until: self.report.until(),
            stop,
        })
    }
}

#[derive(Debug, Args)]
pub(in crate::datapath) struct IsolatedArgs {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<std::ffi::OsString>,
}
