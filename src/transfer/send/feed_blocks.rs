//! The blocks of what is sent as it comes: each has what there was to send at its time.

use std::sync::Arc;

use tokio::sync::Notify;

use super::feed::Feed;
use crate::{
    crypto::seal::TAG_LEN,
    error::Error,
    wire::record::{HEAD_LEN, Head, Kind, MAX_BODY, MAX_RECORD, Stream},
};

/// The blocks of one feed, which are made a buffer at a time.
pub struct FeedBlocks {
    transfer: u32,
    feed: Feed,
    blocks: Stream,
    crc: crc32fast::Hasher,
    whole: bool,
}

impl FeedBlocks {
    /// The blocks of a feed that was not taken from yet, sealed by `blocks`.
    pub fn new(transfer: u32, feed: Feed, blocks: Stream) -> Self {
        Self {
            transfer,
            feed,
            blocks,
            crc: crc32fast::Hasher::new(),
            whole: false,
        }
    }

    /// The number of the transfer in its session.
    pub fn transfer(&self) -> u32 {
        self.transfer
    }

    /// Whether there is something to send.
    pub fn is_ready(&self) -> bool {
        self.feed.is_ready()
    }

    /// Tells this from now on when there may be.
    pub fn begin(&self, wake: &Arc<Notify>) {
        self.feed.begin(wake);
    }

    /// Whether all blocks were made.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The CRC-32 of all, once all blocks were made.
    pub fn crc(&self) -> u32 {
        self.crc.clone().finalize()
    }

    /// Puts blocks after the first `used` bytes of a buffer, as many as there is something for and
    /// fit into `most` bytes. Returns how much of the buffer is then used, and how many bytes of
    /// the feed that was.
    pub fn fill(
        &mut self,
        buffer: &mut Vec<u8>,
        mut used: usize,
        most: usize,
    ) -> Result<(usize, u64), Error> {
        let mut body = 0;
        while !self.whole && used + MAX_RECORD <= most && self.feed.is_ready() {
            if buffer.len() < used + MAX_RECORD {
                buffer.resize(used + MAX_RECORD, 0);
            }
            let begin = used + HEAD_LEN;
            let into = buffer.get_mut(begin..begin + MAX_BODY).unwrap_or_default();
            let piece = self.feed.take(into)?;
            if piece.len == 0 && !piece.is_last {
                break;
            }
            self.crc.update(into.get(..piece.len).unwrap_or_default());
            let head = Head {
                kind: Kind::Block,
                last: piece.is_last,
                transfer: self.transfer,
                len: piece.len,
            };
            let end = used + HEAD_LEN + piece.len + TAG_LEN;
            let record = buffer.get_mut(used..end).unwrap_or_default();
            self.blocks.seal(head, record).map_err(Error::from)?;
            used = end;
            body += piece.len as u64;
            self.whole = piece.is_last;
        }
        Ok((used, body))
    }
}

impl Drop for FeedBlocks {
    /// Whoever reads does not wait for a receiver who is gone.
    fn drop(&mut self) {
        self.feed.close();
    }
}
