//! The two directions of a connection: records in, records out, each with a deadline.

use std::{io, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

use super::pace::Pace;
use crate::{
    error::{Code, Error},
    wire::{
        WireError,
        record::{self, HEAD_LEN, Head, Kind, MAX_RECORD, Stream},
    },
};

/// Bytes of the buffer of a connection that moves no file.
const IDLE_BUFFER: usize = 2_048;

/// What can go wrong with a connection.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer closed it, or the network did.
    #[error("the connection was closed")]
    Closed,
    /// The network failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
    /// Nothing moved for too long.
    #[error("nothing moved for {0:?}")]
    Idle(Duration),
    /// Bytes that are not a record of this session.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl From<ChannelError> for Error {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Wire(error) => error.into(),
            other => Self::new(Code::Later, other.to_string()),
        }
    }
}

/// The incoming half of a connection.
pub struct Reader {
    half: Box<dyn AsyncRead + Send + Unpin>,
    idle: Duration,
    buffer: Vec<u8>,
    filled: usize,
    /// What is read into next.
    spare: Vec<u8>,
    /// The least size of a buffer, in bytes, before it is read into.
    width: usize,
    /// Since when the peer has been silent. Kept here, because a caller may stop waiting and begin
    /// again.
    silent_since: Instant,
    pace: Option<Arc<Pace>>,
}

/// Some whole records, as they came.
pub struct Batch {
    bytes: Vec<u8>,
    whole: usize,
}

impl Batch {
    /// The records, one after the other.
    pub fn records(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.whole).unwrap_or_default()
    }

    /// Bytes of the records.
    pub fn len(&self) -> usize {
        self.whole
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.whole == 0
    }
}

impl Reader {
    /// A reader that waits for at most `idle` for the next byte.
    pub fn new(half: impl AsyncRead + Send + Unpin + 'static, idle: Duration) -> Self {
        Self {
            half: Box::new(half),
            idle,
            buffer: Vec::new(),
            filled: 0,
            spare: Vec::new(),
            width: 0,
            silent_since: Instant::now(),
            pace: None,
        }
    }

    /// Takes the reader apart: the half that it reads from, and the bytes that it has read from
    /// there and not given out. They precede what the half still brings.
    pub fn into_inner(mut self) -> (Box<dyn AsyncRead + Send + Unpin>, Vec<u8>) {
        self.buffer.truncate(self.filled);
        (self.half, self.buffer)
    }

    /// From now on takes records no faster than this, if a pace is given: unread bytes hold the
    /// peer back.
    pub fn set_pace(&mut self, pace: Option<Arc<Pace>>) {
        self.pace = pace;
    }

    /// From now on waits for at most `idle` for the next byte.
    pub fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    /// Reads exactly `N` bytes, before there are records.
    pub async fn exact<const N: usize>(&mut self) -> Result<[u8; N], ChannelError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// Reads `len` bytes, which the caller has found to be few enough.
    pub async fn bytes(&mut self, len: usize) -> Result<Vec<u8>, ChannelError> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ChannelError> {
        match timeout(self.idle, self.half.read_exact(bytes)).await {
            Ok(read) => read.map(|_| ()).map_err(ChannelError::from),
            Err(_) => Err(ChannelError::Idle(self.idle)),
        }
    }

    /// Waits until at least one whole record is there and takes all that are.
    pub async fn batch(&mut self) -> Result<Batch, ChannelError> {
        loop {
            if let Some(batch) = self.take()? {
                return Ok(batch);
            }
            self.more().await?;
        }
    }

    /// Takes the whole records that are there, in the buffer that they were read into.
    pub fn take(&mut self) -> Result<Option<Batch>, ChannelError> {
        let filled = self.buffer.get(..self.filled).unwrap_or_default();
        let whole = whole(filled)?;
        if whole == 0 {
            return Ok(None);
        }
        let tail = filled.get(whole..).unwrap_or_default();
        let mut next = std::mem::take(&mut self.spare);
        let len = tail.len().max(self.width);
        if next.len() < len {
            next.resize(len, 0);
        }
        if let Some(to) = next.get_mut(..tail.len()) {
            to.copy_from_slice(tail);
        }
        self.filled = tail.len();
        let bytes = std::mem::replace(&mut self.buffer, next);
        Ok(Some(Batch { bytes, whole }))
    }

