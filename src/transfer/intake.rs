//! The second stage of who receives: opens records, appends blocks to their hidden files.
//! A server has it for files that are sent to it, a client for files that it fetches.
//!
//! It works on a thread that may wait for a disk, a buffer of whole records at a time,
//! and tells what they brought. Of several files the blocks may come in any order.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{BUFFER, Observer, channel::Batch, receive::ReceiveError};
use crate::error::Error;
use crate::store::Sink;
use crate::wire::{
    WireError,
    record::{self, HEAD_LEN, Head, Kind, MAX_BODY, Stream},
};

/// Bytes of the digest of a prefix.
pub const DIGEST_LEN: usize = 32;

/// A file that arrives: where its bytes go, and what is known of it before they come.
pub trait Arriving: Send + 'static {
    /// Bytes of the whole file.
    fn expected(&self) -> u64;

    /// Its CRC-32, if that is known.
    fn claimed_crc(&self) -> Option<u32>;

    /// Where its bytes go, begun when it is asked for first.
    fn sink(&mut self) -> io::Result<&mut Box<dyn Sink>>;

    /// Ends an attempt that did not complete the file. It may wait for a disk.
    fn end(self, why: &ReceiveError);
}

/// Who receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who accepted the connection.
    Server,
    /// Who opened it.
    Client,
}

/// A file that is complete in its hidden place.
pub struct Received<A> {
    /// What arrived.
    pub arrival: A,
    /// Its CRC-32.
    pub crc: u32,
}

/// What records brought.
pub enum News<A> {
    /// A further meta.
    Meta(u32, Vec<u8>),
    /// The digest of a prefix that the sender has.
    Prefix(u32, [u8; DIGEST_LEN]),
    /// A file is complete.
    Complete(u32, Box<Received<A>>),
    /// Something is asked, by a client.
    Request(u32, Vec<u8>),
    /// Something is answered, by a server.
    Reply(u32, Vec<u8>),
    /// A file that was fetched is safe at the client's.
    Acked(u32),
    /// A transfer is over. What came of its file is gone, or waits for the next attempt.
    Over(u32, ReceiveError),
    /// The other side gives a transfer up for which there were no blocks yet; why.
    GivenUp(u32, Error),
    /// A record of a kind that is not known.
    Unknown(u32),
    /// The session is over.
    Close,
}

/// A file whose blocks may come.
pub struct Incoming<A> {
    blocks: Stream,
    arrival: A,
    received: u64,
    /// Whether the last block was there.
    complete: bool,
    crc: crc32fast::Hasher,
}

impl<A: Arriving> Incoming<A> {
    /// A file whose first `received` bytes are there, with their CRC-32.
    pub fn new(blocks: Stream, arrival: A, received: u64, crc: crc32fast::Hasher) -> Self {
        Self {
            blocks,
            arrival,
            received,
            complete: false,
            crc,
        }
    }

    /// What is known of it.
    pub fn arrival_mut(&mut self) -> &mut A {
        &mut self.arrival
    }

    /// The file, to be left as it is.
    pub fn into_arrival(self) -> A {
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
        let expected = self.arrival.expected();
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
        let said = self.arrival.claimed_crc();
        for claimed in [Some(claimed), said].into_iter().flatten() {
            if claimed != computed {
                return Err(ReceiveError::Checksum { claimed, computed });
            }
        }
        Ok(computed)
    }
}

/// Files whose blocks may come. On the heap: a map keeps the room of what it held, and a
/// session may rest for long.
type Files<A> = HashMap<u32, Box<Incoming<A>>>;

/// Files that were granted, and whose first block has not come.
pub struct Granted<A>(Arc<Mutex<Files<A>>>);

