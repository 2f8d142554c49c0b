//! Partial files: bytes are gathered into chunks, which are sealed and written as they fill.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
};

use super::{
    Core, crypto_error,
    index::{Id, files::IndexedChunk},
    runtime,
};
use crate::store::{
    Sink, buffers,
    sealed::{
        FileSecret,
        chunk::{CHUNK, ChunkId, ChunkSeal, tags_len},
    },
};

/// Bytes of chunks that are gathered, of all files together: with many files at a time, chunks get
/// shorter.
const GATHERED: usize = 32 << 20;

/// The shortest that a chunk gets for that.
const SHORTEST: usize = 256 << 10;

/// Bytes that a chunk needs in its buffer beside its own: for the tags behind each half on a
/// stripe, and the padding there.
const ROOM: usize = 2 * tags_len(CHUNK) + 4;

/// Megabytes that may be on their way to members at once.
const ON_THE_WAY: usize = 32;

/// What all files of this process share.
static SHARED: Shared = Shared {
    growing: AtomicUsize::new(0),
    on_the_way: Semaphore::const_new(ON_THE_WAY),
};

struct Shared {
    /// Files that gather bytes.
    growing: AtomicUsize,
    on_the_way: Semaphore,
}

/// A partial file of which bytes are not written yet, or are on their way.
pub struct Growing {
    core: Arc<Core>,
    name: String,
    id: Id,
    secret: FileSecret,
    state: Mutex<State>,
}

struct State {
    /// Bytes that were handed over to be written.
    sent: u64,
    /// Those that were not.
    gathered: Vec<u8>,
    /// The place of the next chunk.
    place: u64,
    on_the_way: VecDeque<JoinHandle<io::Result<()>>>,
    /// A chunk could not be written; the file has a gap.
    failed: Option<(io::ErrorKind, String)>,
}

