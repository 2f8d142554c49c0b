//! The sender's first stage: reads files, seals their blocks into buffers.
//!
//! It works on a thread that may wait for a disk, one file after the other. Buffers come
//! back empty from whoever wrote them, so memory does not depend on files.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::mpsc, task};

use super::{BUFFER, DEPTH, outgoing::Version};
use crate::{
    crypto::seal::TAG_LEN,
    error::{Code, Error},
    wire::record::{HEAD_LEN, Head, Kind, MAX_BODY, Stream},
};

/// What is to be sent in one attempt.
pub struct Attempt {
    /// The number of the transfer in its session.
    pub transfer: u32,
    /// The file.
    pub file: Arc<File>,
    /// The version that the meta speaks of.
    pub version: Version,
    /// Seals the blocks.
    pub blocks: Stream,
    /// Bytes that the receiver has, behind which the blocks begin.
    pub offset: u64,
    /// The CRC-32 of those.
    pub crc: crc32fast::Hasher,
    /// What the meta says of the file's CRC-32, if anything.
    pub claimed_crc: Option<u32>,
}

/// What the stage made.
pub enum Sealed {
    /// Blocks.
    Blocks {
        /// The number of the transfer.
        transfer: u32,
        /// Of which only the first `used` bytes count.
        buffer: Vec<u8>,
        /// Bytes of records.
        used: usize,
        /// Bytes of the file.
        body: u64,
    },
    /// All blocks of a file were made; its CRC-32.
    Whole(u32, u32),
    /// No more blocks of a file will come.
    Broken(u32, Error),
}

/// The stage, from the side of who writes.
pub struct Sealing {
    work: Option<mpsc::UnboundedSender<Attempt>>,
    full: mpsc::Receiver<Sealed>,
    spare: mpsc::Sender<Vec<u8>>,
    cancelled: Arc<Mutex<HashSet<u32>>>,
}

impl Sealing {
    /// Begins the stage.
    pub fn start() -> Self {
        let (spare, empty) = mpsc::channel::<Vec<u8>>(DEPTH);
        let (full_in, full) = mpsc::channel::<Sealed>(DEPTH);
        let (work, attempts) = mpsc::unbounded_channel();
        for _ in 0..DEPTH {
            let _ = spare.try_send(Vec::new());
        }
        let cancelled = Arc::new(Mutex::new(HashSet::new()));
        let stage = Stage {
            empty,
            full: full_in,
            cancelled: cancelled.clone(),
        };
        task::spawn_blocking(move || stage.run(attempts));
        Self {
            work: Some(work),
            full,
            spare,
            cancelled,
        }
    }

    /// Has a file sealed when those before it are.
    pub fn give(&self, attempt: Attempt) {
        if let Some(work) = &self.work {
            // The stage ends only with this value.
            let _ = work.send(attempt);
        }
    }

    /// Ends a file before all of its blocks are made.
    pub fn cancel(&self, transfer: u32) {
        let mut cancelled = self
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        cancelled.insert(transfer);
    }

    /// What was made next. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Sealed> {
        self.full.recv().await
    }

    /// [`Sealing::next`], if it is there already.
    pub fn ready(&mut self) -> Option<Sealed> {
        self.full.try_recv().ok()
    }

    /// Gives a buffer back.
    pub fn recycle(&self, buffer: Vec<u8>) {
        let _ = self.spare.try_send(buffer);
    }
}

struct Stage {
    empty: mpsc::Receiver<Vec<u8>>,
    full: mpsc::Sender<Sealed>,
    cancelled: Arc<Mutex<HashSet<u32>>>,
}

impl Stage {
    fn run(mut self, mut attempts: mpsc::UnboundedReceiver<Attempt>) {
        while let Some(attempt) = attempts.blocking_recv() {
            let transfer = attempt.transfer;
            let end = match self.file(attempt) {
                Ok(Some(crc)) => Sealed::Whole(transfer, crc),
                Ok(None) => return,
                Err(error) => Sealed::Broken(transfer, error),
            };
            if self.full.blocking_send(end).is_err() {
                return;
            }
        }
    }

    fn is_cancelled(&self, transfer: u32) -> bool {
        let mut cancelled = self
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        cancelled.remove(&transfer)
    }

