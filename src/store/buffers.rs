//! Buffers for chunks and shares, which are used again: memory that is touched for the first time
//! costs more than what is done with it.

use std::sync::{Mutex, PoisonError};

use hyper::body::Bytes;

/// The smallest buffer that is kept.
const SMALLEST: usize = 1 << 20;

/// Bytes of buffers that are kept, of all together.
const KEPT: usize = 24 << 20;

/// Those that nobody uses now.
static IDLE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// An empty buffer with room for so many bytes.
pub fn take(len: usize) -> Vec<u8> {
    if len >= SMALLEST {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = idle.iter().enumerate();
        // One that is far larger is for others.
        let fitting = fitting.filter(|(_, buffer)| (len..len * 3 / 2).contains(&buffer.capacity()));
        let smallest = fitting.min_by_key(|(_, buffer)| buffer.capacity());
        if let Some((at, _)) = smallest {
            return idle.swap_remove(at);
        }
    }
    Vec::with_capacity(len)
}

/// Hands back a buffer that is not used any more.
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() < SMALLEST {
        return;
    }
    buffer.clear();
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let kept: usize = idle.iter().map(Vec::capacity).sum();
    if kept + buffer.capacity() <= KEPT {
        idle.push(buffer);
    }
}

/// Bytes whose buffer is handed back with the last of their clones.
pub fn shared(buffer: Vec<u8>) -> Bytes {
    match buffer.capacity() < SMALLEST {
        true => buffer.into(),
        false => Bytes::from_owner(Lent(buffer)),
    }
}

struct Lent(Vec<u8>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_handed_back_is_used_again() {
        // A length that no other test has.
        let len = 5 * SMALLEST + 1;
        let mut buffer = take(len);
        buffer.resize(len, 7);
        let at = buffer.as_ptr();
        let bytes = shared(buffer);
        let other = bytes.slice(1..);
        drop(bytes);
        let other_buffer = take(len);
        assert_ne!(other_buffer.as_ptr(), at);
        drop(other);
        let again = take(len - 1);
        assert!(again.as_ptr() == at && again.is_empty());
    }
}
