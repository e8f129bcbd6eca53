//! Bytes from an asynchronous stream to a blocking reader, through a short queue.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures::{Stream, TryStreamExt};
use tokio::sync::mpsc;

use super::archive::{self, Limits, Verified};
use super::error::MoverError;
use super::progress::Meter;

const QUEUE: usize = 8;

/// The asynchronous end. Dropped without [`Feed::finish`], the reader fails instead of ending.
pub(super) struct Feed(mpsc::Sender<Bytes>);

/// The blocking end. For a blocking thread only.
pub(super) struct FeedReader {
    queue: mpsc::Receiver<Bytes>,
    current: Bytes,
    ended: bool,
}

pub(super) fn pipe() -> (Feed, FeedReader) {
    let (send, queue) = mpsc::channel(QUEUE);
    (Feed(send), FeedReader { queue, current: Bytes::new(), ended: false })
}

/// Verifies what comes, without a disk.
pub(super) async fn verify<E>(
    stream: impl Stream<Item = Result<Bytes, E>>,
    limits: Limits,
    meter: &Meter,
) -> Result<Verified, MoverError>
where
    MoverError: From<E>,
{
    let mut stream = std::pin::pin!(stream);
    let (feed, reader) = pipe();
    let fill = async {
        while let Some(chunk) = stream.try_next().await? {
            meter.add(chunk.len());
            if !feed.push(chunk).await {
                // The verifier has found a fault and says so itself.
                return std::future::pending().await;
            }
        }
        feed.finish().await;
        Ok(())
    };
    let ((), verified) = tokio::try_join!(biased; fill, read(reader, limits))?;
    Ok(verified)
}

/// The verifier, on a thread that may block.
pub(super) async fn read(reader: FeedReader, limits: Limits) -> Result<Verified, MoverError> {
    let verified = tokio::task::spawn_blocking(move || archive::read(reader, limits));
    verified.await.map_err(MoverError::Task)?.map_err(MoverError::Archive)
}

impl Feed {
    /// Waits while the queue is full. False: the reader is gone.
    pub(super) async fn push(&self, chunk: Bytes) -> bool {
        chunk.is_empty() || self.0.send(chunk).await.is_ok()
    }

    /// Everything was pushed.
    pub(super) async fn finish(&self) {
        let _ = self.0.send(Bytes::new()).await;
    }
}

impl Read for FeedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.queue.blocking_recv() {
                Some(chunk) if chunk.is_empty() => self.ended = true,
                Some(chunk) => self.current = chunk,
                None => return Err(io::Error::other("the stream was given up")),
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_finished_feed_ends_and_a_dropped_one_fails() {
        for finished in [true, false] {
            let (feed, mut reader) = pipe();
            let read = tokio::task::spawn_blocking(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).map(|_| all)
            });
            assert!(feed.push(Bytes::from_static(b"one ")).await);
            assert!(feed.push(Bytes::new()).await, "an empty chunk is not the end");
            assert!(feed.push(Bytes::from_static(b"two")).await);
            if finished {
                feed.finish().await;
            }
            drop(feed);
            let read = read.await.unwrap();
            assert_eq!(read.is_ok(), finished);
            assert!(!finished || read.unwrap() == b"one two");
        }
    }
}
