//! The bytes of a file on their way from one place of this machine to another.

use std::{io, ops::Range};

use crate::{
    error::{Code, Error},
    store::{Contents, Sink},
    transfer::send::blocks::{changed, unreadable},
};

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// A file that is being copied.
pub struct Copying<'a> {
    /// The file.
    pub contents: &'a dyn Contents,
    /// The version that is to be copied.
    pub version: &'a str,
    /// Which of its bytes: those from where an earlier attempt ended.
    pub bytes: Range<u64>,
    /// The CRC-32 of what comes before them.
    pub crc: crc32fast::Hasher,
}

/// Why a file was not copied.
pub enum Failure {
    /// It cannot be read, changed meanwhile, or is no longer wanted.
    Source(Error),
    /// It cannot be written.
    Sink(io::Error),
}

impl Copying<'_> {
    /// Appends the bytes to a sink; returns the CRC-32 of the file. After each piece, `copied` is
    /// told its length, and says whether to go on.
    pub fn run(
        self,
        sink: &mut dyn Sink,
        mut copied: impl FnMut(usize) -> bool,
    ) -> Result<u32, Failure> {
        let Self {
            contents,
            version,
            bytes: Range { mut start, end },
            mut crc,
        } = self;
        let left = |start: u64| usize::try_from(end.saturating_sub(start)).unwrap_or(PIECE);
        let mut buffer = vec![0; left(start).min(PIECE)];
        while start < end {
            let most = left(start).min(PIECE);
            let into = buffer.get_mut(..most).unwrap_or_default();
            let read = match contents.read_at(into, start) {
                Ok(0) => return Err(Failure::Source(changed())),
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::Source(unreadable(&e))),
            };
            let piece = into.get(..read).unwrap_or_default();
            crc.update(piece);
            sink.append(&[piece]).map_err(Failure::Sink)?;
            start += read as u64;
            if !copied(read) {
                let error = Error::new(Code::Interrupted, "interrupted");
                return Err(Failure::Source(error));
            }
        }
        match contents.version() {
            Ok(now) if now == version => Ok(crc.finalize()),
            Ok(_) => Err(Failure::Source(changed())),
            Err(e) => Err(Failure::Source(unreadable(&e))),
        }
    }
}
