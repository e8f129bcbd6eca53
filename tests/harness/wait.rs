//! Waiting for something to become true, with a deadline and its last word in the failure.

use std::time::{Duration, Instant};

/// Asks again and again until `probe` gives a value. After `limit` the test fails with what was awaited and the last
/// reason why it was not so.
pub async fn eventually<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        let reason = match probe().await {
            Ok(value) => return value,
            Err(reason) => reason,
        };
        assert!(start.elapsed() < limit, "{what}: not so after {} s: {reason}", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
