#![doc = include_str!("console.md")]

mod answer;
pub mod console;
pub mod host;
mod kept_slot;
mod kept_viewer;
pub mod question;
pub mod slot;
pub mod viewer;

use std::{io, os::fd::AsRawFd, path::PathBuf};

use cap_std::fs::Dir;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    json::{self, Map, Value, canonical},
    pairing::bridge::Frame,
};

/// Where it is in the root.
const NAME: &str = "control.sock";

/// What the connection for a slot is upgraded to.
const SLOT: &str = "m2y-slot";

/// What the connection of a program that watches streams is upgraded to.
const VIEWER: &str = "m2y-watch";

/// The longest line after an upgrade, in bytes: a message in hexadecimal digits, and what is around it.
const MAX_LINE: u64 = 65_536;

/// A path to the socket that is short enough, however long that of the root is.
fn path(root: &Dir) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", root.as_raw_fd()))
}

/// An object with these fields.
pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    fields.collect()
}

/// Writes an object.
async fn write(to: &mut (impl AsyncWrite + Unpin), said: &Map<String, Value>) -> io::Result<()> {
    to.write_all((canonical(said) + "\n").as_bytes()).await?;
    to.flush().await
}

/// A frame as an object.
fn of_frame(frame: Frame) -> Map<String, Value> {
    let attempt = ("attempt", frame.attempt.into());
    match frame.message {
        Some(message) => object([attempt, ("message", hex::encode(message).into())]),
        None => object([attempt, ("over", true.into())]),
    }
}

/// An object as a frame.
fn to_frame(said: &Map<String, Value>) -> Option<Frame> {
    let attempt = said.get("attempt").and_then(Value::as_u64)?;
    let message = said.get("message").and_then(Value::as_str);
    Some(Frame {
        attempt: u32::try_from(attempt).ok()?,
        message: message.and_then(|text| hex::decode(text).ok()),
    })
}

/// The next object of a line; `None` at the end.
async fn read(
    from: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<Option<Map<String, Value>>> {
    // What was read of a line stays there if the future is dropped.
    let room = MAX_LINE.saturating_sub(line.len() as u64);
    from.take(room).read_until(b'\n', line).await?;
    if line.last() != Some(&b'\n') {
        return match line.is_empty() {
            true => Ok(None),
            false => Err(io::ErrorKind::InvalidData.into()),
        };
    }
    let object = json::parse(line).map_err(|_| io::ErrorKind::InvalidData)?;
    line.clear();
    Ok(Some(object))
}
