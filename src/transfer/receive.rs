//! The receiver's half of a transfer: steps 5 to 8, and 15.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::{
    BUFFER, DEPTH, Observer,
    channel::{Batch, ChannelError, Reader, Writer},
    partial::{Partial, Reserved, UnderWay},
    unseal::{Received, Unsealing},
};
use crate::{
    crypto::random,
    error::{Code, Error, printable},
    event::{Event, Kind as EventKind, Outcome, Verdict},
    hooks::Hooks,
    json::Value,
    meta::{FileKey, Meta, PENDING_HOOK, Wire, is_extra},
    root::{
        RootError, config::Config, contact::Contact, folder::Folder, name::Name,
        settings::Settings, user::User,
    },
    store::{Sink, Store},
    wire::{
        WireError,
        record::{self, Kind, Stream},
        session::SessionKeys,
    },
};

/// How often a receiver that is busy tells its sender so.
const WORKING: Duration = Duration::from_secs(5);

/// Makes the store of a folder.
pub type StoreOf = Arc<dyn Fn(&Folder) -> Arc<dyn Store> + Send + Sync>;

/// Receives files into the folders of a root.
#[derive(Clone)]
pub struct Receiver {
    /// Runs hooks.
    pub hooks: Hooks,
    /// Limits.
    pub settings: Settings,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Where contents go.
    pub store_of: StoreOf,
    /// What is in hand.
    pub under_way: UnderWay,
}

/// What was decided about a meta.
pub enum Decision {
    /// The file may come.
    Taken(Box<Arrival>),
    /// It need not, or may not; the reply says so.
    Answered(Box<Wire>),
}

/// A file that may come.
pub struct Arrival {
    /// The meta for the sender, with the key for this attempt.
    pub reply: Wire,
    pub(super) partial: Partial,
    pub(super) sink: Box<dyn Sink>,
    pub(super) expected: u64,
    folder: Folder,
    config: Arc<Config>,
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

fn store_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(
            Code::Later,
            "the receiver has no room for the file, try later",
        ),
        _ => Error::new(
            Code::Later,
            "the receiver cannot store the file now, try later",
        ),
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
    /// Decides about a meta whose sender is certain: stores it, runs `[OnMeta]`.
    pub async fn decide(&self, user: &User, contact: &Contact, meta: Meta) -> Decision {
        match self.consider(user, contact, meta.clone()).await {
            Ok(decision) => decision,
            Err(refusal) => {
                info!(
                    from = %contact.name, to = %user.name(),
                    folder = %printable(&meta.folder, 64),
                    id = meta.id.map(tracing::field::display),
                    "refused: {}", printable(&refusal.sentence, 200)
                );
                Decision::Answered(Box::new(refused(meta, &refusal)))
            }
        }
    }

    async fn consider(
        &self,
        user: &User,
        contact: &Contact,
        mut meta: Meta,
    ) -> Result<Decision, Error> {
        let refuse = |sentence: &str| Error::new(Code::Refused, sentence);
        if meta.from != contact.name.as_str() || meta.to != user.name().as_str() {
            return Err(refuse(
                "from and to must be the names that the header stands for",
            ));
        }
        let size = meta.filesize.ok_or_else(|| refuse("filesize is missing"))?;
        let id = meta.id.ok_or_else(|| refuse("id is missing"))?;
        if meta.datetime.is_empty() {
            return Err(refuse("datetime is missing"));
        }
        if size > self.settings.max_filesize {
            let most = self.settings.max_filesize;
            return Err(refuse(&format!(
                "the file is too large, the receiver takes {most} bytes"
            )));
        }
        meta.error.clear();
        meta.extra.retain(|field, _| is_extra(field));

        let (user, from) = (user.clone(), contact.name.clone());
        let (store_of, under_way) = (self.store_of.clone(), self.under_way.clone());
        let (reserved, folder, config) = on_disk(move || {
            let folder = Name::folder(&meta.folder)
                .map_err(RootError::from)
                .and_then(|name| user.folder(&name))
                .map_err(|e| folder_error(&user, &meta.folder, &e))?;
            let config = folder
                .config()
                .map_err(|e| folder_error(&user, &meta.folder, &e))?;
            let claim = under_way.claim(&folder, &from, id).ok_or_else(|| {
                Error::new(Code::Later, "this transfer is under way already, try later")
            })?;
            let store = store_of(&folder);
            if store.room().is_ok_and(|room| room < size) {
                return Err(store_error(&io::ErrorKind::StorageFull.into()));
            }
            let reserved =
                Partial::reserve(&folder, store, meta, &from, claim).map_err(|e| logged(&e))?;
            Ok((reserved, folder, Arc::new(config)))
        })
        .await?;
        let mut partial = match reserved {
            Reserved::New(partial) => partial,
            Reserved::Delivered(partial) => {
                return self.again(partial, size, &folder, &config).await;
            }
        };
        self.observer.step(
            6,
            format_args!("checked metaCRC, stored {}", partial.subject().meta_file()),
        );

        self.observer.step(7, format_args!("run [OnMeta]"));
        let verdict = self.fire(EventKind::Meta, &folder, &config, &partial).await;
        let meta = verdict
            .meta
            .unwrap_or_else(|| partial.subject().meta.clone());
        if let Some(words) = verdict.outcome.objection() {
            let words = Error::new(Code::Refused, words);
            on_disk(move || partial.refuse(meta).map_err(|e| logged(&e))).await?;
            return Err(words);
        }
        let (partial, sink, reply) = on_disk(move || {
            partial.update(meta).map_err(|e| logged(&e))?;
            let sink = partial.begin().map_err(|e| logged(&e))?;
            let key = random().map_err(|e| Error::new(Code::Later, e.to_string()))?;
            let reply = Wire {
                filekey: Some(FileKey(Zeroizing::new(key))),
                ..Wire::request(partial.subject().meta.clone())
            };
            Ok((partial, sink, reply))
        })
        .await?;
        self.observer
            .step(8, format_args!("made a fresh filekey for this attempt"));
        Ok(Decision::Taken(Box::new(Arrival {
            reply,
            partial,
            sink,
            folder,
            config,
            expected: size,
        })))
    }

