//! Joins two links: bytes go from one to the other, as they are.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    session::pace::Pace,
    transport::{Link, ReadHalf, WriteHalf},
};

/// Bytes that are carried at once, and the most that a stalled pair keeps in memory, each way.
const BUFFER: usize = 128 << 10;

/// Carries bytes both ways until one side is done and the other has had everything, or nothing moves
/// for `idle` in a direction that the other side waits for.
pub async fn carry(one: Link, other: Link, idle: Duration, pace: Option<Arc<Pace>>) {
    let there = way(one.reader, other.writer, idle, pace.clone());
    let back = way(other.reader, one.writer, idle, pace);
    tokio::pin!(there, back);
    // A side that has ended may still read; one that failed has gone.
    tokio::select! {
        ended = &mut there => if ended.is_ok() { let _ = back.await; },
        ended = &mut back => if ended.is_ok() { let _ = there.await; },
    }
}

async fn way(
    mut from: ReadHalf,
    mut to: WriteHalf,
    idle: Duration,
    pace: Option<Arc<Pace>>,
) -> io::Result<()> {
    // A pair in which nothing moves needs little.
    let mut buffer = vec![0; 4_096];
    loop {
        let room = match &pace {
            Some(pace) => pace.leave().await.min(buffer.len()),
            None => buffer.len(),
        };
        let len = from
            .read(buffer.get_mut(..room).unwrap_or_default())
            .await?;
        if len == 0 {
            return timeout(idle, to.shutdown()).await.map_err(|_| late())?;
        }
        if let Some(pace) = &pace {
            pace.spend(len);
        }
        let bytes = buffer.get(..len).unwrap_or_default();
        timeout(idle, to.write_all(bytes))
            .await
            .map_err(|_| late())??;
        timeout(idle, to.flush()).await.map_err(|_| late())??;
        if len == buffer.len() && len < BUFFER {
            buffer.resize((len * 4).min(BUFFER), 0);
        }
    }
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
