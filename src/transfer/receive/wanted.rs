//! Where what is fetched goes: into a directory, or into memory.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{
    download::{Download, Downloaded},
    error::ReceiveError,
    target::{Came, Target},
};
use crate::{
    root::file,
    store::Sink,
    wire::request::{Coming, Held},
};

/// A file that is being fetched.
pub enum Wanted {
    /// Into a directory.
    File(Box<Download>),
    /// Into memory, all of it or a part.
    Part(Box<Part>),
}

/// A part of a file that is being fetched into memory. When nobody waits for the bytes any more, or
/// when all of them are there, it wants no more of the file.
pub struct Part {
    /// The bytes that are wanted; all, if it is `None`.
    range: Option<Range<u64>>,
    /// The most that are taken.
    most: u64,
    /// Bytes of the whole file, once it is announced.
    size: u64,
    sink: Box<dyn Sink>,
    state: Weak<Mutex<State>>,
}

/// The bytes of a [`Part`], for the one who waits for them.
pub struct PartBytes(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Bytes of the whole file; 0 before it is announced.
    size: u64,
    /// Bytes of it that came so far.
    came: u64,
    /// Those that are wanted, as far as the file has them.
    range: Range<u64>,
    bytes: Vec<u8>,
}

/// Appends what belongs to the part.
struct PartSink(Weak<Mutex<State>>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn upgrade(state: &Weak<Mutex<State>>) -> io::Result<Arc<Mutex<State>>> {
    let gone = || io::Error::other("nobody waits for it any more");
    state.upgrade().ok_or_else(gone)
}

/// Ends the transfer: more would come.
fn enough() -> io::Error {
    io::Error::other("no more of it is wanted")
}

impl State {
    fn announce(&mut self, size: u64, range: Range<u64>) -> io::Result<()> {
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        self.bytes.try_reserve_exact(len)?;
        (self.size, self.range) = (size, range);
        Ok(())
    }

    /// Whether all that is wanted is there before the file ends.
    fn is_cut(&self) -> bool {
        self.came < self.size && self.bytes.len() as u64 == self.range.end - self.range.start
    }

    fn append(&mut self, piece: &[u8]) {
        let begins = self.came;
        self.came += piece.len() as u64;
        let at = |position: u64| {
            let at = position.saturating_sub(begins).min(piece.len() as u64);
            usize::try_from(at).unwrap_or(piece.len())
        };
        let piece = piece.get(at(self.range.start)..at(self.range.end));
        self.bytes.extend_from_slice(piece.unwrap_or_default());
    }
}

impl Part {
    /// These bytes of a file, as far as it has them, or all of it. Fails if that is more than
    /// `most`.
    pub fn new(range: Option<Range<u64>>, most: u64) -> (Self, PartBytes) {
        let state = Arc::default();
        let part = Self {
            range,
            most,
            size: 0,
            sink: Box::new(PartSink(Arc::downgrade(&state))),
            state: Arc::downgrade(&state),
        };
        (part, PartBytes(state))
    }

    fn expect(&mut self, coming: &Coming) -> io::Result<()> {
        self.size = coming.size;
        let range = self.range.clone().unwrap_or(0..coming.size);
        let end = range.end.min(coming.size);
        let start = range.start.min(end);
        if end - start > self.most {
            return Err(file::too_large(self.most));
        }
        let state = upgrade(&self.state)?;
        let mut state = lock(&state);
        state.announce(coming.size, start..end)?;
        match state.is_cut() {
            true => Err(enough()),
            false => Ok(()),
        }
    }

    /// All of the file came, and it is what the sender read.
    pub fn downloaded(&self, crc: u32) -> Downloaded {
        Downloaded {
            name: String::new(),
            size: self.size,
            resumed: 0,
            started_over: false,
            crc,
        }
    }
}

impl PartBytes {
    /// The bytes after the transfer ended in this way. Each block was authentic, so a part does
    /// not need the end of the file.
    pub fn after<E>(self, result: Result<Downloaded, E>) -> Result<Vec<u8>, E> {
        let mut state = lock(&self.0);
        match result {
            Err(error) if !state.is_cut() => Err(error),
            _ => Ok(std::mem::take(&mut state.bytes)),
        }
    }
}

impl Sink for PartSink {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let state = upgrade(&self.0)?;
        let mut state = lock(&state);
        for piece in pieces {
            state.append(piece);
        }
        match state.is_cut() {
            true => Err(enough()),
            false => Ok(()),
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wanted {
    /// Bytes that a file is thought to have, before it comes.
    pub fn size(&self) -> u64 {
        match self {
            Self::File(download) => download.size(),
            Self::Part(_) => 0,
        }
    }

    /// What is there of a file.
    pub fn held(&self) -> Option<&Held> {
        match self {
            Self::File(download) => download.held(),
            Self::Part(_) => None,
        }
    }

    /// The file is about to arrive. Returns the CRC-32 of the part that is there already. It may
    /// wait for a disk.
    pub fn expect(&mut self, coming: Coming) -> io::Result<crc32fast::Hasher> {
        match self {
            Self::File(download) => download.expect(coming),
            Self::Part(part) => part.expect(&coming).map(|()| crc32fast::Hasher::new()),
        }
    }
}

impl Target for Wanted {
    fn expected(&self) -> Option<u64> {
        match self {
            Self::File(download) => download.expected(),
            Self::Part(part) => Some(part.size),
        }
    }

    fn claimed_crc(&self) -> Option<u32> {
        None
    }

    fn sink(&mut self) -> io::Result<&mut Box<dyn Sink>> {
        match self {
            Self::File(download) => download.sink(),
            Self::Part(part) => Ok(&mut part.sink),
        }
    }

    fn end(self, why: &ReceiveError, came: Option<Came>) {
        if let Self::File(download) = self {
            download.end(why, came);
        }
    }
}
