//! The side of a program that watches streams.

use std::{
    io::{self, BufRead, BufReader, Cursor, Read},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as Socket,
    },
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, fstat},
    io::Errno,
    pipe::{SpliceFlags, splice},
};
use tokio::{
    io::{self as tokio_io, ReadHalf, WriteHalf},
    net::UnixStream,
};

use super::{
    MAX_LINE, VIEWER, object,
    question::{self, failed},
    read, write,
};
use crate::{
    error::Error,
    json::{self, Map, Value},
    root::{Root, name::Name},
    viewers::{End, MAX_PIECE},
};

type Connection = TokioIo<Upgraded>;

/// A stream that somebody wants to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The number by which it is answered.
    pub number: u64,
    /// Who sends it.
    pub from: String,
    /// The folder that it is for.
    pub folder: String,
    /// Its name.
    pub name: String,
    /// Whether the hooks of the folder have accepted it.
    pub is_accepted: bool,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A stream is offered.
    Offer(Offer),
    /// The one of this number is no longer offered, or somebody else has answered.
    Over(u64),
    /// The one of this number begins: [`Viewer::watch`].
    Begins(u64),
}

/// A program that waits for streams, at the server of its root.
pub struct Viewer {
    reader: tokio_io::BufReader<ReadHalf<Connection>>,
    writer: WriteHalf<Connection>,
    line: Vec<u8>,
}

/// A stream that is watched.
pub struct Stream {
    /// What was read of it before it began.
    ahead: Cursor<Vec<u8>>,
    socket: Socket,
}

/// Ends a stream early when it is dropped.
pub struct Leaving(Socket);

/// Waits for streams for a user, from anybody or from one contact; `None` if no server is running.
pub async fn wait(root: &Root, user: &Name, from: Option<&Name>) -> Result<Option<Viewer>, Error> {
    let mut asked = object([("user", user.as_str().into())]);
    if let Some(from) = from {
        asked.insert("from".to_owned(), from.as_str().into());
    }
    let Some(upgraded) = question::upgrade(root, "/v1/watch", VIEWER, Some(asked)).await? else {
        return Ok(None);
    };
    let (reader, writer) = tokio_io::split(TokioIo::new(upgraded));
    Ok(Some(Viewer {
        reader: tokio_io::BufReader::new(reader),
        writer,
        line: Vec::new(),
    }))
}

fn news(said: &Map<String, Value>) -> Option<News> {
    let number = said.get("offer").and_then(Value::as_u64)?;
    let is = |field: &str| said.get(field) == Some(&Value::Bool(true));
    let text = |field: &str| {
        let text = said.get(field).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    Some(match (is("over"), is("begins")) {
        (true, _) => News::Over(number),
        (_, true) => News::Begins(number),
        _ => News::Offer(Offer {
            number,
            from: text("from"),
            folder: text("folder"),
            name: text("name"),
            is_accepted: is("accepted"),
        }),
    })
}

impl Viewer {
    /// What the server says next; `None` if it is gone. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Option<News>, Error> {
        loop {
            let said = read(&mut self.reader, &mut self.line).await;
            let Some(said) = said.map_err(failed)? else {
                return Ok(None);
            };
            if let Some(news) = news(&said) {
                return Ok(Some(news));
            }
        }
    }

    /// Answers an offer.
    pub async fn answer(&mut self, number: u64, watch: bool) -> Result<(), Error> {
        let said = object([("offer", number.into()), ("watch", watch.into())]);
        write(&mut self.writer, &said).await.map_err(failed)
    }

    /// Watches the stream that begins.
    pub fn watch(self) -> Result<Stream, Error> {
        let mut ahead = self.reader.buffer().to_vec();
        let connection = self.reader.into_inner().unsplit(self.writer);
        let parts = connection.into_inner().downcast::<TokioIo<UnixStream>>();
        let parts = parts.map_err(|_| failed("it is not asked by control.sock"))?;
        ahead.extend_from_slice(&parts.read_buf);
        let socket = parts.io.into_inner().into_std().map_err(failed)?;
        socket.set_nonblocking(false).map_err(failed)?;
        let ahead = Cursor::new(ahead);
        Ok(Stream { ahead, socket })
    }
}

impl Stream {
    /// What ends the stream when it is dropped.
    pub fn leaving(&self) -> io::Result<Leaving> {
        self.socket.try_clone().map(Leaving)
    }

    /// Writes all of it to a file or pipe, each piece as soon as it is there, and adds to `bytes`.
    /// It may take long. Fails if no more can be written.
    pub fn copy(&mut self, to: &OwnedFd, bytes: &mut u64) -> io::Result<End> {
        let is_pipe =
            fstat(to).is_ok_and(|about| FileType::from_raw_mode(about.st_mode) == FileType::Fifo);
        let mut buffer = Vec::new();
        loop {
            let mut len = [0; 4];
            if self.read_exact(&mut len).is_err() {
                return Ok(stopped());
            }
            let mut rest = u32::from_be_bytes(len) as usize;
            if rest == 0 {
                return Ok(self.end());
            }
            while rest > 0 {
                let is_ahead = self.ahead.position() < self.ahead.get_ref().len() as u64;
                let moved = match is_pipe && !is_ahead {
                    true => self.splice(to, rest)?,
                    false => self.write(to, rest, &mut buffer)?,
                };
                if moved == 0 {
                    return Ok(stopped());
                }
                rest -= moved;
                *bytes += moved as u64;
            }
        }
    }

    /// Moves bytes into a pipe, without a look at them; 0 at the end.
    fn splice(&self, to: &OwnedFd, most: usize) -> io::Result<usize> {
        loop {
            match splice(&self.socket, None, to, None, most, SpliceFlags::MOVE) {
                Err(Errno::INTR) => {}
                // Who shares the pipe does not want to wait for it.
                Err(Errno::AGAIN) => {
                    ready(&self.socket, PollFlags::IN)?;
                    ready(to, PollFlags::OUT)?;
                }
                Err(Errno::CONNRESET) => return Ok(0),
                moved => return Ok(moved?),
            }
        }
    }

    /// Writes bytes that are read before; 0 at the end.
    fn write(&mut self, to: &OwnedFd, most: usize, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.resize(MAX_PIECE, 0);
        let len = buffer.len().min(most);
        let into = buffer.get_mut(..len).unwrap_or_default();
        let Ok(len) = self.read(into) else {
            return Ok(0);
        };
        let mut bytes = into.get(..len).unwrap_or_default();
        while !bytes.is_empty() {
            match rustix::io::write(to, bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => ready(to, PollFlags::OUT)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(len)
    }

    /// How it ended, as the server says it.
    fn end(&mut self) -> End {
        let mut line = Vec::new();
        let read = BufReader::new(self.take(MAX_LINE)).read_until(b'\n', &mut line);
        let said = match (read, json::parse(&line)) {
            (Ok(_), Ok(said)) => said,
            _ => return stopped(),
        };
        let word = |field: &str| said.get(field).and_then(Value::as_str);
        match (word("end"), word("reason")) {
            (Some("whole"), _) => End::Whole,
            (_, Some(reason)) => End::Cut(reason.to_owned()),
            _ => stopped(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.ahead.read(into)? {
            0 => self.socket.read(into),
            read => Ok(read),
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn stopped() -> End {
    End::Cut("the server has stopped".to_owned())
}

/// Waits until it can be read or written.
fn ready(file: impl AsFd, until: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(&file, until)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