impl Growing {
    /// A file that goes on behind `sent` bytes in `place` chunks, with some that are gathered
    /// already.
    pub fn new(
        core: &Arc<Core>,
        name: &str,
        (id, secret): (Id, FileSecret),
        (sent, place): (u64, u64),
        gathered: Vec<u8>,
    ) -> Arc<Self> {
        Arc::new(Self {
            core: core.clone(),
            name: name.to_owned(),
            id,
            secret,
            state: Mutex::new(State {
                sent,
                gathered,
                place,
                on_the_way: VecDeque::new(),
                failed: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that were appended; `None` after an error, when only the index knows.
    pub fn len(&self) -> Option<u64> {
        let state = self.lock();
        let len = state.sent + state.gathered.len() as u64;
        state.failed.is_none().then_some(len)
    }

    fn append(&self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut state = self.lock();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let room = chunk_len().saturating_sub(state.gathered.len()).max(1);
                let (now, later) = rest.split_at(rest.len().min(room));
                state.gather(now);
                rest = later;
                if state.gathered.len() >= chunk_len() {
                    self.send(&mut state, true)?;
                }
            }
        }
        state.check()
    }

    /// Hands over what was gathered.
    fn send(&self, state: &mut State, waits: bool) -> io::Result<()> {
        if state.gathered.is_empty() {
            return Ok(());
        }
        // On a stripe a chunk takes its bytes twice.
        let copies = self.core.holders.count().min(2);
        let megabytes = (state.gathered.len() * copies).div_ceil(1 << 20);
        let permits = u32::try_from(megabytes.min(ON_THE_WAY)).unwrap_or(1);
        let permit = match waits {
            true => Some(pollster::block_on(SHARED.on_the_way.acquire_many(permits))),
            false => None,
        };
        let permit = permit.transpose().map_err(io::Error::other)?;
        let id = ChunkId::new().map_err(crypto_error)?;
        let bytes = std::mem::take(&mut state.gathered);
        let (place, len) = (state.place, bytes.len() as u64);
        let (core, name, file, secret) = (
            self.core.clone(),
            self.name.clone(),
            self.id,
            self.secret.clone(),
        );
        let writing = async move {
            let _permit = permit;
            write(core, name, (file, secret), (id, place), bytes).await
        };
        state
            .on_the_way
            .push_back(runtime::handle()?.spawn(writing));
        state.place += 1;
        state.sent += len;
        state.reap(false);
        state.check()
    }

    /// Returns when all that was appended is written.
    pub fn finish(&self) -> io::Result<()> {
        let mut state = self.lock();
        self.send(&mut state, true)?;
        state.reap(true);
        state.check()
    }

    /// Hands over what is left, for the next attempt.
    fn leave(&self) {
        let mut state = self.lock();
        // What cannot be written is sent again.
        let _ = self.send(&mut state, false);
    }

    /// Whether all that was appended is written, or never will be.
    pub fn is_quiet(&self) -> bool {
        let mut state = self.lock();
        state.reap(false);
        state.on_the_way.is_empty() && (state.gathered.is_empty() || state.failed.is_some())
    }
}

impl State {
    fn gather(&mut self, bytes: &[u8]) {
        let gathered = &mut self.gathered;
        // What gets this long mostly fills a chunk: growing by and by would copy it over and over.
        if gathered.len() + bytes.len() > SHORTEST && gathered.capacity() < chunk_len() {
            let len = chunk_len();
            let mut whole = buffers::take(len + ROOM);
            whole.extend_from_slice(gathered);
            *gathered = whole;
        }
        gathered.extend_from_slice(bytes);
    }

    /// Takes the results of what was written; waits for all of it, if asked.
    fn reap(&mut self, waits: bool) {
        while let Some(first) = self.on_the_way.front_mut() {
            if !waits && !first.is_finished() {
                return;
            }
            let result = pollster::block_on(first).unwrap_or_else(|e| Err(io::Error::other(e)));
            self.on_the_way.pop_front();
            if let Err(error) = result {
                self.failed
                    .get_or_insert_with(|| (error.kind(), error.to_string()));
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
        }
    }
}

/// Seals and writes a chunk, and notes that it was written.
async fn write(
    core: Arc<Core>,
    name: String,
    (file, secret): (Id, FileSecret),
    (id, place): (ChunkId, u64),
    mut bytes: Vec<u8>,
) -> io::Result<()> {
    let crc = crc32fast::hash(&bytes);
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let seal = ChunkSeal::new(&secret, &id, place).map_err(crypto_error)?;
    let tags = seal.seal(&mut bytes).map_err(crypto_error)?;
    let key = core.folder.chunk_key(&id);
    let held = core.holders.put_chunk(&key, bytes, &tags).await;
    let noting = spawn_blocking(move || match held {
        Ok(held) => {
            let chunk = IndexedChunk::new(id, len, crc, held);
            core.index.add_chunk(&name, file, place, chunk)
        }
        Err(error) => {
            // It may have been written all the same.
            let _ = core.index.drop_chunk(id);
            Err(error)
        }
    });
    noting.await.map_err(io::Error::other)?
}

fn chunk_len() -> usize {
    let growing = SHARED.growing.load(Ordering::Relaxed).max(1);
    (GATHERED / growing).clamp(SHORTEST, CHUNK)
}

/// The end of a file that grows.
pub struct ChunkedSink(Arc<Growing>);

impl ChunkedSink {
    /// Appends to this file.
    pub fn new(growing: &Arc<Growing>) -> Self {
        SHARED.growing.fetch_add(1, Ordering::Relaxed);
        Self(growing.clone())
    }
}

impl Drop for ChunkedSink {
    fn drop(&mut self) {
        SHARED.growing.fetch_sub(1, Ordering::Relaxed);
        self.0.leave();
    }
}

impl Sink for ChunkedSink {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        self.0.append(pieces)
    }

    fn settle(&mut self) -> io::Result<()> {
        self.0.finish()?;
        self.0.core.index.settle()
    }
}
