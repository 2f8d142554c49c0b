//! The receiver's second stage: opens records, appends blocks to their hidden files.
//!
//! It works on a thread that may wait for a disk, a buffer of whole records at a time,
//! and tells what they brought. Of several files the blocks may come in any order.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{BUFFER, Observer, channel::Batch, decide::Arrival, receive::ReceiveError};
use crate::wire::{
    WireError,
    record::{self, HEAD_LEN, Head, Kind, MAX_BODY, Stream},
};

/// Bytes of the digest of a prefix.
pub const DIGEST_LEN: usize = 32;

/// A file that is complete in its hidden place.
pub struct Received {
    /// What arrived.
    pub arrival: Arrival,
    /// Its CRC-32.
    pub crc: u32,
}

/// What records brought.
pub enum News {
    /// A further meta.
    Meta(u32, Vec<u8>),
    /// The digest of a prefix that the sender has.
    Prefix(u32, [u8; DIGEST_LEN]),
    /// A file is complete.
    Complete(u32, Box<Received>),
    /// A transfer is over. What came of its file is gone, or waits for the next attempt.
    Over(u32, ReceiveError),
    /// The sender gives a transfer up for which there were no blocks yet.
    GivenUp(u32),
    /// A record of a kind that is not known.
    Unknown(u32),
    /// The session is over.
    Close,
}

/// A file whose blocks may come.
pub struct Incoming {
    blocks: Stream,
    arrival: Arrival,
    received: u64,
    /// Whether the last block was there.
    complete: bool,
    crc: crc32fast::Hasher,
}

impl Incoming {
    /// A file whose first `received` bytes are there, with their CRC-32.
    pub fn new(blocks: Stream, arrival: Arrival, received: u64, crc: crc32fast::Hasher) -> Self {
        Self {
            blocks,
            arrival,
            received,
            complete: false,
            crc,
        }
    }

    /// Takes back what was there: the sender has something else.
    pub fn begin_again(&mut self) -> io::Result<()> {
        self.arrival.held = 0;
        self.arrival.sink = None;
        self.arrival.sink(0).map(drop)
    }

    /// The file, to be left as it is.
    pub fn into_arrival(self) -> Arrival {
        self.arrival
    }

    /// Checks a block and opens it.
    fn block<'a>(
        &mut self,
        head: Head,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], ReceiveError> {
        let after = self.received + head.len as u64;
        let whole = head.last || head.len == MAX_BODY;
        let expected = self.arrival.expected;
        if self.complete || !whole || head.last != (after == expected) || after > expected {
            return Err(ReceiveError::Size);
        }
        let body = self.blocks.open(head, sealed)?;
        self.crc.update(body);
        self.received = after;
        self.complete = head.last;
        Ok(body)
    }

    /// Whether what arrived is what the sender read.
    fn check(&self, claimed: u32) -> Result<u32, ReceiveError> {
        let computed = self.crc.clone().finalize();
        let said = self.arrival.partial.subject().meta.file_crc;
        for claimed in [Some(claimed), said].into_iter().flatten() {
            if claimed != computed {
                return Err(ReceiveError::Checksum { claimed, computed });
            }
        }
        Ok(computed)
    }
}

/// Files that were granted, and whose first block has not come. On the heap: a map keeps the
/// room of what it held, and a session may rest for long.
#[derive(Clone, Default)]
pub struct Granted(Arc<Mutex<HashMap<u32, Box<Incoming>>>>);

impl Granted {
    /// From now on the blocks of this transfer may come.
    pub fn insert(&self, transfer: u32, incoming: Box<Incoming>) {
        self.lock().insert(transfer, incoming);
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Box<Incoming>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stage at work.
pub struct Intake {
    incoming: Stream,
    granted: Granted,
    open: HashMap<u32, Box<Incoming>>,
    /// Transfers that are over here, and of which the sender may not know.
    over: HashSet<u32>,
    observer: Arc<dyn Observer>,
}

/// The blocks of one transfer that wait to be written.
#[derive(Default)]
struct Pieces<'a> {
    transfer: u32,
    bodies: Vec<&'a [u8]>,
}

impl Intake {
    /// A stage at the beginning of a session's records.
    pub fn new(incoming: Stream, granted: Granted, observer: &Arc<dyn Observer>) -> Self {
        Self {
            incoming,
            granted,
            open: HashMap::new(),
            over: HashSet::new(),
            observer: observer.clone(),
        }
    }

    /// Takes the records of one buffer. After an error the session is over; what was told
    /// before it holds.
    pub fn batch(&mut self, batch: &mut Batch, news: &mut Vec<News>) -> Result<(), ReceiveError> {
        let mut pieces = Pieces {
            bodies: Vec::with_capacity(BUFFER / MAX_BODY + 1),
            ..Pieces::default()
        };
        let result = self.records(batch.records(), &mut pieces, news);
        // What came before a fault is good, and the next attempt goes on with it.
        self.write(&mut pieces, news);
        result
    }

