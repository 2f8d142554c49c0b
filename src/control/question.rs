//! A question of a program, and its answer.

use std::{io, time::Duration};

use tokio::{
    io::BufReader,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{object, path, read, write};
use crate::{
    error::{Code, Error, printable},
    json::{Map, Value},
    root::Root,
    transport::Address,
};

/// How long the server may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// An answer, and the connection that it came on.
pub(super) struct Answered {
    pub(super) said: Map<String, Value>,
    pub(super) reader: BufReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
}

pub(super) fn failed(e: io::Error) -> Error {
    let sentence = format!("cannot ask the server, which is running: {e}");
    Error::new(Code::Failed, sentence)
}

/// Asks the server of a root; `None` if none is running.
pub(super) async fn put(root: &Root, question: &str) -> Result<Option<Answered>, Error> {
    let stream = match UnixStream::connect(path(root.dir())).await {
        Ok(stream) => stream,
        Err(e) if is_nobody(&e) => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let (reader, mut writer) = stream.into_split();
    let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
    let asked = write(&mut writer, &object([("ask", question.into())])).await;
    asked.map_err(failed)?;
    let answered = timeout(PATIENCE, read(&mut reader, &mut line)).await;
    let answered = answered.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?;
    let said = answered.map_err(failed)?;
    let said = said.ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
    let word = |field: &str| said.get(field).and_then(Value::as_str);
    if let Some(error) = word("error") {
        let code = Code::from_word(word("code").unwrap_or_default());
        return Err(Error::new(code, printable(error, 500)));
    }
    Ok(Some(Answered {
        said,
        reader,
        writer,
    }))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Where the server of a root listens; `None` if none is running.
pub async fn addresses(root: &Root) -> Result<Option<Vec<Address>>, Error> {
    let answered = put(root, "addresses").await?;
    Ok(answered.map(|answered| listed(&answered.said)))
}

/// The addresses in an answer.
pub(super) fn listed(said: &Map<String, Value>) -> Vec<Address> {
    let addresses = said.get("addresses").and_then(Value::as_array);
    let addresses = addresses.into_iter().flatten().filter_map(Value::as_str);
    addresses.filter_map(|text| text.parse().ok()).collect()
}

/// What the relay of a root says about who attends; `None` if no server is running.
pub async fn relay(root: &Root) -> Result<Option<Map<String, Value>>, Error> {
    let answered = put(root, "relay").await?;
    Ok(answered.map(|answered| answered.said))
}