impl<A> Clone for Granted<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A> Default for Granted<A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<A> Granted<A> {
    /// From now on the blocks of this transfer may come.
    pub fn insert(&self, transfer: u32, incoming: Box<Incoming<A>>) {
        self.lock().insert(transfer, incoming);
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Files<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a file ready that was asked for, from the reply that says that it comes; `None`
/// where the reply says something else.
pub type Wanted<A> = Box<dyn FnOnce(&[u8]) -> Result<Option<Incoming<A>>, ReceiveError> + Send>;

/// Files that were asked for and of which nothing was heard yet: their blocks follow the
/// reply at once.
pub struct Asked<A>(Arc<Mutex<HashMap<u32, Wanted<A>>>>);

impl<A> Clone for Asked<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A> Default for Asked<A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<A> Asked<A> {
    /// From now on a reply may come.
    pub fn insert(&self, transfer: u32, wanted: Wanted<A>) {
        self.lock().insert(transfer, wanted);
    }

    /// Takes it back; nothing, if the reply was there.
    pub fn remove(&self, transfer: u32) -> Option<Wanted<A>> {
        self.lock().remove(&transfer)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Wanted<A>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stage at work.
pub struct Intake<A> {
    side: Side,
    incoming: Stream,
    granted: Granted<A>,
    asked: Asked<A>,
    open: Files<A>,
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

impl<A: Arriving> Intake<A> {
    /// A server's stage at the beginning of a session's records.
    pub fn of_server(incoming: Stream, granted: Granted<A>, observer: &Arc<dyn Observer>) -> Self {
        Self {
            side: Side::Server,
            incoming,
            granted,
            asked: Asked::default(),
            open: HashMap::new(),
            over: HashSet::new(),
            observer: observer.clone(),
        }
    }

    /// A client's.
    pub fn of_client(incoming: Stream, asked: Asked<A>, observer: &Arc<dyn Observer>) -> Self {
        Self {
            side: Side::Client,
            asked,
            ..Self::of_server(incoming, Granted::default(), observer)
        }
    }

    /// Takes the records of one buffer. After an error the session is over; what was told
    /// before it holds.
    pub fn batch(
        &mut self,
        batch: &mut Batch,
        news: &mut Vec<News<A>>,
    ) -> Result<(), ReceiveError> {
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
        news: &mut Vec<News<A>>,
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
            let is_server = self.side == Side::Server;
            match head.kind {
                Kind::Working => {}
                Kind::Close if is_server => news.push(News::Close),
                Kind::Meta if is_server => news.push(News::Meta(transfer, body.to_vec())),
                Kind::Request if is_server => news.push(News::Request(transfer, body.to_vec())),
                Kind::Ack if is_server && body == record::ACK => news.push(News::Acked(transfer)),
                Kind::Reply if !is_server => match self.asked.remove(transfer) {
                    None => news.push(News::Reply(transfer, body.to_vec())),
                    Some(wanted) => {
                        self.write(pieces, news);
                        match wanted(body) {
                            Ok(Some(incoming)) => {
                                self.open.insert(transfer, Box::new(incoming));
                            }
                            Ok(None) => return Err(WireError::Record.into()),
                            // Its blocks come all the same.
                            Err(error) => self.end(transfer, error, news),
                        }
                    }
                },
                Kind::Resume if is_server => {
                    let digest = (&*body).try_into().map_err(|_| WireError::Record)?;
                    news.push(News::Prefix(transfer, digest));
                }
                Kind::Error => {
                    let error = record::decode_error(body)?;
                    self.write(pieces, news);
                    if self.over.remove(&transfer) {
                        continue;
                    }
                    match self.take(transfer).is_some() {
                        true => {
                            self.end(transfer, ReceiveError::Sender(error), news);
                            self.over.remove(&transfer);
                        }
                        false => {
                            drop(self.asked.remove(transfer));
                            news.push(News::GivenUp(transfer, error));
                        }
                    }
                }
                Kind::Trailer => {
                    let claimed = record::decode_trailer(body)?;
                    self.write(pieces, news);
                    if !self.over.remove(&transfer) {
                        self.complete(transfer, claimed, news)?;
                    }
                }
                Kind::Other(_) if is_server => news.push(News::Unknown(transfer)),
                _ => return Err(WireError::Record.into()),
            }
        }
        Ok(())
    }

    /// A file whose blocks may come.
    fn take(&mut self, transfer: u32) -> Option<&mut Incoming<A>> {
        if !self.open.contains_key(&transfer) {
            let incoming = self.granted.lock().remove(&transfer)?;
            self.open.insert(transfer, incoming);
        }
        self.open.get_mut(&transfer).map(AsMut::as_mut)
    }

    /// Appends what waits to its file.
    fn write(&mut self, pieces: &mut Pieces<'_>, news: &mut Vec<News<A>>) {
        let bodies = std::mem::take(&mut pieces.bodies);
        if bodies.is_empty() {
            return;
        }
        let Some(incoming) = self.open.get_mut(&pieces.transfer) else {
            return;
        };
        let sink = incoming.arrival.sink();
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
        news: &mut Vec<News<A>>,
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
    fn end(&mut self, transfer: u32, error: ReceiveError, news: &mut Vec<News<A>>) {
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