    fn records<'a>(
        &mut self,
        mut records: &'a mut [u8],
        pieces: &mut Pieces<'a>,
        news: &mut Vec<News>,
    ) -> Result<(), ReceiveError> {
        while let Some((head, _)) = record::split(records)? {
            let (record, behind) = std::mem::take(&mut records)
                .split_at_mut_checked(head.record_len())
                .ok_or(WireError::Record)?;
            records = behind;
            let sealed = record.get_mut(HEAD_LEN..).unwrap_or_default();
            let transfer = head.transfer;
            if head.kind == Kind::Block {
                if self.over.contains(&transfer) {
                    continue;
                }
                if pieces.transfer != transfer {
                    self.write(pieces, news);
                    pieces.transfer = transfer;
                }
                let Some(incoming) = self.take(transfer) else {
                    return Err(WireError::Record.into());
                };
                match incoming.block(head, sealed) {
                    Ok(body) => pieces.bodies.push(body),
                    Err(error @ ReceiveError::Size) => {
                        pieces.bodies.clear();
                        self.end(transfer, error, news);
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            let body = self.incoming.open(head, sealed)?;
            match head.kind {
                Kind::Working => {}
                Kind::Close => news.push(News::Close),
                Kind::Meta => news.push(News::Meta(transfer, body.to_vec())),
                Kind::Resume => {
                    let digest = (&*body).try_into().map_err(|_| WireError::Record)?;
                    news.push(News::Prefix(transfer, digest));
                }
                Kind::Error => {
                    let error = ReceiveError::Sender(record::decode_error(body)?);
                    self.write(pieces, news);
                    if self.over.remove(&transfer) {
                        continue;
                    }
                    match self.take(transfer).is_some() {
                        true => {
                            self.end(transfer, error, news);
                            self.over.remove(&transfer);
                        }
                        false => news.push(News::GivenUp(transfer)),
                    }
                }
                Kind::Trailer => {
                    let claimed = record::decode_trailer(body)?;
                    self.write(pieces, news);
                    if !self.over.remove(&transfer) {
                        self.complete(transfer, claimed, news)?;
                    }
                }
                Kind::Other(_) => news.push(News::Unknown(transfer)),
                Kind::Block | Kind::Answer | Kind::Ack => return Err(WireError::Record.into()),
            }
        }
        Ok(())
    }

    /// A file whose blocks may come.
    fn take(&mut self, transfer: u32) -> Option<&mut Incoming> {
        if !self.open.contains_key(&transfer) {
            let incoming = self.granted.lock().remove(&transfer)?;
            self.open.insert(transfer, incoming);
        }
        self.open.get_mut(&transfer).map(AsMut::as_mut)
    }

    /// Appends what waits to its file.
    fn write(&mut self, pieces: &mut Pieces<'_>, news: &mut Vec<News>) {
        let bodies = std::mem::take(&mut pieces.bodies);
        if bodies.is_empty() {
            return;
        }
        let Some(incoming) = self.open.get_mut(&pieces.transfer) else {
            return;
        };
        let keep = incoming.arrival.held;
        let sink = incoming.arrival.sink(keep);
        match sink.and_then(|sink| sink.append(&bodies)) {
            Ok(()) => {
                let bytes = bodies.iter().map(|body| body.len() as u64).sum();
                self.observer.moved(bytes);
            }
            Err(error) => self.end(pieces.transfer, ReceiveError::Store(error), news),
        }
    }

    fn complete(
        &mut self,
        transfer: u32,
        claimed: u32,
        news: &mut Vec<News>,
    ) -> Result<(), ReceiveError> {
        let Some(incoming) = self.open.remove(&transfer).filter(|file| file.complete) else {
            return Err(WireError::Record.into());
        };
        match incoming.check(claimed) {
            Ok(crc) => {
                let arrival = incoming.arrival;
                let received = Box::new(Received { arrival, crc });
                news.push(News::Complete(transfer, received));
            }
            Err(error) => {
                incoming.arrival.end(&error);
                news.push(News::Over(transfer, error));
            }
        }
        Ok(())
    }

    /// Ends one transfer; the session goes on.
    fn end(&mut self, transfer: u32, error: ReceiveError, news: &mut Vec<News>) {
        if let Some(incoming) = self.open.remove(&transfer) {
            incoming.arrival.end(&error);
        }
        self.over.insert(transfer);
        news.push(News::Over(transfer, error));
    }

    /// Ends all transfers with the session, because of `error`.
    pub fn end_all(mut self, error: &ReceiveError) {
        let granted = std::mem::take(&mut *self.granted.lock());
        for incoming in self
            .open
            .drain()
            .map(|(_, i)| i)
            .chain(granted.into_values())
        {
            incoming.arrival.end(error);
        }
    }
}
