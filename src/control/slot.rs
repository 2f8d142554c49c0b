//! The side of a program: a slot at the server of the same root.

use std::io;

use tokio::{
    io::BufReader,
    net::unix::OwnedReadHalf,
    sync::mpsc,
    task::{self, JoinHandle},
    time::timeout,
};

use super::{
    bridge::{Bridge, Lines},
    question::{self, Answered, PATIENCE, failed},
    read,
};
use crate::{
    error::Error,
    json::Value,
    pairing::slots::Attempt,
    root::Root,
    transport::{Address, Peer},
};

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
        let Some(answered) = question::put(root, "slot").await? else {
            return Ok(None);
        };
        let Answered {
            said,
            reader,
            lines,
            writing,
        } = answered;
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
