//! `cargo xtask`: the project's commands.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::demo::{self, Place};
use xtask::devcluster::{Devcluster, images};
use xtask::report::say;
use xtask::suite::{self, Selection};
use xtask::{bench, crds, install};

/// The project's commands: a real Kubernetes in one command, and everything that is done on it.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on a fresh machine: Kubernetes, the operator, OpenBao, secrets, a backup, a loss, a restore, the proof
    Demo {
        /// Leave it up afterwards
        #[arg(long)]
        keep: bool,
        /// Run on the cluster of this kubeconfig context instead of the devcluster
        #[arg(long, value_name = "NAME")]
        context: Option<String>,
        /// Where that cluster pulls the operator's image from: REGISTRY/openbao-operator:<version>
        #[arg(long, value_name = "REGISTRY", requires = "context")]
        registry: Option<String>,
        /// Take openbao-operator and bao-backup from this folder instead of building them, for example target/debug
        #[arg(long, value_name = "FOLDER", conflicts_with = "context")]
        programs: Option<PathBuf>,
    },
    /// Start the devcluster: a real single-node Kubernetes in namespaces of its own
    Up,
    /// Stop the devcluster and leave nothing of it behind
    Down,
    /// Run a command in the node's network, with this machine's files visible
    In {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Print the path of the devcluster's kubeconfig
    Kubeconfig,
    /// Build the operator's image, load it, and install it in the devcluster by Helm
    Install {
        /// Take openbao-operator and bao-backup from this folder instead of building them, for example target/debug
        #[arg(long, value_name = "FOLDER")]
        programs: Option<PathBuf>,
    },
    /// Write the CRDs and the chart's copies from the Rust types
    Crds {
        /// Fail where they differ instead
        #[arg(long)]
        check: bool,
    },
    /// Run checks, units, tests on the devcluster and the demo, and sum them up in one line; the long series are skipped
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
        /// The long soak series as well
        #[arg(long)]
        soak: bool,
        /// The whole crash matrix as well
        #[arg(long)]
        matrix: bool,
        /// As well: so many minutes in which everything dies now and then (the seed is `OPENBAO_CHAOS_SEED`)
        #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "30")]
        chaos: Option<u32>,
        /// Leave out what needs the devcluster
        #[arg(long)]
        no_cluster: bool,
        /// Leave the devcluster up afterwards
        #[arg(long)]
        keep: bool,
    },
    /// Run the benchmarks: JSON on stdout, a table on stderr
    Bench {
        /// `devcluster`, or a part of a benchmark's name
        name: Option<String>,
        /// Write docs/benchmarks.md from the last result of each; a run of all does so anyway
        #[arg(long)]
        page: bool,
    },
    /// Import image archives into the devcluster
    Load {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            say(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let cluster = Devcluster::from_environment()?;
    match command {
        Command::Demo { keep, context, registry, programs } => {
            demo::run(&cluster, &Place { context, registry, keep, programs })?;
        }
        Command::Up => cluster.up()?,
        Command::Down => cluster.down()?,
        Command::In { command } => {
            // Replaces this process, so that signals, stdin, stdout and the exit status are the command's own.
            let error = cluster.inside()?.args(command).exec();
            return Err(anyhow::Error::from(error).context("could not start nsenter"));
        }
        Command::Kubeconfig => {
            let path = cluster.kubeconfig();
            anyhow::ensure!(path.exists(), "no devcluster is up: run `cargo xtask up` first");
            writeln!(std::io::stdout(), "{}", path.display())?;
        }
        Command::Install { programs } => install::run(&cluster, programs.as_deref())?,
        Command::Crds { check } => crds::run(check)?,
        Command::Test { filter, soak, matrix, chaos, no_cluster, keep } => {
            let passed = suite::run(&cluster, &Selection { filter, soak, matrix, chaos, no_cluster, keep })?;
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Bench { name, page } => bench::run(&cluster, name.as_deref(), page)?,
        Command::Load { archives } => {
            for archive in archives {
                images::import(&cluster, &std::path::absolute(&archive)?)?;
                say(format!("imported {}", archive.display()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
