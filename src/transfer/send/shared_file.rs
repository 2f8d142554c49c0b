//! A file that goes to several receivers: what one of them has read is there for the others.
//!
//! The receivers need not keep pace: one who is far behind reads again.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::store::{Contents, Stat};

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// Chunks of all files together that are kept: 64 MiB.
const KEPT: usize = 64;

/// What was read last, of any file. Clones are the same one.
#[derive(Clone, Default)]
pub struct ReadCache(Arc<Inner>);

#[derive(Default)]
struct Inner {
    chunks: Mutex<VecDeque<Chunk>>,
    files: AtomicU64,
}

struct Chunk {
    file: u64,
    number: u64,
    bytes: Arc<[u8]>,
}

/// A file that is read through a cache.
pub struct SharedFile {
    contents: Arc<dyn Contents>,
    cache: ReadCache,
    number: u64,
    /// Held while one receiver reads what the others mostly want too.
    reading: Mutex<()>,
}

impl ReadCache {
    /// The same contents, read through this cache.
    pub fn share(&self, contents: Arc<dyn Contents>) -> SharedFile {
        SharedFile {
            contents,
            cache: self.clone(),
            number: self.0.files.fetch_add(1, Ordering::Relaxed),
            reading: Mutex::default(),
        }
    }
}

impl SharedFile {
    fn cached(&self, number: u64) -> Option<Arc<[u8]>> {
        let chunks = &self.cache.0.chunks;
        let chunks = chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |chunk: &&Chunk| chunk.file == self.number && chunk.number == number;
        let chunk = chunks.iter().rev().find(is_it)?;
        Some(chunk.bytes.clone())
    }

    /// A chunk of it: shorter than others if the file ends there.
    fn chunk(&self, number: u64) -> io::Result<Arc<[u8]>> {
        if let Some(bytes) = self.cached(number) {
            return Ok(bytes);
        }
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = self.cached(number) {
            return Ok(bytes);
        }
        let mut bytes = vec![0; CHUNK];
        let (mut len, begin) = (0, number.saturating_mul(CHUNK as u64));
        while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match self
                .contents
                .read_at(rest, begin.saturating_add(len as u64))
            {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        bytes.truncate(len);
        let bytes: Arc<[u8]> = bytes.into();
        let chunks = &self.cache.0.chunks;
        let mut chunks = chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if chunks.len() == KEPT {
            chunks.pop_front();
        }
        chunks.push_back(Chunk {
            file: self.number,
            number,
            bytes: bytes.clone(),
        });
        Ok(bytes)
    }
}

impl Contents for SharedFile {
    fn stat(&self) -> io::Result<Stat> {
        self.contents.stat()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let chunk = self.chunk(offset / CHUNK as u64)?;
        let begin = usize::try_from(offset % CHUNK as u64).unwrap_or(CHUNK);
        let rest = chunk.get(begin..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn version(&self) -> io::Result<String> {
        self.contents.version()
    }

    fn settle(&self) -> io::Result<()> {
        self.contents.settle()
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        let chunks = &self.cache.0.chunks;
        let mut chunks = chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks.retain(|chunk| chunk.file != self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Counts the bytes that are read.
    struct Counted(Vec<u8>, AtomicU64);

    impl Contents for Counted {
        fn stat(&self) -> io::Result<Stat> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = self.0.get(usize::try_from(offset).unwrap()..);
            let rest = rest.unwrap_or_default();
            let len = rest.len().min(buffer.len()).min(300_000);
            buffer[..len].copy_from_slice(&rest[..len]);
            self.1.fetch_add(len as u64, Ordering::Relaxed);
            Ok(len)
        }

        fn version(&self) -> io::Result<String> {
            Ok(String::new())
        }

        fn settle(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_for_three_receivers_is_read_once() {
        let bytes: Vec<u8> = (0..5 * CHUNK + 4_321).map(|i| (i % 251) as u8).collect();
        let counted = Arc::new(Counted(bytes.clone(), AtomicU64::new(0)));
        let shared = Arc::new(ReadCache::default().share(counted.clone()));
        let read = |shared: Arc<SharedFile>| {
            std::thread::spawn(move || {
                let (mut all, mut buffer) = (Vec::new(), vec![0; 65_536]);
                loop {
                    match shared.read_at(&mut buffer, all.len() as u64).unwrap() {
                        0 => return all,
                        len => all.extend_from_slice(&buffer[..len]),
                    }
                }
            })
        };
        let all: Vec<_> = (0..3).map(|_| read(shared.clone())).collect();
        for one in all {
            assert!(one.join().unwrap() == bytes);
        }
        assert_eq!(counted.1.load(Ordering::Relaxed), bytes.len() as u64);
        let cache = shared.cache.clone();
        drop(shared);
        assert!(cache.0.chunks.lock().unwrap().is_empty());
    }
}
