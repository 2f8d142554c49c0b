//! What the client asks about files of the other side, and files that it fetches.

use std::io;

use super::{Asker, AskerIo, Get, SessionError, Transfer, fail};
use crate::{
    crypto::random,
    error::{Code, Error, printable},
    meta::{FileKey, TransferId},
    session::{LARGE_FILE, LARGE_RECEIVE_BUFFER, RECEIVE_BUFFER},
    transfer::{
        receive::{
            download::{Downloaded, not_stored},
            error::ReceiveError,
            target::Incoming,
            wanted::Wanted,
        },
        send::job::Job,
    },
    wire::{
        WireError,
        record::{self, Kind, MAX_BODY, Stream},
        request::{PAGES_AHEAD, Reply, Request},
        session::Direction,
    },
};

impl<J: Job + Send> Asker<'_, J> {
    pub(super) fn request(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        request: &Request,
        waiting: Transfer<J>,
    ) -> Result<(), SessionError> {
        let body = request.to_body();
        if body.len() > MAX_BODY {
            io.downloads.withdraw(transfer);
            fail(waiting, Error::new(Code::Failed, "the path is too long"));
            return Ok(());
        }
        self.transfers.insert(transfer, waiting);
        io.outbox.say(Kind::Request, transfer, &body)?;
        Ok(())
    }

    /// Asks for a file.
    pub(super) fn get(&mut self, io: &mut AskerIo, get: Get) -> Result<(), SessionError> {
        let Get { path, wanted, done } = get;
        let transfer = self.number();
        let fresh = random().and_then(|key| Ok((random()?, key)));
        let (id, key) = fresh.map_err(WireError::from)?;
        let (id, filekey) = (TransferId(id), FileKey(zeroize::Zeroizing::new(key)));
        let blocks = Stream::new(&self.keys.block_key(
            &filekey,
            &id,
            Direction::ToClient,
            transfer,
        ))?;
        let held = wanted.held().cloned();
        io.buffer = io.buffer.max(match wanted.size() {
            LARGE_FILE.. => LARGE_RECEIVE_BUFFER,
            _ => RECEIVE_BUFFER,
        });
        let begin = move |body: &[u8]| announced(wanted, blocks, body);
        io.downloads.announce(transfer, Box::new(begin));
        let request = Request::Get {
            path,
            id,
            filekey,
            held,
        };
        self.request(io, transfer, &request, Transfer::Download(done))
    }

    /// Lets the other side continue a listing.
    pub(super) fn taken(&mut self, io: &mut AskerIo, transfer: u32) -> Result<(), SessionError> {
        if let Some(Transfer::Request(_, waiting)) = self.transfers.get_mut(&transfer) {
            *waiting = waiting.saturating_sub(1);
            io.outbox.say(Kind::Ack, transfer, record::ACK)?;
        }
        Ok(())
    }

    /// Takes a reply: to a request, or the last word of a file that was put somewhere.
    pub(super) fn replied(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        body: &[u8],
    ) -> Result<(), SessionError> {
        let reply = Reply::from_body(body)?;
        let more = matches!(reply, Reply::Entries { more: true, .. });
        let unexpected = || SessionError::from(WireError::Record);
        let transferred = self.transfers.remove(&transfer).ok_or_else(unexpected)?;
        let open = match transferred {
            Transfer::Upload(upload) => {
                self.transfers.insert(transfer, Transfer::Upload(upload));
                return self.stored(transfer, reply);
            }
            // More than it may send before it hears from us.
            Transfer::Request(_, waiting) if waiting > PAGES_AHEAD => return Err(unexpected()),
            Transfer::Request(replies, waiting) => match replies.send(Ok((transfer, reply))) {
                Ok(()) => Transfer::Request(replies, waiting + 1),
                Err(_) => {
                    if more {
                        let error = Error::new(Code::Failed, "the listing was abandoned");
                        io.outbox
                            .say(Kind::Error, transfer, &record::encode_error(&error))?;
                    }
                    Transfer::Abandoned
                }
            },
            Transfer::Abandoned => Transfer::Abandoned,
            Transfer::Download(_) | Transfer::Ending => return Err(unexpected()),
        };
        if more {
            self.transfers.insert(transfer, open);
        }
        Ok(())
    }

    pub(super) fn downloaded(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        downloaded: io::Result<Downloaded>,
    ) -> Result<(), SessionError> {
        let Some(Transfer::Download(done)) = self.transfers.remove(&transfer) else {
            return Ok(());
        };
        let downloaded = downloaded.map_err(|e| not_stored(&e));
        match &downloaded {
            Ok(_) => io.outbox.say(Kind::Ack, transfer, record::ACK)?,
            Err(error) => {
                io.outbox
                    .say(Kind::Error, transfer, &record::encode_error(error))?;
            }
        }
        let _ = done.send(downloaded);
        Ok(())
    }
}

/// Prepares a file whose blocks come now.
fn announced(
    mut wanted: Wanted,
    blocks: Stream,
    body: &[u8],
) -> Result<Option<Incoming<Wanted>>, ReceiveError> {
    let Reply::Coming(coming) = Reply::from_body(body)? else {
        return Ok(None);
    };
    let offset = coming.offset;
    let crc = wanted.expect(coming).map_err(ReceiveError::Store)?;
    Ok(Some(Incoming::new(blocks, wanted, offset, crc.into())))
}

/// Why a file did not come, for a person.
pub(super) fn not_received(error: ReceiveError) -> Error {
    match error {
        ReceiveError::Session { why, told } => told.unwrap_or_else(|| Error::new(Code::Later, why)),
        ReceiveError::Sender(error) => Error::new(error.code, printable(&error.sentence, 500)),
        ReceiveError::Store(error) => not_stored(&error),
        ReceiveError::Size | ReceiveError::TooLarge(_) | ReceiveError::Checksum { .. } => {
            Error::new(Code::Integrity, error.to_string())
        }
        ReceiveError::Taken => Error::new(Code::Exists, error.to_string()),
        ReceiveError::Refused(_) => Error::new(Code::Refused, error.to_string()),
        ReceiveError::GoingDown | ReceiveError::Failed => {
            Error::new(Code::Failed, error.to_string())
        }
    }
}