    /// Reads and seals one file; `None` if nobody writes any more.
    fn file(&mut self, attempt: Attempt) -> Result<Option<u32>, Error> {
        let transfer = attempt.transfer;
        let mut blocks = Blocks::new(attempt);
        while !blocks.is_whole() {
            if self.is_cancelled(transfer) {
                return Err(Error::new(Code::Later, "the receiver ended the transfer"));
            }
            let Some(mut buffer) = self.empty.blocking_recv() else {
                return Ok(None);
            };
            let (used, body) = blocks.fill(&mut buffer, 0, BUFFER)?;
            let sealed = Sealed::Blocks {
                transfer,
                buffer,
                used,
                body,
            };
            if self.full.blocking_send(sealed).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(blocks.crc()))
    }
}

/// The blocks of one file, which are made a buffer at a time.
pub struct Blocks {
    attempt: Attempt,
    left: u64,
    whole: bool,
}

impl Blocks {
    /// The blocks from the beginning of an attempt.
    pub fn new(attempt: Attempt) -> Self {
        Self {
            left: attempt.version.len().saturating_sub(attempt.offset),
            attempt,
            whole: false,
        }
    }

    /// The number of the transfer in its session.
    pub fn transfer(&self) -> u32 {
        self.attempt.transfer
    }

    /// Whether all blocks were made.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The CRC-32 of the file, once all blocks were made.
    pub fn crc(self) -> u32 {
        self.attempt.crc.finalize()
    }

    /// Bytes that are still to be made.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Puts blocks behind the first `used` bytes of a buffer, as many as there are or fit
    /// into `most` bytes. Returns how much of it is used then, and how many bytes of the
    /// file that was.
    pub fn fill(
        &mut self,
        buffer: &mut Vec<u8>,
        mut used: usize,
        most: usize,
    ) -> Result<(usize, u64), Error> {
        let Self {
            attempt,
            left,
            whole,
        } = self;
        let blocks = usize::try_from(*left / MAX_BODY as u64 + 1).unwrap_or(usize::MAX);
        let wanted = blocks
            .saturating_mul(HEAD_LEN + MAX_BODY + TAG_LEN)
            .saturating_add(used)
            .min(most);
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        let mut body = 0;
        while !*whole {
            let len = usize::try_from(*left).unwrap_or(MAX_BODY).min(MAX_BODY);
            let head = Head {
                kind: Kind::Block,
                last: len as u64 == *left,
                transfer: attempt.transfer,
                len,
            };
            let Some(space) = buffer.get_mut(used..used + head.record_len()) else {
                break;
            };
            let into = space.get_mut(HEAD_LEN..HEAD_LEN + len).unwrap_or_default();
            let at = attempt.version.len().saturating_sub(*left);
            let read = attempt.file.read_exact_at(into, at);
            read.map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => changed(),
                _ => unreadable(&e),
            })?;
            attempt.crc.update(into);
            attempt.blocks.seal(head, space).map_err(Error::from)?;
            used += head.record_len();
            body += len as u64;
            *left -= len as u64;
            *whole = head.last;
        }
        if *whole {
            // Asked before the last block goes out, while all can still be undone.
            unchanged(attempt)?;
        }
        Ok((used, body))
    }
}

fn unchanged(attempt: &Attempt) -> Result<(), Error> {
    let now = Version::of(&attempt.file).map_err(|e| unreadable(&e))?;
    if now != attempt.version {
        return Err(changed());
    }
    let crc = attempt.crc.clone().finalize();
    match attempt.claimed_crc {
        Some(claimed) if claimed != crc => {
            let sentence = format!("fileCRC is {claimed}, but the file has {crc}");
            Err(Error::new(Code::Integrity, sentence))
        }
        _ => Ok(()),
    }
}

/// The file of a sender cannot be read.
pub fn unreadable(error: &io::Error) -> Error {
    Error::new(Code::Failed, format!("cannot read the file: {error}"))
}

fn changed() -> Error {
    Error::new(
        Code::Failed,
        "the file changed while it was on its way: try again when it is complete",
    )
}

const _: () = assert!(BUFFER.is_multiple_of(HEAD_LEN + MAX_BODY + TAG_LEN));
