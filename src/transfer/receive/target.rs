//! An arriving file, block by block: the receiving half of a transfer, whichever side asked for it.

use std::io;

use sha2::{Digest, Sha256};

use super::error::ReceiveError;
use crate::{
    store::Sink,
    wire::{
        WireError,
        record::{Head, MAX_BODY, Stream},
    },
};

/// Where a file goes, and what is known of it before its bytes come.
pub trait Target: Send + 'static {
    /// Bytes of the whole file; `None` if its sender does not know yet.
    fn expected(&self) -> Option<u64>;

    /// The most bytes of a file whose sender does not know its size.
    fn most(&self) -> u64 {
        u64::MAX
    }

    /// Its CRC-32, if that is known.
    fn claimed_crc(&self) -> Option<u32>;

    /// Where its bytes go, opened when it is first asked for.
    fn sink(&mut self) -> io::Result<&mut Box<dyn Sink>>;

    /// So many bytes of it are there.
    fn reached(&self, _bytes: u64) {}

    /// Ends an attempt that did not complete the file, of which this came. It may wait for a disk.
    fn end(self, why: &ReceiveError, came: Option<Came>);
}

/// What came of a file, and was appended.
#[derive(Clone, Copy)]
pub struct Came {
    /// Bytes.
    pub len: u64,
    /// Their CRC-32.
    pub crc: u32,
    /// Their SHA-256, if a script asks for it.
    pub sha256: Option<[u8; 32]>,
}

/// Why a block was rejected.
#[derive(Debug)]
pub enum BlockError {
    /// It belongs to a file of a different size than the meta says.
    Size,
    /// It belongs to a file of unknown size that has become larger than this.
    TooLarge(u64),
    /// It cannot be opened, and with it no other record of the session.
    Wire(WireError),
}

/// Checksums of an arriving file, so far.
#[derive(Clone)]
pub struct Checksums {
    /// CRC-32.
    pub crc: crc32fast::Hasher,
    /// SHA-256, if a script asks for it.
    pub sha256: Option<Sha256>,
}

impl Checksums {
    /// Of no bytes.
    pub fn new(with_sha256: bool) -> Self {
        Self {
            crc: crc32fast::Hasher::new(),
            sha256: with_sha256.then(Sha256::new),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }
}

impl From<crc32fast::Hasher> for Checksums {
    fn from(crc: crc32fast::Hasher) -> Self {
        Self { crc, sha256: None }
    }
}

/// A file that is complete under its hidden name.
pub struct Received<T> {
    /// Where it went.
    pub target: T,
    /// Its bytes.
    pub len: u64,
    /// Its CRC-32.
    pub crc: u32,
    /// Its SHA-256, if a script asks for it.
    pub sha256: Option<[u8; 32]>,
}

/// A file whose blocks may come.
pub struct Incoming<T> {
    blocks: Stream,
    target: T,
    received: u64,
    /// Bytes that were appended, of which the checksums are.
    appended: u64,
    /// Whether the last block has arrived.
    complete: bool,
    sums: Checksums,
}

impl<T> Received<T> {
    /// What came of it, which is all.
    pub fn came(&self) -> Came {
        Came {
            len: self.len,
            crc: self.crc,
            sha256: self.sha256,
        }
    }
}

impl<T: Target> Incoming<T> {
    /// A file whose first `received` bytes are there, with their checksums.
    pub fn new(blocks: Stream, target: T, received: u64, sums: Checksums) -> Self {
        Self {
            blocks,
            target,
            received,
            appended: received,
            complete: false,
            sums,
        }
    }

    /// Where it goes.
    pub fn target_mut(&mut self) -> &mut T {
        &mut self.target
    }

    /// Where it goes, to be left as it is.
    pub fn into_target(self) -> T {
        self.target
    }

    /// Checks a block and opens it.
    pub fn open<'a>(
        &mut self,
        head: Head,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], BlockError> {
        let after = self.received + head.len as u64;
        let fits = match self.target.expected() {
            Some(expected) => {
                let is_full = head.last || head.len == MAX_BODY;
                is_full && head.last == (after == expected) && after <= expected
            }
            // Each block has what there was to send.
            None => head.last || head.len > 0,
        };
        if self.complete || !fits {
            return Err(BlockError::Size);
        }
        let most = self.target.most();
        if self.target.expected().is_none() && after > most {
            return Err(BlockError::TooLarge(most));
        }
        let body = self.blocks.open(head, sealed).map_err(BlockError::Wire)?;
        if self.target.expected().is_some() {
            self.sums.update(body);
        }
        self.received = after;
        self.complete = head.last;
        Ok(body)
    }

    /// Appends bodies that were opened, in their order.
    pub fn append(&mut self, bodies: &[&[u8]]) -> io::Result<()> {
        self.target.sink()?.append(bodies)?;
        for body in bodies {
            self.appended += body.len() as u64;
        }
        if self.target.expected().is_none() {
            // What there is of it may be kept, and only that: it counts once it is there.
            bodies.iter().for_each(|body| self.sums.update(body));
        }
        self.target.reached(self.received);
        Ok(())
    }

    /// The whole file, if what arrived is what the sender read. `None` if the last block has
    /// not come.
    pub fn finish(self, claimed: u32) -> Option<Result<Received<T>, (T, Came, ReceiveError)>> {
        if !self.complete {
            return None;
        }
        let (target, came) = self.came();
        let Came {
            len,
            crc: computed,
            sha256,
        } = came;
        let said = target.claimed_crc();
        let other = [Some(claimed), said]
            .into_iter()
            .flatten()
            .find(|claimed| *claimed != computed);
        Some(match other {
            None => Ok(Received {
                target,
                len,
                crc: computed,
                sha256,
            }),
            Some(claimed) => {
                let error = ReceiveError::Checksum { claimed, computed };
                Err((target, came, error))
            }
        })
    }

    /// Where it went, and what came of it.
    fn came(self) -> (T, Came) {
        let sha256 = self.sums.sha256;
        let came = Came {
            len: self.appended,
            crc: self.sums.crc.finalize(),
            sha256: sha256.map(|sha256| sha256.finalize().into()),
        };
        (self.target, came)
    }

    /// Ends an attempt that did not complete the file.
    pub fn end(self, why: &ReceiveError) {
        let (target, came) = self.came();
        target.end(why, Some(came));
    }
}
