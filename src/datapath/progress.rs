//! How far a command is: counted where bytes pass, printed to people and, throttled, written where the operator reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use chrono::Utc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::mailbox::Mailbox;
use super::protocol::{PROGRESS, Progress, Stage};

/// A line for people.
const PRINT_EVERY: Duration = Duration::from_secs(2);
/// A write to the API server.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Shared counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    stage: AtomicU8,
    bytes: AtomicU64,
    total: AtomicU64,
}

const STAGES: [Stage; 6] =
    [Stage::Snapshot, Stage::Upload, Stage::Download, Stage::Verify, Stage::WaitForGrant, Stage::Submit];

impl Meter {
    /// Begins a stage; `total` is 0 when it is not known.
    pub(super) fn stage(&self, stage: Stage, total: u64) {
        let index = STAGES.iter().position(|other| *other == stage).unwrap_or(0);
        self.0.stage.store(u8::try_from(index).unwrap_or(0), Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
        self.0.bytes.store(0, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn set(&self, bytes: u64) {
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }

    fn read(&self) -> (Stage, u64, u64) {
        let stage = STAGES.get(usize::from(self.0.stage.load(Ordering::Relaxed))).copied().unwrap_or(Stage::Snapshot);
        (stage, self.0.bytes.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed))
    }

    /// Prints and reports until the returned guard is dropped.
    pub(super) fn watch(&self, mailbox: Option<Mailbox>, quiet: bool) -> Watch {
        let meter = self.clone();
        Watch(tokio::spawn(async move {
            let (mut last, mut reported) = ((Stage::Snapshot, 0, Instant::now()), Instant::now());
            loop {
                tokio::time::sleep(PRINT_EVERY).await;
                let (stage, bytes, total) = meter.read();
                let (now, fresh) = (Instant::now(), stage != last.0);
                let before = if fresh { 0 } else { last.1 };
                if !quiet && (fresh || bytes != before) {
                    eprintln!("{}", line(stage, bytes, total, bytes.saturating_sub(before), now - last.2));
                }
                last = (stage, bytes, now);
                if let Some(mailbox) = &mailbox
                    && now - reported >= REPORT_EVERY
                {
                    reported = now;
                    let progress = Progress { stage, bytes, total_bytes: total, at: Utc::now() };
                    // Nothing rests on it: the next one comes in five seconds.
                    let _ = mailbox.write(PROGRESS, &progress).await;
                }
            }
        }))
    }
}

/// Ends the reports when dropped.
pub(super) struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn line(stage: Stage, bytes: u64, total: u64, lately: u64, during: Duration) -> String {
    let mega = |bytes: u64| format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10);
    let millis = u64::try_from(during.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = lately.saturating_mul(1000) / millis;
    if total > 0 {
        format!("{stage:?}: {} of {} MB, {} MB/s", mega(bytes), mega(total), mega(rate))
    } else {
        format!("{stage:?}: {} MB, {} MB/s", mega(bytes), mega(rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_amount_and_rate() {
        let second = Duration::from_secs(2);
        assert_eq!(
            line(Stage::Upload, 52_500_000, 105_000_000, 20_000_000, second),
            "Upload: 52.5 of 105.0 MB, 10.0 MB/s"
        );
        assert_eq!(line(Stage::Snapshot, 0, 0, 0, Duration::ZERO), "Snapshot: 0.0 MB, 0.0 MB/s");
    }

    #[test]
    fn a_new_stage_counts_from_nothing() {
        let meter = Meter::default();
        meter.stage(Stage::Download, 10);
        meter.add(7);
        meter.stage(Stage::Submit, 20);
        meter.add(1);
        assert_eq!(meter.read(), (Stage::Submit, 1, 20));
    }
}
