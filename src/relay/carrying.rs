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

/// Bytes of the buffer of a pair in which little moves.
const IDLE_BUFFER: usize = 2_048;

/// How long the other direction goes on when one has ended: a session in which one side has nothing
/// more to say is over, but for last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Carries bytes both ways until one side is done and the other has had everything, or a side does not
/// take what is for it within `idle`.
pub async fn carry(one: Link, other: Link, idle: Duration, pace: Option<Arc<Pace>>) {
    let there = way(one.reader, other.writer, idle, pace.clone());
    let back = way(other.reader, one.writer, idle, pace);
    tokio::pin!(there, back);
    tokio::select! {
        _ = &mut there => drop(timeout(LAST_WORDS, back).await),
        _ = &mut back => drop(timeout(LAST_WORDS, there).await),
    }
}

async fn way(
    mut from: ReadHalf,
    mut to: WriteHalf,
    idle: Duration,
    pace: Option<Arc<Pace>>,
) -> io::Result<()> {
    let mut buffer = vec![0; IDLE_BUFFER];
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
        } else if len < IDLE_BUFFER && buffer.len() > IDLE_BUFFER {
            buffer = vec![0; IDLE_BUFFER];
        }
    }
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{
        io::{DuplexStream, duplex, split},
        time::Instant,
    };

    use super::*;
    use crate::transport::Peer;

    /// A link, and its other end.
    fn link() -> (Link, DuplexStream) {
        let (near, far) = duplex(1 << 16);
        let (reader, writer) = split(near);
        let link = Link {
            reader: Box::new(reader),
            writer: Box::new(writer),
            peer: Peer::Named("somebody".to_owned()),
        };
        (link, far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pair_ends_soon_after_one_side_has_and_last_words_arrive() {
        let ((one, mut caller), (other, mut member)) = (link(), link());
        let idle = Duration::from_secs(60);
        let carried = tokio::spawn(carry(one, other, idle, None));
        caller.write_all(b"opening").await.unwrap();
        let mut heard = [0; 7];
        member.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"opening");
        member.write_all(b"refused").await.unwrap();
        drop(member);
        // The caller reads what was said, and keeps its end open for ever.
        let mut said = Vec::new();
        caller.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"refused");
        let begun = Instant::now();
        carried.await.unwrap();
        assert!(begun.elapsed() <= LAST_WORDS);
    }
}
