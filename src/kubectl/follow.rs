//! Waiting for an operation or a restore to end, with what it does shown on the way.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::ResourceExt;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::time::{Instant, timeout_at};

use super::Error;
use super::args::Wait;
use super::connection::{Connection, Kind};
use super::table::{Paint, WIDTH, shorten};
use super::view::operation::{current_step, phase_of, progress};
use super::view::restore as restore_view;
use crate::adapter::kubernetes::client::RequestError;
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
pub trait Followed: Kind + 'static {
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

/// Follows what was created to its end, or to the end of the time that the person gave; also returns it as it was seen last.
pub async fn follow<K: Followed>(connection: &Connection, created: K, wait: &Wait) -> Result<(Ended, K), Error> {
    if !wait.wait {
        return Ok((Ended::NotAwaited, created));
    }
    let changes = watcher::watch_object(connection.api::<K>(), &created.name_any()).default_backoff();
    to_the_end(Box::pin(changes), created, wait.timeout).await
}

async fn to_the_end<K: Followed>(
    mut changes: impl Stream<Item = Result<Option<K>, watcher::Error>> + Unpin,
    created: K,
    limit: Duration,
) -> Result<(Ended, K), Error> {
    let deadline = Instant::now() + limit;
    let mut last = created;
    let mut shown = Shown::default();
    while let Ok(Some(change)) = timeout_at(deadline, changes.next()).await {
        match change {
            Err(error) => {
                let (error, lasts) = judge(error);
                if lasts {
                    shown.finish();
                    return Err(Error::Watch { what: format!("{} {}", K::NAME, last.name_any()), source: error });
                }
                // The watch reconnects by itself; the last thing said about the object still holds.
                shown.show(&format!("out of sight, trying again: {error}"));
            }
            Ok(None) => {
                return Err(Error::Missing(K::NAME, last.name_any(), last.namespace().unwrap_or_default()));
            }
            Ok(Some(object)) => {
                shown.show(&object.line(Paint::Off));
                last = object;
                if let Some(ended) = last.ended() {
                    shown.finish();
                    return Ok((ended, last));
                }
            }
        }
    }
    shown.finish();
    eprintln!("still under way after {}: nothing was stopped", seconds(limit));
    Ok((Ended::NotYet, last))
}

/// A watch's error, and whether it lasts: who has no right to watch has none a second later.
fn judge(error: watcher::Error) -> (RequestError, bool) {
    let error = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        watcher::Error::WatchError(status) => kube::Error::Api(status),
        none @ watcher::Error::NoResourceVersion => kube::Error::Service(Box::new(none)),
    };
    let lasts = matches!(&error, kube::Error::Api(status) if matches!(status.code, 401 | 403));
    (error.into(), lasts)
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    type Change = Result<Option<OpenBaoOperation>, watcher::Error>;

    const LIMIT: Duration = Duration::from_secs(60);

    fn operation(phase: &str) -> OpenBaoOperation {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: fern-backup-1, namespace: vault}}\n\
             spec: {{cluster: fern, operation: Backup}}\nstatus: {{phase: {phase}}}"
        ))
        .unwrap()
    }

    fn refusal(code: u16) -> watcher::Error {
        let status = kube::core::Status::failure("not yours", "Refused").with_code(code);
        watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status)))
    }

    async fn seen(changes: Vec<Change>) -> Result<(Ended, OpenBaoOperation), Error> {
        let changes = stream::iter(changes).chain(stream::pending());
        to_the_end(Box::pin(changes), operation("Pending"), LIMIT).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_object_that_ended_is_the_one_that_is_shown() {
        let changes = vec![Ok(Some(operation("Running"))), Err(refusal(500)), Ok(Some(operation("Failed")))];
        let (ended, last) = seen(changes).await.unwrap();
        assert_eq!((ended, phase_of(&last)), (Ended::Badly, OperationPhase::Failed));
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_is_over_is_told_as_such_whatever_the_api_server_says_by_then() {
        for (changes, phase) in [
            (vec![], OperationPhase::Pending),
            (vec![Ok(Some(operation("Running"))), Err(refusal(503))], OperationPhase::Running),
        ] {
            let (ended, last) = seen(changes).await.unwrap();
            assert_eq!((ended, phase_of(&last)), (Ended::NotYet, phase));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_watch_is_told_so_at_once() {
        for code in [401, 403] {
            let start = Instant::now();
            let error = seen(vec![Err(refusal(code))]).await.unwrap_err();
            let told = crate::causes::chain(&error);
            assert!(told.contains("openbaooperation fern-backup-1") && told.contains("not yours"), "{told}");
            assert!(start.elapsed() < LIMIT, "{code}");
        }
    }
}
