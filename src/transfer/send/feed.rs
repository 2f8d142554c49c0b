//! Bytes that are sent as they come: standard input, a camera, a log.
//!
//! One thread reads them ([`Feeds::copy`]), and each receiver has a [`Feed`] of its own with a bounded
//! number of bytes in it: they are read once, and sealed for each.

use std::{
    collections::VecDeque,
    io::{self, Read},
    ops::Deref,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

use crate::{
    error::{Code, Error},
    wire::record::MAX_BODY,
};

/// Bytes that wait in one feed, at most, not counting the last piece.
const WAITING: usize = 1 << 20;

/// Bytes that are read at once, at most.
const READ: usize = 4 * MAX_BODY;

/// Buffers that are kept to be read into again: as many as wait, if each is half full, and those at
/// both ends.
const BUFFERS: usize = 2 * WAITING / READ + 2;

/// Pieces that wait in one feed, at most: a short one costs more memory than its bytes.
const PIECES: usize = 4_096;

/// What happens to a piece for which a feed has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Reading waits.
    Wait,
    /// The piece is dropped, as a whole, and counted.
    Drop,
}

/// Bytes for one receiver, in their order. Clones are the same one.
#[derive(Clone)]
pub struct Feed(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something was taken, or nobody takes anything any more.
    room: Condvar,
    /// Turns true when its receiver has accepted it, or nobody takes anything any more.
    begun: watch::Sender<bool>,
}

/// All feeds of one input. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Feeds(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    feeds: Vec<Feed>,
    end: Option<Result<(), Error>>,
    is_closed: bool,
}

/// Bytes that were read. Clones share them.
#[derive(Clone)]
struct Bytes {
    buffer: Arc<Vec<u8>>,
    len: usize,
}

/// Buffers that are read into again when no feed holds what was read any more.
#[derive(Default)]
struct Buffers(Vec<Arc<Vec<u8>>>);

struct State {
    pieces: VecDeque<Bytes>,
    /// Bytes of the first piece that were taken.
    begun: usize,
    /// Bytes that wait.
    waiting: usize,
    /// Whether the reader waits for room.
    is_waited_for: bool,
    /// Bytes that were taken.
    taken: u64,
    /// Bytes that may be taken, counted from the beginning.
    allowed: u64,
    overflow: Overflow,
    /// Whether what comes before it has begun was dropped, too.
    counts_early: bool,
    dropped: Dropped,
    end: Option<Result<(), Error>>,
    /// Whether somebody will take bytes.
    is_wanted: bool,
    /// Told when there may be something to take.
    wake: Option<Arc<Notify>>,
}

/// What was dropped because a receiver was too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Pieces.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was taken from a feed.
#[derive(Debug, Default)]
pub struct Piece {
    /// Bytes.
    pub len: usize,
    /// Whether nothing comes after it.
    pub is_last: bool,
}