    /// Answers for a file that is safe already: its ACK was lost.
    async fn again(
        &self,
        partial: Partial,
        size: u64,
        folder: &Folder,
        config: &Arc<Config>,
    ) -> Result<Decision, Error> {
        let meta = &partial.subject().meta;
        if meta.filesize != Some(size) {
            return Err(Error::new(
                Code::Refused,
                "this transfer was delivered with another size: take the field id out of the .meta to send the file as a new one",
            ));
        }
        info!(
            from = %meta.from, to = %meta.to, folder = %meta.folder,
            stem = %partial.subject().stem,
            id = meta.id.map(tracing::field::display),
            "was delivered before"
        );
        // The server may have gone down between the file and its hooks.
        let meta = match meta.extra.contains_key(PENDING_HOOK) {
            true => self.received(partial, folder, config).await,
            false => meta.clone(),
        };
        let mut reply = Wire::request(meta);
        reply.meta.extra.retain(|field, _| is_extra(field));
        reply.delivered = true;
        Ok(Decision::Answered(Box::new(reply)))
    }

    async fn fire(
        &self,
        kind: EventKind,
        folder: &Folder,
        config: &Arc<Config>,
        partial: &Partial,
    ) -> Verdict {
        let verdict = self
            .hooks
            .fire(Event {
                kind,
                folder: folder.clone(),
                config: config.clone(),
                subject: Some(partial.subject().clone()),
            })
            .await;
        for run in &verdict.runs {
            self.observer.hook(run);
        }
        verdict
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
                while_working(channel, transfer, stored).await
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
                    "received"
                );
                self.observer
                    .step(15, format_args!("the file is safe, answer ACK"));
                channel
                    .writer
                    .record(&mut channel.outgoing, Kind::Ack, transfer, record::ACK)
                    .await?;
                Ok(())
            }
            Err(error) => {
                warn!(
                    from = %meta.from, to = %meta.to, folder = %meta.folder,
                    stem = %subject.stem,
                    id = meta.id.map(tracing::field::display),
                    "not received: {}", printable(&error.to_string(), 300)
                );
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

    /// Moves the blocks: buffers go full to the other stage and come back empty.
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
        let (full_in, full_out) = mpsc::channel::<Batch>(DEPTH);
        let (spare_in, mut spare_out) = mpsc::channel::<Vec<u8>>(DEPTH + 2);
        let incoming = channel.incoming.take().ok_or(ReceiveError::Failed)?;
        let stage = Unsealing::new(incoming, blocks, transfer, arrival, &self.observer);
        let unsealing = task::spawn_blocking(move || stage.run(full_out, &spare_in));
        let reader = &mut *channel.reader;
        let moving = async {
            let mut too_many = Vec::new();
            loop {
                let spare = match spare_out.try_recv() {
                    Ok(buffer) => buffer,
                    Err(_) => vec![0; BUFFER],
                };
                tokio::select! {
                    batch = reader.batch(spare) => match full_in.send(batch?).await {
                        Ok(()) => {}
                        Err(mpsc::error::SendError(mut batch)) => {
                            too_many.extend_from_slice(batch.records());
                            break;
                        }
                    },
                    () = full_in.closed() => break,
                }
            }
            Ok::<_, ChannelError>(too_many)
        };
        let moved = tokio::select! {
            moved = moving => moved.map_err(ReceiveError::from),
            () = stopped(&mut channel.stop) => Err(ReceiveError::GoingDown),
        };
        drop(full_in);
        let (opened, incoming, mut rest) = unsealing.await.map_err(|_| ReceiveError::Failed)?;
        channel.incoming = Some(incoming);
        // What the other stage found comes first: it read what came before.
        let received = match opened {
            Err(None) => return Err(moved.err().unwrap_or(ChannelError::Closed.into())),
            Err(Some(error)) => return Err(error),
            Ok(received) => received,
        };
        if let Ok(too_many) = moved {
            rest.extend(too_many);
        }
        channel.reader.put_back(&rest);
        channel.reader.rest();
        Ok(received)
    }

    /// Makes the file durable, gives it its name, runs `[OnReceived]`.
    async fn store(&self, received: Received) -> Result<u32, ReceiveError> {
        let Received { arrival, crc } = received;
        let Arrival {
            mut partial,
            sink,
            folder,
            config,
            ..
        } = arrival;
        let mut meta = partial.subject().meta.clone();
        meta.file_crc = Some(crc);
        if !config.scripts(EventKind::Received.section()).is_empty() {
            // Should the server end before its hooks have run, this is still there.
            let pending = Value::from(EventKind::Received.section());
            meta.extra.insert(PENDING_HOOK.to_owned(), pending);
        }
        let committed = move || partial.commit(sink, meta).map(|()| partial);
        let partial = task::spawn_blocking(committed)
            .await
            .map_err(|_| ReceiveError::Failed)?
            .map_err(ReceiveError::Store)?;
        self.observer.step(
            15,
            format_args!("CRC-32 matches, stored {}", partial.subject().data_file()),
        );
        self.received(partial, &folder, &config).await;
        Ok(crc)
    }

    /// Runs `[OnReceived]` for a file that is safe, and stores what it wrote; where
    /// it objects, the file stays, marked so that its hooks run again.
    async fn received(&self, mut partial: Partial, folder: &Folder, config: &Arc<Config>) -> Meta {
        let verdict = self
            .fire(EventKind::Received, folder, config, &partial)
            .await;
        let mut meta = verdict
            .meta
            .unwrap_or_else(|| partial.subject().meta.clone());
        meta.error.clear();
        meta.extra.remove(PENDING_HOOK);
        if verdict.outcome != Outcome::Accepted {
            let pending = Value::from(EventKind::Received.section());
            meta.extra.insert(PENDING_HOOK.to_owned(), pending);
        }
        let stored = meta.clone();
        let updated = task::spawn_blocking(move || partial.update(stored)).await;
        if !matches!(updated, Ok(Ok(()))) {
            // The file is delivered all the same.
            error!("cannot store what [OnReceived] wrote into a .meta: {updated:?}");
        }
        meta
    }
}

