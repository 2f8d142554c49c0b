//! The sender's half of a transfer: steps 13 to 15.

use std::{
    fs::File,
    io::{self, Read},
    time::Duration,
};

use tokio::{sync::mpsc, task, time::timeout};

use super::{
    BUFFER, DEPTH, Observer,
    channel::{ChannelError, Reader, Writer},
    outgoing::Version,
};
use crate::{
    crypto::seal::TAG_LEN,
    error::{Code, Error, printable},
    wire::{
        WireError,
        record::{self, HEAD_LEN, Head, Kind, MAX_BODY, Stream},
    },
};

/// A connection, from the sender's side.
pub struct Channel {
    /// Records from the receiver.
    pub reader: Reader,
    /// Records to the receiver.
    pub writer: Writer,
    /// Opens records.
    pub incoming: Stream,
    /// Seals records.
    pub outgoing: Stream,
}

/// What is to be sent in one attempt.
pub struct Attempt {
    /// The number of the transfer in its channel.
    pub transfer: u32,
    /// The file, at its beginning.
    pub file: File,
    /// The version that the meta speaks of.
    pub version: Version,
    /// Seals the blocks.
    pub blocks: Stream,
    /// What the meta says of the file's CRC-32, if anything.
    pub claimed_crc: Option<u32>,
}

/// Sends a file and waits for its ACK; returns the CRC-32 of the file.
pub async fn send(
    channel: &mut Channel,
    attempt: Attempt,
    observer: &dyn Observer,
) -> Result<u32, Error> {
    let (transfer, claimed) = (attempt.transfer, attempt.claimed_crc);
    observer.step(
        13,
        format_args!("send {} bytes in sealed blocks", attempt.version.len()),
    );
    let crc = match blocks(channel, attempt, observer).await {
        Ok(crc) => crc,
        Err(SendError::Channel(error)) => return Err(last_words(channel, error).await),
        Err(SendError::Peer(error)) => return Err(error),
        Err(SendError::Source(error)) => return Err(give_up(channel, transfer, error).await),
    };
    if let Some(claimed) = claimed.filter(|claimed| *claimed != crc) {
        let sentence = format!("fileCRC is {claimed}, but the file has {crc}");
        let error = Error::new(Code::Integrity, sentence);
        return Err(give_up(channel, transfer, error).await);
    }
    observer.step(14, format_args!("send the CRC-32 of the file, {crc}"));
    let trailer = record::encode_trailer(crc);
    let sent = channel
        .writer
        .record(&mut channel.outgoing, Kind::Trailer, transfer, &trailer)
        .await;
    if let Err(error) = sent {
        return Err(last_words(channel, error).await);
    }
    loop {
        match answer(&mut channel.reader, &mut channel.incoming).await? {
            Answer::Working => {}
            Answer::Ack(of) if of == transfer => return Ok(crc),
            Answer::Error(error) => return Err(error),
            Answer::Ack(_) => return Err(WireError::Record.into()),
        }
    }
}

enum SendError {
    Channel(ChannelError),
    /// The receiver spoke before the file was sent.
    Peer(Error),
    /// The file cannot be read, or is not what it was.
    Source(Error),
}

/// Moves the blocks: buffers come sealed from the other stage and go back empty.
async fn blocks(
    channel: &mut Channel,
    attempt: Attempt,
    observer: &dyn Observer,
) -> Result<u32, SendError> {
    let transfer = attempt.transfer;
    let (spare_in, spare_out) = mpsc::channel::<Vec<u8>>(DEPTH);
    let (full_in, mut full_out) = mpsc::channel::<Sealed>(DEPTH);
    for _ in 0..DEPTH {
        let _ = spare_in.try_send(vec![0; BUFFER]);
    }
    let sealing = task::spawn_blocking(move || seal_all(attempt, spare_out, &full_in));
    let Channel {
        reader,
        writer,
        incoming,
        outgoing,
    } = channel;
    // A receiver that speaks now has something against the file.
    let early = async {
        loop {
            match answer(reader, incoming).await {
                Ok(Answer::Working) => {}
                // Silence is what is expected of a receiver until the end.
                Err(ReadError(ChannelError::Idle(_))) => {}
                Ok(Answer::Error(error)) => return SendError::Peer(error),
                Ok(Answer::Ack(_)) => return SendError::Peer(WireError::Record.into()),
                Err(ReadError(error)) => return SendError::Channel(error),
            }
        }
    };
    let moving = async {
        loop {
            let next = match timeout(WORKING, full_out.recv()).await {
                Ok(next) => next,
                Err(_) => {
                    // The disk lets us wait; the receiver should know that we are there.
                    writer
                        .record(outgoing, Kind::Working, transfer, &[])
                        .await
                        .map_err(SendError::Channel)?;
                    continue;
                }
            };
            let Some(Sealed { buffer, used, body }) = next else {
                return Ok(());
            };
            let bytes = buffer.get(..used).unwrap_or_default();
            writer.bytes(bytes).await.map_err(SendError::Channel)?;
            observer.moved(body);
            // The other stage may be through with the file already.
            let _ = spare_in.try_send(buffer);
        }
    };
    tokio::pin!(early, moving);
    tokio::select! {
        moved = &mut moving => match moved {
            Ok(()) => {}
            Err(error) => {
                // The network often fails because the receiver hung up after a word.
                let word = timeout(LAST_WORDS, early).await;
                return Err(match word {
                    Ok(SendError::Peer(word)) => SendError::Peer(word),
                    _ => error,
                });
            }
        },
        spoken = &mut early => return Err(spoken),
    }
    match sealing.await {
        Ok(crc) => crc.map_err(SendError::Source),
        Err(_) => Err(SendError::Source(Error::new(
            Code::Failed,
            "the reading of the file was stopped",
        ))),
    }
}

