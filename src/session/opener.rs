//! Opens the records of the other side and appends blocks to the files that they belong to.
//!
//! It takes one buffer of whole records at a time, on a thread that may wait for a disk if blocks
//! are to be expected, and reports what they brought. Blocks of several files may come in any
//! order.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{SessionError, channel::Batch};
use crate::{
    transfer::receive::{
        error::ReceiveError,
        target::{BlockError, Incoming, Received, Target},
    },
    wire::{
        WireError,
        record::{self, HEAD_LEN, Kind, MAX_BODY, Side, Stream},
    },
};

/// Blocks of one file that are appended in one go: as many as a buffer of the usual size
/// holds.
const PIECES: usize = 16;

/// A record that is not part of a file.
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Which transfer it belongs to.
    pub transfer: u32,
    /// Its body, opened.
    pub body: Vec<u8>,
}

/// What records brought.
pub enum News<T> {
    /// A record that the role has to act on.
    Record(Record),
    /// This many bytes of files.
    Moved(u64),
    /// A file is complete.
    Whole(u32, Box<Received<T>>),
    /// A file will not arrive. What came of it is gone, or waits for the next attempt.
    Failed(u32, ReceiveError),
}

/// Prepares a file whose blocks follow the reply that announces it; `None` if the reply says
/// something else.
pub type Begin<T> = Box<dyn FnOnce(&[u8]) -> Result<Option<Incoming<T>>, ReceiveError> + Send>;

/// A file whose blocks may come.
enum Expected<T> {
    /// At once. On the heap: a map keeps the room of what it held, and a session may be idle for
    /// long.
    Ready(Box<Incoming<T>>),
    /// When the other side has said that it comes.
    Announced(Begin<T>),
}

/// Files whose blocks may come, but whose first block has not. Clones are the same one.
pub struct Downloads<T>(Arc<Mutex<HashMap<u32, Expected<T>>>>);

impl<T> Clone for Downloads<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Downloads<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Downloads<T> {
    /// From now on the blocks of this transfer may come.
    pub fn allow(&self, transfer: u32, incoming: Box<Incoming<T>>) {
        self.lock().insert(transfer, Expected::Ready(incoming));
    }

    /// From now on a reply may announce the blocks of this transfer.
    pub fn announce(&self, transfer: u32, begin: Begin<T>) {
        self.lock().insert(transfer, Expected::Announced(begin));
    }

    /// Takes back a file that has not received any bytes.
    pub fn withdraw(&self, transfer: u32) {
        drop(self.lock().remove(&transfer));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn ready(&self, transfer: u32) -> Option<Box<Incoming<T>>> {
        let mut expected = self.lock();
        match expected.remove(&transfer)? {
            Expected::Ready(incoming) => Some(incoming),
            announced => {
                expected.insert(transfer, announced);
                None
            }
        }
    }

    fn announced(&self, transfer: u32) -> Option<Begin<T>> {
        let mut expected = self.lock();
        match expected.remove(&transfer)? {
            Expected::Announced(begin) => Some(begin),
            ready => {
                expected.insert(transfer, ready);
                None
            }
        }
    }

    fn take_all(&self) -> HashMap<u32, Expected<T>> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Expected<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens one direction of a session.
pub struct Opener<T> {
    /// The side that seals what is opened here.
    peer: Side,
    records: Stream,
    downloads: Downloads<T>,
    open: HashMap<u32, Box<Incoming<T>>>,
    /// Files that failed here, that the other side may not know of yet: what still comes of them is
    /// skipped.
    failed: HashSet<u32>,
}

/// Blocks of one file that wait to be appended.
#[derive(Default)]
struct Pieces<'a> {
    transfer: u32,
    bodies: Vec<&'a [u8]>,
}

impl<T: Target> Opener<T> {
    /// The opener of what `peer` seals, from the first record on.
    pub fn new(peer: Side, records: Stream, downloads: Downloads<T>) -> Self {
        Self {
            peer,
            records,
            downloads,
            open: HashMap::new(),
            failed: HashSet::new(),
        }
    }

    /// Whether blocks may come, so that it may wait for a disk.
    pub fn expects_blocks(&self) -> bool {
        !self.open.is_empty() || !self.downloads.is_empty()
    }

    /// Opens the records of one buffer. After an error the session is over; what was reported
    /// before it holds.
    pub fn open(&mut self, batch: &mut Batch, news: &mut Vec<News<T>>) -> Result<(), SessionError> {
        let mut pieces = Pieces {
            bodies: Vec::with_capacity(PIECES),
            ..Pieces::default()
        };
        let result = self.records(batch.records(), &mut pieces, news);
        // What came before a fault is good, and the next attempt resumes behind it.
        self.append(&mut pieces, news);
        result
    }