impl Feed {
    /// An empty feed.
    pub fn new(overflow: Overflow) -> Self {
        let state = State {
            pieces: VecDeque::new(),
            begun: 0,
            waiting: 0,
            is_waited_for: false,
            taken: 0,
            allowed: u64::MAX,
            overflow,
            counts_early: false,
            dropped: Dropped::default(),
            end: None,
            is_wanted: true,
            wake: None,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            room: Condvar::new(),
            begun: watch::Sender::new(false),
        }))
    }

    /// Takes only this many bytes from now on, counted from the beginning; more when
    /// [`Self::allow`] says so.
    #[must_use]
    pub fn up_to(self, allowed: u64) -> Self {
        self.lock().allowed = allowed;
        self
    }

    /// Counts what comes before its receiver accepts it as dropped: the receiver had a part of it
    /// before.
    #[must_use]
    pub fn again(self) -> Self {
        self.lock().counts_early = true;
        self
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a piece; waits for room if that is what the feed does. It may wait for long.
    fn push(&self, piece: &Bytes) {
        let mut state = self.lock();
        while state.is_wanted && state.is_full() && state.overflow == Overflow::Wait {
            state.is_waited_for = true;
            let waited = self.0.room.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let is_early = state.overflow == Overflow::Drop && !*self.0.begun.borrow();
        let counts = !is_early || state.counts_early;
        if !state.is_wanted || !counts {
            return;
        }
        if is_early || state.is_full() {
            state.drop_piece(piece.len());
            return;
        }
        let was_empty = state.waiting == 0;
        state.waiting += piece.len();
        state.pieces.push_back(piece.clone());
        if was_empty {
            state.wake();
        }
    }

    /// Nothing more comes, or cannot be read.
    fn end(&self, end: Result<(), Error>) {
        let mut state = self.lock();
        state.end = Some(end);
        state.wake();
    }

    /// Nobody takes anything any more: whoever reads does not wait for this feed.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_wanted = false;
        let rest = std::mem::take(&mut state.pieces);
        if state.overflow == Overflow::Drop {
            rest.iter().for_each(|piece| state.drop_piece(piece.len()));
        }
        (state.begun, state.waiting) = (0, 0);
        drop(state);
        self.0.room.notify_all();
        self.0.begun.send_replace(true);
    }

    fn is_wanted(&self) -> bool {
        self.lock().is_wanted
    }

    /// Its receiver has accepted it: it tells this from now on when there may be something to take.
    pub fn begin(&self, wake: &Arc<Notify>) {
        self.lock().wake = Some(wake.clone());
        self.0.begun.send_replace(true);
    }

    /// Whether its receiver has accepted it.
    pub fn is_begun(&self) -> bool {
        self.lock().wake.is_some()
    }

    /// Waits until its receiver has accepted it, or nobody takes anything any more.
    pub async fn begun(&self) {
        let _ = self.0.begun.subscribe().wait_for(|begun| *begun).await;
    }

    /// From now on so many bytes may be taken, counted from the beginning.
    pub fn allow(&self, allowed: u64) {
        let mut state = self.lock();
        state.allowed = state.allowed.max(allowed);
        state.wake();
    }

    /// Whether there is something to take.
    pub fn is_ready(&self) -> bool {
        let state = self.lock();
        match state.waiting {
            0 => state.end.is_some(),
            _ => state.taken < state.allowed,
        }
    }

    /// Bytes that were taken.
    pub fn taken(&self) -> u64 {
        self.lock().taken
    }

    /// What was dropped.
    pub fn dropped(&self) -> Dropped {
        self.lock().dropped
    }

    /// Takes what there is and may be taken, as much as fits. Fails if no more can be read.
    pub fn take(&self, mut into: &mut [u8]) -> Result<Piece, Error> {
        let mut state = self.lock();
        let may = state.allowed.saturating_sub(state.taken);
        let most = usize::try_from(may).unwrap_or(usize::MAX).min(into.len());
        let (mut len, mut parts) = (0, Vec::new());
        while len < most
            && let Some(piece) = state.pieces.front()
        {
            let (piece, begun) = (piece.clone(), state.begun);
            let part = piece.len().saturating_sub(begun).min(most - len);
            len += part;
            match begun + part == piece.len() {
                true => {
                    state.pieces.pop_front();
                    state.begun = 0;
                }
                false => state.begun += part,
            }
            parts.push((piece, begun..begun + part));
        }
        state.waiting -= len;
        state.taken += len as u64;
        // Not for each block: reader and sender would only wake each other.
        let has_room = state.waiting <= WAITING / 2 && state.pieces.len() <= PIECES / 2;
        if has_room && std::mem::take(&mut state.is_waited_for) {
            self.0.room.notify_all();
        }
        let is_last = match &state.end {
            Some(end) if state.waiting == 0 => end.clone().map(|()| true)?,
            _ => false,
        };
        drop(state);
        for (piece, part) in parts {
            let part = piece.get(part).unwrap_or_default();
            if let Some(to) = into.split_off_mut(..part.len()) {
                to.copy_from_slice(part);
            }
        }
        Ok(Piece { len, is_last })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl Buffers {
    /// Reads once.
    fn read(&mut self, from: &mut impl Read) -> io::Result<Bytes> {
        let is_free = |buffer: &Arc<Vec<u8>>| Arc::strong_count(buffer) == 1;
        let free = self.0.iter().position(is_free);
        let free = free.map(|at| self.0.swap_remove(at));
        let mut buffer = free.unwrap_or_else(|| Arc::new(vec![0; READ]));
        let into = Arc::get_mut(&mut buffer).map(Vec::as_mut_slice);
        let len = from.read(into.unwrap_or_default())?;
        // A short piece does not hold a whole buffer.
        let bytes = match len < READ / 2 {
            true => Arc::new(buffer.get(..len).unwrap_or_default().to_vec()),
            false => buffer.clone(),
        };
        if self.0.len() < BUFFERS {
            self.0.push(buffer);
        }
        Ok(Bytes { buffer: bytes, len })
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.waiting >= WAITING || self.pieces.len() >= PIECES
    }

    fn drop_piece(&mut self, len: usize) {
        self.dropped.pieces += 1;
        self.dropped.bytes += len as u64;
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake.notify_one();
        }
    }
}

impl Feeds {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a feed, which gets what is read from now on.
    pub fn add(&self, feed: &Feed) {
        let mut all = self.lock();
        match &all.end {
            Some(end) => feed.end(end.clone()),
            None => all.feeds.push(feed.clone()),
        }
    }

    /// No more feeds are added: nothing is read once none is left.
    pub fn close(&self) {
        self.lock().is_closed = true;
    }

    /// Whether all was read.
    pub fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Reads until the end, and gives each receiver what came as soon as it is there. It ends early
    /// if nobody wants anything any more.
    pub fn copy(&self, mut from: impl Read) {
        let mut buffers = Buffers::default();
        let end = loop {
            let feeds = {
                let mut all = self.lock();
                all.feeds.retain(Feed::is_wanted);
                if all.feeds.is_empty() && all.is_closed {
                    return;
                }
                all.feeds.clone()
            };
            match buffers.read(&mut from) {
                Ok(piece) if piece.is_empty() => break Ok(()),
                Ok(piece) => feeds.iter().for_each(|feed| feed.push(&piece)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let sentence = format!("cannot read what is to be sent: {e}");
                    break Err(Error::new(Code::Failed, sentence));
                }
            }
        };
        let mut all = self.lock();
        for feed in std::mem::take(&mut all.feeds) {
            feed.end(end.clone());
        }
        all.end = Some(end);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn copy(from: &[u8], feeds: &[Feed]) {
        let all = Feeds::default();
        for feed in feeds {
            feed.begin(&Arc::default());
            all.add(feed);
        }
        all.copy(from);
    }

    fn all(feed: &Feed) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), [0; 7]);
        loop {
            let piece = feed.take(&mut buffer).unwrap();
            all.extend_from_slice(&buffer[..piece.len]);
            if piece.is_last {
                return all;
            }
        }
    }

    #[test]
    fn each_receiver_takes_all_of_it_at_its_own_pace() {
        let feeds = [Overflow::Wait, Overflow::Drop].map(Feed::new);
        copy(b"a piece of a stream", &feeds);
        for feed in &feeds {
            assert!(feed.is_ready());
            assert_eq!(all(feed), b"a piece of a stream");
        }
    }

    #[test]
    fn a_receiver_who_is_too_slow_misses_whole_pieces_or_holds_up_the_reader() {
        let bytes = vec![7; 4 << 20];
        let [slow, live] = [Overflow::Wait, Overflow::Drop].map(Feed::new);
        let feeds = [slow.clone(), live.clone()];
        let reader = std::thread::spawn(move || copy(&bytes, &feeds));
        assert_eq!(all(&slow).len(), 4 << 20);
        reader.join().unwrap();
        let Dropped { pieces, bytes } = live.dropped();
        assert_eq!(bytes, pieces * READ as u64);
        assert_eq!(all(&live).len() as u64 + bytes, 4 << 20);
        assert!(bytes > 0);
    }

    #[test]
    fn no_more_is_taken_than_is_allowed() {
        let feed = Feed::new(Overflow::Wait).up_to(5);
        copy(b"0123456789", std::slice::from_ref(&feed));
        let mut buffer = [0; 64];
        assert_eq!(feed.take(&mut buffer).unwrap().len, 5);
        assert!(!feed.is_ready());
        feed.allow(8);
        let piece = feed.take(&mut buffer).unwrap();
        assert_eq!((&buffer[..piece.len], piece.is_last), (&b"567"[..], false));
        feed.allow(10);
        let piece = feed.take(&mut buffer).unwrap();
        assert_eq!((&buffer[..piece.len], piece.is_last), (&b"89"[..], true));
    }
}
