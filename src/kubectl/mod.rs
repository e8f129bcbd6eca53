//! `kubectl openbao`: what a person asks of the operator's objects, and asks the operator to do.
//!
//! It talks to the API server only, with the person's own rights. What it prints is decided by pure functions over the
//! objects that were read; what it asks for is an object or an entry in `spec.requests`, so that everything it does can
//! be done with kubectl alone.

pub mod args;
mod connection;
mod follow;
mod issuer;
mod request;
mod show;
mod start;
mod store;
mod table;
mod unlock;
mod view;

use std::io::Write as _;
use std::process::ExitCode;

use chrono::Utc;
use clap::{CommandFactory, Parser};

use crate::adapter::kubernetes::client::RequestError;
use crate::causes::chain;
use args::{Cli, Command};
use connection::Connection;
use follow::Ended;
use table::Paint;

/// Ended, but not in success.
const UNSUCCESSFUL: u8 = 3;
/// Waits for a person.
const NEEDS_A_PERSON: u8 = 4;
/// Still under way, or not answered, when the time to wait was over.
const TIMED_OUT: u8 = 5;

/// What went wrong, in a person's terms.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no Kubernetes API server to talk to: check the kubeconfig and --context")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} {1} does not exist in namespace {2}")]
    Missing(&'static str, String, String),
    #[error("reading {what} failed")]
    Read { what: String, source: RequestError },
    #[error("writing {what} failed")]
    Write { what: String, source: RequestError },
    #[error("watching {what} was refused; it goes on without being watched")]
    Watch { what: String, source: RequestError },
    #[error("the answer could not be printed")]
    Print(#[source] std::io::Error),
    #[error("the object could not be written as text")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} is no phase: use one of {1}")]
    Phase(String, String),
    #[error("not confirmed: nothing was changed")]
    NotConfirmed,
    #[error("refused: {0}")]
    Refused(String),
    #[error("nobody says who signs the tokens of this Kubernetes")]
    Issuer(#[source] crate::service::cluster::identity::Error),
    #[error("the look into the store failed: {0}")]
    Mover(String),
}

/// The whole program.
pub fn main() -> ExitCode {
    drop(rustls::crypto::ring::default_provider().install_default());
    let cli = Cli::parse();
    if let Command::Completion { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "kubectl-openbao", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        // `kubectl openbao … | head` is no error.
        Err(Error::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Error> {
    let Cli { global, command } = cli;
    let connection = Connection::open(global).await?;
    match command {
        Command::Status { cluster, all_namespaces } => show::status(&connection, cluster, all_namespaces).await?,
        Command::Backups { cluster, from_store: true, image } => store::list(&connection, &cluster, image).await?,
        Command::Backups { cluster, .. } => show::backups(&connection, &cluster).await?,
        Command::Inspect { backup, from_store: Some(cluster), image } => {
            store::inspect(&connection, &cluster, &backup, image).await?;
        }
        Command::Inspect { backup, .. } => show::inspect(&connection, &backup).await?,
        Command::Ops(filter) => show::operations(&connection, filter).await?,
        Command::Op { name } => show::operation(&connection, &name).await?,
        Command::Backup { cluster, intent, wait } => {
            return Ok(code(start::backup(&connection, &cluster, intent, &wait).await?));
        }
        Command::RestoreTest { cluster, key, intent, wait } => {
            return Ok(code(start::restore_test(&connection, &cluster, key, intent, &wait).await?));
        }
        Command::Restore(restore) => return Ok(code(start::restore(&connection, restore).await?)),
        Command::Cancel(steer) => return Ok(code(request::send(&connection, &steer, request::Action::Cancel).await?)),
        Command::Resume(steer) => return Ok(code(request::send(&connection, &steer, request::Action::Resume).await?)),
        Command::Abandon(steer) => {
            return Ok(code(request::send(&connection, &steer, request::Action::Abandon).await?));
        }
        Command::Retry(steer) => return Ok(code(request::send(&connection, &steer, request::Action::Retry).await?)),
        Command::Skip { steer, step } => {
            return Ok(code(request::send(&connection, &steer, request::Action::Skip { step }).await?));
        }
        Command::Unlock { cluster, yes, reason } => {
            return Ok(code(unlock::run(&connection, &cluster, yes, &reason).await?));
        }
        Command::Issuer { cluster } => issuer::run(&connection, &cluster).await?,
        // Needs no connection: answered in `main`.
        Command::Completion { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn code(ended: Ended) -> ExitCode {
    match ended {
        Ended::NotAwaited | Ended::Well => ExitCode::SUCCESS,
        Ended::Badly => ExitCode::from(UNSUCCESSFUL),
        Ended::NeedsAPerson => ExitCode::from(NEEDS_A_PERSON),
        Ended::NotYet => ExitCode::from(TIMED_OUT),
    }
}

/// To standard output.
fn say(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .map_err(Error::Print)
}

/// Says what came of a request.
fn tell<T: serde::Serialize>(connection: &Connection, object: &T, sentence: &str) -> Result<(), Error> {
    let (text, beside) = told(connection, object, sentence)?;
    if let Some(sentence) = beside {
        eprintln!("{sentence}");
    }
    say(&text)
}

/// For standard output, and for standard error: a sentence, or with `-o` the object itself and the sentence beside it.
fn told<'a, T: serde::Serialize>(
    connection: &Connection,
    object: &T,
    sentence: &'a str,
) -> Result<(String, Option<&'a str>), Error> {
    Ok(match connection.encode(object)? {
        None => (sentence.to_owned(), None),
        Some(text) => (text, Some(sentence)),
    })
}

/// Asks on the terminal; anything but a yes is a no, and so is a closed input.
fn confirm(question: &str) -> Result<(), Error> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Error::Print)?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") { Ok(()) } else { Err(Error::NotConfirmed) }
}

/// Paint and clock, as every view takes them.
fn here() -> (chrono::DateTime<Utc>, Paint) {
    (Utc::now(), Paint::of_stdout())
}
