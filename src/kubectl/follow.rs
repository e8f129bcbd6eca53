//! Waiting for an operation or a restore to end, with what it does shown on the way.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::{Instant, sleep, timeout_at};

use super::Error;
use super::args::Wait;
use super::connection::{Connection, Kind};
use super::table::{Paint, WIDTH, shorten};
use super::view::operation::{current_step, phase_of, progress};
use super::view::restore as restore_view;
use crate::adapter::kubernetes::client::RequestError;
use crate::api::{OpenBaoOperation, OpenBaoRestore, OperationPhase, RestorePhase};

/// How often it is looked at. A watch would tell sooner and cost less, but one whose connection died without a word tells
/// nothing for minutes, and a person waits here.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// An answer that takes longer does not come. Giving up closes the connection, so that the next look takes another one.
const PATIENCE: Duration = Duration::from_secs(5);

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
    let (api, name) = (connection.api::<K>(), created.name_any());
    to_the_end(async || Ok(api.get_opt(&name).await?), created, wait.timeout).await
}

async fn to_the_end<K: Followed>(
    look: impl AsyncFn() -> Result<Option<K>, RequestError>,
    created: K,
    limit: Duration,
) -> Result<(Ended, K), Error> {
    let deadline = Instant::now() + limit;
    let mut last = created;
    let mut shown = Shown::default();
    while Instant::now() < deadline {
        match timeout_at(deadline.min(Instant::now() + PATIENCE), look()).await {
            // The last thing said about the object still holds.
            Err(_) => shown.show(&format!("out of sight, trying again: no answer within {PATIENCE:?}")),
            Ok(Err(source)) if lasts(&source) => {
                shown.finish();
                return Err(Error::Watch { what: format!("{} {}", K::NAME, last.name_any()), source });
            }
            Ok(Err(error)) => shown.show(&format!("out of sight, trying again: {error}")),
            Ok(Ok(Some(object))) if object.uid() == last.uid() => {
                shown.show(&object.line(Paint::Off));
                last = object;
                if let Some(ended) = last.ended() {
                    shown.finish();
                    return Ok((ended, last));
                }
            }
            Ok(Ok(_)) => {
                shown.finish();
                return Err(Error::Missing(K::NAME, last.name_any(), last.namespace().unwrap_or_default()));
            }
        }
        let _ = timeout_at(deadline, sleep(LOOK_AGAIN)).await;
    }
    shown.finish();
    eprintln!("still under way after {}: nothing was stopped", seconds(limit));
    Ok((Ended::NotYet, last))
}

/// Who has no right to look has none a second later; everything else may pass.
fn lasts(error: &RequestError) -> bool {
    let RequestError::Kube(error) = error else { return false };
    matches!(&**error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
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
    use std::cell::RefCell;
    use std::future::pending;

    /// What a look comes to; `None` is no answer at all.
    type Look = Option<Result<Option<OpenBaoOperation>, RequestError>>;

    const LIMIT: Duration = Duration::from_secs(60);

    fn operation(phase: &str) -> OpenBaoOperation {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: fern-backup-1, namespace: vault, uid: u}}\n\
             spec: {{cluster: fern, operation: Backup}}\nstatus: {{phase: {phase}}}"
        ))
        .unwrap()
    }

    fn is(phase: &str) -> Look {
        Some(Ok(Some(operation(phase))))
    }

    fn refusal(code: u16) -> Look {
        let status = kube::core::Status::failure("not yours", "Refused").with_code(code);
        Some(Err(kube::Error::Api(Box::new(status)).into()))
    }

    /// Each look in turn; after the last one nothing answers any more.
    async fn seen(looks: Vec<Look>) -> Result<(Ended, OpenBaoOperation), Error> {
        let looks = RefCell::new(looks.into_iter());
        let look = async || {
            let next = looks.borrow_mut().next().flatten();
            match next {
                Some(answer) => answer,
                None => pending().await,
            }
        };
        to_the_end(look, operation("Pending"), LIMIT).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_object_that_ended_is_the_one_that_is_shown() {
        let looks = vec![is("Running"), refusal(500), is("Failed")];
        let (ended, last) = seen(looks).await.unwrap();
        assert_eq!((ended, phase_of(&last)), (Ended::Badly, OperationPhase::Failed));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_behind_a_connection_that_died_silently_is_seen_within_ten_seconds() {
        let start = Instant::now();
        let (ended, _) = seen(vec![is("Running"), None, is("Succeeded")]).await.unwrap();
        assert_eq!(ended, Ended::Well);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_for_a_while_does_not_end_the_wait() {
        let away = (0..6).flat_map(|_| [None, refusal(503), Some(Err(RequestError::TimedOut))]);
        let (ended, _) = seen(away.chain([is("Succeeded")]).collect()).await.unwrap();
        assert_eq!(ended, Ended::Well);
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_is_over_is_told_as_such_whatever_the_api_server_says_by_then() {
        for (looks, phase) in
            [(vec![], OperationPhase::Pending), (vec![is("Running"), refusal(503)], OperationPhase::Running)]
        {
            let start = Instant::now();
            let (ended, last) = seen(looks).await.unwrap();
            assert_eq!((ended, phase_of(&last)), (Ended::NotYet, phase));
            assert_eq!(start.elapsed(), LIMIT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_look_is_told_so_at_once() {
        for code in [401, 403] {
            let start = Instant::now();
            let error = seen(vec![refusal(code)]).await.unwrap_err();
            let told = crate::causes::chain(&error);
            assert!(told.contains("openbaooperation fern-backup-1") && told.contains("not yours"), "{told}");
            assert!(start.elapsed() < LIMIT, "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_gone_or_was_replaced_is_missing() {
        let mut other = operation("Succeeded");
        other.metadata.uid = Some("another".into());
        for look in [None, Some(other)] {
            assert!(matches!(seen(vec![Some(Ok(look))]).await, Err(Error::Missing(..))));
        }
    }
}
