//! Incoming files: answers to metas, the digest of what is there, blocks, and the last word when a
//! file is safe.

use std::io;

use tokio::task;

use super::{Answerer, AnswererIo, Done, Transfer, streams::watch_and_keep};
use crate::{
    error::{Code, Error, printable},
    meta::Wire,
    session::{LARGE_FILE, LARGE_RECEIVE_BUFFER, RECEIVE_BUFFER, SessionError},
    store::prefix::DIGEST_LEN,
    transfer::receive::{
        arrival::Arrival,
        decision::{Decision, refused},
        error::ReceiveError,
        offer::Offer,
        receiver::Stored,
        target::{Checksums, Incoming, Target},
    },
    wire::{
        record::{self, Kind, MAX_BODY, MAX_RECORD, Stream},
        session::Direction,
    },
};

/// The part of a file that is there.
pub struct Prefix {
    pub(super) arrival: Arrival,
    /// What it is, if it could be read.
    pub(super) read: Option<([u8; DIGEST_LEN], Checksums)>,
}

impl Answerer<'_> {
    /// A further meta.
    pub(super) fn offered(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        json: &[u8],
    ) -> Result<(), SessionError> {
        self.begin(transfer, Transfer::Deciding { given_up: false })?;
        io.buffer = io.buffer.max(RECEIVE_BUFFER);
        match Wire::from_json(json) {
            Ok(asked) => self.offers.push((
                transfer,
                Offer {
                    asked,
                    destination: None,
                },
            )),
            Err(error) => {
                let why = printable(&error.to_string(), 300);
                let error = Error::new(Code::Failed, format!("the metadata cannot be read: {why}"));
                let meta = self.parties.empty_meta();
                let answered = Decision::Answered(Box::new(refused(meta, &error)));
                self.decided(io, transfer, answered)?;
            }
        }
        Ok(())
    }

    /// Says what was decided about a meta.
    pub(super) fn decided(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        decision: Decision,
    ) -> Result<(), SessionError> {
        let given_up = matches!(
            self.transfers.get(&transfer),
            Some(Transfer::Deciding { given_up: true } | Transfer::Answering { given_up: true })
        );
        if given_up {
            if let Decision::Taken(arrival) = decision {
                leave(*arrival);
            }
            return self.let_go(io, transfer);
        }
        let mut json = decision.reply().to_json();
        if json.len() > MAX_BODY {
            // What hooks added does not fit; the sender can do without it.
            let mut reply = decision.reply().clone();
            reply.meta.extra.clear();
            json = reply.to_json();
        }
        match decision {
            Decision::Taken(arrival) => self.grant(io, transfer, *arrival)?,
            Decision::Answered(_) => drop(self.close(transfer)),
        }
        io.outbox.say(Kind::Answer, transfer, json.as_bytes())?;
        Ok(())
    }

    /// Lets the client send the blocks of a file, or first the digest of what is there.
    pub(super) fn grant(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        mut arrival: Arrival,
    ) -> Result<(), SessionError> {
        watch_and_keep(io, transfer, &mut arrival);
        io.buffer = io.buffer.max(match arrival.expected {
            Some(LARGE_FILE..) => LARGE_RECEIVE_BUFFER,
            Some(n) if n <= MAX_BODY as u64 => MAX_RECORD,
            _ => RECEIVE_BUFFER,
        });
        if arrival.held == 0 {
            let sums = Checksums::new(arrival.pinned.wants_sha256());
            let incoming = self.incoming(transfer, arrival, 0, sums)?;
            io.downloads.allow(transfer, Box::new(incoming));
            self.transfers.insert(transfer, Transfer::Receiving);
            return Ok(());
        }
        let agreeing = Transfer::Agreeing {
            theirs: None,
            ours: None,
        };
        self.transfers.insert(transfer, agreeing);
        io.tasks.spawn(async move {
            let digesting = task::spawn_blocking(move || {
                let read = arrival.partial.digest(arrival.held).ok();
                Box::new(Prefix { arrival, read })
            });
            Done::Digested(transfer, digesting.await)
        });
        Ok(())
    }

    pub(super) fn incoming(
        &self,
        transfer: u32,
        arrival: Arrival,
        received: u64,
        sums: Checksums,
    ) -> Result<Incoming<Arrival>, SessionError> {
        let meta = &arrival.partial.subject().meta;
        let (Some(filekey), Some(id)) = (&arrival.reply.filekey, &meta.id) else {
            return Err(SessionError::Failed);
        };
        let blocks = Stream::new(
            &self
                .keys
                .block_key(filekey, id, Direction::ToServer, transfer),
        )?;
        Ok(Incoming::new(blocks, arrival, received, sums))
    }

    /// Lets the client send the blocks once both sides have said what they have.
    pub(super) fn resume(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
    ) -> Result<(), SessionError> {
        let Some(Transfer::Agreeing { theirs, ours }) = self.transfers.get_mut(&transfer) else {
            return Ok(());
        };
        let Some(theirs) = *theirs else {
            return Ok(());
        };
        let Some(prefix) = ours.take() else {
            return Ok(());
        };
        self.transfers.insert(transfer, Transfer::Receiving);
        let Prefix { arrival, read } = *prefix;
        let hashes = arrival.pinned.wants_sha256();
        if let Some((_, mut sums)) = read.filter(|(ours, _)| *ours == theirs) {
            let held = arrival.held;
            sums.sha256 = sums.sha256.filter(|_| hashes);
            let incoming = self.incoming(transfer, arrival, held, sums)?;
            io.downloads.allow(transfer, Box::new(incoming));
            io.outbox
                .say(Kind::Resume, transfer, &record::encode_offset(held))?;
            return Ok(());
        }
        // A different file, or bytes that were never flushed or cannot be read: from the
        // beginning.
        let mut incoming = self.incoming(transfer, arrival, 0, Checksums::new(hashes))?;
        io.tasks.spawn(async move {
            let beginning = task::spawn_blocking(move || {
                incoming.target_mut().begin_again()?;
                Ok(Box::new(incoming))
            });
            let ready = beginning.await.unwrap_or_else(|e| Err(io::Error::other(e)));
            Done::Ready(transfer, ready)
        });
        Ok(())
    }

    /// Says what became of a file.
    pub(super) fn stored(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        stored: &Stored,
    ) -> Result<(), SessionError> {
        self.receiver.log(stored);
        match &stored.result {
            Ok(safe) => {
                self.receiver
                    .observer
                    .step(15, format_args!("the file is safe, answer ACK"));
                self.close(transfer);
                match &safe.reply {
                    None => io.outbox.say(Kind::Ack, transfer, record::ACK)?,
                    Some(reply) => io.outbox.say(Kind::Reply, transfer, &reply.to_body())?,
                }
                Ok(())
            }
            Err(error) => self.fail(io, transfer, error),
        }
    }
}

/// Leaves a file untouched: the next attempt resumes with it.
pub(super) fn leave(arrival: Arrival) {
    task::spawn_blocking(move || arrival.end(&ReceiveError::GoingDown, None));
}
