//! What a contact asks for in a session: answers to requests, listings in parts, outgoing files.

use tokio::task;
use tracing::{info, warn};

use super::{Answerer, AnswererIo, Done, Transfer};
use crate::{
    crypto::seal::Key,
    error::{Code, Error, printable},
    files::{Answer, Fetched, Put},
    observer::TransferEnd,
    session::{RECEIVE_BUFFER, SessionError},
    traffic::{self, Entry, Stage},
    transfer::{receive::offer::Offer, send::blocks::Attempt},
    wire::{
        WireError,
        record::{self, Kind, Stream},
        request::{PAGES_AHEAD, Reply, Request},
        session::Direction,
    },
};

/// Bytes of records for a client up to which more of a listing is read.
const LISTED: usize = 65_536;

/// Listings that wait to continue: each holds directories open.
const LISTINGS: usize = 16;

/// Listings that were sent, with parts that may still be acknowledged.
const UNREAD_LISTINGS: usize = 4_096;

/// An outgoing file.
pub struct Sending {
    path: String,
    bytes: u64,
    offset: u64,
    begun: std::time::Instant,
    /// Its CRC-32, once all of it is sent.
    crc: Option<u32>,
    traffic: Entry<traffic::Transfer>,
}

impl Sending {
    /// So many bytes more go out.
    pub(super) fn moved(&self, bytes: u64) {
        self.traffic.moved(bytes);
    }
}

