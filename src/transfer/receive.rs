//! The receiver's half of a transfer: the way of the blocks, and step 15.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tracing::{info, warn};

use super::{
    Ended, Observer, RECEIVE_BUFFER,
    channel::{ChannelError, Reader, Writer},
    decide::{Arrival, store_error},
    partial::{Partial, UnderWay},
    unseal::{Received, Unsealing},
};
use crate::{
    error::{Code, Error, printable},
    event::{Event, Kind as EventKind, Subject, Verdict},
    hooks::{
        dispatch::{Dispatcher, Kept, stopped},
        startup::Startup,
    },
    root::{config::Config, folder::Folder, settings::Settings},
    store::Store,
    wire::{
        WireError,
        record::{self, Kind, Stream},
        session::SessionKeys,
    },
};

/// How often a sender hears that its receiver is still there, at least.
const WORKING: Duration = Duration::from_secs(5);

/// Makes the store of a folder.
pub type StoreOf = Arc<dyn Fn(&Folder) -> Arc<dyn Store> + Send + Sync>;

/// Receives files into the folders of a root.
#[derive(Clone)]
pub struct Receiver {
    /// Fires events.
    pub hooks: Dispatcher,
    /// Knows which folders are closed.
    pub startup: Startup,
    /// Limits.
    pub settings: Settings,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Where contents go.
    pub store_of: StoreOf,
    /// What is in hand.
    pub under_way: UnderWay,
}

/// Why a file did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection failed, or bytes on it were changed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// More or fewer bytes than the meta says.
    #[error("the file has another size than its meta says")]
    Size,
    /// The bytes are not those that the sender read.
    #[error("the CRC-32 of the file is {computed}, the sender says {claimed}")]
    Checksum {
        /// What the sender says.
        claimed: u32,
        /// What arrived.
        computed: u32,
    },
    /// The file cannot be stored.
    #[error("the file cannot be stored: {0}")]
    Store(io::Error),
    /// The sender gave up.
    #[error("the sender gave up: {0}")]
    Sender(Error),
    /// The server goes down.
    #[error("the server is going down")]
    GoingDown,
    /// A thread of the server failed.
    #[error("the server failed while it stored the file")]
    Failed,
}

impl From<WireError> for ReceiveError {
    fn from(error: WireError) -> Self {
        Self::Channel(error.into())
    }
}

impl ReceiveError {
    /// What the sender may know of it; `None` if there is nobody to tell.
    fn for_sender(&self) -> Option<Error> {
        let (code, sentence) = match self {
            Self::Channel(ChannelError::Wire(WireError::Crypto(_))) => (
                Code::Integrity,
                "the bytes were changed on the way".to_owned(),
            ),
            Self::Channel(ChannelError::Wire(_)) => (
                Code::Integrity,
                "a record came that does not belong there".to_owned(),
            ),
            Self::Channel(ChannelError::Idle(_)) => (Code::Later, self.to_string()),
            Self::Channel(_) | Self::Sender(_) => return None,
            Self::Size | Self::Checksum { .. } => (Code::Integrity, self.to_string()),
            Self::Store(error) => return Some(store_error(error)),
            Self::GoingDown => (
                Code::Later,
                "the server is going down, try later".to_owned(),
            ),
            Self::Failed => (Code::Failed, self.to_string()),
        };
        Some(Error::new(code, sentence))
    }
}

/// A connection, from the receiver's side.
pub struct Channel<'a> {
    /// Records from the sender.
    pub reader: &'a mut Reader,
    /// Records to the sender.
    pub writer: &'a mut Writer,
    /// Opens records; away while a file arrives.
    pub incoming: Option<Stream>,
    /// Seals records.
    pub outgoing: Stream,
    /// True when the server wants to be gone now.
    pub stop: watch::Receiver<bool>,
}

impl Receiver {
    pub(super) fn observe(&self, verdict: &Verdict) {
        for run in &verdict.runs {
            self.observer.hook(run);
        }
    }

