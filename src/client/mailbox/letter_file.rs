//! The file of a letter, as its records come from a relay.

use tokio::task;

use crate::{
    crypto::Key,
    error::{Code, Error},
    transfer::receive::{
        arrival::Arrival,
        error::ReceiveError,
        target::{BlockError, Checksums, Incoming, Received, Target},
    },
    wire::{
        WireError,
        record::{self, Kind, MAX_BODY, MAX_RECORD, Stream},
    },
};

/// The file of a letter, as its records come.
pub(super) struct LetterFile {
    incoming: Incoming<Arrival>,
    trailer: Stream,
    /// What is there of a record that is not whole.
    rest: Vec<u8>,
    claimed: Option<u32>,
    /// Where in the records those begin that are still needed.
    pub(super) offset: u64,
}

impl LetterFile {
    pub(super) fn begin(
        mut arrival: Arrival,
        blocks: &Key,
        records: &Key,
    ) -> Result<Self, ReceiveError> {
        let hashes = arrival.pinned.wants_sha256();
        let held = arrival.held;
        let whole = held.is_multiple_of(MAX_BODY as u64)
            && arrival.expected.is_some_and(|size| held < size);
        let prefix = match held > 0 && whole {
            true => arrival.partial.digest(held).ok(),
            false => None,
        };
        let (received, sums) = match prefix {
            Some((_, mut sums)) => {
                sums.sha256 = sums.sha256.filter(|_| hashes);
                (held, sums)
            }
            None => {
                if held > 0 {
                    arrival.begin_again().map_err(ReceiveError::Store)?;
                }
                (0, Checksums::new(hashes))
            }
        };
        let number = received / MAX_BODY as u64;
        let streams = (Stream::behind(blocks, number), Stream::new(records));
        let (Ok(blocks), Ok(trailer)) = streams else {
            arrival.end(&ReceiveError::Failed, None);
            return Err(ReceiveError::Failed);
        };
        Ok(Self {
            incoming: Incoming::new(blocks, arrival, received, sums),
            trailer,
            rest: Vec::new(),
            claimed: None,
            offset: number.saturating_mul(MAX_RECORD as u64),
        })
    }

    /// Opens the records in further bytes. It may wait for a disk.
    pub(super) fn take(mut self, bytes: &[u8]) -> Result<Self, ReceiveError> {
        self.rest.extend(bytes);
        let mut all = std::mem::take(&mut self.rest);
        let (mut opened, mut at) = (None, 0);
        let result = self.records(&mut all, &mut at, &mut opened);
        // What came before a fault is good. An empty file has a block too.
        let appended = match opened {
            None => Ok(()),
            Some(opened) => self.incoming.append(&[&opened]),
        };
        match result.and(appended.map_err(ReceiveError::Store)) {
            Ok(()) => {
                self.rest = all.split_off(at.min(all.len()));
                Ok(self)
            }
            Err(error) => {
                self.incoming.end(&error);
                Err(error)
            }
        }
    }

    fn records(
        &mut self,
        all: &mut [u8],
        at: &mut usize,
        opened: &mut Option<Vec<u8>>,
    ) -> Result<(), ReceiveError> {
        let wire = |error: WireError| ReceiveError::Session {
            why: error.to_string(),
            told: Some(Error::new(Code::Integrity, "the letter was altered")),
        };
        while let Some(rest) = all.get_mut(*at..)
            && let Some((head, sealed)) = record::split(rest).map_err(wire)?
        {
            *at += head.record_len();
            match head.kind {
                Kind::Block if self.claimed.is_none() => match self.incoming.open(head, sealed) {
                    Ok(body) => opened.get_or_insert_default().extend_from_slice(body),
                    Err(BlockError::Wire(error)) => return Err(wire(error)),
                    Err(_) => return Err(ReceiveError::Size),
                },
                Kind::Trailer if self.claimed.is_none() => {
                    let body = self.trailer.open(head, sealed).map_err(wire)?;
                    self.claimed = Some(record::decode_trailer(body).map_err(wire)?);
                }
                _ => return Err(wire(WireError::Record)),
            }
        }
        Ok(())
    }

    /// The whole file.
    pub(super) fn finish(self) -> Result<Received<Arrival>, ReceiveError> {
        let cut = || ReceiveError::Session {
            why: "the letter was cut off".to_owned(),
            told: Some(Error::new(Code::Integrity, "the letter was cut off")),
        };
        let Some(claimed) = self.claimed.filter(|_| self.rest.is_empty()) else {
            self.incoming.end(&cut());
            return Err(cut());
        };
        match self.incoming.finish(claimed) {
            Some(Ok(received)) => Ok(received),
            Some(Err((target, came, error))) => {
                target.end(&error, Some(came));
                Err(error)
            }
            None => Err(cut()),
        }
    }

    /// Leaves what has come for the next attempt.
    pub(super) async fn leave(self, error: Error) -> Error {
        let why = ReceiveError::Session {
            why: error.to_string(),
            told: None,
        };
        let leaving = task::spawn_blocking(move || self.incoming.end(&why));
        let _ = leaving.await;
        Error::new(Code::Later, error.sentence)
    }
}