    fn records<'a>(
        &mut self,
        mut records: &'a mut [u8],
        pieces: &mut Pieces<'a>,
        news: &mut Vec<News<T>>,
    ) -> Result<(), SessionError> {
        while let Some((head, _)) = record::split(records)? {
            let (record, behind) = std::mem::take(&mut records)
                .split_at_mut_checked(head.record_len())
                .ok_or(WireError::Record)?;
            records = behind;
            let sealed = record.get_mut(HEAD_LEN..).unwrap_or_default();
            let transfer = head.transfer;
            if !head.kind.may_come_from(self.peer) {
                return Err(WireError::Record.into());
            }
            if head.kind == Kind::Block {
                if self.failed.contains(&transfer) {
                    continue;
                }
                if pieces.transfer != transfer {
                    self.append(pieces, news);
                    pieces.transfer = transfer;
                }
                let incoming = self.incoming(transfer).ok_or(WireError::Record)?;
                match incoming.open(head, sealed) {
                    Ok(body) => pieces.bodies.push(body),
                    Err(BlockError::Wire(error)) => return Err(error.into()),
                    Err(wrong) => {
                        let wrong = match wrong {
                            BlockError::TooLarge(most) => ReceiveError::TooLarge(most),
                            _ => ReceiveError::Size,
                        };
                        // What came before it is good.
                        self.append(pieces, news);
                        if !self.failed.contains(&transfer) {
                            self.fail(transfer, wrong, news);
                        }
                    }
                }
                continue;
            }
            let body = self.records.open(head, sealed)?;
            match head.kind {
                Kind::Trailer => {
                    let claimed = record::decode_trailer(body)?;
                    self.append(pieces, news);
                    if !self.failed.remove(&transfer) {
                        self.complete(transfer, claimed, news)?;
                    }
                }
                Kind::Error => {
                    self.append(pieces, news);
                    self.given_up(transfer, body, news)?;
                }
                kind => {
                    if kind == Kind::Reply
                        && let Some(begin) = self.downloads.announced(transfer)
                    {
                        self.append(pieces, news);
                        match begin(body) {
                            Ok(Some(incoming)) => {
                                self.open.insert(transfer, Box::new(incoming));
                            }
                            Ok(None) => return Err(WireError::Record.into()),
                            // Its blocks still come.
                            Err(error) => self.fail(transfer, error, news),
                        }
                        continue;
                    }
                    let body = body.to_vec();
                    news.push(News::Record(Record {
                        kind,
                        transfer,
                        body,
                    }));
                }
            }
        }
        Ok(())
    }

    /// A file whose blocks may come.
    fn incoming(&mut self, transfer: u32) -> Option<&mut Incoming<T>> {
        if !self.open.contains_key(&transfer) {
            let incoming = self.downloads.ready(transfer)?;
            self.open.insert(transfer, incoming);
        }
        self.open.get_mut(&transfer).map(AsMut::as_mut)
    }

    /// Appends what waits to its file.
    fn append(&mut self, pieces: &mut Pieces<'_>, news: &mut Vec<News<T>>) {
        let bodies = &mut pieces.bodies;
        if bodies.is_empty() {
            return;
        }
        if let Some(incoming) = self.open.get_mut(&pieces.transfer) {
            match incoming.append(bodies) {
                Ok(()) => {
                    let bytes = bodies.iter().map(|body| body.len() as u64).sum();
                    news.push(News::Moved(bytes));
                }
                Err(error) => self.fail(pieces.transfer, ReceiveError::Store(error), news),
            }
        }
        bodies.clear();
    }

    fn complete(
        &mut self,
        transfer: u32,
        claimed: u32,
        news: &mut Vec<News<T>>,
    ) -> Result<(), SessionError> {
        let incoming = self.open.remove(&transfer).ok_or(WireError::Record)?;
        match incoming.finish(claimed).ok_or(WireError::Record)? {
            Ok(received) => news.push(News::Whole(transfer, Box::new(received))),
            Err((target, came, error)) => {
                target.end(&error, Some(came));
                news.push(News::Failed(transfer, error));
            }
        }
        Ok(())
    }

    /// The other side ends a transfer.
    fn given_up(
        &mut self,
        transfer: u32,
        body: &[u8],
        news: &mut Vec<News<T>>,
    ) -> Result<(), SessionError> {
        let error = record::decode_error(body)?;
        if self.failed.remove(&transfer) {
            return Ok(());
        }
        if self.incoming(transfer).is_some() {
            self.fail(transfer, ReceiveError::Sender(error), news);
            self.failed.remove(&transfer);
            return Ok(());
        }
        drop(self.downloads.announced(transfer));
        news.push(News::Record(Record {
            kind: Kind::Error,
            transfer,
            body: body.to_vec(),
        }));
        Ok(())
    }

    /// Ends one file; the session continues.
    fn fail(&mut self, transfer: u32, error: ReceiveError, news: &mut Vec<News<T>>) {
        if let Some(incoming) = self.open.remove(&transfer) {
            incoming.end(&error);
        }
        self.failed.insert(transfer);
        news.push(News::Failed(transfer, error));
    }

    /// Ends all files with the session. It may wait for a disk.
    pub fn end_all(mut self, why: &ReceiveError) {
        for (_, incoming) in self.open.drain() {
            incoming.end(why);
        }
        for (_, expected) in self.downloads.take_all() {
            if let Expected::Ready(incoming) = expected {
                incoming.end(why);
            }
        }
    }
}

const _: () = assert!(PIECES * MAX_BODY >= super::RECEIVE_BUFFER / 2);