    /// Receives a file that may come, and answers `ACK` when it is safe.
    ///
    /// After an error the sender was told what it may know, and the session is of
    /// no further use.
    pub async fn receive(
        &self,
        channel: &mut Channel<'_>,
        transfer: u32,
        keys: &SessionKeys,
        arrival: Arrival,
    ) -> Result<(), ReceiveError> {
        let begun = std::time::Instant::now();
        let (subject, size) = (arrival.partial.subject().clone(), arrival.expected);
        let received = self.blocks(channel, transfer, keys, arrival).await;
        let result = match received {
            Ok(done) => {
                let stored = self.store(done);
                while_working(channel, transfer, ticks(&self.settings), stored).await
            }
            Err(e) => Err(e),
        };
        let meta = &subject.meta;
        match result {
            Ok(crc) => {
                let seconds = begun.elapsed().as_secs_f64();
                info!(
                    from = %meta.from, to = %meta.to, folder = %meta.folder,
                    stem = %subject.stem, bytes = size, seconds, crc,
                    id = meta.id.map(tracing::field::display),
                    verdict = %Ended::Received.word(),
                    "received"
                );
                self.observer.ended(Ended::Received);
                self.observer
                    .step(15, format_args!("the file is safe, answer ACK"));
                channel
                    .writer
                    .record(&mut channel.outgoing, Kind::Ack, transfer, record::ACK)
                    .await?;
                Ok(())
            }
            Err(error) => {
                self.not_received(&subject, begun, &error);
                if let Some(told) = error.for_sender() {
                    let body = record::encode_error(&told);
                    let _ = channel
                        .writer
                        .record(&mut channel.outgoing, Kind::Error, transfer, &body)
                        .await;
                }
                Err(error)
            }
        }
    }

    /// Takes notice that a file which may come will not, before it began: its sender
    /// could not be told.
    pub fn unanswered(&self, arrival: &Arrival, error: &ChannelError) {
        self.not_received(arrival.partial.subject(), std::time::Instant::now(), error);
    }

    fn not_received(
        &self,
        subject: &Subject,
        begun: std::time::Instant,
        error: &dyn std::error::Error,
    ) {
        let meta = &subject.meta;
        warn!(
            from = %meta.from, to = %meta.to, folder = %meta.folder,
            stem = %subject.stem, bytes = meta.filesize,
            seconds = begun.elapsed().as_secs_f64(),
            id = meta.id.map(tracing::field::display),
            verdict = %Ended::Failed.word(),
            "not received: {}", printable(&error.to_string(), 300)
        );
        self.observer.ended(Ended::Failed);
    }

    /// Moves the blocks: while one buffer is read into, the other stage works on the
    /// one before. A thread is taken for as long as a buffer takes, not for as long as
    /// a file does, so that slow senders hold none.
    async fn blocks(
        &self,
        channel: &mut Channel<'_>,
        transfer: u32,
        keys: &SessionKeys,
        arrival: Arrival,
    ) -> Result<Received, ReceiveError> {
        let meta = &arrival.partial.subject().meta;
        let (Some(filekey), Some(id)) = (&arrival.reply.filekey, &meta.id) else {
            return Err(ReceiveError::Failed);
        };
        let blocks = Stream::new(&keys.file_key(filekey, id))?;
        let incoming = channel.incoming.take().ok_or(ReceiveError::Failed)?;
        let mut stage = Some(Unsealing::new(
            incoming,
            blocks,
            transfer,
            arrival,
            &self.observer,
        ));
        let mut work = None;
        // Why nothing more is read; what has come is looked at all the same.
        let mut ended = None;
        let mut tick = ticks(&self.settings);
        channel.reader.widen(RECEIVE_BUFFER);
        let (stage, error) = loop {
            if let Some(mut idle) = stage.take() {
                match (channel.reader.take(), ended.take()) {
                    (Ok(Some(mut batch)), reason) => {
                        ended = reason;
                        work = Some(task::spawn_blocking(move || {
                            let result = idle.batch(&mut batch);
                            (idle, batch, result)
                        }));
                    }
                    (Ok(None), None) => stage = Some(idle),
                    (Ok(None), Some(reason)) => break (idle, reason),
                    (Err(error), _) => break (idle, error.into()),
                }
            }
            tokio::select! {
                read = channel.reader.more(), if ended.is_none() && channel.reader.has_room() => {
                    ended = read.err().map(ReceiveError::from);
                }
                done = join(&mut work) => {
                    work = None;
                    let (back, mut batch, result) = done.ok_or(ReceiveError::Failed)?;
                    let (crc, behind) = match result {
                        Ok(Some(end)) => end,
                        Ok(None) => {
                            stage = Some(back);
                            channel.reader.recycle(batch);
                            continue;
                        }
                        Err(error) => break (back, error),
                    };
                    // What came behind the trailer is for whoever reads next.
                    let from = batch.len().saturating_sub(behind);
                    let rest = batch.records().get(from..).unwrap_or_default();
                    channel.reader.put_back(rest);
                    channel.reader.narrow();
                    let (received, incoming) = back.finish(crc);
                    channel.incoming = Some(incoming);
                    return Ok(received);
                }
                // A sender whose last bytes are still on a slow way hears from us.
                _ = tick.tick(), if ended.is_none() => working(channel, transfer).await,
                () = stopped(&mut channel.stop), if ended.is_none() => {
                    ended = Some(ReceiveError::GoingDown);
                }
            }
        };
        // The hidden file goes before the sender hears of it, and may be large.
        let _ = task::spawn_blocking(move || drop(stage)).await;
        Err(error)
    }

