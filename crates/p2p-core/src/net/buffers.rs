//! Memory for the payloads of one response, used again for each next block. A fresh quarter of a mebibyte for each block
//! costs the kernel more, in pages mapped and cleared, than decrypting it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

/// Buffers kept for use: those on their way to the disk at once are `FRAME_QUEUE` and two batches of the receiver.
const KEPT: usize = 16;

/// A payload shorter than this is not worth keeping memory for.
const LEAST: usize = 16 * 1024;

/// Payloads begin at multiples of this, as writes past the cache of files want it.
const ALIGNMENT: usize = 4096;

type Pool = Mutex<Vec<Vec<u8>>>;

/// The memory of one response. A payload that outlives it, in a cache, keeps only its own.
#[derive(Debug, Default)]
pub(super) struct Buffers(Arc<Pool>);

impl Buffers {
    /// A buffer of this length, with whatever in it.
    pub(super) fn take(&self, len: usize) -> Buffer {
        if len < LEAST {
            return Buffer {
                memory: vec![0; len],
                start: 0,
                len,
                home: Weak::new(),
            };
        }
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = used.unwrap_or_default();
        if memory.len() < len.saturating_add(ALIGNMENT) {
            memory = vec![0; len.saturating_add(ALIGNMENT)];
        }
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Buffer {
            memory,
            start,
            len,
            home: Arc::downgrade(&self.0),
        }
    }
}

/// A buffer that goes back to where it came from when it is no longer used.
#[derive(Debug)]
pub(super) struct Buffer {
    /// Room for `len` bytes from `start` on, whatever `start` is.
    memory: Vec<u8>,
    start: usize,
    len: usize,
    home: Weak<Pool>,
}

impl Buffer {
    fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start.saturating_add(self.len)
    }

    /// To be read and shared, but no longer written.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.memory.get(self.range()).unwrap_or_default()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        self.memory.get_mut(range).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else {
            return;
        };
        let mut kept = home.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_aligned() {
        let buffers = Buffers::default();
        let mut first = buffers.take(LEAST * 2);
        assert_eq!(first.as_mut().len(), LEAST * 2);
        first.as_mut().fill(7);
        let at = first.as_ref().as_ptr();
        assert_eq!(at.align_offset(ALIGNMENT), 0);
        let bytes = first.freeze();
        let copy = bytes.clone();
        drop(bytes);
        assert_ne!(buffers.take(LEAST).as_ref().as_ptr(), at, "still in use");
        assert!(copy.iter().all(|byte| *byte == 7));
        drop(copy);
        let second = buffers.take(LEAST);
        assert_eq!(second.as_ref().len(), LEAST);
        assert_eq!(buffers.take(10).as_ref(), [0; 10]);
    }

    #[test]
    fn only_so_much_is_kept() {
        let buffers = Buffers::default();
        let many: Vec<Buffer> = (0..100).map(|_| buffers.take(LEAST)).collect();
        drop(many);
        assert_eq!(buffers.0.lock().unwrap().len(), KEPT);
    }

    #[test]
    fn a_payload_that_is_kept_for_long_does_not_keep_the_others() {
        let buffers = Buffers::default();
        let kept = buffers.take(LEAST).freeze();
        drop(buffers.take(LEAST));
        let pool = Arc::downgrade(&buffers.0);
        drop(buffers);
        assert!(pool.upgrade().is_none());
        assert_eq!(kept.len(), LEAST);
    }
}
