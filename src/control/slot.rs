//! The side of a program: a slot at the server of the same root.

use std::io;

use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::{self, JoinHandle},
    time::timeout,
};

use super::{
    of_frame,
    question::{self, Answered, PATIENCE, failed},
    read, to_frame, write,
};
use crate::{
    error::Error,
    json::Value,
    pairing::{bridge::Bridge, slots::Attempt},
    root::Root,
    transport::{Address, Peer},
};

/// Attempts that wait for the owner.
const WAITING: usize = 8;

/// A slot at the server.
pub struct ServerSlot {
    /// Its number.
    pub number: u64,
    /// Where the server listens.
    pub addresses: Vec<Address>,
    /// Those who want to use the code.
    pub attempts: mpsc::Receiver<Attempt>,
    close: oneshot::Sender<()>,
    work: JoinHandle<()>,
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
            writer,
        } = answered;
        let number = said.get("slot").and_then(Value::as_u64);
        let number = number.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let addresses = question::listed(&said);
        let (give, attempts) = mpsc::channel(WAITING);
        let (close, closed) = oneshot::channel();
        Ok(Some(Self {
            number,
            addresses,
            attempts,
            close,
            work: task::spawn(carry(reader, writer, give, closed)),
        }))
    }

    /// Waits until the server has everything that was said, and closes the slot.
    pub async fn close(self) {
        drop((self.attempts, self.close));
        let _ = timeout(PATIENCE, self.work).await;
    }
}

/// Hands over attempts, and carries their messages, until the slot is closed or the server goes.
async fn carry(
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    give: mpsc::Sender<Attempt>,
    mut closed: oneshot::Receiver<()>,
) {
    let (mut bridge, mut frames) = Bridge::new();
    let mut line = Vec::new();
    loop {
        let said = tokio::select! {
            said = read(&mut reader, &mut line) => said,
            Some(frame) = frames.recv() => {
                if write(&mut writer, &of_frame(frame)).await.is_err() {
                    return;
                }
                continue;
            }
            _ = &mut closed => break,
        };
        let Ok(Some(said)) = said else {
            return;
        };
        let text = |field: &str| said.get(field).and_then(Value::as_str);
        let Some(frame) = to_frame(&said) else {
            continue;
        };
        let Some(from) = text("from") else {
            bridge.take(frame);
            continue;
        };
        let (to_owner, incoming) = mpsc::channel(1);
        let (outgoing, from_owner) = mpsc::channel(1);
        bridge.join(frame.attempt, from_owner, to_owner);
        let attempt = Attempt {
            from: from
                .parse()
                .map_or_else(|_| Peer::Named(from.to_owned()), Peer::Ip),
            first: frame.message.unwrap_or_default(),
            incoming,
            outgoing,
        };
        // One too many is over at once: those who are at it are not kept waiting.
        if let Err(TrySendError::Closed(_)) = give.try_send(attempt) {
            break;
        }
    }
    // What the owner said last.
    drop((bridge, give));
    while let Some(frame) = frames.recv().await {
        if write(&mut writer, &of_frame(frame)).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}