    /// Whether more can be read before something is taken.
    pub fn has_room(&self) -> bool {
        self.filled < self.buffer.len().max(MAX_RECORD)
    }

    /// Waits for more bytes. Nothing is lost if the future is dropped.
    pub async fn more(&mut self) -> Result<(), ChannelError> {
        if self.filled == self.buffer.len() {
            let larger = if self.buffer.is_empty() {
                IDLE_BUFFER
            } else {
                MAX_RECORD
            };
            self.buffer.resize(larger.max(self.buffer.len()), 0);
        }
        let mut room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        if let Some(pace) = &self.pace {
            let most = pace.leave().await.min(room.len());
            room = room.get_mut(..most).unwrap_or_default();
        }
        let until = self.silent_since + self.idle;
        match timeout_at(until, self.half.read(room)).await {
            Ok(Ok(0)) => Err(ChannelError::Closed),
            Ok(read) => {
                let read = read?;
                if let Some(pace) = &self.pace {
                    pace.spend(read);
                }
                self.filled += read;
                self.silent_since = Instant::now();
                Ok(())
            }
            Err(_) => Err(ChannelError::Idle(self.idle)),
        }
    }

    /// Takes the buffer of a batch back, to read into.
    pub fn recycle(&mut self, batch: Batch) {
        // While we were busy, the peer could not be heard.
        self.silent_since = Instant::now();
        self.spare = batch.bytes;
    }

    /// Counts the silence of the peer from now on.
    pub fn touch(&mut self) {
        self.silent_since = Instant::now();
    }

    /// From now on reads `len` bytes at once: a file is coming.
    pub fn widen(&mut self, len: usize) {
        self.silent_since = Instant::now();
        self.width = self.width.max(len);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
    }

    /// Puts surplus records back, in front of what is there.
    pub fn put_back(&mut self, records: &[u8]) {
        let rest = self.buffer.get(..self.filled).unwrap_or_default();
        let bytes = [records, rest].concat();
        self.filled = bytes.len();
        self.buffer = bytes;
    }

    /// Waits for one record and opens it.
    pub async fn record(&mut self, stream: &mut Stream) -> Result<(Head, Vec<u8>), ChannelError> {
        self.silent_since = Instant::now();
        let mut batch = self.batch().await?;
        let Some((head, sealed)) = record::split(batch.records())? else {
            return Err(WireError::Record.into());
        };
        let len = head.record_len();
        let body = stream.open(head, sealed)?.to_vec();
        let rest = batch.records().get(len..).unwrap_or_default();
        if !rest.is_empty() {
            self.put_back(rest);
        }
        Ok((head, body))
    }

    /// Gives large buffers back when no file moves.
    pub fn narrow(&mut self) {
        self.buffer.truncate(self.filled);
        self.buffer.shrink_to_fit();
        self.spare = Vec::new();
        self.width = 0;
    }

    /// Reads and throws away, so that a peer that is still sending hears what it was told before
    /// the connection closes.
    pub async fn drain(&mut self, time: Duration) {
        let mut sink = vec![0; 65_536];
        let _ = timeout(time, async {
            while !matches!(self.half.read(&mut sink).await, Ok(0) | Err(_)) {}
        })
        .await;
    }
}

/// Bytes of the whole records at the front.
fn whole(bytes: &[u8]) -> Result<usize, WireError> {
    let mut at = 0;
    while let Some(head) = bytes.get(at..).and_then(<[u8]>::first_chunk::<HEAD_LEN>) {
        let end = at + Head::decode(head)?.record_len();
        if end > bytes.len() {
            break;
        }
        at = end;
    }
    Ok(at)
}

