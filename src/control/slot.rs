//! The side of a program: a slot at the server of the same root.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, split},
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::timeout,
};

use super::{
    SLOT, of_frame,
    question::{self, failed},
    read, to_frame, write,
};
use crate::{
    error::Error,
    json::Value,
    pairing::{bridge::Bridge, remote_slot::RemoteSlot, slots::Attempt},
    root::Root,
    transport::Address,
};

/// How long the server may take to say the number.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the server of a root for a slot; returns where the server listens, too. `None` if none is
/// running.
pub async fn open(root: &Root) -> Result<Option<(RemoteSlot, Vec<Address>)>, Error> {
    let Some(upgraded) = question::upgrade(root, "/v1/slot", SLOT, None).await? else {
        return Ok(None);
    };
    let (reader, writer) = split(TokioIo::new(upgraded));
    let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
    let said = timeout(PATIENCE, read(&mut reader, &mut line)).await;
    let said = said.map_err(|_| failed(io::Error::from(io::ErrorKind::TimedOut)))?;
    let said = said.map_err(failed)?;
    let said = said.ok_or_else(|| failed(io::Error::from(io::ErrorKind::UnexpectedEof)))?;
    let number = said.get("slot").and_then(Value::as_u64);
    let number = number.ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidData)))?;
    let slot = RemoteSlot::new(number, |give, closed| carry(reader, writer, give, closed));
    Ok(Some((slot, question::listed(&said))))
}

async fn carry(
    mut reader: BufReader<impl AsyncRead + Unpin>,
    mut writer: impl AsyncWrite + Unpin,
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
        let Some(frame) = to_frame(&said) else {
            continue;
        };
        let Some(from) = said.get("from").and_then(Value::as_str) else {
            bridge.take(frame);
            continue;
        };
        let first = frame.message.unwrap_or_default();
        let attempt = bridge.begin(frame.attempt, from, first);
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
