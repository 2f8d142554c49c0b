//! What a contact asks for in a session: requests that are answered, listings that go on,
//! files that go out.

use tokio::task;
use tracing::{info, warn};

use super::{Done, ReceiveError, Session};
use crate::{
    crypto::seal::Key,
    error::{Code, Error, printable},
    files::service::{Answer, Fetched, Put},
    transfer::{Ended, RECEIVE_BUFFER, sealing::Attempt, supply::Made},
    wire::{
        WireError,
        record::{self, Kind, Stream},
        request::{PAGES_AHEAD, Reply, Request},
        session::Direction,
    },
};

/// Bytes of records for a client up to which more of a listing is made.
const LISTED: usize = 65_536;

/// Listings that wait to go on: each holds directories open.
const LISTINGS: usize = 16;

/// Listings of which parts may wait to be acknowledged.
const UNREAD_LISTINGS: usize = 4_096;

/// A file that somebody fetches.
pub(super) struct Fetch {
    path: String,
    bytes: u64,
    offset: u64,
    begun: std::time::Instant,
    /// Its CRC-32, once all of it is sent.
    crc: Option<u32>,
}

impl Session<'_> {
    /// A contact asks for something.
    pub(super) fn request(&mut self, transfer: u32, body: &[u8]) -> Result<(), ReceiveError> {
        if self.unread.len() > UNREAD_LISTINGS {
            return Err(WireError::Record.into());
        }
        self.begin(transfer)?;
        let request = match Request::from_body(body) {
            Ok(request) => request,
            Err(error) => {
                let sentence = printable(&error.to_string(), 300);
                return self.answered(transfer, Err(Error::new(Code::Failed, sentence)));
            }
        };
        let (receiver, lane) = (self.receiver.clone(), self.lane.clone());
        let (user, from) = (self.user.clone(), self.from.clone());
        let key = match &request {
            Request::Get { id, filekey, .. } => {
                Some(
                    self.keys
                        .block_key(filekey, id, Direction::ToClient, transfer),
                )
            }
            Request::Put { .. } => {
                lane.is_a_crowd();
                self.buffer = self.buffer.max(RECEIVE_BUFFER);
                None
            }
            _ => None,
        };
        self.answering.insert(transfer, false);
        self.tasks.spawn(async move {
            let answer = receiver.answer(&lane, &user, &from, request).await;
            match (answer, key) {
                (Ok(Answer::File(found)), Some(key)) => Done::Found(transfer, found, key),
                (Ok(Answer::Put(put)), _) => {
                    let Put { meta, destination } = *put;
                    let destination = Some(destination);
                    let decision = receiver.decide(&lane, &user, &from, meta, destination);
                    Done::Decided(transfer, decision.await)
                }
                (answer, _) => Done::Answered(transfer, answer),
            }
        });
        Ok(())
    }

    /// Says what a request brought; its last word, but for a listing that goes on.
    pub(super) fn answered(
        &mut self,
        transfer: u32,
        answer: Result<Answer, Error>,
    ) -> Result<(), ReceiveError> {
        if self.answering.remove(&transfer) == Some(true) {
            return self.let_go(transfer);
        }
        let reply = match answer {
            Ok(Answer::Reply(reply) | Answer::Page(reply, None)) => reply,
            Ok(Answer::Page(..)) if self.listings.len() >= LISTINGS => {
                let sentence = "too many listings at once: read those that are there first";
                return self.answered(transfer, Err(Error::new(Code::Later, sentence)));
            }
            Ok(Answer::Page(reply, Some(listing))) => {
                *self.unread.entry(transfer).or_default() += 1;
                self.listings.push_back((transfer, listing));
                return self.say(Kind::Reply, transfer, &reply.to_body());
            }
            Ok(Answer::File(_) | Answer::Put(_)) => return Err(ReceiveError::Failed),
            Err(error) => {
                self.active.remove(&transfer);
                return self.say(Kind::Error, transfer, &record::encode_error(&error));
            }
        };
        self.active.remove(&transfer);
        self.say(Kind::Reply, transfer, &reply.to_body())
    }

    /// Goes on with a listing when what was said of it is on its way: however long it is,
    /// little of it is in memory.
    pub(super) fn list_on(&mut self) {
        let unread = &self.unread;
        let ready = |(transfer, _): &(u32, _)| {
            unread
                .get(transfer)
                .is_none_or(|parts| *parts < PAGES_AHEAD)
        };
        if self.out.len() < LISTED
            && let Some(at) = self.listings.iter().position(ready)
            && let Some((transfer, listing)) = self.listings.remove(at)
        {
            self.answering.insert(transfer, false);
            self.tasks.spawn(async move {
                let page = task::spawn_blocking(move || listing.page()).await;
                let lost = |_| Error::new(Code::Failed, "the server failed");
                Done::Answered(transfer, page.map_err(lost))
            });
        }
    }

    /// Lets a file go out.
    pub(super) fn found(
        &mut self,
        transfer: u32,
        found: Fetched,
        key: &Key,
    ) -> Result<(), ReceiveError> {
        if self.answering.remove(&transfer) == Some(true) {
            return self.let_go(transfer);
        }
        let Fetched {
            coming,
            file,
            version,
            crc,
            path,
        } = found;
        self.say(
            Kind::Reply,
            transfer,
            &Reply::Coming(coming.clone()).to_body(),
        )?;
        self.fetched.insert(
            transfer,
            Fetch {
                path,
                bytes: coming.size,
                offset: coming.offset,
                begun: std::time::Instant::now(),
                crc: None,
            },
        );
        self.supply.give(Attempt {
            transfer,
            file,
            version,
            blocks: Stream::new(key)?,
            offset: coming.offset,
            crc,
            claimed_crc: None,
        });
        Ok(())
    }

    /// What was made of files that go out.
    pub(super) fn made(&mut self, made: Option<Made>) -> Result<(), ReceiveError> {
        let mut made = made.ok_or(ReceiveError::Failed)?;
        self.receiver.observer.supplied(made.body);
        for (transfer, end) in std::mem::take(&mut made.ended) {
            match end {
                Ok(crc) => {
                    if let Some(fetch) = self.fetched.get_mut(&transfer) {
                        fetch.crc = Some(crc);
                    }
                    self.say(Kind::Trailer, transfer, &record::encode_trailer(crc))?;
                }
                Err(error) => {
                    self.active.remove(&transfer);
                    if let Some(fetch) = self.fetched.remove(&transfer) {
                        warn!(from = %self.from, to = %self.user.name(),
                            path = %printable(&fetch.path, 200), "not fetched: {error}");
                    }
                    let error = Error::new(Code::Later, error.sentence);
                    self.say(Kind::Error, transfer, &record::encode_error(&error))?;
                }
            }
        }
        if made.used > 0 {
            // Before what was said just now.
            self.bulk = Some((made, 0));
        } else {
            self.supply.recycle(made.buffer);
        }
        Ok(())
    }

    /// A file that was fetched is safe.
    pub(super) fn acked(&mut self, transfer: u32) -> Result<(), ReceiveError> {
        // It may come after the last part of its listing went out.
        if let Some(parts) = self.unread.get_mut(&transfer) {
            *parts -= 1;
            if *parts == 0 {
                self.unread.remove(&transfer);
            }
            return Ok(());
        }
        match self.fetched.remove(&transfer) {
            Some(Fetch {
                path,
                bytes,
                offset,
                begun,
                crc: Some(crc),
            }) => {
                self.active.remove(&transfer);
                info!(from = %self.from, to = %self.user.name(), path = %printable(&path, 200),
                    bytes, resumed = offset, seconds = begun.elapsed().as_secs_f64(), crc,
                    verdict = %Ended::Fetched.word(), "fetched");
                self.receiver.observer.ended(Ended::Fetched);
                let (receiver, user) = (self.receiver.clone(), self.user.clone());
                let from = self.from.clone();
                // It is told to nobody, and goes on where the session ends.
                tokio::spawn(async move { receiver.sent(&user, &from, &path).await });
                Ok(())
            }
            _ => Err(WireError::Record.into()),
        }
    }

    /// The client wants no more of a transfer.
    pub(super) fn given_up(&mut self, transfer: u32) -> Result<(), ReceiveError> {
        if let Some(given_up) = self.answering.get_mut(&transfer) {
            *given_up = true;
            return Ok(());
        }
        let before = self.listings.len();
        self.listings.retain(|(listed, _)| *listed != transfer);
        let was_fetched = self.fetched.remove(&transfer).is_some();
        if was_fetched && self.supply.give_up(transfer) {
            // Its last word comes behind its blocks.
            return Ok(());
        }
        match was_fetched || self.listings.len() < before {
            true => self.let_go(transfer),
            false => {
                // All of a listing was said, and nobody acknowledges it any more.
                self.unread.remove(&transfer);
                Ok(())
            }
        }
    }

    /// The last word of what the client gave up: it passes over all up to this.
    pub(super) fn let_go(&mut self, transfer: u32) -> Result<(), ReceiveError> {
        self.active.remove(&transfer);
        self.unread.remove(&transfer);
        let error = Error::new(Code::Later, "given up");
        self.say(Kind::Error, transfer, &record::encode_error(&error))
    }
}
