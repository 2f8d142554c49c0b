//! The receiver's half of a session: the way of the records, and step 15. What a contact
//! asks for in it goes through `requests`.

mod requests;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    task,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tracing::{info, warn};

use super::{
    Ended, LARGE_FILE, LARGE_RECEIVE_BUFFER, Observer, RECEIVE_BUFFER,
    channel::{ChannelError, Reader, Writer},
    commit::{Committer, Whole},
    decide::{Arrival, Decision, FILES, refused, store_error},
    intake::{self, Arriving, DIGEST_LEN},
    lane::Lane,
    partial::{Partial, UnderWay},
    supply::{Made, Supply},
};
use crate::{
    crypto::seal::Key,
    error::{Code, Error, printable},
    event::{Event, Kind as EventKind, Subject, Verdict},
    files::service::{Answer, Fetched, Listing, exists},
    hooks::{
        dispatch::{Dispatcher, Kept, asked_of, stopped},
        startup::Startup,
    },
    meta::{Meta, Wire},
    root::{
        config::Config, destination::Destination, folder::Folder, name::Name, settings::Settings,
        user::User,
    },
    wire::{
        WireError,
        record::{self, Kind, MAX_BODY, MAX_RECORD, Stream},
        request::Reply,
        session::{Direction, SessionKeys},
    },
};

/// What there is of a file that somebody sends.
type Incoming = intake::Incoming<Arrival>;
type Intake = intake::Intake<Arrival>;
type News = intake::News<Arrival>;
type Received = intake::Received<Arrival>;

/// How often a sender hears that its receiver is still there, at least.
const WORKING: Duration = Duration::from_secs(5);

/// Bytes of records for the sender up to which more is taken from it: one that asks and
/// asks and does not read the answers has to wait.
const UNREAD: usize = 1 << 20;

/// Makes the store of a folder.
pub use crate::store::StoreOf;

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
    /// Makes files safe.
    pub committer: Committer,
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
    /// The path that its sender wants for it has another file by now.
    #[error("there is another file at its path by now")]
    Taken,
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
    /// Whether the next attempt may go on where this one broke off: what has arrived so
    /// far is what was sent.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Channel(_) | Self::GoingDown | Self::Failed => true,
            Self::Sender(error) => error.code == Code::Later || error.code == Code::Interrupted,
            // A disk that is full needs the room.
            Self::Store(error) => !matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Size | Self::Checksum { .. } | Self::Taken => false,
        }
    }

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
            Self::Taken => return Some(exists()),
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
    /// True when the server goes down: what is under way may finish.
    pub shutdown: watch::Receiver<bool>,
    /// True when the server wants to be gone now.
    pub stop: watch::Receiver<bool>,
}

/// The records of a session, from the receiver's side.
struct Session<'a> {
    receiver: &'a Arc<Receiver>,
    keys: &'a SessionKeys,
    user: &'a User,
    from: &'a Name,
    /// Seals records.
    outgoing: Stream,
    /// Sealed records that wait to be written.
    out: Vec<u8>,
    /// Bytes of each buffer that the records come into.
    buffer: usize,
    granted: intake::Granted<Arrival>,
    /// Transfers that have not had their last word.
    active: HashSet<u32>,
    /// The highest number that a transfer of this session has had.
    highest: Option<u32>,
    /// Files that the sender may go on with.
    resuming: HashMap<u32, Resuming>,
    /// Requests that are being answered, and whether the client has given them up since.
    answering: HashMap<u32, bool>,
    /// Listings of which more has to be said.
    listings: VecDeque<(u32, Box<Listing>)>,
    /// Parts of listings, with more behind them, that were not acknowledged.
    unread: HashMap<u32, usize>,
    /// Files that go out.
    supply: Supply,
    /// Those of them that have not had their last word.
    fetched: HashMap<u32, requests::Fetch>,
    /// Blocks that are being written, and how far.
    bulk: Option<(Made, usize)>,
    tasks: Tasks,
    lane: Lane,
}

