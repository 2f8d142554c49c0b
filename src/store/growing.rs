//! Partial files of stores elsewhere: bytes are gathered into chunks, which are written as they
//! fill, several at a time.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::{
    PartialName, Sink, buffers, runtime,
    sealed::chunk::{CHUNK, tags_len},
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

/// Where the chunks of a partial file are written.
pub trait ChunkWriter: Send + Sync {
    /// Writes a chunk. Several are under way at a time, and end in any order.
    fn write(&self, chunk: Filled) -> BoxFuture<'static, io::Result<()>>;

    /// Returns when what was written survives a loss of power.
    fn settle(&self) -> io::Result<()>;

    /// How often the bytes of a chunk are in memory while it is written.
    fn copies(&self) -> usize;

    /// Whether a file without a byte has a chunk too.
    fn has_empty(&self) -> bool;
}

/// A chunk that is complete.
pub struct Filled {
    /// Its number in the file.
    pub place: u64,
    /// Where it begins in the file.
    pub start: u64,
    /// Its bytes, with some room behind them.
    pub bytes: Vec<u8>,
}

/// A partial file of which bytes are not written yet, or are on their way.
pub struct Growing {
    writer: Box<dyn ChunkWriter>,
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
        writer: impl ChunkWriter + 'static,
        (sent, place): (u64, u64),
        gathered: Vec<u8>,
    ) -> Arc<Self> {
        Arc::new(Self {
            writer: Box::new(writer),
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

    /// Bytes that were appended; `None` after an error, when only the store knows.
    fn len(&self) -> Option<u64> {
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
        // A file with a gap needs no more.
        state.check()?;
        let is_empty = state.place == 0 && self.writer.has_empty();
        if state.gathered.is_empty() && !is_empty {
            return Ok(());
        }
        let megabytes = (state.gathered.len() * self.writer.copies()).div_ceil(1 << 20);
        let permits = u32::try_from(megabytes.min(ON_THE_WAY)).unwrap_or(1);
        let permit = match waits {
            true => Some(pollster::block_on(SHARED.on_the_way.acquire_many(permits))),
            false => None,
        };
        let permit = permit.transpose().map_err(io::Error::other)?;
        let bytes = std::mem::take(&mut state.gathered);
        let len = bytes.len() as u64;
        let writing = self.writer.write(Filled {
            place: state.place,
            start: state.sent,
            bytes,
        });
        let writing = async move {
            let _permit = permit;
            writing.await
        };
        state
            .on_the_way
            .push_back(runtime::handle()?.spawn(writing));
        state.place += 1;
        state.sent += len;
        state.reap(false);
        state.check()
    }

    /// Returns when all that was appended is written, and how many bytes that is.
    fn finish(&self) -> io::Result<u64> {
        let mut state = self.lock();
        let sent = self.send(&mut state, true);
        state.reap(true);
        sent?;
        state.check()?;
        Ok(state.sent)
    }

    /// Returns when nothing is on its way any more, and nothing will be.
    fn abandon(&self) {
        let mut state = self.lock();
        state.reap(true);
        state.gathered = Vec::new();
        let why = "another attempt began".to_owned();
        state.failed = Some((io::ErrorKind::Interrupted, why));
    }

    /// Hands over what is left, for the next attempt.
    fn leave(&self) {
        let mut state = self.lock();
        // What cannot be written is sent again.
        let _ = self.send(&mut state, false);
    }

    /// Whether all that was appended is written, or never will be.
    fn is_quiet(&self) -> bool {
        let mut state = self.lock();
        state.reap(false);
        state.on_the_way.is_empty() && (state.gathered.is_empty() || state.failed.is_some())
    }
}

/// Partial files that still have bytes in memory.
#[derive(Default)]
pub struct GrowingFiles(Mutex<HashMap<PartialName, Arc<Growing>>>);

impl GrowingFiles {
    fn lock(&self) -> MutexGuard<'_, HashMap<PartialName, Arc<Growing>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a partial file, and forgets those that are written.
    pub fn grow(&self, partial: &PartialName, new: Arc<Growing>) -> Box<dyn Sink> {
        let sink = GrowingSink::new(&new);
        let mut growing = self.lock();
        growing.retain(|_, growing| Arc::strong_count(growing) > 1 || !growing.is_quiet());
        growing.insert(partial.clone(), new);
        Box::new(sink)
    }

    /// Bytes of a partial file; `None` if only the store knows.
    pub fn len(&self, partial: &PartialName) -> Option<u64> {
        let growing = self.lock().get(partial).cloned();
        growing.and_then(|growing| growing.len())
    }

    /// Writes what is in memory of a partial file; returns its bytes, unless only the store knows.
    pub fn finish(&self, partial: &PartialName) -> io::Result<Option<u64>> {
        let growing = self.lock().remove(partial);
        growing.map(|growing| growing.finish()).transpose()
    }

    /// Forgets what is in memory of a partial file, which is written no further.
    pub fn abandon(&self, partial: &PartialName) {
        let growing = self.lock().remove(partial);
        if let Some(growing) = growing {
            growing.abandon();
        }
    }

    /// The same for all that have these names.
    pub fn abandon_all(&self, partials: &[String]) {
        let is_one = |partial: &PartialName| partials.iter().any(|one| one == partial.as_str());
        let growing: Vec<_> = self
            .lock()
            .keys()
            .filter(|one| is_one(one))
            .cloned()
            .collect();
        growing.iter().for_each(|partial| self.abandon(partial));
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

fn chunk_len() -> usize {
    let growing = SHARED.growing.load(Ordering::Relaxed).max(1);
    (GATHERED / growing).clamp(SHORTEST, CHUNK)
}

/// The end of a file that grows.
struct GrowingSink(Arc<Growing>);

impl GrowingSink {
    fn new(growing: &Arc<Growing>) -> Self {
        SHARED.growing.fetch_add(1, Ordering::Relaxed);
        Self(growing.clone())
    }
}

impl Drop for GrowingSink {
    fn drop(&mut self) {
        SHARED.growing.fetch_sub(1, Ordering::Relaxed);
        self.0.leave();
    }
}

impl Sink for GrowingSink {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        self.0.append(pieces)
    }

    fn settle(&mut self) -> io::Result<()> {
        self.0.finish()?;
        self.0.writer.settle()
    }
}