/// How long a sender is silent before it says that it goes on.
const WORKING: Duration = Duration::from_secs(15);

/// How long a sender listens for a reason when its connection breaks.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A buffer full of sealed records.
struct Sealed {
    buffer: Vec<u8>,
    used: usize,
    /// Bytes of the file in it.
    body: u64,
}

/// Reads the file to its end and seals it, buffer by buffer; returns its CRC-32.
fn seal_all(
    mut attempt: Attempt,
    mut spare: mpsc::Receiver<Vec<u8>>,
    full: &mpsc::Sender<Sealed>,
) -> Result<u32, Error> {
    let mut crc = crc32fast::Hasher::new();
    let mut left = attempt.version.len();
    let mut last = false;
    while !last {
        // The other side is gone when there are no more buffers.
        let Some(mut buffer) = spare.blocking_recv() else {
            break;
        };
        let (mut used, mut body) = (0, 0);
        while !last {
            let len = usize::try_from(left).unwrap_or(MAX_BODY).min(MAX_BODY);
            let head = Head {
                kind: Kind::Block,
                last: len as u64 == left,
                transfer: attempt.transfer,
                len,
            };
            let Some(space) = buffer.get_mut(used..used + head.record_len()) else {
                break;
            };
            let into = space.get_mut(HEAD_LEN..HEAD_LEN + len).unwrap_or_default();
            attempt.file.read_exact(into).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => changed(),
                _ => Error::new(Code::Failed, format!("cannot read the file: {e}")),
            })?;
            crc.update(into);
            attempt.blocks.seal(head, space).map_err(Error::from)?;
            used += head.record_len();
            body += len as u64;
            left -= len as u64;
            last = head.last;
        }
        if last {
            // Asked before the last block goes out, while all can still be undone.
            unchanged(&mut attempt.file, attempt.version)?;
        }
        let sealed = Sealed { buffer, used, body };
        if full.blocking_send(sealed).is_err() {
            break;
        }
    }
    Ok(crc.finalize())
}

fn unchanged(file: &mut File, version: Version) -> Result<(), Error> {
    let now = Version::of(file)
        .map_err(|e| Error::new(Code::Failed, format!("cannot read the file: {e}")))?;
    if now == version {
        Ok(())
    } else {
        Err(changed())
    }
}

fn changed() -> Error {
    Error::new(
        Code::Failed,
        "the file changed while it was being sent: send it again when it is complete",
    )
}

enum Answer {
    Working,
    Ack(u32),
    Error(Error),
}

struct ReadError(ChannelError);

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        let error = Self::from(error.0);
        error.within("no ACK came")
    }
}

async fn answer(reader: &mut Reader, incoming: &mut Stream) -> Result<Answer, ReadError> {
    let (head, body) = reader.record(incoming).await.map_err(ReadError)?;
    match head.kind {
        Kind::Working => Ok(Answer::Working),
        Kind::Ack if body == record::ACK => Ok(Answer::Ack(head.transfer)),
        Kind::Error => record::decode_error(&body)
            .map(|error| {
                let sentence = printable(&error.sentence, 500);
                Answer::Error(Error::new(error.code, sentence))
            })
            .map_err(|e| ReadError(e.into())),
        _ => Err(ReadError(WireError::Record.into())),
    }
}

/// Tells the receiver that the file will not come, and why.
async fn give_up(channel: &mut Channel, transfer: u32, error: Error) -> Error {
    let body = record::encode_error(&error);
    let _ = channel
        .writer
        .record(&mut channel.outgoing, Kind::Error, transfer, &body)
        .await;
    error
}

/// Looks for what the receiver said before the connection failed.
async fn last_words(channel: &mut Channel, failed: ChannelError) -> Error {
    let heard = timeout(
        LAST_WORDS,
        answer(&mut channel.reader, &mut channel.incoming),
    )
    .await;
    match heard {
        Ok(Ok(Answer::Error(error))) => error,
        _ => Error::from(failed).within("the file was not sent"),
    }
}

const _: () = assert!(BUFFER.is_multiple_of(HEAD_LEN + MAX_BODY + TAG_LEN));
