//! Buffers for the parts of an upload, used again and again. Memory stays at what is in flight: an allocator keeps freed
//! blocks of this size for later, one by each thread, and a mover of 60 MiB became one of 140.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers of one size. Cheap to clone; the clones share them.
#[derive(Clone)]
pub(super) struct Buffers {
    size: usize,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// One of them, to be filled. It returns when it, or the last piece of what it became, is dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    pub(super) fn new(size: usize) -> Self {
        Self { size, idle: Arc::default() }
    }

    /// An empty one. How many there are at once is for the caller to bound.
    pub(super) fn take(&self) -> Buffer {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = kept.unwrap_or_else(|| Vec::with_capacity(self.size));
        Buffer { bytes, idle: Arc::clone(&self.idle) }
    }
}

impl Buffer {
    /// What it holds. The length is the caller's, who keeps within the size asked for.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nobody_reads_it_any_more_and_is_empty_then() {
        let buffers = Buffers::new(8);
        let mut first = buffers.take();
        first.bytes().extend_from_slice(b"one");
        let at = first.as_ref().as_ptr();
        let bytes = first.freeze();
        let piece = bytes.slice(1..);
        drop(bytes);
        let second = buffers.take();
        assert_ne!(second.as_ref().as_ptr(), at, "the first is still read");
        assert_eq!(piece, "ne");
        drop((piece, second));
        let again = [buffers.take(), buffers.take()];
        assert!(again.iter().any(|buffer| buffer.as_ref().as_ptr() == at));
        assert!(again.iter().all(|buffer| buffer.as_ref().is_empty()));
    }
}
