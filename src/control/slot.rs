//! The side of a program: a slot at the server of the same root.

use std::{io, time::Duration};

use tokio::{
    io::BufReader,
    net::{UnixStream, unix::OwnedReadHalf},
    sync::mpsc,
    task::{self, JoinHandle},
    time::timeout,
};

use super::{
    bridge::{Bridge, Lines, object, writer},
    path, read,
};
use crate::{
    error::{Code, Error, printable},
    json::Value,
    pairing::slots::Attempt,
    root::Root,
    transport::{Address, Peer},
};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A slot at the server.
pub struct ServerSlot {
    /// Its number.
    pub number: u64,
    /// Where the server listens.
    pub addresses: Vec<Address>,
    /// Those who want to use the code.
    pub attempts: mpsc::Receiver<Attempt>,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

impl ServerSlot {
    /// Asks the server of a root for a slot; `None` if none is running.
    pub async fn open(root: &Root) -> Result<Option<Self>, Error> {
        let failed = |e: io::Error| {
            let sentence = format!("cannot ask the server, which is running: {e}");
            Error::new(Code::Failed, sentence)
        };
        let stream = match UnixStream::connect(path(root.dir())).await {
            Ok(stream) => stream,
            Err(e) if is_nobody(&e) => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let (reader, to) = stream.into_split();
        let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
        let (lines, writing) = writer(to);
        let _ = lines.send(object([("ask", "slot".into())])).await;
        let answered = timeout(PATIENCE, read(&mut reader, &mut line)).await;
        let answered = answered.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?;
        let said = answered.map_err(failed)?;
        let said = said.ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
        let word = |field: &str| said.get(field).and_then(Value::as_str);
        if let Some(error) = word("error") {
            let code = Code::from_word(word("code").unwrap_or_default());
            return Err(Error::new(code, printable(error, 500)));
        }
        let number = said.get("slot").and_then(Value::as_u64);
        let number = number.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let addresses = said.get("addresses").and_then(Value::as_array);
        let addresses = addresses.into_iter().flatten().filter_map(Value::as_str);
        let addresses = addresses.filter_map(|text| text.parse().ok()).collect();
        let (give, attempts) = mpsc::channel(1);
        Ok(Some(Self {
            number,
            addresses,
            attempts,
            reading: task::spawn(carry(reader, lines, give)),
            writing,
        }))
    }

    /// Waits until the server has everything that was said, and closes the slot.
    pub async fn close(self) {
        drop(self.attempts);
        self.reading.abort();
        let _ = timeout(PATIENCE, self.writing).await;
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Hands over attempts, and carries their messages, until the server goes.
async fn carry(mut reader: BufReader<OwnedReadHalf>, lines: Lines, give: mpsc::Sender<Attempt>) {
    let (mut bridge, mut line) = (Bridge::new(lines), Vec::new());
    while let Ok(Some(said)) = read(&mut reader, &mut line).await {
        let text = |field: &str| said.get(field).and_then(Value::as_str);
        let number = said.get("attempt").and_then(Value::as_u64);
        let (Some(from), Some(number)) = (text("from"), number) else {
            bridge.take(&said);
            continue;
        };
        let first = text("message").and_then(|message| hex::decode(message).ok());
        let (to_owner, incoming) = mpsc::channel(1);
        let (outgoing, from_owner) = mpsc::channel(1);
        bridge.join(number, from_owner, to_owner);
        let attempt = Attempt {
            from: from
                .parse()
                .map_or_else(|_| Peer::Named(from.to_owned()), Peer::Ip),
            first: first.unwrap_or_default(),
            incoming,
            outgoing,
        };
        if give.send(attempt).await.is_err() {
            return;
        }
    }
}
