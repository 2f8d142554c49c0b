//! The side of a program that watches streams.

use std::io;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, BufReader, ReadHalf, WriteHalf, split};

use super::{
    VIEWER, object,
    question::{self, failed},
    read, write,
};
use crate::{
    error::{Code, Error},
    json::{Map, Value},
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
    reader: BufReader<ReadHalf<Connection>>,
    writer: WriteHalf<Connection>,
    line: Vec<u8>,
}

/// A stream that is watched.
pub struct Stream {
    viewer: Viewer,
}

/// Waits for streams for a user, from anybody or from one contact; `None` if no server is running.
pub async fn wait(root: &Root, user: &Name, from: Option<&Name>) -> Result<Option<Viewer>, Error> {
    let mut asked = object([("user", user.as_str().into())]);
    if let Some(from) = from {
        asked.insert("from".to_owned(), from.as_str().into());
    }
    let Some(upgraded) = question::upgrade(root, "/v1/watch", VIEWER, Some(asked)).await? else {
        return Ok(None);
    };
    let (reader, writer) = split(TokioIo::new(upgraded));
    Ok(Some(Viewer {
        reader: BufReader::new(reader),
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
    pub fn watch(self) -> Stream {
        Stream { viewer: self }
    }
}

impl Stream {
    /// The next bytes, in the place of what is in `buffer`; or how it ended. Fails if the server is
    /// gone.
    pub async fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Result<(), End>, Error> {
        let reader = &mut self.viewer.reader;
        let gone = |e: io::Error| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::new(Code::Later, "the server has stopped"),
            _ => failed(e),
        };
        let len = reader.read_u32().await.map_err(gone)?;
        if len == 0 {
            let said = read(reader, &mut self.viewer.line).await.map_err(failed)?;
            let said = said.unwrap_or_default();
            let word = |field: &str| said.get(field).and_then(Value::as_str);
            return Ok(Err(match word("end") {
                Some("whole") => End::Whole,
                _ => End::Cut(
                    word("reason")
                        .unwrap_or("the server has stopped")
                        .to_owned(),
                ),
            }));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > MAX_PIECE {
            return Err(failed(io::Error::from(io::ErrorKind::InvalidData)));
        }
        buffer.resize(len, 0);
        reader.read_exact(buffer).await.map_err(gone)?;
        Ok(Ok(()))
    }
}
