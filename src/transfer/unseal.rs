//! The receiver's second stage: opens blocks and appends them to the hidden file.

use std::sync::Arc;

use super::{BUFFER, Observer, channel::Batch, decide::Arrival, receive::ReceiveError};
use crate::wire::{
    WireError,
    record::{self, HEAD_LEN, Kind, MAX_BODY, Stream},
};

/// A file that is complete in its hidden place.
pub struct Received {
    /// What arrived.
    pub arrival: Arrival,
    /// Its CRC-32.
    pub crc: u32,
}

/// The stage at work.
pub struct Unsealing {
    incoming: Stream,
    blocks: Stream,
    transfer: u32,
    expected: u64,
    received: u64,
    /// Whether the last block was there.
    complete: bool,
    crc: crc32fast::Hasher,
    arrival: Arrival,
    observer: Arc<dyn Observer>,
}

impl Unsealing {
    /// A stage at the beginning of a file.
    pub fn new(
        incoming: Stream,
        blocks: Stream,
        transfer: u32,
        arrival: Arrival,
        observer: &Arc<dyn Observer>,
    ) -> Self {
        Self {
            incoming,
            blocks,
            transfer,
            expected: arrival.expected,
            received: 0,
            complete: false,
            crc: crc32fast::Hasher::new(),
            arrival,
            observer: observer.clone(),
        }
    }

    /// What was received, and the stream of records, when the trailer was there.
    pub fn finish(self, crc: u32) -> (Received, Stream) {
        let received = Received {
            arrival: self.arrival,
            crc,
        };
        (received, self.incoming)
    }

    /// Takes the records of one buffer; with the trailer, the checked CRC-32 and how
    /// many bytes of records stand behind it.
    pub fn batch(&mut self, batch: &mut Batch) -> Result<Option<(u32, usize)>, ReceiveError> {
        let mut records = batch.records();
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(BUFFER / MAX_BODY + 1);
        let mut end = None;
        while let Some((head, _)) = record::split(records)? {
            let (record, behind) = std::mem::take(&mut records)
                .split_at_mut_checked(head.record_len())
                .ok_or(WireError::Record)?;
            records = behind;
            let sealed = record.get_mut(HEAD_LEN..).unwrap_or_default();
            if head.transfer != self.transfer {
                return Err(WireError::Record.into());
            }
            if head.kind == Kind::Block {
                let after = self.received + head.len as u64;
                let whole = head.last || head.len == MAX_BODY;
                if self.complete
                    || !whole
                    || head.last != (after == self.expected)
                    || after > self.expected
                {
                    return Err(ReceiveError::Size);
                }
                let body = self.blocks.open(head, sealed)?;
                self.crc.update(body);
                self.received = after;
                self.complete = head.last;
                pieces.push(body);
                continue;
            }
            let body = self.incoming.open(head, sealed)?;
            match head.kind {
                Kind::Working => {}
                Kind::Error => {
                    return Err(ReceiveError::Sender(record::decode_error(body)?));
                }
                Kind::Trailer if self.complete => {
                    end = Some(record::decode_trailer(body)?);
                    break;
                }
                _ => return Err(WireError::Record.into()),
            }
        }
        let bytes = pieces.iter().map(|p| p.len() as u64).sum();
        self.arrival
            .sink
            .append(&pieces)
            .map_err(ReceiveError::Store)?;
        self.observer.moved(bytes);
        let Some(claimed) = end else {
            return Ok(None);
        };
        let computed = self.crc.clone().finalize();
        let said = self.arrival.partial.subject().meta.file_crc;
        for claimed in [Some(claimed), said].into_iter().flatten() {
            if claimed != computed {
                return Err(ReceiveError::Checksum { claimed, computed });
            }
        }
        Ok(Some((computed, records.len())))
    }
}