impl Answerer<'_> {
    /// A contact asks for something.
    pub(super) fn requested(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        body: &[u8],
    ) -> Result<(), SessionError> {
        if self.transfers.len().saturating_sub(self.open) > UNREAD_LISTINGS {
            return Err(WireError::Record.into());
        }
        self.begin(transfer, Transfer::Answering { given_up: false })?;
        let request = match Request::from_body(body) {
            Ok(request) => request,
            Err(error) => {
                let sentence = printable(&error.to_string(), 300);
                return self.answered(io, transfer, Err(Error::new(Code::Failed, sentence)));
            }
        };
        let key = match &request {
            Request::Get { id, filekey, .. } => {
                Some(
                    self.keys
                        .block_key(filekey, id, Direction::ToClient, transfer),
                )
            }
            Request::Put { .. } => {
                io.buffer = io.buffer.max(RECEIVE_BUFFER);
                None
            }
            _ => None,
        };
        let (receiver, queue) = (self.receiver.clone(), self.queue.clone());
        let parties = self.parties.clone();
        io.tasks.spawn(async move {
            let files = &receiver.files;
            let answer = files
                .answer(&queue, &parties.user, &parties.from, request)
                .await;
            match (answer, key) {
                (Ok(Answer::File(found)), Some(key)) => Done::Found(transfer, found, key),
                (Ok(Answer::Put(put)), _) => {
                    let Put { meta, destination } = *put;
                    let offer = Offer {
                        asked: meta,
                        destination: Some(destination),
                    };
                    let decision = receiver.decide_one(&queue, &parties, offer).await;
                    Done::Decided(decision.into_iter().map(|one| (transfer, one)).collect())
                }
                (answer, _) => Done::Answered(transfer, answer),
            }
        });
        Ok(())
    }

    /// Sends the result of a request; that is its last word, except for a listing that continues.
    pub(super) fn answered(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        answer: Result<Answer, Error>,
    ) -> Result<(), SessionError> {
        let (given_up, unread) = match self.transfers.get(&transfer) {
            Some(Transfer::Answering { given_up }) => (*given_up, 0),
            Some(Transfer::Reading { given_up, unread }) => (*given_up, *unread),
            _ => return Ok(()),
        };
        if given_up {
            return self.let_go(io, transfer);
        }
        let reply = match answer {
            Ok(Answer::Reply(reply) | Answer::Page(reply, None)) => reply,
            Ok(Answer::Page(..)) if self.listings.len() >= LISTINGS => {
                let sentence = "too many listings at once: read those that are there first";
                return self.answered(io, transfer, Err(Error::new(Code::Later, sentence)));
            }
            Ok(Answer::Page(reply, Some(rest))) => {
                let unread = unread + 1;
                self.transfers
                    .insert(transfer, Transfer::Listing { rest, unread });
                self.listings.push_back(transfer);
                io.outbox.say(Kind::Reply, transfer, &reply.to_body())?;
                return Ok(());
            }
            Ok(Answer::File(_) | Answer::Put(_)) => return Err(SessionError::Failed),
            Err(error) => {
                self.close(transfer);
                io.outbox
                    .say(Kind::Error, transfer, &record::encode_error(&error))?;
                return Ok(());
            }
        };
        self.close(transfer);
        if unread > 0 {
            self.transfers.insert(transfer, Transfer::Listed { unread });
        }
        io.outbox.say(Kind::Reply, transfer, &reply.to_body())?;
        Ok(())
    }

    /// Continues a listing when what was sent of it is on its way: however long it is, little of it
    /// is in memory.
    pub(super) fn list_on(&mut self, io: &mut AnswererIo) {
        let transfers = &self.transfers;
        let is_ready = |transfer: &u32| match transfers.get(transfer) {
            Some(Transfer::Listing { unread, .. }) => *unread < PAGES_AHEAD,
            _ => false,
        };
        self.listings
            .retain(|transfer| matches!(transfers.get(transfer), Some(Transfer::Listing { .. })));
        if io.outbox.len() >= LISTED {
            return;
        }
        let Some(at) = self.listings.iter().position(is_ready) else {
            return;
        };
        let Some(transfer) = self.listings.remove(at) else {
            return;
        };
        let Some(Transfer::Listing { rest, unread }) = self.transfers.remove(&transfer) else {
            return;
        };
        let reading = Transfer::Reading {
            given_up: false,
            unread,
        };
        self.transfers.insert(transfer, reading);
        io.tasks.spawn(async move {
            let page = task::spawn_blocking(move || rest.page()).await;
            let lost = |_| Error::new(Code::Failed, "the server failed");
            Done::Answered(transfer, page.map_err(lost))
        });
    }

    /// Starts to send a file.
    pub(super) fn found(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        found: Fetched,
        key: &Key,
    ) -> Result<(), SessionError> {
        if let Some(Transfer::Answering { given_up: true }) = self.transfers.get(&transfer) {
            return self.let_go(io, transfer);
        }
        let Fetched {
            coming,
            contents,
            version,
            crc,
            path,
        } = found;
        let reply = Reply::Coming(coming.clone());
        io.outbox.say(Kind::Reply, transfer, &reply.to_body())?;
        let file = traffic::File {
            direction: traffic::Direction::Out,
            user: self.parties.user.name().to_string(),
            contact: self.parties.from.to_string(),
            folder: String::new(),
            name: path.clone(),
            size: Some(coming.size),
            held: coming.offset,
        };
        let sending = Sending {
            traffic: self.receiver.traffic.transfer(file, Stage::Moving),
            path,
            bytes: coming.size,
            offset: coming.offset,
            begun: std::time::Instant::now(),
            crc: None,
        };
        self.transfers.insert(transfer, Transfer::Sending(sending));
        io.uploads.push(Attempt {
            transfer,
            contents,
            size: coming.size,
            version,
            blocks: Stream::new(key)?,
            offset: coming.offset,
            crc,
            claimed_crc: None,
        });
        Ok(())
    }

    /// A file is on its way, or no more of it comes.
    pub(super) fn sent(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        end: Result<u32, Error>,
    ) -> Result<(), SessionError> {
        let error = match end {
            Ok(crc) => {
                if let Some(Transfer::Sending(sending)) = self.transfers.get_mut(&transfer) {
                    sending.crc = Some(crc);
                    sending.traffic.set_stage(Stage::Sent);
                }
                let trailer = record::encode_trailer(crc);
                io.outbox.say(Kind::Trailer, transfer, &trailer)?;
                return Ok(());
            }
            Err(error) => error,
        };
        if let Some(Transfer::Sending(sending)) = self.close(transfer) {
            warn!(from = %self.parties.from, to = %self.parties.user.name(),
                path = %printable(&sending.path, 200), "not fetched: {error}");
        }
        let error = Error::new(Code::Later, error.sentence);
        io.outbox
            .say(Kind::Error, transfer, &record::encode_error(&error))?;
        Ok(())
    }

    /// A part of a listing was read, or a file that was fetched is safe.
    pub(super) fn acknowledged(&mut self, transfer: u32) -> Result<(), SessionError> {
        match self.transfers.get_mut(&transfer) {
            Some(
                Transfer::Listing { unread, .. }
                | Transfer::Reading { unread, .. }
                // It may come after the last part went out.
                | Transfer::Listed { unread },
            ) if *unread > 0 => {
                *unread -= 1;
                if let Some(Transfer::Listed { unread: 0 }) = self.transfers.get(&transfer) {
                    self.close(transfer);
                }
                Ok(())
            }
            Some(Transfer::Sending(Sending { crc: Some(_), .. })) => {
                if let Some(Transfer::Sending(sending)) = self.close(transfer) {
                    self.fetched(sending);
                }
                Ok(())
            }
            _ => Err(WireError::Record.into()),
        }
    }

    fn fetched(&self, sending: Sending) {
        let Sending {
            path,
            bytes,
            offset,
            begun,
            crc,
            traffic: _,
        } = sending;
        info!(from = %self.parties.from, to = %self.parties.user.name(),
            path = %printable(&path, 200), bytes, resumed = offset,
            seconds = begun.elapsed().as_secs_f64(), crc,
            verdict = %TransferEnd::Fetched.word(), "fetched");
        self.receiver.observer.ended(TransferEnd::Fetched);
        let (receiver, parties) = (self.receiver.clone(), self.parties.clone());
        // Nobody is told, and it continues if the session ends.
        tokio::spawn(async move {
            let files = &receiver.files;
            files.sent(&parties.user, &parties.from, &path).await;
        });
    }
}
