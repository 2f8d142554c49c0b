//! Reads contents for a parser of untrusted bytes: a little at a time, with a limit on the
//! total, and never past the script's deadline.

use std::io::{self, BufRead, ErrorKind, Read, Seek, SeekFrom};

use rhai::EvalAltResult;

use crate::{hooks::call, store::Contents};

/// Bytes that are read at a time if a parser asks for less.
const STEP: usize = 1_024;

/// Why reading failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The script has to stop.
    Stop(Box<EvalAltResult>),
    /// The contents cannot be read.
    Io(io::Error),
    /// The parser wanted more bytes than it may have.
    Budget,
}

/// Contents that a parser reads from and seeks in. No parser loops forever: each read and each
/// seek takes from the budget, and once it is used up every call fails.
pub(super) struct Window<'a> {
    contents: &'a dyn Contents,
    size: u64,
    /// The parser's position.
    at: u64,
    /// Bytes of the contents from `start` on.
    buffer: Vec<u8>,
    start: u64,
    /// Bytes that may still be read.
    budget: u64,
    fault: Option<Fault>,
}

impl<'a> Window<'a> {
    /// A window at the beginning that lets `budget` bytes be read.
    pub(super) fn new(contents: &'a dyn Contents, budget: u64) -> io::Result<Self> {
        Ok(Self {
            contents,
            size: contents.stat()?.size,
            at: 0,
            buffer: Vec::new(),
            start: 0,
            budget,
            fault: None,
        })
    }

    /// Bytes of the whole contents.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Why reading failed, if it did.
    pub(super) fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// The bytes at a place; an error if the contents end before.
    pub(super) fn bytes<const N: usize>(&mut self, at: u64) -> io::Result<[u8; N]> {
        self.at = at;
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads at an offset, without the buffer. Fills the room unless the contents end.
    pub(super) fn read_at(&mut self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let most = self.spend_on(rest.len())?;
            let rest = rest.get_mut(..most).unwrap_or_default();
            let from = offset.saturating_add(filled as u64);
            // A file may name any offset, and the system rejects very large ones.
            if from >= self.size {
                break;
            }
            match self.contents.read_at(rest, from) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.end(Fault::Io(e))),
            }
        }
        Ok(filled)
    }

    /// Takes bytes from the budget, at least one; returns how many there were.
    fn spend_on(&mut self, wanted: usize) -> io::Result<usize> {
        if self.fault.is_some() {
            return Err(over());
        }
        if let Err(stop) = call::go_on() {
            return Err(self.end(Fault::Stop(stop)));
        }
        if self.budget == 0 {
            return Err(self.end(Fault::Budget));
        }
        let most = (wanted.max(1) as u64).min(self.budget);
        self.budget -= most;
        Ok(usize::try_from(most).unwrap_or(wanted).min(wanted))
    }

    fn end(&mut self, fault: Fault) -> io::Error {
        self.budget = 0;
        self.fault.get_or_insert(fault);
        over()
    }
}

/// The error that a parser gets; [`Fault`] has the reason.
fn over() -> io::Error {
    io::Error::other("reading is over")
}

impl BufRead for Window<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let end = self.start.saturating_add(self.buffer.len() as u64);
        if !(self.start..end).contains(&self.at) {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(STEP, 0);
            let read = self.read_at(&mut buffer, self.at)?;
            buffer.truncate(read);
            self.buffer = buffer;
            self.start = self.at;
        }
        let from = usize::try_from(self.at - self.start).unwrap_or(usize::MAX);
        Ok(self.buffer.get(from..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at = self.at.saturating_add(amount as u64);
    }
}

impl Read for Window<'_> {
    /// Fills all of the room unless the contents end: parsers take a short read for the end.
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let n = self.fill_buf()?.read(rest)?;
            if n == 0 {
                break;
            }
            self.consume(n);
            filled += n;
        }
        Ok(filled)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        // Seeking within the buffer needs no read, so a parser could loop there for free.
        self.spend_on(0)?;
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
