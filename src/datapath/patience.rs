//! How long work is waited for: to a deadline, and not once the pod is told to stop.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::MoverError;

/// Drops `work` at the deadline or when told to stop; `what` says in a message what was under way.
pub(super) async fn bounded<T>(
    until: Instant,
    stop: &CancellationToken,
    what: &'static str,
    work: impl Future<Output = Result<T, MoverError>>,
) -> Result<T, MoverError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(MoverError::Cancelled),
        outcome = tokio::time::timeout_at(until, work) => outcome.unwrap_or(Err(MoverError::Deadline(what))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_ends_by_itself_at_the_deadline_or_when_told_to_stop() {
        let (stop, until) = (CancellationToken::new(), Instant::now() + Duration::from_secs(9));
        assert_eq!(bounded(until, &stop, "it ran", async { Ok(7) }).await.unwrap(), 7);
        let never = || std::future::pending::<Result<(), MoverError>>();
        assert!(matches!(bounded(until, &stop, "it ran", never()).await, Err(MoverError::Deadline("it ran"))));
        assert!(Instant::now() >= until);
        stop.cancel();
        assert!(matches!(bounded(until, &stop, "it ran", never()).await, Err(MoverError::Cancelled)));
    }
}
