//! A question of a program, and its answer.

use std::{collections::HashMap, io, time::Duration};

use tokio::{
    io::BufReader,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{MAX_ANSWER, object, path, read, write};
use crate::{
    error::{Code, Error, printable},
    json::{Map, Value},
    root::{Root, name::Name},
    transport::Address,
};

/// How long each side waits for the other.
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
    let answered = timeout(PATIENCE, read(&mut reader, &mut line, MAX_ANSWER)).await;
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

/// Who attends at a relay.
pub struct Present {
    /// The hash of each member's name, in hexadecimal digits, and for how many seconds it has attended.
    pub members: HashMap<String, u64>,
    /// Pairs that are joined.
    pub pairs: u64,
}

impl Present {
    /// For how many seconds a member has attended, if it does.
    pub fn seconds_of(&self, member: &Name) -> Option<u64> {
        self.members.get(&hex::encode(member.hash())).copied()
    }
}

/// Who attends at the relay of a root; `None` if no server is running.
pub async fn relay(root: &Root) -> Result<Option<Present>, Error> {
    let Some(Answered { said, .. }) = put(root, "relay").await? else {
        return Ok(None);
    };
    let all = said.get("present").and_then(Value::as_array);
    let one = |one: &Value| {
        let hash = one.get("hash")?.as_str()?.to_owned();
        Some((hash, one.get("seconds")?.as_u64()?))
    };
    Ok(Some(Present {
        members: all.into_iter().flatten().filter_map(one).collect(),
        pairs: said
            .get("pairs")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
    }))
}