/// What goes on beside the records. It is all done within the task of the session: of many
/// small files each one's steps are so short that to hand them to another thread, and to be
/// woken by it, takes longer.
#[derive(Default)]
struct Tasks(FuturesUnordered<BoxFuture<'static, Option<Done>>>);

impl Tasks {
    fn spawn(&self, work: impl Future<Output = Done> + Send + 'static) {
        // At once: it is some kilobytes, and each layer around it would move them.
        let work = Box::pin(work);
        self.0.push(
            AssertUnwindSafe(work)
                .catch_unwind()
                .map(Result::ok)
                .boxed(),
        );
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next that is done, or has panicked; `None` if nothing goes on.
    async fn next(&mut self) -> Option<Option<Done>> {
        self.0.next().await
    }

    /// [`Self::next`], if there is one already.
    fn ready(&mut self) -> Option<Option<Done>> {
        self.next().now_or_never().flatten()
    }
}

/// A file of which a part is there.
#[derive(Default)]
struct Resuming {
    /// What the sender says of that part.
    theirs: Option<[u8; DIGEST_LEN]>,
    ours: Option<Box<Prefix>>,
}

/// The part of a file that is there.
struct Prefix {
    arrival: Arrival,
    /// What it is, where it could be read.
    read: Option<([u8; DIGEST_LEN], crc32fast::Hasher)>,
}

/// What was done beside the records.
enum Done {
    Decided(u32, Decision),
    /// A file was stored, or was not.
    Stored(u32, Box<Stored>),
    Digested(u32, Result<Box<Prefix>, task::JoinError>),
    /// It comes from its beginning.
    Ready(u32, Result<Box<Incoming>, io::Error>),
    /// A request was answered, or a part of a listing is there.
    Answered(u32, Result<Answer, Error>),
    /// A file that was asked for is there, with the key for its blocks.
    Found(u32, Box<Fetched>, Key),
}

struct Stored {
    subject: Subject,
    begun: std::time::Instant,
    result: Result<Safe, ReceiveError>,
}

/// A file that is safe.
struct Safe {
    crc: u32,
    /// What is said of one that was put somewhere.
    reply: Option<Reply>,
}

impl Receiver {
    pub(crate) fn observe(&self, verdict: &Verdict) {
        for run in &verdict.runs {
            self.observer.hook(run);
        }
    }

    /// Receives files in a session until the sender closes it: first the one of the
    /// opening, if that may come, then those of further metas. Each is answered with `ACK`
    /// when it is safe.
    ///
    /// After an error the sender was told what it may know, and the session is of no
    /// further use. What was under way is stored, or waits for the next attempt.
    pub async fn session(
        self: &Arc<Self>,
        channel: &mut Channel<'_>,
        keys: &SessionKeys,
        (user, from): (&User, &Name),
        first: Option<Arrival>,
    ) -> Result<(), ReceiveError> {
        let granted = intake::Granted::default();
        let intake = Intake::of_server(Stream::new(&keys.client)?, granted.clone(), &self.observer);
        let mut session = Session {
            receiver: self,
            keys,
            user,
            from,
            outgoing: Stream::new(&keys.server)?,
            out: Vec::new(),
            buffer: MAX_RECORD,
            granted,
            active: HashSet::new(),
            highest: None,
            resuming: HashMap::new(),
            answering: HashMap::new(),
            listings: VecDeque::new(),
            unread: HashMap::new(),
            supply: Supply::default(),
            fetched: HashMap::new(),
            bulk: None,
            tasks: Tasks::default(),
            lane: Lane::default(),
        };
        if let Some(arrival) = first {
            session.active.insert(0);
            session.highest = Some(0);
            session.grant(0, arrival)?;
        }
        let (intake, error) = session.run(channel, intake).await;
        // Files that are being stored are stored; hidden ones may be large.
        let result = session.end(channel, error.as_ref()).await;
        let why = error.unwrap_or(ReceiveError::GoingDown);
        if let Some(intake) = intake {
            let ending = move || {
                intake.end_all(&why);
                why
            };
            let _ = task::spawn_blocking(ending).await;
        }
        result
    }

    fn log_received(&self, stored: &Stored) {
        let Stored {
            subject,
            begun,
            result,
        } = stored;
        let (crc, path) = match result {
            Ok(Safe { crc, reply }) => (crc, reply.as_ref().and_then(Reply::path)),
            Err(error) => return not_received(&*self.observer, subject, *begun, error),
        };
        let meta = &subject.meta;
        info!(
            from = %meta.from, to = %meta.to, folder = %meta.folder,
            stem = %subject.stem, path = path.map(|path| printable(path, 200)),
            bytes = meta.filesize, seconds = begun.elapsed().as_secs_f64(), crc,
            id = meta.id.map(tracing::field::display),
            verdict = %Ended::Received.word(),
            "received"
        );
        self.observer.ended(Ended::Received);
    }

    /// Makes the file durable, gives it its name, runs `[OnReceived]`.
    async fn store(&self, received: Received) -> Result<Safe, ReceiveError> {
        let Received { arrival, crc, .. } = received;
        let Arrival {
            partial,
            sink,
            folder,
            config,
            pinned,
            ..
        } = arrival;
        let mut meta = partial.subject().meta.clone();
        meta.file_crc = Some(crc);
        let received = event(EventKind::Received, &folder, &config, &partial);
        let kept = self.hooks.keep(received, pinned, partial.key());
        let destination = Destination::of(&meta);
        if let Some(destination) = &destination
            && let [name] = destination.path.components()
        {
            self.hooks.self_changes().arrives(&folder, &config, name);
        }
        let goes_there = kept.is_none() && Destination::open(&meta).is_some();
        let sink = sink.ok_or(ReceiveError::Failed)?;
        let whole = Whole {
            partial,
            sink,
            meta,
            owed: kept.is_some(),
        };
        let committed = self.committer.commit(whole).await;
        let (partial, named) = committed.ok_or(ReceiveError::Failed)?;
        if let Err(error) = named {
            let error = match error.kind() {
                io::ErrorKind::AlreadyExists if goes_there => ReceiveError::Taken,
                _ => ReceiveError::Store(error),
            };
            return Err(self.not_stored(partial, error).await);
        }
        self.observer.step(
            15,
            format_args!("CRC-32 matches, stored {}", partial.subject().data_file()),
        );
        if let (Some(path), Some(destination)) = (partial.placed(), &destination)
            && !path.contains('/')
            && path != destination.path.join()
        {
            // It got a number.
            self.hooks.self_changes().arrives(&folder, &config, path);
        }
        let placed = self.received(&partial, kept).await;
        let path = partial.placed().map(str::to_owned).or(placed);
        let reply = destination.map(|_| match path {
            Some(path) => Reply::Stored {
                path: format!("{}/{path}", folder.name()),
                same: false,
            },
            // Its receiver's hooks have it.
            None => Reply::Done,
        });
        Ok(Safe { crc, reply })
    }

    /// Leaves a file that could not be stored.
    async fn not_stored(&self, partial: Partial, error: ReceiveError) -> ReceiveError {
        let passing = error.is_passing();
        let leaving = move || match passing {
            true => partial.break_off(),
            false => drop(partial),
        };
        let _ = task::spawn_blocking(leaving).await;
        error
    }

    /// Runs `[OnReceived]` for a file that is safe. Where it objects, the file stays,
    /// marked, and its hooks run again. Returns the path that it got, if its sender wanted
    /// one.
    async fn received(&self, partial: &Partial, kept: Option<Kept>) -> Option<String> {
        match kept {
            Some(mut kept) => {
                kept.event_mut().subject = Some(partial.subject().clone());
                let verdict = self.hooks.run_kept(kept).await;
                self.observe(&verdict);
                verdict.placed
            }
            None => {
                self.hooks
                    .hide_if_asked(partial.folder(), partial.subject())
                    .await;
                None
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
        asked: asked_of(&partial.subject().meta),
    }
}

impl Session<'_> {
    /// Lets the blocks of a file come, or first the digest of what is there.
    fn grant(&mut self, transfer: u32, arrival: Arrival) -> Result<(), ReceiveError> {
        let fitting = match arrival.expected {
            LARGE_FILE.. => LARGE_RECEIVE_BUFFER,
            n if n > MAX_BODY as u64 => RECEIVE_BUFFER,
            _ => MAX_RECORD,
        };
        self.buffer = self.buffer.max(fitting);
        if arrival.held == 0 {
            let incoming = self.incoming(transfer, arrival, 0, crc32fast::Hasher::new())?;
            self.granted.insert(transfer, Box::new(incoming));
            return Ok(());
        }
        self.resuming.insert(transfer, Resuming::default());
        self.tasks.spawn(async move {
            let digesting = task::spawn_blocking(move || {
                let read = arrival.partial.digest(arrival.held).ok();
                Box::new(Prefix { arrival, read })
            });
            Done::Digested(transfer, digesting.await)
        });
        Ok(())
    }

    /// Opens a transfer. Its number must be above every earlier one: a number that comes
    /// twice would derive a block key twice.
    fn begin(&mut self, transfer: u32) -> Result<(), ReceiveError> {
        let full = self.active.len() >= FILES as usize;
        if full || self.highest >= Some(transfer) {
            return Err(WireError::Record.into());
        }
        self.highest = Some(transfer);
        self.active.insert(transfer);
        Ok(())
    }

    fn incoming(
        &self,
        transfer: u32,
        arrival: Arrival,
        received: u64,
        crc: crc32fast::Hasher,
    ) -> Result<Incoming, ReceiveError> {
        let meta = &arrival.partial.subject().meta;
        let (Some(filekey), Some(id)) = (&arrival.reply.filekey, &meta.id) else {
            return Err(ReceiveError::Failed);
        };
        let blocks = Stream::new(
            &self
                .keys
                .block_key(filekey, id, Direction::ToServer, transfer),
        )?;
        Ok(Incoming::new(blocks, arrival, received, crc))
    }

    /// Lets the blocks come when both sides have told what they have.
    fn resume(&mut self, transfer: u32) -> Result<(), ReceiveError> {
        let Some(resuming) = self.resuming.get_mut(&transfer) else {
            return Ok(());
        };
        let Some(theirs) = resuming.theirs else {
            return Ok(());
        };
        let Some(prefix) = resuming.ours.take() else {
            return Ok(());
        };
        self.resuming.remove(&transfer);
        let Prefix { arrival, read } = *prefix;
        if let Some((_, crc)) = read.filter(|(ours, _)| *ours == theirs) {
            let held = arrival.held;
            let incoming = self.incoming(transfer, arrival, held, crc)?;
            self.granted.insert(transfer, Box::new(incoming));
            return self.say(Kind::Resume, transfer, &record::encode_offset(held));
        }
        // Another file, or bytes that were never flushed or cannot be read: from the beginning.
        let mut incoming = self.incoming(transfer, arrival, 0, crc32fast::Hasher::new())?;
        self.tasks.spawn(async move {
            let beginning = task::spawn_blocking(move || {
                incoming.arrival_mut().begin_again()?;
                Ok(Box::new(incoming))
            });
            let ready = beginning.await.unwrap_or_else(|e| Err(io::Error::other(e)));
            Done::Ready(transfer, ready)
        });
        Ok(())
    }

    /// Seals a record, to be written with others.
    fn say(&mut self, kind: Kind, transfer: u32, body: &[u8]) -> Result<(), ReceiveError> {
        let record = self.outgoing.record(kind, transfer, body)?;
        self.out.extend(record);
        Ok(())
    }

    /// The last word of a transfer that failed.
    fn fail(&mut self, transfer: u32, error: &ReceiveError) -> Result<(), ReceiveError> {
        self.active.remove(&transfer);
        match error.for_sender() {
            Some(told) => self.say(Kind::Error, transfer, &record::encode_error(&told)),
            None => Ok(()),
        }
    }

    /// Moves the records: while one buffer is read into, the other stage works on the one
    /// before. A thread is taken for as long as a buffer takes, not for as long as a file
    /// does, so that slow senders hold none. Ends with why the session is over; without
    /// an error when the sender closed it.
    async fn run(
        &mut self,
        channel: &mut Channel<'_>,
        intake: Intake,
    ) -> (Option<Intake>, Option<ReceiveError>) {
        let mut stage = Some(intake);
        let mut work = None;
        let mut written = 0;
        // Why nothing more is read; what has come is looked at all the same.
        let mut ended = None;
        let mut closing = false;
        let mut tick = ticks(&self.receiver.settings);
        channel.reader.widen(self.buffer);
        loop {
            let listens = self.out.len() < UNREAD || ended.is_some();
            if let Some(mut idle) = stage.take_if(|_| listens) {
                match channel.reader.take() {
                    Ok(Some(mut batch)) => {
                        work = Some(task::spawn_blocking(move || {
                            let mut news = Vec::new();
                            let result = idle.batch(&mut batch, &mut news);
                            (idle, batch, news, result)
                        }));
                    }
                    Ok(None) if ended.is_some() => return (Some(idle), ended),
                    Ok(None) => stage = Some(idle),
                    Err(error) => return (Some(idle), Some(error.into())),
                }
            }
            self.supply.proceed();
            self.list_on();
            let at_rest = self.active.is_empty() && work.is_none() && self.is_written();
            if at_rest {
                if closing || *channel.shutdown.borrow() {
                    return (stage, None);
                }
                channel.reader.narrow();
                self.lane.rest();
                self.supply.rest();
                self.buffer = MAX_RECORD;
            }
            let pending = match &self.bulk {
                Some((made, at)) => made.buffer.get(*at..made.used),
                None => self.out.get(written..),
            }
            .unwrap_or_default();
            let Channel {
                reader,
                writer,
                shutdown,
                stop,
            } = channel;
            let outcome = tokio::select! {
                read = reader.more(), if ended.is_none() && reader.has_room() => match read {
                    // It waits for us, and need not say so.
                    Err(ChannelError::Idle(_)) if !self.tasks.is_empty() => {
                        reader.touch();
                        Ok(())
                    }
                    read => {
                        ended = read.err().map(ReceiveError::from);
                        if self.granted.any() {
                            reader.widen(self.buffer);
                        }
                        Ok(())
                    }
                },
                done = join(&mut work) => {
                    work = None;
                    let Some((back, batch, news, result)) = done else {
                        return (None, Some(ReceiveError::Failed));
                    };
                    reader.recycle(batch);
                    stage = Some(back);
                    // What was told before a fault holds.
                    self.take_all(news, &mut closing).and(result)
                }
                Some(done) = self.tasks.next() => {
                    let mut result = self.finish(done);
                    while result.is_ok()
                        && let Some(done) = self.tasks.ready()
                    {
                        result = self.finish(done);
                    }
                    result
                }
                wrote = writer.some(pending), if !pending.is_empty() => {
                    match (&mut self.bulk, wrote) {
                        // To make more of a file for nobody is in vain.
                        (Some(_), Err(error)) => {
                            ended = Some(error.into());
                            self.bulk = None;
                        }
                        // Who cannot be told finds its file delivered when it tries again.
                        (None, Err(_)) => written = self.out.len(),
                        (None, Ok(more)) => written += more,
                        (Some((made, at)), Ok(more)) => {
                            *at += more;
                            if *at == made.used
                                && let Some((made, _)) = self.bulk.take()
                            {
                                self.supply.recycle(made.buffer);
                            }
                        }
                    }
                    if written == self.out.len() {
                        self.out.clear();
                        written = 0;
                    }
                    Ok(())
                }
                made = self.supply.next(), if pending.is_empty() => self.made(made),
                // A sender whose last bytes are still on a slow way hears from us.
                _ = tick.tick(), if ended.is_none() => match self.active.iter().next() {
                    Some(transfer) => self.say(Kind::Working, *transfer, &[]),
                    None => Ok(()),
                },
                () = stopped(shutdown), if at_rest && ended.is_none() => return (stage, None),
                () = stopped(stop), if ended.is_none() => {
                    ended = Some(ReceiveError::GoingDown);
                    Ok(())
                }
            };
            if let Err(error) = outcome {
                if let Some(work) = work.take()
                    && let Ok((back, _, news, _)) = work.await
                {
                    self.leave_all(news);
                    stage = Some(back);
                }
                return (stage, Some(error));
            }
        }
    }

    /// What records brought, up to the first thing that does not belong there.
    fn take_all(&mut self, news: Vec<News>, closing: &mut bool) -> Result<(), ReceiveError> {
        let mut news = news.into_iter();
        let result = news.try_for_each(|news| self.take(news, closing));
        self.leave_all(news);
        result
    }

    /// What came behind the end of the session: the next attempt goes on with it.
    fn leave_all(&self, news: impl IntoIterator<Item = News>) {
        for news in news {
            if let News::Complete(_, received) = news {
                self.leave(received.arrival);
            }
        }
    }

    /// What records brought.
    fn take(&mut self, news: News, closing: &mut bool) -> Result<(), ReceiveError> {
        match news {
            News::Meta(transfer, json) => {
                self.begin(transfer)?;
                let (receiver, user) = (self.receiver.clone(), self.user.clone());
                let (from, lane) = (self.from.clone(), self.lane.clone());
                lane.is_a_crowd();
                self.buffer = self.buffer.max(RECEIVE_BUFFER);
                self.tasks.spawn(async move {
                    let decision = match read_request(&json) {
                        Ok(asked) => receiver.decide(&lane, &user, &from, asked, None).await,
                        Err(error) => {
                            let meta = Meta::new(from.as_str(), user.name().as_str(), "", "");
                            Decision::Answered(Box::new(refused(meta, &error)))
                        }
                    };
                    Done::Decided(transfer, decision)
                });
            }
            News::Prefix(transfer, digest) => {
                let Some(resuming) = self.resuming.get_mut(&transfer) else {
                    return Err(WireError::Record.into());
                };
                resuming.theirs = Some(digest);
                self.resume(transfer)?;
            }
            News::Complete(transfer, received) => {
                let receiver = self.receiver.clone();
                self.tasks.spawn(async move {
                    let subject = received.arrival.partial.subject().clone();
                    let begun = received.arrival.begun;
                    let result = receiver.store(*received).await;
                    let stored = Box::new(Stored {
                        subject,
                        begun,
                        result,
                    });
                    Done::Stored(transfer, stored)
                });
            }
            News::Over(transfer, error) => self.fail(transfer, &error)?,
            News::Request(transfer, body) => self.request(transfer, &body)?,
            News::Acked(transfer) => self.acked(transfer)?,
            News::Reply(..) => return Err(WireError::Record.into()),
            News::GivenUp(transfer, _) => {
                self.given_up(transfer)?;
                if let Some(resuming) = self.resuming.remove(&transfer) {
                    // It was not looked at: the next attempt goes on with it.
                    if let Some(prefix) = resuming.ours {
                        self.leave(prefix.arrival);
                    }
                    self.active.remove(&transfer);
                }
            }
            News::Unknown(transfer) => {
                let error = Error::new(Code::Failed, "this server does not know that request");
                self.say(Kind::Error, transfer, &record::encode_error(&error))?;
            }
            News::Close => *closing = true,
        }
        Ok(())
    }

    /// What was done beside the records.
    fn finish(&mut self, done: Option<Done>) -> Result<(), ReceiveError> {
        match done.ok_or(ReceiveError::Failed)? {
            Done::Decided(transfer, decision) => {
                if self.answering.remove(&transfer) == Some(true) {
                    if let Decision::Taken(arrival) = decision {
                        self.leave(*arrival);
                    }
                    return self.let_go(transfer);
                }
                let mut json = decision.reply().to_json();
                if json.len() > MAX_BODY {
                    // What hooks added does not fit; the sender can do without.
                    let mut reply = decision.reply().clone();
                    reply.meta.extra.clear();
                    json = reply.to_json();
                }
                match decision {
                    Decision::Taken(arrival) => self.grant(transfer, *arrival)?,
                    Decision::Answered(_) => {
                        self.active.remove(&transfer);
                    }
                }
                self.say(Kind::Answer, transfer, json.as_bytes())
            }
            Done::Stored(transfer, stored) => {
                self.receiver.log_received(&stored);
                match &stored.result {
                    Ok(safe) => {
                        self.receiver
                            .observer
                            .step(15, format_args!("the file is safe, answer ACK"));
                        self.active.remove(&transfer);
                        match &safe.reply {
                            None => self.say(Kind::Ack, transfer, record::ACK),
                            Some(reply) => self.say(Kind::Reply, transfer, &reply.to_body()),
                        }
                    }
                    Err(error) => self.fail(transfer, error),
                }
            }
            Done::Digested(transfer, Ok(prefix)) => {
                match self.resuming.get_mut(&transfer) {
                    Some(resuming) => resuming.ours = Some(prefix),
                    // Given up meanwhile.
                    None => self.leave(prefix.arrival),
                }
                self.resume(transfer)
            }
            Done::Ready(transfer, Ok(incoming)) => {
                self.granted.insert(transfer, incoming);
                self.say(Kind::Resume, transfer, &record::encode_offset(0))
            }
            Done::Answered(transfer, answer) => self.answered(transfer, answer),
            Done::Found(transfer, found, key) => self.found(transfer, *found, &key),
            Done::Digested(_, Err(_)) => Err(ReceiveError::Failed),
            Done::Ready(transfer, Err(error)) => self.fail(transfer, &ReceiveError::Store(error)),
        }
    }

    fn is_written(&self) -> bool {
        self.out.is_empty() && self.bulk.is_none()
    }

    fn leave(&self, arrival: Arrival) {
        task::spawn_blocking(move || arrival.end(&ReceiveError::GoingDown));
    }

    /// Waits for what is being stored, and tells the sender the rest.
    async fn end(
        mut self,
        channel: &mut Channel<'_>,
        error: Option<&ReceiveError>,
    ) -> Result<(), ReceiveError> {
        while let Some(done) = self.tasks.next().await {
            match done {
                // Nobody waits for it any more.
                Some(Done::Decided(_, Decision::Taken(arrival))) => self.leave(*arrival),
                Some(Done::Digested(_, Ok(prefix))) => self.leave(prefix.arrival),
                Some(Done::Ready(_, Ok(incoming))) => self.leave(incoming.into_arrival()),
                Some(done @ Done::Stored(..)) => self.finish(Some(done))?,
                _ => {}
            }
        }
        for (_, resuming) in std::mem::take(&mut self.resuming) {
            if let Some(prefix) = resuming.ours {
                self.leave(prefix.arrival);
            }
        }
        if let Some(error) = error {
            // A sender that has every answer may just go.
            let gone = matches!(error, ReceiveError::Channel(ChannelError::Closed));
            if !gone || !self.active.is_empty() {
                info!(from = %self.from, to = %self.user.name(),
                    transfers = self.active.len(),
                    "session ended: {}", printable(&error.to_string(), 300));
            }
            for transfer in std::mem::take(&mut self.active) {
                self.fail(transfer, error)?;
            }
        }
        channel.writer.bytes(&self.out).await?;
        Ok(())
    }
}

/// Reads the body of a further meta.
fn read_request(json: &[u8]) -> Result<Wire, Error> {
    Wire::from_json(json).map_err(|e| {
        let why = printable(&e.to_string(), 300);
        Error::new(Code::Failed, format!("the metadata cannot be read: {why}"))
    })
}

/// Takes notice of a file that may come and did not.
pub(super) fn not_received(
    observer: &dyn Observer,
    subject: &Subject,
    begun: std::time::Instant,
    why: &ReceiveError,
) {
    let meta = &subject.meta;
    warn!(
        from = %meta.from, to = %meta.to, folder = %meta.folder,
        stem = %subject.stem, bytes = meta.filesize,
        seconds = begun.elapsed().as_secs_f64(),
        id = meta.id.map(tracing::field::display),
        verdict = %Ended::Failed.word(),
        "not received: {}", printable(&why.to_string(), 300)
    );
    observer.ended(Ended::Failed);
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