/// The outgoing half of a connection.
pub struct Writer {
    half: Box<dyn AsyncWrite + Send + Unpin>,
    idle: Duration,
    /// Since when [`Writer::some`] waits.
    blocked_since: Option<Instant>,
    keeps: bool,
    pace: Option<Arc<Pace>>,
}

impl Writer {
    /// A writer that waits for at most `idle` until one more byte is accepted.
    pub fn new(half: impl AsyncWrite + Send + Unpin + 'static, idle: Duration) -> Self {
        Self {
            half: Box::new(half),
            idle,
            blocked_since: None,
            keeps: false,
            pace: None,
        }
    }

    /// Takes the writer apart: the half that it writes to. A writer buffers nothing.
    pub fn into_inner(self) -> Box<dyn AsyncWrite + Send + Unpin> {
        self.half
    }

    /// From now on writes no faster than this, if a pace is given.
    pub fn set_pace(&mut self, pace: Option<Arc<Pace>>) {
        self.pace = pace;
    }

    /// Writes bytes that are sealed already, or need no seal.
    pub async fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), ChannelError> {
        while !bytes.is_empty() {
            let written = self.some(bytes).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        self.flush().await
    }

    /// Whether something was written that has not left yet: a transport may keep it until it is
    /// asked again.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// Waits until all that was written has left. Nothing is lost if the future is dropped.
    pub async fn flush(&mut self) -> Result<(), ChannelError> {
        if self.keeps {
            match timeout(self.idle, self.half.flush()).await {
                Ok(flushed) => flushed?,
                Err(_) => return Err(ChannelError::Idle(self.idle)),
            }
            self.keeps = false;
        }
        Ok(())
    }

    /// Writes some of the bytes; returns how many. Without bytes, waits until what was written has
    /// left. Nothing is lost if the future is dropped.
    pub async fn some(&mut self, bytes: &[u8]) -> Result<usize, ChannelError> {
        if bytes.is_empty() {
            return self.flush().await.map(|()| 0);
        }
        let bytes = match &self.pace {
            Some(pace) => bytes.get(..pace.leave().await).unwrap_or(bytes),
            None => bytes,
        };
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        match timeout_at(since + self.idle, self.half.write(bytes)).await {
            Ok(Ok(0)) => Err(ChannelError::Closed),
            Ok(written) => {
                self.blocked_since = None;
                let written = written?;
                self.keeps = match self.half.flush().now_or_never() {
                    Some(flushed) => {
                        flushed?;
                        false
                    }
                    None => true,
                };
                if let Some(pace) = &self.pace {
                    pace.spend(written);
                }
                Ok(written)
            }
            Err(_) => Err(ChannelError::Idle(self.idle)),
        }
    }

    /// Seals and writes one record.
    pub async fn record(
        &mut self,
        stream: &mut Stream,
        kind: Kind,
        transfer: u32,
        body: &[u8],
    ) -> Result<(), ChannelError> {
        let record = stream.record(kind, transfer, body)?;
        self.bytes(&record).await
    }

    /// Says that nothing more will come.
    pub async fn finish(&mut self) {
        let _ = timeout(self.idle, self.half.shutdown()).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::crypto::seal::Key;

    #[tokio::test]
    async fn a_reader_that_is_taken_apart_loses_no_byte() {
        let mut sealing = Stream::new(&Key::new([7; 16])).unwrap();
        let first = sealing.record(Kind::Working, 0, &[]).unwrap();
        let second = sealing.record(Kind::Ack, 1, b"ACK").unwrap();
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let early = [first.as_slice(), &second[..20]].concat();
        far.write_all(&early).await.unwrap();
        let mut reader = Reader::new(near, Duration::from_secs(5));
        let mut opening = Stream::new(&Key::new([7; 16])).unwrap();
        let (head, _) = reader.record(&mut opening).await.unwrap();
        assert_eq!(head.kind, Kind::Working);
        far.write_all(&second[20..]).await.unwrap();
        drop(far);
        let (mut half, mut bytes) = reader.into_inner();
        half.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, second);
    }
}
