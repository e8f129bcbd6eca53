//! Waiting for an operation or a restore to end, with what it does shown on the way.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::time::{Instant, timeout_at};

use super::Error;
use super::args::Wait;
use super::connection::{Connection, Kind};
use super::table::{Paint, WIDTH, shorten};
use super::view::operation::{current_step, phase_of, progress};
use super::view::restore as restore_view;
use crate::api::{OpenBaoOperation, OpenBaoRestore, OperationPhase, RestorePhase};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    NotAwaited,
    Well,
    Badly,
    NeedsAPerson,
    NotYet,
}

/// What can be followed.
pub trait Followed: Kind + Send + 'static {
    /// How it ended, if it has.
    fn ended(&self) -> Option<Ended>;
    /// What it does, in one line.
    fn line(&self, paint: Paint) -> String;
}

impl Followed for OpenBaoOperation {
    fn ended(&self) -> Option<Ended> {
        match phase_of(self) {
            OperationPhase::Pending | OperationPhase::Running | OperationPhase::Recovering => None,
            OperationPhase::Succeeded => Some(Ended::Well),
            OperationPhase::Unknown => Some(Ended::NeedsAPerson),
            OperationPhase::ConstraintFailed
            | OperationPhase::Failed
            | OperationPhase::RolledBack
            | OperationPhase::Cancelled => Some(Ended::Badly),
        }
    }

    fn line(&self, _: Paint) -> String {
        let status = self.status.clone().unwrap_or_default();
        let step = current_step(&status.steps).map(|step| step.name.clone()).unwrap_or_default();
        let message = status.message.filter(|message| !message.starts_with("running step ")).unwrap_or_default();
        let words = [status.phase.as_str().to_owned(), progress(&status.steps), step, message];
        words.iter().filter(|word| !word.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

impl Followed for OpenBaoRestore {
    fn ended(&self) -> Option<Ended> {
        match self.status.as_ref().map(|status| status.phase).unwrap_or_default() {
            RestorePhase::Pending | RestorePhase::Validating | RestorePhase::Running => None,
            RestorePhase::Completed => Some(Ended::Well),
            RestorePhase::Failed => Some(Ended::Badly),
            RestorePhase::Unknown => Some(Ended::NeedsAPerson),
        }
    }

    fn line(&self, paint: Paint) -> String {
        restore_view::progress(self, paint)
    }
}

/// Follows `name` to its end, or to the end of the time that the person gave.
pub async fn follow<K: Followed>(connection: &Connection, name: &str, wait: &Wait) -> Result<Ended, Error> {
    if !wait.wait {
        return Ok(Ended::NotAwaited);
    }
    let deadline = Instant::now() + wait.timeout;
    let mut changes = Box::pin(watcher::watch_object(connection.api::<K>(), name).default_backoff());
    let mut shown = Shown::default();
    while let Ok(Some(change)) = timeout_at(deadline, changes.next()).await {
        match change {
            // The watch reconnects by itself; the last thing said still holds.
            Err(_) => {}
            Ok(None) => return Err(Error::Missing(K::NAME, name.to_owned(), connection.namespace().to_owned())),
            Ok(Some(object)) => {
                shown.show(&object.line(Paint::Off));
                if let Some(ended) = object.ended() {
                    shown.finish();
                    return Ok(ended);
                }
            }
        }
    }
    shown.finish();
    eprintln!("still under way after {}: nothing was stopped", seconds(wait.timeout));
    Ok(Ended::NotYet)
}

fn seconds(duration: Duration) -> String {
    super::table::span(chrono::TimeDelta::from_std(duration).unwrap_or_default())
}

/// One line that is rewritten on a terminal; a line for each change elsewhere.
#[derive(Default)]
struct Shown {
    last: String,
}

impl Shown {
    fn show(&mut self, line: &str) {
        if line == self.last {
            return;
        }
        line.clone_into(&mut self.last);
        let mut out = std::io::stderr().lock();
        // Progress is a courtesy: a closed standard error does not end the wait.
        let _ = if out.is_terminal() {
            write!(out, "\r\x1b[2K{}", shorten(line, WIDTH)).and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }

    fn finish(&self) {
        if !self.last.is_empty() && std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}