/// Waits for `work`, and lets the sender know now and then that it goes on.
async fn while_working<T>(
    channel: &mut Channel<'_>,
    transfer: u32,
    work: impl Future<Output = T>,
) -> T {
    let mut tick = interval(WORKING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => {
                // A sender that is gone finds its file delivered when it tries again.
                let _ = channel
                    .writer
                    .record(&mut channel.outgoing, Kind::Working, transfer, &[])
                    .await;
            }
        }
    }
}

/// Returns when the server wants to be gone now.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

/// The meta for a sender whose file is not taken.
pub fn refused(mut meta: Meta, why: &Error) -> Wire {
    meta.error.clone_from(&why.sentence);
    Wire {
        code: why.code.word().to_owned(),
        ..Wire::request(meta)
    }
}

fn folder_error(user: &User, folder: &str, error: &RootError) -> Error {
    match error {
        RootError::NoFolder | RootError::Name(_) => Error::new(Code::Refused, "no such folder"),
        error => {
            error!(user = %user.name(), folder = %printable(folder, 64), "{error}");
            Error::new(Code::Later, "the folder cannot be used now, try later")
        }
    }
}

fn logged(error: &io::Error) -> Error {
    error!("cannot store a file: {error}");
    store_error(error)
}

/// Runs what waits for a disk where waiting holds nobody up.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Code::Failed, "the server failed, try later")),
    }
}
