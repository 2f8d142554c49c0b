//! A slot at the server, for as long as the program that asked for it is there.

use std::io;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{BufReader, split};

use super::{object, of_frame, read, to_frame, write};
use crate::{
    json::Value,
    pairing::{bridge::Bridge, slots::Slot},
};

/// Keeps a slot open for as long as the program is there.
pub(super) async fn keep(mut slot: Slot, addresses: Value, upgraded: Upgraded) -> io::Result<()> {
    let (reader, mut to) = split(TokioIo::new(upgraded));
    let mut reader = BufReader::new(reader);
    let told = [("slot", slot.number.into()), ("addresses", addresses)];
    write(&mut to, &object(told)).await?;
    let (mut bridge, mut frames) = Bridge::new();
    let (mut count, mut line) = (0, Vec::new());
    loop {
        tokio::select! {
            attempt = slot.attempts.recv() => {
                let Some(attempt) = attempt else {
                    return Ok(());
                };
                count += 1;
                let said = [
                    ("attempt", count.into()),
                    ("from", attempt.from.to_string().into()),
                    ("message", hex::encode(&attempt.first).into()),
                ];
                write(&mut to, &object(said)).await?;
                bridge.join(count, attempt.incoming, attempt.outgoing);
            }
            Some(frame) = frames.recv() => write(&mut to, &of_frame(frame)).await?,
            said = read(&mut reader, &mut line) => match said? {
                Some(said) => {
                    if let Some(frame) = to_frame(&said) {
                        bridge.take(frame);
                    }
                }
                None => return Ok(()),
            },
        }
    }
}
