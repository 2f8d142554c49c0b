//! The blocks of an outgoing file: read, checksummed and sealed, a buffer at a time.

use std::{io, sync::Arc};

use crate::{
    crypto::seal::TAG_LEN,
    error::{Code, Error},
    store::Contents,
    wire::record::{HEAD_LEN, Head, Kind, MAX_BODY, Stream},
};

/// What is to be sent in one attempt.
pub struct Attempt {
    /// The number of the transfer in its session.
    pub transfer: u32,
    /// The file.
    pub contents: Arc<dyn Contents>,
    /// Its size in bytes.
    pub size: u64,
    /// The version that the meta describes.
    pub version: String,
    /// Seals the blocks.
    pub blocks: Stream,
    /// Bytes that the receiver has, after which the blocks begin.
    pub offset: u64,
    /// The CRC-32 of those.
    pub crc: crc32fast::Hasher,
    /// What the meta says of the file's CRC-32, if anything.
    pub claimed_crc: Option<u32>,
}

/// The blocks of one file, which are made a buffer at a time.
pub struct Blocks {
    attempt: Attempt,
    left: u64,
    whole: bool,
}

impl Blocks {
    /// The blocks from the beginning of an attempt.
    pub fn new(attempt: Attempt) -> Self {
        Self {
            left: attempt.size.saturating_sub(attempt.offset),
            attempt,
            whole: false,
        }
    }

    /// The number of the transfer in its session.
    pub fn transfer(&self) -> u32 {
        self.attempt.transfer
    }

    /// Whether all blocks were made.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The CRC-32 of the file, once all blocks were made.
    pub fn crc(self) -> u32 {
        self.attempt.crc.finalize()
    }

    /// Bytes that are still to be made.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Puts blocks after the first `used` bytes of a buffer, as many as there are or fit into
    /// `most` bytes. Returns how much of the buffer is then used, and how many bytes of the file
    /// that was.
    pub fn fill(
        &mut self,
        buffer: &mut Vec<u8>,
        mut used: usize,
        most: usize,
    ) -> Result<(usize, u64), Error> {
        let Self {
            attempt,
            left,
            whole,
        } = self;
        let blocks = usize::try_from(*left / MAX_BODY as u64 + 1).unwrap_or(usize::MAX);
        let wanted = blocks
            .saturating_mul(HEAD_LEN + MAX_BODY + TAG_LEN)
            .saturating_add(used)
            .min(most);
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        let mut body = 0;
        while !*whole {
            let len = usize::try_from(*left).unwrap_or(MAX_BODY).min(MAX_BODY);
            let head = Head {
                kind: Kind::Block,
                last: len as u64 == *left,
                transfer: attempt.transfer,
                len,
            };
            let Some(space) = buffer.get_mut(used..used + head.record_len()) else {
                break;
            };
            let into = space.get_mut(HEAD_LEN..HEAD_LEN + len).unwrap_or_default();
            let at = attempt.size.saturating_sub(*left);
            let read = read_exact_at(&*attempt.contents, into, at);
            read.map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => changed(),
                _ => unreadable(&e),
            })?;
            attempt.crc.update(into);
            attempt.blocks.seal(head, space).map_err(Error::from)?;
            used += head.record_len();
            body += len as u64;
            *left -= len as u64;
            *whole = head.last;
        }
        if *whole {
            // Checked before the last block goes out, while everything can still be undone.
            unchanged(attempt)?;
        }
        Ok((used, body))
    }
}

fn read_exact_at(contents: &dyn Contents, mut into: &mut [u8], mut at: u64) -> io::Result<()> {
    while !into.is_empty() {
        match contents.read_at(into, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                into = into.get_mut(read..).unwrap_or_default();
                at = at.saturating_add(read as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn unchanged(attempt: &Attempt) -> Result<(), Error> {
    let now = attempt.contents.version().map_err(|e| unreadable(&e))?;
    if now != attempt.version {
        return Err(changed());
    }
    let crc = attempt.crc.clone().finalize();
    match attempt.claimed_crc {
        Some(claimed) if claimed != crc => {
            let sentence = format!("fileCRC is {claimed}, but the file has {crc}");
            Err(Error::new(Code::Integrity, sentence))
        }
        _ => Ok(()),
    }
}

/// The file of a sender cannot be read.
pub fn unreadable(error: &io::Error) -> Error {
    Error::new(Code::Failed, format!("cannot read the file: {error}"))
}

/// The file of a sender is no longer the one that was opened.
pub fn changed() -> Error {
    Error::new(
        Code::Failed,
        "the file changed while it was on its way: try again when it is complete",
    )
}