    /// Makes the file durable, gives it its name, runs `[OnReceived]`.
    async fn store(&self, received: Received) -> Result<u32, ReceiveError> {
        let Received { arrival, crc } = received;
        let Arrival {
            mut partial,
            sink,
            folder,
            config,
            pinned,
            ..
        } = arrival;
        let mut meta = partial.subject().meta.clone();
        meta.file_crc = Some(crc);
        // Written down while the disk takes the file: should the server end before the
        // hooks have run, they run when it starts again.
        let received = event(EventKind::Received, &folder, &config, &partial);
        let (kept, written) = self.hooks.keep(received, pinned).unzip();
        let committed = move || {
            let result = partial
                .settle(sink, written)
                .and_then(|()| partial.commit(meta));
            (result, partial)
        };
        let (result, partial) = task::spawn_blocking(committed)
            .await
            .map_err(|_| ReceiveError::Failed)?;
        if let Err(error) = result {
            if let Some(kept) = kept {
                self.hooks.forget(kept);
            }
            return Err(ReceiveError::Store(error));
        }
        self.observer.step(
            15,
            format_args!("CRC-32 matches, stored {}", partial.subject().data_file()),
        );
        self.received(&partial, kept).await;
        Ok(crc)
    }

    /// Runs `[OnReceived]` for a file that is safe. Where it objects, the file stays,
    /// marked, and its hooks run again.
    async fn received(&self, partial: &Partial, kept: Option<Kept>) {
        match kept {
            Some(mut kept) => {
                kept.event_mut().subject = Some(partial.subject().clone());
                let verdict = self.hooks.settle(kept).await;
                self.observe(&verdict);
            }
            None => {
                self.hooks
                    .hide_if_asked(partial.folder(), partial.subject())
                    .await
            }
        }
    }
}

/// The event of a file on its way in.
pub(super) fn event(
    kind: EventKind,
    folder: &Folder,
    config: &Arc<Config>,
    partial: &Partial,
) -> Event {
    Event {
        id: partial.id().into(),
        kind,
        folder: folder.clone(),
        config: config.clone(),
        file: Some(partial.subject().data_file()),
        subject: Some(partial.subject().clone()),
    }
}

/// Waits for the other stage; for ever if it does nothing.
async fn join<T>(work: &mut Option<task::JoinHandle<T>>) -> Option<T> {
    match work {
        Some(work) => work.await.ok(),
        None => std::future::pending().await,
    }
}

/// When to tell a sender that its receiver goes on: well within its patience, which
/// is taken to be like the own.
fn ticks(settings: &Settings) -> Interval {
    let every = WORKING.min(settings.idle_deadline / 3);
    let mut tick = interval_at(Instant::now() + every, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

async fn working(channel: &mut Channel<'_>, transfer: u32) {
    // A sender that is gone finds its file delivered when it tries again.
    let _ = channel
        .writer
        .record(&mut channel.outgoing, Kind::Working, transfer, &[])
        .await;
}

/// Waits for `work`, and lets the sender know now and then that it goes on.
async fn while_working<T>(
    channel: &mut Channel<'_>,
    transfer: u32,
    mut tick: Interval,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => working(channel, transfer).await,
        }
    }
}
